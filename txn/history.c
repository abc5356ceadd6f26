/*
 * history.c - before-images for snapshots.
 *
 * Snapshots are numbered, and a node of an object's history says what was true of it for the snapshots up to its epoch.
 * Whoever is about to change what is committed at home first puts what he changes into the node of the newest snapshot:
 * attributes and xattrs whole, of contents the bytes that change. Only the first change after a snapshot has to: later ones
 * find that the node covers it. A snapshot's reader takes each byte from the first node, by epoch, that is not older than
 * itself and covers it, else from below. When a snapshot ends, what the next older one needs of its nodes goes over to that.
 *
 * Nothing here can fail the writer: where something cannot be kept, the snapshots that need it are lost, and say so.
 */
#include "txn/private.h"

#include <syslog.h>

void txn_history_init(struct txn_engine *eng)
{
	struct txn_history *hy = &eng->history;

	pthread_mutex_init(&hy->lock, NULL);
	pthread_mutex_init(&hy->ending, NULL);
	TAILQ_INIT(&hy->snapshots);
}

void txn_history_free(struct txn_engine *eng)
{
	txn_spill_close(eng);
	pthread_mutex_destroy(&eng->history.lock);
	pthread_mutex_destroy(&eng->history.ending);
}

/* ---- snapshots ---- */

int txn_snapshot_new(struct txn *t, struct txn_snapshot **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->txn = t;
	return 0;
}

void txn_snapshot_start(struct txn_engine *eng, struct txn_snapshot *s)
{
	struct txn_history *hy = &eng->history;

	pthread_mutex_lock(&hy->lock);
	s->number = ++hy->last;
	s->active = true;
	TAILQ_INSERT_TAIL(&hy->snapshots, s, link);
	atomic_fetch_add(&hy->active, 1);
	pthread_mutex_unlock(&hy->lock);
}

void txn_snapshot_close(struct txn_engine *eng, struct txn_snapshot *s)
{
	struct txn_history *hy = &eng->history;

	pthread_mutex_lock(&hy->lock);
	if (s->active) {
		s->active = false;
		TAILQ_REMOVE(&hy->snapshots, s, link);
		atomic_fetch_sub(&hy->active, 1);
	}
	pthread_mutex_unlock(&hy->lock);
}

/* [history.lock] The newest active one up to bound, or NULL. */
static struct txn_snapshot *newest(struct txn_history *hy, uint64_t bound)
{
	struct txn_snapshot *s = TAILQ_LAST(&hy->snapshots, txn_snapshots);

	while (s && s->number > bound)
		s = TAILQ_PREV(s, txn_snapshots, link);
	return s;
}

uint64_t txn_history_newest(struct txn_history *hy, uint64_t bound)
{
	struct txn_snapshot *s;
	uint64_t n;

	pthread_mutex_lock(&hy->lock);
	s = newest(hy, bound);
	n = s ? s->number : 0;
	pthread_mutex_unlock(&hy->lock);
	return n;
}

void txn_history_lose(struct txn_engine *eng, uint64_t bound, int r)
{
	struct txn_history *hy = &eng->history;
	struct txn_snapshot *s;

	pthread_mutex_lock(&hy->lock);
	TAILQ_FOREACH (s, &hy->snapshots, link)
		if (s->number <= bound && !atomic_exchange(&s->txn->lost, true))
			base_log(LOG_WARNING, "a snapshot transaction is lost: what it needs cannot be kept: %s", strerror(-r));
	pthread_mutex_unlock(&hy->lock);
}

/* ---- nodes ---- */

static void free_values(struct txn_wsxattr **list)
{
	struct txn_wsxattr *x, *tmp;

	HASH_ITER (hh, *list, x, tmp) {
		HASH_DEL(*list, x);
		free(x->value);
		free(x);
	}
}

