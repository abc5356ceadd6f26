/* diff_item.c - one pair of paths: attributes, extended attributes and contents of both sides, and what differs. */
#include "tools/diff.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define BINARY_LOOK 8000 /* a 0 byte among the first so many: binary, as git has it */
#define XATTR_SHOWN 64   /* bytes of a value */

/* ---- looking ---- */

/*
 * The directory of a path, a name at a time: the path may be longer than a path can be, and if a symbolic link takes
 * the place of a directory meanwhile, it does not lead out of the mount. *name points into path. The descriptor, or
 * -errno.
 */
static int open_parent(int root, const char *path, const char **name)
{
	int dir = openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	const char *slash;

	if (dir < 0)
		return -errno;
	for (; (slash = strchr(path, '/')); path = slash + 1) {
		CLEANUP_FREE char *part = strndup(path, (size_t)(slash - path));
		int next, err;

		if (!part) {
			close(dir);
			return -ENOMEM;
		}
		next = openat(dir, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		err = errno;
		close(dir);
		if (next < 0)
			return err == ENOTDIR || err == ELOOP ? -ENOENT : -err;
		dir = next;
	}
	*name = *path ? path : ".";
	return dir;
}

int diff_stat(int root, const char *path, struct stat *st)
{
	const char *name;
	CLEANUP_CLOSE int dir = open_parent(root, path, &name);

	if (dir < 0)
		return dir;
	return fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int read_target(int dir, const char *name, struct diff_side *s)
{
	char buf[PATH_MAX + 1];
	ssize_t n = readlinkat(dir, name, buf, sizeof(buf) - 1);

	if (n < 0)
		return -errno;
	s->target = strndup(buf, (size_t)n);
	return s->target ? 0 : -ENOMEM;
}

static int xattr_order(const void *a, const void *b)
{
	return strcmp(((const struct diff_xattr *)a)->name, ((const struct diff_xattr *)b)->name);
}

/* Attributes that go while we look are left out, and so are all of a filesystem without them. */
static int read_xattrs(int dir, const char *name, struct diff_side *s)
{
	CLEANUP_FREE char *path = NULL, *names = malloc(XATTR_LIST_MAX), *value = malloc(XATTR_SIZE_MAX);
	ssize_t len, n;
	size_t count = 0;

	if (!names || !value)
		return -ENOMEM;
	if (asprintf(&path, "/proc/self/fd/%d/%s", dir, name) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	len = llistxattr(path, names, XATTR_LIST_MAX);
	if (len < 0) {
		s->no_xattrs = errno != EOPNOTSUPP && errno != ENODATA && errno != ENOENT;
		return 0;
	}
	for (const char *p = names; p < names + len; p += strlen(p) + 1)
		count++;
	s->xattrs = calloc(count + 1, sizeof(*s->xattrs));
	if (!s->xattrs)
		return -ENOMEM;
	for (const char *p = names; p < names + len; p += strlen(p) + 1) {
		struct diff_xattr *x = &s->xattrs[s->n_xattrs];

		n = lgetxattr(path, p, value, XATTR_SIZE_MAX);
		if (n < 0) {
			s->no_xattrs |= errno != ENODATA;
			continue;
		}
		x->name = strdup(p);
		x->value = malloc((size_t)n + 1);
		if (!x->name || !x->value) {
			free(x->name);
			free(x->value);
			return -ENOMEM;
		}
		memcpy(x->value, value, (size_t)n);
		((char *)x->value)[n] = 0;
		x->n = (size_t)n;
		s->n_xattrs++;
	}
	if (s->n_xattrs)
		qsort(s->xattrs, s->n_xattrs, sizeof(*s->xattrs), xattr_order);
	return 0;
}

static void free_side(struct diff_side *s)
{
	for (size_t i = 0; i < s->n_xattrs; i++) {
		free(s->xattrs[i].name);
		free(s->xattrs[i].value);
	}
	free(s->xattrs);
	free(s->target);
	if (s->map)
		munmap((void *)(uintptr_t)s->map, s->n);
	if (s->fd >= 0)
		close(s->fd);
	*s = (struct diff_side){.fd = -1};
}

/* -ENOENT: it is not there (any more). */
static int look(int root, const char *path, bool props, struct diff_side *s)
{
	const char *name;
	CLEANUP_CLOSE int dir = open_parent(root, path, &name);
	int r = 0;

	if (dir < 0)
		return dir;
	if (fstatat(dir, name, &s->st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (S_ISLNK(s->st.st_mode))
		r = read_target(dir, name, s);
	if (!r && props)
		r = read_xattrs(dir, name, s);
	if (!r)
		s->there = true;
	return r;
}

/* ---- contents ---- */

static int open_contents(int root, const char *path)
{
	const char *name;
	CLEANUP_CLOSE int dir = open_parent(root, path, &name);
	struct stat st;
	int fd, r;

	if (dir < 0)
		return dir;
	/* What it was when we looked, it need not be any more: a FIFO would keep us waiting. */
	fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -ESTALE;
	if (!r)
		return fd;
	close(fd);
	return r;
}

static ssize_t read_all(int fd, char *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t got = read(fd, buf + done, n - done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

static int put_all(int fd, const char *buf, size_t n)
{
	for (ssize_t put; n; buf += put, n -= (size_t)put) {
		put = write(fd, buf, n);
		if (put < 0)
			return -errno;
	}
	return 0;
}

/* A copy that stands still, of a file or (from < 0) of a symbolic link's target. -EFBIG: it has more than max bytes. */
static int copy_contents(struct diff_side *s, int from, uint64_t max)
{
	char buf[65536];
	ssize_t n;
	int r = 0;

	/* Not below the descriptors that diff_text gives to diff(1). */
	int fd = memfd_create("txnfs diff", MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 10);
	r = s->fd < 0 ? -errno : 0;
	close(fd);
	if (!r && from < 0) {
		s->n = strlen(s->target);
		r = put_all(s->fd, s->target, s->n);
	} else if (!r) {
		while (!r && (n = read_all(from, buf, sizeof(buf))) != 0) {
			r = n < 0 ? (int)n : s->n + (size_t)n > max ? -EFBIG : put_all(s->fd, buf, (size_t)n);
			if (!r)
				s->n += (size_t)n;
		}
	}
	if (!r && s->n) {
		void *map = mmap(NULL, s->n, PROT_READ, MAP_SHARED, s->fd, 0);

		if (map == MAP_FAILED)
			r = -errno;
		else
			s->map = map;
	}
	if (r) {
		s->n = 0;
		if (s->fd >= 0)
			close(s->fd);
		s->fd = -1;
	}
	return r;
}

/* 1: the same. Neither is kept in memory. */
static int compare(int a, int b)
{
	char x[65536], y[sizeof(x)];
	ssize_t n, m;

	if (lseek(a, 0, SEEK_SET) < 0 || lseek(b, 0, SEEK_SET) < 0)
		return -errno;
	do {
		n = read_all(a, x, sizeof(x));
		m = n < 0 ? n : read_all(b, y, sizeof(y));
		if (n < 0 || m < 0)
			return (int)(n < 0 ? n : m);
		if (n != m || memcmp(x, y, (size_t)n))
			return 0;
	} while (n);
	return 1;
}

static bool is_binary(const struct diff *d, const struct diff_side *s)
{
	return !d->text && s->map && memchr(s->map, 0, base_min_u64(s->n, BINARY_LOOK));
}

static bool has_contents(const struct diff_side *s)
{
	return s->there && (S_ISREG(s->st.st_mode) || S_ISLNK(s->st.st_mode));
}

/* One side's contents: 0, -EFBIG, or why not. fd stays open for compare. */
static int load_side(const struct diff *d, int root, const char *path, struct diff_side *s, int *fd)
{
	*fd = -1;
	if (!has_contents(s))
		return 0;
	if (S_ISLNK(s->st.st_mode))
		return copy_contents(s, -1, 0);
	*fd = open_contents(root, path);
	if (*fd < 0)
		return *fd;
	if ((uint64_t)s->st.st_size > d->max_size)
		return -EFBIG;
	return copy_contents(s, *fd, d->max_size);
}

static void load_contents(const struct diff *d, struct diff_item *it)
{
	CLEANUP_CLOSE int fa = -1;
	CLEANUP_CLOSE int fb = -1;
	int ra, rb, r;

	if (!has_contents(&it->a) && !has_contents(&it->b))
		return;
	ra = load_side(d, d->old_root, it->e->old, &it->a, &fa);
	rb = ra && ra != -EFBIG ? 0 : load_side(d, d->new_root, it->e->new, &it->b, &fb);
	r = ra && ra != -EFBIG ? ra : rb != -EFBIG ? rb : 0;
	if (!r && (ra || rb)) {
		r = fa >= 0 && fb >= 0 && it->a.st.st_size == it->b.st.st_size ? compare(fa, fb) : 0;
		if (r >= 0)
			it->contents = r ? DIFF_SAME : DIFF_LARGE;
		r = r < 0 ? r : 0;
	} else if (!r) {
		bool same = it->a.n == it->b.n && (!it->a.n || !memcmp(it->a.map, it->b.map, it->a.n));

		if (has_contents(&it->a) && has_contents(&it->b) && same && !it->type)
			it->contents = DIFF_SAME;
		else
			it->contents = is_binary(d, &it->a) || is_binary(d, &it->b) ? DIFF_BINARY : DIFF_TEXT;
	}
	if (r) {
		it->contents = DIFF_UNREADABLE;
		it->err = -r;
		it->err_new = !(ra && ra != -EFBIG);
	}
}

/* ---- the pair ---- */

static bool same_xattrs(const struct diff_side *a, const struct diff_side *b)
{
	if (a->n_xattrs != b->n_xattrs)
		return false;
	for (size_t i = 0; i < a->n_xattrs; i++)
		if (strcmp(a->xattrs[i].name, b->xattrs[i].name) || a->xattrs[i].n != b->xattrs[i].n ||
		    memcmp(a->xattrs[i].value, b->xattrs[i].value, a->xattrs[i].n))
			return false;
	return true;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static void compare_properties(struct diff_item *it)
{
	const struct stat *a = &it->a.st, *b = &it->b.st;

	it->type = (a->st_mode & S_IFMT) != (b->st_mode & S_IFMT);
	it->mode = ((a->st_mode ^ b->st_mode) & 07777) && !S_ISLNK(b->st_mode);
	it->owner = a->st_uid != b->st_uid || a->st_gid != b->st_gid;
	it->device = !it->type && (S_ISCHR(a->st_mode) || S_ISBLK(a->st_mode)) && a->st_rdev != b->st_rdev;
	it->xattrs = !same_xattrs(&it->a, &it->b);
	/* A time that was set, not one that moved on with something else. */
	it->mtime = !it->e->data && !it->mode && !it->owner && !it->xattrs && !same_time(&a->st_mtim, &b->st_mtim);
}

int diff_item_load(const struct diff *d, const struct diff_entry *e, struct diff_item *it)
{
	int r = 0;

	*it = (struct diff_item){.e = e, .a.fd = -1, .b.fd = -1, .contents = DIFF_SAME};
	if (e->old)
		r = look(d->old_root, e->old, e->props, &it->a);
	if (!r && e->new && (!e->old || e->props || e->data))
		r = look(d->new_root, e->new, true, &it->b);
	if (r) {
		diff_item_free(it);
		return r;
	}
	if (it->a.there && it->b.there)
		compare_properties(it);
	if (e->data)
		load_contents(d, it);
	if (!e->old || !e->new || e->renamed || e->copied || it->type || it->mode || it->owner || it->device ||
	    it->mtime || it->xattrs || it->contents != DIFF_SAME)
		return 1;
	diff_item_free(it);
	return 0;
}

void diff_item_free(struct diff_item *it)
{
	free_side(&it->a);
	free_side(&it->b);
}

const char *diff_kind(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "file";
	case S_IFDIR:
		return "directory";
	case S_IFLNK:
		return "symbolic link";
	case S_IFIFO:
		return "fifo";
	case S_IFSOCK:
		return "socket";
	case S_IFCHR:
		return "character device";
	case S_IFBLK:
		return "block device";
	default:
		return "object";
	}
}

/* ---- properties, in words ---- */

/* A value as text in quotes or, when it is none, in hexadecimal; the end of a long one is left out. */
static void put_value(struct base_buf *b, const struct diff_xattr *x)
{
	CLEANUP_FREE char *text = strndup(x->value, x->n);
	struct base_buf q = {0};

	if (text && strlen(text) == x->n && x->n <= XATTR_SHOWN) {
		base_buf_quote(&q, text);
		if (q.n && q.p[0] == '"')
			base_buf_put(b, q.p, q.n);
		else
			base_buf_printf(b, "\"%s\"", text);
		base_buf_free(&q);
		return;
	}
	base_buf_printf(b, "0x");
	for (size_t i = 0; i < x->n && i < XATTR_SHOWN; i++)
		base_buf_printf(b, "%02x", ((const uint8_t *)x->value)[i]);
	if (x->n > XATTR_SHOWN)
		base_buf_printf(b, "... (%zu bytes)", x->n);
}

static void xattr_lines(const struct diff_item *it, void (*fn)(void *arg, const char *line), void *arg)
{
	const struct diff_side *a = &it->a, *b = &it->b;

	for (size_t i = 0, j = 0; i < a->n_xattrs || j < b->n_xattrs;) {
		const struct diff_xattr *x = i < a->n_xattrs ? &a->xattrs[i] : NULL;
		const struct diff_xattr *y = j < b->n_xattrs ? &b->xattrs[j] : NULL;
		int order = !x ? 1 : !y ? -1 : strcmp(x->name, y->name);
		struct base_buf line = {0};

		x = order <= 0 ? x : NULL;
		y = order >= 0 ? y : NULL;
		i += x != NULL;
		j += y != NULL;
		if (x && y && x->n == y->n && !memcmp(x->value, y->value, x->n))
			continue;
		base_buf_printf(&line, "xattr ");
		base_buf_quote(&line, x ? x->name : y->name);
		base_buf_printf(&line, x && y ? " " : x ? " removed, was " : " added, ");
		if (x)
			put_value(&line, x);
		if (x && y)
			base_buf_printf(&line, " -> ");
		if (y)
			put_value(&line, y);
		if (!line.err)
			fn(arg, (char *)line.p);
		base_buf_free(&line);
	}
}

void diff_time(const struct timespec *t, char *out, size_t n)
{
	char seconds[64], fraction[16] = "";
	struct tm tm;

	if (!gmtime_r(&t->tv_sec, &tm) || !strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &tm))
		snprintf(seconds, sizeof(seconds), "%lld", (long long)t->tv_sec);
	if (t->tv_nsec)
		snprintf(fraction, sizeof(fraction), ".%09ld", t->tv_nsec);
	snprintf(out, n, "%s%sZ", seconds, fraction);
}

void diff_properties(const struct diff_item *it, void (*fn)(void *arg, const char *line), void *arg)
{
	const struct diff_side *a = &it->a, *b = &it->b, *s = b->there ? b : a;
	char line[256], from[100], to[100];

	if (it->owner || (b->there && !a->there && (b->st.st_uid != geteuid() || b->st.st_gid != getegid()))) {
		if (a->there)
			snprintf(line, sizeof(line), "owner %u:%u -> %u:%u", a->st.st_uid, a->st.st_gid, b->st.st_uid,
			         b->st.st_gid);
		else
			snprintf(line, sizeof(line), "owner %u:%u", b->st.st_uid, b->st.st_gid);
		fn(arg, line);
	}
	if (it->device) {
		snprintf(line, sizeof(line), "device %u:%u -> %u:%u", major(a->st.st_rdev), minor(a->st.st_rdev),
		         major(b->st.st_rdev), minor(b->st.st_rdev));
		fn(arg, line);
	}
	if (it->mtime) {
		diff_time(&a->st.st_mtim, from, sizeof(from));
		diff_time(&b->st.st_mtim, to, sizeof(to));
		snprintf(line, sizeof(line), "mtime %s -> %s", from, to);
		fn(arg, line);
	}
	if (b->there)
		xattr_lines(it, fn, arg);
	if (a->no_xattrs || b->no_xattrs)
		fn(arg, "extended attributes could not be read");
	if (!S_ISDIR(s->st.st_mode) && s->st.st_nlink > 1) {
		snprintf(line, sizeof(line), "hard links: one of %ju names%s", (uintmax_t)s->st.st_nlink,
		         a->there && b->there ? ", all of which change" : "");
		fn(arg, line);
	}
	if (it->e->elsewhere)
		fn(arg, "hard links: the file was CHANGED under other names, which are not known here");
}
