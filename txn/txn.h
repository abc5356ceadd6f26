/*
 * txn.h - the transaction engine: views, workspaces, locks, savepoints, commit, install, checkpoint, recovery.
 *
 * The engine knows nothing of FUSE. It works on a store (txn/store.h) and a log (wal/wal.h):
 *
 *     txn_engine_open      recovers, starts the installer and the checkpointer
 *     txn_lookup, txn_create, txn_open, txn_read, ...   file operations, each in a view
 *     txn_begin ... txn_commit | txn_rollback
 *     txn_engine_close     rolls back what is open and not prepared, installs what is committed, checkpoints
 *
 * Views. Every operation takes `view`: NULL is the committed view, else the transaction whose view it is. A transaction
 * that has ended is the committed view (descriptors outlive it), but its `view` pointer stays valid while referenced.
 * An operation in the committed view that changes something happens at once and durably as the filesystem below does
 * it; one in a transaction goes to its workspace (DESIGN.md, "The one rule").
 *
 * Objects are reference counted: whatever returns a struct txn_obj, struct txn or struct txn_file gives a reference that
 * the caller drops with txn_obj_put, txn_put, txn_close.
 *
 * Threads. All functions may be called from any thread, except txn_engine_open and _close. An operation inside one
 * transaction waits for another operation inside the same transaction; operations of different transactions wait for
 * each other only while they hold the locks listed in txn/private.h, never for a transaction's end. The one exception: an operation
 * that wants to change an object whose committed new version is still being installed waits for the install. (See "waiting".)
 *
 * Errors. 0 or -errno; byte counts where said. Those of the file operations are POSIX's, and
 *     -EBUSY    the object or name has another transaction's uncommitted change
 *     -ESTALE   the object was created by a transaction that was rolled back
 *     -EROFS    the engine is in its error state: read-only until the next recovery
 *     -ENOSPC   the log or the filesystem is full; nothing was changed
 *     -ECANCELED  a snapshot transaction wants to change what has changed since it began (or its snapshot could not be
 *               kept): it cannot commit any more, and txn_conflict tells why
 * A failed operation inside a transaction leaves that transaction as it was before the operation (I9).
 */
#ifndef TXNFS_TXN_H
#define TXNFS_TXN_H

#include "base/os.h"
#include "txn/store.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

struct txn_engine;
struct txn;
struct txn_obj;
struct txn_file;

/* ---- engine ---- */

struct txn_recovery {
	uint64_t records, bytes;            /* scanned */
	uint64_t committed, lost, in_doubt; /* transactions found since the last checkpoint */
	uint64_t operations;                /* of committed transactions and logged plain operations, redone */
	uint64_t objects, names;            /* installed at home */
	uint64_t missing;                   /* objects that the log names and nobody has any more */
	uint64_t swept;                     /* leftovers removed from stage and trash */
	bool clean;                         /* the log ended with a clean shutdown */
	uint64_t end;                       /* LSN where the valid log ended */
};

