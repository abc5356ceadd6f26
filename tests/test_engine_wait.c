/* test_engine_wait.c - waiting for someone else's transaction: order, deadlines, circles, and nobody overtakes. */
#include "tests/engine_kit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define PENDING 1000

struct man {
	struct txn_waiter w;
	struct txn *t; /* NULL: a plain writer */
	atomic_int why;
	_Atomic unsigned turn; /* when it was told */
};

static _Atomic unsigned turns;

static void wake(struct txn_waiter *w, int why)
{
	struct man *m = (struct man *)w; /* the first member */

	atomic_store(&m->turn, atomic_fetch_add(&turns, 1) + 1);
	atomic_store(&m->why, why);
}

static void man(struct man *m, struct txn *t, int seconds)
{
	memset(m, 0, sizeof(*m));
	m->t = m->w.txn = t;
	m->w.wake = wake;
	atomic_store(&m->why, PENDING);
	if (seconds >= 0) {
		clock_gettime(CLOCK_MONOTONIC, &m->w.deadline);
		m->w.deadline.tv_sec += seconds;
	}
}

/* Until it is told something: deadlines and installs take their time. */
static int told(struct man *m)
{
	for (int i = 0; i < 20000 && atomic_load(&m->why) == PENDING; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	return atomic_load(&m->why);
}

static struct txn *begin(struct kit *k)
{
	struct txn *t;

	assert_int_equal(txn_begin(k->eng, &t), 0);
	return t;
}

static int attempt(struct kit *k, struct man *m, const char *path)
{
	txn_obstacle_arm(&m->w);
	return (int)kit_try_write(k, m->t, path, 0, "x", 1);
}

/* It tries to write, and queues up when it cannot: txn_wait's answer, or 2 when it could. */
static int try_or_wait(struct kit *k, struct man *m, const char *path)
{
	struct txn_obstacle c;
	int r = attempt(k, m, path);
	bool met = txn_obstacle_take(&c);

	if (r >= 0) {
		if (met)
			txn_obstacle_drop(&c);
		txn_wait_done(k->eng, &m->w);
		return 2;
	}
	assert_true(r == -EBUSY || r == TXN_INSTALLING);
	assert_true(met);
	atomic_store(&m->why, PENDING);
	return txn_wait(k->eng, &m->w, &c);
}

static void fill(struct kit *k)
{
	for (char name[2] = "a"; name[0] <= 'd'; name[0]++)
		assert_int_equal(kit_try_create(k, NULL, name, S_IFREG | 0644), 0);
}

static void end(struct txn *t, bool commit)
{
	assert_int_equal(commit ? txn_commit(t) : txn_rollback(t), 0);
	txn_put(t);
}

static struct kit start(bool threads)
{
	struct kit k;

	kit_new(&k);
	if (threads) {
		kit_crash(&k);
		k.threads = true;
		kit_open(&k);
	}
	fill(&k);
	return k;
}

static void test_first_come_first_served(void **state UNUSED)
{
	for (int commit = 0; commit < 2; commit++) {
		struct kit k = start(commit);
		struct txn *t = begin(&k);
		struct man first, m[20];

		man(&first, t, -1);
		assert_int_equal(try_or_wait(&k, &first, "a"), 2);
		for (int i = 0; i < 20; i++) {
			man(&m[i], i % 2 ? begin(&k) : NULL, 100);
			assert_int_equal(try_or_wait(&k, &m[i], "a"), 0);
		}
		assert_int_equal(txn_waiters(k.eng), 20);
		/* Something else is nobody's business. */
		assert_int_equal(kit_try_write(&k, NULL, "b", 0, "x", 1), 1);
		end(t, commit);
		for (int i = 0; i < 20; i++) {
			assert_int_equal(told(&m[i]), 0);
			if (i < 19)
				assert_int_equal(atomic_load(&m[i + 1].why), PENDING);
			assert_int_equal(try_or_wait(&k, &m[i], "a"), 2);
			if (m[i].t) {
				/* It has it now: the next one goes on waiting. */
				if (i < 19)
					assert_int_equal(atomic_load(&m[i + 1].why), PENDING);
				end(m[i].t, i % 4 == 1);
			}
		}
		for (int i = 1; i < 20; i++)
			assert_true(atomic_load(&m[i].turn) > atomic_load(&m[i - 1].turn));
		assert_int_equal(txn_waiters(k.eng), 0);
		kit_free(&k);
	}
}

static void test_nobody_overtakes(void **state UNUSED)
{
	struct kit k = start(false);
	struct txn *t = begin(&k);
	struct man first, waiting, late, later;

	man(&first, t, -1);
	man(&waiting, begin(&k), 100);
	man(&late, NULL, 100);
	man(&later, begin(&k), 100);
	assert_int_equal(try_or_wait(&k, &first, "a"), 2);
	assert_int_equal(try_or_wait(&k, &waiting, "a"), 0);
	end(t, true);
	assert_int_equal(told(&waiting), 0);
	/* It is free now, but promised. */
	assert_int_equal(try_or_wait(&k, &late, "a"), 0);
	assert_int_equal(try_or_wait(&k, &later, "a"), 0);
	assert_int_equal(attempt(&k, &waiting, "a"), 1);
	txn_wait_done(k.eng, &waiting.w);
	assert_int_equal(atomic_load(&late.why), PENDING);
	end(waiting.t, true);
	assert_int_equal(told(&late), 0);
	/* Who was told and does not want to any more lets the next one try. */
	assert_int_equal(atomic_load(&later.why), PENDING);
	txn_wait_done(k.eng, &late.w);
	assert_int_equal(told(&later), 0);
	assert_int_equal(try_or_wait(&k, &later, "a"), 2);
	end(later.t, false);
	kit_free(&k);
}

/* Told to try, and never seen again: after a moment the next one is told. */
static void test_a_promise_lapses(void **state UNUSED)
{
	struct kit k = start(false);
	struct txn *t = begin(&k);
	struct man first, lost, next;

	man(&first, t, -1);
	man(&lost, NULL, 100);
	lost.w.hold_ms = 30;
	man(&next, NULL, 100);
	assert_int_equal(try_or_wait(&k, &first, "a"), 2);
	assert_int_equal(try_or_wait(&k, &lost, "a"), 0);
	assert_int_equal(try_or_wait(&k, &next, "a"), 0);
	end(t, false);
	assert_int_equal(told(&next), 0);
	assert_int_equal(atomic_load(&lost.why), -ECANCELED);
	txn_wait_done(k.eng, &lost.w); /* does nothing any more */
	assert_int_equal(try_or_wait(&k, &next, "a"), 2);
	kit_free(&k);
}

static void test_deadlines(void **state UNUSED)
{
	struct kit k = start(false);
	struct txn *t = begin(&k);
	struct man first, m[3], at_once, after;

	man(&first, t, -1);
	assert_int_equal(try_or_wait(&k, &first, "a"), 2);
	for (int i = 0; i < 3; i++) {
		man(&m[i], NULL, i == 1 ? 100 : 0);
		m[i].w.deadline.tv_nsec += 30000000 * (3 - i);
		if (m[i].w.deadline.tv_nsec >= 1000000000) {
			m[i].w.deadline.tv_nsec -= 1000000000;
			m[i].w.deadline.tv_sec++;
		}
		assert_int_equal(try_or_wait(&k, &m[i], "a"), 0);
	}
	man(&at_once, NULL, 0);
	assert_int_equal(try_or_wait(&k, &at_once, "a"), -EBUSY);
	assert_int_equal(told(&m[2]), -EBUSY);
	assert_int_equal(told(&m[0]), -EBUSY);
	assert_true(atomic_load(&m[2].turn) < atomic_load(&m[0].turn));
	assert_int_equal(atomic_load(&m[1].why), PENDING);
	/* A deadline that moves. */
	man(&after, NULL, 100);
	assert_int_equal(try_or_wait(&k, &after, "a"), 0);
	txn_wait_deadline(k.eng, &after.w, &at_once.w.deadline);
	assert_int_equal(told(&after), -EBUSY);
	assert_int_equal(txn_waiters(k.eng), 1);
	end(t, true);
	assert_int_equal(told(&m[1]), 0);
	assert_int_equal(try_or_wait(&k, &m[1], "a"), 2);
	kit_free(&k);
}

static const struct store_ops *real;
static struct store_ops watched;
static struct kit *installing;
static struct man *late, *later;

/* In the midst of an install: the time of one waiter is over, and then another one's, who proves it. */
static ssize_t watched_write(struct store_file *f, const void *buf, size_t n, uint64_t off)
{
	struct timespec now;

	if (late) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		txn_wait_deadline(installing->eng, &late->w, &now);
		late = NULL;
		txn_wait_deadline(installing->eng, &later->w, &now);
		assert_int_equal(told(later), -EBUSY);
	}
	return real->write(f, buf, n, off);
}

