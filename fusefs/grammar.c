/* grammar.c - the control language. A command is split into words first, then read by its verb. */
#include "fusefs/grammar.h"

#include "base/base.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The longest sensible command has 11 words: begin transaction N isolation level read committed timeout S owner P. */
#define WORDS_MAX 16
#define SHOWN_MAX 40
#define TIMEOUT_MAX 1000000000

struct word {
	const char *at; /* without the quotes */
	size_t len;
	bool quoted;
};

struct parser {
	struct word words[WORDS_MAX];
	size_t n; /* words in this command */
	size_t i; /* the next one to read */
	char *err;
	size_t errlen;
};

static int fail(struct parser *ps, int rc, const char *fmt, ...) PRINTF_LIKE(3, 4);

static int fail(struct parser *ps, int rc, const char *fmt, ...)
{
	va_list ap;

	if (ps->errlen) {
		va_start(ap, fmt);
		vsnprintf(ps->err, ps->errlen, fmt, ap);
		va_end(ap);
	}
	return rc;
}

/* A word for a message: printable, on one line, cut when long. */
struct shown {
	char text[4 * SHOWN_MAX + 4];
};

static struct shown show(const char *at, size_t len)
{
	struct shown s;
	size_t n = 0;

	for (size_t i = 0; i < len && i < SHOWN_MAX; i++) {
		unsigned char c = (unsigned char)at[i];

		if (c > ' ' && c < 0x7f)
			s.text[n++] = (char)c;
		else if (c == ' ')
			s.text[n++] = ' ';
		else
			n += (size_t)snprintf(s.text + n, 5, "\\%03o", c);
	}
	memcpy(s.text + n, len > SHOWN_MAX ? "..." : "", len > SHOWN_MAX ? 4 : 1);
	return s;
}

