/* crash_world.c - the engine under test, step by step, with a crash at each change of its disk. */
#include "tests/crash_naive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

struct cw_counts cw_counts;

struct mark {
	char *name;
	size_t nops;
};

struct cw_txn {
	struct txn *t; /* NULL: none */
	struct sim *tree;
	struct naive_op **ops;
	size_t nops;
	struct mark *marks;
	size_t nmarks;
};

/*
 * What a power cut may take away although its step is done: an object, or what is at a name. A transaction that commits
 * makes durable what it has used, but not an object's other names: `other`.
 */
struct debt {
	uint64_t label, dir;
	char *name;
	bool other;
};

struct cw {
	struct cw_options opt;
	uint64_t seed, labels, point;
	struct sim *disk; /* of the engine */
	struct txn_engine *eng;
	struct sim *tree; /* committed */
	struct cw_txn txn[CW_TXNS];
	struct debt *debts;
	size_t ndebts;
	struct base_buf log;
	bool looking;
	uint64_t only; /* this point; 0: all */
	char *some_path;
	/* The step under way */
	char *before, *after;       /* pictures */
	struct sim *after_tree;     /* borrowed; NULL: the committed one */
	struct txn *committing;
	char point_text[400];
};

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static void note(struct cw *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void note(struct cw *w, const char *fmt, ...)
{
	char line[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	base_buf_printf(&w->log, "    %s\n", line);
}

static void wrong(struct cw *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void wrong(struct cw *w, const char *fmt, ...)
{
	char text[8000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* cmocka's own functions cut long texts. */
	fprintf(stderr, "%s\nsteps:\n%s", w->opt.name, w->log.n ? (char *)w->log.p : "");
	if (w->before)
		fprintf(stderr, "---- before the step\n%s---- after it\n%s----\n", w->before, w->after);
	fprintf(stderr, "%s%s\n", w->point_text, text);
	fail_msg("to repeat: TXNFS_POINT=%" PRIu64 " %s", w->point, w->opt.command);
}

/* ---- engines on disks ---- */

static int open_engine(struct cw *w, struct sim *disk, struct txn_engine **eng, char *err, size_t errlen)
{
	struct txn_config cfg = {.store = sim_store(disk), .os = sim_os(disk), .wal_dirfd = sim_wal_dir(disk),
	                         .segment_size = w->opt.segment_size, .no_threads = true};

	return txn_engine_open(&cfg, eng, NULL, err, errlen);
}

static void recover(struct cw *w, struct sim *disk, const char *which)
{
	struct txn_engine *eng;
	char err[512];
	int r = open_engine(w, disk, &eng, err, sizeof(err));

	if (r)
		wrong(w, "%s: recovery refuses: %s (%s)", which, err, strerror(-r));
	txn_engine_abandon(eng);
}

/* ---- comparing ---- */

struct mask {
	struct { char *path; bool below; } v[64];
	size_t n;
};

static void mask_path(void *arg, const char *path)
{
	struct mask *m = arg;

	if (m->n < ARRAY_LEN(m->v)) {
		m->v[m->n].path = sim_need(strdup(path));
		m->v[m->n++].below = true;
	}
}

static void mask_of(struct cw *w, struct sim *tree, struct mask *m)
{
	for (size_t i = 0; i < w->ndebts; i++) {
		const struct debt *d = &w->debts[i];

		if (d->name) {
			char *path = naive_path(tree, d->dir, d->name);

			if (path)
				mask_path(m, path);
			free(path);
		} else {
			size_t from = m->n;

			naive_paths(tree, d->label, mask_path, m);
			for (; from < m->n; from++)
				m->v[from].below = false;
		}
	}
}

static void mask_free(struct mask *m)
{
	while (m->n)
		free(m->v[--m->n].path);
}

static bool masked(const struct mask *m, const char *line, size_t len)
{
	for (size_t i = 0; i < m->n; i++) {
		size_t n = strlen(m->v[i].path);

		if (n <= len && !memcmp(m->v[i].path, line, n) && (n == len || (m->v[i].below && line[n] == '/')))
			return true;
	}
	return false;
}

static const char *next_line(const struct mask *m, const char **at, size_t *len)
{
	while (**at) {
		const char *line = *at;

		*len = strcspn(line, "\n");
		*at = line + *len + (line[*len] == '\n');
		if (!masked(m, line, strcspn(line, " ")))
			return line;
	}
	return NULL;
}

static bool same(const char *a, const char *b, const struct mask *m)
{
	if (!m->n)
		return !strcmp(a, b);
	for (;;) {
		size_t la = 0, lb = 0;
		const char *x = next_line(m, &a, &la), *y = next_line(m, &b, &lb);

		if (!x || !y)
			return x == y;
		if (la != lb || memcmp(x, y, la))
			return false;
	}
}

static bool right(struct cw *w, const char *found, bool power)
{
	bool acked = w->committing && txn_state(w->committing) == TXN_COMMITTED;
	struct mask m = {0};
	bool ok;

	if (power && w->ndebts) {
		mask_of(w, w->tree, &m);
		if (w->after_tree)
			mask_of(w, w->after_tree, &m);
	}
	ok = (!acked && same(found, w->before, &m)) || same(found, w->after, &m);
	mask_free(&m);
	return ok;
}

/* ---- points ---- */

struct inner {
	struct cw *w;
	const char *want;
	uint64_t n;
};

static void examine_again(struct inner *in, struct sim *image, const char *how, uint64_t i)
{
	struct cw *w = in->w;
	char *found;

	cw_counts.again++;
	recover(w, image, how);
	found = sim_picture(image);
	if (strcmp(found, in->want))
		wrong(w, "crash of the recovery before its change %" PRIu64 " (%s, picture %" PRIu64 "): the next one comes to\n%s"
		         "---- and an undisturbed one to\n%s", in->n, how, i, found, in->want);
	if (sim_fsck(image) || sim_leftovers(image))
		wrong(w, "crash of the recovery before its change %" PRIu64 " (%s): %s", in->n, how,
		      sim_fsck(image) ? sim_fsck(image) : "something is left in stage/ or trash/");
	free(found);
	sim_free(image);
}

static int again_image(void *arg, struct sim *image, uint64_t i)
{
	examine_again(arg, image, "power cut", i);
	return 0;
}

static int again_hook(void *arg, struct sim *disk, uint64_t n, const char *what UNUSED, const char *on UNUSED)
{
	struct inner *in = arg;

	in->n = n;
	examine_again(in, sim_kill(disk), "kill", 0);
	if (sim_dirty(disk))
		sim_images(disk, n % 2 ? SIM_POSIX : SIM_JOURNAL, 2 + in->w->opt.images / 4, mix(in->w->seed + n), again_image,
		           in, NULL);
	return 0;
}

/* Recover what a crash left, and look. */
static void examine(struct cw *w, struct sim *image, const char *how, bool power, uint64_t i)
{
	uint64_t dice = mix(w->seed ^ mix(w->point * 64 + i));
	struct sim *second = w->opt.again && dice % w->opt.again == 0 ? sim_kill(image) : NULL;
	size_t len = strlen(w->point_text);
	char *found, *twice;

	cw_counts.images++;
	snprintf(w->point_text + len, sizeof(w->point_text) - len, "%s, picture %" PRIu64 ": ", how, i);
	recover(w, image, how);
	found = sim_picture(image);
	if (w->only)
		print_message("---- %s%s", w->point_text, found);
	if (!right(w, found, power))
		wrong(w, "found\n%s", found);
	if (sim_fsck(image))
		wrong(w, "%s", sim_fsck(image));
	if (sim_leftovers(image))
		wrong(w, "%u things are left in stage/ and trash/, \"%s\" among them", sim_leftovers(image), sim_leftover(image));
	if (dice % 7 == 0) {
		recover(w, image, "once more");
		twice = sim_picture(image);
		if (strcmp(found, twice))
			wrong(w, "a second recovery comes to something else\n%s---- first\n%s", twice, found);
		free(twice);
	}
	sim_free(image);
	if (second) {
		struct inner in = {w, found, 0};

		sim_on_change(second, again_hook, &in);
		recover(w, second, how);
		sim_free(second);
	}
	free(found);
	w->point_text[len] = '\0';
}

struct visit {
	struct cw *w;
	const char *how;
};

static int visit_image(void *arg, struct sim *image, uint64_t i)
{
	struct visit *v = arg;

	examine(v->w, image, v->how, true, i);
	return 0;
}

static void look(struct cw *w, const char *what, const char *on)
{
	struct visit posix = {w, "power cut"}, journal = {w, "power cut with a journal"};

	w->point++;
	cw_counts.changes++;
	if (!w->looking || (w->only && w->only != w->point))
		return;
	if (!w->only && w->opt.every > 1 && mix(w->seed ^ w->point) % w->opt.every)
		return;
	cw_counts.points++;
	snprintf(w->point_text, sizeof(w->point_text), "crash before change %" PRIu64 ", %s %s: ", w->point, what, on);
	examine(w, sim_kill(w->disk), "kill", false, 0);
	if (w->opt.images && sim_dirty(w->disk)) {
		sim_images(w->disk, SIM_POSIX, w->opt.images, mix(w->seed + w->point), visit_image, &posix, NULL);
		sim_images(w->disk, SIM_JOURNAL, w->opt.images, mix(w->seed - w->point), visit_image, &journal, NULL);
	}
	w->point_text[0] = '\0';
}

static int hook(void *arg, struct sim *disk UNUSED, uint64_t n UNUSED, const char *what, const char *on)
{
	look(arg, what, on);
	return 0;
}

/* From here to end_step a crash may leave the committed tree as it is, or as `after`. */
static void begin_step(struct cw *w, struct sim *after)
{
	free(w->before);
	free(w->after);
	w->before = sim_picture(w->tree);
	w->after = after ? sim_picture(after) : sim_need(strdup(w->before));
	w->after_tree = after;
}

static void end_step(struct cw *w, struct sim *now)
{
	if (now && now != w->tree) {
		sim_free(w->tree);
		w->tree = now;
	}
	w->after_tree = NULL;
	/* What a crash between steps leaves: the next look has to find just this. */
	free(w->before);
	free(w->after);
	w->before = sim_picture(w->tree);
	w->after = sim_need(strdup(w->before));
}

static void compare_live(struct cw *w)
{
	char *found = sim_picture(w->disk);

	if (strcmp(found, w->before))
		wrong(w, "home, without any crash, has\n%s", found);
	free(found);
}

static bool changes_names(enum cw_kind kind)
{
	return (kind >= CW_CREATE && kind <= CW_LINK) || kind == CW_TMP;
}

/* ---- the engine's side of an operation ---- */

static int eng_at(struct cw *w, struct txn *v, const char *path, bool parent, struct txn_obj **out, char **name)
{
	struct txn_obj *at = txn_obj_get(txn_root(w->eng));
	char *copy = sim_need(strdup(path)), *save, *part = strtok_r(copy, "/", &save), *next;
	int r = 0;

	if (name)
		*name = NULL;
	for (; part && !r; part = next) {
		struct txn_look l;

		next = strtok_r(NULL, "/", &save);
		if (parent && !next) {
			*name = sim_need(strdup(part));
			break;
		}
		r = S_ISDIR(txn_obj_kind(at)) ? txn_lookup(w->eng, v, at, part, &l) : -ENOTDIR;
		txn_obj_put(at);
		at = r ? NULL : l.obj;
	}
	free(copy);
	if (!r && parent && !S_ISDIR(txn_obj_kind(at))) {
		txn_obj_put(at);
		free(*name);
		*name = NULL;
		r = -ENOTDIR;
	}
	if (!r)
		*out = at;
	return r;
}

static int eng_data(struct cw *w, struct txn *v, struct txn_obj *obj, const struct cw_op *op)
{
	char *p = sim_need(malloc(op->len + 1));
	struct txn_file *f;
	uint64_t off;
	ssize_t r = S_ISREG(txn_obj_kind(obj)) ? txn_open(w->eng, v, obj, O_RDWR, &f) : -EINVAL;

	memset(p, op->fill, op->len);
	if (!r) {
		if (op->kind == CW_PUNCH)
			r = txn_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, op->off, op->len);
		else if (op->kind == CW_APPEND)
			r = txn_append(f, p, op->len, false, &off);
		else
			r = txn_write(f, p, op->len, op->off, false);
		txn_close(f);
	}
	free(p);
	return r < 0 ? (int)r : 0;
}

static int eng_make(struct cw *w, struct txn *v, struct txn_obj *dir, const char *name, const struct cw_op *op)
{
	static const mode_t kinds[] = {[CW_CREATE] = S_IFREG, [CW_MKDIR] = S_IFDIR, [CW_SYMLINK] = S_IFLNK,
	                               [CW_FIFO] = S_IFIFO, [CW_TMP] = S_IFREG};
	struct txn_new nw = {.mode = kinds[op->kind] | (op->kind == CW_SYMLINK ? 0777 : op->flags), .uid = geteuid(),
	                     .gid = getegid()};
	struct txn_look l;
	struct txn_file *f;
	char *p;
	int r;

	if (op->kind == CW_SYMLINK)
		nw.target = op->path2;
	if (op->kind != CW_TMP) {
		r = txn_create(w->eng, v, dir, name, &nw, &l);
		if (!r)
			txn_obj_put(l.obj);
		return r;
	}
	r = txn_tmpfile(w->eng, v, dir, &nw, &l, &f);
	if (r)
		return r;
	p = sim_need(malloc(op->len + 1));
	memset(p, op->fill, op->len);
	if (op->len)
		r = (int)txn_write(f, p, op->len, 0, false);
	if (r >= 0)
		r = txn_link(w->eng, v, l.obj, dir, name, NULL);
	free(p);
	txn_close(f);
	txn_obj_put(l.obj);
	return r;
}

static int eng_do(struct cw *w, struct txn *v, const struct cw_op *op)
{
	bool by_name = changes_names(op->kind) && op->kind != CW_LINK;
	struct txn_obj *a = NULL, *b = NULL;
	char *name = NULL, *name2 = NULL, xname[24], value[32];
	struct stat st = {0};
	int r = eng_at(w, v, op->path, by_name, &a, by_name ? &name : NULL);

	snprintf(xname, sizeof(xname), "user.%u", op->flags);
	memset(value, op->fill, sizeof(value));
	if (!r && (op->kind == CW_RENAME || op->kind == CW_LINK))
		r = eng_at(w, v, op->path2, true, &b, &name2);
	if (r)
		goto out;
	switch (op->kind) {
	case CW_WRITE:
	case CW_APPEND:
	case CW_PUNCH:
		r = eng_data(w, v, a, op);
		break;
	case CW_TRUNC:
		st.st_size = (off_t)op->off;
		r = S_ISREG(txn_obj_kind(a)) ? txn_setattr(w->eng, v, a, NULL, &st, STORE_SET_SIZE | TXN_SET_MTIME_NOW, NULL)
		                             : -EINVAL;
		break;
	case CW_CREATE:
	case CW_MKDIR:
	case CW_SYMLINK:
	case CW_FIFO:
	case CW_TMP:
		r = eng_make(w, v, a, name, op);
		break;
	case CW_UNLINK:
		r = txn_unlink(w->eng, v, a, name);
		break;
	case CW_RMDIR:
		r = txn_rmdir(w->eng, v, a, name);
		break;
	case CW_RENAME:
		r = txn_rename(w->eng, v, a, name, b, name2, op->flags);
		break;
	case CW_LINK:
		r = txn_link(w->eng, v, a, b, name2, NULL);
		break;
	case CW_CHMOD:
		st.st_mode = op->flags;
		r = S_ISLNK(txn_obj_kind(a)) ? -EOPNOTSUPP : txn_setattr(w->eng, v, a, NULL, &st, STORE_SET_MODE, NULL);
		break;
	case CW_CHOWN:
		st.st_gid = (gid_t)op->off;
		r = txn_setattr(w->eng, v, a, NULL, &st, STORE_SET_GID, NULL);
		break;
	case CW_SETX:
		r = txn_setxattr(w->eng, v, a, xname, value, op->len, 0);
		break;
	case CW_DELX:
		r = txn_removexattr(w->eng, v, a, xname);
		break;
	}
out:
	if (a)
		txn_obj_put(a);
	if (b)
		txn_obj_put(b);
	free(name);
	free(name2);
	return r;
}

/* ---- steps ---- */

const char *cw_describe(const struct cw_op *op, char *buf, size_t size)
{
	static const char *const names[] = {"write", "append", "truncate", "punch", "create", "mkdir", "symlink", "fifo",
	                                    "unlink", "rmdir", "rename", "link", "chmod", "chown", "setxattr", "removexattr",
	                                    "tmpfile+link"};

	snprintf(buf, size, "%s %s%s%s off %" PRIu64 " len %" PRIu64 " flags %o", names[op->kind], op->path,
	         op->path2 ? " " : "", op->path2 ? op->path2 : "", op->off, op->len, op->flags);
	return buf;
}

static void owe(struct cw *w, uint64_t label, uint64_t dir, const char *name)
{
	w->debts = sim_need(reallocarray(w->debts, w->ndebts + 1, sizeof(w->debts[0])));
	w->debts[w->ndebts++] = (struct debt){label, dir, name ? sim_need(strdup(name)) : NULL, false};
}

static bool several_names(struct cw *w, struct sim *next, uint64_t label)
{
	struct sim_inode *before = naive_find(w->tree, label), *after = naive_find(next, label);

	return (before && before->names > 1) || (after && after->names > 1);
}

static void owe_op_debts(struct cw *w, const struct naive_op *n)
{
	uint64_t labels[] = {n->obj, n->obj2};

	switch (n->op.kind) {
	case CW_CREATE:
	case CW_MKDIR:
	case CW_SYMLINK:
	case CW_FIFO:
	case CW_TMP:
		owe(w, n->made, 0, NULL);
		owe(w, n->made, n->dir, n->name);
		return;
	case CW_UNLINK:
	case CW_RMDIR:
	case CW_RENAME:
		owe(w, n->obj, n->dir, n->name);
		break;
	default:
		break;
	}
	if (n->name2) {
		owe(w, n->obj, n->dir2, n->name2);
		owe(w, n->obj2 ? n->obj2 : n->obj, n->dir2, n->name2);
	}
	for (size_t i = 0; i < ARRAY_LEN(labels); i++)
		if (labels[i])
			owe(w, labels[i], 0, NULL);
}

static void owe_op(struct cw *w, struct sim *next, const struct naive_op *n)
{
	bool names = n->op.kind == CW_UNLINK || n->op.kind == CW_RENAME || n->op.kind == CW_LINK;
	size_t from = w->ndebts;

	owe_op_debts(w, n);
	if (names && (several_names(w, next, n->obj) || several_names(w, next, n->obj2)))
		for (; from < w->ndebts; from++)
			w->debts[from].other = true;
}

static void settle_debts(struct cw *w, uint64_t label) /* 0: all */
{
	size_t kept = 0;

	for (size_t i = 0; i < w->ndebts; i++)
		if (label && (w->debts[i].label != label || w->debts[i].other))
			w->debts[kept++] = w->debts[i];
		else
			free(w->debts[i].name);
	w->ndebts = kept;
}

/* Replays the transactions' operations on what is committed now. */
static void rebuild(struct cw *w, struct cw_txn *t)
{
	sim_free(t->tree);
	t->tree = sim_kill(w->tree);
	for (size_t i = 0; i < t->nops; i++) {
		int r = naive_do(t->tree, t->ops[i]);
		char text[200];

		if (r)
			wrong(w, "what another transaction has done (%s) is not possible any more: %s",
			      cw_describe(&t->ops[i]->op, text, sizeof(text)), strerror(-r));
	}
}

static void rebuild_all(struct cw *w)
{
	for (int i = 0; i < CW_TXNS; i++)
		if (w->txn[i].t)
			rebuild(w, &w->txn[i]);
}

static void judge(struct cw *w, const struct cw_op *op, int r, int expected)
{
	char text[200];

	if ((r == 0 && expected == 0) || (r < 0 && expected < 0) || r == -EBUSY)
		return;
	wrong(w, "%s: the engine says %s, the naive tree %s", cw_describe(op, text, sizeof(text)), strerror(-r),
	      strerror(-expected));
}

static void sync_one(struct cw *w, const char *path)
{
	struct txn_obj *obj;
	struct txn_file *f;

	if (eng_at(w, NULL, path, false, &obj, NULL))
		return;
	if (S_ISDIR(txn_obj_kind(obj))) {
		assert_int_equal(txn_fsync_dir(w->eng, NULL, obj), 0);
	} else if (S_ISREG(txn_obj_kind(obj))) {
		assert_int_equal(txn_open(w->eng, NULL, obj, O_RDONLY, &f), 0);
		assert_int_equal(txn_fsync(f, false), 0);
		txn_close(f);
	} else {
		sim_sync_everything(w->disk); /* as sync(1): such a file cannot be opened for it */
	}
	txn_obj_put(obj);
}

static void sync_op(struct cw *w, const struct cw_op *op)
{
	const char *paths[] = {op->path, op->path2};

	for (size_t i = 0; i < ARRAY_LEN(paths); i++)
		if (paths[i] && (i == 0 || op->kind == CW_RENAME || op->kind == CW_LINK)) {
			const char *slash = strrchr(paths[i], '/');
			char *dir = sim_need(strndup(paths[i], slash ? (size_t)(slash - paths[i]) : 0));

			sync_one(w, paths[i]);
			sync_one(w, dir);
			free(dir);
		}
}

int cw_plain(struct cw *w, const struct cw_op *op)
{
	struct naive_op *n = naive_resolve(w->tree, op, ++w->labels);
	struct sim *next = sim_kill(w->tree);
	int expected = naive_do(next, n), r;
	char text[200];

	note(w, "plain %s", cw_describe(op, text, sizeof(text)));
	begin_step(w, expected ? NULL : next);
	if (!expected)
		owe_op(w, next, n);
	r = eng_do(w, NULL, op);
	judge(w, op, r, expected);
	if (r)
		note(w, "    %s", strerror(-r));
	if (r || expected) {
		sim_free(next);
		next = NULL;
	}
	end_step(w, next);
	if (!r) {
		compare_live(w);
		rebuild_all(w);
		if (w->opt.sync_plain) {
			sync_op(w, op);
			settle_debts(w, 0);
		}
	}
	naive_op_free(n);
	return r;
}

int cw_in(struct cw *w, int i, const struct cw_op *op)
{
	struct cw_txn *t = &w->txn[i];
	struct naive_op *n = naive_resolve(t->tree, op, ++w->labels);
	int expected = naive_do(t->tree, n), r;
	char text[200];

	note(w, "[%d] %s", i, cw_describe(op, text, sizeof(text)));
	begin_step(w, NULL);
	r = eng_do(w, t->t, op);
	judge(w, op, r, expected);
	end_step(w, NULL);
	if (r)
		note(w, "    %s", strerror(-r));
	/* A rename between two names of one file does nothing, and holds nothing. */
	if (r || (op->kind == CW_RENAME && n->obj == n->obj2)) {
		naive_op_free(n);
		rebuild(w, t);
		return r;
	}
	t->ops = sim_need(reallocarray(t->ops, t->nops + 1, sizeof(t->ops[0])));
	t->ops[t->nops++] = n;
	return 0;
}

void cw_begin(struct cw *w, int i)
{
	note(w, "[%d] begin", i);
	begin_step(w, NULL);
	assert_int_equal(txn_begin(w->eng, &w->txn[i].t), 0);
	end_step(w, NULL);
	w->txn[i].tree = sim_kill(w->tree);
}

bool cw_open(struct cw *w, int i)
{
	return w->txn[i].t;
}

void cw_savepoint(struct cw *w, int i, const char *name)
{
	struct cw_txn *t = &w->txn[i];

	note(w, "[%d] savepoint %s", i, name);
	assert_int_equal(txn_savepoint(t->t, name), 0);
	t->marks = sim_need(reallocarray(t->marks, t->nmarks + 1, sizeof(t->marks[0])));
	t->marks[t->nmarks++] = (struct mark){sim_need(strdup(name)), t->nops};
}

bool cw_rollback_to(struct cw *w, int i, const char *name)
{
	struct cw_txn *t = &w->txn[i];
	size_t k = t->nmarks;

	while (k && strcmp(t->marks[k - 1].name, name))
		k--;
	note(w, "[%d] rollback to %s", i, name);
	begin_step(w, NULL);
	assert_int_equal(txn_rollback_to(t->t, name), k ? 0 : -ENOENT);
	end_step(w, NULL);
	if (!k)
		return false;
	while (t->nmarks > k)
		free(t->marks[--t->nmarks].name);
	while (t->nops > t->marks[k - 1].nops)
		naive_op_free(t->ops[--t->nops]);
	rebuild(w, t);
	return true;
}

static void forget(struct cw_txn *t)
{
	while (t->nmarks)
		free(t->marks[--t->nmarks].name);
	while (t->nops)
		naive_op_free(t->ops[--t->nops]);
	free(t->marks);
	free(t->ops);
	if (t->tree)
		sim_free(t->tree);
	if (t->t)
		txn_put(t->t);
	*t = (struct cw_txn){0};
}

int cw_commit(struct cw *w, int i)
{
	struct cw_txn *t = &w->txn[i];
	struct sim *next = t->tree;
	int r;

	note(w, "[%d] commit", i);
	begin_step(w, next);
	w->committing = t->t;
	r = txn_commit(t->t);
	w->committing = NULL;
	if (r)
		wrong(w, "commit: %s", strerror(-r));
	/* It was made durable with whatever it builds on. */
	for (size_t k = 0; k < t->nops; k++) {
		const struct naive_op *op = t->ops[k];
		bool in_dir = changes_names(op->op.kind);
		const uint64_t labels[] = {op->obj, op->obj2, in_dir && op->op.kind != CW_LINK ? op->dir : 0,
		                           in_dir ? op->dir2 : 0};

		for (size_t n = 0; n < ARRAY_LEN(labels); n++)
			if (labels[n])
				settle_debts(w, labels[n]);
	}
	t->tree = NULL;
	end_step(w, next);
	forget(t);
	compare_live(w);
	rebuild_all(w);
	return 0;
}

void cw_rollback(struct cw *w, int i)
{
	note(w, "[%d] rollback", i);
	begin_step(w, NULL);
	assert_int_equal(txn_rollback(w->txn[i].t), 0);
	end_step(w, NULL);
	forget(&w->txn[i]);
	compare_live(w);
}

void cw_checkpoint(struct cw *w)
{
	note(w, "checkpoint");
	begin_step(w, NULL);
	assert_int_equal(txn_checkpoint(w->eng), 0);
	end_step(w, NULL);
}

static void reopen(struct cw *w)
{
	char err[512];
	int r;

	sim_on_change(w->disk, hook, w);
	r = open_engine(w, w->disk, &w->eng, err, sizeof(err));
	if (r)
		wrong(w, "the engine does not open: %s", err);
}

void cw_reopen(struct cw *w, bool orderly, bool power)
{
	struct sim *old = w->disk;

	note(w, orderly ? "close and open" : power ? "power cut" : "kill");
	power = power && !w->ndebts;
	begin_step(w, NULL);
	for (int i = 0; i < CW_TXNS; i++) {
		if (w->txn[i].t && orderly)
			assert_int_equal(txn_rollback(w->txn[i].t), 0);
		forget(&w->txn[i]);
	}
	if (orderly) {
		assert_int_equal(txn_engine_close(w->eng), 0);
		sim_sync_everything(w->disk); /* as unmounting the filesystem below would */
		settle_debts(w, 0);
	} else {
		sim_on_change(old, NULL, NULL);
		w->disk = power ? sim_image(old, w->point % 2 ? SIM_POSIX : SIM_JOURNAL, 8, mix(w->point), w->point % 8) : NULL;
		if (!w->disk)
			w->disk = sim_kill(old);
		txn_engine_abandon(w->eng);
		sim_free(old);
	}
	reopen(w);
	end_step(w, NULL);
	compare_live(w);
	/* What a kill left may not be durable, but the copy of the disk says that it is. */
	if (!orderly)
		settle_debts(w, 0);
}

void cw_look(struct cw *w, bool on)
{
	w->looking = on;
}

struct cw *cw_new(uint64_t seed, const struct cw_options *opt)
{
	const char *only = getenv("TXNFS_POINT");
	struct cw *w = sim_need(calloc(1, sizeof(*w)));

	cw_counts.scenarios++;
	w->opt = *opt;
	w->seed = seed;
	w->looking = true;
	base_log_limit(only ? LOG_DEBUG : LOG_CRIT); /* some pictures are worth a warning */
	w->only = only ? strtoull(only, NULL, 0) : 0;
	w->disk = sim_new();
	w->tree = sim_new();
	w->labels = 1;
	sim_at(&w->tree->now, w->tree->root)->label = 1;
	begin_step(w, NULL);
	reopen(w);
	end_step(w, NULL);
	return w;
}

void cw_free(struct cw *w)
{
	for (int i = 0; i < CW_TXNS; i++)
		if (w->txn[i].t)
			cw_rollback(w, i);
	note(w, "close");
	begin_step(w, NULL);
	assert_int_equal(txn_engine_close(w->eng), 0);
	end_step(w, NULL);
	compare_live(w);
	if (sim_leftovers(w->disk))
		wrong(w, "after an orderly end %u things are left in stage/ and trash/", sim_leftovers(w->disk));
	settle_debts(w, 0);
	free(w->debts);
	free(w->before);
	free(w->after);
	free(w->some_path);
	base_buf_free(&w->log);
	sim_free(w->tree);
	sim_free(w->disk);
	free(w);
}

struct txn_engine *cw_engine(struct cw *w)
{
	return w->eng;
}

const char *cw_some_path(struct cw *w, int t, mode_t kind, uint64_t chance)
{
	free(w->some_path);
	w->some_path = naive_some_path(t >= 0 ? w->txn[t].tree : w->tree, kind, chance);
	return w->some_path;
}
