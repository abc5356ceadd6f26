/* store_dir_make.c - new objects, with the owner and mode that they are to have. */
#include "txn/store_dir.h"

#include <linux/securebits.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/xattr.h>

/*
 * Root creates as the new object's owner, so that quota, setgid directories and default ACLs work as the kernel does
 * them. The identity for filesystem checks belongs to the thread. Capabilities must survive the change, for root's
 * rights are needed to reach the directory: that is what NO_SETUID_FIXUP says, also per thread (and it is inherited
 * by threads and processes that this thread starts). Where it is refused, objects get their owner afterwards.
 */
static bool keeps_capabilities(void)
{
	static _Thread_local enum { UNKNOWN, YES, NO } state;
	if (state == UNKNOWN) {
		int bits = prctl(PR_GET_SECUREBITS);
		bool set = bits >= 0 && ((bits & SECBIT_NO_SETUID_FIXUP) ||
		                         prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP) == 0);
		state = set ? YES : NO;
	}
	return state == YES;
}

static void become(uid_t uid, gid_t gid)
{
	setfsgid(gid);
	setfsuid(uid);
}

struct make_args {
	int dirfd;
	const char *name; /* NULL: none yet */
	const struct store_new *nw;
};

static int try_make(void *arg)
{
	const struct make_args *a = arg;
	const struct store_new *nw = a->nw;
	int r;
	if (!a->name) {
		r = openat(a->dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, nw->mode & 07777);
	} else {
		switch (nw->mode & S_IFMT) {
		case S_IFDIR:
			r = mkdirat(a->dirfd, a->name, nw->mode & 07777);
			break;
		case S_IFLNK:
			r = symlinkat(nw->target, a->dirfd, a->name);
			break;
		default:
			r = mknodat(a->dirfd, a->name, nw->mode, nw->rdev);
		}
	}
	return r < 0 ? -errno : r;
}

static int make(struct store_dir *sd, const struct make_args *a)
{
	struct make_args copy = *a;
	uid_t uid = a->nw->uid;
	gid_t gid = a->nw->gid;
	bool other = sd->euid == 0 && (uid != sd->euid || gid != sd->egid) && keeps_capabilities();
	int r;
	do {
		if (other)
			become(uid, gid);
		r = try_make(&copy);
		if (other)
			become(sd->euid, sd->egid);
		if (r == -EACCES)
			r = store_dir_forced(sd, try_make, &copy, &a->dirfd, 1);
	} while (r < 0 && store_dir_relieve(sd, r));
	return r;
}

