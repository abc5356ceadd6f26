/*
 * test_rec.c - the payloads of the log's records: what is encoded comes back, what is damaged is refused or still makes
 * sense, and SPEC.md's examples are what it says they are.
 */
#include "tests/rec_kit.h"

#ifndef SPEC_PATH
#define SPEC_PATH "SPEC.md"
#endif

/* ---- fields ---- */

static void same_time(const struct timespec *a, const struct timespec *b)
{
	assert_int_equal(a->tv_sec, b->tv_sec);
	assert_int_equal(a->tv_nsec, b->tv_nsec);
}

static void same_stamp(const struct txn_stamp *a, const struct txn_stamp *b)
{
	assert_int_equal(a->mode, b->mode);
	same_time(&a->mtime, &b->mtime);
	same_time(&a->ctime, &b->ctime);
}

static void same_attrs(const struct txn_attrs *a, const struct txn_attrs *b)
{
	assert_int_equal(a->mode, b->mode);
	assert_int_equal(a->uid, b->uid);
	assert_int_equal(a->gid, b->gid);
	same_time(&a->atime, &b->atime);
	same_time(&a->mtime, &b->mtime);
	same_time(&a->ctime, &b->ctime);
}

static void same_id(const struct store_id *a, const struct store_id *b)
{
	assert_int_equal(a->len, b->len);
	assert_memory_equal(a->bytes, b->bytes, a->len);
}

static void same_object(const struct txn_rec_object *a, const struct txn_rec_object *b)
{
	assert_int_equal(a->oid, b->oid);
	assert_int_equal(a->ino, b->ino);
	assert_int_equal(a->created, b->created);
	assert_int_equal(a->mode, b->mode);
	assert_int_equal(a->uid, b->uid);
	assert_int_equal(a->gid, b->gid);
	assert_int_equal(a->rdev, b->rdev);
	same_id(&a->id, &b->id);
	assert_string_equal(a->hint, b->hint);
	assert_string_equal(a->target, b->target);
}

static void same_write(const struct txn_rec_write *a, const struct txn_rec_write *b, const struct bytes *raw)
{
	assert_int_equal(a->oid, b->oid);
	assert_int_equal(a->off, b->off);
	assert_int_equal(a->size_before, b->size_before);
	assert_int_equal(a->size_after, b->size_after);
	same_stamp(&a->before, &b->before);
	same_stamp(&a->after, &b->after);
	assert_int_equal(a->len, b->len);
	assert_int_equal(a->old_len, b->old_len);
	assert_int_equal(a->stolen, b->stolen);
	assert_memory_equal(a->old_data, b->old_data, a->old_len);
	assert_int_equal((const uint8_t *)b->old_data - raw->p, b->old_pos - LSN - WAL_RECORD_HEADER);
	if (a->stolen)
		return;
	assert_memory_equal(a->new_data, b->new_data, a->len);
	assert_int_equal((const uint8_t *)b->new_data - raw->p, b->new_pos - LSN - WAL_RECORD_HEADER);
}

static void same_size(const struct txn_rec_size *a, const struct txn_rec_size *b)
{
	assert_int_equal(a->oid, b->oid);
	assert_int_equal(a->size_before, b->size_before);
	assert_int_equal(a->size_after, b->size_after);
	assert_int_equal(a->zero_off, b->zero_off);
	assert_int_equal(a->zero_end, b->zero_end);
	same_stamp(&a->before, &b->before);
	same_stamp(&a->after, &b->after);
	assert_int_equal(a->extents, b->extents);
	for (uint32_t i = 0; i < a->extents; i++) {
		struct txn_extent x, y;

		txn_rec_size_extent(a, i, &x); /* built */
		txn_rec_size_extent(b, i, &y); /* decoded */
		assert_int_equal(x.off, y.off);
		assert_int_equal(x.len, y.len);
		assert_int_equal(x.where, y.where);
		assert_int_equal(x.pos, y.pos);
		assert_int_equal(x.stolen, y.stolen);
	}
}

