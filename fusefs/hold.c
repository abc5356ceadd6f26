/*
 * hold.c - the moment of a commit, for contents that the kernel caches: they go from the old version to the new one for
 * everybody at once.
 *
 *     fusefs_barrier_raise   READs of what the commit changes are kept from here on; then its pages are invalidated
 *     (the flip)
 *     fusefs_barrier_lower   the READs that were kept are answered, with the new version
 *
 * So at the flip there is no page with old contents, and none on its way: a page that the kernel has belongs to a READ
 * that is kept, and is empty. What was read before the flip is old, what is read after it is new.
 *
 * The kernel's invalidation waits, not to be interrupted, for every page in its range whose READ is unanswered. Hence:
 *   - It is sent for the pages between those of the READs that are kept.
 *   - A READ that was under way when the barrier was raised is answered by its worker, and the invalidation, which finds its
 *     pages, waits for just that.
 *   - A READ that comes for pages which are being invalidated may be the one that this waits for, or may have come behind
 *     it. Its worker waits a moment: if the invalidation ends, the pages are this READ's, and it is kept. Else it is
 *     answered with the old version, and the node is invalidated once more.
 *   - A WRITE of a part of a page locks it when the kernel does not have its contents, and may be parked until this very commit
 * is done. Whether it has, we are not told; so that one page is left out, and invalidated after the flip.
 *   - The passes run on threads of their own (sweepers). A WRITE that is to be parked while its page is being invalidated
 * breaks the barrier: the commit goes on, the WRITE is answered after it, and the sweeper comes back.
 * So no commit waits for the kernel for long: a barrier that is not done after a second lets all its READs go (the dog), and
 * the flip happens. A barrier that did not hold makes a moment's worth of mixed caches, which is counted.
 */
#include "base/map.h"
#include "fusefs/park.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define END ((off_t)INT64_MAX)  /* of every file */
#define SECOND 1000000000LL
#define LIMIT SECOND            /* that a barrier may take ... */
#define LIMIT_NODE 20000        /* ... and so much more for each node */
#define WAIT 1000000            /* that a READ waits for an invalidation of its pages to end */
#define PAUSE 50000             /* between two passes over a node, at first */
#define HELD_MAX 128            /* kept at a time; the kernel has no more than FUSEFS_BACKGROUND readaheads under way */

struct held {
	TAILQ_ENTRY(held) link;
	fuse_req_t req;
	struct fusefs_handle *h; /* the kernel releases it after the answer */
	size_t size;
	off_t off;
};
TAILQ_HEAD(held_list, held);

/* One object of a barrier. [holding.lock], but for what is constant */
struct fusefs_hold {
	UT_hash_handle hh;   /* in holding.objs by obj */
	struct txn_obj *obj; /* constant; reference */
	struct fusefs_barrier *barrier;
	struct fusefs_hold *next; /* constant: of the same barrier */
	struct held_list held;
	const struct fusefs_node *running; /* whose pages from .. to are being invalidated, or NULL */
	off_t from, to;
	bool dirty; /* an old page may have come behind the invalidation */
};

struct fusefs_barrier {
	LIST_ENTRY(fusefs_barrier) link; /* [holding.lock] */
	const struct fusefs_tx *tx;      /* whose own nodes show the new version already */
	struct fusefs_hold *holds;       /* constant once raised */
	int64_t until;                   /* [holding.lock] */
	bool over;                       /* [holding.lock] nothing is kept any more */
	bool late;                       /* [holding.lock] pages must be invalidated after the flip ... */
	bool mixed;                      /* [holding.lock] ... because it did not work */
	struct fusefs_notices list;      /* the sweeper's: nodes with old pages, with references */
	bool sweeping;                   /* [holding.lock] it is not done yet */
	bool orphan;                     /* [holding.lock] the sweeper frees it */
	TAILQ_ENTRY(fusefs_barrier) sweep; /* [holding.lock] in holding.sweeps */
};

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

/* ---- READs ---- */

