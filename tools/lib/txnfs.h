/*
 * txnfs.h - transactions on files of a txnfs mount, for C.
 *
 *     #include <stdio.h>
 *     #include <txnfs.h>
 *
 *     struct txnfs *fs;
 *     struct txnfs_tx *tx;
 *
 *     if (txnfs_open("/mnt/site", NULL, &fs) || txnfs_begin_named(fs, NULL, NULL, &tx))
 *             errx(1, "%s", txnfs_error());
 *     ... open, write, rename below txnfs_tx_root(tx) ...
 *     if (txnfs_commit(tx))
 *             warnx("%s", txnfs_error());
 *     txnfs_end(tx);                  rolls back what was not committed
 *     txnfs_close(fs);
 *
 * The library speaks the control files' language (txnfs-control(5)) and does nothing that a program could not do with
 * them. It needs nothing but the C library. Link with `pkg-config --cflags --libs libtxnfs`.
 *
 * Results.  Functions return 0 or a negative errno, those of txnfs-control(5) and those that are named here.
 * txnfs_error() then has the sentence that the mount gave: what happened, to what, whose transaction was in the way.
 * Every function that takes a mount can return
 *     -ENODEV    no txnfs is mounted at that place (any more), or its control directory has another name
 *     -ENOTCONN  the mount's daemon has ended
 *     -ENOMEM, -EMFILE, -ENFILE
 *
 * Threads.  All functions may be called from any thread at any time, also several on one struct txnfs or struct
 * txnfs_tx; but each object is freed once, when no other thread uses it any more. A program with threads uses named
 * transactions: an ambient one belongs to the process, with all of its threads.
 *
 * Fork.  A child may go on to use what its parent has opened. A named transaction is then shared by both: one of them
 * ends it, the other one calls txnfs_detach. An ambient one has the child as a member.
 *
 * Signals.  No function returns -EINTR, none changes a signal's disposition, none is async-signal-safe. A commit cannot
 * be interrupted once it has begun.
 *
 * Names and paths are bytes without NUL. Names have 1 to TXNFS_NAME_MAX bytes, and none of the control characters
 * except tab, newline and carriage return, which a named transaction's name cannot have either, nor a slash.
 */
#ifndef TXNFS_H
#define TXNFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TXNFS_NAME_MAX 255 /* bytes of a transaction's or a savepoint's name */
#define TXNFS_GID_MAX 200  /* bytes of a global transaction id */

struct txnfs;    /* a mount */
struct txnfs_tx; /* a transaction */

/*
 * What the calling thread's last call that failed has to say: one line without a newline, never NULL, "" before the
 * first failure. It is valid until the thread's next call of a function of this library, and never in the way of
 * another thread.
 */
const char *txnfs_error(void);

/* "0.1.0": the library's version, which may be another one than that of the header and of the mount. */
const char *txnfs_version(void);

/* ---- mounts ---- */

/*
 * A mount by its mount point, or by any path in it. `control` is what `-o control=` has made of the control directory's
 * name; NULL: $TXNFS_CONTROL, else ".txn". Nothing is held open: the mount can be unmounted and mounted again while
 * the object lives, which then means whatever is mounted there. A path in a transaction's root/ gives the view of that
 * transaction, in which no other one can begin (-EALREADY).
 * -EINVAL: an empty path, or a control name with a slash. -ENOENT, -EACCES, -ENOTDIR, -ELOOP: of the path.
 */
int txnfs_open(const char *path, const char *control, struct txnfs **out);

/* Free it; NULL is fine. Its transactions do not need it any more. */
void txnfs_close(struct txnfs *fs);

/* The mount point, absolute and without symbolic links. Valid as long as fs. */
const char *txnfs_mount_point(const struct txnfs *fs);

/* ---- beginning ---- */

enum txnfs_isolation {
	TXNFS_DEFAULT = 0, /* read committed */
	TXNFS_READ_COMMITTED,
	TXNFS_SERIALIZABLE, /* named transactions only: else -EOPNOTSUPP */
	TXNFS_SNAPSHOT,     /* the same */
};

#define TXNFS_NO_WAIT (-1)

/* Zeros (or NULL for the whole) mean the defaults. */
struct txnfs_options {
	enum txnfs_isolation isolation;
	/* How long an operation waits for what another transaction has changed, in milliseconds; 0: the mount's
	 * lock_timeout; TXNFS_NO_WAIT: not at all. It then fails with EBUSY. */
	int timeout_ms;
	/* The process whose death rolls the transaction back: the caller (getpid()) or one of its ancestors of the same
	 * user. 0: of an ambient transaction the caller; of a named one nobody, it stays until it is ended or
	 * unmounted. */
	pid_t owner;
	/* Of an ambient transaction: a name to know it by in status and messages. Ignored by txnfs_begin_named. */
	const char *label;
	/* Must be zero: -EINVAL. */
	uintptr_t reserved[8];
};

