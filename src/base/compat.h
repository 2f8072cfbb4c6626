/*
 * compat.h
 *	  The differences between PostgreSQL 14 and 18 that coupon meets.
 *
 * The only file that looks at PG_VERSION_NUM: everything else is written for
 * the newest interface and finds it here on the older servers.
 */
#ifndef COUPON_COMPAT_H
#define COUPON_COMPAT_H

#if PG_VERSION_NUM < 140000 || PG_VERSION_NUM >= 190000
#error "coupon supports PostgreSQL 14 to 18"
#endif

#include "access/genam.h"
#include "access/tableam.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"

/* 15: shmem_request_hook, MarkGUCPrefixReserved, InitMaterializedSRF */
#if PG_VERSION_NUM < 150000
#define COUPON_HAVE_SHMEM_REQUEST_HOOK 0
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)

static inline void
InitMaterializedSRF(FunctionCallInfo fcinfo, bits32 flags)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext oldcontext;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		(rsinfo->allowedModes & SFRM_Materialize) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	oldcontext = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, &rsinfo->setDesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	rsinfo->setDesc = CreateTupleDescCopy(rsinfo->setDesc);
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = tuplestore_begin_heap(false, false, work_mem);
	MemoryContextSwitchTo(oldcontext);
}
#else
#define COUPON_HAVE_SHMEM_REQUEST_HOOK 1
#endif

/* 16: VARDATA_ANY and its like have a header of their own */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 16: indexes that only summarize, to be updated alone */
#if PG_VERSION_NUM < 160000
typedef enum TU_UpdateIndexes
{
	TU_None,
	TU_All,
	TU_Summarizing
} TU_UpdateIndexes;

#define coupon_insert_index_tuples(rri, slot, estate, update, no_error, conflict, arbiters, summarizing) \
	ExecInsertIndexTuples(rri, slot, estate, update, no_error, conflict, arbiters)
#else
#define coupon_insert_index_tuples ExecInsertIndexTuples
#endif

static inline TM_Result
coupon_table_tuple_update(Relation rel, ItemPointer tid, TupleTableSlot *slot, CommandId cid,
						  bool wait, TM_FailureData *failure, LockTupleMode *mode,
						  TU_UpdateIndexes *indexes)
{
#if PG_VERSION_NUM < 160000
	bool		any_index;
	TM_Result	result = table_tuple_update(rel, tid, slot, cid, InvalidSnapshot, InvalidSnapshot,
											wait, failure, mode, &any_index);

	*indexes = any_index ? TU_All : TU_None;
	return result;
#else
	return table_tuple_update(rel, tid, slot, cid, InvalidSnapshot, InvalidSnapshot,
							  wait, failure, mode, indexes);
#endif
}

/* 17: numbered processes, named wait events of extensions, owners of wait sets */
#if PG_VERSION_NUM < 170000
#define coupon_create_wait_event_set(context, n) CreateWaitEventSet(context, n)
#define coupon_my_proc_number() ((uint32) MyProc->pgprocno)
#define coupon_wait_event(name) PG_WAIT_EXTENSION
#else
#define coupon_create_wait_event_set(context, n) CreateWaitEventSet(NULL, n)
#define coupon_my_proc_number() ((uint32) MyProcNumber)
#define coupon_wait_event(name) WaitEventExtensionNew(name)
#endif

/* 17: how much of what the client has sent waits in the buffer, not only whether */
#if PG_VERSION_NUM < 170000
extern bool pq_buffer_has_data(void);

#define coupon_client_has_sent() pq_buffer_has_data()
#else
extern ssize_t pq_buffer_remaining_data(void);

#define coupon_client_has_sent() (pq_buffer_remaining_data() > 0)
#endif

/* A function that gives a wait event of ours, which each process asks for once. */
#define COUPON_WAIT_EVENT(function, name) \
static uint32 \
function(void) \
{ \
	static uint32 event = 0; \
	\
	if (event == 0) \
		event = coupon_wait_event(name); \
	return event; \
} \
extern int	no_such_variable

/* 18: pg_noreturn comes first, index_beginscan takes instrumentation */
#ifndef pg_noreturn
#define pg_noreturn _Noreturn
#endif

#if PG_VERSION_NUM < 180000
#define coupon_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#else
#define coupon_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#endif

/*
 * 16: the parser's actions return a result.  17: the lexer may be the caller's.
 * For whoever includes common/jsonapi.h.
 */
#if PG_VERSION_NUM < 160000
#define COUPON_JSON_RESULT	void
#define COUPON_JSON_OK
#else
#define COUPON_JSON_RESULT	JsonParseErrorType
#define COUPON_JSON_OK		JSON_SUCCESS
#endif
#if PG_VERSION_NUM < 170000
#define coupon_json_lex(text, length) \
	makeJsonLexContextCstringLen(text, length, GetDatabaseEncoding(), true)
#else
#define coupon_json_lex(text, length) \
	makeJsonLexContextCstringLen(NULL, text, length, GetDatabaseEncoding(), true)
#endif

/* 16: one function to ask for a privilege */
#if PG_VERSION_NUM < 160000
#define coupon_may_execute(function, role) \
	(pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK)
#else
#define coupon_may_execute(function, role) \
	(object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK)
#endif

#endif							/* COUPON_COMPAT_H */
