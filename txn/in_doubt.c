/*
 * in_doubt.c - recovery of prepared transactions: each comes back as it was, open, with its locks.
 *
 * What was committed is home by then, and nothing of what a prepared transaction has changed can have been changed by others
 * since: it held the locks until the crash. So its records, applied in their order by the functions that applied them first, to
 * versions that begin with what is at home now, give the same workspace again. What it has created waits in the stage; an inode
 * that did not survive there is made anew, as for a committed transaction, and BIND says so.
 *
 * Its records stay where they are in the log: as an open transaction it pins them, or has them carried forward.
 */
#include "txn/recovery.h"

#include <inttypes.h>
#include <stdio.h>
#include <syslog.h>

struct restore {
	struct recovery *rv;
	struct txn *t;
	struct loser *l;
	size_t next; /* in l->recs */
};

static int unclean(struct recovery *rv, uint64_t lsn, const char *why)
{
	snprintf(rv->err, rv->errlen, "the log's record at LSN %" PRIu64 " of a prepared transaction %s", lsn, why);
	return -EUCLEAN;
}

/* ---- objects ---- */

/* Home's part of a version that the transaction has locked. A name in the stage does not count. */
static int own(struct restore *rs, struct txn_wsobj *w, uint64_t lsn)
{
	struct txn_obj *obj = w->obj;
	int r;

	if (w->owned)
		return 0;
	if (obj->ws)
		return unclean(rs->rv, lsn, "changes what another one has changed");
	r = obj->eng->so->getattr(obj->home, &w->attr);
	if (r)
		return r;
	if (w->staged && !S_ISDIR(w->attr.st_mode) && w->attr.st_nlink)
		w->attr.st_nlink--;
	w->owned = true;
	obj->ws = w;
	return 0;
}

/* *out: the inode, where it is; NULL: nowhere. */
static int find_home(struct recovery *rv, const struct declared *d, const struct txn_rec_object *o, struct store_obj **out,
                     bool *staged)
{
	const struct store_ops *so = rv->eng->so;
	struct store_obj *root = so->root(rv->eng->store), *there;
	struct store_id id;
	char name[20];
	int r;

	*out = NULL;
	*staged = false;
	if (!o->created && !so->id(root, &id) && id.len == d->o.id.len && !memcmp(id.bytes, d->o.id.bytes, id.len)) {
		*out = so->get(root);
		return 0;
	}
	r = so->resolve(rv->eng->store, &d->o.id, o->hint[0] ? o->hint : NULL, txn_stage_name(o->oid, name), out);
	if (r)
		*out = NULL;
	if (r == -ENOENT || r == -ESTALE)
		return 0;
	if (!r && !so->lookup(so->stage(rv->eng->store), name, &there, NULL)) {
		*staged = there == *out;
		so->put(there);
	}
	if (!r && o->created && !*staged) { /* without the name that kept it: it is on its way out */
		so->put(*out);
		*out = NULL;
	}
	return r;
}

static int recreate(struct recovery *rv, struct declared *d, struct txn_wsobj *w)
{
	int r;

	d->w = w;
	r = txn_recovery_recreate(rv, d);
	if (r == -ENOSPC || r == -EDQUOT) {
		rv->eng->so->release(rv->eng->store, UINT64_MAX); /* what was kept for this */
		r = txn_recovery_recreate(rv, d);
	}
	d->w = NULL;
	w->remade = false; /* until it is committed it can have been nowhere else */
	if (r)
		snprintf(rv->err, rv->errlen, "what a prepared transaction has made cannot be made anew: %s; nothing is lost: "
		         "try again", strerror(-r));
	return r;
}

static int declare(struct restore *rs, const struct txn_rec_object *o, uint64_t lsn)
{
	struct recovery *rv = rs->rv;
	struct store_obj *home;
	struct declared *d;
	struct txn_wsobj *w;
	struct txn_obj *obj;
	bool staged;
	int r;

	HASH_FIND(hh, rv->declared, &o->oid, sizeof(o->oid), d);
	if (!d || txn_ws_find(&rs->t->ws, o->oid))
		return 0;
	r = find_home(rv, d, o, &home, &staged);
	if (r)
		return r;
	if (!home && !o->created) {
		rv->rec->missing++;
		base_log(LOG_WARNING, "inode %" PRIu64 " (\"%s\") is gone; what a prepared transaction has done to it is lost",
		         o->ino, o->hint);
		return 0;
	}
	obj = home ? txn_obj_intern(rv->eng, home) : txn_obj_orphan(rv->eng);
	if (!obj)
		return -ENOMEM;
	r = txn_ws_add(&rs->t->ws, obj, o->oid, &w);
	if (!r) {
		w->declared = true;
		w->created = o->created;
		w->created_lsn = o->created ? lsn : 0;
		w->staged = staged;
		atomic_store(&obj->oid, o->oid);
		if (!home)
			r = recreate(rv, d, w);
	}
	if (!r && o->created) {
		atomic_store(&obj->plain_gen, 0); /* the log knows all of it */
		r = own(rs, w, lsn);
	}
	txn_obj_put(obj);
	return r;
}

