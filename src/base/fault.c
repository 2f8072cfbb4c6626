/*
 * fault.c
 *	  Points at which tests make things fail: arming them, reaching them.
 *
 * Only in a build for tests, see fault.h.  test/fault.sql declares the
 * functions, which only a superuser may call.
 *
 * Concurrency: a point's fields are under its spinlock, but for its counters
 * and its kind, which may be read without it: it is looked at again with the
 * lock held.  Whoever fires says so on the server's standard error first, as
 * shared memory is lost with a SIGKILL.  A sleeper wakes when its time is over or
 * when the point is armed anew or disarmed, which raises the generation.
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/pmsignal.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/fault.h"

typedef enum FaultKind
{
	FAULT_NONE,
	FAULT_ERROR,
	FAULT_FATAL,
	FAULT_KILL,
	FAULT_SLEEP,
	FAULT_MEMORY
} FaultKind;

static const char *const kind_names[] = {"none", "error", "fatal", "kill", "sleep", "memory"};

#define MAY_THROW	true
#define SILENT		false
#define FAULT_POINT(name, throws, where) {#name, throws, where},

static const struct
{
	const char *name;
	bool		throws;
	const char *where;
}			points[] =

{
	COUPON_FAULT_POINTS_LIST(FAULT_POINT)
};

typedef struct Fault
{
	slock_t		mutex;
	pg_atomic_uint32 kind;
	pg_atomic_uint32 generation;
	int			pid;			/* of whom it is for; 0: of all */
	int			skip;			/* so many pass first */
	int			times;			/* then so many fail */
	int			ms;				/* how long a sleep lasts */
	pg_atomic_uint64 reached;
	pg_atomic_uint64 fired;
	pg_atomic_uint32 asleep;	/* sleepers in this moment */
} Fault;

static Fault *faults = NULL;

PG_FUNCTION_INFO_V1(coupon_fault_arm);
PG_FUNCTION_INFO_V1(coupon_fault_disarm);
PG_FUNCTION_INFO_V1(coupon_fault_points);
PG_FUNCTION_INFO_V1(coupon_fault_trigger);

static void
set_up(void)
{
	for (int i = 0; i < COUPON_FAULT_COUNT; i++)
	{
		SpinLockInit(&faults[i].mutex);
		pg_atomic_init_u32(&faults[i].kind, FAULT_NONE);
		pg_atomic_init_u32(&faults[i].generation, 0);
		pg_atomic_init_u32(&faults[i].asleep, 0);
		pg_atomic_init_u64(&faults[i].reached, 0);
		pg_atomic_init_u64(&faults[i].fired, 0);
	}
}

const CouponModule coupon_fault_module = {
	.name = "coupon faults",
	.size = COUPON_FAULT_COUNT * sizeof(Fault),
	.memory = (void **) &faults,
	.set_up = set_up
};

/* ---- reaching a point ---- */

static void
tell(const char *point, const char *kind)
{
	char		line[128];
	int			length = snprintf(line, sizeof(line), "coupon fault point %s: %s\n", point, kind);

	if (write(STDERR_FILENO, line, length) < 0)
		return;					/* nobody reads it */
}

/* Until the time is over, or the point is armed or disarmed again. */
static void
sleep_at(int point, int ms, uint32 generation)
{
	Fault	   *fault = &faults[point];
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);

	pg_atomic_fetch_add_u32(&fault->asleep, 1);
	while (pg_atomic_read_u32(&fault->generation) == generation && GetCurrentTimestamp() < until)
	{
		if (!PostmasterIsAlive())
			_exit(1);
		if (points[point].throws && INTERRUPTS_PENDING_CONDITION())
			break;
		pg_usleep(1000);
	}
	pg_atomic_fetch_sub_u32(&fault->asleep, 1);
	if (points[point].throws)
		CHECK_FOR_INTERRUPTS();
}

/* Does this one fail?  The kind, and what goes with it. */
static FaultKind
fire(Fault *fault, int *ms, uint32 *generation)
{
	FaultKind	kind;

	SpinLockAcquire(&fault->mutex);
	kind = pg_atomic_read_u32(&fault->kind);
	if (kind != FAULT_NONE && fault->pid != 0 && fault->pid != MyProcPid)
		kind = FAULT_NONE;
	else if (kind != FAULT_NONE && fault->skip > 0)
	{
		fault->skip--;
		kind = FAULT_NONE;
	}
	if (kind != FAULT_NONE && --fault->times <= 0)
		pg_atomic_write_u32(&fault->kind, FAULT_NONE);
	*ms = fault->ms;
	*generation = pg_atomic_read_u32(&fault->generation);
	SpinLockRelease(&fault->mutex);
	if (kind != FAULT_NONE)
		pg_atomic_fetch_add_u64(&fault->fired, 1);
	return kind;
}

