/* model.c - the naive model of a tree with transactions (model.h). */
#include "tests/model.h"

#include "base/base.h"
#include "txn/store.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

static void due(struct m_errs *e, int err)
{
	e->must[e->nmust++] = err;
}

static void node_clear(struct m_node *n)
{
	free(n->data);
	memset(n, 0, sizeof(*n));
}

static void node_copy(struct m_node *to, const struct m_node *from)
{
	uint8_t *data = must(malloc(from->size + 1));

	if (from->size)
		memcpy(data, from->data, from->size);
	free(to->data);
	*to = *from;
	to->data = data;
}

static struct m_node *node_dup(const struct m_node *from)
{
	struct m_node *n = must(calloc(1, sizeof(*n)));

	node_copy(n, from);
	return n;
}

static void overlay_clear(struct m_overlay *o)
{
	for (int i = 0; i < M_NODES; i++) {
		if (o->node[i]) {
			node_clear(o->node[i]);
			free(o->node[i]);
		}
	}
	memset(o, 0, sizeof(*o));
}

static void drop_saves(struct m_txn *t, int keep)
{
	while (t->nsaves > keep)
		overlay_clear(&t->save[--t->nsaves].o);
}

void m_init(struct model *m)
{
	memset(m, 0, sizeof(*m));
	memset(m->name, -1, sizeof(m->name));
	m->used[M_ROOT] = true;
	m->node[M_ROOT].mode = S_IFDIR;
}

void m_free(struct model *m)
{
	for (int t = 0; t < M_TXNS; t++) {
		drop_saves(&m->txn[t], 0);
		overlay_clear(&m->txn[t].o);
	}
	for (int i = 0; i < M_NODES; i++)
		node_clear(&m->node[i]);
}

/* Does a version refer to the node? */
static bool overlay_needs(const struct m_overlay *o, int node)
{
	if (o->node[node])
		return true;
	for (int d = 0; d < M_NODES; d++)
		for (int k = 0; k < M_NAMES; k++)
			if (o->name_held[d][k] && (o->name[d][k] == node || d == node))
				return true;
	return false;
}

static bool needed(const struct model *m, int node)
{
	if (node == M_ROOT || m->pinned[node])
		return true;
	for (int d = 0; d < M_NODES; d++)
		for (int k = 0; k < M_NAMES; k++)
			if (m->name[d][k] == node)
				return true;
	for (int t = 0; t < M_TXNS; t++) {
		if (m->txn[t].open && overlay_needs(&m->txn[t].o, node))
			return true;
		for (int s = 0; s < m->txn[t].nsaves; s++)
			if (overlay_needs(&m->txn[t].save[s].o, node))
				return true;
	}
	return false;
}

int m_new(struct model *m)
{
	for (int i = 0; i < M_NODES; i++) {
		if (m->used[i] && needed(m, i))
			continue;
		node_clear(&m->node[i]);
		m->used[i] = true;
		m->dead[i] = false;
		for (int t = 0; t < M_TXNS; t++)
			m->txn[t].created[i] = m->txn[t].moved[i] = m->txn[t].touched[i] = false;
		return i;
	}
	return -1;
}

/* ---- what a view sees ---- */

int m_at(const struct model *m, int v, int dir, int name)
{
	if (v != M_PLAIN && m->txn[v].o.name_held[dir][name])
		return m->txn[v].o.name[dir][name];
	return m->name[dir][name];
}

const struct m_node *m_see(const struct model *m, int v, int node)
{
	return v != M_PLAIN && m->txn[v].o.node[node] ? m->txn[v].o.node[node] : &m->node[node];
}

static bool is_dir(const struct model *m, int v, int node)
{
	return S_ISDIR(m_see(m, v, node)->mode);
}

int m_links(const struct model *m, int v, int node)
{
	int n = 0;

	for (int d = 0; d < M_NODES; d++)
		for (int k = 0; k < M_NAMES; k++)
			n += m_at(m, v, d, k) == node;
	return n;
}

int m_subdirs(const struct model *m, int v, int node)
{
	int n = 0;

	for (int k = 0; k < M_NAMES; k++)
		n += m_at(m, v, node, k) >= 0 && is_dir(m, v, m_at(m, v, node, k));
	return n;
}

bool m_place(const struct model *m, int v, int node, int *dir, int *name)
{
	for (int d = 0; d < M_NODES; d++) {
		for (int k = 0; k < M_NAMES; k++) {
			if (m_at(m, v, d, k) == node) {
				*dir = d;
				*name = k;
				return true;
			}
		}
	}
	return false;
}

bool m_removed(const struct model *m, int v, int dir)
{
	return dir != M_ROOT && m_links(m, v, dir) == 0;
}

/* ---- who holds what ---- */

