/*
 * cmd_run.c - `txnfs run`: a command in a transaction of its own.
 *
 * The transaction is a named one, whose root is bound over the mount point in a mount namespace that only the command
 * and its descendants have. Its control file is opened before and stays with this process, which is named as the
 * owner: when it dies, the daemon rolls back. Where namespaces are not allowed, this process begins an ambient
 * transaction instead, of which its children are members.
 */
#include "tools/review.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

struct run {
	const char *point; /* as given */
	const char *name_given, *control, *isolation;
	bool ambient, verbose, ask;
	char **cmd;

	struct tool_mount mount;
	char *name; /* the transaction's */
	char *dir;  /* MNT/.txn/NAME; NULL: ambient */
	char *cwd;  /* to go back to inside the view; NULL: it lies elsewhere */
	int ctl;
	bool own_group;  /* the command has a process group of its own */
	sigset_t ending; /* signals that end the run and were not ignored when it began */
	sigset_t old_mask;
	struct tool_review review;
};

/* How far a child came before it failed. */
enum stage { STAGE_NAMESPACE, STAGE_CWD, STAGE_EXEC };
struct failure {
	enum stage stage;
	int err;
	char what[64];
};

static const int ending_signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/* ---- the child ---- */

static void give_up(int report, enum stage stage, const char *what)
{
	struct failure f = {.stage = stage, .err = errno};

	snprintf(f.what, sizeof(f.what), "%s", what);
	if (write(report, &f, sizeof(f)) != (ssize_t)sizeof(f))
		_exit(TOOL_RUN_FAILED);
	_exit(stage == STAGE_EXEC && f.err == ENOENT ? TOOL_RUN_NOT_FOUND : TOOL_RUN_NOT_RUNNABLE);
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
		give_up(report, STAGE_NAMESPACE, "unshare");
	/* Only one's own ids can be mapped without privilege; setgroups must be given up for it. */
	if (write_file("/proc/self/setgroups", "deny") < 0)
		give_up(report, STAGE_NAMESPACE, "/proc/self/setgroups");
	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	if (write_file("/proc/self/uid_map", map) < 0)
		give_up(report, STAGE_NAMESPACE, "/proc/self/uid_map");
	snprintf(map, sizeof(map), "%u %u 1", gid, gid);
	if (write_file("/proc/self/gid_map", map) < 0)
		give_up(report, STAGE_NAMESPACE, "/proc/self/gid_map");
}

static void bind_view(const struct run *run, int report)
{
	CLEANUP_FREE char *root = NULL;

	/* Without this the bind would show up in every other namespace. "/" is no mount point in a chroot: then the
	 * mount itself is enough, since that is where the bind hangs. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 &&
	    (errno != EINVAL || mount(NULL, run->mount.point, NULL, MS_REC | MS_SLAVE, NULL) < 0))
		give_up(report, STAGE_NAMESPACE, "mount --make-rslave");
	if (asprintf(&root, "%s/root", run->dir) < 0) {
		root = NULL;
		errno = ENOMEM;
		give_up(report, STAGE_NAMESPACE, "asprintf");
	}
	if (mount(root, run->mount.point, NULL, MS_BIND, NULL) < 0)
		give_up(report, STAGE_NAMESPACE, "mount --bind");
	if (run->cwd && chdir(run->cwd) < 0)
		give_up(report, STAGE_CWD, "chdir");
}

static void child(const struct run *run, int report, pid_t parent)
{
	if (run->own_group)
		setpgid(0, 0);
	if (run->dir) {
		enter_namespace(report);
		bind_view(run, report);
	}
	/*
	 * After unshare, which may clear it. In its namespace a command that goes on after the rollback can change
	 * nothing. One that was a member could, outside of any transaction: it has no time to.
	 */
	prctl(PR_SET_PDEATHSIG, run->dir ? SIGTERM : SIGKILL);
	if (getppid() != parent)
		_exit(TOOL_RUN_FAILED);
	setenv("TXNFS_TXN", run->name, 1);
	setenv("TXNFS_MOUNT", run->mount.point, 1);
	sigprocmask(SIG_SETMASK, &run->old_mask, NULL);
	execvp(run->cmd[0], run->cmd);
	give_up(report, STAGE_EXEC, "exec");
}

