/* test_wal.c - the log: codec, append, force, trim, read, full disks and failing calls. */
#include "tests/wal_kit.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

static void test_codec_round_trip(void **state UNUSED)
{
	for (int round = 0; round < 300; round++) {
		uint8_t data[300], raw[512];
		struct wal_rec rec = {
			.lsn = rnd(UINT64_MAX >> 12) * 8,
			.txid = rnd(UINT64_MAX),
			.prev = rnd(UINT64_MAX),
			.durable = rnd(UINT64_MAX),
			.len = (uint32_t)rnd(sizeof(data) + 1),
			.type = (uint8_t)rnd(256),
			.flags = (uint8_t)rnd(256),
		};
		uint64_t salt = rnd(UINT64_MAX);
		size_t size = wal_record_size(rec.len);
		struct wal_rec got;
		const void *payload;

		fill(data, rec.txid, rec.len);
		wal_encode(&rec, data, salt, raw);
		assert_int_equal(size % 8, 0);
		assert_int_equal(wal_decode(raw, sizeof(raw), rec.lsn, salt, &got, &payload), size);
		assert_int_equal(wal_decode(raw, size, rec.lsn, salt, &got, &payload), size);
		check_same(&rec, &got);
		assert_memory_equal(payload, data, rec.len);

		assert_int_equal(wal_decode(raw, size, rec.lsn + 8, salt, &got, &payload), -EUCLEAN);
		assert_int_equal(wal_decode(raw, size, rec.lsn, salt ^ 1, &got, &payload), -EUCLEAN);
		for (size_t i = 0; i < size; i++) {
			raw[i] ^= (uint8_t)(1 + rnd(255));
			assert_int_equal(wal_decode(raw, size, rec.lsn, salt, &got, &payload), -EUCLEAN);
			assert_int_equal(wal_decode(raw, i, rec.lsn, salt, &got, &payload), -EUCLEAN);
			wal_encode(&rec, data, salt, raw);
		}
	}
}

static void test_codec_random_bytes(void **state UNUSED)
{
	for (int round = 0; round < 20000; round++) {
		uint8_t raw[128], data[64];
		struct wal_rec rec;
		const void *payload;

		fill(raw, rnd(UINT64_MAX), sizeof(raw));
		memcpy(data, raw, sizeof(data));
		/* Half of them with a header that looks right, so that only the checksum is left. */
		if (round % 2)
			wal_encode(&(struct wal_rec){ .lsn = 64, .len = (uint32_t)rnd(64) }, data, 1, raw);
		assert_int_equal(wal_decode(raw, (size_t)rnd(sizeof(raw) + 1), 64, 2, &rec, &payload), -EUCLEAN);
	}
}

struct example {
	int n;
	struct wal_rec rec;
	char text[64];
};

static int visit_example(void *arg, const struct wal_rec *rec, const void *payload)
{
	struct example *e = arg;

	e->n++;
	e->rec = *rec;
	assert_true(rec->len < sizeof(e->text));
	memcpy(e->text, payload, rec->len);
	return 0;
}

/* SPEC.md shows the first bytes of a segment file. Take them from there and read them as a log. */
static void test_spec_example(void **state UNUSED)
{
	struct simos *sim = simos_new(1);
	const struct os *os = simos_os(sim);
	uint8_t *bytes = calloc(1, SEG);
	struct iovec iov = { bytes, SEG };
	struct example e = { 0 };
	bool inside = false;
	size_t n = 0;
	char line[512];
	struct wal *wal;
	uint64_t end;
	int fd;
	FILE *f = fopen(SPEC_PATH, "r");

	assert_non_null(f);
	assert_non_null(bytes);
	while (fgets(line, sizeof(line), f)) {
		unsigned off, b;
		int used;
		char *p = line;

		if (strncmp(line, "### Worked example", 18) == 0)
			inside = true;
		else if (line[0] == '#')
			inside = false;
		if (!inside || sscanf(line, "%4x:%n", &off, &used) != 1 || line[4] != ':')
			continue;
		assert_int_equal(off, n);
		for (p += used; *p != '|' && sscanf(p, " %2x%n", &b, &used) == 1; p += used)
			bytes[n++] = (uint8_t)b;
	}
	fclose(f);
	assert_int_equal(n, WAL_SEGMENT_HEADER + wal_record_size(13));

	fd = os->openat(os->ctx, simos_dir(sim), "0000000000000001", O_CREAT | O_RDWR, 0600);
	assert_int_equal(os_pwritev_full(os, fd, &iov, 1, 0), 0);
	os->close(os->ctx, fd);
	assert_int_equal(wal_open(os, simos_dir(sim), &(struct wal_options){ .read_only = true }, &wal), 0);
	assert_int_equal(wal_segment_size(wal), SEG);
	assert_int_equal(wal_scan(wal, 0, visit_example, NULL, &e, &end), 0);
	assert_int_equal(e.n, 1);
	check_same(&e.rec, &(struct wal_rec){ .lsn = 0x10040, .txid = 7, .prev = 0, .durable = 0x10040, .len = 13,
	                                      .type = 0x7f, .flags = WAL_CARRIED });
	assert_string_equal(e.text, "hello, world\n");
	assert_int_equal(end, 0x10040 + n - WAL_SEGMENT_HEADER);
	wal_close(wal);
	simos_free(sim);
	free(bytes);
}

