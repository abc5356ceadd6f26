/* file.c - open files: reading, seeking, syncing. What a view reads is its version's bytes over home's. */
#include "txn/private.h"

#include <fcntl.h>

int txn_open(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, int flags, struct txn_file **out)
{
	struct txn_file *f;
	int mode = (flags & O_ACCMODE) == O_RDONLY && !(flags & O_TRUNC) ? O_RDONLY : O_RDWR;
	int r = 0;

	if (S_ISDIR(obj->home->kind))
		return -EISDIR;
	if (!S_ISREG(obj->home->kind))
		return -EINVAL;
	if (atomic_load(&obj->dead))
		return -ESTALE;
	if (mode == O_RDWR) {
		r = txn_writable(eng);
		if (r)
			return r;
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->eng = eng;
	f->obj = txn_obj_get(obj);
	f->txn = view ? txn_get(view) : NULL;
	f->flags = flags;
	atomic_fetch_add(&obj->opens, 1);
	/* Access was checked against the view's mode, which home may not have yet: overcome home's. */
	f->keep = txn_hist_keep(txn_view(view), obj);
	if (f->keep)
		f->home = f->keep->file;
	else
		r = eng->so->open(obj->home, mode, true, &f->home);
	/* Removed since the view's snapshot, and all of its contents were kept. */
	if ((r == -ENOENT || r == -ESTALE) && txn_snap(txn_view(view)))
		r = 0;
	if (!r && (flags & O_TRUNC)) {
		struct stat st = {0};

		r = txn_setattr(eng, view, obj, f, &st, STORE_SET_SIZE | TXN_SET_MTIME_NOW, NULL);
	}
	if (r) {
		txn_close(f);
		return r;
	}
	*out = f;
	return 0;
}

/* For a file that the caller has opened at home. Takes over `home` on success. */
int txn_file_new(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, struct store_file *home,
                 struct txn_file **out)
{
	struct txn_file *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->eng = eng;
	f->obj = txn_obj_get(obj);
	f->txn = view ? txn_get(view) : NULL;
	f->flags = O_RDWR;
	f->home = home;
	atomic_fetch_add(&obj->opens, 1);
	*out = f;
	return 0;
}

void txn_close(struct txn_file *f)
{
	if (f->keep)
		txn_keep_put(f->keep);
	else if (f->home)
		f->eng->so->close_file(f->home);
	atomic_fetch_sub(&f->obj->opens, 1);
	txn_obj_put(f->obj);
	if (f->txn)
		txn_put(f->txn);
	free(f);
}

struct txn_obj *txn_file_obj(struct txn_file *f)
{
	return f->obj;
}

/* ---- reading ---- */

static int read_home(struct txn_engine *eng, struct store_file *home, void *buf, size_t n, uint64_t off)
{
	size_t done = 0;

	while (done < n) {
		ssize_t k = eng->so->read(home, (char *)buf + done, n - done, off + done);

		if (k < 0)
			return (int)k;
		if (k == 0)
			break;
		done += (size_t)k;
	}
	memset((char *)buf + done, 0, n - done); /* home is shorter than this version */
	return 0;
}

ssize_t txn_read_locked(struct txn_obj *obj, struct txn_wsobj *w, struct store_file *home, void *buf, size_t n,
                        uint64_t off)
{
	struct txn_engine *eng = obj->eng;
	uint64_t size, end;

	if (!w || !(w->changed & (TXN_CH_DATA | TXN_CH_SIZE)))
		return eng->so->read(home, buf, n, off);
	size = (uint64_t)w->attr.st_size;
	if (off >= size)
		return 0;
	end = base_min_u64(size, off + n);
	for (uint64_t at = off; at < end;) {
		char *to = (char *)buf + (at - off);
		struct txn_extent e;
		int r = 0;

		txn_extents_get(&w->ext, at, end, &e);
		switch (e.where) {
		case TXN_AT_HOME:
			r = read_home(eng, home, to, e.len, at);
			break;
		case TXN_IN_LOG:
			r = wal_read(eng->wal, e.pos, to, e.len);
			break;
		case TXN_ZERO:
			memset(to, 0, e.len);
			break;
		}
		if (r)
			return r;
		at += e.len;
	}
	return (ssize_t)(end - off);
}

ssize_t txn_read(struct txn_file *f, void *buf, size_t n, uint64_t off)
{
	struct txn_wsobj *w;
	struct txn_hist *h;
	struct txn *view;
	ssize_t r;

	if (atomic_load(&f->obj->dead))
		return -ESTALE;
	pthread_rwlock_rdlock(&f->obj->lock);
	view = txn_view(f->txn);
	w = txn_version(f->obj, view);
	h = w && w->ws->txn == view ? NULL : txn_hist_first(view, f->obj);
	r = txn_snap_check(view);
	if (!r)
		r = txn_note_data(view, f->obj);
	if (!r && h)
		r = txn_hist_read(h, w, f->home, buf, n, off);
	else if (!r && !f->home && !w)
		r = -ESTALE; /* removed, and the snapshot that had it is over */
	else if (!r)
		r = txn_read_locked(f->obj, w, f->home, buf, n, off);
	pthread_rwlock_unlock(&f->obj->lock);
	return r;
}

int txn_seek(struct txn_file *f, uint64_t off, int whence, uint64_t *out)
{
	struct txn_obj *obj = f->obj;
	struct txn_wsobj *w;
	struct txn_hist *h;
	struct txn *view;
	uint64_t size;
	int r = -ENXIO;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	pthread_rwlock_rdlock(&obj->lock);
	view = txn_view(f->txn);
	w = txn_version(obj, view);
	h = w && w->ws->txn == view ? NULL : txn_hist_first(view, obj);
	if ((r = txn_snap_check(view)) || (r = txn_note_data(view, obj)))
		goto out;
	r = -ENXIO;
	if (h) { /* all of it counts as data */
		if (off < (uint64_t)h->attr.st_size) {
			*out = whence == SEEK_DATA ? off : (uint64_t)h->attr.st_size;
			r = 0;
		}
		goto out;
	}
	if (!w && !f->home) {
		r = -ESTALE;
		goto out;
	}
	if (!w || !(w->changed & (TXN_CH_DATA | TXN_CH_SIZE))) {
		r = obj->eng->so->seek(f->home, off, whence, out);
		goto out;
	}
	size = (uint64_t)w->attr.st_size;
	if (off >= size)
		goto out;
	while (off < size) {
		struct txn_extent e;
		uint64_t end, at = off;

		txn_extents_get(&w->ext, off, size, &e);
		end = off + e.len;
		if (e.where == TXN_AT_HOME) {
			r = obj->eng->so->seek(f->home, off, whence, &at);
			if (r == -ENXIO) { /* past home's end: a hole up to the end of the piece */
				r = 0;
				at = whence == SEEK_HOLE ? off : end;
			}
			if (r)
				goto out;
		} else if ((e.where == TXN_IN_LOG) != (whence == SEEK_DATA)) {
			at = end;
		}
		if (at < end) {
			*out = at;
			r = 0;
			goto out;
		}
		off = end;
		r = -ENXIO;
	}
	if (whence == SEEK_HOLE && off == size) {
		*out = size; /* the end counts as a hole */
		r = 0;
	}
out:
	pthread_rwlock_unlock(&obj->lock);
	return r;
}

int txn_fsync(struct txn_file *f, bool data_only)
{
	struct txn_engine *eng = f->eng;
	bool logged;
	int r = 0;

	if (txn_view(f->txn))
		return 0; /* commit makes it durable */
	pthread_rwlock_rdlock(&f->obj->lock);
	logged = f->obj->logged || f->obj->ws;
	pthread_rwlock_unlock(&f->obj->lock);
	if (logged) /* else redo of an older version could come over it after a crash */
		r = wal_force(eng->wal, wal_end(eng->wal));
	if (r) {
		txn_engine_fail(eng, "the log cannot be made durable: %s", strerror(-r));
		return r;
	}
	return txn_sync_obj(f->obj, data_only, logged);
}
