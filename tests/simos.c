/* simos.c - files in memory that lose power, fill up and fail. */
#include "tests/simos.h"

#include "base/base.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define SECTOR 512u
#define NAME_MAX_LEN 32
#define MAX_NAMES 512
#define MAX_HANDLES 1024
#define DIR_HANDLE 0

struct inode {
	uint8_t *now, *kept; /* as readers see it, and durable */
	uint64_t size, kept_size;
	unsigned refs; /* names (both sorts) and handles */
};

struct name {
	char name[NAME_MAX_LEN];
	struct inode *inode;
};

struct names {
	struct name v[MAX_NAMES];
	size_t n;
};

/* A change of names that is not durable yet. from empty: create `to`; to empty: unlink `from`. */
struct change {
	char from[NAME_MAX_LEN], to[NAME_MAX_LEN];
	struct inode *inode;
};

struct simos {
	struct os os;
	pthread_mutex_t lock;
	struct names now, kept;
	struct change changes[256];
	size_t nchanges;
	struct inode *handles[MAX_HANDLES];
	struct simos_faults faults;
	uint64_t used;
	uint64_t rng;
	void (*on_fdatasync)(void *arg);
	void *arg;
};

static uint64_t rnd(struct simos *s)
{
	s->rng ^= s->rng << 13;
	s->rng ^= s->rng >> 7;
	s->rng ^= s->rng << 17;
	return s->rng;
}

static struct inode *inode_get(struct inode *i)
{
	if (i)
		i->refs++;
	return i;
}

static void inode_put(struct simos *s, struct inode *i)
{
	if (!i || --i->refs > 0)
		return;
	s->used -= i->size;
	free(i->now);
	free(i->kept);
	free(i);
}

static struct name *find(struct names *names, const char *name)
{
	for (size_t i = 0; i < names->n; i++)
		if (strcmp(names->v[i].name, name) == 0)
			return &names->v[i];
	return NULL;
}

static void set_name(struct simos *s, struct names *names, const char *name, struct inode *inode)
{
	struct name *n = find(names, name);

	if (!n) {
		if (names->n == MAX_NAMES)
			abort();
		n = &names->v[names->n++];
		*n = (struct name){ 0 };
		snprintf(n->name, sizeof(n->name), "%s", name);
	}
	inode_get(inode);
	inode_put(s, n->inode);
	n->inode = inode;
}

static void del_name(struct simos *s, struct names *names, const char *name)
{
	struct name *n = find(names, name);

	if (!n)
		return;
	inode_put(s, n->inode);
	*n = names->v[--names->n];
}

static void apply(struct simos *s, struct names *names, const struct change *c)
{
	if (c->to[0])
		set_name(s, names, c->to, c->inode);
	if (c->from[0])
		del_name(s, names, c->from);
}

static void change_names(struct simos *s, const char *from, const char *to, struct inode *inode)
{
	struct change *c = &s->changes[s->nchanges++];

	if (s->nchanges > ARRAY_LEN(s->changes))
		abort();
	*c = (struct change){ .inode = inode_get(inode) };
	snprintf(c->from, sizeof(c->from), "%s", from);
	snprintf(c->to, sizeof(c->to), "%s", to);
	apply(s, &s->now, c);
}

static void drop_changes(struct simos *s)
{
	for (size_t i = 0; i < s->nchanges; i++)
		inode_put(s, s->changes[i].inode);
	s->nchanges = 0;
}

static int resize(struct simos *s, struct inode *i, uint64_t size)
{
	if (size > i->size && s->faults.space && s->used + size - i->size > s->faults.space)
		return -ENOSPC;
	if (size > i->size) {
		i->now = realloc(i->now, size);
		if (!i->now)
			abort();
		memset(i->now + i->size, 0, size - i->size);
	}
	s->used += size - i->size;
	i->size = size;
	return 0;
}

