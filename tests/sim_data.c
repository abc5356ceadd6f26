/* sim_data.c - the simulated disk as the engine's store: attributes, contents, durability, space. */
#include "tests/sim_private.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <string.h>

/* ---- attributes ---- */

int sim_op_getattr(struct store_obj *obj, struct stat *attr)
{
	struct sim_obj *o = sim_obj_of(obj);
	int r = 0;

	SIM_LOCK(o->sim);
	if (o->in)
		sim_fill(o->sim, o->in, attr);
	else
		r = -ESTALE;
	SIM_UNLOCK(o->sim);
	return r;
}

static struct timespec the_time(const struct timespec *t)
{
	struct timespec now = *t;

	if (t->tv_nsec == UTIME_NOW)
		clock_gettime(CLOCK_REALTIME, &now);
	return now;
}

int sim_op_setattr(struct store_obj *obj, const struct stat *attr, unsigned mask)
{
	struct sim_obj *o = sim_obj_of(obj);
	int r = sim_change(o->sim, "setattr", "");

	if (r)
		return r;
	SIM_LOCK(o->sim);
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
	SIM_UNLOCK(o->sim);
	return r;
}

static bool no_acl(const char *name)
{
	return !strncmp(name, "system.", 7);
}

ssize_t sim_op_getxattr(struct store_obj *obj, const char *name, void *buf, size_t size)
{
	struct sim_obj *o = sim_obj_of(obj);
	struct sim_xattr *x;
	ssize_t r;

	if (no_acl(name))
		return -EOPNOTSUPP;
	SIM_LOCK(o->sim);
	x = o->in ? sim_xattr_find(o->in, name) : NULL;
	if (!x)
		r = o->in ? -ENODATA : -ESTALE;
	else if (size && size < x->len)
		r = -ERANGE;
	else
		r = (ssize_t)x->len;
	if (r > 0 && size)
		memcpy(buf, x->value, x->len);
	SIM_UNLOCK(o->sim);
	return r;
}

ssize_t sim_op_listxattr(struct store_obj *obj, char *buf, size_t size)
{
	struct sim_obj *o = sim_obj_of(obj);
	size_t n = 0;
	ssize_t r = 0;

	SIM_LOCK(o->sim);
	if (!o->in)
		r = -ESTALE;
	for (size_t i = 0; !r && i < o->in->nxattrs; i++)
		n += strlen(o->in->xattrs[i].name) + 1;
	if (!r && size && size < n)
		r = -ERANGE;
	for (size_t i = 0; !r && size && i < o->in->nxattrs; i++)
		buf = stpcpy(buf, o->in->xattrs[i].name) + 1;
	SIM_UNLOCK(o->sim);
	return r ? r : (ssize_t)n;
}

int sim_op_setxattr(struct store_obj *obj, const char *name, const void *value, size_t size, int flags)
{
	struct sim_obj *o = sim_obj_of(obj);
	int r = sim_change(o->sim, "setxattr", name);
	bool there;

	if (!r && no_acl(name))
		r = -EOPNOTSUPP;
	if (r)
		return r;
	SIM_LOCK(o->sim);
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
	SIM_UNLOCK(o->sim);
	return r;
}

int sim_op_removexattr(struct store_obj *obj, const char *name)
{
	struct sim_obj *o = sim_obj_of(obj);
	int r = sim_change(o->sim, "removexattr", name);

	if (r)
		return r;
	SIM_LOCK(o->sim);
	if (!o->in)
		r = -ESTALE;
	else if (!sim_xattr_find(o->in, name))
		r = -ENODATA;
	else
		sim_xattr_change(o->sim, o->in, name, NULL, 0);
	SIM_UNLOCK(o->sim);
	return r;
}

/* ---- contents ---- */

int sim_op_open(struct store_obj *obj, int flags, bool force UNUSED, struct store_file **out)
{
	struct sim_obj *o = sim_obj_of(obj);
	int r = 0;

	SIM_LOCK(o->sim);
	if (!o->in)
		r = -ESTALE;
	else if (!S_ISREG(o->in->mode))
		r = S_ISDIR(o->in->mode) ? -EISDIR : S_ISLNK(o->in->mode) ? -ELOOP : -EINVAL;
	else
		*out = sim_open_inode(o->sim, o->in, (flags & O_ACCMODE) != O_RDONLY);
	SIM_UNLOCK(o->sim);
	return r;
}

void sim_op_close_file(struct store_file *f)
{
	struct sim *sim = f->sim;

	SIM_LOCK(sim);
	f->o->in->opens--;
	sim_put_locked(f->o);
	SIM_UNLOCK(sim);
	free(f);
}

ssize_t sim_op_read(struct store_file *f, void *buf, size_t n, uint64_t off)
{
	struct sim_inode *in = f->o->in;

	SIM_LOCK(f->sim);
	n = off >= in->size ? 0 : n < in->size - off ? n : (size_t)(in->size - off);
	sim_read(in, buf, n, off);
	SIM_UNLOCK(f->sim);
	return (ssize_t)n;
}

