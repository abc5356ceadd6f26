/* sim_store.c - the simulated disk as the engine's store. */
#include "tests/sim_private.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>

struct store_file {
	struct sim *sim;
	struct sim_obj *o;
	bool writable;
};

static struct sim_obj *obj_of(struct store_obj *obj)
{
	return container_of(obj, struct sim_obj, pub);
}

static struct sim *sim_of(struct store *st)
{
	return container_of(st, struct sim, store);
}

#define LOCK(sim) pthread_mutex_lock(&(sim)->lock)
#define UNLOCK(sim) pthread_mutex_unlock(&(sim)->lock)

/* ---- objects ---- */

struct store_obj *sim_hand_out(struct sim *sim, struct sim_inode *in)
{
	if (!in->obj) {
		in->obj = sim_need(calloc(1, sizeof(*in->obj)));
		in->obj->sim = sim;
		in->obj->in = in;
		in->obj->pub = (struct store_obj){&sim->store, in->ino, in->mode & S_IFMT, NULL};
	}
	in->obj->refs++;
	return &in->obj->pub;
}

static struct store_obj *ss_fixed(struct sim *sim, uint64_t serial)
{
	struct sim_inode *in = sim_at(&sim->now, serial);
	struct store_obj *obj;

	LOCK(sim);
	obj = in->obj ? &in->obj->pub : sim_hand_out(sim, in);
	UNLOCK(sim);
	return obj;
}

static struct store_obj *ss_root(struct store *st)
{
	return ss_fixed(sim_of(st), sim_of(st)->root);
}

static struct store_obj *ss_stage(struct store *st)
{
	return ss_fixed(sim_of(st), sim_of(st)->stage);
}

static struct store_obj *ss_trash(struct store *st)
{
	return ss_fixed(sim_of(st), sim_of(st)->trash);
}

static struct store_obj *ss_get(struct store_obj *obj)
{
	struct sim_obj *o = obj_of(obj);

	LOCK(o->sim);
	o->refs++;
	UNLOCK(o->sim);
	return obj;
}

static void put_locked(struct sim_obj *o)
{
	struct sim *sim = o->sim;

	if (--o->refs)
		return;
	if (o->in) {
		if (o->in->fixed) {
			o->refs = 1;
			return;
		}
		o->in->obj = NULL;
		sim_inode_drop(sim, o->in);
	}
	free(o);
}

static void ss_put(struct store_obj *obj)
{
	struct sim_obj *o = obj_of(obj);
	struct sim *sim = o->sim;

	LOCK(sim);
	put_locked(o);
	UNLOCK(sim);
}

static void ss_forsake(struct store_obj *obj)
{
	struct sim_obj *o = obj_of(obj);
	struct sim *sim = o->sim;

	LOCK(sim);
	if (o->in) {
		o->in->forsaken = true;
		sim_inode_drop(sim, o->in);
	}
	UNLOCK(sim);
}

struct sim_handle {
	uint64_t ino, gen;
};

static int ss_id(struct store_obj *obj, struct store_id *id)
{
	struct sim_obj *o = obj_of(obj);
	struct sim_handle h;

	memset(id, 0, sizeof(*id));
	if (!o->in)
		return -ESTALE;
	h = (struct sim_handle){o->in->ino, o->in->gen};
	id->len = sizeof(h);
	memcpy(id->bytes, &h, sizeof(h));
	return 0;
}

static int ss_resolve(struct store *st, const struct store_id *id, const char *hint UNUSED, const char *stage_name UNUSED,
                      struct store_obj **out)
{
	struct sim *sim = sim_of(st);
	struct sim_handle h;
	int r = -ESTALE;

	if (id->len != sizeof(h))
		return -ESTALE;
	memcpy(&h, id->bytes, sizeof(h));
	LOCK(sim);
	for (size_t i = 0; r && i < sim->now.n; i++) {
		struct sim_inode *in = sim->now.v[i];

		if (in && in->ino == h.ino && in->gen == h.gen && (in->names || in->opens || in->fixed)) {
			*out = sim_hand_out(sim, in);
			r = 0;
		}
	}
	UNLOCK(sim);
	return r;
}

