/* run_child.c - `txnfs run`: the command's process, and waiting for it. */
#include "tools/run.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static const int ending_signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};

static void give_up(int report, enum run_stage stage, const char *what)
{
	struct run_failure f = {.stage = stage, .err = errno};

	snprintf(f.what, sizeof(f.what), "%s", what);
	if (write(report, &f, sizeof(f)) != (ssize_t)sizeof(f))
		_exit(TOOL_RUN_FAILED);
	_exit(stage == RUN_EXEC && f.err == ENOENT ? TOOL_RUN_NOT_FOUND : TOOL_RUN_NOT_RUNNABLE);
}

static int write_file(const char *path, const char *text)
{
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	return write(fd, text, strlen(text)) < 0 ? -1 : 0;
}

static void enter_namespace(int report)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	char map[64];

	if (!unshare(CLONE_NEWNS))
		return;
	if (errno != EPERM || unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		give_up(report, RUN_NAMESPACE, "unshare");
	/* Only one's own ids can be mapped without privilege; setgroups must be given up for it. */
	if (write_file("/proc/self/setgroups", "deny") < 0)
		give_up(report, RUN_NAMESPACE, "/proc/self/setgroups");
	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	if (write_file("/proc/self/uid_map", map) < 0)
		give_up(report, RUN_NAMESPACE, "/proc/self/uid_map");
	snprintf(map, sizeof(map), "%u %u 1", gid, gid);
	if (write_file("/proc/self/gid_map", map) < 0)
		give_up(report, RUN_NAMESPACE, "/proc/self/gid_map");
}

/* An outer mount before those inside it, which its view would hide. */
static int by_depth(const void *a, const void *b)
{
	size_t x = strlen((*(const struct run_mount *const *)a)->mount.point),
	       y = strlen((*(const struct run_mount *const *)b)->mount.point);

	return (x > y) - (x < y);
}

static void bind_views(const struct run *run, int report)
{
	const struct run_mount **order = calloc(run->n, sizeof(*order));
	int *roots = calloc(run->n, sizeof(*roots));

	if (!order || !roots)
		give_up(report, RUN_NAMESPACE, "calloc");
	/* Without this the bind would show up in every other namespace. "/" is no mount point in a chroot: then the
	 * mounts themselves are enough, since that is where the binds hang. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) {
		if (errno != EINVAL)
			give_up(report, RUN_NAMESPACE, "mount --make-rslave");
		for (size_t i = 0; i < run->n; i++)
			if (mount(NULL, run->mounts[i].mount.point, NULL, MS_REC | MS_SLAVE, NULL) < 0)
				give_up(report, RUN_NAMESPACE, "mount --make-rslave");
	}
	for (size_t i = 0; i < run->n; i++)
		order[i] = &run->mounts[i];
	qsort(order, run->n, sizeof(*order), by_depth);
	/* All are opened before the first is bound, which may cover the others' paths. */
	for (size_t i = 0; i < run->n; i++) {
		CLEANUP_FREE char *root = NULL;

		if (asprintf(&root, "%s/root", order[i]->dir) < 0) {
			root = NULL;
			errno = ENOMEM;
			give_up(report, RUN_NAMESPACE, "asprintf");
		}
		roots[i] = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (roots[i] < 0)
			give_up(report, RUN_NAMESPACE, "open");
	}
	for (size_t i = 0; i < run->n; i++) {
		char root[32];

		snprintf(root, sizeof(root), "/proc/self/fd/%d", roots[i]);
		if (mount(root, order[i]->mount.point, NULL, MS_BIND, NULL) < 0)
			give_up(report, RUN_NAMESPACE, "mount --bind");
		close(roots[i]);
	}
	free(order);
	free(roots);
	if (run->cwd && chdir(run->cwd) < 0)
		give_up(report, RUN_CWD, "chdir");
}

