/*
 * test_engine_model.c - random histories of the engine against the naive model of tests/model.h.
 *
 * Several open transactions and plain operations, savepoints, checkpoints with a small log, open files that outlive
 * names and transactions, crashes between operations, and crashes in the middle of an install or of a recovery: the
 * store stops obeying at a random call, what readers see is compared, and the engine is opened again.
 *
 * TXNFS_SEED repeats a run, TXNFS_STEPS makes it longer; a failure prints the last operations.
 */
#include "tests/world_kit.h"

#include <linux/falloc.h>

#define BUSY_TREE 45 /* from this many nodes on, more is removed than made */

/* ---- open files ---- */

static int free_handle(void)
{
	for (int i = 0; i < HANDLES; i++)
		if (!w.h[i].f)
			return i;
	return -1;
}

static void keep_handle(struct txn_file *f, int v, int node)
{
	int i = free_handle();

	if (i < 0) {
		txn_close(f);
		return;
	}
	w.h[i] = (struct handle){f, v, node};
	w.m.pinned[node] = true;
}

static void drop_handle(int i)
{
	int node = w.h[i].node;

	txn_close(w.h[i].f);
	w.h[i].f = NULL;
	w.m.pinned[node] = false;
	for (int k = 0; k < HANDLES; k++)
		if (w.h[k].f && w.h[k].node == node)
			w.m.pinned[node] = true;
}

/* ---- operations ---- */

static mode_t pick_mode(bool dir)
{
	static const mode_t files[] = {0644, 0600, 0755, 0444, 06755, 02644, 04711, 0}, dirs[] = {0755, 0700, 0555, 02775};

	return dir ? dirs[rnd(w.root ? ARRAY_LEN(dirs) : 3)] : files[rnd(w.root ? ARRAY_LEN(files) : 4)];
}

static void op_create(int v, bool tmpfile)
{
	static const mode_t kinds[] = {S_IFREG, S_IFREG, S_IFREG, S_IFDIR, S_IFDIR, S_IFLNK};
	mode_t kind = tmpfile ? S_IFREG : kinds[rnd(ARRAY_LEN(kinds))];
	int dir = pick_dir(v), name = pick_name(v, dir, false), node = m_new(&w.m), r;
	struct txn_new nw = {.mode = kind | pick_mode(S_ISDIR(kind)), .umask = 022, .uid = geteuid(), .gid = getegid()};
	struct m_node as = {.mode = nw.mode & ~nw.umask, .uid = nw.uid, .gid = nw.gid};
	struct txn_obj *d = walk(v, dir);
	struct txn_file *f = NULL;
	struct m_errs e = {.nmust = 0};
	struct txn_look look;
	char target[40];

	assert_true(node >= 0);
	nw.mode &= ~(mode_t)06000; /* what creation does with these is another matter */
	as.mode &= ~(mode_t)06000;
	if (S_ISLNK(kind)) {
		snprintf(target, sizeof(target), "target/%llu", (unsigned long long)rnd(1000000));
		nw.target = target;
		as.mode = S_IFLNK | 0777;
		as.data = (uint8_t *)target;
		as.size = strlen(target);
	}
	if (tmpfile) {
		note("%d tmpfile #%d in %s", v, node, show(v, dir));
		r = txn_tmpfile(w.k.eng, view(v), d, &nw, &look, &f);
		m_tmpfile(&w.m, v, dir, node, &as, &e);
	} else {
		note("%d create #%d %o in %s \"%s\"", v, node, nw.mode, show(v, dir), name_of(name));
		r = txn_create(w.k.eng, view(v), d, name_of(name), &nw, &look);
		m_create(&w.m, v, dir, name, node, &as, &e);
	}
	txn_obj_put(d);
	if (!judge(r, &e))
		return;
	compare_stat(v, node, &look.attr, true);
	txn_obj_put(look.obj);
	if (f)
		keep_handle(f, v, node);
}

