/*
 * test_engine_isolation.c - the levels serializable and snapshot.
 *
 * The anomalies by name (Adya 1999; Berenson et al. 1995), for contents, attributes, xattrs, names and listings. Then random
 * histories: what a snapshot sees is written down when it begins, and must stay so to the last bit and time stamp, whatever the
 * others do, until its own operations change it; what a serializable transaction has read must be true at its commit. With threads:
 * lists that transactions append to tell the order of writes, and the graph of dependencies must have no circle.
 *
 * TXNFS_SEED repeats a run, TXNFS_STEPS makes it longer.
 */
#include "tests/engine_kit.h"

#include <inttypes.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/xattr.h>

/* ---- kit ---- */

static struct txn *begin(struct kit *k, enum txn_isolation level)
{
	struct txn *t;

	assert_int_equal(txn_begin_with(k->eng, level, &t), 0);
	assert_int_equal(txn_isolation(t), level);
	return t;
}

static void cancelled(struct txn *t, const char *path)
{
	const char *why;

	assert_int_equal(txn_commit(t), -ECANCELED);
	assert_int_equal(txn_state(t), TXN_ABORTED);
	why = txn_conflict(t);
	assert_non_null(why);
	if (!strstr(why, path))
		fail_msg("\"%s\" does not name %s", why, path);
	txn_put(t);
}

static int set_xattr(struct kit *k, struct txn *v, const char *path, const char *value)
{
	struct txn_obj *obj = NULL;
	int r;

	assert_int_equal(kit_try_walk(k, v, path, &obj), 0);
	r = txn_setxattr(k->eng, v, obj, "user.a", value, strlen(value), 0);
	txn_obj_put(obj);
	return r;
}

static void expect_xattr(struct kit *k, struct txn *v, const char *path, const char *value)
{
	struct txn_obj *obj = NULL;
	char buf[64] = "";

	assert_int_equal(kit_try_walk(k, v, path, &obj), 0);
	assert_int_equal(txn_getxattr(k->eng, v, obj, "user.a", buf, sizeof(buf)), strlen(value));
	assert_string_equal(buf, value);
	txn_obj_put(obj);
}

static int chmod_path(struct kit *k, struct txn *v, const char *path, mode_t mode)
{
	struct stat st = {.st_mode = mode};

	return kit_try_setattr(k, v, path, &st, STORE_SET_MODE);
}

static int count_one(void *arg, const struct store_dirent *de UNUSED)
{
	++*(int *)arg;
	return 0;
}

static int count(struct kit *k, struct txn *v, const char *path)
{
	struct txn_obj *dir = NULL;
	int n = 0;

	assert_int_equal(kit_try_walk(k, v, path, &dir), 0);
	assert_int_equal(txn_readdir(k->eng, v, dir, count_one, &n), 0);
	txn_obj_put(dir);
	return n;
}

static void nothing_kept(struct kit *k)
{
	struct txn_stats st;

	txn_engine_stats(k->eng, &st);
	assert_int_equal(st.snapshots, 0);
	assert_int_equal(st.history_nodes, 0);
	assert_int_equal(st.history_bytes, 0);
}

/* One change of another one: plain, or a transaction of its own. */
enum how { PLAIN, COMMITTED, PENDING, HOWS };

static void tree(struct kit *k)
{
	kit_new(k);
	kit_put(k, NULL, "x", "x0");
	kit_put(k, NULL, "y", "y0");
	kit_create(k, NULL, "d", S_IFDIR | 0755);
	kit_put(k, NULL, "d/f", "f0");
	kit_create(k, NULL, "e", S_IFDIR | 0755);
	assert_int_equal(set_xattr(k, NULL, "x", "a0"), 0);
	assert_int_equal(txn_checkpoint(k->eng), 0);
}

static struct txn *others(struct kit *k, enum how how)
{
	return how == PLAIN ? NULL : kit_begin(k);
}

static void others_done(struct txn *t)
{
	if (t)
		kit_commit(t);
}

/* ---- serializable ---- */

enum item { CONTENTS, ATTRIBUTES, XATTR, NAME, MISSING, LISTING, DIR_MODE, ITEMS };

static void read_item(struct kit *k, struct txn *t, enum item item)
{
	switch (item) {
	case CONTENTS:
		free(kit_get(k, t, "x"));
		break;
	case ATTRIBUTES:
		kit_stat(k, t, "x");
		break;
	case XATTR:
		expect_xattr(k, t, "x", "a0");
		break;
	case NAME:
		assert_true(kit_exists(k, t, "d/f"));
		break;
	case MISSING:
		assert_false(kit_exists(k, t, "d/new"));
		break;
	case LISTING:
		count(k, t, "d");
		break;
	case DIR_MODE:
		kit_stat(k, t, "d");
		break;
	default:
		fail();
	}
}

static void change_item(struct kit *k, struct txn *t, enum item item)
{
	switch (item) {
	case CONTENTS:
		kit_write(k, t, "x", 0, "x1");
		break;
	case ATTRIBUTES:
		assert_int_equal(chmod_path(k, t, "x", 0600), 0);
		break;
	case XATTR:
		assert_int_equal(set_xattr(k, t, "x", "a1"), 0);
		break;
	case NAME:
		assert_int_equal(kit_try_rename(k, t, "d/f", "d/g", 0), 0);
		break;
	case MISSING:
	case LISTING:
		kit_create(k, t, "d/new", S_IFREG | 0644);
		break;
	case DIR_MODE:
		assert_int_equal(chmod_path(k, t, "d", 0700), 0);
		break;
	default:
		fail();
	}
}

static const char *const path_of[ITEMS] = {"x", "x", "x", "d/f", "d/new", "d", "d"};

/* Fuzzy reads, phantoms and lost updates of every kind. */
static void a_read_that_does_not_hold(void **state UNUSED)
{
	for (int threads = 0; threads < 2; threads++)
		for (int how = 0; how < HOWS; how++)
			for (int item = 0; item < ITEMS; item++) {
				struct txn *t, *u;
				struct kit k;

				tree(&k);
				if (threads) {
					kit_close(&k);
					k.threads = true;
					kit_open(&k);
				}
				/* Nothing has changed: it commits, whatever it has read. */
				t = begin(&k, TXN_SERIALIZABLE);
				read_item(&k, t, item);
				kit_put(&k, t, "y", "y1");
				kit_commit(t);
				/* Something else has changed. */
				t = begin(&k, TXN_SERIALIZABLE);
				read_item(&k, t, item);
				kit_put(&k, t, "e/own", "1");
				kit_put(&k, NULL, "y", "y2");
				kit_put(&k, NULL, "e/other", "2");
				kit_commit(t);

				t = begin(&k, TXN_SERIALIZABLE);
				read_item(&k, t, item);
				kit_put(&k, t, "e/own", "3");
				u = others(&k, how);
				change_item(&k, u, item);
				if (how != PENDING) {
					others_done(u);
					cancelled(t, path_of[item]);
				} else { /* not committed: nothing has changed yet */
					kit_commit(t);
					others_done(u);
				}
				kit_expect(&k, NULL, "e/own", how == PENDING ? "3" : "1");
				/* A read-only one too. */
				t = begin(&k, TXN_SERIALIZABLE);
				count(&k, t, "e");
				kit_put(&k, NULL, "e/more", "");
				cancelled(t, "e");
				kit_free(&k);
			}
}