/* TXNFS_MOUNT is the first one; TXNFS_MOUNTS has them all, a line each. */
static void set_environment(const struct run *run)
{
	struct base_buf b = {0};

	for (size_t i = 0; i < run->n; i++)
		base_buf_printf(&b, "%s%s", i ? "\n" : "", run->mounts[i].mount.point);
	setenv("TXNFS_TXN", run->name, 1);
	setenv("TXNFS_MOUNT", run->mounts[0].mount.point, 1);
	if (run->n > 1 && !b.err)
		setenv("TXNFS_MOUNTS", (char *)b.p, 1);
	else
		unsetenv("TXNFS_MOUNTS"); /* an outer run's */
	if (run->postgres) {
		setenv("TXNFS_POSTGRES", run->postgres, 1);
		setenv("TXNFS_POSTGRES_GID", run->gid, 1);
	} else {
		unsetenv("TXNFS_POSTGRES");
		unsetenv("TXNFS_POSTGRES_GID");
	}
	base_buf_free(&b);
}

static void child(const struct run *run, int report, pid_t parent)
{
	bool named = run->mounts[0].dir != NULL;

	if (run->own_group)
		setpgid(0, 0);
	if (named) {
		enter_namespace(report);
		bind_views(run, report);
	}
	/*
	 * After unshare, which may clear it. In its namespace a command that goes on after the rollback can change
	 * nothing. One that was a member could, outside of any transaction: it has no time to.
	 */
	prctl(PR_SET_PDEATHSIG, named ? SIGTERM : SIGKILL);
	if (getppid() != parent)
		_exit(TOOL_RUN_FAILED);
	set_environment(run);
	sigprocmask(SIG_SETMASK, &run->old_mask, NULL);
	execvp(run->cmd[0], run->cmd);
	give_up(report, RUN_EXEC, "exec");
}

/* ---- the parent ---- */

int run_start(const struct run *run, pid_t *pid, struct run_failure *f, int *status)
{
	pid_t self = getpid();
	int fds[2];
	ssize_t n;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	fflush(stdout);
	*pid = fork();
	if (*pid < 0) {
		int err = errno;

		close(fds[0]);
		close(fds[1]);
		return -err;
	}
	if (!*pid) {
		close(fds[0]);
		child(run, fds[1], self);
	}
	close(fds[1]);
	do
		n = read(fds[0], f, sizeof(*f));
	while (n < 0 && errno == EINTR);
	close(fds[0]);
	if (n != (ssize_t)sizeof(*f))
		return 0;
	while (waitpid(*pid, status, 0) < 0 && errno == EINTR)
		;
	return 1;
}

int run_supervise(const struct run *run, pid_t pid, int *status)
{
	const struct timespec none = {0, 0};
	sigset_t set = run->ending;
	int caught = 0, sig;
	siginfo_t si;

	sigaddset(&set, SIGCHLD);
	for (;;) {
		pid_t got;

		/* Orphans among the others, see begin_ambient. */
		while ((got = waitpid(-1, status, WNOHANG)) > 0 && got != pid)
			;
		if (got == pid || (got < 0 && errno != EINTR))
			break;
		sig = sigwaitinfo(&set, &si);
		if (sig <= 0 || sig == SIGCHLD)
			continue;
		if (!caught)
			caught = sig;
		/* What the terminal sends, it has sent to the command already, unless that has its own group. */
		if (run->own_group)
			kill(-pid, sig);
		else if (si.si_code <= 0)
			kill(pid, sig);
	}
	/* One that came together with the command's end counts as well. */
	while ((sig = sigtimedwait(&run->ending, &si, &none)) > 0)
		if (!caught)
			caught = sig;
	return caught;
}

void run_block_signals(struct run *run)
{
	struct sigaction sa;
	sigset_t set;

	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&run->ending);
	for (size_t i = 0; i < ARRAY_LEN(ending_signals); i++)
		/* nohup, or a shell's `&`: what was ignored stays ignored. */
		if (!sigaction(ending_signals[i], NULL, &sa) && sa.sa_handler != SIG_IGN)
			sigaddset(&run->ending, ending_signals[i]);
	set = run->ending;
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, &run->old_mask);
}
