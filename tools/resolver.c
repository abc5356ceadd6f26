/*
 * resolver.c - the recovery of two-phase commit.
 *
 * For each run whose lock is free, its coordinator is dead: no prepare of it is under way (a process that waits for an
 * answer of a daemon does not end, and keeps its lock), and none will come. So what its file says is final.
 * A branch whose run has no file at all was not decided to be committed (its file was durable before it was prepared,
 * and is there until all have committed): abort is presumed. The branch is looked at first and the file after it, for a
 * run that begins in between makes its file before its branches.
 *
 * In a database it is not the run alone that prepares, but a session of the command's, which may do it after all that.
 * Nobody ever commits what it then has: its run's file is gone, and there was no other decision. It is found the next
 * time.
 */
#include "tools/resolver.h"
#include "tools/postgres.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

PRINTF_LIKE(2, 3) static void complain(struct resolver *rs, const char *fmt, ...)
{
	char text[2 * PARTICIPANT_WHY + PATH_MAX];
	va_list ap;

	if (!rs->complain)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	tool_error("%s", text);
}

static void add(json_t *list, json_t *object)
{
	if (list && object)
		json_array_append(list, object);
	json_decref(object);
}

static json_t *text_or_null(const char *s)
{
	return s ? tool_json_bytes(s) : json_null();
}

static const char *kind(const struct decision_branch *br)
{
	return br && postgres_is(br) ? "postgres" : "mount";
}

/* ---- runs ---- */

/* true: it is ended. */
static bool end_branch(struct resolver *rs, const struct decision_run *run, size_t i, json_t *branches)
{
	const struct decision_branch *br = &run->branch[i];
	char gid[DECISION_GID_MAX], why[PARTICIPANT_WHY] = "";
	int r;

	decision_gid(rs->log, run->id, i + 1, gid);
	r = participant_end(br, gid, run->commit, rs->offline, why);
	if (branches)
		add(branches, json_pack("{s:s, s:s, s:o, s:o, s:s, s:o}", "gid", gid, "kind", kind(br), "source",
		                        tool_json_bytes(br->source), "mount", tool_json_bytes(br->point), "state",
		                        r < 0 ? "waiting"
		                        : r   ? "nothing in doubt"
		                              : "ended",
		                        "reason", text_or_null(r < 0 ? why : NULL)));
	if (r < 0) {
		rs->left++;
		complain(rs, "%s stays in doubt, to be %s: %s", gid, run->commit ? "committed" : "rolled back", why);
	} else if (!r) {
		rs->done++;
		if (rs->tell)
			printf("%s: %s %s\n", br->point, run->commit ? "committed" : "rolled back", gid);
	}
	return r >= 0;
}

static const char *run_state(int r, const struct decision_run *run)
{
	if (r == -EWOULDBLOCK)
		return "running";
	return r ? "unknown" : run->commit ? "commit" : "rollback";
}

static void end_run(struct resolver *rs, struct decision_run *run, json_t *branches)
{
	char err[1024] = "";
	bool all = true;
	int r = 0;

	if (run->commit)
		r = decision_commit(rs->log, run, err, sizeof(err));
	for (size_t i = 0; !r && i < run->n; i++)
		all &= end_branch(rs, run, i, branches);
	if (!r && all)
		r = decision_forget(rs->log, run, false, err, sizeof(err));
	if (r) {
		rs->left++;
		complain(rs, "%s", err);
	} else if (!all) {
		complain(rs,
		         "%s/%s.run keeps the outcome (%s) until then; if a participant is gone for good, remove that "
		         "file",
		         rs->log->path, run->id, run->commit ? "commit" : "rollback");
	}
}

