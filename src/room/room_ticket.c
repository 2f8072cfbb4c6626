/*
 * room_ticket.c
 *	  Waiting rooms, as their visitors use them: join, ask, show, leave.
 *
 * A token says room and number, so that finding a ticket is two array
 * accesses, and 122 random bits that make it nobody else's.  Asking for the
 * position and showing the token read and write shared memory alone: they
 * work in a READ ONLY transaction and cost no more than a call.
 *
 * A user has one live ticket in a room: joining again answers with the same.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/random.h"
#include "base/stat.h"
#include "queue/own_row.h"
#include "queue/queue_table.h"
#include "room/room_change.h"
#include "room/room_ticket.h"
#include "room/ticket_table.h"

PG_FUNCTION_INFO_V1(coupon_queue_join);
PG_FUNCTION_INFO_V1(coupon_queue_position);
PG_FUNCTION_INFO_V1(coupon_queue_require);
PG_FUNCTION_INFO_V1(coupon_queue_leave);
PG_FUNCTION_INFO_V1(coupon_room_counts);

static const char *const join_outcomes[] = {"waiting", "admitted", "rejected", "gone"};

CouponWay	coupon_way_join = {
	.name = "join",
	.kind = COUPON_WAY_TRANSACTION,
	.outcomes = join_outcomes,
	.noutcomes = lengthof(join_outcomes)
};

/* ---- answers ---- */

#define RESULT_NATTS	5

#define MIN_POLL_US		(1 * USECS_PER_SEC)
#define MAX_POLL_US		(30 * USECS_PER_SEC)

static const CouponTicketAnswer gone = {"GONE", NULL, -1, -1, -1};

/* When to ask again: soon near the front, at leisure far behind. */
static int64
poll_after(CouponLine *line, int64 position, int64 eta)
{
	int64		wait;

	if (eta >= 0)
		wait = eta / 10;
	else
		wait = position <= 100 ? MIN_POLL_US : position <= 1000 ? 5 * USECS_PER_SEC : 15 * USECS_PER_SEC;
	wait = Max(MIN_POLL_US, Min(wait, MAX_POLL_US));
	/* and in time not to be taken for gone */
	return Min(wait, coupon_room(line)->def.idle_ttl / 3);
}

/* What is told of a session. */
static CouponTicketAnswer
admitted(CouponLine *line)
{
	CouponTicketAnswer answer = {"ADMITTED", NULL, 0, 0, coupon_room(line)->def.idle_ttl / 3};

	return answer;
}

/* What a ticket's holder is told.  Under the line's lock. */
static CouponTicketAnswer
answer_for(CouponLine *line, const CouponTicket *ticket, int64 number, TimestampTz now)
{
	CouponTicketAnswer answer = {"WAITING", NULL, -1, -1, -1};
	const CouponRoom *room = coupon_room(line);
	double		rate = line->rate;

	if (ticket->flags & TICKET_ADMITTED)
		return admitted(line);
	if (now < room->def.opens_at)
		answer.eta = room->def.opens_at - now;
	if (room->def.method == COUPON_ROOM_RANDOM && room->def.opens_at != DT_NOBEGIN &&
		(room->def.drawn < 0 || (number <= room->def.drawn && number > room->placed)))
	{
		/* nobody has a place before the draw, and before it is known here */
		answer.poll_after = poll_after(line, 0, answer.eta);
		return answer;
	}
	answer.position = coupon_line_ahead(line, coupon_room_place(line, number)) + 1;
	if (room->def.per_second > 0 && (rate == 0 || rate > room->def.per_second))
		rate = room->def.per_second;
	if (rate > 0)
		answer.eta = Max(answer.eta, 0) +
			Min(answer.position / rate * USECS_PER_SEC, (double) (100 * USECS_PER_DAY));
	else if (room->nadmitted < room->def.capacity && answer.eta < 0 && !room->def.paused)
		answer.eta = 0;
	answer.poll_after = poll_after(line, answer.position, answer.eta);
	return answer;
}

