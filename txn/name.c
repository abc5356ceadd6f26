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

/* Is it not home that decides what a view sees at a name? Then *there (may be NULL) is what. e: its entry, or NULL. */
static bool decided(struct txn *view, struct txn_obj *dir, const char *name, struct txn_name *e, struct txn_obj **there)
{
	if (e && !e->txn)
		e = NULL; /* a mark */
	if (txn_snap(view) && !(e && e->txn == view)) {
		if (txn_hist_name(view, dir, name, there))
			return true;
		if (e && !txn_visible(e->txn, view) && txn_state(e->txn) == TXN_COMMITTED) {
			*there = e->before; /* home may be on its way to what came later */
			return true;
		}
	}
	if (!e || !txn_visible(e->txn, view))
		return false;
	*there = e->after;
	return true;
}

int txn_resolve_name(struct txn *view, struct txn_obj *dir, const char *name, struct txn_obj **out, struct stat *attr,
                     bool *attr_valid)
{
	struct txn_obj *there;
	struct store_obj *home;
	int r = txn_snap_check(view);

	*out = NULL;
	*attr_valid = false;
	if (r)
		return r;
	if (decided(view, dir, name, dir->names ? txn_name_find(dir, name) : NULL, &there)) {
		if (!there)
			return -ENOENT;
		*out = txn_obj_get(there);
		return 0;
	}
	if (txn_snap(view) && atomic_load(&dir->gone))
		return -ENOENT; /* it was empty when it went */
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
	view = txn_view(view);
	r = txn_resolve_name(view, dir, name, &look->obj, &look->attr, &valid);
	if (!r || r == -ENOENT) {
		int s = txn_note_name(view, dir, name, look->obj);

		if (s && look->obj)
			txn_obj_put(look->obj);
		if (s)
			look->obj = NULL;
		r = s ? s : r;
	}
	if (!r) {
		pthread_rwlock_rdlock(&look->obj->lock);
		w = txn_version(look->obj, view);
		look->own = w && w->ws->txn == view;
		pthread_rwlock_unlock(&look->obj->lock);
		if (!valid || w || (view && txn_strict(eng)) || !TAILQ_EMPTY(&look->obj->dirviews))
			r = txn_attr_locked(view, look->obj, &look->attr);
		if (r) {
			txn_obj_put(look->obj);
			look->obj = NULL;
		}
	}
	pthread_rwlock_unlock(&eng->ns);
	return r;
}

int txn_readlink(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, char *buf, size_t size)
{
	int r;

	if (atomic_load(&obj->dead))
		return -ESTALE;
	r = eng->so->readlink(obj->home, buf, size); /* a target never changes */
	if ((r == -ENOENT || r == -ESTALE) && txn_snap(view))
		r = txn_hist_readlink(obj, buf, size);
	return r;
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
	struct txn_obj *there;

	if ((l->dir->names || l->dir->hist_names) &&
	    decided(l->view, l->dir, de->name, txn_name_find(l->dir, de->name), &there))
		return 0;
	return l->fn(l->arg, de);
}

static int list_one(struct listing *l, const char *name, struct txn_obj *there)
{
	struct store_dirent de = {name, there->home->ino, there->home->kind};

	return l->fn(l->arg, &de);
}

static int list_old(void *arg, const char *name, struct txn_obj *there)
{
	struct listing *l = arg;
	struct txn_name *e = l->dir->names ? txn_name_find(l->dir, name) : NULL;

	return there && !(e && e->txn == l->view) ? list_one(l, name, there) : 0;
}

int txn_readdir(struct txn_engine *eng, struct txn *view, struct txn_obj *dir,
                int (*fn)(void *arg, const struct store_dirent *de), void *arg)
{
	struct listing l = {view, dir, fn, arg};
	struct txn_obj *there;
	struct txn_name *e, *tmp;
	int r;

	if (!S_ISDIR(dir->home->kind))
		return -ENOTDIR;
	if (atomic_load(&dir->dead))
		return -ESTALE;
	pthread_rwlock_rdlock(&eng->ns);
	l.view = txn_view(view);
	r = txn_snap_check(l.view);
	if (!r)
		r = txn_note_list(l.view, dir);
	if (!r && !(txn_snap(l.view) && atomic_load(&dir->gone))) /* else it was empty when it went */
		r = eng->so->readdir(dir->home, list_home, &l);
	HASH_ITER (hh, dir->names, e, tmp) {
		bool old = e->txn != l.view && txn_hist_name(l.view, dir, e->name, &there);

		if (!r && !old && decided(l.view, dir, e->name, e, &there) && there)
			r = list_one(&l, e->name, there);
	}
	if (!r)
		r = txn_hist_each_name(l.view, dir, list_old, &l);
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
	int r = txn_note_list(view, dir);

	if (r)
		return r;
	if (txn_hist_names_changed(view, dir)) /* empty as of then is not empty enough */
		return txn_doom(view, dir, NULL);
	HASH_ITER (hh, dir->names, e, tmp) {
		if (!e->txn)
			continue;
		if (e->txn == view) {
			if (e->after)
				return -ENOTEMPTY;
		} else if (txn_met(dir, e->name, e->txn), txn_state(e->txn) == TXN_COMMITTED || e->txn->implicit) {
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
		return txn_snap(view) ? txn_doom(view, dir, NULL) : -ENOENT;
	pthread_rwlock_rdlock(&dir->lock);
	w = dir->ws;
	if (w && txn_dir_removed(w)) {
		r = txn_visible(w->ws->txn, view) ? -ENOENT
		    : w->ws->txn->implicit || txn_state(w->ws->txn) == TXN_COMMITTED ? TXN_RETRY
		                                                                     : -EBUSY;
		if (r != -ENOENT)
			txn_met(dir, NULL, w->ws->txn);
	}
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
