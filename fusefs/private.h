/*
 * private.h - what the request layer's files share. Nobody outside fusefs/ includes it.
 *
 * A node is what the kernel knows by a node id, and caches pages, attributes and names for: one object in one view. The
 * committed view has one node per object. A named transaction has nodes of its own for everything below its root. An
 * ambient transaction has its own for the files that it touched, and for directories that it removes or moves; else
 * its members share the committed nodes, and the answer depends on who asks.
 *
 * Three things follow, and most of this folder is about them:
 *   - copy-up (node.c): a member that wants to change an object whose shared node it holds is told ESTALE; the kernel
 *     looks the name up again and gets the transaction's own node.
 *   - telling (tell.c): a committed change made through one node must be heard of by the object's other nodes that
 *     show the committed version. Its reply goes out behind the notifications.
 *   - the end of a transaction (view.c): the kernel's caches must agree with the new state before commit returns.
 *
 * Who notifies, and why nothing can wait in a circle. A notification may block on a directory's or a page's lock that
 * the kernel holds for an unanswered request. So no handler that the kernel runs under such a lock may wait for one:
 *   - Requests on committed nodes (tx == NULL) hand (notifications, reply) to the thread `committed`, which only ever
 * targets nodes of open transactions. Requests on those are answered without waiting for any notification.
 *   - Requests on nodes that outlived their transaction hand theirs to the thread `outlived`, which targets committed
 * nodes and nodes of open transactions.
 *   - Whatever targets nodes that outlived their transaction goes to the thread `late`, for which a reply waits a moment
 *     and no longer: for nearly all it is enough, and where two requests would wait for each other one of them goes on.
 *   - Commit, rollback and quiesce notify from the thread that runs the command: a write to a control file, whose node
 * is its own and holds nothing else. Half of the worker threads at most run commands (more get a thread of their own),
 * so that writes of mapped pages which the notifications cause find a worker.
 *   - Right before the flip commit invalidates pages (view.c, flipping) while it keeps READs unanswered (hold.c), under
 * the lock of the transaction: operations inside it wait. So no name is invalidated there (a directory may be locked for one of
 * these), and no page of the transaction's own nodes. Pages of other nodes are locked by READs, which hold.c sees to, and
 * by WRITEs: those that are parked, too (hold.c, park.c). Commit does not wait for the invalidation when it cannot end before
 * the flip.
 *   - rmdir CONTROL/NAME holds the control directory: it never invalidates an entry there.
 *
 * Lock order: fs->nodes is a leaf, but for references (fusefs_tx_get, txn_obj_get) and txn_is_open. Queue locks are
 * and fs->holding.lock are leaves. A handle's lock is taken before fs->nodes and before engine calls.
 */
#ifndef TXNFS_FUSEFS_PRIVATE_H
#define TXNFS_FUSEFS_PRIVATE_H

#define FUSE_USE_VERSION 314

#include "base/base.h"
#include "fusefs/fusefs.h"
#include "fusefs/tx.h"
#include "txn/txn.h"

#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/queue.h>
#include <syslog.h>

#define FUSEFS_FOREVER 1e6 /* seconds that the kernel may keep what it need not ask for again */
#define FUSEFS_ATTRS_ONLY ((off_t)-1)
#define FUSEFS_BACKGROUND 256 /* requests that the kernel sends without waiting, readahead above all */

enum fusefs_kind {
	FUSEFS_OBJECT,  /* a file or directory of the tree */
	FUSEFS_CONTROL, /* the control directory in a view's root */
	FUSEFS_TX_DIR,  /* CONTROL/NAME */
	FUSEFS_CTL,     /* control files: a fresh node for each lookup, so that no command waits for another one's */
	FUSEFS_STATUS,
	FUSEFS_TX_CHANGES,
	FUSEFS_PREPARED_LIST,
	FUSEFS_TRANSACTIONS,
};

