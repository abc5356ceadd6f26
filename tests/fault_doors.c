/*
 * fault_doors.c - a store and the log's door to the operating system in front of others: each call passes a gate where
 * it may fail, and what the engine gets and gives back is counted.
 */
#include "tests/fault_private.h"

#include <stdio.h>
#include <string.h>

#define HANDLES 4096

static struct {
	struct store pub;
	struct store *real;
	const struct os *real_os;
	struct os os;
	bool needs_memory;
	/* What the engine holds */
	long refs, files, handles;
	bool bad_sync[HANDLES]; /* a sync of this handle has failed */
	char sin[128];
} L;

const char *fault_account(void)
{
	static char text[160];

	if (L.sin[0])
		return L.sin;
	if (!L.refs && !L.files && !L.handles)
		return NULL;
	snprintf(text, sizeof(text), "not given back: %ld references, %ld open files, %ld handles of the log", L.refs,
	         L.files, L.handles);
	return text;
}

void fault_account_reset(void)
{
	L.refs = L.files = L.handles = 0;
	L.sin[0] = '\0';
	memset(L.bad_sync, 0, sizeof(L.bad_sync));
}

static void enter(void)
{
	if (L.needs_memory)
		fault_alloc_pause();
}

static void leave(void)
{
	if (L.needs_memory)
		fault_alloc_resume();
}

void fault_real_needs_memory(bool needs)
{
	L.needs_memory = needs;
}

/* The real thing's value, for which it has all the memory that it wants. */
#define REAL(call)                                                                                                     \
	({                                                                                                             \
		enter();                                                                                               \
		__typeof__(L.real->ops->call) real_ = L.real->ops->call;                                               \
		leave();                                                                                               \
		real_;                                                                                                 \
	})

/* Unless the call is to fail. */
#define GATED(c, call)                                                                                                 \
	({                                                                                                             \
		int r_ = fault_gate(c, NULL);                                                                          \
		r_ ? r_ : REAL(call);                                                                                  \
	})

/* What a failed call leaves in its outputs: nothing that anyone may use. */
#define POISON(p)                                                                                                      \
	do {                                                                                                           \
		if (p)                                                                                                 \
			memset((p), 0xa5, sizeof(*(p)));                                                               \
	} while (0)

/* ---- the store ---- */

static void f_close(struct store *st UNUSED)
{
}

static struct store_obj *f_root(struct store *st UNUSED)
{
	return REAL(root(L.real));
}

static struct store_obj *f_stage(struct store *st UNUSED)
{
	return REAL(stage(L.real));
}

static struct store_obj *f_trash(struct store *st UNUSED)
{
	return REAL(trash(L.real));
}

static struct store_obj *f_get(struct store_obj *obj)
{
	L.refs++;
	return REAL(get(obj));
}

static void f_put(struct store_obj *obj)
{
	L.refs--;
	enter();
	L.real->ops->put(obj);
	leave();
}

static void f_forsake(struct store_obj *obj)
{
	enter();
	L.real->ops->forsake(obj);
	leave();
}

static int f_id(struct store_obj *obj, struct store_id *id)
{
	int r = GATED(FAULT_store_id, id(obj, id));

	if (r)
		POISON(id);
	return r;
}

/* A reference given, or not. */
static int given(int r, struct store_obj **out, struct stat *attr)
{
	if (r) {
		POISON(out);
		POISON(attr);
	} else {
		L.refs++;
	}
	return r;
}

static int f_resolve(struct store *st UNUSED, const struct store_id *id, const char *hint, const char *stage_name,
                     struct store_obj **out)
{
	/* The engine's own `NULL` says that there is none: so this one is left alone. */
	int r = GATED(FAULT_store_resolve, resolve(L.real, id, hint, stage_name, out));

	L.refs += !r;
	return r;
}

static int f_place(struct store_obj *obj, struct store_obj **parent, char **name)
{
	int r = GATED(FAULT_store_place, place(obj, parent, name));

	L.refs += !r;
	return r;
}

static int f_lookup(struct store_obj *dir, const char *name, struct store_obj **out, struct stat *attr)
{
	return given(GATED(FAULT_store_lookup, lookup(dir, name, out, attr)), out, attr);
}

