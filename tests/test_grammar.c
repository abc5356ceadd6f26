/* test_grammar.c - the control language: a table of inputs, round trips of random commands, random bytes. */
#include "base/base.h"
#include "fusefs/grammar.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed, state;

static uint64_t rnd(uint64_t below)
{
	/* splitmix64 */
	uint64_t z = (state += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return (z ^ (z >> 31)) % below;
}

/* Parse a copy that ends where its memory ends, so that a sanitizer sees every step beyond. */
static int parse(const char *text, size_t len, size_t *used, struct fusefs_command *cmd, char *err)
{
	char *copy = malloc(len ? len : 1);
	int rc;

	assert_non_null(copy);
	memcpy(copy, text, len);
	memset(err, 'E', 512);
	err[511] = '\0';
	rc = fusefs_parse(copy, len, used, cmd, err, 512);
	free(copy);
	return rc;
}

struct good {
	const char *text;
	enum fusefs_verb verb;
	const char *name;
	int isolation;  /* -1: none given */
	double timeout; /* -1: none given */
	pid_t owner;    /* 0: none given */
};

#define N -1, -1, 0

static const struct good goods[] = {
	{"begin", FUSEFS_BEGIN, "", N},
	{"BEGIN", FUSEFS_BEGIN, "", N},
	{" \t\r\n;;\n begin \r\n", FUSEFS_BEGIN, "", N},
	{"# first\n# second\nbegin # third", FUSEFS_BEGIN, "", N},
	{"begin transaction", FUSEFS_BEGIN, "", N},
	{"Begin Work;", FUSEFS_BEGIN, "", N},
	{"begin work work", FUSEFS_BEGIN, "work", N},
	{"begin \"work\"", FUSEFS_BEGIN, "work", N},
	{"begin \"timeout\" timeout 1", FUSEFS_BEGIN, "timeout", -1, 1, 0},
	{"begin commit", FUSEFS_BEGIN, "commit", N},
	{"begin deploy", FUSEFS_BEGIN, "deploy", N},
	{"begin Deploy", FUSEFS_BEGIN, "Deploy", N},
	{"begin a#b", FUSEFS_BEGIN, "a#b", N},
	{"begin a #b", FUSEFS_BEGIN, "a", N},
	{"begin \"#b\"", FUSEFS_BEGIN, "#b", N},
	{"begin \"two words; and \"\"more\"\"\"", FUSEFS_BEGIN, "two words; and \"more\"", N},
	{"begin \"a\nb\"", FUSEFS_BEGIN, "a\nb", N},
	{"begin \xc3\xa4\xff", FUSEFS_BEGIN, "\xc3\xa4\xff", N},
	{"begin isolation read committed", FUSEFS_BEGIN, "", FUSEFS_READ_COMMITTED, -1, 0},
	{"begin isolation level SERIALIZABLE", FUSEFS_BEGIN, "", FUSEFS_SERIALIZABLE, -1, 0},
	{"begin x isolation snapshot", FUSEFS_BEGIN, "x", FUSEFS_SNAPSHOT, -1, 0},
	{"begin transaction x isolation level read committed timeout 2.5 owner 77", FUSEFS_BEGIN, "x",
         FUSEFS_READ_COMMITTED, 2.5, 77},
	{"begin owner 2147483647 timeout 0", FUSEFS_BEGIN, "", -1, 0, 2147483647},
	{"begin timeout .5", FUSEFS_BEGIN, "", -1, .5, 0},
	{"begin timeout 5.", FUSEFS_BEGIN, "", -1, 5, 0},
	{"begin timeout 1000000000", FUSEFS_BEGIN, "", -1, 1e9, 0},
	{"owner 12", FUSEFS_OPTIONS, "", -1, -1, 12},
	{"timeout 3 isolation snapshot", FUSEFS_OPTIONS, "", FUSEFS_SNAPSHOT, 3, 0},
	{"commit", FUSEFS_COMMIT, "", N},
	{"commit version 17", FUSEFS_COMMIT, "", N},
	{"commit work version 0", FUSEFS_COMMIT, "", N},
	{"commit work", FUSEFS_COMMIT, "", N},
	{"commit transaction", FUSEFS_COMMIT, "", N},
	{"commit prepared g1", FUSEFS_COMMIT_PREPARED, "g1", N},
	{"commit prepared prepared", FUSEFS_COMMIT_PREPARED, "prepared", N},
	{"rollback", FUSEFS_ROLLBACK, "", N},
	{"rollback work", FUSEFS_ROLLBACK, "", N},
	{"rollback to s", FUSEFS_ROLLBACK_TO, "s", N},
	{"ROLLBACK TRANSACTION TO SAVEPOINT s", FUSEFS_ROLLBACK_TO, "s", N},
	{"rollback to savepoint", FUSEFS_ROLLBACK_TO, "savepoint", N},
	{"rollback to savepoint savepoint", FUSEFS_ROLLBACK_TO, "savepoint", N},
	{"rollback to \"savepoint\"", FUSEFS_ROLLBACK_TO, "savepoint", N},
	{"rollback to to", FUSEFS_ROLLBACK_TO, "to", N},
	{"rollback prepared g", FUSEFS_ROLLBACK_PREPARED, "g", N},
	{"savepoint s", FUSEFS_SAVEPOINT, "s", N},
	{"savepoint savepoint", FUSEFS_SAVEPOINT, "savepoint", N},
	{"savepoint 1", FUSEFS_SAVEPOINT, "1", N},
	{"release s", FUSEFS_RELEASE, "s", N},
	{"release savepoint s", FUSEFS_RELEASE, "s", N},
	{"release savepoint", FUSEFS_RELEASE, "savepoint", N},
	{"prepare g", FUSEFS_PREPARE, "g", N},
	{"prepare transaction g", FUSEFS_PREPARE, "g", N},
	{"prepare transaction", FUSEFS_PREPARE, "transaction", N},
};

static void check(const struct fusefs_command *cmd, const struct good *g)
{
	assert_int_equal(cmd->verb, g->verb);
	assert_string_equal(cmd->name, g->name);
	assert_int_equal(cmd->has_isolation, g->isolation >= 0);
	assert_int_equal(cmd->has_timeout, g->timeout >= 0);
	assert_int_equal(cmd->has_owner, g->owner != 0);
	if (g->isolation >= 0)
		assert_int_equal(cmd->isolation, g->isolation);
	if (g->timeout >= 0)
		assert_true(cmd->timeout > g->timeout - 1e-6 && cmd->timeout < g->timeout + 1e-6);
	assert_int_equal(cmd->owner, g->owner);
}

static void good_inputs(void **unused UNUSED)
{
	for (size_t i = 0; i < ARRAY_LEN(goods); i++) {
		struct fusefs_command cmd;
		size_t used = 0, rest, len = strlen(goods[i].text);
		char err[512];
		int rc = parse(goods[i].text, len, &used, &cmd, err);

		if (rc != 1)
			fail_msg("\"%s\": %d %s", goods[i].text, rc, err);
		check(&cmd, &goods[i]);
		assert_in_range(used, 1, len);
		/* Nothing else is in there. */
		assert_int_equal(parse(goods[i].text + used, len - used, &rest, &cmd, err), 0);
		assert_int_equal(rest, len - used);
	}
}

#define X10 "xxxxxxxxxx"
#define X50 X10 X10 X10 X10 X10
#define X200 X50 X50 X50 X50

static const struct {
	const char *text;
	int rc;
	const char *says; /* part of the line */
} bads[] = {
	{"foo", -EINVAL, "\"foo\""},
	{"begi", -EINVAL, "\"begi\""},
	{"beginn", -EINVAL, "\"beginn\""},
	{"\"begin\"", -EINVAL, "unknown command"},
	{"begin a b", -EINVAL, "unexpected \"b\" after \"a\""},
	{"begin a isolation", -EINVAL, "needs a level"},
	{"begin isolation level", -EINVAL, "needs a level"},
	{"begin isolation read", -EINVAL, "isolation level"},
	{"begin isolation read uncommitted", -EINVAL, "\"uncommitted\""},
	{"begin isolation dirty", -EINVAL, "\"dirty\""},
	{"begin isolation \"snapshot\"", -EINVAL, "\"snapshot\""},
	{"begin timeout", -EINVAL, "needs a number"},
	{"begin timeout five", -EINVAL, "\"five\""},
	{"begin timeout -1", -EINVAL, "\"-1\""},
	{"begin timeout inf", -EINVAL, "\"inf\""},
	{"begin timeout nan", -EINVAL, "\"nan\""},
	{"begin timeout 0x10", -EINVAL, "\"0x10\""},
	{"begin timeout 1e3", -EINVAL, "\"1e3\""},
	{"begin timeout .", -EINVAL, "\".\""},
	{"begin timeout 1.2.3", -EINVAL, "\"1.2.3\""},
	{"begin timeout 1000000001", -EINVAL, "1000000001"},
	{"begin timeout " X200 X200, -EINVAL, "..."},
	{"begin timeout 99999999999999999999999999999999999999", -EINVAL, "number of seconds"},
	{"begin timeout 1 timeout 2", -EINVAL, "\"timeout\" is given twice"},
	{"begin owner", -EINVAL, "needs a process id"},
	{"begin owner 0", -EINVAL, "\"0\""},
	{"begin owner -5", -EINVAL, "\"-5\""},
	{"begin owner 5x", -EINVAL, "\"5x\""},
	{"begin owner 2147483648", -EINVAL, "2147483648"},
	{"begin owner 99999999999999999999999", -EINVAL, "process id"},
	{"begin owner 1 owner 1", -EINVAL, "twice"},
	{"begin timeout 1 name", -EINVAL, "unexpected \"name\""},
	{"timeout 1 begin", -EINVAL, "unexpected \"begin\""},
	{"begin \"\"", -EINVAL, "empty name"},
	{"savepoint \"\"", -EINVAL, "empty name"},
	{"savepoint", -EINVAL, "\"savepoint\" needs"},
	{"savepoint a b", -EINVAL, "unexpected \"b\""},
	{"savepoint 'a'", -EINVAL, "double quotes"},
	{"savepoint a'b", -EINVAL, "\"a\""},
	{"savepoint a\"b\"", -EINVAL, "\"a\""},
	{"savepoint \"a\"b", -EINVAL, "\"a\""},
	{"savepoint \"a", -EINVAL, "no closing quote"},
	{"savepoint \"a\"\"", -EINVAL, "no closing quote"},
	{"savepoint \"", -EINVAL, "no closing quote"},
	{"savepoint a\x01", -EINVAL, "\\001"},
	{"savepoint \"a\x7f\"", -EINVAL, "\\177"},
	{"\x1b[0m", -EINVAL, "\\033"},
	{"# \x02\ncommit", -EINVAL, "\\002"},
	{"savepoint " X200 X50 "xxxxxx", -ENAMETOOLONG, "255"},
	{"prepare " X200 "x", -ENAMETOOLONG, "200"},
	{"commit prepared " X200 "x", -ENAMETOOLONG, "200"},
	{"rollback prepared " X200 "x", -ENAMETOOLONG, "200"},
	{"prepare", -EINVAL, "\"prepare\" needs"},
	{"commit prepared", -EINVAL, "\"prepared\" needs"},
	{"commit now", -EINVAL, "\"now\""},
	{"commit work now", -EINVAL, "\"now\""},
	{"commit version", -EINVAL, "\"version\" needs"},
	{"commit version x", -EINVAL, "\"x\""},
	{"commit version -1", -EINVAL, "\"-1\""},
	{"commit version 1 2", -EINVAL, "\"2\""},
	{"commit version 1234567890123456789", -EINVAL, "not a version"},
	{"rollback to", -EINVAL, "\"to\" needs"},
	{"rollback s", -EINVAL, "\"s\""},
	{"rollback to savepoint a b", -EINVAL, "\"b\""},
	{"release", -EINVAL, "\"release\" needs"},
	{"release a b", -EINVAL, "\"b\""},
	{"begin a b c d e f g h i j k l m n o p q", -EINVAL, "too many words"},
};

static void assert_line(const char *err)
{
	assert_true(strlen(err) > 0 && strlen(err) < 511);
	for (const char *p = err; *p; p++)
		assert_true((unsigned char)*p >= ' ' && (unsigned char)*p < 0x7f);
}

static void bad_inputs(void **unused UNUSED)
{
	for (size_t i = 0; i < ARRAY_LEN(bads); i++) {
		struct fusefs_command cmd;
		size_t used = 0;
		char err[512], tiny[8];
		int rc = parse(bads[i].text, strlen(bads[i].text), &used, &cmd, err);

		if (rc != bads[i].rc)
			fail_msg("\"%s\": %d instead of %d", bads[i].text, rc, bads[i].rc);
		if (!strstr(err, bads[i].says))
			fail_msg("\"%s\": \"%s\" does not say \"%s\"", bads[i].text, err, bads[i].says);
		assert_line(err);
		/* A small buffer is kept to, none at all is fine. */
		rc = fusefs_parse(bads[i].text, strlen(bads[i].text), &used, &cmd, tiny, sizeof(tiny));
		assert_int_equal(rc, bads[i].rc);
		assert_true(strlen(tiny) < sizeof(tiny));
		assert_int_equal(fusefs_parse(bads[i].text, strlen(bads[i].text), &used, &cmd, NULL, 0), bads[i].rc);
	}
}

static void nothing(void **unused UNUSED)
{
	static const char *const texts[] = {"", " ", "\n", ";", " ; \r\n\t;", "#", "# begin", "#a\n;#b\n"};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct fusefs_command cmd;
		size_t used = 12345;
		char err[512];

		assert_int_equal(parse(texts[i], strlen(texts[i]), &used, &cmd, err), 0);
		assert_int_equal(used, strlen(texts[i]));
	}
}

