/*
 * recovery.c - fuzz target: recovery (txn_engine_open) over a log whose records say anything at all.
 *
 * Recovery succeeds or refuses with a readable line; nothing outside of the backing directory is touched and no
 * symbolic link followed; a refusal before the log was taken up changes nothing; after a success the log is sound,
 * recovering again changes nothing (I6), and the engine works. The tools that only look (check, log) change nothing
 * either. With TXNFS_VERBOSE=1 it says what came of an input.
 */
#include "tests/fuzz/fuzz.h"

#define BB_FAIL fuzz_fail
#include "tests/fuzz/recovery_input.h"

#include <sys/stat.h>

#define RCV_SIM_FILE_MAX (16u << 20)

/* ---- the simulated disk keeps every page that a write passes: no file may become larger than it can bear ---- */

static const struct store_ops *rcv_sim_ops;
static struct store_ops rcv_bounded;

static ssize_t rcv_write(struct store_file *f, const void *buf, size_t n, uint64_t off)
{
	return off > RCV_SIM_FILE_MAX || n > RCV_SIM_FILE_MAX - off ? -EFBIG : rcv_sim_ops->write(f, buf, n, off);
}

static int rcv_setattr(struct store_obj *obj, const struct stat *attr, unsigned mask)
{
	if ((mask & STORE_SET_SIZE) && attr->st_size > RCV_SIM_FILE_MAX)
		return -EFBIG;
	return rcv_sim_ops->setattr(obj, attr, mask);
}

static void rcv_open(struct bb_disk *d)
{
	bb_open(d, false);
	if (!d->sim)
		return;
	if (!rcv_sim_ops) {
		rcv_sim_ops = d->store->ops;
		rcv_bounded = *rcv_sim_ops;
		rcv_bounded.write = rcv_write;
		rcv_bounded.setattr = rcv_setattr;
	}
	d->store->ops = &rcv_bounded;
}

static void rcv_close(struct bb_disk *d)
{
	if (d->sim && rcv_sim_ops)
		d->store->ops = rcv_sim_ops;
	bb_close(d);
}

/* ---- looking ---- */

static void rcv_line(void *arg UNUSED, const char *line)
{
	FUZZ_CHECK(fuzz_readable(line), "unreadable line: \"%s\"", line);
}

static int rcv_log_line(void *arg UNUSED, const struct txn_log_line *line)
{
	FUZZ_CHECK(!line->text[0] || fuzz_readable(line->text), "unreadable record: \"%s\"", line->text);
	return 0;
}

struct rcv_problems {
	unsigned n;
	char first[600];
};

static void rcv_problem(void *arg, const char *line)
{
	struct rcv_problems *p = arg;

	rcv_line(NULL, line);
	if (!p->n++)
		snprintf(p->first, sizeof(p->first), "%s", line);
}

/* txn_check's verdict, with the first problem. */
static int rcv_check(struct bb_disk *d, struct rcv_problems *p)
{
	struct txn_check out;
	int r;

	*p = (struct rcv_problems){0};
	r = txn_check(d->store, d->os, d->wal, &out, rcv_problem, p);
	FUZZ_CHECK((r == -EUCLEAN) == (p->n > 0) || r == -EPROTONOSUPPORT, "check says %d and tells %u problems", r,
	           p->n);
	return r;
}

static void rcv_list(struct bb_disk *d)
{
	char err[512];
	int r = txn_log_each(d->os, d->wal, rcv_log_line, NULL, err, sizeof(err));

	FUZZ_CHECK(!r || fuzz_readable(err), "listing the log: %d, unreadable: \"%s\"", r, err);
}

static int rcv_max_number(void *arg, const char *name)
{
	uint64_t *max = arg;

	if (strlen(name) == 16)
		*max = base_max_u64(*max, strtoull(name, NULL, 16));
	return 0;
}

/* ---- recovering ---- */

struct rcv_result {
	int r;
	char err[512];
	struct txn_recovery rec;
	char *strict, *loose; /* pictures afterwards; strict has stage and trash in it */
	uint64_t segments;    /* highest number */
};

static void rcv_result_free(struct rcv_result *res)
{
	free(res->strict);
	free(res->loose);
}

static void rcv_pictures(struct bb_disk *d, struct rcv_result *res)
{
	res->strict = bb_picture(d->store, true, true);
	res->loose = bb_picture(d->store, false, false);
	res->segments = 0;
	d->os->list(d->os->ctx, d->wal, rcv_max_number, &res->segments);
}

