/* ops_file.c - open files: create, open, read, write, and what else goes through a descriptor. */
#include "fusefs/private.h"

#include <fcntl.h>
#include <linux/falloc.h>

int fusefs_handle_new(struct fusefs *fs, struct fusefs_node *n, struct fusefs_handle **out)
{
	struct fusefs_handle *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->node = n;
	h->base = -1;
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_lock(&fs->nodes);
	LIST_INSERT_HEAD(&fs->handles, h, all);
	pthread_mutex_unlock(&fs->nodes);
	*out = h;
	return 0;
}

void fusefs_handle_free(struct fusefs *fs, struct fusefs_handle *h)
{
	pthread_mutex_lock(&fs->nodes);
	LIST_REMOVE(h, all);
	pthread_mutex_unlock(&fs->nodes);
	if (h->file)
		txn_close(h->file);
	fusefs_listing_free(h->listing);
	base_buf_free(&h->text);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

/* Pages stay cached from one open to the next, and closing has nothing to flush. */
static void open_flags(struct fusefs_handle *h, struct fuse_file_info *fi)
{
	fi->fh = (uint64_t)(uintptr_t)h;
	fi->keep_cache = 1; /* also while a commit is under way: it sees to the pages (hold.c) */
	fi->noflush = 1;
	/* Where the end is, the kernel may believe from before someone else's commit: appends are placed here, and must
	 * not go into its page cache at another offset. */
	if (fi->flags & O_APPEND)
		fi->direct_io = h->direct = true;
}

/*
 * A member opens a file by the shared node. To change it he needs the transaction's own; and so he does when the
 * transaction has a version of its own already (he came by another link, or the name was cached before).
 */
static int open_by_member(struct fusefs *fs, fuse_req_t req, const struct fusefs_node *n, bool writing)
{
	struct fusefs_tx *tx = fusefs_member_of(fs, req);
	int r = 0;

	if (!tx)
		return 0;
	if (writing) {
		r = fusefs_node_mark(fs, n->obj, tx);
		if (!r)
			r = -ESTALE;
	} else if (fusefs_node_marked(fs, n->obj, tx) || txn_obj_changed(tx->txn, n->obj)) {
		r = -ESTALE;
	}
	fusefs_tx_put(tx);
	return r;
}

/* suid and sgid go when someone else's bytes come; asked for seldom enough to look first. */
static void kill_suidgid(struct fusefs *fs, const struct fusefs_node *n, struct fusefs_handle *h)
{
	struct txn *txn = n->tx ? n->tx->txn : NULL;
	struct stat st;

	if (!txn_getattr(fs->eng, txn, n->obj, &st) && (st.st_mode & (S_ISUID | S_ISGID)))
		txn_setattr(fs->eng, txn, n->obj, h->file, &st, TXN_KILL_SUIDGID, NULL);
}

/* Something was asked for in its view. */
static void touch(const struct fusefs_node *n)
{
	if (n->tx)
		fusefs_tx_touch(n->tx);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *n = fusefs_node(fs, ino);
	bool writing = (fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC);
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_OPEN};
	struct fusefs_telling telling = {0};
	struct fusefs_handle *h = NULL;
	struct fusefs_scope s;
	uint64_t lost_to = 0;
	int r;

	touch(n);
	fusefs_again_other(fs, req);
	if (n->kind != FUSEFS_OBJECT) {
		fusefs_control_open(fs, req, n, fi);
		return;
	}
	if (n->tx)
		r = writing && fusefs_view_over(n) ? -ESTALE : 0;
	else
		r = open_by_member(fs, req, n, writing);
	if (r)
		goto fail;
	/* A regular file: its node says which view. */
	s = (struct fusefs_scope){.tx = n->tx, .txn = n->tx ? n->tx->txn : NULL};
	/* Better wait here than in the first write, which holds its pages. */
	if (writing && !(fi->flags & O_TRUNC) && !fusefs_waited_in_vain(&lost_to)) {
		fusefs_may_wait();
		r = txn_would_conflict(fs->eng, s.txn, n->obj, NULL);
		if (fusefs_wait(fs, req, s.tx, NULL, FUSEFS_RERUN | FUSEFS_QUIET, &r))
			return;
		if (r && r != -EBUSY)
			goto fail;
	}
	r = fusefs_handle_new(fs, n, &h);
	if (r)
		goto fail;
	h->lost_to = lost_to;
	if (writing && n->tx)
		atomic_store(&n->written, true);
	fusefs_may_wait();
	r = txn_open(fs->eng, s.txn, n->obj, fi->flags & (O_ACCMODE | O_TRUNC | O_APPEND), &h->file);
	if (fusefs_wait(fs, req, s.tx, NULL, 0, &r)) {
		fusefs_handle_free(fs, h);
		return;
	}
	if (r)
		goto fail;
	if (fi->flags & O_TRUNC) {
		if (fusefs_kill_priv(fs, req))
			kill_suidgid(fs, n, h);
		if (fusefs_must_tell(fs, &s))
			fusefs_tell_object(fs, &telling, n, n->obj, 0, 0);
	}
	open_flags(h, fi);
	reply.fi = *fi;
	reply.handle = h;
	fusefs_finish(fs, n, &telling, &reply);
	return;
fail:
	if (h)
		fusefs_handle_free(fs, h);
	fuse_reply_err(req, -r);
}

