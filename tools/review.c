/* review.c - `txnfs run --review`: shows what the command did, and asks. */
#include "tools/review.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#define ROLLED_BACK 1

/* What `status` says of the transaction. */
struct standing {
	bool open;
	unsigned long long version, objects, names;
};

/* ---- the terminal ---- */

int tool_review_open(struct tool_review *rv)
{
	rv->tty = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (rv->tty < 0 || tcgetattr(rv->tty, &rv->modes) < 0) {
		tool_error("--review asks on the terminal, and there is none (/dev/tty: %s): nothing was run; without "
		           "one, use "
		           "a named transaction (mkdir MNT/.txn/NAME), `txnfs diff MNT NAME` and `txnfs commit -n NAME "
		           "MNT`",
		           strerror(errno));
		tool_review_close(rv);
		return -ENXIO;
	}
	rv->foreground = tcgetpgrp(rv->tty) == getpgrp();
	return 0;
}

void tool_review_close(struct tool_review *rv)
{
	if (rv->tty >= 0)
		close(rv->tty);
	rv->tty = -1;
}

/* As it was before the command: that may have left it to a group of its own, or without echo and signals. */
static void take_terminal(struct tool_review *rv)
{
	sigset_t set, old;

	if (!rv->foreground)
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGTTOU);
	sigprocmask(SIG_BLOCK, &set, &old);
	tcsetpgrp(rv->tty, getpgrp());
	tcsetattr(rv->tty, TCSADRAIN, &rv->modes);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

/* ---- what is started ---- */

/* Wait for a child; its status. A signal that is to end the run is passed on, and returned. */
static int wait_for(const struct tool_review *rv, pid_t pid, int *status)
{
	sigset_t set = rv->ending;
	int caught = 0;
	siginfo_t si;
	pid_t got;

	sigaddset(&set, SIGCHLD);
	for (;;) {
		int sig;

		while ((got = waitpid(-1, status, WNOHANG)) > 0 && got != pid)
			;
		if (got == pid || (got < 0 && errno != EINTR))
			return caught;
		sig = sigwaitinfo(&set, &si);
		/* Keys are the child's: ^C in the pager or in the shell is no answer. */
		if (sig <= 0 || sig == SIGCHLD || ((sig == SIGINT || sig == SIGQUIT) && si.si_code == SI_KERNEL))
			continue;
		caught = caught ? caught : sig;
		kill(pid, sig);
	}
}

/* `txnfs diff` on the terminal. Its exit status, or 128+N after signal N. */
static int show(struct tool_review *rv, bool stat, int *caught)
{
	char *argv[] = {"txnfs diff",
	                "--exit-code",
	                "--control",
	                (char *)rv->control,
	                stat ? "--stat" : "-U3",
	                rv->txn ? "--txn" : "--",
	                rv->txn ? (char *)rv->txn : rv->mount->point,
	                rv->txn ? "--" : NULL,
	                rv->txn ? rv->mount->point : NULL,
	                NULL};
	pid_t parent = getpid(), pid;
	int argc = 0, status;

	while (argv[argc])
		argc++;
	fflush(stdout);
	pid = fork();
	if (pid < 0) {
		tool_error("cannot show the changes: %s", strerror(errno));
		return TOOL_FAILED;
	}
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != parent)
			_exit(TOOL_RUN_FAILED);
		sigprocmask(SIG_SETMASK, &rv->old_mask, NULL);
		dup2(rv->tty, STDIN_FILENO);
		dup2(rv->tty, STDOUT_FILENO);
		dup2(rv->tty, STDERR_FILENO);
		status = cmd_diff(argc, argv);
		fflush(stdout);
		_exit(status);
	}
	*caught = wait_for(rv, pid, &status);
	take_terminal(rv);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* A shell in the view. The signal that ended the run meanwhile, or 0. */
static int shell(struct tool_review *rv)
{
	const char *program = getenv("SHELL");
	char *argv[] = {(char *)(program && *program ? program : "/bin/sh"), NULL};
	/* From inside the view, the committed files are reached by this descriptor only (cmd_diff.c). */
	CLEANUP_CLOSE int committed = rv->txn ? open(rv->mount->point, O_PATH | O_DIRECTORY) : -1;
	char number[16];
	int status, r, caught = 0;
	pid_t pid;

	if (committed >= 0) {
		snprintf(number, sizeof(number), "%d", committed);
		setenv("TXNFS_COMMITTED", number, 1);
	}
	dprintf(rv->tty, "%s in the transaction's view, at %s; `txnfs diff` works there. Come back with `exit`.\n",
	        argv[0], rv->mount->point);
	r = rv->spawn(rv->arg, argv, &pid);
	unsetenv("TXNFS_COMMITTED");
	if (!r)
		caught = wait_for(rv, pid, &status);
	take_terminal(rv);
	return caught;
}

/* ---- the transaction ---- */

static unsigned long long number_of(const char *status, const char *key)
{
	const char *p = strstr(status, key);

	return p ? strtoull(p + strlen(key), NULL, 10) : 0;
}

static struct standing look(const struct tool_review *rv)
{
	CLEANUP_FREE char *path = NULL;
	CLEANUP_CLOSE int fd = -1;
	char text[8192];
	ssize_t n;

