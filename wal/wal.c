/* wal.c - open, start, append, force, trim and read. */
#include "wal/private.h"

#include <endian.h>
#include <string.h>
#include <syslog.h>

int wal_open(const struct os *os, int dirfd, const struct wal_options *opt, struct wal **out)
{
	uint32_t size = opt->segment_size ? opt->segment_size : WAL_SEGMENT_DEFAULT;
	struct wal *wal;
	int r;

	if (size < WAL_SEGMENT_MIN || size > WAL_SEGMENT_MAX || size % 4096 != 0)
		return -EINVAL;
	wal = calloc(1, sizeof(*wal));
	if (!wal)
		return -ENOMEM;
	wal->os = os;
	wal->dir = dirfd;
	wal->read_only = opt->read_only;
	wal->segment_size = size;
	pthread_mutex_init(&wal->files, NULL);
	pthread_mutex_init(&wal->lock, NULL);
	pthread_cond_init(&wal->forced, NULL);
	base_cond_init(&wal->cold);

	r = wal_seg_load(wal);
	if (r)
		goto fail;
	if (wal->nsegs == 0 && !wal->trouble) {
		if (!opt->create || opt->read_only) {
			r = -ENOENT;
			goto fail;
		}
		pthread_mutex_lock(&wal->files);
		r = wal_seg_create(wal, 1, 0);
		pthread_mutex_unlock(&wal->files);
		if (r)
			goto fail;
		wal->fresh = true;
	}
	*out = wal;
	return 0;
fail:
	wal_close(wal);
	return r;
}

void wal_close(struct wal *wal)
{
	if (!wal)
		return;
	wal_seg_unload(wal);
	free(wal->segs);
	pthread_cond_destroy(&wal->forced);
	pthread_cond_destroy(&wal->cold);
	pthread_mutex_destroy(&wal->lock);
	pthread_mutex_destroy(&wal->files);
	free(wal);
}

/* lock held */
static size_t spares(const struct wal *wal)
{
	return wal->nsegs - wal_seg_index(wal, wal->cur->h.number) - 1;
}

/* files held */
static uint64_t next_number(const struct wal *wal)
{
	return wal->segs[wal->nsegs - 1]->h.number + 1;
}

/* Make spare segments until there are `want`. files and lock not held. */
static int ensure_spares(struct wal *wal, size_t want)
{
	size_t have;
	int r = 0;

	pthread_mutex_lock(&wal->files);
	for (;;) {
		pthread_mutex_lock(&wal->lock);
		have = spares(wal);
		pthread_mutex_unlock(&wal->lock);
		if (have >= want)
			break;
		r = wal_seg_create(wal, next_number(wal), 0);
		if (r)
			break;
	}
	pthread_mutex_unlock(&wal->files);
	return r;
}

/*
 * What the scan has found good may still be in the page cache only, after a kill of the process before us. The new
 * life's header vouches for all of it, so force it first. Before wal_start, thus without locks.
 */
static int force_previous_life(struct wal *wal)
{
	for (size_t i = 0; i < wal->nsegs; i++) {
		struct wal_segment *seg = wal->segs[i];
		int r;

		if (wal_seg_end(wal, seg->h.number) <= wal->scan_durable || seg->h.number > wal->scan_number)
			continue;
		r = wal_seg_get(wal, seg);
		if (r)
			return r;
		r = wal->os->fdatasync(wal->os->ctx, seg->fd);
		wal_seg_put(wal, seg);
		if (r)
			return r;
	}
	return 0;
}

/*
 * Segments behind the end of the previous life hold nothing, or records that were torn off. The newest becomes the
 * first of this life, which works on a full disk too; two are kept as spares and the rest is removed. Newest first:
 * so there is never a gap below a segment that does not begin a life.
 */
static int begin_life(struct wal *wal)
{
	struct wal_segment *last = wal->segs[wal->nsegs - 1];
	uint64_t number = next_number(wal);
	int r;

	if (last->h.number > wal->scan_number)
		r = wal_seg_recycle(wal, last, number, wal->scan_end);
	else
		r = wal_seg_create(wal, number, wal->scan_end);
	if (r)
		return r;
	wal->cur = wal->segs[wal->nsegs - 1];
	for (;;) {
		size_t i = wal_seg_index(wal, wal->cur->h.number);
		struct wal_segment *seg = i > 0 ? wal->segs[i - 1] : NULL;

		if (!seg || seg->h.number <= wal->scan_number)
			return 0;
		if (spares(wal) < WAL_SPARES_MAX)
			r = wal_seg_recycle(wal, seg, next_number(wal), 0);
		else
			r = wal_seg_drop(wal, seg);
		if (r)
			return r;
	}
}

