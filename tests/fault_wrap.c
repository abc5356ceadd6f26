/*
 * fault_wrap.c - malloc and its relatives, locks and the clock, put in their places by the linker (--wrap): allocations
 * fail on demand and are counted, a lock that is left held or taken twice is seen, and the clock repeats itself.
 *
 * What the C library allocates for itself does not pass here. For one thread.
 */
#include "tests/fault_kit.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct {
	uint64_t n, count, hits;
	enum fault_mode mode;
	unsigned paused;
	long live;
	const void *held[64];
	int nheld;
	int64_t second, tick;
	void (*trouble)(const char *line);
} W;

#define WRAPPED(ret, name, ...)                                                                                        \
	ret __real_##name(__VA_ARGS__);                                                                                \
	ret __wrap_##name(__VA_ARGS__);                                                                                \
	ret __wrap_##name(__VA_ARGS__)

void fault_on_trouble(void (*fn)(const char *line))
{
	W.trouble = fn;
}

static void trouble(const char *line)
{
	if (W.trouble)
		W.trouble(line);
	fprintf(stderr, "%s\n", line);
	abort();
}

/* ---- memory ---- */

void fault_alloc_arm(uint64_t n, enum fault_mode mode)
{
	W.n = n;
	W.mode = mode;
	W.count = W.hits = 0;
}

void fault_alloc_pause(void)
{
	W.paused++;
}

void fault_alloc_resume(void)
{
	W.paused--;
}

uint64_t fault_alloc_count(void)
{
	return W.count;
}

uint64_t fault_alloc_hits(void)
{
	return W.hits;
}

long fault_alloc_live(void)
{
	return W.live;
}

/* errno says why. */
static bool refused(void)
{
	if (W.paused)
		return false;
	W.count++;
	if (!fault_due(W.n, W.mode, W.count))
		return false;
	W.hits++;
	errno = ENOMEM;
	return true;
}

static void *counted(void *p)
{
	W.live += p != NULL;
	return p;
}

WRAPPED(void *, malloc, size_t n)
{
	return refused() ? NULL : counted(__real_malloc(n));
}

WRAPPED(void *, calloc, size_t n, size_t size)
{
	return refused() ? NULL : counted(__real_calloc(n, size));
}

WRAPPED(void *, realloc, void *p, size_t n)
{
	void *q;

	if (refused())
		return NULL;
	q = __real_realloc(p, n);
	W.live += !p && q;
	return q;
}

WRAPPED(void *, reallocarray, void *p, size_t n, size_t size)
{
	void *q;

	if (refused())
		return NULL;
	q = __real_reallocarray(p, n, size);
	W.live += !p && q;
	return q;
}

WRAPPED(char *, strdup, const char *s)
{
	return refused() ? NULL : counted(__real_strdup(s));
}

WRAPPED(char *, strndup, const char *s, size_t n)
{
	return refused() ? NULL : counted(__real_strndup(s, n));
}

WRAPPED(int, vasprintf, char **out, const char *fmt, va_list ap)
{
	int n = refused() ? -1 : __real_vasprintf(out, fmt, ap);

	W.live += n >= 0;
	return n;
}

int __wrap_asprintf(char **out, const char *fmt, ...) PRINTF_LIKE(2, 3);
int __wrap_asprintf(char **out, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = __wrap_vasprintf(out, fmt, ap);
	va_end(ap);
	return n;
}

WRAPPED(void, free, void *p)
{
	W.live -= p != NULL;
	__real_free(p);
}

/* ---- locks ---- */

int fault_locks(void)
{
	return W.nheld;
}

void fault_locks_reset(void)
{
	W.nheld = 0;
}

static void taken(const void *lock)
{
	for (int i = 0; i < W.nheld; i++)
		if (W.held[i] == lock)
			trouble("a lock is taken twice by one thread");
	if (W.nheld == (int)ARRAY_LEN(W.held))
		trouble("too many locks");
	W.held[W.nheld++] = lock;
}

static void given(const void *lock)
{
	int i = W.nheld;

	while (i > 0 && W.held[i - 1] != lock)
		i--;
	if (!i)
		trouble("a lock is given back that is not held");
	W.nheld--;
	memmove(W.held + i - 1, W.held + i, (size_t)(W.nheld - i + 1) * sizeof(W.held[0]));
}

WRAPPED(int, pthread_mutex_lock, pthread_mutex_t *m)
{
	taken(m);
	return __real_pthread_mutex_lock(m);
}

WRAPPED(int, pthread_mutex_unlock, pthread_mutex_t *m)
{
	given(m);
	return __real_pthread_mutex_unlock(m);
}

WRAPPED(int, pthread_rwlock_rdlock, pthread_rwlock_t *l)
{
	taken(l);
	return __real_pthread_rwlock_rdlock(l);
}

WRAPPED(int, pthread_rwlock_wrlock, pthread_rwlock_t *l)
{
	taken(l);
	return __real_pthread_rwlock_wrlock(l);
}

WRAPPED(int, pthread_rwlock_unlock, pthread_rwlock_t *l)
{
	given(l);
	return __real_pthread_rwlock_unlock(l);
}

/* ---- time ---- */

void fault_clock(int64_t second)
{
	W.second = second;
	W.tick = 0;
}

WRAPPED(int, clock_gettime, clockid_t id, struct timespec *now)
{
	if (!W.second || id != CLOCK_REALTIME)
		return __real_clock_gettime(id, now);
	W.tick++;
	now->tv_sec = W.second + W.tick / 1000000;
	now->tv_nsec = W.tick % 1000000 * 1000;
	return 0;
}
