/*
 * store_dir.h - private to store_dir*.c: the real directory behind store.h.
 *
 * Each known inode is one struct store_dir_obj, interned by (device, inode number, birth time). It keeps an O_PATH
 * descriptor, which is closed when too many are open and nobody uses it, and is found again by file handle or by its
 * last known parent and name. Everything is done by descriptor and single name, never by a path, so that no symbolic
 * link can lead out of the backing directory; what the kernel offers for paths only goes through /proc/self/fd/N.
 *
 *   store_dir.c        opening and closing, the table of operations, durability, statfs
 *   store_dir_state.c  the state directory: creation, format file, lock
 *   store_dir_space.c  the ballast
 *   store_dir_fd.c     object table, descriptor cache, reopening
 *   store_dir_find.c   ids, resolve
 *   store_dir_name.c   lookup, link, unlink, rename, readdir, readlink
 *   store_dir_make.c   create, tmpfile
 *   store_dir_attr.c   attributes, extended attributes, overcoming the owner's permission bits
 *   store_dir_data.c   contents of regular files
 *
 * Lock order: widen_lock, then lock. space_lock stands alone. No system call that can block on the disk is made under
 * `lock`.
 */
#ifndef TXNFS_STORE_DIR_H
#define TXNFS_STORE_DIR_H

#include "base/base.h"
#include "base/map.h"
#include "txn/store.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

struct store_dir_key {
	uint64_t dev;
	uint64_t ino;
	int64_t btime_sec;
	uint64_t btime_nsec;
};

struct store_dir_obj {
	struct store_obj pub; /* pub.user is the engine's, the rest never changes */
	struct store_dir_key key;
	UT_hash_handle hh;            /* lock */
	unsigned refs;                /* lock */
	unsigned pins;                /* lock; operations using fd right now */
	int fd;                       /* lock; O_PATH, -1 when evicted. A pin keeps it open and may use it unlocked */
	bool keep;                    /* lock; must not be evicted: it could not be found again */
	bool fixed;                   /* set before it is shared: root and state directories, always kept */
	struct store_dir_obj *newer;  /* lock; LRU list of those with fd >= 0, no pins and not kept */
	struct store_dir_obj *older;  /* lock */
	struct store_dir_obj *parent; /* lock; last known place (a reference), NULL when unknown */
	char *name;                   /* lock; set exactly when parent is */
	uint64_t names_gen;           /* lock; of a directory: counts removed and renamed names */
	struct store_id *id;          /* lock until set, then constant; NULL: not asked yet */
	struct store_dir_obj *reap;   /* lock; list of those to be freed after unlocking */
};

struct store_dir {
	struct store pub;
	struct store_id root_id; /* constant */
	int root_fd;  /* O_RDONLY: for syncfs, statvfs and as mount_fd of open_by_handle_at */
	int state_fd; /* O_RDONLY */
	int lock_fd;  /* holds the lock while open; -1 when read_only */
	int wal_fd;
	bool read_only;
	bool by_handle; /* open_by_handle_at works */
	bool overlay;   /* overlayfs: the birth time changes when the object is first changed */
	uid_t euid;
	gid_t egid;
	uint64_t mnt_id; /* mount of the root; names that lead to another mount are refused. 0: kernel does not tell */
	int handle_mnt;  /* the same mount, as name_to_handle_at numbers it; -1: no file handles here */
	struct store_dir_key state_key;
	struct store_dir_obj *root, *stage, *trash;

	pthread_mutex_t lock;
	struct store_dir_obj *table;           /* lock */
	struct store_dir_obj *newest, *oldest; /* lock; LRU */
	unsigned open_fds;                     /* lock; objects with fd >= 0 */
	unsigned max_fds;

	pthread_mutex_t widen_lock; /* held while permission bits are widened for one operation */
	atomic_uint widen_seq;      /* odd meanwhile; changed under widen_lock */

	pthread_mutex_t space_lock;
	int ballast_fd;      /* -1: none */
	uint64_t ballast;    /* space_lock; its size */
	uint64_t reserved;   /* space_lock; outstanding reservations, never more than ballast */
	atomic_bool pressed; /* an operation met a full disk or quota since the ballast last grew */
};