static int one_run(void *arg, const char *id)
{
	struct resolver *rs = arg;
	struct decision_run run;
	char err[1024] = "";
	json_t *branches = rs->runs ? json_array() : NULL;
	int r = decision_take(rs->log, id, &run, err, sizeof(err));

	if (r == -ENOENT) { /* its coordinator was faster */
		json_decref(branches);
		return 0;
	}
	if (rs->runs)
		add(rs->runs, json_pack("{s:s, s:s, s:O, s:o}", "run", id, "outcome", run_state(r, &run), "branches",
		                        branches, "reason", text_or_null(*err ? err : NULL)));
	if (!r) {
		end_run(rs, &run, branches);
		decision_release(rs->log, &run);
	} else if (r == -EWOULDBLOCK) {
		rs->alive++;
	} else {
		rs->left++;
		complain(rs, "%s", err);
	}
	json_decref(branches);
	return 0;
}

void resolver_pass(struct resolver *rs)
{
	int r = rs->log ? decision_each(rs->log, one_run, rs) : 0;

	if (r) {
		rs->err = r;
		complain(rs, "%s: %s", rs->log->path, strerror(-r));
	}
}

/* ---- branches ---- */

/* Where a branch was found. */
struct place {
	const char *point, *source;
	const struct tool_mount *mount;
	const char *control;
	const struct decision_branch *db; /* then neither of both */
};

static void stays(struct resolver *rs, const struct place *p, const char *gid, const char *reason)
{
	rs->left++;
	if (rs->in_doubt)
		add(rs->in_doubt, json_pack("{s:o, s:s, s:s, s:I, s:s}", "mount", tool_json_bytes(p->point), "kind",
		                            kind(p->db), "gid", gid, "uid", (json_int_t)geteuid(), "reason", reason));
	complain(rs, "%s: %s stays in doubt: %s", p->point, gid, reason);
}

/* Its log is this one. Has it no run there, it is rolled back. */
static void presume(struct resolver *rs, const struct place *p, const char *gid, const char *id)
{
	struct decision_run run;
	char err[1024] = "", why[PARTICIPANT_WHY] = "";
	int r = decision_take(rs->log, id, &run, err, sizeof(err));

	if (!r)
		decision_release(rs->log, &run); /* the pass has said what is to be said */
	if (r != -ENOENT)
		return;
	r = p->db ? participant_end(p->db, gid, false, false, why)
	          : participant_end_mounted(p->mount, p->control, gid, false, NULL, why);
	if (r < 0)
		stays(rs, p, gid, why);
	if (r)
		return;
	rs->done++;
	if (rs->runs)
		add(rs->runs,
		    json_pack("{s:s, s:s, s:[{s:s, s:s, s:o, s:o, s:s, s:n}], s:n}", "run", id, "outcome", "rollback",
		              "branches", "gid", gid, "kind", kind(p->db), "source", tool_json_bytes(p->source),
		              "mount", tool_json_bytes(p->point), "state", "ended", "reason", "reason"));
	if (rs->tell)
		printf("%s: rolled back %s\n", p->point, gid);
}

/* mine: this user's to decide. */
static void look_at(struct resolver *rs, const struct place *p, const char *gid, bool mine)
{
	char log[DECISION_LOG_ID + 1], run[DECISION_RUN_ID + 1], reason[2 * PATH_MAX + 512];
	bool ours = decision_gid_parse(gid, log, run) && rs->log && !strcmp(log, rs->log->id);

	/* In a database whoever has read the GID can take it, as another role: then ending it fails, and tells so. */
	if (ours && (mine || p->db)) {
		presume(rs, p, gid, run);
		return;
	}
	if (!mine || !rs->strangers || !decision_gid_parse(gid, log, run))
		return;
	if (p->db)
		snprintf(
			reason, sizeof(reason),
			"the decision log %s, which alone can tell its outcome, is not %s; name it with --log DIR, or, "
			"if it is gone for good, decide by hand, alike everywhere for run %s: COMMIT PREPARED '%s' or "
			"ROLLBACK PREPARED '%s' in that database",
			log, rs->log ? rs->log->path : "there", run, gid, gid);
	else
		snprintf(
			reason, sizeof(reason),
			"the decision log %s, which alone can tell its outcome, is not %s; name it with --log DIR, or, "
			"if it is gone for good, decide by "
			"hand, alike on all mounts of run %s: txnfs resolve %s %s commit|rollback",
			log, rs->log ? rs->log->path : "there", run, p->point, gid);
	stays(rs, p, gid, reason);
}

