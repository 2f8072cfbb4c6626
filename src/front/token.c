/*
 * token.c
 *	  Who calls: JSON Web Tokens, checked by libjwt.
 *
 * libjwt needs jansson, whose json_object() is also the name of a function of
 * PostgreSQL, which the linker would find first.  So the library is loaded in a
 * way that lets it find its own names before those of the server.  Address-
 * Sanitizer forbids that way: with it there are no tokens.
 *
 * The algorithm is the setting's, whatever a token says of itself.  Keys are in
 * files that nobody else can read; there may be several at a time, so that one
 * can be replaced while tokens signed with the other are still about.
 *
 * To check a signature costs more than to carry out the call, so the outcome
 * is kept for as long as the token lasts, in a table that is emptied when it
 * is full and when keys or roles change.
 *
 * A token gives its caller a role, which must be one that the DBA has let in:
 * a member of coupon_user, coupon_service or coupon_admin, and no superuser.  A
 * token with a sub speaks for that user alone.  One without speaks for all
 * users, so its role must be a member of one of the latter two.
 */
#include "postgres.h"

#include <dlfcn.h>
#include <jwt.h>

#include "catalog/pg_authid.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "base/arguments.h"
#include "base/secret_file.h"
#include "front/json_fields.h"
#include "front/settings.h"
#include "front/token.h"

#define MAX_TOKEN		4096	/* bytes */
#define MAX_KEY			16384
#define MAX_KEYS		4
#define MAX_CACHED		20000
#define MAX_CACHE		(32 * 1024 * 1024)	/* bytes */
#define CLOCK_SKEW_S	5		/* between whoever signs tokens and this
								 * server */

typedef struct CachedToken
{
	char	   *token;			/* the hash table's key */
	CouponIdentity identity;
} CachedToken;

typedef struct Key
{
	char	   *data;
	int			length;
} Key;

static Key	keys[MAX_KEYS];
static int	nkeys = 0;
static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;
static bool cache_is_stale = false;
static bool knows_default = false;	/* who calls without a token; like the
									 * cache */
static bool watching = false;

/* ---- the library ---- */

static struct
{
	void	   *handle;
				__typeof__(jwt_decode) * decode;
				__typeof__(jwt_free) * free;
				__typeof__(jwt_get_alg) * get_alg;
				__typeof__(jwt_str_alg) * str_alg;
				__typeof__(jwt_get_grants_json) * get_grants_json;
}			jwt_library;

