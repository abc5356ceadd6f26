/* test_extent.c - the extent map against a naive model: an array with one cell per byte. */
#include "base/base.h"
#include "txn/extent.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define CELLS 400u
#define RECORD 4096u /* log positions are record * RECORD + offset, so that ranges of different records never join */

static uint64_t state;

static uint64_t rnd(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

static void seed(void)
{
	const char *s = getenv("TXNFS_SEED");

	state = (s ? strtoull(s, NULL, 0) : base_random_u64()) | 1;
	print_message("TXNFS_SEED=%" PRIu64 "\n", state);
}

struct cell {
	enum txn_where where;
	uint64_t pos;
};

/* cell[CELLS] stands for everything from CELLS on. */
static struct cell model[CELLS + 1];

static bool model_joins(unsigned i)
{
	const struct cell *a = &model[i - 1], *b = &model[i];

	return a->where == b->where && (a->where != TXN_IN_LOG || a->pos + 1 == b->pos);
}

static uint64_t cell_end(unsigned i)
{
	return i < CELLS ? i + 1 : TXN_EXTENT_END;
}

/* The longest run of bytes that belong together around byte i. */
static struct txn_extent model_run(unsigned i)
{
	unsigned first = i, last = i;

	while (first > 0 && model_joins(first))
		first--;
	while (last < CELLS && model_joins(last + 1))
		last++;
	return (struct txn_extent){
		.off = first, .len = cell_end(last) - first, .where = model[i].where, .pos = model[first].pos};
}

static unsigned cell_of(uint64_t off)
{
	return off < CELLS ? (unsigned)off : CELLS;
}

static void same_extent(const struct txn_extent *a, const struct txn_extent *b)
{
	assert_int_equal(a->off, b->off);
	assert_int_equal(a->len, b->len);
	assert_int_equal(a->where, b->where);
	assert_int_equal(a->pos, b->pos);
	assert_false(a->stolen);
}

static void check_get(const struct txn_extents *x, uint64_t off, uint64_t end)
{
	struct txn_extent run = model_run(cell_of(off)), piece;
	uint64_t run_end = base_min_u64(run.off + run.len, end);

	memset(&piece, 0xaa, sizeof(piece));
	txn_extents_get(x, off, end, &piece);
	if (run.where == TXN_IN_LOG)
		run.pos += off - run.off;
	run.off = off;
	run.len = run_end - off;
	same_extent(&piece, &run);
}

static void check_next(const struct txn_extents *x, uint64_t off)
{
	struct txn_extent e, run;

	for (unsigned i = cell_of(off); i <= CELLS; i++) {
		if (model[i].where == TXN_AT_HOME)
			continue;
		run = model_run(i);
		assert_true(txn_extents_next(x, off, &e));
		same_extent(&e, &run);
		return;
	}
	assert_false(txn_extents_next(x, off, &e));
}

static size_t model_count(uint64_t off, uint64_t end)
{
	size_t n = 0;

	for (unsigned i = cell_of(off); i <= CELLS && i < end; i++)
		if (model[i].where != TXN_AT_HOME && (i == cell_of(off) || !model_joins(i)))
			n++;
	return n;
}

static void check_all(const struct txn_extents *x)
{
	uint64_t at = 0;
	struct txn_extent e;
	size_t n = 0;

	while (at != TXN_EXTENT_END && txn_extents_next(x, at, &e)) {
		struct txn_extent run = model_run(cell_of(e.off));

		same_extent(&e, &run);
		n++;
		at = e.off + e.len;
	}
	assert_int_equal(n, model_count(0, TXN_EXTENT_END));
	assert_int_equal(n, x->count);
}

static void random_range(uint64_t *off, uint64_t *end)
{
	uint64_t longest = rnd(4) ? 12 : CELLS;

	*off = rnd(CELLS + 1);
	*end = *off + 1 + rnd(longest);
	if (*end > CELLS)
		*end = TXN_EXTENT_END;
	/* The model has no cells behind CELLS to tell apart. */
	if (*off == CELLS)
		*end = TXN_EXTENT_END;
}

static void set_both(struct txn_extents *x)
{
	size_t nodes;
	uint64_t off, end, pos = 0;
	enum txn_where where = (enum txn_where)rnd(3);

	random_range(&off, &end);
	if (where == TXN_IN_LOG && end == TXN_EXTENT_END)
		where = TXN_ZERO;
	if (where == TXN_IN_LOG)
		/* Mostly at the offset's own place in one of few records, so that neighbours often continue. */
		pos = (1 + rnd(3)) * RECORD + (rnd(4) ? off : rnd(RECORD - CELLS));
	assert_int_equal(txn_extents_reserve(x, 1), 0);
	assert_true(x->spares >= 2);
	nodes = x->count + x->spares;
	txn_extents_set(x, off, end, where, where == TXN_IN_LOG ? pos : rnd(9));
	assert_true(x->count + x->spares <= nodes); /* nothing was allocated */
	for (unsigned i = cell_of(off); i <= CELLS && i < end; i++)
		model[i] = (struct cell){.where = where, .pos = where == TXN_IN_LOG ? pos + i - off : 0};
}

static uint64_t move_record(void *arg, uint64_t pos)
{
	uint64_t shift = *(uint64_t *)arg;

	/* Records change places, in another order than they were in. */
	return ((pos / RECORD + shift) % 5 + 1) * RECORD + pos % RECORD;
}

static void relocate_both(struct txn_extents *x)
{
	uint64_t shift = rnd(5);

	txn_extents_relocate(x, move_record, &shift);
	for (unsigned i = 0; i <= CELLS; i++)
		if (model[i].where == TXN_IN_LOG)
			model[i].pos = move_record(&shift, model[i].pos);
}

static void test_model(void **arg)
{
	(void)arg;
	seed();
	for (int round = 0; round < 40; round++) {
		struct txn_extents x;
		uint64_t off, end;

		txn_extents_init(&x);
		memset(model, 0, sizeof(model));
		for (int step = 0; step < 400; step++) {
			set_both(&x);
			if (rnd(30) == 0)
				relocate_both(&x);
			for (int i = 0; i < 4; i++) {
				random_range(&off, &end);
				check_get(&x, off, end);
				check_next(&x, off);
				assert_int_equal(txn_extents_count(&x, off, end), model_count(off, end));
			}
			check_all(&x);
		}
		txn_extents_free(&x);
		assert_int_equal(x.count, 0);
		assert_int_equal(x.spares, 0);
		assert_null(x.root);
		assert_null(x.spare);
	}
}

static void test_reserve_is_exact(void **arg)
{
	struct txn_extents x;
	const size_t holes = 500;

	(void)arg;
	txn_extents_init(&x);
	assert_int_equal(txn_extents_reserve(&x, holes + 1), 0);
	assert_int_equal(x.spares, 2 * (holes + 1));
	txn_extents_set(&x, 0, TXN_EXTENT_END, TXN_ZERO, 0);
	/* Each cuts the last extent in two and puts one between: no change needs more nodes. */
	for (size_t i = 0; i < holes; i++)
		txn_extents_set(&x, 10 * i + 5, 10 * i + 7, TXN_IN_LOG, 1000 * i);
	assert_int_equal(x.count, 2 * holes + 1);
	assert_int_equal(x.spares, 1);
	assert_int_equal(txn_extents_count(&x, 0, TXN_EXTENT_END), 2 * holes + 1);
	/* What a change frees does not pile up. */
	txn_extents_set(&x, 0, TXN_EXTENT_END, TXN_AT_HOME, 0);
	assert_int_equal(x.count, 0);
	assert_true(x.spares <= 32);
	txn_extents_free(&x);
}

static void test_reserve_refuses(void **arg)
{
	struct txn_extents x;

	(void)arg;
	txn_extents_init(&x);
	assert_int_equal(txn_extents_reserve(&x, SIZE_MAX), -ENOMEM);
	assert_int_equal(x.spares, 0);
	assert_int_equal(txn_extents_reserve(&x, 0), 0);
	assert_int_equal(x.spares, 0);
	txn_extents_free(&x);
}

static void test_empty(void **arg)
{
	struct txn_extents x;
	struct txn_extent e;

	(void)arg;
	txn_extents_init(&x);
	assert_false(txn_extents_next(&x, 0, &e));
	assert_int_equal(txn_extents_count(&x, 0, TXN_EXTENT_END), 0);
	txn_extents_get(&x, 7, TXN_EXTENT_END, &e);
	assert_int_equal(e.off, 7);
	assert_int_equal(e.len, TXN_EXTENT_END - 7);
	assert_int_equal(e.where, TXN_AT_HOME);
	txn_extents_set(&x, 9, 9, TXN_ZERO, 0); /* an empty range is nothing, and needs no reserve */
	assert_int_equal(x.count, 0);
	txn_extents_free(&x);
}

/* Offsets near the end of what a file can have. */
static void test_high_offsets(void **arg)
{
	const uint64_t top = INT64_MAX;
	struct txn_extents x;
	struct txn_extent e;

	(void)arg;
	txn_extents_init(&x);
	assert_int_equal(txn_extents_reserve(&x, 3), 0);
	txn_extents_set(&x, top - 10, TXN_EXTENT_END, TXN_ZERO, 0);
	txn_extents_set(&x, top - 5, top, TXN_IN_LOG, 77);
	txn_extents_get(&x, top - 3, TXN_EXTENT_END, &e);
	assert_int_equal(e.where, TXN_IN_LOG);
	assert_int_equal(e.pos, 79);
	assert_int_equal(e.len, 3);
	txn_extents_get(&x, top, TXN_EXTENT_END, &e);
	assert_int_equal(e.where, TXN_ZERO);
	assert_int_equal(e.len, TXN_EXTENT_END - top);
	assert_int_equal(x.count, 3);
	/* Filled with what is around it, all is one again. */
	txn_extents_set(&x, top - 5, top, TXN_ZERO, 0);
	assert_int_equal(x.count, 1);
	txn_extents_free(&x);
}

/* 200,000 extents in order: a tree that is not balanced would not finish in time, or run out of stack. */
static void test_large(void **arg)
{
	const uint64_t n = 200000;
	struct txn_extents x;
	struct txn_extent e;
	uint64_t seen = 0;

	(void)arg;
	txn_extents_init(&x);
	for (uint64_t i = 0; i < n; i++) {
		assert_int_equal(txn_extents_reserve(&x, 1), 0);
		txn_extents_set(&x, i * 4, i * 4 + 2, TXN_IN_LOG, i * 100);
	}
	assert_int_equal(x.count, n);
	for (uint64_t at = 0; txn_extents_next(&x, at, &e); at = e.off + e.len, seen++)
		assert_int_equal(e.pos, seen * 100);
	assert_int_equal(seen, n);
	assert_int_equal(txn_extents_count(&x, 401, 4 * n - 1), n - 100);
	txn_extents_free(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),           cmocka_unit_test(test_reserve_is_exact),
		cmocka_unit_test(test_reserve_refuses), cmocka_unit_test(test_empty),
		cmocka_unit_test(test_high_offsets),    cmocka_unit_test(test_large),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
