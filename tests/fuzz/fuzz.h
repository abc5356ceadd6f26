/*
 * fuzz.h - what the fuzz targets share.
 *
 * A target is one file here: it runs one input and stops the program when something is wrong (fuzz_fail), knows how to
 * change an input so that it stays meaningful, and can make the seeds of its corpus. Two drivers run targets:
 * libfuzzer.c searches (clang, tests/fuzz.sh), tests/test_fuzz_corpus.c replays what is in the tree (any compiler).
 *
 * A target depends on nothing but its input: the same bytes do the same each time.
 */
#ifndef TXNFS_FUZZ_H
#define TXNFS_FUZZ_H

#include "base/base.h"

#include <stdio.h>
#include <string.h>

struct fuzz_rng {
	uint64_t state;
};

struct fuzz_target {
	const char *name; /* also the directory in corpus/ */
	size_t max;       /* longest input */
	void (*run)(const uint8_t *data, size_t size);
	/* Change an input in place; its new size, at most max. NULL: fuzz_bytes does. */
	size_t (*mutate)(struct fuzz_rng *rng, uint8_t *data, size_t size, size_t max);
	/* Give every seed to emit. */
	void (*seeds)(void (*emit)(const char *name, const void *p, size_t n));
};

extern const struct fuzz_target fuzz_log, fuzz_record, fuzz_recovery, fuzz_grammar;

/* The drivers': report what is wrong with the input being run, and do not return. */
void fuzz_fail(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
/* The drivers': change bytes without knowing what they mean. */
size_t fuzz_bytes(struct fuzz_rng *rng, uint8_t *data, size_t size, size_t max);

#define FUZZ_CHECK(ok, ...)                                                                                            \
	do {                                                                                                           \
		if (!(ok))                                                                                             \
			fuzz_fail(__VA_ARGS__);                                                                        \
	} while (0)

/* splitmix64 (Steele et al. 2014) */
static inline uint64_t fuzz_rnd(struct fuzz_rng *rng, uint64_t below)
{
	uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return (z ^ (z >> 31)) % below;
}

/* A copy that ends where its memory ends, so that a sanitizer sees every step beyond. */
static inline void *fuzz_copy(const void *p, size_t n)
{
	void *copy = malloc(n ? n : 1);

	if (!copy)
		abort();
	if (n)
		memcpy(copy, p, n);
	return copy;
}

/* A message for people: not empty, one line, nothing that a terminal would obey. */
static inline bool fuzz_readable(const char *s)
{
	const char *p = s;

	for (; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			return false;
	return p > s;
}

/* ---- reading an input: beyond its end there are zeros ---- */

struct fuzz_in {
	const uint8_t *p, *end;
};

static inline uint64_t fuzz_get(struct fuzz_in *in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && in->p < in->end; i++)
		v |= (uint64_t)*in->p++ << 8 * i;
	return v;
}

static inline const uint8_t *fuzz_get_bytes(struct fuzz_in *in, size_t want, size_t *n)
{
	const uint8_t *p = in->p;

	*n = (size_t)base_min_u64(want, (uint64_t)(in->end - in->p));
	in->p += *n;
	return p;
}

static inline void fuzz_put(struct base_buf *b, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		base_buf_put(b, &(uint8_t){(uint8_t)(v >> 8 * i)}, 1);
}

#endif
