/* object.c - the engine's objects: one per inode of the store, reference counted; marks and numbers. */
#include "txn/private.h"

#include <inttypes.h>
#include <stdio.h>

static struct txn_obj *obj_new(struct txn_engine *eng, struct store_obj *home)
{
	struct txn_obj *obj = calloc(1, sizeof(*obj));
	pthread_rwlockattr_t fair;

	if (!obj)
		return NULL;
	obj->eng = eng;
	obj->home = home;
	atomic_init(&obj->refs, 1);
	atomic_init(&obj->plain_gen, atomic_load(&eng->forgotten_gen));
	/* Whoever wants to change it must not starve behind readers. No thread takes it shared twice. */
	pthread_rwlockattr_init(&fair);
	pthread_rwlockattr_setkind_np(&fair, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&obj->lock, &fair);
	pthread_rwlockattr_destroy(&fair);
	TAILQ_INIT(&obj->dirviews);
	TAILQ_INIT(&obj->hist);
	return obj;
}

struct txn_obj *txn_obj_intern(struct txn_engine *eng, struct store_obj *home)
{
	struct txn_obj *obj;

	pthread_mutex_lock(&eng->tab);
	obj = home->user;
	if (obj) {
		atomic_fetch_add(&obj->refs, 1);
	} else {
		obj = obj_new(eng, home);
		if (obj) {
			home->user = obj;
			home = NULL;
		}
	}
	pthread_mutex_unlock(&eng->tab);
	if (home)
		eng->so->put(home);
	return obj;
}

struct txn_obj *txn_obj_orphan(struct txn_engine *eng)
{
	return obj_new(eng, NULL);
}

struct txn_obj *txn_obj_get(struct txn_obj *obj)
{
	atomic_fetch_add_explicit(&obj->refs, 1, memory_order_relaxed);
	return obj;
}

void txn_obj_put(struct txn_obj *obj)
{
	struct txn_engine *eng = obj->eng;
	unsigned long n = atomic_load(&obj->refs);

	while (n > 1)
		if (atomic_compare_exchange_weak(&obj->refs, &n, n - 1))
			return;
	/* Perhaps the last: only under the table's lock, where intern could find it. */
	pthread_mutex_lock(&eng->tab);
	if (atomic_fetch_sub(&obj->refs, 1) != 1) {
		pthread_mutex_unlock(&eng->tab);
		return;
	}
	if (obj->home)
		obj->home->user = NULL;
	/* When it comes back, what of it is not durable must not be taken for durable. */
	if (atomic_load(&obj->plain_gen) > atomic_load(&eng->forgotten_gen))
		atomic_store(&eng->forgotten_gen, atomic_load(&obj->plain_gen));
	pthread_mutex_unlock(&eng->tab);
	if (obj->home)
		eng->so->put(obj->home);
	pthread_rwlock_destroy(&obj->lock);
	free(obj);
}

uint64_t txn_obj_ino(const struct txn_obj *obj)
{
	return obj->home->ino;
}

mode_t txn_obj_kind(const struct txn_obj *obj)
{
	return obj->home->kind;
}

_Atomic(void *) *txn_obj_user(struct txn_obj *obj)
{
	return &obj->user;
}

bool txn_obj_changed(struct txn *view, struct txn_obj *obj)
{
	bool changed;

	view = txn_view(view);
	if (!view)
		return false;
	pthread_rwlock_rdlock(&obj->lock);
	changed = obj->ws && obj->ws->ws->txn == view;
	pthread_rwlock_unlock(&obj->lock);
	return changed;
}

uint64_t txn_obj_oid(struct txn_obj *obj)
{
	uint64_t oid = atomic_load(&obj->oid);

	if (oid)
		return oid;
	pthread_mutex_lock(&obj->eng->lock);
	oid = atomic_load(&obj->oid);
	if (!oid) {
		oid = obj->eng->next_oid++;
		atomic_store(&obj->oid, oid);
	}
	pthread_mutex_unlock(&obj->eng->lock);
	return oid;
}

void txn_obj_mark(struct txn_obj *obj, uint64_t lsn)
{
	struct txn_engine *eng = obj->eng;

	obj->logged = base_max_u64(obj->logged, lsn); /* they end in another order than they committed */
	pthread_mutex_lock(&eng->lock);
	if (!obj->marked) {
		obj->marked = true;
		txn_obj_get(obj);
		TAILQ_INSERT_TAIL(&eng->marked, obj, marked_link);
		eng->st.logged_objects++;
	}
	pthread_mutex_unlock(&eng->lock);
}

void txn_obj_dirty(struct txn_obj *obj)
{
	/* Numbered after the change, so that a sync which did not see it does not count for it. */
	uint64_t gen = atomic_fetch_add(&obj->eng->plain_gen, 1), was = atomic_load(&obj->plain_gen);

	while (was < gen && !atomic_compare_exchange_weak(&obj->plain_gen, &was, gen))
		;
}

bool txn_obj_unsynced(struct txn_obj *obj)
{
	return atomic_load(&obj->plain_gen) >= atomic_load(&obj->eng->synced_gen);
}

/*
 * What a sync could not write may be lost, and the next sync does not tell (fsync(2)). When a promise of the log hangs on it,
 * that is the end until the next recovery, which writes it again.
 */
static int synced(struct txn_engine *eng, bool promised, int r)
{
	if (promised && (r == -EIO || r == -ENOSPC || r == -EDQUOT))
		txn_engine_fail(eng, "files cannot be made durable: %s", strerror(-r));
	return r;
}

int txn_sync_obj(struct txn_obj *obj, bool data_only, bool promised)
{
	return synced(obj->eng, promised, obj->eng->so->sync(obj->home, data_only));
}

int txn_sync_all(struct txn_engine *eng, bool promised)
{
	uint64_t gen = atomic_load(&eng->plain_gen), was = atomic_load(&eng->synced_gen);
	int r = synced(eng, promised, eng->so->sync_all(eng->store));

	while (!r && was < gen && !atomic_compare_exchange_weak(&eng->synced_gen, &was, gen))
		;
	return r;
}

char *txn_stage_name(uint64_t oid, char buf[20])
{
	snprintf(buf, 20, "%016" PRIx64, oid);
	return buf;
}
