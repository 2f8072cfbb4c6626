/*
 * attempt.h
 *	  Work whose failure is to undo that work alone.
 */
#ifndef COUPON_ATTEMPT_H
#define COUPON_ATTEMPT_H

/*
 * Does work(arg) in a subtransaction.  NULL, or the ERROR for which it was
 * rolled back, for the caller to free.  Being told to stop (class 57) is an
 * ERROR of the caller's, too.
 */
extern ErrorData *coupon_attempt(void (*work) (void *arg), void *arg);

#endif							/* COUPON_ATTEMPT_H */
