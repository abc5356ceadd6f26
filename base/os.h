/*
 * os.h - the operating-system door for the log's files.
 *
 * wal/ reaches files only through this table, so that a test can put a store in memory below it which loses power,
 * tears sectors and fails calls. os_real() is the kernel.
 *
 * All functions return a value >= 0 or -errno. Handles are small integers like descriptors. ctx is passed through.
 * Reads and writes may be short, as in POSIX; os_pread_full and os_pwrite_full loop.
 */
#ifndef TXNFS_OS_H
#define TXNFS_OS_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct os {
	void *ctx;
	/* Open name in directory dir (itself a handle) with open(2)'s flags. */
	int (*openat)(void *ctx, int dir, const char *name, int flags, mode_t mode);
	int (*close)(void *ctx, int fd);
	ssize_t (*pread)(void *ctx, int fd, void *buf, size_t n, uint64_t off);
	ssize_t (*pwritev)(void *ctx, int fd, const struct iovec *iov, int iovcnt, uint64_t off);
	int (*fdatasync)(void *ctx, int fd);
	int (*fsync)(void *ctx, int fd); /* of a directory too: makes its names durable */
	int (*ftruncate)(void *ctx, int fd, uint64_t size);
	/* Give a file this size, with the space for it; what is new reads as zeros. -EOPNOTSUPP: not possible here. */
	int (*allocate)(void *ctx, int fd, uint64_t size);
	int (*size)(void *ctx, int fd, uint64_t *size);
	int (*renameat)(void *ctx, int dir, const char *from, const char *to);
	int (*unlinkat)(void *ctx, int dir, const char *name);
	/* Call fn for each name in dir except "." and ".."; stop at the first non-zero return and return it. */
	int (*list)(void *ctx, int dir, int (*fn)(void *arg, const char *name), void *arg);
};

const struct os *os_real(void);

/* Whole transfers. pread_full: bytes past the end of the file are an error (-EIO). */
int os_pread_full(const struct os *os, int fd, void *buf, size_t n, uint64_t off);
int os_pwritev_full(const struct os *os, int fd, const struct iovec *iov, int iovcnt, uint64_t off);

#endif
