/* command.c - the control commands: who may do what, in which order engine and hooks are called, what is answered. */
#include "fusefs/tx_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* What each command works with. */
struct run {
	struct fusefs_registry *reg;
	struct fusefs_tx *tx; /* whose ctl was written; NULL: the committed root's */
	const struct fusefs_caller *who;
	struct fusefs_process *me; /* NULL: not known */
	struct base_buf line;
};

static const char *describe(int rc)
{
	const char *text = rc == -EAGAIN ? "it is of another version by now" : strerrordesc_np(-rc);

	return text ? text : "unknown error";
}

/* The line for a failure; returns rc. */
static PRINTF_LIKE(3, 4) int refuse(struct run *r, int rc, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	base_buf_free(&r->line);
	base_buf_printf(&r->line, "error: %s (%s)", text,
	                strerrorname_np(-rc) ? strerrorname_np(-rc) : "unknown error");
	return rc;
}

/* The same about a transaction: "error: transaction 3 "x" TEXT (ENAME)". */
static int refuse_tx(struct run *r, const struct fusefs_tx *tx, int rc, const char *text)
{
	struct base_buf label = {0};

	tx_put_label(&label, tx);
	refuse(r, rc, "%s %s", label.err ? "the transaction" : (char *)label.p, text);
	base_buf_free(&label);
	return rc;
}

static int refuse_failed(struct run *r, const struct fusefs_tx *tx, int rc, enum fusefs_verb verb)
{
	const char *conflict = rc == -ECANCELED ? txn_conflict(tx->txn) : NULL;
	const char *reason = txn_engine_error(r->reg->eng);
	struct base_buf label = {0};

	tx_put_label(&label, tx);
	refuse(r, rc, "%s of %s failed: %s", fusefs_verb_name(verb), label.err ? "the transaction" : (char *)label.p,
	       conflict ? conflict : describe(rc));
	if (reason)
		base_buf_printf(&r->line, "; the mount is read-only: %s", reason);
	base_buf_free(&label);
	return rc;
}

/* ---- options ---- */

static const enum txn_isolation levels[] = {
	[FUSEFS_READ_COMMITTED] = TXN_READ_COMMITTED,
	[FUSEFS_SERIALIZABLE] = TXN_SERIALIZABLE,
	[FUSEFS_SNAPSHOT] = TXN_SNAPSHOT,
};

/* Members of an ambient transaction share the kernel's cached names and pages with everybody: what they read is not seen. */
static int check_isolation(struct run *r, const struct fusefs_command *cmd)
{
	if (!cmd->has_isolation || cmd->isolation == FUSEFS_READ_COMMITTED)
		return 0;
	return refuse(r, -EOPNOTSUPP,
	              "isolation %s is not possible in an ambient transaction, which shares cached files with everybody: "
	              "make a named one (mkdir .txn/NAME) or use `txnfs run --isolation`",
	              tx_isolation_name(levels[cmd->isolation]));
}

static int set_isolation(struct run *r, struct fusefs_tx *tx, const struct fusefs_command *cmd)
{
	struct fusefs_tx_hooks *hooks = &tx->priv->hooks;
	int rc = tx->named ? 0 : check_isolation(r, cmd);

	/* What it is already needs no change; a snapshot is taken anew. */
	if (rc || !cmd->has_isolation ||
	    (levels[cmd->isolation] == txn_isolation(tx->txn) && cmd->isolation != FUSEFS_SNAPSHOT))
		return rc;
	rc = txn_set_isolation(tx->txn, levels[cmd->isolation]);
	if (rc == -EINVAL)
		return refuse_tx(r, tx, rc, "has changed something: its isolation level must be set before");
	if (rc)
		return refuse_failed(r, tx, rc, cmd->verb);
	hooks->isolated(hooks->arg, tx);
	return 0;
}

static const char unseen[] = "the calling process cannot be seen from the filesystem's pid namespace and its /proc";

