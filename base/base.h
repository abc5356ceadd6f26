/*
 * base.h - what all layers share: cleanup attributes, checked arithmetic, small helpers.
 *
 * Nothing here knows of logs, transactions or FUSE. Functions return 0 or -errno unless said otherwise.
 */
#ifndef TXNFS_BASE_H
#define TXNFS_BASE_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define UNUSED __attribute__((unused))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void base_freep(void *p)
{
	free(*(void **)p);
}

static inline void base_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define CLEANUP_FREE __attribute__((cleanup(base_freep)))
#define CLEANUP_CLOSE __attribute__((cleanup(base_closep)))

/* Take the value out of a cleanup variable, leaving it empty. */
#define TAKE_PTR(p)                                                                                                    \
	({                                                                                                             \
		__typeof__(p) taken_ = (p);                                                                            \
		(p) = NULL;                                                                                            \
		taken_;                                                                                                \
	})
#define TAKE_FD(fd)                                                                                                    \
	({                                                                                                             \
		int taken_ = (fd);                                                                                     \
		(fd) = -1;                                                                                             \
		taken_;                                                                                                \
	})

static inline uint64_t base_min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t base_max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline uint64_t base_align_up(uint64_t v, uint64_t a)
{
	return (v + a - 1) / a * a;
}

/* -EOVERFLOW when the sum does not fit. */
static inline int base_add_u64(uint64_t a, uint64_t b, uint64_t *sum)
{
	return __builtin_add_overflow(a, b, sum) ? -EOVERFLOW : 0;
}

static inline bool base_timespec_before(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

/* So many milliseconds from now, by CLOCK_MONOTONIC. */
struct timespec base_after_ms(unsigned ms);
/* A condition whose timed waits go by CLOCK_MONOTONIC. */
void base_cond_init(pthread_cond_t *c);

/*
 * Growing array of u64: zero-initialise, base_vec_push, free with base_vec_free.
 * push returns -ENOMEM and leaves the array as it was.
 */
struct base_vec {
	uint64_t *v;
	size_t n;
	size_t cap;
};

int base_vec_push(struct base_vec *vec, uint64_t value);
void base_vec_free(struct base_vec *vec);

/*
 * Growing byte buffer for building records and texts: zero-initialise, free with base_buf_free. Errors stick: check
 * b->err (0 or -ENOMEM) once at the end. After a put or printf that worked, p[n] is 0: p can be used as a string.
 */
struct base_buf {
	uint8_t *p;
	size_t n;
	size_t cap;
	int err;
};

void base_buf_put(struct base_buf *b, const void *p, size_t n);
void base_buf_printf(struct base_buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void base_buf_free(struct base_buf *b);

/* Random bytes from the kernel; never fails on Linux >= 3.17 (aborts otherwise). */
uint64_t base_random_u64(void);

/*
 * Diagnostics. One line each, to stderr and, once base_log_to_syslog was called, to the system log.
 * Level as in <syslog.h>: LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG. Debug is off unless TXNFS_DEBUG is set.
 */
void base_log(int level, const char *fmt, ...) PRINTF_LIKE(2, 3);
void base_log_limit(int level); /* nothing less important than this is said */
void base_log_to_syslog(const char *ident, bool keep_stderr);

/*
 * Quote a path for one line of output, in the manner of git: plain when it holds only printable characters (ASCII or
 * well-formed UTF-8) other than '"' and '\\', else in double quotes with C escapes (\n, \t, \", \\, \ooo). The
 * empty string becomes "". Appends to b.
 */
void base_buf_quote(struct base_buf *b, const char *path);

#endif
