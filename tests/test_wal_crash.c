/* test_wal_crash.c - the log after kills, power losses and damage: what a scan finds, and what it refuses. */
#define XXH_INLINE_ALL
#include "tests/wal_kit.h"

#include <xxhash.h>

static void kill_and_restart(struct simos **sim, struct wal **wal, const struct model *m)
{
	struct simos *next = simos_copy(*sim, false, rnd(UINT64_MAX));

	wal_close(*wal);
	simos_free(*sim);
	*sim = next;
	*wal = open_start(*sim, m);
}

/*
 * Some of what was not forced may be lost, from some record on; nothing else may happen. At times the power goes again
 * before the new life has begun, or while it begins.
 */
static void lose_power(struct simos **sim, struct wal **wal, struct model *m)
{
	bool again;

	do {
		struct simos *next = simos_copy(*sim, true, rnd(UINT64_MAX));
		struct visit v;

		wal_close(*wal);
		simos_free(*sim);
		*sim = next;
		assert_int_equal(open_scan(*sim, false, m, &v, wal), 0);
		assert_false(v.wrong);
		assert_true(v.at == m->n || m->v[v.at].lsn >= m->durable);
		m->n = v.at;
		again = rnd(4) == 0;
		if (!again || rnd(2)) {
			assert_int_equal(wal_start(*wal), 0);
			/* All that was found has been made durable, before anything builds on it. */
			m->durable = wal_durable(*wal);
		}
	} while (again);
}

static void test_against_model(void **state UNUSED)
{
	for (int round = 0; round < 25; round++) {
		struct simos *sim = simos_new(rnd(UINT64_MAX));
		struct model m = { 0 };
		struct wal *wal = open_start(sim, &m);
		size_t max = rnd(3) ? 1000 : MAX_LEN;
		int crashes = (int)rnd(4) + 1;

		for (int step = 0; step < 400; step++) {
			uint64_t dice = rnd(1000);

			if (dice < 800) {
				assert_int_equal(put(wal, &m, (size_t)rnd(max), rnd(4) == 0), 0);
			} else if (dice < 900) {
				size_t i = m.n ? (size_t)rnd(m.n) : 0;

				if (m.n == 0 || m.v[i].lsn < wal_begin(wal))
					continue;
				assert_int_equal(wal_force(wal, m.v[i].lsn), 0);
				assert_true(wal_durable(wal) > m.v[i].lsn);
				assert_true(wal_durable(wal) >= m.durable);
				m.durable = wal_durable(wal);
			} else if (dice < 940 && m.durable) {
				/* As its user does: nothing is trimmed that has not been forced. */
				assert_int_equal(wal_trim(wal, m.durable - base_min_u64(m.durable, rnd(4 * SEG))), 0);
			} else if (dice < 960) {
				wal_close(wal);
				wal = open_start(sim, &m);
				m.durable = wal_durable(wal);
			} else if (dice < 980) {
				kill_and_restart(&sim, &wal, &m);
				m.durable = wal_durable(wal);
			} else if (dice < 980 + 5 * (uint64_t)crashes) {
				lose_power(&sim, &wal, &m);
			}
		}
		wal_close(wal);
		wal_close(open_start(sim, &m));
		assert_int_equal(simos_open_handles(sim), 0);
		simos_free(sim);
		free(m.v);
	}
}

/* Power is lost at each single fdatasync of a run with starts and trims. */
struct cut {
	struct simos *sim, *copy;
	uint64_t countdown;
};

static void take_copy(void *arg)
{
	struct cut *c = arg;

	if (--c->countdown == 0)
		c->copy = simos_copy(c->sim, true, rnd(UINT64_MAX));
}

