/*
 * store_dir_attr.c - attributes and extended attributes, and overcoming the owner's permission bits.
 *
 * An ordinary user's daemon must be able to install a committed change in his own 0555 directory or 0444 file, as root
 * can. It asks the kernel first; only when that says EACCES are the bits widened for the one operation. Nobody who asks
 * this store sees the widened mode. A daemon killed in between leaves the owner's bits widened.
 */
#include "txn/store_dir.h"

#include <string.h>
#include <sys/xattr.h>
#include <syslog.h>

#define WIDEN_MAX 4

/* 1: widened, *old is to be restored; 0: nothing to do; or -errno. */
static int widen(const struct store_dir *sd, int fd, mode_t *old)
{
	struct stat st;
	struct store_dir_proc proc = store_dir_proc(fd);
	if (fstatat(fd, "", &st, AT_EMPTY_PATH) < 0)
		return -errno;
	mode_t want = S_ISDIR(st.st_mode) ? S_IRWXU : S_ISREG(st.st_mode) ? S_IRUSR | S_IWUSR : 0;
	if (st.st_uid != sd->euid || (st.st_mode & want) == want)
		return 0;
	/* For a group that is not ours chmod takes the setgid bit away for good. */
	if ((st.st_mode & S_ISGID) && sd->euid != 0 && !group_member(st.st_gid))
		return -EACCES;
	*old = st.st_mode & 07777;
	return chmod(proc.path, *old | want) < 0 ? -errno : 1;
}

static void restore(int fd, mode_t mode)
{
	struct store_dir_proc proc = store_dir_proc(fd);
	if (chmod(proc.path, mode) < 0)
		base_log(LOG_ERR, "cannot restore mode %o: %s", mode, strerror(errno));
}

int store_dir_forced(struct store_dir *sd, store_dir_attempt *attempt, void *arg, const int *fds, int n)
{
	mode_t old[WIDEN_MAX];
	bool widened[WIDEN_MAX] = {false};
	int r = attempt(arg);
	if (r != -EACCES || sd->read_only || n > WIDEN_MAX)
		return r;
	pthread_mutex_lock(&sd->widen_lock);
	atomic_fetch_add(&sd->widen_seq, 1);
	bool any = false;
	int failed = 0;
	for (int i = 0; i < n && !failed; i++) {
		int w = widen(sd, fds[i], &old[i]);
		widened[i] = w > 0;
		any = any || w > 0;
		failed = w < 0 ? w : 0;
	}
	if (any && !failed)
		r = attempt(arg);
	for (int i = n; i-- > 0;)
		if (widened[i])
			restore(fds[i], old[i]);
	atomic_fetch_add(&sd->widen_seq, 1);
	pthread_mutex_unlock(&sd->widen_lock);
	return r;
}

unsigned store_dir_modes_begin(struct store_dir *sd)
{
	unsigned seq;
	while ((seq = atomic_load(&sd->widen_seq)) & 1) {
		pthread_mutex_lock(&sd->widen_lock);
		pthread_mutex_unlock(&sd->widen_lock);
	}
	return seq;
}

bool store_dir_modes_changed(struct store_dir *sd, unsigned seq)
{
	return atomic_load(&sd->widen_seq) != seq;
}

ssize_t store_dir_space_seen(struct store_dir *sd, ssize_t r)
{
	if (r == -ENOSPC || r == -EDQUOT)
		atomic_store(&sd->pressed, true);
	return r;
}

int store_dir_getattr(struct store_obj *obj, struct stat *attr)
{
	struct store_dir *sd = store_dir_of(obj->store);
	CLEANUP_PIN struct store_dir_pin pin = {0};
	unsigned seq;
	int r = store_dir_pin(store_dir_obj_of(obj), &pin);
	if (r < 0)
		return r;
	do {
		seq = store_dir_modes_begin(sd);
		if (fstatat(pin.fd, "", attr, AT_EMPTY_PATH) < 0)
			return -errno;
	} while (store_dir_modes_changed(sd, seq));
	/* The state directory is not seen; some filesystems do not count subdirectories. */
	if (obj == &sd->root->pub && attr->st_nlink > 2)
		attr->st_nlink--;
	return 0;
}

static int set_mode(struct store_dir *sd, int fd, mode_t mode)
{
	struct store_dir_proc proc = store_dir_proc(fd);
	pthread_mutex_lock(&sd->widen_lock); /* or a restore could undo it */
	int r = chmod(proc.path, mode & 07777) < 0 ? -errno : 0;
	pthread_mutex_unlock(&sd->widen_lock);
	return r;
}

struct size_args {
	int fd;
	off_t size;
};

static int try_truncate(void *arg)
{
	const struct size_args *a = arg;
	struct store_dir_proc proc = store_dir_proc(a->fd);
	return truncate(proc.path, a->size) < 0 ? -errno : 0;
}

