/*
 * A node is replaced by a standby that lags behind: it has forgotten its last
 * transfers, which the other node remembers.  Spin tries every order of the
 * steps, with the copy that the standby has taken at any moment.
 *
 * Node 1 fails, once.  Its standby has what node 1 had at an earlier moment.
 * It is promoted with a new epoch, tells the other node so, gets back all
 * transfers between the two, makes up for those that it does not know, and only
 * then sells or gives anything.  Answers of the old primary are still on the
 * wire, and it may be started again.
 *
 * What must hold: when node 1 sells again each unit is owned by one node or is
 * in transit.  While it is made up, nothing of it is on sale.
 */

#ifndef UNITS
#define UNITS		2
#endif
#ifndef TRANSFERS
#define TRANSFERS	3
#endif

#define ALL			((1 << UNITS) - 1)
#define OTHER(n)	(1 - (n))
#define D			donor[t]
#define R			OTHER(donor[t])

/* durable at each node: the units it owns, the transfers it knows.  A transfer's
 * row is written with its effect: the donor's cuts, the receiver's adds. */
byte own[2];
bool has_row_0[TRANSFERS];
bool has_row_1[TRANSFERS];

/* what a transfer says of itself, the same on both sides */
byte donor[TRANSFERS];
byte units[TRANSFERS];
byte epoch_of[TRANSFERS];		/* its donor's when it was cut */
byte begun;

/* what the standby has, and what the old primary keeps */
bool copied;
byte copy_own;
bool copy_row[TRANSFERS];
byte old_own;

byte epoch;						/* node 1's: 1 after the promotion */
byte epoch_known;				/* of node 1, at node 0 */
bool confirmed = true;			/* node 1 sells and gives */
bool told;						/* node 0 has answered with its transfers */
bool answer_row[TRANSFERS];		/* that answer */
bool old_runs;					/* the old primary was started again, and sells */

/* on the wire: a bit that stays, see transfer.pml.  Only what node 1 said
 * before it failed can be late in a way that matters: whatever is offered by
 * rows is offered again. */
bool offer[TRANSFERS];

#define IN_TRANSIT(t)	(t < begun && ((donor[t] == 0 && has_row_0[t] && !has_row_1[t]) || (donor[t] == 1 && has_row_1[t] && !has_row_0[t])) -> units[t] : 0)

#if TRANSFERS == 2
#define TRANSIT		(IN_TRANSIT(0) | IN_TRANSIT(1))
#else
#define TRANSIT		(IN_TRANSIT(0) | IN_TRANSIT(1) | IN_TRANSIT(2))
#endif

inline laws()
{
	if
	:: confirmed ->
		assert((own[0] & own[1]) == 0);
		assert(((own[0] | own[1]) & TRANSIT) == 0);
		assert((own[0] | own[1] | TRANSIT) == ALL)
	:: else
	fi
}

/* asked in the transaction that takes the units, not in a look before it */
#ifdef MUTANT_OLD_OFFERS_ARE_TAKEN
#define CURRENT(t)	true
#else
#define CURRENT(t)	(epoch_of[t] == epoch_known)
#endif

/* makes up for a transfer as if it were the only one */
#define APPLY	has_row_1[t] = true; if :: donor[t] == 0 -> own[1] = own[1] | units[t] :: else -> own[1] = own[1] & ~units[t] fi

