/*
 * decision.c - the files of the decision log.
 *
 * A run's file is complete and durable when it gets its name, so one that does not check is damaged and not torn. Its
 * first sector alone says what is decided, and is overwritten as one: a power cut leaves the old or the new one. Both
 * are checked, so "not decided" is something that the file says, and nothing that is concluded from what cannot be
 * read.
 */
#include "tools/decision.h"
#include "tools/tools.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <xxhash.h>

#define LOG_NAME "log"
#define SECTOR 512
#define RUN_BYTES_MAX (64u << 20)
#define DATABASE_NAME 16 /* hexadecimal digits, then ".db" */

PRINTF_LIKE(4, 5) static int fail(int r, char *err, size_t errlen, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, errlen, fmt, ap);
	va_end(ap);
	return r;
}

static const char *log_path(const struct decision_log *log)
{
	return log->path ? log->path : ".";
}

static uint64_t sum(const void *p, size_t n)
{
	return XXH3_64bits(p, n);
}

/* 0 to 96 random bits, as digits and their NUL. */
static void random_hex(char *out, size_t digits)
{
	for (size_t i = 0; i < digits; i += 8)
		sprintf(out + i, "%08x", (unsigned)base_random_u64());
}

static bool is_hex(const char *s, size_t n)
{
	return strspn(s, "0123456789abcdef") == n;
}

/* ---- small files, whole ---- */

/* All of an open file, with a NUL behind it that does not count. */
static int read_all(const struct os *os, int fd, struct base_buf *b)
{
	uint64_t size;
	char *text;
	int r = os->size(os->ctx, fd, &size);

	if (r)
		return r;
	if (size > RUN_BYTES_MAX)
		return -EFBIG;
	text = malloc(size + 1);
	if (!text)
		return -ENOMEM;
	r = os_pread_full(os, fd, text, size, 0);
	if (!r)
		base_buf_put(b, text, size);
	free(text);
	if (!r && !size)
		base_buf_put(b, "", 0);
	return r ? r : b->err;
}

static int write_at_start(const struct os *os, int fd, const void *p, size_t n)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)p, .iov_len = n};

	return os_pwritev_full(os, fd, &iov, 1, 0);
}

/* fd holds a file named `from`, complete: durable first, then named. */
static int publish(const struct decision_log *log, int fd, const char *from, const char *to)
{
	const struct os *os = log->os;
	int r = os->fsync(os->ctx, fd);

	if (!r)
		r = os->renameat(os->ctx, log->dir, from, to);
	return r ? r : os->fsync(os->ctx, log->dir);
}

/* ---- the log's identity ---- */

static void put_log(const struct decision_log *log, const char *place, struct base_buf *b)
{
	base_buf_printf(b, "txnfs decision log 1\nid %s\nplace %s\n", log->id, place);
	if (!b->err)
		base_buf_printf(b, "sum %016" PRIx64 "\n", sum(b->p, b->n));
}

static int make_log(struct decision_log *log, const char *place)
{
	const struct os *os = log->os;
	struct base_buf b = {0};
	int fd, r;

	random_hex(log->id, DECISION_LOG_ID);
	put_log(log, place ? place : "-", &b);
	fd = os->openat(os->ctx, log->dir, LOG_NAME ".new", O_RDWR | O_CREAT | O_TRUNC, 0600);
	r = fd < 0 ? fd : b.err;
	if (!r)
		r = write_at_start(os, fd, b.p, b.n);
	if (!r)
		r = publish(log, fd, LOG_NAME ".new", LOG_NAME);
	if (fd >= 0)
		os->close(os->ctx, fd);
	base_buf_free(&b);
	return r;
}