static struct sim_inode *parent_of(struct sim *sim, uint64_t serial, const char **name)
{
	for (size_t i = 0; i < sim->now.n; i++) {
		struct sim_inode *dir = sim->now.v[i];

		for (size_t k = 0; dir && k < dir->nentries; k++)
			if (dir->entries[k].serial == serial) {
				*name = dir->entries[k].name;
				return dir;
			}
	}
	return NULL;
}

static int ss_place(struct store_obj *obj, struct store_obj **parent, char **name)
{
	struct sim_obj *o = obj_of(obj);
	struct sim_inode *dir = NULL;
	const char *at = NULL;

	LOCK(o->sim);
	if (o->in)
		dir = parent_of(o->sim, o->in->serial, &at);
	if (dir) {
		*parent = sim_hand_out(o->sim, dir);
		*name = sim_need(strdup(at));
	}
	UNLOCK(o->sim);
	return dir ? 0 : -ENOENT;
}

static void fill(struct sim *sim, struct sim_inode *in, struct stat *st)
{
	unsigned subdirs = 0;

	if (!st)
		return;
	for (size_t i = 0; i < in->nentries; i++) {
		struct sim_inode *e = sim_at(&sim->now, in->entries[i].serial);

		subdirs += e && S_ISDIR(e->mode);
	}
	*st = (struct stat){
		.st_dev = 77,
		.st_ino = in->ino,
		.st_mode = in->mode,
		.st_nlink = S_ISDIR(in->mode) ? (in->names || in->fixed ? 2 + subdirs : 0) : in->names,
		.st_uid = in->uid,
		.st_gid = in->gid,
		.st_rdev = in->rdev,
		.st_size = S_ISDIR(in->mode) ? 4096 : S_ISLNK(in->mode) ? (off_t)strlen(in->target) : (off_t)in->size,
		.st_blksize = 4096,
		.st_blocks = (blkcnt_t)((in->size + 511) / 512),
		.st_atim = in->atime,
		.st_mtim = in->mtime,
		.st_ctim = in->ctime,
	};
}

/* ---- names ---- */

static int check_name(const char *name)
{
	if (!*name || !strcmp(name, ".") || !strcmp(name, "..") || strchr(name, '/'))
		return -EINVAL;
	return strlen(name) > NAME_MAX ? -ENAMETOOLONG : 0;
}

/* The directory, when it is one and has not been removed. */
static int usable_dir(struct store_obj *obj, struct sim_inode **dir)
{
	struct sim_obj *o = obj_of(obj);

	if (!o->in)
		return -ESTALE;
	if (!S_ISDIR(o->in->mode))
		return -ENOTDIR;
	*dir = o->in;
	return o->in->names || o->in->fixed ? 0 : -ENOENT;
}

static struct sim_inode *child(struct sim *sim, struct sim_inode *dir, const char *name)
{
	struct sim_entry *e = sim_entry_find(dir, name);

	return e ? sim_at(&sim->now, e->serial) : NULL;
}

static int ss_lookup(struct store_obj *dir_obj, const char *name, struct store_obj **out, struct stat *attr)
{
	struct sim *sim = obj_of(dir_obj)->sim;
	struct sim_inode *dir, *in;
	int r = check_name(name);

	LOCK(sim);
	if (!r)
		r = usable_dir(dir_obj, &dir);
	if (!r) {
		in = child(sim, dir, name);
		if (in) {
			fill(sim, in, attr);
			*out = sim_hand_out(sim, in);
		} else {
			r = -ENOENT;
		}
	}
	UNLOCK(sim);
	return r;
}

static struct sim_inode *make(struct sim *sim, struct sim_inode *dir, const struct store_new *nw, bool inherit)
{
	bool setgid = inherit && (dir->mode & S_ISGID);
	struct sim_inode *in = sim_inode_new(sim, nw->mode, nw->uid, setgid ? dir->gid : nw->gid);
	struct sim_inode *d = sim_at(&sim->durable, in->serial);

	if (setgid && S_ISDIR(nw->mode))
		in->mode = d->mode |= S_ISGID;
	in->rdev = d->rdev = nw->rdev;
	if (S_ISLNK(nw->mode)) {
		in->target = sim_need(strdup(nw->target));
		d->target = sim_need(strdup(nw->target));
	}
	return in;
}