static void own_changes_are_no_conflict(void **state UNUSED)
{
	struct txn *t;
	struct kit k;

	tree(&k);
	t = begin(&k, TXN_SERIALIZABLE);
	for (int item = 0; item < ITEMS; item++)
		if (item != LISTING) {
			read_item(&k, t, item);
			change_item(&k, t, item);
		}
	kit_put(&k, t, "d/g", "own");
	count(&k, t, "d");
	kit_commit(t);
	kit_expect(&k, NULL, "d/g", "own");
	kit_free(&k);
}

static void write_skew(void **state UNUSED)
{
	for (int item = 0; item < ITEMS; item++) {
		struct txn *t, *u;
		struct kit k;

		if (item == DIR_MODE)
			continue; /* what it writes below it reads itself */
		tree(&k);
		t = begin(&k, TXN_SERIALIZABLE);
		u = begin(&k, TXN_SERIALIZABLE);
		read_item(&k, t, item);
		free(kit_get(&k, u, "y"));
		kit_write(&k, t, "y", 0, "y1");
		change_item(&k, u, item);
		kit_commit(t);
		cancelled(u, "y");
		kit_free(&k);
	}
}

/* Prepared counts as committed: it has been verified, and who has read what it holds must wait for its end. */
static void prepared_ones(void **state UNUSED)
{
	struct txn *t, *u, *s;
	struct kit k;

	tree(&k);
	t = begin(&k, TXN_SERIALIZABLE);
	free(kit_get(&k, t, "x"));
	kit_put(&k, t, "e/own", "1");
	kit_write(&k, NULL, "x", 0, "x1");
	assert_int_equal(txn_prepare(t, "late", 0), -ECANCELED);
	assert_int_equal(txn_state(t), TXN_ABORTED);
	assert_non_null(strstr(txn_conflict(t), "x has other"));
	txn_put(t);
	/* Read what it holds: before and after it was prepared. */
	t = begin(&k, TXN_SERIALIZABLE);
	u = begin(&k, TXN_SERIALIZABLE);
	free(kit_get(&k, t, "x"));
	free(kit_get(&k, u, "y"));
	kit_write(&k, t, "y", 0, "y1");
	kit_write(&k, u, "x", 0, "u1");
	assert_int_equal(txn_prepare(t, "held", 0), 0);
	cancelled(u, "y");
	u = begin(&k, TXN_SERIALIZABLE);
	free(kit_get(&k, u, "y"));
	cancelled(u, "y");
	/* A snapshot that began before it is committed does not see it. */
	s = begin(&k, TXN_SNAPSHOT);
	kit_commit(t);
	kit_expect(&k, s, "y", "y0");
	kit_expect(&k, NULL, "y", "y1");
	kit_commit(s);
	nothing_kept(&k);
	kit_free(&k);
}

static void finding(void *arg UNUSED, const char *line)
{
	print_message("%s\n", line);
}

/* Nothing of a snapshot survives a crash, nor is left behind. */
static void a_crash_ends_snapshots(void **state UNUSED)
{
	struct txn_check check = {0};
	struct txn *s, *t;
	struct kit k;

	tree(&k);
	s = begin(&k, TXN_SNAPSHOT);
	kit_put(&k, s, "e/own", "1");
	t = begin(&k, TXN_SERIALIZABLE);
	kit_put(&k, t, "e/other", "1");
	kit_put(&k, NULL, "y", "longer");
	assert_int_equal(kit_try_unlink(&k, NULL, "x", false), 0);
	assert_int_equal(kit_try_rename(&k, NULL, "d", "e/d", 0), 0);
	kit_expect(&k, s, "x", "x0");
	txn_put(s);
	txn_put(t);
	kit_reopen(&k);
	kit_expect(&k, NULL, "y", "longer");
	kit_expect(&k, NULL, "e/d/f", "f0");
	assert_false(kit_exists(&k, NULL, "x"));
	assert_int_equal(count(&k, NULL, "e"), 1);
	nothing_kept(&k);
	assert_int_equal(txn_checkpoint(k.eng), 0);
	assert_int_equal(txn_check(k.store, os_real(), k.wal, &check, finding, NULL), 0);
	assert_int_equal(check.staged, 0);
	assert_int_equal(check.trashed, 0);
	kit_free(&k);
}

static void plain_work_goes_on(void **state UNUSED)
{
	struct txn *t, *u;
	struct kit k;

	tree(&k);
	/* Blind writes of read-committed ones and of serializable ones. */
	t = begin(&k, TXN_SERIALIZABLE);
	u = kit_begin(&k);
	kit_put(&k, t, "d/t", "1");
	kit_put(&k, u, "d/u", "2");
	kit_put(&k, NULL, "d/p", "3");
	kit_commit(u);
	kit_commit(t);
	assert_int_equal(count(&k, NULL, "d"), 4);
	/* A name that came and went again is as it was. */
	t = begin(&k, TXN_SERIALIZABLE);
	assert_false(kit_exists(&k, t, "e/n"));
	kit_put(&k, NULL, "e/n", "");
	assert_int_equal(kit_try_unlink(&k, NULL, "e/n", false), 0);
	kit_commit(t);
	kit_free(&k);
}

static void levels_are_chosen_first(void **state UNUSED)
{
	struct txn *t;
	struct kit k;

	tree(&k);
	t = kit_begin(&k);
	free(kit_get(&k, t, "x"));
	kit_write(&k, NULL, "x", 0, "x1");
	assert_int_equal(txn_set_isolation(t, TXN_SNAPSHOT), 0); /* as of now */
	kit_write(&k, NULL, "x", 0, "x2");
	kit_expect(&k, t, "x", "x1");
	assert_int_equal(txn_set_isolation(t, TXN_SNAPSHOT), 0);
	kit_expect(&k, t, "x", "x2");
	assert_int_equal(txn_set_isolation(t, TXN_SERIALIZABLE), 0);
	nothing_kept(&k);
	kit_put(&k, t, "y", "y1");
	assert_int_equal(txn_set_isolation(t, TXN_READ_COMMITTED), -EINVAL);
	assert_int_equal(txn_set_isolation(t, TXN_SNAPSHOT), -EINVAL);
	kit_rollback(t);
	kit_free(&k);
}

/* ---- snapshot ---- */