static Datum
form_answer(FunctionCallInfo fcinfo, const CouponTicketAnswer *answer)
{
	TypeCacheEntry *entry = lookup_type_cache(get_func_rettype(fcinfo->flinfo->fn_oid),
											  TYPECACHE_TUPDESC);
	Datum		values[RESULT_NATTS] = {0};
	bool		nulls[RESULT_NATTS];

	if (entry->tupDesc == NULL || entry->tupDesc->natts != RESULT_NATTS)
		elog(ERROR, "coupon.queue_result has an unexpected shape");
	values[0] = CStringGetTextDatum(answer->status);
	nulls[0] = false;
	nulls[1] = answer->token == NULL;
	if (!nulls[1])
		values[1] = CStringGetTextDatum(answer->token);
	nulls[2] = answer->position < 0;
	values[2] = Int64GetDatum(answer->position);
	nulls[3] = answer->eta < 0;
	if (!nulls[3])
		values[3] = coupon_interval(answer->eta);
	nulls[4] = answer->poll_after < 0;
	if (!nulls[4])
		values[4] = coupon_interval(answer->poll_after);
	return HeapTupleGetDatum(heap_form_tuple(entry->tupDesc, values, nulls));
}

/* ---- tokens ---- */

static char *
make_token(int64 room_id, int64 number, const uint8 *secret)
{
	char	   *token = palloc(80);
	int			at = snprintf(token, 80, "%lld.%lld.", (long long) room_id, (long long) number);

	hex_encode((const char *) secret, 16, token + at);
	token[at + 32] = '\0';
	return token;
}

static bool
parse_number(const char **at, const char *end, int64 *number)
{
	const char *start = *at;

	*number = 0;
	while (*at < end && **at >= '0' && **at <= '9' && *at - start < 18)
		*number = *number * 10 + (*(*at)++ - '0');
	return *at > start && *at < end && *(*at)++ == '.' && *number > 0;
}

bool
coupon_token_parse(const text *value, CouponToken *token)
{
	const char *at = VARDATA_ANY(value);
	const char *end = at + VARSIZE_ANY_EXHDR(value);
	bool		good = parse_number(&at, end, &token->room_id) && parse_number(&at, end, &token->number) &&
	end - at == 32;

	for (int i = 0; i < 32 && good; i++)
	{
		int			digit = coupon_hex_digit(at[i]);

		good = digit >= 0;
		if (good)
			token->secret[i / 2] = i % 2 == 0 ? digit << 4 : token->secret[i / 2] | digit;
	}
	return good;
}

/* ERROR unless it has the form of a token. */
static void
get_token(FunctionCallInfo fcinfo, CouponToken *token)
{
	text	   *value;

	coupon_require_argument(fcinfo, 0, "token");
	value = PG_GETARG_TEXT_PP(0);
	if (!coupon_token_parse(value, token))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid token"),
				 errdetail("The value has %d bytes and not the form of a token.", (int) VARSIZE_ANY_EXHDR(value)),
				 errhint("Pass the token that coupon_queue_join() returned, as it is.")));
}

/* Compares all bytes, so that the time says nothing of how many are right. */
static bool
same_secret(const uint8 *a, const uint8 *b)
{
	uint8		difference = 0;

	for (int i = 0; i < 16; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

/* The live ticket of a token, its line locked; NULL: none, nothing is locked. */
static CouponTicket *
find_ticket(const CouponToken *token, TimestampTz now, CouponLine **line)
{
	CouponTicket *ticket;

	*line = coupon_room_lock(token->room_id, LW_SHARED, false);
	if (*line == NULL)
		return NULL;
	ticket = coupon_room_ticket(*line, token->number);
	if (ticket != NULL && same_secret(ticket->secret, token->secret) &&
		coupon_ticket_is_alive(*line, ticket, now))
		return ticket;
	LWLockRelease((*line)->lock);
	return NULL;
}

/* ---- asking ---- */

void
coupon_ticket_position(const CouponToken *token, CouponTicketAnswer *answer)
{
	TimestampTz now = GetCurrentTimestamp();
	CouponTicket *ticket;
	CouponLine *line;

	PreventCommandDuringRecovery("coupon_queue_position()");
	*answer = gone;
	ticket = find_ticket(token, now, &line);
	if (ticket == NULL)
		return;
	ticket->seen = coupon_room_clock(now);
	*answer = answer_for(line, ticket, token->number, now);
	answer->waiting = line->live;
	LWLockRelease(line->lock);
}

/*
 * coupon_queue_position(token)
 */
Datum
coupon_queue_position(PG_FUNCTION_ARGS)
{
	CouponTicketAnswer answer;
	CouponToken token;

	get_token(fcinfo, &token);
	coupon_ticket_position(&token, &answer);
	return form_answer(fcinfo, &answer);
}

/* ---- rooms ---- */

int64
coupon_room_find(text *name)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64		room_id = 0;
	ScanKeyData key;
	CouponScan	scan;

	coupon_key_text(&key, 1, PointerGetDatum(name));
	coupon_scan_begin(&scan, catalog->room, catalog->room_name_key, snapshot, &key, 1, false);
	if (coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;

		room_id = DatumGetInt64(slot_getattr(scan.slot, Room_id, &isnull));
	}
	coupon_scan_end_unlock(&scan);
	UnregisterSnapshot(snapshot);
	return room_id;
}

/* The id of a room; ERROR if there is none of that name. */
static int64
find_room(text *name)
{
	int64		room_id = coupon_room_find(name);

	if (room_id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_UNKNOWN_ROOM),
				 errmsg("unknown room"),
				 errdetail("There is no room \"%s\".", text_to_cstring(name)),
				 errhint("Make it with coupon_room_create(); coupon.room_status lists them.")));
	return room_id;
}

