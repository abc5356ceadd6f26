/*
 * test_ws.c - workspaces: random records are applied to one and undone in reverse order; after each step what the
 * transaction reads is compared with naive copies of the state.
 */
#include "txn/private.h"

#include "tests/engine_kit.h"

#include <inttypes.h>

#define BYTES 6000
#define FILES 3
#define DIRS 2
#define NAMES 3
#define XATTRS 2
#define DEPTH 400

struct file_state {
	uint8_t data[BYTES];
	struct stat st;
	int xattr_len[XATTRS];
	char xattr[XATTRS][16];
};

struct state {
	struct file_state f[FILES];
	int name[DIRS][NAMES]; /* which file; -1: none */
	size_t records;
	uint64_t last;
};

static struct {
	struct kit k;
	struct txn *t;
	struct txn_obj *dir[DIRS], *obj[FILES];
	struct txn_wsobj *wdir[DIRS], *w[FILES];
	struct txn_file *file[FILES];
	struct state now, was[DEPTH];
	int depth;
	uint64_t rng;
	int64_t clock;
} x;

static uint64_t rnd(uint64_t below)
{
	x.rng ^= x.rng << 13;
	x.rng ^= x.rng >> 7;
	x.rng ^= x.rng << 17;
	return (x.rng >> 11) % below;
}

static struct timespec tick(void)
{
	return (struct timespec){++x.clock, (long)rnd(1000000000)};
}

static const char *name_of(int i)
{
	static const char *names[NAMES] = {"one", "two", "three"};

	return names[i];
}

static const char *xattr_name(int i)
{
	return i ? "user.b" : "user.a";
}

static struct txn_stamp stamp_of(const struct stat *st)
{
	return (struct txn_stamp){st->st_mode, st->st_mtim, st->st_ctim};
}

static struct txn_stamp new_stamp(struct stat *st)
{
	st->st_mode = (st->st_mode & S_IFMT) | (mode_t)rnd(07777);
	st->st_mtim = tick();
	st->st_ctim = tick();
	return stamp_of(st);
}

/* ---- records ---- */

static void apply(const struct txn_rec *rec)
{
	assert_int_equal(txn_log_apply(x.t, rec), 0);
}

static void do_write(int i)
{
	struct file_state *f = &x.now.f[i];
	uint8_t bytes[BYTES];
	struct txn_rec rec = {.type = TXN_REC_WRITE};
	struct txn_rec_write *w = &rec.u.write;
	size_t size = (size_t)f->st.st_size;

	w->oid = x.w[i]->oid;
	w->off = rnd(3) ? rnd(size + 1) : rnd(BYTES - 1);
	w->len = (uint32_t)(1 + rnd(rnd(2) ? 40 : BYTES));
	if (w->off + w->len > BYTES)
		w->len = (uint32_t)(BYTES - w->off);
	if (!w->len)
		return;
	for (size_t k = 0; k < w->len; k++)
		bytes[k] = (uint8_t)rnd(256);
	w->size_before = size;
	w->size_after = base_max_u64(size, w->off + w->len);
	w->old_len = w->off < size ? (uint32_t)base_min_u64(w->len, size - w->off) : 0;
	w->old_data = f->data + w->off;
	w->new_data = bytes;
	w->before = stamp_of(&f->st);
	w->after = new_stamp(&f->st);
	apply(&rec);
	memcpy(f->data + w->off, bytes, w->len);
	f->st.st_size = (off_t)w->size_after;
}

/* A new size, zeros somewhere, or both. */
static void do_size(int i)
{
	struct file_state *f = &x.now.f[i];
	uint64_t old = (uint64_t)f->st.st_size, size = rnd(2) ? old : rnd(BYTES), from, to;
	struct txn_stamp after = new_stamp(&f->st);

	if (size < old) {
		from = size;
		to = TXN_EXTENT_END;
	} else {
		from = rnd(old + 1);
		to = from + rnd(old - from + 1);
	}
	assert_int_equal(txn_do_size(x.t, x.w[i], size, from, to, &after), 0);
	memset(f->data + from, 0, (size_t)(base_min_u64(to, BYTES) - from));
	f->st.st_size = (off_t)size;
}

