/* ops_name.c - names: lookup, creation, removal, renaming, linking. */
#include "fusefs/private.h"

#include <stdio.h>

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *p = fusefs_node(fs, parent), *n = NULL;
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_ENTRY};
	struct txn_look look = {0};
	FUSEFS_SCOPE s = {0};
	int r;

	if (p->kind != FUSEFS_OBJECT) {
		fusefs_control_lookup(fs, req, p, name);
		return;
	}
	if (fusefs_is_control_name(fs, p, name)) {
		r = fusefs_control_entry(fs, p, &reply.e, &n);
	} else {
		fusefs_scope(fs, req, p, &s);
		r = txn_lookup(fs->eng, s.txn, p->obj, name, &look);
		if (!r) {
			/* What came up at the name while a member waited for it: there is no other ESTALE for copying it up. */
			if (s.member && !p->tx && !S_ISDIR(look.attr.st_mode) && fusefs_again_expected(fs, req, s.tx))
				(void)fusefs_node_mark(fs, look.obj, s.tx);
			r = fusefs_entry(fs, p, &s, name, &look, false, &reply.e, &n);
			txn_obj_put(look.obj);
		}
	}
	if (r == -ENOENT) {
		/* Node 0: there is none, and the kernel may remember that. */
		reply.e = (struct fuse_entry_param){.entry_timeout = fusefs_negative_timeout(fs, p, &s, &look)};
		r = 0;
	}
	reply.node = n;
	if (r)
		fuse_reply_err(req, -r);
	else
		fusefs_reply_send(fs, &reply);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	struct fusefs *fs = fusefs_of(req);

	fusefs_node_forget(fs, fusefs_node(fs, ino), nlookup);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *v)
{
	struct fusefs *fs = fusefs_of(req);

	for (size_t i = 0; i < count; i++)
		fusefs_node_forget(fs, fusefs_node(fs, v[i].ino), v[i].nlookup);
	fuse_reply_none(req);
}

/* ---- new names ---- */

static void create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev, const char *target)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *p = fusefs_node(fs, parent), *n = NULL;
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct txn_new nw = {
		.mode = mode, .umask = ctx->umask, .rdev = rdev, .uid = ctx->uid, .gid = ctx->gid, .target = target};
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_ENTRY};
	struct fusefs_telling telling = {0};
	struct txn_look look = {0};
	FUSEFS_SCOPE s = {0};
	int r;

	if (p->kind != FUSEFS_OBJECT) {
		r = -EPERM;
	} else if (fusefs_is_reserved(fs, p, name)) {
		r = fusefs_is_control_name(fs, p, name) ? -EEXIST : -EPERM;
	} else if (fusefs_view_over(p)) {
		r = -ESTALE;
	} else {
		fusefs_scope(fs, req, p, &s);
		r = fusefs_again_begin(fs, req, p, name);
		if (!r)
			r = txn_create(fs->eng, s.txn, p->obj, name, &nw, &look);
		if (fusefs_again_end(fs, req, p, name, s.tx, &r))
			return;
	}
	if (!r) {
		look.own = true;
		r = fusefs_entry(fs, p, &s, name, &look, true, &reply.e, &n);
		txn_obj_put(look.obj);
	}
	if (r) {
		fuse_reply_err(req, -r);
		return;
	}
	if (fusefs_must_tell(fs, &s))
		fusefs_tell_name(fs, &telling, p, name);
	reply.node = n;
	fusefs_finish(fs, p, &telling, &reply);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	create(req, parent, name, mode, rdev, NULL);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *p = fusefs_node(fs, parent);

	if (p->kind == FUSEFS_CONTROL)
		fusefs_control_mkdir(fs, req, p, name);
	else
		create(req, parent, name, S_IFDIR | (mode & 07777), 0, NULL);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	create(req, parent, name, S_IFLNK | 0777, 0, target);
}

/* ---- removal and renaming ---- */

