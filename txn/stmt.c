/* stmt.c - statements: logging a change, locking what it changes (I4), undoing a failed one (I9). */
#include "txn/private.h"

#define PATH_HINT_MAX 4096
#define RESERVE_CHUNK (256u << 10) /* space is reserved for many small operations at a time */

int txn_stmt_begin(struct txn_engine *eng, struct txn *view, struct txn_stmt *st)
{
	int r = txn_writable(eng);

	st->eng = eng;
	st->txn = NULL;
	st->mark = 0;
	st->last = 0;
	if (r)
		return r;
	view = txn_view(view);
	if (view) {
		pthread_mutex_lock(&view->lock);
		if (txn_state(view) == TXN_ACTIVE) {
			st->txn = view;
			st->mark = view->recs.n;
			st->last = view->last;
		} else {
			bool prepared = txn_state(view) == TXN_PREPARED;

			pthread_mutex_unlock(&view->lock);
			if (prepared)
				return -EBUSY;
		}
	}
	return 0;
}

int txn_stmt_end(struct txn_stmt *st, int r)
{
	struct txn *t = st->txn;

	if (!t)
		return r;
	if (r < 0 && t->last != st->last) { /* I9 */
		int u = txn_undo_to(t, st->mark, st->last);

		if (u)
			txn_engine_fail(st->eng, "undoing a failed operation of transaction %llu failed: %s",
			                (unsigned long long)t->id, strerror(-u));
	}
	if (r >= 0) {
		t->operations++;
		t->version++;
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

static int append(struct txn *t, const struct txn_rec *rec, bool control, uint64_t *lsn)
{
	struct wal_rec h = {.type = (uint8_t)rec->type, .txid = t->id, .prev = t->last};
	struct base_buf head = {0};
	struct iovec iov[3];
	size_t size = 0;
	int n, r;

	r = txn_rec_encode(rec, &head, iov, &n);
	for (int i = 0; !r && i < n; i++)
		size += iov[i].iov_len;
	if (!r)
		r = txn_charge(t, wal_record_size((uint32_t)size), control);
	if (r) {
		base_buf_free(&head);
		return r;
	}
	r = wal_append(t->eng->wal, &h, iov, n, control);
	base_buf_free(&head);
	if (r) {
		if (r == -ENOSPC)
			txn_want_checkpoint(t->eng);
		if (wal_failed(t->eng->wal))
			txn_engine_fail(t->eng, "the log cannot be written: %s", strerror(-r));
		return r;
	}
	t->last = h.lsn;
	t->bytes += wal_record_size(h.len);
	if (lsn)
		*lsn = h.lsn;
	return 0;
}

int txn_log_begin(struct txn *t, bool control)
{
	struct txn_rec begin = {.type = TXN_REC_BEGIN};
	uint64_t first;
	int r;

	if (t->first)
		return 0;
	/* Under the list's lock: a checkpoint that looks for the oldest record must not miss it. */
	pthread_mutex_lock(&t->eng->lock);
	atomic_store(&t->first, wal_end(t->eng->wal));
	pthread_mutex_unlock(&t->eng->lock);
	r = append(t, &begin, control, &first);
	atomic_store(&t->first, r ? 0 : first);
	return r;
}

int txn_log(struct txn *t, const struct txn_rec *rec, bool control, uint64_t *lsn)
{
	int r = txn_log_begin(t, control);

	return r ? r : append(t, rec, control, lsn);
}

int txn_need(struct txn *t, uint64_t bytes)
{
	const struct store_ops *so = t->eng->so;
	uint64_t need = t->need + bytes;
	int r = 0;

	if (need > t->reserved) {
		uint64_t more = need - t->reserved, chunk = t->implicit ? more : base_max_u64(more, RESERVE_CHUNK);

		r = so->reserve(t->eng->store, chunk);
		if (r == -ENOSPC && chunk > more) {
			chunk = more;
			r = so->reserve(t->eng->store, chunk);
		}
		if (!r)
			t->reserved += chunk;
		else
			txn_want_checkpoint(t->eng);
	}
	if (!r)
		t->need = need;
	return r;
}

static bool undoable(enum txn_rec_type type)
{
	return txn_rec_table[type].undo && type != TXN_REC_OBJECT;
}

int txn_log_apply(struct txn *t, const struct txn_rec *rec)
{
	const struct txn_rec_ops *ops = &txn_rec_table[rec->type];
	uint64_t before = t->last, lsn;
	struct txn_rec placed;
	int r;

	/* Everything that can fail for lack of memory first, as far as it is known here. */
	r = base_vec_push(&t->recs, 0);
	if (r)
		return r;
	t->recs.n--;
	r = txn_log(t, rec, false, &lsn); /* I1: the record before the change */
	if (r)
		return r;
	placed = *rec;
	txn_rec_place(&placed, lsn); /* what decoding would have told */
	r = ops->apply(&t->ws, &placed, lsn);
	if (r) {
		struct txn_rec clr = {.type = TXN_REC_CLR, .u.clr = {.undone = lsn, .next = before}};
		int u = txn_log(t, &clr, true, NULL);

		if (u)
			txn_engine_fail(t->eng, "cannot log a compensation record: %s", strerror(-u));
		return r;
	}
	if (undoable(rec->type))
		t->recs.v[t->recs.n++] = lsn;
	return 0;
}

/*
 * Undo the records above the first `records` ones, newest first. What was created after LSN `last` never was: who has it
 * open gets ESTALE. [txn->lock]
 */
int txn_undo_to(struct txn *t, size_t records, uint64_t last)
{
	struct txn_rec clr = {.type = TXN_REC_CLR};
	struct txn_wsobj *w, *tmp;
	int r;

	HASH_ITER (hh, t->ws.objs, w, tmp)
		if (w->created && w->created_lsn > last)
			atomic_store(&w->obj->dead, true);
	if (t->recs.n <= records)
		return 0;
	clr.u.clr.undone = t->recs.v[t->recs.n - 1];
	clr.u.clr.next = records ? t->recs.v[records - 1] : t->first;
	r = txn_log(t, &clr, true, NULL); /* I6: the compensation record first */
	while (!r && t->recs.n > records) {
		CLEANUP_FREE void *payload = NULL;
		struct wal_rec h;
		struct txn_rec rec;
		bool names;

		r = wal_read_rec(t->eng->wal, t->recs.v[t->recs.n - 1], &h, &payload);
		if (!r)
			r = txn_rec_decode(&h, payload, &rec);
		if (r)
			break;
		names = rec.type == TXN_REC_NAME;
		if (names)
			pthread_rwlock_wrlock(&t->eng->ns);
		r = txn_rec_table[rec.type].undo(&t->ws, &rec, h.lsn);
		if (names)
			pthread_rwlock_unlock(&t->eng->ns);
		if (!r)
			t->recs.n--;
	}
	return r;
}

/* The path at home, as a hint for finding the object when handles cannot be opened. */
static void home_path(struct txn_obj *obj, char *buf, size_t size)
{
	const struct store_ops *so = obj->eng->so;
	struct store_obj *at = so->get(obj->home), *parent;
	size_t start = size - 1;

	buf[start] = '\0';
	while (at != so->root(obj->eng->store)) {
		CLEANUP_FREE char *name = NULL;
		size_t n;

		if (so->place(at, &parent, &name)) {
			start = size - 1; /* nowhere below the root: no hint */
			break;
		}
		so->put(at);
		at = parent;
		n = strlen(name);
		if (n + 1 > start) {
			start = size - 1; /* too long: no hint */
			break;
		}
		start -= n;
		memcpy(buf + start, name, n);
		if (at != so->root(obj->eng->store))
			buf[--start] = '/';
	}
	so->put(at);
	memmove(buf, buf + start, size - start);
}

int txn_declare(struct txn *t, struct txn_obj *obj, struct txn_wsobj **out)
{
	struct txn_wsobj *w = txn_ws_find(&t->ws, txn_obj_oid(obj));
	int r;

	if (!w) {
		r = txn_ws_add(&t->ws, obj, txn_obj_oid(obj), &w);
		if (r)
			return r;
	}
	if (!w->declared) {
		struct txn_rec rec = {.type = TXN_REC_OBJECT};
		struct txn_rec_object *o = &rec.u.object;
		CLEANUP_FREE char *hint = malloc(PATH_HINT_MAX);

		if (!hint)
			return -ENOMEM;
		home_path(obj, hint, PATH_HINT_MAX);
		o->oid = w->oid;
		o->ino = obj->home->ino;
		o->mode = obj->home->kind;
		o->hint = hint;
		o->target = "";
		r = obj->eng->so->id(obj->home, &o->id); /* I7 */
		if (!r)
			r = txn_log(t, &rec, false, NULL);
		if (r)
			return r;
		w->declared = true;
	}
	*out = w;
	return 0;
}

/* [obj->lock] */
static int other_version(struct txn_obj *obj)
{
	txn_met(obj, NULL, obj->ws->ws->txn);
	switch (txn_state(obj->ws->ws->txn)) {
	case TXN_ACTIVE:
	case TXN_PREPARED:
		return obj->ws->ws->txn->implicit ? TXN_RETRY : -EBUSY; /* I4 */
	default:
		return TXN_RETRY; /* being installed or dropped: soon at home */
	}
}

/* A snapshot wants to change what has changed since: the first updater has won. [obj->lock] */
static bool late(const struct txn *t, const struct txn_obj *obj)
{
	return txn_snap(t) && (txn_hist_changed(t, obj) || txn_snap_check(t));
}

int txn_own(struct txn *t, struct txn_obj *obj, struct txn_wsobj **out)
{
	struct txn_wsobj *w;
	struct stat st;
	int r;

	if (atomic_load(&obj->dead))
		return -ESTALE;
	pthread_rwlock_rdlock(&obj->lock);
	w = obj->ws;
	r = !w ? (txn_reserved(obj, NULL) ? -EBUSY : 1) : w->ws->txn == t ? 0 : other_version(obj);
	if (r && late(t, obj))
		r = txn_doom(t, obj, NULL);
	pthread_rwlock_unlock(&obj->lock);
	if (r <= 0) {
		*out = w;
		return r;
	}
	r = txn_declare(t, obj, &w);
	if (r)
		return r;
	pthread_rwlock_wrlock(&obj->lock);
	if (obj->ws) {
		r = other_version(obj);
	} else if (late(t, obj)) {
		r = txn_doom(t, obj, NULL);
	} else {
		r = obj->eng->so->getattr(obj->home, &st);
		if (!r) {
			struct txn_hist *h = txn_hist_first(t, obj);

			w->attr = h ? h->attr : st; /* names that came since a snapshot, or an install, have changed times */
			w->owned = true;
			obj->ws = w;
		}
	}
	pthread_rwlock_unlock(&obj->lock);
	*out = w;
	return r;
}

int txn_plain_obj(struct txn_obj *obj)
{
	if (atomic_load(&obj->dead))
		return -ESTALE;
	if (obj->ws)
		return other_version(obj);
	if (txn_reserved(obj, NULL))
		return -EBUSY;
	return obj->logged ? 1 : 0; /* I5 */
}

int txn_plain_name(struct txn_obj *dir, const char *name)
{
	struct txn_name *e = dir->names ? txn_name_find(dir, name) : NULL;
	bool logged;
	int r = 0;

	if (!e || !e->txn) {
		pthread_rwlock_rdlock(&dir->lock);
		logged = e || dir->logged_mtime;
		/* A committed mtime that is not home yet would come over the one that this change makes. */
		if (dir->ws && (dir->ws->changed & STORE_SET_MTIME << TXN_CH_SHIFT) &&
		    txn_state(dir->ws->ws->txn) == TXN_COMMITTED) {
			txn_met(dir, NULL, dir->ws->ws->txn);
			r = TXN_RETRY;
		}
		pthread_rwlock_unlock(&dir->lock);
		if (!r && txn_reserved(dir, name))
			r = -EBUSY;
		return r ? r : logged; /* I5 */
	}
	txn_met(dir, name, e->txn);
	switch (txn_state(e->txn)) {
	case TXN_ACTIVE:
	case TXN_PREPARED:
		return e->txn->implicit ? TXN_RETRY : -EBUSY;
	default:
		return TXN_RETRY;
	}
}