/* A file that is open. Its reference keeps the object alive. */
struct store_file {
	struct store_dir_obj *obj;
	int fd;
};

/* Use of an object's descriptor. */
struct store_dir_pin {
	struct store_dir_obj *obj;
	int fd;
};

void store_dir_unpin(struct store_dir_pin *pin);
#define CLEANUP_PIN __attribute__((cleanup(store_dir_unpin)))

static inline void store_dir_putp(struct store_dir_obj **p)
{
	if (*p)
		(*p)->pub.store->ops->put(&(*p)->pub);
}
#define CLEANUP_OBJ __attribute__((cleanup(store_dir_putp)))

static inline struct store_dir *store_dir_of(struct store *st)
{
	return container_of(st, struct store_dir, pub);
}

static inline struct store_dir_obj *store_dir_obj_of(struct store_obj *obj)
{
	return container_of(obj, struct store_dir_obj, pub);
}

static inline struct store_dir *store_dir_home(const struct store_dir_obj *o)
{
	return store_dir_of(o->pub.store);
}

/* Path of an open descriptor's inode. A symbolic link's own inode is meant, not its target. */
struct store_dir_proc {
	char path[32];
};
struct store_dir_proc store_dir_proc(int fd);

/* store_dir_fd.c */

/* 0 with the descriptor in pin->fd, which stays open until store_dir_unpin; -ESTALE when it cannot be found again. */
int store_dir_pin(struct store_dir_obj *o, struct store_dir_pin *pin);
struct store_obj *store_dir_get(struct store_obj *obj);
void store_dir_put(struct store_obj *obj);
/* What identifies fd, and its attributes. -EXDEV: on another mount. */
int store_dir_statx(struct store_dir *sd, int fd, struct statx *sx);
void store_dir_key(struct store_dir *sd, const struct statx *sx, struct store_dir_key *key);
/*
 * The object of an O_PATH descriptor, which is taken over in any case. With dir and name it was found there; gen is
 * dir's names_gen from before, and -EAGAIN says that names have changed meanwhile. STORE_DIR_ANY_GEN: do not check.
 */
#define STORE_DIR_ANY_GEN UINT64_MAX
int store_dir_intern(struct store_dir *sd, int fd, const struct statx *sx, struct store_dir_obj *dir, const char *name,
                     uint64_t gen, struct store_dir_obj **out);
/* O_PATH descriptor of a name, or -errno. Makes room when descriptors run out. */
int store_dir_openat(struct store_dir *sd, const struct store_dir_pin *dir, const char *name);
/* For opening a descriptor in other ways: true when err means that they ran out and some were closed. */
bool store_dir_relieve(struct store_dir *sd, int err);
/* A lookup that began before a name in the directory went away must not record it as a place. */
uint64_t store_dir_names_gen(struct store_dir_obj *dir);
void store_dir_names_changed(struct store_dir_obj *dir);
/* Names have changed: the object (pinned) is now known at (dir, name). */
void store_dir_moved(struct store_dir_obj *o, struct store_dir_obj *dir, const char *name);
/* Only if it has no known place. */
void store_dir_linked(struct store_dir_obj *o, struct store_dir_obj *dir, const char *name);
/* (dir, name) was removed or replaced; victim is pinned. */
void store_dir_removed(struct store_dir_obj *dir, const char *name, const struct store_dir_pin *victim);
void store_dir_forsake(struct store_obj *obj);
/* Removed for good, or without a name yet: keep its descriptor. */
void store_dir_keep(struct store_dir_obj *o);
int store_dir_place(struct store_obj *obj, struct store_obj **parent, char **name);
/* Frees all objects; at close. */
void store_dir_drop_all(struct store_dir *sd);

/* store_dir_find.c */
int store_dir_id_at(struct store_dir *sd, int dirfd, const char *name, struct store_id *id);
/* O_PATH descriptor by an id that holds a handle; -EOPNOTSUPP when it does not. */
int store_dir_open_id(struct store_dir *sd, const struct store_id *id);
bool store_dir_id_has_handle(const struct store_id *id);
int store_dir_id_pinned(const struct store_dir_pin *pin, struct store_id *id);
int store_dir_id(struct store_obj *obj, struct store_id *id);
int store_dir_resolve(struct store *st, const struct store_id *id, const char *hint, const char *stage_name,
                      struct store_obj **out);

