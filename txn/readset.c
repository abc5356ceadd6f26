/*
 * readset.c - what a serializable transaction has read, and whether it still holds.
 *
 * Each read notes the version that it saw, under the lock under which it saw it: of an object's contents, of its attributes
 * (xattrs included), of a directory's names when it was listed; and for a name what it led to. Only the first read counts:
 * a later one that saw something else makes the first one fail. What the transaction holds itself is not noted: nobody else
 * can change it.
 */
#include "txn/private.h"

#define READ_DATA 1u
#define READ_ATTR 2u
#define READ_LIST 4u

struct read_obj {
	UT_hash_handle hh;
	struct txn_obj *obj; /* owned reference */
	unsigned what;
	uint64_t data, attr, list;
};

struct read_name {
	UT_hash_handle hh;
	struct txn_obj *dir, *obj; /* owned references; obj NULL: missing */
	uint64_t names;            /* the directory's version then */
	size_t len;
	char key[]; /* dir's address, then the name */
};

struct txn_readset {
	struct txn_readset *next; /* of those that are retired [txn->lock] */
	pthread_mutex_t lock;
	/* [lock] */
	bool over; /* the transaction has ended */
	struct read_obj *objs;
	struct read_name *names;
};

int txn_readset_new(struct txn_readset **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	pthread_mutex_init(&(*out)->lock, NULL);
	return 0;
}

void txn_readset_clear(struct txn_readset *rs)
{
	struct read_obj *objs, *o, *otmp;
	struct read_name *names, *n, *ntmp;

	pthread_mutex_lock(&rs->lock);
	rs->over = true;
	objs = TAKE_PTR(rs->objs);
	names = TAKE_PTR(rs->names);
	pthread_mutex_unlock(&rs->lock);
	HASH_ITER (hh, objs, o, otmp) {
		HASH_DEL(objs, o);
		txn_obj_put(o->obj);
		free(o);
	}
	HASH_ITER (hh, names, n, ntmp) {
		HASH_DEL(names, n);
		txn_obj_put(n->dir);
		if (n->obj)
			txn_obj_put(n->obj);
		free(n);
	}
}

void txn_readset_free(struct txn_readset *rs)
{
	txn_readset_clear(rs);
	pthread_mutex_destroy(&rs->lock);
	free(rs);
}

void txn_readset_retire(struct txn_readset *rs, struct txn_readset **list)
{
	txn_readset_clear(rs);
	rs->next = *list;
	*list = rs;
}

void txn_readsets_free(struct txn_readset *list)
{
	struct txn_readset *rs;

	while ((rs = list)) {
		list = rs->next;
		txn_readset_free(rs);
	}
}

/* ---- noting ---- */

static struct txn_readset *reads_of(struct txn *view)
{
	return view ? atomic_load_explicit(&view->reads, memory_order_acquire) : NULL;
}

static int note(struct txn_readset *rs, struct txn_obj *obj, unsigned what)
{
	struct read_obj *o;
	int r = 0;

	pthread_mutex_lock(&rs->lock);
	HASH_FIND_PTR(rs->objs, &obj, o);
	if (!o && !rs->over) {
		o = calloc(1, sizeof(*o));
		if (o) {
			o->obj = obj;
			HASH_ADD_PTR(rs->objs, obj, o);
			if (!o->hh.tbl) {
				free(o);
				o = NULL;
			}
		}
		if (o)
			txn_obj_get(obj);
		else
			r = -ENOMEM;
	}
	if (o && !(o->what & what)) {
		o->what |= what;
		if (what == READ_DATA)
			o->data = obj->data_version;
		else if (what == READ_ATTR)
			o->attr = obj->attr_version;
		else
			o->list = obj->names_version;
	}
	pthread_mutex_unlock(&rs->lock);
	return r;
}

static bool own_version(const struct txn *view, const struct txn_obj *obj)
{
	return obj->ws && obj->ws->ws->txn == view;
}

int txn_note_data(struct txn *view, struct txn_obj *obj)
{
	struct txn_readset *rs = reads_of(view);

	return rs && !own_version(view, obj) ? note(rs, obj, READ_DATA) : 0;
}

int txn_note_attr(struct txn *view, struct txn_obj *obj)
{
	struct txn_readset *rs = reads_of(view);

	return rs && !own_version(view, obj) ? note(rs, obj, READ_ATTR) : 0;
}

int txn_note_list(struct txn *view, struct txn_obj *dir)
{
	struct txn_readset *rs = reads_of(view);

	return rs ? note(rs, dir, READ_LIST) : 0;
}

