/*
 * view.c - what the beginning and the end of a transaction mean for nodes and for the kernel's caches: the registry's
 * hooks. They run on the thread that runs the command (or that found the owner dead), without engine locks, and notify
 * from there; private.h tells why that cannot wait in a circle.
 */
#include "fusefs/park.h"

/* This thread serves rmdir CONTROL/NAME: the kernel holds the control directory, and drops the name by itself. */
static _Thread_local bool removing;

static struct fusefs_view *view_of(const struct fusefs_tx *tx)
{
	return tx->view;
}

/* ---- begin ---- */

/* From now on members and others see different sizes and times of shared directories. */
static void take_back_attrs(struct fusefs *fs)
{
	struct fusefs_notices list = {0};
	struct fusefs_node *n;

	pthread_mutex_lock(&fs->nodes);
	while ((n = LIST_FIRST(&fs->kept_attrs))) {
		LIST_REMOVE(n, kept);
		atomic_store(&n->kept_attr, false);
		fusefs_notice_inode_locked(&list, n, FUSEFS_ATTRS_ONLY, 0);
	}
	pthread_mutex_unlock(&fs->nodes);
	fusefs_notices_send(fs, &list);
}

static int begun(void *arg, struct fusefs_tx *tx)
{
	struct fusefs *fs = arg;
	struct fusefs_view *v = calloc(1, sizeof(*v));
	bool first;

	if (!v)
		return -ENOMEM;
	LIST_INIT(&v->nodes);
	tx->view = v;
	if (tx->named)
		return 0;
	v->counted = true;
	pthread_mutex_lock(&fs->nodes);
	first = !atomic_fetch_add(&fs->ambient, 1);
	pthread_mutex_unlock(&fs->nodes);
	if (first)
		take_back_attrs(fs);
	return 0;
}

static void uncount(struct fusefs *fs, struct fusefs_view *v)
{
	if (!v->counted)
		return;
	v->counted = false;
	pthread_mutex_lock(&fs->nodes);
	atomic_fetch_sub(&fs->ambient, 1);
	pthread_mutex_unlock(&fs->nodes);
}

static void gone(void *arg, struct fusefs_tx *tx)
{
	struct fusefs_view *v = view_of(tx);

	if (!v)
		return;
	uncount(arg, v);
	free(v);
	tx->view = NULL;
}

/* ---- mapped writes ---- */

static void quiesce(void *arg, struct fusefs_tx *tx)
{
	struct fusefs *fs = arg;
	struct fusefs_notices list = {0};
	struct fusefs_node *n;

	pthread_mutex_lock(&fs->nodes);
	LIST_FOREACH(n, &view_of(tx)->nodes, of_view)
	if (atomic_load(&n->written))
		fusefs_notice_inode_locked(&list, n, 0, 0);
	pthread_mutex_unlock(&fs->nodes);
	/* The kernel writes dirty pages before it drops them: that is the point. */
	fusefs_notices_send(fs, &list);
}

/* ---- the end ---- */

struct change {
	struct txn_obj *dir; /* a name in it ... */
	char *name;
	struct txn_obj *before, *after;
	struct txn_obj *obj; /* ... or an object */
	bool data;
};

/* What a transaction changed, with references. */
struct changes {
	struct change *v;
	size_t n, cap;
	bool settling;                  /* flipping was called */
	struct fusefs_barrier *barrier; /* and raised this */
};

static struct txn_obj *ref(struct txn_obj *obj)
{
	return obj ? txn_obj_get(obj) : NULL;
}

static void unref(struct txn_obj *obj)
{
	if (obj)
		txn_obj_put(obj);
}

