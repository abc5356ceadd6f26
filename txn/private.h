/*
 * private.h - what the engine's files share. Nobody outside txn/ includes it.
 *
 * Where a version of an object lives
 *
 *     struct txn_obj        one per known inode. `home` is the backing object. `ws` is its one version that is not (all)
 *                           at home: an open transaction's, or a committed one's until it is installed (I4).
 *     struct txn_ws         a transaction's workspace: its txn_wsobj and txn_name, found by oid.
 *     struct txn_name       one entry of one directory that some transaction has changed and that is not at home yet; it
 *                           stays as a mark (txn == NULL) while recovery would replay it (I5).
 *
 * A version is visible in a view when its transaction is the view's, or has committed: one store to txn->state is the
 * moment everyone sees all of it (I3).
 *
 * Lock order (take downwards)
 *
 *     txn->lock             one statement at a time per transaction
 *     eng->commit_gate      rwlock: shared from COMMIT's append to its force (implicit ones: to the end of the install);
 *                           exclusive for a moment when a checkpoint begins
 *     eng->strict_gate      rwlock: shared around each plain change at home; exclusive for a moment when a transaction that
 *                           is serializable or a snapshot begins
 *     eng->ns               rwlock: names and places of the whole tree; exclusive to change any, and for the flip
 *     eng->certify          mutex: serializable transactions are checked one after the other (readset.c), under ns shared
 *     obj->lock             rwlock: contents and attributes of one object; two objects: lower oid address first
 *     readset.lock          a leaf
 *     eng->history.lock     snapshots, and what is kept for them
 *     eng->lock             lists, counters, error
 *     eng->tab              object table (store_obj.user, last references)
 *     eng->waits.lock       queues of waiters (wait.c): a leaf
 *     (wal's and the store's own locks)
 *
 * Transactions of the public interface log before they change the workspace and change home only after COMMIT is
 * durable. A plain operation goes straight home, unless the object or name is marked as logged: then it runs as an
 * implicit one-operation transaction, which differs in not forcing the log and in being installed before it returns.
 */
#ifndef TXNFS_TXN_PRIVATE_H
#define TXNFS_TXN_PRIVATE_H

#include "base/base.h"
#include "base/map.h"
#include "txn/extent.h"
#include "txn/rec.h"
#include "txn/store.h"
#include "txn/txn.h"
#include "txn/wait.h"
#include "wal/wal.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/queue.h>

/* Internal "error": a committed version is still being installed; release everything, wait, try again. */
#define TXN_RETRY (-100000)

/* So many objects marked as logged (I5) start a checkpoint: they are held in memory until then. */
#define TXN_MARKS_MAX 16384

/* Evaluate an operation until it need not wait for an install any more. */
#define TXN_RETRYING(eng, operation)                                                                                   \
	({                                                                                                             \
		__typeof__(operation) r_;                                                                              \
		while ((r_ = (operation)) == TXN_RETRY)                                                                \
			if ((r_ = txn_retry(eng)))                                                                     \
				break;                                                                                 \
		r_;                                                                                                    \
	})

/* What of an object a version has changed. */
#define TXN_CH_DATA 0x01u
#define TXN_CH_SIZE 0x02u
#define TXN_CH_XATTR 0x04u
#define TXN_CH_SHIFT 8 /* STORE_SET_* << 8: attributes */

struct txn_wsxattr {
	UT_hash_handle hh;
	uint32_t len; /* TXN_XATTR_ABSENT: removed */
	void *value;
	char name[];
};

