/*
 * xa_manager.c - threads of control that call an XA switch as they are told: the hands of the transaction manager in
 * xa.py.
 *
 * Reads lines THREAD VERB [ARGUMENT...] and answers THREAD CODE [TEXT]. Threads come to be when they are named, do one
 * thing at a time, and do not wait for each other. An XID is FORMAT:GTRID:BQUAL with the two in hexadecimal, flags are
 * hexadecimal.
 *
 *     open RMID STRING FLAGS          close RMID FLAGS
 *     start|end|prepare|commit|rollback|forget RMID XID FLAGS
 *     recover RMID COUNT FLAGS        complete RMID FLAGS
 *     root RMID SIZE                  failed RMID ERRNO
 *     error                           switch RMID
 *     put RMID NAME TEXT              get RMID NAME         in the branch's tree
 *     map RMID NAME TEXT              by a mapping that stays
 *     exit                            the thread ends
 *     child VERB...                   the same in a child that is forked for it
 *     fork                            a child that sleeps
 *
 * With WITH_DB, rmids from 100 on are Berkeley DB's:
 *
 *     dbopen RMID FILE                dbput KEY TEXT        dbget KEY
 *     dbresolve HOME commit|rollback GTRID                  what a crash has left prepared
 */
#include <txnfs-xa.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef WITH_DB
#include <db.h>
extern struct xa_switch_t db_xa_switch;
static DB *db;
#endif

#define LINE 2048
#define THREADS 64

struct thread {
	char name[32];
	pthread_t id;
	int in; /* its lines come through a pipe */
	FILE *lines;
};

static pthread_mutex_t out = PTHREAD_MUTEX_INITIALIZER;

struct answer {
	long code;
	char text[8192];
};

static struct xa_switch_t *switch_of(int rmid)
{
#ifdef WITH_DB
	if (rmid >= 100)
		return &db_xa_switch;
#endif
	(void)rmid;
	return &txnfs_xa_switch;
}

static long hex(const char *s)
{
	return (long)strtoul(s ? s : "0", NULL, 16);
}

/* The bytes; how many. */
static long bytes(const char *s, char *to)
{
	long n = 0;
	unsigned v;

	for (; sscanf(s, "%2x", &v) == 1; s += 2)
		to[n++] = (char)v;
	return n;
}

static XID *xid_of(char *s, XID *xid)
{
	char *g, *b;

	if (!strcmp(s, "null"))
		return NULL;
	memset(xid, 0, sizeof(*xid));
	xid->formatID = strtol(s, &g, 0);
	b = strchr(++g, ':');
	*b++ = '\0';
	xid->gtrid_length = bytes(g, xid->data);
	xid->bqual_length = bytes(b, xid->data + xid->gtrid_length);
	return xid;
}

static void put_xid(const XID *xid, char *to)
{
	to += sprintf(to, " %ld:", xid->formatID);
	for (long i = 0; i < xid->gtrid_length + xid->bqual_length; i++)
		to += sprintf(to, "%s%02x", i == xid->gtrid_length ? ":" : "", (unsigned char)xid->data[i]);
}

static int in_root(int rmid, const char *name, char *path, size_t size)
{
	char root[PATH_MAX];
	int r = txnfs_xa_root(rmid, root, sizeof(root));

	if (!r)
		snprintf(path, size, "%s/%s", root, name);
	return r;
}

