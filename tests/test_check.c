/* test_check.c - txn_check and txn_log_each on logs that the test writes: sound ones, and one for each thing wrong. */
#include "base/base.h"
#include "txn/rec.h"
#include "txn/txn.h"
#include "wal/wal.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- a store that has a stage and a trash, and nothing else ---- */

static struct store_obj stage_dir, trash_dir;
static int trash_error;

static struct store_obj *get_stage(struct store *st)
{
	(void)st;
	return &stage_dir;
}

static struct store_obj *get_trash(struct store *st)
{
	(void)st;
	return &trash_dir;
}

static int list(struct store_obj *dir, int (*fn)(void *arg, const struct store_dirent *de), void *arg)
{
	int n = dir == &stage_dir ? 3 : 1;

	if (dir == &trash_dir && trash_error)
		return trash_error;
	for (int i = 0; i < n; i++) {
		int r = fn(arg, &(struct store_dirent){.name = "x"});

		if (r)
			return r;
	}
	return 0;
}

static const struct store_ops ops = {.stage = get_stage, .trash = get_trash, .readdir = list};
static struct store store = {.ops = &ops};

/* ---- a log in a temporary directory ---- */

static char dir_path[64];
static int dir_fd;
static struct wal *wal;

static int setup(void **arg)
{
	(void)arg;
	strcpy(dir_path, "/tmp/txnfs-check-XXXXXX");
	assert_non_null(mkdtemp(dir_path));
	dir_fd = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(dir_fd >= 0);
	return 0;
}

static void log_close(void)
{
	wal_close(wal);
	wal = NULL;
}

static int teardown(void **arg)
{
	DIR *d;
	struct dirent *e;

	(void)arg;
	log_close();
	d = fdopendir(dir_fd);
	assert_non_null(d);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			unlinkat(dirfd(d), e->d_name, 0);
	closedir(d);
	rmdir(dir_path);
	return 0;
}

static int visit_none(void *arg, const struct wal_rec *rec, const void *payload)
{
	(void)arg;
	(void)rec;
	(void)payload;
	return 0;
}

static void log_open(void)
{
	struct wal_options opt = {.segment_size = (64u << 10), .create = true};

	assert_int_equal(wal_open(os_real(), dir_fd, &opt, &wal), 0);
	assert_int_equal(wal_scan(wal, 0, visit_none, NULL, NULL, NULL), 0);
	assert_int_equal(wal_start(wal), 0);
}

static uint64_t put_raw(unsigned type, uint64_t txid, uint64_t prev, uint8_t flags, const void *p, size_t n)
{
	struct wal_rec h = {.type = (uint8_t)type, .txid = txid, .prev = prev, .flags = flags};
	struct iovec iov = {.iov_base = (void *)p, .iov_len = n};

	assert_int_equal(wal_append(wal, &h, &iov, 1, false), 0);
	return h.lsn;
}

static uint64_t put_flags(const struct txn_rec *rec, uint64_t txid, uint64_t prev, uint8_t flags)
{
	struct wal_rec h = {.type = (uint8_t)rec->type, .txid = txid, .prev = prev, .flags = flags};
	struct base_buf head = {0};
	struct iovec iov[3];
	int n;

	assert_int_equal(txn_rec_encode(rec, &head, iov, &n), 0);
	assert_int_equal(wal_append(wal, &h, iov, n, false), 0);
	base_buf_free(&head);
	return h.lsn;
}

static uint64_t put(const struct txn_rec *rec, uint64_t txid, uint64_t prev)
{
	return put_flags(rec, txid, prev, 0);
}

/* ---- records ---- */

static const struct txn_rec begin = {.type = TXN_REC_BEGIN}, aborted = {.type = TXN_REC_ABORT},
			    end = {.type = TXN_REC_END};

static struct txn_rec object(uint64_t oid)
{
	return (struct txn_rec){.type = TXN_REC_OBJECT, .u.object = {.oid = oid, .mode = S_IFREG, .hint = "dir/a b"}};
}

