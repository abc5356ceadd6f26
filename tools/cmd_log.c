/* cmd_log.c - `txnfs log`: the log for people and programs. */
#include "tools/tools.h"
#include "txn/txn.h"
#include "wal/wal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct log {
	const char *path;
	bool json;
	bool by_txn;
	uint64_t txid, from;
};

static const struct {
	uint8_t bit;
	const char *name;
} flags[] = {{WAL_CARRIED, "carried"}};

static void print_flags(uint8_t set, const char *before, const char *quote, const char *between)
{
	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		if (!(set & flags[i].bit))
			continue;
		printf("%s%s%s%s", before, quote, flags[i].name, quote);
		before = between;
	}
}

static int print_line(void *arg, const struct txn_log_line *line)
{
	const struct log *log = arg;

	if (line->lsn < log->from || (log->by_txn && line->txid != log->txid))
		return 0;
	if (log->json) {
		printf("{\"lsn\":%" PRIu64 ",\"transaction\":%" PRIu64 ",\"previous\":%" PRIu64
		       ",\"type\":\"%s\",\"flags\":[",
		       line->lsn, line->txid, line->prev, line->type);
		print_flags(line->flags, "", "\"", ",");
		printf("]%s%s}\n", *line->json ? "," : "", line->json);
	} else {
		printf("%-12" PRIu64 " %-8" PRIu64 " %-10s %s", line->lsn, line->txid, line->type, line->text);
		print_flags(line->flags, " [", "", ",");
		puts(line->flags & WAL_CARRIED ? "]" : "");
	}
	/* A reader that has gone, or a full disk: no need to decode the rest. */
	return ferror(stdout) ? -EIO : 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct log *log = state->input;

	switch (key) {
	case 'j':
		log->json = true;
		return 0;
	case 't':
		log->by_txn = true;
		log->txid = tool_number(state, "--txn", arg, 0, UINT64_MAX);
		return 0;
	case 'f':
		log->from = tool_number(state, "--from", arg, 0, UINT64_MAX);
		return 0;
	case ARGP_KEY_ARG:
		if (log->path)
			return ARGP_ERR_UNKNOWN;
		log->path = arg;
		return 0;
	case ARGP_KEY_END:
		if (!log->path)
			argp_error(state, "the source directory or the mount point is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_log(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"json", 'j', NULL, 0, "One JSON object a line", 0},
		{"txn", 't', "ID", 0, "Only the records of this transaction", 0},
		{"from", 'f', "LSN", 0, "Only records from this log sequence number on", 0},
		{0},
	};
	static const struct argp argp = {options,
	                                 parse,
	                                 "SRC|MNT",
	                                 "Print the log that is kept since the last checkpoint, a line a record: LSN, "
	                                 "transaction (0: none), type, "
	                                 "what it says.",
	                                 NULL,
	                                 NULL,
	                                 NULL};
	struct log log = {0};
	struct store *store;
	CLEANUP_FREE char *source = NULL;
	char err[1024] = "";
	int r, wal_dirfd;

	tool_parse(&argp, argc, argv, 0, &log);
	source = tool_source(log.path);
	if (!source)
		return TOOL_FAILED;
	r = store_dir_open(source, &(struct store_dir_options){.read_only = true}, &store, &wal_dirfd, err,
	                   sizeof(err));
	if (r) {
		tool_error("%s", *err ? err : strerror(-r));
		return TOOL_FAILED;
	}
	r = txn_log_each(os_real(), wal_dirfd, print_line, &log, err, sizeof(err));
	if (r && !ferror(stdout))
		tool_error("%s: %s", source, *err ? err : strerror(-r));
	store->ops->close(store);
	return tool_finish(r ? TOOL_FAILED : TOOL_OK);
}
