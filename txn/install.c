/*
 * install.c - carry a committed workspace home.
 *
 * The workspace's net effect, not its history: each object's contents and attributes once, each name once. Names go in two steps:
 * first every name that changes is cleared (what has another place to go waits in the stage), then every name is set.
 * So the order of a transaction's renames does not matter, circles included.
 *
 * Every step looks at home first and can be repeated (I6): a name that already is the right object stays, an object in the
 * stage waits there under its number. Recovery installs with this same code. Nothing is removed but what
 * the workspace removes: a stranger in the way is put into the trash, and said.
 *
 * Runs without locks: committed versions cannot change, writers wait for the install's end, readers are served from the
 * workspace until txn_finish detaches it.
 */
#include "txn/private.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <syslog.h>

#define COPY_CHUNK (1u << 20)

struct install {
	struct txn_engine *eng;
	const struct store_ops *so;
	struct txn_ws *ws;
	struct base_vec dead_dirs; /* oids of directories waiting in the trash to be removed */
};

/* ---- contents and attributes ---- */

static int write_zeros(struct install *in, struct store_file *f, uint64_t off, uint64_t end, uint64_t home_size)
{
	CLEANUP_FREE void *zeros = NULL;
	int r;

	end = base_min_u64(end, home_size); /* beyond home's end there is nothing to hide */
	if (off >= end)
		return 0;
	r = in->so->fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, end - off);
	if (r != -EOPNOTSUPP)
		return r;
	zeros = calloc(1, COPY_CHUNK);
	if (!zeros)
		return -ENOMEM;
	while (off < end) {
		ssize_t k = in->so->write(f, zeros, (size_t)base_min_u64(end - off, COPY_CHUNK), off);

		if (k <= 0)
			return k ? (int)k : -EIO;
		off += (uint64_t)k;
	}
	return 0;
}

static int copy_from_log(struct install *in, struct store_file *f, const struct txn_extent *e, void *buf)
{
	uint64_t done = 0;
	int r;

	while (done < e->len) {
		size_t n = (size_t)base_min_u64(e->len - done, COPY_CHUNK);
		size_t put = 0;

		r = wal_read(in->eng->wal, e->pos + done, buf, n);
		if (r)
			return r;
		while (put < n) {
			ssize_t k = in->so->write(f, (char *)buf + put, n - put, e->off + done + put);

			if (k <= 0)
				return k ? (int)k : -EIO;
			put += (size_t)k;
		}
		done += n;
	}
	return 0;
}

static int install_data(struct install *in, struct txn_wsobj *w)
{
	uint64_t size = (uint64_t)w->attr.st_size, home_size;
	CLEANUP_FREE void *buf = NULL;
	struct store_file *f = NULL;
	struct txn_extent e;
	struct stat st;
	int r;

	r = in->so->getattr(w->obj->home, &st);
	if (!r)
		r = in->so->open(w->obj->home, O_RDWR, true, &f);
	if (r)
		return r;
	home_size = (uint64_t)st.st_size;
	/* Cut first: what a truncate hid must not come back when the file grows again. */
	for (uint64_t at = 0; txn_extents_next(&w->ext, at, &e); at = e.off + e.len) {
		bool endless = e.len >= TXN_EXTENT_END - e.off;

		if (e.where == TXN_ZERO && endless && e.off < home_size) {
			st.st_size = (off_t)e.off;
			r = in->so->setattr(w->obj->home, &st, STORE_SET_SIZE);
			home_size = e.off;
		}
		if (r || endless)
			break;
	}
	if (!r && size < home_size) {
		st.st_size = (off_t)size;
		r = in->so->setattr(w->obj->home, &st, STORE_SET_SIZE);
		home_size = size;
	}
	for (uint64_t at = 0; !r && at < size && txn_extents_next(&w->ext, at, &e) && e.off < size; at = e.off + e.len) {
		if (e.len > size - e.off)
			e.len = size - e.off;
		if (e.where == TXN_ZERO) {
			r = write_zeros(in, f, e.off, e.off + e.len, home_size);
		} else {
			if (!buf)
				buf = malloc(COPY_CHUNK);
			r = buf ? copy_from_log(in, f, &e, buf) : -ENOMEM;
		}
		home_size = r ? home_size : base_max_u64(home_size, e.where == TXN_ZERO ? 0 : e.off + e.len);
	}
	if (!r && home_size != size) {
		st.st_size = (off_t)size;
		r = in->so->setattr(w->obj->home, &st, STORE_SET_SIZE);
	}
	in->so->close_file(f);
	return r;
}

