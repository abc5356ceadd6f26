/* sim.c - the simulated disk: inodes, pages, names, and the list of changes that are not durable yet. */
#include "tests/sim_private.h"

#include <stdio.h>
#include <string.h>

void *sim_need(void *p)
{
	if (!p) {
		fprintf(stderr, "simulated disk: no memory\n");
		abort();
	}
	return p;
}

/* ---- pages ---- */

static void page_put(struct sim_page *p)
{
	if (p && __atomic_sub_fetch(&p->refs, 1, __ATOMIC_ACQ_REL) == 0)
		free(p);
}

static uint8_t *page_for_write(struct sim_inode *in, size_t i)
{
	struct sim_page *p, *old;

	if (i >= in->npages) {
		size_t n = i + 1 > in->npages * 2 ? i + 1 : in->npages * 2;

		in->pages = sim_need(reallocarray(in->pages, n, sizeof(p)));
		memset(in->pages + in->npages, 0, (n - in->npages) * sizeof(p));
		in->npages = n;
	}
	old = in->pages[i];
	if (old && __atomic_load_n(&old->refs, __ATOMIC_ACQUIRE) == 1)
		return old->b;
	p = sim_need(malloc(sizeof(*p)));
	p->refs = 1;
	if (old)
		memcpy(p->b, old->b, SIM_PAGE);
	else
		memset(p->b, 0, SIM_PAGE);
	page_put(old);
	in->pages[i] = p;
	return p->b;
}

/* buf NULL: zeros. Does not touch the size. */
static void put_bytes(struct sim_inode *in, const void *buf, size_t n, uint64_t off)
{
	const uint8_t *from = buf;

	while (n) {
		size_t i = off / SIM_PAGE, in_page = off % SIM_PAGE, k = SIM_PAGE - in_page;

		k = k < n ? k : n;
		if (from) {
			memcpy(page_for_write(in, i) + in_page, from, k);
			from += k;
		} else if (i < in->npages && in->pages[i]) {
			memset(page_for_write(in, i) + in_page, 0, k);
		}
		off += k;
		n -= k;
	}
}

void sim_read(struct sim_inode *in, void *buf, size_t n, uint64_t off)
{
	uint8_t *to = buf;

	while (n) {
		size_t i = off / SIM_PAGE, in_page = off % SIM_PAGE, k = SIM_PAGE - in_page;

		k = k < n ? k : n;
		if (i < in->npages && in->pages[i])
			memcpy(to, in->pages[i]->b + in_page, k);
		else
			memset(to, 0, k);
		to += k;
		off += k;
		n -= k;
	}
}

static void set_size(struct sim_inode *in, uint64_t size)
{
	if (size < in->size) {
		size_t keep = (size + SIM_PAGE - 1) / SIM_PAGE;

		for (size_t i = keep; i < in->npages; i++) {
			page_put(in->pages[i]);
			in->pages[i] = NULL;
		}
		if (size % SIM_PAGE)
			put_bytes(in, NULL, SIM_PAGE - size % SIM_PAGE, size);
	}
	in->size = size;
}

/* ---- inodes and trees ---- */

void sim_inode_free(struct sim_inode *in)
{
	for (size_t i = 0; i < in->npages; i++)
		page_put(in->pages[i]);
	for (size_t i = 0; i < in->nxattrs; i++) {
		free(in->xattrs[i].name);
		free(in->xattrs[i].value);
	}
	for (size_t i = 0; i < in->nentries; i++)
		free(in->entries[i].name);
	free(in->pages);
	free(in->xattrs);
	free(in->entries);
	free(in->target);
	free(in);
}

struct sim_inode *sim_inode_copy(const struct sim_inode *in)
{
	struct sim_inode *c = sim_need(malloc(sizeof(*c)));