static void test_append_and_read(void **state UNUSED)
{
	struct simos *sim = simos_new(2);
	struct model m = { 0 };
	struct wal *wal = open_start(sim, &m);
	static uint8_t want[MAX_LEN], got[MAX_LEN];
	struct wal_rec rec = { .type = 1 };
	struct iovec big = { want, MAX_LEN + 1 };
	void *payload;

	for (int i = 0; i < 300; i++)
		assert_int_equal(put(wal, &m, rnd(20) ? (size_t)rnd(2000) : MAX_LEN - (size_t)rnd(9), false), 0);
	assert_int_equal(wal_append(wal, &rec, &big, 1, true), -EMSGSIZE);
	rec.type = 0;
	assert_int_equal(wal_append(wal, &rec, NULL, 0, true), -EINVAL);
	for (size_t i = 0; i < m.n; i++) {
		size_t from = (size_t)rnd(m.v[i].len + 1);

		fill(want, m.v[i].txid, m.v[i].len);
		assert_int_equal(wal_read_rec(wal, m.v[i].lsn, &rec, &payload), 0);
		check_same(&m.v[i], &rec);
		assert_memory_equal(payload, want, rec.len);
		free(payload);
		assert_int_equal(wal_read(wal, rec.lsn + WAL_RECORD_HEADER + from, got, rec.len - from), 0);
		assert_memory_equal(got, want + from, rec.len - from);
	}
	assert_int_equal(wal_read(wal, wal_end(wal), got, 1), -EINVAL);
	assert_int_equal(wal_read(wal, wal_begin(wal), got, 1), -EINVAL);
	assert_int_equal(wal_read_rec(wal, m.v[5].lsn + 8, &rec, &payload), -EUCLEAN);

	/* A started log is scanned up to its end. */
	for (int i = 0; i < 2; i++) {
		size_t from = (size_t)rnd(m.n);
		struct visit v = { .m = &m, .at = from };
		uint64_t end;

		assert_int_equal(wal_scan(wal, m.v[from].lsn, visit_model, NULL, &v, &end), 0);
		assert_false(v.wrong);
		assert_int_equal(v.at, m.n);
		assert_int_equal(end, wal_end(wal));
		assert_int_equal(put(wal, &m, 10, false), 0);
	}
	wal_close(wal);
	assert_int_equal(simos_open_handles(sim), 0);
	wal_close(open_start(sim, &m));
	simos_free(sim);
	free(m.v);
}

static int visit_stop(void *arg, const struct wal_rec *rec UNUSED, const void *payload UNUSED)
{
	return ++*(int *)arg == 3 ? 42 : 0;
}

