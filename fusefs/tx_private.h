/*
 * tx_private.h - between tx.c (the registry: who is in which transaction, how they begin and end), owner.c (the lives
 * that transactions hang on) and command.c and message.c (control commands, messages, texts). For nobody else.
 *
 * Lock order: fusefs_tx.busy, then whatever engine and hooks take; registry.lock is a leaf, and the process cache's own
 * lock is never taken inside it.
 */
#ifndef TXNFS_FUSEFS_TX_PRIVATE_H
#define TXNFS_FUSEFS_TX_PRIVATE_H

#include "base/map.h"
#include "fusefs/member.h"
#include "fusefs/tx.h"

#include <sys/queue.h>

/* A process as a hash key: ids are used again, ids with their start times are not. */
struct tx_process_key {
	uint64_t tgid;
	uint64_t start;
};

static inline struct tx_process_key tx_process_key(const struct fusefs_process *p)
{
	return (struct tx_process_key){.tgid = (uint64_t)p->tgid, .start = p->start};
}

struct fusefs_tx_private {
	struct fusefs_registry *reg;
	struct fusefs_tx_hooks hooks; /* a copy: a late fusefs_tx_put must not need the registry */
	struct fusefs_tx *tx;
	struct timespec begun; /* CLOCK_MONOTONIC */

	/* below: registry.lock */
	bool live;                    /* hooks->begun is done: it can be found */
	bool ended;                   /* out of the registry */
	bool reaping;                 /* its owner's death has been seen */
	struct fusefs_process *owner; /* NULL: none */
	int owner_fd;                 /* pidfd in the watcher's epoll, or -1: polled by start time */
	bool has_timeout;
	double timeout;
	char **savepoints; /* names, newest last */
	size_t n_savepoints;
	struct tx_process_key owner_key; /* ambient: key in registry.owners, fixed */
	UT_hash_handle by_name, by_owner;
	TAILQ_ENTRY(fusefs_tx_private) link;
};

/* The last line told to a process. */
struct tx_message {
	struct tx_process_key key;
	char *line;
	UT_hash_handle hh;
	TAILQ_ENTRY(tx_message) link;
};

struct fusefs_registry {
	struct txn_engine *eng;
	struct fusefs_tx_hooks hooks;
	struct fusefs_members *members;
	atomic_uint ambient_open; /* begun or just beginning */

	pthread_mutex_t lock;                        /* protects what follows */
	TAILQ_HEAD(tx_list, fusefs_tx_private) open; /* in the order of their numbers; each holds a reference */
	struct fusefs_tx_private *names;             /* by_name */
	struct fusefs_tx_private *owners;            /* by_owner: ambient ones only */
	unsigned last_number;
	unsigned reapers; /* threads rolling back for dead owners */
	pthread_cond_t reaped;
	bool stopping;
	TAILQ_HEAD(tx_messages, tx_message) messages; /* newest first */
	struct tx_message *message_of;
	unsigned n_messages;
	struct fusefs_limits limits; /* constant */
	struct tx_account {
		UT_hash_handle hh;
		uid_t uid;
		struct txn_account *account;
	} *accounts; /* by uid, where log space is limited */

	/* the watcher's */
	pthread_t watcher;
	int epoll, wake; /* wake: an eventfd, written when there is something new to see */
};

struct tx_spec {
	const char *name; /* "" or NULL: none */
	bool named;
	uid_t uid;
	struct fusefs_process *owner;  /* borrowed; ambient: required */
	struct fusefs_process *writer; /* ambient: he must not be in a transaction yet */
	bool has_timeout;
	double timeout;
};

/* -EEXIST the name is in use, -EALREADY the writer is in an ambient transaction, -ESRCH the owner has died, or the
 * engine's or hook's error. Out: a new reference. */
int tx_begin(struct fusefs_registry *reg, const struct tx_spec *spec, struct fusefs_tx **out);

/*
 * Commit or roll back; tx->busy is held. -ENOTCONN when it has ended before. *how tells what became of it, whatever the
 * result: a commit that failed may have left it open, or not.
 */
int tx_end(struct fusefs_tx *tx, bool commit, enum fusefs_end *how);
/* The same for prepare: when it succeeds, and when it fails, the view ends as by a rollback. */
int tx_prepare(struct fusefs_tx *tx, const char *gid, enum fusefs_end *how);
/* Commit or roll back a prepared one. -ENOENT when someone else has done it. */
int tx_resolve(struct fusefs_registry *reg, struct txn *txn, bool commit);

/* Left alone for too long? */
bool tx_is_idle(struct fusefs_tx *tx);
void tx_forget_accounts(struct fusefs_registry *reg);
/* limits.c: -EUSERS, or 0; registry.lock is held. */
int tx_may_begin(struct fusefs_registry *reg, uid_t uid);
int tx_charge_to(struct fusefs_registry *reg, struct fusefs_tx *tx);
int64_t tx_idle_ms(const struct fusefs_tx *tx);
/* A new reference or NULL. */
struct fusefs_tx *tx_by_number(struct fusefs_registry *reg, unsigned number);

/* owner.c. start: once, before anything else; stop: no begin is possible any more, and nobody is being reaped; both
 * descriptors stay open for tx_unwatch until tx_watcher_close. */
int tx_watcher_start(struct fusefs_registry *reg);
void tx_watcher_stop(struct fusefs_registry *reg);
void tx_watcher_close(struct fusefs_registry *reg);
void tx_watcher_poke(struct fusefs_registry *reg);
/* Roll it back without its owner's doing, and tell the owner's process why; tx->busy is held. */
int tx_end_for(struct fusefs_tx *tx, const char *why);
/* `rollback transaction N`, by whoever may; the line is told. */
int tx_rollback_number(struct fusefs_registry *reg, unsigned number, const struct fusefs_caller *who,
                       struct base_buf *line);
/* Take fd, a pidfd of priv->owner or -1, over and have the watcher look at it; registry.lock is held. */
void tx_watch(struct fusefs_registry *reg, struct fusefs_tx_private *priv, int fd);
void tx_unwatch(struct fusefs_registry *reg, struct fusefs_tx_private *priv);
/* Tie its life to a process (named ones). -ESRCH it has died, -ENOTCONN the transaction has ended. */
int tx_set_owner(struct fusefs_tx *tx, struct fusefs_process *owner);

bool tx_has_ended(struct fusefs_tx *tx);
/* A new reference or NULL. */
struct fusefs_tx *tx_by_txn(struct fusefs_registry *reg, const struct txn *txn);
/* The ambient transaction of this process: that of the nearest ancestor that owns one. A new reference or NULL. */
struct fusefs_tx *tx_of_process(struct fusefs_registry *reg, const struct fusefs_process *p);
/* NULL when the name will do, else what is wrong with it. */
const char *tx_bad_name(const char *name);

/* message.c: keep a line for the process; forget all. */
void tx_remember(struct fusefs_registry *reg, const struct fusefs_process *p, const struct base_buf *line);
void tx_forget_messages(struct fusefs_registry *reg);
const char *tx_isolation_name(enum txn_isolation level);
/* "transaction 3 "deploy""; a name in quotes; savepoints' names, newest last. */
void tx_put_label(struct base_buf *b, const struct fusefs_tx *tx);
void tx_put_name(struct base_buf *b, const char *name);
void tx_put_savepoints(struct base_buf *b, struct fusefs_tx *tx);

#endif
