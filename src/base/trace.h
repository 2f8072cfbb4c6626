/*
 * trace.h
 *	  The trace that a call belongs to: the traceparent of W3C trace context.
 *
 * Events carry it, and so do the session's lines in the server's log.  NULL is
 * no trace, everywhere.
 */
#ifndef COUPON_TRACE_H
#define COUPON_TRACE_H

#define COUPON_TRACE_SIZE	56	/* of a traceparent of version 00, with its
								 * NUL */

/*
 * Reads a traceparent as a client gave it; one of a later version becomes what
 * version 00 knows of it.  False: it is none.  Never throws.
 */
extern bool coupon_trace_parse(const char *given, char trace[COUPON_TRACE_SIZE]);

/* That of the setting coupon.traceparent; valid until it changes. */
extern const char *coupon_trace(void);

/*
 * For ereport: the line in the log says which trace it belongs to.  errcontext
 * is two expressions with a comma between, hence its parentheses.
 */
#define coupon_trace_context(trace) \
	((trace) == NULL ? 0 : (errcontext("traceparent %s", (trace))))

/* Defines the setting. */
extern void coupon_trace_define(void);

#endif							/* COUPON_TRACE_H */
