/* op_attr.c - changes of attributes and extended attributes. */
#include "txn/private.h"

#include <linux/limits.h>
#include <sys/xattr.h>

#define ACL_PREFIX "system.posix_acl_"
#define ACL_ACCESS ACL_PREFIX "access"
#define ATTR_MASK (STORE_SET_MODE | STORE_SET_UID | STORE_SET_GID | STORE_SET_ATIME | STORE_SET_MTIME)

/* ---- changes inside a transaction ---- */

int txn_do_setxattr(struct txn *t, struct txn_obj *obj, const char *name, const void *value, uint32_t len)
{
	struct txn_rec rec = {.type = TXN_REC_XATTR};
	struct txn_rec_xattr *x = &rec.u.xattr;
	CLEANUP_FREE void *old = NULL;
	struct txn_wsobj *w;
	ssize_t n;
	int r = txn_own(t, obj, &w);

	if (r)
		return r;
	n = txn_xattr_whole(obj, w, name, &old);
	if (n < 0 && n != -ENODATA)
		return (int)n;
	if (len != TXN_XATTR_ABSENT)
		r = txn_probe_xattr(t, obj, name, value, len);
	if (r)
		return r;
	x->oid = w->oid;
	x->name = name;
	x->old_len = n < 0 ? TXN_XATTR_ABSENT : (uint32_t)n;
	x->old_value = old;
	x->new_len = len;
	x->new_value = value;
	x->ctime_before = w->attr.st_ctim;
	x->ctime_after = txn_now();
	r = txn_need(t, 4096);
	return r ? r : txn_log_apply(t, &rec);
}

static int set_mode(struct txn *t, struct txn_wsobj *w, mode_t mode, unsigned mask, const struct stat *attr);

/* chmod keeps the access ACL's entries in step, as filesystems do. */
static int chmod_acl(struct txn *t, struct txn_wsobj *w, mode_t mode)
{
	CLEANUP_FREE void *acl = NULL, *changed = NULL;
	ssize_t n;
	int r;

	if (S_ISLNK(w->attr.st_mode))
		return 0;
	n = txn_xattr_whole(w->obj, w, ACL_ACCESS, &acl);
	if (n <= 0)
		return n == -ENODATA || n == -EOPNOTSUPP || n == 0 ? 0 : (int)n;
	r = txn_acl_chmod(acl, (size_t)n, mode, &changed);
	return r ? r : txn_do_setxattr(t, w->obj, ACL_ACCESS, changed, (uint32_t)n);
}

static int set_mode(struct txn *t, struct txn_wsobj *w, mode_t mode, unsigned mask, const struct stat *attr)
{
	struct txn_rec rec = {.type = TXN_REC_ATTR};
	struct txn_rec_attr *a = &rec.u.attr;

	a->oid = w->oid;
	a->mask = mask & ATTR_MASK;
	a->before = (struct txn_attrs){w->attr.st_mode, w->attr.st_uid, w->attr.st_gid,
	                               w->attr.st_atim, w->attr.st_mtim, w->attr.st_ctim};
	/* For undo: whether the mtime or a later change of names decides is told by when the mtime was set. */
	if (S_ISDIR(w->attr.st_mode) && (mask & STORE_SET_MTIME))
		a->before.ctime = w->mtime_set;
	a->after = a->before;
	if (mask & STORE_SET_MODE)
		a->after.mode = mode;
	if (mask & STORE_SET_UID)
		a->after.uid = attr->st_uid;
	if (mask & STORE_SET_GID)
		a->after.gid = attr->st_gid;
	if (mask & STORE_SET_ATIME)
		a->after.atime = attr->st_atim;
	if (mask & STORE_SET_MTIME)
		a->after.mtime = attr->st_mtim;
	a->after.ctime = txn_now();
	return txn_log_apply(t, &rec);
}

