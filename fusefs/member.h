/*
 * member.h - who is calling: from the thread id in a request to its process and the chain of that process's ancestors.
 *
 * A process is named by its id, its start time and, where the kernel has it (pidfs), a number that is never used again:
 * so an id that is used again is not mistaken for the process that had it before. The chain is kept from the moment that
 * a process is first seen: one whose parents die later keeps them as its ancestors, for as long as it lives. What is
 * cached is checked at each use, by a held pidfd or else by the start time.
 *
 * Ids are those of the daemon's pid namespace. A caller outside of it has the id 0. When /proc is another namespace's,
 * it cannot tell whom an id means, and no process is known.
 *
 * Threads: any. Never blocks on anything but /proc/PID/stat and /proc/PID/status, which touch no memory of the process
 * (so that a process stuck in a page fault on this very mount is no danger).
 */
#ifndef TXNFS_FUSEFS_MEMBER_H
#define TXNFS_FUSEFS_MEMBER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct fusefs_members;

/* Immutable while referenced; the reference holds the whole chain. */
struct fusefs_process {
	pid_t tgid;
	uint64_t start;                /* clock ticks since boot, as in /proc/PID/stat */
	uint64_t serial;               /* of its pidfd in pidfs, 0: not known */
	struct fusefs_process *parent; /* at the time when it was first seen; NULL: none or not known */
};

static inline bool fusefs_process_same(const struct fusefs_process *a, const struct fusefs_process *b)
{
	return a->tgid == b->tgid && a->start == b->start && (!a->serial || !b->serial || a->serial == b->serial);
}

/*
 * Limits: processes remembered, and pidfds held for them; 0: the defaults, 4096 and a quarter of RLIMIT_NOFILE. Living
 * processes whose parent has died are remembered beyond the limit: nothing else tells what they belong to.
 */
int fusefs_members_new(unsigned processes, unsigned pidfds, struct fusefs_members **out);
/* Processes that are still referenced outlive it. */
void fusefs_members_free(struct fusefs_members *m);

/* The process of a live thread. -ESRCH: there is none, or pid is 0, or /proc cannot tell. */
int fusefs_process_of(struct fusefs_members *m, pid_t tid, struct fusefs_process **out);
struct fusefs_process *fusefs_process_get(struct fusefs_process *p);
void fusefs_process_put(struct fusefs_process *p); /* NULL is allowed */

/*
 * The id of p as `viewer`, one of its descendants or itself, sees it: in a pid namespace of its own that is another one
 * than the daemon's. 0: it cannot see it, or one of them has died.
 */
pid_t fusefs_process_seen_by(const struct fusefs_process *p, const struct fusefs_process *viewer);

/* A new pidfd, readable once the process has died: the caller closes it. -ESRCH: it has; else pidfds are not to be had.
 */
int fusefs_process_open(const struct fusefs_process *p);
/* Asks /proc. A process that is dead but not yet reaped is not alive. */
bool fusefs_process_alive(const struct fusefs_process *p);
/* -ESRCH: it has died; -EACCES: /proc does not tell. */
int fusefs_process_uids(const struct fusefs_process *p, uid_t *real, uid_t *effective);

#endif