static void test_power_loss_at_any_sync(void **state UNUSED)
{
	for (uint64_t at = 1; at < 60; at++) {
		struct cut c = { .sim = simos_new(at), .countdown = at };
		struct model m = { 0 }, after = { 0 };
		struct wal *wal;
		struct visit v;

		simos_on_fdatasync(c.sim, take_copy, &c);
		for (int life = 0; life < 30; life++) {
			wal = open_start(c.sim, &m);
			for (int i = 0; i < 60 && !c.copy; i++) {
				assert_int_equal(put(wal, &m, 3000, false), 0);
				if (i % 20 == 19) {
					assert_int_equal(wal_force(wal, m.v[m.n - 1].lsn), 0);
					if (!c.copy)
						m.durable = wal_durable(wal);
				}
				if (i % 30 == 29 && m.durable > 2 * SEG)
					assert_int_equal(wal_trim(wal, m.durable - 2 * SEG), 0);
			}
			wal_close(wal);
			if (c.copy)
				break;
		}
		assert_non_null(c.copy);
		assert_int_equal(open_scan(c.copy, false, &m, &v, &wal), 0);
		assert_false(v.wrong);
		assert_true(v.at == m.n || m.v[v.at].lsn >= m.durable);
		assert_int_equal(wal_start(wal), 0);
		assert_int_equal(put(wal, &after, 10, false), 0);
		wal_close(wal);
		simos_free(c.copy);
		simos_free(c.sim);
		free(after.v);
		free(m.v);
	}
}

#define LIFE 60 /* records in the first one */

/* A log of two lives and several segments. Everything below *durable is known to have been durable. */
static struct simos *small_log(struct model *m, uint64_t *durable)
{
	struct simos *sim = simos_new(11);
	struct wal *wal = NULL;

	for (int life = 0; life < 2; life++) {
		wal = open_start(sim, m);
		for (int i = 0; i < LIFE; i++) {
			assert_int_equal(put(wal, m, (size_t)rnd(3500), false), 0);
			if (i % 10 == 5)
				assert_int_equal(wal_force(wal, m->v[m->n - 1].lsn), 0);
		}
		if (life == 0)
			wal_close(wal);
	}
	*durable = m->v[m->n - 1].durable;
	wal_close(wal);
	return sim;
}

static void expect_prefix_or_damage(struct simos *sim, const struct model *m, bool damage)
{
	struct wal *wal;
	struct visit v;
	int r = open_scan(sim, true, m, &v, &wal);

	assert_false(v.wrong);
	assert_true(r == 0 || r == -EUCLEAN);
	assert_int_equal(r != 0, wal_error_text(wal)[0] != 0);
	if (damage)
		assert_int_equal(r, -EUCLEAN);
	wal_close(wal);
}

/* Segment and offset of a record that holds the byte, by the model; the header counts as durable. */
static bool is_used(const struct model *m, uint64_t pos, bool *pad_or_record)
{
	*pad_or_record = false;
	if (pos % SEG < WAL_SEGMENT_HEADER)
		return true;
	for (size_t i = 0; i < m->n; i++)
		if (pos >= m->v[i].lsn && pos < m->v[i].lsn + wal_record_size(m->v[i].len))
			return *pad_or_record = true;
	return false;
}

static void flip(struct simos *sim, const struct model *m, const char *name, uint64_t number, uint64_t off,
                 uint64_t durable)
{
	uint8_t *p = simos_bytes(sim, name, NULL) + off, old = *p;
	uint64_t pos = number * SEG + off;
	bool record;
	bool damage = is_used(m, pos, &record) && (!record || pos < durable);

	*p ^= (uint8_t)(1u << rnd(8));
	expect_prefix_or_damage(sim, m, damage);
	*p = (uint8_t)rnd(256);
	expect_prefix_or_damage(sim, m, damage && *p != old);
	*p = old;
}

static void test_flipped_bytes(void **state UNUSED)
{
	struct model m = { 0 };
	uint64_t durable, size;
	struct simos *sim = small_log(&m, &durable);
	char names[32][32];
	size_t n = simos_names(sim, names, 32);

	assert_true(n >= 5);
	for (size_t i = 0; i < n; i++) {
		uint64_t number = strtoull(names[i], NULL, 16);

		assert_non_null(simos_bytes(sim, names[i], &size));
		for (uint64_t off = 0; off < 150; off++)
			flip(sim, &m, names[i], number, off, durable);
		for (int k = 0; k < 40; k++)
			flip(sim, &m, names[i], number, rnd(size), durable);
	}
	/* All of the last record's header and some of others. */
	for (int k = 0; k < 10; k++) {
		const struct wal_rec *rec = &m.v[k ? rnd(m.n) : m.n - 1];
		char name[32];

		seg_name(name, rec->lsn / SEG);
		for (uint64_t off = 0; off < WAL_RECORD_HEADER; off++)
			flip(sim, &m, name, rec->lsn / SEG, rec->lsn % SEG + off, durable);
	}
	expect_prefix_or_damage(sim, &m, false);
	simos_free(sim);
	free(m.v);
}

