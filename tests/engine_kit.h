/*
 * engine_kit.h - an engine on a scratch directory, for tests: open, crash, open again, short file operations.
 *
 * Paths are relative to the root, '/'-separated. Every helper asserts success unless its name says try.
 */
#ifndef TXNFS_ENGINE_KIT_H
#define TXNFS_ENGINE_KIT_H

#include "base/base.h"
#include "txn/txn.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>

struct kit {
	char dir[256];
	struct store *store;
	struct txn_engine *eng;
	struct txn_recovery rec;
	int wal;
	bool threads;
	uint32_t segment;
	uint64_t checkpoint_bytes;
};

static inline int kit_try_open(struct kit *k, char *err, size_t errlen)
{
	struct store_dir_options so = {.create = true};
	struct txn_config cfg = {0};
	int r = store_dir_open(k->dir, &so, &k->store, &k->wal, err, errlen);

	if (r)
		return r;
	cfg.store = k->store;
	cfg.wal_dirfd = k->wal;
	cfg.no_threads = !k->threads;
	cfg.segment_size = k->segment;
	cfg.checkpoint_bytes = k->checkpoint_bytes;
	r = txn_engine_open(&cfg, &k->eng, &k->rec, err, errlen);
	if (r)
		k->store->ops->close(k->store);
	return r;
}

static inline void kit_open(struct kit *k)
{
	char err[512] = "";
	int r = kit_try_open(k, err, sizeof(err));

	if (r)
		fail_msg("engine does not open: %s (%s)", err, strerror(-r));
}

