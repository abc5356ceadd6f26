/*
 * test_sim.c - the simulated disk keeps to its own rules (sim.h): what must survive a power cut does in each picture, and
 * what may be lost is lost in some.
 */
#include "tests/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static struct sim *disk;
static struct store *st;
static const struct store_ops *so;

static int setup(void **state UNUSED)
{
	disk = sim_new();
	st = sim_store(disk);
	so = st->ops;
	return 0;
}

static int teardown(void **state UNUSED)
{
	sim_free(disk);
	return 0;
}

static struct store_obj *at(const char *name)
{
	struct store_obj *obj;

	assert_int_equal(so->lookup(so->root(st), name, &obj, NULL), 0);
	return obj;
}

static struct store_obj *make(struct store_obj *dir, const char *name, mode_t mode)
{
	struct store_new nw = {.mode = mode, .uid = 1, .gid = 2};
	struct store_obj *obj;

	assert_int_equal(so->create(dir, name, &nw, true, &obj, NULL), 0);
	return obj;
}

static void put(struct store_obj *obj, uint64_t off, char fill, size_t n)
{
	char bytes[4096];
	struct store_file *f;

	memset(bytes, fill, sizeof(bytes));
	assert_int_equal(so->open(obj, O_RDWR, true, &f), 0);
	assert_int_equal(so->write(f, bytes, n, off), n);
	so->close_file(f);
}

/* ---- the pictures of power cuts ---- */

#define MOST 4096
static char *pictures[MOST];
static size_t npictures;

static int collect(void *arg UNUSED, struct sim *image, uint64_t i UNUSED)
{
	const char *bad = sim_fsck(image);

	if (bad)
		fail_msg("a power cut leaves a broken filesystem: %s", bad);
	assert_false(sim_dirty(image));
	pictures[npictures++] = sim_picture(image);
	sim_free(image);
	return 0;
}

static void cut(enum sim_model model, bool every)
{
	bool all;

	while (npictures)
		free(pictures[--npictures]);
	assert_int_equal(sim_images(disk, model, MOST, 1, collect, NULL, &all), 0);
	if (every)
		assert_true(all);
}

static size_t with(const char *text)
{
	size_t n = 0;

	for (size_t i = 0; i < npictures; i++)
		n += strstr(pictures[i], text) != NULL;
	return n;
}

static void none_left(void)
{
	while (npictures)
		free(pictures[--npictures]);
}

/* ---- rules ---- */

static void a_synced_file_may_lack_its_name(void **state UNUSED)
{
	struct store_obj *f = make(so->root(st), "f", S_IFREG | 0644);

	put(f, 0, 'x', 10);
	assert_int_equal(so->sync(f, false), 0);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 2);
	assert_int_equal(with("/f "), 1);
	assert_int_equal(with("size 10: xxxxxxxxxx"), 1);
	assert_int_equal(so->sync(so->root(st), false), 0);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 1);
	assert_int_equal(with("size 10: xxxxxxxxxx"), 1);
	so->put(f);
	none_left();
}

static void sectors_and_size_come_one_by_one(void **state UNUSED)
{
	struct store_obj *f = make(so->root(st), "f", S_IFREG | 0644);

	assert_int_equal(so->sync_all(st), 0);
	put(f, 0, 'y', 1024);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 8); /* two sectors and the size */
	assert_int_equal(with("size 0:"), 4);
	assert_int_equal(with("y*1024"), 1);
	assert_int_equal(with("y*512 \\00*512"), 1);
	assert_int_equal(with("\\00*512 y*512"), 1);
	assert_int_equal(with("\\00*1024"), 1);
	assert_int_equal(so->sync(f, true), 0);
	assert_false(sim_dirty(disk));
	so->put(f);
	none_left();
}

static void fdatasync_leaves_attributes(void **state UNUSED)
{
	struct store_obj *f = make(so->root(st), "f", S_IFREG | 0644);
	struct stat attr = {.st_mode = 0600};

	assert_int_equal(so->sync_all(st), 0);
	put(f, 0, 'z', 3);
	assert_int_equal(so->setattr(f, &attr, STORE_SET_MODE), 0);
	assert_int_equal(so->setxattr(f, "user.k", "v", 1, 0), 0);
	assert_int_equal(so->sync(f, true), 0);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 3); /* in order: neither, the mode, both */
	assert_int_equal(with("zzz"), 3);
	assert_int_equal(with("100600"), 2);
	assert_int_equal(with("user.k=v"), 1);
	so->put(f);
	none_left();
}