static void test_calling_sequence(void **state UNUSED)
{
	struct simos *sim = simos_new(3);
	const struct os *os = simos_os(sim);
	struct wal_options opt = { .segment_size = SEG };
	struct wal_rec rec = { .type = 1 };
	struct model m = { 0 };
	struct wal *wal;
	int n = 0;

	assert_int_equal(wal_open(os, simos_dir(sim), &opt, &wal), -ENOENT);
	opt = (struct wal_options){ .segment_size = SEG + 8, .create = true };
	assert_int_equal(wal_open(os, simos_dir(sim), &opt, &wal), -EINVAL);
	opt.segment_size = SEG;
	assert_int_equal(wal_open(os, simos_dir(sim), &opt, &wal), 0);
	assert_int_equal(wal_start(wal), -EINVAL);
	assert_int_equal(wal_append(wal, &rec, NULL, 0, false), -EINVAL);
	assert_int_equal(wal_force(wal, 0), -EINVAL);
	wal_close(wal);

	wal = open_start(sim, &m);
	for (int i = 0; i < 5; i++)
		assert_int_equal(put(wal, &m, 100, false), 0);
	wal_close(wal);

	/* The size of an existing log is its own. */
	opt = (struct wal_options){ .segment_size = SEG * 2, .read_only = true };
	assert_int_equal(wal_open(os, simos_dir(sim), &opt, &wal), 0);
	assert_int_equal(wal_segment_size(wal), SEG);
	assert_int_equal(wal_scan(wal, 0, visit_stop, NULL, &n, NULL), 42);
	assert_int_equal(wal_start(wal), -EROFS);
	wal_close(wal);
	simos_free(sim);
	free(m.v);
}

static void test_recycling(void **state UNUSED)
{
	struct simos *sim = simos_new(4);
	struct model m = { 0 };
	struct wal *wal = open_start(sim, &m);
	struct wal_stats st;
	char names[16][32];

	for (int i = 0; i < 3000; i++) {
		assert_int_equal(put(wal, &m, (size_t)rnd(3000), false), 0);
		if (rnd(20) == 0) {
			uint64_t keep = base_max_u64(wal_begin(wal), m.v[m.n - 1 - rnd(base_min_u64(m.n, 30))].lsn);

			assert_int_equal(wal_trim(wal, keep), 0);
			assert_true(wal_begin(wal) <= keep);
			assert_true(wal_begin(wal) + SEG > keep || wal_begin(wal) + SEG > wal_end(wal));
		}
		if (rnd(300) == 0) {
			wal_close(wal);
			wal = open_start(sim, &m);
		}
	}
	/* Everything may go: the current segment and at most two spares are left. */
	assert_int_equal(wal_trim(wal, UINT64_MAX), 0);
	wal_stats(wal, &st);
	assert_true(st.segments >= 2 && st.segments <= 3);
	assert_int_equal(simos_names(sim, names, 16), st.segments);
	/* Each life of a file has a salt of its own. */
	for (size_t i = 1; i < st.segments; i++) {
		const uint8_t *a = simos_bytes(sim, names[0], NULL), *b = simos_bytes(sim, names[i], NULL);

		assert_memory_not_equal(a + 32, b + 32, 8);
	}
	wal_close(wal);
	simos_free(sim);
	free(m.v);
}

static void test_many_segments(void **state UNUSED)
{
	struct simos *sim = simos_new(5);
	struct model m = { 0 };
	struct wal *wal = open_start(sim, &m);

	for (int i = 0; i < 400; i++) {
		assert_int_equal(put(wal, &m, MAX_LEN, false), 0);
		if (i % 50 == 0)
			assert_int_equal(wal_force(wal, m.v[m.n - 1].lsn), 0);
	}
	assert_int_equal(wal_force(wal, wal_end(wal)), 0);
	assert_int_equal(wal_durable(wal), wal_end(wal));
	for (int i = 0; i < 1000; i++) {
		struct wal_rec *want = &m.v[rnd(m.n)], rec;
		void *payload;

		assert_int_equal(wal_read_rec(wal, want->lsn, &rec, &payload), 0);
		check_same(want, &rec);
		free(payload);
	}
	assert_true(simos_open_handles(sim) <= 130);
	wal_close(wal);
	wal = open_start(sim, &m);
	assert_int_equal(wal_trim(wal, wal_end(wal)), 0);
	wal_close(wal);
	simos_free(sim);
	free(m.v);
}

