/*
 * again.c - operations on names, and changes of directories' attributes, that wait for someone else's transaction.
 *
 * The kernel holds the directory while such a request is unanswered: parked, it would stop everything else there, and
 * the very commit that frees it. But it is the VFS that can be made to wait. Told ESTALE, it walks the path once more, asks
 * for the attributes of the directory on its way, if those that it has are not valid any more, and sends the operation
 * again. That GETATTR comes from the same thread and holds nothing: it is what is held back until the way is free. From then on
 * the name is reserved for this thread, for a moment, since the VFS does all this only once.
 *
 *     WAITING    told ESTALE, in the engine's queue; the GETATTR is still to come, or is held back
 *     FREE       reserved: the operation may come again
 *     REFUSED    the operation is to be refused when it comes
 *     RUNNING    it came
 *     OVER       to be freed by whoever passes by
 */
#include "fusefs/park.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <sys/syscall.h>

#define HOLD_MS 500   /* so long is the name reserved for an operation that must come again */
#define ARRIVE_S 2.0  /* so long may the kernel take to ask for the attributes */

#define TURN_S 1.0    /* so long may it wait for another one's turn when it has come */

enum state { WAITING, FREE, REFUSED, RUNNING, OVER };

struct fusefs_again {
	struct txn_waiter w; /* first member */
	struct fusefs *fs;
	pid_t tid;
	uint32_t opcode;
	char name[NAME_MAX + 1];
	const struct fusefs_node *on; /* compared only: the directory that the name is in, or without a name the one to change */
	struct fusefs_node *dir; /* reference: whose attributes the kernel asks for on the way there */
	struct fusefs_tx *tx;    /* reference or NULL */
	struct txn_obstacle c;
	double patience;
	struct timespec deadline;
	/* [park->lock] */
	enum state state;
	int why;
	struct timespec expires; /* FREE without a reservation, REFUSED */
	struct fusefs_parked *held;
	unsigned refs;
	LIST_ENTRY(fusefs_again) link;
};

static _Thread_local struct fusefs_again *running; /* the operation that this thread handles has come again */

static uint32_t opcode_of(void)
{
	return ((const struct fuse_in_header *)fusefs_raw.bytes)->opcode;
}

/* ---- their end ---- */

static void release(struct fusefs_again *a)
{
	struct fusefs *fs = a->fs;

	/* What was reserved for it may be so still: the engine's timer can be later than we are. */
	if (!txn_wait_cancel(fs->eng, &a->w))
		txn_wait_done(fs->eng, &a->w);
	fusefs_node_put(fs, a->dir);
	fusefs_tx_put(a->tx);
	txn_obstacle_drop(&a->c);
	free(a);
}

static bool expired(const struct fusefs_again *a)
{
	struct timespec now;

	if (a->state == OVER)
		return true;
	if (!a->expires.tv_sec || (a->state != REFUSED && a->state != FREE))
		return false;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return base_timespec_before(&a->expires, &now);
}

/* [park->lock, released meanwhile] */
static void tidy(struct fusefs_park *park)
{
	struct fusefs_agains old = LIST_HEAD_INITIALIZER(old);
	struct fusefs_again *a, *next;

	for (a = LIST_FIRST(&park->agains); a; a = next) {
		next = LIST_NEXT(a, link);
		if (a->refs || !expired(a))
			continue;
		LIST_REMOVE(a, link);
		atomic_fetch_sub(&park->n_agains, 1);
		LIST_INSERT_HEAD(&old, a, link);
	}
	if (LIST_EMPTY(&old))
		return;
	pthread_mutex_unlock(&park->lock);
	while ((a = LIST_FIRST(&old))) {
		LIST_REMOVE(a, link);
		release(a);
	}
	pthread_mutex_lock(&park->lock);
}

/* Leave the queue, or what was reserved. Without the lock; a reference is held. */
static void leave(struct fusefs_again *a)
{
	if (!txn_wait_cancel(a->fs->eng, &a->w))
		txn_wait_done(a->fs->eng, &a->w);
	pthread_mutex_lock(&a->fs->park->lock);
	a->state = OVER;
	a->refs--;
	pthread_mutex_unlock(&a->fs->park->lock);
}

void fusefs_agains_free(struct fusefs *fs)
{
	struct fusefs_park *park = fs->park;
	struct fusefs_again *a;

	pthread_mutex_lock(&park->lock);
	LIST_FOREACH(a, &park->agains, link)
		a->refs++;
	pthread_mutex_unlock(&park->lock);
	LIST_FOREACH(a, &park->agains, link)
		leave(a);
	pthread_mutex_lock(&park->lock);
	tidy(park);
	pthread_mutex_unlock(&park->lock);
}

