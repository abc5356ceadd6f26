/*
 * checkpoint.c - make home durable, so that the log before it is not needed any more.
 *
 * A checkpoint notes the end of the log, or the oldest commit that is not installed yet, as `clean`, makes everything
 * that was installed durable, and writes CHECKPOINT: from then on recovery redoes only what committed at `clean` or
 * later, and reads from `scan`, the oldest record of a transaction that is open or one of those. Marks (I5) below
 * `clean` fall, and segments below `scan` are recycled (I8).
 */
#include "txn/private.h"

#include <syslog.h>

/* This many objects are synced one by one, more of them with the whole filesystem. */
#define SYNC_ONE_BY_ONE 32

struct sync_list {
	struct txn_obj *v[SYNC_ONE_BY_ONE];
	size_t n;
	bool all;
};

static void sync_add(struct sync_list *l, struct txn_obj *obj)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i] == obj)
			return;
	if (l->n == ARRAY_LEN(l->v))
		l->all = true;
	else
		l->v[l->n++] = txn_obj_get(obj);
}

/* Make durable what installs have changed at home. */
static int sync_home(struct txn_engine *eng)
{
	struct sync_list l = {.n = 0};
	struct txn_name *e;
	struct txn_obj *obj;
	int r = 0;

	pthread_rwlock_rdlock(&eng->ns);
	pthread_mutex_lock(&eng->lock);
	TAILQ_FOREACH (obj, &eng->marked, marked_link) {
		if (l.all)
			break;
		sync_add(&l, obj);
	}
	pthread_mutex_unlock(&eng->lock);
	TAILQ_FOREACH (e, &eng->marked_names, link) {
		if (l.all)
			break;
		sync_add(&l, e->dir);
	}
	pthread_rwlock_unlock(&eng->ns);
	/* Else each object that comes back would be synced by the next transaction that uses it. */
	l.all = l.all || txn_forgotten_unsynced(eng);
	if (l.all)
		r = txn_sync_all(eng, true);
	for (size_t i = 0; i < l.n; i++) {
		int s = r || l.all ? 0 : txn_sync_obj(l.v[i], false, true);

		if (s && s != -ENOENT && s != -ESTALE) /* removed since: nothing to keep */
			r = s;
		txn_obj_put(l.v[i]);
	}
	return r;
}

/* Marks of what was installed before the checkpoint began fall. */
static void unmark(struct txn_engine *eng, uint64_t clean)
{
	struct txn_obj_list objs = TAILQ_HEAD_INITIALIZER(objs);
	struct txn_name *e, *next;
	struct txn_obj *obj;

	pthread_rwlock_wrlock(&eng->ns);
	for (e = TAILQ_FIRST(&eng->marked_names); e; e = next) {
		next = TAILQ_NEXT(e, link);
		if (e->logged >= clean)
			continue;
		TAILQ_REMOVE(&eng->marked_names, e, link);
		HASH_DEL(e->dir->names, e);
		txn_obj_put(e->dir);
		free(e);
	}
	pthread_rwlock_unlock(&eng->ns);

	pthread_mutex_lock(&eng->lock);
	TAILQ_CONCAT(&objs, &eng->marked, marked_link);
	pthread_mutex_unlock(&eng->lock);
	while ((obj = TAILQ_FIRST(&objs))) {
		bool keep;

		pthread_rwlock_wrlock(&obj->lock);
		keep = obj->logged >= clean;
		if (!keep) {
			obj->logged = 0;
			obj->logged_mtime = false;
		}
		pthread_mutex_lock(&eng->lock);
		TAILQ_REMOVE(&objs, obj, marked_link);
		if (keep) {
			TAILQ_INSERT_TAIL(&eng->marked, obj, marked_link);
		} else {
			obj->marked = false;
			eng->st.logged_objects--;
		}
		pthread_mutex_unlock(&eng->lock);
		pthread_rwlock_unlock(&obj->lock);
		if (!keep)
			txn_obj_put(obj);
	}
}

static int log_checkpoint(struct txn_engine *eng, struct txn_rec *rec)
{
	struct wal_rec h = {.type = TXN_REC_CHECKPOINT};
	struct base_buf head = {0};
	struct iovec iov[3];
	int n, r = txn_rec_encode(rec, &head, iov, &n);

	if (!r)
		r = wal_append(eng->wal, &h, iov, n, true);
	base_buf_free(&head);
	if (!r)
		r = wal_force(eng->wal, h.lsn);
	if (r && wal_failed(eng->wal))
		txn_engine_fail(eng, "the log cannot be made durable: %s", strerror(-r));
	return r;
}

