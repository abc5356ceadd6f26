/* sim_os.c - the simulated disk as the log's door to its files (base/os.h). */
#include "tests/sim_private.h"

#include <fcntl.h>
#include <string.h>

#define DIR_HANDLE 1000

static struct sim_inode *wal_dir(struct sim *sim)
{
	return sim_at(&sim->now, sim->wal);
}

static struct sim_inode *at_fd(struct sim *sim, int fd)
{
	return fd >= 0 && (size_t)fd < ARRAY_LEN(sim->fds) && sim->fds[fd].used ? sim->fds[fd].in : NULL;
}

static struct sim_inode *in_wal(struct sim *sim, const char *name)
{
	struct sim_entry *e = sim_entry_find(wal_dir(sim), name);

	return e ? sim_at(&sim->now, e->serial) : NULL;
}

static int so_openat(void *ctx, int dir, const char *name, int flags, mode_t mode)
{
	struct sim *sim = ctx;
	struct sim_inode *in;
	int fd = 0, r = 0;

	if (dir != DIR_HANDLE)
		return -EBADF;
	if (flags & (O_CREAT | O_TRUNC)) {
		r = sim_change(sim, "os.create", name);
		if (r)
			return r;
	}
	SIM_LOCK(sim);
	while ((size_t)fd < ARRAY_LEN(sim->fds) && sim->fds[fd].used)
		fd++;
	in = in_wal(sim, name);
	if ((size_t)fd == ARRAY_LEN(sim->fds)) {
		r = -EMFILE;
	} else if (in && (flags & O_CREAT) && (flags & O_EXCL)) {
		r = -EEXIST;
	} else if (!in && !(flags & O_CREAT)) {
		r = -ENOENT;
	} else if (!in) {
		struct sim_change *c = sim_names_new();

		in = sim_inode_new(sim, S_IFREG | (mode & 07777), geteuid(), getegid());
		c->serial = c->u.names.adds = in->serial;
		sim_names_add(c, sim->wal, name, in->serial);
		sim_names_change(sim, c);
	}
	if (!r && (flags & O_TRUNC))
		sim_resize(sim, in, 0);
	if (!r) {
		in->opens++;
		sim->fds[fd].in = in;
		sim->fds[fd].used = true;
	}
	SIM_UNLOCK(sim);
	return r ? r : fd;
}

static int so_close(void *ctx, int fd)
{
	struct sim *sim = ctx;
	struct sim_inode *in;

	SIM_LOCK(sim);
	in = at_fd(sim, fd);
	if (in) {
		sim->fds[fd].used = false;
		in->opens--;
		sim_inode_drop(sim, in);
	}
	SIM_UNLOCK(sim);
	return in ? 0 : -EBADF;
}

static ssize_t so_pread(void *ctx, int fd, void *buf, size_t n, uint64_t off)
{
	struct sim *sim = ctx;
	struct sim_inode *in;

	SIM_LOCK(sim);
	in = at_fd(sim, fd);
	if (in) {
		n = off >= in->size ? 0 : n < in->size - off ? n : (size_t)(in->size - off);
		sim_read(in, buf, n, off);
	}
	SIM_UNLOCK(sim);
	return in ? (ssize_t)n : -EBADF;
}

static ssize_t so_pwritev(void *ctx, int fd, const struct iovec *iov, int iovcnt, uint64_t off)
{
	struct sim *sim = ctx;
	struct base_buf b = {0};
	struct sim_inode *in;
	ssize_t n;
	int r = sim_change(sim, "os.pwritev", "");

	if (r)
		return r;
	for (int i = 0; i < iovcnt; i++)
		base_buf_put(&b, iov[i].iov_base, iov[i].iov_len);
	if (b.err)
		abort();
	SIM_LOCK(sim);
	in = at_fd(sim, fd);
	r = in ? sim_write(sim, in, b.p, b.n, off) : -EBADF;
	SIM_UNLOCK(sim);
	n = (ssize_t)b.n;
	base_buf_free(&b);
	return r ? r : n;
}

static int sync_fd(struct sim *sim, int fd, bool data_only)
{
	struct sim_inode *in;
	int r = sim_change(sim, data_only ? "os.fdatasync" : "os.fsync", fd == DIR_HANDLE ? "wal" : "");

	if (r)
		return r;
	SIM_LOCK(sim);
	in = fd == DIR_HANDLE ? wal_dir(sim) : at_fd(sim, fd);
	if (in)
		sim_sync_inode(sim, in, data_only);
	SIM_UNLOCK(sim);
	return in ? 0 : -EBADF;
}

static int so_fdatasync(void *ctx, int fd)
{
	return sync_fd(ctx, fd, true);
}

static int so_fsync(void *ctx, int fd)
{
	return sync_fd(ctx, fd, false);
}

static int so_ftruncate(void *ctx, int fd, uint64_t size)
{
	struct sim *sim = ctx;
	struct sim_inode *in;
	int r = sim_change(sim, "os.ftruncate", "");

	if (r)
		return r;
	SIM_LOCK(sim);
	in = at_fd(sim, fd);
	if (in)
		sim_resize(sim, in, size);
	SIM_UNLOCK(sim);
	return in ? 0 : -EBADF;
}

