/*
 * isolation.h - the levels above read committed: what the rest of the engine tells isolation.c, readset.c and history*.c, and
 * what these tell each other. Included by private.h, at its end; not for use on its own.
 */
#ifndef TXNFS_TXN_ISOLATION_H
#define TXNFS_TXN_ISOLATION_H

/* isolation.c */
static inline bool txn_strict(struct txn_engine *eng)
{
	return atomic_load_explicit(&eng->strict, memory_order_relaxed);
}
/* Around a plain change at home: whoever begins a strict transaction sees all of it or is seen by it. */
static inline void txn_plain_begin(struct txn_engine *eng)
{
	pthread_rwlock_rdlock(&eng->strict_gate);
}
static inline void txn_plain_end(struct txn_engine *eng)
{
	pthread_rwlock_unlock(&eng->strict_gate);
}
/*
 * A plain change is about to come [strict_gate]. Of contents in [off, end), of attributes or xattrs, of the number of
 * links (last: it loses its only name), of a name that leads to `there` (may be NULL). file: open at home, or NULL.
 */
void txn_before_data(struct txn_obj *obj, struct store_file *file, uint64_t off, uint64_t end); /* [obj->lock exclusive] */
void txn_before_attr(struct txn_obj *obj);  /* [obj->lock exclusive; a directory: ns too] */
void txn_before_links(struct txn_obj *obj, bool lose); /* [ns exclusive; takes obj->lock] */
void txn_before_name(struct txn_obj *dir, const char *name, struct txn_obj *there); /* [ns exclusive] */
/* The flip, under ns exclusive: before the state changes, and after. */
void txn_isolation_flip(struct txn *t);
void txn_isolation_flipped(struct txn *t);
/* May it commit? Then it is `committing`. -ECANCELED: it must be rolled back. [txn->lock; takes ns] */
int txn_certify(struct txn *t);
void txn_uncertify(struct txn *t); /* the commit failed before the append */
/* Its reads are over. [no locks but txn->lock] */
void txn_isolation_end(struct txn *t);
void txn_isolation_free(struct txn *t);
/* The first reason for an -ECANCELED stays. name: of an entry of obj, or NULL. what: a literal: "has been changed". */
void txn_explain(struct txn *t, struct txn_obj *obj, const char *name, const char *what);
int txn_doom(struct txn *t, struct txn_obj *obj, const char *name); /* -ECANCELED; it cannot commit any more */

/* readset.c: what a serializable transaction has read. Own versions and others' views are passed over. -ENOMEM. */
int txn_readset_new(struct txn_readset **out);
void txn_readset_clear(struct txn_readset *rs);
void txn_readset_free(struct txn_readset *rs);
/* It is not the transaction's any more, but may be in use: into the list of those that go with the transaction. */
void txn_readset_retire(struct txn_readset *rs, struct txn_readset **list);
void txn_readsets_free(struct txn_readset *list);
int txn_note_data(struct txn *view, struct txn_obj *obj);  /* [obj->lock] */
int txn_note_attr(struct txn *view, struct txn_obj *obj);  /* [obj->lock] */
int txn_note_name(struct txn *view, struct txn_obj *dir, const char *name, struct txn_obj *obj); /* [ns] */
int txn_note_list(struct txn *view, struct txn_obj *dir);  /* [ns] */
int txn_readset_check(struct txn *t);                      /* [ns shared, certify] */

/* history.c: what snapshots need */
void txn_history_init(struct txn_engine *eng);
void txn_history_free(struct txn_engine *eng);
int txn_snapshot_new(struct txn *t, struct txn_snapshot **out);
void txn_snapshot_start(struct txn_engine *eng, struct txn_snapshot *s); /* [strict_gate and ns exclusive] */
void txn_snapshot_close(struct txn_engine *eng, struct txn_snapshot *s); /* nothing is kept for it from now on */
void txn_snapshot_end(struct txn_engine *eng, struct txn_snapshot *s);   /* and what was kept goes; frees */
static inline bool txn_history_wanted(struct txn_engine *eng)
{
	return atomic_load_explicit(&eng->history.active, memory_order_relaxed);
}
/* Keep the object as it is for the snapshots up to `bound`. attr: NULL: home's. [obj->lock exclusive] */
struct txn_hist *txn_keep_obj(struct txn_obj *obj, uint64_t bound, const struct stat *attr, bool own);
void txn_keep_data(struct txn_obj *obj, struct txn_hist *h, struct store_file *file, uint64_t off, uint64_t end);
void txn_keep_contents(struct txn_obj *obj, struct txn_hist *h); /* it loses its last name */
void txn_keep_dir(struct txn_obj *dir, uint64_t bound, bool own); /* [ns; takes dir->lock] */
void txn_keep_name(struct txn_obj *dir, const char *name, uint64_t bound, struct txn_obj *there); /* [ns exclusive] */
/* Installs change times: those who see a version before go on seeing its. Directories when a snapshot begins ... */
int txn_keep_pending(struct txn_engine *eng);                        /* [ns exclusive] */
void txn_keep_seen(struct txn_wsobj *w);                             /* ... files when detached [obj->lock exclusive] */
void txn_keep_installed(struct txn *t);                              /* before the install changes home */
void txn_keep_names_of(struct txn_ws *ws);                           /* [ns exclusive] before they are detached */
void txn_history_lose(struct txn_engine *eng, uint64_t bound, int r); /* snapshots up to bound cannot be served */
uint64_t txn_history_newest(struct txn_history *hy, uint64_t bound);  /* number of the newest active up to bound, or 0 */
/* history_data.c */
void txn_spill_put(struct txn_engine *eng, uint64_t pos, uint64_t n); /* the bytes are not needed any more */
void txn_spill_close(struct txn_engine *eng);                         /* [history.lock] nothing is */
void txn_keep_put(struct txn_keep *k);

/* history_read.c: what a snapshot's view sees where something has changed since. [obj->lock] */
struct txn_hist *txn_hist_first(const struct txn *view, const struct txn_obj *obj); /* NULL: nothing has changed */
bool txn_hist_changed(const struct txn *view, const struct txn_obj *obj);           /* the object itself */
struct txn_hist *txn_hist_xattrs(const struct txn *view, const struct txn_obj *obj);
void txn_hist_piece(const struct txn_hist *h, uint64_t off, uint64_t end, struct txn_extent *piece);
/* w: the version below, or NULL */
ssize_t txn_hist_read(struct txn_hist *h, struct txn_wsobj *w, struct store_file *home, void *buf, size_t n, uint64_t off);
struct txn_keep *txn_hist_keep(const struct txn *view, struct txn_obj *obj); /* new reference; takes obj->lock */
int txn_hist_readlink(struct txn_obj *obj, char *buf, size_t size);          /* takes obj->lock; -ENOENT */
/* -ECANCELED: the view's snapshot could not be kept. Under the lock under which it is read. */
int txn_snap_check(const struct txn *view);

/* history_name.c [ns] */
bool txn_hist_name(const struct txn *view, const struct txn_obj *dir, const char *name, struct txn_obj **there); /* borrowed */
bool txn_hist_names_changed(const struct txn *view, const struct txn_obj *dir);
int txn_hist_each_name(const struct txn *view, struct txn_obj *dir,
                       int (*fn)(void *arg, const char *name, struct txn_obj *there), void *arg);
int txn_hist_path(struct txn_engine *eng, struct txn_obj *obj, char **path); /* where some snapshot has it; -ENOENT */
void txn_hist_names_end(struct txn_engine *eng, struct txn_snapshot *s, struct txn_snapshot *older); /* takes ns */

#endif
