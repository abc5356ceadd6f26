/*
 * test_tx.c - the registry of transactions on a fake engine, with real processes: this program, executed again as an
 * "agent", forks, starts threads and executes itself when told to. Everything runs twice, the second time with
 * pidfd_open forbidden, as on kernels that lack it.
 */
#include "base/base.h"
#include "fusefs/member.h"
#include "fusefs/tx.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#define DEADLINE 20 /* seconds until a wait counts as failed */

static bool no_pidfd;

/* ---- a fake engine ---- */

struct txn_engine {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct txn_stats stats;
	const char *_Atomic error;
	atomic_int begin_rc, commit_rc, rollback_rc, savepoint_rc;
	atomic_bool commit_aborts; /* a commit that fails has rolled back */
	bool hold_commits;         /* they wait inside until this is cleared */
	unsigned holding;          /* how many do */
};

struct txn {
	struct txn_engine *eng;
	atomic_uint refs;
	_Atomic enum txn_state state;
	uint64_t id;
	char names[16][FUSEFS_NAME_MAX + 1];
	size_t n;
	enum txn_isolation isolation;
	int isolation_rc;
	const char *conflict;
};

static struct txn_engine engine = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
static atomic_int txns_alive;

const char *txn_engine_error(struct txn_engine *eng)
{
	return eng->error;
}

void txn_engine_stats(struct txn_engine *eng, struct txn_stats *st)
{
	*st = eng->stats;
}

size_t txn_waits_for(struct txn *t UNUSED, uint64_t *ids UNUSED, size_t max UNUSED)
{
	return 0;
}

void txn_glance(struct txn *t UNUSED, uint64_t *operations, uint64_t *log_bytes)
{
	*operations = 7;
	*log_bytes = 4096;
}

struct txn_account *txn_account_new(uint64_t limit UNUSED)
{
	return NULL;
}

void txn_account_put(struct txn_account *account UNUSED)
{
}

void txn_set_account(struct txn *t UNUSED, struct txn_account *account UNUSED)
{
}

size_t txn_waiters(struct txn_engine *eng UNUSED)
{
	return 0;
}

int txn_begin(struct txn_engine *eng, struct txn **out)
{
	static atomic_ulong ids = 100;
	struct txn *t;

	if (eng->begin_rc)
		return eng->begin_rc;
	t = calloc(1, sizeof(*t));
	assert_non_null(t);
	t->eng = eng;
	t->id = atomic_fetch_add(&ids, 1);
	atomic_init(&t->refs, 1);
	txns_alive++;
	*out = t;
	return 0;
}

struct txn *txn_get(struct txn *t)
{
	atomic_fetch_add(&t->refs, 1);
	return t;
}

void txn_put(struct txn *t)
{
	if (atomic_fetch_sub(&t->refs, 1) == 1) {
		txns_alive--;
		free(t);
	}
}

int txn_set_isolation(struct txn *t, enum txn_isolation level)
{
	if (t->isolation_rc)
		return t->isolation_rc;
	t->isolation = level;
	return 0;
}

enum txn_isolation txn_isolation(const struct txn *t)
{
	return t->isolation;
}

const char *txn_conflict(const struct txn *t)
{
	return t->conflict;
}

enum txn_state txn_state(const struct txn *t)
{
	return t->state;
}

bool txn_is_open(const struct txn *t)
{
	return t->state == TXN_ACTIVE || t->state == TXN_PREPARED;
}

uint64_t txn_id(const struct txn *t)
{
	return t->id;
}

void txn_info(struct txn *t, struct txn_info *info)
{
	*info = (struct txn_info){.state = t->state,
	                          .id = t->id,
	                          .operations = 7,
	                          .objects = 2,
	                          .names = 3,
	                          .log_bytes = 4096,
	                          .savepoints = t->n};
}

static void trace(const char *what);

int txn_commit_with(struct txn *t, void (*before_flip)(void *arg), void *arg)
{
	struct txn_engine *eng = t->eng;

	trace("commit");
	pthread_mutex_lock(&eng->lock);
	eng->holding++;
	pthread_cond_broadcast(&eng->changed);
	while (eng->hold_commits)
		pthread_cond_wait(&eng->changed, &eng->lock);
	eng->holding--;
	pthread_mutex_unlock(&eng->lock);
	assert_true(txn_is_open(t));
	if (eng->commit_rc == 0) {
		before_flip(arg);
		t->state = TXN_COMMITTED;
	} else if (eng->commit_aborts) {
		t->state = TXN_ABORTED;
	}
	return eng->commit_rc;
}

int txn_rollback(struct txn *t)
{
	trace("rollback");
	assert_true(txn_is_open(t));
	if (t->eng->rollback_rc == 0)
		t->state = TXN_ABORTED;
	return t->eng->rollback_rc;
}

/* One that is prepared: the engine's. */
static struct txn *prepared_txn;
static char prepared_gid[FUSEFS_NAME_MAX + 1];
static uid_t prepared_uid;

int txn_prepare(struct txn *t, const char *gid, uid_t uid)
{
	trace("prepare");
	assert_true(t->state == TXN_ACTIVE);
	if (prepared_txn) {
		t->state = TXN_ABORTED;
		return -EEXIST;
	}
	t->state = TXN_PREPARED;
	prepared_txn = txn_get(t);
	prepared_uid = uid;
	snprintf(prepared_gid, sizeof(prepared_gid), "%s", gid);
	return 0;
}

int txn_find_prepared(struct txn_engine *eng, const char *gid, struct txn **out)
{
	(void)eng;
	if (!prepared_txn || prepared_txn->state != TXN_PREPARED || strcmp(gid, prepared_gid))
		return -ENOENT;
	*out = txn_get(prepared_txn);
	return 0;
}

int txn_prepared_info(struct txn *t, struct txn_prepared *out)
{
	*out = (struct txn_prepared){.gid = prepared_gid, .uid = prepared_uid, .id = t->id, .changes = 3, .time = {1700000000, 0}};
	return 0;
}

int txn_each_prepared(struct txn_engine *eng, int (*fn)(void *arg, const struct txn_prepared *p), void *arg)
{
	struct txn_prepared p;

	(void)eng;
	if (!prepared_txn || prepared_txn->state != TXN_PREPARED || txn_prepared_info(prepared_txn, &p))
		return 0;
	return fn(arg, &p);
}

int txn_savepoint(struct txn *t, const char *name)
{
	trace("savepoint");
	if (t->eng->savepoint_rc)
		return t->eng->savepoint_rc;
	assert_true(t->n < ARRAY_LEN(t->names));
	strcpy(t->names[t->n++], name);
	return 0;
}

static int find_savepoint(struct txn *t, const char *name, size_t *at)
{
	for (*at = t->n; *at > 0; (*at)--) {
		if (strcmp(t->names[*at - 1], name) == 0)
			return 0;
	}
	return -ENOENT;
}

int txn_rollback_to(struct txn *t, const char *name)
{
	size_t at;

	trace("rollback_to");
	if (find_savepoint(t, name, &at))
		return -ENOENT;
	t->n = at;
	return 0;
}

int txn_release(struct txn *t, const char *name)
{
	size_t at;

	if (find_savepoint(t, name, &at))
		return -ENOENT;
	t->n = at - 1;
	return 0;
}

static uint64_t expected; /* the version that the last commit was said to be for */

void txn_expect(struct txn *t, uint64_t version)
{
	assert_true(txn_is_open(t));
	expected = version;
}

