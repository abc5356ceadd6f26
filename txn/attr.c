/* attr.c - attributes and extended attributes as a view sees them. Readers only. */
#include "txn/private.h"

/* Home's attributes go on following others' changes of names: a version has only what it has set. */
static void overlay_dir(const struct txn_wsobj *w, struct stat *attr)
{
	unsigned set = w->changed >> TXN_CH_SHIFT;

	if (set & STORE_SET_MODE)
		attr->st_mode = w->attr.st_mode;
	if (set & STORE_SET_UID)
		attr->st_uid = w->attr.st_uid;
	if (set & STORE_SET_GID)
		attr->st_gid = w->attr.st_gid;
	if (set & STORE_SET_ATIME)
		attr->st_atim = w->attr.st_atim;
	if (set & STORE_SET_MTIME)
		attr->st_mtim = w->attr.st_mtim;
	if (base_timespec_before(&attr->st_ctim, &w->attr.st_ctim))
		attr->st_ctim = w->attr.st_ctim;
}

/*
 * What open transactions and committed ones on their way home did to a directory's own attributes through its names.
 * w: the version that the view sees, or NULL.
 */
static void add_dirview(const struct txn_wsobj *d, const struct txn_wsobj *w, struct stat *attr)
{
	bool set = w && (w->changed & (STORE_SET_MTIME << TXN_CH_SHIFT));

	if (attr->st_nlink >= 2) /* some filesystems do not count subdirectories */
		attr->st_nlink = (nlink_t)((long)attr->st_nlink + d->subdirs);
	if (base_timespec_before(&attr->st_mtim, &d->dir_time) && !(set && !txn_dir_changed_later(w)))
		attr->st_mtim = d->dir_time;
	if (base_timespec_before(&attr->st_ctim, &d->dir_time))
		attr->st_ctim = d->dir_time;
}

static void add_dirviews(struct txn *view, struct txn_obj *obj, const struct txn_wsobj *w, struct stat *attr)
{
	struct txn_wsobj *d;

	TAILQ_FOREACH (d, &obj->dirviews, dir_link)
		if (txn_visible(d->ws->txn, view))
			add_dirview(d, w, attr);
}

/* A snapshot's: as it was kept, and what the transaction itself has done to it. */
static int attr_of_old(struct txn *view, struct txn_obj *obj, const struct txn_hist *h, struct stat *attr)
{
	struct txn_wsobj *w = obj->ws && obj->ws->ws->txn == view ? obj->ws : NULL, *d;

	*attr = h->attr;
	if (!S_ISDIR(obj->home->kind))
		return 0;
	if (w)
		overlay_dir(w, attr);
	TAILQ_FOREACH (d, &obj->dirviews, dir_link)
		if (d->ws->txn == view)
			add_dirview(d, w, attr);
	return 0;
}

int txn_attr_held(struct txn *view, struct txn_obj *obj, struct stat *attr)
{
	struct txn_wsobj *w;
	struct txn_hist *h;
	int r = txn_snap_check(view);

	if (!r)
		r = txn_note_attr(view, obj);
	if (r)
		return r;
	w = txn_version(obj, view);
	h = txn_hist_first(view, obj);
	if (h && (S_ISDIR(obj->home->kind) || !w || w->ws->txn != view))
		return attr_of_old(view, obj, h, attr);
	if (w && !S_ISDIR(w->attr.st_mode)) {
		*attr = w->attr;
		attr->st_blocks = (blkcnt_t)((attr->st_size + 511) / 512);
	} else {
		r = obj->eng->so->getattr(obj->home, attr);
		if (!r && w)
			overlay_dir(w, attr);
	}
	if (!r && S_ISDIR(obj->home->kind))
		add_dirviews(view, obj, w, attr);
	return r;
}

int txn_attr_locked(struct txn *view, struct txn_obj *obj, struct stat *attr)
{
	int r;

	if (atomic_load(&obj->dead))
		return -ESTALE;
	pthread_rwlock_rdlock(&obj->lock);
	r = txn_attr_held(txn_view(view), obj, attr);
	pthread_rwlock_unlock(&obj->lock);
	return r;
}

int txn_getattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, struct stat *attr)
{
	int r;

	/* Only directories' attributes depend on names. */
	if (S_ISDIR(obj->home->kind))
		pthread_rwlock_rdlock(&eng->ns);
	r = txn_attr_locked(txn_view(view), obj, attr);
	if (S_ISDIR(obj->home->kind))
		pthread_rwlock_unlock(&eng->ns);
	return r;
}

static ssize_t value_of(const struct txn_wsxattr *x, void *buf, size_t size)
{
	if (x->len == TXN_XATTR_ABSENT)
		return -ENODATA;
	if (size == 0)
		return (ssize_t)x->len;
	if (size < x->len)
		return -ERANGE;
	memcpy(buf, x->value, x->len);
	return (ssize_t)x->len;
}