static int set_times(const struct store_obj *obj, int fd, const struct stat *attr, unsigned mask)
{
	struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
	struct store_dir_proc proc = store_dir_proc(fd);
	if (mask & STORE_SET_ATIME)
		ts[0] = attr->st_atim;
	if (mask & STORE_SET_MTIME)
		ts[1] = attr->st_mtim;
	if (utimensat(fd, "", ts, AT_EMPTY_PATH) == 0)
		return 0;
	/* Linux before 5.8 does not take AT_EMPTY_PATH. */
	if (errno != EINVAL || S_ISLNK(obj->kind))
		return -errno;
	return utimensat(AT_FDCWD, proc.path, ts, 0) < 0 ? -errno : 0;
}

int store_dir_setattr(struct store_obj *obj, const struct stat *attr, unsigned mask)
{
	struct store_dir *sd = store_dir_of(obj->store);
	CLEANUP_PIN struct store_dir_pin pin = {0};
	if (sd->read_only)
		return -EROFS;
	if ((mask & STORE_SET_SIZE) && !S_ISREG(obj->kind))
		return S_ISDIR(obj->kind) ? -EISDIR : -EINVAL;
	if ((mask & STORE_SET_MODE) && S_ISLNK(obj->kind))
		return -EOPNOTSUPP;
	int r = store_dir_pin(store_dir_obj_of(obj), &pin);
	if (r < 0)
		return r;
	/* Mode after owner and size, for changing those takes setuid and setgid away; times last, for all change them.
	 */
	if (mask & (STORE_SET_UID | STORE_SET_GID)) {
		uid_t uid = mask & STORE_SET_UID ? attr->st_uid : (uid_t)-1;
		gid_t gid = mask & STORE_SET_GID ? attr->st_gid : (gid_t)-1;
		if (fchownat(pin.fd, "", uid, gid, AT_EMPTY_PATH) < 0)
			return (int)store_dir_space_seen(sd, -errno);
	}
	if (mask & STORE_SET_SIZE) {
		struct size_args a = {pin.fd, attr->st_size};
		r = store_dir_forced(sd, try_truncate, &a, &pin.fd, 1);
	}
	if (!r && (mask & STORE_SET_MODE))
		r = set_mode(sd, pin.fd, attr->st_mode);
	if (!r && (mask & (STORE_SET_ATIME | STORE_SET_MTIME)))
		r = set_times(obj, pin.fd, attr, mask);
	return (int)store_dir_space_seen(sd, r);
}

/* Extended attributes. Through /proc/self/fd/N a symbolic link's own are meant, with the kernel's rules for them. */

struct xattr_args {
	int fd;
	const char *name;
	const void *value;
	void *buf;
	size_t size;
	int flags;
};

/* Sizes of values and lists fit: XATTR_SIZE_MAX and XATTR_LIST_MAX are 64 KiB. */

static int try_getxattr(void *arg)
{
	const struct xattr_args *a = arg;
	struct store_dir_proc proc = store_dir_proc(a->fd);
	ssize_t n = getxattr(proc.path, a->name, a->buf, a->size);
	return n < 0 ? -errno : (int)n;
}

static int try_listxattr(void *arg)
{
	const struct xattr_args *a = arg;
	struct store_dir_proc proc = store_dir_proc(a->fd);
	ssize_t n = listxattr(proc.path, a->buf, a->size);
	return n < 0 ? -errno : (int)n;
}

static int try_setxattr(void *arg)
{
	const struct xattr_args *a = arg;
	struct store_dir_proc proc = store_dir_proc(a->fd);
	return setxattr(proc.path, a->name, a->value, a->size, a->flags) < 0 ? -errno : 0;
}

static int try_removexattr(void *arg)
{
	const struct xattr_args *a = arg;
	struct store_dir_proc proc = store_dir_proc(a->fd);
	return removexattr(proc.path, a->name) < 0 ? -errno : 0;
}

static int on_xattr(struct store_obj *obj, store_dir_attempt *attempt, struct xattr_args *a)
{
	struct store_dir *sd = store_dir_of(obj->store);
	CLEANUP_PIN struct store_dir_pin pin = {0};
	int r = store_dir_pin(store_dir_obj_of(obj), &pin);
	if (r < 0)
		return r;
	a->fd = pin.fd;
	return (int)store_dir_space_seen(sd, store_dir_forced(sd, attempt, a, &pin.fd, 1));
}

ssize_t store_dir_getxattr(struct store_obj *obj, const char *name, void *buf, size_t size)
{
	return on_xattr(obj, try_getxattr, &(struct xattr_args){.name = name, .buf = buf, .size = size});
}

ssize_t store_dir_listxattr(struct store_obj *obj, char *buf, size_t size)
{
	return on_xattr(obj, try_listxattr, &(struct xattr_args){.buf = buf, .size = size});
}

int store_dir_setxattr(struct store_obj *obj, const char *name, const void *value, size_t size, int flags)
{
	if (store_dir_of(obj->store)->read_only)
		return -EROFS;
	return on_xattr(obj, try_setxattr,
	                &(struct xattr_args){.name = name, .value = value, .size = size, .flags = flags});
}

int store_dir_removexattr(struct store_obj *obj, const char *name)
{
	if (store_dir_of(obj->store)->read_only)
		return -EROFS;
	return on_xattr(obj, try_removexattr, &(struct xattr_args){.name = name});
}
