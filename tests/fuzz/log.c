/*
 * log.c - fuzz target: the log's reader (wal/wal.h) over arbitrary segment files.
 *
 * Whatever the files hold, opening and scanning end in order: with records in ascending order whose payloads can be
 * read, or with a refusal that names the segment; a second scan, and one that only reads, say the same; nothing is
 * written before wal_start. After wal_start the log has kept all its records and takes new ones.
 *
 * Input: for each file its name, size, and pieces of content; the rest is zeros. A piece is raw bytes, or the fields of
 * a segment header or of a record, which get the right checksum.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/simos.h"
#include "wal/private.h"

#include <fcntl.h>

#define LOG_SEG WAL_SEGMENT_MIN
#define LOG_FILES_MAX 8
#define LOG_PIECES_MAX 24
#define LOG_VISITS_MAX 1024
#define LOG_NEXT_PLACE 0xffffu /* a piece's place: behind the one before */

enum log_kind { LOG_RAW, LOG_HEADER, LOG_RECORD, LOG_KINDS };

struct log_piece {
	uint8_t kind;
	uint16_t place; /* in units of 8 bytes */
	uint16_t len;
	const uint8_t *p;
};

struct log_file {
	uint8_t name, size;
	struct log_piece pieces[LOG_PIECES_MAX];
	unsigned npieces;
};

struct log_input {
	struct log_file files[LOG_FILES_MAX];
	unsigned nfiles;
};

/* ---- the input's form ---- */

static void log_parse(const uint8_t *data, size_t size, struct log_input *input)
{
	struct fuzz_in in = {data, data + size};

	input->nfiles = 0;
	while (in.p < in.end && input->nfiles < LOG_FILES_MAX) {
		struct log_file *f = &input->files[input->nfiles++];
		unsigned n;

		f->name = (uint8_t)fuzz_get(&in, 1);
		f->size = (uint8_t)fuzz_get(&in, 1);
		n = (unsigned)fuzz_get(&in, 1) % (LOG_PIECES_MAX + 1);
		for (f->npieces = 0; f->npieces < n && in.p < in.end; f->npieces++) {
			struct log_piece *c = &f->pieces[f->npieces];
			size_t len;

			c->kind = (uint8_t)(fuzz_get(&in, 1) % LOG_KINDS);
			c->place = (uint16_t)fuzz_get(&in, 2);
			c->len = (uint16_t)fuzz_get(&in, 2);
			c->p = fuzz_get_bytes(&in, c->len, &len);
			c->len = (uint16_t)len;
		}
	}
}

static void log_unparse(const struct log_input *input, struct base_buf *b)
{
	for (unsigned i = 0; i < input->nfiles; i++) {
		const struct log_file *f = &input->files[i];

		fuzz_put(b, f->name, 1);
		fuzz_put(b, f->size, 1);
		fuzz_put(b, f->npieces, 1);
		for (unsigned k = 0; k < f->npieces; k++) {
			fuzz_put(b, f->pieces[k].kind, 1);
			fuzz_put(b, f->pieces[k].place, 2);
			fuzz_put(b, f->pieces[k].len, 2);
			base_buf_put(b, f->pieces[k].p, f->pieces[k].len);
		}
	}
}

/* ---- the files ---- */

static const char *log_name(uint8_t code, char space[32])
{
	static const char *const odd[] = {
		"next",
		"0000000000000000",
		"ffffffffffffffff",
		"000000000000000A",
		"00000000000000010",
		"000000000000001",
		"1",
		".",
		"lost+found",
		"00000003fffffffe",
		"000000000000000001",
		" 000000000000001",
		"+000000000000001",
	};

	if (code < 200) {
		wal_seg_name(code, space);
		return space;
	}
	return odd[(code - 200u) % ARRAY_LEN(odd)];
}

static uint64_t log_size(uint8_t code)
{
	static const uint32_t odd[] = {LOG_SEG,        0,          1, 63, 64, 120, 4096, LOG_SEG - 1, LOG_SEG + 1,
	                               LOG_SEG + 4096, 2 * LOG_SEG};

	return odd[code % ARRAY_LEN(odd)];
}

