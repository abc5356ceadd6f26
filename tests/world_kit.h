/*
 * world_kit.h - an engine, the model that it is compared with, and the comparing: every view of the tree through the
 * engine, the backing directory by plain system calls, open files, leftovers.
 */
#ifndef TXNFS_TESTS_WORLD_KIT_H
#define TXNFS_TESTS_WORLD_KIT_H

#include "tests/engine_kit.h"
#include "tests/lame_store.h"
#include "tests/model.h"

#include <dirent.h>
#include <inttypes.h>
#include <sys/xattr.h>

#define HANDLES 6
#define TAIL 80
#define FILE_MAX 120000

struct handle {
	struct txn_file *f;
	int v, node;
};

static struct {
	struct kit k;
	struct model m;
	struct txn *txn[M_TXNS];
	struct handle h[HANDLES];
	uint64_t rng, seed, steps, step;
	char tail[TAIL][200];
	bool root;     /* may give files away */
	bool zeroing;  /* the filesystem below knows FALLOC_FL_ZERO_RANGE */
	bool damaged;  /* the store has stopped obeying */
} w;

static uint8_t buf[FILE_MAX * 2], blank[FILE_MAX * 2];

static uint64_t rnd(uint64_t below)
{
	w.rng ^= w.rng << 13;
	w.rng ^= w.rng >> 7;
	w.rng ^= w.rng << 17;
	return (w.rng >> 11) % below;
}

static bool chance(unsigned percent)
{
	return rnd(100) < percent;
}

static void note(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void note(const char *fmt, ...)
{
	char *line = w.tail[w.step % TAIL];
	va_list ap;
	int n = snprintf(line, sizeof(w.tail[0]), "%6" PRIu64 " ", w.step);

	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(w.tail[0]) - (size_t)n, fmt, ap);
	va_end(ap);
	w.step++;
}