static int parse_log(struct decision_log *log, const struct base_buf *text, const char *place, char *err, size_t errlen)
{
	struct base_buf want = {0};
	char where[128];
	unsigned version;
	bool good;

	if (sscanf((char *)text->p, "txnfs decision log %u\n", &version) == 1 && version > 1)
		return fail(-EPROTONOSUPPORT, err, errlen, "%s was written by a newer txnfs (version %u); upgrade",
		            log_path(log), version);
	good = sscanf((char *)text->p, "txnfs decision log 1\nid %32[0-9a-f]\nplace %127[^\n]\n", log->id, where) ==
	               2 &&
	       strlen(log->id) == DECISION_LOG_ID;
	if (good)
		put_log(log, where, &want);
	good = good && !want.err && text->n == want.n && !memcmp(text->p, want.p, want.n);
	base_buf_free(&want);
	if (!good)
		return fail(-EUCLEAN, err, errlen,
		            "%s/" LOG_NAME " is damaged; a copy of it helps only when that is of this very directory",
		            log_path(log));
	if (place && strcmp(where, place) != 0)
		return fail(
			-ESTALE, err, errlen,
			"%s is a copy of a decision log, or was restored: it does not know what was decided since, so "
			"nothing is "
			"decided by it. Use the original; if that is gone for good, decide its transactions by hand "
			"(txnfs prepared, txnfs resolve MNT GID commit|rollback), then remove %s",
			log_path(log), log_path(log));
	return 0;
}

int decision_log_init(struct decision_log *log, const char *place, bool create, char *err, size_t errlen)
{
	const struct os *os = log->os;
	struct base_buf b = {0};
	int fd = os->openat(os->ctx, log->dir, LOG_NAME, O_RDONLY | O_NOFOLLOW, 0), r;

	if (fd == -ENOENT && create) {
		r = make_log(log, place);
		return r ? fail(r, err, errlen, "%s: cannot make a decision log: %s", log_path(log), strerror(-r)) : 0;
	}
	if (fd == -ENOENT)
		return fd;
	r = fd < 0 ? fd : read_all(os, fd, &b);
	if (fd >= 0)
		os->close(os->ctx, fd);
	if (r)
		fail(r, err, errlen, "%s/" LOG_NAME ": %s", log_path(log), strerror(-r));
	else
		r = parse_log(log, &b, place, err, errlen);
	base_buf_free(&b);
	return r;
}

/* ---- a run's file ---- */

static void put_decision(const struct decision_log *log, const struct decision_run *run, bool commit,
                         char sector[SECTOR + 1])
{
	int n = snprintf(sector, SECTOR, "txnfs run 1 log %s run %s %s ", log->id, run->id,
	                 commit ? "commit" : "undecided");
	uint64_t check = sum(sector, (size_t)n);

	n += snprintf(sector + n, (size_t)(SECTOR - n), "%016" PRIx64, check);
	memset(sector + n, ' ', (size_t)(SECTOR - 1 - n));
	sector[SECTOR - 1] = '\n';
	sector[SECTOR] = 0;
}

static int put_branches(const struct decision_run *run, struct base_buf *b)
{
	size_t start = b->n;

	for (size_t i = 0; i < run->n; i++) {
		const struct decision_branch *br = &run->branch[i];

		base_buf_printf(b, "%zu\t%s\t", i + 1, br->uuid);
		base_buf_quote(b, br->source);
		base_buf_put(b, "\t", 1);
		base_buf_quote(b, br->point);
		base_buf_put(b, "\t", 1);
		base_buf_quote(b, br->control);
		base_buf_put(b, "\n", 1);
	}
	if (!b->err)
		base_buf_printf(b, "end %zu %016" PRIx64 "\n", run->n, sum(b->p + start, b->n - start));
	return b->err;
}

/* A field up to the next tab or the end of the line; *p goes behind it. */
static bool take_field(char **p, char **out)
{
	char *end = tool_unquote(*p, out);

	if (*end != '\t' && *end)
		return false;
	*p = *end ? end + 1 : end;
	*end = 0;
	return true;
}

static int parse_branch(char *line, size_t number, struct decision_branch *br)
{
	char *index, *uuid, *source, *point, *control;

	if (!take_field(&line, &index) || !take_field(&line, &uuid) || !take_field(&line, &source) ||
	    !take_field(&line, &point) || !take_field(&line, &control) || *line || strtoul(index, NULL, 10) != number ||
	    strlen(uuid) >= sizeof(br->uuid))
		return -EUCLEAN;
	strcpy(br->uuid, uuid);
	br->source = strdup(source);
	br->point = strdup(point);
	br->control = strdup(control);
	return br->source && br->point && br->control ? 0 : -ENOMEM;
}

/* Where the last line begins; NULL: the text does not end with one. */
static char *last_line(char *text, size_t n)
{
	char *p = n > 1 && text[n - 1] == '\n' ? memrchr(text, '\n', n - 1) : NULL;

	return p ? p + 1 : NULL;
}

