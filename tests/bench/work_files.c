/*
 * work_files.c - ordinary work on files, large transactions, and many operations in one.
 *
 *	work write|read file=FILE bytes=N block=B [random=1] [count=N] [home=FILE [cold=1]] [bed=DIRECTORY] [pid=DAEMON]
 *	work meta dir=DIRECTORY n=FILES
 *	work big change=new|trunc|append|over file=FILE bytes=N [ctl=FILE [end=commit|rollback]] [bed=DIRECTORY]
 *	work flat change=write|create dir=DIRECTORY n=OPERATIONS [ctl=FILE]
 *	work open dir=DIRECTORY named=MNT/.txn root=RELATIVE n=OPEN-TRANSACTIONS ctl=FILE reps=R
 *
 * home is the file's place in the backing directory.
 */
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define DATA_SIZE (4 * MIB)

static char *noise_data(size_t len)
{
	char *data = malloc(len);

	if (!data)
		fail("memory");
	fill(data, len, arg_num("seed") + 1);
	return data;
}

static void settle(void)
{
	if (arg("bed"))
		sync_fs(arg("bed"));
	rest();
	daemon_start();
}

static void write_much(int fd, const char *data, uint64_t from, uint64_t bytes, size_t block)
{
	for (uint64_t done = 0; done < bytes; done += block) {
		size_t len = bytes - done < block ? bytes - done : block;

		write_at(fd, data + done / block % 3 * (DATA_SIZE / 4), len, from + done);
	}
}

/* A file of that size, written and durable. */
static void make_file(const char *name, const char *data, uint64_t bytes)
{
	int fd = open_file(name, O_WRONLY | O_CREAT | O_TRUNC);

	write_much(fd, data, 0, bytes, MIB);
	if (fsync(fd) || close(fd))
		fail("fsync %s", name);
}

static void drop_pages(const char *name)
{
	int fd = open_file(name, O_RDONLY);

	if (posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED))
		fail("fadvise %s", name);
	close(fd);
}

static void result(double seconds, double used, double units)
{
	rest();
	begin_result();
	put("seconds", seconds / units);
	put("per_second", units / seconds);
	put("cpu", used / units);
	put("daemon", daemon_used() / units);
	end_result();
}

int work_write(void)
{
	size_t block = arg_num("block");
	uint64_t bytes = arg_num("bytes"), count = arg_num("count"), state = arg_num("seed");
	const char *name = must_arg("file");
	char *data = noise_data(DATA_SIZE);
	double start, used;
	int fd;

	if (arg_num("random"))
		make_file(name, data, bytes);
	settle();
	used = cpu();
	start = now();
	if (arg_num("random")) {
		fd = open_file(name, O_WRONLY);
		for (uint64_t i = 0; i < count; i++)
			write_at(fd, data + i % 64 * 512, block, noise(&state) % (bytes / block) * block);
	} else {
		fd = open_file(name, O_WRONLY | O_CREAT | O_TRUNC);
		count = bytes / block;
		write_much(fd, data, 0, bytes, block);
	}
	close(fd);
	result(now() - start, cpu() - used, (double)count);
	return 0;
}

int work_read(void)
{
	size_t block = arg_num("block");
	uint64_t bytes = arg_num("bytes"), count = arg_num("count"), state = arg_num("seed");
	bool random = arg_num("random") != 0;
	const char *name = must_arg("file");
	char *data = noise_data(DATA_SIZE), *buf = malloc(block);
	double start, used;
	int fd;

	make_file(name, data, bytes);
	settle();
	if (arg("home")) {
		drop_pages(name);
		if (arg_num("cold"))
			drop_pages(arg("home"));
		rest();
		daemon_start();
	}
	if (!random)
		count = bytes / block;
	used = cpu();
	start = now();
	fd = open_file(name, O_RDONLY);
	if (random) /* no readahead, as a database asks for it */
		posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t at = (random ? noise(&state) % count : i) * block % bytes;

		errno = EIO;
		if (pread(fd, buf, block, (off_t)at) != (ssize_t)block)
			fail("read %s", name);
	}
	close(fd);
	result(now() - start, cpu() - used, (double)count);
	return 0;
}

int work_meta(void)
{
	const char *dir = must_arg("dir");
	unsigned n = (unsigned)arg_num("n");
	double t[4], used;
	struct stat st;

	make_dir(dir);
	settle();
	used = cpu();
	t[0] = now();
	for (unsigned i = 0; i < n; i++)
		close(open_file(path("%s/f%u", dir, i), O_WRONLY | O_CREAT | O_EXCL));
	t[1] = now();
	for (unsigned i = 0; i < n; i++)
		if (stat(path("%s/f%u", dir, i), &st))
			fail("stat");
	t[2] = now();
	for (unsigned i = 0; i < n; i++)
		if (unlink(path("%s/f%u", dir, i)))
			fail("unlink");
	t[3] = now();
	used = cpu() - used;
	rest();
	begin_result();
	put("create", (t[1] - t[0]) / n);
	put("stat", (t[2] - t[1]) / n);
	put("unlink", (t[3] - t[2]) / n);
	put("seconds", (t[3] - t[0]) / n);
	put("cpu", used / n);
	put("daemon", daemon_used() / n);
	end_result();
	return 0;
}

