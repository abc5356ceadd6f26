/*
 * work_commit.c - storing n files durably as one unit, and many small units per second.
 *
 *	work commit how=HOW dir=DIRECTORY n=FILES size=BYTES reps=R [over=1] [cold=1] [ctl=FILE] [pid=DAEMON]
 *	work small how=HOW dir=DIRECTORY clients=N seconds=S [held=1] [ctl=FILE] [pid=DAEMON]
 *
 * over=1: files that exist are overwritten, else they are new. cold=1: no unit beforehand that does not count. Both
 * take bed=DIRECTORY, to sync before the clock runs.
 */
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define COPIED 100 /* files that a copied directory has at least */
#define RECORD 512 /* bytes that a log would have for a small transaction */
#define LOG_SIZE (8u << 20)

struct job {
	const char *dir;
	unsigned n, rep;
	size_t size;
	bool over;
	char *data; /* n * size bytes */
	int ctl, floor;
	struct db *db;
	double mark; /* when the command to commit was given */
};

static const char *file_name(const struct job *j, const char *dir, unsigned i)
{
	return j->over ? path("%s/o%06u", dir, i) : path("%s/n%u_%06u", dir, j->rep, i);
}

/* The files, into a directory. Overwritten ones keep their size. */
static void put_files(const struct job *j, const char *where)
{
	char dir[4096];

	snprintf(dir, sizeof(dir), "%s", where);
	for (unsigned i = 0; i < j->n; i++) {
		const char *name = file_name(j, dir, i);
		int fd = open_file(name, O_WRONLY | (j->over ? 0 : O_CREAT | O_EXCL));

		write_at(fd, j->data + i * j->size, j->size, 0);
		if (close(fd))
			fail("close %s", name);
	}
}

static void fill_dir(const struct job *j, const char *where, unsigned count)
{
	char dir[4096];

	snprintf(dir, sizeof(dir), "%s", where);
	make_dir(dir);
	for (unsigned i = 0; i < count; i++)
		write_file(path("%s/o%06u", dir, i), j->data + i % j->n * j->size, j->size);
}

/* ---- txnfs: an ambient transaction, a named one ---- */

static void ambient_prepare(struct job *j)
{
	fill_dir(j, j->dir, j->over ? j->n : 0);
	j->ctl = open_file(must_arg("ctl"), O_RDWR);
}

static void ambient_do(struct job *j)
{
	command(j->ctl, "begin");
	put_files(j, j->dir);
	j->mark = now();
	command(j->ctl, "commit");
}

static void named_prepare(struct job *j)
{
	fill_dir(j, j->dir, j->over ? j->n : 0);
}

/* dir is MNT/NAME: the transaction sees it at MNT/.txn/t/root/NAME. */
static void named_do(struct job *j)
{
	const char *base = strrchr(j->dir, '/');
	char tx[4096];
	int ctl;

	snprintf(tx, sizeof(tx), "%.*s/.txn/t", (int)(base - j->dir), j->dir);
	if (mkdir(tx, 0755))
		fail("mkdir %s", tx);
	put_files(j, path("%s/root%s", tx, base));
	ctl = open_file(path("%s/ctl", tx), O_RDWR);
	j->mark = now();
	command(ctl, "commit");
	close(ctl);
}

/* ---- the floor: the same bytes, once, to a file that was written before ---- */

static void floor_prepare(struct job *j)
{
	make_dir(j->dir);
	write_file(path("%s/floor", j->dir), j->data, j->n * j->size);
	j->floor = open_file(path("%s/floor", j->dir), O_WRONLY);
	if (fsync(j->floor))
		fail("fsync");
}

static void floor_do(struct job *j)
{
	j->mark = now();
	write_at(j->floor, j->data, j->n * j->size, 0);
	if (fdatasync(j->floor))
		fail("fdatasync");
}

/* ---- a temporary file, fsync and rename per file ---- */

static void rename_prepare(struct job *j)
{
	fill_dir(j, j->dir, j->over ? j->n : 0);
}

