/* test_store.c - the real directory behind txn/store.h: opening it, names, attributes, contents. */
#include "store_kit.h"

#include <sys/sysmacros.h>
#include <sys/xattr.h>

/* Opening */

static void test_state_directory(void **state UNUSED)
{
	struct stat s;
	char text[128] = "";
	assert_int_equal(stat(in_src(".txnfs"), &s), 0);
	assert_int_equal(s.st_mode, S_IFDIR | 0700);
	assert_int_equal(stat(in_src(".txnfs/wal"), &s), 0);
	assert_int_equal(stat(in_src(".txnfs/stage"), &s), 0);
	assert_int_equal(stat(in_src(".txnfs/trash"), &s), 0);
	int fd = open(in_src(".txnfs/format"), O_RDONLY);
	assert_int_equal(read(fd, text, sizeof(text) - 1), 15 + 5 + 36 + 1);
	close(fd);
	assert_memory_equal(text, "txnfs format 1\nuuid ", 20);
	assert_int_equal(text[20 + 14], '4');
	assert_int_equal(ops->stage(st)->kind, S_IFDIR);
	/* Opened again it is the same one. */
	close_store();
	open_store(0);
	char again[128] = "";
	fd = open(in_src(".txnfs/format"), O_RDONLY);
	assert_true(read(fd, again, sizeof(again) - 1) > 0);
	close(fd);
	assert_string_equal(text, again);
}

static void test_second_open_is_busy(void **state UNUSED)
{
	char err[256];
	struct store *second;
	struct store_dir_options opt = {.create = true};
	assert_int_equal(open_one(&opt, &second, err), -EBUSY);
	assert_non_null(strstr(err, "in use"));
	close_store();
	assert_int_equal(open_one(&opt, &second, err), 0);
	second->ops->close(second);
}

static void test_read_only_beside_locked(void **state UNUSED)
{
	char err[256];
	struct store *ro;
	struct store_dir_options opt = {.create = true, .read_only = true};
	put_text(make(root, "f", S_IFREG | 0644), "text"); /* reference dropped by close */
	struct stat before, after;
	assert_int_equal(stat(in_src(".txnfs"), &before), 0);
	assert_int_equal(open_one(&opt, &ro, err), 0);
	struct store_obj *rw_root = root, *o = look(ro->ops->root(ro), "f");
	struct store *rw = st;
	assert_text(o, "text");
	struct store_new nw = {.mode = S_IFREG | 0644};
	struct store_obj *dir = ro->ops->root(ro), *made;
	struct store_file *f;
	struct stat s = {0};
	assert_int_equal(ops->create(dir, "g", &nw, false, &made, NULL), -EROFS);
	assert_int_equal(ops->tmpfile(dir, &nw, &made, NULL, &f), -EROFS);
	assert_int_equal(ops->unlink(dir, "f", false), -EROFS);
	assert_int_equal(ops->rename(dir, "f", dir, "g", 0), -EROFS);
	assert_int_equal(ops->link(o, dir, "g"), -EROFS);
	assert_int_equal(ops->setattr(o, &s, STORE_SET_MODE), -EROFS);
	assert_int_equal(ops->setxattr(o, "user.a", "b", 1, 0), -EROFS);
	assert_int_equal(ops->removexattr(o, "user.a"), -EROFS);
	assert_int_equal(ops->open(o, O_RDWR, true, &f), -EROFS);
	assert_int_equal(ops->reserve(ro, 1), -EROFS);
	ops->put(o);
	ro->ops->close(ro);
	st = rw;
	root = rw_root;
	assert_int_equal(stat(in_src(".txnfs"), &after), 0);
	assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof(before.st_mtim));
	/* The lock is still held by the first. */
	opt.read_only = false;
	assert_int_equal(open_one(&opt, &ro, err), -EBUSY);
}

static void test_read_only_makes_nothing(void **state UNUSED)
{
	char err[256];
	struct store *ro;
	struct store_dir_options opt = {.create = true, .read_only = true};
	struct stat s;
	assert_int_equal(open_one(&opt, &ro, err), -ENOENT);
	assert_non_null(strstr(err, "not a txnfs directory"));
	assert_int_equal(stat(in_src(".txnfs"), &s), -1);
	opt = (struct store_dir_options){0};
	assert_int_equal(open_one(&opt, &ro, err), -ENOENT);
	assert_int_equal(stat(in_src(".txnfs"), &s), -1);
}

