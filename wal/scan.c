/*
 * scan.c - visiting records, finding the end of the log, telling a torn tail from damage.
 *
 * Power loss may persist unforced records in any order, so a good record behind a bad one is no proof of damage. It is
 * one only when something says that the bad one had been durable: a good later record or a segment header whose
 * `durable` is above it, or the start of a later life, whose `prev_end` says how far the log was good and was forced.
 *
 * The scan of a tool may run while another process writes. What looks like damage is then looked at again, after
 * reading the directory anew: a record that was being written is whole by now, a segment that was recycled is gone.
 */
#include "wal/private.h"

#include <string.h>

#define LOOKS_MAX 4

struct scan {
	struct wal *wal;
	struct wal_seghdr seg; /* the segment in buf */
	uint64_t life_end;     /* where the life ends, says the segment of the next one; UINT64_MAX: it is the last */
	uint64_t next_life;    /* that segment */
	uint8_t *buf;
	uint64_t pos;
	uint64_t limit;        /* a started log ends here; else UINT64_MAX */
	uint64_t claimed;      /* everything below was durable, say the segment headers */
	uint64_t suspect;      /* read only: the place that is being looked at again */
	int looks;             /* how often */
	uint64_t last_durable; /* newest durable LSN that a record tells */
	wal_progress *progress;
	void *arg;
};

/* Copy of the header of the first segment with at least this number, or, with life, of the first that begins a life. */
static bool find_segment(struct scan *s, uint64_t number, bool life, struct wal_seghdr *h)
{
	struct wal *wal = s->wal;
	bool found = false;

	pthread_mutex_lock(&wal->lock);
	for (size_t i = wal_seg_index(wal, number); i < wal->nsegs && !found; i++) {
		*h = wal->segs[i]->h;
		found = !life || h->prev_end != 0;
	}
	pthread_mutex_unlock(&wal->lock);
	return found;
}

/* Read a segment into buf; bytes that the file lacks are zeros. */
static int load(struct scan *s, uint64_t number)
{
	struct wal *wal = s->wal;
	struct wal_segment *seg = NULL;
	size_t done = 0, i;
	ssize_t n;
	int r = -ENOENT;

	pthread_mutex_lock(&wal->lock);
	i = wal_seg_index(wal, number);
	if (i < wal->nsegs && wal->segs[i]->h.number == number) {
		seg = wal->segs[i];
		r = wal_seg_get(wal, seg);
	}
	pthread_mutex_unlock(&wal->lock);
	if (r == -ENOENT && wal->read_only) {
		/* Recycled by the process that writes the log: nothing in it will check, so there is a second look. */
		memset(s->buf, 0, wal->segment_size);
		return 0;
	}
	if (r)
		return r;
	do {
		n = wal->os->pread(wal->os->ctx, seg->fd, s->buf + done, wal->segment_size - done, done);
		if (n > 0)
			done += (size_t)n;
	} while (n > 0 && done < wal->segment_size);
	pthread_mutex_lock(&wal->lock);
	wal_seg_put(wal, seg);
	pthread_mutex_unlock(&wal->lock);
	if (n < 0)
		return (int)n;
	memset(s->buf + done, 0, wal->segment_size - done);
	return 0;
}

static void report_progress(struct scan *s)
{
	struct wal *wal = s->wal;
	uint64_t first, last;

	if (!s->progress)
		return;
	pthread_mutex_lock(&wal->lock);
	first = wal->nsegs ? wal_seg_start(wal, wal->segs[0]->h.number) : s->pos;
	last = wal->nsegs ? wal_seg_end(wal, wal->segs[wal->nsegs - 1]->h.number) : s->pos;
	pthread_mutex_unlock(&wal->lock);
	s->progress(s->arg, s->pos > first ? s->pos - first : 0, last - first);
}