/* False, after a message of that level, if it cannot be used. */
static bool
open_library(int elevel)
{
	const char *problem = "this build has no way to load libjwt";

	if (jwt_library.handle != NULL)
		return true;
#if defined(RTLD_DEEPBIND) && !defined(__SANITIZE_ADDRESS__)
	jwt_library.handle = dlopen(COUPON_JWT_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
	problem = jwt_library.handle == NULL ? dlerror() : COUPON_JWT_LIBRARY " lacks a function";
#endif
	if (jwt_library.handle != NULL)
	{
		jwt_library.decode = dlsym(jwt_library.handle, "jwt_decode");
		jwt_library.free = dlsym(jwt_library.handle, "jwt_free");
		jwt_library.get_alg = dlsym(jwt_library.handle, "jwt_get_alg");
		jwt_library.str_alg = dlsym(jwt_library.handle, "jwt_str_alg");
		jwt_library.get_grants_json = dlsym(jwt_library.handle, "jwt_get_grants_json");
	}
	if (jwt_library.decode && jwt_library.free && jwt_library.get_alg && jwt_library.str_alg &&
		jwt_library.get_grants_json)
		return true;
	ereport(elevel,
			(errcode(ERRCODE_UNDEFINED_FILE),
			 errmsg("tokens cannot be checked: %s", problem),
			 errhint("Install libjwt (Debian: libjwt0 or libjwt2), the version that coupon was built with.")));
	jwt_library.handle = NULL;
	return false;
}

bool
coupon_token_has_library(void)
{
	return open_library(DEBUG1);
}

/* ---- keys ---- */

/* What is wrong with the contents of a key file, or NULL. */
static const char *
judge_key(const char *data, int length)
{
	bool		is_secret = strncmp(coupon_http_jwt_algorithm, "HS", 2) == 0;

	if (length == 0)
		return "it is empty";
	if (is_secret && length < 32)
		return "a secret has at least 32 bytes";
	if (!is_secret && strstr(data, "-----BEGIN ") == NULL)
		return "there is no public key in PEM in it";
	return NULL;
}

/* The key in a file; NULL, and why, if it is not to be used. */
static char *
read_key(const char *path, int *length, const char **problem)
{
	char	   *data = coupon_secret_file_read(path, MAX_KEY, length, problem);

	if (data == NULL)
		return NULL;
	/* an editor's last newline is not part of a secret */
	while (*length > 0 && strncmp(coupon_http_jwt_algorithm, "HS", 2) == 0 &&
		   (data[*length - 1] == '\n' || data[*length - 1] == '\r'))
		data[--*length] = '\0';
	*problem = judge_key(data, *length);
	if (*problem == NULL)
		return data;
	pfree(data);
	return NULL;
}

const char *
coupon_token_judge_file(const char *path)
{
	const char *problem;
	int			length;
	char	   *data = read_key(path, &length, &problem);

	if (data != NULL)
		pfree(data);
	return problem;
}

int
coupon_token_keys(void)
{
	return nkeys;
}

void
coupon_token_reload(void)
{
	char	   *names = pstrdup(coupon_http_jwt_key_files);
	List	   *paths = NIL;
	ListCell   *cell;
	MemoryContext oldcontext;

	for (int i = 0; i < nkeys; i++)
		pfree(keys[i].data);
	nkeys = 0;
	cache_is_stale = true;
	if (coupon_http_jwt_algorithm[0] == '\0' || !open_library(LOG))
		return;
	/* the setting's check has seen to it that it can be read */
	(void) SplitGUCList(names, ',', &paths);
	foreach(cell, paths)
	{
		int			length = 0;
		const char *problem = "there are too many";
		char	   *data;

		oldcontext = MemoryContextSwitchTo(TopMemoryContext);
		data = nkeys < MAX_KEYS ? read_key(lfirst(cell), &length, &problem) : NULL;
		MemoryContextSwitchTo(oldcontext);

		if (data == NULL)
		{
			ereport(LOG,
					(errcode(ERRCODE_CONFIG_FILE_ERROR),
					 errmsg("coupon.http_jwt_key_files: \"%s\" is not used: %s", (const char *) lfirst(cell), problem),
					 errhint("Mend it and reload the server's configuration.")));
			continue;
		}
		keys[nkeys].data = data;
		keys[nkeys++].length = length;
	}
	list_free(paths);
	pfree(names);
}

/* ---- the cache ---- */

static void
roles_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	cache_is_stale = true;
}

static uint32
hash_token(const void *key, Size size)
{
	const char *token = *(const char *const *) key;

	return DatumGetUInt32(hash_any((const unsigned char *) token, strlen(token)));
}

