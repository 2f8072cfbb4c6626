/*
 * peers.c
 *	  Calls to other nodes, over libpq.
 *
 * A session keeps one connection to each node that it calls.  Everything is
 * asynchronous: one that hangs costs those who call the others a timeout, once;
 * until it answers again, its connection is made in the background of later
 * calls, and nobody waits for it.  So are names of hosts looked up (host_names.c).
 *
 * A conninfo may name several hosts.  libpq goes on to the next one when one
 * refuses, but not when one says nothing, as a machine that is gone; so another
 * one becomes the first.
 *
 * Who may change coupon.node can have this server connect anywhere, with the
 * rights of its operating system user.  So only roles are taken that are no
 * superusers, and the one statement that is sent names its function.  And a
 * conninfo says no more than it has to: libpq gives the passwords of that user's
 * .pgpass to whoever is at hostaddr, by the name in host, and reads or writes
 * other files that it is told of.
 */
#include "postgres.h"

#include <poll.h>

#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "libpq-fe.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/arguments.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "cluster/host_names.h"
#include "cluster/peers.h"

#define MAX_NODE_ID		64
#define SLICE_MS		50		/* how often to look for interrupts */
#define LOOKUP_MS		2		/* the same for names, which no socket tells
								 * of */
#define NODE_ROLE		"coupon_node"	/* unless the conninfo names one */
#define BYTES_PER_TIMEOUT	131072	/* a longer argument is more work */
#define MAX_TIMEOUTS	60
#define CALL			"SELECT coupon.node_call($1, $2::pg_catalog.jsonb)"

PG_FUNCTION_INFO_V1(coupon_peers_ask);

typedef enum PeerState
{
	PEER_NONE,
	PEER_LOOKED_UP,				/* the names of its hosts are */
	PEER_CONNECTING,
	PEER_READY,
	PEER_ASKED					/* and has not answered */
} PeerState;

typedef struct Peer
{
	PGconn	   *conn;
	CouponHostNames *names;		/* NULL: none is under way */
	char	   *conninfo;
	PeerState	state;
	short		wanted;			/* of poll(), while it connects */
	bool		waited;			/* for it in vain, since it was last ready */
	int			nhosts;			/* of the conninfo */
	int			first;			/* the host that is tried first, counted on */
	TimestampTz moved_at;		/* while it connects: when something happened */
} Peer;

static Peer peers[MAX_NODE_ID + 1];

static void
forget(Peer *peer)
{
	if (peer->conn != NULL)
		PQfinish(peer->conn);
	if (peer->names != NULL)
		coupon_host_names_leave(peer->names);
	if (peer->conninfo != NULL)
		pfree(peer->conninfo);
	peer->conn = NULL;
	peer->names = NULL;
	peer->conninfo = NULL;
	peer->state = PEER_NONE;
}

/* Does the line end with a place in the server's code, as file.c:123? */
static bool
names_place(const char *line)
{
	const char *colon = strrchr(line, ':');

	return colon != NULL && colon - line > 2 && strncmp(colon - 2, ".c", 2) == 0 &&
		colon[1] != '\0' && colon[1 + strspn(colon + 1, "0123456789")] == '\0';
}

/*
 * What libpq says, without empty lines and places.  A server that does not know
 * yet who connects speaks in its own encoding.
 */
static char *
tidy(const char *message)
{
	StringInfoData tidied;
	char	   *rest = pstrdup(message);

	initStringInfo(&tidied);
	for (char *line; (line = strsep(&rest, "\n")) != NULL;)
	{
		if (*line != '\0' && !names_place(line))
			appendStringInfo(&tidied, "%s%s", tidied.len > 0 ? "\n" : "", line);
	}
	if (!pg_verify_mbstr(GetDatabaseEncoding(), tidied.data, tidied.len, true))
	{
		for (char *c = tidied.data; *c != '\0'; c++)
			*c = IS_HIGHBIT_SET(*c) ? '?' : *c;
	}
	return tidied.data;
}

