/* xa.c - the switch: opening and closing, and a thread's work on branches. */
#include "tools/lib/xa_private.h"

#include "tools/lib/xa_branch.h"

#include <stdio.h>
#include <string.h>

/* ---- opening and closing ---- */

static int xa_open(char *text, int rmid, long flags)
{
	struct xa_rm *rm = xa_rm_find(rmid);
	struct xa_info info;
	struct txnfs *fs;
	char *real;
	bool there;
	int r;

	if (flags & TMASYNC)
		return xa_no_async("xa_open");
	if (flags != TMNOFLAGS)
		return xa_bad_flags("xa_open", flags);
	if (xa_info_parse(text, &info))
		return XAER_INVAL;
	if (rm && strcmp(rm->text, text)) {
		txnfs_lib_fail(0, "xa_open: rmid %d is open already, as \"%s\"", rmid, rm->text);
		return XAER_INVAL;
	}
	if (rm)
		return XA_OK;
	/* A program's environment shall not decide where a transaction manager's control files are. */
	r = txnfs_open(info.point, *info.control ? info.control : ".txn", &fs);
	if (r)
		return XAER_RMERR;
	/* txnfs_open takes any path in a mount; an unmounted one might lie in another mount. */
	real = realpath(info.point, NULL);
	there = real && !strcmp(real, txnfs_mount_point(fs));
	free(real);
	if (!there) {
		txnfs_lib_fail(0, "xa_open: %s is not a mount point of txnfs; %s is", info.point,
		               txnfs_mount_point(fs));
		txnfs_close(fs);
		return XAER_RMERR;
	}
	return xa_rm_add(rmid, text, &info, fs) ? XAER_RMERR : XA_OK;
}

static int xa_close(char *text UNUSED, int rmid, long flags)
{
	struct xa_rm *rm = xa_rm_find(rmid);

	if (flags & TMASYNC)
		return xa_no_async("xa_close");
	if (flags != TMNOFLAGS)
		return xa_bad_flags("xa_close", flags);
	if (!rm)
		return XA_OK;
	if (rm->associations) {
		txnfs_lib_fail(0, "xa_close: the thread is in branch %s", rm->associations->branch->gid);
		return XAER_PROTO;
	}
	xa_rm_remove(rm);
	return XA_OK;
}

/* ---- a thread's work ---- */

static int resume(struct xa_rm *rm, const char *gid)
{
	struct xa_association *a = xa_association_of(rm, gid);
	int code;

	if (!a)
		return xa_known(rm, gid, "xa_start: this thread has not suspended its work on branch %s");
	code = xa_alive(rm, a);
	if (code == XA_OK)
		a->suspended = false;
	else
		xa_dissociate(rm, a);
	return code;
}

static int join(struct xa_rm *rm, const char *gid)
{
	int code = xa_rollback_only(rm, gid), fd;

	if (xa_association_of(rm, gid)) {
		txnfs_lib_fail(0, "xa_start: this thread has suspended its work on branch %s, and must resume it", gid);
		return XAER_PROTO;
	}
	if (code)
		return xa_is_rollback_only(gid, code);
	code = xa_branch_open(rm, gid, false, &fd);
	return code == XA_OK ? xa_associate(rm, gid, fd) : code;
}

static int start(struct xa_rm *rm, const char *gid)
{
	int code, fd;

	if (xa_rollback_only(rm, gid)) {
		txnfs_lib_fail(0, "xa_start: branch %s exists, and is rollback-only", gid);
		return XAER_DUPID;
	}
	code = xa_branch_begin(rm, gid);
	if (code != XA_OK)
		return code;
	code = xa_branch_open(rm, gid, false, &fd);
	if (code == XAER_NOTA)
		return XA_RBROLLBACK; /* somebody has ended it within this moment */
	if (code != XA_OK)
		return code;
	code = xa_associate(rm, gid, fd);
	if (code != XA_OK)
		xa_branch_remove(rm, gid);
	return code;
}

