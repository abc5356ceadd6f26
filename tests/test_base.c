/* test_base.c - arrays, buffers, quoting, logging and whole transfers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"
#include "base/map.h"
#include "base/os.h"
#include "tests/simos.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

static uint64_t rng;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % below;
}

static void test_vec(void **state UNUSED)
{
	struct base_vec vec = { 0 };

	for (uint64_t i = 0; i < 1000; i++)
		assert_int_equal(base_vec_push(&vec, i * i), 0);
	assert_int_equal(vec.n, 1000);
	for (uint64_t i = 0; i < 1000; i++)
		assert_int_equal(vec.v[i], i * i);
	base_vec_free(&vec);
	assert_null(vec.v);
	assert_int_equal(vec.n, 0);
}

static void test_buf(void **state UNUSED)
{
	struct base_buf b = { 0 };
	char want[20000];
	size_t n = 0;

	for (int i = 0; n < sizeof(want) - 100; i++) {
		if (rnd(2)) {
			base_buf_printf(&b, "<%d %s>", i, "text");
			n += (size_t)sprintf(want + n, "<%d %s>", i, "text");
		} else {
			char piece[64];
			size_t len = (size_t)rnd(sizeof(piece));

			for (size_t k = 0; k < len; k++)
				piece[k] = (char)('a' + rnd(26));
			base_buf_put(&b, piece, len);
			memcpy(want + n, piece, len);
			n += len;
		}
		assert_int_equal(b.p[b.n], 0);
	}
	assert_int_equal(b.err, 0);
	assert_int_equal(b.n, n);
	assert_memory_equal(b.p, want, n);

	/* Errors stick and what is there stays. */
	base_buf_put(&b, want, SIZE_MAX - 2);
	assert_int_equal(b.err, -ENOMEM);
	base_buf_put(&b, "x", 1);
	base_buf_printf(&b, "x");
	assert_int_equal(b.n, n);
	base_buf_free(&b);
	assert_int_equal(b.err, 0);
	assert_null(b.p);
}

static void test_quote(void **state UNUSED)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{ "", "\"\"" },
		{ "plain/path with spaces", "plain/path with spaces" },
		{ "tab\there", "\"tab\\there\"" },
		{ "new\nline", "\"new\\nline\"" },
		{ "quo\"te", "\"quo\\\"te\"" },
		{ "back\\slash", "\"back\\\\slash\"" },
		{ "\001\033\177", "\"\\001\\033\\177\"" },
		{ "grün/日本/🙂", "grün/日本/🙂" },
		{ "grün\n", "\"grün\\n\"" },
		{ "\xff\xc3", "\"\\377\\303\"" },
		{ "\xc3\x28", "\"\\303(\"" },
		{ "\xc0\xaf", "\"\\300\\257\"" },                             /* overlong */
		{ "\xed\xa0\x80", "\"\\355\\240\\200\"" },                    /* surrogate */
		{ "\xc2\x85", "\"\\302\\205\"" },                             /* C1 control */
		{ "a\xe2\x80\xae" "b", "\"a\\342\\200\\256b\"" },             /* right-to-left override */
		{ "\xf4\x90\x80\x80", "\"\\364\\220\\200\\200\"" },           /* beyond Unicode */
		{ "\a\b\v\f\r", "\"\\a\\b\\v\\f\\r\"" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct base_buf b = { 0 };

		base_buf_quote(&b, cases[i].in);
		assert_string_equal((char *)b.p, cases[i].out);
		base_buf_free(&b);
	}
}

/* Whatever the bytes: one line, and undoing the escapes gives them back. */
static void test_quote_is_reversible(void **state UNUSED)
{
	for (int round = 0; round < 20000; round++) {
		static const char from[] = "\a\b\t\n\v\f\r\"\\", to[] = "abtnvfr\"\\";
		struct base_buf b = { 0 };
		char in[24], back[32];
		size_t len = (size_t)rnd(sizeof(in)), n = 0;
		const char *p;

		for (size_t i = 0; i < len; i++)
			in[i] = (char)(rnd(3) ? 1 + rnd(255) : (uint64_t)"\"\\\n n0"[rnd(6)]);
		in[len] = 0;
		base_buf_quote(&b, in);
		p = (char *)b.p;
		assert_null(strpbrk(p, "\n\r\t\033"));
		if (*p != '"') {
			assert_string_equal(p, in);
			base_buf_free(&b);
			continue;
		}
		for (p++; strcmp(p, "\"") != 0; p++) {
			unsigned o;

			if (*p != '\\') {
				back[n++] = *p;
			} else if (p[1] >= '0' && p[1] <= '3') {
				assert_int_equal(sscanf(p + 1, "%3o", &o), 1);
				back[n++] = (char)o;
				p += 3;
			} else {
				const char *hit = strchr(to, *++p);

				assert_non_null(hit);
				back[n++] = from[hit - to];
			}
		}
		back[n] = 0;
		assert_string_equal(back, in);
		base_buf_free(&b);
	}
}