static inline void kit_new(struct kit *k)
{
	const char *base = getenv("TXNFS_TEST_DIR");

	memset(k, 0, sizeof(*k));
	k->segment = 256u << 10;
	snprintf(k->dir, sizeof(k->dir), "%s/txnfs-engine.XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(k->dir));
	kit_open(k);
}

static inline void kit_crash(struct kit *k)
{
	txn_engine_abandon(k->eng);
	k->store->ops->close(k->store);
}

static inline void kit_close(struct kit *k)
{
	assert_int_equal(txn_engine_close(k->eng), 0);
	k->store->ops->close(k->store);
}

static inline void kit_reopen(struct kit *k)
{
	kit_crash(k);
	kit_open(k);
}

static inline int kit_rm_one(const char *path, const struct stat *st UNUSED, int flag UNUSED, struct FTW *ftw UNUSED)
{
	return remove(path);
}

static inline void kit_free(struct kit *k)
{
	kit_close(k);
	nftw(k->dir, kit_rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- paths ---- */

static inline int kit_try_walk(struct kit *k, struct txn *v, const char *path, struct txn_obj **out)
{
	struct txn_obj *at = txn_obj_get(txn_root(k->eng));
	char copy[1024], *save, *part;

	snprintf(copy, sizeof(copy), "%s", path);
	for (part = strtok_r(copy, "/", &save); part; part = strtok_r(NULL, "/", &save)) {
		struct txn_look look;
		int r = txn_lookup(k->eng, v, at, part, &look);

		txn_obj_put(at);
		if (r)
			return r;
		at = look.obj;
	}
	*out = at;
	return 0;
}

/* The directory of a path, and its last part. */
static inline struct txn_obj *kit_parent(struct kit *k, struct txn *v, const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	struct txn_obj *dir = NULL;
	char copy[1024];
	int r;

	snprintf(copy, sizeof(copy), "%.*s", slash ? (int)(slash - path) : 0, path);
	*name = slash ? slash + 1 : path;
	r = kit_try_walk(k, v, copy, &dir);
	if (r)
		fail_msg("no directory for \"%s\": %s", path, strerror(-r));
	return dir;
}

static inline bool kit_exists(struct kit *k, struct txn *v, const char *path)
{
	struct txn_obj *obj = NULL;
	int r = kit_try_walk(k, v, path, &obj);

	if (!r)
		txn_obj_put(obj);
	assert_true(r == 0 || r == -ENOENT);
	return r == 0;
}

static inline int kit_try_create(struct kit *k, struct txn *v, const char *path, mode_t mode)
{
	struct txn_new nw = {.mode = mode, .umask = 022, .uid = geteuid(), .gid = getegid()};
	struct txn_look look;
	const char *name;
	struct txn_obj *dir = kit_parent(k, v, path, &name);
	int r = txn_create(k->eng, v, dir, name, &nw, &look);

	if (!r)
		txn_obj_put(look.obj);
	txn_obj_put(dir);
	return r;
}

static inline void kit_create(struct kit *k, struct txn *v, const char *path, mode_t mode)
{
	assert_int_equal(kit_try_create(k, v, path, mode), 0);
}

static inline ssize_t kit_try_write(struct kit *k, struct txn *v, const char *path, uint64_t off, const void *data,
                                    size_t n)
{
	struct txn_file *f;
	struct txn_obj *obj = NULL;
	ssize_t r = kit_try_walk(k, v, path, &obj);

	if (r)
		return r;
	r = txn_open(k->eng, v, obj, O_RDWR, &f);
	txn_obj_put(obj);
	if (r)
		return r;
	r = txn_write(f, data, n, off, false);
	txn_close(f);
	return r;
}

static inline void kit_write(struct kit *k, struct txn *v, const char *path, uint64_t off, const char *text)
{
	assert_int_equal(kit_try_write(k, v, path, off, text, strlen(text)), strlen(text));
}

/* Create with contents. */
static inline void kit_put(struct kit *k, struct txn *v, const char *path, const char *text)
{
	if (!kit_exists(k, v, path))
		kit_create(k, v, path, S_IFREG | 0666);
	kit_write(k, v, path, 0, text);
}

/* The contents as a string (malloc'ed). */
static inline char *kit_get(struct kit *k, struct txn *v, const char *path)
{
	struct txn_file *f;
	struct txn_obj *obj = NULL;
	struct stat st;
	char *buf;
	ssize_t n;

	assert_int_equal(kit_try_walk(k, v, path, &obj), 0);
	assert_int_equal(txn_getattr(k->eng, v, obj, &st), 0);
	assert_int_equal(txn_open(k->eng, v, obj, O_RDONLY, &f), 0);
	buf = calloc(1, (size_t)st.st_size + 1);
	assert_non_null(buf);
	n = txn_read(f, buf, (size_t)st.st_size + 1, 0);
	assert_int_equal(n, st.st_size);
	txn_close(f);
	txn_obj_put(obj);
	return buf;
}

static inline void kit_expect(struct kit *k, struct txn *v, const char *path, const char *text)
{
	char *got = kit_get(k, v, path);

	assert_string_equal(got, text);
	free(got);
}

static inline int kit_try_unlink(struct kit *k, struct txn *v, const char *path, bool dir)
{
	const char *name;
	struct txn_obj *parent = kit_parent(k, v, path, &name);
	int r = dir ? txn_rmdir(k->eng, v, parent, name) : txn_unlink(k->eng, v, parent, name);

	txn_obj_put(parent);
	return r;
}

static inline int kit_try_rename(struct kit *k, struct txn *v, const char *from, const char *to, unsigned flags)
{
	const char *a, *b;
	struct txn_obj *da = kit_parent(k, v, from, &a), *db = kit_parent(k, v, to, &b);
	int r = txn_rename(k->eng, v, da, a, db, b, flags);

	txn_obj_put(da);
	txn_obj_put(db);
	return r;
}

static inline int kit_try_link(struct kit *k, struct txn *v, const char *from, const char *to)
{
	const char *name;
	struct txn_obj *dir, *obj = NULL;
	int r = kit_try_walk(k, v, from, &obj);

	if (r)
		return r;
	dir = kit_parent(k, v, to, &name);
	r = txn_link(k->eng, v, obj, dir, name, NULL);
	txn_obj_put(dir);
	txn_obj_put(obj);
	return r;
}

static inline int kit_try_setattr(struct kit *k, struct txn *v, const char *path, const struct stat *st, unsigned mask)
{
	struct txn_obj *obj = NULL;
	int r = kit_try_walk(k, v, path, &obj);

	if (r)
		return r;
	r = txn_setattr(k->eng, v, obj, NULL, st, mask, NULL);
	txn_obj_put(obj);
	return r;
}

static inline void kit_truncate(struct kit *k, struct txn *v, const char *path, off_t size)
{
	struct stat st = {.st_size = size};

	assert_int_equal(kit_try_setattr(k, v, path, &st, STORE_SET_SIZE | TXN_SET_MTIME_NOW), 0);
}

static inline struct stat kit_stat(struct kit *k, struct txn *v, const char *path)
{
	struct txn_obj *obj = NULL;
	struct stat st;

	assert_int_equal(kit_try_walk(k, v, path, &obj), 0);
	assert_int_equal(txn_getattr(k->eng, v, obj, &st), 0);
	txn_obj_put(obj);
	return st;
}

static inline struct txn *kit_begin(struct kit *k)
{
	struct txn *t;

	assert_int_equal(txn_begin(k->eng, &t), 0);
	return t;
}

static inline void kit_commit(struct txn *t)
{
	assert_int_equal(txn_commit(t), 0);
	txn_put(t);
}

static inline void kit_rollback(struct txn *t)
{
	assert_int_equal(txn_rollback(t), 0);
	txn_put(t);
}

#endif
