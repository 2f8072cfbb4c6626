/*
 * settings.c
 *	  Settings of the front.
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "base/guc.h"
#include "front/address.h"
#include "front/settings.h"

int			coupon_http_workers = DEFAULT_HTTP_WORKERS;
int			coupon_http_max_connections = DEFAULT_HTTP_MAX_CONNECTIONS;
int			coupon_http_idle_timeout = DEFAULT_HTTP_IDLE_TIMEOUT;
int			coupon_http_request_timeout = DEFAULT_HTTP_REQUEST_TIMEOUT;
int			coupon_http_statement_timeout = DEFAULT_HTTP_STATEMENT_TIMEOUT;
int			coupon_http_lock_timeout = DEFAULT_HTTP_LOCK_TIMEOUT;
int			coupon_http_max_waiting = DEFAULT_HTTP_MAX_WAITING;
int			coupon_http_rate_per_user = DEFAULT_HTTP_RATE_PER_USER;
int			coupon_http_rate_per_address = DEFAULT_HTTP_RATE_PER_ADDRESS;
int			coupon_http_burst = DEFAULT_HTTP_BURST;
double		coupon_http_access_log = 0;
char	   *coupon_http_listen = NULL;
char	   *coupon_http_admin_listen = NULL;
char	   *coupon_http_database = NULL;
char	   *coupon_http_role = NULL;
char	   *coupon_http_jwt_algorithm = NULL;
char	   *coupon_http_jwt_key_files = NULL;
char	   *coupon_http_jwt_audience = NULL;
char	   *coupon_http_cors_origins = NULL;
char	   *coupon_http_trusted_proxies = NULL;

static bool
check_algorithm(char **value, void **extra, GucSource source)
{
	static const char *const known[] = {"", "HS256", "RS256", "ES256"};

	for (size_t i = 0; i < lengthof(known); i++)
	{
		if (strcmp(*value, known[i]) == 0)
			return true;
	}
	GUC_check_errdetail("Use HS256, RS256 or ES256, or nothing.");
	return false;
}

static bool
check_listen(char **value, void **extra, GucSource source)
{
	if ((*value)[0] == '\0' || coupon_address_is_well_formed(*value))
		return true;
	GUC_check_errdetail("It is not of the form address:port, with a port from 1 to 65535.");
	return false;
}

/* Are the words that commas and spaces separate all as they should be? */
static bool
check_words(char **value, bool (*is_good) (const char *word), const char *what)
{
	char	   *rest = pstrdup(*value);

	for (char *word = strtok_r(rest, " ,", &rest); word != NULL; word = strtok_r(NULL, " ,", &rest))
	{
		if (!is_good(word))
		{
			GUC_check_errdetail("\"%s\" is not %s.", word, what);
			return false;
		}
	}
	return true;
}

/* What a browser sends: scheme://host[:port], or null. */
static bool
is_origin(const char *word)
{
	const char *host = strstr(word, "://");

	return strcmp(word, "null") == 0 ||
		(host != NULL && host > word && host[3] != '\0' && strchr(host + 3, '/') == NULL);
}

static bool
check_origins(char **value, void **extra, GucSource source)
{
	return strcmp(*value, "*") == 0 ||
		check_words(value, is_origin, "an origin, like https://shop.example");
}

static bool
is_address(const char *word)
{
	struct in6_addr address;

	return inet_pton(AF_INET, word, &address) == 1 || inet_pton(AF_INET6, word, &address) == 1;
}

static bool
check_proxies(char **value, void **extra, GucSource source)
{
	return check_words(value, is_address, "an IP address");
}

/* One setting of either kind. */
typedef struct IntSetting
{
	const char *name;
	const char *is;
	const char *more;
	int		   *value;
	int			initial;
	int			min;
	int			max;
	GucContext	context;
	int			flags;
} IntSetting;

typedef struct TextSetting
{
	const char *name;
	const char *is;
	const char *more;
	char	  **value;
	GucContext	context;
	GucStringCheckHook check;
} TextSetting;