static struct kit start_watched(void)
{
	struct store_dir_options so = {0};
	struct txn_config cfg = {.no_threads = true};
	char err[512];
	struct kit k = start(false);

	kit_crash(&k);
	assert_int_equal(store_dir_open(k.dir, &so, &k.store, &k.wal, err, sizeof(err)), 0);
	real = k.store->ops;
	watched = *real;
	watched.write = watched_write;
	k.store->ops = &watched;
	cfg.store = k.store;
	cfg.wal_dirfd = k.wal;
	assert_int_equal(txn_engine_open(&cfg, &k.eng, NULL, err, sizeof(err)), 0);
	return k;
}

/* A deadline that passes while the holder is on its way out counts again when the next in the queue has the thing. */
static void test_a_deadline_during_an_install(void **state UNUSED)
{
	struct kit k = start_watched();
	struct txn *t = begin(&k), *other = begin(&k);
	struct man one, two, next, third, clock;

	installing = &k;
	man(&one, t, -1);
	assert_int_equal(try_or_wait(&k, &one, "a"), 2);
	man(&two, other, -1);
	assert_int_equal(try_or_wait(&k, &two, "b"), 2);
	man(&next, begin(&k), -1);
	assert_int_equal(try_or_wait(&k, &next, "a"), 0);
	man(&third, NULL, 100);
	assert_int_equal(try_or_wait(&k, &third, "a"), 0);
	man(&clock, NULL, 100);
	assert_int_equal(try_or_wait(&k, &clock, "b"), 0);
	late = &third;
	later = &clock;
	end(t, true);
	assert_null(late);
	assert_int_equal(told(&next), 0);
	assert_int_equal(atomic_load(&third.why), PENDING);
	assert_int_equal(try_or_wait(&k, &next, "a"), 2);
	assert_int_equal(told(&third), -EBUSY);
	end(next.t, false);
	end(other, false);
	assert_int_equal(txn_waiters(k.eng), 0);
	kit_free(&k);
}