struct txn_wsobj {
	UT_hash_handle hh; /* in ws->objs by oid */
	uint64_t oid;
	struct txn_ws *ws;
	struct txn_obj *obj; /* owned reference */
	bool owned;          /* obj->ws points here: contents and attributes are locked */
	bool created;        /* made by this transaction */
	uint64_t created_lsn; /* its OBJECT record [txn->lock] */
	bool staged;         /* home name is STATE/stage/oid [install, or ns] */
	bool remade;         /* recovery: staged because its inode had gone */
	bool declared;       /* OBJECT record written */
	bool moved;          /* a directory that changed its parent [ns] */
	bool hidden;         /* created; its object is dead as long as the transaction is prepared [txn->lock] */
	struct txn_name *gained, *lost; /* scratch of txn_changes [txn->lock] */
	/* [obj->lock] from here, when owned */
	unsigned changed;    /* TXN_CH_* */
	size_t standing;     /* changes applied and not undone: none left means that home says it all */
	struct stat attr;    /* as this version shows it; st_nlink of non-directories counts names */
	struct timespec mtime_set; /* of a directory: when its mtime was set last [obj->lock] */
	struct txn_extents ext;
	struct txn_wsxattr *xattrs;
	/* [eng->ns] from here */
	int links;           /* names gained and lost in this version, against home */
	unsigned wanted;     /* install: names it must get */
	struct txn_obj *parent; /* last name given in this version (owned reference), NULL: as at home */
	char *name;
	/* For a directory: what this transaction did to its names */
	TAILQ_ENTRY(txn_wsobj) dir_link; /* in obj->dirviews when `is_dirview` */
	bool is_dirview;
	int subdirs; /* subdirectories gained that home does not have yet; during the install under obj->lock too */
	struct timespec dir_time;
};

struct txn_name {
	UT_hash_handle hh;     /* in dir->names */
	struct txn_obj *dir;   /* owned reference */
	struct txn *txn;       /* whose change; NULL: at home, kept as a mark */
	struct txn_obj *before, *after; /* owned references; NULL: no such name */
	uint64_t logged;       /* LSN of the COMMIT that last changed it at home; 0: none that recovery would replay */
	TAILQ_ENTRY(txn_name) link; /* in txn->ws.names, or eng->marked_names */
	char name[];
};
TAILQ_HEAD(txn_name_list, txn_name);

/* History (history.c): what was true of an object for the snapshots up to `epoch`, and no older node says. */
struct txn_hist {
	TAILQ_ENTRY(txn_hist) link; /* [obj->lock] in obj->hist, by epoch */
	LIST_ENTRY(txn_hist) of;    /* [history.lock] in its snapshot's list */
	struct txn_obj *obj;        /* owned reference */
	uint64_t epoch;             /* constant */
	/* [obj->lock] */
	bool own;                   /* the object itself has changed since, not only names in it */
	struct stat attr;
	bool has_xattrs;
	struct txn_wsxattr *xattrs; /* all of them */
	struct txn_extents ext;     /* before-images: IN_LOG is a position in the spill file; gaps: not changed */
	struct txn_keep *keep;      /* it lost its last name: what keeps the contents */
	char *target;               /* the same for a symbolic link */
};
TAILQ_HEAD(txn_hist_list, txn_hist);

/* An open file that keeps a removed one's contents. */
struct txn_keep {
	struct txn_engine *eng;
	struct store_file *file;
	atomic_uint refs;
};

struct txn_hist_entry; /* one name of one directory, and what it led to (history_name.c) */
struct txn_hist_name;

struct txn_snapshot {
	TAILQ_ENTRY(txn_snapshot) link; /* [history.lock] while active */
	uint64_t number;
	bool active;                    /* [history.lock] */
	struct txn *txn;                /* borrowed: outlives it */
	LIST_HEAD(, txn_hist) nodes;    /* [history.lock] those with the largest epochs that it needs */
	LIST_HEAD(, txn_hist_name) names;
};

struct txn_history {
	pthread_mutex_t lock;
	pthread_mutex_t ending; /* one snapshot's end at a time; before ns */
	atomic_uint active;     /* changed under lock */
	/* [lock] */
	TAILQ_HEAD(txn_snapshots, txn_snapshot) snapshots; /* by number */
	uint64_t last;                        /* number of the newest begun; changed under ns exclusive too */
	struct store_obj *spill_obj;
	struct store_file *spill; /* a file without a name; NULL: none yet */
	uint64_t spill_end, bytes;
	size_t nodes, keeps;
};