static void op_link(int v)
{
	int dir = pick_dir(v), name = pick_name(v, dir, false), node = pick_node(v, S_IFREG), r, i = (int)rnd(HANDLES);
	struct txn_obj *d, *obj;
	struct m_errs e = {.nmust = 0};

	/* An open file that perhaps has no name. */
	if (w.h[i].f && w.h[i].v == v && !w.m.dead[w.h[i].node] && chance(60))
		node = w.h[i].node;
	else
		i = -1;
	if (node < 0)
		return;
	/* A file without a name that nobody's transaction has made: whether it may have one is the kernel's affair. */
	if (m_links(&w.m, v, node) == 0 && (v == M_PLAIN || !w.m.txn[v].created[node]))
		return;
	note("%d link %s to %s \"%s\"", v, show(v, node), show(v, dir), name_of(name));
	d = walk(v, dir);
	obj = i < 0 ? walk(v, node) : txn_obj_get(txn_file_obj(w.h[i].f));
	r = txn_link(w.k.eng, view(v), obj, d, name_of(name), NULL);
	txn_obj_put(obj);
	txn_obj_put(d);
	m_link(&w.m, v, node, dir, name, &e);
	judge(r, &e);
}

static void op_unlink(int v)
{
	int dir = pick_dir(v), name = pick_name(v, dir, true), node = m_at(&w.m, v, dir, name), r;
	bool rmdir = node >= 0 && S_ISDIR(m_see(&w.m, v, node)->mode);
	struct txn_obj *d = walk(v, dir);
	struct m_errs e = {.nmust = 0};

	if (chance(5))
		rmdir = !rmdir;
	note("%d %s %s \"%s\" (#%d)", v, rmdir ? "rmdir" : "unlink", show(v, dir), name_of(name), node);
	r = rmdir ? txn_rmdir(w.k.eng, view(v), d, name_of(name)) : txn_unlink(w.k.eng, view(v), d, name_of(name));
	txn_obj_put(d);
	m_unlink(&w.m, v, dir, name, rmdir, &e);
	judge(r, &e);
}

static void op_rename(int v)
{
	static const unsigned all[] = {0, 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE};
	int dir = pick_dir(v), to_dir = chance(40) ? dir : pick_dir(v), r;
	int name = pick_name(v, dir, true), to_name = pick_name(v, to_dir, chance(50));
	unsigned flags = all[rnd(ARRAY_LEN(all))];
	struct txn_obj *d = walk(v, dir), *to = walk(v, to_dir);
	struct m_errs e = {.nmust = 0};

	note("%d rename %s \"%s\" (#%d) to %s \"%s\" (#%d) flags %u", v, show(v, dir), name_of(name),
	     m_at(&w.m, v, dir, name), show(v, to_dir), name_of(to_name), m_at(&w.m, v, to_dir, to_name), flags);
	r = txn_rename(w.k.eng, view(v), d, name_of(name), to, name_of(to_name), flags);
	txn_obj_put(d);
	txn_obj_put(to);
	m_rename(&w.m, v, dir, name, to_dir, to_name, flags, &e);
	judge(r, &e);
}

static size_t pick_length(void)
{
	return 1 + (size_t)rnd(chance(80) ? 300 : chance(80) ? 9000 : 45000);
}

static void change_file(int v, int node, struct txn_file *f)
{
	static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
	                            FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE,
	                            FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
	size_t size = m_see(&w.m, v, node)->size, n = pick_length();
	size_t off = chance(25) ? size : (size_t)rnd(size + (chance(20) ? 9000 : 1));
	struct m_errs e = {.nmust = 0};
	bool kill = chance(30);
	int64_t r;

	if (off + n > FILE_MAX)
		off = 0;
	switch (rnd(10)) {
	default:
		note("%d write %s at %zu, %zu bytes%s", v, show(v, node), off, n, kill ? ", unprivileged" : "");
		for (size_t i = 0; i < n; i++)
			buf[i] = (uint8_t)rnd(256);
		if (chance(10))
			memset(buf, 0, n);
		r = txn_write(f, buf, n, off, kill);
		if (r >= 0 && r != (ssize_t)n)
			wrong("short write: %lld", (long long)r);
		m_write(&w.m, v, node, buf, n, off, kill, &e);
		break;
	case 0:
	case 1: {
		struct stat st = {.st_size = (off_t)(chance(50) ? rnd(size + 1) : rnd(size + 9000))};

		if (st.st_size > FILE_MAX)
			st.st_size = FILE_MAX;
		if (chance(15))
			st.st_size = 0;
		note("%d truncate %s from %zu to %lld", v, show(v, node), size, (long long)st.st_size);
		r = txn_setattr(w.k.eng, view(v), txn_file_obj(f), f, &st,
		                STORE_SET_SIZE | TXN_SET_MTIME_NOW | (kill ? TXN_KILL_SUIDGID : 0), NULL);
		m_size(&w.m, v, node, (size_t)st.st_size, kill, &e);
		break;
	}
	case 2: {
		int mode = modes[rnd(w.zeroing ? ARRAY_LEN(modes) : 4)];

		note("%d fallocate %s mode %d at %zu, %zu bytes, size %zu", v, show(v, node), mode, off, n, size);
		r = txn_fallocate(f, mode, off, n);
		m_fallocate(&w.m, v, node, mode, off, n, &e);
		break;
	}
	}
	judge(r, &e);
}

