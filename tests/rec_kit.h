/*
 * rec_kit.h - for tests of the log's records: random records of every type, and encoding that checks what it does.
 *
 * Encodings are canonical: whatever decodes must encode to the same bytes again. refused_or_canonical() checks that, so
 * no bit of a payload can be without meaning.
 */
#ifndef TXNFS_REC_KIT_H
#define TXNFS_REC_KIT_H

#include "base/base.h"
#include "txn/rec.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#define LSN 0x123450u

static uint64_t state;

static uint64_t rnd(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

static uint64_t rnd64(void)
{
	return rnd(1ull << 32) << 32 | rnd(1ull << 32);
}

static int setup(void **arg)
{
	const char *s = getenv("TXNFS_SEED");

	(void)arg;
	state = (s ? strtoull(s, NULL, 0) : base_random_u64()) | 1;
	print_message("TXNFS_SEED=%" PRIu64 "\n", state);
	return 0;
}

/* ---- random records; their strings and data live in a pool ---- */

#define POOL_MAX 64
static void *pool[POOL_MAX];
static size_t pooled;

static void *pool_add(size_t n)
{
	assert_true(pooled < POOL_MAX);
	pool[pooled] = malloc(n ? n : 1);
	assert_non_null(pool[pooled]);
	return pool[pooled++];
}

static void pool_free(void)
{
	while (pooled)
		free(pool[--pooled]);
}

static void *random_bytes(size_t n)
{
	uint8_t *p = pool_add(n);

	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)rnd(256);
	return p;
}

/* Any bytes but NUL, and none of `not`: also what is no UTF-8, quotes, control characters. */
static char *random_string(size_t min, size_t max, const char * not )
{
	static const char *const pieces[] = {
		"a",  "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\xa0\x80", "\xc0\x80", "\"", "\\",
		"\n", "\x7f",     "\x01"};
	size_t n = min + rnd(max - min + 1), at = 0;
	char *s = pool_add(n + 1);

	while (at < n) {
		const char *p = pieces[rnd(ARRAY_LEN(pieces))];
		char c = (char)(1 + rnd(255));

		if (rnd(2) && strlen(p) <= n - at) {
			memcpy(s + at, p, strlen(p));
			at += strlen(p);
		} else if (!strchr(not, c)) {
			s[at++] = c;
		}
	}
	s[n] = 0;
	return s;
}

static char *random_name(void)
{
	return random_string(1, rnd(8) ? 12 : 255, "/.");
}

static struct timespec random_time(void)
{
	return (struct timespec){.tv_sec = rnd(4) ? (time_t)rnd(1ull << 32) : (time_t)rnd64(),
	                         .tv_nsec = (long)rnd(1000000000)};
}

static struct txn_stamp random_stamp(void)
{
	return (struct txn_stamp){.mode = (uint32_t)rnd(0200000), .mtime = random_time(), .ctime = random_time()};
}

static struct txn_attrs random_attrs(void)
{
	return (struct txn_attrs){.mode = (uint32_t)rnd(0200000),
	                          .uid = (uint32_t)rnd64(),
	                          .gid = (uint32_t)rnd64(),
	                          .atime = random_time(),
	                          .mtime = random_time(),
	                          .ctime = random_time()};
}

static struct store_id random_id(void)
{
	struct store_id id = {.len = (uint16_t)rnd(rnd(4) ? 20 : STORE_ID_MAX + 1)};

	for (unsigned i = 0; i < id.len; i++)
		id.bytes[i] = (uint8_t)rnd(256);
	return id;
}

static void random_object(struct txn_rec_object *o)
{
	static const uint32_t kinds[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};

	*o = (struct txn_rec_object){.oid = 1 + rnd64() / 2,
	                             .ino = rnd64(),
	                             .created = rnd(2),
	                             .uid = (uint32_t)rnd64(),
	                             .gid = (uint32_t)rnd64(),
	                             .rdev = rnd64(),
	                             .id = random_id()};
	o->mode = kinds[rnd(ARRAY_LEN(kinds))] | (uint32_t)rnd(010000);
	o->hint = random_string(0, 40, "/.");
	o->target = random_string(0, 40, "");
}

