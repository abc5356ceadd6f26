/*
 * test_bad_bytes.c - every byte of a small log damaged, and files of it cut, lost, exchanged: recovery refuses and says
 * where, and has changed nothing, or it finds exactly what had been committed before the place that no power cut
 * explains.
 *
 * Which of both SPEC.md decides ("Scanning"); tests/bad_bytes_log.h follows it. The logs:
 *
 *     cut      on the simulated disk after a power cut that left of the tree nothing since the last checkpoint
 *     early    the same, before the log had gone on to another segment
 *     again    the same, after the power went a second time while recovery was at work: two lives of the log
 *     killed   on the real disk after a kill: the tree is ahead of the log
 *
 * TXNFS_BYTE=log:kind:segment:offset:value repeats one case (a failure prints it); TXNFS_BYTES=all takes every bit
 * and the insides of long records, too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define BB_FAIL fail_msg
#include "tests/bad_bytes_history.h"

static char running[128]; /* the case, for messages */

#define WRONG(...)                                                                                                     \
	do {                                                                                                           \
		char text_[4096];                                                                                      \
		snprintf(text_, sizeof(text_), __VA_ARGS__);                                                           \
		fail_msg("TXNFS_BYTE=%s: %s", running, text_);                                                         \
	} while (0)

/* ---- one case ---- */

static unsigned long cases, refusals, recovered[STATES_MAX]; /* recovered: exactly, to so many COMMITs */

static void check_refusal(const struct verdict *v, int r, const char *err)
{
	char where[32];

	if (r != -EUCLEAN)
		WRONG("refused with %d: %s", r, err);
	if (v->segment) {
		snprintf(where, sizeof(where), "segment %016" PRIx64, v->segment);
		if (!strstr(err, where))
			WRONG("the refusal does not name %s: %s", where, err);
	}
	snprintf(where, sizeof(where), "LSN %#" PRIx64 " ", v->lsn);
	if (v->lsn && !strstr(err, where))
		WRONG("the refusal does not name %s: %s", where, err);
	if (!v->lsn && !v->segment && !strstr(err, "segment"))
		WRONG("the refusal names no segment: %s", err);
	if (strpbrk(err, "\n\r\x1b"))
		WRONG("the refusal is not one line: %s", err);
}

/* `txnfs check`: sound is also what only needs recovery. */
static void check_sound(struct bb_disk *d, bool sound)
{
	struct txn_check out;
	int r = txn_check(d->store, d->os, d->wal, &out, NULL, NULL);

	if (r != (sound ? 0 : -EUCLEAN))
		WRONG("check says %d, though the log is %s", r, sound ? "sound" : "damaged");
}

/* Recovers; what it says in err. The store is left open. */
static int recover(struct bb_disk *d)
{
	char err[512] = "";
	struct txn_engine *eng;
	int r;

	bb_open(d, false);
	eng = open_engine(d, NULL, err, sizeof(err), &r);
	if (r)
		WRONG("recovery is refused (%d): %s", r, err);
	txn_engine_abandon(eng);
	return r;
}

static void check_recovered(struct base *b, struct bb_disk *d, const struct verdict *v, bool exact)
{
	/* What was made durable at the checkpoint is there, whatever the log has lost of it. */
	unsigned commits = (unsigned)base_max_u64(log_commits(&b->log, v->end), AT_CHECKPOINT);
	const char *want = b->states[commits];
	CLEANUP_FREE char *got = bb_picture(d->store, false, false);
	CLEANUP_FREE char *first = bb_picture(d->store, true, true), *second = NULL;

	if (exact && strcmp(got, want))
		WRONG("recovered (log up to LSN %#" PRIx64 ") is not what was committed:%s", v->end,
		      bb_difference(want, got));
	recovered[commits] += exact;
	if (d->sim && sim_fsck(d->sim))
		WRONG("the filesystem is broken: %s", sim_fsck(d->sim));
	check_sound(d, true);
	bb_close(d);
	recover(d);
	second = bb_picture(d->store, true, true);
	if (strcmp(first, second))
		WRONG("recovering again changes something:%s", bb_difference(first, second));
}

