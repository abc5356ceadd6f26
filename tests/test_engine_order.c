/*
 * test_engine_order.c - a transaction that ended may have committed behind one that has not: the log must keep it.
 *
 *     S changes a.  X logs COMMIT, is durable, and is not visible yet.  P changes b, commits, is installed.
 *     S changes b, commits, is installed.  X becomes visible.  A checkpoint finds X alone: its `clean` is X's COMMIT, below
 *     P's and S's, its `scan` X's first record, above S's.  Crash: recovery redoes P, and not S, whose beginning is gone.
 *
 * Two functions are wrapped (--wrap), to stop a thread at the flip and at the install.
 */
#include "tests/engine_kit.h"
#include "wal/wal.h"

#include <pthread.h>

int __real_pthread_rwlock_wrlock(pthread_rwlock_t *l);
int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *l);
int __real_wal_read(struct wal *wal, uint64_t pos, void *buf, size_t n);
int __wrap_wal_read(struct wal *wal, uint64_t pos, void *buf, size_t n);

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cv = PTHREAD_COND_INITIALIZER;
static __thread bool slow;
static bool flip_waits, flip_go, install_stall, install_waits, install_go;

int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *l)
{
	if (slow) {
		pthread_mutex_lock(&mu);
		flip_waits = true;
		pthread_cond_broadcast(&cv);
		while (!flip_go)
			pthread_cond_wait(&cv, &mu);
		pthread_mutex_unlock(&mu);
		slow = false;
	}
	return __real_pthread_rwlock_wrlock(l);
}

int __wrap_wal_read(struct wal *wal, uint64_t pos, void *buf, size_t n)
{
	pthread_mutex_lock(&mu);
	if (install_stall) {
		install_waits = true;
		pthread_cond_broadcast(&cv);
		while (!install_go)
			pthread_cond_wait(&cv, &mu);
	}
	pthread_mutex_unlock(&mu);
	return __real_wal_read(wal, pos, buf, n);
}

static void wait_for(bool *flag)
{
	pthread_mutex_lock(&mu);
	while (!*flag)
		pthread_cond_wait(&cv, &mu);
	pthread_mutex_unlock(&mu);
}

static void let(bool *flag)
{
	pthread_mutex_lock(&mu);
	*flag = true;
	pthread_cond_broadcast(&cv);
	pthread_mutex_unlock(&mu);
}

static void *commit_slowly(void *t)
{
	slow = true;
	kit_commit(t);
	return NULL;
}

static void test_ended_behind_one_that_has_not(void **state UNUSED)
{
	static char filler[40000];
	struct txn *s, *x, *p, *f;
	pthread_t thread;
	struct kit k;

	kit_new(&k);
	kit_close(&k);
	k.threads = true;
	k.segment = 0;
	kit_open(&k);
	kit_put(&k, NULL, "a", "a");
	kit_put(&k, NULL, "b", "b");
	kit_put(&k, NULL, "c", "c");
	kit_put(&k, NULL, "z", "z");
	assert_int_equal(txn_checkpoint(k.eng), 0);

	s = kit_begin(&k);
	kit_write(&k, s, "a", 0, "S");
	for (int i = 0; i < 30; i++) { /* some segments */
		f = kit_begin(&k);
		assert_int_equal(kit_try_write(&k, f, "z", 0, filler, sizeof(filler)), sizeof(filler));
		kit_commit(f);
	}
	assert_int_equal(txn_drain(k.eng), 0);

	x = kit_begin(&k);
	kit_write(&k, x, "c", 0, "X");
	assert_int_equal(pthread_create(&thread, NULL, commit_slowly, x), 0);
	wait_for(&flip_waits);
	p = kit_begin(&k);
	kit_write(&k, p, "b", 0, "P");
	kit_commit(p);
	assert_int_equal(txn_drain(k.eng), 0);
	kit_write(&k, s, "b", 0, "S");
	kit_commit(s);
	assert_int_equal(txn_drain(k.eng), 0);
	install_stall = true;
	let(&flip_go);
	wait_for(&install_waits);
	pthread_join(thread, NULL);
	assert_int_equal(txn_checkpoint(k.eng), 0);
	let(&install_go);
	assert_int_equal(txn_drain(k.eng), 0);
	install_stall = false;
	kit_expect(&k, NULL, "b", "S");

	kit_reopen(&k);
	kit_expect(&k, NULL, "a", "S");
	kit_expect(&k, NULL, "c", "X");
	kit_expect(&k, NULL, "b", "S");
	kit_free(&k);
}

static void checkpoint_before_flip(void *arg)
{
	struct kit *k = arg;

	kit_expect(k, NULL, "a", "a"); /* durable, and nobody sees it yet; nobody waits for it either */
	kit_put(k, NULL, "b", "plain");
	assert_int_equal(txn_checkpoint(k->eng), 0);
}

/* A checkpoint between the force and the flip reckons with a commit that is in no list of installs yet. */
static void test_checkpoint_before_flip(void **state UNUSED)
{
	struct txn *t;
	struct kit k;

	kit_new(&k);
	kit_put(&k, NULL, "a", "a");
	t = kit_begin(&k);
	kit_write(&k, t, "a", 0, "T");
	assert_int_equal(txn_commit_with(t, checkpoint_before_flip, &k), 0);
	txn_put(t);
	kit_expect(&k, NULL, "a", "T");
	kit_reopen(&k);
	assert_int_equal(k.rec.committed, 1); /* what the checkpoint did not find at home is still in the log */
	kit_expect(&k, NULL, "a", "T");
	kit_expect(&k, NULL, "b", "plain");
	kit_free(&k);
}

static void never(void *arg UNUSED)
{
	fail_msg("called for a commit that makes nothing visible");
}

static void test_nothing_to_flip(void **state UNUSED)
{
	struct txn *t;
	struct kit k;

	kit_new(&k);
	t = kit_begin(&k);
	assert_int_equal(txn_commit_with(t, never, NULL), 0);
	assert_int_equal(txn_commit_with(t, never, NULL), -EINVAL);
	txn_put(t);
	kit_free(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ended_behind_one_that_has_not),
		cmocka_unit_test(test_checkpoint_before_flip),
		cmocka_unit_test(test_nothing_to_flip),
	};

	return cmocka_run_group_tests_name("engine_order", tests, NULL, NULL);
}