/* By the engine, under its lock. */
static void on_wake(struct txn_waiter *w, int why)
{
	struct fusefs_again *a = (struct fusefs_again *)w;
	struct fusefs_park *park = a->fs->park;

	pthread_mutex_lock(&park->lock);
	if (why == -ECANCELED) {
		if (a->state == FREE)
			a->state = OVER;
	} else if (a->state == WAITING) {
		a->state = why ? REFUSED : FREE;
		a->why = why;
		a->expires = fusefs_after(ARRIVE_S);
		if (a->held) {
			a->held->again = NULL;
			fusefs_parked_ready_locked(a->held, 0);
		}
		a->held = NULL;
	}
	pthread_mutex_unlock(&park->lock);
}

/* ---- the GETATTR ---- */

static void on_interrupt(fuse_req_t req UNUSED, void *data)
{
	struct fusefs_parked *p = data;

	atomic_store(&p->interrupted, true);
	fusefs_again_interrupted(p);
}

void fusefs_again_interrupted(struct fusefs_parked *p)
{
	struct fusefs_park *park = p->fs->park;
	struct fusefs_again *a;

	pthread_mutex_lock(&park->lock);
	a = p->again;
	if (a && a->held == p) {
		a->held = NULL;
		p->again = NULL;
		a->refs++;
		fusefs_parked_ready_locked(p, -EINTR);
	} else {
		a = NULL;
	}
	pthread_mutex_unlock(&park->lock);
	if (a)
		leave(a);
}

/* [park->lock] */
static struct fusefs_again *find(struct fusefs_park *park, pid_t tid, const struct fusefs_node *dir)
{
	struct fusefs_again *a;

	LIST_FOREACH(a, &park->agains, link)
		if (a->tid == tid && a->dir == dir && !expired(a))
			return a;
	return NULL;
}

bool fusefs_again_hold(struct fusefs *fs, fuse_req_t req, const struct fusefs_node *n)
{
	struct fusefs_park *park = fs->park;
	struct fusefs_parked *p;
	struct fusefs_again *a;
	pid_t tid = fuse_req_ctx(req)->pid;
	bool wanted;

	if (!atomic_load(&park->n_agains))
		return false;
	pthread_mutex_lock(&park->lock);
	a = find(park, tid, n);
	wanted = a && a->state == WAITING && !a->held;
	pthread_mutex_unlock(&park->lock);
	p = wanted ? fusefs_parked_new(fs, req) : NULL;
	if (!p)
		return false;
	/* It must be there before the request can be answered by someone else. */
	fuse_req_interrupt_func(req, on_interrupt, p);
	pthread_mutex_lock(&park->lock);
	a = find(park, tid, n);
	wanted = a && a->state == WAITING && !a->held && !atomic_load(&p->interrupted) && !park->stopping;
	if (wanted) {
		a->held = p;
		p->again = a;
		a->refs++;
		LIST_INSERT_HEAD(&park->all, p, all);
	}
	pthread_mutex_unlock(&park->lock);
	if (!wanted) {
		fuse_req_interrupt_func(req, NULL, NULL);
		fusefs_parked_put(p);
		return false;
	}
	txn_wait_deadline(fs->eng, &a->w, &a->deadline);
	pthread_mutex_lock(&park->lock);
	a->refs--;
	pthread_mutex_unlock(&park->lock);
	return true;
}

bool fusefs_again_waiting(struct fusefs *fs, const struct fusefs_node *dir)
{
	struct fusefs_again *a;
	bool waiting = false;

	if (!fs->park || !atomic_load_explicit(&fs->park->n_agains, memory_order_relaxed))
		return false;
	pthread_mutex_lock(&fs->park->lock);
	LIST_FOREACH(a, &fs->park->agains, link)
		waiting = waiting || (a->dir == dir && a->state == WAITING);
	pthread_mutex_unlock(&fs->park->lock);
	return waiting;
}

/* ---- the operation ---- */

