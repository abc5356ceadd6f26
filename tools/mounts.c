/* mounts.c - finding txnfs mounts in /proc/self/mountinfo. */
#include "tools/tools.h"

#include <stdio.h>
#include <string.h>

#define FS_TYPE "fuse.txnfs"

void tool_mount_free(struct tool_mount *m)
{
	free(m->source);
	free(m->point);
	*m = (struct tool_mount){0};
}

/* Undo the kernel's \ooo escapes of blanks, in place. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' &&
		    s[3] <= '7') {
			*to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 3;
		} else {
			*to++ = *s;
		}
	}
	*to = 0;
}

/* id parent major:minor ROOT POINT options [tags...] - TYPE SOURCE superoptions; false for what is no such line */
static bool parse_line(char *line, char **root, char **point, char **type, char **source, char **super)
{
	char *save, *tok;
	int field = 0;

	for (tok = strtok_r(line, " \n", &save); tok; tok = strtok_r(NULL, " \n", &save), field++) {
		if (field == 3)
			*root = tok;
		if (field == 4)
			*point = tok;
		if (field > 5 && !strcmp(tok, "-")) {
			*type = strtok_r(NULL, " \n", &save);
			*source = *type ? strtok_r(NULL, " \n", &save) : NULL;
			*super = *source ? strtok_r(NULL, " \n", &save) : NULL;
			break;
		}
	}
	if (field <= 5 || !tok || !*source)
		return false;
	unescape(*point);
	unescape(*source);
	return true;
}

/* Who serves it, as the kernel was told: "...,user_id=N,..." */
static uid_t mounter(const char *super)
{
	const char *p = super ? strstr(super, "user_id=") : NULL;

	return p ? (uid_t)strtoul(p + strlen("user_id="), NULL, 10) : (uid_t)-1;
}

/* Does path lie in (or is it) the directory dir? */
static bool inside(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	if (n == 1) /* "/" */
		return true;
	return !strncmp(path, dir, n) && (path[n] == '/' || !path[n]);
}

int tool_resolve(const char *path, char **out)
{
	CLEANUP_FREE char *copy = NULL, *dir = NULL;
	char *slash;
	size_t n;
	int err;

	*out = realpath(path, NULL);
	if (*out)
		return 0;
	err = errno;
	/* A mount whose daemon has died, or another user's, cannot be looked at: resolve up to its name. */
	if (err != ENOTCONN && err != EACCES && err != EIO && err != ESTALE)
		return -err;
	copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	for (n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--)
		copy[n - 1] = 0;
	slash = strrchr(copy, '/');
	if (slash && (!slash[1] || !strcmp(slash + 1, ".") || !strcmp(slash + 1, "..")))
		return -err;
	if (slash)
		*slash = 0;
	dir = realpath(!slash ? "." : *copy ? copy : "/", NULL);
	if (!dir)
		return -errno;
	if (asprintf(out, "%s/%s", strcmp(dir, "/") ? dir : "", slash ? slash + 1 : copy) < 0) {
		*out = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* The mount in which an absolute path lies; exact: only one whose mount point it is. */
static int find(const char *path, bool exact, struct tool_mount *out)
{
	CLEANUP_FREE char *line = NULL;
	size_t cap = 0, best = 0;
	bool ours = false;
	FILE *f = fopen("/proc/self/mountinfo", "re");

	*out = (struct tool_mount){0};
	if (!f)
		return -errno;
	while (getline(&line, &cap, f) > 0) {
		char *root = NULL, *point = NULL, *type = NULL, *source = NULL, *super = NULL;

		if (!parse_line(line, &root, &point, &type, &source, &super) || !inside(path, point))
			continue;
		/* The innermost mount decides; of several at one place the last is on top. */
		if (strlen(point) < best)
			continue;
		best = strlen(point);
		tool_mount_free(out);
		ours = !strcmp(type, FS_TYPE) && (!exact || !strcmp(path, point));
		if (!ours)
			continue;
		out->source = strdup(source);
		out->point = strdup(point);
		out->whole = !strcmp(root, "/");
		out->user = mounter(super);
		if (!out->source || !out->point) {
			tool_mount_free(out);
			fclose(f);
			return -ENOMEM;
		}
	}
	fclose(f);
	return ours ? 0 : -ENODEV;
}

static int resolve_and_find(const char *path, bool exact, struct tool_mount *out)
{
	CLEANUP_FREE char *abs = NULL;
	int r;

	*out = (struct tool_mount){0};
	r = tool_resolve(path ? path : ".", &abs);
	return r ? r : find(abs, exact, out);
}

int tool_mount_of(const char *path, struct tool_mount *out)
{
	return resolve_and_find(path, false, out);
}

int tool_mount_at(const char *path, struct tool_mount *out)
{
	return resolve_and_find(path, true, out);
}

int tool_mount_find(const char *path, struct tool_mount *out)
{
	const char *env = getenv("TXNFS_MOUNT");
	int r;

	if (!path && env && *env)
		path = env;
	r = tool_mount_of(path, out);
	if (!r)
		return 0;
	if (r != -ENODEV)
		tool_error("%s: %s", path ? path : "working directory", strerror(-r));
	else if (path)
		tool_error("%s: not in a txnfs mount; `txnfs mount SRC MNT` makes one", path);
	else
		tool_error("the working directory is not in a txnfs mount: name the mount point");
	return r;
}

char *tool_source(const char *path)
{
	struct tool_mount m;
	char *source;
	int r;

	r = tool_mount_at(path, &m);
	if (!r) {
		source = TAKE_PTR(m.source);
		tool_mount_free(&m);
		return source;
	}
	source = r == -ENODEV ? realpath(path, NULL) : NULL;
	if (!source)
		tool_error("%s: %s", path, strerror(r == -ENODEV ? errno : -r));
	return source;
}

int tool_mounts_each(int (*fn)(void *arg, const struct tool_mount *m), void *arg)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	CLEANUP_FREE char *line = NULL;
	size_t cap = 0;
	int r = 0;

	if (!f)
		return -errno;
	while (!r && getline(&line, &cap, f) > 0) {
		char *root = NULL, *point = NULL, *type = NULL, *source = NULL, *super = NULL;

		if (parse_line(line, &root, &point, &type, &source, &super) && !strcmp(type, FS_TYPE))
			r = fn(arg, &(struct tool_mount){source, point, !strcmp(root, "/"), mounter(super)});
	}
	fclose(f);
	return r;
}

static int is_source(void *arg, const struct tool_mount *m)
{
	return !strcmp(m->source, arg);
}

bool tool_source_mounted(const char *source)
{
	return tool_mounts_each(is_source, (void *)(uintptr_t)source) == 1;
}
