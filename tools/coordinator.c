/*
 * coordinator.c - `txnfs run` on several mounts, or with a database: two-phase commit with presumed abort.
 *
 *     the run's file     locked and durable, undecided: whatever dies from here on, abort is presumed
 *     prepare            at each mount that has changed; one that fails rolls all back
 *     decide             "commit" into the run's file, durable: the commit point
 *     tell               each of them to commit
 *     forget             the file, when all have
 *
 * Mounts on which nothing was changed take no part: they are released at the end. With fewer than two others there is
 * nothing to coordinate: a plain commit is one already.
 *
 * A database is prepared by the command itself, in a session that this process knows nothing of. So the run's file is
 * made before the command starts, and speaks of all mounts and, last, of the database; whether the command has prepared
 * there is looked up when it has ended. It may do so later, or have a child that does, when there is no file any more
 * that tells a resolver where to look: for this the log keeps a list of databases.
 *
 * Whatever this process does not live to do, a resolver does
 * (resolver.c); it leaves it to that one, too, when a mount does not answer.
 */
#include "tools/postgres.h"
#include "tools/resolver.h"
#include "tools/run.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/*
 * For tests, which must kill somebody between two steps: TXNFS_TEST_STEPS="OUT,IN" names two descriptors; each step is
 * written to the first as a line, and goes on when a byte comes from the second.
 */
static int steps_out = -1, steps_in = -1;

static void find_steps(void)
{
	const char *text = getenv("TXNFS_TEST_STEPS");

	if (text && sscanf(text, "%d,%d", &steps_out, &steps_in) == 2) {
		fcntl(steps_out, F_SETFD, FD_CLOEXEC);
		fcntl(steps_in, F_SETFD, FD_CLOEXEC);
	}
	unsetenv("TXNFS_TEST_STEPS");
}

static void step(const char *name, size_t number)
{
	char line[64], byte;

	if (steps_out < 0 || steps_in < 0)
		return;
	snprintf(line, sizeof(line), number ? "%s %zu\n" : "%s\n", name, number);
	if (write(steps_out, line, strlen(line)) < 0 || read(steps_in, &byte, 1) != 1)
		steps_out = -1;
}

/* ---- before it begins ---- */

/* Not behind the back of a mount that takes part. */
static int check_place(const struct run *run)
{
	CLEANUP_FREE char *place = decision_log_place(run->log_given);

	for (size_t i = 0; place && i < run->n; i++) {
		const struct tool_mount *m = &run->mounts[i].mount;
		size_t n = strlen(m->source);

		if (strncmp(place, m->source, n) != 0 || (place[n] != '/' && place[n]))
			continue;
		tool_error("the decision log would lie in %s, the source of %s: --log DIR names another place",
		           m->source, m->point);
		return -EINVAL;
	}
	return 0; /* opening it tells what else is wrong */
}

static int find_database(struct run *run)
{
	char why[PARTICIPANT_WHY] = "", err[1024] = "";
	int r = postgres_find(run->postgres, &run->database, why);

	if (r) {
		tool_error("the database (--postgres %s): %s", r == -EINVAL ? "..." : run->postgres, why);
		return r;
	}
	r = decision_remember(&run->log, &run->database, err, sizeof(err));
	if (r)
		tool_error("%s", err);
	return r;
}

int coordinator_start(struct run *run)
{
	struct resolver rs = {.log = &run->log, .tell = false, .complain = true};
	char err[1024] = "";
	int r;

	find_steps();
	r = check_place(run);
	if (r)
		return r;
	r = decision_log_open(run->log_given, true, &run->log, err, sizeof(err));
	if (r) {
		tool_error("%s", *err ? err : strerror(-r));
		return r;
	}
	for (size_t i = 0; !r && i < run->n; i++) {
		struct run_mount *m = &run->mounts[i];

		r = participant_uuid(&m->mount, run->control, m->uuid);
		if (r == -ENOENT)
			tool_error("%s: there is no control directory %s; when it was mounted with -o control=NAME, "
			           "say --control NAME",
			           m->mount.point, run->control);
		else if (r == -EPROTO) /* a view of its own, which tells about its transaction */
			tool_error("%s: already inside a transaction: use `txnfs savepoint` in it", m->mount.point);
		else if (r)
			tool_error("%s: %s", m->mount.point, strerror(-r));
	}
	if (!r && run->postgres)
		r = find_database(run);
	if (r)
		return r;
	/* What is left in doubt is told, and is no reason not to begin. */
	resolver_pass(&rs);
	for (size_t i = 0; i < run->n; i++)
		resolver_look(&rs, &run->mounts[i].mount, run->control);
	if (run->postgres)
		resolver_look_at_database(&rs, &run->database);
	if (run->verbose && rs.done)
		tool_error("finished what earlier runs had left in doubt: %u transaction%s", rs.done,
		           rs.done == 1 ? "" : "s");
	return 0;
}

/* ---- who takes part ---- */

