/*
 * rec_describe.c - records for people: one readable text and the members of one JSON object.
 *
 * Names are bytes. In the text they are quoted by base_buf_quote. In JSON well-formed UTF-8 stays as it is, and any
 * byte that is not part of it is given as \u00XX with the byte's value.
 */
#include "txn/rec.h"

#include "txn/rec_impl.h"

#include <inttypes.h>
#include <string.h>

/* ---- text ---- */

static const char *kind_name(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "file";
	case S_IFDIR:
		return "directory";
	case S_IFLNK:
		return "symlink";
	case S_IFIFO:
		return "fifo";
	case S_IFSOCK:
		return "socket";
	case S_IFCHR:
		return "character device";
	default:
		return "block device";
	}
}

/* ISO 8601 in UTC; "@seconds" where the calendar does not reach. */
static void put_time(struct base_buf *b, const struct timespec *t)
{
	char day[64];
	struct tm tm;

	if (gmtime_r(&t->tv_sec, &tm) && strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm))
		base_buf_printf(b, "%s.%09ldZ", day, t->tv_nsec);
	else
		base_buf_printf(b, "@%lld.%09ld", (long long)t->tv_sec, t->tv_nsec);
}

static void text_time(struct base_buf *b, const char *what, const struct timespec *before, const struct timespec *after)
{
	base_buf_printf(b, " %s ", what);
	put_time(b, before);
	base_buf_printf(b, " -> ");
	put_time(b, after);
}

static void text_quoted(struct base_buf *b, const char *label, const char *s)
{
	base_buf_printf(b, "%s", label);
	base_buf_quote(b, s);
}

/* ---- JSON ---- */

/* Bytes of the UTF-8 character at s, 0 when there is none. */
static size_t utf8_length(const uint8_t *s)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	uint32_t c = s[0];
	size_t n = c < 0x80 ? 1 : (c & 0xe0) == 0xc0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : (c & 0xf8) == 0xf0 ? 4 : 0;

	if (n < 2)
		return n;
	c &= 0x7fu >> n;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3fu);
	}
	return c < least[n] || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff ? 0 : n;
}

static void json_key(struct base_buf *b, const char *key)
{
	bool first = b->n == 0 || b->p[b->n - 1] == '{' || b->p[b->n - 1] == '[';

	base_buf_printf(b, "%s\"%s\":", first ? "" : ",", key);
}

static void json_string(struct base_buf *b, const char *key, const char *s)
{
	json_key(b, key);
	base_buf_put(b, "\"", 1);
	for (const uint8_t *p = (const uint8_t *)s; *p;) {
		size_t n = utf8_length(p);

		if (n == 0 || *p < 0x20 || *p == 0x7f) {
			base_buf_printf(b, "\\u%04x", *p++);
			continue;
		}
		if (*p == '"' || *p == '\\')
			base_buf_put(b, "\\", 1);
		base_buf_put(b, p, n);
		p += n;
	}
	base_buf_put(b, "\"", 1);
}

static void json_u64(struct base_buf *b, const char *key, uint64_t v)
{
	json_key(b, key);
	base_buf_printf(b, "%" PRIu64, v);
}

static void json_bool(struct base_buf *b, const char *key, bool v)
{
	json_key(b, key);
	base_buf_printf(b, "%s", v ? "true" : "false");
}

static void json_octal(struct base_buf *b, const char *key, uint32_t mode)
{
	json_key(b, key);
	base_buf_printf(b, "\"%04o\"", mode & 07777u);
}

static void json_time(struct base_buf *b, const char *key, const struct timespec *t)
{
	json_key(b, key);
	base_buf_put(b, "\"", 1);
	put_time(b, t);
	base_buf_put(b, "\"", 1);
}

static void json_id(struct base_buf *b, const struct store_id *id)
{
	json_key(b, "id");
	base_buf_put(b, "\"", 1);
	for (unsigned i = 0; i < id->len; i++)
		base_buf_printf(b, "%02x", id->bytes[i]);
	base_buf_put(b, "\"", 1);
}

static void json_open(struct base_buf *b, const char *key, const char *bracket)
{
	json_key(b, key);
	base_buf_put(b, bracket, 1);
}

static void json_close(struct base_buf *b, const char *bracket)
{
	base_buf_put(b, bracket, 1);
}

static void json_stamp(struct base_buf *b, const char *key, const struct txn_stamp *s)
{
	json_open(b, key, "{");
	json_octal(b, "mode", s->mode);
	json_time(b, "mtime", &s->mtime);
	json_time(b, "ctime", &s->ctime);
	json_close(b, "}");
}

/* ---- types ---- */

void txn_describe_empty(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	(void)rec;
	(void)text;
	(void)json;
}

