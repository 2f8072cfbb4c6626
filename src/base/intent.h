/*
 * intent.h
 *	  What the running transaction owes to shared memory.
 *
 * An intent is recorded when a session changes shared memory in a way that
 * depends on how its transaction ends: a taken unit, a pinned campaign, a
 * shard under construction.  It is resolved exactly once, with the end of the
 * (sub)transaction or earlier by its owner, whatever way the session leaves.
 */
#ifndef COUPON_INTENT_H
#define COUPON_INTENT_H

struct CouponCampaign;
struct CouponShard;
typedef struct CouponIntent CouponIntent;

/*
 * Called at commit or abort.  Must not allocate and must not throw; it may
 * take LWLocks.  At commit the transaction is already visible to others, at
 * abort its rows are already dead to them.
 */
typedef void (*CouponResolver) (CouponIntent *intent, bool committed);

struct CouponIntent
{
	CouponResolver resolve;
	struct CouponCampaign *campaign;
	struct CouponShard *shard;
	uint32		number;			/* of the resolver's own: a bit, an index */
	uint32		flags;			/* of the resolver's own, 0 at first */
	int			level;			/* nesting level of the subtransaction */
};

/* Makes room for n more intents.  May throw; call before touching anything. */
extern void coupon_intent_reserve(int n);

/* Records an intent in reserved room; valid until the next one.  Never throws. */
extern CouponIntent *coupon_intent_push(CouponResolver resolve, struct CouponCampaign *campaign,
										struct CouponShard *shard, uint32 number);

/* The newest intent that matches, or NULL.  number is compared too. */
extern CouponIntent *coupon_intent_find(CouponResolver resolve, struct CouponCampaign *campaign,
										struct CouponShard *shard, uint32 number);

/*
 * The same among the few newest of the running subtransaction, to make one
 * intent of many.
 */
extern CouponIntent *coupon_intent_recent(CouponResolver resolve, struct CouponCampaign *campaign,
										  struct CouponShard *shard, uint32 number);

/*
 * Makes fewer of the newest intents if they have become many: of those of one
 * resolver, in one subtransaction, that differ in their flags alone, one, unless
 * they share a flag.  The resolver is asked to forget those that are left over.
 */
extern void coupon_intent_merge(CouponResolver resolve, void (*forget) (CouponIntent *intent));

/* Resolves one intent now and forgets it.  Never throws. */
extern void coupon_intent_finish(CouponIntent *intent, bool committed);

/* Forgets one intent without resolving it.  Never throws. */
extern void coupon_intent_forget(CouponIntent *intent);

#endif							/* COUPON_INTENT_H */
