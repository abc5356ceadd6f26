/* test_tools.c - the program's own parts: mount options, names for the control language, paths. */
#include "fusefs/grammar.h"
#include "tools/mount.h"
#include "tools/tools.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static int parse(struct mount_options *o, const char *list, enum mount_strictness strict, char *err)
{
	*err = 0;
	return mount_options_parse(o, list, strict, err, 256);
}

static void test_options_are_sorted_out(void **state UNUSED)
{
	struct mount_options o = {0};
	char err[256];

	assert_int_equal(
		parse(&o, "allow_other,control=.ctl,checkpoint_mib=7,ro,segment_mib=4,debug", MOUNT_STRICT, err), 0);
	assert_int_equal(
		parse(&o, "checkpoint_seconds=9,max_threads=3,,max_read=4096,control=.tx,rw,", MOUNT_STRICT, err), 0);
	assert_string_equal(o.control, ".tx");
	assert_int_equal(o.checkpoint_mib, 7);
	assert_int_equal(o.checkpoint_seconds, 9);
	assert_int_equal(o.segment_mib, 4);
	assert_int_equal(o.max_threads, 3);
	assert_true(o.debug);
	assert_false(o.nonempty);
	assert_string_equal(o.fuse.p, "allow_other,ro,max_read=4096");
	mount_options_free(&o);
}

static void test_quoted_values_may_hold_commas(void **state UNUSED)
{
	struct mount_options o = {0};
	char err[256];

	assert_int_equal(parse(&o, "context=\"system_u:object_r:t:s0:c1,c2\",nodev", MOUNT_STRICT, err), 0);
	assert_string_equal(o.fuse.p, "context=\"system_u:object_r:t:s0:c1,c2\",nodev");
	mount_options_free(&o);
}

static void test_bad_options_are_named(void **state UNUSED)
{
	static const char *const bad[] = {
		"bogus",
		"allow_othe",
		"allow_others",
		"control",
		"control=",
		"control=a/b",
		"control=..",
		"ro=1",
		"checkpoint_mib=",
		"checkpoint_mib=0",
		"checkpoint_mib=-1",
		"checkpoint_mib=7x",
		"max_threads=1025",
		"segment_mib=99999999999999999999",
		"max_read",
		"noauto",
		"x-systemd.automount",
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct mount_options o = {0};
		char list[128], err[256], name[64];

		snprintf(list, sizeof(list), "nodev,%s,nosuid", bad[i]);
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(bad[i], "="), bad[i]);
		if (parse(&o, list, MOUNT_STRICT, err) != -EINVAL || !strstr(err, name))
			fail_msg("%s: \"%s\"", bad[i], err);
		mount_options_free(&o);
	}
}

static void test_fstab_options_are_skipped(void **state UNUSED)
{
	struct mount_options o = {0};
	char err[256];

	assert_int_equal(parse(&o,
	                       "rw,defaults,noauto,user,user=joe,_netdev,nofail,x-gvfs-hide,X-mount.mkdir,comment=a",
	                       MOUNT_FSTAB, err),
	                 0);
	assert_int_equal(o.fuse.n, 0);
	assert_int_equal(parse(&o, "bogus", MOUNT_FSTAB, err), -EINVAL);
	assert_int_equal(parse(&o, "bogus,nodev", MOUNT_SLOPPY, err), 0);
	assert_int_equal(parse(&o, "max_threads=no", MOUNT_SLOPPY, err), -EINVAL);
	assert_string_equal(o.fuse.p, "nodev");
	mount_options_free(&o);
}

/* Whatever name is given on the command line, the control language understands the same one. */
static void test_quoted_names_arrive(void **state UNUSED)
{
	const char *env = getenv("TXNFS_SEED");
	uint64_t seed = env ? strtoull(env, NULL, 0) : base_random_u64();

	print_message("TXNFS_SEED=%llu\n", (unsigned long long)seed);
	srandom((unsigned)seed);
	for (int round = 0; round < 2000; round++) {
		struct base_buf b = {0};
		struct fusefs_command cmd;
		char name[FUSEFS_NAME_MAX + 1], err[256] = "";
		size_t used, len = 1 + (size_t)random() % FUSEFS_NAME_MAX;

		for (size_t i = 0; i < len; i++) {
			static const char odd[] = "\"\" ;#'\\to";
			int c = (int)(random() % 255) + 1;

			name[i] = random() % 3 ? odd[(size_t)random() % (sizeof(odd) - 1)]
			                       : (char)(c < ' ' || c == 127 ? 'x' : c);
		}
		name[len] = 0;
		base_buf_printf(&b, "rollback to savepoint ");
		tool_ctl_quote(&b, name);
		base_buf_put(&b, "\n", 1);
		assert_int_equal(b.err, 0);
		if (fusefs_parse((char *)b.p, b.n, &used, &cmd, err, sizeof(err)) != 1)
			fail_msg("%.*s: %s", (int)b.n, (char *)b.p, err);
		assert_int_equal(cmd.verb, FUSEFS_ROLLBACK_TO);
		assert_string_equal(cmd.name, name);
		base_buf_free(&b);
	}
}

static void test_paths(void **state UNUSED)
{
	char dir[] = "/tmp/test_tools.XXXXXX", link[64], sub[80];
	struct tool_mount m;
	char *path;

	assert_non_null(mkdtemp(dir));
	snprintf(link, sizeof(link), "%s/link", dir);
	snprintf(sub, sizeof(sub), "%s/link/link/", dir);
	assert_int_equal(symlink(".", link), 0);
	assert_int_equal(tool_resolve(sub, &path), 0);
	assert_string_equal(path, dir);
	free(path);
	assert_int_equal(tool_mount_of(sub, &m), -ENODEV);
	snprintf(sub, sizeof(sub), "%s/nothing", dir);
	assert_int_equal(tool_resolve(sub, &path), -ENOENT);
	assert_int_equal(tool_mount_at(sub, &m), -ENOENT);
	assert_int_equal(tool_mount_at("/", &m), -ENODEV);
	unlink(link);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options_are_sorted_out), cmocka_unit_test(test_quoted_values_may_hold_commas),
		cmocka_unit_test(test_bad_options_are_named),  cmocka_unit_test(test_fstab_options_are_skipped),
		cmocka_unit_test(test_quoted_names_arrive),    cmocka_unit_test(test_paths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
