/* store_dir_fd.c - the object table, and the cache of O_PATH descriptors with reopening. */
#include "txn/store_dir.h"

#include <string.h>
#include <sys/sysmacros.h>

/* A chain of parents longer than this is a cycle that foreign hands have made. */
#define CHAIN_MAX (1u << 16)

/* LRU list. All with sd->lock held. */

static bool in_lru(const struct store_dir *sd, const struct store_dir_obj *o)
{
	return o->newer || o->older || sd->newest == o;
}

static void lru_remove(struct store_dir *sd, struct store_dir_obj *o)
{
	if (!in_lru(sd, o))
		return;
	*(o->newer ? &o->newer->older : &sd->newest) = o->older;
	*(o->older ? &o->older->newer : &sd->oldest) = o->newer;
	o->newer = o->older = NULL;
}

/* Put it where its state says: at the young end, or nowhere. */
static void lru_update(struct store_dir *sd, struct store_dir_obj *o)
{
	lru_remove(sd, o);
	if (o->fd < 0 || o->pins || o->keep)
		return;
	o->older = sd->newest;
	*(sd->newest ? &sd->newest->newer : &sd->oldest) = o;
	sd->newest = o;
}

/* References */

/* Drop one reference, and those to the parents that hang on it. What is to be freed goes onto *reap. */
static void put_locked(struct store_dir *sd, struct store_dir_obj *o, struct store_dir_obj **reap)
{
	while (o && --o->refs == 0) {
		struct store_dir_obj *parent = o->parent;
		if (o->hh.tbl)
			HASH_DEL(sd->table, o);
		o->keep = true;
		lru_update(sd, o);
		if (o->fd >= 0)
			sd->open_fds--;
		o->reap = *reap;
		*reap = o;
		o = parent;
	}
}

static void reap_all(struct store_dir_obj *reap)
{
	while (reap) {
		struct store_dir_obj *o = reap;
		reap = o->reap;
		if (o->fd >= 0)
			close(o->fd);
		free(o->name);
		free(o->id);
		free(o);
	}
}

struct store_obj *store_dir_get(struct store_obj *obj)
{
	struct store_dir_obj *o = store_dir_obj_of(obj);
	struct store_dir *sd = store_dir_home(o);
	pthread_mutex_lock(&sd->lock);
	o->refs++;
	pthread_mutex_unlock(&sd->lock);
	return obj;
}

void store_dir_put(struct store_obj *obj)
{
	if (!obj)
		return;
	struct store_dir *sd = store_dir_of(obj->store);
	struct store_dir_obj *reap = NULL;
	pthread_mutex_lock(&sd->lock);
	put_locked(sd, store_dir_obj_of(obj), &reap);
	pthread_mutex_unlock(&sd->lock);
	reap_all(reap);
}

/* Places. */

static bool placed_at(const struct store_dir_obj *o, const struct store_dir_obj *dir, const char *name)
{
	return o->parent == dir && o->parent && strcmp(o->name, name) == 0;
}

/* With the lock held. dir NULL: unknown. Without memory (false) the place becomes unknown, which is always allowed. */
static bool set_place(struct store_dir *sd, struct store_dir_obj *o, struct store_dir_obj *dir, const char *name,
                      struct store_dir_obj **reap)
{
	if (o->fixed || placed_at(o, dir, name))
		return true;
	struct store_dir_obj *old = o->parent;
	char *copy = dir ? strdup(name) : NULL;
	free(o->name);
	o->name = copy;
	o->parent = copy ? dir : NULL;
	if (o->parent)
		dir->refs++;
	put_locked(sd, old, reap);
	return copy || !dir;
}

int store_dir_place(struct store_obj *obj, struct store_obj **parent, char **name)
{
	struct store_dir_obj *o = store_dir_obj_of(obj);
	struct store_dir *sd = store_dir_home(o);
	int r = -ENOENT;
	pthread_mutex_lock(&sd->lock);
	if (o->parent) {
		char *copy = strdup(o->name);
		r = copy ? 0 : -ENOMEM;
		if (copy) {
			o->parent->refs++;
			*parent = &o->parent->pub;
			*name = copy;
		}
	}
	pthread_mutex_unlock(&sd->lock);
	return r;
}

