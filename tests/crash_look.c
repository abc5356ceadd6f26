/* crash_look.c - what a crash at this moment leaves, what recovery makes of it, and whether that is right. */
#include "tests/crash_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct cw_counts cw_counts;

void cw_wrong(struct cw *w, const char *fmt, ...)
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

int cw_open_engine(struct cw *w, struct sim *disk, struct txn_engine **eng, char *err, size_t errlen)
{
	struct txn_config cfg = {.store = sim_store(disk), .os = sim_os(disk), .wal_dirfd = sim_wal_dir(disk),
	                         .segment_size = w->opt.segment_size, .checkpoint_bytes = w->opt.checkpoint_bytes,
	                         .no_threads = true};

	return txn_engine_open(&cfg, eng, NULL, err, errlen);
}

static void recover(struct cw *w, struct sim *disk, const char *which)
{
	struct txn_engine *eng;
	char err[512];
	int r = cw_open_engine(w, disk, &eng, err, sizeof(err));

	if (r)
		cw_wrong(w, "%s: recovery refuses: %s (%s)", which, err, strerror(-r));
	txn_engine_abandon(eng);
}

/* ---- comparing ---- */

struct mask {
	struct { char *path; bool below; } *v;
	size_t n;
};

static void mask_path(void *arg, const char *path)
{
	struct mask *m = arg;

	m->v = sim_need(reallocarray(m->v, m->n + 1, sizeof(m->v[0])));
	m->v[m->n].path = sim_need(strdup(path));
	m->v[m->n++].below = true;
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
			mask_path(m, d->path);
			for (; from < m->n; from++)
				m->v[from].below = false;
		}
	}
}

static void mask_free(struct mask *m)
{
	while (m->n)
		free(m->v[--m->n].path);
	free(m->v);
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

/* A further name of a file tells its first one ("/n ... = /d/a"), which may be left out of the comparison itself. */
static size_t without_first_name(const struct mask *m, const char *line, size_t len)
{
	const char *eq = memmem(line, len, " = ", 3);

	return eq && masked(m, eq + 3, (size_t)(line + len - (eq + 3))) ? (size_t)(eq - line) : len;
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
		la = without_first_name(m, x, la);
		lb = without_first_name(m, y, lb);
		if (la != lb || memcmp(x, y, la))
			return false;
	}
}

bool cw_same(struct cw *w, const char *a, const char *b, struct sim *const trees[], size_t n, bool power)
{
	struct mask m = {0};
	bool ok;

	for (size_t i = 0; i < n && power && w->ndebts; i++)
		mask_of(w, trees[i], &m);
	ok = same(a, b, &m);
	mask_free(&m);
	return ok;
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
		if (w->older_tree)
			mask_of(w, w->older_tree, &m);
	}
	ok = (!acked && same(found, w->before, &m)) || same(found, w->after, &m);
	ok = ok || (power && !acked && w->older && same(found, w->older, &m));
	mask_free(&m);
	return ok;
}

/*
 * What is left and nobody needs: how much. A power cut may take the word that made a plain directory, which nobody had made
 * durable, and leave what was then put into it: that is kept.
 */
unsigned cw_left(struct sim *image, bool power)
{
	return sim_leftovers(image) - (power ? sim_lost(image) : 0);
}

/* ---- points ---- */

struct inner {
	struct cw *w;
	const char *want;
	uint64_t n;
	bool dirty; /* what the first crash left was not durable: a power cut may take more of it */
};