struct txn_config {
	struct store *store;  /* borrowed: outlives the engine */
	const struct os *os;  /* NULL: os_real() */
	int wal_dirfd;        /* borrowed */
	uint32_t segment_size; /* 0: default */
	uint64_t checkpoint_bytes; /* log growth that starts a checkpoint; 0: default */
	unsigned checkpoint_seconds; /* and time; 0: default */
	bool no_threads;      /* tests: install inside txn_commit, checkpoint only when asked */
	/* Called by recovery for each step worth a line ("redo ..."), and with progress. May be NULL. */
	void (*report)(void *arg, const char *line);
	void (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

/* Opens and recovers. rec (may be NULL) tells what recovery did. err: a readable line on failure. */
int txn_engine_open(const struct txn_config *cfg, struct txn_engine **out, struct txn_recovery *rec, char *err,
                    size_t errlen);
/* Rolls back live transactions but the prepared ones, installs, checkpoints, closes. The first error, after closing all the same. */
int txn_engine_close(struct txn_engine *eng);
/* Stop without any of that, as a crash would: for tests. */
void txn_engine_abandon(struct txn_engine *eng);

/* NULL, or why the engine is read-only. The text lives as long as the engine. */
const char *txn_engine_error(struct txn_engine *eng);
int txn_checkpoint(struct txn_engine *eng);
/* Wait until everything committed so far is installed. */
int txn_drain(struct txn_engine *eng);

struct txn_stats {
	uint64_t open, prepared, begun, committed, rolled_back, log_bytes, checkpoints, installs_pending, logged_objects; /* open: without prepared */
	uint64_t snapshots, history_nodes, history_bytes; /* open ones, and what is kept for them */
};
void txn_engine_stats(struct txn_engine *eng, struct txn_stats *st);

/* ---- transactions ---- */

enum txn_state {
	TXN_ACTIVE,
	TXN_PREPARED,  /* PREPARE is durable: in doubt until txn_commit or txn_rollback, also over a crash */
	TXN_COMMITTED, /* COMMIT is durable: everyone sees it; being installed */
	TXN_ENDED,     /* installed at home */
	TXN_ABORTED,
};

/*
 * Isolation. Read committed: every read is of what is committed. Serializable: what the transaction reads is noted, and
 * commit verifies that none of it has changed since. Snapshot: every read is as of begin; a change of what has changed
 * since is refused (the first updater wins). Reads count where they reach the engine: a layer above that keeps answers
 * must keep them for one transaction alone.
 */
enum txn_isolation { TXN_READ_COMMITTED, TXN_SERIALIZABLE, TXN_SNAPSHOT };

int txn_begin(struct txn_engine *eng, struct txn **out); /* read committed */
int txn_begin_with(struct txn_engine *eng, enum txn_isolation level, struct txn **out);
/* The level, and with it the snapshot, from now on. -EINVAL: the transaction has changed something, or has ended. */
int txn_set_isolation(struct txn *t, enum txn_isolation level);
enum txn_isolation txn_isolation(const struct txn *t);
/* Why -ECANCELED, naming the file; NULL: there was none. Lives as long as the transaction. */
const char *txn_conflict(const struct txn *t);
struct txn *txn_get(struct txn *t);
void txn_put(struct txn *t); /* does not end it */

/*
 * Commit. On 0 the transaction is durable and everyone sees it. On -ENOSPC, or any error before the commit point, it is
 * still active. -ECANCELED: it was serializable or a snapshot and came too late; it has been rolled back, and
 * txn_conflict tells which file it was. -EIO with the engine in its error state: whether it is durable is decided by the next recovery.
 */
int txn_commit(struct txn *t);
/*
 * The same; before_flip is called when the transaction is durable and nobody sees it yet, right before everybody does: all
 * that can fail has succeeded. Not called when the commit fails, or when there is nothing to make visible. Of the engine's
 * locks the transaction's own is held: other operations inside this transaction wait, all others go on.
 */
int txn_commit_with(struct txn *t, void (*before_flip)(void *arg), void *arg);
/*
 * The next commit is for what somebody has looked at: unless the transaction's version is this one, it fails with -EAGAIN, and the
 * transaction is open as before. The commits of a transaction are not to run at once.
 */
void txn_expect(struct txn *t, uint64_t version);
int txn_rollback(struct txn *t);
int txn_savepoint(struct txn *t, const char *name);
int txn_rollback_to(struct txn *t, const char *name); /* -ENOENT: no such savepoint, nothing changed */
int txn_release(struct txn *t, const char *name);     /* -ENOENT */

/*
 * Two-phase commit, the participant. After txn_prepare the outcome does not depend on the caller, on the process or on the
 * machine: the transaction keeps its locks and is still there after a crash, and a commit finds space. Only txn_commit and
 * txn_rollback work on it: its view is the committed one, and what it has created answers -ESTALE to those who have it open,
 * until it is committed. gid: 1 to TXN_GID_BYTES bytes; uid is kept for the caller.
 *
 * -EINVAL, -ENAMETOOLONG: nothing happened. -EEXIST (another one has this gid) and all other errors: it was rolled back; but
 * -EIO with the engine in its error state: the next recovery decides, as for txn_commit.
 */
#define TXN_GID_BYTES 200
int txn_prepare(struct txn *t, const char *gid, uid_t uid);
/* The prepared one of this name: new reference. -ENOENT */
int txn_find_prepared(struct txn_engine *eng, const char *gid, struct txn **out);
struct txn_prepared {
	const char *gid;
	uid_t uid;
	uint64_t id, changes; /* records that stand */
	struct timespec time;
};
/* -EINVAL: it is not prepared. gid lives as long as the transaction is referenced. */
int txn_prepared_info(struct txn *t, struct txn_prepared *out);
/* In the order of their preparation. Stops at the first non-zero return. */
int txn_each_prepared(struct txn_engine *eng, int (*fn)(void *arg, const struct txn_prepared *p), void *arg);

enum txn_state txn_state(const struct txn *t);
bool txn_is_open(const struct txn *t); /* ACTIVE or PREPARED */
uint64_t txn_id(const struct txn *t);

struct txn_info {
	enum txn_state state;
	uint64_t id, operations, log_bytes, objects, names, savepoints;
	uint64_t version; /* grows with everything that changes what the transaction shows */
	struct timespec began;
};
void txn_info(struct txn *t, struct txn_info *info);
/* The same two figures without waiting for a statement or a commit that is under way. */
void txn_glance(struct txn *t, uint64_t *operations, uint64_t *log_bytes);

/*
 * A limit on what several transactions may have in the log together: an operation that would go over it fails with -EDQUOT,
 * and its transaction can still be committed or rolled back. Reference counted. A transaction is put on it before its
 * first operation, and takes its bytes off when it has ended and is installed.
 */
struct txn_account;
struct txn_account *txn_account_new(uint64_t limit); /* bytes; NULL: -ENOMEM */
void txn_account_put(struct txn_account *account);
void txn_set_account(struct txn *t, struct txn_account *account); /* takes a reference of its own */

/*
 * Visit what a transaction has changed. For a name: dir and name, with `before` and `after` (either may be NULL, borrowed). For
 * an object's contents or attributes: obj. Stops at the first non-zero return. Objects are valid during the call; take
 * a reference to keep one. Must not call back into the engine's operations.
 */
struct txn_change {
	struct txn_obj *dir; /* name changes */
	const char *name;
	struct txn_obj *before, *after;
	struct txn_obj *obj; /* object changes */
	bool created;        /* obj was made by this transaction */
	bool data, attrs;
};
int txn_each_change(struct txn *t, int (*fn)(void *arg, const struct txn_change *ch), void *arg);

/*
 * The same for people: net changes, one call per changed object, sorted by path. kind: 'A' created, 'D' deleted, 'R'
 * renamed or moved (path is where it was, to where it is), 'M' contents changed, 'P' properties changed (mode, owner, times,
 * xattrs). Paths are relative to the root, without a leading slash. A file with several names is 'M' or 'P' by one of them, if it
 * can be one that it had before; by a removed one when that was the only one known.
 */
int txn_changes(struct txn *t, int (*fn)(void *arg, char kind, const char *path, const char *to), void *arg);

/* ---- objects ---- */

struct txn_obj *txn_root(struct txn_engine *eng); /* borrowed */
struct txn_obj *txn_obj_get(struct txn_obj *obj);
void txn_obj_put(struct txn_obj *obj);
uint64_t txn_obj_ino(const struct txn_obj *obj);
mode_t txn_obj_kind(const struct txn_obj *obj); /* S_IFMT bits */
/* A slot for the layer above: whatever it hangs there it must take away before its last reference goes. */
_Atomic(void *) *txn_obj_user(struct txn_obj *obj);
/* Does this view have its own version of the object (a change of contents or attributes, or its creation)? */
bool txn_obj_changed(struct txn *view, struct txn_obj *obj);
/* Path from the root in a view, "" for the root; malloc'ed. -ENOENT when it has no known name there. */
int txn_obj_path(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, char **path);

/* ---- names ---- */

struct txn_look {
	struct txn_obj *obj;
	struct stat attr;
	bool contested; /* some open transaction has an uncommitted change on this very name */
	bool own;       /* the view has its own version of the object */
};
/* -ENOENT fills look->contested all the same. */
int txn_lookup(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const char *name, struct txn_look *look);

struct txn_new {
	mode_t mode; /* kind and permission bits, before the umask */
	mode_t umask;
	dev_t rdev;
	uid_t uid;
	gid_t gid;
	const char *target; /* symbolic link */
};
/* Regular files, directories, symbolic links, fifos, sockets, devices. -EEXIST. */
int txn_create(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const char *name,
               const struct txn_new *nw, struct txn_look *look);
/* A regular file without a name, open for reading and writing; txn_link can give it one. */
int txn_tmpfile(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const struct txn_new *nw,
                struct txn_look *look, struct txn_file **file);
int txn_link(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, struct txn_obj *dir, const char *name,
             struct stat *attr);
int txn_unlink(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const char *name);
int txn_rmdir(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const char *name);
int txn_rename(struct txn_engine *eng, struct txn *view, struct txn_obj *dir, const char *name, struct txn_obj *to_dir,
               const char *to_name, unsigned flags);
int txn_readlink(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, char *buf, size_t size);
/* The whole listing at one moment, without "." and "..". */
int txn_readdir(struct txn_engine *eng, struct txn *view, struct txn_obj *dir,
                int (*fn)(void *arg, const struct store_dirent *de), void *arg);

/* ---- attributes ---- */

#define TXN_SET_ATIME_NOW 0x100u
#define TXN_SET_MTIME_NOW 0x200u
#define TXN_KILL_SUIDGID 0x400u /* clear suid, and sgid where group-executable */

int txn_getattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, struct stat *attr);
/* mask: STORE_SET_* and TXN_SET_*_NOW, TXN_KILL_SUIDGID. file (may be NULL): the open file for a size change. out may be NULL. */
int txn_setattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, struct txn_file *file,
                const struct stat *attr, unsigned mask, struct stat *out);
