/*
 * ws.c - workspaces: what each record type does to one, and undoes.
 *
 * The same functions serve live operations (after their record was appended), rollback to a savepoint (undo, newest
 * first) and recovery (apply, in the order of the log). Each takes the locks of what it changes: names are changed with
 * the namespace lock held by the caller, objects under their own lock taken here.
 */
#include "txn/private.h"

void txn_ws_init(struct txn_ws *ws, struct txn_engine *eng, struct txn *t)
{
	memset(ws, 0, sizeof(*ws));
	ws->eng = eng;
	ws->txn = t;
	TAILQ_INIT(&ws->names);
}

struct txn_wsobj *txn_ws_find(struct txn_ws *ws, uint64_t oid)
{
	struct txn_wsobj *w;

	HASH_FIND(hh, ws->objs, &oid, sizeof(oid), w);
	return w;
}

int txn_ws_add(struct txn_ws *ws, struct txn_obj *obj, uint64_t oid, struct txn_wsobj **out)
{
	struct txn_wsobj *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->oid = oid;
	w->ws = ws;
	txn_extents_init(&w->ext);
	HASH_ADD(hh, ws->objs, oid, sizeof(w->oid), w);
	if (!w->hh.tbl) {
		free(w);
		return -ENOMEM;
	}
	w->obj = txn_obj_get(obj);
	ws->nobjs++;
	*out = w;
	return 0;
}

/* The workspace's object for a record: live ones are there, recovery looks for its own. */
static int ws_obj(struct txn_ws *ws, uint64_t oid, struct txn_wsobj **out)
{
	*out = txn_ws_find(ws, oid);
	if (*out)
		return 0;
	return ws->resolve ? ws->resolve(ws, oid, out) : -EUCLEAN;
}

void txn_ws_dirview(struct txn_wsobj *w)
{
	if (!w->is_dirview) {
		w->is_dirview = true;
		TAILQ_INSERT_TAIL(&w->obj->dirviews, w, dir_link);
	}
}

struct txn_name *txn_name_find(struct txn_obj *dir, const char *name)
{
	struct txn_name *e;

	HASH_FIND_STR(dir->names, name, e);
	return e;
}

struct txn_wsxattr *txn_wsxattr_find(const struct txn_wsobj *w, const char *name)
{
	struct txn_wsxattr *x;

	HASH_FIND_STR(w->xattrs, name, x);
	return x;
}

static void free_xattrs(struct txn_wsobj *w)
{
	struct txn_wsxattr *x, *tmp;

	HASH_ITER (hh, w->xattrs, x, tmp) {
		HASH_DEL(w->xattrs, x);
		free(x->value);
		free(x);
	}
}

static void free_wsobj(struct txn_wsobj *w)
{
	HASH_DEL(w->ws->objs, w);
	if (w->is_dirview)
		TAILQ_REMOVE(&w->obj->dirviews, w, dir_link);
	if (w->parent)
		txn_obj_put(w->parent);
	free(w->name);
	free_xattrs(w);
	txn_extents_free(&w->ext);
	txn_obj_put(w->obj);
	free(w);
}

static void release_name(struct txn_engine *eng, struct txn_name *e, uint64_t logged)
{
	if (e->before)
		txn_obj_put(e->before);
	if (e->after)
		txn_obj_put(e->after);
	e->before = e->after = NULL;
	e->txn = NULL;
	if (logged)
		e->logged = logged;
	if (e->logged) {
		/* I5: recovery would replay this name, so further changes must be logged too. */
		TAILQ_INSERT_TAIL(&eng->marked_names, e, link);
		return;
	}
	HASH_DEL(e->dir->names, e);
	txn_obj_put(e->dir);
	free(e);
}

/* Has the version lost its last name? Then nothing of the object is redone. */
static bool removed(const struct txn_wsobj *w)
{
	return S_ISDIR(w->attr.st_mode) ? txn_dir_removed(w) : w->attr.st_nlink == 0;
}

