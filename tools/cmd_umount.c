/* cmd_umount.c - `txnfs umount`: unmount, and return when the daemon has written everything and gone. */
#include "tools/tools.h"
#include "txn/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/wait.h>

#define MAX_HOLDERS 8

struct args {
	const char *point;
	bool lazy;
	unsigned wait;
};

/* Does the link /proc/PID/NAME lead below the mount point? */
static bool link_inside(int proc, const char *link, const char *point)
{
	char target[PATH_MAX];
	size_t len = strlen(point);
	ssize_t n = readlinkat(proc, link, target, sizeof(target) - 1);

	if (n < (ssize_t)len)
		return false;
	target[n] = 0;
	return !strncmp(target, point, len) && (target[len] == '/' || !target[len]);
}

static const char *what_it_holds(int proc, const char *pid, const char *point)
{
	static const char *const links[][2] = {
		{"cwd", "working directory"}, {"root", "root directory"}, {"exe", "program"}};
	char path[300];
	struct dirent *de;
	bool found = false;
	DIR *d;
	int fd;

	for (size_t i = 0; i < ARRAY_LEN(links); i++) {
		snprintf(path, sizeof(path), "%s/%s", pid, links[i][0]);
		if (link_inside(proc, path, point))
			return links[i][1];
	}
	snprintf(path, sizeof(path), "%s/fd", pid);
	fd = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fd >= 0 ? fdopendir(fd) : NULL;
	if (!d) {
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	while (!found && (de = readdir(d)))
		found = link_inside(fd, de->d_name, point);
	closedir(d);
	return found ? "open file" : NULL;
}

static void list_holders(const char *point)
{
	DIR *d = opendir("/proc");
	struct dirent *de;
	unsigned n = 0;

	while (d && n < MAX_HOLDERS && (de = readdir(d))) {
		char path[300], comm[32] = "?";
		const char *what;
		FILE *f;

		if (de->d_name[0] < '0' || de->d_name[0] > '9')
			continue;
		what = what_it_holds(dirfd(d), de->d_name, point);
		if (!what)
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", de->d_name);
		f = fopen(path, "re");
		if (f && fgets(comm, sizeof(comm), f))
			comm[strcspn(comm, "\n")] = 0;
		if (f)
			fclose(f);
		fprintf(stderr, "  process %s (%s): %s\n", de->d_name, comm, what);
		n++;
	}
	if (d)
		closedir(d);
}

/* fusermount3 -u, for those who are not root. Its complaint goes to err. */
static int fusermount(const char *point, bool lazy, char *err, size_t errlen)
{
	int fds[2], status;
	size_t n = 0;
	ssize_t got;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (!pid) {
		dup2(fds[1], STDERR_FILENO);
		execlp("fusermount3", "fusermount3", lazy ? "-uz" : "-u", "--", point, (char *)NULL);
		dprintf(STDERR_FILENO, "fusermount3: %s", strerror(errno));
		_exit(127);
	}
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return -errno;
	}
	while (n + 1 < errlen && (got = read(fds[0], err + n, errlen - 1 - n)) != 0) {
		if (got > 0)
			n += (size_t)got;
		else if (errno != EINTR)
			break;
	}
	close(fds[0]);
	err[n] = 0;
	err[strcspn(err, "\n")] = 0;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	return strstr(err, strerror(EBUSY)) ? -EBUSY : -EPERM;
}

static int detach(const struct tool_mount *m, bool lazy)
{
	char err[512] = "";
	int r;

	if (geteuid() == 0)
		r = umount2(m->point, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) < 0 ? -errno : 0;
	else
		r = fusermount(m->point, lazy, err, sizeof(err));
	if (!r)
		return TOOL_OK;
	if (r == -EBUSY) {
		tool_error("%s: in use; end what uses it, or detach it with `txnfs umount -l %s`", m->point, m->point);
		list_holders(m->point);
	} else {
		tool_error("%s: cannot unmount: %s", m->point, *err ? err : strerror(-r));
	}
	return TOOL_FAILED;
}

/* The daemon holds the state directory's lock until it has checkpointed. */
static int wait_for_daemon(const struct tool_mount *m, unsigned seconds)
{
	CLEANUP_FREE char *path = NULL;
	CLEANUP_CLOSE int fd = -1;
	const struct timespec pause = {0, 5000000};
	struct timespec now, began;
	bool told = false;

	if (asprintf(&path, "%s/%s/lock", m->source, STORE_STATE_DIR) < 0) {
		path = NULL;
		return TOOL_FAILED;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) /* the source is gone or out of reach: nothing to wait for */
		return TOOL_OK;
	clock_gettime(CLOCK_MONOTONIC, &began);
	for (;;) {
		if (!flock(fd, LOCK_SH | LOCK_NB) || errno != EWOULDBLOCK)
			return TOOL_OK;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - began.tv_sec >= seconds)
			break;
		if (!told && now.tv_sec - began.tv_sec >= 3 && isatty(STDERR_FILENO)) {
			fprintf(stderr, "txnfs: %s: unmounted; waiting for the last changes to be written ...\n",
			        m->point);
			told = true;
		}
		nanosleep(&pause, NULL);
	}
	tool_error("%s: unmounted, but after %u s the daemon still writes to %s; wait for it (--wait), or see the "
	           "system log; a command of `txnfs run` that still runs keeps it alive too",
	           m->point, seconds, m->source);
	return TOOL_FAILED;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'l':
		a->lazy = true;
		return 0;
	case 'w':
		a->wait = (unsigned)tool_number(state, "--wait", arg, 0, 1000000);
		return 0;
	case ARGP_KEY_ARG:
		if (a->point)
			return ARGP_ERR_UNKNOWN;
		a->point = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->point)
			argp_error(state, "the mount point is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_umount(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"lazy", 'l', NULL, 0, "Detach now although it is in use; do not wait for the daemon", 0},
		{"wait", 'w', "SECONDS", 0, "Wait this long for the daemon to finish (default 300)", 0},
		{0},
	};
	static const struct argp argp = {options,
	                                 parse,
	                                 "MNT",
	                                 "Unmount MNT, and return when everything that was committed is written to the "
	                                 "source directory. Open transactions are rolled back.",
	                                 NULL,
	                                 NULL,
	                                 NULL};
	struct args a = {.wait = 300};
	struct tool_mount m;
	int r;

	tool_parse(&argp, argc, argv, 0, &a);
	r = tool_mount_at(a.point, &m);
	if (r) {
		tool_error("%s: %s", a.point, r == -ENODEV ? "not a txnfs mount" : strerror(-r));
		return TOOL_FAILED;
	}
	r = detach(&m, a.lazy);
	if (!r && !a.lazy)
		r = wait_for_daemon(&m, a.wait);
	tool_mount_free(&m);
	return r;
}