struct txn_ws {
	struct txn_engine *eng;
	struct txn *txn;
	struct txn_wsobj *objs;     /* hash by oid [txn->lock; readers go through obj->ws] */
	struct txn_name_list names; /* [ns] */
	size_t nobjs, nnames;
	struct base_vec dead_dirs; /* install, over all its tries: numbers of directories that wait in the trash to be removed */
	char trouble[NAME_MAX + 1]; /* the name at which the last install failed; "" when it is not known */
	/* Recovery: how to find an object that is not in objs yet. */
	int (*resolve)(struct txn_ws *ws, uint64_t oid, struct txn_wsobj **out);
	void *resolve_arg;
};

struct txn_obj {
	struct txn_engine *eng;
	struct store_obj *home; /* owned; NULL only during recovery, for what is missing */
	atomic_ulong refs;
	_Atomic uint64_t oid;   /* number in the log; 0: none yet. Written once under eng->lock */
	_Atomic(void *) user;   /* layer above, under a lock of its own; read without any */
	atomic_uint opens;      /* open files: contents must stay reachable */
	atomic_bool dead;       /* created by a transaction that was rolled back */
	atomic_bool gone;       /* a directory that has been removed at home */
	_Atomic uint64_t plain_gen; /* eng->plain_gen when a plain operation last changed it unlogged; 0: never */
	pthread_rwlock_t lock;
	struct txn_wsobj *ws;   /* [lock] */
	uint64_t logged;        /* [lock] like txn_name.logged */
	bool logged_mtime;      /* [lock] a directory whose logged change set its mtime: names in it change that too */
	TAILQ_ENTRY(txn_obj) marked_link; /* [eng->lock] in eng->marked when logged != 0 */
	bool marked;            /* [eng->lock] */
	struct txn_name *names; /* [ns] hash: changed and marked names of this directory */
	/* Committed changes while strict transactions are open; of a directory: its own, not those by its names. */
	uint64_t data_version, attr_version; /* [lock] */
	uint64_t names_version;              /* [ns] */
	struct txn_hist_list hist;           /* [lock] */
	struct txn_hist_entry *hist_names;   /* [ns] hash */
	TAILQ_HEAD(, txn_wsobj) dirviews; /* [ns] transactions that changed names here */
};
TAILQ_HEAD(txn_obj_list, txn_obj);

struct txn_savepoint {
	char *name;
	size_t records; /* length of recs when it was set */
	uint64_t last;  /* and the transaction's last LSN */
};

struct txn {
	struct txn_engine *eng;
	uint64_t id;
	atomic_ulong refs;
	_Atomic int state; /* enum txn_state; written under lock, COMMITTED also under ns exclusive */
	bool implicit;     /* one plain operation */
	bool forced;       /* an implicit one whose COMMIT must be durable before its install [lock] */
	struct timespec began;
	pthread_mutex_t lock;
	struct txn_ws ws;
	/* [lock] */
	struct base_vec recs; /* LSNs of its records that stand, oldest first */
	struct txn_savepoint *savepoints;
	size_t nsavepoints;
	_Atomic uint64_t first; /* LSN of BEGIN; 0: nothing logged */
	uint64_t last;
	uint64_t commit_lsn;
	_Atomic uint64_t bytes; /* logged */
	_Atomic uint64_t operations;
	uint64_t version;  /* grows with all that changes what it shows */
	bool expecting;    /* its commit is for `expected` only */
	uint64_t expected;
	struct txn_account *account; /* reference or NULL; constant */
	uint64_t charged;            /* on it */
	uint64_t need;  /* bytes that installing it may take at home */
	uint64_t reserved;
	/* Prepared, or about to be; written once, gid under eng->lock. */
	char *gid; /* NULL: neither */
	uid_t owner;
	struct timespec prepared;
	/* Isolation (isolation.c) */
	_Atomic int isolation;          /* enum txn_isolation; written under lock */
	_Atomic uint64_t snap;          /* number of its snapshot; 0: none */
	struct txn_snapshot *snapshot;  /* [lock] */
	_Atomic(struct txn_readset *) reads; /* serializable */
	struct txn_readset *retired_reads;   /* [lock] of levels that it had before */
	atomic_bool strict;             /* counts in eng->strict */
	atomic_bool committing;         /* its flip is certain; set under certify */
	atomic_bool doomed;             /* a snapshot that was late: it cannot commit */
	atomic_bool lost;               /* something that its snapshot needs could not be kept */
	_Atomic(struct txn_conflict *) conflict; /* why; set once */
	uint64_t epoch;                 /* newest snapshot when it was flipped; constant from then on */
	bool kept;                      /* the snapshots have what its install changes [install] */
	/* [eng->waits.lock] */
	bool released;             /* holds nothing any more */
	struct txn_queue *holds;   /* queues for what it holds */
	struct txn_waiter *waiting;
	unsigned wait_stamp;       /* seen by the search for a circle */
	struct txn *wait_next;
	TAILQ_ENTRY(txn) link;    /* [eng->lock] in eng->open */
	TAILQ_ENTRY(txn) install; /* [eng->lock] in eng->installs, or eng->implicits, or eng->flipping: */
	bool flipping;            /* [eng->lock] durable, not visible yet */
};
TAILQ_HEAD(txn_list, txn);

