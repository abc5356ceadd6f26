/*
 * postgres.c - PREPARE TRANSACTION's other half: looking for it, and ending it.
 *
 * psql is run anew each time, with a script that first makes sure that it is the very database, and no standby: a
 * cluster that lacks the transaction because it is another one, or lags behind, must not be taken for one that has
 * ended it. What is absent from pg_prepared_xact() has been ended durably, or is not prepared (yet): the server takes
 * it off that list after its COMMIT PREPARED or ROLLBACK PREPARED is flushed.
 */
#include "tools/postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PREFIX "pg-"
#define BUSY_TRIES 100
#define OUTPUT_MAX (64u << 20)

/* The database that one is connected to; the first is its branch's uuid. */
#define IDENTITY                                                                                                       \
	"SELECT format('" PREFIX "%s-%s', c.system_identifier, d.oid) AS identity,"                                    \
	" pg_is_in_recovery() AS standby, d.oid AS database, r.oid AS role, r.rolsuper AS super,"                      \
	" current_setting('max_prepared_transactions')::int = 0 AS off,"                                               \
	" CASE WHEN pg_is_in_recovery() THEN '-' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END AS timeline"  \
	" FROM pg_control_system() c, pg_database d, pg_roles r"                                                       \
	" WHERE d.datname = current_database() AND r.rolname = current_user \\gset\n"

bool postgres_is(const struct decision_branch *br)
{
	return !strncmp(br->uuid, PREFIX, strlen(PREFIX));
}

/* ---- psql ---- */

/* Where it went the first time, for what the connection string does not say. */
static void set_defaults(const char *defaults)
{
	static const char *const names[] = {"PGHOST", "PGPORT", "PGUSER", "PGDATABASE"};
	CLEANUP_FREE char *copy = strdup(defaults);
	char *rest = copy, *value;

	unsetenv("PGSERVICE");
	unsetenv("PGHOSTADDR");
	unsetenv("PGCLUSTER"); /* Debian's */
	for (size_t i = 0; i < ARRAY_LEN(names) && (value = strsep(&rest, "\n")); i++)
		if (*value)
			setenv(names[i], value, 1);
}

static void child(const char *conninfo, const char *defaults, const int fds[3], pid_t parent)
{
	int high[3];

	/* What it has sent goes on at the server; the answer interests nobody any more. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(126);
	/* Whoever was started without all of 0 to 2 has these there. */
	for (int i = 0; i < 3; i++)
		high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
	for (int i = 0; i < 3; i++)
		if (high[i] < 0 || dup2(high[i], i) < 0)
			_exit(126);
	if (defaults)
		set_defaults(defaults);
	setenv("PGCONNECT_TIMEOUT", "10", 0);
	/* -w: nobody is asked for a password, least of all the terminal of the command. */
	execlp("psql", "psql", "-X", "-q", "-A", "-t", "-w", "-d", conninfo, (char *)NULL);
	_exit(errno == ENOENT ? 127 : 126);
}

static char *whole(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	char *text = size >= 0 && size < (off_t)OUTPUT_MAX ? malloc((size_t)size + 1) : NULL;

	if (text && pread(fd, text, (size_t)size, 0) != size)
		free(TAKE_PTR(text));
	if (text)
		text[size] = 0;
	return text;
}

/* psql's messages as one line, without where in psql or in the server they come from. */
static void one_line(char *text)
{
	char *out = text, *save;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		size_t n;

		line += strspn(line, " \t");
		if (!strncmp(line, "LOCATION:", 9))
			continue;
		if (!strncmp(line, "psql:", 5)) {
			char *colon = strstr(line, ": ");

			if (!strncmp(line, "psql: error: ", 13))
				line += 13;
			else if (colon)
				line = colon + 2;
		}
		n = strlen(line);
		if (out != text)
			*out++ = ' ';
		memmove(out, line, n);
		out += n;
	}
	*out = 0;
}

