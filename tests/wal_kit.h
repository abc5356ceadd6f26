/* wal_kit.h - what the tests of the log share: a log on simulated files, and a naive model of what it holds. */
#ifndef TXNFS_TESTS_WAL_KIT_H
#define TXNFS_TESTS_WAL_KIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"
#include "tests/simos.h"
#include "wal/wal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SEG (64u << 10)
#define MAX_LEN WAL_MAX_PAYLOAD(SEG)

static uint64_t kit_rng;

UNUSED static uint64_t kit_seed(void)
{
	const char *env = getenv("TXNFS_SEED");
	uint64_t seed = env ? strtoull(env, NULL, 0) : base_random_u64();

	printf("seed: TXNFS_SEED=%" PRIu64 "\n", seed);
	kit_rng = seed | 1;
	return seed;
}

UNUSED static uint64_t rnd(uint64_t below)
{
	kit_rng ^= kit_rng << 13;
	kit_rng ^= kit_rng >> 7;
	kit_rng ^= kit_rng << 17;
	return (kit_rng >> 11) % below;
}

/* The payload of a record follows from its txid. */
UNUSED static void fill(uint8_t *p, uint64_t txid, size_t len)
{
	uint64_t x = txid * 0x9e3779b97f4a7c15u + 1;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (uint8_t)x;
	}
}

struct model {
	struct wal_rec *v;
	size_t n, cap;
	uint64_t durable; /* everything below was forced */
	uint64_t next_txid;
};

UNUSED static void model_add(struct model *m, const struct wal_rec *rec)
{
	if (m->n == m->cap) {
		m->cap = m->cap ? m->cap * 2 : 64;
		m->v = reallocarray(m->v, m->cap, sizeof(*m->v));
		assert_non_null(m->v);
	}
	m->v[m->n++] = *rec;
}

UNUSED static int put(struct wal *wal, struct model *m, size_t len, bool control)
{
	static _Thread_local uint8_t data[MAX_LEN + 1];
	struct wal_rec rec = {
		.type = (uint8_t)(1 + rnd(255)),
		.flags = (uint8_t)rnd(8),
		.txid = ++m->next_txid,
		.prev = m->n ? m->v[m->n - 1].lsn : 0,
	};
	size_t cut = len ? (size_t)rnd(len) : 0;
	struct iovec iov[] = { { data, cut }, { NULL, 0 }, { data + cut, len - cut } };
	int r;

	fill(data, rec.txid, len);
	r = wal_append(wal, &rec, iov, 3, control);
	if (r == 0)
		model_add(m, &rec);
	return r;
}

UNUSED static void check_same(const struct wal_rec *a, const struct wal_rec *b)
{
	assert_int_equal(a->lsn, b->lsn);
	assert_int_equal(a->txid, b->txid);
	assert_int_equal(a->prev, b->prev);
	assert_int_equal(a->durable, b->durable);
	assert_int_equal(a->len, b->len);
	assert_int_equal(a->type, b->type);
	assert_int_equal(a->flags, b->flags);
}

/* Compares what a scan visits with the model, from record `at` on. */
struct visit {
	const struct model *m;
	size_t first, at;
	bool wrong; /* a record that is not the next one of the model */
};

UNUSED static int visit_model(void *arg, const struct wal_rec *rec, const void *payload)
{
	static _Thread_local uint8_t want[MAX_LEN];
	struct visit *v = arg;
	const struct wal_rec *m;

	if (v->at >= v->m->n) {
		v->wrong = true;
		return 0;
	}
	m = &v->m->v[v->at++];
	fill(want, m->txid, m->len);
	if (m->lsn != rec->lsn || m->txid != rec->txid || m->prev != rec->prev || m->len != rec->len ||
	    m->type != rec->type || m->flags != rec->flags || m->durable != rec->durable ||
	    memcmp(want, payload, rec->len) != 0)
		v->wrong = true;
	return 0;
}

/* Open and scan against the model. Records before the oldest segment do not count. */
UNUSED static int open_scan(struct simos *sim, bool read_only, const struct model *m, struct visit *v,
                            struct wal **out)
{
	struct wal_options opt = { .segment_size = SEG, .create = !read_only, .read_only = read_only };

	assert_int_equal(wal_open(simos_os(sim), simos_dir(sim), &opt, out), 0);
	*v = (struct visit){ .m = m };
	while (v->at < m->n && m->v[v->at].lsn < wal_begin(*out))
		v->at++;
	v->first = v->at;
	return wal_scan(*out, 0, visit_model, NULL, v, NULL);
}

/* Open, check that exactly the model is there, start. */
UNUSED static struct wal *open_start(struct simos *sim, const struct model *m)
{
	struct visit v;
	struct wal *wal;

	assert_int_equal(open_scan(sim, false, m, &v, &wal), 0);
	assert_false(v.wrong);
	assert_int_equal(v.at, m->n);
	assert_int_equal(wal_start(wal), 0);
	return wal;
}

UNUSED static void seg_name(char name[32], uint64_t number)
{
	snprintf(name, 32, "%016" PRIx64, number);
}

#endif