static bool name_busy(const struct model *m, int v, int dir, int name)
{
	for (int t = 0; t < M_TXNS; t++)
		if (t != v && m->txn[t].open && m->txn[t].o.name_held[dir][name])
			return true;
	return false;
}

static bool node_busy(const struct model *m, int v, int node)
{
	for (int t = 0; t < M_TXNS; t++)
		if (t != v && m->txn[t].open && m->txn[t].o.node[node])
			return true;
	return false;
}

/* Another transaction is about to remove the directory. */
static bool being_removed(const struct model *m, int v, int dir)
{
	for (int t = 0; t < M_TXNS; t++)
		if (t != v && m->txn[t].open && m->txn[t].o.node[dir] && m_removed(m, t, dir))
			return true;
	return false;
}

static struct m_node *own(struct model *m, int v, int node, struct m_errs *e)
{
	if (m->dead[node]) {
		due(e, -ESTALE);
		return NULL;
	}
	if (node_busy(m, v, node)) {
		due(e, -EBUSY);
		return NULL;
	}
	if (v == M_PLAIN)
		return &m->node[node];
	if (!m->txn[v].o.node[node]) {
		m->txn[v].o.node[node] = node_dup(&m->node[node]);
		/* A directory's mtime goes on following others' changes of its names. */
		if (S_ISDIR(m->node[node].mode))
			m->txn[v].o.node[node]->mtime_known = false;
	}
	return m->txn[v].o.node[node];
}

/* May the name change? */
static void own_name(const struct model *m, int v, int dir, int name, struct m_errs *e)
{
	if (being_removed(m, v, dir) || name_busy(m, v, dir, name))
		due(e, -EBUSY);
	else if (m_removed(m, v, dir))
		due(e, -ENOENT);
}

static void set_name(struct model *m, int v, int dir, int name, int node)
{
	if (v == M_PLAIN) {
		m->name[dir][name] = (int16_t)node;
		m->node[dir].mtime_known = false;
		return;
	}
	m->txn[v].o.name_held[dir][name] = true;
	m->txn[v].o.name[dir][name] = (int16_t)node;
	m->txn[v].touched[dir] = true;
	if (m->txn[v].o.node[dir])
		m->txn[v].o.node[dir]->mtime_known = false;
}

static void check_empty(const struct model *m, int v, int dir, struct m_errs *e)
{
	for (int k = 0; k < M_NAMES; k++) {
		if (m_at(m, v, dir, k) >= 0)
			due(e, -ENOTEMPTY);
		if (name_busy(m, v, dir, k))
			due(e, -EBUSY);
	}
}

/* ---- life of a transaction ---- */

void m_begin(struct model *m, int t)
{
	m->txn[t].open = true;
}

static void forget(struct m_txn *t)
{
	drop_saves(t, 0);
	overlay_clear(&t->o);
	memset(t, 0, sizeof(*t));
}

void m_commit(struct model *m, int t)
{
	struct m_txn *x = &m->txn[t];

	for (int i = 0; i < M_NODES; i++) {
		if (x->o.node[i])
			node_copy(&m->node[i], x->o.node[i]);
		else if (x->touched[i])
			m->node[i].mtime_known = false;
		for (int k = 0; k < M_NAMES; k++)
			if (x->o.name_held[i][k])
				m->name[i][k] = x->o.name[i][k];
	}
	forget(x);
}

void m_rollback(struct model *m, int t)
{
	for (int i = 0; i < M_NODES; i++)
		if (m->txn[t].created[i])
			m->dead[i] = true;
	forget(&m->txn[t]);
}

void m_savepoint(struct model *m, int t, char label)
{
	struct m_txn *x = &m->txn[t];
	struct m_save *s = &x->save[x->nsaves++];

	s->label = label;
	s->o = x->o;
	for (int i = 0; i < M_NODES; i++)
		if (x->o.node[i])
			s->o.node[i] = node_dup(x->o.node[i]);
}

static int find_save(const struct m_txn *x, char label)
{
	int i = x->nsaves;

	while (i-- > 0 && x->save[i].label != label)
		;
	return i;
}

bool m_rollback_to(struct model *m, int t, char label)
{
	struct m_txn *x = &m->txn[t];
	int s = find_save(x, label);

	if (s < 0)
		return false;
	drop_saves(x, s + 1);
	for (int i = 0; i < M_NODES; i++) {
		if (x->created[i] && !x->save[s].o.node[i])
			m->dead[i] = true; /* it never was */
		if (x->o.node[i]) {
			const struct m_node *was = x->save[s].o.node[i];

			node_copy(x->o.node[i], was ? was : &m->node[i]);
			if (S_ISDIR(x->o.node[i]->mode))
				x->o.node[i]->mtime_known = false;
		}
		for (int k = 0; k < M_NAMES; k++)
			if (x->o.name_held[i][k])
				x->o.name[i][k] = x->save[s].o.name_held[i][k] ? x->save[s].o.name[i][k] : m->name[i][k];
	}
	return true;
}

