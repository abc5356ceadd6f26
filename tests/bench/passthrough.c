/*
 * passthrough.c - the floor for a FUSE filesystem: requests go straight to a directory, nothing else is done.
 *
 *	passthrough [-o OPTIONS] SOURCE MOUNTPOINT      stays in the foreground
 *
 * It is what txnfs is measured against, so it has all that makes such a filesystem fast and keeps to what it must do:
 * names and attributes cached by the kernel without end, pages kept over opens, no FLUSH, threads that stay, no
 * extended attributes (the kernel asks once and never again). It is no example: the source must not change behind its
 * back, and files belong to whoever runs it.
 *
 * A node is an inode of the source. It holds an O_PATH descriptor while these are few; beyond that its file handle,
 *which only root can open again.
 */
#define FUSE_USE_VERSION 312
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FOREVER 1e6
#define BUCKETS (1u << 18)
#define THREADS 10
#define SPARE_FDS 2000 /* for open files and threads */

struct handle {
	struct file_handle h;
	unsigned char bytes[64];
};

struct node {
	struct node *next;
	dev_t dev;
	ino_t ino;
	uint64_t lookups; /* [table_lock] */
	int fd;           /* O_PATH, or -1: use the handle */
	struct handle *handle;
};

static struct node *table[BUCKETS];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct node root;
static int mount_fd;      /* anything on the source's filesystem */
static long fds, max_fds; /* [table_lock] */

static struct node *node_of(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? &root : (struct node *)(uintptr_t)ino;
}

/* A descriptor of the node; node_put(node, fd) after use. Below 0: -errno. */
static int node_get(struct node *n)
{
	int fd;

	if (n->fd >= 0)
		return n->fd;
	fd = open_by_handle_at(mount_fd, &n->handle->h, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void node_put(const struct node *n, int fd)
{
	if (fd >= 0 && fd != n->fd)
		close(fd);
}

static unsigned bucket(ino_t ino)
{
	return (unsigned)((uint64_t)ino * 0x9e3779b97f4a7c15u >> 46) % BUCKETS;
}

/* The node of an inode whose O_PATH descriptor this is; takes the descriptor. */
static int node_enter(int fd, const struct stat *st, struct node **out)
{
	struct node *n, **head = &table[bucket(st->st_ino)];
	int mount_id;

	pthread_mutex_lock(&table_lock);
	for (n = *head; n; n = n->next)
		if (n->ino == st->st_ino && n->dev == st->st_dev)
			break;
	if (n) {
		n->lookups++;
		pthread_mutex_unlock(&table_lock);
		close(fd);
		*out = n;
		return 0;
	}
	n = calloc(1, sizeof(*n));
	if (n && fds >= max_fds) {
		n->handle = malloc(sizeof(*n->handle));
		if (n->handle)
			n->handle->h.handle_bytes = sizeof(n->handle->bytes);
		if (!n->handle || name_to_handle_at(fd, "", &n->handle->h, &mount_id, AT_EMPTY_PATH)) {
			free(n->handle);
			free(n);
			n = NULL;
		}
	}
	if (!n) {
		pthread_mutex_unlock(&table_lock);
		close(fd);
		return -ENFILE;
	}
	n->fd = n->handle ? -1 : fd;
	fds += !n->handle;
	n->ino = st->st_ino;
	n->dev = st->st_dev;
	n->lookups = 1;
	n->next = *head;
	*head = n;
	pthread_mutex_unlock(&table_lock);
	if (n->handle)
		close(fd);
	*out = n;
	return 0;
}

static void node_forget(struct node *n, uint64_t count)
{
	struct node **p;

	if (n == &root)
		return;
	pthread_mutex_lock(&table_lock);
	n->lookups -= count;
	if (n->lookups) {
		pthread_mutex_unlock(&table_lock);
		return;
	}
	for (p = &table[bucket(n->ino)]; *p != n; p = &(*p)->next)
		;
	*p = n->next;
	fds -= n->fd >= 0;
	pthread_mutex_unlock(&table_lock);
	if (n->fd >= 0)
		close(n->fd);
	free(n->handle);
	free(n);
}

static int find(fuse_ino_t parent, const char *name, struct fuse_entry_param *e)
{
	struct node *n = NULL, *dir = node_of(parent);
	int r, fd, at = node_get(dir);

	*e = (struct fuse_entry_param){.attr_timeout = FOREVER, .entry_timeout = FOREVER};
	if (at < 0)
		return at;
	fd = openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	r = fd < 0 ? -errno : 0;
	node_put(dir, at);
	if (r)
		return r;
	if (fstatat(fd, "", &e->attr, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) {
		r = -errno;
		close(fd);
		return r;
	}
	r = node_enter(fd, &e->attr, &n);
	e->ino = (uintptr_t)n;
	return r;
}

static void reply_entry(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	int r = find(parent, name, &e);

	if (r)
		fuse_reply_err(req, -r);
	else
		fuse_reply_entry(req, &e);
}

static void pt_init(void *arg, struct fuse_conn_info *conn)
{
	unsigned want = FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_READDIRPLUS |
	                FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO |
	                FUSE_CAP_EXPLICIT_INVAL_DATA;
	unsigned not = FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_AUTO_INVAL_DATA |
	               FUSE_CAP_WRITEBACK_CACHE;

	(void)arg;
	conn->want = (conn->want | (want & conn->capable)) & ~not ;
}

static void pt_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	int r = find(parent, name, &e);

	if (r == -ENOENT)
		r = 0; /* e.ino is 0: the kernel may remember that */
	if (r)
		fuse_reply_err(req, -r);
	else
		fuse_reply_entry(req, &e);
}

static void pt_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	node_forget(node_of(ino), count);
	fuse_reply_none(req);
}

static void pt_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *what)
{
	for (size_t i = 0; i < count; i++)
		node_forget(node_of(what[i].ino), what[i].nlookup);
	fuse_reply_none(req);
}

