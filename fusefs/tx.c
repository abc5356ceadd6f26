/* tx.c - the registry: which transaction a process is in, how transactions begin and end. */
#include "fusefs/tx_private.h"

#include <string.h>

/* ---- references and lookups ---- */

struct fusefs_tx *fusefs_tx_get(struct fusefs_tx *tx)
{
	atomic_fetch_add_explicit(&tx->refs, 1, memory_order_relaxed);
	return tx;
}

static void tx_free(struct fusefs_tx *tx)
{
	struct fusefs_tx_private *priv = tx->priv;

	if (tx->txn)
		txn_put(tx->txn);
	fusefs_process_put(priv->owner);
	for (size_t i = 0; i < priv->n_savepoints; i++)
		free(priv->savepoints[i]);
	free(priv->savepoints);
	free(priv);
	pthread_mutex_destroy(&tx->busy);
	free(tx->name);
	free(tx);
}

void fusefs_tx_put(struct fusefs_tx *tx)
{
	if (!tx || atomic_fetch_sub_explicit(&tx->refs, 1, memory_order_acq_rel) != 1)
		return;
	tx->priv->hooks.gone(tx->priv->hooks.arg, tx);
	tx_free(tx);
}

unsigned fusefs_ambient_open(struct fusefs_registry *reg)
{
	return atomic_load_explicit(&reg->ambient_open, memory_order_relaxed);
}

/* The owner's entry for this very process; registry.lock is held. */
static struct fusefs_tx_private *owned_by(struct fusefs_registry *reg, const struct fusefs_process *p)
{
	struct tx_process_key key = tx_process_key(p);
	struct fusefs_tx_private *priv;

	HASH_FIND(by_owner, reg->owners, &key, sizeof(key), priv);
	return priv && fusefs_process_same(priv->owner, p) ? priv : NULL;
}

struct fusefs_tx *tx_of_process(struct fusefs_registry *reg, const struct fusefs_process *p)
{
	struct fusefs_tx_private *priv = NULL;
	struct fusefs_tx *tx = NULL;

	if (fusefs_ambient_open(reg) == 0)
		return NULL;
	pthread_mutex_lock(&reg->lock);
	for (; p && !tx; p = p->parent) {
		priv = owned_by(reg, p);
		if (priv && priv->live)
			tx = fusefs_tx_get(priv->tx);
	}
	pthread_mutex_unlock(&reg->lock);
	return tx;
}

struct fusefs_tx *fusefs_tx_of(struct fusefs_registry *reg, pid_t pid)
{
	struct fusefs_process *p;
	struct fusefs_tx *tx;

	if (fusefs_ambient_open(reg) == 0 || fusefs_process_of(reg->members, pid, &p) != 0)
		return NULL;
	tx = tx_of_process(reg, p);
	fusefs_process_put(p);
	return tx;
}

struct fusefs_tx *fusefs_tx_find(struct fusefs_registry *reg, const char *name)
{
	struct fusefs_tx_private *priv;
	struct fusefs_tx *tx = NULL;

	pthread_mutex_lock(&reg->lock);
	HASH_FIND(by_name, reg->names, name, strlen(name), priv);
	if (priv && priv->live && priv->tx->named)
		tx = fusefs_tx_get(priv->tx);
	pthread_mutex_unlock(&reg->lock);
	return tx;
}

int fusefs_tx_each_named(struct fusefs_registry *reg, int (*fn)(void *arg, struct fusefs_tx *tx), void *arg)
{
	struct fusefs_tx_private *priv;
	struct fusefs_tx **all = NULL;
	size_t n = 0;
	int rc = 0;

	/* Copied first: fn may do anything. */
	pthread_mutex_lock(&reg->lock);
	TAILQ_FOREACH(priv, &reg->open, link)
	n++;
	all = calloc(n + 1, sizeof(*all));
	n = 0;
	if (!all)
		rc = -ENOMEM;
	else
		TAILQ_FOREACH(priv, &reg->open, link)
		{
			if (priv->live && priv->tx->named)
				all[n++] = fusefs_tx_get(priv->tx);
		}
	pthread_mutex_unlock(&reg->lock);
	for (size_t i = 0; i < n; i++) {
		if (rc == 0)
			rc = fn(arg, all[i]);
		fusefs_tx_put(all[i]);
	}
	free(all);
	return rc;
}

double fusefs_tx_timeout(const struct fusefs_tx *tx, double dflt)
{
	struct fusefs_registry *reg = tx->priv->reg;
	double timeout;

	pthread_mutex_lock(&reg->lock);
	timeout = tx->priv->has_timeout ? tx->priv->timeout : dflt;
	pthread_mutex_unlock(&reg->lock);
	return timeout;
}

