/* name.c - names as a view sees them: lookup, listing, places and paths. Readers only: nothing here changes a name. */
#include "txn/private.h"

#include <dirent.h>
#include <fcntl.h>

/* The entry that decides what a view sees at a name, NULL: home decides. */
static struct txn_name *visible_name(struct txn *view, struct txn_obj *dir, const char *name)
{
	struct txn_name *e = dir->names ? txn_name_find(dir, name) : NULL;

	return e && e->txn && txn_visible(e->txn, view) ? e : NULL;
}

int txn_resolve_name(struct txn *view, struct txn_obj *dir, const char *name, struct txn_obj **out, struct stat *attr,
                     bool *attr_valid)
{
	struct txn_name *e = visible_name(view, dir, name);
	struct store_obj *home;
	int r;

	*out = NULL;
	*attr_valid = false;
	if (e) {
		if (!e->after)
			return -ENOENT;
		*out = txn_obj_get(e->after);
		return 0;
	}
	if (atomic_load(&dir->dead))
		return -ESTALE;
	r = dir->eng->so->lookup(dir->home, name, &home, attr);
	if (r)
		return r;
	*out = txn_obj_intern(dir->eng, home);
	*attr_valid = true;
	return *out ? 0 : -ENOMEM;
}

int txn_lookup(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const char *name, struct txn_look *look)
{
	struct txn_name *e;
	struct txn_wsobj *w = NULL;
	bool valid;
	int r;

	memset(look, 0, sizeof(*look));
	view = txn_view(view);
	if (strlen(name) > NAME_MAX)
		return -ENAMETOOLONG;
	pthread_rwlock_rdlock(&eng->ns);
	e = dir->names ? txn_name_find(dir, name) : NULL;
	look->contested = e && e->txn && !e->txn->implicit && txn_is_open(e->txn);
	r = txn_resolve_name(view, dir, name, &look->obj, &look->attr, &valid);
	if (!r) {
		pthread_rwlock_rdlock(&look->obj->lock);
		w = txn_version(look->obj, view);
		look->own = w && w->ws->txn == view;
		pthread_rwlock_unlock(&look->obj->lock);
		if (!valid || w || !TAILQ_EMPTY(&look->obj->dirviews))
			r = txn_attr_locked(view, look->obj, &look->attr);
		if (r) {
			txn_obj_put(look->obj);
			look->obj = NULL;
		}
	}
	pthread_rwlock_unlock(&eng->ns);
	return r;
}

int txn_readlink(struct txn_engine *eng, struct txn *view UNUSED, struct txn_obj *obj, char *buf, size_t size)
{
	if (atomic_load(&obj->dead))
		return -ESTALE;
	return eng->so->readlink(obj->home, buf, size); /* a target never changes */
}

/* ---- listings ---- */

struct listing {
	struct txn *view;
	struct txn_obj *dir;
	int (*fn)(void *arg, const struct store_dirent *de);
	void *arg;
};

static int list_home(void *arg, const struct store_dirent *de)
{
	struct listing *l = arg;

	if (l->dir->names && visible_name(l->view, l->dir, de->name))
		return 0;
	return l->fn(l->arg, de);
}

int txn_readdir(struct txn_engine *eng, struct txn *view, struct txn_obj *dir,
                int (*fn)(void *arg, const struct store_dirent *de), void *arg)
{
	struct listing l = {txn_view(view), dir, fn, arg};
	struct txn_name *e, *tmp;
	int r;

	if (!S_ISDIR(dir->home->kind))
		return -ENOTDIR;
	if (atomic_load(&dir->dead))
		return -ESTALE;
	pthread_rwlock_rdlock(&eng->ns);
	r = eng->so->readdir(dir->home, list_home, &l);
	HASH_ITER (hh, dir->names, e, tmp) {
		if (r)
			break;
		if (e->txn && e->after && txn_visible(e->txn, l.view)) {
			struct store_dirent de = {e->name, e->after->home->ino, e->after->home->kind};

			r = fn(arg, &de);
		}
	}
	pthread_rwlock_unlock(&eng->ns);
	return r;
}

static int not_empty(void *arg UNUSED, const struct store_dirent *de UNUSED)
{
	return -ENOTEMPTY;
}

int txn_dir_empty(struct txn *view, struct txn_obj *dir)
{
	struct listing l = {view, dir, not_empty, NULL};
	struct txn_name *e, *tmp;

	HASH_ITER (hh, dir->names, e, tmp) {
		if (!e->txn)
			continue;
		if (e->txn == view) {
			if (e->after)
				return -ENOTEMPTY;
		} else if (txn_state(e->txn) == TXN_COMMITTED || e->txn->implicit) {
			return TXN_RETRY; /* home will be as it says in a moment */
		} else {
			return -EBUSY; /* someone's uncommitted name is in it, or may come back when he rolls back to a savepoint */
		}
	}
	return dir->eng->so->readdir(dir->home, list_home, &l);
}

