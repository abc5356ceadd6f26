/*
 * recorder.c - a disk that writes down what is done to it.
 *
 *     recorder LOG MIB MOUNTPOINT [--base IMAGE] [--no-fsync]
 *
 * A FUSE filesystem with one file, `disk`, of MIB mebibytes, in memory: zeros, or what is in IMAGE (which is not changed). A
 * loop device is set up over it. One thread serves one request after the other, and the kernel caches nothing (direct
 * I/O), so LOG has, in order, everything that reached the disk, before the disk's user heard that it was done:
 *
 *     8 bytes   offset
 *     4 bytes   length
 *     4 bytes   kind: 'W' data (which follow), 'Z' a write of zeros (no data), 'D' discarded or zeroed, 'F' flush
 *
 * in host byte order. LOG.position holds the number of records as 8 bytes, for others to map: what is done before
 * someone reads it is below it.
 *
 * Prints "ready" when mounted; ends by SIGTERM. --no-fsync: a disk that does not let the loop device flush it, to see that
 * a test notices.
 *
 * The mount is in a namespace of its own (others reach it as /proc/PID/root/MOUNTPOINT). So it is never this process whose end
 * takes a namespace away in which the filesystem on this disk is mounted: it would wait for its own answer.
 */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#define DISK_INO 2

struct record {
	uint64_t off;
	uint32_t len;
	uint32_t kind;
};

static struct {
	uint8_t *bytes;
	uint64_t size;
	bool anonymous;
	int log;
	_Atomic uint64_t *position;
} disk;

static int log_record(uint32_t kind, uint64_t off, size_t len, const void *data)
{
	struct record r = {.off = off, .len = (uint32_t)len, .kind = kind};
	struct iovec iov[2] = {{&r, sizeof(r)}, {(void *)(uintptr_t)data, kind == 'W' ? len : 0}};
	ssize_t want = (ssize_t)(iov[0].iov_len + iov[1].iov_len);
	ssize_t n = writev(disk.log, iov, 2);

	if (n != want) {
		fprintf(stderr, "recorder: the log cannot be written: %s\n", n < 0 ? strerror(errno) : "no space");
		return EIO;
	}
	atomic_fetch_add(disk.position, 1);
	return 0;
}

static bool all_zero(const char *p, size_t n)
{
	return n > 0 && p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

static struct stat attributes(fuse_ino_t ino)
{
	bool dir = ino == FUSE_ROOT_ID;

	return (struct stat){
		.st_ino = ino,
		.st_mode = dir ? S_IFDIR | 0755 : S_IFREG | 0600,
		.st_nlink = dir ? 2 : 1,
		.st_size = dir ? 0 : (off_t)disk.size,
		.st_blksize = 4096,
	};
}

static void op_init(void *arg, struct fuse_conn_info *conn)
{
	(void)arg;
	conn->max_write = 1 << 20;
	conn->want &= ~(unsigned)(FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = {.ino = DISK_INO, .attr = attributes(DISK_INO), .attr_timeout = 3600};

	if (parent != FUSE_ROOT_ID || strcmp(name, "disk") != 0)
		fuse_reply_err(req, ENOENT);
	else
		fuse_reply_entry(req, &e);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st = attributes(ino);

	(void)fi;
	fuse_reply_attr(req, &st, 3600);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	uint64_t at = (uint64_t)off;

	(void)ino;
	(void)fi;
	if (at >= disk.size)
		size = 0;
	else if (size > disk.size - at)
		size = disk.size - at;
	fuse_reply_buf(req, (char *)disk.bytes + at, size);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	uint64_t at = (uint64_t)off;
	int err;

	(void)ino;
	(void)fi;
	if (at > disk.size || size > disk.size - at) {
		fuse_reply_err(req, ENOSPC);
		return;
	}
	err = log_record(all_zero(buf, size) ? 'Z' : 'W', at, size, buf);
	if (err) {
		fuse_reply_err(req, err);
		return;
	}
	memcpy(disk.bytes + at, buf, size);
	fuse_reply_write(req, size);
}

/* Memory that was never used stays unused when a whole disk is discarded. */
static void clear(uint64_t at, uint64_t n)
{
	if (!disk.anonymous || (at | n) % 4096 || madvise(disk.bytes + at, n, MADV_DONTNEED) != 0)
		memset(disk.bytes + at, 0, n);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	uint64_t at = (uint64_t)off, n = (uint64_t)len;
	int err;

	(void)ino;
	(void)fi;
	if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) || at > disk.size || n > disk.size - at) {
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	err = n > UINT32_MAX ? EOPNOTSUPP : log_record('D', at, n, NULL);
	if (!err)
		clear(at, n);
	fuse_reply_err(req, err);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)ino;
	(void)datasync;
	(void)fi;
	fuse_reply_err(req, log_record('F', 0, 0, NULL));
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs sv = {.f_bsize = 4096, .f_frsize = 4096, .f_blocks = disk.size / 4096, .f_namemax = 255};

	(void)ino;
	fuse_reply_statfs(req, &sv);
}