struct fusefs_node {
	/* constant */
	enum fusefs_kind kind;
	bool directory;
	struct txn_obj *obj;  /* owned reference; NULL for control nodes */
	struct fusefs_tx *tx; /* owned reference; NULL: the committed view */
	uint64_t generation;
	atomic_bool written;   /* was opened for writing: may have dirty mapped pages */
	atomic_bool kept_attr; /* a shared directory whose attributes the kernel may keep; set under fs->nodes */
	atomic_uint in_hand;   /* handlers at work at a directory's names and attributes */
	_Atomic int64_t fresh; /* 1: a commit has changed the attributes; then when the kernel was told; 0: it may keep them */
	/* [fs->nodes] */
	uint64_t nlookup;                /* the kernel's references */
	unsigned refs;                   /* our own */
	bool marked;                     /* copied up by an ambient transaction; counts in refs until that ends */
	bool retired;                    /* a removed directory: never found again, should its name come back */
	unsigned maker;                  /* number of the ambient transaction that made this shared directory, or 0 */
	struct fusefs_node *peer;        /* next node of the same object (head in *txn_obj_user) */
	struct fusefs_node *parent;      /* named views: where it was last seen (counts in the parent's refs) ... */
	char *name;                      /* ... and as what */
	LIST_ENTRY(fusefs_node) all;     /* fs->all */
	LIST_ENTRY(fusefs_node) of_view; /* view->nodes */
	LIST_ENTRY(fusefs_node) kept;    /* fs->kept_attrs while kept_attr */
};
LIST_HEAD(fusefs_nodes, fusefs_node);

/* What hangs on fusefs_tx.view. */
struct fusefs_view {
	struct fusefs_nodes nodes;   /* [fs->nodes] its own nodes for objects */
	struct fusefs_node *control; /* [fs->nodes] borrowed; cleared when the node goes */
	struct fusefs_node *dir;     /* [fs->nodes] CONTROL/NAME, likewise */
	bool counted;                /* in fs->ambient; changed by begun and ended only */
	atomic_bool settled; /* the kernel has dropped what it cached of it: writes of mapped pages are new ones */
};

/* An open file or directory: fi->fh. */
struct fusefs_handle {
	LIST_ENTRY(fusefs_handle) all;  /* [fs->nodes] */
	struct fusefs_node *node;       /* the kernel keeps it for us */
	struct txn_file *file;          /* regular files */
	uint64_t lost_to;               /* opening it has waited for this transaction (txn_id) in vain: writes don't */
	bool direct;                    /* reads bypass the kernel's cache */
	pthread_mutex_t lock;           /* for the rest: */
	struct fusefs_listing *listing; /* directories: as of the last rewind */
	struct base_buf text;           /* control files: what a read gives */
	bool have_text;
	off_t base; /* file position where reading this text began; -1: not yet */
};
LIST_HEAD(fusefs_handles, fusefs_handle);

/* ---- notifications ---- */

struct fusefs_notice {
	struct fusefs_node *node; /* reference */
	char *name;               /* an entry; NULL: the inode */
	off_t off, len;           /* FUSEFS_ATTRS_ONLY, or a range (len 0: to the end) */
};

struct fusefs_notices {
	struct fusefs_notice *v;
	size_t n, cap;
};

enum fusefs_reply_kind {
	FUSEFS_REPLY_ERR,
	FUSEFS_REPLY_ENTRY,
	FUSEFS_REPLY_CREATE,
	FUSEFS_REPLY_ATTR,
	FUSEFS_REPLY_WRITE,
	FUSEFS_REPLY_OPEN
};

struct fusefs_reply {
	fuse_req_t req;
	enum fusefs_reply_kind kind;
	int err;                      /* positive; ERR */
	size_t count;                 /* WRITE */
	double timeout;               /* ATTR */
	struct stat attr;             /* ATTR */
	struct fuse_entry_param e;    /* ENTRY, CREATE */
	struct fusefs_node *node;     /* ENTRY, CREATE: its lookup count went up by one */
	struct fuse_file_info fi;     /* CREATE, OPEN */
	struct fusefs_handle *handle; /* CREATE, OPEN */
};

struct fusefs_telling {
	struct fusefs_notices first; /* before the reply */
	struct fusefs_notices later; /* nodes that outlived their transaction */
};

struct fusefs_letter;
struct fusefs_queue {
	struct fusefs *fs;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t more;
	/* [lock] */
	TAILQ_HEAD(, fusefs_letter) letters;
	bool busy, stop;
};

