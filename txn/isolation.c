/*
 * isolation.c - the levels above read committed: how a transaction gets one, and what others' changes do for it.
 *
 * Serializable is optimistic: readset.c notes what the transaction reads, commit verifies (Kung and Robinson 1981, backward
 * validation; DESIGN.md has the argument). Snapshots are served from before-images (history.c). Both cost the others
 * nothing but a shared lock as long as no such transaction is open.
 */
#include "txn/private.h"

#include <stdio.h>

#define TXN_LOST "what its snapshot needs could not be kept (no space, or no memory)"

/* Where and why a transaction lost. */
struct txn_conflict {
	struct txn_engine *eng;
	struct txn_obj *obj; /* owned reference; NULL: nothing in particular */
	char *name;          /* an entry of obj, or NULL */
	const char *what;
	pthread_mutex_t lock;
	char *text; /* [lock] made when it is asked for */
};

/* ---- levels ---- */

static int begin_strict(struct txn *t, enum txn_isolation level)
{
	struct txn_engine *eng = t->eng;
	struct txn_readset *rs = NULL;
	struct txn_snapshot *s = NULL;
	int r = level == TXN_SERIALIZABLE ? txn_readset_new(&rs) : txn_snapshot_new(t, &s);

	if (r)
		return r;
	/* A point in time: every plain change, logged or not, and every flip is wholly before it or sees the count. */
	pthread_rwlock_wrlock(&eng->strict_gate);
	pthread_rwlock_wrlock(&eng->ns);
	atomic_fetch_add(&eng->strict, 1);
	atomic_store(&t->strict, true);
	if (s) {
		txn_snapshot_start(eng, s);
		t->snapshot = s;
		atomic_store(&t->snap, s->number);
		r = txn_keep_pending(eng);
	} else {
		atomic_store(&t->reads, rs);
	}
	pthread_rwlock_unlock(&eng->ns);
	pthread_rwlock_unlock(&eng->strict_gate);
	if (r) {
		txn_isolation_end(t);
		atomic_store(&t->snap, 0);
	}
	return r;
}

