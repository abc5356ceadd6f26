/*
 * work.h - what the clients of the benchmark share.
 *
 * Each kind of work is one run of the program `work KIND KEY=VALUE...`: it prepares what it needs, does its work
 * with the clock running, and prints its measures as one line of JSON: "seconds" and "cpu" (user and system time of
 * the client, its threads and its children) of one unit of work, and others. Any failure ends the program with 1 and a
 * line that tells which call failed on what.
 */
#ifndef TXNFS_BENCH_WORK_H
#define TXNFS_BENCH_WORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>
#include <sys/types.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The value of a KEY=VALUE argument; NULL or 0 when it was not given. must_arg: fails instead. */
const char *arg(const char *key);
const char *must_arg(const char *key);
uint64_t arg_num(const char *key);

/* A path made by printf, in one of a few static buffers that are used in turn. */
const char *path(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Seconds on the monotonic clock; CPU seconds of this process, its threads and its children that have ended. */
double now(void);
double cpu(void);

/* Reproducible noise: the same seed gives the same bytes. */
uint64_t noise(uint64_t *state);
void fill(void *buf, size_t len, uint64_t seed);

/* System calls that must succeed. */
int open_file(const char *name, int flags);
void write_at(int fd, const void *buf, size_t len, uint64_t offset);
void sync_fs(const char *name);  /* syncfs of the filesystem there */
void make_dir(const char *name); /* or it is there already */
void remove_tree(const char *name);
void write_file(const char *name, const void *buf, size_t len); /* new or truncated */
void wait_child(pid_t pid, const char *what);
void run(const char *const argv[], const char *cwd);

/* A control file: one command, which must succeed. */
void command(int ctl, const char *text);

/*
 * Until the daemon (argument pid=) has no more to do for what was done before: its CPU clock stands still, and no
 * thread waits for the disk. Returns when that began.
 */
double rest(void);

/*
 * CPU seconds that the daemon has used since daemon_start; 0 without one. To be asked after rest(), so that what is
 * done behind a commit counts.
 */
void daemon_start(void);
double daemon_used(void);

/* The line of results. Between begin_result and end_result any number of measures. */
void begin_result(void);
void put(const char *name, double value);
void end_result(void);

int work_commit(void);
int work_small(void);
int work_sqlite(void);
int work_write(void);
int work_read(void);
int work_meta(void);
int work_big(void);
int work_flat(void);
int work_open(void);

/* Databases for work_commit and work_small (work_db.c): key-value stores of blobs. */
struct db;
struct db *db_open(const char *kind, const char *dir); /* "sqlite" or "lmdb" */
void db_begin(struct db *db);
void db_put(struct db *db, const char *key, const void *value, size_t len);
void db_commit(struct db *db);
void db_close(struct db *db);

#endif
