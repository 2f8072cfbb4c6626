/*
 * Two nodes share a stock of three units: transfers of units between them, and
 * the verdict "sold out", as src/cluster/ carries them out.  Spin tries every
 * order of the steps below, with kill -9 of either node between any two, with
 * messages lost, doubled and late.
 *
 * A message is a bit that stays, sent at the first moment possible: it may be
 * read at any time after, again and again, or never.  That is delay, changed
 * order, doubling and loss in one.
 *
 * What must hold (the asserts):
 *   - each unit is owned by one node or is in transit, at every moment;
 *   - no unit is sold twice;
 *   - who says "sold out" is right: between the two rounds of the search each
 *     unit was sold, none free, taken by a running transaction, or on its way.
 *
 * Each MUTANT_... is one mistake, which spin must find: test/t/176_model.pl.
 */

#ifndef UNITS
#define UNITS		3
#endif
#ifndef TRANSFERS
#define TRANSFERS	2			/* at most so many in a run */
#endif
#ifndef KILLS
#define KILLS		1
#endif
#ifndef RETURNS
#define RETURNS		1			/* aborts and revocations, together */
#endif

#define ALL			((1 << UNITS) - 1)
#define OTHER(n)	(1 - (n))

/* a transfer at its donor */
#define NONE		0
#define CUTTING		1			/* its transaction runs */
#define OUT			2			/* committed: nobody's until the receiver has it */
#define DONE		3			/* the receiver has said so */

/* durable: rows of committed transactions.  Sets of units are masks of bits. */
byte own[2];					/* whose shards they are in */
byte sold[2];					/* they have an issuance there */
byte donor_state[TRANSFERS];
byte donor[TRANSFERS];
byte units[TRANSFERS];
bool received[TRANSFERS];		/* the receiver's row, under a unique index */

/* shared memory: gone with a kill */
byte known[2];					/* units that the stock map has */
byte flight[2];					/* taken or about to come back, by users' transactions */
byte cut[2];					/* taken by a donor's transaction */
bool down[2];

/* The supply number is raised whenever a unit can be had again, or may be; it
 * comes with the server's start, since a start begins it anew.  All that is
 * ever asked is whether it is as it was seen, so this is all that is kept. */
bool raised[2];

/* on the wire */
bool offer[TRANSFERS];
bool answered[TRANSFERS];

byte begun;						/* transfers */
byte kills;
byte returns;

/* the verdict's search, at node 0 */
#define IDLE	255
byte step = IDLE;
bool was_true;					/* "sold out" was, between the two rounds */

#define RAISE(n)		raised[n] = (step != IDLE)
#define END_SEARCH	step = IDLE; was_true = false; raised[0] = false; raised[1] = false

#define FREE(n)		(known[n] & ~(sold[n] | flight[n] | cut[n]))
#define SOLD_OUT	(((sold[0] & ~flight[0]) | (sold[1] & ~flight[1])) == ALL)

#define IN_TRANSIT(t)	((donor_state[t] == OUT && !received[t]) -> units[t] : 0)
#if TRANSFERS == 1
#define TRANSIT		IN_TRANSIT(0)
#define OPEN(n)		(donor_state[0] == OUT && donor[0] == n)
#elif TRANSFERS == 2
#define TRANSIT		(IN_TRANSIT(0) | IN_TRANSIT(1))
#define OPEN(n)		((donor_state[0] == OUT && donor[0] == n) || (donor_state[1] == OUT && donor[1] == n))
#else
#define TRANSIT		(IN_TRANSIT(0) | IN_TRANSIT(1) | IN_TRANSIT(2))
#define OPEN(n)		((donor_state[0] == OUT && donor[0] == n) || (donor_state[1] == OUT && donor[1] == n) || (donor_state[2] == OUT && donor[2] == n))
#endif

/* after each step */
inline laws()
{
	assert((own[0] & own[1]) == 0);
	assert((own[0] & TRANSIT) == 0 && (own[1] & TRANSIT) == 0);
	assert((own[0] | own[1] | TRANSIT) == ALL);
	assert((sold[0] & sold[1]) == 0);
	assert((sold[0] & ~own[0]) == 0 && (sold[1] & ~own[1]) == 0);
}

/* a node says what it has received; not before its supply number tells of it */
inline answer(n)
{
	t = 0;
	do
	:: t < TRANSFERS ->
		if
		:: received[t] && donor[t] == OTHER(n) ->
			answered[t] = true;
#ifdef MUTANT_FORGETS_WHAT_IT_RECEIVED
			received[t] = false;
#endif
		:: else
		fi;
		t++
	:: else -> break
	od;
	t = 0
}

