/* util.c - messages, arguments, progress and control files. */
#include "tools/tools.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

void tool_error(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("txnfs: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

void tool_parse(const struct argp *argp, int argc, char **argv, unsigned flags, void *input)
{
	error_t e = argp_parse(argp, argc, argv, flags, NULL, input);

	if (e) {
		tool_error("%s", strerror(e));
		exit(argp_err_exit_status);
	}
}

uint64_t tool_number(struct argp_state *state, const char *what, const char *text, uint64_t min, uint64_t max)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 0);
	if (errno || end == text || *end || strchr(text, '-') || v < min || v > max)
		argp_error(state, "%s: \"%s\" is not a number from %llu to %llu", what, text, (unsigned long long)min,
		           (unsigned long long)max);
	return v;
}

int tool_finish(int status)
{
	if (fflush(stdout) || ferror(stdout)) {
		tool_error("standard output: %s", strerror(errno));
		return status ? status : TOOL_FAILED;
	}
	return status;
}

static double seconds_between(const struct timespec *a, const struct timespec *b)
{
	return (double)(b->tv_sec - a->tv_sec) + (double)(b->tv_nsec - a->tv_nsec) / 1e9;
}

void tool_progress(struct tool_progress *p, const char *what, uint64_t done, uint64_t total)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!p->began.tv_sec) {
		p->began = now;
		p->shown = now;
	}
	if (!isatty(STDERR_FILENO) || seconds_between(&p->began, &now) < 1 || seconds_between(&p->shown, &now) < 0.2)
		return;
	p->shown = now;
	p->visible = true;
	fprintf(stderr, "\rtxnfs: %s: %.1f of %.1f MiB (%u %%)\033[K", what, (double)done / 1048576,
	        (double)total / 1048576, total ? (unsigned)((double)done * 100 / (double)total) : 100);
}

void tool_progress_end(struct tool_progress *p)
{
	if (p->visible)
		fputs("\r\033[K", stderr);
	p->visible = false;
}

const char *tool_control(const char *given)
{
	const char *env = getenv("TXNFS_CONTROL");

	if (given)
		return given;
	return env && *env ? env : ".txn";
}

int tool_ctl_open(const struct tool_mount *m, const char *control, const char *txn)
{
	CLEANUP_FREE char *dir = NULL, *path = NULL;
	struct stat st;
	int fd, err;

	if (asprintf(&dir, "%s/%s", m->point, control) < 0)
		dir = NULL;
	if (dir && asprintf(&path, txn ? "%s/%s/ctl" : "%s%s/ctl", dir, txn ? txn : "") < 0)
		path = NULL;
	if (!path) {
		tool_error("%s", strerror(ENOMEM));
		return -1;
	}
	if (txn && (!*txn || strchr(txn, '/') || !strcmp(txn, ".") || !strcmp(txn, ".."))) {
		tool_error("\"%s\" cannot be the name of a transaction", txn);
		return -1;
	}
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0)
		return fd;
	err = errno;
	if (err == ENOTCONN)
		tool_error("%s: the filesystem's daemon has ended; `txnfs umount %s` and mount it again", m->point,
		           m->point);
	else if (err == ENOENT && lstat(dir, &st) < 0)
		tool_error("%s: there is no control directory %s; when it was mounted with -o control=NAME, say "
		           "--control NAME",
		           m->point, control);
	else if (err == ENOENT && txn)
		tool_error("%s: there is no transaction named \"%s\" (any more)", m->point, txn);
	else if (err == EACCES && txn)
		tool_error("%s: transaction \"%s\" belongs to another user", m->point, txn);
	else
		tool_error("%s: %s", path, strerror(err));
	return -1;
}

int tool_ctl_command(int fd, const char *text, char **answer)
{
	char buf[4096];
	size_t len = strlen(text);
	ssize_t n;
	char *p = buf;
	int r = 0;

	*answer = NULL;
	n = write(fd, text, len);
	if (n < 0)
		r = -errno;
	else if ((size_t)n != len)
		r = -EIO;
	/* The first line of ctl is the outcome of this process's last command. */
	n = pread(fd, buf, sizeof(buf) - 1, 0);
	if (n <= 0)
		return r;
	buf[n] = 0;
	p[strcspn(p, "\n")] = 0;
	if (!strncmp(p, "ok: ", 4))
		p += 4;
	else if (!strncmp(p, "error: ", 7))
		p += 7;
	if (*p)
		*answer = strdup(p);
	return r;
}

void tool_ctl_quote(struct base_buf *b, const char *name)
{
	base_buf_put(b, "\"", 1);
	for (const char *p = name; *p; p++)
		base_buf_put(b, *p == '"' ? "\"\"" : p, *p == '"' ? 2 : 1);
	base_buf_put(b, "\"", 1);
}

const char *tool_isolation(const char *arg)
{
	if (!strcasecmp(arg, "read-committed") || !strcasecmp(arg, "read committed"))
		return "read committed";
	return !strcasecmp(arg, "serializable") ? "serializable" : !strcasecmp(arg, "snapshot") ? "snapshot" : NULL;
}