/* The call has failed for good. */
static void
fail(Peer *peer, CouponPeerCall *call, const char *message)
{
	call->answer = NULL;
	call->error = tidy(message);
	forget(peer);
}

/* A list of as many as there are hosts, from the peer's first one on; one of all is left. */
static char *
turn_list(const Peer *peer, char *list)
{
	StringInfoData turned;
	List	   *names = NIL;
	char	   *rest = pstrdup(list);

	for (char *name; (name = strsep(&rest, ",")) != NULL;)
		names = lappend(names, name);
	Assert(names != NIL);		/* an empty list has an empty name */
	if (list_length(names) != peer->nhosts)
		return list;
	initStringInfo(&turned);
	for (int i = 0; i < peer->nhosts; i++)
		appendStringInfo(&turned, "%s%s", i > 0 ? "," : "",
						 (char *) list_nth(names, (peer->first + i) % peer->nhosts));
	return turned.data;
}

/* How many hosts a list has. */
static int
count_hosts(const char *list)
{
	int			n = 1;

	for (; *list != '\0'; list++)
		n += *list == ',';
	return n;
}

/* What a conninfo may have. */
static const char *const options_allowed[] = {
	"host", "port", "dbname", "user", "target_session_attrs", "load_balance_hosts",
	"application_name", "connect_timeout", "tcp_user_timeout",
	"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
	"sslmode", "sslnegotiation", "sslrootcert", "channel_binding", "gssencmode", "krbsrvname", "require_auth"
};

/* The first keyword that it has and may not have, or NULL. */
static const char *
find_forbidden(const PQconninfoOption *options)
{
	for (; options != NULL && options->keyword != NULL; options++)
	{
		bool		allowed = options->val == NULL;

		for (size_t i = 0; i < lengthof(options_allowed) && !allowed; i++)
			allowed = strcmp(options->keyword, options_allowed[i]) == 0;
		if (!allowed)
			return options->keyword;
	}
	return NULL;
}

/* What the conninfo has for a keyword, NULL if nothing; of libpq's memory. */
static char *
get_option(const PQconninfoOption *options, const char *keyword)
{
	for (; options != NULL && options->keyword != NULL; options++)
	{
		if (strcmp(options->keyword, keyword) == 0)
			return options->val;
	}
	return NULL;
}

static void
open_connection(Peer *peer, CouponPeerCall *call)
{
	static const char *const lists[] = {"host", "port"};

	/*
	 * what comes before dbname is for what the conninfo leaves open, what
	 * comes behind it in place of what it says
	 */
	const char *keywords[8] = {"user", "client_encoding", "dbname"};
	const char *values[8] = {NODE_ROLE, GetDatabaseEncodingName(), call->conninfo};
	PQconninfoOption *options = peer->nhosts > 1 ? PQconninfoParse(call->conninfo, NULL) : NULL;
	int			n = 3;

	for (size_t i = 0; i < lengthof(lists); i++)
	{
		char	   *list = get_option(options, lists[i]);

		if (list == NULL)
			continue;
		keywords[n] = lists[i];
		values[n++] = turn_list(peer, list);
	}
	peer->moved_at = coupon_steady_now();
	peer->conn = PQconnectStartParams(keywords, values, 1);
	PQconninfoFree(options);
	if (peer->conn == NULL)
		fail(peer, call, "out of memory");
	else if (PQstatus(peer->conn) == CONNECTION_BAD)
		fail(peer, call, PQerrorMessage(peer->conn));
	else
	{
		/*
		 * a server that refuses is known by the error's code, in whatever
		 * language it does so
		 */
		(void) PQsetErrorVerbosity(peer->conn, PQERRORS_VERBOSE);
		peer->state = PEER_CONNECTING;
		peer->wanted = POLLOUT;
	}
}

