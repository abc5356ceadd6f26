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
#include "txn/install.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <syslog.h>

#define COPY_CHUNK (1u << 20)

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

static int object_trouble(struct install *in, struct txn_wsobj *w, int r)
{
	CLEANUP_FREE char *name = NULL;
	struct store_obj *parent;

	if (w->name)
		return txn_install_trouble(in, w->name, r);
	if (in->so->place(w->obj->home, &parent, &name))
		return r;
	in->so->put(parent);
	return txn_install_trouble(in, name, r);
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

/* One try. Counts (may be NULL) for recovery's report. [no locks] */
int txn_install(struct txn_ws *ws, struct txn *t UNUSED, uint64_t *objects, uint64_t *names)
{
	struct install in = {.eng = ws->eng, .so = ws->eng->so, .ws = ws};
	int r;

	txn_install_count(&in);
	r = install_objects(&in, false, objects);
	if (!r)
		r = txn_install_names(&in, names);
	if (!r)
		r = install_objects(&in, true, objects);
	if (!r)
		r = txn_install_leave_stage(&in);
	if (!r)
		r = txn_install_dead_dirs(&in);
	return r;
}

int txn_install_reserved(struct txn *t)
{
	int r;

	txn_keep_installed(t);
	r = txn_install(&t->ws, t, NULL, NULL);
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
			if (eng->install_stuck)
				txn_waits_stuck(eng, 0);
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
		txn_waits_stuck(eng, -ENOSPC);
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