/*
 * O_CREAT for a name that the kernel believes to be missing, or O_TMPFILE. When the name has come up meanwhile, the
 * kernel must look again: it did not check the permissions of a file that it did not know.
 */
static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *p = fusefs_node(fs, parent), *n = NULL;
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct txn_new nw = {.mode = S_IFREG | (mode & 07777), .umask = ctx->umask, .uid = ctx->uid, .gid = ctx->gid};
	bool nameless = !strcmp(name, FUSEFS_TMPFILE);
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_CREATE};
	struct fusefs_telling telling = {0};
	struct fusefs_handle *h = NULL;
	struct txn_look look = {0};
	FUSEFS_SCOPE s;
	int r;

	fusefs_scope(fs, req, p, &s);
	if (p->kind != FUSEFS_OBJECT || fusefs_is_reserved(fs, p, name)) {
		r = -EPERM;
		goto out;
	}
	r = fusefs_view_over(p) ? -ESTALE : fusefs_handle_new(fs, NULL, &h);
	if (r)
		goto out;
	r = fusefs_again_begin(fs, req, p, name);
	if (!r)
		r = nameless ? txn_tmpfile(fs->eng, s.txn, p->obj, &nw, &look, &h->file)
		             : txn_create(fs->eng, s.txn, p->obj, name, &nw, &look);
	if (fusefs_again_end(fs, req, p, name, s.tx, &r)) {
		r = 0;
		goto out; /* it waits */
	}
	if (!nameless) {
		if (!r)
			r = txn_open(fs->eng, s.txn, look.obj, fi->flags & (O_ACCMODE | O_APPEND), &h->file);
		else if (r == -EEXIST && !(fi->flags & O_EXCL))
			r = -ESTALE;
	}
	if (r)
		goto out;
	look.own = true;
	r = fusefs_entry(fs, p, &s, name, &look, true, &reply.e, &n);
	if (r)
		goto out;
	h->node = n;
	if (n->tx)
		atomic_store(&n->written, true);
	if (!nameless && fusefs_must_tell(fs, &s))
		fusefs_tell_name(fs, &telling, p, name);
	open_flags(h, fi);
	reply.fi = *fi;
	reply.handle = TAKE_PTR(h);
	reply.node = n;
	fusefs_finish(fs, p, &telling, &reply);
out:
	if (h)
		fusefs_handle_free(fs, h);
	if (look.obj)
		txn_obj_put(look.obj);
	if (r)
		fuse_reply_err(req, -r);
}