static void reply_attr(fuse_req_t req, struct node *n)
{
	struct stat st;
	int fd = node_get(n);
	int r = fd < 0 ? -fd : fstatat(fd, "", &st, AT_EMPTY_PATH) ? errno : 0;

	node_put(n, fd);
	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_attr(req, &st, FOREVER);
}

static void pt_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)fi;
	reply_attr(req, node_of(ino));
}

static int set_attr(int fd, struct stat *attr, int what, struct fuse_file_info *fi)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (what & FUSE_SET_ATTR_MODE && chmod(path, attr->st_mode))
		return errno;
	if (what & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID) &&
	    fchownat(fd, "", what & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1,
	             what & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
		return errno;
	if (what & FUSE_SET_ATTR_SIZE && (fi ? ftruncate((int)fi->fh, attr->st_size) : truncate(path, attr->st_size)))
		return errno;
	if (what & FUSE_SET_ATTR_ATIME_NOW)
		times[0].tv_nsec = UTIME_NOW;
	else if (what & FUSE_SET_ATTR_ATIME)
		times[0] = attr->st_atim;
	if (what & FUSE_SET_ATTR_MTIME_NOW)
		times[1].tv_nsec = UTIME_NOW;
	else if (what & FUSE_SET_ATTR_MTIME)
		times[1] = attr->st_mtim;
	if (what & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW) &&
	    utimensat(fd, "", times, AT_EMPTY_PATH))
		return errno;
	return 0;
}

static void pt_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int what, struct fuse_file_info *fi)
{
	struct node *n = node_of(ino);
	int fd = node_get(n);
	int r = fd < 0 ? -fd : set_attr(fd, attr, what, fi);

	node_put(n, fd);
	if (r)
		fuse_reply_err(req, r);
	else
		reply_attr(req, n);
}

static void pt_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct node *n = node_of(ino);
	char target[PATH_MAX + 1];
	int fd = node_get(n);
	ssize_t len = fd < 0 ? (errno = -fd, -1) : readlinkat(fd, "", target, PATH_MAX);
	int r = len < 0 ? errno : 0;

	node_put(n, fd);
	if (r) {
		fuse_reply_err(req, r);
		return;
	}
	target[len] = '\0';
	fuse_reply_readlink(req, target);
}

/* After a call on a name in a directory: the entry, or the error. */
static void made(fuse_req_t req, fuse_ino_t parent, const char *name, int at, int r)
{
	int error = at < 0 ? -at : r ? errno : 0;

	node_put(node_of(parent), at);
	if (error)
		fuse_reply_err(req, error);
	else
		reply_entry(req, parent, name);
}

