/*
 * crash_naive.h - the naive tree of crash_world.h: operations on labelled objects, done at once on a simulated disk.
 */
#ifndef TXNFS_TESTS_CRASH_NAIVE_H
#define TXNFS_TESTS_CRASH_NAIVE_H

#include "tests/crash_world.h"
#include "tests/sim_private.h"

/* An operation whose paths have been looked up: it means the same objects and names in each copy of the tree. */
struct naive_op {
	struct cw_op op;
	char *name, *name2;   /* last parts of path and path2 */
	uint64_t dir, dir2;   /* labels; 0: there is no such directory */
	uint64_t obj, obj2;   /* labels of what was there, or 0 */
	uint64_t made;        /* the label that a new object gets */
};

struct naive_op *naive_resolve(struct sim *tree, const struct cw_op *op, uint64_t new_label);
struct naive_op *naive_copy(const struct naive_op *op);
void naive_op_free(struct naive_op *op);
int naive_do(struct sim *tree, const struct naive_op *op);
struct sim_inode *naive_find(struct sim *tree, uint64_t label);
/* "/a/b" of an entry; malloc'ed. NULL: the directory is not there. */
char *naive_path(struct sim *tree, uint64_t dir, const char *name);
/* All paths of an object, each given to fn. */
void naive_paths(struct sim *tree, uint64_t label, void (*fn)(void *arg, const char *path), void *arg);
/* One path of those with this kind (0: any), by chance; malloc'ed, NULL: none. */
char *naive_some_path(struct sim *tree, mode_t kind, uint64_t chance);

#endif
