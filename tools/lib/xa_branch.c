/* xa_branch.c - branches as the mount has them: a named transaction until it is prepared, then a GID. */
#include "tools/lib/xa_branch.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

/* ---- what all calls check ---- */

int xa_no_async(const char *call)
{
	txnfs_lib_fail(0, "%s: there are no asynchronous calls", call);
	return XAER_ASYNC;
}

int xa_bad_flags(const char *call, long flags)
{
	txnfs_lib_fail(0, "%s: the flags 0x%lx are not allowed, or not together", call, flags);
	return XAER_INVAL;
}

int xa_is_rollback_only(const char *gid, int code)
{
	txnfs_lib_fail(0, "branch %s is rollback-only", gid);
	return code;
}

int xa_check(const char *call, const XID *xid, int rmid, long flags, long allowed, struct xa_rm **rm, char *gid)
{
	*rm = xa_rm_find(rmid);
	if (flags & TMASYNC)
		return xa_no_async(call);
	if (flags & ~allowed)
		return xa_bad_flags(call, flags);
	if (txnfs_xa_gid(xid, gid))
		return XAER_INVAL;
	if (*rm)
		return XA_OK;
	txnfs_lib_fail(0, "%s: rmid %d is not open in this thread", call, rmid);
	return XAER_PROTO;
}

int xa_failure(int r)
{
	switch (r) {
	case -ENOMEM:
	case -EMFILE:
	case -ENFILE:
	case -EUSERS:
	case -EDQUOT:
	case -ENOSPC:
		return XAER_RMERR;
	default:
		return XAER_RMFAIL;
	}
}

/* ---- where a branch stands ---- */

static bool is_active(const char *status)
{
	const char *state = txnfs_lib_status(status, "state");

	return state && !strncmp(state, "active\n", 7);
}

struct wanted {
	const char *gid;
	bool found;
};

static int same_gid(void *arg, const struct txnfs_prepared *p)
{
	struct wanted *w = arg;

	w->found = !strcmp(p->gid, w->gid);
	return w->found;
}

/*
 * A branch goes from open to prepared to absent, so it is looked for in this order. What is prepared counts: someone
 * may have begun another transaction of that name. Each answer is the daemon's: what the kernel remembers of a name
 * outlives the daemon, and "not known" of a mount that is gone would be a lie with consequences.
 */
int xa_lookup(const struct xa_rm *rm, const char *gid, enum xa_state *out)
{
	CLEANUP_FREE char *status = NULL;
	struct wanted w = {.gid = gid};
	CLEANUP_CLOSE int dirfd = -1;
	int r = txnfs_lib_dir(rm->fs, &dirfd);

	*out = XA_ABSENT;
	if (r)
		return XAER_RMFAIL;
	r = txnfs_lib_read(rm->fs, dirfd, gid, "status", &status);
	/* Another user's is there, too. */
	if (r == -EACCES || (!r && is_active(status)))
		*out = XA_OPEN;
	else if (r && r != -ENOENT)
		return XAER_RMFAIL;
	r = txnfs_list_prepared(rm->fs, same_gid, &w);
	if (r < 0)
		return XAER_RMFAIL;
	if (w.found)
		*out = XA_PREPARED;
	return XA_OK;
}

static int not_known(const struct xa_rm *rm, const char *gid)
{
	txnfs_lib_fail(0, "%s: there is no branch %s", rm->fs->point, gid);
	return XAER_NOTA;
}

int xa_known(const struct xa_rm *rm, const char *gid, const char *fmt)
{
	char text[TXNFS_LIB_TEXT];
	enum xa_state state;
	int code;

	if (!xa_rollback_only(rm, gid)) {
		code = xa_lookup(rm, gid, &state);
		if (code != XA_OK)
			return code;
		if (state == XA_ABSENT)
			return not_known(rm, gid);
	}
	snprintf(text, sizeof(text), fmt, gid);
	txnfs_lib_fail(0, "%s", text);
	return XAER_PROTO;
}

/* ---- beginning ---- */

/* Is the process at work in an ambient transaction? The second line of ctl tells. */
static int outside(const struct xa_rm *rm, int dirfd)
{
	CLEANUP_FREE char *text = NULL;
	const char *line;
	int r = txnfs_lib_read(rm->fs, dirfd, NULL, "ctl", &text);

	if (r)
		return xa_failure(r);
	line = strchr(text, '\n');
	if (!line || strncmp(line + 1, "transaction ", strlen("transaction ")))
		return XA_OK;
	txnfs_lib_fail(0, "%s: the process is in another transaction: %.*s", rm->fs->point,
	               (int)strcspn(line + 1, "\n"), line + 1);
	return XAER_OUTSIDE;
}

static int check_not_prepared(const struct xa_rm *rm, const char *gid)
{
	struct wanted w = {.gid = gid};
	int r = txnfs_list_prepared(rm->fs, same_gid, &w);

	if (r < 0)
		return xa_failure(r);
	if (!w.found)
		return XA_OK;
	txnfs_lib_fail(0, "%s: branch %s is prepared", rm->fs->point, gid);
	return XAER_DUPID;
}