/* ---- showing ---- */

/*
 * coupon_queue_require(token, room, user_id): ERROR unless it is of a session,
 * in that room and of that user if they are given
 */
Datum
coupon_queue_require(PG_FUNCTION_ARGS)
{
	TimestampTz now = GetCurrentTimestamp();
	const char *is = "is not a live one";
	bool		elsewhere = false;
	CouponTicket *ticket;
	CouponLine *line;
	CouponToken token;

	get_token(fcinfo, &token);
	if (!PG_ARGISNULL(2))
		coupon_check_text(fcinfo, 2, "user_id", 1, COUPON_MAX_NAME);
	PreventCommandDuringRecovery("coupon_queue_require()");
	if (!PG_ARGISNULL(1))
	{
		coupon_check_text(fcinfo, 1, "room", 1, COUPON_MAX_NAME);
		elsewhere = find_room(PG_GETARG_TEXT_PP(1)) != token.room_id;
	}
	ticket = elsewhere ? NULL : find_ticket(&token, now, &line);
	if (elsewhere)
		is = "is of another room";
	if (ticket != NULL)
	{
		if (!(ticket->flags & TICKET_ADMITTED))
			is = "is still waiting";
		else if (!PG_ARGISNULL(2) &&
				 !coupon_room_is_session_of(line, token.number, PG_GETARG_TEXT_PP(2)))
			is = "is another user's";
		else
			is = NULL;
		ticket->seen = coupon_room_clock(now);
		LWLockRelease(line->lock);
	}
	if (is != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_NOT_ADMITTED),
				 errmsg("not admitted"),
				 errdetail("Ticket %lld of room %lld %s.", (long long) token.number, (long long) token.room_id, is),
				 errhint("Join the room with coupon_queue_join(), and ask coupon_queue_position() until the position is 0.")));
	PG_RETURN_VOID();
}

COUPON_FOR_OTHER_USERS(coupon_queue_require, 2);

/* ---- joining ---- */

/* The user's ticket that has not ended answers a join. */
static bool
answers(TupleTableSlot *slot, uint32 child, void *arg)
{
	if (!slot_attisnull(slot, Ticket_ended_at))
		return false;
	coupon_ticket_read(slot, child, arg);
	return true;
}

static void
note_end(const CouponTicketRow *row)
{
	CouponLine *line;

	coupon_pending_reserve(1);
	line = coupon_queue_lock(&coupon_tickets, row->room_id, LW_EXCLUSIVE, true);
	coupon_pending_push(coupon_apply_end, line, row->number, row->child,
						coupon_room_hash_user(row->user_id));
	LWLockRelease(line->lock);
}

/* Ends a ticket in this transaction. */
static CouponTicketEnd
end_ticket(CouponTicketRow *row, const char *reason, bool wait)
{
	CouponTableWriter *rows = coupon_writer_open(coupon_catalog()->tickets[row->child], COUPON_UPDATE);
	CouponTicketEnd end = COUPON_TICKET_GONE;
	bool		found = true;

	/* rows of this transaction are changed by a later command only */
	CommandCounterIncrement();
	while (found && row->ended_at == 0 && end == COUPON_TICKET_GONE)
	{
		CouponRowChange change;

		CHECK_FOR_INTERRUPTS();
		row->ended_at = GetCurrentTimestamp();
		row->reason = cstring_to_text(reason);
		change = coupon_ticket_update(rows, row, wait);
		if (change == COUPON_ROW_CHANGED)
		{
			note_end(row);
			end = COUPON_TICKET_LEFT;
		}
		else if (change == COUPON_ROW_LOCKED)
			end = COUPON_TICKET_LOCKED;
		else
			found = coupon_ticket_find(row->room_id, row->number, row->child, row);
	}
	coupon_writer_close(rows);
	return end;
}