static void wrong(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void wrong(const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (uint64_t i = w.step > TAIL ? w.step - TAIL : 0; i < w.step; i++)
		print_error("%s\n", w.tail[i % TAIL]);
	fail_msg("TXNFS_SEED=%" PRIu64 " TXNFS_STEPS=%" PRIu64 ": %s", w.seed, w.steps, text);
}

static void check(bool ok, const char *what, int v, int node)
{
	if (!ok)
		wrong("%s of node %d in view %d", what, node, v);
}

/* r as the model says? */
static bool judge(int64_t r, const struct m_errs *e)
{
	char text[200] = "";
	size_t n = 0;

	if (!e->nmust && r >= 0)
		return true;
	for (int i = 0; i < e->nmust; i++) {
		if (e->must[i] == r)
			return false;
		n += (size_t)snprintf(text + n, sizeof(text) - n, " %s", strerrorname_np(-e->must[i]));
		if (n > sizeof(text) - 32)
			break;
	}
	wrong("the engine says %s, the model%s", r < 0 ? strerrorname_np((int)-r) : "ok", n ? text : " ok");
	return false;
}

static int open_engine(void)
{
	struct store_dir_options so = {.create = true};
	struct txn_config cfg = {.segment_size = w.k.segment, .checkpoint_bytes = w.k.checkpoint_bytes,
	                         .no_threads = !w.k.threads};
	char err[512] = "";
	int r = store_dir_open(w.k.dir, &so, &w.k.store, &cfg.wal_dirfd, err, sizeof(err));

	if (r)
		wrong("the store does not open: %s", err);
	lame_store(w.k.store);
	cfg.store = w.k.store;
	r = txn_engine_open(&cfg, &w.k.eng, &w.k.rec, err, sizeof(err));
	if (r) {
		w.k.store->ops->close(w.k.store);
		if (fuse != 0)
			wrong("the engine does not open: %s (%s)", err, strerror(-r));
	}
	return r;
}

/* ---- paths ---- */

static const char *name_of(int name)
{
	static const char *names[M_NAMES] = {"a", "b", "c", "longname", "e"};

	return names[name];
}

static const char *xattr_name(int x)
{
	static const char *names[M_XATTRS] = {"user.x", "user.y", "user.something longer"};

	return names[x];
}

/* Path of a node in a view; false: it has none there. */
static bool path_of(int v, int node, char *path, size_t size)
{
	int dir, name;
	size_t n;

	path[0] = '\0';
	if (node == M_ROOT)
		return true;
	if (!m_place(&w.m, v, node, &dir, &name) || !path_of(v, dir, path, size))
		return false;
	n = strlen(path);
	snprintf(path + n, size - n, "%s%s", n ? "/" : "", name_of(name));
	return true;
}

static const char *show(int v, int node)
{
	static char text[4][300];
	static int turn;
	char *t = text[turn++ % 4];

	snprintf(t, sizeof(text[0]), "#%d", node);
	path_of(v, node, t + strlen(t), sizeof(text[0]) - strlen(t));
	return t;
}

static struct txn *view(int v)
{
	return v == M_PLAIN ? NULL : w.txn[v];
}

static struct txn_obj *walk(int v, int node)
{
	struct txn_obj *obj = NULL;
	char path[300];
	int r;

	if (!path_of(v, node, path, sizeof(path)))
		return NULL;
	r = kit_try_walk(&w.k, view(v), path, &obj);
	if (r)
		wrong("\"%s\" (node %d) in view %d: %s", path, node, v, strerrorname_np(-r));
	return obj;
}

/* ---- comparing ---- */

static void compare_stat(int v, int node, const struct stat *st, bool exact)
{
	const struct m_node *n = m_see(&w.m, v, node);

	if (st->st_mode != n->mode)
		wrong("mode of node %d in view %d: %o instead of %o", node, v, st->st_mode, n->mode);
	check(st->st_uid == n->uid && st->st_gid == n->gid, "owner", v, node);
	if (S_ISDIR(n->mode)) {
		int links = 2 + m_subdirs(&w.m, v, node);

		if (exact && st->st_nlink >= 2 && (int)st->st_nlink != links)
			wrong("links of directory %d in view %d: %d, and it has %d subdirectories", node, v, (int)st->st_nlink,
			      m_subdirs(&w.m, v, node));
		/* Its own changes of names show as the mtime of a directory that it has not set. */
		if (v != M_PLAIN && w.m.txn[v].touched[node] && !w.m.txn[v].o.node[node])
			return;
	} else {
		if ((int)st->st_nlink != m_links(&w.m, v, node))
			wrong("links of node %d in view %d: %d instead of %d", node, v, (int)st->st_nlink,
			      m_links(&w.m, v, node));
		if (st->st_size != (off_t)n->size)
			wrong("size of node %d in view %d: %lld instead of %zu", node, v, (long long)st->st_size, n->size);
	}
	if (n->mtime_known)
		check(st->st_mtim.tv_sec == n->mtime.tv_sec && st->st_mtim.tv_nsec == n->mtime.tv_nsec, "mtime", v, node);
}

static void compare_bytes(int v, int node, const void *got, ssize_t n, uint64_t off, size_t asked)
{
	const struct m_node *x = m_see(&w.m, v, node);
	size_t want = off < x->size ? (size_t)base_min_u64(x->size - off, asked) : 0;

	if (n != (ssize_t)want)
		wrong("reading node %d in view %d at %" PRIu64 ": %zd bytes instead of %zu", node, v, off, n, want);
	for (size_t i = 0; i < want; i++)
		if (((const uint8_t *)got)[i] != x->data[off + i])
			wrong("byte %" PRIu64 " of node %d in view %d: %d instead of %d (size %zu)", off + i, node, v,
			      ((const uint8_t *)got)[i], x->data[off + i], x->size);
}

/* What lies before a hole or data that was found, or up to the end when none was found. */
static void compare_seek(int v, int node, struct txn_file *f)
{
	const struct m_node *x = m_see(&w.m, v, node);
	uint64_t off = rnd(x->size + 2), at = 0;
	bool data = chance(50);
	int r = txn_seek(f, off, data ? SEEK_DATA : SEEK_HOLE, &at);

	if (off >= x->size) {
		check(r == -ENXIO, "seek beyond the end", v, node);
	} else if (data) {
		check(r == 0 || r == -ENXIO, "seek", v, node);
		if (r)
			at = x->size;
		check(at >= off && at <= x->size && !memcmp(x->data + off, blank, at - off), "hole", v, node);
	} else {
		check(r == 0 && at >= off && at <= x->size, "hole's place", v, node);
	}
}

static void compare_file(int v, int node, struct txn_file *f)
{
	uint64_t off = chance(70) ? 0 : rnd(m_see(&w.m, v, node)->size + 10);
	size_t n = chance(70) ? FILE_MAX * 2 : rnd(9000);

	memset(buf, 0xee, sizeof(buf));
	compare_bytes(v, node, buf, txn_read(f, buf, n, off), off, n);
	if (chance(30))
		compare_seek(v, node, f);
}

static void compare_xattrs(int v, int node, struct txn_obj *obj)
{
	const struct m_node *n = m_see(&w.m, v, node);
	char list[600], value[M_VALUE];
	ssize_t len = txn_listxattr(w.k.eng, view(v), obj, list, sizeof(list));
	int found = 0, want = 0;

	check(len >= 0, "listxattr", v, node);
	for (char *p = list; p < list + len; p += strlen(p) + 1)
		found += !strncmp(p, "user.", 5);
	for (int x = 0; x < M_XATTRS; x++) {
		len = txn_getxattr(w.k.eng, view(v), obj, xattr_name(x), value, sizeof(value));
		want += n->xattr_len[x] >= 0;
		if (n->xattr_len[x] < 0)
			check(len == -ENODATA, "absent xattr", v, node);
		else
			check(len == n->xattr_len[x] && !memcmp(value, n->xattr[x], (size_t)len), "xattr", v, node);
	}
	check(found == want, "xattr list", v, node);
}

/* A path that the engine gives must lead to the object. */
static void compare_path(int v, int node, struct txn_obj *obj, bool exact)
{
	char *path, *save, *part;
	int at = M_ROOT, k, r = txn_obj_path(w.k.eng, view(v), obj, &path);

	/* Of a file with several links only one is known, which may have gone. */
	if (r == -ENOENT && !S_ISDIR(m_see(&w.m, v, node)->mode) &&
	    (!exact || m_links(&w.m, M_PLAIN, node) + m_links(&w.m, v, node) > 2))
		return;
	if (r)
		wrong("path of node %d in view %d: %s", node, v, strerrorname_np(-r));
	for (part = strtok_r(path, "/", &save); part && at >= 0; part = strtok_r(NULL, "/", &save)) {
		for (k = 0; k < M_NAMES && strcmp(part, name_of(k)); k++)
			;
		at = k < M_NAMES ? m_at(&w.m, v, at, k) : -1;
	}
	free(path);
	check(at == node, "path", v, node);
}

static void compare_object(int v, int node, struct txn_obj *obj, bool exact)
{
	const struct m_node *n = m_see(&w.m, v, node);
	struct stat st;
	int r = txn_getattr(w.k.eng, view(v), obj, &st);

	check(r == 0, "getattr", v, node);
	compare_stat(v, node, &st, exact);
	compare_path(v, node, obj, exact);
	if (S_ISREG(n->mode)) {
		struct txn_file *f;

		check(txn_open(w.k.eng, view(v), obj, O_RDONLY, &f) == 0, "open", v, node);
		compare_file(v, node, f);
		txn_close(f);
	} else if (S_ISLNK(n->mode)) {
		check(txn_readlink(w.k.eng, view(v), obj, (char *)buf, sizeof(buf)) == 0, "readlink", v, node);
		check(strlen((char *)buf) == n->size && !memcmp(buf, n->data, n->size), "target", v, node);
		return;
	}
	compare_xattrs(v, node, obj);
}

struct listing {
	int v, dir, count;
	uint64_t seen;
};

static int listed(void *arg, const struct store_dirent *de)
{
	struct listing *l = arg;

	for (int k = 0; k < M_NAMES; k++) {
		int node = m_at(&w.m, l->v, l->dir, k);

		if (strcmp(de->name, name_of(k)))
			continue;
		check(node >= 0, "listing has a name too much", l->v, l->dir);
		check(de->kind == (m_see(&w.m, l->v, node)->mode & S_IFMT), "listed kind", l->v, node);
		check(!(l->seen & (1u << k)), "name listed twice", l->v, l->dir);
		l->seen |= 1u << k;
		l->count--;
		return 0;
	}
	wrong("listing of node %d has \"%s\"", l->dir, de->name);
	return 0;
}

static void compare_tree(int v, int dir, struct txn_obj *obj, struct txn_obj **known, bool exact)
{
	struct listing l = {v, dir, 0, 0};

	compare_object(v, dir, obj, exact);
	for (int k = 0; k < M_NAMES; k++)
		l.count += m_at(&w.m, v, dir, k) >= 0;
	check(txn_readdir(w.k.eng, view(v), obj, listed, &l) == 0, "readdir", v, dir);
	check(l.count == 0, "listing lacks a name", v, dir);
	for (int k = 0; k < M_NAMES; k++) {
		int node = m_at(&w.m, v, dir, k), r;
		struct txn_look look;

		r = txn_lookup(w.k.eng, view(v), obj, name_of(k), &look);
		if (r != (node < 0 ? -ENOENT : 0))
			wrong("lookup of \"%s\" in node %d in view %d: %s", name_of(k), dir, v, strerrorname_np(-r));
		if (r)
			continue;
		compare_stat(v, node, &look.attr, exact);
		if (known[node]) /* another link: the same object */
			check(known[node] == look.obj, "identity", v, node);
		else if (S_ISDIR(m_see(&w.m, v, node)->mode))
			compare_tree(v, node, look.obj, known, exact);
		else
			compare_object(v, node, look.obj, exact);
		if (known[node])
			txn_obj_put(look.obj);
		else
			known[node] = look.obj;
	}
}

/* The directory that users have when nothing is mounted. */
static void compare_backing(int dir, int fd, uint64_t *ino)
{
	int count = 0;
	struct dirent *de;
	DIR *d = fdopendir(dup(fd));

	assert_non_null(d);
	while ((de = readdir(d)))
		count += strcmp(de->d_name, ".") && strcmp(de->d_name, "..") && strcmp(de->d_name, STORE_STATE_DIR);
	closedir(d);
	for (int k = 0; k < M_NAMES; k++) {
		int node = m_at(&w.m, M_PLAIN, dir, k), sub;
		const struct m_node *n;
		struct stat st;

		if (node < 0)
			continue;
		n = m_see(&w.m, M_PLAIN, node);
		count--;
		if (fstatat(fd, name_of(k), &st, AT_SYMLINK_NOFOLLOW))
			wrong("backing directory of node %d lacks \"%s\"", dir, name_of(k));
		if (node == M_ROOT && st.st_nlink > 2)
			st.st_nlink--; /* the state directory */
		compare_stat(M_PLAIN, node, &st, true);
		check(!ino[node] || ino[node] == st.st_ino, "inode", M_PLAIN, node);
		ino[node] = st.st_ino;
		if (S_ISLNK(n->mode)) {
			check(readlinkat(fd, name_of(k), (char *)buf, sizeof(buf)) == (ssize_t)n->size &&
			      !memcmp(buf, n->data, n->size), "backing target", M_PLAIN, node);
			continue;
		}
		sub = openat(fd, name_of(k), O_RDONLY | O_NOFOLLOW);
		assert_true(sub >= 0);
		if (S_ISDIR(n->mode))
			compare_backing(node, sub, ino);
		else
			compare_bytes(M_PLAIN, node, buf, pread(sub, buf, FILE_MAX * 2, 0), 0, FILE_MAX * 2);
		for (int x = 0; x < M_XATTRS; x++) {
			ssize_t len = fgetxattr(sub, xattr_name(x), buf, sizeof(buf));

			check(n->xattr_len[x] < 0 ? len < 0 : len == n->xattr_len[x] && !memcmp(buf, n->xattr[x], (size_t)len),
			      "backing xattr", M_PLAIN, node);
		}
		close(sub);
	}
	if (count)
		wrong("the backing directory of node %d has %d names too much", dir, count);
}

static int count_one(void *arg, const struct store_dirent *de UNUSED)
{
	++*(int *)arg;
	return 0;
}

/* Nothing lies around but what open transactions have created. */
static void compare_state(void)
{
	int staged = 0, trashed = 0;

	real->readdir(real->stage(w.k.store), count_one, &staged);
	real->readdir(real->trash(w.k.store), count_one, &trashed);
	for (int t = 0; t < M_TXNS; t++)
		for (int i = 0; i < M_NODES; i++)
			staged -= w.m.txn[t].open && w.m.txn[t].created[i];
	if (staged || trashed)
		wrong("%d leftovers in the stage, %d in the trash", staged, trashed);
}

static void compare_handle(const struct handle *h)
{
	uint8_t byte;

	if (w.m.dead[h->node])
		check(txn_read(h->f, &byte, 1, 0) == -ESTALE, "stale file", h->v, h->node);
	else
		compare_file(h->v, h->node, h->f);
}

static void compare_view(int v, bool exact)
{
	struct txn_obj *known[M_NODES] = {0};

	compare_tree(v, M_ROOT, txn_root(w.k.eng), known, exact);
	for (int i = 0; i < M_NODES; i++)
		if (known[i])
			txn_obj_put(known[i]);
}

static void compare_all(void)
{
	struct txn_stats st;
	bool exact;

	if (!w.damaged && txn_engine_error(w.k.eng))
		wrong("the engine has failed: %s", txn_engine_error(w.k.eng));
	txn_engine_stats(w.k.eng, &st);
	exact = !w.damaged && !st.installs_pending; /* a directory's links are counted late */
	compare_view(M_PLAIN, exact);
	for (int t = 0; t < M_TXNS; t++)
		if (w.txn[t])
			compare_view(t, exact);
	for (int i = 0; i < HANDLES; i++)
		if (w.h[i].f)
			compare_handle(&w.h[i]);
	if (!w.damaged) {
		uint64_t ino[M_NODES] = {0};
		int fd = open(w.k.dir, O_RDONLY | O_DIRECTORY);

		assert_true(fd >= 0);
		if (txn_drain(w.k.eng))
			wrong("drain");
		compare_backing(M_ROOT, fd, ino);
		close(fd);
		compare_state();
	}
}

/* ---- picking ---- */

static int pick_view(void)
{
	int v = (int)rnd(M_TXNS + 1) - 1;

	return v != M_PLAIN && !w.txn[v] ? M_PLAIN : v;
}

static void collect(int v, int dir, int *list, int *n, bool dirs_only)
{
	if (*n < M_NODES * 2 && (dirs_only || dir != M_ROOT))
		list[(*n)++] = dir;
	for (int k = 0; k < M_NAMES; k++) {
		int node = m_at(&w.m, v, dir, k);

		if (node < 0)
			continue;
		if (S_ISDIR(m_see(&w.m, v, node)->mode))
			collect(v, node, list, n, dirs_only);
		else if (!dirs_only && *n < M_NODES * 2)
			list[(*n)++] = node;
	}
}

static int pick_dir(int v)
{
	int list[M_NODES * 2], n = 0;

	collect(v, M_ROOT, list, &n, true);
	return list[rnd((uint64_t)n)];
}

/* A node of a kind (0: any but symbolic links) in a view, or -1. */
static int pick_node(int v, mode_t kind)
{
	int list[M_NODES * 2], n = 0, k = 0;

	collect(v, M_ROOT, list, &n, false);
	for (int i = 0; i < n; i++) {
		mode_t mode = m_see(&w.m, v, list[i])->mode;

		if (kind ? (mode & S_IFMT) == kind : !S_ISLNK(mode))
			list[k++] = list[i];
	}
	return k ? list[rnd((uint64_t)k)] : -1;
}

static int pick_name(int v, int dir, bool taken)
{
	int k = (int)rnd(M_NAMES);

	for (int i = 0; i < 8 && (m_at(&w.m, v, dir, k) >= 0) != taken; i++)
		k = (int)rnd(M_NAMES);
	return k;
}

#endif
