/*
 * control.c - the control directories and their files.
 *
 *     CONTROL/             in the committed root: ctl, status, transactions, prepared, and one per named transaction;
 *                          changes of the caller's ambient transaction, for its members only and not listed
 *     CONTROL/NAME/        ctl, status, changes, root
 *     NAME/root/CONTROL/   ctl, status, changes of that transaction, where its root is bound over the mount
 */
#include "fusefs/private.h"

#include <fcntl.h>

static struct fusefs_view *view_of(const struct fusefs_tx *tx)
{
	return tx->view;
}

void fusefs_control_attr(struct fusefs *fs, const struct fusefs_node *n, struct stat *attr)
{
	static const mode_t modes[] = {
		[FUSEFS_CONTROL] = S_IFDIR | S_ISVTX | 0777,
		[FUSEFS_TX_DIR] = S_IFDIR | 0700,
		[FUSEFS_CTL] = S_IFREG | 0666,
		[FUSEFS_STATUS] = S_IFREG | 0444,
		[FUSEFS_TX_CHANGES] = S_IFREG | 0444,
		[FUSEFS_PREPARED_LIST] = S_IFREG | 0444,
		[FUSEFS_TRANSACTIONS] = S_IFREG | 0444,
	};

	*attr = (struct stat){
		.st_ino = 1ull << 63 | (uint64_t)(n->tx ? n->tx->number : 0) << 8 | n->kind,
		.st_mode = modes[n->kind],
		.st_nlink = n->directory ? 2 : 1,
		.st_uid = n->tx ? n->tx->uid : geteuid(),
		.st_gid = getegid(),
		.st_blksize = 4096,
		.st_atim = fs->born,
		.st_mtim = fs->born,
		.st_ctim = fs->born,
	};
	if (n->tx)
		attr->st_mode &= ~(mode_t)(S_ISVTX | 0077);
}

static void fill(struct fusefs *fs, struct fusefs_node *n, struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){
		.ino = fusefs_ino(fs, n),
		.generation = n->generation,
		.attr_timeout = n->directory ? FUSEFS_FOREVER : 0,
		.entry_timeout = n->directory ? FUSEFS_FOREVER : 0,
	};
	fusefs_control_attr(fs, n, &e->attr);
}

/* A directory keeps its node for as long as the kernel knows it: CONTROL in a transaction's root, or CONTROL/NAME. */
static int tx_directory(struct fusefs *fs, struct fusefs_tx *tx, enum fusefs_kind kind, struct fusefs_node **out)
{
	struct fusefs_node **slot = kind == FUSEFS_CONTROL ? &view_of(tx)->control : &view_of(tx)->dir;
	int r;

	pthread_mutex_lock(&fs->nodes);
	*out = *slot;
	if (*out)
		(*out)->nlookup++;
	pthread_mutex_unlock(&fs->nodes);
	if (*out)
		return 0;
	r = fusefs_node_new(fs, kind, NULL, tx, out);
	if (r)
		return r;
	pthread_mutex_lock(&fs->nodes);
	if (!*slot)
		*slot = *out; /* else someone was faster: two ids for once */
	pthread_mutex_unlock(&fs->nodes);
	return 0;
}

int fusefs_control_entry(struct fusefs *fs, struct fusefs_node *root, struct fuse_entry_param *e,
                         struct fusefs_node **out)
{
	int r = 0;

	if (root->tx) {
		r = tx_directory(fs, root->tx, FUSEFS_CONTROL, out);
	} else {
		*out = fs->control_dir;
		pthread_mutex_lock(&fs->nodes);
		(*out)->nlookup++;
		pthread_mutex_unlock(&fs->nodes);
	}
	if (!r)
		fill(fs, *out, e);
	return r;
}

/* The tree as the transaction sees it. */
static int tx_root(struct fusefs *fs, struct fusefs_tx *tx, struct fuse_entry_param *e, struct fusefs_node **out)
{
	struct stat st;
	int r = txn_getattr(fs->eng, tx->txn, fs->root->obj, &st);

	if (!r)
		r = fusefs_node_lookup(fs, fs->root->obj, tx, out);
	if (r)
		return r;
	*e = (struct fuse_entry_param){
		.ino = fusefs_ino(fs, *out),
		.generation = (*out)->generation,
		.attr = st,
		.attr_timeout = FUSEFS_FOREVER,
		.entry_timeout = FUSEFS_FOREVER,
	};
	e->attr.st_ino = fusefs_shown_ino(tx, st.st_ino);
	return 0;
}