static void test_truncated_files(void **state UNUSED)
{
	struct model m = { 0 };
	uint64_t durable;
	struct simos *sim = small_log(&m, &durable);
	char names[32][32];
	size_t n = simos_names(sim, names, 32);

	for (size_t i = 0; i < n; i++) {
		uint64_t start = strtoull(names[i], NULL, 16) * SEG;

		for (int k = 0; k < 60; k++) {
			struct simos *cut = simos_copy(sim, false, 1);
			uint64_t size = k < 20 ? (uint64_t)k * 4 : rnd(SEG);
			const uint8_t *bytes = simos_bytes(cut, names[i], NULL);
			bool lost = size < WAL_SEGMENT_HEADER;
			uint64_t known = 0;

			/* The records that are left tell what had been durable. */
			for (size_t j = 0; j < m.n; j++) {
				uint64_t lsn = m.v[j].lsn, end = lsn + wal_record_size(m.v[j].len);

				if (lsn / SEG * SEG != start || end <= start + size)
					known = m.v[j].durable;
			}
			/* What is missing is taken for zeros: a byte that was one is not lost. */
			for (uint64_t off = size; off < SEG && start + off < known; off++)
				lost |= bytes[off] != 0;
			simos_truncate(cut, names[i], size);
			expect_prefix_or_damage(cut, &m, lost);
			simos_free(cut);
		}
	}
	simos_free(sim);
	free(m.v);
}

static void test_lost_files(void **state UNUSED)
{
	struct model m = { 0 };
	uint64_t durable;
	struct simos *sim = small_log(&m, &durable);
	const uint64_t first = m.v[0].lsn / SEG, last = m.v[m.n - 1].lsn / SEG;
	int gaps = 0, pads = 0;

	for (uint64_t k = first; k <= last; k++) {
		struct simos *lost = simos_copy(sim, false, 1);
		const struct os *os = simos_os(lost);
		char name[32];
		struct wal *wal;
		struct visit v;
		int r;

		seg_name(name, k);
		if (os->unlinkat(os->ctx, simos_dir(lost), name) != 0) {
			/* The spare of the first life, which became a segment of the second one. */
			gaps++;
			simos_free(lost);
			continue;
		}
		r = open_scan(lost, true, &m, &v, &wal);
		/* The oldest one may have been trimmed: then the log begins with the next. */
		assert_int_equal(r, k == first ? 0 : -EUCLEAN);
		assert_false(v.wrong);
		assert_true(r == 0 || strstr(wal_error_text(wal), name));
		wal_close(wal);
		simos_free(lost);
	}
	assert_int_equal(gaps, 1);
	for (uint64_t k = first + 1; k <= last; k++) {
		struct simos *lost = simos_copy(sim, false, 1);
		const struct os *os = simos_os(lost);
		struct wal *wal;
		struct visit v;
		char name[32];
		size_t j = 0;
		bool padded;

		/* All from one on: the pad record of the segment before tells that it had gone on. */
		for (uint64_t i = k; i <= last + 2; i++) {
			seg_name(name, i);
			os->unlinkat(os->ctx, simos_dir(lost), name);
		}
		while (m.v[j].lsn < k * SEG)
			j++;
		padded = j != LIFE && k * SEG - m.v[j - 1].lsn - wal_record_size(m.v[j - 1].len) >= WAL_RECORD_HEADER;
		pads += padded;
		assert_int_equal(open_scan(lost, true, &m, &v, &wal), padded ? -EUCLEAN : 0);
		assert_false(v.wrong);
		wal_close(wal);
		simos_free(lost);
	}
	assert_true(pads > 0);
	simos_free(sim);
	free(m.v);
}

