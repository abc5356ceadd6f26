/* test_libtxnfs_xa.c - XIDs as GIDs, open strings, and what the switch refuses without looking at a mount. */
#include "tools/lib/xa_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static XID xid_of(long format, const void *gtrid, size_t g, const void *bqual, size_t b)
{
	XID xid = {.formatID = format, .gtrid_length = (long)g, .bqual_length = (long)b};

	memset(xid.data, 0x5a, sizeof(xid.data)); /* what is behind the lengths means nothing */
	memcpy(xid.data, gtrid, g);
	memcpy(xid.data + g, bqual, b);
	return xid;
}

static void same(const XID *a, const XID *b)
{
	assert_int_equal(a->formatID, b->formatID);
	assert_int_equal(a->gtrid_length, b->gtrid_length);
	assert_int_equal(a->bqual_length, b->bqual_length);
	assert_memory_equal(a->data, b->data, (size_t)(a->gtrid_length + a->bqual_length));
}

static void test_examples(void **state UNUSED)
{
	static const struct {
		long format;
		const char *gtrid, *bqual, *gid;
	} cases[] = {
		{0, "a", "b", "xa1.0.YQ.Yg"},
		{1, "ab", "abc", "xa1.1.YWI.YWJj"},
		{0x1234abcd, "\xff\xff\xff", "\xfb\xef", "xa1.1234abcd.____.--8"},
		{-2, "x", "y", sizeof(long) == 8 ? "xa1.fffffffffffffffe.eA.eQ" : "xa1.fffffffe.eA.eQ"},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		XID xid = xid_of(cases[i].format, cases[i].gtrid, strlen(cases[i].gtrid), cases[i].bqual,
		                 strlen(cases[i].bqual)),
		    back;
		char gid[TXNFS_XA_GID_MAX + 1];

		assert_int_equal(txnfs_xa_gid(&xid, gid), 0);
		assert_string_equal(gid, cases[i].gid);
		assert_int_equal(txnfs_xa_xid(gid, &back), 0);
		same(&xid, &back);
	}
}

static void test_all_lengths_and_bytes(void **state UNUSED)
{
	unsigned char data[2][64];
	size_t longest = 0;

	for (size_t g = 1; g <= 64; g++) {
		for (size_t b = 1; b <= 64; b++) {
			char gid[TXNFS_XA_GID_MAX + 1];
			XID xid, back;

			for (size_t i = 0; i < 64; i++) {
				data[0][i] = (unsigned char)(g * 37 + b * 11 + i * 13);
				data[1][i] = (unsigned char)(255 - i * 7 - g);
			}
			xid = xid_of((g + b) % 2 ? 0x7fffffff : -2, data[0], g, data[1], b);
			assert_int_equal(txnfs_xa_gid(&xid, gid), 0);
			assert_int_equal(
				strspn(gid, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."),
				strlen(gid));
			longest = strlen(gid) > longest ? strlen(gid) : longest;
			assert_int_equal(txnfs_xa_xid(gid, &back), 0);
			same(&xid, &back);
		}
	}
	assert_int_equal(longest, TXNFS_XA_GID_MAX);
	assert_true(TXNFS_XA_GID_MAX <= TXNFS_GID_MAX);
}

static void test_bad_xids(void **state UNUSED)
{
	char gid[TXNFS_XA_GID_MAX + 1];
	static const long lengths[][2] = {{0, 1}, {1, 0}, {65, 1}, {1, 65}, {-1, 1}, {1, -1}};

	assert_int_equal(txnfs_xa_gid(NULL, gid), -EINVAL);
	assert_int_equal(txnfs_xa_gid(&(XID){.formatID = -1, .gtrid_length = 1, .bqual_length = 1}, gid), -EINVAL);
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		XID xid = {.gtrid_length = lengths[i][0], .bqual_length = lengths[i][1]};

		assert_int_equal(txnfs_xa_gid(&xid, gid), -EINVAL);
		assert_string_equal(gid, "");
	}
}

