/* op_name.c - operations that give names and take them away. */
#include "txn/private.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

/* What a new name may take in a directory, or a new directory itself. */
#define DIR_BLOCKS 8192
#define ACL_DEFAULT "system.posix_acl_default"
#define ACL_ACCESS "system.posix_acl_access"

/* ---- inside a transaction ---- */

/* Log a change of names and apply it. The names were checked under the same exclusive hold of ns. */
int txn_name_change(struct txn *t, struct txn_rec_name *n)
{
	struct txn_rec rec = {.type = TXN_REC_NAME};
	int r;

	n->time = txn_now();
	for (uint32_t i = 0; i < n->count; i++)
		n->op[i].dir_time = txn_ws_find(&t->ws, n->op[i].dir)->dir_time;
	rec.u.name = *n;
	/* Home must not lose the old name before the log has the new one: redo of older records would give back both. */
	t->forced = t->forced || n->count > 1;
	r = txn_need(t, DIR_BLOCKS);
	return r ? r : txn_log_apply(t, &rec);
}

/*
 * May the transaction change this name (I4), and what does it see there? *out: new reference or NULL. [ns exclusive]
 */
int txn_own_name(struct txn *t, struct txn_obj *dir, const char *name, struct txn_obj **out)
{
	struct txn_obj *was;
	struct stat st;
	bool valid;
	int r;

	*out = NULL;
	if (strlen(name) > NAME_MAX)
		return -ENAMETOOLONG;
	if (dir == t->eng->root && !strcmp(name, STORE_STATE_DIR))
		return -EPERM; /* home would say so when it is too late */
	r = txn_dir_usable(t, dir);
	if (!r) {
		struct txn_name *e = dir->names ? txn_name_find(dir, name) : NULL;

		if (e && e->txn && e->txn != t)
			r = txn_plain_name(dir, name); /* -EBUSY or TXN_RETRY */
		else if (!(e && e->txn) && txn_hist_name(t, dir, name, &was))
			r = txn_doom(t, dir, name);
		else if ((!e || !e->txn) && txn_reserved(dir, name))
			r = -EBUSY;
	}
	if (r)
		return r;
	r = txn_resolve_name(t, dir, name, out, &st, &valid);
	r = r == -ENOENT ? 0 : r;
	return r ? r : txn_note_name(t, dir, name, *out); /* that it is there, or not, may be all that it finds out */
}

static int change_one(struct txn *t, struct txn_obj *dir, const char *name, struct txn_wsobj *before,
                      struct txn_wsobj *after)
{
	struct txn_rec_name n = {.count = 1};
	struct txn_wsobj *d;
	int r = txn_declare(t, dir, &d);

	if (r)
		return r;
	n.op[0] = (struct txn_rec_name_op){
		.dir = d->oid, .before = txn_oid_of(before), .after = txn_oid_of(after), .name = name};
	return txn_name_change(t, &n);
}

/* What a new object gets from its directory, as the kernel would give it. */
static int inherit(struct txn *t, struct txn_obj *dir, const struct txn_new *nw, struct store_new *sn, void **access,
                   size_t *access_len, void **dflt, size_t *dflt_len)
{
	struct stat d;
	ssize_t n;
	int r = txn_attr_locked(t, dir, &d);

	if (r)
		return r;
	*sn = (struct store_new){nw->mode, nw->rdev, nw->uid, nw->gid, nw->target};
	if (d.st_mode & S_ISGID) {
		sn->gid = d.st_gid;
		if (S_ISDIR(nw->mode))
			sn->mode |= S_ISGID;
	}
	if (S_ISLNK(nw->mode)) {
		sn->mode = S_IFLNK | 0777;
		return 0;
	}
	n = txn_getxattr(t->eng, t, dir, ACL_DEFAULT, NULL, 0);
	if (n <= 0) {
		sn->mode &= ~(nw->umask & 0777);
		return 0;
	}
	*dflt = malloc((size_t)n);
	if (!*dflt)
		return -ENOMEM;
	n = txn_getxattr(t->eng, t, dir, ACL_DEFAULT, *dflt, (size_t)n);
	if (n < 0)
		return (int)n;
	*dflt_len = (size_t)n;
	return txn_acl_inherit(*dflt, *dflt_len, &sn->mode, access, access_len);
}