static int lookup(struct fusefs *fs, fuse_req_t req, struct fusefs_node *p, const char *name,
                  struct fuse_entry_param *e, struct fusefs_node **out)
{
	struct fusefs_caller who = fusefs_caller(req);
	enum fusefs_kind kind;
	struct fusefs_tx *tx;
	int r;

	if (!p->directory)
		return -ENOTDIR;
	if (p->tx && !fusefs_tx_allowed(p->tx, &who))
		return -EACCES;
	if (!strcmp(name, "ctl")) {
		kind = FUSEFS_CTL;
	} else if (!strcmp(name, "status")) {
		kind = FUSEFS_STATUS;
	} else if (!p->tx && !strcmp(name, "prepared")) {
		kind = FUSEFS_PREPARED_LIST;
	} else if (!strcmp(name, "changes")) {
		tx = p->tx ? NULL : fusefs_member_of(fs, req);
		if (!p->tx && !tx)
			return -ENOENT;
		if (tx)
			fusefs_tx_put(tx);
		kind = FUSEFS_TX_CHANGES;
	} else if (!p->tx && !strcmp(name, "transactions")) {
		kind = FUSEFS_TRANSACTIONS;
	} else if (p->kind == FUSEFS_TX_DIR && !strcmp(name, "root")) {
		return tx_root(fs, p->tx, e, out);
	} else {
		tx = p->tx ? NULL : fusefs_tx_find(fs->reg, name);
		if (!tx)
			return -ENOENT;
		r = tx_directory(fs, tx, FUSEFS_TX_DIR, out);
		if (!r)
			fill(fs, *out, e);
		fusefs_tx_put(tx);
		return r;
	}
	r = fusefs_node_new(fs, kind, NULL, p->tx, out);
	if (!r)
		fill(fs, *out, e);
	return r;
}

void fusefs_control_lookup(struct fusefs *fs, fuse_req_t req, struct fusefs_node *p, const char *name)
{
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_ENTRY};
	int r = lookup(fs, req, p, name, &reply.e, &reply.node);

	if (r)
		fuse_reply_err(req, -r);
	else
		fusefs_reply_send(fs, &reply);
}

static int list_tx(void *arg, struct fusefs_tx *tx)
{
	return fusefs_listing_add(arg, tx->name, 1ull << 63 | (uint64_t)tx->number << 8 | FUSEFS_TX_DIR, S_IFDIR);
}

struct allowed {
	struct fusefs_listing *l;
	const struct fusefs_caller *who;
};

static int list_allowed(void *arg, struct fusefs_tx *tx)
{
	struct allowed *a = arg;

	return fusefs_tx_allowed(tx, a->who) ? list_tx(a->l, tx) : 0;
}

int fusefs_control_list(struct fusefs *fs, const struct fusefs_caller *who, struct fusefs_node *n,
                        struct fusefs_listing *l)
{
	uint64_t base = 1ull << 63 | (uint64_t)(n->tx ? n->tx->number : 0) << 8;
	struct allowed a = {.l = l, .who = who};
	int r;

	if (n->tx && !fusefs_tx_allowed(n->tx, who))
		return -EACCES;
	r = fusefs_listing_add(l, "ctl", base | FUSEFS_CTL, S_IFREG);
	if (!r)
		r = fusefs_listing_add(l, "status", base | FUSEFS_STATUS, S_IFREG);
	if (r)
		return r;
	if (!n->tx) {
		r = fusefs_listing_add(l, "prepared", base | FUSEFS_PREPARED_LIST, S_IFREG);
		if (!r)
			r = fusefs_listing_add(l, "transactions", base | FUSEFS_TRANSACTIONS, S_IFREG);
		return r ? r : fusefs_tx_each_named(fs->reg, list_allowed, &a);
	}
	r = fusefs_listing_add(l, "changes", base | FUSEFS_TX_CHANGES, S_IFREG);
	if (!r && n->kind == FUSEFS_TX_DIR)
		r = fusefs_listing_add(l, "root", fusefs_shown_ino(n->tx, txn_obj_ino(fs->root->obj)), S_IFDIR);
	return r;
}

void fusefs_control_mkdir(struct fusefs *fs, fuse_req_t req, struct fusefs_node *p, const char *name)
{
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_ENTRY};
	struct fusefs_caller who = fusefs_caller(req);
	struct fusefs_tx *tx;
	int r;

	r = p->tx ? -EPERM : fusefs_tx_make(fs->reg, name, &who, &tx);
	if (r) {
		fuse_reply_err(req, -r);
		return;
	}
	r = tx_directory(fs, tx, FUSEFS_TX_DIR, &reply.node);
	if (r) {
		fusefs_view_remove(fs, tx, &who);
		fusefs_tx_put(tx);
		fuse_reply_err(req, -r);
		return;
	}
	fill(fs, reply.node, &reply.e);
	fusefs_tx_put(tx);
	fusefs_reply_send(fs, &reply);
}