/* Not in any list any more. */
static void free_node(struct txn_hist *h)
{
	struct txn_engine *eng = h->obj->eng;
	struct txn_extent e;

	for (uint64_t at = 0; txn_extents_next(&h->ext, at, &e); at = e.off + e.len)
		if (e.where == TXN_IN_LOG)
			txn_spill_put(eng, e.pos, e.len);
	txn_extents_free(&h->ext);
	free_values(&h->xattrs);
	if (h->keep)
		txn_keep_put(h->keep);
	free(h->target);
	free(h);
	pthread_mutex_lock(&eng->history.lock);
	eng->history.nodes--;
	pthread_mutex_unlock(&eng->history.lock);
}

static int keep_xattr(struct txn_hist *h, const char *name)
{
	const struct store_ops *so = h->obj->eng->so;
	struct txn_wsxattr *x;
	ssize_t n = so->getxattr(h->obj->home, name, NULL, 0);

	if (n < 0)
		return n == -ENODATA ? 0 : (int)n;
	x = calloc(1, sizeof(*x) + strlen(name) + 1);
	if (!x)
		return -ENOMEM;
	memcpy(x->name, name, strlen(name));
	x->value = malloc((size_t)n + 1);
	if (x->value && n > 0)
		n = so->getxattr(h->obj->home, name, x->value, (size_t)n);
	if (x->value && n >= 0) {
		x->len = (uint32_t)n;
		HASH_ADD_STR(h->xattrs, name, x);
		if (x->hh.tbl)
			return 0;
	}
	free(x->value);
	free(x);
	return n < 0 ? (int)n : -ENOMEM;
}

static int keep_xattrs(struct txn_hist *h)
{
	const struct store_ops *so = h->obj->eng->so;
	CLEANUP_FREE char *names = NULL;
	ssize_t n = so->listxattr(h->obj->home, NULL, 0);
	int r = 0;

	if (n > 0) {
		names = malloc((size_t)n);
		n = names ? so->listxattr(h->obj->home, names, (size_t)n) : -ENOMEM;
	}
	if (n == -EOPNOTSUPP)
		n = 0;
	for (const char *p = names; n > 0 && !r && p < names + n; p += strlen(p) + 1)
		r = keep_xattr(h, p);
	if (!r && n >= 0)
		h->has_xattrs = true;
	return n < 0 ? (int)n : r;
}

/* What `own` adds: xattrs, and a symbolic link's target, which goes with its last name. */
static int keep_own(struct txn_hist *h)
{
	int r = h->has_xattrs ? 0 : keep_xattrs(h);

	if (!r && S_ISLNK(h->attr.st_mode) && !h->target) {
		h->target = malloc(PATH_MAX);
		r = h->target ? h->obj->eng->so->readlink(h->obj->home, h->target, PATH_MAX) : -ENOMEM;
		r = r > 0 ? 0 : r;
	}
	h->own = true;
	return r;
}

static struct txn_hist *node_since(const struct txn_obj *obj, uint64_t number)
{
	struct txn_hist *h;

	TAILQ_FOREACH (h, &obj->hist, link)
		if (h->epoch >= number)
			break;
	return h;
}

/* Give it to the newest snapshot, unless that has ended meanwhile. */
static bool insert(struct txn_history *hy, struct txn_hist *h, uint64_t bound)
{
	struct txn_snapshot *s;
	struct txn_hist *next;

	pthread_mutex_lock(&hy->lock);
	s = newest(hy, bound);
	if (s && s->number == h->epoch) {
		LIST_INSERT_HEAD(&s->nodes, h, of);
		hy->nodes++;
	} else {
		s = NULL;
	}
	pthread_mutex_unlock(&hy->lock);
	if (!s)
		return false;
	next = node_since(h->obj, h->epoch);
	if (next)
		TAILQ_INSERT_BEFORE(next, h, link);
	else
		TAILQ_INSERT_TAIL(&h->obj->hist, h, link);
	txn_obj_get(h->obj);
	return true;
}

static struct txn_hist *new_node(struct txn_obj *obj, uint64_t epoch, const struct stat *attr, int *r)
{
	struct txn_hist *h = calloc(1, sizeof(*h));

	*r = h ? 0 : -ENOMEM;
	if (!h)
		return NULL;
	h->obj = obj;
	h->epoch = epoch;
	txn_extents_init(&h->ext);
	if (attr)
		h->attr = *attr;
	else
		*r = obj->eng->so->getattr(obj->home, &h->attr);
	return h;
}