static struct txn_rec writing(uint64_t oid)
{
	return (struct txn_rec){.type = TXN_REC_WRITE,
	                        .u.write = {.oid = oid, .len = 2, .size_after = 2, .new_data = "hi"}};
}

static struct txn_rec commit(uint64_t first)
{
	return (struct txn_rec){.type = TXN_REC_COMMIT, .u.commit = {.first = first}};
}

static struct txn_rec clr(uint64_t undone, uint64_t next)
{
	return (struct txn_rec){.type = TXN_REC_CLR, .u.clr = {.undone = undone, .next = next}};
}

static struct txn_rec checkpoint(uint64_t lsn, bool shutdown)
{
	return (struct txn_rec){.type = TXN_REC_CHECKPOINT,
	                        .u.checkpoint = {.clean = lsn, .scan = lsn, .shutdown = shutdown}};
}

/* BEGIN, OBJECT, WRITE; returns BEGIN's LSN. */
static uint64_t put_work(uint64_t txid, uint64_t *last)
{
	struct txn_rec rec = object(7);
	uint64_t first = put(&begin, txid, 0);

	*last = put(&rec, txid, first);
	rec = writing(7);
	*last = put(&rec, txid, *last);
	return first;
}

static uint64_t put_commit(uint64_t txid, uint64_t first, uint64_t last)
{
	struct txn_rec rec = commit(first);

	return put(&rec, txid, last);
}

static void put_checkpoint(uint64_t lsn, bool shutdown)
{
	struct txn_rec rec = checkpoint(lsn, shutdown);

	put(&rec, 0, 0);
}

/* ---- checking ---- */

struct problems {
	unsigned n;
	char text[2048];
};

static void collect(void *arg, const char *line)
{
	struct problems *p = arg;

	p->n++;
	assert_null(strchr(line, '\n'));
	snprintf(p->text + strlen(p->text), sizeof(p->text) - strlen(p->text), "%s\n", line);
}

static int check(struct txn_check *out, struct problems *p)
{
	*p = (struct problems){0};
	return txn_check(&store, os_real(), dir_fd, out, collect, p);
}

static void sound(struct txn_check *out)
{
	struct problems p;
	int r = check(out, &p);

	if (r || p.n)
		fail_msg("not sound (%d): %s", r, p.text);
}

/* Exactly one problem, which names the LSN and says `what`. */
static void one_problem(uint64_t lsn, const char *what)
{
	struct txn_check out;
	struct problems p;
	char where[40];
	int r = check(&out, &p);

	snprintf(where, sizeof(where), "LSN %" PRIu64 ", ", lsn);
	if (r != -EUCLEAN || p.n != 1 || strncmp(p.text, where, strlen(where)) != 0 || !strstr(p.text, what))
		fail_msg("wanted \"%s...%s\", got (%d): %s", where, what, r, p.text);
}

static void test_empty(void **arg)
{
	struct txn_check out;

	(void)arg;
	sound(&out); /* no log at all */
	assert_true(out.clean);
	assert_int_equal(out.segments, 0);
	log_open();
	sound(&out);
	assert_false(out.clean);
	assert_int_equal(out.records, 0);
	assert_true(out.segments >= 1);
}

static void test_sound(void **arg)
{
	struct txn_check out;
	uint64_t first, last, a, b;
	struct txn_rec rec;

	(void)arg;
	log_open();
	first = put_work(1, &last);
	a = put_work(2, &b);
	rec = (struct txn_rec){.type = TXN_REC_SAVEPOINT, .u.savepoint.name = "s"};
	last = put(&rec, 1, last);
	rec = (struct txn_rec){.type = TXN_REC_NAME, .u.name = {.count = 1, .op = {{.dir = 7, .after = 7, .name = "n"}}}};
	rec = clr(put(&rec, 1, last), last);
	last = put(&rec, 1, rec.u.clr.undone);
	last = put_commit(1, first, last);
	put(&end, 1, last);
	rec = clr(b, 0);
	b = put(&rec, 2, b);
	put(&aborted, 2, b);
	put_work(3, &b); /* open: a crash, or in use */
	sound(&out);
	assert_int_equal(out.records, 16);
	assert_int_equal(out.bytes, wal_end(wal) - a + (a - first));
	assert_int_equal(out.live_transactions, 1);
	assert_int_equal(out.staged, 3);
	assert_int_equal(out.trashed, 1);
	assert_false(out.clean);
	put_checkpoint(wal_end(wal), true);
	sound(&out);
	assert_true(out.clean);
	assert_int_equal(out.live_transactions, 0);
	put_checkpoint(wal_end(wal), false);
	sound(&out);
	assert_false(out.clean);
}

