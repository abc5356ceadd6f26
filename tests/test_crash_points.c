/*
 * test_crash_points.c - every sequence of up to three operations in a transaction, with savepoints and beside plain
 * operations on the same objects, and a crash at each change that it makes to the disk (crash_world.h).
 *
 *     TXNFS_SEED     chooses the sample, and what power cuts leave (printed)
 *     TXNFS_DEPTH    sequences of up to so many operations (default 3)
 *     TXNFS_SHARE    one scenario in so many (default: as many as take some seconds); 1: every one
 *     TXNFS_LESS     that share, so many times smaller (for builds that are slow)
 *     TXNFS_VARIANTS instead of a share: every sequence, and so many ways to wrap each
 *     TXNFS_AGAIN    crash each recovery of one picture in so many; 1: of each
 *     TXNFS_IMAGES   pictures of a power cut at each point and for each model
 *     TXNFS_PART     I/N: the I-th of N parts, from 0, to run them side by side
 *     TXNFS_CASE     just this scenario
 */
#include "tests/crash_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The tree: /a with two sectors' worth and an xattr, /b, /c which is a link of /d/h, /d with f, h and the empty /d/e, /s */
static const struct cw_op setup[] = {
	{CW_CREATE, "/a", NULL, 0, 0, 0644, 0},
	{CW_WRITE, "/a", NULL, 0, 700, 0, 'a'},
	{CW_SETX, "/a", NULL, 0, 5, 1, 'x'},
	{CW_CREATE, "/b", NULL, 0, 0, 0600, 0},
	{CW_WRITE, "/b", NULL, 0, 10, 0, 'b'},
	{CW_MKDIR, "/d", NULL, 0, 0, 0755, 0},
	{CW_CREATE, "/d/f", NULL, 0, 0, 0644, 0},
	{CW_WRITE, "/d/f", NULL, 0, 30, 0, 'f'},
	{CW_CREATE, "/d/h", NULL, 0, 0, 0644, 0},
	{CW_WRITE, "/d/h", NULL, 0, 40, 0, 'h'},
	{CW_LINK, "/d/h", "/c", 0, 0, 0, 0},
	{CW_MKDIR, "/d/e", NULL, 0, 0, 0755, 0},
	{CW_SYMLINK, "/s", "a", 0, 0, 0, 0},
};

static const struct cw_op vocabulary[] = {
	{CW_WRITE, "/a", NULL, 100, 50, 0, 'I'},  /* inside */
	{CW_WRITE, "/a", NULL, 600, 300, 0, 'A'}, /* across the end */
	{CW_WRITE, "/a", NULL, 5000, 20, 0, 'B'}, /* beyond it */
	{CW_APPEND, "/c", NULL, 0, 25, 0, 'P'},
	{CW_PUNCH, "/a", NULL, 50, 500, 0, 0},
	{CW_TRUNC, "/a", NULL, 0, 0, 0, 0},
	{CW_TRUNC, "/a", NULL, 300, 0, 0, 0},
	{CW_TRUNC, "/a", NULL, 1500, 0, 0, 0},
	{CW_CREATE, "/n", NULL, 0, 0, 0640, 0},
	{CW_WRITE, "/n", NULL, 0, 60, 0, 'N'},
	{CW_CREATE, "/a", NULL, 0, 0, 0666, 0},
	{CW_TMP, "/d/t", NULL, 0, 33, 0600, 'T'},
	{CW_UNLINK, "/a", NULL, 0, 0, 0, 0},
	{CW_UNLINK, "/c", NULL, 0, 0, 0, 0},
	{CW_UNLINK, "/d/h", NULL, 0, 0, 0, 0},
	{CW_RENAME, "/a", "/b", 0, 0, 0, 0}, /* over */
	{CW_RENAME, "/a", "/n", 0, 0, 0, 0},
	{CW_RENAME, "/d/f", "/a", 0, 0, 0, 0}, /* over, from another directory */
	{CW_RENAME, "/b", "/d/f", 0, 0, 0, 0},
	{CW_RENAME, "/a", "/b", 0, 0, RENAME_EXCHANGE, 0},
	{CW_RENAME, "/d", "/m", 0, 0, 0, 0}, /* a directory */
	{CW_RENAME, "/m", "/d/e", 0, 0, 0, 0}, /* over an empty one */
	{CW_RENAME, "/d/e", "/e", 0, 0, 0, 0},
	{CW_RENAME, "/a", "/d/e/a", 0, 0, 0, 0},
	{CW_MKDIR, "/m", NULL, 0, 0, 0755, 0},
	{CW_CREATE, "/m/k", NULL, 0, 0, 0644, 0},
	{CW_RMDIR, "/d/e", NULL, 0, 0, 0, 0},
	{CW_LINK, "/a", "/n", 0, 0, 0, 0},
	{CW_LINK, "/b", "/d/l", 0, 0, 0, 0},
	{CW_SYMLINK, "/n", "nowhere", 0, 0, 0, 0},
	{CW_FIFO, "/d/p", NULL, 0, 0, 0622, 0},
	{CW_CHMOD, "/a", NULL, 0, 0, 0400, 0},
	{CW_CHMOD, "/d", NULL, 0, 0, 0700, 0},
	{CW_CHOWN, "/a", NULL, 7, 0, 0, 0},
	{CW_SETX, "/a", NULL, 0, 9, 1, 'y'},
	{CW_SETX, "/d", NULL, 0, 3, 2, 'z'},
	{CW_DELX, "/a", NULL, 0, 0, 1, 0},
};
#define WORDS ARRAY_LEN(vocabulary)

