/* control.c - what the tools read from and write to control files. */
#include "tools/tools.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

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

char *tool_control_read(const struct tool_mount *m, const char *control, const char *txn, const char *name)
{
	CLEANUP_FREE char *path = NULL;
	CLEANUP_CLOSE int fd = -1;
	struct base_buf b = {0};
	char chunk[4096];
	ssize_t n;

	if (asprintf(&path, "%s/%s/%s%s%s", m->point, control, txn ? txn : "", txn ? "/" : "", name) < 0) {
		path = NULL;
		errno = ENOMEM;
		return NULL;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	while ((n = read(fd, chunk, sizeof(chunk))) > 0)
		base_buf_put(&b, chunk, (size_t)n);
	base_buf_put(&b, "", 1);
	if (n < 0 || b.err) {
		int err = n < 0 ? errno : -b.err;

		base_buf_free(&b);
		errno = err;
		return NULL;
	}
	return (char *)b.p;
}

char *tool_status_value(const char *text, const char *key)
{
	size_t n = strlen(key);

	for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (!strncmp(p, key, n) && p[n] == ':' && p[n + 1] == ' ')
			return strndup(p + n + 2, strcspn(p + n + 2, "\n"));
	return NULL;
}

char *tool_unquote(char *p, char **path)
{
	static const char letters[] = "abfnrtv", values[] = "\a\b\f\n\r\t\v";
	char *to;

	if (*p != '"') {
		*path = p;
		return p + strcspn(p, "\t");
	}
	*path = to = ++p;
	for (; *p && *p != '"'; p++) {
		const char *letter;

		if (*p != '\\' || !p[1]) {
			*to++ = *p;
		} else if (p[1] >= '0' && p[1] <= '3' && p[2] && p[3]) {
			*to++ = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
			p += 3;
		} else {
			letter = strchr(letters, *++p);
			*to++ = letter ? values[letter - letters] : *p;
		}
	}
	if (*p)
		p++;
	*to = 0;
	return p;
}

json_t *tool_json_bytes(const char *s)
{
	json_t *j = json_string(s);
	struct base_buf b = {0};

	if (j)
		return j;
	for (; *s; s++)
		base_buf_put(&b, (unsigned char)*s < 0x80 ? s : "\xef\xbf\xbd", (unsigned char)*s < 0x80 ? 1 : 3);
	base_buf_put(&b, "", 1);
	j = b.err ? NULL : json_string((char *)b.p);
	base_buf_free(&b);
	return j;
}
