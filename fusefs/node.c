/* node.c - the node table: which node id shows which object in which view, and for how long the kernel may keep it. */
#include "fusefs/private.h"

/* ---- life of a node ---- */

static struct fusefs_view *view_of(const struct fusefs_tx *tx)
{
	return tx->view;
}

/* [fs->nodes] */
static struct fusefs_node *find(struct txn_obj *obj, const struct fusefs_tx *tx)
{
	struct fusefs_node *n = *txn_obj_user(obj);

	while (n && (n->tx != tx || n->retired))
		n = n->peer;
	return n;
}

/* [fs->nodes] */
static struct fusefs_node *make(struct fusefs *fs, enum fusefs_kind kind, struct txn_obj *obj, struct fusefs_tx *tx)
{
	struct fusefs_node *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->kind = kind;
	n->directory = kind == FUSEFS_CONTROL || kind == FUSEFS_TX_DIR || (obj && S_ISDIR(txn_obj_kind(obj)));
	n->generation = atomic_fetch_add(&fs->generation, 1) + 1;
	n->tx = tx ? fusefs_tx_get(tx) : NULL;
	LIST_INSERT_HEAD(&fs->all, n, all);
	if (!obj)
		return n;
	n->obj = txn_obj_get(obj);
	n->peer = *txn_obj_user(obj);
	*txn_obj_user(obj) = n;
	if (tx) {
		LIST_INSERT_HEAD(&view_of(tx)->nodes, n, of_view);
		atomic_fetch_add(&fs->own_nodes, 1);
	}
	return n;
}

/* [fs->nodes] Out of all lists when nobody refers to it any more: true, and the caller calls destroy. */
static bool detach(struct fusefs *fs, struct fusefs_node *n)
{
	struct fusefs_node *p;

	if (n->nlookup || n->refs)
		return false;
	LIST_REMOVE(n, all);
	if (atomic_load(&n->kept_attr))
		LIST_REMOVE(n, kept);
	if (n->obj) {
		if (*txn_obj_user(n->obj) == n) {
			*txn_obj_user(n->obj) = n->peer;
		} else {
			for (p = *txn_obj_user(n->obj); p->peer != n; p = p->peer)
				;
			p->peer = n->peer;
		}
		if (n->tx) {
			LIST_REMOVE(n, of_view);
			atomic_fetch_sub(&fs->own_nodes, 1);
		}
	} else if (n->tx) {
		if (view_of(n->tx)->control == n)
			view_of(n->tx)->control = NULL;
		if (view_of(n->tx)->dir == n)
			view_of(n->tx)->dir = NULL;
	}
	return true;
}

/* A detached node; its parent may go with it. */
static void destroy(struct fusefs *fs, struct fusefs_node *n)
{
	while (n) {
		struct fusefs_node *parent = n->parent;

		if (n->obj)
			txn_obj_put(n->obj);
		if (n->tx)
			fusefs_tx_put(n->tx);
		free(n->name);
		free(n);
		if (parent) {
			pthread_mutex_lock(&fs->nodes);
			parent->refs--;
			if (!detach(fs, parent))
				parent = NULL;
			pthread_mutex_unlock(&fs->nodes);
		}
		n = parent;
	}
}

int fusefs_node_new(struct fusefs *fs, enum fusefs_kind kind, struct txn_obj *obj, struct fusefs_tx *tx,
                    struct fusefs_node **out)
{
	pthread_mutex_lock(&fs->nodes);
	*out = make(fs, kind, obj, tx);
	if (*out)
		(*out)->nlookup = 1;
	pthread_mutex_unlock(&fs->nodes);
	return *out ? 0 : -ENOMEM;
}

int fusefs_node_lookup(struct fusefs *fs, struct txn_obj *obj, struct fusefs_tx *tx, struct fusefs_node **out)
{
	pthread_mutex_lock(&fs->nodes);
	*out = find(obj, tx);
	if (!*out)
		*out = make(fs, FUSEFS_OBJECT, obj, tx);
	if (*out)
		(*out)->nlookup++;
	pthread_mutex_unlock(&fs->nodes);
	return *out ? 0 : -ENOMEM;
}

static void drop(struct fusefs *fs, struct fusefs_node *n, uint64_t nlookup, unsigned refs)
{
	bool last;

	pthread_mutex_lock(&fs->nodes);
	n->nlookup -= base_min_u64(nlookup, n->nlookup);
	n->refs -= refs;
	last = detach(fs, n);
	pthread_mutex_unlock(&fs->nodes);
	if (last)
		destroy(fs, n);
}

