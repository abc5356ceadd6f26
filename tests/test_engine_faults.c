/*
 * test_engine_faults.c - every call of the engine through the store's table and the log's door fails, one at a time and
 * for good: what it must do then is in fault_run.c and fault_plan.c.
 *
 * TXNFS_FAULT and TXNFS_SCRIPT repeat one run; TXNFS_LONG=1 tries all kinds of failure,
 * TXNFS_PART=I/N a part of what there is, TXNFS_PROGRESS=1 tells how far it is.
 */
#include "tests/fault_private.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* Scripts whose calls are much alike. */
#define RARELY 29

/* With the sanitizers each run takes longer. */
#ifdef __SANITIZE_ADDRESS__
#define ALL 7
#else
#define ALL 1
#endif

struct search {
	struct run_cases cases;
	uint64_t stride; /* every n-th call */
	uint64_t from;   /* beginning at another one each time */
	bool everything;
};

static void add(struct search *s, struct run_plan *p, enum fault_call call, enum fault_how how, enum fault_mode mode)
{
	uint64_t step = s->everything ? 1 + s->stride / 8 : run_plan_script(p)->rarely ? s->stride * RARELY : s->stride;

	for (uint64_t n = 1 + s->from++ % step; n <= run_plan_calls(p, call); n += step)
		run_cases_add(&s->cases, p, (struct fault){call, n, how, mode});
}

static void add_all(struct search *s, struct run_plan *p)
{
	for (enum fault_call call = 0; call < FAULT_any; call++)
		for (enum fault_how how = 0; how < FAULT_HOWS; how++)
			for (enum fault_mode mode = FAULT_ONCE; mode <= FAULT_ALWAYS; mode++) {
				bool main_kind = (how == FAULT_EIO && mode != FAULT_TWICE) ||
				                 (how == FAULT_SHORT && mode == FAULT_ONCE) ||
				                 (how == FAULT_STUCK && mode == FAULT_ALWAYS);

				if (fault_possible(call, how) && (main_kind || s->everything))
					add(s, p, call, how, mode);
			}
	add(s, p, FAULT_space, FAULT_ENOSPC, FAULT_ONCE);
	add(s, p, FAULT_space, FAULT_ENOSPC, FAULT_ALWAYS);
	add(s, p, FAULT_change, FAULT_EIO, FAULT_ALWAYS);
	add(s, p, FAULT_sync, FAULT_LATE, FAULT_ONCE);
	if (s->everything) {
		add(s, p, FAULT_any, FAULT_EIO, FAULT_ALWAYS);
		add(s, p, FAULT_space, FAULT_EDQUOT, FAULT_ALWAYS);
	}
}

static void play(bool real, uint64_t stride)
{
	const char *one = getenv("TXNFS_FAULT"), *only = getenv("TXNFS_SCRIPT"), *store = getenv("TXNFS_STORE");
	struct search s = {.stride = stride, .everything = getenv("TXNFS_LONG")};
	struct run_plan *plans[32];
	struct fault f;
	int n = 0;

	run_cut_more = s.everything;
	if (store ? strcmp(store, real ? "dir" : "sim") : one && real)
		skip();
	for (const struct run_script *k = run_scripts; k->name; k++) {
		if (only && strcmp(only, k->name))
			continue;
		plans[n++] = run_plan(k, real);
		if (one) {
			assert_int_equal(fault_parse(one, &f), 0);
			print_message("%llu hits\n", (unsigned long long)run_once(plans[n - 1], &f));
		} else {
			add_all(&s, plans[n - 1]);
		}
	}
	if (!one)
		run_cases_play(&s.cases, real ? "every call fails, on a real directory" : "every call fails");
	while (n)
		run_plan_free(plans[--n]);
}

static void every_call_fails(void **state UNUSED)
{
	play(false, ALL);
}

static void calls_fail_on_a_real_directory(void **state UNUSED)
{
	play(true, 61);
}

/* ---- a sync that has failed ---- */

