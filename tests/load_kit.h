/*
 * load_kit.h - a load whose every transaction can be checked afterwards.
 *
 * Writer i works in its directory wI and on what all share:
 *
 *     wI/f0 ... wI/f3   its number n, all over, in each of them
 *     wI/s-N            the only name of that kind: N is n
 *     shared/x0 ... x2  a count that each transaction increments, the same in all of them
 *     both              writers change its beginning, plain operations its rest and its mode
 *
 * All of a transaction's changes or none: so the numbers agree whenever they are looked at in one moment.
 */
#ifndef TXNFS_TESTS_LOAD_KIT_H
#define TXNFS_TESTS_LOAD_KIT_H

#include "tests/engine_kit.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define WRITERS 3
#define FILES 4
#define SHARED 3

struct load {
	struct kit *k;
	atomic_bool stop;
	/* After a commit. count: 0 when the shared files were left alone. */
	void (*committed)(struct load *l, int writer, uint64_t n, uint64_t count);
	int ack; /* for committed */
	uint64_t limit; /* transactions per writer; 0: until stop */
};

struct load_writer {
	struct load *l;
	pthread_t thread;
	int i;
	uint64_t n, rng;
};

/* In a thread cmocka's asserts cannot be used. */
#define LOAD_CHECK(cond)                                                                                               \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                     \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

static inline uint64_t load_rnd(uint64_t *rng, uint64_t below)
{
	*rng ^= *rng << 13;
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return (*rng >> 11) % below;
}

/* The file's first number. What was found may be replaced before it is open: then again, as the kernel does it. */
static inline int load_read(struct kit *k, struct txn *v, const char *path, uint64_t *n)
{
	struct txn_file *f;
	ssize_t got = 0;
	int r;

	do {
		struct txn_obj *obj = NULL;

		r = kit_try_walk(k, v, path, &obj);
		if (r)
			return r;
		r = txn_open(k->eng, v, obj, O_RDONLY, &f);
		txn_obj_put(obj);
	} while (r == -ESTALE);
	if (r)
		return r;
	*n = 0;
	got = txn_read(f, n, sizeof(*n), 0);
	txn_close(f);
	return got < 0 ? (int)got : 0;
}

/* A file full of one number. */
static inline int load_fill(struct kit *k, struct txn *v, const char *path, uint64_t n, size_t count)
{
	uint64_t words[2048];
	ssize_t r;

	for (size_t i = 0; i < count; i++)
		words[i] = n;
	r = kit_try_write(k, v, path, 0, words, count * sizeof(words[0]));
	return r < 0 ? (int)r : r == (ssize_t)(count * sizeof(words[0])) ? 0 : -EIO;
}

static inline void load_make(struct kit *k)
{
	char path[64];

	kit_create(k, NULL, "shared", S_IFDIR | 0755);
	kit_put(k, NULL, "both", "");
	for (int i = 0; i < SHARED; i++) {
		snprintf(path, sizeof(path), "shared/x%d", i);
		kit_create(k, NULL, path, S_IFREG | 0644);
		assert_int_equal(load_fill(k, NULL, path, 0, 1), 0);
	}
	for (int i = 0; i < WRITERS; i++) {
		snprintf(path, sizeof(path), "w%d", i);
		kit_create(k, NULL, path, S_IFDIR | 0755);
		snprintf(path, sizeof(path), "w%d/s-0", i);
		kit_create(k, NULL, path, S_IFREG | 0644);
		for (int f = 0; f < FILES; f++) {
			snprintf(path, sizeof(path), "w%d/f%d", i, f);
			kit_create(k, NULL, path, S_IFREG | 0644);
			assert_int_equal(load_fill(k, NULL, path, 0, 1), 0);
		}
	}
}

static inline int load_own_files(struct load_writer *w, struct txn *t, uint64_t n)
{
	struct kit *k = w->l->k;
	char path[64], to[64];
	struct stat st = {.st_size = 8};
	int r = 0;

	for (int f = 0; f < FILES && !r; f++) {
		snprintf(path, sizeof(path), "w%d/f%d", w->i, f);
		switch (load_rnd(&w->rng, 4)) {
		case 0: /* replaced by a new one */
			snprintf(to, sizeof(to), "w%d/new", w->i);
			r = kit_try_create(k, t, to, S_IFREG | 0644);
			if (!r)
				r = load_fill(k, t, to, n, 1 + (size_t)load_rnd(&w->rng, 2048));
			if (!r)
				r = kit_try_rename(k, t, to, path, 0);
			break;
		case 1:
			r = kit_try_setattr(k, t, path, &st, STORE_SET_SIZE | TXN_SET_MTIME_NOW);
			if (!r)
				r = load_fill(k, t, path, n, 1);
			break;
		default:
			r = load_fill(k, t, path, n, 2048);
			break;
		}
	}
	snprintf(path, sizeof(path), "w%d/s-%" PRIu64, w->i, n - 1);
	snprintf(to, sizeof(to), "w%d/s-%" PRIu64, w->i, n);
	if (!r && load_rnd(&w->rng, 2)) {
		r = kit_try_rename(k, t, path, to, 0);
	} else if (!r) {
		r = kit_try_create(k, t, to, S_IFREG | 0644);
		if (!r)
			r = kit_try_unlink(k, t, path, false);
	}
	return r;
}

