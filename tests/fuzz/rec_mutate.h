/*
 * rec_mutate.h - change one field of an encoded log record's payload, so that it mostly still decodes.
 *
 * Two sorts of values stand for what only the running target knows: an LSN with FUZZ_LSN in its upper bits is the place
 * of the log's record of that index, and an id of FUZZ_ID and one byte is the identity of that object of the tree
 * (tests/bad_bytes_kit.h). To everyone else they are numbers and bytes like others.
 */
#ifndef TXNFS_FUZZ_REC_MUTATE_H
#define TXNFS_FUZZ_REC_MUTATE_H

#include "tests/fuzz/fuzz.h"
#include "txn/rec.h"

#define FUZZ_LSN 0x5eedull /* bits 48 to 63; bits 16 to 47: bytes to add; bits 0 to 15: the record */
#define FUZZ_LSN_OF(index) (FUZZ_LSN << 48 | (index))
#define FUZZ_ID '@'

static uint64_t mut_oid(struct fuzz_rng *rng)
{
	switch (fuzz_rnd(rng, 8)) {
	case 0:
		return fuzz_rnd(rng, 2) ? 0 : UINT64_MAX - fuzz_rnd(rng, 2);
	case 1:
	case 2:
		return 0x64 + fuzz_rnd(rng, 5);
	default:
		return 1 + fuzz_rnd(rng, 16);
	}
}

static uint64_t mut_lsn(struct fuzz_rng *rng)
{
	static const uint64_t odd[] = {0, 1, 8, 64, 65536, 65600, INT64_MAX, UINT64_MAX, UINT64_MAX - 7};

	if (fuzz_rnd(rng, 3) == 0)
		return odd[fuzz_rnd(rng, ARRAY_LEN(odd))];
	return FUZZ_LSN_OF(fuzz_rnd(rng, 24)) + (fuzz_rnd(rng, 6) ? 0 : fuzz_rnd(rng, 300) << 16);
}

static uint64_t mut_size(struct fuzz_rng *rng)
{
	static const uint64_t odd[] = {0,          1,          511,           512,       4095,
	                               4096,       4097,       65536,         1u << 20,  UINT32_MAX,
	                               1ull << 40, 1ull << 62, INT64_MAX - 1, INT64_MAX, INT64_MAX - 4095};

	return fuzz_rnd(rng, 3) ? fuzz_rnd(rng, 300) : odd[fuzz_rnd(rng, ARRAY_LEN(odd))];
}

static struct timespec mut_time(struct fuzz_rng *rng)
{
	static const time_t odd[] = {0, -1, 1, 1700000000, INT32_MAX, UINT32_MAX, INT64_MAX, INT64_MIN, 253402300800};

	return (struct timespec){odd[fuzz_rnd(rng, ARRAY_LEN(odd))], fuzz_rnd(rng, 2) ? 0 : 999999999};
}

static uint32_t mut_mode(struct fuzz_rng *rng)
{
	static const uint32_t kinds[] = {S_IFREG, S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, 0};

	return kinds[fuzz_rnd(rng, ARRAY_LEN(kinds))] | (uint32_t)fuzz_rnd(rng, 010000);
}

static uint32_t mut_owner(struct fuzz_rng *rng)
{
	static const uint32_t odd[] = {0, 1, 1000, 65534, UINT32_MAX - 1, UINT32_MAX};

	return odd[fuzz_rnd(rng, ARRAY_LEN(odd))];
}

/* Names of the tree, names that mean something to a path, long ones. */
static const char *mut_name(struct fuzz_rng *rng, char space[300])
{
	static const char *const odd[] = {
		"a",      "b",        "a2",         "d",   "e",          "f",    "s",     "out",
		"outf",   "p",        "new",        "n2",  ".txnfs",     ".txn", "..",    ".",
		"",       "/",        "../outside", "d/f", "out/victim", "wal",  "stage", "0000000000000064",
		"lost-1", "\xff\xc3", "\n",         "...",
	};
	static const uint16_t lengths[] = {254, 255, 256, 200};
	const char *s = odd[fuzz_rnd(rng, ARRAY_LEN(odd))];

	if (fuzz_rnd(rng, 12)) {
		snprintf(space, 300, "%s", s);
	} else {
		size_t n = lengths[fuzz_rnd(rng, ARRAY_LEN(lengths))];

		memset(space, 'x', n);
		space[n] = 0;
	}
	return space;
}

