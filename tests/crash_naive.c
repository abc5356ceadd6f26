/* crash_naive.c - operations on the naive tree of the crash tests. */
#include "tests/crash_naive.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>

struct sim_inode *naive_find(struct sim *tree, uint64_t label)
{
	for (size_t i = 0; label && i < tree->now.n; i++)
		if (tree->now.v[i] && tree->now.v[i]->label == label && (tree->now.v[i]->names || tree->now.v[i]->fixed))
			return tree->now.v[i];
	return NULL;
}

static struct sim_inode *child(struct sim *tree, struct sim_inode *dir, const char *name)
{
	struct sim_entry *e = dir ? sim_entry_find(dir, name) : NULL;

	return e ? sim_at(&tree->now, e->serial) : NULL;
}

/* Where a path leads: its directory and last part, and what is there. */
static void walk(struct sim *tree, const char *path, uint64_t *dir, char **name, uint64_t *obj)
{
	struct sim_inode *at = sim_at(&tree->now, tree->root);
	char *copy = sim_need(strdup(path)), *save, *part = strtok_r(copy, "/", &save), *next;

	*dir = *obj = 0;
	*name = NULL;
	if (!part)
		*obj = at->label;
	for (; part; part = next) {
		next = strtok_r(NULL, "/", &save);
		if (!next) {
			*name = sim_need(strdup(part));
			*dir = at && S_ISDIR(at->mode) ? at->label : 0;
		}
		at = at && S_ISDIR(at->mode) ? child(tree, at, part) : NULL;
		if (!next && at)
			*obj = at->label;
	}
	free(copy);
}

struct naive_op *naive_resolve(struct sim *tree, const struct cw_op *op, uint64_t new_label)
{
	struct naive_op *n = sim_need(calloc(1, sizeof(*n)));

	n->op = *op;
	n->op.path = sim_need(strdup(op->path));
	n->op.path2 = op->path2 ? sim_need(strdup(op->path2)) : NULL;
	walk(tree, op->path, &n->dir, &n->name, &n->obj);
	if (op->kind == CW_RENAME || op->kind == CW_LINK)
		walk(tree, op->path2, &n->dir2, &n->name2, &n->obj2);
	n->made = new_label;
	return n;
}

struct naive_op *naive_copy(const struct naive_op *op)
{
	struct naive_op *n = sim_need(malloc(sizeof(*n)));

	*n = *op;
	n->op.path = sim_need(strdup(op->op.path));
	n->op.path2 = op->op.path2 ? sim_need(strdup(op->op.path2)) : NULL;
	n->name = op->name ? sim_need(strdup(op->name)) : NULL;
	n->name2 = op->name2 ? sim_need(strdup(op->name2)) : NULL;
	return n;
}

void naive_op_free(struct naive_op *n)
{
	free((char *)(uintptr_t)n->op.path);
	free((char *)(uintptr_t)n->op.path2);
	free(n->name);
	free(n->name2);
	free(n);
}

/* ---- doing ---- */

static struct store_obj *obj_at(struct sim *tree, uint64_t label)
{
	struct sim_inode *in = naive_find(tree, label);

	return in ? sim_hand_out(tree, in) : NULL;
}

static void put(struct store_obj *obj)
{
	if (obj)
		obj->store->ops->put(obj);
}

static void set_label(struct sim *tree, uint64_t dir, const char *name, uint64_t label)
{
	child(tree, naive_find(tree, dir), name)->label = label;
}

static int make(struct sim *tree, const struct naive_op *n, struct store_obj *dir)
{
	static const mode_t kinds[] = {[CW_CREATE] = S_IFREG, [CW_MKDIR] = S_IFDIR, [CW_SYMLINK] = S_IFLNK,
	                               [CW_FIFO] = S_IFIFO, [CW_TMP] = S_IFREG};
	struct store_new nw = {.mode = kinds[n->op.kind] | (n->op.kind == CW_SYMLINK ? 0777 : n->op.flags),
	                       .uid = geteuid(), .gid = getegid()};
	struct store_obj *obj;
	struct store_file *f;
	int r;

	if (n->op.kind == CW_SYMLINK)
		nw.target = n->op.path2;
	r = dir->store->ops->create(dir, n->name, &nw, true, &obj, NULL);
	if (r)
		return r;
	if (n->op.kind == CW_TMP && n->op.len) {
		char *p = sim_need(malloc(n->op.len));

		memset(p, n->op.fill, n->op.len);
		dir->store->ops->open(obj, O_RDWR, true, &f);
		dir->store->ops->write(f, p, n->op.len, 0);
		dir->store->ops->close_file(f);
		free(p);
	}
	put(obj);
	set_label(tree, n->dir, n->name, n->made);
	return 0;
}

static int change_data(struct sim *tree, const struct naive_op *n, struct store_obj *obj)
{
	const struct store_ops *so = obj->store->ops;
	uint64_t off = n->op.kind == CW_APPEND ? naive_find(tree, n->obj)->size : n->op.off;
	char *p = sim_need(malloc(n->op.len + 1));
	struct store_file *f = NULL;
	ssize_t r = so->open(obj, O_RDWR, true, &f);

	memset(p, n->op.fill, n->op.len);
	if (!r && n->op.kind == CW_PUNCH)
		r = so->fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, n->op.len);
	else if (!r)
		r = so->write(f, p, n->op.len, off);
	if (f)
		so->close_file(f);
	free(p);
	return r < 0 ? (int)r : 0;
}

