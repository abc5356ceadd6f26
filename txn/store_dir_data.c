/* store_dir_data.c - contents of regular files, and durability. */
#include "txn/store_dir.h"

#include <unistd.h>

#define COPY_CHUNK (128u << 10)

int store_dir_file(struct store_dir_obj *o, int fd, struct store_file **out)
{
	struct store_file *f = malloc(sizeof(*f));
	if (!f) {
		close(fd);
		return -ENOMEM;
	}
	store_dir_get(&o->pub);
	*f = (struct store_file){o, fd};
	*out = f;
	return 0;
}

struct open_args {
	int fd;
	int flags;
};

static int try_open(void *arg)
{
	const struct open_args *a = arg;
	struct store_dir_proc proc = store_dir_proc(a->fd);
	int fd = open(proc.path, a->flags | O_CLOEXEC | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

/* A descriptor for the contents of a regular file or directory. */
static int open_contents(struct store_dir_obj *o, int flags, bool force)
{
	struct store_dir *sd = store_dir_home(o);
	CLEANUP_PIN struct store_dir_pin pin = {0};
	int fd = store_dir_pin(o, &pin);
	if (fd < 0)
		return fd;
	struct open_args a = {pin.fd, flags};
	do
		fd = force ? store_dir_forced(sd, try_open, &a, &pin.fd, 1) : try_open(&a);
	while (fd < 0 && store_dir_relieve(sd, fd));
	return fd;
}

int store_dir_file_open(struct store_obj *obj, int flags, bool force, struct store_file **out)
{
	struct store_dir_obj *o = store_dir_obj_of(obj);
	/* Never a fifo, which would block, nor a device. */
	if (!S_ISREG(obj->kind))
		return S_ISDIR(obj->kind) ? -EISDIR : S_ISLNK(obj->kind) ? -ELOOP : -EINVAL;
	if (store_dir_home(o)->read_only && (flags & O_ACCMODE) != O_RDONLY)
		return -EROFS;
	int fd = open_contents(o, flags & (O_ACCMODE | O_SYNC | O_DSYNC), force);
	return fd < 0 ? fd : store_dir_file(o, fd, out);
}

void store_dir_file_close(struct store_file *f)
{
	if (!f)
		return;
	close(f->fd);
	store_dir_put(&f->obj->pub);
	free(f);
}

static struct store_dir *home(const struct store_file *f)
{
	return store_dir_home(f->obj);
}

/* Both loop, so that less than n means the end of the file or, when writing, that an error cut it short. */

ssize_t store_dir_read(struct store_file *f, void *buf, size_t n, uint64_t off)
{
	size_t done = 0;
	while (done < n) {
		ssize_t r = pread(f->fd, (char *)buf + done, n - done, (off_t)(off + done));
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && !done)
			return -errno;
		if (r <= 0)
			break;
		done += (size_t)r;
	}
	return (ssize_t)done;
}

ssize_t store_dir_write(struct store_file *f, const void *buf, size_t n, uint64_t off)
{
	size_t done = 0;
	while (done < n) {
		ssize_t r = pwrite(f->fd, (const char *)buf + done, n - done, (off_t)(off + done));
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) {
			r = store_dir_space_seen(home(f), -errno);
			return done ? (ssize_t)done : r;
		}
		done += (size_t)r;
	}
	return (ssize_t)done;
}

int store_dir_fallocate(struct store_file *f, int mode, uint64_t off, uint64_t len)
{
	int r;
	do
		r = fallocate(f->fd, mode, (off_t)off, (off_t)len) < 0 ? -errno : 0;
	while (r == -EINTR);
	return (int)store_dir_space_seen(home(f), r);
}

int store_dir_seek(struct store_file *f, uint64_t off, int whence, uint64_t *out)
{
	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	/* Moves the descriptor's position, which nothing uses. */
	off_t r = lseek(f->fd, (off_t)off, whence);
	if (r < 0)
		return -errno;
	*out = (uint64_t)r;
	return 0;
}

static bool overlap(const struct store_file *in, uint64_t off_in, const struct store_file *out, uint64_t off_out,
                    size_t n)
{
	return in->obj == out->obj && off_in < off_out + n && off_out < off_in + n;
}

/* By hand. Stops early at the end of the file, or at an error after something was copied. */
static ssize_t copy_bytes(struct store_file *in, uint64_t off_in, struct store_file *out, uint64_t off_out, size_t n)
{
	CLEANUP_FREE char *buf = malloc(n < COPY_CHUNK ? n : COPY_CHUNK);
	size_t done = 0;
	ssize_t r = buf ? 0 : -ENOMEM;
	while (done < n && r >= 0) {
		size_t want = n - done < COPY_CHUNK ? n - done : COPY_CHUNK;
		ssize_t got = r = store_dir_read(in, buf, want, off_in + done);
		if (got <= 0)
			break;
		r = store_dir_write(out, buf, (size_t)got, off_out + done);
		done += r > 0 ? (size_t)r : 0;
		if (r != got)
			break;
	}
	return done ? (ssize_t)done : r;
}

ssize_t store_dir_copy(struct store_file *in, uint64_t off_in, struct store_file *out, uint64_t off_out, size_t n)
{
	off_t from = (off_t)off_in, to = (off_t)off_out;
	ssize_t r;
	if (!n)
		return 0;
	do
		r = copy_file_range(in->fd, &from, out->fd, &to, n, 0);
	while (r < 0 && errno == EINTR);
	if (r >= 0)
		return r;
	int err = errno;
	if (err == EXDEV || err == EOPNOTSUPP || err == ENOSYS ||
	    (err == EINVAL && !overlap(in, off_in, out, off_out, n)))
		return copy_bytes(in, off_in, out, off_out, n);
	return store_dir_space_seen(home(out), -err);
}

int store_dir_sync_all(struct store *st)
{
	return syncfs(store_dir_of(st)->root_fd) < 0 ? -errno : 0;
}

int store_dir_sync(struct store_obj *obj, bool data_only)
{
	struct store_dir_obj *o = store_dir_obj_of(obj);
	/* Symbolic links, fifos and devices cannot be opened for this. */
	if (!S_ISREG(obj->kind) && !S_ISDIR(obj->kind))
		return store_dir_sync_all(obj->store);
	CLEANUP_CLOSE int fd = open_contents(o, O_RDONLY, true);
	if (fd < 0)
		return fd;
	int r;
	do
		r = (data_only && S_ISREG(obj->kind) ? fdatasync(fd) : fsync(fd)) < 0 ? -errno : 0;
	while (r == -EINTR);
	return (int)store_dir_space_seen(store_dir_home(o), r);
}
