/* participant.c - a branch of a run, on its mount or in its directory. */
#include "tools/participant.h"
#include "tools/postgres.h"
#include "txn/txn.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

int participant_uuid(const struct tool_mount *m, const char *control, char uuid[37])
{
	CLEANUP_FREE char *text = tool_control_read(m, control, NULL, "status");
	CLEANUP_FREE char *value = NULL;

	if (!text)
		return -errno;
	value = tool_status_value(text, "uuid");
	if (!value || strlen(value) != 36)
		return -EPROTO;
	strcpy(uuid, value);
	return 0;
}

int participant_end_mounted(const struct tool_mount *m, const char *control, const char *gid, bool commit,
                            char **answer, char why[PARTICIPANT_WHY])
{
	CLEANUP_FREE char *path = NULL, *said = NULL;
	CLEANUP_CLOSE int fd = -1;
	struct base_buf b = {0};
	int r;

	if (answer)
		*answer = NULL;
	if (asprintf(&path, "%s/%s/ctl", m->point, control) < 0)
		path = NULL;
	base_buf_printf(&b, "%s prepared ", commit ? "commit" : "rollback");
	tool_ctl_quote(&b, gid);
	r = path ? b.err : -ENOMEM;
	if (!r) {
		fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
		r = fd < 0 ? -errno : 0;
		if (r == -ENOENT)
			r = -ENXIO; /* not to be taken for the transaction */
	}
	if (!r)
		r = tool_ctl_command(fd, (char *)b.p, &said);
	base_buf_free(&b);
	if (r == -ENOENT && said && strstr(said, "prepared"))
		return 1;
	if (r == -ENOTCONN && !said)
		snprintf(why, PARTICIPANT_WHY, "%s: the filesystem's daemon has ended", m->point);
	else if (r)
		snprintf(why, PARTICIPANT_WHY, "%s: %s", m->point,
		         said          ? said
		         : r == -ENXIO ? "it has no control file"
		                       : strerror(-r));
	else if (answer)
		*answer = TAKE_PTR(said);
	return r == -ENOENT ? -EPROTO : r;
}

static int end_open(struct txn_engine *eng, const char *gid, bool commit, uint64_t *changes)
{
	struct txn_prepared p = {0};
	struct txn *t;
	int r = txn_find_prepared(eng, gid, &t);

	if (r)
		return r == -ENOENT ? 1 : r;
	r = txn_prepared_info(t, &p);
	if (!r)
		r = commit ? txn_commit(t) : txn_rollback(t);
	if (!r && changes)
		*changes = p.changes;
	txn_put(t);
	return r;
}

/* As `txnfs recover` opens it: what was committed is redone first, and what the log says is made durable. */
static int end_store(struct store *store, int wal_dirfd, const char *source, const char *gid, bool commit,
                     uint64_t *changes, char why[PARTICIPANT_WHY])
{
	struct txn_config cfg = {.no_threads = true, .store = store, .wal_dirfd = wal_dirfd};
	struct txn_engine *eng;
	char err[1024] = "";
	int r = txn_engine_open(&cfg, &eng, NULL, err, sizeof(err)), s;

	if (r) {
		snprintf(why, PARTICIPANT_WHY, "%s: %s", source, *err ? err : strerror(-r));
		return r;
	}
	r = end_open(eng, gid, commit, changes);
	if (r < 0)
		snprintf(why, PARTICIPANT_WHY, "%s: %s failed: %s", source, commit ? "commit" : "rollback",
		         txn_engine_error(eng) ? txn_engine_error(eng) : strerror(-r));
	s = txn_engine_close(eng);
	if (s && r >= 0)
		snprintf(why, PARTICIPANT_WHY, "%s: closing failed: %s; `txnfs recover` finishes it", source,
		         strerror(-s));
	return r < 0 ? r : s ? s : r;
}

int participant_end_offline(const char *source, const char *uuid, const char *gid, bool commit, uint64_t *changes,
                            char why[PARTICIPANT_WHY])
{
	struct store *store;
	char err[1024] = "";
	int r, wal_dirfd;

	r = store_dir_open(source, &(struct store_dir_options){.create = false}, &store, &wal_dirfd, err, sizeof(err));
	if (r) {
		snprintf(why, PARTICIPANT_WHY, "%s", *err ? err : strerror(-r));
		return r;
	}
	if (uuid && strcmp(uuid, store->uuid) != 0) {
		r = -ESTALE;
		snprintf(why, PARTICIPANT_WHY, "%s is another directory now (uuid %s, not %s)", source, store->uuid,
		         uuid);
	} else {
		r = end_store(store, wal_dirfd, source, gid, commit, changes, why);
	}
	store->ops->close(store);
	return r;
}

/* ---- where it is ---- */

struct search {
	const struct decision_branch *br;
	struct tool_mount found;
	bool hidden; /* only parts of it are to be seen */
	int err;
};

/* The mount of that source; where it was, rather than elsewhere. */
static int consider(void *arg, const struct tool_mount *m)
{
	struct search *s = arg;

	if (strcmp(m->source, s->br->source) != 0)
		return 0;
	if (!m->whole) {
		s->hidden = true;
		return 0;
	}
	if (s->found.point && strcmp(m->point, s->br->point) != 0)
		return 0;
	tool_mount_free(&s->found);
	s->found = (struct tool_mount){strdup(m->source), strdup(m->point), true, m->user};
	if (!s->found.source || !s->found.point)
		s->err = -ENOMEM;
	return s->err;
}

static int end_on(const struct tool_mount *m, const struct decision_branch *br, const char *gid, bool commit,
                  char why[PARTICIPANT_WHY])
{
	char uuid[37];
	int r = participant_uuid(m, br->control, uuid);

	if (r == -ENOTCONN)
		snprintf(why, PARTICIPANT_WHY, "%s: the filesystem's daemon has ended", m->point);
	else if (r == -ENOENT)
		snprintf(why, PARTICIPANT_WHY, "%s: there is no control directory %s any more", m->point, br->control);
	else if (r)
		snprintf(why, PARTICIPANT_WHY, "%s: %s", m->point, strerror(-r));
	else if (strcmp(uuid, br->uuid) != 0)
		snprintf(why, PARTICIPANT_WHY, "%s is a mount of another directory now (uuid %s, not %s)", m->point,
		         uuid, br->uuid);
	if (r)
		return r;
	return strcmp(uuid, br->uuid) ? -ESTALE : participant_end_mounted(m, br->control, gid, commit, NULL, why);
}

int participant_end(const struct decision_branch *br, const char *gid, bool commit, bool offline,
                    char why[PARTICIPANT_WHY])
{
	struct search s = {.br = br};
	int r;

	if (postgres_is(br))
		return postgres_end(br, gid, commit, why);
	r = tool_mounts_each(consider, &s);
	if (r < 0) {
		snprintf(why, PARTICIPANT_WHY, "%s", strerror(-r));
	} else if (s.found.point) {
		r = end_on(&s.found, br, gid, commit, why);
		if (r == -ENOTCONN && offline)
			r = participant_end_offline(br->source, br->uuid, gid, commit, NULL, why);
	} else if (s.hidden || !offline) {
		r = -ENODEV;
		snprintf(why, PARTICIPANT_WHY, "%s is not mounted%s", br->source,
		         s.hidden ? " here, except in parts" : "");
	} else {
		r = participant_end_offline(br->source, br->uuid, gid, commit, NULL, why);
	}
	tool_mount_free(&s.found);
	return r;
}