void fusefs_read_now(fuse_req_t req, struct fusefs_handle *h, size_t size, off_t off)
{
	CLEANUP_FREE char *buf = malloc(size ? size : 1);
	ssize_t n;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	n = txn_read(h->file, buf, size, (uint64_t)off);
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

static void let_go(struct held_list *list)
{
	struct held *r;

	while ((r = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, r, link);
		fusefs_read_now(r->req, r->h, r->size, r->off);
		free(r);
	}
}

/* [holding.lock] What the barrier keeps, into a list. */
static void take_held(struct fusefs *fs, struct fusefs_barrier *b, struct held_list *out)
{
	struct held *r;

	b->over = true;
	for (struct fusefs_hold *o = b->holds; o; o = o->next) {
		TAILQ_FOREACH (r, &o->held, link)
			fs->holding.held--;
		TAILQ_CONCAT(out, &o->held, link);
	}
	pthread_cond_broadcast(&fs->holding.changed);
}

/* [holding.lock] The object's barrier, as far as it concerns this node. */
static struct fusefs_hold *find(struct fusefs *fs, const struct fusefs_node *n)
{
	struct fusefs_hold *o;

	HASH_FIND_PTR(fs->holding.objs, &n->obj, o);
	return o && !o->barrier->over && o->barrier->tx != n->tx && !fusefs_is_frozen(n) ? o : NULL;
}

static off_t page_floor(off_t at)
{
	return at & ~(off_t)(sysconf(_SC_PAGESIZE) - 1);
}

static off_t page_ceil(off_t at)
{
	return page_floor(at + sysconf(_SC_PAGESIZE) - 1);
}

/* [holding.lock] Wait until the pages are not being invalidated. NULL: there is nothing to keep the READ for. */
static struct fusefs_hold *await_pass(struct fusefs *fs, const struct fusefs_node *n, off_t from, off_t to)
{
	int64_t until = 0;
	struct fusefs_hold *o;
	struct timespec ts;

	while ((o = find(fs, n)) && o->running == n && from < o->to && to > o->from) {
		if (!until) {
			until = now() + WAIT;
			ts = (struct timespec){until / SECOND, until % SECOND};
		} else if (now() >= until) {
			o->dirty = true;
			return NULL;
		}
		pthread_cond_timedwait(&fs->holding.changed, &fs->holding.lock, &ts);
	}
	return o;
}

bool fusefs_hold_read(struct fusefs *fs, fuse_req_t req, struct fusefs_handle *h, size_t size, off_t off, int flags)
{
	struct fusefs_hold *o;
	struct held *r = NULL;

	/* Ordered against the barrier: it counts first, then invalidates; the page was there before we look. */
	if (!atomic_load(&fs->holding.count))
		return false;
	pthread_mutex_lock(&fs->holding.lock);
	if (h->direct || flags & O_DIRECT) {
		/* It has no pages, and comes back before the flip; unless it belongs to a private mapping. */
		o = find(fs, h->node);
		if (o)
			o->barrier->late = true;
	} else if ((o = await_pass(fs, h->node, page_floor(off), page_ceil(off + (off_t)size)))) {
		r = fs->holding.held < HELD_MAX ? malloc(sizeof(*r)) : NULL;
		if (r) {
			*r = (struct held){.req = req, .h = h, .size = size, .off = off};
			TAILQ_INSERT_TAIL(&o->held, r, link);
			fs->holding.held++;
		} else {
			o->dirty = o->barrier->late = o->barrier->mixed = true;
		}
	}
	pthread_mutex_unlock(&fs->holding.lock);
	return r;
}

/* ---- barriers ---- */

struct fusefs_barrier *fusefs_barrier_new(const struct fusefs_tx *tx)
{
	struct fusefs_barrier *b = calloc(1, sizeof(*b));

	if (b) {
		b->tx = tx;
		b->late = true; /* until it is raised */
	}
	return b;
}

int fusefs_barrier_add(struct fusefs_barrier *b, struct txn_obj *obj)
{
	struct fusefs_hold *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->obj = txn_obj_get(obj);
	o->barrier = b;
	TAILQ_INIT(&o->held);
	o->next = b->holds;
	b->holds = o;
	return 0;
}

/* The nodes of its objects that show the old version, with references. */
static void collect(struct fusefs *fs, const struct fusefs_barrier *b, struct fusefs_notices *list)
{
	pthread_mutex_lock(&fs->nodes);
	for (struct fusefs_hold *o = b->holds; o; o = o->next)
		for (struct fusefs_node *m = *txn_obj_user(o->obj); m; m = m->peer)
			if (m->tx != b->tx && !fusefs_is_frozen(m))
				fusefs_notice_inode_locked(list, m, 0, 0);
	pthread_mutex_unlock(&fs->nodes);
}

/* [holding.lock] From now on READs are kept. */
static int start(struct fusefs *fs, struct fusefs_barrier *b)
{
	struct fusefs_holding *g = &fs->holding;

	LIST_INSERT_HEAD(&g->barriers, b, link);
	b->until = now() + LIMIT;
	if (g->dog_sleeps)
		pthread_cond_signal(&g->dog_wakes);
	for (struct fusefs_hold *o = b->holds; o; o = o->next) {
		HASH_ADD_PTR(g->objs, obj, o);
		if (!o->hh.tbl)
			return -ENOMEM;
		atomic_fetch_add(&g->count, 1);
	}
	return 0;
}

struct gap {
	off_t from, to; /* what may be invalidated next */
	bool moved;
};

/* Not from start to end. */
static void leave_out(struct gap *g, off_t start, off_t end)
{
	if (end <= g->from)
		return;
	if (start <= g->from) {
		g->from = end;
		g->moved = true;
	} else if (start < g->to) {
		g->to = start;
	}
}

static void leave_out_write(void *arg, off_t off, size_t size)
{
	off_t last = page_floor(off + (off_t)size - 1);

	if (off > last || off + (off_t)size < page_ceil(last + 1))
		leave_out(arg, last, page_ceil(last + 1));
}

/* [holding.lock] The next range, from g->from on, without what the kernel would wait for us in. */
static void next_gap(struct fusefs *fs, struct fusefs_hold *o, const struct fusefs_node *n, struct gap *g)
{
	struct held *r;

	do {
		g->moved = false;
		g->to = END;
		TAILQ_FOREACH (r, &o->held, link)
			if (r->h->node == n)
				leave_out(g, page_floor(r->off), page_ceil(r->off + (off_t)r->size));
		if (fusefs_parked_writes(fs, fusefs_ino(fs, n), leave_out_write, g) && !o->barrier->late)
			o->barrier->late = true; /* a page that may have been left out is invalidated after the flip */
	} while (g->moved);
}

/* Once over a node's pages. Is it certain now that the kernel has nothing old? */
static bool pass(struct fusefs *fs, struct fusefs_hold *o, const struct fusefs_node *n)
{
	struct fusefs_holding *g = &fs->holding;
	struct gap gap = {0};
	bool clean;

	pthread_mutex_lock(&g->lock);
	o->dirty = false;
	for (; gap.from < END && !o->barrier->over; gap.from = gap.to) {
		next_gap(fs, o, n, &gap);
		if (gap.from >= END)
			break;
		o->running = n;
		o->from = gap.from;
		o->to = gap.to;
		pthread_mutex_unlock(&g->lock);
		if (!atomic_load_explicit(&fs->gone, memory_order_relaxed))
			fuse_lowlevel_notify_inval_inode(fs->se, fusefs_ino(fs, n), gap.from,
			                                 gap.to == END ? 0 : gap.to - gap.from);
		pthread_mutex_lock(&g->lock);
		o->running = NULL;
		pthread_cond_broadcast(&g->changed);
	}
	clean = !o->dirty || o->barrier->over;
	pthread_mutex_unlock(&g->lock);
	return clean;
}

static void clean(struct fusefs *fs, struct fusefs_hold *o, const struct fusefs_node *n)
{
	long pause = PAUSE;

	while (!pass(fs, o, n)) {
		/* READs that come now are kept, so the next pass has a chance. */
		nanosleep(&(struct timespec){.tv_nsec = pause}, NULL);
		pause += pause < 100 * PAUSE ? pause : 0;
	}
}

/* All its nodes. Ones that come up meanwhile have no pages yet. */
static void sweep(struct fusefs *fs, struct fusefs_barrier *b)
{
	for (size_t i = 0; i < b->list.n; i++) {
		struct fusefs_node *n = b->list.v[i].node;
		struct fusefs_hold *o;

		pthread_mutex_lock(&fs->holding.lock);
		o = find(fs, n);
		pthread_mutex_unlock(&fs->holding.lock);
		if (o)
			clean(fs, o, n);
		fusefs_node_put(fs, n);
	}
	free(b->list.v);
}

static void barrier_free(struct fusefs_barrier *b)
{
	struct fusefs_hold *o, *next;

	for (o = b->holds; o; o = next) {
		next = o->next;
		txn_obj_put(o->obj);
		free(o);
	}
	free(b);
}

static void *sweeper(void *arg)
{
	struct fusefs *fs = arg;
	struct fusefs_holding *g = &fs->holding;
	struct fusefs_barrier *b;

	pthread_mutex_lock(&g->lock);
	for (;;) {
		while (!(b = TAILQ_FIRST(&g->sweeps)) && !g->stop)
			pthread_cond_wait(&g->sweep, &g->lock);
		if (!b)
			break;
		TAILQ_REMOVE(&g->sweeps, b, sweep);
		g->idle--;
		pthread_mutex_unlock(&g->lock);
		sweep(fs, b);
		pthread_mutex_lock(&g->lock);
		g->idle++;
		b->sweeping = false;
		pthread_cond_broadcast(&g->changed);
		if (b->orphan) {
			pthread_mutex_unlock(&g->lock);
			barrier_free(b);
			pthread_mutex_lock(&g->lock);
		}
	}
	g->sweepers--;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
	return NULL;
}

/* [holding.lock] One that is free, now: another one may have to wait for its own commit. */
static bool have_sweeper(struct fusefs *fs)
{
	struct fusefs_holding *g = &fs->holding;
	struct fusefs_barrier *b;
	pthread_attr_t attr;
	unsigned busy = 0;
	pthread_t thread;
	int r;

	TAILQ_FOREACH (b, &g->sweeps, sweep)
		busy++;
	if (g->idle > busy)
		return true;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attr, sweeper, fs);
	pthread_attr_destroy(&attr);
	g->sweepers += !r;
	g->idle += !r;
	return !r;
}

