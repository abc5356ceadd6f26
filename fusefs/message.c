/* message.c - what users read: the last line of each process, status, changes. */
#include "fusefs/tx_private.h"

#include <string.h>

#define MESSAGES_MAX 1024

/* ---- lines ---- */

/* Always in quotes, on one line. */
void tx_put_name(struct base_buf *b, const char *name)
{
	struct base_buf q = {0};

	base_buf_quote(&q, name);
	if (q.err)
		b->err = q.err;
	else if (q.p[0] == '"')
		base_buf_put(b, q.p, q.n);
	else
		base_buf_printf(b, "\"%s\"", (char *)q.p);
	base_buf_free(&q);
}

void tx_put_label(struct base_buf *b, const struct fusefs_tx *tx)
{
	base_buf_printf(b, "transaction %u", tx->number);
	if (tx->name) {
		base_buf_printf(b, " ");
		tx_put_name(b, tx->name);
	}
}

void tx_put_savepoints(struct base_buf *b, struct fusefs_tx *tx)
{
	struct fusefs_tx_private *priv = tx->priv;

	pthread_mutex_lock(&priv->reg->lock);
	for (size_t i = 0; i < priv->n_savepoints; i++) {
		base_buf_printf(b, "%s", i ? ", " : "");
		base_buf_quote(b, priv->savepoints[i]);
	}
	pthread_mutex_unlock(&priv->reg->lock);
}

/* ---- messages ---- */

/* registry.lock is held */
static void drop_message(struct fusefs_registry *reg, struct tx_message *m)
{
	HASH_DEL(reg->message_of, m);
	TAILQ_REMOVE(&reg->messages, m, link);
	reg->n_messages--;
	free(m->line);
	free(m);
}

static struct tx_message *find_message(struct fusefs_registry *reg, const struct fusefs_process *p)
{
	struct tx_process_key key = tx_process_key(p);
	struct tx_message *m;

	HASH_FIND(hh, reg->message_of, &key, sizeof(key), m);
	return m;
}

void tx_remember(struct fusefs_registry *reg, const struct fusefs_process *p, const struct base_buf *line)
{
	struct tx_message *m = line->err ? NULL : calloc(1, sizeof(*m));
	char *text = line->err ? NULL : strdup((char *)line->p);
	struct tx_message *old;

	/* Out of memory: it keeps no line, rather than an old one that would be taken for this. */
	pthread_mutex_lock(&reg->lock);
	old = find_message(reg, p);
	if (old)
		drop_message(reg, old);
	if (m && text) {
		m->key = tx_process_key(p);
		HASH_ADD(hh, reg->message_of, key, sizeof(m->key), m);
		if (m->hh.tbl) {
			m->line = text;
			TAILQ_INSERT_HEAD(&reg->messages, m, link);
			reg->n_messages++;
			m = NULL;
			text = NULL;
		}
	}
	while (reg->n_messages > MESSAGES_MAX)
		drop_message(reg, TAILQ_LAST(&reg->messages, tx_messages));
	pthread_mutex_unlock(&reg->lock);
	free(m);
	free(text);
}

void tx_forget_messages(struct fusefs_registry *reg)
{
	pthread_mutex_lock(&reg->lock);
	while (!TAILQ_EMPTY(&reg->messages))
		drop_message(reg, TAILQ_FIRST(&reg->messages));
	pthread_mutex_unlock(&reg->lock);
}

static void put_message(struct fusefs_registry *reg, const struct fusefs_process *p, struct base_buf *out)
{
	struct tx_message *m = NULL;

	pthread_mutex_lock(&reg->lock);
	for (; p && !m; p = p->parent)
		m = find_message(reg, p);
	if (m) {
		TAILQ_REMOVE(&reg->messages, m, link);
		TAILQ_INSERT_HEAD(&reg->messages, m, link);
	}
	base_buf_printf(out, "%s\n", m ? m->line : "ok: nothing done yet");
	pthread_mutex_unlock(&reg->lock);
}