static void nul_bytes(void **unused UNUSED)
{
	static const char text[] = "commit\0x", quoted[] = "begin \"a\0b\"";
	struct fusefs_command cmd;
	size_t used;
	char err[512];

	assert_int_equal(parse(text, sizeof(text) - 1, &used, &cmd, err), -EINVAL);
	assert_non_null(strstr(err, "\\000"));
	assert_int_equal(parse(quoted, sizeof(quoted) - 1, &used, &cmd, err), -EINVAL);
	assert_int_equal(parse("\0", 1, &used, &cmd, err), -EINVAL);
}

static void limits(void **unused UNUSED)
{
	struct fusefs_command cmd;
	char err[512], text[600], *p = text;
	size_t used;

	assert_int_equal(parse("savepoint " X200 X50 "12345", 265, &used, &cmd, err), 1);
	assert_int_equal(strlen(cmd.name), FUSEFS_NAME_MAX);
	assert_int_equal(parse("prepare " X200, 208, &used, &cmd, err), 1);
	assert_int_equal(strlen(cmd.name), FUSEFS_GID_MAX);
	/* 255 doubled quotes make a name of 255 bytes, 256 are too many. */
	for (int more = 0; more < 2; more++) {
		p = stpcpy(text, "savepoint \"");
		for (int i = 0; i < 2 * (FUSEFS_NAME_MAX + more); i++)
			*p++ = '"';
		*p++ = '"';
		assert_int_equal(parse(text, (size_t)(p - text), &used, &cmd, err), more ? -ENAMETOOLONG : 1);
	}
}

