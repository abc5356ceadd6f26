/*
 * test_engine_hard.c - the engine where things go wrong: power cuts that keep the log and lose files or keep files and
 * lose the log's tail, filesystems that refuse what a transaction promised, objects that are gone.
 */
#include "tests/crash_kit.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/xattr.h>

/* ---- what a power cut does ---- */

static void at(struct kit *k, char out[512], const char *sub)
{
	snprintf(out, 512, "%s/%s", k->dir, sub);
}

/* The file (or empty directory) never came to the disk: it is gone, under all of its names. */
static void never_written(struct kit *k, const char *path)
{
	char full[512];

	at(k, full, path);
	assert_int_equal(remove(full), 0);
}

static size_t kept_in_trash(struct kit *k)
{
	char path[512];
	struct dirent *e;
	size_t n = 0;
	DIR *d;

	at(k, path, STORE_STATE_DIR "/trash");
	d = opendir(path);
	assert_non_null(d);
	while ((e = readdir(d)))
		n += !strncmp(e->d_name, "lost-", 5);
	closedir(d);
	return n;
}

/*
 * "Write a temporary file, rename it over the old one", outside of any transaction, where the old one came from a
 * transaction a moment ago. Any later commit makes the rename's record durable: what it names must be so before.
 */
static void logged_rename_waits_for_the_file_that_it_names(void **state UNUSED)
{
	struct kit k;
	struct txn *t;
	size_t since;
	ino_t ino;

	crash_new(&k);
	crash_open(&k, -1);
	kit_put(&k, NULL, "f", "at first");
	assert_int_equal(txn_checkpoint(k.eng), 0);
	t = kit_begin(&k);
	kit_write(&k, t, "f", 0, "COMMITTED");
	kit_commit(t);
	since = crash.nsynced;
	kit_put(&k, NULL, "f.tmp", "new");
	ino = kit_stat(&k, NULL, "f.tmp").st_ino;
	assert_int_equal(kit_try_rename(&k, NULL, "f.tmp", "f", 0), 0);
	assert_true(crash_was_synced(ino, since));
	kit_expect(&k, NULL, "f", "new");
	kit_close(&k);
	crash_remove(&k);
}

/* Ordinary work in a directory that a transaction has changed does not pay for that with a sync for each name. */
static void logged_unlinks_do_not_sync(void **state UNUSED)
{
	char name[16];
	struct kit k;
	struct txn *t;
	size_t since;

	crash_new(&k);
	crash_open(&k, -1);
	t = kit_begin(&k);
	kit_create(&k, t, "d", S_IFDIR | 0755);
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "d/%d", i);
		kit_put(&k, t, name, "x");
	}
	kit_commit(t);
	since = crash.nsynced;
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "d/%d", i);
		assert_int_equal(kit_try_unlink(&k, NULL, name, false), 0);
	}
	assert_true(crash.nsynced - since <= 2);
	kit_close(&k);
	crash_remove(&k);
}

/* The same when the new file is really lost, whoever is to blame: the old one must not go too. */
static void what_cannot_be_set_is_not_cleared(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	crash_new(&k);
	crash_open(&k, -1);
	kit_put(&k, NULL, "f", "old");
	kit_put(&k, NULL, "f.tmp", "new");
	assert_int_equal(txn_checkpoint(k.eng), 0);
	t = kit_begin(&k);
	assert_int_equal(kit_try_rename(&k, t, "f.tmp", "f", 0), 0);
	crash.cut_off = true;
	(void)txn_commit(t);
	txn_put(t);
	kit_crash(&k);
	never_written(&k, "f.tmp");
	crash_open(&k, -1);
	assert_int_equal(k.rec.committed, 1);
	kit_expect(&k, NULL, "f", "old");
	kit_close(&k);
	crash_remove(&k);
}

