/*
 * codes.c
 *	  Labelled units: codes, imported or generated, and seats.
 *
 * A code is a unit: importing n codes adds n units, labelled in the order of
 * the array.  A campaign that was created with stock and has issued nothing
 * becomes a coded one with its first import, which labels its units first.
 * Seats are the same, but that their labels are no secret, and that an import
 * is all or nothing: a map of a hall must not lack a seat without a word.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/random.h"
#include "base/spi.h"
#include "outbox/payload.h"
#include "sale/campaign.h"

/* Crockford's base 32: no I, L, O, U, so nothing is misread. */
#define ALPHABET			"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#define BITS_PER_SYMBOL		5
#define DEFAULT_PATTERN		"################"	/* 80 bits */
#define MAX_GENERATED		INT64CONST(10000000)
#define GENERATE_BATCH		10000

/* Below this chance a stranger's guess is as good as hopeless. */
#define GUESSABLE			1e-6

PG_FUNCTION_INFO_V1(coupon_codes_import);
PG_FUNCTION_INFO_V1(coupon_codes_generate);
PG_FUNCTION_INFO_V1(coupon_units_import);

/* Also what others have yet to commit: it was answered without a code. */
static bool
has_issued(int64 campaign_id)
{
	SnapshotData dirty;
	ScanKeyData key;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	return coupon_row_exists(coupon_catalog()->issuance, coupon_catalog()->issuance_serial_key,
							 &key, 1, &dirty);
}

/*
 * Prepares a campaign for more labelled units: makes it one with codes, or
 * with labels that are no secret, or finds out that it cannot be.  Returns the
 * number of units that exist without a label; 0 but for the first import into
 * a plain campaign.
 */
static int64
begin_labelling(int64 campaign_id, bool labels_public, CouponCampaignRow *row)
{
	static CouponStatement update = {
		"UPDATE coupon.campaign SET coded = true, labels_public = $2 WHERE campaign_id = $1",
		2, {INT8OID, BOOLOID}
	};
	Datum		values[2] = {Int64GetDatum(campaign_id), BoolGetDatum(labels_public)};

	coupon_campaign_lock_row(campaign_id, false, row);
	if (row->coded)
	{
		if (row->labels_public != labels_public)
			ereport(ERROR,
					(errcode(ERRCODE_COUPON_UNIT_KIND),
					 row->labels_public ? errmsg("campaign has labelled units, not codes") :
					 errmsg("campaign has codes, not labelled units"),
					 errdetail("Codes are secret until they are issued; labels such as seat numbers are shown to everybody. Campaign %lld cannot have both.",
							   (long long) campaign_id),
					 row->labels_public ? errhint("Use coupon_units_import().") :
					 errhint("Use coupon_codes_import() or coupon_codes_generate().")));
		return 0;
	}

	/* seats stay together; and what other nodes have issued is not seen here */
	if (row->keeper != 0 && (row->stock > 0 || labels_public))
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_UNIT_KIND),
				 errmsg("units of a shared campaign cannot get labels"),
				 labels_public ? errdetail("Labelled units are sold at one node, and campaign %lld is shared.",
										   (long long) campaign_id) :
				 errdetail("Other nodes may have issued units of campaign %lld.", (long long) campaign_id),
				 labels_public ? errhint("Import them into a campaign that is not shared.") :
				 errhint("Create a campaign with stock 0 and import into it.")));
	if (row->stock > 0)
		coupon_campaign_begin_labelling(campaign_id);
	if (row->stock > 0 && has_issued(campaign_id))
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_UNIT_KIND),
				 errmsg("campaign has issued units without labels"),
				 errdetail("Campaign %lld was created with plain units.", (long long) campaign_id),
				 errhint("Create a campaign with stock 0 and import into it.")));
	coupon_spi_change(&update, SPI_OK_UPDATE, values, NULL, 1);
	return row->stock;
}

/* A label and its place in the caller's array. */
typedef struct Label
{
	text	   *text;
	int			place;
} Label;

static int
compare_labels(const void *a, const void *b)
{
	const Label *x = a;
	const Label *y = b;
	int			order = coupon_compare_texts(x->text, y->text);

	return order != 0 ? order : x->place - y->place;
}

pg_noreturn static void
refuse_duplicate(int64 campaign_id, text *label, bool in_array)
{
	char	   *shown = text_to_cstring(label);

	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("duplicate label"),
			 in_array ? errdetail("Label \"%s\" is in the array more than once.", shown) :
			 errdetail("Campaign %lld has a unit with label \"%s\" already.",
					   (long long) campaign_id, shown),
			 errhint("Nothing was imported; each label belongs to one unit.")));
}

/*
 * Moves the labels that are new to the front, in their order, and returns how
 * many; of equal ones the first is new.  ERROR for one that is not, if all must
 * be.  The index is asked for each: a join would be planned by what ANALYZE
 * knows of a table that is filled at this moment.
 */
