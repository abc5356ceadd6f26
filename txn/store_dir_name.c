/* store_dir_name.c - names in directories. */
#include "txn/store_dir.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* A lookup whose directory keeps changing gives up recording the place after this many attempts. */
#define LOOKUP_TRIES 8

int store_dir_check_name(struct store_dir_obj *dir, const char *name)
{
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strchr(name, '/'))
		return -EINVAL;
	if (!S_ISDIR(dir->pub.kind))
		return -ENOTDIR;
	if (dir == store_dir_home(dir)->root && strcmp(name, STORE_STATE_DIR) == 0)
		return -EPERM;
	return 0;
}

void store_dir_stat(const struct statx *sx, struct stat *st)
{
	*st = (struct stat){
		.st_dev = makedev(sx->stx_dev_major, sx->stx_dev_minor),
		.st_ino = sx->stx_ino,
		.st_mode = sx->stx_mode,
		.st_nlink = sx->stx_nlink,
		.st_uid = sx->stx_uid,
		.st_gid = sx->stx_gid,
		.st_rdev = makedev(sx->stx_rdev_major, sx->stx_rdev_minor),
		.st_size = (off_t)sx->stx_size,
		.st_blksize = (blksize_t)sx->stx_blksize,
		.st_blocks = (blkcnt_t)sx->stx_blocks,
		.st_atim = {sx->stx_atime.tv_sec, sx->stx_atime.tv_nsec},
		.st_mtim = {sx->stx_mtime.tv_sec, sx->stx_mtime.tv_nsec},
		.st_ctim = {sx->stx_ctime.tv_sec, sx->stx_ctime.tv_nsec},
	};
}

int store_dir_child(const struct store_dir_pin *dir, const char *name, struct store_dir_obj **out, struct statx *sx)
{
	struct store_dir *sd = store_dir_home(dir->obj);
	int r = -EAGAIN;
	for (int tries = 0; r == -EAGAIN; tries++) {
		uint64_t gen = store_dir_names_gen(dir->obj);
		CLEANUP_CLOSE int fd = store_dir_openat(sd, dir, name);
		if (fd < 0)
			return fd;
		r = store_dir_statx(sd, fd, sx);
		if (r < 0)
			return r;
		struct store_dir_key key;
		store_dir_key(sd, sx, &key);
		/* Under a case-insensitive directory the state directory answers to other spellings. */
		if (memcmp(&key, &sd->state_key, sizeof(key)) == 0)
			return -ENOENT;
		bool place = tries < LOOKUP_TRIES;
		r = store_dir_intern(sd, TAKE_FD(fd), sx, place ? dir->obj : NULL, name, gen, out);
	}
	return r;
}

int store_dir_lookup(struct store_obj *dir, const char *name, struct store_obj **out, struct stat *attr)
{
	struct store_dir_obj *d = store_dir_obj_of(dir), *o;
	CLEANUP_PIN struct store_dir_pin pin = {0};
	struct statx sx;
	int r = store_dir_check_name(d, name);
	if (r < 0)
		return r == -EPERM ? -ENOENT : r;
	r = store_dir_pin(d, &pin);
	if (!r)
		r = store_dir_child(&pin, name, &o, &sx);
	if (r < 0)
		return r;
	if (attr)
		store_dir_stat(&sx, attr);
	*out = &o->pub;
	return 0;
}

/* A directory whose names are to change. */
static int pin_changing(struct store_dir_obj *dir, const char *name, struct store_dir_pin *pin)
{
	*pin = (struct store_dir_pin){NULL, -1};
	if (store_dir_home(dir)->read_only)
		return -EROFS;
	int r = store_dir_check_name(dir, name);
	return r < 0 ? r : store_dir_pin(dir, pin);
}

/* The object at a name, pinned: from here on it cannot be lost, whatever happens to the name. */
static int pin_child(const struct store_dir_pin *dir, const char *name, struct store_dir_obj **o,
                     struct store_dir_pin *pin)
{
	struct statx sx;
	int r = store_dir_child(dir, name, o, &sx);
	return r < 0 ? r : store_dir_pin(*o, pin);
}

struct name_args {
	int fd;
	const char *name;
	int to_fd;
	const char *to_name;
	unsigned flags;
};