struct fusefs_park;
struct fusefs_hold;
struct fusefs_barrier;
struct fusefs_holding { /* hold.c */
	atomic_ulong count;    /* objects whose READs are kept; changed under lock */
	atomic_ulong mixed;    /* commits that did not become visible at one moment */
	pthread_mutex_t lock;
	pthread_cond_t changed, dog_wakes, sweep;
	/* [lock] */
	struct fusefs_hold *objs; /* hash by object */
	LIST_HEAD(, fusefs_barrier) barriers;
	unsigned held; /* READs that are kept */
	bool stop, dog_sleeps;
	TAILQ_HEAD(, fusefs_barrier) sweeps; /* for sweepers */
	unsigned sweepers, idle;             /* idle: also those that a sweep waits for */
	bool started; /* constant while serving */
	pthread_t dog;
};

struct fusefs_watchdog {
	pid_t pid; /* -1: there is none */
	int tell;  /* socket */
};

/* ---- the mount ---- */

struct fusefs {
	struct fuse_session *se;
	bool mounted;
	char *mountpoint;
	struct store *store;
	struct txn_engine *eng;
	struct fusefs_registry *reg;
	char *control; /* the control directory's name */
	unsigned max_threads, max_read;
	struct timespec born;
	void (*report)(void *arg, const char *line);
	void (*progress)(void *arg, unsigned long long done, unsigned long long total);
	void *arg;

	/* init_patch.c */
	uint64_t init_unique; /* of the INIT request that is being answered */
	uint32_t init_offered;
	bool init_pending;
	atomic_bool kill_flags; /* HANDLE_KILLPRIV_V2: requests tell when suid and sgid must go */

	pthread_mutex_t nodes;
	struct fusefs_nodes all;                /* [nodes] */
	struct fusefs_nodes kept_attrs;         /* [nodes] shared directories whose attributes the kernel keeps */
	struct fusefs_handles handles;          /* [nodes] */
	struct fusefs_node *root, *control_dir; /* constant */
	struct fusefs_settling *settling;       /* [nodes] settle.c */
	atomic_uint commits;                    /* under way: between ending and ended */
	atomic_ulong settled;                   /* how often objects ceased to be settling; changed under nodes */
	struct fusefs_holding holding;
	atomic_uint ambient;                    /* ambient transactions open; changed under nodes */
	atomic_ulong own_nodes; /* nodes of transactions, ended ones included: 0 means that nobody needs telling */
	_Atomic uint64_t generation;

	struct fusefs_park *park;
	double lock_timeout; /* seconds that a request waits for a transaction */

	struct fusefs_queue committed, outlived, late;
	atomic_bool gone; /* the kernel does not listen any more */
	pthread_rwlock_t sending; /* shared while something is written to the kernel; a leaf */
	bool closed;              /* [sending] the descriptor may be another file's by now */
	char *abort_path; /* of the connection under /sys; NULL: not known */
	struct fusefs_watchdog watchdog;

	pthread_mutex_t commands_lock;
	pthread_cond_t commands_done;
	unsigned commands; /* [commands_lock] control writes being run by workers */
	unsigned extra;    /* [commands_lock] threads of their own (fusefs_apart) */
};

static inline struct fusefs *fusefs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* ---- node.c ---- */

static inline struct fusefs_node *fusefs_node(const struct fusefs *fs, fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? fs->root : (struct fusefs_node *)(uintptr_t)ino;
}

static inline fuse_ino_t fusefs_ino(const struct fusefs *fs, const struct fusefs_node *n)
{
	return n == fs->root ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)n;
}

/* Whose version of the tree a request means. */
struct fusefs_scope {
	struct fusefs_tx *tx; /* NULL: the committed view */
	struct txn *txn;      /* for the engine */
	bool member;          /* the caller belongs to an ambient transaction and came by a shared directory */
	bool owned;           /* tx is a reference of ours */
	/* As it was before anything was looked up, for how long the kernel may keep the answer (settle.c): */
	bool disputed;         /* an ambient transaction was open, or a commit under way */
	unsigned long settled; /* fs->settled */
};
#define FUSEFS_SCOPE __attribute__((cleanup(fusefs_scope_end))) struct fusefs_scope

