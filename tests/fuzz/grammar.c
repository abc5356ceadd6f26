/*
 * grammar.c - fuzz target: the control language (fusefs/grammar.h) on arbitrary bytes.
 *
 * What is accepted, printed in full and parsed again, is the same command; what is refused comes with a readable line,
 * which keeps to the buffer it is given.
 */
#include "fusefs/grammar.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

#define ERR_SIZE 512

static int grammar_parse(const char *text, size_t len, size_t *used, struct fusefs_command *cmd, char *err,
                         size_t errlen)
{
	char *copy = fuzz_copy(text, len);
	int rc = fusefs_parse(copy, len, used, cmd, err, errlen);

	free(copy);
	return rc;
}

static bool grammar_same(const struct fusefs_command *a, const struct fusefs_command *b)
{
	return a->verb == b->verb && strcmp(a->name, b->name) == 0 && a->has_isolation == b->has_isolation &&
	       a->has_timeout == b->has_timeout && a->has_owner == b->has_owner && a->isolation == b->isolation &&
	       fabs(a->timeout - b->timeout) < 1e-6 && a->owner == b->owner && a->number == b->number &&
	       a->has_version == b->has_version && a->version == b->version;
}

static void grammar_print(const struct fusefs_command *c, struct base_buf *b)
{
	static const char *const words[] = {
		[FUSEFS_BEGIN] = "begin",
		[FUSEFS_OPTIONS] = "",
		[FUSEFS_COMMIT] = "commit",
		[FUSEFS_ROLLBACK] = "rollback",
		[FUSEFS_SAVEPOINT] = "savepoint",
		[FUSEFS_ROLLBACK_TO] = "rollback to",
		[FUSEFS_RELEASE] = "release",
		[FUSEFS_ROLLBACK_NUMBER] = "rollback transaction",
		[FUSEFS_PREPARE] = "prepare",
		[FUSEFS_COMMIT_PREPARED] = "commit prepared",
		[FUSEFS_ROLLBACK_PREPARED] = "rollback prepared",
	};
	static const char *const levels[] = {"read committed", "serializable", "snapshot"};

	base_buf_printf(b, "%s", words[c->verb]);
	if (c->name[0]) {
		base_buf_printf(b, " \"");
		for (const char *p = c->name; *p; p++)
			base_buf_printf(b, *p == '"' ? "\"\"" : "%c", *p);
		base_buf_printf(b, "\"");
	}
	if (c->verb == FUSEFS_ROLLBACK_NUMBER)
		base_buf_printf(b, " %u", c->number);
	if (c->has_version)
		base_buf_printf(b, " version %llu", (unsigned long long)c->version);
	if (c->has_isolation)
		base_buf_printf(b, " isolation %s", levels[c->isolation]);
	if (c->has_timeout)
		base_buf_printf(b, " timeout %.9f", c->timeout);
	if (c->has_owner)
		base_buf_printf(b, " owner %d", (int)c->owner);
}

static void grammar_accepted(const char *text, size_t used, const struct fusefs_command *cmd)
{
	struct base_buf b = {0};
	struct fusefs_command again;
	size_t used_again = 0;
	char err[ERR_SIZE];

	FUZZ_CHECK(fusefs_verb_name(cmd->verb)[0], "verb %d has no name", cmd->verb);
	FUZZ_CHECK(cmd->verb <= FUSEFS_ROLLBACK_PREPARED && cmd->isolation <= FUSEFS_SNAPSHOT, "values out of range");
	FUZZ_CHECK(!cmd->has_timeout || (cmd->timeout >= 0 && cmd->timeout <= 1e9), "timeout %f", cmd->timeout);
	FUZZ_CHECK(!cmd->has_owner || cmd->owner > 0, "owner %d", (int)cmd->owner);
	/* Nothing behind the command has any say in it. */
	FUZZ_CHECK(grammar_parse(text, used, &used_again, &again, err, sizeof(err)) == 1 && used_again == used &&
	                   grammar_same(cmd, &again),
	           "the command alone is another one");
	grammar_print(cmd, &b);
	FUZZ_CHECK(grammar_parse((char *)b.p, b.n, &used_again, &again, err, sizeof(err)) == 1,
	           "printed back it is refused: %s: %s", (char *)b.p, err);
	FUZZ_CHECK(used_again == b.n && grammar_same(cmd, &again), "printed back it is another one: %s", (char *)b.p);
	base_buf_free(&b);
}

