/* test_store_space.c - the real directory: the ballast, and disks that are full. */
#include "store_kit.h"

#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

static uint64_t ballast_size(void)
{
	struct stat s;
	assert_int_equal(stat(in_src(".txnfs/ballast"), &s), 0);
	assert_true(s.st_blocks * 512 >= s.st_size);
	return (uint64_t)s.st_size;
}

static uint64_t free_bytes(void)
{
	struct statvfs sv;
	assert_int_equal(ops->statfs(st, &sv), 0);
	return (uint64_t)sv.f_bavail * sv.f_frsize;
}

static void test_ballast(void **state UNUSED)
{
	uint64_t standing = ballast_size();
	if (free_bytes() < (1u << 30))
		skip();
	assert_int_equal(standing, 8 << 20);
	assert_int_equal(ops->reserve(st, 1 << 20), 0);
	assert_int_equal(ballast_size(), standing);
	assert_int_equal(ops->reserve(st, 31 << 20), 0);
	assert_int_equal(ballast_size(), 32 << 20);
	assert_int_equal(ops->reserve(st, UINT64_MAX), -ENOSPC);
	assert_int_equal(ops->reserve(st, UINT64_MAX / 4), -ENOSPC);
	assert_int_equal(ballast_size(), 32 << 20);
	ops->release(st, 1 << 20);
	assert_in_range(ballast_size(), 31 << 20, 32 << 20);
	ops->release(st, 31 << 20);
	assert_int_equal(ballast_size(), standing);
}

/* Write until nothing more fits, also after delayed allocations were made. The store_file stays the caller's. */
static struct store_file *fill_up(struct store_obj *o)
{
	static char block[64 << 10];
	struct store_file *f;
	uint64_t at = 0, before;
	ssize_t r;
	memset(block, 'x', sizeof(block));
	assert_int_equal(ops->open(o, O_RDWR, false, &f), 0);
	do {
		before = at;
		while ((r = ops->write(f, block, sizeof(block), at)) > 0)
			at += (uint64_t)r;
		assert_int_equal(r, -ENOSPC);
		assert_int_equal(ops->sync_all(st), 0);
	} while (at > before);
	return f;
}

static void check_full_disk(void)
{
	static char block[64 << 10];
	struct statvfs sv;
	assert_int_equal(statvfs(src, &sv), 0);
	uint64_t room = (uint64_t)sv.f_bavail * sv.f_frsize;
	const uint64_t mine = 512 << 10, others = 128 << 10;
	open_store(0);
	uint64_t standing = ballast_size();
	assert_in_range(standing, 64 << 10, room / 8);
	struct store_obj *o = make(root, "big", S_IFREG | 0644), *install = make(root, "install", S_IFREG | 0644);
	/* More than there is: nothing happens. */
	assert_int_equal(ops->reserve(st, room * 2), -ENOSPC);
	assert_int_equal(ballast_size(), standing);
	assert_int_equal(ops->reserve(st, mine), 0);
	assert_int_equal(ops->reserve(st, others), 0);
	uint64_t held = ballast_size();
	assert_true(held >= mine + others);
	struct store_file *f = fill_up(o), *g = fill_up(install);
	const uint64_t base = 8 << 20; /* where nothing has been written */
	/* The promised install fails at first, and works after its space was released; the other promise stays. */
	assert_int_equal(ops->write(g, block, sizeof(block), base), -ENOSPC);
	ops->release(st, mine);
	assert_in_range(ballast_size(), others, held - mine);
	/* A quarter is left to the filesystem's own needs. */
	for (uint64_t at = 0; at < mine / 4 * 3; at += sizeof(block))
		assert_int_equal(ops->write(g, block, sizeof(block), base + at), sizeof(block));
	assert_int_equal(ops->sync(install, false), 0);
	ops->close_file(fill_up(install)); /* full again */
	/* No new promise can be made now, the old one is kept, and failure changes nothing. */
	held = ballast_size();
	assert_int_equal(ops->reserve(st, held), -ENOSPC);
	assert_int_equal(ballast_size(), held);
	assert_int_equal(ops->write(f, block, sizeof(block), room), -ENOSPC);
	ops->release(st, others);
	ops->close_file(f);
	ops->close_file(g);
	ops->put(o);
	ops->put(install);
	close_store();
}

static void on_small_mount(const char *type, const char *device)
{
	char err[64] = "";
	assert_int_equal(mkdir(in_src("mnt"), 0755), 0);
	if (mount(device, in_src("mnt"), type, 0, strcmp(type, "tmpfs") ? NULL : "size=16m,mode=755") != 0) {
		snprintf(err, sizeof(err), "mount %s: %s", type, strerror(errno));
		print_message("%s\n", err);
		skip();
	}
	char saved[sizeof(src)];
	memcpy(saved, src, sizeof(src));
	strcat(src, "/mnt");
	/* In a process of its own, so that an assertion that fails cannot leave the mount behind. */
	int status = in_child(check_full_disk, false);
	/* And what is left there can be opened on the full disk. */
	struct store_dir_options opt = {.create = true};
	struct store *s;
	char why[256];
	int r = status == 0 ? open_one(&opt, &s, why) : 0;
	if (status == 0 && !r)
		s->ops->close(s);
	memcpy(src, saved, sizeof(src));
	int un = umount(in_src("mnt"));
	assert_int_equal(un, 0);
	assert_int_equal(status, 0);
	assert_int_equal(r, 0);
}

static void test_full_tmpfs(void **state UNUSED)
{
	if (geteuid() != 0)
		skip();
	on_small_mount("tmpfs", "none");
}

static void test_full_ext4(void **state UNUSED)
{
	char image[1024], loop[32], cmd[4096];
	struct stat sb;
	snprintf(image, sizeof(image), "%s/image", tmp);
	snprintf(cmd, sizeof(cmd), "truncate -s 24M '%s' && mke2fs -q -F -t ext4 '%s' >/dev/null 2>&1", image, image);
	if (geteuid() != 0 || stat("/dev/loop-control", &sb) != 0 || system(cmd) != 0)
		skip();
	CLEANUP_CLOSE int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	CLEANUP_CLOSE int back = open(image, O_RDWR | O_CLOEXEC);
	int n = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
	snprintf(loop, sizeof(loop), "/dev/loop%d", n);
	CLEANUP_CLOSE int dev = n < 0 ? -1 : open(loop, O_RDWR | O_CLOEXEC);
	struct loop_info64 info = {.lo_flags = LO_FLAGS_AUTOCLEAR};
	if (dev < 0 || ioctl(dev, LOOP_SET_FD, back) != 0)
		skip();
	/* Goes away with the last use. */
	assert_int_equal(ioctl(dev, LOOP_SET_STATUS64, &info), 0);
	on_small_mount("ext4", loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_ballast, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_tmpfs, setup_dir, teardown),
		cmocka_unit_test_setup_teardown(test_full_ext4, setup_dir, teardown),
	};
	return cmocka_run_group_tests_name("store space", tests, NULL, NULL);
}