void fusefs_scope(struct fusefs *fs, fuse_req_t req, const struct fusefs_node *n, struct fusefs_scope *out);
void fusefs_scope_end(struct fusefs_scope *s);
/* Does it change the committed version? */
static inline bool fusefs_scope_committed(const struct fusefs_scope *s)
{
	return !s->tx || txn_state(s->txn) != TXN_ACTIVE;
}

/*
 * Is this the view of a named transaction that was rolled back, or prepared? Whoever is left in it (a command's children, in their
 * namespace) may look at the committed tree, but changes by name must not leak into it. Open descriptors go on.
 */
static inline bool fusefs_view_over(const struct fusefs_node *n)
{
	return n->tx && n->tx->named &&
	       (txn_state(n->tx->txn) == TXN_ABORTED || txn_state(n->tx->txn) == TXN_PREPARED);
}

/* A node of an open snapshot: whatever others do, it shows what it showed. */
static inline bool fusefs_is_frozen(const struct fusefs_node *n)
{
	return n->tx && txn_isolation(n->tx->txn) == TXN_SNAPSHOT && txn_state(n->tx->txn) == TXN_ACTIVE;
}

/* The caller's ambient transaction, for requests that reached a shared node; NULL: none (fast when none is open). */
struct fusefs_tx *fusefs_member_of(struct fusefs *fs, fuse_req_t req);

int fusefs_node_new(struct fusefs *fs, enum fusefs_kind kind, struct txn_obj *obj, struct fusefs_tx *tx,
                    struct fusefs_node **out); /* one lookup; takes references of its own */
/* The node of obj in a view, made when missing. Adds one lookup. */
int fusefs_node_lookup(struct fusefs *fs, struct txn_obj *obj, struct fusefs_tx *tx, struct fusefs_node **out);
void fusefs_node_forget(struct fusefs *fs, struct fusefs_node *n, uint64_t nlookup);
void fusefs_node_get_locked(struct fusefs_node *n);
void fusefs_node_put(struct fusefs *fs, struct fusefs_node *n);
/* Remember where a node of a named view was last seen. */
void fusefs_node_place(struct fusefs *fs, struct fusefs_node *n, struct fusefs_node *parent, const char *name);
/* The object is a removed directory in this view: its node (if any) will not be found again. */
void fusefs_node_retire(struct fusefs *fs, struct txn_obj *obj, struct fusefs_tx *tx);

/* Copy-up. mark: -ESTALE the first time, 0 when the transaction had its own node already. */
int fusefs_node_mark(struct fusefs *fs, struct txn_obj *obj, struct fusefs_tx *tx);
bool fusefs_node_marked(struct fusefs *fs, struct txn_obj *obj, struct fusefs_tx *tx);
void fusefs_node_unmark_all(struct fusefs *fs, struct fusefs_tx *tx);
/* A shared directory made by this ambient transaction: nobody else can have its node. */
bool fusefs_node_made_by(struct fusefs *fs, struct txn_obj *obj, struct fusefs_tx *tx);

/*
 * The node by which a view shows obj, found under name in directory p, and the answer for the kernel with its timeouts;
 * one lookup more. `made`: the caller's transaction has just created it.
 */
int fusefs_entry(struct fusefs *fs, struct fusefs_node *p, const struct fusefs_scope *s, const char *name,
                 const struct txn_look *look, bool made, struct fuse_entry_param *e, struct fusefs_node **out);
double fusefs_negative_timeout(struct fusefs *fs, const struct fusefs_node *p, const struct fusefs_scope *s,
                               const struct txn_look *look);
double fusefs_attr_timeout(struct fusefs *fs, struct fusefs_node *n, const struct fusefs_scope *s);
/* What st_ino and d_ino show: a named view's files must not pass for the committed ones in diff, cp and tar. */
uint64_t fusefs_shown_ino(const struct fusefs_tx *tx, uint64_t ino);