bool m_release(struct model *m, int t, char label)
{
	int s = find_save(&m->txn[t], label);

	if (s >= 0)
		drop_saves(&m->txn[t], s);
	return s >= 0;
}

void m_crash(struct model *m)
{
	for (int t = 0; t < M_TXNS; t++)
		if (m->txn[t].open)
			m_rollback(m, t);
}

/* ---- operations ---- */

/* A new node's attributes: `as` has what was asked for. It exists in the committed tree too, without names. */
static void make(struct model *m, int v, int dir, int node, const struct m_node *as)
{
	const struct m_node *d = m_see(m, v, dir);
	struct m_node *n = &m->node[node];

	node_copy(n, as);
	n->mtime_known = false;
	for (int x = 0; x < M_XATTRS; x++)
		n->xattr_len[x] = -1;
	if (d->mode & S_ISGID) {
		n->gid = d->gid;
		if (S_ISDIR(n->mode))
			n->mode |= S_ISGID;
	}
	memset(m->name[node], -1, sizeof(m->name[node]));
	if (v != M_PLAIN) {
		m->txn[v].o.node[node] = node_dup(n);
		m->txn[v].created[node] = true;
	}
}

void m_create(struct model *m, int v, int dir, int name, int node, const struct m_node *as, struct m_errs *e)
{
	own_name(m, v, dir, name, e);
	if (m_at(m, v, dir, name) >= 0)
		due(e, -EEXIST);
	if (e->nmust)
		return;
	make(m, v, dir, node, as);
	set_name(m, v, dir, name, node);
}

void m_tmpfile(struct model *m, int v, int dir, int node, const struct m_node *as, struct m_errs *e)
{
	if (being_removed(m, v, dir))
		due(e, -EBUSY);
	if (!e->nmust)
		make(m, v, dir, node, as);
}

void m_link(struct model *m, int v, int node, int dir, int name, struct m_errs *e)
{
	own_name(m, v, dir, name, e);
	if (m_at(m, v, dir, name) >= 0)
		due(e, -EEXIST);
	if (e->nmust && node_busy(m, v, node))
		due(e, -EBUSY);
	if (e->nmust || !own(m, v, node, e))
		return;
	/* A file without a name that this view made so. */
	if (m_links(m, v, node) == 0 && !(v != M_PLAIN && m->txn[v].created[node]))
		due(e, -ENOENT);
	else
		set_name(m, v, dir, name, node);
}

void m_unlink(struct model *m, int v, int dir, int name, bool rmdir, struct m_errs *e)
{
	int node = m_at(m, v, dir, name);

	own_name(m, v, dir, name, e);
	if (node < 0)
		due(e, -ENOENT);
	else if (rmdir && !is_dir(m, v, node))
		due(e, -ENOTDIR);
	else if (!rmdir && is_dir(m, v, node))
		due(e, -EISDIR);
	else if (rmdir)
		check_empty(m, v, node, e);
	if (e->nmust && node >= 0 && node_busy(m, v, node))
		due(e, -EBUSY);
	if (!e->nmust && own(m, v, node, e))
		set_name(m, v, dir, name, -1);
}

/* Directory `moved` is to go to below to_dir. */
static void check_move(const struct model *m, int v, int moved, int to_dir, struct m_errs *e)
{
	for (int at = to_dir, name; at != M_ROOT;) {
		if (at == moved) {
			due(e, -EINVAL);
			return;
		}
		for (int t = 0; t < M_TXNS; t++)
			if (t != v && m->txn[t].open && m->txn[t].moved[at])
				due(e, -EBUSY);
		if (!m_place(m, v, at, &at, &name))
			return;
	}
}

static bool is_above(const struct model *m, int v, int above, int dir)
{
	for (int name; dir != M_ROOT;) {
		if (dir == above)
			return true;
		if (!m_place(m, v, dir, &dir, &name))
			return false;
	}
	return above == M_ROOT;
}