int txn_set_isolation(struct txn *t, enum txn_isolation level)
{
	int r = 0;

	pthread_mutex_lock(&t->lock);
	/* An object or a name may be locked though nothing stands: what it read then counts too. */
	if (txn_state(t) != TXN_ACTIVE || t->ws.nobjs || t->ws.nnames)
		r = -EINVAL;
	if (!r) {
		struct txn_readset *rs;

		txn_isolation_end(t);
		rs = atomic_exchange(&t->reads, NULL);
		if (rs) /* somebody may be reading in the view just now */
			txn_readset_retire(rs, &t->retired_reads);
		atomic_store(&t->snap, 0);
		atomic_store(&t->doomed, false);
		atomic_store(&t->lost, false);
		atomic_store(&t->isolation, TXN_READ_COMMITTED);
		if (level != TXN_READ_COMMITTED)
			r = begin_strict(t, level);
		if (!r)
			atomic_store(&t->isolation, (int)level);
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

int txn_begin_with(struct txn_engine *eng, enum txn_isolation level, struct txn **out)
{
	int r = txn_begin(eng, out);

	if (!r && level != TXN_READ_COMMITTED) {
		r = txn_set_isolation(*out, level);
		if (r) {
			txn_rollback(*out);
			txn_put(*out);
			*out = NULL;
		}
	}
	return r;
}

enum txn_isolation txn_isolation(const struct txn *t)
{
	return (enum txn_isolation)atomic_load(&((struct txn *)(uintptr_t)t)->isolation);
}

void txn_isolation_end(struct txn *t)
{
	struct txn_readset *rs = atomic_load(&t->reads);

	if (!atomic_exchange(&t->strict, false))
		return;
	if (rs)
		txn_readset_clear(rs);
	if (t->snapshot)
		txn_snapshot_end(t->eng, TAKE_PTR(t->snapshot));
	atomic_fetch_sub(&t->eng->strict, 1);
}

void txn_isolation_free(struct txn *t)
{
	struct txn_readset *rs = atomic_load(&t->reads);
	struct txn_conflict *c = atomic_load(&t->conflict);

	if (rs)
		txn_readset_retire(rs, &t->retired_reads);
	txn_readsets_free(t->retired_reads);
	if (!c)
		return;
	if (c->obj)
		txn_obj_put(c->obj);
	pthread_mutex_destroy(&c->lock);
	free(c->name);
	free(c->text);
	free(c);
}

/* ---- conflicts ---- */

void txn_explain(struct txn *t, struct txn_obj *obj, const char *name, const char *what)
{
	struct txn_conflict *c = calloc(1, sizeof(*c)), *none = NULL;

	if (!c)
		return;
	c->eng = t->eng;
	c->name = name ? strdup(name) : NULL;
	c->what = what;
	c->obj = obj ? txn_obj_get(obj) : NULL;
	pthread_mutex_init(&c->lock, NULL);
	if (!atomic_compare_exchange_strong(&t->conflict, &none, c)) {
		pthread_mutex_destroy(&c->lock);
		if (obj)
			txn_obj_put(obj);
		free(c->name);
		free(c);
	}
}

int txn_doom(struct txn *t, struct txn_obj *obj, const char *name)
{
	if (txn_snap_check(t))
		txn_explain(t, NULL, NULL, TXN_LOST);
	txn_explain(t, obj, name, "has been changed by another since the snapshot");
	atomic_store(&t->doomed, true);
	return -ECANCELED;
}

static char *conflict_text(struct txn_conflict *c)
{
	CLEANUP_FREE char *path = NULL;
	struct base_buf b = {0};
	int r = -ENOENT;

	if (c->obj) {
		pthread_rwlock_rdlock(&c->eng->ns);
		r = txn_path_locked(c->eng, NULL, c->obj, &path);
		if (r)
			r = txn_hist_path(c->eng, c->obj, &path);
		pthread_rwlock_unlock(&c->eng->ns);
	}
	if (r && c->obj) {
		base_buf_printf(&b, "a file that has been removed (inode %llu)", (unsigned long long)txn_obj_ino(c->obj));
		if (c->name)
			base_buf_printf(&b, ", \"%s\" in it,", c->name);
	} else if (c->obj) {
		CLEANUP_FREE char *whole = NULL;

		if (asprintf(&whole, "%s%s%s", path, c->name && *path ? "/" : "", c->name ? c->name : "") >= 0)
			base_buf_quote(&b, *whole ? whole : ".");
	}
	base_buf_printf(&b, "%s%s", c->obj ? " " : "", c->what);
	if (b.err)
		base_buf_free(&b);
	return (char *)b.p;
}

const char *txn_conflict(const struct txn *t)
{
	struct txn_conflict *c = atomic_load(&((struct txn *)(uintptr_t)t)->conflict);
	const char *text;

	if (!c)
		return NULL;
	pthread_mutex_lock(&c->lock);
	if (!c->text)
		c->text = conflict_text(c);
	text = c->text ? c->text : c->what;
	pthread_mutex_unlock(&c->lock);
	return text;
}

/* ---- commit ---- */

int txn_certify(struct txn *t)
{
	struct txn_engine *eng = t->eng;
	int r = 0;

	if (atomic_load(&t->doomed))
		return -ECANCELED;
	if (txn_snap_check(t)) {
		txn_explain(t, NULL, NULL, TXN_LOST);
		return -ECANCELED;
	}
	/*
	 * The check and `committing` are one step: of two that each read what the other one changes, the second to come here
	 * finds the first one's locks. Under ns, so that no flip is half seen.
	 */
	if (atomic_load(&t->reads)) {
		pthread_rwlock_rdlock(&eng->ns);
		pthread_mutex_lock(&eng->certify);
		r = txn_readset_check(t);
		if (!r)
			atomic_store(&t->committing, true);
		pthread_mutex_unlock(&eng->certify);
		pthread_rwlock_unlock(&eng->ns);
	} else {
		pthread_mutex_lock(&eng->certify);
		atomic_store(&t->committing, true);
		pthread_mutex_unlock(&eng->certify);
	}
	return r;
}

void txn_uncertify(struct txn *t)
{
	atomic_store(&t->committing, false);
}

void txn_isolation_flip(struct txn *t)
{
	struct txn_engine *eng = t->eng;
	struct txn_wsobj *w, *tmp;

	t->epoch = eng->history.last;
	if (t->snapshot)
		txn_snapshot_close(eng, t->snapshot);
	if (!txn_history_wanted(eng))
		return;
	/* Others may change other names of the same directories before this one is installed: their attributes are kept now. */
	HASH_ITER (hh, t->ws.objs, w, tmp)
		if (!w->created && S_ISDIR(w->obj->home->kind) && (w->is_dirview || w->owned))
			txn_keep_dir(w->obj, t->epoch, w->owned);
}

void txn_isolation_flipped(struct txn *t)
{
	struct txn_wsobj *w, *tmp;
	struct txn_name *e;

	if (!txn_strict(t->eng))
		return;
	HASH_ITER (hh, t->ws.objs, w, tmp) {
		if (!w->owned || (S_ISDIR(w->obj->home->kind) && !w->changed))
			continue;
		pthread_rwlock_wrlock(&w->obj->lock);
		w->obj->attr_version++;
		if (w->changed & (TXN_CH_DATA | TXN_CH_SIZE))
			w->obj->data_version++;
		pthread_rwlock_unlock(&w->obj->lock);
	}
	TAILQ_FOREACH (e, &t->ws.names, link)
		if (e->before != e->after)
			e->dir->names_version++;
}

/* ---- plain changes ---- */

void txn_before_data(struct txn_obj *obj, struct store_file *file, uint64_t off, uint64_t end)
{
	struct txn_hist *h;

	if (!txn_strict(obj->eng))
		return;
	obj->data_version++;
	obj->attr_version++;
	h = txn_keep_obj(obj, UINT64_MAX, NULL, true);
	if (h)
		txn_keep_data(obj, h, file, off, end);
}

void txn_before_attr(struct txn_obj *obj)
{
	struct stat st;

	if (!txn_strict(obj->eng))
		return;
	obj->attr_version++;
	if (!txn_history_wanted(obj->eng))
		return;
	if (S_ISDIR(obj->home->kind)) {
		int r = txn_attr_held(NULL, obj, &st);

		if (r)
			txn_history_lose(obj->eng, UINT64_MAX, r);
		else
			txn_keep_obj(obj, UINT64_MAX, &st, true);
	} else {
		txn_keep_obj(obj, UINT64_MAX, NULL, true);
	}
}

void txn_before_links(struct txn_obj *obj, bool lose)
{
	struct txn_hist *h;
	struct stat st;

	if (!txn_strict(obj->eng))
		return;
	if (S_ISDIR(obj->home->kind)) {
		txn_keep_dir(obj, UINT64_MAX, true);
		return;
	}
	pthread_rwlock_wrlock(&obj->lock);
	obj->attr_version++;
	h = txn_keep_obj(obj, UINT64_MAX, NULL, true);
	if (h && lose && (obj->eng->so->getattr(obj->home, &st) || st.st_nlink <= 1))
		txn_keep_contents(obj, h);
	pthread_rwlock_unlock(&obj->lock);
}

void txn_before_name(struct txn_obj *dir, const char *name, struct txn_obj *there)
{
	if (!txn_strict(dir->eng))
		return;
	dir->names_version++;
	txn_keep_dir(dir, UINT64_MAX, false);
	txn_keep_name(dir, name, UINT64_MAX, there);
}