/* Make the inode in the stage and make it known. It has no name yet. [ns exclusive] */
static int stage_object(struct txn *t, const struct store_new *sn, struct txn_wsobj **out)
{
	struct txn_engine *eng = t->eng;
	const struct store_ops *so = eng->so;
	struct txn_rec rec = {.type = TXN_REC_OBJECT};
	struct txn_rec_object *o = &rec.u.object;
	struct store_obj *home;
	struct txn_wsobj *w;
	struct txn_obj *obj;
	struct stat st;
	char name[20];
	uint64_t oid, lsn;
	int r;

	pthread_mutex_lock(&eng->lock);
	oid = eng->next_oid++;
	pthread_mutex_unlock(&eng->lock);
	txn_stage_name(oid, name);
	r = txn_need(t, DIR_BLOCKS);
	if (r)
		return r;
	r = so->create(so->stage(eng->store), name, sn, false, &home, &st);
	if (r)
		return r;
	o->oid = oid;
	o->ino = home->ino;
	o->created = true;
	o->mode = sn->mode;
	o->uid = sn->uid;
	o->gid = sn->gid;
	o->rdev = sn->rdev;
	o->hint = "";
	o->target = sn->target ? sn->target : "";
	r = so->id(home, &o->id); /* I7 */
	obj = txn_obj_intern(eng, home);
	if (!obj)
		r = r ? r : -ENOMEM;
	if (!r) {
		atomic_store(&obj->oid, oid);
		atomic_store(&obj->plain_gen, 0); /* the log knows all of it */
		r = txn_log(t, &rec, false, &lsn);
	}
	if (!r)
		r = txn_ws_add(&t->ws, obj, oid, &w);
	if (!r) {
		w->created_lsn = lsn;
		w->declared = w->created = w->staged = w->owned = true;
		w->attr = st;
		if (!S_ISDIR(st.st_mode))
			w->attr.st_nlink = 0; /* the stage does not count */
		pthread_rwlock_wrlock(&obj->lock);
		obj->ws = w;
		pthread_rwlock_unlock(&obj->lock);
		*out = w;
	} else {
		so->unlink(so->stage(eng->store), name, S_ISDIR(sn->mode));
	}
	if (obj)
		txn_obj_put(obj);
	return r;
}

struct create_args {
	struct txn_obj *dir;
	const char *name; /* NULL: without a name */
	const struct txn_new *nw;
	struct txn_look *look;
};

static int do_create(struct txn *t, void *arg)
{
	CLEANUP_FREE void *access = NULL, *dflt = NULL;
	struct create_args *a = arg;
	size_t access_len = 0, dflt_len = 0;
	struct txn_obj *there = NULL;
	struct txn_wsobj *w = NULL;
	struct store_new sn;
	int r;

	pthread_rwlock_wrlock(&t->eng->ns);
	r = a->name ? txn_own_name(t, a->dir, a->name, &there) : txn_dir_usable(t, a->dir);
	if (there) {
		txn_obj_put(there);
		r = -EEXIST;
	}
	if (!r)
		r = inherit(t, a->dir, a->nw, &sn, &access, &access_len, &dflt, &dflt_len);
	if (!r)
		r = stage_object(t, &sn, &w);
	if (!r && access)
		r = txn_do_setxattr(t, w->obj, ACL_ACCESS, access, (uint32_t)access_len);
	if (!r && dflt && S_ISDIR(sn.mode))
		r = txn_do_setxattr(t, w->obj, ACL_DEFAULT, dflt, (uint32_t)dflt_len);
	if (!r && a->name)
		r = change_one(t, a->dir, a->name, NULL, w);
	if (!r)
		r = txn_attr_locked(t, w->obj, &a->look->attr);
	if (!r) {
		a->look->obj = txn_obj_get(w->obj);
		a->look->own = true;
	}
	pthread_rwlock_unlock(&t->eng->ns);
	return r;
}

struct link_args {
	struct txn_obj *obj, *dir;
	const char *name;
	struct stat *attr; /* may be NULL */
};

/*
 * A file without a name at home would go with its last descriptor, whatever the log says: it waits in the stage. What
 * has been unlinked the kernel does not link again: -ENOENT.
 */
static int hold_nameless(struct txn *t, struct txn_wsobj *w)
{
	const struct store_ops *so = t->eng->so;
	struct txn_obj *stage = txn_obj_intern(t->eng, so->get(so->stage(t->eng->store)));
	char name[20];
	int r;

	if (!stage)
		return -ENOMEM;
	r = so->link(w->obj->home, stage->home, txn_stage_name(w->oid, name));
	if (!r) {
		w->staged = true;
		txn_obj_dirty(w->obj);
		txn_obj_dirty(stage); /* the name there is all that keeps it */
	}
	txn_obj_put(stage);
	return r;
}