void fusefs_node_forget(struct fusefs *fs, struct fusefs_node *n, uint64_t nlookup)
{
	drop(fs, n, nlookup, 0);
}

void fusefs_node_get_locked(struct fusefs_node *n)
{
	n->refs++;
}

void fusefs_node_put(struct fusefs *fs, struct fusefs_node *n)
{
	drop(fs, n, 0, 1);
}

void fusefs_node_place(struct fusefs *fs, struct fusefs_node *n, struct fusefs_node *parent, const char *name)
{
	struct fusefs_node *old = NULL;
	char *copy, *old_name = NULL;
	bool last = false;

	if (!n->tx || !n->tx->named || n == parent)
		return;
	pthread_mutex_lock(&fs->nodes);
	if (n->parent == parent && !strcmp(n->name, name)) {
		pthread_mutex_unlock(&fs->nodes);
		return;
	}
	copy = strdup(name);
	if (copy) {
		old = n->parent;
		old_name = n->name;
		n->parent = parent;
		n->name = copy;
		parent->refs++;
		if (old) {
			old->refs--;
			last = detach(fs, old);
		}
	}
	pthread_mutex_unlock(&fs->nodes);
	free(old_name);
	if (last)
		destroy(fs, old);
}

/* [fs->nodes] */
static struct fusefs_node *known(struct fusefs_node *n)
{
	if (!n || !n->nlookup)
		return NULL;
	n->refs++;
	return n;
}

struct fusefs_node *fusefs_node_directory(struct fusefs *fs, struct fusefs_node *n)
{
	struct txn *view = n->tx ? n->tx->txn : NULL;
	CLEANUP_FREE char *path = NULL;
	struct fusefs_node *dir;
	struct txn_obj *obj;
	char *end, *name, *rest;

	pthread_mutex_lock(&fs->nodes);
	dir = known(n->parent);
	pthread_mutex_unlock(&fs->nodes);
	if (dir || !n->obj || txn_obj_path(fs->eng, view, n->obj, &path))
		return dir;
	end = strrchr(path, '/');
	*(end ? end : path) = '\0';
	obj = txn_obj_get(txn_root(fs->eng));
	for (name = strtok_r(path, "/", &rest); name && obj; name = strtok_r(NULL, "/", &rest)) {
		struct txn_look look = {0};
		int r = txn_lookup(fs->eng, view, obj, name, &look);

		txn_obj_put(obj);
		obj = r ? NULL : look.obj;
	}
	if (!obj)
		return NULL;
	pthread_mutex_lock(&fs->nodes);
	dir = known(find(obj, n->tx));
	if (!dir)
		dir = known(find(obj, NULL));
	pthread_mutex_unlock(&fs->nodes);
	txn_obj_put(obj);
	return dir;
}

void fusefs_node_retire(struct fusefs *fs, struct txn_obj *obj, struct fusefs_tx *tx)
{
	struct fusefs_node *n;

	pthread_mutex_lock(&fs->nodes);
	n = find(obj, tx);
	if (n)
		n->retired = true;
	pthread_mutex_unlock(&fs->nodes);
}

int fusefs_nodes_init(struct fusefs *fs)
{
	struct fusefs_node *n;
	int r;

	LIST_INIT(&fs->all);
	LIST_INIT(&fs->kept_attrs);
	LIST_INIT(&fs->handles);
	r = fusefs_node_new(fs, FUSEFS_OBJECT, txn_root(fs->eng), NULL, &n);
	if (r)
		return r;
	n->refs = 1; /* these two stay */
	fs->root = n;
	r = fusefs_node_new(fs, FUSEFS_CONTROL, NULL, NULL, &n);
	if (r)
		return r;
	n->refs = 1;
	fs->control_dir = n;
	return 0;
}

void fusefs_nodes_free(struct fusefs *fs)
{
	struct fusefs_node *n;

	while (!LIST_EMPTY(&fs->handles))
		fusefs_handle_free(fs, LIST_FIRST(&fs->handles));
	LIST_FOREACH(n, &fs->all, all)
	{
		n->parent = NULL;
		n->nlookup = n->refs = 0;
	}
	while ((n = LIST_FIRST(&fs->all))) {
		detach(fs, n);
		destroy(fs, n);
	}
}

/* ---- views ---- */

struct fusefs_tx *fusefs_member_of(struct fusefs *fs, fuse_req_t req)
{
	return fusefs_ambient_open(fs->reg) ? fusefs_tx_of(fs->reg, fuse_req_ctx(req)->pid) : NULL;
}

