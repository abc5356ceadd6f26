/*
 * history_data.c - before-images of contents: the spill file, a file without a name in the stage, and what keeps the contents of
 * files that lose their last name.
 */
#include "txn/private.h"

#include <fcntl.h>
#include <linux/falloc.h>

#define COPY_CHUNK (1u << 20)
#define KEEPS_MAX 1024 /* open files at most; more removed files' contents are copied */

void txn_spill_close(struct txn_engine *eng)
{
	struct txn_history *hy = &eng->history;

	if (hy->spill) {
		eng->so->close_file(hy->spill);
		eng->so->put(hy->spill_obj);
	}
	hy->spill = NULL;
	hy->spill_obj = NULL;
	hy->spill_end = hy->bytes = 0;
}

/* [history.lock] Without O_TMPFILE: by a name that is taken away at once. */
static int spill_by_name(struct txn_engine *eng, const struct store_new *nw)
{
	struct store_obj *stage = eng->so->stage(eng->store);
	struct txn_history *hy = &eng->history;
	char name[20];
	uint64_t oid;
	int r, s;

	pthread_mutex_lock(&eng->lock);
	oid = eng->next_oid++;
	pthread_mutex_unlock(&eng->lock);
	txn_stage_name(oid, name);
	r = eng->so->create(stage, name, nw, false, &hy->spill_obj, NULL);
	if (r)
		return r;
	r = eng->so->open(hy->spill_obj, O_RDWR, true, &hy->spill);
	s = eng->so->unlink(stage, name, false); /* what stays, recovery sweeps */
	if (!r && s)
		eng->so->close_file(hy->spill);
	r = r ? r : s;
	if (r)
		eng->so->put(hy->spill_obj);
	return r;
}

/* So many bytes of it for the caller; *file is open as long as a node of his stands. */
static int spill_get(struct txn_engine *eng, uint64_t n, struct store_file **file, uint64_t *pos)
{
	struct store_new nw = {.mode = S_IFREG | 0600, .uid = geteuid(), .gid = getegid()};
	struct txn_history *hy = &eng->history;
	struct stat st;
	int r = 0;

	pthread_mutex_lock(&hy->lock);
	if (!hy->spill)
		r = eng->so->tmpfile(eng->so->stage(eng->store), &nw, &hy->spill_obj, &st, &hy->spill);
	if (r == -EOPNOTSUPP)
		r = spill_by_name(eng, &nw);
	if (r) {
		hy->spill = NULL;
	} else {
		*file = hy->spill;
		*pos = hy->spill_end;
		hy->spill_end += n;
		hy->bytes += n;
	}
	pthread_mutex_unlock(&hy->lock);
	return r;
}

void txn_spill_put(struct txn_engine *eng, uint64_t pos, uint64_t n)
{
	struct txn_history *hy = &eng->history;
	struct store_file *file;

	pthread_mutex_lock(&hy->lock);
	hy->bytes -= n;
	file = atomic_load(&hy->active) ? hy->spill : NULL; /* else all of it goes in a moment */
	pthread_mutex_unlock(&hy->lock);
	if (file)
		eng->so->fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pos, n);
}

/* From home into the spill: the filesystem below may share blocks, else through memory. */
static int spill_copy(struct txn_engine *eng, struct store_file *from, uint64_t off, uint64_t n,
                      struct store_file *spill, uint64_t pos)
{
	CLEANUP_FREE char *buf = NULL;

	if (n >= COPY_CHUNK) {
		ssize_t k = eng->so->copy(from, off, spill, pos, (size_t)base_min_u64(n, 1u << 30));

		if (k > 0) {
			off += (uint64_t)k;
			pos += (uint64_t)k;
			n -= (uint64_t)k;
		}
	}
	buf = n ? malloc((size_t)base_min_u64(n, COPY_CHUNK)) : NULL;
	if (n && !buf)
		return -ENOMEM;
	while (n) {
		ssize_t k = eng->so->read(from, buf, (size_t)base_min_u64(n, COPY_CHUNK), off), put = 0;

		if (k <= 0)
			return k ? (int)k : -EIO;
		while (put < k) {
			ssize_t m = eng->so->write(spill, buf + put, (size_t)(k - put), pos + (uint64_t)put);

			if (m <= 0)
				return m ? (int)m : -EIO;
			put += m;
		}
		off += (uint64_t)k;
		pos += (uint64_t)k;
		n -= (uint64_t)k;
	}
	return 0;
}

