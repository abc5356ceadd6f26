/*
 * rec_codec.c - the bytes of each record type's payload: little-endian, no padding (SPEC.md, "Record payloads").
 *
 * One test per type says what makes sense; encoders refuse (-EINVAL) what decoders refuse (-EUCLEAN), so that nothing
 * is ever logged that recovery could not read.
 */
#include "txn/rec.h"

#include "txn/rec_bytes.h"
#include "txn/rec_impl.h"

#include <string.h>

#define NAME_LIMIT 255u
#define HINT_LIMIT 65536u
#define TARGET_LIMIT 4095u
#define XATTR_LIMIT 65536u /* XATTR_SIZE_MAX in <linux/limits.h> */
#define MODE_BITS (S_IFMT | 07777u)
#define ATTR_MASK (STORE_SET_MODE | STORE_SET_UID | STORE_SET_GID | STORE_SET_ATIME | STORE_SET_MTIME)

#define FLAG_CREATED 0x1u
#define FLAG_STOLEN 0x1u
#define FLAG_SHUTDOWN 0x1u

/* What an encoder says of a record that does not make sense. */
static bool refuse(struct base_buf *b, bool valid)
{
	if (!valid && !b->err)
		b->err = -EINVAL;
	return !valid;
}

/* Everything was there, nothing is left, and it makes sense. */
static int verdict(const struct reader *r, bool valid)
{
	return r->bad || r->left || !valid ? -EUCLEAN : 0;
}

/* ---- what makes sense ---- */

static bool valid_time(const struct timespec *t)
{
	return t->tv_nsec >= 0 && t->tv_nsec < 1000000000;
}

static bool valid_stamp(const struct txn_stamp *s)
{
	return !(s->mode & ~MODE_BITS) && valid_time(&s->mtime) && valid_time(&s->ctime);
}

static bool valid_string(const char *s, size_t min, size_t max)
{
	size_t n = s ? strlen(s) : 0;

	return s && n >= min && n <= max;
}

static bool valid_name(const char *s)
{
	return valid_string(s, 1, NAME_LIMIT) && !strchr(s, '/') && strcmp(s, ".") != 0 && strcmp(s, "..") != 0;
}

/* From the root and never above it. */
static bool valid_hint(const char *s)
{
	if (!valid_string(s, 0, HINT_LIMIT) || *s == '/')
		return false;
	for (; s; s = strchr(s, '/')) {
		s += *s == '/';
		if (s[0] == '.' && s[1] == '.' && (s[2] == '/' || !s[2]))
			return false;
	}
	return true;
}

static bool valid_kind(uint32_t mode)
{
	uint32_t k = mode & S_IFMT;

	return k == S_IFREG || k == S_IFDIR || k == S_IFLNK || k == S_IFIFO || k == S_IFSOCK || k == S_IFCHR ||
	       k == S_IFBLK;
}

static bool valid_range(uint64_t off, uint64_t end)
{
	return off <= end && off <= INT64_MAX && (end <= INT64_MAX || end == TXN_EXTENT_END);
}

/* ---- BEGIN, ABORT, END ---- */

void txn_encode_empty(const struct txn_rec *rec, struct base_buf *head)
{
	(void)rec;
	(void)head;
}

int txn_decode_empty(const void *payload, size_t len, struct txn_rec *rec)
{
	(void)payload;
	(void)rec;
	return len ? -EUCLEAN : 0;
}

/* ---- OBJECT ---- */

static bool valid_object(const struct txn_rec_object *o)
{
	return o->oid && valid_kind(o->mode) && !(o->mode & ~MODE_BITS) && o->id.len <= STORE_ID_MAX &&
	       valid_hint(o->hint) && valid_string(o->target, 0, TARGET_LIMIT);
}