static void several(void **unused UNUSED)
{
	static const char text[] = "begin a; savepoint \"b;c\"\n# rollback\nrollback to b;;COMMIT";
	static const struct good want[] = {
		{"", FUSEFS_BEGIN, "a", N},
		{"", FUSEFS_SAVEPOINT, "b;c", N},
		{"", FUSEFS_ROLLBACK_TO, "b", N},
		{"", FUSEFS_COMMIT, "", N},
	};
	struct fusefs_command cmd;
	size_t pos = 0, used;
	char err[512];

	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		assert_int_equal(parse(text + pos, strlen(text) - pos, &used, &cmd, err), 1);
		check(&cmd, &want[i]);
		pos += used;
	}
	assert_int_equal(pos, strlen(text));
}

static void verb_names(void **unused UNUSED)
{
	assert_string_equal(fusefs_verb_name(FUSEFS_ROLLBACK_TO), "rollback to");
	for (int v = FUSEFS_BEGIN; v <= FUSEFS_ROLLBACK_PREPARED; v++)
		assert_string_not_equal(fusefs_verb_name((enum fusefs_verb)v), "unknown");
}

/* ---- random ---- */

struct out {
	char text[8192];
	size_t n;
};

static void put(struct out *o, const char *word)
{
	o->n += (size_t)snprintf(o->text + o->n, sizeof(o->text) - o->n, "%s", word);
}

