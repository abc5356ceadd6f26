/* prepared_log.c - the prepared transactions of a log that nobody has open, for tools: recovery's analysis in small. */
#include "txn/txn.h"

#include "base/base.h"
#include "base/map.h"
#include "txn/rec.h"
#include "wal/wal.h"

#include <string.h>

struct seen {
	UT_hash_handle hh;
	uint64_t txid;
	struct base_vec recs, carried; /* that stand: of the chain that counts, of a copy that does not count yet */
	uint64_t carry_last;
	struct timespec time;
	uint32_t uid;
	char *gid; /* NULL: not prepared */
};

struct look {
	struct seen *open;
};

static void forget(struct look *lk, struct seen *s)
{
	HASH_DEL(lk->open, s);
	base_vec_free(&s->recs);
	base_vec_free(&s->carried);
	free(s->gid);
	free(s);
}

static struct seen *find(struct look *lk, uint64_t txid, bool make)
{
	struct seen *s;

	HASH_FIND(hh, lk->open, &txid, sizeof(txid), s);
	if (s || !make)
		return s;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->txid = txid;
	HASH_ADD(hh, lk->open, txid, sizeof(s->txid), s);
	if (s->hh.tbl)
		return s;
	free(s);
	return NULL;
}

static void copy_counts(struct seen *s)
{
	base_vec_free(&s->recs);
	s->recs = s->carried;
	s->carried = (struct base_vec){0};
	s->carry_last = 0;
}

static int visit(void *arg, const struct wal_rec *h, const void *payload)
{
	struct look *lk = arg;
	bool carried = h->flags & WAL_CARRIED;
	struct base_vec *chain;
	struct txn_rec rec;
	struct seen *s;
	int r = txn_rec_decode(h, payload, &rec);

	if (r || !h->txid)
		return r;
	s = find(lk, h->txid, rec.type == TXN_REC_BEGIN);
	if (!s)
		return rec.type == TXN_REC_BEGIN ? -ENOMEM : 0;
	if (carried && !h->prev)
		base_vec_free(&s->carried);
	if (!carried && s->carry_last && h->prev == s->carry_last)
		copy_counts(s);
	if (carried)
		s->carry_last = h->lsn;
	chain = carried ? &s->carried : &s->recs;
	switch (rec.type) {
	case TXN_REC_WRITE:
	case TXN_REC_SIZE:
	case TXN_REC_ATTR:
	case TXN_REC_XATTR:
	case TXN_REC_NAME:
		return base_vec_push(chain, h->lsn);
	case TXN_REC_CLR:
		while (chain->n && chain->v[chain->n - 1] > rec.u.clr.next)
			chain->n--;
		return 0;
	case TXN_REC_PREPARE:
		if (carried)
			copy_counts(s);
		free(s->gid);
		s->gid = strdup(rec.u.prepare.gid);
		s->uid = rec.u.prepare.uid;
		s->time = rec.u.prepare.time;
		return s->gid ? 0 : -ENOMEM;
	case TXN_REC_COMMIT:
	case TXN_REC_ABORT:
		forget(lk, s);
		return 0;
	default:
		return 0;
	}
}

static int by_time(const struct seen *a, const struct seen *b)
{
	if (base_timespec_before(&a->time, &b->time))
		return -1;
	return base_timespec_before(&b->time, &a->time);
}

int txn_log_prepared(const struct os *os, int wal_dirfd, int (*fn)(void *arg, const struct txn_prepared *p), void *arg,
                     char *err, size_t errlen)
{
	struct look lk = {0};
	struct seen *s, *tmp;
	struct wal *wal;
	int r;

	if (errlen)
		*err = '\0';
	r = wal_open(os, wal_dirfd, &(struct wal_options){.read_only = true}, &wal);
	if (r) {
		snprintf(err, errlen, "%s", r == -ENOENT ? "there is no log" : strerror(-r));
		return r;
	}
	r = wal_scan(wal, 0, visit, NULL, &lk, NULL);
	if (r)
		snprintf(err, errlen, "%s", *wal_error_text(wal) ? wal_error_text(wal) : strerror(-r));
	HASH_SRT(hh, lk.open, by_time);
	HASH_ITER (hh, lk.open, s, tmp) {
		struct txn_prepared p = {s->gid, s->uid, s->txid, s->recs.n, s->time};

		if (!r && s->gid)
			r = fn(arg, &p);
		forget(&lk, s);
	}
	wal_close(wal);
	return r;
}