void txn_encode_object(const struct txn_rec *rec, struct base_buf *head)
{
	struct txn_rec_object o = rec->u.object;

	/* Only a hint: one that is no path from the root is left out, and the object is then found without it. */
	if (!valid_hint(o.hint))
		o.hint = "";
	if (!o.target)
		o.target = "";
	if (refuse(head, valid_object(&o)))
		return;
	put_u64(head, o.oid);
	put_u64(head, o.ino);
	put_u64(head, o.rdev);
	put_u32(head, o.mode);
	put_u32(head, o.uid);
	put_u32(head, o.gid);
	put_u32(head, o.created ? FLAG_CREATED : 0);
	put_id(head, &o.id);
	put_string(head, o.target);
	put_u32(head, (uint32_t)strlen(o.hint));
	base_buf_put(head, o.hint, strlen(o.hint) + 1);
}

int txn_decode_object(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};
	struct txn_rec_object *o = &rec->u.object;

	o->oid = get_u64(&r);
	o->ino = get_u64(&r);
	o->rdev = get_u64(&r);
	o->mode = get_u32(&r);
	o->uid = get_u32(&r);
	o->gid = get_u32(&r);
	o->created = get_flag(&r, FLAG_CREATED);
	get_id(&r, &o->id);
	o->target = get_string(&r);
	o->hint = get_chars(&r, get_u32(&r));
	return verdict(&r, valid_object(o));
}

/* ---- WRITE ---- */

static bool valid_write(const struct txn_rec_write *w)
{
	uint64_t end;

	if (!w->oid || w->off > INT64_MAX || w->size_before > INT64_MAX || w->size_after > INT64_MAX)
		return false;
	end = w->off + w->len;
	return end <= INT64_MAX && w->old_len <= w->len && (!w->len || end <= w->size_after) &&
	       valid_stamp(&w->before) && valid_stamp(&w->after);
}

void txn_encode_write(const struct txn_rec *rec, struct base_buf *head)
{
	const struct txn_rec_write *w = &rec->u.write;

	if (refuse(head, valid_write(w)))
		return;
	put_u64(head, w->oid);
	put_u64(head, w->off);
	put_u64(head, w->size_before);
	put_u64(head, w->size_after);
	put_stamp(head, &w->before);
	put_stamp(head, &w->after);
	put_u32(head, w->len);
	put_u32(head, w->old_len);
	put_u32(head, w->stolen ? FLAG_STOLEN : 0);
}

int txn_decode_write(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};
	struct txn_rec_write *w = &rec->u.write;

	w->oid = get_u64(&r);
	w->off = get_u64(&r);
	w->size_before = get_u64(&r);
	w->size_after = get_u64(&r);
	w->before = get_stamp(&r);
	w->after = get_stamp(&r);
	w->len = get_u32(&r);
	w->old_len = get_u32(&r);
	w->stolen = get_flag(&r, FLAG_STOLEN);
	w->old_data = get_bytes(&r, w->old_len);
	w->new_data = get_bytes(&r, w->stolen ? 0 : w->len);
	return verdict(&r, valid_write(w));
}

/* ---- SIZE ---- */

static void read_extent(struct reader *r, struct txn_extent *e)
{
	e->off = get_u64(r);
	e->len = get_u64(r);
	e->pos = get_u64(r);
	e->where = get_u32(r);
	e->stolen = get_flag(r, FLAG_STOLEN);
}

void txn_rec_size_extent(const struct txn_rec_size *s, uint32_t i, struct txn_extent *e)
{
	struct reader r = {.left = TXN_SIZE_EXTENT};

	if (!s->extent_data) { /* built here, not decoded */
		*e = s->list[i];
		return;
	}
	r.p = (const uint8_t *)s->extent_data + (size_t)i * TXN_SIZE_EXTENT;
	read_extent(&r, e);
}

