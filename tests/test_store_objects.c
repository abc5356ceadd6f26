/* test_store_objects.c - the real directory: objects, descriptors, ids, other users, threads. */
#include "store_kit.h"

#include <pthread.h>
#include <sys/mount.h>

/* Life without a name, descriptors, ids */

static void check_unlinked_lives(void)
{
	struct store_obj *o[4], *d = make(root, "dir", S_IFDIR | 0755), *gone = make(root, "gone", S_IFDIR | 0755);
	char name[32];
	struct store_file *f;
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		o[i] = make(d, name, S_IFREG | 0644);
		put_text(o[i], name);
	}
	assert_int_equal(ops->open(o[3], O_RDWR, false, &f), 0);
	ops->put(o[3]); /* the open file holds it */
	assert_int_equal(ops->unlink(d, "f0", false), 0);
	assert_int_equal(ops->rename(d, "f2", d, "f1", 0), 0); /* replaces f1 */
	assert_int_equal(ops->unlink(d, "f3", false), 0);
	assert_int_equal(ops->unlink(root, "gone", true), 0);
	/* Push everything out of the cache. */
	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "other%d", i);
		make_and_put(d, name, S_IFREG | 0644);
	}
	struct store_obj *many[40];
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "other%d", i);
		many[i] = look(d, name);
	}
	assert_text(o[0], "f0");
	assert_text(o[1], "f1");
	assert_text(o[2], "f2");
	assert_int_equal(attr_of(o[0]).st_nlink, 0);
	assert_int_equal(attr_of(o[1]).st_nlink, 0);
	assert_true(S_ISDIR(attr_of(gone).st_mode));
	put_text(o[0], "new");
	assert_text(o[0], "new");
	assert_int_equal(ops->write(f, "open", 4, 0), 4);
	char buf[4];
	assert_int_equal(ops->read(f, buf, 4, 0), 4);
	ops->close_file(f);
	for (int i = 0; i < 40; i++)
		ops->put(many[i]);
	for (int i = 0; i < 3; i++)
		ops->put(o[i]);
	ops->put(gone);
	ops->put(d);
}

static void test_unlinked_lives(void **state UNUSED)
{
	check_unlinked_lives();
}

/*
 * A tree of directories with files, all held, with room for few descriptors. Directories are renamed at random and
 * files too; after each round every object must still be what it was.
 */
#define DIRS 20
#define FILES 300

static uint64_t seed(void)
{
	const char *s = getenv("TXNFS_SEED");
	uint64_t v = s ? strtoull(s, NULL, 0) : base_random_u64() >> 32;
	print_message("TXNFS_SEED=%llu\n", (unsigned long long)v);
	return v;
}

static unsigned next_random(uint64_t *x, unsigned below)
{
	*x = *x * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(*x >> 33) % below;
}