/*
 * The process that is to own a transaction: the caller's or one of its ancestors, borrowed from the caller's chain, by
 * its id in the caller's pid namespace. It must be of the caller's uid: otherwise anybody could draw root's shell, or init and with it every process, into a
 * transaction.
 */
static int find_owner(struct run *r, pid_t pid, struct fusefs_process **out)
{
	struct fusefs_process *p = r->me, *other;
	uid_t real, effective;
	int rc;

	if (!p)
		return refuse(r, -ESRCH, "%s, so no process can own a transaction for it", unseen);
	while (p && fusefs_process_seen_by(p, r->me) != pid)
		p = p->parent;
	if (!p) {
		if (fusefs_process_of(r->reg->members, pid, &other) != 0)
			return refuse(r, -ESRCH, "there is no process %d", (int)pid);
		fusefs_process_put(other);
		return refuse(r, -EPERM, "process %d is neither the caller nor an ancestor of the caller", (int)pid);
	}
	if (!fusefs_process_alive(p))
		return refuse(r, -ESRCH, "there is no process %d any more", (int)pid);
	if (p != r->me && r->who->uid != 0) {
		rc = fusefs_process_uids(p, &real, &effective);
		if (rc == -ESRCH)
			return refuse(r, rc, "there is no process %d any more", (int)pid);
		if (rc || real != r->who->uid || effective != r->who->uid)
			return refuse(r, -EPERM, "process %d is not one of uid %u", (int)pid, (unsigned)r->who->uid);
	}
	*out = p;
	return 0;
}

static int run_options(struct run *r, struct fusefs_tx *tx, const struct fusefs_command *cmd)
{
	struct fusefs_tx_private *priv = tx->priv;
	struct fusefs_process *owner;
	int rc = set_isolation(r, tx, cmd);

	if (rc)
		return rc;
	if (cmd->has_owner) {
		if (!tx->named)
			return refuse_tx(r, tx, -EINVAL, "is ambient: its owner is given when it begins");
		rc = find_owner(r, cmd->owner, &owner);
		if (rc)
			return rc;
		rc = tx_set_owner(tx, owner);
		if (rc == -ESRCH)
			return refuse(r, rc, "there is no process %d any more", (int)cmd->owner);
		if (rc)
			return refuse_failed(r, tx, rc, cmd->verb);
	}
	if (cmd->has_timeout) {
		pthread_mutex_lock(&r->reg->lock);
		priv->has_timeout = true;
		priv->timeout = cmd->timeout;
		pthread_mutex_unlock(&r->reg->lock);
	}
	base_buf_printf(&r->line, "ok: ");
	tx_put_label(&r->line, tx);
	if (cmd->has_isolation)
		base_buf_printf(&r->line, ", isolation %s", tx_isolation_name(txn_isolation(tx->txn)));
	if (cmd->has_timeout)
		base_buf_printf(&r->line, ", timeout %g s", cmd->timeout);
	if (cmd->has_owner)
		base_buf_printf(&r->line, ", owned by process %d", (int)cmd->owner);
	return 0;
}

/* ---- begin ---- */

static const char inside[] = "is open already: use a savepoint inside it";

static int begin(struct run *r, const struct tx_spec *spec, struct fusefs_tx **out)
{
	int rc = tx_begin(r->reg, spec, out);

	if (rc == -EEXIST)
		return refuse(r, rc, "there is a transaction of that name");
	if (rc == -EALREADY)
		return refuse(r, rc, "a transaction %s", inside);
	if (rc == -EUSERS)
		return refuse(r, rc, "uid %u has %u transactions open, and may have no more of them (max_transactions)",
		              (unsigned)spec->uid, r->reg->limits.transactions);
	if (rc == -ESRCH)
		return refuse(r, rc, "there is no process %d any more", (int)spec->owner->tgid);
	if (rc)
		return refuse(r, rc, "begin failed: %s", describe(rc));
	base_buf_printf(&r->line, "ok: began ");
	tx_put_label(&r->line, *out);
	return 0;
}