int work_big(void)
{
	const char *kind = must_arg("change"), *name = must_arg("file");
	const char *end = arg("end") ? arg("end") : "commit";
	uint64_t bytes = arg_num("bytes"), from = 0;
	char *data = noise_data(DATA_SIZE);
	int ctl = arg("ctl") ? open_file(arg("ctl"), O_RDWR) : -1, fd, flags = O_WRONLY;
	double start, used, written, done, quiet;

	if (!strcmp(kind, "new"))
		flags |= O_CREAT | O_EXCL;
	else
		make_file(name, data, !strcmp(kind, "append") ? MIB : bytes);
	if (!strcmp(kind, "trunc"))
		flags |= O_TRUNC;
	if (!strcmp(kind, "append"))
		from = MIB;
	settle();
	used = cpu();
	start = now();
	if (ctl >= 0)
		command(ctl, "begin");
	fd = open_file(name, flags);
	write_much(fd, data + DATA_SIZE / 8, from, bytes, MIB / 2);
	written = now();
	if (ctl >= 0) {
		close(fd);
		command(ctl, end);
	} else if (fsync(fd)) {
		fail("fsync %s", name);
	}
	done = now();
	used = cpu() - used;
	quiet = rest();
	begin_result();
	put("seconds", done - start);
	put("end", done - written);
	put("behind", quiet - done);
	put("cpu", used);
	put("daemon", daemon_used());
	end_result();
	return 0;
}

/* n operations in one transaction, on files of 1 MiB each or on new names in directories of 1000. */
int work_flat(void)
{
	bool create = !strcmp(must_arg("change"), "create");
	const char *dir = must_arg("dir");
	unsigned n = (unsigned)arg_num("n");
	int ctl = arg("ctl") ? open_file(arg("ctl"), O_RDWR) : -1, fd[16];
	uint64_t state = arg_num("seed");
	char *data = noise_data(DATA_SIZE);
	double start, used, did, done, quiet;

	make_dir(dir);
	for (unsigned i = 0; i < ARRAY_LEN(fd) && !create; i++)
		make_file(path("%s/f%u", dir, i), data, MIB);
	settle();
	used = cpu();
	start = now();
	if (ctl >= 0)
		command(ctl, "begin");
	for (unsigned i = 0; i < ARRAY_LEN(fd) && !create; i++)
		fd[i] = open_file(path("%s/f%u", dir, i), O_WRONLY);
	for (unsigned i = 0; i < n; i++) {
		if (!create) {
			write_at(fd[i % ARRAY_LEN(fd)], data + i % 512, 128, noise(&state) % (MIB - 128));
			continue;
		}
		if (i % 1000 == 0)
			make_dir(path("%s/d%u", dir, i / 1000));
		close(open_file(path("%s/d%u/f%u", dir, i / 1000, i), O_WRONLY | O_CREAT | O_EXCL));
	}
	did = now();
	for (unsigned i = 0; i < ARRAY_LEN(fd) && !create; i++)
		close(fd[i]);
	if (ctl >= 0)
		command(ctl, "commit");
	done = now();
	used = cpu() - used;
	quiet = rest();
	begin_result();
	put("seconds", (done - start) / n);
	put("operation", (did - start) / n);
	put("end", (done - did) / n);
	put("behind", (quiet - done) / n);
	put("cpu", used / n);
	put("daemon", daemon_used() / n);
	end_result();
	return 0;
}

/* Small transactions while n others are open, each with a change. */
int work_open(void)
{
	const char *named = must_arg("named"), *dir = must_arg("dir");
	unsigned n = (unsigned)arg_num("n"), reps = (unsigned)arg_num("reps");
	int ctl = open_file(must_arg("ctl"), O_RDWR);
	char data[4096];
	double start, used, daemon;

	make_dir(dir);
	fill(data, sizeof(data), arg_num("seed"));
	write_file(path("%s/mine", dir), data, sizeof(data));
	for (unsigned i = 0; i < n; i++) {
		if (mkdir(path("%s/o%u", named, i), 0755))
			fail("transaction %u", i);
		write_file(path("%s/o%u/root/%s/x%u", named, i, must_arg("root"), i), data, 128);
	}
	settle();
	used = cpu();
	start = now();
	for (unsigned i = 0; i < reps; i++) {
		int fd;

		command(ctl, "begin");
		fd = open_file(path("%s/mine", dir), O_WRONLY);
		write_at(fd, data, 128, i % 32 * 128);
		close(fd);
		command(ctl, "commit");
	}
	start = now() - start;
	used = cpu() - used;
	rest();
	daemon = daemon_used();
	for (unsigned i = 0; i < n; i++)
		if (rmdir(path("%s/o%u", named, i)))
			fail("rolling back transaction %u", i);
	begin_result();
	put("seconds", start / reps);
	put("cpu", used / reps);
	put("daemon", daemon / reps);
	end_result();
	return 0;
}
