/*
 * grammar.h - the control language: SQL's words, case-insensitive, several commands to a write, separated by ';' or
 * newlines. '#' where a word could begin starts a comment up to the end of the line (so that control scripts can be
 * kept in files).
 *
 *     begin [NAME] [isolation LEVEL] [timeout SECONDS] [owner PID]
 *     commit [version N] | rollback | savepoint NAME | rollback to [savepoint] NAME | release [savepoint] NAME
 *     rollback transaction N
 *     prepare GID | commit prepared GID | rollback prepared GID
 *
 * LEVEL: `read committed`, `serializable`, `snapshot`. The options may come in any order, each once; alone they are a
 * command too (FUSEFS_OPTIONS). Optional noise words of SQL are accepted: `begin transaction`,
 * `begin work`, `commit work`, `rollback transaction to savepoint NAME` and so on. Names: 1 to 255 bytes without
 * blanks, quotes,
 * ';' and control characters, or anything up to 255 bytes between double quotes ("" stands for one "). Words of the
 * grammar can be used as names where no doubt is possible, always when quoted.
 */
#ifndef TXNFS_GRAMMAR_H
#define TXNFS_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FUSEFS_NAME_MAX 255
#define FUSEFS_GID_MAX 200
#define FUSEFS_COMMAND_MAX 65536

enum fusefs_verb {
	FUSEFS_BEGIN,
	FUSEFS_OPTIONS, /* `isolation ...`, `timeout ...`, `owner PID` alone: set on a named transaction's ctl */
	FUSEFS_COMMIT,
	FUSEFS_ROLLBACK,
	FUSEFS_SAVEPOINT,
	FUSEFS_ROLLBACK_NUMBER,
	FUSEFS_ROLLBACK_TO,
	FUSEFS_RELEASE,
	FUSEFS_PREPARE,
	FUSEFS_COMMIT_PREPARED,
	FUSEFS_ROLLBACK_PREPARED,
};

enum fusefs_isolation { FUSEFS_READ_COMMITTED, FUSEFS_SERIALIZABLE, FUSEFS_SNAPSHOT };

struct fusefs_command {
	enum fusefs_verb verb;
	char name[FUSEFS_NAME_MAX + 1]; /* savepoint, transaction or GID; "" when none was given */
	bool has_isolation, has_timeout, has_owner;
	enum fusefs_isolation isolation;
	double timeout; /* seconds >= 0 */
	pid_t owner;
	bool has_version;
	uint64_t version; /* COMMIT: of this one only, as in status */
	unsigned number; /* ROLLBACK_NUMBER: whose end is wanted, as in .txn/transactions */
};

/*
 * Parse the next command of text[0..len): 1 and *used bytes consumed (with the separator behind it) when there was one,
 * 0 when only blanks, comments and separators were left, else -EINVAL or -ENAMETOOLONG with a readable line in err that
 * names the word that is wrong. NUL bytes and other control characters than \t \r \n are -EINVAL.
 */
int fusefs_parse(const char *text, size_t len, size_t *used, struct fusefs_command *cmd, char *err, size_t errlen);

/* The verb's name for messages, as in "rollback to". */
const char *fusefs_verb_name(enum fusefs_verb verb);

#endif
