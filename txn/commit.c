/*
 * commit.c - the life of a transaction.
 *
 *     ACTIVE --commit--> COMMITTED --installed--> ENDED
 *        \---rollback--> ABORTED
 *     ACTIVE --prepare--> PREPARED, which ends as ACTIVE does (prepare.c)
 *
 * A transaction is committed exactly when its COMMIT record is durable (I2); the one comment "commit point" marks the
 * line. The flip that follows makes everyone see all of it at once (I3).
 */
#include "txn/private.h"

#include <syslog.h>

/* This many objects with unsynced plain changes are synced one by one, more of them all at once. */
#define SYNC_ONE_BY_ONE 32

int txn_new(struct txn_engine *eng, bool implicit, struct txn **out)
{
	struct txn *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->eng = eng;
	t->implicit = implicit;
	t->began = txn_now();
	atomic_init(&t->refs, 2); /* the engine's and the caller's */
	atomic_init(&t->state, TXN_ACTIVE);
	pthread_mutex_init(&t->lock, NULL);
	txn_ws_init(&t->ws, eng, t);
	pthread_mutex_lock(&eng->lock);
	t->id = eng->next_txid++;
	TAILQ_INSERT_TAIL(&eng->open, t, link);
	if (implicit)
		eng->implicit++;
	else
		eng->st.begun++;
	pthread_mutex_unlock(&eng->lock);
	*out = t;
	return 0;
}

int txn_begin(struct txn_engine *eng, struct txn **out)
{
	int r = txn_writable(eng);

	return r ? r : txn_new(eng, false, out);
}

struct txn *txn_get(struct txn *t)
{
	atomic_fetch_add(&t->refs, 1);
	return t;
}

static void drop_savepoints(struct txn *t, size_t keep)
{
	while (t->nsavepoints > keep)
		free(t->savepoints[--t->nsavepoints].name);
}