static int ss_create(struct store_obj *dir_obj, const char *name, const struct store_new *nw, bool inherit,
                     struct store_obj **out, struct stat *attr)
{
	struct sim *sim = obj_of(dir_obj)->sim;
	struct sim_inode *dir, *in;
	struct sim_change *c;
	int r = sim_change(sim, "create", name);

	if (!r)
		r = check_name(name);
	if (!r && S_ISLNK(nw->mode) && !nw->target)
		r = -EINVAL;
	LOCK(sim);
	if (!r)
		r = usable_dir(dir_obj, &dir);
	if (!r && child(sim, dir, name))
		r = -EEXIST;
	if (!r) {
		in = make(sim, dir, nw, inherit);
		c = sim_names_new();
		c->serial = in->serial;
		c->u.names.adds = in->serial;
		sim_names_add(c, dir->serial, name, in->serial);
		sim_names_change(sim, c);
		fill(sim, in, attr);
		*out = sim_hand_out(sim, in);
	}
	UNLOCK(sim);
	return r;
}

static struct store_file *open_inode(struct sim *sim, struct sim_inode *in, bool writable)
{
	struct store_file *f = sim_need(calloc(1, sizeof(*f)));

	f->sim = sim;
	f->o = obj_of(sim_hand_out(sim, in));
	f->writable = writable;
	in->opens++;
	return f;
}

static int ss_tmpfile(struct store_obj *dir_obj, const struct store_new *nw, struct store_obj **out, struct stat *attr,
                      struct store_file **file)
{
	struct sim *sim = obj_of(dir_obj)->sim;
	struct sim_inode *dir, *in;
	int r = sim_change(sim, "tmpfile", "");

	if (!r && !S_ISREG(nw->mode))
		r = -EINVAL;
	LOCK(sim);
	if (!r)
		r = usable_dir(dir_obj, &dir);
	if (!r) {
		in = make(sim, dir, nw, true);
		fill(sim, in, attr);
		*out = sim_hand_out(sim, in);
		*file = open_inode(sim, in, true);
	}
	UNLOCK(sim);
	return r;
}

static int ss_link(struct store_obj *obj, struct store_obj *dir_obj, const char *name)
{
	struct sim *sim = obj_of(obj)->sim;
	struct sim_inode *dir, *in = obj_of(obj)->in;
	struct sim_change *c;
	int r = sim_change(sim, "link", name);

	if (!r)
		r = check_name(name);
	LOCK(sim);
	if (!r)
		r = !in ? -ESTALE : S_ISDIR(in->mode) ? -EPERM : usable_dir(dir_obj, &dir);
	if (!r && child(sim, dir, name))
		r = -EEXIST;
	if (!r) {
		c = sim_names_new();
		c->u.names.adds = in->serial;
		sim_names_add(c, dir->serial, name, in->serial);
		sim_names_change(sim, c);
	}
	UNLOCK(sim);
	return r;
}

static void losing(struct sim_change *c, struct sim_inode *in)
{
	if (S_ISDIR(in->mode))
		c->u.names.rmdir = in->serial;
	else
		c->u.names.removes[c->u.names.removes[0] ? 1 : 0] = in->serial;
}

static int ss_unlink(struct store_obj *dir_obj, const char *name, bool is_dir)
{
	struct sim *sim = obj_of(dir_obj)->sim;
	struct sim_inode *dir, *in = NULL;
	struct sim_change *c;
	int r = sim_change(sim, is_dir ? "rmdir" : "unlink", name);

	if (!r)
		r = check_name(name);
	LOCK(sim);
	if (!r)
		r = usable_dir(dir_obj, &dir);
	if (!r) {
		in = child(sim, dir, name);
		if (!in)
			r = -ENOENT;
		else if (is_dir != !!S_ISDIR(in->mode))
			r = is_dir ? -ENOTDIR : -EISDIR;
		else if (is_dir && in->nentries)
			r = -ENOTEMPTY;
	}
	if (!r) {
		c = sim_names_new();
		losing(c, in);
		sim_names_add(c, dir->serial, name, 0);
		sim_names_change(sim, c);
		sim_inode_drop(sim, in);
	}
	UNLOCK(sim);
	return r;
}