/* Fields of a segment header without magic and checksum. */
static size_t log_header(const struct log_piece *c, uint8_t *out)
{
	struct wal_disk_segment d = {0};
	struct wal_seghdr h;
	size_t off = offsetof(struct wal_disk_segment, version);
	uint8_t good[WAL_SEGMENT_HEADER];

	memcpy((uint8_t *)&d + off, c->p, base_min_u64(c->len, sizeof(d) - off));
	/* The codec gives magic and checksum to what it can say; other headers keep a zero checksum. */
	h = (struct wal_seghdr){d.number, d.salt, d.prev_end, d.durable, d.segment_size};
	wal_seghdr_encode(&h, good);
	memcpy(out, &d, sizeof(d));
	memcpy(out, good, off);
	return sizeof(d);
}

/* Type, flags, txid, prev, durable, payload. */
static size_t log_record(const struct log_piece *c, uint64_t lsn, uint64_t salt, uint8_t *out, size_t max)
{
	struct fuzz_in in = {c->p, c->p + c->len};
	struct wal_rec rec = {.lsn = lsn};
	size_t n, size;
	const uint8_t *payload;

	rec.type = (uint8_t)fuzz_get(&in, 1);
	rec.flags = (uint8_t)fuzz_get(&in, 1);
	rec.txid = fuzz_get(&in, 8);
	rec.prev = fuzz_get(&in, 8);
	rec.durable = fuzz_get(&in, 8);
	payload = fuzz_get_bytes(&in, SIZE_MAX, &n);
	rec.len = (uint32_t)n;
	size = wal_record_size(n);
	if (size > max) /* crosses the segment's end: as much of it as there is room for */
		return 0;
	wal_encode(&rec, payload, salt, out);
	return size;
}

static void log_content(const struct log_file *f, uint8_t *bytes, uint64_t size)
{
	uint64_t at = 0, number = f->name, salt = 0;

	for (unsigned i = 0; i < f->npieces; i++) {
		const struct log_piece *c = &f->pieces[i];
		size_t n;

		if (c->place != LOG_NEXT_PLACE)
			at = c->place * 8u;
		if (at >= size)
			continue;
		if (c->kind == LOG_HEADER && size - at >= WAL_SEGMENT_HEADER) {
			n = log_header(c, bytes + at);
			if (at == 0)
				memcpy(&salt, bytes + offsetof(struct wal_disk_segment, salt), sizeof(salt));
		} else if (c->kind == LOG_RECORD) {
			n = log_record(c, number * LOG_SEG + at, salt, bytes + at, size - at);
		} else {
			n = (size_t)base_min_u64(c->len, size - at);
			memcpy(bytes + at, c->p, n);
		}
		at += base_align_up(n, 8);
	}
}

static void log_put_file(struct simos *sim, const struct log_file *f)
{
	const struct os *os = simos_os(sim);
	uint64_t size = log_size(f->size);
	CLEANUP_FREE uint8_t *bytes = calloc(1, size + 1);
	char space[32];
	const char *name = log_name(f->name, space);
	struct iovec iov = {bytes, size};
	int fd;

	if (!bytes)
		abort();
	log_content(f, bytes, size);
	fd = os->openat(os->ctx, simos_dir(sim), name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	FUZZ_CHECK(fd >= 0, "the simulator cannot make a file: %d", fd);
	if (size)
		os_pwritev_full(os, fd, &iov, 1, 0);
	os->fdatasync(os->ctx, fd);
	os->close(os->ctx, fd);
	os->fsync(os->ctx, simos_dir(sim));
}

/* ---- running ---- */

struct log_seen {
	struct wal_rec recs[LOG_VISITS_MAX];
	uint64_t sums[LOG_VISITS_MAX];
	size_t n;
};

static uint64_t log_sum(const void *payload, size_t n)
{
	uint64_t sum = 0xcbf29ce484222325u;

	for (size_t i = 0; i < n; i++)
		sum = (sum ^ ((const uint8_t *)payload)[i]) * 0x100000001b3u;
	return sum;
}

static int log_visit(void *arg, const struct wal_rec *rec, const void *payload)
{
	struct log_seen *s = arg;

	FUZZ_CHECK(s->n < LOG_VISITS_MAX, "more records than there is room for");
	FUZZ_CHECK(!s->n || rec->lsn > s->recs[s->n - 1].lsn, "LSN %#llx comes after %#llx",
	           (unsigned long long)rec->lsn, (unsigned long long)s->recs[s->n - 1].lsn);
	FUZZ_CHECK(rec->type != WAL_TYPE_PAD, "a pad is shown");
	s->recs[s->n] = *rec;
	s->sums[s->n++] = log_sum(payload, rec->len);
	return 0;
}

static bool log_same(const struct log_seen *a, const struct log_seen *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct wal_rec *x = &a->recs[i], *y = &b->recs[i];

		if (x->lsn != y->lsn || x->txid != y->txid || x->prev != y->prev || x->durable != y->durable ||
		    x->len != y->len || x->type != y->type || x->flags != y->flags || a->sums[i] != b->sums[i])
			return false;
	}
	return true;
}