struct fusefs_tx *tx_by_txn(struct fusefs_registry *reg, const struct txn *txn)
{
	struct fusefs_tx_private *priv;
	struct fusefs_tx *tx = NULL;

	pthread_mutex_lock(&reg->lock);
	TAILQ_FOREACH(priv, &reg->open, link)
		if (priv->live && priv->tx->txn == txn) {
			tx = fusefs_tx_get(priv->tx);
			break;
		}
	pthread_mutex_unlock(&reg->lock);
	return tx;
}

bool tx_has_ended(struct fusefs_tx *tx)
{
	struct fusefs_registry *reg = tx->priv->reg;
	bool ended;

	pthread_mutex_lock(&reg->lock);
	ended = tx->priv->ended;
	pthread_mutex_unlock(&reg->lock);
	return ended;
}

bool fusefs_tx_allowed(const struct fusefs_tx *tx, const struct fusefs_caller *who)
{
	struct fusefs_registry *reg = tx->priv->reg;
	struct fusefs_process *p;
	bool owner;

	if (who->uid == 0 || who->uid == tx->uid)
		return true;
	/* The owner may, whatever its uid is by now. */
	if (atomic_load(&tx->owner) == 0 || fusefs_process_of(reg->members, who->pid, &p) != 0)
		return false;
	pthread_mutex_lock(&reg->lock);
	owner = tx->priv->owner && fusefs_process_same(tx->priv->owner, p);
	pthread_mutex_unlock(&reg->lock);
	fusefs_process_put(p);
	return owner;
}

/* ---- begin ---- */

const char *tx_bad_name(const char *name)
{
	static const char *const reserved[] = {".", "..", "ctl", "status", "changes", "transactions", "prepared"};

	if (!*name)
		return "is empty";
	if (strlen(name) > FUSEFS_NAME_MAX)
		return "is too long";
	for (size_t i = 0; i < ARRAY_LEN(reserved); i++) {
		if (strcmp(name, reserved[i]) == 0)
			return "is reserved";
	}
	for (const char *p = name; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f || *p == '/')
			return "has a slash or a control character in it";
	}
	return NULL;
}

/* Take it out of the tables; registry.lock is held. The list's reference is the caller's from now on. */
static void take_out(struct fusefs_registry *reg, struct fusefs_tx_private *priv)
{
	priv->live = false;
	priv->ended = true;
	tx_unwatch(reg, priv);
	TAILQ_REMOVE(&reg->open, priv, link);
	if (priv->tx->name)
		HASH_DELETE(by_name, reg->names, priv);
	if (!priv->tx->named) {
		HASH_DELETE(by_owner, reg->owners, priv);
		atomic_fetch_sub(&reg->ambient_open, 1);
	}
}

/* Reserve name and owner, so that of two that begin at the same time one is refused; registry.lock is held. */
static int put_in(struct fusefs_registry *reg, struct fusefs_tx_private *priv, const struct tx_spec *spec)
{
	struct fusefs_tx *tx = priv->tx;
	struct fusefs_tx_private *clash = NULL;

	int rc = tx_may_begin(reg, tx->uid);

	if (reg->stopping)
		return -ESHUTDOWN;
	if (rc)
		return rc;
	for (const struct fusefs_process *p = spec->named ? NULL : spec->writer; p; p = p->parent) {
		if (owned_by(reg, p))
			return -EALREADY;
	}
	if (tx->name)
		HASH_FIND(by_name, reg->names, tx->name, strlen(tx->name), clash);
	if (clash)
		return -EEXIST;
	if (tx->name) {
		HASH_ADD_KEYPTR(by_name, reg->names, tx->name, strlen(tx->name), priv);
		if (!priv->by_name.tbl)
			return -ENOMEM;
	}
	if (!tx->named) {
		HASH_ADD(by_owner, reg->owners, owner_key, sizeof(priv->owner_key), priv);
		if (!priv->by_owner.tbl) {
			if (tx->name)
				HASH_DELETE(by_name, reg->names, priv);
			return -ENOMEM;
		}
		/* Before hooks->begun: who looks at it from now on reckons with the transaction. */
		atomic_fetch_add(&reg->ambient_open, 1);
	}
	if (++reg->last_number == 0)
		reg->last_number = 1;
	tx->number = reg->last_number;
	TAILQ_INSERT_TAIL(&reg->open, priv, link);
	return 0;
}

static struct fusefs_tx *tx_new(struct fusefs_registry *reg, const struct tx_spec *spec)
{
	CLEANUP_FREE struct fusefs_tx *tx = calloc(1, sizeof(*tx));
	CLEANUP_FREE struct fusefs_tx_private *priv = calloc(1, sizeof(*priv));
	CLEANUP_FREE char *name = spec->name && *spec->name ? strdup(spec->name) : NULL;