int wal_start(struct wal *wal)
{
	const struct os *os = wal->os;
	int r;

	if (wal->read_only)
		return -EROFS;
	if (wal->trouble)
		return wal->trouble;
	if (!wal->scanned || wal->started)
		return -EINVAL;
	pthread_mutex_lock(&wal->files);
	/* A segment that was being made when a crash came. */
	r = os->unlinkat(os->ctx, wal->dir, WAL_TEMP_NAME);
	if (r && r != -ENOENT)
		goto out;
	r = force_previous_life(wal);
	if (r)
		goto out;
	wal->durable = wal->scan_end;
	if (wal->fresh)
		wal->cur = wal->segs[0];
	else
		r = begin_life(wal);
	if (r)
		goto out;
	/* Open from here on: what is not durable is not closed. */
	r = wal_seg_get(wal, wal->cur);
	if (r)
		goto out;
	wal_seg_put(wal, wal->cur);
	pthread_mutex_lock(&wal->lock);
	wal->end = wal->durable = wal_seg_start(wal, wal->cur->h.number) + WAL_SEGMENT_HEADER;
	wal->started = true;
	pthread_cond_signal(&wal->cold);
	pthread_mutex_unlock(&wal->lock);
out:
	pthread_mutex_unlock(&wal->files);
	/* On a full disk recovery must be able to run: without a spare only ordinary records are refused. */
	if (r == 0 && ensure_spares(wal, 1) != 0)
		base_log(LOG_WARNING, "no space for a spare log segment");
	return r;
}

/* Write at the log's end, which stays where it is. lock held. */
static int write_at_end(struct wal *wal, struct wal_rec *rec, struct iovec *iov, int iovcnt)
{
	static const uint8_t zeros[WAL_RECORD_HEADER];
	uint8_t header[WAL_RECORD_HEADER];
	struct iovec wipe = { (void *)(uintptr_t)zeros, sizeof(zeros) };
	uint64_t off = wal->end - wal_seg_start(wal, wal->cur->h.number);
	size_t pad = wal_record_size(rec->len) - WAL_RECORD_HEADER - rec->len;
	int r;

	rec->lsn = wal->end;
	rec->durable = wal->durable;
	wal_record_header(rec, wal->cur->h.salt, iov + 1, iovcnt, header);
	iov[0] = (struct iovec){ header, sizeof(header) };
	iov[iovcnt + 1] = (struct iovec){ (void *)(uintptr_t)zeros, pad };
	r = os_pwritev_full(wal->os, wal->cur->fd, iov, iovcnt + 2, off);
	/*
	 * The bytes may have arrived all the same: nobody shall find a record whose append has failed. Where it cannot be
	 * wiped out either, only the next recovery tells. What finds no space has not arrived whole.
	 */
	if (r && os_pwritev_full(wal->os, wal->cur->fd, &wipe, 1, off) != 0 && r != -ENOSPC && r != -EDQUOT)
		wal->failed = true;
	return r;
}

/* Leave the current segment for the first spare. lock held. */
static int next_segment(struct wal *wal)
{
	uint64_t left = wal_seg_end(wal, wal->cur->h.number) - wal->end;
	struct wal_segment *next = wal->segs[wal_seg_index(wal, wal->cur->h.number) + 1];
	int r = wal_seg_get(wal, next);

	if (r)
		return r;
	wal_seg_put(wal, next);
	if (left >= WAL_RECORD_HEADER) {
		struct wal_rec pad = { .type = WAL_TYPE_PAD };
		struct iovec iov[2];

		r = write_at_end(wal, &pad, iov, 0);
		if (r)
			return r;
	}
	wal->cur->written = wal->segment_size; /* or never will be */
	wal->cur = next;
	wal->end = wal_seg_start(wal, next->h.number) + WAL_SEGMENT_HEADER;
	return 0;
}

/*
 * Room for `size` bytes in the current segment, moving on if necessary, and a spare behind it unless control. lock
 * held, but released while a spare is made.
 */