static int
match_token(const void *a, const void *b, Size size)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static void
reset_cache(void)
{
	HASHCTL		control = {.keysize = sizeof(char *),.entrysize = sizeof(CachedToken),
	.hash = hash_token,.match = match_token};

	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "coupon tokens", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(cache_context);
	control.hcxt = cache_context;
	cache = hash_create("coupon tokens", 1024, &control,
						HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	cache_is_stale = knows_default = false;
	if (!watching)
	{
		CacheRegisterSyscacheCallback(AUTHOID, roles_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, roles_changed, (Datum) 0);
		watching = true;
	}
}

/* ---- claims ---- */

typedef struct Claims
{
	char	   *role;
	char	   *sub;
	char	   *aud;
	bool		aud_is_list;	/* JSON of an array, or of what is none */
	char	   *exp;
	char	   *nbf;
} Claims;

static bool
note_claim(void *state, char *name, char *value, bool is_string)
{
	Claims	   *claims = state;

	bool		is_number = !is_string && value != NULL && (value[0] == '-' || isdigit((unsigned char) value[0]));

	/* what is there and of no use is as bad as a bad one, not as none */
	if (strcmp(name, "role") == 0)
		claims->role = is_string ? value : NULL;
	else if (strcmp(name, "sub") == 0)
		claims->sub = is_string || is_number ? value : "";
	else if (strcmp(name, "exp") == 0)
		claims->exp = is_number ? value : "";
	else if (strcmp(name, "nbf") == 0)
		claims->nbf = is_number ? value : "";
	else if (strcmp(name, "aud") == 0)
	{
		claims->aud_is_list = !is_string;
		claims->aud = value;
	}
	return true;
}

/* Is that JSON an array of which the text is an element? */
static bool
has_element(const char *json, const char *wanted)
{
	StringInfoData quoted;
	int			depth = 0;

	initStringInfo(&quoted);
	coupon_json_append(&quoted, wanted);
	if (json[0] != '[')
		return false;
	for (const char *p = json; *p != '\0'; p++)
	{
		const char *start = p;

		if (*p == '[' || *p == '{')
			depth++;
		else if (*p == ']' || *p == '}')
			depth--;
		if (*p != '"')
			continue;
		for (p++; *p != '"'; p++)
		{
			if (*p == '\\')
				p++;
			if (*p == '\0')
				return false;
		}
		if (depth == 1 && p + 1 - start == quoted.len && memcmp(start, quoted.data, quoted.len) == 0)
			return true;
	}
	return false;
}

/* Is ours among the audiences, one as text or several as a JSON array? */
static bool
is_audience(const Claims *claims, const char *ours)
{
	if (ours[0] == '\0')
		return true;
	if (claims->aud == NULL)
		return false;
	return claims->aud_is_list ? has_element(claims->aud, ours) : strcmp(claims->aud, ours) == 0;
}

/* Seconds since 1970 as a time; false for what is no number. */
static bool
read_time(const char *number, double skew, TimestampTz *time)
{
	char	   *end;
	double		seconds = strtod(number, &end);

	if (end == number || *end != '\0' || !(seconds > -1e11 && seconds < 1e11))
		return false;
	*time = (TimestampTz) ((seconds + skew - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (double) SECS_PER_DAY) * USECS_PER_SEC);
	return true;
}

static bool
is_member(Oid role, const char *of)
{
	Oid			group = get_role_oid(of, true);

	return OidIsValid(group) && is_member_of_role_nosuper(role, group);
}

/* Sets the role, by name; returns what is wrong with it. */
static const char *
set_role(CouponIdentity *identity, const char *name)
{
	Oid			role = name == NULL ? InvalidOid : get_role_oid(name, true);
	bool		speaks_for_others;

	if (!OidIsValid(role) || superuser_arg(role))
		return "The token's role is not one that may call.";
	speaks_for_others = is_member(role, "coupon_service") || is_member(role, "coupon_admin");
	if (!speaks_for_others && !is_member(role, "coupon_user"))
		return "The token's role is not one that may call.";
	if (identity->user_id == NULL && !speaks_for_others)
		return "The token names no user, and its role may not speak for others.";
	identity->role = role;
	return NULL;
}

/* What is wrong with the claims; sets the identity. */
static const char *
judge_claims(const char *json, TimestampTz now, CouponIdentity *identity)
{
	Claims		claims = {0};
	TimestampTz not_before;

	if (coupon_json_fields(json, strlen(json), note_claim, &claims) != NULL)
		return "The token's claims cannot be read.";
	identity->expires_at = DT_NOEND;
	if (claims.exp != NULL && !read_time(claims.exp, CLOCK_SKEW_S, &identity->expires_at))
		return "The token's exp is not a time.";
	if (claims.nbf != NULL && (!read_time(claims.nbf, -CLOCK_SKEW_S, &not_before) || not_before > now))
		return "The token is not valid yet.";
	if (!is_audience(&claims, coupon_http_jwt_audience))
		return "The token is for another audience.";
	if (claims.sub != NULL && (claims.sub[0] == '\0' || strlen(claims.sub) > COUPON_MAX_NAME))
		return "The token's sub is not a text of 1 to 256 bytes.";
	identity->user_id = claims.sub;
	return set_role(identity, claims.role);
}

/* Checks the signature by one key; the claims, NULL if it is not good. */
static char *
open_token(const char *token, const Key *key)
{
	jwt_t	   *jwt = NULL;
	char	   *grants = NULL;
	char	   *json = NULL;

	if (jwt_library.decode(&jwt, token, (const unsigned char *) key->data, key->length) == 0 &&
		jwt_library.get_alg(jwt) == jwt_library.str_alg(coupon_http_jwt_algorithm))
		grants = jwt_library.get_grants_json(jwt, NULL);
	jwt_library.free(jwt);
	if (grants != NULL)
		json = MemoryContextStrdup(CurrentMemoryContext, grants);
	free(grants);
	return json;
}

static const char *
judge_token(const char *token, TimestampTz now, CouponIdentity *identity)
{
	if (coupon_http_jwt_algorithm[0] == '\0' || nkeys == 0)
		return "This server takes no tokens.";
	for (int i = 0; i < nkeys; i++)
	{
		identity->claims = open_token(token, &keys[i]);
		if (identity->claims != NULL)
			return judge_claims(identity->claims, now, identity);
	}
	return "The token's signature is not good.";
}

/* ---- callers ---- */

char *
coupon_token_claims(const char *role)
{
	StringInfoData claims;

	initStringInfo(&claims);
	appendStringInfoString(&claims, "{\"role\":");
	coupon_json_append(&claims, role);
	appendStringInfoChar(&claims, '}');
	return claims.data;
}

/* Who sends no token is whoever coupon.http_role says. */
static const char *
judge_default(CouponIdentity *identity)
{
	if (coupon_http_role[0] == '\0')
		return "A token is needed: Authorization: Bearer ...";
	if (set_role(identity, coupon_http_role) != NULL)
		return "coupon.http_role is no role that may call for others.";
	identity->claims = coupon_token_claims(coupon_http_role);
	identity->expires_at = DT_NOEND;
	return NULL;
}

static const CouponIdentity *
default_identity(const char **problem)
{
	static CouponIdentity identity;
	static const char *why_not;

	if (!knows_default)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(cache_context);

		memset(&identity, 0, sizeof(identity));
		why_not = judge_default(&identity);
		knows_default = true;
		MemoryContextSwitchTo(oldcontext);
	}
	*problem = why_not;
	return why_not == NULL ? &identity : NULL;
}

