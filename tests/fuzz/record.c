/*
 * record.c - fuzz target: the decoder of log records (txn/rec.h) on arbitrary payloads.
 *
 * Encodings are canonical: what is decoded encodes to the same bytes, so no bit of a payload is without meaning. What
 * is decoded can be described: one line of text, and valid members of a JSON object. Input: the type, then the payload.
 */
#include "tests/fuzz/rec_mutate.h"
#include "tests/fuzz/seed_records.h"

#include <jansson.h>

#define RECORD_LSN 0x123450u

static void record_described(const struct txn_rec *rec)
{
	struct base_buf text = {0}, json = {0}, all = {0};
	json_error_t err;
	json_t *j;

	txn_rec_table[rec->type].describe(rec, &text, &json);
	FUZZ_CHECK(!text.err && !json.err, "describing: %d, %d", text.err, json.err);
	FUZZ_CHECK(!text.n || fuzz_readable((char *)text.p), "unreadable: \"%s\"", (char *)text.p);
	FUZZ_CHECK(text.n == (text.n ? strlen((char *)text.p) : 0), "a 0 byte in the text");
	base_buf_printf(&all, "{%s}", json.n ? (char *)json.p : "");
	j = json_loadb((char *)all.p, all.n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &err);
	FUZZ_CHECK(j && json_is_object(j), "no JSON: %s: %s", err.text, (char *)all.p);
	json_decref(j);
	base_buf_free(&all);
	base_buf_free(&text);
	base_buf_free(&json);
}

static uint64_t record_same_place(void *arg UNUSED, uint64_t pos)
{
	return pos;
}

static uint64_t record_other_place(void *arg UNUSED, uint64_t pos UNUSED)
{
	return 0x10000;
}

static void record_relocated(unsigned type, const uint8_t *payload, size_t size)
{
	CLEANUP_FREE uint8_t *copy = fuzz_copy(payload, size);

	FUZZ_CHECK(txn_rec_relocate(type, copy, size, record_same_place, NULL) == 0, "relocating fails");
	FUZZ_CHECK(!size || !memcmp(copy, payload, size), "relocated to where it is, it is another one");
	FUZZ_CHECK(txn_rec_relocate(type, copy, size, record_other_place, NULL) == 0, "relocating fails");
	FUZZ_CHECK(txn_rec_relocate(type, copy, size, record_same_place, NULL) == 0, "relocated, it does not decode");
}

static void record_run(const uint8_t *data, size_t size)
{
	size_t n = size ? size - 1 : 0;
	CLEANUP_FREE uint8_t *payload = fuzz_copy(data + (size ? 1 : 0), n);
	CLEANUP_FREE uint8_t *again = fuzz_copy(payload, n);
	struct wal_rec h = {.type = size ? data[0] : 0, .lsn = RECORD_LSN, .len = (uint32_t)n};
	struct txn_rec rec;
	bool ok;
	int r = txn_rec_decode(&h, payload, &rec);

	FUZZ_CHECK(txn_rec_name(h.type)[0], "type %u has no name", h.type);
	if (r) {
		FUZZ_CHECK(r == -EUCLEAN, "error %d", r);
		FUZZ_CHECK(txn_rec_relocate(h.type, again, n, record_same_place, NULL) == -EUCLEAN,
		           "relocated all the same");
		return;
	}
	FUZZ_CHECK(rec.type == h.type, "type %u was decoded as %u", h.type, rec.type);
	FUZZ_CHECK(fuzz_encode(&rec, again, n, &ok) == n && ok, "it does not encode to as many bytes");
	FUZZ_CHECK(!n || !memcmp(payload, again, n), "it encodes to other bytes");
	if (rec.type == TXN_REC_WRITE && !rec.u.write.stolen)
		FUZZ_CHECK(rec.u.write.new_pos + rec.u.write.len == RECORD_LSN + WAL_RECORD_HEADER + n,
		           "the position of the after-image is not where it is");
	record_described(&rec);
	record_relocated(h.type, payload, n);
}

static size_t record_mutate(struct fuzz_rng *rng, uint8_t *data, size_t size, size_t max)
{
	if (!size) {
		data[0] = (uint8_t)fuzz_rnd(rng, TXN_REC_TYPES);
		return 1;
	}
	if (fuzz_rnd(rng, 50) == 0)
		data[0] = (uint8_t)fuzz_rnd(rng, TXN_REC_TYPES + 1);
	return 1 + fuzz_rec_mutate(rng, data[0], data + 1, size - 1, max - 1);
}

static void record_seeds(void (*emit)(const char *name, const void *p, size_t n))
{
	struct txn_rec recs[SEED_RECORDS_MAX];
	size_t n = seed_records(recs);
	uint8_t buf[4096];
	char name[64];
	bool ok;

	for (size_t i = 0; i < n; i++) {
		size_t len = fuzz_encode(&recs[i], buf + 1, sizeof(buf) - 1, &ok);

		if (!ok)
			abort();
		buf[0] = (uint8_t)recs[i].type;
		snprintf(name, sizeof(name), "seed-%02zu-%s", i, txn_rec_name(recs[i].type));
		emit(name, buf, len + 1);
	}
}

const struct fuzz_target fuzz_record = {
	.name = "record",
	.max = 2048,
	.run = record_run,
	.mutate = record_mutate,
	.seeds = record_seeds,
};