static int do_link(struct txn *t, void *arg)
{
	struct link_args *a = arg;
	struct txn_obj *there = NULL;
	struct txn_wsobj *w;
	int r;

	pthread_rwlock_wrlock(&t->eng->ns);
	r = txn_own_name(t, a->dir, a->name, &there);
	if (there) {
		txn_obj_put(there);
		r = -EEXIST;
	}
	if (!r)
		r = txn_own(t, a->obj, &w);
	if (!r && w->attr.st_nlink == 0 && !w->staged)
		r = hold_nameless(t, w);
	if (!r && t->eng->store->link_max && w->attr.st_nlink >= t->eng->store->link_max)
		r = -EMLINK; /* now, not when it is installed */
	if (!r)
		r = change_one(t, a->dir, a->name, NULL, w);
	if (!r && a->attr)
		r = txn_attr_locked(t, a->obj, a->attr); /* I9: when it cannot tell the outcome, it has not happened */
	pthread_rwlock_unlock(&t->eng->ns);
	return r;
}

struct unlink_args {
	struct txn_obj *dir;
	const char *name;
	bool is_dir;
};

static int do_unlink(struct txn *t, void *arg)
{
	struct unlink_args *a = arg;
	struct txn_obj *obj = NULL;
	struct txn_wsobj *w;
	int r;

	pthread_rwlock_wrlock(&t->eng->ns);
	r = txn_own_name(t, a->dir, a->name, &obj);
	if (!r && !obj)
		r = -ENOENT;
	if (!r && a->is_dir)
		r = !S_ISDIR(obj->home->kind) ? -ENOTDIR : txn_dir_empty(t, obj);
	else if (!r && S_ISDIR(obj->home->kind))
		r = -EISDIR;
	if (!r)
		r = txn_own(t, obj, &w);
	if (!r)
		r = change_one(t, a->dir, a->name, w, NULL);
	if (obj)
		txn_obj_put(obj);
	pthread_rwlock_unlock(&t->eng->ns);
	return r;
}

/* ---- at home ---- */

/* May the committed object at a name be changed at home? Like txn_plain_obj; *out: new reference. [ns exclusive] */
int txn_plain_at(struct txn_obj *dir, const char *name, struct txn_obj **out)
{
	struct stat st;
	bool valid;
	int r, s;

	*out = NULL;
	r = txn_dir_usable(NULL, dir);
	if (r)
		return r;
	r = txn_plain_name(dir, name);
	if (r < 0)
		return r;
	s = txn_resolve_name(NULL, dir, name, out, &st, &valid);
	if (s)
		return s == -ENOENT ? r : s;
	pthread_rwlock_rdlock(&(*out)->lock);
	s = txn_plain_obj(*out);
	pthread_rwlock_unlock(&(*out)->lock);
	return s ? s : r;
}

/* A plain change of a name that is missing, as far as anybody knows. [ns exclusive] */
static void before_new_name(struct txn_obj *dir, const char *name)
{
	struct txn_obj *there = NULL;
	struct stat st;
	bool valid;

	if (!txn_strict(dir->eng) || strlen(name) > NAME_MAX)
		return;
	if (txn_resolve_name(NULL, dir, name, &there, &st, &valid) == -ENOENT)
		txn_before_name(dir, name, NULL);
	else if (there)
		txn_obj_put(there); /* it will fail */
}

static int plain_create(struct txn_engine *eng, struct create_args *a)
{
	const struct store_ops *so = eng->so;
	struct store_new sn = {a->nw->mode, a->nw->rdev, a->nw->uid, a->nw->gid, a->nw->target};
	struct store_obj *home;
	int r;

	txn_plain_begin(eng);
	pthread_rwlock_wrlock(&eng->ns);
	r = txn_dir_usable(NULL, a->dir);
	if (!r)
		r = txn_plain_name(a->dir, a->name);
	if (r)
		goto out;
	before_new_name(a->dir, a->name);
	/* A default ACL takes the umask's place. */
	if (!S_ISLNK(sn.mode) && so->getxattr(a->dir->home, ACL_DEFAULT, NULL, 0) <= 0)
		sn.mode &= ~(a->nw->umask & 0777);
	r = so->create(a->dir->home, a->name, &sn, true, &home, &a->look->attr);
	if (r)
		goto out;
	so->get(home); /* while it is known, taking it back needs no memory */
	a->look->obj = txn_obj_intern(eng, home);
	if (a->look->obj) {
		txn_obj_dirty(a->look->obj);
	} else {
		r = -ENOMEM;
		so->unlink(a->dir->home, a->name, S_ISDIR(sn.mode));
	}
	so->put(home);
	txn_obj_dirty(a->dir);
out:
	pthread_rwlock_unlock(&eng->ns);
	txn_plain_end(eng);
	return r;
}