void fusefs_barrier_raise(struct fusefs *fs, struct fusefs_barrier *b)
{
	struct fusefs_holding *g = &fs->holding;

	if (!b->holds)
		return;
	pthread_mutex_lock(&g->lock);
	b->late = b->mixed = start(fs, b);
	pthread_mutex_unlock(&g->lock);
	collect(fs, b, &b->list); /* now that they cannot become more */
	if (!b->list.n)
		return;
	pthread_mutex_lock(&g->lock);
	b->until += (int64_t)b->list.n * LIMIT_NODE;
	if (have_sweeper(fs)) {
		b->sweeping = true;
		TAILQ_INSERT_TAIL(&g->sweeps, b, sweep);
		pthread_cond_signal(&g->sweep);
		while (b->sweeping && !b->over)
			pthread_cond_wait(&g->changed, &g->lock);
		pthread_mutex_unlock(&g->lock);
	} else {
		pthread_mutex_unlock(&g->lock);
		sweep(fs, b);
	}
}

void fusefs_hold_write_parked(struct fusefs *fs, const struct fusefs_node *n, off_t off, size_t size)
{
	struct held_list list = TAILQ_HEAD_INITIALIZER(list);
	struct fusefs_hold *o;
	struct gap gap = {0};

	if (!atomic_load(&fs->holding.count))
		return;
	pthread_mutex_lock(&fs->holding.lock);
	o = find(fs, n);
	if (o && o->running == n) {
		gap.from = o->from;
		gap.to = o->to;
		leave_out_write(&gap, off, size);
		if (gap.from != o->from || gap.to != o->to) {
			o->barrier->late = o->barrier->mixed = true;
			take_held(fs, o->barrier, &list);
		}
	}
	pthread_mutex_unlock(&fs->holding.lock);
	let_go(&list);
}