/* Inside the zeroed range, in order, without overlap. at: end of the one before. */
static bool valid_extent(const struct txn_extent *e, uint64_t at, uint64_t zero_end)
{
	uint64_t end, last;

	if (e->off < at || !e->len || base_add_u64(e->off, e->len, &end) || end > zero_end)
		return false;
	if (e->where == TXN_ZERO)
		return valid_range(e->off, end) && !e->pos;
	return e->where == TXN_IN_LOG && end <= INT64_MAX && !base_add_u64(e->pos, e->len, &last);
}

static bool valid_size(const struct txn_rec_size *s)
{
	uint64_t at = s->zero_off;

	if (!s->oid || s->size_before > INT64_MAX || s->size_after > INT64_MAX ||
	    !valid_range(s->zero_off, s->zero_end) || !valid_stamp(&s->before) || !valid_stamp(&s->after))
		return false;
	for (uint32_t i = 0; i < s->extents; i++) {
		struct txn_extent e;

		txn_rec_size_extent(s, i, &e);
		if (!valid_extent(&e, at, s->zero_end))
			return false;
		at = e.off + e.len;
	}
	return true;
}

void txn_encode_size(const struct txn_rec *rec, struct base_buf *head)
{
	const struct txn_rec_size *s = &rec->u.size;

	if (refuse(head, valid_size(s)))
		return;
	put_u64(head, s->oid);
	put_u64(head, s->size_before);
	put_u64(head, s->size_after);
	put_u64(head, s->zero_off);
	put_u64(head, s->zero_end);
	put_stamp(head, &s->before);
	put_stamp(head, &s->after);
	put_u32(head, s->extents);
	for (uint32_t i = 0; i < s->extents; i++) {
		struct txn_extent e;

		txn_rec_size_extent(s, i, &e);
		put_u64(head, e.off);
		put_u64(head, e.len);
		put_u64(head, e.pos);
		put_u32(head, e.where);
		put_u32(head, e.stolen ? FLAG_STOLEN : 0);
	}
}

int txn_decode_size(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};
	struct txn_rec_size *s = &rec->u.size;
	struct reader each;

	s->oid = get_u64(&r);
	s->size_before = get_u64(&r);
	s->size_after = get_u64(&r);
	s->zero_off = get_u64(&r);
	s->zero_end = get_u64(&r);
	s->before = get_stamp(&r);
	s->after = get_stamp(&r);
	s->extents = get_u32(&r);
	if (r.bad || r.left / TXN_SIZE_EXTENT < s->extents)
		return -EUCLEAN;
	s->extent_data = get_bytes(&r, (size_t)s->extents * TXN_SIZE_EXTENT);
	each = (struct reader){.p = s->extent_data, .left = (size_t)s->extents * TXN_SIZE_EXTENT};
	while (each.left) { /* for the flags' unknown bits, which valid_size cannot see */
		struct txn_extent e;

		read_extent(&each, &e);
		if (each.bad)
			return -EUCLEAN;
	}
	return verdict(&r, valid_size(s));
}

/* ---- ATTR ---- */

static void put_attrs(struct base_buf *b, const struct txn_attrs *a)
{
	put_u32(b, a->mode);
	put_u32(b, a->uid);
	put_u32(b, a->gid);
	put_time(b, &a->atime);
	put_time(b, &a->mtime);
	put_time(b, &a->ctime);
}

static struct txn_attrs get_attrs(struct reader *r)
{
	struct txn_attrs a;

	a.mode = get_u32(r);
	a.uid = get_u32(r);
	a.gid = get_u32(r);
	a.atime = get_time(r);
	a.mtime = get_time(r);
	a.ctime = get_time(r);
	return a;
}

static bool valid_attrs(const struct txn_attrs *a)
{
	return !(a->mode & ~MODE_BITS) && valid_time(&a->atime) && valid_time(&a->mtime) && valid_time(&a->ctime);
}

static bool valid_attr(const struct txn_rec_attr *a)
{
	return a->oid && !(a->mask & ~ATTR_MASK) && valid_attrs(&a->before) && valid_attrs(&a->after);
}

