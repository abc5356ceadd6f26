/*
 * install_name.c - the names of an install: first every name that changes is cleared, then they are set, so that the order
 * of renames does not matter. What loses its name and gets another one waits in the stage.
 */
#include "txn/install.h"

#include <stdio.h>
#include <syslog.h>

/* Whoever has to mend it needs to know where. */
int txn_install_trouble(struct install *in, const char *name, int r)
{
	if (r)
		snprintf(in->ws->trouble, sizeof(in->ws->trouble), "%s", name);
	return r;
}

static struct txn_wsobj *wsobj_of(struct install *in, struct txn_obj *obj)
{
	return obj && obj->ws && obj->ws->ws == in->ws ? obj->ws : NULL;
}

/* What is at a name at home: new reference, or NULL. A directory that is no more holds nothing. */
static int home_at(struct install *in, struct txn_name *e, struct txn_obj **out)
{
	struct store_obj *home;
	int r;

	*out = NULL;
	if (!e->dir->home)
		return 0;
	r = in->so->lookup(e->dir->home, e->name, &home, NULL);
	if (r == -ENOENT || r == -ESTALE)
		return 0;
	if (r)
		return r;
	*out = txn_obj_intern(in->eng, home);
	return *out ? 0 : -ENOMEM;
}

/*
 * Rename between a name and the stage or the trash. A directory counts as a link of the one it is in: whoever asks for
 * that count sees it move from the version to home in one step.
 */
static int take(struct install *in, struct txn_name *e, struct store_obj *to, const char *name, bool is_dir)
{
	struct txn_wsobj *d = is_dir ? txn_ws_find(in->ws, txn_obj_oid(e->dir)) : NULL;
	int r;

	pthread_rwlock_wrlock(&e->dir->lock);
	r = in->so->rename(e->dir->home, e->name, to, name, 0);
	if (!r && d)
		d->subdirs++;
	pthread_rwlock_unlock(&e->dir->lock);
	return r;
}

static int give(struct install *in, struct txn_name *e, struct store_obj *from, const char *name, bool is_dir)
{
	struct txn_wsobj *d = is_dir ? txn_ws_find(in->ws, txn_obj_oid(e->dir)) : NULL;
	int r;

	pthread_rwlock_wrlock(&e->dir->lock);
	r = in->so->rename(from, name, e->dir->home, e->name, 0);
	if (!r && d)
		d->subdirs--;
	pthread_rwlock_unlock(&e->dir->lock);
	return r;
}

static int lost_and_found(struct install *in, struct txn_name *e, struct txn_obj *cur)
{
	char name[64];

	snprintf(name, sizeof(name), "lost-%llu-%08llx", (unsigned long long)cur->home->ino,
	         (unsigned long long)(base_random_u64() & 0xffffffff));
	base_log(LOG_WARNING, "\"%s\" stands where a committed transaction has another object; it is kept as "
	         STORE_STATE_DIR "/trash/%s", e->name, name);
	return take(in, e, in->so->trash(in->eng->store), name, S_ISDIR(cur->home->kind));
}

static bool is_stranger(struct install *in, struct txn_obj *cur)
{
	struct txn_wsobj *w = wsobj_of(in, cur);

	return !w || !w->owned;
}

/*
 * Recovery finds at a name what the log does not know: a plain operation brought it there after the log's last word, and the
 * filesystem kept that while its record was lost. It stays. Only where the object that the log has for this name still
 * waits in the stage, it never came to this name: then the stranger is someone else's.
 */
static bool is_newer(struct install *in, struct txn_name *e, struct txn_obj *cur)
{
	struct txn_wsobj *w = wsobj_of(in, e->after);

	return in->ws->resolve && cur && cur != e->after && is_stranger(in, cur) && !(w && w->staged && !w->remade);
}

/* Take what is at this name now away from it. */
static int clear_name(struct install *in, struct txn_name *e, struct txn_obj *cur)
{
	struct txn_wsobj *w = wsobj_of(in, cur);
	bool dir = S_ISDIR(cur->home->kind);
	char name[20];
	int r;

	if (is_stranger(in, cur))
		return lost_and_found(in, e, cur);
	txn_stage_name(w->oid, name);
	if (w->wanted && !w->staged) {
		r = take(in, e, in->so->stage(in->eng->store), name, dir);
		if (!r)
			w->staged = true;
		return r;
	}
	if (!dir) {
		r = in->so->unlink(e->dir->home, e->name, false);
		/* Ours, the workspace's and the entry's reference: nobody else knows it any more. */
		if (!r && atomic_load(&cur->refs) <= 3)
			in->so->forsake(cur->home);
		return r;
	}
	/* Its own entries may still have to be cleared: it waits in the trash. */
	r = base_vec_push(&in->ws->dead_dirs, w->oid);
	if (!r)
		r = take(in, e, in->so->trash(in->eng->store), name, true);
	if (!r)
		atomic_store(&cur->gone, true);
	return r;
}

