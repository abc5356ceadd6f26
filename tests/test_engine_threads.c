/*
 * test_engine_threads.c - transactions that commit at once, plain writers, readers and checkpoints, in threads: what a
 * reader sees in one moment is all of a transaction or nothing (I3), and nothing that was committed goes back.
 */
#include "tests/load_kit.h"

#define COMMITS 60

static void *reader(void *arg)
{
	struct load_writer *w = arg;
	struct kit *k = w->l->k;
	uint64_t listed[WRITERS] = {0}, shared = 0, n;
	char path[64];

	while (!atomic_load(&w->l->stop)) {
		int i = (int)load_rnd(&w->rng, WRITERS), x = (int)load_rnd(&w->rng, SHARED);
		uint64_t now = load_listed(k, NULL, i);
		struct txn_obj *obj = NULL;
		struct stat st;

		LOAD_CHECK(now >= listed[i]);
		listed[i] = now;
		snprintf(path, sizeof(path), "w%d/f%d", i, (int)load_rnd(&w->rng, FILES));
		LOAD_CHECK(load_read(k, NULL, path, &n) == 0 && n >= now);
		snprintf(path, sizeof(path), "shared/x%d", x);
		LOAD_CHECK(load_read(k, NULL, path, &n) == 0 && n >= shared);
		shared = n;
		LOAD_CHECK(kit_try_walk(k, NULL, "both", &obj) == 0);
		LOAD_CHECK(txn_getattr(k->eng, NULL, obj, &st) == 0 && (st.st_mode & 0600) == 0600);
		txn_obj_put(obj);
		sched_yield();
	}
	return NULL;
}

static void *checkpointer(void *arg)
{
	struct load_writer *w = arg;

	while (!atomic_load(&w->l->stop)) {
		LOAD_CHECK(txn_checkpoint(w->l->k->eng) == 0);
		usleep(20000);
	}
	return NULL;
}

/* A transaction that stays open the whole time: it is carried forward, and sees its own versions. */
static void *sleeper(void *arg)
{
	struct load_writer *w = arg;
	struct kit *k = w->l->k;
	struct txn *t;
	uint64_t n = 1;

	LOAD_CHECK(txn_begin(k->eng, &t) == 0);
	LOAD_CHECK(kit_try_create(k, t, "slow", S_IFREG | 0644) == 0);
	while (!atomic_load(&w->l->stop)) {
		uint64_t got;

		LOAD_CHECK(load_fill(k, t, "slow", n, 20) == 0);
		LOAD_CHECK(txn_savepoint(t, "s") == 0);
		LOAD_CHECK(load_fill(k, t, "slow", 0, 30) == 0);
		LOAD_CHECK(txn_rollback_to(t, "s") == 0 && txn_release(t, "s") == 0);
		LOAD_CHECK(load_read(k, t, "slow", &got) == 0 && got == n);
		n++;
		usleep(1000);
	}
	LOAD_CHECK(txn_commit(t) == 0);
	txn_put(t);
	return NULL;
}

static void all_at_once(void **state UNUSED)
{
	static void *(*const jobs[])(void *) = {load_writer, load_writer, load_writer, load_plain,
	                                        reader,      reader,      checkpointer, sleeper};
	struct load_writer w[ARRAY_LEN(jobs)];
	struct load l = {.limit = COMMITS};
	uint64_t seed = getenv("TXNFS_SEED") ? strtoull(getenv("TXNFS_SEED"), NULL, 0) : base_random_u64(), n;
	struct kit k;

	print_message("TXNFS_SEED=%" PRIu64 "\n", seed);
	kit_new(&k);
	kit_close(&k);
	k.segment = 128u << 10;
	k.checkpoint_bytes = 500u << 10;
	k.threads = true;
	kit_open(&k);
	load_make(&k);
	l.k = &k;
	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		w[i] = (struct load_writer){.l = &l, .i = (int)i, .rng = (seed * 31 + i * 1000003) | 1};
		assert_int_equal(pthread_create(&w[i].thread, NULL, jobs[i], &w[i]), 0);
	}
	for (size_t i = 0; i < WRITERS; i++)
		pthread_join(w[i].thread, NULL);
	atomic_store(&l.stop, true);
	for (size_t i = WRITERS; i < ARRAY_LEN(jobs); i++)
		pthread_join(w[i].thread, NULL);
	assert_null(txn_engine_error(k.eng));
	for (int again = 0; again < 2; again++) {
		for (int i = 0; i < WRITERS; i++)
			assert_int_equal(load_listed(&k, NULL, i), COMMITS);
		assert_int_equal(load_read(&k, NULL, "slow", &n), 0);
		assert_true(n > 0);
		kit_reopen(&k);
	}
	kit_free(&k);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_at_once),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("engine_threads", tests, NULL, NULL);
}
