/*
 * test_coordinator.c - two-phase commit over a decision log that loses power.
 *
 * The coordinator, the resolver and the log are the real ones. The log's files are on a simulated disk (sim.h); the
 * participants are numbers, changed by what the linker puts in the place of the functions that talk to mounts
 * (CMakeLists.txt). Before each change of the disk and each step of a participant everything is stopped: for all
 * pictures that a power cut may leave of the disk now, a resolver must bring all participants to one end. It is stopped
 * at each of its steps in the same way.
 */
#include "tests/sim.h"
#include "tools/postgres.h"
#include "tools/resolver.h"
#include "tools/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define PARTS 3 /* the last one changes nothing */
#define WRITERS 2
#define DATABASE PARTS /* one more, when T.database */
#define IMAGES 40

enum state { OPEN, PREPARED, COMMITTED, ABORTED };

/* One history up to now: the disk, and the participants, whose every answer is durable. */
struct world {
	struct sim *sim;
	struct os os;
	enum state part[PARTS + 1];
	unsigned depth; /* how often the power went before */
};

/* A door that forgets to sync something. */
enum lame { SOUND, NO_FDATASYNC, NO_FILE_FSYNC, NO_DIR_FSYNC };

static struct {
	struct world *now;
	enum lame lame;
	bool database;    /* one takes part, prepared by the command */
	bool started;     /* its command, who alone knows by which name to prepare */
	int deaf;         /* the participant that cannot be told anything at first, 1...; 0: none */
	int refuse;       /* the participant that refuses to prepare, 1...; 0: none */
	uint64_t fail_at; /* the change of the disk that fails; 0: none */
	bool fail_on;     /* and all after it */
	uint64_t changes, recoveries, bad;
	int answered; /* what the coordinator has told its user: 1 committed, -1 not */
	bool decided; /* somebody has been told to commit */
} T;

static const char log_id[] = "00000000000000000000000000000000";

static void look_at_all(struct world *w);

/* ---- the disk ---- */

static int lame_fdatasync(void *ctx, int fd)
{
	const struct os *os = sim_os(ctx);

	return T.lame == NO_FDATASYNC ? 0 : os->fdatasync(ctx, fd);
}

static int lame_fsync(void *ctx, int fd)
{
	const struct os *os = sim_os(ctx);

	if (T.lame == (fd == sim_wal_dir(ctx) ? NO_DIR_FSYNC : NO_FILE_FSYNC))
		return 0;
	return os->fsync(ctx, fd);
}

static int on_change(void *arg, struct sim *sim UNUSED, uint64_t n UNUSED, const char *what, const char *on UNUSED)
{
	struct world *w = arg;

	look_at_all(w);
	if (w->depth || !T.fail_at || !strncmp(what, "os.create", 9))
		return 0;
	T.changes++;
	return T.changes == T.fail_at || (T.fail_on && T.changes > T.fail_at) ? -EIO : 0;
}

static void world_init(struct world *w, struct sim *sim)
{
	w->sim = sim;
	w->os = *sim_os(sim);
	w->os.fdatasync = lame_fdatasync;
	w->os.fsync = lame_fsync;
	sim_on_change(sim, on_change, w);
}

static struct decision_log log_of(struct world *w)
{
	struct decision_log log = {.os = &w->os, .dir = sim_wal_dir(w->sim)};
	char err[512] = "";

	/* The log was there before; it is made where a run finds none. */
	if (decision_log_init(&log, NULL, true, err, sizeof(err)))
		T.bad++;
	return log;
}

/* ---- the participants, in place of tools' functions ---- */

int __wrap_run_command(const struct run_mount *m, const char *text, const char *doing);
char *__wrap_tool_control_read(const struct tool_mount *m, const char *control, const char *txn, const char *name);
int __wrap_participant_end(const struct decision_branch *br, const char *gid, bool commit, bool offline, char *why);
int __wrap_postgres_prepared(const struct decision_branch *br, const char *gid, char *why);
void __wrap_tool_error(const char *fmt, ...) PRINTF_LIKE(1, 2);

