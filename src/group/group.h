/*
 * group.h
 *	  Grouped issuing: calls that wait at the same moment share a transaction.
 *
 * group.c has the callers' side and the places where calls wait;
 * group_worker.c works them off.
 */
#ifndef COUPON_GROUP_H
#define COUPON_GROUP_H

#include "storage/latch.h"

#include "base/arguments.h"
#include "base/shmem.h"
#include "base/trace.h"
#include "sale/issue.h"

#define COUPON_CALL_MESSAGE	256 /* bytes of an error's text, cut off */

/*
 * Who may do what with a call follows from its state:
 *
 *	 IDLE --publish--> WAITING --take--> TAKEN --answer--> ANSWERED
 *	   ^                  |  ^-hand back-' |                   |
 *	   |                leave            leave               read
 *	   |                  v                v                   |
 *	   +---(pool) <---- LEFT <-------------+        IDLE <-----+
 *
 * IDLE and ANSWERED: it is the session's.  TAKEN: the worker's, who reads the
 * question and writes the answer.  WAITING: nobody's, it may be taken or left.
 * LEFT: the session has gone on without it; the worker who finds it so puts it
 * back into the pool, nobody else may use it again.
 */
typedef enum CouponCallState
{
	COUPON_CALL_IDLE,
	COUPON_CALL_WAITING,
	COUPON_CALL_TAKEN,
	COUPON_CALL_ANSWERED,
	COUPON_CALL_LEFT
} CouponCallState;

/* Room for a text of a user's or code's length. */
typedef union CouponCallText
{
	int32		alignment;
	char		data[VARHDRSZ + COUPON_MAX_NAME];
} CouponCallText;

typedef struct CouponCall
{
	pg_atomic_uint32 state;		/* a CouponCallState */
	uint32		next;			/* in the list or the pool: number + 1, 0 ends
								 * it */
	Latch	   *latch;			/* of the session */
	Oid			database;
	int			durability;		/* the session's synchronous_commit */
	int64		campaign_id;
	CouponCallText user;
	char		trace[COUPON_TRACE_SIZE];	/* empty: none */
	bool		keyed;
	int			position;		/* in the worker's batch */

	/* the answer */
	int			sqlstate;		/* 0: no error */
	CouponStatus status;
	bool		repeated;
	int64		serial;
	TimestampTz issued_at;
	TimestampTz expires_at;
	bool		coded;
	union
	{
		CouponCallText code;
		struct
		{
			char		message[COUPON_CALL_MESSAGE];
			char		detail[COUPON_CALL_MESSAGE];
			char		hint[COUPON_CALL_MESSAGE];
		}			error;
	}			u;
	CouponCallText key;			/* of the question, if keyed */
} CouponCall;

/* Grouped calls of one database that wait for a worker. */
typedef struct CouponGroup
{
	pg_atomic_uint32 newest;	/* the call that came last: number + 1, 0:
								 * none */
	pg_atomic_uint32 asleep;	/* a bit for each worker that is to be woken */

	/* statistics, since the server started, or a reset */
	pg_atomic_uint64 batches;
	pg_atomic_uint64 calls;
	pg_atomic_uint64 largest;	/* most calls of a batch */
	pg_atomic_uint64 commit_us; /* that all commits together took */
	pg_atomic_uint64 repeated;	/* batches that an ERROR took apart */
} CouponGroup;

/* Those of this database; NULL if it never had a worker. */
extern CouponGroup *coupon_group(void);

/* How many calls there can be. */
extern int	coupon_group_max_calls(void);

/* Is there anything to take? */
extern bool coupon_group_has_calls(CouponGroup *group);

/* Answers all waiting calls with an ERROR.  Never throws. */
extern void coupon_group_turn_away(CouponGroup *group, int sqlstate, const char *message,
								   const char *detail, const char *hint);

/* Takes all waiting calls, in the order in which they came; their number. */
extern int	coupon_group_take(CouponGroup *group, CouponCall **calls);

/* Answers taken calls whose answers are written, and wakes the callers. */
extern void coupon_group_answer(CouponCall **calls, int ncalls);

/* Lets taken calls wait for another worker. */
extern void coupon_group_hand_back(CouponGroup *group, CouponCall **calls, int ncalls);

/* Wakes a worker that sleeps, if there is one. */
extern void coupon_group_wake_worker(CouponGroup *group);

/* Has the database a worker for grouped calls? */
extern bool coupon_group_has_worker(void);

/* The way in of coupon_issue_grouped(). */
extern struct CouponWay coupon_way_grouped;

extern const CouponModule coupon_group_module;

/* group_worker.c */
extern const struct CouponWorkerKind coupon_group_worker;

/* Write a taken call's answer.  A text may be NULL. */
extern void coupon_call_set_item(CouponCall *call, const CouponItem *item);
extern void coupon_call_set_error(CouponCall *call, int sqlstate, const char *message,
								  const char *detail, const char *hint);

#endif							/* COUPON_GROUP_H */