int txn_dir_usable(struct txn *view, struct txn_obj *dir)
{
	struct txn_wsobj *w;
	int r = 0;

	if (!S_ISDIR(dir->home->kind))
		return -ENOTDIR;
	if (atomic_load(&dir->dead))
		return -ESTALE;
	if (atomic_load(&dir->gone))
		return -ENOENT;
	pthread_rwlock_rdlock(&dir->lock);
	w = dir->ws;
	if (w && txn_dir_removed(w))
		r = txn_visible(w->ws->txn, view) ? -ENOENT : w->ws->txn->implicit ? TXN_RETRY : -EBUSY;
	pthread_rwlock_unlock(&dir->lock);
	return r;
}

/* ---- places ---- */

/* A name that the version has given: the last one when it still stands, else any (files with several links). */
static int given_place(struct txn *view, struct txn_wsobj *w, struct txn_obj **parent, char **name)
{
	struct txn_name *e = visible_name(view, w->parent, w->name);

	if (!e || e->after != w->obj)
		TAILQ_FOREACH (e, &w->ws->names, link)
			if (e->after == w->obj)
				break;
	if (!e)
		return -ENOENT;
	*name = strdup(e->name);
	if (!*name)
		return -ENOMEM;
	*parent = txn_obj_get(e->dir);
	return 0;
}

int txn_place(struct txn *view, struct txn_obj *obj, struct txn_obj **parent, char **name)
{
	struct store_obj *home;
	struct txn_wsobj *w;
	struct txn_name *e;
	int r = -ENOENT;

	pthread_rwlock_rdlock(&obj->lock);
	w = txn_version(obj, view);
	if (w && w->parent)
		r = given_place(view, w, parent, name);
	pthread_rwlock_unlock(&obj->lock);
	if (r != -ENOENT)
		return r;
	r = obj->eng->so->place(obj->home, &home, name);
	if (r)
		return r;
	*parent = txn_obj_intern(obj->eng, home);
	r = *parent ? 0 : -ENOMEM;
	e = r ? NULL : visible_name(view, *parent, *name);
	if (e && e->after != obj) { /* the view has taken this name away; others are not known */
		txn_obj_put(*parent);
		r = -ENOENT;
	}
	if (r) {
		free(*name);
		*name = NULL; /* the caller's cleanup must not do it again */
	}
	return r;
}

int txn_path_locked(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, char **path)
{
	struct txn_obj *at = txn_obj_get(obj), *parent;
	struct base_buf b = {0};
	int r = 0;

	/* Built from its end: pieces are put in front. */
	while (at != eng->root) {
		CLEANUP_FREE char *name = NULL;
		struct base_buf front = {0};

		r = txn_place(view, at, &parent, &name);
		if (r)
			break;
		txn_obj_put(at);
		at = parent;
		base_buf_put(&front, name, strlen(name));
		if (b.n) {
			base_buf_put(&front, "/", 1);
			base_buf_put(&front, b.p, b.n);
		}
		base_buf_free(&b);
		b = front;
	}
	txn_obj_put(at);
	base_buf_put(&b, "", 1);
	if (!r)
		r = b.err;
	if (r)
		base_buf_free(&b);
	else
		*path = (char *)b.p;
	return r;
}

int txn_obj_path(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, char **path)
{
	int r;

	pthread_rwlock_rdlock(&eng->ns);
	r = txn_path_locked(eng, txn_view(view), obj, path);
	pthread_rwlock_unlock(&eng->ns);
	return r;
}

int txn_fsync_dir(struct txn_engine *eng, struct txn *view, struct txn_obj *dir)
{
	bool logged;
	int r;

	if (txn_view(view))
		return 0;
	pthread_rwlock_rdlock(&eng->ns);
	pthread_rwlock_rdlock(&dir->lock);
	logged = dir->names || dir->logged || dir->ws; /* else redo of an older version could come over it after a crash */
	pthread_rwlock_unlock(&dir->lock);
	pthread_rwlock_unlock(&eng->ns);
	if (logged) {
		r = wal_force(eng->wal, wal_end(eng->wal));
		if (r) {
			txn_engine_fail(eng, "the log cannot be made durable: %s", strerror(-r));
			return r;
		}
	}
	return txn_sync_obj(dir, false, logged);
}