/*
 * A member is about to remove or move what name leads to, in a directory with a shared node: the name must lead to a
 * node of the transaction's own by then, or everyone else would lose theirs with it. -ESTALE: marked, look it up again.
 */
static int copy_up_name(struct fusefs *fs, const struct fusefs_scope *s, const struct fusefs_node *p,
                        const char *name, struct txn_obj *obj, bool remove)
{
	int r;

	if (p->tx || !s->member)
		return 0;
	/* A directory that only its members can see moves with its node. */
	if (S_ISDIR(txn_obj_kind(obj)) && !remove && fusefs_node_made_by(fs, obj, s->tx) &&
	    !fusefs_node_marked(fs, obj, s->tx))
		return 0;
	r = fusefs_node_mark(fs, obj, s->tx);
	/* The kernel comes again only once: when the name is someone else's, both reasons must be told by the one ESTALE. */
	if (r == -ESTALE && txn_would_conflict(fs->eng, s->txn, p->obj, name))
		r = -EBUSY;
	return r;
}

/* What a name leads to in the request's view; NULL when that is of no interest, or there is none. */
static struct txn_obj *peek(struct fusefs *fs, const struct fusefs_scope *s, const struct fusefs_node *p,
                            const char *name)
{
	struct txn_look look = {0};

	if (!s->tx && !fusefs_must_tell(fs, s))
		return NULL;
	return txn_lookup(fs->eng, s->txn, p->obj, name, &look) ? NULL : look.obj;
}

static void put(struct txn_obj *obj)
{
	if (obj)
		txn_obj_put(obj);
}

/* A directory is gone from this view: its inode is dead for the kernel, even if a savepoint brings it back. */
static void retire(struct fusefs *fs, const struct fusefs_scope *s, const struct fusefs_node *p, struct txn_obj *obj)
{
	struct fusefs_tx *tx = s->tx;

	if (!obj || !S_ISDIR(txn_obj_kind(obj)))
		return;
	fusefs_node_retire(fs, obj, tx);
	if (!p->tx && s->member && fusefs_node_made_by(fs, obj, tx))
		fusefs_node_retire(fs, obj, NULL);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, bool dir)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *p = fusefs_node(fs, parent);
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_ERR};
	struct fusefs_telling telling = {0};
	struct txn_obj *obj = NULL;
	FUSEFS_SCOPE s = {0};
	int r = 0;

	if (p->kind != FUSEFS_OBJECT || fusefs_is_reserved(fs, p, name)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	fusefs_scope(fs, req, p, &s);
	obj = peek(fs, &s, p, name);
	r = fusefs_again_begin(fs, req, p, name);
	if (!r && obj)
		r = fusefs_view_over(p) ? -ESTALE : copy_up_name(fs, &s, p, name, obj, true);
	if (!r)
		r = dir ? txn_rmdir(fs->eng, s.txn, p->obj, name) : txn_unlink(fs->eng, s.txn, p->obj, name);
	if (fusefs_again_end(fs, req, p, name, s.tx, &r)) {
		put(obj);
		return;
	}
	if (!r && dir && s.tx)
		retire(fs, &s, p, obj);
	if (!r && fusefs_must_tell(fs, &s)) {
		fusefs_tell_name(fs, &telling, p, name);
		if (obj)
			fusefs_tell_object(fs, &telling, NULL, obj, FUSEFS_ATTRS_ONLY, 0);
	}
	put(obj);
	reply.err = -r;
	fusefs_finish(fs, p, &telling, &reply);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, false);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *p = fusefs_node(fs, parent);

	if (p->kind == FUSEFS_CONTROL)
		fusefs_control_rmdir(fs, req, p, name);
	else
		remove_name(req, parent, name, true);
}

/* The same view? Ended transactions are the committed one. */
static bool same_view(const struct fusefs_scope *a, const struct fusefs_scope *b)
{
	return a->tx == b->tx || (fusefs_scope_committed(a) && fusefs_scope_committed(b));
}