static void grammar_refused(const char *text, size_t len, int rc, const char *err)
{
	struct fusefs_command cmd;
	char tiny[8];
	size_t used;

	FUZZ_CHECK(rc == -EINVAL || rc == -ENAMETOOLONG, "error %d", rc);
	FUZZ_CHECK(fuzz_readable(err) && strlen(err) < ERR_SIZE - 1, "unreadable error: \"%s\"", err);
	for (const char *p = err; *p; p++)
		FUZZ_CHECK((unsigned char)*p < 0x7f, "a byte of the input is in the error as it is: \"%s\"", err);
	memset(tiny, 'E', sizeof(tiny));
	FUZZ_CHECK(grammar_parse(text, len, &used, &cmd, tiny, sizeof(tiny)) == rc, "another error with less room");
	FUZZ_CHECK(memchr(tiny, 0, sizeof(tiny)), "the error does not keep to its buffer");
	FUZZ_CHECK(grammar_parse(text, len, &used, &cmd, NULL, 0) == rc, "another error without room");
}

static void grammar_run(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	size_t at = 0;

	for (;;) {
		struct fusefs_command cmd;
		size_t used = 0;
		char err[ERR_SIZE];
		int rc;

		memset(err, 'E', sizeof(err));
		rc = grammar_parse(text + at, size - at, &used, &cmd, err, sizeof(err));
		if (rc < 0) {
			grammar_refused(text + at, size - at, rc, err);
			return;
		}
		FUZZ_CHECK(used <= size - at, "%zu bytes used of %zu", used, size - at);
		if (rc == 0) {
			FUZZ_CHECK(used == size - at, "no command, and yet %zu bytes are left", size - at - used);
			return;
		}
		FUZZ_CHECK(rc == 1 && used > 0, "result %d, %zu bytes used", rc, used);
		grammar_accepted(text + at, used, &cmd);
		at += used;
	}
}

/* Words, separators and quotes in any order; bytes are libFuzzer's part. */
static size_t grammar_mutate(struct fuzz_rng *rng, uint8_t *data, size_t size, size_t max)
{
	static const char *const words[] = {
		"begin ",
		"commit ",
		"rollback ",
		"savepoint ",
		"transaction ",
		"version ",
		"release ",
		"prepare ",
		"prepared ",
		"to ",
		"isolation ",
		"level ",
		"read ",
		"committed ",
		"serializable ",
		"snapshot ",
		"timeout ",
		"owner ",
		"transaction ",
		"work ",
		"\"",
		"\"\"",
		";",
		"\n",
		"#",
		" ",
		"1",
		"0.5",
		".",
		"2147483647",
		"1000000000",
		"name",
		"'",
	};
	const char *w = words[fuzz_rnd(rng, ARRAY_LEN(words))];
	size_t n = strlen(w), at = (size_t)fuzz_rnd(rng, size + 1);

	if (fuzz_rnd(rng, 2) || size + n > max)
		return fuzz_bytes(rng, data, size, max);
	memmove(data + at + n, data + at, size - at);
	memcpy(data + at, w, n);
	return size + n;
}

static void grammar_seeds(void (*emit)(const char *name, const void *p, size_t n))
{
	static const char *const texts[] = {
		"begin",
		"begin transaction \"two words; and \"\"more\"\"\" isolation level read committed timeout 2.5 owner 77",
		"begin x isolation snapshot\nsavepoint s; rollback to savepoint s\n# done\ncommit work",
		"begin timeout 1000000000.9",
		"timeout 3 isolation serializable owner 2147483647",
		"prepare transaction g; commit prepared g; rollback prepared g",
		"release savepoint savepoint",
		"savepoint \"a\nb\" ;rollback",
		"savepoint \xc3\xa4\xff",
		"savepoint 'a'",
		"begin \"open",
		"begin isolation read uncommitted",
		"commit\001",
	};
	char name[32];

	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		snprintf(name, sizeof(name), "seed-%02zu", i);
		emit(name, texts[i], strlen(texts[i]));
	}
}

const struct fuzz_target fuzz_grammar = {
	.name = "grammar",
	.max = 1024,
	.run = grammar_run,
	.mutate = grammar_mutate,
	.seeds = grammar_seeds,
};