static void do_attr(int i)
{
	struct file_state *f = &x.now.f[i];
	struct txn_rec rec = {.type = TXN_REC_ATTR};
	struct txn_rec_attr *a = &rec.u.attr;
	struct stat *st = &f->st;

	a->oid = x.w[i]->oid;
	a->mask = (uint32_t)rnd(64) & ~STORE_SET_SIZE;
	a->before = (struct txn_attrs){st->st_mode, st->st_uid, st->st_gid, st->st_atim, st->st_mtim, st->st_ctim};
	a->after = (struct txn_attrs){(uint32_t)rnd(07777), (uint32_t)rnd(9), (uint32_t)rnd(9), tick(), tick(), tick()};
	apply(&rec);
	if (a->mask & STORE_SET_MODE)
		st->st_mode = S_IFREG | a->after.mode;
	if (a->mask & STORE_SET_UID)
		st->st_uid = a->after.uid;
	if (a->mask & STORE_SET_GID)
		st->st_gid = a->after.gid;
	if (a->mask & STORE_SET_ATIME)
		st->st_atim = a->after.atime;
	if (a->mask & STORE_SET_MTIME)
		st->st_mtim = a->after.mtime;
	st->st_ctim = a->after.ctime;
}

static uint32_t xattr_rec_len(int len)
{
	return len < 0 ? TXN_XATTR_ABSENT : (uint32_t)len;
}

static void do_xattr(int i)
{
	struct file_state *f = &x.now.f[i];
	struct txn_rec rec = {.type = TXN_REC_XATTR};
	struct txn_rec_xattr *a = &rec.u.xattr;
	int k = (int)rnd(XATTRS), len = (int)rnd(17) - 1;
	char value[16];

	for (size_t b = 0; b < sizeof(value); b++)
		value[b] = (char)rnd(256);
	a->oid = x.w[i]->oid;
	a->name = xattr_name(k);
	a->old_len = xattr_rec_len(f->xattr_len[k]);
	a->old_value = f->xattr[k];
	a->new_len = xattr_rec_len(len);
	a->new_value = value;
	a->ctime_before = f->st.st_ctim;
	a->ctime_after = f->st.st_ctim = tick();
	apply(&rec);
	f->xattr_len[k] = len;
	memcpy(f->xattr[k], value, sizeof(value));
}

/* One or two names get another file, or none: links, unlinks, renames, exchanges. */
static void do_name(void)
{
	struct txn_rec_name n = {.count = 1};
	int dir[2] = {(int)rnd(DIRS), (int)rnd(DIRS)}, name[2] = {(int)rnd(NAMES), (int)rnd(NAMES)}, after[2];

	if (dir[0] != dir[1] || name[0] != name[1])
		n.count += (uint32_t)rnd(2);
	for (uint32_t i = 0; i < n.count; i++) {
		int before = x.now.name[dir[i]][name[i]];

		after[i] = (int)rnd(FILES + 1) - 1;
		n.op[i].dir = x.wdir[dir[i]]->oid;
		n.op[i].before = before < 0 ? 0 : x.w[before]->oid;
		n.op[i].after = after[i] < 0 ? 0 : x.w[after[i]]->oid;
		n.op[i].name = name_of(name[i]);
	}
	pthread_rwlock_wrlock(&x.k.eng->ns);
	assert_int_equal(txn_name_change(x.t, &n), 0);
	pthread_rwlock_unlock(&x.k.eng->ns);
	for (uint32_t i = 0; i < n.count; i++)
		x.now.name[dir[i]][name[i]] = after[i];
}

/* ---- comparing ---- */

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static int links(int file)
{
	int n = 0;

	for (int d = 0; d < DIRS; d++)
		for (int k = 0; k < NAMES; k++)
			n += x.now.name[d][k] == file;
	return n;
}

