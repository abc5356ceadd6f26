/* store_kit.h - what the tests of the real directory share: a store in a temporary directory, short names for calls. */
#ifndef TXNFS_STORE_KIT_H
#define TXNFS_STORE_KIT_H

#include "base/base.h"
#include "txn/store.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define NOBODY 65534
#define TINY_CACHE 8

static UNUSED char tmp[512]; /* holds everything of a test */
static char src[1024];
static struct store *st;
static const struct store_ops *ops;
static struct store_obj *root;

/* Helpers */

static UNUSED int remove_one(const char *path, const struct stat *sb UNUSED, int type UNUSED, struct FTW *ftw UNUSED)
{
	return remove(path);
}

static UNUSED int open_one(const struct store_dir_options *opt, struct store **out, char *err)
{
	int wal = -1;
	int r = store_dir_open(src, opt, out, &wal, err, 256);
	if (!r)
		assert_true(wal >= 0);
	return r;
}

static UNUSED void open_store(unsigned max_cached)
{
	char err[256];
	struct store_dir_options opt = {.create = true, .max_cached = max_cached};
	int r = open_one(&opt, &st, err);
	if (r)
		fail_msg("open: %d %s", r, err);
	ops = st->ops;
	root = ops->root(st);
}

static UNUSED void close_store(void)
{
	if (st)
		ops->close(st);
	st = NULL;
}

static UNUSED int setup_dir(void **state UNUSED)
{
	const char *base = getenv("TXNFS_TEST_DIR");
	snprintf(tmp, sizeof(tmp), "%s/txnfs-store-XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(tmp));
	snprintf(src, sizeof(src), "%s/src", tmp);
	assert_int_equal(mkdir(src, 0755), 0);
	return 0;
}

static UNUSED int setup(void **state)
{
	setup_dir(state);
	open_store(0);
	return 0;
}

static UNUSED int setup_tiny(void **state)
{
	setup_dir(state);
	open_store(TINY_CACHE);
	return 0;
}

static UNUSED int teardown(void **state UNUSED)
{
	close_store();
	return nftw(tmp, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static UNUSED char *in_src(const char *rel)
{
	static char path[4][2048];
	static unsigned next;
	char *p = path[next++ % 4];
	snprintf(p, sizeof(path[0]), "%s/%s", src, rel);
	return p;
}

static UNUSED struct store_obj *look(struct store_obj *dir, const char *name)
{
	struct store_obj *o = NULL;
	int r = ops->lookup(dir, name, &o, NULL);
	if (r)
		fail_msg("lookup %s: %d", name, r);
	return o;
}

static UNUSED int look_error(struct store_obj *dir, const char *name)
{
	struct store_obj *o = NULL;
	int r = ops->lookup(dir, name, &o, NULL);
	if (!r)
		ops->put(o);
	return r;
}

static UNUSED struct store_obj *make(struct store_obj *dir, const char *name, mode_t mode)
{
	struct store_new nw = {.mode = mode, .uid = geteuid(), .gid = getegid(), .target = "target"};
	struct store_obj *o = NULL;
	int r = ops->create(dir, name, &nw, true, &o, NULL);
	if (r)
		fail_msg("create %s: %d", name, r);
	return o;
}

static UNUSED void make_and_put(struct store_obj *dir, const char *name, mode_t mode)
{
	ops->put(make(dir, name, mode));
}

static UNUSED struct stat attr_of(struct store_obj *o)
{
	struct stat s;
	int r = ops->getattr(o, &s);
	if (r)
		fail_msg("getattr: %d", r);
	return s;
}

static UNUSED void put_text(struct store_obj *o, const char *text)
{
	struct store_file *f;
	assert_int_equal(ops->open(o, O_WRONLY, true, &f), 0);
	assert_int_equal(ops->write(f, text, strlen(text), 0), strlen(text));
	ops->close_file(f);
}

static UNUSED void assert_text(struct store_obj *o, const char *text)
{
	char buf[256] = "";
	struct store_file *f;
	int r = ops->open(o, O_RDONLY, true, &f);
	if (r)
		fail_msg("open: %d, wanted \"%s\"", r, text);
	assert_int_equal(ops->read(f, buf, sizeof(buf) - 1, 0), strlen(text));
	assert_string_equal(buf, text);
	ops->close_file(f);
}

static UNUSED int open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/*
 * Run fn in a process of its own, as nobody on a directory that belongs to it or as we are. A failed assertion ends
 * only that process; its status is the result.
 */
static UNUSED int in_child(void (*fn)(void), bool nobody)
{
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit none = {0, 0};
		setrlimit(RLIMIT_CORE, &none);
		/* A thread that has created files as others keeps its capabilities through setuid. */
		prctl(PR_SET_SECUREBITS, 0);
		if (nobody && (setgid(NOBODY) || setuid(NOBODY)))
			_exit(99);
		/* Or cmocka would go on with the parent's tests. */
		setenv("CMOCKA_TEST_ABORT", "1", 1);
		fn();
		close_store();
		fflush(NULL);
		_exit(0);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	return status;
}

static UNUSED void as_nobody(void (*fn)(void))
{
	bool is_root = geteuid() == 0;
	if (is_root) {
		assert_int_equal(chmod(tmp, 0755), 0);
		assert_int_equal(chown(src, NOBODY, NOBODY), 0);
	}
	assert_int_equal(in_child(fn, is_root), 0);
}

struct listing {
	char names[64][32];
	mode_t kinds[64];
	int n, stop;
};

static UNUSED int list_one(void *arg, const struct store_dirent *de)
{
	struct listing *l = arg;
	snprintf(l->names[l->n], sizeof(l->names[0]), "%s", de->name);
	l->kinds[l->n++] = de->kind;
	return l->n == l->stop ? 77 : 0;
}

#endif
