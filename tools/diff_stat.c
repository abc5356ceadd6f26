/* diff_stat.c - `txnfs diff --stat`: a line an object, drawn as git does. */
#include "tools/diff.h"

#include <string.h>

struct row {
	char *name;
	char *text; /* instead of a graph */
	struct diff_counts counts;
	bool directory;
};

struct table {
	struct row *v;
	size_t n, cap;
	struct base_buf notes; /* lines below the table */
	/* of the row in the making */
	const struct diff_item *it;
	struct base_buf words; /* its properties */
};

/* How many columns it takes, more or less: characters of UTF-8. */
static size_t columns(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

/* "dir/{old => new}/file" */
static void put_move(struct base_buf *b, const char *from, const char *to)
{
	size_t head = 0, tail = 0, nf = strlen(from), nt = strlen(to);

	for (size_t i = 0; from[i] && from[i] == to[i]; i++)
		if (from[i] == '/')
			head = i + 1;
	/* The slash that ends the common beginning may begin the common end as well. */
	for (size_t i = 1; i <= nf && i <= nt && from[nf - i] == to[nt - i]; i++)
		if (from[nf - i] == '/' && nf - i + 1 >= head && nt - i + 1 >= head)
			tail = i;
	if (head + tail > nf || head + tail > nt) {
		size_t min = nf < nt ? nf : nt;

		tail = min > head ? min - head : 0;
		while (tail && from[nf - tail] != '/')
			tail--;
	}
	if (!head && !tail)
		base_buf_printf(b, "%s => %s", from, to);
	else
		base_buf_printf(b, "%.*s{%.*s => %.*s}%s", (int)head, from, (int)(nf - head - tail), from + head,
		                (int)(nt - head - tail), to + head, from + nf - tail);
}

static char *row_name(const struct diff_item *it)
{
	mode_t mode = diff_main_side(it)->st.st_mode;
	const struct diff_entry *e = it->e;
	struct base_buf b = {0}, from = {0}, to = {0};

	if (e->renamed || e->copied) {
		diff_name(&from, "", e->old, mode);
		diff_name(&to, "", e->new, mode);
		if (from.err || to.err)
			b.err = -ENOMEM;
		else if (from.p[0] == '"' || to.p[0] == '"')
			base_buf_printf(&b, "%s => %s", from.p, to.p);
		else
			put_move(&b, (char *)from.p, (char *)to.p);
		base_buf_free(&from);
		base_buf_free(&to);
	} else {
		diff_name(&b, "", e->new ? e->new : e->old, mode);
	}
	if (!b.err)
		return (char *)b.p;
	base_buf_free(&b);
	return NULL;
}

static void word(void *arg, const char *line)
{
	struct table *t = arg;

	base_buf_printf(&t->words, "%s%s", t->words.n ? ", " : "", line);
}

static void properties(struct table *t)
{
	const struct diff_item *it = t->it;
	char line[64];

	if (it->type)
		snprintf(line, sizeof(line), "%s -> %s", diff_kind(it->a.st.st_mode), diff_kind(it->b.st.st_mode));
	else if (it->mode)
		snprintf(line, sizeof(line), "mode %04o -> %04o", it->a.st.st_mode & 07777, it->b.st.st_mode & 07777);
	if (it->type || it->mode)
		word(t, line);
	diff_properties(it, word, t);
}

/* What git's --summary tells, and the properties; the row has no room for it. */
static void note(struct table *t, const char *name)
{
	const struct diff_side *s = diff_main_side(t->it);
	char letter = diff_letter(t->it);
	mode_t mode = S_ISLNK(s->st.st_mode) ? S_IFLNK : s->st.st_mode;
	bool made = letter == 'A' || letter == 'D';

	if (made)
		base_buf_printf(&t->notes, " %s mode %06o %s", letter == 'A' ? "create" : "delete", mode, name);
	else if (letter == 'C' || t->words.n)
		base_buf_printf(&t->notes, " %s %s",
		                letter == 'C'   ? "copy"
		                : letter == 'R' ? "rename"
		                                : "change",
		                name);
	else
		return;
	base_buf_printf(&t->notes, "%s%s\n", t->words.n ? ": " : "", t->words.n ? (char *)t->words.p : "");
}

static char *size_text(const struct diff_item *it, const char *word_of)
{
	char *text = NULL;

	if (asprintf(&text, "%s %lld -> %lld bytes", word_of, it->a.there ? (long long)it->a.st.st_size : 0,
	             it->b.there ? (long long)it->b.st.st_size : 0) < 0)
		return NULL;
	return text;
}

static char *kind_text(const struct table *t, char letter)
{
	const char *kind = diff_kind(diff_main_side(t->it)->st.st_mode);
	char *text = NULL;

	if (asprintf(&text, "%s%s%s%s%s",
	             letter == 'A'   ? "new "
	             : letter == 'D' ? "deleted "
	                             : "",
	             kind, letter == 'R' ? " moved" : "", t->words.n ? ", " : "",
	             t->words.n ? (char *)t->words.p : "") < 0)
		return NULL;
	return text;
}

/* What stands to the right of the name, when it is no graph; the rest of what is to be said goes below the table. */
static int fill(struct diff *d, struct table *t, struct row *row)
{
	const struct diff_item *it = t->it;
	const struct diff_side *s = diff_main_side(it);
	bool plain = S_ISREG(s->st.st_mode) || S_ISLNK(s->st.st_mode), graph = false;
	char letter = diff_letter(it);
	int r = 0;

	properties(t);
	switch (it->contents) {
	case DIFF_TEXT:
		r = diff_text(d, NULL, it->a.there ? &it->a : NULL, it->b.there ? &it->b : NULL, &row->counts);
		graph = true;
		break;
	case DIFF_BINARY:
		row->text = size_text(it, "Bin");
		break;
	case DIFF_LARGE:
		row->text = size_text(it, "Large");
		break;
	case DIFF_UNREADABLE:
		row->text = strdup("unreadable");
		diff_unreadable(d, it);
		break;
	case DIFF_SAME:
		if (plain && letter != 'P')
			graph = true; /* 0 */
		else if (letter == 'P')
			row->text = strdup(t->words.n ? (char *)t->words.p : "properties");
		else
			row->text = kind_text(t, letter);
		break;
	}
	if (!r && !graph && !row->text)
		r = -ENOMEM;
	if (!r && plain && letter != 'P')
		note(t, row->name);
	row->directory = S_ISDIR(s->st.st_mode);
	return r ? r : t->notes.err;
}

static int add(struct diff *d, struct table *t, const struct diff_item *it)
{
	struct row *row;
	int r;

	if (t->n == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 64;
		struct row *v = reallocarray(t->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		t->v = v;
		t->cap = cap;
	}
	row = &t->v[t->n];
	*row = (struct row){.name = row_name(it)};
	if (!row->name)
		return -ENOMEM;
	t->n++;
	t->it = it;
	r = fill(d, t, row);
	base_buf_free(&t->words);
	t->words = (struct base_buf){0};
	return r;
}

/* ---- drawing ---- */

struct measures {
	size_t name, number, graph;
	uint64_t most;
};

static void measure(const struct diff *d, const struct table *t, struct measures *m)
{
	size_t width = d->out.width;
	char digits[32];

	*m = (struct measures){.number = 1};
	for (size_t i = 0; i < t->n; i++) {
		const struct row *row = &t->v[i];
		size_t n = columns(row->name);

		m->name = n > m->name ? n : m->name;
		if (row->text)
			continue;
		if (row->counts.plus + row->counts.minus > m->most)
			m->most = row->counts.plus + row->counts.minus;
	}
	m->number = (size_t)snprintf(digits, sizeof(digits), "%llu", (unsigned long long)m->most);
	/* " NAME | NUMBER GRAPH": of what is left to both, names get 5/8 */
	width = width > m->number + 6 ? width - m->number - 6 : 1;
	m->graph = m->most < width ? (size_t)m->most : width;
	if (m->name + m->graph > width) {
		size_t least = width * 3 / 8;

		if (m->graph > least)
			m->graph = m->name < width - least ? width - m->name : least;
		if (m->name > width - m->graph)
			m->name = width - m->graph;
	}
}

/* The end of a name that is too long, from a slash on if that is possible. */
static void draw_name(const struct diff *d, const char *name, size_t width)
{
	size_t n = columns(name);

	if (n > width && width > 3) {
		const char *slash;

		for (; n > width - 3; name++)
			n -= ((unsigned char)name[1] & 0xc0) != 0x80;
		while (((unsigned char)*name & 0xc0) == 0x80)
			name++;
		slash = strchr(name, '/');
		name = slash && slash[1] ? slash : name;
		n = columns(name);
		diff_print(&d->out, DIFF_PLAIN, " ...%s", name);
		n += 3;
	} else {
		diff_print(&d->out, DIFF_PLAIN, " %s", name);
	}
	printf("%*s | ", n < width ? (int)(width - n) : 0, "");
}

static size_t scaled(uint64_t n, const struct measures *m)
{
	if (!n || m->most <= m->graph)
		return (size_t)n;
	return 1 + (size_t)((double)n * (double)(m->graph > 2 ? m->graph - 2 : 0) / (double)m->most);
}

static void bar(const struct diff *d, enum diff_colour c, char sign, size_t n)
{
	char text[64];

	memset(text, sign, sizeof(text));
	for (size_t part; n; n -= part) {
		part = n < sizeof(text) ? n : sizeof(text);
		diff_put(&d->out, c, text, part);
	}
}

static void draw(const struct diff *d, const struct row *row, const struct measures *m)
{
	draw_name(d, row->name, m->name);
	if (row->text) {
		diff_line(&d->out, DIFF_PLAIN, "%s", row->text);
		return;
	}
	printf("%*llu", (int)m->number, (unsigned long long)(row->counts.plus + row->counts.minus));
	if (row->counts.plus + row->counts.minus)
		putchar(' ');
	bar(d, DIFF_NEW, '+', scaled(row->counts.plus, m));
	bar(d, DIFF_OLD, '-', scaled(row->counts.minus, m));
	diff_end();
}

static void put_count(const char *before, uint64_t n, const char *what, const char *more)
{
	printf("%s%llu %s%s", before, (unsigned long long)n, what, n == 1 ? "" : more);
}

static void totals(const struct diff *d, struct table *t)
{
	struct diff_counts sum = {0};
	uint64_t directories = 0;

	for (size_t i = 0; i < t->n; i++) {
		sum.plus += t->v[i].counts.plus;
		sum.minus += t->v[i].counts.minus;
		directories += t->v[i].directory;
	}
	if (t->n > directories || !directories)
		put_count(" ", t->n - directories, "file", "s");
	if (directories)
		put_count(t->n > directories ? ", " : " ", directories, "director", "");
	if (directories)
		fputs(directories == 1 ? "y" : "ies", stdout);
	fputs(" changed", stdout);
	if (sum.plus)
		put_count(", ", sum.plus, "insertion", "s");
	if (sum.plus)
		fputs("(+)", stdout);
	if (sum.minus)
		put_count(", ", sum.minus, "deletion", "s");
	if (sum.minus)
		fputs("(-)", stdout);
	diff_end();
	for (char *save, *line = t->notes.n ? strtok_r((char *)t->notes.p, "\n", &save) : NULL; line;
	     line = strtok_r(NULL, "\n", &save))
		diff_line(&d->out, DIFF_PLAIN, "%s", line);
}

int diff_show_stat(struct diff *d, const struct diff_list *list, bool *differs)
{
	struct table t = {0};
	struct measures m;
	struct diff_item it;
	size_t i = 0;
	int r;

	while ((r = diff_next(d, list, &i, &it)) > 0) {
		r = add(d, &t, &it);
		diff_item_free(&it);
		if (r)
			break;
	}
	if (!r && t.n) {
		*differs = true;
		measure(d, &t, &m);
		for (i = 0; i < t.n && !diff_out_over(); i++)
			draw(d, &t.v[i], &m);
		totals(d, &t);
	}
	for (i = 0; i < t.n; i++) {
		free(t.v[i].name);
		free(t.v[i].text);
	}
	free(t.v);
	base_buf_free(&t.notes);
	return r;
}
