/*
 * model.h - a naive model of a tree with transactions: the committed tree, and for each open transaction the objects
 * and names that it holds with its own versions of them. What a transaction does not hold follows the committed tree.
 *
 * What is held, until the transaction ends (rolling back to a savepoint keeps it):
 *   objects   by a change of contents, attributes or extended attributes (also one that fails for other reasons than
 *             another holder), by link, unlink, rmdir, rename (the moved and the replaced one), by creation
 *   names     by a change of that name
 *   moves     a directory that went to another parent: others may not move a directory to below it
 *
 * Each operation tells which errors are due (any of them is right), and changes the model when none is. Nodes and names are small numbers.
 */
#ifndef TXNFS_TESTS_MODEL_H
#define TXNFS_TESTS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define M_NODES 128
#define M_NAMES 5
#define M_XATTRS 3
#define M_VALUE 48
#define M_SAVES 6
#define M_ROOT 0

struct m_node {
	mode_t mode;
	uid_t uid;
	gid_t gid;
	bool mtime_known;
	struct timespec mtime;
	uint8_t *data; /* regular files' contents, symbolic links' target */
	size_t size;
	int xattr_len[M_XATTRS]; /* -1: absent */
	char xattr[M_XATTRS][M_VALUE];
};

/* A version of everything that a transaction holds. */
struct m_overlay {
	struct m_node *node[M_NODES]; /* NULL: not held */
	bool name_held[M_NODES][M_NAMES];
	int16_t name[M_NODES][M_NAMES];
};

struct m_save {
	char label;
	struct m_overlay o;
};

struct m_txn {
	bool open;
	struct m_overlay o;
	bool created[M_NODES], moved[M_NODES];
	bool touched[M_NODES]; /* a directory whose names it changed: its mtime is anyone's guess */
	struct m_save save[M_SAVES];
	int nsaves;
};

/* Reasons to fail: none, or one of them is due. */
struct m_errs {
	int must[32], nmust;
};

#define M_TXNS 3

struct model {
	bool used[M_NODES], dead[M_NODES];
	bool pinned[M_NODES]; /* the driver has it open */
	struct m_node node[M_NODES];
	int16_t name[M_NODES][M_NAMES]; /* committed; -1: none */
	struct m_txn txn[M_TXNS];
};

/* A view is a transaction's number, or this. */
#define M_PLAIN (-1)

void m_init(struct model *m);
void m_free(struct model *m);
/* A number for a new node, or -1 when all are in use. */
int m_new(struct model *m);

int m_at(const struct model *m, int v, int dir, int name);
const struct m_node *m_see(const struct model *m, int v, int node);
int m_links(const struct model *m, int v, int node);
int m_subdirs(const struct model *m, int v, int node);
/* Where a node is in a view; false: nowhere. */
bool m_place(const struct model *m, int v, int node, int *dir, int *name);
/* The directory takes no new names: it is removed. */
bool m_removed(const struct model *m, int v, int dir);

void m_begin(struct model *m, int t);
void m_commit(struct model *m, int t);
void m_rollback(struct model *m, int t);
void m_savepoint(struct model *m, int t, char label);
bool m_rollback_to(struct model *m, int t, char label);
bool m_release(struct model *m, int t, char label);
void m_crash(struct model *m);

/* Operations. The model changes when nothing must fail; `node` of create is from m_new. */
void m_create(struct model *m, int v, int dir, int name, int node, const struct m_node *as, struct m_errs *e);
void m_tmpfile(struct model *m, int v, int dir, int node, const struct m_node *as, struct m_errs *e);
void m_link(struct model *m, int v, int node, int dir, int name, struct m_errs *e);
void m_unlink(struct model *m, int v, int dir, int name, bool is_dir, struct m_errs *e);
void m_rename(struct model *m, int v, int dir, int name, int to_dir, int to_name, unsigned flags, struct m_errs *e);
void m_write(struct model *m, int v, int node, const uint8_t *data, size_t n, size_t off, bool kill, struct m_errs *e);
void m_size(struct model *m, int v, int node, size_t size, bool kill, struct m_errs *e);
void m_fallocate(struct model *m, int v, int node, int mode, size_t off, size_t len, struct m_errs *e);
void m_setattr(struct model *m, int v, int node, const struct stat *st, unsigned mask, struct m_errs *e);
void m_setxattr(struct model *m, int v, int node, int x, const void *value, int len, int flags, struct m_errs *e);

#endif
