/*
 * bad_bytes_history.h - the logs that test_bad_bytes.c damages: what happened before, on which disks, and the tree
 * after each COMMIT.
 */
#ifndef TXNFS_BAD_BYTES_HISTORY_H
#define TXNFS_BAD_BYTES_HISTORY_H

#include "tests/bad_bytes_log.h"
#include "tests/engine_kit.h"

#define STATES_MAX 40
#define AT_CHECKPOINT 1 /* so many COMMITs */

static struct base {
	const char *name;
	struct bb_disk disk; /* the simulated one is copied for each case */
	struct log log;
	char *states[STATES_MAX]; /* the tree after so many COMMITs of this log */
	unsigned nstates;
} power_cut = {.name = "cut"}, early = {.name = "early"}, again = {.name = "again"}, killed = {.name = "killed"};

/* ---- a history, and the log that it leaves ---- */

static struct txn_engine *open_engine(struct bb_disk *d, struct txn_recovery *rec, char *err, size_t errlen, int *r)
{
	struct txn_config cfg = {
		.store = d->store, .os = d->os, .wal_dirfd = d->wal, .segment_size = LOG_SEG, .no_threads = true};
	struct txn_engine *eng = NULL;

	*r = txn_engine_open(&cfg, &eng, rec, err, errlen);
	return eng;
}

static void life_begins(struct bb_disk *d, struct kit *k)
{
	char err[512];
	int r;

	bb_open(d, true);
	*k = (struct kit){.store = d->store};
	k->eng = open_engine(d, &k->rec, err, sizeof(err), &r);
	if (r)
		fail_msg("the engine does not open: %s", err);
}

static void big_write(struct kit *k, struct txn *t, const char *path, uint64_t off, size_t n, char c)
{
	CLEANUP_FREE char *bytes = malloc(n);

	assert_non_null(bytes);
	memset(bytes, c, n);
	assert_int_equal(kit_try_write(k, t, path, off, bytes, n), n);
}

static void set_xattr(struct kit *k, struct txn *t, const char *path, const char *value)
{
	struct txn_obj *obj;

	assert_int_equal(kit_try_walk(k, t, path, &obj), 0);
	assert_int_equal(txn_setxattr(k->eng, t, obj, "user.tag", value, strlen(value), 0), 0);
	txn_obj_put(obj);
}

static void make_link(struct kit *k, struct txn *t, const char *path, const char *target)
{
	struct txn_new nw = {.mode = S_IFLNK | 0777, .uid = geteuid(), .gid = getegid(), .target = target};
	struct txn_look look;
	const char *name;
	struct txn_obj *dir = kit_parent(k, t, path, &name);

	assert_int_equal(txn_create(k->eng, t, dir, name, &nw, &look), 0);
	txn_obj_put(look.obj);
	txn_obj_put(dir);
}

/* The tree as everyone sees it now. It is at home: installs happen within commit. */
static void state_reached(struct base *b)
{
	assert_true(b->nstates < STATES_MAX);
	b->states[b->nstates++] = bb_picture(b->disk.store, false, false);
}

static void commit(struct base *b, struct txn *t)
{
	kit_commit(t);
	state_reached(b);
}

static void first_life(struct bb_disk *d)
{
	struct kit k;

	life_begins(d, &k);
	kit_put(&k, NULL, "a", "alpha, which is there from the beginning\n");
	kit_put(&k, NULL, "b", "beta\n");
	kit_create(&k, NULL, "d", S_IFDIR | 0755);
	kit_put(&k, NULL, "d/f", "in d\n");
	kit_create(&k, NULL, "e", S_IFDIR | 0755);
	assert_int_equal(kit_try_link(&k, NULL, "a", "a2"), 0);
	make_link(&k, NULL, "out", "../outside");
	assert_int_equal(d->store->ops->sync_all(d->store), 0); /* plain changes are durable only then */
	assert_int_equal(txn_engine_close(k.eng), 0);
	bb_close(d);
}

/* ---- power cuts ---- */

struct find {
	const char *want;
	struct sim *found;
};

/* The picture of a power cut in which the tree is as it was at the checkpoint. */
static int find_image(void *arg, struct sim *image, uint64_t i UNUSED)
{
	struct find *f = arg;
	CLEANUP_FREE char *got = bb_picture(sim_store(image), false, false);

	if (strcmp(got, f->want) || f->found) {
		sim_free(image);
		return 0;
	}
	f->found = image;
	return 0;
}

static struct sim *cut_power(struct sim *sim, const char *want)
{
	struct find f = {.want = want};

	sim_images(sim, SIM_POSIX, 2, 1, find_image, &f, NULL);
	return f.found;
}

/* Leaves the engine open. */
static struct kit second_life(struct base *b)
{
	struct stat st = {.st_mode = 0700};
	struct txn *t, *open_one;
	struct kit k;

	life_begins(&b->disk, &k);
	state_reached(b);
	open_one = kit_begin(&k); /* never ends, and keeps the log from here on */
	kit_put(&k, open_one, "never", "seen by nobody\n");
	t = kit_begin(&k);
	kit_put(&k, t, "early", "installed and durable before the checkpoint\n");
	commit(b, t);
	assert_int_equal(txn_checkpoint(k.eng), 0);

