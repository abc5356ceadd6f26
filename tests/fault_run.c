/*
 * fault_run.c - what scripts do in a run, and what must be true while they do it: an operation succeeds, or fails with
 * the fault's error and changes nothing, neither its transaction's view (I9) nor anyone's; or the engine says that it
 * is read-only, and then nothing changes any more and everyone can read.
 */
#include "tests/fault_private.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

const char *run_command = "";
bool run_alone;
char run_replay_text[512];

void run_fail(struct run *run, const char *fmt, ...)
{
	char line[8192];
	va_list ap;

	fault_disarm();
	fault_alloc_arm(0, FAULT_ONCE);
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	print_error("%s\n", line);
	if (run->eng && txn_engine_error(run->eng))
		print_error("the engine says: %s\n", txn_engine_error(run->eng));
	if (!run_alone)
		print_error("again: %s\n", run_replay_text);
	fflush(NULL);
	if (run_alone)
		_exit(1);
	fail();
}

/* ---- what is asked all the time ---- */

uint64_t run_hits(void)
{
	return fault_hits() + fault_alloc_hits();
}

void run_pause(void)
{
	fault_pause();
	fault_alloc_pause();
}

void run_resume(void)
{
	fault_resume();
	fault_alloc_resume();
}

static bool broken(struct run *run)
{
	return run->eng && txn_engine_error(run->eng);
}

void run_check_locks(struct run *run, const char *what)
{
	if (fault_locks())
		run_fail(run, "%s has left %d locks held", what, fault_locks());
}

/* Something has failed: may it have, and did it say why? */
void run_check_error(struct run *run, const char *what, int r)
{
	if (!run_hits() && !run->no_home)
		run_fail(run, "%s fails without a fault: %s", what, strerror(-r));
	if (r == -EROFS && broken(run))
		return;
	if (r == -EUCLEAN && run->f && (run->f->call == FAULT_os_pread || run->f->call == FAULT_any) && !run->eng)
		return; /* a header of the log that cannot be read may be damaged: the text says both */
	if (run->f && r != fault_errno(run->f) && r != -EIO && !(r == -ENOSPC && run->f->how == FAULT_EDQUOT))
		run_fail(run, "%s fails with an error that nobody had: %s", what, strerror(-r));
}

/* Something was changed: could it be? */
static void check_success(struct run *run, const char *what)
{
	if (run->broken)
		run_fail(run, "%s succeeds, though the engine is read-only", what);
}

static int slot_index(struct run *run, const char *name)
{
	for (int i = 0; i < run->nslots; i++)
		if (!strcmp(run->script->slots[i].name, name))
			return i;
	run_fail(run, "there is no slot %s", name);
	return -1;
}

char *run_must_draw(struct run *run, struct txn *view, int i)
{
	char *text = NULL;
	int r = run_draw(run, view, run->script->slots[i].name, false, &text);

	if (r)
		run_fail(run, "%s cannot be read: %s", run->script->slots[i].name, strerror(-r));
	return text;
}

/* The text of a slot after so many steps; with none yet it becomes that. */
bool run_same(struct run *run, int i, int steps, const char *text)
{
	char **known = &run->plan->text[i][steps];

	if (!*known && !run->f) {
		*known = strdup(text);
		return true;
	}
	return *known && !strcmp(*known, text);
}

void run_check_slot(struct run *run, struct txn *view, int i, int steps, const char *when)
{
	char *text;

	if (run->slot[i].lost)
		return;
	run_pause();
	text = run_must_draw(run, view, i);
	if (!run_same(run, i, steps, text) && !(!view && run->slot[i].vague && run_same(run, i, steps + 1, text)))
		run_fail(run, "%s: %s is not what it should be %s\n---- found\n%s---- expected after %d steps\n%s",
		         when, run->script->slots[i].name, view ? "in the transaction" : "for everyone", text, steps,
		         run->plan->text[i][steps] ? run->plan->text[i][steps] : "(not known)\n");
	free(text);
	run_resume();
}

