/*
 * tx.h - the transactions of a mount as its users know them: by process, by name, by owner.
 *
 * The registry maps callers and names to transactions, runs control commands, and ends a transaction whose owning
 * process dies. It knows nothing of nodes and requests: what the kernel's caches need is done by hooks.
 *
 * Lock order: a tx's `busy` mutex (one command at a time) is taken before any engine lock; the registry's own mutex is
 * a leaf, never held while the engine or a hook is called.
 *
 * fusefs_tx_run and fusefs_tx_remove wait for a command that is running in the same transaction, and for its write-back
 * of mappings (hooks->quiesce): call them from threads that the serving of other requests can do without.
 *
 * At commit and rollback of the whole, membership and name end when the engine has returned and before hooks->ended is
 * called: from then on fusefs_tx_of and fusefs_tx_find do not find it. Commit calls quiesce, ending, txn_commit_with
 * (which calls flipping), ended; rollback calls ending, txn_rollback, ended; prepare calls quiesce, ending, txn_prepare and
 * ended as for a rollback: the transaction goes on without this registry's help. Its outcome calls begun, ending,
 * txn_commit_with (flipping) or txn_rollback, ended and gone
 * for a fusefs_tx that nobody finds. Of two that end the same transaction one does; the other one gets
 * -ENOTCONN and calls no hook.
 */
#ifndef TXNFS_TX_H
#define TXNFS_TX_H

#include "base/base.h"
#include "fusefs/grammar.h"
#include "txn/txn.h"

#include <pthread.h>
#include <stdatomic.h>

struct fusefs_registry;

struct fusefs_tx {
	struct txn *txn;      /* owned reference */
	unsigned number;      /* small, unique in this mount's life; never 0 */
	char *name;           /* named: its directory under .txn; ambient: the NAME given to begin or NULL */
	bool named;           /* made by mkdir: has root/ */
	uid_t uid;            /* who began it */
	_Atomic pid_t owner;  /* process (tgid) it dies with, 0: none */
	pthread_mutex_t busy; /* one control command at a time */
	atomic_uint refs;
	_Atomic int64_t used; /* when its last request or command came: ms, CLOCK_MONOTONIC */
	void *view; /* the node layer's own; set in hooks->begun, freed in hooks->gone */
	/* private to tx.c below */
	struct fusefs_tx_private *priv;
};

enum fusefs_end { FUSEFS_COMMITTED, FUSEFS_ROLLED_BACK, FUSEFS_UNCHANGED /* the commit failed, still active */ };

struct fusefs_tx_hooks {
	void *arg;
	/*
	 * A transaction has begun (named or ambient); called before anyone can find it, but fusefs_ambient_open counts
	 * it already. 0 or -errno to refuse: then `gone` is not called, and no reference may have been kept.
	 */
	int (*begun)(void *arg, struct fusefs_tx *tx);
	/* Collect dirty shared mappings of its view: before commit, savepoint, rollback to. */
	void (*quiesce)(void *arg, struct fusefs_tx *tx);
	/* Just before commit or rollback (whole): remember what it changed. The result goes to ended. */
	void *(*ending)(void *arg, struct fusefs_tx *tx);
	/*
	 * A commit is durable, and visible when this returns. Operations inside the transaction wait meanwhile, so it must
	 * not wait for any. Not called when the commit fails, or has nothing to make visible.
	 */
	void (*flipping)(void *arg, struct fusefs_tx *tx, void *remembered);
	/* After it, also when it failed: make the kernel's caches agree with the new committed state. Called without
	 * engine locks. */
	void (*ended)(void *arg, struct fusefs_tx *tx, enum fusefs_end how, void *remembered);
	/* After rollback to a savepoint (also one that failed half-way): the view's own caches are stale. */
	void (*rolled_back_to)(void *arg, struct fusefs_tx *tx);
	/* Its isolation level has been set: whatever the kernel has cached of its view was read before that. */
	void (*isolated)(void *arg, struct fusefs_tx *tx);
	/* The last reference is going. */
	void (*gone)(void *arg, struct fusefs_tx *tx);
	/* None may be NULL. */
};

/* Starts a thread that watches owners (pidfds in epoll; kernels without them: by start time, every 100 ms). */
int fusefs_registry_new(struct txn_engine *eng, const struct fusefs_tx_hooks *hooks, struct fusefs_registry **out);
/* Rolls back whatever is open, stops the thread, frees. No other call may be running or follow, but fusefs_tx_put. */
void fusefs_registry_free(struct fusefs_registry *reg);

struct fusefs_limits {
	double idle;           /* seconds without request and command, after which one is rolled back; 0: never */
	unsigned transactions; /* open ones of each uid but root's: begin answers -EUSERS; 0: no limit */
	uint64_t log;          /* bytes in the log of each uid's open ones (-EDQUOT); 0: no limit */
};
/* Once, before the first transaction. */
void fusefs_registry_limits(struct fusefs_registry *reg, const struct fusefs_limits *limits);