/* Go on at the start of the given segment. */
static int enter(struct scan *s, const struct wal_seghdr *h)
{
	struct wal_seghdr life;
	bool found;
	int r;

	/* A segment whose own header is bad is not in the table; what lies behind it is out of reach. */
	if (h->number >= s->wal->trouble_number)
		return s->wal->trouble;
	r = load(s, h->number);
	if (r) {
		wal_trouble(s->wal, r, h->number, "it cannot be read (%s)", strerror(-r));
		return r;
	}
	s->seg = *h;
	found = find_segment(s, h->number + 1, true, &life);
	s->life_end = found ? life.prev_end : UINT64_MAX;
	s->next_life = found ? life.number : 0;
	s->pos = wal_seg_start(s->wal, h->number) + WAL_SEGMENT_HEADER;
	report_progress(s);
	return 0;
}

/*
 * *witness: LSN of a good record behind s->pos that was written when s->pos was durable already; 0: none. Spoils buf.
 * What cannot be read could hold one: that is an error.
 */
static int find_witness(struct scan *s, uint64_t *witness)
{
	struct wal *wal = s->wal;
	struct wal_seghdr h = s->seg;
	uint64_t at = s->pos + 8;
	int r;

	*witness = 0;
	for (;;) {
		uint64_t start = wal_seg_start(wal, h.number), end = wal_seg_end(wal, h.number);

		for (; at + WAL_RECORD_HEADER <= end; at += 8) {
			const uint8_t *p = s->buf + (at - start);
			struct wal_rec rec;
			const void *payload;

			if (wal_record_plausible(p, end - at, at) &&
			    wal_decode(p, end - at, at, h.salt, &rec, &payload) > 0 && rec.durable > s->pos) {
				*witness = at;
				return 0;
			}
		}
		if (!find_segment(s, h.number + 1, false, &h))
			return 0;
		r = load(s, h.number);
		if (r) {
			wal_trouble(wal, r, h.number, "it cannot be read (%s)", strerror(-r));
			return r;
		}
		at = wal_seg_start(wal, h.number) + WAL_SEGMENT_HEADER;
	}
}

/*
 * Read only: look again at what seems damaged. 0: go on from s->pos; else it has been looked at often enough.
 */
static int look_again(struct scan *s)
{
	struct wal *wal = s->wal;
	struct wal_seghdr h;
	uint64_t pos = s->pos;

	s->looks = s->suspect == pos ? s->looks + 1 : 1;
	s->suspect = pos;
	if (!wal->read_only || s->looks > LOOKS_MAX)
		return -EUCLEAN;
	if (wal_seg_load(wal) != 0 || !find_segment(s, pos / wal->segment_size, false, &h) || enter(s, &h) != 0)
		return -EUCLEAN;
	/* Its segment was recycled meanwhile: go on with the oldest one that is left. */
	s->pos = base_max_u64(s->pos, pos);
	return 0;
}

/* The record at s->pos does not check. *done: the log ends here. */
static int at_invalid(struct scan *s, bool *done)
{
	uint64_t pos = s->pos, witness;
	int r;

	*done = false;
	if (pos < s->claimed || s->limit != UINT64_MAX) {
		if (look_again(s) == 0)
			return 0;
		wal_trouble(s->wal, -EUCLEAN, pos / s->wal->segment_size,
		            "the record at LSN %#" PRIx64 " is damaged, though the log had been durable up to LSN"
		            " %#" PRIx64,
		            pos, s->limit != UINT64_MAX ? s->limit : s->claimed);
		return -EUCLEAN;
	}
	r = find_witness(s, &witness);
	if (r)
		return r;
	if (witness) {
		if (look_again(s) == 0)
			return 0;
		wal_trouble(s->wal, -EUCLEAN, pos / s->wal->segment_size,
		            "the record at LSN %#" PRIx64 " is damaged, though the later one at LSN %#" PRIx64
		            " was written when it had been durable",
		            pos, witness);
		return -EUCLEAN;
	}
	*done = true;
	return 0;
}