void txn_encode_attr(const struct txn_rec *rec, struct base_buf *head)
{
	const struct txn_rec_attr *a = &rec->u.attr;

	if (refuse(head, valid_attr(a)))
		return;
	put_u64(head, a->oid);
	put_u32(head, a->mask);
	put_attrs(head, &a->before);
	put_attrs(head, &a->after);
}

int txn_decode_attr(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};
	struct txn_rec_attr *a = &rec->u.attr;

	a->oid = get_u64(&r);
	a->mask = get_u32(&r);
	a->before = get_attrs(&r);
	a->after = get_attrs(&r);
	return verdict(&r, valid_attr(a));
}

/* ---- XATTR ---- */

static uint32_t xattr_bytes(uint32_t len)
{
	return len == TXN_XATTR_ABSENT ? 0 : len;
}

static bool valid_xattr(const struct txn_rec_xattr *x)
{
	return x->oid && valid_time(&x->ctime_before) && valid_time(&x->ctime_after) &&
	       valid_string(x->name, 1, NAME_LIMIT) && xattr_bytes(x->old_len) <= XATTR_LIMIT &&
	       xattr_bytes(x->new_len) <= XATTR_LIMIT;
}

void txn_encode_xattr(const struct txn_rec *rec, struct base_buf *head)
{
	const struct txn_rec_xattr *x = &rec->u.xattr;

	if (refuse(head, valid_xattr(x)))
		return;
	put_u64(head, x->oid);
	put_time(head, &x->ctime_before);
	put_time(head, &x->ctime_after);
	put_u32(head, x->old_len);
	put_u32(head, x->new_len);
	put_string(head, x->name);
	base_buf_put(head, x->old_value, xattr_bytes(x->old_len));
	base_buf_put(head, x->new_value, xattr_bytes(x->new_len));
}

int txn_decode_xattr(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};
	struct txn_rec_xattr *x = &rec->u.xattr;

	x->oid = get_u64(&r);
	x->ctime_before = get_time(&r);
	x->ctime_after = get_time(&r);
	x->old_len = get_u32(&r);
	x->new_len = get_u32(&r);
	x->name = get_string(&r);
	x->old_value = get_bytes(&r, xattr_bytes(x->old_len));
	x->new_value = get_bytes(&r, xattr_bytes(x->new_len));
	return verdict(&r, valid_xattr(x));
}

/* ---- NAME ---- */

static bool valid_names(const struct txn_rec_name *n)
{
	if (n->count < 1 || n->count > ARRAY_LEN(n->op) || !valid_time(&n->time))
		return false;
	for (uint32_t i = 0; i < n->count; i++)
		if (!n->op[i].dir || !valid_name(n->op[i].name) || !valid_time(&n->op[i].dir_time))
			return false;
	return true;
}

void txn_encode_name(const struct txn_rec *rec, struct base_buf *head)
{
	const struct txn_rec_name *n = &rec->u.name;

	if (refuse(head, valid_names(n)))
		return;
	put_time(head, &n->time);
	put_u32(head, n->count);
	for (uint32_t i = 0; i < n->count; i++) {
		put_u64(head, n->op[i].dir);
		put_u64(head, n->op[i].before);
		put_u64(head, n->op[i].after);
		put_time(head, &n->op[i].dir_time);
		put_string(head, n->op[i].name);
	}
}

int txn_decode_name(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};
	struct txn_rec_name *n = &rec->u.name;

	n->time = get_time(&r);
	n->count = get_u32(&r);
	for (uint32_t i = 0; i < n->count && i < ARRAY_LEN(n->op); i++) {
		n->op[i].dir = get_u64(&r);
		n->op[i].before = get_u64(&r);
		n->op[i].after = get_u64(&r);
		n->op[i].dir_time = get_time(&r);
		n->op[i].name = get_string(&r);
	}
	return verdict(&r, valid_names(n));
}

