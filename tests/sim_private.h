/* sim_private.h - what the files of the simulated disk share. */
#ifndef TXNFS_TESTS_SIM_PRIVATE_H
#define TXNFS_TESTS_SIM_PRIVATE_H

#include "tests/sim.h"

#include <pthread.h>
#include <sys/queue.h>

#define SIM_SECTOR 512
#define SIM_PAGE 4096

/* Pages are shared between copies and copied when written. */
struct sim_page {
	unsigned refs; /* atomic */
	uint8_t b[SIM_PAGE];
};

struct sim_xattr {
	char *name;
	void *value;
	size_t len;
};

struct sim_entry {
	char *name;
	uint64_t serial;
};

struct sim_inode {
	uint64_t serial; /* number in the tree's table: an identity for the disk's whole life */
	uint64_t ino, gen;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	dev_t rdev;
	struct timespec atime, mtime, ctime;
	uint64_t size;
	struct sim_page **pages; /* NULL: zeros */
	size_t npages;
	char *target;
	struct sim_xattr *xattrs; /* in the order of their names */
	size_t nxattrs;
	struct sim_entry *entries; /* of a directory, in the order of their names */
	size_t nentries, capentries;
	unsigned names; /* entries that lead here */
	bool fixed;     /* root and the state's directories */
	uint64_t label; /* whoever uses the disk may write here what tells objects apart; copies keep it */
	/* In the present tree only */
	struct sim_obj *obj;
	unsigned opens;
	bool forsaken;
};

struct sim_tree {
	struct sim_inode **v; /* by serial; [0] is unused */
	size_t n, cap;
};

enum sim_kind { SIM_DATA, SIM_SIZE, SIM_ATTR, SIM_XATTR, SIM_NAMES };

struct sim_set { /* this name leads there from now on; 0: nowhere */
	uint64_t dir, to;
	char *name;
};

struct sim_change {
	TAILQ_ENTRY(sim_change) link;
	enum sim_kind kind;
	uint64_t serial; /* the inode; SIM_NAMES: what it creates, or 0 */
	union {
		struct {
			uint64_t at; /* sector number */
			uint8_t *bytes;
		} data;
		uint64_t size;
		struct {
			mode_t mode;
			uid_t uid;
			gid_t gid;
			struct timespec atime, mtime;
		} attr;
		struct sim_xattr xattr; /* value NULL: removed */
		struct {
			struct sim_set set[2];
			int n;
			uint64_t removes[2]; /* inodes that lose a name for good by it */
			uint64_t adds;       /* an inode that gets one more */
			uint64_t rmdir;      /* a directory that goes */
			bool moves_dir;
		} names;
	} u;
	/* scratch of choosing */
	bool keep;
};
TAILQ_HEAD(sim_changes, sim_change);

struct sim {
	pthread_mutex_t lock;
	struct sim_tree now, durable;
	struct sim_changes pending;
	size_t npending;
	uint64_t gen, changes, space, reserved;
	uint64_t root, stage, trash, wal; /* serials */
	bool sealed;
	sim_hook *hook;
	void *hook_arg;
	struct store store;
	struct os os;
	struct sim_fd {
		struct sim_inode *in;
		bool used;
	} fds[64];
};

struct sim_obj {
	struct store_obj pub;
	struct sim *sim;
	struct sim_inode *in; /* NULL: it has gone */
	unsigned refs;
};

/* sim.c: the tree; callers hold the lock unless said otherwise */
struct sim_inode *sim_inode_new(struct sim *sim, mode_t mode, uid_t uid, gid_t gid);
struct sim_inode *sim_at(struct sim_tree *t, uint64_t serial);
struct sim_entry *sim_entry_find(struct sim_inode *dir, const char *name);
void sim_entry_set(struct sim_tree *t, uint64_t dir, const char *name, uint64_t to);
void sim_inode_drop(struct sim *sim, struct sim_inode *in); /* if nothing holds it */
void sim_inode_free(struct sim_inode *in);
struct sim_inode *sim_inode_copy(const struct sim_inode *in);
void sim_tree_add(struct sim_tree *t, struct sim_inode *in);
void sim_tree_free(struct sim_tree *t);
struct sim_xattr *sim_xattr_find(struct sim_inode *in, const char *name);
void sim_xattr_put(struct sim_inode *in, const char *name, const void *value, size_t len); /* value NULL: remove */
void sim_read(struct sim_inode *in, void *buf, size_t n, uint64_t off);

