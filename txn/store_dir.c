/* store_dir.c - opening and closing the real directory. */
#include "txn/store_dir.h"

#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/vfs.h>

/* Half of the descriptors are for objects, the others for open files; more than this many bring nothing. */
#define MAX_CACHED (1u << 18)
#define MIN_CACHED 4u

static struct store_obj *get_root(struct store *st)
{
	return &store_dir_of(st)->root->pub;
}

static struct store_obj *get_stage(struct store *st)
{
	return &store_dir_of(st)->stage->pub;
}

static struct store_obj *get_trash(struct store *st)
{
	return &store_dir_of(st)->trash->pub;
}

static int get_statfs(struct store *st, struct statvfs *sv)
{
	return fstatvfs(store_dir_of(st)->root_fd, sv) < 0 ? -errno : 0;
}

static void destroy(struct store_dir *sd)
{
	store_dir_drop_all(sd);
	base_closep(&sd->wal_fd);
	base_closep(&sd->ballast_fd);
	base_closep(&sd->state_fd);
	base_closep(&sd->root_fd);
	base_closep(&sd->lock_fd); /* last: nothing of ours is in use any more */
	pthread_mutex_destroy(&sd->lock);
	pthread_mutex_destroy(&sd->widen_lock);
	pthread_mutex_destroy(&sd->space_lock);
	free(sd);
}

static void close_store(struct store *st)
{
	destroy(store_dir_of(st));
}

static const struct store_ops dir_ops = {
	.close = close_store,
	.root = get_root,
	.stage = get_stage,
	.trash = get_trash,
	.get = store_dir_get,
	.put = store_dir_put,
	.forsake = store_dir_forsake,
	.id = store_dir_id,
	.resolve = store_dir_resolve,
	.place = store_dir_place,
	.lookup = store_dir_lookup,
	.create = store_dir_create,
	.tmpfile = store_dir_tmpfile,
	.link = store_dir_link,
	.unlink = store_dir_unlink,
	.rename = store_dir_rename,
	.readdir = store_dir_readdir,
	.readlink = store_dir_readlink,
	.getattr = store_dir_getattr,
	.setattr = store_dir_setattr,
	.getxattr = store_dir_getxattr,
	.listxattr = store_dir_listxattr,
	.setxattr = store_dir_setxattr,
	.removexattr = store_dir_removexattr,
	.open = store_dir_file_open,
	.close_file = store_dir_file_close,
	.read = store_dir_read,
	.write = store_dir_write,
	.fallocate = store_dir_fallocate,
	.seek = store_dir_seek,
	.copy = store_dir_copy,
	.sync = store_dir_sync,
	.sync_all = store_dir_sync_all,
	.reserve = store_dir_reserve,
	.release = store_dir_release,
	.seal = store_dir_seal,
	.statfs = get_statfs,
};

static unsigned descriptor_limit(unsigned wanted)
{
	struct rlimit rl;
	if (wanted)
		return wanted < MIN_CACHED ? MIN_CACHED : wanted;
	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return MIN_CACHED;
	if (rl.rlim_cur < rl.rlim_max) {
		struct rlimit more = {rl.rlim_max, rl.rlim_max};
		if (setrlimit(RLIMIT_NOFILE, &more) == 0)
			rl = more;
	}
	return (unsigned)base_max_u64(MIN_CACHED, base_min_u64(rl.rlim_cur / 2, MAX_CACHED));
}

/* Most names that a file can have: filesystems say so only when it is too late for a transaction. */
static uint64_t link_max(const struct statfs *fs)
{
	switch ((uint64_t)fs->f_type) {
	case EXT4_SUPER_MAGIC:
		return 65000;
	case BTRFS_SUPER_MAGIC: /* in one directory; more over several */
		return 65535;
	default:
		return INT32_MAX;
	}
}

