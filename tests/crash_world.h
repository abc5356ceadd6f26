/*
 * crash_world.h - an engine on a simulated disk, the naive tree that it is compared with, and a crash at each change of the
 * disk: what recovery makes of what the crash left must be the tree before the step that was under way or the one after it.
 *
 * The naive tree is another simulated disk on which the same operations are done at once and plainly; a transaction is a copy of
 * it, and commit does its operations once more on the committed one. Objects are told apart by a label that only the
 * harness knows, so that an operation means the same object in each tree, whatever its name has become there.
 *
 * Calling sequence
 *     cw_new(seed, options)   a fresh disk with the engine open
 *     cw_plain, cw_in, cw_begin, cw_savepoint, ... cw_prepare, cw_commit, cw_checkpoint, cw_reopen   one step each
 *     cw_free                 closes the engine in order, and looks at the disk once more
 *
 * What is looked at in each crash (a "point"): the disk as a kill leaves it, and some of what a power cut may leave; each is recovered, on a copy,
 * while the engine under test waits. With `again`, recovery itself is crashed at each of its changes, and recovered: that
 * must come to the same tree. After each recovery: the tree, the filesystem's rules, nothing left in stage/ and trash/, a
 * second recovery changes nothing.
 *
 * A transaction that was prepared must be in doubt after each crash: invisible, with its locks; then it is committed or rolled
 * back, by the dice, on the copy, and that must be the tree that the naive one comes to, with nothing left in stage/ and trash/.
 *
 * After a power cut, what plain operations did may be lost until it is synced, or until a transaction that changed the same object
 * has committed: the paths of such objects are left out of the comparison.
 *
 * Failures end the test with a text that has the disk's log of steps and the point's numbers; TXNFS_POINT=N of the
 * environment makes the same run look at that point only, with the trees printed.
 */
#ifndef TXNFS_TESTS_CRASH_WORLD_H
#define TXNFS_TESTS_CRASH_WORLD_H

#include "tests/sim.h"
#include "txn/txn.h"

enum cw_kind {
	CW_WRITE,  /* path off len fill */
	CW_APPEND, /* path len fill */
	CW_TRUNC,  /* path off: the size */
	CW_PUNCH,  /* path off len */
	CW_CREATE, /* path mode */
	CW_MKDIR,
	CW_SYMLINK, /* path path2: the target */
	CW_FIFO,
	CW_UNLINK,
	CW_RMDIR,
	CW_RENAME, /* path path2 flags */
	CW_LINK,   /* path path2 */
	CW_CHMOD,  /* path mode */
	CW_CHOWN,  /* path off: gid */
	CW_SETX,   /* path len fill, xattr user.NAME with NAME = flags */
	CW_DELX,
	CW_TMP, /* path mode len fill: tmpfile, write, link */
};

struct cw_op {
	enum cw_kind kind;
	const char *path, *path2;
	uint64_t off, len;
	unsigned flags;
	char fill;
};

struct cw_options {
	uint32_t segment_size;
	unsigned images;      /* pictures of power cuts per point and model */
	unsigned again;       /* crash each recovery of one point in so many; 0: none */
	unsigned every;       /* look at one point in so many; 0: 1 */
	bool sync_plain;      /* plain operations are synced at once */
	uint64_t checkpoint_bytes; /* as in struct txn_config: a small number has checkpoints carry open transactions forward */
	const char *name;     /* how the scenario is called in messages */
	const char *command;  /* what repeats it */
};

struct cw_counts {
	uint64_t changes, points, images, again, scenarios;
};
extern struct cw_counts cw_counts; /* over all worlds */

#define CW_TXNS 4

struct cw;
struct cw *cw_new(uint64_t seed, const struct cw_options *opt);
void cw_free(struct cw *w);
/* Stop looking at points for a while (set-up). */
void cw_look(struct cw *w, bool on);

/* Steps. 0, or the engine's error, after it was found to be a right one. t: 0 ... CW_TXNS - 1 */
int cw_plain(struct cw *w, const struct cw_op *op);
int cw_in(struct cw *w, int t, const struct cw_op *op);
void cw_begin(struct cw *w, int t);
void cw_savepoint(struct cw *w, int t, const char *name);
bool cw_rollback_to(struct cw *w, int t, const char *name); /* false: there is no such savepoint */
void cw_prepare(struct cw *w, int t); /* then only cw_commit and cw_rollback; it outlives cw_reopen */
bool cw_prepared(struct cw *w, int t);
int cw_commit(struct cw *w, int t);
void cw_rollback(struct cw *w, int t);
bool cw_open(struct cw *w, int t);
void cw_checkpoint(struct cw *w);
/* Crash for real (a kill, or a power cut) or close and open again; go on with what is there. */
void cw_reopen(struct cw *w, bool orderly, bool power);

const char *cw_describe(const struct cw_op *op, char *buf, size_t size);
struct txn_engine *cw_engine(struct cw *w);
/* A path of the committed tree, or of a transaction's (t >= 0), of some kind (S_IFMT bits; 0: any), by chance; NULL: none. */
const char *cw_some_path(struct cw *w, int t, mode_t kind, uint64_t chance);

#endif
