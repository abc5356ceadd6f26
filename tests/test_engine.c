/* test_engine.c - scenarios of the engine on a real directory, without FUSE: visibility, savepoints, locks, crashes. */
#include "tests/engine_kit.h"

#include <sys/xattr.h>

static void transfer_commits(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	kit_new(&k);
	kit_put(&k, NULL, "a", "100");
	kit_put(&k, NULL, "b", "000");
	t = kit_begin(&k);
	kit_write(&k, t, "a", 0, "070");
	kit_write(&k, t, "b", 0, "030");
	kit_expect(&k, t, "a", "070");
	kit_expect(&k, NULL, "a", "100");
	kit_expect(&k, NULL, "b", "000");
	kit_commit(t);
	kit_expect(&k, NULL, "a", "070");
	kit_expect(&k, NULL, "b", "030");
	kit_reopen(&k);
	kit_expect(&k, NULL, "a", "070");
	kit_expect(&k, NULL, "b", "030");
	kit_free(&k);
}

static void crash_before_commit_leaves_nothing(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	kit_new(&k);
	kit_put(&k, NULL, "a", "old");
	t = kit_begin(&k);
	kit_write(&k, t, "a", 0, "new");
	kit_create(&k, t, "dir", S_IFDIR | 0755);
	kit_put(&k, t, "dir/f", "fresh");
	assert_int_equal(kit_try_rename(&k, t, "a", "dir/b", 0), 0);
	kit_expect(&k, t, "dir/b", "new");
	txn_put(t);
	kit_reopen(&k);
	kit_expect(&k, NULL, "a", "old");
	assert_false(kit_exists(&k, NULL, "dir"));
	assert_int_equal(k.rec.lost, 1);
	assert_int_equal(k.rec.swept, 2);
	kit_free(&k);
}

static void savepoints_nest(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	kit_new(&k);
	kit_put(&k, NULL, "f", "0000000000");
	t = kit_begin(&k);
	kit_write(&k, t, "f", 0, "1111");
	assert_int_equal(txn_savepoint(t, "s"), 0);
	kit_write(&k, t, "f", 2, "2222222222");
	kit_truncate(&k, t, "f", 5);
	kit_truncate(&k, t, "f", 8);
	kit_expect(&k, t, "f", "11222"); /* zeros behind */
	assert_int_equal(kit_stat(&k, t, "f").st_size, 8);
	kit_put(&k, t, "g", "x");
	assert_int_equal(txn_savepoint(t, "s"), 0);
	kit_write(&k, t, "f", 0, "3");
	assert_int_equal(txn_rollback_to(t, "s"), 0);
	kit_expect(&k, t, "f", "11222");
	assert_true(kit_exists(&k, t, "g"));
	assert_int_equal(txn_release(t, "s"), 0);
	assert_int_equal(txn_rollback_to(t, "s"), 0);
	kit_expect(&k, t, "f", "1111000000");
	assert_false(kit_exists(&k, t, "g"));
	assert_int_equal(txn_rollback_to(t, "nobody"), -ENOENT);
	kit_expect(&k, t, "f", "1111000000");
	kit_commit(t);
	kit_reopen(&k);
	kit_expect(&k, NULL, "f", "1111000000");
	assert_false(kit_exists(&k, NULL, "g"));
	kit_free(&k);
}

static void one_writer(void **state UNUSED)
{
	struct stat st = {.st_mode = 0600};
	struct kit k;
	struct txn *a, *b;

	kit_new(&k);
	kit_put(&k, NULL, "f", "0");
	kit_create(&k, NULL, "d", S_IFDIR | 0755);
	a = kit_begin(&k);
	b = kit_begin(&k);
	kit_write(&k, a, "f", 0, "a");
	assert_int_equal(kit_try_write(&k, b, "f", 0, "b", 1), -EBUSY);
	assert_int_equal(kit_try_write(&k, NULL, "f", 0, "p", 1), -EBUSY);
	assert_int_equal(kit_try_setattr(&k, NULL, "f", &st, STORE_SET_MODE), -EBUSY);
	assert_int_equal(kit_try_unlink(&k, NULL, "f", false), -EBUSY);
	kit_create(&k, a, "d/new", S_IFREG | 0644);
	assert_int_equal(kit_try_create(&k, b, "d/new", S_IFREG | 0644), -EBUSY);
	assert_int_equal(kit_try_create(&k, NULL, "d/new", S_IFREG | 0644), -EBUSY);
	kit_create(&k, b, "d/other", S_IFREG | 0644);
	assert_int_equal(kit_try_unlink(&k, a, "d/new", false), 0);
	assert_int_equal(kit_try_unlink(&k, a, "d", true), -EBUSY); /* b's name is in it */
	kit_rollback(b);
	assert_int_equal(kit_try_unlink(&k, a, "d", true), 0);
	assert_int_equal(kit_try_create(&k, NULL, "d/x", S_IFREG | 0644), -EBUSY);
	kit_commit(a);
	assert_false(kit_exists(&k, NULL, "d"));
	kit_expect(&k, NULL, "f", "a");
	kit_free(&k);
}