/* Everything, in every view. */
void run_check_views(struct run *run, const char *when)
{
	for (int i = 0; i < run->nslots; i++) {
		run_check_slot(run, NULL, i, run->slot[i].home, when);
		for (int t = 0; t < RUN_TXNS && !run->broken; t++)
			if (run->txn[t].t)
				run_check_slot(run, run->txn[t].t, i,
				               run->slot[i].owner == t && run->slot[i].prepared < 0 ? run->slot[i].view
				                                                                    : run->slot[i].home, when);
	}
	run_check_locks(run, when);
}

/* After something has failed: everything the first times, later the slot alone (-1: none), and all of it in the end. */
static void check_failed(struct run *run, const char *what, int r, int t, int i)
{
	run_check_locks(run, what);
	run_check_error(run, what, r);
	if (broken(run))
		run->broken = true;
	if (run->failures++ < 2 || run_cut_more) {
		run_check_views(run, what);
	} else if (i >= 0 && !run->broken) {
		struct slot *s = &run->slot[i];

		run_check_slot(run, t >= 0 ? run->txn[t].t : NULL, i,
		               t >= 0 && s->owner == t && s->prepared < 0 ? s->view : s->home,
		               what);
	}
}

/* ---- what scripts do ---- */

struct txn_engine *run_engine(struct run *run)
{
	return run->eng;
}

void run_begin(struct run *run, int t)
{
	int r;

	if (run->txn[t].t)
		run_fail(run, "transaction %d has begun", t);
	r = txn_begin(run->eng, &run->txn[t].t);
	run->txn[t].nsavepoints = 0;
	if (r) {
		run->txn[t].t = NULL;
		check_failed(run, "begin", r, t, -1);
	} else {
		check_success(run, "begin");
	}
}

static void release_slots(struct run *run, int t)
{
	for (int i = 0; i < run->nslots; i++)
		if (run->slot[i].owner == t)
			run->slot[i].owner = run->slot[i].prepared = -1;
	txn_put(run->txn[t].t);
	run->txn[t].t = NULL;
}

static void committed(struct run *run, int t)
{
	check_success(run, "commit");
	for (int i = 0; i < run->nslots; i++)
		if (run->slot[i].owner == t)
			run->slot[i].home = run->slot[i].durable = run->slot[i].view;
	release_slots(run, t);
	if (broken(run)) /* it could not be installed */
		run->broken = true;
	if (run_hits() || run->no_home)
		run_check_views(run, "commit");
}

bool run_still_prepared(struct run *run, int t)
{
	for (int i = 0; i < run->nslots; i++)
		if (run->slot[i].owner == t && run->slot[i].prepared >= 0)
			return true;
	return false;
}

/* It stays prepared, or nobody knows: its slots are its own. */
static void leave_prepared(struct run *run, int t, bool sure)
{
	for (int i = 0; i < run->nslots; i++)
		if (run->slot[i].owner == t)
			run->slot[i].sure = run->slot[i].sure && sure;
	txn_put(run->txn[t].t);
	run->txn[t].t = NULL;
	run->broken = run->broken || broken(run);
}

static void end_by_rollback(struct run *run, int t)
{
	int r = txn_rollback(run->txn[t].t);

	if (r && run_still_prepared(run, t)) { /* a rollback that is to last needs the log */
		run_check_error(run, "rollback", r);
		if (!broken(run))
			r = txn_rollback(run->txn[t].t);
		if (r) {
			leave_prepared(run, t, !broken(run));
			return;
		}
	}
	if (r)
		run_fail(run, "rollback fails: %s", strerror(-r));
	release_slots(run, t);
	if (broken(run))
		run->broken = true;
	if (run_hits())
		run_check_views(run, "rollback");
}

