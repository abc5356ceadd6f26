/*
 * stall.c - no directory stands still for a file whose writers wait.
 *
 * Of a WRITE, or a change of attributes, that is parked the kernel holds the file's inode. Whoever unlinks or renames that
 * file takes the directory first and waits for the inode then; all else in the directory waits behind, and with it the
 * very commit that the parked request waits for. The kernel does not tell. So the directories of such requests are tried, as
 * long as there are any: to invalidate a name takes its directory, also when there is no such name. If that does not come
 * back, and no operation on the directory is in our hands, then those that are parked on files of it are refused, as
 * if their time were over, and everything goes on.
 *
 * One thread tries, and another one watches it. Neither runs while nothing of the kind is parked.
 */
#include "fusefs/park.h"

#include <linux/fuse.h>

#define TRY_EVERY_MS 100 /* so often is each directory tried, and what is in the way refused */
#define STALLED_MS 400   /* so long may an ordinary operation hold it */
#define AT_A_TIME 16     /* directories */
#define NO_SUCH_NAME "\001txnfs"

struct fusefs_stall {
	struct fusefs *fs;
	pthread_mutex_t lock; /* a leaf */
	pthread_cond_t changed;
	/* [lock] */
	const struct fusefs_node *trying; /* borrowed from a parked request that the watcher refers to */
	bool stop;
	/* */
	unsigned round; /* the watcher's */
	bool trier_started, watcher_started;
	pthread_t trier, watcher;
};

/* ---- what holds what ---- */

bool fusefs_holds_file(const struct fusefs_parked *p)
{
	switch (((const struct fuse_in_header *)p->raw.bytes)->opcode) {
	case FUSE_WRITE:
	case FUSE_SETATTR:
	case FUSE_SETXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_FALLOCATE:
	case FUSE_COPY_FILE_RANGE:
		return true;
	default:
		return false;
	}
}

/* Does the kernel hold this directory for a request that waits here, for an install or its turn? That ends by itself. */
static bool holds_directory(const struct fusefs_parked *p, fuse_ino_t dir)
{
	const struct fuse_in_header *in = p->raw.bytes;

	switch (in->opcode) {
	case FUSE_RENAME:
	case FUSE_RENAME2:
		if (p->raw.len >= sizeof(*in) + sizeof(struct fuse_rename_in) &&
		    ((const struct fuse_rename_in *)(in + 1))->newdir == dir)
			return true;
		return in->nodeid == dir;
	case FUSE_LOOKUP:
	case FUSE_CREATE:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_SETATTR:
	case FUSE_SETXATTR:
	case FUSE_REMOVEXATTR:
		return in->nodeid == dir;
	default:
		return false;
	}
}

/* ---- the two threads ---- */

static void *trier_run(void *arg)
{
	struct fusefs_stall *st = arg;
	struct fusefs *fs = st->fs;

	pthread_mutex_lock(&st->lock);
	for (;;) {
		fuse_ino_t ino;

		while (!st->trying && !st->stop)
			pthread_cond_wait(&st->changed, &st->lock);
		if (!st->trying)
			break;
		ino = fusefs_ino(fs, st->trying);
		pthread_mutex_unlock(&st->lock);
		if (!atomic_load_explicit(&fs->gone, memory_order_relaxed))
			fuse_lowlevel_notify_inval_entry(fs->se, ino, NO_SUCH_NAME, sizeof(NO_SUCH_NAME) - 1);
		pthread_mutex_lock(&st->lock);
		st->trying = NULL;
		pthread_cond_broadcast(&st->changed);
	}
	pthread_mutex_unlock(&st->lock);
	return NULL;
}

/* [st->lock] Until the trier is back, at most so long. */
static bool is_back(struct fusefs_stall *st, unsigned ms)
{
	struct timespec until = base_after_ms(ms);

	while (st->trying && !st->stop)
		if (pthread_cond_timedwait(&st->changed, &st->lock, &until))
			break;
	return !st->trying || st->stop;
}