static struct shown show_word(const struct word *w)
{
	return show(w->at, w->len);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static bool is_separator(char c)
{
	return c == ';' || c == '\n';
}

static bool is_control(char c)
{
	unsigned char u = (unsigned char)c;

	return (u < 0x20 && u != '\t' && u != '\r' && u != '\n') || u == 0x7f;
}

static int bad_byte(struct parser *ps, char c)
{
	return fail(ps, -EINVAL, "control character \\%03o in a command", (unsigned char)c);
}

/* One word from *p, which is at its first byte; leaves *p behind it. */
static int split_word(struct parser *ps, const char **p, const char *end, struct word *w)
{
	const char *s = *p;

	if (*s == '\'')
		return fail(ps, -EINVAL, "single quote at \"%s\": names are put in double quotes",
		            show(s, (size_t)(end - s)).text);
	w->quoted = *s == '"';
	if (w->quoted) {
		w->at = ++s;
		for (;; s++) {
			if (s == end)
				return fail(ps, -EINVAL, "no closing quote after \"%s",
				            show(w->at, (size_t)(end - w->at)).text);
			if (is_control(*s))
				return bad_byte(ps, *s);
			if (*s != '"')
				continue;
			if (s + 1 == end || s[1] != '"')
				break;
			s++;
		}
		w->len = (size_t)(s - w->at);
		s++;
	} else {
		w->at = s;
		while (s < end && !is_blank(*s) && !is_separator(*s) && !is_control(*s) && *s != '"' && *s != '\'')
			s++;
		w->len = (size_t)(s - w->at);
	}
	if (s < end && is_control(*s))
		return bad_byte(ps, *s);
	if (s < end && !is_blank(*s) && !is_separator(*s))
		return fail(ps, -EINVAL, "\"%s\" goes on where a blank should be: put the whole name in double quotes",
		            show_word(w).text);
	*p = s;
	return 0;
}

/* Split text up to the end of its first command into words; none when there was no command left. */
static int split(struct parser *ps, const char *text, size_t len, size_t *used)
{
	const char *p = text, *end = text + len;

	while (p < end) {
		if (is_separator(*p)) {
			p++;
			if (ps->n)
				break;
		} else if (is_blank(*p)) {
			p++;
		} else if (is_control(*p)) {
			return bad_byte(ps, *p);
		} else if (*p == '#') {
			for (; p < end && *p != '\n'; p++) {
				if (is_control(*p))
					return bad_byte(ps, *p);
			}
		} else {
			struct word w;
			int rc = split_word(ps, &p, end, &w);

			if (rc)
				return rc;
			if (ps->n == WORDS_MAX)
				return fail(ps, -EINVAL, "too many words, at \"%s\"", show_word(&w).text);
			ps->words[ps->n++] = w;
		}
	}
	*used = (size_t)(p - text);
	return 0;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool word_is(const struct word *w, const char *keyword)
{
	size_t n = strlen(keyword);

	if (w->quoted || w->len != n)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (lower(w->at[i]) != keyword[i])
			return false;
	}
	return true;
}

/* Step over the next word when it is this keyword. */
static bool accept(struct parser *ps, const char *keyword)
{
	if (ps->i == ps->n || !word_is(&ps->words[ps->i], keyword))
		return false;
	ps->i++;
	return true;
}

/* The same for a word that can also be the name asked for: it is a keyword only when another word follows. */
static void accept_noise(struct parser *ps, const char *keyword)
{
	if (ps->i + 1 < ps->n)
		accept(ps, keyword);
}

static int finish(struct parser *ps)
{
	if (ps->i < ps->n)
		return fail(ps, -EINVAL, "unexpected \"%s\" after \"%s\"", show_word(&ps->words[ps->i]).text,
		            show_word(&ps->words[ps->i - 1]).text);
	return 0;
}

/* The next word as a name of at most max bytes; what: "a savepoint's name". */
static int read_name(struct parser *ps, struct fusefs_command *cmd, size_t max, const char *what)
{
	const struct word *w;
	size_t n = 0;

	if (ps->i == ps->n)
		return fail(ps, -EINVAL, "\"%s\" needs %s", show_word(&ps->words[ps->i - 1]).text, what);
	w = &ps->words[ps->i];
	for (size_t i = 0; i < w->len; i++) {
		if (n == max)
			return fail(ps, -ENAMETOOLONG, "\"%s\" is longer than %zu bytes", show_word(w).text, max);
		cmd->name[n++] = w->at[i];
		if (w->quoted && w->at[i] == '"')
			i++; /* "" stands for one */
	}
	cmd->name[n] = '\0';
	if (n == 0)
		return fail(ps, -EINVAL, "empty name: \"%s\" needs %s", show_word(&ps->words[ps->i - 1]).text, what);
	ps->i++;
	return 0;
}

static int read_isolation(struct parser *ps, struct fusefs_command *cmd)
{
	accept(ps, "level");
	if (ps->i == ps->n)
		return fail(ps, -EINVAL, "\"isolation\" needs a level: read committed, serializable, snapshot");
	if (accept(ps, "serializable"))
		cmd->isolation = FUSEFS_SERIALIZABLE;
	else if (accept(ps, "snapshot"))
		cmd->isolation = FUSEFS_SNAPSHOT;
	else if (accept(ps, "read") && accept(ps, "committed"))
		cmd->isolation = FUSEFS_READ_COMMITTED;
	else
		return fail(ps, -EINVAL, "unknown isolation level at \"%s\": read committed, serializable, snapshot",
		            show_word(&ps->words[ps->i < ps->n ? ps->i : ps->n - 1]).text);
	return 0;
}

static int read_timeout(struct parser *ps, struct fusefs_command *cmd)
{
	const struct word *w;
	double whole = 0, part = 0, scale = 1;
	size_t i = 0, digits = 0;

	if (ps->i == ps->n)
		return fail(ps, -EINVAL, "\"timeout\" needs a number of seconds");
	w = &ps->words[ps->i++];
	/* By hand: strtod knows inf, nan, hexadecimal and the locale's comma. */
	for (; i < w->len && w->at[i] >= '0' && w->at[i] <= '9'; i++, digits++)
		whole = whole * 10 + (w->at[i] - '0');
	if (i < w->len && w->at[i] == '.') {
		for (i++; i < w->len && w->at[i] >= '0' && w->at[i] <= '9'; i++, digits++) {
			scale /= 10;
			part += (w->at[i] - '0') * scale;
		}
	}
	if (i < w->len || digits == 0 || whole + part > TIMEOUT_MAX)
		return fail(ps, -EINVAL, "timeout \"%s\" is not a number of seconds from 0 to %d", show_word(w).text,
		            TIMEOUT_MAX);
	cmd->timeout = whole + part;
	return 0;
}

static int read_owner(struct parser *ps, struct fusefs_command *cmd)
{
	const struct word *w;
	long pid = 0;
	size_t i = 0;

	if (ps->i == ps->n)
		return fail(ps, -EINVAL, "\"owner\" needs a process id");
	w = &ps->words[ps->i++];
	for (; i < w->len && w->at[i] >= '0' && w->at[i] <= '9' && pid <= INT_MAX; i++)
		pid = pid * 10 + (w->at[i] - '0');
	if (i < w->len || pid <= 0 || pid > INT_MAX)
		return fail(ps, -EINVAL, "owner \"%s\" is not a process id", show_word(w).text);
	cmd->owner = (pid_t)pid;
	return 0;
}

/* isolation, timeout and owner in any order, each at most once, up to the command's end. */
static int read_options(struct parser *ps, struct fusefs_command *cmd)
{
	static const struct {
		const char *keyword;
		size_t flag;
		int (*read)(struct parser *ps, struct fusefs_command *cmd);
	} options[] = {
		{"isolation", offsetof(struct fusefs_command, has_isolation), read_isolation},
		{"timeout", offsetof(struct fusefs_command, has_timeout), read_timeout},
		{"owner", offsetof(struct fusefs_command, has_owner), read_owner},
	};

	while (ps->i < ps->n) {
		size_t k = 0;
		bool *has;
		int rc;

		while (k < ARRAY_LEN(options) && !accept(ps, options[k].keyword))
			k++;
		if (k == ARRAY_LEN(options))
			return finish(ps);
		has = (bool *)((char *)cmd + options[k].flag);
		if (*has)
			return fail(ps, -EINVAL, "\"%s\" is given twice", options[k].keyword);
		*has = true;
		rc = options[k].read(ps, cmd);
		if (rc)
			return rc;
	}
	return 0;
}

static bool at_option(const struct parser *ps)
{
	const struct word *w = &ps->words[ps->i];

	return word_is(w, "isolation") || word_is(w, "timeout") || word_is(w, "owner");
}

static bool accept_work(struct parser *ps)
{
	return accept(ps, "transaction") || accept(ps, "work");
}

static int parse_begin(struct parser *ps, struct fusefs_command *cmd)
{
	int rc;

	cmd->verb = FUSEFS_BEGIN;
	accept_work(ps);
	if (ps->i < ps->n && !at_option(ps)) {
		rc = read_name(ps, cmd, FUSEFS_NAME_MAX, "a name");
		if (rc)
			return rc;
	}
	return read_options(ps, cmd);
}

static int parse_gid(struct parser *ps, struct fusefs_command *cmd, enum fusefs_verb verb)
{
	int rc;

	cmd->verb = verb;
	rc = read_name(ps, cmd, FUSEFS_GID_MAX, "a global transaction id");
	return rc ? rc : finish(ps);
}

static int parse_savepoint_name(struct parser *ps, struct fusefs_command *cmd, enum fusefs_verb verb)
{
	int rc;

	cmd->verb = verb;
	if (verb != FUSEFS_SAVEPOINT)
		accept_noise(ps, "savepoint");
	rc = read_name(ps, cmd, FUSEFS_NAME_MAX, "a savepoint's name");
	return rc ? rc : finish(ps);
}

static bool is_number(const struct word *w)
{
	size_t i = 0;

	while (i < w->len && w->at[i] >= '0' && w->at[i] <= '9')
		i++;
	return !w->quoted && w->len && i == w->len;
}

/* `commit [version N]` */
static int parse_commit(struct parser *ps, struct fusefs_command *cmd)
{
	const struct word *w;

	if (accept(ps, "prepared"))
		return parse_gid(ps, cmd, FUSEFS_COMMIT_PREPARED);
	cmd->verb = FUSEFS_COMMIT;
	accept_work(ps);
	if (accept(ps, "version")) {
		w = ps->i < ps->n ? &ps->words[ps->i++] : NULL;
		if (!w)
			return fail(ps, -EINVAL, "\"version\" needs a number, as in status");
		if (!is_number(w) || w->len > 18)
			return fail(ps, -EINVAL, "\"%s\" is not a version", show_word(w).text);
		cmd->has_version = true;
		for (size_t i = 0; i < w->len; i++)
			cmd->version = cmd->version * 10 + (unsigned)(w->at[i] - '0');
	}
	return finish(ps);
}

/* `rollback transaction N` */
static int parse_number(struct parser *ps, struct fusefs_command *cmd)
{
	const struct word *w = &ps->words[ps->i++];
	unsigned long long n = 0;

	for (size_t i = 0; i < w->len && n <= UINT_MAX; i++)
		n = n * 10 + (unsigned)(w->at[i] - '0');
	if (!n || n > UINT_MAX)
		return fail(ps, -EINVAL, "\"%s\" is not a transaction's number", show_word(w).text);
	cmd->verb = FUSEFS_ROLLBACK_NUMBER;
	cmd->number = (unsigned)n;
	return finish(ps);
}

static int parse_rollback(struct parser *ps, struct fusefs_command *cmd)
{
	if (accept(ps, "prepared"))
		return parse_gid(ps, cmd, FUSEFS_ROLLBACK_PREPARED);
	cmd->verb = FUSEFS_ROLLBACK;
	if (accept(ps, "transaction")) {
		if (ps->i < ps->n && is_number(&ps->words[ps->i]))
			return parse_number(ps, cmd);
	} else {
		accept(ps, "work");
	}
	if (accept(ps, "to"))
		return parse_savepoint_name(ps, cmd, FUSEFS_ROLLBACK_TO);
	return finish(ps);
}

static int parse_words(struct parser *ps, struct fusefs_command *cmd)
{
	if (at_option(ps)) {
		cmd->verb = FUSEFS_OPTIONS;
		return read_options(ps, cmd);
	}
	if (accept(ps, "begin"))
		return parse_begin(ps, cmd);
	if (accept(ps, "commit"))
		return parse_commit(ps, cmd);
	if (accept(ps, "rollback"))
		return parse_rollback(ps, cmd);
	if (accept(ps, "savepoint"))
		return parse_savepoint_name(ps, cmd, FUSEFS_SAVEPOINT);
	if (accept(ps, "release"))
		return parse_savepoint_name(ps, cmd, FUSEFS_RELEASE);
	if (accept(ps, "prepare")) {
		accept_noise(ps, "transaction");
		return parse_gid(ps, cmd, FUSEFS_PREPARE);
	}
	return fail(ps, -EINVAL,
	            "unknown command \"%s\": begin, commit, rollback, savepoint, rollback to, release, prepare",
	            show_word(&ps->words[0]).text);
}

int fusefs_parse(const char *text, size_t len, size_t *used, struct fusefs_command *cmd, char *err, size_t errlen)
{
	struct parser ps = {.err = err, .errlen = errlen};
	int rc = split(&ps, text, len, used);

	if (rc || ps.n == 0)
		return rc;
	memset(cmd, 0, sizeof(*cmd));
	rc = parse_words(&ps, cmd);
	return rc ? rc : 1;
}

const char *fusefs_verb_name(enum fusefs_verb verb)
{
	switch (verb) {
	case FUSEFS_BEGIN:
		return "begin";
	case FUSEFS_OPTIONS:
		return "setting options";
	case FUSEFS_COMMIT:
		return "commit";
	case FUSEFS_ROLLBACK:
		return "rollback";
	case FUSEFS_SAVEPOINT:
		return "savepoint";
	case FUSEFS_ROLLBACK_NUMBER:
		return "rollback transaction";
	case FUSEFS_ROLLBACK_TO:
		return "rollback to";
	case FUSEFS_RELEASE:
		return "release";
	case FUSEFS_PREPARE:
		return "prepare";
	case FUSEFS_COMMIT_PREPARED:
		return "commit prepared";
	case FUSEFS_ROLLBACK_PREPARED:
		return "rollback prepared";
	}
	return "unknown";
}