const CouponIdentity *
coupon_token_check(const char *authorization, TimestampTz now, const char **problem)
{
	CachedToken *entry;
	const char *token;

	if (cache == NULL || cache_is_stale || hash_get_num_entries(cache) >= MAX_CACHED)
		reset_cache();
	if (authorization == NULL)
		return default_identity(problem);
	if (pg_strncasecmp(authorization, "Bearer ", 7) != 0)
	{
		*problem = "Authorization is not of the form: Bearer ...";
		return NULL;
	}
	token = authorization + 7 + strspn(authorization + 7, " ");
	if (strlen(token) > MAX_TOKEN)
	{
		*problem = "The token is too long.";
		return NULL;
	}
	entry = hash_search(cache, &token, HASH_FIND, NULL);
	if (entry == NULL)
	{
		CouponIdentity identity = {0};
		MemoryContext oldcontext;

		*problem = judge_token(token, now, &identity);
		if (*problem != NULL)
			return NULL;
		/* a token can be written in several ways, of which all are good */
		if (MemoryContextMemAllocated(cache_context, true) > MAX_CACHE)
			reset_cache();
		oldcontext = MemoryContextSwitchTo(cache_context);
		if (identity.user_id != NULL)
			identity.user_id = pstrdup(identity.user_id);
		identity.claims = pstrdup(identity.claims);
		token = pstrdup(token);
		entry = hash_search(cache, &token, HASH_ENTER, NULL);
		entry->identity = identity;
		MemoryContextSwitchTo(oldcontext);
	}
	if (entry->identity.expires_at <= now)
	{
		*problem = "The token has expired.";
		return NULL;
	}
	return &entry->identity;
}
