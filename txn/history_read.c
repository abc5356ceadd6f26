/* history_read.c - what a snapshot's view sees of an object that has changed since: history first, then what is below. */
#include "txn/private.h"

struct txn_hist *txn_hist_first(const struct txn *view, const struct txn_obj *obj)
{
	uint64_t snap = txn_snap(view);
	struct txn_hist *h;

	if (!snap)
		return NULL;
	TAILQ_FOREACH (h, &obj->hist, link)
		if (h->epoch >= snap)
			break;
	return h;
}

bool txn_hist_changed(const struct txn *view, const struct txn_obj *obj)
{
	struct txn_hist *h = txn_hist_first(view, obj);

	while (h && !h->own)
		h = TAILQ_NEXT(h, link);
	return h;
}

struct txn_hist *txn_hist_xattrs(const struct txn *view, const struct txn_obj *obj)
{
	struct txn_hist *h = txn_hist_first(view, obj);

	while (h && !h->has_xattrs)
		h = TAILQ_NEXT(h, link);
	return h;
}

/* The piece that begins at off: from the first node that has it; AT_HOME: none has. */
void txn_hist_piece(const struct txn_hist *h, uint64_t off, uint64_t end, struct txn_extent *piece)
{
	*piece = (struct txn_extent){.off = off, .len = end - off, .where = TXN_AT_HOME};
	for (; h; h = TAILQ_NEXT(h, link)) {
		txn_extents_get(&h->ext, off, off + piece->len, piece);
		if (piece->where != TXN_AT_HOME)
			break;
	}
}

static int read_spill(struct txn_engine *eng, uint64_t pos, char *to, uint64_t n)
{
	while (n) {
		ssize_t k = eng->so->read(eng->history.spill, to, (size_t)n, pos);

		if (k <= 0)
			return k ? (int)k : -EIO;
		to += k;
		pos += (uint64_t)k;
		n -= (uint64_t)k;
	}
	return 0;
}

/* Below history. Where that is shorter than the snapshot's file, history has what was cut off. */
static int read_below(struct txn_obj *obj, struct txn_wsobj *w, struct store_file *home, char *to, uint64_t n, uint64_t off)
{
	while (n) {
		ssize_t k = home || w ? txn_read_locked(obj, w, home, to, (size_t)n, off) : 0;

		if (k < 0)
			return (int)k;
		if (k == 0)
			break;
		to += k;
		off += (uint64_t)k;
		n -= (uint64_t)k;
	}
	memset(to, 0, n);
	return 0;
}

ssize_t txn_hist_read(struct txn_hist *h, struct txn_wsobj *w, struct store_file *home, void *buf, size_t n, uint64_t off)
{
	uint64_t size = (uint64_t)h->attr.st_size, end;

	if (off >= size)
		return 0;
	end = base_min_u64(size, off + n);
	for (uint64_t at = off; at < end;) {
		char *to = (char *)buf + (at - off);
		struct txn_extent e;
		int r = 0;

		txn_hist_piece(h, at, end, &e);
		if (e.where == TXN_IN_LOG)
			r = read_spill(h->obj->eng, e.pos, to, e.len);
		else if (e.where == TXN_ZERO)
			memset(to, 0, e.len);
		else
			r = read_below(h->obj, w, home, to, e.len, at);
		if (r)
			return r;
		at += e.len;
	}
	return (ssize_t)(end - off);
}

struct txn_keep *txn_hist_keep(const struct txn *view, struct txn_obj *obj)
{
	struct txn_keep *k = NULL;
	struct txn_hist *h;

	if (!txn_snap(view))
		return NULL;
	pthread_rwlock_rdlock(&obj->lock);
	for (h = txn_hist_first(view, obj); h && !k; h = TAILQ_NEXT(h, link))
		k = h->keep;
	if (k)
		atomic_fetch_add(&k->refs, 1);
	pthread_rwlock_unlock(&obj->lock);
	return k;
}

int txn_hist_readlink(struct txn_obj *obj, char *buf, size_t size)
{
	struct txn_hist *h;
	int r = -ENOENT;

	pthread_rwlock_rdlock(&obj->lock);
	TAILQ_FOREACH (h, &obj->hist, link)
		if (h->target) { /* a target never changes */
			r = strlen(h->target) < size ? 0 : -ENAMETOOLONG;
			if (!r)
				strcpy(buf, h->target);
			break;
		}
	pthread_rwlock_unlock(&obj->lock);
	return r;
}

int txn_snap_check(const struct txn *view)
{
	return txn_snap(view) && atomic_load(&((struct txn *)(uintptr_t)view)->lost) ? -ECANCELED : 0;
}