static void sync_dir(const char *name)
{
	int fd = open_file(name, O_RDONLY | O_DIRECTORY);

	if (fsync(fd))
		fail("fsync %s", name);
	close(fd);
}

static void rename_do(struct job *j)
{
	char tmp[4096];

	snprintf(tmp, sizeof(tmp), "%s/tmp", j->dir);
	for (unsigned i = 0; i < j->n; i++) {
		const char *name = file_name(j, j->dir, i);
		int fd = open_file(tmp, O_WRONLY | O_CREAT | O_EXCL);

		write_at(fd, j->data + i * j->size, j->size, 0);
		if (fsync(fd))
			fail("fsync %s", tmp);
		close(fd);
		if (rename(tmp, name))
			fail("rename %s", name);
	}
	j->mark = now();
	sync_dir(j->dir); /* once, which favours it */
}

/* ---- databases with a row per file ---- */

static void db_prepare(struct job *j)
{
	make_dir(j->dir);
	j->db = db_open(must_arg("how"), j->dir);
	if (!j->over)
		return;
	db_begin(j->db);
	for (unsigned i = 0; i < j->n; i++)
		db_put(j->db, file_name(j, "", i), j->data + i * j->size, j->size);
	db_commit(j->db);
}

static void db_do(struct job *j)
{
	db_begin(j->db);
	for (unsigned i = 0; i < j->n; i++)
		db_put(j->db, file_name(j, "", i), j->data + i * j->size, j->size);
	j->mark = now();
	db_commit(j->db);
}

/* ---- git ---- */

static void git(const struct job *j, const char *const words[])
{
	const char *argv[16] = {"git",         "-c", "core.fsync=all", "-c", "gc.auto=0", "-c",
	                        "user.name=b", "-c", "user.email=b@b"};
	unsigned n = 9;

	while (*words && n < ARRAY_LEN(argv) - 1)
		argv[n++] = *words++;
	run(argv, j->dir);
}

static void git_prepare(struct job *j)
{
	fill_dir(j, j->dir, COPIED > j->n ? COPIED : j->n);
	git(j, (const char *const[]){"init", "-q", NULL});
	git(j, (const char *const[]){"add", "-A", NULL});
	git(j, (const char *const[]){"commit", "-q", "-m", "base", NULL});
}

static void git_do(struct job *j)
{
	put_files(j, j->dir);
	j->mark = now();
	git(j, (const char *const[]){"add", "-A", NULL});
	git(j, (const char *const[]){"commit", "-q", "-m", "next", NULL});
}

/* ---- btrfs: a snapshot to go back to, changes, sync ---- */

static void subvolume(const char *dir, unsigned long request, const char *name, int source)
{
	int fd = open_file(dir, O_RDONLY | O_DIRECTORY), r;
	struct btrfs_ioctl_vol_args_v2 v2 = {.fd = source};
	struct btrfs_ioctl_vol_args v1 = {0};

	snprintf(v2.name, sizeof(v2.name), "%s", name);
	snprintf(v1.name, sizeof(v1.name), "%s", name);
	r = ioctl(fd, request, request == BTRFS_IOC_SNAP_CREATE_V2 ? (void *)&v2 : (void *)&v1);
	if (r)
		fail("a btrfs subvolume %s/%s", dir, name);
	close(fd);
}

static void btrfs_prepare(struct job *j)
{
	make_dir(j->dir);
	subvolume(j->dir, BTRFS_IOC_SUBVOL_CREATE, "cur", 0);
	fill_dir(j, path("%s/cur", j->dir), COPIED > j->n ? COPIED : j->n);
}

static void btrfs_do(struct job *j)
{
	const char *cur = path("%s/cur", j->dir);
	int source = open_file(cur, O_RDONLY | O_DIRECTORY);

	subvolume(j->dir, BTRFS_IOC_SNAP_CREATE_V2, "old", source);
	close(source);
	put_files(j, path("%s/cur", j->dir));
	j->mark = now();
	sync_fs(j->dir);
}

static void btrfs_after(struct job *j)
{
	subvolume(j->dir, BTRFS_IOC_SNAP_DESTROY, "old", 0);
}