int txn_changes(struct txn *t, int (*fn)(void *arg, char kind, const char *path, const char *to), void *arg)
{
	int rc;

	assert_true(txn_is_open(t));
	rc = fn(arg, 'A', "plain path", NULL);
	rc = rc ? rc : fn(arg, 'R', "a\tb", "c");
	return rc;
}

/* ---- hooks, which write down what happens and use the registry as a node layer may ---- */

static struct fusefs_registry *reg;

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	char trace[4096];
	unsigned begun, committed, rolled_back, unchanged, gone;
	int begun_rc;
	bool found_when_ended;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void trace(const char *what)
{
	pthread_mutex_lock(&seen.lock);
	if (strlen(seen.trace) + strlen(what) + 2 < sizeof(seen.trace)) {
		strcat(seen.trace, *seen.trace ? " " : "");
		strcat(seen.trace, what);
	}
	pthread_mutex_unlock(&seen.lock);
}

/* Can the transaction be found? Would hang if the registry's lock were held around hooks. */
static bool is_found(struct fusefs_tx *tx)
{
	struct fusefs_tx *found =
		tx->named ? fusefs_tx_find(reg, tx->name) : fusefs_tx_of(reg, atomic_load(&tx->owner));
	bool same = found == tx;

	fusefs_tx_put(found);
	return same;
}

static int hook_begun(void *arg UNUSED, struct fusefs_tx *tx)
{
	trace("begun");
	if (!tx->named)
		assert_true(fusefs_ambient_open(reg) > 0);
	assert_false(is_found(tx));
	pthread_mutex_lock(&seen.lock);
	seen.begun++;
	pthread_mutex_unlock(&seen.lock);
	return seen.begun_rc;
}

static void hook_quiesce(void *arg UNUSED, struct fusefs_tx *tx)
{
	struct base_buf b = {0};

	trace("quiesce");
	assert_int_equal(fusefs_tx_status(reg, tx, &b), 0);
	base_buf_free(&b);
}

static void *hook_ending(void *arg UNUSED, struct fusefs_tx *tx)
{
	trace("ending");
	return tx;
}

static void hook_flipping(void *arg UNUSED, struct fusefs_tx *tx, void *remembered)
{
	assert_ptr_equal(remembered, tx);
	assert_true(txn_is_open(tx->txn));
	trace("flipping");
}

static void hook_ended(void *arg UNUSED, struct fusefs_tx *tx, enum fusefs_end how, void *remembered)
{
	assert_ptr_equal(remembered, tx);
	trace(how == FUSEFS_COMMITTED ? "committed" : how == FUSEFS_ROLLED_BACK ? "rolled_back" : "unchanged");
	if (how != FUSEFS_UNCHANGED && is_found(tx))
		seen.found_when_ended = true;
	pthread_mutex_lock(&seen.lock);
	seen.committed += how == FUSEFS_COMMITTED;
	seen.rolled_back += how == FUSEFS_ROLLED_BACK;
	seen.unchanged += how == FUSEFS_UNCHANGED;
	pthread_cond_broadcast(&seen.changed);
	pthread_mutex_unlock(&seen.lock);
}

static void hook_rolled_back_to(void *arg UNUSED, struct fusefs_tx *tx UNUSED)
{
	trace("rolled_back_to");
}

static void hook_isolated(void *arg UNUSED, struct fusefs_tx *tx UNUSED)
{
	trace("isolated");
}

static void hook_gone(void *arg UNUSED, struct fusefs_tx *tx UNUSED)
{
	pthread_mutex_lock(&seen.lock);
	seen.gone++;
	pthread_mutex_unlock(&seen.lock);
}

static const struct fusefs_tx_hooks hooks = {
	.begun = hook_begun,
	.quiesce = hook_quiesce,
	.ending = hook_ending,
	.flipping = hook_flipping,
	.ended = hook_ended,
	.rolled_back_to = hook_rolled_back_to,
	.isolated = hook_isolated,
	.gone = hook_gone,
};

static struct timespec deadline(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += DEADLINE;
	return ts;
}

static void wait_count(const unsigned *counter, unsigned count)
{
	struct timespec until = deadline();
	int rc = 0;

	pthread_mutex_lock(&seen.lock);
	while (*counter < count && rc == 0)
		rc = pthread_cond_timedwait(&seen.changed, &seen.lock, &until);
	pthread_mutex_unlock(&seen.lock);
	assert_int_equal(rc, 0);
}

static void wait_rolled_back(unsigned count)
{
	wait_count(&seen.rolled_back, count);
}

static void wait_holding(unsigned count)
{
	struct timespec until = deadline();
	int rc = 0;

	pthread_mutex_lock(&engine.lock);
	while (engine.holding != count && rc == 0)
		rc = pthread_cond_timedwait(&engine.changed, &engine.lock, &until);
	pthread_mutex_unlock(&engine.lock);
	assert_int_equal(rc, 0);
}

static void hold_commits(bool hold)
{
	pthread_mutex_lock(&engine.lock);
	engine.hold_commits = hold;
	pthread_cond_broadcast(&engine.changed);
	pthread_mutex_unlock(&engine.lock);
}

/* ---- agents ---- */

struct reply {
	pid_t a, b;
};

struct agent {
	pid_t pid;
	int to, from;
};

enum { AGENT_IN = 100, AGENT_OUT, AGENT_LIFE };

static int lifeline[2] = {-1, -1}; /* everything that an agent started ends when the writing end is closed */

static void agent_reply(pid_t a, pid_t b)
{
	struct reply r = {a, b};

	if (write(AGENT_OUT, &r, sizeof(r)) != sizeof(r))
		_exit(3);
}

static void agent_linger(void)
{
	char c;

	while (read(AGENT_LIFE, &c, 1) < 0)
		;
}

static void agent_exec(void)
{
	execl("/proc/self/exe", "test_tx", "agent", (char *)NULL);
	_exit(3);
}

static void *agent_thread(void *arg)
{
	if (arg)
		agent_exec(); /* not the leader: it takes the leader's id over */
	agent_reply(getpid(), gettid());
	agent_linger();
	return NULL;
}

static pid_t agent_fork(void)
{
	pid_t pid = fork();

	if (pid < 0)
		_exit(3);
	return pid;
}

static int agent_main(void)
{
	char c;

	signal(SIGCHLD, SIG_IGN);
	agent_reply(getpid(), gettid());
	while (read(AGENT_IN, &c, 1) == 1) {
		pthread_t t;
		pid_t pid;

		switch (c) {
		case 't': /* a thread */
		case 'x': /* a thread that executes */
			if (pthread_create(&t, NULL, agent_thread, c == 'x' ? &c : NULL) != 0)
				return 3;
			pthread_detach(t);
			if (c == 'x')
				agent_linger();
			break;
		case 'e':
			agent_exec();
			break;
		case 'f': /* a child */
			pid = agent_fork();
			if (pid == 0) {
				agent_linger();
				_exit(0);
			}
			agent_reply(pid, 0);
			break;
		case 'd': /* a child with a child */
			if (agent_fork() == 0) {
				pid = agent_fork();
				if (pid)
					agent_reply(getpid(), pid);
				agent_linger();
				_exit(0);
			}
			break;
		}
	}
	_exit(0);
}

static struct reply agent_ask(struct agent *a, char what)
{
	struct reply r;

	if (what)
		assert_int_equal(write(a->to, &what, 1), 1);
	assert_int_equal(read(a->from, &r, sizeof(r)), sizeof(r));
	return r;
}