/* ---- records ---- */

/* The objects that a record changes: their versions become the transaction's. *gone: one is missing. */
static int own_all(struct restore *rs, const uint64_t *oids, size_t n, uint64_t lsn, bool *gone)
{
	int r = 0;

	for (size_t i = 0; i < n; i++)
		*gone = *gone || (oids[i] && !txn_ws_find(&rs->t->ws, oids[i]));
	for (size_t i = 0; i < n && !r && !*gone; i++)
		r = oids[i] ? own(rs, txn_ws_find(&rs->t->ws, oids[i]), lsn) : 0;
	return r;
}

static int own_names(struct restore *rs, const struct txn_rec_name *n, uint64_t lsn, bool *gone)
{
	struct txn_ws *ws = &rs->t->ws;
	int r = 0;

	for (uint32_t i = 0; i < n->count && !*gone; i++)
		*gone = !txn_ws_find(ws, n->op[i].dir);
	for (uint32_t i = 0; i < n->count && !r && !*gone; i++) {
		const uint64_t oids[] = {n->op[i].before, n->op[i].after};

		r = own_all(rs, oids, ARRAY_LEN(oids), lsn, gone);
	}
	for (uint32_t i = 0; i < n->count && !r && !*gone; i++) {
		struct txn_name *e = txn_name_find(txn_ws_find(ws, n->op[i].dir)->obj, n->op[i].name);
		struct txn_wsobj *to = n->op[i].after ? txn_ws_find(ws, n->op[i].after) : NULL;

		if (e && e->txn && e->txn != rs->t)
			return unclean(rs->rv, lsn, "changes a name that another one has changed");
		/* rename: what came from the other directory */
		if (to && n->count == 2 && n->op[0].dir != n->op[1].dir && S_ISDIR(to->attr.st_mode))
			to->moved = true;
	}
	return r;
}

static int apply(struct restore *rs, const struct txn_rec *rec, uint64_t lsn)
{
	struct txn *t = rs->t;
	bool gone = false;
	int r = base_vec_push(&t->recs, lsn);

	if (r)
		return r;
	switch (rec->type) {
	case TXN_REC_WRITE:
		r = own_all(rs, &rec->u.write.oid, 1, lsn, &gone);
		break;
	case TXN_REC_SIZE:
		r = own_all(rs, &rec->u.size.oid, 1, lsn, &gone);
		break;
	case TXN_REC_ATTR:
		r = own_all(rs, &rec->u.attr.oid, 1, lsn, &gone);
		break;
	case TXN_REC_XATTR:
		r = own_all(rs, &rec->u.xattr.oid, 1, lsn, &gone);
		break;
	default:
		r = own_names(rs, &rec->u.name, lsn, &gone);
	}
	if (r || gone)
		return r;
	t->operations++;
	return txn_rec_table[rec->type].apply(&t->ws, rec, lsn);
}

static int one_record(struct restore *rs, uint64_t lsn)
{
	CLEANUP_FREE void *payload = NULL;
	const struct base_vec *stand = &rs->l->recs;
	struct txn *t = rs->t;
	struct txn_rec rec;
	struct wal_rec h;
	int r = wal_read_rec(t->eng->wal, lsn, &h, &payload);

	if (!r)
		r = txn_rec_decode(&h, payload, &rec);
	if (r)
		return r == -EUCLEAN ? unclean(rs->rv, lsn, "cannot be read") : r;
	t->bytes += wal_record_size(h.len);
	if (rec.type == TXN_REC_OBJECT)
		return declare(rs, &rec.u.object, lsn);
	if (rec.type == TXN_REC_PREPARE) {
		t->owner = rec.u.prepare.uid;
		t->began = t->prepared = rec.u.prepare.time;
		t->need = rec.u.prepare.need;
		free(t->gid);
		t->gid = strdup(rec.u.prepare.gid);
		return t->gid ? 0 : -ENOMEM;
	}
	if (rs->next >= stand->n || stand->v[rs->next] != lsn)
		return 0; /* undone, or nothing to apply */
	rs->next++;
	return apply(rs, &rec, lsn);
}