int txn_do_setattr(struct txn *t, struct txn_obj *obj, const struct stat *wanted, unsigned mask)
{
	struct stat attr = *wanted;
	struct txn_wsobj *w;
	mode_t mode;
	int r = txn_own(t, obj, &w);

	if (!r && (mask & (STORE_SET_UID | STORE_SET_GID)))
		r = txn_probe_owner(t->eng, S_ISDIR(obj->home->kind), wanted, mask);
	if (r)
		return r;
	if (mask & TXN_SET_ATIME_NOW) {
		attr.st_atim = txn_now();
		mask |= STORE_SET_ATIME;
	}
	if (mask & STORE_SET_SIZE) {
		struct txn_stamp before, after;
		uint64_t size = (uint64_t)attr.st_size, old = (uint64_t)w->attr.st_size;

		if (!S_ISREG(w->attr.st_mode))
			return S_ISDIR(w->attr.st_mode) ? -EISDIR : -EINVAL;
		if (attr.st_size < 0)
			return -EINVAL;
		txn_stamp_now(w, &before, &after, mask & TXN_KILL_SUIDGID);
		/* Zeros from the new end on, wherever a longer home says otherwise. */
		r = txn_do_size(t, w, size, base_min_u64(size, old), size < old ? TXN_EXTENT_END : base_min_u64(size, old),
		                &after);
		if (r)
			return r;
		mask &= ~TXN_SET_MTIME_NOW; /* the new size brought its own */
	}
	if (mask & TXN_SET_MTIME_NOW) {
		attr.st_mtim = txn_now();
		mask |= STORE_SET_MTIME;
	}
	mode = (mask & STORE_SET_MODE ? attr.st_mode : w->attr.st_mode) & 07777;
	if ((mask & (STORE_SET_UID | STORE_SET_GID | TXN_KILL_SUIDGID)) && !S_ISDIR(w->attr.st_mode) &&
	    !(mask & STORE_SET_MODE)) {
		/* chown takes the special bits away, as does a change by someone who could not set them. */
		mode &= ~(mode_t)S_ISUID;
		if (mode & S_IXGRP)
			mode &= ~(mode_t)S_ISGID;
		if (mode != (w->attr.st_mode & 07777))
			mask |= STORE_SET_MODE;
	}
	if (!(mask & ATTR_MASK))
		return 0;
	r = set_mode(t, w, mode, mask, &attr);
	if (!r && (mask & STORE_SET_MODE))
		r = chmod_acl(t, w, mode);
	return r;
}

struct setattr_args {
	struct txn_obj *obj;
	const struct stat *attr;
	unsigned mask;
	struct stat *out; /* may be NULL */
};

/* I9: when it cannot tell the outcome, it has not happened. */
static int do_setattr(struct txn *t, void *arg)
{
	struct setattr_args *a = arg;
	int r = txn_do_setattr(t, a->obj, a->attr, a->mask);

	return r || !a->out ? r : txn_getattr(t->eng, t, a->obj, a->out);
}

static int setattr_home(struct txn_obj *obj, const struct stat *wanted, unsigned mask)
{
	const struct store_ops *so = obj->eng->so;
	struct stat attr = *wanted, now;
	int r;

	if ((mask & TXN_KILL_SUIDGID) && !(mask & STORE_SET_MODE)) {
		r = so->getattr(obj->home, &now);
		if (r)
			return r;
		attr.st_mode = now.st_mode & ~(mode_t)S_ISUID;
		if (attr.st_mode & S_IXGRP)
			attr.st_mode &= ~(mode_t)S_ISGID;
		if (attr.st_mode != now.st_mode)
			mask |= STORE_SET_MODE;
	}
	if (mask & TXN_SET_ATIME_NOW) {
		attr.st_atim.tv_nsec = UTIME_NOW;
		mask |= STORE_SET_ATIME;
	}
	if (mask & TXN_SET_MTIME_NOW) {
		attr.st_mtim.tv_nsec = UTIME_NOW;
		mask |= STORE_SET_MTIME;
	}
	r = so->setattr(obj->home, &attr, mask & (ATTR_MASK | STORE_SET_SIZE));
	txn_obj_dirty(obj);
	return r;
}

/* Committed names that are still on their way home would give a directory another mtime than the one that is set now. */
static int wait_for_names(struct txn_engine *eng, const struct setattr_args *a)
{
	struct txn_wsobj *w;
	int r = 0;

	if (!S_ISDIR(a->obj->home->kind) || !(a->mask & (STORE_SET_MTIME | TXN_SET_MTIME_NOW)))
		return 0;
	pthread_rwlock_rdlock(&eng->ns);
	TAILQ_FOREACH (w, &a->obj->dirviews, dir_link)
		if (txn_state(w->ws->txn) == TXN_COMMITTED) {
			txn_met(a->obj, NULL, w->ws->txn);
			r = TXN_RETRY;
		}
	pthread_rwlock_unlock(&eng->ns);
	return r;
}

/* For a plain change of attributes. A directory's depend on names, for those who keep them. */
static void plain_lock(struct txn_obj *obj)
{
	txn_plain_begin(obj->eng);
	if (S_ISDIR(obj->home->kind))
		pthread_rwlock_rdlock(&obj->eng->ns);
	pthread_rwlock_wrlock(&obj->lock);
}

static void plain_unlock(struct txn_obj *obj)
{
	pthread_rwlock_unlock(&obj->lock);
	if (S_ISDIR(obj->home->kind))
		pthread_rwlock_unlock(&obj->eng->ns);
	txn_plain_end(obj->eng);
}