static int run_begin(struct run *r, const struct fusefs_command *cmd)
{
	struct tx_spec spec = {
		.name = cmd->name,
		.uid = r->who->uid,
		.owner = r->me,
		.writer = r->me,
		.has_timeout = cmd->has_timeout,
		.timeout = cmd->timeout,
	};
	struct fusefs_tx *tx;
	const char *bad;
	int rc;

	if (r->tx)
		return refuse_tx(r, r->tx, -EALREADY, inside);
	if (!r->me)
		return refuse(r, -ESRCH, "%s, so nothing could belong to it: make a named transaction with mkdir", unseen);
	tx = tx_of_process(r->reg, r->me);
	if (tx) {
		rc = refuse_tx(r, tx, -EALREADY, inside);
		fusefs_tx_put(tx);
		return rc;
	}
	bad = *cmd->name ? tx_bad_name(cmd->name) : NULL;
	if (bad)
		return refuse(r, -EINVAL, "the transaction's name %s", bad);
	rc = check_isolation(r, cmd);
	if (rc == 0 && cmd->has_owner)
		rc = find_owner(r, cmd->owner, &spec.owner);
	if (rc)
		return rc;
	rc = begin(r, &spec, &tx);
	if (rc == 0)
		fusefs_tx_put(tx);
	return rc;
}

/* ---- commit, rollback ---- */

static int run_end(struct run *r, struct fusefs_tx *tx, const struct fusefs_command *cmd)
{
	bool commit = cmd->verb == FUSEFS_COMMIT;
	struct txn_info info = {0};
	enum fusefs_end how;
	int rc;

	txn_info(tx->txn, &info);
	if (cmd->has_version)
		txn_expect(tx->txn, cmd->version);
	rc = tx_end(tx, commit, &how);
	if (rc == 0) {
		base_buf_printf(&r->line, "ok: %s ", commit ? "committed" : "rolled back");
		tx_put_label(&r->line, tx);
		base_buf_printf(&r->line, " (%llu operations)", (unsigned long long)info.operations);
		return 0;
	}
	refuse_failed(r, tx, rc, cmd->verb);
	if (how == FUSEFS_ROLLED_BACK)
		base_buf_printf(&r->line, "; it has been rolled back");
	else if (how == FUSEFS_COMMITTED)
		base_buf_printf(&r->line, "; whether it is durable is decided by the next mount's recovery");
	else if (rc == -ENOSPC)
		base_buf_printf(&r->line, "; it is still open: make room and commit again, or roll back");
	else
		base_buf_printf(&r->line, "; it is still open");
	return rc;
}

/* ---- two-phase commit ---- */

static void put_gid(struct run *r, const char *gid)
{
	base_buf_printf(&r->line, " as ");
	tx_put_name(&r->line, gid);
}

static int run_prepare(struct run *r, struct fusefs_tx *tx, const struct fusefs_command *cmd)
{
	struct txn_info info = {0};
	enum fusefs_end how;
	int rc;

	txn_info(tx->txn, &info);
	rc = tx_prepare(tx, cmd->name, &how);
	if (rc == 0) {
		base_buf_printf(&r->line, "ok: prepared ");
		tx_put_label(&r->line, tx);
		put_gid(r, cmd->name);
		base_buf_printf(&r->line, " (%llu operations)", (unsigned long long)info.operations);
		return 0;
	}
	if (rc == -EEXIST)
		refuse_tx(r, tx, rc, "cannot be prepared: there is a prepared transaction of that name");
	else
		refuse_failed(r, tx, rc, cmd->verb);
	if (rc == -EIO)
		base_buf_printf(&r->line, "; whether it is prepared is decided by the next mount's recovery");
	else if (how != FUSEFS_UNCHANGED)
		base_buf_printf(&r->line, "; it has been rolled back");
	return rc;
}

