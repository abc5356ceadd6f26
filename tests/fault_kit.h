/*
 * fault_kit.h - calls that fail: at the store, at the log's door to the operating system, and in malloc.
 *
 *   fault.c          faults, counted calls
 *   fault_doors.c    a store and a door in front of any others, where the n-th call fails
 *   fault_wrap.c     malloc and its relatives, locks and the clock, by the linker's --wrap (only in tests linked so)
 *   fault_run.c      what scripts do, and what must be true meanwhile
 *   fault_plan.c     one run of a script on an engine with one fault, and what must be true after it
 *   fault_cases.c    many runs, each told of when it fails
 *   fault_steps.c    operations
 *   fault_scripts.c  scripts made of them
 *
 * A fault is a text, and TXNFS_FAULT gives one for a replay:
 *
 *     DOOR:CALL:N:HOW:MODE     store:write:17:EIO:once   all:space:3:ENOSPC:always   alloc:any:88:ENOMEM:once
 *
 * DOOR is store, os, all (both) or alloc. CALL is a function of the table, or any, space (what takes space), change
 * (what changes something), sync. N counts such calls from 1 since the fault was armed. HOW is an errno's name, or
 *     SHORT   a transfer does half of it and says so, as POSIX allows
 *     TORN    a transfer does half of it and says EIO
 *     LATE    all of it is done, and EIO is said
 *     STUCK   the same, and where more calls fail nothing is done by those
 * MODE is once, twice (this call and the next one), or always: this call and all such calls after it.
 */
#ifndef TXNFS_FAULT_KIT_H
#define TXNFS_FAULT_KIT_H

#include "base/base.h"
#include "tests/sim.h"
#include "txn/txn.h"

/* ---- faults ---- */

#define FAULT_CALLS(store, os)                                                                                         \
	store(id) store(resolve) store(place) store(lookup) store(create) store(tmpfile) store(link) store(unlink)     \
	store(rename) store(readdir) store(readlink) store(getattr) store(setattr) store(getxattr) store(listxattr)    \
	store(setxattr) store(removexattr) store(open) store(read) store(write) store(fallocate) store(seek)           \
	store(copy) store(sync) store(sync_all) store(reserve) store(seal) store(statfs)                               \
	os(openat) os(close) os(pread) os(pwritev) os(fdatasync) os(fsync) os(ftruncate) os(allocate) os(size) os(renameat)         \
	os(unlinkat) os(list)

enum fault_call {
#define FAULT_STORE_ENUM(f) FAULT_store_##f,
#define FAULT_OS_ENUM(f) FAULT_os_##f,
	FAULT_CALLS(FAULT_STORE_ENUM, FAULT_OS_ENUM)
	/* Groups */
	FAULT_any,
	FAULT_space,
	FAULT_change,
	FAULT_home, /* changes through the store's table, but syncs */
	FAULT_sync,
	FAULT_alloc, /* any allocation */
	FAULT_NCALLS,
};

enum fault_how {
	FAULT_EIO,
	FAULT_ENOSPC,
	FAULT_EDQUOT,
	FAULT_EINTR,
	FAULT_ENOMEM,
	FAULT_EMFILE,
	FAULT_EOPNOTSUPP,
	FAULT_SHORT,
	FAULT_TORN,
	FAULT_LATE,
	FAULT_STUCK,
	FAULT_HOWS,
};

struct fault {
	enum fault_call call;
	uint64_t n; /* 0: none */
	enum fault_how how;
	enum fault_mode { FAULT_ONCE, FAULT_TWICE, FAULT_ALWAYS } mode;
};

static inline bool fault_due(uint64_t at, enum fault_mode mode, uint64_t count)
{
	return at && count >= at && (mode == FAULT_ALWAYS || count - at <= (mode == FAULT_TWICE));
}

/* What the fault says to its caller: a negative errno. */
int fault_errno(const struct fault *f);
const char *fault_text(const struct fault *f); /* static */
int fault_parse(const char *text, struct fault *f); /* -EINVAL */
const char *fault_call_text(enum fault_call call);  /* "store:write"; static */
/* One of the log's door, or a group that has some. */
static inline bool fault_is_os(enum fault_call call)
{
	return call >= FAULT_os_openat && call != FAULT_alloc && call != FAULT_home;
}
/* Can this call fail so? */
bool fault_possible(enum fault_call call, enum fault_how how);

/* ---- fault_doors.c: one store and one door at a time ---- */