static inline void fusefs_tx_touch(struct fusefs_tx *tx)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	atomic_store_explicit(&tx->used, (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, memory_order_relaxed);
}

struct fusefs_tx *fusefs_tx_get(struct fusefs_tx *tx);
void fusefs_tx_put(struct fusefs_tx *tx);

struct fusefs_caller {
	pid_t pid; /* thread id as the kernel gave it; 0: unknown, never a member */
	uid_t uid;
	gid_t gid;
};

/* Number of ambient transactions open or just beginning: one relaxed load, the fast way to skip all membership. */
unsigned fusefs_ambient_open(struct fusefs_registry *reg);
/*
 * The ambient transaction that the caller is a member of (new reference), or NULL: that of its process or else of the
 * nearest ancestor that owns one. Ancestors count as they were when the process was first seen (member.h).
 */
struct fusefs_tx *fusefs_tx_of(struct fusefs_registry *reg, pid_t pid);
/* A named one (new reference), or NULL. Ended ones are not found. */
struct fusefs_tx *fusefs_tx_find(struct fusefs_registry *reg, const char *name);
int fusefs_tx_each_named(struct fusefs_registry *reg, int (*fn)(void *arg, struct fusefs_tx *tx), void *arg);

/*
 * mkdir .txn/NAME: -EEXIST (an ambient one's name counts too), -EINVAL (a name that is reserved: ctl, status, changes, transactions,
 * prepared;
 * or has control characters), -EROFS, ... Like removal it leaves a line for the caller's process.
 */
int fusefs_tx_make(struct fusefs_registry *reg, const char *name, const struct fusefs_caller *who,
                   struct fusefs_tx **out);
/* rmdir .txn/NAME: rolls back. -EACCES someone else's, -ENOENT it has ended meanwhile. */
int fusefs_tx_remove(struct fusefs_tx *tx, const struct fusefs_caller *who);
/* Seconds that its requests wait for other transactions: its own timeout, or dflt. */
double fusefs_tx_timeout(const struct fusefs_tx *tx, double dflt);
/*
 * Leave a line for the caller's process: what it wanted to change (path) is being changed by holder (NULL: by someone who
 * waited longer), and it was refused with r (-EBUSY, -EDEADLK) after so many seconds.
 */
void fusefs_tx_tell_conflict(struct fusefs_registry *reg, const struct fusefs_caller *who, const char *path,
                             const struct txn *holder, double seconds, int r);
/* May this caller see and end it: its uid, or root, or the process that owns it. */
bool fusefs_tx_allowed(const struct fusefs_tx *tx, const struct fusefs_caller *who);

/*
 * Run the commands in text. tx: the view's transaction whose ctl was written, or NULL for the committed root's ctl,
 * where the caller's ambient transaction is meant. When one of them is malformed none is run; else stops at the first
 * that fails and returns its errno. Nothing but blanks is -EINVAL; nothing but comments is 0. One readable line about
 * what happened (the last command's, or the failed one's) is stored for the caller's process, and appended, without a
 * newline, to *line when that is not NULL, e.g. "ok: committed transaction 12 (3 operations)" or "error: no savepoint
 * named \"x\" (ENOENT); savepoints: a, b".
 *
 * `owner PID` must name the caller's process or an ancestor of it, by its id in the caller's pid namespace (-EPERM;
 * -ESRCH: no such process), and unless the caller is root one of the caller's uid: else anybody could draw init, and with
 * it everybody, into a transaction.
 */
int fusefs_tx_run(struct fusefs_registry *reg, struct fusefs_tx *tx, const struct fusefs_caller *who, const char *text,
                  size_t len, struct base_buf *line);
/*
 * What ctl reads as for this caller: its process's last line (or that of the nearest ancestor that has one), then where
 * it stands, and in the engine's error state the reason.
 */
void fusefs_tx_last_line(struct fusefs_registry *reg, struct fusefs_tx *tx, const struct fusefs_caller *who,
                         struct base_buf *out);
/*
 * The texts of `status` ("key: value" lines; tx NULL: the mount's) and `changes` ("A path" lines, see txn_changes; the
 * two paths of a move separated by a tab; paths quoted by base_buf_quote).
 */
int fusefs_tx_status(struct fusefs_registry *reg, struct fusefs_tx *tx, struct base_buf *out);
int fusefs_tx_changes(struct fusefs_tx *tx, struct base_buf *out);
/* `prepared`: a line per prepared transaction of the mount: GID (by base_buf_quote), uid, time, changes, with tabs between. */
int fusefs_tx_prepared(struct fusefs_registry *reg, struct base_buf *out);
/* `transactions`: a line of names, then one for each that is open and that the caller may see, separated by tabs. */
int fusefs_tx_list(struct fusefs_registry *reg, const struct fusefs_caller *who, struct base_buf *out);

#endif
