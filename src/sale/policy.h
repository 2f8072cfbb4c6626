/*
 * policy.h
 *	  The discount policy of a campaign.
 */
#ifndef COUPON_POLICY_H
#define COUPON_POLICY_H

#include "utils/jsonb.h"

#define COUPON_MAX_POLICY	4096	/* bytes as text: it is copied into every
									 * row */

/* ERROR, with the rule that it breaks, unless the policy is a valid one. */
extern void coupon_policy_check(Jsonb *policy);

/* Its usage_period_days, 0: it has none, or none that is valid, and never expires. */
extern int32 coupon_policy_usage_period(Jsonb *policy);

#endif							/* COUPON_POLICY_H */