static void
start_connecting(Peer *peer, CouponPeerCall *call)
{
	PQconninfoOption *options = PQconninfoParse(call->conninfo, NULL);
	const char *hosts = get_option(options, "host");
	const char *forbidden = find_forbidden(options);

	peer->conninfo = MemoryContextStrdup(TopMemoryContext, call->conninfo);
	peer->nhosts = hosts == NULL ? 1 : count_hosts(hosts);
	if (forbidden != NULL)
		fail(peer, call, psprintf("conninfo of a node cannot have \"%s\"", forbidden));
	else if (hosts != NULL && (peer->names = coupon_host_names_begin(hosts)) != NULL)
		peer->state = PEER_LOOKED_UP;
	else
		open_connection(peer, call);
	PQconninfoFree(options);
}

static void
send_call(Peer *peer, const char *name, CouponPeerCall *call)
{
	const char *const values[] = {name, call->argument};
	const char *superuser = PQparameterStatus(peer->conn, "is_superuser");

	/*
	 * without it, libpq waits until the call is sent, which one that hangs
	 * does not let it be, and nothing interrupts that
	 */
	if (PQsetnonblocking(peer->conn, 1) != 0)
		fail(peer, call, PQerrorMessage(peer->conn));
	else if (superuser == NULL || strcmp(superuser, "off") != 0)
		fail(peer, call, "the role of the connection to the node is a superuser");
	else if (!PQsendQueryParams(peer->conn, CALL, 2, NULL, values, NULL, NULL, 0))
		fail(peer, call, PQerrorMessage(peer->conn));
	else
	{
		peer->state = PEER_ASKED;
		peer->wanted = POLLIN | (PQflush(peer->conn) == 1 ? POLLOUT : 0);
	}
}

static void
go_on_connecting(Peer *peer, const char *name, CouponPeerCall *call)
{
	switch (PQconnectPoll(peer->conn))
	{
		case PGRES_POLLING_OK:
			peer->state = PEER_READY;
			/* it answers again */
			peer->waited = false;
			send_call(peer, name, call);
			break;
		case PGRES_POLLING_READING:
			peer->wanted = POLLIN;
			break;
		case PGRES_POLLING_WRITING:
			peer->wanted = POLLOUT;
			break;
		default:
			fail(peer, call, PQerrorMessage(peer->conn));
	}
}

/* What comes after the row may be that its transaction could not commit. */
static void
take_result(CouponPeerCall *call, PGresult *result)
{
	if (call->error != NULL)
		return;
	if (PQresultStatus(result) == PGRES_TUPLES_OK && PQntuples(result) == 1 && !PQgetisnull(result, 0, 0))
		call->answer = pstrdup(PQgetvalue(result, 0, 0));
	else if (PQresultStatus(result) == PGRES_TUPLES_OK)
		call->error = pstrdup("no answer");
	else
	{
		const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
		const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
		const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);

		call->answer = NULL;
		call->error = psprintf("%s: %s%s%s", state ? state : "?", message ? message : "connection lost",
							   detail ? "; " : "", detail ? detail : "");
	}
}

static void
go_on_reading(Peer *peer, CouponPeerCall *call)
{
	peer->wanted = POLLIN;
	if (PQflush(peer->conn) == 1)
		peer->wanted |= POLLOUT;
	if (!PQconsumeInput(peer->conn))
	{
		fail(peer, call, PQerrorMessage(peer->conn));
		return;
	}
	while (!PQisBusy(peer->conn))
	{
		PGresult   *result = PQgetResult(peer->conn);

		if (result == NULL)
		{
			peer->state = PEER_READY;
			peer->waited = false;
			if (PQstatus(peer->conn) == CONNECTION_BAD)
				forget(peer);
			return;
		}
		take_result(call, result);
		PQclear(result);
	}
}