void txn_put(struct txn *t)
{
	if (atomic_fetch_sub(&t->refs, 1) != 1)
		return;
	txn_isolation_free(t);
	drop_savepoints(t, 0);
	free(t->savepoints);
	free(t->gid);
	base_vec_free(&t->recs);
	txn_account_put(t->account);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

enum txn_state txn_state(const struct txn *t)
{
	return (enum txn_state)atomic_load_explicit(&((struct txn *)(uintptr_t)t)->state, memory_order_acquire);
}

bool txn_is_open(const struct txn *t)
{
	enum txn_state s = txn_state(t);

	return s == TXN_ACTIVE || s == TXN_PREPARED;
}

uint64_t txn_id(const struct txn *t)
{
	return t->id;
}

void txn_info(struct txn *t, struct txn_info *info)
{
	pthread_mutex_lock(&t->lock);
	*info = (struct txn_info){.state = txn_state(t),
	                          .id = t->id,
	                          .operations = t->operations,
	                          .log_bytes = t->bytes,
	                          .objects = t->ws.nobjs,
	                          .names = t->ws.nnames,
	                          .savepoints = t->nsavepoints,
	                          .version = t->version,
	                          .began = t->began};
	pthread_mutex_unlock(&t->lock);
}

void txn_expect(struct txn *t, uint64_t version)
{
	pthread_mutex_lock(&t->lock);
	t->expecting = true;
	t->expected = version;
	pthread_mutex_unlock(&t->lock);
}

/* ---- savepoints ---- */

int txn_savepoint(struct txn *t, const char *name)
{
	struct txn_rec rec = {.type = TXN_REC_SAVEPOINT, .u.savepoint = {.name = name}};
	struct txn_savepoint *grown;
	char *copy = strdup(name);
	int r;

	if (!copy)
		return -ENOMEM;
	pthread_mutex_lock(&t->lock);
	r = txn_state(t) == TXN_ACTIVE ? txn_writable(t->eng) : -EINVAL;
	if (r)
		goto out;
	grown = reallocarray(t->savepoints, t->nsavepoints + 1, sizeof(*grown));
	if (!grown) {
		r = -ENOMEM;
		goto out;
	}
	t->savepoints = grown;
	if (t->first) /* nothing to come back to otherwise: the empty transaction */
		r = txn_log(t, &rec, false, NULL);
	if (!r)
		t->savepoints[t->nsavepoints++] = (struct txn_savepoint){TAKE_PTR(copy), t->recs.n, t->last};
out:
	pthread_mutex_unlock(&t->lock);
	free(copy);
	return r;
}

/* The newest of that name, or -ENOENT. [txn->lock] */
static ssize_t find_savepoint(struct txn *t, const char *name)
{
	for (size_t i = t->nsavepoints; i-- > 0;)
		if (!strcmp(t->savepoints[i].name, name))
			return (ssize_t)i;
	return -ENOENT;
}

int txn_rollback_to(struct txn *t, const char *name)
{
	ssize_t i;
	int r;

	pthread_mutex_lock(&t->lock);
	r = txn_state(t) == TXN_ACTIVE ? txn_writable(t->eng) : -EINVAL;
	if (!r) {
		i = find_savepoint(t, name);
		if (i < 0) {
			r = (int)i;
		} else {
			r = txn_undo_to(t, t->savepoints[i].records, t->savepoints[i].last);
			t->version++;
			if (r)
				txn_engine_fail(t->eng, "rolling transaction %llu back to a savepoint failed: %s",
				                (unsigned long long)t->id, strerror(-r));
			else
				drop_savepoints(t, (size_t)i + 1);
		}
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

int txn_release(struct txn *t, const char *name)
{
	ssize_t i;
	int r;

	pthread_mutex_lock(&t->lock);
	r = txn_state(t) == TXN_ACTIVE ? 0 : -EINVAL;
	if (!r) {
		i = find_savepoint(t, name);
		if (i < 0)
			r = (int)i;
		else
			drop_savepoints(t, (size_t)i);
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

/* ---- end ---- */

/* Staged inodes that no name refers to, to be removed when the workspace has gone. */
static int staged_leftovers(struct txn *t, struct base_vec *files)
{
	struct txn_wsobj *w, *tmp;
	int r = 0;

	HASH_ITER (hh, t->ws.objs, w, tmp)
		if (w->staged && !r)
			r = base_vec_push(files, w->oid << 1 | (S_ISDIR(w->obj->home->kind) ? 1 : 0));
	return r;
}

static void sweep(struct txn_engine *eng, struct base_vec *files)
{
	struct store_obj *stage = eng->so->stage(eng->store);
	char name[20];

	for (size_t i = 0; i < files->n; i++)
		eng->so->unlink(stage, txn_stage_name(files->v[i] >> 1, name), files->v[i] & 1);
	base_vec_free(files); /* what could not be removed, recovery sweeps */
}

/* The space that it has not used, or has asked for in vain. */
void txn_give_back(struct txn *t)
{
	if (t->reserved)
		t->eng->so->release(t->eng->store, t->reserved);
	t->reserved = 0;
}

void txn_discard(struct txn *t, enum txn_state state)
{
	struct txn_rec abort_rec = {.type = TXN_REC_ABORT};
	struct txn_engine *eng = t->eng;
	struct base_vec files = {0};

	if (t->first && txn_state(t) == TXN_ACTIVE && !txn_engine_error(eng))
		txn_log(t, &abort_rec, true, NULL); /* a courtesy: without COMMIT it is lost anyway */
	if (!txn_engine_error(eng)) /* else COMMIT may be in the log: the next recovery sweeps them, or needs them */
		staged_leftovers(t, &files);
	pthread_rwlock_wrlock(&eng->ns);
	atomic_store(&t->state, (int)state);
	txn_ws_detach(&t->ws, 0);
	pthread_rwlock_unlock(&eng->ns);
	sweep(eng, &files);
	txn_isolation_end(t);
	txn_give_back(t);
	pthread_mutex_lock(&eng->lock);
	TAILQ_REMOVE(&eng->open, t, link);
	pthread_mutex_unlock(&eng->lock);
	txn_waits_release(t);
	txn_discharge(t);
	txn_put(t); /* the engine's reference; the caller has one */
}

int txn_rollback(struct txn *t)
{
	int r = 0;

	pthread_mutex_lock(&t->lock);
	if (!txn_is_open(t))
		r = -EINVAL;
	else if (txn_state(t) == TXN_PREPARED)
		r = txn_forget_prepared(t);
	if (!r) {
		pthread_mutex_lock(&t->eng->lock);
		t->eng->st.rolled_back++;
		pthread_mutex_unlock(&t->eng->lock);
		txn_discard(t, TXN_ABORTED);
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

/* One object, unless it is durable. *was: whether it had to be done. */
static int sync_one(struct txn_obj *obj, bool *was)
{
	uint64_t gen = atomic_load(&obj->plain_gen);
	int r;

	*was = txn_obj_unsynced(obj);
	if (!*was)
		return 0;
	r = txn_sync_obj(obj, false, true);
	if (!r)
		atomic_compare_exchange_strong(&obj->plain_gen, &gen, 0);
	return r;
}

/* With the names that lead to it: syncing a file says nothing of them (fsync(2)), and its directory may be new as well. */
static int sync_with_names(struct txn_engine *eng, struct txn_obj *obj)
{
	struct txn_obj *at = txn_obj_get(obj);
	bool was;
	int r;

	while (!(r = sync_one(at, &was)) && was) {
		CLEANUP_FREE char *name = NULL;
		struct store_obj *parent;

		r = eng->so->place(at->home, &parent, &name);
		if (r) {
			r = r == -ENOENT ? 0 : r; /* the root, or without a name */
			break;
		}
		txn_obj_put(at);
		at = txn_obj_intern(eng, parent);
		if (!at)
			return -ENOMEM;
	}
	txn_obj_put(at);
	return r;
}

/*
 * What the transaction changes may have been made by plain operations that are not durable yet: a file created a moment ago,
 * without fsync. Redo could not find it after a power cut, so it is made durable before COMMIT.
 */
int txn_sync_plain(struct txn *t)
{
	struct txn_engine *eng = t->eng;
	struct txn_wsobj *w, *tmp;
	size_t n = 0;
	int r = 0;

	HASH_ITER (hh, t->ws.objs, w, tmp)
		n += !w->created && txn_obj_unsynced(w->obj);
	if (n > SYNC_ONE_BY_ONE)
		return txn_sync_all(eng, true);
	HASH_ITER (hh, t->ws.objs, w, tmp)
		if (n && !r && !w->created)
			r = sync_with_names(eng, w->obj);
	return r;
}

/* Everyone sees it from here on. [txn->lock] */
static void flip(struct txn *t)
{
	struct txn_engine *eng = t->eng;

	pthread_rwlock_wrlock(&eng->ns);
	if (t->gid)
		txn_unhide(t);
	txn_isolation_flip(t);
	atomic_store_explicit(&t->state, TXN_COMMITTED, memory_order_release); /* I3 */
	txn_isolation_flipped(t);
	pthread_mutex_lock(&eng->lock);
	TAILQ_REMOVE(&eng->open, t, link);
	if (t->flipping)
		TAILQ_REMOVE(&eng->flipping, t, install);
	t->flipping = false;
	if (t->implicit) {
		TAILQ_INSERT_TAIL(&eng->implicits, t, install);
	} else {
		TAILQ_INSERT_TAIL(&eng->installs, t, install);
		eng->st.committed++;
		pthread_cond_signal(&eng->work);
	}
	pthread_mutex_unlock(&eng->lock);
	pthread_rwlock_unlock(&eng->ns);
}

static int log_commit(struct txn *t)
{
	struct txn_rec rec = {.type = TXN_REC_COMMIT, .u.commit = {.first = t->first, .time = txn_now()}};

	return txn_log(t, &rec, true, &t->commit_lsn); /* space for the install was reserved by each operation */
}

/* Nothing to promise: no change stands, and nobody has a file open that it made. [txn->lock] */
static bool nothing_stands(struct txn *t)
{
	struct txn_wsobj *w, *tmp;

	HASH_ITER (hh, t->ws.objs, w, tmp)
		if (w->created && atomic_load(&w->obj->opens))
			return false;
	return !t->recs.n;
}

/* It is not serializable, or its snapshot came too late. [txn->lock] */
static void cancel(struct txn *t, int r)
{
	if (r != -ECANCELED)
		return; /* it could not be told: still open */
	pthread_mutex_lock(&t->eng->lock);
	t->eng->st.rolled_back++;
	pthread_mutex_unlock(&t->eng->lock);
	txn_discard(t, TXN_ABORTED);
}

/* COMMIT is in the log, the flip is to come: a checkpoint reckons with it from here on. [txn->lock, commit_gate] */
static void await_flip(struct txn *t)
{
	pthread_mutex_lock(&t->eng->lock);
	TAILQ_INSERT_TAIL(&t->eng->flipping, t, install);
	t->flipping = true;
	pthread_mutex_unlock(&t->eng->lock);
}

int txn_commit(struct txn *t)
{
	return txn_commit_with(t, NULL, NULL);
}

int txn_commit_with(struct txn *t, void (*before_flip)(void *arg), void *arg)
{
	struct txn_engine *eng = t->eng;
	bool inline_install = eng->cfg.no_threads, prepared;
	int r;

	pthread_mutex_lock(&t->lock);
	prepared = txn_state(t) == TXN_PREPARED;
	r = prepared || txn_state(t) == TXN_ACTIVE ? txn_writable(eng) : -EINVAL;
	if (!r && t->expecting && t->version != t->expected)
		r = -EAGAIN;
	t->expecting = false;
	if (r)
		goto out;
	if (!prepared && nothing_stands(t)) {
		r = txn_certify(t); /* what it read must have been true at one moment all the same */
		if (r) {
			cancel(t, r);
			goto out;
		}
		txn_discard(t, TXN_ENDED);
		pthread_mutex_lock(&eng->lock);
		eng->st.committed++;
		pthread_mutex_unlock(&eng->lock);
		goto out;
	}
	r = prepared ? 0 : txn_sync_plain(t);
	if (r)
		goto out;
	pthread_rwlock_rdlock(&eng->commit_gate);
	r = prepared ? 0 : txn_certify(t);
	if (r) {
		pthread_rwlock_unlock(&eng->commit_gate);
		cancel(t, r);
		goto out;
	}
	r = log_commit(t);
	if (r && !prepared)
		txn_uncertify(t);
	if (!r) {
		r = wal_force(eng->wal, t->commit_lsn); /* I1 */
		if (r) {
			/* It may or may not be durable: nobody can know before recovery. */
			txn_engine_fail(eng, "the log cannot be made durable: %s", strerror(-r));
			r = -EIO;
		} else {
			/* ---- commit point: COMMIT is durable (I2) ---- */
			await_flip(t);
		}
	}
	pthread_rwlock_unlock(&eng->commit_gate);
	if (!r && before_flip)
		before_flip(arg); /* without the gate: who waits for it may hold what this waits for */
	if (!r) {
		flip(t);
		txn_isolation_end(t);
	}
out:
	pthread_mutex_unlock(&t->lock);
	if (!r && inline_install && txn_state(t) == TXN_COMMITTED) {
		int s = txn_install_reserved(t);

		if (s) /* it is committed all the same */
			txn_engine_fail(eng, "transaction %llu is committed but cannot be installed: %s",
			                (unsigned long long)t->id, strerror(-s));
		else
			txn_finish(t);
	}
	return r;
}

/* Installed: home is the truth again; leave marks (I5), log END. */
int txn_finish(struct txn *t)
{
	struct txn_rec rec = {.type = TXN_REC_END};
	struct txn_engine *eng = t->eng;
	struct base_vec files = {0};

	staged_leftovers(t, &files);
	pthread_rwlock_wrlock(&eng->ns);
	txn_ws_detach(&t->ws, t->commit_lsn);
	atomic_store(&t->state, TXN_ENDED);
	pthread_rwlock_unlock(&eng->ns);
	txn_waits_release(t);
	sweep(eng, &files);
	if (!txn_engine_error(eng))
		txn_log(t, &rec, true, NULL); /* saves nothing but a reader's time; redo is repeatable without */
	txn_discharge(t);
	txn_give_back(t);
	pthread_mutex_lock(&eng->lock);
	if (base_vec_push(&eng->ended, t->commit_lsn) || base_vec_push(&eng->ended, t->first)) {
		eng->ended.n &= ~(size_t)1;
		eng->ended_pin = base_min_u64(eng->ended_pin, t->first); /* no memory: the log keeps what it has */
	}
	TAILQ_REMOVE(t->implicit ? &eng->implicits : &eng->installs, t, install);
	eng->implicit -= t->implicit;
	eng->finished++;
	pthread_cond_broadcast(&eng->installed);
	if (wal_end(eng->wal) - eng->last_checkpoint > eng->cfg.checkpoint_bytes ||
	    eng->st.logged_objects > TXN_MARKS_MAX)
		pthread_cond_signal(&eng->timer);
	pthread_mutex_unlock(&eng->lock);
	txn_put(t);
	return 0;
}

static int implicit_once(struct txn_engine *eng, int (*op)(struct txn *t, void *arg), void *arg)
{
	struct txn *t;
	int r;

	r = txn_new(eng, true, &t);
	if (r)
		return r;
	pthread_mutex_lock(&t->lock);
	r = op(t, arg);
	/* Whatever makes COMMIT durable, redo then finds what it names: a new file renamed over a logged one. */
	if (!r && t->recs.n)
		r = txn_sync_plain(t);
	if (!r && t->recs.n)
		r = txn_certify(t);
	if (!r && t->recs.n)
		r = log_commit(t); /* as durable as a plain operation: fsync forces it */
	if (!r && t->forced) {
		r = wal_force(eng->wal, t->commit_lsn); /* I1 */
		if (r)
			txn_engine_fail(eng, "the log cannot be made durable: %s", strerror(-r));
	}
	if (r || !t->recs.n) {
		txn_discard(t, TXN_ABORTED);
		pthread_mutex_lock(&eng->lock);
		eng->implicit--;
		eng->finished++;
		pthread_cond_broadcast(&eng->installed);
		pthread_mutex_unlock(&eng->lock);
		pthread_mutex_unlock(&t->lock);
	} else {
		flip(t);
		pthread_mutex_unlock(&t->lock);
		r = txn_install_reserved(t);
		if (r) {
			txn_engine_fail(eng, "a logged change of \"%s\" cannot be carried out: %s", t->ws.trouble,
			                strerror(-r));
			/* Where the engine's end finds it: until then its version is what everyone sees. */
			pthread_mutex_lock(&eng->lock);
			TAILQ_REMOVE(&eng->implicits, t, install);
			TAILQ_INSERT_TAIL(&eng->installs, t, install);
			pthread_mutex_unlock(&eng->lock);
		} else {
			r = txn_finish(t);
		}
	}
	txn_put(t);
	return r;
}

int txn_implicitly(struct txn_engine *eng, int (*op)(struct txn *t, void *arg), void *arg)
{
	int r;

	pthread_rwlock_rdlock(&eng->commit_gate);
	r = implicit_once(eng, op, arg);
	pthread_rwlock_unlock(&eng->commit_gate);
	return r;
}