static void test_bad_gids(void **state UNUSED)
{
	static const char *const bad[] = {
		"",
		"g",
		"xa1",
		"xa1.",
		"xa1.0",
		"xa1.0.",
		"xa1.0.YQ",
		"xa1.0.YQ.",
		"xa1.0..YQ",
		"xa1..YQ.YQ",
		"xa1.0.YQ.YQ.",
		"xa1.0.YQ.YQ ",
		"XA1.0.YQ.YQ",
		"xa2.0.YQ.YQ",
		"xa1.00.YQ.YQ",
		"xa1.A.YQ.YQ",
		"xa1.g.YQ.YQ",
		"xa1.0.YQ==.YQ",
		"xa1.0.Y.YQ",
		"xa1.0.YR.YQ",
		"xa1.0.YQ.YWK",
		"xa1.0.Y+.YQ",
		"xa1.0.YQ.YQ.YQ",
		"xa1.0.YQYQY.YQ",
		"xa1.ffffffffffffffff.YQ.YQ",
		"xa1.10000000000000000.YQ.YQ",
		"xa1.-1.YQ.YQ",
		"xa1.0x1.YQ.YQ",
	};
	char text[300];
	XID xid;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		if (txnfs_xa_xid(bad[i], &xid) != -EINVAL)
			fail_msg("taken for an XID: %s", bad[i]);
		assert_int_equal(xid.formatID, -1);
	}
	/* 65 bytes */
	memcpy(text, "xa1.0.", 6);
	memset(text + 6, 'A', 87);
	memcpy(text + 6 + 87, ".YQ", 4);
	assert_int_equal(txnfs_xa_xid(text, &xid), -EINVAL);
	memcpy(text + 6 + 86, ".YQ", 4);
	assert_int_equal(txnfs_xa_xid(text, &xid), 0);
	assert_int_equal(xid.gtrid_length, 64);
}

static void test_open_strings(void **state UNUSED)
{
	struct xa_info info;

	assert_int_equal(xa_info_parse("/mnt/site", &info), 0);
	assert_string_equal(info.point, "/mnt/site");
	assert_string_equal(info.control, "");
	assert_true(info.owned);
	assert_int_equal(info.options.isolation, TXNFS_DEFAULT);
	assert_int_equal(info.options.timeout_ms, 0);
	assert_int_equal(
		xa_info_parse("/m\\,n\\\\t,control=.c\\,d,isolation=serializable,timeout=2.5,owner=none", &info), 0);
	assert_string_equal(info.point, "/m,n\\t");
	assert_string_equal(info.control, ".c,d");
	assert_false(info.owned);
	assert_int_equal(info.options.isolation, TXNFS_SERIALIZABLE);
	assert_int_equal(info.options.timeout_ms, 2500);
	assert_int_equal(xa_info_parse("/,timeout=0,owner=process,isolation=snapshot", &info), 0);
	assert_int_equal(info.options.timeout_ms, TXNFS_NO_WAIT);
	assert_int_equal(info.options.isolation, TXNFS_SNAPSHOT);
	assert_int_equal(xa_info_parse("/,timeout=0.0001,isolation=read-committed", &info), 0);
	assert_int_equal(info.options.timeout_ms, 1);
	assert_int_equal(info.options.isolation, TXNFS_READ_COMMITTED);
}

static void test_bad_open_strings(void **state UNUSED)
{
	static const char *const bad[] = {
		"",
		"mnt",
		"mnt/site",
		",",
		",/mnt",
		"/mnt,,timeout=1",
		"/mnt,timeout",
		"/mnt,timeout=",
		"/mnt,timeout=-1",
		"/mnt,timeout=1s",
		"/mnt,timeout=.5",
		"/mnt,timeout=99999999999999999999",
		"/mnt,timeout=inf",
		"/mnt,isolation=",
		"/mnt,isolation=Snapshot",
		"/mnt,isolation=read committed",
		"/mnt,owner=1",
		"/mnt,owner=",
		"/mnt,control=",
		"/mnt,control=a/b",
		"/mnt,control=..",
		"/mnt,control=.",
		"/mnt,user=root",
		"/mnt,=x",
		"/mnt, timeout=1",
	};
	char text[400];
	struct xa_info info;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		if (xa_info_parse(bad[i], &info) != -EINVAL)
			fail_msg("taken for an open string: %s", bad[i]);
		if (!*txnfs_xa_error())
			fail_msg("no text for %s", bad[i]);
	}
	assert_int_equal(xa_info_parse(NULL, &info), -EINVAL);
	memset(text, 'x', sizeof(text));
	text[0] = '/';
	text[255] = 0;
	assert_int_equal(xa_info_parse(text, &info), 0);
	text[255] = 'x';
	text[256] = 0;
	assert_int_equal(xa_info_parse(text, &info), -EINVAL);
	text[255] = 0;
	text[254] = '\\'; /* which escapes nothing */
	assert_int_equal(xa_info_parse(text, &info), 0);
	assert_int_equal(strlen(info.point), 255);
}

