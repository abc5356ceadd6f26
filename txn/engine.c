/* engine.c - the engine's life: open (recover), close, error state, statistics. */
#include "txn/private.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>

#define CHECKPOINT_BYTES (64u << 20)
#define CHECKPOINT_SECONDS 30
#define SIZE_OK (1u << 30) /* every filesystem has files of this size */

struct timespec txn_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now;
}

void txn_engine_fail(struct txn_engine *eng, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&eng->lock);
	if (!atomic_load(&eng->failed)) {
		va_start(ap, fmt);
		vsnprintf(eng->error, sizeof(eng->error), fmt, ap);
		va_end(ap);
		atomic_store(&eng->failed, true);
		base_log(LOG_ERR, "read-only from now on: %s; unmount and mount again to recover", eng->error);
	}
	pthread_cond_broadcast(&eng->installed);
	pthread_mutex_unlock(&eng->lock);
	txn_waits_stuck(eng, -EROFS);
}

int txn_writable(struct txn_engine *eng)
{
	return atomic_load_explicit(&eng->failed, memory_order_acquire) ? -EROFS : 0;
}

/* The disk is full: the log could be shorter. */
void txn_want_checkpoint(struct txn_engine *eng)
{
	pthread_mutex_lock(&eng->lock);
	eng->checkpoint_wanted = true;
	pthread_cond_signal(&eng->timer);
	pthread_mutex_unlock(&eng->lock);
}

const char *txn_engine_error(struct txn_engine *eng)
{
	return atomic_load(&eng->failed) ? eng->error : NULL;
}

/*
 * Wait for the install of committed transactions: all: until none is left, else until one more is finished (or none
 * is left). -ENOSPC: the installer is stuck for lack of space; -EROFS: it never will.
 */
int txn_wait_installs(struct txn_engine *eng, bool all)
{
	uint64_t seen;
	int r = 0;

	pthread_mutex_lock(&eng->lock);
	seen = eng->finished;
	if (!all && TAILQ_EMPTY(&eng->installs) && !eng->implicit)
		sched_yield(); /* a rollback is on its way out */
	while (!TAILQ_EMPTY(&eng->installs) || eng->implicit > 0) {
		if (!all && eng->finished != seen)
			break;
		if (atomic_load(&eng->failed))
			r = -EROFS;
		else if (eng->install_stuck)
			r = -ENOSPC;
		if (r)
			break;
		pthread_cond_wait(&eng->installed, &eng->lock);
	}
	pthread_mutex_unlock(&eng->lock);
	return r;
}

int txn_drain(struct txn_engine *eng)
{
	return txn_wait_installs(eng, true);
}

static int engine_locks(struct txn_engine *eng)
{
	pthread_rwlockattr_t fair;

	/* A flip must not starve behind readers. No lock is taken shared twice by one thread. */
	pthread_rwlockattr_init(&fair);
	pthread_rwlockattr_setkind_np(&fair, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&eng->commit_gate, &fair);
	pthread_rwlock_init(&eng->ns, &fair);
	pthread_rwlock_init(&eng->strict_gate, &fair);
	pthread_mutex_init(&eng->certify, NULL);
	txn_history_init(eng);
	pthread_rwlockattr_destroy(&fair);
	pthread_mutex_init(&eng->tab, NULL);
	pthread_mutex_init(&eng->lock, NULL);
	pthread_mutex_init(&eng->checkpoint_lock, NULL);
	base_cond_init(&eng->installed);
	base_cond_init(&eng->work);
	base_cond_init(&eng->timer);
	TAILQ_INIT(&eng->open);
	TAILQ_INIT(&eng->installs);
	TAILQ_INIT(&eng->implicits);
	TAILQ_INIT(&eng->flipping);
	TAILQ_INIT(&eng->marked);
	TAILQ_INIT(&eng->marked_names);
	eng->ended_pin = UINT64_MAX;
	txn_waits_init(eng);
	return 0;
}