ssize_t txn_getxattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, const char *name, void *buf,
                     size_t size);
ssize_t txn_listxattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, char *buf, size_t size);
int txn_setxattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, const char *name, const void *value,
                 size_t size, int flags);
int txn_removexattr(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, const char *name);
int txn_statfs(struct txn_engine *eng, struct statvfs *sv);

/* ---- contents of regular files ---- */

/* flags: O_ACCMODE, O_TRUNC, O_APPEND. */
int txn_open(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, int flags, struct txn_file **out);
void txn_close(struct txn_file *f);
struct txn_obj *txn_file_obj(struct txn_file *f); /* borrowed */
ssize_t txn_read(struct txn_file *f, void *buf, size_t n, uint64_t off);
/* All of it or nothing. kill_priv: clear suid and sgid (the writer is not privileged). */
ssize_t txn_write(struct txn_file *f, const void *buf, size_t n, uint64_t off, bool kill_priv);
/* At the end, wherever that is now; *off: where it went. */
ssize_t txn_append(struct txn_file *f, const void *buf, size_t n, bool kill_priv, uint64_t *off);
/* mode: FALLOC_FL_*; unknown ones -EOPNOTSUPP */
int txn_fallocate(struct txn_file *f, int mode, uint64_t off, uint64_t len);
int txn_seek(struct txn_file *f, uint64_t off, int whence, uint64_t *out); /* SEEK_DATA, SEEK_HOLE; -ENXIO */
ssize_t txn_copy(struct txn_file *in, uint64_t off_in, struct txn_file *out, uint64_t off_out, size_t n);
/* Committed view: forces the log and the object. In a transaction: nothing to do, commit does it. */
int txn_fsync(struct txn_file *f, bool data_only);
int txn_fsync_dir(struct txn_engine *eng, struct txn *view, struct txn_obj *dir);