/* From any process: the session that prepared it may be long gone. */
static int run_prepared(struct run *r, const struct fusefs_command *cmd)
{
	bool commit = cmd->verb == FUSEFS_COMMIT_PREPARED;
	struct txn_prepared info;
	struct txn *txn;
	int rc = txn_find_prepared(r->reg->eng, cmd->name, &txn);

	if (rc == 0) {
		rc = txn_prepared_info(txn, &info) ? -ENOENT : 0;
		if (!rc && r->who->uid != 0 && r->who->uid != info.uid)
			rc = -EACCES;
		if (!rc)
			rc = tx_resolve(r->reg, txn, commit);
		txn_put(txn);
	}
	if (rc == 0) {
		base_buf_printf(&r->line, "ok: %s the transaction that was prepared", commit ? "committed" : "rolled back");
		put_gid(r, cmd->name);
		base_buf_printf(&r->line, " (%llu changes)", (unsigned long long)info.changes);
		return 0;
	}
	if (rc == -ENOENT)
		refuse(r, rc, "no transaction is prepared by that name");
	else if (rc == -EACCES)
		refuse(r, rc, "the prepared transaction is someone else's");
	else
		refuse(r, rc, "%s failed: %s", fusefs_verb_name(cmd->verb), describe(rc));
	if (rc == -EIO)
		base_buf_printf(&r->line, "; the outcome is decided by the next mount's recovery");
	return rc;
}

/* ---- savepoints; tx->busy is held ---- */

/* The newest savepoint of that name as an index, or n_savepoints. */
static size_t newest(const struct fusefs_tx_private *priv, const char *name)
{
	for (size_t i = priv->n_savepoints; i > 0; i--) {
		if (strcmp(priv->savepoints[i - 1], name) == 0)
			return i - 1;
	}
	return priv->n_savepoints;
}

static void drop_savepoints(struct fusefs_tx *tx, const char *name, bool itself)
{
	struct fusefs_tx_private *priv = tx->priv;
	size_t keep;

	pthread_mutex_lock(&priv->reg->lock);
	keep = newest(priv, name) + (itself ? 0 : 1);
	while (priv->n_savepoints > keep)
		free(priv->savepoints[--priv->n_savepoints]);
	pthread_mutex_unlock(&priv->reg->lock);
}

static int refuse_savepoint(struct run *r, struct fusefs_tx *tx, const char *name)
{
	struct base_buf *line = &r->line;

	base_buf_printf(line, "error: no savepoint named ");
	tx_put_name(line, name);
	base_buf_printf(line, " (ENOENT); ");
	if (tx->priv->n_savepoints) {
		base_buf_printf(line, "savepoints: ");
		tx_put_savepoints(line, tx);
	} else {
		tx_put_label(line, tx);
		base_buf_printf(line, " has none");
	}
	return -ENOENT;
}

static void answer_savepoint(struct run *r, struct fusefs_tx *tx, const char *what, const char *name)
{
	base_buf_printf(&r->line, "ok: %s ", what);
	tx_put_name(&r->line, name);
	base_buf_printf(&r->line, " in ");
	tx_put_label(&r->line, tx);
}

static int run_savepoint(struct run *r, struct fusefs_tx *tx, const struct fusefs_command *cmd)
{
	struct fusefs_tx_private *priv = tx->priv;
	CLEANUP_FREE char *name = strdup(cmd->name);
	char **list;
	int rc;

	/* All memory first: nothing may fail once the engine has set it. */
	pthread_mutex_lock(&r->reg->lock);
	list = reallocarray(priv->savepoints, priv->n_savepoints + 1, sizeof(*list));
	if (list)
		priv->savepoints = list;
	pthread_mutex_unlock(&r->reg->lock);
	if (!name || !list)
		return refuse_failed(r, tx, -ENOMEM, cmd->verb);
	priv->hooks.quiesce(priv->hooks.arg, tx);
	rc = txn_savepoint(tx->txn, cmd->name);
	if (rc)
		return refuse_failed(r, tx, rc, cmd->verb);
	pthread_mutex_lock(&r->reg->lock);
	priv->savepoints[priv->n_savepoints++] = TAKE_PTR(name);
	pthread_mutex_unlock(&r->reg->lock);
	answer_savepoint(r, tx, "savepoint", cmd->name);
	return 0;
}

