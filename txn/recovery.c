/*
 * recovery.c - after a crash: find exactly the committed state.
 *
 * Analysis reads the log once and sorts its records by transaction: which committed since the last checkpoint's `clean`
 * point, which were lost. Redo applies the committed ones, in the order of their commits, to one workspace, with the functions that
 * live operations use, and installs that workspace's net effect with the code that commit uses. Because every further
 * change of a logged object is in the log too (I5), the net effect is the final state, whatever of it is home already; doing it
 * twice changes nothing (I6). What is prepared and has no outcome comes back then (in_doubt.c). Losers need no undo, as nothing of theirs is at home: their inodes in the stage are swept.
 *
 * A created object whose inode did not survive is made anew; BIND says so in the log before it leaves the stage.
 */
#include "txn/recovery.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>

void txn_recovery_say(struct recovery *rv, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	if (!rv->eng->cfg.report)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	rv->eng->cfg.report(rv->eng->cfg.arg, line);
}

/* ---- analysis ---- */

static struct loser *find_open(struct recovery *rv, uint64_t txid, bool make)
{
	struct loser *l;

	HASH_FIND(hh, rv->open, &txid, sizeof(txid), l);
	if (!l && make) {
		l = calloc(1, sizeof(*l));
		if (!l)
			return NULL;
		l->txid = txid;
		HASH_ADD(hh, rv->open, txid, sizeof(l->txid), l);
		if (!l->hh.tbl) {
			free(l);
			return NULL;
		}
	}
	return l;
}

static void forget_open(struct recovery *rv, struct loser *l)
{
	HASH_DEL(rv->open, l);
	base_vec_free(&l->recs);
	base_vec_free(&l->carried);
	free(l);
}

/* Which of the transaction's two chains does a record continue? A record after the copy makes the copy the one that counts. */
static struct base_vec *continue_chain(struct loser *l, const struct wal_rec *h)
{
	if (h->flags & WAL_CARRIED) {
		if (!h->prev)
			base_vec_free(&l->carried);
		l->carry_last = h->lsn;
		return &l->carried;
	}
	if (l->carry_last && h->prev == l->carry_last) {
		base_vec_free(&l->recs);
		l->recs = l->carried;
		l->carried = (struct base_vec){0};
		l->carry_last = 0;
	}
	l->last = h->lsn;
	return &l->recs;
}

/* PREPARE is the last record of its chain: a copy of it says that the copy is whole. */
static void prepared(struct loser *l, const struct wal_rec *h)
{
	l->prepared = true;
	if (!(h->flags & WAL_CARRIED))
		return;
	base_vec_free(&l->recs);
	l->recs = l->carried;
	l->carried = (struct base_vec){0};
	l->carry_last = 0;
	l->last = h->lsn;
}

static int declare(struct recovery *rv, const struct txn_rec_object *o)
{
	struct declared *d;
	char *hint = strdup(o->hint), *target = strdup(o->target);

	HASH_FIND(hh, rv->declared, &o->oid, sizeof(o->oid), d);
	if (hint && target && !d) {
		d = calloc(1, sizeof(*d));
		if (d) {
			d->oid = o->oid;
			HASH_ADD(hh, rv->declared, oid, sizeof(d->oid), d);
			if (!d->hh.tbl) {
				free(d);
				d = NULL;
			}
		}
	}
	if (!hint || !target || !d) {
		free(hint);
		free(target);
		return -ENOMEM;
	}
	if (d->o.oid && d->o.created) { /* a later transaction's declaration of what an earlier one created */
		free(hint);
		free(target);
		return 0;
	}
	free(d->hint);
	free(d->target);
	d->o = *o;
	d->hint = hint;
	d->target = target;
	rv->next_oid = base_max_u64(rv->next_oid, o->oid + 1);
	return 0;
}

