/*
 * store.h - the only door to the backing directory.
 *
 * The engine sees committed files through this table of operations. store_dir_open() is the real directory; a test
 * puts a simulator in its place. Objects (inodes) are handed out as reference-counted struct store_obj, one per inode
 * at a time: looking up two hard links gives the same pointer. An object stays valid while referenced, also when it
 * has been renamed, and while a store_file on it is open also when it has been unlinked.
 *
 * The state directory in the root is invisible here: lookup says -ENOENT, changes of its name say -EPERM, readdir
 * leaves it out. A name is a single component: -EINVAL for "", ".", ".." and what has a slash. What is mounted inside
 * the tree is no part of it: -EXDEV. Symbolic links are never followed. -ESTALE: an object was moved or removed by
 * someone else and cannot be found any more.
 *
 * Threads: every operation may be called from any thread; the caller serialises changes of one directory entry or
 * object against each other. Functions return 0 or -errno; lookups and creations give a reference, drop it with
 * store_put. Attributes are in struct stat. Ownership of outputs is the caller's.
 *
 * Privileges: the daemon may be root (creates for the given owner, objects found by file handle) or an ordinary user
 * (everything belongs to him; objects found by path hint and checked by handle). When the owner's own permission bits
 * stand in the way of an operation that the engine must do (installing into a 0555 directory), the store widens the
 * mode for its duration and restores it. This holds for all operations but `open` without force, reading a directory
 * and looking up in it included: as for root, permissions are checked above the store (default_permissions). Nobody who
 * asks the store sees a widened mode, but a process killed in that moment leaves it behind.
 */
#ifndef TXNFS_STORE_H
#define TXNFS_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#define STORE_ID_MAX 160

/*
 * What names an object for good (I7): the kernel's file handle, or, where the filesystem has none, inode number and
 * birth time. Opaque bytes; equal bytes mean the same object.
 */
struct store_id {
	uint16_t len; /* 0: none */
	uint8_t bytes[STORE_ID_MAX];
};

struct store;
struct store_file;

/* The public head of an object; implementations embed it. */
struct store_obj {
	struct store *store;
	uint64_t ino;
	mode_t kind; /* S_IFMT bits */
	void *user;  /* the engine's; protected by the engine's object-table lock */
};

/* What to create. mode carries kind and permission bits exactly as wanted (umask already applied). */
struct store_new {
	mode_t mode;
	dev_t rdev;
	uid_t uid;
	gid_t gid;
	const char *target; /* symbolic link */
};

/* setattr mask */
#define STORE_SET_MODE 0x01u
#define STORE_SET_UID 0x02u
#define STORE_SET_GID 0x04u
#define STORE_SET_SIZE 0x08u
#define STORE_SET_ATIME 0x10u
#define STORE_SET_MTIME 0x20u

struct store_dirent {
	const char *name;
	uint64_t ino;
	mode_t kind; /* S_IFMT bits, 0 when unknown */
};

struct store_ops {
	void (*close)(struct store *st);

	/* Objects */
	struct store_obj *(*root)(struct store *st);  /* borrowed: lives as long as the store */
	struct store_obj *(*stage)(struct store *st); /* STATE/stage, borrowed */
	struct store_obj *(*trash)(struct store *st); /* STATE/trash, borrowed */
	struct store_obj *(*get)(struct store_obj *obj);
	void (*put)(struct store_obj *obj);
	/* It has been removed for good and nobody will use it again, though references to it remain: let it go now. */
	void (*forsake)(struct store_obj *obj);
	int (*id)(struct store_obj *obj, struct store_id *id);
	/*
	 * Find an object by id: by handle when allowed, else at the hinted path, in the stage under `name` (may be
	 * NULL), and at last by walking the tree. -ENOENT or -ESTALE: it is no more.
	 */
	int (*resolve)(struct store *st, const struct store_id *id, const char *hint, const char *stage_name,
	               struct store_obj **out);
	/* Last known place: the parent (new reference) and name (malloc'ed). -ENOENT when unknown or for the root. */
	int (*place)(struct store_obj *obj, struct store_obj **parent, char **name);

	/* Names. dir is a directory object. lookup and create fill attr when it is not NULL. */
	int (*lookup)(struct store_obj *dir, const char *name, struct store_obj **out, struct stat *attr);
	/*
	 * Exclusive: -EEXIST. With `inherit` the kernel's rules for the directory apply to an object made by uid and
	 * gid (setgid, default ACL; an ordinary user's daemon makes everything its own). Without it owner and mode are
	 * exactly as given, and there is no inherited ACL; an owner that cannot be given is an error.
	 */
	int (*create)(struct store_obj *dir, const char *name, const struct store_new *nw, bool inherit,
	              struct store_obj **out, struct stat *attr);
	/* A regular file without a name, with the rules of `inherit`. link gives it one. */
	int (*tmpfile)(struct store_obj *dir, const struct store_new *nw, struct store_obj **out, struct stat *attr,
	               struct store_file **file);
	int (*link)(struct store_obj *obj, struct store_obj *dir, const char *name);
	int (*unlink)(struct store_obj *dir, const char *name, bool is_dir);
	int (*rename)(struct store_obj *dir, const char *name, struct store_obj *to_dir, const char *to_name,
	              unsigned flags); /* RENAME_NOREPLACE, RENAME_EXCHANGE */
	int (*readdir)(struct store_obj *dir, int (*fn)(void *arg, const struct store_dirent *de), void *arg);
	int (*readlink)(struct store_obj *obj, char *buf, size_t size); /* NUL-terminated; -ENAMETOOLONG */