static struct agent agent_start(void)
{
	int in[2], out[2];
	struct agent a;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	a.pid = fork();
	assert_true(a.pid >= 0);
	if (a.pid == 0) {
		if (dup2(in[0], AGENT_IN) < 0 || dup2(out[1], AGENT_OUT) < 0 || dup2(lifeline[0], AGENT_LIFE) < 0)
			_exit(3);
		agent_exec();
	}
	close(in[0]);
	close(out[1]);
	a.to = in[1];
	a.from = out[0];
	assert_int_equal(agent_ask(&a, 0).a, a.pid);
	return a;
}

static void agent_kill(struct agent *a)
{
	kill(a->pid, SIGKILL); /* a zombie until agent_end */
}

static void agent_end(struct agent *a)
{
	close(a->to);
	close(a->from);
	kill(a->pid, SIGKILL);
	assert_int_equal(waitpid(a->pid, NULL, 0), a->pid);
}

/* Of a process that is not our child: until its id is free. */
static void kill_and_wait(pid_t pid)
{
	kill(pid, SIGKILL);
	for (int i = 0; i < DEADLINE * 1000; i++) {
		if (kill(pid, 0) != 0 && errno == ESRCH)
			return;
		usleep(1000);
	}
	fail_msg("process %d does not go", (int)pid);
}

/* ---- helpers ---- */

static char line[4096];

static struct fusefs_caller caller(pid_t pid)
{
	return (struct fusefs_caller){.pid = pid, .uid = getuid(), .gid = getgid()};
}

static int run_as(struct fusefs_tx *tx, struct fusefs_caller who, const char *text)
{
	struct base_buf b = {0};
	int rc = fusefs_tx_run(reg, tx, &who, text, strlen(text), &b);

	assert_int_equal(b.err, 0);
	assert_true(b.n > 0 && b.n < sizeof(line));
	memcpy(line, b.p, b.n + 1);
	assert_null(strchr(line, '\n'));
	assert_int_equal(strncmp(line, rc ? "error: " : "ok: ", rc ? 7 : 4), 0);
	if (rc)
		assert_non_null(strstr(line, strerrorname_np(-rc)));
	base_buf_free(&b);
	return rc;
}

static int run(pid_t pid, const char *text)
{
	return run_as(NULL, caller(pid), text);
}

static int run_on(struct fusefs_tx *tx, pid_t pid, const char *text)
{
	return run_as(tx, caller(pid), text);
}

#define assert_says(text)                                                                                              \
	do {                                                                                                           \
		if (!strstr(line, text))                                                                               \
			fail_msg("\"%s\" does not say \"%s\"", line, text);                                            \
	} while (0)

static void read_ctl(struct fusefs_tx *tx, pid_t pid)
{
	struct fusefs_caller who = caller(pid);
	struct base_buf b = {0};

	fusefs_tx_last_line(reg, tx, &who, &b);
	assert_int_equal(b.err, 0);
	assert_true(b.n < sizeof(line));
	memcpy(line, b.p, b.n + 1);
	base_buf_free(&b);
}

/* The number of the transaction that a thread is in, or 0. */
static unsigned member(pid_t pid)
{
	struct fusefs_tx *tx = fusefs_tx_of(reg, pid);
	unsigned number = tx ? tx->number : 0;

	fusefs_tx_put(tx);
	return number;
}

static struct fusefs_tx *make(const char *name)
{
	struct fusefs_caller who = caller(getpid());
	struct fusefs_tx *tx;

	assert_int_equal(fusefs_tx_make(reg, name, &who, &tx), 0);
	return tx;
}

static int setup(void **state UNUSED)
{
	engine.error = NULL;
	engine.begin_rc = engine.commit_rc = engine.rollback_rc = engine.savepoint_rc = 0;
	engine.commit_aborts = engine.hold_commits = false;
	seen.trace[0] = '\0';
	seen.begun = seen.committed = seen.rolled_back = seen.unchanged = seen.gone = 0;
	seen.begun_rc = 0;
	seen.found_when_ended = false;
	assert_int_equal(pipe2(lifeline, O_CLOEXEC), 0);
	return fusefs_registry_new(&engine, &hooks, &reg);
}

static int teardown(void **state UNUSED)
{
	hold_commits(false); /* a test that failed may have left them held */
	fusefs_registry_free(reg);
	reg = NULL;
	close(lifeline[0]);
	close(lifeline[1]);
	/* Nothing is left behind, and every transaction that has begun has ended in one way. */
	assert_int_equal(txns_alive, 0);
	assert_int_equal(seen.gone, seen.begun_rc ? 0 : seen.begun);
	assert_false(seen.found_when_ended);
	return 0;
}

/* ---- beginning and ending ---- */

static void begin_and_commit(void **state UNUSED)
{
	struct agent a = agent_start(), b = agent_start();
	struct fusefs_tx *tx;

	assert_int_equal(fusefs_ambient_open(reg), 0);
	assert_int_equal(run(a.pid, "commit"), -ENOTCONN);
	assert_int_equal(run(a.pid, "begin first"), 0);
	assert_says("ok: began transaction 1 \"first\"");
	assert_int_equal(fusefs_ambient_open(reg), 1);
	tx = fusefs_tx_of(reg, a.pid);
	assert_non_null(tx);
	assert_false(tx->named);
	assert_string_equal(tx->name, "first");
	assert_int_equal(atomic_load(&tx->owner), a.pid);
	assert_int_equal(tx->uid, getuid());
	assert_true(txn_is_open(tx->txn));
	assert_null(fusefs_tx_find(reg, "first"));
	assert_int_equal(member(b.pid), 0);
	assert_int_equal(member(getpid()), 0);
	assert_int_equal(run(b.pid, "commit"), -ENOTCONN);
	assert_int_equal(run(a.pid, "COMMIT"), 0);
	assert_says("ok: committed transaction 1 \"first\" (7 operations)");
	assert_string_equal(seen.trace, "begun quiesce ending commit flipping committed");
	assert_int_equal(member(a.pid), 0);
	assert_int_equal(fusefs_ambient_open(reg), 0);
	/* The reference outlives it; its own ctl says so. */
	assert_int_equal(run_on(tx, a.pid, "commit"), -ENOTCONN);
	read_ctl(tx, a.pid);
	assert_says("transaction 1 \"first\" has ended");
	fusefs_tx_put(tx);

	assert_int_equal(run(a.pid, "begin first"), 0); /* the name is free again */
	assert_int_equal(member(a.pid), 2);
	seen.trace[0] = '\0';
	assert_int_equal(run(a.pid, "rollback"), 0);
	assert_says("ok: rolled back transaction 2 \"first\"");
	assert_string_equal(seen.trace, "ending rollback rolled_back");
	assert_int_equal(member(a.pid), 0);
	agent_end(&a);
	agent_end(&b);
}

static void begin_fails(void **state UNUSED)
{
	struct agent a = agent_start();
	struct fusefs_caller who = caller(a.pid);
	struct fusefs_tx *tx;

	engine.begin_rc = -ENOSPC;
	assert_int_equal(run(a.pid, "begin x"), -ENOSPC);
	assert_int_equal(fusefs_tx_make(reg, "x", &who, &tx), -ENOSPC);
	engine.begin_rc = 0;
	seen.begun_rc = -ENOMEM;
	assert_int_equal(run(a.pid, "begin x"), -ENOMEM);
	assert_int_equal(fusefs_tx_make(reg, "x", &who, &tx), -ENOMEM);
	assert_int_equal(fusefs_ambient_open(reg), 0);
	assert_int_equal(txns_alive, 0);
	assert_int_equal(seen.gone, 0);
	assert_int_equal(run(0, "begin"), -ESRCH);
	assert_says("mkdir");
	agent_end(&a);
	assert_int_equal(run(a.pid, "begin"), -ESRCH); /* it has died */
}