/* G0, G1a, G1b, G1c, fuzzy and skewed reads, phantoms, OTV, PMP: nothing of the others is seen. */
static void a_snapshot_stays(void **state UNUSED)
{
	for (int threads = 0; threads < 2; threads++)
		for (int how = 0; how < HOWS; how++) {
			struct txn *s, *u, *later;
			struct stat file, dir;
			struct kit k;

			tree(&k);
			if (threads) {
				kit_close(&k);
				k.threads = true;
				kit_open(&k);
			}
			file = kit_stat(&k, NULL, "x");
			dir = kit_stat(&k, NULL, "d");
			s = begin(&k, TXN_SNAPSHOT);
			for (int round = 0; round < 3; round++) {
				struct stat st;

				kit_expect(&k, s, "x", "x0");
				kit_expect(&k, s, "y", "y0");
				kit_expect(&k, s, "d/f", "f0");
				expect_xattr(&k, s, "x", "a0");
				assert_false(kit_exists(&k, s, "d/new"));
				assert_int_equal(count(&k, s, "d"), 1);
				st = kit_stat(&k, s, "x");
				st.st_atim = file.st_atim;
				assert_memory_equal(&st, &file, sizeof(st));
				st = kit_stat(&k, s, "d");
				assert_int_equal(st.st_mode, dir.st_mode);
				assert_memory_equal(&st.st_mtim, &dir.st_mtim, sizeof(st.st_mtim));
				assert_memory_equal(&st.st_ctim, &dir.st_ctim, sizeof(st.st_ctim));
				if (round)
					continue;
				u = others(&k, how);
				change_item(&k, u, CONTENTS);
				change_item(&k, u, XATTR);
				change_item(&k, u, ATTRIBUTES);
				change_item(&k, u, NAME);
				change_item(&k, u, MISSING);
				change_item(&k, u, DIR_MODE);
				kit_truncate(&k, u, "y", 0);
				kit_put(&k, u, "y", "much longer than before");
				assert_int_equal(kit_try_unlink(&k, u, "x", false), 0);
				kit_put(&k, u, "x", "another file");
				if (how == PENDING) {
					kit_expect(&k, s, "x", "x0");
					assert_int_equal(txn_rollback(u), 0);
					txn_put(u);
				} else {
					others_done(u);
				}
			}
			later = begin(&k, TXN_SNAPSHOT);
			kit_expect(&k, later, "y", how == PENDING ? "y0" : "much longer than before");
			kit_rollback(s);
			kit_expect(&k, later, "y", how == PENDING ? "y0" : "much longer than before");
			kit_commit(later);
			assert_int_equal(txn_drain(k.eng), 0);
			nothing_kept(&k);
			kit_free(&k);
		}
}

static void the_first_updater_wins(void **state UNUSED)
{
	for (int how = 0; how < PENDING; how++)
		for (int item = 0; item < ITEMS; item++) {
			struct txn *s, *u;
			struct kit k;
			ssize_t r;

			if (item == LISTING)
				continue;
			tree(&k);
			s = begin(&k, TXN_SNAPSHOT);
			kit_put(&k, s, "e/own", "1");
			u = others(&k, how);
			change_item(&k, u, item);
			others_done(u);
			switch (item) {
			case CONTENTS:
				r = kit_try_write(&k, s, "x", 0, "s", 1);
				break;
			case NAME:
				r = kit_try_unlink(&k, s, "d/f", false);
				break;
			case MISSING:
				r = kit_try_create(&k, s, "d/new", S_IFREG | 0644);
				break;
			case DIR_MODE:
				r = chmod_path(&k, s, "d", 0711);
				break;
			default:
				r = chmod_path(&k, s, "x", 0640);
			}
			assert_int_equal(r, -ECANCELED);
			read_item(&k, s, item); /* it can go on reading */
			kit_expect(&k, s, "e/own", "1");
			cancelled(s, path_of[item]);
			assert_false(kit_exists(&k, NULL, "e/own"));
			nothing_kept(&k);
			kit_free(&k);
		}
}

static void directories_of_a_snapshot(void **state UNUSED)
{
	struct txn *s;
	struct kit k;

	tree(&k);
	kit_create(&k, NULL, "e/in", S_IFDIR | 0755);
	s = begin(&k, TXN_SNAPSHOT);
	/* Empty as of then, and not any more. */
	kit_put(&k, NULL, "e/in/new", "");
	assert_int_equal(count(&k, s, "e/in"), 0);
	assert_int_equal(kit_try_unlink(&k, s, "e/in", true), -ECANCELED);
	cancelled(s, "e/in");
	/* Two moves that would close a circle together. */
	s = begin(&k, TXN_SNAPSHOT);
	assert_int_equal(kit_try_rename(&k, NULL, "e", "d/e", 0), 0);
	assert_int_equal(kit_try_rename(&k, s, "d", "e/in/d", 0), -ECANCELED);
	kit_expect(&k, s, "e/in/new", "");
	cancelled(s, "d/e");
	/* A whole tree goes. */
	s = begin(&k, TXN_SNAPSHOT);
	assert_int_equal(kit_try_unlink(&k, NULL, "d/e/in/new", false), 0);
	assert_int_equal(kit_try_unlink(&k, NULL, "d/e/in", true), 0);
	assert_int_equal(kit_try_unlink(&k, NULL, "d/e", true), 0);
	kit_expect(&k, s, "d/e/in/new", "");
	assert_int_equal(count(&k, s, "d/e/in"), 1);
	assert_int_equal(kit_try_create(&k, s, "d/e/in/own", S_IFREG | 0644), -ECANCELED);
	cancelled(s, "");
	nothing_kept(&k);
	kit_free(&k);
}

/* Open files outlive the snapshot, also those that nobody else has any more. */
static void files_of_a_snapshot(void **state UNUSED)
{
	struct txn_obj *obj = NULL;
	struct txn_file *f, *g;
	char buf[16] = "";
	struct txn *s;
	struct kit k;

	tree(&k);
	s = begin(&k, TXN_SNAPSHOT);
	assert_int_equal(kit_try_unlink(&k, NULL, "x", false), 0);
	assert_int_equal(kit_try_walk(&k, s, "x", &obj), 0);
	assert_int_equal(txn_open(k.eng, s, obj, O_RDWR, &f), 0);
	assert_int_equal(txn_read(f, buf, sizeof(buf), 0), 2);
	assert_string_equal(buf, "x0");
	assert_int_equal(txn_write(f, "s", 1, 0, false), -ECANCELED);
	kit_rollback(s);
	assert_int_equal(txn_read(f, buf, sizeof(buf), 0), 2);
	assert_int_equal(txn_write(f, "p", 1, 0, false), 1);
	s = begin(&k, TXN_SNAPSHOT);
	assert_int_equal(txn_write(f, "q", 1, 0, false), 1);
	assert_int_equal(txn_open(k.eng, s, obj, O_RDONLY, &g), 0);
	assert_int_equal(txn_read(g, buf, sizeof(buf), 0), 2);
	assert_string_equal(buf, "p0");
	txn_close(g);
	kit_commit(s);
	txn_close(f);
	txn_obj_put(obj);
	nothing_kept(&k);
	kit_free(&k);
}