static const char *mut_path(struct fuzz_rng *rng, char space[300])
{
	static const char *const odd[] = {
		"",
		"a",
		"d/f",
		"d/s",
		"out",
		"out/victim",
		"out/dir",
		"outf",
		"../outside/victim",
		"d/../../outside/victim",
		"/etc",
		".txnfs",
		".txnfs/wal",
		".txnfs/format",
		"d//f",
		"./a",
		"d/",
		"a/b",
		"p",
		"e/new",
	};

	snprintf(space, 300, "%s", odd[fuzz_rnd(rng, ARRAY_LEN(odd))]);
	return space;
}

static const char *mut_xattr(struct fuzz_rng *rng)
{
	static const char *const odd[] = {
		"user.x",
		"user.tag",
		"user.",
		"user",
		"trusted.x",
		"security.x",
		"system.posix_acl_access",
		"system.posix_acl_default",
		"security.capability",
		"x",
		"\xff",
	};

	return odd[fuzz_rnd(rng, ARRAY_LEN(odd))];
}

static void mut_id(struct fuzz_rng *rng, struct store_id *id)
{
	if (fuzz_rnd(rng, 6)) {
		id->len = 2;
		id->bytes[0] = FUZZ_ID;
		id->bytes[1] = (uint8_t)fuzz_rnd(rng, 24);
	} else {
		id->len = (uint16_t)fuzz_rnd(rng, STORE_ID_MAX + 1);
		for (unsigned i = 0; i < id->len; i++)
			id->bytes[i] = (uint8_t)fuzz_rnd(rng, i ? 256 : 3);
	}
}

static void mut_stamp(struct fuzz_rng *rng, struct txn_stamp *s)
{
	*s = (struct txn_stamp){mut_mode(rng), mut_time(rng), mut_time(rng)};
}

static void mut_object(struct fuzz_rng *rng, struct txn_rec_object *o, char space[300])
{
	switch (fuzz_rnd(rng, 8)) {
	case 0:
		o->oid = mut_oid(rng);
		break;
	case 1:
		o->created = !o->created;
		break;
	case 2:
		o->mode = mut_mode(rng);
		break;
	case 3:
		o->uid = mut_owner(rng);
		o->gid = mut_owner(rng);
		break;
	case 4:
		o->rdev = fuzz_rnd(rng, 2) ? 0x103 : UINT64_MAX;
		break;
	case 5:
		o->hint = mut_path(rng, space);
		break;
	case 6:
		o->target = mut_path(rng, space);
		break;
	default:
		mut_id(rng, &o->id);
		break;
	}
}

static const uint8_t mut_data[512] = {"some bytes for a file"};

static void mut_write(struct fuzz_rng *rng, struct txn_rec_write *w)
{
	switch (fuzz_rnd(rng, 7)) {
	case 0:
		w->oid = mut_oid(rng);
		break;
	case 1: {
		uint64_t reach = w->size_after - w->off;

		w->off = mut_size(rng);
		w->size_after = base_min_u64(w->off + reach, INT64_MAX);
		break;
	}
	case 2:
		w->size_after = base_max_u64(w->off + w->len, mut_size(rng));
		break;
	case 3:
		w->size_before = mut_size(rng);
		break;
	case 4:
		w->len = (uint32_t)fuzz_rnd(rng, sizeof(mut_data));
		w->new_data = mut_data;
		w->old_len = 0;
		w->size_after = base_max_u64(w->off + w->len, w->size_after);
		break;
	case 5:
		w->stolen = !w->stolen;
		w->new_data = mut_data;
		w->len = (uint32_t)base_min_u64(w->len, sizeof(mut_data));
		w->old_len = (uint32_t)base_min_u64(w->len, w->old_len);
		break;
	default:
		mut_stamp(rng, fuzz_rnd(rng, 2) ? &w->before : &w->after);
		break;
	}
}