int __wrap_run_command(const struct run_mount *m, const char *text, const char *doing UNUSED)
{
	int i = atoi(m->mount.point);

	look_at_all(T.now);
	if (!strncmp(text, "prepare ", 8)) {
		if (i + 1 == T.refuse) {
			T.now->part[i] = ABORTED;
			return -ENOSPC;
		}
		T.now->part[i] = PREPARED;
		look_at_all(T.now);
	}
	return 0;
}

char *__wrap_tool_control_read(const struct tool_mount *m, const char *control UNUSED, const char *txn UNUSED,
                               const char *name UNUSED)
{
	return strdup(atoi(m->point) < WRITERS ? "state: active\noperations: 3\n" : "state: active\noperations: 0\n");
}

int __wrap_participant_end(const struct decision_branch *br, const char *gid UNUSED, bool commit, bool offline UNUSED,
                           char *why UNUSED)
{
	enum state *p = &T.now->part[atoi(br->point)];

	look_at_all(T.now);
	if (T.deaf && p == &T.now->part[T.deaf - 1])
		return -ENOTCONN;
	if (*p != PREPARED)
		return 1;
	*p = commit ? COMMITTED : ABORTED;
	T.decided |= commit && !T.now->depth;
	look_at_all(T.now);
	return 0;
}

int __wrap_postgres_prepared(const struct decision_branch *br UNUSED, const char *gid UNUSED, char *why UNUSED)
{
	return T.now->part[DATABASE] != PREPARED;
}

void __wrap_tool_error(const char *fmt UNUSED, ...)
{
}

/* ---- the power goes, and comes back ---- */

static bool changes(int i)
{
	return i < WRITERS || (i == DATABASE && T.database);
}

static void check_end(const struct world *w)
{
	unsigned committed = 0, all = 0;

	for (int i = 0; i <= DATABASE; i++) {
		if (!changes(i))
			continue;
		if (w->part[i] == PREPARED)
			T.bad++; /* in doubt, although its log is there */
		committed += w->part[i] == COMMITTED;
		all++;
	}
	if (committed != 0 && committed != all)
		T.bad++;
	if ((T.answered > 0 || T.decided) && committed != all)
		T.bad++;
	if (T.answered < 0 && committed)
		T.bad++;
}

static int count_run(void *arg, const char *id UNUSED)
{
	++*(unsigned *)arg;
	return 0;
}

static int count_database(void *arg, const char *name UNUSED, const struct decision_branch *db)
{
	*(unsigned *)arg += db && atoi(db->point) == DATABASE;
	return 0;
}

/* The resolver, as `txnfs resolve --all`: the log's runs, then the branches of which it knows nothing. */
static void resolve_once(struct world *w)
{
	struct decision_log log = log_of(w);
	struct resolver rs = {.log = &log};
	unsigned runs = 0, databases = 0;

	resolver_pass(&rs);
	decision_each(&log, count_run, &runs);
	decision_each_database(&log, count_database, &databases);
	for (int i = 0; i <= DATABASE; i++) /* resolver_look, resolver_look_at_database */
		if (w->part[i] == PREPARED && !runs && i + 1 != T.deaf && (i != DATABASE || databases))
			w->part[i] = ABORTED;
}

static void resolve(struct world *w)
{
	struct world *outer = T.now;
	int deaf = T.deaf;

	T.now = w;
	for (int i = 0; i < WRITERS; i++)
		if (w->part[i] == OPEN)
			w->part[i] = ABORTED; /* its owner is dead */
	if (deaf)
		resolve_once(w);
	T.deaf = 0;
	resolve_once(w);
	if (T.started && w->part[DATABASE] == OPEN) { /* the command's session goes on, and is too late */
		w->part[DATABASE] = PREPARED;
		resolve_once(w);
	}
	T.deaf = deaf;
	T.recoveries++;
	check_end(w);
	T.now = outer;
}