proctype transfer(byte t)
{
	do
	/* ---- the donor: cut and row in one transaction ---- */
	:: atomic { t == begun && own[0] ->
		donor[t] = 0; begun++; has_row_0[t] = true;
		if
		:: own[0] & 1 -> units[t] = 1
		:: own[0] & 2 -> units[t] = 2
		:: own[0] == 3 -> units[t] = 3
		fi;
		own[0] = own[0] & ~units[t];
		offer[t] = true;
		laws() }
	:: atomic { t == begun && own[1] && confirmed ->
		donor[t] = 1; begun++; has_row_1[t] = true;
		epoch_of[t] = epoch;
		if
		:: own[1] & 1 -> units[t] = 1
		:: own[1] & 2 -> units[t] = 2
		:: own[1] == 3 -> units[t] = 3
		fi;
		own[1] = own[1] & ~units[t];
		offer[t] = true;
		laws() }

	/* ---- the receiver: units and row in one transaction ---- */
	:: atomic { t < begun && donor[t] == 1 && offer[t] && !has_row_0[t] && CURRENT(t) ->
		has_row_0[t] = true;
		own[0] = own[0] | units[t];
		laws() }
	:: atomic { t < begun && donor[t] == 0 && offer[t] && !has_row_1[t] && confirmed ->
		has_row_1[t] = true;
		own[1] = own[1] | units[t];
		laws() }
	od
}

proctype failover()
{
	byte t;
	byte turned;

	/* the standby's copy: whatever moment */
	atomic { true ->
		copied = true;
		copy_own = own[1];
		do
		:: t < TRANSFERS -> copy_row[t] = has_row_1[t]; t++
		:: else -> break
		od;
		t = 0 };

	/* promoted */
	atomic { true ->
		old_own = own[1];
		own[1] = copy_own;
		do
		:: t < TRANSFERS -> has_row_1[t] = copy_row[t]; t++
		:: else -> break
		od;
		t = 0;
		epoch = 1;
#ifdef MUTANT_SELLS_WITHOUT_ASKING
		epoch_known = 1;
		confirmed = true;
#else
		confirmed = false;
#endif
		laws() };

#ifndef MUTANT_SELLS_WITHOUT_ASKING
	/* node 0 is told, and answers with its transfers: one transaction there */
	atomic { true ->
#ifndef MUTANT_ANSWERS_BEFORE_IT_LEARNS
		epoch_known = 1;
#endif
		do
		:: t < TRANSFERS -> answer_row[t] = has_row_0[t]; t++
		:: else -> break
		od;
		t = 0;
		told = true };
#ifdef MUTANT_ANSWERS_BEFORE_IT_LEARNS
	atomic { true -> epoch_known = 1 };
#endif

	/* node 1 makes up for what it has forgotten */
#ifdef MUTANT_MAKES_UP_IN_ANY_ORDER
	do
	:: atomic { answer_row[0] && !has_row_1[0] -> t = 0; APPLY }
	:: atomic { answer_row[1] && !has_row_1[1] -> t = 1; APPLY }
	:: atomic { answer_row[2] && !has_row_1[2] -> t = 2; APPLY }
	:: atomic { else -> confirmed = true; laws(); break }
	od;
#else
	/*
	 * All of them at once, and as a sum: a unit has come back if it came more
	 * often than it went.  In which order they were nobody needs to know.
	 */
	atomic { true ->
		do
		:: t < TRANSFERS ->
			if
			:: answer_row[t] && !has_row_1[t] ->
				has_row_1[t] = true;
				turned = turned ^ units[t]
			:: else
			fi;
			t++
		:: else -> break
		od;
		/* comings and goings of a unit take turns: an odd number of them turns
		 * what was there before */
		own[1] = own[1] ^ turned;
		confirmed = true;
		laws() };
#endif
#endif

	/* the old primary is started again: it asks before it sells */
	atomic { true ->
#ifndef MUTANT_OLD_PRIMARY_DOES_NOT_ASK
		if
		:: epoch_known == 0 -> old_runs = true
		:: else
		fi
#else
		old_runs = true
#endif
		};
	assert(!(old_runs && confirmed && old_own && own[1]))
}

init
{
	atomic {
		if
		:: own[0] = ALL
		:: own[0] = 1
		:: own[0] = 0
		fi;
		own[1] = ALL & ~own[0];
		run transfer(0);
		run transfer(1);
#if TRANSFERS > 2
		run transfer(2);
#endif
		run failover()
	}
}