static void check_small_cache(void)
{
	struct store_obj *dir[DIRS], *file[FILES];
	int dir_in[DIRS], file_in[FILES], file_no[FILES]; /* where they are: -1 the root */
	char name[32], to[32];
	uint64_t x = seed();
	int before = open_fds();
	for (int i = 0; i < DIRS; i++) {
		dir_in[i] = i ? (int)next_random(&x, (unsigned)i + 1) - 1 : -1;
		snprintf(name, sizeof(name), "d%d", i);
		dir[i] = make(dir_in[i] < 0 ? root : dir[dir_in[i]], name, S_IFDIR | 0755);
	}
	for (int i = 0; i < FILES; i++) {
		file_in[i] = (int)next_random(&x, DIRS);
		file_no[i] = i;
		snprintf(name, sizeof(name), "f%d", i);
		file[i] = make(dir[file_in[i]], name, S_IFREG | 0644);
		snprintf(name, sizeof(name), "file %d", i);
		put_text(file[i], name);
	}
	/* Descriptors in use are bounded: the cache, and what the fixed directories have. */
	assert_true(open_fds() <= before + TINY_CACHE + 2);
	for (int round = 0; round < 300; round++) {
		if (next_random(&x, 3) == 0) {
			int d = (int)next_random(&x, DIRS), t = (int)next_random(&x, DIRS + 1) - 1;
			int up = t;
			while (up >= 0 && up != d)
				up = dir_in[up];
			snprintf(name, sizeof(name), "d%d", d);
			int r = ops->rename(dir_in[d] < 0 ? root : dir[dir_in[d]], name, t < 0 ? root : dir[t], name,
			                    0);
			assert_int_equal(r, up == d && d != dir_in[d] ? -EINVAL : 0);
			if (!r)
				dir_in[d] = t;
		} else {
			int f = (int)next_random(&x, FILES), t = (int)next_random(&x, DIRS);
			snprintf(name, sizeof(name), "f%d", file_no[f]);
			snprintf(to, sizeof(to), "f%d", FILES + round);
			assert_int_equal(ops->rename(dir[file_in[f]], name, dir[t], to, 0), 0);
			file_in[f] = t;
			file_no[f] = FILES + round;
		}
		int f = (int)next_random(&x, FILES);
		snprintf(name, sizeof(name), "file %d", f);
		assert_text(file[f], name);
	}
	for (int i = 0; i < FILES; i++)
		assert_int_equal(attr_of(file[i]).st_ino, file[i]->ino);
	assert_true(open_fds() <= before + TINY_CACHE + 2);
	for (int i = 0; i < FILES; i++) {
		struct store_obj *parent;
		char *where;
		snprintf(name, sizeof(name), "file %d", i);
		assert_text(file[i], name);
		snprintf(name, sizeof(name), "f%d", file_no[i]);
		assert_int_equal(ops->place(file[i], &parent, &where), 0);
		assert_ptr_equal(parent, dir[file_in[i]]);
		assert_string_equal(where, name);
		struct store_obj *same = look(parent, where);
		assert_ptr_equal(same, file[i]);
		ops->put(same);
		ops->put(parent);
		free(where);
	}
	assert_true(open_fds() <= before + TINY_CACHE + 2);
	for (int i = 0; i < FILES; i++)
		ops->put(file[i]);
	for (int i = 0; i < DIRS; i++)
		ops->put(dir[i]);
}

static void test_small_cache(void **state UNUSED)
{
	check_small_cache();
}

/* When descriptors run out, cached ones make room. */
static void test_descriptors_run_out(void **state UNUSED)
{
	struct rlimit old, low;
	struct store_obj *o[100];
	char name[16];
	struct store_file *f;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	low = old;
	low.rlim_cur = (rlim_t)open_fds() + 40;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		o[i] = make(root, name, S_IFREG | 0644);
	}
	assert_int_equal(ops->open(o[0], O_RDONLY, false, &f), 0);
	ops->close_file(f);
	struct listing l = {.stop = 5};
	assert_int_equal(ops->readdir(root, list_one, &l), 77);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(attr_of(o[i]).st_ino, o[i]->ino);
		ops->put(o[i]);
	}
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
}

static void resolves_to(const struct store_id *id, const char *hint, const char *stage_name, uint64_t ino)
{
	struct store_obj *o;
	int r = ops->resolve(st, id, hint, stage_name, &o);
	if (r)
		fail_msg("resolve: %d", r);
	assert_int_equal(o->ino, ino);
	ops->put(o);
}

