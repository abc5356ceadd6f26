/* changes.c - what a transaction has changed: for the layer above, and for people. */
#include "txn/private.h"

int txn_each_change(struct txn *t, int (*fn)(void *arg, const struct txn_change *ch), void *arg)
{
	struct txn_wsobj *w, *tmp;
	struct txn_name *e;
	int r = 0;

	pthread_mutex_lock(&t->lock);
	pthread_rwlock_rdlock(&t->eng->ns);
	TAILQ_FOREACH (e, &t->ws.names, link) {
		struct txn_change ch = {.dir = e->dir, .name = e->name, .before = e->before, .after = e->after};

		if (r)
			break;
		r = fn(arg, &ch);
	}
	HASH_ITER (hh, t->ws.objs, w, tmp) {
		struct txn_change ch = {.obj = w->obj, .created = w->created};

		if (r)
			break;
		if (!w->owned)
			continue;
		ch.data = w->changed & (TXN_CH_DATA | TXN_CH_SIZE);
		ch.attrs = w->changed & ~(TXN_CH_DATA | TXN_CH_SIZE) || w->links;
		r = fn(arg, &ch);
	}
	pthread_rwlock_unlock(&t->eng->ns);
	pthread_mutex_unlock(&t->lock);
	return r;
}

struct change {
	char kind;
	char *path, *to;
};

struct changes {
	struct txn *t;
	struct change *v;
	size_t n, cap;
};

/* Takes over path and to. */
static int add(struct changes *c, char kind, char *path, char *to)
{
	if (c->n == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 64;
		struct change *v = reallocarray(c->v, cap, sizeof(*v));

		if (!v) {
			free(path);
			free(to);
			return -ENOMEM;
		}
		c->v = v;
		c->cap = cap;
	}
	c->v[c->n++] = (struct change){kind, path, to};
	return 0;
}

static int entry_path(struct txn *t, struct txn *view, const struct txn_name *e, char **out)
{
	CLEANUP_FREE char *dir = NULL;
	int r = txn_path_locked(t->eng, view, e->dir, &dir);

	if (r)
		return r;
	return asprintf(out, "%s%s%s", dir, dir[0] ? "/" : "", e->name) < 0 ? -ENOMEM : 0;
}

/* Note with each object an entry that gave it a name and one that took one: both together are a move. */
static void pair_up(struct txn *t)
{
	struct txn_wsobj *w, *tmp;
	struct txn_name *e;

	HASH_ITER (hh, t->ws.objs, w, tmp)
		w->gained = w->lost = NULL;
	TAILQ_FOREACH (e, &t->ws.names, link) {
		if (e->before == e->after)
			continue;
		if (e->before && (w = txn_ws_find(&t->ws, txn_obj_oid(e->before))))
			w->lost = e;
		if (e->after && (w = txn_ws_find(&t->ws, txn_obj_oid(e->after))))
			w->gained = e;
	}
}

static int name_changes(struct changes *c)
{
	struct txn *t = c->t;
	struct txn_name *e;
	int r = 0;

	pair_up(t);
	TAILQ_FOREACH (e, &t->ws.names, link) {
		char *path = NULL, *to = NULL;
		struct txn_wsobj *w;

		if (r)
			break;
		if (e->before == e->after)
			continue;
		if (e->after) {
			w = txn_ws_find(&t->ws, txn_obj_oid(e->after));
			if (w && w->lost && w->gained == e && !w->created) {
				r = entry_path(t, NULL, w->lost, &path);
				if (!r)
					r = entry_path(t, t, e, &to);
				r = r ? (free(path), r) : add(c, 'R', path, to);
			} else {
				r = entry_path(t, t, e, &path);
				if (!r)
					r = add(c, 'A', path, NULL);
			}
		}
		w = e->before ? txn_ws_find(&t->ws, txn_obj_oid(e->before)) : NULL;
		if (!r && w && !(w->lost == e && w->gained)) {
			r = entry_path(t, NULL, e, &path);
			if (!r)
				r = add(c, 'D', path, NULL);
		}
	}
	return r;
}

/*
 * A name by which to tell a changed object. With several names, one that it had before is better than one that it got: who
 * reads the list would take the change for a part of what is new. If the only name that is known of those it had is lost, it is
 * told by that one (and listed as removed), for else nothing would speak of the change.
 */
static int object_path(struct txn *t, struct txn_wsobj *w, char **out)
{
	CLEANUP_FREE char *name = NULL, *dir = NULL;
	struct txn_obj *parent;
	int r;

	if (w->gained && !w->lost && !txn_place(NULL, w->obj, &parent, &name)) {
		struct txn_name *e = txn_name_find(parent, name);

		r = e && e->txn == t && e->after != w->obj ? -ENOENT : txn_path_locked(t->eng, t, parent, &dir);
		txn_obj_put(parent);
		if (!r)
			return asprintf(out, "%s%s%s", dir, dir[0] ? "/" : "", name) < 0 ? -ENOMEM : 0;
		if (r != -ENOENT)
			return r;
	}
	r = txn_path_locked(t->eng, t, w->obj, out);
	return r == -ENOENT && w->lost ? entry_path(t, NULL, w->lost, out) : r;
}

static int object_changes(struct changes *c)
{
	struct txn *t = c->t;
	struct txn_wsobj *w, *tmp;
	int r = 0;

	HASH_ITER (hh, t->ws.objs, w, tmp) {
		bool data = w->changed & (TXN_CH_DATA | TXN_CH_SIZE);
		char *path;

		if (r)
			break;
		if (!w->owned || w->created || !w->changed)
			continue;
		if (!S_ISDIR(w->attr.st_mode) && w->attr.st_nlink == 0)
			continue; /* its removal says it all */
		r = object_path(t, w, &path);
		if (r == -ENOENT)
			r = 0;
		else if (!r)
			r = add(c, data ? 'M' : 'P', path, NULL);
	}
	return r;
}

static int by_path(const void *a, const void *b)
{
	const struct change *x = a, *y = b;
	int r = strcmp(x->path, y->path);

	return r ? r : x->kind - y->kind;
}

int txn_changes(struct txn *t, int (*fn)(void *arg, char kind, const char *path, const char *to), void *arg)
{
	struct changes c = {.t = t};
	int r;

	pthread_mutex_lock(&t->lock);
	pthread_rwlock_rdlock(&t->eng->ns);
	r = name_changes(&c);
	if (!r)
		r = object_changes(&c);
	pthread_rwlock_unlock(&t->eng->ns);
	pthread_mutex_unlock(&t->lock);
	if (!r && c.n)
		qsort(c.v, c.n, sizeof(*c.v), by_path);
	for (size_t i = 0; i < c.n; i++) {
		if (!r)
			r = fn(arg, c.v[i].kind, c.v[i].path, c.v[i].to);
		free(c.v[i].path);
		free(c.v[i].to);
	}
	free(c.v);
	return r;
}
