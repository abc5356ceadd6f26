/*
 * park.h - between park.c (requests that wait) and again.c (system calls that are told to come again). For nobody else.
 */
#ifndef TXNFS_FUSEFS_PARK_H
#define TXNFS_FUSEFS_PARK_H

#include "fusefs/private.h"

#define FUSEFS_RESUMERS 4 /* threads that run again what has waited */

struct fusefs_again;

/* A request that waits: its bytes, to be handled again, and its handle in libfuse. */
struct fusefs_parked {
	struct txn_waiter w; /* first member; idle when `again` waits in its stead */
	struct fusefs *fs;
	fuse_req_t req;
	struct fusefs_raw raw;
	struct fusefs_tx *tx;  /* reference or NULL: whose request */
	struct txn_obstacle c; /* what it met last */
	double patience;
	bool expired;      /* it is run again after its deadline */
	unsigned how;      /* FUSEFS_RERUN: when the deadline passes, too */
	bool second;       /* its system call has come again already */
	struct fusefs_node *dir; /* reference, or NULL: it holds a file of this directory in the kernel (stall.c) */
	struct timespec since;
	atomic_bool for_install; /* it waits for an install now, not for a transaction */
	atomic_bool interrupted;
	/* [park->lock] */
	struct fusefs_again *again; /* it is held back until this may come again */
	int why;
	bool tried;     /* to cancel it, at the end */
	unsigned round; /* stall.c's */
	unsigned refs;
	TAILQ_ENTRY(fusefs_parked) ready;
	LIST_ENTRY(fusefs_parked) all;
};

LIST_HEAD(fusefs_agains, fusefs_again);

struct fusefs_park {
	pthread_mutex_t lock; /* a leaf below the engine's lock for waiting */
	pthread_cond_t more, empty, holder; /* holder: CLOCK_MONOTONIC */
	/* [lock] */
	TAILQ_HEAD(, fusefs_parked) ready;
	LIST_HEAD(, fusefs_parked) all;
	bool stopping, stopped;
	unsigned holders; /* parked with a directory */
	struct fusefs_agains agains;
	atomic_uint n_agains; /* written under lock */
	/* */
	unsigned started;
	pthread_t thread[FUSEFS_RESUMERS];
	struct fusefs_stall *stall;
};

/* The request that this thread handles, ready to be kept; NULL: no memory. */
struct fusefs_parked *fusefs_parked_new(struct fusefs *fs, fuse_req_t req);
void fusefs_parked_put(struct fusefs_parked *p);
void fusefs_parked_ready(struct fusefs_parked *p, int why);        /* takes the lock */
void fusefs_parked_ready_locked(struct fusefs_parked *p, int why); /* [park->lock] */
bool fusefs_park_in(struct fusefs_parked *p); /* into the list; false: the mount is ending */
void fusefs_park_refuse(struct fusefs *fs, const struct fuse_ctx *who, struct fusefs_tx *tx,
                        const struct txn_obstacle *c, double patience, int r); /* the line for ctl */
void fusefs_conflict_copy(struct txn_obstacle *to, const struct txn_obstacle *from);
/* The seconds that a request of tx (NULL: plain) may wait for this. */
double fusefs_patience(struct fusefs *fs, fuse_req_t req, struct fusefs_tx *tx, const struct txn_obstacle *c);
struct timespec fusefs_after(double seconds);
/* Park the request for this conflict (taken over). As txn_wait: 0 or 1 it is taken care of, else what to answer. */
int fusefs_park_it(struct fusefs *fs, fuse_req_t req, struct fusefs_tx *tx, struct txn_obstacle *c, double patience,
                   unsigned how);
/* The WRITEs to a node that are parked, or being run again: how many. Takes park->lock. */
unsigned fusefs_parked_writes(struct fusefs *fs, fuse_ino_t ino, void (*fn)(void *arg, off_t off, size_t size), void *arg);
extern _Thread_local struct fusefs_parked *fusefs_resumed; /* which this thread runs again */
/* again.c: a request of its thread was held back, and interrupted. [not under park->lock] */
void fusefs_again_interrupted(struct fusefs_parked *p);
void fusefs_agains_free(struct fusefs *fs);

/* ---- stall.c: requests that hold a file are not to hold up its directory ---- */

bool fusefs_holds_file(const struct fusefs_parked *p);
int fusefs_stall_start(struct fusefs *fs);
void fusefs_stall_stop(struct fusefs *fs); /* when park->stopping; idempotent */
void fusefs_stall_free(struct fusefs *fs); /* when nothing can block in a notification any more */

#endif