static void same_value(uint32_t alen, const void *a, uint32_t blen, const void *b)
{
	assert_int_equal(alen, blen);
	if (alen != TXN_XATTR_ABSENT)
		assert_memory_equal(a, b, alen);
}

static void same_rec(const struct txn_rec *a, const struct txn_rec *b, const struct bytes *raw)
{
	assert_int_equal(a->type, b->type);
	switch (a->type) {
	case TXN_REC_OBJECT:
		same_object(&a->u.object, &b->u.object);
		break;
	case TXN_REC_WRITE:
		same_write(&a->u.write, &b->u.write, raw);
		break;
	case TXN_REC_SIZE:
		same_size(&a->u.size, &b->u.size);
		break;
	case TXN_REC_ATTR:
		assert_int_equal(a->u.attr.oid, b->u.attr.oid);
		assert_int_equal(a->u.attr.mask, b->u.attr.mask);
		same_attrs(&a->u.attr.before, &b->u.attr.before);
		same_attrs(&a->u.attr.after, &b->u.attr.after);
		break;
	case TXN_REC_XATTR:
		assert_int_equal(a->u.xattr.oid, b->u.xattr.oid);
		same_time(&a->u.xattr.ctime_before, &b->u.xattr.ctime_before);
		same_time(&a->u.xattr.ctime_after, &b->u.xattr.ctime_after);
		assert_string_equal(a->u.xattr.name, b->u.xattr.name);
		same_value(a->u.xattr.old_len, a->u.xattr.old_value, b->u.xattr.old_len, b->u.xattr.old_value);
		same_value(a->u.xattr.new_len, a->u.xattr.new_value, b->u.xattr.new_len, b->u.xattr.new_value);
		break;
	case TXN_REC_NAME:
		same_time(&a->u.name.time, &b->u.name.time);
		assert_int_equal(a->u.name.count, b->u.name.count);
		for (uint32_t i = 0; i < a->u.name.count; i++) {
			assert_int_equal(a->u.name.op[i].dir, b->u.name.op[i].dir);
			assert_int_equal(a->u.name.op[i].before, b->u.name.op[i].before);
			assert_int_equal(a->u.name.op[i].after, b->u.name.op[i].after);
			assert_string_equal(a->u.name.op[i].name, b->u.name.op[i].name);
			same_time(&a->u.name.op[i].dir_time, &b->u.name.op[i].dir_time);
		}
		break;
	case TXN_REC_SAVEPOINT:
		assert_string_equal(a->u.savepoint.name, b->u.savepoint.name);
		break;
	case TXN_REC_PREPARE:
		assert_int_equal(a->u.prepare.first, b->u.prepare.first);
		same_time(&a->u.prepare.time, &b->u.prepare.time);
		assert_int_equal(a->u.prepare.need, b->u.prepare.need);
		assert_int_equal(a->u.prepare.uid, b->u.prepare.uid);
		assert_string_equal(a->u.prepare.gid, b->u.prepare.gid);
		break;
	case TXN_REC_CLR:
		assert_int_equal(a->u.clr.undone, b->u.clr.undone);
		assert_int_equal(a->u.clr.next, b->u.clr.next);
		break;
	case TXN_REC_COMMIT:
		assert_int_equal(a->u.commit.first, b->u.commit.first);
		same_time(&a->u.commit.time, &b->u.commit.time);
		break;
	case TXN_REC_CHECKPOINT:
		assert_int_equal(a->u.checkpoint.clean, b->u.checkpoint.clean);
		assert_int_equal(a->u.checkpoint.scan, b->u.checkpoint.scan);
		assert_int_equal(a->u.checkpoint.next_oid, b->u.checkpoint.next_oid);
		assert_int_equal(a->u.checkpoint.next_txid, b->u.checkpoint.next_txid);
		assert_int_equal(a->u.checkpoint.shutdown, b->u.checkpoint.shutdown);
		break;
	case TXN_REC_BIND:
		assert_int_equal(a->u.bind.oid, b->u.bind.oid);
		same_id(&a->u.bind.id, &b->u.bind.id);
		break;
	default:
		assert_int_equal(raw->n, 0);
		break;
	}
}