static void test_arithmetic(void **state UNUSED)
{
	struct timespec a = { 1, 5 }, b = { 1, 6 }, c = { 2, 0 };
	uint64_t sum;

	assert_int_equal(base_add_u64(1, 2, &sum), 0);
	assert_int_equal(sum, 3);
	assert_int_equal(base_add_u64(UINT64_MAX, 1, &sum), -EOVERFLOW);
	assert_int_equal(base_align_up(0, 8), 0);
	assert_int_equal(base_align_up(1, 8), 8);
	assert_int_equal(base_align_up(16, 8), 16);
	assert_true(base_timespec_before(&a, &b) && base_timespec_before(&b, &c));
	assert_false(base_timespec_before(&a, &a) || base_timespec_before(&c, &a));
	assert_true(base_random_u64() != base_random_u64());
}

/* What base_log writes to stderr, in one string. */
static void captured(char *out, size_t size, int level, const char *text)
{
	FILE *f = tmpfile();
	int saved = dup(STDERR_FILENO);

	assert_non_null(f);
	fflush(stderr);
	dup2(fileno(f), STDERR_FILENO);
	errno = ENOTTY;
	base_log(level, "%s", text);
	assert_int_equal(errno, ENOTTY);
	dup2(saved, STDERR_FILENO);
	close(saved);
	rewind(f);
	out[fread(out, 1, size - 1, f)] = 0;
	fclose(f);
}

static void test_log(void **state UNUSED)
{
	char out[3000], big[2000];

	captured(out, sizeof(out), LOG_INFO, "hello");
	assert_string_equal(out, "txnfs: hello\n");
	captured(out, sizeof(out), LOG_ERR, "two\nlines");
	assert_string_equal(out, "txnfs: error: two lines\n");
	captured(out, sizeof(out), LOG_WARNING, "careful");
	assert_string_equal(out, "txnfs: warning: careful\n");
	captured(out, sizeof(out), LOG_DEBUG, "quiet");
	assert_string_equal(out, "");
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	captured(out, sizeof(out), LOG_INFO, big);
	assert_true(strlen(out) < sizeof(big));
	assert_string_equal(strchr(out, '\n'), "\n");
}

/* Short transfers: at most `step` bytes each, through a table in front of another. */
struct shortened {
	const struct os *below;
	size_t step;
	int calls;
};

static ssize_t short_pread(void *ctx, int fd, void *buf, size_t n, uint64_t off)
{
	struct shortened *s = ctx;

	return s->below->pread(s->below->ctx, fd, buf, n < s->step ? n : s->step, off);
}

static ssize_t short_pwritev(void *ctx, int fd, const struct iovec *iov, int iovcnt, uint64_t off)
{
	struct shortened *s = ctx;
	size_t left = s->step, done = 0;

	s->calls++;
	for (int i = 0; i < iovcnt && left > 0; i++) {
		struct iovec one = iov[i];
		ssize_t r;

		if (one.iov_len > left)
			one.iov_len = left;
		if (one.iov_len == 0)
			continue;
		r = s->below->pwritev(s->below->ctx, fd, &one, 1, off + done);
		if (r < 0)
			return r;
		done += (size_t)r;
		left -= (size_t)r;
	}
	return (ssize_t)done;
}

static void test_whole_transfers(void **state UNUSED)
{
	struct simos *sim = simos_new(1);
	const struct os *below = simos_os(sim);
	int fd = below->openat(below->ctx, simos_dir(sim), "f", O_CREAT | O_RDWR, 0600);

	assert_true(fd > 0);
	for (int round = 0; round < 200; round++) {
		struct shortened s = { below, (size_t)rnd(700) + 1, 0 };
		struct os os = { .ctx = &s, .pread = short_pread, .pwritev = short_pwritev };
		uint8_t want[5000], got[5000];
		struct iovec iov[100];
		int n = (int)rnd(ARRAY_LEN(iov)) + 1;
		size_t total = 0;
		uint64_t off = rnd(1000);

		for (int i = 0; i < n; i++) {
			iov[i] = (struct iovec){ want + total, (size_t)rnd(50) };
			for (size_t k = 0; k < iov[i].iov_len; k++)
				want[total++] = (uint8_t)rnd(256);
		}
		if (round % 4 == 0)
			s.step = sizeof(want);
		assert_int_equal(os_pwritev_full(&os, fd, iov, n, off), 0);
		/* A transfer that the kernel takes whole is one call, which is what the log counts on. */
		if (round % 4 == 0 && n <= 64)
			assert_true(s.calls <= 1);
		assert_int_equal(os_pread_full(&os, fd, got, total, off), 0);
		assert_memory_equal(got, want, total);
		assert_int_equal(os_pread_full(&os, fd, got, 1, 1 << 20), -EIO);
	}
	below->close(below->ctx, fd);
	simos_free(sim);
}