static void op_data(int v)
{
	int node = pick_node(v, S_IFREG);
	struct txn_file *f;
	struct txn_obj *obj;

	if (node < 0)
		return;
	obj = walk(v, node);
	check(txn_open(w.k.eng, view(v), obj, O_RDWR, &f) == 0, "open", v, node);
	txn_obj_put(obj);
	change_file(v, node, f);
	if (chance(30))
		compare_file(v, node, f);
	if (chance(20))
		keep_handle(f, v, node);
	else
		txn_close(f);
}

/* Bytes of one file, as the view sees them, into another. */
static void op_copy(int v)
{
	int from = pick_node(v, S_IFREG), to = pick_node(v, S_IFREG);
	struct txn_obj *a, *b;
	struct txn_file *in, *out;
	struct m_errs e = {.nmust = 0};
	const struct m_node *n;
	size_t len = pick_length(), off_in, off_out;
	ssize_t r;

	if (from < 0 || from == to || (m_see(&w.m, v, to)->mode & 06000))
		return;
	n = m_see(&w.m, v, from);
	off_in = (size_t)rnd(n->size + 20);
	off_out = (size_t)rnd(m_see(&w.m, v, to)->size + 20);
	if (off_out + len > FILE_MAX || off_in >= n->size)
		return;
	note("%d copy %zu bytes of %s at %zu to %s at %zu", v, len, show(v, from), off_in, show(v, to), off_out);
	a = walk(v, from);
	b = walk(v, to);
	check(txn_open(w.k.eng, view(v), a, O_RDONLY, &in) == 0, "open", v, from);
	check(txn_open(w.k.eng, view(v), b, O_WRONLY, &out) == 0, "open", v, to);
	r = txn_copy(in, off_in, out, off_out, len);
	if (r == 0 || r > (ssize_t)base_min_u64(len, n->size - off_in))
		wrong("%zd bytes were copied", r);
	m_write(&w.m, v, to, n->data + off_in, r < 0 ? 0 : (size_t)r, off_out, true, &e);
	txn_close(in);
	txn_close(out);
	judge(r, &e);
	txn_obj_put(a);
	txn_obj_put(b);
}

static void op_handle(void)
{
	int i = (int)rnd(HANDLES);

	if (!w.h[i].f)
		return;
	if (chance(25)) {
		note("%d close #%d", w.h[i].v, w.h[i].node);
		drop_handle(i);
		return;
	}
	change_file(w.h[i].v, w.h[i].node, w.h[i].f);
	compare_handle(&w.h[i]);
}

static void op_setattr(int v)
{
	int node = pick_node(v, 0), r;
	struct stat st = {.st_mtim = {(time_t)rnd(2000000000), (long)rnd(1000000000)}}, out;
	struct m_errs e = {.nmust = 0};
	struct txn_obj *obj;
	unsigned mask = 0;

	if (node < 0)
		return;
	if (chance(40))
		mask |= STORE_SET_MTIME;
	if (chance(40))
		mask |= STORE_SET_MODE;
	if (w.root && chance(20))
		mask |= STORE_SET_UID;
	if (w.root && chance(20))
		mask |= STORE_SET_GID;
	st.st_mode = pick_mode(S_ISDIR(m_see(&w.m, v, node)->mode));
	st.st_uid = (uid_t)rnd(3);
	st.st_gid = (gid_t)rnd(3);
	if (!mask)
		return;
	note("%d setattr %s mask %x mode %o owner %u:%u mtime %lld", v, show(v, node), mask, st.st_mode, st.st_uid,
	     st.st_gid, (long long)st.st_mtim.tv_sec);
	obj = walk(v, node);
	r = txn_setattr(w.k.eng, view(v), obj, NULL, &st, mask, &out);
	txn_obj_put(obj);
	m_setattr(&w.m, v, node, &st, mask, &e);
	if (judge(r, &e))
		compare_stat(v, node, &out, false);
}