/* A keyword in random case, with blanks before it. */
static void put_word(struct out *o, const char *word)
{
	static const char *const blanks[] = {" ", "\t", "  ", " \r ", "\t\t"};

	put(o, blanks[rnd(ARRAY_LEN(blanks))]);
	for (; *word; word++) {
		o->text[o->n++] = (char)(rnd(2) && *word >= 'a' && *word <= 'z' ? *word - 'a' + 'A' : *word);
		o->text[o->n] = '\0';
	}
}

/* A random name, written as itself when that can be done and else in quotes. */
static void put_name(struct out *o, char *name, size_t max)
{
	size_t len = rnd(4) ? 1 + rnd(12) : 1 + rnd(max);
	bool plain = rnd(2);

	for (size_t i = 0; i < len; i++) {
		static const char odd[] = " \t\n\";'#";
		static const char most[] = "abcxyz0189_-./\\$\xc3\xa4\xff";

		name[i] = plain || rnd(3) ? most[rnd(sizeof(most) - 1)] : odd[rnd(sizeof(odd) - 1)];
	}
	name[len] = '\0';
	put(o, " ");
	if (plain) {
		put(o, name);
		return;
	}
	put(o, "\"");
	for (char *p = name; *p; p++) {
		char one[3] = {*p, *p == '"' ? '"' : '\0', '\0'};

		put(o, one);
	}
	put(o, "\"");
}