int fusefs_again_begin(struct fusefs *fs, fuse_req_t req, struct fusefs_node *on, const char *name)
{
	struct fusefs_park *park = fs->park;
	struct fusefs_again *a = NULL, *other;
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	int r = 0;

	atomic_fetch_add(&on->in_hand, 1);
	running = NULL;
	if (!atomic_load(&park->n_agains)) {
		fusefs_may_wait();
		return 0;
	}
	pthread_mutex_lock(&park->lock);
	tidy(park);
	for (;;) {
		LIST_FOREACH(other, &park->agains, link)
			if (other->tid == ctx->pid && other->state != OVER && other->state != RUNNING)
				break;
		if (!other)
			break;
		other->refs++;
		if (!a && other->on == on && other->opcode == opcode_of() && !strcmp(other->name, name) &&
		    !expired(other)) {
			a = other;
			r = a->state == REFUSED ? a->why : a->state == WAITING ? -EBUSY : 0;
			a->state = RUNNING;
			continue;
		}
		/* Of an earlier system call, which has taken another way. */
		other->state = RUNNING;
		pthread_mutex_unlock(&park->lock);
		leave(other);
		pthread_mutex_lock(&park->lock);
	}
	pthread_mutex_unlock(&park->lock);
	running = a;
	/* Nobody asked for the attributes, so that it could not wait. */
	if (r == -EBUSY || r == -EDEADLK)
		fusefs_park_refuse(fs, ctx, a->tx, &a->c, a->patience, r);
	if (a)
		txn_obstacle_arm(&a->w);
	else
		fusefs_may_wait();
	return r;
}

/*
 * Does the caller change a directory by its path? By a descriptor there is no second walk, and it would be told ESTALE. The
 * request does not tell; what the kernel tells of the calling thread may be kept from us, which is a no.
 */
static bool by_path(pid_t tid)
{
	static const struct {
		long number;
		unsigned path, flags; /* arguments that must not be 0, and not have AT_EMPTY_PATH; 0: there are none */
	} calls[] = {
#ifdef SYS_chmod
		{SYS_chmod, 0, 0}, {SYS_chown, 0, 0}, {SYS_lchown, 0, 0}, {SYS_utime, 0, 0}, {SYS_utimes, 0, 0}, {SYS_futimesat, 2, 0},
#endif
		{SYS_fchmodat, 2, 0}, {SYS_fchownat, 2, 5}, {SYS_utimensat, 2, 4}, {SYS_setxattr, 0, 0}, {SYS_lsetxattr, 0, 0},
		{SYS_removexattr, 0, 0}, {SYS_lremovexattr, 0, 0},
	};
	char file[32], text[256];
	unsigned long long arg[6] = {0};
	CLEANUP_CLOSE int fd = -1;
	long number;
	ssize_t n;

	snprintf(file, sizeof(file), "/proc/%d/syscall", (int)tid);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return false;
	text[n] = '\0';
	if (sscanf(text, "%ld %llx %llx %llx %llx %llx %llx", &number, &arg[0], &arg[1], &arg[2], &arg[3], &arg[4], &arg[5]) != 7)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(calls); i++)
		if (calls[i].number == number)
			return (!calls[i].path || arg[calls[i].path - 1]) &&
			       (!calls[i].flags || !(arg[calls[i].flags - 1] & AT_EMPTY_PATH));
	return false;
}

/* The directory whose attributes the kernel asks for before the operation can come again: a reference, or NULL. */
static struct fusefs_node *on_the_way(struct fusefs *fs, fuse_req_t req, struct fusefs_node *on, const char *name)
{
	if (!*name)
		return by_path(fuse_req_ctx(req)->pid) ? fusefs_node_directory(fs, on) : NULL;
	pthread_mutex_lock(&fs->nodes);
	fusefs_node_get_locked(on);
	pthread_mutex_unlock(&fs->nodes);
	return on;
}

/* Tell the kernel to come again, by the way of the directory's attributes. */
static int come_again(struct fusefs *fs, fuse_req_t req, struct fusefs_node *on, const char *name,
                      struct fusefs_tx *tx, struct txn_obstacle *c, double patience)
{
	struct fusefs_park *park = fs->park;
	struct fusefs_node *dir = on_the_way(fs, req, on, name);
	struct fusefs_again *a = dir ? calloc(1, sizeof(*a)) : NULL;
	int r;