void fusefs_tx_last_line(struct fusefs_registry *reg, struct fusefs_tx *tx, const struct fusefs_caller *who,
                         struct base_buf *out)
{
	const char *reason = txn_engine_error(reg->eng);
	struct fusefs_process *me = NULL;
	struct txn_info info;

	if (fusefs_process_of(reg->members, who->pid, &me) != 0)
		me = NULL;
	put_message(reg, me, out);
	if (tx)
		tx = fusefs_tx_get(tx);
	else
		tx = me ? tx_of_process(reg, me) : NULL;
	fusefs_process_put(me);

	if (!tx) {
		base_buf_printf(out, "no transaction\n");
	} else if (tx_has_ended(tx)) {
		tx_put_label(out, tx);
		base_buf_printf(out, " has ended\n");
	} else {
		txn_info(tx->txn, &info);
		tx_put_label(out, tx);
		base_buf_printf(out, " is open: %llu operations, %llu savepoints", (unsigned long long)info.operations,
		                (unsigned long long)info.savepoints);
		if (info.savepoints) {
			base_buf_printf(out, " (");
			tx_put_savepoints(out, tx);
			base_buf_printf(out, ")");
		}
		if (txn_conflict(tx->txn))
			base_buf_printf(out, "; it cannot commit: %s", txn_conflict(tx->txn));
		base_buf_printf(out, "\n");
	}
	if (reason)
		base_buf_printf(out, "the mount is read-only: %s\n", reason);
	fusefs_tx_put(tx);
}

/* ---- status ---- */

static const char *state_name(enum txn_state state)
{
	switch (state) {
	case TXN_ACTIVE:
		return "active";
	case TXN_PREPARED:
		return "prepared";
	case TXN_COMMITTED:
	case TXN_ENDED:
		return "committed";
	case TXN_ABORTED:
		return "rolled back";
	}
	return "unknown";
}

const char *tx_isolation_name(enum txn_isolation level)
{
	static const char *const names[] = {
		[TXN_READ_COMMITTED] = "read committed", [TXN_SERIALIZABLE] = "serializable", [TXN_SNAPSHOT] = "snapshot"};

	return names[level];
}

static void put_number(struct base_buf *out, const char *key, uint64_t value)
{
	base_buf_printf(out, "%s: %llu\n", key, (unsigned long long)value);
}

static void mount_status(struct fusefs_registry *reg, struct base_buf *out)
{
	const char *reason = txn_engine_error(reg->eng);
	struct txn_stats st = {0};

	txn_engine_stats(reg->eng, &st);
	base_buf_printf(out, reason ? "state: error: %s\n" : "state: ok\n", reason);
	put_number(out, "open", st.open);
	put_number(out, "prepared", st.prepared);
	put_number(out, "ambient", fusefs_ambient_open(reg));
	put_number(out, "waiting", txn_waiters(reg->eng));
	put_number(out, "begun", st.begun);
	put_number(out, "committed", st.committed);
	put_number(out, "rolled_back", st.rolled_back);
	put_number(out, "log_bytes", st.log_bytes);
	put_number(out, "checkpoints", st.checkpoints);
	put_number(out, "installs_pending", st.installs_pending);
	put_number(out, "logged_objects", st.logged_objects);
	put_number(out, "snapshots", st.snapshots);
	put_number(out, "history_bytes", st.history_bytes);
}

static double seconds_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) / 1e9;
}

