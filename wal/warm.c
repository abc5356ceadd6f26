/*
 * warm.c - the log's preallocated space is written with zeros before it is used, when there is time.
 *
 * On most filesystems an overwrite and its fdatasync take less than half of what they take where space was allocated but never
 * written, because then metadata must become durable too. A recycled segment is written already. A new one that was made
 * in a hurry is not, and so that it need not be for large transactions, this waits until the log grows slowly.
 */
#include "wal/private.h"

#include <string.h>
#include <syslog.h>

#define CHUNK (256u << 10)    /* under the lock: some 50 microseconds */
#define SYNC_EVERY (1u << 20) /* so that no force waits for long */
#define LOOK_MS 500

/* lock held. Where zeros may go in this segment: behind all records. */
static uint64_t first_cold(const struct wal *wal, const struct wal_segment *seg)
{
	uint64_t from = seg->written;

	if (seg == wal->cur)
		from = base_max_u64(from, wal->end - wal_seg_start(wal, seg->h.number));
	return base_min_u64(base_align_up(from, 4096), wal->segment_size);
}

/* lock held. The first to be used that is not written, or NULL. */
static struct wal_segment *cold_segment(const struct wal *wal)
{
	if (!wal->started || wal->failed)
		return NULL;
	for (size_t i = wal_seg_index(wal, wal->cur->h.number); i < wal->nsegs; i++)
		if (first_cold(wal, wal->segs[i]) < wal->segment_size)
			return wal->segs[i];
	return NULL;
}

/* lock held, released meanwhile. Does the log grow too fast for this? */
static bool in_a_hurry(struct wal *wal)
{
	uint64_t was = wal->end;
	struct timespec until = base_after_ms(LOOK_MS);

	while (!wal->cool && pthread_cond_timedwait(&wal->cold, &wal->lock, &until) == 0)
		;
	return wal->end - was > wal->segment_size / 2;
}

/* lock held, released meanwhile. */
static void warm(struct wal *wal, struct wal_segment *seg)
{
	uint64_t done = 0;
	int r = wal_seg_get(wal, seg);

	if (r)
		return;
	while (!r && !wal->cool && done < SYNC_EVERY) {
		uint64_t from = first_cold(wal, seg), to = base_min_u64(from + CHUNK, wal->segment_size);

		/* Nothing is left of what the log has gone through meanwhile. */
		if (from >= to)
			break;
		r = wal_seg_zero(wal, seg->fd, from, to);
		if (!r)
			seg->written = to;
		done += to - from;
		pthread_mutex_unlock(&wal->lock);
		pthread_mutex_lock(&wal->lock);
	}
	/*
	 * In the place of a force: the kernel tells an error once, and whoever is told must be the one who knows what it means for
	 * the records.
	 */
	while (done && wal->forcing)
		pthread_cond_wait(&wal->forced, &wal->lock);
	if (done && !wal->failed) {
		int s;

		wal->forcing = true;
		pthread_mutex_unlock(&wal->lock);
		s = wal->os->fdatasync(wal->os->ctx, seg->fd);
		pthread_mutex_lock(&wal->lock);
		wal->forcing = false;
		r = r ? r : s;
		if (s) {
			wal->failed = true;
			base_log(LOG_ERR, "forcing the log failed: %s", strerror(-s));
		}
		pthread_cond_broadcast(&wal->forced);
	}
	if (r)
		seg->written = wal->segment_size; /* it is only for speed */
	wal_seg_put(wal, seg);
}

void wal_warm(struct wal *wal)
{
	struct wal_segment *seg;

	pthread_mutex_lock(&wal->lock);
	while (!wal->cool) {
		if (!cold_segment(wal))
			pthread_cond_wait(&wal->cold, &wal->lock);
		else if (!in_a_hurry(wal) && (seg = cold_segment(wal)))
			warm(wal, seg);
	}
	pthread_mutex_unlock(&wal->lock);
}

void wal_warm_stop(struct wal *wal)
{
	pthread_mutex_lock(&wal->lock);
	wal->cool = true;
	pthread_cond_broadcast(&wal->cold);
	pthread_mutex_unlock(&wal->lock);
}
