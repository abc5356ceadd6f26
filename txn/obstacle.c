/* obstacle.c - what was in the way of this thread's operation, for those who would rather wait (txn.h, "waiting"). */
#include "txn/private.h"

static _Thread_local struct {
	bool armed, met;
	struct txn_waiter *self;
	struct txn_obstacle c;
} mine;

static void forget(void)
{
	if (mine.met)
		txn_obstacle_drop(&mine.c);
	mine.met = false;
}

void txn_obstacle_arm(struct txn_waiter *self)
{
	forget();
	mine.armed = true;
	mine.self = self;
}

bool txn_obstacle_take(struct txn_obstacle *out)
{
	bool met = mine.met;

	if (met)
		*out = mine.c;
	mine.met = mine.armed = false;
	mine.self = NULL;
	return met;
}

void txn_obstacle_drop(struct txn_obstacle *c)
{
	if (c->holder)
		txn_put(c->holder);
	if (c->obj)
		txn_obj_put(c->obj);
	c->holder = NULL;
	c->obj = NULL;
}

void txn_met(struct txn_obj *obj, const char *name, struct txn *holder)
{
	size_t n = name ? strlen(name) : 0;

	if (!mine.armed || n >= sizeof(mine.c.name))
		return;
	/* What was met before goes without its references being dropped under these locks: the holder's cannot be the last. */
	if (mine.met && mine.c.obj == obj) {
		if (mine.c.holder != holder) {
			struct txn *was = mine.c.holder;

			mine.c.holder = holder ? txn_get(holder) : NULL;
			if (was)
				txn_put(was); /* takes no lock */
		}
	} else if (!mine.met) {
		mine.c.holder = holder ? txn_get(holder) : NULL;
		mine.c.obj = txn_obj_get(obj);
		mine.met = true;
	} else {
		return; /* the first one will do */
	}
	memcpy(mine.c.name, name ? name : "", n + 1);
}

bool txn_reserved_for_other(struct txn_obj *obj, const char *name)
{
	if (!mine.armed || !txn_waits_reserved(obj, name, mine.self))
		return false;
	txn_met(obj, name, NULL);
	return true;
}

int txn_retry(struct txn_engine *eng)
{
	/* A plain operation's own transaction takes no longer than the operation. */
	if (mine.met && mine.c.holder && !mine.c.holder->implicit)
		return TXN_INSTALLING;
	forget();
	return txn_wait_installs(eng, false);
}

/* ---- looking ahead ---- */

static bool in_the_way(const struct txn *t, const struct txn *view)
{
	return t && t != view && !t->implicit && txn_is_open(t);
}

static int object_in_the_way(struct txn *view, struct txn_obj *obj)
{
	int r = 0;

	pthread_rwlock_rdlock(&obj->lock);
	if (obj->ws && in_the_way(obj->ws->ws->txn, view)) {
		txn_met(obj, NULL, obj->ws->ws->txn);
		r = -EBUSY;
	} else if (!obj->ws && txn_reserved(obj, NULL)) {
		r = -EBUSY;
	}
	pthread_rwlock_unlock(&obj->lock);
	return r;
}

int txn_would_conflict(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, const char *name)
{
	struct txn_obj *at = NULL;
	struct txn_name *e;
	struct stat st;
	bool valid;
	int r = 0;

	view = txn_view(view);
	if (!name)
		return object_in_the_way(view, obj);
	if (strlen(name) > NAME_MAX)
		return 0;
	pthread_rwlock_rdlock(&eng->ns);
	e = obj->names ? txn_name_find(obj, name) : NULL;
	if (e && in_the_way(e->txn, view)) {
		txn_met(obj, name, e->txn);
		r = -EBUSY;
	} else if ((!e || !e->txn) && txn_reserved(obj, name)) {
		r = -EBUSY;
	} else if (!txn_resolve_name(view, obj, name, &at, &st, &valid)) {
		r = object_in_the_way(view, at);
	}
	pthread_rwlock_unlock(&eng->ns);
	if (at)
		txn_obj_put(at);
	return r;
}
