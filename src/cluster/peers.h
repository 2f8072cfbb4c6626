/*
 * peers.h
 *	  Calls to other nodes, over libpq.
 */
#ifndef COUPON_PEERS_H
#define COUPON_PEERS_H

/* One call, and what became of it. */
typedef struct CouponPeerCall
{
	int			node_id;
	const char *conninfo;
	const char *argument;		/* JSON */
	char	   *answer;			/* JSON, or NULL; in the caller's memory */
	char	   *error;			/* why there is none */
} CouponPeerCall;

/*
 * Makes the same call, coupon.node_call(call, argument), to n nodes at once, and
 * waits for all answers, at most for coupon.cluster_timeout; for the holdings that
 * coupon_cluster_verify() compares, and before a node leaves or takes another one's
 * place, up to 60 times as long, once connected.  A node
 * that cannot be reached is an answer, too; one that was not reached before is not
 * waited for again.  Nothing is known of what a call did that has no answer.
 */
extern void coupon_peers_call(const char *call, CouponPeerCall *calls, int n);

#endif							/* COUPON_PEERS_H */