/* ---- SAVEPOINT, PREPARE ---- */

void txn_encode_savepoint(const struct txn_rec *rec, struct base_buf *head)
{
	if (!refuse(head, valid_string(rec->u.savepoint.name, 1, NAME_LIMIT)))
		put_string(head, rec->u.savepoint.name);
}

int txn_decode_savepoint(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};

	rec->u.savepoint.name = get_string(&r);
	return verdict(&r, valid_string(rec->u.savepoint.name, 1, NAME_LIMIT));
}

static bool valid_prepare(const struct txn_rec_prepare *p)
{
	return valid_time(&p->time) && valid_string(p->gid, 1, TXN_GID_MAX);
}

void txn_encode_prepare(const struct txn_rec *rec, struct base_buf *head)
{
	const struct txn_rec_prepare *p = &rec->u.prepare;

	if (refuse(head, valid_prepare(p)))
		return;
	put_u64(head, p->first);
	put_time(head, &p->time);
	put_u64(head, p->need);
	put_u32(head, p->uid);
	put_string(head, p->gid);
}

int txn_decode_prepare(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};
	struct txn_rec_prepare *p = &rec->u.prepare;

	p->first = get_u64(&r);
	p->time = get_time(&r);
	p->need = get_u64(&r);
	p->uid = get_u32(&r);
	p->gid = get_string(&r);
	return verdict(&r, valid_prepare(p));
}

/* ---- CLR, COMMIT, CHECKPOINT, BIND ---- */

void txn_encode_clr(const struct txn_rec *rec, struct base_buf *head)
{
	if (refuse(head, rec->u.clr.next <= rec->u.clr.undone))
		return;
	put_u64(head, rec->u.clr.undone);
	put_u64(head, rec->u.clr.next);
}

int txn_decode_clr(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};

	rec->u.clr.undone = get_u64(&r);
	rec->u.clr.next = get_u64(&r);
	return verdict(&r, rec->u.clr.next <= rec->u.clr.undone);
}

void txn_encode_commit(const struct txn_rec *rec, struct base_buf *head)
{
	if (refuse(head, valid_time(&rec->u.commit.time)))
		return;
	put_u64(head, rec->u.commit.first);
	put_time(head, &rec->u.commit.time);
}

int txn_decode_commit(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};

	rec->u.commit.first = get_u64(&r);
	rec->u.commit.time = get_time(&r);
	return verdict(&r, valid_time(&rec->u.commit.time));
}

void txn_encode_checkpoint(const struct txn_rec *rec, struct base_buf *head)
{
	const struct txn_rec_checkpoint *c = &rec->u.checkpoint;

	put_u64(head, c->clean);
	put_u64(head, c->scan);
	put_u64(head, c->next_oid);
	put_u64(head, c->next_txid);
	put_u32(head, c->shutdown ? FLAG_SHUTDOWN : 0);
}

int txn_decode_checkpoint(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};
	struct txn_rec_checkpoint *c = &rec->u.checkpoint;

	c->clean = get_u64(&r);
	c->scan = get_u64(&r);
	c->next_oid = get_u64(&r);
	c->next_txid = get_u64(&r);
	c->shutdown = get_flag(&r, FLAG_SHUTDOWN);
	return verdict(&r, true);
}

void txn_encode_bind(const struct txn_rec *rec, struct base_buf *head)
{
	const struct txn_rec_bind *b = &rec->u.bind;

	if (refuse(head, b->oid && b->id.len <= STORE_ID_MAX))
		return;
	put_u64(head, b->oid);
	put_id(head, &b->id);
}

int txn_decode_bind(const void *payload, size_t len, struct txn_rec *rec)
{
	struct reader r = {.p = payload, .left = len};
	struct txn_rec_bind *b = &rec->u.bind;

	b->oid = get_u64(&r);
	get_id(&r, &b->id);
	return verdict(&r, b->oid);
}
