/*
 * pages.c
 *	  The pages for people: the waiting room's and the board's.
 *
 * They are files that are installed beside the extension's script, so that
 * there is nothing to build, and a seller can put in their own words; a reload
 * has them read again.  A page is the same for everybody but for its language
 * and the origins that it may send a visitor to, which the server puts in; all
 * else the page asks for by the routes that programs use, with the visitor's
 * rights.
 *
 * The content security policy allows what comes from here and nothing else:
 * no script, no style and no handler inside of a page.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "front/answer.h"
#include "front/pages.h"
#include "front/settings.h"

#define MAX_PAGE	(1024 * 1024)	/* bytes */

#define POLICY \
	"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " \
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

/* Where a page is served, if the operator has an address of their own. */
typedef enum Door
{
	ANY_DOOR,
	VISITORS_DOOR,
	OPERATORS_DOOR
} Door;

typedef struct Page
{
	const char *file;
	const char *type;
	Door		door;
	char	   *content;		/* NULL: not read yet */
	size_t		length;
} Page;

static Page pages[] = {
	{.file = "coupon-room.html",.type = "text/html; charset=utf-8",.door = VISITORS_DOOR},
	{.file = "coupon-board.html",.type = "text/html; charset=utf-8",.door = OPERATORS_DOOR},
	{.file = "coupon-room.js",.type = "text/javascript; charset=utf-8",.door = VISITORS_DOOR},
	{.file = "coupon-board.js",.type = "text/javascript; charset=utf-8",.door = OPERATORS_DOOR},
	{.file = "coupon-page.css",.type = "text/css; charset=utf-8",.door = ANY_DOOR},
};

#define ROOM	(&pages[0])
#define BOARD	(&pages[1])

/* ---- the files ---- */

void
coupon_pages_reload(void)
{
	for (size_t i = 0; i < lengthof(pages); i++)
	{
		if (pages[i].content != NULL)
			pfree(pages[i].content);
		pages[i].content = NULL;
	}
}

/*
 * Reads a page's file, if it has not been read.  False, and a line in the log,
 * if that cannot be: an ERROR would be every call's of this turn.
 */
static bool
read_page(Page *page)
{
	char		share[MAXPGPATH];
	char	   *path;
	FILE	   *file;
	struct stat st;

	if (page->content != NULL)
		return true;
	get_share_path(my_exec_path, share);
	path = psprintf("%s/extension/%s", share, page->file);
	file = AllocateFile(path, PG_BINARY_R);
	if (file == NULL || fstat(fileno(file), &st) != 0)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not read \"%s\": %m", path),
				 errhint("It is installed by \"make install\", as coupon's script is.")));
	else if (st.st_size > MAX_PAGE)
		ereport(LOG,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("\"%s\" is too large", path),
				 errdetail("It has %lld bytes, and may have %d.", (long long) st.st_size, MAX_PAGE)));
	else
	{
		page->content = MemoryContextAlloc(TopMemoryContext, st.st_size + 1);
		page->length = fread(page->content, 1, st.st_size, file);
		page->content[page->length] = '\0';
	}
	if (file != NULL)
		FreeFile(file);
	return page->content != NULL;
}

/* ---- which page ---- */

/* The path of a target, without its query. */
static size_t
path_length(const char *target)
{
	return strcspn(target, "?");
}

static bool
is_path(const char *target, const char *path)
{
	return path_length(target) == strlen(path) && strncmp(target, path, strlen(path)) == 0;
}

/* Is it /rooms/{room}? */
static bool
is_room(const char *target)
{
	size_t		length = path_length(target);

	return strncmp(target, "/rooms/", 7) == 0 && length > 7 && memchr(target + 7, '/', length - 7) == NULL;
}

static Page *
find_page(CouponHttpCall *call)
{
	const char *target = call->target;
	const char *accept = coupon_http_header(call, "Accept");

	/* a program that asks for the room is not meant */
	if (is_room(target))
		return accept != NULL && strstr(accept, "text/html") != NULL ? ROOM : NULL;
	if (is_path(target, "/board"))
		return BOARD;
	if (strncmp(target, "/pages/", 7) != 0)
		return NULL;
	for (size_t i = 0; i < lengthof(pages); i++)
	{
		if (&pages[i] != ROOM && &pages[i] != BOARD && is_path(target + 7, pages[i].file))
			return &pages[i];
	}
	return NULL;
}

/* ---- what the server puts in ---- */

