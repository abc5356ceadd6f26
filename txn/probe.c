/*
 * probe.c - would home take it? What a transaction is told now is installed after its commit, when a refusal comes too
 * late. So what filesystems differ in is tried on a scratch file in the stage before it is logged. [txn->lock]
 */
#include "txn/private.h"

/* Attributes that together take no more than this fit everywhere (ext4: one block). */
#define XATTR_ROOM 2048
#define XATTR_OVERHEAD 32
/* An ACL without entries is none. */
#define ACL_HEADER 4

struct scratch {
	struct txn_engine *eng;
	struct store_obj *obj;
	bool dir;
	char name[20];
};

static int scratch_make(struct txn_engine *eng, bool dir, struct scratch *s)
{
	const struct store_ops *so = eng->so;
	struct store_new sn = {.mode = dir ? S_IFDIR | 0700 : S_IFREG | 0600, .uid = geteuid(), .gid = getegid()};
	uint64_t oid;

	pthread_mutex_lock(&eng->lock);
	oid = eng->next_oid++; /* not in the log: should it be left over, recovery sweeps it */
	pthread_mutex_unlock(&eng->lock);
	s->eng = eng;
	s->dir = dir;
	txn_stage_name(oid, s->name);
	return so->create(so->stage(eng->store), s->name, &sn, false, &s->obj, NULL);
}

static void scratch_drop(struct scratch *s)
{
	const struct store_ops *so = s->eng->so;

	so->put(s->obj);
	so->unlink(so->stage(s->eng->store), s->name, s->dir);
}

int txn_probe_size(struct txn_engine *eng, uint64_t size)
{
	uint64_t known = atomic_load(&eng->size_ok);
	struct stat st = {.st_size = (off_t)size};
	struct scratch s;
	int r;

	if (size <= known)
		return 0;
	r = scratch_make(eng, false, &s);
	if (r)
		return r;
	r = eng->so->setattr(s.obj, &st, STORE_SET_SIZE);
	scratch_drop(&s);
	while (!r && known < size && !atomic_compare_exchange_weak(&eng->size_ok, &known, size))
		;
	return r;
}

int txn_probe_owner(struct txn_engine *eng, bool dir, const struct stat *attr, unsigned mask)
{
	struct scratch s;
	int r;

	if (geteuid() == 0)
		return 0;
	r = scratch_make(eng, dir, &s);
	if (r)
		return r;
	r = eng->so->setattr(s.obj, attr, mask & (STORE_SET_UID | STORE_SET_GID));
	scratch_drop(&s);
	return r;
}

/* Give the scratch what the version has already, as far as it can be had; *total: what it takes. */
static int copy_xattrs(struct txn *t, struct txn_obj *obj, const char *but, struct scratch *s, size_t *total)
{
	CLEANUP_FREE char *list = NULL;
	ssize_t n = txn_listxattr(t->eng, t, obj, NULL, 0), len;

	*total = 0;
	if (n <= 0)
		return (int)n;
	list = malloc((size_t)n);
	if (!list)
		return -ENOMEM;
	n = txn_listxattr(t->eng, t, obj, list, (size_t)n);
	for (const char *p = list; n > 0 && p < list + n; p += strlen(p) + 1) {
		CLEANUP_FREE void *value = NULL;

		len = strcmp(p, but) ? txn_getxattr(t->eng, t, obj, p, NULL, 0) : -1;
		if (len < 0)
			continue;
		*total += strlen(p) + (size_t)len + XATTR_OVERHEAD;
		if (!s)
			continue;
		value = malloc((size_t)len + 1);
		if (!value)
			return -ENOMEM;
		len = len ? txn_getxattr(t->eng, t, obj, p, value, (size_t)len) : 0;
		if (len >= 0)
			t->eng->so->setxattr(s->obj, p, value, (size_t)len, 0);
	}
	return n < 0 ? (int)n : 0;
}

int txn_probe_xattr(struct txn *t, struct txn_obj *obj, const char *name, const void *value, size_t len)
{
	/* ACLs have been probed by themselves, or are made from good ones. */
	bool plain = (!strncmp(name, "user.", 5) && name[5]) || !strncmp(name, "system.posix_acl_", 17);
	struct scratch s;
	size_t total;
	int r = copy_xattrs(t, obj, name, NULL, &total);

	if (r || (plain && total + strlen(name) + len + XATTR_OVERHEAD <= XATTR_ROOM))
		return r;
	r = scratch_make(t->eng, S_ISDIR(obj->home->kind), &s);
	if (r)
		return r;
	r = copy_xattrs(t, obj, name, &s, &total);
	if (!r)
		r = t->eng->so->setxattr(s.obj, name, value, len, 0);
	scratch_drop(&s);
	return r;
}

/* *none: one that stands for no ACL, and is not kept. */
int txn_probe_acl(struct txn *t, struct txn_obj *obj, const char *name, const void *acl, size_t len, bool *none)
{
	struct scratch s;
	int r;

	if (S_ISLNK(obj->home->kind))
		return -EOPNOTSUPP;
	r = scratch_make(t->eng, S_ISDIR(obj->home->kind), &s);
	if (r)
		return r;
	r = t->eng->so->setxattr(s.obj, name, acl, len, 0);
	*none = len <= ACL_HEADER;
	scratch_drop(&s);
	return r;
}