/* eng NULL: stop as a crash would, which leaves all that recovery did. The store stays open, and the engine in *eng. */
static void rcv_recover(struct bb_disk *d, struct rcv_result *res, struct txn_engine **eng)
{
	struct txn_config cfg = {.os = d->os, .segment_size = RCV_SEG, .no_threads = true, .report = rcv_line};
	struct txn_engine *e = NULL;

	*res = (struct rcv_result){0};
	rcv_open(d);
	cfg.store = d->store;
	cfg.wal_dirfd = d->wal;
	res->r = txn_engine_open(&cfg, &e, &res->rec, res->err, sizeof(res->err));
	FUZZ_CHECK(res->r <= 0, "result %d", res->r);
	FUZZ_CHECK(!res->r || fuzz_readable(res->err), "unreadable refusal (%d): \"%s\"", res->r, res->err);
	FUZZ_CHECK(!res->r || strcmp(res->err, strerror(-res->r)), "a refusal that says nothing: \"%s\"", res->err);
	if (!eng && !res->r)
		txn_engine_abandon(e);
	rcv_pictures(d, res);
	if (eng)
		*eng = e;
}

/* A transaction of its own, after all that. */
static void rcv_use(struct bb_disk *d, struct txn_engine *eng)
{
	struct txn_new nw = {.mode = S_IFREG | 0644, .uid = geteuid(), .gid = getegid()};
	struct txn_look look;
	struct txn_file *f;
	struct txn *t;
	char text[8] = "";
	int r = txn_begin(eng, &t);

	FUZZ_CHECK(!r, "begin after recovery: %d", r);
	r = txn_create(eng, t, txn_root(eng), "after it all", &nw, &look);
	FUZZ_CHECK(!r, "create after recovery: %d", r);
	FUZZ_CHECK(!txn_open(eng, t, look.obj, O_RDWR, &f) && txn_write(f, "works\n", 6, 0, false) == 6,
	           "write after recovery");
	txn_close(f);
	txn_obj_put(look.obj);
	r = txn_commit(t);
	FUZZ_CHECK(!r && !txn_engine_error(eng), "commit after recovery: %d %s", r,
	           txn_engine_error(eng) ? txn_engine_error(eng) : "");
	txn_put(t);
	FUZZ_CHECK(!txn_lookup(eng, NULL, txn_root(eng), "after it all", &look), "what was committed is not there");
	FUZZ_CHECK(!txn_open(eng, NULL, look.obj, O_RDONLY, &f) && txn_read(f, text, sizeof(text), 0) == 6 &&
	                   !memcmp(text, "works\n", 6),
	           "what was committed reads differently");
	txn_close(f);
	txn_obj_put(look.obj);
	FUZZ_CHECK(!txn_engine_close(eng), "closing after recovery");
	rcv_close(d);
}

static void rcv_after_success(struct bb_disk *d, const struct rcv_result *first)
{
	struct rcv_problems problems;
	struct rcv_result again;
	struct txn_engine *eng = NULL;
	int r;

	rcv_open(d);
	r = rcv_check(d, &problems);
	rcv_close(d);
	FUZZ_CHECK(!r, "after recovery the log is not sound: %d %s", r, problems.first);
	rcv_recover(d, &again, &eng);
	FUZZ_CHECK(!again.r, "recovering again is refused: %s", again.err);
	FUZZ_CHECK(!strcmp(first->strict, again.strict), "recovering again changes something:%s",
	           bb_difference(first->strict, again.strict));
	FUZZ_CHECK(!again.rec.committed, "recovering again redoes %llu transactions",
	           (unsigned long long)again.rec.committed);
	rcv_result_free(&again);
	rcv_use(d, eng);
	rcv_recover(d, &again, NULL);
	FUZZ_CHECK(!again.r && again.rec.clean, "after an orderly end: %d, clean: %d", again.r, again.rec.clean);
	rcv_close(d);
	rcv_result_free(&again);
}

static void rcv_after_refusal(struct bb_disk *d, const struct rcv_result *before, const struct rcv_result *first)
{
	struct rcv_result again;

	if (first->segments == before->segments)
		FUZZ_CHECK(!strcmp(before->strict, first->strict), "refused (%s), and yet something has changed:%s",
		           first->err, bb_difference(before->strict, first->strict));
	rcv_recover(d, &again, NULL);
	rcv_close(d);
	FUZZ_CHECK(again.r != first->r || !strcmp(first->loose, again.loose),
	           "refused twice (%s), and something changes:%s", again.err, bb_difference(first->loose, again.loose));
	rcv_result_free(&again);
}

/* ---- running ---- */

