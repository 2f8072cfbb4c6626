/*
 * publisher_status.h
 *	  What the publisher of a database tells about itself.
 *
 * Written by the publisher alone, read by coupon_outbox_status; each field
 * under the spinlock.  Counters are since the server's start, or a reset.
 */
#ifndef COUPON_PUBLISHER_STATUS_H
#define COUPON_PUBLISHER_STATUS_H

#include "datatype/timestamp.h"
#include "storage/spin.h"

#include "base/shmem.h"

#define COUPON_STATUS_TEXT	512

typedef enum CouponBrokerState
{
	COUPON_BROKER_NONE,			/* no publisher runs */
	COUPON_BROKER_OFF,			/* no broker is configured */
	COUPON_BROKER_MISCONFIGURED,
	COUPON_BROKER_CONNECTING,
	COUPON_BROKER_UP,
	COUPON_BROKER_DOWN
} CouponBrokerState;

typedef struct CouponPublisherStatus
{
	slock_t		mutex;
	CouponBrokerState state;
	int64		in_flight;		/* sent, no report yet */
	int64		published;
	int64		retried;		/* sent again after the connection was given
								 * up */
	int64		dead;
	TimestampTz acknowledged_at;	/* 0: never */
	TimestampTz failed_at;
	char		error[COUPON_STATUS_TEXT];
	char		refused_topics[COUPON_STATUS_TEXT];
} CouponPublisherStatus;

/* A copy of this database's, with state COUPON_BROKER_NONE where no publisher runs. */
extern void coupon_publisher_read(CouponPublisherStatus *copy);
extern const char *coupon_publisher_state_name(CouponBrokerState state);

/* May the caller read errors, which name brokers and files? */
extern bool coupon_publisher_may_see_errors(void);

extern void coupon_publisher_set_state(CouponBrokerState state);
extern void coupon_publisher_count(int64 in_flight, int64 published, int64 retried, int64 dead);
extern void coupon_publisher_set_refused(const char *topics);

extern const CouponModule coupon_publisher_module;

/* Remembers the text for the status, and logs it unless it was the last one. */
extern void coupon_publisher_problem(const char *fmt,...) pg_attribute_printf(1, 2);

#endif							/* COUPON_PUBLISHER_STATUS_H */
