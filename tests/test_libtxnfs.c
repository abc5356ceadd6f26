/* test_libtxnfs.c - what libtxnfs writes and reads, without a mount. */
#include "tools/lib/private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_names_are_quoted(void **state UNUSED)
{
	static const struct {
		const char *name, *text;
	} cases[] = {
		{"a", "x \"a\""},       {"two words", "x \"two words\""}, {"\"", "x \"\"\"\""},
		{"%s%n", "x \"%s%n\""}, {"a\n;b", "x \"a\n;b\""},         {"\xff", "x \"\xff\""},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct txnfs_lib_command c = {0};

		txnfs_lib_put(&c, "x");
		txnfs_lib_put_name(&c, cases[i].name);
		assert_string_equal(c.text, cases[i].text);
		assert_int_equal(c.n, strlen(cases[i].text));
		assert_false(c.overflow);
	}
}

static void test_the_longest_command_fits(void **state UNUSED)
{
	struct txnfs_options o = {TXNFS_READ_COMMITTED, INT32_MAX, INT32_MAX, NULL, {0}};
	struct txnfs_lib_command c = {0};
	char name[1024];

	memset(name, '"', sizeof(name));
	name[TXNFS_NAME_MAX] = 0;
	txnfs_lib_put(&c, "rollback to savepoint");
	txnfs_lib_put_name(&c, name);
	assert_int_equal(txnfs_lib_put_options(&c, &o), 0);
	assert_false(c.overflow);
	/* What does not fit is noticed. */
	name[TXNFS_NAME_MAX] = '"';
	name[sizeof(name) - 1] = 0;
	txnfs_lib_put_name(&c, name);
	assert_true(c.overflow);
}

static void test_options(void **state UNUSED)
{
	static const struct {
		struct txnfs_options o;
		const char *text;
	} cases[] = {
		{{0}, ""},
		{{.label = "x"}, ""},
		{{.isolation = TXNFS_READ_COMMITTED}, " isolation read committed"},
		{{.isolation = TXNFS_SERIALIZABLE}, " isolation serializable"},
		{{.isolation = TXNFS_SNAPSHOT, .owner = 7}, " isolation snapshot owner 7"},
		{{.timeout_ms = TXNFS_NO_WAIT}, " timeout 0"},
		{{.timeout_ms = 1}, " timeout 0.001"},
		{{.timeout_ms = 12345}, " timeout 12.345"},
		{{.isolation = (enum txnfs_isolation)4}, NULL},
		{{.isolation = (enum txnfs_isolation) - 1}, NULL},
		{{.timeout_ms = -2}, NULL},
		{{.owner = -1}, NULL},
		{{.reserved[0] = 1}, NULL},
		{{.reserved[7] = 1}, NULL},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct txnfs_lib_command c = {0};
		int r = txnfs_lib_put_options(&c, &cases[i].o);

		assert_int_equal(r, cases[i].text ? 0 : -EINVAL);
		if (!r)
			assert_string_equal(c.text, cases[i].text);
		else
			assert_int_not_equal(*txnfs_error(), 0);
		txnfs_lib_fail(0, "%s", "");
	}
	assert_int_equal(txnfs_lib_put_options(NULL, NULL), 0);
}

