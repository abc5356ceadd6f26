/*
 * test_fuzz_corpus.c - the fuzz targets (tests/fuzz) without a fuzzer: every input in the tree is run, those that once
 * made a target fail (tests/fuzz/crashes) and those that reach all of its code (tests/fuzz/corpus), and some changes of
 * each, which TXNFS_SEED decides. The search itself is tests/fuzz.sh.
 *
 * A failure prints how to repeat it: TXNFS_INPUT=TARGET:FILE runs one input.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/fuzz/grammar.c"
#include "tests/fuzz/log.c"
#include "tests/fuzz/record.c"
#include "tests/fuzz/recovery.c"

#include <dirent.h>
#include <signal.h>
#include <sys/mman.h>

#define INPUT_MAX 65536

/* The child that runs inputs tells here which one it is at. */
static struct progress {
	char file[512];
	uint64_t changed; /* 0: as it is in the file; else the how-many-th change of it */
	unsigned long runs;
	size_t size;
	uint8_t input[INPUT_MAX];
} * at;

void fuzz_fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	fflush(stderr);
	_exit(99);
}

size_t fuzz_bytes(struct fuzz_rng *rng, uint8_t *data, size_t size, size_t max)
{
	size_t i = (size_t)fuzz_rnd(rng, size + 1), n = 1 + (size_t)fuzz_rnd(rng, 8);

	switch (size ? fuzz_rnd(rng, 5) : 0) {
	case 0:
		if (size + n > max)
			return size;
		memmove(data + i + n, data + i, size - i);
		for (size_t k = 0; k < n; k++)
			data[i + k] = (uint8_t)fuzz_rnd(rng, 256);
		return size + n;
	case 1:
		n = n < size - i ? n : size - i;
		memmove(data + i, data + i + n, size - i - n);
		return size - n;
	case 2:
		data[fuzz_rnd(rng, size)] ^= (uint8_t)(1u << fuzz_rnd(rng, 8));
		return size;
	case 3:
		data[fuzz_rnd(rng, size)] = fuzz_rnd(rng, 2) ? 0xff : 0;
		return size;
	default:
		data[fuzz_rnd(rng, size)] = data[fuzz_rnd(rng, size)];
		return size;
	}
}

/* ---- the child ---- */

static size_t read_input(const char *path, uint8_t *buf, size_t max)
{
	FILE *f = fopen(path, "r");
	size_t n;

	if (!f)
		fuzz_fail("%s: %s", path, strerror(errno));
	n = fread(buf, 1, max, f);
	fclose(f);
	return n;
}

/* What the target says goes to stderr; kept is what belongs to the last input. */
static void run_input(const struct fuzz_target *t)
{
	if (ftruncate(2, 0) == 0)
		lseek(2, 0, SEEK_SET);
	alarm(120);
	t->run(at->input, at->size);
	alarm(0);
	at->runs++;
}

static uint64_t seed_of(const char *path, uint64_t seed)
{
	const char *name = strrchr(path, '/');

	for (name = name ? name + 1 : path; *name; name++)
		seed = (seed ^ (uint8_t)*name) * 0x100000001b3u;
	return seed;
}

static void run_file(const struct fuzz_target *t, const char *path, unsigned changes, uint64_t seed)
{
	struct fuzz_rng rng = {seed_of(path, seed)};

	snprintf(at->file, sizeof(at->file), "%s", path);
	at->size = read_input(path, at->input, t->max);
	at->changed = 0;
	run_input(t);
	for (unsigned i = 0; i < changes; i++) {
		/* Every few changes from the file again: not too far away. */
		if (i % 4 == 0)
			at->size = read_input(path, at->input, t->max);
		at->changed++;
		at->size = t->mutate(&rng, at->input, at->size, t->max);
		run_input(t);
	}
}

/* ---- the parent ---- */

static int failed(const struct fuzz_target *t, int status, int messages)
{
	char text[6000], kept[600];
	ssize_t n = pread(messages, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	snprintf(kept, sizeof(kept), "%s", at->file);
	if (at->changed) {
		const char *tmp = getenv("TMPDIR");
		FILE *f;

		snprintf(kept, sizeof(kept), "%s/txnfs-fuzz-%s-failed", tmp ? tmp : "/tmp", t->name);
		f = fopen(kept, "w");
		if (!f || fwrite(at->input, 1, at->size, f) != at->size || fclose(f))
			print_error("%s: %s\n", kept, strerror(errno));
	}
	print_error("%s\n", text);
	if (WIFSIGNALED(status))
		print_error("%s: %s\n", t->name,
		            WTERMSIG(status) == SIGALRM ? "does not end" : strsignal(WTERMSIG(status)));
	fail_msg("to repeat it: TXNFS_INPUT=%s:%s build/tests/test_fuzz_corpus", t->name, kept);
	return -1;
}

static void in_child(const struct fuzz_target *t, char **files, size_t n, unsigned changes, uint64_t seed)
{
	int messages = memfd_create("messages", MFD_CLOEXEC), status;
	pid_t pid;

	assert_true(messages >= 0);
	at->runs = 0;
	fflush(stdout);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		dup2(messages, 2);
		for (size_t i = 0; i < n; i++)
			run_file(t, files[i], changes, seed);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		failed(t, status, messages);
	close(messages);
}

static void list_files(const char *kind, const char *target, struct bb_names *names)
{
	static const char spec[] = SPEC_PATH;
	char dir[400];
	struct dirent *e;
	DIR *d;

	/* Beside SPEC.md there is tests/. */
	snprintf(dir, sizeof(dir), "%.*s/tests/fuzz/%s/%s", (int)(strrchr(spec, '/') - spec), spec, kind, target);
	d = opendir(dir);
	while (d && (e = readdir(d))) {
		char path[700];

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		bb_collect(names, &(struct store_dirent){.name = path});
	}
	if (d)
		closedir(d);
}

static void replay(const struct fuzz_target *t, unsigned changes)
{
	const char *env = getenv("TXNFS_SEED"), *only = getenv("TXNFS_INPUT");
	uint64_t seed = env ? strtoull(env, NULL, 0) : 20261120;
	struct bb_names names = {0};

	if (only) {
		const char *path = strchr(only, ':');

		assert_non_null(path);
		if (strncmp(only, t->name, strlen(t->name)) || only[strlen(t->name)] != ':')
			return;
		in_child(t, (char *[]){(char *)(uintptr_t)(path + 1)}, 1, 0, 0);
		return;
	}
	list_files("crashes", t->name, &names);
	list_files("corpus", t->name, &names);
	assert_true(names.n > 0);
	qsort(names.v, names.n, sizeof(char *), bb_by_name);
	in_child(t, names.v, names.n, changes, seed);
	print_message("%s: %zu inputs, %lu runs, TXNFS_SEED=%llu\n", t->name, names.n, at->runs,
	              (unsigned long long)seed);
	assert_int_equal(at->runs, names.n * (1 + changes));
	for (size_t i = 0; i < names.n; i++)
		free(names.v[i]);
	free(names.v);
}

static void grammar(void **state UNUSED)
{
	replay(&fuzz_grammar, 300);
}

static void record(void **state UNUSED)
{
	replay(&fuzz_record, 100);
}

static void log_files(void **state UNUSED)
{
	replay(&fuzz_log, 4);
}

static void recovery(void **state UNUSED)
{
	replay(&fuzz_recovery, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grammar),
		cmocka_unit_test(record),
		cmocka_unit_test(log_files),
		cmocka_unit_test(recovery),
	};

	at = mmap(NULL, sizeof(*at), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
