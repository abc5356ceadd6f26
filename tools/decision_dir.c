/* decision_dir.c - where the decision log is: its directory, made durably, and what tells it from a copy. */
#include "tools/decision.h"
#include "tools/tools.h"

#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

char *decision_log_default(void)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	const struct passwd *pw;
	char *path;
	int n;

	if (!geteuid()) /* one for all of root's runs, whatever environment they come from */
		return strdup("/var/lib/txnfs");
	if (state && *state == '/')
		return asprintf(&path, "%s/txnfs", state) < 0 ? NULL : path;
	if (!home || *home != '/') {
		pw = getpwuid(geteuid());
		home = pw ? pw->pw_dir : NULL;
	}
	if (!home || *home != '/')
		return NULL;
	n = asprintf(&path, "%s/.local/state/txnfs", home);
	return n < 0 ? NULL : path;
}

char *decision_log_place(const char *path)
{
	CLEANUP_FREE char *copy = path ? strdup(path) : decision_log_default();
	char *real = NULL;

	while (copy && !(real = realpath(copy, NULL)) && errno == ENOENT) {
		char *slash = strrchr(copy, '/');

		if (!strcmp(copy, ".") || (slash == copy && !slash[1]))
			break;
		strcpy(slash == copy ? copy + 1 : slash ? slash : copy, slash ? "" : ".");
	}
	return real;
}

/* mkdir -p. */
static int make_dirs(char *path)
{
	char *slash = strrchr(path, '/');
	int r;

	if (!mkdir(path, 0700) || errno == EEXIST)
		return 0;
	if (errno != ENOENT || !slash || slash == path)
		return -errno;
	*slash = 0;
	r = make_dirs(path);
	*slash = '/';
	return r ? r : mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

/* A directory whose name is lost in a power cut takes the decisions with it. Whoever made them may have died before
 * this. */
static int sync_parents(const char *path)
{
	CLEANUP_FREE char *real = realpath(path, NULL);
	char *slash;

	if (!real)
		return -errno;
	while ((slash = strrchr(real, '/')) && real[1]) {
		CLEANUP_CLOSE int fd = -1;

		slash[slash == real] = 0; /* the root keeps its slash */
		fd = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 && errno == EACCES)
			continue; /* so this user has not made anything in it */
		if (fd < 0 || fsync(fd) < 0)
			return -errno;
	}
	return 0;
}

/* Inode and time of birth: copying and restoring give new ones, a move does not. */
static int place_of(int dir, char *place, size_t size)
{
	struct statx sx;

	if (statx(dir, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &sx) < 0)
		return -errno;
	if (!(sx.stx_mask & STATX_BTIME))
		sx.stx_btime = (struct statx_timestamp){0};
	snprintf(place, size, "%llu %lld.%09u", (unsigned long long)sx.stx_ino, (long long)sx.stx_btime.tv_sec,
	         sx.stx_btime.tv_nsec);
	return 0;
}

/* May what is in there be believed? */
static int check_dir(const struct decision_log *log, char *err, size_t errlen)
{
	struct stat st;
	int r = fstat(log->dir, &st) < 0 ? -errno : 0;

	if (r) {
		snprintf(err, errlen, "%s: %s", log->path, strerror(-r));
	} else if (st.st_uid != geteuid()) {
		r = -EACCES;
		snprintf(err, errlen,
		         "%s belongs to user %u: a decision log is for the runs of its owner alone; --log DIR names "
		         "another",
		         log->path, (unsigned)st.st_uid);
	} else if (st.st_mode & 022) {
		r = -EACCES;
		snprintf(err, errlen, "%s can be written to by others, who could forge decisions; `chmod go-w %s`",
		         log->path, log->path);
	}
	return r;
}

static int open_dir(struct decision_log *log, bool create, char *err, size_t errlen)
{
	char place[64];
	int r = 0;

	if (create) {
		CLEANUP_FREE char *copy = strdup(log->path);

		r = copy ? make_dirs(copy) : -ENOMEM;
	}
	if (!r) {
		log->dir = open(log->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		r = log->dir < 0 ? -errno : 0;
	}
	if (r == -ENOENT && !create)
		return r;
	if (r) {
		snprintf(err, errlen, "decision log %s: %s", log->path, strerror(-r));
		return r;
	}
	r = check_dir(log, err, errlen);
	if (r)
		return r;
	r = place_of(log->dir, place, sizeof(place));
	if (!r && flock(log->dir, LOCK_EX) < 0) /* two may be making it at once */
		r = -errno;
	if (r) {
		snprintf(err, errlen, "decision log %s: %s", log->path, strerror(-r));
		return r;
	}
	if (create && faccessat(log->dir, "log", F_OK, 0) < 0 && (r = sync_parents(log->path)))
		snprintf(err, errlen, "decision log %s: %s", log->path, strerror(-r));
	if (!r)
		r = decision_log_init(log, place, create, err, errlen);
	flock(log->dir, LOCK_UN);
	return r;
}

int decision_log_open(const char *path, bool create, struct decision_log *log, char *err, size_t errlen)
{
	CLEANUP_FREE char *given = path ? strdup(path) : decision_log_default();
	CLEANUP_FREE char *real = NULL;
	struct tool_mount m = {0};
	size_t n = given ? strlen(given) : 0;
	int r;

	*log = (struct decision_log){.os = os_real(), .dir = -1, .locks = true};
	*err = 0;
	while (n > 1 && given[n - 1] == '/')
		given[--n] = 0;
	if (!n) {
		snprintf(err, errlen, "there is no home directory for a decision log: name one with --log DIR");
		return -ENOTDIR;
	}
	log->path = TAKE_PTR(given);
	real = decision_log_place(log->path);
	if (real && !tool_mount_of(real, &m)) {
		/* Somebody's transaction could swallow the decision, and fsync in it says nothing. */
		snprintf(err, errlen,
		         "%s lies in the txnfs mount %s, and a decision log must not: --log DIR names another place",
		         log->path, m.point);
		tool_mount_free(&m);
		decision_log_close(log);
		return -EINVAL;
	}
	r = open_dir(log, create, err, errlen);
	if (r)
		decision_log_close(log);
	return r;
}

void decision_log_close(struct decision_log *log)
{
	if (log->dir >= 0 && log->locks)
		close(log->dir);
	free(log->path);
	*log = (struct decision_log){.dir = -1};
}