/* After a rename: obj (may be NULL) is to be found as name in dir. */
static void replace(struct fusefs *fs, const struct fusefs_scope *s, struct txn_obj *obj, struct fusefs_node *dir,
                    const char *name)
{
	struct fusefs_node *n;

	if (!obj || !s->tx || !s->tx->named || fusefs_node_lookup(fs, obj, s->tx, &n))
		return;
	fusefs_node_place(fs, n, dir, name);
	fusefs_node_forget(fs, n, 1);
}

/*
 * A member moved a directory from one with a node of the transaction's own to one with a shared node. It goes on under its own
 * node there: its shared one is still where everyone else sees it, and a directory's node can be in one place only.
 */
static void keep_own(struct fusefs *fs, const struct fusefs_node *from, const struct fusefs_scope *to_scope,
                     const struct fusefs_node *to, struct txn_obj *obj)
{
	if (obj && S_ISDIR(txn_obj_kind(obj)) && from->tx && !to->tx && to_scope->member)
		(void)fusefs_node_mark(fs, obj, to_scope->tx);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent, const char *newname,
                      unsigned flags)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *p = fusefs_node(fs, parent), *np = fusefs_node(fs, newparent);
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_ERR};
	struct fusefs_telling telling = {0};
	struct txn_obj *obj = NULL, *over = NULL;
	FUSEFS_SCOPE s = {0};
	FUSEFS_SCOPE ns = {0};
	int r = 0, r2;

	if (p->kind != FUSEFS_OBJECT || np->kind != FUSEFS_OBJECT || fusefs_is_reserved(fs, p, name) ||
	    fusefs_is_reserved(fs, np, newname)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	fusefs_scope(fs, req, p, &s);
	fusefs_scope(fs, req, np, &ns);
	if (!same_view(&s, &ns)) {
		fuse_reply_err(req, EXDEV);
		return;
	}
	obj = peek(fs, &s, p, name);
	over = peek(fs, &s, np, newname);
	r = fusefs_again_begin(fs, req, p, name);
	/* Both at once: the kernel tries again only once. */
	if (obj && !r)
		r = fusefs_view_over(p) ? -ESTALE : copy_up_name(fs, &s, p, name, obj, false);
	if (over && (!r || r == -ESTALE || r == -EBUSY)) {
		r2 = copy_up_name(fs, &ns, np, newname, over, !(flags & RENAME_EXCHANGE));
		r = r == -EBUSY || !r2 ? r : r2;
	}
	/* A new name that is someone else's, likewise. */
	if (r == -ESTALE && !over && s.member && txn_would_conflict(fs->eng, s.txn, np->obj, newname))
		r = -EBUSY;
	if (!r)
		r = txn_rename(fs->eng, s.txn, p->obj, name, np->obj, newname, flags);
	if (fusefs_again_end(fs, req, p, name, s.tx, &r)) {
		put(obj);
		put(over);
		return;
	}
	if (!r) {
		keep_own(fs, p, &ns, np, obj);
		if (flags & RENAME_EXCHANGE)
			keep_own(fs, np, &s, p, over);
	}
	if (!r && s.tx) {
		replace(fs, &s, obj, np, newname);
		if (flags & RENAME_EXCHANGE)
			replace(fs, &s, over, p, name);
		else if (over != obj)
			retire(fs, &ns, np, over);
	}
	if (!r && fusefs_must_tell(fs, &s)) {
		fusefs_tell_name(fs, &telling, p, name);
		fusefs_tell_name(fs, &telling, np, newname);
		if (obj)
			fusefs_tell_object(fs, &telling, NULL, obj, FUSEFS_ATTRS_ONLY, 0);
		if (over)
			fusefs_tell_object(fs, &telling, NULL, over, FUSEFS_ATTRS_ONLY, 0);
	}
	put(obj);
	put(over);
	reply.err = -r;
	fusefs_finish(fs, p, &telling, &reply);
}

/* ---- hard links ---- */

/*
 * Names of files with several links are not cached, for an ambient transaction that begins later may reach the file by
 * each. The one name that it had up to now is: take that back.
 */