void fusefs_scope(struct fusefs *fs, fuse_req_t req, const struct fusefs_node *n, struct fusefs_scope *out)
{
	*out = (struct fusefs_scope){.tx = n->tx, .settled = atomic_load(&fs->settled)};
	out->disputed = atomic_load(&fs->ambient) || atomic_load(&fs->commits);
	if (!n->tx && n->directory) {
		out->tx = fusefs_member_of(fs, req);
		out->member = out->owned = out->tx;
	}
	out->txn = out->tx ? out->tx->txn : NULL;
	if (out->tx)
		fusefs_tx_touch(out->tx);
}

void fusefs_scope_end(struct fusefs_scope *s)
{
	if (s->owned)
		fusefs_tx_put(s->tx);
}

/* ---- copy-up ---- */

int fusefs_node_mark(struct fusefs *fs, struct txn_obj *obj, struct fusefs_tx *tx)
{
	struct fusefs_node *n;
	int r = 0;

	pthread_mutex_lock(&fs->nodes);
	n = find(obj, tx);
	if (!n)
		n = make(fs, FUSEFS_OBJECT, obj, tx);
	if (!n) {
		r = -ENOMEM;
	} else if (!n->marked) {
		/* Nobody would take it away again when the transaction has ended meanwhile. */
		if (!atomic_load(&view_of(tx)->settled)) {
			n->marked = true;
			n->refs++;
		}
		r = -ESTALE;
	}
	pthread_mutex_unlock(&fs->nodes);
	return r;
}

bool fusefs_node_marked(struct fusefs *fs, struct txn_obj *obj, struct fusefs_tx *tx)
{
	struct fusefs_node *n;
	bool marked;

	pthread_mutex_lock(&fs->nodes);
	n = find(obj, tx);
	marked = n && n->marked;
	pthread_mutex_unlock(&fs->nodes);
	return marked;
}

void fusefs_node_unmark_all(struct fusefs *fs, struct fusefs_tx *tx)
{
	struct fusefs_nodes last = LIST_HEAD_INITIALIZER(last);
	struct fusefs_node *n, *next;

	pthread_mutex_lock(&fs->nodes);
	for (n = LIST_FIRST(&view_of(tx)->nodes); n; n = next) {
		next = LIST_NEXT(n, of_view);
		if (!n->marked)
			continue;
		n->marked = false;
		n->refs--;
		if (detach(fs, n))
			LIST_INSERT_HEAD(&last, n, all);
	}
	pthread_mutex_unlock(&fs->nodes);
	for (n = LIST_FIRST(&last); n; n = next) {
		next = LIST_NEXT(n, all);
		destroy(fs, n);
	}
}

bool fusefs_node_made_by(struct fusefs *fs, struct txn_obj *obj, struct fusefs_tx *tx)
{
	struct fusefs_node *n;
	bool made;

	pthread_mutex_lock(&fs->nodes);
	n = find(obj, NULL);
	made = n && n->maker == tx->number;
	pthread_mutex_unlock(&fs->nodes);
	return made;
}

/* [fs->nodes] Has an open ambient transaction a version of its own in the making? */
static bool touched(struct txn_obj *obj)
{
	struct fusefs_node *n;

	for (n = *txn_obj_user(obj); n; n = n->peer)
		if (n->marked && txn_state(n->tx->txn) == TXN_ACTIVE)
			return true;
	return false;
}

/* ---- answers ---- */

/*
 * [fs->nodes] May the kernel keep the attributes of a shared directory? Not while an ambient transaction is open. Those
 * that it keeps are listed, for begin to take them back; an answer that is under way meanwhile is dropped by the
 * kernel, which sees that the attributes were invalidated after it had asked.
 */
static double dir_attr_timeout(struct fusefs *fs, struct fusefs_node *n)
{
	if (atomic_load(&fs->ambient))
		return 0;
	if (!atomic_load(&n->kept_attr)) {
		atomic_store(&n->kept_attr, true);
		LIST_INSERT_HEAD(&fs->kept_attrs, n, kept);
	}
	return FUSEFS_FOREVER;
}

/*
 * The kernel declares attributes that it is told as valid before it stores them: one of its threads may believe it in
 * between, and show the old ones. So after a flip it is told them once without being allowed to keep them; a moment later
 * it has stored them, and may.
 */
#define FRESH_NS 10000000