void resolver_look(struct resolver *rs, const struct tool_mount *m, const char *control)
{
	CLEANUP_FREE char *text = tool_control_read(m, control, NULL, "prepared");
	const struct place p = {.point = m->point, .source = m->source, .mount = m, .control = control};
	char *save;

	/* What cannot be read is someone else's mount, or has no daemon. */
	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		char *gid, *rest = tool_unquote(line, &gid);
		unsigned uid;

		if (*rest)
			*rest++ = 0;
		if (sscanf(rest, "%u\t", &uid) == 1)
			look_at(rs, &p, gid, uid == geteuid());
	}
}

struct database_look {
	struct resolver *rs;
	struct place place;
};

static void look_at_prepared(void *arg, const char *gid, bool mine)
{
	const struct database_look *look = arg;

	look_at(look->rs, &look->place, gid, mine);
}

static int look_at_database(struct resolver *rs, const struct decision_branch *db, char why[PARTICIPANT_WHY])
{
	struct database_look look = {.rs = rs, .place = {.point = db->point, .source = db->source, .db = db}};

	return postgres_each(db, look_at_prepared, &look, why);
}

void resolver_look_at_database(struct resolver *rs, const struct decision_branch *db)
{
	char why[PARTICIPANT_WHY] = "";

	if (look_at_database(rs, db, why)) {
		rs->left++;
		complain(rs, "%s: what is in doubt there cannot be told: %s", db->point, why);
	}
}

static int known_database(void *arg, const char *name, const struct decision_branch *db)
{
	struct resolver *rs = arg;
	char why[PARTICIPANT_WHY] = "";

	if (!db)
		complain(rs,
		         "%s/%s is damaged, so in which database to look is not known: remove it, the next run "
		         "with that database makes it again",
		         rs->log->path, name);
	else if (look_at_database(rs, db, why))
		complain(rs,
		         "%s: what is in doubt there cannot be told: %s (if that database is gone for good, remove "
		         "%s/%s)",
		         db->point, why, rs->log->path, name);
	else
		return 0;
	rs->left++;
	return 0;
}

struct points {
	struct tool_mount *v;
	size_t n;
};

static int remember(void *arg, const struct tool_mount *m)
{
	struct points *p = arg;
	struct tool_mount *v;

	for (size_t i = 0; i < p->n; i++)
		if (!strcmp(p->v[i].source, m->source)) /* bound elsewhere as well */
			return 0;
	/* Another user's daemon could let us wait for ever. */
	if (!m->whole || (m->user && m->user != geteuid()))
		return 0;
	v = reallocarray(p->v, p->n + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	p->v = v;
	v[p->n] = (struct tool_mount){strdup(m->source), strdup(m->point), true, m->user};
	p->n++;
	return v[p->n - 1].source && v[p->n - 1].point ? 0 : -ENOMEM;
}

void resolver_look_everywhere(struct resolver *rs, const char *control)
{
	struct points p = {0};
	int r = tool_mounts_each(remember, &p);

	if (r) {
		rs->err = r;
		complain(rs, "the mounts cannot be listed: %s", strerror(-r));
	}
	for (size_t i = 0; i < p.n; i++) {
		if (!r)
			resolver_look(rs, &p.v[i], control);
		tool_mount_free(&p.v[i]);
	}
	free(p.v);
	r = rs->log ? decision_each_database(rs->log, known_database, rs) : 0;
	if (r) {
		rs->err = r;
		complain(rs, "%s: %s", rs->log->path, strerror(-r));
	}
}

void resolver_free(struct resolver *rs)
{
	json_decref(rs->runs);
	json_decref(rs->in_doubt);
	rs->runs = rs->in_doubt = NULL;
}
