/* rec.c - the table of record types, and what works on all of them. */
#include "txn/rec.h"

#include "txn/rec_impl.h"

#include <endian.h>
#include <string.h>

#define CODEC(type) .encode = txn_encode_##type, .decode = txn_decode_##type, .describe = txn_describe_##type
#define WORKSPACE(type) .apply = txn_ws_apply_##type, .undo = txn_ws_undo_##type

const struct txn_rec_ops txn_rec_table[TXN_REC_TYPES] = {
	[TXN_REC_BEGIN] = {.name = "BEGIN", CODEC(empty)},
	[TXN_REC_OBJECT] = {.name = "OBJECT", CODEC(object), WORKSPACE(object)},
	[TXN_REC_WRITE] = {.name = "WRITE", CODEC(write), WORKSPACE(write)},
	[TXN_REC_SIZE] = {.name = "SIZE", CODEC(size), WORKSPACE(size)},
	[TXN_REC_ATTR] = {.name = "ATTR", CODEC(attr), WORKSPACE(attr)},
	[TXN_REC_XATTR] = {.name = "XATTR", CODEC(xattr), WORKSPACE(xattr)},
	[TXN_REC_NAME] = {.name = "NAME", CODEC(name), WORKSPACE(name)},
	[TXN_REC_SAVEPOINT] = {.name = "SAVEPOINT", CODEC(savepoint)},
	[TXN_REC_CLR] = {.name = "CLR", CODEC(clr)},
	[TXN_REC_PREPARE] = {.name = "PREPARE", CODEC(prepare)},
	[TXN_REC_COMMIT] = {.name = "COMMIT", CODEC(commit)},
	[TXN_REC_ABORT] = {.name = "ABORT", CODEC(empty)},
	[TXN_REC_END] = {.name = "END", CODEC(empty)},
	[TXN_REC_CHECKPOINT] = {.name = "CHECKPOINT", CODEC(checkpoint)},
	[TXN_REC_BIND] = {.name = "BIND", CODEC(bind)},
};

static const struct txn_rec_ops *rec_ops(unsigned type)
{
	return type < TXN_REC_TYPES && txn_rec_table[type].name ? &txn_rec_table[type] : NULL;
}

const char *txn_rec_name(unsigned type)
{
	const struct txn_rec_ops *ops = rec_ops(type);

	return ops ? ops->name : "unknown";
}

static void iov_add(struct iovec iov[3], int *n, const void *p, size_t len)
{
	if (len)
		iov[(*n)++] = (struct iovec){.iov_base = (void *)p, .iov_len = len};
}

int txn_rec_encode(const struct txn_rec *rec, struct base_buf *head, struct iovec iov[3], int *iovcnt)
{
	const struct txn_rec_ops *ops = rec_ops(rec->type);

	if (!ops || head->n)
		return -EINVAL;
	ops->encode(rec, head);
	if (head->err)
		return head->err;
	*iovcnt = 0;
	iov_add(iov, iovcnt, head->p, head->n);
	if (rec->type == TXN_REC_WRITE) {
		const struct txn_rec_write *w = &rec->u.write;

		iov_add(iov, iovcnt, w->old_data, w->old_len);
		iov_add(iov, iovcnt, w->new_data, w->stolen ? 0 : w->len);
	}
	if (*iovcnt == 0)
		iov[(*iovcnt)++] = (struct iovec){.iov_base = NULL, .iov_len = 0};
	return 0;
}

void txn_rec_place(struct txn_rec *rec, uint64_t lsn)
{
	struct txn_rec_write *w = &rec->u.write;

	if (rec->type != TXN_REC_WRITE)
		return;
	w->old_pos = lsn + WAL_RECORD_HEADER + TXN_WRITE_HEAD;
	w->new_pos = w->old_pos + w->old_len;
}

int txn_rec_decode(const struct wal_rec *h, const void *payload, struct txn_rec *rec)
{
	const struct txn_rec_ops *ops = rec_ops(h->type);
	int rc;

	*rec = (struct txn_rec){.type = h->type};
	if (!ops)
		return -EUCLEAN;
	rc = ops->decode(payload, h->len, rec);
	if (rc)
		return rc;
	txn_rec_place(rec, h->lsn);
	return 0;
}

/* 0 stands for no record and stays. */
static void map_at(uint8_t *p, uint64_t (*map)(void *arg, uint64_t pos), void *arg)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	v = le64toh(v);
	if (v)
		v = map(arg, v);
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
}

int txn_rec_relocate(unsigned type, void *payload, size_t len, uint64_t (*map)(void *arg, uint64_t pos), void *arg)
{
	const struct txn_rec_ops *ops = rec_ops(type);
	struct txn_rec rec = {.type = type};
	uint8_t *p = payload;
	struct txn_extent e;
	int rc;

	if (!ops)
		return -EUCLEAN;
	rc = ops->decode(payload, len, &rec);
	if (rc)
		return rc;
	switch (rec.type) {
	case TXN_REC_SIZE:
		for (uint32_t i = 0; i < rec.u.size.extents; i++) {
			txn_rec_size_extent(&rec.u.size, i, &e);
			if (e.where == TXN_IN_LOG)
				map_at(p + TXN_SIZE_HEAD + (size_t)i * TXN_SIZE_EXTENT + TXN_SIZE_EXTENT_POS, map, arg);
		}
		break;
	case TXN_REC_CLR:
		map_at(p + TXN_CLR_UNDONE, map, arg);
		map_at(p + TXN_CLR_NEXT, map, arg);
		break;
	case TXN_REC_PREPARE:
		map_at(p + TXN_PREPARE_FIRST, map, arg);
		break;
	case TXN_REC_COMMIT:
		map_at(p + TXN_COMMIT_FIRST, map, arg);
		break;
	default:
		break;
	}
	return 0;
}