static int f_create(struct store_obj *dir, const char *name, const struct store_new *nw, bool inherit,
                    struct store_obj **out, struct stat *attr)
{
	return given(GATED(FAULT_store_create, create(dir, name, nw, inherit, out, attr)), out, attr);
}

static int f_tmpfile(struct store_obj *dir, const struct store_new *nw, struct store_obj **out, struct stat *attr,
                     struct store_file **file)
{
	int r = given(GATED(FAULT_store_tmpfile, tmpfile(dir, nw, out, attr, file)), out, attr);

	L.files += !r;
	return r;
}

static int f_link(struct store_obj *obj, struct store_obj *dir, const char *name)
{
	return GATED(FAULT_store_link, link(obj, dir, name));
}

static int f_unlink(struct store_obj *dir, const char *name, bool is_dir)
{
	return GATED(FAULT_store_unlink, unlink(dir, name, is_dir));
}

static int f_rename(struct store_obj *dir, const char *name, struct store_obj *to_dir, const char *to_name,
                    unsigned flags)
{
	return GATED(FAULT_store_rename, rename(dir, name, to_dir, to_name, flags));
}

/* Callbacks are the engine's: there memory can be short again. */
struct back {
	int (*entry)(void *arg, const struct store_dirent *de);
	int (*name)(void *arg, const char *name);
	void *arg;
};

static int back_entry(void *arg, const struct store_dirent *de)
{
	struct back *b = arg;
	int r;

	leave();
	r = b->entry(b->arg, de);
	enter();
	return r;
}

static int back_name(void *arg, const char *name)
{
	struct back *b = arg;
	int r;

	leave();
	r = b->name(b->arg, name);
	enter();
	return r;
}

static int f_readdir(struct store_obj *dir, int (*fn)(void *arg, const struct store_dirent *de), void *arg)
{
	struct back b = {.entry = fn, .arg = arg};

	return GATED(FAULT_store_readdir, readdir(dir, back_entry, &b));
}

static int f_readlink(struct store_obj *obj, char *buf, size_t size)
{
	return GATED(FAULT_store_readlink, readlink(obj, buf, size));
}

static int f_getattr(struct store_obj *obj, struct stat *attr)
{
	int r = GATED(FAULT_store_getattr, getattr(obj, attr));

	if (r)
		POISON(attr);
	return r;
}

static int f_setattr(struct store_obj *obj, const struct stat *wanted, unsigned mask)
{
	struct stat attr = *wanted;

	/* A simulator has no clock of its own. */
	if (attr.st_atim.tv_nsec == UTIME_NOW)
		clock_gettime(CLOCK_REALTIME, &attr.st_atim);
	if (attr.st_mtim.tv_nsec == UTIME_NOW)
		clock_gettime(CLOCK_REALTIME, &attr.st_mtim);
	return GATED(FAULT_store_setattr, setattr(obj, &attr, mask));
}

static ssize_t f_getxattr(struct store_obj *obj, const char *name, void *buf, size_t size)
{
	return GATED(FAULT_store_getxattr, getxattr(obj, name, buf, size));
}

static ssize_t f_listxattr(struct store_obj *obj, char *buf, size_t size)
{
	return GATED(FAULT_store_listxattr, listxattr(obj, buf, size));
}

static int f_setxattr(struct store_obj *obj, const char *name, const void *value, size_t size, int flags)
{
	return GATED(FAULT_store_setxattr, setxattr(obj, name, value, size, flags));
}

static int f_removexattr(struct store_obj *obj, const char *name)
{
	return GATED(FAULT_store_removexattr, removexattr(obj, name));
}

static int f_open(struct store_obj *obj, int flags, bool force, struct store_file **out)
{
	int r = GATED(FAULT_store_open, open(obj, flags, force, out));

	L.files += !r;
	return r;
}

static void f_close_file(struct store_file *f)
{
	L.files--;
	enter();
	L.real->ops->close_file(f);
	leave();
}

static ssize_t f_read(struct store_file *f, void *buf, size_t n, uint64_t off)
{
	return GATED(FAULT_store_read, read(f, buf, n, off));
}