static void moves_cannot_make_a_circle(void **state UNUSED)
{
	struct kit k;
	struct txn *a, *b;

	kit_new(&k);
	kit_create(&k, NULL, "x", S_IFDIR | 0755);
	kit_create(&k, NULL, "x/in", S_IFDIR | 0755);
	kit_create(&k, NULL, "y", S_IFDIR | 0755);
	kit_create(&k, NULL, "y/in", S_IFDIR | 0755);
	a = kit_begin(&k);
	b = kit_begin(&k);
	assert_int_equal(kit_try_rename(&k, a, "x", "x/in/x", 0), -EINVAL);
	assert_int_equal(kit_try_rename(&k, a, "x", "y/in/x", 0), 0);
	assert_int_equal(kit_try_rename(&k, b, "y", "x/in/y", 0), -EBUSY);
	assert_int_equal(kit_try_rename(&k, NULL, "y", "x/in/y", 0), -EBUSY);
	kit_commit(a);
	assert_int_equal(kit_try_rename(&k, b, "y", "y/in/x/y", 0), -EINVAL);
	kit_rollback(b);
	assert_true(kit_exists(&k, NULL, "y/in/x/in"));
	kit_free(&k);
}

static void swaps_and_chains(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	kit_new(&k);
	kit_put(&k, NULL, "a", "A");
	kit_put(&k, NULL, "b", "B");
	kit_put(&k, NULL, "c", "C");
	kit_create(&k, NULL, "d", S_IFDIR | 0755);
	kit_put(&k, NULL, "d/in", "in");
	t = kit_begin(&k);
	assert_int_equal(kit_try_rename(&k, t, "a", "tmp", 0), 0);
	assert_int_equal(kit_try_rename(&k, t, "b", "a", 0), 0);
	assert_int_equal(kit_try_rename(&k, t, "c", "b", 0), 0);
	assert_int_equal(kit_try_rename(&k, t, "tmp", "c", 0), 0);
	assert_int_equal(kit_try_link(&k, t, "c", "hard"), 0);
	assert_int_equal(kit_stat(&k, t, "c").st_nlink, 2);
	assert_int_equal(kit_try_rename(&k, t, "d", "e", 0), 0);
	kit_create(&k, t, "d", S_IFDIR | 0700);
	assert_int_equal(kit_try_rename(&k, t, "e", "d/sub", 0), 0);
	assert_int_equal(kit_try_rename(&k, t, "d/sub/in", "d/in", 0), 0);
	kit_commit(t);
	for (int i = 0; i < 2; i++) {
		kit_expect(&k, NULL, "a", "B");
		kit_expect(&k, NULL, "b", "C");
		kit_expect(&k, NULL, "c", "A");
		kit_expect(&k, NULL, "hard", "A");
		assert_int_equal(kit_stat(&k, NULL, "hard").st_nlink, 2);
		kit_expect(&k, NULL, "d/in", "in");
		assert_true(kit_exists(&k, NULL, "d/sub"));
		assert_false(kit_exists(&k, NULL, "e"));
		assert_false(kit_exists(&k, NULL, "tmp"));
		kit_reopen(&k);
	}
	kit_free(&k);
}

