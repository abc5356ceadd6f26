/* owner.c - the lives that transactions hang on: a thread watches owning processes and rolls back when one dies. */
#include "fusefs/tx_private.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <syslog.h>

#define POLL_MS 100 /* for owners that have no pidfd */

static void wake_watcher(struct fusefs_registry *reg)
{
	uint64_t one = 1;

	/* It can fail only by overflow: then the watcher is awake already. */
	if (write(reg->wake, &one, sizeof(one)) < 0 && errno != EAGAIN)
		base_log(LOG_ERR, "cannot wake the watcher of owners: %s", strerror(errno));
}

void tx_watcher_poke(struct fusefs_registry *reg)
{
	wake_watcher(reg);
}

void tx_unwatch(struct fusefs_registry *reg, struct fusefs_tx_private *priv)
{
	if (priv->owner_fd < 0)
		return;
	epoll_ctl(reg->epoll, EPOLL_CTL_DEL, priv->owner_fd, NULL);
	close(priv->owner_fd);
	priv->owner_fd = -1;
}

void tx_watch(struct fusefs_registry *reg, struct fusefs_tx_private *priv, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN};

	priv->owner_fd = fd;
	priv->reaping = false;
	if (fd >= 0 && epoll_ctl(reg->epoll, EPOLL_CTL_ADD, fd, &ev) != 0) {
		close(fd);
		priv->owner_fd = -1;
	}
	if (priv->owner_fd < 0)
		wake_watcher(reg); /* it must begin to poll */
}

static bool owner_is_dead(const struct fusefs_tx_private *priv)
{
	struct pollfd pfd = {.fd = priv->owner_fd, .events = POLLIN};

	return priv->owner_fd >= 0 ? poll(&pfd, 1, 0) == 1 : !fusefs_process_alive(priv->owner);
}

int tx_set_owner(struct fusefs_tx *tx, struct fusefs_process *owner)
{
	struct fusefs_tx_private *priv = tx->priv;
	struct fusefs_registry *reg = priv->reg;
	int fd = fusefs_process_open(owner), rc = 0;

	if (fd == -ESRCH)
		return fd;
	pthread_mutex_lock(&reg->lock);
	if (priv->ended) {
		rc = -ENOTCONN;
		if (fd >= 0)
			close(fd);
	} else {
		struct fusefs_process *old = priv->owner;

		tx_unwatch(reg, priv);
		priv->owner = fusefs_process_get(owner);
		atomic_store(&tx->owner, owner->tgid);
		tx_watch(reg, priv, fd < 0 ? -1 : fd);
		fusefs_process_put(old);
	}
	pthread_mutex_unlock(&reg->lock);
	return rc;
}

struct reaper {
	struct fusefs_registry *reg;
	struct fusefs_tx *tx;
	struct fusefs_process *owner; /* the one that has died; NULL: nobody has used it for too long */
};

/* It may go on to live. */
static void priv_unreap(struct fusefs_tx *tx)
{
	struct fusefs_registry *reg = tx->priv->reg;

	pthread_mutex_lock(&reg->lock);
	if (!tx->priv->ended) {
		tx->priv->reaping = false;
		wake_watcher(reg);
	}
	pthread_mutex_unlock(&reg->lock);
}

static void reap_idle(struct fusefs_tx *tx)
{
	char why[64];

	snprintf(why, sizeof(why), "nobody has used it for %g s", (double)tx_idle_ms(tx) / 1000);
	if (tx_end_for(tx, why))
		priv_unreap(tx);
}

/* Roll back for a dead owner. Does nothing when the transaction has ended or changed hands meanwhile. */
static void *reap(void *arg)
{
	struct reaper *r = arg;
	struct fusefs_registry *reg = r->reg;
	struct base_buf label = {0};
	enum fusefs_end how;
	bool still;
	int rc;

	pthread_mutex_lock(&r->tx->busy);
	pthread_mutex_lock(&reg->lock);
	still = !r->tx->priv->ended && (!r->owner || r->tx->priv->owner == r->owner);
	pthread_mutex_unlock(&reg->lock);
	if (still && !r->owner) {
		still = tx_is_idle(r->tx); /* perhaps it was at its longest command */
		if (still)
			reap_idle(r->tx);
		else
			priv_unreap(r->tx);
		goto out;
	}
	if (still) {
		rc = tx_end(r->tx, false, &how);
		tx_put_label(&label, r->tx);
		if (rc)
			base_log(LOG_ERR, "%s: its owner, process %d, has died, but the rollback failed: %s",
			         label.err ? "a transaction" : (char *)label.p, (int)r->owner->tgid, strerror(-rc));
		else
			base_log(LOG_INFO, "%s: rolled back, its owner, process %d, has died",
			         label.err ? "a transaction" : (char *)label.p, (int)r->owner->tgid);
		base_buf_free(&label);
	}
out:
	pthread_mutex_unlock(&r->tx->busy);
	fusefs_tx_put(r->tx);
	fusefs_process_put(r->owner);
	free(r);

	pthread_mutex_lock(&reg->lock);
	reg->reapers--;
	pthread_cond_broadcast(&reg->reaped);
	pthread_mutex_unlock(&reg->lock);
	return NULL;
}