static void put_options(struct out *o, struct good *g, bool at_least_one)
{
	unsigned given = 0;

	if (rnd(2) || at_least_one) {
		static const char *const levels[] = {"read committed", "serializable", "snapshot"};

		g->isolation = (int)rnd(3);
		put_word(o, "isolation");
		if (rnd(2))
			put_word(o, "level");
		put_word(o, levels[g->isolation]);
		given++;
	}
	if (rnd(2)) {
		char number[64];

		g->timeout = (double)rnd(1000000) / 1000;
		snprintf(number, sizeof(number), " %.3f", g->timeout);
		put_word(o, "timeout");
		put(o, number);
		given++;
	}
	if (rnd(2)) {
		char number[64];

		g->owner = (pid_t)(1 + rnd(2147483647));
		snprintf(number, sizeof(number), " %d", (int)g->owner);
		put_word(o, "owner");
		put(o, number);
	}
}

static void put_command(struct out *o, struct good *g, char *name)
{
	*name = '\0';
	*g = (struct good){.verb = (enum fusefs_verb)rnd(FUSEFS_ROLLBACK_PREPARED + 1),
	                   .name = name,
	                   .isolation = -1,
	                   .timeout = -1};
	switch (g->verb) {
	case FUSEFS_BEGIN:
		put_word(o, "begin");
		if (rnd(2))
			put_word(o, rnd(2) ? "work" : "transaction");
		if (rnd(2))
			put_name(o, name, FUSEFS_NAME_MAX);
		put_options(o, g, false);
		break;
	case FUSEFS_OPTIONS:
		put_options(o, g, true);
		break;
	case FUSEFS_COMMIT:
		put_word(o, "commit");
		if (rnd(2))
			put_word(o, rnd(2) ? "work" : "transaction");
		break;
	case FUSEFS_ROLLBACK:
	case FUSEFS_ROLLBACK_TO:
		put_word(o, "rollback");
		if (rnd(2))
			put_word(o, rnd(2) ? "work" : "transaction");
		if (g->verb == FUSEFS_ROLLBACK)
			break;
		put_word(o, "to");
		if (rnd(2))
			put_word(o, "savepoint");
		put_name(o, name, FUSEFS_NAME_MAX);
		break;
	case FUSEFS_ROLLBACK_NUMBER: {
		char number[32];

		snprintf(number, sizeof(number), " %u", (unsigned)(1 + rnd(4000000)));
		put_word(o, "rollback");
		put_word(o, "transaction");
		put(o, number);
		break;
	}
	case FUSEFS_SAVEPOINT:
		put_word(o, "savepoint");
		put_name(o, name, FUSEFS_NAME_MAX);
		break;
	case FUSEFS_RELEASE:
		put_word(o, "release");
		if (rnd(2))
			put_word(o, "savepoint");
		put_name(o, name, FUSEFS_NAME_MAX);
		break;
	case FUSEFS_PREPARE:
		put_word(o, "prepare");
		if (rnd(2))
			put_word(o, "transaction");
		put_name(o, name, FUSEFS_GID_MAX);
		break;
	case FUSEFS_COMMIT_PREPARED:
	case FUSEFS_ROLLBACK_PREPARED:
		put_word(o, g->verb == FUSEFS_COMMIT_PREPARED ? "commit" : "rollback");
		put_word(o, "prepared");
		put_name(o, name, FUSEFS_GID_MAX);
		break;
	}
}

/* What is written is read back, with several commands to a text. */
static void round_trip(void **unused UNUSED)
{
	static const char *const ends[] = {";", "\n", " ;\n", " # a comment; commit\n", "\r\n\r\n", ";;"};

	for (int i = 0; i < 20000; i++) {
		static char names[4][FUSEFS_NAME_MAX + 1];
		struct out o = {.n = 0};
		struct good want[4];
		size_t n = 1 + rnd(4), pos = 0, used;
		struct fusefs_command cmd;
		char err[512];

		for (size_t k = 0; k < n; k++) {
			put_command(&o, &want[k], names[k]);
			if (k + 1 < n || rnd(2))
				put(&o, ends[rnd(ARRAY_LEN(ends))]);
		}
		for (size_t k = 0; k < n; k++) {
			int rc = parse(o.text + pos, o.n - pos, &used, &cmd, err);

			if (rc != 1)
				fail_msg("seed %llu: %d %s\n%s", (unsigned long long)seed, rc, err, o.text + pos);
			check(&cmd, &want[k]);
			pos += used;
		}
		assert_int_equal(parse(o.text + pos, o.n - pos, &used, &cmd, err), 0);
	}
}

