/* xa_private.h - what the parts of libtxnfs-xa share. */
#ifndef TXNFS_XA_PRIVATE_H
#define TXNFS_XA_PRIVATE_H

#include "tools/lib/private.h"
#include "tools/lib/txnfs-xa.h"

/* ---- the open string (xa_id.c) ---- */

struct xa_info {
	char point[MAXINFOSIZE];
	char control[MAXINFOSIZE]; /* "": the default */
	struct txnfs_options options;
	bool owned;
};
/* -EINVAL with the text. */
int xa_info_parse(const char *text, struct xa_info *out);

/* ---- threads of control, their resource managers and associations (xa_state.c) ---- */

/* A branch that threads of this process are in, or that is rollback-only. All fields are under the table's lock. */
struct xa_branch {
	struct xa_branch *next;
	char *point; /* mount point */
	char gid[TXNFS_XA_GID_MAX + 1];
	unsigned associations;
	int rollback_only; /* XA_RB...; 0: it is not */
};

/* A thread's association with a branch. Its own thread alone uses it; the list is under the table's lock. */
struct xa_association {
	struct xa_association *next;
	struct xa_branch *branch;
	int fd; /* of the branch's directory, holds a shared flock that other processes see */
	bool suspended;
};

/* An opened resource manager of a thread; used like an association. */
struct xa_rm {
	struct xa_rm *next;
	int rmid;
	char text[MAXINFOSIZE]; /* the open string */
	struct xa_info info;
	struct txnfs *fs;
	struct xa_association *associations;
	XID *scan; /* xa_recover's; NULL: none is open */
	size_t scan_n, scan_at;
};

/* The calling thread's; NULL: rmid is not open in it. */
struct xa_rm *xa_rm_find(int rmid);
/* Takes fs over. */
int xa_rm_add(int rmid, const char *text, const struct xa_info *info, struct txnfs *fs);
void xa_rm_remove(struct xa_rm *rm);

struct xa_association *xa_association_of(struct xa_rm *rm, const char *gid);
/* The one that is not suspended. */
struct xa_association *xa_association_active(struct xa_rm *rm);
/*
 * Takes fd over, also on failure. XA_OK, or why not: XA_RB... of a branch that is rollback-only, XAER_RMERR out of
 * memory.
 */
int xa_associate(struct xa_rm *rm, const char *gid, int fd);
void xa_dissociate(struct xa_rm *rm, struct xa_association *a);

/* XA_RB... of a branch that is rollback-only, 0. */
int xa_rollback_only(const struct xa_rm *rm, const char *gid);
/* Make it so unless it is already; returns what it is now. The branch has an association. */
int xa_mark_rollback_only(struct xa_association *a, int code);
/* Forget the mark when no thread is in the branch any more: XA_RB...; XAER_PROTO: one is. 0: it was not marked. */
int xa_clear_rollback_only(const struct xa_rm *rm, const char *gid);

/* Of a thread that ends: roll the branch back (xa.c). */
void xa_abandon(struct xa_rm *rm, struct xa_association *a);

#endif
