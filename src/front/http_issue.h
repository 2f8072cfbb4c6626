/*
 * http_issue.h
 *	  The issues that came over HTTP at the same moment, as a way in.
 */
#ifndef COUPON_HTTP_ISSUE_H
#define COUPON_HTTP_ISSUE_H

#include "base/stat.h"

extern CouponWay coupon_way_http_issue;

#endif							/* COUPON_HTTP_ISSUE_H */
