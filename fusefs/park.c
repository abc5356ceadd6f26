/*
 * park.c - requests that wait for someone else's transaction, without a thread.
 *
 * Parked is: the request's bytes are kept, and so is its handle in libfuse, for the kernel's interrupts; the handler has
 * returned without an answer. Resumed is: the handle is dropped without an answer and the bytes go through libfuse again, on
 * a thread of the pool here: the handler simply runs once more, under the same unique number.
 *
 * What may be parked: requests on regular files. A write holds its pages (readers of those wait with it), and like changes of
 * attributes its inode: stall.c sees to it that no directory waits with it. Operations on names hold their directory; again.c has them.
 * Waits for an install are the exception: everything parks for them, because they end by themselves.
 */
#include "fusefs/park.h"

#include <linux/fuse.h>

_Thread_local struct fusefs_parked *fusefs_resumed;

/* ---- a parked request ---- */

struct fusefs_parked *fusefs_parked_new(struct fusefs *fs, fuse_req_t req)
{
	struct fusefs_parked *p = calloc(1, sizeof(*p));
	void *copy = p ? malloc(fusefs_raw.len) : NULL;

	if (!copy) {
		free(p);
		return NULL;
	}
	memcpy(copy, fusefs_raw.bytes, fusefs_raw.len);
	p->fs = fs;
	p->req = req;
	p->raw = fusefs_raw;
	p->raw.bytes = copy;
	p->refs = 1;
	return p;
}

void fusefs_parked_put(struct fusefs_parked *p)
{
	struct fusefs_park *park = p->fs->park;
	bool last;

	pthread_mutex_lock(&park->lock);
	last = --p->refs == 0;
	if (last && p->all.le_prev) {
		park->holders -= p->dir != NULL;
		LIST_REMOVE(p, all);
		if (LIST_EMPTY(&park->all))
			pthread_cond_broadcast(&park->empty);
	}
	pthread_mutex_unlock(&park->lock);
	if (!last)
		return;
	txn_obstacle_drop(&p->c);
	fusefs_tx_put(p->tx);
	if (p->dir)
		fusefs_node_put(p->fs, p->dir);
	free((void *)(uintptr_t)p->raw.bytes);
	free(p);
}

bool fusefs_park_in(struct fusefs_parked *p)
{
	struct fusefs_park *park = p->fs->park;
	bool in;

	pthread_mutex_lock(&park->lock);
	in = !park->stopping;
	if (in && !p->all.le_prev) {
		LIST_INSERT_HEAD(&park->all, p, all);
		park->holders += p->dir != NULL;
		if (p->dir && park->holders == 1)
			pthread_cond_signal(&park->holder);
	}
	pthread_mutex_unlock(&park->lock);
	return in;
}

void fusefs_parked_ready_locked(struct fusefs_parked *p, int why)
{
	p->why = why;
	TAILQ_INSERT_TAIL(&p->fs->park->ready, p, ready);
	pthread_cond_signal(&p->fs->park->more);
}

void fusefs_parked_ready(struct fusefs_parked *p, int why)
{
	pthread_mutex_t *lock = &p->fs->park->lock; /* p may be gone once it is ready */

	pthread_mutex_lock(lock);
	fusefs_parked_ready_locked(p, why);
	pthread_mutex_unlock(lock);
}

/* A WRITE's arguments, or NULL. */
static const struct fuse_write_in *write_of(const struct fusefs_parked *p, fuse_ino_t *ino)
{
	const struct fuse_in_header *in = p->raw.bytes;

	if (in->opcode != FUSE_WRITE || p->raw.len < sizeof(*in) + sizeof(struct fuse_write_in))
		return NULL;
	*ino = in->nodeid;
	return (const void *)(in + 1);
}