struct txn_engine {
	struct store *store;
	const struct store_ops *so;
	struct wal *wal;
	struct txn_config cfg;
	struct txn_obj *root;

	pthread_rwlock_t commit_gate;
	pthread_rwlock_t strict_gate;
	atomic_uint strict; /* transactions open that are serializable or snapshots; goes up under strict_gate and ns exclusive */
	struct txn_history history;
	pthread_mutex_t certify;
	pthread_rwlock_t ns;
	pthread_mutex_t tab;
	pthread_mutex_t lock;
	/* [lock] */
	pthread_cond_t installed; /* the installer made progress, or gave up */
	pthread_cond_t work;      /* for the installer */
	pthread_cond_t timer;     /* for the checkpointer */
	struct txn_list open;
	struct txn_list flipping; /* COMMIT is durable, their before_flip runs; in `open` as well */
	struct txn_list installs; /* committed, in order; the head is being installed */
	struct txn_list implicits; /* the same of implicit ones, by whoever made them */
	/*
	 * COMMIT and first LSN, in pairs, of those that ended behind one that has not: commits become visible, and are
	 * installed, in another order than their records, and recovery redoes by these. Pruned by checkpoints.
	 */
	struct base_vec ended;
	uint64_t ended_pin; /* the same for those that could not be noted */
	uint64_t finished;        /* installs done, ever */
	unsigned implicit;        /* implicit transactions between commit and end */
	bool install_stuck;       /* the last try failed for lack of space */
	bool stopping;
	bool checkpoint_wanted;
	uint64_t next_oid, next_txid;
	char error[256];
	struct txn_obj_list marked;
	struct txn_stats st;

	struct txn_name_list marked_names; /* [ns] */
	_Atomic uint64_t size_ok; /* files can be as large as this: probed */
	atomic_bool failed;      /* error[] is set and will not change */
	_Atomic uint64_t plain_gen;  /* > 0; advanced by each unlogged plain change, after the change */
	_Atomic uint64_t synced_gen; /* plain changes with smaller numbers are durable */
	/* The latest change of an object that nobody refers to any more; 1: those of before the mount. Written under tab. */
	_Atomic uint64_t forgotten_gen;
	uint64_t last_checkpoint; /* [lock] wal_end then */
	pthread_mutex_t checkpoint_lock; /* one at a time; before commit_gate */
	pthread_t installer, checkpointer, warmer;
	bool threads;
	struct txn_waits waits;
};

struct txn_file {
	struct txn_engine *eng;
	struct txn_obj *obj;
	struct txn *txn; /* the view it was opened in, NULL: committed */
	struct store_file *home;
	struct txn_keep *keep; /* home is its file; NULL: our own */
	int flags;
};

/* A transaction and the place in it to which a failed statement goes back (I9). */
struct txn_stmt {
	struct txn_engine *eng;
	struct txn *txn;
	size_t mark;
	uint64_t last;
};

/* The number of a view's snapshot, 0: it sees what is committed. */
static inline uint64_t txn_snap(const struct txn *view)
{
	return view ? atomic_load_explicit(&((struct txn *)(uintptr_t)view)->snap, memory_order_relaxed) : 0;
}

