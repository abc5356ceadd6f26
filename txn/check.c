/*
 * check.c - verify the log and the state directory without changing them.
 *
 * The log is read twice: for the last checkpoint, and for the records of the transactions. What lies below the LSN from
 * which recovery would read is history that may be cut anywhere: it is decoded and followed, but not held against the
 * log. A transaction that was finished before the checkpoint may reach over that LSN: of it, too, only the end may be left.
 */
#include "txn/txn.h"

#include "base/base.h"
#include "base/map.h"
#include "txn/rec.h"
#include "wal/wal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

enum check_state { OPEN, COMMITTED, ABORTED, ENDED };
static const char *const state_names[] = {"open", "committed", "rolled back", "ended"};

struct check_oid {
	UT_hash_handle hh;
	uint64_t oid;
};

struct check_txn {
	UT_hash_handle hh; /* by id */
	uint64_t id;
	enum check_state state;
	bool prepared;
	uint64_t whole_first, whole_last; /* of the chain that its newest PREPARE ends */
	uint64_t first;        /* LSN of the BEGIN that counts; 0: it was trimmed */
	uint64_t last;         /* LSN of the newest record */
	uint64_t before_first; /* first and last of the chain before it was carried forward: when a crash or a full disk
	                        */
	uint64_t before_last;  /* ends the carrying half-way, the transaction goes on with the old one */
	struct wal_rec cut;    /* the oldest record left of one whose beginning was trimmed; its lsn is 0: it was not */
	struct base_vec lsns;  /* of all its records, ascending */
	struct check_oid *oids; /* declared */
};

struct check {
	struct txn_check *out;
	void (*fn)(void *arg, const char *line);
	void *arg;
	bool wrong;
	int err;                 /* -ENOMEM */
	uint64_t begin;          /* LSN of the oldest segment */
	uint64_t checkpoint;     /* LSN of the last one; 0: none */
	uint64_t scan;           /* from where recovery would read */
	uint64_t clean;          /* what committed below it is home: its beginning may have been trimmed */
	const struct wal_rec *h; /* being visited */
	struct check_txn *txns;
};

static void report(struct check *c, const char *line)
{
	c->wrong = true;
	if (c->fn)
		c->fn(c->arg, line);
}

PRINTF_LIKE(2, 3) static void problem(struct check *c, const char *fmt, ...)
{
	char what[384], line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (!c->h)
		snprintf(line, sizeof(line), "%s", what);
	else if (c->h->txid)
		snprintf(line, sizeof(line), "LSN %" PRIu64 ", %s of transaction %" PRIu64 ": %s", c->h->lsn,
		         txn_rec_name(c->h->type), c->h->txid, what);
	else
		snprintf(line, sizeof(line), "LSN %" PRIu64 ", %s: %s", c->h->lsn, txn_rec_name(c->h->type), what);
	report(c, line);
}

/* Does recovery read the record being visited? Only then its place among the others matters. */
static bool counts(const struct check *c)
{
	return c->h->lsn >= c->scan;
}

/* ---- transactions ---- */

static struct check_txn *txn_of(struct check *c, uint64_t id, bool *fresh)
{
	struct check_txn *t;

	HASH_FIND(hh, c->txns, &id, sizeof(id), t);
	*fresh = !t;
	if (t)
		return t;
	t = calloc(1, sizeof(*t));
	if (!t)
		goto nomem;
	t->id = id;
	HASH_ADD(hh, c->txns, id, sizeof(t->id), t);
	if (t->hh.tbl)
		return t;
	free(t);
nomem:
	c->err = -ENOMEM;
	return NULL;
}

