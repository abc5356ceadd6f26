/* crash_world.c - the engine under test, step by step, beside the naive tree. */
#include "tests/crash_private.h"

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
		cw_wrong(w, "home, without any crash, has\n%s", found);
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

static void free_debt(struct debt *d)
{
	free(d->name);
	free(d->path);
}

static void owe(struct cw *w, const struct naive_op *op, uint64_t label, uint64_t dir, const char *name)
{
	const char *path = op->obj2 && label == op->obj2 ? op->op.path2 : op->op.path;

	w->debts = sim_need(reallocarray(w->debts, w->ndebts + 1, sizeof(w->debts[0])));
	w->debts[w->ndebts++] = (struct debt){label, dir, name ? sim_need(strdup(name)) : NULL,
	                                       sim_need(strdup(path)), false};
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
		owe(w, n, n->made, 0, NULL);
		owe(w, n, n->made, n->dir, n->name);
		return;
	case CW_UNLINK:
	case CW_RMDIR:
	case CW_RENAME:
		owe(w, n, n->obj, n->dir, n->name);
		break;
	default:
		break;
	}
	if (n->name2) {
		owe(w, n, n->obj, n->dir2, n->name2);
		owe(w, n, n->obj2 ? n->obj2 : n->obj, n->dir2, n->name2);
	}
	for (size_t i = 0; i < ARRAY_LEN(labels); i++)
		if (labels[i])
			owe(w, n, labels[i], 0, NULL);
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

static void forced(struct cw *w)
{
	free(w->older);
	w->older = NULL;
	if (w->older_tree)
		sim_free(w->older_tree);
	w->older_tree = NULL;
	while (w->nolder_debts)
		free_debt(&w->older_debts[--w->nolder_debts]);
	free(w->older_debts);
	w->older_debts = NULL;
}

/*
 * A plain operation that went through the log (I5) is found whole or not at all: not its objects are left out of the
 * comparison, but the picture before it is as good as the one after it. A write is none, parts of it may be home; nor are
 * two of them, which the filesystem may have kept in either order. debts: those in w->debts before it.
 */
static void whole_or_not(struct cw *w, const struct cw_op *op, size_t debts)
{
	if (w->older || op->kind == CW_WRITE || op->kind == CW_APPEND || op->kind == CW_TMP) {
		for (size_t i = 0; i < w->nolder_debts; i++) {
			w->debts = sim_need(reallocarray(w->debts, w->ndebts + 1, sizeof(w->debts[0])));
			w->debts[w->ndebts++] = w->older_debts[i];
		}
		w->nolder_debts = 0;
		forced(w);
		return;
	}
	w->older = sim_need(strdup(w->before));
	w->older_tree = sim_kill(w->tree);
	w->nolder_debts = w->ndebts - debts;
	w->older_debts = sim_need(calloc(w->nolder_debts + 1, sizeof(w->debts[0])));
	memcpy(w->older_debts, w->debts + debts, w->nolder_debts * sizeof(w->debts[0]));
	w->ndebts = debts;
}

static bool logged(struct cw *w, uint64_t log_bytes)
{
	struct txn_stats st;

	txn_engine_stats(w->eng, &st);
	return st.log_bytes != log_bytes;
}

