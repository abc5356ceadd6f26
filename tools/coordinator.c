/*
 * coordinator.c - `txnfs run` on several mounts: two-phase commit with presumed abort.
 *
 *     the run's file     locked and durable, undecided: whatever dies from here on, abort is presumed
 *     prepare            at each mount that has changed; one that fails rolls all back
 *     decide             "commit" into the run's file, durable: the commit point
 *     tell               each of them to commit
 *     forget             the file, when all have
 *
 * Mounts on which nothing was changed take no part: they are released at the end. With fewer than two others there is
 * nothing to coordinate: a plain commit is one already. Whatever this process does not live to do, a resolver does
 * (resolver.c); it leaves it to that one, too, when a mount does not answer.
 */
#include "tools/participant.h"
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
	if (r)
		return r;
	/* What is left in doubt is told, and is no reason not to begin. */
	resolver_pass(&rs);
	for (size_t i = 0; i < run->n; i++)
		resolver_look(&rs, &run->mounts[i].mount, run->control);
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
		run->mounts[i].branch = changed ? ++*n : 0;
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

static int make_run(struct run *run, struct decision_run *dr, size_t n)
{
	char err[1024] = "";
	int r;

	*dr = (struct decision_run){.fd = -1};
	dr->branch = calloc(n, sizeof(*dr->branch));
	if (!dr->branch) {
		tool_error("%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	for (size_t i = 0; i < run->n; i++) {
		const struct run_mount *m = &run->mounts[i];
		struct decision_branch *br = m->branch ? &dr->branch[dr->n++] : NULL;

		if (!br)
			continue;
		strcpy(br->uuid, m->uuid);
		br->source = strdup(m->mount.source);
		br->point = strdup(m->mount.point);
		br->control = strdup(run->control);
		if (!br->source || !br->point || !br->control) {
			tool_error("%s", strerror(ENOMEM));
			return -ENOMEM;
		}
	}
	r = decision_new(&run->log, dr, err, sizeof(err));
	if (r)
		tool_error("commit failed: %s", err);
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

/* Tell all that may be prepared. Not 0: some stay in doubt, which was said. */
static int tell(struct run *run, const struct decision_run *dr, bool commit)
{
	char gid[DECISION_GID_MAX], why[PARTICIPANT_WHY];
	int left = 0;

	for (size_t i = 0; i < run->n; i++) {
		struct run_mount *m = &run->mounts[i];
		int r;

		if (!m->prepared)
			continue;
		decision_gid(&run->log, dr->id, m->branch, gid);
		r = tell_one(m, dr, gid, commit, why);
		if (r < 0) {
			left++;
			tool_error("%s may be in doubt as %s until it is %s by the next such run or by `txnfs resolve "
			           "--all`: %s",
			           m->mount.point, gid, commit ? "committed" : "rolled back", why);
		} else if (r && commit) {
			tool_error("%s: %s was ended by someone else, by hand perhaps: whether it was committed is not "
			           "known",
			           m->mount.point, gid);
		}
		step(commit ? "told" : "rolled back", m->branch);
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

int coordinator_commit(struct run *run)
{
	struct decision_run dr;
	size_t n;
	int r;

	step("ended", 0);
	r = number_branches(run, &n);
	if (r)
		return TOOL_FAILED;
	if (n < 2) {
		r = commit_plainly(run, n == 1);
		if (!r && n)
			release_unchanged(run);
		return r ? TOOL_FAILED : 0;
	}
	r = make_run(run, &dr, n);
	if (!r)
		r = two_phases(run, &dr);
	decision_release(&run->log, &dr);
	return r ? TOOL_FAILED : 0;
}