static void commit_fails(void **state UNUSED)
{
	struct agent a = agent_start();

	assert_int_equal(run(a.pid, "begin"), 0);
	engine.commit_rc = -ENOSPC;
	assert_int_equal(run(a.pid, "commit"), -ENOSPC);
	assert_says("still open");
	assert_int_equal(member(a.pid), 1);
	assert_int_equal(seen.unchanged, 1);
	engine.commit_rc = 0;
	assert_int_equal(run(a.pid, "commit"), 0);

	assert_int_equal(run(a.pid, "begin"), 0);
	engine.commit_rc = -ECANCELED;
	engine.commit_aborts = true;
	assert_int_equal(run(a.pid, "commit"), -ECANCELED);
	assert_says("rolled back");
	assert_int_equal(member(a.pid), 0);
	assert_int_equal(seen.rolled_back, 1);

	engine.commit_rc = 0;
	assert_int_equal(run(a.pid, "begin"), 0);
	engine.error = "the log cannot be written";
	assert_int_equal(run(a.pid, "commit"), -EROFS);
	assert_says("the log cannot be written");
	assert_int_equal(run(a.pid, "savepoint s"), -EROFS);
	engine.rollback_rc = -EROFS;
	assert_int_equal(run(a.pid, "rollback"), -EROFS);
	assert_says("the log cannot be written");
	assert_says("still open");
	read_ctl(NULL, a.pid);
	assert_says("\nthe mount is read-only: the log cannot be written\n");
	agent_end(&a);
}

static void free_rolls_back(void **state UNUSED)
{
	struct fusefs_tx *tx = make("left"), *kept = make("kept");
	struct agent a = agent_start();

	assert_int_equal(run(a.pid, "begin"), 0);
	fusefs_tx_put(tx);
	fusefs_registry_free(reg);
	assert_int_equal(seen.rolled_back, 3);
	assert_int_equal(seen.gone, 2);
	assert_false(txn_is_open(kept->txn));
	fusefs_tx_put(kept); /* also after the registry */
	assert_int_equal(fusefs_registry_new(&engine, &hooks, &reg), 0);
	agent_end(&a);
}

/* ---- membership ---- */

static void members(void **state UNUSED)
{
	struct agent a = agent_start(), b = agent_start();
	pid_t before = agent_ask(&a, 'f').a, after, thread;
	struct reply family, orphans, stranger = agent_ask(&b, 'd');

	assert_int_equal(run(a.pid, "begin"), 0);
	after = agent_ask(&a, 'f').a;
	thread = agent_ask(&a, 't').b;
	family = agent_ask(&a, 'd');
	orphans = agent_ask(&a, 'd');
	assert_int_not_equal(thread, a.pid);
	assert_int_equal(member(a.pid), 1);
	assert_int_equal(member(before), 1);
	assert_int_equal(member(after), 1);
	assert_int_equal(member(thread), 1);
	assert_int_equal(member(family.b), 1); /* before its parent is looked at */
	assert_int_equal(member(family.a), 1);
	assert_int_equal(member(b.pid), 0);
	assert_int_equal(member(stranger.a), 0);
	assert_int_equal(member(stranger.b), 0);
	assert_int_equal(member(getpid()), 0);
	assert_int_equal(member(1), 0);
	assert_int_equal(member(0), 0);
	assert_int_equal(member(-1), 0);
	assert_int_equal(member(0x7fffffff), 0);

	/* An orphan that was seen before stays, one that was not is nobody's. */
	kill_and_wait(family.a);
	kill_and_wait(orphans.a);
	assert_int_equal(member(family.a), 0);
	assert_int_equal(member(family.b), 1);
	assert_int_equal(member(orphans.b), 0);
	assert_int_equal(run(family.b, "savepoint by_orphan"), 0);

	/* The owner's exec keeps it. The other thread does not survive that. */
	assert_int_equal(agent_ask(&a, 'e').a, a.pid);
	assert_int_equal(member(a.pid), 1);
	assert_int_equal(member(after), 1);
	assert_int_equal(member(thread), 0);
	assert_int_equal(agent_ask(&a, 'x').a, a.pid);
	assert_int_equal(member(a.pid), 1);

	/* A thread may commit, and so may a child. */
	thread = agent_ask(&a, 't').b;
	assert_int_equal(run(thread, "savepoint by_thread"), 0);
	assert_int_equal(run(after, "commit"), 0);
	assert_int_equal(member(after), 0);
	assert_int_equal(run(thread, "begin"), 0); /* belongs to the process */
	assert_int_equal(member(a.pid), 2);
	agent_end(&b);
	agent_end(&a);
	wait_rolled_back(1);
	assert_int_equal(member(after), 0);
}

static void nearest_owner(void **state UNUSED)
{
	struct agent a = agent_start();
	struct reply family = agent_ask(&a, 'd');

	assert_int_equal(run(family.a, "begin inner"), 0);
	assert_int_equal(run(a.pid, "begin outer"), 0);
	assert_int_equal(member(family.b), 1);
	assert_int_equal(member(family.a), 1);
	assert_int_equal(member(a.pid), 2);
	assert_int_equal(fusefs_ambient_open(reg), 2);
	assert_int_equal(run(family.b, "begin"), -EALREADY);
	assert_int_equal(run(family.b, "commit"), 0);
	assert_int_equal(member(family.b), 2);
	assert_int_equal(run(family.a, "begin"), -EALREADY);
	assert_says("outer");
	assert_says("savepoint");
	agent_end(&a);
	wait_rolled_back(1);
}

static void rules(void **state UNUSED)
{
	struct agent a = agent_start(), b = agent_start();
	pid_t child = agent_ask(&a, 'f').a;
	struct fusefs_caller owner = caller(a.pid), other = caller(child), root = other;
	struct fusefs_tx *tx, *second;

	other.uid = getuid() + 1000;
	root.uid = 0;
	owner.uid = getuid() + 2000;
	assert_int_equal(run(a.pid, "begin"), 0);
	assert_int_equal(run(a.pid, "begin"), -EALREADY);
	assert_int_equal(run(child, "begin"), -EALREADY);
	tx = fusefs_tx_of(reg, a.pid);
	assert_int_equal(run_on(tx, b.pid, "begin"), -EALREADY);
	assert_int_equal(run_as(NULL, other, "commit"), -EACCES);
	assert_int_equal(run_as(NULL, other, "savepoint s"), -EACCES);
	assert_int_equal(run_as(tx, other, "rollback"), -EACCES);
	assert_false(fusefs_tx_allowed(tx, &other));
	assert_true(fusefs_tx_allowed(tx, &root));
	assert_true(fusefs_tx_allowed(tx, &owner)); /* it has another uid by now */
	assert_int_equal(run_as(NULL, root, "savepoint s"), 0);
	assert_int_equal(run_as(NULL, owner, "commit"), 0);
	fusefs_tx_put(tx);

	tx = make("deploy");
	assert_true(tx->named);
	assert_ptr_equal((second = fusefs_tx_find(reg, "deploy")), tx);
	fusefs_tx_put(second);
	assert_null(fusefs_tx_find(reg, "other"));
	assert_int_equal(fusefs_ambient_open(reg), 0);
	owner.uid = getuid();
	assert_int_equal(fusefs_tx_make(reg, "deploy", &owner, &second), -EEXIST);
	assert_int_equal(run(a.pid, "begin deploy"), -EEXIST);
	assert_int_equal(fusefs_tx_make(reg, "ctl", &owner, &second), -EINVAL);
	assert_int_equal(fusefs_tx_make(reg, "status", &owner, &second), -EINVAL);
	assert_int_equal(fusefs_tx_make(reg, "a\nb", &owner, &second), -EINVAL);
	assert_int_equal(fusefs_tx_make(reg, "", &owner, &second), -EINVAL);
	read_ctl(NULL, a.pid);
	assert_says("error: the transaction's name is empty (EINVAL)\nno transaction\n");
	assert_int_equal(run(a.pid, "begin status"), -EINVAL);
	assert_int_equal(run(a.pid, "begin \"a/b\""), -EINVAL);
	assert_int_equal(fusefs_tx_make(reg, "two words", &owner, &second), 0);
	fusefs_tx_put(second);
	assert_int_equal(run(a.pid, "begin taken"), 0);
	assert_int_equal(fusefs_tx_make(reg, "taken", &owner, &second), -EEXIST);
	/* A named one's ctl speaks for it, whatever transaction the writer is in. */
	assert_int_equal(run_on(tx, a.pid, "savepoint in_deploy"), 0);
	assert_int_equal(run_on(tx, 0, "savepoint from_nowhere"), 0);
	assert_int_equal(run_as(tx, other, "commit"), -EACCES);
	assert_int_equal(fusefs_tx_remove(tx, &other), -EACCES);
	assert_int_equal(fusefs_tx_remove(tx, &owner), 0);
	assert_int_equal(fusefs_tx_remove(tx, &owner), -ENOENT);
	assert_null(fusefs_tx_find(reg, "deploy"));
	fusefs_tx_put(tx);
	fusefs_tx_put(make("deploy"));
	agent_end(&a);
	agent_end(&b);
}

