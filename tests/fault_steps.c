/* fault_steps.c - operations for scripts. */
#include "tests/fault_steps.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static int walk(struct run *run, struct txn *v, const char *slot, const char *path, struct txn_obj **out)
{
	struct txn_engine *eng = run_engine(run);
	struct txn_obj *at = txn_obj_get(txn_root(eng));
	char copy[256], *save, *part;

	snprintf(copy, sizeof(copy), "%s/%s", slot, path);
	for (part = strtok_r(copy, "/", &save); part; part = strtok_r(NULL, "/", &save)) {
		struct txn_look look;
		int r = txn_lookup(eng, v, at, part, &look);

		txn_obj_put(at);
		if (r)
			return r;
		at = look.obj;
	}
	*out = at;
	return 0;
}

/* The directory of a path, and its last part. */
static int parent(struct run *run, struct txn *v, const char *slot, const char *path, struct txn_obj **dir,
                  const char **name)
{
	const char *slash = strrchr(path, '/');
	char copy[256];

	if (!path[0]) { /* the slot itself */
		*name = slot;
		return walk(run, v, "", "", dir);
	}
	snprintf(copy, sizeof(copy), "%.*s", slash ? (int)(slash - path) : 0, path);
	*name = slash ? slash + 1 : path;
	return walk(run, v, slot, copy, dir);
}

static void put(struct txn_obj *obj)
{
	if (obj)
		txn_obj_put(obj);
}

int do_make(struct run *run, struct txn *v, const char *slot, const char *path, mode_t mode, const char *target)
{
	struct txn_new nw = {.mode = mode, .umask = 022, .uid = geteuid(), .gid = getegid(), .target = target};
	struct txn_obj *dir = NULL;
	struct txn_look look;
	const char *name;
	int r = parent(run, v, slot, path, &dir, &name);

	if (!r)
		r = txn_create(run_engine(run), v, dir, name, &nw, &look);
	if (!r)
		txn_obj_put(look.obj);
	put(dir);
	return r;
}

static int open_path(struct run *run, struct txn *v, const char *slot, const char *path, int flags, struct txn_file **f)
{
	struct txn_obj *obj = NULL;
	int r = walk(run, v, slot, path, &obj);

	if (!r)
		r = txn_open(run_engine(run), v, obj, flags, f);
	put(obj);
	return r;
}

static int transferred(ssize_t k, size_t n)
{
	return k < 0 ? (int)k : k != (ssize_t)n;
}

static int write_path(struct run *run, struct txn *v, const char *slot, const char *path, uint64_t off, size_t n,
                      char c, bool kill_priv)
{
	static char data[64 << 10];
	struct txn_file *f;
	int r = open_path(run, v, slot, path, O_RDWR, &f);

	if (r)
		return r;
	memset(data, c, n);
	r = transferred(txn_write(f, data, n, off, kill_priv), n);
	txn_close(f);
	return r;
}

int do_write(struct run *run, struct txn *v, const char *slot, const char *path, uint64_t off, size_t n, char c)
{
	return write_path(run, v, slot, path, off, n, c, false);
}

int do_write_as_user(struct run *run, struct txn *v, const char *slot, const char *path, uint64_t off, size_t n, char c)
{
	return write_path(run, v, slot, path, off, n, c, true);
}

int do_append(struct run *run, struct txn *v, const char *slot, const char *path, size_t n, char c)
{
	static char data[4096];
	struct txn_file *f;
	uint64_t off;
	int r = open_path(run, v, slot, path, O_RDWR | O_APPEND, &f);

	if (r)
		return r;
	memset(data, c, n);
	r = transferred(txn_append(f, data, n, false, &off), n);
	txn_close(f);
	return r;
}

static int set(struct run *run, struct txn *v, const char *slot, const char *path, const struct stat *st, unsigned mask)
{
	struct txn_obj *obj = NULL;
	struct stat out;
	int r = walk(run, v, slot, path, &obj);

	if (!r)
		r = txn_setattr(run_engine(run), v, obj, NULL, st, mask, &out);
	put(obj);
	return r;
}

int do_cut(struct run *run, struct txn *v, const char *slot, const char *path, uint64_t size)
{
	return set(run, v, slot, path, &(struct stat){.st_size = (off_t)size}, STORE_SET_SIZE | TXN_SET_MTIME_NOW);
}

int do_mode(struct run *run, struct txn *v, const char *slot, const char *path, mode_t mode)
{
	return set(run, v, slot, path, &(struct stat){.st_mode = mode}, STORE_SET_MODE);
}

int do_times(struct run *run, struct txn *v, const char *slot, const char *path, int64_t second)
{
	return set(run, v, slot, path, &(struct stat){.st_mtim.tv_sec = second}, STORE_SET_MTIME | TXN_SET_ATIME_NOW);
}

int do_owner(struct run *run, struct txn *v, const char *slot, const char *path, uid_t uid, gid_t gid)
{
	struct stat st = {.st_uid = uid, .st_gid = gid};

	if (geteuid() != 0) {
		st.st_uid = geteuid();
		st.st_gid = getegid();
	}
	return set(run, v, slot, path, &st, STORE_SET_UID | STORE_SET_GID);
}

