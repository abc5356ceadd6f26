/*
 * settle.c - objects whose committed version is about to change. From before the flip until the kernel's caches have been
 * invalidated after it, the kernel may not keep what it is told of them: no attributes, no names that are in dispute, and an
 * open drops its pages. So whoever looks up or opens anew sees, after one new value, no older one.
 */
#include "base/map.h"
#include "fusefs/private.h"

struct fusefs_settling {
	UT_hash_handle hh;
	struct txn_obj *obj; /* reference */
	unsigned count;      /* commits that change it */
};

void fusefs_settle_locked(struct fusefs *fs, struct txn_obj *obj)
{
	struct fusefs_settling *s;

	HASH_FIND_PTR(fs->settling, &obj, s);
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (s) {
			s->obj = obj;
			HASH_ADD_PTR(fs->settling, obj, s);
			if (!s->hh.tbl) {
				free(s);
				s = NULL;
			}
		}
		if (!s)
			return; /* invalidated after the flip all the same */
		txn_obj_get(obj);
	}
	s->count++;
}

void fusefs_settled_locked(struct fusefs *fs, struct txn_obj *obj)
{
	struct fusefs_settling *s;

	HASH_FIND_PTR(fs->settling, &obj, s);
	if (!s || --s->count)
		return;
	HASH_DEL(fs->settling, s);
	txn_obj_put(s->obj);
	free(s);
}

bool fusefs_is_settling_locked(struct fusefs *fs, struct txn_obj *obj)
{
	struct fusefs_settling *s;

	HASH_FIND_PTR(fs->settling, &obj, s);
	return s;
}

bool fusefs_is_settling(struct fusefs *fs, struct txn_obj *obj)
{
	bool r;

	if (!atomic_load(&fs->commits))
		return false;
	pthread_mutex_lock(&fs->nodes);
	r = fusefs_is_settling_locked(fs, obj);
	pthread_mutex_unlock(&fs->nodes);
	return r;
}
