/*
 * front_worker.h
 *	  The process that serves HTTP.
 */
#ifndef COUPON_FRONT_WORKER_H
#define COUPON_FRONT_WORKER_H

/* Registers the workers that coupon.http_workers asks for, while preloading. */
extern void coupon_front_register(void);

#endif							/* COUPON_FRONT_WORKER_H */
