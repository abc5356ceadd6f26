/* test_engine_ends.c - the ends of transactions: in another order than their commits, and what they leave behind. */
#include "tests/engine_kit.h"

#include <pthread.h>
#include <semaphore.h>

static struct kit k;
static struct txn *second, *third;
static sem_t inside, go;
static pthread_t thread;

static void hold(void *arg UNUSED)
{
	sem_post(&inside);
	sem_wait(&go);
}

static void *commit_third(void *arg UNUSED)
{
	assert_int_equal(txn_commit_with(third, hold, NULL), 0);
	return NULL;
}

static void others_commit(void *arg UNUSED)
{
	assert_int_equal(pthread_create(&thread, NULL, commit_third, NULL), 0);
	sem_wait(&inside);
	assert_int_equal(txn_commit(second), 0);
}

/*
 * The first to commit ends last of two that share a directory, while a third one, which committed between them, keeps the
 * log. The directory's mark (I5) must stay that of the later commit, or a plain change, synced, would be undone by redo.
 */
static void test_marks_never_go_back(void **state UNUSED)
{
	struct stat st = {.st_mode = 0700};
	struct txn *first;
	struct txn_obj *d = NULL;

	kit_new(&k);
	sem_init(&inside, 0, 0);
	sem_init(&go, 0, 0);
	kit_create(&k, NULL, "D", S_IFDIR | 0755);
	first = kit_begin(&k);
	second = kit_begin(&k);
	third = kit_begin(&k);
	kit_put(&k, first, "D/a", "a");
	kit_put(&k, third, "c", "c");
	assert_int_equal(kit_try_setattr(&k, second, "D", &st, STORE_SET_MODE), 0);
	assert_int_equal(txn_commit_with(first, others_commit, NULL), 0);
	assert_int_equal(txn_checkpoint(k.eng), 0);
	st.st_mode = 0777;
	assert_int_equal(kit_try_setattr(&k, NULL, "D", &st, STORE_SET_MODE), 0);
	assert_int_equal(kit_try_walk(&k, NULL, "D", &d), 0);
	assert_int_equal(txn_fsync_dir(k.eng, NULL, d), 0);
	txn_obj_put(d);
	sem_post(&go);
	pthread_join(thread, NULL);
	txn_put(first);
	txn_put(second);
	txn_put(third);
	kit_crash(&k);
	kit_open(&k);
	assert_int_equal(kit_stat(&k, NULL, "D").st_mode, S_IFDIR | 0777);
	kit_close(&k);
	sem_destroy(&inside);
	sem_destroy(&go);
}

/* What is charged to a user for a transaction is given back, to the last record. */
static void test_accounts_come_to_nothing(void **state UNUSED)
{
	struct txn_account *account = txn_account_new(8192);

	assert_non_null(account);
	kit_new(&k);
	kit_create(&k, NULL, "f", S_IFREG | 0644);
	for (int i = 0; i < 500; i++) {
		struct txn *t = kit_begin(&k);

		txn_set_account(t, account);
		assert_int_equal(kit_try_write(&k, t, "f", 0, "x", 1), 1);
		kit_commit(t);
	}
	kit_close(&k);
	txn_account_put(account);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_marks_never_go_back),
		cmocka_unit_test(test_accounts_come_to_nothing),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