static int count_names(void *arg, const char *name)
{
	int *n = arg;

	return ++*n == 2 && strlen(name) > 0 ? 7 : 0;
}

static void test_os_real(void **state UNUSED)
{
	const struct os *os = os_real();
	char dir[] = "/tmp/test_base.XXXXXX", buf[16];
	struct iovec iov[] = { { (void *)(uintptr_t)"abc", 3 }, { (void *)(uintptr_t)"def", 3 } };
	uint64_t size;
	int d, fd, n = 0;

	assert_non_null(mkdtemp(dir));
	d = os->openat(os->ctx, AT_FDCWD, dir, O_RDONLY | O_DIRECTORY, 0);
	assert_true(d >= 0);
	assert_int_equal(os->list(os->ctx, d, count_names, &n), 0);
	assert_int_equal(n, 0);
	fd = os->openat(os->ctx, d, "a", O_RDWR | O_CREAT, 0600);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(os_pwritev_full(os, fd, iov, 2, 1), 0);
	assert_int_equal(os->size(os->ctx, fd, &size), 0);
	assert_int_equal(size, 7);
	assert_int_equal(os_pread_full(os, fd, buf, 7, 0), 0);
	assert_memory_equal(buf, "\0abcdef", 7);
	assert_int_equal(os_pread_full(os, fd, buf, 8, 0), -EIO);
	assert_int_equal(os->allocate(os->ctx, fd, 9), 0);
	assert_int_equal(os->size(os->ctx, fd, &size), 0);
	assert_int_equal(size, 9);
	assert_int_equal(os_pread_full(os, fd, buf, 9, 0), 0);
	assert_memory_equal(buf, "\0abcdef\0\0", 9);
	assert_int_equal(os->ftruncate(os->ctx, fd, 2), 0);
	assert_int_equal(os->size(os->ctx, fd, &size), 0);
	assert_int_equal(size, 2);
	assert_int_equal(os->fdatasync(os->ctx, fd), 0);
	assert_int_equal(os->close(os->ctx, fd), 0);
	assert_int_equal(os->close(os->ctx, -1), -EBADF);
	assert_int_equal(os->renameat(os->ctx, d, "a", "b"), 0);
	assert_int_equal(os->renameat(os->ctx, d, "a", "b"), -ENOENT);
	assert_int_equal(os->fsync(os->ctx, d), 0);
	assert_int_equal(os->openat(os->ctx, d, "a", O_RDONLY, 0), -ENOENT);
	fd = os->openat(os->ctx, d, "c", O_RDWR | O_CREAT, 0600);
	assert_int_equal(os->close(os->ctx, fd), 0);
	/* Twice: listing does not move the descriptor's own position; and a callback can stop it. */
	for (int i = 0; i < 2; i++) {
		n = 0;
		assert_int_equal(os->list(os->ctx, d, count_names, &n), 7);
		assert_int_equal(n, 2);
	}
	assert_int_equal(os->unlinkat(os->ctx, d, "b"), 0);
	assert_int_equal(os->unlinkat(os->ctx, d, "b"), -ENOENT);
	assert_int_equal(os->unlinkat(os->ctx, d, "c"), 0);
	assert_int_equal(os->close(os->ctx, d), 0);
	assert_int_equal(rmdir(dir), 0);
}

struct item {
	uint64_t key;
	UT_hash_handle hh;
};

static void test_map(void **state UNUSED)
{
	struct item items[500], *map = NULL, *found, *next;
	uint64_t key;

	for (size_t i = 0; i < ARRAY_LEN(items); i++) {
		struct item *item = &items[i];

		item->key = i * 7919;
		HASH_ADD(hh, map, key, sizeof(uint64_t), item);
		assert_non_null(item->hh.tbl);
	}
	for (size_t i = 0; i < ARRAY_LEN(items); i++) {
		key = i * 7919;
		HASH_FIND(hh, map, &key, sizeof(key), found);
		assert_ptr_equal(found, &items[i]);
	}
	key = 1;
	HASH_FIND(hh, map, &key, sizeof(key), found);
	assert_null(found);
	HASH_ITER(hh, map, found, next)
		HASH_DEL(map, found);
	assert_null(map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vec),
		cmocka_unit_test(test_buf),
		cmocka_unit_test(test_quote),
		cmocka_unit_test(test_quote_is_reversible),
		cmocka_unit_test(test_arithmetic),
		cmocka_unit_test(test_log),
		cmocka_unit_test(test_whole_transfers),
		cmocka_unit_test(test_os_real),
		cmocka_unit_test(test_map),
	};
	const char *env = getenv("TXNFS_SEED");
	uint64_t seed = env ? strtoull(env, NULL, 0) : base_random_u64();

	unsetenv("TXNFS_DEBUG");
	printf("seed: TXNFS_SEED=%llu\n", (unsigned long long)seed);
	rng = seed | 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
