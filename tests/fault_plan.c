/*
 * fault_plan.c - the disk that a script's runs begin with, and one run with one fault. What must be true after it:
 *
 *     - a commit that has said 0 is found again, after a kill and after a power cut; one of which nobody knows is found
 *       wholly or not at all; what was not committed is not found
 *     - the log is sound, as txn_check sees it, and so is the filesystem
 *     - nothing is left in the stage and the trash; no reference, file, handle, memory or lock is kept
 */
#include "tests/fault_private.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <ftw.h>
#include <stdio.h>
#include <string.h>

#define CLOCK_START 1500000000

static struct run *current;

static void trouble(const char *line)
{
	if (current)
		run_fail(current, "%s", line);
}

/* ---- disks ---- */

static int rm_one(const char *path, const struct stat *st UNUSED, int flag UNUSED, struct FTW *ftw UNUSED)
{
	return remove(path);
}

static void disk_new(struct disk *d, bool real)
{
	const char *base = getenv("TXNFS_TEST_DIR");

	memset(d, 0, sizeof(*d));
	d->real = real;
	if (!real) {
		d->sim = sim_new();
		return;
	}
	snprintf(d->dir, sizeof(d->dir), "%s/txnfs-fault.XXXXXX",
	         base ? base : access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(d->dir));
}

