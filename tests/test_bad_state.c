/*
 * test_bad_state.c - what may stand in the state directory besides what belongs there: every byte of the format file
 * damaged, every length of it; links, fifos, directories and strangers in the place of its files. Opening refuses and
 * says why, or works; nothing outside of the backing directory is touched, no link followed, nobody waits for a fifo.
 *
 * TXNFS_STATE="WHAT PATH" repeats one case of the tables (a failure prints it).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define BB_FAIL fail_msg
#include "tests/bad_bytes_kit.h"
#include "tests/engine_kit.h"

#include <signal.h>

static struct bb_disk disk;
static char state_path[256], running[300];

#define WRONG(...)                                                                                                     \
	do {                                                                                                           \
		char text_[3000];                                                                                      \
		snprintf(text_, sizeof(text_), __VA_ARGS__);                                                           \
		fail_msg("TXNFS_STATE=\"%s\": %s", running, text_);                                                    \
	} while (0)

/* ---- a directory with a log that has something to redo ---- */

static struct txn_engine *open_engine(char *err, size_t errlen, int *r)
{
	struct txn_config cfg = {.store = disk.store,
	                         .os = disk.os,
	                         .wal_dirfd = disk.wal,
	                         .segment_size = WAL_SEGMENT_MIN,
	                         .no_threads = true};
	struct txn_engine *eng = NULL;

	*r = txn_engine_open(&cfg, &eng, NULL, err, errlen);
	return eng;
}

static struct kit life(void)
{
	struct kit k = {.wal = -1};
	char err[512];
	int r;

	bb_open(&disk, true);
	k.eng = open_engine(err, sizeof(err), &r);
	if (r)
		fail_msg("the engine does not open: %s", err);
	return k;
}

static void make_disk(void)
{
	struct txn *t;
	struct kit k;

	bb_new_real(&disk);
	snprintf(state_path, sizeof(state_path), "%s/" STORE_STATE_DIR, disk.src);
	for (int i = 0; i < 2; i++) { /* twice: the first segment goes */
		k = life();
		kit_put(&k, NULL, "plain", "plain\n");
		assert_int_equal(txn_engine_close(k.eng), 0);
		bb_close(&disk);
	}
	k = life();
	t = kit_begin(&k);
	kit_put(&k, t, "committed", "committed\n");
	kit_create(&k, t, "dir", S_IFDIR | 0755);
	kit_commit(t);
	txn_engine_abandon(k.eng);
	bb_close(&disk);
}

/* ---- looking at the tree without the store ---- */

static struct base_buf tree;