static void test_the_switch(void **state UNUSED)
{
	assert_string_equal(txnfs_xa_switch.name, "txnfs");
	assert_int_equal(txnfs_xa_switch.version, 0);
	assert_int_equal(txnfs_xa_switch.flags, TMNOMIGRATE);
}

/* No rmid is open: flags and arguments are looked at all the same. */
static void test_calls_that_are_not_allowed(void **state UNUSED)
{
	struct xa_switch_t *x = &txnfs_xa_switch;
	XID good = xid_of(1, "g", 1, "b", 1), null = {.formatID = -1};
	XID room[2];
	int handle, result;

	int (*calls[])(XID *, int, long) = {x->xa_start_entry,  x->xa_end_entry,      x->xa_prepare_entry,
	                                    x->xa_commit_entry, x->xa_rollback_entry, x->xa_forget_entry};

	for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
		long flags = calls[i] == x->xa_end_entry ? TMSUCCESS : TMNOFLAGS;

		assert_int_equal(calls[i](&good, 7, flags), XAER_PROTO);
		assert_int_equal(calls[i](NULL, 7, flags), XAER_INVAL);
		assert_int_equal(calls[i](&null, 7, flags), XAER_INVAL);
		assert_int_equal(calls[i](&good, 7, flags | TMASYNC), XAER_ASYNC);
		assert_int_equal(calls[i](&good, 7, flags | TMENDRSCAN), XAER_INVAL);
		assert_int_equal(calls[i](&good, 7, flags | 1), XAER_INVAL);
	}
	assert_int_equal(x->xa_open_entry((char *)(uintptr_t) "relative", 7, TMNOFLAGS), XAER_INVAL);
	assert_int_equal(x->xa_open_entry(NULL, 7, TMNOFLAGS), XAER_INVAL);
	assert_int_equal(x->xa_open_entry((char *)(uintptr_t) "/none", 7, TMASYNC), XAER_ASYNC);
	assert_int_equal(x->xa_open_entry((char *)(uintptr_t) "/none", 7, TMJOIN), XAER_INVAL);
	assert_int_equal(x->xa_open_entry((char *)(uintptr_t) "/none-such", 7, TMNOFLAGS), XAER_RMERR);
	assert_int_equal(x->xa_open_entry((char *)(uintptr_t) "/proc", 7, TMNOFLAGS), XAER_RMERR);
	assert_int_equal(x->xa_close_entry(NULL, 7, TMNOFLAGS), XA_OK);
	assert_int_equal(x->xa_close_entry(NULL, 7, TMFAIL), XAER_INVAL);
	assert_int_equal(x->xa_recover_entry(room, 2, 7, TMSTARTRSCAN), XAER_PROTO);
	assert_int_equal(x->xa_recover_entry(room, -1, 7, TMSTARTRSCAN), XAER_INVAL);
	assert_int_equal(x->xa_recover_entry(NULL, 1, 7, TMSTARTRSCAN), XAER_INVAL);
	assert_int_equal(x->xa_recover_entry(room, 2, 7, TMSTARTRSCAN | TMASYNC), XAER_ASYNC);
	assert_int_equal(x->xa_recover_entry(room, 2, 7, TMJOIN), XAER_INVAL);
	assert_int_equal(x->xa_complete_entry(&handle, &result, 7, TMNOWAIT), XAER_PROTO);
	assert_int_equal(x->xa_complete_entry(&handle, &result, 7, TMJOIN), XAER_INVAL);
}

static void test_outside_of_branches(void **state UNUSED)
{
	char buf[2] = "x";

	assert_int_equal(txnfs_xa_root(7, buf, sizeof(buf)), -ENOTCONN);
	assert_string_equal(buf, "");
	assert_int_equal(txnfs_xa_root(7, NULL, 0), -ENOTCONN);
	assert_int_equal(txnfs_xa_failed(7, EDEADLK), -ENOTCONN);
	assert_int_not_equal(*txnfs_xa_error(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_examples),
		cmocka_unit_test(test_all_lengths_and_bytes),
		cmocka_unit_test(test_bad_xids),
		cmocka_unit_test(test_bad_gids),
		cmocka_unit_test(test_open_strings),
		cmocka_unit_test(test_bad_open_strings),
		cmocka_unit_test(test_the_switch),
		cmocka_unit_test(test_calls_that_are_not_allowed),
		cmocka_unit_test(test_outside_of_branches),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
