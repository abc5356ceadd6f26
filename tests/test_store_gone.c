/* test_store_gone.c - objects without a name in the real directory: what keeps them, and what lets them go. */
#include "store_kit.h"

#include <sys/mount.h>
#include <time.h>

#define MANY 50

static void unlink_at_root(const char *name)
{
	assert_int_equal(ops->unlink(root, name, false), 0);
}

static int try_attr(struct store_obj *o)
{
	struct stat attr;
	return ops->getattr(o, &attr);
}

/* Forsaken, they have no descriptor, though references remain; until then, and for those with a name, nothing changes. */
static void forsaken_are_closed(void **state UNUSED)
{
	struct store_obj *o[MANY], *dir = make(root, "dir", S_IFDIR | 0755), *alive = make(root, "alive", S_IFREG | 0644);
	struct store_id id[MANY], now;
	char name[16];
	int before = open_fds();
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		o[i] = make(root, name, S_IFREG | 0644);
		assert_int_equal(ops->id(o[i], &id[i]), 0);
		ops->forsake(o[i]);
		unlink_at_root(name);
	}
	assert_int_equal(ops->unlink(root, "dir", true), 0);
	for (int i = 0; i < MANY; i++)
		assert_int_equal(attr_of(o[i]).st_nlink, 0);
	ops->forsake(alive);
	ops->forsake(dir);
	for (int i = 0; i < MANY; i++)
		ops->forsake(o[i]);
	assert_true(open_fds() < before);
	assert_int_equal(attr_of(alive).st_nlink, 1);
	assert_int_equal(try_attr(dir), -ESTALE);
	/* New ones may have their inode numbers; they are others. */
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		struct store_obj *n = make(root, name, S_IFREG | 0644);
		for (int k = 0; k < MANY; k++)
			assert_ptr_not_equal(n, o[k]);
		ops->put(n);
	}
	for (int i = 0; i < MANY; i++) {
		struct store_file *f;
		assert_int_equal(try_attr(o[i]), -ESTALE);
		assert_int_equal(ops->open(o[i], O_RDONLY, true, &f), -ESTALE);
		assert_int_equal(ops->sync(o[i], false), -ESTALE);
		assert_int_equal(ops->id(o[i], &now), 0);
		assert_memory_equal(&now, &id[i], sizeof(now));
		ops->forsake(o[i]);
		ops->put(o[i]);
	}
	ops->put(dir);
	ops->put(alive);
}

/* An open file leads to its object, whatever is evicted, and leaves its descriptor to those who still know it. */
static void open_files_lead_to_it(void **state UNUSED)
{
	struct store_obj *o[MANY];
	struct store_file *f[MANY], *second;
	char name[16], buf[8];
	int before = open_fds();
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		o[i] = make(root, name, S_IFREG | 0644);
		assert_int_equal(ops->open(o[i], O_RDWR, false, &f[i]), 0);
		assert_int_equal(ops->write(f[i], name, 3, 0), 3);
		unlink_at_root(name);
	}
	assert_true(open_fds() <= before + MANY + TINY_CACHE + 2);
	for (int i = 0; i < MANY; i++) {
		struct stat attr = {.st_mode = 0600};
		assert_int_equal(ops->setattr(o[i], &attr, STORE_SET_MODE), 0);
		assert_int_equal(attr_of(o[i]).st_mode, S_IFREG | 0600);
		assert_int_equal(ops->open(o[i], O_RDONLY, false, &second), 0);
		assert_int_equal(ops->read(second, buf, 3, 0), 3);
		assert_int_equal(buf[1], '0' + (i < 10 ? i : i / 10));
		ops->close_file(second);
	}
	for (int i = 0; i < MANY; i++) {
		ops->close_file(f[i]);
		assert_int_equal(attr_of(o[i]).st_mode, S_IFREG | 0600);
		assert_int_equal(ops->open(o[i], O_RDONLY, false, &second), 0);
		ops->close_file(second);
		ops->put(o[i]);
	}
	assert_true(open_fds() <= before + TINY_CACHE + 2);
}

static void forsaken_while_open(void **state UNUSED)
{
	struct store_obj *o = make(root, "f", S_IFREG | 0644);
	struct store_file *f;
	int before = open_fds();
	assert_int_equal(ops->open(o, O_RDWR, false, &f), 0);
	unlink_at_root("f");
	ops->forsake(o);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(open_fds(), before);
		assert_int_equal(attr_of(o).st_nlink, 0);
	}
	ops->close_file(f);
	assert_int_equal(open_fds(), before - 1);
	assert_int_equal(try_attr(o), -ESTALE);
	ops->put(o);
}

static double seconds(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/*
 * Where an id is the inode number and the time of birth, the number must not come back within the same tick of the clock: what
 * is as young as that keeps its inode (I7).
 */
static void check_young(void)
{
	struct store_id id;
	open_store(0);
	double began = seconds(CLOCK_MONOTONIC);
	struct store_obj *o = make(root, "f", S_IFREG | 0644);
	assert_int_equal(ops->id(o, &id), 0);
	unlink_at_root("f");
	ops->forsake(o);
	int r = try_attr(o);
	bool young = seconds(CLOCK_MONOTONIC) - began < 0.015;
	if (id.bytes[0] == 2 /* without a handle */ && young)
		assert_int_equal(r, 0);
	while (!r) {
		ops->forsake(o);
		r = try_attr(o);
		assert_true(seconds(CLOCK_MONOTONIC) - began < 20);
	}
	assert_int_equal(r, -ESTALE);
	ops->put(o);
	close_store();
}

static void young_ones_without_handles(void **state UNUSED)
{
	char options[4096];
	snprintf(options, sizeof(options), "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", tmp, tmp, tmp);
	static const char *const dirs[] = {"../lower", "../upper", "../work"};
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		assert_int_equal(mkdir(in_src(dirs[i]), 0755), 0);
	if (geteuid() != 0 || mount("none", src, "overlay", 0, options) != 0)
		skip();
	int status = in_child(check_young, false);
	assert_int_equal(umount(src), 0);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(forsaken_are_closed, setup, teardown),
		cmocka_unit_test_setup_teardown(open_files_lead_to_it, setup_tiny, teardown),
		cmocka_unit_test_setup_teardown(forsaken_while_open, setup, teardown),
		cmocka_unit_test_setup_teardown(young_ones_without_handles, setup_dir, teardown),
	};
	return cmocka_run_group_tests_name("store gone", tests, NULL, NULL);
}