static void log_read_back(struct wal *wal, const struct log_seen *s)
{
	for (size_t i = 0; i < s->n; i++) {
		struct wal_rec rec;
		void *payload = NULL;
		int r = wal_read_rec(wal, s->recs[i].lsn, &rec, &payload);

		FUZZ_CHECK(r == 0 || (r == -EUCLEAN && s->recs[i].len > WAL_MAX_PAYLOAD(LOG_SEG)),
		           "the record at %#llx was scanned and cannot be read: %d", (unsigned long long)s->recs[i].lsn,
		           r);
		if (r)
			continue;
		FUZZ_CHECK(log_sum(payload, rec.len) == s->sums[i], "the record at %#llx reads differently",
		           (unsigned long long)rec.lsn);
		free(payload);
	}
}

static void log_readable_trouble(const struct wal *wal, int r)
{
	const char *text = wal_error_text((struct wal *)(uintptr_t)wal);

	FUZZ_CHECK(r == -EUCLEAN || r == -EPROTONOSUPPORT, "scanning fails with %d", r);
	FUZZ_CHECK(fuzz_readable(text) && !strncmp(text, "log segment ", 12), "the trouble is not told: \"%s\"", text);
}

static void *log_snapshot(struct simos *sim, size_t *size)
{
	char names[64][32];
	size_t n = simos_names(sim, names, ARRAY_LEN(names));
	struct base_buf b = {0};

	for (size_t i = 0; i < n; i++) {
		uint64_t bytes;
		const uint8_t *p = simos_bytes(sim, names[i], &bytes);

		base_buf_put(&b, names[i], strlen(names[i]) + 1);
		base_buf_put(&b, p, bytes);
	}
	*size = b.n;
	return b.p;
}

static int log_scan(struct simos *sim, bool read_only, struct log_seen *seen, uint64_t *end)
{
	struct wal_options opt = {.segment_size = LOG_SEG, .read_only = read_only};
	CLEANUP_FREE struct log_seen *twice = calloc(1, sizeof(*twice));
	struct wal *wal;
	int r = wal_open(simos_os(sim), simos_dir(sim), &opt, &wal), again;

	seen->n = 0;
	if (r) {
		FUZZ_CHECK(r == -ENOENT, "opening fails with %d", r);
		return r;
	}
	r = wal_scan(wal, 0, log_visit, NULL, seen, end);
	if (r)
		log_readable_trouble(wal, r);
	again = wal_scan(wal, 0, log_visit, NULL, twice, end);
	FUZZ_CHECK(again == r, "scanned again: %d instead of %d", again, r);
	FUZZ_CHECK(r || (twice->n == seen->n && log_same(seen, twice, seen->n)),
	           "scanned again, it has other records: %zu, not %zu (%d)", twice->n, seen->n, r);
	log_read_back(wal, seen);
	FUZZ_CHECK(!read_only || wal_start(wal) == -EROFS, "a log that is only read can be started");
	wal_close(wal);
	return r;
}

