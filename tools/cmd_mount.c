/* cmd_mount.c - `txnfs mount`: checks what can be checked, then becomes the daemon. */
#include "fusefs/fusefs.h"
#include "tools/mount.h"
#include "tools/tools.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>

#define LOCK_TIMEOUT 5 /* seconds */
#define MAX_TRANSACTIONS 1000

#define LOCK_TRIES 100
#define LOCK_PAUSE_NS 100000000

struct report {
	struct tool_progress progress;
	bool verbose;
	bool serving; /* the terminal is the caller's again: no more lines */
	unsigned long redone, undone, in_doubt;
};

static void report_line(void *arg, const char *line)
{
	struct report *r = arg;

	if (r->serving)
		return;
	/* One step of recovery a line; transactions begin with one of these words. */
	r->redone += !strncmp(line, "redo: ", 6);
	r->undone += !strncmp(line, "undo: ", 6);
	r->in_doubt += !strncmp(line, "in doubt: ", 10);
	if (!r->verbose)
		return;
	tool_progress_end(&r->progress);
	puts(line);
}

static void report_summary(const struct report *r)
{
	if (r->redone || r->undone)
		printf("recovered: %lu transaction%s redone, %lu rolled back\n", r->redone, r->redone == 1 ? "" : "s",
		       r->undone);
	if (r->in_doubt)
		printf("in doubt: %lu prepared transaction%s; `txnfs prepared` lists, `txnfs resolve` decides\n", r->in_doubt,
		       r->in_doubt == 1 ? "" : "s");
	fflush(stdout);
}

static void report_progress(void *arg, unsigned long long done, unsigned long long total)
{
	struct report *r = arg;

	if (!r->serving)
		tool_progress(&r->progress, "recovering", done, total);
}

static int check_source(const char *given, char **source)
{
	struct stat st;

	*source = realpath(given, NULL);
	if (!*source && errno == ENOENT)
		tool_error("%s: the source directory does not exist; make it first (mkdir)", given);
	else if (!*source)
		tool_error("%s: %s", given, strerror(errno));
	else if (stat(*source, &st) < 0)
		tool_error("%s: %s", given, strerror(errno));
	else if (!S_ISDIR(st.st_mode))
		tool_error("%s: not a directory; txnfs mounts a directory", given);
	else
		return 0;
	return -1;
}

static bool is_empty(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *de;
	bool empty = true;

	if (!d)
		return true; /* mounting will tell */
	while (empty && (de = readdir(d)))
		empty = !strcmp(de->d_name, ".") || !strcmp(de->d_name, "..");
	closedir(d);
	return empty;
}

/* Is path the directory dir or below it? */
static bool below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return !strcmp(dir, "/") || (!strncmp(path, dir, n) && (!path[n] || path[n] == '/'));
}

static int check_point(const char *given, const char *source, bool nonempty, char **point)
{
	struct tool_mount m;
	struct stat st;

	if (!tool_mount_at(given, &m)) {
		if (stat(m.point, &st) < 0 && errno == ENOTCONN)
			tool_error("%s: still mounted from %s, but the daemon has ended; `txnfs umount %s`, then mount "
			           "again",
			           given, m.source, given);
		else
			tool_error("%s: already mounted, from %s", given, m.source);
		tool_mount_free(&m);
		return -1;
	}
	*point = realpath(given, NULL);
	if (!*point && errno == ENOENT)
		tool_error("%s: the mount point does not exist; make it first (mkdir)", given);
	else if (!*point)
		tool_error("%s: %s", given, strerror(errno));
	else if (stat(*point, &st) < 0)
		tool_error("%s: %s", given, strerror(errno));
	else if (!S_ISDIR(st.st_mode))
		tool_error("%s: the mount point is not a directory", given);
	else if (below(*point, source))
		tool_error("%s: the mount point lies in the source directory %s; choose one outside of it", given,
		           source);
	else if (!nonempty && !is_empty(*point))
		tool_error(
			"%s: the mount point is not empty; choose an empty one, or -o nonempty to hide what is there",
			given);
	else
		return 0;
	return -1;
}