static int install_xattrs(struct install *in, struct txn_wsobj *w)
{
	struct txn_wsxattr *x, *tmp;
	int r = 0;

	HASH_ITER (hh, w->xattrs, x, tmp) {
		if (r)
			break;
		if (x->len != TXN_XATTR_ABSENT)
			r = in->so->setxattr(w->obj->home, x->name, x->value, x->len, 0);
		else if ((r = in->so->removexattr(w->obj->home, x->name)) == -ENODATA)
			r = 0;
	}
	return r;
}

static int install_attrs(struct install *in, struct txn_wsobj *w)
{
	unsigned mask = w->changed >> TXN_CH_SHIFT;
	struct stat now;
	int r = install_xattrs(in, w);

	if (r)
		return r;
	if (w->changed & (TXN_CH_DATA | TXN_CH_SIZE))
		mask |= STORE_SET_MODE | STORE_SET_MTIME;
	if (!mask && !w->xattrs)
		return 0;
	r = in->so->getattr(w->obj->home, &now);
	if (r)
		return r;
	if ((mask & STORE_SET_UID) && now.st_uid == w->attr.st_uid)
		mask &= ~STORE_SET_UID;
	if ((mask & STORE_SET_GID) && now.st_gid == w->attr.st_gid)
		mask &= ~STORE_SET_GID;
	if ((mask & STORE_SET_MODE) && now.st_mode == w->attr.st_mode && !(mask & (STORE_SET_UID | STORE_SET_GID)))
		mask &= ~STORE_SET_MODE;
	if (S_ISLNK(now.st_mode))
		mask &= ~STORE_SET_MODE;
	if (S_ISDIR(now.st_mode) && txn_dir_changed_later(w))
		mask &= ~STORE_SET_MTIME;
	return mask ? in->so->setattr(w->obj->home, &w->attr, mask) : 0;
}

/* Names that came and went, or whose change home had before: the directory was changed when the transaction says, at least. */
static int install_dir_time(struct install *in, struct txn_wsobj *w)
{
	struct stat now;
	int r;

	if (!w->is_dirview || !w->dir_time.tv_sec || !w->obj->home || atomic_load(&w->obj->gone))
		return 0;
	if ((w->changed & STORE_SET_MTIME << TXN_CH_SHIFT) && !txn_dir_changed_later(w))
		return 0;
	r = in->so->getattr(w->obj->home, &now);
	if (!r && base_timespec_before(&now.st_mtim, &w->dir_time)) {
		now.st_mtim = w->dir_time;
		r = in->so->setattr(w->obj->home, &now, STORE_SET_MTIME);
	}
	return r == -ENOENT || r == -ESTALE ? 0 : r;
}

/* Whoever has to mend it needs to know where. */
static int name_trouble(struct install *in, const char *name, int r)
{
	if (r)
		snprintf(in->ws->trouble, sizeof(in->ws->trouble), "%s", name);
	return r;
}

static int object_trouble(struct install *in, struct txn_wsobj *w, int r)
{
	CLEANUP_FREE char *name = NULL;
	struct store_obj *parent;

	if (w->name)
		return name_trouble(in, w->name, r);
	if (in->so->place(w->obj->home, &parent, &name))
		return r;
	in->so->put(parent);
	return name_trouble(in, name, r);
}

/* Objects: contents of files; attributes of everything but directories, or of directories only. */
static int install_objects(struct install *in, bool dirs, uint64_t *count)
{
	struct txn_wsobj *w, *tmp;
	int r = 0;

	HASH_ITER (hh, in->ws->objs, w, tmp) {
		r = dirs ? install_dir_time(in, w) : 0;
		if (r)
			return r;
		if (!w->owned || !w->changed || !w->obj->home || S_ISDIR(w->obj->home->kind) != dirs)
			continue;
		if (w->created && !w->wanted && w->staged && !atomic_load(&w->obj->opens))
			continue; /* came and went */
		if (!in->ws->resolve && !dirs && w->attr.st_nlink == 0 && !atomic_load(&w->obj->opens))
			continue; /* is going */
		r = !dirs && (w->changed & (TXN_CH_DATA | TXN_CH_SIZE)) ? install_data(in, w) : 0;
		if (!r)
			r = install_attrs(in, w);
		if ((r == -ENOENT || r == -ESTALE) && in->ws->resolve)
			r = 0; /* recovery: removed by a later, durable operation */
		if (r)
			return object_trouble(in, w, r);
		if (count)
			++*count;
	}
	return 0;
}