/* A file is moved to a directory that is lost: it is kept somewhere. */
static void file_moved_to_a_lost_directory_is_kept(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	crash_new(&k);
	crash_open(&k, -1);
	kit_put(&k, NULL, "f", "precious");
	kit_create(&k, NULL, "d", S_IFDIR | 0755);
	assert_int_equal(txn_checkpoint(k.eng), 0);
	t = kit_begin(&k);
	assert_int_equal(kit_try_rename(&k, t, "f", "d/f", 0), 0);
	crash.cut_off = true;
	(void)txn_commit(t);
	txn_put(t);
	kit_crash(&k);
	never_written(&k, "d");
	crash_open(&k, -1);
	assert_int_equal(k.rec.committed, 1);
	assert_true(kit_exists(&k, NULL, "f") || kept_in_trash(&k) == 1);
	kit_close(&k);
	crash_remove(&k);
}

/* Home got a plain truncation of a logged file, the log did not: redo must not make zeros of what was cut. */
static void truncation_is_not_ahead_of_the_log(void **state UNUSED)
{
	static const char text[] = "0123456789012345678901234567890123456789";
	struct kit k;
	struct txn *t;
	char *got;

	crash_new(&k);
	crash_open(&k, -1);
	kit_put(&k, NULL, "f", text);
	assert_int_equal(txn_checkpoint(k.eng), 0);
	t = kit_begin(&k);
	kit_write(&k, t, "f", 0, "T");
	kit_commit(t);
	kit_truncate(&k, NULL, "f", 0);
	crash_without_log_tail(&k);
	crash_open(&k, -1);
	got = kit_get(&k, NULL, "f");
	if (got[0] && (got[0] != 'T' || strcmp(got + 1, text + 1)))
		fail_msg("neither before nor after the truncation: \"%s\", size %ld", got,
		         (long)kit_stat(&k, NULL, "f").st_size);
	free(got);
	kit_close(&k);
	crash_remove(&k);
}

/* Home got a plain rename over a file from a transaction, the log did not. One of the two files is there. */
static void rename_ahead_of_the_log(void **state UNUSED)
{
	struct kit k;
	struct txn *t;
	char *got;

	crash_new(&k);
	crash_open(&k, -1);
	kit_put(&k, NULL, "g", "two");
	assert_int_equal(txn_checkpoint(k.eng), 0);
	t = kit_begin(&k);
	assert_int_equal(kit_try_rename(&k, t, "g", "f", 0), 0);
	kit_commit(t);
	kit_put(&k, NULL, "f.tmp", "three");
	assert_int_equal(kit_try_rename(&k, NULL, "f.tmp", "f", 0), 0);
	crash_without_log_tail(&k);
	crash_open(&k, -1);
	got = kit_get(&k, NULL, "f");
	assert_true(!strcmp(got, "two") || !strcmp(got, "three"));
	free(got);
	kit_close(&k);
	crash_remove(&k);
}

/* The same with a name only: the file does not end up under both. */
static void renamed_file_has_one_name(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	crash_new(&k);
	crash_open(&k, -1);
	t = kit_begin(&k);
	kit_put(&k, t, "f", "one");
	kit_commit(t);
	assert_int_equal(kit_try_rename(&k, NULL, "f", "g", 0), 0);
	crash_without_log_tail(&k);
	crash_open(&k, -1);
	assert_int_equal(kit_exists(&k, NULL, "f") + kit_exists(&k, NULL, "g"), 1);
	kit_close(&k);
	crash_remove(&k);
}

/* ---- what the filesystem below does not do ---- */

/* A size that the filesystem below cannot have is refused when it is asked for, not after commit. */
static void size_beyond_the_limit(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	kit_new(&k);
	kit_put(&k, NULL, "f", "x");
	t = kit_begin(&k);
	if (kit_try_setattr(&k, t, "f", &(struct stat){.st_size = INT64_MAX - 4096}, STORE_SET_SIZE) == 0)
		assert_int_equal(txn_commit(t), 0);
	else
		assert_int_equal(txn_rollback(t), 0);
	txn_put(t);
	assert_null(txn_engine_error(k.eng));
	kit_free(&k);
}