static int make_room(struct wal *wal, size_t size, bool control)
{
	for (;;) {
		bool fits = size <= wal_seg_end(wal, wal->cur->h.number) - wal->end;
		size_t need = (size_t)!fits + (size_t)!control;
		int r = 0;

		if (wal->failed)
			return -EIO;
		if (spares(wal) < need) {
			pthread_mutex_unlock(&wal->lock);
			r = ensure_spares(wal, need);
			pthread_mutex_lock(&wal->lock);
		} else if (fits) {
			return 0;
		} else {
			r = next_segment(wal);
		}
		if (r)
			return r;
	}
}

int wal_append(struct wal *wal, struct wal_rec *rec, const struct iovec *payload, int iovcnt, bool control)
{
	struct iovec iov[WAL_MAX_IOV + 2];
	size_t len = 0, size;
	int r;

	if (iovcnt < 0 || iovcnt > WAL_MAX_IOV || rec->type == WAL_TYPE_PAD)
		return -EINVAL;
	for (int i = 0; i < iovcnt; i++) {
		iov[i + 1] = payload[i];
		if (payload[i].iov_len > WAL_MAX_PAYLOAD(wal->segment_size) - len)
			return -EMSGSIZE;
		len += payload[i].iov_len;
	}
	size = wal_record_size(len);
	rec->len = (uint32_t)len;

	pthread_mutex_lock(&wal->lock);
	r = wal->started ? make_room(wal, size, control) : -EINVAL;
	if (r == 0)
		r = write_at_end(wal, rec, iov, iovcnt);
	if (r == 0) {
		wal->end += size;
		wal->st.appends++;
		wal->st.bytes += size;
	}
	pthread_mutex_unlock(&wal->lock);
	return r;
}

/* fdatasync all segments that hold bytes in [from, to). lock held, released meanwhile. */
static int sync_range(struct wal *wal, uint64_t from, uint64_t to)
{
	uint64_t number = from / wal->segment_size;

	for (;;) {
		size_t i = wal_seg_index(wal, number);
		struct wal_segment *seg;
		int r;

		if (i == wal->nsegs || wal_seg_start(wal, wal->segs[i]->h.number) >= to)
			return 0;
		seg = wal->segs[i];
		number = seg->h.number + 1;
		r = wal_seg_get(wal, seg);
		if (r)
			return r;
		pthread_mutex_unlock(&wal->lock);
		r = wal->os->fdatasync(wal->os->ctx, seg->fd);
		pthread_mutex_lock(&wal->lock);
		wal_seg_put(wal, seg);
		if (r)
			return r;
	}
}

int wal_force(struct wal *wal, uint64_t lsn)
{
	uint64_t need;
	int r = 0;

	pthread_mutex_lock(&wal->lock);
	if (!wal->started) {
		pthread_mutex_unlock(&wal->lock);
		return -EINVAL;
	}
	wal->st.force_waits++;
	need = lsn < wal->end ? lsn + 1 : wal->end;
	/* Group commit: one leader forces for all who have appended; those who come meanwhile elect the next. */
	while (!wal->failed && wal->durable < need) {
		uint64_t target = wal->end;

		if (wal->forcing) {
			pthread_cond_wait(&wal->forced, &wal->lock);
			continue;
		}
		wal->forcing = true;
		r = sync_range(wal, wal->durable, target);
		wal->forcing = false;
		wal->st.forces++;
		if (r) {
			/* The kernel may have dropped the dirty pages: a later success would prove nothing. */
			wal->failed = true;
			base_log(LOG_ERR, "forcing the log failed: %s", strerror(-r));
		} else {
			wal->durable = target;
		}
		pthread_cond_broadcast(&wal->forced);
	}
	r = wal->failed && wal->durable < need ? -EIO : 0;
	pthread_mutex_unlock(&wal->lock);
	return r;
}

int wal_trim(struct wal *wal, uint64_t keep)
{
	int r = 0;

	pthread_mutex_lock(&wal->files);
	while (r == 0) {
		struct wal_segment *seg;
		bool recycle, stop;

		pthread_mutex_lock(&wal->lock);
		if (!wal->started || wal->failed) {
			pthread_mutex_unlock(&wal->lock);
			r = wal->failed ? -EIO : -EINVAL;
			break;
		}
		seg = wal->segs[0];
		stop = seg == wal->cur || wal_seg_end(wal, seg->h.number) > keep;
		recycle = spares(wal) < WAL_SPARES_MAX;
		pthread_mutex_unlock(&wal->lock);
		if (stop)
			break;
		r = recycle ? wal_seg_recycle(wal, seg, next_number(wal), 0) : 1;
		if (r == 1)
			r = wal_seg_drop(wal, seg);
	}
	pthread_mutex_unlock(&wal->files);
	return r;
}