static void test_full_disk(void **state UNUSED)
{
	struct simos *sim = simos_new(6);
	struct model m = { 0 };
	struct wal *wal = open_start(sim, &m);
	size_t ordinary = 0, control = 0;
	uint64_t end;
	int r;

	for (int round = 0; round < 3; round++) {
		simos_faults(sim)->space = (uint64_t)SEG * (4 + 2 * (uint64_t)round) + 1000;
		while ((r = put(wal, &m, (size_t)rnd(1000), false)) == 0)
			ordinary++;
		assert_int_equal(r, -ENOSPC);
		end = wal_end(wal);
		for (int i = 0; i < 3; i++)
			assert_int_equal(put(wal, &m, 1000, false), -ENOSPC);
		assert_int_equal(wal_end(wal), end);
		/* A whole segment is left for control records. */
		for (int i = 0; i < (int)(SEG / 1100); i++, control++)
			assert_int_equal(put(wal, &m, 1000, true), 0);
		assert_int_equal(put(wal, &m, 1, false), -ENOSPC);
		assert_int_equal(wal_force(wal, m.v[m.n - 1].lsn), 0);
		if (round == 1) {
			/* Restart on the full disk: there must be a way to write the end of recovery. */
			while (put(wal, &m, 1000, true) == 0)
				;
			simos_faults(sim)->space += SEG;
			wal_close(wal);
			wal = open_start(sim, &m);
			assert_int_equal(put(wal, &m, 100, false), -ENOSPC);
			assert_int_equal(put(wal, &m, 100, true), 0);
		}
		simos_faults(sim)->space = 0;
		assert_int_equal(put(wal, &m, 1000, false), 0);
	}
	assert_true(ordinary > 100 && control > 100);
	wal_close(wal);
	wal_close(open_start(sim, &m));

	/* Recycling needs no space, and a start with a spare needs none. */
	simos_faults(sim)->space = 1;
	wal = open_start(sim, &m);
	assert_int_equal(put(wal, &m, 100, true), 0);
	assert_int_equal(put(wal, &m, 100, false), -ENOSPC);
	assert_int_equal(wal_trim(wal, wal_end(wal)), 0);
	assert_int_equal(put(wal, &m, 100, false), 0);
	wal_close(wal);
	simos_free(sim);
	free(m.v);
}

static void test_failed_write(void **state UNUSED)
{
	for (int round = 0; round < 40; round++) {
		struct simos *sim = simos_new((uint64_t)round), *killed;
		struct model m = { 0 };
		struct wal *wal = open_start(sim, &m);
		uint64_t end;

		for (int i = 0; i < 30; i++)
			assert_int_equal(put(wal, &m, (size_t)rnd(900), false), 0);
		end = wal_end(wal);
		simos_faults(sim)->fail_pwritev = 1;
		simos_faults(sim)->write_all = round % 2;
		assert_int_equal(put(wal, &m, 500, true), -EIO);
		assert_int_equal(wal_end(wal), end);
		assert_false(wal_failed(wal));
		/* Killed now, or after going on: in neither case may the failed record be found. */
		killed = simos_copy(sim, false, 1);
		wal_close(open_start(killed, &m));
		simos_free(killed);
		for (int i = 0; i < 5; i++)
			assert_int_equal(put(wal, &m, (size_t)rnd(900), false), 0);
		assert_int_equal(m.v[m.n - 5].lsn, end);
		wal_close(wal);
		wal_close(open_start(sim, &m));
		simos_free(sim);
		free(m.v);
	}
}

static void test_failed_force_is_final(void **state UNUSED)
{
	struct simos *sim = simos_new(7);
	struct model m = { 0 };
	struct wal *wal = open_start(sim, &m);
	uint64_t first;

	assert_int_equal(put(wal, &m, 100, false), 0);
	first = m.v[0].lsn;
	assert_int_equal(wal_force(wal, first), 0);
	assert_int_equal(put(wal, &m, 100, false), 0);
	simos_faults(sim)->fail_fdatasync = 1;
	assert_int_equal(wal_force(wal, m.v[1].lsn), -EIO);
	assert_true(wal_failed(wal));
	assert_int_equal(wal_force(wal, m.v[1].lsn), -EIO);
	assert_int_equal(wal_force(wal, first), 0);
	assert_int_equal(put(wal, &m, 100, true), -EIO);
	assert_int_equal(wal_trim(wal, wal_end(wal)), -EIO);
	wal_close(wal);
	simos_free(sim);
	free(m.v);
}