/* One thing wrong in each log. */
static void test_prev(void **arg)
{
	uint64_t first, last, lsn;
	struct txn_rec rec = writing(7);

	(void)arg;
	log_open();
	first = put_work(1, &last);
	lsn = put(&rec, 1, first);
	put_commit(1, first, lsn);
	one_problem(lsn, "names LSN");
}

static void test_missing_begin(void **arg)
{
	struct txn_rec rec = writing(7);
	uint64_t lsn;

	(void)arg;
	log_open();
	lsn = put(&rec, 1, 0);
	one_problem(lsn, "missing");
}

static void test_commit_first(void **arg)
{
	uint64_t first, last, lsn;

	(void)arg;
	log_open();
	first = put_work(1, &last);
	lsn = put_commit(1, first + 8, last);
	one_problem(lsn, "is the first record");
}

static void test_undeclared(void **arg)
{
	struct txn_rec rec = writing(8);
	uint64_t last, lsn;

	(void)arg;
	log_open();
	put_work(1, &last);
	lsn = put(&rec, 1, last);
	one_problem(lsn, "object 8 is used");
	rec = (struct txn_rec){.type = TXN_REC_NAME, .u.name = {.count = 1, .op = {{.dir = 7, .after = 9, .name = "n"}}}};
	put_work(2, &last);
	lsn = put(&rec, 2, last);
	put_checkpoint(lsn, false); /* the first problem is history now */
	one_problem(lsn, "object 9 is used");
}

static void test_clr(void **arg)
{
	uint64_t first, last, lsn;
	struct txn_rec rec;

	(void)arg;
	log_open();
	first = put_work(1, &last);
	rec = clr(last + 8, first);
	lsn = put(&rec, 1, last);
	one_problem(lsn, "it undoes");
	put_checkpoint(wal_end(wal), false);
	first = put_work(2, &last);
	rec = clr(last, first + 8);
	lsn = put(&rec, 2, last);
	one_problem(lsn, "it goes on");
}

static void test_two_ends(void **arg)
{
	uint64_t first, last, lsn;

	(void)arg;
	log_open();
	first = put_work(1, &last);
	last = put_commit(1, first, last);
	lsn = put(&aborted, 1, last);
	one_problem(lsn, "committed already");
	put_checkpoint(wal_end(wal), false);
	put_work(2, &last);
	last = put(&aborted, 2, last);
	last = put(&end, 2, last);
	lsn = put(&end, 2, last);
	one_problem(lsn, "ended already");
	put_checkpoint(wal_end(wal), false);
	put_work(3, &last);
	lsn = put(&end, 3, last);
	one_problem(lsn, "neither committed nor");
	put_checkpoint(wal_end(wal), false);
	put_work(4, &last);
	lsn = put(&begin, 4, last);
	one_problem(lsn, "begun already");
}

static void test_no_transaction(void **arg)
{
	struct txn_rec rec = writing(7);
	uint64_t lsn;

	(void)arg;
	log_open();
	lsn = put(&rec, 0, 0);
	one_problem(lsn, "belongs to no transaction");
}

static void test_invalid_payload(void **arg)
{
	uint64_t lsn;

	(void)arg;
	log_open();
	lsn = put_raw(TXN_REC_CLR, 1, 0, 0, "short", 5);
	one_problem(lsn, "not valid");
	log_close();
	log_open();
	lsn = put_raw(200, 1, 0, 0, "", 0);
	put_checkpoint(lsn, false);
	struct txn_check out;
	struct problems p;

	assert_int_equal(check(&out, &p), -EUCLEAN); /* history, too: every record must be decodable */
	assert_int_equal(p.n, 2);
}