static bool has_lsn(const struct check_txn *t, uint64_t lsn)
{
	size_t lo = 0, hi = t->lsns.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (t->lsns.v[mid] < lsn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < t->lsns.n && t->lsns.v[lo] == lsn;
}

static void declare(struct check *c, struct check_txn *t, uint64_t oid)
{
	struct check_oid *o;

	HASH_FIND(hh, t->oids, &oid, sizeof(oid), o);
	if (o)
		return;
	o = calloc(1, sizeof(*o));
	if (o) {
		o->oid = oid;
		HASH_ADD(hh, t->oids, oid, sizeof(o->oid), o);
		if (o->hh.tbl)
			return;
		free(o);
	}
	c->err = -ENOMEM;
}

/* 0 is no object. Nothing can be said of a transaction whose beginning was trimmed. */
static void used(struct check *c, const struct check_txn *t, uint64_t oid)
{
	struct check_oid *o;

	if (!oid || !t->first || !counts(c))
		return;
	HASH_FIND(hh, t->oids, &oid, sizeof(oid), o);
	if (!o)
		problem(c, "object %" PRIu64 " is used but was not declared", oid);
}

static void txn_forget(struct check_txn *t)
{
	struct check_oid *o, *tmp;

	HASH_ITER (hh, t->oids, o, tmp) {
		HASH_DEL(t->oids, o);
		free(o);
	}
	base_vec_free(&t->lsns);
}

/* ---- one record of a transaction ---- */

/* The first record of a transaction in this log, or the BEGIN of its copy. */
static void check_first(struct check *c, struct check_txn *t, bool opens)
{
	const struct wal_rec *h = c->h;

	if (opens) {
		t->before_first = t->prepared ? t->whole_first : t->first;
		t->before_last = t->prepared ? t->whole_last : t->last;
		t->first = h->lsn;
		if (h->prev && h->prev != t->before_last && counts(c))
			problem(c, "it is the first one, but names LSN %" PRIu64 " as the one before it", h->prev);
		return;
	}
	t->cut = *h; /* is it needed? Its end tells */
}

/* The beginning of a transaction was trimmed although recovery would need it. */
static void check_cut(struct check *c, const struct check_txn *t)
{
	const struct wal_rec *h = c->h;

	if (t->first || !t->cut.lsn)
		return;
	c->h = &t->cut;
	problem(c, "the records before it are missing (it names LSN %" PRIu64 ", the log begins at LSN %" PRIu64 ")",
	        t->cut.prev, c->begin);
	c->h = h;
}

static void check_chain(struct check *c, struct check_txn *t)
{
	if (c->h->prev == t->last)
		return;
	if (t->before_last && c->h->prev == t->before_last) {
		/* The copy was never completed. */
		t->first = t->before_first;
		t->before_first = t->before_last = 0;
		return;
	}
	if (counts(c))
		problem(c, "it names LSN %" PRIu64 " as the one before it, but that is LSN %" PRIu64, c->h->prev,
		        t->last);
}

static void check_clr(struct check *c, const struct check_txn *t, const struct txn_rec_clr *clr)
{
	if (!t->first || !counts(c))
		return;
	if (!has_lsn(t, clr->undone) || clr->undone == c->h->lsn)
		problem(c, "it undoes LSN %" PRIu64 ", which is no record of the transaction", clr->undone);
	if (clr->next && !has_lsn(t, clr->next))
		problem(c, "it goes on at LSN %" PRIu64 ", which is no record of the transaction", clr->next);
}

static void check_end(struct check *c, struct check_txn *t, enum check_state next)
{
	/* Nobody needs what was rolled back, or was home before the checkpoint. */
	if (next == COMMITTED && c->h->lsn >= c->clean)
		check_cut(c, t);
	t->state = next;
}

static void check_type(struct check *c, struct check_txn *t, const struct txn_rec *rec)
{
	switch (rec->type) {
	case TXN_REC_OBJECT:
		declare(c, t, rec->u.object.oid);
		break;
	case TXN_REC_WRITE:
		used(c, t, rec->u.write.oid);
		break;
	case TXN_REC_SIZE:
		used(c, t, rec->u.size.oid);
		break;
	case TXN_REC_ATTR:
		used(c, t, rec->u.attr.oid);
		break;
	case TXN_REC_XATTR:
		used(c, t, rec->u.xattr.oid);
		break;
	case TXN_REC_NAME:
		for (uint32_t i = 0; i < rec->u.name.count; i++) {
			used(c, t, rec->u.name.op[i].dir);
			used(c, t, rec->u.name.op[i].before);
			used(c, t, rec->u.name.op[i].after);
		}
		break;
	case TXN_REC_CLR:
		check_clr(c, t, &rec->u.clr);
		break;
	case TXN_REC_PREPARE:
		if (t->first && rec->u.prepare.first != t->first && counts(c))
			problem(c, "it says that LSN %" PRIu64 " is the first record, but that is LSN %" PRIu64,
			        rec->u.prepare.first, t->first);
		t->prepared = true;
		t->whole_first = t->first;
		t->whole_last = c->h->lsn;
		break;
	case TXN_REC_COMMIT:
		if (t->first && rec->u.commit.first != t->first && counts(c))
			problem(c, "it says that LSN %" PRIu64 " is the first record, but that is LSN %" PRIu64,
			        rec->u.commit.first, t->first);
		check_end(c, t, COMMITTED);
		break;
	case TXN_REC_ABORT:
		check_end(c, t, ABORTED);
		break;
	case TXN_REC_END:
		if (t->first && t->state == OPEN && counts(c))
			problem(c, "the transaction was neither committed nor rolled back");
		check_end(c, t, ENDED);
		break;
	default:
		break;
	}
}

static void check_member(struct check *c, const struct txn_rec *rec)
{
	const struct wal_rec *h = c->h;
	bool opens = rec->type == TXN_REC_BEGIN;
	struct check_txn *t;
	bool fresh;

	t = txn_of(c, h->txid, &fresh);
	if (!t || base_vec_push(&t->lsns, h->lsn)) {
		c->err = -ENOMEM;
		return;
	}
	if (!fresh && t->state != OPEN && counts(c) && (rec->type != TXN_REC_END || t->state == ENDED))
		problem(c, "the transaction has been %s already", state_names[t->state]);
	if (!fresh && t->prepared && rec->type != TXN_REC_COMMIT && rec->type != TXN_REC_ABORT && rec->type != TXN_REC_END &&
	    !(h->flags & WAL_CARRIED) && counts(c))
		problem(c, "the transaction has been prepared already");
	if (!fresh && opens && !(h->flags & WAL_CARRIED) && counts(c))
		problem(c, "the transaction has begun already");
	if (fresh || opens)
		check_first(c, t, opens);
	else
		check_chain(c, t);
	t->last = h->lsn;
	check_type(c, t, rec);
}

/* ---- the log ---- */

static int find_checkpoint(void *arg, const struct wal_rec *h, const void *payload)
{
	struct check *c = arg;
	struct txn_rec rec;

	c->out->clean = false;
	if (h->type != TXN_REC_CHECKPOINT || txn_rec_decode(h, payload, &rec))
		return 0;
	c->checkpoint = h->lsn;
	c->scan = rec.u.checkpoint.scan;
	c->clean = rec.u.checkpoint.clean;
	c->out->clean = rec.u.checkpoint.shutdown;
	return 0;
}

static void check_checkpoint(struct check *c, const struct txn_rec_checkpoint *cp)
{
	if (cp->clean > c->h->lsn)
		problem(c, "it calls LSN %" PRIu64 " durable at home, which lies behind it", cp->clean);
	if (cp->scan > c->h->lsn)
		problem(c, "recovery would start at LSN %" PRIu64 ", which lies behind it", cp->scan);
	if (c->h->lsn == c->checkpoint && cp->scan && cp->scan < c->begin)
		problem(c, "recovery would start at LSN %" PRIu64 ", but the log begins at LSN %" PRIu64, cp->scan,
		        c->begin);
}

static int check_record(void *arg, const struct wal_rec *h, const void *payload)
{
	struct check *c = arg;
	struct txn_rec rec;

	c->h = h;
	c->out->records++;
	c->out->bytes += wal_record_size(h->len);
	if (txn_rec_decode(h, payload, &rec)) {
		problem(c, "type %u with %" PRIu32 " bytes is not valid", h->type, h->len);
		goto out;
	}
	if (rec.type == TXN_REC_WRITE && rec.u.write.stolen)
		problem(c, "it is one that only a newer version understands");
	if (rec.type == TXN_REC_CHECKPOINT)
		check_checkpoint(c, &rec.u.checkpoint);
	else if (h->txid)
		check_member(c, &rec);
	else if (rec.type != TXN_REC_BIND)
		problem(c, "it belongs to no transaction");
out:
	c->h = NULL;
	return c->err;
}

static void end_transactions(struct check *c)
{
	struct check_txn *t, *tmp;

	HASH_ITER (hh, c->txns, t, tmp) {
		if (t->state == OPEN && t->last >= c->scan) {
			++*(t->prepared ? &c->out->in_doubt : &c->out->live_transactions);
			/* It might have gone on; but not what a checkpoint did not count as open any more: a crash had ended it. */
			if (t->cut.prev >= c->scan || t->last > c->checkpoint)
				check_cut(c, t);
		}
		HASH_DEL(c->txns, t);
		txn_forget(t);
		free(t);
	}
}

static int check_log(struct check *c, struct wal *wal)
{
	struct wal_stats st;
	int r;

	c->begin = wal_begin(wal);
	r = wal_scan(wal, 0, find_checkpoint, NULL, c, NULL);
	if (!r)
		r = wal_scan(wal, 0, check_record, NULL, c, NULL);
	/* Only the first segment of all can be without one: in front of another a checkpoint has been. */
	if (!r && !c->checkpoint && c->begin > wal_segment_size(wal))
		problem(c, "the log's beginning is missing: it begins at LSN %" PRIu64 ", without a checkpoint",
		        c->begin);
	if (r && r != -ENOMEM)
		report(c, *wal_error_text(wal) ? wal_error_text(wal) : strerror(-r));
	wal_stats(wal, &st);
	c->out->segments = st.segments;
	end_transactions(c);
	return r == -EUCLEAN ? 0 : r; /* it has been told; go on with the rest */
}

/* ---- the state directory ---- */

static int count_entry(void *arg, const struct store_dirent *de)
{
	(void)de;
	++*(uint64_t *)arg;
	return 0;
}

static int check_dir(struct check *c, struct store *store, struct store_obj *dir, const char *name, uint64_t *n)
{
	int r = store->ops->readdir(dir, count_entry, n);

	if (r)
		problem(c, "the state directory's %s cannot be read: %s", name, strerror(-r));
	return r;
}

int txn_check(struct store *store, const struct os *os, int wal_dirfd, struct txn_check *out,
              void (*fn)(void *arg, const char *line), void *arg)
{
	struct check c = {.out = out, .fn = fn, .arg = arg};
	struct wal *wal;
	int r, dirs;

	*out = (struct txn_check){0};
	r = wal_open(os, wal_dirfd, &(struct wal_options){.read_only = true}, &wal);
	if (!r) {
		r = check_log(&c, wal);
		wal_close(wal);
	} else if (r == -ENOENT && store->sealed) {
		problem(&c, "the log is missing: there is no segment");
		r = 0;
	} else if (r == -ENOENT) {
		/* Made, but never used: nothing to recover. */
		out->clean = true;
		r = 0;
	} else {
		problem(&c, "the log cannot be opened: %s", strerror(-r));
	}
	dirs = check_dir(&c, store, store->ops->stage(store), "stage", &out->staged);
	if (!dirs)
		dirs = check_dir(&c, store, store->ops->trash(store), "trash", &out->trashed);
	if (!r)
		r = dirs;
	if (!r && c.wrong)
		r = -EUCLEAN;
	return r;
}