/* ---- the parent ---- */

/* Start the command. 0: it runs. 1: it does not, *f says why, and *status how the child ended. -errno: no child. */
static int start(const struct run *run, pid_t *pid, struct failure *f, int *status)
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

/* Wait for the command, passing on the signals that end a run. The first of them, or 0. */
static int supervise(const struct run *run, pid_t pid, int *status)
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

static void block_signals(struct run *run)
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

static bool has_terminal(void)
{
	CLEANUP_CLOSE int fd = open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC);

	return fd >= 0;
}

static int make_name(struct run *run)
{
	if (run->name_given)
		run->name = strdup(run->name_given);
	else if (asprintf(&run->name, "run-%d-%08x", getpid(), (unsigned)base_random_u64()) < 0)
		run->name = NULL;
	return run->name ? 0 : -ENOMEM;
}

static int command(const struct run *run, const char *text, const char *doing)
{
	CLEANUP_FREE char *answer = NULL;
	int r = tool_ctl_command(run->ctl, text, &answer);

	if (r == -EALREADY)
		tool_error("%s: already inside a transaction: use `txnfs savepoint` in it", run->point);
	else if (r == -ENOTCONN && !answer)
		tool_error(
			"%s: %s: the filesystem's daemon has ended; unless its log says otherwise (txnfs log %s), the "
			"transaction is rolled back",
			run->point, doing, run->mount.source);
	else if (r)
		tool_error("%s: %s: %s", run->point, doing, answer ? answer : strerror(-r));
	return r;
}

/* Does the caller belong to a transaction already? The control file's second line tells. Negative: said why not. */
static int in_ambient(const struct run *run)
{
	CLEANUP_CLOSE int fd = tool_ctl_open(&run->mount, run->control, NULL);
	char text[4096], *line;
	ssize_t n;

	if (fd < 0)
		return -ENOENT;
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return 0; /* mkdir will tell what is wrong */
	text[n] = '\0';
	line = strchr(text, '\n');
	return line && !strncmp(line + 1, "transaction ", strlen("transaction "));
}

