/*
 * visible.c - writers that commit one number in many places, readers that must never see it go back.
 *
 *     visible MOUNT [--readers N] [--reads TOTAL] [--seconds S] [--modes LIST] [--ambient] [--churn]
 *
 * Works in a new directory MOUNT/visible. Each commit writes the number n, one more than before, everywhere: stamped all over pairs
 * of files of one stamp, a page, and 64 KiB; as their mtime and, modulo something, as a size; as the name of a file in two directories;
 * by its parity as a name that is there or not, twice; and as the name of a directory with a tree below it. Each reader
 * is a process that goes through all of it in changing order with warm caches. What it reads says which n it may be: it
 * must be one that is not older than any that it has seen before. Ends with a table, and with 1 when there was a violation.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define LARGE 65536
#define SIZES 512 /* the sized file has one size of so many */
#define EPOCH 1000000 /* mtimes: before any real one */
#define MAX_READERS 64

enum mode { HELD, REOPEN, STAT, FSTAT, SIZE, LIST, NAME, NEGATIVE, TREE, MMAP, MAPPED, MODES };
static const char *const mode_names[MODES] = {"held", "reopen", "stat", "fstat", "size", "list", "name", "negative", "tree",
                                              "mmap", "mapped"};

struct counts {
	atomic_ulong reads[MODES], bad[MODES], torn[MODES];
};

static struct shared {
	atomic_bool stop;
	atomic_ulong reads, commits, busy, churned;
	struct counts counts;
	atomic_int shown;
	struct {
		atomic_ulong step;
		char pad[56];
	} alive[MAX_READERS];
} *sh;

static const char *mnt;
static char dir[PATH_MAX], control[PATH_MAX];
static unsigned modes = (1u << MODES) - 1;
static bool ambient, churning;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "visible: %s: %s\n", what, strerror(errno));
	atomic_store(&sh->stop, true);
	_exit(2);
}