/* Change a header field and make its checksum right again. */
static void patch_header(struct simos *sim, const char *name, size_t off, uint64_t value, size_t n)
{
	uint8_t *p = simos_bytes(sim, name, NULL);
	uint64_t sum;

	memcpy(p + off, &value, n);
	sum = XXH3_64bits(p + 16, WAL_SEGMENT_HEADER - 16);
	memcpy(p + 8, &sum, sizeof(sum));
}

static void test_wrong_headers(void **state UNUSED)
{
	static const struct {
		size_t off, n;
		uint64_t value;
		int err;
	} cases[] = {
		{ 16, 4, WAL_VERSION + 1, -EPROTONOSUPPORT },
		{ 16, 4, 0, -EUCLEAN },
		{ 20, 4, SEG * 2, -EUCLEAN },
		{ 20, 4, 0, -EUCLEAN },
		{ 24, 8, 77, -EUCLEAN },
		{ 24, 8, UINT64_MAX, -EUCLEAN },
		{ 56, 8, 1, -EUCLEAN },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct model m = { 0 };
		uint64_t durable;
		struct simos *sim = small_log(&m, &durable);
		struct wal *wal;
		struct visit v;
		char name[32];

		seg_name(name, m.v[m.n / 2 - 10].lsn / SEG);
		patch_header(sim, name, cases[i].off, cases[i].value, cases[i].n);
		assert_int_equal(open_scan(sim, i % 2, &m, &v, &wal), cases[i].err);
		assert_false(v.wrong);
		assert_non_null(strstr(wal_error_text(wal), name));
		assert_true(wal_start(wal) < 0);
		wal_close(wal);
		simos_free(sim);
		free(m.v);
	}
}

/* Records A | force | B C D, where the medium has lost B alone. */
static void test_torn_tail_or_damage(void **state UNUSED)
{
	for (int forced = 0; forced < 2; forced++) {
		struct simos *sim = simos_new(12);
		struct model m = { 0 };
		struct wal *wal = open_start(sim, &m);
		uint64_t prev_end;
		struct visit v;
		uint8_t *byte;
		char name[32];

		assert_int_equal(put(wal, &m, 100, false), 0);
		assert_int_equal(wal_force(wal, m.v[0].lsn), 0);
		for (int i = 0; i < 3; i++)
			assert_int_equal(put(wal, &m, 1000, false), 0);
		if (forced) {
			/* E says that B had been durable. */
			assert_int_equal(wal_force(wal, m.v[3].lsn), 0);
			assert_int_equal(put(wal, &m, 5, false), 0);
		}
		wal_close(wal);
		seg_name(name, m.v[1].lsn / SEG);
		memset(simos_bytes(sim, name, NULL) + m.v[1].lsn % SEG, 0, 600);
		if (forced) {
			char lsn[32];

			assert_int_equal(open_scan(sim, false, &m, &v, &wal), -EUCLEAN);
			snprintf(lsn, sizeof(lsn), "LSN %#" PRIx64, m.v[1].lsn);
			assert_non_null(strstr(wal_error_text(wal), name));
			assert_non_null(strstr(wal_error_text(wal), lsn));
		} else {
			m.n = 1;
			wal = open_start(sim, &m);
			assert_string_equal(wal_error_text(wal), "");
			wal_close(wal);
			/* The new life goes on elsewhere: C and D never come back. */
			wal = open_start(sim, &m);
			assert_int_equal(put(wal, &m, 500, false), 0);
			wal_close(wal);
			wal = open_start(sim, &m);
			wal_close(wal);
			assert_int_equal(open_scan(sim, false, &m, &v, &wal), 0);
			assert_int_equal(v.at, 2);
			wal_close(wal);
			/* The life before ends exactly where its successor says. */
			byte = simos_bytes(sim, "0000000000000003", NULL) + 40;
			memcpy(&prev_end, byte, sizeof(prev_end));
			assert_int_equal(prev_end, m.v[0].lsn + wal_record_size(m.v[0].len));
			patch_header(sim, "0000000000000003", 40, prev_end - 8, 8);
			assert_int_equal(open_scan(sim, false, &m, &v, &wal), -EUCLEAN);
		}
		wal_close(wal);
		simos_free(sim);
		free(m.v);
	}
}