	if (!tx || !priv || (spec->name && *spec->name && !name))
		return NULL;
	priv->reg = reg;
	priv->hooks = reg->hooks;
	priv->owner_fd = -1;
	priv->has_timeout = spec->has_timeout;
	priv->timeout = spec->timeout;
	clock_gettime(CLOCK_MONOTONIC, &priv->begun);
	fusefs_tx_touch(tx);
	tx->named = spec->named;
	tx->uid = spec->uid;
	atomic_init(&tx->refs, 1);
	atomic_init(&tx->owner, 0);
	if (spec->owner) {
		priv->owner = fusefs_process_get(spec->owner);
		priv->owner_key = tx_process_key(spec->owner);
		atomic_init(&tx->owner, spec->owner->tgid);
	}
	pthread_mutex_init(&tx->busy, NULL);
	tx->name = TAKE_PTR(name);
	tx->priv = TAKE_PTR(priv);
	tx->priv->tx = tx;
	return TAKE_PTR(tx);
}

int tx_begin(struct fusefs_registry *reg, const struct tx_spec *spec, struct fusefs_tx **out)
{
	CLEANUP_CLOSE int fd = -1;
	struct fusefs_tx *tx = tx_new(reg, spec);
	int rc;

	if (!tx)
		return -ENOMEM;
	if (spec->owner) {
		fd = fusefs_process_open(spec->owner);
		if (fd == -ESRCH) {
			rc = fd;
			goto out_free;
		}
	}
	pthread_mutex_lock(&reg->lock);
	rc = put_in(reg, tx->priv, spec);
	pthread_mutex_unlock(&reg->lock);
	if (rc)
		goto out_free;
	rc = txn_begin(reg->eng, &tx->txn);
	if (rc)
		goto out_take_out;
	rc = tx_charge_to(reg, tx);
	if (!rc)
		rc = reg->hooks.begun(reg->hooks.arg, tx);
	if (rc) {
		txn_rollback(tx->txn);
		goto out_take_out;
	}
	fusefs_tx_get(tx); /* the caller's; the first one is the list's */
	pthread_mutex_lock(&reg->lock);
	tx->priv->live = true;
	if (reg->limits.idle > 0)
		tx_watcher_poke(reg); /* it begins to look from time to time */
	if (spec->owner)
		tx_watch(reg, tx->priv, fd < 0 ? -1 : TAKE_FD(fd));
	pthread_mutex_unlock(&reg->lock);
	*out = tx;
	return 0;

out_take_out:
	pthread_mutex_lock(&reg->lock);
	take_out(reg, tx->priv);
	pthread_mutex_unlock(&reg->lock);
out_free:
	tx_free(tx); /* nobody has seen it, and hooks->gone belongs to a begun that succeeded */
	return rc;
}

/* ---- end ---- */

struct flip {
	const struct fusefs_tx_hooks *hooks;
	struct fusefs_tx *tx;
	void *remembered;
};

static void before_flip(void *arg)
{
	const struct flip *f = arg;

	f->hooks->flipping(f->hooks->arg, f->tx, f->remembered);
}

/* gid: prepare it; for its view that is a rollback. */
static int end(struct fusefs_tx *tx, bool commit, const char *gid, enum fusefs_end *how)
{
	struct fusefs_tx_private *priv = tx->priv;
	struct fusefs_registry *reg = priv->reg;
	struct fusefs_tx_hooks *hooks = &priv->hooks;
	struct flip flip = {.hooks = hooks, .tx = tx};
	int rc;

	*how = FUSEFS_UNCHANGED;
	if (tx_has_ended(tx))
		return -ENOTCONN;
	if (commit || gid)
		hooks->quiesce(hooks->arg, tx);
	flip.remembered = hooks->ending(hooks->arg, tx);
	if (gid)
		rc = txn_prepare(tx->txn, gid, tx->uid);
	else
		rc = commit ? txn_commit_with(tx->txn, before_flip, &flip) : txn_rollback(tx->txn);
	if (rc == 0)
		*how = commit ? FUSEFS_COMMITTED : FUSEFS_ROLLED_BACK;
	else if (txn_state(tx->txn) != TXN_ACTIVE)
		*how = txn_state(tx->txn) == TXN_ABORTED ? FUSEFS_ROLLED_BACK : FUSEFS_COMMITTED;
	/*
	 * Membership and name end here, before hooks->ended: from the flip on the view shows committed data, so nobody
	 * sees a difference (I3), and when the hook tidies up the view's nodes nobody can walk into it any more.
	 */
	if (*how != FUSEFS_UNCHANGED) {
		pthread_mutex_lock(&reg->lock);
		take_out(reg, priv);
		pthread_mutex_unlock(&reg->lock);
	}
	hooks->ended(hooks->arg, tx, *how, flip.remembered);
	if (*how != FUSEFS_UNCHANGED)
		fusefs_tx_put(tx); /* the list's; the caller has one of his own */
	return rc;
}