	*c = *in;
	c->obj = NULL;
	c->opens = 0;
	c->pages = in->npages ? sim_need(calloc(in->npages, sizeof(c->pages[0]))) : NULL;
	for (size_t i = 0; i < in->npages; i++)
		if ((c->pages[i] = in->pages[i]))
			__atomic_add_fetch(&c->pages[i]->refs, 1, __ATOMIC_RELAXED);
	c->xattrs = in->nxattrs ? sim_need(calloc(in->nxattrs, sizeof(c->xattrs[0]))) : NULL;
	for (size_t i = 0; i < in->nxattrs; i++) {
		struct sim_xattr *x = &in->xattrs[i];

		c->xattrs[i] = (struct sim_xattr){sim_need(strdup(x->name)), sim_need(malloc(x->len + 1)), x->len};
		memcpy(c->xattrs[i].value, x->value, x->len);
	}
	c->capentries = in->nentries;
	c->entries = in->nentries ? sim_need(calloc(in->nentries, sizeof(c->entries[0]))) : NULL;
	for (size_t i = 0; i < in->nentries; i++)
		c->entries[i] = (struct sim_entry){sim_need(strdup(in->entries[i].name)), in->entries[i].serial};
	c->target = in->target ? sim_need(strdup(in->target)) : NULL;
	return c;
}

void sim_tree_add(struct sim_tree *t, struct sim_inode *in)
{
	if (in->serial >= t->cap) {
		size_t cap = in->serial * 2 + 16;

		t->v = sim_need(reallocarray(t->v, cap, sizeof(t->v[0])));
		memset(t->v + t->cap, 0, (cap - t->cap) * sizeof(t->v[0]));
		t->cap = cap;
	}
	t->v[in->serial] = in;
	if (in->serial >= t->n)
		t->n = in->serial + 1;
}

void sim_tree_free(struct sim_tree *t)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->v[i])
			sim_inode_free(t->v[i]);
	free(t->v);
	*t = (struct sim_tree){0};
}

struct sim_inode *sim_at(struct sim_tree *t, uint64_t serial)
{
	return serial < t->n ? t->v[serial] : NULL;
}