int do_size_and_mode(struct run *run, struct txn *v, const char *slot, const char *path, uint64_t size, mode_t mode)
{
	return set(run, v, slot, path, &(struct stat){.st_size = (off_t)size, .st_mode = mode},
	           STORE_SET_SIZE | STORE_SET_MODE | TXN_SET_MTIME_NOW);
}

int do_open_empty(struct run *run, struct txn *v, const char *slot, const char *path)
{
	struct txn_file *f;
	int r = open_path(run, v, slot, path, O_RDWR | O_TRUNC, &f);

	if (!r)
		txn_close(f);
	return r;
}

int do_fallocate(struct run *run, struct txn *v, const char *slot, const char *path, int mode, uint64_t off, uint64_t n)
{
	struct txn_file *f;
	int r = open_path(run, v, slot, path, O_RDWR, &f);

	if (r)
		return r;
	r = txn_fallocate(f, mode, off, n);
	txn_close(f);
	return r;
}

int do_copy(struct run *run, struct txn *v, const char *slot, const char *from, uint64_t off, const char *to,
            uint64_t to_off, size_t n)
{
	struct txn_file *in, *out;
	int r = open_path(run, v, slot, from, O_RDONLY, &in);

	if (r)
		return r;
	r = open_path(run, v, slot, to, O_RDWR, &out);
	if (!r) {
		r = transferred(txn_copy(in, off, out, to_off, n), n);
		txn_close(out);
	}
	txn_close(in);
	return r;
}

int do_link(struct run *run, struct txn *v, const char *slot, const char *from, const char *to)
{
	struct txn_obj *obj = NULL, *dir = NULL;
	const char *name;
	struct stat st;
	int r = walk(run, v, slot, from, &obj);

	if (!r)
		r = parent(run, v, slot, to, &dir, &name);
	if (!r)
		r = txn_link(run_engine(run), v, obj, dir, name, &st);
	put(dir);
	put(obj);
	return r;
}

int do_remove(struct run *run, struct txn *v, const char *slot, const char *path, bool is_dir)
{
	struct txn_obj *dir = NULL;
	const char *name;
	int r = parent(run, v, slot, path, &dir, &name);

	if (!r)
		r = is_dir ? txn_rmdir(run_engine(run), v, dir, name) : txn_unlink(run_engine(run), v, dir, name);
	put(dir);
	return r;
}

int do_rename(struct run *run, struct txn *v, const char *slot, const char *from, const char *to, unsigned flags)
{
	struct txn_obj *a = NULL, *b = NULL;
	const char *name, *to_name;
	int r = parent(run, v, slot, from, &a, &name);

	if (!r)
		r = parent(run, v, slot, to, &b, &to_name);
	if (!r)
		r = txn_rename(run_engine(run), v, a, name, b, to_name, flags);
	put(a);
	put(b);
	return r;
}

/* made: in which view it is made and written; only its name is the change. */
static int tmpfile_in(struct run *run, struct txn *made, struct txn *v, const char *slot, const char *path, char c)
{
	struct txn_new nw = {.mode = S_IFREG | 0640, .uid = geteuid(), .gid = getegid()};
	struct txn_obj *dir = NULL;
	struct txn_look look = {0};
	struct txn_file *f;
	const char *name;
	char data[700];
	int r = parent(run, v, slot, path, &dir, &name);

	memset(data, c, sizeof(data));
	if (!r)
		r = txn_tmpfile(run_engine(run), made, dir, &nw, &look, &f);
	if (!r) {
		r = transferred(txn_write(f, data, sizeof(data), 0, false), sizeof(data));
		if (r > 0) /* nobody sees it */
			r = -EIO;
		if (!r)
			r = txn_link(run_engine(run), v, look.obj, dir, name, NULL);
		txn_close(f);
		txn_obj_put(look.obj);
	}
	put(dir);
	return r;
}

int do_tmpfile(struct run *run, struct txn *v, const char *slot, const char *path, char c)
{
	return tmpfile_in(run, v, v, slot, path, c);
}

int do_name_plain_tmpfile(struct run *run, struct txn *v, const char *slot, const char *path, char c)
{
	return tmpfile_in(run, NULL, v, slot, path, c);
}

int do_setxattr(struct run *run, struct txn *v, const char *slot, const char *path, const char *name, size_t n, char c,
                int flags)
{
	struct txn_obj *obj = NULL;
	char data[4096];
	int r = walk(run, v, slot, path, &obj);

	memset(data, c, n);
	if (!r)
		r = txn_setxattr(run_engine(run), v, obj, name, data, n, flags);
	put(obj);
	return r;
}

int do_removexattr(struct run *run, struct txn *v, const char *slot, const char *path, const char *name)
{
	struct txn_obj *obj = NULL;
	int r = walk(run, v, slot, path, &obj);

	if (!r)
		r = txn_removexattr(run_engine(run), v, obj, name);
	put(obj);
	return r;
}

int do_fsync(struct run *run, struct txn *v, const char *slot, const char *path)
{
	struct txn_file *f;
	int r = open_path(run, v, slot, path, O_RDWR, &f);

	if (r)
		return r;
	r = txn_fsync(f, false);
	txn_close(f);
	return r;
}

int do_fsync_dir(struct run *run, struct txn *v, const char *slot, const char *path)
{
	struct txn_obj *dir = NULL;
	int r = walk(run, v, slot, path, &dir);

	if (!r)
		r = txn_fsync_dir(run_engine(run), v, dir);
	put(dir);
	return r;
}
