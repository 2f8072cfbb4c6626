/*
 * sink_config.h
 *	  The file of client properties: brokers' security, and tuning.
 */
#ifndef COUPON_SINK_CONFIG_H
#define COUPON_SINK_CONFIG_H

#include "nodes/pg_list.h"

typedef struct CouponProperty
{
	char	   *name;
	char	   *value;
	int			line;
} CouponProperty;

/*
 * Reads coupon.kafka_config_file: a list of CouponProperty in the current
 * context.  NULL in *problem if all is well, else what is wrong, without any
 * value of the file.
 */
extern List *coupon_sink_config_read(const char *path, const char **problem);

/*
 * Another number when the file, or one that its properties name, such as a
 * certificate, is another one or has changed.  An empty path: there is none.
 */
extern uint64 coupon_sink_config_stamp(const char *path);

/* May the property's value be seen in a log? */
extern bool coupon_sink_config_is_secret(const char *name);

#endif							/* COUPON_SINK_CONFIG_H */