static inline bool txn_visible(const struct txn *t, const struct txn *view)
{
	uint64_t snap;

	if (t == view)
		return true;
	if (atomic_load_explicit(&((struct txn *)(uintptr_t)t)->state, memory_order_acquire) != TXN_COMMITTED)
		return false;
	snap = txn_snap(view);
	return !snap || t->epoch < snap;
}

/* The version of obj that a view sees, NULL: home's. [obj->lock] */
static inline struct txn_wsobj *txn_version(const struct txn_obj *obj, const struct txn *view)
{
	return obj->ws && txn_visible(obj->ws->ws->txn, view) ? obj->ws : NULL;
}

/* Did names in the directory change after its mtime was set? Then they decide it. */
static inline bool txn_dir_changed_later(const struct txn_wsobj *w)
{
	return base_timespec_before(&w->mtime_set, &w->dir_time);
}

/* An ended or prepared transaction is the committed view. */
static inline struct txn *txn_view(struct txn *t)
{
	return t && txn_state(t) == TXN_ACTIVE ? t : NULL;
}

/* Has the version lost the directory's only name? */
static inline bool txn_dir_removed(const struct txn_wsobj *w)
{
	return w->links + (w->created ? 0 : 1) <= 0;
}

/* Were there changes, not durable yet, of objects that nobody refers to any more? */
static inline bool txn_forgotten_unsynced(struct txn_engine *eng)
{
	uint64_t gen = atomic_load(&eng->forgotten_gen);

	return gen > 1 && gen >= atomic_load(&eng->synced_gen);
}

/* engine.c */
void txn_engine_fail(struct txn_engine *eng, const char *fmt, ...) PRINTF_LIKE(2, 3);
int txn_writable(struct txn_engine *eng); /* 0 or -EROFS */
void txn_want_checkpoint(struct txn_engine *eng);
int txn_wait_installs(struct txn_engine *eng, bool all);
struct timespec txn_now(void);
int txn_new(struct txn_engine *eng, bool implicit, struct txn **out);

/* object.c */
struct txn_obj *txn_obj_intern(struct txn_engine *eng, struct store_obj *home); /* takes over the reference; NULL: -ENOMEM */
struct txn_obj *txn_obj_orphan(struct txn_engine *eng); /* recovery: without home */
uint64_t txn_obj_oid(struct txn_obj *obj);              /* gives it a number when it has none */
void txn_obj_mark(struct txn_obj *obj, uint64_t lsn);   /* [obj->lock exclusive] I5 */
void txn_obj_dirty(struct txn_obj *obj);                /* a plain change went home unlogged */
bool txn_obj_unsynced(struct txn_obj *obj);
/* Make durable at home. promised: recovery, or a transaction that is being committed, relies on it. */
int txn_sync_obj(struct txn_obj *obj, bool data_only, bool promised);
int txn_sync_all(struct txn_engine *eng, bool promised);
char *txn_stage_name(uint64_t oid, char buf[20]);

/* ws.c */
void txn_ws_init(struct txn_ws *ws, struct txn_engine *eng, struct txn *t);
struct txn_wsobj *txn_ws_find(struct txn_ws *ws, uint64_t oid);
int txn_ws_add(struct txn_ws *ws, struct txn_obj *obj, uint64_t oid, struct txn_wsobj **out);
void txn_ws_dirview(struct txn_wsobj *w); /* [ns exclusive] */
struct txn_name *txn_name_find(struct txn_obj *dir, const char *name); /* [ns] */
struct txn_wsxattr *txn_wsxattr_find(const struct txn_wsobj *w, const char *name);
/* Forget everything; locks as for detaching. `logged`: LSN for the marks (I5), 0: rolled back. [ns exclusive] */
void txn_ws_detach(struct txn_ws *ws, uint64_t logged);

