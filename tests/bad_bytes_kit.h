/*
 * bad_bytes_kit.h - for tests that damage the log: a small tree on a real or a simulated disk, what surrounds it, and
 * pictures of both to compare.
 *
 * The real disk is a scratch directory on a filesystem in memory (TXNFS_SHM, else /dev/shm): src/ is the backing
 * directory, outside/ is what nobody may touch, and symbolic links in src/ lead there. The simulated one is
 * tests/sim.h.
 *
 * The includer says what to do when something is wrong: BB_FAIL(format, ...), which does not return.
 */
#ifndef TXNFS_BAD_BYTES_KIT_H
#define TXNFS_BAD_BYTES_KIT_H

#include "base/base.h"
#include "tests/sim.h"
#include "txn/txn.h"
#include "wal/wal.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define BB_CHECK(ok, ...)                                                                                              \
	do {                                                                                                           \
		if (!(ok))                                                                                             \
			BB_FAIL(__VA_ARGS__);                                                                          \
	} while (0)

struct bb_disk {
	char top[128]; /* real: holds src/ and outside/; "": simulated */
	char src[160], outside[160];
	struct sim *sim; /* simulated */
	struct store *store;
	const struct os *os;
	int wal;
};

/* ---- making and unmaking ---- */

static inline int bb_remove_one(const char *path, const struct stat *st UNUSED, int flag UNUSED, struct FTW *ftw UNUSED)
{
	return remove(path);
}