static void a_rename_is_one_change(void **state UNUSED)
{
	struct store_obj *a = make(so->root(st), "a", S_IFREG | 0644), *d = make(so->root(st), "d", S_IFDIR | 0755);

	put(a, 0, 'a', 1);
	assert_int_equal(so->sync_all(st), 0);
	assert_int_equal(so->rename(so->root(st), "a", d, "b", 0), 0);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 2);
	assert_int_equal(with("/a "), 1);
	assert_int_equal(with("/d/b "), 1);
	/* Syncing one of the two directories is enough. */
	assert_int_equal(so->sync(so->root(st), false), 0);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 1);
	assert_int_equal(with("/d/b "), 1);
	so->put(a);
	so->put(d);
	none_left();
}

static void a_file_that_always_had_a_name_is_never_lost(void **state UNUSED)
{
	struct store_obj *a = make(so->root(st), "a", S_IFREG | 0644), *d = make(so->root(st), "d", S_IFDIR | 0755);

	put(a, 0, 'q', 5);
	assert_int_equal(so->sync_all(st), 0);
	assert_int_equal(so->link(a, d, "b"), 0);
	assert_int_equal(so->unlink(so->root(st), "a", false), 0);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 3);
	assert_int_equal(with("qqqqq"), 3);
	/* The directory of the removed name alone: the new name comes along. */
	assert_int_equal(so->sync(so->root(st), false), 0);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 1);
	assert_int_equal(with("/d/b "), 1);
	so->put(a);
	so->put(d);
	none_left();
}

static void names_of_different_directories_come_in_any_order(void **state UNUSED)
{
	struct store_obj *d = make(so->root(st), "d", S_IFDIR | 0755), *x, *y;

	assert_int_equal(so->sync_all(st), 0);
	x = make(so->root(st), "x", S_IFREG | 0644);
	y = make(d, "y", S_IFREG | 0644);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 4);
	cut(SIM_JOURNAL, true);
	assert_int_equal(npictures, 3); /* no y without x */
	for (size_t i = 0; i < npictures; i++)
		assert_true(strstr(pictures[i], "/x ") || !strstr(pictures[i], "/d/y "));
	so->put(x);
	so->put(y);
	so->put(d);
	none_left();
}

static void what_is_in_a_new_directory_needs_it(void **state UNUSED)
{
	struct store_obj *d = make(so->root(st), "d", S_IFDIR | 0755), *f = make(d, "f", S_IFREG | 0644);

	assert_int_equal(so->sync(d, false), 0);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 1); /* syncing its names makes its own durable */
	assert_int_equal(with("/d/f "), 1);
	so->put(d);
	so->put(f);
	none_left();
}

static void cut_bytes_do_not_come_back(void **state UNUSED)
{
	struct store_obj *f = make(so->root(st), "f", S_IFREG | 0644);
	struct stat attr = {.st_size = 100};

	put(f, 0, 'o', 2000);
	assert_int_equal(so->sync_all(st), 0);
	assert_int_equal(so->setattr(f, &attr, STORE_SET_SIZE), 0);
	attr.st_size = 2000;
	assert_int_equal(so->setattr(f, &attr, STORE_SET_SIZE), 0);
	cut(SIM_POSIX, true);
	assert_int_equal(npictures, 3);
	assert_int_equal(with("o*2000"), 1);
	assert_int_equal(with("size 100:"), 1);
	assert_int_equal(with("o*100 \\00*1900"), 1);
	so->put(f);
	none_left();
}

static void numbers_are_used_again_but_not_ids(void **state UNUSED)
{
	struct store_obj *f = make(so->root(st), "f", S_IFREG | 0644), *g, *found;
	struct store_id id, other;
	uint64_t ino = f->ino;

	assert_int_equal(so->id(f, &id), 0);
	assert_int_equal(so->resolve(st, &id, "", NULL, &found), 0);
	assert_ptr_equal(found, f);
	so->put(found);
	assert_int_equal(so->unlink(so->root(st), "f", false), 0);
	so->put(f);
	g = make(so->root(st), "g", S_IFREG | 0644);
	assert_int_equal(g->ino, ino);
	assert_int_equal(so->id(g, &other), 0);
	assert_memory_not_equal(id.bytes, other.bytes, id.len);
	assert_int_equal(so->resolve(st, &id, "", NULL, &found), -ESTALE);
	so->put(g);
}