void txn_ws_detach(struct txn_ws *ws, uint64_t logged)
{
	struct txn_wsobj *w, *tmp;
	struct txn_name *e;

	if (logged)
		txn_keep_names_of(ws);
	while ((e = TAILQ_FIRST(&ws->names))) {
		TAILQ_REMOVE(&ws->names, e, link);
		release_name(ws->eng, e, logged);
	}
	ws->nnames = 0;
	HASH_ITER (hh, ws->objs, w, tmp) {
		struct txn_obj *obj = w->obj;

		pthread_rwlock_wrlock(&obj->lock);
		if (logged)
			txn_keep_seen(w);
		/* I5. Names give a directory its mtime, so that setting it must be logged after them. */
		if (logged && (w->is_dirview || (w->owned && (w->changed || w->links || w->created))) &&
		    !(w->owned && removed(w)))
			txn_obj_mark(obj, logged);
		if (w->owned) {
			obj->ws = NULL;
			if (logged && S_ISDIR(w->attr.st_mode) && (w->changed & STORE_SET_MTIME << TXN_CH_SHIFT))
				obj->logged_mtime = true;
			if (!logged && w->created)
				atomic_store(&obj->dead, true);
		}
		pthread_rwlock_unlock(&obj->lock);
		free_wsobj(w);
	}
	ws->nobjs = 0;
	base_vec_free(&ws->dead_dirs);
}

/* A change was applied (n = 1) or undone (-1). With the last one undone nothing has changed. [obj->lock exclusive] */
static void count_change(struct txn_wsobj *w, int n)
{
	w->standing += (size_t)n;
	if (w->standing || w->created)
		return;
	w->changed = 0;
	txn_extents_free(&w->ext);
	txn_extents_init(&w->ext);
	free_xattrs(w);
}

/* ---- contents ---- */

static void apply_stamp(struct txn_wsobj *w, const struct txn_stamp *s)
{
	w->attr.st_mode = (w->attr.st_mode & S_IFMT) | (s->mode & 07777);
	w->attr.st_mtim = s->mtime;
	w->attr.st_ctim = s->ctime;
}

static void set_size(struct txn_wsobj *w, uint64_t size)
{
	w->attr.st_size = (off_t)size;
	w->changed |= TXN_CH_SIZE;
}

int txn_ws_apply_object(struct txn_ws *ws UNUSED, const struct txn_rec *rec UNUSED, uint64_t lsn UNUSED)
{
	return 0; /* a declaration, no change */
}

int txn_ws_undo_object(struct txn_ws *ws UNUSED, const struct txn_rec *rec UNUSED, uint64_t lsn UNUSED)
{
	return 0;
}

/* The version whose contents a record changes, locked, with room for so many settings of extents. */
static int data_begin(struct txn_ws *ws, uint64_t oid, size_t sets, struct txn_wsobj **w)
{
	int r = ws_obj(ws, oid, w);

	if (r)
		return r;
	pthread_rwlock_wrlock(&(*w)->obj->lock);
	r = txn_extents_reserve(&(*w)->ext, sets);
	if (r)
		pthread_rwlock_unlock(&(*w)->obj->lock);
	return r;
}

static int data_end(struct txn_wsobj *w, uint64_t size, const struct txn_stamp *stamp, int n)
{
	set_size(w, size);
	apply_stamp(w, stamp);
	count_change(w, n);
	pthread_rwlock_unlock(&w->obj->lock);
	return 0;
}

int txn_ws_apply_write(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn UNUSED)
{
	const struct txn_rec_write *wr = &rec->u.write;
	struct txn_wsobj *w;
	int r = data_begin(ws, wr->oid, 1, &w);

	if (r)
		return r;
	txn_extents_set(&w->ext, wr->off, wr->off + wr->len, TXN_IN_LOG, wr->new_pos);
	w->changed |= TXN_CH_DATA;
	return data_end(w, wr->size_after, &wr->after, 1);
}

int txn_ws_undo_write(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn UNUSED)
{
	const struct txn_rec_write *wr = &rec->u.write;
	struct txn_wsobj *w;
	int r = data_begin(ws, wr->oid, 2, &w);

	if (r)
		return r;
	/* Beyond the old size nothing was visible; home may hold bytes there that a truncate has hidden. */
	if (wr->old_len < wr->len)
		txn_extents_set(&w->ext, wr->off + wr->old_len, wr->off + wr->len, TXN_ZERO, 0);
	if (wr->old_len)
		txn_extents_set(&w->ext, wr->off, wr->off + wr->old_len, TXN_IN_LOG, wr->old_pos);
	return data_end(w, wr->size_before, &wr->before, -1);
}