static int plain_link(struct txn_engine *eng, struct link_args *a)
{
	int r;

	txn_plain_begin(eng);
	pthread_rwlock_wrlock(&eng->ns);
	r = txn_dir_usable(NULL, a->dir);
	if (!r)
		r = txn_plain_name(a->dir, a->name);
	if (r >= 0) {
		int s;

		pthread_rwlock_rdlock(&a->obj->lock);
		s = txn_plain_obj(a->obj);
		pthread_rwlock_unlock(&a->obj->lock);
		r = s ? s : r;
	}
	if (!r) {
		before_new_name(a->dir, a->name);
		txn_before_links(a->obj, false);
		r = eng->so->link(a->obj->home, a->dir->home, a->name);
		txn_obj_dirty(a->obj);
		txn_obj_dirty(a->dir);
	}
	pthread_rwlock_unlock(&eng->ns);
	txn_plain_end(eng);
	return r;
}

static int plain_unlink(struct txn_engine *eng, struct unlink_args *a)
{
	struct txn_obj *obj = NULL;
	int r;

	txn_plain_begin(eng);
	pthread_rwlock_wrlock(&eng->ns);
	r = txn_plain_at(a->dir, a->name, &obj);
	if (r >= 0 && !obj)
		r = -ENOENT;
	if (r >= 0 && a->is_dir && S_ISDIR(obj->home->kind)) {
		int s = txn_dir_empty(NULL, obj);

		r = s ? s : r;
	}
	if (!r) {
		txn_before_name(a->dir, a->name, obj);
		txn_before_links(obj, true);
		r = eng->so->unlink(a->dir->home, a->name, a->is_dir);
		txn_obj_dirty(a->dir);
		if (!r && a->is_dir)
			atomic_store(&obj->gone, true);
	}
	if (obj)
		txn_obj_put(obj);
	pthread_rwlock_unlock(&eng->ns);
	txn_plain_end(eng);
	return r;
}

/* ---- either ---- */

int txn_create(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const char *name,
               const struct txn_new *nw, struct txn_look *look)
{
	struct create_args args = {dir, name, nw, look};

	int r;

	memset(look, 0, sizeof(*look));
	r = TXN_RETRYING(eng, TXN_RUN(eng, view, do_create, plain_create, &args));
	if (r && look->obj) { /* made, but its transaction of one operation could not be logged or installed */
		txn_obj_put(look->obj);
		look->obj = NULL;
	}
	return r;
}

static int tmpfile_once(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const struct txn_new *nw,
                        struct txn_look *look, struct txn_file **file)
{
	struct create_args args = {dir, NULL, nw, look};
	struct txn_stmt st;
	int r;

	memset(look, 0, sizeof(*look));
	r = txn_stmt_begin(eng, view, &st);
	if (r)
		return r;
	if (st.txn) {
		r = txn_stmt_end(&st, do_create(st.txn, &args));
		if (!r)
			r = txn_open(eng, view, look->obj, O_RDWR, file);
	} else {
		struct store_new sn = {nw->mode & ~(nw->umask & 0777), 0, nw->uid, nw->gid, NULL};
		struct store_file *home = NULL;
		struct store_obj *obj;

		pthread_rwlock_rdlock(&eng->ns);
		r = txn_dir_usable(NULL, dir);
		pthread_rwlock_unlock(&eng->ns);
		if (!r)
			r = eng->so->tmpfile(dir->home, &sn, &obj, &look->attr, &home);
		if (r)
			return r;
		look->obj = txn_obj_intern(eng, obj);
		if (look->obj)
			txn_obj_dirty(look->obj);
		r = look->obj ? txn_file_new(eng, NULL, look->obj, home, file) : -ENOMEM;
		if (r)
			eng->so->close_file(home);
	}
	if (r && look->obj) {
		txn_obj_put(look->obj);
		look->obj = NULL;
	}
	return r;
}

int txn_tmpfile(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const struct txn_new *nw,
                struct txn_look *look, struct txn_file **file)
{
	return TXN_RETRYING(eng, tmpfile_once(eng, view, dir, nw, look, file));
}

int txn_link(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, struct txn_obj *dir, const char *name,
             struct stat *attr)
{
	struct link_args args = {obj, dir, name, attr};
	int r;

	if (S_ISDIR(obj->home->kind))
		return -EPERM;
	r = TXN_RETRYING(eng, TXN_RUN(eng, view, do_link, plain_link, &args));
	return r || !attr || txn_view(view) ? r : txn_getattr(eng, view, obj, attr);
}

int txn_unlink(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const char *name)
{
	struct unlink_args args = {dir, name, false};

	return TXN_RETRYING(eng, TXN_RUN(eng, view, do_unlink, plain_unlink, &args));
}

int txn_rmdir(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const char *name)
{
	struct unlink_args args = {dir, name, true};

	return TXN_RETRYING(eng, TXN_RUN(eng, view, do_unlink, plain_unlink, &args));
}