void fusefs_control_rmdir(struct fusefs *fs, fuse_req_t req, struct fusefs_node *p, const char *name)
{
	struct fusefs_caller who = fusefs_caller(req);
	struct fusefs_tx *tx = NULL;
	int r = -EPERM;

	if (!p->tx) {
		tx = fusefs_tx_find(fs->reg, name);
		r = tx ? fusefs_view_remove(fs, tx, &who) : -ENOENT;
	}
	if (tx)
		fusefs_tx_put(tx);
	fuse_reply_err(req, -r);
}

/* Truncating and touching a control file is what shells and tools do before they write: it does nothing. */
void fusefs_control_setattr(struct fusefs *fs, fuse_req_t req, struct fusefs_node *n, unsigned to_set)
{
	struct stat st;

	if (n->directory || (to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))) {
		fuse_reply_err(req, EPERM);
		return;
	}
	fusefs_control_attr(fs, n, &st);
	fuse_reply_attr(req, &st, 0);
}

/* ---- open control files ---- */

void fusefs_control_open(struct fusefs *fs, fuse_req_t req, struct fusefs_node *n, struct fuse_file_info *fi)
{
	struct fusefs_caller who = fusefs_caller(req);
	struct fusefs_reply reply = {.req = req, .kind = FUSEFS_REPLY_OPEN};
	int r;

	if ((n->tx && !fusefs_tx_allowed(n->tx, &who)) ||
	    (n->kind != FUSEFS_CTL && (fi->flags & O_ACCMODE) != O_RDONLY))
		r = -EACCES;
	else
		r = fusefs_handle_new(fs, n, &reply.handle);
	if (r) {
		fuse_reply_err(req, -r);
		return;
	}
	fi->fh = (uint64_t)(uintptr_t)reply.handle;
	fi->direct_io = 1;
	fi->noflush = 1;
	reply.fi = *fi;
	fusefs_reply_send(fs, &reply);
}

/* The text that a read gives, into h->text. */
static int compose(struct fusefs *fs, fuse_req_t req, struct fusefs_handle *h)
{
	struct fusefs_caller who = fusefs_caller(req);
	struct fusefs_tx *tx = h->node->tx;
	struct base_buf text = {0};
	int r = 0;

	if (h->node->kind == FUSEFS_CTL) {
		fusefs_tx_last_line(fs->reg, tx, &who, &text);
	} else if (h->node->kind == FUSEFS_TRANSACTIONS) {
		r = fusefs_tx_list(fs->reg, &who, &text);
	} else if (h->node->kind == FUSEFS_TX_CHANGES) {
		struct fusefs_tx *own = tx ? NULL : fusefs_member_of(fs, req);

		r = tx || own ? fusefs_tx_changes(tx ? tx : own, &text) : -ESTALE; /* it has ended since the lookup */
		if (own)
			fusefs_tx_put(own);
	} else if (h->node->kind == FUSEFS_PREPARED_LIST) {
		r = fusefs_tx_prepared(fs->reg, &text);
	} else if (tx) {
		r = fusefs_tx_status(fs->reg, tx, &text);
	} else {
		tx = fusefs_member_of(fs, req);
		r = fusefs_tx_status(fs->reg, tx, &text);
		if (tx)
			fusefs_tx_put(tx);
		else
			base_buf_printf(&text, "mixed_caches: %lu\n", atomic_load(&fs->holding.mixed));
		base_buf_printf(&text, "uuid: %s\n", fs->store->uuid); /* members, too, must know where they are */
	}
	if (!r)
		r = text.err;
	if (r) {
		base_buf_free(&text);
		return r;
	}
	base_buf_free(&h->text);
	h->text = text;
	h->have_text = true;
	h->base = -1;
	return 0;
}

/*
 * Reading begins where the file position happens to be: a write to the same descriptor has moved it. Status and
 * changes are composed anew whenever they are read from the start.
 */