/* Whatever comes: no crash, no step outside, progress, and a line with each error. */
static void random_bytes(void **unused UNUSED)
{
	for (int i = 0; i < 60000; i++) {
		static const char *const pieces[] = {
			"begin",   "commit", "rollback", "to",       "savepoint", "release", "isolation", "level",
			"timeout", "owner",  "prepare",  "prepared", "read",      "\"",      ";",         "\n",
			"#",       " ",      "1",        "-",        "snapshot",  "\"\"",    "'",         "work"};
		char text[400], err[512];
		size_t len = rnd(200), pos = 0, used;
		struct fusefs_command cmd;
		int kind = (int)rnd(3), rc;

		if (kind == 0) {
			for (size_t k = 0; k < len; k++)
				text[k] = (char)rnd(256);
		} else {
			size_t n = 0;

			while (n < len) {
				const char *piece = pieces[rnd(ARRAY_LEN(pieces))];

				n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", piece, rnd(4) ? " " : "");
			}
			len = n;
			if (kind == 2 && len)
				text[rnd(len)] = (char)rnd(256);
		}
		do {
			memset(&cmd, 0xa5, sizeof(cmd));
			used = 0;
			rc = parse(text + pos, len - pos, &used, &cmd, err);
			if (rc == 1) {
				assert_in_range(used, 1, len - pos);
				assert_true(memchr(cmd.name, '\0', sizeof(cmd.name)) != NULL);
				assert_in_range(cmd.verb, 0, FUSEFS_ROLLBACK_PREPARED);
				pos += used;
			} else if (rc < 0) {
				assert_true(rc == -EINVAL || rc == -ENAMETOOLONG);
				assert_line(err);
			}
		} while (rc == 1);
	}
}

/* Noise words stay noise; only a number makes it someone's end. */
static void by_number(void **unused UNUSED)
{
	static const struct {
		const char *text;
		int verb; /* -1: refused */
		unsigned number;
	} cases[] = {
		{"rollback transaction", FUSEFS_ROLLBACK, 0},
		{"rollback work", FUSEFS_ROLLBACK, 0},
		{"rollback transaction 7", FUSEFS_ROLLBACK_NUMBER, 7},
		{"ROLLBACK Transaction 4294967295;", FUSEFS_ROLLBACK_NUMBER, 4294967295u},
		{"rollback transaction to 7", FUSEFS_ROLLBACK_TO, 0},
		{"rollback transaction to savepoint x", FUSEFS_ROLLBACK_TO, 0},
		{"rollback transaction 0", -1, 0},
		{"rollback transaction 4294967296", -1, 0},
		{"rollback transaction 99999999999999999999999", -1, 0},
		{"rollback transaction \"7\"", -1, 0},
		{"rollback transaction 7x", -1, 0},
		{"rollback transaction 7 8", -1, 0},
		{"rollback work 7", -1, 0},
		{"rollback 7", -1, 0},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct fusefs_command cmd;
		char err[256];
		size_t used;
		int r = fusefs_parse(cases[i].text, strlen(cases[i].text), &used, &cmd, err, sizeof(err));

		if (cases[i].verb < 0) {
			assert_int_equal(r, -EINVAL);
			continue;
		}
		assert_int_equal(r, 1);
		assert_int_equal(cmd.verb, cases[i].verb);
		assert_int_equal(cmd.number, cases[i].number);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_inputs), cmocka_unit_test(bad_inputs), cmocka_unit_test(nothing),
		cmocka_unit_test(nul_bytes),   cmocka_unit_test(limits),     cmocka_unit_test(several),
		cmocka_unit_test(verb_names),  cmocka_unit_test(round_trip), cmocka_unit_test(random_bytes),
		cmocka_unit_test(by_number),
	};
	const char *given = getenv("TXNFS_SEED");

	seed = given ? strtoull(given, NULL, 0) : base_random_u64();
	state = seed;
	printf("TXNFS_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