static size_t entry_index(struct sim_inode *dir, const char *name, bool *found)
{
	size_t lo = 0, hi = dir->nentries;

	*found = false;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strcmp(dir->entries[mid].name, name);

		if (!c) {
			*found = true;
			return mid;
		}
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct sim_entry *sim_entry_find(struct sim_inode *dir, const char *name)
{
	bool found;
	size_t i = entry_index(dir, name, &found);

	return found ? &dir->entries[i] : NULL;
}

void sim_entry_set(struct sim_tree *t, uint64_t dir_serial, const char *name, uint64_t to)
{
	struct sim_inode *dir = sim_at(t, dir_serial), *old, *new = sim_at(t, to);
	bool found;
	size_t i;

	if (!dir)
		return;
	i = entry_index(dir, name, &found);
	old = found ? sim_at(t, dir->entries[i].serial) : NULL;
	if (old)
		old->names--;
	if (new)
		new->names++;
	if (found && to) {
		dir->entries[i].serial = to;
	} else if (found) {
		free(dir->entries[i].name);
		memmove(dir->entries + i, dir->entries + i + 1, (dir->nentries - i - 1) * sizeof(dir->entries[0]));
		dir->nentries--;
	} else if (to) {
		if (dir->nentries == dir->capentries) {
			dir->capentries = dir->capentries * 2 + 4;
			dir->entries = sim_need(reallocarray(dir->entries, dir->capentries, sizeof(dir->entries[0])));
		}
		memmove(dir->entries + i + 1, dir->entries + i, (dir->nentries - i) * sizeof(dir->entries[0]));
		dir->entries[i] = (struct sim_entry){sim_need(strdup(name)), to};
		dir->nentries++;
	}
}

struct sim_xattr *sim_xattr_find(struct sim_inode *in, const char *name)
{
	for (size_t i = 0; i < in->nxattrs; i++)
		if (!strcmp(in->xattrs[i].name, name))
			return &in->xattrs[i];
	return NULL;
}

void sim_xattr_put(struct sim_inode *in, const char *name, const void *value, size_t len)
{
	struct sim_xattr *x = sim_xattr_find(in, name);
	void *copy = NULL;
	size_t i = 0;

	if (!x && !value)
		return;
	if (!value) {
		i = (size_t)(x - in->xattrs);
		free(x->name);
		free(x->value);
		memmove(x, x + 1, (in->nxattrs - i - 1) * sizeof(*x));
		in->nxattrs--;
		return;
	}
	copy = sim_need(malloc(len + 1));
	memcpy(copy, value, len);
	if (!x) {
		in->xattrs = sim_need(reallocarray(in->xattrs, in->nxattrs + 1, sizeof(*x)));
		while (i < in->nxattrs && strcmp(in->xattrs[i].name, name) < 0)
			i++;
		x = in->xattrs + i;
		memmove(x + 1, x, (in->nxattrs - i) * sizeof(*x));
		in->nxattrs++;
		*x = (struct sim_xattr){.name = sim_need(strdup(name))};
	}
	free(x->value);
	x->value = copy;
	x->len = len;
}

/* ---- what is pending ---- */

void sim_change_free(struct sim_change *c)
{
	if (c->kind == SIM_DATA)
		free(c->u.data.bytes);
	if (c->kind == SIM_XATTR) {
		free(c->u.xattr.name);
		free(c->u.xattr.value);
	}
	if (c->kind == SIM_NAMES)
		for (int i = 0; i < c->u.names.n; i++)
			free(c->u.names.set[i].name);
	free(c);
}

void sim_apply(struct sim_tree *t, const struct sim_change *c)
{
	struct sim_inode *in = sim_at(t, c->serial);

	switch (c->kind) {
	case SIM_DATA:
		put_bytes(in, c->u.data.bytes, SIM_SECTOR, c->u.data.at * SIM_SECTOR);
		break;
	case SIM_SIZE:
		set_size(in, c->u.size);
		break;
	case SIM_ATTR:
		in->mode = c->u.attr.mode;
		in->uid = c->u.attr.uid;
		in->gid = c->u.attr.gid;
		in->atime = c->u.attr.atime;
		in->mtime = c->u.attr.mtime;
		break;
	case SIM_XATTR:
		sim_xattr_put(in, c->u.xattr.name, c->u.xattr.value, c->u.xattr.len);
		break;
	case SIM_NAMES:
		for (int i = 0; i < c->u.names.n; i++)
			sim_entry_set(t, c->u.names.set[i].dir, c->u.names.set[i].name, c->u.names.set[i].to);
		break;
	}
}

static struct sim_change *pend(struct sim *sim, enum sim_kind kind, uint64_t serial)
{
	struct sim_change *c = sim_need(calloc(1, sizeof(*c)));

	c->kind = kind;
	c->serial = serial;
	TAILQ_INSERT_TAIL(&sim->pending, c, link);
	sim->npending++;
	return c;
}

static void settle(struct sim *sim, struct sim_change *c)
{
	sim_apply(&sim->durable, c);
	TAILQ_REMOVE(&sim->pending, c, link);
	sim->npending--;
	sim_change_free(c);
}

static uint64_t used_space(struct sim *sim)
{
	uint64_t n = 0;

	for (size_t i = 0; i < sim->now.n; i++)
		for (size_t k = 0; sim->now.v[i] && k < sim->now.v[i]->npages; k++)
			n += sim->now.v[i]->pages[k] ? SIM_PAGE : 0;
	return n;
}

/* May what is pending leave something else in this sector than what is durable? */
static bool sector_pending(struct sim *sim, uint64_t serial, uint64_t sector)
{
	struct sim_change *c;

	TAILQ_FOREACH (c, &sim->pending, link)
		if (c->serial == serial && ((c->kind == SIM_DATA && c->u.data.at == sector) ||
		                            (c->kind == SIM_SIZE && c->u.size < (sector + 1) * SIM_SECTOR)))
			return true;
	return false;
}

int sim_write(struct sim *sim, struct sim_inode *in, const void *buf, size_t n, uint64_t off)
{
	uint64_t end = off + n;

	if (!n)
		return 0;
	if (sim->space && used_space(sim) + base_align_up(n, SIM_PAGE) > sim->space)
		return -ENOSPC;
	put_bytes(in, buf, n, off);
	for (uint64_t s = off / SIM_SECTOR; n && s <= (end - 1) / SIM_SECTOR; s++) {
		uint8_t new[SIM_SECTOR], old[SIM_SECTOR];
		struct sim_change *c;

		sim_read(in, new, SIM_SECTOR, s * SIM_SECTOR);
		sim_read(sim_at(&sim->durable, in->serial), old, SIM_SECTOR, s * SIM_SECTOR);
		if (!memcmp(new, old, SIM_SECTOR) && !sector_pending(sim, in->serial, s))
			continue;
		c = pend(sim, SIM_DATA, in->serial);
		c->u.data.at = s;
		c->u.data.bytes = sim_need(malloc(SIM_SECTOR));
		memcpy(c->u.data.bytes, new, SIM_SECTOR);
	}
	if (end > in->size) {
		in->size = end;
		pend(sim, SIM_SIZE, in->serial)->u.size = end;
	}
	clock_gettime(CLOCK_REALTIME, &in->mtime);
	in->ctime = in->mtime;
	return 0;
}

void sim_resize(struct sim *sim, struct sim_inode *in, uint64_t size)
{
	if (size != in->size) {
		set_size(in, size);
		pend(sim, SIM_SIZE, in->serial)->u.size = size;
	}
	clock_gettime(CLOCK_REALTIME, &in->mtime);
	in->ctime = in->mtime;
}

void sim_attr_changed(struct sim *sim, struct sim_inode *in)
{
	struct sim_change *c = pend(sim, SIM_ATTR, in->serial);

	c->u.attr.mode = in->mode;
	c->u.attr.uid = in->uid;
	c->u.attr.gid = in->gid;
	c->u.attr.atime = in->atime;
	c->u.attr.mtime = in->mtime;
	clock_gettime(CLOCK_REALTIME, &in->ctime);
}

void sim_xattr_change(struct sim *sim, struct sim_inode *in, const char *name, const void *value, size_t len)
{
	struct sim_change *c = pend(sim, SIM_XATTR, in->serial);

	c->u.xattr.name = sim_need(strdup(name));
	c->u.xattr.len = len;
	if (value) {
		c->u.xattr.value = sim_need(malloc(len + 1));
		memcpy(c->u.xattr.value, value, len);
	}
	sim_apply(&sim->now, c);
	clock_gettime(CLOCK_REALTIME, &in->ctime);
}

struct sim_change *sim_names_new(void)
{
	struct sim_change *c = sim_need(calloc(1, sizeof(*c)));

	c->kind = SIM_NAMES;
	return c;
}

void sim_names_add(struct sim_change *c, uint64_t dir, const char *name, uint64_t to)
{
	c->u.names.set[c->u.names.n++] = (struct sim_set){dir, to, sim_need(strdup(name))};
}

void sim_names_change(struct sim *sim, struct sim_change *c)
{
	for (int i = 0; i < c->u.names.n; i++) {
		struct sim_inode *dir = sim_at(&sim->now, c->u.names.set[i].dir);

		clock_gettime(CLOCK_REALTIME, &dir->mtime);
		dir->ctime = dir->mtime;
	}
	sim_apply(&sim->now, c);
	TAILQ_INSERT_TAIL(&sim->pending, c, link);
	sim->npending++;
}

void sim_sync_everything(struct sim *sim)
{
	while (!TAILQ_EMPTY(&sim->pending))
		settle(sim, TAILQ_FIRST(&sim->pending));
	for (size_t i = 0; i < sim->durable.n; i++)
		if (sim->durable.v[i] && !sim_at(&sim->now, i)) {
			sim_inode_free(sim->durable.v[i]);
			sim->durable.v[i] = NULL;
		}
}

static bool touches(const struct sim_change *c, uint64_t dir)
{
	for (int i = 0; c->kind == SIM_NAMES && i < c->u.names.n; i++)
		if (c->u.names.set[i].dir == dir)
			return true;
	return false;
}

/* What the rules for names make others need becomes durable with them. */
static void sync_names(struct sim *sim, uint64_t dir)
{
	struct sim_change *c, *next;
	bool more = true;

	TAILQ_FOREACH (c, &sim->pending, link)
		c->keep = touches(c, dir);
	while (more) {
		more = false;
		TAILQ_FOREACH (c, &sim->pending, link) {
			struct sim_change *d = c->keep ? sim_change_needs(&sim->pending, c) : NULL;

			if (d)
				d->keep = more = true;
		}
	}
	for (c = TAILQ_FIRST(&sim->pending); c; c = next) {
		next = TAILQ_NEXT(c, link);
		if (c->kind == SIM_NAMES && c->keep)
			settle(sim, c);
	}
}

void sim_sync_inode(struct sim *sim, struct sim_inode *in, bool data_only)
{
	struct sim_change *c, *next;

	for (c = TAILQ_FIRST(&sim->pending); c; c = next) {
		next = TAILQ_NEXT(c, link);
		if (c->kind != SIM_NAMES && c->serial == in->serial &&
		    (!data_only || c->kind == SIM_DATA || c->kind == SIM_SIZE))
			settle(sim, c);
	}
	if (S_ISDIR(in->mode))
		sync_names(sim, in->serial);
}

/* ---- life ---- */

static uint64_t free_ino(struct sim *sim)
{
	uint64_t ino = 2;
	bool taken = true;

	while (taken) {
		ino++;
		taken = false;
		for (size_t i = 0; i < sim->now.n && !taken; i++)
			taken = sim->now.v[i] && sim->now.v[i]->ino == ino;
	}
	return ino;
}

struct sim_inode *sim_inode_new(struct sim *sim, mode_t mode, uid_t uid, gid_t gid)
{
	struct sim_inode *in = sim_need(calloc(1, sizeof(*in)));
	size_t n = sim->now.n > sim->durable.n ? sim->now.n : sim->durable.n;

	in->serial = n ? n : 1;
	in->ino = free_ino(sim);
	in->gen = ++sim->gen;
	in->mode = mode;
	in->uid = uid;
	in->gid = gid;
	clock_gettime(CLOCK_REALTIME, &in->mtime);
	in->atime = in->ctime = in->mtime;
	sim_tree_add(&sim->now, in);
	sim_tree_add(&sim->durable, sim_inode_copy(in));
	return in;
}

void sim_inode_drop(struct sim *sim, struct sim_inode *in)
{
	if (in->names || in->opens || in->fixed || (in->obj && !in->forsaken))
		return;
	if (in->obj)
		in->obj->in = NULL;
	sim->now.v[in->serial] = NULL;
	sim_inode_free(in);
}

struct sim *sim_alloc(void)
{
	struct sim *sim = sim_need(calloc(1, sizeof(*sim)));

	pthread_mutex_init(&sim->lock, NULL);
	TAILQ_INIT(&sim->pending);
	sim_store_init(sim);
	sim_os_init(sim);
	return sim;
}

struct sim *sim_new(void)
{
	struct sim *sim = sim_alloc();
	uint64_t *fixed[] = {&sim->root, &sim->wal, &sim->stage, &sim->trash};

	for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
		struct sim_inode *in = sim_inode_new(sim, S_IFDIR | 0755, geteuid(), getegid());

		in->fixed = sim_at(&sim->durable, in->serial)->fixed = true;
		*fixed[i] = in->serial;
	}
	return sim;
}

void sim_free(struct sim *sim)
{
	struct sim_change *c;

	for (size_t i = 0; i < sim->now.n; i++)
		if (sim->now.v[i] && sim->now.v[i]->obj)
			free(sim->now.v[i]->obj);
	while ((c = TAILQ_FIRST(&sim->pending))) {
		TAILQ_REMOVE(&sim->pending, c, link);
		sim_change_free(c);
	}
	sim_tree_free(&sim->now);
	sim_tree_free(&sim->durable);
	pthread_mutex_destroy(&sim->lock);
	free(sim);
}

void sim_on_change(struct sim *sim, sim_hook *fn, void *arg)
{
	sim->hook = fn;
	sim->hook_arg = arg;
}

uint64_t sim_changes(const struct sim *sim)
{
	return sim->changes;
}

int sim_change(struct sim *sim, const char *what, const char *on)
{
	uint64_t n;

	pthread_mutex_lock(&sim->lock);
	n = sim->changes++;
	pthread_mutex_unlock(&sim->lock);
	return sim->hook ? sim->hook(sim->hook_arg, sim, n, what, on) : 0;
}

void sim_set_space(struct sim *sim, uint64_t bytes)
{
	sim->space = bytes;
}
