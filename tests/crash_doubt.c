/* crash_doubt.c - prepared transactions after a crash: are they in doubt, do they hold their locks, can they be resolved? */
#include "tests/crash_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

bool cw_has_doubt(struct cw *w)
{
	for (int i = 0; i < CW_TXNS; i++)
		if (w->txn[i].gid[0])
			return true;
	return false;
}

struct present {
	struct cw *w;
	bool there[CW_TXNS];
	uint64_t changes[CW_TXNS];
};

static int note_prepared(void *arg, const struct txn_prepared *p)
{
	struct present *pr = arg;

	for (int i = 0; i < CW_TXNS; i++)
		if (!strcmp(pr->w->txn[i].gid, p->gid)) {
			if (pr->there[i])
				cw_wrong(pr->w, "\"%s\" is in doubt twice", p->gid);
			pr->there[i] = true;
			pr->changes[i] = p->changes;
			return 0;
		}
	cw_wrong(pr->w, "\"%s\" is in doubt, which nobody has prepared or which has ended", p->gid);
	return 0;
}

static struct txn_engine *open_image(struct cw *w, struct sim *image)
{
	struct txn_engine *eng;
	char err[512];
	int r = cw_open_engine(w, image, &eng, err, sizeof(err));

	if (r)
		cw_wrong(w, "with a transaction in doubt, recovery refuses: %s (%s)", err, strerror(-r));
	return eng;
}

static int name_list(void *arg, const struct txn_prepared *p)
{
	base_buf_printf(arg, "%s: %llu\n", p->gid, (unsigned long long)p->changes);
	return 0;
}

static void keep_line(void *arg, const char *line)
{
	snprintf(arg, 600, "%s", line);
}

/* What the log says to who only reads it. */
static void compare_offline(struct cw *w, struct sim *image, struct txn_engine *eng)
{
	struct base_buf live = {0}, dead = {0};
	struct txn_check res;
	char err[512], line[600] = "";
	int r;

	txn_each_prepared(eng, name_list, &live);
	r = txn_log_prepared(sim_os(image), sim_wal_dir(image), name_list, &dead, err, sizeof(err));
	if (r)
		cw_wrong(w, "the prepared ones cannot be listed: %s", err);
	if (live.n != dead.n || (live.n && memcmp(live.p, dead.p, live.n)))
		cw_wrong(w, "the log has as prepared\n%s---- and the engine\n%s", dead.n ? (char *)dead.p : "",
		         live.n ? (char *)live.p : "");
	base_buf_free(&live);
	base_buf_free(&dead);
	r = txn_check(sim_store(image), sim_os(image), sim_wal_dir(image), &res, keep_line, line);
	if (r)
		cw_wrong(w, "the log of a recovered disk with a transaction in doubt is not sound: %s", line);
}

static int walk(struct txn_engine *eng, char *path, bool parent, struct txn_obj **out, const char **name)
{
	struct txn_obj *at = txn_obj_get(txn_root(eng));
	char *save, *part = strtok_r(path, "/", &save), *next;
	struct txn_look look;
	int r = 0;

	*name = part;
	for (; part && !r; part = next) {
		next = strtok_r(NULL, "/", &save);
		*name = part;
		if (parent && !next)
			break;
		r = txn_lookup(eng, NULL, at, part, &look);
		txn_obj_put(at);
		at = r ? NULL : look.obj;
	}
	*out = at;
	return r;
}

static void some_path(void *arg, const char *path)
{
	char **out = arg;

	if (!*out)
		*out = sim_need(strdup(path));
}

static void try_object(struct cw *w, struct txn_engine *eng, const struct cw_txn *t, struct sim *base, uint64_t label)
{
	struct stat st = {.st_mode = 0600};
	char *path = NULL;
	struct txn_obj *obj;
	const char *name;
	int r;

	if (naive_find(base, label))
		naive_paths(base, label, some_path, &path);
	if (!path)
		return;
	r = walk(eng, path, false, &obj, &name);
	if (r)
		cw_wrong(w, "with \"%s\" in doubt, what it has changed is not there: %s", t->gid, strerror(-r));
	if (!S_ISLNK(txn_obj_kind(obj))) {
		r = txn_setattr(eng, NULL, obj, NULL, &st, STORE_SET_MODE, NULL);
		if (r != -EBUSY)
			cw_wrong(w, "with \"%s\" in doubt, what it has changed (%s) can be changed: %s", t->gid, name, strerror(-r));
	}
	txn_obj_put(obj);
	free(path);
}

