/* cmd_resolve.c - `txnfs resolve`: the outcome of what is in doubt, by hand or as a coordinator's log has it. */
#include "tools/participant.h"
#include "tools/resolver.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct args {
	const char *path, *control, *gid, *outcome, *log;
	bool quiet, commit, json, all;
};

static void print_json(json_t *o)
{
	json_dumpf(o, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(o);
}

/* ---- one, by hand ---- */

static void print_one(const struct args *a, const char *what)
{
	if (a->json)
		print_json(json_pack("{s:o, s:s}", "gid", tool_json_bytes(a->gid), "outcome", a->outcome));
	else if (!a->quiet)
		puts(what);
}

static int resolve_mount(const struct args *a, const struct tool_mount *m)
{
	CLEANUP_FREE char *answer = NULL;
	char why[PARTICIPANT_WHY] = "";
	int r = participant_end_mounted(m, tool_control(a->control), a->gid, a->commit, &answer, why);

	if (r)
		tool_error("%s", r < 0 ? why : "no transaction is prepared by that name");
	else
		print_one(a, answer ? answer : a->outcome);
	return r;
}

static int resolve_source(const struct args *a, const char *source)
{
	char why[PARTICIPANT_WHY] = "", text[512];
	struct base_buf q = {0};
	uint64_t changes = 0;
	int r = participant_end_offline(source, NULL, a->gid, a->commit, &changes, why);

	base_buf_quote(&q, a->gid);
	if (r == 1)
		tool_error("%s: no transaction is prepared by that name", source);
	else if (r)
		tool_error("%s%s", why, r == -EBUSY ? " (name the mount point instead)" : "");
	snprintf(text, sizeof(text), "%s the transaction that was prepared as %s (%" PRIu64 " changes)",
	         a->commit ? "committed" : "rolled back", q.err ? "?" : (char *)q.p, changes);
	base_buf_free(&q);
	if (!r)
		print_one(a, text);
	return r;
}

/* When the log that decides is at hand, it is not contradicted by mistake. Not 0: said why. */
static int agree_with_log(const struct args *a)
{
	char log_id[DECISION_LOG_ID + 1], run_id[DECISION_RUN_ID + 1], err[1024] = "";
	struct decision_log log;
	struct decision_run run;
	bool refused = false;
	int r;

	if (!decision_gid_parse(a->gid, log_id, run_id) || decision_log_open(a->log, false, &log, err, sizeof(err)))
		return 0;
	r = strcmp(log_id, log.id) ? -ENOENT : decision_take(&log, run_id, &run, err, sizeof(err));
	if (r == -EWOULDBLOCK) {
		tool_error("%s belongs to a run that is alive and will decide itself", a->gid);
		refused = true;
	} else if (!r) {
		refused = run.commit != a->commit;
		if (refused)
			tool_error("%s/%s.run says that it is to be %s: `txnfs resolve --all` does that. To decide "
			           "against it, remove that file "
			           "first",
			           log.path, run_id, run.commit ? "committed" : "rolled back");
		decision_release(&log, &run);
	}
	decision_log_close(&log);
	return refused ? -EBUSY : 0; /* it says the same, nothing, or nothing that can be read */
}

static int resolve_one(const struct args *a)
{
	CLEANUP_FREE char *source = NULL;
	struct tool_mount m = {0};
	int r = agree_with_log(a);

	if (r)
		return r;
	r = tool_mount_at(a->path, &m);
	if (!r) {
		r = resolve_mount(a, &m);
	} else {
		source = tool_source(a->path);
		r = source ? resolve_source(a, source) : -ENOENT;
	}
	tool_mount_free(&m);
	return r;
}

/* ---- all, by the log ---- */

static int resolve_all(const struct args *a)
{
	struct decision_log log = {.dir = -1};
	struct resolver rs = {.offline = true, .tell = !a->quiet && !a->json, .complain = true, .strangers = true};
	CLEANUP_FREE char *path = a->log ? strdup(a->log) : decision_log_default();
	char err[1024] = "";
	int r = decision_log_open(a->log, false, &log, err, sizeof(err));

	if (r && r != -ENOENT) {
		tool_error("%s", *err ? err : strerror(-r));
		return r;
	}
	if (r && a->log) {
		tool_error("%s: there is no decision log", a->log);
		rs.err = r;
	}
	rs.log = r ? NULL : &log;
	if (a->json) {
		rs.runs = json_array();
		rs.in_doubt = json_array();
	}
	resolver_pass(&rs);
	resolver_look_everywhere(&rs, tool_control(a->control));
	if (a->json)
		print_json(json_pack("{s:o, s:s?, s:O, s:O}", "log", path ? tool_json_bytes(path) : json_null(), "id",
		                     r ? NULL : log.id, "runs", rs.runs, "in_doubt", rs.in_doubt));
	else if (!a->quiet && rs.alive)
		printf("%u run%s alive: left alone\n", rs.alive, rs.alive == 1 ? " is" : "s are");
	else if (!a->quiet && !rs.done && !rs.left && !rs.err)
		puts("nothing is in doubt");
	resolver_free(&rs);
	decision_log_close(&log);
	return rs.err ? rs.err : rs.left ? -EBUSY : 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'q':
		a->quiet = true;
		return 0;
	case 'a':
		a->all = true;
		return 0;
	case 'L':
		a->log = arg;
		return 0;
	case 'j':
		a->json = true;
		return 0;
	case 'c':
		a->control = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num > 2)
			return ARGP_ERR_UNKNOWN;
		*(state->arg_num == 0 ? &a->path : state->arg_num == 1 ? &a->gid : &a->outcome) = arg;
		return 0;
	case ARGP_KEY_END:
		if (a->all && a->path)
			argp_error(state, "--all goes through the log; it takes no SRC|MNT");
		if (a->all)
			return 0;
		if (!a->outcome)
			argp_error(state, "the source directory or the mount point, the GID, and commit or rollback "
			                  "are needed, or --all");
		a->commit = !strcmp(a->outcome, "commit");
		if (!a->commit && strcmp(a->outcome, "rollback") != 0)
			argp_error(state, "\"%s\" is neither commit nor rollback", a->outcome);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_resolve(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"all", 'a', NULL, 0,
	         "Finish what `txnfs run` on several mounts left in doubt, as its decision log says", 0},
		{"log", 'L', "DIR", 0, "The decision log (default as for `txnfs run`)", 0},
		{"json", 'j', NULL, 0, "Print a JSON object", 0},
		{"control", 'c', "NAME", 0, "Name of the control directory (default $TXNFS_CONTROL or .txn)", 0},
		{"quiet", 'q', NULL, 0, "Print nothing when it went well", 0},
		{0},
	};
	static const struct argp argp = {options,
	                                 parse,
	                                 "SRC|MNT GID commit|rollback\n--all",
	                                 "Decide the outcome of a prepared transaction by hand, or finish all those "
	                                 "that a coordinator left. A directory "
	                                 "that is not mounted is recovered first, as `txnfs recover` does.\v"
	                                 "--all: runs that are alive are left alone. What was decided is committed, "
	                                 "what was not is rolled back, on "
	                                 "mounts and in directories that are not mounted. What cannot be reached, or "
	                                 "belongs to a log that is not there, "
	                                 "stays in doubt; it is named, and the exit status is 1.",
	                                 NULL,
	                                 NULL,
	                                 NULL};
	struct args a = {0};

	tool_parse(&argp, argc, argv, 0, &a);
	return tool_finish((a.all ? resolve_all(&a) : resolve_one(&a)) ? TOOL_FAILED : TOOL_OK);
}