void run_commit(struct run *run, int t)
{
	bool was_broken = run->broken;
	int r;

	if (!run->txn[t].t)
		return;
	r = txn_commit(run->txn[t].t);
	run_check_locks(run, "commit");
	if (!r) {
		committed(run, t);
		return;
	}
	run_check_error(run, "commit", r);
	if (broken(run) && !was_broken)
		for (int i = 0; i < run->nslots; i++)
			if (run->slot[i].owner == t)
				run->slot[i].doubt = run->slot[i].view;
	check_failed(run, "commit", r, t, -1);
	if (!run->broken) { /* still active: again */
		r = txn_commit(run->txn[t].t);
		run_check_locks(run, "commit");
		if (!r) {
			committed(run, t);
			return;
		}
		if (broken(run))
			for (int i = 0; i < run->nslots; i++)
				if (run->slot[i].owner == t)
					run->slot[i].doubt = run->slot[i].view;
		check_failed(run, "commit", r, t, -1);
	}
	if (run->broken && run_still_prepared(run, t))
		leave_prepared(run, t, was_broken);
	else
		end_by_rollback(run, t);
}

static const char *gid_of(int t)
{
	static const char *const gids[] = {"transaction 0", "transaction 1", "transaction 2", "transaction 3"};

	return gids[t];
}

void run_prepare(struct run *run, int t)
{
	bool was_broken = run->broken;
	int r;

	bool took = false;

	for (int i = 0; i < run->nslots; i++)
		took = took || run->slot[i].owner == t;
	if (!run->txn[t].t || !took) /* of one that could take nothing, nothing could be told */
		return;
	r = txn_prepare(run->txn[t].t, gid_of(t), 0);
	run_check_locks(run, "prepare");
	if (r && txn_state(run->txn[t].t) != TXN_ABORTED)
		run_fail(run, "a prepare that fails does not roll back");
	if (!r)
		check_success(run, "prepare");
	if (!r || (broken(run) && !was_broken)) {
		for (int i = 0; i < run->nslots; i++)
			if (run->slot[i].owner == t) {
				run->slot[i].prepared = run->slot[i].view;
				run->slot[i].sure = !r;
			}
		if (r)
			leave_prepared(run, t, false);
	} else {
		release_slots(run, t);
	}
	if (r)
		check_failed(run, "prepare", r, -1, -1);
	else if (run_hits())
		run_check_views(run, "prepare");
}

void run_find(struct run *run, int t)
{
	int r;

	if (run->txn[t].t || !run_still_prepared(run, t))
		return;
	r = txn_find_prepared(run->eng, gid_of(t), &run->txn[t].t);
	if (r)
		run_fail(run, "%s is not prepared any more: %s", gid_of(t), strerror(-r));
}

static void verify_slots(struct run *run, const char *after, int t, bool power_cut)
{
	for (int i = 0; i < run->nslots; i++) {
		struct slot *s = &run->slot[i];
		char *text;

		if (s->owner != t || s->lost || (power_cut && s->durable < s->home))
			continue;
		text = run_must_draw(run, NULL, i);
		if (!run_same(run, i, s->prepared, text))
			run_fail(run, "after %s %s is committed, and %s is\n%s---- expected\n%s", after, gid_of(t),
			         run->script->slots[i].name, text, run->plan->text[i][s->prepared]);
		free(text);
	}
}

void run_verify_prepared(struct run *run, const char *after, bool power_cut)
{
	for (int t = 0; t < RUN_TXNS; t++) {
		bool sure = false;
		struct txn *txn;
		int r = txn_find_prepared(run->eng, gid_of(t), &txn);

		for (int i = 0; i < run->nslots; i++)
			sure = sure || (run->slot[i].owner == t && run->slot[i].prepared >= 0 && run->slot[i].sure);
		if (r && sure)
			run_fail(run, "after %s %s is not in doubt", after, gid_of(t));
		if (!r && !run_still_prepared(run, t))
			run_fail(run, "after %s %s is in doubt", after, gid_of(t));
		if (r)
			continue;
		r = txn_commit(txn);
		txn_put(txn);
		if (r)
			run_fail(run, "after %s what is in doubt cannot be committed: %s", after, strerror(-r));
		verify_slots(run, after, t, power_cut);
	}
}

