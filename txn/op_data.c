/* op_data.c - contents of regular files: write, append, size, holes, copies. */
#include "txn/private.h"

#include <fcntl.h>
#include <linux/falloc.h>

/* Bytes copied in one piece where a request may be larger than memory should be. */
#define COPY_CHUNK (1u << 20)

void txn_stamp_now(const struct txn_wsobj *w, struct txn_stamp *before, struct txn_stamp *after, bool kill_priv)
{
	before->mode = w->attr.st_mode;
	before->mtime = w->attr.st_mtim;
	before->ctime = w->attr.st_ctim;
	*after = *before;
	after->mtime = after->ctime = txn_now();
	if (kill_priv) {
		after->mode &= ~(uint32_t)S_ISUID;
		if (after->mode & S_IXGRP)
			after->mode &= ~(uint32_t)S_ISGID;
	}
}

struct write_args {
	struct txn_file *f;
	const void *buf;
	size_t n;
	uint64_t off; /* where; an append says where it went */
	bool append, kill_priv;
};

static int do_write(struct txn *t, void *arg)
{
	struct write_args *a = arg;
	struct txn_file *f = a->f;
	const void *buf = a->buf;
	size_t n = a->n;
	uint64_t off;
	CLEANUP_FREE void *old = NULL;
	struct txn_wsobj *w;
	int r = txn_own(t, f->obj, &w);

	/* A record holds both images: cut what would not fit. */
	size_t piece_max = WAL_MAX_PAYLOAD(wal_segment_size(t->eng->wal)) / 2 - 512;

	if (!r && a->append)
		a->off = (uint64_t)w->attr.st_size;
	off = a->off;
	if (!r)
		r = txn_probe_size(t->eng, off + n);
	while (!r && n > 0) {
		struct txn_rec rec = {.type = TXN_REC_WRITE};
		struct txn_rec_write *wr = &rec.u.write;
		size_t piece = n < piece_max ? n : piece_max;

		wr->oid = w->oid;
		wr->off = off;
		wr->len = (uint32_t)piece;
		wr->new_data = buf;
		/* Only this statement changes this version: the transaction's lock is held. */
		wr->size_before = (uint64_t)w->attr.st_size;
		wr->size_after = base_max_u64(wr->size_before, off + piece);
		txn_stamp_now(w, &wr->before, &wr->after, a->kill_priv);
		if (!t->implicit && off < wr->size_before) {
			ssize_t k;

			wr->old_len = (uint32_t)base_min_u64(piece, wr->size_before - off);
			free(old);
			old = malloc(wr->old_len);
			if (!old)
				return -ENOMEM;
			pthread_rwlock_rdlock(&f->obj->lock);
			k = txn_read_locked(f->obj, w, f->home, old, wr->old_len, off);
			pthread_rwlock_unlock(&f->obj->lock);
			if (k != (ssize_t)wr->old_len)
				return k < 0 ? (int)k : -EIO;
			wr->old_data = old;
		}
		r = txn_need(t, piece);
		if (!r)
			r = txn_log_apply(t, &rec);
		buf = (const char *)buf + piece;
		off += piece;
		n -= piece;
	}
	return r;
}

static int drop_suid(struct txn_obj *obj)
{
	struct stat st;
	int r = obj->eng->so->getattr(obj->home, &st);

	if (!r && (st.st_mode & (S_ISUID | S_ISGID))) {
		mode_t mode = st.st_mode & ~(mode_t)S_ISUID;

		if (mode & S_IXGRP)
			mode &= ~(mode_t)S_ISGID;
		if (mode != st.st_mode) {
			st.st_mode = mode;
			r = obj->eng->so->setattr(obj->home, &st, STORE_SET_MODE);
		}
	}
	return r;
}

static int write_home(struct txn_engine *eng, struct store_file *home, const void *buf, size_t n, uint64_t off,
                      size_t *done)
{
	*done = 0;
	while (*done < n) {
		ssize_t k = eng->so->write(home, (const char *)buf + *done, n - *done, off + *done);

		if (k < 0)
			return (int)k;
		if (k == 0)
			return -EIO;
		*done += (size_t)k;
	}
	return 0;
}

/* Straight home. [strict_gate; obj->lock; exclusive for an append, and while strict transactions are open] */
static int write_plain(struct write_args *a)
{
	struct txn_obj *obj = a->f->obj;
	struct stat st;
	size_t done = 0;
	int r = 0;

	if (a->append) {
		r = obj->eng->so->getattr(obj->home, &st);
		a->off = (uint64_t)st.st_size;
	}
	if (!r) {
		txn_before_data(obj, a->f->home, a->off, a->off + a->n);
		r = a->kill_priv ? drop_suid(obj) : 0;
	}
	if (!r) {
		r = write_home(obj->eng, a->f->home, a->buf, a->n, a->off, &done);
		txn_obj_dirty(obj);
	}
	if (r == -ENOSPC)
		txn_want_checkpoint(obj->eng);
	if (r && done > 0)
		r = 0; /* a short write, as the filesystem below made it */
	if (!r)
		a->n = done;
	return r;
}

