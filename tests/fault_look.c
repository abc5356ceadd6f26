/* fault_look.c - a slot as a view sees it: names, kinds, modes, owners, sizes, contents, targets, xattrs, links. */
#include "tests/fault_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define NAMES_MAX 400
#define SIZE_LIMIT (256u << 10)
/* Times that were set are between these; others depend on when a test runs. */
#define SET_TIME(t) ((t) >= 100000000 && (t) < 1000000000)

struct drawing {
	struct run *run;
	struct txn *view;
	bool times;
	struct base_buf out;
	struct {
		uint64_t ino;
		char path[64];
	} seen[32];
	int nseen;
};

struct listing {
	char *name[NAMES_MAX];
	int n, err;
};

static int list_one(void *arg, const struct store_dirent *de)
{
	struct listing *l = arg;

	if (l->n == NAMES_MAX)
		return l->err = -E2BIG;
	l->name[l->n] = strdup(de->name);
	if (!l->name[l->n])
		return l->err = -ENOMEM;
	l->n++;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Runs of equal bytes: tests write letters. */
static void draw_bytes(struct base_buf *out, const char *p, size_t n)
{
	for (size_t i = 0, k; i < n; i += k) {
		k = 1;
		while (i + k < n && p[i + k] == p[i])
			k += k >= 8 && i + k + 8 <= n && !memcmp(p + i + k, p + i, 8) ? 8 : 1;
		base_buf_printf(out, p[i] > ' ' && p[i] < 127 ? " %c" : " \\%02x", p[i]);
		if (k > 1)
			base_buf_printf(out, "*%zu", k);
	}
}

static int draw_contents(struct drawing *d, struct txn_obj *obj, const struct stat *st)
{
	CLEANUP_FREE char *buf = malloc((size_t)st->st_size + 2);
	struct txn_file *f;
	ssize_t n;
	int r;

	if (!buf)
		return -ENOMEM;
	if (st->st_size > SIZE_LIMIT)
		return -EFBIG;
	r = txn_open(d->run->eng, d->view, obj, O_RDONLY, &f);
	if (r)
		return r;
	n = txn_read(f, buf, (size_t)st->st_size + 1, 0);
	if (n > 0)
		r = txn_seek(f, 1, SEEK_HOLE, &(uint64_t){0});
	txn_close(f);
	if (r && r != -ENXIO)
		return r;
	if (n < 0)
		return (int)n;
	base_buf_printf(&d->out, " size %ld:", (long)st->st_size);
	draw_bytes(&d->out, buf, (size_t)n);
	return n == st->st_size ? 0 : -ERANGE;
}

static int draw_xattrs(struct drawing *d, struct txn_obj *obj)
{
	struct txn_engine *eng = d->run->eng;
	char names[512], value[5000], *name[16];
	ssize_t n = txn_listxattr(eng, d->view, obj, names, sizeof(names)), len;
	int k = 0;

	if (n < 0)
		return n == -EOPNOTSUPP ? 0 : (int)n;
	for (char *p = names; p < names + n && k < (int)ARRAY_LEN(name); p += strlen(p) + 1)
		if (strncmp(p, "security.", 9))
			name[k++] = p;
	qsort(name, (size_t)k, sizeof(name[0]), by_name);
	for (int i = 0; i < k; i++) {
		len = txn_getxattr(eng, d->view, obj, name[i], value, sizeof(value));
		if (len < 0)
			return (int)len;
		base_buf_printf(&d->out, " %s=", name[i]);
		draw_bytes(&d->out, value, (size_t)len);
	}
	return 0;
}

static int draw_dir(struct drawing *d, struct txn_obj *dir, const char *path);

static int draw_obj(struct drawing *d, struct txn_obj *obj, const struct stat *st, const char *path)
{
	char target[256];
	int r;

	base_buf_printf(&d->out, "%s %o %u:%u links %u", path, st->st_mode, st->st_uid, st->st_gid,
	                (unsigned)st->st_nlink);
	if (SET_TIME(st->st_mtim.tv_sec))
		base_buf_printf(&d->out, " mtime %ld", (long)st->st_mtim.tv_sec);
	else if (d->times && !S_ISDIR(st->st_mode))
		base_buf_printf(&d->out, " mtime %ld.%09ld ctime %ld.%09ld", (long)st->st_mtim.tv_sec,
		                st->st_mtim.tv_nsec, (long)st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
	for (int i = 0; i < d->nseen; i++)
		if (d->seen[i].ino == st->st_ino) {
			base_buf_printf(&d->out, " = %s\n", d->seen[i].path);
			return 0;
		}
	if (!S_ISDIR(st->st_mode) && st->st_nlink > 1 && d->nseen < (int)ARRAY_LEN(d->seen)) {
		d->seen[d->nseen].ino = st->st_ino;
		snprintf(d->seen[d->nseen++].path, sizeof(d->seen[0].path), "%s", path);
	}
	r = draw_xattrs(d, obj);
	if (!r && S_ISLNK(st->st_mode)) {
		r = txn_readlink(d->run->eng, d->view, obj, target, sizeof(target));
		if (!r)
			base_buf_printf(&d->out, " -> %s", target);
	}
	if (!r && S_ISREG(st->st_mode))
		r = draw_contents(d, obj, st);
	base_buf_printf(&d->out, "\n");
	return !r && S_ISDIR(st->st_mode) ? draw_dir(d, obj, path) : r;
}

static int draw_dir(struct drawing *d, struct txn_obj *dir, const char *path)
{
	struct listing l = {.n = 0};
	int r = txn_readdir(d->run->eng, d->view, dir, list_one, &l);

	if (!r)
		r = l.err;
	if (l.n)
		qsort(l.name, (size_t)l.n, sizeof(l.name[0]), by_name);
	for (int i = 0; i < l.n; i++) {
		struct txn_look look;
		char sub[256];

		if (!r) {
			r = txn_lookup(d->run->eng, d->view, dir, l.name[i], &look);
			if (!r) {
				snprintf(sub, sizeof(sub), "%s/%s", path, l.name[i]);
				r = draw_obj(d, look.obj, &look.attr, sub);
				txn_obj_put(look.obj);
			}
		}
		free(l.name[i]);
	}
	return r;
}

int run_draw(struct run *run, struct txn *view, const char *slot, bool times, char **text)
{
	struct drawing d = {.run = run, .view = view, .times = times};
	struct txn_look look;
	int r = txn_lookup(run->eng, view, txn_root(run->eng), slot, &look);

	if (r == -ENOENT) {
		base_buf_printf(&d.out, "nothing\n");
		r = 0;
	} else if (!r) {
		r = draw_obj(&d, look.obj, &look.attr, slot);
		txn_obj_put(look.obj);
	}
	if (!r)
		r = d.out.err;
	if (r)
		base_buf_free(&d.out);
	else
		*text = (char *)d.out.p;
	return r;
}
