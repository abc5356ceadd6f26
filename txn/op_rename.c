/* op_rename.c - rename: inside a transaction, at home, and the checks that keep the tree a tree. */
#include "txn/private.h"

#include <fcntl.h>

/* As unsigned, whatever the C library says. */
#define NOREPLACE 1u
#define EXCHANGE 2u

struct rename_args {
	struct txn_obj *dir, *to_dir;
	const char *name, *to_name;
	unsigned flags;
};

/*
 * A directory is to go under to_dir: not into itself, and not where someone else's uncommitted move of an ancestor could
 * close a circle.
 */
static int check_move(struct txn *view, struct txn_obj *moved, struct txn_obj *to_dir)
{
	struct txn_obj *at = txn_obj_get(to_dir), *parent;
	int r = 0;

	while (!r && at != moved->eng->root) {
		char *name;

		if (at == moved) {
			r = -EINVAL;
			break;
		}
		pthread_rwlock_rdlock(&at->lock);
		/* A snapshot's path must be the one of today: else what moved since could close the circle. */
		if (txn_snap(view) && txn_hist_changed(view, at))
			r = txn_doom(view, at, NULL);
		else if (at->ws && at->ws->moved && at->ws->ws->txn != view) {
			/* Someone else's move: uncommitted, or not home yet, where it may still be inside what moves. */
			struct txn *t = at->ws->ws->txn;

			txn_met(at, NULL, t);
			r = txn_is_open(t) && !t->implicit ? -EBUSY : TXN_RETRY;
		}
		pthread_rwlock_unlock(&at->lock);
		if (!r)
			r = txn_place(view, at, &parent, &name);
		if (!r) {
			free(name);
			txn_obj_put(at);
			at = parent;
		}
	}
	txn_obj_put(at);
	return r;
}

/* One side of a rename: obj leaves for to_dir and may replace `there`. */
static int check_side(struct txn *t, struct txn_obj *obj, struct txn_obj *from, struct txn_obj *to_dir,
                      struct txn_obj *there, bool exchange)
{
	bool dir = S_ISDIR(obj->home->kind);
	int r = dir && from != to_dir ? check_move(t, obj, to_dir) : 0;

	if (r || !there || exchange)
		return r;
	if (dir && !S_ISDIR(there->home->kind))
		return -ENOTDIR;
	if (!dir && S_ISDIR(there->home->kind))
		return -EISDIR;
	return dir ? txn_dir_empty(t, there) : 0;
}

static int rename_locked(struct txn *t, struct rename_args *a, struct txn_obj **src, struct txn_obj **dst)
{
	bool exchange = a->flags & EXCHANGE;
	struct txn_rec_name n = {.count = 2};
	struct txn_wsobj *from, *to, *ws, *wd = NULL;
	int r = txn_own_name(t, a->dir, a->name, src);

	if (!r)
		r = txn_own_name(t, a->to_dir, a->to_name, dst);
	if (r)
		return r;
	if (!*src || (exchange && !*dst))
		return -ENOENT;
	if (*dst && (a->flags & NOREPLACE))
		return -EEXIST;
	if (*src == *dst)
		return 0; /* two names of one file: POSIX does nothing */
	r = check_side(t, *src, a->dir, a->to_dir, *dst, exchange);
	if (!r && exchange)
		r = check_side(t, *dst, a->to_dir, a->dir, NULL, true);
	if (!r)
		r = txn_own(t, *src, &ws);
	if (!r && *dst)
		r = txn_own(t, *dst, &wd);
	if (!r)
		r = txn_declare(t, a->dir, &from);
	if (!r)
		r = txn_declare(t, a->to_dir, &to);
	if (r)
		return r;
	if (a->dir != a->to_dir) {
		ws->moved = ws->moved || S_ISDIR((*src)->home->kind);
		if (exchange)
			wd->moved = wd->moved || S_ISDIR((*dst)->home->kind);
	}
	n.op[0] = (struct txn_rec_name_op){
		.dir = from->oid, .before = ws->oid, .after = exchange ? wd->oid : 0, .name = a->name};
	n.op[1] = (struct txn_rec_name_op){
		.dir = to->oid, .before = txn_oid_of(wd), .after = ws->oid, .name = a->to_name};
	return txn_name_change(t, &n);
}

static int do_rename(struct txn *t, void *arg)
{
	struct txn_obj *src = NULL, *dst = NULL;
	int r;

	pthread_rwlock_wrlock(&t->eng->ns);
	r = rename_locked(t, arg, &src, &dst);
	if (src)
		txn_obj_put(src);
	if (dst)
		txn_obj_put(dst);
	pthread_rwlock_unlock(&t->eng->ns);
	return r;
}

static int plain_rename(struct txn_engine *eng, struct rename_args *a)
{
	struct txn_obj *src = NULL, *dst = NULL;
	int r, s;

	txn_plain_begin(eng);
	pthread_rwlock_wrlock(&eng->ns);
	r = txn_plain_at(a->dir, a->name, &src);
	s = r < 0 ? r : txn_plain_at(a->to_dir, a->to_name, &dst);
	r = r < 0 || s < 0 ? (r < 0 ? r : s) : r | s;
	if (r >= 0 && !src)
		r = -ENOENT;
	if (r >= 0 && dst && S_ISDIR(dst->home->kind) && S_ISDIR(src->home->kind) && !a->flags && dst != src) {
		s = txn_dir_empty(NULL, dst);
		r = s ? s : r;
	}
	if (r >= 0 && a->dir != a->to_dir && S_ISDIR(src->home->kind)) {
		s = check_move(NULL, src, a->to_dir);
		r = s ? s : r;
	}
	if (r >= 0 && a->dir != a->to_dir && (a->flags & EXCHANGE) && dst && S_ISDIR(dst->home->kind)) {
		s = check_move(NULL, dst, a->dir);
		r = s ? s : r;
	}
	if (!r && src != dst) {
		txn_before_name(a->dir, a->name, src);
		txn_before_name(a->to_dir, a->to_name, dst);
		txn_before_links(src, false);
		if (dst)
			txn_before_links(dst, !(a->flags & EXCHANGE));
	}
	if (!r) {
		r = eng->so->rename(a->dir->home, a->name, a->to_dir->home, a->to_name, a->flags);
		txn_obj_dirty(src);
		txn_obj_dirty(a->dir);
		txn_obj_dirty(a->to_dir);
		if (!r && dst && dst != src) {
			txn_obj_dirty(dst);
			if (S_ISDIR(dst->home->kind) && !(a->flags & EXCHANGE))
				atomic_store(&dst->gone, true);
		}
	}
	if (src)
		txn_obj_put(src);
	if (dst)
		txn_obj_put(dst);
	pthread_rwlock_unlock(&eng->ns);
	txn_plain_end(eng);
	return r;
}

int txn_rename(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const char *name, struct txn_obj *to_dir,
               const char *to_name, unsigned flags)
{
	struct rename_args args = {dir, to_dir, name, to_name, flags};

	if (flags & ~(NOREPLACE | EXCHANGE) || flags == (NOREPLACE | EXCHANGE))
		return -EINVAL;
	return TXN_RETRYING(eng, TXN_RUN(eng, view, do_rename, plain_rename, &args));
}