static int write_once(struct write_args *a)
{
	struct txn_file *f = a->f;
	struct txn_stmt st;
	int r = txn_stmt_begin(f->eng, f->txn, &st);

	if (r)
		return r;
	if (st.txn)
		return txn_stmt_end(&st, do_write(st.txn, a));
	txn_plain_begin(f->eng);
	if (a->append || txn_strict(f->eng))
		pthread_rwlock_wrlock(&f->obj->lock);
	else
		pthread_rwlock_rdlock(&f->obj->lock);
	r = f->home ? txn_plain_obj(f->obj) : -ESTALE; /* removed, and the snapshot that had it is over */
	if (r == 0)
		r = write_plain(a);
	pthread_rwlock_unlock(&f->obj->lock);
	txn_plain_end(f->eng);
	return r == 1 ? txn_implicitly(f->eng, do_write, a) : r; /* I5 */
}

ssize_t txn_write(struct txn_file *f, const void *buf, size_t n, uint64_t off, bool kill_priv)
{
	struct write_args args = {f, buf, n, off, false, kill_priv};
	int r;

	if ((f->flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	if (off > INT64_MAX || n > INT64_MAX - off)
		return -EFBIG;
	r = TXN_RETRYING(f->eng, write_once(&args));
	return r ? r : (ssize_t)args.n;
}

ssize_t txn_append(struct txn_file *f, const void *buf, size_t n, bool kill_priv, uint64_t *off)
{
	struct write_args args = {f, buf, n, 0, true, kill_priv};
	int r;

	if ((f->flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	r = TXN_RETRYING(f->eng, write_once(&args));
	*off = args.off;
	return r ? r : (ssize_t)args.n;
}

/* ---- size and zeros ---- */

/* Most extents whose places a SIZE record lists. */
static size_t extents_max(struct txn *t)
{
	return WAL_MAX_PAYLOAD(wal_segment_size(t->eng->wal)) / 64;
}

/*
 * Set the size, or make [zero_off, zero_end) zeros, or both. A range with very many extents is done from its end in
 * several records; the statement's undo takes them back together.
 */
int txn_do_size(struct txn *t, struct txn_wsobj *w, uint64_t size, uint64_t zero_off, uint64_t zero_end,
                const struct txn_stamp *after)
{
	size_t max = extents_max(t), n;
	CLEANUP_FREE struct txn_extent *list = NULL;
	int r = txn_probe_size(t->eng, size);

	if (r)
		return r;
	list = calloc(max, sizeof(*list));
	if (!list)
		return -ENOMEM;
	do {
		struct txn_rec rec = {.type = TXN_REC_SIZE};
		struct txn_rec_size *s = &rec.u.size;
		uint64_t from = zero_off, to = zero_end;
		struct txn_extent e;

		n = 0;
		for (uint64_t at = zero_off; at < zero_end && n < max && txn_extents_next(&w->ext, at, &e);) {
			uint64_t end = e.len > TXN_EXTENT_END - e.off ? TXN_EXTENT_END : e.off + e.len;

			if (e.off >= zero_end)
				break;
			if (e.off < at) { /* cut at the front */
				if (e.where == TXN_IN_LOG)
					e.pos += at - e.off;
				e.len = end - at;
				e.off = at;
			}
			if (end > zero_end) {
				e.len = zero_end - e.off;
				end = zero_end;
			}
			list[n++] = e;
			at = end;
			if (n == max && txn_extents_next(&w->ext, at, &e) && e.off < zero_end)
				to = at; /* the rest in the next record */
		}
		/* Home must not lose bytes before the log knows: redo of older records would put zeros in their place. */
		t->forced = t->forced || to > from;
		s->oid = w->oid;
		s->size_before = (uint64_t)w->attr.st_size;
		s->size_after = to == zero_end ? size : s->size_before;
		s->zero_off = from;
		s->zero_end = to > from ? to : from;
		s->before = (struct txn_stamp){w->attr.st_mode, w->attr.st_mtim, w->attr.st_ctim};
		s->after = *after;
		s->extents = (uint32_t)n;
		s->list = list;
		r = txn_log_apply(t, &rec);
		if (r)
			return r;
		zero_off = to;
	} while (zero_off < zero_end);
	return 0;
}

struct fallocate_args {
	struct txn_file *f;
	int mode;
	uint64_t off, len;
};

static int do_fallocate(struct txn *t, void *arg)
{
	struct fallocate_args *a = arg;
	uint64_t end = a->off + a->len, size, zend;
	struct txn_stamp before, after;
	struct txn_wsobj *w;
	bool zero = a->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);
	int r = txn_own(t, a->f->obj, &w);

	if (r)
		return r;
	size = (uint64_t)w->attr.st_size;
	txn_stamp_now(w, &before, &after, true);
	/* Where contents stay it is only the stamp; blocks are found at install. */
	if (!(a->mode & FALLOC_FL_KEEP_SIZE) && end > size) {
		size = end;
	}
	zend = zero ? base_min_u64(end, base_max_u64(size, (uint64_t)w->attr.st_size)) : a->off;
	return txn_do_size(t, w, size, a->off, base_max_u64(zend, a->off), &after);
}

static int fallocate_once(struct txn_file *f, int mode, uint64_t off, uint64_t len)
{
	struct fallocate_args args = {f, mode, off, len};
	struct txn_stmt st;
	int r = txn_stmt_begin(f->eng, f->txn, &st);

	if (r)
		return r;
	if (st.txn)
		return txn_stmt_end(&st, do_fallocate(st.txn, &args));
	txn_plain_begin(f->eng);
	if (txn_strict(f->eng))
		pthread_rwlock_wrlock(&f->obj->lock);
	else
		pthread_rwlock_rdlock(&f->obj->lock);
	r = f->home ? txn_plain_obj(f->obj) : -ESTALE;
	if (r == 0) {
		txn_before_data(f->obj, f->home, off, off + len);
		r = drop_suid(f->obj);
		if (!r)
			r = f->eng->so->fallocate(f->home, mode, off, len);
		txn_obj_dirty(f->obj);
		pthread_rwlock_unlock(&f->obj->lock);
		txn_plain_end(f->eng);
		return r;
	}
	pthread_rwlock_unlock(&f->obj->lock);
	txn_plain_end(f->eng);
	return r == 1 ? txn_implicitly(f->eng, do_fallocate, &args) : r;
}

int txn_fallocate(struct txn_file *f, int mode, uint64_t off, uint64_t len)
{
	if ((f->flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	if (!len || off > INT64_MAX || len > INT64_MAX || off + len > INT64_MAX)
		return len && off <= INT64_MAX && len <= INT64_MAX ? -EFBIG : -EINVAL;
	if (mode != 0 && mode != FALLOC_FL_KEEP_SIZE && mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) &&
	    (mode & ~FALLOC_FL_KEEP_SIZE) != FALLOC_FL_ZERO_RANGE)
		return -EOPNOTSUPP;
	return TXN_RETRYING(f->eng, fallocate_once(f, mode, off, len));
}

/* ---- copies ---- */

/* Both ends at home and nothing in the log: let the filesystem below share or copy blocks. */
static ssize_t copy_home(struct txn_file *in, uint64_t off_in, struct txn_file *out, uint64_t off_out, size_t n)
{
	struct txn_obj *a = in->obj < out->obj ? in->obj : out->obj, *b = in->obj < out->obj ? out->obj : in->obj;
	ssize_t r = txn_writable(in->eng);

	if (r)
		return r;
	txn_plain_begin(in->eng);
	if (txn_strict(in->eng)) { /* what is read is noted, what is overwritten kept, piece by piece */
		txn_plain_end(in->eng);
		return TXN_RETRY;
	}
	pthread_rwlock_rdlock(&a->lock);
	if (b != a)
		pthread_rwlock_rdlock(&b->lock);
	r = in->home && out->home ? txn_plain_obj(out->obj) : -ESTALE;
	if (r == 0 && txn_version(in->obj, txn_view(in->txn)))
		r = 1;
	if (r == 0) {
		r = in->eng->so->copy(in->home, off_in, out->home, off_out, n);
		txn_obj_dirty(out->obj);
	} else {
		r = TXN_RETRY; /* bytes through memory */
	}
	if (b != a)
		pthread_rwlock_unlock(&b->lock);
	pthread_rwlock_unlock(&a->lock);
	txn_plain_end(in->eng);
	return r;
}

ssize_t txn_copy(struct txn_file *in, uint64_t off_in, struct txn_file *out, uint64_t off_out, size_t n)
{
	CLEANUP_FREE char *buf = NULL;
	size_t done = 0;
	ssize_t r;

	if ((out->flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	if (off_in > INT64_MAX || off_out > INT64_MAX || n > INT64_MAX - off_out)
		return -EFBIG;
	if (in->obj == out->obj && off_in < off_out + n && off_out < off_in + n)
		return -EINVAL;
	if (!txn_view(out->txn)) {
		r = copy_home(in, off_in, out, off_out, n);
		if (r != TXN_RETRY)
			return r;
	}
	buf = malloc(COPY_CHUNK);
	if (!buf)
		return -ENOMEM;
	while (done < n) {
		size_t piece = n - done < COPY_CHUNK ? n - done : COPY_CHUNK;

		r = txn_read(in, buf, piece, off_in + done);
		if (r > 0)
			r = txn_write(out, buf, (size_t)r, off_out + done, true);
		if (r <= 0) /* each piece is a statement: what was copied is told, as a short copy */
			return done ? (ssize_t)done : r;
		done += (size_t)r;
	}
	return (ssize_t)done;
}