/* ---- names ---- */

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

/* Take what is at this name now away from it. */
static int clear_name(struct install *in, struct txn_name *e, struct txn_obj *cur)
{
	struct txn_wsobj *w = wsobj_of(in, cur);
	bool dir = S_ISDIR(cur->home->kind);
	char name[20];
	int r;

	if (!w || !w->owned)
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
	r = base_vec_push(&in->dead_dirs, w->oid);
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

static int install_names(struct install *in, uint64_t *count)
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
		if (cur && cur != e->after)
			r = clear_name(in, e, cur);
		if (cur)
			txn_obj_put(cur);
		if (r)
			return name_trouble(in, e->name, r);
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
		if (!r && cur != e->after)
			r = set_name(in, e);
		else if (!r && wsobj_of(in, cur) && wsobj_of(in, cur)->wanted)
			wsobj_of(in, cur)->wanted--;
		if (cur)
			txn_obj_put(cur);
		if (r)
			return name_trouble(in, e->name, r);
		if (count)
			++*count;
	}
	return 0;
}

static int remove_dead_dirs(struct install *in)
{
	char name[20];
	int r = 0;

	for (size_t i = in->dead_dirs.n; i-- > 0;) {
		int s = in->so->unlink(in->so->trash(in->eng->store), txn_stage_name(in->dead_dirs.v[i], name), true);
		struct txn_wsobj *w = txn_ws_find(in->ws, in->dead_dirs.v[i]);

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
static void count_wanted(struct install *in)
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
static int leave_stage(struct install *in)
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

/* One try. Counts (may be NULL) for recovery's report. [no locks] */
int txn_install(struct txn_ws *ws, struct txn *t UNUSED, uint64_t *objects, uint64_t *names)
{
	struct install in = {.eng = ws->eng, .so = ws->eng->so, .ws = ws};
	int r;

	count_wanted(&in);
	r = install_objects(&in, false, objects);
	if (!r)
		r = install_names(&in, names);
	if (!r)
		r = install_objects(&in, true, objects);
	if (!r)
		r = leave_stage(&in);
	if (!r)
		r = remove_dead_dirs(&in);
	base_vec_free(&in.dead_dirs);
	return r;
}

int txn_install_reserved(struct txn *t)
{
	int r = txn_install(&t->ws, t, NULL, NULL);

	if ((r == -ENOSPC || r == -EDQUOT) && t->reserved) {
		txn_give_back(t);
		r = txn_install(&t->ws, t, NULL, NULL);
	}
	return r;
}

/*
 * The installer: committed transactions in the order of their commits. For want of space it gives back what commit
 * reserved and tries again, for as long as it takes: everyone reads the right contents from the log meanwhile.
 */
void *txn_installer(void *arg)
{
	struct txn_engine *eng = arg;

	pthread_mutex_lock(&eng->lock);
	for (;;) {
		struct txn *t = TAILQ_FIRST(&eng->installs);
		struct timespec until;
		int r;

		if (!t || atomic_load(&eng->failed)) {
			if (eng->stopping)
				break;
			pthread_cond_wait(&eng->work, &eng->lock);
			continue;
		}
		pthread_mutex_unlock(&eng->lock);
		r = txn_install_reserved(t);
		if (!r) {
			txn_finish(t);
			pthread_mutex_lock(&eng->lock);
			eng->install_stuck = false;
			continue;
		}
		if (r != -ENOSPC && r != -EDQUOT)
			txn_engine_fail(eng, "transaction %llu is committed but cannot be installed at \"%s\": %s",
			                (unsigned long long)t->id, t->ws.trouble, strerror(-r));
		pthread_mutex_lock(&eng->lock);
		if (atomic_load(&eng->failed))
			continue;
		if (!eng->install_stuck)
			base_log(LOG_WARNING, "transaction %llu is committed and waits for space to be installed; free some",
			         (unsigned long long)t->id);
		eng->install_stuck = true;
		pthread_cond_broadcast(&eng->installed);
		if (eng->stopping)
			break;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec++;
		pthread_cond_timedwait(&eng->work, &eng->lock, &until);
	}
	pthread_mutex_unlock(&eng->lock);
	return NULL;
}