/* ---- waiting for someone else's transaction ---- */

/*
 * The engine never waits for a transaction's end; it answers -EBUSY. A caller that would rather wait learns what was
 * in the way and queues for it:
 *
 *     txn_obstacle_arm(self);              this thread's next operation tells its conflict
 *     r = txn_write(...);
 *     if (txn_obstacle_take(&c) && (r == -EBUSY || r == TXN_INSTALLING))
 *             r = txn_wait(eng, waiter, &c);
 *
 * An armed operation that would wait for the install of a committed version answers TXN_INSTALLING instead.
 *
 * Waiters queue for what was contested: an object, or a name in a directory. When the transaction that has it is out of
 * the way (rolled back, or committed and installed), the first waiter is told to try again, and until it has tried, others
 * find the thing reserved: they queue up behind (FIFO, no barging). Then comes the next one, unless someone has it again.
 * A transaction can have several waiters; a wait that would close a circle of transactions is refused.
 *
 * The caller owns a struct txn_waiter and its memory. wake() is called once for each txn_wait that returned 0, from any
 * thread, under the engine's lock for this: it must hand the matter to another thread, and not call back. It says
 *
 *     0            the way is free, and reserved: try again with txn_obstacle_arm(waiter), then txn_wait_done(waiter), or
 *                  txn_wait again, which keeps the place in the queue
 *     -EBUSY       the deadline has passed
 *     -EDEADLK     what it waits for has gone to a transaction that waits for the waiter's
 *     -ENOTCONN    the waiter's own transaction has ended
 *     -ENOSPC, -EROFS   the install it waits for is stuck for lack of space, or will never be
 *     -ECANCELED   after 0: it has not tried within hold_ms, others go on (nothing more to do)
 */