/* stmt.c: logging, statements, locks of objects and names */
int txn_stmt_begin(struct txn_engine *eng, struct txn *view, struct txn_stmt *st); /* locks st->txn */
int txn_stmt_end(struct txn_stmt *st, int r);  /* undoes when r < 0 (TXN_RETRY too); unlocks; returns r */
int txn_log_begin(struct txn *t, bool control); /* BEGIN, unless it is there */
int txn_log(struct txn *t, const struct txn_rec *rec, bool control, uint64_t *lsn);
int txn_log_apply(struct txn *t, const struct txn_rec *rec); /* log, then change the workspace */
int txn_undo_to(struct txn *t, size_t records, uint64_t last);
/* Make sure that installing so much more will find space; before the change is logged. [txn->lock] */
int txn_need(struct txn *t, uint64_t bytes);
/* Make obj known to the transaction's log. [txn->lock] */
int txn_declare(struct txn *t, struct txn_obj *obj, struct txn_wsobj **out);
/* Lock contents and attributes for the transaction (I4). [txn->lock; takes obj->lock] */
int txn_own(struct txn *t, struct txn_obj *obj, struct txn_wsobj **out);
/* Run `op` as an implicit transaction, retrying while installs are in the way. */
int txn_implicitly(struct txn_engine *eng, int (*op)(struct txn *t, void *arg), void *arg);
/* May a plain operation change this object at home right now? 0 yes, 1: yes, but through the log, -EBUSY, TXN_RETRY. [obj->lock] */
int txn_plain_obj(struct txn_obj *obj);
int txn_plain_name(struct txn_obj *dir, const char *name); /* the same for a name [ns] */

int txn_file_new(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, struct store_file *home,
                 struct txn_file **out);

/* op_*.c: operations inside a transaction, between stmt_begin and stmt_end */
int txn_do_setattr(struct txn *t, struct txn_obj *obj, const struct stat *attr, unsigned mask);
int txn_do_setxattr(struct txn *t, struct txn_obj *obj, const char *name, const void *value, uint32_t len);
int txn_do_size(struct txn *t, struct txn_wsobj *w, uint64_t size, uint64_t zero_off, uint64_t zero_end,
                const struct txn_stamp *after);
/* attr.c: of a version (w) over home. _whole: malloc'ed; -ENODATA when there is none [txn->lock; takes obj->lock] */
ssize_t txn_xattr_of(struct txn_obj *obj, struct txn_wsobj *w, const char *name, void *buf, size_t size); /* [obj->lock] */
ssize_t txn_xattr_whole(struct txn_obj *obj, struct txn_wsobj *w, const char *name, void **out);
int txn_attr_locked(struct txn *view, struct txn_obj *obj, struct stat *attr); /* [ns shared at least; takes obj->lock] */
int txn_attr_held(struct txn *view, struct txn_obj *obj, struct stat *attr);   /* [a directory: ns; obj->lock] */
ssize_t txn_read_locked(struct txn_obj *obj, struct txn_wsobj *w, struct store_file *home, void *buf, size_t n,
                        uint64_t off); /* [obj->lock] */
void txn_stamp_now(const struct txn_wsobj *w, struct txn_stamp *before, struct txn_stamp *after, bool kill_priv);
/* [ns] the object at a name in a view: new reference or NULL */
int txn_resolve_name(struct txn *view, struct txn_obj *dir, const char *name, struct txn_obj **out, struct stat *attr,
                     bool *attr_valid);
int txn_dir_usable(struct txn *view, struct txn_obj *dir); /* [ns] 0, -ENOENT removed, -EBUSY being removed */
int txn_dir_empty(struct txn *view, struct txn_obj *dir);  /* [ns] 0, -ENOTEMPTY, -EBUSY, TXN_RETRY */
/* Parent and name in a view; new reference, malloc'ed. [ns] */
int txn_place(struct txn *view, struct txn_obj *obj, struct txn_obj **parent, char **name);
int txn_path_locked(struct txn_engine *eng, struct txn *view, struct txn_obj *obj, char **path); /* [ns] */
int txn_name_change(struct txn *t, struct txn_rec_name *rec); /* [ns exclusive] log and apply */

/* op_name.c, for op_rename.c too. *out: what is at the name, new reference or NULL. [ns exclusive] */
int txn_own_name(struct txn *t, struct txn_obj *dir, const char *name, struct txn_obj **out);
int txn_plain_at(struct txn_obj *dir, const char *name, struct txn_obj **out);
static inline uint64_t txn_oid_of(const struct txn_wsobj *w)
{
	return w ? w->oid : 0;
}