static void test_circles(void **state UNUSED)
{
	for (int n = 2; n <= 4; n++) {
		struct kit k = start(false);
		struct man m[4];
		char name[2] = "a", next[2] = "a";

		for (int i = 0; i < n; i++) {
			man(&m[i], begin(&k), 100);
			name[0] = (char)('a' + i);
			assert_int_equal(try_or_wait(&k, &m[i], name), 2);
		}
		for (int i = 0; i < n; i++) {
			next[0] = (char)('a' + (i + 1) % n);
			/* The last one would close it, at once, and goes on. */
			assert_int_equal(try_or_wait(&k, &m[i], next), i == n - 1 ? -EDEADLK : 0);
		}
		assert_int_equal(txn_waiters(k.eng), (size_t)(n - 1));
		for (int i = n - 1; i >= 0; i--) {
			if (i < n - 1) {
				next[0] = (char)('a' + i + 1);
				assert_int_equal(told(&m[i]), 0);
				assert_int_equal(try_or_wait(&k, &m[i], next), 2);
			}
			end(m[i].t, true);
		}
		kit_free(&k);
	}
}

/* x and y wait for a; y has b, x waits for nothing else yet: a circle only once a is x's, who waits for b too. */
static void test_a_circle_that_comes_by_passing_on(void **state UNUSED)
{
	struct kit k = start(false);
	struct txn *t = begin(&k);
	struct man first, x, y, x2;

	man(&first, t, -1);
	man(&x, begin(&k), 100);
	man(&y, begin(&k), 100);
	man(&x2, x.t, 100);
	assert_int_equal(try_or_wait(&k, &first, "a"), 2);
	assert_int_equal(try_or_wait(&k, &y, "b"), 2);
	assert_int_equal(try_or_wait(&k, &x, "a"), 0);
	assert_int_equal(try_or_wait(&k, &y, "a"), 0);
	assert_int_equal(try_or_wait(&k, &x2, "b"), 0); /* several waits of one transaction */
	uint64_t ids[4];
	assert_int_equal(txn_waits_for(x.t, ids, 4), 2);
	end(t, true);
	assert_int_equal(told(&x), 0);
	assert_int_equal(try_or_wait(&k, &x, "a"), 2);
	assert_int_equal(told(&y), -EDEADLK);
	assert_int_equal(atomic_load(&x2.why), PENDING);
	end(y.t, false);
	assert_int_equal(told(&x2), 0);
	assert_int_equal(try_or_wait(&k, &x2, "b"), 2);
	end(x.t, true);
	kit_free(&k);
}

