/* diff_json.c - `txnfs diff --json`: an array of objects, written one by one. */
#include "tools/diff.h"

#include <string.h>
#include <sys/sysmacros.h>

static json_t *xattr_value(const struct diff_xattr *x)
{
	CLEANUP_FREE char *hex = NULL;
	json_t *j, *o;

	if (!x)
		return json_null();
	j = memchr(x->value, 0, x->n) ? NULL : json_stringn(x->value, x->n);
	if (j)
		return j;
	hex = malloc(x->n * 2 + 1);
	if (!hex)
		return NULL;
	for (size_t i = 0; i < x->n; i++)
		snprintf(hex + i * 2, 3, "%02x", ((const uint8_t *)x->value)[i]);
	o = json_object();
	json_object_set_new(o, "hex", json_stringn(hex, x->n * 2));
	return o;
}

/* Those that differ, each with its old and its new value. */
static json_t *xattrs(const struct diff_side *a, const struct diff_side *b)
{
	json_t *o = json_object();

	for (size_t i = 0, j = 0; i < a->n_xattrs || j < b->n_xattrs;) {
		const struct diff_xattr *x = i < a->n_xattrs ? &a->xattrs[i] : NULL;
		const struct diff_xattr *y = j < b->n_xattrs ? &b->xattrs[j] : NULL;
		int order = !x ? 1 : !y ? -1 : strcmp(x->name, y->name);
		json_t *pair;

		x = order <= 0 ? x : NULL;
		y = order >= 0 ? y : NULL;
		i += x != NULL;
		j += y != NULL;
		if (x && y && x->n == y->n && !memcmp(x->value, y->value, x->n))
			continue;
		pair = json_object();
		json_object_set_new(pair, "old", xattr_value(x));
		json_object_set_new(pair, "new", xattr_value(y));
		json_object_set_new(o, x ? x->name : y->name, pair);
	}
	return o;
}

static json_t *side(const struct diff_side *s)
{
	json_t *o;
	char mode[16], time[100];

	if (!s->there)
		return json_null();
	o = json_object();
	snprintf(mode, sizeof(mode), "%06o", s->st.st_mode);
	json_object_set_new(o, "type", json_string(diff_kind(s->st.st_mode)));
	json_object_set_new(o, "mode", json_string(mode));
	json_object_set_new(o, "uid", json_integer(s->st.st_uid));
	json_object_set_new(o, "gid", json_integer(s->st.st_gid));
	if (!S_ISDIR(s->st.st_mode))
		json_object_set_new(o, "links", json_integer((json_int_t)s->st.st_nlink));
	if (S_ISREG(s->st.st_mode))
		json_object_set_new(o, "size", json_integer(s->st.st_size));
	if (S_ISCHR(s->st.st_mode) || S_ISBLK(s->st.st_mode))
		json_object_set_new(o, "device", json_sprintf("%u:%u", major(s->st.st_rdev), minor(s->st.st_rdev)));
	diff_time(&s->st.st_mtim, time, sizeof(time));
	json_object_set_new(o, "mtime", json_string(time));
	if (s->target)
		json_object_set_new(o, "target", tool_json_bytes(s->target));
	return o;
}

static int item(struct diff *d, const struct diff_item *it, json_t **out)
{
	static const char *const contents[] = {[DIFF_SAME] = "same",
	                                       [DIFF_TEXT] = "text",
	                                       [DIFF_BINARY] = "binary",
	                                       [DIFF_LARGE] = "large",
	                                       [DIFF_UNREADABLE] = "unreadable"};
	const struct diff_entry *e = it->e;
	struct diff_counts counts = {0};
	json_t *o = json_object();
	int r = 0;

	json_object_set_new(o, "status", json_sprintf("%c", diff_letter(it)));
	json_object_set_new(o, "path", tool_json_bytes(e->new ? e->new : e->old));
	if (e->old && e->new &&strcmp(e->old, e->new))
		json_object_set_new(o, "from", tool_json_bytes(e->old));
	json_object_set_new(o, "old", side(&it->a));
	/* Of what was only renamed or removed with its directory, nothing has been read in the transaction. */
	json_object_set_new(o, "new", e->new && !it->b.there ? side(&it->a) : side(&it->b));
	json_object_set_new(o, "contents", json_string(contents[it->contents]));
	if (it->contents == DIFF_TEXT) {
		r = diff_text(d, NULL, it->a.there ? &it->a : NULL, it->b.there ? &it->b : NULL, &counts);
		json_object_set_new(o, "insertions", json_integer((json_int_t)counts.plus));
		json_object_set_new(o, "deletions", json_integer((json_int_t)counts.minus));
	}
	if (it->b.there && (it->xattrs || (!it->a.there && it->b.n_xattrs)))
		json_object_set_new(o, "xattrs", xattrs(&it->a, &it->b));
	if (it->mtime)
		json_object_set_new(o, "touched", json_true());
	if (e->elsewhere)
		json_object_set_new(o, "changed_under_other_names", json_true());
	*out = o;
	return r;
}

int diff_show_json(struct diff *d, const struct diff_list *list, bool *differs)
{
	struct diff_item it;
	bool first = true;
	size_t i = 0;
	int r;

	fputs("[", stdout);
	while ((r = diff_next(d, list, &i, &it)) > 0) {
		json_t *o = NULL;

		*differs = true;
		if (it.contents == DIFF_UNREADABLE)
			diff_unreadable(d, &it);
		r = item(d, &it, &o);
		fputs(first ? "\n" : ",\n", stdout);
		first = false;
		json_dumpf(o, stdout, JSON_ENSURE_ASCII);
		json_decref(o);
		diff_item_free(&it);
		if (r)
			break;
	}
	fputs(first ? "]\n" : "\n]\n", stdout);
	return r;
}