static void uncache(struct fusefs *fs, char *path)
{
	struct fusefs_notices list = {0};
	struct txn_obj *dir = txn_obj_get(txn_root(fs->eng));
	char *name, *slash;

	for (name = path; dir && (slash = strchr(name, '/')); name = slash + 1) {
		struct txn_look look = {0};

		*slash = '\0';
		if (txn_lookup(fs->eng, NULL, dir, name, &look))
			look.obj = NULL;
		txn_obj_put(dir);
		dir = look.obj;
	}
	if (!dir)
		return;
	pthread_mutex_lock(&fs->nodes);
	for (struct fusefs_node *m = *txn_obj_user(dir); m; m = m->peer)
		if (!m->tx)
			fusefs_notice_entry_locked(&list, m, name);
	pthread_mutex_unlock(&fs->nodes);
	txn_obj_put(dir);
	/* The kernel holds this very directory, perhaps: after the reply, from another thread. */
	fusefs_notices_later(fs, &list);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *n = fusefs_node(fs, ino), *np = fusefs_node(fs, newparent), *shown = NULL;
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_ENTRY};
	struct fusefs_telling telling = {0};
	struct txn_look look = {0};
	struct fusefs_scope own = {.tx = n->tx, .txn = n->tx ? n->tx->txn : NULL};
	CLEANUP_FREE char *first = NULL;
	FUSEFS_SCOPE s = {0};
	int r = -EPERM;

	if (n->kind != FUSEFS_OBJECT || np->kind != FUSEFS_OBJECT || fusefs_is_reserved(fs, np, newname))
		goto out;
	fusefs_scope(fs, req, np, &s);
	if (!n->tx && s.tx && !s.tx->named && !fusefs_scope_committed(&s)) {
		/* Someone else's file or name: one ESTALE for both reasons. */
		r = fusefs_again_begin(fs, req, np, newname);
		if (!r && (r = fusefs_node_mark(fs, n->obj, s.tx)) == 0)
			r = -ESTALE;
		if (r == -ESTALE && (txn_would_conflict(fs->eng, s.txn, n->obj, NULL) ||
		                     txn_would_conflict(fs->eng, s.txn, np->obj, newname)))
			r = -EBUSY;
		if (!fusefs_again_end(fs, req, np, newname, s.tx, &r))
			goto out;
		return;
	}
	r = fusefs_view_over(np) ? -ESTALE : -EXDEV;
	if (!same_view(&own, &s) || r == -ESTALE)
		goto out;
	if (fusefs_scope_committed(&s) && txn_obj_path(fs->eng, NULL, n->obj, &first))
		first = NULL;
	r = fusefs_again_begin(fs, req, np, newname);
	if (!r)
		r = txn_link(fs->eng, s.txn, n->obj, np->obj, newname, &look.attr);
	if (fusefs_again_end(fs, req, np, newname, s.tx, &r))
		return;
	if (r)
		goto out;
	look.obj = n->obj;
	look.own = true;
	look.contested = s.member;
	r = fusefs_entry(fs, np, &s, newname, &look, false, &reply.e, &shown);
	if (r)
		goto out;
	if (fusefs_must_tell(fs, &s)) {
		fusefs_tell_name(fs, &telling, np, newname);
		fusefs_tell_object(fs, &telling, n, n->obj, FUSEFS_ATTRS_ONLY, 0);
	}
	if (first && look.attr.st_nlink == 2)
		uncache(fs, first);
	reply.node = shown;
	fusefs_finish(fs, np, &telling, &reply);
	return;
out:
	fuse_reply_err(req, -r);
}

void fusefs_ops_name(struct fuse_lowlevel_ops *ops)
{
	ops->lookup = op_lookup;
	ops->forget = op_forget;
	ops->forget_multi = op_forget_multi;
	ops->mknod = op_mknod;
	ops->mkdir = op_mkdir;
	ops->symlink = op_symlink;
	ops->unlink = op_unlink;
	ops->rmdir = op_rmdir;
	ops->rename = op_rename;
	ops->link = op_link;
}
