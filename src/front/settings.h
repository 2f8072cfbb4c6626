/*
 * settings.h
 *	  Settings of the front, defined in settings.c.
 */
#ifndef COUPON_SETTINGS_H
#define COUPON_SETTINGS_H

#define DEFAULT_HTTP_WORKERS	1
#define MAX_HTTP_WORKERS	8
#define DEFAULT_HTTP_MAX_CONNECTIONS	10000
#define MAX_HTTP_MAX_CONNECTIONS	1000000
#define DEFAULT_HTTP_IDLE_TIMEOUT	75
#define MAX_HTTP_IDLE_TIMEOUT	86400
#define DEFAULT_HTTP_REQUEST_TIMEOUT	10
#define MAX_HTTP_REQUEST_TIMEOUT	3600
#define DEFAULT_HTTP_STATEMENT_TIMEOUT	5000
#define MIN_HTTP_STATEMENT_TIMEOUT	10
#define MAX_HTTP_STATEMENT_TIMEOUT	600000
#define DEFAULT_HTTP_LOCK_TIMEOUT	1000
#define MAX_HTTP_LOCK_TIMEOUT	600000
#define DEFAULT_HTTP_MAX_WAITING	20000
#define MAX_HTTP_MAX_WAITING	10000000
#define DEFAULT_HTTP_RATE_PER_USER	0
#define MAX_HTTP_RATE_PER_USER	1000
#define DEFAULT_HTTP_RATE_PER_ADDRESS	0
#define MAX_HTTP_RATE_PER_ADDRESS	1000
#define DEFAULT_HTTP_BURST	20
#define MAX_HTTP_BURST	100000

extern int	coupon_http_workers;
extern int	coupon_http_max_connections;
extern int	coupon_http_idle_timeout;
extern int	coupon_http_request_timeout;
extern int	coupon_http_statement_timeout;
extern int	coupon_http_lock_timeout;
extern int	coupon_http_max_waiting;
extern int	coupon_http_rate_per_user;
extern int	coupon_http_rate_per_address;
extern int	coupon_http_burst;
extern double coupon_http_access_log;
extern char *coupon_http_listen;
extern char *coupon_http_admin_listen;
extern char *coupon_http_database;
extern char *coupon_http_role;
extern char *coupon_http_jwt_algorithm;
extern char *coupon_http_jwt_key_files;
extern char *coupon_http_jwt_audience;
extern char *coupon_http_cors_origins;
extern char *coupon_http_trusted_proxies;

/* While preloading. */
extern void coupon_front_define_settings(void);

#endif							/* COUPON_SETTINGS_H */