static void tx_status(struct fusefs_tx *tx, struct base_buf *out)
{
	struct fusefs_tx_private *priv = tx->priv;
	struct txn_info info = {0};
	bool has_timeout;
	double timeout;

	txn_info(tx->txn, &info);
	pthread_mutex_lock(&priv->reg->lock);
	has_timeout = priv->has_timeout;
	timeout = priv->timeout;
	pthread_mutex_unlock(&priv->reg->lock);

	base_buf_printf(out, "state: %s\n", state_name(info.state));
	put_number(out, "transaction", tx->number);
	put_number(out, "log_id", info.id);
	base_buf_printf(out, "kind: %s\nname: ", tx->named ? "named" : "ambient");
	if (tx->name)
		base_buf_quote(out, tx->name);
	base_buf_printf(out, "\n");
	put_number(out, "uid", tx->uid);
	base_buf_printf(out, "owner: ");
	if (atomic_load(&tx->owner))
		base_buf_printf(out, "%d", (int)atomic_load(&tx->owner));
	base_buf_printf(out, "\nisolation: %s\ntimeout: ", tx_isolation_name(txn_isolation(tx->txn)));
	if (has_timeout)
		base_buf_printf(out, "%g", timeout);
	base_buf_printf(out, "\nage: %.3f\n", seconds_since(&priv->begun));
	put_number(out, "operations", info.operations);
	put_number(out, "changed_objects", info.objects);
	put_number(out, "changed_names", info.names);
	put_number(out, "log_bytes", info.log_bytes);
	base_buf_printf(out, "savepoints: ");
	tx_put_savepoints(out, tx);
	base_buf_printf(out, "\n");
	put_number(out, "version", info.version);
}

int fusefs_tx_status(struct fusefs_registry *reg, struct fusefs_tx *tx, struct base_buf *out)
{
	if (tx)
		tx_status(tx, out);
	else
		mount_status(reg, out);
	return out->err;
}

/* ---- changes ---- */

static int put_change(void *arg, char kind, const char *path, const char *to)
{
	struct base_buf *out = arg;

	base_buf_printf(out, "%c ", kind);
	base_buf_quote(out, path);
	if (to) {
		base_buf_printf(out, "\t");
		base_buf_quote(out, to);
	}
	base_buf_printf(out, "\n");
	return out->err;
}

int fusefs_tx_changes(struct fusefs_tx *tx, struct base_buf *out)
{
	int rc = tx_has_ended(tx) ? 0 : txn_changes(tx->txn, put_change, out);

	return rc ? rc : out->err;
}

static int put_prepared(void *arg, const struct txn_prepared *p)
{
	struct base_buf *out = arg;
	char time[32];
	struct tm tm;

	if (!gmtime_r(&p->time.tv_sec, &tm) || !strftime(time, sizeof(time), "%Y-%m-%dT%H:%M:%SZ", &tm))
		snprintf(time, sizeof(time), "-");
	base_buf_quote(out, p->gid);
	base_buf_printf(out, "\t%u\t%s\t%llu\n", (unsigned)p->uid, time, (unsigned long long)p->changes);
	return out->err;
}

int fusefs_tx_prepared(struct fusefs_registry *reg, struct base_buf *out)
{
	int rc = txn_each_prepared(reg->eng, put_prepared, out);

	return rc ? rc : out->err;
}

/* ---- conflicts ---- */

void fusefs_tx_tell_conflict(struct fusefs_registry *reg, const struct fusefs_caller *who, const char *path,
                             const struct txn *holder, double seconds, int r)
{
	struct fusefs_tx *tx = holder ? tx_by_txn(reg, holder) : NULL;
	struct fusefs_process *p;
	struct base_buf line = {0};

	if (fusefs_process_of(reg->members, who->pid, &p) == 0) {
		base_buf_printf(&line, "error: ");
		tx_put_name(&line, path);
		if (tx) {
			base_buf_printf(&line, " is being changed by ");
			tx_put_label(&line, tx);
			base_buf_printf(&line, " of uid %u", (unsigned)tx->uid);
		} else if (holder && txn_is_open(holder)) {
			base_buf_printf(&line, " is being changed by a prepared transaction");
		} else {
			base_buf_printf(&line, " was being changed by a transaction that has ended, and others waited for it");
		}
		if (r == -EDEADLK)
			base_buf_printf(&line, ", which waits for this transaction: a deadlock (EDEADLK)");
		else if (seconds > 0)
			base_buf_printf(&line, ", and was not free within %g s (EBUSY)", seconds);
		else
			base_buf_printf(&line, " (EBUSY)");
		tx_remember(reg, p, &line);
		fusefs_process_put(p);
	}
	base_buf_free(&line);
	fusefs_tx_put(tx);
}