unsigned fusefs_parked_writes(struct fusefs *fs, fuse_ino_t ino, void (*fn)(void *arg, off_t off, size_t size), void *arg)
{
	struct fusefs_park *park = fs->park;
	struct fusefs_parked *p;
	unsigned n = 0;

	pthread_mutex_lock(&park->lock);
	LIST_FOREACH(p, &park->all, all)
	{
		fuse_ino_t of;
		const struct fuse_write_in *w = write_of(p, &of);

		if (!w || of != ino || !w->size)
			continue;
		if (fn)
			fn(arg, (off_t)w->offset, w->size);
		n++;
	}
	pthread_mutex_unlock(&park->lock);
	return n;
}

/* A page of it may be what a commit's invalidation waits for: it must not wait for that commit. */
static void tell_barrier(struct fusefs *fs, const struct fusefs_parked *p)
{
	fuse_ino_t ino;
	const struct fuse_write_in *w = write_of(p, &ino);

	if (w && w->size)
		fusefs_hold_write_parked(fs, fusefs_node(fs, ino), (off_t)w->offset, w->size);
}

/* By the engine, under its lock. */
static void on_wake(struct txn_waiter *w, int why)
{
	fusefs_parked_ready((struct fusefs_parked *)w, why);
}

/* By libfuse, which holds the request's lock: whoever answers takes this function away first, and so waits for it. */
static void on_interrupt(fuse_req_t req UNUSED, void *data)
{
	struct fusefs_parked *p = data;

	atomic_store(&p->interrupted, true);
	if (txn_wait_cancel(p->fs->eng, &p->w))
		fusefs_parked_ready(p, -EINTR);
}

void fusefs_conflict_copy(struct txn_obstacle *to, const struct txn_obstacle *from)
{
	txn_obstacle_drop(to);
	*to = *from;
	if (to->holder)
		txn_get(to->holder);
	txn_obj_get(to->obj);
}

struct timespec fusefs_after(double seconds)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	if (seconds > 1e9)
		seconds = 1e9;
	t.tv_sec += (time_t)seconds;
	t.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return t;
}

double fusefs_patience(struct fusefs *fs, fuse_req_t req, struct fusefs_tx *tx, const struct txn_obstacle *c)
{
	struct fusefs_tx *own;
	double patience = tx ? fusefs_tx_timeout(tx, fs->lock_timeout) : fs->lock_timeout;

	/* A descriptor from before begin, and the caller's own transaction has the file: it would wait for itself. */
	if (!tx && c->holder && patience > 0 && (own = fusefs_member_of(fs, req))) {
		if (own->txn == c->holder)
			patience = 0;
		fusefs_tx_put(own);
	}
	return patience;
}

int fusefs_park_it(struct fusefs *fs, fuse_req_t req, struct fusefs_tx *tx, struct txn_obstacle *c, double patience,
                   unsigned how)
{
	struct fusefs_parked *p = fusefs_resumed;
	int r;

	if (!p) {
		p = fusefs_parked_new(fs, req);
		if (!p) {
			txn_obstacle_drop(c);
			return -ENOMEM;
		}
		p->w.wake = on_wake;
		p->w.deadline = fusefs_after(patience);
		p->patience = patience;
		p->since = fusefs_after(0);
		if (fusefs_holds_file(p))
			p->dir = fusefs_node_directory(fs, fusefs_node(fs, ((const struct fuse_in_header *)p->raw.bytes)->nodeid));
		if (tx) {
			p->tx = fusefs_tx_get(tx);
			p->w.txn = txn_is_open(tx->txn) ? tx->txn : NULL;
		}
	}
	if (how & FUSEFS_SECOND)
		p->w.deadline = fusefs_after(patience);
	p->req = req;
	p->how = how;
	atomic_store(&p->for_install, how & FUSEFS_INSTALL);
	p->second = p->second || (how & FUSEFS_SECOND);
	fusefs_conflict_copy(&p->c, c);
	if (!fusefs_park_in(p)) {
		txn_obstacle_drop(c);
		r = -ENOTCONN;
	} else {
		tell_barrier(fs, p);
		/* First: from txn_wait on the request may be answered at any moment. */
		fuse_req_interrupt_func(req, on_interrupt, p);
		r = txn_wait(fs->eng, &p->w, c);
		if (r)
			fuse_req_interrupt_func(req, NULL, NULL);
	}
	if (r >= 0) {
		fusefs_resumed = NULL;
		if (r == 1)
			fusefs_parked_ready(p, 0);
	} else {
		if (r == -EBUSY || r == -EDEADLK)
			fusefs_park_refuse(fs, fuse_req_ctx(req), tx, &p->c, p->patience, r);
		if (p != fusefs_resumed)
			fusefs_parked_put(p);
	}
	return r;
}

