/* wait.h - waiting for transactions, as the engine's other files see it. Part of private.h. */
#ifndef TXNFS_TXN_WAIT_H
#define TXNFS_TXN_WAIT_H

#include "txn/txn.h"

#include <pthread.h>
#include <stdatomic.h>

/* wait.c */
struct txn_waits {
	pthread_mutex_t lock;
	pthread_cond_t sooner;
	atomic_uint reserved; /* queues whose first waiter is on its way; written under lock */
	/* [lock] */
	struct txn_queue *queues; /* hash by object and name */
	struct txn_waiter *due;   /* by time, the soonest first */
	struct txn_waiter *due_last;
	size_t waiting;
	unsigned stamp;
	int stuck; /* why installs do not go on, or 0 */
	bool started, stopping;
	pthread_t timer;
};

/* obstacle.c: told to armed threads only (txn.h) */
/* Remember who is in the way. name NULL: the object. Any lock may be held, so that the holder stays. */
void txn_met(struct txn_obj *obj, const char *name, struct txn *holder);
bool txn_reserved_for_other(struct txn_obj *obj, const char *name); /* and remember the conflict */
int txn_retry(struct txn_engine *eng);           /* after TXN_RETRY: 0 once it is worth trying again */

/* wait.c */
void txn_waits_init(struct txn_engine *eng);
void txn_waits_free(struct txn_engine *eng);
bool txn_waits_reserved(struct txn_obj *obj, const char *name, const struct txn_waiter *self);
void txn_waits_release(struct txn *t);           /* it holds nothing any more. Any lock but waits' may be held */
void txn_waits_stuck(struct txn_engine *eng, int why); /* installs do not go on: -ENOSPC, -EROFS; 0: they do */

/* wait_due.c; the lock is held */
void txn_due_del(struct txn_waits *ws, struct txn_waiter *w);
void txn_due_add(struct txn_waits *ws, struct txn_waiter *w, struct timespec at);

#endif
