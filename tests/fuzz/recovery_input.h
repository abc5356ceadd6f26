/*
 * recovery_input.h - inputs of the fuzz target "recovery": a log as a list of records, and how they are changed.
 *
 * Input: a byte of options, then records: type, flags, transaction, previous record, length, payload. The log is
 * written with right checksums, positions and segment headers, so that what the records say gets past the reader.
 * Symbolic values (rec_mutate.h) in payloads become the LSNs and identities that they stand for.
 */
#ifndef TXNFS_FUZZ_RECOVERY_INPUT_H
#define TXNFS_FUZZ_RECOVERY_INPUT_H

#include "tests/bad_bytes_kit.h"
#include "tests/fuzz/seed_records.h"
#include "txn/rec_impl.h"
#include "wal/private.h"

#define RCV_SEG WAL_SEGMENT_MIN
#define RCV_ITEMS_MAX 80
#define RCV_SEGMENTS_MAX 8

/* Options */
#define RCV_REAL 0x01u  /* on the real disk */
#define RCV_SPARE 0x02u /* a spare segment lies behind the log */

/* Flags of an item */
#define RCV_CARRIED 0x01u
#define RCV_LIFE 0x02u   /* a new life of the log begins with it */
#define RCV_UNSURE 0x04u /* it does not vouch for what is before it */
#define RCV_BROKEN 0x08u /* its checksum is wrong */
#define RCV_HUGE 0x10u   /* its transaction counts from the largest number */
#define RCV_FLAG 0x20u   /* an unknown flag in its header */

#define RCV_PREV_OWN 0  /* the transaction's record before it */
#define RCV_PREV_NONE 1 /* 2 and above: the record of index prev - 2 */

struct rcv_item {
	uint8_t type, flags, txid, prev;
	uint16_t len;
	const uint8_t *p;
	/* of the written log */
	struct base_buf payload;
	uint64_t lsn, number, salt;
};

struct rcv_input {
	uint8_t options;
	struct rcv_item items[RCV_ITEMS_MAX];
	unsigned n;
};

/* ---- the input's form ---- */

static void rcv_parse(const uint8_t *data, size_t size, struct rcv_input *input)
{
	struct fuzz_in in = {data, data + size};

	*input = (struct rcv_input){.options = (uint8_t)fuzz_get(&in, 1)};
	while (in.p < in.end && input->n < RCV_ITEMS_MAX) {
		struct rcv_item *it = &input->items[input->n++];
		size_t len;

		it->type = (uint8_t)fuzz_get(&in, 1);
		it->flags = (uint8_t)fuzz_get(&in, 1);
		it->txid = (uint8_t)fuzz_get(&in, 1);
		it->prev = (uint8_t)fuzz_get(&in, 1);
		it->len = (uint16_t)fuzz_get(&in, 2);
		it->p = fuzz_get_bytes(&in, base_min_u64(it->len, WAL_MAX_PAYLOAD(RCV_SEG)), &len);
		it->len = (uint16_t)len;
	}
}

static void rcv_put(struct base_buf *b, const struct rcv_item *it)
{
	fuzz_put(b, it->type, 1);
	fuzz_put(b, it->flags, 1);
	fuzz_put(b, it->txid, 1);
	fuzz_put(b, it->prev, 1);
	fuzz_put(b, it->len, 2);
	base_buf_put(b, it->p, it->len);
}

/* ---- the log ---- */

static void rcv_symbolic_id(struct store_id *id, const struct store_id ids[BB_OBJECTS])
{
	if (id->len == 2 && id->bytes[0] == FUZZ_ID && id->bytes[1] < BB_OBJECTS)
		*id = ids[id->bytes[1]];
}

/* The payload with identities in it. */
static void rcv_payload(struct rcv_item *it, const struct store_id ids[BB_OBJECTS])
{
	struct wal_rec h = {.type = it->type, .len = it->len};
	struct base_buf head = {0};
	struct iovec iov[3];
	struct txn_rec rec;
	int n;

	if ((it->type != TXN_REC_OBJECT && it->type != TXN_REC_BIND) || txn_rec_decode(&h, it->p, &rec)) {
		base_buf_put(&it->payload, it->p, it->len);
		return;
	}
	rcv_symbolic_id(it->type == TXN_REC_BIND ? &rec.u.bind.id : &rec.u.object.id, ids);
	if (txn_rec_encode(&rec, &head, iov, &n) || n != 1)
		fuzz_fail("what was decoded does not encode");
	it->payload = head;
}

