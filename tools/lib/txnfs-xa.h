/*
 * txnfs-xa.h - a txnfs mount as a resource manager for X/Open XA: files in a transaction manager's global transactions.
 *
 * A transaction manager gets the name of the switch, txnfs_xa_switch, and the library libtxnfs-xa, which needs nothing
 * but the C library. A program whose work on files belongs to a global transaction asks where:
 *
 *     char root[PATH_MAX];
 *
 *     if (txnfs_xa_root(rmid, root, sizeof(root)))       between xa_start and xa_end
 *             errx(1, "%s", txnfs_xa_error());
 *     ... open, write, rename below root ...
 *
 * Open string (at most MAXINFOSIZE - 1 bytes):  MOUNT-POINT[,OPTION...]
 * in which a comma or a backslash has a backslash before it.
 *     control=NAME       the control directory's name, as mounted with -o control=NAME (default .txn)
 *     isolation=LEVEL    read-committed (default), serializable or snapshot, for all branches
 *     timeout=SECONDS    how long operations wait for locks; 0: not at all (default: the mount's)
 *     owner=process      (default) a branch that is not prepared is rolled back when the process that started it ends
 *     owner=none         it stays until it is ended or unmounted (or the mount's idle_timeout has passed)
 * xa_close's string is ignored.
 *
 * Branches.  A branch is a named transaction of the mount, .txn/GID/, until it is prepared under the same name as GID.
 * The GID is made from the XID: "xa1.", the format id in hexadecimal, ".", the gtrid and "." and the bqual in
 * base64url; so operators see branches in .txn/transactions and .txn/prepared, and `txnfs resolve` can end one. (That
 * is a heuristic decision which nothing remembers: the transaction manager's own outcome is then answered with
 * XAER_NOTA.)
 *
 * Threads of control are threads. Each one calls xa_open for itself. Per rmid it has at most one active branch, and any
 * number of suspended ones, which the same thread must resume or end (TMNOMIGRATE). Threads of this and of other
 * processes work in one branch with TMJOIN, tightly coupled: they share its view and locks. Any thread of any process
 * of the same user that has opened the mount may prepare, commit or roll back. A branch whose threads are not all
 * through (xa_end) cannot be prepared or ended, whichever processes they are in: XAER_PROTO. A thread that ends inside
 * of a branch makes it rollback-only; so does the end of the process that started it. (A process that has joined and is
 * killed is just not in it any more.) Two rmids with one mount point are one resource: an XID that is started by one of
 * them is a duplicate for the other one, which can join. Nothing is inherited by fork: a child opens anew.
 *
 * Results beyond the specification's obvious ones:
 *     xa_open      XAER_RMERR: no txnfs is mounted exactly there.
 *                  XAER_INVAL: the string; or it is another one than that with which the rmid is open.
 *     xa_start     XAER_OUTSIDE: the process is in an ambient transaction of the mount, or in `txnfs run`.
 *     xa_end       TMFAIL makes rollback-only and rolls back at once: XA_RBROLLBACK. So does what txnfs_xa_failed was
 *                  told, with its code.
 *     xa_prepare   XA_RDONLY: nothing was changed, and it is over.
 *                  XA_RBTRANSIENT: (serializable, snapshot) another one was faster. XA_RBOTHER: no space, no memory.
 *                  XAER_PROTO: also when it is rollback-only, so that only xa_rollback is possible.
 *     xa_commit    XA_RETRY: no memory, no space just now.
 *                  XAER_RMFAIL: also when it is someone else's, or the mount is read-only after an error. It is still
 *                  prepared; but with TMONEPHASE the mount's next recovery decides.
 *     xa_rollback  XA_RB*: of what was rollback-only.
 *     xa_recover   lists what is prepared by the same user (for root: by all), as far as the GIDs are XIDs'.
 *     xa_forget    XAER_PROTO or XAER_NOTA: nothing is completed heuristically.
 *     xa_complete  XAER_PROTO: there are no asynchronous calls, TMASYNC gives XAER_ASYNC.
 *
 * XAER_RMFAIL means that the mount is gone or its daemon has ended: branches that were not prepared are lost. When it
 * is mounted again, the same rmid goes on to work. What was prepared waits.
 */
#ifndef TXNFS_XA_H
#define TXNFS_XA_H

#include <stddef.h>

#ifndef XIDDATASIZE /* some xa.h is there already */
#include <txnfs/xa.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Name "txnfs", flags TMNOMIGRATE, version 0. */
extern struct xa_switch_t txnfs_xa_switch;

#define TXNFS_XA_GID_MAX 194

/*
 * The tree as the calling thread's active branch of rmid sees it, an absolute path, into buf with a NUL.
 * -ENOTCONN: it has none. -ERANGE: size is too small; buf is "" when size is not 0.
 */
int txnfs_xa_root(int rmid, char *buf, size_t size);

/*
 * Tell that an operation on files failed in a way that the branch shall not survive: the library cannot see what open
 * and write have answered. `err` is errno. The branch is rollback-only from now on, and xa_end returns
 *     XA_RBDEADLOCK   EDEADLK
 *     XA_RBTIMEOUT    EBUSY, the wait for a lock
 *     XA_RBTRANSIENT  ECANCELED
 *     XA_RBOTHER      any other
 * What was told first counts. -ENOTCONN: the calling thread has no active branch of rmid.
 */
int txnfs_xa_failed(int rmid, int err);

/* What the calling thread's last call that did not succeed has to say; never NULL. Valid until its next call. */
const char *txnfs_xa_error(void);

/* The GID of an XID, with a NUL, and back. -EINVAL: there is no such XID, or no such GID. */
int txnfs_xa_gid(const XID *xid, char gid[TXNFS_XA_GID_MAX + 1]);
int txnfs_xa_xid(const char *gid, XID *xid);

#ifdef __cplusplus
}
#endif
#endif