/* ---- tests ---- */

static void test_table(void **arg)
{
	(void)arg;
	for (unsigned t = 1; t < TXN_REC_TYPES; t++) {
		assert_non_null(txn_rec_table[t].name);
		assert_non_null(txn_rec_table[t].encode);
		assert_non_null(txn_rec_table[t].decode);
		assert_non_null(txn_rec_table[t].describe);
		assert_true(!txn_rec_table[t].apply == !txn_rec_table[t].undo);
		assert_string_equal(txn_rec_name(t), txn_rec_table[t].name);
	}
	assert_string_equal(txn_rec_name(TXN_REC_WRITE), "WRITE");
	assert_string_equal(txn_rec_name(0), "unknown");
	assert_string_equal(txn_rec_name(TXN_REC_TYPES), "unknown");
}

static void test_round_trip(void **arg)
{
	(void)arg;
	for (int i = 0; i < 4000; i++) {
		struct txn_rec rec, back;
		struct bytes raw;

		random_rec((enum txn_rec_type)(1 + rnd(TXN_REC_TYPES - 1)), &rec);
		assert_int_equal(encode(&rec, &raw), 0);
		assert_int_equal(decode(rec.type, raw.p, raw.n, &back), 0);
		same_rec(&rec, &back, &raw);
		assert_true(refused_or_canonical(rec.type, raw.p, raw.n));
		check_json(&rec);
		check_json(&back);
		if (rec.type == TXN_REC_WRITE) {
			txn_rec_place(&rec, LSN);
			assert_int_equal(rec.u.write.old_pos, back.u.write.old_pos);
			assert_int_equal(rec.u.write.new_pos, back.u.write.new_pos);
		}
		free(raw.p);
		pool_free();
	}
}

/* Every truncation and extension, every other value of every byte. */
static void test_mutations(void **arg)
{
	(void)arg;
	for (unsigned type = 1; type < TXN_REC_TYPES; type++) {
		for (int round = 0; round < 3; round++) {
			struct txn_rec rec;
			struct bytes raw;
			uint8_t *p;

			random_rec((enum txn_rec_type)type, &rec);
			assert_int_equal(encode(&rec, &raw), 0);
			for (size_t n = 0; n < raw.n; n++) {
				p = malloc(n ? n : 1);
				assert_non_null(p);
				memcpy(p, raw.p, n);
				assert_int_equal(decode(type, p, n, &rec), -EUCLEAN);
				free(p);
			}
			p = malloc(raw.n + 1);
			assert_non_null(p);
			memcpy(p, raw.p, raw.n);
			p[raw.n] = 0;
			assert_int_equal(decode(type, p, raw.n + 1, &rec), -EUCLEAN);
			free(p);
			for (size_t i = 0; i < raw.n; i++) {
				uint8_t was = raw.p[i];

				for (unsigned v = 1; v < 256; v++) {
					raw.p[i] = (uint8_t)(was ^ v);
					refused_or_canonical(type, raw.p, raw.n);
				}
				raw.p[i] = was;
			}
			free(raw.p);
			pool_free();
		}
	}
}