/* What is done plainly beside it, to what the sequence changes as well. */
static const struct cw_op beside[] = {
	{CW_WRITE, "/a", NULL, 120, 30, 0, '1'},
	{CW_TRUNC, "/a", NULL, 200, 0, 0, 0},
	{CW_CHMOD, "/a", NULL, 0, 0, 0604, 0},
	{CW_SETX, "/a", NULL, 0, 4, 1, '2'},
	{CW_UNLINK, "/b", NULL, 0, 0, 0, 0},
	{CW_RENAME, "/b", "/n", 0, 0, 0, 0},
	{CW_CREATE, "/m", NULL, 0, 0, 0600, 0},
	{CW_RENAME, "/d", "/m", 0, 0, 0, 0},
	{CW_RENAME, "/c", "/a", 0, 0, 0, 0},
	{CW_LINK, "/a", "/d/z", 0, 0, 0, 0},
	{CW_CREATE, "/d/z", NULL, 0, 0, 0600, 0},
};
#define BESIDE ARRAY_LEN(beside)

/*
 * How a sequence of n operations is wrapped: before which a savepoint is set, after which it is rolled back to, how it ends:
 * prepared before that, and, once more opened or not, committed or rolled back.
 */
struct wrap {
	unsigned min; /* operations that this needs */
	int save, back;
	bool commit, prepare;
};
static const struct wrap wraps[] = {
	{1, -1, -1, true, false}, {1, 0, 0, true, false}, {2, 1, 1, true, false}, {2, 0, 0, true, false},
	{3, 1, 1, true, false}, {3, 1, 2, true, false}, {3, 0, 1, true, false}, {1, -1, -1, false, false},
	{1, -1, -1, true, true}, {1, -1, -1, false, true}, {2, 1, 1, true, true},
};

/* Where the plain operation goes. */
enum where { NOWHERE, BEFORE, BETWEEN, AFTER, WHERES };

struct scenario {
	unsigned word[3], n, wrap, where, plain;
	bool synced;
};

static struct cw_options options = {.segment_size = 32u << 10};
static uint64_t seed, only_case;

static uint64_t number(const char *name, uint64_t fallback)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : fallback;
}