/* one unit of a set that is not empty, any one */
inline any_of(set)
{
	if
	:: (set) & 1 -> unit = 1
	:: (set) & 2 -> unit = 2
#if UNITS > 2
	:: (set) & 4 -> unit = 4
#endif
	fi
}

proctype node(byte n)
{
	byte unit;
	byte t;

	do
	/* ---- users ---- */
	:: atomic { !down[n] && FREE(n) ->
		any_of(FREE(n));
		flight[n] = flight[n] | unit;
		unit = 0; laws() }
	:: atomic { !down[n] && (flight[n] & ~sold[n]) ->
		/* an issue commits */
		any_of(flight[n] & ~sold[n]);
		sold[n] = sold[n] | unit;
		flight[n] = flight[n] & ~unit;
		unit = 0; laws() }
	:: atomic { !down[n] && (flight[n] & ~sold[n]) && returns < RETURNS ->
		/* an issue is rolled back */
		any_of(flight[n] & ~sold[n]);
		returns++;
		RAISE(n);
		flight[n] = flight[n] & ~unit;
		unit = 0; laws() }
	:: atomic { !down[n] && (sold[n] & ~flight[n]) && returns < RETURNS ->
		/* a revocation begins */
		any_of(sold[n] & ~flight[n]);
		returns++;
		flight[n] = flight[n] | unit;
		RAISE(n);
		unit = 0; laws() }
	:: atomic { !down[n] && (sold[n] & flight[n]) ->
		/* it commits */
		any_of(sold[n] & flight[n]);
		sold[n] = sold[n] & ~unit;
		RAISE(n);
		flight[n] = flight[n] & ~unit;
		unit = 0; laws() }
	:: atomic { !down[n] && (sold[n] & flight[n]) ->
		/* it is rolled back */
		any_of(sold[n] & flight[n]);
		flight[n] = flight[n] & ~unit;
		unit = 0; laws() }

	/* a transfer that has committed, or been received, reaches the stock map:
	 * as XACT_EVENT_COMMIT does, after all others can see the rows */
	:: atomic { !down[n] && (cut[n] & ~own[n]) ->
		known[n] = known[n] & ~(cut[n] & ~own[n]);
		cut[n] = cut[n] & own[n];
		laws() }
	:: atomic { !down[n] && (own[n] & ~known[n]) ->
#ifndef MUTANT_SUPPLY_IS_NOT_RAISED
		RAISE(n);
#endif
		known[n] = known[n] | own[n];
		answer(n);
		laws() }

	/* ---- kill -9, and the start after it ---- */
	:: atomic { !down[n] && kills < KILLS ->
		kills++;
		down[n] = true;
		flight[n] = 0;
		cut[n] = 0;
		known[n] = 0;
		do
		:: t < TRANSFERS ->
			if
			:: donor_state[t] == CUTTING && donor[t] == n -> donor_state[t] = NONE
			:: else
			fi;
			t++
		:: else -> break
		od;
		if
		:: n == 0 -> END_SEARCH
		:: else
		fi;
		t = 0; laws() }
	:: atomic { down[n] ->
		known[n] = own[n];
#ifdef MUTANT_SUPPLY_STARTS_AGAIN
		raised[n] = false;
#else
		RAISE(n);
#endif
		down[n] = false;
		answer(n);
		laws() }
	od
}

/* a donor's transaction takes units */
#ifdef MUTANT_CUTS_WHAT_IS_TAKEN
#define CHOOSE	units[t] = known[D] & ~sold[D]
#else
#define CHOOSE	if :: units[t] = FREE(D) :: any_of(FREE(D)); units[t] = unit; unit = 0 fi
#endif
#ifdef MUTANT_TELLS_BEFORE_COMMIT
#define TAKE	CHOOSE; cut[D] = cut[D] | units[t]; offer[t] = true; laws()
#else
#define TAKE	CHOOSE; cut[D] = cut[D] | units[t]; laws()
#endif

#define D	donor[t]
#define R	OTHER(donor[t])