static void try_damage(struct base *b, struct bb_disk *d, const struct damage *dm, bool exact)
{
	struct verdict v = expect(&b->log, dm);
	char err[512] = "";
	struct txn_engine *eng;
	uint64_t changes;
	int r;

	snprintf(running, sizeof(running), "%s:%s:%" PRIu64 ":%" PRIu64 ":%#" PRIx64, b->name, damage_names[dm->kind],
	         dm->segment, dm->off, dm->value);
	cases++;
	bb_open(d, false);
	inflict(d, &b->log, dm);
	changes = d->sim ? sim_changes(d->sim) : 0;
	if (cases % 8 == 0)
		check_sound(d, !v.refuse);
	eng = open_engine(d, NULL, err, sizeof(err), &r);
	if (!r)
		txn_engine_abandon(eng);
	if (v.refuse) {
		refusals++;
		if (!r)
			WRONG("recovered, though this had been durable (LSN %#" PRIx64 ")", v.lsn);
		check_refusal(&v, r, err);
		if (d->sim && sim_changes(d->sim) != changes)
			WRONG("refused, and yet something was written: %s", err);
	} else {
		if (r)
			WRONG("refused (%d), though a power cut explains it: %s", r, err);
		check_recovered(b, d, &v, exact);
	}
	bb_close(d);
}

static void on_a_copy(struct base *b, const struct damage *dm, bool exact)
{
	struct bb_disk d = {.sim = sim_kill(b->disk.sim)};

	d.os = sim_os(d.sim);
	try_damage(b, &d, dm, exact);
	bb_free(&d);
}

/* ---- which cases ---- */

/* Sanitizers make it slow: then a part must do, another one in each place. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SPARSE 7
#else
#define SPARSE 1
#endif

static bool everything(void)
{
	const char *s = getenv("TXNFS_BYTES");

	return s && !strcmp(s, "all");
}

/* All of a header and of short payloads; of long ones the ends, and something of the middle. */
static bool worthwhile(const struct log *log, uint64_t lsn)
{
	if (everything())
		return true;
	for (size_t i = 0; i < log->nrecs; i++) {
		const struct log_rec *r = &log->recs[i];

		if (lsn < r->lsn || lsn >= r->lsn + r->size)
			continue;
		return lsn - r->lsn < 240 || r->lsn + r->size - lsn <= 16 || lsn % 307 == 0;
	}
	return lsn % LOG_SEG < WAL_SEGMENT_HEADER || lsn % 1021 == 0;
}

static void each_byte(struct base *b, enum damage_kind kind, const uint8_t *values, size_t n, unsigned step,
                      void (*fn)(struct base *b, const struct damage *dm, bool exact), bool exact)
{
	for (size_t i = 0; i < b->log.nsegs; i++)
		for (uint64_t off = 0; off < LOG_SEG; off++) {
			uint64_t lsn = b->log.segs[i].number * LOG_SEG + off;

			if (!worthwhile(&b->log, lsn) || off % (step * SPARSE))
				continue;
			for (size_t k = 0; k < n; k++)
				fn(b, &(struct damage){kind, b->log.segs[i].number, off, values[k]}, exact);
		}
}

static const uint8_t few[] = {0x01, 0x80, 0xff}, all[] = {1, 2, 4, 8, 16, 32, 64, 128, 255}, none[] = {0};

static void flips(struct base *b, unsigned step, void (*fn)(struct base *b, const struct damage *dm, bool exact))
{
	each_byte(b, FLIP, everything() ? all : few, everything() ? sizeof(all) : sizeof(few), step, fn, true);
}

/* One case that the environment wants, and nothing else. */
static bool only_one(void)
{
	const char *s = getenv("TXNFS_BYTE");
	struct base *bases[] = {&power_cut, &early, &again, &killed};
	char log[16], kind[16];
	struct damage dm;

	if (!s)
		return false;
	if (sscanf(s, "%15[^:]:%15[^:]:%" SCNu64 ":%" SCNu64 ":%" SCNx64, log, kind, &dm.segment, &dm.off, &dm.value) !=
	    5)
		fail_msg("TXNFS_BYTE=%s is not log:kind:segment:offset:value", s);
	for (dm.kind = FLIP; dm.kind < DAMAGES && strcmp(kind, damage_names[dm.kind]); dm.kind++)
		;
	for (size_t i = 0; i < ARRAY_LEN(bases) && dm.kind < DAMAGES; i++) {
		if (strcmp(bases[i]->name, log))
			continue;
		if (bases[i]->disk.sim)
			on_a_copy(bases[i], &dm, true);
		else
			try_damage(bases[i], &bases[i]->disk, &dm, dm.kind == FLIP);
	}
	return true;
}

static void bytes_after_a_cut(void **state UNUSED)
{
	if (!only_one())
		flips(&power_cut, 1, on_a_copy);
}