static const char *path(const char *base, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static const char *path(const char *base, const char *fmt, ...)
{
	static char bufs[4][PATH_MAX];
	static unsigned next;
	char *p = bufs[next++ % 4];
	va_list ap;
	int n = snprintf(p, sizeof(bufs[0]), "%s/", base);

	va_start(ap, fmt);
	vsnprintf(p + n, sizeof(bufs[0]) - (size_t)n, fmt, ap);
	va_end(ap);
	return p;
}

static char *keep(const char *fmt, const char *arg) __attribute__((format(printf, 1, 0)));
static char *keep(const char *fmt, const char *arg)
{
	char *p;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	if (asprintf(&p, fmt, arg) < 0)
		die("memory");
#pragma GCC diagnostic pop
	return p;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- the files ---- */

static const struct {
	const char *name;
	size_t size;
} files[] = {{"a8", 8}, {"b8", 8}, {"a4", PAGE}, {"b4", PAGE}, {"a64", LARGE}, {"b64", LARGE}};
#define FILES (sizeof(files) / sizeof(files[0]))

static void put(const char *base, const char *name, size_t size, uint64_t n)
{
	uint64_t buf[LARGE / 8];
	struct timespec times[2] = {{.tv_sec = (time_t)(EPOCH + n)}, {.tv_sec = (time_t)(EPOCH + n)}};
	int fd = open(path(base, "%s", name), O_WRONLY | O_CREAT, 0666);

	if (fd < 0)
		die(name);
	for (size_t i = 0; i < size / 8; i++)
		buf[i] = n;
	if (pwrite(fd, buf, size, 0) != (ssize_t)size || futimens(fd, times) || close(fd))
		die(name);
}

static void put_sized(const char *base, uint64_t n)
{
	char byte = 'x';
	off_t size = (off_t)(1 + n % SIZES * 40); /* across page boundaries */
	int fd = open(path(base, "sized"), O_WRONLY | O_CREAT, 0666);

	if (fd < 0 || ftruncate(fd, size) || pwrite(fd, &byte, 1, 0) != 1 || close(fd))
		die("sized");
}

static void make(const char *base, const char *name)
{
	int fd = open(path(base, "%s", name), O_WRONLY | O_CREAT | O_EXCL, 0666);

	if (fd < 0 || close(fd))
		die(name);
}

/* Everything, from n - 1 to n. */
static void advance(const char *base, uint64_t n)
{
	static const char *const parity[] = {"even", "odd"};

	for (size_t i = 0; i < FILES; i++)
		put(base, files[i].name, files[i].size, n);
	put_sized(base, n);
	for (int d = 0; d < 2; d++) {
		const char *sub = d ? "m" : "l";

		if (rename(path(base, "%s/v%llu", sub, (unsigned long long)n - 1), path(base, "%s/v%llu", sub,
		                                                                        (unsigned long long)n)))
			die("rename of a name");
		if (unlink(path(base, "%s/%s", sub, parity[(n - 1) & 1])))
			die("unlink");
		make(path(base, "%s", sub), parity[n & 1]);
	}
	if (rename(path(base, "tree/%s", parity[(n - 1) & 1]), path(base, "tree/%s", parity[n & 1])))
		die("rename of a tree");
	put(base, "noise", PAGE, n);
}

static void create_all(void)
{
	for (size_t i = 0; i < FILES; i++)
		put(dir, files[i].name, files[i].size, 0);
	put_sized(dir, 0);
	put(dir, "noise", PAGE, 0);
	put(dir, "bystander", LARGE, 0);
	for (int d = 0; d < 2; d++) {
		const char *sub = path(dir, "%s", d ? "m" : "l");

		if (mkdir(sub, 0777))
			die(sub);
		make(sub, "v0");
		make(sub, "even");
	}
	if (mkdir(path(dir, "tree"), 0777) || mkdir(path(dir, "tree/even"), 0777) ||
	    mkdir(path(dir, "tree/even/sub"), 0777))
		die("tree");
	put(dir, "tree/even/sub/leaf", 8, 0);
}

/* ---- writers ---- */

static int command(const char *ctl, const char *text)
{
	int fd = open(ctl, O_WRONLY), r = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		r = -errno;
	close(fd);
	return r;
}

/* The transaction's own readers see n before anybody else does. */
static void check_own(const char *base, uint64_t n)
{
	uint64_t v = 0;
	int fd = open(path(base, "a4"), O_RDONLY);

	if (fd < 0 || pread(fd, &v, sizeof(v), PAGE - 8) != 8)
		die("the writer's own read");
	close(fd);
	if (v != n) {
		fprintf(stderr, "visible: the writer reads %llu for %llu\n", (unsigned long long)v, (unsigned long long)n);
		die("own");
	}
}

static bool stopped(void)
{
	return atomic_load_explicit(&sh->stop, memory_order_relaxed);
}

static void nap(long us)
{
	nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static void write_loop(void)
{
	char *name = keep("%s/w", control), *root = keep("%s/w/root/visible", control);
	char *ctl = ambient ? keep("%s/ctl", control) : keep("%s/w/ctl", control);

	for (uint64_t n = 1; !stopped(); n++) {
		if (ambient ? command(ctl, "begin") : mkdir(name, 0777))
			die("begin");
		advance(ambient ? dir : root, n);
		if (churning)
			check_own(ambient ? dir : root, n);
		if (command(ctl, "commit"))
			die("commit");
		atomic_fetch_add(&sh->commits, 1);
	}
}

/* ---- churn: what else goes on beside it ---- */

/* A plain change of what the transactions change as well: refused now and then, seen by nobody who counts. */
static void churn_plain(void)
{
	uint64_t v = 1;
	int fd = open(path(dir, "noise"), O_RDWR);

	while (!stopped()) {
		if (pwrite(fd, &v, sizeof(v), 100) < 0 && errno != EBUSY)
			die("plain write");
		(void)!rename(path(dir, "l/churn1"), path(dir, "m/churn1"));
		atomic_fetch_add(&sh->churned, 1);
		nap(200);
	}
}

static void churn_mapped(void)
{
	int fd = open(path(dir, "bystander"), O_RDWR), fd2 = open(path(dir, "noise"), O_RDWR);
	volatile char *p = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	volatile char *q = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd2, 0);

	if (p == MAP_FAILED || q == MAP_FAILED)
		die("mmap");
	for (unsigned i = 0; !stopped(); i++) {
		p[i * PAGE % LARGE]++;
		q[200]++;
		if (i % 16 == 0)
			msync((void *)(uintptr_t)p, LARGE, MS_SYNC);
		atomic_fetch_add(&sh->churned, 1);
		nap(300);
	}
}

/* Transactions that come to nothing, and names that come and go beside those that count. */
static void churn_rollback(void)
{
	char *name = keep("%s/r", control), *root = keep("%s/r/root/visible", control), *ctl = keep("%s/r/ctl", control);

	for (unsigned i = 0; !stopped(); i++) {
		int fd;

		if (mkdir(name, 0777))
			die("begin of a rollback");
		put(root, "bystander2", LARGE, i);
		fd = open(path(root, "bystander"), O_RDWR);
		if (fd < 0 || (pwrite(fd, &i, sizeof(i), 5000) < 0 && errno != EBUSY))
			die("write to roll back");
		close(fd);
		if (command(ctl, i % 3 ? "rollback" : "commit") && i % 3)
			die("rollback");
		if (i % 3 == 0)
			rmdir(name);
		fd = open(path(dir, "l/churn%u", i % 8), O_WRONLY | O_CREAT, 0666);
		if (fd >= 0)
			close(fd);
		unlink(path(dir, "l/churn%u", (i + 4) % 8));
		atomic_fetch_add(&sh->churned, 1);
		nap(100);
	}
}

/* ---- readers ---- */

struct reader {
	unsigned number;
	uint64_t floor; /* nothing older may be seen from here on */
	enum mode last; /* which way it was learnt */
	unsigned seed;
	int fd[FILES], sized;
	const volatile uint64_t *map[FILES];
	unsigned long todo;
	struct {
		unsigned long reads, bad, torn;
	} c[MODES];
};

static void bad(struct reader *r, enum mode m, const char *what, uint64_t seen)
{
	r->c[m].bad++;
	if (atomic_fetch_add(&sh->shown, 1) < 20)
		fprintf(stderr, "reader %u: %s (%s) shows %llu after %llu (by %s)\n", r->number, mode_names[m], what,
		        (unsigned long long)seen, (unsigned long long)r->floor, mode_names[r->last]);
}

/* It shows between lo and hi. */
static void seen(struct reader *r, enum mode m, const char *what, uint64_t lo, uint64_t hi)
{
	r->c[m].reads++;
	r->c[m].torn += lo != hi;
	if (lo < r->floor) {
		bad(r, m, what, lo);
		r->floor = hi; /* one mistake, one violation */
	} else if (hi > r->floor) {
		r->floor = hi;
	}
	r->last = m;
}

/* It shows n modulo `of`: the next such number it can be. */
static void seen_modulo(struct reader *r, enum mode m, uint64_t rest, uint64_t of)
{
	r->c[m].reads++;
	r->floor += (rest + of - r->floor % of) % of;
	r->last = m;
}

static void seen_buf(struct reader *r, enum mode m, const char *what, const volatile uint64_t *p, size_t size)
{
	uint64_t lo = UINT64_MAX, hi = 0;

	for (size_t i = 0; i < size / 8; i++) {
		uint64_t v = p[i];

		lo = v < lo ? v : lo;
		hi = v > hi ? v : hi;
	}
	seen(r, m, what, lo, hi);
}

static void read_file(struct reader *r, enum mode m, size_t i)
{
	uint64_t buf[LARGE / 8];
	struct stat st;
	void *p;
	int fd;

	switch (m) {
	case HELD:
		if (pread(r->fd[i], buf, files[i].size, 0) != (ssize_t)files[i].size)
			die("pread");
		seen_buf(r, m, files[i].name, buf, files[i].size);
		break;
	case REOPEN:
		fd = open(path(dir, "%s", files[i].name), O_RDONLY);
		if (fd < 0 || read(fd, buf, files[i].size) != (ssize_t)files[i].size || close(fd))
			die("reading anew");
		seen_buf(r, m, files[i].name, buf, files[i].size);
		break;
	case STAT:
		if (stat(path(dir, "%s", files[i].name), &st))
			die("stat");
		seen(r, m, files[i].name, (uint64_t)st.st_mtime - EPOCH, (uint64_t)st.st_mtime - EPOCH);
		break;
	case FSTAT:
		if (fstat(r->fd[i], &st))
			die("fstat");
		seen(r, m, files[i].name, (uint64_t)st.st_mtime - EPOCH, (uint64_t)st.st_mtime - EPOCH);
		break;
	case MMAP:
		fd = open(path(dir, "%s", files[i].name), O_RDONLY);
		p = fd < 0 ? MAP_FAILED : mmap(NULL, files[i].size, PROT_READ, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED || close(fd))
			die("mapping anew");
		seen_buf(r, m, files[i].name, p, files[i].size);
		munmap(p, files[i].size);
		break;
	default: { /* MAPPED */
		uint64_t v = r->map[i][(unsigned)rand_r(&r->seed) % (files[i].size / 8)];

		seen(r, m, files[i].name, v, v);
		break;
	}
	}
}

static void read_list(struct reader *r, const char *sub)
{
	DIR *d = opendir(path(dir, "%s", sub));
	struct dirent *de;
	uint64_t lo = UINT64_MAX, hi = 0, v;

	if (!d)
		die(sub);
	while ((de = readdir(d)))
		if (de->d_name[0] == 'v') {
			v = strtoull(de->d_name + 1, NULL, 10);
			lo = v < lo ? v : lo;
			hi = v > hi ? v : hi;
		}
	closedir(d);
	if (lo == UINT64_MAX) {
		bad(r, LIST, "empty", 0);
		return;
	}
	seen(r, LIST, sub, lo, hi);
}

static bool there(const char *p)
{
	if (!access(p, F_OK))
		return true;
	if (errno != ENOENT)
		die(p);
	return false;
}

/* The names of numbers to come, so that the kernel remembers that there are none; and of those that have gone. */
static void read_negative(struct reader *r, const char *sub)
{
	for (uint64_t n = r->floor + 2; n + 2 > r->floor && n; n--) {
		bool yes = there(path(dir, "%s/v%llu", sub, (unsigned long long)n));

		if (yes)
			seen(r, NEGATIVE, sub, n, n);
		else
			r->c[NEGATIVE].reads++;
		if (yes)
			break;
	}
}

static void read_tree(struct reader *r, bool first)
{
	bool a = there(path(dir, "tree/%s/sub/leaf", first ? "odd" : "even"));
	struct stat st;

	seen_modulo(r, TREE, a == first, 2);
	/* What lies below a directory that is being moved is never away. */
	if (stat(path(dir, "tree"), &st))
		die("tree");
}

/* Once there and back: A then B, or B then A. */
static void step(struct reader *r)
{
	enum mode m = (enum mode)((unsigned)rand_r(&r->seed) % MODES);
	size_t pair = (unsigned)rand_r(&r->seed) % (FILES / 2) * 2;
	unsigned order = (unsigned)rand_r(&r->seed) & 1;
	struct stat st;

	if (!(modes & 1u << m))
		return;
	for (unsigned i = 0; i < 2; i++) {
		const char *sub = (i ^ order) ? "m" : "l";

		switch (m) {
		case HELD:
		case REOPEN:
		case STAT:
		case FSTAT:
		case MMAP:
		case MAPPED:
			read_file(r, m, pair + (i ^ order));
			break;
		case SIZE:
			if (i ? fstat(r->sized, &st) : stat(path(dir, "sized"), &st))
				die("size");
			seen_modulo(r, SIZE, (uint64_t)(st.st_size - 1) / 40, SIZES);
			break;
		case LIST:
			read_list(r, sub);
			break;
		case NAME: {
			bool odd = (unsigned)rand_r(&r->seed) & 1;

			seen_modulo(r, NAME, there(path(dir, "%s/%s", sub, odd ? "odd" : "even")) == odd, 2);
			break;
		}
		case NEGATIVE:
			read_negative(r, sub);
			break;
		case TREE:
			read_tree(r, i ^ order);
			break;
		default:
			break;
		}
	}
	/* What was inferred is confirmed, or not, by what says it all. */
	if (m == SIZE || m == NAME || m == TREE)
		read_file(r, order ? HELD : REOPEN, pair);
}

static void publish(struct reader *r)
{
	for (unsigned m = 0; m < MODES; m++) {
		atomic_fetch_add(&sh->reads, r->c[m].reads);
		atomic_fetch_add(&sh->counts.reads[m], r->c[m].reads);
		atomic_fetch_add(&sh->counts.bad[m], r->c[m].bad);
		atomic_fetch_add(&sh->counts.torn[m], r->c[m].torn);
	}
	memset(r->c, 0, sizeof(r->c));
}

static void read_loop(unsigned number)
{
	static struct reader r;

	r.number = number;
	r.seed = number * 7919 + (unsigned)getpid();
	for (size_t i = 0; i < FILES; i++) {
		r.fd[i] = open(path(dir, "%s", files[i].name), O_RDONLY);
		if (r.fd[i] < 0)
			die(files[i].name);
		r.map[i] = mmap(NULL, files[i].size, PROT_READ, MAP_SHARED, r.fd[i], 0);
		if (r.map[i] == MAP_FAILED)
			die("mmap");
	}
	r.sized = open(path(dir, "sized"), O_RDONLY);
	for (unsigned i = 0; !stopped(); i++) {
		step(&r);
		if (i % 64 == 0)
			publish(&r);
		atomic_fetch_add_explicit(&sh->alive[number].step, 1, memory_order_relaxed);
	}
	publish(&r);
}

/* ---- the parent ---- */

static pid_t spawn(void (*fn)(void))
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fn();
	_exit(0);
}

static unsigned reader_number;
static void read_one(void)
{
	read_loop(reader_number);
}

static unsigned parse_modes(char *list)
{
	unsigned set = 0;

	for (char *p = strtok(list, ","); p; p = strtok(NULL, ","))
		for (unsigned m = 0; m < MODES; m++)
			if (!strcmp(p, mode_names[m]))
				set |= 1u << m;
	return set;
}

static int table(unsigned readers, double seconds)
{
	unsigned long all = 0, torn = 0;

	printf("%u readers, %lu commits, %lu reads in %.1f s (%lu other changes)\n", readers, atomic_load(&sh->commits),
	       atomic_load(&sh->reads), seconds, atomic_load(&sh->churned));
	for (unsigned m = 0; m < MODES; m++) {
		if (!atomic_load(&sh->counts.reads[m]))
			continue;
		printf("  %-9s %10lu reads %8lu older after newer %8lu torn\n", mode_names[m],
		       atomic_load(&sh->counts.reads[m]), atomic_load(&sh->counts.bad[m]), atomic_load(&sh->counts.torn[m]));
		all += atomic_load(&sh->counts.bad[m]);
		torn += atomic_load(&sh->counts.torn[m]);
	}
	printf("total %lu reads %lu older after newer %lu torn\n", atomic_load(&sh->reads), all, torn);
	return all ? 1 : 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"readers", 1, NULL, 'r'}, {"reads", 1, NULL, 'n'},
	                                        {"seconds", 1, NULL, 's'}, {"modes", 1, NULL, 'm'},   {"ambient", 0, NULL, 'a'},
	                                        {"churn", 0, NULL, 'x'},   {NULL, 0, NULL, 0}};
	unsigned long reads = 0;
	unsigned readers = 4;
	double seconds = 5, began, moved;
	pid_t pids[MAX_READERS + 8];
	unsigned n = 0, left;
	int o, status, worst = 0;

	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (o) {
		case 'r': readers = (unsigned)atoi(optarg); break;
		case 'n': reads = strtoul(optarg, NULL, 10); break;
		case 's': seconds = atof(optarg); break;
		case 'm': modes = parse_modes(optarg); break;
		case 'a': ambient = true; break;
		case 'x': churning = true; break;
		default: return 2;
		}
	}
	if (optind != argc - 1 || !readers || readers > MAX_READERS || !modes) {
		fprintf(stderr, "usage: visible MOUNT [--readers N] [--reads N] [--seconds S] [--modes LIST] [--ambient] [--churn]\n");
		return 2;
	}
	mnt = argv[optind];
	if (snprintf(dir, sizeof(dir), "%s/visible", mnt) >= NAME_MAX || snprintf(control, sizeof(control), "%s/.txn", mnt) < 0)
		return 2;
	if (mkdir(dir, 0777)) {
		perror(dir);
		return 2;
	}
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED)
		return 2;
	create_all();
	began = moved = now();
	for (unsigned i = 0; i < readers; i++) {
		reader_number = i;
		pids[n++] = spawn(read_one);
	}
	pids[n++] = spawn(write_loop);
	if (churning) {
		pids[n++] = spawn(churn_plain);
		pids[n++] = spawn(churn_mapped);
		pids[n++] = spawn(churn_rollback);
	}
	/* Until enough was read, and nothing may stand still. */
	for (unsigned long last = 0; !stopped();) {
		unsigned long commits = atomic_load(&sh->commits);

		nap(20000);
		if (commits != last)
			moved = now();
		last = commits;
		if (now() - moved > 30) {
			fprintf(stderr, "visible: no commit for 30 s\n");
			worst = 3;
			break;
		}
		if (now() - began > seconds && atomic_load(&sh->reads) >= reads)
			break;
	}
	began = now() - began;
	atomic_store(&sh->stop, true);
	for (left = n; left; left--) {
		if (wait(&status) < 0)
			break;
		if (status && !worst)
			worst = 2;
	}
	(void)pids;
	o = table(readers, began);
	return worst ? worst : o;
}
