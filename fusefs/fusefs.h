/*
 * fusefs.h - the mount: the kernel's requests in, errno out.
 *
 *     fusefs_new      opens the store, recovers the engine, mounts; the mount answers from fusefs_run on
 *     fusefs_run      serves until unmounted or asked to stop (SIGTERM, SIGINT, SIGHUP); blocks
 *     fusefs_free     unmounts if need be, rolls back, checkpoints, closes
 *
 * fusefs_new does everything that can fail and gives a readable line. It starts threads: a caller that becomes a daemon
 * forks first, and lets the child call fusefs_new and tell the waiting parent how it went. The signals SIGTERM, SIGINT and
 * SIGHUP must go to the thread that calls fusefs_run, so it must not block them. One mount per process at a time.
 */
#ifndef TXNFS_FUSEFS_H
#define TXNFS_FUSEFS_H

#include <stdbool.h>
#include <stddef.h>

struct fusefs;

struct fusefs_config {
	const char *source;      /* the backing directory */
	const char *mountpoint;
	const char *control;     /* name of the control directory in each view's root; NULL: ".txn" */
	const char *fuse_options; /* comma-separated rest for the kernel and fusermount3 (allow_other, ro, nosuid ...); may be NULL */
	bool debug;              /* libfuse's request trace */
	unsigned max_threads;    /* 0: default */
	double idle_timeout;     /* roll back what nobody has used for so many seconds; 0: never */
	unsigned max_transactions; /* open ones of each user but root; 0: no limit */
	unsigned max_log_mib;    /* of each user's open transactions in the log; 0: no limit */
	double lock_timeout;     /* seconds that a change waits for another transaction; 0: not at all */
	unsigned checkpoint_mib; /* 0: default */
	unsigned checkpoint_seconds;
	unsigned segment_mib;    /* 0: default; used when the log is created */
	/* recovery's report, a line each, and progress; may be NULL */
	void (*report)(void *arg, const char *line);
	void (*progress)(void *arg, unsigned long long done, unsigned long long total);
	void *arg;
};

int fusefs_new(const struct fusefs_config *cfg, struct fusefs **out, char *err, size_t errlen);
int fusefs_run(struct fusefs *fs);
int fusefs_free(struct fusefs *fs);

#endif
