/*
 * control.c - the control files.
 *
 * Each command opens ctl anew: a descriptor has its own answer, so that threads never read each other's. Nothing stays
 * open between two calls.
 */
#include "tools/lib/private.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define CHUNK 4096

int txnfs_lib_daemon_ended(const struct txnfs *fs)
{
	return txnfs_lib_fail(-ENOTCONN, "%s: the filesystem's daemon has ended; `txnfs umount %s` and mount it again",
	                      fs->point, fs->point);
}

int txnfs_lib_dir(const struct txnfs *fs, int *out)
{
	char path[PATH_MAX + NAME_MAX + 2];
	int r;

	snprintf(path, sizeof(path), "%s/%s", strcmp(fs->point, "/") ? fs->point : "", fs->control);
	do
		*out = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	while (*out < 0 && errno == EINTR);
	if (*out >= 0)
		return 0;
	r = -errno;
	if (r == -ENOTCONN || r == -ECONNABORTED)
		return txnfs_lib_daemon_ended(fs);
	if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP)
		return txnfs_lib_fail(-ENODEV,
		                      "%s: no txnfs is mounted here, or its control directory is not called %s",
		                      fs->point, fs->control);
	return txnfs_lib_fail(r, "%s: %s", path, strerror(-r));
}

/* Open NAME/FILE or FILE. The text of a failure is set. */
static int open_file(const struct txnfs *fs, int dirfd, const char *name, const char *file, int flags, int *out)
{
	char path[2 * NAME_MAX + 2];
	int r;

	snprintf(path, sizeof(path), "%s%s%s", name ? name : "", name ? "/" : "", file);
	do
		*out = openat(dirfd, path, flags | O_CLOEXEC | O_NOFOLLOW);
	while (*out < 0 && errno == EINTR);
	if (*out >= 0)
		return 0;
	r = -errno;
	if (r == -ENOTCONN || r == -ECONNABORTED)
		return txnfs_lib_daemon_ended(fs);
	if ((r == -ENOENT || r == -ENOTDIR) && name)
		return txnfs_lib_fail(-ENOENT, "%s: there is no transaction named \"%s\" (any more)", fs->point, name);
	if (r == -EACCES && name)
		return txnfs_lib_fail(r, "%s: transaction \"%s\" belongs to another user", fs->point, name);
	return txnfs_lib_fail(r, "%s/%s/%s: %s", fs->point, fs->control, path, strerror(-r));
}