static void random_write(struct txn_rec_write *w)
{
	*w = (struct txn_rec_write){.oid = 1 + rnd(99),
	                            .off = rnd(3) ? rnd(5000) : rnd(INT64_MAX - 4096),
	                            .size_before = rnd(INT64_MAX),
	                            .before = random_stamp(),
	                            .after = random_stamp(),
	                            .len = (uint32_t)rnd(40),
	                            .stolen = rnd(4) == 0};
	w->size_after = w->off + w->len + rnd(2) * rnd(4000);
	w->old_len = (uint32_t)rnd(w->len + 1);
	w->old_data = random_bytes(w->old_len);
	w->new_data = random_bytes(w->len);
}

static void random_size(struct txn_rec_size *s)
{
	struct txn_extent *list;
	uint64_t at;

	*s = (struct txn_rec_size){.oid = 1 + rnd(99),
	                           .size_before = rnd(INT64_MAX),
	                           .size_after = rnd(INT64_MAX),
	                           .before = random_stamp(),
	                           .after = random_stamp(),
	                           .extents = (uint32_t)rnd(4)};
	s->zero_off = at = rnd(1000);
	list = pool_add(sizeof(*list) * 4);
	for (uint32_t i = 0; i < s->extents; i++) {
		list[i] = (struct txn_extent){.off = at + rnd(3),
		                              .len = 1 + rnd(100),
		                              .where = rnd(2) ? TXN_ZERO : TXN_IN_LOG,
		                              .stolen = rnd(4) == 0};
		list[i].pos = list[i].where == TXN_IN_LOG ? 1 + rnd(1u << 30) : 0;
		at = list[i].off + list[i].len;
	}
	s->zero_end = rnd(2) ? TXN_EXTENT_END : at + rnd(2);
	if (s->extents && s->zero_end == TXN_EXTENT_END && rnd(2) && list[s->extents - 1].where == TXN_ZERO)
		list[s->extents - 1].len = TXN_EXTENT_END - list[s->extents - 1].off;
	s->list = list;
}

static void random_xattr(struct txn_rec_xattr *x)
{
	*x = (struct txn_rec_xattr){.oid = 1 + rnd64() / 2,
	                            .ctime_before = random_time(),
	                            .ctime_after = random_time(),
	                            .name = random_string(1, 30, "")};
	x->old_len = rnd(3) ? (uint32_t)rnd(20) : TXN_XATTR_ABSENT;
	x->new_len = rnd(3) ? (uint32_t)rnd(20) : TXN_XATTR_ABSENT;
	x->old_value = random_bytes(20);
	x->new_value = random_bytes(20);
}

static void random_names(struct txn_rec_name *n)
{
	*n = (struct txn_rec_name){.time = random_time(), .count = 1 + (uint32_t)rnd(2)};
	for (uint32_t i = 0; i < n->count; i++)
		n->op[i] = (struct txn_rec_name_op){
			.dir = 1 + rnd64() / 2, .before = rnd(3), .after = rnd64(), .name = random_name(),
			.dir_time = random_time()};
}