static bool inside(struct sim *sim, struct sim_inode *dir, struct sim_inode *what)
{
	const char *name;

	while (dir && dir != what)
		dir = parent_of(sim, dir->serial, &name);
	return dir == what;
}

static int may_rename(struct sim *sim, struct sim_inode *from, struct sim_inode *a, struct sim_inode *to, struct sim_inode *b,
                      unsigned flags)
{
	if (!a || ((flags & RENAME_EXCHANGE) && !b))
		return -ENOENT;
	if ((flags & RENAME_NOREPLACE) && b)
		return -EEXIST;
	if (S_ISDIR(a->mode) && inside(sim, to, a))
		return -EINVAL;
	if ((flags & RENAME_EXCHANGE) && S_ISDIR(b->mode) && inside(sim, from, b))
		return -EINVAL;
	if (!b || b == a || (flags & RENAME_EXCHANGE))
		return 0;
	if (S_ISDIR(b->mode) && inside(sim, from, b))
		return -ENOTEMPTY;
	if (S_ISDIR(a->mode) != S_ISDIR(b->mode))
		return S_ISDIR(a->mode) ? -ENOTDIR : -EISDIR;
	return S_ISDIR(b->mode) && b->nentries ? -ENOTEMPTY : 0;
}

static int ss_rename(struct store_obj *dir_obj, const char *name, struct store_obj *to_obj, const char *to_name,
                     unsigned flags)
{
	struct sim *sim = obj_of(dir_obj)->sim;
	struct sim_inode *from, *to, *a = NULL, *b = NULL;
	struct sim_change *c;
	int r = sim_change(sim, "rename", name);

	if (!r)
		r = check_name(name);
	if (!r)
		r = check_name(to_name);
	LOCK(sim);
	if (!r)
		r = usable_dir(dir_obj, &from);
	if (!r)
		r = usable_dir(to_obj, &to);
	if (!r) {
		a = child(sim, from, name);
		b = child(sim, to, to_name);
		r = may_rename(sim, from, a, to, b, flags);
	}
	if (!r && a != b) {
		bool exchange = flags & RENAME_EXCHANGE;

		c = sim_names_new();
		c->u.names.moves_dir = S_ISDIR(a->mode) || (exchange && S_ISDIR(b->mode));
		if (b && !exchange)
			losing(c, b);
		sim_names_add(c, from->serial, name, exchange ? b->serial : 0);
		sim_names_add(c, to->serial, to_name, a->serial);
		sim_names_change(sim, c);
		if (b)
			sim_inode_drop(sim, b);
	}
	UNLOCK(sim);
	return r;
}

static int ss_readdir(struct store_obj *dir_obj, int (*fn)(void *arg, const struct store_dirent *de), void *arg)
{
	struct sim *sim = obj_of(dir_obj)->sim;
	struct store_dirent *list = NULL;
	struct sim_inode *dir;
	size_t n = 0;
	int r;

	LOCK(sim);
	r = usable_dir(dir_obj, &dir);
	if (!r) {
		n = dir->nentries;
		list = sim_need(calloc(n + 1, sizeof(*list)));
		for (size_t i = 0; i < n; i++) {
			struct sim_inode *in = sim_at(&sim->now, dir->entries[i].serial);

			list[i] = (struct store_dirent){sim_need(strdup(dir->entries[i].name)), in->ino, in->mode & S_IFMT};
		}
	}
	UNLOCK(sim);
	if (r == -ENOENT)
		r = 0;
	for (size_t i = 0; i < n; i++) {
		if (!r)
			r = fn(arg, &list[i]);
		free((char *)(uintptr_t)list[i].name);
	}
	free(list);
	return r;
}

static int ss_readlink(struct store_obj *obj, char *buf, size_t size)
{
	struct sim_obj *o = obj_of(obj);

	if (!o->in)
		return -ESTALE;
	if (!o->in->target)
		return -EINVAL;
	return (size_t)snprintf(buf, size, "%s", o->in->target) >= size ? -ENAMETOOLONG : 0;
}

/* ---- attributes ---- */

