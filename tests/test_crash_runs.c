/*
 * test_crash_runs.c - long random histories of several transactions and plain operations, with checkpoints, recycled log
 * segments, small and large data, kills, power cuts and orderly ends, and a crash at many of their changes (crash_world.h).
 *
 *     TXNFS_SEED     the first history's seed (printed)
 *     TXNFS_RUNS     histories
 *     TXNFS_STEPS    steps of each
 *     TXNFS_EVERY    look at one change in so many
 *     TXNFS_IMAGES, TXNFS_AGAIN   as in test_crash_points.c
 */
#include "tests/crash_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static uint64_t rng, first_seed, runs, steps;
static struct cw_options options = {.segment_size = 32u << 10};

static uint64_t rnd(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % n;
}

static uint64_t number(const char *name, uint64_t fallback)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : fallback;
}

/* Mostly what exists, of the kind that makes sense; sometimes anything. */
static char *path_of(struct cw *w, int t, mode_t kind)
{
	const char *p = rnd(12) ? cw_some_path(w, t, kind, rnd(1000)) : cw_some_path(w, t, 0, rnd(1000));
	char *copy = strdup(p ? p : "/none");

	assert_non_null(copy);
	return copy;
}

static char *new_path(struct cw *w, int t)
{
	static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "a-name-that-is-longer-than-others"};
	const char *dir = rnd(3) ? cw_some_path(w, t, S_IFDIR, rnd(1000)) : NULL;
	char *path = NULL;

	assert_true(asprintf(&path, "%s/%s", dir ? dir : "", names[rnd(rnd(3) ? 4 : ARRAY_LEN(names))]) > 0);
	return path;
}

static uint64_t some_size(void)
{
	switch (rnd(8)) {
	case 0:
		return rnd(20000);
	case 1:
		return rnd(5) * 512;
	case 2:
		return rnd(5) * 4096;
	default:
		return rnd(1200);
	}
}

static void some_op(struct cw *w, int t)
{
	static const enum cw_kind kinds[] = {
		CW_WRITE, CW_WRITE, CW_WRITE, CW_WRITE, CW_APPEND, CW_APPEND, CW_TRUNC, CW_TRUNC, CW_PUNCH,
		CW_CREATE, CW_CREATE, CW_CREATE, CW_MKDIR, CW_SYMLINK, CW_FIFO, CW_UNLINK, CW_UNLINK, CW_RMDIR,
		CW_RENAME, CW_RENAME, CW_RENAME, CW_LINK, CW_LINK, CW_CHMOD, CW_CHOWN, CW_SETX, CW_SETX, CW_DELX, CW_TMP,
	};
	struct cw_op op = {.kind = kinds[rnd(ARRAY_LEN(kinds))], .off = some_size(), .len = some_size(), .fill = (char)('A' + rnd(50))};
	char *p, *q = NULL;

	switch (op.kind) {
	case CW_CREATE:
	case CW_MKDIR:
	case CW_FIFO:
	case CW_TMP:
		p = new_path(w, t);
		op.flags = 0400 | (unsigned)rnd(01000);
		if (op.kind == CW_MKDIR)
			op.flags |= 0700;
		break;
	case CW_SYMLINK:
		p = new_path(w, t);
		q = strdup("some/target");
		break;
	case CW_RENAME:
		p = path_of(w, t, rnd(3) ? S_IFREG : S_IFDIR);
		q = rnd(3) ? new_path(w, t) : path_of(w, t, S_IFREG);
		op.flags = rnd(8) ? 0 : rnd(2) ? RENAME_EXCHANGE : RENAME_NOREPLACE;
		break;
	case CW_LINK:
		p = path_of(w, t, S_IFREG);
		q = new_path(w, t);
		break;
	case CW_RMDIR:
		p = path_of(w, t, S_IFDIR);
		break;
	case CW_UNLINK:
		p = path_of(w, t, rnd(4) ? S_IFREG : 0);
		break;
	case CW_CHMOD:
	case CW_CHOWN:
	case CW_SETX:
	case CW_DELX:
		p = path_of(w, t, 0);
		op.flags = op.kind == CW_CHMOD ? 0700 | (unsigned)rnd(0100) : (unsigned)rnd(3);
		op.off = rnd(4);
		op.len = rnd(30);
		break;
	default:
		p = path_of(w, t, S_IFREG);
		break;
	}
	op.path = p;
	op.path2 = q;
	if (t < 0)
		cw_plain(w, &op);
	else
		cw_in(w, t, &op);
	free(p);
	free(q);
}