/* Many snapshots of a hot file beside an old one: what the young ones had goes with them. */
static void young_snapshots_go(void **state UNUSED)
{
	uint64_t bytes = 0;
	struct txn_stats st;
	struct txn *old, *s;
	char block[4096], *got;
	struct kit k;

	tree(&k);
	kit_truncate(&k, NULL, "x", 40 * sizeof(block));
	old = begin(&k, TXN_SNAPSHOT);
	for (int i = 0; i < 50; i++) {
		s = begin(&k, TXN_SNAPSHOT);
		memset(block, 'a' + i % 26, sizeof(block));
		for (size_t at = 0; at < 40; at += 1 + (size_t)i % 3)
			assert_int_equal(kit_try_write(&k, NULL, "x", at * sizeof(block), block, sizeof(block)), sizeof(block));
		kit_rollback(s);
		txn_engine_stats(k.eng, &st);
		if (i == 3)
			bytes = st.history_bytes;
	}
	assert_true(st.history_bytes <= bytes + 40 * sizeof(block));
	assert_int_equal(st.snapshots, 1);
	got = kit_get(&k, old, "x");
	assert_memory_equal(got, "x0", 2);
	for (size_t i = 2; i < 40 * sizeof(block); i++)
		assert_int_equal(got[i], 0);
	free(got);
	kit_rollback(old);
	nothing_kept(&k);
	kit_free(&k);
}

/* An engine on a store with other operations. */
static void open_with(struct kit *k, struct store_ops *ops, bool threads)
{
	struct store_dir_options so = {.create = true};
	struct txn_config cfg = {.no_threads = !threads, .segment_size = 256u << 10};
	char err[256];

	assert_int_equal(store_dir_open(k->dir, &so, &k->store, &k->wal, err, sizeof(err)), 0);
	k->store->ops = ops;
	cfg.store = k->store;
	cfg.wal_dirfd = k->wal;
	assert_int_equal(txn_engine_open(&cfg, &k->eng, NULL, err, sizeof(err)), 0);
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static int (*real_setattr)(struct store_obj *obj, const struct stat *attr, unsigned mask);

static int gated_setattr(struct store_obj *obj, const struct stat *attr, unsigned mask)
{
	pthread_mutex_lock(&gate);
	pthread_mutex_unlock(&gate);
	return real_setattr(obj, attr, mask);
}

/* A snapshot that begins while a commit is half-way home, contents and no names: the install changes nothing of what it sees, times included. */
static void a_commit_on_its_way(void **state UNUSED)
{
	struct txn_obj *obj = NULL;
	struct stat x[2], d[2];
	struct store_ops ops;
	struct txn *s, *old, *t;
	struct kit k;

	tree(&k);
	ops = *k.store->ops;
	real_setattr = ops.setattr;
	ops.setattr = gated_setattr;
	kit_close(&k);
	open_with(&k, &ops, true);
	old = begin(&k, TXN_SNAPSHOT);
	t = kit_begin(&k);
	kit_write(&k, t, "x", 0, "x1");
	kit_create(&k, t, "d/sub", S_IFDIR | 0755);
	assert_int_equal(kit_try_rename(&k, t, "d/f", "e/f", 0), 0);
	pthread_mutex_lock(&gate);
	kit_commit(t);
	s = begin(&k, TXN_SNAPSHOT);
	x[0] = kit_stat(&k, s, "x");
	d[0] = kit_stat(&k, s, "d");
	for (int i = 0; i < 2; i++) {
		kit_expect(&k, s, "x", "x1");
		kit_expect(&k, s, "e/f", "f0");
		assert_int_equal(count(&k, s, "d"), 1);
		kit_expect(&k, old, "x", "x0");
		kit_expect(&k, old, "d/f", "f0");
		assert_int_equal(count(&k, old, "e"), 0);
		if (i)
			break;
		/* The kernel's clock, which gives files their times at home, ticks more slowly than ours. */
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
		pthread_mutex_unlock(&gate);
		assert_int_equal(txn_drain(k.eng), 0);
	}
	x[1] = kit_stat(&k, s, "x");
	d[1] = kit_stat(&k, s, "d");
	assert_memory_equal(&x[0].st_ctim, &x[1].st_ctim, sizeof(x[0].st_ctim));
	assert_memory_equal(&x[0].st_mtim, &x[1].st_mtim, sizeof(x[0].st_mtim));
	assert_memory_equal(&d[0].st_ctim, &d[1].st_ctim, sizeof(d[0].st_ctim));
	assert_memory_equal(&d[0].st_mtim, &d[1].st_mtim, sizeof(d[0].st_mtim));
	assert_int_equal(d[0].st_nlink, d[1].st_nlink);
	/* Nobody has changed it since, the install does not count. */
	assert_int_equal(kit_try_walk(&k, s, "x", &obj), 0);
	assert_int_equal(txn_removexattr(k.eng, s, obj, "user.none"), -ENODATA);
	txn_obj_put(obj);
	x[1] = kit_stat(&k, s, "x");
	assert_memory_equal(&x[0].st_ctim, &x[1].st_ctim, sizeof(x[0].st_ctim));
	kit_write(&k, s, "x", 0, "s1");
	kit_commit(s);
	kit_expect(&k, NULL, "x", "s1");
	kit_rollback(old);
	assert_int_equal(txn_drain(k.eng), 0);
	nothing_kept(&k);
	kit_free(&k);
}

/* More removed files than are kept open. */
static void many_removed_files(void **state UNUSED)
{
	enum { MANY = 1100 };
	char name[32], text[32];
	struct txn *s;
	struct kit k;

	tree(&k);
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "d/%d", i);
		snprintf(text, sizeof(text), "this is %d", i);
		kit_put(&k, NULL, name, text);
	}
	s = begin(&k, TXN_SNAPSHOT);
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "d/%d", i);
		assert_int_equal(kit_try_unlink(&k, NULL, name, false), 0);
	}
	assert_int_equal(count(&k, NULL, "d"), 1);
	assert_int_equal(count(&k, s, "d"), MANY + 1);
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "d/%d", i);
		snprintf(text, sizeof(text), "this is %d", i);
		kit_expect(&k, s, name, text);
	}
	kit_commit(s);
	nothing_kept(&k);
	kit_free(&k);
}

static int unsupported_tmpfile(struct store_obj *dir UNUSED, const struct store_new *nw UNUSED, struct store_obj **out UNUSED,
                               struct stat *attr UNUSED, struct store_file **file UNUSED)
{
	return -EOPNOTSUPP;
}

static void without_tmpfile(void **state UNUSED)
{
	struct store_ops ops;
	struct txn *s;
	struct kit k;

	tree(&k);
	ops = *k.store->ops;
	ops.tmpfile = unsupported_tmpfile;
	kit_close(&k);
	open_with(&k, &ops, false);
	for (int i = 0; i < 2; i++) {
		s = begin(&k, TXN_SNAPSHOT);
		kit_write(&k, NULL, "y", 0, i ? "y2" : "y1");
		kit_expect(&k, s, "y", i ? "y1" : "y0");
		kit_commit(s);
		nothing_kept(&k);
	}
	kit_free(&k);
}

