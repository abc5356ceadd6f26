/*
 * crash_kit.h - an engine that dies before the n-th change it makes, for tests: a store and a log that forward to the
 * real ones and, from that moment on, refuse everything that would change the disk. What was done stays done, as after
 * a kill of the process. Only one such engine lives at a time.
 */
#ifndef TXNFS_CRASH_KIT_H
#define TXNFS_CRASH_KIT_H

#include "tests/engine_kit.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

static struct crash {
	struct store pub;
	const struct store *real;
	struct store_ops ops;
	struct os os;
	long left; /* changes until the crash; < 0: never */
	long done;
	bool dead;
	atomic_bool hold; /* writes to files wait meanwhile */
	bool cut_off; /* the log and syncs go on, all else is refused: what is committed does not get home */
	bool full; /* writes to files find no space until a reservation is released */
	/* What the log was before the writes that are not durable yet. */
	struct crash_undo {
		int fd;
		uint64_t off;
		size_t len;
		uint8_t *bytes;
	} undo[4096];
	size_t nundo;
	uint64_t synced[256]; /* inodes that were made durable, in order */
	size_t nsynced;
} crash;

static pthread_mutex_t crash_lock = PTHREAD_MUTEX_INITIALIZER; /* the counters and lists, once threads run */

static inline bool crash_now(void)
{
	bool dead;

	pthread_mutex_lock(&crash_lock);
	if (!crash.dead && crash.left >= 0 && crash.left-- == 0)
		crash.dead = true;
	crash.done += !crash.dead;
	dead = crash.dead;
	pthread_mutex_unlock(&crash_lock);
	return dead;
}

static inline void crash_die(void)
{
	pthread_mutex_lock(&crash_lock);
	crash.dead = true;
	pthread_mutex_unlock(&crash_lock);
}

#define CRASH_REAL ((struct store *)(uintptr_t)crash.real)
#define CRASH_OP(call) (crash.cut_off || crash_now() ? -EIO : (call))
#define CRASH_LOG_OP(call) (crash_now() ? -EIO : (call))

static void crash_close(struct store *st UNUSED)
{
}

static struct store_obj *crash_root(struct store *st UNUSED)
{
	return crash.real->ops->root(CRASH_REAL);
}

static struct store_obj *crash_stage(struct store *st UNUSED)
{
	return crash.real->ops->stage(CRASH_REAL);
}

static struct store_obj *crash_trash(struct store *st UNUSED)
{
	return crash.real->ops->trash(CRASH_REAL);
}

static int crash_resolve(struct store *st UNUSED, const struct store_id *id, const char *hint, const char *stage_name,
                         struct store_obj **out)
{
	return crash.real->ops->resolve(CRASH_REAL, id, hint, stage_name, out);
}

static int crash_create(struct store_obj *dir, const char *name, const struct store_new *nw, bool inherit,
                        struct store_obj **out, struct stat *attr)
{
	return CRASH_OP(crash.real->ops->create(dir, name, nw, inherit, out, attr));
}

static int crash_tmpfile(struct store_obj *dir, const struct store_new *nw, struct store_obj **out, struct stat *attr,
                         struct store_file **file)
{
	return CRASH_OP(crash.real->ops->tmpfile(dir, nw, out, attr, file));
}

static int crash_link(struct store_obj *obj, struct store_obj *dir, const char *name)
{
	return CRASH_OP(crash.real->ops->link(obj, dir, name));
}

static int crash_unlink(struct store_obj *dir, const char *name, bool is_dir)
{
	return CRASH_OP(crash.real->ops->unlink(dir, name, is_dir));
}

static int crash_rename(struct store_obj *dir, const char *name, struct store_obj *to_dir, const char *to_name,
                        unsigned flags)
{
	return CRASH_OP(crash.real->ops->rename(dir, name, to_dir, to_name, flags));
}

static int crash_setattr(struct store_obj *obj, const struct stat *attr, unsigned mask)
{
	return CRASH_OP(crash.real->ops->setattr(obj, attr, mask));
}

