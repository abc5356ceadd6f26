/*
 * watchdog.c - a killed daemon must not leave its clients hanging.
 *
 * A thread that is telling the kernel to drop a name may wait, not to be interrupted, for a directory that is locked for a
 * request which only this daemon could answer. When the daemon is killed in that moment, the thread cannot die, so the
 * connection is not closed, so the request is never answered. So a small process waits for the daemon's death, which it is told
 * of when the daemon's main thread is gone, and aborts the connection.
 */
#include "fusefs/private.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* In the child of a process with threads: system calls alone. */
static void watch(const char *abort_path, const char *mountpoint, pid_t daemon, const sigset_t *set)
{
	int fd, sig;

	prctl(PR_SET_NAME, "txnfs-watchdog");
	/* Above all not the connection itself, and not the lock of the source. */
	if (syscall(SYS_close_range, 0u, ~0u, 0u) < 0)
		for (fd = 0; fd < (int)sysconf(_SC_OPEN_MAX); fd++)
			close(fd);
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	if (getppid() == daemon)
		while (sigwait(set, &sig) || (sig != SIGUSR1 && sig != SIGUSR2))
			;
	else
		sig = SIGUSR1;
	if (sig == SIGUSR2)
		_exit(0); /* the mount has ended as it should */
	fd = abort_path ? open(abort_path, O_WRONLY | O_CLOEXEC) : -1;
	if (fd < 0 || write(fd, "1", 1) != 1) {
		/* For root, forced unmounting aborts as well. It is not to be unmounted: held open, it stays. */
		fd = open(mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0)
			umount2(mountpoint, MNT_FORCE);
	}
	_exit(0);
}

pid_t fusefs_watchdog_start(const char *abort_path, const char *mountpoint)
{
	pid_t daemon = getpid(), pid;
	sigset_t all, old;

	/* Blocked in the child from its first moment on: it takes them by sigwait. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = fork();
	if (pid == 0)
		watch(abort_path, mountpoint, daemon, &all);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		base_log(LOG_WARNING, "no watchdog: %s; should the daemon be killed, programs may hang until `umount -f`",
		         strerror(errno));
	return pid;
}

void fusefs_watchdog_stop(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGUSR2);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}