static void pt_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	int at = node_get(node_of(parent));

	made(req, parent, name, at, at < 0 ? -1 : mkdirat(at, name, mode));
}

static void pt_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	int at = node_get(node_of(parent));

	made(req, parent, name, at, at < 0 ? -1 : symlinkat(target, at, name));
}

static void pt_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct node *n = node_of(ino);
	int fd = node_get(n), at = node_get(node_of(parent));
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	made(req, parent, name, at, fd < 0 || at < 0 ? -1 : linkat(AT_FDCWD, path, at, name, AT_SYMLINK_FOLLOW));
	node_put(n, fd);
}

static void removed(fuse_req_t req, fuse_ino_t parent, const char *name, int flags)
{
	int at = node_get(node_of(parent));
	int r = at < 0 ? -at : unlinkat(at, name, flags) ? errno : 0;

	node_put(node_of(parent), at);
	fuse_reply_err(req, r);
}

static void pt_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	removed(req, parent, name, 0);
}

static void pt_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	removed(req, parent, name, AT_REMOVEDIR);
}

static void pt_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t parent2, const char *name2,
                      unsigned flags)
{
	int from = node_get(node_of(parent)), to = node_get(node_of(parent2));
	int r = from < 0 ? -from : to < 0 ? -to : renameat2(from, name, to, name2, flags) ? errno : 0;

	node_put(node_of(parent), from);
	node_put(node_of(parent2), to);
	fuse_reply_err(req, r);
}

static void keep(struct fuse_file_info *fi, int fd)
{
	fi->fh = (uint64_t)fd;
	fi->keep_cache = 1;
	fi->noflush = 1;
}

static void pt_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node *n = node_of(ino);
	int fd, at = node_get(n);
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", at);
	fd = at < 0 ? -1 : open(path, (fi->flags & ~(O_NOFOLLOW | O_CREAT | O_EXCL | O_DIRECT | O_APPEND)) | O_CLOEXEC);
	node_put(n, at);
	if (fd < 0) {
		fuse_reply_err(req, at < 0 ? -at : errno);
		return;
	}
	keep(fi, fd);
	if (fuse_reply_open(req, fi))
		close(fd);
}

static void pt_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fuse_entry_param e;
	int r, fd, at = node_get(node_of(parent));

	fd = at < 0 ? -1
	            : openat(at, name, (fi->flags & ~(O_DIRECT | O_APPEND)) | O_CREAT | O_NOFOLLOW | O_CLOEXEC, mode);
	r = at < 0 ? at : fd < 0 ? -errno : 0;
	node_put(node_of(parent), at);
	if (!r)
		r = find(parent, name, &e);
	if (r) {
		if (fd >= 0)
			close(fd);
		fuse_reply_err(req, -r);
		return;
	}
	keep(fi, fd);
	if (fuse_reply_create(req, &e, fi))
		close(fd);
}

static void pt_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	static _Thread_local char *buf;
	static _Thread_local size_t room;
	ssize_t n;

	(void)ino;
	if (room < size) {
		free(buf);
		buf = malloc(size);
		room = buf ? size : 0;
	}
	n = buf ? pread((int)fi->fh, buf, size, offset) : -1;
	if (n < 0)
		fuse_reply_err(req, buf ? errno : ENOMEM);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

static void pt_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
	ssize_t n = pwrite((int)fi->fh, buf, size, offset);

	(void)ino;
	if (n < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_write(req, (size_t)n);
}

static void pt_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	close((int)fi->fh);
	fuse_reply_err(req, 0);
}

static void pt_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)ino;
	fuse_reply_err(req, (datasync ? fdatasync((int)fi->fh) : fsync((int)fi->fh)) ? errno : 0);
}

static void pt_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi)
{
	(void)ino;
	fuse_reply_err(req, fallocate((int)fi->fh, mode, offset, length) ? errno : 0);
}

static void pt_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;

	(void)ino;
	if (fstatvfs(mount_fd, &st))
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &st);
}

/* ---- directories ---- */