static int ss_getattr(struct store_obj *obj, struct stat *attr)
{
	struct sim_obj *o = obj_of(obj);
	int r = 0;

	LOCK(o->sim);
	if (o->in)
		fill(o->sim, o->in, attr);
	else
		r = -ESTALE;
	UNLOCK(o->sim);
	return r;
}

static struct timespec the_time(const struct timespec *t)
{
	struct timespec now = *t;

	if (t->tv_nsec == UTIME_NOW)
		clock_gettime(CLOCK_REALTIME, &now);
	return now;
}

static int ss_setattr(struct store_obj *obj, const struct stat *attr, unsigned mask)
{
	struct sim_obj *o = obj_of(obj);
	int r = sim_change(o->sim, "setattr", "");

	if (r)
		return r;
	LOCK(o->sim);
	if (!o->in)
		r = -ESTALE;
	else if ((mask & STORE_SET_SIZE) && !S_ISREG(o->in->mode))
		r = -EINVAL;
	else if ((mask & STORE_SET_MODE) && S_ISLNK(o->in->mode))
		r = -EOPNOTSUPP;
	if (!r && (mask & STORE_SET_SIZE))
		sim_resize(o->sim, o->in, (uint64_t)attr->st_size);
	if (!r && (mask & ~STORE_SET_SIZE)) {
		if (mask & STORE_SET_UID)
			o->in->uid = attr->st_uid;
		if (mask & STORE_SET_GID)
			o->in->gid = attr->st_gid;
		if (mask & (STORE_SET_UID | STORE_SET_GID) && S_ISREG(o->in->mode))
			o->in->mode &= ~(mode_t)(S_ISUID | ((o->in->mode & S_IXGRP) ? S_ISGID : 0));
		if (mask & STORE_SET_MODE)
			o->in->mode = (o->in->mode & S_IFMT) | (attr->st_mode & 07777);
		if (mask & STORE_SET_ATIME)
			o->in->atime = the_time(&attr->st_atim);
		if (mask & STORE_SET_MTIME)
			o->in->mtime = the_time(&attr->st_mtim);
		sim_attr_changed(o->sim, o->in);
	}
	UNLOCK(o->sim);
	return r;
}

static bool no_acl(const char *name)
{
	return !strncmp(name, "system.", 7);
}

static ssize_t ss_getxattr(struct store_obj *obj, const char *name, void *buf, size_t size)
{
	struct sim_obj *o = obj_of(obj);
	struct sim_xattr *x;
	ssize_t r;

	if (no_acl(name))
		return -EOPNOTSUPP;
	LOCK(o->sim);
	x = o->in ? sim_xattr_find(o->in, name) : NULL;
	if (!x)
		r = o->in ? -ENODATA : -ESTALE;
	else if (size && size < x->len)
		r = -ERANGE;
	else
		r = (ssize_t)x->len;
	if (r > 0 && size)
		memcpy(buf, x->value, x->len);
	UNLOCK(o->sim);
	return r;
}

static ssize_t ss_listxattr(struct store_obj *obj, char *buf, size_t size)
{
	struct sim_obj *o = obj_of(obj);
	size_t n = 0;
	ssize_t r = 0;

	LOCK(o->sim);
	if (!o->in)
		r = -ESTALE;
	for (size_t i = 0; !r && i < o->in->nxattrs; i++)
		n += strlen(o->in->xattrs[i].name) + 1;
	if (!r && size && size < n)
		r = -ERANGE;
	for (size_t i = 0; !r && size && i < o->in->nxattrs; i++)
		buf = stpcpy(buf, o->in->xattrs[i].name) + 1;
	UNLOCK(o->sim);
	return r ? r : (ssize_t)n;
}

static int ss_setxattr(struct store_obj *obj, const char *name, const void *value, size_t size, int flags)
{
	struct sim_obj *o = obj_of(obj);
	int r = sim_change(o->sim, "setxattr", name);
	bool there;

	if (!r && no_acl(name))
		r = -EOPNOTSUPP;
	if (r)
		return r;
	LOCK(o->sim);
	there = o->in && sim_xattr_find(o->in, name);
	if (!o->in)
		r = -ESTALE;
	else if (!S_ISREG(o->in->mode) && !S_ISDIR(o->in->mode))
		r = -EPERM; /* user.*, the only ones here */
	else if ((flags & 1) && there) /* XATTR_CREATE */
		r = -EEXIST;
	else if ((flags & 2) && !there) /* XATTR_REPLACE */
		r = -ENODATA;
	else if (size > 4000)
		r = -ENOSPC;
	if (!r)
		sim_xattr_change(o->sim, o->in, name, size ? value : "", size);
	UNLOCK(o->sim);
	return r;
}