static void test_checkpoint(void **arg)
{
	struct txn_rec rec;
	uint64_t lsn;

	(void)arg;
	log_open();
	lsn = wal_end(wal);
	rec = checkpoint(lsn, false);
	rec.u.checkpoint.clean = lsn + 8;
	put(&rec, 0, 0);
	one_problem(lsn, "durable at home");
	lsn = wal_end(wal);
	rec = checkpoint(lsn, false);
	rec.u.checkpoint.scan = 1;
	put(&rec, 0, 0);
	struct txn_check out;
	struct problems p;

	assert_int_equal(check(&out, &p), -EUCLEAN);
	assert_non_null(strstr(p.text, "recovery would start at LSN 1, but the log begins"));
}

/* What recovery does not read may be cut anywhere. */
static void test_trimmed(void **arg)
{
	struct txn_rec rec = writing(7);
	struct txn_check out;
	uint64_t last;

	(void)arg;
	log_open();
	last = put(&rec, 1, 88);
	last = put(&rec, 1, last);
	last = put_commit(1, 64, last);
	put_checkpoint(wal_end(wal), false);
	sound(&out);
	put(&end, 1, last);
	put(&aborted, 2, 96); /* its records are all gone */
	sound(&out);
	last = put(&rec, 3, 90);
	one_problem(last, "missing");
}

/*
 * One transaction is open at a checkpoint; another one, finished before, reaches over the LSN from which recovery reads
 * on the first's account. Its beginning may go, unless it is needed: committed behind `clean`, or not ended.
 */
static void test_trimmed_between(void **arg)
{
	struct txn_rec rec = writing(7);
	struct txn_check out;
	uint64_t kept, lost;

	(void)arg;
	log_open();
	kept = put(&begin, 5, 0);
	lost = put(&rec, 6, 90);
	lost = put_commit(6, 80, lost);
	put(&end, 6, lost);
	lost = put(&rec, 7, 92);
	put(&aborted, 7, lost);
	rec = checkpoint(wal_end(wal), false);
	rec.u.checkpoint.scan = kept;
	put(&rec, 0, 0);
	sound(&out);
	assert_int_equal(out.live_transactions, 1);
	rec = writing(7);
	lost = put(&rec, 8, 94);
	one_problem(lost, "missing");
	put_commit(8, 94, lost);
	one_problem(lost, "missing");
	/* As if it had committed just before the checkpoint, but was not home. */
	rec = checkpoint(lost, false);
	rec.u.checkpoint.scan = kept;
	put(&rec, 0, 0);
	one_problem(lost, "missing");
}

/* A transaction whose records were written once more, so that the old ones can go. */
static void test_carried(void **arg)
{
	struct txn_rec rec = object(7);
	uint64_t first, last, copy;
	struct txn_check out;

	(void)arg;
	log_open();
	put_work(1, &last);
	first = copy = put_flags(&begin, 1, 0, WAL_CARRIED);
	copy = put_flags(&rec, 1, copy, WAL_CARRIED);
	rec = writing(7);
	copy = put_flags(&rec, 1, copy, WAL_CARRIED);
	copy = put(&rec, 1, copy);
	put_commit(1, first, copy);
	sound(&out);
	/* Carrying that was given up goes on with the old records. */
	first = put_work(2, &last);
	copy = put_flags(&begin, 2, 0, WAL_CARRIED);
	rec = object(7);
	put_flags(&rec, 2, copy, WAL_CARRIED);
	rec = writing(7);
	last = put(&rec, 2, last);
	last = put_commit(2, first, last);
	put(&end, 2, last);
	sound(&out);
	/* But not with their end in the copy's middle. */
	first = put_work(3, &last);
	copy = put_flags(&begin, 3, 0, WAL_CARRIED);
	last = put_commit(3, first, copy);
	one_problem(last, "is the first record");
}

