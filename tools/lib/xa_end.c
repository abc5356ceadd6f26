/* xa_end.c - how branches end: prepare, commit, rollback; and what is left of them after a crash. */
#include "tools/lib/xa_branch.h"

#include <stdio.h>
#include <string.h>

#define HAS_ENDED (-ESTALE)

/* To the branch: VERB ["GID"]. HAS_ENDED: it had before; -ENOTCONN: the daemon has, perhaps after it had done what it
 * was told. */
static int tell(const struct xa_rm *rm, int fd, const char *verb, const char *gid)
{
	struct txnfs_lib_command c = {0};
	char answer[TXNFS_LIB_TEXT];
	int r;

	txnfs_lib_put(&c, "%s", verb);
	if (gid)
		txnfs_lib_put_name(&c, gid);
	txnfs_lib_put(&c, "\n");
	r = txnfs_lib_command(rm->fs, fd, NULL, &c, answer);
	return r == -ENOTCONN && *answer ? HAS_ENDED : r;
}

/* A branch that is not prepared could not be prepared or committed: the code, after it is rolled back where that can be
 * said. */
static int could_not(const struct xa_rm *rm, int fd, int r)
{
	switch (r) {
	case -ENOTCONN:
	case -EIO:
	case -EROFS:
	case -EACCES:
		return XAER_RMFAIL; /* not known, or as it was */
	case HAS_ENDED:
		return XA_RBROLLBACK;
	default:
		xa_branch_rollback(rm, fd);
		return r == -ECANCELED ? XA_RBTRANSIENT : XA_RBOTHER;
	}
}

/* ---- prepare ---- */

static bool is_zero(const char *status, const char *key)
{
	const char *value = txnfs_lib_status(status, key);

	return value && !strncmp(value, "0\n", 2);
}

struct changes {
	const char *gid;
	bool any;
};

static int find_changes(void *arg, const struct txnfs_prepared *p)
{
	struct changes *c = arg;

	if (strcmp(p->gid, c->gid))
		return 0;
	c->any = p->changes != 0;
	return 1;
}

/*
 * 1: the branch has changed nothing. What was stored through mappings counts only once it is collected, which a
 * savepoint does.
 */
static int unchanged(const struct xa_rm *rm, int fd)
{
	CLEANUP_FREE char *status = NULL;
	int r = tell(rm, fd, "savepoint", "xa-prepare");

	if (!r)
		r = txnfs_lib_read(rm->fs, fd, NULL, "status", &status);
	if (r)
		return r;
	return is_zero(status, "operations") && is_zero(status, "changed_objects") && is_zero(status, "changed_names");
}

static int prepare(const struct xa_rm *rm, const char *gid, int fd)
{
	struct changes c = {.gid = gid, .any = true};
	int r = unchanged(rm, fd);
	bool idle = r == 1;

	if (idle && rm->info.options.isolation != TXNFS_SERIALIZABLE) {
		r = tell(rm, fd, "rollback", NULL);
		return r ? could_not(rm, fd, r) : XA_RDONLY;
	}
	if (r >= 0)
		r = tell(rm, fd, "prepare", gid);
	if (r)
		return could_not(rm, fd, r);
	if (!idle)
		return XA_OK;
	/* What it has read was valid (serializable): preparing has looked. Has it really changed nothing? */
	r = txnfs_list_prepared(rm->fs, find_changes, &c);
	if (r == 1 && !c.any)
		return txnfs_rollback_prepared(rm->fs, gid) ? XA_OK : XA_RDONLY;
	return XA_OK;
}

int xa_prepare(XID *xid, int rmid, long flags)
{
	char gid[TXNFS_XA_GID_MAX + 1];
	struct xa_rm *rm;
	int code = xa_check("xa_prepare", xid, rmid, flags, TMNOFLAGS, &rm, gid), fd;

	if (code == XA_OK && xa_rollback_only(rm, gid)) {
		txnfs_lib_fail(0, "xa_prepare: branch %s is rollback-only", gid);
		code = XAER_PROTO;
	}
	if (code == XA_OK)
		code = xa_branch_open(rm, gid, true, &fd);
	if (code != XA_OK)
		return code;
	code = prepare(rm, gid, fd);
	xa_branch_close(fd);
	return code;
}

/* ---- commit and rollback ---- */

static int commit_once(const struct xa_rm *rm, const char *gid)
{
	int fd, r, code = xa_branch_open(rm, gid, true, &fd);

	if (code != XA_OK)
		return code;
	r = tell(rm, fd, "commit", NULL);
	code = r ? could_not(rm, fd, r) : XA_OK;
	xa_branch_close(fd);
	return code;
}

static int not_prepared(const struct xa_rm *rm, const char *gid)
{
	return xa_known(rm, gid, "xa_commit: branch %s is not prepared");
}

/* It is prepared, whatever comes: so nothing here may say that it has been rolled back. */
static int commit_prepared(const struct xa_rm *rm, const char *gid)
{
	switch (txnfs_commit_prepared(rm->fs, gid)) {
	case 0:
		return XA_OK;
	case -ENOENT:
		return not_prepared(rm, gid);
	case -ENOMEM:
	case -EMFILE:
	case -ENFILE:
	case -ENOSPC:
	case -EDQUOT:
	case -EBUSY:
		return XA_RETRY;
	default:
		return XAER_RMFAIL;
	}
}