/* Several damages at once: values that are often special, in fields of every width. */
static void test_fuzz(void **arg)
{
	static const uint64_t special[] = {0,          1,       UINT64_MAX, INT64_MAX, (uint64_t)INT64_MIN,
	                                   UINT32_MAX, 0x10000, 0xffff};
	unsigned accepted = 0;

	(void)arg;
	for (int i = 0; i < 60000; i++) {
		unsigned type = (unsigned)rnd(TXN_REC_TYPES + 2);
		struct bytes raw = {0};
		struct txn_rec rec;

		if (type > 0 && type < TXN_REC_TYPES && rnd(4)) {
			random_rec((enum txn_rec_type)type, &rec);
			assert_int_equal(encode(&rec, &raw), 0);
			pool_free();
			for (uint64_t k = 1 + rnd(3); k > 0 && raw.n; k--) {
				size_t width = (size_t)1 << rnd(4);
				uint64_t v = special[rnd(ARRAY_LEN(special))];

				if (width <= raw.n)
					memcpy(raw.p + rnd(raw.n - width + 1), &v, width);
			}
		} else {
			raw.n = rnd(200);
			raw.p = malloc(raw.n ? raw.n : 1);
			assert_non_null(raw.p);
			for (size_t k = 0; k < raw.n; k++)
				raw.p[k] = (uint8_t)(rnd(2) ? rnd(256) : 0);
		}
		accepted += refused_or_canonical(type, raw.p, raw.n);
		free(raw.p);
	}
	assert_true(accepted > 100); /* else this tests the first check of each decoder only */
}

static void refused(const struct txn_rec *rec)
{
	struct bytes raw;

	assert_int_equal(encode(rec, &raw), -EINVAL);
}

static void accepted(const struct txn_rec *rec)
{
	struct txn_rec back;
	struct bytes raw;

	assert_int_equal(encode(rec, &raw), 0);
	assert_int_equal(decode(rec->type, raw.p, raw.n, &back), 0);
	free(raw.p);
}

static void test_limits_names(void **arg)
{
	static const char *const bad[] = {"", ".", "..", "a/b", "/"}, *const good[] = {"...", ".a", "a", "\xff"};
	struct txn_rec rec = {.type = TXN_REC_NAME};
	char longest[70000];

	(void)arg;
	memset(longest, 'x', sizeof(longest));
	rec.u.name = (struct txn_rec_name){.count = 1, .op = {{.dir = 1}}};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		rec.u.name.op[0].name = bad[i];
		refused(&rec);
	}
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		rec.u.name.op[0].name = good[i];
		accepted(&rec);
	}
	rec.u.name.op[0].name = longest;
	longest[256] = 0;
	refused(&rec);
	longest[255] = 0;
	accepted(&rec);
	rec.u.name.op[0].dir = 0;
	refused(&rec);
	rec.u.name.op[0].dir = 1;
	rec.u.name.count = 0;
	refused(&rec);
	rec.u.name.count = 3;
	refused(&rec);

	rec = (struct txn_rec){.type = TXN_REC_SAVEPOINT, .u.savepoint.name = ""};
	refused(&rec);
	rec.u.savepoint.name = longest;
	accepted(&rec);
	rec = (struct txn_rec){.type = TXN_REC_PREPARE, .u.prepare.gid = longest};
	longest[201] = 0;
	refused(&rec);
	longest[200] = 0;
	accepted(&rec);
}

static void check_hint(const char *hint, const char *want)
{
	struct txn_rec rec = {.type = TXN_REC_OBJECT, .u.object = {.oid = 1, .mode = S_IFREG, .hint = hint}}, back;
	struct bytes raw;

	assert_int_equal(encode(&rec, &raw), 0);
	assert_int_equal(decode(rec.type, raw.p, raw.n, &back), 0);
	assert_string_equal(back.u.object.hint, want);
	free(raw.p);
}

/* A decoder trusts no path that leads out of the tree, whoever wrote it. */
static void test_foreign_hint(void **arg)
{
	static const char *const bad[] = {"/a/x", "../x", "a/.."};
	struct txn_rec rec = {.type = TXN_REC_OBJECT, .u.object = {.oid = 1, .mode = S_IFREG, .hint = "abcd"}};
	struct bytes raw;

	(void)arg;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(encode(&rec, &raw), 0);
		assert_memory_equal(raw.p + raw.n - 5, "abcd", 5);
		memcpy(raw.p + raw.n - 5, bad[i], 4);
		assert_int_equal(decode(rec.type, raw.p, raw.n, &(struct txn_rec){0}), -EUCLEAN);
		free(raw.p);
	}
}