static void mut_zero_range(struct fuzz_rng *rng, struct txn_rec_size *s, struct txn_extent list[4])
{
	uint64_t at;

	s->zero_off = at = mut_size(rng);
	s->extent_data = NULL;
	s->list = list;
	s->extents = (uint32_t)fuzz_rnd(rng, 4);
	for (uint32_t i = 0; i < s->extents; i++) {
		list[i] = (struct txn_extent){.off = at + fuzz_rnd(rng, 3), .len = 1 + fuzz_rnd(rng, 100)};
		list[i].where = fuzz_rnd(rng, 2) ? TXN_IN_LOG : TXN_ZERO;
		list[i].pos = list[i].where == TXN_IN_LOG ? mut_lsn(rng) : 0;
		list[i].stolen = fuzz_rnd(rng, 4) == 0;
		at = list[i].off + list[i].len;
	}
	s->zero_end = fuzz_rnd(rng, 3) ? at + fuzz_rnd(rng, 9000) : TXN_EXTENT_END;
}

static void mut_size_rec(struct fuzz_rng *rng, struct txn_rec_size *s, struct txn_extent list[4])
{
	switch (fuzz_rnd(rng, 5)) {
	case 0:
		s->oid = mut_oid(rng);
		break;
	case 1:
		s->size_before = mut_size(rng);
		break;
	case 2:
		s->size_after = mut_size(rng);
		break;
	case 3:
		mut_stamp(rng, fuzz_rnd(rng, 2) ? &s->before : &s->after);
		break;
	default:
		mut_zero_range(rng, s, list);
		break;
	}
}

static void mut_attr(struct fuzz_rng *rng, struct txn_rec_attr *a)
{
	struct txn_attrs *v = fuzz_rnd(rng, 4) ? &a->after : &a->before;

	switch (fuzz_rnd(rng, 5)) {
	case 0:
		a->oid = mut_oid(rng);
		break;
	case 1:
		a->mask = (uint32_t)fuzz_rnd(rng, 0x80);
		break;
	case 2:
		v->mode = mut_mode(rng);
		break;
	case 3:
		v->uid = mut_owner(rng);
		v->gid = mut_owner(rng);
		break;
	default:
		v->atime = mut_time(rng);
		v->mtime = mut_time(rng);
		v->ctime = mut_time(rng);
		break;
	}
}

static void mut_xattr_rec(struct fuzz_rng *rng, struct txn_rec_xattr *x)
{
	switch (fuzz_rnd(rng, 4)) {
	case 0:
		x->oid = mut_oid(rng);
		break;
	case 1:
		x->name = mut_xattr(rng);
		break;
	case 2:
		x->new_len = fuzz_rnd(rng, 3) ? (uint32_t)fuzz_rnd(rng, 40) : TXN_XATTR_ABSENT;
		x->new_value = mut_data;
		break;
	default:
		x->old_len = fuzz_rnd(rng, 3) ? (uint32_t)fuzz_rnd(rng, 40) : TXN_XATTR_ABSENT;
		x->old_value = mut_data;
		break;
	}
}

static void mut_names(struct fuzz_rng *rng, struct txn_rec_name *n, char space[300])
{
	struct txn_rec_name_op *op = &n->op[fuzz_rnd(rng, n->count)];

	switch (fuzz_rnd(rng, 6)) {
	case 0:
		op->dir = mut_oid(rng);
		break;
	case 1:
		op->before = fuzz_rnd(rng, 3) ? mut_oid(rng) : 0;
		break;
	case 2:
		op->after = fuzz_rnd(rng, 3) ? mut_oid(rng) : 0;
		break;
	case 3:
		op->name = mut_name(rng, space);
		break;
	case 4:
		n->time = mut_time(rng);
		op->dir_time = mut_time(rng);
		break;
	default:
		n->op[1] = n->op[0];
		n->count = 3 - n->count;
		break;
	}
}

