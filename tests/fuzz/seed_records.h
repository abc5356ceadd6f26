/* seed_records.h - a record of every type, or several: what the corpora of records begin with. */
#ifndef TXNFS_FUZZ_SEED_RECORDS_H
#define TXNFS_FUZZ_SEED_RECORDS_H

#include "tests/fuzz/rec_mutate.h"

#define SEED_RECORDS_MAX 32
#define SEED_TIME {1700000000, 500000000}
#define SEED_STAMP {S_IFREG | 0644, SEED_TIME, SEED_TIME}
#define SEED_ATTRS {S_IFREG | 0644, 1000, 1000, SEED_TIME, SEED_TIME, SEED_TIME}

static size_t seed_records(struct txn_rec *recs)
{
	static const struct txn_extent extents[] = {
		{.off = 2, .len = 2, .pos = 0x10211, .where = TXN_IN_LOG},
		{.off = 9, .len = TXN_EXTENT_END - 9, .where = TXN_ZERO},
	};
	const struct txn_rec all[] = {
		{.type = TXN_REC_BEGIN},
		{.type = TXN_REC_OBJECT,
	         .u.object = {.oid = 7, .ino = 12, .mode = S_IFREG | 0644, .id = {2, {FUZZ_ID, 1}}, .hint = "d/f"}},
		{.type = TXN_REC_OBJECT,
	         .u.object = {.oid = 8, .created = true, .mode = S_IFLNK | 0777, .target = "../a", .hint = ""}},
		{.type = TXN_REC_OBJECT,
	         .u.object = {.oid = 9, .created = true, .mode = S_IFCHR | 0600, .rdev = 0x103, .hint = ""}},
		{.type = TXN_REC_WRITE,
	         .u.write = {.oid = 7, .size_before = 3, .size_after = 4, .before = SEED_STAMP, .after = SEED_STAMP,
	                     .len = 4, .old_len = 3, .old_data = "90\n", .new_data = "100\n"}},
		{.type = TXN_REC_WRITE,
	         .u.write = {.oid = 7, .size_before = 3, .size_after = 4, .before = SEED_STAMP, .after = SEED_STAMP,
	                     .len = 4, .stolen = true}},
		{.type = TXN_REC_SIZE,
	         .u.size = {.oid = 7, .size_before = 40, .size_after = 2, .zero_off = 2, .zero_end = TXN_EXTENT_END,
	                    .before = SEED_STAMP, .after = SEED_STAMP, .extents = 2, .list = extents}},
		{.type = TXN_REC_ATTR,
	         .u.attr = {.oid = 7, .mask = STORE_SET_MODE | STORE_SET_MTIME, .before = SEED_ATTRS,
	                    .after = SEED_ATTRS}},
		{.type = TXN_REC_XATTR,
	         .u.xattr = {.oid = 7, .ctime_before = SEED_TIME, .ctime_after = SEED_TIME, .name = "user.tag",
	                     .old_len = TXN_XATTR_ABSENT, .new_len = 3, .new_value = "new"}},
		{.type = TXN_REC_XATTR,
	         .u.xattr = {.oid = 7, .name = "user.tag", .old_len = 3, .old_value = "new",
	                     .new_len = TXN_XATTR_ABSENT}},
		{.type = TXN_REC_NAME,
	         .u.name = {.time = SEED_TIME, .count = 1, .op = {{.dir = 1, .after = 7, .name = "new"}}}},
		{.type = TXN_REC_NAME,
	         .u.name = {.time = SEED_TIME, .count = 2,
	                    .op = {{.dir = 1, .before = 7, .name = "report", .dir_time = SEED_TIME},
	                           {.dir = 2, .after = 7, .name = "report \"old\"\n\xff"}}}},
		{.type = TXN_REC_SAVEPOINT, .u.savepoint = {.name = "after_order"}},
		{.type = TXN_REC_CLR, .u.clr = {.undone = 0x10388, .next = 0x10200}},
		{.type = TXN_REC_PREPARE,
	         .u.prepare = {.first = 0x10040, .time = SEED_TIME, .need = 12288, .uid = 1000, .gid = "bank-42"}},
		{.type = TXN_REC_COMMIT, .u.commit = {.first = 0x10040, .time = SEED_TIME}},
		{.type = TXN_REC_ABORT},
		{.type = TXN_REC_END},
		{.type = TXN_REC_CHECKPOINT,
	         .u.checkpoint = {.clean = 0x10800, .scan = 0x10800, .next_oid = 8, .next_txid = 3,
	                          .shutdown = true}},
		{.type = TXN_REC_BIND, .u.bind = {.oid = 7, .id = {12, {1, 0, 0, 0, 2, 0, 2, 0, 0xaa, 0xbb, 0xcc, 0xdd}}}},
	};

	_Static_assert(ARRAY_LEN(all) <= SEED_RECORDS_MAX, "room for all");
	memcpy(recs, all, sizeof(all));
	return ARRAY_LEN(all);
}

#endif
