/*
 * watchdog.c - a killed daemon must not leave its clients hanging.
 *
 * A thread that is telling the kernel to drop a name may wait, not to be interrupted, for a directory that is locked for a
 * request which only this daemon could answer. When the daemon is killed in that moment, the thread cannot die, so the
 * connection is not closed, so the request is never answered. So a small process waits for the daemon's death, which it is told
 * of when the daemon's main thread is gone, and aborts the connection if the other threads do not follow.
 *
 * It must do no harm when it comes late, on a busy machine, and the source is already mounted again: a daemon that is gone
 * altogether needs nothing. It is started before the daemon opens anything, so that it never holds the source's lock or
 * the connection for a moment longer than the daemon.
 */
#include "fusefs/private.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define GRACE_MS 1000 /* that the daemon's threads have to end by themselves */

static void close_all_but(int a, int b)
{
	int low = a < b ? a : b, high = a < b ? b : a;

	if (low > 0)
		syscall(SYS_close_range, 0u, (unsigned)low - 1, 0u);
	if (high > low + 1)
		syscall(SYS_close_range, (unsigned)low + 1, (unsigned)high - 1, 0u);
	syscall(SYS_close_range, (unsigned)high + 1, ~0u, 0u);
}

/* daemon: pidfd, readable when no thread of it is left. In the child of a process with threads: system calls alone. */
static void watch(const char *mountpoint, int daemon, int told, pid_t parent, const sigset_t *set)
{
	struct pollfd gone = {.fd = daemon, .events = POLLIN};
	char abort_path[128];
	ssize_t n;
	int fd, sig;

	prctl(PR_SET_NAME, "txnfs-watchdog");
	close_all_but(daemon, told);
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	if (getppid() != parent)
		_exit(0);
	n = recv(told, abort_path, sizeof(abort_path) - 1, 0);
	if (n <= 0)
		_exit(0); /* it never came to mount */
	abort_path[n] = '\0';
	/* Of this connection, not of a later one that may get the same number. */
	fd = open(abort_path, O_WRONLY | O_CLOEXEC);
	while (sigwait(set, &sig) || (sig != SIGUSR1 && sig != SIGUSR2))
		;
	if (sig == SIGUSR2)
		_exit(0); /* the mount has ended as it should */
	if (poll(&gone, 1, GRACE_MS) > 0)
		_exit(0);
	if (fd < 0 || write(fd, "1", 1) != 1) {
		/* For root, forced unmounting aborts as well. It is not to be unmounted: held open, it stays. */
		fd = open(mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 && poll(&gone, 1, 0) == 0)
			umount2(mountpoint, MNT_FORCE);
	}
	_exit(0);
}

void fusefs_watchdog_start(struct fusefs_watchdog *dog, const char *mountpoint)
{
	CLEANUP_CLOSE int daemon = (int)syscall(SYS_pidfd_open, getpid(), 0);
	pid_t parent = getpid();
	int pair[2] = {-1, -1};
	sigset_t all, old;

	*dog = (struct fusefs_watchdog){.pid = -1, .tell = -1};
	if (daemon < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		goto out;
	/* Blocked in the child from its first moment on: it takes them by sigwait. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	dog->pid = fork();
	if (dog->pid == 0)
		watch(mountpoint, daemon, pair[0], parent, &all);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	close(pair[0]);
	dog->tell = pair[1];
out:
	if (dog->pid < 0)
		base_log(LOG_WARNING, "no watchdog: %s; should the daemon be killed, programs may hang until `umount -f`",
		         strerror(errno));
}

void fusefs_watchdog_mounted(struct fusefs_watchdog *dog, const char *abort_path)
{
	const char *path = abort_path ? abort_path : "/"; /* which nobody can open for writing */

	if (dog->pid > 0 && send(dog->tell, path, strlen(path), MSG_NOSIGNAL) < 0)
		base_log(LOG_WARNING, "the watchdog does not listen: %s", strerror(errno));
}

void fusefs_watchdog_stop(struct fusefs_watchdog *dog)
{
	if (dog->tell >= 0)
		close(TAKE_FD(dog->tell));
	if (dog->pid <= 0)
		return;
	kill(dog->pid, SIGUSR2);
	while (waitpid(dog->pid, NULL, 0) < 0 && errno == EINTR)
		;
	dog->pid = 0;
}