#define TXN_INSTALLING (-100001)

struct txn_obstacle {
	struct txn *holder;  /* reference; NULL: reserved for a waiter that was told to try */
	struct txn_obj *obj; /* reference: the object, or the directory of the name */
	char name[256];      /* "": the object itself */
};

struct txn_queue;
struct txn_waiter {
	/* the caller's */
	void (*wake)(struct txn_waiter *w, int why);
	struct txn *txn;          /* for whom: the caller keeps a reference; NULL: a plain operation */
	struct timespec deadline; /* CLOCK_MONOTONIC; waits for installs know none. tv_sec 0: no deadline */
	unsigned hold_ms;         /* 0: the thing stays reserved until txn_wait_done */
	/* the engine's; zero in the beginning */
	int state;
	bool cancelled;
	struct timespec due;
	struct txn_queue *queue;
	struct txn_waiter *next, **prev;         /* in the queue */
	struct txn_waiter *txn_next, **txn_prev; /* of the transaction */
	struct txn_waiter *due_next, *due_prev;  /* by time */
};

void txn_obstacle_arm(struct txn_waiter *self); /* self: who was told to try, or NULL */
bool txn_obstacle_take(struct txn_obstacle *out); /* disarms; false: there was none. The caller drops what it got */
void txn_obstacle_drop(struct txn_obstacle *c);
/*
 * Would a change of this name in a view, or (name NULL) of this object, meet another transaction? -EBUSY, with a
 * conflict when armed, or 0. For a name, what it leads to counts too, for unlink, rename and link change it.
 */
int txn_would_conflict(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, const char *name);

/*
 * Queue up. 0: wake() will be called. 1: what was in the way has gone meanwhile, try again now. -EDEADLK, -EBUSY (the
 * deadline has passed), -EINTR (cancelled before), -ENOTCONN, -ENOSPC, -EROFS, -ENOMEM. Takes over the references in c.
 */
int txn_wait(struct txn_engine *eng, struct txn_waiter *w, struct txn_obstacle *c);
/* Give up: true when it has left the queue, and wake() will not be called for this. Else the next txn_wait says -EINTR. */
bool txn_wait_cancel(struct txn_engine *eng, struct txn_waiter *w);
/* It has tried (or will not): the next one may. Nothing for a waiter that was not told to try. */
void txn_wait_done(struct txn_engine *eng, struct txn_waiter *w);
void txn_wait_deadline(struct txn_engine *eng, struct txn_waiter *w, const struct timespec *deadline);
/* How many waiters it has; ids: for which transactions (txn_id; 0: for a plain one's turn), of the first max. */
size_t txn_waits_for(struct txn *t, uint64_t *ids, size_t max);
size_t txn_waiters(struct txn_engine *eng); /* queued up now, in all */

/* ---- offline: the log for people ---- */

/*
 * Decode one record after the other. describe: a readable line without the header's fields; json: the same as members
 * of a JSON object ("\"type\":\"WRITE\",\"object\":7,..."). from: LSN or 0.
 */
struct txn_log_line {
	uint64_t lsn, txid, prev;
	const char *type;
	uint8_t flags;
	const char *text; /* "object 7 offset 0 length 12 ..." */
	const char *json; /* "\"object\":7,\"offset\":0,..." ; "" when there are none */
};
int txn_log_each(const struct os *os, int wal_dirfd, int (*fn)(void *arg, const struct txn_log_line *line), void *arg,
                 char *err, size_t errlen);

/* The prepared transactions that the log holds, as the next recovery will find them. Changes nothing. */
int txn_log_prepared(const struct os *os, int wal_dirfd, int (*fn)(void *arg, const struct txn_prepared *p), void *arg,
                     char *err, size_t errlen);

/*
 * Verify log and state directory without changing them: every problem found is a call of fn with a line. Returns 0
 * when sound (a log that needs recovery is sound), -EUCLEAN when something is wrong, or another -errno.
 */
struct txn_check {
	uint64_t records, bytes, segments, live_transactions, in_doubt, staged, trashed;
	bool clean;
};
int txn_check(struct store *store, const struct os *os, int wal_dirfd, struct txn_check *out,
              void (*fn)(void *arg, const char *line), void *arg);

#endif
