/*
 * work.c - the program `work`: what all kinds of work need, and a command inside a transaction.
 *
 *	work KIND KEY=VALUE...
 *	work in [ctl=FILE [end=commit|rollback]] [sync=DIRECTORY] [cwd=DIRECTORY] [pid=DAEMON] -- COMMAND...
 */
#include "work.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char **args;
static char **rest_args; /* behind "--" */
static bool first_measure;

noreturn void fail(const char *format, ...)
{
	int saved = errno;
	va_list ap;

	fputs("work: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(saved));
	exit(1);
}

const char *arg(const char *key)
{
	size_t len = strlen(key);

	for (char **a = args; *a; a++)
		if (!strncmp(*a, key, len) && (*a)[len] == '=')
			return *a + len + 1;
	return NULL;
}

const char *must_arg(const char *key)
{
	const char *value = arg(key);

	errno = EINVAL;
	if (!value)
		fail("the argument %s= is missing", key);
	return value;
}

uint64_t arg_num(const char *key)
{
	const char *value = arg(key);

	return value ? strtoull(value, NULL, 10) : 0;
}

const char *path(const char *format, ...)
{
	static _Thread_local char buf[8][4096];
	static _Thread_local unsigned turn;
	char *out = buf[turn++ % ARRAY_LEN(buf)];
	va_list ap;

	va_start(ap, format);
	vsnprintf(out, sizeof(buf[0]), format, ap);
	va_end(ap);
	return out;
}

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double of(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

double cpu(void)
{
	struct rusage self, others;

	getrusage(RUSAGE_SELF, &self);
	getrusage(RUSAGE_CHILDREN, &others);
	return of(self.ru_utime) + of(self.ru_stime) + of(others.ru_utime) + of(others.ru_stime);
}

uint64_t noise(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

void fill(void *buf, size_t len, uint64_t seed)
{
	unsigned char *p = buf;

	for (size_t i = 0; i < len; i += sizeof(uint64_t)) {
		uint64_t v = noise(&seed);

		memcpy(p + i, &v, len - i < sizeof(v) ? len - i : sizeof(v));
	}
}

int open_file(const char *name, int flags)
{
	int fd = open(name, flags | O_CLOEXEC, 0644);

	if (fd < 0)
		fail("open %s", name);
	return fd;
}

void write_at(int fd, const void *buf, size_t len, uint64_t offset)
{
	const char *p = buf;

	while (len) {
		ssize_t n = pwrite(fd, p, len, (off_t)offset);

		if (n <= 0)
			fail("pwrite");
		p += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
}

void sync_fs(const char *name)
{
	int fd = open_file(name, O_RDONLY);

	if (syncfs(fd))
		fail("syncfs %s", name);
	close(fd);
}

void make_dir(const char *name)
{
	if (mkdir(name, 0755) && errno != EEXIST)
		fail("mkdir %s", name);
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)type;
	(void)f;
	return remove(name);
}

void remove_tree(const char *name)
{
	if (nftw(name, remove_one, 64, FTW_DEPTH | FTW_PHYS) && errno != ENOENT)
		fail("removing %s", name);
}

void write_file(const char *name, const void *buf, size_t len)
{
	int fd = open_file(name, O_WRONLY | O_CREAT | O_TRUNC);

	write_at(fd, buf, len, 0);
	if (close(fd))
		fail("close %s", name);
}

void wait_child(pid_t pid, const char *what)
{
	int status;

	errno = EIO;
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status))
		fail("%s ended with wait status %d", what, status);
}

void run(const char *const argv[], const char *cwd)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 0);
		dup2(2, 1); /* stdout is for the results */
		if (!cwd || !chdir(cwd))
			execvp(argv[0], (char *const *)argv);
		fprintf(stderr, "work: %s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	wait_child(pid, argv[0]);
}

void command(int ctl, const char *text)
{
	char why[512] = "";

	if (pwrite(ctl, text, strlen(text), 0) < 0) {
		int saved = errno;
		ssize_t n = pread(ctl, why, sizeof(why) - 1, 0);

		(void)n;
		errno = saved;
		fail("%s: %.*s", text, (int)strcspn(why, "\n"), why);
	}
}