/* What this filesystem and this process's rights allow. */
static int probe(struct store_dir *sd, const char *src, char *err, size_t errlen)
{
	struct statfs fs;
	struct statx sx;
	struct store_id id;
	char link[8];
	struct store_dir_proc proc = store_dir_proc(sd->root_fd);
	if (readlink(proc.path, link, sizeof(link)) < 0) {
		snprintf(err, errlen, "/proc is not mounted; txnfs needs it");
		return -ENODEV;
	}
	if (fstatfs(sd->root_fd, &fs) < 0) {
		int r = -errno;
		snprintf(err, errlen, "%s: %s", src, strerror(-r));
		return r;
	}
	sd->overlay = fs.f_type == OVERLAYFS_SUPER_MAGIC;
	sd->pub.link_max = link_max(&fs);
	int r = store_dir_statx(sd, sd->root_fd, &sx);
	if (!r && (sx.stx_mask & STATX_MNT_ID))
		sd->mnt_id = sx.stx_mnt_id;
	if (!r)
		r = store_dir_id_at(sd, sd->root_fd, "", &id);
	if (r < 0) {
		snprintf(err, errlen, "%s: %s", src, strerror(-r));
		return r;
	}
	sd->root_id = id;
	/* A FUSE filesystem can forget handles while the file is still there. */
	CLEANUP_CLOSE int fd = fs.f_type == FUSE_SUPER_MAGIC ? -1 : store_dir_open_id(sd, &id);
	sd->by_handle = fd >= 0;
	return 0;
}

/* A directory that stays known, by its own O_PATH descriptor. */
static int fixed_dir(struct store_dir *sd, int fd, struct store_dir_obj **out)
{
	struct statx sx;
	CLEANUP_CLOSE int path_fd = openat(fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (path_fd < 0)
		return -errno;
	int r = store_dir_statx(sd, path_fd, &sx);
	if (!r)
		r = store_dir_intern(sd, TAKE_FD(path_fd), &sx, NULL, NULL, STORE_DIR_ANY_GEN, out);
	if (r < 0)
		return r;
	store_dir_keep(*out);
	(*out)->fixed = true;
	return 0;
}

static int open_root(struct store_dir *sd, const char *src, char *err, size_t errlen)
{
	struct statvfs sv;
	sd->root_fd = open(src, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (sd->root_fd < 0 || fstatvfs(sd->root_fd, &sv) < 0) {
		int r = -errno;
		snprintf(err, errlen, "%s: %s", src, strerror(-r));
		return r;
	}
	if ((sv.f_flag & ST_RDONLY) && !sd->read_only) {
		snprintf(err, errlen, "%s is on a filesystem that is mounted read-only", src);
		return -EROFS;
	}
	return probe(sd, src, err, errlen);
}

static int setup(struct store_dir *sd, const char *src, bool create, char *err, size_t errlen)
{
	CLEANUP_CLOSE int stage_fd = -1;
	CLEANUP_CLOSE int trash_fd = -1;
	int r = open_root(sd, src, err, errlen);
	if (!r)
		r = store_dir_state_open(sd, src, create, &stage_fd, &trash_fd, err, errlen);
	if (r < 0)
		return r;
	r = fixed_dir(sd, sd->root_fd, &sd->root);
	if (!r)
		r = fixed_dir(sd, stage_fd, &sd->stage);
	if (!r)
		r = fixed_dir(sd, trash_fd, &sd->trash);
	if (!r && !sd->read_only)
		r = store_dir_ballast_open(sd);
	if (r < 0)
		snprintf(err, errlen, "%s: %s", src, strerror(-r));
	return r;
}

int store_dir_open(const char *src, const struct store_dir_options *opt, struct store **out, int *wal_dirfd, char *err,
                   size_t errlen)
{
	struct store_dir *sd = calloc(1, sizeof(*sd));
	if (!sd) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	sd->pub.ops = &dir_ops;
	sd->root_fd = sd->state_fd = sd->lock_fd = sd->wal_fd = sd->ballast_fd = sd->handle_mnt = -1;
	sd->read_only = opt->read_only;
	sd->euid = geteuid();
	sd->egid = getegid();
	sd->max_fds = descriptor_limit(opt->max_cached);
	pthread_mutex_init(&sd->lock, NULL);
	pthread_mutex_init(&sd->widen_lock, NULL);
	pthread_mutex_init(&sd->space_lock, NULL);
	if (errlen)
		*err = '\0';
	/* Modes are given exactly, or by the directory's default ACL, which the kernel's umask must not touch. */
	if (!sd->read_only)
		umask(0);
	int r = setup(sd, src, opt->create, err, errlen);
	if (r < 0) {
		destroy(sd);
		return r;
	}
	*out = &sd->pub;
	*wal_dirfd = sd->wal_fd;
	return 0;
}