/* The simulated tree is made once and copied. */
static void rcv_new_disk(struct bb_disk *d, bool real, struct store_id ids[BB_OBJECTS])
{
	static struct bb_disk master;
	static struct store_id master_ids[BB_OBJECTS];

	if (real) {
		bb_new_real(d);
		bb_open(d, true);
		bb_tree(d, ids);
		FUZZ_CHECK(!d->store->ops->seal(d->store), "sealing");
		bb_close(d);
		return;
	}
	if (!master.sim) {
		bb_new_sim(&master);
		bb_open(&master, true);
		bb_tree(&master, master_ids);
		FUZZ_CHECK(!master.store->ops->seal(master.store) && !master.store->ops->sync_all(master.store),
		           "sealing");
		bb_close(&master);
	}
	*d = (struct bb_disk){.sim = sim_kill(master.sim)};
	d->os = sim_os(d->sim);
	memcpy(ids, master_ids, sizeof(master_ids));
}

static void rcv_run(const uint8_t *data, size_t size)
{
	CLEANUP_FREE struct rcv_input *input = malloc(sizeof(*input));
	struct store_id ids[BB_OBJECTS];
	struct rcv_problems problems;
	struct rcv_result before = {0}, after;
	char *outside, *still;
	struct bb_disk d;
	int sound;

	if (!input)
		abort();
	rcv_parse(data, size, input);
	/* An ordinary user can lock himself out of a real directory, by its mode or its owner: that is no finding. */
	rcv_new_disk(&d, (input->options & RCV_REAL) && geteuid() == 0, ids);
	rcv_open(&d);
	rcv_write_log(&d, input, ids);
	sound = rcv_check(&d, &problems);
	rcv_list(&d);
	rcv_pictures(&d, &before);
	rcv_close(&d);
	outside = bb_outside(&d);

	rcv_recover(&d, &after, NULL);
	rcv_close(&d);
	if (getenv("TXNFS_VERBOSE"))
		printf("recovery: %d %s%s, %llu committed, %llu objects, %llu names, check: %d %s\n", after.r,
		       after.err, d.sim ? "" : " [real]", (unsigned long long)after.rec.committed,
		       (unsigned long long)after.rec.objects, (unsigned long long)after.rec.names, sound,
		       problems.first);
	FUZZ_CHECK(!d.sim || !sim_fsck(d.sim), "the filesystem is broken: %s", sim_fsck(d.sim));
	FUZZ_CHECK(after.r != -EUCLEAN || sound, "check calls the log sound, recovery says: %s", after.err);
	if (after.r)
		rcv_after_refusal(&d, &before, &after);
	else
		rcv_after_success(&d, &after);

	still = bb_outside(&d);
	FUZZ_CHECK(!strcmp(outside, still), "something outside was touched:%s", bb_difference(outside, still));
	free(outside);
	free(still);
	rcv_result_free(&before);
	rcv_result_free(&after);
	rcv_input_free(input);
	bb_free(&d);
}

/* ---- seeds ---- */

static void rcv_name(struct rcv_builder *w, uint8_t txid, uint64_t dir, uint64_t before, uint64_t after,
                     const char *name)
{
	struct txn_rec rec = {.type = TXN_REC_NAME,
	                      .u.name = {.time = SEED_TIME,
	                                 .count = 1,
	                                 .op = {{.dir = dir, .before = before, .after = after, .name = name}}}};

	rcv_add(w, &rec, txid, 0);
}

static void rcv_begin(struct rcv_builder *w, uint8_t txid)
{
	rcv_simple(w, TXN_REC_BEGIN, txid);
	rcv_declare(w, BB_ROOT, txid);
}

static void rcv_seed(struct rcv_builder *w, const char *name, void (*emit)(const char *name, const void *p, size_t n))
{
	char real[64];

	emit(name, w->b.p, w->b.n);
	w->b.p[0] |= RCV_REAL | RCV_SPARE;
	snprintf(real, sizeof(real), "%s-real", name);
	emit(real, w->b.p, w->b.n);
	base_buf_free(&w->b);
}

/* Every type of record, in transactions that commit. */
static void rcv_seed_all(void (*emit)(const char *name, const void *p, size_t n))
{
	struct txn_rec recs[SEED_RECORDS_MAX];
	size_t n = seed_records(recs);
	char name[64];

	for (size_t i = 0; i < n; i++) {
		struct rcv_builder w = {0};
		uint8_t txid = recs[i].type == TXN_REC_CHECKPOINT || recs[i].type == TXN_REC_BIND ? 0 : 1;

		rcv_begin(&w, 1);
		rcv_declare(&w, BB_D, 1);
		rcv_declare(&w, BB_OUTF, 1);
		if (recs[i].type == TXN_REC_CLR)
			recs[i].u.clr = (struct txn_rec_clr){FUZZ_LSN_OF(3), FUZZ_LSN_OF(1)};
		rcv_declare(&w, BB_A, 1);
		if (recs[i].type != TXN_REC_NAME) {
			struct txn_rec_write *wr = &recs[i].u.write;

			if (recs[i].type >= TXN_REC_WRITE && recs[i].type <= TXN_REC_XATTR)
				wr->oid = BB_A + 1; /* the first field of all of these */
		}
		rcv_add(&w, &recs[i], txid, 0);
		rcv_simple(&w, TXN_REC_COMMIT, 1);
		snprintf(name, sizeof(name), "seed-%02zu-%s", i, txn_rec_name(recs[i].type));
		rcv_seed(&w, name, emit);
	}
}

