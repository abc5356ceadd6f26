/* ops_dir.c - reading directories: each listing is the directory at one moment, whatever happens while it is read. */
#include "fusefs/private.h"

#define UNKNOWN_INO 0xffffffffu /* of "..": nobody should care, but 0 would hide it */

int fusefs_listing_add(struct fusefs_listing *l, const char *name, uint64_t ino, mode_t kind)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 32;
		struct fusefs_dirent *v = reallocarray(l->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n] = (struct fusefs_dirent){.ino = ino, .name = l->names.n, .kind = kind};
	base_buf_put(&l->names, name, strlen(name) + 1);
	if (l->names.err)
		return l->names.err;
	l->n++;
	return 0;
}

void fusefs_listing_free(struct fusefs_listing *l)
{
	if (!l)
		return;
	base_buf_free(&l->names);
	free(l->v);
	free(l);
}

struct filling {
	struct fusefs_listing *l;
	const struct fusefs_tx *tx;
};

static int add(void *arg, const struct store_dirent *de)
{
	struct filling *f = arg;

	return fusefs_listing_add(f->l, de->name, fusefs_shown_ino(f->tx, de->ino), de->kind);
}

static int take_listing(struct fusefs *fs, fuse_req_t req, struct fusefs_node *n, const struct fusefs_scope *s,
                        struct fusefs_listing **out)
{
	struct fusefs_listing *l = calloc(1, sizeof(*l));
	struct filling f = {.l = l, .tx = n->tx};
	struct fusefs_caller who = fusefs_caller(req);
	struct stat st;
	int r;

	if (!l)
		return -ENOMEM;
	if (n->kind == FUSEFS_OBJECT)
		st.st_ino = fusefs_shown_ino(n->tx, txn_obj_ino(n->obj));
	else
		fusefs_control_attr(fs, n, &st);
	r = fusefs_listing_add(l, ".", st.st_ino, S_IFDIR);
	if (!r)
		r = fusefs_listing_add(l, "..", fusefs_is_view_root(fs, n) && !n->tx ? st.st_ino : UNKNOWN_INO,
		                       S_IFDIR);
	if (!r)
		r = n->kind == FUSEFS_OBJECT ? txn_readdir(fs->eng, s->txn, n->obj, add, &f)
		                             : fusefs_control_list(fs, &who, n, l);
	if (r) {
		fusefs_listing_free(l);
		return r;
	}
	*out = l;
	return 0;
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_handle *h;
	int r = fusefs_handle_new(fs, fusefs_node(fs, ino), &h);

	if (r) {
		fuse_reply_err(req, -r);
		return;
	}
	fi->fh = (uint64_t)(uintptr_t)h;
	if (fuse_reply_open(req, fi))
		fusefs_handle_free(fs, h);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino UNUSED, struct fuse_file_info *fi)
{
	fusefs_handle_free(fusefs_of(req), fusefs_handle(fi));
	fuse_reply_err(req, 0);
}

/*
 * The name's node and attributes, for an answer that spares the kernel a LOOKUP. Node 0 says nothing of it ("." and
 * "..", control files, and what has gone meanwhile: the listing stays as of one moment).
 */
static int entry_plus(struct fusefs *fs, struct fusefs_node *p, const struct fusefs_scope *s, size_t i,
                      const char *name, struct fuse_entry_param *e, struct fusefs_node **n)
{
	struct txn_look look = {0};
	int r;

	*n = NULL;
	if (i < 2 || p->kind != FUSEFS_OBJECT)
		return 0;
	if (s->tx && txn_isolation(s->txn) == TXN_SERIALIZABLE)
		return 0; /* a name was read, and nothing of what it leads to */
	r = txn_lookup(fs->eng, s->txn, p->obj, name, &look);
	if (r)
		return r == -ENOENT || r == -ESTALE ? 0 : r;
	r = fusefs_entry(fs, p, s, name, &look, false, e, n);
	txn_obj_put(look.obj);
	return r;
}

/* One entry into buf: the bytes used, 0 when it does not fit, -errno. */
static ssize_t put_entry(fuse_req_t req, struct fusefs_node *p, const struct fusefs_scope *s,
                         const struct fusefs_listing *l, size_t i, bool plus, char *buf, size_t rest)
{
	struct fusefs *fs = fusefs_of(req);
	const struct fusefs_dirent *de = &l->v[i];
	const char *name = (const char *)l->names.p + de->name;
	struct fuse_entry_param e = {.attr = {.st_ino = de->ino, .st_mode = de->kind}};
	struct fusefs_node *n = NULL;
	size_t used;
	int r;

	if (!plus) {
		used = fuse_add_direntry(req, buf, rest, name, &e.attr, (off_t)i + 1);
		return used <= rest ? (ssize_t)used : 0;
	}
	if (fuse_add_direntry_plus(req, NULL, 0, name, &e, 0) > rest)
		return 0;
	r = entry_plus(fs, p, s, i, name, &e, &n);
	if (r)
		return r;
	return (ssize_t)fuse_add_direntry_plus(req, buf, rest, name, &e, (off_t)i + 1);
}

static void read_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fusefs_handle *h, bool plus)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *p = fusefs_node(fs, ino);
	CLEANUP_FREE char *buf = malloc(size ? size : 1);
	FUSEFS_SCOPE s = {0};
	size_t used = 0;
	int r = buf ? 0 : -ENOMEM;

	pthread_mutex_lock(&h->lock);
	if (p->kind == FUSEFS_OBJECT)
		fusefs_scope(fs, req, p, &s);
	if (!r && (!off || !h->listing)) {
		struct fusefs_listing *l;

		r = take_listing(fs, req, p, &s, &l);
		if (!r) {
			fusefs_listing_free(h->listing);
			h->listing = l;
		}
	}
	for (size_t i = (size_t)off; !r && i < h->listing->n; i++) {
		ssize_t n = put_entry(req, p, &s, h->listing, i, plus, buf + used, size - used);

		if (!n)
			break;
		if (n < 0) {
			r = used ? 0 : (int)n;
			break;
		}
		used += (size_t)n;
	}
	pthread_mutex_unlock(&h->lock);
	if (r)
		fuse_reply_err(req, -r);
	else
		fuse_reply_buf(req, buf, used);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, fusefs_handle(fi), false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, fusefs_handle(fi), true);
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync UNUSED, struct fuse_file_info *fi UNUSED)
{
	struct fusefs *fs = fusefs_of(req);
	struct fusefs_node *n = fusefs_node(fs, ino);
	FUSEFS_SCOPE s = {0};
	int r = 0;

	if (n->kind == FUSEFS_OBJECT) {
		fusefs_scope(fs, req, n, &s);
		r = txn_fsync_dir(fs->eng, s.txn, n->obj);
	}
	fuse_reply_err(req, -r);
}

void fusefs_ops_dir(struct fuse_lowlevel_ops *ops)
{
	ops->opendir = op_opendir;
	ops->releasedir = op_releasedir;
	ops->readdir = op_readdir;
	ops->readdirplus = op_readdirplus;
	ops->fsyncdir = op_fsyncdir;
}