bool fusefs_barrier_lower(struct fusefs *fs, struct fusefs_barrier *b)
{
	struct fusefs_holding *g = &fs->holding;
	struct held_list list = TAILQ_HEAD_INITIALIZER(list);
	bool late;

	pthread_mutex_lock(&g->lock);
	take_held(fs, b, &list);
	for (struct fusefs_hold *o = b->holds; o; o = o->next)
		if (o->hh.tbl) {
			HASH_DEL(g->objs, o);
			atomic_fetch_sub(&g->count, 1);
		}
	if (b->until)
		LIST_REMOVE(b, link);
	late = b->late;
	if (b->mixed)
		atomic_fetch_add(&g->mixed, 1);
	pthread_mutex_unlock(&g->lock);
	let_go(&list);
	/* The sweeper has gone home long ago; or it waits for a WRITE, which may wait for somebody else by now: not with us. */
	pthread_mutex_lock(&g->lock);
	b->orphan = b->sweeping;
	if (b->orphan)
		b = NULL;
	pthread_mutex_unlock(&g->lock);
	if (b)
		barrier_free(b);
	return !late;
}

/* ---- the dog ---- */

/* [holding.lock] */
static struct fusefs_barrier *next_due(struct fusefs_holding *g)
{
	struct fusefs_barrier *b, *first = NULL;