/*
 * Where the log is clean: what committed below is home. The gate, shut for this moment only, keeps commits from being
 * between their record and the lists; the installs that go on meanwhile just are not below (I10).
 */
static void clean_point(struct txn_engine *eng, struct txn_rec_checkpoint *c)
{
	const struct txn_list *committed[] = {&eng->flipping, &eng->installs};
	size_t kept = 0;
	struct txn *t;

	pthread_rwlock_wrlock(&eng->commit_gate);
	pthread_mutex_lock(&eng->lock);
	c->clean = wal_end(eng->wal);
	c->scan = c->clean;
	for (size_t i = 0; i < ARRAY_LEN(committed); i++)
		TAILQ_FOREACH (t, committed[i], install) {
			c->clean = base_min_u64(c->clean, t->commit_lsn);
			c->scan = base_min_u64(c->scan, atomic_load(&t->first)); /* before its commit */
		}
	/* What ended, but committed behind one that has not, is redone with it, for what came between them in the log is. */
	for (size_t i = 0; i < eng->ended.n; i += 2) {
		if (eng->ended.v[i] < c->clean)
			continue;
		eng->ended.v[kept++] = eng->ended.v[i];
		eng->ended.v[kept++] = eng->ended.v[i + 1];
		c->scan = base_min_u64(c->scan, eng->ended.v[i + 1]);
	}
	eng->ended.n = kept;
	c->scan = base_min_u64(c->scan, eng->ended_pin);
	TAILQ_FOREACH (t, &eng->open, link) {
		uint64_t first = atomic_load(&t->first);

		if (first)
			c->scan = base_min_u64(c->scan, first);
	}
	c->next_oid = eng->next_oid;
	c->next_txid = eng->next_txid;
	pthread_mutex_unlock(&eng->lock);
	pthread_rwlock_unlock(&eng->commit_gate);
}

int txn_checkpoint_at(struct txn_engine *eng, bool shutdown)
{
	struct txn_rec rec = {.type = TXN_REC_CHECKPOINT};
	int r;

	pthread_mutex_lock(&eng->checkpoint_lock);
	r = txn_writable(eng);
	if (!r)
		r = txn_carry_forward(eng);
	if (!r) {
		clean_point(eng, &rec.u.checkpoint);
		r = sync_home(eng);
	}
	if (!r) {
		rec.u.checkpoint.shutdown = shutdown;
		r = log_checkpoint(eng, &rec);
	}
	if (!r) {
		unmark(eng, rec.u.checkpoint.clean);
		r = wal_trim(eng->wal, rec.u.checkpoint.scan); /* I8 */
		pthread_mutex_lock(&eng->lock);
		eng->last_checkpoint = wal_end(eng->wal);
		eng->st.checkpoints++;
		pthread_mutex_unlock(&eng->lock);
	}
	pthread_mutex_unlock(&eng->checkpoint_lock);
	return r;
}

int txn_checkpoint(struct txn_engine *eng)
{
	return txn_checkpoint_at(eng, false);
}

/*
 * The checkpointer: when the log has grown by checkpoint_bytes, and every checkpoint_seconds when there is
 * anything to do. Its first act is to make durable what was in the tree before the mount, so that commits need not ask.
 */
void *txn_checkpointer(void *arg)
{
	struct txn_engine *eng = arg;
	struct timespec until;

	txn_sync_all(eng, false);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += eng->cfg.checkpoint_seconds;
	pthread_mutex_lock(&eng->lock);
	while (!eng->stopping) {
		int w = pthread_cond_timedwait(&eng->timer, &eng->lock, &until);
		uint64_t grown = wal_end(eng->wal) - eng->last_checkpoint;

		if (eng->stopping)
			break;
		if (w != ETIMEDOUT && grown < eng->cfg.checkpoint_bytes && eng->st.logged_objects <= TXN_MARKS_MAX &&
		    !eng->checkpoint_wanted)
			continue;
		eng->checkpoint_wanted = false;
		/* Marks are left when something was still being installed at the last one's beginning. */
		if ((grown || eng->st.logged_objects) && !atomic_load(&eng->failed)) {
			int r;

			pthread_mutex_unlock(&eng->lock);
			r = txn_checkpoint_at(eng, false);
			if (r && r != -ENOSPC && r != -EROFS)
				base_log(LOG_WARNING, "checkpoint failed, the log keeps what it has: %s", strerror(-r));
			pthread_mutex_lock(&eng->lock);
		}
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += eng->cfg.checkpoint_seconds;
	}
	pthread_mutex_unlock(&eng->lock);
	return NULL;
}