/* -1: there is no daemon. */
static double daemon_clock(void)
{
	int64_t pid = (int64_t)arg_num("pid");
	clockid_t clock = (clockid_t)((uint32_t)~pid << 3 | 2); /* as clock_getcpuclockid makes it */
	struct timespec t;

	if (!pid)
		return -1;
	if (clock_gettime(clock, &t))
		fail("the clock of process %lld", (long long)pid);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* One of its threads runs, or waits for the disk. */
static bool daemon_busy(void)
{
	char dir[64];
	struct dirent *de;
	bool busy = false;
	DIR *d;

	snprintf(dir, sizeof(dir), "/proc/%s/task", must_arg("pid"));
	d = opendir(dir);
	if (!d)
		fail("%s", dir);
	while (!busy && (de = readdir(d))) {
		FILE *f = *de->d_name == '.' ? NULL : fopen(path("%s/%s/stat", dir, de->d_name), "re");
		char line[512], *end;

		if (f && fgets(line, sizeof(line), f) && (end = strrchr(line, ')')))
			busy = end[2] == 'R' || end[2] == 'D';
		if (f)
			fclose(f);
	}
	closedir(d);
	return busy;
}

double rest(void)
{
	struct timespec pause = {.tv_nsec = 1000000};
	double last = 0, quiet = now(), give_up = quiet + 120;

	for (int still = 0; still < 4 && now() < give_up;) {
		double used = daemon_clock();

		if (used < 0)
			break;
		still = used - last < 50e-6 && !daemon_busy() ? still + 1 : 0;
		if (!still)
			quiet = now();
		last = used;
		nanosleep(&pause, NULL);
	}
	return quiet;
}

static double daemon_before;

void daemon_start(void)
{
	daemon_before = daemon_clock();
}

double daemon_used(void)
{
	return daemon_clock() - daemon_before;
}

void begin_result(void)
{
	first_measure = true;
	putchar('{');
}

void put(const char *name, double value)
{
	printf("%s\"%s\": %.9g", first_measure ? "" : ", ", name, value);
	first_measure = false;
}

void end_result(void)
{
	puts("}");
	fflush(stdout);
}

/* A command, in a transaction whose owner we are, or followed by a sync. */
static int work_in(void)
{
	int ctl = arg("ctl") ? open_file(arg("ctl"), O_RDWR) : -1;
	const char *end = arg("end") ? arg("end") : "commit";
	double start, used, ran, done, quiet;

	daemon_start();
	used = cpu();
	start = now();
	if (ctl >= 0)
		command(ctl, "begin");
	run((const char *const *)rest_args, arg("cwd"));
	ran = now();
	if (ctl >= 0)
		command(ctl, end);
	else if (arg("sync"))
		sync_fs(arg("sync"));
	done = now();
	used = cpu() - used;
	quiet = rest();
	begin_result();
	put("seconds", done - start);
	if (ctl >= 0 || arg("sync")) {
		put("end", done - ran);
		put("behind", quiet - done);
	}
	put("cpu", used);
	put("daemon", daemon_used());
	end_result();
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*fn)(void);
	} kinds[] = {
		{"commit", work_commit}, {"small", work_small}, {"sqlite", work_sqlite}, {"write", work_write},
		{"read", work_read},     {"meta", work_meta},   {"big", work_big},       {"flat", work_flat},
		{"open", work_open},     {"in", work_in},
	};

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody would read the result */
	args = argv + (argc > 1 ? 2 : 1);
	for (char **a = args; *a; a++)
		if (!strcmp(*a, "--")) {
			*a = NULL;
			rest_args = a + 1;
			break;
		}
	if (argc > 1)
		for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
			if (!strcmp(argv[1], kinds[i].name))
				return kinds[i].fn();
	fprintf(stderr, "usage: work KIND KEY=VALUE...\n");
	return 2;
}
