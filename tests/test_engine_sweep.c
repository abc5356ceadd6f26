/*
 * test_engine_sweep.c - kill the engine before each change that it makes to the disk, and recovery before each of its
 * own: what is found afterwards is one of the states between the steps that were under way.
 *
 * Scenarios are random: transactions with savepoints, operations outside, checkpoints, on a small tree.
 */
#include "tests/crash_kit.h"

#include <dirent.h>
#include <sys/xattr.h>

#ifndef STEPS
#define STEPS 7
#endif

static uint64_t rng;

static unsigned rnd(unsigned n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (unsigned)((rng >> 33) % n);
}

/* ---- what the backing directory holds ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void picture(int dirfd, const char *path, struct base_buf *out)
{
	char *names[256], text[4096], value[64];
	struct stat st;
	size_t n = 0;
	DIR *d = fdopendir(dirfd);
	struct dirent *e;

	assert_non_null(d);
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, STORE_STATE_DIR)) {
			assert_true(n < ARRAY_LEN(names));
			names[n++] = strdup(e->d_name);
		}
	qsort(names, n, sizeof(names[0]), by_name);
	for (size_t i = 0; i < n; i++) {
		char full[1024];
		ssize_t len;

		snprintf(full, sizeof(full), "%s/%s", path, names[i]);
		assert_int_equal(fstatat(dirfd, names[i], &st, AT_SYMLINK_NOFOLLOW), 0);
		base_buf_printf(out, "%s %o", full, st.st_mode);
		if (S_ISDIR(st.st_mode)) {
			base_buf_printf(out, "\n");
			picture(openat(dirfd, names[i], O_RDONLY | O_DIRECTORY), full, out);
		} else if (S_ISLNK(st.st_mode)) {
			len = readlinkat(dirfd, names[i], text, sizeof(text) - 1);
			assert_true(len > 0);
			base_buf_printf(out, " -> %.*s links %u\n", (int)len, text, (unsigned)st.st_nlink);
		} else {
			int fd = openat(dirfd, names[i], O_RDONLY);

			len = read(fd, text, sizeof(text));
			assert_true(len >= 0);
			base_buf_printf(out, " links %u size %ld:", (unsigned)st.st_nlink, (long)st.st_size);
			for (ssize_t k = 0; k < len; k++)
				base_buf_printf(out, "%c", text[k] ? text[k] : '.');
			len = fgetxattr(fd, "user.x", value, sizeof(value));
			if (len >= 0)
				base_buf_printf(out, " x=%.*s", (int)len, value);
			base_buf_printf(out, "\n");
			close(fd);
		}
		free(names[i]);
	}
	closedir(d);
}

static char *picture_of(struct kit *k)
{
	struct base_buf b = {0};
	int fd = open(k->dir, O_RDONLY | O_DIRECTORY);

	picture(fd, "", &b);
	base_buf_put(&b, "", 1);
	assert_int_equal(b.err, 0);
	return (char *)b.p;
}

static size_t entries(struct kit *k, const char *sub)
{
	char path[512];
	size_t n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "%s/" STORE_STATE_DIR "/%s", k->dir, sub);
	d = opendir(path);
	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

/* ---- random steps ---- */

static const char *any_path(void)
{
	static const char *const paths[] = {"a", "b", "c", "d", "d/a", "d/b", "e", "e/a", "e/c", "d/e", "d/e/a", "e/d"};

	return paths[rnd(ARRAY_LEN(paths))];
}

static int try_parent(struct kit *k, struct txn *v, const char *path, struct txn_obj **dir, const char **name)
{
	const char *slash = strrchr(path, '/');
	char copy[64];

	snprintf(copy, sizeof(copy), "%.*s", slash ? (int)(slash - path) : 0, path);
	*name = slash ? slash + 1 : path;
	return kit_try_walk(k, v, copy, dir);
}

