/*
 * segment.c - the table of segments and their files.
 *
 * A file's header does not change as long as the file has a segment's name: a new segment is made under WAL_TEMP_NAME,
 * made durable, and renamed. So whatever the crash, a file with a segment's name has a good header, and one that has
 * not is damaged. Each step on the directory is made durable before the next one, so that segments appear and vanish
 * in order and a gap in the numbers means that a file was lost.
 */
#include "wal/private.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ADVICE "keep a copy of the log's directory before anything else; records before this place can still be listed"

void wal_seg_name(uint64_t number, char name[WAL_NAME_SIZE])
{
	snprintf(name, WAL_NAME_SIZE, "%016" PRIx64, number);
}

void wal_trouble(struct wal *wal, int err, uint64_t number, const char *fmt, ...)
{
	char name[WAL_NAME_SIZE], what[300];
	va_list ap;

	if (wal->trouble)
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	wal_seg_name(number, name);
	wal->trouble = err;
	wal->trouble_number = number;
	snprintf(wal->text, sizeof(wal->text), "log segment %s: %s; %s", name, what,
	         err == -EPROTONOSUPPORT ? "use a newer version of the program" : ADVICE);
}

size_t wal_seg_index(const struct wal *wal, uint64_t number)
{
	size_t lo = 0, hi = wal->nsegs;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (wal->segs[mid]->h.number < number)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void close_fd(struct wal *wal, struct wal_segment *seg)
{
	if (seg->fd < 0)
		return;
	wal->os->close(wal->os->ctx, seg->fd);
	seg->fd = -1;
	wal->nopen--;
}

static void seg_free(struct wal *wal, struct wal_segment *seg)
{
	close_fd(wal, seg);
	free(seg);
}

/*
 * One more will be open: when there are too many, close those that were idle for longest. One with bytes to force stays
 * open, because its descriptor reports errors. lock held.
 */
static void count_open(struct wal *wal)
{
	wal->nopen++;
	while (wal->nopen > WAL_FDS_MAX) {
		struct wal_segment *oldest = NULL;

		for (size_t i = 0; i < wal->nsegs; i++) {
			struct wal_segment *seg = wal->segs[i];

			if (seg->fd < 0 || seg->refs > 0)
				continue;
			if (wal->started && wal_seg_end(wal, seg->h.number) > wal->durable)
				continue;
			if (!oldest || seg->used < oldest->used)
				oldest = seg;
		}
		if (!oldest)
			return;
		close_fd(wal, oldest);
	}
}

int wal_seg_get(struct wal *wal, struct wal_segment *seg)
{
	char name[WAL_NAME_SIZE];
	int fd;

	if (seg->fd < 0) {
		wal_seg_name(seg->h.number, name);
		/* Without waiting: should it be a fifo, it is told below. */
		fd = wal->os->openat(wal->os->ctx, wal->dir, name,
		                     (wal->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
		if (fd < 0)
			return fd;
		count_open(wal);
		seg->fd = fd;
	}
	seg->used = ++wal->tick;
	seg->refs++;
	return 0;
}

void wal_seg_put(struct wal *wal, struct wal_segment *seg)
{
	if (--seg->refs == 0 && seg->gone)
		seg_free(wal, seg);
}

/* Room for one more in the table. files held. */
static int table_reserve(struct wal *wal)
{
	size_t cap = wal->segs_cap ? wal->segs_cap * 2 : 16;
	struct wal_segment **segs;

	if (wal->nsegs < wal->segs_cap)
		return 0;
	pthread_mutex_lock(&wal->lock);
	segs = reallocarray(wal->segs, cap, sizeof(struct wal_segment *));
	if (segs) {
		wal->segs = segs;
		wal->segs_cap = cap;
	}
	pthread_mutex_unlock(&wal->lock);
	return segs ? 0 : -ENOMEM;
}

static void table_insert(struct wal *wal, struct wal_segment *seg)
{
	size_t i;

	pthread_mutex_lock(&wal->lock);
	i = wal_seg_index(wal, seg->h.number);
	memmove(wal->segs + i + 1, wal->segs + i, (wal->nsegs - i) * sizeof(struct wal_segment *));
	wal->segs[i] = seg;
	wal->nsegs++;
	seg->used = ++wal->tick;
	pthread_mutex_unlock(&wal->lock);
}

static void table_remove(struct wal *wal, struct wal_segment *seg)
{
	size_t i = wal_seg_index(wal, seg->h.number);

	memmove(wal->segs + i, wal->segs + i + 1, (wal->nsegs - i - 1) * sizeof(struct wal_segment *));
	wal->nsegs--;
}

/* A segment's number from its file name; 0 when it is not one. */
static uint64_t parse_name(const char *name)
{
	char again[WAL_NAME_SIZE];
	uint64_t number;

	if (strlen(name) != WAL_NAME_SIZE - 1 || sscanf(name, "%16" SCNx64, &number) != 1)
		return 0;
	wal_seg_name(number, again);
	return strcmp(name, again) == 0 ? number : 0;
}

static int collect_name(void *arg, const char *name)
{
	uint64_t number = parse_name(name);

	return number ? base_vec_push(arg, number) : 0;
}

static int compare_u64(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Does opening or reading it fail because something else has its name? */
static bool no_file(int r)
{
	return r == -ELOOP || r == -EISDIR || r == -ESPIPE || r == -ENXIO;
}

/* Load one segment; 0 also when it is damaged. */
static int load_one(struct wal *wal, uint64_t number, bool size_known)
{
	uint8_t raw[WAL_SEGMENT_HEADER];
	struct wal_segment *seg;
	uint64_t size;
	int r = table_reserve(wal);

	if (r)
		return r;
	seg = malloc(sizeof(*seg));
	if (!seg)
		return -ENOMEM;
	*seg = (struct wal_segment){ .h.number = number, .fd = -1, .written = WAL_SEGMENT_MAX };
	r = wal_seg_get(wal, seg);
	if (r == -ENOENT && wal->read_only) {
		/* Recycled by the process that writes the log. */
		free(seg);
		return 0;
	}
	if (r && !no_file(r)) {
		free(seg);
		return r;
	}
	seg->refs = 0;
	if (r == 0)
		r = os_pread_full(wal->os, seg->fd, raw, sizeof(raw), 0);
	if (r == 0)
		r = wal_seghdr_decode(raw, &seg->h);
	if (no_file(r))
		wal_trouble(wal, -EUCLEAN, number, "it is no file but something else");
	else if (r == -EIO)
		wal_trouble(wal, -EUCLEAN, number, "the header cannot be read: the file is cut off, or an I/O error");
	else if (r == -EUCLEAN)
		wal_trouble(wal, r, number, "the header is damaged");
	else if (r == -EPROTONOSUPPORT)
		wal_trouble(wal, r, number, "it was written by a newer version (format above %u)", WAL_VERSION);
	else if (r == 0 && seg->h.number != number)
		wal_trouble(wal, r = -EUCLEAN, number, "the header says %016" PRIx64, seg->h.number);
	else if (r == 0 && size_known && seg->h.segment_size != wal->segment_size)
		wal_trouble(wal, r = -EUCLEAN, number, "its size is said to be %" PRIu32 ", of others %" PRIu32,
		            seg->h.segment_size, wal->segment_size);
	/* It gets its number only when it has its whole size. */
	if (r == 0)
		r = wal->os->size(wal->os->ctx, seg->fd, &size);
	if (r == 0 && size != seg->h.segment_size)
		wal_trouble(wal, r = -EUCLEAN, number, "the file has %" PRIu64 " bytes instead of %" PRIu32, size,
		            seg->h.segment_size);
	if (r) {
		seg_free(wal, seg);
		return wal->trouble ? 0 : r;
	}
	wal->segment_size = seg->h.segment_size;
	table_insert(wal, seg);
	return 0;
}

static int load_once(struct wal *wal)
{
	struct base_vec numbers = { 0 };
	uint64_t last = 0;
	int r;

	wal_seg_unload(wal);
	wal->trouble = 0;
	wal->trouble_number = UINT64_MAX;
	wal->text[0] = 0;
	r = wal->os->list(wal->os->ctx, wal->dir, collect_name, &numbers);
	if (r)
		goto out;
	if (numbers.n)
		qsort(numbers.v, numbers.n, sizeof(uint64_t), compare_u64);
	for (size_t i = 0; i < numbers.n && !wal->trouble; i++) {
		size_t before = wal->nsegs;

		r = load_one(wal, numbers.v[i], before > 0);
		if (r)
			goto out;
		if (wal->nsegs == before)
			continue;
		if (last && numbers.v[i] != last + 1 && wal->segs[before]->h.prev_end == 0)
			wal_trouble(wal, -EUCLEAN, numbers.v[i] - 1, "the file is missing, while later ones exist");
		last = numbers.v[i];
	}
out:
	base_vec_free(&numbers);
	return r;
}

int wal_seg_load(struct wal *wal)
{
	int tries = wal->read_only ? 20 : 1;
	int r;

	/* A log that another process writes may change under us: what looks wrong is read again. */
	do
		r = load_once(wal);
	while (r == 0 && (wal->trouble || wal->nsegs == 0) && --tries > 0);
	return r;
}

void wal_seg_unload(struct wal *wal)
{
	for (size_t i = 0; i < wal->nsegs; i++)
		seg_free(wal, wal->segs[i]);
	wal->nsegs = 0;
}

static int write_header(struct wal *wal, int fd, const struct wal_seghdr *h)
{
	uint8_t raw[WAL_SEGMENT_HEADER];
	struct iovec iov = { raw, sizeof(raw) };

	wal_seghdr_encode(h, raw);
	return os_pwritev_full(wal->os, fd, &iov, 1, 0);
}

int wal_seg_zero(struct wal *wal, int fd, uint64_t from, uint64_t to)
{
	static uint8_t zeros[64 << 10];
	struct iovec iov[16];
	uint64_t off = from;

	while (off < to) {
		int n = 0, r;
		uint64_t end = off;

		for (; n < (int)ARRAY_LEN(iov) && end < to; n++) {
			size_t len = (size_t)base_min_u64(sizeof(zeros), to - end);

			iov[n] = (struct iovec){ zeros, len };
			end += len;
		}
		r = os_pwritev_full(wal->os, fd, iov, n, off);
		if (r)
			return r;
		off = end;
	}
	return 0;
}

static struct wal_seghdr new_header(struct wal *wal, uint64_t number, uint64_t prev_end)
{
	struct wal_seghdr h = {
		.number = number,
		.salt = base_random_u64(),
		.prev_end = prev_end,
		.segment_size = wal->segment_size,
	};

	pthread_mutex_lock(&wal->lock);
	h.durable = wal->durable;
	pthread_mutex_unlock(&wal->lock);
	return h;
}

/* The file under WAL_TEMP_NAME becomes the segment that h describes. */
static int publish(struct wal *wal, int fd, const struct wal_seghdr *h)
{
	const struct os *os = wal->os;
	char name[WAL_NAME_SIZE];
	int r;

	r = write_header(wal, fd, h);
	if (r == 0)
		r = os->fdatasync(os->ctx, fd);
	if (r)
		return r;
	wal_seg_name(h->number, name);
	r = os->renameat(os->ctx, wal->dir, WAL_TEMP_NAME, name);
	if (r)
		return r;
	r = os->fsync(os->ctx, wal->dir);
	if (r) /* whether it lasts is unknown; it would be the last one, so it can as well go */
		os->unlinkat(os->ctx, wal->dir, name);
	return r;
}

int wal_seg_create(struct wal *wal, uint64_t number, uint64_t prev_end)
{
	struct wal_seghdr h = new_header(wal, number, prev_end);
	const struct os *os = wal->os;
	struct wal_segment *seg;
	bool cold;
	int fd, r;

	r = table_reserve(wal);
	if (r)
		return r;
	seg = malloc(sizeof(*seg));
	if (!seg)
		return -ENOMEM;
	fd = os->openat(os->ctx, wal->dir, WAL_TEMP_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		free(seg);
		return fd;
	}
	/* Writing it would take as long as what it is for; warm.c does so when there is time. */
	r = os->allocate(os->ctx, fd, wal->segment_size);
	cold = r == 0;
	if (r == -EOPNOTSUPP)
		r = wal_seg_zero(wal, fd, 0, wal->segment_size);
	if (r == 0)
		r = publish(wal, fd, &h);
	if (r) {
		os->close(os->ctx, fd);
		os->unlinkat(os->ctx, wal->dir, WAL_TEMP_NAME);
		free(seg);
		return r;
	}
	*seg = (struct wal_segment){ .h = h, .fd = fd, .written = cold ? WAL_SEGMENT_HEADER : wal->segment_size };
	pthread_mutex_lock(&wal->lock);
	count_open(wal);
	pthread_cond_signal(&wal->cold);
	pthread_mutex_unlock(&wal->lock);
	table_insert(wal, seg);
	return 0;
}

int wal_seg_recycle(struct wal *wal, struct wal_segment *seg, uint64_t number, uint64_t prev_end)
{
	struct wal_seghdr h = new_header(wal, number, prev_end);
	const struct os *os = wal->os;
	char name[WAL_NAME_SIZE];
	int r;

	pthread_mutex_lock(&wal->lock);
	r = seg->refs ? 1 : wal_seg_get(wal, seg);
	if (r == 0) {
		seg->refs = 0;
		table_remove(wal, seg);
	}
	pthread_mutex_unlock(&wal->lock);
	if (r)
		return r;
	wal_seg_name(seg->h.number, name);
	r = os->renameat(os->ctx, wal->dir, name, WAL_TEMP_NAME);
	if (r) {
		table_insert(wal, seg);
		return r;
	}
	r = os->fsync(os->ctx, wal->dir);
	if (r == 0)
		r = publish(wal, seg->fd, &h);
	if (r) {
		os->unlinkat(os->ctx, wal->dir, WAL_TEMP_NAME);
		pthread_mutex_lock(&wal->lock);
		seg_free(wal, seg);
		pthread_mutex_unlock(&wal->lock);
		return r;
	}
	seg->h = h;
	table_insert(wal, seg);
	pthread_mutex_lock(&wal->lock);
	pthread_cond_signal(&wal->cold);
	pthread_mutex_unlock(&wal->lock);
	return 0;
}

int wal_seg_drop(struct wal *wal, struct wal_segment *seg)
{
	const struct os *os = wal->os;
	char name[WAL_NAME_SIZE];
	int r;

	wal_seg_name(seg->h.number, name);
	pthread_mutex_lock(&wal->lock);
	table_remove(wal, seg);
	pthread_mutex_unlock(&wal->lock);
	r = os->unlinkat(os->ctx, wal->dir, name);
	if (r) {
		table_insert(wal, seg);
		return r;
	}
	pthread_mutex_lock(&wal->lock);
	if (seg->refs)
		seg->gone = true;
	else
		seg_free(wal, seg);
	pthread_mutex_unlock(&wal->lock);
	return os->fsync(os->ctx, wal->dir);
}
