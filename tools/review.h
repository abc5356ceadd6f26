/*
 * review.h - `txnfs run --review`: look at what the command did before it lands.
 *
 *     tool_review_open(&rv)     before anything is run: is there a terminal to ask on?
 *     ...                       the command runs and succeeds
 *     status = tool_review(&rv) shows it and asks; 0: `commit version N`, and if that gives -EAGAIN, again
 *     tool_review_close(&rv)
 *
 * One thread; the signals in `ending` and SIGCHLD must be blocked from open to close.
 */
#ifndef TXNFS_REVIEW_H
#define TXNFS_REVIEW_H

#include "tools/tools.h"

#include <signal.h>
#include <termios.h>

struct tool_review {
	/* the caller's */
	const struct tool_mount *mount;
	const char *control;
	const char *txn;   /* the named transaction; NULL: the caller's ambient one */
	sigset_t ending;   /* signals that end the run */
	sigset_t old_mask; /* for what is started */
	/* Start a command (argv) in the transaction's view: 0 and *pid, or something else after a message. */
	int (*spawn)(void *arg, char **argv, pid_t *pid);
	void *arg;
	/* from tool_review_open on */
	int tty;
	bool foreground;
	struct termios modes;
	unsigned long long version; /* out: what was looked at and may be committed, as in `status` */
};

/* -ENXIO after a message: there is no terminal. */
int tool_review_open(struct tool_review *rv);
/* 0: commit. Else roll back, and end with this status: 1 that was the answer, 128+N for signal N. */
int tool_review(struct tool_review *rv);
void tool_review_close(struct tool_review *rv);

#endif
