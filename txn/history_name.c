/*
 * history_name.c - names for snapshots: for a name of a directory that has changed, what it led to up to which snapshot.
 * The same rules as in history.c, under ns.
 */
#include "txn/private.h"

struct txn_hist_name {
	TAILQ_ENTRY(txn_hist_name) link; /* [ns] in its entry, by epoch */
	LIST_ENTRY(txn_hist_name) of;    /* [history.lock] in its snapshot's list */
	struct txn_hist_entry *entry;
	struct txn_obj *there; /* owned reference; NULL: no such name */
	uint64_t epoch;
};

struct txn_hist_entry {
	UT_hash_handle hh;   /* in dir->hist_names */
	struct txn_obj *dir; /* owned reference */
	TAILQ_HEAD(txn_hist_names, txn_hist_name) nodes;
	char name[];
};

static struct txn_hist_entry *find(const struct txn_obj *dir, const char *name)
{
	struct txn_hist_entry *e = NULL;

	if (dir->hist_names)
		HASH_FIND_STR(dir->hist_names, name, e);
	return e;
}

static struct txn_hist_name *node_since(const struct txn_hist_entry *e, uint64_t number)
{
	struct txn_hist_name *n;

	TAILQ_FOREACH (n, &e->nodes, link)
		if (n->epoch >= number)
			break;
	return n;
}

/* ---- keeping ---- */

static struct txn_hist_entry *get_entry(struct txn_obj *dir, const char *name)
{
	struct txn_hist_entry *e = find(dir, name);

	if (e)
		return e;
	e = calloc(1, sizeof(*e) + strlen(name) + 1);
	if (!e)
		return NULL;
	memcpy(e->name, name, strlen(name));
	TAILQ_INIT(&e->nodes);
	HASH_ADD_STR(dir->hist_names, name, e);
	if (!e->hh.tbl) {
		free(e);
		return NULL;
	}
	e->dir = txn_obj_get(dir);
	return e;
}

static void drop_empty(struct txn_hist_entry *e)
{
	struct txn_obj *dir = e->dir;

	if (!TAILQ_EMPTY(&e->nodes))
		return;
	HASH_DEL(dir->hist_names, e);
	free(e);
	txn_obj_put(dir);
}

/* Give it to the newest snapshot, unless that has ended meanwhile. */
static bool insert(struct txn_history *hy, struct txn_hist_name *n)
{
	struct txn_snapshot *s;

	pthread_mutex_lock(&hy->lock);
	TAILQ_FOREACH (s, &hy->snapshots, link)
		if (s->number == n->epoch)
			break;
	if (s) {
		LIST_INSERT_HEAD(&s->names, n, of);
		hy->nodes++;
	}
	pthread_mutex_unlock(&hy->lock);
	if (s)
		TAILQ_INSERT_TAIL(&n->entry->nodes, n, link);
	return s;
}

void txn_keep_name(struct txn_obj *dir, const char *name, uint64_t bound, struct txn_obj *there)
{
	struct txn_history *hy = &dir->eng->history;
	struct txn_hist_entry *e;
	struct txn_hist_name *n;
	uint64_t number;

	while (txn_history_wanted(dir->eng) && (number = txn_history_newest(hy, bound))) {
		e = get_entry(dir, name);
		if (e && node_since(e, number))
			return;
		n = e ? calloc(1, sizeof(*n)) : NULL;
		if (!n) {
			if (e)
				drop_empty(e);
			txn_history_lose(dir->eng, bound, -ENOMEM);
			return;
		}
		n->entry = e;
		n->epoch = number;
		if (insert(hy, n)) {
			n->there = there ? txn_obj_get(there) : NULL;
			return;
		}
		free(n);
		drop_empty(e);
	}
}

void txn_keep_names_of(struct txn_ws *ws)
{
	struct txn_name *e;

	if (!txn_history_wanted(ws->eng))
		return;
	TAILQ_FOREACH (e, &ws->names, link)
		if (e->before != e->after)
			txn_keep_name(e->dir, e->name, ws->txn->epoch, e->before);
}

/* ---- reading ---- */

bool txn_hist_name(const struct txn *view, const struct txn_obj *dir, const char *name, struct txn_obj **there)
{
	uint64_t snap = txn_snap(view);
	struct txn_hist_entry *e = snap ? find(dir, name) : NULL;
	struct txn_hist_name *n = e ? node_since(e, snap) : NULL;

	if (n)
		*there = n->there;
	return n;
}

bool txn_hist_names_changed(const struct txn *view, const struct txn_obj *dir)
{
	uint64_t snap = txn_snap(view);
	struct txn_hist_entry *e, *tmp;

	if (snap)
		HASH_ITER (hh, dir->hist_names, e, tmp)
			if (node_since(e, snap))
				return true;
	return false;
}

int txn_hist_each_name(const struct txn *view, struct txn_obj *dir,
                       int (*fn)(void *arg, const char *name, struct txn_obj *there), void *arg)
{
	uint64_t snap = txn_snap(view);
	struct txn_hist_entry *e, *tmp;
	struct txn_hist_name *n;
	int r = 0;

	if (snap)
		HASH_ITER (hh, dir->hist_names, e, tmp)
			if (!r && (n = node_since(e, snap)))
				r = fn(arg, e->name, n->there);
	return r;
}

int txn_hist_path(struct txn_engine *eng, struct txn_obj *obj, char **path)
{
	struct txn_history *hy = &eng->history;
	struct txn_obj *dir = NULL;
	struct txn_hist_name *n;
	struct txn_snapshot *s;
	char *name = NULL;
	int r;

	pthread_mutex_lock(&hy->lock);
	TAILQ_FOREACH (s, &hy->snapshots, link)
		LIST_FOREACH (n, &s->names, of)
			if (n->there == obj && !name) {
				name = strdup(n->entry->name);
				dir = n->entry->dir; /* ns keeps it */
			}
	pthread_mutex_unlock(&hy->lock);
	if (!name)
		return -ENOENT;
	r = txn_path_locked(eng, NULL, dir, path);
	if (!r) {
		CLEANUP_FREE char *above = *path;

		if (asprintf(path, "%s%s%s", above, *above ? "/" : "", name) < 0) {
			*path = NULL;
			r = -ENOMEM;
		}
	}
	free(name);
	return r;
}

/* ---- the end of a snapshot ---- */

#define AT_ONCE 256 /* names dropped under one hold of ns */

void txn_hist_names_end(struct txn_engine *eng, struct txn_snapshot *s, struct txn_snapshot *older)
{
	struct txn_history *hy = &eng->history;
	struct txn_hist_name *n = NULL, *before;

	do {
		pthread_rwlock_wrlock(&eng->ns);
		for (int i = 0; i < AT_ONCE && (n = LIST_FIRST(&s->names)); i++) {
			bool keep;

			before = TAILQ_PREV(n, txn_hist_names, link);
			keep = older && !(before && before->epoch >= older->number);
			pthread_mutex_lock(&hy->lock);
			LIST_REMOVE(n, of);
			if (keep)
				LIST_INSERT_HEAD(&older->names, n, of);
			else
				hy->nodes--;
			pthread_mutex_unlock(&hy->lock);
			if (keep)
				continue;
			TAILQ_REMOVE(&n->entry->nodes, n, link);
			if (n->there)
				txn_obj_put(n->there);
			drop_empty(n->entry);
			free(n);
		}
		pthread_rwlock_unlock(&eng->ns);
	} while (n);
}
