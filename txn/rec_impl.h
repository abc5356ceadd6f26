/* rec_impl.h - what txn/rec.c's table is made of: one encoder, decoder and describer per record type. Not for others.
 */
#ifndef TXNFS_REC_IMPL_H
#define TXNFS_REC_IMPL_H

#include "txn/rec.h"

/* Fixed sizes and places inside payloads (SPEC.md, "Record payloads"). */
#define TXN_WRITE_HEAD 100u     /* WRITE's images follow it */
#define TXN_SIZE_HEAD 100u      /* SIZE's extents follow it */
#define TXN_SIZE_EXTENT 32u     /* one of them */
#define TXN_SIZE_EXTENT_POS 16u /* its log position */
#define TXN_CLR_UNDONE 0u
#define TXN_CLR_NEXT 8u
#define TXN_PREPARE_FIRST 0u
#define TXN_COMMIT_FIRST 0u

#define TXN_REC_EACH(X)                                                                                                \
	X(empty)                                                                                                       \
	X(object) X(write) X(size) X(attr) X(xattr) X(name) X(savepoint) X(clr) X(prepare) X(commit) X(checkpoint)     \
		X(bind)

#define TXN_REC_DECLARE(type)                                                                                          \
	void txn_encode_##type(const struct txn_rec *rec, struct base_buf *head);                                      \
	int txn_decode_##type(const void *payload, size_t len, struct txn_rec *rec);                                   \
	void txn_describe_##type(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json);
TXN_REC_EACH(TXN_REC_DECLARE)

#endif