/* Is the ticket, whose row says that it lives, alive by the clock?  Renews it. */
static bool
renew(const CouponTicketRow *row, CouponTicketAnswer *answer)
{
	TimestampTz now = GetCurrentTimestamp();
	CouponLine *line = coupon_room_lock(row->room_id, LW_SHARED, true);
	CouponTicket *ticket;
	bool		alive;

	if (line == NULL)
		return false;
	ticket = coupon_room_ticket(line, row->number);
	alive = ticket != NULL && coupon_ticket_is_alive(line, ticket, now);
	if (alive)
	{
		ticket->seen = coupon_room_clock(now);
		*answer = answer_for(line, ticket, row->number, now);
	}
	LWLockRelease(line->lock);
	if (alive)
		answer->token = make_token(row->room_id, row->number, row->secret.data);
	return alive;
}

static void
make_secret(pg_uuid_t *secret)
{
	coupon_random(secret->data, UUID_LEN);
	/* version 4, as the column's type wants to be read */
	secret->data[6] = (secret->data[6] & 0x0f) | 0x40;
	secret->data[8] = (secret->data[8] & 0x3f) | 0x80;
}

/* What is remembered of a ticket that enters the line, and what its holder is told. */
static void
note_ticket(CouponLine *line, const CouponTicketRow *row, bool admit, CouponTicketAnswer *answer)
{
	CouponTicket *ticket = coupon_room_ticket(line, row->number);

	memset(ticket, 0, sizeof(*ticket));
	memcpy(ticket->secret, row->secret.data, UUID_LEN);
	ticket->seen = coupon_room_clock(row->joined_at);
	ticket->child = row->child;
	ticket->flags = TICKET_USED;
	if (admit)
	{
		ticket->admitted = ticket->seen;
		coupon_line_clear(line, row->number);
		*answer = admitted(line);
	}
	else
		*answer = answer_for(line, ticket, row->number, row->joined_at);
}

/*
 * Is everybody let in at once?  Not before the opening, nor during a pause, and then
 * the worker admits those first who have waited for its end.
 */
static bool
is_wide_open(CouponLine *line, TimestampTz now)
{
	const CouponRoomDefinition *def = &coupon_room(line)->def;

	return def->method == COUPON_ROOM_PASSTHROUGH && !def->paused && now >= def->opens_at &&
		line->ready == 0;
}

/* A place in the line, and the row that says so. */
static void
enter_room(int64 room_id, text *user_id, CouponTicketAnswer *answer)
{
	CouponQueue *queue = coupon_queue(&coupon_tickets);
	CouponTicketRow row = {.room_id = room_id,.user_id = user_id,.joined_at = GetCurrentTimestamp()};
	CouponTableWriter *rows;
	CouponLine *line;
	CouponEntering entering;
	bool		admit;

	rows = coupon_queue_table_open(&coupon_tickets, queue, &row.child);
	make_secret(&row.secret);
	coupon_pending_reserve(1);

	line = coupon_room_lock(room_id, LW_EXCLUSIVE, true);
	if (line == NULL || coupon_room(line)->def.method == COUPON_ROOM_REJECT)
	{
		if (line != NULL)
			LWLockRelease(line->lock);
		coupon_writer_close(rows);
		*answer = gone;
		answer->status = "REJECTED";
		return;
	}
	admit = is_wide_open(line, row.joined_at);
	entering = admit && !coupon_room_reserve(line, 1) ? COUPON_NO_MEMORY :
		coupon_queue_enter(line, &row.number);
	if (entering == COUPON_ENTERED)
	{
		pg_atomic_fetch_add_u32(&queue->open[row.child], 1);
		coupon_pending_push(admit ? coupon_apply_join_admitted : coupon_apply_join,
							line, row.number, row.child, coupon_room_hash_user(user_id));
		note_ticket(line, &row, admit, answer);
	}
	LWLockRelease(line->lock);
	if (entering != COUPON_ENTERED)
		coupon_queue_refuse(entering);

	COUPON_FAULT(ticket_entered);
	row.admitted_at = admit ? row.joined_at : 0;
	coupon_ticket_fill(coupon_writer_row(rows), &row);
	coupon_writer_insert(rows);
	coupon_writer_close(rows);
	answer->token = make_token(room_id, row.number, row.secret.data);
}

