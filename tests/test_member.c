/* Processes and their ancestry: orphans among many, want of descriptors, ids in other namespaces. */
#include "base/base.h"
#include "fusefs/member.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cmocka.h>

static struct fusefs_members *m;

static int setup(void **state UNUSED)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	return 0;
}

static void members(unsigned processes, unsigned pidfds)
{
	fusefs_members_free(m);
	m = NULL;
	assert_int_equal(fusefs_members_new(processes, pidfds, &m), 0);
}

static int teardown(void **state UNUSED)
{
	fusefs_members_free(m);
	m = NULL;
	return 0;
}

/* A child that sleeps. */
static pid_t sleeper(void)
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	assert_true(pid > 0);
	return pid;
}

static void end(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

/* A sleeper with a parent of its own, a child of this process. */
static pid_t grandchild(pid_t *parent)
{
	int fds[2];
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	*parent = fork();
	if (!*parent) {
		pid = fork();
		if (!pid) {
			alarm(60); /* should nobody end it */
			dup2(fds[0], STDOUT_FILENO);
			dup2(fds[0], STDERR_FILENO);
			for (;;)
				pause();
		}
		if (write(fds[1], &pid, sizeof(pid)) != sizeof(pid))
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(fds[0], &pid, sizeof(pid)), sizeof(pid));
	close(fds[0]);
	close(fds[1]);
	return pid;
}

static bool descends(pid_t pid, pid_t from)
{
	struct fusefs_process *p;
	bool found = false;

	assert_int_equal(fusefs_process_of(m, pid, &p), 0);
	for (const struct fusefs_process *q = p; q; q = q->parent)
		found |= q->tgid == from;
	fusefs_process_put(p);
	return found;
}

/* However many others are looked at, living and dead, an orphan that was seen before keeps its ancestors. */
static void an_orphan_among_many(void **state UNUSED)
{
	enum { LIVE = 60, DEAD = 200, ORPHANS = 12, REMEMBERED = 16 };
	pid_t live[LIVE], parents[ORPHANS], orphans[ORPHANS], pid;
	struct fusefs_process *p;

	for (size_t i = 0; i < LIVE; i++)
		live[i] = sleeper();
	members(REMEMBERED, 4);
	for (size_t i = 0; i < ORPHANS; i++) {
		orphans[i] = grandchild(&parents[i]);
		assert_true(descends(orphans[i], parents[i]));
		end(parents[i]);
	}
	for (unsigned round = 0; round < 3; round++) {
		for (size_t i = 0; i < LIVE; i++)
			assert_true(descends(live[i], getpid()));
		for (size_t i = 0; i < DEAD; i++) {
			pid = sleeper();
			assert_int_equal(fusefs_process_of(m, pid, &p), 0);
			fusefs_process_put(p);
			end(pid);
		}
		for (size_t i = 0; i < ORPHANS; i++)
			assert_true(descends(orphans[i], parents[i]));
	}
	/* Nobody can tell from outside: one that is seen for the first time does not have them. */
	members(REMEMBERED, 4);
	assert_false(descends(orphans[0], parents[0]));
	assert_true(descends(orphans[0], getpid()));
	for (size_t i = 0; i < ORPHANS; i++)
		end(orphans[i]);
	for (size_t i = 0; i < LIVE; i++)
		end(live[i]);
}

/* Without descriptors left, those that are held for processes are given up before anyone is called unknown. */
static void no_descriptors(void **state UNUSED)
{
	pid_t parent, child = grandchild(&parent), other = sleeper();
	struct rlimit old, few;
	int fds[256], n = 0, fd;

	members(64, 16);
	assert_true(descends(child, parent));
	end(parent);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = old;
	few.rlim_cur = 200;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	while (n < 256 && (fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
		fds[n++] = fd;
	assert_int_equal(errno, EMFILE);
	assert_true(descends(other, getpid()));
	assert_true(descends(child, parent));
	while (n)
		close(fds[--n]);
	setrlimit(RLIMIT_NOFILE, &old);
	end(child);
	end(other);
}

static void who_is_the_same(void **state UNUSED)
{
	pid_t a = sleeper(), parent, c = grandchild(&parent);
	struct fusefs_process *p, *q, other;

	members(0, 0);
	assert_int_equal(fusefs_process_of(m, a, &p), 0);
	assert_int_equal(fusefs_process_of(m, a, &q), 0);
	assert_true(fusefs_process_same(p, q));
	other = *p;
	assert_true(fusefs_process_same(p, &other));
	other.start++;
	assert_false(fusefs_process_same(p, &other));
	other.start--;
	if (p->serial) { /* a kernel with pidfs: told apart although both began in one tick of the clock */
		other.serial++;
		assert_false(fusefs_process_same(p, &other));
	}
	other.serial = 0;
	assert_true(fusefs_process_same(p, &other));
	fusefs_process_put(q);
	assert_int_equal(fusefs_process_of(m, c, &q), 0);
	assert_int_equal(fusefs_process_seen_by(q, q), c);
	assert_int_equal(fusefs_process_seen_by(q->parent, q), parent);
	end(parent);
	assert_int_equal(fusefs_process_seen_by(q->parent, q), 0);
	end(a);
	assert_int_equal(fusefs_process_seen_by(p, p), 0);
	assert_int_equal(fusefs_process_open(p), -ESRCH);
	fusefs_process_put(p);
	fusefs_process_put(q);
	end(c);
	assert_int_equal(fusefs_process_of(m, 0, &p), -ESRCH);
	assert_int_equal(fusefs_process_of(m, a, &p), -ESRCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_orphan_among_many),
		cmocka_unit_test(no_descriptors),
		cmocka_unit_test(who_is_the_same),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