	t = kit_begin(&k);
	kit_put(&k, t, "n1", "new\n");
	kit_create(&k, t, "nd", S_IFDIR | 0755);
	make_link(&k, t, "nd/link", "../../outside/victim");
	commit(b, t);

	t = kit_begin(&k);
	kit_write(&k, t, "a", 7, "ALPHA");
	assert_int_equal(txn_savepoint(t, "s1"), 0);
	kit_truncate(&k, t, "b", 2);
	kit_put(&k, t, "gone again", "?");
	assert_int_equal(txn_rollback_to(t, "s1"), 0);
	set_xattr(&k, t, "b", "one");
	commit(b, t);

	t = kit_begin(&k);
	kit_put(&k, t, "rolled back", "?");
	kit_rollback(t);

	t = kit_begin(&k);
	big_write(&k, t, "n1", 2, 9000, 'n');
	big_write(&k, t, "n1", 9002, 9000, 'm');
	commit(b, t);

	t = kit_begin(&k);
	assert_int_equal(kit_try_rename(&k, t, "b", "nd/b2", 0), 0);
	assert_int_equal(kit_try_unlink(&k, t, "a2", false), 0);
	assert_int_equal(kit_try_link(&k, t, "a", "nd/a3"), 0);
	commit(b, t);

	kit_write(&k, NULL, "a", 0, "Alpha"); /* plain, but through the log (I5) */
	state_reached(b);
	if (b->disk.sim) {
		early.disk.sim = cut_power(b->disk.sim, b->states[AT_CHECKPOINT]);
		assert_non_null(early.disk.sim);
		memcpy(early.states, b->states, sizeof(early.states));
		early.nstates = b->nstates;
	}

	t = kit_begin(&k);
	big_write(&k, t, "d/f", 0, 9000, 'f'); /* goes on in the next segment */
	kit_truncate(&k, t, "n1", 3000);
	commit(b, t);

	t = kit_begin(&k);
	assert_int_equal(kit_try_rename(&k, t, "d", "nd/d", 0), 0);
	assert_int_equal(kit_try_unlink(&k, t, "e", true), 0);
	assert_int_equal(kit_try_setattr(&k, t, "nd", &st, STORE_SET_MODE), 0);
	set_xattr(&k, t, "nd/b2", "two");
	commit(b, t);
	txn_put(open_one);
	return k;
}

/* Recovery of the first cut, cut off where it wants to make durable what it has redone. */
static struct sim *second_cut;

static int at_sync(void *arg, struct sim *sim, uint64_t n UNUSED, const char *what, const char *on UNUSED)
{
	if (!second_cut && !strcmp(what, "syncfs"))
		second_cut = cut_power(sim, arg);
	return 0;
}

/* The log on a disk that a power cut has left. */
static void take_log(struct base *b, struct sim *cut)
{
	assert_non_null(cut);
	b->disk = (struct bb_disk){.sim = cut, .os = sim_os(cut)};
	bb_open(&b->disk, false);
	log_parse(&b->disk, &b->log);
	bb_close(&b->disk);
	assert_in_range(log_commits(&b->log, UINT64_MAX), b->nstates - 2, b->nstates - 1);
}

static void make_simulated(void)
{
	struct kit k;
	struct sim *cut;
	char err[512];
	int r;

	bb_new_sim(&power_cut.disk);
	first_life(&power_cut.disk);
	k = second_life(&power_cut);
	cut = cut_power(power_cut.disk.sim, power_cut.states[AT_CHECKPOINT]);
	txn_engine_abandon(k.eng);
	bb_free(&power_cut.disk);
	take_log(&power_cut, cut);
	take_log(&early, early.disk.sim);

	again.disk = (struct bb_disk){.sim = sim_kill(power_cut.disk.sim)};
	again.disk.os = sim_os(again.disk.sim);
	memcpy(again.states, power_cut.states, sizeof(again.states));
	again.nstates = power_cut.nstates;
	bb_open(&again.disk, false);
	sim_on_change(again.disk.sim, at_sync, power_cut.states[AT_CHECKPOINT]);
	k.eng = open_engine(&again.disk, NULL, err, sizeof(err), &r);
	if (r)
		fail_msg("the log as it is after the cut is refused: %s", err);
	txn_engine_abandon(k.eng);
	bb_free(&again.disk);
	take_log(&again, second_cut);
	assert_true(again.log.segs[again.log.nsegs - 1].number > power_cut.log.segs[power_cut.log.nsegs - 1].number);
}

static void make_killed(struct base *b)
{
	struct kit k;

	bb_new_real(&b->disk);
	first_life(&b->disk);
	k = second_life(b);
	txn_engine_abandon(k.eng);
	log_parse(&b->disk, &b->log);
	bb_close(&b->disk);
	assert_int_equal(log_commits(&b->log, UINT64_MAX), b->nstates - 1);
}

static void free_base(struct base *b, bool states)
{
	for (unsigned i = 0; states && i < b->nstates; i++)
		free(b->states[i]);
	log_free(&b->log);
	bb_free(&b->disk);
	*b = (struct base){.name = b->name};
}

static int make_bases(void **state UNUSED)
{
	make_simulated();
	make_killed(&killed);
	return 0;
}

static int free_bases(void **state UNUSED)
{
	free_base(&power_cut, true);
	free_base(&early, false);
	free_base(&again, false);
	free_base(&killed, true);
	return 0;
}

#endif