static void recovery_seeds(void (*emit)(const char *name, const void *p, size_t n))
{
	struct rcv_builder w = {0};
	struct txn_rec cp = {.type = TXN_REC_CHECKPOINT,
	                     .u.checkpoint = {FUZZ_LSN_OF(0xffff), FUZZ_LSN_OF(0xffff), 0x70, 9, false}};
	struct txn_rec hole = {.type = TXN_REC_SIZE,
	                       .u.size = {.oid = BB_B + 1,
	                                  .size_before = 5000,
	                                  .size_after = 5000,
	                                  .zero_off = 10,
	                                  .zero_end = 4500,
	                                  .before = SEED_STAMP,
	                                  .after = SEED_STAMP}};

	rcv_seed_all(emit);

	/* A new file, a new directory and a new link get their names; a file moves, another goes. */
	rcv_begin(&w, 1);
	for (int i = BB_A; i <= BB_GONE; i++)
		rcv_declare(&w, (enum bb_object)i, 1);
	rcv_name(&w, 1, 1, 0, BB_STAGED_OID + 1, "n2");
	rcv_name(&w, 1, BB_STAGED_OID + 1, 0, BB_STAGED_OID, "new");
	rcv_name(&w, 1, BB_D + 1, 0, BB_STAGED_OID + 2, "link");
	rcv_name(&w, 1, 1, BB_B + 1, 0, "b");
	rcv_name(&w, 1, BB_D + 1, 0, BB_B + 1, "b");
	rcv_name(&w, 1, BB_D + 1, BB_D_F + 1, 0, "f");
	rcv_name(&w, 1, 1, BB_E + 1, 0, "e");
	rcv_simple(&w, TXN_REC_COMMIT, 1);
	rcv_simple(&w, TXN_REC_END, 1);
	rcv_seed(&w, "seed-tree", emit);

	/* A hole in the middle of a file. */
	rcv_begin(&w, 1);
	rcv_declare(&w, BB_B, 1);
	rcv_add(&w, &hole, 1, 0);
	rcv_simple(&w, TXN_REC_COMMIT, 1);
	rcv_seed(&w, "seed-hole", emit);

	/* Through the links. */
	rcv_begin(&w, 1);
	rcv_declare(&w, BB_OUT, 1);
	rcv_declare(&w, BB_A, 1);
	rcv_name(&w, 1, BB_OUT + 1, 0, BB_A + 1, "victim");
	rcv_simple(&w, TXN_REC_COMMIT, 1);
	rcv_seed(&w, "seed-through-link", emit);

	/* A circle: d goes into its own child. */
	rcv_begin(&w, 1);
	rcv_declare(&w, BB_D, 1);
	rcv_declare(&w, BB_D_S, 1);
	rcv_name(&w, 1, 1, BB_D + 1, 0, "d");
	rcv_name(&w, 1, BB_D_S + 1, 0, BB_D + 1, "d");
	rcv_simple(&w, TXN_REC_COMMIT, 1);
	rcv_seed(&w, "seed-circle", emit);

	/* One rolled back, one that never ended, a checkpoint, one more; two lives. */
	rcv_begin(&w, 1);
	rcv_simple(&w, TXN_REC_ABORT, 1);
	rcv_begin(&w, 2);
	rcv_declare(&w, BB_A, 2);
	rcv_name(&w, 2, 1, BB_A + 1, 0, "a");
	rcv_add(&w, &cp, 0, RCV_LIFE);
	rcv_begin(&w, 3);
	rcv_declare(&w, BB_E, 3);
	rcv_name(&w, 3, 1, BB_E + 1, 0, "e");
	rcv_simple(&w, TXN_REC_COMMIT, 3);
	rcv_seed(&w, "seed-lives", emit);
}

const struct fuzz_target fuzz_recovery = {
	.name = "recovery",
	.max = 8192,
	.run = rcv_run,
	.mutate = rcv_mutate,
	.seeds = recovery_seeds,
};