void run_rollback(struct run *run, int t)
{
	if (run->txn[t].t)
		end_by_rollback(run, t);
}

void run_savepoint(struct run *run, int t, const char *name)
{
	struct savepoint *s = &run->txn[t].savepoint[run->txn[t].nsavepoints];
	int r;

	if (!run->txn[t].t)
		return;
	r = txn_savepoint(run->txn[t].t, name);
	if (r) {
		check_failed(run, "savepoint", r, t, -1);
		return;
	}
	check_success(run, "savepoint");
	snprintf(s->name, sizeof(s->name), "%s", name);
	for (int i = 0; i < run->nslots; i++)
		s->view[i] = run->slot[i].owner == t ? run->slot[i].view : -1;
	run->txn[t].nsavepoints++;
}

/* The newest of that name, or -1: it could not be set. */
static int find_savepoint(struct run *run, int t, const char *name)
{
	for (int i = run->txn[t].nsavepoints; run->txn[t].t && i-- > 0;)
		if (!strcmp(run->txn[t].savepoint[i].name, name))
			return i;
	return -1;
}

void run_rollback_to(struct run *run, int t, const char *name)
{
	int k = find_savepoint(run, t, name), r;

	if (k < 0)
		return;
	r = txn_rollback_to(run->txn[t].t, name);
	if (r) {
		check_failed(run, "rollback to", r, t, -1);
		return;
	}
	check_success(run, "rollback to");
	for (int i = 0; i < run->nslots; i++) /* the locks are kept */
		if (run->slot[i].owner == t)
			run->slot[i].view = run->txn[t].savepoint[k].view[i] >= 0 ? run->txn[t].savepoint[k].view[i]
			                                                          : run->slot[i].home;
	run->txn[t].nsavepoints = k + 1;
	if (run_hits() || !run->f)
		run_check_views(run, "rollback to");
}

void run_release(struct run *run, int t, const char *name)
{
	int k = find_savepoint(run, t, name), r;

	if (k < 0)
		return;
	r = txn_release(run->txn[t].t, name);
	if (r)
		run_fail(run, "release fails: %s", strerror(-r));
	run->txn[t].nsavepoints = k;
}

static char *with_times(struct run *run, struct txn *view, int i)
{
	char *text = NULL;
	int r;

	run_pause();
	r = run_draw(run, view, run->script->slots[i].name, true, &text);
	if (r)
		run_fail(run, "%s cannot be read: %s", run->script->slots[i].name, strerror(-r));
	run_resume();
	return text;
}

/* A plain operation is done when the attributes that it is to tell cannot be had. */
static void done_all_the_same(struct run *run, int i)
{
	char *text;

	if (!run->f || (run->f->call != FAULT_store_getattr && run->f->call != FAULT_any))
		return;
	run_pause();
	text = run_must_draw(run, NULL, i);
	if (run_same(run, i, run->slot[i].home + 1, text))
		run->slot[i].home++;
	free(text);
	run_resume();
}