static void refuse(struct fusefs_stall *st, const struct fusefs_node *dir)
{
	struct fusefs *fs = st->fs;
	struct fusefs_park *park = fs->park;
	struct fusefs_parked *p;
	bool ours = false;

	pthread_mutex_lock(&park->lock);
	LIST_FOREACH(p, &park->all, all)
		ours = ours || holds_directory(p, fusefs_ino(fs, dir));
	ours = ours || atomic_load(&dir->in_hand);
	st->round++;
	while (!ours && !park->stopping) {
		LIST_FOREACH(p, &park->all, all)
			if (p->dir == dir && p->round != st->round)
				break;
		if (!p)
			break;
		p->round = st->round;
		p->refs++;
		pthread_mutex_unlock(&park->lock);
		if (!atomic_load(&p->for_install) && txn_wait_cancel(fs->eng, &p->w)) {
			struct timespec now = fusefs_after(0);

			p->patience = (double)(now.tv_sec - p->since.tv_sec) +
			              (double)(now.tv_nsec - p->since.tv_nsec) / 1e9;
			fusefs_parked_ready(p, -EBUSY);
		}
		fusefs_parked_put(p);
		pthread_mutex_lock(&park->lock);
	}
	pthread_mutex_unlock(&park->lock);
}

/* A reference keeps a parked request, and so its directory, but not from being answered. */
static void try_directory(struct fusefs_stall *st, const struct fusefs_node *dir)
{
	pthread_mutex_lock(&st->lock);
	st->trying = dir;
	pthread_cond_broadcast(&st->changed);
	for (unsigned ms = STALLED_MS; !is_back(st, ms); ms = TRY_EVERY_MS) {
		pthread_mutex_unlock(&st->lock);
		refuse(st, dir);
		pthread_mutex_lock(&st->lock);
	}
	pthread_mutex_unlock(&st->lock);
}

/* [park->lock] One parked request, with a reference, for each of some directories that were not tried in this round. */
static size_t choose(struct fusefs_stall *st, struct fusefs_parked **chosen)
{
	struct fusefs_parked *p;
	size_t n = 0, i;

	LIST_FOREACH(p, &st->fs->park->all, all)
	{
		if (!p->dir || p->round == st->round)
			continue;
		for (i = 0; i < n && chosen[i]->dir != p->dir; i++)
			;
		if (i == AT_A_TIME)
			continue;
		p->round = st->round;
		if (i == n) {
			p->refs++;
			chosen[n++] = p;
		}
	}
	return n;
}

static void *watcher_run(void *arg)
{
	struct fusefs_stall *st = arg;
	struct fusefs_park *park = st->fs->park;
	struct fusefs_parked *chosen[AT_A_TIME];
	size_t n;

	pthread_mutex_lock(&park->lock);
	while (!park->stopping) {
		if (!park->holders) {
			pthread_cond_wait(&park->holder, &park->lock);
			continue;
		}
		n = choose(st, chosen);
		if (!n) {
			struct timespec until = base_after_ms(TRY_EVERY_MS);

			st->round++;
			pthread_cond_timedwait(&park->holder, &park->lock, &until);
			continue;
		}
		pthread_mutex_unlock(&park->lock);
		for (size_t i = 0; i < n; i++) {
			try_directory(st, chosen[i]->dir);
			fusefs_parked_put(chosen[i]);
		}
		pthread_mutex_lock(&park->lock);
	}
	pthread_mutex_unlock(&park->lock);
	return NULL;
}

/* ---- life ---- */

int fusefs_stall_start(struct fusefs *fs)
{
	struct fusefs_stall *st = calloc(1, sizeof(*st));
	int r;

	if (!st)
		return -ENOMEM;
	fs->park->stall = st;
	st->fs = fs;
	pthread_mutex_init(&st->lock, NULL);
	base_cond_init(&st->changed);
	r = pthread_create(&st->trier, NULL, trier_run, st);
	st->trier_started = !r;
	if (!r)
		r = pthread_create(&st->watcher, NULL, watcher_run, st);
	st->watcher_started = !r;
	return -r;
}

void fusefs_stall_stop(struct fusefs *fs)
{
	struct fusefs_stall *st = fs->park->stall;

	if (!st)
		return;
	pthread_mutex_lock(&st->lock);
	st->stop = true;
	pthread_cond_broadcast(&st->changed);
	pthread_mutex_unlock(&st->lock);
	if (st->watcher_started)
		pthread_join(st->watcher, NULL);
	st->watcher_started = false;
}

bool fusefs_stall_idle(struct fusefs *fs)
{
	struct fusefs_stall *st = fs->park ? fs->park->stall : NULL;
	bool idle;

	if (!st)
		return true;
	pthread_mutex_lock(&st->lock);
	idle = !st->trying;
	pthread_mutex_unlock(&st->lock);
	return idle;
}

void fusefs_stall_free(struct fusefs *fs)
{
	struct fusefs_stall *st = fs->park->stall;

	if (!st)
		return;
	if (st->trier_started)
		pthread_join(st->trier, NULL);
	pthread_cond_destroy(&st->changed);
	pthread_mutex_destroy(&st->lock);
	free(st);
	fs->park->stall = NULL;
}