static int
keep_new(int64 campaign_id, text **labels, int nlabels, bool all)
{
	Label	   *sorted = palloc(mul_size(nlabels, sizeof(Label)));
	bool	   *known = palloc0(mul_size(nlabels, sizeof(bool)));
	int			nnew = 0;
	Snapshot	snapshot;
	ScanKeyData keys[2];
	CouponScan	scan;

	for (int i = 0; i < nlabels; i++)
	{
		sorted[i].text = labels[i];
		sorted[i].place = i;
	}
	qsort(sorted, nlabels, sizeof(Label), compare_labels);

	/* whoever else adds labels waits for the campaign's row */
	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&scan, coupon_catalog()->unit, coupon_catalog()->unit_label_key,
					  snapshot, NULL, 2, false);
	for (int i = 0; i < nlabels; i++)
	{
		bool		repeated = i > 0 && coupon_compare_texts(sorted[i].text, sorted[i - 1].text) == 0;

		CHECK_FOR_INTERRUPTS();
		coupon_key_text(&keys[1], 2, PointerGetDatum(sorted[i].text));
		if (!repeated)
			index_rescan(scan.scan, keys, 2, NULL, 0);
		known[sorted[i].place] = repeated || coupon_scan_next(&scan, ForwardScanDirection);
		if (all && known[sorted[i].place])
			refuse_duplicate(campaign_id, sorted[i].text, repeated);
	}
	coupon_scan_end(&scan);
	UnregisterSnapshot(snapshot);

	for (int i = 0; i < nlabels; i++)
	{
		if (!known[i])
			labels[nnew++] = labels[i];
	}
	pfree(sorted);
	pfree(known);
	return nnew;
}

/*
 * Labels the serials after the given one with those labels that the campaign
 * does not have yet; returns how many.  The array is changed.
 */
static int64
label_units(int64 campaign_id, int64 labelled, text **labels, int nlabels, bool all)
{
	static CouponStatement insert = {
		"INSERT INTO coupon.unit (campaign_id, serial, label)"
		" SELECT $1, $2 + u.place, u.label FROM unnest($3) WITH ORDINALITY u(label, place)",
		3, {INT8OID, INT8OID, TEXTARRAYOID}
	};
	int			nnew = keep_new(campaign_id, labels, nlabels, all);
	Datum	   *new;
	Datum		values[3];

	if (nnew == 0)
		return 0;
	new = palloc(mul_size(nnew, sizeof(Datum)));
	for (int i = 0; i < nnew; i++)
		new[i] = PointerGetDatum(labels[i]);
	values[0] = Int64GetDatum(campaign_id);
	values[1] = Int64GetDatum(labelled);
	values[2] = PointerGetDatum(construct_array(new, nnew, TEXTOID, -1, false, TYPALIGN_INT));
	coupon_spi_change(&insert, SPI_OK_INSERT, values, NULL, nnew);
	return nnew;
}

/* Makes the labelled serials units, and tells of them. */
static void
end_labelling(int64 campaign_id, CouponCampaignRow *row, int64 labelled)
{
	int64		units = labelled - row->stock;

	coupon_campaign_add_units(campaign_id, units, row);
	coupon_campaign_event(campaign_id, row, COUPON_EVENT_STOCK_ADDED, units);
}

static void
check_labels(text **labels, int nlabels, const char *noun, const char *nouns)
{
	for (int i = 0; i < nlabels; i++)
	{
		int			length = labels[i] == NULL ? 0 : VARSIZE_ANY_EXHDR(labels[i]);

		if (labels[i] == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", nouns),
					 errdetail("Element %d is null.", i + 1),
					 errhint("Remove it, for example with array_remove(%s, NULL).", nouns)));
		if (length < 1 || length > COUPON_MAX_NAME)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a %s has 1 to %d bytes", noun, COUPON_MAX_NAME),
					 errdetail("Element %d has %d.", i + 1, length),
					 errhint("Nothing was imported; correct it and import again.")));
	}
}

/*
 * Makes each label a unit.  Labels that are public are all or none; of codes
 * those that are there already are skipped.
 */
static int64
import_labels(int64 campaign_id, text **labels, int nlabels, bool labels_public)
{
	const char *nouns = labels_public ? "labels" : "codes";
	CouponCampaignRow row;
	int64		unlabelled;
	int64		labelled;
	int64		added;

	if (nlabels == 0)
	{
		coupon_campaign_lock_row(campaign_id, false, &row);
		return 0;
	}
	unlabelled = begin_labelling(campaign_id, labels_public, &row);
	labelled = row.stock - unlabelled;
	added = label_units(campaign_id, labelled, labels, nlabels, labels_public);
	if (added < unlabelled)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_UNIT_KIND),
				 errmsg("too few %s for the campaign's units", nouns),
				 errdetail("Campaign %lld has %lld units, and the array has %lld different %s.",
						   (long long) campaign_id, (long long) unlabelled, (long long) added, nouns),
				 errhint("Import one for each unit in the first call, or create the campaign with stock 0.")));
	if (added > 0)
		end_labelling(campaign_id, &row, labelled + added);
	return added;
}