static int check_fuse(void)
{
	const char *path = getenv("PATH");
	CLEANUP_FREE char *dirs = NULL;

	if (access("/dev/fuse", F_OK) < 0) {
		tool_error("/dev/fuse: %s; load the module (modprobe fuse) or give the container the device",
		           strerror(errno));
		return -1;
	}
	if (geteuid() == 0)
		return 0;
	if (access("/dev/fuse", R_OK | W_OK) < 0) {
		tool_error("/dev/fuse: %s; for users to mount, everyone must be able to open it (root: chmod 666 "
		           "/dev/fuse)",
		           strerror(errno));
		return -1;
	}
	dirs = strdup(path ? path : "/usr/bin:/bin");
	for (char *save, *dir = dirs ? strtok_r(dirs, ":", &save) : NULL; dir; dir = strtok_r(NULL, ":", &save)) {
		CLEANUP_FREE char *file = NULL;

		if (asprintf(&file, "%s/fusermount3", dir) > 0 && !access(file, X_OK))
			return 0;
	}
	tool_error("fusermount3 is not installed, and only root can mount without it: install the package fuse3");
	return -1;
}

static void raise_limits(void)
{
	struct rlimit lim, more = {1 << 20, 1 << 20};

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return;
	if (lim.rlim_max != RLIM_INFINITY && lim.rlim_max < more.rlim_max && !setrlimit(RLIMIT_NOFILE, &more))
		return;
	lim.rlim_cur = lim.rlim_max;
	setrlimit(RLIMIT_NOFILE, &lim);
}

static int null_stdio(void)
{
	CLEANUP_CLOSE int null = open("/dev/null", O_RDWR);

	if (null < 0)
		return -errno;
	fflush(stdout);
	for (int fd = 0; fd <= 2; fd++)
		if (dup2(null, fd) < 0)
			return -errno;
	if (null <= 2)
		(void)TAKE_FD(null);
	return 0;
}

/* Mount and serve. ready: pipe to tell a waiting parent, or -1 in the foreground. The process's exit status. */
static int serve(const struct fusefs_config *cfg, struct report *report, int ready)
{
	struct fusefs *fs;
	char err[1024] = "";
	int r, e;

	raise_limits();
	r = fusefs_new(cfg, &fs, err, sizeof(err));
	/* Unmounted, and the daemon still finishing: umount(8) does not wait for that. */
	for (int i = 0; r == -EBUSY && i < LOCK_TRIES && !tool_source_mounted(cfg->source); i++) {
		nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
		r = fusefs_new(cfg, &fs, err, sizeof(err));
	}
	tool_progress_end(&report->progress);
	if (r) {
		tool_error("%s", *err ? err : strerror(-r));
		return TOOL_FAILED;
	}
	report_summary(report);
	report->serving = ready >= 0;
	if (ready >= 0) {
		base_log_to_syslog("txnfs", false);
		r = null_stdio();
		if (!r && write(ready, "", 1) != 1)
			r = -errno;
		close(ready);
	}
	if (!r)
		r = fusefs_run(fs);
	if (r)
		base_log(LOG_ERR, "%s: serving ended: %s", cfg->mountpoint, strerror(-r));
	e = fusefs_free(fs);
	if (e)
		base_log(LOG_ERR, "%s: closing: %s; the next mount recovers", cfg->source, strerror(-e));
	return r || e ? TOOL_FAILED : TOOL_OK;
}