static void unmark_all(struct txn_engine *eng)
{
	struct txn_name *e;
	struct txn_obj *obj;

	pthread_rwlock_wrlock(&eng->ns);
	while ((e = TAILQ_FIRST(&eng->marked_names))) {
		TAILQ_REMOVE(&eng->marked_names, e, link);
		HASH_DEL(e->dir->names, e);
		txn_obj_put(e->dir);
		free(e);
	}
	pthread_rwlock_unlock(&eng->ns);
	while ((obj = TAILQ_FIRST(&eng->marked))) {
		TAILQ_REMOVE(&eng->marked, obj, marked_link);
		obj->marked = false;
		txn_obj_put(obj);
	}
}

static void engine_free(struct txn_engine *eng)
{
	txn_waits_free(eng);
	unmark_all(eng);
	txn_history_free(eng);
	base_vec_free(&eng->ended);
	if (eng->root)
		txn_obj_put(eng->root);
	if (eng->wal)
		wal_close(eng->wal);
	pthread_rwlock_destroy(&eng->commit_gate);
	pthread_rwlock_destroy(&eng->strict_gate);
	pthread_mutex_destroy(&eng->certify);
	pthread_rwlock_destroy(&eng->ns);
	pthread_mutex_destroy(&eng->tab);
	pthread_mutex_destroy(&eng->lock);
	pthread_mutex_destroy(&eng->checkpoint_lock);
	pthread_cond_destroy(&eng->installed);
	pthread_cond_destroy(&eng->work);
	pthread_cond_destroy(&eng->timer);
	free(eng);
}

static void stop_threads(struct txn_engine *eng)
{
	if (!eng->threads)
		return;
	pthread_mutex_lock(&eng->lock);
	eng->stopping = true;
	pthread_cond_broadcast(&eng->work);
	pthread_cond_broadcast(&eng->timer);
	pthread_mutex_unlock(&eng->lock);
	pthread_join(eng->installer, NULL);
	pthread_join(eng->checkpointer, NULL);
	wal_warm_stop(eng->wal);
	pthread_join(eng->warmer, NULL);
	eng->threads = false;
}

static void *warmer(void *arg)
{
	wal_warm(((struct txn_engine *)arg)->wal);
	return NULL;
}

static int start_threads(struct txn_engine *eng)
{
	int r = pthread_create(&eng->warmer, NULL, warmer, eng);

	if (r)
		return -r;
	r = pthread_create(&eng->installer, NULL, txn_installer, eng);
	if (r)
		goto fail;
	r = pthread_create(&eng->checkpointer, NULL, txn_checkpointer, eng);
	if (r) {
		pthread_mutex_lock(&eng->lock);
		eng->stopping = true;
		pthread_cond_broadcast(&eng->work);
		pthread_mutex_unlock(&eng->lock);
		pthread_join(eng->installer, NULL);
		goto fail;
	}
	eng->threads = true;
	return 0;
fail:
	wal_warm_stop(eng->wal);
	pthread_join(eng->warmer, NULL);
	return -r;
}

/* Let go of all transactions, as a crash would. */
static void drop_transactions(struct txn_engine *eng)
{
	struct txn_list *lists[] = {&eng->open, &eng->installs};
	struct txn *t;

	TAILQ_FOREACH (t, &eng->open, link) {
		txn_isolation_end(t);
		txn_waits_release(t);
	}
	pthread_rwlock_wrlock(&eng->ns);
	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		while ((t = TAILQ_FIRST(lists[i]))) {
			if (i == 0)
				TAILQ_REMOVE(lists[i], t, link);
			else
				TAILQ_REMOVE(lists[i], t, install);
			txn_ws_detach(&t->ws, 0);
			atomic_store(&t->state, TXN_ABORTED);
			txn_put(t);
		}
	}
	pthread_rwlock_unlock(&eng->ns);
}