static void test_limits_object(void **arg)
{
	static const char *const bad[] = {"/a", "..", "../a", "a/..", "a/../b"}, *const good[] = {"", "a", "a/..b/c..",
	                                                                                          "..."};
	struct txn_rec rec = {.type = TXN_REC_OBJECT, .u.object = {.oid = 1, .mode = S_IFREG}};
	char longest[70000];

	(void)arg;
	accepted(&rec); /* no hint and no target are empty ones */
	/* It is a hint only: what is no path from the root is left out. */
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		check_hint(bad[i], "");
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		check_hint(good[i], good[i]);
	memset(longest, 'x', sizeof(longest));
	longest[65537] = 0;
	check_hint(longest, "");
	longest[65536] = 0;
	check_hint(longest, longest);
	rec.u.object.target = longest;
	refused(&rec);
	longest[4095] = 0;
	accepted(&rec);
	rec.u.object.mode = 0644;
	refused(&rec);
	rec.u.object.mode = S_IFREG | 0200000;
	refused(&rec);
	rec.u.object.mode = S_IFDIR | 07777;
	accepted(&rec);
	rec.u.object.oid = 0;
	refused(&rec);
}

static void test_limits_contents(void **arg)
{
	struct txn_extent e = {.off = 10, .len = 5, .where = TXN_ZERO};
	struct txn_rec rec = {.type = TXN_REC_WRITE};

	(void)arg;
	rec.u.write = (struct txn_rec_write){.oid = 1, .off = INT64_MAX, .size_after = INT64_MAX};
	accepted(&rec);
	rec.u.write.len = 1;
	rec.u.write.new_data = "x";
	refused(&rec);
	rec.u.write.off = INT64_MAX - 1;
	accepted(&rec);
	rec.u.write.size_after = 5;
	refused(&rec);
	rec.u.write.size_after = INT64_MAX;
	rec.u.write.old_len = 2;
	refused(&rec);
	rec.u.write.old_len = 0;
	rec.u.write.after.mtime.tv_nsec = 1000000000;
	refused(&rec);

	rec = (struct txn_rec){.type = TXN_REC_SIZE};
	rec.u.size = (struct txn_rec_size){.oid = 1, .zero_off = 10, .zero_end = 20, .extents = 1, .list = &e};
	accepted(&rec);
	e.off = 9;
	refused(&rec);
	e.off = 16;
	refused(&rec);
	e.off = 10;
	e.where = TXN_AT_HOME;
	refused(&rec);
	e.where = TXN_IN_LOG;
	e.pos = UINT64_MAX - 2;
	refused(&rec);
	e.pos = 100;
	accepted(&rec);
	e.len = 0;
	refused(&rec);
	rec.u.size.zero_end = TXN_EXTENT_END;
	e.len = TXN_EXTENT_END - 10;
	refused(&rec); /* a log position for each byte to the end of all files */
	e.where = TXN_ZERO;
	e.pos = 0;
	accepted(&rec);
	rec.u.size.extents = 0;
	rec.u.size.zero_off = 21;
	rec.u.size.zero_end = 20;
	refused(&rec);
	rec.u.size.zero_end = TXN_EXTENT_END - 1;
	refused(&rec);

	rec = (struct txn_rec){.type = TXN_REC_XATTR,
	                       .u.xattr = {.oid = 1, .name = "user.a", .old_len = TXN_XATTR_ABSENT}};
	rec.u.xattr.new_len = 65537;
	refused(&rec);
	rec = (struct txn_rec){.type = TXN_REC_ATTR, .u.attr = {.oid = 1, .mask = STORE_SET_SIZE}};
	refused(&rec);
	rec = (struct txn_rec){.type = TXN_REC_CLR, .u.clr = {.undone = 5, .next = 6}};
	refused(&rec);
}

static uint64_t add_million(void *arg, uint64_t pos)
{
	++*(unsigned *)arg;
	return pos + 1000000;
}