/* ---- for handlers ---- */

void fusefs_may_wait(void)
{
	txn_obstacle_arm(fusefs_resumed ? &fusefs_resumed->w : NULL);
}

bool fusefs_waited_in_vain(uint64_t *holder)
{
	if (!fusefs_resumed || !fusefs_resumed->expired)
		return false;
	*holder = fusefs_resumed->c.holder ? txn_id(fusefs_resumed->c.holder) : 0;
	return true;
}

/* Before the answer goes out: the client's next request must not find the thing reserved for this one. */
static void tried(struct fusefs *fs)
{
	if (fusefs_resumed)
		txn_wait_done(fs->eng, &fusefs_resumed->w);
}

bool fusefs_wait(struct fusefs *fs, fuse_req_t req, struct fusefs_tx *tx, const struct fusefs_handle *h, unsigned how,
                 int *r)
{
	bool installing = *r == TXN_INSTALLING;
	struct txn_obstacle c;
	double patience;

	if (!txn_obstacle_take(&c)) {
		tried(fs);
		return false;
	}
	if (!installing && *r != -EBUSY) {
		txn_obstacle_drop(&c);
		tried(fs);
		return false;
	}
	patience = fusefs_patience(fs, req, tx, &c);
	if (!installing && (patience <= 0 || (how & FUSEFS_AT_ONCE) ||
	                    (h && h->lost_to && c.holder && h->lost_to == txn_id(c.holder)))) {
		if (!(how & FUSEFS_QUIET))
			fusefs_park_refuse(fs, fuse_req_ctx(req), tx, &c, h && h->lost_to ? patience : 0, -EBUSY);
		txn_obstacle_drop(&c);
		tried(fs);
		return false;
	}
	*r = fusefs_park_it(fs, req, tx, &c, patience, how | (installing ? FUSEFS_INSTALL : 0));
	return *r >= 0;
}

/* ---- refusals ---- */

void fusefs_park_refuse(struct fusefs *fs, const struct fuse_ctx *who, struct fusefs_tx *tx,
                        const struct txn_obstacle *c, double patience, int r)
{
	struct fusefs_caller caller = {.pid = who->pid, .uid = who->uid, .gid = who->gid};
	CLEANUP_FREE char *dir = NULL;
	CLEANUP_FREE char *path = NULL;

	if (!who->pid)
		return;
	if (txn_obj_path(fs->eng, tx ? tx->txn : NULL, c->obj, &dir))
		dir = NULL;
	if (asprintf(&path, "%s%s%s", dir ? dir : "?", c->name[0] && dir && *dir ? "/" : "", c->name) < 0)
		path = NULL;
	fusefs_tx_tell_conflict(fs->reg, &caller, path ? path : "?", c->holder, patience, r);
}

/* ---- the pool ---- */

static void answer(struct fusefs_parked *p, int r)
{
	if (r == -EBUSY || r == -EDEADLK)
		fusefs_park_refuse(p->fs, fuse_req_ctx(p->req), p->tx, &p->c, p->patience, r);
	fuse_reply_err(p->req, -r);
	txn_wait_done(p->fs->eng, &p->w);
	fusefs_parked_put(p);
}