static int ss_removexattr(struct store_obj *obj, const char *name)
{
	struct sim_obj *o = obj_of(obj);
	int r = sim_change(o->sim, "removexattr", name);

	if (r)
		return r;
	LOCK(o->sim);
	if (!o->in)
		r = -ESTALE;
	else if (!sim_xattr_find(o->in, name))
		r = -ENODATA;
	else
		sim_xattr_change(o->sim, o->in, name, NULL, 0);
	UNLOCK(o->sim);
	return r;
}

/* ---- contents ---- */

static int ss_open(struct store_obj *obj, int flags, bool force UNUSED, struct store_file **out)
{
	struct sim_obj *o = obj_of(obj);
	int r = 0;

	LOCK(o->sim);
	if (!o->in)
		r = -ESTALE;
	else if (!S_ISREG(o->in->mode))
		r = S_ISDIR(o->in->mode) ? -EISDIR : S_ISLNK(o->in->mode) ? -ELOOP : -EINVAL;
	else
		*out = open_inode(o->sim, o->in, (flags & O_ACCMODE) != O_RDONLY);
	UNLOCK(o->sim);
	return r;
}

static void ss_close_file(struct store_file *f)
{
	struct sim *sim = f->sim;

	LOCK(sim);
	f->o->in->opens--;
	put_locked(f->o);
	UNLOCK(sim);
	free(f);
}

static ssize_t ss_read(struct store_file *f, void *buf, size_t n, uint64_t off)
{
	struct sim_inode *in = f->o->in;

	LOCK(f->sim);
	n = off >= in->size ? 0 : n < in->size - off ? n : (size_t)(in->size - off);
	sim_read(in, buf, n, off);
	UNLOCK(f->sim);
	return (ssize_t)n;
}

static ssize_t ss_write(struct store_file *f, const void *buf, size_t n, uint64_t off)
{
	int r = sim_change(f->sim, "write", "");

	if (!r && !f->writable)
		r = -EBADF;
	LOCK(f->sim);
	if (!r)
		r = sim_write(f->sim, f->o->in, buf, n, off);
	UNLOCK(f->sim);
	return r ? r : (ssize_t)n;
}

static int ss_fallocate(struct store_file *f, int mode, uint64_t off, uint64_t len)
{
	struct sim_inode *in = f->o->in;
	uint64_t end = off + len;
	int r = sim_change(f->sim, "fallocate", "");

	if (r)
		return r;
	if (!len)
		return -EINVAL;
	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;
	LOCK(f->sim);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && off < in->size)
		r = sim_write(f->sim, in, NULL, (size_t)(base_min_u64(end, in->size) - off), off);
	if (!r && !(mode & FALLOC_FL_KEEP_SIZE) && end > in->size)
		sim_resize(f->sim, in, end);
	UNLOCK(f->sim);
	return r;
}

static int ss_seek(struct store_file *f, uint64_t off, int whence, uint64_t *out)
{
	uint64_t size = f->o->in->size;

	if (off >= size)
		return -ENXIO;
	*out = whence == SEEK_DATA ? off : size;
	return 0;
}

static ssize_t ss_copy(struct store_file *in, uint64_t off_in, struct store_file *out, uint64_t off_out, size_t n)
{
	int r = sim_change(in->sim, "copy", "");
	uint64_t size = in->o->in->size;
	uint8_t *p;

	if (r)
		return r;
	n = off_in >= size ? 0 : n < size - off_in ? n : (size_t)(size - off_in);
	p = sim_need(malloc(n + 1));
	LOCK(in->sim);
	sim_read(in->o->in, p, n, off_in);
	r = n ? sim_write(in->sim, out->o->in, p, n, off_out) : 0;
	UNLOCK(in->sim);
	free(p);
	return r ? r : (ssize_t)n;
}