/* The parent's part: wait until the daemon is ready, and until the mount answers. */
static int wait_ready(int pipe_fd, pid_t child, const char *point)
{
	struct stat st;
	char byte;
	ssize_t n;
	int status;

	do
		n = read(pipe_fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1) {
		if (!stat(point, &st))
			return TOOL_OK;
		tool_error("%s: mounted, but it does not answer: %s; see the system log", point, strerror(errno));
		return TOOL_FAILED;
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		tool_error("the daemon was killed by signal %d (%s) before it was ready", WTERMSIG(status),
		           strsignal(WTERMSIG(status)));
	return TOOL_FAILED;
}

int mount_start(const struct mount_request *req)
{
	CLEANUP_FREE char *source = NULL, *point = NULL;
	struct report report = {.verbose = req->verbose};
	struct fusefs_config cfg = {
		.control = req->options.control,
		.fuse_options = req->options.fuse.n ? (char *)req->options.fuse.p : NULL,
		.debug = req->options.debug,
		.max_threads = req->options.max_threads,
		.checkpoint_mib = req->options.checkpoint_mib,
		.checkpoint_seconds = req->options.checkpoint_seconds,
		.lock_timeout = req->options.lock_timeout.given ? req->options.lock_timeout.value : LOCK_TIMEOUT,
		.idle_timeout = req->options.idle_timeout.value,
		.max_transactions = req->options.max_transactions ? req->options.max_transactions : MAX_TRANSACTIONS,
		.max_log_mib = req->options.max_log,
		.segment_mib = req->options.segment_mib,
		.report = report_line,
		.progress = report_progress,
		.arg = &report,
	};
	int fds[2];
	pid_t child;

	if (check_source(req->source, &source) || check_point(req->point, source, req->options.nonempty, &point) ||
	    check_fuse())
		return TOOL_FAILED;
	cfg.source = source;
	cfg.mountpoint = point;
	if (req->foreground)
		return serve(&cfg, &report, -1);

	if (pipe2(fds, O_CLOEXEC) < 0) {
		tool_error("%s", strerror(errno));
		return TOOL_FAILED;
	}
	fflush(stdout);
	child = fork();
	if (child < 0) {
		tool_error("cannot start the daemon: %s", strerror(errno));
		close(fds[0]);
		close(fds[1]);
		return TOOL_FAILED;
	}
	if (child) {
		CLEANUP_CLOSE int wait_fd = fds[0];

		close(fds[1]);
		return wait_ready(wait_fd, child, point);
	}
	setsid();
	/* What the caller has open would stay open for as long as the mount lives. */
	if (dup3(fds[1], 3, O_CLOEXEC) == 3 || fds[1] == 3)
		fds[1] = 3;
	if (fds[1] == 3)
		close_range(4, ~0u, 0);
	/* Hold no directory of the caller's busy. */
	if (chdir("/") < 0)
		base_log(LOG_WARNING, "chdir: %s", strerror(errno));
	return serve(&cfg, &report, fds[1]);
}

struct args {
	struct mount_request req;
	const char *options;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'f':
		a->req.foreground = true;
		return 0;
	case 'v':
		a->req.verbose = true;
		return 0;
	case 'o': {
		char err[256];

		if (mount_options_parse(&a->req.options, arg, MOUNT_STRICT, err, sizeof(err)))
			argp_error(state, "%s", err);
		return 0;
	}
	case ARGP_KEY_ARG:
		if (!a->req.source)
			a->req.source = arg;
		else if (!a->req.point)
			a->req.point = arg;
		else
			return ARGP_ERR_UNKNOWN;
		return 0;
	case ARGP_KEY_END:
		if (!a->req.point)
			argp_error(state, "SRC and MNT are needed: the directory to mount, and where");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_mount(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"foreground", 'f', NULL, 0, "Stay in the foreground; messages go to standard error", 0},
		{"options", 'o', "OPTIONS", 0, "Comma-separated mount options, see below", 0},
		{"verbose", 'v', NULL, 0, "Print each step of recovery", 0},
		{0},
	};
	static const char doc[] =
		"Mount the directory SRC at MNT. Returns when the mount is ready; if the last mount of SRC did not end "
		"cleanly, recovers first and tells what was redone and rolled back.\v" MOUNT_OPTIONS_HELP;
	static const struct argp argp = {options, parse, "SRC MNT", doc, NULL, NULL, NULL};
	struct args a = {0};
	int status;

	tool_parse(&argp, argc, argv, 0, &a);
	status = mount_start(&a.req);
	mount_options_free(&a.req.options);
	return status;
}

int mount_helper(int argc, char **argv)
{
	struct mount_request req = {0};
	char err[256];
	bool fake = false, sloppy = false;
	const char *opts[16];
	size_t n = 0;
	int c;

	/* mount(8) puts SRC and MNT first and options behind; getopt moves them. */
	while ((c = getopt(argc, argv, "sfnvo:t:N:V")) != -1) {
		switch (c) {
		case 's':
			sloppy = true;
			break;
		case 'f':
			fake = true;
			break;
		case 'v':
			req.verbose = true;
			break;
		case 'o':
			if (n == ARRAY_LEN(opts)) {
				tool_error("too many -o options");
				return TOOL_HELPER_FAILED;
			}
			opts[n++] = optarg;
			break;
		case 'V':
			puts(argp_program_version);
			return TOOL_OK;
		case 'n':
		case 't':
		case 'N':
			break;
		default:
			return TOOL_HELPER_FAILED;
		}
	}
	if (argc - optind != 2) {
		tool_error("usage: mount.fuse.txnfs SRC MNT [-sfnv] [-o OPTIONS]");
		return TOOL_HELPER_FAILED;
	}
	req.source = argv[optind];
	req.point = argv[optind + 1];
	for (size_t i = 0; i < n; i++) {
		if (mount_options_parse(&req.options, opts[i], sloppy ? MOUNT_SLOPPY : MOUNT_FSTAB, err, sizeof(err))) {
			tool_error("%s", err);
			mount_options_free(&req.options);
			return TOOL_HELPER_FAILED;
		}
	}
	c = fake ? TOOL_OK : mount_start(&req);
	mount_options_free(&req.options);
	return c ? TOOL_HELPER_FAILED : TOOL_OK;
}
