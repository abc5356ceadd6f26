/*
 * test_engine_kill.c - the process dies at any moment: a child under load is killed, recoveries are killed too, and then
 * every transaction whose commit was acknowledged must be there, and each must be there wholly or not at all.
 */
#include "tests/load_kit.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#define CYCLES 30

struct ack {
	uint64_t writer, n, count;
};

static uint64_t rng;
static uint64_t last[WRITERS], last_count; /* acknowledged */

static void tell(struct load *l, int writer, uint64_t n, uint64_t count)
{
	struct ack a = {(uint64_t)writer, n, count};

	LOAD_CHECK(write(l->ack, &a, sizeof(a)) == (ssize_t)sizeof(a));
}

/* The child: load until the end comes. */
static void work(struct kit *k, int ack, uint64_t seed)
{
	struct load l = {.k = k, .committed = tell, .ack = ack};
	struct load_writer w[WRITERS + 1];
	char err[512];

	if (kit_try_open(k, err, sizeof(err))) {
		fprintf(stderr, "child: %s\n", err);
		abort();
	}
	for (int i = 0; i <= WRITERS; i++) {
		w[i] = (struct load_writer){.l = &l, .i = i, .rng = seed * 31 + (uint64_t)i * 1000003 + 1};
		if (i < WRITERS)
			w[i].n = load_listed(k, NULL, i);
		LOAD_CHECK(pthread_create(&w[i].thread, NULL, i < WRITERS ? load_writer : load_plain, &w[i]) == 0);
	}
	for (;;)
		pause();
}

static void take(int fd, uint64_t *left)
{
	struct ack a;
	ssize_t n;

	while (*left && (n = read(fd, &a, sizeof(a))) != 0) {
		assert_int_equal(n, sizeof(a));
		assert_int_equal(a.n, last[a.writer] + 1);
		last[a.writer] = a.n;
		if (a.count > last_count)
			last_count = a.count;
		--*left;
	}
}

static void end(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("the child ended by itself: status %x", status);
}

static void load_and_kill(struct kit *k)
{
	uint64_t left = 1 + load_rnd(&rng, 60), all = UINT64_MAX;
	int p[2];
	pid_t pid;

	assert_int_equal(pipe(p), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(p[0]);
		k->threads = true;
		work(k, p[1], rng);
		_exit(1);
	}
	close(p[1]);
	take(p[0], &left);
	usleep((useconds_t)load_rnd(&rng, 3000)); /* the moment of the end is what varies */
	end(pid);
	take(p[0], &all); /* what it told before the end */
	close(p[0]);
}

/* A recovery that does not come to its end, perhaps. */
static void recover_and_kill(struct kit *k)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		char err[512];

		if (kit_try_open(k, err, sizeof(err))) {
			fprintf(stderr, "recovering child: %s\n", err);
			abort();
		}
		for (;;)
			pause();
	}
	usleep((useconds_t)load_rnd(&rng, 30000));
	end(pid);
}

static int nothing(void *arg UNUSED, const struct store_dirent *de)
{
	fail_msg("\"%s\" was left behind", de->name);
	return 0;
}

static void verify(struct kit *k)
{
	const struct store_ops *so = k->store->ops;
	uint64_t n, first = 0, most = last_count;
	char path[64];

	for (int i = 0; i < WRITERS; i++) {
		uint64_t listed = load_listed(k, NULL, i);

		/* The last one may have been durable without having told. */
		assert_true(listed == last[i] || listed == last[i] + 1);
		most += listed - last[i];
		for (int f = 0; f < FILES; f++) {
			uint64_t *words;
			struct stat st;

			snprintf(path, sizeof(path), "w%d/f%d", i, f);
			st = kit_stat(k, NULL, path);
			words = (uint64_t *)(void *)kit_get(k, NULL, path);
			assert_true(st.st_size >= 8);
			for (int x = 0; x < st.st_size / 8; x++)
				assert_int_equal(words[x], listed);
			free(words);
		}
		last[i] = listed;
	}
	for (int i = 0; i < SHARED; i++) {
		snprintf(path, sizeof(path), "shared/x%d", i);
		assert_int_equal(load_read(k, NULL, path, &n), 0);
		if (i == 0)
			first = n;
		assert_int_equal(n, first);
	}
	assert_in_range(first, last_count, most);
	assert_int_equal(load_read(k, NULL, "both", &n), 0);
	assert_int_equal(n, first);
	last_count = first;
	so->readdir(so->stage(k->store), nothing, NULL);
	so->readdir(so->trash(k->store), nothing, NULL);
}

static void killed_under_load(void **state UNUSED)
{
	const char *seed = getenv("TXNFS_SEED"), *steps = getenv("TXNFS_STEPS");
	uint64_t s = seed ? strtoull(seed, NULL, 0) : base_random_u64();
	int cycles = steps ? atoi(steps) : CYCLES;
	struct kit k;

	print_message("TXNFS_SEED=%" PRIu64 "\n", s);
	rng = s | 1;
	kit_new(&k);
	kit_close(&k);
	k.segment = 64u << 10;
	k.checkpoint_bytes = 300u << 10;
	kit_open(&k);
	load_make(&k);
	kit_close(&k);
	for (int i = 0; i < cycles; i++) {
		load_and_kill(&k);
		while (load_rnd(&rng, 2))
			recover_and_kill(&k);
		kit_open(&k);
		verify(&k);
		if (load_rnd(&rng, 2))
			kit_close(&k);
		else
			kit_crash(&k);
	}
	kit_open(&k);
	verify(&k);
	kit_free(&k);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_under_load),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("engine_kill", tests, NULL, NULL);
}