/* After a scan that found the log in order: go on with it. */
static void log_go_on(struct simos *sim, const struct log_seen *before)
{
	struct wal_options opt = {.segment_size = LOG_SEG};
	CLEANUP_FREE struct log_seen *seen = calloc(1, sizeof(*seen));
	struct wal_rec rec = {.type = 5, .txid = 77};
	struct iovec iov = {"payload", 7};
	uint64_t end;
	struct wal *wal;
	int r = wal_open(simos_os(sim), simos_dir(sim), &opt, &wal);

	if (!r)
		r = wal_scan(wal, 0, log_visit, NULL, seen, NULL);
	if (!r)
		r = wal_start(wal);
	/* The highest segment number that there may be is taken. */
	if (r == -EOVERFLOW) {
		wal_close(wal);
		return;
	}
	FUZZ_CHECK(!r, "a log in order cannot be started: %d", r);
	r = wal_append(wal, &rec, &iov, 1, false);
	if (!r)
		r = wal_force(wal, rec.lsn);
	FUZZ_CHECK(!r, "appending: %d", r);
	wal_close(wal);
	r = log_scan(sim, false, seen, &end);
	FUZZ_CHECK(!r, "the log was in order, and is not after a start: %d", r);
	FUZZ_CHECK(seen->n == before->n + 1 && log_same(before, seen, before->n), "records have changed with a start");
	FUZZ_CHECK(seen->recs[before->n].txid == 77, "the new record is another one");
}

static void log_run(const uint8_t *data, size_t size)
{
	CLEANUP_FREE struct log_input *input = malloc(sizeof(*input));
	CLEANUP_FREE struct log_seen *seen = calloc(1, sizeof(*seen)), *reader = calloc(1, sizeof(*reader));
	struct simos *sim = simos_new(1);
	uint64_t end = 0, reader_end = 0;
	size_t n, m;
	int r, ro;

	if (!input || !seen || !reader)
		abort();
	log_parse(data, size, input);
	for (unsigned i = 0; i < input->nfiles; i++)
		log_put_file(sim, &input->files[i]);
	{
		CLEANUP_FREE void *before = log_snapshot(sim, &n);
		CLEANUP_FREE void *after = NULL;

		r = log_scan(sim, false, seen, &end);
		ro = log_scan(sim, true, reader, &reader_end);
		after = log_snapshot(sim, &m);
		FUZZ_CHECK(n == m && (!n || !memcmp(before, after, n)), "reading has changed the files");
	}
	FUZZ_CHECK(ro == r && reader->n == seen->n && log_same(seen, reader, seen->n) && (r || end == reader_end),
	           "a reader (%d, %zu records) sees another log than its owner (%d, %zu)", ro, reader->n, r, seen->n);
	if (!r)
		log_go_on(sim, seen);
	FUZZ_CHECK(simos_open_handles(sim) == 0, "handles are left open");
	simos_free(sim);
}

/* ---- changing ---- */

/* LSNs that say something: bounds of segments, and near them. */
static uint64_t log_odd_lsn(struct fuzz_rng *rng)
{
	static const uint64_t odd[] = {0, 1, UINT64_MAX, UINT64_MAX - 63, INT64_MAX};

	if (fuzz_rnd(rng, 8) == 0)
		return odd[fuzz_rnd(rng, ARRAY_LEN(odd))];
	return (1 + fuzz_rnd(rng, 6)) * LOG_SEG +
	       (fuzz_rnd(rng, 2) ? 64 + 8 * fuzz_rnd(rng, 40) : LOG_SEG - 8 * fuzz_rnd(rng, 10));
}

static void log_mutate_piece(struct fuzz_rng *rng, struct log_piece *c, uint8_t *space, size_t max)
{
	static const uint8_t header_fields[] = {8, 24, 32}, record_fields[] = {2, 10, 18};
	size_t at;

	memcpy(space, c->p, c->len);
	c->p = space;
	if (c->kind == LOG_RAW || fuzz_rnd(rng, 3) == 0) {
		c->len = (uint16_t)fuzz_bytes(rng, space, c->len, max);
		return;
	}
	at = c->kind == LOG_HEADER ? header_fields[fuzz_rnd(rng, 3)] : record_fields[fuzz_rnd(rng, 3)];
	if (at == 8 && c->kind == LOG_HEADER) {
		uint64_t number = fuzz_rnd(rng, 8);

		memcpy(space + at, &number, 8);
	} else {
		uint64_t lsn = log_odd_lsn(rng);

		memcpy(space + at, &lsn, 8);
	}
	c->len = (uint16_t)base_max_u64(c->len, at + 8);
}