static void test_relocate(void **arg)
{
	(void)arg;
	for (int i = 0; i < 3000; i++) {
		struct txn_rec rec, back;
		struct bytes raw;
		unsigned calls = 0, expect = 0;

		random_rec((enum txn_rec_type)(1 + rnd(TXN_REC_TYPES - 1)), &rec);
		if (rec.type == TXN_REC_CLR && rnd(4) == 0)
			rec.u.clr.next = 0;
		if (rec.type == TXN_REC_COMMIT)
			rec.u.commit.first = rnd(1000);
		if (rec.type == TXN_REC_PREPARE)
			rec.u.prepare.first = rnd(1000);
		assert_int_equal(encode(&rec, &raw), 0);
		assert_int_equal(txn_rec_relocate(rec.type, raw.p, raw.n, add_million, &calls), 0);
		/* What is expected: the same record with the positions moved; 0 stands for none. */
		if (rec.type == TXN_REC_CLR) {
			expect = (rec.u.clr.undone != 0) + (rec.u.clr.next != 0);
			rec.u.clr.undone += rec.u.clr.undone ? 1000000 : 0;
			rec.u.clr.next += rec.u.clr.next ? 1000000 : 0;
		} else if (rec.type == TXN_REC_COMMIT) {
			expect = rec.u.commit.first != 0;
			rec.u.commit.first += rec.u.commit.first ? 1000000 : 0;
		} else if (rec.type == TXN_REC_PREPARE) {
			expect = rec.u.prepare.first != 0;
			rec.u.prepare.first += rec.u.prepare.first ? 1000000 : 0;
		} else if (rec.type == TXN_REC_SIZE) {
			struct txn_extent *list = (struct txn_extent *)rec.u.size.list;

			for (uint32_t k = 0; k < rec.u.size.extents; k++) {
				expect += list[k].where == TXN_IN_LOG;
				list[k].pos += list[k].where == TXN_IN_LOG ? 1000000 : 0;
			}
		}
		assert_int_equal(calls, expect);
		assert_int_equal(decode(rec.type, raw.p, raw.n, &back), 0);
		same_rec(&rec, &back, &raw);
		if (raw.n)
			assert_int_equal(txn_rec_relocate(rec.type, raw.p, raw.n - 1, add_million, &calls), -EUCLEAN);
		free(raw.p);
		pool_free();
	}
	assert_int_equal(txn_rec_relocate(0, NULL, 0, add_million, NULL), -EUCLEAN);
}

static void test_misuse(void **arg)
{
	struct txn_rec rec = {.type = TXN_REC_TYPES};
	struct base_buf head = {0};
	struct iovec iov[3];
	int n;

	(void)arg;
	refused(&rec);
	rec.type = TXN_REC_BEGIN;
	base_buf_put(&head, "x", 1);
	assert_int_equal(txn_rec_encode(&rec, &head, iov, &n), -EINVAL);
	base_buf_free(&head);
	assert_int_equal(decode(0, "", 0, &rec), -EUCLEAN);
	assert_int_equal(decode(TXN_REC_TYPES, "", 0, &rec), -EUCLEAN);
	assert_int_equal(decode(255, "", 0, &rec), -EUCLEAN);
}

static void described(const struct txn_rec *rec, const char *text, const char *json)
{
	struct base_buf t = {0}, j = {0};

	txn_rec_table[rec->type].describe(rec, &t, &j);
	assert_string_equal((char *)t.p, text);
	assert_string_equal((char *)j.p, json);
	base_buf_free(&t);
	base_buf_free(&j);
}

