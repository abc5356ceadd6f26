/*
 * test_store_race.c - ids of removed objects while the filesystem gives their inode numbers to new ones: such an id is
 * of an object that is no more, whatever the kernel is doing to the number at that moment.
 */
#include "tests/engine_kit.h"

#include <pthread.h>
#include <stdatomic.h>

#define IDS 64
#define ROUNDS 100

static atomic_bool stop;
static char dir[300];

static void *churn(void *arg UNUSED)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/churned", dir);
	while (!atomic_load(&stop)) {
		int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

		if (fd >= 0)
			close(fd);
		unlink(path);
	}
	return NULL;
}

static void removed_while_others_are_made(void **state UNUSED)
{
	struct store_new nw = {.mode = S_IFREG | 0600, .uid = geteuid(), .gid = getegid()};
	struct store_id id[IDS];
	const struct store_ops *so;
	pthread_t thread;
	struct kit k;

	kit_new(&k);
	so = k.store->ops;
	snprintf(dir, sizeof(dir), "%s", k.dir);
	atomic_store(&stop, false);
	assert_int_equal(pthread_create(&thread, NULL, churn, NULL), 0);
	for (int i = 0; i < IDS; i++) {
		struct store_obj *obj;

		assert_int_equal(so->create(so->root(k.store), "f", &nw, false, &obj, NULL), 0);
		assert_int_equal(so->id(obj, &id[i]), 0);
		so->put(obj);
		assert_int_equal(so->unlink(so->root(k.store), "f", false), 0);
	}
	for (int i = 0; i < IDS * ROUNDS; i++) {
		struct store_obj *obj;
		int r = so->resolve(k.store, &id[i % IDS], "f", NULL, &obj);

		if (r != -ENOENT && r != -ESTALE)
			fail_msg("a removed object: %s", r ? strerror(-r) : "found");
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	kit_free(&k);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(removed_while_others_are_made),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("store_race", tests, NULL, NULL);
}