static void random_rec(enum txn_rec_type type, struct txn_rec *rec)
{
	uint64_t lsn = rnd(1u << 30);

	*rec = (struct txn_rec){.type = type};
	switch (type) {
	case TXN_REC_OBJECT:
		random_object(&rec->u.object);
		break;
	case TXN_REC_WRITE:
		random_write(&rec->u.write);
		break;
	case TXN_REC_SIZE:
		random_size(&rec->u.size);
		break;
	case TXN_REC_ATTR:
		rec->u.attr = (struct txn_rec_attr){.oid = 1 + rnd(9),
		                                    .before = random_attrs(),
		                                    .after = random_attrs(),
		                                    .mask = (uint32_t)rnd(0x40) & ~STORE_SET_SIZE};
		break;
	case TXN_REC_XATTR:
		random_xattr(&rec->u.xattr);
		break;
	case TXN_REC_NAME:
		random_names(&rec->u.name);
		break;
	case TXN_REC_SAVEPOINT:
		rec->u.savepoint.name = random_string(1, rnd(8) ? 20 : 255, "");
		break;
	case TXN_REC_PREPARE:
		rec->u.prepare = (struct txn_rec_prepare){.first = lsn, .time = random_time(), .need = rnd64(),
		                                          .uid = (uint32_t)rnd64(),
		                                          .gid = random_string(1, rnd(8) ? 20 : 200, "")};
		break;
	case TXN_REC_CLR:
		rec->u.clr = (struct txn_rec_clr){.undone = lsn + rnd(99), .next = lsn};
		break;
	case TXN_REC_COMMIT:
		rec->u.commit = (struct txn_rec_commit){.first = rnd64(), .time = random_time()};
		break;
	case TXN_REC_CHECKPOINT:
		rec->u.checkpoint = (struct txn_rec_checkpoint){.clean = rnd64(),
		                                                .scan = rnd64(),
		                                                .next_oid = rnd64(),
		                                                .next_txid = rnd64(),
		                                                .shutdown = rnd(2)};
		break;
	case TXN_REC_BIND:
		rec->u.bind = (struct txn_rec_bind){.oid = 1 + rnd(9), .id = random_id()};
		break;
	default:
		break;
	}
}

/* ---- encoding to one piece, of exactly its size so that a sanitizer sees every step outside ---- */

struct bytes {
	uint8_t *p;
	size_t n;
};

static int encode(const struct txn_rec *rec, struct bytes *out)
{
	struct base_buf head = {0};
	struct iovec iov[3];
	int n = 0, rc;

	*out = (struct bytes){0};
	rc = txn_rec_encode(rec, &head, iov, &n);
	if (rc == 0) {
		assert_in_range(n, 1, 3);
		for (int i = 0; i < n; i++)
			out->n += iov[i].iov_len;
		out->p = malloc(out->n ? out->n : 1);
		assert_non_null(out->p);
		for (int i = 0, at = 0; i < n; at += (int)iov[i++].iov_len)
			if (iov[i].iov_len)
				memcpy(out->p + at, iov[i].iov_base, iov[i].iov_len);
	}
	base_buf_free(&head);
	return rc;
}

static int decode(unsigned type, const void *p, size_t n, struct txn_rec *rec)
{
	struct wal_rec h = {.type = (uint8_t)type, .lsn = LSN, .len = (uint32_t)n};

	return txn_rec_decode(&h, p, rec);
}

static void check_json(const struct txn_rec *rec)
{
	struct base_buf text = {0}, json = {0}, all = {0};
	json_error_t err;
	json_t *j;

	txn_rec_table[rec->type].describe(rec, &text, &json);
	assert_int_equal(text.err, 0);
	assert_int_equal(json.err, 0);
	if (text.n)
		assert_null(strpbrk((char *)text.p, "\n\r"));
	base_buf_printf(&all, "{%s}", json.n ? (char *)json.p : "");
	j = json_loadb((char *)all.p, all.n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &err);
	if (!j)
		fail_msg("%s: %s", err.text, (char *)all.p);
	assert_true(json_is_object(j));
	json_decref(j);
	base_buf_free(&all);
	base_buf_free(&text);
	base_buf_free(&json);
}

/* -EUCLEAN, or a record that is described without harm and has just these bytes. */
static bool refused_or_canonical(unsigned type, const uint8_t *p, size_t n)
{
	struct txn_rec rec;
	struct bytes again;
	int rc = decode(type, p, n, &rec);

	if (rc) {
		assert_int_equal(rc, -EUCLEAN);
		return false;
	}
	assert_int_equal(encode(&rec, &again), 0);
	assert_int_equal(again.n, n);
	assert_memory_equal(again.p, p, n);
	free(again.p);
	if (rnd(8) == 0)
		check_json(&rec);
	return true;
}

#endif