static int run_psql(const char *conninfo, const char *defaults, const int fds[3])
{
	pid_t self = getpid(), pid;
	int status;

	fflush(stdout);
	signal(SIGCHLD, SIG_DFL); /* ignored, it would leave nothing to wait for */
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid)
		child(conninfo, defaults, fds, self);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return -ENOPKG;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -EIO;
}

/*
 * Run a script, whose last line of output must be "done". *out: the lines before it. -EIO: it failed; `why` begins with
 * what the server said.
 */
static int psql(const char *conninfo, const char *defaults, const char *script, char **out, char why[PARTICIPANT_WHY])
{
	static const char head[] = "\\set ON_ERROR_STOP on\n\\set VERBOSITY verbose\nSET search_path = pg_catalog;\n"
				   "SET standard_conforming_strings = on;\n";
	CLEANUP_CLOSE int in = memfd_create("script", MFD_CLOEXEC), answer = memfd_create("answer", MFD_CLOEXEC),
			  errors = memfd_create("errors", MFD_CLOEXEC);
	CLEANUP_FREE char *said = NULL, *text = NULL;
	char *end;
	int r;

	if (in < 0 || answer < 0 || errors < 0 || dprintf(in, "%s%s\\echo done\n", head, script) < 0 ||
	    lseek(in, 0, SEEK_SET) < 0) {
		r = -errno;
		snprintf(why, PARTICIPANT_WHY, "%s", strerror(-r));
		return r;
	}
	r = run_psql(conninfo, defaults, (const int[3]){in, answer, errors});
	text = whole(answer);
	said = whole(errors);
	if (!text || !said) {
		snprintf(why, PARTICIPANT_WHY, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	end = strlen(text) >= 5 ? text + strlen(text) - 5 : text;
	if (!r && (strcmp(end, "done\n") != 0 || (end != text && end[-1] != '\n')))
		r = -EIO;
	one_line(said);
	if (r == -ENOPKG)
		snprintf(why, PARTICIPANT_WHY,
		         "psql, which the way to PostgreSQL leads through, is not installed (Debian's package is "
		         "postgresql-client)");
	else if (r)
		snprintf(why, PARTICIPANT_WHY, "%s", r != -EIO ? strerror(-r) : *said ? said : "psql failed");
	if (r)
		return r;
	*end = 0;
	*out = TAKE_PTR(text);
	return 0;
}

/* The same in the database of br: *out is NULL when that is another one now, or a standby. */
static int psql_at(const struct decision_branch *br, const char *script, char **out, char why[PARTICIPANT_WHY])
{
	CLEANUP_FREE char *text = NULL, *all = NULL;
	char identity[sizeof(br->uuid)] = "?", standby[8] = "?";
	int r, used = 0;

	*out = NULL;
	if (strspn(br->uuid, PREFIX "0123456789") != strlen(br->uuid)) {
		snprintf(why, PARTICIPANT_WHY, "%s: %s is no database's identity", br->point, br->uuid);
		return -EINVAL;
	}
	if (asprintf(&all,
	             "%s\\echo :identity :standby\n"
	             "SELECT :'identity' = '%s' AND NOT :'standby'::bool AS same \\gset\n\\if :same\n%s\\endif\n",
	             IDENTITY, br->uuid, script) < 0) {
		all = NULL;
		snprintf(why, PARTICIPANT_WHY, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	r = psql(br->source, br->control, all, &text, why);
	if (r)
		return r;
	if (sscanf(text, "%36s %7s\n%n", identity, standby, &used) != 2 || !used) {
		snprintf(why, PARTICIPANT_WHY, "%s: psql's answer is not understood: %.200s", br->point, text);
		return -EPROTO;
	}
	if (strcmp(identity, br->uuid) != 0)
		snprintf(why, PARTICIPANT_WHY, "%s is another database now (%s, not %s)", br->point, identity,
		         br->uuid);
	else if (*standby != 'f')
		snprintf(why, PARTICIPANT_WHY, "%s is a standby now, or still recovering", br->point);
	else
		*out = strdup(text + used);
	if (!*out)
		return -ESTALE;
	return 0;
}

/* ---- before the run ---- */

/* A keyword `password`, or what stands between : and @ in an URI. */
static bool has_password(const char *conninfo)
{
	static const char word[] = "password";
	const char *p = strstr(conninfo, "://"), *at, *colon;

	if (p) {
		p += 3;
		at = p + strcspn(p, "@/?");
		colon = memchr(p, ':', (size_t)(at - p));
		if (*at == '@' && colon)
			return true;
	}
	for (p = conninfo; (p = strstr(p, word)); p += strlen(word))
		if (p[strlen(word) + strspn(p + strlen(word), " \t\n")] == '=')
			return true;
	return false;
}

/* What the script of postgres_find printed: a line each. */
struct found {
	char *identity, *standby, *off, *timeline, *database, *host, *port, *user;
};

static bool take_lines(char *text, struct found *f)
{
	char **const fields[] = {&f->identity, &f->standby, &f->off,  &f->timeline,
	                         &f->database, &f->host,    &f->port, &f->user};

	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		*fields[i] = strsep(&text, "\n");
		if (!text)
			return false; /* not even the end of this line */
	}
	return true;
}

static int fill(const char *conninfo, const struct found *f, struct decision_branch *br)
{
	strcpy(br->uuid, f->identity);
	br->source = strdup(conninfo);
	if (asprintf(&br->point, "postgres %s on %s:%s", f->database, f->host, f->port) < 0)
		br->point = NULL;
	if (asprintf(&br->control, "%s\n%s\n%s\n%s\n%s", f->host, f->port, f->user, f->database, f->timeline) < 0)
		br->control = NULL;
	return br->source && br->point && br->control ? 0 : -ENOMEM;
}

int postgres_find(const char *conninfo, struct decision_branch *br, char why[PARTICIPANT_WHY])
{
	static const char script[] = IDENTITY
		"\\echo :identity\n\\echo :standby\n\\echo :off\n\\echo :timeline\n\\echo :DBNAME\n\\echo :HOST\n"
		"\\echo :PORT\n\\echo :USER\n";
	CLEANUP_FREE char *text = NULL;
	struct found f;
	int r;

	if (has_password(conninfo)) {
		snprintf(why, PARTICIPANT_WHY,
		         "a password in a connection string is there for all to see, and would be kept in the decision "
		         "log: "
		         "~/.pgpass is the place for it");
		return -EINVAL;
	}
	r = psql(conninfo, NULL, script, &text, why);
	if (r)
		return r;
	if (!take_lines(text, &f) || strlen(f.identity) >= sizeof(br->uuid)) {
		snprintf(why, PARTICIPANT_WHY, "psql's answer is not understood: %.200s", text);
		r = -EPROTO;
	} else if (*f.standby != 'f') {
		snprintf(why, PARTICIPANT_WHY, "%s on %s:%s is a standby: nothing can be prepared there", f.database,
		         f.host, f.port);
		r = -EROFS;
	} else if (*f.off != 'f') {
		snprintf(why, PARTICIPANT_WHY,
		         "nothing can be prepared there: set max_prepared_transactions, which is 0, in "
		         "postgresql.conf and restart PostgreSQL");
		r = -EOPNOTSUPP;
	} else {
		r = fill(conninfo, &f, br);
		if (r)
			snprintf(why, PARTICIPANT_WHY, "%s", strerror(-r));
	}
	return r;
}

/* ---- a prepared transaction ---- */

int postgres_prepared(const struct decision_branch *br, const char *gid, char why[PARTICIPANT_WHY])
{
	CLEANUP_FREE char *script = NULL, *text = NULL;
	int r;

	/* COMMIT PREPARED is for the same database, and the same role or a superuser. */
	if (asprintf(&script,
	             "SELECT CASE WHEN dbid <> :database THEN 'elsewhere'"
	             " WHEN ownerid <> :role AND NOT :'super'::bool THEN 'theirs' ELSE 'ours' END"
	             " FROM pg_prepared_xact() WHERE gid = '%s';\n",
	             gid) < 0)
		script = NULL;
	r = script ? psql_at(br, script, &text, why) : -ENOMEM;
	if (r) {
		if (!script)
			snprintf(why, PARTICIPANT_WHY, "%s", strerror(ENOMEM));
		return r;
	}
	if (!*text)
		return 1;
	if (!strcmp(text, "ours\n"))
		return 0;
	snprintf(why, PARTICIPANT_WHY, "it was prepared %s, so this connection cannot end it",
	         !strcmp(text, "theirs\n") ? "by another role" : "in another database");
	return -EPERM;
}

/*
 * Whose client was killed may be preparing still, at the server: that is waited for, first, so that as a rule it is not
 * too late.
 */
#define END                                                                                                            \
	"SELECT count(*) > 0 AS under_way FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND state = 'active'"    \
	" AND query ~* 'prepare\\s+transaction\\s+''%s''' \\gset\n"                                                    \
	"SELECT count(*) > 0 AS there FROM pg_prepared_xact() WHERE gid = '%s' \\gset\n"                               \
	"\\if :there\n%s PREPARED '%s';\n\\echo ended\n\\elif :under_way\n\\echo busy\n"                               \
	"\\else\nSELECT :'timeline' <> '%s' AS moved \\gset\n\\if :moved\n\\echo moved\n\\endif\n\\endif\n"

/* The last line of what was remembered. */
static const char *timeline_of(const struct decision_branch *br)
{
	const char *line = strrchr(br->control, '\n');

	return line && strspn(line + 1, "0123456789ABCDEF") == strlen(line + 1) ? line + 1 : "";
}

int postgres_end(const struct decision_branch *br, const char *gid, bool commit, char why[PARTICIPANT_WHY])
{
	CLEANUP_FREE char *script = NULL;
	int r = -EBUSY;

	if (asprintf(&script, END, gid, gid, commit ? "COMMIT" : "ROLLBACK", gid, timeline_of(br)) < 0) {
		script = NULL;
		snprintf(why, PARTICIPANT_WHY, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	for (int i = 0; r == -EBUSY && i < BUSY_TRIES; i++) {
		CLEANUP_FREE char *text = NULL;

		if (i)
			nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
		r = psql_at(br, script, &text, why);
		if (!r && !strcmp(text, "busy\n")) {
			snprintf(why, PARTICIPANT_WHY, "a session is about to prepare it");
			r = -EBUSY;
		} else if (!r && commit && !strcmp(text, "moved\n")) {
			snprintf(why, PARTICIPANT_WHY,
			         "it is not prepared there; but since it was, the cluster was restored or failed over, "
			         "so "
			         "whether it was committed is not known: look for what it has changed");
			return -ESTALE;
		} else if (!r) {
			return strcmp(text, "ended\n") ? 1 : 0;
		}
		/* object_in_use; undefined_object, when it was ended since it was looked for. */
		if (r == -EIO && (strstr(why, " 55006:") || strstr(why, " 42704:")))
			r = -EBUSY;
	}
	return r;
}

int postgres_each(const struct decision_branch *br, void (*fn)(void *arg, const char *gid, bool mine), void *arg,
                  char why[PARTICIPANT_WHY])
{
	static const char script[] = "SELECT dbid = :database AND ownerid = :role, gid FROM pg_prepared_xact()"
				     " WHERE gid ~ '^txnfs:[0-9a-f]+:[0-9a-f]+:[0-9]+$' ORDER BY gid;\n";
	CLEANUP_FREE char *text = NULL;
	char *save;
	int r = psql_at(br, script, &text, why);

	if (r)
		return r;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (line[0] && line[1] == '|')
			fn(arg, line + 2, line[0] == 't');
	return 0;
}