void txn_describe_object(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	const struct txn_rec_object *o = &rec->u.object;
	uint32_t kind = o->mode & S_IFMT;

	base_buf_printf(text, "object %" PRIu64 " is %s%s inode %" PRIu64, o->oid, o->created ? "new " : "",
	                kind_name(o->mode), o->ino);
	if (*o->hint)
		text_quoted(text, " path ", o->hint);
	json_u64(json, "object", o->oid);
	json_bool(json, "created", o->created);
	json_string(json, "kind", kind_name(o->mode));
	json_u64(json, "inode", o->ino);
	json_id(json, &o->id);
	json_string(json, "path", o->hint);
	if (!o->created)
		return;
	base_buf_printf(text, " mode %04o owner %u:%u", o->mode & 07777u, o->uid, o->gid);
	json_octal(json, "mode", o->mode);
	json_u64(json, "uid", o->uid);
	json_u64(json, "gid", o->gid);
	if (kind == S_IFLNK) {
		text_quoted(text, " target ", o->target);
		json_string(json, "target", o->target);
	}
	if (kind == S_IFCHR || kind == S_IFBLK) {
		base_buf_printf(text, " device %" PRIu64, o->rdev);
		json_u64(json, "rdev", o->rdev);
	}
}

void txn_describe_write(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	const struct txn_rec_write *w = &rec->u.write;

	base_buf_printf(text,
	                "object %" PRIu64 " offset %" PRIu64 " length %u (before %u) size %" PRIu64 " -> %" PRIu64 "%s",
	                w->oid, w->off, w->len, w->old_len, w->size_before, w->size_after, w->stolen ? " stolen" : "");
	json_u64(json, "object", w->oid);
	json_u64(json, "offset", w->off);
	json_u64(json, "length", w->len);
	json_u64(json, "before_length", w->old_len);
	json_u64(json, "size_before", w->size_before);
	json_u64(json, "size_after", w->size_after);
	json_stamp(json, "before", &w->before);
	json_stamp(json, "after", &w->after);
	json_bool(json, "stolen", w->stolen);
}

static void size_extents(const struct txn_rec_size *s, struct base_buf *json)
{
	json_open(json, "extents", "[");
	for (uint32_t i = 0; i < s->extents; i++) {
		struct txn_extent e;

		txn_rec_size_extent(s, i, &e);
		base_buf_printf(json, "%s{", i ? "," : "");
		json_u64(json, "offset", e.off);
		json_u64(json, "length", e.len);
		json_string(json, "where", e.where == TXN_ZERO ? "zero" : "log");
		if (e.where == TXN_IN_LOG)
			json_u64(json, "position", e.pos);
		json_bool(json, "stolen", e.stolen);
		json_close(json, "}");
	}
	json_close(json, "]");
}

void txn_describe_size(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	const struct txn_rec_size *s = &rec->u.size;

	base_buf_printf(text, "object %" PRIu64 " size %" PRIu64 " -> %" PRIu64, s->oid, s->size_before, s->size_after);
	if (s->zero_off < s->zero_end) {
		base_buf_printf(text, " zero %" PRIu64 "..", s->zero_off);
		if (s->zero_end == TXN_EXTENT_END)
			base_buf_printf(text, "end");
		else
			base_buf_printf(text, "%" PRIu64, s->zero_end);
	}
	if (s->extents)
		base_buf_printf(text, " before in %u extent%s", s->extents, s->extents == 1 ? "" : "s");
	json_u64(json, "object", s->oid);
	json_u64(json, "size_before", s->size_before);
	json_u64(json, "size_after", s->size_after);
	json_u64(json, "zero_from", s->zero_off);
	json_key(json, "zero_to");
	if (s->zero_end == TXN_EXTENT_END)
		base_buf_printf(json, "null");
	else
		base_buf_printf(json, "%" PRIu64, s->zero_end);
	json_stamp(json, "before", &s->before);
	json_stamp(json, "after", &s->after);
	size_extents(s, json);
}

static void attrs_json(struct base_buf *json, const char *key, const struct txn_attrs *a, uint32_t mask)
{
	json_open(json, key, "{");
	if (mask & STORE_SET_MODE)
		json_octal(json, "mode", a->mode);
	if (mask & STORE_SET_UID)
		json_u64(json, "uid", a->uid);
	if (mask & STORE_SET_GID)
		json_u64(json, "gid", a->gid);
	if (mask & STORE_SET_ATIME)
		json_time(json, "atime", &a->atime);
	if (mask & STORE_SET_MTIME)
		json_time(json, "mtime", &a->mtime);
	json_time(json, "ctime", &a->ctime);
	json_close(json, "}");
}