static int won(struct recovery *rv, struct loser *l, uint64_t commit)
{
	if (rv->nwon == rv->capwon) {
		size_t cap = rv->capwon ? rv->capwon * 2 : 64;
		struct winner *v = reallocarray(rv->won, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		rv->won = v;
		rv->capwon = cap;
	}
	rv->won[rv->nwon++] = (struct winner){commit, l->recs};
	l->recs = (struct base_vec){0};
	forget_open(rv, l);
	return 0;
}

/* What committed before `clean` is home and durable. */
static void checkpoint_seen(struct recovery *rv, const struct txn_rec_checkpoint *c)
{
	struct declared *d, *tmp;
	size_t kept = 0;

	for (size_t i = 0; i < rv->nwon; i++) {
		if (rv->won[i].commit < c->clean)
			base_vec_free(&rv->won[i].recs);
		else
			rv->won[kept++] = rv->won[i];
	}
	rv->nwon = kept;
	HASH_ITER (hh, rv->declared, d, tmp)
		d->bound = false;
	rv->next_oid = base_max_u64(rv->next_oid, c->next_oid);
	rv->next_txid = base_max_u64(rv->next_txid, c->next_txid);
	rv->rec->clean = c->shutdown;
	rv->scan = c->scan;
}

static int refuse(struct recovery *rv, const struct wal_rec *h, const char *why)
{
	snprintf(rv->err, rv->errlen, "the log's record at LSN %" PRIu64 " (%s) %s; nothing was changed", h->lsn,
	         txn_rec_name(h->type), why);
	return -EUCLEAN;
}

static int analyse(void *arg, const struct wal_rec *h, const void *payload)
{
	struct recovery *rv = arg;
	struct base_vec *chain = NULL;
	struct loser *l = NULL;
	struct txn_rec rec;
	int r = txn_rec_decode(h, payload, &rec);

	if (r) {
		snprintf(rv->err, rv->errlen,
		         "the log's record at LSN %" PRIu64 " checks but cannot be understood (type %u): it was written "
		         "by another version or is damaged; nothing was changed",
		         h->lsn, h->type);
		return r;
	}
	if (rec.type == TXN_REC_WRITE && rec.u.write.stolen) {
		refuse(rv, h, "is one that only a newer version understands");
		return -EPROTONOSUPPORT;
	}
	rv->rec->records++;
	rv->rec->bytes += wal_record_size(h->len);
	rv->rec->clean = false;
	if (h->txid) {
		rv->next_txid = base_max_u64(rv->next_txid, h->txid + 1);
		l = find_open(rv, h->txid, rec.type == TXN_REC_BEGIN);
		/* Without its BEGIN, what is left of a transaction is older than the last checkpoint. */
		if (!l)
			return rec.type == TXN_REC_BEGIN ? -ENOMEM : 0;
		chain = continue_chain(l, h);
	}
	switch (rec.type) {
	case TXN_REC_OBJECT:
		return declare(rv, &rec.u.object);
	case TXN_REC_WRITE:
	case TXN_REC_SIZE:
	case TXN_REC_ATTR:
	case TXN_REC_XATTR:
	case TXN_REC_NAME:
		return chain ? base_vec_push(chain, h->lsn) : refuse(rv, h, "belongs to no transaction");
	case TXN_REC_CLR:
		while (chain && chain->n && chain->v[chain->n - 1] > rec.u.clr.next)
			chain->n--;
		return 0;
	case TXN_REC_PREPARE:
		if (!l)
			return refuse(rv, h, "belongs to no transaction");
		prepared(l, h);
		return 0;
	case TXN_REC_COMMIT:
		return l ? won(rv, l, h->lsn) : refuse(rv, h, "belongs to no transaction");
	case TXN_REC_ABORT:
		if (l)
			forget_open(rv, l);
		return 0;
	case TXN_REC_CHECKPOINT:
		checkpoint_seen(rv, &rec.u.checkpoint);
		return 0;
	case TXN_REC_BIND: {
		struct declared *d;

		HASH_FIND(hh, rv->declared, &rec.u.bind.oid, sizeof(rec.u.bind.oid), d);
		if (d) {
			d->o.id = rec.u.bind.id;
			d->bound = true;
		}
		return 0;
	}
	default:
		return 0;
	}
}

/*
 * Is the log's first segment still the first? What is lost in front of it nothing else would tell: its transactions would
 * just be missing. The last checkpoint says where the log has to begin, and only the first segment of all can be
 * without one.
 */
static int check_beginning(struct recovery *rv)
{
	uint64_t begin = wal_begin(rv->eng->wal);

	if (rv->scan ? rv->scan >= begin : begin <= wal_segment_size(rv->eng->wal))
		return 0;
	snprintf(rv->err, rv->errlen,
	         "the log's beginning is missing: its first segment begins at LSN %" PRIu64 ", recovery has to read from "
	         "LSN %" PRIu64 " on; nothing was changed",
	         begin, rv->scan ? rv->scan : wal_segment_size(rv->eng->wal));
	return -EUCLEAN;
}

/* ---- redo ---- */

static bool is_root(struct txn_engine *eng, const struct store_id *id)
{
	struct store_id root;

	return !eng->so->id(eng->so->root(eng->store), &root) && root.len == id->len &&
	       !memcmp(root.bytes, id->bytes, id->len);
}

/* The workspace object for a number: find the inode that the log names (I7). */
static int resolve(struct txn_ws *ws, uint64_t oid, struct txn_wsobj **out)
{
	struct recovery *rv = ws->resolve_arg;
	struct txn_engine *eng = rv->eng;
	const struct store_ops *so = eng->so;
	struct store_obj *home = NULL, *staged = NULL;
	struct declared *d;
	struct txn_obj *obj;
	char name[20];
	int r;

	HASH_FIND(hh, rv->declared, &oid, sizeof(oid), d);
	if (!d)
		return -EUCLEAN;
	if (d->w) {
		*out = d->w;
		return 0;
	}
	txn_stage_name(oid, name);
	if (!d->o.created && is_root(eng, &d->o.id)) {
		home = so->get(so->root(eng->store));
		r = 0;
	} else {
		r = so->resolve(eng->store, &d->o.id, d->hint[0] ? d->hint : NULL, name, &home);
	}
	if (r && r != -ENOENT && r != -ESTALE)
		return r;
	obj = home ? txn_obj_intern(eng, home) : txn_obj_orphan(eng);
	if (!obj)
		return -ENOMEM;
	if (obj->ws) { /* the same inode under two numbers */
		d->w = *out = obj->ws;
		txn_obj_put(obj);
		return 0;
	}
	r = txn_ws_add(ws, obj, oid, &d->w);
	if (!r) {
		d->w->owned = d->w->declared = true;
		d->w->created = d->o.created;
		d->w->attr.st_mode = d->o.mode;
		d->w->attr.st_uid = d->o.uid;
		d->w->attr.st_gid = d->o.gid;
		obj->ws = d->w;
		if (!atomic_load(&obj->oid))
			atomic_store(&obj->oid, oid);
		if (obj->home && !so->lookup(so->stage(eng->store), name, &staged, NULL)) {
			d->w->staged = staged == obj->home;
			d->w->remade = d->bound && d->w->staged;
			so->put(staged);
		}
		*out = d->w;
	}
	txn_obj_put(obj);
	return r;
}

static int redo_one(struct recovery *rv, struct txn_ws *ws, uint64_t lsn)
{
	CLEANUP_FREE void *payload = NULL;
	struct txn_rec rec;
	struct wal_rec h;
	int r = wal_read_rec(rv->eng->wal, lsn, &h, &payload);

	if (!r)
		r = txn_rec_decode(&h, payload, &rec);
	if (!r)
		r = txn_rec_table[rec.type].apply(ws, &rec, lsn);
	if (r == -EUCLEAN)
		snprintf(rv->err, rv->errlen, "the log's record at LSN %" PRIu64 " cannot be applied: it refers to an "
		         "object that the log does not declare", lsn);
	else if (r)
		snprintf(rv->err, rv->errlen, "the log's record at LSN %" PRIu64 " cannot be applied: %s", lsn,
		         strerror(-r));
	rv->rec->operations++;
	return r;
}

static int redo(struct recovery *rv, struct txn_ws *ws)
{
	int r = 0;

	for (size_t i = 0; i < rv->nwon && !r; i++) {
		struct winner *w = &rv->won[i];

		for (size_t k = 0; k < w->recs.n && !r; k++)
			r = redo_one(rv, ws, w->recs.v[k]);
		if (!r && w->recs.n) {
			rv->rec->committed++;
			txn_recovery_say(rv, "redo: transaction committed at LSN %" PRIu64 ", %zu operations", w->commit, w->recs.n);
		}
		if (rv->eng->cfg.progress)
			rv->eng->cfg.progress(rv->eng->cfg.arg, i + 1, rv->nwon);
	}
	return r;
}

int txn_recovery_recreate(struct recovery *rv, struct declared *d)
{
	struct txn_engine *eng = rv->eng;
	const struct store_ops *so = eng->so;
	struct store_new sn = {d->o.mode, d->o.rdev, d->o.uid, d->o.gid, d->target[0] ? d->target : NULL};
	struct txn_rec rec = {.type = TXN_REC_BIND, .u.bind = {.oid = d->oid}};
	struct wal_rec h = {.type = TXN_REC_BIND};
	struct base_buf head = {0};
	struct store_obj *home;
	struct iovec iov[3];
	char name[20];
	int n, r;

	txn_stage_name(d->oid, name);
	r = so->create(so->stage(eng->store), name, &sn, false, &home, NULL);
	if (r == -EEXIST) { /* of a recovery that did not come to log it */
		so->unlink(so->stage(eng->store), name, S_ISDIR(d->o.mode));
		r = so->create(so->stage(eng->store), name, &sn, false, &home, NULL);
	}
	if (r)
		return r;
	r = so->id(home, &rec.u.bind.id);
	if (!r)
		r = txn_rec_encode(&rec, &head, iov, &n);
	if (!r)
		r = wal_append(eng->wal, &h, iov, n, true);
	base_buf_free(&head);
	if (r) { /* not known by its number: the next try makes another one in its place */
		so->put(home);
		return r;
	}
	d->o.id = rec.u.bind.id;
	d->w->obj->home = home;
	home->user = d->w->obj;
	d->w->staged = d->w->remade = true;
	rv->bound = true;
	return 0;
}

static int make_missing(struct recovery *rv, struct txn_ws *ws)
{
	struct declared *d, *tmp;
	struct txn_name *e;
	int r = 0;

	TAILQ_FOREACH (e, &ws->names, link)
		if (e->after && e->after->ws)
			e->after->ws->wanted = 1;
	HASH_ITER (hh, rv->declared, d, tmp) {
		if (r || !d->w || d->w->obj->home || d->w->oid != d->oid)
			continue;
		if (d->o.created && d->w->wanted) {
			r = txn_recovery_recreate(rv, d);
		} else if (d->w->wanted) {
			rv->rec->missing++;
			base_log(LOG_WARNING, "inode %" PRIu64 " (\"%s\") is gone; what the log says of it cannot be redone",
			         d->o.ino, d->hint);
		}
	}
	return r || !rv->bound ? r : wal_force(rv->eng->wal, wal_end(rv->eng->wal));
}

static int try_install(struct recovery *rv, struct txn *t)
{
	int r;

	rv->rec->objects = rv->rec->names = rv->rec->missing = 0;
	r = make_missing(rv, &t->ws);
	return r ? r : txn_install(&t->ws, t, &rv->rec->objects, &rv->rec->names);
}

static void cannot_install(struct recovery *rv, const struct txn *t, int r)
{
	struct base_buf where = {0};

	if (t->ws.trouble[0]) {
		base_buf_printf(&where, " at ");
		base_buf_quote(&where, t->ws.trouble);
	}
	snprintf(rv->err, rv->errlen, "what was committed cannot be redone%s: %s; nothing is lost: see to it that this "
	         "user may change it and try again", where.n ? (char *)where.p : "", strerror(-r));
	base_buf_free(&where);
}

static int install(struct recovery *rv, struct txn *t)
{
	struct txn_engine *eng = rv->eng;
	int r = try_install(rv, t);

	if (r == -ENOSPC || r == -EDQUOT) {
		eng->so->release(eng->store, UINT64_MAX); /* what was kept for this */
		r = try_install(rv, t); /* what is missing, too */
	}
	if (r == -ENOSPC || r == -EDQUOT)
		snprintf(rv->err, rv->errlen, "not enough space to redo what was committed; nothing is lost: free some "
		         "space and try again");
	else if (r)
		cannot_install(rv, t, r);
	return r;
}

/* ---- afterwards ---- */

static void recovery_free(struct recovery *rv)
{
	struct loser *l, *lt;
	struct declared *d, *dt;

	HASH_ITER (hh, rv->open, l, lt)
		forget_open(rv, l);
	for (size_t i = 0; i < rv->nwon; i++)
		base_vec_free(&rv->won[i].recs);
	free(rv->won);
	HASH_ITER (hh, rv->declared, d, dt) {
		HASH_DEL(rv->declared, d);
		free(d->hint);
		free(d->target);
		free(d);
	}
}

static int redo_and_install(struct recovery *rv)
{
	struct txn_engine *eng = rv->eng;
	struct txn *t;
	int r = txn_new(eng, true, &t);

	if (r)
		return r;
	t->ws.resolve = resolve;
	t->ws.resolve_arg = rv;
	atomic_store(&t->state, TXN_COMMITTED);
	r = redo(rv, &t->ws);
	if (!r)
		r = install(rv, t);
	pthread_rwlock_wrlock(&eng->ns);
	txn_ws_detach(&t->ws, 0);
	pthread_rwlock_unlock(&eng->ns);
	pthread_mutex_lock(&eng->lock);
	TAILQ_REMOVE(&eng->open, t, link);
	eng->implicit--;
	pthread_mutex_unlock(&eng->lock);
	txn_put(t);
	txn_put(t);
	return r;
}

static void progress(void *arg, uint64_t done, uint64_t total)
{
	struct recovery *rv = arg;

	if (rv->eng->cfg.progress)
		rv->eng->cfg.progress(rv->eng->cfg.arg, done, total);
}

int txn_recover(struct txn_engine *eng, struct txn_recovery *rec, char *err, size_t errlen)
{
	struct recovery rv = {.eng = eng, .rec = rec, .next_oid = 1, .next_txid = 1, .err = err, .errlen = errlen};
	struct loser *l, *tmp;
	uint64_t in_doubt = 0;
	int r;

	r = wal_scan(eng->wal, 0, analyse, progress, &rv, &rec->end);
	if (r) {
		if (!err[0])
			snprintf(err, errlen, "%s", wal_error_text(eng->wal)[0] ? wal_error_text(eng->wal) : strerror(-r));
		goto out;
	}
	r = check_beginning(&rv);
	if (r)
		goto out;
	HASH_ITER (hh, rv.open, l, tmp)
		in_doubt += l->prepared;
	if (eng->store->foreign && (rv.nwon || in_doubt)) {
		snprintf(err, errlen, "this directory is a copy: its log holds %zu committed transactions that are not "
		         "installed yet or in doubt, and speaks of the original's files. Recover the original and copy again; or, to take the "
		         "copy's files as they are, remove its " STORE_STATE_DIR, rv.nwon + (size_t)in_doubt);
		r = -EXDEV;
		goto out;
	}
	r = txn_numbers_left(eng, &rv.next_oid);
	if (r)
		goto out;
	eng->next_oid = rv.next_oid;
	eng->next_txid = rv.next_txid;
	HASH_ITER (hh, rv.open, l, tmp) {
		if (l->prepared)
			continue;
		rec->lost++;
		txn_recovery_say(&rv, "undo: transaction %" PRIu64 " did not commit, %zu operations dropped", l->txid, l->recs.n);
	}
	r = wal_start(eng->wal);
	if (r) {
		snprintf(err, errlen, "cannot write the log in " STORE_STATE_DIR "/wal: %s", strerror(-r));
		goto out;
	}
	if (in_doubt)
		txn_abort_losers(&rv);
	if (rv.nwon) {
		r = redo_and_install(&rv);
		if (!r)
			r = txn_sync_all(eng, false);
	}
	if (!r && in_doubt)
		r = txn_restore_in_doubt(&rv);
	if (!r)
		r = txn_sweep(eng, &rec->swept);
	if (!r)
		r = txn_checkpoint_at(eng, false);
	if (r && !err[0])
		snprintf(err, errlen, "recovery cannot be completed: %s; nothing is lost: try again", strerror(-r));
	if (!r && (!eng->store->sealed || eng->store->foreign) && (r = eng->so->seal(eng->store)))
		snprintf(err, errlen, "cannot write " STORE_STATE_DIR "/format.new: %s", strerror(-r));
out:
	recovery_free(&rv);
	return r;
}
