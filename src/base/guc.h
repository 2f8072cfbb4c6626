/*
 * guc.h
 *	  Settings of coupon, defined in guc.c.
 */
#ifndef COUPON_GUC_H
#define COUPON_GUC_H

#include "utils/guc.h"

extern char *coupon_databases;
extern int	coupon_stock_map_memory;
extern int	coupon_max_campaigns;
extern int	coupon_sold_out_wait;
extern int	coupon_sweep_interval;
extern int	coupon_hold_keep;
extern int	coupon_key_keep;
extern int	coupon_refusal_keep;
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
extern bool coupon_cluster;
extern int	coupon_cluster_timeout;
extern int	coupon_transfer_low_water;

/* The check of a setting that is a list as SplitGUCList() reads it. */
extern bool coupon_guc_check_names(char **value, void **extra, GucSource source);

/* Defines all, or those that a session may have without preloading. */
extern void coupon_guc_define(bool preloaded);

#endif							/* COUPON_GUC_H */
