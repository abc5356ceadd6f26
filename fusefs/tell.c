/*
 * tell.c - a change of the committed version that came through one node: which other nodes' caches does it make stale?
 *
 * Those of the same object that show the committed version: the committed node, when the change came by one that
 * outlived its transaction; nodes of open transactions that have not changed the object themselves; nodes that outlived
 * theirs.
 */
#include "fusefs/private.h"

/* [fs->nodes] The list for notices to m, NULL: it is told nothing. */
static struct fusefs_notices *list_for(struct fusefs_telling *t, const struct fusefs_node *m)
{
	return m->tx && txn_state(m->tx->txn) != TXN_ACTIVE ? &t->later : &t->first;
}

/* Leave out the nodes of transactions that have their own version. */
static void filter(struct fusefs *fs, struct fusefs_notices *list, size_t from, struct txn_obj *obj)
{
	size_t keep = from;

	for (size_t i = from; i < list->n; i++) {
		struct fusefs_node *m = list->v[i].node;

		if (m->tx && txn_obj_changed(m->tx->txn, obj))
			fusefs_node_put(fs, m);
		else
			list->v[keep++] = list->v[i];
	}
	list->n = keep;
	if (!keep) {
		free(list->v);
		*list = (struct fusefs_notices){0};
	}
}

void fusefs_tell_object(struct fusefs *fs, struct fusefs_telling *t, const struct fusefs_node *self,
                        struct txn_obj *obj, off_t off, off_t len)
{
	size_t from = t->first.n;

	pthread_mutex_lock(&fs->nodes);
	for (struct fusefs_node *m = *txn_obj_user(obj); m; m = m->peer)
		if (m != self && !fusefs_is_frozen(m))
			fusefs_notice_inode_locked(list_for(t, m), m, off, len);
	pthread_mutex_unlock(&fs->nodes);
	filter(fs, &t->first, from, obj);
}

void fusefs_tell_name(struct fusefs *fs, struct fusefs_telling *t, const struct fusefs_node *self, const char *name)
{
	pthread_mutex_lock(&fs->nodes);
	/* A transaction that changed this very name would have made us fail; its other names are none of our business.
	 */
	for (struct fusefs_node *m = *txn_obj_user(self->obj); m; m = m->peer)
		if (m != self && !fusefs_is_frozen(m)) {
			fusefs_notice_entry_locked(list_for(t, m), m, name);
			fusefs_notice_inode_locked(list_for(t, m), m, FUSEFS_ATTRS_ONLY, 0);
		}
	pthread_mutex_unlock(&fs->nodes);
}