static int set_name(struct install *in, struct txn_name *e)
{
	struct txn_wsobj *w = wsobj_of(in, e->after);
	struct store_obj *parent;
	char name[20], *at;
	int r;

	if (!w)
		return -EUCLEAN;
	if (w->wanted)
		w->wanted--;
	if (w->staged) {
		txn_stage_name(w->oid, name);
		if (w->wanted && !S_ISDIR(w->obj->home->kind)) /* more names to give: keep the one in the stage */
			return in->so->link(w->obj->home, e->dir->home, e->name);
		r = give(in, e, in->so->stage(in->eng->store), name, S_ISDIR(w->obj->home->kind));
		if (!r)
			w->staged = false;
		return r;
	}
	if (!S_ISDIR(w->obj->home->kind))
		return in->so->link(w->obj->home, e->dir->home, e->name);
	r = in->so->place(w->obj->home, &parent, &at);
	if (r)
		return r;
	r = give(in, e, parent, at, true);
	in->so->put(parent);
	free(at);
	return r;
}

static bool no_change(const struct txn_name *e)
{
	return e->before == e->after;
}

/* Recovery: the name is to get an object, but the object or the directory is no more. */
static bool lost(const struct txn_name *e)
{
	return e->after && (!e->dir->home || !e->after->home);
}

/* What was made for this name only is not needed. */
static void pass_over(struct install *in, struct txn_name *e)
{
	struct txn_wsobj *w = wsobj_of(in, e->after);

	base_log(LOG_INFO, "\"%s\" has something newer than the log; it stays", e->name);
	if (w && w->remade && w->wanted)
		w->wanted--;
}

int txn_install_names(struct install *in, uint64_t *count)
{
	bool recovering = in->ws->resolve;
	struct txn_name *e;
	struct txn_obj *cur;
	int r;

	TAILQ_FOREACH (e, &in->ws->names, link) {
		if ((no_change(e) && !recovering) || lost(e)) /* better what is there than nothing */
			continue;
		r = home_at(in, e, &cur);
		if (r)
			return r;
		if (cur && cur != e->after && !is_newer(in, e, cur))
			r = clear_name(in, e, cur);
		if (cur)
			txn_obj_put(cur);
		if (r)
			return txn_install_trouble(in, e->name, r);
	}
	TAILQ_FOREACH (e, &in->ws->names, link) {
		if ((no_change(e) && !recovering) || !e->after)
			continue;
		if (lost(e)) {
			base_log(LOG_WARNING, "\"%s\" cannot be restored: its %s is gone", e->name,
			         e->dir->home ? "object" : "directory");
			continue;
		}
		r = home_at(in, e, &cur);
		if (!r && is_newer(in, e, cur))
			pass_over(in, e);
		else if (!r && cur != e->after)
			r = set_name(in, e);
		else if (!r && wsobj_of(in, cur) && wsobj_of(in, cur)->wanted)
			wsobj_of(in, cur)->wanted--;
		if (cur)
			txn_obj_put(cur);
		if (r)
			return txn_install_trouble(in, e->name, r);
		if (count)
			++*count;
	}
	return 0;
}

int txn_install_dead_dirs(struct install *in)
{
	char name[20];
	int r = 0;

	for (size_t i = in->ws->dead_dirs.n; i-- > 0;) {
		int s = in->so->unlink(in->so->trash(in->eng->store), txn_stage_name(in->ws->dead_dirs.v[i], name), true);
		struct txn_wsobj *w = txn_ws_find(in->ws, in->ws->dead_dirs.v[i]);

		if (!s && w && !w->obj->user) /* the layer above does not know it */
			in->so->forsake(w->obj->home);
		if (s == -ENOTEMPTY)
			base_log(LOG_WARNING, "removed directory is not empty; it is kept as " STORE_STATE_DIR "/trash/%s",
			         name);
		else if (s && s != -ENOENT)
			r = s;
	}
	return r;
}

/* How many names each object is to have of those that change; again each time an install is tried. */
void txn_install_count(struct install *in)
{
	bool recovering = in->ws->resolve;
	struct txn_wsobj *w, *tmp;
	struct txn_name *e;

	HASH_ITER (hh, in->ws->objs, w, tmp)
		w->wanted = 0;
	TAILQ_FOREACH (e, &in->ws->names, link) {
		w = wsobj_of(in, e->after);
		if (w && (recovering || !no_change(e)))
			w->wanted++;
	}
}

/*
 * A file that waited in the stage and has got all its names by links does not need that one any more. One that should
 * have got a name and could not is kept.
 */
int txn_install_leave_stage(struct install *in)
{
	struct store_obj *stage = in->so->stage(in->eng->store);
	struct txn_wsobj *w, *tmp;
	char name[20], kept[40];
	int r = 0;

	HASH_ITER (hh, in->ws->objs, w, tmp) {
		if (r || !w->staged || !w->obj->home || (w->created && !w->wanted) || S_ISDIR(w->obj->home->kind))
			continue;
		txn_stage_name(w->oid, name);
		if (w->wanted) {
			snprintf(kept, sizeof(kept), "lost-%s", name);
			base_log(LOG_WARNING, "a file whose directory is gone is kept as " STORE_STATE_DIR "/trash/%s", kept);
			r = in->so->rename(stage, name, in->so->trash(in->eng->store), kept, 0);
		} else {
			r = in->so->unlink(stage, name, false);
		}
		if (r == -ENOENT)
			r = 0;
		if (!r)
			w->staged = false;
	}
	return r;
}