static void write_beyond_the_limit(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	kit_new(&k);
	kit_put(&k, NULL, "f", "x");
	t = kit_begin(&k);
	if (kit_try_write(&k, t, "f", INT64_MAX - 4096, "y", 1) == 1)
		assert_int_equal(txn_commit(t), 0);
	else
		assert_int_equal(txn_rollback(t), 0);
	txn_put(t);
	assert_null(txn_engine_error(k.eng));
	kit_free(&k);
}

/* ext4 has room for about 4000 bytes of a file's attributes. */
static void xattr_beyond_the_limit(void **state UNUSED)
{
	struct txn_obj *obj = NULL;
	static char big[60000];
	struct kit k;
	struct txn *t;

	kit_new(&k);
	kit_put(&k, NULL, "f", "x");
	assert_int_equal(kit_try_walk(&k, NULL, "f", &obj), 0);
	t = kit_begin(&k);
	memset(big, 'x', sizeof(big));
	if (txn_setxattr(k.eng, t, obj, "user.big", big, sizeof(big), 0) == 0)
		assert_int_equal(txn_commit(t), 0);
	else
		assert_int_equal(txn_rollback(t), 0);
	txn_put(t);
	txn_obj_put(obj);
	assert_null(txn_engine_error(k.eng));
	assert_int_equal(txn_drain(k.eng), 0);
	kit_free(&k);
}

/* What was reserved for a change is there for it, outside of transactions too. */
static void logged_write_uses_its_reservation(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	crash_new(&k);
	crash_open(&k, -1);
	t = kit_begin(&k);
	kit_put(&k, t, "f", "1");
	kit_commit(t);
	crash.full = true;
	kit_write(&k, NULL, "f", 0, "2");
	assert_null(txn_engine_error(k.eng));
	kit_expect(&k, NULL, "f", "2");
	kit_close(&k);
	crash_remove(&k);
}

/* An install that takes long keeps neither a checkpoint nor other commits waiting (I10), and is not forgotten by it. */
static void checkpoint_does_not_wait_for_installs(void **state UNUSED)
{
	struct txn_stats st;
	struct kit k;
	struct txn *t;

	crash_new(&k);
	k.threads = true;
	crash_open(&k, -1);
	atomic_store(&crash.hold, true);
	t = kit_begin(&k);
	kit_put(&k, t, "slow", "contents");
	kit_commit(t);
	alarm(60);
	assert_int_equal(txn_checkpoint(k.eng), 0);
	t = kit_begin(&k);
	kit_create(&k, t, "other", S_IFREG | 0600);
	kit_commit(t);
	assert_int_equal(txn_checkpoint(k.eng), 0);
	alarm(0);
	txn_engine_stats(k.eng, &st);
	assert_int_equal(st.installs_pending, 2);
	crash_die(); /* the install never gets further */
	atomic_store(&crash.hold, false);
	kit_crash(&k);
	crash_open(&k, -1);
	kit_expect(&k, NULL, "slow", "contents");
	assert_true(kit_exists(&k, NULL, "other"));
	kit_close(&k);
	crash_remove(&k);
}

static void *set_dir_time(void *arg)
{
	struct stat st = {.st_mtim.tv_sec = 1000};

	return (void *)(intptr_t)kit_try_setattr(arg, NULL, "d", &st, STORE_SET_MTIME);
}