	LIST_FOREACH (b, &g->barriers, link)
		if (!b->over && (!first || b->until < first->until))
			first = b;
	return first;
}

static void *dog_run(void *arg)
{
	struct fusefs *fs = arg;
	struct fusefs_holding *g = &fs->holding;

	pthread_mutex_lock(&g->lock);
	while (!g->stop) {
		struct held_list list = TAILQ_HEAD_INITIALIZER(list);
		struct fusefs_barrier *b = next_due(g);
		struct timespec ts;

		if (!b) {
			g->dog_sleeps = true;
			pthread_cond_wait(&g->dog_wakes, &g->lock);
			g->dog_sleeps = false;
			continue;
		}
		if (now() < b->until) {
			ts = (struct timespec){b->until / SECOND, b->until % SECOND};
			pthread_cond_timedwait(&g->dog_wakes, &g->lock, &ts);
			continue;
		}
		b->late = b->mixed = true;
		take_held(fs, b, &list);
		pthread_mutex_unlock(&g->lock);
		base_log(LOG_WARNING, "a commit could not have all caches change at one moment");
		let_go(&list);
		pthread_mutex_lock(&g->lock);
	}
	pthread_mutex_unlock(&g->lock);
	return NULL;
}

int fusefs_holding_start(struct fusefs *fs)
{
	struct fusefs_holding *g = &fs->holding;
	int r;

	LIST_INIT(&g->barriers);
	TAILQ_INIT(&g->sweeps);
	pthread_mutex_init(&g->lock, NULL);
	base_cond_init(&g->changed);
	base_cond_init(&g->dog_wakes);
	base_cond_init(&g->sweep);
	r = pthread_create(&g->dog, NULL, dog_run, fs);
	g->started = !r;
	return -r;
}

void fusefs_holding_stop(struct fusefs *fs)
{
	struct fusefs_holding *g = &fs->holding;

	if (!g->started)
		return;
	pthread_mutex_lock(&g->lock);
	g->stop = true;
	pthread_cond_signal(&g->dog_wakes);
	pthread_cond_broadcast(&g->sweep);
	while (g->sweepers)
		pthread_cond_wait(&g->changed, &g->lock);
	pthread_mutex_unlock(&g->lock);
	pthread_join(g->dog, NULL);
	g->started = false;
	pthread_cond_destroy(&g->changed);
	pthread_cond_destroy(&g->dog_wakes);
	pthread_cond_destroy(&g->sweep);
	pthread_mutex_destroy(&g->lock);
}
