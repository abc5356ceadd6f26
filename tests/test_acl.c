/*
 * test_acl.c - POSIX ACLs: what the engine computes for creation, chmod and setting an ACL is compared with what the
 * kernel does on the scratch filesystem, for random ACLs and modes. Skipped where the filesystem has no ACLs.
 */
#include "txn/private.h"

#include "tests/engine_kit.h"

#include <endian.h>
#include <inttypes.h>
#include <sys/xattr.h>

#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"
#define ROUNDS 400

enum { USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 16, OTHER = 32 };

struct acl {
	uint8_t bytes[4 + 8 * 16];
	size_t len;
};

static struct kit k;
static uint64_t rng;
static bool have_acls;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % below;
}

static void add(struct acl *a, int tag, uint32_t id)
{
	uint16_t t = htole16((uint16_t)tag), perm = htole16((uint16_t)rnd(8));

	id = htole32(id);
	memcpy(a->bytes + a->len, &t, 2);
	memcpy(a->bytes + a->len + 2, &perm, 2);
	memcpy(a->bytes + a->len + 4, &id, 4);
	a->len += 8;
}

static struct acl random_acl(void)
{
	struct acl a = {.len = 4};
	uint32_t version = htole32(2);
	int users = rnd(3) ? (int)rnd(4) : 0, groups = rnd(3) ? (int)rnd(4) : 0;

	memcpy(a.bytes, &version, 4);
	add(&a, USER_OBJ, UINT32_MAX);
	for (int i = 0; i < users; i++)
		add(&a, USER, 1000 + (uint32_t)i * 7);
	add(&a, GROUP_OBJ, UINT32_MAX);
	for (int i = 0; i < groups; i++)
		add(&a, GROUP, 2000 + (uint32_t)i * 3);
	if (users || groups || rnd(4) == 0)
		add(&a, MASK, UINT32_MAX);
	add(&a, OTHER, UINT32_MAX);
	return a;
}

static void path_of(const char *name, char path[400])
{
	snprintf(path, 400, "%s/%s", k.dir, name);
}

/* What the kernel has: length 0 when there is none. */
static struct acl kernel_acl(const char *path, const char *name)
{
	struct acl a = {.len = 0};
	ssize_t n = lgetxattr(path, name, a.bytes, sizeof(a.bytes));

	if (n < 0)
		assert_int_equal(errno, ENODATA);
	else
		a.len = (size_t)n;
	return a;
}

static void same_acl(const struct acl *a, const void *bytes, size_t len)
{
	assert_int_equal(a->len, len);
	assert_memory_equal(a->bytes, bytes, len);
}

static mode_t kernel_mode(const char *path)
{
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	return st.st_mode;
}

static int set_up(void **state UNUSED)
{
	const char *seed = getenv("TXNFS_SEED");
	uint64_t s = seed ? strtoull(seed, NULL, 0) : base_random_u64();
	struct acl probe;
	char path[400];

	print_message("TXNFS_SEED=%" PRIu64 "\n", s);
	rng = (s + 1) * 0x9e3779b97f4a7c15u | 1;
	kit_new(&k);
	probe = random_acl();
	path_of("probe", path);
	assert_int_equal(mkdir(path, 0755), 0);
	if (lsetxattr(path, DEFAULT, probe.bytes, probe.len, 0)) {
		print_message("no ACLs on this filesystem: %s\n", strerror(errno));
		return 0;
	}
	have_acls = true;
	assert_int_equal(rmdir(path), 0);
	return 0;
}

static int tear_down(void **state UNUSED)
{
	kit_free(&k);
	return 0;
}

static void needs_acls(void)
{
	if (!have_acls)
		skip();
}

static void created_under_a_default_acl(void **state UNUSED)
{
	char dir[400], path[420];

	needs_acls();
	path_of("inherit", dir);
	snprintf(path, sizeof(path), "%s/new", dir);
	for (int i = 0; i < ROUNDS; i++) {
		mode_t asked = (mode_t)rnd(01000), mode = asked;
		struct acl dflt = random_acl(), got;
		CLEANUP_FREE void *access = NULL;
		size_t len = 0;
		bool sub = rnd(2);

		assert_int_equal(mkdir(dir, 0755), 0);
		assert_int_equal(lsetxattr(dir, DEFAULT, dflt.bytes, dflt.len, 0), 0);
		if (sub)
			assert_int_equal(mkdir(path, asked), 0);
		else
			assert_int_equal(close(open(path, O_CREAT | O_WRONLY, asked)), 0);
		assert_int_equal(txn_acl_inherit(dflt.bytes, dflt.len, &mode, &access, &len), 0);
		assert_int_equal(kernel_mode(path) & 07777, mode);
		got = kernel_acl(path, ACCESS);
		same_acl(&got, access, len);
		if (sub) {
			got = kernel_acl(path, DEFAULT);
			same_acl(&got, dflt.bytes, dflt.len);
		}
		assert_int_equal(remove(path), 0);
		assert_int_equal(rmdir(dir), 0);
	}
}