void m_rename(struct model *m, int v, int dir, int name, int to_dir, int to_name, unsigned flags, struct m_errs *e)
{
	int src = m_at(m, v, dir, name), dst = m_at(m, v, to_dir, to_name);
	bool exchange = flags & RENAME_EXCHANGE, src_dir, dst_dir;

	own_name(m, v, dir, name, e);
	own_name(m, v, to_dir, to_name, e);
	if (src < 0 || (exchange && dst < 0))
		due(e, -ENOENT);
	if (dst >= 0 && (flags & RENAME_NOREPLACE))
		due(e, -EEXIST);
	if (e->nmust && ((src >= 0 && node_busy(m, v, src)) || (dst >= 0 && node_busy(m, v, dst))))
		due(e, -EBUSY);
	if (e->nmust) { /* these may be seen first */
		if (src >= 0 && is_dir(m, v, src))
			check_move(m, v, src, to_dir, e);
		if (dst >= 0 && is_dir(m, v, dst) && is_above(m, v, dst, dir))
			due(e, -ENOTEMPTY);
		return;
	}
	if (src == dst) { /* two names of one file: nothing happens */
		if (v == M_PLAIN && node_busy(m, v, src))
			due(e, -EBUSY);
		return;
	}
	src_dir = is_dir(m, v, src);
	dst_dir = dst >= 0 && is_dir(m, v, dst);
	if (src_dir && dir != to_dir)
		check_move(m, v, src, to_dir, e);
	if (exchange && dst_dir && dir != to_dir)
		check_move(m, v, dst, dir, e);
	if (!exchange && dst >= 0) {
		if (src_dir && !dst_dir)
			due(e, -ENOTDIR);
		if (!src_dir && dst_dir)
			due(e, -EISDIR);
		if (!src_dir && dst_dir && is_above(m, v, dst, dir))
			due(e, -ENOTEMPTY); /* how the kernel says it */
		if (src_dir && dst_dir)
			check_empty(m, v, dst, e);
	}
	if (e->nmust && (node_busy(m, v, src) || (dst >= 0 && node_busy(m, v, dst))))
		due(e, -EBUSY);
	if (e->nmust || !own(m, v, src, e) || (dst >= 0 && !own(m, v, dst, e)))
		return;
	if (v != M_PLAIN && dir != to_dir) {
		m->txn[v].moved[src] |= src_dir;
		if (exchange)
			m->txn[v].moved[dst] |= dst_dir;
	}
	set_name(m, v, dir, name, exchange ? dst : -1);
	set_name(m, v, to_dir, to_name, src);
}

static void resize(struct m_node *n, size_t size)
{
	n->data = must(realloc(n->data, size + 1));
	if (size > n->size)
		memset(n->data + n->size, 0, size - n->size);
	n->size = size;
}

static void kill_priv(struct m_node *n)
{
	n->mode &= ~(mode_t)S_ISUID;
	if (n->mode & S_IXGRP)
		n->mode &= ~(mode_t)S_ISGID;
}

void m_write(struct model *m, int v, int node, const uint8_t *data, size_t n, size_t off, bool kill, struct m_errs *e)
{
	struct m_node *x = own(m, v, node, e);

	if (!x)
		return;
	if (off + n > x->size)
		resize(x, off + n);
	memcpy(x->data + off, data, n);
	x->mtime_known = false;
	if (kill)
		kill_priv(x);
}

void m_size(struct model *m, int v, int node, size_t size, bool kill, struct m_errs *e)
{
	struct m_node *x = own(m, v, node, e);

	if (!x)
		return;
	resize(x, size);
	x->mtime_known = false;
	if (kill)
		kill_priv(x);
}

void m_fallocate(struct model *m, int v, int node, int mode, size_t off, size_t len, struct m_errs *e)
{
	struct m_node *x = own(m, v, node, e);

	if (!x)
		return;
	if (!(mode & FALLOC_FL_KEEP_SIZE) && off + len > x->size)
		resize(x, off + len);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && off < x->size)
		memset(x->data + off, 0, len < x->size - off ? len : x->size - off);
	x->mtime_known = false;
	kill_priv(x);
}

void m_setattr(struct model *m, int v, int node, const struct stat *st, unsigned mask, struct m_errs *e)
{
	struct m_node *x = own(m, v, node, e);

	if (!x)
		return;
	if (mask & STORE_SET_UID)
		x->uid = st->st_uid;
	if (mask & STORE_SET_GID)
		x->gid = st->st_gid;
	if (mask & STORE_SET_MODE)
		x->mode = (x->mode & S_IFMT) | (st->st_mode & 07777);
	else if (mask & (STORE_SET_UID | STORE_SET_GID) && !S_ISDIR(x->mode))
		kill_priv(x);
	if (mask & STORE_SET_MTIME) {
		x->mtime = st->st_mtim;
		x->mtime_known = true;
	}
}

void m_setxattr(struct model *m, int v, int node, int x, const void *value, int len, int flags, struct m_errs *e)
{
	struct m_node *n = own(m, v, node, e);

	if (!n)
		return;
	if (n->xattr_len[x] < 0 && (len < 0 || (flags & XATTR_REPLACE)))
		due(e, -ENODATA);
	else if (n->xattr_len[x] >= 0 && (flags & XATTR_CREATE))
		due(e, -EEXIST);
	if (e->nmust)
		return;
	n->xattr_len[x] = len;
	if (len > 0)
		memcpy(n->xattr[x], value, (size_t)len);
}