static int so_allocate(void *ctx, int fd, uint64_t size)
{
	struct sim *sim = ctx;
	struct sim_inode *in;
	int r = sim_change(sim, "os.allocate", "");

	if (r)
		return r;
	SIM_LOCK(sim);
	in = at_fd(sim, fd);
	if (!in)
		r = -EBADF;
	else if (size > in->size)
		r = sim_write(sim, in, NULL, (size_t)(size - in->size), in->size);
	SIM_UNLOCK(sim);
	return r;
}

static int so_size(void *ctx, int fd, uint64_t *size)
{
	struct sim_inode *in = at_fd(ctx, fd);

	if (!in)
		return -EBADF;
	*size = in->size;
	return 0;
}

static int so_renameat(void *ctx, int dir, const char *from, const char *to)
{
	struct sim *sim = ctx;
	struct sim_inode *a, *b;
	struct sim_change *c;
	int r = dir == DIR_HANDLE ? sim_change(sim, "os.renameat", from) : -EBADF;

	if (r)
		return r;
	SIM_LOCK(sim);
	a = in_wal(sim, from);
	b = in_wal(sim, to);
	if (!a) {
		r = -ENOENT;
	} else if (a != b) {
		c = sim_names_new();
		if (b)
			c->u.names.removes[0] = b->serial;
		sim_names_add(c, sim->wal, from, 0);
		sim_names_add(c, sim->wal, to, a->serial);
		sim_names_change(sim, c);
		if (b)
			sim_inode_drop(sim, b);
	}
	SIM_UNLOCK(sim);
	return r;
}

static int so_unlinkat(void *ctx, int dir, const char *name)
{
	struct sim *sim = ctx;
	struct sim_inode *in;
	struct sim_change *c;
	int r = dir == DIR_HANDLE ? sim_change(sim, "os.unlinkat", name) : -EBADF;

	if (r)
		return r;
	SIM_LOCK(sim);
	in = in_wal(sim, name);
	if (in) {
		c = sim_names_new();
		c->u.names.removes[0] = in->serial;
		sim_names_add(c, sim->wal, name, 0);
		sim_names_change(sim, c);
		sim_inode_drop(sim, in);
	}
	SIM_UNLOCK(sim);
	return in ? 0 : -ENOENT;
}

int sim_wal_names(struct sim *sim, int (*fn)(void *arg, const char *name), void *arg)
{
	char **names;
	size_t n;
	int r = 0;

	SIM_LOCK(sim);
	n = wal_dir(sim)->nentries;
	names = sim_need(calloc(n + 1, sizeof(*names)));
	for (size_t i = 0; i < n; i++)
		names[i] = sim_need(strdup(wal_dir(sim)->entries[i].name));
	SIM_UNLOCK(sim);
	for (size_t i = 0; i < n; i++) {
		if (!r)
			r = fn(arg, names[i]);
		free(names[i]);
	}
	free(names);
	return r;
}

static int so_list(void *ctx, int dir, int (*fn)(void *arg, const char *name), void *arg)
{
	return dir == DIR_HANDLE ? sim_wal_names(ctx, fn, arg) : -EBADF;
}

int sim_peek(struct sim *sim, const char *wal_name, uint8_t **p, uint64_t *size)
{
	struct sim_inode *in = in_wal(sim, wal_name);

	if (!in)
		return -ENOENT;
	*size = in->size;
	*p = sim_need(malloc(in->size + 1));
	sim_read(in, *p, in->size, 0);
	return 0;
}

/* Damage is as durable as anything. */
int sim_poke(struct sim *sim, const char *wal_name, const uint8_t *p, uint64_t size)
{
	struct sim_inode *in;
	int fd = so_openat(sim, DIR_HANDLE, wal_name, O_CREAT | O_RDWR, 0600), r;

	if (fd < 0)
		return fd;
	in = sim->fds[fd].in;
	sim_resize(sim, in, 0);
	r = size ? sim_write(sim, in, p, size, 0) : 0;
	sim_sync_inode(sim, in, false);
	so_close(sim, fd);
	sim_sync_inode(sim, wal_dir(sim), false);
	return r;
}

int sim_wal_dir(struct sim *sim UNUSED)
{
	return DIR_HANDLE;
}

void sim_os_init(struct sim *sim)
{
	sim->os = (struct os){
		.ctx = sim,
		.openat = so_openat,
		.close = so_close,
		.pread = so_pread,
		.pwritev = so_pwritev,
		.fdatasync = so_fdatasync,
		.fsync = so_fsync,
		.ftruncate = so_ftruncate,
		.allocate = so_allocate,
		.size = so_size,
		.renameat = so_renameat,
		.unlinkat = so_unlinkat,
		.list = so_list,
	};
}

const struct os *sim_os(struct sim *sim)
{
	return &sim->os;
}