/* For threads other than the main one, from which cmocka's assertions cannot return. */
#define MUST(cond)                                                                                                     \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			fprintf(stderr, "%s:%d: %s\n", __func__, __LINE__, #cond);                                     \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

#define COMMITTERS 8

struct group {
	struct wal *wal;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int appended;
};

/* The first force waits until everyone has appended, so that the second one must serve all the others. */
static void wait_for_all(void *arg)
{
	struct group *g = arg;

	pthread_mutex_lock(&g->lock);
	while (g->appended < COMMITTERS)
		pthread_cond_wait(&g->cond, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

static void *commit_one(void *arg)
{
	struct group *g = arg;
	struct wal_rec rec = { .type = 9 };

	MUST(wal_append(g->wal, &rec, NULL, 0, false) == 0);
	pthread_mutex_lock(&g->lock);
	g->appended++;
	pthread_cond_broadcast(&g->cond);
	pthread_mutex_unlock(&g->lock);
	MUST(wal_force(g->wal, rec.lsn) == 0);
	MUST(wal_durable(g->wal) > rec.lsn);
	return NULL;
}

static void test_group_commit(void **state UNUSED)
{
	struct simos *sim = simos_new(8);
	struct model m = { 0 };
	struct group g = { .wal = open_start(sim, &m) };
	pthread_t threads[COMMITTERS];
	struct wal_stats st;

	pthread_mutex_init(&g.lock, NULL);
	pthread_cond_init(&g.cond, NULL);
	simos_on_fdatasync(sim, wait_for_all, &g);
	for (int i = 0; i < COMMITTERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, commit_one, &g), 0);
	for (int i = 0; i < COMMITTERS; i++)
		pthread_join(threads[i], NULL);
	wal_stats(g.wal, &st);
	assert_int_equal(st.force_waits, COMMITTERS);
	assert_true(st.forces >= 1 && st.forces <= 2);
	wal_close(g.wal);
	simos_free(sim);
}

#define WRITERS 6

struct storm {
	struct wal *wal;
	struct simos *sim;
	pthread_mutex_t lock;
	uint64_t next_txid;       /* lock */
	uint64_t needed[WRITERS]; /* lock; each writer's: it may still read from here on */
	int nwriters;             /* lock */
	bool stop;                /* lock */
};

/* Append, force, read back, trim, all at once from several threads. */
static void *storm_writer(void *arg)
{
	struct storm *s = arg;
	uint8_t data[4000];
	void *payload;
	int me;

	pthread_mutex_lock(&s->lock);
	me = s->nwriters++;
	pthread_mutex_unlock(&s->lock);
	for (int i = 0; i < 300; i++) {
		struct wal_rec rec = { .type = 1 }, back;
		struct iovec iov = { data, 0 };
		uint64_t keep;

		pthread_mutex_lock(&s->lock);
		rec.txid = ++s->next_txid;
		s->needed[me] = wal_end(s->wal);
		pthread_mutex_unlock(&s->lock);
		iov.iov_len = rec.txid * 37 % sizeof(data);
		fill(data, rec.txid, iov.iov_len);
		MUST(wal_append(s->wal, &rec, &iov, 1, i % 10 == 0) == 0);
		MUST(wal_read_rec(s->wal, rec.lsn, &back, &payload) == 0);
		MUST(back.txid == rec.txid && memcmp(payload, data, back.len) == 0);
		free(payload);
		if (i % 7 == 0)
			MUST(wal_force(s->wal, rec.lsn) == 0);
		if (i % 11 != 0)
			continue;
		keep = wal_durable(s->wal);
		pthread_mutex_lock(&s->lock);
		for (int k = 0; k < WRITERS; k++)
			keep = base_min_u64(keep, s->needed[k]);
		pthread_mutex_unlock(&s->lock);
		MUST(wal_trim(s->wal, keep) == 0);
	}
	return NULL;
}

static int visit_storm(void *arg, const struct wal_rec *rec, const void *payload)
{
	uint64_t *last = arg;
	uint8_t want[4000];

	fill(want, rec->txid, rec->len);
	MUST(rec->lsn > *last);
	MUST(rec->len == rec->txid * 37 % sizeof(want) && memcmp(want, payload, rec->len) == 0);
	*last = rec->lsn;
	return 0;
}

/* What `txnfs log` does on a live mount: its own handle, reading only. */
static void *storm_reader(void *arg)
{
	struct storm *s = arg;
	bool stop = false;

	while (!stop) {
		struct wal_options opt = { .read_only = true };
		uint64_t last = 0;
		struct wal *wal;

		pthread_mutex_lock(&s->lock);
		stop = s->stop;
		pthread_mutex_unlock(&s->lock);
		MUST(wal_open(simos_os(s->sim), simos_dir(s->sim), &opt, &wal) == 0);
		if (wal_scan(wal, 0, visit_storm, NULL, &last, NULL) != 0)
			fprintf(stderr, "live scan: %s\n", wal_error_text(wal));
		MUST(wal_error_text(wal)[0] == 0);
		wal_close(wal);
	}
	return NULL;
}

static void test_threads(void **state UNUSED)
{
	struct simos *sim = simos_new(9);
	struct model m = { 0 };
	struct storm s = { .wal = open_start(sim, &m), .sim = sim };
	pthread_t writers[WRITERS], reader;
	uint64_t last = 0;

	pthread_mutex_init(&s.lock, NULL);
	assert_int_equal(pthread_create(&reader, NULL, storm_reader, &s), 0);
	for (size_t i = 0; i < ARRAY_LEN(writers); i++)
		assert_int_equal(pthread_create(&writers[i], NULL, storm_writer, &s), 0);
	for (size_t i = 0; i < ARRAY_LEN(writers); i++)
		pthread_join(writers[i], NULL);
	pthread_mutex_lock(&s.lock);
	s.stop = true;
	pthread_mutex_unlock(&s.lock);
	pthread_join(reader, NULL);
	assert_int_equal(wal_scan(s.wal, 0, visit_storm, NULL, &last, NULL), 0);
	wal_close(s.wal);
	simos_free(sim);
}

/* On real files: modes, names, and that a reader leaves nothing behind. */
static void test_real_files(void **state UNUSED)
{
	char dir[] = "/tmp/test_wal.XXXXXX";
	struct wal_options opt = { .segment_size = SEG, .create = true };
	struct visit v;
	struct model m = { 0 };
	struct wal *wal, *reader;
	struct dirent *e;
	struct stat st;
	int fd, n = 0;
	DIR *d;

	assert_non_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	assert_true(fd >= 0);
	v = (struct visit){ .m = &m };
	assert_int_equal(wal_open(os_real(), fd, &opt, &wal), 0);
	assert_int_equal(wal_scan(wal, 0, visit_model, NULL, &v, NULL), 0);
	assert_int_equal(wal_start(wal), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(put(wal, &m, (size_t)rnd(5000), false), 0);
	assert_int_equal(wal_force(wal, m.v[50].lsn), 0);

	opt = (struct wal_options){ .read_only = true };
	assert_int_equal(wal_open(os_real(), fd, &opt, &reader), 0);
	assert_int_equal(wal_scan(reader, 0, visit_model, NULL, &v, NULL), 0);
	assert_int_equal(v.at, m.n);
	assert_false(v.wrong);
	wal_close(reader);
	wal_close(wal);

	d = opendir(dir);
	assert_non_null(d);
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		n++;
		assert_int_equal(strlen(e->d_name), 16);
		assert_int_equal(fstatat(fd, e->d_name, &st, 0), 0);
		assert_int_equal(st.st_mode & 07777, 0600);
		assert_int_equal(st.st_size, SEG);
		assert_int_equal(unlinkat(fd, e->d_name, 0), 0);
	}
	closedir(d);
	assert_true(n >= 5);
	close(fd);
	assert_int_equal(rmdir(dir), 0);
	free(m.v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_codec_round_trip),
		cmocka_unit_test(test_codec_random_bytes),
		cmocka_unit_test(test_spec_example),
		cmocka_unit_test(test_append_and_read),
		cmocka_unit_test(test_calling_sequence),
		cmocka_unit_test(test_recycling),
		cmocka_unit_test(test_many_segments),
		cmocka_unit_test(test_full_disk),
		cmocka_unit_test(test_failed_write),
		cmocka_unit_test(test_failed_force_is_final),
		cmocka_unit_test(test_group_commit),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_real_files),
	};

	kit_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