int fusefs_nodes_init(struct fusefs *fs);
/* The directory by which a file was last seen, or one that it is in: a reference, or NULL if the kernel does not know it. */
struct fusefs_node *fusefs_node_directory(struct fusefs *fs, struct fusefs_node *n);
void fusefs_nodes_free(struct fusefs *fs); /* whatever the kernel did not give back */

/* ---- notify.c ---- */

void fusefs_notice_inode_locked(struct fusefs_notices *list, struct fusefs_node *n, off_t off, off_t len);
void fusefs_notice_entry_locked(struct fusefs_notices *list, struct fusefs_node *dir, const char *name);
/* Send them now, from this thread, and empty the list. */
void fusefs_notices_send(struct fusefs *fs, struct fusefs_notices *list);
void fusefs_reply_send(struct fusefs *fs, struct fusefs_reply *r);
int fusefs_queue_start(struct fusefs *fs, struct fusefs_queue *q);
void fusefs_queue_stop(struct fusefs_queue *q);
bool fusefs_queue_idle(struct fusefs_queue *q);
/* Send them from a thread of its own, for what may have to wait long; empties the list. Waits for it a moment, and no longer. */
void fusefs_notices_apart(struct fusefs *fs, struct fusefs_notices *list);
/* Post them for the thread `late`; empties the list. */
void fusefs_notices_later(struct fusefs *fs, struct fusefs_notices *list);

/* ---- tell.c: committed changes, told to the other nodes of what changed ---- */

/* obj changed through node self (NULL: by name only). off: FUSEFS_ATTRS_ONLY or the range of contents. */
void fusefs_tell_object(struct fusefs *fs, struct fusefs_telling *t, const struct fusefs_node *self,
                        struct txn_obj *obj, off_t off, off_t len);
/* The entry `name` of the directory `self` changed. */
void fusefs_tell_name(struct fusefs *fs, struct fusefs_telling *t, const struct fusefs_node *self, const char *name);
/* Tell and reply, in the order that the rules above ask for. `self`: the node by which the request came. */
void fusefs_finish(struct fusefs *fs, const struct fusefs_node *self, struct fusefs_telling *t, struct fusefs_reply *r);
/* The same for a change that its own node must hear of as well. Only for requests that hold no page. */
void fusefs_finish_late(struct fusefs *fs, struct fusefs_telling *t, struct fusefs_reply *r);
static inline bool fusefs_must_tell(const struct fusefs *fs, const struct fusefs_scope *s)
{
	return atomic_load_explicit(&((struct fusefs *)(uintptr_t)fs)->own_nodes, memory_order_relaxed) &&
	       fusefs_scope_committed(s);
}

/* ---- view.c: the registry's hooks ---- */

void fusefs_view_hooks(struct fusefs *fs, struct fusefs_tx_hooks *hooks);
/* rmdir CONTROL/NAME runs with the control directory locked by the kernel. */
int fusefs_view_remove(struct fusefs *fs, struct fusefs_tx *tx, const struct fusefs_caller *who);

/* ---- settle.c: objects whose committed version is about to change ---- */

void fusefs_settle_locked(struct fusefs *fs, struct txn_obj *obj);
void fusefs_settled_locked(struct fusefs *fs, struct txn_obj *obj);
/* May what was found out of obj since the scope began be of before a flip? Then the kernel must not keep it. */
bool fusefs_is_settling_locked(struct fusefs *fs, struct txn_obj *obj, const struct fusefs_scope *s);
bool fusefs_is_settling(struct fusefs *fs, struct txn_obj *obj, const struct fusefs_scope *s);

/* ---- hold.c: contents that change for everybody at one moment ---- */

/* For the objects that are added to it; tx: whose own nodes are left alone. NULL: no memory. */
struct fusefs_barrier *fusefs_barrier_new(const struct fusefs_tx *tx);
int fusefs_barrier_add(struct fusefs_barrier *b, struct txn_obj *obj);
/* Before the flip: when it returns the kernel has no page of the old version, and gets none before the barrier is lowered. */
void fusefs_barrier_raise(struct fusefs *fs, struct fusefs_barrier *b);
/* After it, raised or not; frees. False: pages may be old all the same, and are to be invalidated now. */
bool fusefs_barrier_lower(struct fusefs *fs, struct fusefs_barrier *b);
/* A READ: true when it is kept, and will be answered. */
bool fusefs_hold_read(struct fusefs *fs, fuse_req_t req, struct fusefs_handle *h, size_t size, off_t off, int flags);
/* A WRITE is parked, and may hold a page. Call when fusefs_parked_writes finds it. */
void fusefs_hold_write_parked(struct fusefs *fs, const struct fusefs_node *n, off_t off, size_t size);
void fusefs_read_now(fuse_req_t req, struct fusefs_handle *h, size_t size, off_t off);
int fusefs_holding_start(struct fusefs *fs);
void fusefs_holding_stop(struct fusefs *fs);