static void given_owner(void **state UNUSED)
{
	struct agent a = agent_start(), b = agent_start();
	pid_t child = agent_ask(&a, 'f').a, gone = agent_ask(&b, 'f').a;
	struct fusefs_caller stranger = caller(child);
	struct fusefs_tx *tx;
	char text[64];

	kill_and_wait(gone);
	snprintf(text, sizeof(text), "begin owner %d", b.pid);
	assert_int_equal(run(child, text), -EPERM);
	snprintf(text, sizeof(text), "begin owner %d", gone);
	assert_int_equal(run(child, text), -ESRCH);
	snprintf(text, sizeof(text), "begin owner %d", a.pid);
	stranger.uid = getuid() + 1000;
	assert_int_equal(run_as(NULL, stranger, text), -EPERM); /* the ancestor is of another uid */
	assert_int_equal(run(child, text), 0);
	tx = fusefs_tx_of(reg, a.pid);
	assert_non_null(tx);
	assert_int_equal(atomic_load(&tx->owner), a.pid);
	fusefs_tx_put(tx);
	kill_and_wait(child);
	assert_int_equal(member(a.pid), 1); /* the tool that wrote `begin` ends, its shell goes on */
	snprintf(text, sizeof(text), "owner %d", a.pid);
	assert_int_equal(run(a.pid, text), -EINVAL);
	assert_int_equal(run(a.pid, "commit"), 0);
	assert_int_equal(run(a.pid, text), -ENOTCONN);

	/* A named one is tied to a process, then to another one. */
	tx = make("tied");
	assert_int_equal(atomic_load(&tx->owner), 0);
	assert_int_equal(run_on(tx, b.pid, text), -EPERM);
	assert_int_equal(run_on(tx, a.pid, text), 0);
	assert_says("owned by process");
	assert_int_equal(atomic_load(&tx->owner), a.pid);
	assert_int_equal(member(a.pid), 0);
	snprintf(text, sizeof(text), "timeout 9; owner %d", b.pid);
	assert_int_equal(run_on(tx, b.pid, text), 0);
	agent_end(&a);
	assert_int_equal(run_on(tx, b.pid, "savepoint still_here"), 0);
	agent_kill(&b);
	wait_rolled_back(1);
	assert_null(fusefs_tx_find(reg, "tied"));
	fusefs_tx_put(tx);
	agent_end(&b);
}

/* ---- deaths ---- */

static void owner_dies(void **state UNUSED)
{
	struct agent a = agent_start(), b = agent_start();
	pid_t child = agent_ask(&a, 'f').a;

	assert_int_equal(run(a.pid, "begin"), 0);
	assert_int_equal(run(b.pid, "begin"), 0);
	assert_int_equal(member(child), 1);
	agent_kill(&a); /* not yet reaped: a zombie is dead enough */
	wait_rolled_back(1);
	assert_int_equal(member(child), 0);
	assert_int_equal(run(child, "commit"), -ENOTCONN);
	assert_int_equal(member(b.pid), 2);
	assert_int_equal(fusefs_ambient_open(reg), 1);
	agent_end(&a);
	agent_end(&b);
	wait_rolled_back(2);
	assert_int_equal(fusefs_ambient_open(reg), 0);
}

struct commit {
	struct fusefs_tx *tx; /* NULL: the caller's */
	pid_t pid;
	pthread_barrier_t *start;
	int rc;
};

static void *commit_thread(void *arg)
{
	struct commit *c = arg;
	struct fusefs_caller who = caller(c->pid);

	if (c->start)
		pthread_barrier_wait(c->start);
	c->rc = fusefs_tx_run(reg, c->tx, &who, "commit", 6, NULL);
	return NULL;
}

/* A commit that takes long holds up the rollback for its own dead owner, and nobody else's. */
static void death_during_commit(void **state UNUSED)
{
	struct agent a = agent_start(), b = agent_start();
	static struct commit c; /* outlives a failure */
	pthread_t thread;

	assert_int_equal(run(a.pid, "begin"), 0);
	assert_int_equal(run(b.pid, "begin"), 0);
	c = (struct commit){.pid = a.pid, .rc = 1};
	hold_commits(true);
	assert_int_equal(pthread_create(&thread, NULL, commit_thread, &c), 0);
	wait_holding(1);
	agent_kill(&a);
	agent_kill(&b);
	wait_rolled_back(1);
	assert_int_equal(fusefs_ambient_open(reg), 1);
	hold_commits(false);
	pthread_join(thread, NULL);
	assert_int_equal(c.rc, 0);
	assert_int_equal(fusefs_ambient_open(reg), 0);
	agent_end(&a);
	agent_end(&b);
	/* Whoever reaps for it finds nothing to do. */
	fusefs_registry_free(reg);
	assert_int_equal(seen.committed, 1);
	assert_int_equal(seen.rolled_back, 1);
	assert_int_equal(fusefs_registry_new(&engine, &hooks, &reg), 0);
}

static void commit_against_death(void **state UNUSED)
{
	for (unsigned i = 0; i < 12; i++) {
		struct agent a = agent_start();
		struct commit c = {.pid = a.pid};
		pthread_t thread;

		assert_int_equal(run(a.pid, "begin"), 0);
		c.tx = fusefs_tx_of(reg, a.pid);
		assert_int_equal(pthread_create(&thread, NULL, commit_thread, &c), 0);
		agent_kill(&a);
		pthread_join(thread, NULL);
		assert_true(c.rc == 0 || c.rc == -ENOTCONN);
		if (c.rc)
			wait_rolled_back(i + 1 - seen.committed);
		pthread_mutex_lock(&seen.lock);
		assert_int_equal(seen.committed + seen.rolled_back, i + 1);
		pthread_mutex_unlock(&seen.lock);
		fusefs_tx_put(c.tx);
		agent_end(&a);
	}
}