UNUSED static void bb_remove_tree(const char *path)
{
	nftw(path, bb_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

UNUSED static void bb_put_file(const char *dir, const char *name, const char *text)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	BB_CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", path, strerror(errno));
	close(fd);
}

UNUSED static void bb_new_real(struct bb_disk *d)
{
	const char *base = getenv("TXNFS_SHM");
	char path[300];

	*d = (struct bb_disk){.os = os_real()};
	snprintf(d->top, sizeof(d->top), "%s/txnfs-bytes.XXXXXX", base ? base : "/dev/shm");
	BB_CHECK(mkdtemp(d->top), "%s: %s", d->top, strerror(errno));
	snprintf(d->src, sizeof(d->src), "%s/src", d->top);
	snprintf(d->outside, sizeof(d->outside), "%s/outside", d->top);
	snprintf(path, sizeof(path), "%s/dir", d->outside);
	if (mkdir(d->src, 0755) || mkdir(d->outside, 0755) || mkdir(path, 0755))
		BB_FAIL("%s: %s", d->top, strerror(errno));
	bb_put_file(d->outside, "victim", "nobody may change this\n");
	bb_put_file(path, "inner", "nor this\n");
}

UNUSED static void bb_new_sim(struct bb_disk *d)
{
	*d = (struct bb_disk){.sim = sim_new()};
	d->os = sim_os(d->sim);
}

UNUSED static int bb_try_open(struct bb_disk *d, bool create, char *err, size_t errlen)
{
	struct store_dir_options so = {.create = create};

	if (d->sim) {
		d->store = sim_store(d->sim);
		d->wal = sim_wal_dir(d->sim);
		return 0;
	}
	return store_dir_open(d->src, &so, &d->store, &d->wal, err, errlen);
}

UNUSED static void bb_open(struct bb_disk *d, bool create)
{
	char err[512] = "";
	int r = bb_try_open(d, create, err, sizeof(err));

	BB_CHECK(!r, "the store does not open: %d %s", r, err);
}

UNUSED static void bb_close(struct bb_disk *d)
{
	if (d->store)
		d->store->ops->close(d->store);
	d->store = NULL;
}

UNUSED static void bb_free(struct bb_disk *d)
{
	bb_close(d);
	if (d->sim)
		sim_free(d->sim);
	if (d->top[0])
		bb_remove_tree(d->top);
	*d = (struct bb_disk){0};
}

/* ---- the tree ---- */

static inline struct store_obj *bb_make(struct bb_disk *d, struct store_obj *dir, const char *name, mode_t mode,
                                        const char *target)
{
	struct store_new nw = {.mode = mode, .uid = geteuid(), .gid = getegid(), .target = target};
	struct store_obj *obj;
	int r = d->store->ops->create(dir, name, &nw, false, &obj, NULL);

	BB_CHECK(!r, "making \"%s\": %s", name, strerror(-r));
	return obj;
}

static inline void bb_fill(struct bb_disk *d, struct store_obj *obj, size_t n)
{
	struct store_file *f;
	char text[8192];

	BB_CHECK(n <= sizeof(text) && !d->store->ops->open(obj, O_RDWR, true, &f), "opening");
	for (size_t i = 0; i < n; i++)
		text[i] = (char)('a' + i % 23);
	BB_CHECK(d->store->ops->write(f, text, n, 0) == (ssize_t)n, "writing");
	d->store->ops->close_file(f);
}

/* What inputs and logs can name: BB_GONE is an object that has been removed. */
enum bb_object {
	BB_ROOT,
	BB_A,
	BB_B,
	BB_D,
	BB_D_F,
	BB_D_S,
	BB_E,
	BB_OUT,
	BB_OUTF,
	BB_P,
	BB_STAGED_FILE,
	BB_STAGED_DIR,
	BB_STAGED_LINK,
	BB_TRASHED_DIR,
	BB_STAGE,
	BB_TRASH,
	BB_GONE,
	BB_OBJECTS
};

/* Numbers of new objects whose inodes wait in the stage, and of a removed directory. */
#define BB_STAGED_OID 0x64u

/*
 * a, with another link a2; b; d/ with f and s/; an empty e/; the links out and outf, which lead outside; a fifo p; and
 * what a crash may leave in the stage and the trash.
 */
UNUSED static void bb_tree(struct bb_disk *d, struct store_id ids[BB_OBJECTS])
{
	const struct store_ops *so = d->store->ops;
	struct store_obj *root = so->root(d->store), *stage = so->stage(d->store), *trash = so->trash(d->store);
	struct store_obj *v[BB_OBJECTS] = {
		[BB_ROOT] = so->get(root), [BB_STAGE] = so->get(stage), [BB_TRASH] = so->get(trash)};
	char name[4][20];

	for (unsigned i = 0; i < 4; i++)
		snprintf(name[i], sizeof(name[i]), "%016x", BB_STAGED_OID + i);
	v[BB_A] = bb_make(d, root, "a", S_IFREG | 0644, NULL);
	v[BB_B] = bb_make(d, root, "b", S_IFREG | 0600, NULL);
	v[BB_D] = bb_make(d, root, "d", S_IFDIR | 0755, NULL);
	v[BB_D_F] = bb_make(d, v[BB_D], "f", S_IFREG | 0640, NULL);
	v[BB_D_S] = bb_make(d, v[BB_D], "s", S_IFDIR | 0700, NULL);
	v[BB_E] = bb_make(d, root, "e", S_IFDIR | 0755, NULL);
	v[BB_OUT] = bb_make(d, root, "out", S_IFLNK | 0777, "../outside");
	v[BB_OUTF] = bb_make(d, root, "outf", S_IFLNK | 0777, d->sim ? "/outside/victim" : "../outside/victim");
	v[BB_P] = bb_make(d, root, "p", S_IFIFO | 0600, NULL);
	v[BB_STAGED_FILE] = bb_make(d, stage, name[0], S_IFREG | 0644, NULL);
	v[BB_STAGED_DIR] = bb_make(d, stage, name[1], S_IFDIR | 0755, NULL);
	v[BB_STAGED_LINK] = bb_make(d, stage, name[2], S_IFLNK | 0777, "../../../outside");
	v[BB_TRASHED_DIR] = bb_make(d, trash, name[3], S_IFDIR | 0755, NULL);
	v[BB_GONE] = bb_make(d, root, "gone", S_IFREG | 0644, NULL);
	BB_CHECK(!so->link(v[BB_A], root, "a2") && !so->setxattr(v[BB_B], "user.x", "1", 1, 0), "preparing the tree");
	bb_fill(d, v[BB_A], 100);
	bb_fill(d, v[BB_B], 5000);
	bb_fill(d, v[BB_D_F], 7);
	for (int i = 0; i < BB_OBJECTS; i++)
		BB_CHECK(!so->id(v[i], &ids[i]), "asking for an id");
	BB_CHECK(!so->unlink(root, "gone", false), "removing");
	for (int i = 0; i < BB_OBJECTS; i++)
		so->put(v[i]);
}

/* ---- pictures ---- */

struct bb_names {
	char **v;
	size_t n;
};

static inline int bb_collect(void *arg, const struct store_dirent *de)
{
	struct bb_names *names = arg;

	names->v = reallocarray(names->v, names->n + 1, sizeof(char *));
	if (!names->v || !(names->v[names->n] = strdup(de->name)))
		abort();
	names->n++;
	return 0;
}

static inline int bb_by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static inline uint64_t bb_hash(uint64_t sum, const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum = (sum ^ ((const uint8_t *)p)[i]) * 0x100000001b3u;
	return sum;
}

/* Contents: of a long file only where there are data. */
static inline void bb_contents(struct store *st, struct store_obj *obj, uint64_t size, struct base_buf *b)
{
	static _Thread_local uint8_t bytes[16384];
	uint64_t sum = 0xcbf29ce484222325u, at = 0;
	struct store_file *f;
	int r = st->ops->open(obj, O_RDONLY, true, &f);

	if (r) {
		base_buf_printf(b, " cannot be opened: %d", r);
		return;
	}
	for (unsigned steps = 0; at < size && steps < 4096; steps++) {
		ssize_t n;

		if (size > (64u << 20) && st->ops->seek(f, at, SEEK_DATA, &at))
			break;
		n = st->ops->read(f, bytes, sizeof(bytes), at);
		if (n <= 0)
			break;
		sum = bb_hash(bb_hash(sum, &at, sizeof(at)), bytes, (size_t)n);
		at += (uint64_t)n;
	}
	st->ops->close_file(f);
	base_buf_printf(b, " contents %016" PRIx64, sum);
}

static inline void bb_xattrs(struct store *st, struct store_obj *obj, struct base_buf *b)
{
	char list[4096], value[4096];
	ssize_t n = st->ops->listxattr(obj, list, sizeof(list)), k;
	struct bb_names names = {0};

	for (char *p = list; n > 0 && p < list + n; p += strlen(p) + 1)
		bb_collect(&names, &(struct store_dirent){.name = p});
	if (names.n)
		qsort(names.v, names.n, sizeof(char *), bb_by_name);
	for (size_t i = 0; i < names.n; i++) {
		k = st->ops->getxattr(obj, names.v[i], value, sizeof(value));
		base_buf_printf(b, " %s=", names.v[i]);
		for (ssize_t j = 0; j < k; j++)
			base_buf_printf(b, "%02x", (uint8_t)value[j]);
		free(names.v[i]);
	}
	free(names.v);
}

struct bb_picture {
	struct store *st;
	struct base_buf *b;
	bool strict; /* with what every change leaves behind: inode numbers and times */
	struct {
		uint64_t ino;
		unsigned line;
	} seen[512];
	unsigned nseen, line, depth;
};

static inline void bb_draw(struct bb_picture *p, struct store_obj *obj, const char *name, const struct stat *st)
{
	char target[PATH_MAX];
	unsigned known = 0;

	for (unsigned i = 0; i < p->nseen && !known; i++)
		known = p->seen[i].ino == st->st_ino ? p->seen[i].line : 0;
	p->line++;
	base_buf_printf(p->b, "%u%*s ", p->line, (int)p->depth, "");
	base_buf_quote(p->b, name);
	if (known) {
		base_buf_printf(p->b, " is %u\n", known);
		return;
	}
	if (p->nseen < ARRAY_LEN(p->seen)) {
		p->seen[p->nseen].ino = st->st_ino;
		p->seen[p->nseen++].line = p->line;
	}
	base_buf_printf(p->b, " %06o %u:%u", st->st_mode, st->st_uid, st->st_gid);
	if (!S_ISDIR(st->st_mode))
		base_buf_printf(p->b, " size %lld links %u rdev %llx", (long long)st->st_size, (unsigned)st->st_nlink,
		                (unsigned long long)st->st_rdev);
	if (S_ISREG(st->st_mode))
		bb_contents(p->st, obj, (uint64_t)st->st_size, p->b);
	if (S_ISLNK(st->st_mode) && !p->st->ops->readlink(obj, target, sizeof(target)))
		base_buf_printf(p->b, " -> %s", target);
	if (p->strict)
		base_buf_printf(p->b, " ino %llu mtime %lld.%09ld ctime %lld.%09ld", (unsigned long long)st->st_ino,
		                (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec, (long long)st->st_ctim.tv_sec,
		                st->st_ctim.tv_nsec);
	bb_xattrs(p->st, obj, p->b);
	base_buf_printf(p->b, "\n");
}

static inline void bb_draw_dir(struct bb_picture *p, struct store_obj *dir)
{
	struct bb_names names = {0};
	int r = p->st->ops->readdir(dir, bb_collect, &names);

	if (r)
		base_buf_printf(p->b, "cannot be listed: %d\n", r);
	if (names.n)
		qsort(names.v, names.n, sizeof(char *), bb_by_name);
	p->depth++;
	for (size_t i = 0; i < names.n; i++) {
		struct store_obj *obj;
		struct stat st;

		r = p->st->ops->lookup(dir, names.v[i], &obj, &st);
		if (r) {
			base_buf_printf(p->b, "\"%s\" cannot be looked up: %d\n", names.v[i], r);
		} else {
			bb_draw(p, obj, names.v[i], &st);
			if (S_ISDIR(st.st_mode) && p->depth < 40)
				bb_draw_dir(p, obj);
			p->st->ops->put(obj);
		}
		free(names.v[i]);
	}
	free(names.v);
	p->depth--;
}

/* The tree as text. The store is open; the text is malloc'ed. */
UNUSED static char *bb_picture(struct store *st, bool strict, bool state_too)
{
	struct base_buf b = {0};
	struct bb_picture p = {.st = st, .b = &b, .strict = strict};
	struct stat attr;

	if (!st->ops->getattr(st->ops->root(st), &attr))
		bb_draw(&p, st->ops->root(st), ".", &attr);
	bb_draw_dir(&p, st->ops->root(st));
	if (state_too) {
		base_buf_printf(&b, "stage:\n");
		bb_draw_dir(&p, st->ops->stage(st));
		base_buf_printf(&b, "trash:\n");
		bb_draw_dir(&p, st->ops->trash(st));
	}
	if (b.err)
		abort();
	return (char *)b.p;
}

/* The first line in which two texts differ, for messages. */
UNUSED static const char *bb_difference(const char *a, const char *b)
{
	static char text[1400];
	size_t i = 0;

	while (a[i] && a[i] == b[i])
		i++;
	while (i && a[i - 1] != '\n')
		i--;
	snprintf(text, sizeof(text), "\n\t%.*s\n\t%.*s", (int)base_min_u64(strcspn(a + i, "\n"), 600), a + i,
	         (int)base_min_u64(strcspn(b + i, "\n"), 600), b + i);
	return text;
}

/* What surrounds the backing directory, with everything that a change would leave behind; malloc'ed, "" when simulated.
 */
static struct base_buf bb_outside_text;

static inline int bb_outside_one(const char *path, const struct stat *st, int flag UNUSED, struct FTW *ftw UNUSED)
{
	base_buf_printf(&bb_outside_text, "%s %o %u:%u links %u size %lld ino %llu mtime %lld.%09ld ctime %lld.%09ld\n",
	                path, st->st_mode, st->st_uid, st->st_gid, (unsigned)st->st_nlink, (long long)st->st_size,
	                (unsigned long long)st->st_ino, (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec,
	                (long long)st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
	return 0;
}

UNUSED static char *bb_outside(const struct bb_disk *d)
{
	bb_outside_text = (struct base_buf){0};
	base_buf_printf(&bb_outside_text, "%s", "");
	if (d->top[0])
		nftw(d->outside, bb_outside_one, 16, FTW_PHYS);
	return (char *)bb_outside_text.p;
}

#endif