/* Signals are for the threads that wait for them. */
static int start_thread(pthread_t *thread, bool detached, void *(*fn)(void *arg), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, detached ? PTHREAD_CREATE_DETACHED : PTHREAD_CREATE_JOINABLE);
	rc = pthread_create(thread, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -rc;
}

/*
 * One transaction whose owner has died, NULL when there is none (left); registry.lock is held. *poll_needed: one of the
 * living owners has no pidfd.
 */
static struct reaper *next_dead(struct fusefs_registry *reg, bool *poll_needed)
{
	struct fusefs_tx_private *priv;
	struct reaper *r;

	*poll_needed = false;
	TAILQ_FOREACH(priv, &reg->open, link)
	{
		bool idle;

		if (!priv->live || priv->reaping)
			continue;
		idle = tx_is_idle(priv->tx);
		if (!priv->owner && !idle)
			continue;
		if (!idle && !owner_is_dead(priv)) {
			*poll_needed |= priv->owner_fd < 0;
			continue;
		}
		r = malloc(sizeof(*r));
		if (!r) {
			*poll_needed = true; /* try again soon */
			continue;
		}
		priv->reaping = true;
		if (!idle)
			tx_unwatch(reg, priv);
		*r = (struct reaper){reg, fusefs_tx_get(priv->tx), idle ? NULL : fusefs_process_get(priv->owner)};
		reg->reapers++;
		return r;
	}
	return NULL;
}

/* How often to look for those that nobody uses; -1: never. */
static int idle_ms(struct fusefs_registry *reg)
{
	double limit;

	pthread_mutex_lock(&reg->lock);
	limit = TAILQ_EMPTY(&reg->open) ? 0 : reg->limits.idle;
	pthread_mutex_unlock(&reg->lock);
	return limit <= 0 ? -1 : limit > 4 ? 1000 : (int)(limit * 250) + 1;
}

static void *watch_owners(void *arg)
{
	struct fusefs_registry *reg = arg;
	bool poll_needed = false, stop = false;

	for (;;) {
		struct epoll_event ev;
		struct reaper *r;
		uint64_t count;
		pthread_t thread;

		/* One event is enough to wake up: all owners are looked at then. */
		if (epoll_wait(reg->epoll, &ev, 1, poll_needed ? POLL_MS : idle_ms(reg)) < 0 && errno != EINTR)
			base_log(LOG_ERR, "cannot watch owners: %s", strerror(errno));
		if (read(reg->wake, &count, sizeof(count)) < 0 && errno != EAGAIN)
			base_log(LOG_ERR, "cannot watch owners: %s", strerror(errno));
		do {
			pthread_mutex_lock(&reg->lock);
			stop = reg->stopping;
			r = stop ? NULL : next_dead(reg, &poll_needed);
			pthread_mutex_unlock(&reg->lock);
			/* A thread of its own: one that must wait for a long commit holds up no other (I10). */
			if (r && start_thread(&thread, true, reap, r) != 0)
				reap(r);
		} while (r);
		if (stop)
			return NULL;
	}
}

int tx_watcher_start(struct fusefs_registry *reg)
{
	CLEANUP_CLOSE int epoll = epoll_create1(EPOLL_CLOEXEC);
	CLEANUP_CLOSE int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct epoll_event ev = {.events = EPOLLIN};
	int rc;

	if (epoll < 0 || wake < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, wake, &ev) != 0)
		return -errno;
	reg->epoll = epoll;
	reg->wake = wake;
	rc = start_thread(&reg->watcher, false, watch_owners, reg);
	if (rc == 0) {
		TAKE_FD(epoll);
		TAKE_FD(wake);
	}
	return rc;
}

void tx_watcher_stop(struct fusefs_registry *reg)
{
	pthread_mutex_lock(&reg->lock);
	reg->stopping = true;
	wake_watcher(reg);
	pthread_mutex_unlock(&reg->lock);
	pthread_join(reg->watcher, NULL);

	pthread_mutex_lock(&reg->lock);
	while (reg->reapers)
		pthread_cond_wait(&reg->reaped, &reg->lock);
	pthread_mutex_unlock(&reg->lock);
}

void tx_watcher_close(struct fusefs_registry *reg)
{
	close(reg->epoll);
	close(reg->wake);
}