static int power_comes_back(void *arg, struct sim *image, uint64_t i UNUSED)
{
	struct world *before = arg, w = {.depth = before->depth + 1};

	memcpy(w.part, before->part, sizeof(w.part));
	world_init(&w, image);
	resolve(&w);
	sim_free(image);
	return 0;
}

/* The power goes now; or only the process dies, and the power goes when a resolver is at work. */
static void look_at_all(struct world *w)
{
	if (w->depth > 1)
		return; /* deep enough */
	sim_images(w->sim, SIM_POSIX, w->depth ? 6 : IMAGES, 7, power_comes_back, w, NULL);
	power_comes_back(w, sim_kill_only(w->sim), 0);
}

/* ---- one run ---- */

/* The command, whose transaction in the database is its own affair until it is prepared. */
static int with_database(struct run *run)
{
	char err[512];

	if (decision_remember(&run->log, &run->database, err, sizeof(err)) || coordinator_announce(run))
		return -1;
	T.started = true;
	look_at_all(T.now);
	T.now->part[DATABASE] = PREPARED;
	look_at_all(T.now);
	return coordinator_commit(run);
}

static void one_run(void)
{
	struct world w = {.depth = 0};
	struct run run = {.control = ".txn",
	                  .name = (char[]){"n"},
	                  .n = PARTS,
	                  .postgres = T.database ? "dbname=d" : NULL,
	                  .announced.fd = -1};
	struct run_mount mounts[PARTS];
	char text[PARTS][8], source[] = "/source";
	struct sim *sim = sim_new();
	enum lame lame = T.lame;

	T.now = &w;
	T.answered = 0;
	T.decided = T.started = false;
	T.changes = T.recoveries = T.bad = 0;
	world_init(&w, sim);
	sim_on_change(sim, NULL, NULL);
	T.lame = SOUND; /* what the log is, is known to be durable */
	run.log = log_of(&w);
	T.lame = lame;
	sim_on_change(sim, on_change, &w);
	for (int i = 0; i < PARTS; i++) {
		snprintf(text[i], sizeof(text[i]), "%d", i);
		mounts[i] = (struct run_mount){.ctl = -1, .mount = {source, text[i], true, 0}};
		memset(mounts[i].uuid, 'u', 36);
		mounts[i].uuid[36] = 0;
	}
	run.mounts = mounts;
	strcpy(run.database.uuid, "pg-7-9");
	run.database.source = strdup("dbname=d");
	run.database.point = strdup("3"); /* DATABASE */
	run.database.control = strdup("host\n5432\nuser\nd");
	T.answered = (T.database ? with_database(&run) : coordinator_commit(&run)) ? -1 : 1;
	if (T.answered < 0 && T.fail_at)
		T.answered = 0; /* it says that it does not know, or what it knows: the participants must agree in any
		                   case */
	look_at_all(&w);
	/* And without any cut, the process ends here. */
	w.depth = 1;
	resolve(&w);
	coordinator_free(&run);
	sim_free(sim);
}

static void test_power_cuts(void **state UNUSED)
{
	T.lame = SOUND;
	one_run();
	assert_int_equal(T.bad, 0);
	assert_int_equal(T.answered, 1);
	assert_true(T.decided);
	if (T.recoveries < 100)
		fail_msg("only %llu recoveries", (unsigned long long)T.recoveries);
}

static void test_a_refusal_and_power_cuts(void **state UNUSED)
{
	for (T.refuse = 1; T.refuse <= WRITERS; T.refuse++) {
		one_run();
		assert_int_equal(T.bad, 0);
		assert_int_equal(T.answered, -1);
		assert_false(T.decided);
	}
	T.refuse = 0;
}

/* One participant cannot be reached, neither by the coordinator nor by the first resolver. */
static void test_a_deaf_participant_and_power_cuts(void **state UNUSED)
{
	for (T.deaf = 1; T.deaf <= WRITERS; T.deaf++)
		for (T.refuse = 0; T.refuse <= WRITERS; T.refuse++) {
			one_run();
			assert_int_equal(T.bad, 0);
			assert_int_equal(T.answered, T.refuse ? -1 : 1);
		}
	T.deaf = T.refuse = 0;
}