int tx_end(struct fusefs_tx *tx, bool commit, enum fusefs_end *how)
{
	return end(tx, commit, NULL, how);
}

int tx_prepare(struct fusefs_tx *tx, const char *gid, enum fusefs_end *how)
{
	return end(tx, false, gid, how);
}

/*
 * A prepared transaction belongs to no session: it gets one for the moment of its end, that nobody can find, so that the hooks
 * can tell the caches. The nodes of the view that it once had are others' by now.
 */
int tx_resolve(struct fusefs_registry *reg, struct txn *txn, bool commit)
{
	struct fusefs_tx *tx = tx_new(reg, &(struct tx_spec){.named = true});
	struct fusefs_tx_hooks *hooks = &reg->hooks;
	enum fusefs_end how = FUSEFS_UNCHANGED;
	struct flip flip = {.hooks = hooks, .tx = tx};
	int rc;

	if (!tx)
		return -ENOMEM;
	tx->txn = txn_get(txn);
	pthread_mutex_lock(&reg->lock);
	if (++reg->last_number == 0)
		reg->last_number = 1;
	tx->number = reg->last_number;
	pthread_mutex_unlock(&reg->lock);
	rc = hooks->begun(hooks->arg, tx);
	if (rc) {
		tx_free(tx);
		return rc;
	}
	flip.remembered = hooks->ending(hooks->arg, tx);
	rc = commit ? txn_commit_with(txn, before_flip, &flip) : txn_rollback(txn);
	if (rc == 0)
		how = commit ? FUSEFS_COMMITTED : FUSEFS_ROLLED_BACK;
	hooks->ended(hooks->arg, tx, how, flip.remembered);
	fusefs_tx_put(tx);
	return rc == -EINVAL ? -ENOENT : rc; /* someone was faster */
}

/* ---- the registry's life ---- */

int fusefs_registry_new(struct txn_engine *eng, const struct fusefs_tx_hooks *hooks, struct fusefs_registry **out)
{
	struct fusefs_registry *reg = calloc(1, sizeof(*reg));
	int rc;

	if (!reg)
		return -ENOMEM;
	reg->eng = eng;
	reg->hooks = *hooks;
	pthread_mutex_init(&reg->lock, NULL);
	pthread_cond_init(&reg->reaped, NULL);
	TAILQ_INIT(&reg->open);
	TAILQ_INIT(&reg->messages);
	rc = fusefs_members_new(0, 0, &reg->members);
	if (rc)
		goto out_free;
	rc = tx_watcher_start(reg);
	if (rc)
		goto out_free;
	*out = reg;
	return 0;

out_free:
	fusefs_members_free(reg->members);
	pthread_cond_destroy(&reg->reaped);
	pthread_mutex_destroy(&reg->lock);
	free(reg);
	return rc;
}

/* The oldest transaction that is open, after `number`. */
static struct fusefs_tx *next_open(struct fusefs_registry *reg, unsigned number)
{
	struct fusefs_tx_private *priv;
	struct fusefs_tx *tx = NULL;

	pthread_mutex_lock(&reg->lock);
	TAILQ_FOREACH(priv, &reg->open, link)
	{
		if (priv->tx->number > number) {
			tx = fusefs_tx_get(priv->tx);
			break;
		}
	}
	pthread_mutex_unlock(&reg->lock);
	return tx;
}

void fusefs_registry_free(struct fusefs_registry *reg)
{
	struct fusefs_tx *tx;
	unsigned number = 0;

	if (!reg)
		return;
	tx_watcher_stop(reg);
	while ((tx = next_open(reg, number))) {
		enum fusefs_end how;

		number = tx->number;
		pthread_mutex_lock(&tx->busy);
		tx_end(tx, false, &how);
		pthread_mutex_unlock(&tx->busy);
		if (how == FUSEFS_UNCHANGED) {
			/* The engine could not (it is in its error state): let go all the same, recovery rolls back. */
			pthread_mutex_lock(&reg->lock);
			take_out(reg, tx->priv);
			pthread_mutex_unlock(&reg->lock);
			fusefs_tx_put(tx);
		}
		fusefs_tx_put(tx);
	}
	tx_watcher_close(reg);
	tx_forget_messages(reg);
	tx_forget_accounts(reg);
	fusefs_members_free(reg->members);
	pthread_cond_destroy(&reg->reaped);
	pthread_mutex_destroy(&reg->lock);
	free(reg);
}