/* The weight of one item of Accept-Language, in thousandths. */
static int
weight_of(const char *item, size_t length)
{
	for (size_t i = 0; i + 2 < length; i++)
	{
		if (item[i] == 'q' && item[i + 1] == '=')
		{
			double		q = strtod(item + i + 2, NULL);

			return q > 0 && q <= 1 ? (int) (q * 1000 + 0.5) : 0;
		}
	}
	return 1000;
}

/* The language of a page: the visitor's choice, or what the browser asks for. */
static const char *
choose_language(CouponHttpCall *call)
{
	const char *query = strchr(call->target, '?');
	const char *list = coupon_http_header(call, "Accept-Language");
	const char *best = "en";
	int			best_weight = 0;

	if (query != NULL && (strstr(query, "?lang=ko") != NULL || strstr(query, "&lang=ko") != NULL))
		return "ko";
	if (query != NULL && (strstr(query, "?lang=en") != NULL || strstr(query, "&lang=en") != NULL))
		return "en";
	while (list != NULL && *list != '\0')
	{
		size_t		length;
		int			weight;

		list += strspn(list, " ,\t");
		length = strcspn(list, ",");
		weight = weight_of(list, length);
		if (weight > best_weight &&
			(pg_strncasecmp(list, "ko", 2) == 0 || pg_strncasecmp(list, "en", 2) == 0))
		{
			best = pg_strncasecmp(list, "ko", 2) == 0 ? "ko" : "en";
			best_weight = weight;
		}
		list += length;
	}
	return best;
}

/* A setting's text inside of an attribute. */
static void
append_attribute(StringInfo page, const char *value)
{
	for (; *value != '\0'; value++)
	{
		if (strchr("&\"<>'", *value) != NULL)
			appendStringInfo(page, "&#%d;", *value);
		else
			appendStringInfoChar(page, *value);
	}
}

/* The page with {lang} and {origins} replaced. */
static void
fill_in(StringInfo filled, CouponHttpCall *call, const char *content)
{
	const char *brace;

	for (; (brace = strchr(content, '{')) != NULL; content = brace)
	{
		appendBinaryStringInfo(filled, content, brace - content);
		if (strncmp(brace, "{lang}", 6) == 0)
		{
			appendStringInfoString(filled, choose_language(call));
			brace += 6;
		}
		else if (strncmp(brace, "{origins}", 9) == 0)
		{
			append_attribute(filled, coupon_http_cors_origins);
			brace += 9;
		}
		else
			appendStringInfoChar(filled, *brace++);
	}
	appendStringInfoString(filled, content);
}

static void
answer_page(CouponHttpCall *call, Page *page)
{
	const char *known = coupon_http_header(call, "If-None-Match");
	StringInfoData filled;
	char	   *tag;

	if (!read_page(page))
	{
		coupon_answer_problem(call, 503, "page", "The page is not available.", NULL, NULL);
		return;
	}
	initStringInfo(&filled);
	if (page == ROOM || page == BOARD)
		fill_in(&filled, call, page->content);
	else
		appendBinaryStringInfo(&filled, page->content, page->length);
	tag = psprintf("\"%016llx\"", (unsigned long long)
				   hash_bytes_extended((const unsigned char *) filled.data, filled.len, 0));
	if (known != NULL && strstr(known, tag) != NULL)
		coupon_answer_body(call, 304, NULL, NULL, 0);
	else
		coupon_answer_body(call, 200, page->type, filled.data, filled.len);
	coupon_answer_header(call, "ETag", tag);
	/* kept, but asked for again each time, which costs no more than the tag */
	coupon_answer_header(call, "Cache-Control", "no-cache");
	coupon_answer_header(call, "Vary", "Accept, Accept-Language");
	coupon_answer_header(call, "Content-Security-Policy", POLICY);
	coupon_answer_header(call, "X-Content-Type-Options", "nosniff");
	coupon_answer_header(call, "Referrer-Policy", "no-referrer");
}

bool
coupon_pages_serve(CouponHttpCall *call)
{
	bool		has_two_doors = coupon_http_admin_listen[0] != '\0';
	Page	   *page;

	if (strcmp(call->method, "GET") != 0 && strcmp(call->method, "HEAD") != 0)
		return false;
	page = find_page(call);
	if (page == NULL)
		return false;
	if (has_two_doors && page->door != ANY_DOOR && (page->door == OPERATORS_DOOR) != call->is_admin)
		return false;
	answer_page(call, page);
	return true;
}