int xa_commit(XID *xid, int rmid, long flags)
{
	char gid[TXNFS_XA_GID_MAX + 1];
	struct xa_rm *rm;
	int code = xa_check("xa_commit", xid, rmid, flags, TMNOWAIT | TMONEPHASE, &rm, gid);

	if (code == XA_OK && xa_rollback_only(rm, gid)) {
		txnfs_lib_fail(0, "xa_commit: branch %s is rollback-only", gid);
		code = XAER_PROTO;
	}
	if (code != XA_OK)
		return code;
	return flags & TMONEPHASE ? commit_once(rm, gid) : commit_prepared(rm, gid);
}

int xa_rollback(XID *xid, int rmid, long flags)
{
	char gid[TXNFS_XA_GID_MAX + 1];
	struct xa_rm *rm;
	int fd, r, code = xa_check("xa_rollback", xid, rmid, flags, TMNOFLAGS, &rm, gid);

	if (code != XA_OK)
		return code;
	code = xa_clear_rollback_only(rm, gid);
	if (code > 0)
		return xa_is_rollback_only(gid, code);
	if (code < 0) {
		txnfs_lib_fail(0, "xa_rollback: threads are in branch %s", gid);
		return code;
	}
	/* What is prepared comes first: someone may have begun another transaction of that name. */
	r = txnfs_rollback_prepared(rm->fs, gid);
	if (r != -ENOENT)
		return r ? XAER_RMFAIL : XA_OK;
	code = xa_branch_open(rm, gid, true, &fd);
	if (code != XA_OK)
		return code;
	r = tell(rm, fd, "rollback", NULL);
	xa_branch_close(fd);
	return r && r != HAS_ENDED ? XAER_RMFAIL : XA_OK;
}

/* ---- after a crash ---- */

struct found {
	XID *xids;
	size_t n, cap;
	uid_t me;
};

static int add_found(void *arg, const struct txnfs_prepared *p)
{
	struct found *f = arg;
	XID xid, *more;

	if ((f->me && p->uid != f->me) || txnfs_xa_xid(p->gid, &xid))
		return 0;
	if (f->n == f->cap) {
		more = reallocarray(f->xids, 2 * f->cap, sizeof(*more));
		if (!more)
			return txnfs_lib_fail(-ENOMEM, "%s", strerror(ENOMEM));
		f->xids = more;
		f->cap *= 2;
	}
	f->xids[f->n++] = xid;
	return 0;
}

static int begin_scan(struct xa_rm *rm)
{
	struct found f = {.cap = 16, .me = geteuid()};
	int r;

	f.xids = calloc(f.cap, sizeof(*f.xids));
	if (!f.xids) {
		txnfs_lib_fail(0, "%s", strerror(ENOMEM));
		return XAER_RMERR;
	}
	r = txnfs_list_prepared(rm->fs, add_found, &f);
	if (r) {
		free(f.xids);
		return xa_failure(r);
	}
	free(rm->scan);
	rm->scan = f.xids;
	rm->scan_n = f.n;
	rm->scan_at = 0;
	return XA_OK;
}

int xa_recover(XID *xids, long count, int rmid, long flags)
{
	struct xa_rm *rm = xa_rm_find(rmid);
	size_t n;
	int code;

	if (flags & ~(TMSTARTRSCAN | TMENDRSCAN))
		return flags & TMASYNC ? xa_no_async("xa_recover") : xa_bad_flags("xa_recover", flags);
	if (count < 0 || (!xids && count)) {
		txnfs_lib_fail(0, "xa_recover: there is no room for %ld XIDs", count);
		return XAER_INVAL;
	}
	if (!rm) {
		txnfs_lib_fail(0, "xa_recover: rmid %d is not open in this thread", rmid);
		return XAER_PROTO;
	}
	if (flags & TMSTARTRSCAN) {
		code = begin_scan(rm);
		if (code != XA_OK)
			return code;
	} else if (!rm->scan) {
		txnfs_lib_fail(0, "xa_recover: no scan has been started");
		return XAER_INVAL;
	}
	n = base_min_u64(base_min_u64((uint64_t)count, INT32_MAX), rm->scan_n - rm->scan_at);
	if (n)
		memcpy(xids, rm->scan + rm->scan_at, n * sizeof(*xids));
	rm->scan_at += n;
	if (flags & TMENDRSCAN) {
		free(rm->scan);
		rm->scan = NULL;
	}
	return (int)n;
}

/* Nothing is ever completed heuristically. */
int xa_forget(XID *xid, int rmid, long flags)
{
	char gid[TXNFS_XA_GID_MAX + 1];
	struct xa_rm *rm;
	int code = xa_check("xa_forget", xid, rmid, flags, TMNOFLAGS, &rm, gid);

	return code == XA_OK ? xa_known(rm, gid, "xa_forget: branch %s is not completed heuristically") : code;
}

int xa_complete(int *handle UNUSED, int *retval UNUSED, int rmid UNUSED, long flags)
{
	if (flags & ~(TMMULTIPLE | TMNOWAIT))
		return xa_bad_flags("xa_complete", flags);
	txnfs_lib_fail(0, "xa_complete: there are no asynchronous calls");
	return XAER_PROTO;
}