void
coupon_fault_reach(CouponFaultPoint point)
{
	Fault	   *fault;
	FaultKind	kind;
	int			ms;
	uint32		generation;

	/* not where the library was not preloaded, nor in the postmaster */
	if (faults == NULL || !IsUnderPostmaster)
		return;
	fault = &faults[point];
	pg_atomic_fetch_add_u64(&fault->reached, 1);
	if (likely(pg_atomic_read_u32(&fault->kind) == FAULT_NONE))
		return;
	kind = fire(fault, &ms, &generation);
	if (kind == FAULT_NONE)
		return;
	tell(points[point].name, kind_names[kind]);
	switch (kind)
	{
		case FAULT_KILL:
			kill(MyProcPid, SIGKILL);
			break;
		case FAULT_SLEEP:
			sleep_at(point, ms, generation);
			break;
		case FAULT_MEMORY:
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of memory"),
					 errdetail("Fault point \"%s\".", points[point].name)));
			break;
		default:
			ereport(kind == FAULT_FATAL ? FATAL : ERROR,
					(errcode(ERRCODE_SYSTEM_ERROR),
					 errmsg("fault point \"%s\" was reached", points[point].name)));
	}
}

/* ---- arming ---- */

static int
find_point(const char *name)
{
	for (int i = 0; i < COUPON_FAULT_COUNT; i++)
	{
		if (strcmp(points[i].name, name) == 0)
			return i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("there is no fault point \"%s\"", name),
			 errhint("fault.points() has them all.")));
	pg_unreachable();
}

static void
arm(Fault *fault, FaultKind kind, int skip, int times, int ms, int pid)
{
	SpinLockAcquire(&fault->mutex);
	fault->skip = skip;
	fault->times = times;
	fault->ms = ms;
	fault->pid = pid;
	pg_atomic_write_u32(&fault->kind, kind);
	pg_atomic_fetch_add_u32(&fault->generation, 1);
	SpinLockRelease(&fault->mutex);
}

/*
 * coupon_fault_arm(point text, kind text, skip integer, times integer, ms integer, pid integer)
 */
Datum
coupon_fault_arm(PG_FUNCTION_ARGS)
{
	int			point;
	char	   *name;
	int			kind = 0;

	coupon_shmem_attach();
	point = find_point(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	while (kind < (int) lengthof(kind_names) && strcmp(kind_names[kind], name) != 0)
		kind++;
	if (kind == lengthof(kind_names) ||
		(!points[point].throws && kind != FAULT_NONE && kind != FAULT_KILL && kind != FAULT_SLEEP))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("fault point \"%s\" does not fail by \"%s\"", points[point].name, name),
				 errhint("A point that is silent knows kill and sleep; any other one error, fatal and memory, too.")));
	arm(&faults[point], kind, PG_GETARG_INT32(2), PG_GETARG_INT32(3), PG_GETARG_INT32(4), PG_GETARG_INT32(5));
	PG_RETURN_VOID();
}

/*
 * coupon_fault_disarm() - all of them; who sleeps at one wakes
 */
Datum
coupon_fault_disarm(PG_FUNCTION_ARGS)
{
	coupon_shmem_attach();
	for (int i = 0; i < COUPON_FAULT_COUNT; i++)
		arm(&faults[i], FAULT_NONE, 0, 0, 0, 0);
	PG_RETURN_VOID();
}

/*
 * coupon_fault_points()
 */
Datum
coupon_fault_points(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	coupon_shmem_attach();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < COUPON_FAULT_COUNT; i++)
	{
		Datum		values[7];
		bool		nulls[7] = {0};

		values[0] = CStringGetTextDatum(points[i].name);
		values[1] = CStringGetTextDatum(points[i].where);
		values[2] = BoolGetDatum(points[i].throws);
		values[3] = CStringGetTextDatum(kind_names[pg_atomic_read_u32(&faults[i].kind)]);
		values[4] = Int64GetDatum(pg_atomic_read_u64(&faults[i].reached));
		values[5] = Int64GetDatum(pg_atomic_read_u64(&faults[i].fired));
		values[6] = Int32GetDatum(pg_atomic_read_u32(&faults[i].asleep));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * coupon_fault_trigger() - reaches the point that the trigger names: for steps
 * that are SQL
 */
Datum
coupon_fault_trigger(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo) || ((TriggerData *) fcinfo->context)->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("fault.reach() is for triggers with the name of a point")));
	coupon_shmem_attach();
	coupon_fault_reach(find_point(((TriggerData *) fcinfo->context)->tg_trigger->tgargs[0]));
	return PointerGetDatum(NULL);
}