/* A directory's mtime that is set after a commit is not overwritten by names of the transaction that come home later. */
static void plain_time_waits_for_the_names_of_a_commit(void **state UNUSED)
{
	pthread_t thread;
	struct kit k;
	struct txn *t;
	void *r;

	for (int logged = 0; logged < 2; logged++) {
		crash_new(&k);
		k.threads = true;
		crash_open(&k, -1);
		kit_create(&k, NULL, "d", S_IFDIR | 0755);
		if (logged) {
			t = kit_begin(&k);
			kit_create(&k, t, "d/e", S_IFDIR | 0755);
			kit_commit(t);
			assert_int_equal(txn_drain(k.eng), 0);
		}
		atomic_store(&crash.hold, true);
		t = kit_begin(&k);
		kit_put(&k, t, "d/f", "contents");
		kit_commit(t);
		alarm(60);
		assert_int_equal(pthread_create(&thread, NULL, set_dir_time, &k), 0);
		usleep(50000); /* enough for it to be done, were it not to wait */
		atomic_store(&crash.hold, false);
		assert_int_equal(pthread_join(thread, &r), 0);
		alarm(0);
		assert_int_equal((intptr_t)r, 0);
		assert_int_equal(txn_drain(k.eng), 0);
		assert_int_equal(kit_stat(&k, NULL, "d").st_mtim.tv_sec, 1000);
		kit_crash(&k);
		crash_open(&k, -1);
		assert_int_equal(kit_stat(&k, NULL, "d").st_mtim.tv_sec, 1000);
		kit_expect(&k, NULL, "d/f", "contents");
		kit_close(&k);
		crash_remove(&k);
	}
}

/* ---- files without a name ---- */

static struct txn_obj *nameless(struct kit *k, struct txn_file **f)
{
	struct txn_new nw = {.mode = S_IFREG | 0600, .uid = geteuid(), .gid = getegid()};
	struct txn_look look;

	assert_int_equal(txn_tmpfile(k->eng, NULL, txn_root(k->eng), &nw, &look, f), 0);
	assert_int_equal(txn_write(*f, "nameless", 8, 0, false), 8);
	return look.obj;
}

/* It has no name at home when COMMIT is durable, and its descriptor dies with the process. */
static void committed_link_of_a_nameless_file_survives(void **state UNUSED)
{
	struct txn_obj *obj;
	struct txn_file *f;
	struct kit k;
	struct txn *t;

	crash_new(&k);
	crash_open(&k, -1);
	obj = nameless(&k, &f);
	t = kit_begin(&k);
	assert_int_equal(txn_link(k.eng, t, obj, txn_root(k.eng), "f", NULL), 0);
	crash.cut_off = true;
	(void)txn_commit(t);
	txn_put(t);
	txn_close(f);
	txn_obj_put(obj);
	kit_crash(&k);
	crash_open(&k, -1);
	kit_expect(&k, NULL, "f", "nameless");
	assert_int_equal(kit_stat(&k, NULL, "f").st_nlink, 1);

	obj = nameless(&k, &f);
	t = kit_begin(&k);
	assert_int_equal(txn_link(k.eng, t, obj, txn_root(k.eng), "g", NULL), 0);
	kit_rollback(t);
	txn_close(f);
	txn_obj_put(obj);
	kit_crash(&k);
	crash_open(&k, -1);
	assert_int_equal(k.rec.swept, 0); /* rollback left nothing in the stage */
	kit_close(&k);
	crash_remove(&k);
}

/* The name was a transaction's a moment ago: linking goes through the log, and works as ever. */
static void nameless_file_gets_a_logged_name(void **state UNUSED)
{
	struct txn_obj *obj;
	struct txn_file *f;
	struct kit k;
	struct txn *t;

	crash_new(&k);
	crash_open(&k, -1);
	t = kit_begin(&k);
	kit_put(&k, t, "f", "of the transaction");
	kit_commit(t);
	assert_int_equal(kit_try_unlink(&k, NULL, "f", false), 0);
	obj = nameless(&k, &f);
	assert_int_equal(txn_link(k.eng, NULL, obj, txn_root(k.eng), "f", NULL), 0);
	txn_close(f);
	txn_obj_put(obj);
	kit_expect(&k, NULL, "f", "nameless");
	kit_crash(&k);
	crash_open(&k, -1);
	kit_expect(&k, NULL, "f", "nameless");
	kit_close(&k);
	crash_remove(&k);
}