static void check_ids(void)
{
	struct store_id id, same, staged_id, root_id;
	struct store_obj *d = make(root, "d", S_IFDIR | 0755), *e = make(d, "e", S_IFDIR | 0755);
	struct store_obj *f = make(e, "f", S_IFREG | 0644), *o, *staged;
	uint64_t ino = f->ino;
	assert_int_equal(ops->id(f, &id), 0);
	assert_true(id.len > 0);
	assert_int_equal(ops->id(f, &same), 0);
	assert_memory_equal(&id, &same, sizeof(id));
	assert_int_equal(ops->id(root, &root_id), 0);
	staged = make(ops->stage(st), "s", S_IFREG | 0600);
	uint64_t staged_ino = staged->ino;
	assert_int_equal(ops->id(staged, &staged_id), 0);
	assert_memory_not_equal(&id, &staged_id, sizeof(id));
	ops->put(staged);
	ops->put(f);
	resolves_to(&id, "d/e/f", NULL, ino);
	resolves_to(&id, "/d//e/f", "no such", ino);
	resolves_to(&root_id, "", NULL, root->ino);
	resolves_to(&staged_id, NULL, "s", staged_ino);
	/* Renamed: the hint is wrong. Another file stands at the hint. */
	assert_int_equal(ops->rename(e, "f", root, "g", 0), 0);
	make_and_put(e, "f", S_IFREG | 0644);
	resolves_to(&id, "d/e/f", "s", ino);
	resolves_to(&id, NULL, NULL, ino);
	assert_int_equal(ops->rename(root, "g", e, "h", 0), 0);
	assert_int_equal(ops->rename(root, "d", root, "D", 0), 0);
	/* Also after the store was opened again, with nothing known; and in the stage and trash under any name. */
	assert_int_equal(ops->rename(ops->stage(st), "s", ops->trash(st), "t", 0), 0);
	ops->put(e);
	ops->put(d);
	close_store();
	open_store(TINY_CACHE);
	resolves_to(&id, "d/e/f", NULL, ino);
	resolves_to(&id, "D/e/h", NULL, ino);
	resolves_to(&staged_id, NULL, "s", staged_ino);
	/* Its id did not change. */
	d = look(root, "D");
	e = look(d, "e");
	f = look(e, "h");
	assert_int_equal(ops->id(f, &same), 0);
	assert_memory_equal(&id, &same, sizeof(id));
	/* Gone, while still referenced: no more. Then for good, and its inode number used again. */
	assert_int_equal(ops->unlink(e, "h", false), 0);
	assert_true(ops->resolve(st, &id, "D/e/h", NULL, &o) < 0);
	ops->put(f);
	int r = ops->resolve(st, &id, "D/e/h", NULL, &o);
	assert_true(r == -ENOENT || r == -ESTALE);
	bool reused = false;
	for (int i = 0; i < 20 && !reused; i++) {
		char name[16];
		snprintf(name, sizeof(name), "n%d", i);
		f = make(e, name, S_IFREG | 0644);
		reused = f->ino == ino;
		assert_int_equal(ops->id(f, &same), 0);
		assert_memory_not_equal(&id, &same, sizeof(id));
		ops->put(f);
	}
	print_message("inode number %s\n", reused ? "was used again" : "was not used again");
	r = ops->resolve(st, &id, "D/e/n0", NULL, &o);
	assert_true(r == -ENOENT || r == -ESTALE);
	struct store_id bad = {.len = 9, .bytes = {1, 2, 3}};
	assert_true(ops->resolve(st, &bad, NULL, NULL, &o) < 0);
	bad.len = 0;
	assert_int_equal(ops->resolve(st, &bad, NULL, NULL, &o), -EINVAL);
	bad.len = STORE_ID_MAX + 1;
	assert_int_equal(ops->resolve(st, &bad, NULL, NULL, &o), -EINVAL);
	ops->put(e);
	ops->put(d);
}

static void test_ids(void **state UNUSED)
{
	check_ids();
}

/* As an ordinary user */

static void nobody_small_cache(void)
{
	open_store(TINY_CACHE);
	check_small_cache();
}

static void nobody_unlinked_lives(void)
{
	open_store(TINY_CACHE);
	check_unlinked_lives();
}

static void nobody_ids(void)
{
	open_store(TINY_CACHE);
	check_ids();
}

static void push_out(void)
{
	char name[16];
	struct store_obj *o[3 * TINY_CACHE];
	for (unsigned i = 0; i < ARRAY_LEN(o); i++) {
		snprintf(name, sizeof(name), "push%u", i);
		if (look_error(root, name) == -ENOENT)
			make_and_put(root, name, S_IFREG | 0600);
		o[i] = look(root, name);
	}
	for (unsigned i = 0; i < ARRAY_LEN(o); i++)
		ops->put(o[i]);
}