uint64_t store_dir_names_gen(struct store_dir_obj *dir)
{
	struct store_dir *sd = store_dir_home(dir);
	pthread_mutex_lock(&sd->lock);
	uint64_t gen = dir->names_gen;
	pthread_mutex_unlock(&sd->lock);
	return gen;
}

void store_dir_names_changed(struct store_dir_obj *dir)
{
	struct store_dir *sd = store_dir_home(dir);
	pthread_mutex_lock(&sd->lock);
	dir->names_gen++;
	pthread_mutex_unlock(&sd->lock);
}

void store_dir_moved(struct store_dir_obj *o, struct store_dir_obj *dir, const char *name)
{
	struct store_dir *sd = store_dir_home(o);
	struct store_dir_obj *reap = NULL;
	pthread_mutex_lock(&sd->lock);
	dir->names_gen++;
	set_place(sd, o, dir, name, &reap);
	pthread_mutex_unlock(&sd->lock);
	reap_all(reap);
}

void store_dir_linked(struct store_dir_obj *o, struct store_dir_obj *dir, const char *name)
{
	struct store_dir *sd = store_dir_home(o);
	struct store_dir_obj *reap = NULL;
	pthread_mutex_lock(&sd->lock);
	if (!o->parent)
		set_place(sd, o, dir, name, &reap);
	o->keep = o->fixed;
	lru_update(sd, o);
	pthread_mutex_unlock(&sd->lock);
	reap_all(reap);
}

void store_dir_removed(struct store_dir_obj *dir, const char *name, const struct store_dir_pin *victim)
{
	struct store_dir_obj *o = victim->obj;
	struct store_dir *sd = store_dir_home(o);
	struct stat st;
	/* Some filesystems leave a link count on a removed directory. */
	bool gone = S_ISDIR(o->pub.kind) || fstatat(victim->fd, "", &st, AT_EMPTY_PATH) < 0 || st.st_nlink == 0;
	struct store_dir_obj *reap = NULL;
	pthread_mutex_lock(&sd->lock);
	dir->names_gen++;
	if (placed_at(o, dir, name))
		set_place(sd, o, NULL, NULL, &reap);
	if (gone)
		o->keep = true;
	pthread_mutex_unlock(&sd->lock);
	reap_all(reap);
}

void store_dir_keep(struct store_dir_obj *o)
{
	struct store_dir *sd = store_dir_home(o);
	pthread_mutex_lock(&sd->lock);
	o->keep = true;
	lru_update(sd, o);
	pthread_mutex_unlock(&sd->lock);
}

void store_dir_forsake(struct store_obj *obj)
{
	struct store_dir_obj *o = container_of(obj, struct store_dir_obj, pub);
	struct store_dir *sd = store_dir_home(o);
	int fd = -1;
	pthread_mutex_lock(&sd->lock);
	if (o->keep && !o->fixed && !o->pins && o->fd >= 0) {
		fd = TAKE_FD(o->fd);
		sd->open_fds--;
		if (o->hh.tbl)
			HASH_DEL(sd->table, o);
		o->hh.tbl = NULL;
	}
	pthread_mutex_unlock(&sd->lock);
	if (fd >= 0)
		close(fd);
}

/* Eviction */

/* Can it be found again without its descriptor? The caller has pinned it. */
static bool reopenable(struct store_dir *sd, const struct store_dir_pin *pin)
{
	struct stat st;
	if (fstatat(pin->fd, "", &st, AT_EMPTY_PATH) < 0 || st.st_nlink == 0)
		return false; /* removed by foreign hands: only this descriptor keeps it */
	struct store_id id;
	if (sd->by_handle && store_dir_id_pinned(pin, &id) == 0 && store_dir_id_has_handle(&id))
		return true;
	pthread_mutex_lock(&sd->lock);
	bool placed = pin->obj->parent;
	pthread_mutex_unlock(&sd->lock);
	return placed;
}