static void examine_again(struct inner *in, struct sim *image, const char *how, bool power, uint64_t i)
{
	struct cw *w = in->w;
	char *found;

	cw_counts.again++;
	recover(w, image, how);
	found = sim_picture(image);
	if (power && in->dirty ? !right(w, found, true) : strcmp(found, in->want) != 0)
		cw_wrong(w, "crash of the recovery before its change %" PRIu64 " (%s, picture %" PRIu64 "): the next one comes to\n%s"
		         "---- and an undisturbed one to\n%s", in->n, how, i, found, in->want);
	if (sim_fsck(image) || (!cw_has_doubt(w) && cw_left(image, power || !in->dirty)))
		cw_wrong(w, "crash of the recovery before its change %" PRIu64 " (%s): %s", in->n, how,
		      sim_fsck(image) ? sim_fsck(image) : "something is left in stage/ or trash/");
	if (cw_has_doubt(w) && (cw_mix(in->n + i) & 1))
		cw_check_doubt(w, image, found, power || !in->dirty, cw_mix(in->n * 3 + i)); /* the first may have been a power cut */
	free(found);
	sim_free(image);
}

static int again_image(void *arg, struct sim *image, uint64_t i)
{
	examine_again(arg, image, "power cut", true, i);
	return 0;
}

static int again_hook(void *arg, struct sim *disk, uint64_t n, const char *what UNUSED, const char *on UNUSED)
{
	struct inner *in = arg;

	in->n = n;
	examine_again(in, sim_kill(disk), "kill", false, 0);
	if (sim_dirty(disk))
		sim_images(disk, n % 2 ? SIM_POSIX : SIM_JOURNAL, 2 + in->w->opt.images / 4, cw_mix(in->w->seed + n), again_image,
		           in, NULL);
	return 0;
}

/* Recover what a crash left, and look. */
static void examine(struct cw *w, struct sim *image, const char *how, bool power, uint64_t i)
{
	uint64_t dice = cw_mix(w->seed ^ cw_mix(w->point * 64 + i));
	bool again = w->opt.again && dice % w->opt.again == 0;
	struct sim *second = !again ? NULL : power ? sim_kill(image) : sim_kill_only(w->disk);
	size_t len = strlen(w->point_text);
	char *found, *twice;

	cw_counts.images++;
	snprintf(w->point_text + len, sizeof(w->point_text) - len, "%s, picture %" PRIu64 ": ", how, i);
	recover(w, image, how);
	found = sim_picture(image);
	if (w->only)
		print_message("---- %s%s", w->point_text, found);
	if (!right(w, found, power))
		cw_wrong(w, "found\n%s", found);
	if (sim_fsck(image))
		cw_wrong(w, "%s", sim_fsck(image));
	if (!cw_has_doubt(w) && cw_left(image, power))
		cw_wrong(w, "%u things are left in stage/ and trash/, \"%s\" among them", sim_leftovers(image), sim_leftover(image));
	if (dice % 7 == 0) {
		recover(w, image, "once more");
		twice = sim_picture(image);
		if (strcmp(found, twice))
			cw_wrong(w, "a second recovery comes to something else\n%s---- first\n%s", twice, found);
		free(twice);
	}
	if (cw_has_doubt(w))
		cw_check_doubt(w, image, found, power, dice);
	sim_free(image);
	if (second) {
		struct inner in = {w, found, 0, !power};

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
	if (!w->only && w->opt.every > 1 && cw_mix(w->seed ^ w->point) % w->opt.every)
		return;
	cw_counts.points++;
	snprintf(w->point_text, sizeof(w->point_text), "crash before change %" PRIu64 ", %s %s: ", w->point, what, on);
	examine(w, sim_kill(w->disk), "kill", false, 0);
	if (w->opt.images && sim_dirty(w->disk)) {
		sim_images(w->disk, SIM_POSIX, w->opt.images, cw_mix(w->seed + w->point), visit_image, &posix, NULL);
		sim_images(w->disk, SIM_JOURNAL, w->opt.images, cw_mix(w->seed - w->point), visit_image, &journal, NULL);
	}
	w->point_text[0] = '\0';
}

int cw_hook(void *arg, struct sim *disk UNUSED, uint64_t n UNUSED, const char *what, const char *on)
{
	look(arg, what, on);
	return 0;
}