/*
 * Begin an ambient transaction. From here to its end, the owning process, all its threads and all its descendants see
 * and change the tree at its ordinary paths within this transaction. A process is in one at a time: -EALREADY.
 */
int txnfs_begin(struct txnfs *fs, const struct txnfs_options *options, struct txnfs_tx **out);

/*
 * Begin a named transaction: whoever uses paths below txnfs_tx_root() works in it, any number of threads and processes
 * of the same user. `name` NULL: the library finds one that is not in use. -EEXIST: the name is in use. -ECANCELED: it was
 * ended by someone else while it was given its options. -EUSERS: too many are open.
 */
int txnfs_begin_named(struct txnfs *fs, const char *name, const struct txnfs_options *options, struct txnfs_tx **out);

/* A named transaction that is open already, begun by anyone of the same user. -ENOENT: there is none of that name. */
int txnfs_attach(struct txnfs *fs, const char *name, struct txnfs_tx **out);

/* The tree as the transaction sees it, an absolute path; of an ambient one the mount point. Valid as long as tx. */
const char *txnfs_tx_root(const struct txnfs_tx *tx);

/* The name of a named transaction; NULL of an ambient one. Valid as long as tx. */
const char *txnfs_tx_name(const struct txnfs_tx *tx);

/* ---- using and ending ---- */

/*
 * Durable and visible to all, at one moment. After a failure txnfs_error() tells what has become of it:
 *     -ECANCELED  (serializable, snapshot) another one was faster; it has been rolled back: try the whole again
 *     -ENOSPC     it is still open: make room and commit again, or roll back
 *     -EIO        the disk failed: the mount is read-only, and its next recovery decides
 *     -ENOTCONN   it had ended before, or the daemon has: it is committed only if the daemon got as far as that
 *     -ENOENT     the same, of a named one
 */
int txnfs_commit(struct txnfs_tx *tx);

/* As if it had never been. */
int txnfs_rollback(struct txnfs_tx *tx);

/* Names may repeat; the newest counts. */
int txnfs_savepoint(struct txnfs_tx *tx, const char *name);

/* Undo what came after; the savepoint stays, those behind it go. -ENOENT: no such savepoint, and nothing has changed.
 */
int txnfs_rollback_to(struct txnfs_tx *tx, const char *name);

/* Forget the savepoint and those behind it; the changes stay. -ENOENT: no such savepoint. */
int txnfs_release(struct txnfs_tx *tx, const char *name);

/*
 * Free tx, after rolling it back when it is still open; NULL is fine. Keeps errno and txnfs_error(), so it can stand
 * in any cleanup. What cannot be rolled back (the daemon has ended) is left to the mount's recovery.
 */
void txnfs_end(struct txnfs_tx *tx);

/* Free tx and leave the transaction as it is. NULL is fine. */
void txnfs_detach(struct txnfs_tx *tx);

/* ---- two-phase commit ---- */

/*
 * First phase. On success the transaction has left tx (which remains to be freed) and waits under its gid, durably,
 * over crashes and unmounts, for one of the two calls below from any process of its user or root. On failure it has
 * been rolled back, unless the gid could not be understood (-EINVAL, -ENAMETOOLONG); -EEXIST: the gid is in use; -EIO:
 * whether it is prepared is decided by the mount's next recovery.
 */
int txnfs_prepare(struct txnfs_tx *tx, const char *gid);

/* Its outcome. -ENOENT: nothing is prepared by that gid (any more). -EACCES: it is someone else's. */
int txnfs_commit_prepared(struct txnfs *fs, const char *gid);
int txnfs_rollback_prepared(struct txnfs *fs, const char *gid);

struct txnfs_prepared {
	const char *gid; /* valid during the call */
	uid_t uid;       /* whose it is */
	time_t when;     /* it was prepared */
	uint64_t changes;
};

/*
 * Call fn for each prepared transaction, oldest first, all as of one moment; those of other users too. fn may call
 * this library. It returns 0 to go on; anything else ends the listing and is returned.
 */
int txnfs_list_prepared(struct txnfs *fs, int (*fn)(void *arg, const struct txnfs_prepared *p), void *arg);

#ifdef __cplusplus
}
#endif
#endif