/* The daemon answers in one piece. */
static ssize_t read_at(int fd, char *buf, size_t size, off_t at)
{
	ssize_t n;

	do
		n = pread(fd, buf, size, at);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int txnfs_lib_command(const struct txnfs *fs, int dirfd, const char *name, const struct txnfs_lib_command *c,
                      char *answer)
{
	char buf[CHUNK] = "", line[TXNFS_LIB_TEXT];
	CLEANUP_CLOSE int fd = -1;
	ssize_t n;
	int r;

	if (answer)
		*answer = '\0';
	if (c->overflow)
		return txnfs_lib_fail(-E2BIG, "%s: the command is too long", fs->point);
	r = open_file(fs, dirfd, name, "ctl", O_RDWR, &fd);
	if (r)
		return r;
	/* What was interrupted has not been carried out: a command that has begun cannot be interrupted. */
	do
		n = write(fd, c->text, c->n);
	while (n < 0 && errno == EINTR);
	r = n < 0 ? -errno : (size_t)n != c->n ? -EIO : 0;
	if (r == -ECONNABORTED)
		r = -ENOTCONN;
	n = read_at(fd, buf, sizeof(buf) - 1, 0);
	buf[n > 0 ? n : 0] = '\0';
	/* The answer of another outcome than the write's would be a lie. */
	if (txnfs_lib_answer(buf, line, sizeof(line)) != !r)
		*line = '\0';
	if (answer)
		memcpy(answer, line, sizeof(line));
	if (r && *line)
		return txnfs_lib_fail(r, "%s", line);
	if (r == -ENOTCONN)
		return txnfs_lib_daemon_ended(fs);
	if (r)
		return txnfs_lib_fail(r, "%s: %.*s: %s", fs->point, (int)strcspn(c->text, "\"\n"), c->text,
		                      strerror(-r));
	return 0;
}

int txnfs_lib_read(const struct txnfs *fs, int dirfd, const char *name, const char *file, char **out)
{
	CLEANUP_FREE char *text = NULL;
	CLEANUP_CLOSE int fd = -1;
	size_t n = 0, cap = 0;
	ssize_t got = 0;
	char *more;
	int r = open_file(fs, dirfd, name, file, O_RDONLY, &fd);

	if (r)
		return r;
	do {
		n += (size_t)got;
		if (cap - n < CHUNK) {
			cap = cap ? 2 * cap : 2 * CHUNK;
			more = realloc(text, cap);
			if (!more)
				return txnfs_lib_fail(-ENOMEM, "%s", strerror(ENOMEM));
			text = more;
		}
		got = read_at(fd, text + n, cap - n - 1, (off_t)n);
	} while (got > 0);
	if (got == -ENOTCONN || got == -ECONNABORTED)
		return txnfs_lib_daemon_ended(fs);
	if (got < 0)
		return txnfs_lib_fail((int)got, "%s/%s/%s: %s", fs->point, fs->control, file, strerror((int)-got));
	text[n] = '\0';
	*out = TAKE_PTR(text);
	return 0;
}

/* What the mount said about a mkdir: the process's last line, which another thread's command may have replaced
 * meanwhile. */
static int refused_line(const struct txnfs *fs, int dirfd, int r)
{
	CLEANUP_FREE char *text = NULL;
	char line[TXNFS_LIB_TEXT], mark[32];
	const char *name = strerrorname_np(-r);

	if (!txnfs_lib_read(fs, dirfd, NULL, "ctl", &text) && name) {
		snprintf(mark, sizeof(mark), "(%s)", name);
		if (!txnfs_lib_answer(text, line, sizeof(line)) && strstr(line, mark))
			return txnfs_lib_fail(r, "%s", line);
	}
	return txnfs_lib_fail(r, "%s: cannot begin a transaction: %s", fs->point, strerror(-r));
}

int txnfs_lib_mkdir(const struct txnfs *fs, int dirfd, const char *name)
{
	int r;

	do
		r = mkdirat(dirfd, name, 0700) ? -errno : 0;
	while (r == -EINTR);
	switch (r) {
	case 0:
		return 0;
	case -ENOTCONN:
	case -ECONNABORTED:
		return txnfs_lib_daemon_ended(fs);
	case -EEXIST:
		return txnfs_lib_fail(r, "%s: there is a transaction named \"%s\" already", fs->point, name);
	case -EPERM: /* a transaction's view has a control directory too, in which none are made */
	case -EALREADY:
		return txnfs_lib_fail(-EALREADY, "%s: already inside a transaction: use a savepoint in it", fs->point);
	default:
		return refused_line(fs, dirfd, r);
	}
}

int txnfs_lib_begin_named(const struct txnfs *fs, int dirfd, const char *name, const struct txnfs_options *o)
{
	struct txnfs_lib_command c = {0};
	char text[TXNFS_LIB_TEXT], answer[TXNFS_LIB_TEXT];
	int r = txnfs_lib_put_options(&c, o);

	if (!r)
		r = txnfs_lib_mkdir(fs, dirfd, name);
	if (r || !c.n)
		return r;
	txnfs_lib_put(&c, "\n");
	r = txnfs_lib_command(fs, dirfd, name, &c, answer);
	if (r == -ENOENT || (r == -ENOTCONN && *answer)) /* what has the name now is somebody else's */
		return txnfs_lib_fail(-ECANCELED, "%s: transaction \"%s\" was ended by someone else right after it began", fs->point, name);
	if (r) {
		txnfs_lib_text_save(text);
		unlinkat(dirfd, name, AT_REMOVEDIR);
		txnfs_lib_text_restore(text);
	}
	return r;
}