static void step(struct cw *w)
{
	static const char *const names[] = {"s", "u", "v"};
	int t = (int)rnd(CW_TXNS);

	switch (rnd(24)) {
	case 0:
		cw_checkpoint(w);
		return;
	case 1:
		if (!rnd(3))
			cw_reopen(w, rnd(3) == 0, rnd(2));
		return;
	case 2:
	case 3:
	case 4:
	case 5:
		some_op(w, -1);
		return;
	default:
		break;
	}
	if (!cw_open(w, t)) {
		cw_begin(w, t);
		return;
	}
	if (cw_prepared(w, t)) {
		if (!rnd(4))
			cw_commit(w, t);
		else if (!rnd(6))
			cw_rollback(w, t);
		return;
	}
	switch (rnd(14)) {
	case 0:
	case 1:
		if (rnd(3))
			cw_commit(w, t);
		else
			cw_prepare(w, t);
		break;
	case 2:
		if (!rnd(2))
			cw_rollback(w, t);
		break;
	case 3:
		cw_savepoint(w, t, names[rnd(3)]);
		break;
	case 4:
		cw_rollback_to(w, t, names[rnd(3)]);
		break;
	default:
		some_op(w, t);
	}
}

static void one_run(uint64_t seed)
{
	char command[200], name[60];
	struct cw *w;

	rng = seed * 2 + 1;
	snprintf(command, sizeof(command), "TXNFS_SEED=%" PRIu64 " TXNFS_RUNS=1 TXNFS_STEPS=%" PRIu64 " TXNFS_EVERY=%u "
	                                   "TXNFS_IMAGES=%u TXNFS_AGAIN=%u build/tests/test_crash_runs",
	         seed, steps, options.every, options.images, options.again);
	snprintf(name, sizeof(name), "history %" PRIu64, seed);
	options.command = command;
	options.name = name;
	options.sync_plain = seed % 2;
	options.checkpoint_bytes = seed % 3 ? 1000 : 0;
	w = cw_new(seed, &options);
	for (uint64_t i = 0; i < steps; i++)
		step(w);
	cw_free(w);
}

static void histories(void **state UNUSED)
{
	for (uint64_t i = 0; i < runs; i++) {
		one_run(first_seed + i);
		if (getenv("TXNFS_PROGRESS") && i % 20 == 19)
			print_message("%" PRIu64 " histories, %" PRIu64 " points\n", i + 1, cw_counts.images + cw_counts.again);
	}
}

static int report(void **state UNUSED)
{
	print_message("seed %" PRIu64 ": %" PRIu64 " histories, crashes at %" PRIu64 " changes, %" PRIu64
	              " pictures recovered, %" PRIu64 " crashes of a recovery\n",
	              first_seed, cw_counts.scenarios, cw_counts.points, cw_counts.images, cw_counts.again);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(histories),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	first_seed = number("TXNFS_SEED", 0);
	if (!first_seed)
		first_seed = base_random_u64() >> 24;
	runs = number("TXNFS_RUNS", 40 / number("TXNFS_LESS", 1) + 1);
	steps = number("TXNFS_STEPS", 150);
	options.every = (unsigned)number("TXNFS_EVERY", 4);
	options.images = (unsigned)number("TXNFS_IMAGES", 4);
	options.again = (unsigned)number("TXNFS_AGAIN", 60);
	return cmocka_run_group_tests_name("crash_runs", tests, NULL, report);
}