static void test_damage(void **arg)
{
	struct txn_check out;
	struct problems p;
	char err[512], byte;
	uint64_t last, lsn;
	int fd;

	(void)arg;
	log_open();
	lsn = put_work(1, &last);
	assert_int_equal(wal_force(wal, last), 0);
	put_work(2, &last);
	log_close();
	fd = openat(dir_fd, "0000000000000001", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fail_msg("no segment");
	assert_int_equal(pread(fd, &byte, 1, (off_t)(lsn % (64u << 10)) + 20), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(lsn % (64u << 10)) + 20), 1);
	close(fd);
	assert_int_equal(check(&out, &p), -EUCLEAN);
	assert_int_equal(p.n, 1);
	assert_non_null(strstr(p.text, "damaged"));
	assert_int_equal(out.staged, 3); /* the rest is looked at all the same */
	assert_int_equal(txn_log_each(os_real(), dir_fd, NULL, NULL, err, sizeof(err)), -EUCLEAN);
	assert_non_null(strstr(err, "damaged"));
}

static void test_state_directory(void **arg)
{
	struct txn_check out;
	struct problems p;

	(void)arg;
	log_open();
	trash_error = -EIO;
	assert_int_equal(check(&out, &p), -EIO);
	trash_error = 0;
	assert_int_equal(p.n, 1);
	assert_non_null(strstr(p.text, "trash"));
}

/* ---- the log for people ---- */

struct shown {
	unsigned n, stop;
	char text[2048];
};

static int show(void *arg, const struct txn_log_line *line)
{
	struct shown *s = arg;

	snprintf(s->text + strlen(s->text), sizeof(s->text) - strlen(s->text), "%" PRIu64 " %s|%s|%s\n", line->txid,
	         line->type, line->text, line->json);
	return ++s->n == s->stop ? 1234 : 0;
}

static void test_log(void **arg)
{
	struct shown s = {0};
	char err[512], want[64];
	uint64_t first, last;

	(void)arg;
	assert_int_equal(txn_log_each(os_real(), dir_fd, show, &s, err, sizeof(err)), -ENOENT);
	assert_string_equal(err, "there is no log");
	log_open();
	first = put_work(5, &last);
	put_commit(5, first, last);
	assert_int_equal(txn_log_each(os_real(), dir_fd, show, &s, err, sizeof(err)), 0);
	assert_string_equal(err, "");
	assert_int_equal(s.n, 4);
	assert_non_null(strstr(s.text, "5 BEGIN||\n5 OBJECT|object 7 is file inode 0 path dir/a b|\"object\":7,"));
	assert_non_null(strstr(s.text, "5 WRITE|object 7 offset 0 length 2 (before 0) size 0 -> 2|"));
	s = (struct shown){.stop = 2};
	assert_int_equal(txn_log_each(os_real(), dir_fd, show, &s, err, sizeof(err)), 1234);
	assert_int_equal(s.n, 2);
	assert_string_equal(err, "");
	last = put_raw(TXN_REC_NAME, 5, 0, 0, "bad", 3);
	put(&begin, 6, 0);
	s = (struct shown){0};
	assert_int_equal(txn_log_each(os_real(), dir_fd, show, &s, err, sizeof(err)), -EUCLEAN);
	assert_int_equal(s.n, 4);
	snprintf(want, sizeof(want), "LSN %" PRIu64 " (type 7, NAME, 3 bytes)", last);
	assert_non_null(strstr(err, want));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_empty),
		TEST(test_sound),
		TEST(test_prev),
		TEST(test_missing_begin),
		TEST(test_commit_first),
		TEST(test_undeclared),
		TEST(test_clr),
		TEST(test_two_ends),
		TEST(test_no_transaction),
		TEST(test_invalid_payload),
		TEST(test_checkpoint),
		TEST(test_trimmed),
		TEST(test_trimmed_between),
		TEST(test_carried),
		TEST(test_damage),
		TEST(test_state_directory),
		TEST(test_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