static void a_file_without_a_name_is_gone_after_a_crash(void **state UNUSED)
{
	struct store_new nw = {.mode = S_IFREG | 0600};
	struct store_obj *t, *found;
	struct store_file *f;
	struct store_id id;
	struct sim *killed;

	assert_int_equal(so->tmpfile(so->root(st), &nw, &t, NULL, &f), 0);
	assert_int_equal(so->id(t, &id), 0);
	assert_int_equal(so->sync_all(st), 0);
	killed = sim_kill(disk);
	assert_int_equal(so->resolve(sim_store(killed), &id, "", NULL, &found), -ESTALE);
	sim_free(killed);
	assert_int_equal(so->link(t, so->root(st), "t"), 0);
	so->close_file(f);
	so->put(t);
	so->put(at("t"));
}

/* ---- by chance ---- */

static uint64_t rng, syncs;

static uint64_t rnd(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % n;
}

static void change_something(void)
{
	static const char *const names[] = {"a", "b", "c", "d"};
	struct store_obj *dir = so->get(so->root(st)), *sub, *obj = NULL, *to = so->get(so->root(st));
	const char *name = names[rnd(4)], *other = names[rnd(4)];
	struct store_new nw = {.mode = rnd(3) ? S_IFREG | 0644 : S_IFDIR | 0755};
	struct stat attr = {.st_size = (off_t)rnd(3000), .st_mode = (mode_t)rnd(0777)};

	if (rnd(2) && !so->lookup(dir, names[rnd(4)], &sub, NULL)) {
		so->put(dir);
		dir = sub;
	}
	if (rnd(2) && !so->lookup(to, names[rnd(4)], &sub, NULL)) {
		so->put(to);
		to = sub;
	}
	so->lookup(dir, name, &obj, NULL);
	switch (rnd(10)) {
	case 0:
	case 1:
		if (!so->create(dir, name, &nw, true, &sub, NULL))
			so->put(sub);
		break;
	case 2:
		so->unlink(dir, name, rnd(2));
		break;
	case 3:
		so->rename(dir, name, to, other, rnd(4) ? 0 : RENAME_EXCHANGE);
		break;
	case 4:
		if (obj)
			so->link(obj, to, other);
		break;
	case 5:
		if (obj)
			so->setattr(obj, &attr, STORE_SET_MODE);
		break;
	case 6:
		if (obj && S_ISREG(obj->kind))
			so->setattr(obj, &attr, STORE_SET_SIZE);
		break;
	case 7:
		if (obj && ++syncs)
			so->sync(obj, rnd(2));
		break;
	default:
		if (obj && S_ISREG(obj->kind))
			put(obj, rnd(2000), (char)('a' + rnd(26)), 1 + rnd(1500));
	}
	if (obj)
		so->put(obj);
	so->put(dir);
	so->put(to);
}

/* With all kept a power cut is a kill; with none it is the last sync of everything; always a sound filesystem. */
static void all_or_nothing_are_among_the_pictures(void **state UNUSED)
{
	const char *given = getenv("TXNFS_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : base_random_u64();

	print_message("seed %" PRIu64 "\n", seed);
	rng = seed | 1;
	for (int i = 0; i < 300; i++) {
		char *synced, *killed, *left;
		struct sim *copy;

		assert_int_equal(so->sync_all(st), 0);
		syncs = 0;
		synced = sim_picture(disk);
		for (uint64_t k = rnd(12); k > 0; k--)
			change_something();
		killed = sim_picture(disk);
		copy = sim_kill(disk);
		left = sim_picture(copy);
		assert_string_equal(left, killed);
		assert_null(sim_fsck(copy));
		sim_free(copy);
		for (int model = SIM_POSIX; model <= SIM_JOURNAL; model++) {
			bool none = false, all = false;

			none_left();
			sim_images(disk, (enum sim_model)model, 40, seed + (uint64_t)i, collect, NULL, NULL);
			for (size_t k = 0; k < npictures; k++) {
				none |= !strcmp(pictures[k], synced);
				all |= !strcmp(pictures[k], killed);
			}
			if (!all || (!none && !syncs))
				fail_msg("TXNFS_SEED=%" PRIu64 ", round %d: no picture has %s", seed, i, all ? "nothing" : "everything");
		}
		none_left();
		free(synced);
		free(killed);
		free(left);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(a_synced_file_may_lack_its_name),
		T(sectors_and_size_come_one_by_one),
		T(fdatasync_leaves_attributes),
		T(a_rename_is_one_change),
		T(a_file_that_always_had_a_name_is_never_lost),
		T(names_of_different_directories_come_in_any_order),
		T(what_is_in_a_new_directory_needs_it),
		T(cut_bytes_do_not_come_back),
		T(numbers_are_used_again_but_not_ids),
		T(a_file_without_a_name_is_gone_after_a_crash),
		T(all_or_nothing_are_among_the_pictures),
#undef T
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("sim", tests, NULL, NULL);
}