/*
 * What a sync could not write may be lost, and the next sync does not tell (fsync(2)): where a promise of the log hangs
 * on it, the first failure is the last word until the next recovery.
 */
struct bench {
	struct sim *sim;
	struct store *store;
	struct txn_engine *eng;
};

static int bench_try_open(struct bench *b)
{
	struct txn_config cfg = {.segment_size = 64u << 10, .no_threads = true};
	char err[256];

	fault_real_needs_memory(true);
	b->store = sim_store(b->sim);
	cfg.store = fault_store(b->store);
	cfg.os = fault_os(sim_os(b->sim));
	cfg.wal_dirfd = sim_wal_dir(b->sim);
	return txn_engine_open(&cfg, &b->eng, NULL, err, sizeof(err));
}

static void bench_open(struct bench *b)
{
	assert_int_equal(bench_try_open(b), 0);
}

static void bench_new(struct bench *b)
{
	fault_disarm();
	b->sim = sim_new();
	bench_open(b);
}

static void bench_crash(struct bench *b)
{
	fault_disarm();
	txn_engine_abandon(b->eng);
	b->store->ops->close(b->store);
}

static void bench_free(struct bench *b)
{
	assert_int_equal(txn_engine_close(b->eng), 0);
	b->store->ops->close(b->store);
	sim_free(b->sim);
}

static struct txn_obj *bench_create(struct bench *b, struct txn *t, const char *name)
{
	struct txn_new nw = {.mode = S_IFREG | 0600};
	struct txn_look look;

	assert_int_equal(txn_create(b->eng, t, txn_root(b->eng), name, &nw, &look), 0);
	return look.obj;
}

static struct txn *bench_begin(struct bench *b)
{
	struct txn *t;

	assert_int_equal(txn_begin(b->eng, &t), 0);
	return t;
}

static bool bench_has(struct bench *b, const char *name)
{
	struct txn_look look;
	int r = txn_lookup(b->eng, NULL, txn_root(b->eng), name, &look);

	if (!r)
		txn_obj_put(look.obj);
	return !r;
}

static void fail_once(enum fault_call call)
{
	fault_arm(&(struct fault){.call = call, .n = 1, .how = FAULT_EIO});
}

/* Committed, then a checkpoint cannot make it durable at home: no later one may forget the log. */
static void failed_sync_of_home_is_final(void **state UNUSED)
{
	/* Few objects are synced one by one, more of them all at once. */
	static const struct {
		int objects;
		enum fault_call call;
	} ways[] = {{1, FAULT_store_sync}, {100, FAULT_store_sync_all}};

	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		struct bench b;
		struct txn *t;
		char name[16];

		bench_new(&b);
		t = bench_begin(&b);
		for (int k = 0; k < ways[i].objects; k++) {
			snprintf(name, sizeof(name), "f%d", k);
			txn_obj_put(bench_create(&b, t, name));
		}
		assert_int_equal(txn_commit(t), 0);
		txn_put(t);
		fail_once(ways[i].call);
		assert_int_not_equal(txn_checkpoint(b.eng), 0);
		assert_int_equal(fault_hits(), 1);
		assert_int_not_equal(txn_checkpoint(b.eng), 0);
		assert_non_null(txn_engine_error(b.eng));
		bench_crash(&b);
		bench_open(&b);
		assert_true(bench_has(&b, name));
		bench_free(&b);
	}
}

/* The same of what plain operations have made and a transaction builds on. */
static void failed_sync_before_commit_is_final(void **state UNUSED)
{
	struct txn_file *f;
	struct txn_obj *obj;
	struct bench b;
	struct txn *t;

	bench_new(&b);
	obj = bench_create(&b, NULL, "plain");
	t = bench_begin(&b);
	assert_int_equal(txn_open(b.eng, t, obj, O_RDWR, &f), 0);
	assert_int_equal(txn_write(f, "x", 1, 0, false), 1);
	fail_once(FAULT_store_sync);
	assert_int_not_equal(txn_commit(t), 0);
	assert_int_equal(fault_hits(), 1);
	assert_int_not_equal(txn_commit(t), 0);
	assert_int_equal(txn_rollback(t), 0);
	txn_put(t);
	txn_close(f);
	txn_obj_put(obj);
	bench_crash(&b);
	bench_open(&b);
	bench_free(&b);
}