static int crash_setxattr(struct store_obj *obj, const char *name, const void *value, size_t size, int flags)
{
	return CRASH_OP(crash.real->ops->setxattr(obj, name, value, size, flags));
}

static int crash_removexattr(struct store_obj *obj, const char *name)
{
	return CRASH_OP(crash.real->ops->removexattr(obj, name));
}

static ssize_t crash_write(struct store_file *f, const void *buf, size_t n, uint64_t off)
{
	while (atomic_load(&crash.hold))
		sched_yield();
	if (crash.full)
		return -ENOSPC;
	return CRASH_OP(crash.real->ops->write(f, buf, n, off));
}

static int crash_fallocate(struct store_file *f, int mode, uint64_t off, uint64_t len)
{
	return CRASH_OP(crash.real->ops->fallocate(f, mode, off, len));
}

static ssize_t crash_copy(struct store_file *in, uint64_t off_in, struct store_file *out, uint64_t off_out, size_t n)
{
	return CRASH_OP(crash.real->ops->copy(in, off_in, out, off_out, n));
}

/* The page cache survives a kill: nothing is to be gained by waiting for the disk. */
static int crash_sync(struct store_obj *obj, bool data_only UNUSED)
{
	if (crash_now())
		return -EIO;
	pthread_mutex_lock(&crash_lock);
	if (crash.nsynced < ARRAY_LEN(crash.synced))
		crash.synced[crash.nsynced++] = obj->ino;
	pthread_mutex_unlock(&crash_lock);
	return 0;
}

static int crash_sync_all(struct store *st UNUSED)
{
	return crash_now() ? -EIO : 0;
}

static int crash_reserve(struct store *st UNUSED, uint64_t bytes UNUSED)
{
	return 0;
}

static void crash_release(struct store *st UNUSED, uint64_t bytes UNUSED)
{
	crash.full = false;
}

static int crash_seal(struct store *st)
{
	int r = crash.real->ops->seal(CRASH_REAL);

	st->sealed = crash.real->sealed;
	st->foreign = crash.real->foreign;
	return r;
}

static int crash_statfs(struct store *st UNUSED, struct statvfs *sv)
{
	return crash.real->ops->statfs(CRASH_REAL, sv);
}

static ssize_t crash_os_pwritev(void *ctx, int fd, const struct iovec *iov, int iovcnt, uint64_t off)
{
	struct crash_undo u = {.fd = fd, .off = off};
	ssize_t had;

	for (int i = 0; i < iovcnt; i++)
		u.len += iov[i].iov_len;
	if (crash_now())
		return -EIO;
	pthread_mutex_lock(&crash_lock);
	if (crash.nundo < ARRAY_LEN(crash.undo)) {
		u.bytes = calloc(1, u.len);
		assert_non_null(u.bytes);
		had = os_real()->pread(ctx, fd, u.bytes, u.len, off);
		assert_true(had >= 0);
		crash.undo[crash.nundo++] = u;
	}
	pthread_mutex_unlock(&crash_lock);
	return os_real()->pwritev(ctx, fd, iov, iovcnt, off);
}

static int crash_os_sync(void *ctx UNUSED, int fd)
{
	size_t kept = 0;
	bool dead;

	pthread_mutex_lock(&crash_lock);
	dead = crash.dead;
	for (size_t i = 0; i < crash.nundo; i++)
		if (!dead && crash.undo[i].fd == fd)
			free(crash.undo[i].bytes);
		else
			crash.undo[kept++] = crash.undo[i];
	crash.nundo = kept;
	pthread_mutex_unlock(&crash_lock);
	return dead ? -EIO : 0;
}

/* Power cut that takes from the log all that was not forced, and leaves the files as they are. Ends the engine. */
static inline void crash_without_log_tail(struct kit *k)
{
	crash.dead = true;
	while (crash.nundo) {
		struct crash_undo *u = &crash.undo[--crash.nundo];

		assert_int_equal(pwrite(u->fd, u->bytes, u->len, (off_t)u->off), u->len);
		free(u->bytes);
	}
	kit_crash(k);
}