void txn_describe_attr(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	const struct txn_rec_attr *a = &rec->u.attr;

	base_buf_printf(text, "object %" PRIu64, a->oid);
	if (a->mask & STORE_SET_MODE)
		base_buf_printf(text, " mode %04o -> %04o", a->before.mode & 07777u, a->after.mode & 07777u);
	if (a->mask & STORE_SET_UID)
		base_buf_printf(text, " uid %u -> %u", a->before.uid, a->after.uid);
	if (a->mask & STORE_SET_GID)
		base_buf_printf(text, " gid %u -> %u", a->before.gid, a->after.gid);
	if (a->mask & STORE_SET_ATIME)
		text_time(text, "atime", &a->before.atime, &a->after.atime);
	if (a->mask & STORE_SET_MTIME)
		text_time(text, "mtime", &a->before.mtime, &a->after.mtime);
	text_time(text, "ctime", &a->before.ctime, &a->after.ctime);
	json_u64(json, "object", a->oid);
	attrs_json(json, "before", &a->before, a->mask);
	attrs_json(json, "after", &a->after, a->mask);
}

static void xattr_length(uint32_t len, const char *key, struct base_buf *text, struct base_buf *json)
{
	json_key(json, key);
	if (len == TXN_XATTR_ABSENT) {
		base_buf_printf(text, "absent");
		base_buf_printf(json, "null");
	} else {
		base_buf_printf(text, "%u bytes", len);
		base_buf_printf(json, "%u", len);
	}
}

void txn_describe_xattr(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	const struct txn_rec_xattr *x = &rec->u.xattr;

	base_buf_printf(text, "object %" PRIu64, x->oid);
	text_quoted(text, " name ", x->name);
	json_u64(json, "object", x->oid);
	json_string(json, "name", x->name);
	base_buf_printf(text, " ");
	xattr_length(x->old_len, "before_length", text, json);
	base_buf_printf(text, " -> ");
	xattr_length(x->new_len, "after_length", text, json);
	json_time(json, "ctime_before", &x->ctime_before);
	json_time(json, "ctime_after", &x->ctime_after);
}

void txn_describe_name(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	const struct txn_rec_name *n = &rec->u.name;

	json_time(json, "time", &n->time);
	json_open(json, "names", "[");
	for (uint32_t i = 0; i < n->count; i++) {
		const struct txn_rec_name_op *op = &n->op[i];

		base_buf_printf(text, "%sdirectory %" PRIu64, i ? "; " : "", op->dir);
		text_quoted(text, " name ", op->name);
		base_buf_printf(text, " object %" PRIu64 " -> %" PRIu64, op->before, op->after);
		base_buf_printf(json, "%s{", i ? "," : "");
		json_u64(json, "directory", op->dir);
		json_string(json, "name", op->name);
		json_u64(json, "before", op->before);
		json_u64(json, "after", op->after);
		json_close(json, "}");
	}
	json_close(json, "]");
}

void txn_describe_savepoint(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	text_quoted(text, "name ", rec->u.savepoint.name);
	json_string(json, "name", rec->u.savepoint.name);
}

void txn_describe_clr(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	base_buf_printf(text, "undone %" PRIu64 " next %" PRIu64, rec->u.clr.undone, rec->u.clr.next);
	json_u64(json, "undone", rec->u.clr.undone);
	json_u64(json, "next", rec->u.clr.next);
}

void txn_describe_prepare(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	const struct txn_rec_prepare *p = &rec->u.prepare;

	base_buf_printf(text, "first %" PRIu64 " time ", p->first);
	put_time(text, &p->time);
	base_buf_printf(text, " need %" PRIu64 " uid %" PRIu32, p->need, p->uid);
	text_quoted(text, " gid ", p->gid);
	json_u64(json, "first", p->first);
	json_time(json, "time", &p->time);
	json_u64(json, "need", p->need);
	json_u64(json, "uid", p->uid);
	json_string(json, "gid", p->gid);
}

void txn_describe_commit(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	base_buf_printf(text, "first %" PRIu64 " time ", rec->u.commit.first);
	put_time(text, &rec->u.commit.time);
	json_u64(json, "first", rec->u.commit.first);
	json_time(json, "time", &rec->u.commit.time);
}

void txn_describe_checkpoint(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	const struct txn_rec_checkpoint *c = &rec->u.checkpoint;

	base_buf_printf(text,
	                "clean %" PRIu64 " scan %" PRIu64 " next object %" PRIu64 " next transaction %" PRIu64 "%s",
	                c->clean, c->scan, c->next_oid, c->next_txid, c->shutdown ? " shutdown" : "");
	json_u64(json, "clean", c->clean);
	json_u64(json, "scan", c->scan);
	json_u64(json, "next_object", c->next_oid);
	json_u64(json, "next_transaction", c->next_txid);
	json_bool(json, "shutdown", c->shutdown);
}

void txn_describe_bind(const struct txn_rec *rec, struct base_buf *text, struct base_buf *json)
{
	const struct store_id *id = &rec->u.bind.id;

	base_buf_printf(text, "object %" PRIu64 " id ", rec->u.bind.oid);
	for (unsigned i = 0; i < id->len; i++)
		base_buf_printf(text, "%02x", id->bytes[i]);
	json_u64(json, "object", rec->u.bind.oid);
	json_id(json, id);
}