static void log_mutate_file(struct fuzz_rng *rng, struct log_file *f, uint8_t *space, size_t max)
{
	unsigned k = f->npieces ? (unsigned)fuzz_rnd(rng, f->npieces) : 0;

	switch (fuzz_rnd(rng, 8)) {
	case 0:
		f->name = (uint8_t)(fuzz_rnd(rng, 4) ? fuzz_rnd(rng, 8) : 200 + fuzz_rnd(rng, 20));
		break;
	case 1:
		f->size = (uint8_t)(fuzz_rnd(rng, 2) ? 0 : fuzz_rnd(rng, 12));
		break;
	case 2:
		if (f->npieces && f->npieces < LOG_PIECES_MAX) {
			f->pieces[f->npieces] = f->pieces[k];
			f->npieces++;
		}
		break;
	case 3:
		if (f->npieces) {
			memmove(&f->pieces[k], &f->pieces[k + 1], (f->npieces - k - 1) * sizeof(f->pieces[0]));
			f->npieces--;
		}
		break;
	case 4:
		if (f->npieces)
			f->pieces[k].place = (uint16_t)(fuzz_rnd(rng, 2)   ? LOG_NEXT_PLACE
			                                : fuzz_rnd(rng, 2) ? 8 + fuzz_rnd(rng, 40)
			                                                   : LOG_SEG / 8 - fuzz_rnd(rng, 12));
		break;
	case 5:
		if (f->npieces)
			f->pieces[k].kind = (uint8_t)fuzz_rnd(rng, LOG_KINDS);
		break;
	default:
		if (f->npieces)
			log_mutate_piece(rng, &f->pieces[k], space, max);
		break;
	}
}

static size_t log_mutate(struct fuzz_rng *rng, uint8_t *data, size_t size, size_t max)
{
	static struct log_input input;
	CLEANUP_FREE uint8_t *space = calloc(1, max + 64);
	struct base_buf b = {0};
	unsigned i;

	if (!space)
		abort();
	if (fuzz_rnd(rng, 10) == 0)
		return fuzz_bytes(rng, data, size, max);
	log_parse(data, size, &input);
	i = input.nfiles ? (unsigned)fuzz_rnd(rng, input.nfiles) : 0;
	if (input.nfiles && input.nfiles < LOG_FILES_MAX && fuzz_rnd(rng, 12) == 0) {
		input.files[input.nfiles] = input.files[i];
		input.files[input.nfiles].name++;
		input.nfiles++;
	} else if (input.nfiles && fuzz_rnd(rng, 20) == 0) {
		input.files[i] = input.files[--input.nfiles];
	} else if (input.nfiles) {
		log_mutate_file(rng, &input.files[i], space, base_min_u64(max, UINT16_MAX));
	}
	log_unparse(&input, &b);
	size = b.n <= max ? b.n : size;
	if (b.n && b.n <= max)
		memcpy(data, b.p, b.n);
	base_buf_free(&b);
	return size ? size : fuzz_bytes(rng, data, size, max);
}

/* ---- seeds: real logs ---- */

/* What a file of a log holds, in the form of inputs. */
static void log_seed_file(const char *name, const uint8_t *bytes, uint64_t size, struct base_buf *b)
{
	struct base_buf pieces = {0};
	unsigned long long number = 0;
	struct wal_seghdr h;
	unsigned n = 1;

	if (sscanf(name, "%llx", &number) != 1 || size != LOG_SEG || wal_seghdr_decode(bytes, &h))
		abort();
	fuzz_put(&pieces, LOG_HEADER, 1);
	fuzz_put(&pieces, 0, 2);
	fuzz_put(&pieces, WAL_SEGMENT_HEADER - 16, 2);
	base_buf_put(&pieces, bytes + 16, WAL_SEGMENT_HEADER - 16);
	for (uint64_t at = WAL_SEGMENT_HEADER; n < LOG_PIECES_MAX;) {
		struct wal_rec rec;
		const void *payload;
		ssize_t k = wal_decode(bytes + at, size - at, number * LOG_SEG + at, h.salt, &rec, &payload);

		if (k < 0)
			break;
		fuzz_put(&pieces, LOG_RECORD, 1);
		fuzz_put(&pieces, LOG_NEXT_PLACE, 2);
		fuzz_put(&pieces, 26 + rec.len, 2);
		fuzz_put(&pieces, rec.type, 1);
		fuzz_put(&pieces, rec.flags, 1);
		fuzz_put(&pieces, rec.txid, 8);
		fuzz_put(&pieces, rec.prev, 8);
		fuzz_put(&pieces, rec.durable, 8);
		base_buf_put(&pieces, payload, rec.len);
		at += (uint64_t)k;
		n++;
	}
	fuzz_put(b, number, 1);
	fuzz_put(b, 0, 1);
	fuzz_put(b, n, 1);
	base_buf_put(b, pieces.p, pieces.n);
	base_buf_free(&pieces);
}