static inline bool crash_was_synced(uint64_t ino, size_t since)
{
	for (size_t i = since; i < crash.nsynced; i++)
		if (crash.synced[i] == ino)
			return true;
	return false;
}

static int crash_os_rename(void *ctx, int dir, const char *from, const char *to)
{
	return CRASH_LOG_OP(os_real()->renameat(ctx, dir, from, to));
}

static int crash_os_unlink(void *ctx, int dir, const char *name)
{
	return CRASH_LOG_OP(os_real()->unlinkat(ctx, dir, name));
}

/* Open so that it dies before change number n (0: the first; < 0: never). */
static inline int crash_try_open(struct kit *k, long n, char *err, size_t errlen)
{
	struct store_dir_options so = {.create = true};
	struct txn_config cfg = {0};
	int r = store_dir_open(k->dir, &so, &k->store, &k->wal, err, errlen);

	if (r)
		return r;
	while (crash.nundo)
		free(crash.undo[--crash.nundo].bytes);
	crash = (struct crash){.real = k->store, .ops = *k->store->ops, .os = *os_real(), .left = n};
	crash.pub.ops = &crash.ops;
	crash.ops.close = crash_close;
	crash.ops.root = crash_root;
	crash.ops.stage = crash_stage;
	crash.ops.trash = crash_trash;
	crash.ops.resolve = crash_resolve;
	crash.ops.create = crash_create;
	crash.ops.tmpfile = crash_tmpfile;
	crash.ops.link = crash_link;
	crash.ops.unlink = crash_unlink;
	crash.ops.rename = crash_rename;
	crash.ops.setattr = crash_setattr;
	crash.ops.setxattr = crash_setxattr;
	crash.ops.removexattr = crash_removexattr;
	crash.ops.write = crash_write;
	crash.ops.fallocate = crash_fallocate;
	crash.ops.copy = crash_copy;
	crash.ops.sync = crash_sync;
	crash.ops.sync_all = crash_sync_all;
	crash.ops.reserve = crash_reserve;
	crash.ops.release = crash_release;
	crash.ops.statfs = crash_statfs;
	crash.ops.seal = crash_seal;
	crash.pub.sealed = crash.real->sealed;
	crash.pub.foreign = crash.real->foreign;
	crash.os.pwritev = crash_os_pwritev;
	crash.os.fdatasync = crash.os.fsync = crash_os_sync;
	crash.os.renameat = crash_os_rename;
	crash.os.unlinkat = crash_os_unlink;
	cfg.store = &crash.pub;
	cfg.os = &crash.os;
	cfg.wal_dirfd = k->wal;
	cfg.no_threads = !k->threads;
	cfg.segment_size = k->segment;
	cfg.checkpoint_bytes = k->checkpoint_bytes;
	memset(&k->rec, 0, sizeof(k->rec));
	r = txn_engine_open(&cfg, &k->eng, &k->rec, err, errlen);
	if (r)
		k->store->ops->close(k->store);
	return r;
}

static inline void crash_open(struct kit *k, long n)
{
	char err[512] = "";
	int r = crash_try_open(k, n, err, sizeof(err));

	if (r)
		fail_msg("engine does not open: %s (%s)", err, strerror(-r));
}

/* A scratch directory without an engine yet; in memory when there is room for it. */
static inline void crash_new(struct kit *k)
{
	const char *base = getenv("TXNFS_TEST_DIR");

	memset(k, 0, sizeof(*k));
	k->segment = 64u << 10;
	snprintf(k->dir, sizeof(k->dir), "%s/txnfs-crash.XXXXXX",
	         base ? base : access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(k->dir));
}

static inline void crash_remove(struct kit *k)
{
	while (crash.nundo)
		free(crash.undo[--crash.nundo].bytes);
	nftw(k->dir, kit_rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
