/* base.c - arrays, byte buffers, random numbers and diagnostics. */
#include "base/base.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <syslog.h>

struct timespec base_after_ms(unsigned ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

void base_cond_init(pthread_cond_t *c)
{
	pthread_condattr_t mono;

	pthread_condattr_init(&mono);
	pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
	pthread_cond_init(c, &mono);
	pthread_condattr_destroy(&mono);
}

int base_vec_push(struct base_vec *vec, uint64_t value)
{
	if (vec->n == vec->cap) {
		size_t cap = vec->cap ? vec->cap * 2 : 16;
		uint64_t *v = reallocarray(vec->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		vec->v = v;
		vec->cap = cap;
	}
	vec->v[vec->n++] = value;
	return 0;
}

void base_vec_free(struct base_vec *vec)
{
	free(vec->v);
	*vec = (struct base_vec){ 0 };
}

/* Make room for n more bytes and a NUL behind them. */
static bool buf_reserve(struct base_buf *b, size_t n)
{
	size_t need, cap;
	uint8_t *p;

	if (b->err)
		return false;
	if (__builtin_add_overflow(b->n, n, &need) || __builtin_add_overflow(need, (size_t)1, &need))
		goto nomem;
	if (need <= b->cap)
		return true;
	cap = b->cap > SIZE_MAX / 2 ? need : b->cap * 2;
	if (cap < need)
		cap = need;
	if (cap < 64)
		cap = 64;
	p = realloc(b->p, cap);
	if (!p)
		goto nomem;
	b->p = p;
	b->cap = cap;
	return true;
nomem:
	b->err = -ENOMEM;
	return false;
}

void base_buf_put(struct base_buf *b, const void *p, size_t n)
{
	if (!buf_reserve(b, n))
		return;
	if (n)
		memcpy(b->p + b->n, p, n);
	b->n += n;
	b->p[b->n] = 0;
}

void base_buf_printf(struct base_buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0) {
		b->err = b->err ? b->err : -EINVAL;
		return;
	}
	if (!buf_reserve(b, (size_t)n))
		return;
	va_start(ap, fmt);
	vsnprintf((char *)b->p + b->n, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->n += (size_t)n;
}

void base_buf_free(struct base_buf *b)
{
	free(b->p);
	*b = (struct base_buf){ 0 };
}

/* Bytes of the printable character at s (ASCII, or well-formed UTF-8 that is no control character); 0: it is none. */
static size_t printable(const uint8_t *s)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	uint32_t c = s[0];
	size_t n = c < 0x80 ? 1 : (c & 0xe0) == 0xc0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : (c & 0xf8) == 0xf0 ? 4 : 0;

	if (n == 0)
		return 0;
	if (n == 1)
		return c >= 0x20 && c != 0x7f;
	c &= 0x7fu >> n;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3fu);
	}
	if (c < least[n] || c < 0xa0 || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff)
		return 0;
	/* Line separators and bidirectional controls would change how the line around them is shown. */
	if ((c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069))
		return 0;
	return n;
}

static void quote_char(struct base_buf *b, uint8_t c)
{
	static const char from[] = "\a\b\t\n\v\f\r\"\\", to[] = "abtnvfr\"\\";
	const char *hit = memchr(from, c, sizeof(from) - 1);

	if (hit)
		base_buf_printf(b, "\\%c", to[hit - from]);
	else
		base_buf_printf(b, "\\%03o", (unsigned)c);
}

void base_buf_quote(struct base_buf *b, const char *path)
{
	const uint8_t *s = (const uint8_t *)path;
	bool plain = *s != 0;
	size_t n;

	for (const uint8_t *p = s; plain && *p; p += n) {
		n = printable(p);
		plain = n > 0 && *p != '"' && *p != '\\';
	}
	if (plain) {
		base_buf_put(b, path, strlen(path));
		return;
	}
	base_buf_put(b, "\"", 1);
	while (*s) {
		n = printable(s);
		if (n && *s != '"' && *s != '\\') {
			base_buf_put(b, s, n);
			s += n;
		} else {
			quote_char(b, *s++);
		}
	}
	base_buf_put(b, "\"", 1);
}

uint64_t base_random_u64(void)
{
	uint64_t v;
	ssize_t n;

	do
		n = getrandom(&v, sizeof(v), 0);
	while (n < 0 && errno == EINTR);
	/* Requests of up to 256 bytes are never cut short. */
	if (n != (ssize_t)sizeof(v))
		abort();
	return v;
}

static atomic_bool log_syslog;
static atomic_bool log_stderr = true;
static atomic_int log_level = LOG_INFO;
static pthread_once_t log_once = PTHREAD_ONCE_INIT;

static void log_init(void)
{
	if (getenv("TXNFS_DEBUG"))
		log_level = LOG_DEBUG;
}

void base_log_limit(int level)
{
	pthread_once(&log_once, log_init);
	log_level = level;
}

void base_log_to_syslog(const char *ident, bool keep_stderr)
{
	openlog(ident, LOG_PID, LOG_DAEMON);
	log_syslog = true;
	log_stderr = keep_stderr;
}

void base_log(int level, const char *fmt, ...)
{
	const char *mark = level <= LOG_ERR ? "error: " : level == LOG_WARNING ? "warning: " : "";
	int saved = errno;
	char line[1024];
	va_list ap;

	pthread_once(&log_once, log_init);
	if (level > log_level)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	for (char *p = line; *p; p++)
		if (*p == '\n' || *p == '\r')
			*p = ' ';
	if (log_stderr)
		fprintf(stderr, "txnfs: %s%s\n", mark, line);
	if (log_syslog)
		syslog(level, "%s", line);
	errno = saved;
}
