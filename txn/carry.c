/*
 * carry.c - a transaction that has been open for long does not pin the log: its records are written again at the log's
 * end, and the old ones can be trimmed.
 *
 * The copies form a new chain from a BEGIN of their own, each flagged WAL_CARRIED. They count only once a later record of
 * the transaction is linked to the new chain (its `prev`): a copy that was not finished is a dead branch. Positions that
 * records and the workspace hold are moved along. A prepared transaction has no later record: of its copy PREPARE, the last
 * one, says that it is whole. A large transaction is carried only when the log that it pins is much larger
 * than itself, so that the cost stays a fraction of what was written meanwhile.
 */
#include "txn/private.h"

struct carry {
	struct base_vec from, to; /* LSNs, ascending in both */
};

/* Where the record that holds this position has gone, and the position with it. */
static uint64_t moved_to(void *arg, uint64_t pos)
{
	struct carry *c = arg;
	size_t lo = 0, hi = c->to.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (c->from.v[mid] <= pos)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? c->to.v[lo - 1] + (pos - c->from.v[lo - 1]) : pos;
}

int txn_chain(struct txn_engine *eng, uint64_t last, struct base_vec *out)
{
	uint64_t lsn = last;
	int r = 0;

	while (!r && lsn) {
		CLEANUP_FREE void *payload = NULL;
		struct wal_rec h;

		r = wal_read_rec(eng->wal, lsn, &h, &payload);
		if (!r)
			r = base_vec_push(out, lsn);
		if (!r)
			lsn = h.prev;
	}
	for (size_t i = 0; i < out->n / 2; i++) {
		uint64_t v = out->v[i];

		out->v[i] = out->v[out->n - 1 - i];
		out->v[out->n - 1 - i] = v;
	}
	return r;
}

/*
 * A recovery has made the object anew, and said so in a BIND, which may be trimmed before the copy: the copy says it itself.
 */
static int rebind(struct txn *t, const struct wal_rec *h, void **payload, uint32_t *len)
{
	struct base_buf head = {0};
	struct txn_rec rec;
	struct txn_wsobj *w;
	struct store_id id;
	struct iovec iov[3];
	int n, r = txn_rec_decode(h, *payload, &rec);

	w = r ? NULL : txn_ws_find(&t->ws, rec.u.object.oid);
	if (!w)
		return r;
	r = t->eng->so->id(w->obj->home, &id);
	if (r == -ENOENT || r == -ESTALE)
		return 0;
	if (r || (id.len == rec.u.object.id.len && !memcmp(id.bytes, rec.u.object.id.bytes, id.len)))
		return r;
	rec.u.object.id = id;
	rec.u.object.ino = w->obj->home->ino;
	r = txn_rec_encode(&rec, &head, iov, &n);
	if (r) {
		base_buf_free(&head);
		return r;
	}
	free(*payload);
	*payload = head.p;
	*len = (uint32_t)head.n;
	return 0;
}

static int copy_record(struct txn *t, struct carry *c, size_t i)
{
	CLEANUP_FREE void *payload = NULL;
	struct iovec iov;
	struct wal_rec h;
	int r = wal_read_rec(t->eng->wal, c->from.v[i], &h, &payload);

	if (!r)
		r = txn_rec_relocate(h.type, payload, h.len, moved_to, c);
	if (!r && h.type == TXN_REC_OBJECT)
		r = rebind(t, &h, &payload, &h.len);
	if (!r)
		r = base_vec_push(&c->to, 0); /* before the append: PREPARE's makes the copy count */
	if (r)
		return r;
	iov = (struct iovec){payload, h.len};
	h.prev = i ? c->to.v[i - 1] : 0;
	h.flags |= WAL_CARRIED;
	r = wal_append(t->eng->wal, &h, &iov, 1, false);
	c->to.v[i] = h.lsn;
	return r;
}

static int carry(struct txn *t)
{
	struct txn_wsobj *w, *tmp;
	struct carry c = {0};
	int r = txn_chain(t->eng, t->last, &c.from);

	for (size_t i = 0; !r && i < c.from.n; i++)
		r = copy_record(t, &c, i);
	if (!r && c.to.n) {
		for (size_t i = 0; i < t->recs.n; i++)
			t->recs.v[i] = moved_to(&c, t->recs.v[i]);
		for (size_t i = 0; i < t->nsavepoints; i++)
			t->savepoints[i].last = moved_to(&c, t->savepoints[i].last);
		HASH_ITER (hh, t->ws.objs, w, tmp) {
			w->created_lsn = moved_to(&c, w->created_lsn);
			pthread_rwlock_wrlock(&w->obj->lock);
			txn_extents_relocate(&w->ext, moved_to, &c);
			pthread_rwlock_unlock(&w->obj->lock);
		}
		t->last = c.to.v[c.to.n - 1];
		atomic_store(&t->first, c.to.v[0]);
	}
	base_vec_free(&c.from);
	base_vec_free(&c.to);
	return r;
}

static struct txn *pick(struct txn_engine *eng)
{
	uint64_t end = wal_end(eng->wal);
	struct txn *t;

	pthread_mutex_lock(&eng->lock);
	TAILQ_FOREACH (t, &eng->open, link) {
		uint64_t first = atomic_load(&t->first);

		if (first && !t->implicit && end - first > eng->cfg.checkpoint_bytes &&
		    end - first > 4 * atomic_load(&t->bytes)) {
			txn_get(t);
			break;
		}
	}
	pthread_mutex_unlock(&eng->lock);
	return t;
}

int txn_carry_forward(struct txn_engine *eng)
{
	struct txn *t;
	int r = 0;

	while (!r && (t = pick(eng))) {
		pthread_mutex_lock(&t->lock);
		if (txn_is_open(t) && t->first)
			r = carry(t);
		pthread_mutex_unlock(&t->lock);
		txn_put(t);
	}
	return r == -ENOSPC ? 0 : r; /* then the log just keeps what it has */
}