/* ---- durability and space ---- */

static int ss_sync(struct store_obj *obj, bool data_only)
{
	struct sim_obj *o = obj_of(obj);
	int r = sim_change(o->sim, data_only ? "fdatasync" : "fsync", "");

	LOCK(o->sim);
	if (!r && !o->in)
		r = -ESTALE;
	if (!r)
		sim_sync_inode(o->sim, o->in, data_only);
	UNLOCK(o->sim);
	return r;
}

static int ss_sync_all(struct store *st)
{
	struct sim *sim = sim_of(st);
	int r = sim_change(sim, "syncfs", "");

	LOCK(sim);
	if (!r)
		sim_sync_everything(sim);
	UNLOCK(sim);
	return r;
}

static int ss_reserve(struct store *st, uint64_t bytes)
{
	struct sim *sim = sim_of(st);
	struct statvfs sv;
	int r = 0;

	st->ops->statfs(st, &sv);
	LOCK(sim);
	if (sim->space && sim->reserved + bytes > sv.f_bavail * SIM_PAGE)
		r = -ENOSPC;
	else
		sim->reserved += bytes;
	UNLOCK(sim);
	return r;
}

static void ss_release(struct store *st, uint64_t bytes)
{
	struct sim *sim = sim_of(st);

	LOCK(sim);
	sim->reserved -= bytes < sim->reserved ? bytes : sim->reserved;
	UNLOCK(sim);
}

static int ss_seal(struct store *st)
{
	int r = sim_change(sim_of(st), "seal", "");

	if (!r)
		st->sealed = sim_of(st)->sealed = true;
	return r;
}

static int ss_statfs(struct store *st, struct statvfs *sv)
{
	struct sim *sim = sim_of(st);
	uint64_t used = 0, space = sim->space ? sim->space : UINT64_C(1) << 40;

	LOCK(sim);
	for (size_t i = 0; i < sim->now.n; i++)
		for (size_t k = 0; sim->now.v[i] && k < sim->now.v[i]->npages; k++)
			used += sim->now.v[i]->pages[k] ? SIM_PAGE : 0;
	UNLOCK(sim);
	*sv = (struct statvfs){.f_bsize = SIM_PAGE, .f_frsize = SIM_PAGE, .f_namemax = NAME_MAX};
	sv->f_blocks = space / SIM_PAGE;
	sv->f_bfree = sv->f_bavail = used < space ? (space - used) / SIM_PAGE : 0;
	return 0;
}

static void ss_close(struct store *st)
{
	struct sim *sim = sim_of(st);

	LOCK(sim);
	sim->reserved = 0;
	UNLOCK(sim);
}

static const struct store_ops ops = {
	.close = ss_close,
	.root = ss_root,
	.stage = ss_stage,
	.trash = ss_trash,
	.get = ss_get,
	.put = ss_put,
	.forsake = ss_forsake,
	.id = ss_id,
	.resolve = ss_resolve,
	.place = ss_place,
	.lookup = ss_lookup,
	.create = ss_create,
	.tmpfile = ss_tmpfile,
	.link = ss_link,
	.unlink = ss_unlink,
	.rename = ss_rename,
	.readdir = ss_readdir,
	.readlink = ss_readlink,
	.getattr = ss_getattr,
	.setattr = ss_setattr,
	.getxattr = ss_getxattr,
	.listxattr = ss_listxattr,
	.setxattr = ss_setxattr,
	.removexattr = ss_removexattr,
	.open = ss_open,
	.close_file = ss_close_file,
	.read = ss_read,
	.write = ss_write,
	.fallocate = ss_fallocate,
	.seek = ss_seek,
	.copy = ss_copy,
	.sync = ss_sync,
	.sync_all = ss_sync_all,
	.reserve = ss_reserve,
	.release = ss_release,
	.seal = ss_seal,
	.statfs = ss_statfs,
};

void sim_store_init(struct sim *sim)
{
	sim->store.ops = &ops;
}

struct store *sim_store(struct sim *sim)
{
	sim->store.sealed = sim->sealed;
	return &sim->store;
}
