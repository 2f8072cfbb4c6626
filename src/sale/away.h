/*
 * away.h
 *	  Units of a shared campaign that other nodes have cannot be issued here.
 */
#ifndef COUPON_AWAY_H
#define COUPON_AWAY_H

#include "sale/campaign.h"

/*
 * Has another node the unit, or is it on its way to one?  ERROR if so.  To be
 * asked of one shard's units once their rows are in the index.
 */
extern void coupon_away_refuse(int64 campaign_id, int32 shard, const int64 *serials, int n);

/* Set while rows are deleted whose units go to another node, and are not free here. */
extern bool coupon_away_leaving;

#endif							/* COUPON_AWAY_H */
