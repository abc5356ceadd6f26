/* sim_store.c - the simulated disk as the engine's store: objects and names. */
#include "tests/sim_private.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>

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

	SIM_LOCK(sim);
	obj = in->obj ? &in->obj->pub : sim_hand_out(sim, in);
	SIM_UNLOCK(sim);
	return obj;
}

static struct store_obj *ss_root(struct store *st)
{
	return ss_fixed(sim_of_store(st), sim_of_store(st)->root);
}

static struct store_obj *ss_stage(struct store *st)
{
	return ss_fixed(sim_of_store(st), sim_of_store(st)->stage);
}

static struct store_obj *ss_trash(struct store *st)
{
	return ss_fixed(sim_of_store(st), sim_of_store(st)->trash);
}

static struct store_obj *ss_get(struct store_obj *obj)
{
	struct sim_obj *o = sim_obj_of(obj);

	SIM_LOCK(o->sim);
	o->refs++;
	SIM_UNLOCK(o->sim);
	return obj;
}

void sim_put_locked(struct sim_obj *o)
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
	struct sim_obj *o = sim_obj_of(obj);
	struct sim *sim = o->sim;

	SIM_LOCK(sim);
	sim_put_locked(o);
	SIM_UNLOCK(sim);
}

static void ss_forsake(struct store_obj *obj)
{
	struct sim_obj *o = sim_obj_of(obj);
	struct sim *sim = o->sim;

	SIM_LOCK(sim);
	if (o->in) {
		o->in->forsaken = true;
		sim_inode_drop(sim, o->in);
	}
	SIM_UNLOCK(sim);
}

struct sim_handle {
	uint64_t ino, gen;
};

static int ss_id(struct store_obj *obj, struct store_id *id)
{
	struct sim_obj *o = sim_obj_of(obj);
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
	struct sim *sim = sim_of_store(st);
	struct sim_handle h;
	int r = -ESTALE;

	if (id->len != sizeof(h))
		return -ESTALE;
	memcpy(&h, id->bytes, sizeof(h));
	SIM_LOCK(sim);
	for (size_t i = 0; r && i < sim->now.n; i++) {
		struct sim_inode *in = sim->now.v[i];

		if (in && in->ino == h.ino && in->gen == h.gen && (in->names || in->opens || in->fixed)) {
			*out = sim_hand_out(sim, in);
			r = 0;
		}
	}
	SIM_UNLOCK(sim);
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
	struct sim_obj *o = sim_obj_of(obj);
	struct sim_inode *dir = NULL;
	const char *at = NULL;

	SIM_LOCK(o->sim);
	if (o->in)
		dir = parent_of(o->sim, o->in->serial, &at);
	if (dir) {
		*parent = sim_hand_out(o->sim, dir);
		*name = sim_need(strdup(at));
	}
	SIM_UNLOCK(o->sim);
	return dir ? 0 : -ENOENT;
}

void sim_fill(struct sim *sim, struct sim_inode *in, struct stat *st)
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
	struct sim_obj *o = sim_obj_of(obj);

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
	struct sim *sim = sim_obj_of(dir_obj)->sim;
	struct sim_inode *dir, *in;
	int r = check_name(name);

	SIM_LOCK(sim);
	if (!r)
		r = usable_dir(dir_obj, &dir);
	if (!r) {
		in = child(sim, dir, name);
		if (in) {
			sim_fill(sim, in, attr);
			*out = sim_hand_out(sim, in);
		} else {
			r = -ENOENT;
		}
	}
	SIM_UNLOCK(sim);
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
	struct sim *sim = sim_obj_of(dir_obj)->sim;
	struct sim_inode *dir, *in;
	struct sim_change *c;
	int r = sim_change(sim, "create", name);

	if (!r)
		r = check_name(name);
	if (!r && S_ISLNK(nw->mode) && !nw->target)
		r = -EINVAL;
	SIM_LOCK(sim);
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
		sim_fill(sim, in, attr);
		*out = sim_hand_out(sim, in);
	}
	SIM_UNLOCK(sim);
	return r;
}

struct store_file *sim_open_inode(struct sim *sim, struct sim_inode *in, bool writable)
{
	struct store_file *f = sim_need(calloc(1, sizeof(*f)));

