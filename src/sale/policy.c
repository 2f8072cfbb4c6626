/*
 * policy.c
 *	  The discount policy of a campaign: what may be in it.
 *
 * Checked when the campaign's row is written; issuances copy it unseen.  A
 * key that is not known is refused, because a misspelt max_discount costs
 * real money; the application's own data goes under "attributes".
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/trigger.h"
#include "sale/policy.h"

#define MAX_USAGE_PERIOD_DAYS	36500
#define KNOWN_KEYS "kind, amount, rate, max_discount, min_order_amount, usage_period_days, attributes"

PG_FUNCTION_INFO_V1(coupon_policy_guard);

static void
refuse(const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid policy"),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

static bool
find_key(Jsonb *policy, const char *key, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(&policy->root, key, strlen(key), value) != NULL;
}

/* -1, 0, 1: the number compared with n. */
static int
compare_number(const JsonbValue *value, int64 n)
{
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp,
											 NumericGetDatum(value->val.numeric),
											 NumericGetDatum(int64_to_numeric(n))));
}

/* Finds a numeric key; ERROR if it is there but no number. */
static bool
find_number(Jsonb *policy, const char *key, JsonbValue *value)
{
	if (!find_key(policy, key, value))
		return false;
	if (value->type != jbvNumeric)
		refuse(psprintf("\"%s\" is not a number.", key), "Write it without quotes.");
	return true;
}

static void
check_keys(Jsonb *policy)
{
	static const char *const known[] = {
		"kind", "amount", "rate", "max_discount", "min_order_amount",
		"usage_period_days", "attributes"
	};
	JsonbIterator *iterator = JsonbIteratorInit(&policy->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		bool		found = false;

		if (token != WJB_KEY)
			continue;
		for (size_t i = 0; i < lengthof(known); i++)
		{
			if (value.val.string.len == (int) strlen(known[i]) &&
				memcmp(value.val.string.val, known[i], value.val.string.len) == 0)
				found = true;
		}
		if (!found)
			refuse(psprintf("There is no key \"%.*s\".",
							pg_mbcliplen(value.val.string.val, value.val.string.len, 64),
							value.val.string.val),
				   "The keys are " KNOWN_KEYS ". Put data of your own under \"attributes\".");
	}
}

static void
check_discount(Jsonb *policy)
{
	JsonbValue	kind;
	JsonbValue	amount;
	JsonbValue	rate;
	JsonbValue	number;
	bool		has_amount = find_number(policy, "amount", &amount);
	bool		has_rate = find_number(policy, "rate", &rate);
	bool		has_max = find_number(policy, "max_discount", &number);

	if (has_max && compare_number(&number, 0) <= 0)
		refuse("\"max_discount\" is not above 0.", "Leave it out for no limit.");

	if (!find_key(policy, "kind", &kind))
	{
		if (has_amount || has_rate || has_max)
			refuse("\"kind\" is missing.",
				   "Add \"kind\": \"FIXED\" with an amount, or \"kind\": \"RATE\" with a rate.");
		return;
	}
	if (kind.type == jbvString && kind.val.string.len == 5 &&
		memcmp(kind.val.string.val, "FIXED", 5) == 0)
	{
		if (!has_amount || compare_number(&amount, 0) <= 0)
			refuse("A FIXED policy needs an \"amount\" above 0.", "Add the amount to take off.");
		if (has_rate || has_max)
			refuse("A FIXED policy has neither \"rate\" nor \"max_discount\".",
				   "Use \"kind\": \"RATE\" for them.");
	}
	else if (kind.type == jbvString && kind.val.string.len == 4 &&
			 memcmp(kind.val.string.val, "RATE", 4) == 0)
	{
		if (!has_rate || compare_number(&rate, 0) <= 0 || compare_number(&rate, 100) > 0)
			refuse("A RATE policy needs a \"rate\" above 0 and up to 100.",
				   "Add the percentage to take off.");
		if (has_amount)
			refuse("A RATE policy has no \"amount\".", "Use \"kind\": \"FIXED\" for it.");
	}
	else
		refuse("\"kind\" is neither \"FIXED\" nor \"RATE\".",
			   "FIXED takes an amount off, RATE a percentage.");
}

/* The number as days, 0 unless it is a whole one in range. */
static int32
whole_days(const JsonbValue *value)
{
	int32		days;

	/* the order matters: only what is in range can be made an integer */
	if (compare_number(value, 1) < 0 || compare_number(value, MAX_USAGE_PERIOD_DAYS) > 0)
		return 0;
	days = DatumGetInt32(DirectFunctionCall1(numeric_int4, NumericGetDatum(value->val.numeric)));
	return compare_number(value, days) == 0 ? days : 0;
}

int32
coupon_policy_usage_period(Jsonb *policy)
{
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(policy) || !find_key(policy, "usage_period_days", &value) ||
		value.type != jbvNumeric)
		return 0;
	return whole_days(&value);
}

/*
 * coupon_policy_guard() - row trigger on coupon.campaign
 */
Datum
coupon_policy_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = coupon_trigger_after_row(fcinfo, "policy_guard",
													COUPON_ON_INSERT | COUPON_ON_UPDATE,
													"campaign", NULL);
	bool		isnull;

	coupon_policy_check(DatumGetJsonbP(heap_getattr(coupon_trigger_row(trigger), Campaign_policy,
													RelationGetDescr(trigger->tg_relation), &isnull)));
	return PointerGetDatum(NULL);
}

void
coupon_policy_check(Jsonb *policy)
{
	JsonbValue	value;
	int			length;

	if (!JB_ROOT_IS_OBJECT(policy))
		refuse("It is not a JSON object.", "The smallest policy is {}.");

	length = strlen(JsonbToCString(NULL, &policy->root, VARSIZE(policy)));
	if (length > COUPON_MAX_POLICY)
		refuse(psprintf("It has %d bytes.", length),
			   psprintf("Every issuance carries a copy: keep it below %d bytes.", COUPON_MAX_POLICY));

	check_keys(policy);
	check_discount(policy);

	if (find_number(policy, "min_order_amount", &value) && compare_number(&value, 0) < 0)
		refuse("\"min_order_amount\" is below 0.", "Leave it out for no minimum.");

	if (find_number(policy, "usage_period_days", &value) && whole_days(&value) == 0)
		refuse("\"usage_period_days\" is not a whole number of days in range.",
			   psprintf("Use 1 to %d, or leave it out: never expires.", MAX_USAGE_PERIOD_DAYS));

	if (find_key(policy, "attributes", &value) &&
		!(value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data)))
		refuse("\"attributes\" is not a JSON object.", "Put data of your own in it as keys.");
}
