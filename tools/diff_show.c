/* diff_show.c - a patch, and --name-status. */
#include "tools/diff.h"

#include <string.h>
#include <sys/sysmacros.h>

/* ---- what the formats share ---- */

int diff_next(struct diff *d, const struct diff_list *list, size_t *i, struct diff_item *it)
{
	while (*i < list->n && !diff_out_over()) {
		const struct diff_entry *e = &list->v[(*i)++];
		struct base_buf name = {0};
		int r = diff_item_load(d, e, it);

		if (r > 0)
			return 1;
		if (!r)
			continue;
		if (r == -ENOMEM)
			return r;
		d->trouble = true;
		diff_name(&name, "", e->new ? e->new : e->old, 0);
		if (r == -ENOENT || r == -ESTALE)
			tool_error("%s: has gone while it was read; look again", name.err ? "?" : (char *)name.p);
		else
			tool_error("%s: %s", name.err ? "?" : (char *)name.p, strerror(-r));
		base_buf_free(&name);
	}
	return 0;
}

void diff_unreadable(struct diff *d, const struct diff_item *it)
{
	const struct diff_entry *e = it->e;
	struct base_buf name = {0};

	d->trouble = true;
	diff_name(&name, "", it->err_new && e->new ? e->new : e->old ? e->old : e->new, 0);
	tool_error("%s: the %s contents cannot be read: %s", name.err ? "?" : (char *)name.p,
	           it->err_new ? "transaction's" : "committed", strerror(it->err));
	base_buf_free(&name);
}

const struct diff_side *diff_main_side(const struct diff_item *it)
{
	return it->b.there ? &it->b : &it->a;
}

char diff_letter(const struct diff_item *it)
{
	const struct diff_entry *e = it->e;

	if (!e->old || !e->new)
		return e->new ? 'A' : 'D';
	if (e->renamed || e->copied)
		return e->renamed ? 'R' : 'C';
	return it->type ? 'T' : it->contents != DIFF_SAME ? 'M' : 'P';
}

void diff_name(struct base_buf *b, const char *prefix, const char *path, mode_t mode)
{
	CLEANUP_FREE char *text = NULL;

	if (!*path && !*prefix)
		path = ".";
	if (asprintf(&text, "%s%s%s", prefix, path, S_ISDIR(mode) && *path ? "/" : "") < 0) {
		text = NULL;
		b->err = -ENOMEM;
		return;
	}
	base_buf_quote(b, text);
}

/* ---- a patch ---- */

struct block {
	struct diff *d;
	const struct diff_item *it;
	const struct diff_side *a, *b; /* NULL: not there */
	struct base_buf old, new;      /* the names, with a/ and b/ */
};

/* A name with blanks is quoted, too: git would find its end without, patch(1) would not. */
static void patch_name(struct base_buf *b, const char *prefix, const char *path, mode_t mode)
{
	struct base_buf name = {0};

	diff_name(&name, prefix, path, mode);
	if (name.err)
		b->err = name.err;
	else if (name.p[0] != '"' && memchr(name.p, ' ', name.n))
		base_buf_printf(b, "\"%s\"", name.p);
	else
		base_buf_put(b, name.p, name.n);
	base_buf_free(&name);
}

static bool git_knows(const struct diff_side *s)
{
	return S_ISREG(s->st.st_mode) || S_ISLNK(s->st.st_mode);
}

/* A symbolic link has no permissions of its own. */
static mode_t git_mode(const struct diff_side *s)
{
	return S_ISLNK(s->st.st_mode) ? S_IFLNK : s->st.st_mode;
}

static void one_side(const struct block *k, const struct diff_side *s, const char *what)
{
	const struct diff_out *o = &k->d->out;
	mode_t mode = s->st.st_mode;

	if (git_knows(s))
		diff_line(o, DIFF_HEAD, "%s file mode %06o", what, git_mode(s));
	else if (S_ISCHR(mode) || S_ISBLK(mode))
		diff_line(o, DIFF_HEAD, "%s %s %u:%u, mode %04o", what, diff_kind(mode), major(s->st.st_rdev),
		          minor(s->st.st_rdev), mode & 07777);
	else
		diff_line(o, DIFF_HEAD, "%s %s, mode %04o", what, diff_kind(mode), mode & 07777);
}

static void moved(const struct block *k)
{
	const struct diff_entry *e = k->it->e;
	const struct diff_side *s = diff_main_side(k->it);
	const struct diff_out *o = &k->d->out;
	const char *verb = e->copied ? "copy" : "rename";
	struct base_buf from = {0}, to = {0};

	patch_name(&from, "", e->old, s->st.st_mode);
	patch_name(&to, "", e->new, s->st.st_mode);
	if (!from.err && !to.err) {
		if (git_knows(s) && k->it->contents == DIFF_SAME)
			diff_line(o, DIFF_HEAD, "similarity index 100%%");
		if (git_knows(s)) {
			diff_line(o, DIFF_HEAD, "%s from %s", verb, from.p);
			diff_line(o, DIFF_HEAD, "%s to %s", verb, to.p);
		} else {
			diff_line(o, DIFF_HEAD, "%s moved from %s to %s", diff_kind(s->st.st_mode), from.p, to.p);
		}
	}
	base_buf_free(&from);
	base_buf_free(&to);
}