static long work(char **a, struct answer *answer)
{
	char path[2 * PATH_MAX];
	long r = in_root(atoi(a[1]), a[2], path, sizeof(path));
	ssize_t n = 0;
	int fd;

	if (r)
		return r;
	fd = open(path, strcmp(a[0], "get") ? O_RDWR | O_CREAT : O_RDONLY, 0644);
	if (fd < 0)
		return -errno;
	if (!strcmp(a[0], "get")) {
		n = read(fd, answer->text, sizeof(answer->text) - 1);
		answer->text[n > 0 ? n : 0] = '\0';
	} else if (!strcmp(a[0], "put")) {
		n = ftruncate(fd, 0) ? -1 : write(fd, a[3], strlen(a[3]));
	} else {
		char *p = mmap(NULL, strlen(a[3]), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		n = p == MAP_FAILED ? -1 : 0;
		if (!n)
			memcpy(p, a[3], strlen(a[3]));
	}
	r = n < 0 ? -errno : 0;
	close(fd);
	return r;
}

static long recover(char **a, struct answer *answer)
{
	long count = atol(a[2]), got;
	XID *xids = count > 0 ? calloc((size_t)count, sizeof(*xids)) : NULL;

	got = switch_of(atoi(a[1]))->xa_recover_entry(xids, count, atoi(a[1]), hex(a[3]));
	for (long i = 0; i < got && i < 20; i++)
		put_xid(&xids[i], answer->text + strlen(answer->text));
	free(xids);
	return got;
}

#ifdef WITH_DB
/* Finish what is prepared, by what Berkeley DB's own calls know of it; how many there were. */
static long resolve(char **a)
{
	char gtrid[DB_GID_SIZE] = {0};
	long n = bytes(a[3], gtrid), got;
	DB_PREPLIST list[8];
	DB_ENV *env;
	u_int32_t flags = DB_CREATE | DB_THREAD | DB_INIT_LOCK | DB_INIT_LOG | DB_INIT_MPOOL | DB_INIT_TXN |
	                  DB_RECOVER | DB_REGISTER;
	int r = db_env_create(&env, 0);

	if (r)
		return -1;
	r = env->set_thread_count(env, 100); /* as its switch does */
	if (!r)
		r = env->open(env, a[1], flags, 0);
	if (!r)
		r = env->txn_recover(env, list, 8, &got, DB_FIRST);
	for (long i = 0; !r && i < got; i++) {
		if (memcmp(list[i].gid, gtrid, (size_t)n))
			r = -1;
		else
			r = strcmp(a[2], "commit") ? list[i].txn->abort(list[i].txn)
			                           : list[i].txn->commit(list[i].txn, 0);
	}
	env->close(env, 0);
	return r ? -1 : got;
}

static long berkeley(char **a, struct answer *answer)
{
	DBT key = {.data = a[1], .size = (u_int32_t)strlen(a[1])}, data = {.flags = DB_DBT_USERMEM};
	int r;

	if (!strcmp(a[0], "dbresolve"))
		return resolve(a);
	if (!strcmp(a[0], "dbopen")) {
		r = db_create(&db, NULL, DB_XA_CREATE);
		return r ? r : db->open(db, NULL, a[2], NULL, DB_BTREE, DB_CREATE | DB_AUTO_COMMIT, 0644);
	}
	if (!strcmp(a[0], "dbput")) {
		DBT value = {.data = a[2], .size = (u_int32_t)strlen(a[2])};

		return db->put(db, NULL, &key, &value, 0);
	}
	data.data = answer->text;
	data.ulen = sizeof(answer->text) - 1;
	r = db->get(db, NULL, &key, &data, 0);
	answer->text[r ? 0 : data.size] = '\0';
	return r;
}
#endif

static long call(char **a, struct answer *answer)
{
	int rmid = a[1] ? atoi(a[1]) : 0;
	struct xa_switch_t *x = switch_of(rmid);
	char *v = a[0];
	XID xid;
	struct {
		const char *name;
		int (*entry)(XID *, int, long);
	} calls[] = {
		{"start", x->xa_start_entry},   {"end", x->xa_end_entry},           {"prepare", x->xa_prepare_entry},
		{"commit", x->xa_commit_entry}, {"rollback", x->xa_rollback_entry}, {"forget", x->xa_forget_entry},
	};

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (!strcmp(v, calls[i].name))
			return calls[i].entry(xid_of(a[2], &xid), rmid, hex(a[3]));
	}
	if (!strcmp(v, "open"))
		return x->xa_open_entry(a[2], rmid, hex(a[3]));
	if (!strcmp(v, "close"))
		return x->xa_close_entry((char *)"", rmid, hex(a[2]));
	if (!strcmp(v, "recover"))
		return recover(a, answer);
	if (!strcmp(v, "complete"))
		return x->xa_complete_entry(NULL, NULL, rmid, hex(a[2]));
	if (!strcmp(v, "root"))
		return txnfs_xa_root(rmid, answer->text, (size_t)atol(a[2]));
	if (!strcmp(v, "failed"))
		return txnfs_xa_failed(rmid, atoi(a[2]));
	if (!strcmp(v, "switch")) {
		snprintf(answer->text, sizeof(answer->text), "%s %ld", x->name, x->version);
		return x->flags;
	}
	if (!strcmp(v, "put") || !strcmp(v, "get") || !strcmp(v, "map"))
		return work(a, answer);
#ifdef WITH_DB
	if (!strncmp(v, "db", 2))
		return berkeley(a, answer);
#endif
	return -ENOSYS;
}