/* Where it goes; false: the log gets too long. */
static bool rcv_place(struct rcv_item *it, uint64_t *pos, uint64_t *number, bool first)
{
	uint64_t end = (*number + 1) * RCV_SEG;

	if (((it->flags & RCV_LIFE) && !first) || wal_record_size(it->payload.n) > end - *pos) {
		*pos = ++*number * RCV_SEG + WAL_SEGMENT_HEADER;
		if (*number > RCV_SEGMENTS_MAX)
			return false;
	}
	it->lsn = *pos;
	it->number = *number;
	*pos += wal_record_size(it->payload.n);
	return true;
}

static void rcv_symbolic_lsn(const struct rcv_input *input, uint64_t end, struct base_buf *b, size_t at)
{
	uint64_t v, index;

	if (at + 8 > b->n)
		return;
	memcpy(&v, b->p + at, 8);
	index = v & 0xffff;
	if (v >> 48 != FUZZ_LSN || (index >= input->n && index != 0xffff))
		return;
	v = (index == 0xffff ? end : input->items[index].lsn) + (v >> 16 & 0xffffffff);
	memcpy(b->p + at, &v, 8);
}

static void rcv_positions(const struct rcv_input *input, uint64_t end, struct rcv_item *it)
{
	switch (it->type) {
	case TXN_REC_SIZE:
		for (size_t at = TXN_SIZE_HEAD; at + TXN_SIZE_EXTENT <= it->payload.n; at += TXN_SIZE_EXTENT)
			rcv_symbolic_lsn(input, end, &it->payload, at + TXN_SIZE_EXTENT_POS);
		break;
	case TXN_REC_CLR:
	case TXN_REC_CHECKPOINT:
		rcv_symbolic_lsn(input, end, &it->payload, 0);
		rcv_symbolic_lsn(input, end, &it->payload, 8);
		break;
	case TXN_REC_COMMIT:
		rcv_symbolic_lsn(input, end, &it->payload, TXN_COMMIT_FIRST);
		break;
	default:
		break;
	}
}

static struct wal_rec rcv_header(const struct rcv_input *input, const struct rcv_item *it)
{
	struct wal_rec h = {
		.lsn = it->lsn,
		.txid = it->flags & RCV_HUGE && it->txid ? UINT64_MAX - it->txid + 1 : it->txid,
		.durable = it->flags & RCV_UNSURE ? 0 : it->lsn,
		.len = (uint32_t)it->payload.n,
		.type = it->type ? it->type : 99, /* 0 is the log's own */
		.flags = (uint8_t)((it->flags & RCV_CARRIED ? WAL_CARRIED : 0) | (it->flags & RCV_FLAG ? 0x80 : 0)),
	};

	if (it->prev == RCV_PREV_OWN && h.txid) {
		for (const struct rcv_item *p = input->items; p < it; p++)
			if (p->txid == it->txid && ((p->flags ^ it->flags) & RCV_HUGE) == 0)
				h.prev = p->lsn;
	} else if (it->prev > RCV_PREV_NONE) {
		h.prev = it->prev - 2u < input->n ? input->items[it->prev - 2].lsn : it->prev * 8u;
	}
	return h;
}