int naive_do(struct sim *tree, const struct naive_op *n)
{
	struct store_obj *obj = obj_at(tree, n->obj), *dir = obj_at(tree, n->dir), *dir2 = obj_at(tree, n->dir2);
	const struct store_ops *so = sim_store(tree)->ops;
	char value[32], name[24];
	struct stat st = {0};
	int r = -ENOENT;

	snprintf(name, sizeof(name), "user.%u", n->op.flags);
	memset(value, n->op.fill, sizeof(value));
	switch (n->op.kind) {
	case CW_CREATE:
	case CW_MKDIR:
	case CW_SYMLINK:
	case CW_FIFO:
	case CW_TMP:
		r = dir ? make(tree, n, dir) : -ENOENT;
		break;
	case CW_WRITE:
	case CW_APPEND:
	case CW_PUNCH:
		r = !obj ? -ENOENT : !S_ISREG(obj->kind) ? -EINVAL : change_data(tree, n, obj);
		break;
	case CW_TRUNC:
		st.st_size = (off_t)n->op.off;
		r = obj ? so->setattr(obj, &st, STORE_SET_SIZE) : -ENOENT;
		break;
	case CW_UNLINK:
	case CW_RMDIR:
		r = dir ? so->unlink(dir, n->name, n->op.kind == CW_RMDIR) : -ENOENT;
		break;
	case CW_RENAME:
		r = dir && dir2 ? so->rename(dir, n->name, dir2, n->name2, n->op.flags) : -ENOENT;
		break;
	case CW_LINK:
		r = obj && dir2 ? so->link(obj, dir2, n->name2) : -ENOENT;
		break;
	case CW_CHMOD:
		st.st_mode = n->op.flags;
		r = obj ? so->setattr(obj, &st, STORE_SET_MODE) : -ENOENT;
		break;
	case CW_CHOWN:
		st.st_gid = (gid_t)n->op.off;
		r = obj ? so->setattr(obj, &st, STORE_SET_GID) : -ENOENT;
		break;
	case CW_SETX:
		r = obj ? so->setxattr(obj, name, value, n->op.len, 0) : -ENOENT;
		break;
	case CW_DELX:
		r = obj ? so->removexattr(obj, name) : -ENOENT;
		break;
	}
	put(obj);
	put(dir);
	put(dir2);
	return r;
}

/* ---- paths ---- */

static struct sim_inode *parent_of(struct sim *tree, const struct sim_inode *in, const char **name)
{
	for (size_t i = 0; i < tree->now.n; i++) {
		struct sim_inode *d = tree->now.v[i];

		for (size_t k = 0; d && k < d->nentries; k++)
			if (d->entries[k].serial == in->serial) {
				*name = d->entries[k].name;
				return d;
			}
	}
	return NULL;
}

char *naive_path(struct sim *tree, uint64_t dir, const char *name)
{
	struct sim_inode *d = naive_find(tree, dir);
	char *path = NULL;
	const char *part;

	if (!d || asprintf(&path, "/%s", name) < 0)
		return NULL;
	while (d->serial != tree->root) {
		char *longer;

		d = parent_of(tree, d, &part);
		if (!d) {
			free(path);
			return NULL;
		}
		if (asprintf(&longer, "/%s%s", part, path) < 0)
			abort();
		free(path);
		path = longer;
	}
	return path;
}

void naive_paths(struct sim *tree, uint64_t label, void (*fn)(void *arg, const char *path), void *arg)
{
	struct sim_inode *in = naive_find(tree, label);

	if (in && in->serial == tree->root)
		fn(arg, "/");
	for (size_t i = 0; in && i < tree->now.n; i++) {
		struct sim_inode *d = tree->now.v[i];

		for (size_t k = 0; d && k < d->nentries; k++)
			if (d->entries[k].serial == in->serial) {
				char *path = naive_path(tree, d->label, d->entries[k].name);

				if (path)
					fn(arg, path);
				free(path);
			}
	}
}

char *naive_some_path(struct sim *tree, mode_t kind, uint64_t chance)
{
	char *paths[256];
	size_t n = 0;

	for (size_t i = 0; i < tree->now.n; i++) {
		struct sim_inode *d = tree->now.v[i];

		for (size_t k = 0; d && k < d->nentries && n < ARRAY_LEN(paths); k++) {
			struct sim_inode *in = sim_at(&tree->now, d->entries[k].serial);

			if (!kind || (in->mode & S_IFMT) == kind) {
				paths[n] = naive_path(tree, d->label, d->entries[k].name);
				n += paths[n] != NULL;
			}
		}
	}
	for (size_t i = 0; i < n; i++)
		if (i != chance % n)
			free(paths[i]);
	return n ? paths[chance % n] : NULL;
}