static void property(void *arg, const char *line)
{
	const struct block *k = arg;

	diff_line(&k->d->out, DIFF_HEAD, "%s", line);
}

static void file_line(const struct block *k, const char *mark, const struct base_buf *name, bool there)
{
	diff_line(&k->d->out, DIFF_HEAD, "%s %s", mark, there ? (char *)name->p : "/dev/null");
}

static int contents(const struct block *k)
{
	const struct diff_item *it = k->it;
	const struct diff_out *o = &k->d->out;
	char a[32] = "0", b[32] = "0";
	struct diff_counts counts;

	if (k->a)
		snprintf(a, sizeof(a), "%lld", (long long)k->a->st.st_size);
	if (k->b)
		snprintf(b, sizeof(b), "%lld", (long long)k->b->st.st_size);
	switch (it->contents) {
	case DIFF_SAME:
		return 0;
	case DIFF_UNREADABLE:
		diff_line(o, DIFF_WARN, "The contents cannot be read: %s", strerror(it->err));
		diff_unreadable(k->d, it);
		return 0;
	case DIFF_BINARY:
		diff_line(o, DIFF_PLAIN, "Binary files %s and %s differ: %s -> %s bytes",
		          k->a ? (char *)k->old.p : "/dev/null", k->b ? (char *)k->new.p : "/dev/null", a, b);
		return 0;
	case DIFF_LARGE:
		diff_line(o, DIFF_WARN,
		          "Large files %s and %s differ: %s -> %s bytes, not shown (the limit is %llu, see --max-size)",
		          k->a ? (char *)k->old.p : "/dev/null", k->b ? (char *)k->new.p : "/dev/null", a, b,
		          (unsigned long long)k->d->max_size);
		return 0;
	case DIFF_TEXT:
		break;
	}
	if (!(k->a && k->a->n) && !(k->b && k->b->n))
		return 0; /* empty, or nothing that has contents */
	file_line(k, "---", &k->old, k->a);
	file_line(k, "+++", &k->new, k->b);
	return diff_text(k->d, o, k->a, k->b, &counts);
}

static int block(struct diff *d, const struct diff_item *it, const struct diff_side *a, const struct diff_side *b)
{
	struct block k = {.d = d, .it = it, .a = a, .b = b};
	const struct diff_entry *e = it->e;
	const struct diff_out *o = &d->out;
	mode_t kind = (a ? a : b)->st.st_mode;
	int r;

	patch_name(&k.old, "a/", e->old ? e->old : e->new, kind);
	patch_name(&k.new, "b/", e->new ? e->new : e->old, b ? b->st.st_mode : kind);
	r = k.old.err ? k.old.err : k.new.err;
	if (!r) {
		diff_line(o, DIFF_HEAD, "diff --git %s %s", k.old.p, k.new.p);
		if (!a)
			one_side(&k, b, "new");
		else if (!b && (!e->new || it->type))
			one_side(&k, a, "deleted");
		else if (git_knows(a) && (it->mode || S_ISLNK(kind))) {
			/* Of a link this says, without a change, that it is one. */
			diff_line(o, DIFF_HEAD, "old mode %06o", git_mode(a));
			diff_line(o, DIFF_HEAD, "new mode %06o", git_mode(b ? b : a));
		} else if (b && it->mode)
			diff_line(o, DIFF_HEAD, "mode %04o -> %04o", a->st.st_mode & 07777, b->st.st_mode & 07777);
		if (e->renamed || e->copied)
			moved(&k);
		if (b || !it->type)
			diff_properties(it, property, &k);
		r = contents(&k);
	}
	base_buf_free(&k.old);
	base_buf_free(&k.new);
	return r;
}

int diff_show_patch(struct diff *d, const struct diff_list *list, bool *differs)
{
	struct diff_item it;
	size_t i = 0;
	int r;

	while ((r = diff_next(d, list, &i, &it)) > 0) {
		*differs = true;
		if (it.type) {
			/* Another kind of thing: as git has it, one goes and one comes. */
			r = block(d, &it, &it.a, NULL);
			if (!r)
				r = block(d, &it, NULL, &it.b);
		} else {
			r = block(d, &it, it.a.there ? &it.a : NULL, it.b.there ? &it.b : NULL);
		}
		diff_item_free(&it);
		if (r)
			break;
	}
	return r;
}

/* ---- --name-status ---- */

int diff_show_names(struct diff *d, const struct diff_list *list, bool *differs)
{
	struct diff_item it;
	size_t i = 0;
	int r;

	while ((r = diff_next(d, list, &i, &it)) > 0) {
		const struct diff_entry *e = it.e;
		mode_t mode = diff_main_side(&it)->st.st_mode;
		struct base_buf line = {0};

		*differs = true;
		if (it.contents == DIFF_UNREADABLE)
			diff_unreadable(d, &it);
		base_buf_printf(&line, "%c\t", diff_letter(&it));
		if (e->renamed || e->copied) {
			diff_name(&line, "", e->old, mode);
			base_buf_printf(&line, "\t");
		}
		diff_name(&line, "", e->new ? e->new : e->old, mode);
		r = line.err;
		if (!r)
			diff_line(&d->out, DIFF_PLAIN, "%s", line.p);
		base_buf_free(&line);
		diff_item_free(&it);
		if (r)
			break;
	}
	return r;
}