struct store *fault_store(struct store *real);
const struct os *fault_os(const struct os *real);
/* Allocations of the real ones are never refused: a simulator's, which cannot do without. */
void fault_real_needs_memory(bool needs);
/* From now on calls are counted, from 1. f NULL: counted only. */
void fault_arm(const struct fault *f);
void fault_disarm(void);
/* In between: calls pass and are not counted. */
void fault_pause(void);
void fault_resume(void);
uint64_t fault_count(enum fault_call call); /* calls since fault_arm */
uint64_t fault_hits(void);                  /* of them have failed */
/* NULL, or what is wrong: references and handles that are kept, a sync that was tried again. Static. */
const char *fault_account(void);
void fault_account_reset(void);

/* ---- fault_wrap.c ---- */

/* The n-th allocation fails; 0: none, and counting begins anew. */
void fault_alloc_arm(uint64_t n, enum fault_mode mode);
void fault_alloc_pause(void);
void fault_alloc_resume(void);
uint64_t fault_alloc_count(void);
uint64_t fault_alloc_hits(void);
long fault_alloc_live(void); /* blocks that are not freed */
/* Locks that are held. One that is taken twice, or given back without, ends the test. */
int fault_locks(void);
void fault_locks_reset(void);
/* From now on the clock begins at this second and goes on by a microsecond with each call; 0: the real one. */
void fault_clock(int64_t seconds);
/* Called where the test must end at once, with a line. Does not return. */
void fault_on_trouble(void (*fn)(const char *line));

/* ---- fault_run.c ---- */

#define RUN_SLOTS 32
#define RUN_STEPS 10
#define RUN_TXNS 4
#define RUN_SAVEPOINTS 6

struct run;

/*
 * A slot is a directory of its own in which steps are taken one after the other, whatever becomes of other slots: so
 * the tree that must be there is told by one number for each slot. 0, or -errno.
 */
typedef int run_step(struct run *run, struct txn *view, const char *slot);

struct run_slot {
	const char *name;
	run_step *prepare; /* before everything, never with faults; may be NULL */
	run_step *step[RUN_STEPS];
};

struct run_script {
	const char *name;
	const struct run_slot *slots; /* ends with a name NULL */
	/* What a run begins with, after the slots were prepared; then the engine is killed. NULL: an orderly end. */
	void (*before)(struct run *run);
	bool power_cut; /* and then the power goes, and what is not durable */
	bool fresh;     /* no engine has been there before: the first steps make the slots' directories */
	bool armed_open; /* the fault can be in opening already */
	void (*play)(struct run *run);
	uint64_t checkpoint_bytes; /* 0: default */
	bool rarely; /* its calls are much alike: try some of them */
};

extern const struct run_script run_scripts[]; /* ends with a name NULL */
const struct run_script *run_script(const char *name);

/* What a script's functions do. t: number of the transaction, -1: none, a plain operation. All skip what cannot be. */
struct txn_engine *run_engine(struct run *run);
void run_begin(struct run *run, int t);
void run_commit(struct run *run, int t);
void run_prepare(struct run *run, int t);
bool run_still_prepared(struct run *run, int t);
void run_find(struct run *run, int t); /* the prepared one that an earlier life has left */
void run_rollback(struct run *run, int t);
void run_savepoint(struct run *run, int t, const char *name);
void run_rollback_to(struct run *run, int t, const char *name);
void run_release(struct run *run, int t, const char *name);
void run_take(struct run *run, int t, const char *slot);              /* its next step */
void run_take_all(struct run *run, int t, const char *const *slots);  /* one step of each; ends with NULL */
void run_look(struct run *run, int t, const char *slot);              /* read it all, as things are */
void run_force(struct run *run, const char *slot, run_step *fsync);   /* its plain steps are durable from then on */
void run_checkpoint(struct run *run);
void run_tell(struct run *run, int t);                                /* changes, info, statistics */
/* In `before` only. From now on nothing changes home any more, but the log goes on. */
void run_cut_off(struct run *run);

/* A script made ready: the states between its steps, the disk that runs begin with, the calls that a run makes. */
struct run_plan;
struct run_plan *run_plan(const struct run_script *script, bool real);
void run_plan_free(struct run_plan *plan);
const struct run_script *run_plan_script(const struct run_plan *plan);
uint64_t run_plan_calls(const struct run_plan *plan, enum fault_call call);
/* One run with one fault. Fails the test when anything is wrong. Returns how often the fault came. */
uint64_t run_once(struct run_plan *plan, const struct fault *f);

/*
 * Runs the cases in a process of their own, so that one that ends in a signal is told like all others; after a failure
 * it goes on with the next one. Ends the test when there was any.
 */
struct run_case {
	struct run_plan *plan;
	struct fault fault;
};
struct run_cases {
	struct run_case *v;
	size_t n, cap;
};
void run_cases_add(struct run_cases *c, struct run_plan *plan, struct fault f);
void run_cases_play(struct run_cases *c, const char *test);
void run_cases_total(void); /* prints what all calls of it did */

#endif