static void
go_on(Peer *peer, const char *name, CouponPeerCall *call)
{
	if (peer->state == PEER_LOOKED_UP && coupon_host_names_known(peer->names))
	{
		coupon_host_names_leave(peer->names);
		peer->names = NULL;
		open_connection(peer, call);
		return;
	}
	peer->moved_at = coupon_steady_now();
	if (peer->state == PEER_CONNECTING)
		go_on_connecting(peer, name, call);
	else if (peer->state == PEER_ASKED)
		go_on_reading(peer, call);
}

/* A host that says nothing must leave the next ones their time. */
static void
turn_hosts(Peer *peer, CouponPeerCall *call)
{
	if (peer->state != PEER_CONNECTING || peer->nhosts == 1 ||
		!TimestampDifferenceExceeds(peer->moved_at, coupon_steady_now(), coupon_cluster_timeout / (peer->nhosts + 1)))
		return;
	peer->first = (peer->first + 1) % peer->nhosts;
	forget(peer);
	start_connecting(peer, call);
}

static void
begin_call(const char *name, CouponPeerCall *call)
{
	Peer	   *peer = &peers[call->node_id];

	call->answer = call->error = NULL;
	/* a call that was interrupted, or a node that has moved */
	if (peer->state == PEER_ASKED ||
		(peer->conninfo != NULL && strcmp(peer->conninfo, call->conninfo) != 0))
		forget(peer);
	/* an idle connection that has ended since is made again, silently */
	if (peer->state == PEER_READY && (!PQconsumeInput(peer->conn) || PQstatus(peer->conn) == CONNECTION_BAD))
		forget(peer);
	if (peer->state == PEER_NONE)
		start_connecting(peer, call);
	else if (peer->state == PEER_READY)
		send_call(peer, name, call);
}

/*
 * Is there somebody to wait for?  Those are written to fds, and who they are to
 * which.  For how long is it worth while to wait before the next look?  For
 * connections only for a time.
 */
static int
list_pending(CouponPeerCall *calls, int n, struct pollfd *fds, int *which, bool may_connect, long *slice)
{
	int			nfds = 0;

	*slice = 0;
	for (int i = 0; i < n; i++)
	{
		Peer	   *peer = &peers[calls[i].node_id];

		if (calls[i].answer != NULL || calls[i].error != NULL)
		{
			if (peer->state != PEER_ASKED)
				continue;
		}
		if (peer->state == PEER_NONE || peer->state == PEER_READY)
			continue;
		/* poll() passes by what is negative */
		fds[nfds].fd = peer->state == PEER_LOOKED_UP ? -1 : PQsocket(peer->conn);
		fds[nfds].events = peer->wanted;
		fds[nfds].revents = 0;
		which[nfds++] = i;
		if (peer->waited || !(may_connect || peer->state == PEER_ASKED))
			continue;
		if (peer->state == PEER_LOOKED_UP)
			*slice = LOOKUP_MS;
		else if (*slice == 0)
			*slice = SLICE_MS;
	}
	return nfds;
}

/* For how many times coupon.cluster_timeout is an answer waited for? */
static int
count_timeouts(const char *name, CouponPeerCall *calls, int n)
{
	/*
	 * These read much, and are made for a person who waits, or once; who does
	 * not answer them is taken for dead.
	 */
	static const char *const patient[] = {"holdings", "replaces", "leaving", "leave"};
	size_t		longest = 0;

	for (size_t i = 0; i < lengthof(patient); i++)
	{
		if (strcmp(name, patient[i]) == 0)
			return MAX_TIMEOUTS;
	}
	for (int i = 0; i < n; i++)
		longest = Max(longest, strlen(calls[i].argument));
	return (int) Min(1 + longest / BYTES_PER_TIMEOUT, MAX_TIMEOUTS);
}