static void op_release(fuse_req_t req, fuse_ino_t ino UNUSED, struct fuse_file_info *fi)
{
	fusefs_handle_free(fusefs_of(req), fusefs_handle(fi));
	fuse_reply_err(req, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_handle *h = fusefs_handle(fi);

	if (!h->file) {
		fusefs_control_read(fs, req, h, size, off);
		return;
	}
	touch(fusefs_node(fs, ino));
	if (!fusefs_hold_read(fs, req, h, size, off, fi->flags))
		fusefs_read_now(req, h, size, off);
}

/* Pages of a transaction that was rolled back, or prepared, written by the kernel before it hears of it: nobody's. */
static bool stray(const struct fusefs_node *n, const struct fuse_file_info *fi)
{
	const struct fusefs_view *v = n->tx ? n->tx->view : NULL;

	return v && fi->writepage && !atomic_load(&v->settled) &&
	       (txn_state(n->tx->txn) == TXN_ABORTED || txn_state(n->tx->txn) == TXN_PREPARED);
}

/* Contents changed through this node: tell the others, then reply. */
static void reply_changed(struct fusefs *fs, struct fusefs_node *n, struct fusefs_reply *reply, off_t off, off_t len)
{
	struct fusefs_scope s = {.tx = n->tx, .txn = n->tx ? n->tx->txn : NULL};
	struct fusefs_telling telling = {0};

	if (fusefs_must_tell(fs, &s))
		fusefs_tell_object(fs, &telling, n, n->obj, off, len);
	fusefs_finish(fs, n, &telling, reply);
}

/* An append that went elsewhere than the kernel believes: its own pages there are stale too. */
static void finish_append(struct fusefs *fs, struct fusefs_node *node, struct fusefs_reply *reply, off_t at)
{
	struct fusefs_telling telling = {0};

	fusefs_tell_object(fs, &telling, NULL, node->obj, at, 0);
	fusefs_finish_late(fs, &telling, reply);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *node = fusefs_node(fs, ino);
	struct fusefs_handle *h = fusefs_handle(fi);
	uint64_t at = (uint64_t)off;
	ssize_t n;
	int r;

	if (!h->file) {
		fusefs_control_write(fs, req, h, buf, size);
		return;
	}
	touch(node);
	if (stray(node, fi)) {
		fuse_reply_write(req, size);
		return;
	}
	fusefs_may_wait();
	if ((fi->flags & O_APPEND) && !fi->writepage)
		n = txn_append(h->file, buf, size, fusefs_kill_priv(fs, req), &at);
	else
		n = txn_write(h->file, buf, size, at, !fi->writepage && fusefs_kill_priv(fs, req));
	r = n < 0 ? (int)n : 0;
	/* Pages that the kernel writes back by itself are not anybody's to wait for: commit may need them. */
	if (fusefs_wait(fs, req, node->tx, h, fi->writepage ? FUSEFS_AT_ONCE : 0, &r))
		return;
	if (r < 0) {
		fuse_reply_err(req, -r);
		return;
	}
	if ((fi->flags & O_APPEND) && !fi->writepage) {
		if (at != (uint64_t)off) {
			struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_WRITE, .count = (size_t)n};

			finish_append(fs, node, &reply, (off_t)at);
			return;
		}
	}
	if (!atomic_load_explicit(&fs->own_nodes, memory_order_relaxed)) {
		fuse_reply_write(req, (size_t)n);
	} else {
		struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_WRITE, .count = (size_t)n};

		reply_changed(fs, node, &reply, off, (off_t)n);
	}
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino UNUSED, int datasync, struct fuse_file_info *fi)
{
	struct fusefs_handle *h = fusefs_handle(fi);

	fuse_reply_err(req, h->file ? -txn_fsync(h->file, datasync) : 0);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *n = fusefs_node(fs, ino);
	struct fusefs_handle *h = fusefs_handle(fi);
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_ERR};
	int r;

	if (!h->file) {
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	touch(n);
	fusefs_may_wait();
	r = txn_fallocate(h->file, mode, (uint64_t)off, (uint64_t)len);
	if (fusefs_wait(fs, req, n->tx, h, 0, &r))
		return;
	if (r) {
		fuse_reply_err(req, -r);
		return;
	}
	if (fuse_req_ctx(req)->uid) /* the kernel does not say here who has CAP_FSETID */
		kill_suidgid(fs, n, h);
	/* Collapsing and inserting move everything behind. */
	reply_changed(fs, n, &reply, mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE) ? 0 : off,
	              mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE) ? 0 : len);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino UNUSED, off_t off, int whence, struct fuse_file_info *fi)
{
	struct fusefs_handle *h = fusefs_handle(fi);
	uint64_t pos;
	int r;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		r = -EINVAL;
	else
		r = h->file ? txn_seek(h->file, (uint64_t)off, whence, &pos) : -ENXIO;
	if (r)
		fuse_reply_err(req, -r);
	else
		fuse_reply_lseek(req, (off_t)pos);
}

static void op_copy(fuse_req_t req, fuse_ino_t ino_in UNUSED, off_t off_in, struct fuse_file_info *fi_in,
                    fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *fi_out, size_t len, int flags)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *n = fusefs_node(fs, ino_out);
	struct fusefs_handle *in = fusefs_handle(fi_in), *out = fusefs_handle(fi_out);
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_WRITE};
	ssize_t r = -EINVAL;
	int why;

	if (!in->file || !out->file) {
		r = -EXDEV; /* the caller reads and writes instead */
	} else if (!flags) {
		fusefs_may_wait();
		r = txn_copy(in->file, (uint64_t)off_in, out->file, (uint64_t)off_out, base_min_u64(len, 1u << 30));
		why = r < 0 ? (int)r : 0;
		if (fusefs_wait(fs, req, n->tx, out, 0, &why))
			return;
		r = why < 0 ? why : r;
	}
	if (r < 0) {
		fuse_reply_err(req, (int)-r);
		return;
	}
	if (fuse_req_ctx(req)->uid)
		kill_suidgid(fs, n, out);
	reply.count = (size_t)r;
	reply_changed(fs, n, &reply, off_out, (off_t)r);
}

static void op_ioctl(fuse_req_t req, fuse_ino_t ino UNUSED, unsigned cmd UNUSED, void *arg UNUSED,
                     struct fuse_file_info *fi UNUSED, unsigned flags UNUSED, const void *in UNUSED,
                     size_t in_size UNUSED, size_t out_size UNUSED)
{
	fuse_reply_err(req, ENOTTY);
}

void fusefs_ops_file(struct fuse_lowlevel_ops *ops)
{
	ops->open = op_open;
	ops->create = op_create;
	ops->release = op_release;
	ops->read = op_read;
	ops->write = op_write;
	ops->fsync = op_fsync;
	ops->fallocate = op_fallocate;
	ops->lseek = op_lseek;
	ops->copy_file_range = op_copy;
	ops->ioctl = op_ioctl;
}
