/*
 * prepare.c - two-phase commit, the participant: a transaction whose outcome is someone else's to decide.
 *
 *     ACTIVE --prepare--> PREPARED --commit--> COMMITTED
 *        \ (fails)            \---rollback--> ABORTED
 *            --> ABORTED
 *
 * PREPARE promises what COMMIT does, except that it takes effect: all that redo relies on is durable, and so is the record. From
 * then on the log has the last word: rolling back, too, happens by a durable record (ABORT), and recovery brings back what
 * has neither (in_doubt.c).
 */
#include "txn/private.h"

/* Mark the transaction with the gid, if that is free. [txn->lock] */
static int take_gid(struct txn *t, const char *gid, uid_t uid)
{
	char *copy = strdup(gid);
	struct txn *o;
	int r = copy ? 0 : -ENOMEM;

	pthread_mutex_lock(&t->eng->lock);
	TAILQ_FOREACH (o, &t->eng->open, link)
		if (o->gid && !strcmp(o->gid, gid))
			r = r ? r : -EEXIST;
	if (!r) {
		t->gid = TAKE_PTR(copy);
		t->owner = uid;
		t->prepared = txn_now();
	}
	pthread_mutex_unlock(&t->eng->lock);
	free(copy);
	return r;
}

static int log_prepare(struct txn *t)
{
	struct txn_rec rec = {.type = TXN_REC_PREPARE};
	int r = txn_log_begin(t, false);

	if (r)
		return r;
	rec.u.prepare = (struct txn_rec_prepare){
		.first = t->first, .time = t->prepared, .need = t->need, .uid = t->owner, .gid = t->gid};
	return txn_log(t, &rec, false, NULL); /* no control record: what is left of the log's space is for COMMIT */
}

static int force(struct txn *t)
{
	int r = wal_force(t->eng->wal, t->last);

	if (!r)
		return 0;
	/* It may or may not be durable: nobody can know before recovery. */
	txn_engine_fail(t->eng, "the log cannot be made durable: %s", strerror(-r));
	return -EIO;
}

/* Nobody sees it any more, nor what it has made. [txn->lock] */
static void hide(struct txn *t)
{
	struct txn_wsobj *w, *tmp;

	pthread_rwlock_wrlock(&t->eng->ns);
	HASH_ITER (hh, t->ws.objs, w, tmp)
		if (w->created && !atomic_exchange(&w->obj->dead, true))
			w->hidden = true;
	atomic_store_explicit(&t->state, TXN_PREPARED, memory_order_release);
	pthread_rwlock_unlock(&t->eng->ns);
}

void txn_unhide(struct txn *t)
{
	struct txn_wsobj *w, *tmp;

	HASH_ITER (hh, t->ws.objs, w, tmp)
		if (w->hidden)
			atomic_store(&w->obj->dead, false);
}

int txn_prepare(struct txn *t, const char *gid, uid_t uid)
{
	struct txn_engine *eng = t->eng;
	int r;

	if (!*gid)
		return -EINVAL;
	if (strlen(gid) > TXN_GID_BYTES)
		return -ENAMETOOLONG;
	pthread_mutex_lock(&t->lock);
	if (txn_state(t) != TXN_ACTIVE) {
		pthread_mutex_unlock(&t->lock);
		return -EINVAL;
	}
	r = txn_writable(eng);
	if (!r)
		r = take_gid(t, gid, uid);
	if (!r)
		r = txn_sync_plain(t);
	if (!r)
		r = txn_certify(t); /* from here on it counts as committed */
	if (!r)
		r = log_prepare(t);
	if (!r)
		r = force(t); /* I1 */
	if (!r) {
		hide(t);
		txn_isolation_end(t); /* its view shows what is committed */
	} else {
		pthread_mutex_lock(&eng->lock);
		eng->st.rolled_back++;
		pthread_mutex_unlock(&eng->lock);
		txn_discard(t, TXN_ABORTED);
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

int txn_forget_prepared(struct txn *t)
{
	struct txn_rec rec = {.type = TXN_REC_ABORT};
	int r = txn_writable(t->eng);

	if (!r)
		r = txn_log(t, &rec, true, NULL);
	return r ? r : force(t);
}

/* ---- who is prepared ---- */

int txn_find_prepared(struct txn_engine *eng, const char *gid, struct txn **out)
{
	struct txn *t;

	pthread_mutex_lock(&eng->lock);
	TAILQ_FOREACH (t, &eng->open, link)
		if (t->gid && txn_state(t) == TXN_PREPARED && !strcmp(t->gid, gid))
			break;
	*out = t ? txn_get(t) : NULL;
	pthread_mutex_unlock(&eng->lock);
	return t ? 0 : -ENOENT;
}

int txn_prepared_info(struct txn *t, struct txn_prepared *out)
{
	int r = 0;

	pthread_mutex_lock(&t->lock);
	if (txn_state(t) == TXN_PREPARED)
		*out = (struct txn_prepared){.gid = t->gid, .uid = t->owner, .id = t->id, .changes = t->recs.n, .time = t->prepared};
	else
		r = -EINVAL;
	pthread_mutex_unlock(&t->lock);
	return r;
}

static int by_time(const void *a, const void *b)
{
	const struct txn *x = *(struct txn *const *)a, *y = *(struct txn *const *)b;

	if (base_timespec_before(&x->prepared, &y->prepared))
		return -1;
	return base_timespec_before(&y->prepared, &x->prepared);
}

int txn_each_prepared(struct txn_engine *eng, int (*fn)(void *arg, const struct txn_prepared *p), void *arg)
{
	struct txn **v = NULL, *t;
	size_t n = 0, cap = 0;
	int r = 0;

	pthread_mutex_lock(&eng->lock);
	TAILQ_FOREACH (t, &eng->open, link)
		cap += txn_state(t) == TXN_PREPARED;
	v = calloc(cap + 1, sizeof(struct txn *));
	if (!v)
		r = -ENOMEM;
	TAILQ_FOREACH (t, &eng->open, link)
		if (v && n < cap && txn_state(t) == TXN_PREPARED)
			v[n++] = txn_get(t);
	pthread_mutex_unlock(&eng->lock);
	if (n)
		qsort(v, n, sizeof(struct txn *), by_time);
	for (size_t i = 0; i < n; i++) {
		struct txn_prepared p;

		if (!r && !txn_prepared_info(v[i], &p)) /* else it has ended meanwhile */
			r = fn(arg, &p);
		txn_put(v[i]);
	}
	free(v);
	return r;
}