/* Two of one transaction wait for the same: when one has got it, nothing is in the other's way. */
static void test_two_of_one(void **state UNUSED)
{
	struct kit k = start(false);
	struct txn *t = begin(&k);
	struct man first, x, x2, other;

	man(&first, t, -1);
	man(&x, begin(&k), 100);
	man(&x2, x.t, 100);
	man(&other, NULL, 100);
	assert_int_equal(try_or_wait(&k, &first, "a"), 2);
	assert_int_equal(try_or_wait(&k, &x, "a"), 0);
	assert_int_equal(try_or_wait(&k, &other, "a"), 0);
	assert_int_equal(try_or_wait(&k, &x2, "a"), 0);
	end(t, false);
	assert_int_equal(told(&x), 0);
	assert_int_equal(try_or_wait(&k, &x, "a"), 2);
	assert_int_equal(told(&x2), 0);
	assert_int_equal(try_or_wait(&k, &x2, "a"), 2);
	assert_int_equal(atomic_load(&other.why), PENDING);
	end(x.t, true);
	assert_int_equal(told(&other), 0);
	txn_wait_done(k.eng, &other.w);
	kit_free(&k);
}

static void test_cancel_and_end(void **state UNUSED)
{
	struct kit k = start(false);
	struct txn *t = begin(&k);
	struct man first, a, b, c;

	man(&first, t, -1);
	man(&a, NULL, 100);
	man(&b, begin(&k), 100);
	man(&c, NULL, 100);
	assert_int_equal(try_or_wait(&k, &first, "a"), 2);
	assert_int_equal(try_or_wait(&k, &a, "a"), 0);
	assert_int_equal(try_or_wait(&k, &b, "a"), 0);
	assert_true(txn_wait_cancel(k.eng, &a.w));
	assert_false(txn_wait_cancel(k.eng, &c.w)); /* before it waits */
	assert_int_equal(try_or_wait(&k, &c, "a"), -EINTR);
	/* Its own transaction ends. */
	end(b.t, false);
	assert_int_equal(told(&b), -ENOTCONN);
	assert_int_equal(atomic_load(&a.why), PENDING);
	assert_int_equal(txn_waiters(k.eng), 0);
	end(t, true);
	assert_int_equal(kit_try_write(&k, NULL, "a", 0, "x", 1), 1);
	kit_free(&k);
}

