/*
 * cmd_run.c - `txnfs run`: a command in a transaction of its own, on one mount or on several.
 *
 * The transaction is a named one, whose root is bound over the mount point in a mount namespace that only the command
 * and its descendants have. Its control file is opened before and stays with this process, which is named as the
 * owner: when it dies, the daemon rolls back. Where namespaces are not allowed, this process begins an ambient
 * transaction instead, of which its children are members. With several mounts there is one transaction on each, and
 * coordinator.c ends them.
 */
#include "tools/run.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

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

int run_command(const struct run_mount *m, const char *text, const char *doing)
{
	CLEANUP_FREE char *answer = NULL;
	int r = tool_ctl_command(m->ctl, text, &answer);

	if (r == -EALREADY)
		tool_error("%s: already inside a transaction: use `txnfs savepoint` in it", m->mount.point);
	else if (r == -ENOTCONN && !answer)
		tool_error(
			"%s: %s: the filesystem's daemon has ended; unless its log says otherwise (txnfs log %s), the "
			"transaction is rolled back",
			m->mount.point, doing, m->mount.source);
	else if (r)
		tool_error("%s: %s: %s", m->mount.point, doing, answer ? answer : strerror(-r));
	return r;
}

void run_rollback(struct run *run)
{
	for (size_t i = 0; i < run->n; i++) {
		struct run_mount *m = &run->mounts[i];
		CLEANUP_FREE char *answer = NULL;

		if (m->ctl < 0 || m->prepared)
			continue;
		tool_ctl_command(m->ctl, "rollback\n",
		                 &answer); /* what cannot be told is rolled back by this process's end */
		close(m->ctl);
		m->ctl = -1;
	}
}

