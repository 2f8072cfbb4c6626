/*
 * trigger.c
 *	  What our trigger functions are called by: nothing but what they are for.
 *
 * A superuser may put them on any table, for any event.  They read a row by the
 * position of its columns, so whatever else calls them is refused.
 */
#include "postgres.h"

#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/trigger.h"

static bool
is_on(Relation rel, const char *table)
{
	char	   *schema = get_namespace_name(RelationGetNamespace(rel));

	return table != NULL && schema != NULL && strcmp(schema, "coupon") == 0 &&
		strcmp(RelationGetRelationName(rel), table) == 0;
}

TriggerData *
coupon_trigger(FunctionCallInfo fcinfo, const char *function)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("coupon.%s() must be called as a trigger", function),
				 errdetail("It was called as a function."),
				 errhint("CREATE EXTENSION makes the triggers that are needed.")));
	return (TriggerData *) fcinfo->context;
}

TriggerData *
coupon_trigger_after_row(FunctionCallInfo fcinfo, const char *function, int events,
						 const char *table, const char *other_table)
{
	TriggerData *trigger = coupon_trigger(fcinfo, function);

	if (!TRIGGER_FIRED_AFTER(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		((1 << (trigger->tg_event & TRIGGER_EVENT_OPMASK)) & events) == 0 ||
		!(is_on(trigger->tg_relation, table) || is_on(trigger->tg_relation, other_table)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("coupon.%s() cannot be the function of trigger \"%s\"",
						function, trigger->tg_trigger->tgname),
				 errdetail("It is for rows of coupon.%s, after the events of its own trigger there.", table),
				 errhint("Drop trigger \"%s\" of table \"%s\".", trigger->tg_trigger->tgname,
						 RelationGetRelationName(trigger->tg_relation))));
	/* nor is a null read where there can be none */
	(void) coupon_catalog();
	(void) coupon_table(trigger->tg_relation, NULL);
	return trigger;
}

HeapTuple
coupon_trigger_row(const TriggerData *trigger)
{
	return TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;
}