static int parse_branches(char *text, size_t n, struct decision_run *run)
{
	char *end = last_line(text, n), *save, *line;
	uint64_t check;
	size_t count;

	if (strlen(text) != n || !end || sscanf(end, "end %zu %16" SCNx64, &count, &check) != 2 ||
	    check != sum(text, (size_t)(end - text)) || count > DECISION_BRANCHES_MAX)
		return -EUCLEAN;
	*end = 0;
	run->branch = calloc(count + 1, sizeof(*run->branch));
	if (!run->branch)
		return -ENOMEM;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		int r;

		if (run->n == count)
			return -EUCLEAN;
		r = parse_branch(line, run->n + 1, &run->branch[run->n]);
		run->n++; /* so that what it has is freed */
		if (r)
			return r;
	}
	return run->n == count ? 0 : -EUCLEAN;
}

static int parse_run(const struct decision_log *log, struct base_buf *b, struct decision_run *run)
{
	char want[SECTOR + 1], theirs[DECISION_LOG_ID + 1];

	if (b->n < SECTOR)
		return -EUCLEAN;
	put_decision(log, run, true, want);
	run->commit = !memcmp(b->p, want, SECTOR);
	put_decision(log, run, false, want);
	if (!run->commit && memcmp(b->p, want, SECTOR) != 0) {
		if (sscanf((char *)b->p, "txnfs run 1 log %32[0-9a-f] ", theirs) == 1 && strcmp(theirs, log->id) != 0)
			return -EXDEV;
		return -EUCLEAN;
	}
	return parse_branches((char *)b->p + SECTOR, b->n - SECTOR, run);
}

static void run_name(char name[DECISION_RUN_ID + 8], const char *id, bool complete)
{
	snprintf(name, DECISION_RUN_ID + 8, "%s.%s", id, complete ? "run" : "new");
}

/* 0: locked, and it still has a name. */
static int lock_file(const struct decision_log *log, int fd)
{
	struct stat st;

	if (!log->locks)
		return 0;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	return st.st_nlink ? 0 : -ENOENT; /* who had the lock before has ended it */
}

/*
 * Make ID.new, locked, and give it its final name. *fd: still locked; the caller closes it. -EAGAIN: a resolver took it
 * for a leftover before it was locked, and takes it away.
 */