struct sim *sim_alloc(void);
/* Calls the hook, without the lock. 0, or the error that it wants. */
int sim_change(struct sim *sim, const char *what, const char *on);

/* Changes of the present, noted as pending. */
int sim_write(struct sim *sim, struct sim_inode *in, const void *buf, size_t n, uint64_t off); /* NULL: zeros */
void sim_resize(struct sim *sim, struct sim_inode *in, uint64_t size);
void sim_attr_changed(struct sim *sim, struct sim_inode *in);
void sim_xattr_change(struct sim *sim, struct sim_inode *in, const char *name, const void *value, size_t len);
void sim_names_change(struct sim *sim, struct sim_change *c); /* takes over c, from sim_names_new */
struct sim_change *sim_names_new(void);
void sim_names_add(struct sim_change *c, uint64_t dir, const char *name, uint64_t to);
void sim_sync_inode(struct sim *sim, struct sim_inode *in, bool data_only);
void sim_sync_everything(struct sim *sim);
void sim_apply(struct sim_tree *t, const struct sim_change *c);
void sim_change_free(struct sim_change *c);

/* sim_cut.c */
/* The first change before c that c needs and that is not kept; NULL: c may be kept. */
struct sim_change *sim_change_needs(struct sim_changes *all, const struct sim_change *c);

/* sim_store.c */
struct store_file {
	struct sim *sim;
	struct sim_obj *o;
	bool writable;
};

static inline struct sim_obj *sim_obj_of(struct store_obj *obj)
{
	return container_of(obj, struct sim_obj, pub);
}

static inline struct sim *sim_of_store(struct store *st)
{
	return container_of(st, struct sim, store);
}

#define SIM_LOCK(sim) pthread_mutex_lock(&(sim)->lock)
#define SIM_UNLOCK(sim) pthread_mutex_unlock(&(sim)->lock)

struct store_obj *sim_hand_out(struct sim *sim, struct sim_inode *in); /* a reference */
void sim_put_locked(struct sim_obj *o);
void sim_fill(struct sim *sim, struct sim_inode *in, struct stat *st);
struct store_file *sim_open_inode(struct sim *sim, struct sim_inode *in, bool writable);

/* sim_data.c: the store's operations on attributes and contents */
int sim_op_getattr(struct store_obj *obj, struct stat *attr);
int sim_op_setattr(struct store_obj *obj, const struct stat *attr, unsigned mask);
ssize_t sim_op_getxattr(struct store_obj *obj, const char *name, void *buf, size_t size);
ssize_t sim_op_listxattr(struct store_obj *obj, char *buf, size_t size);
int sim_op_setxattr(struct store_obj *obj, const char *name, const void *value, size_t size, int flags);
int sim_op_removexattr(struct store_obj *obj, const char *name);
int sim_op_open(struct store_obj *obj, int flags, bool force, struct store_file **out);
void sim_op_close_file(struct store_file *f);
ssize_t sim_op_read(struct store_file *f, void *buf, size_t n, uint64_t off);
ssize_t sim_op_write(struct store_file *f, const void *buf, size_t n, uint64_t off);
int sim_op_fallocate(struct store_file *f, int mode, uint64_t off, uint64_t len);
int sim_op_seek(struct store_file *f, uint64_t off, int whence, uint64_t *out);
ssize_t sim_op_copy(struct store_file *in, uint64_t off_in, struct store_file *out, uint64_t off_out, size_t n);
int sim_op_sync(struct store_obj *obj, bool data_only);
int sim_op_sync_all(struct store *st);
int sim_op_reserve(struct store *st, uint64_t bytes);
void sim_op_release(struct store *st, uint64_t bytes);
int sim_op_seal(struct store *st);
int sim_op_statfs(struct store *st, struct statvfs *sv);
void sim_op_close(struct store *st);

void sim_store_init(struct sim *sim);

/* sim_os.c */
void sim_os_init(struct sim *sim);

void *sim_need(void *p); /* abort when NULL */

#endif