static int begin_named(struct run *run)
{
	char text[128];
	int r;

	if (asprintf(&run->dir, "%s/%s/%s", run->mount.point, run->control, run->name) < 0) {
		run->dir = NULL;
		tool_error("%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	r = in_ambient(run);
	if (r > 0)
		tool_error("%s: already inside a transaction: use `txnfs savepoint` in it", run->point);
	if (r)
		return r < 0 ? r : -EALREADY;
	if (mkdir(run->dir, 0700) < 0) {
		r = -errno;
		/* A transaction's view has a control directory too, in which no transactions are made. */
		if (r == -EALREADY || r == -EPERM)
			tool_error("%s: already inside a transaction: use `txnfs savepoint` in it", run->point);
		else if (r == -EEXIST)
			tool_error("%s: there is a transaction named \"%s\" already", run->point, run->name);
		else if (r == -ENOENT)
			tool_error("%s: there is no control directory %s; when it was mounted with -o control=NAME, "
			           "say --control NAME",
			           run->point, run->control);
		else if (r == -ENOTCONN)
			tool_error("%s: the filesystem's daemon has ended; `txnfs umount %s` and mount it again",
			           run->point, run->point);
		else
			tool_error("%s: cannot begin transaction \"%s\": %s", run->point, run->name, strerror(-r));
		return r;
	}
	run->ctl = tool_ctl_open(&run->mount, run->control, run->name);
	if (run->ctl < 0) {
		rmdir(run->dir);
		return -EIO;
	}
	snprintf(text, sizeof(text), "owner %d%s%s\n", getpid(), run->isolation ? " isolation " : "",
	         run->isolation ? run->isolation : "");
	r = command(run, text, "begin");
	if (r)
		rmdir(run->dir);
	return r;
}

static int begin_ambient(struct run *run)
{
	struct base_buf b = {0};
	int r;

	/* Who leaves the tree of processes is given to this one, and stays a member. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	run->ctl = tool_ctl_open(&run->mount, run->control, NULL);
	if (run->ctl < 0)
		return -EIO;
	base_buf_printf(&b, "begin ");
	tool_ctl_quote(&b, run->name);
	if (run->isolation)
		base_buf_printf(&b, " isolation %s", run->isolation); /* says what is wrong with that, if anything is */
	base_buf_put(&b, "\n", 2);
	r = b.err;
	if (!r)
		r = command(run, (char *)b.p, "begin");
	base_buf_free(&b);
	return r;
}

/* Give the named transaction up for an ambient one. */
static int fall_back(struct run *run, const struct failure *f)
{
	if (run->verbose)
		tool_error("no private namespace here (%s: %s): using an ambient transaction", f->what,
		           strerror(f->err));
	close(run->ctl);
	run->ctl = -1;
	rmdir(run->dir);
	free(TAKE_PTR(run->dir));
	return begin_ambient(run);
}

/* Outcome of a command that could not be started; the exit status. */
static int not_started(const struct run *run, const struct failure *f)
{
	if (f->stage == STAGE_EXEC) {
		tool_error("%s: %s", run->cmd[0], strerror(f->err));
		return f->err == ENOENT ? TOOL_RUN_NOT_FOUND : TOOL_RUN_NOT_RUNNABLE;
	}
	tool_error("%s: %s", f->stage == STAGE_CWD ? run->cwd : f->what, strerror(f->err));
	return TOOL_RUN_FAILED;
}

/* For --review: a command in the view, at the mount point if the run began elsewhere. */
static int spawn_in_view(void *arg, char **argv, pid_t *pid)
{
	struct run run = *(const struct run *)arg;
	struct failure f;
	int status, r;

	run.cmd = argv;
	run.cwd = run.cwd ? run.cwd : run.mount.point;
	r = start(&run, pid, &f, &status);
	if (r < 0)
		tool_error("cannot start %s: %s", argv[0], strerror(-r));
	return r == 1 ? not_started(&run, &f) : r;
}

/* Show and ask; 0: commit, else the status to end with. */
static int review(struct run *run)
{
	run->review.mount = &run->mount;
	run->review.control = run->control;
	run->review.txn = run->dir ? run->name : NULL;
	run->review.ending = run->ending;
	run->review.old_mask = run->old_mask;
	run->review.spawn = spawn_in_view;
	run->review.arg = run;
	return tool_review(&run->review);
}

/* With --review only what was looked at: processes that the command has left behind may go on changing it. */
static int commit(struct run *run, int *code)
{
	char text[64] = "commit\n";
	int r;

	do {
		if (run->ask) {
			*code = review(run);
			if (*code)
				return 0;
			snprintf(text, sizeof(text), "commit version %llu\n", run->review.version);
		}
		r = command(run, text, "commit failed");
	} while (run->ask && r == -EAGAIN);
	return r;
}

static int finish(struct run *run, int status, int caught)
{
	int code, r;

	if (caught)
		code = 128 + caught;
	else if (WIFSIGNALED(status))
		code = 128 + WTERMSIG(status);
	else
		code = WEXITSTATUS(status);
	r = code ? 0 : commit(run, &code);
	if (code) {
		command(run, "rollback\n", "rollback");
		if (run->verbose || run->ask)
			tool_error("%s: rolled back (status %d)", run->name, code);
		return code;
	}
	if (r) {
		CLEANUP_FREE char *answer = NULL;

		tool_ctl_command(run->ctl, "rollback\n", &answer);
		return TOOL_RUN_FAILED;
	}
	if (run->verbose || run->ask)
		tool_error("%s: committed", run->name);
	return TOOL_OK;
}

static int run_in_transaction(struct run *run)
{
	struct failure f;
	int status = 0, caught, r;
	pid_t pid;

	block_signals(run);
	run->own_group = !has_terminal();
	r = run->ambient ? begin_ambient(run) : begin_named(run);
	if (r)
		return TOOL_RUN_FAILED;
	r = start(run, &pid, &f, &status);
	if (r == 1 && f.stage == STAGE_NAMESPACE) {
		if (fall_back(run, &f))
			return TOOL_RUN_FAILED;
		r = start(run, &pid, &f, &status);
	}
	if (r) {
		CLEANUP_FREE char *answer = NULL;

		tool_ctl_command(run->ctl, "rollback\n", &answer);
		if (r == 1)
			return not_started(run, &f);
		tool_error("cannot start %s: %s", run->cmd[0], strerror(-r));
		return TOOL_RUN_FAILED;
	}
	caught = supervise(run, pid, &status);
	return finish(run, status, caught);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct run *run = state->input;

	switch (key) {
	case 'n':
		run->name_given = arg;
		return 0;
	case 'a':
		run->ambient = true;
		return 0;
	case 'i':
		run->isolation = tool_isolation(arg);
		if (!run->isolation)
			argp_error(state, "--isolation: \"%s\" is not read-committed, serializable or snapshot", arg);
		return 0;
	case 'c':
		run->control = arg;
		return 0;
	case 'v':
		run->verbose = true;
		return 0;
	case 'r':
		run->ask = true;
		return 0;
	case ARGP_KEY_ARG:
		if (!run->point) {
			run->point = arg;
			return 0;
		}
		/* The rest is the command's. */
		run->cmd = &state->argv[state->next - 1];
		state->next = state->argc;
		return 0;
	case ARGP_KEY_END:
		if (!run->cmd)
			argp_error(state, "the mount point and a command are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_run(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"name", 'n', "NAME", 0, "Name of the transaction (default run-PID-...)", 0},
		{"ambient", 'a', NULL, 0, "Use no private namespace: the command's processes are members instead", 0},
		{"isolation", 'i', "LEVEL", 0, "read-committed (the default), serializable or snapshot", 0},
		{"control", 'c', "NAME", 0, "Name of the control directory (default $TXNFS_CONTROL or .txn)", 0},
		{"review", 'r', NULL, 0, "When CMD has succeeded, show what it changed and ask before the commit", 0},
		{"verbose", 'v', NULL, 0, "Tell how it ends", 0},
		{0},
	};
	static const struct argp argp = {
		options,
		parse,
		"MNT [--] CMD [ARG...]",
		"Run CMD in a transaction on the mount MNT, which it and its descendants see at the ordinary paths. "
		"Commits when CMD ends with status 0, else rolls back; so do Ctrl-C, SIGTERM and the death of this "
		"program.\v"
		"CMD finds the transaction's name in $TXNFS_TXN and the mount point in $TXNFS_MOUNT.\n\n"
		"With --review: status 1 when the answer was to roll back.\n\n"
		"Exit status: CMD's; 125 txnfs itself failed (also when the commit did); 126 CMD cannot "
		"be executed; "
		"127 CMD was not found; 128+N signal N ended it.",
		NULL,
		NULL,
		NULL};
	struct run run = {.ctl = -1, .review.tty = -1};
	CLEANUP_FREE char *cwd = NULL;
	size_t len;
	int status = TOOL_RUN_FAILED;

	argp_err_exit_status = TOOL_RUN_FAILED; /* 2 would look like CMD's */
	tool_parse(&argp, argc, argv, ARGP_IN_ORDER, &run);
	run.control = tool_control(run.control);
	if (tool_mount_find(run.point, &run.mount))
		return TOOL_RUN_FAILED;
	cwd = getcwd(NULL, 0);
	len = strlen(run.mount.point);
	if (cwd && !strncmp(cwd, run.mount.point, len) && (!cwd[len] || cwd[len] == '/'))
		run.cwd = cwd;
	if (make_name(&run))
		tool_error("%s", strerror(ENOMEM));
	else if (!run.ask || !tool_review_open(&run.review))
		status = run_in_transaction(&run);
	tool_review_close(&run.review);
	if (run.ctl >= 0)
		close(run.ctl);
	free(run.dir);
	free(run.name);
	tool_mount_free(&run.mount);
	return status;
}