static void op_xattr(int v)
{
	int node = pick_node(v, 0), x = (int)rnd(M_XATTRS), flags = chance(50) ? 0 : chance(50) ? XATTR_CREATE : XATTR_REPLACE;
	int len = chance(35) ? -1 : (int)rnd(M_VALUE), r;
	struct m_errs e = {.nmust = 0};
	struct txn_obj *obj;
	char value[M_VALUE];

	if (node < 0)
		return;
	if (len < 0)
		flags = 0;
	for (int i = 0; i < M_VALUE; i++)
		value[i] = (char)rnd(256);
	note("%d %s %s %s length %d flags %d", v, len < 0 ? "removexattr" : "setxattr", show(v, node), xattr_name(x), len,
	     flags);
	obj = walk(v, node);
	r = len < 0 ? txn_removexattr(w.k.eng, view(v), obj, xattr_name(x))
	            : txn_setxattr(w.k.eng, view(v), obj, xattr_name(x), value, (size_t)len, flags);
	txn_obj_put(obj);
	m_setxattr(&w.m, v, node, x, value, len, flags, &e);
	judge(r, &e);
}

/* ---- transactions and crashes ---- */

static void leave(int t)
{
	txn_put(w.txn[t]);
	w.txn[t] = NULL;
	for (int i = 0; i < HANDLES; i++)
		if (w.h[i].f && w.h[i].v == t)
			w.h[i].v = M_PLAIN;
}

static void crash(void)
{
	note("crash");
	for (int i = 0; i < HANDLES; i++)
		if (w.h[i].f)
			drop_handle(i);
	for (int t = 0; t < M_TXNS; t++) {
		if (w.txn[t]) {
			txn_put(w.txn[t]);
			w.txn[t] = NULL;
		}
	}
	m_crash(&w.m);
	txn_engine_abandon(w.k.eng);
	w.k.store->ops->close(w.k.store);
	while (chance(50)) { /* recovery may meet the same end, again and again (I6) */
		fuse = 1 + (long)rnd(20);
		note("crash in recovery after %ld calls", fuse);
		if (!open_engine()) {
			txn_engine_abandon(w.k.eng);
			w.k.store->ops->close(w.k.store);
		}
	}
	fuse = -1;
	w.damaged = false;
	open_engine();
	compare_all();
}

/* Sometimes the store stops obeying while the transaction is installed. */
static void op_commit(int t)
{
	bool trap = !w.k.threads && chance(25);
	int r;

	note("%d commit%s", t, trap ? ", then a crash in the install" : "");
	if (trap)
		fuse = 1 + (long)rnd(chance(50) ? 6 : 30);
	r = txn_commit(w.txn[t]);
	if (r)
		wrong("commit: %s", strerrorname_np(-r));
	leave(t);
	m_commit(&w.m, t);
	if (trap) {
		w.damaged = fuse == 0;
		fuse = w.damaged ? 0 : -1;
		compare_all(); /* readers do not see that home is half done */
		fuse = -1;
		crash();
	} else {
		compare_all();
	}
}

static void op_transaction(void)
{
	int t = (int)rnd(M_TXNS), label = 'p' + (int)rnd(3), r = 0;
	char name[2] = {(char)label, '\0'};

	if (!w.txn[t]) {
		note("%d begin", t);
		assert_int_equal(txn_begin(w.k.eng, &w.txn[t]), 0);
		m_begin(&w.m, t);
		return;
	}
	switch (rnd(14)) {
	case 0:
	case 1:
	case 2:
		op_commit(t);
		break;
	case 3:
		note("%d rollback", t);
		r = txn_rollback(w.txn[t]);
		leave(t);
		m_rollback(&w.m, t);
		compare_all();
		break;
	case 4:
	case 5:
	case 6:
	case 7:
		if (w.m.txn[t].nsaves == M_SAVES)
			break;
		note("%d savepoint %s", t, name);
		r = txn_savepoint(w.txn[t], name);
		m_savepoint(&w.m, t, name[0]);
		break;
	case 8:
	case 9:
	case 10:
	case 11:
		note("%d rollback to %s", t, name);
		r = txn_rollback_to(w.txn[t], name);
		check((r == -ENOENT) == !m_rollback_to(&w.m, t, name[0]), "savepoint", t, 0);
		r = r == -ENOENT ? 0 : r;
		compare_all();
		break;
	case 12:
		note("%d release %s", t, name);
		r = txn_release(w.txn[t], name);
		check((r == -ENOENT) == !m_release(&w.m, t, name[0]), "savepoint", t, 0);
		r = r == -ENOENT ? 0 : r;
		break;
	default:
		note("checkpoint");
		r = txn_checkpoint(w.k.eng);
		break;
	}
	if (r)
		wrong("%s", strerrorname_np(-r));
}

