/* limits.c - how many transactions a user may have open, how much log they may take, how long they may idle; the list. */
#include "fusefs/tx_private.h"

#include <stdio.h>
#include <string.h>
#include <syslog.h>

#define WAITS_SHOWN 16

void fusefs_registry_limits(struct fusefs_registry *reg, const struct fusefs_limits *limits)
{
	reg->limits = *limits;
	tx_watcher_poke(reg);
}

int tx_may_begin(struct fusefs_registry *reg, uid_t uid)
{
	struct fusefs_tx_private *priv;
	unsigned n = 0;

	if (!reg->limits.transactions || !uid)
		return 0;
	TAILQ_FOREACH(priv, &reg->open, link)
		n += priv->tx->uid == uid;
	return n < reg->limits.transactions ? 0 : -EUSERS;
}

int tx_charge_to(struct fusefs_registry *reg, struct fusefs_tx *tx)
{
	struct tx_account *a;
	int rc = 0;

	if (!reg->limits.log)
		return 0;
	pthread_mutex_lock(&reg->lock);
	HASH_FIND(hh, reg->accounts, &tx->uid, sizeof(tx->uid), a);
	if (!a && (a = calloc(1, sizeof(*a)))) {
		a->uid = tx->uid;
		a->account = txn_account_new(reg->limits.log);
		if (a->account)
			HASH_ADD(hh, reg->accounts, uid, sizeof(a->uid), a);
		if (!a->account || !a->hh.tbl) {
			txn_account_put(a->account);
			free(a);
			a = NULL;
		}
	}
	if (a)
		txn_set_account(tx->txn, a->account);
	else
		rc = -ENOMEM;
	pthread_mutex_unlock(&reg->lock);
	return rc;
}

void tx_forget_accounts(struct fusefs_registry *reg)
{
	struct tx_account *a, *tmp;

	HASH_ITER (hh, reg->accounts, a, tmp) {
		HASH_DEL(reg->accounts, a);
		txn_account_put(a->account);
		free(a);
	}
}

/* ---- idleness ---- */

int64_t tx_idle_ms(const struct fusefs_tx *tx)
{
	struct timespec now;
	int64_t idle;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	idle = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 - atomic_load(&((struct fusefs_tx *)(uintptr_t)tx)->used);
	return idle > 0 ? idle : 0;
}

bool tx_is_idle(struct fusefs_tx *tx)
{
	double limit = tx->priv->reg->limits.idle;

	/* A request of it that waits has come, and is not done yet. */
	return limit > 0 && (double)tx_idle_ms(tx) > limit * 1000 && !txn_waits_for(tx->txn, NULL, 0);
}

/* ---- the list ---- */

struct fusefs_tx *tx_by_number(struct fusefs_registry *reg, unsigned number)
{
	struct fusefs_tx_private *priv;
	struct fusefs_tx *tx = NULL;

	pthread_mutex_lock(&reg->lock);
	TAILQ_FOREACH(priv, &reg->open, link)
		if (priv->live && priv->tx->number == number)
			tx = fusefs_tx_get(priv->tx);
	pthread_mutex_unlock(&reg->lock);
	return tx;
}

static void put_waits(struct fusefs_registry *reg, struct fusefs_tx *tx, struct base_buf *out)
{
	uint64_t ids[WAITS_SHOWN];
	size_t n = txn_waits_for(tx->txn, ids, WAITS_SHOWN);
	struct fusefs_tx_private *priv;

	if (!n)
		base_buf_printf(out, "-");
	pthread_mutex_lock(&reg->lock);
	for (size_t i = 0; i < n && i < WAITS_SHOWN; i++) {
		unsigned number = 0; /* one that is being installed, or a plain writer's turn */

		TAILQ_FOREACH(priv, &reg->open, link)
			if (priv->live && txn_id(priv->tx->txn) == ids[i])
				number = priv->tx->number;
		base_buf_printf(out, "%s%u", i ? "," : "", number);
	}
	pthread_mutex_unlock(&reg->lock);
}