void fusefs_control_read(struct fusefs *fs, fuse_req_t req, struct fusefs_handle *h, size_t size, off_t off)
{
	size_t skip;
	CLEANUP_FREE char *copy = NULL;
	size_t n = 0;
	int r = 0;

	pthread_mutex_lock(&h->lock);
	if (!h->have_text || (!off && h->node->kind != FUSEFS_CTL))
		r = compose(fs, req, h);
	if (!r) {
		if (h->base < 0 || off < h->base)
			h->base = off;
		skip = base_min_u64((uint64_t)(off - h->base), h->text.n);
		n = base_min_u64(size, h->text.n - skip);
		copy = malloc(n + 1);
		if (copy && n)
			memcpy(copy, (const char *)h->text.p + skip, n);
		r = copy ? 0 : -ENOMEM;
	}
	pthread_mutex_unlock(&h->lock);
	/* Once it has its answer the kernel may release the handle: nothing of it is touched from here on. */
	if (r)
		fuse_reply_err(req, -r);
	else
		fuse_reply_buf(req, copy, n);
}

/* ---- commands ---- */

struct command {
	struct fusefs *fs;
	fuse_req_t req;
	struct fusefs_handle *h;
	struct fusefs_caller who;
	size_t len;
	char text[];
};

static void run(struct fusefs *fs, fuse_req_t req, struct fusefs_handle *h, const struct fusefs_caller *who,
                const char *text, size_t len)
{
	struct base_buf line = {0};
	int r = fusefs_tx_run(fs->reg, h->node->tx, who, text, len, &line);

	if (line.n && line.p[line.n - 1] != '\n')
		base_buf_put(&line, "\n", 1);
	pthread_mutex_lock(&h->lock);
	base_buf_free(&h->text);
	h->text = line;
	h->have_text = !line.err;
	h->base = -1;
	pthread_mutex_unlock(&h->lock);
	/* The handle may go as soon as this is sent. */
	if (r)
		fuse_reply_err(req, -r);
	else
		fuse_reply_write(req, len);
}

static void run_apart(void *arg)
{
	struct command *c = arg;

	run(c->fs, c->req, c->h, &c->who, c->text, c->len);
	free(c);
}

/* All the workers that may run commands do: this one gets a thread of its own. */
static int start_apart(struct fusefs *fs, fuse_req_t req, struct fusefs_handle *h, const struct fusefs_caller *who,
                       const char *text, size_t len)
{
	struct command *c = malloc(sizeof(*c) + len);
	int r;

	if (!c)
		return -ENOMEM;
	*c = (struct command){.fs = fs, .req = req, .h = h, .who = *who, .len = len};
	memcpy(c->text, text, len);
	r = fusefs_apart(fs, run_apart, c);
	if (r)
		free(c);
	return r;
}

void fusefs_control_write(struct fusefs *fs, fuse_req_t req, struct fusefs_handle *h, const char *text, size_t size)
{
	struct fusefs_caller who = fusefs_caller(req);
	bool here;
	int r;

	if (h->node->kind != FUSEFS_CTL) {
		fuse_reply_err(req, EACCES);
		return;
	}
	pthread_mutex_lock(&fs->commands_lock);
	here = fs->commands < fs->max_threads / 2;
	fs->commands += here;
	pthread_mutex_unlock(&fs->commands_lock);
	if (!here) {
		r = start_apart(fs, req, h, &who, text, size);
		if (r)
			fuse_reply_err(req, -r);
		return;
	}
	run(fs, req, h, &who, text, size);
	pthread_mutex_lock(&fs->commands_lock);
	fs->commands--;
	pthread_mutex_unlock(&fs->commands_lock);
}

/* ---- threads of their own ---- */

struct job {
	struct fusefs *fs;
	void (*fn)(void *arg);
	void *arg;
};

static void *run_job(void *arg)
{
	struct job *j = arg;
	struct fusefs *fs = j->fs;

	j->fn(j->arg);
	free(j);
	pthread_mutex_lock(&fs->commands_lock);
	fs->extra--;
	pthread_cond_broadcast(&fs->commands_done);
	pthread_mutex_unlock(&fs->commands_lock);
	return NULL;
}

int fusefs_apart(struct fusefs *fs, void (*fn)(void *arg), void *arg)
{
	struct job *j = malloc(sizeof(*j));
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	if (!j)
		return -ENOMEM;
	*j = (struct job){fs, fn, arg};
	pthread_mutex_lock(&fs->commands_lock);
	fs->extra++;
	pthread_mutex_unlock(&fs->commands_lock);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attr, run_job, j);
	pthread_attr_destroy(&attr);
	if (!r)
		return 0;
	free(j);
	pthread_mutex_lock(&fs->commands_lock);
	fs->extra--;
	pthread_mutex_unlock(&fs->commands_lock);
	return -r;
}

void fusefs_apart_wait(struct fusefs *fs)
{
	pthread_mutex_lock(&fs->commands_lock);
	while (fs->extra)
		pthread_cond_wait(&fs->commands_done, &fs->commands_lock);
	pthread_mutex_unlock(&fs->commands_lock);
}