/* Names: creating, removing the object that someone writes, a directory with someone's name in it. */
static void test_names(void **state UNUSED)
{
	struct kit k = start(false);
	struct txn *t = begin(&k);
	struct txn_obstacle c;
	struct man m[3];

	assert_int_equal(kit_try_create(&k, NULL, "dir", S_IFDIR | 0755), 0);
	assert_int_equal(kit_try_create(&k, t, "dir/new", S_IFREG | 0644), 0);
	assert_int_equal(kit_try_write(&k, t, "a", 0, "x", 1), 1);
	for (int i = 0; i < 3; i++) {
		man(&m[i], NULL, 100);
		txn_obstacle_arm(NULL);
		switch (i) {
		case 0:
			assert_int_equal(kit_try_create(&k, NULL, "dir/new", S_IFREG | 0644), -EBUSY);
			break;
		case 1:
			assert_int_equal(kit_try_unlink(&k, NULL, "a", false), -EBUSY);
			break;
		default:
			assert_int_equal(kit_try_unlink(&k, NULL, "dir", true), -EBUSY);
		}
		assert_true(txn_obstacle_take(&c));
		assert_ptr_equal(c.holder, t);
		assert_string_equal(c.name, i == 1 ? "" : "new");
		assert_int_equal(txn_wait(k.eng, &m[i].w, &c), 0);
	}
	txn_obstacle_arm(NULL);
	assert_int_equal(txn_would_conflict(k.eng, NULL, txn_root(k.eng), "a"), -EBUSY);
	assert_true(txn_obstacle_take(&c));
	assert_string_equal(c.name, "");
	txn_obstacle_drop(&c);
	assert_int_equal(txn_would_conflict(k.eng, NULL, txn_root(k.eng), "b"), 0);
	assert_int_equal(txn_would_conflict(k.eng, t, txn_root(k.eng), "a"), 0);
	end(t, false);
	assert_int_equal(told(&m[0]), 0);
	assert_int_equal(told(&m[1]), 0);
	assert_int_equal(atomic_load(&m[2].why), PENDING); /* behind the first one, at the same name */
	txn_wait_done(k.eng, &m[0].w);
	assert_int_equal(told(&m[2]), 0);
	txn_wait_done(k.eng, &m[1].w);
	txn_wait_done(k.eng, &m[2].w);
	assert_int_equal(kit_try_unlink(&k, NULL, "dir", true), 0);
	kit_free(&k);
}

/* ---- threads ---- */

#define THREADS 8
#define ROUNDS 150

struct crowd {
	struct kit *k;
	atomic_int inside[4]; /* who has changed the file and has not ended: one at a time */
	atomic_int circles, timeouts, commits;
};

struct one {
	struct crowd *c;
	unsigned seed;
};

/* Transactions over four files in any order: circles come up, and nobody waits for ever. */
static void *live(void *arg)
{
	struct one *o = arg;
	struct crowd *c = o->c;
	unsigned rng = o->seed;

	for (int round = 0; round < ROUNDS; round++) {
		struct txn *t = begin(c->k);
		unsigned mine = 0;
		bool lost = false;

		for (int i = 0; i < 3 && !lost; i++) {
			int f = (int)((rng = rng * 1103515245 + 12345) >> 16) % 4, r;
			char name[2] = {(char)('a' + f), 0};
			struct man m;

			man(&m, t, 60);
			while ((r = try_or_wait(c->k, &m, name)) != 2) {
				if (r == 0)
					r = told(&m);
				if (r < 0) {
					txn_wait_done(c->k->eng, &m.w);
					lost = true;
					atomic_fetch_add(r == -EDEADLK ? &c->circles : &c->timeouts, 1);
					break;
				}
			}
			if (!lost && !(mine & (1u << f))) {
				mine |= 1u << f;
				assert_int_equal(atomic_fetch_add(&c->inside[f], 1), 0);
			}
		}
		for (int f = 0; f < 4; f++)
			if (mine & (1u << f))
				atomic_fetch_sub(&c->inside[f], 1);
		atomic_fetch_add(&c->commits, !lost);
		end(t, !lost);
	}
	return NULL;
}

static void test_a_crowd(void **state UNUSED)
{
	struct kit k = start(true);
	struct crowd c = {.k = &k};
	struct one one[THREADS];
	pthread_t thread[THREADS];

	for (int i = 0; i < THREADS; i++) {
		one[i] = (struct one){&c, (unsigned)i * 7919 + 1};
		assert_int_equal(pthread_create(&thread[i], NULL, live, &one[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(atomic_load(&c.timeouts), 0);
	assert_int_equal(txn_waiters(k.eng), 0);
	assert_true(atomic_load(&c.commits) > 0);
	kit_free(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_come_first_served),
		cmocka_unit_test(test_nobody_overtakes),
		cmocka_unit_test(test_a_promise_lapses),
		cmocka_unit_test(test_deadlines),
		cmocka_unit_test(test_a_deadline_during_an_install),
		cmocka_unit_test(test_circles),
		cmocka_unit_test(test_a_circle_that_comes_by_passing_on),
		cmocka_unit_test(test_two_of_one),
		cmocka_unit_test(test_cancel_and_end),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_a_crowd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
