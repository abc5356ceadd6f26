/* test_engine_prepare.c - prepared transactions: their promises, over crashes and orderly ends, and what they refuse. */
#include "tests/engine_kit.h"
#include "tests/sim.h"
#include "txn/private.h"

#include <sys/xattr.h>

static struct txn *prepared(struct kit *k, const char *gid)
{
	struct txn *t = NULL;

	assert_int_equal(txn_find_prepared(k->eng, gid, &t), 0);
	assert_int_equal(txn_state(t), TXN_PREPARED);
	return t;
}

static void commit_prepared(struct kit *k, const char *gid)
{
	kit_commit(prepared(k, gid));
	assert_int_equal(txn_drain(k->eng), 0);
}

static void rollback_prepared(struct kit *k, const char *gid)
{
	kit_rollback(prepared(k, gid));
}

static int count_one(void *arg, const struct txn_prepared *p UNUSED)
{
	++*(unsigned *)arg;
	return 0;
}

static unsigned count(struct kit *k)
{
	unsigned n = 0;

	assert_int_equal(txn_each_prepared(k->eng, count_one, &n), 0);
	return n;
}

static unsigned staged(struct kit *k)
{
	struct txn_check res;

	assert_int_equal(txn_check(k->store, os_real(), k->wal, &res, NULL, NULL), 0);
	return (unsigned)(res.staged + res.trashed);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All that a workspace says, as text; without what was undone, of which recovery knows nothing. */
static char *workspace(struct kit *k, const char *gid)
{
	struct txn *t = prepared(k, gid);
	struct txn_wsobj *w, *tmp;
	struct base_buf all = {0};
	struct txn_name *e;
	char *line[100];
	size_t n = 0;

	HASH_ITER (hh, t->ws.objs, w, tmp) {
		struct base_buf b = {0};
		struct txn_wsxattr *x, *xt;

		if (w->created && !w->standing && !w->links)
			continue;
		base_buf_printf(&b, "%llu %d%d%d%d%d links %d subdirs %d at %llu %s dir time %ld.%ld", (unsigned long long)w->oid,
		                w->owned, w->created, w->staged, w->moved, w->declared, w->links, w->subdirs,
		                w->parent ? (unsigned long long)w->parent->oid : 0, w->name ? w->name : "",
		                (long)w->dir_time.tv_sec, w->dir_time.tv_nsec);
		if (w->owned)
			base_buf_printf(&b, " changed %x standing %zu mode %o nlink %u uid %u gid %u size %ld mtime %ld.%ld set %ld.%ld",
			                w->changed, w->standing, w->attr.st_mode, (unsigned)w->attr.st_nlink, w->attr.st_uid,
			                w->attr.st_gid, (long)w->attr.st_size, (long)w->attr.st_mtim.tv_sec,
			                w->attr.st_mtim.tv_nsec, (long)w->mtime_set.tv_sec, w->mtime_set.tv_nsec);
		HASH_ITER (hh, w->xattrs, x, xt)
			base_buf_printf(&b, " %s %u", x->name, x->len);
		line[n++] = (char *)b.p;
	}
	TAILQ_FOREACH (e, &t->ws.names, link) {
		struct base_buf b = {0};

		if (e->before == e->after)
			continue;
		base_buf_printf(&b, "name %llu %s %llu -> %llu", (unsigned long long)e->dir->oid, e->name,
		                e->before ? (unsigned long long)e->before->oid : 0,
		                e->after ? (unsigned long long)e->after->oid : 0);
		line[n++] = (char *)b.p;
	}
	qsort(line, n, sizeof(line[0]), by_text);
	for (size_t i = 0; i < n; i++) {
		base_buf_printf(&all, "%s\n", line[i]);
		free(line[i]);
	}
	base_buf_printf(&all, "%zu records, need %llu\n", t->recs.n, (unsigned long long)t->need);
	txn_put(t);
	return (char *)all.p;
}

/* The setting: a and b, d with d/x in it; t has changed a, made n and d/m, moved b to d/b, removed d/x, made a directory e. */
#define STAGED 7 /* n, d/m, e, e/f, o, d/later, undone */
static struct txn *setting(struct kit *k)
{
	struct stat mode = {.st_mode = 0600}, when = {.st_mtim = {1000000000, 5}};
	struct txn_obj *obj = NULL;
	struct txn *t;

	kit_create(k, NULL, "p", S_IFDIR | 0755);
	kit_put(k, NULL, "a", "old a");
	kit_put(k, NULL, "b", "the b");
	kit_create(k, NULL, "d", S_IFDIR | 0755);
	kit_put(k, NULL, "d/x", "x");
	t = kit_begin(k);
	kit_write(k, t, "a", 0, "new a, longer");
	kit_put(k, t, "n", "new");
	kit_put(k, t, "d/m", "made");
	assert_int_equal(kit_try_rename(k, t, "b", "d/b", 0), 0);
	assert_int_equal(kit_try_setattr(k, t, "d/b", &mode, STORE_SET_MODE), 0);
	assert_int_equal(kit_try_unlink(k, t, "d/x", false), 0);
	kit_create(k, t, "e", S_IFDIR | 0700);
	kit_put(k, t, "e/f", "inside");
	assert_int_equal(kit_try_link(k, t, "n", "e/n"), 0);
	kit_put(k, t, "o", "came and went");
	assert_int_equal(kit_try_unlink(k, t, "o", false), 0);
	assert_int_equal(kit_try_rename(k, t, "p", "d/p", 0), 0);
	assert_int_equal(kit_try_walk(k, t, "a", &obj), 0);
	assert_int_equal(txn_setxattr(k->eng, t, obj, "user.x", "value", 5, 0), 0);
	txn_obj_put(obj);
	kit_truncate(k, t, "d/m", 2);
	assert_int_equal(kit_try_setattr(k, t, "d", &when, STORE_SET_MTIME), 0);
	kit_put(k, t, "d/later", "");
	assert_int_equal(txn_savepoint(t, "s"), 0);
	kit_put(k, t, "undone", "x");
	kit_truncate(k, t, "a", 1);
	assert_int_equal(txn_rollback_to(t, "s"), 0);
	return t;
}

static void expect_before(struct kit *k)
{
	kit_expect(k, NULL, "a", "old a");
	kit_expect(k, NULL, "b", "the b");
	kit_expect(k, NULL, "d/x", "x");
	assert_false(kit_exists(k, NULL, "n"));
	assert_false(kit_exists(k, NULL, "d/m"));
	assert_false(kit_exists(k, NULL, "e"));
}

static void expect_after(struct kit *k)
{
	kit_expect(k, NULL, "a", "new a, longer");
	assert_false(kit_exists(k, NULL, "b"));
	kit_expect(k, NULL, "d/b", "the b");
	assert_int_equal(kit_stat(k, NULL, "d/b").st_mode & 07777, 0600);
	assert_false(kit_exists(k, NULL, "d/x"));
	kit_expect(k, NULL, "n", "new");
	kit_expect(k, NULL, "d/m", "ma");
	kit_expect(k, NULL, "e/f", "inside");
	assert_int_equal(kit_stat(k, NULL, "e").st_mode & 07777, 0700);
	assert_int_equal(kit_stat(k, NULL, "n").st_nlink, 2);
	assert_int_equal(kit_stat(k, NULL, "e/f").st_nlink, 1);
	assert_int_equal(kit_stat(k, NULL, "e/n").st_ino, kit_stat(k, NULL, "n").st_ino);
}

static void expect_locks(struct kit *k)
{
	struct stat mode = {.st_mode = 0640};
	struct txn *other = kit_begin(k);

	for (int i = 0; i < 2; i++) {
		struct txn *v = i ? other : NULL;

		assert_int_equal(kit_try_write(k, v, "a", 0, "z", 1), -EBUSY);
		assert_int_equal(kit_try_setattr(k, v, "b", &mode, STORE_SET_MODE), -EBUSY);
		assert_int_equal(kit_try_create(k, v, "n", S_IFREG | 0600), -EBUSY);
		assert_int_equal(kit_try_create(k, v, "d/m", S_IFREG | 0600), -EBUSY);
		assert_int_equal(kit_try_create(k, v, "e", S_IFREG | 0600), -EBUSY);
		assert_int_equal(kit_try_unlink(k, v, "d/x", false), -EBUSY);
		assert_int_equal(kit_try_unlink(k, v, "d", true), -EBUSY);
		assert_int_equal(kit_try_rename(k, v, "b", "c", 0), -EBUSY);
		kit_put(k, v, "d/free", "free"); /* other names of the directory are free */
		assert_int_equal(kit_try_unlink(k, v, "d/free", false), 0);
	}
	kit_rollback(other);
}

static void test_promise(void **arg)
{
	struct txn_prepared info;
	struct txn_info ti;
	struct txn *t;
	struct kit k;

	(void)arg;
	kit_new(&k);
	t = setting(&k);
	assert_int_equal(txn_prepared_info(t, &info), -EINVAL);
	assert_int_equal(txn_prepare(t, "g 1", 1234), 0);
	assert_int_equal(txn_state(t), TXN_PREPARED);
	assert_true(txn_is_open(t));
	assert_int_equal(txn_prepared_info(t, &info), 0);
	assert_string_equal(info.gid, "g 1");
	assert_int_equal(info.uid, 1234);
	assert_int_equal(info.id, txn_id(t));
	assert_true(info.changes >= 8);
	txn_info(t, &ti);
	assert_int_equal(ti.state, TXN_PREPARED);
	expect_before(&k);
	expect_locks(&k);
	assert_int_equal(txn_savepoint(t, "s"), -EINVAL);
	assert_int_equal(txn_rollback_to(t, "s"), -EINVAL);
	assert_int_equal(txn_release(t, "s"), -EINVAL);
	assert_int_equal(txn_prepare(t, "g 2", 0), -EINVAL);
	txn_put(t);
	commit_prepared(&k, "g 1");
	assert_int_equal(txn_find_prepared(k.eng, "g 1", &t), -ENOENT);
	expect_after(&k);
	assert_int_equal(staged(&k), 0);
	kit_free(&k);
}

/* Its view is the committed one, and what it has made is not there until it is committed. */
static void test_view(void **arg)
{
	struct txn_file *made, *old;
	struct txn_obj *obj = NULL;
	char buf[32] = "";
	struct stat st;
	struct kit k;
	struct txn *t;

	(void)arg;
	kit_new(&k);
	t = setting(&k);
	assert_int_equal(kit_try_walk(&k, t, "n", &obj), 0);
	assert_int_equal(txn_open(k.eng, t, obj, O_RDWR, &made), 0);
	txn_obj_put(obj);
	assert_int_equal(kit_try_walk(&k, t, "a", &obj), 0);
	assert_int_equal(txn_open(k.eng, t, obj, O_RDWR, &old), 0);
	txn_obj_put(obj);
	assert_int_equal(txn_prepare(t, "g", 0), 0);
	assert_int_equal(txn_read(made, buf, sizeof(buf), 0), -ESTALE);
	assert_int_equal(txn_write(made, "z", 1, 0, false), -ESTALE);
	assert_int_equal(txn_getattr(k.eng, t, txn_file_obj(made), &st), -ESTALE);
	assert_int_equal(txn_read(old, buf, sizeof(buf), 0), 5);
	assert_memory_equal(buf, "old a", 5);
	assert_int_equal(txn_write(old, "z", 1, 0, false), -EBUSY);
	kit_expect(&k, t, "a", "old a");
	assert_false(kit_exists(&k, t, "n"));
	kit_put(&k, t, "by the way", "plain"); /* as after a commit */
	kit_expect(&k, NULL, "by the way", "plain");
	kit_commit(t);
	assert_int_equal(txn_read(made, buf, sizeof(buf), 0), 3);
	assert_memory_equal(buf, "new", 3);
	assert_int_equal(txn_write(made, "N", 1, 0, false), 1);
	kit_expect(&k, NULL, "n", "New");
	txn_close(made);
	txn_close(old);

	/* Rolled back to a savepoint: that stays dead. */
	t = kit_begin(&k);
	assert_int_equal(txn_savepoint(t, "s"), 0);
	kit_put(&k, t, "gone", "x");
	assert_int_equal(kit_try_walk(&k, t, "gone", &obj), 0);
	assert_int_equal(txn_open(k.eng, t, obj, O_RDWR, &made), 0);
	txn_obj_put(obj);
	assert_int_equal(txn_rollback_to(t, "s"), 0);
	kit_put(&k, t, "stays", "y");
	assert_int_equal(txn_prepare(t, "g", 0), 0);
	kit_commit(t);
	assert_int_equal(txn_read(made, buf, sizeof(buf), 0), -ESTALE);
	txn_close(made);
	kit_expect(&k, NULL, "stays", "y");
	kit_free(&k);
}

static void test_refusals(void **arg)
{
	char longest[TXN_GID_BYTES + 2];
	struct txn *t, *u;
	struct kit k;

	(void)arg;
	memset(longest, 'g', sizeof(longest));
	longest[TXN_GID_BYTES + 1] = '\0';
	kit_new(&k);
	t = kit_begin(&k);
	kit_put(&k, t, "t", "t");
	assert_int_equal(txn_prepare(t, "", 0), -EINVAL);
	assert_int_equal(txn_prepare(t, longest, 0), -ENAMETOOLONG);
	assert_int_equal(txn_state(t), TXN_ACTIVE); /* nothing happened */
	longest[TXN_GID_BYTES] = '\0';
	assert_int_equal(txn_prepare(t, longest, 0), 0);
	txn_put(t);
	u = kit_begin(&k);
	kit_put(&k, u, "u", "u");
	assert_int_equal(txn_prepare(u, longest, 0), -EEXIST);
	assert_int_equal(txn_state(u), TXN_ABORTED); /* one that fails is rolled back */
	assert_int_equal(txn_commit(u), -EINVAL);
	txn_put(u);
	assert_false(kit_exists(&k, NULL, "u"));
	kit_put(&k, NULL, "u", "plain");
	assert_int_equal(count(&k), 1);
	rollback_prepared(&k, longest);
	/* The name is free again, also for one that changes nothing. */
	t = kit_begin(&k);
	assert_int_equal(txn_prepare(t, longest, 0), 0);
	txn_put(t);
	kit_reopen(&k);
	assert_int_equal(k.rec.in_doubt, 1);
	commit_prepared(&k, longest);
	kit_reopen(&k);
	assert_int_equal(k.rec.in_doubt, 0);
	assert_int_equal(count(&k), 0);
	kit_free(&k);
}

struct offline {
	unsigned n;
	uint64_t changes;
	char gid[32];
	uid_t uid;
};

static int keep(void *arg, const struct txn_prepared *p)
{
	struct offline *o = arg;

	o->n++;
	o->changes = p->changes;
	o->uid = p->uid;
	snprintf(o->gid, sizeof(o->gid), "%s", p->gid);
	return 0;
}

/* Crashes and orderly ends, any number of them, and then the one or the other outcome. */
static void over_ends(bool orderly, bool commit)
{
	struct offline before = {0}, after;
	char *ws_before, *ws_after;
	struct txn_check res;
	char err[256];
	struct txn *t;
	struct kit k;

	kit_new(&k);
	t = setting(&k);
	assert_int_equal(txn_prepare(t, "g", 77), 0);
	assert_int_equal(txn_each_prepared(k.eng, keep, &before), 0);
	txn_put(t);
	ws_before = workspace(&k, "g");
	t = kit_begin(&k);
	kit_put(&k, t, "lost", "lost");
	txn_put(t);
	for (int i = 0; i < 4; i++) {
		if (orderly)
			kit_close(&k);
		else
			kit_crash(&k);
		kit_open(&k);
		assert_int_equal(k.rec.clean, orderly);
		assert_int_equal(k.rec.in_doubt, 1);
		assert_int_equal(k.rec.lost, i || orderly ? 0 : 1);
		assert_int_equal(k.rec.committed, i || orderly ? 0 : k.rec.committed);
		after = (struct offline){0};
		assert_int_equal(txn_each_prepared(k.eng, keep, &after), 0);
		assert_memory_equal(&before, &after, sizeof(after));
		after = (struct offline){0};
		assert_int_equal(txn_log_prepared(os_real(), k.wal, keep, &after, err, sizeof(err)), 0);
		assert_memory_equal(&before, &after, sizeof(after));
		ws_after = workspace(&k, "g");
		if (strcmp(ws_before, ws_after))
			fprintf(stderr, "the workspace was\n%s---- and is\n%s", ws_before, ws_after);
		assert_string_equal(ws_before, ws_after);
		free(ws_after);
		expect_before(&k);
		expect_locks(&k);
		kit_put(&k, NULL, "between", "between"); /* life goes on */
		assert_int_equal(txn_checkpoint(k.eng), 0);
		assert_int_equal(txn_check(k.store, os_real(), k.wal, &res, NULL, NULL), 0);
		assert_int_equal(res.in_doubt, 1);
		assert_int_equal(res.live_transactions, 0);
		assert_int_equal(res.staged, STAGED);
	}
	free(ws_before);
	if (commit)
		commit_prepared(&k, "g");
	else
		rollback_prepared(&k, "g");
	for (int i = 0; i < 2; i++) {
		if (commit)
			expect_after(&k);
		else
			expect_before(&k);
		assert_int_equal(count(&k), 0);
		assert_int_equal(staged(&k), 0);
		kit_reopen(&k);
		assert_int_equal(k.rec.in_doubt, 0);
	}
	kit_expect(&k, NULL, "between", "between");
	assert_false(kit_exists(&k, NULL, "lost"));
	kit_free(&k);
}

static void test_crash_commit(void **arg UNUSED)
{
	over_ends(false, true);
}

static void test_crash_rollback(void **arg UNUSED)
{
	over_ends(false, false);
}

static void test_close_commit(void **arg UNUSED)
{
	over_ends(true, true);
}

static void test_close_rollback(void **arg UNUSED)
{
	over_ends(true, false);
}

static int unlink_staged(void *arg, const struct store_dirent *de)
{
	struct store *st = arg;

	assert_int_equal(st->ops->unlink(st->ops->stage(st), de->name, S_ISDIR(de->kind)), 0);
	return 0;
}

static int add_ino(void *arg, const struct store_dirent *de)
{
	*(uint64_t *)arg += de->ino;
	return 0;
}

static uint64_t staged_inos(struct kit *k)
{
	uint64_t sum = 0;

	assert_int_equal(k->store->ops->readdir(k->store->ops->stage(k->store), add_ino, &sum), 0);
	return sum;
}

static void write_much(struct kit *k, int i)
{
	char *big = calloc(1, 100000);

	for (int n = 0; n < 4; n++) {
		struct txn *t = kit_begin(k);
		char name[20];

		snprintf(name, sizeof(name), "big%d", n);
		if (!kit_exists(k, t, name))
			kit_create(k, t, name, S_IFREG | 0600);
		memset(big, 'a' + i, 100000);
		assert_int_equal(kit_try_write(k, t, name, 0, big, 100000), 100000);
		kit_commit(t);
	}
	assert_int_equal(txn_drain(k->eng), 0);
	free(big);
}

/* Its log is carried forward, from life to life; what it made is lost with the power, and made anew, under the same number. */
static void carried(bool power_cuts)
{
	struct txn_stats st;
	uint64_t inos;
	struct kit k;
	struct txn *t;

	kit_new(&k);
	kit_crash(&k);
	k.checkpoint_bytes = 100000;
	kit_open(&k);
	t = setting(&k);
	assert_int_equal(txn_prepare(t, "g", 0), 0);
	txn_put(t);
	for (int i = 0; i < 5; i++) {
		if (power_cuts) {
			assert_int_equal(k.store->ops->readdir(k.store->ops->stage(k.store), unlink_staged, k.store), 0);
			kit_reopen(&k);
			assert_int_equal(k.rec.in_doubt, 1);
			assert_int_equal(staged(&k), STAGED);
		}
		write_much(&k, i);
		assert_int_equal(txn_checkpoint(k.eng), 0);
		txn_engine_stats(k.eng, &st);
		assert_true(st.log_bytes < 1500000);
		assert_int_equal(st.prepared, 1);
		assert_int_equal(staged(&k), STAGED);
		inos = staged_inos(&k);
		kit_reopen(&k);
		assert_int_equal(k.rec.in_doubt, 1);
		assert_int_equal(staged_inos(&k), inos); /* they are found, not made anew */
		expect_before(&k);
		expect_locks(&k);
	}
	/* Committed, and the crash comes before the install is noted: the log must name the inodes that are home now. */
	t = prepared(&k, "g");
	assert_int_equal(txn_commit(t), 0);
	txn_put(t);
	expect_after(&k);
	kit_write(&k, NULL, "n", 3, "er"); /* it is logged (I5) */
	kit_reopen(&k);
	kit_expect(&k, NULL, "n", "newer");
	kit_write(&k, NULL, "n", 3, "  ");
	kit_truncate(&k, NULL, "n", 3);
	expect_after(&k);
	assert_int_equal(staged(&k), 0);
	kit_free(&k);
}

static void test_carried(void **arg UNUSED)
{
	carried(false);
}

static void test_carried_power(void **arg UNUSED)
{
	carried(true);
}

/* ---- on a simulated disk ---- */

static struct txn_engine *sim_engine(struct sim *disk)
{
	struct txn_config cfg = {.store = sim_store(disk), .os = sim_os(disk), .wal_dirfd = sim_wal_dir(disk),
	                         .segment_size = 256u << 10, .no_threads = true};
	struct txn_engine *eng;
	char err[512];

	if (txn_engine_open(&cfg, &eng, NULL, err, sizeof(err)))
		fail_msg("%s", err);
	return eng;
}

/*
 * The disk runs full while it is in doubt, before or after a crash, but for what a ballast holds: its commit finds the space
 * that it was promised, and others do not get it.
 */
static void space(bool crash)
{
	static char big[50000];
	struct sim *disk = sim_new();
	struct kit k = {0};
	struct statvfs sv;
	struct txn *t, *u;
	ssize_t r;

	memset(big, 'b', sizeof(big));
	sim_set_space(disk, 8u << 20);
	k.eng = sim_engine(disk);
	t = kit_begin(&k);
	kit_create(&k, t, "big", S_IFREG | 0600);
	for (uint64_t i = 0; i < 6; i++)
		assert_int_equal(kit_try_write(&k, t, "big", i * sizeof(big), big, sizeof(big)), sizeof(big));
	assert_int_equal(txn_prepare(t, "g", 0), 0);
	txn_put(t);
	if (crash) {
		struct sim *copy = sim_kill(disk);

		txn_engine_abandon(k.eng);
		sim_free(disk);
		disk = copy;
		sim_set_space(disk, 8u << 20);
		k.eng = sim_engine(disk);
	}
	assert_int_equal(sim_store(disk)->ops->statfs(sim_store(disk), &sv), 0);
	sim_set_space(disk, (8u << 20) - sv.f_bavail * 4096 + 350000);
	u = kit_begin(&k);
	r = kit_try_create(&k, u, "other", S_IFREG | 0600);
	assert_int_equal(r ? r : kit_try_write(&k, u, "other", 0, big, sizeof(big)), -ENOSPC);
	kit_rollback(u);
	t = prepared(&k, "g");
	assert_int_equal(txn_commit(t), 0);
	assert_int_equal(txn_state(t), TXN_ENDED);
	txn_put(t);
	assert_null(txn_engine_error(k.eng));
	assert_int_equal(kit_stat(&k, NULL, "big").st_size, 6 * sizeof(big));
	assert_int_equal(txn_engine_close(k.eng), 0);
	sim_free(disk);
}

static void test_space(void **arg UNUSED)
{
	space(false);
}

static void test_space_crash(void **arg UNUSED)
{
	space(true);
}

/* A copy's log speaks of the original's files. */
static void test_copy(void **arg UNUSED)
{
	char command[600], err[512] = "";
	struct kit k, copy;
	struct txn *t;

	kit_new(&k);
	t = setting(&k);
	assert_int_equal(txn_prepare(t, "g", 0), 0);
	txn_put(t);
	kit_reopen(&k); /* what was committed is home */
	kit_crash(&k);
	copy = k;
	snprintf(copy.dir, sizeof(copy.dir), "%.200s.copy", k.dir);
	snprintf(command, sizeof(command), "cp -a %s %s", k.dir, copy.dir);
	assert_int_equal(system(command), 0);
	assert_int_equal(kit_try_open(&copy, err, sizeof(err)), -EXDEV);
	assert_non_null(strstr(err, "in doubt"));
	nftw(copy.dir, kit_rm_one, 16, FTW_DEPTH | FTW_PHYS);
	kit_open(&k);
	rollback_prepared(&k, "g");
	kit_free(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_promise), cmocka_unit_test(test_view), cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_crash_commit), cmocka_unit_test(test_crash_rollback),
		cmocka_unit_test(test_close_commit), cmocka_unit_test(test_close_rollback),
		cmocka_unit_test(test_carried), cmocka_unit_test(test_carried_power),
		cmocka_unit_test(test_space), cmocka_unit_test(test_space_crash), cmocka_unit_test(test_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