/* Close the descriptors used longest ago until `limit` are left. Those that cannot be found again are kept. */
static void trim(struct store_dir *sd, unsigned limit)
{
	struct store_dir_obj *o, *reap = NULL;
	pthread_mutex_lock(&sd->lock);
	while (sd->open_fds > limit && (o = sd->oldest)) {
		o->refs++;
		o->pins++;
		lru_remove(sd, o);
		struct store_dir_pin pin = {o, o->fd};
		pthread_mutex_unlock(&sd->lock);
		bool ok = reopenable(sd, &pin);
		pthread_mutex_lock(&sd->lock);
		o->pins--;
		if (!ok)
			o->keep = true;
		int fd = -1;
		/* Pinned meanwhile: in use, so not the oldest any more. Kept meanwhile: it has been removed. */
		if (!o->pins && !o->keep) {
			fd = o->fd;
			o->fd = -1;
			sd->open_fds--;
		}
		lru_update(sd, o);
		put_locked(sd, o, &reap);
		pthread_mutex_unlock(&sd->lock);
		if (fd >= 0)
			close(fd);
		pthread_mutex_lock(&sd->lock);
	}
	pthread_mutex_unlock(&sd->lock);
	reap_all(reap);
}

bool store_dir_relieve(struct store_dir *sd, int err)
{
	if (err != -EMFILE && err != -ENFILE)
		return false;
	pthread_mutex_lock(&sd->lock);
	unsigned before = sd->open_fds;
	pthread_mutex_unlock(&sd->lock);
	trim(sd, before - before / 4);
	pthread_mutex_lock(&sd->lock);
	bool fewer = sd->open_fds < before;
	pthread_mutex_unlock(&sd->lock);
	return fewer;
}

/* Pins and reopening */

/* With the lock held and o->fd >= 0. */
static void pin_locked(struct store_dir *sd, struct store_dir_obj *o, struct store_dir_pin *pin)
{
	o->pins++;
	lru_update(sd, o);
	*pin = (struct store_dir_pin){o, o->fd};
}

void store_dir_unpin(struct store_dir_pin *pin)
{
	struct store_dir_obj *o = pin->obj;
	if (!o)
		return;
	struct store_dir *sd = store_dir_home(o);
	pthread_mutex_lock(&sd->lock);
	o->pins--;
	lru_update(sd, o);
	bool over = sd->open_fds > sd->max_fds && sd->oldest;
	pthread_mutex_unlock(&sd->lock);
	*pin = (struct store_dir_pin){NULL, -1};
	if (over)
		trim(sd, sd->max_fds);
}

/* Give the object a descriptor (taken over), unless another thread was faster, and pin it. */
static void install(struct store_dir_obj *o, int fd, struct store_dir_pin *pin)
{
	struct store_dir *sd = store_dir_home(o);
	pthread_mutex_lock(&sd->lock);
	if (o->fd < 0) {
		o->fd = TAKE_FD(fd);
		sd->open_fds++;
	}
	pin_locked(sd, o, pin);
	pthread_mutex_unlock(&sd->lock);
	if (fd >= 0)
		close(fd);
}

struct open_args {
	int dirfd;
	const char *name;
};

