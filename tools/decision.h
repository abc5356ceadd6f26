/*
 * decision.h - the coordinator's decision log: a directory with a file for each run whose outcome may matter to
 * somebody.
 *
 * Presumed abort: only "commit" is ever decided. SPEC.md, "The decision log", has the bytes.
 *
 * Calling sequence
 *     decision_log_open          or, in tests, decision_log_init with a door and a directory of one's own
 *     decision_new               the run's file, locked and durable: from here on participants may be prepared
 *     decision_commit            commit is decided, durably: from here on participants may be told
 *     decision_forget            all participants have the outcome
 *     decision_release           lets go of the lock and of the memory; the file stays when it was not forgotten
 *     decision_log_close
 * and for what others have left
 *     decision_each              names of the runs
 *     decision_take              locks one and reads it, unless its run is alive
 *     decision_commit            again, before anybody is told: what was read need not have been durable
 *
 * Locks: flock(2) on the run's file, from before its name is there until decision_release or the death of the process.
 * So whoever has the lock knows that nobody else decides, tells or prepares for this run.
 *
 * Functions return 0 or -errno; `err` (size >= 512) gets a readable line on failure. Not thread-safe.
 */
#ifndef TXNFS_TOOLS_DECISION_H
#define TXNFS_TOOLS_DECISION_H

#include "base/base.h"
#include "base/os.h"

#define DECISION_LOG_ID 32 /* hexadecimal digits */
#define DECISION_RUN_ID 24
#define DECISION_GID_MAX 80
#define DECISION_BRANCHES_MAX 1000

struct decision_log {
	const struct os *os;
	char *path; /* for messages; NULL: none */
	int dir;    /* a handle of os */
	bool locks; /* the handles are descriptors: flock works */
	char id[DECISION_LOG_ID + 1];
};

/* Where a participant is found again; of a database see tools/postgres.h. */
struct decision_branch {
	char uuid[37]; /* of its source directory */
	char *source, *point, *control;
};

struct decision_run {
	char id[DECISION_RUN_ID + 1];
	int fd; /* locked; -1: none */
	bool commit;
	size_t n;
	struct decision_branch *branch; /* malloc'ed with its strings; freed by decision_release */
};

/*
 * The log in directory `path`, or where this user's is by default (NULL). With `create` it is made, with all the
 * directories above it; without, -ENOENT without a message when there is none. -EACCES: someone else's, or others could
 * write to it. -EINVAL: in a txnfs mount. -ESTALE: it is a copy or was restored, and does not know what was decided
 * since.
 */
int decision_log_open(const char *path, bool create, struct decision_log *log, char *err, size_t errlen);
/* The path that decision_log_open takes for NULL; malloc'ed. NULL: out of memory, or the user has no home. */
char *decision_log_default(void);
/* What there is already of a log's path (NULL: the default), without symbolic links; malloc'ed. NULL: it cannot be
 * told. */
char *decision_log_place(const char *path);
/* Read or make the log's id. os, dir and locks are set. place: where the directory is; NULL: it does not matter. */
int decision_log_init(struct decision_log *log, const char *place, bool create, char *err, size_t errlen);
void decision_log_close(struct decision_log *log);

/* In: run->branch and n. Out: id and fd. On failure nothing of it is left, or what a resolver takes away. */
int decision_new(struct decision_log *log, struct decision_run *run, char *err, size_t errlen);
/* On failure nobody knows what is durable: decision_forget may still settle that nothing was decided. */
int decision_commit(struct decision_log *log, struct decision_run *run, char *err, size_t errlen);
/* `durable`: for certain, when it returns 0. Else whether it comes back after a power cut must not matter. */
int decision_forget(struct decision_log *log, struct decision_run *run, bool durable, char *err, size_t errlen);
void decision_release(const struct decision_log *log, struct decision_run *run);

/* Call fn for each run that the log has, by id; leftovers of runs that never came into being are taken away. */
int decision_each(struct decision_log *log, int (*fn)(void *arg, const char *id), void *arg);
/*
 * -EWOULDBLOCK: its run (or a resolver) is alive. -ENOENT: there is none (any more). -EUCLEAN: damaged, -EXDEV: it
 * belongs to another log; both with a line in err, and decided by hand.
 */
int decision_take(struct decision_log *log, const char *id, struct decision_run *run, char *err, size_t errlen);

/*
 * A database in which branches may be found that no run speaks of, as mounts are found without the log: one that a
 * command prepared when its run had been given up. Called before the run's file is made, and durable with that.
 */
int decision_remember(struct decision_log *log, const struct decision_branch *br, char *err, size_t errlen);
/* br NULL: the file `name` cannot be read. Not 0: stop, and return it. */
typedef int decision_database_fn(void *arg, const char *name, const struct decision_branch *br);
int decision_each_database(struct decision_log *log, decision_database_fn *fn, void *arg);

/* The participant's name for its branch, 1 to n. */
void decision_gid(const struct decision_log *log, const char *run, size_t branch, char gid[DECISION_GID_MAX]);
/* Is this a coordinator's GID? log and run get its parts. */
bool decision_gid_parse(const char *gid, char log[DECISION_LOG_ID + 1], char run[DECISION_RUN_ID + 1]);

#endif
