/*
 * tools.h - what the subcommands of txnfs share.
 *
 * Each subcommand is a function of its own (argc, argv with argv[0] = "txnfs NAME") that returns the exit status.
 * Messages go to stderr through tool_error and tell what happened, to what, and what to do about it.
 */
#ifndef TXNFS_TOOLS_H
#define TXNFS_TOOLS_H

#include "base/base.h"

#include <argp.h>
#include <jansson.h>

/* Exit statuses, documented in txnfs.1. */
#define TOOL_OK 0
#define TOOL_FAILED 1
#define TOOL_USAGE 2
#define TOOL_PROBLEMS 3           /* check: something is wrong with the log or the state directory */
#define TOOL_HELPER_FAILED 32     /* mount.fuse.txnfs: what mount(8) expects for "mount failed" */
#define TOOL_RUN_FAILED 125       /* run: txnfs itself failed */
#define TOOL_RUN_NOT_RUNNABLE 126 /* run: CMD was found but could not be executed */
#define TOOL_RUN_NOT_FOUND 127

int cmd_mount(int argc, char **argv);
int cmd_umount(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_begin(int argc, char **argv);
int cmd_commit(int argc, char **argv);
int cmd_rollback(int argc, char **argv);
int cmd_savepoint(int argc, char **argv);
int cmd_release(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_diff(int argc, char **argv);
int cmd_prepared(int argc, char **argv);
int cmd_resolve(int argc, char **argv);
int cmd_recover(int argc, char **argv);
int cmd_log(int argc, char **argv);
int cmd_check(int argc, char **argv);

/* `mount.fuse.txnfs SRC MNT [-sfnv] [-o OPTIONS]`, as mount(8) calls it. */
int mount_helper(int argc, char **argv);

/* ---- messages ---- */

/* "txnfs: ..." and a newline on stderr. */
void tool_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* argp_parse with the flags and exit statuses that all subcommands share. Does not return on a usage error. */
void tool_parse(const struct argp *argp, int argc, char **argv, unsigned flags, void *input);
/* A number from the command line; calls argp_error when it is none or lies outside. */
uint64_t tool_number(struct argp_state *state, const char *what, const char *text, uint64_t min, uint64_t max);
/* Flush stdout; TOOL_FAILED with a message when what was printed did not arrive (full disk), else status. */
int tool_finish(int status);

/* Progress of long work on stderr: shown on a terminal only, from the first second on. Zero-initialise. */
struct tool_progress {
	struct timespec began, shown;
	bool visible;
};
void tool_progress(struct tool_progress *p, const char *what, uint64_t done, uint64_t total);
void tool_progress_end(struct tool_progress *p);

/* ---- mounts ---- */

/* A txnfs mount as /proc/self/mountinfo tells it. Free with tool_mount_free, also when zeroed. */
struct tool_mount {
	char *source; /* the backing directory */
	char *point;  /* the mount point */
	bool whole;   /* it shows the whole tree, not a directory in it or a transaction's root */
	uid_t user;   /* who has mounted it */
};
void tool_mount_free(struct tool_mount *m);
/* An absolute path without symbolic links; works for mount points whose daemon has died too. */
int tool_resolve(const char *path, char **out);
/* The txnfs mount in which path lies (NULL: the working directory). -ENODEV: in none. */
int tool_mount_of(const char *path, struct tool_mount *out);
/* The same, only when path is the mount point itself. */
int tool_mount_at(const char *path, struct tool_mount *out);
/*
 * The mount that a command means: `path` when given, else $TXNFS_MOUNT, else the one of the working directory. With a
 * message on failure.
 */
int tool_mount_find(const char *path, struct tool_mount *out);
/* A source directory from the command line: SRC itself, or the source of the mount at MNT. Malloc'ed, or NULL after a
 * message. */
char *tool_source(const char *path);

/* Is a directory of this (absolute) name mounted by txnfs? */
bool tool_source_mounted(const char *source);
/* Call fn for each txnfs mount, with strings that it may not keep; stop at the first non-zero return and return it. */
int tool_mounts_each(int (*fn)(void *arg, const struct tool_mount *m), void *arg);

/* ---- control files ---- */

/* All of MNT/CONTROL[/TXN]/NAME as a string, malloc'ed; NULL with errno. */
char *tool_control_read(const struct tool_mount *m, const char *control, const char *txn, const char *name);
/* The value of the line "key: value" in such a text; malloc'ed. NULL: there is none. */
char *tool_status_value(const char *text, const char *key);

/* The control directory's name: `given` (may be NULL), else $TXNFS_CONTROL, else ".txn". */
const char *tool_control(const char *given);
/* Open MNT/CONTROL/ctl or, with txn, MNT/CONTROL/TXN/ctl for reading and writing. -1 after a message. */
int tool_ctl_open(const struct tool_mount *m, const char *control, const char *txn);
/*
 * Write a command and fetch the answer, malloc'ed, without the leading "ok: " or "error: " (NULL: there was none).
 * The write's 0 or -errno.
 */
int tool_ctl_command(int fd, const char *text, char **answer);
/* A path as in `changes` or `prepared`: plain, or quoted with C escapes. Decodes in place; returns what comes behind it. */
char *tool_unquote(char *p, char **path);
/* Names and paths are bytes; JSON wants UTF-8: other bytes are told as U+FFFD each. */
json_t *tool_json_bytes(const char *s);
/* Quote a name for the control language; appends to b. */
void tool_ctl_quote(struct base_buf *b, const char *name);
/* What --isolation's argument is in the control language; NULL: nothing. */
const char *tool_isolation(const char *arg);

#endif