/* An id that is used again is not the process that had it: needs the right to choose ids. */
static void reused_pid(void **state UNUSED)
{
	struct clone_args args = {.exit_signal = SIGCHLD};
	struct agent a = agent_start();
	struct timespec past = {.tv_nsec = 30000000};
	pid_t id = a.pid, again;

	assert_int_equal(run(id, "begin"), 0);
	engine.rollback_rc = -EIO; /* the transaction stays, and its owner's id with it */
	nanosleep(&past, NULL);    /* start times are counted in hundredths of a second */
	agent_end(&a);
	wait_count(&seen.unchanged, 1);
	args.set_tid = (uint64_t)(uintptr_t)&id;
	args.set_tid_size = 1;
	again = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (again == 0) {
		close(lifeline[1]); /* ends with the test, passed or failed */
		dup2(lifeline[0], AGENT_LIFE);
		agent_linger();
		_exit(0);
	}
	if (again < 0) {
		engine.rollback_rc = 0;
		print_message("not allowed to choose process ids\n");
		skip();
	}
	assert_int_equal(again, id);
	assert_int_equal(member(id), 0);
	assert_int_equal(run(id, "commit"), -ENOTCONN);
	assert_int_equal(run(id, "begin"), 0);
	assert_int_equal(member(id), 2);
	engine.rollback_rc = 0;
	assert_int_equal(run(id, "rollback"), 0);
	kill(id, SIGKILL);
	assert_int_equal(waitpid(id, NULL, 0), id);
}

/* ---- races ---- */

static void commit_twice(void **state UNUSED)
{
	for (int i = 0; i < 200; i++) {
		struct fusefs_tx *tx = make("contended");
		pthread_barrier_t start;
		struct commit c[2];
		pthread_t thread[2];

		pthread_barrier_init(&start, NULL, 2);
		for (int k = 0; k < 2; k++) {
			c[k] = (struct commit){.tx = tx, .pid = getpid(), .start = &start};
			assert_int_equal(pthread_create(&thread[k], NULL, commit_thread, &c[k]), 0);
		}
		for (int k = 0; k < 2; k++)
			pthread_join(thread[k], NULL);
		assert_int_equal(c[0].rc == 0, c[1].rc != 0);
		assert_int_equal(c[0].rc + c[1].rc, -ENOTCONN);
		pthread_barrier_destroy(&start);
		fusefs_tx_put(tx);
	}
	assert_int_equal(seen.committed, 200);
}

struct begin {
	pid_t pid;
	const char *text;
	pthread_barrier_t *start;
	int rc;
};

static void *begin_thread(void *arg)
{
	struct begin *b = arg;
	struct fusefs_caller who = caller(b->pid);

	pthread_barrier_wait(b->start);
	b->rc = fusefs_tx_run(reg, NULL, &who, b->text, strlen(b->text), NULL);
	return NULL;
}

/* Of two that begin at once, in one process or with one name, one is refused. */
static void begin_twice(void **state UNUSED)
{
	struct agent a = agent_start(), b = agent_start();

	for (int i = 0; i < 200; i++) {
		bool same_process = i % 2;
		struct begin c[2] = {{.pid = a.pid, .text = "begin n"},
		                     {.pid = same_process ? a.pid : b.pid, .text = same_process ? "begin" : "begin n"}};
		pthread_barrier_t start;
		pthread_t thread[2];

		pthread_barrier_init(&start, NULL, 2);
		for (int k = 0; k < 2; k++) {
			c[k].start = &start;
			assert_int_equal(pthread_create(&thread[k], NULL, begin_thread, &c[k]), 0);
		}
		for (int k = 0; k < 2; k++)
			pthread_join(thread[k], NULL);
		assert_int_equal(c[0].rc == 0, c[1].rc != 0);
		assert_int_equal(c[0].rc + c[1].rc, same_process ? -EALREADY : -EEXIST);
		assert_int_equal(run(c[0].rc ? c[1].pid : a.pid, "commit"), 0);
		pthread_barrier_destroy(&start);
	}
	agent_end(&a);
	agent_end(&b);
}

/* ---- commands and texts ---- */

static void savepoints(void **state UNUSED)
{
	struct agent a = agent_start();

	assert_int_equal(run(a.pid, "savepoint s"), -ENOTCONN);
	assert_int_equal(run(a.pid, "begin"), 0);
	assert_int_equal(run(a.pid, "rollback to x"), -ENOENT);
	assert_says("error: no savepoint named \"x\" (ENOENT); transaction 1 has none");
	seen.trace[0] = '\0';
	assert_int_equal(run(a.pid, "savepoint a; savepoint b; savepoint \"c d\"; savepoint a"), 0);
	assert_string_equal(seen.trace, "quiesce savepoint quiesce savepoint quiesce savepoint quiesce savepoint");
	assert_int_equal(run(a.pid, "rollback to x"), -ENOENT);
	assert_string_equal(line, "error: no savepoint named \"x\" (ENOENT); savepoints: a, b, c d, a");
	seen.trace[0] = '\0';
	assert_int_equal(run(a.pid, "rollback to a"), 0); /* the newest of that name, which stays */
	assert_string_equal(seen.trace, "quiesce rollback_to rolled_back_to");
	assert_int_equal(run(a.pid, "release x"), -ENOENT);
	assert_says("savepoints: a, b, c d, a");
	assert_int_equal(run(a.pid, "rollback to b"), 0);
	assert_int_equal(run(a.pid, "release x"), -ENOENT);
	assert_says("savepoints: a, b");
	assert_null(strstr(line, "c d"));
	engine.savepoint_rc = -ENOSPC;
	assert_int_equal(run(a.pid, "savepoint full"), -ENOSPC);
	assert_says("savepoint of transaction 1 failed: No space left on device (ENOSPC)");
	engine.savepoint_rc = 0;
	read_ctl(NULL, a.pid);
	assert_says("\ntransaction 1 is open: 7 operations, 2 savepoints (a, b)\n");
	assert_int_equal(run(a.pid, "release a"), 0); /* and those after it */
	assert_says("ok: released savepoint \"a\" in transaction 1");
	read_ctl(NULL, a.pid);
	assert_says("\ntransaction 1 is open: 7 operations, 0 savepoints\n");
	assert_int_equal(run(a.pid, "release a"), -ENOENT);
	assert_says("transaction 1 has none");
	/* Names are shown on one line whatever is in them. */
	assert_int_equal(run(a.pid, "savepoint \"a\nb\"\"\""), 0);
	assert_says("\"a\\nb\\\"\"");
	agent_end(&a);
	wait_rolled_back(1);
}

static void texts(void **state UNUSED)
{
	static const char nul[] = "begin\0";
	struct agent a = agent_start();
	struct fusefs_caller who = caller(a.pid);
	char *huge = malloc(1 << 20);

	assert_int_equal(run(a.pid, ""), -EINVAL);
	assert_says("empty command");
	assert_int_equal(run(a.pid, "\n"), -EINVAL);
	assert_int_equal(run(a.pid, " ; "), -EINVAL);
	assert_int_equal(run(a.pid, "# only a remark\n"), 0);
	assert_int_equal(run(a.pid, "nonsense"), -EINVAL);
	assert_says("unknown command \"nonsense\"");
	assert_int_equal(fusefs_tx_run(reg, NULL, &who, nul, sizeof(nul), NULL), -EINVAL);
	assert_int_equal(fusefs_tx_run(reg, NULL, &who, NULL, 0, NULL), -EINVAL);
	assert_non_null(huge);
	memset(huge, 'x', 1 << 20);
	assert_int_equal(fusefs_tx_run(reg, NULL, &who, huge, 1 << 20, NULL), -EINVAL);
	read_ctl(NULL, a.pid);
	assert_says("error: too long");
	memset(huge, ' ', FUSEFS_COMMAND_MAX);
	memcpy(huge, "begin", 5);
	assert_int_equal(fusefs_tx_run(reg, NULL, &who, huge, FUSEFS_COMMAND_MAX + 1, NULL), -EINVAL);
	assert_int_equal(fusefs_tx_run(reg, NULL, &who, huge, FUSEFS_COMMAND_MAX, NULL), 0);
	free(huge);
	assert_int_equal(run(a.pid, "rollback"), 0);

	/* Malformed: nothing runs. Failing: what came before has happened. */
	assert_int_equal(run(a.pid, "begin; savepoint s; nonsense"), -EINVAL);
	assert_int_equal(member(a.pid), 0);
	assert_int_equal(run(a.pid, "begin; savepoint s; rollback to t; commit"), -ENOENT);
	assert_says("no savepoint named \"t\"");
	assert_int_equal(member(a.pid), 2);
	assert_int_equal(run(a.pid, "commit; commit"), -ENOTCONN);
	assert_int_equal(run(a.pid, "begin; commit; begin; rollback"), 0);
	assert_says("ok: rolled back transaction 4");
	agent_end(&a);
}