/* One operation; the random numbers that it takes do not depend on how it ends. */
static int operation(struct kit *k, struct txn *v)
{
	static const mode_t kinds[] = {S_IFREG | 0644, S_IFREG | 0600, S_IFDIR | 0755, S_IFLNK | 0777};
	unsigned op = rnd(14), x = rnd(1000), y = rnd(3000), z = rnd(4);
	const char *p1 = any_path(), *p2 = any_path(), *n1, *n2;
	struct txn_new nw = {.mode = kinds[z], .umask = 022, .uid = geteuid(), .gid = getegid()};
	struct txn_obj *d1 = NULL, *d2 = NULL, *o = NULL;
	struct stat st = {.st_size = y, .st_mode = 0400 | (x & 0377)};
	struct txn_look look;
	char data[1200];
	int r = try_parent(k, v, p1, &d1, &n1);

	memset(data, 'A' + (int)(x % 26), sizeof(data));
	if (!r && op >= 2 && op <= 6)
		r = kit_try_walk(k, v, p1, &o);
	if (!r && op >= 8 && op <= 12)
		r = try_parent(k, v, p2, &d2, &n2);
	if (r)
		goto out;
	switch (op) {
	case 0:
	case 1:
	case 13:
		if (S_ISLNK(nw.mode))
			nw.target = "target";
		r = txn_create(k->eng, v, d1, n1, &nw, &look);
		if (!r)
			o = look.obj;
		if (!r && v && S_ISREG(nw.mode)) /* outside of one these are two operations */
			r = (int)kit_try_write(k, v, p1, 0, data, x);
		break;
	case 2:
	case 3:
		r = S_ISREG(txn_obj_kind(o)) ? (int)kit_try_write(k, v, p1, y, data, x + 1) : 0;
		break;
	case 4:
		if (S_ISREG(txn_obj_kind(o)))
			r = txn_setattr(k->eng, v, o, NULL, &st, STORE_SET_SIZE, NULL);
		break;
	case 5:
		if (!S_ISLNK(txn_obj_kind(o)))
			r = txn_setattr(k->eng, v, o, NULL, &(struct stat){.st_mode = st.st_mode | 0700}, STORE_SET_MODE,
			                NULL);
		break;
	case 6:
		if (S_ISREG(txn_obj_kind(o)))
			r = z ? txn_setxattr(k->eng, v, o, "user.x", data, x % 20, 0)
			      : txn_removexattr(k->eng, v, o, "user.x");
		break;
	case 7:
		r = z & 1 ? txn_rmdir(k->eng, v, d1, n1) : txn_unlink(k->eng, v, d1, n1);
		break;
	case 8:
		r = kit_try_walk(k, v, p1, &o);
		if (!r)
			r = txn_link(k->eng, v, o, d2, n2, NULL);
		break;
	default:
		r = txn_rename(k->eng, v, d1, n1, d2, n2, z == 3 ? 2 : 0);
		break;
	}
out:
	if (o)
		txn_obj_put(o);
	if (d1)
		txn_obj_put(d1);
	if (d2)
		txn_obj_put(d2);
	return r;
}

/* A step: 0 when it can be relied upon (also when it did nothing). */
static int step(struct kit *k)
{
	unsigned kind = rnd(10), n = 1 + rnd(8), mark = rnd(8), back = rnd(3), roll = rnd(8);
	struct txn *t;
	int r;

	if (kind == 0)
		return txn_checkpoint(k->eng);
	if (kind < 5) {
		r = operation(k, NULL);
		return r == -EIO || r == -EROFS ? r : 0;
	}
	r = txn_begin(k->eng, &t);
	for (unsigned i = 0; i < n; i++) {
		if (!r && i == mark)
			txn_savepoint(t, "s");
		if (!r)
			operation(k, t);
		else
			(void)rnd(2);
	}
	if (r)
		return r;
	if (!back && mark < n)
		txn_rollback_to(t, "s");
	r = roll ? txn_commit(t) : txn_rollback(t);
	if (r)
		txn_rollback(t);
	txn_put(t);
	return r;
}