void run_take(struct run *run, int t, const char *name)
{
	int i = slot_index(run, name), r;
	struct slot *s = &run->slot[i];
	struct txn *view = t >= 0 ? run->txn[t].t : NULL;
	int state = t >= 0 && s->owner == t ? s->view : s->home;
	CLEANUP_FREE char *before = NULL;
	char what[64];

	if ((t >= 0 && !view) || s->vague || s->lost || !run->script->slots[i].step[state])
		return;
	if (s->owner >= 0 && s->owner != t)
		run_fail(run, "%s belongs to another transaction", name);
	snprintf(what, sizeof(what), "step %d of %s", state + 1, name);
	if (run_cut_more && view && !run->broken)
		before = with_times(run, view, i);
	r = run->script->slots[i].step[state](run, view, name);
	run_check_locks(run, what);
	if (before && r < 0 && !broken(run)) { /* I9 */
		CLEANUP_FREE char *after = with_times(run, view, i);

		if (strcmp(before, after))
			run_fail(run, "%s fails and changes something\n---- before\n%s---- after\n%s", what, before,
			         after);
	}
	if (r == 0) {
		check_success(run, what);
		if (view) {
			s->owner = t;
			s->view = state + 1;
		} else {
			s->home = state + 1;
		}
		if (broken(run))
			run->broken = true;
		if ((run_hits() || !run->f) && !run->broken)
			run_check_slot(run, view, i, state + 1, what);
		return;
	}
	if (r > 0) {
		if (view)
			run_fail(run, "%s is done in part", what);
		s->lost = true;
		return;
	}
	if (!view && run->f && run_hits() && (run->f->how == FAULT_TORN || run->f->how == FAULT_LATE))
		s->lost = true; /* as it is without transactions */
	if (!view && broken(run) && !run->broken)
		s->vague = true;
	if (!view && !broken(run))
		done_all_the_same(run, i);
	check_failed(run, what, r, t, i);
}

void run_take_all(struct run *run, int t, const char *const *slots)
{
	for (; *slots; slots++)
		run_take(run, t, *slots);
}

void run_look(struct run *run, int t, const char *name)
{
	int i = slot_index(run, name), r;
	struct txn *view = t >= 0 ? run->txn[t].t : NULL;
	char *text = NULL;

	if (t >= 0 && (!view || run->broken))
		return;
	r = run_draw(run, view, name, false, &text);
	run_check_locks(run, "reading");
	if (r) {
		run_check_error(run, "reading", r);
		return;
	}
	if (!run_same(run, i, view && run->slot[i].owner == t ? run->slot[i].view : run->slot[i].home, text) &&
	    !run->slot[i].lost && !run->slot[i].vague)
		run_fail(run, "%s is not what it should be, when it is read\n---- found\n%s", name, text);
	free(text);
}

void run_force(struct run *run, const char *name, run_step *fsync)
{
	int i = slot_index(run, name);
	int r = fsync(run, NULL, name);

	run_check_locks(run, "fsync");
	if (r)
		check_failed(run, "fsync", r, -1, i);
	else
		run->slot[i].durable = run->slot[i].home;
}

void run_checkpoint(struct run *run)
{
	int r = txn_checkpoint(run->eng);

	run_check_locks(run, "checkpoint");
	if (r)
		check_failed(run, "checkpoint", r, -1, -1);
	else
		check_success(run, "checkpoint");
}

static int tell_change(void *arg, char kind UNUSED, const char *path, const char *to)
{
	*(size_t *)arg += strlen(path) + (to ? strlen(to) : 0);
	return 0;
}

static int each_change(void *arg, const struct txn_change *ch)
{
	*(size_t *)arg += ch->name ? strlen(ch->name) : ch->obj ? 1 : 0;
	return 0;
}

void run_tell(struct run *run, int t)
{
	struct txn_info info;
	struct txn_stats st;
	size_t n = 0;
	int r;

	if (!run->txn[t].t)
		return;
	txn_info(run->txn[t].t, &info);
	txn_engine_stats(run->eng, &st);
	r = txn_each_change(run->txn[t].t, each_change, &n);
	if (!r)
		r = txn_changes(run->txn[t].t, tell_change, &n);
	run_check_locks(run, "changes");
	if (r)
		run_check_error(run, "changes", r);
}

void run_cut_off(struct run *run)
{
	static const struct fault f = {.call = FAULT_home, .n = 1, .how = FAULT_EIO, .mode = FAULT_ALWAYS};

	if (run->f)
		run_fail(run, "cut_off belongs to before()");
	run->no_home = true;
	fault_arm(&f);
}

void run_put_txns(struct run *run)
{
	for (int t = 0; t < RUN_TXNS; t++)
		if (run->txn[t].t && run_still_prepared(run, t))
			leave_prepared(run, t, true);
		else if (run->txn[t].t)
			release_slots(run, t);
}