static const IntSetting int_settings[] = {
	{"coupon.http_workers", "Processes that serve HTTP.",
		"They share the addresses, which the kernel deals connections of to them.",
	&coupon_http_workers, DEFAULT_HTTP_WORKERS, 1, MAX_HTTP_WORKERS, PGC_POSTMASTER, 0},
	{"coupon.http_max_connections", "Connections that one HTTP worker keeps open.",
		"Requests of further ones are answered 503, with Retry-After.",
	&coupon_http_max_connections, DEFAULT_HTTP_MAX_CONNECTIONS, 1, MAX_HTTP_MAX_CONNECTIONS, PGC_POSTMASTER, 0},
	{"coupon.http_idle_timeout", "How long a connection may be open without a request.",
		"Also how long the first line of a request may take, and an answer's way to its client.",
	&coupon_http_idle_timeout, DEFAULT_HTTP_IDLE_TIMEOUT, 1, MAX_HTTP_IDLE_TIMEOUT, PGC_SIGHUP, GUC_UNIT_S},
	{"coupon.http_request_timeout", "How long a client may take over one request.",
		NULL,
	&coupon_http_request_timeout, DEFAULT_HTTP_REQUEST_TIMEOUT, 1, MAX_HTTP_REQUEST_TIMEOUT, PGC_SIGHUP, GUC_UNIT_S},
	{"coupon.http_statement_timeout", "How long the function of a route may take.",
		"All calls of a worker wait meanwhile.",
	&coupon_http_statement_timeout, DEFAULT_HTTP_STATEMENT_TIMEOUT, MIN_HTTP_STATEMENT_TIMEOUT, MAX_HTTP_STATEMENT_TIMEOUT, PGC_SIGHUP, GUC_UNIT_MS},
	{"coupon.http_lock_timeout", "How long the function of a route may wait for a lock.",
		"All calls of a worker wait meanwhile.",
	&coupon_http_lock_timeout, DEFAULT_HTTP_LOCK_TIMEOUT, 1, MAX_HTTP_LOCK_TIMEOUT, PGC_SIGHUP, GUC_UNIT_MS},
	{"coupon.http_max_waiting", "Calls and event streams that wait in one HTTP worker.",
		"Beyond it 503 is answered, with Retry-After.",
	&coupon_http_max_waiting, DEFAULT_HTTP_MAX_WAITING, 1, MAX_HTTP_MAX_WAITING, PGC_SIGHUP, 0},
	{"coupon.http_rate_per_user", "Calls a second that the user of a token may make, 0: any number.",
		NULL,
	&coupon_http_rate_per_user, DEFAULT_HTTP_RATE_PER_USER, 0, MAX_HTTP_RATE_PER_USER, PGC_SIGHUP, 0},
	{"coupon.http_rate_per_address", "Calls a second that may come from one address, 0: any number.",
		NULL,
	&coupon_http_rate_per_address, DEFAULT_HTTP_RATE_PER_ADDRESS, 0, MAX_HTTP_RATE_PER_ADDRESS, PGC_SIGHUP, 0},
	{"coupon.http_burst", "Calls beyond the rate that may come at once.",
		NULL,
	&coupon_http_burst, DEFAULT_HTTP_BURST, 1, MAX_HTTP_BURST, PGC_SIGHUP, 0},
};

static const TextSetting text_settings[] = {
	{"coupon.http_listen", "Where HTTP is served: address:port; empty: nowhere.",
		"It has to be set when the server starts; it may then be moved by a reload.",
	&coupon_http_listen, PGC_SIGHUP, check_listen},
	{"coupon.http_admin_listen", "Where the operator's routes are served: address:port; empty: with the others.",
		NULL,
	&coupon_http_admin_listen, PGC_SIGHUP, check_listen},
	{"coupon.http_database", "The database that HTTP serves; empty: the first of coupon.databases.",
		NULL,
	&coupon_http_database, PGC_POSTMASTER},
	{"coupon.http_role", "Whose rights a call without a token has; empty: it has none.",
		"coupon_service, for an application behind a gateway of its own.",
	&coupon_http_role, PGC_SIGHUP},
	{"coupon.http_jwt_algorithm", "How tokens are signed: HS256, RS256 or ES256; empty: there are none.",
		NULL,
	&coupon_http_jwt_algorithm, PGC_SIGHUP, check_algorithm},
	{"coupon.http_jwt_key_files", "Files with the keys of tokens, separated by commas.",
		"A secret, or a public key in PEM. Mode 0600, read again at a reload.",
	&coupon_http_jwt_key_files, PGC_SIGHUP, coupon_guc_check_names},
	{"coupon.http_jwt_audience", "What a token's aud has to be, or to contain; empty: anything.",
		NULL,
	&coupon_http_jwt_audience, PGC_SIGHUP},
	{"coupon.http_cors_origins", "Origins of pages that may call, separated by commas; *: any; empty: none.",
		NULL,
	&coupon_http_cors_origins, PGC_SIGHUP, check_origins},
	{"coupon.http_trusted_proxies", "Addresses whose X-Forwarded-For is believed, separated by commas.",
		NULL,
	&coupon_http_trusted_proxies, PGC_SIGHUP, check_proxies},
};

void
coupon_front_define_settings(void)
{
	for (size_t i = 0; i < lengthof(int_settings); i++)
	{
		const IntSetting *s = &int_settings[i];

		DefineCustomIntVariable(s->name, s->is, s->more, s->value, s->initial, s->min, s->max,
								s->context, s->flags, NULL, NULL, NULL);
	}
	DefineCustomRealVariable("coupon.http_access_log", "The share of answers that the server's log has a line of; 0: none.",
							 "The line has the method, the route's template, the status, the time it took, its size and the client's address.",
							 &coupon_http_access_log, 0, 0, 1, PGC_SIGHUP, 0, NULL, NULL, NULL);
	for (size_t i = 0; i < lengthof(text_settings); i++)
	{
		const TextSetting *s = &text_settings[i];

		DefineCustomStringVariable(s->name, s->is, s->more, s->value, "", s->context, 0,
								   s->check, NULL, NULL);
	}
}
