/* os_real.c - the kernel behind struct os. */
#include "base/base.h"
#include "base/os.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Value of a system call, repeated while a signal interrupts it, or -errno. */
#define SYSCALL(call)                                                                                                  \
	({                                                                                                             \
		__typeof__(call) ret_;                                                                                 \
		do                                                                                                     \
			ret_ = (call);                                                                                 \
		while (ret_ < 0 && errno == EINTR);                                                                    \
		ret_ < 0 ? -errno : ret_;                                                                              \
	})

static int real_openat(void *ctx UNUSED, int dir, const char *name, int flags, mode_t mode)
{
	return SYSCALL(openat(dir, name, flags | O_CLOEXEC, mode));
}

static int real_close(void *ctx UNUSED, int fd)
{
	/* Linux has released the descriptor even when close was interrupted. */
	return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

static ssize_t real_pread(void *ctx UNUSED, int fd, void *buf, size_t n, uint64_t off)
{
	return SYSCALL(pread(fd, buf, n, (off_t)off));
}

static ssize_t real_pwritev(void *ctx UNUSED, int fd, const struct iovec *iov, int iovcnt, uint64_t off)
{
	return SYSCALL(pwritev(fd, iov, iovcnt, (off_t)off));
}

static int real_fdatasync(void *ctx UNUSED, int fd)
{
	return SYSCALL(fdatasync(fd));
}

static int real_fsync(void *ctx UNUSED, int fd)
{
	return SYSCALL(fsync(fd));
}

static int real_ftruncate(void *ctx UNUSED, int fd, uint64_t size)
{
	return SYSCALL(ftruncate(fd, (off_t)size));
}

static int real_allocate(void *ctx UNUSED, int fd, uint64_t size)
{
	int r;

	do
		r = fallocate(fd, 0, 0, (off_t)size) < 0 ? -errno : 0;
	while (r == -EINTR);
	return r == -ENOSYS ? -EOPNOTSUPP : r;
}

static int real_size(void *ctx UNUSED, int fd, uint64_t *size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*size = (uint64_t)st.st_size;
	return 0;
}

static int real_renameat(void *ctx UNUSED, int dir, const char *from, const char *to)
{
	return renameat(dir, from, dir, to) < 0 ? -errno : 0;
}

static int real_unlinkat(void *ctx UNUSED, int dir, const char *name)
{
	return unlinkat(dir, name, 0) < 0 ? -errno : 0;
}

static int real_list(void *ctx UNUSED, int dir, int (*fn)(void *arg, const char *name), void *arg)
{
	/* A descriptor of its own: its position is not shared with the caller's. */
	CLEANUP_CLOSE int fd = SYSCALL(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *e;
	DIR *d;
	int r = 0;

	if (fd < 0)
		return fd;
	d = fdopendir(fd);
	if (!d)
		return -errno;
	(void)TAKE_FD(fd);
	while (r == 0) {
		errno = 0;
		e = readdir(d);
		if (!e) {
			r = -errno;
			break;
		}
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = fn(arg, e->d_name);
	}
	closedir(d);
	return r;
}

const struct os *os_real(void)
{
	static const struct os real = {
		.openat = real_openat,
		.close = real_close,
		.pread = real_pread,
		.pwritev = real_pwritev,
		.fdatasync = real_fdatasync,
		.fsync = real_fsync,
		.ftruncate = real_ftruncate,
		.allocate = real_allocate,
		.size = real_size,
		.renameat = real_renameat,
		.unlinkat = real_unlinkat,
		.list = real_list,
	};

	return &real;
}

int os_pread_full(const struct os *os, int fd, void *buf, size_t n, uint64_t off)
{
	uint8_t *p = buf;

	while (n > 0) {
		ssize_t r = os->pread(os->ctx, fd, p, n, off);

		if (r < 0)
			return (int)r;
		if (r == 0)
			return -EIO;
		p += r;
		n -= (size_t)r;
		off += (uint64_t)r;
	}
	return 0;
}

int os_pwritev_full(const struct os *os, int fd, const struct iovec *iov, int iovcnt, uint64_t off)
{
	size_t skip = 0; /* bytes of iov[0] that are written */

	for (;;) {
		struct iovec win[64];
		int n = 0;
		ssize_t r;

		while (iovcnt > 0 && iov->iov_len == skip) {
			iov++;
			iovcnt--;
			skip = 0;
		}
		if (iovcnt <= 0)
			return 0;
		for (; n < iovcnt && n < (int)ARRAY_LEN(win); n++)
			win[n] = iov[n];
		win[0].iov_base = (uint8_t *)win[0].iov_base + skip;
		win[0].iov_len -= skip;
		r = os->pwritev(os->ctx, fd, win, n, off);
		if (r < 0)
			return (int)r;
		if (r == 0)
			return -EIO;
		off += (uint64_t)r;
		for (skip += (size_t)r; iovcnt > 0 && skip >= iov->iov_len; iov++, iovcnt--)
			skip -= iov->iov_len;
	}
}