/* Are there changes? Pages that are only mapped are collected first, as by each savepoint. */
static int has_changed(const struct run *run, const struct run_mount *m, bool *changed)
{
	CLEANUP_FREE char *text = NULL, *operations = NULL;
	int r = run_command(m, "savepoint commit\n", "commit failed");

	if (r)
		return r;
	text = tool_control_read(&m->mount, run->control, m->dir ? run->name : NULL, "status");
	operations = tool_status_value(text, "operations");
	if (!operations) {
		r = text ? -EPROTO : -errno;
		tool_error("%s: commit failed: its status cannot be read: %s", m->mount.point, strerror(-r));
		return r;
	}
	*changed = strcmp(operations, "0") != 0;
	return 0;
}

static int number_branches(struct run *run, size_t *n)
{
	*n = 0;
	for (size_t i = 0; i < run->n; i++) {
		bool changed = false;
		int r = has_changed(run, &run->mounts[i], &changed);

		if (r)
			return r;
		if (changed)
			++*n;
		/* With a database the file has given the numbers already. */
		run->mounts[i].branch = !changed ? 0 : run->postgres ? i + 1 : *n;
	}
	return 0;
}

/* A plain commit of those that changed something, or of those that did not. */
static int commit_plainly(struct run *run, bool changed)
{
	int r = 0;

	for (size_t i = 0; !r && i < run->n; i++) {
		struct run_mount *m = &run->mounts[i];

		if (!m->branch == changed)
			continue;
		r = run_command(m, "commit\n", "commit failed");
		if (!r) {
			close(m->ctl);
			m->ctl = -1;
		}
	}
	return r;
}

/* The others lose nothing, whatever they answer: the transaction is committed. */
static void release_unchanged(struct run *run)
{
	for (size_t i = 0; i < run->n; i++) {
		CLEANUP_FREE char *answer = NULL;

		if (!run->mounts[i].branch && run->mounts[i].ctl >= 0)
			tool_ctl_command(run->mounts[i].ctl, "commit\n", &answer);
	}
}

/* ---- the protocol ---- */

static int set_branch(struct decision_branch *br, const char *uuid, const char *source, const char *point,
                      const char *control)
{
	strcpy(br->uuid, uuid);
	br->source = strdup(source);
	br->point = strdup(point);
	br->control = strdup(control);
	return br->source && br->point && br->control ? 0 : -ENOMEM;
}

/* The file speaks of the mounts that have a number, and of the database. */
static int make_run(struct run *run, struct decision_run *dr)
{
	const struct decision_branch *db = &run->database;
	char err[1024] = "";
	int r = 0;

	*dr = (struct decision_run){.fd = -1};
	dr->branch = calloc(run->n + 1, sizeof(*dr->branch));
	if (!dr->branch)
		r = -ENOMEM;
	for (size_t i = 0; !r && i < run->n; i++) {
		const struct run_mount *m = &run->mounts[i];

		if (m->branch)
			r = set_branch(&dr->branch[dr->n++], m->uuid, m->mount.source, m->mount.point, run->control);
	}
	if (!r && run->postgres)
		r = set_branch(&dr->branch[dr->n++], db->uuid, db->source, db->point, db->control);
	if (r) {
		tool_error("%s", strerror(-r));
		return r;
	}
	r = decision_new(&run->log, dr, err, sizeof(err));
	if (r)
		tool_error("%s%s", run->postgres ? "" : "commit failed: ", err);
	return r;
}

static int prepare(const struct run *run, struct run_mount *m, const struct decision_run *dr)
{
	char gid[DECISION_GID_MAX], text[DECISION_GID_MAX + 16];

	decision_gid(&run->log, dr->id, m->branch, gid);
	snprintf(text, sizeof(text), "prepare \"%s\"\n", gid);
	m->prepared = true; /* from here on it may be, whatever is answered */
	return run_command(m, text, "prepare failed, so nothing is committed on any mount");
}

/* As participant_end does. The open control file serves as long as its daemon lives, even when the mount was detached.
 */
static int tell_one(const struct run_mount *m, const struct decision_run *dr, const char *gid, bool commit,
                    char why[PARTICIPANT_WHY])
{
	CLEANUP_FREE char *answer = NULL;
	char text[DECISION_GID_MAX + 24];
	int r;

	snprintf(text, sizeof(text), "%s prepared \"%s\"\n", commit ? "commit" : "rollback", gid);
	r = tool_ctl_command(m->ctl, text, &answer);
	return r ? participant_end(&dr->branch[m->branch - 1], gid, commit, false, why) : 0;
}

/* What came of telling one, as participant_end has it. Not 0: it stays in doubt. */
static int told(const char *point, const char *gid, bool commit, int r, const char *why, size_t branch)
{
	if (r < 0)
		tool_error("%s may be in doubt as %s until it is %s by the next such run or by `txnfs resolve "
		           "--all`: %s",
		           point, gid, commit ? "committed" : "rolled back", why);
	else if (r && commit)
		tool_error("%s: %s was ended by someone else, by hand perhaps: whether it was committed is not "
		           "known",
		           point, gid);
	step(commit ? "told" : "rolled back", branch);
	return r < 0;
}