static void try_name(struct cw *w, struct txn_engine *eng, const struct cw_txn *t, struct sim *base, uint64_t dir,
                     const char *name)
{
	struct txn_new nw = {.mode = S_IFREG | 0600, .uid = geteuid(), .gid = getegid()};
	char *path = dir && name ? naive_path(base, dir, name) : NULL;
	struct txn_look look = {0};
	struct txn_obj *obj;
	const char *last;
	int r;

	if (!path)
		return;
	r = walk(eng, path, true, &obj, &last);
	if (r)
		cw_wrong(w, "with \"%s\" in doubt, a directory of it is not there: %s", t->gid, strerror(-r));
	r = txn_create(eng, NULL, obj, last, &nw, &look);
	if (r != -EBUSY)
		cw_wrong(w, "with \"%s\" in doubt, the name \"%s\" that it has given is free: %s", t->gid, last, strerror(-r));
	txn_obj_put(obj);
	free(path);
}

/* Plain changes of what it has changed are refused. */
static void try_locks(struct cw *w, struct txn_engine *eng, const struct cw_txn *t, struct sim *base)
{
	for (size_t i = 0; i < t->nops; i++) {
		const struct naive_op *op = t->ops[i];
		bool made = (op->op.kind >= CW_CREATE && op->op.kind <= CW_FIFO) || op->op.kind == CW_TMP;

		try_object(w, eng, t, base, op->obj);
		try_object(w, eng, t, base, op->obj2);
		if (made)
			try_name(w, eng, t, base, op->dir, op->name);
		else
			try_name(w, eng, t, base, op->dir2, op->name2);
	}
}

static void replay(struct cw *w, struct sim *tree, const struct cw_txn *t)
{
	for (size_t i = 0; i < t->nops; i++)
		if (naive_do(tree, t->ops[i]))
			cw_wrong(w, "\"%s\" cannot be done on what is committed", t->gid);
}

static void judge(struct cw *w, const struct present *p, bool *committed)
{
	for (int i = 0; i < CW_TXNS; i++) {
		const struct cw_txn *t = &w->txn[i];

		if (t->gid[0] && !p->there[i] && w->deciding != t)
			cw_wrong(w, "\"%s\" was prepared and is not in doubt", t->gid);
		if (t->gid[0] && !p->there[i] && t->prepared && w->committing && w->deciding == t && !*committed &&
		    strcmp(w->before, w->after))
			cw_wrong(w, "\"%s\" is being committed, and is neither in doubt nor committed", t->gid);
		if (p->there[i] && *committed && w->deciding == t && w->committing)
			cw_wrong(w, "\"%s\" is committed and in doubt", t->gid);
	}
}

void cw_check_doubt(struct cw *w, struct sim *image, const char *found, bool power, uint64_t dice)
{
	struct present p = {.w = w};
	struct sim *base = w->tree;
	struct sim *trees[3];
	struct txn_engine *eng;
	bool is_before, is_after, committed, known;
	struct sim *want;
	char *now, *naive;
	unsigned first = (unsigned)(dice >> 8);

	trees[0] = w->tree;
	trees[1] = w->after_tree ? w->after_tree : w->tree;
	is_before = cw_same(w, found, w->before, trees, 2, power);
	is_after = cw_same(w, found, w->after, trees, 2, power);
	committed = is_after && !is_before;
	known = is_before || is_after; /* else the picture is an older one's */
	if (committed && w->after_tree)
		base = w->after_tree;

	eng = open_image(w, image);
	txn_each_prepared(eng, note_prepared, &p);
	/* With the debts left out, what a step has done may not be seen. */
	if (!(power && w->ndebts))
		judge(w, &p, &committed);
	compare_offline(w, image, eng);
	want = sim_kill(base);
	for (unsigned k = 0; k < CW_TXNS; k++) {
		unsigned i = (first + k) % CW_TXNS;
		const struct cw_txn *t = &w->txn[i];
		struct txn *found_txn;
		int r;

		if (!p.there[i])
			continue;
		if (!power)
			try_locks(w, eng, t, want);
		assert_int_equal(txn_find_prepared(eng, t->gid, &found_txn), 0);
		if (known && (dice >> i & 1)) {
			replay(w, want, t);
			r = txn_commit(found_txn);
		} else {
			r = txn_rollback(found_txn);
		}
		txn_put(found_txn);
		if (r)
			cw_wrong(w, "\"%s\" in doubt cannot be %s: %s", t->gid, dice >> i & 1 ? "committed" : "rolled back",
			         strerror(-r));
	}
	if (dice >> 5 & 1) { /* a crash right after it must not change it */
		txn_engine_abandon(eng);
		eng = open_image(w, image);
	}
	assert_int_equal(txn_engine_close(eng), 0);
	now = sim_picture(image);
	naive = known ? sim_picture(want) : sim_need(strdup(found));
	trees[2] = want;
	if (!cw_same(w, now, naive, trees, 3, power))
		cw_wrong(w, "what was in doubt was resolved (%llx), and the tree is\n%s---- it should be\n%s---- it was\n%s",
		         (unsigned long long)dice, now, naive, found);
	if (sim_fsck(image) || cw_left(image, power))
		cw_wrong(w, "after what was in doubt was resolved: %s",
		         sim_fsck(image) ? sim_fsck(image) : sim_leftover(image));
	free(now);
	free(naive);
	sim_free(want);
}