int txn_ws_apply_size(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn UNUSED)
{
	const struct txn_rec_size *s = &rec->u.size;
	struct txn_wsobj *w;
	int r = data_begin(ws, s->oid, 1, &w);

	if (r)
		return r;
	if (s->zero_end > s->zero_off) {
		txn_extents_set(&w->ext, s->zero_off, s->zero_end, TXN_ZERO, 0);
		w->changed |= TXN_CH_DATA;
	}
	return data_end(w, s->size_after, &s->after, 1);
}

int txn_ws_undo_size(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn UNUSED)
{
	const struct txn_rec_size *s = &rec->u.size;
	struct txn_wsobj *w;
	int r = data_begin(ws, s->oid, (size_t)s->extents + 1, &w);

	if (r)
		return r;
	if (s->zero_end > s->zero_off)
		txn_extents_set(&w->ext, s->zero_off, s->zero_end, TXN_AT_HOME, 0);
	for (uint32_t i = 0; i < s->extents; i++) {
		struct txn_extent e;

		txn_rec_size_extent(s, i, &e);
		txn_extents_set(&w->ext, e.off, e.off + e.len, e.where, e.pos);
	}
	return data_end(w, s->size_before, &s->before, -1);
}

/* ---- attributes ---- */

static int change_attrs(struct txn_ws *ws, const struct txn_rec_attr *a, const struct txn_attrs *v, int n)
{
	struct txn_wsobj *w;
	int r = ws_obj(ws, a->oid, &w);

	if (r)
		return r;
	pthread_rwlock_wrlock(&w->obj->lock);
	if (a->mask & STORE_SET_MODE)
		w->attr.st_mode = (w->attr.st_mode & S_IFMT) | (v->mode & 07777);
	if (a->mask & STORE_SET_UID)
		w->attr.st_uid = v->uid;
	if (a->mask & STORE_SET_GID)
		w->attr.st_gid = v->gid;
	if (a->mask & STORE_SET_ATIME)
		w->attr.st_atim = v->atime;
	if (a->mask & STORE_SET_MTIME) {
		w->attr.st_mtim = v->mtime;
		w->mtime_set = v->ctime;
		/* Recovery: logged before another transaction's change of names, but committed after it. */
		if (v == &a->after && base_timespec_before(&w->mtime_set, &w->dir_time))
			w->mtime_set = w->dir_time;
	}
	w->attr.st_ctim = v->ctime;
	w->changed |= (unsigned)a->mask << TXN_CH_SHIFT;
	count_change(w, n);
	pthread_rwlock_unlock(&w->obj->lock);
	return 0;
}

int txn_ws_apply_attr(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn UNUSED)
{
	return change_attrs(ws, &rec->u.attr, &rec->u.attr.after, 1);
}

int txn_ws_undo_attr(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn UNUSED)
{
	return change_attrs(ws, &rec->u.attr, &rec->u.attr.before, -1);
}

static int change_xattr(struct txn_ws *ws, const struct txn_rec_xattr *x, uint32_t len, const void *value,
                        const struct timespec *ctime, int n)
{
	void *copy = NULL;
	struct txn_wsxattr *e;
	struct txn_wsobj *w;
	int r = ws_obj(ws, x->oid, &w);

	if (r)
		return r;
	if (len != TXN_XATTR_ABSENT) {
		copy = malloc(len + 1u);
		if (!copy)
			return -ENOMEM;
		memcpy(copy, value, len);
	}
	pthread_rwlock_wrlock(&w->obj->lock);
	e = txn_wsxattr_find(w, x->name);
	if (!e) {
		size_t namelen = strlen(x->name);

		e = calloc(1, sizeof(*e) + namelen + 1);
		if (e) {
			memcpy(e->name, x->name, namelen);
			HASH_ADD_STR(w->xattrs, name, e);
			if (!e->hh.tbl) {
				free(e);
				e = NULL;
			}
		}
	}
	if (e) {
		free(e->value);
		e->value = copy;
		e->len = len;
		w->attr.st_ctim = *ctime;
		w->changed |= TXN_CH_XATTR;
		count_change(w, n);
	} else {
		free(copy);
		r = -ENOMEM;
	}
	pthread_rwlock_unlock(&w->obj->lock);
	return r;
}

int txn_ws_apply_xattr(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn UNUSED)
{
	const struct txn_rec_xattr *x = &rec->u.xattr;

	return change_xattr(ws, x, x->new_len, x->new_value, &x->ctime_after, 1);
}

int txn_ws_undo_xattr(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn UNUSED)
{
	const struct txn_rec_xattr *x = &rec->u.xattr;

	return change_xattr(ws, x, x->old_len, x->old_value, &x->ctime_before, -1);
}

