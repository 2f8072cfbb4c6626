/*
 * trace.c
 *	  The trace that a call belongs to: the setting, and the log.
 */
#include "postgres.h"

#include "utils/elog.h"
#include "utils/guc.h"

#include "base/trace.h"

/* Of "00-<32 digits>-<16 digits>-<2 digits>" */
#define AT_TRACE	3
#define AT_PARENT	36
#define AT_FLAGS	53
#define LENGTH		(COUPON_TRACE_SIZE - 1)

static char *setting = NULL;
static char session_trace[COUPON_TRACE_SIZE];	/* empty: none */
static emit_log_hook_type previous_hook = NULL;

/* ---- reading ---- */

/* Digits are lower case, whatever comes. */
static bool
is_hex(const char *digits, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (!((digits[i] >= '0' && digits[i] <= '9') || (digits[i] >= 'a' && digits[i] <= 'f')))
			return false;
	}
	return true;
}

static bool
is_id(const char *digits, int n)
{
	return is_hex(digits, n) && strspn(digits, "0") < n;
}

bool
coupon_trace_parse(const char *given, char trace[COUPON_TRACE_SIZE])
{
	bool		later;

	if (strnlen(given, LENGTH) < LENGTH || !is_hex(given, 2) || strncmp(given, "ff", 2) == 0 ||
		given[AT_TRACE - 1] != '-' || given[AT_PARENT - 1] != '-' || given[AT_FLAGS - 1] != '-' ||
		!is_id(given + AT_TRACE, 32) || !is_id(given + AT_PARENT, 16) || !is_hex(given + AT_FLAGS, 2))
		return false;
	later = strncmp(given, "00", 2) != 0;
	if (given[LENGTH] != '\0' && !(later && given[LENGTH] == '-'))
		return false;

	memcpy(trace, given, LENGTH);
	trace[LENGTH] = '\0';
	if (later)
	{
		/* of the flags, "sampled" is the one that all versions have */
		bool		sampled = strchr("13579bdf", given[LENGTH - 1]) != NULL;

		memcpy(trace, "00", 2);
		memcpy(trace + AT_FLAGS, sampled ? "01" : "00", 2);
	}
	return true;
}

/* ---- the setting ---- */

static bool
check(char **value, void **extra, GucSource source)
{
	char		trace[COUPON_TRACE_SIZE];

	if ((*value)[0] == '\0' || coupon_trace_parse(*value, trace))
		return true;
	GUC_check_errdetail("A traceparent of W3C trace context has the form 00-<trace id, 32 digits>-<parent id, 16 digits>-<flags, 2 digits>, hexadecimal digits of lower case, and no id of zeros.");
	GUC_check_errhint("Pass on the header that came with the call, or set it to '' if there was none.");
	return false;
}

static void
assign(const char *value, void *extra)
{
	if (value == NULL || !coupon_trace_parse(value, session_trace))
		session_trace[0] = '\0';
}

const char *
coupon_trace(void)
{
	return session_trace[0] == '\0' ? NULL : session_trace;
}

/* ---- the log ---- */

/* Whatever a session with a trace writes into the log names it. */
static void
add_to_line(ErrorData *line)
{
	char	   *before = line->context;

	if (session_trace[0] != '\0' && !line->hide_ctx)
	{
		Size		size = (before == NULL ? 0 : strlen(before) + 1) + strlen("traceparent ") + COUPON_TRACE_SIZE;
		char	   *context = MemoryContextAllocExtended(line->assoc_context, size, MCXT_ALLOC_NO_OOM);

		if (context != NULL)
		{
			snprintf(context, size, "%s%straceparent %s", before == NULL ? "" : before,
					 before == NULL ? "" : "\n", session_trace);
			line->context = context;
			/* as errcontext does; no error may come that frees it with others */
			if (before != NULL)
				pfree(before);
		}
	}
	if (previous_hook != NULL)
		previous_hook(line);
}

void
coupon_trace_define(void)
{
	DefineCustomStringVariable("coupon.traceparent",
							   "The trace that the session's calls belong to, a traceparent of W3C trace context; empty: none.",
							   "Events have it as a header, and the session's lines in the server's log as context.",
							   &setting, "",
							   PGC_USERSET, 0, check, assign, NULL);
	previous_hook = emit_log_hook;
	emit_log_hook = add_to_line;
}