/* Someone else removes and renames in the backing directory. */
static void foreign_changes(void)
{
	open_store(TINY_CACHE);
	struct store_obj *f = make(root, "f", S_IFREG | 0644), *g = make(root, "g", S_IFREG | 0644), *same;
	struct stat s;
	struct store_id id;
	assert_int_equal(ops->id(f, &id), 0);
	int found = geteuid() == 0 && id.bytes[0] != 2 ? 0 : -ESTALE; /* by file handle */
	put_text(f, "f");
	put_text(g, "g");
	/* Removed while its descriptor was there. */
	assert_int_equal(unlink(in_src("g")), 0);
	push_out();
	assert_text(g, "g");
	/* Moved while it was not: the file that has taken its name is never taken for it. */
	push_out();
	assert_int_equal(rename(in_src("f"), in_src("h")), 0);
	assert_int_equal(ops->getattr(f, &s), found);
	push_out();
	close(open(in_src("f"), O_CREAT | O_WRONLY, 0600));
	assert_int_equal(ops->getattr(f, &s), found);
	/* Seen again, it is the same object. */
	same = look(root, "h");
	assert_ptr_equal(same, f);
	assert_text(f, "f");
	ops->put(same);
	ops->put(f);
	ops->put(g);
}

static void nobody_overcomes_modes(void)
{
	open_store(TINY_CACHE);
	struct store_obj *d = make(root, "d", S_IFDIR | 0755), *f = make(d, "f", S_IFREG | 0444), *o;
	struct store_obj *sub = make(d, "sub", S_IFDIR | 0555), *other = make(root, "other", S_IFDIR | 0755);
	struct stat closed = {.st_mode = 0555}, shut = {.st_mode = 0}, s, times;
	struct store_file *file;
	struct store_new nw = {.mode = S_IFREG | 0400, .uid = NOBODY, .gid = NOBODY};
	if (geteuid() == 0)
		return;
	/* A file: only by force, and its mode is as before. */
	assert_int_equal(ops->open(f, O_RDWR, false, &file), -EACCES);
	assert_int_equal(ops->open(f, O_RDWR, true, &file), 0);
	assert_int_equal(ops->write(file, "x", 1, 0), 1);
	ops->close_file(file);
	assert_int_equal(attr_of(f).st_mode, S_IFREG | 0444);
	s.st_size = 100;
	assert_int_equal(ops->setattr(f, &s, STORE_SET_SIZE), 0);
	assert_int_equal(ops->setxattr(f, "user.a", "b", 1, 0), 0);
	assert_int_equal(attr_of(f).st_mode, S_IFREG | 0444);
	assert_int_equal(attr_of(f).st_size, 100);
	assert_int_equal(ops->setattr(f, &shut, STORE_SET_MODE), 0);
	assert_int_equal(ops->open(f, O_RDONLY, false, &file), -EACCES);
	assert_int_equal(ops->sync(f, true), 0);
	assert_int_equal(attr_of(f).st_mode, S_IFREG);
	/* Names in a directory that forbids it. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(ops->setattr(d, i ? &shut : &closed, STORE_SET_MODE), 0);
		mode_t mode = i ? S_IFDIR : S_IFDIR | 0555;
		assert_int_equal(ops->create(d, "new", &nw, false, &o, &s), 0);
		ops->put(o);
		assert_int_equal(s.st_mode, nw.mode);
		assert_int_equal(ops->create(d, "new", &nw, false, &o, &s), -EEXIST);
		assert_int_equal(attr_of(d).st_mode, mode);
		assert_int_equal(ops->link(f, d, "link"), 0);
		assert_int_equal(attr_of(d).st_mode, mode);
		assert_int_equal(ops->rename(d, "link", d, "renamed", 0), 0);
		assert_int_equal(attr_of(d).st_mode, mode);
		/* sub's own ".." is written. */
		assert_int_equal(ops->rename(d, "sub", other, "sub", 0), 0);
		assert_int_equal(ops->rename(other, "sub", d, "sub", 0), 0);
		assert_int_equal(attr_of(sub).st_mode, S_IFDIR | 0555);
		assert_int_equal(ops->unlink(d, "renamed", false), 0);
		assert_int_equal(ops->unlink(d, "new", false), 0);
		assert_int_equal(ops->unlink(d, "new", false), -ENOENT);
		assert_int_equal(ops->unlink(d, "sub", false), -EISDIR);
		assert_int_equal(attr_of(d).st_mode, mode);
		struct listing l = {0};
		assert_int_equal(ops->readdir(d, list_one, &l), 0);
		assert_int_equal(l.n, 2);
		assert_int_equal(attr_of(d).st_mode, mode);
	}
	/* Reopening below a closed directory. */
	for (int i = 0; i < 20; i++) {
		char name[16];
		snprintf(name, sizeof(name), "fill%d", i);
		make_and_put(other, name, S_IFREG | 0600);
	}
	struct store_obj *fill[20];
	for (int i = 0; i < 20; i++) {
		char name[16];
		snprintf(name, sizeof(name), "fill%d", i);
		fill[i] = look(other, name);
	}
	assert_int_equal(attr_of(sub).st_ino, sub->ino);
	assert_int_equal(attr_of(f).st_ino, f->ino);
	for (int i = 0; i < 20; i++)
		ops->put(fill[i]);
	/* What belongs to him only. */
	nw.uid = 0;
	assert_int_equal(ops->create(other, "root's", &nw, false, &o, NULL), -EPERM);
	assert_int_equal(look_error(other, "root's"), -ENOENT);
	assert_int_equal(ops->create(other, "root's", &nw, true, &o, &s), 0);
	assert_int_equal(s.st_uid, NOBODY);
	ops->put(o);
	times = (struct stat){.st_mtim = {5, 5}};
	assert_int_equal(ops->setattr(f, &times, STORE_SET_MTIME), 0);
	struct stat open_again = {.st_mode = 0755};
	assert_int_equal(ops->setattr(d, &open_again, STORE_SET_MODE), 0);
	ops->put(other);
	ops->put(sub);
	ops->put(f);
	ops->put(d);
}

