/*
 * store_dir_state.c - the state directory: creation, lock, format file.
 *
 * It is made in an order that a crash can interrupt anywhere: the format file comes last, and without one the directory
 * counts as not yet made, unless there is a log in it.
 */
#include "txn/store_dir.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#define FORMAT_VERSION 1
#define FORMAT_NAME "format"
#define FORMAT_NEW "format.new"
#define FORMAT_MAGIC "txnfs format "
#define UUID_LEN 36

struct opening {
	struct store_dir *sd;
	const char *src;
	bool create;
	char *err;
	size_t errlen;
};

PRINTF_LIKE(3, 4) static int fail(const struct opening *op, int r, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(op->err, op->errlen, fmt, ap);
	va_end(ap);
	return r;
}

/* A failed system call on src/STATE/what. */
static int fail_errno(const struct opening *op, const char *what)
{
	int r = -errno;
	return fail(op, r, "%s/" STORE_STATE_DIR "%s%s: %s", op->src, *what ? "/" : "", what, strerror(-r));
}

/* A directory in the state directory. */
static int open_part(const struct opening *op, const char *name, bool make, int *out)
{
	int state = op->sd->state_fd;
	struct statx sx;
	if (make && mkdirat(state, name, 0700) < 0 && errno != EEXIST)
		return fail_errno(op, name);
	CLEANUP_CLOSE int fd = openat(state, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
		return fail(op, -EUCLEAN, "%s/" STORE_STATE_DIR " is damaged: %s is missing or not a directory",
		            op->src, name);
	if (fd < 0)
		return fail_errno(op, name);
	int r = store_dir_statx(op->sd, fd, &sx);
	if (r == -EXDEV)
		return fail(op, r, "%s/" STORE_STATE_DIR "/%s is on another filesystem", op->src, name);
	*out = TAKE_FD(fd);
	return r;
}

static int take_lock(const struct opening *op)
{
	CLEANUP_CLOSE int fd = openat(op->sd->state_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail_errno(op, "lock");
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK
		               ? fail(op, -EBUSY, "%s is in use: it is mounted, or being recovered, elsewhere", op->src)
		               : fail_errno(op, "lock");
	op->sd->lock_fd = TAKE_FD(fd);
	return 0;
}

/* The line that says which directory the log belongs to; text has room for it. */
static void root_line(const struct store_id *id, char *text)
{
	text += sprintf(text, "root ");
	for (int i = 0; i < id->len; i++)
		text += sprintf(text, "%02x", id->bytes[i]);
	strcpy(text, "\n");
}

#define ROOT_LINE_MAX (5 + 2 * STORE_ID_MAX + 2)

/* What may follow the uuid: nothing before the log was made, then the root's line. */
static bool read_root_line(struct store_dir *sd, const char *s)
{
	char mine[ROOT_LINE_MAX];
	size_t n = strlen(s);
	if (!*s)
		return true;
	if (n < 7 || strncmp(s, "root ", 5) || strspn(s + 5, "0123456789abcdef") != n - 6 || s[n - 1] != '\n')
		return false;
	root_line(&sd->root_id, mine);
	sd->pub.sealed = true;
	sd->pub.foreign = strcmp(s, mine) != 0;
	return true;
}

static bool valid_uuid(const char *s)
{
	for (int i = 0; i < UUID_LEN; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		if (dash ? s[i] != '-' : !s[i] || !strchr("0123456789abcdef", s[i]))
			return false;
	}
	return s[UUID_LEN] == '\n';
}

_Static_assert(UUID_LEN + 1 == sizeof(((struct store *)0)->uuid), "room for it");

static void take_uuid(struct store_dir *sd, const char *s)
{
	memcpy(sd->pub.uuid, s, UUID_LEN);
	sd->pub.uuid[UUID_LEN] = '\0';
}

/* 0 good, -ENOENT none; other errors have their text. */
static int read_format(const struct opening *op)
{
	char text[1024], *end;
	static const char magic[] = FORMAT_MAGIC;
	CLEANUP_CLOSE int fd = openat(op->sd->state_fd, FORMAT_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT ? -ENOENT : fail_errno(op, FORMAT_NAME);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return fail_errno(op, FORMAT_NAME);
	text[n] = '\0';
	if (strlen(text) == (size_t)n && strncmp(text, magic, sizeof(magic) - 1) == 0) {
		const char *number = text + sizeof(magic) - 1;
		errno = 0;
		unsigned long version = strtoul(number, &end, 10);
		bool digits = *number >= '1' && *number <= '9' && errno == 0 && *end == '\n';
		/* What follows the first line is the newer version's business. */
		if (digits && version > FORMAT_VERSION)
			return fail(op, -EPROTONOSUPPORT, "%s was written by a newer txnfs (format %lu); upgrade",
			            op->src, version);
		if (digits && version == FORMAT_VERSION && strncmp(end, "\nuuid ", 6) == 0 && valid_uuid(end + 6) &&
		    read_root_line(op->sd, end + 6 + UUID_LEN + 1)) {
			take_uuid(op->sd, end + 6);
			return 0;
		}
	}
	return fail(op, -EUCLEAN,
	            "%s/" STORE_STATE_DIR "/" FORMAT_NAME " is damaged; restore it from a backup of the directory",
	            op->src);
}

static int write_all(int fd, const char *text)
{
	size_t n = strlen(text);
	ssize_t r = write(fd, text, n);
	if (r >= 0 && (size_t)r != n) {
		errno = ENOSPC;
		return -1;
	}
	return r < 0 ? -1 : 0;
}

static int write_format(const struct opening *op, bool seal)
{
	int state = op->sd->state_fd;
	char text[128 + ROOT_LINE_MAX];
	uint64_t a = base_random_u64(), b = base_random_u64();
	/* A random UUID, version 4. */
	snprintf(text, sizeof(text), FORMAT_MAGIC "%d\nuuid %08x-%04x-4%03x-%04x-%012llx\n", FORMAT_VERSION,
	         (unsigned)(a >> 32), (unsigned)(a >> 16 & 0xffff), (unsigned)(a & 0xfff),
	         (unsigned)(b >> 48 & 0x3fff) | 0x8000u, (unsigned long long)(b & 0xffffffffffffull));
	if (seal)
		root_line(&op->sd->root_id, text + strlen(text));
	/* Whatever has that name: what a crash has left, a link to something else, a fifo that would make us wait. */
	if (unlinkat(state, FORMAT_NEW, 0) < 0 && errno != ENOENT)
		return fail_errno(op, FORMAT_NEW);
	CLEANUP_CLOSE int fd = openat(state, FORMAT_NEW, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || write_all(fd, text) < 0 || fsync(fd) < 0 || renameat(state, FORMAT_NEW, state, FORMAT_NAME) < 0 ||
	    fsync(state) < 0)
		return fail_errno(op, FORMAT_NAME);
	if (fsync(op->sd->root_fd) < 0)
		return fail_errno(op, "");
	take_uuid(op->sd, strstr(text, "\nuuid ") + 6);
	return 0;
}

/*
 * Without a format file: was the state directory only half made, or did it lose the file? A log has segments, and its
 * first ones are gone some day.
 */
static bool holds_log(const struct store_dir *sd)
{
	bool found = false;
	CLEANUP_CLOSE int fd = openat(sd->state_fd, "wal", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir)
		return false;
	fd = -1;
	for (const struct dirent *e; !found && (e = readdir(dir));)
		found = strlen(e->d_name) == 16 && strspn(e->d_name, "0123456789abcdef") == 16;
	closedir(dir);
	return found;
}

static int open_state(const struct opening *op)
{
	struct store_dir *sd = op->sd;
	struct stat st;
	struct statx sx;
	int r = fstatat(sd->root_fd, STORE_STATE_DIR, &st, AT_SYMLINK_NOFOLLOW);
	if (r < 0 && errno == ENOENT && !op->create)
		return fail(op, -ENOENT, "%s is not a txnfs directory: it has no " STORE_STATE_DIR, op->src);
	if (r < 0 && errno == ENOENT) {
		if (mkdirat(sd->root_fd, STORE_STATE_DIR, 0700) < 0 && errno != EEXIST)
			return fail_errno(op, "");
		r = fstatat(sd->root_fd, STORE_STATE_DIR, &st, AT_SYMLINK_NOFOLLOW);
	}
	if (r < 0)
		return fail_errno(op, "");
	if (!S_ISDIR(st.st_mode))
		return fail(op, -ENOTDIR, "%s/" STORE_STATE_DIR " is %s, not a directory; move it away", op->src,
		            S_ISLNK(st.st_mode) ? "a symbolic link" : "a file");
	/* The log says what to write where; root must not do what someone else's log says. */
	if (st.st_uid != sd->euid && !sd->read_only)
		return fail(op, -EACCES,
		            "%s/" STORE_STATE_DIR " belongs to user %u; only this user can mount or recover it",
		            op->src, (unsigned)st.st_uid);
	sd->state_fd = openat(sd->root_fd, STORE_STATE_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (sd->state_fd < 0)
		return fail_errno(op, "");
	r = store_dir_statx(sd, sd->state_fd, &sx);
	if (r == -EXDEV)
		return fail(op, r, "%s/" STORE_STATE_DIR " is on another filesystem than %s", op->src, op->src);
	if (r < 0)
		return fail(op, r, "%s/" STORE_STATE_DIR ": %s", op->src, strerror(-r));
	store_dir_key(sd, &sx, &sd->state_key);
	if ((st.st_mode & 077) && !sd->read_only && fchmod(sd->state_fd, 0700) < 0)
		return fail_errno(op, "");
	return 0;
}

int store_dir_state_open(struct store_dir *sd, const char *src, bool create, int *stage_fd, int *trash_fd, char *err,
                         size_t errlen)
{
	struct opening op = {sd, src, create && !sd->read_only, err, errlen};
	int r = open_state(&op);
	if (!r && !sd->read_only)
		r = take_lock(&op);
	if (r < 0)
		return r;
	r = read_format(&op);
	bool fresh = r == -ENOENT;
	if (fresh && holds_log(sd))
		return fail(&op, -EUCLEAN,
		            "%s/" STORE_STATE_DIR " is damaged: it has a log but no " FORMAT_NAME " file", src);
	if (fresh && !op.create)
		return fail(&op, -ENOENT,
		            "%s is not a txnfs directory: making its " STORE_STATE_DIR " was never completed", src);
	if (r < 0 && !fresh)
		return r;
	/* A lost log is not replaced by an empty one: committed data may have been in it. */
	r = open_part(&op, "wal", fresh, &sd->wal_fd);
	if (!r)
		r = open_part(&op, "stage", !sd->read_only, stage_fd);
	if (!r)
		r = open_part(&op, "trash", !sd->read_only, trash_fd);
	if (!r && fresh)
		r = write_format(&op, false);
	return r;
}

/* A copy gets a uuid of its own with that: it is another directory. */
int store_dir_seal(struct store *st)
{
	char err[256] = "";
	struct opening op = {store_dir_of(st), "", false, err, sizeof(err)};
	int r = write_format(&op, true);
	if (!r) {
		st->sealed = true;
		st->foreign = false;
	}
	return r;
}
