/*
 * bad_bytes_log.h - what a log says when it is whole, damage, and what has to come of it.
 *
 * log_parse reads the files as SPEC.md, "Scanning", says, with nothing of the reader's code but the checksums. expect()
 * follows the same page: which damage is to be refused, and where; which is a torn tail, and what is left then.
 */
#ifndef TXNFS_BAD_BYTES_LOG_H
#define TXNFS_BAD_BYTES_LOG_H

#include "tests/bad_bytes_kit.h"
#include "txn/rec.h"

#include <endian.h>

#define LOG_SEG WAL_SEGMENT_MIN
#define LOG_SEGS_MAX 16
#define LOG_RECS_MAX 512

struct log_seg {
	char name[17];
	uint64_t number, salt, prev_end, durable;
	uint8_t *bytes;
};

struct log_rec {
	uint64_t lsn, size, txid, durable;
	unsigned type; /* 0: a pad */
};

struct log {
	struct log_seg segs[LOG_SEGS_MAX];
	size_t nsegs;
	struct log_rec recs[LOG_RECS_MAX];
	size_t nrecs;
	uint64_t end;
};

/* ---- files of the log, on any disk ---- */

UNUSED static void log_put(struct bb_disk *d, const char *name, const void *p, size_t n, uint64_t off)
{
	struct iovec iov = {(void *)(uintptr_t)p, n};
	int fd = d->os->openat(d->os->ctx, d->wal, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	BB_CHECK(fd >= 0 && !os_pwritev_full(d->os, fd, &iov, 1, off), "writing to %s", name);
	d->os->close(d->os->ctx, fd);
}

UNUSED static void log_cut(struct bb_disk *d, const char *name, uint64_t size)
{
	int fd = d->os->openat(d->os->ctx, d->wal, name, O_RDWR | O_CLOEXEC, 0);

	BB_CHECK(fd >= 0 && !d->os->ftruncate(d->os->ctx, fd, size), "cutting %s", name);
	d->os->close(d->os->ctx, fd);
}

static inline int log_name(void *arg, const char *name)
{
	struct log *log = arg;
	struct log_seg *s = &log->segs[log->nsegs];

	if (strlen(name) != 16 || strspn(name, "0123456789abcdef") != 16)
		return 0;
	BB_CHECK(log->nsegs < LOG_SEGS_MAX, "too many segments");
	memcpy(s->name, name, 17);
	s->number = strtoull(name, NULL, 16);
	log->nsegs++;
	return 0;
}

static inline int log_by_number(const void *a, const void *b)
{
	const struct log_seg *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static inline uint64_t log_u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* ---- reading ---- */

static inline struct log_seg *log_seg(struct log *log, uint64_t number)
{
	for (size_t i = 0; i < log->nsegs; i++)
		if (log->segs[i].number == number)
			return &log->segs[i];
	return NULL;
}

/* The first segment above this one that begins a life. */
static inline struct log_seg *log_next_life(struct log *log, uint64_t number)
{
	for (size_t i = 0; i < log->nsegs; i++)
		if (log->segs[i].number > number && log->segs[i].prev_end)
			return &log->segs[i];
	return NULL;
}

static inline void log_walk(struct log *log)
{
	struct log_seg *s = &log->segs[0];
	uint64_t pos = s->number * LOG_SEG + WAL_SEGMENT_HEADER;

	while (s) {
		struct log_seg *life = log_next_life(log, s->number);
		uint64_t at = pos - s->number * LOG_SEG;
		const void *payload;
		struct wal_rec rec;
		ssize_t n;

		log->end = pos;
		if (life && life->prev_end <= pos) {
			s = life;
			pos = s->number * LOG_SEG + WAL_SEGMENT_HEADER;
			continue;
		}
		n = LOG_SEG - at < WAL_RECORD_HEADER
		            ? 0
		            : wal_decode(s->bytes + at, LOG_SEG - at, pos, s->salt, &rec, &payload);
		if (n < 0)
			return;
		if (n) {
			BB_CHECK(log->nrecs < LOG_RECS_MAX, "too many records");
			log->recs[log->nrecs++] = (struct log_rec){pos, (uint64_t)n, rec.txid, rec.durable, rec.type};
			pos += (uint64_t)n;
		}
		if (!n || rec.type == 0) {
			s = log_seg(log, s->number + 1);
			pos = s ? s->number * LOG_SEG + WAL_SEGMENT_HEADER : pos;
		}
	}
}

UNUSED static void log_parse(struct bb_disk *d, struct log *log)
{
	*log = (struct log){.nsegs = 0};
	d->os->list(d->os->ctx, d->wal, log_name, log);
	BB_CHECK(log->nsegs, "there is no log");
	qsort(log->segs, log->nsegs, sizeof(log->segs[0]), log_by_number);
	for (size_t i = 0; i < log->nsegs; i++) {
		struct log_seg *s = &log->segs[i];
		int fd = d->os->openat(d->os->ctx, d->wal, s->name, O_RDONLY | O_CLOEXEC, 0);

		s->bytes = malloc(LOG_SEG);
		BB_CHECK(fd >= 0 && s->bytes && !os_pread_full(d->os, fd, s->bytes, LOG_SEG, 0), "reading %s", s->name);
		d->os->close(d->os->ctx, fd);
		s->salt = log_u64(s->bytes + 32);
		s->prev_end = log_u64(s->bytes + 40);
		s->durable = log_u64(s->bytes + 48);
	}
	log_walk(log);
}

UNUSED static void log_free(struct log *log)
{
	for (size_t i = 0; i < log->nsegs; i++)
		free(log->segs[i].bytes);
	*log = (struct log){.nsegs = 0};
}

UNUSED static unsigned log_commits(const struct log *log, uint64_t below)
{
	unsigned n = 0;

	for (size_t i = 0; i < log->nrecs; i++)
		n += log->recs[i].type == TXN_REC_COMMIT && log->recs[i].lsn < below;
	return n;
}

/* ---- damage ---- */

enum damage_kind {
	FLIP, /* the byte at off, by XOR with value */
	ZERO, /* from off to the end of the file */
	CUT,  /* the file ends at off */
	GONE, /* the file */
	SWAP, /* its name and segment value's are exchanged */
	COPY, /* segment value is a copy of it */
	DAMAGES
};

static const char *const damage_names[DAMAGES] = {"flip", "zero", "cut", "gone", "swap", "copy"};

struct damage {
	enum damage_kind kind;
	uint64_t segment, off, value;
};

static inline void log_file_name(uint64_t number, char name[17])
{
	snprintf(name, 17, "%016" PRIx64, number);
}

UNUSED static void inflict(struct bb_disk *d, struct log *log, const struct damage *dm)
{
	static const uint8_t zeros[LOG_SEG];
	struct log_seg *s = log_seg(log, dm->segment), *t;
	char name[17];
	uint8_t byte;

	BB_CHECK(s, "there is no such segment");
	switch (dm->kind) {
	case FLIP:
		byte = s->bytes[dm->off] ^ (uint8_t)dm->value;
		log_put(d, s->name, &byte, 1, dm->off);
		break;
	case ZERO:
		log_put(d, s->name, zeros, LOG_SEG - dm->off, dm->off);
		break;
	case CUT:
		log_cut(d, s->name, dm->off);
		break;
	case GONE:
		d->os->unlinkat(d->os->ctx, d->wal, s->name);
		break;
	case SWAP:
		t = log_seg(log, dm->value);
		BB_CHECK(t, "there is no such segment");
		log_put(d, s->name, t->bytes, LOG_SEG, 0);
		log_put(d, t->name, s->bytes, LOG_SEG, 0);
		break;
	case COPY:
		log_file_name(dm->value, name);
		log_put(d, name, s->bytes, LOG_SEG, 0);
		break;
	default:
		break;
	}
}

/* ---- what has to come of it ---- */

struct verdict {
	bool refuse;
	uint64_t lsn;     /* of the damaged record that the refusal names; 0: another reason */
	uint64_t segment; /* that the refusal names; 0: not a certain one */
	uint64_t end;     /* else: where the log ends */
};

/* Does the damage change a byte of [lsn, lsn + size)? */
static inline bool hits(struct log *log, const struct damage *dm, const struct log_rec *rec)
{
	uint64_t at = rec->lsn % LOG_SEG;
	struct log_seg *s = log_seg(log, dm->segment);

	if (rec->lsn / LOG_SEG != dm->segment)
		return false;
	if (dm->kind == FLIP)
		return dm->off >= at && dm->off < at + rec->size;
	for (uint64_t i = base_max_u64(at, dm->off); i < at + rec->size; i++)
		if (s->bytes[i])
			return true;
	return false;
}

static inline struct verdict expect_bytes(struct log *log, const struct damage *dm)
{
	const struct log_rec *hit = NULL;
	struct verdict no = {.refuse = false, .end = log->end}, yes = {.refuse = true, .segment = dm->segment};

	if (dm->kind == CUT)
		return dm->off < LOG_SEG ? yes : no;
	for (uint64_t i = dm->off; i < WAL_SEGMENT_HEADER; i++)
		if (dm->kind == FLIP || log_seg(log, dm->segment)->bytes[i])
			return yes;
	for (size_t i = 0; i < log->nrecs && !hit; i++)
		hit = hits(log, dm, &log->recs[i]) ? &log->recs[i] : NULL;
	if (!hit)
		return no;
	yes.lsn = no.end = hit->lsn;
	for (size_t i = 0; i < log->nsegs; i++)
		if (log->segs[i].durable > hit->lsn || log->segs[i].prev_end > hit->lsn)
			return yes;
	for (size_t i = 0; i < log->nrecs; i++)
		if (log->recs[i].lsn > hit->lsn && log->recs[i].durable > hit->lsn && !hits(log, dm, &log->recs[i]))
			return yes;
	return no;
}

UNUSED static struct verdict expect(struct log *log, const struct damage *dm)
{
	struct verdict yes = {.refuse = true}, no = {.refuse = false, .end = log->end};

	switch (dm->kind) {
	case GONE:
		/* Of the last one nobody knows, and nobody needs it, as long as nothing was in it. */
		return dm->segment == log->segs[log->nsegs - 1].number && log->end <= dm->segment * LOG_SEG ? no : yes;
	case SWAP:
		return yes;
	case COPY:
		yes.segment = dm->value;
		return yes;
	default:
		return expect_bytes(log, dm);
	}
}

#endif