/* Each write, sync and change of names of the log fails: alone, and with all after it; and then the power goes, too. */
static void test_a_failing_disk_and_power_cuts(void **state UNUSED)
{
	unsigned committed = 0, not = 0;

	for (int on = 0; on < 2; on++)
		for (T.fail_at = 1; T.fail_at < 12; T.fail_at++) {
			T.fail_on = on;
			one_run();
			assert_int_equal(T.bad, 0);
			if (T.decided)
				committed++;
			else
				not ++;
		}
	T.fail_at = 0;
	T.fail_on = false;
	/* The file's write, its sync, its name, the name's sync, the decision, its sync; what fails after these changes
	 * nothing. */
	assert_int_equal(not, 2 * 6);
	assert_true(committed > 0);
}

static void test_a_database_and_power_cuts(void **state UNUSED)
{
	unsigned committed = 0;

	T.database = true;
	for (T.deaf = 0; T.deaf <= DATABASE + 1; T.deaf++)
		for (T.refuse = 0; T.refuse <= WRITERS; T.refuse++) {
			one_run();
			assert_int_equal(T.bad, 0);
			assert_int_equal(T.answered, T.refuse ? -1 : 1);
		}
	T.deaf = T.refuse = 0;
	for (T.fail_at = 1; T.fail_at < 16; T.fail_at++) {
		one_run();
		assert_int_equal(T.bad, 0);
		committed += T.decided;
	}
	T.fail_at = 0;
	assert_true(committed > 0 && committed < 15);
	for (T.lame = NO_FDATASYNC; T.lame <= NO_DIR_FSYNC; T.lame++) {
		one_run();
		if (!T.bad)
			fail_msg("nothing is wrong without sync %d", T.lame);
	}
	T.lame = SOUND;
	T.database = false;
}

/* The test sees what it is there for: each sync of the log is needed. */
static void test_lame_disks_are_found(void **state UNUSED)
{
	for (T.lame = NO_FDATASYNC; T.lame <= NO_DIR_FSYNC; T.lame++) {
		one_run();
		if (!T.bad)
			fail_msg("nothing is wrong without sync %d", T.lame);
	}
	T.lame = SOUND;
}

/* ---- bytes ---- */

static void make_one(struct decision_log *log, struct decision_run *run, bool commit)
{
	char err[512];

	*run = (struct decision_run){.n = 2, .branch = calloc(2, sizeof(struct decision_branch))};
	assert_non_null(run->branch);
	for (int i = 0; i < 2; i++) {
		strcpy(run->branch[i].uuid, "01234567-89ab-4cde-8f01-23456789abcd");
		run->branch[i].source = strdup(i ? "/a tab\there" : "/src");
		run->branch[i].point = strdup(i ? "/new\nline" : "/mnt");
		run->branch[i].control = strdup(i ? "\"quoted\"" : ".txn");
	}
	assert_int_equal(decision_new(log, run, err, sizeof(err)), 0);
	if (commit)
		assert_int_equal(decision_commit(log, run, err, sizeof(err)), 0);
}