static void run_again(struct fusefs_parked *p)
{
	struct fuse_buf buf = {.size = p->raw.len, .mem = (void *)(uintptr_t)p->raw.bytes};

	fusefs_resumed = p;
	fusefs_raw = p->raw;
	fuse_reply_none(p->req); /* frees it: the kernel hears nothing */
	fuse_session_process_buf(p->fs->se, &buf);
	if (!fusefs_resumed)
		return; /* it waits again, or has done so already: not ours any more */
	fusefs_resumed = NULL;
	txn_wait_done(p->fs->eng, &p->w);
	fusefs_parked_put(p);
}

static void *resumer(void *arg)
{
	struct fusefs *fs = arg;
	struct fusefs_park *park = fs->park;
	struct fusefs_parked *p;

	pthread_mutex_lock(&park->lock);
	for (;;) {
		int why;

		while (!(p = TAILQ_FIRST(&park->ready)) && !park->stopped)
			pthread_cond_wait(&park->more, &park->lock);
		if (!p)
			break;
		TAILQ_REMOVE(&park->ready, p, ready);
		why = park->stopping ? -ENOTCONN : p->why;
		pthread_mutex_unlock(&park->lock);
		fuse_req_interrupt_func(p->req, NULL, NULL);
		if (!why && (atomic_load(&p->interrupted) || fuse_req_interrupted(p->req)))
			why = -EINTR;
		if (why == -EBUSY && (p->how & FUSEFS_RERUN)) {
			p->expired = true;
			why = 0;
		}
		if (why)
			answer(p, why);
		else
			run_again(p);
		pthread_mutex_lock(&park->lock);
	}
	pthread_mutex_unlock(&park->lock);
	return NULL;
}

int fusefs_park_start(struct fusefs *fs)
{
	struct fusefs_park *park = calloc(1, sizeof(*park));

	if (!park)
		return -ENOMEM;
	pthread_mutex_init(&park->lock, NULL);
	pthread_cond_init(&park->more, NULL);
	pthread_cond_init(&park->empty, NULL);
	base_cond_init(&park->holder);
	TAILQ_INIT(&park->ready);
	fs->park = park;
	for (; park->started < FUSEFS_RESUMERS; park->started++) {
		int r = pthread_create(&park->thread[park->started], NULL, resumer, fs);

		if (r)
			return -r;
	}
	return fusefs_stall_start(fs);
}

void fusefs_park_stop(struct fusefs *fs)
{
	struct fusefs_park *park = fs->park;
	struct fusefs_parked *p;

	if (!park)
		return;
	pthread_mutex_lock(&park->lock);
	park->stopping = true;
	pthread_cond_broadcast(&park->holder);
	for (;;) {
		LIST_FOREACH(p, &park->all, all)
			if (!p->tried)
				break;
		if (!p)
			break;
		p->tried = true;
		p->refs++;
		pthread_mutex_unlock(&park->lock);
		if (txn_wait_cancel(fs->eng, &p->w))
			fusefs_parked_ready(p, -ENOTCONN);
		else
			fusefs_again_interrupted(p);
		fusefs_parked_put(p);
		pthread_mutex_lock(&park->lock);
	}
	while (!LIST_EMPTY(&park->all))
		pthread_cond_wait(&park->empty, &park->lock);
	park->stopped = true;
	pthread_cond_broadcast(&park->more);
	pthread_mutex_unlock(&park->lock);
	while (park->started > 0)
		pthread_join(park->thread[--park->started], NULL);
	fusefs_stall_stop(fs);
	fusefs_agains_free(fs);
}

void fusefs_park_free(struct fusefs *fs)
{
	struct fusefs_park *park = fs->park;

	if (!park)
		return;
	fusefs_stall_free(fs);
	pthread_mutex_destroy(&park->lock);
	pthread_cond_destroy(&park->holder);
	pthread_cond_destroy(&park->more);
	pthread_cond_destroy(&park->empty);
	free(park);
	fs->park = NULL;
}