/* ---- many at once ---- */

struct worker {
	struct kit *k;
	pthread_t thread;
	uint64_t rng;
	bool with_txns;
	atomic_bool *stop;
	unsigned long done;
	int bad; /* first result that nobody may see */
};

static unsigned worker_rnd(struct worker *w, unsigned n)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return (unsigned)((w->rng >> 33) % n);
}

/* Unlike the kit's helpers these may fail anywhere: others change the same names. */
static int worker_op(struct worker *w, struct txn *v)
{
	static const char *const names[] = {"a", "b", "c", "d"};
	struct txn_engine *eng = w->k->eng;
	const char *n1 = names[worker_rnd(w, 4)], *n2 = names[worker_rnd(w, 4)];
	struct txn_new nw = {.mode = worker_rnd(w, 3) ? S_IFREG | 0644 : S_IFDIR | 0755};
	struct txn_obj *root = txn_root(eng), *dir = root, *to = root;
	struct txn_look sub = {0}, sub2 = {0}, look = {0};
	struct txn_file *f;
	struct stat st = {.st_size = worker_rnd(w, 5000)};
	int r = 0;

	nw.uid = geteuid();
	nw.gid = getegid();
	if (worker_rnd(w, 2) && !txn_lookup(eng, v, root, worker_rnd(w, 2) ? "c" : "d", &sub) &&
	    S_ISDIR(txn_obj_kind(sub.obj)))
		dir = sub.obj;
	if (worker_rnd(w, 2) && !txn_lookup(eng, v, root, worker_rnd(w, 2) ? "c" : "d", &sub2) &&
	    S_ISDIR(txn_obj_kind(sub2.obj)))
		to = sub2.obj;
	switch (worker_rnd(w, 8)) {
	case 0:
	case 1:
		r = txn_create(eng, v, dir, n1, &nw, &look);
		break;
	case 2:
		r = worker_rnd(w, 2) ? txn_unlink(eng, v, dir, n1) : txn_rmdir(eng, v, dir, n1);
		break;
	case 3:
	case 4:
		r = txn_rename(eng, v, dir, n1, to, n2, worker_rnd(w, 4) ? 0 : 2);
		break;
	case 5:
		r = txn_lookup(eng, v, dir, n1, &look);
		if (!r)
			r = txn_link(eng, v, look.obj, to, n2, NULL);
		break;
	case 6:
		r = txn_tmpfile(eng, v, dir, &(struct txn_new){.mode = S_IFREG | 0600}, &look, &f);
		if (!r) {
			ssize_t k = txn_write(f, "tmp", 3, 0, false);

			r = k < 0 ? (int)k : txn_link(eng, v, look.obj, to, n2, NULL);
			txn_close(f);
		}
		break;
	default:
		r = txn_lookup(eng, v, dir, n1, &look);
		if (!r && S_ISREG(txn_obj_kind(look.obj)))
			r = txn_open(eng, v, look.obj, O_RDWR, &f);
		else
			r = r ? r : 1;
		if (!r) {
			char buf[3000] = "x";
			ssize_t k = txn_write(f, buf, sizeof(buf), worker_rnd(w, 4000), true);

			if (k >= 0)
				k = txn_read(f, buf, sizeof(buf), 0);
			if (k >= 0)
				k = txn_setattr(eng, v, look.obj, f, &st, STORE_SET_SIZE, NULL);
			if (k >= 0)
				k = txn_fsync(f, true);
			r = k < 0 ? (int)k : 0;
			txn_close(f);
		}
		break;
	}
	if (look.obj)
		txn_obj_put(look.obj);
	if (sub.obj)
		txn_obj_put(sub.obj);
	if (sub2.obj)
		txn_obj_put(sub2.obj);
	return r;
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(w->stop) && !w->bad) {
		struct txn *t = NULL;
		int r = 0;

		if (w->with_txns && worker_rnd(w, 3) == 0 && !txn_begin(w->k->eng, &t)) {
			for (unsigned i = worker_rnd(w, 6); i-- > 0 && r > -4096;)
				r = worker_op(w, t);
			if (worker_rnd(w, 3) == 0)
				txn_rollback(t);
			else if (txn_commit(t))
				w->bad = -1;
			txn_put(t);
		} else {
			r = worker_op(w, NULL);
			if (!w->with_txns && r == -EBUSY)
				w->bad = r;
		}
		if (r < -4095 || r == -EROFS || r == -EUCLEAN || r == -EIO)
			w->bad = r;
		w->done++;
	}
	return NULL;
}

