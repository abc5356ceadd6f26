/*
 * work_db.c - databases: a row per file in SQLite and LMDB, and SQLite's own transactions on a filesystem.
 *
 *	work sqlite db=FILE journal=OFF|DELETE|WAL n=TRANSACTIONS rows=R [ctl=FILE] [bed=DIRECTORY] [pid=DAEMON]
 *
 * With ctl each of SQLite's transactions is inside one of txnfs: begin, open the database, change, close, commit. A
 * descriptor from before begin is outside of the transaction, so the connection cannot be kept; without ctl it is.
 */
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TABLE_ROWS 1000
#define ROW_SIZE 100

struct db {
	sqlite3 *sql;
	sqlite3_stmt *put;
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
};

static void sql_ok(sqlite3 *db, int r, const char *what)
{
	errno = EIO;
	if (r != SQLITE_OK && r != SQLITE_DONE && r != SQLITE_ROW)
		fail("sqlite: %s: %s", what, sqlite3_errmsg(db));
}

static void sql(sqlite3 *db, const char *text)
{
	sql_ok(db, sqlite3_exec(db, text, NULL, NULL, NULL), text);
}

static void mdb_ok(int r, const char *what)
{
	errno = EIO;
	if (r)
		fail("lmdb: %s: %s", what, mdb_strerror(r));
}

struct db *db_open(const char *kind, const char *dir)
{
	struct db *db = calloc(1, sizeof(*db));

	if (!db)
		fail("memory");
	if (!strcmp(kind, "sqlite")) {
		const char *name = path("%s/files.db", dir);

		sql_ok(NULL, sqlite3_open(name, &db->sql), name);
		sqlite3_busy_timeout(db->sql, 60000);
		sql(db->sql, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
		             "CREATE TABLE IF NOT EXISTS files(name TEXT PRIMARY KEY, data BLOB)");
		sql_ok(db->sql,
		       sqlite3_prepare_v2(db->sql, "INSERT OR REPLACE INTO files VALUES(?,?)", -1, &db->put, NULL),
		       "prepare");
		return db;
	}
	mdb_ok(mdb_env_create(&db->env), "env");
	mdb_ok(mdb_env_set_mapsize(db->env, (size_t)1 << 30), "mapsize");
	mdb_ok(mdb_env_open(db->env, path("%s/files.mdb", dir), MDB_NOSUBDIR, 0644), "open");
	mdb_ok(mdb_txn_begin(db->env, NULL, 0, &db->txn), "begin");
	mdb_ok(mdb_dbi_open(db->txn, NULL, 0, &db->dbi), "dbi");
	mdb_ok(mdb_txn_commit(db->txn), "commit");
	return db;
}

void db_begin(struct db *db)
{
	if (db->sql)
		sql(db->sql, "BEGIN IMMEDIATE");
	else
		mdb_ok(mdb_txn_begin(db->env, NULL, 0, &db->txn), "begin");
}

void db_put(struct db *db, const char *key, const void *value, size_t len)
{
	MDB_val k = {strlen(key), (void *)(uintptr_t)key}, v = {len, (void *)(uintptr_t)value};

	if (!db->sql) {
		mdb_ok(mdb_put(db->txn, db->dbi, &k, &v, 0), "put");
		return;
	}
	sqlite3_bind_text(db->put, 1, key, -1, SQLITE_STATIC);
	sqlite3_bind_blob(db->put, 2, value, (int)len, SQLITE_STATIC);
	sql_ok(db->sql, sqlite3_step(db->put), "insert");
	sql_ok(db->sql, sqlite3_reset(db->put), "insert");
}

void db_commit(struct db *db)
{
	if (db->sql)
		sql(db->sql, "COMMIT");
	else
		mdb_ok(mdb_txn_commit(db->txn), "commit");
}

void db_close(struct db *db)
{
	if (db->sql) {
		sqlite3_finalize(db->put);
		sqlite3_close(db->sql);
	} else {
		mdb_env_close(db->env);
	}
	free(db);
}

/* ---- SQLite on a filesystem ---- */

static sqlite3 *connect(void)
{
	sqlite3 *db;

	sql_ok(NULL, sqlite3_open(must_arg("db"), &db), must_arg("db"));
	sql(db, path("PRAGMA journal_mode=%s; PRAGMA synchronous=FULL", must_arg("journal")));
	return db;
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *text)
{
	sqlite3_stmt *out;

	sql_ok(db, sqlite3_prepare_v2(db, text, -1, &out, NULL), text);
	return out;
}

static void set_row(sqlite3 *db, sqlite3_stmt *set, unsigned id, uint64_t seed)
{
	char data[ROW_SIZE];

	fill(data, sizeof(data), seed);
	sqlite3_bind_blob(set, 1, data, sizeof(data), SQLITE_STATIC);
	sqlite3_bind_int(set, 2, (int)id);
	sql_ok(db, sqlite3_step(set), "update");
	sql_ok(db, sqlite3_reset(set), "update");
}

static void make_table(void)
{
	sqlite3 *db = connect();
	sqlite3_stmt *row;

	sql(db, "CREATE TABLE t(data BLOB, id INTEGER PRIMARY KEY); BEGIN");
	row = prepare(db, "INSERT INTO t(data, id) VALUES(?,?)");
	for (unsigned i = 0; i < TABLE_ROWS; i++)
		set_row(db, row, i, i);
	sqlite3_finalize(row);
	sql(db, "COMMIT");
	sqlite3_close(db);
}

int work_sqlite(void)
{
	static const char change[] = "UPDATE t SET data=? WHERE id=?";
	int ctl = arg("ctl") ? open_file(arg("ctl"), O_RDWR) : -1;
	unsigned n = (unsigned)arg_num("n"), rows = (unsigned)arg_num("rows");
	uint64_t state = arg_num("seed");
	sqlite3 *db = NULL;
	sqlite3_stmt *set = NULL;
	double start, used;

	make_table();
	if (arg("bed"))
		sync_fs(arg("bed"));
	rest();
	daemon_start();
	used = cpu();
	start = now();
	if (ctl < 0) {
		db = connect();
		set = prepare(db, change);
	}
	for (unsigned i = 0; i < n; i++) {
		if (ctl >= 0) {
			command(ctl, "begin");
			db = connect();
			set = prepare(db, change);
		}
		sql(db, "BEGIN IMMEDIATE");
		for (unsigned k = 0; k < rows; k++) {
			unsigned id = (unsigned)(noise(&state) % TABLE_ROWS);

			set_row(db, set, id, noise(&state));
		}
		sql(db, "COMMIT");
		if (ctl >= 0) {
			sqlite3_finalize(set);
			sqlite3_close(db);
			command(ctl, "commit");
		}
	}
	start = now() - start;
	used = cpu() - used;
	if (ctl < 0) {
		sqlite3_finalize(set);
		sqlite3_close(db);
	}
	rest();
	begin_result();
	put("per_second", n / start);
	put("seconds", start / n);
	put("cpu", used / n);
	put("daemon", daemon_used() / n);
	end_result();
	return 0;
}