int xa_branch_begin(const struct xa_rm *rm, const char *gid)
{
	struct txnfs_options options = rm->info.options;
	CLEANUP_CLOSE int dirfd = -1;
	int r = txnfs_lib_dir(rm->fs, &dirfd), code;

	if (r)
		return xa_failure(r);
	code = outside(rm, dirfd);
	if (code == XA_OK)
		code = check_not_prepared(rm, gid);
	if (code != XA_OK)
		return code;
	if (rm->info.owned)
		options.owner = getpid();
	r = txnfs_lib_begin_named(rm->fs, dirfd, gid, &options);
	if (r == -EALREADY)
		return XAER_OUTSIDE;
	if (r == -EEXIST)
		return XAER_DUPID;
	if (r == -ECANCELED)
		return XA_RBROLLBACK;
	if (r)
		return r == -ESRCH || r == -EINVAL ? XAER_RMERR : xa_failure(r);
	/* Again, now that nobody else can begin or prepare it. */
	code = check_not_prepared(rm, gid);
	if (code != XA_OK)
		xa_branch_remove(rm, gid);
	return code;
}

void xa_branch_remove(const struct xa_rm *rm, const char *gid)
{
	CLEANUP_CLOSE int dirfd = -1;
	char text[TXNFS_LIB_TEXT];

	txnfs_lib_text_save(text);
	if (!txnfs_lib_dir(rm->fs, &dirfd))
		unlinkat(dirfd, gid, AT_REMOVEDIR);
	txnfs_lib_text_restore(text);
}

/* ---- a branch's directory ---- */

int xa_branch_open(const struct xa_rm *rm, const char *gid, bool exclusive, int *out)
{
	CLEANUP_CLOSE int dirfd = -1, fd = -1;
	CLEANUP_FREE char *status = NULL;
	enum xa_state state;
	int code, r = txnfs_lib_dir(rm->fs, &dirfd);

	*out = -1;
	if (r)
		return xa_failure(r);
	do
		fd = openat(dirfd, gid, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	while (fd < 0 && errno == EINTR);
	if (fd < 0 && errno != ENOENT && errno != ENOTCONN) {
		r = -errno;
		txnfs_lib_fail(r, "%s: branch %s: %s", rm->fs->point, gid, strerror(-r));
		return xa_failure(r);
	}
	if (fd >= 0 && flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB)) {
		txnfs_lib_fail(0, exclusive ? "%s: threads are in branch %s" : "%s: branch %s is being ended",
		               rm->fs->point, gid);
		return XAER_PROTO;
	}
	/* Whoever held the lock may have ended it. */
	if (fd >= 0 && !txnfs_lib_read(rm->fs, fd, NULL, "status", &status) && is_active(status)) {
		*out = TAKE_FD(fd);
		return XA_OK;
	}
	if (fd >= 0)
		flock(fd, LOCK_UN);
	code = xa_lookup(rm, gid, &state);
	if (code != XA_OK)
		return code;
	if (state == XA_ABSENT)
		return not_known(rm, gid);
	txnfs_lib_fail(0, "%s: branch %s %s", rm->fs->point, gid,
	               state == XA_PREPARED ? "is prepared" : "has begun just now");
	return XAER_PROTO;
}

void xa_branch_close(int fd)
{
	flock(fd, LOCK_UN); /* not only the last close: a child may have a copy for a moment */
	close(fd);
}

void xa_branch_rollback(const struct xa_rm *rm, int fd)
{
	struct txnfs_lib_command c = {0};
	char text[TXNFS_LIB_TEXT];

	txnfs_lib_text_save(text);
	txnfs_lib_put(&c, "rollback\n");
	txnfs_lib_command(rm->fs, fd, NULL, &c, NULL);
	txnfs_lib_text_restore(text);
}

int xa_alive(struct xa_rm *rm, struct xa_association *a)
{
	CLEANUP_FREE char *status = NULL;
	int code = xa_rollback_only(rm, a->branch->gid), r;
	enum xa_state state;

	if (code) {
		xa_branch_rollback(rm, a->fd);
		return xa_is_rollback_only(a->branch->gid, code);
	}
	r = txnfs_lib_read(rm->fs, a->fd, NULL, "status", &status);
	if (!r && is_active(status))
		return XA_OK;
	/* Does the mount live? A daemon that is another one by now has no such branch. */
	if (xa_lookup(rm, a->branch->gid, &state) != XA_OK)
		return XAER_RMFAIL;
	code = xa_mark_rollback_only(a, r == -ENOTCONN ? XA_RBCOMMFAIL : XA_RBROLLBACK);
	txnfs_lib_fail(0, "%s: branch %s has been rolled back: by an operator, for idleness, or with its daemon",
	               rm->fs->point, a->branch->gid);
	return code;
}
