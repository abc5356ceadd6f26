/* text.c - what is written to control files and what comes back: composing and reading lines, without any file. */
#include "tools/lib/private.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char error_text[TXNFS_LIB_TEXT];

const char *txnfs_error(void)
{
	return error_text;
}

int txnfs_lib_fail(int r, const char *fmt, ...)
{
	char text[TXNFS_LIB_TEXT]; /* the old one may be among the arguments */
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	memcpy(error_text, text, sizeof(error_text));
	return r;
}

void txnfs_lib_text_save(char *copy)
{
	memcpy(copy, error_text, TXNFS_LIB_TEXT);
}

void txnfs_lib_text_restore(const char *copy)
{
	memcpy(error_text, copy, TXNFS_LIB_TEXT);
}

/* ---- commands ---- */

void txnfs_lib_put(struct txnfs_lib_command *c, const char *fmt, ...)
{
	size_t room = sizeof(c->text) - c->n;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(c->text + c->n, room, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= room)
		c->overflow = true;
	else
		c->n += (size_t)n;
}

void txnfs_lib_put_name(struct txnfs_lib_command *c, const char *name)
{
	txnfs_lib_put(c, " \"");
	for (; *name && !c->overflow; name++)
		txnfs_lib_put(c, *name == '"' ? "\"\"" : "%c", *name);
	txnfs_lib_put(c, "\"");
}

int txnfs_lib_put_options(struct txnfs_lib_command *c, const struct txnfs_options *o)
{
	static const char *const levels[] = {[TXNFS_READ_COMMITTED] = "read committed",
	                                     [TXNFS_SERIALIZABLE] = "serializable",
	                                     [TXNFS_SNAPSHOT] = "snapshot"};

	if (!o)
		return 0;
	for (size_t i = 0; i < ARRAY_LEN(o->reserved); i++) {
		if (o->reserved[i])
			return txnfs_lib_fail(
				-EINVAL, "reserved options are set: the program is for a newer libtxnfs, or has not "
					 "set all of struct txnfs_options to zero");
	}
	if ((unsigned)o->isolation >= ARRAY_LEN(levels))
		return txnfs_lib_fail(-EINVAL, "%d is not an isolation level", (int)o->isolation);
	if (o->timeout_ms < TXNFS_NO_WAIT)
		return txnfs_lib_fail(-EINVAL, "timeout_ms %d is below TXNFS_NO_WAIT", o->timeout_ms);
	if (o->owner < 0)
		return txnfs_lib_fail(-EINVAL, "owner %d is not a process id", (int)o->owner);
	if (o->isolation != TXNFS_DEFAULT)
		txnfs_lib_put(c, " isolation %s", levels[o->isolation]);
	if (o->timeout_ms == TXNFS_NO_WAIT)
		txnfs_lib_put(c, " timeout 0");
	else if (o->timeout_ms)
		txnfs_lib_put(c, " timeout %d.%03d", o->timeout_ms / 1000, o->timeout_ms % 1000);
	if (o->owner)
		txnfs_lib_put(c, " owner %d", (int)o->owner);
	return 0;
}

/* ---- names ---- */

int txnfs_lib_check_name(const char *name, size_t max, const char *what)
{
	if (!name || !*name)
		return txnfs_lib_fail(-EINVAL, "%s is empty", what);
	if (strnlen(name, max + 1) > max)
		return txnfs_lib_fail(-ENAMETOOLONG, "%s is longer than %zu bytes", what, max);
	for (const char *p = name; *p; p++) {
		unsigned char b = (unsigned char)*p;

		if ((b < ' ' && b != '\t' && b != '\n' && b != '\r') || b == 0x7f)
			return txnfs_lib_fail(-EINVAL, "%s has the control character \\%03o in it", what, b);
	}
	return 0;
}

int txnfs_lib_check_dirname(const char *name)
{
	static const char what[] = "the transaction's name";
	static const char *const reserved[] = {".", "..", "ctl", "status", "changes", "transactions", "prepared"};
	int r = txnfs_lib_check_name(name, TXNFS_NAME_MAX, what);

	if (r)
		return r;
	if (name[strcspn(name, "/\t\n\r")])
		return txnfs_lib_fail(-EINVAL, "%s has a slash or a control character in it", what);
	for (size_t i = 0; i < ARRAY_LEN(reserved); i++) {
		if (!strcmp(name, reserved[i]))
			return txnfs_lib_fail(-EINVAL, "%s \"%s\" is reserved", what, name);
	}
	return 0;
}

