/*
 * room_worker.h
 *	  The worker that serves the waiting rooms.
 */
#ifndef COUPON_ROOM_WORKER_H
#define COUPON_ROOM_WORKER_H

#include "base/worker.h"

extern const CouponWorkerKind coupon_room_worker;

#endif							/* COUPON_ROOM_WORKER_H */