/* Space for the install, as it was promised. The ballast has survived, unless it was needed for what is committed. */
static void reserve(struct txn *t)
{
	uint64_t need = t->need;

	t->need = 0;
	if (txn_need(t, need))
		base_log(LOG_WARNING, "prepared transaction \"%s\" may not find the space that was reserved for it; free some", t->gid);
	t->need = need;
}

static int new_txn(struct txn_engine *eng, const struct loser *l, struct txn **out)
{
	int r = txn_new(eng, false, out);

	if (r)
		return r;
	pthread_mutex_lock(&eng->lock);
	eng->next_txid--; /* it has its number */
	eng->st.begun--;
	(*out)->id = l->txid;
	(*out)->last = l->last;
	pthread_mutex_unlock(&eng->lock);
	return 0;
}

static int restore_one(struct recovery *rv, struct loser *l)
{
	struct restore rs = {.rv = rv, .l = l};
	struct txn_engine *eng = rv->eng;
	struct base_vec chain = {0};
	int r = new_txn(eng, l, &rs.t);

	if (r)
		return r;
	pthread_mutex_lock(&rs.t->lock);
	pthread_rwlock_wrlock(&eng->ns);
	r = txn_chain(eng, l->last, &chain);
	for (size_t i = 0; i < chain.n && !r; i++)
		r = one_record(&rs, chain.v[i]);
	if (!r && (!rs.t->gid || rs.next != l->recs.n))
		r = unclean(rv, l->last, "is not linked to the others");
	pthread_rwlock_unlock(&eng->ns);
	if (!r) {
		atomic_store(&rs.t->first, chain.v[0]);
		atomic_store(&rs.t->state, TXN_PREPARED);
		reserve(rs.t);
		rv->rec->in_doubt++;
		txn_recovery_say(rv, "in doubt: transaction %" PRIu64 ", prepared as \"%s\", %zu operations", l->txid, rs.t->gid,
		                 rs.t->recs.n);
	}
	pthread_mutex_unlock(&rs.t->lock);
	base_vec_free(&chain);
	if (r) { /* the engine will not open: only memory is at stake */
		pthread_rwlock_wrlock(&eng->ns);
		txn_ws_detach(&rs.t->ws, 0);
		pthread_rwlock_unlock(&eng->ns);
		pthread_mutex_lock(&eng->lock);
		TAILQ_REMOVE(&eng->open, rs.t, link);
		pthread_mutex_unlock(&eng->lock);
		txn_put(rs.t);
	}
	txn_put(rs.t); /* the list has its own reference */
	return r;
}

int txn_restore_in_doubt(struct recovery *rv)
{
	struct declared *d, *dt;
	struct loser *l, *lt;
	int r = 0;

	HASH_ITER (hh, rv->declared, d, dt)
		d->w = NULL; /* of the workspace that was installed */
	HASH_ITER (hh, rv->open, l, lt)
		if (!r && l->prepared)
			r = restore_one(rv, l);
	return r;
}

bool txn_stage_needed(struct txn_engine *eng, const char *name)
{
	uint64_t oid = strtoull(name, NULL, 16);
	struct txn_wsobj *w;
	bool needed = false;
	struct txn *t;

	pthread_mutex_lock(&eng->lock);
	TAILQ_FOREACH (t, &eng->open, link) {
		w = txn_ws_find(&t->ws, oid);
		needed = needed || (w && w->staged);
	}
	pthread_mutex_unlock(&eng->lock);
	return needed;
}

void txn_abort_losers(struct recovery *rv)
{
	struct loser *l, *tmp;

	HASH_ITER (hh, rv->open, l, tmp) {
		/* Behind the newest of its records, which a copy of them that does not count may be. */
		struct wal_rec h = {
			.type = TXN_REC_ABORT, .txid = l->txid, .prev = l->carry_last ? l->carry_last : l->last};

		if (!l->prepared)
			(void)wal_append(rv->eng->wal, &h, NULL, 0, true);
	}
}