static void rcv_write_segment(struct bb_disk *d, uint64_t number, uint64_t prev_end, uint8_t *bytes)
{
	struct wal_seghdr h = {
		.number = number, .salt = 0x1000 + number, .prev_end = prev_end, .segment_size = RCV_SEG};
	struct iovec iov = {bytes, RCV_SEG};
	char name[WAL_NAME_SIZE];
	int fd;

	wal_seghdr_encode(&h, bytes);
	wal_seg_name(number, name);
	fd = d->os->openat(d->os->ctx, d->wal, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FUZZ_CHECK(fd >= 0 && !os_pwritev_full(d->os, fd, &iov, 1, 0), "writing a segment");
	d->os->fdatasync(d->os->ctx, fd);
	d->os->close(d->os->ctx, fd);
	memset(bytes, 0, RCV_SEG);
}

/* Returns the highest number of a segment. */
static uint64_t rcv_write_log(struct bb_disk *d, struct rcv_input *input, const struct store_id ids[BB_OBJECTS])
{
	uint64_t pos = RCV_SEG + WAL_SEGMENT_HEADER, number = 1, prev_end = 0;
	CLEANUP_FREE uint8_t *bytes = calloc(1, RCV_SEG);

	if (!bytes)
		abort();
	for (unsigned i = 0; i < input->n; i++) {
		rcv_payload(&input->items[i], ids);
		if (input->items[i].payload.err)
			abort();
		if (rcv_place(&input->items[i], &pos, &number, i == 0))
			continue;
		number--;
		base_buf_free(&input->items[i].payload);
		input->n = i;
	}
	pos = number * RCV_SEG + WAL_SEGMENT_HEADER;
	if (input->n)
		pos = input->items[input->n - 1].lsn + wal_record_size(input->items[input->n - 1].payload.n);
	number = 1;
	for (unsigned i = 0; i < input->n; i++) {
		struct rcv_item *it = &input->items[i];
		struct wal_rec h;

		if (it->number > number) {
			const struct rcv_item *before = it - 1;
			uint64_t at = i ? before->lsn + wal_record_size(before->payload.n) : 0;
			bool life = it->flags & RCV_LIFE;

			if (!life && (number + 1) * RCV_SEG - at >= WAL_RECORD_HEADER) {
				struct wal_rec pad = {.lsn = at, .type = WAL_TYPE_PAD};

				wal_encode(&pad, "", 0x1000 + number, bytes + at % RCV_SEG);
			}
			rcv_write_segment(d, number++, prev_end, bytes);
			prev_end = life ? at : 0;
		}
		rcv_positions(input, pos, it);
		h = rcv_header(input, it);
		wal_encode(&h, it->payload.p, 0x1000 + number, bytes + it->lsn % RCV_SEG);
		bytes[it->lsn % RCV_SEG] ^= it->flags & RCV_BROKEN ? 1 : 0;
	}
	rcv_write_segment(d, number, prev_end, bytes);
	if (input->options & RCV_SPARE)
		rcv_write_segment(d, ++number, 0, bytes);
	d->os->fsync(d->os->ctx, d->wal);
	return number;
}

static void rcv_input_free(struct rcv_input *input)
{
	for (unsigned i = 0; i < input->n; i++)
		base_buf_free(&input->items[i].payload);
}

/* ---- building ---- */

struct rcv_builder {
	struct base_buf b;
};

static void rcv_add(struct rcv_builder *w, const struct txn_rec *rec, uint8_t txid, uint8_t flags)
{
	uint8_t payload[4096];
	bool ok;
	struct rcv_item it = {.type = (uint8_t)rec->type, .flags = flags, .txid = txid, .p = payload};

	it.len = (uint16_t)fuzz_encode(rec, payload, sizeof(payload), &ok);
	if (!ok)
		abort();
	if (!w->b.n)
		fuzz_put(&w->b, 0, 1);
	rcv_put(&w->b, &it);
}

/* Object number `object` of the tree under the log's number object + 1; new ones have the number of their inode. */
static void rcv_declare(struct rcv_builder *w, enum bb_object object, uint8_t txid)
{
	static const struct {
		uint32_t mode;
		const char *hint;
	} what[BB_OBJECTS] = {
		[BB_ROOT] = {S_IFDIR | 0755, ""},        [BB_A] = {S_IFREG | 0644, "a"},
		[BB_B] = {S_IFREG | 0600, "b"},          [BB_D] = {S_IFDIR | 0755, "d"},
		[BB_D_F] = {S_IFREG | 0640, "d/f"},      [BB_D_S] = {S_IFDIR | 0700, "d/s"},
		[BB_E] = {S_IFDIR | 0755, "e"},          [BB_OUT] = {S_IFLNK | 0777, "out"},
		[BB_OUTF] = {S_IFLNK | 0777, "outf"},    [BB_P] = {S_IFIFO | 0600, "p"},
		[BB_STAGED_FILE] = {S_IFREG | 0644, ""}, [BB_STAGED_DIR] = {S_IFDIR | 0755, ""},
		[BB_STAGED_LINK] = {S_IFLNK | 0777, ""}, [BB_TRASHED_DIR] = {S_IFDIR | 0755, ""},
		[BB_STAGE] = {S_IFDIR | 0700, ""},       [BB_TRASH] = {S_IFDIR | 0700, ""},
		[BB_GONE] = {S_IFREG | 0644, "gone"},
	};
	bool staged = object >= BB_STAGED_FILE && object <= BB_STAGED_LINK;
	struct txn_rec rec = {
		.type = TXN_REC_OBJECT,
		.u.object = {.oid = staged ? BB_STAGED_OID + (object - BB_STAGED_FILE) : object + 1u,
	                     .ino = 12,
	                     .created = staged,
	                     .mode = what[object].mode,
	                     .hint = what[object].hint,
	                     .target = object == BB_STAGED_LINK ? "../../../outside" : "",
	                     .id = {2, {FUZZ_ID, (uint8_t)object}}},
	};

	rcv_add(w, &rec, txid, 0);
}

static void rcv_simple(struct rcv_builder *w, enum txn_rec_type type, uint8_t txid)
{
	struct txn_rec rec = {.type = type};

	if (type == TXN_REC_COMMIT)
		rec.u.commit.time = (struct timespec)SEED_TIME;
	rcv_add(w, &rec, txid, 0);
}

/* ---- changing ---- */

/* A whole transaction around one record: it is begun, what it may name is declared, it commits. */
static void rcv_random_transaction(struct fuzz_rng *rng, struct rcv_builder *w)
{
	uint8_t txid = (uint8_t)(1 + fuzz_rnd(rng, 6));
	struct txn_rec recs[SEED_RECORDS_MAX];
	size_t n = seed_records(recs);

	rcv_simple(w, TXN_REC_BEGIN, txid);
	rcv_declare(w, BB_ROOT, txid);
	if (fuzz_rnd(rng, 2)) {
		for (int i = BB_A; i < BB_OBJECTS; i++)
			rcv_declare(w, (enum bb_object)i, txid);
	} else {
		for (unsigned i = 0; i < 3; i++)
			rcv_declare(w, (enum bb_object)fuzz_rnd(rng, BB_OBJECTS), txid);
	}
	for (uint64_t i = fuzz_rnd(rng, 4); i > 0; i--) {
		struct txn_rec *rec = &recs[fuzz_rnd(rng, n)];
		struct txn_extent list[4];
		char space[300];
		uint8_t out[64 + 4096];
		bool ok;

		for (unsigned k = 0; k < 3; k++) {
			struct txn_rec copy = *rec;

			mut_field(rng, &copy, space, list);
			fuzz_encode(&copy, out, sizeof(out), &ok);
			if (ok)
				rcv_add(w, &copy, txid, 0);
		}
	}
	rcv_simple(w, TXN_REC_COMMIT, txid);
}

static void rcv_change_item(struct fuzz_rng *rng, struct rcv_item *it, uint8_t *space, size_t max)
{
	switch (fuzz_rnd(rng, 12)) {
	case 0:
		it->flags ^= (uint8_t)(1u << fuzz_rnd(rng, 6));
		break;
	case 1:
		it->prev = (uint8_t)(fuzz_rnd(rng, 2) ? fuzz_rnd(rng, 30) : 0);
		break;
	case 2:
		it->txid = (uint8_t)fuzz_rnd(rng, 6);
		break;
	case 3:
		it->type = (uint8_t)(1 + fuzz_rnd(rng, TXN_REC_TYPES));
		break;
	default: {
		struct wal_rec h = {.type = it->type};
		struct txn_rec rec;

		memcpy(space, it->p, it->len);
		h.len = (uint32_t)fuzz_rec_mutate(rng, it->type, space, it->len, base_min_u64(max, 4096));
		/* Most of what does not decode is refused in the same way: not too much of it. */
		if (txn_rec_decode(&h, space, &rec) && fuzz_rnd(rng, 16))
			break;
		it->p = space;
		it->len = (uint16_t)h.len;
		break;
	}
	}
}

static size_t rcv_mutate(struct fuzz_rng *rng, uint8_t *data, size_t size, size_t max)
{
	static struct rcv_input input;
	CLEANUP_FREE uint8_t *space = calloc(1, max + 4096);
	struct rcv_builder w = {0};
	unsigned at, k, choice = (unsigned)fuzz_rnd(rng, 20);

	if (!space)
		abort();
	if (choice == 0)
		return fuzz_bytes(rng, data, size, max);
	rcv_parse(data, size, &input);
	at = input.n ? (unsigned)fuzz_rnd(rng, input.n) : 0;
	k = input.n ? (unsigned)fuzz_rnd(rng, input.n) : 0;
	if (choice == 1)
		input.options ^= (uint8_t)(1u << fuzz_rnd(rng, 2));
	fuzz_put(&w.b, input.options, 1);
	for (unsigned i = 0; i < input.n; i++) {
		struct rcv_item it = input.items[i];

		if (i == at && choice == 2)
			continue;
		if (i == at && choice == 3)
			rcv_put(&w.b, &input.items[k]);
		if (i == at && choice == 4)
			rcv_random_transaction(rng, &w);
		if (choice == 5 && (i == at || i == k))
			it = input.items[i == at ? k : at];
		if (i == at && choice > 5)
			rcv_change_item(rng, &it, space, max);
		rcv_put(&w.b, &it);
	}
	if (!input.n)
		rcv_random_transaction(rng, &w);
	if (w.b.n && w.b.n <= max) {
		memcpy(data, w.b.p, w.b.n);
		size = w.b.n;
	}
	base_buf_free(&w.b);
	return size;
}

#endif