static void plain_changes_of_logged_objects_survive_redo(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	kit_new(&k);
	t = kit_begin(&k);
	kit_put(&k, t, "f", "12345the transaction");
	kit_put(&k, t, "gone", "x");
	kit_create(&k, t, "d", S_IFDIR | 0755);
	kit_put(&k, t, "d/moved", "m");
	kit_commit(t);
	kit_write(&k, NULL, "f", 0, "PLAIN");
	assert_int_equal(kit_try_unlink(&k, NULL, "gone", false), 0);
	assert_int_equal(kit_try_rename(&k, NULL, "d/moved", "moved", 0), 0);
	kit_put(&k, NULL, "d/unlogged", "u");
	kit_reopen(&k);
	kit_expect(&k, NULL, "f", "PLAINthe transaction");
	assert_false(kit_exists(&k, NULL, "gone"));
	assert_false(kit_exists(&k, NULL, "d/moved"));
	kit_expect(&k, NULL, "moved", "m");
	kit_expect(&k, NULL, "d/unlogged", "u");
	kit_free(&k);
}

static void checkpoint_forgets(void **state UNUSED)
{
	struct txn_stats st;
	struct kit k;
	struct txn *t;

	kit_new(&k);
	t = kit_begin(&k);
	kit_put(&k, t, "f", "1");
	kit_commit(t);
	txn_engine_stats(k.eng, &st);
	assert_true(st.logged_objects > 0);
	assert_int_equal(txn_checkpoint(k.eng), 0);
	txn_engine_stats(k.eng, &st);
	assert_int_equal(st.logged_objects, 0);
	kit_write(&k, NULL, "f", 0, "2");
	kit_reopen(&k);
	assert_int_equal(k.rec.operations, 0);
	kit_expect(&k, NULL, "f", "2");
	kit_free(&k);
}

static void attributes_and_xattrs(void **state UNUSED)
{
	struct stat st = {.st_mode = 0600, .st_mtim = {1000, 5}}, got;
	struct txn_obj *obj = NULL;
	struct kit k;
	struct txn *t;
	char buf[64];

	kit_new(&k);
	kit_put(&k, NULL, "f", "1");
	assert_int_equal(kit_try_walk(&k, NULL, "f", &obj), 0);
	assert_int_equal(txn_setxattr(k.eng, NULL, obj, "user.keep", "k", 1, 0), 0);
	t = kit_begin(&k);
	assert_int_equal(kit_try_setattr(&k, t, "f", &st, STORE_SET_MODE | STORE_SET_MTIME), 0);
	assert_int_equal(txn_setxattr(k.eng, t, obj, "user.new", "value", 5, XATTR_CREATE), 0);
	assert_int_equal(txn_setxattr(k.eng, t, obj, "user.new", "value", 5, XATTR_CREATE), -EEXIST);
	assert_int_equal(txn_setxattr(k.eng, t, obj, "user.no", "value", 5, XATTR_REPLACE), -ENODATA);
	assert_int_equal(txn_removexattr(k.eng, t, obj, "user.keep"), 0);
	assert_int_equal(txn_getxattr(k.eng, t, obj, "user.keep", buf, sizeof(buf)), -ENODATA);
	assert_int_equal(txn_getxattr(k.eng, NULL, obj, "user.keep", buf, sizeof(buf)), 1);
	assert_int_equal(txn_listxattr(k.eng, t, obj, buf, sizeof(buf)), sizeof("user.new"));
	assert_int_equal(kit_stat(&k, NULL, "f").st_mode & 07777, 0644);
	kit_commit(t);
	txn_obj_put(obj);
	for (int i = 0; i < 2; i++) {
		got = kit_stat(&k, NULL, "f");
		assert_int_equal(got.st_mode & 07777, 0600);
		assert_int_equal(got.st_mtim.tv_sec, 1000);
		assert_int_equal(got.st_mtim.tv_nsec, 5);
		assert_int_equal(kit_try_walk(&k, NULL, "f", &obj), 0);
		assert_int_equal(txn_getxattr(k.eng, NULL, obj, "user.new", buf, sizeof(buf)), 5);
		txn_obj_put(obj);
		kit_reopen(&k);
	}
	kit_free(&k);
}