static double unless_fresh(struct fusefs_node *n, double timeout)
{
	int64_t told = atomic_load(&n->fresh), now;
	struct timespec t;

	if (!told)
		return timeout;
	clock_gettime(CLOCK_MONOTONIC, &t);
	now = t.tv_sec * 1000000000LL + t.tv_nsec;
	if (told == 1)
		atomic_compare_exchange_strong(&n->fresh, &told, now);
	else if (now - told > FRESH_NS && atomic_compare_exchange_strong(&n->fresh, &told, 0))
		return timeout;
	return 0;
}

double fusefs_attr_timeout(struct fusefs *fs, struct fusefs_node *n, const struct fusefs_scope *s)
{
	double t;

	if (n->kind != FUSEFS_OBJECT)
		return n->directory ? FUSEFS_FOREVER : 0;
	if (fusefs_is_settling(fs, n->obj, s))
		return 0;
	if (!n->directory)
		return unless_fresh(n, FUSEFS_FOREVER);
	if (fusefs_again_waiting(fs, n))
		return 0;
	if (n->tx)
		return n->tx->named ? unless_fresh(n, FUSEFS_FOREVER) : 0;
	pthread_mutex_lock(&fs->nodes);
	t = dir_attr_timeout(fs, n);
	pthread_mutex_unlock(&fs->nodes);
	return unless_fresh(n, t);
}

/* A name that a transaction has changed is cached for as long as nobody can see the change. */
static bool in_dispute(const struct fusefs *fs, const struct fusefs_scope *s)
{
	return s->disputed || atomic_load(&fs->ambient) || atomic_load(&fs->commits);
}

double fusefs_negative_timeout(struct fusefs *fs, const struct fusefs_node *p, const struct fusefs_scope *s,
                               const struct txn_look *look)
{
	/* In a named view a name that the transaction itself removed may come back with `rollback to`. */
	if (p->tx)
		return p->tx->named && !look->contested && !fusefs_is_frozen(p) ? FUSEFS_FOREVER : 0;
	return look->contested && in_dispute(fs, s) ? 0 : FUSEFS_FOREVER;
}

uint64_t fusefs_shown_ino(const struct fusefs_tx *tx, uint64_t ino)
{
	return tx && tx->named ? ino ^ ((uint64_t)(tx->number & 0x3fff) << 48) : ino;
}

int fusefs_entry(struct fusefs *fs, struct fusefs_node *p, const struct fusefs_scope *s, const char *name,
                 const struct txn_look *look, bool made, struct fuse_entry_param *e, struct fusefs_node **out)
{
	bool dir = S_ISDIR(look->attr.st_mode);
	struct fusefs_tx *tx = p->tx;
	struct fusefs_node *n;

	pthread_mutex_lock(&fs->nodes);
	if (!tx && s->member) {
		n = find(look->obj, s->tx);
		if (dir ? n && n->marked : look->own || (n && n->marked))
			tx = s->tx;
	}
	n = find(look->obj, tx);
	if (!n)
		n = make(fs, FUSEFS_OBJECT, look->obj, tx);
	if (!n) {
		pthread_mutex_unlock(&fs->nodes);
		return -ENOMEM;
	}
	n->nlookup++;
	*e = (struct fuse_entry_param){.ino = fusefs_ino(fs, n), .generation = n->generation, .attr = look->attr};
	e->attr.st_ino = fusefs_shown_ino(tx, look->attr.st_ino);
	if (tx) {
		/* What a transaction made it may remove and rename without copying it up first. */
		if (made && !tx->named && !n->marked && !atomic_load(&view_of(tx)->settled)) {
			n->marked = true;
			n->refs++;
		}
		e->entry_timeout = tx->named && !(look->contested && in_dispute(fs, s)) ? FUSEFS_FOREVER : 0;
		e->attr_timeout = tx->named || !dir ? FUSEFS_FOREVER : 0;
	} else {
		/* What a member has just made nobody else may find under this name. */
		if (made && s->member)
			n->maker = s->tx->number;
		e->entry_timeout = (made && s->member) || (in_dispute(fs, s) && (look->contested || touched(look->obj))) ||
		                                   (!dir && look->attr.st_nlink > 1)
		                           ? 0
		                           : FUSEFS_FOREVER;
		e->attr_timeout = dir ? dir_attr_timeout(fs, n) : FUSEFS_FOREVER;
	}
	if (fusefs_is_settling_locked(fs, look->obj, s) || (dir && fusefs_again_waiting(fs, n)))
		e->attr_timeout = 0;
	else
		e->attr_timeout = unless_fresh(n, e->attr_timeout);
	pthread_mutex_unlock(&fs->nodes);
	fusefs_node_place(fs, n, p, name);
	*out = n;
	return 0;
}