void
coupon_peers_call(const char *name, CouponPeerCall *calls, int n)
{
	struct pollfd *fds = palloc(Max(n, 1) * sizeof(struct pollfd));
	int		   *which = palloc(Max(n, 1) * sizeof(int));
	TimestampTz connected = TimestampTzPlusMilliseconds(coupon_steady_now(), coupon_cluster_timeout);
	int			times = count_timeouts(name, calls, n);
	TimestampTz deadline = TimestampTzPlusMilliseconds(coupon_steady_now(), coupon_cluster_timeout * times);
	long		slice;
	int			nfds;

	for (int i = 0; i < n; i++)
		begin_call(name, &calls[i]);
	COUPON_FAULT(peer_asked);
	while ((nfds = list_pending(calls, n, fds, which, coupon_steady_now() < connected, &slice)) > 0)
	{
		long		left = TimestampDifferenceMilliseconds(coupon_steady_now(), deadline);
		int			ready;

		CHECK_FOR_INTERRUPTS();
		ready = poll(fds, nfds, Max(Min(left, slice), 0));
		for (int i = 0; i < nfds; i++)
		{
			CouponPeerCall *call = &calls[which[i]];

			if (fds[i].fd < 0 || (ready > 0 && fds[i].revents != 0))
				go_on(&peers[call->node_id], name, call);
			else
				turn_hosts(&peers[call->node_id], call);
		}
		if (ready <= 0 && (left <= 0 || slice == 0))
			break;
	}
	for (int i = 0; i < n; i++)
	{
		Peer	   *peer = &peers[calls[i].node_id];

		/* an answer counts once it is committed */
		if (peer->state == PEER_ASKED)
			calls[i].answer = NULL;
		if (calls[i].answer == NULL && calls[i].error == NULL)
		{
			/*
			 * one that connects goes on with that; an answer to this call has
			 * no taker
			 */
			if (peer->state == PEER_ASKED)
				forget(peer);
			peer->waited = true;
			calls[i].error = pstrdup("no answer in time");
		}
	}
	COUPON_FAULT(peer_answered);
	pfree(which);
	pfree(fds);
}

/*
 * coupon.peers_ask(nodes, conninfos, call, arguments) RETURNS SETOF (node_id, answer, error)
 */
Datum
coupon_peers_ask(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *nodes;
	Datum	   *conninfos;
	Datum	   *arguments;
	bool	   *nulls;
	int			n;
	int			m;
	int			k;
	CouponPeerCall *calls;

	for (int i = 0; i < 4; i++)
		coupon_require_argument(fcinfo, i, "argument");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), INT4OID, sizeof(int32), true, TYPALIGN_INT, &nodes, &nulls, &n);
	coupon_check_no_nulls("nodes", nulls, n);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT, &conninfos, &nulls, &m);
	coupon_check_no_nulls("conninfos", nulls, m);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), TEXTOID, -1, false, TYPALIGN_INT, &arguments, &nulls, &k);
	coupon_check_no_nulls("arguments", nulls, k);
	if (m != n || k != n)
		elog(ERROR, "arrays of different lengths");
	calls = palloc0(Max(n, 1) * sizeof(CouponPeerCall));
	for (int i = 0; i < n; i++)
	{
		calls[i].node_id = DatumGetInt32(nodes[i]);
		if (calls[i].node_id < 1 || calls[i].node_id > MAX_NODE_ID)
			elog(ERROR, "there is no node %d", calls[i].node_id);
		calls[i].conninfo = TextDatumGetCString(conninfos[i]);
		calls[i].argument = TextDatumGetCString(arguments[i]);
	}
	coupon_peers_call(text_to_cstring(PG_GETARG_TEXT_PP(2)), calls, n);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
	{
		Datum		values[3] = {0};
		bool		isnull[3] = {false, calls[i].answer == NULL, calls[i].error == NULL};

		values[0] = Int32GetDatum(calls[i].node_id);
		if (!isnull[1])
			values[1] = CStringGetTextDatum(calls[i].answer);
		if (!isnull[2])
			values[2] = CStringGetTextDatum(calls[i].error);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
	/* a session of a person's keeps no connections */
	for (int i = 0; i < n && MyBackendType != B_BG_WORKER; i++)
		forget(&peers[calls[i].node_id]);
	return (Datum) 0;
}
