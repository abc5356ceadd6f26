/*
 * settle.c - objects whose committed version is about to change. From right before the flip until the kernel's caches have
 * been told after it, the kernel may not keep attributes that it is told of them. An answer can be made up before the flip
 * and reach the kernel long after; so it counts what was so when it began to be made up: whatever has settled since
 * may have changed in between.
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

	for (struct fusefs_node *m = *txn_obj_user(obj); m; m = m->peer)
		atomic_store(&m->fresh, 1);
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
	if (!s)
		return;
	atomic_fetch_add(&fs->settled, 1);
	if (--s->count)
		return;
	HASH_DEL(fs->settling, s);
	txn_obj_put(s->obj);
	free(s);
}

bool fusefs_is_settling_locked(struct fusefs *fs, struct txn_obj *obj, const struct fusefs_scope *scope)
{
	struct fusefs_settling *s;

	HASH_FIND_PTR(fs->settling, &obj, s);
	return s || atomic_load(&fs->settled) != scope->settled;
}

bool fusefs_is_settling(struct fusefs *fs, struct txn_obj *obj, const struct fusefs_scope *scope)
{
	bool r;

	/* In this order: what settled since is counted before its commit ends. */
	if (!atomic_load(&fs->commits))
		return atomic_load(&fs->settled) != scope->settled;
	pthread_mutex_lock(&fs->nodes);
	r = fusefs_is_settling_locked(fs, obj, scope);
	pthread_mutex_unlock(&fs->nodes);
	return r;
}