/* Changes of names move the files' ctime, and their undo does not move it back. */
static void compare(bool ctimes)
{
	uint8_t buf[BYTES + 1];

	for (int i = 0; i < FILES; i++) {
		const struct file_state *f = &x.now.f[i];
		struct stat st;

		assert_int_equal(txn_getattr(x.k.eng, x.t, x.obj[i], &st), 0);
		assert_int_equal(st.st_size, f->st.st_size);
		assert_int_equal(st.st_mode, f->st.st_mode);
		assert_int_equal(st.st_uid, f->st.st_uid);
		assert_int_equal(st.st_gid, f->st.st_gid);
		assert_true(same_time(&st.st_atim, &f->st.st_atim));
		assert_true(same_time(&st.st_mtim, &f->st.st_mtim));
		assert_true(!ctimes || same_time(&st.st_ctim, &f->st.st_ctim));
		assert_int_equal(st.st_nlink, links(i));
		assert_int_equal(txn_read(x.file[i], buf, sizeof(buf), 0), st.st_size);
		assert_memory_equal(buf, f->data, (size_t)st.st_size);
		for (int k = 0; k < XATTRS; k++) {
			char value[16];
			ssize_t n = txn_getxattr(x.k.eng, x.t, x.obj[i], xattr_name(k), value, sizeof(value));

			assert_int_equal(n, f->xattr_len[k] < 0 ? -ENODATA : f->xattr_len[k]);
			if (n > 0)
				assert_memory_equal(value, f->xattr[k], (size_t)n);
		}
	}
	for (int d = 0; d < DIRS; d++) {
		for (int k = 0; k < NAMES; k++) {
			struct txn_look look;
			int want = x.now.name[d][k], r = txn_lookup(x.k.eng, x.t, x.dir[d], name_of(k), &look);

			assert_int_equal(r, want < 0 ? -ENOENT : 0);
			if (!r) {
				assert_ptr_equal(look.obj, x.obj[want]);
				txn_obj_put(look.obj);
			}
		}
	}
}

static void set_up(void)
{
	const char *seed = getenv("TXNFS_SEED");
	uint64_t s = seed ? strtoull(seed, NULL, 0) : base_random_u64();
	char path[32];

	print_message("TXNFS_SEED=%" PRIu64 "\n", s);
	memset(&x, 0, sizeof(x));
	x.rng = (s + 1) * 0x9e3779b97f4a7c15u | 1;
	x.clock = 1000;
	kit_new(&x.k);
	kit_create(&x.k, NULL, "d", S_IFDIR | 0755);
	for (int d = 0; d < DIRS; d++)
		for (int k = 0; k < NAMES; k++)
			x.now.name[d][k] = -1;
	for (int i = 0; i < FILES; i++) {
		struct file_state *f = &x.now.f[i];
		size_t size = (size_t)rnd(BYTES);

		for (size_t k = 0; k < size; k++)
			f->data[k] = (uint8_t)rnd(256);
		snprintf(path, sizeof(path), "d/%s", name_of(i));
		kit_create(&x.k, NULL, path, S_IFREG | 0644);
		x.now.name[1][i] = i;
		if (size)
			assert_int_equal(kit_try_write(&x.k, NULL, path, 0, f->data, size), size);
		assert_int_equal(kit_try_walk(&x.k, NULL, path, &x.obj[i]), 0);
		for (int k = 0; k < XATTRS; k++)
			f->xattr_len[k] = -1;
		assert_int_equal(txn_setxattr(x.k.eng, NULL, x.obj[i], xattr_name(0), "home", 4, 0), 0);
		f->xattr_len[0] = 4;
		memcpy(f->xattr[0], "home", 4);
	}
	x.dir[0] = txn_obj_get(txn_root(x.k.eng));
	assert_int_equal(kit_try_walk(&x.k, NULL, "d", &x.dir[1]), 0);
	x.t = kit_begin(&x.k);
	pthread_mutex_lock(&x.t->lock);
	for (int d = 0; d < DIRS; d++)
		assert_int_equal(txn_declare(x.t, x.dir[d], &x.wdir[d]), 0);
	for (int i = 0; i < FILES; i++)
		assert_int_equal(txn_own(x.t, x.obj[i], &x.w[i]), 0);
	pthread_mutex_unlock(&x.t->lock);
	for (int i = 0; i < FILES; i++) {
		assert_int_equal(txn_open(x.k.eng, x.t, x.obj[i], O_RDONLY, &x.file[i]), 0);
		assert_int_equal(txn_getattr(x.k.eng, x.t, x.obj[i], &x.now.f[i].st), 0);
	}
}

