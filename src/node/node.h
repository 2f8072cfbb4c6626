/*
 * node.h
 *	  A sale on several nodes: whose home is here.
 *
 * Users, and campaigns that live on one node, have one of 1,024 slots by a
 * hash that never changes; coupon.slot says which node has a slot.  A server
 * that is no node pays one predictable branch for all of this.
 */
#ifndef COUPON_NODE_H
#define COUPON_NODE_H

#include "fmgr.h"

#include "base/compat.h"

#define COUPON_SLOTS		1024

/* Campaigns from here on have their home as a whole; of others the user decides. */
#define COUPON_FIRST_CAMPAIGN_HOME	INT64CONST(1000000000)

/* What the session knows; see node.c. */
extern bool coupon_node_known;
extern bool coupon_node_is;
extern bool coupon_node_look(void);

/* Is this database a node? */
static inline bool
coupon_node_here(void)
{
	return likely(coupon_node_known) ? coupon_node_is : coupon_node_look();
}

/* Its number, 0: it is none. */
extern int	coupon_node_id(void);

/* The slot of so many bytes: bits 16 to 25 of their CRC-32, as zlib has it. */
extern int	coupon_slot_of(const char *data, int length);

/* The slot that decides where a user of a campaign has their home. */
extern int	coupon_home_slot(int64 campaign_id, const text *user_id);

/*
 * Is that home here?  Only to be asked on a node.  Whoever gives the slot away
 * waits for the end of the transactions that have asked before.
 */
extern bool coupon_node_has_slot(int slot);
extern bool coupon_node_has(int64 campaign_id, const text *user_id);

/* ERROR UC301. */
pg_noreturn extern void coupon_node_refuse(int64 campaign_id, const text *user_id);

/* ERROR unless the user's home is here, if this is a node. */
static inline void
coupon_node_require(int64 campaign_id, const text *user_id)
{
	if (unlikely(coupon_node_here()) && !coupon_node_has(campaign_id, user_id))
		coupon_node_refuse(campaign_id, user_id);
}

#endif							/* COUPON_NODE_H */