static int remember(void *arg, const struct txn_change *ch)
{
	struct changes *c = arg;
	char *name = NULL;

	if (c->n == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 16;
		struct change *v = reallocarray(c->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		c->v = v;
		c->cap = cap;
	}
	if (ch->dir && !(name = strdup(ch->name)))
		return -ENOMEM;
	c->v[c->n++] = (struct change){
		.dir = ref(ch->dir),
		.name = name,
		.before = ref(ch->before),
		.after = ref(ch->after),
		.obj = ref(ch->obj),
		.data = ch->data,
	};
	return 0;
}

static void forget_all(struct changes *c)
{
	for (size_t i = 0; i < c->n; i++) {
		unref(c->v[i].dir);
		unref(c->v[i].before);
		unref(c->v[i].after);
		unref(c->v[i].obj);
		free(c->v[i].name);
	}
	free(c->v);
}

static void forget(struct changes *c)
{
	if (c)
		forget_all(c);
	free(c);
}

static bool is_dir(struct txn_obj *obj)
{
	return obj && S_ISDIR(txn_obj_kind(obj));
}

/* [fs->nodes] Its pages are told by another thread: a WRITE that has one of them waits, perhaps for somebody else by now. */
static void tell_written(struct fusefs *fs, struct fusefs_notices *list, struct fusefs_notices *later,
                         const struct fusefs_tx *tx, struct txn_obj *obj)
{
	for (struct fusefs_node *m = *txn_obj_user(obj); m; m = m->peer) {
		bool waits = m->tx != tx && !fusefs_is_frozen(m) && fusefs_parked_writes(fs, fusefs_ino(fs, m), NULL, NULL);

		if (m->tx == tx || fusefs_is_frozen(m))
			continue;
		fusefs_notice_inode_locked(list, m, waits ? FUSEFS_ATTRS_ONLY : 0, 0);
		if (waits)
			fusefs_notice_inode_locked(later, m, 0, 0);
	}
}

/* [fs->nodes] Tell every node of obj but tx's own. */
static void tell_others(struct fusefs_notices *list, const struct fusefs_tx *tx, struct txn_obj *obj, bool data)
{
	if (!obj)
		return;
	for (struct fusefs_node *m = *txn_obj_user(obj); m; m = m->peer)
		if (m->tx != tx && !fusefs_is_frozen(m))
			fusefs_notice_inode_locked(list, m, data ? 0 : FUSEFS_ATTRS_ONLY, 0);
}

/* [fs->nodes] A shared directory that this ambient transaction made: its name never leads elsewhere. */
static bool made_here(const struct fusefs_tx *tx, struct txn_obj *obj)
{
	if (!is_dir(obj))
		return false;
	for (struct fusefs_node *m = *txn_obj_user(obj); m; m = m->peer)
		if (!m->tx)
			return m->maker == tx->number;
	return false;
}

/*
 * [fs->nodes] The name is going to change for everyone but tx. It is dropped before the commit begins: from then to the
 * flip it is not kept, because it is contested (node.c), and what is looked up after the flip is right.
 */
static void drop_name(struct fusefs_notices *list, const struct fusefs_tx *tx, const struct change *c)
{
	bool live = c->before == c->after || made_here(tx, c->after);

	for (struct fusefs_node *m = *txn_obj_user(c->dir); m; m = m->peer) {
		if (m->tx == tx || fusefs_is_frozen(m))
			continue;
		/* Never detach a live directory: working directories and mounts below it would go with it. */
		if (m->tx ? c->before != c->after : !live)
			fusefs_notice_entry_locked(list, m, c->name);
	}
}

/* [fs->nodes] And so are, or did, the attributes of the directory and of what loses or gets the name. */
static void tell_name_attrs(struct fusefs_notices *list, const struct fusefs_tx *tx, const struct change *c)
{
	tell_others(list, tx, c->dir, false);
	if (c->before != c->after) {
		tell_others(list, tx, c->before, false);
		tell_others(list, tx, c->after, false);
	}
}

static void *ending(void *arg, struct fusefs_tx *tx)
{
	struct fusefs *fs = arg;
	struct changes *c = calloc(1, sizeof(*c));
	struct fusefs_notices list = {0};

	if (!c || txn_each_change(tx->txn, remember, c))
		base_log(LOG_ERR, "out of memory: cached names or files may stay stale until they are evicted");
	if (!c)
		return NULL;
	atomic_fetch_add(&fs->commits, 1);
	pthread_mutex_lock(&fs->nodes);
	for (size_t i = 0; i < c->n; i++)
		if (c->v[i].dir)
			drop_name(&list, tx, &c->v[i]);
	pthread_mutex_unlock(&fs->nodes);
	fusefs_notices_send(fs, &list);
	return c;
}

/*
 * All that can wait is done. The kernel forgets the attributes, then the contents, and is given no old ones to keep any more.
 * Only attributes and contents, of other nodes than the transaction's own: neither waits for an operation inside it.
 */
static void flipping(void *arg, struct fusefs_tx *tx, void *remembered)
{
	struct fusefs *fs = arg;
	struct changes *c = remembered;
	struct fusefs_notices list = {0};

	if (!c)
		return;
	c->barrier = fusefs_barrier_new(tx);
	c->settling = true;
	pthread_mutex_lock(&fs->nodes);
	for (size_t i = 0; i < c->n; i++)
		fusefs_settle_locked(fs, c->v[i].dir ? c->v[i].dir : c->v[i].obj);
	for (size_t i = 0; i < c->n; i++) {
		struct change *ch = &c->v[i];

		if (ch->dir)
			tell_name_attrs(&list, tx, ch);
		else if (!ch->data || !c->barrier || fusefs_barrier_add(c->barrier, ch->obj))
			tell_others(&list, tx, ch->obj, false);
	}
	pthread_mutex_unlock(&fs->nodes);
	fusefs_notices_send(fs, &list);
	if (c->barrier)
		fusefs_barrier_raise(fs, c->barrier);
}

/* Everything is answered, and kept, as it is now. */
static void settled(struct fusefs *fs, struct changes *c)
{
	pthread_mutex_lock(&fs->nodes);
	for (size_t i = 0; c->settling && i < c->n; i++)
		fusefs_settled_locked(fs, c->v[i].dir ? c->v[i].dir : c->v[i].obj);
	pthread_mutex_unlock(&fs->nodes);
	atomic_fetch_sub(&fs->commits, 1);
}

/* [fs->nodes] Only shared directories have shown names of it, to members. */
static void rolled_back_name(struct fusefs_notices *list, const struct change *c)
{
	for (struct fusefs_node *m = *txn_obj_user(c->dir); m; m = m->peer) {
		if (m->tx)
			continue;
		if (c->before != c->after && !is_dir(c->before))
			fusefs_notice_entry_locked(list, m, c->name);
		fusefs_notice_inode_locked(list, m, FUSEFS_ATTRS_ONLY, 0);
	}
}

static void rolled_back_to(void *arg, struct fusefs_tx *tx);

static void ended(void *arg, struct fusefs_tx *tx, enum fusefs_end how, void *remembered)
{
	struct fusefs *fs = arg;
	struct fusefs_view *v = view_of(tx);
	struct changes *c = remembered;
	struct fusefs_notices list = {0}, later = {0};
	struct fusefs_node *n;
	bool late = true;

	if (c && c->barrier)
		late = !fusefs_barrier_lower(fs, c->barrier);
	if (how == FUSEFS_UNCHANGED) {
		if (c)
			settled(fs, c);
		forget(c);
		return;
	}
	pthread_mutex_lock(&fs->nodes);
	for (size_t i = 0; c && i < c->n; i++) {
		struct change *ch = &c->v[i];

		if (how == FUSEFS_COMMITTED && ch->dir)
			tell_name_attrs(&list, tx, ch);
		else if (how == FUSEFS_COMMITTED && ch->data && late)
			tell_written(fs, &list, &later, tx, ch->obj);
		else if (how == FUSEFS_COMMITTED)
			tell_others(&list, tx, ch->obj, false);
		else if (ch->dir && !tx->named)
			rolled_back_name(&list, ch);
	}
	/* Its own nodes live on in the committed view: with the same content after a commit, with another one after a
	 * rollback. */
	LIST_FOREACH(n, &v->nodes, of_view)
	fusefs_notice_inode_locked(&list, n, how == FUSEFS_COMMITTED ? FUSEFS_ATTRS_ONLY : 0, 0);
	if (tx->named && v->dir && !removing)
		fusefs_notice_entry_locked(&list, fs->control_dir, tx->name);
	if (v->dir)
		v->dir->retired = true;
	pthread_mutex_unlock(&fs->nodes);
	fusefs_notices_send(fs, &list);
	if (later.n)
		fusefs_notices_apart(fs, &later);
	/* A snapshot's nodes showed what was: they show the committed version from now on. */
	if (txn_isolation(tx->txn) == TXN_SNAPSHOT)
		rolled_back_to(fs, tx);
	atomic_store(&v->settled, true);
	if (c)
		settled(fs, c);
	uncount(fs, v);
	fusefs_node_unmark_all(fs, tx);
	forget(c);
}

/* Does name in dir still lead to obj in the transaction's view? */
static bool still_there(struct fusefs *fs, struct fusefs_tx *tx, struct txn_obj *dir, const char *name,
                        struct txn_obj *obj)
{
	struct txn_look look = {0};
	bool same;

	if (txn_lookup(fs->eng, tx->txn, dir, name, &look))
		return false;
	same = look.obj == obj;
	txn_obj_put(look.obj);
	return same;
}

/*
 * [fs->nodes] A name that a named transaction has changed some time: a file with several links may be cached under more
 * names than the one where it was last seen. A directory has one, which stays when it is right.
 */
static void taken_back_name(struct fusefs_notices *list, const struct fusefs_tx *tx, const struct change *c)
{
	struct fusefs_node *dir, *n;

	for (dir = *txn_obj_user(c->dir); dir && dir->tx != tx; dir = dir->peer)
		;
	if (!dir)
		return;
	for (n = is_dir(c->after) ? *txn_obj_user(c->after) : NULL; n; n = n->peer)
		if (n->tx == tx && n->parent == dir && !strcmp(n->name, c->name))
			return;
	fusefs_notice_entry_locked(list, dir, c->name);
}

/*
 * A savepoint's state is back. Names that an ambient transaction changed are not cached, nor are missing ones in a
 * named view; what is left is contents, attributes and the names under which nodes of a named view were last seen.
 */
static void rolled_back_to(void *arg, struct fusefs_tx *tx)
{
	struct fusefs *fs = arg;
	struct fusefs_notices list = {0}, names = {0};
	struct changes c = {0};
	struct txn_obj **objs = NULL;
	struct fusefs_node *n;
	size_t count = 0, keep = 0;

	pthread_mutex_lock(&fs->nodes);
	LIST_FOREACH(n, &view_of(tx)->nodes, of_view)
	count += n->parent && n->nlookup;
	objs = calloc(count + 1, sizeof(struct txn_obj *));
	count = 0;
	LIST_FOREACH(n, &view_of(tx)->nodes, of_view)
	{
		fusefs_notice_inode_locked(&list, n, 0, 0);
		if (!n->parent || !n->nlookup || !objs)
			continue;
		count = names.n;
		fusefs_notice_entry_locked(&names, n->parent, n->name);
		if (names.n > count)
			objs[count] = txn_obj_get(n->obj);
	}
	pthread_mutex_unlock(&fs->nodes);
	/* Entries that are right stay: a directory in use must not be detached. */
	for (size_t i = 0; i < names.n; i++) {
		struct fusefs_notice *v = &names.v[i];

		if (v->name && still_there(fs, tx, v->node->obj, v->name, objs[i])) {
			free(v->name);
			fusefs_node_put(fs, v->node);
		} else {
			names.v[keep++] = *v;
		}
		txn_obj_put(objs[i]);
	}
	names.n = keep;
	free(objs);
	if (tx->named && txn_each_change(tx->txn, remember, &c))
		base_log(LOG_ERR, "out of memory: cached names may stay stale until they are evicted");
	pthread_mutex_lock(&fs->nodes);
	for (size_t i = 0; i < c.n; i++)
		if (c.v[i].dir)
			taken_back_name(&names, tx, &c.v[i]);
	pthread_mutex_unlock(&fs->nodes);
	forget_all(&c);
	fusefs_notices_send(fs, &names);
	fusefs_notices_send(fs, &list);
}

/*
 * All that the kernel has of the view it must ask for again: the level counts from now on. Dropping the root's name drops the
 * missing names below as well, which no node stands for.
 */
static void isolated(void *arg, struct fusefs_tx *tx)
{
	struct fusefs *fs = arg;
	struct fusefs_view *v = view_of(tx);
	struct fusefs_notices list = {0};
	struct fusefs_node *n;

	pthread_mutex_lock(&fs->nodes);
	LIST_FOREACH(n, &v->nodes, of_view)
	{
		fusefs_notice_inode_locked(&list, n, 0, 0);
		if (n->parent && n->nlookup)
			fusefs_notice_entry_locked(&list, n->parent, n->name);
	}
	if (v->dir)
		fusefs_notice_entry_locked(&list, v->dir, "root");
	pthread_mutex_unlock(&fs->nodes);
	fusefs_notices_send(fs, &list);
}

int fusefs_view_remove(struct fusefs *fs, struct fusefs_tx *tx, const struct fusefs_caller *who)
{
	int r;

	(void)fs;
	removing = true;
	r = fusefs_tx_remove(tx, who);
	removing = false;
	return r;
}

void fusefs_view_hooks(struct fusefs *fs, struct fusefs_tx_hooks *hooks)
{
	*hooks = (struct fusefs_tx_hooks){
		.arg = fs,
		.begun = begun,
		.quiesce = quiesce,
		.ending = ending,
		.flipping = flipping,
		.ended = ended,
		.rolled_back_to = rolled_back_to,
		.isolated = isolated,
		.gone = gone,
	};
}