static inline int load_shared_files(struct load_writer *w, struct txn *t, uint64_t *count)
{
	struct kit *k = w->l->k;
	struct stat st = {.st_mode = 0644};
	char path[64];
	/* Locks it, so that nobody else counts meanwhile. */
	int r = kit_try_setattr(k, t, "shared/x0", &st, STORE_SET_MODE);

	if (!r)
		r = load_read(k, t, "shared/x0", count);
	++*count;
	for (int i = 0; i < SHARED && !r; i++) {
		snprintf(path, sizeof(path), "shared/x%d", i);
		r = load_fill(k, t, path, *count, 1 + (size_t)load_rnd(&w->rng, 500));
	}
	if (!r)
		r = load_fill(k, t, "both", *count, 16);
	return r;
}

static inline bool load_one(struct load_writer *w)
{
	uint64_t count = 0;
	struct txn *t;
	int r;

	LOAD_CHECK(txn_begin(w->l->k->eng, &t) == 0);
	r = load_own_files(w, t, w->n + 1);
	if (!r && load_rnd(&w->rng, 3) == 0) {
		LOAD_CHECK(txn_savepoint(t, "s") == 0);
		LOAD_CHECK(load_own_files(w, t, w->n + 2) == 0);
		LOAD_CHECK(txn_rollback_to(t, "s") == 0);
	}
	if (!r && load_rnd(&w->rng, 2))
		r = load_shared_files(w, t, &count);
	LOAD_CHECK(r == 0 || r == -EBUSY);
	if (r || load_rnd(&w->rng, 10) == 0) {
		LOAD_CHECK(txn_rollback(t) == 0);
		txn_put(t);
		return false;
	}
	r = txn_commit(t);
	LOAD_CHECK(r == 0);
	txn_put(t);
	w->n++;
	if (w->l->committed)
		w->l->committed(w->l, w->i, w->n, count);
	return true;
}

static inline void *load_writer(void *arg)
{
	struct load_writer *w = arg;
	uint64_t done = 0;

	while (!atomic_load(&w->l->stop) && (!w->l->limit || done < w->l->limit)) {
		if (load_one(w))
			done++;
		else
			sched_yield();
	}
	return NULL;
}

/* Plain changes of what the log may still say something about. */
static inline void *load_plain(void *arg)
{
	struct load_writer *w = arg;
	struct kit *k = w->l->k;
	uint64_t words[300] = {0};

	while (!atomic_load(&w->l->stop)) {
		struct stat st = {.st_mode = (mode_t)(0600 | load_rnd(&w->rng, 8))};
		ssize_t r = kit_try_setattr(k, NULL, "both", &st, STORE_SET_MODE);

		LOAD_CHECK(r == 0 || r == -EBUSY);
		words[0]++;
		r = kit_try_write(k, NULL, "both", 4096, words, sizeof(words));
		LOAD_CHECK(r == (ssize_t)sizeof(words) || r == -EBUSY);
		r = kit_try_create(k, NULL, "shared/plain", S_IFREG | 0644);
		LOAD_CHECK(r == 0 || r == -EEXIST);
		r = kit_try_rename(k, NULL, "shared/plain", "shared/renamed", 0);
		LOAD_CHECK(r == 0);
		r = kit_try_unlink(k, NULL, "shared/renamed", false);
		LOAD_CHECK(r == 0);
		sched_yield();
	}
	return NULL;
}

struct load_names {
	uint64_t n;
	int names, files, others;
};

static inline int load_name(void *arg, const struct store_dirent *de)
{
	struct load_names *l = arg;

	if (!strncmp(de->name, "s-", 2)) {
		l->n = strtoull(de->name + 2, NULL, 10);
		l->names++;
	} else if (de->name[0] == 'f') {
		l->files++;
	} else {
		l->others++;
	}
	return 0;
}

/* The writer's number as the one listing of its directory tells it, at any moment. */
static inline uint64_t load_listed(struct kit *k, struct txn *v, int writer)
{
	struct load_names l = {0};
	struct txn_obj *dir = NULL;
	char path[16];

	snprintf(path, sizeof(path), "w%d", writer);
	LOAD_CHECK(kit_try_walk(k, v, path, &dir) == 0);
	LOAD_CHECK(txn_readdir(k->eng, v, dir, load_name, &l) == 0);
	txn_obj_put(dir);
	if (l.names != 1 || l.files != FILES || l.others)
		fprintf(stderr, "%s lists %d numbers, %d files, %d others\n", path, l.names, l.files, l.others);
	LOAD_CHECK(l.names == 1 && l.files == FILES && l.others == 0);
	return l.n;
}

#endif
