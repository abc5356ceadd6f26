/* test_crash_found.c - what the searches for crashes have found, each as a short history of its own. */
#include "tests/crash_world.h"
#include "tests/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

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

static struct txn_engine *open_on(struct sim *disk)
{
	struct txn_config cfg = {
		.store = sim_store(disk), .os = sim_os(disk), .wal_dirfd = sim_wal_dir(disk), .no_threads = true};
	struct txn_engine *eng;
	char err[512];

	if (txn_engine_open(&cfg, &eng, NULL, err, sizeof(err)))
		fail_msg("%s", err);
	return eng;
}

/*
 * A power cut took the records of a transaction, but left its new directories in the stage. What recovery sweeps there, the
 * next power cut brings back: their numbers must not be given to anything else.
 */
static void numbers_of_what_was_left_in_the_stage(void **state UNUSED)
{
	struct txn_new dir = {.mode = S_IFDIR | 0755}, file = {.mode = S_IFREG | 0644};
	struct store_new left = {.mode = S_IFDIR | 0755};
	struct sim *disk = sim_new(), *cut;
	struct txn_engine *eng = open_on(disk);
	struct store *store = sim_store(disk);
	struct txn_look look;
	struct txn *t;
	char name[20];

	assert_int_equal(txn_create(eng, NULL, txn_root(eng), "plain", &file, &look), 0);
	txn_obj_put(look.obj);
	/* As if made for objects 1 to 8, whose records were lost. */
	for (int i = 1; i <= 8; i++) {
		struct store_obj *obj;

		snprintf(name, sizeof(name), "%016x", i);
		assert_int_equal(store->ops->create(store->ops->stage(store), name, &left, false, &obj, NULL), 0);
		store->ops->put(obj);
	}
	txn_engine_abandon(eng);

	cut = sim_kill(disk);
	sim_free(disk);
	disk = cut;
	eng = open_on(disk);
	assert_int_equal(sim_leftovers(disk), 0);
	/* A rename of a logged file to and fro: its install goes by the stage. */
	assert_int_equal(txn_begin(eng, &t), 0);
	assert_int_equal(txn_create(eng, t, txn_root(eng), "d", &dir, &look), 0);
	txn_obj_put(look.obj);
	assert_int_equal(txn_rename(eng, t, txn_root(eng), "plain", txn_root(eng), "moved", 0), 0);
	assert_int_equal(txn_commit(t), 0);
	assert_int_equal(txn_lookup(eng, NULL, txn_root(eng), "moved", &look), 0);
	txn_put(t);
	for (int i = 1; i <= 8; i++) {
		struct store_obj *obj;

		/* They are back, and recovery has to move "moved" by way of the stage. */
		snprintf(name, sizeof(name), "%016x", i);
		store = sim_store(disk);
		assert_int_equal(store->ops->create(store->ops->stage(store), name, &left, false, &obj, NULL), 0);
		store->ops->put(obj);
	}
	store = sim_store(disk);
	assert_int_equal(store->ops->rename(store->ops->root(store), "moved", store->ops->root(store), "plain", 0), 0);
	txn_obj_put(look.obj);
	txn_engine_abandon(eng);

	cut = sim_kill(disk);
	sim_free(disk);
	disk = cut;
	eng = open_on(disk);
	assert_int_equal(txn_lookup(eng, NULL, txn_root(eng), "moved", &look), 0);
	txn_obj_put(look.obj);
	assert_int_equal(txn_lookup(eng, NULL, txn_root(eng), "plain", &look), -ENOENT);
	assert_int_equal(txn_engine_close(eng), 0);
	assert_int_equal(sim_leftovers(disk), 0);
	sim_free(disk);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(synced_attributes_of_a_logged_directory),
		cmocka_unit_test(numbers_of_what_was_left_in_the_stage),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