/* ---- init_patch.c ---- */

/* What libfuse does not pass on of the request that this thread is handling. */
struct fusefs_raw {
	bool kill_suidgid;
	const void *bytes; /* the whole request, as it came */
	size_t len;
};
extern _Thread_local struct fusefs_raw fusefs_raw;
int fusefs_io_hook(struct fusefs *fs);
/* While INIT is answered: will requests tell when suid and sgid must go? */
bool fusefs_io_kills_priv(const struct fusefs *fs);
/* Must this change clear suid and sgid? */
bool fusefs_kill_priv(struct fusefs *fs, fuse_req_t req);
#define FUSEFS_TMPFILE "/" /* the name by which a CREATE without a name arrives */

/* ---- park.c: requests that wait for someone else's transaction ---- */

#define FUSEFS_AT_ONCE 1u /* no waiting for transactions: -EBUSY */
#define FUSEFS_RERUN 2u   /* run it again when its time is over as well (fusefs_waited_in_vain) */
#define FUSEFS_QUIET 4u   /* a refusal is not the caller's: no line for ctl */
#define FUSEFS_SECOND 8u  /* again.c's */
#define FUSEFS_INSTALL 16u /* it waits for an install, which ends by itself; park.c's and again.c's */

/* Right before the engine operation that may meet another transaction ... */
void fusefs_may_wait(void);
/*
 * ... and right after it, with its result. True: the request waits, and the handler runs again one day: clean up and return
 * without an answer. Else *r is what to answer. tx: whose request it is, NULL: a plain one. h: by which file, or NULL.
 */
bool fusefs_wait(struct fusefs *fs, fuse_req_t req, struct fusefs_tx *tx, const struct fusefs_handle *h, unsigned how,
                 int *r);
/* Is this request run again because its time is over? For whom it has waited (txn_id). */
bool fusefs_waited_in_vain(uint64_t *holder);
int fusefs_park_start(struct fusefs *fs);
void fusefs_park_stop(struct fusefs *fs); /* answers whatever waits; nothing waits any more */
void fusefs_park_free(struct fusefs *fs);
bool fusefs_stall_idle(struct fusefs *fs); /* it does not wait for the kernel */

/* ---- again.c: operations on names, and on directories' attributes, which hold their directory in the kernel ---- */

/*
 * In the place of may_wait and wait. begin: 0, or that it must be refused. end: as fusefs_wait; call it in any case. on: the
 * directory; name: in it, or "" for its own attributes.
 */
int fusefs_again_begin(struct fusefs *fs, fuse_req_t req, struct fusefs_node *on, const char *name);
bool fusefs_again_end(struct fusefs *fs, fuse_req_t req, struct fusefs_node *on, const char *name,
                      struct fusefs_tx *tx, int *r);
/* GETATTR of a directory: true when it is held back. */
bool fusefs_again_hold(struct fusefs *fs, fuse_req_t req, const struct fusefs_node *n);
/* Must the kernel ask for this directory's attributes? */
bool fusefs_again_waiting(struct fusefs *fs, const struct fusefs_node *dir);
/* Is this thread on its way to an operation of this transaction that was told to come again? */
bool fusefs_again_expected(struct fusefs *fs, fuse_req_t req, const struct fusefs_tx *tx);
/* The caller does something else than what it was told to come again with. */
void fusefs_again_other(struct fusefs *fs, fuse_req_t req);

/* ---- watchdog.c ---- */

