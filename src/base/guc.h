/*
 * guc.h
 *	  Settings of coupon, defined in guc.c.
 */
#ifndef COUPON_GUC_H
#define COUPON_GUC_H

#define DEFAULT_STOCK_MAP_MEMORY	(64 * 1024)		/* kB */
#define MIN_STOCK_MAP_MEMORY		(8 * 1024)
#define MAX_STOCK_MAP_MEMORY		(64 * 1024 * 1024)
#define DEFAULT_MAX_CAMPAIGNS		16384
#define MIN_MAX_CAMPAIGNS			16
#define MAX_MAX_CAMPAIGNS			(1024 * 1024)
#define DEFAULT_SOLD_OUT_WAIT		100				/* ms */
#define MAX_SOLD_OUT_WAIT			(60 * 1000)
#define DEFAULT_SWEEP_INTERVAL		1000			/* ms */
#define MIN_SWEEP_INTERVAL			10
#define MAX_SWEEP_INTERVAL			(3600 * 1000)
#define DEFAULT_HOLD_KEEP			(24 * 3600)		/* s */
#define MIN_HOLD_KEEP				1
#define MAX_HOLD_KEEP				(366 * 24 * 3600)
#define DEFAULT_GROUP_WORKERS		1
#define MAX_GROUP_WORKERS			8				/* = COUPON_MAX_INSTANCES */
#define DEFAULT_PUBLISH_INTERVAL	1000			/* ms */
#define MIN_PUBLISH_INTERVAL		10
#define MAX_PUBLISH_INTERVAL		(3600 * 1000)
#define DEFAULT_KAFKA_PARTITIONS	12
#define MAX_KAFKA_PARTITIONS		100000
#define DEFAULT_KAFKA_REPLICATION	0				/* any */
#define MAX_KAFKA_REPLICATION		100

#define DEFAULT_ISSUERS				1
#define MAX_ISSUERS					COUPON_MAX_INSTANCES
#define DEFAULT_QUEUE_MEMORY		(64 * 1024)		/* kB */
#define MIN_QUEUE_MEMORY			1024
#define MAX_QUEUE_MEMORY			(64 * 1024 * 1024)
#define DEFAULT_MAX_LINES			256
#define MIN_MAX_LINES				8
#define MAX_MAX_LINES				8192
#define DEFAULT_REQUEST_DEPTH		100000
#define MAX_REQUEST_DEPTH			100000000
#define DEFAULT_QUEUE_KEEP			(3600 * 1000)	/* ms */
#define MIN_QUEUE_KEEP				10
#define MAX_QUEUE_KEEP				(7 * 24 * 3600 * 1000)

extern char *coupon_databases;
extern int	coupon_stock_map_memory;
extern int	coupon_max_campaigns;
extern int	coupon_sold_out_wait;
extern int	coupon_sweep_interval;
extern int	coupon_hold_keep;
extern int	coupon_issuers;
extern int	coupon_queue_memory;
extern int	coupon_max_lines;
extern int	coupon_request_depth;
extern int	coupon_queue_keep;
extern int	coupon_group_workers;
extern bool coupon_allow_autonomous;
extern int	coupon_publish_interval;
extern char *coupon_kafka_brokers;
extern char *coupon_kafka_config_file;
extern int	coupon_kafka_partitions;
extern int	coupon_kafka_replication;
extern bool coupon_kafka_create_topics;

extern void coupon_guc_define(void);
extern void coupon_guc_define_postmaster(void);

#endif							/* COUPON_GUC_H */