static void bytes_after_an_early_cut(void **state UNUSED)
{
	if (!getenv("TXNFS_BYTE"))
		flips(&early, 3, on_a_copy);
}

static void bytes_after_another_cut(void **state UNUSED)
{
	if (!getenv("TXNFS_BYTE"))
		flips(&again, 3, on_a_copy);
}

/* From some byte on there are only zeros, or nothing. */
static void ends(void **state UNUSED)
{
	if (getenv("TXNFS_BYTE"))
		return;
	each_byte(&power_cut, ZERO, none, 1, 1, on_a_copy, true);
	each_byte(&power_cut, CUT, none, 1, 5, on_a_copy, true);
	each_byte(&again, ZERO, none, 1, 3, on_a_copy, true);
	each_byte(&early, ZERO, none, 1, 1, on_a_copy, true);
}

static void files(void **state UNUSED)
{
	struct base *bases[] = {&power_cut, &early, &again};

	for (size_t n = 0; n < ARRAY_LEN(bases) && !getenv("TXNFS_BYTE"); n++) {
		const struct log *log = &bases[n]->log;
		uint64_t first = log->segs[0].number, last = log->segs[log->nsegs - 1].number;

		assert_true(log->nsegs >= 3);
		for (size_t i = 0; i < log->nsegs; i++) {
			uint64_t number = log->segs[i].number;

			on_a_copy(bases[n], &(struct damage){GONE, number, 0, 0}, true);
			for (size_t k = i + 1; k < log->nsegs; k++)
				on_a_copy(bases[n], &(struct damage){SWAP, number, 0, log->segs[k].number}, true);
			for (uint64_t to = first ? first - 1 : 0; to <= last + 2; to++)
				if (to && to != number)
					on_a_copy(bases[n], &(struct damage){COPY, number, 0, to}, true);
		}
	}
}

/* ---- on the real disk ---- */

/* One disk serves as long as recovery refuses. */
static void on_the_real(struct base *b, const struct damage *dm, bool exact)
{
	CLEANUP_FREE char *outside = bb_outside(&b->disk), *before = NULL, *still = NULL, *after = NULL;
	bool refused = expect(&b->log, dm).refuse;

	bb_open(&b->disk, false);
	before = bb_picture(b->disk.store, true, true);
	bb_close(&b->disk);
	try_damage(b, &b->disk, dm, exact);
	still = bb_outside(&b->disk);
	if (strcmp(outside, still))
		WRONG("something outside was touched:%s", bb_difference(outside, still));
	if (!refused) {
		free_base(b, true);
		make_killed(b);
		return;
	}
	bb_open(&b->disk, false);
	after = bb_picture(b->disk.store, true, true);
	if (strcmp(before, after))
		WRONG("refused, and yet something has changed:%s", bb_difference(before, after));
	for (size_t i = 0; i < b->log.nsegs; i++)
		log_put(&b->disk, b->log.segs[i].name, b->log.segs[i].bytes, LOG_SEG, 0);
	if (dm->kind == COPY && !log_seg(&b->log, dm->value)) {
		char name[17];

		log_file_name(dm->value, name);
		b->disk.os->unlinkat(b->disk.os->ctx, b->disk.wal, name);
	}
	bb_close(&b->disk);
}

static void real_disk(void **state UNUSED)
{
	const struct log *log = &killed.log;

	if (getenv("TXNFS_BYTE"))
		return;
	flips(&killed, everything() ? 1 : 11, on_the_real);
	each_byte(&killed, ZERO, none, 1, everything() ? 1 : 97, on_the_real, false);
	each_byte(&killed, CUT, none, 1, everything() ? 1 : 211, on_the_real, false);
	for (size_t i = 0; i < log->nsegs; i++) {
		on_the_real(&killed, &(struct damage){GONE, log->segs[i].number, 0, 0}, false);
		on_the_real(&killed,
		            &(struct damage){COPY, log->segs[i].number, 0, log->segs[log->nsegs - 1].number + 1},
		            false);
	}
}

/* ---- records that are whole, and that recovery cannot redo ---- */

static int pass_over(void *arg UNUSED, const struct wal_rec *rec UNUSED, const void *payload UNUSED)
{
	return 0;
}

struct odd {
	const char *what;
	struct txn_rec rec;
	bool alone; /* of no transaction */
	int refused;
	const char *says;
};