static void put_line(struct fusefs_registry *reg, struct fusefs_tx *tx, struct base_buf *out)
{
	uint64_t operations, log_bytes;
	struct timespec now;
	double age;

	txn_glance(tx->txn, &operations, &log_bytes);
	clock_gettime(CLOCK_MONOTONIC, &now);
	age = (double)(now.tv_sec - tx->priv->begun.tv_sec) + (double)(now.tv_nsec - tx->priv->begun.tv_nsec) / 1e9;
	base_buf_printf(out, "%u\t%s\t", tx->number, tx->named ? "named" : "ambient");
	if (tx->name)
		base_buf_quote(out, tx->name);
	else
		base_buf_printf(out, "-");
	base_buf_printf(out, "\t%u\t", (unsigned)tx->uid);
	if (atomic_load(&tx->owner))
		base_buf_printf(out, "%d", (int)atomic_load(&tx->owner));
	else
		base_buf_printf(out, "-");
	base_buf_printf(out, "\t%.3f\t%.3f\t%llu\t%llu\t", age, (double)tx_idle_ms(tx) / 1000,
	                (unsigned long long)operations, (unsigned long long)log_bytes);
	put_waits(reg, tx, out);
	base_buf_printf(out, "\n");
}

int fusefs_tx_list(struct fusefs_registry *reg, const struct fusefs_caller *who, struct base_buf *out)
{
	struct fusefs_tx_private *priv;
	struct fusefs_tx **all;
	size_t n = 0, k = 0;

	pthread_mutex_lock(&reg->lock);
	TAILQ_FOREACH(priv, &reg->open, link)
		n++;
	all = calloc(n + 1, sizeof(struct fusefs_tx *));
	if (all)
		TAILQ_FOREACH(priv, &reg->open, link)
			if (priv->live)
				all[k++] = fusefs_tx_get(priv->tx);
	pthread_mutex_unlock(&reg->lock);
	if (!all)
		return -ENOMEM;
	base_buf_printf(out, "number\tkind\tname\tuid\towner\tage\tidle\toperations\tlog_bytes\twaits_for\n");
	for (size_t i = 0; i < k; i++) {
		if (fusefs_tx_allowed(all[i], who))
			put_line(reg, all[i], out);
		fusefs_tx_put(all[i]);
	}
	free(all);
	return out->err;
}

/* ---- ending someone's ---- */

int tx_end_for(struct fusefs_tx *tx, const char *why)
{
	struct fusefs_registry *reg = tx->priv->reg;
	struct fusefs_process *owner = NULL;
	struct base_buf line = {0};
	enum fusefs_end how;
	int rc;

	pthread_mutex_lock(&reg->lock);
	if (tx->priv->owner)
		owner = fusefs_process_get(tx->priv->owner);
	pthread_mutex_unlock(&reg->lock);
	base_buf_printf(&line, "error: ");
	tx_put_label(&line, tx);
	base_buf_printf(&line, " was rolled back: %s (ENOTCONN)", why);
	/* First: whoever finds himself outside can read why. */
	if (owner)
		tx_remember(reg, owner, &line);
	rc = tx_end(tx, false, &how);
	if (!line.err)
		base_log(rc ? LOG_ERR : LOG_INFO, "%.*s%s%s", (int)(line.n - strlen("error: ")),
		         (char *)line.p + strlen("error: "), rc ? ": failed: " : "", rc ? strerrordesc_np(-rc) : "");
	base_buf_free(&line);
	fusefs_process_put(owner);
	return rc;
}

int tx_rollback_number(struct fusefs_registry *reg, unsigned number, const struct fusefs_caller *who,
                       struct base_buf *line)
{
	struct fusefs_tx *tx = tx_by_number(reg, number);
	char why[96];
	int rc;

	if (!tx) {
		base_buf_printf(line, "error: there is no open transaction %u (ENOENT)", number);
		return -ENOENT;
	}
	if (!fusefs_tx_allowed(tx, who)) {
		rc = -EACCES;
	} else {
		snprintf(why, sizeof(why), "process %d of uid %u wanted it", (int)who->pid, (unsigned)who->uid);
		pthread_mutex_lock(&tx->busy);
		rc = tx_has_ended(tx) ? -ENOTCONN : tx_end_for(tx, why);
		pthread_mutex_unlock(&tx->busy);
	}
	base_buf_printf(line, rc ? "error: " : "ok: rolled back ");
	tx_put_label(line, tx);
	if (rc == -EACCES)
		base_buf_printf(line, " is someone else's (EACCES)");
	else if (rc == -ENOTCONN)
		base_buf_printf(line, " has ended (ENOTCONN)");
	else if (rc)
		base_buf_printf(line, " cannot be rolled back: %s (%s)", strerrordesc_np(-rc), strerrorname_np(-rc));
	fusefs_tx_put(tx);
	return rc;
}