static int no_tmpfile(struct store_obj *dir UNUSED, const struct store_new *nw UNUSED, struct store_obj **out UNUSED,
                      struct stat *attr UNUSED, struct store_file **file UNUSED)
{
	return -ENOSPC;
}

/* No room for what a snapshot needs: writers go on, commits are installed, and the snapshot says what has become of it. */
static void a_snapshot_is_lost(void **state UNUSED)
{
	struct txn_obj *obj = NULL;
	struct store_ops poor;
	struct txn *s, *later;
	struct kit k;

	tree(&k);
	poor = *k.store->ops;
	poor.tmpfile = no_tmpfile;
	kit_close(&k);
	open_with(&k, &poor, false);
	for (int how = 0; how < PENDING; how++) {
		struct txn *u;

		s = begin(&k, TXN_SNAPSHOT);
		kit_expect(&k, s, "d/f", "f0");
		kit_put(&k, s, "e/own", "1");
		u = others(&k, how);
		kit_write(&k, u, "y", 0, "y1");
		others_done(u);
		kit_expect(&k, NULL, "y", "y1");
		assert_int_equal(kit_try_walk(&k, s, "y", &obj), -ECANCELED);
		assert_int_equal(kit_try_walk(&k, NULL, "y", &obj), 0);
		assert_int_equal(chmod_path(&k, s, "y", 0600), -ECANCELED);
		txn_obj_put(obj);
		later = begin(&k, TXN_SNAPSHOT); /* younger than the trouble */
		kit_expect(&k, later, "y", "y1");
		kit_commit(later);
		cancelled(s, "could not be kept");
		nothing_kept(&k);
	}
	assert_null(txn_engine_error(k.eng));
	kit_free(&k);
}

/* ---- random histories ---- */

static uint64_t rng;

static uint64_t rnd(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % n;
}

static bool chance(unsigned percent)
{
	return rnd(100) < percent;
}

#define VIEWS 5
#define OPENS 6
#define NOTES 60
#define BIG (300u << 10)

struct world {
	struct kit k;
	struct {
		struct txn *t;
		enum txn_isolation level;
		char *shows;    /* snapshot: what it must show */
		uint64_t since; /* committed changes when it began */
		bool read;
	} v[VIEWS];
	struct txn_file *open[OPENS]; /* files of the committed view, perhaps without a name */
	uint64_t changes;
	char notes[NOTES][200];
	unsigned step;
	uint64_t committed, cancelled, doomed;
};

static struct world w;

static void note(const char *fmt, ...) PRINTF_LIKE(1, 2);

static void note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(w.notes[w.step % NOTES], sizeof(w.notes[0]), fmt, ap);
	va_end(ap);
}

static void show_notes(void)
{
	for (unsigned i = w.step > NOTES ? w.step - NOTES + 1 : 0; i <= w.step; i++)
		print_error("%u: %s\n", i, w.notes[i % NOTES]);
}

/* All that a view shows, as a text. */
struct dump {
	struct kit *k;
	struct txn *v;
	struct base_buf *out;
	char path[512];
	char *names[64];
	int n;
};