/* Tell all that may be prepared. Not 0: some stay in doubt, which was said. */
static int tell(struct run *run, const struct decision_run *dr, bool commit)
{
	char gid[DECISION_GID_MAX], why[PARTICIPANT_WHY] = "";
	int left = 0, r;

	for (size_t i = 0; i < run->n; i++) {
		struct run_mount *m = &run->mounts[i];

		if (!m->prepared)
			continue;
		decision_gid(&run->log, dr->id, m->branch, gid);
		r = tell_one(m, dr, gid, commit, why);
		left += told(m->mount.point, gid, commit, r, why, m->branch);
	}
	if (run->postgres) {
		const struct decision_branch *br = &dr->branch[dr->n - 1];

		r = participant_end(br, run->gid, commit, false, why);
		left += told(br->point, run->gid, commit, r, why, dr->n);
	}
	return left;
}

/* Not all are prepared, or nothing could be decided. */
static void give_up(struct run *run, struct decision_run *dr)
{
	char err[1024] = "";

	step("giving up", 0);
	if (!tell(run, dr, false) && decision_forget(&run->log, dr, false, err, sizeof(err)))
		tool_error("%s", err);
}

static int decide(struct run *run, struct decision_run *dr)
{
	char err[1024] = "", err2[1024] = "";
	int r = decision_commit(&run->log, dr, err, sizeof(err));

	if (!r)
		return 0;
	/* It may be decided or not; nobody has been told. Without its file it is not. */
	if (decision_forget(&run->log, dr, true, err2, sizeof(err2))) {
		tool_error("%s; nor can it be taken back (%s): the transaction is in doubt on all mounts, until `txnfs "
		           "resolve --all` finds what is "
		           "decided",
		           err, err2);
		return -EINPROGRESS;
	}
	tool_error("commit failed: %s", err);
	return r;
}

static int two_phases(struct run *run, struct decision_run *dr)
{
	char err[1024] = "";
	int r = 0;

	step("run", 0);
	for (size_t i = 0; !r && i < run->n; i++) {
		if (!run->mounts[i].branch)
			continue;
		r = prepare(run, &run->mounts[i], dr);
		step("prepared", run->mounts[i].branch);
	}
	if (!r)
		r = decide(run, dr);
	if (r) {
		if (r != -EINPROGRESS)
			give_up(run, dr);
		return r;
	}
	step("decided", 0);
	/* Committed from here on, whoever answers or not. */
	if (!tell(run, dr, true) && decision_forget(&run->log, dr, false, err, sizeof(err)))
		tool_error("%s", err);
	step("forgotten", 0);
	release_unchanged(run);
	return 0;
}

/* ---- with a database ---- */

int coordinator_announce(struct run *run)
{
	int r;

	if (!run->postgres)
		return 0;
	for (size_t i = 0; i < run->n; i++)
		run->mounts[i].branch = i + 1;
	r = make_run(run, &run->announced);
	if (r) {
		decision_release(&run->log, &run->announced);
		return r;
	}
	decision_gid(&run->log, run->announced.id, run->announced.n, run->gid);
	step("announced", 0);
	return 0;
}

void coordinator_abandon(struct run *run)
{
	if (run->announced.fd < 0)
		return;
	give_up(run, &run->announced);
	decision_release(&run->log, &run->announced);
}

static int check_database(const struct run *run)
{
	const struct decision_branch *br = &run->announced.branch[run->announced.n - 1];
	char why[PARTICIPANT_WHY] = "";
	int r = postgres_prepared(br, run->gid, why);

	if (r > 0)
		tool_error("%s: the command has not prepared its transaction there, so nothing is committed anywhere: "
		           "it must end it with PREPARE TRANSACTION '$TXNFS_POSTGRES_GID', also when it has changed "
		           "nothing",
		           br->point);
	else if (r)
		tool_error("%s: whether the command has prepared its transaction there is not known, so nothing is "
		           "committed anywhere: %s",
		           br->point, why);
	step("looked", 0);
	return r;
}

static int commit_with_database(struct run *run)
{
	size_t n;
	int r = check_database(run);

	if (!r)
		r = number_branches(run, &n);
	if (r)
		coordinator_abandon(run);
	else
		r = two_phases(run, &run->announced);
	decision_release(&run->log, &run->announced);
	return r ? TOOL_FAILED : 0;
}

void coordinator_free(struct run *run)
{
	decision_release(&run->log, &run->announced);
	free(run->database.source);
	free(run->database.point);
	free(run->database.control);
}

int coordinator_commit(struct run *run)
{
	struct decision_run dr;
	size_t n;
	int r;

	step("ended", 0);
	if (run->postgres)
		return commit_with_database(run);
	r = number_branches(run, &n);
	if (r)
		return TOOL_FAILED;
	if (n < 2) {
		r = commit_plainly(run, n == 1);
		if (!r && n)
			release_unchanged(run);
		return r ? TOOL_FAILED : 0;
	}
	r = make_run(run, &dr);
	if (!r)
		r = two_phases(run, &dr);
	decision_release(&run->log, &dr);
	return r ? TOOL_FAILED : 0;
}