static void dispatch(char **a, struct answer *answer);

/* In a child, which answers through a pipe. */
static void in_child(char **a, struct answer *answer)
{
	int fds[2], status;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		exit(3);
	pid = fork();
	if (!pid) {
		dispatch(a, answer);
		_exit(write(fds[1], answer, sizeof(*answer)) == sizeof(*answer) ? 0 : 1);
	}
	close(fds[1]);
	if (read(fds[0], answer, sizeof(*answer)) != sizeof(*answer))
		answer->code = -EPIPE;
	close(fds[0]);
	waitpid(pid, &status, 0);
}

static void dispatch(char **a, struct answer *answer)
{
	pid_t pid;

	if (!strcmp(a[0], "child")) {
		in_child(a + 1, answer);
	} else if (!strcmp(a[0], "fork")) {
		pid = fork();
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
		answer->code = pid;
	} else if (!strcmp(a[0], "error")) {
		snprintf(answer->text, sizeof(answer->text), "%s", txnfs_xa_error());
	} else {
		answer->code = call(a, answer);
	}
}

static void *serve(void *arg)
{
	struct thread *t = arg;
	char line[LINE];

	while (fgets(line, sizeof(line), t->lines)) {
		struct answer answer = {0};
		char *a[8] = {0}, *save = NULL, *p;
		size_t n = 0;

		line[strcspn(line, "\n")] = '\0';
		for (p = strtok_r(line, " ", &save); p && n < 7; p = strtok_r(NULL, " ", &save))
			a[n++] = p;
		if (!strcmp(a[0], "exit"))
			break;
		dispatch(a, &answer);
		pthread_mutex_lock(&out);
		printf("%s %ld %s\n", t->name, answer.code, answer.text);
		fflush(stdout);
		pthread_mutex_unlock(&out);
	}
	fclose(t->lines);
	return NULL;
}

static struct thread *thread_of(struct thread *threads, const char *name)
{
	int fds[2], i = 0;

	while (i < THREADS - 1 && threads[i].name[0] && strcmp(threads[i].name, name))
		i++;
	if (!threads[i].name[0]) {
		snprintf(threads[i].name, sizeof(threads[i].name), "%.31s", name);
		if (pipe2(fds, O_CLOEXEC))
			exit(3);
		threads[i].in = fds[1];
		threads[i].lines = fdopen(fds[0], "r");
		if (pthread_create(&threads[i].id, NULL, serve, &threads[i]))
			exit(3);
	}
	return &threads[i];
}

int main(void)
{
	static struct thread threads[THREADS];
	char line[LINE], *rest;

	while (fgets(line, sizeof(line), stdin)) {
		struct thread *t;

		rest = line + strcspn(line, " ");
		*rest++ = '\0';
		t = thread_of(threads, line);
		if (write(t->in, rest, strlen(rest)) < 0)
			exit(3);
		if (!strcmp(rest, "exit\n")) {
			pthread_join(t->id, NULL); /* all that its end does has been done */
			close(t->in);
			snprintf(t->name, sizeof(t->name), "-"); /* the place is not used again */
			printf("%s 0 \n", line);
			fflush(stdout);
		}
	}
	for (int i = 0; i < THREADS && threads[i].name[0]; i++) {
		/* Not by closing the pipe: a child may have it too. */
		if (strcmp(threads[i].name, "-") && write(threads[i].in, "exit\n", 5) == 5) {
			pthread_join(threads[i].id, NULL);
			close(threads[i].in);
		}
	}
	return 0;
}
