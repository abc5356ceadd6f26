/*
 * extent.h - for one object's workspace: range -> where this version's image of it is.
 *
 * Ranges that are not in the map are at home (the backing file). Neighbours that continue each other are merged. A
 * balanced tree: every call is O(log n) per extent touched. Not thread safe: the owner's lock serialises.
 */
#ifndef TXNFS_EXTENT_H
#define TXNFS_EXTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum txn_where {
	TXN_AT_HOME = 0, /* in the backing file: never stored, only reported for gaps */
	TXN_IN_LOG = 1,  /* at log position pos */
	TXN_ZERO = 2,    /* zeros, wherever home says otherwise */
};

/* `stolen`: the new image is at home already and the before-image is in the log at pos. Reserved: never set yet, but
 * kept, merged and logged like the rest. */
struct txn_extent {
	uint64_t off, len;
	uint64_t pos; /* IN_LOG: log position of the first byte */
	enum txn_where where;
	bool stolen;
};

#define TXN_EXTENT_END UINT64_MAX /* the end of a range without end */

struct txn_extent_node;
struct txn_extents {
	struct txn_extent_node *root;
	struct txn_extent_node *spare; /* nodes put aside by reserve */
	size_t count, spares;
};

void txn_extents_init(struct txn_extents *x);
void txn_extents_free(struct txn_extents *x);

/* Put aside nodes for n calls of set, which then cannot fail. -ENOMEM. */
int txn_extents_reserve(struct txn_extents *x, size_t n);
/* Range [off, end) gets this image; TXN_AT_HOME forgets it. end may be TXN_EXTENT_END. Needs a prior reserve. */
void txn_extents_set(struct txn_extents *x, uint64_t off, uint64_t end, enum txn_where where, uint64_t pos);
/* The piece that begins at off, cut at end, gaps included (as TXN_AT_HOME). off < end. */
void txn_extents_get(const struct txn_extents *x, uint64_t off, uint64_t end, struct txn_extent *piece);
/* First stored extent that ends after off; false: none. */
bool txn_extents_next(const struct txn_extents *x, uint64_t off, struct txn_extent *e);
/* Number of stored extents that overlap [off, end). */
size_t txn_extents_count(const struct txn_extents *x, uint64_t off, uint64_t end);
/* Change every IN_LOG position (records have been carried forward). */
void txn_extents_relocate(struct txn_extents *x, uint64_t (*map)(void *arg, uint64_t pos), void *arg);

#endif