static uint64_t put_record(struct wal *wal, const struct txn_rec *rec, uint64_t txid, uint64_t prev)
{
	struct wal_rec h = {.type = (uint8_t)rec->type, .txid = txid, .prev = prev};
	struct base_buf head = {0};
	struct iovec iov[3];
	int n;

	assert_int_equal(txn_rec_encode(rec, &head, iov, &n), 0);
	assert_int_equal(wal_append(wal, &h, iov, n, false), 0);
	base_buf_free(&head);
	return h.lsn;
}

/* A transaction that has this record in it, and commits; the record's LSN. */
static uint64_t append_odd(struct bb_disk *d, const struct odd *o)
{
	struct wal_options opt = {.segment_size = LOG_SEG};
	struct txn_rec rec = {.type = TXN_REC_BEGIN};
	uint64_t first, lsn;
	struct wal *wal;

	assert_int_equal(wal_open(d->os, d->wal, &opt, &wal), 0);
	assert_int_equal(wal_scan(wal, 0, pass_over, NULL, NULL, NULL), 0);
	assert_int_equal(wal_start(wal), 0);
	first = put_record(wal, &rec, 77, 0);
	rec = (struct txn_rec){.type = TXN_REC_OBJECT, .u.object = {.oid = 900, .mode = S_IFREG | 0644, .hint = ""}};
	lsn = put_record(wal, &rec, 77, first);
	lsn = put_record(wal, &o->rec, o->alone ? 0 : 77, o->alone ? 0 : lsn);
	rec = (struct txn_rec){.type = TXN_REC_COMMIT, .u.commit = {.first = first}};
	wal_force(wal, put_record(wal, &rec, 77, lsn));
	wal_close(wal);
	return lsn;
}

static void odd_records(void **state UNUSED)
{
	const struct odd odds[] = {
		{"stolen",
	         {.type = TXN_REC_WRITE, .u.write = {.oid = 900, .len = 4, .size_after = 4, .stolen = true}},
	         false,
	         -EPROTONOSUPPORT,
	         "newer version"},
		{"prepares nothing",
	         {.type = TXN_REC_PREPARE, .u.prepare = {.first = 1, .gid = "g"}},
	         true,
	         -EUCLEAN,
	         "belongs to no transaction"},
		{"alone",
	         {.type = TXN_REC_WRITE, .u.write = {.oid = 900}},
	         true,
	         -EUCLEAN,
	         "belongs to no transaction"},
		{"commits nothing",
	         {.type = TXN_REC_COMMIT, .u.commit = {.first = 1}},
	         true,
	         -EUCLEAN,
	         "belongs to no transaction"},
		{"undeclared", {.type = TXN_REC_WRITE, .u.write = {.oid = 901}}, false, -EUCLEAN, "does not declare"},
	};

	for (size_t i = 0; i < ARRAY_LEN(odds) && !getenv("TXNFS_BYTE"); i++) {
		struct bb_disk d = {.sim = sim_kill(again.disk.sim)};
		char err[512] = "", where[40];
		uint64_t lsn;
		int r;

		d.os = sim_os(d.sim);
		bb_open(&d, false);
		lsn = append_odd(&d, &odds[i]);
		open_engine(&d, NULL, err, sizeof(err), &r);
		snprintf(where, sizeof(where), "LSN %" PRIu64 " ", lsn);
		if (r != odds[i].refused || !strstr(err, where) || !strstr(err, odds[i].says))
			fail_msg("%s at %s: %d %s", odds[i].what, where, r, err);
		bb_close(&d);
		bb_free(&d);
	}
}

/* So much of both there must have been that the tests above mean something. */
static void enough(void **state UNUSED)
{
	print_message("%lu cases, %lu of them refused, recovered to 1, 2, ... commits:", cases, refusals);
	for (unsigned i = 1; i < power_cut.nstates; i++)
		print_message(" %lu", recovered[i]);
	print_message("\n");
	if (getenv("TXNFS_BYTE"))
		return;
	assert_true(refusals > 20000 / SPARSE);
	for (unsigned i = 1; i < power_cut.nstates; i++)
		assert_true(recovered[i] > 50 / SPARSE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_after_a_cut),
		cmocka_unit_test(bytes_after_an_early_cut),
		cmocka_unit_test(bytes_after_another_cut),
		cmocka_unit_test(ends),
		cmocka_unit_test(files),
		cmocka_unit_test(real_disk),
		cmocka_unit_test(odd_records),
		cmocka_unit_test(enough),
	};

	setlinebuf(stdout);
	return cmocka_run_group_tests(tests, make_bases, free_bases);
}
