/* run.h - between the parts of `txnfs run`: cmd_run.c, run_child.c and coordinator.c. */
#ifndef TXNFS_TOOLS_RUN_H
#define TXNFS_TOOLS_RUN_H

#include "tools/decision.h"
#include "tools/review.h"
#include "tools/tools.h"

#include <signal.h>

/* The transaction on one mount. */
struct run_mount {
	struct tool_mount mount;
	char *dir; /* MNT/.txn/NAME; NULL: ambient */
	int ctl;   /* its control file; -1: it has not begun */
	char uuid[37];
	dev_t dev; /* the mount's */

	/* coordinator.c */
	size_t branch; /* its number among those that are prepared; 0: it changed nothing */
	bool prepared; /* or may be */
};

struct run {
	const char *name_given, *control, *isolation, *log_given;
	const char *postgres; /* a connection string: a database takes part */
	bool by_option;       /* --mount */
	bool ambient, verbose, ask;
	char **cmd;

	struct run_mount *mounts;
	size_t n;
	char *name;      /* the transaction's, on all mounts */
	char *cwd;       /* to go back to inside the view; NULL: it lies elsewhere */
	bool own_group;  /* the command has a process group of its own */
	sigset_t ending; /* signals that end the run and were not ignored when it began */
	sigset_t old_mask;

	struct decision_log log; /* with several participants */

	/* coordinator.c, with a database: its run has a file and a name for it before the command starts */
	struct decision_branch database;
	struct decision_run announced; /* fd -1: it has no file */
	char gid[DECISION_GID_MAX];
	struct tool_review review; /* with ask: of the only mount */
};

/* How far a child came before it failed. */
enum run_stage { RUN_NAMESPACE, RUN_CWD, RUN_EXEC };
struct run_failure {
	enum run_stage stage;
	int err;
	char what[64];
};

/* Start the command. 0: it runs. 1: it does not, *f says why, and *status how the child ended. -errno: no child. */
int run_start(const struct run *run, pid_t *pid, struct run_failure *f, int *status);
/* Wait for the command, passing on the signals that end a run. The first of them, or 0. */
int run_supervise(const struct run *run, pid_t pid, int *status);
void run_block_signals(struct run *run);

/* A command to the transaction on m; a failure is told. 0 or -errno. */
int run_command(const struct run_mount *m, const char *text, const char *doing);
/* All of them, as far as they are open and not prepared. */
void run_rollback(struct run *run);

/* Has it several participants? Else coordinator.c has nothing to do. */
static inline bool run_coordinated(const struct run *run)
{
	return run->n > 1 || run->postgres;
}

/* Before it begins: open the log, and bring to an end what earlier runs left. Not 0: said why. */
int coordinator_start(struct run *run);
/* With a database, before the command starts: give the run its file, and run->gid. Not 0: said why. */
int coordinator_announce(struct run *run);
/* After coordinator_announce the run ends in one of these two. It is rolled back. */
void coordinator_abandon(struct run *run);
/* Commit everywhere or nowhere. 0: committed. Not 0: said why; TOOL_FAILED. */
int coordinator_commit(struct run *run);
void coordinator_free(struct run *run);

#endif