static void isolation_levels(void **state UNUSED)
{
	struct agent a = agent_start();
	struct base_buf text = {0};
	struct fusefs_caller who = caller(a.pid);
	struct fusefs_tx *tx = make("x");

	assert_int_equal(run_on(tx, a.pid, "isolation serializable"), 0);
	assert_says("isolation serializable");
	assert_int_equal(tx->txn->isolation, TXN_SERIALIZABLE);
	assert_non_null(strstr(seen.trace, "isolated"));
	assert_int_equal(fusefs_tx_status(reg, tx, &text), 0);
	assert_non_null(strstr((char *)text.p, "\nisolation: serializable\n"));
	base_buf_free(&text);
	tx->txn->isolation_rc = -EINVAL;
	assert_int_equal(run_on(tx, a.pid, "isolation serializable timeout 3"), 0); /* as it is */
	assert_int_equal(run_on(tx, a.pid, "isolation snapshot"), -EINVAL);
	assert_says("transaction 1 \"x\" has changed something");
	/* An operation, or the commit, came too late. */
	tx->txn->conflict = "d/f has other contents than this transaction has read";
	read_ctl(tx, a.pid);
	assert_says("it cannot commit: d/f has other contents");
	engine.commit_rc = -ECANCELED;
	assert_int_equal(run_on(tx, a.pid, "commit"), -ECANCELED);
	assert_says("failed: d/f has other contents than this transaction has read (ECANCELED)");
	engine.commit_rc = 0;
	assert_int_equal(fusefs_tx_remove(tx, &who), 0);
	fusefs_tx_put(tx);
	agent_end(&a);
}

static void not_supported(void **state UNUSED)
{
	struct agent a = agent_start();
	char text[300] = "prepare ";

	assert_int_equal(run(a.pid, "begin isolation serializable"), -EOPNOTSUPP);
	assert_says("txnfs run --isolation");
	assert_int_equal(run(a.pid, "begin isolation level snapshot"), -EOPNOTSUPP);
	assert_int_equal(member(a.pid), 0);
	assert_int_equal(run(a.pid, "begin isolation level read committed timeout 2.5"), 0);
	assert_int_equal(run(a.pid, "isolation snapshot"), -EOPNOTSUPP);
	assert_int_equal(run(a.pid, "isolation read committed"), 0);
	memset(text + 8, 'g', 201);
	assert_int_equal(run(a.pid, text), -ENAMETOOLONG);
	assert_int_equal(member(a.pid), 1);
	agent_end(&a);
	wait_rolled_back(1);
}

static void drop_prepared(void)
{
	txn_put(prepared_txn);
	prepared_txn = NULL;
}

/* It leaves its session, and is ended from any process of its uid. */
static void two_phases(void **state UNUSED)
{
	const struct fusefs_caller stranger = {.pid = getpid(), .uid = 4711};
	struct agent a = agent_start(), b = agent_start();
	struct base_buf text = {0};
	unsigned committed;

	assert_int_equal(run(a.pid, "commit prepared g"), -ENOENT);
	assert_says("no transaction is prepared by that name");
	assert_int_equal(run(a.pid, "prepare g"), -ENOTCONN);
	assert_int_equal(run(a.pid, "begin; prepare \"g 1\""), 0);
	assert_says("ok: prepared transaction");
	assert_says("\"g 1\"");
	assert_int_equal(member(a.pid), 0);
	assert_int_equal(fusefs_ambient_open(reg), 0);
	wait_rolled_back(1); /* is what it is to the view */
	assert_int_equal(fusefs_tx_prepared(reg, &text), 0);
	assert_string_equal((char *)text.p, "g 1\t0\t2023-11-14T22:13:20Z\t3\n");
	base_buf_free(&text);

	/* The owner goes on, and another one's name is in use. */
	assert_int_equal(run(a.pid, "begin; prepare \"g 1\""), -EEXIST);
	assert_says("there is a prepared transaction of that name");
	assert_int_equal(member(a.pid), 0);
	agent_end(&a);

	assert_int_equal(fusefs_tx_run(reg, NULL, &stranger, "commit prepared \"g 1\"", 21, NULL), -EACCES);
	assert_int_equal(prepared_txn->state, TXN_PREPARED);
	committed = seen.committed;
	assert_int_equal(run(b.pid, "commit prepared \"g 1\""), 0);
	assert_says("ok: committed the transaction that was prepared as \"g 1\" (3 changes)");
	assert_int_equal(seen.committed, committed + 1); /* caches have heard of it */
	assert_int_equal(prepared_txn->state, TXN_COMMITTED);
	assert_int_equal(run(b.pid, "commit prepared \"g 1\""), -ENOENT);
	drop_prepared();

	prepared_uid = 0;
	assert_int_equal(run(b.pid, "begin; prepare h; begin; rollback prepared h"), 0);
	assert_int_equal(prepared_txn->state, TXN_ABORTED);
	assert_int_equal(member(b.pid) != 0, 1); /* in the one that it has begun meanwhile */
	drop_prepared();
	agent_end(&b);
	wait_rolled_back(3);
}

static void messages(void **state UNUSED)
{
	struct agent a = agent_start(), b = agent_start();
	struct reply family = agent_ask(&a, 'd');
	pid_t thread = agent_ask(&a, 't').b, gone = agent_ask(&b, 'f').a;
	struct fusefs_tx *tx;

	read_ctl(NULL, a.pid);
	assert_string_equal(line, "ok: nothing done yet\nno transaction\n");
	assert_int_equal(run(a.pid, "nonsense"), -EINVAL);
	read_ctl(NULL, family.b); /* `cat` is a child of the shell */
	assert_says("\"nonsense\"");
	read_ctl(NULL, thread);
	assert_says("\"nonsense\"");
	read_ctl(NULL, b.pid);
	assert_string_equal(line, "ok: nothing done yet\nno transaction\n");
	assert_int_equal(run(family.a, "rubbish"), -EINVAL);
	read_ctl(NULL, family.b); /* the nearest one's */
	assert_says("\"rubbish\"");
	read_ctl(NULL, a.pid);
	assert_says("\"nonsense\"");
	assert_int_equal(run(thread, "begin"), 0);
	read_ctl(NULL, a.pid);
	assert_string_equal(line, "ok: began transaction 1\ntransaction 1 is open: 7 operations, 0 savepoints\n");
	kill_and_wait(gone);
	read_ctl(NULL, gone);
	assert_string_equal(line, "ok: nothing done yet\nno transaction\n");
	read_ctl(NULL, 0);
	assert_string_equal(line, "ok: nothing done yet\nno transaction\n");
	tx = make("named");
	read_ctl(tx, 0);
	assert_string_equal(line,
	                    "ok: nothing done yet\ntransaction 2 \"named\" is open: 7 operations, 0 savepoints\n");
	read_ctl(tx, getpid());
	assert_says("ok: began transaction 2 \"named\"\n");
	fusefs_tx_put(tx);
	agent_end(&a);
	agent_end(&b);
	wait_rolled_back(1);
}