/* In the view's transaction, or at home, or, where that would get ahead of the log, as a transaction of its own (I5). */
#define TXN_RUN(eng, view, in_txn, at_home, args)                                                                          \
	({                                                                                                             \
		struct txn_stmt st_;                                                                                   \
		int run_ = txn_stmt_begin(eng, view, &st_);                                                            \
		if (!run_ && st_.txn)                                                                                  \
			run_ = txn_stmt_end(&st_, in_txn(st_.txn, args));                                              \
		else if (!run_ && (run_ = at_home(eng, args)) == 1)                                                    \
			run_ = txn_implicitly(eng, in_txn, args);                                                      \
		run_;                                                                                                  \
	})

/* probe.c: 0, or why home would refuse to have it installed. owner: the mask's of UID and GID. [txn->lock] */
int txn_probe_size(struct txn_engine *eng, uint64_t size);
int txn_probe_owner(struct txn_engine *eng, bool dir, const struct stat *attr, unsigned mask);
int txn_probe_xattr(struct txn *t, struct txn_obj *obj, const char *name, const void *value, size_t len);
int txn_probe_acl(struct txn *t, struct txn_obj *obj, const char *name, const void *acl, size_t len, bool *none);

/* acl.c: what a filesystem does to POSIX ACLs when it creates and chmods. Values are the xattrs' bytes. */
int txn_acl_inherit(const void *dflt, size_t len, mode_t *mode, void **access, size_t *access_len); /* *access may be NULL */
int txn_acl_chmod(const void *acl, size_t len, mode_t mode, void **out); /* same length */
int txn_acl_mode(const void *acl, size_t len, mode_t *mode, bool *trivial);

/* install.c */
int txn_install(struct txn_ws *ws, struct txn *t, uint64_t *objects, uint64_t *names);
int txn_install_reserved(struct txn *t); /* where space runs out, again with what was reserved */
void *txn_installer(void *eng);

/* commit.c */
int txn_sync_plain(struct txn *t); /* what its redo relies on is durable [txn->lock] */
/* Forget the workspace, leave the open list. state: TXN_ABORTED, or TXN_ENDED of one that changed nothing. [txn->lock] */
void txn_discard(struct txn *t, enum txn_state state);
void txn_give_back(struct txn *t); /* what was reserved for its install */
int txn_finish(struct txn *t); /* after the install: detach, END */

/* prepare.c [txn->lock] */
void txn_unhide(struct txn *t);          /* it is being committed [ns exclusive too] */
int txn_forget_prepared(struct txn *t); /* ABORT, durable */
/* in_doubt.c: is this file of the stage one of a prepared transaction? */
bool txn_stage_needed(struct txn_engine *eng, const char *name);

/* checkpoint.c */
void *txn_checkpointer(void *eng);
int txn_checkpoint_at(struct txn_engine *eng, bool shutdown);
/* carry.c */
int txn_carry_forward(struct txn_engine *eng);
int txn_chain(struct txn_engine *eng, uint64_t last, struct base_vec *out); /* LSNs of its records, oldest first */

/* recovery.c */
int txn_recover(struct txn_engine *eng, struct txn_recovery *rec, char *err, size_t errlen);

/* account.c */
int txn_charge(struct txn *t, uint64_t bytes, bool control); /* [txn->lock] -EDQUOT; control records always go */
void txn_discharge(struct txn *t);

/* Was it freed for someone who is on his way? Then a newcomer queues up behind. */
static inline bool txn_reserved(struct txn_obj *obj, const char *name)
{
	return atomic_load_explicit(&obj->eng->waits.reserved, memory_order_relaxed) && txn_reserved_for_other(obj, name);
}

/* sweep.c */
int txn_sweep(struct txn_engine *eng, uint64_t *swept); /* counts what it has removed */
/*
 * *next: above each number that is in use in stage and trash. The log may have lost the record of what a crash left there, and
 * what is swept comes back with a power cut: a number that is given twice would meet it.
 */
int txn_numbers_left(struct txn_engine *eng, uint64_t *next);

#include "txn/isolation.h"

#endif