	if (!dir)
		fusefs_park_refuse(fs, fuse_req_ctx(req), tx, c, 0, -EBUSY);
	if (!a) {
		txn_obstacle_drop(c);
		if (dir)
			fusefs_node_put(fs, dir);
		return dir ? -ENOMEM : -EBUSY;
	}
	a->fs = fs;
	a->tid = fuse_req_ctx(req)->pid;
	a->opcode = opcode_of();
	strncpy(a->name, name, NAME_MAX);
	a->tx = tx ? fusefs_tx_get(tx) : NULL;
	a->patience = patience;
	a->deadline = fusefs_after(patience);
	fusefs_conflict_copy(&a->c, c);
	a->on = on;
	a->dir = dir;
	a->w.wake = on_wake;
	a->w.txn = tx && txn_is_open(tx->txn) ? tx->txn : NULL;
	a->w.hold_ms = HOLD_MS;
	a->w.deadline = fusefs_after(patience < ARRIVE_S ? patience : ARRIVE_S);
	a->refs = 1;
	pthread_mutex_lock(&park->lock);
	LIST_INSERT_HEAD(&park->agains, a, link);
	atomic_fetch_add(&park->n_agains, 1);
	pthread_mutex_unlock(&park->lock);
	r = txn_wait(fs->eng, &a->w, c);
	pthread_mutex_lock(&park->lock);
	if (r == 1) {
		a->state = FREE;
		a->expires = fusefs_after(ARRIVE_S);
	} else if (r) {
		a->state = OVER;
	}
	a->refs--;
	pthread_mutex_unlock(&park->lock);
	if (r == -EBUSY || r == -EDEADLK)
		fusefs_park_refuse(fs, fuse_req_ctx(req), tx, &a->c, patience, r);
	if (r < 0)
		return r;
	/* Never blocks: attributes only. The answer follows it. */
	if (!atomic_load_explicit(&fs->gone, memory_order_relaxed))
		fuse_lowlevel_notify_inval_inode(fs->se, fusefs_ino(fs, dir), FUSEFS_ATTRS_ONLY, 0);
	return -ESTALE;
}

bool fusefs_again_end(struct fusefs *fs, fuse_req_t req, struct fusefs_node *on, const char *name,
                      struct fusefs_tx *tx, int *r)
{
	struct fusefs_again *a = running;
	struct txn_obstacle c;
	bool met = txn_obstacle_take(&c), parked = false, second = a || (fusefs_resumed && fusefs_resumed->second);
	double patience;

	running = NULL;
	atomic_fetch_sub(&on->in_hand, 1);
	if (met && *r == TXN_INSTALLING) {
		/* It ends by itself. */
		*r = fusefs_park_it(fs, req, tx, &c, 0, FUSEFS_INSTALL | (second ? FUSEFS_SECOND : 0));
		parked = *r >= 0;
	} else if (met && *r == -EBUSY && second && !c.holder) {
		/* It is another one's turn for a moment: not worth a refusal, nor for the directory to stand still for long. */
		*r = fusefs_park_it(fs, req, tx, &c, TURN_S, FUSEFS_SECOND);
		parked = *r >= 0;
	} else if (met && *r == -EBUSY) {
		patience = fusefs_patience(fs, req, tx, &c);
		if (second || patience <= 0 || !fuse_req_ctx(req)->pid) {
			fusefs_park_refuse(fs, fuse_req_ctx(req), tx, &c, a ? a->patience : 0, *r);
			txn_obstacle_drop(&c);
		} else {
			*r = come_again(fs, req, on, name, tx, &c, patience);
		}
	} else if (met) {
		txn_obstacle_drop(&c);
	}
	if (a)
		leave(a);
	else if (!parked && fusefs_resumed)
		txn_wait_done(fs->eng, &fusefs_resumed->w);
	return parked;
}

bool fusefs_again_expected(struct fusefs *fs, fuse_req_t req, const struct fusefs_tx *tx)
{
	struct fusefs_park *park = fs->park;
	pid_t tid = fuse_req_ctx(req)->pid;
	struct fusefs_again *a;
	bool expected = false;

	if (!atomic_load_explicit(&park->n_agains, memory_order_relaxed))
		return false;
	pthread_mutex_lock(&park->lock);
	LIST_FOREACH(a, &park->agains, link)
		expected = expected || (a->tid == tid && a->tx == tx && a->state == FREE);
	pthread_mutex_unlock(&park->lock);
	return expected;
}

void fusefs_again_other(struct fusefs *fs, fuse_req_t req)
{
	struct fusefs_park *park = fs->park;
	struct fusefs_again *a;
	pid_t tid = fuse_req_ctx(req)->pid;

	if (!atomic_load_explicit(&park->n_agains, memory_order_relaxed))
		return;
	pthread_mutex_lock(&park->lock);
	LIST_FOREACH(a, &park->agains, link)
		if (a->tid == tid && a->state == FREE)
			break;
	if (a) {
		a->state = RUNNING;
		a->refs++;
	}
	pthread_mutex_unlock(&park->lock);
	if (a)
		leave(a);
}