static void settle_debts(struct cw *w, uint64_t label) /* 0: all */
{
	size_t kept = 0;

	for (size_t i = 0; i < w->ndebts; i++)
		if (label && (w->debts[i].label != label || w->debts[i].other))
			w->debts[kept++] = w->debts[i];
		else
			free_debt(&w->debts[i]);
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
			cw_wrong(w, "what another transaction has done (%s) is not possible any more: %s",
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
	cw_wrong(w, "%s: the engine says %s, the naive tree %s", cw_describe(op, text, sizeof(text)), strerror(-r),
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
	struct txn_stats stats;
	char text[200];
	size_t ndebts;

	note(w, "plain %s", cw_describe(op, text, sizeof(text)));
	begin_step(w, expected ? NULL : next);
	txn_engine_stats(w->eng, &stats);
	ndebts = w->ndebts;
	if (!expected)
		owe_op(w, next, n);
	r = eng_do(w, NULL, op);
	judge(w, op, r, expected);
	if (!r && logged(w, stats.log_bytes))
		whole_or_not(w, op, ndebts);
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
			if (op->kind != CW_UNLINK && op->kind != CW_RMDIR)
				forced(w);
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
	/* A rename between two names of one file does nothing, and holds nothing; nor does the writing of no bytes. */
	if (r || (op->kind == CW_RENAME && n->obj == n->obj2) || (!op->len && (op->kind == CW_WRITE || op->kind == CW_APPEND))) {
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

/* It was made durable with whatever it builds on. */
static void settle_txn(struct cw *w, const struct cw_txn *t)
{
	for (size_t k = 0; k < t->nops; k++) {
		const struct naive_op *op = t->ops[k];
		bool in_dir = changes_names(op->op.kind);
		const uint64_t labels[] = {op->obj, op->obj2, in_dir && op->op.kind != CW_LINK ? op->dir : 0,
		                           in_dir ? op->dir2 : 0};

		for (size_t n = 0; n < ARRAY_LEN(labels); n++)
			if (labels[n])
				settle_debts(w, labels[n]);
	}
}

void cw_prepare(struct cw *w, int i)
{
	struct cw_txn *t = &w->txn[i];
	int r;

	snprintf(t->gid, sizeof(t->gid), "gid %" PRIu64, ++w->labels);
	note(w, "[%d] prepare \"%s\"", i, t->gid);
	begin_step(w, NULL);
	w->deciding = t;
	r = txn_prepare(t->t, t->gid, 0);
	w->deciding = NULL;
	if (r)
		cw_wrong(w, "prepare: %s", strerror(-r));
	t->prepared = true;
	forced(w);
	settle_txn(w, t);
	end_step(w, NULL);
	compare_live(w);
}

bool cw_prepared(struct cw *w, int i)
{
	return w->txn[i].prepared;
}

int cw_commit(struct cw *w, int i)
{
	struct cw_txn *t = &w->txn[i];
	struct sim *next = t->tree;
	int r;

	note(w, "[%d] commit", i);
	begin_step(w, next);
	w->committing = t->t;
	w->deciding = t;
	r = txn_commit(t->t);
	w->committing = NULL;
	w->deciding = NULL;
	if (r)
		cw_wrong(w, "commit: %s", strerror(-r));
	/* One that changed nothing (a write of no bytes) promises nothing, and forces nothing. */
	if (t->prepared || strcmp(w->before, w->after))
		forced(w);
	if (!t->prepared && strcmp(w->before, w->after))
		settle_txn(w, t);
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
	w->deciding = &w->txn[i];
	assert_int_equal(txn_rollback(w->txn[i].t), 0);
	w->deciding = NULL;
	if (w->txn[i].prepared)
		forced(w);
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
	forced(w);
}

static void reopen(struct cw *w)
{
	char err[512];
	int r;

	sim_on_change(w->disk, cw_hook, w);
	r = cw_open_engine(w, w->disk, &w->eng, err, sizeof(err));
	if (r)
		cw_wrong(w, "the engine does not open: %s", err);
}

void cw_reopen(struct cw *w, bool orderly, bool power)
{
	struct sim *old = w->disk;

	note(w, orderly ? "close and open" : power ? "power cut" : "kill");
	power = power && !w->ndebts && !w->older;
	begin_step(w, NULL);
	for (int i = 0; i < CW_TXNS; i++) {
		if (w->txn[i].prepared) {
			txn_put(w->txn[i].t);
			w->txn[i].t = NULL;
			continue;
		}
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
		w->disk = power ? sim_image(old, w->point % 2 ? SIM_POSIX : SIM_JOURNAL, 8, cw_mix(w->point), w->point % 8) : NULL;
		if (!w->disk)
			w->disk = sim_kill(old);
		txn_engine_abandon(w->eng);
		sim_free(old);
	}
	reopen(w);
	end_step(w, NULL);
	compare_live(w);
	forced(w);
	for (int i = 0; i < CW_TXNS; i++)
		if (w->txn[i].prepared && txn_find_prepared(w->eng, w->txn[i].gid, &w->txn[i].t))
			cw_wrong(w, "\"%s\" is not prepared any more", w->txn[i].gid);
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
		if (w->txn[i].t && w->txn[i].prepared && cw_mix(w->seed + (uint64_t)i) % 2)
			cw_commit(w, i);
		else if (w->txn[i].t)
			cw_rollback(w, i);
	note(w, "close");
	begin_step(w, NULL);
	assert_int_equal(txn_engine_close(w->eng), 0);
	end_step(w, NULL);
	compare_live(w);
	if (sim_leftovers(w->disk))
		cw_wrong(w, "after an orderly end %u things are left in stage/ and trash/", sim_leftovers(w->disk));
	settle_debts(w, 0);
	forced(w);
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
