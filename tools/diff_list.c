/* diff_list.c - from the lines of `changes` to pairs of an old and a new path. */
#include "tools/diff.h"

#include <string.h>

struct line {
	char kind;
	char *path, *to;
	bool kept;    /* R, D: what stands at its old name now is compared with what stood there */
	bool other;   /* and is of another kind */
	bool taken;   /* A, R: its new name is in such a pair */
	size_t index; /* of its entry, from 1 */
};

/* Lines by a path of theirs. */
struct by_path {
	struct key {
		const char *path;
		struct line *line;
	} * v;
	size_t n;
};

struct lists {
	struct line *lines;
	size_t n;
	struct by_path before, after; /* D and R by the old name, A and R by the new one */
	struct diff_list *out;
	size_t cap;
};

static int key_order(const void *a, const void *b)
{
	const struct key *x = a, *y = b;

	return strcmp(x->path, y->path);
}

static struct line *find(const struct by_path *by, const char *path)
{
	struct key key = {path, NULL}, *k;

	k = by->n ? bsearch(&key, by->v, by->n, sizeof(key), key_order) : NULL;
	return k ? k->line : NULL;
}

static int parse_lines(char *text, struct lists *l)
{
	size_t cap = 1;

	for (const char *p = text; *p; p++)
		cap += *p == '\n';
	l->lines = calloc(cap, sizeof(*l->lines));
	l->before.v = calloc(cap, sizeof(*l->before.v));
	l->after.v = calloc(cap, sizeof(*l->after.v));
	if (!l->lines || !l->before.v || !l->after.v)
		return -ENOMEM;
	for (char *save, *p = strtok_r(text, "\n", &save); p; p = strtok_r(NULL, "\n", &save)) {
		struct line *line = &l->lines[l->n];
		char *rest;

		if (!strchr("ADMPR", p[0]) || p[1] != ' ')
			return -EPROTO;
		line->kind = p[0];
		rest = tool_unquote(p + 2, &line->path);
		if (line->kind == 'R') {
			if (*rest != '\t')
				return -EPROTO;
			*rest = 0;
			rest = tool_unquote(rest + 1, &line->to);
		}
		if (*rest)
			return -EPROTO;
		if (line->kind == 'D' || line->kind == 'R')
			l->before.v[l->before.n++] = (struct key){line->path, line};
		if (line->kind == 'A' || line->kind == 'R')
			l->after.v[l->after.n++] = (struct key){line->to ? line->to : line->path, line};
		l->n++;
	}
	if (l->before.n)
		qsort(l->before.v, l->before.n, sizeof(*l->before.v), key_order);
	if (l->after.n)
		qsort(l->after.v, l->after.n, sizeof(*l->after.v), key_order);
	return 0;
}

/*
 * The name that `path` of the new view has in the old one, as far as the directories above it decide: malloc'ed. NULL,
 * with 0: there is none, a directory above it is new. One that was removed and made again counts as the same.
 */
