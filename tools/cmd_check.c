/* cmd_check.c - `txnfs check`: verify the log and the state directory without changing them. */
#include "tools/tools.h"
#include "txn/txn.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct check {
	const char *path;
	bool json;
	json_t *problems; /* strings; NULL: print them */
	uint64_t count;
};

static void problem(void *arg, const char *line)
{
	struct check *c = arg;

	c->count++;
	if (c->problems)
		json_array_append_new(c->problems, json_string(line));
	else
		printf("problem: %s\n", line);
}

static void print_json(const struct check *c, const char *source, const struct txn_check *res)
{
	json_t *o = json_pack("{s:s%, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "source", source, strlen(source),
	                      "sound", !c->count, "clean", res->clean, "records", (json_int_t)res->records, "bytes",
	                      (json_int_t)res->bytes, "segments", (json_int_t)res->segments, "live_transactions",
	                      (json_int_t)res->live_transactions, "staged", (json_int_t)res->staged, "trashed",
	                      (json_int_t)res->trashed, "problems", c->problems);

	if (!o) /* a path that is no UTF-8 */
		o = json_pack("{s:b, s:O}", "sound", !c->count, "problems", c->problems);
	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
}

static void print_text(const struct check *c, const char *source, const struct txn_check *res)
{
	printf("%s: %" PRIu64 " records, %" PRIu64 " bytes in %" PRIu64 " segments; %s\n", source, res->records,
	       res->bytes, res->segments, res->clean ? "closed cleanly" : "in use, or not closed cleanly");
	if (res->live_transactions)
		printf("transactions without an end: %" PRIu64 "\n", res->live_transactions);
	if (res->staged || res->trashed)
		printf("kept for recovery or open files: %" PRIu64 " staged, %" PRIu64 " removed\n", res->staged,
		       res->trashed);
	if (c->count)
		printf("%" PRIu64 " problem%s found\n", c->count, c->count == 1 ? "" : "s");
	else
		printf("sound%s\n", res->clean ? "" : "; the next mount recovers what needs it");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct check *c = state->input;

	switch (key) {
	case 'j':
		c->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (c->path)
			return ARGP_ERR_UNKNOWN;
		c->path = arg;
		return 0;
	case ARGP_KEY_END:
		if (!c->path)
			argp_error(state, "the source directory is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_check(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"json", 'j', NULL, 0, "Print a JSON object", 0},
		{0},
	};
	static const struct argp argp = {options,
	                                 parse,
	                                 "SRC|MNT",
	                                 "Verify the log and the state directory of SRC without changing them. Run it "
	                                 "on a directory that is not "
	                                 "mounted: in use, the log moves on while it is read.\v"
	                                 "Exit status: 0 sound, also when a crash left something to recover; 3 "
	                                 "problems were found; 1 it could not "
	                                 "be checked.",
	                                 NULL,
	                                 NULL,
	                                 NULL};
	struct check c = {0};
	struct txn_check res = {0};
	struct store *store;
	CLEANUP_FREE char *source = NULL;
	char err[1024] = "";
	int r, wal_dirfd;

	tool_parse(&argp, argc, argv, 0, &c);
	source = tool_source(c.path);
	if (!source)
		return TOOL_FAILED;
	r = store_dir_open(source, &(struct store_dir_options){.read_only = true}, &store, &wal_dirfd, err,
	                   sizeof(err));
	if (r) {
		tool_error("%s", *err ? err : strerror(-r));
		return r == -EUCLEAN ? TOOL_PROBLEMS : TOOL_FAILED;
	}
	if (c.json)
		c.problems = json_array();
	r = txn_check(store, os_real(), wal_dirfd, &res, problem, &c);
	if (r && r != -EUCLEAN) {
		tool_error("%s: cannot be checked: %s", source, strerror(-r));
	} else {
		if (r && !c.count)
			problem(&c, strerror(-r));
		if (c.json)
			print_json(&c, source, &res);
		else
			print_text(&c, source, &res);
		r = c.count ? TOOL_PROBLEMS : TOOL_OK;
	}
	json_decref(c.problems);
	store->ops->close(store);
	return tool_finish(r < 0 ? TOOL_FAILED : r);
}