struct txn_hist *txn_keep_obj(struct txn_obj *obj, uint64_t bound, const struct stat *attr, bool own)
{
	struct txn_history *hy = &obj->eng->history;
	struct txn_hist *h = NULL;
	uint64_t number;
	int r = 0;

	while (!r && txn_history_wanted(obj->eng) && (number = txn_history_newest(hy, bound))) {
		/* A node of a newer snapshot that is just ending does as well. */
		h = node_since(obj, number);
		if (h)
			break;
		h = new_node(obj, number, attr, &r);
		if (!r && insert(hy, h, bound))
			break;
		free(h);
		h = NULL;
	}
	if (h && own && !h->own)
		r = keep_own(h);
	if (r)
		txn_history_lose(obj->eng, bound, r);
	return h;
}

void txn_keep_dir(struct txn_obj *dir, uint64_t bound, bool own)
{
	struct stat st;
	int r;

	if (!txn_history_wanted(dir->eng))
		return;
	r = txn_attr_locked(NULL, dir, &st);
	if (r) {
		txn_history_lose(dir->eng, bound, r);
		return;
	}
	pthread_rwlock_wrlock(&dir->lock);
	txn_keep_obj(dir, bound, &st, own);
	pthread_rwlock_unlock(&dir->lock);
}

/* ---- installs ---- */

/* What the install is about to change of it, for the snapshots that do not see this version. [obj->lock exclusive] */
static void keep_before(struct txn_wsobj *w, uint64_t epoch)
{
	struct txn_obj *obj = w->obj;
	struct txn_hist *h = txn_keep_obj(obj, epoch, NULL, true);
	struct txn_extent e;

	if (!h || !S_ISREG(obj->home->kind))
		return;
	if (w->attr.st_nlink == 0)
		txn_keep_contents(obj, h);
	if (!(w->changed & (TXN_CH_DATA | TXN_CH_SIZE)))
		return;
	for (uint64_t at = 0; txn_extents_next(&w->ext, at, &e); at = e.off + e.len) {
		uint64_t end = e.len > TXN_EXTENT_END - e.off ? TXN_EXTENT_END : e.off + e.len;

		txn_keep_data(obj, h, NULL, e.off, end);
		if (end == TXN_EXTENT_END)
			break;
	}
	txn_keep_data(obj, h, NULL, (uint64_t)w->attr.st_size, UINT64_MAX);
}

void txn_keep_installed(struct txn *t)
{
	struct txn_wsobj *w, *tmp;

	if (t->kept || !txn_history_wanted(t->eng))
		return;
	t->kept = true; /* half-way home it would be too late */
	HASH_ITER (hh, t->ws.objs, w, tmp) {
		if (!w->owned || w->created || S_ISDIR(w->obj->home->kind))
			continue;
		pthread_rwlock_wrlock(&w->obj->lock);
		keep_before(w, t->epoch);
		pthread_rwlock_unlock(&w->obj->lock);
	}
}

int txn_keep_pending(struct txn_engine *eng)
{
	struct txn_list *lists[] = {&eng->installs, &eng->implicits};
	CLEANUP_FREE struct txn **pending = NULL;
	struct txn_wsobj *w, *tmp;
	struct txn *t;
	size_t n = 0;

	/* What is not detached yet stays as it is under ns; the transaction itself under a reference. */
	pthread_mutex_lock(&eng->lock);
	for (size_t i = 0; i < ARRAY_LEN(lists); i++)
		TAILQ_FOREACH (t, lists[i], install)
			n++;
	pending = calloc(n + 1, sizeof(struct txn *));
	n = 0;
	for (size_t i = 0; i < ARRAY_LEN(lists) && pending; i++)
		TAILQ_FOREACH (t, lists[i], install)
			pending[n++] = txn_get(t);
	pthread_mutex_unlock(&eng->lock);
	for (size_t i = 0; i < n; i++) {
		HASH_ITER (hh, pending[i]->ws.objs, w, tmp)
			if (S_ISDIR(w->obj->home->kind) && (w->is_dirview || w->owned) &&
			    !(w->owned && txn_dir_removed(w)) && !atomic_load(&w->obj->gone))
				txn_keep_dir(w->obj, UINT64_MAX, false);
		txn_put(pending[i]);
	}
	return pending ? 0 : -ENOMEM;
}