static void nobody_refused(void)
{
	char err[256];
	struct store *s;
	struct store_dir_options opt = {.create = true};
	int r = open_one(&opt, &s, err);
	assert_int_equal(r, -EACCES);
	assert_non_null(strstr(err, src));
}

static void test_nobody_small_cache(void **state UNUSED)
{
	as_nobody(nobody_small_cache);
}

static void test_nobody_unlinked_lives(void **state UNUSED)
{
	as_nobody(nobody_unlinked_lives);
}

static void test_nobody_ids(void **state UNUSED)
{
	as_nobody(nobody_ids);
}

static void test_nobody_foreign_changes(void **state UNUSED)
{
	as_nobody(foreign_changes);
}

static void test_foreign_changes(void **state UNUSED)
{
	assert_int_equal(in_child(foreign_changes, false), 0);
}

static void test_nobody_overcomes_modes(void **state UNUSED)
{
	as_nobody(nobody_overcomes_modes);
}

static void test_nobody_refused(void **state UNUSED)
{
	if (geteuid() != 0)
		skip();
	/* An unwritable directory, and a state directory that belongs to someone else. */
	assert_int_equal(chmod(src, 0555), 0);
	as_nobody(nobody_refused);
	assert_int_equal(chmod(src, 0755), 0);
	assert_int_equal(mkdir(in_src(".txnfs"), 0700), 0);
	as_nobody(nobody_refused);
}

/* Threads: lookups, puts and evictions of the same few objects against renames. */

struct worker {
	pthread_t thread;
	uint64_t x;
	int wrong;
};

#define SHARED 12

static void *work(void *arg)
{
	struct worker *w = arg;
	char name[16];
	for (int i = 0; i < 3000; i++) {
		struct store_obj *o, *again;
		struct stat s;
		snprintf(name, sizeof(name), "f%u", next_random(&w->x, SHARED));
		if (ops->lookup(root, name, &o, &s) != 0) {
			w->wrong++;
			continue;
		}
		if (ops->lookup(root, name, &again, NULL) != 0 || again != o)
			w->wrong++;
		else
			ops->put(again);
		if (ops->getattr(o, &s) != 0 || s.st_ino != o->ino)
			w->wrong++;
		ops->put(o);
	}
	return NULL;
}

