/* fault_private.h - what the files that make runs share. */
#ifndef TXNFS_FAULT_PRIVATE_H
#define TXNFS_FAULT_PRIVATE_H

#include "tests/fault_kit.h"

/* What an engine stands on: a simulated disk, or a scratch directory. */
struct disk {
	bool real;
	struct sim *sim;
	char dir[256];
	struct store *store; /* while it is open */
	int wal;
};

struct slot {
	int home;    /* steps that everybody sees */
	int durable; /* of them, those that a power cut leaves */
	int view;    /* steps that the owner sees */
	int owner;   /* the transaction that has taken it, -1: none */
	bool vague;  /* a plain step has failed that may be found done after all: home, or one more */
	bool lost;   /* a plain step was done in part: nothing can be said */
	/* A commit of which nobody knows: all of its slots are as at home, or all are like this. -1: not in it. */
	int doubt;
	/* What it will be when the prepared transaction that owns it is committed; -1: none. sure: it must be there. */
	int prepared;
	bool sure;
};

struct savepoint {
	char name[16];
	int view[RUN_SLOTS]; /* -1: not taken */
};

struct run_plan {
	const struct run_script *script;
	bool real;
	struct sim *base; /* NULL: made anew for each run */
	struct slot start[RUN_SLOTS];
	char *text[RUN_SLOTS][RUN_STEPS + 1];
	uint64_t calls[FAULT_NCALLS];
};

struct run {
	struct run_plan *plan;
	const struct run_script *script;
	const struct fault *f; /* NULL: a run without, which notes the states */
	struct disk disk;
	struct txn_engine *eng;
	int nslots;
	struct slot slot[RUN_SLOTS];
	struct {
		struct txn *t;
		int nsavepoints;
		struct savepoint savepoint[RUN_SAVEPOINTS];
	} txn[RUN_TXNS];
	bool broken;  /* the engine has said that it is read-only */
	int failures; /* operations that have failed */
	bool no_home; /* run_cut_off */
};

/* fault.c: count a call. May it be made? 0, or the error that it gets. *how (may be NULL): of transfers and syncs. */
int fault_gate(enum fault_call c, enum fault_how *how);

/* fault_look.c: a slot as a view sees it, as text; malloc'ed. 0 or -errno. times: with those of files. */
int run_draw(struct run *run, struct txn *view, const char *slot, bool times, char **text);

/* fault_run.c */
extern char run_replay_text[512]; /* a command that repeats the run that is under way; "" when there is none */
uint64_t run_hits(void);
void run_check_locks(struct run *run, const char *what);
/* Something has failed: may it have, and did it say why? */
void run_check_error(struct run *run, const char *what, int r);
char *run_must_draw(struct run *run, struct txn *view, int i);
/* The text of a slot after so many steps; with none yet it becomes that. */
bool run_same(struct run *run, int i, int steps, const char *text);
void run_check_slot(struct run *run, struct txn *view, int i, int steps, const char *when);
/* Everything, in every view. */
void run_check_views(struct run *run, const char *when);
void run_pause(void);
void run_resume(void);
void run_put_txns(struct run *run);
/* After everything, without faults: what is in doubt is what may be, and can be committed. */
void run_verify_prepared(struct run *run, const char *after, bool power_cut);
void run_fail(struct run *run, const char *fmt, ...) PRINTF_LIKE(2, 3);
extern const char *run_command; /* how this test is called */
extern bool run_was_broken;     /* the last run's engine was read-only in the end */
extern bool run_cut_more;       /* power cuts after every run, and more pictures of each */
extern bool run_alone;          /* in a process of its own: a failure ends it */

#endif