static void run(const struct scenario *s, uint64_t id)
{
	const struct wrap *wrap = &wraps[s->wrap];
	char command[200], name[40];
	struct cw *w;

	snprintf(command, sizeof(command), "TXNFS_SEED=%" PRIu64 " TXNFS_IMAGES=%u TXNFS_AGAIN=%u TXNFS_CASE=%" PRIu64
	                                   " build/tests/test_crash_points", seed, options.images, options.again, id);
	snprintf(name, sizeof(name), "case %" PRIu64, id);
	options.command = command;
	options.name = name;
	options.sync_plain = s->synced;
	w = cw_new(seed ^ id, &options);
	cw_look(w, false);
	for (size_t i = 0; i < ARRAY_LEN(setup); i++)
		assert_int_equal(cw_plain(w, &setup[i]), 0);
	cw_reopen(w, true, false);
	if (s->where == BEFORE)
		cw_plain(w, &beside[s->plain]);
	cw_look(w, s->where == BEFORE || s->n == 1);
	cw_begin(w, 0);
	for (unsigned i = 0; i < s->n; i++) {
		/* What precedes the last operation is another scenario's end. */
		if (i + 1 == s->n)
			cw_look(w, true);
		if (wrap->save == (int)i)
			cw_savepoint(w, 0, "s");
		if (s->where == BETWEEN && i + 1 == s->n)
			cw_plain(w, &beside[s->plain]);
		cw_in(w, 0, &vocabulary[s->word[i]]);
		if (wrap->back == (int)i)
			cw_rollback_to(w, 0, "s");
	}
	if (wrap->prepare) {
		cw_prepare(w, 0);
		if (id / 7 % 3 == 0)
			cw_plain(w, &beside[id / 3 % BESIDE]);
		if (id / 5 % 2)
			cw_checkpoint(w);
		if (id / 11 % 3)
			cw_reopen(w, id / 11 % 3 == 1, id / 13 % 2);
	}
	if (wrap->commit)
		cw_commit(w, 0);
	else
		cw_rollback(w, 0);
	if (s->where == AFTER)
		cw_plain(w, &beside[s->plain]);
	cw_checkpoint(w);
	if (id % 3 == 0)
		cw_reopen(w, id % 2, id % 5 == 0);
	cw_free(w);
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* Number `id` of all: its digits say everything. False: there is none of this number (it would be another one's double). */
static bool decode(uint64_t id, struct scenario *s)
{
	*s = (struct scenario){0};
	s->synced = id % 2;
	id /= 2;
	s->where = (unsigned)(id % WHERES);
	id /= WHERES;
	s->plain = (unsigned)(id % BESIDE);
	id /= BESIDE;
	s->wrap = (unsigned)(id % ARRAY_LEN(wraps));
	id /= ARRAY_LEN(wraps);
	for (s->n = 1; s->n <= 3; s->n++) {
		uint64_t count = 1;

		for (unsigned i = 0; i < s->n; i++)
			count *= WORDS;
		if (id < count)
			break;
		id -= count;
	}
	if (s->n > 3)
		return false;
	for (unsigned i = 0; i < s->n; i++, id /= WORDS)
		s->word[i] = (unsigned)(id % WORDS);
	if (wraps[s->wrap].min > s->n || wraps[s->wrap].back >= (int)s->n)
		return false;
	return s->where != NOWHERE || (!s->plain && !s->synced);
}

static uint64_t per_sequence(void)
{
	return 2 * WHERES * BESIDE * ARRAY_LEN(wraps);
}

struct part {
	uint64_t part, parts, next;
};

static void progress(struct part *p, unsigned n, uint64_t done, uint64_t count)
{
	if (!getenv("TXNFS_PROGRESS") || p->part || done < p->next)
		return;
	fprintf(stderr, "%u operations: %5.1f%%, %" PRIu64 " points\n", n, 100.0 * (double)done / (double)count,
	        cw_counts.images + cw_counts.again);
	p->next = done + count / 50 + 1;
}

/* One in so many of all. */
static void some_of(unsigned n, uint64_t from, uint64_t count, uint64_t share, struct part *p)
{
	struct scenario s;

	for (uint64_t id = from; id < from + count; id++) {
		if ((share > 1 && mix(seed ^ id) % share) || id % p->parts != p->part || !decode(id, &s))
			continue;
		run(&s, id);
		progress(p, n, id - from, count);
	}
}

/* Each sequence, wrapped in some ways. */
static void each_of(unsigned n, uint64_t from, uint64_t count, uint64_t variants, struct part *p)
{
	uint64_t ways = per_sequence();
	struct scenario s;

	for (uint64_t q = 0; q < count / ways; q++) {
		uint64_t done = 0, id;

		/* Not all numbers stand for one: three of four tries find another. */
		for (uint64_t k = 0; q % p->parts == p->part && done < variants && k < variants * 12; k++) {
			id = from + q * ways + (variants >= ways ? k : mix(seed ^ mix(q * 977 + k)) % ways);
			if (variants >= ways && k >= ways)
				break;
			if (decode(id, &s)) {
				run(&s, id);
				done++;
			}
		}
		progress(p, n, q, count / ways);
	}
}

static void sequences(void **state)
{
	unsigned n = *(unsigned *)*state;
	uint64_t from = 0, count = 1, variants = number("TXNFS_VARIANTS", 0);
	const char *text = getenv("TXNFS_PART");
	struct part p = {0, 1, 0};
	struct scenario s;

	if (text && (sscanf(text, "%" SCNu64 "/%" SCNu64, &p.part, &p.parts) != 2 || p.part >= p.parts))
		fail_msg("TXNFS_PART=%s: not I/N", text);
	for (unsigned i = 1; i <= n; i++) {
		from += i < n ? count * WORDS : 0;
		count *= WORDS;
	}
	from *= per_sequence();
	count *= per_sequence();
	if (only_case) {
		if (only_case >= from && only_case < from + count && decode(only_case, &s))
			run(&s, only_case);
	} else if (n > number("TXNFS_DEPTH", 3)) {
		skip();
	} else if (variants) {
		each_of(n, from, count, variants, &p);
	} else {
		some_of(n, from, count, number("TXNFS_SHARE", (n == 1 ? 70 : n == 2 ? 7000 : 280000) * number("TXNFS_LESS", 1)), &p);
	}
}

static int report(void **state UNUSED)
{
	print_message("seed %" PRIu64 ": %" PRIu64 " scenarios, crashes at %" PRIu64 " changes, %" PRIu64
	              " pictures recovered, %" PRIu64 " crashes of a recovery\n",
	              seed, cw_counts.scenarios, cw_counts.points, cw_counts.images, cw_counts.again);
	return 0;
}

int main(int argc, char **argv)
{
	static unsigned lengths[] = {1, 2, 3};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(sequences, &lengths[0]),
		cmocka_unit_test_prestate(sequences, &lengths[1]),
		cmocka_unit_test_prestate(sequences, &lengths[2]),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	seed = number("TXNFS_SEED", 0);
	if (!seed)
		seed = base_random_u64() >> 16;
	only_case = number("TXNFS_CASE", 0);
	options.images = (unsigned)number("TXNFS_IMAGES", 4);
	options.again = (unsigned)number("TXNFS_AGAIN", 60);
	return cmocka_run_group_tests_name("crash_points", tests, NULL, report);
}