static void setup(struct kit *k)
{
	kit_put(k, NULL, "a", "first file of some length");
	kit_create(k, NULL, "d", S_IFDIR | 0755);
	kit_put(k, NULL, "d/a", "in a directory");
	kit_create(k, NULL, "e", S_IFDIR | 0755);
	assert_int_equal(kit_try_link(k, NULL, "a", "e/a"), 0);
	assert_int_equal(txn_checkpoint(k->eng), 0);
}

struct run {
	char *state[STEPS + 1];
	long changes; /* made by the steps */
};

static void dry_run(uint64_t seed, struct run *run)
{
	struct kit k;

	crash_new(&k);
	crash_open(&k, -1);
	setup(&k);
	rng = seed;
	crash.done = 0;
	run->state[0] = picture_of(&k);
	for (int i = 0; i < STEPS; i++) {
		assert_int_equal(step(&k), 0);
		run->state[i + 1] = picture_of(&k);
	}
	run->changes = crash.done;
	kit_close(&k);
	assert_int_equal(entries(&k, "stage"), 0);
	assert_int_equal(entries(&k, "trash"), 0);
	crash_remove(&k);
}

/* Die before change n, recover, die again before change m of that, recover. Returns whether recovery came to change m. */
static bool crash_run(uint64_t seed, const struct run *run, long n, long m)
{
	char err[512] = "", *found;
	bool again = true;
	struct kit k;
	int done = 0, r;

	crash_new(&k);
	crash_open(&k, -1);
	setup(&k);
	rng = seed;
	crash.left = n;
	while (done < STEPS && step(&k) == 0 && !crash.dead)
		done++;
	kit_crash(&k);
	if (m >= 0) {
		r = crash_try_open(&k, m, err, sizeof(err));
		again = crash.dead;
		if (!r)
			kit_crash(&k);
		else
			assert_true(crash.dead);
	}
	r = crash_try_open(&k, -1, err, sizeof(err));
	if (r)
		fail_msg("seed %llu, crash at %ld and %ld: %s", (unsigned long long)seed, n, m, err);
	found = picture_of(&k);
	if (strcmp(found, run->state[done]) && (done == STEPS || strcmp(found, run->state[done + 1])))
		fail_msg("seed %llu, crash at %ld and %ld, %d steps done\n---- found\n%s---- before\n%s---- after\n%s",
		         (unsigned long long)seed, n, m, done, found, run->state[done],
		         done < STEPS ? run->state[done + 1] : "");
	assert_int_equal(entries(&k, "stage"), 0);
	assert_int_equal(entries(&k, "trash"), 0);
	free(found);
	kit_close(&k);
	crash_remove(&k);
	return again;
}

static void any_crash_leaves_a_state_between_steps(void **state UNUSED)
{
	const char *given = getenv("TXNFS_SEED"), *rounds = getenv("TXNFS_ROUNDS");
	uint64_t seed = given ? strtoull(given, NULL, 0) : base_random_u64() >> 16 | 1;
	int max = rounds ? atoi(rounds) : given ? 1 : 25;

	for (int i = 0; i < max; i++, seed += 0x9e3779b97f4a7c15u) {
		uint64_t s = given && max == 1 ? seed : seed >> 8 | 1;
		struct run run;

		print_message("seed %llu\n", (unsigned long long)s);
		dry_run(s, &run);
		for (long n = 0; n < run.changes; n += given ? 1 : 3) {
			crash_run(s, &run, n, -1);
			/* Recoveries are alike at neighbouring places: look at each of them from time to time. */
			if (n % 4 == 0 || given)
				for (long m = n % 5; crash_run(s, &run, n, m); m += given ? 1 : 5)
					;
		}
		for (int k = 0; k <= STEPS; k++)
			free(run.state[k]);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_crash_leaves_a_state_between_steps),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("engine_sweep", tests, NULL, NULL);
}