static int setattr_once(struct txn_engine *eng, struct txn *view, struct setattr_args *a)
{
	struct txn_stmt st;
	int r = txn_stmt_begin(eng, view, &st);

	if (r)
		return r;
	if (st.txn)
		return txn_stmt_end(&st, do_setattr(st.txn, a));
	r = wait_for_names(eng, a);
	if (r)
		return r;
	plain_lock(a->obj);
	r = txn_plain_obj(a->obj);
	if (r == 0) {
		if (a->mask & STORE_SET_SIZE)
			txn_before_data(a->obj, NULL, a->attr->st_size < 0 ? 0 : (uint64_t)a->attr->st_size, UINT64_MAX);
		else
			txn_before_attr(a->obj);
		r = setattr_home(a->obj, a->attr, a->mask);
	}
	plain_unlock(a->obj);
	if (r == 1)
		r = txn_implicitly(eng, do_setattr, a);
	return r || !a->out ? r : txn_getattr(eng, NULL, a->obj, a->out);
}

int txn_setattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, struct txn_file *file UNUSED,
                const struct stat *attr, unsigned mask, struct stat *out)
{
	struct setattr_args args = {obj, attr, mask, out};

	return TXN_RETRYING(eng, setattr_once(eng, view, &args));
}

struct xattr_args {
	struct txn_obj *obj;
	const char *name;
	const void *value;
	uint32_t len; /* TXN_XATTR_ABSENT: remove */
	int flags;
};

static int do_xattr(struct txn *t, void *arg)
{
	struct xattr_args *a = arg;
	bool acl = !strncmp(a->name, ACL_PREFIX, strlen(ACL_PREFIX)), absent = a->len == TXN_XATTR_ABSENT;
	struct txn_wsobj *w;
	ssize_t have;
	int r = txn_own(t, a->obj, &w);

	if (!r && acl && !absent)
		r = txn_probe_acl(t, a->obj, a->name, a->value, a->len, &absent);
	if (r)
		return r;
	pthread_rwlock_rdlock(&a->obj->lock);
	have = txn_xattr_of(a->obj, w, a->name, NULL, 0);
	pthread_rwlock_unlock(&a->obj->lock);
	if (have < 0 && have != -ENODATA)
		return (int)have;
	if (have < 0 && acl && absent)
		return 0; /* as the kernel does it */
	if (have < 0 && (absent || (a->flags & XATTR_REPLACE)))
		return -ENODATA;
	if (have >= 0 && (a->flags & XATTR_CREATE))
		return -EEXIST;
	/* user.* belongs to files and directories alone. */
	if (!strncmp(a->name, "user.", 5) && !S_ISREG(w->attr.st_mode) && !S_ISDIR(w->attr.st_mode))
		return -EPERM;
	if (absent)
		return txn_do_setxattr(t, a->obj, a->name, NULL, TXN_XATTR_ABSENT);
	if (!strcmp(a->name, ACL_ACCESS)) {
		mode_t mode = w->attr.st_mode;
		bool trivial;

		r = txn_acl_mode(a->value, a->len, &mode, &trivial);
		if (!r && mode != w->attr.st_mode)
			r = set_mode(t, w, mode & 07777, STORE_SET_MODE, &w->attr);
		if (!r && trivial) /* the mode says it all */
			return have < 0 ? 0 : txn_do_setxattr(t, a->obj, a->name, NULL, TXN_XATTR_ABSENT);
	}
	return r ? r : txn_do_setxattr(t, a->obj, a->name, a->value, a->len);
}

static int xattr_once(struct txn_engine *eng, struct txn *view, struct xattr_args *a)
{
	struct txn_stmt st;
	int r = txn_stmt_begin(eng, view, &st);

	if (r)
		return r;
	if (st.txn)
		return txn_stmt_end(&st, do_xattr(st.txn, a));
	plain_lock(a->obj);
	r = txn_plain_obj(a->obj);
	if (r == 0) {
		txn_before_attr(a->obj);
		r = a->len == TXN_XATTR_ABSENT ? eng->so->removexattr(a->obj->home, a->name)
		                               : eng->so->setxattr(a->obj->home, a->name, a->value, a->len, a->flags);
		txn_obj_dirty(a->obj);
	}
	plain_unlock(a->obj);
	return r == 1 ? txn_implicitly(eng, do_xattr, a) : r;
}

int txn_setxattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, const char *name, const void *value,
                 size_t size, int flags)
{
	struct xattr_args args = {obj, name, value, (uint32_t)size, flags};

	if (size > XATTR_SIZE_MAX)
		return -E2BIG;
	if (!name[0] || strlen(name) > XATTR_NAME_MAX)
		return -ERANGE;
	if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
		return -EINVAL;
	return TXN_RETRYING(eng, xattr_once(eng, view, &args));
}

int txn_removexattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, const char *name)
{
	struct xattr_args args = {obj, name, NULL, TXN_XATTR_ABSENT, 0};

	return TXN_RETRYING(eng, xattr_once(eng, view, &args));
}