static int chown_fd(int fd, uid_t uid, gid_t gid)
{
	return fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int chmod_fd(int fd, mode_t mode)
{
	struct store_dir_proc proc = store_dir_proc(fd);
	return chmod(proc.path, mode & 07777) < 0 ? -errno : 0;
}

/*
 * Someone who can write to the directory, not through us, could have put another inode in the new one's place; it
 * must not be given away.
 */
static bool is_new(const struct store_dir *sd, const struct store_new *nw, const struct statx *sx)
{
	return ((sx->stx_mode ^ nw->mode) & S_IFMT) == 0 && (S_ISDIR(sx->stx_mode) || sx->stx_nlink <= 1) &&
	       (!S_ISREG(sx->stx_mode) || sx->stx_size == 0) && (sx->stx_uid == nw->uid || sx->stx_uid == sd->euid);
}

static bool has_default_acl(int dirfd)
{
	struct store_dir_proc proc = store_dir_proc(dirfd);
	return getxattr(proc.path, "system.posix_acl_default", NULL, 0) > 0;
}

static int remove_acl(int fd, const char *name)
{
	struct store_dir_proc proc = store_dir_proc(fd);
	return removexattr(proc.path, name) < 0 && errno != ENODATA && errno != EOPNOTSUPP ? -errno : 0;
}

/* Owner and mode exactly as given, whatever the directory would have passed on. */
static int settle_exactly(const struct store_dir *sd, int dirfd, int fd, const struct store_new *nw,
                          const struct statx *sx)
{
	bool wrong_owner = sx->stx_uid != nw->uid || sx->stx_gid != nw->gid;
	bool wrong_mode = wrong_owner || sx->stx_mode != nw->mode;
	int r = is_new(sd, nw, sx) ? 0 : -ESTALE;
	if (!r && wrong_owner)
		r = chown_fd(fd, nw->uid, nw->gid);
	if (r < 0 || S_ISLNK(nw->mode))
		return r;
	if (has_default_acl(dirfd)) {
		r = remove_acl(fd, "system.posix_acl_access");
		if (!r && S_ISDIR(nw->mode))
			r = remove_acl(fd, "system.posix_acl_default");
		wrong_mode = true;
	}
	return !r && wrong_mode ? chmod_fd(fd, nw->mode) : r;
}

/* Owner as the kernel would have given it to nw->uid and gid; only needed where become() was impossible. */
static int settle_inherited(const struct store_dir *sd, int dirfd, int fd, const struct store_new *nw,
                            const struct statx *sx)
{
	struct stat dir;
	bool group = sx->stx_gid == nw->gid || keeps_capabilities(); /* else right, or chosen by the kernel */
	if (sd->euid != 0 || (sx->stx_uid == nw->uid && group))
		return 0;
	if (fstatat(dirfd, "", &dir, AT_EMPTY_PATH) < 0)
		return -errno;
	if (!is_new(sd, nw, sx))
		return -ESTALE;
	int r = chown_fd(fd, nw->uid, dir.st_mode & S_ISGID ? (gid_t)-1 : nw->gid);
	if (!r && (sx->stx_mode & (S_ISUID | S_ISGID)) && !S_ISLNK(sx->stx_mode))
		r = chmod_fd(fd, sx->stx_mode); /* chown took them away */
	return r;
}

static int settle(struct store_dir *sd, int dirfd, int fd, const struct store_new *nw, bool inherit, struct statx *sx)
{
	int r = store_dir_statx(sd, fd, sx);
	if (!r)
		r = inherit ? settle_inherited(sd, dirfd, fd, nw, sx) : settle_exactly(sd, dirfd, fd, nw, sx);
	return r < 0 ? r : store_dir_statx(sd, fd, sx);
}

static int check_new(struct store_dir *sd, const struct store_obj *dir, const struct store_new *nw)
{
	if (sd->read_only)
		return -EROFS;
	if (!S_ISDIR(dir->kind))
		return -ENOTDIR;
	switch (nw->mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return 0;
	case S_IFLNK:
		return nw->target ? 0 : -EINVAL;
	default:
		return -EINVAL;
	}
}

int store_dir_create(struct store_obj *dir, const char *name, const struct store_new *nw, bool inherit,
                     struct store_obj **out, struct stat *attr)
{
	struct store_dir_obj *d = store_dir_obj_of(dir), *o;
	struct store_dir *sd = store_dir_home(d);
	CLEANUP_PIN struct store_dir_pin pin = {0};
	CLEANUP_CLOSE int fd = -1;
	struct statx sx;
	int r = check_new(sd, dir, nw);
	if (!r)
		r = store_dir_check_name(d, name);
	if (!r)
		r = store_dir_pin(d, &pin);
	if (r < 0)
		return r;
	struct make_args a = {pin.fd, name, nw};
	r = make(sd, &a);
	if (r < 0)
		return (int)store_dir_space_seen(sd, r);
	fd = store_dir_openat(sd, &pin, name);
	r = fd < 0 ? fd : settle(sd, pin.fd, fd, nw, inherit, &sx);
	if (!r)
		r = store_dir_intern(sd, TAKE_FD(fd), &sx, d, name, STORE_DIR_ANY_GEN, &o);
	if (r < 0) {
		bool is_dir = S_ISDIR(nw->mode);
		if (store_dir_unlink(dir, name, is_dir) == -ENOMEM)
			(void)unlinkat(pin.fd, name, is_dir ? AT_REMOVEDIR : 0);
		return (int)store_dir_space_seen(sd, r);
	}
	if (attr)
		store_dir_stat(&sx, attr);
	*out = &o->pub;
	return 0;
}

int store_dir_tmpfile(struct store_obj *dir, const struct store_new *nw, struct store_obj **out, struct stat *attr,
                      struct store_file **file)
{
	struct store_dir_obj *d = store_dir_obj_of(dir);
	struct store_dir *sd = store_dir_home(d);
	CLEANUP_PIN struct store_dir_pin pin = {0};
	CLEANUP_OBJ struct store_dir_obj *o = NULL;
	struct statx sx;
	int r = S_ISREG(nw->mode) ? check_new(sd, dir, nw) : -EINVAL;
	if (!r)
		r = store_dir_pin(d, &pin);
	if (r < 0)
		return r;
	struct make_args a = {.dirfd = pin.fd, .nw = nw};
	CLEANUP_CLOSE int fd = make(sd, &a);
	if (fd < 0)
		return (int)store_dir_space_seen(sd, fd);
	r = settle(sd, pin.fd, fd, nw, true, &sx);
	if (r < 0)
		return r;
	struct store_dir_proc proc = store_dir_proc(fd);
	int path_fd = open(proc.path, O_PATH | O_CLOEXEC);
	if (path_fd < 0)
		return -errno;
	r = store_dir_intern(sd, path_fd, &sx, NULL, NULL, STORE_DIR_ANY_GEN, &o);
	if (r < 0)
		return r;
	store_dir_keep(o); /* it has no name by which to find it */
	r = store_dir_file(o, TAKE_FD(fd), file);
	if (r < 0)
		return r;
	if (attr)
		store_dir_stat(&sx, attr);
	*out = &TAKE_PTR(o)->pub;
	return 0;
}