static int dump_name(void *arg, const struct store_dirent *de)
{
	struct dump *d = arg;

	assert_true(d->n < 64);
	d->names[d->n++] = strdup(de->name);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void dump_file(struct dump *d, struct txn_obj *obj, const struct stat *st)
{
	char *buf = malloc((size_t)st->st_size + 2), link[512];
	struct txn_file *f;
	uint64_t h = 14695981039346656037u;
	ssize_t n;

	if (S_ISLNK(st->st_mode)) {
		assert_int_equal(txn_readlink(d->k->eng, d->v, obj, link, sizeof(link)), 0);
		base_buf_printf(d->out, " -> %s", link);
	} else {
		assert_int_equal(txn_open(d->k->eng, d->v, obj, O_RDONLY, &f), 0);
		n = txn_read(f, buf, (size_t)st->st_size + 1, 0);
		if (n != st->st_size)
			fail_msg("%s: %zd bytes of %lld", d->path, n, (long long)st->st_size);
		for (ssize_t i = 0; i < n; i++)
			h = (h ^ (unsigned char)buf[i]) * 1099511628211u;
		base_buf_printf(d->out, " %016" PRIx64, h);
		txn_close(f);
	}
	free(buf);
}

static void dump_tree(struct dump *up, struct txn_obj *obj)
{
	static const char *const xattrs[] = {"user.a", "user.b"};
	struct dump d = {.k = up->k, .v = up->v, .out = up->out};
	char list[1024], value[64];
	struct stat st;
	ssize_t n;

	memcpy(d.path, up->path, sizeof(d.path));
	if ((n = txn_getattr(d.k->eng, d.v, obj, &st))) {
		show_notes();
		fail_msg("getattr of %s: %s", d.path, strerrorname_np((int)-n));
	}
	base_buf_printf(d.out, "/%s %o %llu nlink %u uid %u size %lld m %lld.%09ld c %lld.%09ld", d.path, st.st_mode,
	                (unsigned long long)st.st_ino, (unsigned)st.st_nlink, st.st_uid,
	                S_ISDIR(st.st_mode) ? 0ll : (long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
	                (long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
	n = S_ISLNK(st.st_mode) ? 0 : txn_listxattr(d.k->eng, d.v, obj, list, sizeof(list));
	assert_true(n >= 0);
	for (size_t i = 0; i < ARRAY_LEN(xattrs) && n; i++) {
		ssize_t len = txn_getxattr(d.k->eng, d.v, obj, xattrs[i], value, sizeof(value));
		bool listed = false;

		for (const char *p = list; p < list + n; p += strlen(p) + 1)
			listed = listed || !strcmp(p, xattrs[i]);
		assert_true(len >= 0 ? listed : len == -ENODATA && !listed);
		if (len >= 0)
			base_buf_printf(d.out, " %s=%.*s", xattrs[i], (int)len, value);
	}
	if (!S_ISDIR(st.st_mode)) {
		dump_file(&d, obj, &st);
		base_buf_printf(d.out, "\n");
		return;
	}
	base_buf_printf(d.out, "\n");
	assert_int_equal(txn_readdir(d.k->eng, d.v, obj, dump_name, &d), 0);
	qsort(d.names, (size_t)d.n, sizeof(d.names[0]), by_name);
	for (int i = 0; i < d.n; i++) {
		struct txn_look look;
		int r = txn_lookup(d.k->eng, d.v, obj, d.names[i], &look);

		if (r)
			fail_msg("%s/%s is listed, but lookup says %s", up->path, d.names[i], strerrorname_np(-r));
		assert_true(i == 0 || strcmp(d.names[i], d.names[i - 1]));
		assert_in_range(snprintf(d.path, sizeof(d.path), "%s%s%s", up->path, *up->path ? "/" : "", d.names[i]), 1,
		                sizeof(d.path) - 1);
		dump_tree(&d, look.obj);
		txn_obj_put(look.obj);
	}
	for (int i = 0; i < d.n; i++)
		free(d.names[i]);
}

static char *dump(struct kit *k, struct txn *v)
{
	struct base_buf out = {0};
	struct dump d = {.k = k, .v = v, .out = &out};

	dump_tree(&d, txn_root(k->eng));
	assert_int_equal(out.err, 0);
	return (char *)out.p;
}

static void differ(int v, const char *a, const char *b)
{
	const char *p = a, *q = b;

	show_notes();
	while (*p || *q) {
		size_t n = strcspn(p, "\n"), m = strcspn(q, "\n");

		if (n != m || memcmp(p, q, n))
			print_error("- %.*s\n+ %.*s\n", (int)n, p, (int)m, q);
		p += n + (p[n] != 0);
		q += m + (q[m] != 0);
	}
	fail_msg("snapshot %d does not show what it showed", v);
}

static void check_snapshots(void)
{
	for (int i = 0; i < VIEWS; i++)
		if (w.v[i].t && w.v[i].level == TXN_SNAPSHOT) {
			char *now = dump(&w.k, w.v[i].t);

			if (strcmp(now, w.v[i].shows))
				differ(i, w.v[i].shows, now);
			free(now);
		}
}

static const char *const places[] = {"a", "b", "c", "p", "q", "p/a", "p/b", "q/a", "q/b", "p/r", "q/r", "p/r/a", "q/r/b"};

static const char *place(void)
{
	return places[rnd(ARRAY_LEN(places))];
}

static bool has_parent(struct txn *t, const char *path)
{
	char copy[64], *slash;
	struct txn_obj *obj = NULL;
	bool ok;

	snprintf(copy, sizeof(copy), "%s", path);
	slash = strrchr(copy, '/');
	if (!slash)
		return true;
	*slash = '\0';
	if (kit_try_walk(&w.k, t, copy, &obj))
		return false;
	ok = S_ISDIR(txn_obj_kind(obj));
	txn_obj_put(obj);
	return ok;
}

static int change_contents(struct txn *t, const char *path)
{
	struct stat st = {0};
	struct txn_obj *obj = NULL;
	struct txn_file *f;
	size_t n;
	char *buf;
	ssize_t r = kit_try_walk(&w.k, t, path, &obj);

	if (r)
		return (int)r;
	r = S_ISREG(txn_obj_kind(obj)) ? txn_open(w.k.eng, t, obj, O_RDWR, &f) : -EISDIR;
	if (r) {
		txn_obj_put(obj);
		return (int)r;
	}
	n = 1 + (size_t)rnd(chance(80) ? 5000 : 100000);
	buf = malloc(n);
	memset(buf, 'A' + (int)rnd(26), n);
	switch (rnd(6)) {
	default:
		r = txn_write(f, buf, n, rnd(chance(70) ? 8000 : BIG), chance(20));
		break;
	case 1: {
		uint64_t off;

		r = txn_append(f, buf, n, false, &off);
		break;
	}
	case 2:
		st.st_size = (off_t)rnd(chance(50) ? 6000 : BIG);
		r = txn_setattr(w.k.eng, t, obj, f, &st, STORE_SET_SIZE | TXN_SET_MTIME_NOW, NULL);
		break;
	case 3:
		r = txn_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, rnd(8000), n);
		break;
	case 4:
		r = txn_fallocate(f, 0, rnd(8000), n);
		break;
	}
	free(buf);
	if (!t && r >= 0 && chance(30)) {
		size_t i = (size_t)rnd(OPENS);

		if (w.open[i])
			txn_close(w.open[i]);
		w.open[i] = f;
	} else {
		txn_close(f);
	}
	txn_obj_put(obj);
	return r < 0 ? (int)r : 0;
}

static int one_operation(struct txn *t)
{
	static const unsigned flags[] = {0, 0, 1, 2};
	const char *a = place(), *b = place();
	struct txn_obj *obj = NULL;
	struct stat st = {.st_mode = chance(50) ? 0644 : 0755, .st_mtim = {(time_t)rnd(2000000000), 5}};
	char value[8];
	int r;

	if (!has_parent(t, a) || !has_parent(t, b))
		return -ENOENT;
	switch (rnd(12)) {
	case 0:
	case 1:
		note("%s create %s", t ? "txn" : "plain", a);
		return kit_try_create(&w.k, t, a, (chance(70) && *a != 'p' && *a != 'q') || chance(20) ? S_IFREG | 0644 : S_IFDIR | 0755);
	case 2:
		note("%s unlink %s", t ? "txn" : "plain", a);
		r = kit_try_unlink(&w.k, t, a, false);
		return r == -EISDIR ? kit_try_unlink(&w.k, t, a, true) : r;
	case 3:
	case 4:
		note("%s rename %s %s", t ? "txn" : "plain", a, b);
		return kit_try_rename(&w.k, t, a, b, flags[rnd(ARRAY_LEN(flags))]);
	case 5:
		note("%s link %s %s", t ? "txn" : "plain", a, b);
		return kit_try_link(&w.k, t, a, b);
	case 6:
		note("%s setattr %s", t ? "txn" : "plain", a);
		r = kit_try_walk(&w.k, t, a, &obj);
		if (r)
			return r;
		/* A symbolic link's mode does not change, which the kernel knows. */
		r = txn_setattr(w.k.eng, t, obj, NULL, &st,
		                chance(50) && !S_ISLNK(txn_obj_kind(obj)) ? STORE_SET_MODE : STORE_SET_MTIME, NULL);
		txn_obj_put(obj);
		return r;
	case 7:
		note("%s xattr %s", t ? "txn" : "plain", a);
		r = kit_try_walk(&w.k, t, a, &obj);
		if (r)
			return r;
		snprintf(value, sizeof(value), "%u", (unsigned)rnd(1000));
		r = chance(30) ? txn_removexattr(w.k.eng, t, obj, chance(50) ? "user.a" : "user.b")
		               : txn_setxattr(w.k.eng, t, obj, chance(50) ? "user.a" : "user.b", value, strlen(value), 0);
		txn_obj_put(obj);
		return r;
	case 8:
		note("%s symlink %s", t ? "txn" : "plain", a);
		{
			struct txn_new nw = {.mode = S_IFLNK | 0777, .uid = geteuid(), .gid = getegid(), .target = b};
			struct txn_look look;
			const char *name;
			struct txn_obj *dir = kit_parent(&w.k, t, a, &name);

			r = txn_create(w.k.eng, t, dir, name, &nw, &look);
			if (!r)
				txn_obj_put(look.obj);
			txn_obj_put(dir);
			return r;
		}
	default:
		note("%s contents %s", t ? "txn" : "plain", a);
		return change_contents(t, a);
	}
}

static void end_view(int i, bool commit)
{
	enum txn_isolation level = w.v[i].level;
	struct txn *t = w.v[i].t;
	char *before = NULL;
	int r;

	/* A serializable one has read all that it shows: then nothing else may have happened to it, or it fails. */
	if (commit && w.v[i].read)
		before = dump(&w.k, t);
	note("%d %s (level %d)", i, commit ? "commit" : "rollback", level);
	r = commit ? txn_commit(t) : txn_rollback(t);
	if (r == -ECANCELED) {
		assert_true(level != TXN_READ_COMMITTED);
		assert_non_null(txn_conflict(t));
		if (level == TXN_SERIALIZABLE && w.changes == w.v[i].since)
			fail_msg("%d was cancelled (%s), but nobody has changed anything", i, txn_conflict(t));
		w.cancelled++;
	} else if (r) {
		show_notes();
		fail_msg("commit: %s", strerrorname_np(-r));
	} else if (commit) {
		w.committed++;
		w.changes++;
	}
	free(before);
	free(w.v[i].shows);
	txn_put(t);
	memset(&w.v[i], 0, sizeof(w.v[i]));
}

static void step_history(void)
{
	int i = (int)rnd(VIEWS);
	struct txn *t = w.v[i].t;
	int r;

	if (chance(35)) {
		one_operation(NULL);
		w.changes++; /* one that failed counts, for it may have come far */
	} else if (chance(8)) {
		size_t f = (size_t)rnd(OPENS);
		char byte = (char)rnd(256);

		note("plain write to an open file");
		if (w.open[f] && txn_write(w.open[f], &byte, 1, rnd(9000), false) == 1)
			w.changes++;
	} else if (!t) {
		w.v[i].level = (enum txn_isolation)rnd(3);
		note("%d begin level %d", i, w.v[i].level);
		t = w.v[i].t = begin(&w.k, w.v[i].level);
		w.v[i].since = w.changes;
		if (w.v[i].level == TXN_SNAPSHOT)
			w.v[i].shows = dump(&w.k, t);
		if (w.v[i].level == TXN_SNAPSHOT && !w.k.threads) { /* else an install may give other times meanwhile */
			char *all = dump(&w.k, NULL);

			if (strcmp(all, w.v[i].shows))
				differ(i, all, w.v[i].shows);
			free(all);
		}
	} else if (chance(14)) {
		end_view(i, chance(70));
	} else if (chance(3)) {
		note("checkpoint");
		assert_int_equal(txn_checkpoint(w.k.eng), 0);
	} else {
		r = one_operation(t);
		if (r == -ECANCELED) {
			assert_int_equal(w.v[i].level, TXN_SNAPSHOT);
			assert_non_null(txn_conflict(t));
			w.doomed++;
		}
		if (w.v[i].level == TXN_SNAPSHOT) {
			char *now = dump(&w.k, t);

			if (r && strcmp(now, w.v[i].shows))
				differ(i, w.v[i].shows, now);
			free(w.v[i].shows);
			w.v[i].shows = now;
		}
	}
	check_snapshots();
	w.step++;
}

static void history(bool threads, uint64_t steps)
{
	const char *seed = getenv("TXNFS_SEED"), *n = getenv("TXNFS_STEPS");
	uint64_t s = seed ? strtoull(seed, NULL, 0) : base_random_u64();

	print_message("TXNFS_SEED=%" PRIu64 "\n", s);
	rng = s * 0x9e3779b97f4a7c15u | 1;
	memset(&w, 0, sizeof(w));
	kit_new(&w.k);
	kit_close(&w.k);
	w.k.threads = threads;
	w.k.checkpoint_bytes = 1u << 20;
	kit_open(&w.k);
	steps = n ? strtoull(n, NULL, 0) : steps;
	while (w.step < steps)
		step_history();
	for (int i = 0; i < VIEWS; i++)
		if (w.v[i].t)
			end_view(i, true);
	for (int i = 0; i < OPENS; i++)
		if (w.open[i])
			txn_close(w.open[i]);
	assert_int_equal(txn_drain(w.k.eng), 0);
	nothing_kept(&w.k);
	print_message("%" PRIu64 " committed, %" PRIu64 " cancelled, %" PRIu64 " late updates\n", w.committed, w.cancelled,
	              w.doomed);
	assert_true(steps < 1000 || (w.committed && w.cancelled && w.doomed));
	kit_free(&w.k);
}

static void history_without_threads(void **state UNUSED)
{
	history(false, 1200);
}

static void history_with_threads(void **state UNUSED)
{
	history(true, 2000);
}

/* ---- with threads: lists that transactions append to ---- */

#define LISTS 9
#define APPENDERS 4
#define APPENDS_MAX 4000

struct list_read {
	int list;
	size_t len; /* elements of others that were there */
};

struct appender_txn {
	bool committed;
	int nreads, nwrites;
	struct list_read reads[4];
	int writes[2];
};

static struct {
	struct kit k;
	struct txn_obj *list[LISTS];
	atomic_uint next;
	struct appender_txn txn[APPENDS_MAX + 1]; /* by id; 0 is none */
	unsigned limit;
	atomic_bool stop;
	atomic_uint conflicts, busy, snapshots;
} g;

static size_t read_list(struct txn *t, int i, uint32_t *ids)
{
	struct txn_file *f;
	ssize_t n;

	assert_int_equal(txn_open(g.k.eng, t, g.list[i], O_RDONLY, &f), 0);
	n = txn_read(f, ids, APPENDS_MAX * sizeof(*ids), 0);
	assert_true(n >= 0 && n % (ssize_t)sizeof(*ids) == 0);
	txn_close(f);
	return (size_t)n / sizeof(*ids);
}

static int append_list(struct txn *t, int i, uint32_t id)
{
	struct txn_file *f;
	uint64_t off;
	ssize_t n;

	assert_int_equal(txn_open(g.k.eng, t, g.list[i], O_RDWR, &f), 0);
	n = txn_append(f, &id, sizeof(id), false, &off);
	txn_close(f);
	return n < 0 ? (int)n : 0;
}

static uint32_t quick_random(uint32_t *state, uint32_t n)
{
	*state = *state * 1664525u + 1013904223u;
	return (*state >> 8) % n;
}

/* Some lists are read, others (or the same) appended to; the writes of one are either two or one. */
static void append_once(uint32_t id, uint32_t *state, uint32_t *ids)
{
	struct appender_txn *a = &g.txn[id];
	struct txn *t = begin(&g.k, TXN_SERIALIZABLE);
	int r = 0;

	for (int i = (int)quick_random(state, 3); i >= 0; i--) {
		int list = (int)quick_random(state, LISTS);

		a->reads[a->nreads++] = (struct list_read){list, read_list(t, list, ids)};
	}
	for (int i = (int)quick_random(state, 3); i > 0 && !r; i--) {
		int list = (int)quick_random(state, LISTS);

		if (a->nwrites && a->writes[0] == list)
			continue;
		r = append_list(t, list, id);
		a->writes[a->nwrites++] = list;
	}
	if (!r)
		r = txn_commit(t);
	a->committed = !r;
	if (r == -ECANCELED)
		atomic_fetch_add(&g.conflicts, 1);
	else if (r) {
		assert_true(r == -EBUSY || r == -EDEADLK);
		atomic_fetch_add(&g.busy, 1);
		txn_rollback(t);
	}
	txn_put(t);
}

static void *appender(void *arg)
{
	uint32_t state = (uint32_t)(uintptr_t)arg * 7919, id, *ids = malloc(APPENDS_MAX * sizeof(*ids));

	while ((id = atomic_fetch_add(&g.next, 1)) < g.limit) {
		if (quick_random(&state, 8)) {
			append_once(id, &state, ids);
		} else { /* a plain program */
			g.txn[id].writes[0] = (int)quick_random(&state, LISTS);
			g.txn[id].nwrites = 1;
			g.txn[id].committed = !append_list(NULL, g.txn[id].writes[0], id);
		}
	}
	free(ids);
	return NULL;
}

/* A snapshot sees the same at any time, and of a transaction all or nothing. */
static void *looker(void *arg UNUSED)
{
	uint32_t *ids[2][LISTS];
	size_t n[2][LISTS];

	for (int i = 0; i < 2 * LISTS; i++)
		ids[i / LISTS][i % LISTS] = malloc(APPENDS_MAX * sizeof(uint32_t));
	while (!atomic_load(&g.stop)) {
		struct txn *t = begin(&g.k, TXN_SNAPSHOT);
		uint8_t *seen = calloc(1, APPENDS_MAX + 1);

		for (int round = 0; round < 2; round++)
			for (int i = 0; i < LISTS; i++)
				n[round][i] = read_list(t, round ? LISTS - 1 - i : i, ids[round][round ? LISTS - 1 - i : i]);
		for (int i = 0; i < LISTS; i++) {
			assert_int_equal(n[0][i], n[1][LISTS - 1 - i]);
			assert_memory_equal(ids[0][i], ids[1][i], n[0][i] * sizeof(uint32_t));
			for (size_t j = 0; j < n[0][i]; j++)
				seen[ids[0][i][j]]++;
		}
		for (uint32_t id = 1; id < APPENDS_MAX; id++)
			if (seen[id])
				assert_int_equal(seen[id], g.txn[id].nwrites);
		free(seen);
		atomic_fetch_add(&g.snapshots, 1);
		assert_int_equal(txn_commit(t), 0);
		txn_put(t);
	}
	for (int i = 0; i < 2 * LISTS; i++)
		free(ids[i / LISTS][i % LISTS]);
	return NULL;
}

/* One color for all that has been left, to find circles. */
static uint8_t color[APPENDS_MAX + 1];
static uint32_t *final[LISTS];
static size_t finals[LISTS];

static void visit(uint32_t id);

static void depends(uint32_t id, uint32_t on)
{
	if (id == on)
		return;
	if (color[on] == 1)
		fail_msg("transactions %u and %u are on a circle of dependencies", id, on);
	if (!color[on])
		visit(on);
}

/* Whatever must come after it in a serial order. */
static void visit(uint32_t id)
{
	struct appender_txn *a = &g.txn[id];

	color[id] = 1;
	for (int i = 0; i < a->nreads; i++) /* rw: who changed what it has read */
		if (a->reads[i].len < finals[a->reads[i].list]) {
			uint32_t next = final[a->reads[i].list][a->reads[i].len];

			/* Its own comes behind what it read only if nothing else came between. */
			depends(id, next);
		}
	for (int i = 0; i < a->nwrites; i++) {
		int list = a->writes[i];
		size_t at = 0;

		while (final[list][at] != id)
			at++;
		if (at + 1 < finals[list]) /* ww */
			depends(id, final[list][at + 1]);
		for (uint32_t r = 1; r < g.limit; r++) /* wr: who has read it */
			for (int k = 0; k < g.txn[r].nreads && g.txn[r].committed; k++)
				if (g.txn[r].reads[k].list == list && g.txn[r].reads[k].len == at + 1)
					depends(id, r);
	}
	color[id] = 2;
}

static void no_circles(void **state UNUSED)
{
	const char *steps = getenv("TXNFS_STEPS");
	pthread_t thread[APPENDERS], look;
	unsigned committed = 0;

	memset(&g, 0, sizeof(g));
	memset(color, 0, sizeof(color));
	g.limit = steps ? (unsigned)base_min_u64(strtoull(steps, NULL, 0), APPENDS_MAX) : 800;
	atomic_store(&g.next, 1);
	kit_new(&g.k);
	kit_close(&g.k);
	g.k.threads = true;
	kit_open(&g.k);
	for (int i = 0; i < LISTS; i++) {
		char name[8];

		snprintf(name, sizeof(name), "%d", i);
		kit_put(&g.k, NULL, name, "");
		assert_int_equal(kit_try_walk(&g.k, NULL, name, &g.list[i]), 0);
	}
	for (uintptr_t i = 0; i < APPENDERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, appender, (void *)(i + 1)), 0);
	assert_int_equal(pthread_create(&look, NULL, looker, NULL), 0);
	for (int i = 0; i < APPENDERS; i++)
		pthread_join(thread[i], NULL);
	atomic_store(&g.stop, true);
	pthread_join(look, NULL);
	for (int i = 0; i < LISTS; i++) {
		final[i] = malloc(APPENDS_MAX * sizeof(uint32_t));
		finals[i] = read_list(NULL, i, final[i]);
		for (size_t k = 0; k < finals[i]; k++)
			assert_true(g.txn[final[i][k]].committed);
	}
	for (uint32_t id = 1; id < g.limit; id++) {
		committed += g.txn[id].committed;
		if (g.txn[id].committed && !color[id])
			visit(id);
	}
	print_message("%u committed, %u cancelled, %u busy, %u snapshots\n", committed, atomic_load(&g.conflicts),
	              atomic_load(&g.busy), atomic_load(&g.snapshots));
	for (int i = 0; i < LISTS; i++) {
		free(final[i]);
		txn_obj_put(g.list[i]);
	}
	assert_int_equal(txn_drain(g.k.eng), 0);
	nothing_kept(&g.k);
	kit_free(&g.k);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_read_that_does_not_hold),
		cmocka_unit_test(own_changes_are_no_conflict),
		cmocka_unit_test(write_skew),
		cmocka_unit_test(prepared_ones),
		cmocka_unit_test(plain_work_goes_on),
		cmocka_unit_test(levels_are_chosen_first),
		cmocka_unit_test(a_snapshot_stays),
		cmocka_unit_test(the_first_updater_wins),
		cmocka_unit_test(directories_of_a_snapshot),
		cmocka_unit_test(files_of_a_snapshot),
		cmocka_unit_test(young_snapshots_go),
		cmocka_unit_test(without_tmpfile),
		cmocka_unit_test(a_snapshot_is_lost),
		cmocka_unit_test(a_crash_ends_snapshots),
		cmocka_unit_test(a_commit_on_its_way),
		cmocka_unit_test(many_removed_files),
		cmocka_unit_test(history_without_threads),
		cmocka_unit_test(history_with_threads),
		cmocka_unit_test(no_circles),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("engine_isolation", tests, NULL, NULL);
}