static void chmod_and_set(void **state UNUSED)
{
	char path[400];

	needs_acls();
	path_of("file", path);
	for (int i = 0; i < ROUNDS; i++) {
		struct acl acl = random_acl(), got;
		mode_t mode = 0644, to = (mode_t)rnd(01000);
		CLEANUP_FREE void *changed = NULL;
		bool trivial;

		assert_int_equal(close(open(path, O_CREAT | O_WRONLY, mode)), 0);
		assert_int_equal(chmod(path, mode), 0);
		assert_int_equal(lsetxattr(path, ACCESS, acl.bytes, acl.len, 0), 0);
		assert_int_equal(txn_acl_mode(acl.bytes, acl.len, &mode, &trivial), 0);
		assert_int_equal(kernel_mode(path) & 07777, mode);
		got = kernel_acl(path, ACCESS);
		same_acl(&got, acl.bytes, trivial ? 0 : acl.len);
		assert_int_equal(chmod(path, to), 0);
		got = kernel_acl(path, ACCESS);
		if (!trivial) {
			assert_int_equal(txn_acl_chmod(acl.bytes, acl.len, to, &changed), 0);
			same_acl(&got, changed, acl.len);
		} else {
			assert_int_equal(got.len, 0);
		}
		assert_int_equal(unlink(path), 0);
	}
}

/* ---- the same operations plainly and in a transaction ---- */

static struct acl engine_acl(struct txn *v, const char *path, const char *name)
{
	struct acl a = {.len = 0};
	struct txn_obj *obj = NULL;
	ssize_t n;

	assert_int_equal(kit_try_walk(&k, v, path, &obj), 0);
	n = txn_getxattr(k.eng, v, obj, name, a.bytes, sizeof(a.bytes));
	txn_obj_put(obj);
	assert_true(n >= 0 || n == -ENODATA || n == -EOPNOTSUPP); /* symbolic links have none */
	a.len = n < 0 ? 0 : (size_t)n;
	return a;
}

static int set_acl(struct txn *v, const char *path, const char *name, const struct acl *a)
{
	struct txn_obj *obj = NULL;
	int r;

	assert_int_equal(kit_try_walk(&k, v, path, &obj), 0);
	r = txn_setxattr(k.eng, v, obj, name, a->bytes, a->len, 0);
	txn_obj_put(obj);
	return r;
}

static void compare(struct txn *v, const char *plain, const char *other)
{
	static const char *const names[] = {ACCESS, DEFAULT};

	assert_int_equal(kit_stat(&k, NULL, plain).st_mode, kit_stat(&k, v, other).st_mode);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct acl a = engine_acl(NULL, plain, names[i]), b = engine_acl(v, other, names[i]);

		same_acl(&a, b.bytes, b.len);
	}
}