/* The segment is over. padded: a record says so, which is written only when the next segment is durable. */
static int next_segment(struct scan *s, bool padded, bool *done)
{
	struct wal_seghdr h;
	uint64_t number = s->seg.number;
	bool found = find_segment(s, number + 1, false, &h);

	*done = false;
	if (found && h.number == number + 1 && h.prev_end == 0)
		return enter(s, &h);
	if (s->wal->trouble && s->wal->trouble_number <= number + 1)
		return s->wal->trouble;
	if (!found && !padded) {
		*done = true;
		return 0;
	}
	if (look_again(s) == 0)
		return 0;
	wal_trouble(s->wal, -EUCLEAN, number + 1, "the file is missing, though the log goes on in it");
	return -EUCLEAN;
}

static void read_claims(struct scan *s)
{
	struct wal *wal = s->wal;

	pthread_mutex_lock(&wal->lock);
	for (size_t i = 0; i < wal->nsegs; i++) {
		const struct wal_seghdr *h = &wal->segs[i]->h;

		s->claimed = base_max_u64(s->claimed, base_max_u64(h->durable, h->prev_end));
	}
	if (wal->started)
		s->limit = wal->end;
	pthread_mutex_unlock(&wal->lock);
}

static int scan_run(struct scan *s, uint64_t from, wal_visit *fn)
{
	struct wal *wal = s->wal;
	bool done = false;
	int r = 0;

	while (!done) {
		uint64_t start = wal_seg_start(wal, s->seg.number), end = wal_seg_end(wal, s->seg.number);
		struct wal_seghdr next;
		struct wal_rec rec;
		const void *payload;
		ssize_t n;

		/* Also when the life ended before this segment: then nothing in it ever counted. */
		if (s->life_end <= s->pos) {
			r = find_segment(s, s->next_life, false, &next) ? enter(s, &next) : -ENOENT;
			if (r)
				return r;
			continue;
		}
		if (s->pos >= s->limit)
			break;
		if (end - s->pos < WAL_RECORD_HEADER) {
			r = next_segment(s, false, &done);
			if (r)
				return r;
			continue;
		}
		end = base_min_u64(end, s->life_end);
		n = wal_decode(s->buf + (s->pos - start), end - s->pos, s->pos, s->seg.salt, &rec, &payload);
		if (n < 0) {
			r = at_invalid(s, &done);
			if (r)
				return r;
			continue;
		}
		s->last_durable = base_max_u64(s->last_durable, rec.durable);
		if (rec.type == WAL_TYPE_PAD) {
			r = next_segment(s, true, &done);
			if (r)
				return r;
			continue;
		}
		if (rec.lsn >= from) {
			r = fn(s->arg, &rec, payload);
			if (r)
				return r;
		}
		s->pos += (uint64_t)n;
	}
	/* A bad segment beyond a torn tail: its header had been durable, so something has damaged it. */
	return wal->trouble;
}

int wal_scan(struct wal *wal, uint64_t from, wal_visit *fn, wal_progress *progress, void *arg, uint64_t *end)
{
	struct scan s = { .wal = wal, .limit = UINT64_MAX, .progress = progress, .arg = arg };
	CLEANUP_FREE uint8_t *buf = NULL;
	struct wal_seghdr h;
	int r;

	buf = malloc(wal->segment_size);
	if (!buf)
		return -ENOMEM;
	s.buf = buf;
	read_claims(&s);
	if (!find_segment(&s, from / wal->segment_size, false, &h))
		return wal->trouble ? wal->trouble : -EINVAL;
	r = enter(&s, &h);
	if (r == 0)
		r = scan_run(&s, from, fn);
	if (r)
		return r;
	report_progress(&s);
	if (end)
		*end = s.pos;
	if (s.limit == UINT64_MAX) {
		wal->scanned = true;
		wal->scan_end = s.pos;
		wal->scan_number = s.seg.number;
		wal->scan_durable = base_max_u64(s.claimed, s.last_durable);
	}
	return 0;
}