/* ---- a copy of the directory, swapped ---- */

static void swap_prepare(struct job *j)
{
	make_dir(j->dir);
	fill_dir(j, path("%s/cur", j->dir), COPIED > j->n ? COPIED : j->n);
}

static void swap_do(struct job *j)
{
	run((const char *const[]){"cp", "-a", "cur", "next", NULL}, j->dir);
	put_files(j, path("%s/next", j->dir));
	j->mark = now();
	sync_fs(j->dir); /* cheaper than an fsync of each */
	if (renameat2(AT_FDCWD, path("%s/cur", j->dir), AT_FDCWD, path("%s/next", j->dir), RENAME_EXCHANGE))
		fail("exchange in %s", j->dir);
	sync_dir(j->dir);
}

static void swap_after(struct job *j)
{
	remove_tree(path("%s/next", j->dir));
}

static const struct way {
	const char *name;
	void (*prepare)(struct job *j);
	void (*once)(struct job *j);
	void (*after)(struct job *j); /* or NULL; not timed */
} ways[] = {
	{"ambient", ambient_prepare, ambient_do, NULL},
	{"named", named_prepare, named_do, NULL},
	{"floor", floor_prepare, floor_do, NULL},
	{"rename", rename_prepare, rename_do, NULL},
	{"sqlite", db_prepare, db_do, NULL},
	{"lmdb", db_prepare, db_do, NULL},
	{"git", git_prepare, git_do, NULL},
	{"btrfs", btrfs_prepare, btrfs_do, btrfs_after},
	{"swap", swap_prepare, swap_do, swap_after},
};

static const struct way *find_way(void)
{
	for (size_t i = 0; i < ARRAY_LEN(ways); i++)
		if (!strcmp(ways[i].name, must_arg("how")))
			return &ways[i];
	errno = EINVAL;
	fail("how=%s", must_arg("how"));
}

int work_commit(void)
{
	const struct way *way = find_way();
	struct job j = {.dir = must_arg("dir"),
	                .n = (unsigned)arg_num("n"),
	                .size = arg_num("size"),
	                .over = arg_num("over") != 0};
	unsigned reps = (unsigned)arg_num("reps");
	double total = 0, commit = 0, used = 0, start, before;

	j.data = malloc(j.n * j.size + 1);
	if (!j.data || !reps)
		fail("n= or size= or reps=");
	fill(j.data, j.n * j.size, arg_num("seed"));
	way->prepare(&j);
	if (arg("bed"))
		sync_fs(arg("bed"));
	/* The first one does not count: it finds files made a moment ago, which are durable on the bed only. */
	for (j.rep = arg_num("cold") ? 1 : 0; j.rep <= reps; j.rep++) {
		if (j.rep == 1) {
			total = commit = used = 0;
			daemon_start();
		}
		fill(j.data, j.n * j.size, arg_num("seed") + 1000003 * (j.rep + 1));
		before = cpu();
		start = now();
		way->once(&j);
		commit += now() - j.mark;
		total += now() - start;
		used += cpu() - before;
		if (way->after)
			way->after(&j);
		rest();
	}
	if (j.db)
		db_close(j.db);
	begin_result();
	put("seconds", total / reps);
	put("commit", commit / reps);
	put("cpu", used / reps);
	put("daemon", daemon_used() / reps);
	end_result();
	return 0;
}

/* ---- small ones, many per second ---- */

struct small {
	const char *how, *dir;
	bool held;
	int ctl, file, me;
	struct db *db;
	uint64_t offset;
};

static void small_prepare(struct small *s)
{
	static char zero[LOG_SIZE];

	if (!strcmp(s->how, "floor")) {
		write_file(path("%s/log%d", s->dir, s->me), zero, sizeof(zero));
		s->file = open_file(path("%s/log%d", s->dir, s->me), O_WRONLY);
		if (fsync(s->file))
			fail("fsync");
	} else if (!strcmp(s->how, "sqlite") || !strcmp(s->how, "lmdb")) {
		s->db = db_open(s->how, s->dir);
	} else {
		write_file(path("%s/c%02d", s->dir, s->me), zero, 4096);
	}
	if (!strcmp(s->how, "ambient"))
		s->ctl = s->held ? open_file(must_arg("ctl"), O_RDWR) : -1;
}