/* lock held. The segment that holds [pos, pos + n) below the header, or NULL. */
static struct wal_segment *segment_of(struct wal *wal, uint64_t pos, uint64_t n)
{
	size_t i = wal_seg_index(wal, pos / wal->segment_size);
	uint64_t in = pos % wal->segment_size;

	if (i == wal->nsegs || wal->segs[i]->h.number != pos / wal->segment_size || in < WAL_SEGMENT_HEADER ||
	    n > wal->segment_size - in || (wal->started && pos + n > wal->end))
		return NULL;
	return wal->segs[i];
}

static int read_at(struct wal *wal, uint64_t pos, void *buf, size_t n, uint64_t *salt)
{
	struct wal_segment *seg;
	int r;

	pthread_mutex_lock(&wal->lock);
	seg = segment_of(wal, pos, n);
	r = seg ? wal_seg_get(wal, seg) : -EINVAL;
	pthread_mutex_unlock(&wal->lock);
	if (r)
		return r;
	*salt = seg->h.salt;
	r = os_pread_full(wal->os, seg->fd, buf, n, pos % wal->segment_size);
	pthread_mutex_lock(&wal->lock);
	wal_seg_put(wal, seg);
	pthread_mutex_unlock(&wal->lock);
	return r;
}

int wal_read(struct wal *wal, uint64_t pos, void *buf, size_t n)
{
	uint64_t salt;

	return read_at(wal, pos, buf, n, &salt);
}

int wal_read_rec(struct wal *wal, uint64_t lsn, struct wal_rec *rec, void **payload)
{
	struct wal_disk_record d;
	CLEANUP_FREE uint8_t *raw = NULL;
	const void *in_raw;
	uint64_t salt;
	size_t len, size;
	int r;

	r = read_at(wal, lsn, &d, sizeof(d), &salt);
	if (r)
		return r;
	len = le32toh(d.len);
	size = wal_record_size(len);
	if (len > WAL_MAX_PAYLOAD(wal->segment_size) || size > wal->segment_size - lsn % wal->segment_size)
		return -EUCLEAN;
	raw = malloc(size);
	if (!raw)
		return -ENOMEM;
	r = read_at(wal, lsn, raw, size, &salt);
	if (r)
		return r == -EINVAL ? -EUCLEAN : r;
	if (wal_decode(raw, size, lsn, salt, rec, &in_raw) < 0)
		return -EUCLEAN;
	/* The caller's block begins with the payload; the header in front of it is dropped. */
	memmove(raw, in_raw, rec->len);
	*payload = TAKE_PTR(raw);
	return 0;
}

uint64_t wal_begin(struct wal *wal)
{
	uint64_t v;

	pthread_mutex_lock(&wal->lock);
	v = wal->nsegs ? wal_seg_start(wal, wal->segs[0]->h.number) : 0;
	pthread_mutex_unlock(&wal->lock);
	return v;
}

uint64_t wal_end(struct wal *wal)
{
	uint64_t v;

	pthread_mutex_lock(&wal->lock);
	v = wal->started ? wal->end : wal->scan_end;
	pthread_mutex_unlock(&wal->lock);
	return v;
}

uint64_t wal_durable(struct wal *wal)
{
	uint64_t v;

	pthread_mutex_lock(&wal->lock);
	v = wal->durable;
	pthread_mutex_unlock(&wal->lock);
	return v;
}

uint32_t wal_segment_size(struct wal *wal)
{
	return wal->segment_size;
}

bool wal_failed(struct wal *wal)
{
	bool v;

	pthread_mutex_lock(&wal->lock);
	v = wal->failed;
	pthread_mutex_unlock(&wal->lock);
	return v;
}

const char *wal_error_text(struct wal *wal)
{
	return wal->text;
}

void wal_stats(struct wal *wal, struct wal_stats *st)
{
	pthread_mutex_lock(&wal->lock);
	*st = wal->st;
	st->segments = wal->nsegs;
	pthread_mutex_unlock(&wal->lock);
}
