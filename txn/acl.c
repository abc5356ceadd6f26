/*
 * acl.c - what a filesystem does to POSIX ACLs (IEEE 1003.1e draft 17) when it creates an object or changes a mode.
 *
 * Inside a transaction the object is made in the stage, where the directory's default ACL does not reach it, and a chmod changes
 * only the workspace: so the engine does here what the kernel would. Values are the bytes of system.posix_acl_*.
 */
#include "txn/private.h"

#include <endian.h>

#define ACL_VERSION 2u
#define ACL_USER_OBJ 0x01
#define ACL_USER 0x02
#define ACL_GROUP_OBJ 0x04
#define ACL_GROUP 0x08
#define ACL_MASK 0x10
#define ACL_OTHER 0x20

struct acl_entry {
	uint16_t tag, perm;
	uint32_t id;
} __attribute__((packed));
_Static_assert(sizeof(struct acl_entry) == 8, "layout of the xattr");

#define ACL_HEADER 4u

static int acl_entries(const void *acl, size_t len, struct acl_entry **entries, size_t *n)
{
	uint32_t version;

	if (len < ACL_HEADER || (len - ACL_HEADER) % sizeof(struct acl_entry))
		return -EINVAL;
	memcpy(&version, acl, sizeof(version));
	if (le32toh(version) != ACL_VERSION)
		return -EOPNOTSUPP;
	*entries = (struct acl_entry *)((uintptr_t)acl + ACL_HEADER);
	*n = (len - ACL_HEADER) / sizeof(struct acl_entry);
	return 0;
}

/* Which entry stands for a class of the mode: the mask for the group class where there is one. */
static struct acl_entry *acl_class(struct acl_entry *e, size_t n, int tag)
{
	for (size_t i = 0; i < n; i++)
		if (le16toh(e[i].tag) == tag)
			return &e[i];
	return NULL;
}

static uint16_t perm_of(const struct acl_entry *e)
{
	return e ? le16toh(e->perm) & 7 : 0;
}

int txn_acl_mode(const void *acl, size_t len, mode_t *mode, bool *trivial)
{
	struct acl_entry *e, *mask, *group;
	size_t n;
	int r = acl_entries(acl, len, &e, &n);

	if (r)
		return r;
	mask = acl_class(e, n, ACL_MASK);
	group = mask ? mask : acl_class(e, n, ACL_GROUP_OBJ);
	*trivial = !mask && !acl_class(e, n, ACL_USER) && !acl_class(e, n, ACL_GROUP);
	*mode = (*mode & ~(mode_t)0777) | (mode_t)(perm_of(acl_class(e, n, ACL_USER_OBJ)) << 6) |
	        (mode_t)(perm_of(group) << 3) | perm_of(acl_class(e, n, ACL_OTHER));
	return 0;
}

int txn_acl_chmod(const void *acl, size_t len, mode_t mode, void **out)
{
	CLEANUP_FREE void *copy = malloc(len);
	struct acl_entry *e, *group, *p;
	size_t n;
	int r;

	if (!copy)
		return -ENOMEM;
	memcpy(copy, acl, len);
	r = acl_entries(copy, len, &e, &n);
	if (r)
		return r;
	group = acl_class(e, n, ACL_MASK);
	if (!group)
		group = acl_class(e, n, ACL_GROUP_OBJ);
	if ((p = acl_class(e, n, ACL_USER_OBJ)))
		p->perm = htole16((uint16_t)((mode >> 6) & 7));
	if (group)
		group->perm = htole16((uint16_t)((mode >> 3) & 7));
	if ((p = acl_class(e, n, ACL_OTHER)))
		p->perm = htole16((uint16_t)(mode & 7));
	*out = TAKE_PTR(copy);
	return 0;
}

int txn_acl_inherit(const void *dflt, size_t len, mode_t *mode, void **access, size_t *access_len)
{
	mode_t allowed = 0, both;
	bool trivial;
	int r = txn_acl_mode(dflt, len, &allowed, &trivial);

	*access = NULL;
	*access_len = 0;
	if (r)
		return r;
	/* The requested mode cuts the inherited permissions, class by class. */
	both = *mode & allowed & 0777;
	*mode = (*mode & ~(mode_t)0777) | both;
	if (trivial)
		return 0;
	r = txn_acl_chmod(dflt, len, both, access);
	if (!r)
		*access_len = len;
	return r;
}