static int population(int v)
{
	int list[M_NODES * 2], n = 0;

	collect(v, M_ROOT, list, &n, false);
	return n;
}

static void step(void)
{
	int v = pick_view();
	uint64_t what = rnd(100);

	if (what < 12)
		op_transaction();
	else if (what < 26)
		(void)(population(v) < BUSY_TREE ? op_create(v, false) : op_unlink(v));
	else if (what < 28)
		op_create(v, true);
	else if (what < 36)
		op_link(v);
	else if (what < 48)
		op_unlink(v);
	else if (what < 60)
		op_rename(v);
	else if (what < 76)
		op_data(v);
	else if (what < 78)
		op_copy(v);
	else if (what < 85)
		op_handle();
	else if (what < 92)
		op_setattr(v);
	else if (what < 99)
		op_xattr(v);
	else if (chance(60))
		crash();
}

static bool can_zero(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR, 0600);
	bool can = fd >= 0 && !fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096);

	close(fd);
	return can;
}

/* Else only root could remove what is in it. */
static int open_directory(const char *path, const struct stat *st, int flag UNUSED, struct FTW *ftw UNUSED)
{
	return S_ISDIR(st->st_mode) ? chmod(path, 0700) : 0;
}

static void history(bool threads, uint64_t steps)
{
	const char *seed = getenv("TXNFS_SEED"), *n = getenv("TXNFS_STEPS"), *base = getenv("TXNFS_TEST_DIR");
	struct stat st;

	memset(&w, 0, sizeof(w));
	w.seed = seed ? strtoull(seed, NULL, 0) : base_random_u64();
	w.rng = (w.seed + 1) * 0x9e3779b97f4a7c15u | 1;
	w.steps = n ? strtoull(n, NULL, 0) : steps;
	w.root = geteuid() == 0;
	print_message("TXNFS_SEED=%" PRIu64 " TXNFS_STEPS=%" PRIu64 "\n", w.seed, w.steps);
	fuse = -1;
	snprintf(w.k.dir, sizeof(w.k.dir), "%s/txnfs-model.XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(w.k.dir));
	assert_int_equal(stat(w.k.dir, &st), 0);
	w.zeroing = can_zero(w.k.dir);
	m_init(&w.m);
	w.m.node[M_ROOT].mode = st.st_mode;
	w.m.node[M_ROOT].uid = st.st_uid;
	w.m.node[M_ROOT].gid = st.st_gid;
	for (int x = 0; x < M_XATTRS; x++)
		w.m.node[M_ROOT].xattr_len[x] = -1;
	w.k.threads = threads;
	w.k.segment = 64u << rnd(3) << 10;
	w.k.checkpoint_bytes = 100u << 10;
	open_engine();
	while (w.step < w.steps)
		step();
	crash();
	assert_int_equal(txn_engine_close(w.k.eng), 0);
	w.k.store->ops->close(w.k.store);
	open_engine();
	assert_true(w.k.rec.clean);
	compare_all();
	nftw(w.k.dir, open_directory, 16, FTW_PHYS);
	kit_free(&w.k);
	m_free(&w.m);
}

static void history_without_threads(void **state UNUSED)
{
	history(false, 4000);
}

static void history_with_threads(void **state UNUSED)
{
	history(true, 2000);
}

/* What home refuses must be refused when it is asked for: after the commit, or in recovery, it would be too late. */
static void names_that_home_refuses(void **state UNUSED)
{
	static const char *const names[] = {STORE_STATE_DIR, "", ".", "..", "a/b"};
	struct txn_new nw = {.mode = S_IFREG | 0644};
	struct txn_look look;
	struct kit k;
	struct txn *t;

	kit_new(&k);
	t = kit_begin(&k);
	kit_create(&k, t, "file", S_IFREG | 0644);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct txn_obj *root = txn_root(k.eng);
		int plain = txn_create(k.eng, NULL, root, names[i], &nw, &look);

		assert_true(plain < 0);
		assert_int_equal(txn_create(k.eng, t, root, names[i], &nw, &look), plain);
		assert_int_equal(txn_rename(k.eng, t, root, "file", root, names[i], 0), plain);
	}
	kit_commit(t);
	assert_null(txn_engine_error(k.eng));
	kit_reopen(&k);
	kit_free(&k);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(history_without_threads),
		cmocka_unit_test(history_with_threads),
		cmocka_unit_test(names_that_home_refuses),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("engine_model", tests, NULL, NULL);
}