static void pt_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node *n = node_of(ino);
	int at = node_get(n), fd = at < 0 ? -1 : openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = at < 0 ? -at : errno;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	node_put(n, at);
	if (!d) {
		if (fd >= 0)
			close(fd);
		fuse_reply_err(req, r ? r : ENOMEM);
		return;
	}
	fi->fh = (uintptr_t)d;
	if (fuse_reply_open(req, fi))
		closedir(d);
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi, bool plus)
{
	DIR *d = (DIR *)(uintptr_t)fi->fh;
	char *buf = malloc(size);
	size_t used = 0, need;
	struct dirent *de;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (telldir(d) != offset)
		seekdir(d, offset);
	while ((de = readdir(d))) {
		struct fuse_entry_param e = {.attr = {.st_ino = de->d_ino, .st_mode = (mode_t)de->d_type << 12}};
		bool dots = !strcmp(de->d_name, ".") || !strcmp(de->d_name, "..");

		if (plus) {
			if (!dots && find(ino, de->d_name, &e))
				continue;
			need = fuse_add_direntry_plus(req, buf + used, size - used, de->d_name, &e, de->d_off);
			if (need > size - used && !dots)
				node_forget(node_of(e.ino), 1);
		} else {
			need = fuse_add_direntry(req, buf + used, size - used, de->d_name, &e.attr, de->d_off);
		}
		if (need > size - used)
			break;
		used += need;
	}
	fuse_reply_buf(req, buf, used);
	free(buf);
}

static void pt_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	list(req, ino, size, offset, fi, false);
}

static void pt_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	list(req, ino, size, offset, fi, true);
}

static void pt_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	closedir((DIR *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}

static void pt_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)ino;
	(void)datasync;
	fuse_reply_err(req, fsync(dirfd((DIR *)(uintptr_t)fi->fh)) ? errno : 0);
}

static const struct fuse_lowlevel_ops ops = {
	.init = pt_init,
	.lookup = pt_lookup,
	.forget = pt_forget,
	.forget_multi = pt_forget_multi,
	.getattr = pt_getattr,
	.setattr = pt_setattr,
	.readlink = pt_readlink,
	.mkdir = pt_mkdir,
	.symlink = pt_symlink,
	.link = pt_link,
	.unlink = pt_unlink,
	.rmdir = pt_rmdir,
	.rename = pt_rename,
	.open = pt_open,
	.create = pt_create,
	.read = pt_read,
	.write = pt_write,
	.release = pt_release,
	.fsync = pt_fsync,
	.fallocate = pt_fallocate,
	.statfs = pt_statfs,
	.opendir = pt_opendir,
	.readdir = pt_readdir,
	.readdirplus = pt_readdirplus,
	.releasedir = pt_releasedir,
	.fsyncdir = pt_fsyncdir,
};

int main(int argc, char **argv)
{
	struct fuse_args args = FUSE_ARGS_INIT(argc, argv);
	struct fuse_cmdline_opts opts = {0};
	struct fuse_loop_config *cfg = fuse_loop_cfg_create();
	struct rlimit limit;
	struct fuse_session *se;
	int r = 1;

	if (argc < 3 || argv[argc - 2][0] == '-' || !cfg) {
		fprintf(stderr, "usage: passthrough [-o OPTIONS] SOURCE MOUNTPOINT\n");
		return 2;
	}
	root.fd = mount_fd = open(argv[argc - 2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root.fd < 0) {
		fprintf(stderr, "passthrough: %s: %s\n", argv[argc - 2], strerror(errno));
		return 1;
	}
	args.argv[argc - 2] = args.argv[argc - 1];
	args.argc--;
	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
		max_fds = (long)limit.rlim_cur - SPARE_FDS;
	}
	if (geteuid())
		max_fds = LONG_MAX; /* there is no other way */
	umask(0);
	if (fuse_parse_cmdline(&args, &opts))
		return 1;
	se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	if (se && !fuse_set_signal_handlers(se)) {
		if (!fuse_session_mount(se, opts.mountpoint)) {
			fuse_loop_cfg_set_max_threads(cfg, THREADS);
			fuse_loop_cfg_set_idle_threads(cfg, THREADS);
			fuse_loop_cfg_set_clone_fd(cfg, 0);
			r = fuse_session_loop_mt(se, cfg) ? 1 : 0;
			fuse_session_unmount(se);
		}
		fuse_remove_signal_handlers(se);
	}
	if (se)
		fuse_session_destroy(se);
	fuse_loop_cfg_destroy(cfg);
	fuse_opt_free_args(&args);
	free(opts.mountpoint);
	close(mount_fd);
	return r;
}