static int count_named(void *arg, struct fusefs_tx *tx)
{
	struct base_buf *b = arg;

	/* It may do what it likes. */
	fusefs_tx_put(fusefs_tx_find(reg, tx->name));
	base_buf_printf(b, "%s ", tx->name);
	return strcmp(tx->name, "stop") == 0 ? 7 : 0;
}

static void status(void **state UNUSED)
{
	struct fusefs_tx *tx = make("z"), *stop;
	struct agent a = agent_start();
	struct base_buf b = {0};
	char want[64];

	assert_int_equal(fusefs_tx_each_named(reg, count_named, &b), 0);
	assert_string_equal((char *)b.p, "z ");
	stop = make("stop");
	fusefs_tx_put(make("after"));
	assert_int_equal(run(a.pid, "begin ambient"), 0);
	base_buf_free(&b);
	assert_int_equal(fusefs_tx_each_named(reg, count_named, &b), 7);
	assert_string_equal((char *)b.p, "z stop ");
	base_buf_free(&b);

	snprintf(want, sizeof(want), "timeout 2.5; owner %d; savepoint one; savepoint two", a.pid);
	assert_int_equal(run_on(tx, a.pid, want), 0);
	assert_int_equal(fusefs_tx_status(reg, tx, &b), 0);
	memcpy(line, b.p, b.n + 1);
	snprintf(want, sizeof(want), "\nuid: %u\nowner: %d\n", (unsigned)getuid(), a.pid);
	assert_says("state: active\ntransaction: 1\nlog_id: ");
	assert_says("\nkind: named\nname: z\n");
	assert_says(want);
	assert_says("\nisolation: read committed\ntimeout: 2.5\nage: 0.");
	assert_says("\noperations: 7\nchanged_objects: 2\nchanged_names: 3\nlog_bytes: 4096\nsavepoints: one, two\n");
	base_buf_free(&b);

	assert_int_equal(fusefs_tx_changes(tx, &b), 0);
	assert_string_equal((char *)b.p, "A plain path\nR \"a\\tb\"\tc\n");
	base_buf_free(&b);
	assert_int_equal(run_on(tx, a.pid, "commit"), 0);
	assert_int_equal(fusefs_tx_changes(tx, &b), 0); /* nothing any more */
	assert_int_equal(b.n, 0);
	assert_int_equal(fusefs_tx_status(reg, tx, &b), 0);
	assert_int_equal(strncmp((char *)b.p, "state: committed\n", 17), 0);
	base_buf_free(&b);

	engine.stats = (struct txn_stats){.open = 3, .begun = 9, .log_bytes = 5};
	assert_int_equal(fusefs_tx_status(reg, NULL, &b), 0);
	memcpy(line, b.p, b.n + 1);
	assert_says("state: ok\nopen: 3\nprepared: 0\nambient: 1\nwaiting: 0\nbegun: 9\n");
	base_buf_free(&b);
	engine.error = "a reason";
	assert_int_equal(fusefs_tx_status(reg, NULL, &b), 0);
	memcpy(line, b.p, b.n + 1);
	assert_says("state: error: a reason\n");
	base_buf_free(&b);
	engine.error = NULL;
	fusefs_tx_put(tx);
	fusefs_tx_put(stop);
	agent_end(&a);
	wait_rolled_back(1);
}

/* ---- the process cache alone ---- */

static bool descends(struct fusefs_process *p, pid_t ancestor)
{
	while (p && p->tgid != ancestor)
		p = p->parent;
	return p != NULL;
}

/* With room for next to nothing the answers are the same, but for what only memory could tell. */
static void small_cache(void **state UNUSED)
{
	struct agent a = agent_start();
	struct fusefs_members *m;
	struct fusefs_process *p, *q;
	pid_t child[6], thread = agent_ask(&a, 't').b;
	int fd;

	assert_int_equal(fusefs_members_new(3, 1, &m), 0);
	for (size_t i = 0; i < ARRAY_LEN(child); i++)
		child[i] = agent_ask(&a, 'f').a;
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < ARRAY_LEN(child); i++) {
			assert_int_equal(fusefs_process_of(m, child[i], &p), 0);
			assert_int_equal(p->tgid, child[i]);
			assert_true(descends(p, a.pid));
			assert_true(descends(p, getpid()));
			assert_false(descends(p, child[(i + 1) % ARRAY_LEN(child)]));
			fusefs_process_put(p);
			assert_int_equal(fusefs_process_of(m, thread, &p), 0);
			assert_int_equal(p->tgid, a.pid);
			fusefs_process_put(p);
		}
	}
	assert_int_equal(fusefs_process_of(m, a.pid, &p), 0);
	assert_int_equal(fusefs_process_of(m, child[0], &q), 0);
	assert_false(fusefs_process_same(p, q));
	assert_true(fusefs_process_alive(q));
	fd = fusefs_process_open(q);
	if (no_pidfd)
		assert_int_equal(fd, -ENOSYS);
	else
		assert_int_equal(close(fd), 0);
	kill_and_wait(child[0]);
	assert_false(fusefs_process_alive(q));
	assert_true(fusefs_process_open(q) < 0);
	fusefs_process_put(p);
	assert_int_equal(fusefs_process_of(m, child[0], &p), -ESRCH);
	fusefs_members_free(m);
	assert_true(descends(q, a.pid)); /* outlives the cache */
	fusefs_process_put(q);
	agent_end(&a);
}

/* ---- main ---- */

static int forbid_pidfd_open(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_LEN(code), .filter = code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0)
		return -errno;
	return syscall(SYS_pidfd_open, getpid(), 0) < 0 && errno == ENOSYS ? 0 : -EIO;
}

int main(int argc, char **argv)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	static const struct CMUnitTest tests[] = {
		TEST(begin_and_commit),
		TEST(begin_fails),
		TEST(commit_fails),
		TEST(free_rolls_back),
		TEST(members),
		TEST(nearest_owner),
		TEST(rules),
		TEST(given_owner),
		TEST(owner_dies),
		TEST(death_during_commit),
		TEST(commit_against_death),
		TEST(reused_pid),
		TEST(commit_twice),
		TEST(begin_twice),
		TEST(savepoints),
		TEST(texts),
		TEST(isolation_levels),
		TEST(not_supported),
		TEST(two_phases),
		TEST(messages),
		TEST(status),
		TEST(small_cache),
	};
	int failed, rc, wstatus;
	pid_t pid;

	if (argc > 1 && strcmp(argv[1], "agent") == 0)
		return agent_main();
	no_pidfd = argc > 1 && strcmp(argv[1], "no-pidfd") == 0;
	if (no_pidfd) {
		rc = forbid_pidfd_open();
		if (rc) {
			printf("cannot forbid pidfd_open here (%s): not tested\n", strerror(-rc));
			return 0;
		}
	}
	failed = cmocka_run_group_tests_name(no_pidfd ? "without pidfd_open" : "with pidfd_open", tests, NULL, NULL);
	if (no_pidfd)
		return failed;
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		execl("/proc/self/exe", argv[0], "no-pidfd", (char *)NULL);
		_exit(3);
	}
	if (pid < 0 || waitpid(pid, &wstatus, 0) != pid || wstatus != 0)
		failed++;
	return failed;
}