	f->sim = sim;
	f->o = sim_obj_of(sim_hand_out(sim, in));
	f->writable = writable;
	in->opens++;
	return f;
}

static int ss_tmpfile(struct store_obj *dir_obj, const struct store_new *nw, struct store_obj **out, struct stat *attr,
                      struct store_file **file)
{
	struct sim *sim = sim_obj_of(dir_obj)->sim;
	struct sim_inode *dir, *in;
	int r = sim_change(sim, "tmpfile", "");

	if (!r && !S_ISREG(nw->mode))
		r = -EINVAL;
	SIM_LOCK(sim);
	if (!r)
		r = usable_dir(dir_obj, &dir);
	if (!r) {
		in = make(sim, dir, nw, true);
		sim_fill(sim, in, attr);
		*out = sim_hand_out(sim, in);
		*file = sim_open_inode(sim, in, true);
	}
	SIM_UNLOCK(sim);
	return r;
}

static int ss_link(struct store_obj *obj, struct store_obj *dir_obj, const char *name)
{
	struct sim *sim = sim_obj_of(obj)->sim;
	struct sim_inode *dir, *in = sim_obj_of(obj)->in;
	struct sim_change *c;
	int r = sim_change(sim, "link", name);

	if (!r)
		r = check_name(name);
	SIM_LOCK(sim);
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
	SIM_UNLOCK(sim);
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
	struct sim *sim = sim_obj_of(dir_obj)->sim;
	struct sim_inode *dir, *in = NULL;
	struct sim_change *c;
	int r = sim_change(sim, is_dir ? "rmdir" : "unlink", name);

	if (!r)
		r = check_name(name);
	SIM_LOCK(sim);
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
	SIM_UNLOCK(sim);
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
	struct sim *sim = sim_obj_of(dir_obj)->sim;
	struct sim_inode *from, *to, *a = NULL, *b = NULL;
	struct sim_change *c;
	int r = sim_change(sim, "rename", name);

	if (!r)
		r = check_name(name);
	if (!r)
		r = check_name(to_name);
	SIM_LOCK(sim);
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
	SIM_UNLOCK(sim);
	return r;
}

static int ss_readdir(struct store_obj *dir_obj, int (*fn)(void *arg, const struct store_dirent *de), void *arg)
{
	struct sim *sim = sim_obj_of(dir_obj)->sim;
	struct store_dirent *list = NULL;
	struct sim_inode *dir;
	size_t n = 0;
	int r;

	SIM_LOCK(sim);
	r = usable_dir(dir_obj, &dir);
	if (!r) {
		n = dir->nentries;
		list = sim_need(calloc(n + 1, sizeof(*list)));
		for (size_t i = 0; i < n; i++) {
			struct sim_inode *in = sim_at(&sim->now, dir->entries[i].serial);

			list[i] = (struct store_dirent){sim_need(strdup(dir->entries[i].name)), in->ino, in->mode & S_IFMT};
		}
	}
	SIM_UNLOCK(sim);
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
	struct sim_obj *o = sim_obj_of(obj);

	if (!o->in)
		return -ESTALE;
	if (!o->in->target)
		return -EINVAL;
	return (size_t)snprintf(buf, size, "%s", o->in->target) >= size ? -ENAMETOOLONG : 0;
}

static const struct store_ops ops = {
	.close = sim_op_close,
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
	.getattr = sim_op_getattr,
	.setattr = sim_op_setattr,
	.getxattr = sim_op_getxattr,
	.listxattr = sim_op_listxattr,
	.setxattr = sim_op_setxattr,
	.removexattr = sim_op_removexattr,
	.open = sim_op_open,
	.close_file = sim_op_close_file,
	.read = sim_op_read,
	.write = sim_op_write,
	.fallocate = sim_op_fallocate,
	.seek = sim_op_seek,
	.copy = sim_op_copy,
	.sync = sim_op_sync,
	.sync_all = sim_op_sync_all,
	.reserve = sim_op_reserve,
	.release = sim_op_release,
	.seal = sim_op_seal,
	.statfs = sim_op_statfs,
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