static int old_name(const struct lists *l, const char *path, char **out)
{
	CLEANUP_FREE char *above = strdup(path), *old = NULL;
	struct line *line = NULL, *gone;
	char *slash = NULL;
	int r;

	*out = NULL;
	if (!above)
		return -ENOMEM;
	while (!line && (slash = strrchr(above, '/'))) {
		*slash = 0;
		line = find(&l->after, above);
	}
	if (!line) {
		*out = strdup(path);
		return *out ? 0 : -ENOMEM;
	}
	if (line->kind == 'A') {
		r = old_name(l, above, &old);
		gone = old ? find(&l->before, old) : NULL;
		if (r || !gone || gone->kind != 'D')
			return r;
	}
	if (asprintf(out, "%s%s", old ? old : line->path, path + (slash - above)) < 0) {
		*out = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* Copies the paths. */
static int add(struct lists *l, const struct diff_entry *e, size_t *index)
{
	struct diff_list *out = l->out;
	struct diff_entry *to;

	if (out->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct diff_entry *v = reallocarray(out->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		out->v = v;
		l->cap = cap;
	}
	to = &out->v[out->n];
	*to = *e;
	to->old = e->old ? strdup(e->old) : NULL;
	to->new = e->new ? strdup(e->new) : NULL;
	out->n++; /* freed with the list, also when half of it is there */
	if (index)
		*index = out->n;
	return (e->old && !to->old) || (e->new && !to->new) ? -ENOMEM : 0;
}

/* Names that led to something before and do so now. A directory that was moved stays what it is, with all that is below
 * it. */
static int pair_up(struct lists *l, mode_t (*kind)(void *arg, bool in_new, const char *path), void *arg)
{
	int r = 0;

	for (size_t i = 0; i < l->after.n && !r; i++) {
		struct line *after = l->after.v[i].line, *before;
		const char *path = l->after.v[i].path;
		CLEANUP_FREE char *old = NULL;
		mode_t was, is;

		r = old_name(l, path, &old);
		before = old ? find(&l->before, old) : NULL;
		was = before ? kind(arg, false, old) : 0;
		is = was ? kind(arg, true, path) : 0;
		if (!was || !is ||
		    (S_ISDIR(was) || S_ISDIR(is) ? was != is || before->kind != 'D' || after->kind != 'A' : false))
			continue;
		before->kept = after->taken = true;
		before->other = was != is;
		r = add(l, &(struct diff_entry){.old = old, .new = (char *)path, .data = true, .props = true},
		        &after->index);
	}
	return r;
}

static int names(struct lists *l)
{
	int r = 0;

	for (size_t i = 0; i < l->n && !r; i++) {
		struct line *line = &l->lines[i];
		struct diff_entry e = {0};

		if (line->kind == 'A' && !line->taken) {
			e = (struct diff_entry){.new = line->path, .data = true, .props = true};
		} else if (line->kind == 'R' && !line->taken && line->other) {
			/* A copy of what is gone and comes as something else: patch(1) cannot do that. */
			e = (struct diff_entry){.new = line->to, .data = true, .props = true};
		} else if (line->kind == 'R' && !line->taken) {
			e = (struct diff_entry){
				.old = line->path, .new = line->to, .renamed = !line->kept, .copied = line->kept};
		} else if ((line->kind == 'D' || line->kind == 'R') && !line->kept) {
			e = (struct diff_entry){.old = line->path, .data = true, .props = true};
		} else {
			continue;
		}
		r = add(l, &e, line->taken ? NULL : &line->index);
	}
	return r;
}

static int objects(struct lists *l)
{
	int r = 0;

	for (size_t i = 0; i < l->n && !r; i++) {
		struct line *line = &l->lines[i], *other;
		CLEANUP_FREE char *old = NULL;
		struct diff_entry *e;

		if (line->kind != 'M' && line->kind != 'P')
			continue;
		other = find(&l->after, line->path);
		if (!other) {
			r = old_name(l, line->path, &old);
			if (r)
				break;
			other = old && !strcmp(old, line->path) ? find(&l->before, old) : NULL;
			if (other && other->kind == 'D' && !other->kept) {
				l->out->v[other->index - 1].elsewhere = true;
				continue;
			}
			r = add(l,
			        &(struct diff_entry){.old = old,
			                             .new = line->path,
			                             .data = line->kind == 'M' || !old,
			                             .props = true},
			        NULL);
			continue;
		}
		e = &l->out->v[other->index - 1];
		e->data |= line->kind == 'M';
		e->props = true;
	}
	return r;
}

static int entry_order(const void *a, const void *b)
{
	const struct diff_entry *x = a, *y = b;
	int r = strcmp(x->new ? x->new : x->old, y->new ? y->new : y->old);

	return r ? r : (x->new != NULL) - (y->new != NULL); /* what goes, before what comes in its place */
}

int diff_list_parse(char *text, mode_t (*kind)(void *arg, bool in_new, const char *path), void *arg,
                    struct diff_list *out)
{
	struct lists l = {.out = out};
	int r;

	*out = (struct diff_list){0};
	r = parse_lines(text, &l);
	if (!r)
		r = pair_up(&l, kind, arg);
	if (!r)
		r = names(&l);
	if (!r)
		r = objects(&l);
	if (!r && out->n)
		qsort(out->v, out->n, sizeof(*out->v), entry_order);
	if (r)
		diff_list_free(out);
	free(l.lines);
	free(l.before.v);
	free(l.after.v);
	return r;
}

void diff_list_free(struct diff_list *list)
{
	for (size_t i = 0; i < list->n; i++) {
		free(list->v[i].old);
		free(list->v[i].new);
	}
	free(list->v);
	*list = (struct diff_list){0};
}
