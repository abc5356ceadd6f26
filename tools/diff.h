/*
 * diff.h - what the parts of `txnfs diff` share.
 *
 *     cmd_diff.c    the command: which transaction, which two views, how it is shown
 *     diff_list.c   from the lines of `changes` to pairs of an old and a new path
 *     diff_item.c   one pair: attributes, extended attributes and contents of both sides, and what differs
 *     diff_text.c   contents as a unified diff
 *     diff_show.c   a patch, --name-status
 *     diff_json.c   --json
 *     diff_stat.c   --stat
 *     diff_out.c    colour, the pager, and text that a terminal can be trusted with
 *
 * A path is relative to the root of the mount; "" is the root. Functions return 0 or -errno.
 */
#ifndef TXNFS_DIFF_H
#define TXNFS_DIFF_H

#include "tools/tools.h"

#include <stdio.h>
#include <sys/stat.h>

/* ---- output ---- */

enum diff_colour { DIFF_PLAIN, DIFF_HEAD, DIFF_PLACE, DIFF_OLD, DIFF_NEW, DIFF_WARN };

struct diff_out {
	bool colour;
	bool visible; /* for a terminal: what could steer it is shown instead of sent */
	unsigned width;
	pid_t pager; /* 0: none */
	int errors;  /* where stderr led before it led to the pager; -1: it does not */
};

/* colour: "auto", "always", "never". Starts the pager, which stdout leads to from then on, when there is a terminal. */
int diff_out_open(struct diff_out *o, const char *colour, bool pager);
/* Flush, and wait until the reader has left the pager. TOOL_FAILED after a message when the output did not arrive. */
int diff_out_close(struct diff_out *o, int status);
/* Nobody reads on: the rest need not be made. */
bool diff_out_over(void);
/* Text without newlines in it; a line is ended by diff_end. */
void diff_put(const struct diff_out *o, enum diff_colour c, const void *text, size_t n);
void diff_print(const struct diff_out *o, enum diff_colour c, const char *fmt, ...) PRINTF_LIKE(3, 4);
void diff_line(const struct diff_out *o, enum diff_colour c, const char *fmt, ...) PRINTF_LIKE(3, 4);
void diff_end(void);

/* ---- the list ---- */

struct diff_entry {
	char *old, *new;      /* where it was and is; NULL: it was or is not */
	bool renamed, copied; /* else equal paths, or a change below a renamed directory */
	bool data, props;     /* to be compared; of what was only renamed nothing is read */
	bool elsewhere;       /* deleted; the file was changed and has other names, which are not known */
};

struct diff_list {
	struct diff_entry *v;
	size_t n;
};

/*
 * Pairs, sorted by path. Takes text (`changes`) apart. A name that led to a file before and leads to one now makes one
 * pair, as in git, whichever way it came about: the two are compared; so are two directories, if the first was removed.
 * kind gives the S_IFMT bits of a path in the new view or the old one, 0: it is not there. -EPROTO: a line that is not
 * understood.
 */
int diff_list_parse(char *text, mode_t (*kind)(void *arg, bool in_new, const char *path), void *arg,
                    struct diff_list *out);
void diff_list_free(struct diff_list *list);

/* ---- a pair ---- */

struct diff_xattr {
	char *name;
	void *value;
	size_t n;
};

struct diff_side {
	bool there;
	struct stat st;
	char *target;              /* of a symbolic link */
	struct diff_xattr *xattrs; /* sorted by name */
	size_t n_xattrs;
	bool no_xattrs; /* they could not be read */
	/* contents: mapped from a copy of at most max_size bytes, so that they stand still */
	int fd; /* -1: none */
	const char *map;
	size_t n;
};

enum diff_contents { DIFF_SAME, DIFF_TEXT, DIFF_BINARY, DIFF_LARGE, DIFF_UNREADABLE };

struct diff_item {
	const struct diff_entry *e;
	struct diff_side a, b;
	enum diff_contents contents;
	int err;                                 /* of DIFF_UNREADABLE */
	bool err_new;                            /* on the new side */
	bool mode, owner, device, mtime, xattrs; /* differ; only when both are there */
	bool type;                               /* of different kinds */
};

struct diff {
	int old_root, new_root; /* directories */
	uint64_t max_size;
	unsigned context;
	bool text; /* all contents are */
	struct diff_out out;
	bool trouble; /* something could not be read; said so already */
};

/* How a path looks in one view; -ENOENT */
int diff_stat(int root, const char *path, struct stat *st);
/* 1: filled, and there is a difference. 0: there is none (freed). -errno: neither side could be looked at. */
int diff_item_load(const struct diff *d, const struct diff_entry *e, struct diff_item *it);
void diff_item_free(struct diff_item *it);
/* What to call it: "file", "directory", "symbolic link", ... */
const char *diff_kind(mode_t mode);
/* ISO 8601, in UTC */
void diff_time(const struct timespec *t, char *out, size_t n);
/* For each property that differs, or that is worth a word: a line of text. */
void diff_properties(const struct diff_item *it, void (*fn)(void *arg, const char *line), void *arg);

/* ---- contents ---- */

struct diff_counts {
	uint64_t plus, minus;
};
/* Lines of both sides, of which one may be NULL. o: print the hunks there; NULL: only count. */
int diff_text(const struct diff *d, const struct diff_out *o, const struct diff_side *a, const struct diff_side *b,
              struct diff_counts *counts);

/* ---- formats ---- */

/* Each is given all entries; *differs: something does. */
int diff_show_patch(struct diff *d, const struct diff_list *list, bool *differs);
int diff_show_names(struct diff *d, const struct diff_list *list, bool *differs);
int diff_show_json(struct diff *d, const struct diff_list *list, bool *differs);
int diff_show_stat(struct diff *d, const struct diff_list *list, bool *differs);

/* diff_item_load for all of them: a pair that cannot be looked at is told on stderr, and is trouble. */
int diff_next(struct diff *d, const struct diff_list *list, size_t *i, struct diff_item *it);
/* Its contents could not be read: the same. */
void diff_unreadable(struct diff *d, const struct diff_item *it);
/* The side that tells what kind of thing it is: the new one, if there is one. */
const struct diff_side *diff_main_side(const struct diff_item *it);
/* A (added), D, R, C, T (of another kind), M (contents), P (properties) */
char diff_letter(const struct diff_item *it);
/* Appends the path, a directory's with a slash, quoted like git when it is odd. */
void diff_name(struct base_buf *b, const char *prefix, const char *path, mode_t mode);

#endif