/* The disk's first contents: memory of our own either way. */
static int make_bytes(const char *base)
{
	int flags = base ? MAP_PRIVATE | MAP_NORESERVE : MAP_PRIVATE | MAP_NORESERVE | MAP_ANONYMOUS;
	int fd = base ? open(base, O_RDONLY | O_CLOEXEC) : -1;
	struct stat st;

	if (base && (fd < 0 || fstat(fd, &st) < 0)) {
		perror(base);
		return -1;
	}
	if (base && (uint64_t)st.st_size != disk.size) {
		fprintf(stderr, "recorder: %s has another size\n", base);
		return -1;
	}
	disk.bytes = mmap(NULL, disk.size, PROT_READ | PROT_WRITE, flags, fd, 0);
	disk.anonymous = !base;
	if (fd >= 0)
		close(fd);
	if (disk.bytes == MAP_FAILED) {
		perror("recorder: memory");
		return -1;
	}
	return 0;
}

static int make_position(const char *log)
{
	char path[4096];
	uint64_t zero = 0;
	int fd;

	snprintf(path, sizeof(path), "%s.position", log);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, &zero, sizeof(zero)) != sizeof(zero)) {
		perror(path);
		return -1;
	}
	disk.position = mmap(NULL, sizeof(zero), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if ((void *)disk.position == MAP_FAILED) {
		perror(path);
		return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct fuse_lowlevel_ops ops = {
		.init = op_init,
		.lookup = op_lookup,
		.getattr = op_getattr,
		.open = op_open,
		.read = op_read,
		.write = op_write,
		.fallocate = op_fallocate,
		.fsync = op_fsync,
		.statfs = op_statfs,
	};
	char *fuse_argv[] = {argv[0], (char[]){"-ofsname=power,subtype=recorder"}, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(2, fuse_argv);
	const char *base = NULL;
	struct fuse_session *se;
	int r;

	for (int i = 4; i < argc; i++) {
		if (!strcmp(argv[i], "--no-fsync"))
			ops.fsync = NULL;
		else if (!strcmp(argv[i], "--base") && i + 1 < argc)
			base = argv[++i];
		else
			argc = 0;
	}
	if (argc < 4) {
		fprintf(stderr, "usage: recorder LOG MIB MOUNTPOINT [--base IMAGE] [--no-fsync]\n");
		return 2;
	}
	disk.size = strtoull(argv[2], NULL, 10) << 20;
	if (make_bytes(base) < 0)
		return 1;
	disk.log = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (disk.log < 0) {
		perror(argv[1]);
		return 1;
	}
	if (make_position(argv[1]) < 0)
		return 1;
	/* The kernel may want memory back by writing to this very disk: what we allocate must not wait for that. */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		perror("recorder: a mount namespace");
		return 1;
	}
	se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	if (!se || fuse_set_signal_handlers(se) != 0 || fuse_session_mount(se, argv[3]) != 0)
		return 1;
	printf("ready\n");
	fflush(stdout);
	r = fuse_session_loop(se); /* the number of the signal that ended it */
	fuse_session_unmount(se);
	fuse_session_destroy(se);
	return r < 0 ? 1 : 0;
}
