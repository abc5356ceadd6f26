/*
 * private.h - what the parts of libtxnfs and libtxnfs-xa share.
 *
 * Functions return 0 or -errno; those that take a mount or a name have set the thread's error text when they fail.
 */
#ifndef TXNFS_LIB_PRIVATE_H
#define TXNFS_LIB_PRIVATE_H

#include "base/base.h"
#include "tools/lib/txnfs.h"

/* Never changed after txnfs_open, so no lock. */
struct txnfs {
	char *point;   /* mount point */
	char *control; /* name of the control directory */
};

/* ---- texts (text.c) ---- */

#define TXNFS_LIB_TEXT 1024

/* Set the thread's error text; returns r. */
int txnfs_lib_fail(int r, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Save and restore it: TXNFS_LIB_TEXT bytes. */
void txnfs_lib_text_save(char *copy);
void txnfs_lib_text_restore(const char *copy);

/* A command, a buffer that grows never: the longest has four words and two quoted names. */
struct txnfs_lib_command {
	char text[1600];
	size_t n;
	bool overflow;
};
void txnfs_lib_put(struct txnfs_lib_command *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* A blank and the name between double quotes. */
void txnfs_lib_put_name(struct txnfs_lib_command *c, const char *name);
/* A blank, the keyword and the options that are not the defaults. -EINVAL with the text. */
int txnfs_lib_put_options(struct txnfs_lib_command *c, const struct txnfs_options *o);

/* May it be a name of at most max bytes? `what` begins the message: "the savepoint's name". */
int txnfs_lib_check_name(const char *name, size_t max, const char *what);
/* The same of one that becomes a directory's name. */
int txnfs_lib_check_dirname(const char *name);

/* The first line of an answer without "ok: " or "error: ", into out; "" when there is none. True: it was an "ok: ". */
bool txnfs_lib_answer(const char *text, char *out, size_t size);
/* N of "began transaction N ..."; 0: it says something else. */
unsigned txnfs_lib_number(const char *answer);
/* The value of a line "key: value" of a status, up to the newline; NULL: none. */
const char *txnfs_lib_status(const char *text, const char *key);
/* A line of `prepared`, decoded in place; *next: behind it. -EPROTO: it is none. */
int txnfs_lib_prepared(char *line, struct txnfs_prepared *out, char **next);

/* ---- control files (control.c) ---- */

/* -ENOTCONN with its text. */
int txnfs_lib_daemon_ended(const struct txnfs *fs);
/* The control directory, O_PATH. What is opened relative to it belongs to one mount, whatever is mounted there
 * meanwhile. */
int txnfs_lib_dir(const struct txnfs *fs, int *out);
/*
 * Write a command to NAME/ctl (name NULL: ctl). answer (TXNFS_LIB_TEXT bytes, or NULL) gets the line that came back,
 * also after a refusal; "": there was none, because the daemon has ended.
 */
int txnfs_lib_command(const struct txnfs *fs, int dirfd, const char *name, const struct txnfs_lib_command *c,
                      char *answer);
/* The contents of NAME/FILE or FILE, malloc'ed, with a NUL behind them. */
int txnfs_lib_read(const struct txnfs *fs, int dirfd, const char *name, const char *file, char **out);
/* Make and remove NAME/. */
int txnfs_lib_mkdir(const struct txnfs *fs, int dirfd, const char *name);
/* mkdir, and the options that are not the defaults; nothing is left when they are refused. */
int txnfs_lib_begin_named(const struct txnfs *fs, int dirfd, const char *name, const struct txnfs_options *o);

#endif