static void log_emit(struct simos *sim, const char *seed, void (*emit)(const char *name, const void *p, size_t n))
{
	char names[LOG_FILES_MAX][32];
	size_t n = simos_names(sim, names, ARRAY_LEN(names));
	struct base_buf b = {0};

	for (size_t i = 0; i < n; i++) {
		uint64_t size;
		const uint8_t *p = simos_bytes(sim, names[i], &size);

		log_seed_file(names[i], p, size, &b);
	}
	emit(seed, b.p, b.n);
	base_buf_free(&b);
}

static struct wal *log_seed_open(struct simos *sim)
{
	struct wal_options opt = {.segment_size = LOG_SEG, .create = true};
	CLEANUP_FREE struct log_seen *seen = calloc(1, sizeof(*seen));
	struct wal *wal;

	if (!seen || wal_open(simos_os(sim), simos_dir(sim), &opt, &wal) ||
	    wal_scan(wal, 0, log_visit, NULL, seen, NULL) || wal_start(wal))
		abort();
	return wal;
}

static uint64_t log_seed_put(struct wal *wal, size_t len)
{
	static const uint8_t bytes[WAL_MAX_PAYLOAD(LOG_SEG)];
	static uint64_t txid;
	struct wal_rec rec = {.type = (uint8_t)(1 + txid % 15), .txid = txid + 1, .prev = 0x10040};
	struct iovec iov = {(void *)(uintptr_t)bytes, len};

	txid++;
	if (wal_append(wal, &rec, &iov, 1, true))
		abort();
	return rec.lsn;
}

static void log_seeds(void (*emit)(const char *name, const void *p, size_t n))
{
	struct simos *sim = simos_new(1), *torn;
	struct wal *wal = log_seed_open(sim);

	log_emit(sim, "seed-fresh", emit);
	for (size_t i = 0; i < 6; i++)
		wal_force(wal, log_seed_put(wal, i * 7));
	log_seed_put(wal, 30);
	log_emit(sim, "seed-one-life", emit);
	wal_close(wal);
	torn = simos_copy(sim, true, 3);
	wal = log_seed_open(torn);
	log_seed_put(wal, 40);
	log_emit(torn, "seed-torn-and-on", emit);
	wal_close(wal);
	simos_free(torn);
	wal = log_seed_open(sim);
	wal_force(wal, log_seed_put(wal, 100));
	log_seed_put(wal, 3);
	wal_close(wal);
	wal = log_seed_open(sim);
	log_seed_put(wal, 9);
	log_emit(sim, "seed-three-lives", emit);
	wal_close(wal);
	simos_free(sim);

	/* A segment that is full up to its pad. */
	sim = simos_new(1);
	wal = log_seed_open(sim);
	log_seed_put(wal, WAL_MAX_PAYLOAD(LOG_SEG));
	log_seed_put(wal, WAL_MAX_PAYLOAD(LOG_SEG) - 1000);
	wal_force(wal, log_seed_put(wal, 2000));
	log_seed_put(wal, 10);
	log_emit(sim, "seed-pad", emit);
	wal_close(wal);
	simos_free(sim);
}

const struct fuzz_target fuzz_log = {
	.name = "log",
	.max = 40000,
	.run = log_run,
	.mutate = log_mutate,
	.seeds = log_seeds,
};