static int xa_start(XID *xid, int rmid, long flags)
{
	struct xa_association *active;
	char gid[TXNFS_XA_GID_MAX + 1];
	struct xa_rm *rm;
	int code = xa_check("xa_start", xid, rmid, flags, TMJOIN | TMRESUME | TMNOWAIT, &rm, gid);

	if (code != XA_OK)
		return code;
	if ((flags & TMJOIN) && (flags & TMRESUME))
		return xa_bad_flags("xa_start", flags);
	active = xa_association_active(rm);
	if (active) {
		txnfs_lib_fail(0, "xa_start: the thread is in branch %s", active->branch->gid);
		return XAER_PROTO;
	}
	if (flags & TMRESUME)
		return resume(rm, gid);
	return flags & TMJOIN ? join(rm, gid) : start(rm, gid);
}

static int xa_end(XID *xid, int rmid, long flags)
{
	long how = flags & (TMSUSPEND | TMSUCCESS | TMFAIL);
	struct xa_association *a;
	char gid[TXNFS_XA_GID_MAX + 1];
	struct xa_rm *rm;
	int code = xa_check("xa_end", xid, rmid, flags, TMSUSPEND | TMSUCCESS | TMFAIL, &rm, gid);

	if (code != XA_OK)
		return code;
	if (how != TMSUSPEND && how != TMSUCCESS && how != TMFAIL)
		return xa_bad_flags("xa_end", flags);
	a = xa_association_of(rm, gid);
	if (!a)
		return xa_known(rm, gid, "xa_end: this thread is not in branch %s");
	if (how == TMSUSPEND && a->suspended) {
		txnfs_lib_fail(0, "xa_end: the thread's work on branch %s is suspended already", gid);
		return XAER_PROTO;
	}
	if (how == TMFAIL) {
		txnfs_lib_fail(0, "branch %s was ended with TMFAIL", gid);
		xa_mark_rollback_only(a, XA_RBROLLBACK);
	}
	code = xa_alive(rm, a);
	if (code == XA_OK && how == TMSUSPEND)
		a->suspended = true;
	else
		xa_dissociate(rm, a);
	return code;
}

void xa_abandon(struct xa_rm *rm, struct xa_association *a)
{
	xa_mark_rollback_only(a, XA_RBROLLBACK);
	xa_alive(rm, a);
}

/* ---- what programs ask ---- */

static struct xa_association *active_of(int rmid)
{
	struct xa_rm *rm = xa_rm_find(rmid);

	return rm ? xa_association_active(rm) : NULL;
}

int txnfs_xa_root(int rmid, char *buf, size_t size)
{
	struct xa_association *a = active_of(rmid);
	struct xa_rm *rm = xa_rm_find(rmid);
	int n;

	if (size)
		*buf = '\0';
	if (!a)
		return txnfs_lib_fail(-ENOTCONN, "the thread has no active branch of rmid %d", rmid);
	n = snprintf(NULL, 0, "%s/%s/%s/root", rm->fs->point, rm->fs->control, a->branch->gid);
	if (n < 0 || (size_t)n >= size)
		return txnfs_lib_fail(-ERANGE, "the path needs %d bytes, there are %zu", n + 1, size);
	snprintf(buf, size, "%s/%s/%s/root", rm->fs->point, rm->fs->control, a->branch->gid);
	return 0;
}

int txnfs_xa_failed(int rmid, int err)
{
	struct xa_association *a = active_of(rmid);
	int code = XA_RBOTHER;

	if (!a)
		return txnfs_lib_fail(-ENOTCONN, "the thread has no active branch of rmid %d", rmid);
	if (err == EDEADLK)
		code = XA_RBDEADLOCK;
	else if (err == EBUSY)
		code = XA_RBTIMEOUT;
	else if (err == ECANCELED)
		code = XA_RBTRANSIENT;
	xa_mark_rollback_only(a, code);
	return 0;
}

const char *txnfs_xa_error(void)
{
	return txnfs_error();
}

/* ---- the switch ---- */

struct xa_switch_t txnfs_xa_switch = {
	.name = "txnfs",
	.flags = TMNOMIGRATE,
	.version = 0,
	.xa_open_entry = xa_open,
	.xa_close_entry = xa_close,
	.xa_start_entry = xa_start,
	.xa_end_entry = xa_end,
	.xa_rollback_entry = xa_rollback,
	.xa_prepare_entry = xa_prepare,
	.xa_commit_entry = xa_commit,
	.xa_recover_entry = xa_recover,
	.xa_forget_entry = xa_forget,
	.xa_complete_entry = xa_complete,
};