static int try_open(void *arg)
{
	const struct open_args *a = arg;
	int fd = openat(a->dirfd, a->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int store_dir_openat(struct store_dir *sd, const struct store_dir_pin *dir, const char *name)
{
	struct open_args a = {dir->fd, name};
	int fd;
	do
		fd = store_dir_forced(sd, try_open, &a, &dir->fd, 1);
	while (fd < 0 && store_dir_relieve(sd, fd));
	return fd;
}

/* Is fd the inode that the object stands for? */
static bool is_same(struct store_dir_obj *o, int fd)
{
	struct statx sx;
	struct store_dir_key key;
	if (store_dir_statx(store_dir_home(o), fd, &sx) < 0)
		return false;
	store_dir_key(store_dir_home(o), &sx, &key);
	return memcmp(&key, &o->key, sizeof(key)) == 0;
}

/*
 * Collect o and its parents up to the first one that has a descriptor, which is pinned in *top. Each in the chain
 * comes with a reference, o first. -ESTALE: the way up is not known.
 */
static int climb(struct store_dir *sd, struct store_dir_obj *o, struct base_vec *chain, struct store_dir_pin *top)
{
	int r = 0;
	pthread_mutex_lock(&sd->lock);
	for (; o && o->fd < 0 && chain->n < CHAIN_MAX; o = o->parent) {
		r = base_vec_push(chain, (uintptr_t)o);
		if (r < 0)
			break;
		o->refs++;
	}
	if (!r && o && o->fd >= 0)
		pin_locked(sd, o, top);
	else if (!r)
		r = -ESTALE;
	pthread_mutex_unlock(&sd->lock);
	return r;
}

/* Open child, whose parent is pinned in *top, by its name, and pin it in *top instead. */
static int descend(struct store_dir *sd, struct store_dir_obj *child, struct store_dir_pin *top)
{
	CLEANUP_FREE char *name = NULL;
	pthread_mutex_lock(&sd->lock);
	bool moved = child->parent != top->obj;
	if (!moved)
		name = strdup(child->name);
	pthread_mutex_unlock(&sd->lock);
	if (!name)
		return moved ? -EAGAIN : -ENOMEM;
	CLEANUP_CLOSE int fd = store_dir_openat(sd, top, name);
	if (fd < 0)
		return fd == -ENOENT || fd == -ENOTDIR ? -ESTALE : fd;
	if (!is_same(child, fd))
		return -ESTALE;
	struct store_dir_pin pin;
	install(child, TAKE_FD(fd), &pin);
	store_dir_unpin(top);
	*top = pin;
	return 0;
}

static int reopen_by_name(struct store_dir_obj *o, struct store_dir_pin *pin)
{
	struct store_dir *sd = store_dir_home(o);
	int r = -EAGAIN;
	/* A name may change between the climb and the descent; -ESTALE can be for the same reason. */
	for (int tries = 0; tries < 8 && (r == -EAGAIN || r == -ESTALE); tries++) {
		struct base_vec chain = {0};
		struct store_dir_pin top = {NULL, -1};
		r = climb(sd, o, &chain, &top);
		for (size_t i = chain.n; i-- > 0 && !r;)
			r = descend(sd, (struct store_dir_obj *)(uintptr_t)chain.v[i], &top);
		for (size_t i = 0; i < chain.n; i++)
			store_dir_put(&((struct store_dir_obj *)(uintptr_t)chain.v[i])->pub);
		base_vec_free(&chain);
		if (r)
			store_dir_unpin(&top);
		else
			*pin = top;
	}
	return r == -EAGAIN ? -ESTALE : r;
}

static int reopen_by_handle(struct store_dir_obj *o, struct store_dir_pin *pin)
{
	struct store_dir *sd = store_dir_home(o);
	pthread_mutex_lock(&sd->lock);
	const struct store_id *id = o->id;
	pthread_mutex_unlock(&sd->lock);
	if (!sd->by_handle || !id)
		return -EOPNOTSUPP;
	int fd = store_dir_open_id(sd, id);
	if (fd < 0)
		return fd;
	install(o, fd, pin);
	return 0;
}

int store_dir_pin(struct store_dir_obj *o, struct store_dir_pin *pin)
{
	struct store_dir *sd = store_dir_home(o);
	*pin = (struct store_dir_pin){NULL, -1};
	pthread_mutex_lock(&sd->lock);
	if (o->fd >= 0)
		pin_locked(sd, o, pin);
	pthread_mutex_unlock(&sd->lock);
	if (pin->obj)
		return 0;
	/* Filesystems that forget handles (FUSE without export) may still know the name. */
	return reopen_by_handle(o, pin) == 0 ? 0 : reopen_by_name(o, pin);
}

/* The table */

int store_dir_statx(struct store_dir *sd, int fd, struct statx *sx)
{
	unsigned seq;
	do {
		seq = store_dir_modes_begin(sd);
		if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, sx) < 0)
			return -errno;
	} while (store_dir_modes_changed(sd, seq));
	/* Before Linux 5.8 mounts are told apart by device, which is as good except for bind mounts. */
	if (sd->mnt_id && (sx->stx_mask & STATX_MNT_ID) && sx->stx_mnt_id != sd->mnt_id)
		return -EXDEV;
	if (!sd->mnt_id && sd->root && makedev(sx->stx_dev_major, sx->stx_dev_minor) != sd->root->key.dev)
		return -EXDEV;
	return 0;
}

