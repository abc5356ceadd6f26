/* ops_attr.c - attributes, extended attributes, symbolic links' targets, and the filesystem's own figures. */
#include "fusefs/private.h"

/*
 * A member wants to change a file by the shared node: it gets the transaction's own when the kernel looks the name up
 * again. By a descriptor that is not possible, and the caller sees ESTALE.
 */
static int copy_up(struct fusefs *fs, fuse_req_t req, const struct fusefs_node *n)
{
	struct fusefs_tx *tx = n->tx || n->directory ? NULL : fusefs_member_of(fs, req);
	int r;

	if (!tx)
		return fusefs_view_over(n) ? -ESTALE : 0;
	r = fusefs_node_mark(fs, n->obj, tx);
	fusefs_tx_put(tx);
	return r ? r : -ESTALE;
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi UNUSED)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *n = fusefs_node(fs, ino);
	struct stat st;
	FUSEFS_SCOPE s = {0};
	int r = 0;

	if (n->directory && fusefs_again_hold(fs, req, n))
		return;
	if (n->kind == FUSEFS_OBJECT) {
		fusefs_scope(fs, req, n, &s);
		r = txn_getattr(fs->eng, s.txn, n->obj, &st);
		if (!r)
			st.st_ino = fusefs_shown_ino(n->tx, st.st_ino);
	} else {
		fusefs_control_attr(fs, n, &st);
	}
	if (r)
		fuse_reply_err(req, -r);
	else
		fuse_reply_attr(req, &st, fusefs_attr_timeout(fs, n, &s));
}

/* Around a change of attributes, which holds a directory in the kernel: 0 or what to refuse it with; true: it waits. */
static int change_begin(struct fusefs *fs, fuse_req_t req, struct fusefs_node *n)
{
	if (n->directory)
		return fusefs_again_begin(fs, req, n, "");
	fusefs_may_wait();
	return 0;
}

static bool change_end(struct fusefs *fs, fuse_req_t req, struct fusefs_node *n, struct fusefs_tx *tx,
                       const struct fusefs_handle *h, int *r)
{
	return n->directory ? fusefs_again_end(fs, req, n, "", tx, r) : fusefs_wait(fs, req, tx, h, 0, r);
}

static unsigned set_mask(const struct fusefs_node *n, int to_set, bool kill)
{
	unsigned mask = 0;

	if (to_set & FUSE_SET_ATTR_MODE)
		mask |= STORE_SET_MODE;
	if (to_set & FUSE_SET_ATTR_UID)
		mask |= STORE_SET_UID;
	if (to_set & FUSE_SET_ATTR_GID)
		mask |= STORE_SET_GID;
	if (to_set & FUSE_SET_ATTR_SIZE)
		mask |= STORE_SET_SIZE;
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		mask |= TXN_SET_ATIME_NOW;
	else if (to_set & FUSE_SET_ATTR_ATIME)
		mask |= STORE_SET_ATIME;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		mask |= TXN_SET_MTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_MTIME)
		mask |= STORE_SET_MTIME;
	/* A new owner never inherits suid and sgid, whoever gave the file away. */
	if (kill || (!n->directory && (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))))
		mask |= TXN_KILL_SUIDGID;
	return mask;
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *n = fusefs_node(fs, ino);
	struct fusefs_handle *h = fi ? fusefs_handle(fi) : NULL;
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_ATTR};
	struct fusefs_telling telling = {0};
	bool size = to_set & FUSE_SET_ATTR_SIZE;
	FUSEFS_SCOPE s = {0};
	int r;

	if (n->kind != FUSEFS_OBJECT) {
		fusefs_control_setattr(fs, req, n, (unsigned)to_set);
		return;
	}
	/* A descriptor opened before begin stays outside the transaction, and ftruncate with it. */
	r = h ? 0 : copy_up(fs, req, n);
	if (!r) {
		fusefs_scope(fs, req, n, &s);
		if (size && n->tx)
			atomic_store(&n->written, true);
		r = change_begin(fs, req, n);
		if (!r)
			r = txn_setattr(fs->eng, s.txn, n->obj, h ? h->file : NULL, attr,
			                set_mask(n, to_set, size && fusefs_kill_priv(fs, req)), &reply.attr);
		if (change_end(fs, req, n, s.tx, h, &r))
			return;
	}
	if (r) {
		fuse_reply_err(req, -r);
		return;
	}
	reply.attr.st_ino = fusefs_shown_ino(n->tx, reply.attr.st_ino);
	reply.timeout = fusefs_attr_timeout(fs, n, &s);
	if (fusefs_must_tell(fs, &s))
		fusefs_tell_object(fs, &telling, n, n->obj, size ? 0 : FUSEFS_ATTRS_ONLY, 0);
	fusefs_finish(fs, n, &telling, &reply);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *n = fusefs_node(fs, ino);
	char target[4096 + 1];
	int r = -EINVAL;

	if (n->kind == FUSEFS_OBJECT)
		r = txn_readlink(fs->eng, n->tx ? n->tx->txn : NULL, n->obj, target, sizeof(target));
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_readlink(req, target);
}