	if (asprintf(&path, "%s/%s/%s%sstatus", rv->mount->point, rv->control, rv->txn ? rv->txn : "",
	             rv->txn ? "/" : "") < 0)
		path = NULL;
	fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
	if (n <= 0)
		return (struct standing){0};
	text[n] = 0;
	return (struct standing){
		.open = !strncmp(text, "state: active\n", 14),
		.version = number_of(text, "\nversion: "),
		.objects = number_of(text, "\nchanged_objects: "),
		.names = number_of(text, "\nchanged_names: "),
	};
}

/* ---- asking ---- */

enum answer { COMMIT, ROLLBACK, DIFF, STAT, SHELL, HELP, NOTHING, END };

static enum answer understand(char *line)
{
	static const struct {
		const char *word;
		enum answer answer;
	} words[] = {{"commit", COMMIT}, {"rollback", ROLLBACK}, {"diff", DIFF},
	             {"stat", STAT},     {"shell", SHELL},       {"help", HELP}};
	size_t n;

	line += strspn(line, " \t");
	n = strcspn(line, " \t\r\n");
	if (!n)
		return NOTHING;
	if (line[n + strspn(line + n, " \t\r\n")])
		return HELP;
	for (size_t i = 0; i < ARRAY_LEN(words); i++) /* any beginning will do; "s" is the shell's */
		if (n <= strlen(words[i].word) && !strncasecmp(line, words[i].word, n) &&
		    (n > 1 || words[i].answer != STAT))
			return words[i].answer;
	return HELP;
}

/* A line from the terminal. END with *sig (0: end of input). */
static enum answer ask(struct tool_review *rv, int *sig)
{
	static const char question[] = "Commit this? [c]ommit, [r]ollback, [d]iff, [s]hell, [?] ";
	CLEANUP_CLOSE int signals = signalfd(-1, &rv->ending, SFD_CLOEXEC | SFD_NONBLOCK);
	struct pollfd fds[] = {{.fd = rv->tty, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
	struct signalfd_siginfo si;
	char line[256];
	ssize_t n;

	*sig = 0;
	if (signals < 0)
		return END;
	/* What was typed, or was left, before the question was seen is no answer to it. */
	if (rv->foreground)
		tcflush(rv->tty, TCIFLUSH);
	do {
		dprintf(rv->tty, question);
		while (poll(fds, 2, -1) < 0)
			if (errno == EINTR) /* stopped and continued */
				dprintf(rv->tty, "\n%s", question);
			else
				return END;
		if (fds[1].revents && read(signals, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
			*sig = (int)si.ssi_signo;
			return END;
		}
		n = read(rv->tty, line, sizeof(line) - 1);
	} while (n < 0 && (errno == EINTR || errno == EAGAIN));
	if (n <= 0)
		return END;
	line[n] = 0;
	return line[n - 1] == '\n' ? understand(line)
	                           : NOTHING; /* no newline: ^D behind some letters, or too many of them */
}

static const char help[] = "  c, commit    all of it becomes visible and durable\n"
			   "  r, rollback  nothing of it happens; so do Ctrl-C and the end of input\n"
			   "  d, diff      everything, as a patch\n"
			   "  stat         the overview again\n"
			   "  s, shell     look around and change things, in the view of the command\n";

/* Show the overview; *seen: what it showed. The signal that ended the run meanwhile, or 0. */
static int overview(struct tool_review *rv, struct standing *seen)
{
	int caught = 0, status;

	*seen = look(rv);
	status = show(rv, true, &caught);
	if (!caught && status > 1)
		dprintf(rv->tty, "txnfs: what is shown is not complete (status %d)\n", status);
	else if (!caught && !status)
		dprintf(rv->tty, "txnfs: no differences, only times, or contents written anew as they were\n");
	return caught;
}

int tool_review(struct tool_review *rv)
{
	struct standing seen, now;
	int caught, sig = 0;

	take_terminal(rv);
	seen = look(rv);
	if (!seen.open) {
		dprintf(rv->tty, "txnfs: there is nothing to ask: the command has ended its transaction itself\n");
		return TOOL_RUN_FAILED;
	}
	if (!seen.objects && !seen.names) {
		dprintf(rv->tty, "txnfs: the command has changed nothing in %s\n", rv->mount->point);
		rv->version = seen.version;
		return 0;
	}
	caught = overview(rv, &seen);
	while (!caught) {
		now = look(rv);
		if (!now.open) {
			dprintf(rv->tty, "txnfs: the transaction has been ended from elsewhere\n");
			return TOOL_RUN_FAILED;
		}
		switch (ask(rv, &sig)) {
		case COMMIT:
			rv->version = seen.version;
			return 0;
		case ROLLBACK:
			return ROLLED_BACK;
		case DIFF:
			seen = look(rv);
			show(rv, false, &caught);
			break;
		case SHELL:
			caught = shell(rv);
			now = look(rv);
			if (!caught && now.version != seen.version)
				caught = overview(rv, &seen);
			break;
		case STAT:
			caught = overview(rv, &seen);
			break;
		case HELP:
			dprintf(rv->tty, "%s", help);
			break;
		case NOTHING:
			break;
		case END:
			dprintf(rv->tty, "\n");
			return sig ? 128 + sig : ROLLED_BACK;
		}
	}
	return 128 + caught;
}