static void failed_operation_leaves_no_trace(void **state UNUSED)
{
	struct kit k;
	struct txn *t;

	kit_new(&k);
	kit_create(&k, NULL, "d", S_IFDIR | 0755);
	kit_put(&k, NULL, "d/f", "1");
	t = kit_begin(&k);
	kit_write(&k, t, "d/f", 0, "2");
	assert_int_equal(kit_try_unlink(&k, t, "d", true), -ENOTEMPTY);
	assert_int_equal(kit_try_create(&k, t, "d/f", S_IFREG | 0600), -EEXIST);
	assert_int_equal(kit_try_rename(&k, t, "d/none", "x", 0), -ENOENT);
	assert_int_equal(kit_try_rename(&k, t, "d/f", "d", 0), -EISDIR);
	kit_expect(&k, t, "d/f", "2");
	kit_commit(t);
	kit_expect(&k, NULL, "d/f", "2");
	kit_free(&k);
}

static void many_segments_and_threads(void **state UNUSED)
{
	struct txn_stats st;
	struct kit k;
	char big[20000];

	kit_new(&k);
	kit_crash(&k);
	k.threads = true;
	k.checkpoint_bytes = 1 << 20;
	kit_open(&k);
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	struct txn *slow = kit_begin(&k);
	kit_put(&k, slow, "slow", "early");
	assert_int_equal(txn_savepoint(slow, "s"), 0);
	kit_write(&k, slow, "slow", 0, "LATER");
	for (int i = 0; i < 300; i++) {
		struct txn *t = kit_begin(&k);
		char name[16];

		big[0] = (char)('a' + i % 26);
		snprintf(name, sizeof(name), "f%d", i % 7);
		kit_put(&k, t, name, big);
		kit_commit(t);
		if (i % 100 == 99)
			assert_int_equal(txn_checkpoint(k.eng), 0);
	}
	txn_engine_stats(k.eng, &st);
	/* The open transaction was carried forward: it does not keep the whole log. */
	assert_true(st.log_bytes < 4 << 20);
	assert_int_equal(txn_rollback_to(slow, "s"), 0);
	kit_expect(&k, slow, "slow", "early");
	kit_commit(slow);
	kit_crash(&k);
	kit_open(&k);
	kit_expect(&k, NULL, "slow", "early");
	big[0] = (char)('a' + 299 % 26);
	kit_expect(&k, NULL, "f5", big);
	kit_free(&k);
}

static int collect(void *arg, char kind, const char *path, const char *to)
{
	struct base_buf *b = arg;

	base_buf_printf(b, "%c %s%s%s;", kind, path, to ? " -> " : "", to ? to : "");
	return 0;
}

static void changes_are_net(void **state UNUSED)
{
	struct stat st = {.st_mode = 0600};
	struct base_buf b = {0};
	struct kit k;
	struct txn *t;

	kit_new(&k);
	kit_put(&k, NULL, "m", "1");
	kit_put(&k, NULL, "p", "1");
	kit_put(&k, NULL, "d", "1");
	kit_put(&k, NULL, "r", "1");
	t = kit_begin(&k);
	kit_put(&k, t, "came", "x");
	assert_int_equal(kit_try_unlink(&k, t, "came", false), 0);
	kit_create(&k, t, "dir", S_IFDIR | 0755);
	kit_put(&k, t, "dir/a", "x");
	kit_write(&k, t, "m", 0, "2");
	assert_int_equal(kit_try_setattr(&k, t, "p", &st, STORE_SET_MODE), 0);
	assert_int_equal(kit_try_unlink(&k, t, "d", false), 0);
	assert_int_equal(kit_try_rename(&k, t, "r", "dir/r2", 0), 0);
	assert_int_equal(txn_changes(t, collect, &b), 0);
	base_buf_put(&b, "", 1);
	assert_string_equal((char *)b.p, "D d;A dir;A dir/a;M m;P p;R r -> dir/r2;");
	base_buf_free(&b);
	kit_rollback(t);
	kit_free(&k);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(transfer_commits),
		cmocka_unit_test(crash_before_commit_leaves_nothing),
		cmocka_unit_test(savepoints_nest),
		cmocka_unit_test(one_writer),
		cmocka_unit_test(moves_cannot_make_a_circle),
		cmocka_unit_test(swaps_and_chains),
		cmocka_unit_test(plain_changes_of_logged_objects_survive_redo),
		cmocka_unit_test(checkpoint_forgets),
		cmocka_unit_test(attributes_and_xattrs),
		cmocka_unit_test(failed_operation_leaves_no_trace),
		cmocka_unit_test(many_segments_and_threads),
		cmocka_unit_test(changes_are_net),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