void txn_keep_seen(struct txn_wsobj *w)
{
	struct txn_engine *eng = w->obj->eng;
	struct stat st;

	if (!w->owned || S_ISDIR(w->obj->home->kind) || w->attr.st_nlink == 0 || !txn_history_wanted(eng))
		return;
	if (txn_history_newest(&eng->history, UINT64_MAX) > w->ws->txn->epoch && !txn_attr_held(NULL, w->obj, &st))
		txn_keep_obj(w->obj, UINT64_MAX, &st, false);
}

/* ---- the end of a snapshot ---- */

/* All of h that `to`, which comes before it, does not have. false: no memory. [obj->lock exclusive] */
static bool merge(struct txn_hist *h, struct txn_hist *to)
{
	struct txn_extent e, have;

	if (txn_extents_reserve(&to->ext, 2 * txn_extents_count(&h->ext, 0, UINT64_MAX) +
	                                          2 * txn_extents_count(&to->ext, 0, UINT64_MAX) + 2))
		return false;
	for (uint64_t at = 0; txn_extents_next(&h->ext, at, &e); at = e.off + e.len)
		for (uint64_t off = e.off, end = e.off + e.len; off < end; off += have.len) {
			txn_extents_get(&to->ext, off, end, &have);
			if (have.where == TXN_AT_HOME)
				txn_extents_set(&to->ext, off, off + have.len, e.where, e.pos + (off - e.off));
			else if (e.where == TXN_IN_LOG)
				txn_spill_put(h->obj->eng, e.pos + (off - e.off), have.len);
		}
	txn_extents_free(&h->ext);
	txn_extents_init(&h->ext);
	to->own = to->own || h->own;
	if (!to->has_xattrs) {
		to->has_xattrs = h->has_xattrs;
		to->xattrs = TAKE_PTR(h->xattrs);
	}
	if (!to->keep)
		to->keep = TAKE_PTR(h->keep);
	if (!to->target)
		to->target = TAKE_PTR(h->target);
	return true;
}

/* A node of a snapshot that has ended: what older ones need of it goes to them. */
static void node_end(struct txn_history *hy, struct txn_hist *h, struct txn_snapshot *older)
{
	struct txn_obj *obj = h->obj;
	struct txn_hist *before;
	bool drop = !older;

	pthread_rwlock_wrlock(&obj->lock);
	before = TAILQ_PREV(h, txn_hist_list, link);
	if (older && before && before->epoch >= older->number)
		drop = merge(h, before);
	pthread_mutex_lock(&hy->lock);
	LIST_REMOVE(h, of);
	if (!drop)
		LIST_INSERT_HEAD(&older->nodes, h, of);
	pthread_mutex_unlock(&hy->lock);
	if (drop) {
		TAILQ_REMOVE(&obj->hist, h, link);
		free_node(h);
	}
	pthread_rwlock_unlock(&obj->lock);
	if (drop)
		txn_obj_put(obj);
}

void txn_snapshot_end(struct txn_engine *eng, struct txn_snapshot *s)
{
	struct txn_history *hy = &eng->history;
	struct txn_snapshot *older;
	struct txn_hist *h;

	pthread_mutex_lock(&hy->ending);
	txn_snapshot_close(eng, s);
	pthread_mutex_lock(&hy->lock);
	older = newest(hy, s->number);
	pthread_mutex_unlock(&hy->lock);
	/* Nobody adds to it any more, and nobody else takes from it. */
	while ((h = LIST_FIRST(&s->nodes)))
		node_end(hy, h, older);
	txn_hist_names_end(eng, s, older);
	free(s);
	pthread_mutex_lock(&hy->lock);
	if (TAILQ_EMPTY(&hy->snapshots) && !hy->nodes)
		txn_spill_close(eng);
	pthread_mutex_unlock(&hy->lock);
	pthread_mutex_unlock(&hy->ending);
}