/* How much of a transfer is made that fails. */
static size_t part(enum fault_how how, size_t n)
{
	return how == FAULT_LATE ? n : how == FAULT_TORN || how == FAULT_SHORT ? n / 2 : 0;
}

static ssize_t f_write(struct store_file *f, const void *buf, size_t n, uint64_t off)
{
	enum fault_how how;
	ssize_t r = fault_gate(FAULT_store_write, &how), k = 0;
	size_t some = r ? part(how, n) : n;

	if (some)
		k = REAL(write(f, buf, some, off));
	return r && (how != FAULT_SHORT || !some) ? r : k;
}

static int f_fallocate(struct store_file *f, int mode, uint64_t off, uint64_t len)
{
	return GATED(FAULT_store_fallocate, fallocate(f, mode, off, len));
}

static int f_seek(struct store_file *f, uint64_t off, int whence, uint64_t *out)
{
	return GATED(FAULT_store_seek, seek(f, off, whence, out));
}

static ssize_t f_copy(struct store_file *in, uint64_t off_in, struct store_file *out, uint64_t off_out, size_t n)
{
	enum fault_how how;
	ssize_t r = fault_gate(FAULT_store_copy, &how), k = 0;
	size_t some = r ? part(how, n) : n;

	if (some)
		k = REAL(copy(in, off_in, out, off_out, some));
	return r && (how != FAULT_SHORT || !some) ? r : k;
}

static int f_sync(struct store_obj *obj, bool data_only)
{
	enum fault_how how;
	int r = fault_gate(FAULT_store_sync, &how);

	if (!r || how == FAULT_LATE) {
		int k = REAL(sync(obj, data_only));

		r = r ? r : k;
	}
	return r;
}

static int f_sync_all(struct store *st UNUSED)
{
	enum fault_how how;
	int r = fault_gate(FAULT_store_sync_all, &how);

	if (!r || how == FAULT_LATE) {
		int k = REAL(sync_all(L.real));

		r = r ? r : k;
	}
	return r;
}

static int f_reserve(struct store *st UNUSED, uint64_t bytes)
{
	return GATED(FAULT_store_reserve, reserve(L.real, bytes));
}

static void f_release(struct store *st UNUSED, uint64_t bytes)
{
	enter();
	L.real->ops->release(L.real, bytes);
	leave();
}

static int f_seal(struct store *st)
{
	int r = GATED(FAULT_store_seal, seal(L.real));

	st->sealed = L.real->sealed;
	st->foreign = L.real->foreign;
	return r;
}

static int f_statfs(struct store *st UNUSED, struct statvfs *sv)
{
	return GATED(FAULT_store_statfs, statfs(L.real, sv));
}

struct store *fault_store(struct store *real)
{
	static const struct store_ops ops = {
#define FAULT_OP(f) .f = f_##f,
		FAULT_OP(close) FAULT_OP(root) FAULT_OP(stage) FAULT_OP(trash) FAULT_OP(get) FAULT_OP(put)
		FAULT_OP(forsake) FAULT_OP(close_file) FAULT_OP(release)
#define FAULT_NO_OP(f)
		FAULT_CALLS(FAULT_OP, FAULT_NO_OP)
	};

	L.real = real;
	L.pub = *real;
	L.pub.ops = &ops;
	return &L.pub;
}

/* ---- the log's door ---- */

#define REAL_OS(call)                                                                                                  \
	({                                                                                                             \
		enter();                                                                                               \
		__typeof__(L.real_os->call) real_ = L.real_os->call;                                                   \
		leave();                                                                                               \
		real_;                                                                                                 \
	})

#define GATED_OS(c, call)                                                                                              \
	({                                                                                                             \
		int r_ = fault_gate(c, NULL);                                                                          \
		r_ ? r_ : REAL_OS(call);                                                                               \
	})

static int o_openat(void *ctx, int dir, const char *name, int flags, mode_t mode)
{
	int fd = GATED_OS(FAULT_os_openat, openat(ctx, dir, name, flags, mode));

	if (fd >= 0) {
		L.handles++;
		L.bad_sync[fd % HANDLES] = false;
	}
	return fd;
}