/* store_dir_name.c */

/* A single component that names neither a directory's self or parent nor the state directory. */
int store_dir_check_name(struct store_dir_obj *dir, const char *name);
/* lookup for the store's own use: dir is pinned and name checked. */
int store_dir_child(const struct store_dir_pin *dir, const char *name, struct store_dir_obj **out, struct statx *sx);
void store_dir_stat(const struct statx *sx, struct stat *st);
int store_dir_lookup(struct store_obj *dir, const char *name, struct store_obj **out, struct stat *attr);
int store_dir_link(struct store_obj *obj, struct store_obj *dir, const char *name);
int store_dir_unlink(struct store_obj *dir, const char *name, bool is_dir);
int store_dir_rename(struct store_obj *dir, const char *name, struct store_obj *to_dir, const char *to_name,
                     unsigned flags);
int store_dir_readdir(struct store_obj *dir, int (*fn)(void *arg, const struct store_dirent *de), void *arg);
int store_dir_readlink(struct store_obj *obj, char *buf, size_t size);

/* store_dir_make.c */
int store_dir_create(struct store_obj *dir, const char *name, const struct store_new *nw, bool inherit,
                     struct store_obj **out, struct stat *attr);
int store_dir_tmpfile(struct store_obj *dir, const struct store_new *nw, struct store_obj **out, struct stat *attr,
                      struct store_file **file);

/* store_dir_attr.c */

/*
 * Run attempt(arg), which returns >= 0 or -errno. When it says -EACCES, give the owner's permission bits (rw, and x on
 * directories) to the objects of the n descriptors, try again and restore their modes.
 */
typedef int store_dir_attempt(void *arg);
int store_dir_forced(struct store_dir *sd, store_dir_attempt *attempt, void *arg, const int *fds, int n);
/* Modes read between the two are nobody's temporary ones unless the second says that they must be read again. */
unsigned store_dir_modes_begin(struct store_dir *sd);
bool store_dir_modes_changed(struct store_dir *sd, unsigned seq);
/* Pass on a result, remembering a full disk for store_dir_release. */
ssize_t store_dir_space_seen(struct store_dir *sd, ssize_t r);
int store_dir_getattr(struct store_obj *obj, struct stat *attr);
int store_dir_setattr(struct store_obj *obj, const struct stat *attr, unsigned mask);
ssize_t store_dir_getxattr(struct store_obj *obj, const char *name, void *buf, size_t size);
ssize_t store_dir_listxattr(struct store_obj *obj, char *buf, size_t size);
int store_dir_setxattr(struct store_obj *obj, const char *name, const void *value, size_t size, int flags);
int store_dir_removexattr(struct store_obj *obj, const char *name);

/* store_dir_data.c */

/* Takes fd over, in any case. */
int store_dir_file(struct store_dir_obj *o, int fd, struct store_file **out);
int store_dir_file_open(struct store_obj *obj, int flags, bool force, struct store_file **out);
void store_dir_file_close(struct store_file *f);
ssize_t store_dir_read(struct store_file *f, void *buf, size_t n, uint64_t off);
ssize_t store_dir_write(struct store_file *f, const void *buf, size_t n, uint64_t off);
int store_dir_fallocate(struct store_file *f, int mode, uint64_t off, uint64_t len);
int store_dir_seek(struct store_file *f, uint64_t off, int whence, uint64_t *out);
ssize_t store_dir_copy(struct store_file *in, uint64_t off_in, struct store_file *out, uint64_t off_out, size_t n);
int store_dir_sync(struct store_obj *obj, bool data_only);
int store_dir_sync_all(struct store *st);

/* store_dir_state.c: all need root_fd; fill state_fd, lock_fd, wal_fd, state_key and the stage's and trash's fds. */
int store_dir_state_open(struct store_dir *sd, const char *src, bool create, int *stage_fd, int *trash_fd, char *err,
                         size_t errlen);

/* store_dir_space.c */
int store_dir_ballast_open(struct store_dir *sd);
int store_dir_seal(struct store *st);
int store_dir_reserve(struct store *st, uint64_t bytes);
void store_dir_release(struct store *st, uint64_t bytes);

#endif