static int write_new(const struct decision_log *log, const char *id, const struct base_buf *b, const char *final,
                     int *fd)
{
	char name[DECISION_RUN_ID + 8];
	int r;

	run_name(name, id, false);
	*fd = log->os->openat(log->os->ctx, log->dir, name, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (*fd < 0)
		return *fd;
	r = lock_file(log, *fd) ? -EAGAIN : 0;
	if (!r)
		r = write_at_start(log->os, *fd, b->p, b->n);
	if (!r)
		r = publish(log, *fd, name, final);
	if (r)
		log->os->unlinkat(log->os->ctx, log->dir, name);
	return r;
}

static int write_run(struct decision_log *log, struct decision_run *run)
{
	char final[DECISION_RUN_ID + 8], sector[SECTOR + 1];
	struct base_buf b = {0};
	int r;

	random_hex(run->id, DECISION_RUN_ID);
	run_name(final, run->id, true);
	put_decision(log, run, false, sector);
	base_buf_put(&b, sector, SECTOR);
	r = put_branches(run, &b);
	if (!r)
		r = write_new(log, run->id, &b, final, &run->fd);
	base_buf_free(&b);
	if (!r || run->fd < 0)
		return r;
	log->os->unlinkat(log->os->ctx, log->dir, final);
	log->os->close(log->os->ctx, run->fd);
	run->fd = -1;
	return r;
}

int decision_new(struct decision_log *log, struct decision_run *run, char *err, size_t errlen)
{
	int r = -EAGAIN;

	if (!run->n || run->n > DECISION_BRANCHES_MAX)
		return fail(-E2BIG, err, errlen, "a run has 1 to %d participants", DECISION_BRANCHES_MAX);
	run->fd = -1;
	run->commit = false;
	for (int i = 0; i < 100 && r == -EAGAIN; i++)
		r = write_run(log, run);
	return r ? fail(r, err, errlen, "%s: the run cannot be written to the decision log: %s", log_path(log),
	                strerror(-r))
	         : 0;
}

int decision_commit(struct decision_log *log, struct decision_run *run, char *err, size_t errlen)
{
	char sector[SECTOR + 1];
	int r;

	put_decision(log, run, true, sector);
	/*
	 * All of it is written, also when it is there already: the kernel may have it from a process that died before
	 * its fdatasync, or that was told by it that it failed, after which the next one succeeds and means nothing.
	 */
	r = write_at_start(log->os, run->fd, sector, SECTOR);
	if (!r)
		r = log->os->fdatasync(log->os->ctx, run->fd);
	if (!r)
		run->commit = true; /* ---- the commit point of the whole run ---- */
	return r ? fail(r, err, errlen, "%s: the decision cannot be made durable: %s", log_path(log), strerror(-r)) : 0;
}

int decision_forget(struct decision_log *log, struct decision_run *run, bool durable, char *err, size_t errlen)
{
	char name[DECISION_RUN_ID + 8];
	int r;

	run_name(name, run->id, true);
	r = log->os->unlinkat(log->os->ctx, log->dir, name);
	if (r == -ENOENT)
		r = 0;
	if (!r && durable)
		r = log->os->fsync(log->os->ctx, log->dir);
	return r ? fail(r, err, errlen, "%s/%s cannot be removed: %s", log_path(log), name, strerror(-r)) : 0;
}

void decision_release(const struct decision_log *log, struct decision_run *run)
{
	if (run->fd >= 0)
		log->os->close(log->os->ctx, run->fd);
	for (size_t i = 0; i < run->n; i++) {
		free(run->branch[i].source);
		free(run->branch[i].point);
		free(run->branch[i].control);
	}
	free(run->branch);
	*run = (struct decision_run){.fd = -1};
}

/* ---- what others left ---- */

struct names {
	struct base_buf runs, leftovers, databases; /* names and their NULs */
};

static int sort_name(void *arg, const char *name)
{
	struct names *names = arg;

	if (strlen(name) == DATABASE_NAME + 3 && is_hex(name, DATABASE_NAME) && !strcmp(name + DATABASE_NAME, ".db"))
		base_buf_put(&names->databases, name, strlen(name) + 1);
	if (strlen(name) != DECISION_RUN_ID + 4 || !is_hex(name, DECISION_RUN_ID))
		return 0;
	if (!strcmp(name + DECISION_RUN_ID, ".run"))
		base_buf_put(&names->runs, name, strlen(name) + 1);
	else if (!strcmp(name + DECISION_RUN_ID, ".new"))
		base_buf_put(&names->leftovers, name, strlen(name) + 1);
	return 0;
}

/* Nothing was prepared for a run whose file never got its name. */
static void drop_leftover(const struct decision_log *log, const char *name)
{
	int fd = log->os->openat(log->os->ctx, log->dir, name, O_RDWR | O_NOFOLLOW, 0);

	if (fd < 0)
		return;
	if (!lock_file(log, fd))
		log->os->unlinkat(log->os->ctx, log->dir, name);
	log->os->close(log->os->ctx, fd);
}

int decision_each(struct decision_log *log, int (*fn)(void *arg, const char *id), void *arg)
{
	struct names names = {0};
	int r = log->os->list(log->os->ctx, log->dir, sort_name, &names);

	r = r ? r : names.runs.err ? names.runs.err : names.leftovers.err;
	for (size_t i = 0; !r && i < names.leftovers.n; i += DECISION_RUN_ID + 5)
		drop_leftover(log, (char *)names.leftovers.p + i);
	for (size_t i = 0; !r && i < names.runs.n; i += DECISION_RUN_ID + 5) {
		names.runs.p[i + DECISION_RUN_ID] = 0;
		r = fn(arg, (char *)names.runs.p + i);
	}
	base_buf_free(&names.runs);
	base_buf_free(&names.leftovers);
	base_buf_free(&names.databases);
	return r;
}

/* ---- databases ---- */

/* Has the file this content? */
static bool holds(const struct decision_log *log, const char *name, const struct base_buf *want)
{
	int fd = log->os->openat(log->os->ctx, log->dir, name, O_RDONLY | O_NOFOLLOW, 0);
	struct base_buf b = {0};
	bool same = fd >= 0 && !read_all(log->os, fd, &b) && b.n == want->n && !memcmp(b.p, want->p, b.n);

	if (fd >= 0)
		log->os->close(log->os->ctx, fd);
	base_buf_free(&b);
	return same;
}

int decision_remember(struct decision_log *log, const struct decision_branch *br, char *err, size_t errlen)
{
	const struct decision_run one = {.n = 1, .branch = (struct decision_branch *)(uintptr_t)br};
	char id[DECISION_RUN_ID + 1], name[DATABASE_NAME + 4];
	struct base_buf b = {0};
	int r = put_branches(&one, &b), fd = -1;

	if (!r) {
		snprintf(name, sizeof(name), "%016" PRIx64 ".db", sum(b.p, b.n));
		/* When it is there, its content is durable, and its name will be with that of the run's file. */
		r = holds(log, name, &b) ? 0 : -EAGAIN;
	}
	for (int i = 0; i < 100 && r == -EAGAIN; i++) {
		random_hex(id, DECISION_RUN_ID);
		r = write_new(log, id, &b, name, &fd);
		if (fd >= 0)
			log->os->close(log->os->ctx, fd);
	}
	base_buf_free(&b);
	return r ? fail(r, err, errlen, "%s: the database cannot be written to the decision log: %s", log_path(log),
	                strerror(-r))
	         : 0;
}

static int one_database(const struct decision_log *log, const char *name, decision_database_fn *fn, void *arg)
{
	struct decision_run one = {.fd = -1};
	struct base_buf b = {0};
	int r;

	one.fd = log->os->openat(log->os->ctx, log->dir, name, O_RDONLY | O_NOFOLLOW, 0);
	r = one.fd < 0 ? one.fd : read_all(log->os, one.fd, &b);
	if (!r)
		r = parse_branches((char *)b.p, b.n, &one);
	if (!r && one.n != 1)
		r = -EUCLEAN;
	base_buf_free(&b);
	if (r != -ENOENT)
		r = fn(arg, name, r ? NULL : &one.branch[0]);
	else
		r = 0;
	decision_release(log, &one);
	return r;
}

int decision_each_database(struct decision_log *log, decision_database_fn *fn, void *arg)
{
	struct names names = {0};
	int r = log->os->list(log->os->ctx, log->dir, sort_name, &names);

	r = r ? r : names.databases.err;
	for (size_t i = 0; !r && i < names.databases.n; i += DATABASE_NAME + 4)
		r = one_database(log, (char *)names.databases.p + i, fn, arg);
	base_buf_free(&names.runs);
	base_buf_free(&names.leftovers);
	base_buf_free(&names.databases);
	return r;
}

int decision_take(struct decision_log *log, const char *id, struct decision_run *run, char *err, size_t errlen)
{
	char name[DECISION_RUN_ID + 8];
	struct base_buf b = {0};
	int r;

	*run = (struct decision_run){.fd = -1};
	snprintf(run->id, sizeof(run->id), "%s", id);
	run_name(name, id, true);
	run->fd = log->os->openat(log->os->ctx, log->dir, name, O_RDWR | O_NOFOLLOW, 0);
	r = run->fd < 0 ? run->fd : lock_file(log, run->fd);
	if (!r)
		r = read_all(log->os, run->fd, &b);
	if (!r)
		r = parse_run(log, &b, run);
	base_buf_free(&b);
	if (r == -EUCLEAN)
		fail(r, err, errlen,
		     "%s/%s is damaged, so what it has decided is not known: its transactions stay in doubt",
		     log_path(log), name);
	else if (r == -EXDEV)
		fail(r, err, errlen, "%s/%s belongs to another decision log: its transactions stay in doubt",
		     log_path(log), name);
	else if (r && r != -EWOULDBLOCK && r != -ENOENT)
		fail(r, err, errlen, "%s/%s: %s", log_path(log), name, strerror(-r));
	if (r)
		decision_release(log, run);
	return r;
}

/* ---- names ---- */

void decision_gid(const struct decision_log *log, const char *run, size_t branch, char gid[DECISION_GID_MAX])
{
	snprintf(gid, DECISION_GID_MAX, "txnfs:%s:%s:%zu", log->id, run, branch);
}

bool decision_gid_parse(const char *gid, char log[DECISION_LOG_ID + 1], char run[DECISION_RUN_ID + 1])
{
	unsigned branch;
	int used = 0;

	return sscanf(gid, "txnfs:%32[0-9a-f]:%24[0-9a-f]:%u%n", log, run, &branch, &used) == 3 && !gid[used] &&
	       strlen(log) == DECISION_LOG_ID && strlen(run) == DECISION_RUN_ID;
}