/* ---- names ---- */

static struct txn_name *name_entry(struct txn_ws *ws, struct txn_obj *dir, const char *name, struct txn_obj *before)
{
	struct txn_name *e = txn_name_find(dir, name);

	if (!e) {
		size_t n = strlen(name);

		e = calloc(1, sizeof(*e) + n + 1);
		if (!e)
			return NULL;
		memcpy(e->name, name, n);
		HASH_ADD_STR(dir->names, name, e);
		if (!e->hh.tbl) {
			free(e);
			return NULL;
		}
		e->dir = txn_obj_get(dir);
	} else if (e->txn == ws->txn) {
		return e;
	} else {
		TAILQ_REMOVE(&ws->eng->marked_names, e, link); /* was only a mark */
	}
	e->txn = ws->txn;
	e->before = before ? txn_obj_get(before) : NULL;
	e->after = before ? txn_obj_get(before) : NULL;
	TAILQ_INSERT_TAIL(&ws->names, e, link);
	ws->nnames++;
	return e;
}

static void replace_obj(struct txn_obj **slot, struct txn_obj *obj)
{
	struct txn_obj *old = *slot;

	*slot = obj ? txn_obj_get(obj) : NULL;
	if (old)
		txn_obj_put(old);
}

static void count_link(struct txn_wsobj *w, struct txn_wsobj *dir, int n, const struct timespec *time)
{
	w->links += n;
	pthread_rwlock_wrlock(&w->obj->lock);
	if (S_ISDIR(w->attr.st_mode))
		dir->subdirs += n;
	else
		w->attr.st_nlink = (nlink_t)((long)w->attr.st_nlink + n);
	w->attr.st_ctim = *time;
	pthread_rwlock_unlock(&w->obj->lock);
}

/* A name that goes from one object to another: all that takes memory is done when it is made ready. */
struct name_step {
	struct txn_wsobj *dir, *from, *to;
	struct txn_name *e;
	char *copy;
};

static int name_ready(struct txn_ws *ws, const struct txn_rec_name_op *op, uint64_t from, uint64_t to,
                      struct name_step *s)
{
	int r = ws_obj(ws, op->dir, &s->dir);

	if (!r && from)
		r = ws_obj(ws, from, &s->from);
	if (!r && to)
		r = ws_obj(ws, to, &s->to);
	if (r)
		return r;
	if (s->to) {
		s->copy = strdup(op->name);
		if (!s->copy)
			return -ENOMEM;
	}
	s->e = name_entry(ws, s->dir->obj, op->name, s->from ? s->from->obj : NULL);
	return s->e ? 0 : -ENOMEM;
}

/* dir_time: what the directory shows from then on. */
static void name_go(struct name_step *s, const struct timespec *time, const struct timespec *dir_time)
{
	struct txn_wsobj *to = s->to;

	txn_ws_dirview(s->dir);
	s->dir->dir_time = *dir_time;
	replace_obj(&s->e->after, to ? to->obj : NULL);
	if (s->from != to) {
		if (s->from)
			count_link(s->from, s->dir, -1, time);
		if (to)
			count_link(to, s->dir, 1, time);
	}
	if (to) {
		replace_obj(&to->parent, s->dir->obj);
		free(to->name);
		to->name = TAKE_PTR(s->copy);
	}
}

/* All of a record's names or none. */
static int change_names(struct txn_ws *ws, const struct txn_rec_name *n, bool undo)
{
	struct name_step s[ARRAY_LEN(n->op)] = {0};
	int r = 0;

	for (uint32_t i = 0; i < n->count && !r; i++)
		r = name_ready(ws, &n->op[i], undo ? n->op[i].after : n->op[i].before,
		               undo ? n->op[i].before : n->op[i].after, &s[i]);
	for (uint32_t k = 0; k < n->count && !r; k++) {
		uint32_t i = undo ? n->count - 1 - k : k;

		name_go(&s[i], &n->time, undo ? &n->op[i].dir_time : &n->time);
	}
	for (uint32_t i = 0; i < n->count; i++)
		free(s[i].copy);
	return r;
}

int txn_ws_apply_name(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn UNUSED)
{
	return change_names(ws, &rec->u.name, false);
}

int txn_ws_undo_name(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn UNUSED)
{
	return change_names(ws, &rec->u.name, true);
}