/* ---- keeping ---- */

void txn_keep_put(struct txn_keep *k)
{
	struct txn_engine *eng = k->eng;

	if (atomic_fetch_sub(&k->refs, 1) != 1)
		return;
	eng->so->close_file(k->file);
	free(k);
	pthread_mutex_lock(&eng->history.lock);
	eng->history.keeps--;
	pthread_mutex_unlock(&eng->history.lock);
}

/* One piece that no node covers. Holes stay holes. */
static int keep_piece(struct txn_hist *h, struct store_file *file, uint64_t off, uint64_t end)
{
	struct txn_engine *eng = h->obj->eng;
	int r = 0;

	while (off < end && !r) {
		uint64_t data = off, hole = end, pos;
		struct store_file *spill;

		r = txn_extents_reserve(&h->ext, 2);
		if (r)
			break;
		if (eng->so->seek(file, off, SEEK_DATA, &data) == -ENXIO)
			data = end;
		data = base_min_u64(base_max_u64(data, off), end);
		if (data > off)
			txn_extents_set(&h->ext, off, data, TXN_ZERO, 0);
		if (data == end)
			break;
		if (eng->so->seek(file, data, SEEK_HOLE, &hole) || hole <= data)
			hole = end;
		hole = base_min_u64(hole, end);
		r = spill_get(eng, hole - data, &spill, &pos);
		if (r)
			break;
		r = spill_copy(eng, file, data, hole - data, spill, pos);
		if (r)
			txn_spill_put(eng, pos, hole - data);
		else
			txn_extents_set(&h->ext, data, hole, TXN_IN_LOG, pos);
		off = hole;
	}
	return r;
}

void txn_keep_data(struct txn_obj *obj, struct txn_hist *h, struct store_file *file, uint64_t off, uint64_t end)
{
	struct txn_engine *eng = obj->eng;
	struct store_file *own = NULL;
	struct stat st;
	int r = eng->so->getattr(obj->home, &st);

	if (!r)
		end = base_min_u64(end, (uint64_t)st.st_size);
	while (!r && off < end) {
		struct txn_extent e;

		txn_hist_piece(h, off, end, &e);
		if (e.where == TXN_AT_HOME) {
			if (!file)
				r = eng->so->open(obj->home, O_RDONLY, true, &own);
			file = file ? file : own;
			if (!r)
				r = keep_piece(h, file, off, off + e.len);
		}
		off += e.len;
	}
	if (own)
		eng->so->close_file(own);
	if (r)
		txn_history_lose(eng, h->epoch, r);
}

void txn_keep_contents(struct txn_obj *obj, struct txn_hist *h)
{
	struct txn_engine *eng = obj->eng;
	struct txn_history *hy = &eng->history;
	struct txn_keep *k;
	bool few;

	if (!S_ISREG(obj->home->kind) || h->keep)
		return;
	pthread_mutex_lock(&hy->lock);
	few = hy->keeps < KEEPS_MAX;
	hy->keeps += few;
	pthread_mutex_unlock(&hy->lock);
	k = few ? calloc(1, sizeof(*k)) : NULL;
	if (k && !eng->so->open(obj->home, O_RDWR, true, &k->file)) {
		k->eng = eng;
		atomic_init(&k->refs, 1);
		h->keep = k;
		return;
	}
	free(k);
	if (few) {
		pthread_mutex_lock(&hy->lock);
		hy->keeps--;
		pthread_mutex_unlock(&hy->lock);
	}
	txn_keep_data(obj, h, NULL, 0, UINT64_MAX);
}
