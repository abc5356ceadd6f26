/*
 * libtxnfs_client.c - libtxnfs on a real mount: each case is a run of this program by test_libtxnfs.py.
 *
 *     libtxnfs_client CASE MOUNT [ARGUMENT...]
 *
 * Ends with 0, or with 1 after telling which expectation failed.
 */
#include <txnfs.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 8

#define WANT(condition)                                                                                                \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: not so: %s; the library's text: %s\n", __FILE__, __LINE__, #condition, \
			        txnfs_error());                                                                        \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)
#define EQUAL(got, want)                                                                                               \
	do {                                                                                                           \
		long got_ = (got), want_ = (want);                                                                     \
		if (got_ != want_) {                                                                                   \
			fprintf(stderr, "%s:%d: %s is %ld, want %ld; the library's text: %s\n", __FILE__, __LINE__,    \
			        #got, got_, want_, txnfs_error());                                                     \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

static char *path(const char *root, const char *name)
{
	static _Thread_local char buf[2][4096];
	static _Thread_local int i;

	i = !i;
	snprintf(buf[i], sizeof(buf[i]), "%s/%s", root, name);
	return buf[i];
}

static int put(const char *root, const char *name, const char *text)
{
	int fd = open(path(root, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), r = 0;

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		r = -errno;
	if (fd >= 0)
		close(fd);
	return r;
}

static bool has(const char *root, const char *name, const char *text)
{
	char buf[256] = "";
	int fd = open(path(root, name), O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	if (fd >= 0)
		close(fd);
	return text ? n >= 0 && !strcmp(buf, text) : fd < 0;
}

static struct txnfs *open_mount(const char *mnt)
{
	struct txnfs *fs;

	EQUAL(txnfs_open(mnt, NULL, &fs), 0);
	return fs;
}

static void ambient(const char *mnt)
{
	struct txnfs *fs = open_mount(mnt);
	struct txnfs_tx *tx, *second;
	pid_t child;
	int status;

	EQUAL(txnfs_begin(fs, &(struct txnfs_options){.label = "two words \"quoted\""}, &tx), 0);
	WANT(!strcmp(txnfs_tx_root(tx), txnfs_mount_point(fs)) && !txnfs_tx_name(tx));
	EQUAL(put(mnt, "a", "1"), 0);
	EQUAL(txnfs_begin(fs, NULL, &second), -EALREADY);
	WANT(!second && strstr(txnfs_error(), "savepoint"));
	EQUAL(txnfs_savepoint(tx, "s;\n\"p\""), 0);
	EQUAL(put(mnt, "a", "2"), 0);
	EQUAL(put(mnt, "b", "2"), 0);
	EQUAL(txnfs_rollback_to(tx, "unknown"), -ENOENT);
	WANT(strstr(txnfs_error(), "unknown"));
	EQUAL(txnfs_rollback_to(tx, "s;\n\"p\""), 0);
	WANT(has(mnt, "a", "1") && has(mnt, "b", NULL));
	EQUAL(txnfs_release(tx, "s;\n\"p\""), 0);
	EQUAL(txnfs_release(tx, "s;\n\"p\""), -ENOENT);
	/* A child is a member. */
	child = fork();
	if (!child)
		_exit(has(mnt, "a", "1") && !put(mnt, "child", "c") ? 0 : 1);
	WANT(waitpid(child, &status, 0) == child);
	EQUAL(status, 0);
	EQUAL(txnfs_commit(tx), 0);
	EQUAL(txnfs_commit(tx), -ENOTCONN);
	EQUAL(txnfs_savepoint(tx, "s"), -ENOTCONN);
	/* The end of an old object does nothing to the transaction that the process has now. */
	EQUAL(txnfs_begin(fs, NULL, &second), 0);
	EQUAL(put(mnt, "second", "2"), 0);
	txnfs_end(tx);
	WANT(has(mnt, "second", "2"));
	/* Rolled back by the end; errno and the text stay. */
	EQUAL(txnfs_savepoint(second, ""), -EINVAL);
	errno = EXDEV;
	txnfs_end(second);
	EQUAL(errno, EXDEV);
	WANT(strstr(txnfs_error(), "savepoint's name is empty"));
	WANT(has(mnt, "second", NULL) && has(mnt, "a", "1") && has(mnt, "child", "c"));
	txnfs_end(NULL);
	txnfs_detach(NULL);
	txnfs_close(NULL);
	txnfs_close(fs);
}

static void named(const char *mnt)
{
	struct txnfs *fs = open_mount(mnt);
	struct txnfs_tx *tx, *other;

	EQUAL(txnfs_begin_named(fs, "n", NULL, &tx), 0);
	WANT(!strcmp(txnfs_tx_name(tx), "n"));
	EQUAL(put(txnfs_tx_root(tx), "f", "in n"), 0);
	WANT(has(mnt, "f", NULL));
	EQUAL(txnfs_begin_named(fs, "n", NULL, &other), -EEXIST);
	WANT(!other && strstr(txnfs_error(), "\"n\""));
	EQUAL(txnfs_attach(fs, "none", &other), -ENOENT);
	EQUAL(txnfs_attach(fs, "n", &other), 0);
	txnfs_close(fs); /* its transactions do not need it */
	WANT(has(txnfs_tx_root(other), "f", "in n"));
	EQUAL(txnfs_savepoint(other, "s"), 0);
	EQUAL(put(txnfs_tx_root(tx), "f", "later"), 0);
	EQUAL(txnfs_rollback_to(tx, "s"), 0);
	txnfs_detach(other);
	EQUAL(txnfs_commit(tx), 0);
	WANT(has(mnt, "f", "in n"));
	/* Its name is someone else's by now. */
	fs = open_mount(path(mnt, "f"));
	WANT(!strcmp(txnfs_mount_point(fs), mnt));
	EQUAL(txnfs_begin_named(fs, "n", NULL, &other), 0);
	EQUAL(txnfs_rollback(tx), -ENOTCONN);
	txnfs_end(tx);
	EQUAL(put(txnfs_tx_root(other), "g", "g"), 0);
	EQUAL(txnfs_rollback(other), 0);
	txnfs_end(other);
	WANT(has(mnt, "g", NULL));
	/* Names from the library. */
	EQUAL(txnfs_begin_named(fs, NULL, NULL, &tx), 0);
	EQUAL(txnfs_begin_named(fs, NULL, NULL, &other), 0);
	WANT(strcmp(txnfs_tx_name(tx), txnfs_tx_name(other)));
	EQUAL(put(txnfs_tx_root(tx), "g", "g"), 0);
	txnfs_end(tx); /* rolls back */
	txnfs_end(other);
	WANT(has(mnt, "g", NULL));
	/* A view of a transaction has its own control directory. */
	EQUAL(txnfs_begin_named(fs, "v", NULL, &tx), 0);
	{
		struct txnfs *view = open_mount(txnfs_tx_root(tx));

		EQUAL(txnfs_begin_named(view, NULL, NULL, &other), -EALREADY);
		EQUAL(txnfs_begin(view, NULL, &other), -EALREADY);
		txnfs_close(view);
	}
	txnfs_end(tx);
	txnfs_close(fs);
}

static void options(const char *mnt)
{
	struct txnfs *fs = open_mount(mnt);
	struct txnfs_tx *tx, *other;

	EQUAL(put(mnt, "f", "0"), 0);
	/* Whoever does not wait is refused at once, by name. */
	EQUAL(txnfs_begin_named(fs, "holder", NULL, &tx), 0);
	EQUAL(put(txnfs_tx_root(tx), "f", "1"), 0);
	EQUAL(txnfs_begin_named(fs, NULL, &(struct txnfs_options){.timeout_ms = TXNFS_NO_WAIT}, &other), 0);
	EQUAL(put(txnfs_tx_root(other), "f", "2"), -EBUSY);
	txnfs_end(other);
	EQUAL(txnfs_begin_named(fs, NULL, &(struct txnfs_options){.timeout_ms = 20}, &other), 0);
	EQUAL(put(txnfs_tx_root(other), "f", "2"), -EBUSY);
	txnfs_end(other);
	txnfs_end(tx);
	/* Serializable: the slower one is cancelled, and has ended. */
	EQUAL(txnfs_begin_named(fs, "slow", &(struct txnfs_options){.isolation = TXNFS_SERIALIZABLE}, &tx), 0);
	WANT(has(txnfs_tx_root(tx), "f", "0"));
	EQUAL(put(txnfs_tx_root(tx), "g", "1"), 0);
	EQUAL(put(mnt, "f", "faster"), 0);
	EQUAL(txnfs_commit(tx), -ECANCELED);
	WANT(strstr(txnfs_error(), "\"slow\"") && strstr(txnfs_error(), " f has other contents"));
	EQUAL(txnfs_rollback(tx), -ENOTCONN);
	txnfs_end(tx);
	WANT(has(mnt, "g", NULL));
	EQUAL(txnfs_begin_named(fs, "snap", &(struct txnfs_options){.isolation = TXNFS_SNAPSHOT}, &tx), 0);
	EQUAL(put(mnt, "f", "newer"), 0);
	WANT(has(txnfs_tx_root(tx), "f", "faster"));
	txnfs_end(tx);
	/* What is refused leaves nothing behind. */
	EQUAL(txnfs_begin(fs, &(struct txnfs_options){.isolation = TXNFS_SNAPSHOT}, &tx), -EOPNOTSUPP);
	EQUAL(txnfs_begin_named(fs, "bad", &(struct txnfs_options){.owner = 1 << 22}, &tx), -ESRCH);
	WANT(strstr(txnfs_error(), "no process"));
	EQUAL(txnfs_begin_named(fs, "bad", &(struct txnfs_options){.timeout_ms = -2}, &tx), -EINVAL);
	EQUAL(txnfs_begin_named(fs, "bad", &(struct txnfs_options){.isolation = 9}, &tx), -EINVAL);
	EQUAL(txnfs_begin_named(fs, "bad", &(struct txnfs_options){.reserved[7] = 1}, &tx), -EINVAL);
	EQUAL(txnfs_attach(fs, "bad", &tx), -ENOENT);
	for (const char *const *p =
	             (const char *const[]){"", ".", "..", "a/b", "../x", "ctl", "prepared", "x\ny", "\1", NULL};
	     *p; p++) {
		EQUAL(txnfs_begin_named(fs, *p, NULL, &tx), -EINVAL);
		EQUAL(txnfs_attach(fs, *p, &tx), -EINVAL);
	}
	/* An owner's death. */
	EQUAL(txnfs_begin_named(fs, "mine", &(struct txnfs_options){.owner = getpid()}, &tx), 0);
	EQUAL(put(txnfs_tx_root(tx), "g", "1"), 0);
	txnfs_detach(tx);
	txnfs_close(fs);
}

static int count(void *arg, const struct txnfs_prepared *p)
{
	int *n = arg;

	WANT(!strcmp(p->gid, *n ? "g2" : "odd \t\n\"gid\" \xc3\xa4\xff"));
	EQUAL(p->uid, getuid());
	WANT(p->when > 1700000000 && p->changes > 0);
	return ++*n > 1 ? 42 : 0;
}

static int one(void *arg, const struct txnfs_prepared *p)
{
	WANT(!strcmp(p->gid, "g"));
	++*(int *)arg;
	return 0;
}

static void prepared(const char *mnt)
{
	static const char gid[] = "odd \t\n\"gid\" \xc3\xa4\xff";
	struct txnfs *fs = open_mount(mnt);
	struct txnfs_tx *tx;
	char longest[202];
	int n = 0;

	EQUAL(txnfs_begin_named(fs, "n", NULL, &tx), 0);
	EQUAL(put(txnfs_tx_root(tx), "f", "1"), 0);
	memset(longest, 'x', 201);
	longest[201] = 0;
	EQUAL(txnfs_prepare(tx, longest), -ENAMETOOLONG);
	EQUAL(txnfs_prepare(tx, ""), -EINVAL);
	EQUAL(txnfs_prepare(tx, gid), 0);
	EQUAL(txnfs_commit(tx), -ENOTCONN);
	txnfs_end(tx);
	EQUAL(txnfs_begin_named(fs, "n", NULL, &tx), 0);
	EQUAL(put(txnfs_tx_root(tx), "g", "1"), 0);
	EQUAL(txnfs_prepare(tx, gid), -EEXIST);
	txnfs_end(tx);
	EQUAL(txnfs_begin(fs, NULL, &tx), 0);
	EQUAL(put(mnt, "h", "1"), 0);
	EQUAL(txnfs_prepare(tx, "g2"), 0);
	WANT(has(mnt, "h", NULL));
	txnfs_end(tx);
	EQUAL(txnfs_list_prepared(fs, count, &n), 42);
	EQUAL(n, 2);
	EQUAL(txnfs_commit_prepared(fs, gid), 0);
	EQUAL(txnfs_commit_prepared(fs, gid), -ENOENT);
	WANT(*txnfs_error());
	EQUAL(txnfs_rollback_prepared(fs, "g2"), 0);
	EQUAL(txnfs_list_prepared(fs, count, &n), 0);
	WANT(has(mnt, "f", "1") && has(mnt, "g", NULL) && has(mnt, "h", NULL));
	txnfs_close(fs);
}

/* ---- threads ---- */

struct worker {
	pthread_t thread;
	struct txnfs *fs;
	const char *mnt;
	int number, rounds;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	char name[64], wrong[64];

	snprintf(name, sizeof(name), "file-%d", w->number);
	snprintf(wrong, sizeof(wrong), "wrong-%d", w->number);
	for (int i = 0; i < w->rounds; i++) {
		struct txnfs_tx *tx;
		char text[32];

		snprintf(text, sizeof(text), "%d", i);
		EQUAL(txnfs_begin_named(w->fs, NULL, NULL, &tx), 0);
		EQUAL(put(txnfs_tx_root(tx), name, text), 0);
		/* Each thread has the text of its own failure. */
		EQUAL(txnfs_rollback_to(tx, wrong), -ENOENT);
		WANT(strstr(txnfs_error(), wrong));
		if (i % 3)
			EQUAL(txnfs_commit(tx), 0);
		WANT(strstr(txnfs_error(), wrong));
		txnfs_end(tx);
		snprintf(text, sizeof(text), "%d", i % 3 ? i : i - 1);
		WANT(has(w->mnt, name, i ? text : NULL));
	}
	return NULL;
}

/* All in one transaction, and on one object. */
static void *share(void *arg)
{
	struct worker *w = arg;
	struct txnfs_tx *tx = (struct txnfs_tx *)w->fs;
	char name[64];

	snprintf(name, sizeof(name), "shared-%d", w->number);
	for (int i = 0; i < w->rounds; i++) {
		EQUAL(put(txnfs_tx_root(tx), name, "x"), 0);
		EQUAL(txnfs_savepoint(tx, name), 0);
		EQUAL(txnfs_release(tx, "nobody's"), -ENOENT);
		WANT(strstr(txnfs_error(), "nobody's"));
	}
	return NULL;
}

static void all(struct worker *w, void *(*fn)(void *arg))
{
	for (int i = 0; i < THREADS; i++)
		EQUAL(pthread_create(&w[i].thread, NULL, fn, &w[i]), 0);
	for (int i = 0; i < THREADS; i++)
		EQUAL(pthread_join(w[i].thread, NULL), 0);
}

static void threads(const char *mnt)
{
	struct txnfs *fs = open_mount(mnt);
	struct worker w[THREADS];
	struct txnfs_tx *tx;

	for (int i = 0; i < THREADS; i++)
		w[i] = (struct worker){.fs = fs, .mnt = mnt, .number = i, .rounds = 20};
	all(w, work);
	EQUAL(txnfs_begin_named(fs, NULL, NULL, &tx), 0);
	for (int i = 0; i < THREADS; i++)
		w[i].fs = (struct txnfs *)tx;
	all(w, share);
	EQUAL(txnfs_commit(tx), 0);
	for (int i = 0; i < THREADS; i++) {
		char name[64];

		snprintf(name, sizeof(name), "shared-%d", i);
		WANT(has(mnt, name, "x"));
	}
	txnfs_end(tx);
	txnfs_close(fs);
}

/* ---- signals ---- */

static volatile sig_atomic_t ticks;

static void tick(int sig)
{
	(void)sig;
	ticks++;
}

/* They come all the time, and interrupt what can be interrupted. */
static void signals(const char *mnt)
{
	struct itimerval often = {{0, 200}, {0, 200}}, off = {0};
	struct sigaction sa = {.sa_handler = tick};
	struct txnfs *fs = open_mount(mnt), *again;
	struct txnfs_tx *tx;
	int n = 0;

	EQUAL(put(mnt, "f", "0"), 0);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < 100; i++) {
		EQUAL(txnfs_open(mnt, NULL, &again), 0);
		EQUAL(txnfs_begin_named(again, NULL, &(struct txnfs_options){.timeout_ms = 7}, &tx), 0);
		EQUAL(mkdir(path(txnfs_tx_root(tx), i % 2 ? "odd" : "even"), 0755) && errno != EEXIST, 0);
		EQUAL(txnfs_savepoint(tx, "s"), 0);
		EQUAL(txnfs_rollback_to(tx, "s"), 0);
		if (i % 3) {
			EQUAL(txnfs_commit(tx), 0);
		} else {
			EQUAL(txnfs_prepare(tx, "g"), 0);
			EQUAL(txnfs_list_prepared(fs, one, &n), 0);
			EQUAL(txnfs_rollback_prepared(again, "g"), 0);
		}
		txnfs_end(tx);
		txnfs_close(again);
	}
	setitimer(ITIMER_REAL, &off, NULL);
	EQUAL(n, 34);
	WANT(ticks > 20);
	txnfs_close(fs);
}

/* ---- mounts that are not there ---- */

/* MOUNT is a plain directory, the next argument another name of the control directory or nothing. */
static void nothing(const char *mnt)
{
	struct txnfs *fs;

	EQUAL(txnfs_open(mnt, NULL, &fs), -ENODEV);
	WANT(!fs && strstr(txnfs_error(), mnt));
	EQUAL(txnfs_open(path(mnt, "none"), NULL, &fs), -ENOENT);
	EQUAL(txnfs_open("", NULL, &fs), -EINVAL);
	EQUAL(txnfs_open(mnt, "a/b", &fs), -EINVAL);
	EQUAL(txnfs_open(mnt, "..", &fs), -EINVAL);
}

/* Tells "open" and waits for a line before each step, during which the mount changes. */
static void gone(const char *mnt)
{
	struct txnfs *fs = open_mount(mnt);
	struct txnfs_tx *tx, *other;
	char line[8];

	EQUAL(txnfs_begin_named(fs, "n", NULL, &tx), 0);
	EQUAL(put(txnfs_tx_root(tx), "f", "1"), 0);
	puts("open");
	fflush(stdout);
	WANT(fgets(line, sizeof(line), stdin)); /* the daemon has been killed */
	EQUAL(txnfs_commit(tx), -ENOTCONN);
	WANT(strstr(txnfs_error(), "daemon"));
	EQUAL(txnfs_commit_prepared(fs, "g"), -ENOTCONN);
	EQUAL(txnfs_open(mnt, NULL, &(struct txnfs *){NULL}), -ENOTCONN);
	puts("killed");
	fflush(stdout);
	WANT(fgets(line, sizeof(line), stdin)); /* it is unmounted */
	EQUAL(txnfs_commit(tx), -ENODEV);
	EQUAL(txnfs_commit_prepared(fs, "g"), -ENODEV);
	EQUAL(txnfs_begin(fs, NULL, &other), -ENODEV);
	puts("unmounted");
	fflush(stdout);
	WANT(fgets(line, sizeof(line), stdin)); /* mounted again */
	EQUAL(txnfs_commit(tx), -ENOENT);
	EQUAL(txnfs_commit_prepared(fs, "g"), -ENOENT);
	txnfs_end(tx);
	EQUAL(txnfs_begin_named(fs, "n", NULL, &tx), 0);
	EQUAL(put(txnfs_tx_root(tx), "f", "2"), 0);
	EQUAL(txnfs_commit(tx), 0);
	txnfs_end(tx);
	txnfs_close(fs);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*fn)(const char *mnt);
	} cases[] = {
		{"ambient", ambient}, {"named", named},     {"options", options}, {"prepared", prepared},
		{"threads", threads}, {"nothing", nothing}, {"gone", gone},       {"signals", signals},
	};

	for (size_t i = 0; argc > 2 && i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (!strcmp(argv[1], cases[i].name)) {
			cases[i].fn(argv[2]);
			return 0;
		}
	}
	fprintf(stderr, "usage: libtxnfs_client CASE MOUNT\n");
	return 2;
}