static void write_format(const char *text, size_t n)
{
	int fd = open(in_src(".txnfs/format"), O_WRONLY | O_TRUNC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, n), n);
	close(fd);
}

static void test_format_refused(void **state UNUSED)
{
	static const struct {
		const char *text;
		int r;
	} cases[] = {
		{"txnfs format 2\nwhatever\n", -EPROTONOSUPPORT},
		{"txnfs format 10\nuuid 00000000-0000-4000-8000-000000000000\n", -EPROTONOSUPPORT},
		{"", -EUCLEAN},
		{"txnfs format 1\n", -EUCLEAN},
		{"txnfs format 1\nuuid 00000000-0000-4000-8000-00000000000\n", -EUCLEAN},
		{"txnfs format 1\nuuid 00000000-0000-4000-8000-00000000000g\n", -EUCLEAN},
		{"txnfs format 1\nuuid 00000000-0000-4000-8000-000000000000", -EUCLEAN},
		{"txnfs format 0\nuuid 00000000-0000-4000-8000-000000000000\n", -EUCLEAN},
		{"txnfs format -1\nuuid 00000000-0000-4000-8000-000000000000\n", -EUCLEAN},
		{"txnfs format 99999999999999999999999\nx\n", -EUCLEAN},
		{"something else\n", -EUCLEAN},
		{"txnfs format 1\nuuid 00000000-0000-4000-8000-000000000000\n", 0},
	};
	char err[256];
	struct store *s;
	struct store_dir_options opt = {.create = true};
	close_store();
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		write_format(cases[i].text, strlen(cases[i].text));
		int r = open_one(&opt, &s, err);
		if (r != cases[i].r)
			fail_msg("case %zu: %d %s", i, r, err);
		if (r == -EPROTONOSUPPORT)
			assert_non_null(strstr(err, "newer txnfs"));
		if (r)
			assert_int_not_equal(*err, 0);
		else
			s->ops->close(s);
	}
	char nul[] = "txnfs format 1\nuuid 00000000-0000-4000-8000-000000000000\n";
	nul[3] = '\0';
	write_format(nul, sizeof(nul) - 1);
	assert_int_equal(open_one(&opt, &s, err), -EUCLEAN);
	/* A format file that is gone: damage when there is a log, else a creation that was cut short. */
	assert_int_equal(unlink(in_src(".txnfs/format")), 0);
	int fd = open(in_src(".txnfs/wal/0000000000000001"), O_WRONLY | O_CREAT, 0600);
	close(fd);
	assert_int_equal(open_one(&opt, &s, err), -EUCLEAN);
	assert_int_equal(unlink(in_src(".txnfs/wal/0000000000000001")), 0);
	opt.create = false;
	assert_int_equal(open_one(&opt, &s, err), -ENOENT);
	opt.create = true;
	assert_int_equal(rmdir(in_src(".txnfs/trash")), 0);
	assert_int_equal(open_one(&opt, &s, err), 0);
	s->ops->close(s);
	/* A log that is gone is never replaced. */
	assert_int_equal(rmdir(in_src(".txnfs/wal")), 0);
	assert_int_equal(open_one(&opt, &s, err), -EUCLEAN);
	assert_non_null(strstr(err, "wal"));
}

