/*
 * table_support.c
 *	  What a table of ours may have, and what is refused.
 *
 * Rows are written below the executor (table_writer.c), which does what the
 * executor would have done.  What it does not do must not be passed over in silence.
 *
 * What a DBA may add to our tables, and what becomes of it (the same list is
 * in doc/operations.md; each line has a test in test/sql/tap/table_writer.sql,
 * test/t/045_table_writer.pl or test/specs/serializable.spec):
 *
 *	CHECK and NOT NULL constraints		checked
 *	indexes, also unique, partial, on expressions, of any access method
 *										maintained; a conflict is an ERROR
 *	NOT NULL of our columns dropped		refused, for reading, too
 *	other indexes under our own ones' names
 *										refused, for reading, too
 *	exclusion constraints				checked; a conflict is an ERROR
 *	constraints and indexes whose functions call coupon
 *										refused
 *	defaults							of no effect, we write every column
 *	dropped columns						null
 *	columns								refused
 *	other types, collations and typmods of our columns
 *										refused, for reading, too
 *	identity							refused
 *	triggers for what we do, of rows and of statements
 *										refused unless they are disabled
 *	triggers for what redeeming and revoking do, and on labels and shards
 *										fired; refused if they leave a row
 *										as it is
 *	rules for what we do				refused unless they are disabled
 *	foreign keys of our tables, deferred unique constraints
 *										refused: they are triggers
 *	foreign keys to our tables			refused where we update or delete
 *	row level security					refused
 *	inheritance: a parent				its constraints are ours
 *	inheritance: a child, or as a partition
 *										refused
 *	UNLOGGED, other access methods		refused
 *	tablespaces, storage parameters, statistics targets, compression
 *										as for any table
 *	VACUUM FULL, CLUSTER, REINDEX, also CONCURRENTLY
 *										as for any table
 *	publications, logical decoding		rows that were withdrawn are not
 *										decoded; updates and deletes need a
 *										replica identity
 *	REPEATABLE READ, SERIALIZABLE		writes conflict with others' reads;
 *										unique keys are judged by what is
 *										there now, as an index does
 *	cumulative statistics				counted
 */
#include "postgres.h"

#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rewriteDefine.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/fault.h"
#include "base/table_support.h"

void
coupon_table_refuse(Relation rel, const char *what, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s on coupon.%s are not supported", what, RelationGetRelationName(rel)),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

pg_noreturn static void
refuse_part(Relation rel, const char *what, const char *name, const char *hint)
{
	coupon_table_refuse(rel, what, psprintf("\"%s\" would be passed over: rows are written below the executor.", name), hint);
}

#define WRITTEN_BELOW	"Rows are written below the executor."
#define DROP_HINT		"Drop it, or disable it; the events in coupon.outbox tell of every change."

void
coupon_table_refuse_parts(Relation rel, const CouponTable *table)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		coupon_table_refuse(rel, "other access methods than heap", WRITTEN_BELOW,
							"Use ALTER TABLE ... SET ACCESS METHOD heap.");
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		coupon_table_refuse(rel, "unlogged rows", "A crash would lose what users were told.",
							"Use ALTER TABLE ... SET LOGGED.");
	if (rel->rd_rel->relrowsecurity)
		coupon_table_refuse(rel, "row security policies", WRITTEN_BELOW,
							"Use ALTER TABLE ... DISABLE ROW LEVEL SECURITY, and grant functions to those who may call them.");
	if (rel->rd_rel->relispartition)
		coupon_table_refuse(rel, "partitioned parents", WRITTEN_BELOW, "Use ALTER TABLE ... DETACH PARTITION.");
	if (rel->rd_rel->relhassubclass && find_inheritance_children(RelationGetRelid(rel), NoLock) != NIL)
		coupon_table_refuse(rel, "child tables", "The unique indexes know nothing of a child's rows.",
							"Drop them, or use ALTER TABLE ... NO INHERIT.");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (column->attisdropped)
			continue;
		if (i >= table->ncolumns)
			refuse_part(rel, "added columns", NameStr(column->attname),
						"Drop it; keep data of your own in tables of your own.");
		if (column->attidentity != '\0' || column->attgenerated != '\0')
			refuse_part(rel, "identity columns", NameStr(column->attname),
						"Use ALTER TABLE ... ALTER COLUMN ... DROP IDENTITY.");
	}
}

static bool
is_kept(const CouponTable *table, const char *name)
{
	for (const char *const *kept = table->kept; *kept != NULL; kept++)
	{
		if (strcmp(*kept, name) == 0)
			return true;
	}
	return false;
}

void
coupon_table_refuse_fired(Relation rel, const CouponTable *table, int operations)
{
	TriggerDesc *triggers = rel->trigdesc;
	RuleLock   *rules = rel->rd_rules;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];
		int			fires = (TRIGGER_FOR_INSERT(trigger->tgtype) ? COUPON_INSERT : 0) |
		(TRIGGER_FOR_UPDATE(trigger->tgtype) ? COUPON_UPDATE : 0) |
		(TRIGGER_FOR_DELETE(trigger->tgtype) ? COUPON_DELETE : 0);
		const char *name = trigger->tgisinternal && OidIsValid(trigger->tgconstraint) ?
		get_constraint_name(trigger->tgconstraint) : trigger->tgname;

		if ((fires & operations) && trigger->tgenabled != TRIGGER_DISABLED && !is_kept(table, name))
			refuse_part(rel, trigger->tgisinternal ? "constraints that need triggers" : "added triggers",
						name, DROP_HINT);
	}
	for (int i = 0; rules != NULL && i < rules->numLocks; i++)
	{
		RewriteRule *rule = rules->rules[i];
		int			fires = rule->event == CMD_INSERT ? COUPON_INSERT :
		rule->event == CMD_UPDATE ? COUPON_UPDATE :
		rule->event == CMD_DELETE ? COUPON_DELETE : 0;

		if ((fires & operations) && rule->enabled != RULE_DISABLED)
			coupon_table_refuse(rel, "rules", WRITTEN_BELOW, DROP_HINT);
	}
}
