/*
 * xa_branch.h - branches as the mount has them, and the calls that end them.
 *
 * Functions return XA's codes, and have set the thread's error text unless it is XA_OK (or XA_RDONLY).
 */
#ifndef TXNFS_XA_BRANCH_H
#define TXNFS_XA_BRANCH_H

#include "tools/lib/xa_private.h"

/* ---- what all calls check (xa_branch.c) ---- */

int xa_no_async(const char *call);
int xa_bad_flags(const char *call, long flags);
int xa_is_rollback_only(const char *gid, int code);
/* Flags, rmid and XID of a call; `flags` may have what `allowed` has. XA_OK with rm and gid. */
int xa_check(const char *call, const XID *xid, int rmid, long flags, long allowed, struct xa_rm **rm, char *gid);

/* ---- branches (xa_branch.c) ---- */

enum xa_state { XA_ABSENT, XA_OPEN, XA_PREPARED };
/* Where a branch stands. XAER_RMFAIL: the mount does not answer. */
int xa_lookup(const struct xa_rm *rm, const char *gid, enum xa_state *out);
/* For a call that does not fit: XAER_PROTO with this text (of one %s, the GID) when the branch exists, else XAER_NOTA.
 */
int xa_known(const struct xa_rm *rm, const char *gid, const char *fmt) __attribute__((format(printf, 3, 0)));
/* The code for a failure that says nothing about a branch, with the text that is set. */
int xa_failure(int r);

int xa_branch_begin(const struct xa_rm *rm, const char *gid);
/*
 * The directory of a branch that is not prepared, locked: shared by those who work in it, exclusive by who ends it. Its
 * control files are of this branch for good. XAER_NOTA, XAER_PROTO: it is prepared, or (exclusive) threads are in it.
 */
int xa_branch_open(const struct xa_rm *rm, const char *gid, bool exclusive, int *fd);
void xa_branch_close(int fd);
void xa_branch_remove(const struct xa_rm *rm, const char *gid);
/* Roll back by its own directory; errors are of no interest: it is gone, or will be with the mount. */
void xa_branch_rollback(const struct xa_rm *rm, int fd);
/* Does the branch live? XA_RB...: it is rollback-only or gone, and has been rolled back. XAER_RMFAIL. */
int xa_alive(struct xa_rm *rm, struct xa_association *a);

/* ---- entries of the switch (xa_end.c) ---- */

int xa_prepare(XID *xid, int rmid, long flags);
int xa_commit(XID *xid, int rmid, long flags);
int xa_rollback(XID *xid, int rmid, long flags);
int xa_recover(XID *xids, long count, int rmid, long flags);
int xa_forget(XID *xid, int rmid, long flags);
int xa_complete(int *handle, int *retval, int rmid, long flags);

#endif