/* transfer t: what its donor, its receiver and the wire do */
proctype transfer(byte t)
{
	byte unit;

	do
	/* ---- the donor takes one of its free units, or all ---- */
	:: atomic { t == begun && FREE(0) && !down[0] -> donor[t] = 0; begun++; donor_state[t] = CUTTING; TAKE }
	:: atomic { t == begun && FREE(1) && !down[1] -> donor[t] = 1; begun++; donor_state[t] = CUTTING; TAKE }
	:: atomic { donor_state[t] == CUTTING && !down[D] ->
		/* its transaction commits: the range is cut, the row written */
#ifdef MUTANT_DONE_WITHOUT_ANSWER
		donor_state[t] = DONE;
		offer[t] = true;
#else
		donor_state[t] = OUT;
		offer[t] = true;
#endif
		own[D] = own[D] & ~units[t];
		laws() }
	:: atomic { donor_state[t] == CUTTING && !down[D] && returns < RETURNS ->
		/* or fails */
		returns++;
		donor_state[t] = NONE;
		RAISE(D);
		cut[D] = cut[D] & ~units[t];
		laws() }

	/* ---- the receiver: the units' rows, once, as a unique index sees to it ---- */
	:: atomic { offer[t] && !received[t] && !down[R] ->
		received[t] = true;
		own[R] = own[R] | units[t];
#ifdef MUTANT_ANSWERS_BEFORE_SUPPLY
		answered[t] = true;
#endif
		laws() }

	/* ---- the donor again ---- */
	:: atomic { answered[t] && donor_state[t] == OUT && !down[D] ->
		donor_state[t] = DONE;
		laws() }
	od
}

/*
 * The search for "sold out".  Two rounds over the nodes; of each node its
 * supply number, then what is free or taken, then its transfers that are out,
 * each in a look of its own: at a node nothing reads all of them at once.
 * Step: round * 6 + node * 3 + look.
 */
#define ROUND	(step / 6)
#define NODE	((step / 3) % 2)
#define LOOK	(step % 3)

#ifdef MUTANT_TRANSIT_IS_READ_FIRST
/* one statement, whose snapshot is older than what it reads in shared memory */
#define LOOK_AT_TRANSIT		0
#define LOOK_AT_SUPPLY		1
#define LOOK_AT_UNITS		2
#else
#define LOOK_AT_SUPPLY		0
#define LOOK_AT_UNITS		1
#define LOOK_AT_TRANSIT		2
#endif

#define SECOND_ROUND	6
#ifdef MUTANT_ONE_ROUND
#define ENDS_AT		6
#else
#define ENDS_AT		12
#endif

proctype search()
{
	do
	:: atomic { step == IDLE && !down[0] && begun + kills + returns > 0 ->
		step = 0 }
	:: atomic { step != IDLE && step < ENDS_AT && !down[NODE] ->
		if
		:: LOOK == LOOK_AT_SUPPLY ->
			if
			:: ROUND == 0 ->
				raised[NODE] = false;
				step++
			:: ROUND == 1 && !raised[NODE] -> step++
			:: else -> END_SEARCH
			fi
		:: LOOK == LOOK_AT_UNITS ->
			if
#ifdef MUTANT_TAKEN_UNITS_DO_NOT_COUNT
			:: FREE(NODE) -> END_SEARCH
#else
			:: FREE(NODE) || flight[NODE] || cut[NODE] -> END_SEARCH
#endif
			:: else -> step++
			fi
		:: LOOK == LOOK_AT_TRANSIT ->
			if
#ifndef MUTANT_TRANSIT_DOES_NOT_COUNT
			:: OPEN(NODE) -> END_SEARCH
#endif
			:: else -> step++
			fi
		fi;
		if
		:: step == SECOND_ROUND -> was_true = SOLD_OUT
		:: else
		fi }
#ifdef MUTANT_WHO_IS_MISSING_HAS_NOTHING
	:: atomic { step != IDLE && step < ENDS_AT && down[NODE] -> step++;
		if
		:: step == SECOND_ROUND -> was_true = SOLD_OUT
		:: else
		fi }
#endif
	:: atomic { step == ENDS_AT ->
		assert(was_true);
		END_SEARCH }
	:: atomic { step != IDLE ->
		/* somebody does not answer: busy */
		END_SEARCH }
	od
}

init
{
	atomic {
		/* any share of the stock at the beginning, up to the nodes' names */
		if
		:: own[0] = ALL
		:: own[0] = 1
		:: own[0] = 3 & ALL
		:: own[0] = 0
		fi;
		own[1] = ALL & ~own[0];
		known[0] = own[0];
		known[1] = own[1];
		run node(0);
		run node(1);
		run transfer(0);
#if TRANSFERS > 1
		run transfer(1);
#endif
#if TRANSFERS > 2
		run transfer(2);
#endif
		run search()
	}
}