/* Closed all the same. */
static int o_close(void *ctx, int fd)
{
	int r = fault_gate(FAULT_os_close, NULL), k;

	L.handles--;
	k = REAL_OS(close(ctx, fd));
	return r ? r : k;
}

static ssize_t o_pread(void *ctx, int fd, void *buf, size_t n, uint64_t off)
{
	enum fault_how how;
	ssize_t r = fault_gate(FAULT_os_pread, &how);

	if (r && how != FAULT_SHORT)
		return r;
	return REAL_OS(pread(ctx, fd, buf, r && n > 1 ? n / 2 : n, off));
}

static ssize_t o_pwritev(void *ctx, int fd, const struct iovec *iov, int iovcnt, uint64_t off)
{
	enum fault_how how;
	ssize_t r = fault_gate(FAULT_os_pwritev, &how), k = 0;
	struct iovec some[40];
	size_t total = 0, left;
	int n = 0;

	for (int i = 0; i < iovcnt; i++)
		total += iov[i].iov_len;
	if (!r)
		return REAL_OS(pwritev(ctx, fd, iov, iovcnt, off));
	left = part(how, total);
	for (; n < iovcnt && n < (int)ARRAY_LEN(some) && left; n++) {
		some[n] = iov[n];
		some[n].iov_len = (size_t)base_min_u64(left, iov[n].iov_len);
		left -= some[n].iov_len;
	}
	if (n)
		k = REAL_OS(pwritev(ctx, fd, some, n, off));
	return how == FAULT_SHORT && k ? k : r;
}

/* A sync that has failed says nothing when it is done again: what it should have written may be lost. */
static int sync_handle(enum fault_call c, void *ctx, int fd, int (*real)(void *ctx, int fd))
{
	enum fault_how how;
	int r = fault_gate(c, &how), k;

	if (!r && L.bad_sync[fd % HANDLES] && c == FAULT_os_fdatasync && !L.sin[0])
		snprintf(L.sin, sizeof(L.sin), "a file of the log is synced again after a sync of it has failed");
	if (r)
		L.bad_sync[fd % HANDLES] = true;
	if (r && how != FAULT_LATE)
		return r;
	enter();
	k = real(ctx, fd);
	leave();
	return r ? r : k;
}

static int o_fdatasync(void *ctx, int fd)
{
	return sync_handle(FAULT_os_fdatasync, ctx, fd, L.real_os->fdatasync);
}

static int o_fsync(void *ctx, int fd)
{
	return sync_handle(FAULT_os_fsync, ctx, fd, L.real_os->fsync);
}

static int o_ftruncate(void *ctx, int fd, uint64_t size)
{
	return GATED_OS(FAULT_os_ftruncate, ftruncate(ctx, fd, size));
}

static int o_allocate(void *ctx, int fd, uint64_t size)
{
	return GATED_OS(FAULT_os_allocate, allocate(ctx, fd, size));
}

static int o_size(void *ctx, int fd, uint64_t *size)
{
	int r = GATED_OS(FAULT_os_size, size(ctx, fd, size));

	if (r)
		POISON(size);
	return r;
}

static int o_renameat(void *ctx, int dir, const char *from, const char *to)
{
	return GATED_OS(FAULT_os_renameat, renameat(ctx, dir, from, to));
}

static int o_unlinkat(void *ctx, int dir, const char *name)
{
	return GATED_OS(FAULT_os_unlinkat, unlinkat(ctx, dir, name));
}

static int o_list(void *ctx, int dir, int (*fn)(void *arg, const char *name), void *arg)
{
	struct back b = {.name = fn, .arg = arg};

	return GATED_OS(FAULT_os_list, list(ctx, dir, back_name, &b));
}

const struct os *fault_os(const struct os *real)
{
	L.real_os = real;
	L.os = (struct os){
		.ctx = real->ctx,
#define FAULT_OS_OP(f) .f = o_##f,
		FAULT_CALLS(FAULT_NO_OP, FAULT_OS_OP)
	};
	return &L.os;
}