static void workers(bool with_txns)
{
	struct worker w[4];
	atomic_bool stop = false;
	struct kit k;
	struct txn *t;

	crash_new(&k);
	k.threads = true;
	k.checkpoint_bytes = 128u << 10;
	kit_open(&k);
	t = kit_begin(&k);
	kit_create(&k, t, "c", S_IFDIR | 0755);
	kit_create(&k, t, "d", S_IFDIR | 0755);
	kit_put(&k, t, "a", "a");
	kit_put(&k, t, "c/b", "b");
	kit_commit(t);
	for (size_t i = 0; i < ARRAY_LEN(w); i++) {
		w[i] = (struct worker){.k = &k, .rng = 88172645463325252u + i * 7919, .with_txns = with_txns, .stop = &stop};
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	alarm(120); /* a deadlock ends the test */
	for (int i = 0; i < 15; i++) {
		usleep(100000);
	}
	atomic_store(&stop, true);
	for (size_t i = 0; i < ARRAY_LEN(w); i++) {
		pthread_join(w[i].thread, NULL);
		if (w[i].bad)
			fail_msg("worker %zu got %d after %lu operations: %s", i, w[i].bad, w[i].done,
			         txn_engine_error(k.eng) ? txn_engine_error(k.eng) : "no engine error");
		assert_true(w[i].done > 0);
	}
	alarm(0);
	assert_null(txn_engine_error(k.eng));
	kit_crash(&k);
	kit_open(&k);
	kit_close(&k);
	crash_remove(&k);
}

static void transactions_and_others_at_once(void **state UNUSED)
{
	workers(true);
}

/* Nobody holds anything for longer than an operation takes: EBUSY would be a lie. */
static void operations_alone_at_once(void **state UNUSED)
{
	workers(false);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(logged_rename_waits_for_the_file_that_it_names),
		cmocka_unit_test(logged_unlinks_do_not_sync),
		cmocka_unit_test(what_cannot_be_set_is_not_cleared),
		cmocka_unit_test(file_moved_to_a_lost_directory_is_kept),
		cmocka_unit_test(truncation_is_not_ahead_of_the_log),
		cmocka_unit_test(rename_ahead_of_the_log),
		cmocka_unit_test(renamed_file_has_one_name),
		cmocka_unit_test(size_beyond_the_limit),
		cmocka_unit_test(write_beyond_the_limit),
		cmocka_unit_test(xattr_beyond_the_limit),
		cmocka_unit_test(logged_write_uses_its_reservation),
		cmocka_unit_test(checkpoint_does_not_wait_for_installs),
		cmocka_unit_test(plain_time_waits_for_the_names_of_a_commit),
		cmocka_unit_test(committed_link_of_a_nameless_file_survives),
		cmocka_unit_test(nameless_file_gets_a_logged_name),
		cmocka_unit_test(transactions_and_others_at_once),
		cmocka_unit_test(operations_alone_at_once),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("engine_hard", tests, NULL, NULL);
}