static int tree_one(const char *path, const struct stat *st, int flag UNUSED, struct FTW *ftw)
{
	if (ftw->level == 0 || strstr(path, "/" STORE_STATE_DIR))
		return 0;
	base_buf_printf(&tree, "%s %o size %lld ino %llu mtime %lld.%09ld\n", path, st->st_mode,
	                S_ISDIR(st->st_mode) ? 0 : (long long)st->st_size, (unsigned long long)st->st_ino,
	                (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	return 0;
}

static char *tree_text(void)
{
	tree = (struct base_buf){0};
	base_buf_printf(&tree, "%s", "");
	nftw(disk.src, tree_one, 16, FTW_PHYS);
	return (char *)tree.p;
}

/* ---- opening ---- */

static void too_long(int sig UNUSED)
{
	dprintf(2, "TXNFS_STATE=\"%s\": it waits for something\n", running);
	_exit(1);
}

static void readable(const char *err)
{
	size_t n = strlen(err);

	if (!n || strpbrk(err, "\n\r\x1b"))
		WRONG("unreadable: \"%s\"", err);
}

static void check_line(void *arg UNUSED, const char *line)
{
	readable(line);
}

static int log_line(void *arg UNUSED, const struct txn_log_line *line UNUSED)
{
	return 0;
}

/* As `txnfs check` and `txnfs log` do. */
static void look_only(void)
{
	struct store_dir_options so = {.read_only = true};
	struct txn_check out;
	char err[512] = "";
	int r = store_dir_open(disk.src, &so, &disk.store, &disk.wal, err, sizeof(err));

	if (r) {
		readable(err);
		disk.store = NULL;
		return;
	}
	txn_check(disk.store, disk.os, disk.wal, &out, check_line, NULL);
	r = txn_log_each(disk.os, disk.wal, log_line, NULL, err, sizeof(err));
	if (r)
		readable(err);
	bb_close(&disk);
}

/* As mount does: opens, recovers, works, ends. 0 or the error, with its text. */
static int open_and_use(char *err, size_t errlen)
{
	struct txn_engine *eng;
	struct txn *t;
	struct kit k = {.wal = -1};
	int r = bb_try_open(&disk, true, err, errlen);

	if (r) {
		disk.store = NULL;
		return r;
	}
	eng = open_engine(err, errlen, &r);
	if (!r) {
		k.eng = eng;
		t = kit_begin(&k);
		r = kit_try_create(&k, t, "another", S_IFREG | 0644);
		if (!r)
			r = txn_commit(t);
		else
			snprintf(err, errlen, "creating: %s", strerror(-r));
		txn_put(t);
		if (!r && kit_try_unlink(&k, NULL, "another", false))
			WRONG("the new file cannot be removed");
		if (txn_engine_close(eng) && !r)
			WRONG("closing fails");
	}
	bb_close(&disk);
	return r;
}

enum outcome { REFUSED = 1, WORKS = 2, EITHER = 3 };

/* Returns what came of it. says: part of a refusal. */
static enum outcome try_it(enum outcome allowed, const char *says)
{
	CLEANUP_FREE char *outside = bb_outside(&disk), *before = tree_text(), *still = NULL, *after = NULL;
	char err[512] = "";
	int r;

	alarm(60);
	look_only();
	r = open_and_use(err, sizeof(err));
	alarm(0);
	still = bb_outside(&disk);
	after = tree_text();
	if (strcmp(outside, still))
		WRONG("something outside was touched:%s", bb_difference(outside, still));
	if (strcmp(before, after))
		WRONG("the tree has changed (%s):%s", err, bb_difference(before, after));
	if (r && !(allowed & REFUSED))
		WRONG("refused (%d): %s", r, err);
	if (!r && !(allowed & WORKS))
		WRONG("it should have been refused");
	if (r) {
		readable(err);
		if (says && !strstr(err, says))
			WRONG("the refusal does not say \"%s\": %s", says, err);
	}
	return r ? REFUSED : WORKS;
}

/* ---- the format file ---- */

static void put_format(const char *p, size_t n)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/format", state_path);
	fd = open(path, O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && write(fd, p, n) == (ssize_t)n);
	close(fd);
}

static size_t get_format(char *buf, size_t size)
{
	char path[300];
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/format", state_path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	n = read(fd, buf, size);
	close(fd);
	assert_in_range(n, 60, size - 1);
	return (size_t)n;
}

static void renew(void)
{
	bb_free(&disk);
	make_disk();
}

static void format_bytes(void **state UNUSED)
{
	char good[1024], bad[1024];
	unsigned works = 0, refused = 0;
	size_t n;

	make_disk();
	n = get_format(good, sizeof(good));
	for (size_t at = 0; at < n; at++) {
		for (int bit = 0; bit < 9; bit++) {
			const char *line;

			memcpy(bad, good, n);
			bad[at] = (char)(bad[at] ^ (bit < 8 ? 1 << bit : 0xff));
			put_format(bad, n);
			snprintf(running, sizeof(running), "format byte %zu bit %d", at, bit);
			/* Nothing but the id of the directory is known from elsewhere. */
			line = strstr(good, "root ");
			if (try_it(EITHER, line && at >= (size_t)(line - good) + 5 ? NULL : "format") == WORKS) {
				works++;
				renew();
				n = get_format(good, sizeof(good));
			} else {
				refused++;
				put_format(good, n);
			}
		}
	}
	for (size_t len = 0; len < n; len++) {
		put_format(good, len);
		snprintf(running, sizeof(running), "format length %zu", len);
		if (try_it(EITHER, "format") == WORKS) {
			works++;
			renew();
			n = get_format(good, sizeof(good));
		} else {
			refused++;
		}
	}
	print_message("format: %u damages refused, %u do not matter\n", refused, works);
	assert_true(refused > 500);
	bb_free(&disk);
}

/* ---- something else in the place of a file ---- */

struct stranger {
	const char *path; /* in the state directory; "." is itself; SEGMENT the first of the log */
	enum outcome link, dangling, fifo, dir, file, gone;
	const char *says;
};

#define SEGMENT "wal/SEGMENT"

static const struct stranger strangers[] = {
	{"format", REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, "format"},
	{"lock", REFUSED, REFUSED, EITHER, REFUSED, WORKS, WORKS, "lock"},
	{"ballast", REFUSED, REFUSED, EITHER, REFUSED, WORKS, WORKS, NULL},
	{"wal", REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, "wal"},
	{"stage", REFUSED, REFUSED, REFUSED, WORKS, REFUSED, WORKS, "stage"},
	{"trash", REFUSED, REFUSED, REFUSED, WORKS, REFUSED, WORKS, "trash"},
	{SEGMENT, REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, NULL},
	{"wal/next", WORKS, WORKS, WORKS, REFUSED, WORKS, WORKS, "wal"},
	{"wal/stranger", WORKS, WORKS, WORKS, WORKS, WORKS, WORKS, NULL},
	{"wal/00000000000000ff", REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, WORKS, "segment 00000000000000ff"},
	{"wal/0000000000000001", REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, WORKS, "segment 0000000000000001"},
	{"stage/0000000000000777", WORKS, WORKS, WORKS, WORKS, WORKS, WORKS, NULL},
	{"stage/stranger", WORKS, WORKS, WORKS, WORKS, WORKS, WORKS, NULL},
	{"trash/0000000000000888", WORKS, WORKS, WORKS, WORKS, WORKS, WORKS, NULL},
	{"trash/lost-0000000000000777", WORKS, WORKS, WORKS, WORKS, WORKS, WORKS, NULL},
	{"format.new", WORKS, WORKS, WORKS, REFUSED, WORKS, WORKS, "format.new"}, /* see below: the log is not sealed */
	{".", REFUSED, REFUSED, REFUSED, WORKS, REFUSED, WORKS, STORE_STATE_DIR},
};

enum what { LINK, DANGLING, FIFO, DIRECTORY, PLAIN, NOTHING, WHATS };
static const char *const what_names[WHATS] = {"link", "dangling", "fifo", "dir", "file", "gone"};

static enum outcome wanted(const struct stranger *s, enum what w)
{
	const enum outcome v[WHATS] = {s->link, s->dangling, s->fifo, s->dir, s->file, s->gone};

	return v[w];
}

static int first_segment(void *arg, const char *name)
{
	char *best = arg;

	if (strlen(name) == 16 && (!*best || strcmp(name, best) < 0))
		strcpy(best, name);
	return 0;
}

static void full_path(const struct stranger *s, char *path, size_t size)
{
	char name[32] = "";
	int fd;

	snprintf(path, size, "%s/%s", state_path, strcmp(s->path, ".") ? s->path : "");
	if (!strcmp(s->path, "."))
		path[strlen(path) - 1] = '\0';
	if (strcmp(s->path, SEGMENT))
		return;
	snprintf(path, size, "%s/wal", state_path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	disk.os->list(disk.os->ctx, fd, first_segment, name);
	close(fd);
	snprintf(path, size, "%s/wal/%s", state_path, name);
}

/* A copy of what is there, outside: so that following a link would go well. */
static void put_outside(const char *path, const char *name)
{
	char command[1200];

	snprintf(command, sizeof(command), "if [ -e '%s' ]; then cp -a '%s' '%s/%s'; else echo mine > '%s/%s'; fi",
	         path, path, disk.outside, name, disk.outside, name);
	assert_int_equal(system(command), 0);
}

static void place(const struct stranger *s, enum what w)
{
	char path[300], target[300], inner[400];

	full_path(s, path, sizeof(path));
	snprintf(target, sizeof(target), "%s/%s", disk.outside, w == LINK ? "copy" : "nothing here");
	if (w == LINK)
		put_outside(path, "copy");
	bb_remove_tree(path);
	switch (w) {
	case LINK:
	case DANGLING:
		assert_int_equal(symlink(target, path), 0);
		break;
	case FIFO:
		assert_int_equal(mkfifo(path, 0600), 0);
		break;
	case DIRECTORY:
		assert_int_equal(mkdir(path, 0700), 0);
		if (!strchr(s->path, '/') && strcmp(s->path, "format.new"))
			break;
		/* Not an empty one, and with a way out. */
		snprintf(inner, sizeof(inner), "%s/inner", path);
		assert_int_equal(symlink(disk.outside, inner), 0);
		break;
	case PLAIN:
		snprintf(inner, sizeof(inner), "%s", path);
		*strrchr(inner, '/') = '\0';
		bb_put_file(inner, strrchr(path, '/') + 1, "what is this?\n");
		break;
	default:
		break;
	}
}

/* Before its log was ever made, the directory is not sealed, and the format file will be written anew. */
static void unseal(void)
{
	char text[1024];
	size_t n = get_format(text, sizeof(text));

	text[n] = '\0';
	if (strstr(text, "root "))
		put_format(text, (size_t)(strstr(text, "root ") - text));
}

static void one_stranger(const struct stranger *s, enum what w)
{
	snprintf(running, sizeof(running), "%s %s", what_names[w], s->path);
	if (getenv("TXNFS_STATE") && strcmp(getenv("TXNFS_STATE"), running))
		return;
	make_disk();
	if (!strcmp(s->path, "format.new"))
		unseal();
	place(s, w);
	try_it(wanted(s, w), s->says);
	bb_free(&disk);
}

static void instead_of_files(void **state UNUSED)
{
	for (size_t i = 0; i < ARRAY_LEN(strangers); i++)
		for (int w = 0; w < WHATS; w++)
			one_stranger(&strangers[i], (enum what)w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(instead_of_files),
		cmocka_unit_test(format_bytes),
	};

	signal(SIGALRM, too_long);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