static void check_threads(void)
{
	struct worker w[4] = {0};
	struct store_obj *held[SHARED], *d = make(root, "deep", S_IFDIR | 0755), *in = make(d, "in", S_IFREG | 0644);
	char name[16];
	for (int i = 0; i < SHARED; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		held[i] = make(root, name, S_IFREG | 0644);
		if (i & 1)
			ops->put(held[i]); /* those come and go */
	}
	for (int i = 0; i < 4; i++) {
		w[i].x = (uint64_t)i + 1;
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	int wrong = 0;
	for (int i = 0; i < 500; i++) {
		/* Objects below a moving directory are found all the time. */
		wrong += ops->rename(root, i & 1 ? "deeper" : "deep", root, i & 1 ? "deep" : "deeper", 0) != 0;
		struct stat s;
		wrong += ops->getattr(in, &s) != 0;
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(w[i].thread, NULL);
		assert_int_equal(w[i].wrong, 0);
	}
	assert_int_equal(wrong, 0);
	for (int i = 0; i < SHARED; i += 2)
		ops->put(held[i]);
	ops->put(in);
	ops->put(d);
}

static void test_threads(void **state UNUSED)
{
	check_threads();
}

static void nobody_threads(void)
{
	open_store(4);
	check_threads();
}

static void test_nobody_threads(void **state UNUSED)
{
	as_nobody(nobody_threads);
}

/* Other filesystems */

static void test_mounts_inside_refused(void **state UNUSED)
{
	struct store_obj *o;
	struct store_id id = {.len = 21, .bytes = {2}};
	make_and_put(root, "m", S_IFDIR | 0755);
	if (geteuid() != 0 || mount("none", in_src("m"), "tmpfs", 0, "size=1m") != 0)
		skip();
	int r = look_error(root, "m"), walk = ops->resolve(st, &id, NULL, NULL, &o);
	/* The same filesystem again is another mount too. */
	int r2 = mount(src, in_src("m"), NULL, MS_BIND, NULL) == 0 ? look_error(root, "m") : -EXDEV;
	while (umount(in_src("m")) == 0)
		;
	assert_int_equal(r, -EXDEV);
	assert_int_equal(r2, -EXDEV);
	assert_int_equal(walk, -ENOENT);
	ops->put(look(root, "m"));
}

/* On overlayfs a first change gives a file of the lower layer another birth time. Its id must outlast that. */
static void check_copy_up(void)
{
	struct store_id id;
	open_store(TINY_CACHE);
	struct store_obj *f = look(root, "f");
	uint64_t ino = f->ino;
	assert_int_equal(ops->id(f, &id), 0);
	put_text(f, "upper");
	assert_text(f, "upper");
	push_out();
	assert_text(f, "upper");
	ops->put(f);
	close_store();
	open_store(TINY_CACHE);
	resolves_to(&id, "f", NULL, ino);
	assert_int_equal(ops->rename(root, "f", root, "g", 0), 0);
	resolves_to(&id, "f", NULL, ino);
}

static void test_overlay_copy_up(void **state UNUSED)
{
	char options[4096];
	snprintf(options, sizeof(options), "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", tmp, tmp, tmp);
	static const char *const dirs[] = {"../lower", "../upper", "../work"};
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		assert_int_equal(mkdir(in_src(dirs[i]), 0755), 0);
	int fd = open(in_src("../lower/f"), O_CREAT | O_WRONLY, 0644);
	assert_int_equal(write(fd, "lower", 5), 5);
	close(fd);
	if (geteuid() != 0 || mount("none", src, "overlay", 0, options) != 0)
		skip();
	int status = in_child(check_copy_up, false);
	assert_int_equal(umount(src), 0);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_nobody_small_cache, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_unlinked_lives, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_ids, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_foreign_changes, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_foreign_changes, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_overcomes_modes, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_refused, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_threads, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_unlinked_lives, setup_tiny, teardown),
		cmocka_unit_test_setup_teardown(test_small_cache, setup_tiny, teardown),
		cmocka_unit_test_setup_teardown(test_descriptors_run_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ids, setup_tiny, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup_tiny, teardown),
		cmocka_unit_test_setup_teardown(test_overlay_copy_up, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_mounts_inside_refused, setup, teardown),
	};
	return cmocka_run_group_tests_name("store objects", tests, NULL, NULL);
}