static void ambient_command(const struct small *s, const char *text)
{
	int ctl = s->held ? s->ctl : open_file(must_arg("ctl"), O_RDWR);

	command(ctl, text);
	if (!s->held)
		close(ctl);
}

static void small_once(struct small *s, const char data[RECORD])
{
	const char *name = path("%s/c%02d", s->dir, s->me);
	int fd;

	if (!strcmp(s->how, "ambient")) {
		ambient_command(s, "begin");
		fd = open_file(name, O_WRONLY);
		write_at(fd, data, 128, 0);
		close(fd);
		ambient_command(s, "commit");
	} else if (!strcmp(s->how, "floor")) {
		write_at(s->file, data, RECORD, s->offset);
		s->offset = (s->offset + RECORD) % LOG_SIZE;
		if (fdatasync(s->file))
			fail("fdatasync");
	} else if (!strcmp(s->how, "rename")) {
		const char *tmp = path("%s/t%02d", s->dir, s->me);

		fd = open_file(tmp, O_WRONLY | O_CREAT | O_TRUNC);
		write_at(fd, data, 128, 0);
		if (fsync(fd) || close(fd) || rename(tmp, name))
			fail("replacing %s", name);
		sync_dir(s->dir);
	} else {
		db_begin(s->db);
		db_put(s->db, path("c%02d", s->me), data, 128);
		db_commit(s->db);
	}
}

/* Shared by the clients: who is ready, when to go, how many each has done. */
struct board {
	_Atomic unsigned ready;
	_Atomic bool go, stop;
	_Atomic uint64_t done;
};

static noreturn void client(struct board *b, struct small *s)
{
	struct timespec pause = {.tv_nsec = 200000};
	uint64_t state = arg_num("seed") + (uint64_t)s->me, count = 0;
	char data[RECORD];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	small_prepare(s);
	b->ready++;
	while (!b->go)
		nanosleep(&pause, NULL);
	while (!b->stop) {
		fill(data, sizeof(data), noise(&state));
		small_once(s, data);
		count++;
	}
	b->done += count;
	if (s->db)
		db_close(s->db);
	_exit(0);
}

int work_small(void)
{
	unsigned clients = (unsigned)arg_num("clients");
	double seconds = strtod(must_arg("seconds"), NULL), used, start, took;
	struct board *b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct timespec pause = {.tv_nsec = 1000000};
	pid_t pids[256];

	if (b == MAP_FAILED || clients > ARRAY_LEN(pids))
		fail("clients=%u", clients);
	make_dir(must_arg("dir"));
	for (unsigned i = 0; i < clients; i++) {
		struct small s = {
			.how = must_arg("how"), .dir = must_arg("dir"), .held = arg_num("held") != 0, .me = (int)i};

		pids[i] = fork();
		if (pids[i] < 0)
			fail("fork");
		if (!pids[i])
			client(b, &s);
	}
	for (start = now(); b->ready < clients; nanosleep(&pause, NULL)) {
		errno = ETIMEDOUT;
		if (now() - start > 60)
			fail("a client does not get ready");
	}
	if (arg("bed"))
		sync_fs(arg("bed"));
	rest();
	daemon_start();
	used = cpu();
	start = now();
	b->go = true;
	pause = (struct timespec){.tv_sec = (time_t)seconds,
	                          .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
	nanosleep(&pause, NULL);
	b->stop = true;
	for (unsigned i = 0; i < clients; i++)
		wait_child(pids[i], "a client");
	took = now() - start;
	used = cpu() - used;
	rest();
	errno = EIO;
	if (!b->done)
		fail("nothing was done in %.1f seconds", took);
	begin_result();
	put("per_second", (double)b->done / took);
	put("seconds", took / (double)b->done);
	put("cpu", used / (double)b->done);
	put("daemon", daemon_used() / (double)b->done);
	end_result();
	return 0;
}