static void disk_free(struct disk *d)
{
	if (d->sim)
		sim_free(d->sim);
	if (d->real)
		nftw(d->dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
	d->sim = NULL;
	d->real = false;
}

static int disk_open(struct disk *d, char *err, size_t errlen)
{
	struct store_dir_options opt = {.create = true};

	fault_real_needs_memory(!d->real);
	if (d->real)
		return store_dir_open(d->dir, &opt, &d->store, &d->wal, err, errlen);
	d->store = sim_store(d->sim);
	d->wal = sim_wal_dir(d->sim);
	return 0;
}

static int engine_open(struct run *run, char *err, size_t errlen)
{
	struct txn_config cfg = {.segment_size = 64u << 10, .no_threads = true};
	struct disk *d = &run->disk;
	struct txn_engine *eng = NULL;
	int r;

	err[0] = '\0';
	r = disk_open(d, err, errlen);
	if (r)
		return r;
	cfg.store = fault_store(d->store);
	cfg.os = fault_os(d->real ? os_real() : sim_os(d->sim));
	cfg.wal_dirfd = d->wal;
	cfg.checkpoint_bytes = run->script->checkpoint_bytes;
	r = txn_engine_open(&cfg, &eng, NULL, err, errlen);
	if (r)
		d->store->ops->close(d->store);
	run->eng = eng;
	return r;
}

/* ---- afterwards ---- */

static void problem(void *arg, const char *line)
{
	snprintf(arg, 256, "%s", line);
}

/* The log is sound, whatever is to be recovered. */
static void check_disk(struct run *run, const char *after)
{
	char line[256] = "";
	struct txn_check c;
	int r = disk_open(&run->disk, line, sizeof(line));

	if (!r) {
		r = txn_check(fault_store(run->disk.store),
		              fault_os(run->disk.real ? os_real() : sim_os(run->disk.sim)), run->disk.wal, &c, problem,
		              line);
		run->disk.store->ops->close(run->disk.store);
	}
	if (r)
		run_fail(run, "after %s the log is not sound: %s (%s)", after, line, strerror(-r));
}

/* The disk as it is now, in a new engine: is it what the history allows? A simulated disk is used up. */
static void verify(struct run *run, const char *after, bool power_cut)
{
	char err[512], what[128];
	int doubts = 0, done = 0, undone = 0, r;

	if (run_cut_more || !run->f || fault_is_os(run->f->call))
		check_disk(run, after);
	r = engine_open(run, err, sizeof(err));
	if (r)
		run_fail(run, "after %s the engine does not open: %s (%s)", after, err, strerror(-r));
	for (int i = 0; i < run->nslots; i++) {
		struct slot *s = &run->slot[i];
		char *text;
		bool before, later;

		if (s->lost || (power_cut && s->durable < s->home)) /* plain operations promise nothing */
			continue;
		text = run_must_draw(run, NULL, i);
		before = run_same(run, i, s->home, text) || (s->vague && run_same(run, i, s->home + 1, text));
		later = s->doubt >= 0 && run_same(run, i, s->doubt, text);
		if (!before && !later)
			run_fail(run, "after %s %s is not what it should be\n---- found\n%s---- expected\n%s", after,
			         run->script->slots[i].name, text, run->plan->text[i][s->home]);
		if (s->doubt >= 0 && before != later) {
			doubts++;
			done += later;
			undone += before;
			if (done && undone)
				run_fail(run, "after %s a commit is found in part: %s\n---- found\n%s", after,
				         run->script->slots[i].name, text);
		}
		free(text);
	}
	run_verify_prepared(run, after, power_cut);
	snprintf(what, sizeof(what), "after %s", after);
	/* It works, too. */
	for (int i = 0; i < run->nslots; i++) {
		struct txn *t;

		if (run->slot[i].vague || run->slot[i].lost || run->slot[i].doubt >= 0 || run->slot[i].prepared >= 0 || power_cut ||
		    !run->script->slots[i].step[run->slot[i].home])
			continue;
		r = txn_begin(run->eng, &t);
		if (!r) {
			r = run->script->slots[i].step[run->slot[i].home](run, t, run->script->slots[i].name);
			r = r ? r : txn_commit(t);
			txn_put(t);
		}
		if (r)
			run_fail(run, "%s nothing more can be done: %s", what, strerror(-r));
		break;
	}
	r = txn_engine_close(run->eng);
	run->eng = NULL;
	run->disk.store->ops->close(run->disk.store);
	if (r)
		run_fail(run, "%s the engine does not close: %s", what, strerror(-r));
	if (run->disk.sim && sim_leftovers(run->disk.sim))
		run_fail(run, "%s there are %u leftovers", what, sim_leftovers(run->disk.sim));
	if (run->disk.sim && sim_fsck(run->disk.sim))
		run_fail(run, "%s the filesystem is wrong: %s", what, sim_fsck(run->disk.sim));
	run_check_locks(run, what);
	if (fault_account())
		run_fail(run, "%s: %s", what, fault_account());
}

#define CUTS 4

bool run_cut_more, run_was_broken;

struct cuts {
	struct sim *image[CUTS];
	int n;
};

static int keep_image(void *arg, struct sim *image, uint64_t i UNUSED)
{
	struct cuts *c = arg;

	c->image[c->n++] = image;
	return 0;
}

/*
 * What a power cut may leave of the disk as it is now, where the fault has to do with that: nothing of what is not
 * durable, and other pictures. That all of it is there is looked at anyway.
 */
static void take_cuts(struct run *run, struct cuts *c)
{
	enum fault_call call = run->f ? run->f->call : FAULT_any;
	bool concerned = !run->f || run_cut_more || fault_is_os(call) || call == FAULT_store_sync ||
	                 call == FAULT_store_sync_all || call == FAULT_store_place;
	bool all;

	c->n = 0;
	if (!run->disk.sim || !concerned)
		return;
	sim_images(run->disk.sim, SIM_POSIX, run_cut_more ? CUTS : 2, 1, keep_image, c, &all);
	if (!all) {
		sim_free(c->image[0]);
		c->image[0] = c->image[--c->n];
	}
}

static void verify_cuts(struct run *run, struct cuts *c)
{
	struct sim *sim = run->disk.sim;
	char what[64];

	for (int i = 0; i < c->n; i++) {
		run->disk.sim = c->image[i];
		snprintf(what, sizeof(what), "a power cut (picture %d)", i);
		verify(run, what, true);
		sim_free(c->image[i]);
	}
	run->disk.sim = sim;
}

/* ---- plans and runs ---- */

static void ended(struct run *run)
{
	run->disk.store->ops->close(run->disk.store);
	run->eng = NULL;
}

static void must_open(struct run *run)
{
	char err[512];

	if (engine_open(run, err, sizeof(err)))
		run_fail(run, "the engine does not open: %s", err);
}

static void prepare_slots(struct run *run)
{
	const struct run_slot *s = run->script->slots;
	struct txn_new nw = {.mode = S_IFDIR | 0755, .uid = geteuid(), .gid = getegid()};
	struct txn_look look;
	int r;

	for (int i = 0; i < run->nslots; i++) {
		run->slot[i] = (struct slot){.owner = -1, .doubt = -1, .prepared = -1};
		r = run->script->fresh ? 0 : txn_create(run->eng, NULL, txn_root(run->eng), s[i].name, &nw, &look);
		if (!r && !run->script->fresh)
			txn_obj_put(look.obj);
		if (!r && s[i].prepare)
			r = s[i].prepare(run, NULL, s[i].name);
		if (r)
			run_fail(run, "%s cannot be prepared: %s", s[i].name, strerror(-r));
		run_check_slot(run, NULL, i, 0, "prepared");
	}
}

/* The disk that a run begins with. */
static void make_base(struct run *run)
{
	const struct fault *f = TAKE_PTR(run->f);
	struct store *st;
	struct cuts c = {.n = 0};

	disk_new(&run->disk, run->plan->real);
	if (run->script->fresh) {
		for (int i = 0; i < run->nslots; i++)
			run->slot[i] = (struct slot){.owner = -1, .doubt = -1, .prepared = -1};
		run->f = f;
		return;
	}
	must_open(run);
	prepare_slots(run);
	if (txn_engine_close(run->eng))
		run_fail(run, "the engine does not close");
	ended(run);
	if (run->disk.sim) {
		st = sim_store(run->disk.sim);
		st->ops->sync_all(st); /* the script begins here: all of it is durable */
	}
	if (run->script->before) {
		must_open(run);
		run->script->before(run);
		run_put_txns(run);
		txn_engine_abandon(run->eng);
		ended(run);
		fault_disarm();
		run->broken = run->no_home = false;
	}
	if (run->script->power_cut && run->disk.sim) {
		/* The second picture has nothing of what was not forced. */
		sim_images(run->disk.sim, SIM_POSIX, 2, 1, keep_image, &c, NULL);
		sim_free(c.image[0]);
		sim_free(run->disk.sim);
		run->disk.sim = c.image[1];
	}
	if (fault_account())
		run_fail(run, "before: %s", fault_account());
	run->f = f;
}

static void arm(struct run *run)
{
	const struct fault *f = run->f;
	bool alloc = f && f->call == FAULT_alloc;

	fault_arm(alloc ? NULL : f);
	fault_alloc_arm(alloc ? f->n : 0, alloc ? f->mode : FAULT_ONCE);
}

static uint64_t disarm(struct run *run)
{
	uint64_t n = run_hits();

	if (!run->f)
		for (int c = 0; c < FAULT_NCALLS; c++)
			run->plan->calls[c] = c == FAULT_alloc ? fault_alloc_count() : fault_count((enum fault_call)c);
	fault_disarm();
	fault_alloc_arm(0, FAULT_ONCE);
	return n;
}

/* What could not be removed, or not be remembered for want of memory, the next recovery sweeps. */
static bool may_leave(const struct fault *f)
{
	return f && (f->call == FAULT_store_unlink || f->call == FAULT_change || f->call == FAULT_home ||
	             f->call == FAULT_any || f->call == FAULT_alloc);
}

static bool any_prepared(struct run *run)
{
	for (int t = 0; t < RUN_TXNS; t++)
		if (run_still_prepared(run, t))
			return true;
	return false;
}

/* Open, play, close: with the fault. */
static uint64_t with_fault(struct run *run, struct cuts *c)
{
	char err[512] = "";
	uint64_t n;
	int r;

	fault_alloc_arm(0, FAULT_ONCE);
	fault_arm(NULL);
	if (run->script->armed_open)
		arm(run);
	r = engine_open(run, err, sizeof(err));
	run_check_locks(run, "open");
	if (!run->script->armed_open)
		arm(run);
	if (r) {
		run_check_error(run, "open", r);
		if (!err[0])
			run_fail(run, "the engine does not open and does not say why");
		n = disarm(run);
		take_cuts(run, c);
		return n;
	}
	run->script->play(run);
	run_pause();
	if (run_hits())
		run_check_views(run, "at the end");
	take_cuts(run, c);
	run_resume();
	run_put_txns(run);
	r = txn_engine_close(run->eng);
	run_check_locks(run, "close");
	ended(run);
	if (!r && run->broken)
		run_fail(run, "close says that all is well, though the engine was read-only");
	if (!r && run->disk.sim && sim_leftovers(run->disk.sim) && !may_leave(run->f) && !any_prepared(run))
		run_fail(run, "closed in order, but there are %u leftovers", sim_leftovers(run->disk.sim));
	if (r && !(r == -EROFS && run_hits())) /* read-only before, or by something in its end */
		run_check_error(run, "close", r);
	return disarm(run);
}

static void run_init(struct run *run, struct run_plan *plan, const struct fault *f)
{
	*run = (struct run){.plan = plan, .script = plan->script, .f = f};
	while (plan->script->slots[run->nslots].name)
		run->nslots++;
	current = run;
	fault_on_trouble(trouble);
	fault_account_reset();
	fault_locks_reset();
	fault_clock(CLOCK_START);
}

static int count_bind(void *arg, const struct txn_log_line *line)
{
	*(int *)arg += !strcmp(line->type, "BIND");
	return 0;
}

/* Is a script that is about making lost objects anew still about it? */
static void check_remade(struct run *run)
{
	char err[256];
	int n = 0;

	if (txn_log_each(sim_os(run->disk.sim), sim_wal_dir(run->disk.sim), count_bind, &n, err, sizeof(err)) || !n)
		run_fail(run, "no object was made anew");
}

static uint64_t run_it(struct run_plan *plan, const struct fault *f)
{
	struct cuts c = {.n = 0};
	long live = fault_alloc_live();
	struct run run;
	uint64_t n;

	run_init(&run, plan, f);
	if (plan->base) {
		run.disk.sim = sim_kill(plan->base);
		memcpy(run.slot, plan->start, sizeof(run.slot));
	} else {
		make_base(&run);
		if (!f)
			memcpy(plan->start, run.slot, sizeof(run.slot));
		if (!f && run.disk.sim) {
			plan->base = run.disk.sim;
			run.disk.sim = sim_kill(plan->base);
			live = 0; /* it has made texts and the disk */
		}
	}
	n = with_fault(&run, &c);
	run_was_broken = run.broken;
	if (!f && run.script->power_cut && run.disk.sim)
		check_remade(&run);
	if (fault_account())
		run_fail(&run, "when it is closed: %s", fault_account());
	verify_cuts(&run, &c);
	verify(&run, "a kill", false);
	disk_free(&run.disk);
	if (f && fault_alloc_live() != live)
		run_fail(&run, "%ld blocks of memory are not freed", fault_alloc_live() - live);
	current = NULL;
	fault_clock(0);
	return n;
}

/* All states of all slots are noted: each step, in one transaction. */
static void note_states(struct run_plan *plan)
{
	struct run run;

	run_init(&run, plan, NULL);
	disk_new(&run.disk, plan->real);
	must_open(&run);
	prepare_slots(&run);
	run_begin(&run, 0);
	for (int i = 0; i < run.nslots; i++)
		for (int k = 0; plan->script->slots[i].step[k]; k++)
			run_take(&run, 0, plan->script->slots[i].name);
	run_commit(&run, 0);
	run_check_views(&run, "committed");
	if (txn_engine_close(run.eng))
		run_fail(&run, "the engine does not close");
	ended(&run);
	disk_free(&run.disk);
}

struct run_plan *run_plan(const struct run_script *script, bool real)
{
	struct run_plan *plan = calloc(1, sizeof(*plan));

	assert_non_null(plan);
	plan->script = script;
	plan->real = real;
	snprintf(run_replay_text, sizeof(run_replay_text), "TXNFS_SCRIPT=%s%s %s", script->name,
	         real ? " TXNFS_STORE=dir" : "", run_command);
	note_states(plan);
	run_it(plan, NULL);
	run_replay_text[0] = '\0';
	return plan;
}

void run_plan_free(struct run_plan *plan)
{
	for (int i = 0; i < RUN_SLOTS; i++)
		for (int k = 0; k <= RUN_STEPS; k++)
			free(plan->text[i][k]);
	if (plan->base)
		sim_free(plan->base);
	free(plan);
}

const struct run_script *run_plan_script(const struct run_plan *plan)
{
	return plan->script;
}

uint64_t run_plan_calls(const struct run_plan *plan, enum fault_call call)
{
	return plan->calls[call];
}

uint64_t run_once(struct run_plan *plan, const struct fault *f)
{
	uint64_t n;

	snprintf(run_replay_text, sizeof(run_replay_text), "TXNFS_SCRIPT=%s%s TXNFS_FAULT=%s %s", plan->script->name,
	         plan->real ? " TXNFS_STORE=dir" : "", fault_text(f), run_command);
	n = run_it(plan, f);
	run_replay_text[0] = '\0';
	return n;
}