/* From the thread whose end is the daemon's end, before anything is open that must not outlive it. */
void fusefs_watchdog_start(struct fusefs_watchdog *dog, const char *mountpoint);
void fusefs_watchdog_mounted(struct fusefs_watchdog *dog, const char *abort_path); /* may be NULL */
void fusefs_watchdog_stop(struct fusefs_watchdog *dog);

/* ---- control.c ---- */

void fusefs_control_attr(struct fusefs *fs, const struct fusefs_node *n, struct stat *attr);
void fusefs_control_lookup(struct fusefs *fs, fuse_req_t req, struct fusefs_node *p, const char *name);
/* The control directory itself, looked up in a view's root. */
int fusefs_control_entry(struct fusefs *fs, struct fusefs_node *root, struct fuse_entry_param *e,
                         struct fusefs_node **out);
void fusefs_control_mkdir(struct fusefs *fs, fuse_req_t req, struct fusefs_node *p, const char *name);
void fusefs_control_rmdir(struct fusefs *fs, fuse_req_t req, struct fusefs_node *p, const char *name);
void fusefs_control_open(struct fusefs *fs, fuse_req_t req, struct fusefs_node *n, struct fuse_file_info *fi);
void fusefs_control_read(struct fusefs *fs, fuse_req_t req, struct fusefs_handle *h, size_t size, off_t off);
void fusefs_control_write(struct fusefs *fs, fuse_req_t req, struct fusefs_handle *h, const char *text, size_t size);
void fusefs_control_setattr(struct fusefs *fs, fuse_req_t req, struct fusefs_node *n, unsigned to_set);
int fusefs_control_list(struct fusefs *fs, const struct fusefs_caller *who, struct fusefs_node *n,
                        struct fusefs_listing *l);
/* fn(arg) in a thread of its own, which the end of the mount waits for: 0 or -errno. */
int fusefs_apart(struct fusefs *fs, void (*fn)(void *arg), void *arg);
void fusefs_apart_wait(struct fusefs *fs);
static inline struct fusefs_caller fusefs_caller(fuse_req_t req)
{
	const struct fuse_ctx *c = fuse_req_ctx(req);

	return (struct fusefs_caller){.pid = c->pid, .uid = c->uid, .gid = c->gid};
}
static inline bool fusefs_is_view_root(const struct fusefs *fs, const struct fusefs_node *n)
{
	return n->kind == FUSEFS_OBJECT && n->obj == fs->root->obj;
}
static inline bool fusefs_is_control_name(const struct fusefs *fs, const struct fusefs_node *p, const char *name)
{
	return fusefs_is_view_root(fs, p) && !strcmp(name, fs->control);
}
/* A name that nothing can be given, moved or linked to. */
static inline bool fusefs_is_reserved(const struct fusefs *fs, const struct fusefs_node *p, const char *name)
{
	return fusefs_is_view_root(fs, p) && (!strcmp(name, fs->control) || !strcmp(name, STORE_STATE_DIR));
}

/* ---- ops_dir.c: listings ---- */

/* A directory as it was when reading it began: offsets are indices, so they stay good whatever happens to it. */
struct fusefs_dirent {
	uint64_t ino;
	size_t name; /* in names */
	mode_t kind;
};

struct fusefs_listing {
	struct fusefs_dirent *v;
	size_t n, cap;
	struct base_buf names;
};

int fusefs_listing_add(struct fusefs_listing *l, const char *name, uint64_t ino, mode_t kind);
void fusefs_listing_free(struct fusefs_listing *l);

/* ---- ops_file.c ---- */

int fusefs_handle_new(struct fusefs *fs, struct fusefs_node *n, struct fusefs_handle **out);
void fusefs_handle_free(struct fusefs *fs, struct fusefs_handle *h);
static inline struct fusefs_handle *fusefs_handle(const struct fuse_file_info *fi)
{
	return (struct fusefs_handle *)(uintptr_t)fi->fh;
}

/* ---- request handlers, by file ---- */

void fusefs_ops_name(struct fuse_lowlevel_ops *ops);
void fusefs_ops_file(struct fuse_lowlevel_ops *ops);
void fusefs_ops_attr(struct fuse_lowlevel_ops *ops);
void fusefs_ops_dir(struct fuse_lowlevel_ops *ops);

#endif
