/* cmd_recover.c - `txnfs recover`: what a mount does first, without the mount. */
#include "tools/tools.h"
#include "txn/txn.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct recover {
	const char *source;
	bool verbose, quiet;
	struct tool_progress progress;
};

static void report(void *arg, const char *line)
{
	struct recover *rc = arg;

	if (!rc->verbose)
		return;
	tool_progress_end(&rc->progress);
	puts(line);
}

static void progress(void *arg, uint64_t done, uint64_t total)
{
	struct recover *rc = arg;

	tool_progress(&rc->progress, "recovering", done, total);
}

static const char *plural(uint64_t n)
{
	return n == 1 ? "" : "s";
}

static void in_doubt(const struct txn_recovery *r)
{
	if (r->in_doubt)
		printf("in doubt: %" PRIu64 " prepared transaction%s; `txnfs prepared` lists, `txnfs resolve` decides\n",
		       r->in_doubt, plural(r->in_doubt));
}

static void summary(const char *source, const struct txn_recovery *r)
{
	if (r->clean) {
		printf("%s: nothing to recover: it was closed cleanly\n", source);
		in_doubt(r);
		return;
	}
	printf("%s: recovered from %" PRIu64 " log record%s (%" PRIu64 " bytes)\n", source, r->records,
	       plural(r->records), r->bytes);
	printf("redone: %" PRIu64 " committed transaction%s, %" PRIu64 " operation%s: %" PRIu64 " object%s and %" PRIu64
	       " name%s installed\n",
	       r->committed, plural(r->committed), r->operations, plural(r->operations), r->objects, plural(r->objects),
	       r->names, plural(r->names));
	printf("rolled back: %" PRIu64 " transaction%s without a commit\n", r->lost, plural(r->lost));
	in_doubt(r);
	if (r->missing)
		printf("missing: %" PRIu64 " object%s that the log names and the directory no longer has\n", r->missing,
		       plural(r->missing));
	if (r->swept)
		printf("removed: %" PRIu64 " leftover%s of unfinished work\n", r->swept, plural(r->swept));
}

static int recover(struct recover *rc)
{
	struct store *store = NULL;
	struct txn_engine *eng;
	struct txn_recovery rec = {0};
	struct txn_config cfg = {.no_threads = true, .report = report, .progress = progress, .arg = rc};
	char err[1024] = "";
	int r;

	r = store_dir_open(rc->source, &(struct store_dir_options){.create = false}, &store, &cfg.wal_dirfd, err,
	                   sizeof(err));
	if (r) {
		tool_error("%s%s", *err ? err : strerror(-r),
		           r == -EBUSY ? " (a mounted directory needs no recovery)" : "");
		return TOOL_FAILED;
	}
	cfg.store = store;
	r = txn_engine_open(&cfg, &eng, &rec, err, sizeof(err));
	tool_progress_end(&rc->progress);
	if (r) {
		tool_error("%s: %s", rc->source, *err ? err : strerror(-r));
	} else {
		r = txn_engine_close(eng);
		if (r)
			tool_error("%s: recovered, but closing failed: %s; run it again", rc->source, strerror(-r));
		else if (!rc->quiet)
			summary(rc->source, &rec);
	}
	store->ops->close(store);
	return tool_finish(r ? TOOL_FAILED : TOOL_OK);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct recover *rc = state->input;

	switch (key) {
	case 'v':
		rc->verbose = true;
		return 0;
	case 'q':
		rc->quiet = true;
		return 0;
	case ARGP_KEY_ARG:
		if (rc->source)
			return ARGP_ERR_UNKNOWN;
		rc->source = arg;
		return 0;
	case ARGP_KEY_END:
		if (!rc->source)
			argp_error(state, "the source directory is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_recover(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"verbose", 'v', NULL, 0, "Print each step", 0},
		{"quiet", 'q', NULL, 0, "Print no summary", 0},
		{0},
	};
	static const struct argp argp = {options,
	                                 parse,
	                                 "SRC",
	                                 "Recover the directory SRC after a crash, without mounting it: redo what was "
	                                 "committed, undo what was not, "
	                                 "and tell about it. A mount does the same by itself. It may be run again, and "
	                                 "interrupted, at any time.",
	                                 NULL,
	                                 NULL,
	                                 NULL};
	struct recover rc = {0};

	tool_parse(&argp, argc, argv, 0, &rc);
	return recover(&rc);
}