int txn_engine_open(const struct txn_config *cfg, struct txn_engine **out, struct txn_recovery *rec, char *err,
                    size_t errlen)
{
	struct wal_options opt = {.segment_size = cfg->segment_size, .create = !cfg->store->sealed};
	struct txn_recovery local = {0};
	struct txn_engine *eng = calloc(1, sizeof(*eng));
	int r;

	if (!eng) {
		snprintf(err, errlen, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	if (!rec)
		rec = &local;
	err[0] = '\0';
	eng->cfg = *cfg;
	if (!eng->cfg.os)
		eng->cfg.os = os_real();
	if (!eng->cfg.checkpoint_bytes)
		eng->cfg.checkpoint_bytes = CHECKPOINT_BYTES;
	if (!eng->cfg.checkpoint_seconds)
		eng->cfg.checkpoint_seconds = CHECKPOINT_SECONDS;
	eng->store = cfg->store;
	eng->so = cfg->store->ops;
	eng->next_oid = eng->next_txid = 1;
	atomic_store(&eng->size_ok, SIZE_OK);
	atomic_store(&eng->plain_gen, 2);
	atomic_store(&eng->synced_gen, 1);
	atomic_store(&eng->forgotten_gen, 1);
	engine_locks(eng);

	eng->root = txn_obj_intern(eng, eng->so->get(eng->so->root(eng->store)));
	if (!eng->root) {
		r = -ENOMEM;
		goto fail;
	}
	r = wal_open(eng->cfg.os, cfg->wal_dirfd, &opt, &eng->wal);
	if (r) {
		if (r == -ENOENT)
			snprintf(err, errlen, "the log is missing: " STORE_STATE_DIR "/wal holds no segment; restore it from a "
			         "backup of the directory");
		else
			snprintf(err, errlen, "cannot open the log in " STORE_STATE_DIR "/wal: %s", strerror(-r));
		goto fail;
	}
	memset(rec, 0, sizeof(*rec));
	r = txn_recover(eng, rec, err, errlen);
	if (r)
		goto fail;
	if (!cfg->no_threads) {
		r = start_threads(eng);
		if (r)
			goto fail;
	}
	*out = eng;
	return 0;
fail:
	if (!err[0])
		snprintf(err, errlen, "%s", strerror(-r));
	drop_transactions(eng); /* those in doubt */
	engine_free(eng);
	return r;
}

int txn_engine_close(struct txn_engine *eng)
{
	struct txn *t;
	int r, first = 0;

	for (;;) {
		pthread_mutex_lock(&eng->lock);
		TAILQ_FOREACH (t, &eng->open, link)
			if (txn_state(t) != TXN_PREPARED) /* those the next engine finds again */
				break;
		if (t)
			txn_get(t);
		pthread_mutex_unlock(&eng->lock);
		if (!t)
			break;
		r = txn_rollback(t);
		if (r && !first)
			first = r;
		txn_put(t);
		if (r)
			break;
	}
	if (!first)
		first = txn_drain(eng);
	if (!first)
		first = txn_checkpoint_at(eng, true); /* -EROFS in the error state: the next recovery has something to do */
	stop_threads(eng);
	txn_engine_abandon(eng);
	return first;
}

void txn_engine_abandon(struct txn_engine *eng)
{
	stop_threads(eng);
	drop_transactions(eng);
	engine_free(eng);
}

void txn_engine_stats(struct txn_engine *eng, struct txn_stats *st)
{
	struct txn *t;

	pthread_mutex_lock(&eng->lock);
	*st = eng->st;
	st->open = st->prepared = st->installs_pending = 0;
	TAILQ_FOREACH (t, &eng->open, link)
		*(txn_state(t) == TXN_PREPARED ? &st->prepared : &st->open) += !t->implicit;
	TAILQ_FOREACH (t, &eng->installs, install)
		st->installs_pending++;
	pthread_mutex_unlock(&eng->lock);
	pthread_mutex_lock(&eng->history.lock);
	st->snapshots = atomic_load(&eng->history.active);
	st->history_nodes = eng->history.nodes;
	st->history_bytes = eng->history.bytes;
	pthread_mutex_unlock(&eng->history.lock);
	st->log_bytes = wal_end(eng->wal) - wal_begin(eng->wal);
}

struct txn_obj *txn_root(struct txn_engine *eng)
{
	return eng->root;
}

int txn_statfs(struct txn_engine *eng, struct statvfs *sv)
{
	return eng->so->statfs(eng->store, sv);
}