/* Does the caller belong to a transaction already? The control file's second line tells. Negative: said why not. */
static int in_ambient(const struct run *run, const struct run_mount *m)
{
	CLEANUP_CLOSE int fd = tool_ctl_open(&m->mount, run->control, NULL);
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

static int make_transaction(const struct run *run, const struct run_mount *m)
{
	const char *point = m->mount.point;
	int r;

	if (!mkdir(m->dir, 0700))
		return 0;
	r = -errno;
	/* A transaction's view has a control directory too, in which no transactions are made. */
	if (r == -EALREADY || r == -EPERM)
		tool_error("%s: already inside a transaction: use `txnfs savepoint` in it", point);
	else if (r == -EEXIST)
		tool_error("%s: there is a transaction named \"%s\" already", point, run->name);
	else if (r == -ENOENT)
		tool_error("%s: there is no control directory %s; when it was mounted with -o control=NAME, "
		           "say --control NAME",
		           point, run->control);
	else if (r == -ENOTCONN)
		tool_error("%s: the filesystem's daemon has ended; `txnfs umount %s` and mount it again", point, point);
	else
		tool_error("%s: cannot begin transaction \"%s\": %s", point, run->name, strerror(-r));
	return r;
}

static int begin_named(struct run *run, struct run_mount *m)
{
	char text[128];
	int r;

	if (asprintf(&m->dir, "%s/%s/%s", m->mount.point, run->control, run->name) < 0) {
		m->dir = NULL;
		tool_error("%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	r = in_ambient(run, m);
	if (r > 0)
		tool_error("%s: already inside a transaction: use `txnfs savepoint` in it", m->mount.point);
	if (r)
		return r < 0 ? r : -EALREADY;
	r = make_transaction(run, m);
	if (r)
		return r;
	m->ctl = tool_ctl_open(&m->mount, run->control, run->name);
	if (m->ctl < 0) {
		rmdir(m->dir);
		return -EIO;
	}
	snprintf(text, sizeof(text), "owner %d%s%s\n", getpid(), run->isolation ? " isolation " : "",
	         run->isolation ? run->isolation : "");
	return run_command(m, text, "begin");
}

static int begin_ambient(struct run *run, struct run_mount *m)
{
	struct base_buf b = {0};
	int r;

	/* Who leaves the tree of processes is given to this one, and stays a member. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	m->ctl = tool_ctl_open(&m->mount, run->control, NULL);
	if (m->ctl < 0)
		return -EIO;
	base_buf_printf(&b, "begin ");
	tool_ctl_quote(&b, run->name);
	if (run->isolation)
		base_buf_printf(&b, " isolation %s", run->isolation); /* says what is wrong with that, if anything is */
	base_buf_put(&b, "\n", 2);
	r = b.err;
	if (!r)
		r = run_command(m, (char *)b.p, "begin");
	base_buf_free(&b);
	if (r) {
		close(m->ctl); /* there is nothing to roll back, but perhaps what the caller is in */
		m->ctl = -1;
	}
	return r;
}

static int begin(struct run *run)
{
	int r = 0;

	for (size_t i = 0; !r && i < run->n; i++)
		r = run->ambient ? begin_ambient(run, &run->mounts[i]) : begin_named(run, &run->mounts[i]);
	if (r)
		run_rollback(run);
	return r;
}

/* Give the named transactions up for ambient ones. */
static int fall_back(struct run *run, const struct run_failure *f)
{
	if (run->verbose)
		tool_error("no private namespace here (%s: %s): using an ambient transaction", f->what,
		           strerror(f->err));
	run_rollback(run);
	for (size_t i = 0; i < run->n; i++)
		free(TAKE_PTR(run->mounts[i].dir));
	run->ambient = true;
	return begin(run);
}

/* Outcome of a command that could not be started; the exit status. */
static int not_started(const struct run *run, const struct run_failure *f)
{
	if (f->stage == RUN_EXEC) {
		tool_error("%s: %s", run->cmd[0], strerror(f->err));
		return f->err == ENOENT ? TOOL_RUN_NOT_FOUND : TOOL_RUN_NOT_RUNNABLE;
	}
	tool_error("%s: %s", f->stage == RUN_CWD ? run->cwd : f->what, strerror(f->err));
	return TOOL_RUN_FAILED;
}

/* For --review: a command in the view, at the mount point if the run began elsewhere. */
static int spawn_in_view(void *arg, char **argv, pid_t *pid)
{
	struct run run = *(const struct run *)arg;
	struct run_failure f;
	int status, r;

	run.cmd = argv;
	run.cwd = run.cwd ? run.cwd : run.mounts[0].mount.point;
	r = run_start(&run, pid, &f, &status);
	if (r < 0)
		tool_error("cannot start %s: %s", argv[0], strerror(-r));
	return r == 1 ? not_started(&run, &f) : r;
}

/* Show and ask; 0: commit, else the status to end with. */
static int review(struct run *run)
{
	run->review.mount = &run->mounts[0].mount;
	run->review.control = run->control;
	run->review.txn = run->mounts[0].dir ? run->name : NULL;
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

	if (run_coordinated(run))
		return coordinator_commit(run);
	do {
		if (run->ask) {
			*code = review(run);
			if (*code)
				return 0;
			snprintf(text, sizeof(text), "commit version %llu\n", run->review.version);
		}
		r = run_command(&run->mounts[0], text, "commit failed");
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
		run_rollback(run);
		coordinator_abandon(run);
		if (run->verbose || run->ask)
			tool_error("%s: rolled back (status %d)", run->name, code);
		return code;
	}
	if (r) {
		run_rollback(run);
		return TOOL_RUN_FAILED;
	}
	if (run->verbose || run->ask)
		tool_error("%s: committed", run->name);
	return TOOL_OK;
}

static int run_in_transaction(struct run *run)
{
	struct run_failure f;
	int status = 0, r;
	pid_t pid;

	run_block_signals(run);
	run->own_group = !has_terminal();
	if (run_coordinated(run) && coordinator_start(run))
		return TOOL_RUN_FAILED;
	if (begin(run))
		return TOOL_RUN_FAILED;
	if (coordinator_announce(run)) {
		run_rollback(run);
		return TOOL_RUN_FAILED;
	}
	r = run_start(run, &pid, &f, &status);
	if (r == 1 && f.stage == RUN_NAMESPACE) {
		if (fall_back(run, &f)) {
			coordinator_abandon(run);
			return TOOL_RUN_FAILED;
		}
		r = run_start(run, &pid, &f, &status);
	}
	if (r) {
		run_rollback(run);
		coordinator_abandon(run);
		if (r == 1)
			return not_started(run, &f);
		tool_error("cannot start %s: %s", run->cmd[0], strerror(-r));
		return TOOL_RUN_FAILED;
	}
	return finish(run, status, run_supervise(run, pid, &status));
}

/* ---- the mounts ---- */

static int add_point(struct run *run, const char *point)
{
	struct run_mount *v = reallocarray(run->mounts, run->n + 1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	run->mounts = v;
	v[run->n] = (struct run_mount){.ctl = -1};
	v[run->n].mount.point = strdup(point); /* as given, until it is found */
	return v[run->n++].mount.point ? 0 : -ENOMEM;
}

/* Each is found, and none is there twice: it would wait for itself. */
static int find_mounts(struct run *run)
{
	for (size_t i = 0; i < run->n; i++) {
		struct run_mount *m = &run->mounts[i];
		CLEANUP_FREE char *given = TAKE_PTR(m->mount.point);
		struct stat st;

		if (tool_mount_find(given, &m->mount))
			return -ENODEV;
		if (run->n == 1)
			break;
		if (stat(m->mount.point, &st) < 0) {
			int err = errno;

			tool_error("%s: %s", m->mount.point,
			           err == ENOTCONN ? "the filesystem's daemon has ended; unmount it and mount it again"
			                           : strerror(err));
			return -err;
		}
		m->dev = st.st_dev;
		for (size_t k = 0; k < i; k++) {
			if (run->mounts[k].dev != m->dev)
				continue;
			tool_error("%s is given twice", m->mount.point);
			return -EINVAL;
		}
	}
	return 0;
}

static void find_cwd(struct run *run)
{
	char *cwd = getcwd(NULL, 0);

	for (size_t i = 0; cwd && i < run->n; i++) {
		const char *point = run->mounts[i].mount.point;
		size_t len = strlen(point);

		if (!strncmp(cwd, point, len) && (!cwd[len] || cwd[len] == '/')) {
			run->cwd = cwd;
			return;
		}
	}
	free(cwd);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct run *run = state->input;

	switch (key) {
	case 'n':
		run->name_given = arg;
		return 0;
	case 'm':
		run->by_option = true;
		return add_point(run, arg) ? ENOMEM : 0;
	case 'L':
		run->log_given = arg;
		return 0;
	case 'p':
		if (run->postgres)
			argp_error(state, "--postgres is given twice: one database can take part");
		run->postgres = arg;
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
		if (!run->n) /* without --mount */
			return add_point(run, arg) ? ENOMEM : 0;
		/* The rest is the command's. */
		run->cmd = &state->argv[state->next - 1];
		state->next = state->argc;
		return 0;
	case ARGP_KEY_END:
		if (!run->cmd)
			argp_error(state, "%s",
			           run->n && run->by_option ? "a command is needed"
			                                    : "the mount point and a command are needed");
		if (run_coordinated(run) && run->ask)
			argp_error(state, "--review shows one mount, and commits what was shown: it cannot be used with several, "
			                  "nor with a database");
		if (run_coordinated(run) && run->isolation && !strcmp(run->isolation, "serializable"))
			argp_error(state, "--isolation serializable holds on one mount; of transactions on several "
			                  "mounts, or with a database, no common order is "
			                  "promised");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_run(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"name", 'n', "NAME", 0, "Name of the transaction (default run-PID-...)", 0},
		{"mount", 'm', "MNT", 0, "A mount; with several, all of them commit or none does", 0},
		{"postgres", 'p', "CONNINFO", 0,
	         "A PostgreSQL database takes part: CMD ends its SQL with PREPARE TRANSACTION '$TXNFS_POSTGRES_GID'",
	         0},
		{"log", 'L', "DIR", 0,
	         "Directory of the decision log for several mounts or a database (default /var/lib/txnfs for root, "
	         "else "
	         "$XDG_STATE_HOME/txnfs or "
	         "~/.local/state/txnfs)",
	         0},
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
		"MNT [--] CMD [ARG...]\n--mount MNT --mount MNT... [--] CMD [ARG...]\n--postgres CONNINFO MNT [--] CMD "
	        "[ARG...]",
		"Run CMD in a transaction on the mount MNT, or in one over several mounts, which it and its "
		"descendants see at the ordinary "
		"paths. Commits when CMD ends with status 0, else rolls back; so do Ctrl-C, SIGTERM and the death of "
		"this "
		"program.\v"
		"CMD finds the transaction's name in $TXNFS_TXN and the mount point in $TXNFS_MOUNT; of several the "
		"first one, and all of "
		"them in $TXNFS_MOUNTS, a line each.\n\n"
		"With --postgres it connects by itself, to the database that the connection string $TXNFS_POSTGRES "
		"names, and ends its "
		"transaction there with PREPARE TRANSACTION '$TXNFS_POSTGRES_GID' instead of COMMIT: this program "
		"commits it together with the files.\n\n"
		"With several mounts or a database a crash can leave the transaction in doubt on some of them, decided "
	        "in the log: "
		"the next such run, or "
		"`txnfs resolve --all`, finishes it.\n\n"
		"With --review: status 1 when the answer was to roll back.\n\n"
		"Exit status: CMD's; 125 txnfs itself failed (also when the commit did); 126 CMD cannot "
		"be executed; "
		"127 CMD was not found; 128+N signal N ended it.",
		NULL,
		NULL,
		NULL};
	struct run run = {.log.dir = -1, .announced.fd = -1, .review.tty = -1};
	int status = TOOL_RUN_FAILED;

	argp_err_exit_status = TOOL_RUN_FAILED; /* 2 would look like CMD's */
	tool_parse(&argp, argc, argv, ARGP_IN_ORDER, &run);
	run.control = tool_control(run.control);
	if (!find_mounts(&run)) {
		find_cwd(&run);
		if (make_name(&run))
			tool_error("%s", strerror(ENOMEM));
		else if (!run.ask || !tool_review_open(&run.review))
			status = run_in_transaction(&run);
		tool_review_close(&run.review);
	}
	for (size_t i = 0; i < run.n; i++) {
		if (run.mounts[i].ctl >= 0)
			close(run.mounts[i].ctl);
		free(run.mounts[i].dir);
		tool_mount_free(&run.mounts[i].mount);
	}
	coordinator_free(&run);
	decision_log_close(&run.log);
	free(run.mounts);
	free(run.cwd);
	free(run.name);
	return status;
}