	/* Attributes. setattr with STORE_SET_SIZE works on a regular file without an open store_file. */
	int (*getattr)(struct store_obj *obj, struct stat *attr);
	int (*setattr)(struct store_obj *obj, const struct stat *attr, unsigned mask);
	ssize_t (*getxattr)(struct store_obj *obj, const char *name, void *buf, size_t size);
	ssize_t (*listxattr)(struct store_obj *obj, char *buf, size_t size);
	int (*setxattr)(struct store_obj *obj, const char *name, const void *value, size_t size, int flags);
	int (*removexattr)(struct store_obj *obj, const char *name);

	/*
	 * Contents of regular files. flags: O_RDONLY, O_RDWR, O_WRONLY and O_SYNC, O_DSYNC; others are left out. With
	 * `force` the owner's permission bits are overcome; without it O_RDWR may be refused with -EACCES. read is
	 * short only at the end of the file, write only when an error cut it short; copy may be short anywhere, 0 at
	 * the end.
	 */
	int (*open)(struct store_obj *obj, int flags, bool force, struct store_file **out);
	void (*close_file)(struct store_file *f);
	ssize_t (*read)(struct store_file *f, void *buf, size_t n, uint64_t off);
	ssize_t (*write)(struct store_file *f, const void *buf, size_t n, uint64_t off);
	int (*fallocate)(struct store_file *f, int mode, uint64_t off, uint64_t len);
	int (*seek)(struct store_file *f, uint64_t off, int whence, uint64_t *out); /* SEEK_DATA, SEEK_HOLE */
	ssize_t (*copy)(struct store_file *in, uint64_t off_in, struct store_file *out, uint64_t off_out, size_t n);
	/* FS_IOC_GETFLAGS and the like are not forwarded. */

	/* Durability. sync: contents and attributes of one object (a directory: its names). */
	int (*sync)(struct store_obj *obj, bool data_only);
	int (*sync_all)(struct store *st);

	/*
	 * Space. reserve makes sure that `bytes` more can be written by installs, holding them in a ballast file;
	 * -ENOSPC: nothing was reserved. release ends a reservation, once, after the install or when it got -ENOSPC:
	 * then, and whenever the disk is low, the bytes are given back to the filesystem before release returns, for
	 * the install that tries again. release(UINT64_MAX) gives back all of the ballast (recovery on a full disk).
	 */
	int (*reserve)(struct store *st, uint64_t bytes);
	void (*release)(struct store *st, uint64_t bytes);
	/* Write down that the log is this directory's. */
	int (*seal)(struct store *st);
	int (*statfs)(struct store *st, struct statvfs *sv);
};

struct store {
	const struct store_ops *ops;
	/*
	 * Has the store been sealed: is it written down that a log was made, and for which directory? Not before the first
	 * seal(). foreign: for another one: this is a copy, whose log speaks of the original's files.
	 */
	bool sealed, foreign;
	uint64_t link_max; /* names that one file can have; 0: not known */
	char uuid[37];     /* of this directory, from its first seal() on; "": it has none */
};

/*
 * The real directory.
 *
 * Opens src, makes and locks src/STATE (see store_dir_options), checks or writes the format file, and returns the
 * descriptor of STATE/wal in *wal_dirfd (the store's; closed with it).
 * Errors, each with a readable line in err (size >= 256): -EBUSY locked by another mount or recovery, -EPROTONOSUPPORT
 * newer format, -EUCLEAN damaged format file or no log, -EXDEV state directory on another filesystem, -EROFS, -EACCES
 * (also when the state directory belongs to another user, whose log not even root must obey), -ENOTDIR, -ENODEV no
 * /proc, -ENOENT (with `create` false and no state directory: "not a txnfs directory").
 *
 * Sets the process's umask to 0 (unless read_only), and with max_cached 0 raises the soft limit of open files to the
 * hard one. As root, a thread that creates objects for others gets SECBIT_NO_SETUID_FIXUP, which its children inherit.
 */
#define STORE_STATE_DIR ".txnfs"

struct store_dir_options {
	bool create;         /* make the state directory when missing */
	bool read_only;      /* tools that only look: no lock taken, nothing written */
	unsigned max_cached; /* O_PATH descriptors kept for objects; 0: from RLIMIT_NOFILE */
};

int store_dir_open(const char *src, const struct store_dir_options *opt, struct store **out, int *wal_dirfd, char *err,
                   size_t errlen);

#endif