/* The arguments' labels, what they are called, and how many became units. */
static int64
import(FunctionCallInfo fcinfo, const char *noun, const char *nouns, bool labels_public,
	   int *nlabels)
{
	text	  **labels;
	int64		added;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	labels = coupon_get_text_array(fcinfo, 1, nouns, nlabels);
	check_labels(labels, *nlabels, noun, nouns);
	coupon_shmem_attach();

	coupon_spi_connect();
	added = import_labels(PG_GETARG_INT64(0), labels, *nlabels, labels_public);
	coupon_spi_finish();
	return added;
}

/*
 * coupon_codes_import(campaign_id, codes)
 */
Datum
coupon_codes_import(PG_FUNCTION_ARGS)
{
	int			ncodes;
	int64		added = import(fcinfo, "code", "codes", false, &ncodes);

	if (added < ncodes)
		ereport(NOTICE,
				(errmsg("%lld of %d codes were skipped as duplicates",
						(long long) (ncodes - added), ncodes),
				 errdetail("They are in the array more than once, or the campaign has them already.")));
	PG_RETURN_INT64(added);
}

/*
 * coupon_units_import(campaign_id, labels)
 */
Datum
coupon_units_import(PG_FUNCTION_ARGS)
{
	int			nlabels;

	PG_RETURN_INT64(import(fcinfo, "label", "labels", true, &nlabels));
}

/* ---- generating ---- */

/* One code: the pattern with each # replaced by a random character. */
static text *
generate_code(const char *pattern, int length)
{
	text	   *code = palloc(VARHDRSZ + length);
	char	   *out = VARDATA(code);
	uint8		random[COUPON_MAX_NAME];

	coupon_random(random, length);
	SET_VARSIZE(code, VARHDRSZ + length);
	for (int i = 0; i < length; i++)
		out[i] = pattern[i] == '#' ? ALPHABET[random[i] % 32] : pattern[i];
	return code;
}

static void
check_feasible(const char *pattern, int64 total, int64 units)
{
	int			bits = 0;
	double		space;

	for (const char *c = pattern; *c != '\0'; c++)
	{
		if (*c == '#')
			bits += BITS_PER_SYMBOL;
	}
	space = pow(2, bits);

	/* more than half full, finding a free code would take too many tries */
	if (total > space / 2)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_INFEASIBLE_CODES),
				 errmsg("pattern \"%s\" has too few codes", pattern),
				 errdetail("It has %.0f, and the campaign would have %lld.",
						   space, (long long) total),
				 errhint("Add # characters: each multiplies the codes by 32.")));
	if (total / space > GUESSABLE)
		ereport(NOTICE,
				(errmsg("codes of this pattern can be guessed"),
				 errdetail("Of random guesses, one in %.0f would be a code.", space / total),
				 errhint("Add # characters, or limit the rate of attempts.")));
}

/*
 * coupon_codes_generate(campaign_id, pattern, units)
 */
Datum
coupon_codes_generate(PG_FUNCTION_ARGS)
{
	CouponCampaignRow row;
	int64		campaign_id;
	char	   *pattern;
	int			length;
	int64		units;
	int64		unlabelled;
	int64		labelled;
	int64		added = 0;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	campaign_id = PG_GETARG_INT64(0);
	pattern = PG_ARGISNULL(1) ? DEFAULT_PATTERN :
		coupon_get_text(fcinfo, 1, "pattern", 1, COUPON_MAX_NAME);
	length = strlen(pattern);
	units = coupon_get_int64(fcinfo, 2, "units", 1, MAX_GENERATED);
	coupon_shmem_attach();

	coupon_spi_connect();
	unlabelled = begin_labelling(campaign_id, false, &row);
	if (units < unlabelled)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_UNIT_KIND),
				 errmsg("too few codes for the campaign's units"),
				 errdetail("Campaign %lld has %lld units, and %lld codes were asked for.",
						   (long long) campaign_id, (long long) unlabelled, (long long) units),
				 errhint("Generate a code for each unit in the first call, or create the campaign with stock 0.")));
	labelled = row.stock - unlabelled;
	check_feasible(pattern, labelled + units, units);

	/* what collides is made again: at most half of the space is taken */
	while (added < units)
	{
		MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "coupon codes",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext oldcontext = MemoryContextSwitchTo(context);
		int			wanted = Min(units - added, GENERATE_BATCH);
		text	  **codes = palloc(wanted * sizeof(text *));

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < wanted; i++)
			codes[i] = generate_code(pattern, length);
		added += label_units(campaign_id, labelled + added, codes, wanted, false);
		MemoryContextSwitchTo(oldcontext);
		MemoryContextDelete(context);
	}
	end_labelling(campaign_id, &row, labelled + added);
	coupon_spi_finish();
	PG_RETURN_INT64(added);
}