/* A record that was never forced, but accepted by a restart: the new life's header alone vouches for it. */
static void test_accepted_is_durable(void **state UNUSED)
{
	struct simos *sim = simos_new(15);
	struct model m = { 0 };
	struct wal *wal = open_start(sim, &m);
	struct visit v;
	char name[32];

	assert_int_equal(put(wal, &m, 100, false), 0);
	seg_name(name, m.v[0].lsn / SEG);
	wal_close(wal);
	wal_close(open_start(sim, &m));
	simos_bytes(sim, name, NULL)[m.v[0].lsn % SEG + 60] ^= 1;
	assert_int_equal(open_scan(sim, false, &m, &v, &wal), -EUCLEAN);
	assert_int_equal(v.at, 0);
	wal_close(wal);
	simos_free(sim);
	free(m.v);
}

/* Segments beyond a torn tail, with good records in them, are never visited, even when all before them is trimmed. */
static void abandon_segments(bool interrupted)
{
	struct simos *sim = simos_new(13);
	struct model m = { 0 };
	struct wal *wal = open_start(sim, &m);
	const size_t torn = 10;
	struct wal_stats st;
	struct visit v;
	char name[32];

	while (wal_end(wal) < 6 * SEG)
		assert_int_equal(put(wal, &m, 2000, false), 0);
	wal_close(wal);
	seg_name(name, m.v[torn].lsn / SEG);
	simos_bytes(sim, name, NULL)[m.v[torn].lsn % SEG] ^= 1;
	m.n = torn;
	if (interrupted) {
		/* The start fails after the new life's segment is there and before the others are gone. */
		assert_int_equal(open_scan(sim, false, &m, &v, &wal), 0);
		simos_faults(sim)->fail_pwritev = 2;
		assert_int_equal(wal_start(wal), -EIO);
		wal_close(wal);
	}
	wal = open_start(sim, &m);
	wal_stats(wal, &st);
	/* The torn one, the current one and spares; else those in between, and the first life that came to nothing. */
	if (interrupted)
		assert_true(st.segments > 6);
	else
		assert_true(st.segments <= 4);
	for (int i = 0; i < 100; i++)
		assert_int_equal(put(wal, &m, 2000, false), 0);
	wal_close(wal);
	wal = open_start(sim, &m);
	assert_int_equal(wal_trim(wal, interrupted ? 3 * SEG : m.v[torn].lsn), 0);
	assert_true(wal_begin(wal) <= m.v[torn].lsn && wal_begin(wal) > m.v[torn - 1].lsn);
	if (interrupted)
		assert_int_equal(wal_begin(wal), 3 * SEG);
	wal_close(wal);
	wal_close(open_start(sim, &m));
	simos_free(sim);
	free(m.v);
}

static void test_abandoned_segments(void **state UNUSED)
{
	abandon_segments(false);
	abandon_segments(true);
}

static void test_many_reopens(void **state UNUSED)
{
	struct simos *sim = simos_new(14);
	struct model m = { 0 };
	struct wal *wal = open_start(sim, &m);
	struct wal_stats st;

	for (int i = 0; i < 300; i++) {
		if (i % 3 == 0)
			assert_int_equal(put(wal, &m, (size_t)rnd(100), false), 0);
		kill_and_restart(&sim, &wal, &m);
		if (i % 50 == 49)
			assert_int_equal(wal_trim(wal, wal_end(wal)), 0);
	}
	assert_int_equal(wal_trim(wal, wal_end(wal)), 0);
	wal_stats(wal, &st);
	assert_true(st.segments <= 3);
	wal_close(wal);
	simos_free(sim);
	free(m.v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_against_model),
		cmocka_unit_test(test_power_loss_at_any_sync),
		cmocka_unit_test(test_flipped_bytes),
		cmocka_unit_test(test_truncated_files),
		cmocka_unit_test(test_lost_files),
		cmocka_unit_test(test_wrong_headers),
		cmocka_unit_test(test_torn_tail_or_damage),
		cmocka_unit_test(test_accepted_is_durable),
		cmocka_unit_test(test_abandoned_segments),
		cmocka_unit_test(test_many_reopens),
	};

	kit_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
