/* libfuzzer.c - a fuzz target under libFuzzer; FUZZ_TARGET says which. With -DFUZZ_SEEDS: writes its seeds instead. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdarg.h>

static int report_fd = 2; /* stays open when the target's own messages are shut off (-close_fd_mask) */

void fuzz_fail(const char *fmt, ...)
{
	va_list ap;

	dprintf(report_fd, "\n%s: ", FUZZ_TARGET.name);
	va_start(ap, fmt);
	vdprintf(report_fd, fmt, ap);
	va_end(ap);
	dprintf(report_fd, "\n");
	abort();
}

#ifdef FUZZ_SEEDS

static const char *seeds_dir;

size_t fuzz_bytes(struct fuzz_rng *rng UNUSED, uint8_t *data UNUSED, size_t size, size_t max UNUSED)
{
	return size;
}

static void write_seed(const char *name, const void *p, size_t n)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", seeds_dir, name);
	f = fopen(path, "w");
	if (!f || fwrite(p, 1, n, f) != n || fclose(f)) {
		perror(path);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
		return 2;
	}
	seeds_dir = argv[1];
	FUZZ_TARGET.seeds(write_seed);
	return 0;
}

#else

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

int LLVMFuzzerInitialize(int *argc UNUSED, char ***argv UNUSED)
{
	report_fd = fcntl(2, F_DUPFD_CLOEXEC, 3);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	FUZZ_TARGET.run(data, size);
	return 0;
}

size_t fuzz_bytes(struct fuzz_rng *rng UNUSED, uint8_t *data, size_t size, size_t max)
{
	return LLVMFuzzerMutate(data, size, max);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	struct fuzz_rng rng = {seed};

	return FUZZ_TARGET.mutate(&rng, data, size, max);
}

#endif