static void test_what_is_written_is_read(void **state UNUSED)
{
	struct sim *sim = sim_new();
	struct decision_log log = {.os = sim_os(sim), .dir = sim_wal_dir(sim)}, again = log;
	struct decision_run run, back;
	char err[512], id[DECISION_RUN_ID + 1], gid[DECISION_GID_MAX], l[DECISION_LOG_ID + 1], r[DECISION_RUN_ID + 1];

	assert_int_equal(decision_log_init(&log, "here", false, err, sizeof(err)), -ENOENT);
	assert_int_equal(decision_log_init(&log, "here", true, err, sizeof(err)), 0);
	assert_int_equal(decision_log_init(&again, "here", true, err, sizeof(err)), 0);
	assert_string_equal(log.id, again.id);
	assert_string_not_equal(log.id, log_id);
	assert_int_equal(decision_log_init(&again, "elsewhere", true, err, sizeof(err)), -ESTALE);
	for (int commit = 0; commit < 2; commit++) {
		make_one(&log, &run, commit);
		strcpy(id, run.id);
		decision_release(&log, &run);
		assert_int_equal(decision_take(&log, id, &back, err, sizeof(err)), 0);
		assert_int_equal(back.commit, commit);
		assert_int_equal(back.n, 2);
		assert_string_equal(back.branch[1].source, "/a tab\there");
		assert_string_equal(back.branch[1].point, "/new\nline");
		assert_string_equal(back.branch[1].control, "\"quoted\"");
		assert_string_equal(back.branch[0].uuid, "01234567-89ab-4cde-8f01-23456789abcd");
		decision_gid(&log, id, 12, gid);
		assert_true(strlen(gid) <= 200 && decision_gid_parse(gid, l, r));
		assert_string_equal(l, log.id);
		assert_string_equal(r, id);
		assert_int_equal(decision_forget(&log, &back, true, err, sizeof(err)), 0);
		decision_release(&log, &back);
		assert_int_equal(decision_take(&log, id, &back, err, sizeof(err)), -ENOENT);
	}
	assert_false(decision_gid_parse("txnfs:", l, r));
	assert_false(decision_gid_parse("bank-42", l, r));
	strcat(gid, "x");
	assert_false(decision_gid_parse(gid, l, r));
	gid[10] = 'x';
	assert_false(decision_gid_parse(gid, l, r));
	sim_free(sim);
}

/* Each byte flipped, each length: never another decision than the one that was made, never silence. */
static void test_damage_decides_nothing(void **state UNUSED)
{
	struct sim *sim = sim_new();
	struct decision_log log = {.os = sim_os(sim), .dir = sim_wal_dir(sim)};
	struct decision_run run, back;
	char err[512], name[DECISION_RUN_ID + 8];
	uint8_t *bytes;
	uint64_t size;

	assert_int_equal(decision_log_init(&log, NULL, true, err, sizeof(err)), 0);
	for (int commit = 0; commit < 2; commit++) {
		make_one(&log, &run, commit);
		snprintf(name, sizeof(name), "%s.run", run.id);
		assert_int_equal(sim_peek(sim, name, &bytes, &size), 0);
		for (uint64_t i = 0; i < 2 * size; i++) {
			int r;

			if (i < size)
				bytes[i] ^= 0x04;
			assert_int_equal(sim_poke(sim, name, bytes, i < size ? size : i - size), 0);
			r = decision_take(&log, run.id, &back, err, sizeof(err));
			if (r != -EUCLEAN && r != -EXDEV)
				fail_msg("byte or length %llu: %d", (unsigned long long)i, r);
			assert_true(strstr(err, "stay in doubt") != NULL);
			if (i < size)
				bytes[i] ^= 0x04;
		}
		free(bytes);
		decision_forget(&log, &run, true, err, sizeof(err));
		decision_release(&log, &run);
	}
	/* The log's own file. */
	assert_int_equal(sim_peek(sim, "log", &bytes, &size), 0);
	for (uint64_t i = 0; i < size; i++) {
		bytes[i] ^= 0x04;
		assert_int_equal(sim_poke(sim, "log", bytes, size), 0);
		assert_true(decision_log_init(&log, NULL, true, err, sizeof(err)) < 0);
		bytes[i] ^= 0x04;
		assert_int_equal(sim_poke(sim, "log", bytes, i), 0);
		assert_int_equal(decision_log_init(&log, NULL, true, err, sizeof(err)), -EUCLEAN);
	}
	free(bytes);
	sim_free(sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_written_is_read),
		cmocka_unit_test(test_damage_decides_nothing),
		cmocka_unit_test(test_power_cuts),
		cmocka_unit_test(test_a_refusal_and_power_cuts),
		cmocka_unit_test(test_a_deaf_participant_and_power_cuts),
		cmocka_unit_test(test_a_failing_disk_and_power_cuts),
		cmocka_unit_test(test_a_database_and_power_cuts),
		cmocka_unit_test(test_lame_disks_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
