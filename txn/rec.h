/*
 * rec.h - the log records of transactions: what each type says, its bytes, what it does and undoes.
 *
 * One table (txn_rec_table) lists the types; ids are append-only. The same decoded form serves live operations (built, encoded,
 * appended, applied), rollback (read back, undone), recovery (decoded, applied) and the tools (described). SPEC.md gives the bytes.
 *
 * Objects are named by number (oid). An OBJECT record in the same transaction, before the first use, says which object that is.
 * Strings and data in a decoded record point into the payload it was decoded from.
 */
#ifndef TXNFS_REC_H
#define TXNFS_REC_H

#include "base/base.h"
#include "txn/extent.h"
#include "txn/store.h"
#include "wal/wal.h"

#include <sys/uio.h>

enum txn_rec_type {
	TXN_REC_BEGIN = 1,
	TXN_REC_OBJECT = 2,
	TXN_REC_WRITE = 3,
	TXN_REC_SIZE = 4,
	TXN_REC_ATTR = 5,
	TXN_REC_XATTR = 6,
	TXN_REC_NAME = 7,
	TXN_REC_SAVEPOINT = 8,
	TXN_REC_CLR = 9,
	TXN_REC_PREPARE = 10,
	TXN_REC_COMMIT = 11,
	TXN_REC_ABORT = 12,
	TXN_REC_END = 13,
	TXN_REC_CHECKPOINT = 14,
	TXN_REC_BIND = 15,
	TXN_REC_TYPES
};

/* What a change of contents does to the object besides. */
struct txn_stamp {
	uint32_t mode;
	struct timespec mtime, ctime;
};

struct txn_rec_object {
	uint64_t oid, ino;
	bool created;        /* made by this transaction; its inode waits in the stage under its number */
	uint32_t mode;       /* kind, and for a created one its permission bits */
	uint32_t uid, gid;   /* created ones only, from here on */
	uint64_t rdev;
	struct store_id id;
	const char *hint;    /* path from the root, "" when not known; NUL-terminated in the payload */
	const char *target;  /* symbolic link's, "" otherwise */
};

struct txn_rec_write {
	uint64_t oid, off;
	uint64_t size_before, size_after;
	struct txn_stamp before, after;
	uint32_t len, old_len;  /* bytes of after- and before-image; the before-image starts at off too */
	bool stolen;            /* reserved: the after-image is home, not here */
	const void *old_data, *new_data; /* decoded: into the payload */
	uint64_t old_pos, new_pos;       /* decoded: their log positions */
};

/* A change of size, or a range that becomes zeros (truncate, punch hole, zero range). */
struct txn_rec_size {
	uint64_t oid;
	uint64_t size_before, size_after;
	uint64_t zero_off, zero_end; /* becomes zeros; empty when equal; end may be TXN_EXTENT_END */
	struct txn_stamp before, after;
	/* Where the before-images of the zeroed range were in this transaction's workspace; gaps: at home. */
	uint32_t extents;
	const void *extent_data; /* encoded form: txn_rec_size_extent() */
	const struct txn_extent *list; /* to encode */
};

struct txn_attrs {
	uint32_t mode, uid, gid;
	struct timespec atime, mtime, ctime;
};

struct txn_rec_attr {
	uint64_t oid;
	uint32_t mask; /* STORE_SET_*: which of the values are meant (ctime always) */
	struct txn_attrs before, after;
};

#define TXN_GID_MAX 200u /* bytes */
#define TXN_XATTR_ABSENT UINT32_MAX
struct txn_rec_xattr {
	uint64_t oid;
	struct timespec ctime_before, ctime_after;
	const char *name;
	uint32_t old_len, new_len; /* TXN_XATTR_ABSENT: not there */
	const void *old_value, *new_value;
};

/* One or two entries change in one step (rename: two). 0: no object. */
struct txn_rec_name_op {
	uint64_t dir, before, after;
	const char *name;
	struct timespec dir_time; /* when this transaction last changed a name in the directory before; 0: it did not */
};
struct txn_rec_name {
	struct timespec time;
	uint32_t count; /* 1..2 */
	struct txn_rec_name_op op[2];
};