void store_dir_key(struct store_dir *sd, const struct statx *sx, struct store_dir_key *key)
{
	bool born = (sx->stx_mask & STATX_BTIME) && !sd->overlay;
	*key = (struct store_dir_key){
		.dev = makedev(sx->stx_dev_major, sx->stx_dev_minor),
		.ino = sx->stx_ino,
		.btime_sec = born ? sx->stx_btime.tv_sec : 0,
		.btime_nsec = born ? sx->stx_btime.tv_nsec : 0,
	};
}

/* With the lock held: a new object with one reference and no descriptor, in the table. */
static struct store_dir_obj *add(struct store_dir *sd, const struct store_dir_key *key, mode_t kind)
{
	struct store_dir_obj *o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	o->pub = (struct store_obj){.store = &sd->pub, .ino = key->ino, .kind = kind};
	o->key = *key;
	o->refs = 1;
	o->fd = -1;
	HASH_ADD(hh, sd->table, key, sizeof(o->key), o);
	if (!o->hh.tbl) {
		free(o);
		return NULL;
	}
	return o;
}

int store_dir_intern(struct store_dir *sd, int fd, const struct statx *sx, struct store_dir_obj *dir, const char *name,
                     uint64_t gen, struct store_dir_obj **out)
{
	struct store_dir_key key;
	struct store_dir_obj *o, *reap = NULL;
	mode_t kind = sx->stx_mode & S_IFMT;
	int r = 0;
	store_dir_key(sd, sx, &key);
	pthread_mutex_lock(&sd->lock);
	if (dir && gen != STORE_DIR_ANY_GEN && gen != dir->names_gen) {
		r = -EAGAIN;
		goto out;
	}
	HASH_FIND(hh, sd->table, &key, sizeof(key), o);
	if (o && o->pub.kind != kind) {
		/* The inode number was reused behind our back where the filesystem has no birth time. */
		HASH_DEL(sd->table, o);
		o->hh.tbl = NULL;
		o->keep = true;
		lru_update(sd, o);
		o = NULL;
	}
	if (o)
		o->refs++;
	else
		o = add(sd, &key, kind);
	if (!o) {
		r = -ENOMEM;
		goto out;
	}
	if (o->fd < 0) {
		o->fd = TAKE_FD(fd);
		sd->open_fds++;
	}
	if (dir && sx->stx_nlink > 0)
		o->keep = o->fixed;
	lru_update(sd, o);
	if (dir && !set_place(sd, o, dir, name, &reap)) {
		put_locked(sd, o, &reap);
		r = -ENOMEM;
		goto out;
	}
	*out = o;
out:;
	bool over = sd->open_fds > sd->max_fds && sd->oldest;
	pthread_mutex_unlock(&sd->lock);
	if (fd >= 0)
		close(fd);
	reap_all(reap);
	if (over)
		trim(sd, sd->max_fds);
	return r;
}

void store_dir_drop_all(struct store_dir *sd)
{
	struct store_dir_obj *o, *next, *reap = NULL;
	HASH_ITER (hh, sd->table, o, next) {
		HASH_DEL(sd->table, o);
		o->reap = reap;
		reap = o;
	}
	reap_all(reap);
}