static void test_describe(void **arg)
{
	struct txn_rec rec = {.type = TXN_REC_SAVEPOINT};

	(void)arg;
	rec.u.savepoint.name = "a \"b\"\\\n\xc3\xa4\xe4\x7f";
	described(&rec, "name \"a \\\"b\\\"\\\\\\n\xc3\xa4\\344\\177\"",
	          "\"name\":\"a \\\"b\\\"\\\\\\u000a\xc3\xa4\\u00e4\\u007f\"");
	rec = (struct txn_rec){.type = TXN_REC_COMMIT, .u.commit = {.first = 64, .time = {1700000000, 5}}};
	described(&rec, "first 64 time 2023-11-14T22:13:20.000000005Z",
	          "\"first\":64,\"time\":\"2023-11-14T22:13:20.000000005Z\"");
	rec.u.commit.time.tv_sec = INT64_MAX;
	described(&rec, "first 64 time @9223372036854775807.000000005",
	          "\"first\":64,\"time\":\"@9223372036854775807.000000005\"");
	rec = (struct txn_rec){.type = TXN_REC_NAME, .u.name = {.count = 1, .op = {{.dir = 1, .after = 7, .name = "a b"}}}};
	described(&rec, "directory 1 name a b object 0 -> 7",
	          "\"time\":\"1970-01-01T00:00:00.000000000Z\",\"names\":[{\"directory\":1,\"name\":\"a "
	          "b\",\"before\":0,\"after\":7}]");
}

/* ---- SPEC.md: blocks "```hex TYPE", lines of hex bytes with a comment behind '#', and at last "= text" ---- */

static unsigned spec_type(const char *line)
{
	char name[16] = "";

	if (sscanf(line, "```hex %15[A-Z]", name) == 1)
		for (unsigned t = 1; t < TXN_REC_TYPES; t++)
			if (strcmp(name, txn_rec_name(t)) == 0)
				return t;
	return 0;
}

static void spec_example(FILE *f, unsigned type)
{
	struct base_buf raw = {0}, text = {0}, json = {0};
	char line[1024], want[1024] = "";
	struct txn_rec rec;
	uint8_t *exact;

	while (fgets(line, sizeof(line), f) && strncmp(line, "```", 3) != 0) {
		char *at = line;
		unsigned byte;
		int used;

		if (line[0] == '=') {
			line[strcspn(line, "\n")] = 0;
			strcpy(want, line + 2);
			continue;
		}
		line[strcspn(line, "#")] = 0;
		for (; sscanf(at, "%2x%n", &byte, &used) == 1; at += used) {
			uint8_t b = (uint8_t)byte;

			base_buf_put(&raw, &b, 1);
		}
		assert_int_equal(strspn(at, " \n"), strlen(at));
	}
	exact = malloc(raw.n);
	assert_non_null(exact);
	memcpy(exact, raw.p, raw.n);
	print_message("%s: %zu bytes: %s\n", txn_rec_name(type), raw.n, want);
	assert_int_equal(decode(type, exact, raw.n, &rec), 0);
	assert_true(refused_or_canonical(type, exact, raw.n));
	txn_rec_table[type].describe(&rec, &text, &json);
	assert_string_equal((char *)text.p, want);
	base_buf_free(&raw);
	base_buf_free(&text);
	base_buf_free(&json);
	free(exact);
}

static void test_spec(void **arg)
{
	FILE *f = fopen(SPEC_PATH, "r");
	unsigned seen = 0;
	char line[1024];

	(void)arg;
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		unsigned type = spec_type(line);

		if (type) {
			spec_example(f, type);
			seen |= 1u << type;
		}
	}
	fclose(f);
	/* All but those without a payload. */
	for (unsigned t = 1; t < TXN_REC_TYPES; t++)
		if (t != TXN_REC_BEGIN && t != TXN_REC_ABORT && t != TXN_REC_END && !(seen & 1u << t))
			fail_msg("SPEC.md has no example of %s", txn_rec_name(t));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),           cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_mutations),       cmocka_unit_test(test_fuzz),
		cmocka_unit_test(test_limits_names),    cmocka_unit_test(test_limits_object),
		cmocka_unit_test(test_limits_contents), cmocka_unit_test(test_relocate),
		cmocka_unit_test(test_misuse),          cmocka_unit_test(test_foreign_hint),
		cmocka_unit_test(test_describe),        cmocka_unit_test(test_spec),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