static void test_state_directory_of_wrong_kind(void **state UNUSED)
{
	char err[256];
	struct store *s;
	struct store_dir_options opt = {.create = true};
	assert_int_equal(mkdir(in_src("elsewhere"), 0700), 0);
	assert_int_equal(symlink("elsewhere", in_src(".txnfs")), 0);
	assert_int_equal(open_one(&opt, &s, err), -ENOTDIR);
	assert_non_null(strstr(err, "symbolic link"));
	assert_int_equal(unlink(in_src(".txnfs")), 0);
	close(open(in_src(".txnfs"), O_CREAT | O_WRONLY, 0600));
	assert_int_equal(open_one(&opt, &s, err), -ENOTDIR);
	assert_int_equal(unlink(in_src(".txnfs")), 0);
	/* A directory in it that is a link out of it. */
	assert_int_equal(mkdir(in_src(".txnfs"), 0700), 0);
	assert_int_equal(symlink("../elsewhere", in_src(".txnfs/stage")), 0);
	assert_int_equal(open_one(&opt, &s, err), -EUCLEAN);
	assert_non_null(strstr(err, "stage"));
	assert_int_equal(unlink(in_src(".txnfs/stage")), 0);
	if (geteuid() == 0) {
		assert_int_equal(chown(in_src(".txnfs"), NOBODY, NOBODY), 0);
		assert_int_equal(open_one(&opt, &s, err), -EACCES);
		assert_non_null(strstr(err, "belongs to user 65534"));
		assert_int_equal(chown(in_src(".txnfs"), 0, 0), 0);
	}
	snprintf(src, sizeof(src), "%s/nowhere", tmp);
	assert_int_equal(open_one(&opt, &s, err), -ENOENT);
	snprintf(src, sizeof(src), "%s/src/file", tmp);
	close(open(src, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(open_one(&opt, &s, err), -ENOTDIR);
}

static void test_state_directory_hidden(void **state UNUSED)
{
	struct store_new nw = {.mode = S_IFDIR | 0755};
	struct store_obj *o;
	make_and_put(root, "d", S_IFDIR | 0755);
	assert_int_equal(look_error(root, ".txnfs"), -ENOENT);
	assert_int_equal(ops->create(root, ".txnfs", &nw, true, &o, NULL), -EPERM);
	assert_int_equal(ops->unlink(root, ".txnfs", true), -EPERM);
	assert_int_equal(ops->rename(root, ".txnfs", root, "x", 0), -EPERM);
	assert_int_equal(ops->rename(root, "d", root, ".txnfs", 0), -EPERM);
	assert_int_equal(ops->rename(root, "d", root, ".txnfs", RENAME_EXCHANGE), -EPERM);
	assert_int_equal(ops->link(root, root, ".txnfs"), -EPERM);
	/* Only there, and only that name. */
	o = look(root, "d");
	make_and_put(o, ".txnfs", S_IFDIR | 0755);
	ops->put(look(o, ".txnfs"));
	ops->put(o);
	make_and_put(root, ".txnfs2", S_IFREG | 0644);
	ops->put(look(root, ".txnfs2"));
}

/* Names */

static void test_names(void **state UNUSED)
{
	struct stat s;
	struct store_obj *a = make(root, "a", S_IFREG | 0640), *again, *other;
	assert_int_equal(ops->lookup(root, "a", &again, &s), 0);
	assert_ptr_equal(a, again);
	assert_int_equal(s.st_mode, S_IFREG | 0640);
	assert_int_equal(s.st_ino, a->ino);
	assert_int_equal(s.st_nlink, 1);
	ops->put(again);
	assert_int_equal(look_error(root, "b"), -ENOENT);
	assert_int_equal(look_error(root, ""), -EINVAL);
	assert_int_equal(look_error(root, "."), -EINVAL);
	assert_int_equal(look_error(root, ".."), -EINVAL);
	assert_int_equal(look_error(root, "a/b"), -EINVAL);
	assert_int_equal(look_error(a, "b"), -ENOTDIR);
	char longest[257];
	memset(longest, 'n', 256);
	longest[256] = '\0';
	assert_int_equal(look_error(root, longest), -ENAMETOOLONG);
	longest[255] = '\0';
	make_and_put(root, longest, S_IFREG | 0600);
	assert_int_equal(ops->unlink(root, longest, false), 0);

	/* Hard links give the same object. */
	assert_int_equal(ops->link(a, root, "b"), 0);
	assert_int_equal(ops->link(a, root, "b"), -EEXIST);
	again = look(root, "b");
	assert_ptr_equal(a, again);
	ops->put(again);
	assert_int_equal(attr_of(a).st_nlink, 2);
	/* Renaming one link over the other does nothing. */
	assert_int_equal(ops->rename(root, "a", root, "b", 0), 0);
	ops->put(look(root, "a"));
	ops->put(look(root, "b"));

	struct store_new nw = {.mode = S_IFREG | 0600};
	assert_int_equal(ops->create(root, "a", &nw, true, &other, NULL), -EEXIST);
	other = make(root, "c", S_IFREG | 0600);
	assert_int_equal(ops->rename(root, "a", root, "c", RENAME_NOREPLACE), -EEXIST);
	assert_int_equal(ops->rename(root, "a", root, "c", RENAME_EXCHANGE), 0);
	again = look(root, "a");
	assert_ptr_equal(again, other);
	ops->put(again);
	assert_int_equal(ops->rename(root, "a", root, "nix", RENAME_EXCHANGE), -ENOENT);
	assert_int_equal(ops->rename(root, "nix", root, "a", 0), -ENOENT);
	assert_int_equal(ops->rename(root, "a", root, "b", 64), -EINVAL);
	ops->put(other);
	ops->put(a);

	struct store_obj *d = make(root, "d", S_IFDIR | 0755), *e = make(d, "e", S_IFDIR | 0755);
	assert_int_equal(ops->unlink(root, "d", true), -ENOTEMPTY);
	assert_int_equal(ops->unlink(root, "d", false), -EISDIR);
	assert_int_equal(ops->unlink(root, "a", true), -ENOTDIR);
	assert_int_equal(ops->rename(root, "d", e, "x", 0), -EINVAL);
	assert_int_equal(ops->unlink(d, "e", true), 0);
	assert_int_equal(look_error(e, "x"), -ENOENT);
	ops->put(e);
	ops->put(d);

	struct listing l = {0};
	assert_int_equal(ops->readdir(root, list_one, &l), 0);
	assert_int_equal(l.n, 4); /* a b c d, no state directory */
	for (int i = 0; i < l.n; i++) {
		assert_in_range(l.names[i][0], 'a', 'd');
		assert_int_equal(l.kinds[i], l.names[i][0] == 'd' ? S_IFDIR : S_IFREG);
	}
	l = (struct listing){.stop = 2};
	assert_int_equal(ops->readdir(root, list_one, &l), 77);
	assert_int_equal(l.n, 2);
}

static void test_place(void **state UNUSED)
{
	struct store_obj *d = make(root, "d", S_IFDIR | 0755), *f = make(root, "f", S_IFREG | 0600), *parent, *t;
	struct store_file *file;
	char *name;
	assert_int_equal(ops->place(root, &parent, &name), -ENOENT);
	assert_int_equal(ops->place(f, &parent, &name), 0);
	assert_ptr_equal(parent, root);
	assert_string_equal(name, "f");
	ops->put(parent);
	free(name);
	assert_int_equal(ops->rename(root, "f", d, "g", 0), 0);
	assert_int_equal(ops->place(f, &parent, &name), 0);
	assert_ptr_equal(parent, d);
	assert_string_equal(name, "g");
	ops->put(parent);
	free(name);
	/* A link that stays, when the known name goes. */
	assert_int_equal(ops->link(f, root, "h"), 0);
	assert_int_equal(ops->unlink(d, "g", false), 0);
	assert_int_equal(ops->place(f, &parent, &name), -ENOENT);
	ops->put(look(root, "h"));
	assert_int_equal(ops->place(f, &parent, &name), 0);
	assert_string_equal(name, "h");
	ops->put(parent);
	free(name);
	/* Replaced. */
	make_and_put(root, "i", S_IFREG | 0600);
	assert_int_equal(ops->rename(root, "i", root, "h", 0), 0);
	assert_int_equal(ops->place(f, &parent, &name), -ENOENT);
	assert_int_equal(attr_of(f).st_nlink, 0);
	ops->put(f);
	/* No name at first. */
	struct store_new nw = {.mode = S_IFREG | 0600, .uid = geteuid(), .gid = getegid()};
	assert_int_equal(ops->tmpfile(d, &nw, &t, NULL, &file), 0);
	assert_int_equal(ops->place(t, &parent, &name), -ENOENT);
	assert_int_equal(ops->write(file, "tmp", 3, 0), 3);
	ops->close_file(file);
	assert_text(t, "tmp");
	assert_int_equal(ops->link(t, d, "t"), 0);
	assert_int_equal(ops->place(t, &parent, &name), 0);
	assert_string_equal(name, "t");
	ops->put(parent);
	free(name);
	struct store_obj *same = look(d, "t");
	assert_ptr_equal(same, t);
	assert_int_equal(attr_of(t).st_nlink, 1);
	ops->put(same);
	ops->put(t);
	ops->put(d);
}

static void test_user_survives_while_referenced(void **state UNUSED)
{
	int mine;
	struct store_obj *o = make(root, "f", S_IFREG | 0600), *same = look(root, "f");
	assert_null(o->user);
	o->user = &mine;
	ops->put(o);
	o = look(root, "f");
	assert_ptr_equal(o->user, &mine);
	ops->put(o);
	ops->put(same);
	o = look(root, "f");
	assert_null(o->user);
	ops->put(o);
}

static void test_kinds(void **state UNUSED)
{
	static const mode_t kinds[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		bool device = kinds[i] == S_IFCHR || kinds[i] == S_IFBLK;
		struct store_new nw = {.mode = kinds[i] | 0640,
		                       .uid = geteuid(),
		                       .gid = getegid(),
		                       .rdev = device ? makedev(1, 7) : 0,
		                       .target = "to"};
		struct stat s, t;
		struct store_obj *o;
		if (device && geteuid() != 0)
			continue;
		assert_int_equal(ops->create(root, "x", &nw, i & 1, &o, &s), 0);
		assert_int_equal(o->kind, kinds[i]);
		assert_int_equal(s.st_mode, kinds[i] | (kinds[i] == S_IFLNK ? 0777 : 0640));
		assert_int_equal(s.st_rdev, nw.rdev);
		t = attr_of(o);
		assert_int_equal(s.st_ino, t.st_ino);
		assert_int_equal(s.st_dev, t.st_dev);
		assert_int_equal(s.st_mode, t.st_mode);
		assert_int_equal(s.st_size, t.st_size);
		assert_memory_equal(&s.st_mtim, &t.st_mtim, sizeof(s.st_mtim));
		struct store_file *f;
		char buf[3];
		if (kinds[i] != S_IFREG)
			assert_int_not_equal(ops->open(o, O_RDONLY, true, &f), 0); /* above all: does not block */
		if (kinds[i] == S_IFLNK) {
			assert_int_equal(ops->readlink(o, buf, sizeof(buf)), 0);
			assert_string_equal(buf, "to");
			assert_int_equal(ops->readlink(o, buf, 2), -ENAMETOOLONG);
		} else {
			assert_int_equal(ops->readlink(o, buf, sizeof(buf)), -EINVAL);
			struct stat m = {.st_mode = 04751};
			assert_int_equal(ops->setattr(o, &m, STORE_SET_MODE), 0);
			assert_int_equal(attr_of(o).st_mode, kinds[i] | 04751);
		}
		struct stat when = {.st_atim = {1, 2}, .st_mtim = {3, 4}};
		assert_int_equal(ops->setattr(o, &when, STORE_SET_ATIME | STORE_SET_MTIME), 0);
		assert_int_equal(attr_of(o).st_mtim.tv_nsec, 4);
		assert_int_equal(ops->sync(o, false), 0);
		assert_int_equal(ops->link(o, root, "y"), kinds[i] == S_IFDIR ? -EPERM : 0);
		if (kinds[i] != S_IFDIR)
			assert_int_equal(ops->unlink(root, "y", false), 0);
		assert_int_equal(ops->unlink(root, "x", kinds[i] == S_IFDIR), 0);
		ops->put(o);
	}
	struct store_new bad = {.mode = 0644};
	struct store_obj *o;
	assert_int_equal(ops->create(root, "x", &bad, true, &o, NULL), -EINVAL);
}

static void test_owner_and_mode(void **state UNUSED)
{
	if (geteuid() != 0)
		skip();
	struct store_obj *o, *d = make(root, "d", S_IFDIR | 0777);
	struct stat s, in_dir = {.st_gid = 4242, .st_mode = 02777};
	struct store_new nw = {.mode = S_IFREG | 06755, .uid = 1234, .gid = 5678};
	assert_int_equal(ops->create(d, "plain", &nw, true, &o, &s), 0);
	ops->put(o);
	assert_int_equal(s.st_uid, 1234);
	assert_int_equal(s.st_gid, 5678);
	assert_int_equal(s.st_mode, nw.mode);
	/* The thread is root again. */
	close(open(in_src("d/probe"), O_CREAT | O_WRONLY, 0600));
	assert_int_equal(stat(in_src("d/probe"), &s), 0);
	assert_int_equal(s.st_uid, 0);
	assert_int_equal(s.st_gid, 0);
	/* Directory's group. */
	assert_int_equal(ops->setattr(d, &in_dir, STORE_SET_GID | STORE_SET_MODE), 0);
	assert_int_equal(ops->create(d, "inherits", &nw, true, &o, &s), 0);
	ops->put(o);
	assert_int_equal(s.st_uid, 1234);
	assert_int_equal(s.st_gid, 4242);
	nw.mode = S_IFDIR | 0750;
	assert_int_equal(ops->create(d, "subdir", &nw, true, &o, &s), 0);
	ops->put(o);
	assert_int_equal(s.st_mode, S_IFDIR | 02750);
	assert_int_equal(s.st_gid, 4242);
	/* Exactly. */
	assert_int_equal(ops->create(d, "exact dir", &nw, false, &o, &s), 0);
	ops->put(o);
	assert_int_equal(s.st_mode, S_IFDIR | 0750);
	assert_int_equal(s.st_gid, 5678);
	nw.gid = 4242;
	assert_int_equal(ops->create(d, "same group", &nw, false, &o, &s), 0);
	ops->put(o);
	assert_int_equal(s.st_mode, S_IFDIR | 0750);
	nw.gid = 5678;
	nw.mode = S_IFREG | 06711;
	assert_int_equal(ops->create(d, "exact", &nw, false, &o, &s), 0);
	assert_int_equal(s.st_mode, S_IFREG | 06711);
	assert_int_equal(s.st_uid, 1234);
	assert_int_equal(s.st_gid, 5678);
	/* Owner, size and mode at once: the setuid bit stays. */
	struct stat all = {.st_mode = 04700, .st_uid = 1, .st_gid = 2, .st_size = 5, .st_mtim = {7, 8}};
	assert_int_equal(
		ops->setattr(o, &all,
	                     STORE_SET_MODE | STORE_SET_UID | STORE_SET_GID | STORE_SET_SIZE | STORE_SET_MTIME),
		0);
	s = attr_of(o);
	assert_int_equal(s.st_mode, S_IFREG | 04700);
	assert_int_equal(s.st_uid, 1);
	assert_int_equal(s.st_gid, 2);
	assert_int_equal(s.st_size, 5);
	assert_int_equal(s.st_mtim.tv_sec, 7);
	ops->put(o);
	ops->put(d);
}

static void test_default_acl(void **state UNUSED)
{
	/* user::rwx, user:1234:rwx, group::r-x, mask::rwx, other::r-x */
	static const unsigned char acl[] = {2,    0,    0,    0,    1,    0,    7,    0,    0xff, 0xff, 0xff,
	                                    0xff, 2,    0,    7,    0,    0xd2, 4,    0,    0,    4,    0,
	                                    5,    0,    0xff, 0xff, 0xff, 0xff, 0x10, 0,    7,    0,    0xff,
	                                    0xff, 0xff, 0xff, 0x20, 0,    5,    0,    0xff, 0xff, 0xff, 0xff};
	struct store_obj *d = make(root, "d", S_IFDIR | 0755), *o;
	struct store_new nw = {.mode = S_IFREG | 0664, .uid = geteuid(), .gid = getegid()};
	char buf[256];
	struct stat s;
	int r = ops->setxattr(d, "system.posix_acl_default", acl, sizeof(acl), 0);
	if (r == -EOPNOTSUPP) {
		ops->put(d);
		skip();
	}
	assert_int_equal(r, 0);
	assert_int_equal(ops->create(d, "inherits", &nw, true, &o, NULL), 0);
	assert_true(ops->getxattr(o, "system.posix_acl_access", buf, sizeof(buf)) > 0);
	ops->put(o);
	assert_int_equal(ops->create(d, "exact", &nw, false, &o, &s), 0);
	assert_int_equal(ops->getxattr(o, "system.posix_acl_access", buf, sizeof(buf)), -ENODATA);
	assert_int_equal(s.st_mode, nw.mode);
	ops->put(o);
	ops->put(d);
}

/* Attributes and contents */

static void test_xattrs(void **state UNUSED)
{
	struct store_obj *f = make(root, "f", S_IFREG | 0600), *l = make(root, "l", S_IFLNK);
	char buf[64];
	assert_int_equal(ops->getxattr(f, "user.a", buf, sizeof(buf)), -ENODATA);
	assert_int_equal(ops->setxattr(f, "user.a", "value", 5, XATTR_REPLACE), -ENODATA);
	assert_int_equal(ops->setxattr(f, "user.a", "value", 5, XATTR_CREATE), 0);
	assert_int_equal(ops->setxattr(f, "user.a", "value", 5, XATTR_CREATE), -EEXIST);
	assert_int_equal(ops->getxattr(f, "user.a", NULL, 0), 5);
	assert_int_equal(ops->getxattr(f, "user.a", buf, 2), -ERANGE);
	assert_int_equal(ops->getxattr(f, "user.a", buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "value", 5);
	assert_int_equal(ops->listxattr(f, buf, sizeof(buf)), 7);
	assert_string_equal(buf, "user.a");
	assert_int_equal(ops->removexattr(f, "user.a"), 0);
	assert_int_equal(ops->removexattr(f, "user.a"), -ENODATA);
	assert_int_equal(ops->setxattr(l, "user.a", "x", 1, 0), -EPERM);
	if (geteuid() == 0) {
		/* The link's own, not the target's. */
		ops->put(make(root, "target", S_IFREG | 0600));
		assert_int_equal(ops->setxattr(l, "trusted.a", "link", 4, 0), 0);
		assert_int_equal(lgetxattr(in_src("l"), "trusted.a", buf, sizeof(buf)), 4);
		assert_int_equal(lgetxattr(in_src("target"), "trusted.a", buf, sizeof(buf)), -1);
		assert_int_equal(ops->getxattr(l, "trusted.a", buf, sizeof(buf)), 4);
	}
	ops->put(l);
	ops->put(f);
}

static void test_contents(void **state UNUSED)
{
	struct store_obj *o = make(root, "f", S_IFREG | 0600), *p = make(root, "g", S_IFREG | 0600);
	struct store_file *f, *g;
	char buf[64];
	uint64_t at;
	assert_int_equal(ops->open(o, O_RDWR | O_TRUNC | O_APPEND, false, &f), 0);
	assert_int_equal(ops->open(p, O_RDWR, false, &g), 0);
	assert_int_equal(ops->write(f, "0123456789", 10, 0), 10);
	assert_int_equal(ops->write(f, "ab", 2, 4), 2); /* O_APPEND was left out */
	ops->close_file(f);
	assert_int_equal(ops->open(o, O_RDWR | O_TRUNC, false, &f), 0); /* O_TRUNC too */
	assert_int_equal(ops->read(f, buf, sizeof(buf), 2), 8);
	assert_memory_equal(buf, "23ab6789", 8);
	assert_int_equal(ops->read(f, buf, sizeof(buf), 10), 0);
	/* Copies: to another file, past the end, and onto itself. */
	assert_int_equal(ops->copy(f, 2, g, 1, 100), 8);
	assert_int_equal(ops->read(g, buf, sizeof(buf), 0), 9);
	assert_memory_equal(buf,
	                    "\0"
	                    "23ab6789",
	                    9);
	assert_int_equal(ops->copy(f, 100, g, 0, 10), 0);
	assert_int_equal(ops->copy(f, 0, f, 10, 10), 10);
	assert_int_equal(ops->copy(f, 0, f, 5, 10), -EINVAL);
	assert_int_equal(ops->copy(f, 0, g, 0, 0), 0);
	/* Holes. */
	struct stat big = {.st_size = 1 << 20};
	assert_int_equal(ops->setattr(o, &big, STORE_SET_SIZE), 0);
	assert_int_equal(ops->seek(f, 0, SEEK_HOLE, &at), 0);
	assert_in_range(at, 20, 65536);
	assert_int_equal(ops->seek(f, 1 << 19, SEEK_DATA, &at), -ENXIO);
	assert_int_equal(ops->seek(f, 0, SEEK_SET, &at), -EINVAL);
	assert_int_equal(ops->fallocate(f, 0, 0, 2 << 20), 0);
	assert_int_equal(attr_of(o).st_size, 2 << 20);
	assert_int_equal(ops->fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
	assert_int_equal(ops->read(f, buf, 1, 3), 1);
	assert_int_equal(buf[0], 0);
	assert_int_equal(ops->sync(o, true), 0);
	assert_int_equal(ops->sync(root, false), 0);
	assert_int_equal(ops->sync_all(st), 0);
	struct stat dir_size = {0};
	assert_int_equal(ops->setattr(root, &dir_size, STORE_SET_SIZE), -EISDIR);
	assert_int_equal(ops->open(root, O_RDONLY, false, &f), -EISDIR);
	ops->close_file(f);
	ops->close_file(g);
	ops->put(o);
	ops->put(p);
	struct statvfs sv;
	assert_int_equal(ops->statfs(st, &sv), 0);
	assert_true(sv.f_blocks > 0);
}

static void test_symlinks_do_not_escape(void **state UNUSED)
{
	char outside[1024], buf[128];
	struct store_file *f;
	struct stat before, after, change = {.st_mode = 0777, .st_uid = 1, .st_gid = 1, .st_mtim = {1, 1}};
	snprintf(outside, sizeof(outside), "%s/outside", tmp);
	assert_int_equal(mkdir(outside, 0700), 0);
	snprintf(outside, sizeof(outside), "%s/outside/f", tmp);
	close(open(outside, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(stat(outside, &before), 0);
	assert_int_equal(symlink(outside, in_src("to file")), 0);
	assert_int_equal(symlink("../outside", in_src("to dir")), 0);
	struct store_obj *file = look(root, "to file"), *dir = look(root, "to dir"), *o;
	struct store_new nw = {.mode = S_IFREG | 0600};
	assert_int_equal(file->kind, S_IFLNK);
	assert_int_equal(ops->open(file, O_RDWR, true, &f), -ELOOP);
	assert_int_equal(ops->setattr(file, &change, STORE_SET_MODE), -EOPNOTSUPP);
	assert_int_equal(ops->setattr(file, &change, STORE_SET_SIZE), -EINVAL);
	assert_int_equal(ops->setattr(file, &change, STORE_SET_MTIME), 0);
	if (geteuid() == 0)
		assert_int_equal(ops->setattr(file, &change, STORE_SET_UID | STORE_SET_GID), 0);
	assert_int_equal(ops->setxattr(file, "user.a", "b", 1, 0), -EPERM);
	assert_int_equal(look_error(dir, "f"), -ENOTDIR);
	assert_int_equal(ops->create(dir, "g", &nw, true, &o, NULL), -ENOTDIR);
	assert_int_equal(ops->unlink(dir, "f", false), -ENOTDIR);
	struct listing l = {0};
	assert_int_equal(ops->readdir(dir, list_one, &l), -ENOTDIR);
	assert_int_equal(ops->link(file, root, "hard"), 0);
	struct store_obj *hard = look(root, "hard");
	assert_ptr_equal(hard, file);
	ops->put(hard);
	assert_int_equal(stat(outside, &after), 0);
	assert_memory_equal(&before, &after, sizeof(before));
	assert_int_equal(getxattr(outside, "user.a", buf, sizeof(buf)), -1);

	/* A directory replaced by a link behind our back is not walked through either: by path hint. */
	struct store_id id;
	struct store_obj *d = make(root, "d", S_IFDIR | 0700), *inner = make(d, "f", S_IFREG | 0600);
	assert_int_equal(ops->id(inner, &id), 0);
	ops->put(inner);
	ops->put(d);
	assert_int_equal(rename(in_src("d"), in_src("moved")), 0);
	assert_int_equal(symlink("moved", in_src("d")), 0);
	assert_int_equal(look_error(look(root, "d"), "f"), -ENOTDIR); /* the lookup's reference goes at close */
	assert_int_equal(ops->resolve(st, &id, "d/../../outside/f", NULL, &o), 0);
	char *name;
	struct store_obj *parent;
	if (ops->place(o, &parent, &name) == 0) { /* only by the walk; and then the true place */
		struct store_obj *moved = look(root, "moved");
		assert_ptr_equal(parent, moved);
		ops->put(moved);
		ops->put(parent);
		free(name);
	}
	ops->put(o);
	ops->put(dir);
	ops->put(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_state_directory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_second_open_is_busy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_only_beside_locked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_only_makes_nothing, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_format_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state_directory_of_wrong_kind, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_state_directory_hidden, setup, teardown),
		cmocka_unit_test_setup_teardown(test_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_place, setup, teardown),
		cmocka_unit_test_setup_teardown(test_user_survives_while_referenced, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kinds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_owner_and_mode, setup, teardown),
		cmocka_unit_test_setup_teardown(test_default_acl, setup, teardown),
		cmocka_unit_test_setup_teardown(test_xattrs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_contents, setup, teardown),
		cmocka_unit_test_setup_teardown(test_symlinks_do_not_escape, setup, teardown),
	};
	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
