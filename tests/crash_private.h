/* crash_private.h - what crash_world.c and crash_look.c share. */
#ifndef TXNFS_TESTS_CRASH_PRIVATE_H
#define TXNFS_TESTS_CRASH_PRIVATE_H

#include "tests/crash_naive.h"

struct mark {
	char *name;
	size_t nops;
};

struct cw_txn {
	struct txn *t; /* NULL: none */
	struct sim *tree;
	struct naive_op **ops;
	size_t nops;
	struct mark *marks;
	size_t nmarks;
	char gid[24]; /* "" or prepared, or about to be */
	bool prepared;
};

/*
 * What a power cut may take away although its step is done: an object, or what is at a name. A transaction that commits
 * makes durable what it has used, but not an object's other names: `other`.
 */
struct debt {
	uint64_t label, dir;
	char *name;
	char *path; /* where the object was then: it may have lost that since */
	bool other;
};

struct cw {
	struct cw_options opt;
	uint64_t seed, labels, point;
	struct sim *disk; /* of the engine */
	struct txn_engine *eng;
	struct sim *tree; /* committed */
	struct cw_txn txn[CW_TXNS];
	struct debt *debts;
	size_t ndebts;
	struct base_buf log;
	bool looking;
	uint64_t only; /* this point; 0: all */
	char *some_path;
	/* The step under way */
	char *before, *after;       /* pictures */
	/* The picture before a plain operation whose record is not forced yet, and its debts if another one follows. */
	char *older;
	struct sim *older_tree; /* its tree: earlier debts may have other paths there */
	struct debt *older_debts;
	size_t nolder_debts;
	struct sim *after_tree;     /* borrowed; NULL: the committed one */
	struct txn *committing;
	struct cw_txn *deciding; /* being prepared, committed or rolled back */
	char point_text[400];
};

static inline uint64_t cw_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

void cw_wrong(struct cw *w, const char *fmt, ...) PRINTF_LIKE(2, 3); /* ends the test */
int cw_open_engine(struct cw *w, struct sim *disk, struct txn_engine **eng, char *err, size_t errlen);
/* The picture's lines but those that the debts may have changed (trees: where they may be); power: they count. */
bool cw_same(struct cw *w, const char *a, const char *b, struct sim *const trees[], size_t n, bool power);
/* Does the step under way have a prepared transaction, or can it leave one? */
unsigned cw_left(struct sim *image, bool power);
bool cw_has_doubt(struct cw *w);
/*
 * crash_doubt.c: what is in doubt on a disk that was recovered, and whether that is right; resolves it, on this disk, which
 * then must have what the naive tree has. found: its picture.
 */
void cw_check_doubt(struct cw *w, struct sim *image, const char *found, bool power, uint64_t dice);
/* The disk's hook (sim_on_change): look at a crash before this change. */
int cw_hook(void *arg, struct sim *disk, uint64_t n, const char *what, const char *on);

#endif