static void tear_down(void)
{
	for (int i = 0; i < FILES; i++) {
		txn_close(x.file[i]);
		txn_obj_put(x.obj[i]);
	}
	for (int d = 0; d < DIRS; d++)
		txn_obj_put(x.dir[d]);
	kit_rollback(x.t);
	kit_free(&x.k);
}

static void do_one(bool names)
{
	int i = (int)rnd(FILES);

	switch (rnd(names ? 6 : 5)) {
	case 0:
	case 1:
		do_write(i);
		break;
	case 2:
		do_size(i);
		break;
	case 3:
		do_attr(i);
		break;
	case 4:
		do_xattr(i);
		break;
	default:
		do_name();
		break;
	}
}

static void undo_to(int depth)
{
	x.depth = depth;
	x.now = x.was[depth];
	assert_int_equal(txn_undo_to(x.t, x.now.records, x.now.last), 0);
}

static void records_and_undo(bool names)
{
	set_up();
	compare(true);
	for (int turn = 0; turn < 60; turn++) {
		int forth = 1 + (int)rnd(30);

		pthread_mutex_lock(&x.t->lock);
		for (int i = 0; i < forth && x.depth < DEPTH; i++) {
			x.now.records = x.t->recs.n;
			x.now.last = x.t->last;
			x.was[x.depth++] = x.now;
			do_one(names);
		}
		pthread_mutex_unlock(&x.t->lock);
		compare(!names);
		pthread_mutex_lock(&x.t->lock);
		undo_to((int)rnd((uint64_t)x.depth));
		pthread_mutex_unlock(&x.t->lock);
		compare(!names);
	}
	pthread_mutex_lock(&x.t->lock);
	if (x.depth)
		undo_to(0);
	pthread_mutex_unlock(&x.t->lock);
	compare(!names);
	tear_down();
}

static void contents_and_attributes(void **state UNUSED)
{
	records_and_undo(false);
}

static void names_too(void **state UNUSED)
{
	records_and_undo(true);
}

/* More pieces than one SIZE record can list: the truncate takes several, and its undo takes them all back. */
static void truncate_of_very_many_pieces(void **state UNUSED)
{
	enum { PIECES = 5000 };
	CLEANUP_FREE uint8_t *want = calloc(1, PIECES * 2);
	struct txn_obj *obj = NULL;
	struct txn_file *f;
	struct stat st = {.st_size = 1};
	struct kit k;
	struct txn *t;
	uint8_t *got;

	assert_non_null(want);
	kit_new(&k);
	kit_create(&k, NULL, "f", S_IFREG | 0644);
	t = kit_begin(&k);
	assert_int_equal(kit_try_walk(&k, t, "f", &obj), 0);
	assert_int_equal(txn_open(k.eng, t, obj, O_RDWR, &f), 0);
	for (size_t i = 0; i < PIECES; i++) {
		want[i * 2 + 1] = (uint8_t)(1 + i % 255);
		assert_int_equal(txn_write(f, &want[i * 2 + 1], 1, i * 2 + 1, false), 1);
	}
	assert_int_equal(txn_savepoint(t, "s"), 0);
	assert_int_equal(kit_try_setattr(&k, t, "f", &st, STORE_SET_SIZE), 0);
	st.st_size = PIECES * 2;
	assert_int_equal(kit_try_setattr(&k, t, "f", &st, STORE_SET_SIZE), 0);
	got = (uint8_t *)kit_get(&k, t, "f");
	for (size_t i = 0; i < PIECES * 2; i++)
		assert_int_equal(got[i], 0);
	free(got);
	assert_int_equal(txn_rollback_to(t, "s"), 0);
	got = (uint8_t *)kit_get(&k, t, "f");
	assert_memory_equal(got, want, PIECES * 2);
	free(got);
	txn_close(f);
	txn_obj_put(obj);
	kit_commit(t);
	kit_reopen(&k);
	got = (uint8_t *)kit_get(&k, NULL, "f");
	assert_memory_equal(got, want, PIECES * 2);
	free(got);
	kit_free(&k);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(contents_and_attributes),
		cmocka_unit_test(names_too),
		cmocka_unit_test(truncate_of_very_many_pieces),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("ws", tests, NULL, NULL);
}