static int sim_openat(void *ctx, int dir, const char *name, int flags, mode_t mode)
{
	struct simos *s = ctx;
	struct name *n;
	int r = -EMFILE;

	if (dir != DIR_HANDLE || ((flags & O_CREAT) && mode != 0600))
		return -EINVAL;
	pthread_mutex_lock(&s->lock);
	n = find(&s->now, name);
	if (!n && !(flags & O_CREAT)) {
		r = -ENOENT;
		goto out;
	}
	if (!n) {
		struct inode *i = calloc(1, sizeof(*i));

		if (!i)
			abort();
		change_names(s, "", name, i);
		n = find(&s->now, name);
	}
	if (flags & O_TRUNC)
		resize(s, n->inode, 0);
	for (int h = DIR_HANDLE + 1; h < MAX_HANDLES; h++) {
		if (!s->handles[h]) {
			s->handles[h] = inode_get(n->inode);
			r = h;
			break;
		}
	}
out:
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int sim_close(void *ctx, int fd)
{
	struct simos *s = ctx;

	pthread_mutex_lock(&s->lock);
	inode_put(s, s->handles[fd]);
	s->handles[fd] = NULL;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static ssize_t sim_pread(void *ctx, int fd, void *buf, size_t n, uint64_t off)
{
	struct simos *s = ctx;
	struct inode *i;

	pthread_mutex_lock(&s->lock);
	i = s->handles[fd];
	n = off >= i->size ? 0 : (size_t)base_min_u64(n, i->size - off);
	if (n)
		memcpy(buf, i->now + off, n);
	pthread_mutex_unlock(&s->lock);
	return (ssize_t)n;
}

static ssize_t sim_pwritev(void *ctx, int fd, const struct iovec *iov, int iovcnt, uint64_t off)
{
	struct simos *s = ctx;
	size_t total = 0, left;
	struct inode *i;
	bool fail;
	ssize_t r;

	for (int k = 0; k < iovcnt; k++)
		total += iov[k].iov_len;
	pthread_mutex_lock(&s->lock);
	i = s->handles[fd];
	fail = s->faults.fail_pwritev && --s->faults.fail_pwritev == 0;
	left = fail && !s->faults.write_all ? (size_t)(rnd(s) % total) : total;
	if (off + left > i->size && resize(s, i, off + left) != 0) {
		/* As much as there is space for, as a real disk does. */
		uint64_t room = s->faults.space > s->used ? s->faults.space - s->used : 0;

		left = off + left - i->size > room && i->size + room > off ? (size_t)(i->size + room - off) : 0;
		if (left == 0 || resize(s, i, off + left) != 0) {
			r = -ENOSPC;
			goto out;
		}
	}
	r = fail ? -EIO : (ssize_t)left;
	for (int k = 0; k < iovcnt && left > 0; k++) {
		size_t n = (size_t)base_min_u64(iov[k].iov_len, left);

		if (n)
			memcpy(i->now + off, iov[k].iov_base, n);
		off += n;
		left -= n;
	}
out:
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int sim_fdatasync(void *ctx, int fd)
{
	struct simos *s = ctx;
	struct inode *i;
	int r = 0;

	if (s->on_fdatasync)
		s->on_fdatasync(s->arg);
	pthread_mutex_lock(&s->lock);
	i = s->handles[fd];
	if (s->faults.fail_fdatasync && --s->faults.fail_fdatasync == 0) {
		r = -EIO;
	} else if (i->size) {
		i->kept = realloc(i->kept, i->size);
		if (!i->kept)
			abort();
		memcpy(i->kept, i->now, i->size);
	}
	if (r == 0)
		i->kept_size = i->size;
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int sim_fsync(void *ctx, int fd)
{
	struct simos *s = ctx;

	if (fd != DIR_HANDLE)
		return sim_fdatasync(ctx, fd);
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->nchanges; i++)
		apply(s, &s->kept, &s->changes[i]);
	drop_changes(s);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int sim_ftruncate(void *ctx, int fd, uint64_t size)
{
	struct simos *s = ctx;
	int r;

	pthread_mutex_lock(&s->lock);
	r = resize(s, s->handles[fd], size);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int sim_allocate(void *ctx, int fd, uint64_t size)
{
	return sim_ftruncate(ctx, fd, size);
}

static int sim_size(void *ctx, int fd, uint64_t *size)
{
	struct simos *s = ctx;

	pthread_mutex_lock(&s->lock);
	*size = s->handles[fd]->size;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int sim_renameat(void *ctx, int dir, const char *from, const char *to)
{
	struct simos *s = ctx;
	struct name *n;

	if (dir != DIR_HANDLE)
		return -EINVAL;
	pthread_mutex_lock(&s->lock);
	n = find(&s->now, from);
	if (n)
		change_names(s, from, to, n->inode);
	pthread_mutex_unlock(&s->lock);
	return n ? 0 : -ENOENT;
}

static int sim_unlinkat(void *ctx, int dir, const char *name)
{
	struct simos *s = ctx;
	struct name *n;

	if (dir != DIR_HANDLE)
		return -EINVAL;
	pthread_mutex_lock(&s->lock);
	n = find(&s->now, name);
	if (n)
		change_names(s, name, "", NULL);
	pthread_mutex_unlock(&s->lock);
	return n ? 0 : -ENOENT;
}

static int sim_list(void *ctx, int dir, int (*fn)(void *arg, const char *name), void *arg)
{
	char names[MAX_NAMES][NAME_MAX_LEN];
	size_t n = simos_names(ctx, names, MAX_NAMES);
	int r = 0;

	if (dir != DIR_HANDLE)
		return -EINVAL;
	for (size_t i = 0; i < n && r == 0; i++)
		r = fn(arg, names[i]);
	return r;
}

struct simos *simos_new(uint64_t seed)
{
	struct simos *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->os = (struct os){
		.ctx = s,
		.openat = sim_openat,
		.close = sim_close,
		.pread = sim_pread,
		.pwritev = sim_pwritev,
		.fdatasync = sim_fdatasync,
		.fsync = sim_fsync,
		.ftruncate = sim_ftruncate,
		.allocate = sim_allocate,
		.size = sim_size,
		.renameat = sim_renameat,
		.unlinkat = sim_unlinkat,
		.list = sim_list,
	};
	s->rng = seed * 2 + 0x9e3779b97f4a7c15u;
	s->rng |= 1;
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

void simos_free(struct simos *s)
{
	if (!s)
		return;
	drop_changes(s);
	while (s->now.n)
		del_name(s, &s->now, s->now.v[0].name);
	while (s->kept.n)
		del_name(s, &s->kept, s->kept.v[0].name);
	for (int h = 0; h < MAX_HANDLES; h++)
		inode_put(s, s->handles[h]);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

const struct os *simos_os(struct simos *s)
{
	return &s->os;
}

int simos_dir(struct simos *s UNUSED)
{
	return DIR_HANDLE;
}

/* What is left of an inode: durable sectors, and with luck some of the others. */
static void survive(struct simos *s, const struct inode *i, bool power_loss, struct inode *out)
{
	bool grown = !power_loss || rnd(s) % 2;
	uint64_t odds = rnd(s) % 5; /* of 4: how much of what was not forced arrives */

	resize(s, out, grown ? i->size : i->kept_size);
	for (uint64_t off = 0; off < out->size; off += SECTOR) {
		bool arrives = !power_loss || rnd(s) % 4 < odds;
		const uint8_t *from = arrives && off < i->size ? i->now : i->kept;
		uint64_t have = arrives && off < i->size ? i->size : i->kept_size;

		if (off < have)
			memcpy(out->now + off, from + off, base_min_u64(SECTOR, base_min_u64(have, out->size) - off));
	}
	out->kept_size = out->size;
	if (out->size) {
		out->kept = malloc(out->size);
		if (!out->kept)
			abort();
		memcpy(out->kept, out->now, out->size);
	}
}

struct simos *simos_copy(struct simos *s, bool power_loss, uint64_t seed)
{
	struct simos *c = simos_new(seed);
	struct names *names = power_loss ? &s->kept : &s->now;

	pthread_mutex_lock(&s->lock);
	if (power_loss) {
		size_t n = rnd(c) % (s->nchanges + 1);

		for (size_t i = 0; i < n; i++)
			apply(s, &s->kept, &s->changes[i]);
	}
	for (size_t i = 0; i < names->n; i++) {
		struct inode *inode = calloc(1, sizeof(*inode));

		if (!inode)
			abort();
		survive(c, names->v[i].inode, power_loss, inode);
		set_name(c, &c->now, names->v[i].name, inode);
		set_name(c, &c->kept, names->v[i].name, inode);
	}
	pthread_mutex_unlock(&s->lock);
	return c;
}

uint8_t *simos_bytes(struct simos *s, const char *name, uint64_t *size)
{
	struct name *n = find(&s->now, name);

	if (!n)
		return NULL;
	if (size)
		*size = n->inode->size;
	return n->inode->now;
}

void simos_truncate(struct simos *s, const char *name, uint64_t size)
{
	struct name *n = find(&s->now, name);

	if (!n || resize(s, n->inode, size) != 0)
		abort();
}

size_t simos_names(struct simos *s, char (*names)[32], size_t max)
{
	size_t n;

	pthread_mutex_lock(&s->lock);
	n = s->now.n < max ? s->now.n : max;
	for (size_t i = 0; i < n; i++)
		memcpy(names[i], s->now.v[i].name, NAME_MAX_LEN);
	pthread_mutex_unlock(&s->lock);
	return n;
}

struct simos_faults *simos_faults(struct simos *s)
{
	return &s->faults;
}

uint64_t simos_open_handles(struct simos *s)
{
	uint64_t n = 0;

	for (int h = 0; h < MAX_HANDLES; h++)
		n += s->handles[h] != NULL;
	return n;
}

void simos_on_fdatasync(struct simos *s, void (*fn)(void *arg), void *arg)
{
	s->on_fdatasync = fn;
	s->arg = arg;
}