struct txn_rec_savepoint {
	const char *name;
};
/* All records of the transaction with next < LSN <= undone are undone, newest first. */
struct txn_rec_clr {
	uint64_t undone, next;
};
/*
 * The transaction's outcome is up to who knows its gid. The last record of its chain but for COMMIT or ABORT: a copy carried
 * forward counts from its PREPARE on. need: space that installing it may take.
 */
struct txn_rec_prepare {
	uint64_t first; /* as in COMMIT */
	struct timespec time;
	uint64_t need;
	uint32_t uid;
	const char *gid;
};
/* first: LSN of the transaction's BEGIN that counts (copies carried forward leave older ones behind). */
struct txn_rec_commit {
	uint64_t first;
	struct timespec time;
};
/* clean: what committed below it is home and durable. scan: recovery starts to read here (<= clean when transactions were open). */
struct txn_rec_checkpoint {
	uint64_t clean, scan;
	uint64_t next_oid, next_txid;
	bool shutdown; /* written by an orderly close: nothing to recover when it is the last record */
};
/* Recovery made object oid anew: from now on it is this one. */
struct txn_rec_bind {
	uint64_t oid;
	struct store_id id;
};

struct txn_rec {
	enum txn_rec_type type;
	union {
		struct txn_rec_object object;
		struct txn_rec_write write;
		struct txn_rec_size size;
		struct txn_rec_attr attr;
		struct txn_rec_xattr xattr;
		struct txn_rec_name name;
		struct txn_rec_savepoint savepoint;
		struct txn_rec_clr clr;
		struct txn_rec_prepare prepare;
		struct txn_rec_commit commit;
		struct txn_rec_checkpoint checkpoint;
		struct txn_rec_bind bind;
	} u;
};

struct txn_ws; /* workspace: txn/private.h */

struct txn_rec_ops {
	const char *name;
	/* Fixed part and strings go to head; large data stays where it is (WRITE's images follow the head in the payload). */
	void (*encode)(const struct txn_rec *rec, struct base_buf *head);
	/* -EUCLEAN when the payload does not make sense: lengths, strings without end, ranges that wrap. */
	int (*decode)(const void *payload, size_t len, struct txn_rec *rec);
	void (*describe)(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json);
	/* Change a workspace as the record says, or back. NULL: nothing to do. (txn/ws.c) */
	int (*apply)(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
	int (*undo)(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
};
extern const struct txn_rec_ops txn_rec_table[TXN_REC_TYPES];

/* Build the payload: head must be empty and is the caller's to free; iov gets 1 to 3 pieces. */
int txn_rec_encode(const struct txn_rec *rec, struct base_buf *head, struct iovec iov[3], int *iovcnt);
/* h->lsn gives WRITE's positions. */
int txn_rec_decode(const struct wal_rec *h, const void *payload, struct txn_rec *rec);
void txn_rec_size_extent(const struct txn_rec_size *r, uint32_t i, struct txn_extent *e);
const char *txn_rec_name(unsigned type); /* "WRITE"; "unknown" */
/*
 * Rewrite the LSNs and log positions inside an encoded payload (SIZE's extents, CLR, PREPARE, COMMIT) for a copy of the record
 * at another place.
 */
int txn_rec_relocate(unsigned type, void *payload, size_t len, uint64_t (*map)(void *arg, uint64_t pos), void *arg);

/* Set WRITE's positions in a record that has been built, not decoded, and appended at lsn. Others: nothing to do. */
void txn_rec_place(struct txn_rec *rec, uint64_t lsn);

/* What the table's apply and undo call (txn/ws.c). */
int txn_ws_apply_object(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_apply_write(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_apply_size(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_apply_attr(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_apply_xattr(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_apply_name(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_undo_object(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_undo_write(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_undo_size(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_undo_attr(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_undo_xattr(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);
int txn_ws_undo_name(struct txn_ws *ws, const struct txn_rec *rec, uint64_t lsn);

#endif