static int try_link(void *arg)
{
	const struct name_args *a = arg;
	struct store_dir_proc proc = store_dir_proc(a->fd);
	return linkat(AT_FDCWD, proc.path, a->to_fd, a->to_name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

int store_dir_link(struct store_obj *obj, struct store_obj *dir, const char *name)
{
	struct store_dir_obj *o = store_dir_obj_of(obj), *d = store_dir_obj_of(dir);
	struct store_dir *sd = store_dir_home(o);
	CLEANUP_PIN struct store_dir_pin dpin = {0}, pin = {0};
	int r = pin_changing(d, name, &dpin);
	if (!r)
		r = store_dir_pin(o, &pin);
	if (r < 0)
		return r;
	struct name_args a = {.fd = pin.fd, .to_fd = dpin.fd, .to_name = name};
	r = store_dir_forced(sd, try_link, &a, &dpin.fd, 1);
	if (!r)
		store_dir_linked(o, d, name);
	return (int)store_dir_space_seen(sd, r);
}

static int try_unlink(void *arg)
{
	const struct name_args *a = arg;
	return unlinkat(a->fd, a->name, (int)a->flags) < 0 ? -errno : 0;
}

int store_dir_unlink(struct store_obj *dir, const char *name, bool is_dir)
{
	struct store_dir_obj *d = store_dir_obj_of(dir);
	struct store_dir *sd = store_dir_home(d);
	CLEANUP_OBJ struct store_dir_obj *victim = NULL;
	CLEANUP_PIN struct store_dir_pin dpin = {0}, pin = {0};
	int r = pin_changing(d, name, &dpin);
	if (!r)
		r = pin_child(&dpin, name, &victim, &pin);
	if (r < 0)
		return r;
	struct name_args a = {.fd = dpin.fd, .name = name, .flags = is_dir ? AT_REMOVEDIR : 0};
	r = store_dir_forced(sd, try_unlink, &a, &dpin.fd, 1);
	if (!r)
		store_dir_removed(d, name, &pin);
	return (int)store_dir_space_seen(sd, r);
}

static int try_rename(void *arg)
{
	const struct name_args *a = arg;
	return renameat2(a->fd, a->name, a->to_fd, a->to_name, a->flags) < 0 ? -errno : 0;
}

int store_dir_rename(struct store_obj *dir, const char *name, struct store_obj *to_dir, const char *to_name,
                     unsigned flags)
{
	struct store_dir_obj *d = store_dir_obj_of(dir), *to = store_dir_obj_of(to_dir);
	struct store_dir *sd = store_dir_home(d);
	CLEANUP_OBJ struct store_dir_obj *moved = NULL, *other = NULL;
	CLEANUP_PIN struct store_dir_pin dpin = {0}, to_pin = {0}, pin = {0}, other_pin = {0};
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	int r = pin_changing(d, name, &dpin);
	if (!r)
		r = pin_changing(to, to_name, &to_pin);
	if (!r)
		r = pin_child(&dpin, name, &moved, &pin);
	if (!r)
		r = pin_child(&to_pin, to_name, &other, &other_pin);
	if (r < 0 && !(r == -ENOENT && moved && !other))
		return r;
	/* A directory that changes its parent is itself written: its "..". */
	int fds[4] = {dpin.fd, to_pin.fd}, n = 2;
	if (S_ISDIR(moved->pub.kind))
		fds[n++] = pin.fd;
	if (other && S_ISDIR(other->pub.kind) && (flags & RENAME_EXCHANGE))
		fds[n++] = other_pin.fd;
	struct name_args a = {dpin.fd, name, to_pin.fd, to_name, flags};
	r = store_dir_forced(sd, try_rename, &a, fds, n);
	if (r < 0 || moved == other) /* two links to one inode: POSIX has both stay */
		return (int)store_dir_space_seen(sd, r);
	store_dir_names_changed(d);
	if (other && (flags & RENAME_EXCHANGE))
		store_dir_moved(other, d, name);
	else if (other)
		store_dir_removed(to, to_name, &other_pin);
	store_dir_moved(moved, to, to_name);
	return 0;
}

static int try_read_dir(void *arg)
{
	int fd = openat(*(const int *)arg, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int store_dir_readdir(struct store_obj *dir, int (*fn)(void *arg, const struct store_dirent *de), void *arg)
{
	struct store_dir_obj *d = store_dir_obj_of(dir);
	struct store_dir *sd = store_dir_home(d);
	CLEANUP_PIN struct store_dir_pin pin = {0};
	CLEANUP_CLOSE int fd = -1;
	int r = S_ISDIR(dir->kind) ? store_dir_pin(d, &pin) : -ENOTDIR;
	if (r < 0)
		return r;
	do
		fd = store_dir_forced(sd, try_read_dir, &pin.fd, &pin.fd, 1);
	while (fd < 0 && store_dir_relieve(sd, fd));
	if (fd < 0)
		return fd;
	DIR *stream = fdopendir(fd);
	if (!stream)
		return -errno;
	fd = -1;
	for (;;) {
		errno = 0;
		const struct dirent *e = readdir(stream);
		if (!e) {
			r = -errno;
			break;
		}
		bool hidden =
			d == sd->root && (e->d_ino == sd->state_key.ino || strcmp(e->d_name, STORE_STATE_DIR) == 0);
		if (hidden || strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		struct store_dirent de = {e->d_name, e->d_ino, DTTOIF(e->d_type)};
		r = fn(arg, &de);
		if (r)
			break;
	}
	closedir(stream);
	return r;
}

int store_dir_readlink(struct store_obj *obj, char *buf, size_t size)
{
	CLEANUP_PIN struct store_dir_pin pin = {0};
	if (!S_ISLNK(obj->kind))
		return -EINVAL;
	if (!size)
		return -ENAMETOOLONG;
	int r = store_dir_pin(store_dir_obj_of(obj), &pin);
	if (r < 0)
		return r;
	ssize_t n = readlinkat(pin.fd, "", buf, size);
	if (n < 0)
		return -errno;
	if ((size_t)n == size)
		return -ENAMETOOLONG;
	buf[n] = '\0';
	return 0;
}