static void mut_field(struct fuzz_rng *rng, struct txn_rec *rec, char space[300], struct txn_extent list[4])
{
	switch (rec->type) {
	case TXN_REC_OBJECT:
		mut_object(rng, &rec->u.object, space);
		break;
	case TXN_REC_WRITE:
		mut_write(rng, &rec->u.write);
		break;
	case TXN_REC_SIZE:
		mut_size_rec(rng, &rec->u.size, list);
		break;
	case TXN_REC_ATTR:
		mut_attr(rng, &rec->u.attr);
		break;
	case TXN_REC_XATTR:
		mut_xattr_rec(rng, &rec->u.xattr);
		break;
	case TXN_REC_NAME:
		mut_names(rng, &rec->u.name, space);
		break;
	case TXN_REC_SAVEPOINT:
		rec->u.savepoint.name = mut_name(rng, space);
		break;
	case TXN_REC_PREPARE:
		if (fuzz_rnd(rng, 3) == 0)
			rec->u.prepare.first = mut_lsn(rng);
		else if (fuzz_rnd(rng, 2))
			rec->u.prepare.need = fuzz_rnd(rng, UINT64_MAX);
		else
			rec->u.prepare.gid = mut_name(rng, space);
		break;
	case TXN_REC_CLR:
		*(fuzz_rnd(rng, 2) ? &rec->u.clr.undone : &rec->u.clr.next) = mut_lsn(rng);
		break;
	case TXN_REC_COMMIT:
		rec->u.commit.first = mut_lsn(rng);
		break;
	case TXN_REC_CHECKPOINT:
		switch (fuzz_rnd(rng, 5)) {
		case 0:
			rec->u.checkpoint.clean = mut_lsn(rng);
			break;
		case 1:
			rec->u.checkpoint.scan = mut_lsn(rng);
			break;
		case 2:
			rec->u.checkpoint.next_oid = mut_oid(rng);
			break;
		case 3:
			rec->u.checkpoint.next_txid = mut_oid(rng);
			break;
		default:
			rec->u.checkpoint.shutdown = !rec->u.checkpoint.shutdown;
			break;
		}
		break;
	case TXN_REC_BIND:
		rec->u.bind.oid = mut_oid(rng);
		mut_id(rng, &rec->u.bind.id);
		break;
	default:
		break;
	}
}

/* The payload of a record, in one piece in out: its size, 0 and *ok false when the encoder refuses it or it is too
 * large. */
static size_t fuzz_encode(const struct txn_rec *rec, uint8_t *out, size_t max, bool *ok)
{
	struct base_buf head = {0};
	struct iovec iov[3];
	size_t size = 0;
	int n = 0;

	*ok = txn_rec_encode(rec, &head, iov, &n) == 0;
	for (int i = 0; *ok && i < n; i++) {
		*ok = iov[i].iov_len <= max - size;
		if (*ok && iov[i].iov_len)
			memcpy(out + size, iov[i].iov_base, iov[i].iov_len);
		size += *ok ? iov[i].iov_len : 0;
	}
	base_buf_free(&head);
	return *ok ? size : 0;
}

/* In place; what cannot be decoded, or not be encoded any more, is changed as bytes. */
static size_t fuzz_rec_mutate(struct fuzz_rng *rng, unsigned type, uint8_t *payload, size_t size, size_t max)
{
	CLEANUP_FREE uint8_t *copy = fuzz_copy(payload, size);
	struct wal_rec h = {.type = (uint8_t)type, .len = (uint32_t)size};
	struct txn_extent list[4];
	struct txn_rec rec;
	char space[300];
	size_t n;
	bool ok;

	if (fuzz_rnd(rng, 8) && txn_rec_decode(&h, copy, &rec) == 0) {
		mut_field(rng, &rec, space, list);
		n = fuzz_encode(&rec, payload, max, &ok);
		if (ok)
			return n;
	}
	return fuzz_bytes(rng, payload, size, max);
}

#endif