static int run_rollback_to(struct run *r, struct fusefs_tx *tx, const struct fusefs_command *cmd)
{
	struct fusefs_tx_hooks *hooks = &tx->priv->hooks;
	int rc;

	hooks->quiesce(hooks->arg, tx);
	rc = txn_rollback_to(tx->txn, cmd->name);
	if (rc == -ENOENT)
		return refuse_savepoint(r, tx, cmd->name);
	/* Also when it has failed half-way: what the view shows may have changed. */
	hooks->rolled_back_to(hooks->arg, tx);
	if (rc)
		return refuse_failed(r, tx, rc, cmd->verb);
	drop_savepoints(tx, cmd->name, false);
	answer_savepoint(r, tx, "rolled back to savepoint", cmd->name);
	return 0;
}

static int run_release(struct run *r, struct fusefs_tx *tx, const struct fusefs_command *cmd)
{
	int rc = txn_release(tx->txn, cmd->name);

	if (rc == -ENOENT)
		return refuse_savepoint(r, tx, cmd->name);
	if (rc)
		return refuse_failed(r, tx, rc, cmd->verb);
	drop_savepoints(tx, cmd->name, true);
	answer_savepoint(r, tx, "released savepoint", cmd->name);
	return 0;
}

/* ---- one command ---- */

static int run_inside(struct run *r, struct fusefs_tx *tx, const struct fusefs_command *cmd)
{
	if (tx_has_ended(tx))
		return refuse_tx(r, tx, -ENOTCONN, "has ended");
	switch (cmd->verb) {
	case FUSEFS_COMMIT:
	case FUSEFS_ROLLBACK:
		return run_end(r, tx, cmd);
	case FUSEFS_SAVEPOINT:
		return run_savepoint(r, tx, cmd);
	case FUSEFS_ROLLBACK_TO:
		return run_rollback_to(r, tx, cmd);
	case FUSEFS_RELEASE:
		return run_release(r, tx, cmd);
	case FUSEFS_PREPARE:
		return run_prepare(r, tx, cmd);
	default:
		return run_options(r, tx, cmd);
	}
}

static int run_command(struct run *r, const struct fusefs_command *cmd)
{
	const char *reason = txn_engine_error(r->reg->eng);
	struct fusefs_tx *tx;
	int rc;

	/* Rolling back is left to the engine to allow: it changes nothing that is committed. */
	if (reason && cmd->verb != FUSEFS_ROLLBACK && cmd->verb != FUSEFS_ROLLBACK_NUMBER)
		return refuse(r, -EROFS, "the mount is read-only: %s", reason);
	switch (cmd->verb) {
	case FUSEFS_BEGIN:
		return run_begin(r, cmd);
	case FUSEFS_ROLLBACK_NUMBER:
		return tx_rollback_number(r->reg, cmd->number, r->who, &r->line);
	case FUSEFS_COMMIT_PREPARED:
	case FUSEFS_ROLLBACK_PREPARED:
		return run_prepared(r, cmd);
	default:
		break;
	}
	if (r->tx)
		tx = fusefs_tx_get(r->tx);
	else
		tx = r->me ? tx_of_process(r->reg, r->me) : NULL;
	if (!tx)
		return refuse(r, -ENOTCONN,
		              "%s needs a transaction, and this process is in none: write \"begin\" first",
		              fusefs_verb_name(cmd->verb));
	if (!fusefs_tx_allowed(tx, r->who)) {
		rc = refuse_tx(r, tx, -EACCES, "is someone else's");
	} else {
		pthread_mutex_lock(&tx->busy);
		fusefs_tx_touch(tx);
		rc = run_inside(r, tx, cmd);
		fusefs_tx_touch(tx);
		pthread_mutex_unlock(&tx->busy);
	}
	fusefs_tx_put(tx);
	return rc;
}

