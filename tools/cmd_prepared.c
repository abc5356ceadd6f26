/* cmd_prepared.c - `txnfs prepared`: what is in doubt, on a mount and without one. */
#include "tools/tools.h"
#include "txn/txn.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct args {
	const char *path, *control;
	bool json;
	json_t *list;
};

static int print_one(struct args *a, const char *gid, long long uid, const char *when, long long changes)
{
	struct base_buf q = {0};
	int r;

	if (a->json) {
		r = json_array_append_new(a->list, json_pack("{s:o, s:I, s:s, s:I}", "gid", tool_json_bytes(gid), "uid",
		                                             (json_int_t)uid, "time", when, "changes", (json_int_t)changes));
		return r ? -ENOMEM : 0;
	}
	base_buf_quote(&q, gid);
	if (!q.err)
		printf("%s\t%lld\t%s\t%lld\n", (char *)q.p, uid, when, changes);
	r = q.err;
	base_buf_free(&q);
	return r;
}

/* ---- from a mount: its control file ---- */

static int print_file(struct args *a, FILE *f)
{
	CLEANUP_FREE char *line = NULL;
	size_t cap = 0;
	int r = 0;

	while (!r && getline(&line, &cap, f) > 0) {
		char *gid, *rest = tool_unquote(line, &gid), when[40] = "";
		long long uid = -1, changes = -1;

		if (*rest)
			*rest++ = 0;
		if (sscanf(rest, "%lld\t%39[^\t]\t%lld", &uid, when, &changes) != 3)
			return -EPROTO;
		r = print_one(a, gid, uid, when, changes);
	}
	return ferror(f) ? -EIO : r;
}

/* 1: the mount's daemon has died. */
static int list_mount(struct args *a, const struct tool_mount *m)
{
	CLEANUP_FREE char *path = NULL;
	FILE *f;
	int r;

	if (asprintf(&path, "%s/%s/prepared", m->point, tool_control(a->control)) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	f = fopen(path, "re");
	if (!f && errno == ENOTCONN)
		return 1;
	if (!f) {
		r = -errno;
		tool_error("%s: %s", path, strerror(errno));
		return r;
	}
	r = print_file(a, f);
	if (r)
		tool_error("%s: %s", path, strerror(-r));
	fclose(f);
	return r;
}

/* ---- from the log ---- */

static int print_logged(void *arg, const struct txn_prepared *p)
{
	char when[40];
	struct tm tm;

	if (!gmtime_r(&p->time.tv_sec, &tm) || !strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm))
		strcpy(when, "-");
	return print_one(arg, p->gid, p->uid, when, (long long)p->changes);
}

static int list_log(struct args *a, const char *source)
{
	struct store *store;
	char err[1024] = "";
	int r, wal_dirfd;

	r = store_dir_open(source, &(struct store_dir_options){.read_only = true}, &store, &wal_dirfd, err, sizeof(err));
	if (r) {
		tool_error("%s", *err ? err : strerror(-r));
		return r;
	}
	r = txn_log_prepared(os_real(), wal_dirfd, print_logged, a, err, sizeof(err));
	if (r)
		tool_error("%s: %s", source, *err ? err : strerror(-r));
	store->ops->close(store);
	return r;
}

static int list(struct args *a)
{
	CLEANUP_FREE char *source = NULL;
	struct tool_mount m = {0};
	int r = tool_mount_at(a->path, &m) ? 1 : list_mount(a, &m);

	tool_mount_free(&m);
	if (r != 1)
		return r;
	source = tool_source(a->path);
	return source ? list_log(a, source) : -ENOENT;
}

static error_t parse_prepared(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'j':
		a->json = true;
		return 0;
	case 'c':
		a->control = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (a->path)
			return ARGP_ERR_UNKNOWN;
		a->path = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->path)
			argp_error(state, "the source directory or the mount point is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_prepared(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"json", 'j', NULL, 0, "A JSON array of objects", 0},
		{"control", 'c', "NAME", 0, "Name of the control directory (default $TXNFS_CONTROL or .txn)", 0},
		{0},
	};
	static const struct argp argp = {options,
	                                 parse_prepared,
	                                 "SRC|MNT",
	                                 "List the transactions that are prepared and in doubt: GID, uid of the owner, time, "
	                                 "number of changes. Of a directory that is not mounted, as its log has them.",
	                                 NULL,
	                                 NULL,
	                                 NULL};
	struct args a = {0};
	int r;

	tool_parse(&argp, argc, argv, 0, &a);
	a.list = json_array();
	r = a.list ? list(&a) : -ENOMEM;
	if (!r && a.json) {
		json_dumpf(a.list, stdout, JSON_COMPACT);
		putchar('\n');
	}
	json_decref(a.list);
	return tool_finish(r ? TOOL_FAILED : TOOL_OK);
}