static void test_names_are_checked(void **state UNUSED)
{
	static const char *const bad[] = {".",        "..",  "ctl", "status", "changes", "transactions",
	                                  "prepared", "a/b", "/",   "a\nb",   "a\tb"};
	char name[258];

	memset(name, 'x', sizeof(name));
	name[256] = 0;
	assert_int_equal(txnfs_lib_check_name(name, 255, "it"), -ENAMETOOLONG);
	assert_string_equal(txnfs_error(), "it is longer than 255 bytes");
	name[255] = 0;
	assert_int_equal(txnfs_lib_check_name(name, 255, "it"), 0);
	assert_int_equal(txnfs_lib_check_name("", 255, "it"), -EINVAL);
	assert_int_equal(txnfs_lib_check_name(NULL, 255, "it"), -EINVAL);
	assert_int_equal(txnfs_lib_check_name("a\tb\nc\r", 255, "it"), 0);
	for (int c = 1; c < 256; c++) {
		char one[] = {(char)c, 0};
		bool wrong = (c < ' ' && !strchr("\t\n\r", c)) || c == 127;

		assert_int_equal(txnfs_lib_check_name(one, 255, "it"), wrong ? -EINVAL : 0);
	}
	assert_int_equal(txnfs_lib_check_dirname("a \"b\""), 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(txnfs_lib_check_dirname(bad[i]), -EINVAL);
}

static void test_answers(void **state UNUSED)
{
	char out[32];

	assert_true(txnfs_lib_answer("ok: done\nno transaction\n", out, sizeof(out)));
	assert_string_equal(out, "done");
	assert_false(txnfs_lib_answer("error: no such thing (ENOENT)", out, sizeof(out)));
	assert_string_equal(out, "no such thing (ENOENT)");
	assert_false(txnfs_lib_answer("", out, sizeof(out)));
	assert_string_equal(out, "");
	assert_false(
		txnfs_lib_answer("error: a text that is much longer than what there is room for", out, sizeof(out)));
	assert_int_equal(strlen(out), sizeof(out) - 1);
}

static void test_numbers(void **state UNUSED)
{
	assert_int_equal(txnfs_lib_number("began transaction 12 \"x\""), 12);
	assert_int_equal(txnfs_lib_number("began transaction 4294967295"), 4294967295u);
	assert_int_equal(txnfs_lib_number("began transaction 4294967296"), 0);
	assert_int_equal(txnfs_lib_number("began transaction 12x"), 0);
	assert_int_equal(txnfs_lib_number("began transaction "), 0);
	assert_int_equal(txnfs_lib_number("rolled back transaction 12"), 0);
	assert_int_equal(txnfs_lib_number(""), 0);
}

static void test_status(void **state UNUSED)
{
	static const char text[] = "state: active\nname: operations: 9\noperations: 3\nlast: \n";

	assert_int_equal(strncmp(txnfs_lib_status(text, "operations"), "3\n", 2), 0);
	assert_int_equal(strncmp(txnfs_lib_status(text, "state"), "active\n", 7), 0);
	assert_int_equal(*txnfs_lib_status(text, "last"), '\n');
	assert_null(txnfs_lib_status(text, "stat"));
	assert_null(txnfs_lib_status("", "state"));
	assert_null(txnfs_lib_status("state", "state"));
}

static void test_prepared(void **state UNUSED)
{
	char text[] = "g-1\t1000\t2023-11-14T22:13:20Z\t18446744073709551615\n"
		      "\"a \\\"b\\\" \\\\ \\t\\001\\377\"\t0\t-\t0\n"
		      "last\t4294967295\t2026-01-01T00:00:00Z\t3";
	struct txnfs_prepared p;
	char *next;

	assert_int_equal(txnfs_lib_prepared(text, &p, &next), 0);
	assert_string_equal(p.gid, "g-1");
	assert_int_equal(p.uid, 1000);
	assert_int_equal(p.when, 1700000000);
	assert_int_equal(p.changes, UINT64_MAX);
	assert_int_equal(txnfs_lib_prepared(next, &p, &next), 0);
	assert_string_equal(p.gid, "a \"b\" \\ \t\001\377");
	assert_int_equal(p.uid, 0);
	assert_int_equal(p.when, 0);
	assert_int_equal(txnfs_lib_prepared(next, &p, &next), 0);
	assert_string_equal(p.gid, "last");
	assert_int_equal(p.uid, UINT32_MAX);
	assert_int_equal(*next, 0);
}

static void test_bad_lists_are_refused(void **state UNUSED)
{
	static const char *const bad[] = {
		"\n",
		"g",
		"g\n",
		"g\t",
		"\t1\t-\t1",
		"g\t1\t-",
		"g\t1\t-\t",
		"g\t-1\t-\t1",
		"g\t4294967296\t-\t1",
		"g\t1\tnever\t1",
		"g\t1\t2023-11-14T22:13:20\t1",
		"g\t1\t-\t18446744073709551616",
		"g\t1\t-\t1\t1",
		"g\t1\t-\t1x",
		"\"g\t1\t-\t1",
		"\"g\\",
		"\"g\\\"\t1\t-\t1",
		"\"g\"x\t1\t-\t1",
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char line[64], *next;
		struct txnfs_prepared p;

		snprintf(line, sizeof(line), "%s", bad[i]);
		if (txnfs_lib_prepared(line, &p, &next) != -EPROTO)
			fail_msg("taken for a line of the list: %s", bad[i]);
	}
}

static void test_texts(void **state UNUSED)
{
	char copy[TXNFS_LIB_TEXT];

	assert_int_equal(txnfs_lib_fail(-EIO, "%s", "first"), -EIO);
	txnfs_lib_text_save(copy);
	assert_int_equal(txnfs_lib_fail(-ENOENT, "again: %s", txnfs_error()), -ENOENT);
	assert_string_equal(txnfs_error(), "again: first");
	txnfs_lib_text_restore(copy);
	assert_string_equal(txnfs_error(), "first");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_are_quoted),
		cmocka_unit_test(test_the_longest_command_fits),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_names_are_checked),
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_prepared),
		cmocka_unit_test(test_bad_lists_are_refused),
		cmocka_unit_test(test_texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