/* ---- a write to ctl ---- */

/* Are all commands well-formed? Nothing runs otherwise, so that a write of garbage does nothing half-way. */
static int check_text(struct run *r, const char *text, size_t len)
{
	struct fusefs_command cmd;
	size_t used, pos = 0, n = 0;
	char err[512];
	int rc;

	if (len > FUSEFS_COMMAND_MAX)
		return refuse(r, -EINVAL, "too long: %zu bytes, the most in one write is %d", len, FUSEFS_COMMAND_MAX);
	while ((rc = fusefs_parse(text + pos, len - pos, &used, &cmd, err, sizeof(err))) == 1) {
		pos += used;
		n++;
	}
	if (rc)
		return refuse(r, rc, "%s", err);
	if (n == 0 && (len == 0 || !memchr(text, '#', len)))
		return refuse(r, -EINVAL, "empty command");
	if (n == 0)
		base_buf_printf(&r->line, "ok: nothing to do, only comments");
	return 0;
}

static void start(struct run *r)
{
	if (fusefs_process_of(r->reg->members, r->who->pid, &r->me) != 0)
		r->me = NULL;
}

/* Tell the line to the process, and to whom else it may concern. */
static void answer(struct run *r, struct base_buf *line)
{
	if (r->me)
		tx_remember(r->reg, r->me, &r->line);
	if (line && !r->line.err)
		base_buf_put(line, r->line.p, r->line.n);
	base_buf_free(&r->line);
	fusefs_process_put(r->me);
}

int fusefs_tx_run(struct fusefs_registry *reg, struct fusefs_tx *tx, const struct fusefs_caller *who, const char *text,
                  size_t len, struct base_buf *line)
{
	struct run r = {.reg = reg, .tx = tx, .who = who};
	struct fusefs_command cmd;
	size_t used, pos = 0;
	char err[512];
	int rc;

	start(&r);
	rc = check_text(&r, text, len);
	while (rc == 0 && fusefs_parse(text + pos, len - pos, &used, &cmd, err, sizeof(err)) == 1) {
		pos += used;
		base_buf_free(&r.line);
		rc = run_command(&r, &cmd);
	}
	answer(&r, line);
	return rc;
}

/* ---- mkdir and rmdir ---- */

int fusefs_tx_make(struct fusefs_registry *reg, const char *name, const struct fusefs_caller *who,
                   struct fusefs_tx **out)
{
	struct run r = {.reg = reg, .who = who};
	struct tx_spec spec = {.name = name, .named = true, .uid = who->uid};
	const char *reason = txn_engine_error(reg->eng), *bad = tx_bad_name(name);
	int rc;

	start(&r);
	if (reason)
		rc = refuse(&r, -EROFS, "the mount is read-only: %s", reason);
	else if (bad)
		rc = refuse(&r, strlen(name) > FUSEFS_NAME_MAX ? -ENAMETOOLONG : -EINVAL, "the transaction's name %s",
		            bad);
	else
		rc = begin(&r, &spec, out);
	answer(&r, NULL);
	return rc;
}

int fusefs_tx_remove(struct fusefs_tx *tx, const struct fusefs_caller *who)
{
	static const struct fusefs_command rollback = {.verb = FUSEFS_ROLLBACK};
	struct run r = {.reg = tx->priv->reg, .tx = tx, .who = who};
	int rc;

	start(&r);
	rc = run_command(&r, &rollback);
	answer(&r, NULL);
	/* To rmdir it is a directory that is gone. */
	return rc == -ENOTCONN ? -ENOENT : rc;
}
