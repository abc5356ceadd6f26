/* test_crash_found.c - what the searches for crashes have found, each as a short history of its own. */
#include "tests/crash_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct cw *world(const char *name, const char *command, bool sync_plain)
{
	struct cw_options opt = {
		.segment_size = 1 << 16, .images = 8, .again = 4, .sync_plain = sync_plain, .name = name, .command = command};

	return cw_new(1, &opt);
}

/*
 * A plain chmod of a directory that the log knows is logged too, and not forced. fsync of that directory must force it: a power
 * cut would else let recovery bring back the transaction's older mode.
 */
static void synced_attributes_of_a_logged_directory(void **state UNUSED)
{
	struct cw *w = world("chmod, commit, plain chmod, fsync", "build/tests/test_crash_found synced_attributes*", true);
	const struct cw_op mkdir = {.kind = CW_MKDIR, .path = "/a", .flags = 0755},
			   first = {.kind = CW_CHMOD, .path = "/a", .flags = 0700},
			   second = {.kind = CW_CHMOD, .path = "/a", .flags = 0720},
			   other = {.kind = CW_MKDIR, .path = "/c", .flags = 0755};

	assert_int_equal(cw_plain(w, &mkdir), 0);
	cw_begin(w, 0);
	assert_int_equal(cw_in(w, 0, &first), 0);
	assert_int_equal(cw_commit(w, 0), 0);
	assert_int_equal(cw_plain(w, &second), 0);
	/* Each of its changes is a moment at which the power may go. */
	cw_begin(w, 0);
	assert_int_equal(cw_in(w, 0, &other), 0);
	cw_rollback(w, 0);
	cw_free(w);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(synced_attributes_of_a_logged_directory),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