ssize_t txn_xattr_of(struct txn_obj *obj, struct txn_wsobj *w, const char *name, void *buf, size_t size)
{
	struct txn_wsxattr *x = w ? txn_wsxattr_find(w, name) : NULL;

	return x ? value_of(x, buf, size) : obj->eng->so->getxattr(obj->home, name, buf, size);
}

/* In a view: its version's, else what a snapshot has kept, else home's. [obj->lock] */
static ssize_t xattr_in(struct txn *view, struct txn_obj *obj, const char *name, void *buf, size_t size)
{
	struct txn_wsobj *w = txn_version(obj, view);
	struct txn_hist *h = w && txn_wsxattr_find(w, name) ? NULL : txn_hist_xattrs(view, obj);
	struct txn_wsxattr *x = NULL;
	int r = txn_snap_check(view);

	if (!r)
		r = txn_note_attr(view, obj);
	if (r)
		return r;
	if (!h)
		return txn_xattr_of(obj, w, name, buf, size);
	HASH_FIND_STR(h->xattrs, name, x);
	return x ? value_of(x, buf, size) : -ENODATA;
}

/* The whole value, malloc'ed: -ENODATA when there is none. [txn->lock] */
ssize_t txn_xattr_whole(struct txn_obj *obj, struct txn_wsobj *w, const char *name, void **out)
{
	CLEANUP_FREE void *buf = NULL;
	ssize_t n;

	pthread_rwlock_rdlock(&obj->lock);
	n = txn_xattr_of(obj, w, name, NULL, 0);
	if (n >= 0) {
		buf = malloc((size_t)n + 1);
		n = buf ? n > 0 ? txn_xattr_of(obj, w, name, buf, (size_t)n) : 0 : -ENOMEM;
	}
	pthread_rwlock_unlock(&obj->lock);
	if (n >= 0)
		*out = TAKE_PTR(buf);
	return n;
}

ssize_t txn_getxattr(struct txn_engine *eng UNUSED, struct txn *view, struct txn_obj *obj, const char *name, void *buf,
                     size_t size)
{
	ssize_t r;

	if (atomic_load(&obj->dead))
		return -ESTALE;
	pthread_rwlock_rdlock(&obj->lock);
	r = xattr_in(txn_view(view), obj, name, buf, size);
	pthread_rwlock_unlock(&obj->lock);
	return r;
}

/* Home's list without what the version removed or replaced, then what it has. */
static ssize_t merge_list(const struct txn_wsobj *w, const char *home, size_t n, char *buf, size_t size)
{
	struct txn_wsxattr *x, *tmp, *own = w ? w->xattrs : NULL;
	size_t used = 0;

	for (const char *p = home; p < home + n; p += strlen(p) + 1) {
		size_t len = strlen(p) + 1;

		if (w && txn_wsxattr_find(w, p))
			continue;
		if (size) {
			if (used + len > size)
				return -ERANGE;
			memcpy(buf + used, p, len);
		}
		used += len;
	}
	HASH_ITER (hh, own, x, tmp) {
		size_t len = strlen(x->name) + 1;

		if (x->len == TXN_XATTR_ABSENT)
			continue;
		if (size) {
			if (used + len > size)
				return -ERANGE;
			memcpy(buf + used, x->name, len);
		}
		used += len;
	}
	return (ssize_t)used;
}

static ssize_t list_old(const struct txn_hist *h, const struct txn_wsobj *w, char *buf, size_t size)
{
	struct base_buf names = {0};
	struct txn_wsxattr *x, *tmp;
	ssize_t n;

	HASH_ITER (hh, h->xattrs, x, tmp)
		base_buf_put(&names, x->name, strlen(x->name) + 1);
	n = names.err ? names.err : merge_list(w, (char *)names.p, names.n, buf, size);
	base_buf_free(&names);
	return n;
}

ssize_t txn_listxattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, char *buf, size_t size)
{
	CLEANUP_FREE char *home = NULL;
	struct txn_wsobj *w;
	struct txn_hist *h;
	ssize_t n;

	if (atomic_load(&obj->dead))
		return -ESTALE;
	pthread_rwlock_rdlock(&obj->lock);
	view = txn_view(view);
	n = txn_snap_check(view);
	if (!n)
		n = txn_note_attr(view, obj);
	if (n)
		goto out;
	w = txn_version(obj, view);
	h = txn_hist_xattrs(view, obj);
	if (h) {
		n = list_old(h, w, buf, size);
		goto out;
	}
	if (!w || !w->xattrs) {
		n = eng->so->listxattr(obj->home, buf, size);
		goto out;
	}
	n = eng->so->listxattr(obj->home, NULL, 0);
	if (n > 0) {
		home = malloc((size_t)n);
		n = home ? eng->so->listxattr(obj->home, home, (size_t)n) : -ENOMEM;
	}
	if (n >= 0)
		n = merge_list(w, home, (size_t)n, buf, size);
out:
	pthread_rwlock_unlock(&obj->lock);
	return n;
}