static void transactions_do_as_the_kernel_does(void **state UNUSED)
{
	static const char *const what[] = {"dir", "dir/file", "dir/sub", "dir/fifo"};

	needs_acls();
	for (int i = 0; i < ROUNDS / 8; i++) {
		struct acl dflt = random_acl(), first = random_acl(), second = random_acl();
		mode_t modes[4] = {0755, (mode_t)rnd(01000), (mode_t)rnd(01000), (mode_t)rnd(01000)};
		static const mode_t kinds[4] = {S_IFDIR, S_IFREG, S_IFDIR, S_IFIFO};
		unsigned todo = (unsigned)rnd(64);
		struct stat to = {.st_mode = (mode_t)rnd(01000)};
		char path[40];
		struct txn *t;

		for (int turn = 0; turn < 2; turn++) { /* plainly, then in a transaction */
			t = turn ? kit_begin(&k) : NULL;
			for (size_t n = 0; n < ARRAY_LEN(what); n++) {
				snprintf(path, sizeof(path), "%c%s", turn ? 't' : 'p', what[n]);
				kit_create(&k, t, path, kinds[n] | modes[n]);
				if (n == 0 && (todo & 1))
					assert_int_equal(set_acl(t, path, DEFAULT, &dflt), 0);
				if (n && (todo & 2))
					assert_int_equal(set_acl(t, path, ACCESS, &first), 0);
				if (n && (todo & 4))
					assert_int_equal(kit_try_setattr(&k, t, path, &to, STORE_SET_MODE), 0);
				if (n && (todo & 8))
					assert_int_equal(set_acl(t, path, ACCESS, &second), 0);
			}
		}
		for (int turn = 0; turn < 2; turn++) { /* in its view, then when it is home */
			for (size_t n = 0; n < ARRAY_LEN(what); n++) {
				char other[40];

				snprintf(path, sizeof(path), "p%s", what[n]);
				snprintf(other, sizeof(other), "t%s", what[n]);
				compare(turn ? NULL : t, path, other);
			}
			if (!turn)
				kit_commit(t);
		}
		for (size_t n = ARRAY_LEN(what); n-- > 0;) {
			for (int turn = 0; turn < 2; turn++) {
				snprintf(path, sizeof(path), "%c%s", turn ? 't' : 'p', what[n]);
				assert_int_equal(kit_try_unlink(&k, NULL, path, S_ISDIR(kinds[n])), 0);
			}
		}
	}
	assert_null(txn_engine_error(k.eng));
}

/* What the kernel refuses, a transaction must refuse when it is asked: after its commit it would be too late. */
static void bad_ones_are_refused_at_once(void **state UNUSED)
{
	static const char *const paths[] = {"file", "folder", "link"};
	static const char *const names[] = {ACCESS, DEFAULT};
	struct txn_new nw = {.mode = S_IFLNK | 0777, .target = "file"};
	struct txn_look look;
	struct txn *t;

	needs_acls();
	kit_create(&k, NULL, "file", S_IFREG | 0644);
	kit_create(&k, NULL, "folder", S_IFDIR | 0755);
	assert_int_equal(txn_create(k.eng, NULL, txn_root(k.eng), "link", &nw, &look), 0);
	txn_obj_put(look.obj);
	for (int i = 0; i < ROUNDS; i++) {
		struct acl acl = random_acl(), was, now;
		mode_t mode;
		const char *path = paths[rnd(ARRAY_LEN(paths))], *name = names[rnd(ARRAY_LEN(names))];
		int plain, mine;

		switch (rnd(5)) {
		case 0:
			acl.bytes[rnd(acl.len)] ^= (uint8_t)(1u << rnd(8));
			break;
		case 1:
			acl.len -= 8 * (1 + rnd((acl.len - 4) / 8));
			break;
		case 2:
			acl.len = rnd(acl.len + 1);
			break;
		case 3: { /* out of order */
			uint8_t entry[8];

			memcpy(entry, acl.bytes + 4, 8);
			memmove(acl.bytes + 4, acl.bytes + acl.len - 8, 8);
			memcpy(acl.bytes + acl.len - 8, entry, 8);
			break;
		}
		default:
			break;
		}
		t = kit_begin(&k);
		mine = set_acl(t, path, name, &acl);
		kit_rollback(t);
		plain = set_acl(NULL, path, name, &acl);
		if ((plain < 0) != (mine < 0))
			fail_msg("%s of %s, %zu bytes: %d in a transaction, %d plainly", name, path, acl.len, mine, plain);
		t = kit_begin(&k);
		was = engine_acl(NULL, path, name);
		mode = kit_stat(&k, NULL, path).st_mode;
		assert_true(set_acl(t, path, name, &acl) == mine);
		kit_commit(t);
		now = engine_acl(NULL, path, name);
		same_acl(&was, now.bytes, now.len); /* again what the plain one has made */
		assert_int_equal(kit_stat(&k, NULL, path).st_mode, mode);
		assert_null(txn_engine_error(k.eng));
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(created_under_a_default_acl),
		cmocka_unit_test(chmod_and_set),
		cmocka_unit_test(transactions_do_as_the_kernel_does),
		cmocka_unit_test(bad_ones_are_refused_at_once),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("acl", tests, set_up, tear_down);
}