/* ---- extended attributes ---- */

/* size 0 asks for the length only. */
static void reply_xattr(fuse_req_t req, const char *buf, size_t size, ssize_t n)
{
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else if (!size)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

static void get_or_list(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *n = fusefs_node(fs, ino);
	CLEANUP_FREE char *buf = NULL;
	FUSEFS_SCOPE s = {0};
	ssize_t len;

	if (n->kind != FUSEFS_OBJECT) {
		reply_xattr(req, "", size, name ? -ENODATA : 0);
		return;
	}
	buf = malloc(size ? size : 1);
	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	fusefs_scope(fs, req, n, &s);
	len = name ? txn_getxattr(fs->eng, s.txn, n->obj, name, size ? buf : NULL, size)
	           : txn_listxattr(fs->eng, s.txn, n->obj, size ? buf : NULL, size);
	reply_xattr(req, buf, size, len);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	get_or_list(req, ino, name, size);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	get_or_list(req, ino, NULL, size);
}

/* value NULL: remove */
static void change_xattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *n = fusefs_node(fs, ino);
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_ERR};
	struct fusefs_telling telling = {0};
	FUSEFS_SCOPE s = {0};
	int r = -EPERM;

	if (n->kind == FUSEFS_OBJECT)
		r = copy_up(fs, req, n);
	if (!r) {
		fusefs_scope(fs, req, n, &s);
		r = change_begin(fs, req, n);
		if (!r && value)
			r = txn_setxattr(fs->eng, s.txn, n->obj, name, value, size, flags);
		else if (!r)
			r = txn_removexattr(fs->eng, s.txn, n->obj, name);
		if (change_end(fs, req, n, s.tx, NULL, &r))
			return;
	}
	if (!r && fusefs_must_tell(fs, &s))
		fusefs_tell_object(fs, &telling, n, n->obj, FUSEFS_ATTRS_ONLY, 0);
	reply.err = -r;
	fusefs_finish(fs, n, &telling, &reply);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	change_xattr(req, ino, name, value, size, flags);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	change_xattr(req, ino, name, NULL, 0, 0);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino UNUSED)
{
	struct statvfs sv;
	int r = txn_statfs(fusefs_of(req)->eng, &sv);

	if (r)
		fuse_reply_err(req, -r);
	else
		fuse_reply_statfs(req, &sv);
}

void fusefs_ops_attr(struct fuse_lowlevel_ops *ops)
{
	ops->getattr = op_getattr;
	ops->setattr = op_setattr;
	ops->readlink = op_readlink;
	ops->getxattr = op_getxattr;
	ops->listxattr = op_listxattr;
	ops->setxattr = op_setxattr;
	ops->removexattr = op_removexattr;
	ops->statfs = op_statfs;
}