bool
coupon_ticket_join(int64 room_id, text *user_id, bool wait, CouponTicketAnswer *answer)
{
	*answer = gone;
	(void) coupon_queue(&coupon_tickets);
	for (;;)
	{
		CouponTicketRow row;
		int			nothers;
		uint64		lock;
		CouponOwnRow own = coupon_own_row_lock(&coupon_tickets, room_id, user_id, answers, false,
											   &row, wait, &nothers, &lock);
		bool		done = true;

		if (own == COUPON_OWN_LOCKED)
			return false;
		if (own == COUPON_OWN_NONE)
			enter_room(room_id, user_id, answer);
		else
			done = renew(&row, answer);
		coupon_own_row_unlock(&coupon_tickets, lock);
		if (done)
			return true;
		/* over by the clock, but nobody has noted it yet */
		if (end_ticket(&row, "expired", wait) == COUPON_TICKET_LOCKED)
			return false;
	}
}

int
coupon_ticket_outcome(const CouponTicketAnswer *answer)
{
	return coupon_stat_find(&coupon_way_join, answer->status);
}

static Datum
join(PG_FUNCTION_ARGS)
{
	CouponTicketAnswer answer;

	coupon_check_text(fcinfo, 0, "room", 1, COUPON_MAX_NAME);
	coupon_check_text(fcinfo, 1, "user_id", 1, COUPON_MAX_NAME);
	PreventCommandDuringRecovery("coupon_queue_join()");
	PreventCommandIfReadOnly("coupon_queue_join()");
	(void) coupon_queue(&coupon_tickets);
	(void) coupon_ticket_join(find_room(PG_GETARG_TEXT_PP(0)), PG_GETARG_TEXT_PP(1), true, &answer);
	coupon_stat_outcome(coupon_ticket_outcome(&answer), 1);
	return form_answer(fcinfo, &answer);
}

/*
 * coupon_queue_join(room, user_id)
 */
Datum
coupon_queue_join(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_join, join);
}

COUPON_FOR_OTHER_USERS(coupon_queue_join, 1);

/* ---- leaving ---- */

CouponTicketEnd
coupon_ticket_leave(const CouponToken *token, const char *reason, bool wait)
{
	CouponTicketRow row;
	bool		found = false;

	(void) coupon_queue(&coupon_tickets);
	/* rows of this transaction are seen by a later command only */
	CommandCounterIncrement();
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN && !found; child++)
		found = coupon_ticket_find(token->room_id, token->number, child, &row);
	if (!found || !same_secret(row.secret.data, token->secret))
		return COUPON_TICKET_GONE;
	return end_ticket(&row, reason, wait);
}

/*
 * coupon_queue_leave(token, reason): true if this call ended the ticket
 */
Datum
coupon_queue_leave(PG_FUNCTION_ARGS)
{
	const char *reason;
	CouponToken token;

	get_token(fcinfo, &token);
	reason = coupon_get_text(fcinfo, 1, "reason", 1, COUPON_MAX_NAME);
	PreventCommandDuringRecovery("coupon_queue_leave()");
	PreventCommandIfReadOnly("coupon_queue_leave()");
	PG_RETURN_BOOL(coupon_ticket_leave(&token, reason, true) == COUPON_TICKET_LEFT);
}

/* ---- status ---- */

/*
 * coupon_room_counts(room_id): what shared memory knows of a room
 */
Datum
coupon_room_counts(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[5] = {0};
	bool		nulls[5] = {0};
	CouponLine *line;

	coupon_require_argument(fcinfo, 0, "room_id");
	PreventCommandDuringRecovery("coupon_room_counts()");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != 5)
		elog(ERROR, "coupon_room_counts has an unexpected shape");
	line = coupon_room_lock(PG_GETARG_INT64(0), LW_SHARED, true);
	if (line == NULL)
		PG_RETURN_NULL();
	values[0] = Int64GetDatum(line->live);
	values[1] = Int64GetDatum(coupon_room(line)->nadmitted);
	values[2] = Int64GetDatum(line->next - 1);
	values[3] = Int64GetDatum(line->served);
	values[4] = Float8GetDatum(line->rate);
	nulls[4] = line->rate == 0;
	LWLockRelease(line->lock);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
