/* logdump.c - the log for people: every record decoded and described. */
#include "txn/txn.h"

#include "base/base.h"
#include "txn/rec.h"
#include "wal/wal.h"

#include <inttypes.h>
#include <string.h>

struct dump {
	int (*fn)(void *arg, const struct txn_log_line *line);
	void *arg;
	char *err;
	size_t errlen;
	bool told;                  /* err says what is wrong, or fn has stopped */
	struct base_buf text, json; /* kept from line to line for their memory */
};

static const char *buf_text(const struct base_buf *b)
{
	return b->n ? (const char *)b->p : "";
}

static int dump_record(void *arg, const struct wal_rec *h, const void *payload)
{
	struct dump *d = arg;
	struct txn_log_line line = {.lsn = h->lsn, .txid = h->txid, .prev = h->prev, .flags = h->flags};
	struct txn_rec rec;
	int r;

	r = txn_rec_decode(h, payload, &rec);
	if (r) {
		snprintf(d->err, d->errlen,
		         "the record at LSN %" PRIu64 " (type %u, %s, %" PRIu32 " bytes) is not valid", h->lsn, h->type,
		         txn_rec_name(h->type), h->len);
		d->told = true;
		return r;
	}
	d->text.n = d->json.n = 0;
	txn_rec_table[rec.type].describe(&rec, &d->text, &d->json);
	if (d->text.err || d->json.err)
		return -ENOMEM;
	line.type = txn_rec_name(h->type);
	line.text = buf_text(&d->text);
	line.json = buf_text(&d->json);
	r = d->fn(d->arg, &line);
	d->told = r != 0;
	return r;
}

int txn_log_each(const struct os *os, int wal_dirfd, int (*fn)(void *arg, const struct txn_log_line *line), void *arg,
                 char *err, size_t errlen)
{
	struct dump d = {.fn = fn, .arg = arg, .err = err, .errlen = errlen};
	struct wal *wal;
	int r;

	if (errlen)
		*err = '\0';
	r = wal_open(os, wal_dirfd, &(struct wal_options){.read_only = true}, &wal);
	if (r) {
		snprintf(err, errlen, "%s", r == -ENOENT ? "there is no log" : strerror(-r));
		return r;
	}
	r = wal_scan(wal, 0, dump_record, NULL, &d, NULL);
	if (r && !d.told)
		snprintf(err, errlen, "%s", *wal_error_text(wal) ? wal_error_text(wal) : strerror(-r));
	base_buf_free(&d.text);
	base_buf_free(&d.json);
	wal_close(wal);
	return r;
}