/* ---- answers ---- */

bool txnfs_lib_answer(const char *text, char *out, size_t size)
{
	bool ok = !strncmp(text, "ok: ", 4);

	if (ok)
		text += 4;
	else if (!strncmp(text, "error: ", 7))
		text += 7;
	snprintf(out, size, "%.*s", (int)strcspn(text, "\n"), text);
	return ok;
}

unsigned txnfs_lib_number(const char *answer)
{
	static const char before[] = "began transaction ";
	unsigned n = 0;

	if (strncmp(answer, before, sizeof(before) - 1))
		return 0;
	for (answer += sizeof(before) - 1; *answer >= '0' && *answer <= '9'; answer++) {
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (unsigned)(*answer - '0'), &n))
			return 0;
	}
	return *answer && *answer != ' ' ? 0 : n;
}

const char *txnfs_lib_status(const char *text, const char *key)
{
	size_t n = strlen(key);

	while (*text) {
		if (!strncmp(text, key, n) && !strncmp(text + n, ": ", 2))
			return text + n + 2;
		text += strcspn(text, "\n");
		text += *text == '\n';
	}
	return NULL;
}

/* A plain word up to a tab, or one in double quotes with C escapes; decoded in place. NULL: neither. */
static char *unquote(char *p, char **word)
{
	static const char letters[] = "abfnrtv", values[] = "\a\b\f\n\r\t\v";
	const char *letter;
	char *to;

	if (*p != '"') {
		*word = p;
		return *p && *p != '\t' ? p + strcspn(p, "\t") : NULL;
	}
	*word = to = ++p;
	for (; *p != '"'; p++) {
		if (!*p || (*p == '\\' && !p[1]))
			return NULL;
		if (*p != '\\') {
			*to++ = *p;
		} else if (p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' && p[3] >= '0' && p[3] <= '7') {
			*to++ = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
			p += 3;
		} else {
			letter = strchr(letters, *++p);
			*to++ = letter ? values[letter - letters] : *p;
		}
	}
	p++;
	*to = '\0'; /* at or before the closing quote */
	return p;
}

/* A decimal number without a sign, and the byte that ends it. */
static int number(char **p, char end, uint64_t *out)
{
	char *s = *p;

	*out = 0;
	if (*s < '0' || *s > '9')
		return -EPROTO;
	for (; *s >= '0' && *s <= '9'; s++) {
		if (__builtin_mul_overflow(*out, 10u, out) || __builtin_add_overflow(*out, (uint64_t)(*s - '0'), out))
			return -EPROTO;
	}
	if (*s != end)
		return -EPROTO;
	*p = s + (end != '\0');
	return 0;
}

/* 2026-11-28T19:22:00Z, or "-" for what is no time: 0. */
static int moment(char **p, time_t *out)
{
	struct tm tm = {0};
	int n = 0;

	*out = 0;
	if (!strncmp(*p, "-\t", 2)) {
		*p += 2;
		return 0;
	}
	if (sscanf(*p, "%4d-%2d-%2dT%2d:%2d:%2dZ\t%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min,
	           &tm.tm_sec, &n) != 6 ||
	    !n)
		return -EPROTO;
	tm.tm_year -= 1900;
	tm.tm_mon--;
	*out = timegm(&tm);
	*p += n;
	return 0;
}

int txnfs_lib_prepared(char *line, struct txnfs_prepared *out, char **next)
{
	char *end = line + strcspn(line, "\n"), *p, *gid;
	uint64_t uid;
	int r;

	*next = *end ? end + 1 : end;
	*end = '\0';
	p = unquote(line, &gid);
	if (!p || *p != '\t')
		return -EPROTO;
	*p++ = '\0';
	r = number(&p, '\t', &uid);
	if (!r)
		r = uid > (uid_t)-1 ? -EPROTO : moment(&p, &out->when);
	if (!r)
		r = number(&p, '\0', &out->changes);
	if (r)
		return r;
	out->gid = gid;
	out->uid = (uid_t)uid;
	return 0;
}