int txn_note_name(struct txn *view, struct txn_obj *dir, const char *name, struct txn_obj *obj)
{
	struct txn_readset *rs = reads_of(view);
	size_t n = strlen(name), len = sizeof(dir) + n;
	struct read_name *e, *old;
	struct txn_name *own;

	if (!rs)
		return 0;
	own = dir->names ? txn_name_find(dir, name) : NULL;
	if (own && own->txn == view)
		return 0;
	e = calloc(1, sizeof(*e) + len + 1);
	if (!e)
		return -ENOMEM;
	memcpy(e->key, &dir, sizeof(dir));
	memcpy(e->key + sizeof(dir), name, n);
	e->len = len;
	pthread_mutex_lock(&rs->lock);
	HASH_FIND(hh, rs->names, e->key, len, old);
	if (old || rs->over) {
		pthread_mutex_unlock(&rs->lock);
		free(e);
		return 0;
	}
	HASH_ADD(hh, rs->names, key, len, e);
	if (!e->hh.tbl) {
		pthread_mutex_unlock(&rs->lock);
		free(e);
		return -ENOMEM;
	}
	e->dir = txn_obj_get(dir);
	e->obj = obj ? txn_obj_get(obj) : NULL;
	e->names = dir->names_version;
	pthread_mutex_unlock(&rs->lock);
	return 0;
}

/* ---- checking ---- */

/* Has another one this version or name that is past the point where it could still fail? Its flip may come before ours. */
static bool is_coming(const struct txn *other, const struct txn *t)
{
	return other && other != t && txn_is_open(other) &&
	       (atomic_load(&((struct txn *)(uintptr_t)other)->committing) || txn_state(other) == TXN_PREPARED);
}

static bool name_is_coming(const struct txn_name *e, const struct txn *t)
{
	return is_coming(e->txn, t) && e->before != e->after;
}

static int check_obj(struct txn *t, const struct read_obj *o)
{
	const char *what = NULL;
	struct txn_obj *obj = o->obj;
	struct txn_wsobj *w;
	struct txn_name *e, *tmp;

	pthread_rwlock_rdlock(&obj->lock);
	w = obj->ws;
	if (w && !is_coming(w->ws->txn, t))
		w = NULL;
	if ((o->what & READ_DATA) &&
	    (o->data != obj->data_version || (w && (w->changed & (TXN_CH_DATA | TXN_CH_SIZE)))))
		what = "has other contents than this transaction has read";
	else if ((o->what & READ_ATTR) &&
	         (o->attr != obj->attr_version || (w && (w->changed || !S_ISDIR(obj->home->kind)))))
		what = "has other attributes than this transaction has read";
	pthread_rwlock_unlock(&obj->lock);
	if (!what && (o->what & READ_LIST)) {
		bool changed = o->list != obj->names_version;

		HASH_ITER (hh, obj->names, e, tmp)
			changed = changed || name_is_coming(e, t);
		if (changed)
			what = "has other entries than this transaction has listed";
	}
	if (what)
		txn_explain(t, obj, NULL, what);
	return what ? -ECANCELED : 0;
}

static int check_name(struct txn *t, struct read_name *n)
{
	const char *name = n->key + sizeof(n->dir);
	struct txn_name *e = n->dir->names ? txn_name_find(n->dir, name) : NULL;
	bool same = !(e && name_is_coming(e, t));

	if (same && n->names != n->dir->names_version) {
		struct txn_obj *now;
		struct stat st;
		bool valid;
		int r = txn_resolve_name(NULL, n->dir, name, &now, &st, &valid);

		/* A directory that is no more has no names. */
		if (r && r != -ENOENT && r != -ESTALE)
			return r;
		same = now == n->obj;
		if (now)
			txn_obj_put(now);
	}
	if (!same)
		txn_explain(t, n->dir, name, "is not what this transaction has found");
	return same ? 0 : -ECANCELED;
}

/* What it has read up to now: the locks of what it read are taken before the set's own. */
static int copy(struct txn_readset *rs, struct read_obj **objs, size_t *nobjs, struct read_name ***names, size_t *nnames)
{
	struct read_obj *o, *otmp;
	struct read_name *n, *ntmp;
	int r = 0;

	pthread_mutex_lock(&rs->lock);
	*objs = calloc(HASH_COUNT(rs->objs) + 1u, sizeof(**objs));
	*names = calloc(HASH_COUNT(rs->names) + 1u, sizeof(struct read_name *));
	if (!*objs || !*names)
		r = -ENOMEM;
	HASH_ITER (hh, rs->objs, o, otmp)
		if (!r)
			(*objs)[(*nobjs)++] = *o;
	HASH_ITER (hh, rs->names, n, ntmp)
		if (!r)
			(*names)[(*nnames)++] = n; /* constant, and stays until the transaction's end */
	pthread_mutex_unlock(&rs->lock);
	return r;
}

int txn_readset_check(struct txn *t)
{
	CLEANUP_FREE struct read_obj *objs = NULL;
	CLEANUP_FREE struct read_name **names = NULL;
	size_t nobjs = 0, nnames = 0;
	int r = copy(atomic_load(&t->reads), &objs, &nobjs, &names, &nnames);

	/* Names first: they tell people more. */
	for (size_t i = 0; i < nnames && !r; i++)
		r = check_name(t, names[i]);
	for (size_t i = 0; i < nobjs && !r; i++)
		r = check_obj(t, &objs[i]);
	return r;
}