ssize_t sim_op_write(struct store_file *f, const void *buf, size_t n, uint64_t off)
{
	int r = sim_change(f->sim, "write", "");

	if (!r && !f->writable)
		r = -EBADF;
	SIM_LOCK(f->sim);
	if (!r)
		r = sim_write(f->sim, f->o->in, buf, n, off);
	SIM_UNLOCK(f->sim);
	return r ? r : (ssize_t)n;
}

int sim_op_fallocate(struct store_file *f, int mode, uint64_t off, uint64_t len)
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
	SIM_LOCK(f->sim);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && off < in->size)
		r = sim_write(f->sim, in, NULL, (size_t)(base_min_u64(end, in->size) - off), off);
	if (!r && !(mode & FALLOC_FL_KEEP_SIZE) && end > in->size)
		sim_resize(f->sim, in, end);
	SIM_UNLOCK(f->sim);
	return r;
}

int sim_op_seek(struct store_file *f, uint64_t off, int whence, uint64_t *out)
{
	uint64_t size = f->o->in->size;

	if (off >= size)
		return -ENXIO;
	*out = whence == SEEK_DATA ? off : size;
	return 0;
}

ssize_t sim_op_copy(struct store_file *in, uint64_t off_in, struct store_file *out, uint64_t off_out, size_t n)
{
	int r = sim_change(in->sim, "copy", "");
	uint64_t size = in->o->in->size;
	uint8_t *p;

	if (r)
		return r;
	n = off_in >= size ? 0 : n < size - off_in ? n : (size_t)(size - off_in);
	p = sim_need(malloc(n + 1));
	SIM_LOCK(in->sim);
	sim_read(in->o->in, p, n, off_in);
	r = n ? sim_write(in->sim, out->o->in, p, n, off_out) : 0;
	SIM_UNLOCK(in->sim);
	free(p);
	return r ? r : (ssize_t)n;
}

/* ---- durability and space ---- */

int sim_op_sync(struct store_obj *obj, bool data_only)
{
	struct sim_obj *o = sim_obj_of(obj);
	int r = sim_change(o->sim, data_only ? "fdatasync" : "fsync", "");

	SIM_LOCK(o->sim);
	if (!r && !o->in)
		r = -ESTALE;
	if (!r)
		sim_sync_inode(o->sim, o->in, data_only);
	SIM_UNLOCK(o->sim);
	return r;
}

int sim_op_sync_all(struct store *st)
{
	struct sim *sim = sim_of_store(st);
	int r = sim_change(sim, "syncfs", "");

	SIM_LOCK(sim);
	if (!r)
		sim_sync_everything(sim);
	SIM_UNLOCK(sim);
	return r;
}

int sim_op_reserve(struct store *st, uint64_t bytes)
{
	struct sim *sim = sim_of_store(st);
	struct statvfs sv;
	int r = 0;

	st->ops->statfs(st, &sv);
	SIM_LOCK(sim);
	if (sim->space && sim->reserved + bytes > sv.f_bavail * SIM_PAGE)
		r = -ENOSPC;
	else
		sim->reserved += bytes;
	SIM_UNLOCK(sim);
	return r;
}

void sim_op_release(struct store *st, uint64_t bytes)
{
	struct sim *sim = sim_of_store(st);

	SIM_LOCK(sim);
	sim->reserved -= bytes < sim->reserved ? bytes : sim->reserved;
	SIM_UNLOCK(sim);
}

int sim_op_seal(struct store *st)
{
	int r = sim_change(sim_of_store(st), "seal", "");

	if (!r)
		st->sealed = sim_of_store(st)->sealed = true;
	return r;
}

int sim_op_statfs(struct store *st, struct statvfs *sv)
{
	struct sim *sim = sim_of_store(st);
	uint64_t used = 0, space = sim->space ? sim->space : UINT64_C(1) << 40;

	SIM_LOCK(sim);
	for (size_t i = 0; i < sim->now.n; i++)
		for (size_t k = 0; sim->now.v[i] && k < sim->now.v[i]->npages; k++)
			used += sim->now.v[i]->pages[k] ? SIM_PAGE : 0;
	SIM_UNLOCK(sim);
	*sv = (struct statvfs){.f_bsize = SIM_PAGE, .f_frsize = SIM_PAGE, .f_namemax = NAME_MAX};
	sv->f_blocks = space / SIM_PAGE;
	sv->f_bfree = sv->f_bavail = used < space ? (space - used) / SIM_PAGE : 0;
	return 0;
}

void sim_op_close(struct store *st)
{
	struct sim *sim = sim_of_store(st);

	SIM_LOCK(sim);
	sim->reserved = 0;
	SIM_UNLOCK(sim);
}