/* A program's own fsync, too, can be the one that is told. */
static void failed_fsync_of_what_is_logged_is_final(void **state UNUSED)
{
	struct txn_file *f;
	struct txn_obj *obj;
	struct bench b;
	struct txn *t;

	bench_new(&b);
	t = bench_begin(&b);
	obj = bench_create(&b, t, "f");
	assert_int_equal(txn_commit(t), 0);
	txn_put(t);
	assert_int_equal(txn_open(b.eng, NULL, obj, O_RDWR, &f), 0);
	fail_once(FAULT_store_sync);
	assert_int_equal(txn_fsync(f, false), -EIO);
	assert_int_not_equal(txn_checkpoint(b.eng), 0);
	txn_close(f);
	txn_obj_put(obj);
	bench_crash(&b);
	bench_open(&b);
	fail_once(FAULT_store_sync);
	assert_int_equal(txn_fsync_dir(b.eng, NULL, txn_root(b.eng)), -EIO); /* nothing is logged: it is only told */
	assert_null(txn_engine_error(b.eng));
	assert_int_equal(txn_checkpoint(b.eng), 0);
	bench_free(&b);
}

/* ---- a log that cannot be read where it matters ---- */

static int first_name(void *arg, const char *name)
{
	if (!((char *)arg)[0] || strcmp(name, arg) < 0)
		snprintf(arg, 32, "%s", name);
	return 0;
}

/*
 * A durable record is damaged, and only a later segment tells that it was durable: when that one cannot be read, the
 * damage must not be taken for a torn tail, or what was committed is lost without a word.
 */
static void damage_is_no_torn_tail_when_reading_fails(void **state UNUSED)
{
	static char data[30000];
	char name[32] = "";
	struct txn_file *f;
	struct txn_obj *obj;
	struct bench b;
	struct txn *t;
	uint8_t *bytes;
	uint64_t size;

	bench_new(&b);
	t = bench_begin(&b);
	obj = bench_create(&b, t, "f");
	assert_int_equal(txn_open(b.eng, t, obj, O_RDWR, &f), 0);
	for (uint64_t i = 0; i < 6; i++) { /* several segments, forced by the commit */
		memset(data, 'a' + (int)i, sizeof(data));
		assert_int_equal(txn_write(f, data, sizeof(data), i * sizeof(data), false), sizeof(data));
	}
	assert_int_equal(txn_commit(t), 0);
	txn_put(t);
	txn_close(f);
	txn_obj_put(obj);
	bench_crash(&b);
	assert_int_equal(sim_wal_names(b.sim, first_name, name), 0);
	assert_int_equal(sim_peek(b.sim, name, &bytes, &size), 0);
	bytes[size / 2] ^= 1;
	assert_int_equal(sim_poke(b.sim, name, bytes, size), 0);
	free(bytes);
	for (uint64_t n = 0; n < 30; n++) {
		struct bench again = {.sim = sim_kill(b.sim)};

		fault_account_reset();
		fault_arm(&(struct fault){.call = FAULT_os_pread, .n = n, .how = FAULT_EIO});
		if (bench_try_open(&again) == 0)
			fail_msg("the engine opens a damaged log when read number %d fails", (int)n);
		sim_free(again.sim);
	}
	sim_free(b.sim);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(failed_sync_of_home_is_final),
		cmocka_unit_test(failed_sync_before_commit_is_final),
		cmocka_unit_test(failed_fsync_of_what_is_logged_is_final),
		cmocka_unit_test(damage_is_no_torn_tail_when_reading_fails),
		cmocka_unit_test(every_call_fails),
		cmocka_unit_test(calls_fail_on_a_real_directory),
	};

	int failed;

	run_command = argv[0];
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	failed = cmocka_run_group_tests_name("engine_faults", tests, NULL, NULL);
	run_cases_total();
	return failed;
}
