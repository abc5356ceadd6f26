/*
 * rec_bytes.h - little-endian fields of a payload, put one after the other into a buffer and got back with every bound
 * checked. Not for others than txn/rec_codec.c.
 */
#ifndef TXNFS_REC_BYTES_H
#define TXNFS_REC_BYTES_H

#include "base/base.h"
#include "txn/rec.h"

#include <endian.h>
#include <string.h>

/* ---- putting ---- */

static inline void put_u16(struct base_buf *b, uint16_t v)
{
	v = htole16(v);
	base_buf_put(b, &v, sizeof(v));
}

static inline void put_u32(struct base_buf *b, uint32_t v)
{
	v = htole32(v);
	base_buf_put(b, &v, sizeof(v));
}

static inline void put_u64(struct base_buf *b, uint64_t v)
{
	v = htole64(v);
	base_buf_put(b, &v, sizeof(v));
}

static inline void put_time(struct base_buf *b, const struct timespec *t)
{
	put_u64(b, (uint64_t)t->tv_sec);
	put_u32(b, (uint32_t)t->tv_nsec);
}

static inline void put_stamp(struct base_buf *b, const struct txn_stamp *s)
{
	put_u32(b, s->mode);
	put_time(b, &s->mtime);
	put_time(b, &s->ctime);
}

/* The length has been checked. */
static inline void put_string(struct base_buf *b, const char *s)
{
	size_t n = strlen(s);

	put_u16(b, (uint16_t)n);
	base_buf_put(b, s, n + 1);
}

static inline void put_id(struct base_buf *b, const struct store_id *id)
{
	put_u16(b, id->len);
	base_buf_put(b, id->bytes, id->len);
}

/* ---- getting: errors stick ---- */

struct reader {
	const uint8_t *p;
	size_t left;
	bool bad;
};

static inline const void *get_bytes(struct reader *r, size_t n)
{
	const uint8_t *p = r->p;

	if (r->bad || n > r->left) {
		r->bad = true;
		return NULL;
	}
	if (n) {
		r->p += n;
		r->left -= n;
	}
	return p;
}

static inline uint16_t get_u16(struct reader *r)
{
	const void *p = get_bytes(r, sizeof(uint16_t));
	uint16_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return le16toh(v);
}

static inline uint32_t get_u32(struct reader *r)
{
	const void *p = get_bytes(r, sizeof(uint32_t));
	uint32_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static inline uint64_t get_u64(struct reader *r)
{
	const void *p = get_bytes(r, sizeof(uint64_t));
	uint64_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

static inline struct timespec get_time(struct reader *r)
{
	struct timespec t;

	t.tv_sec = (time_t)get_u64(r);
	t.tv_nsec = get_u32(r);
	return t;
}

static inline struct txn_stamp get_stamp(struct reader *r)
{
	struct txn_stamp s;

	s.mode = get_u32(r);
	s.mtime = get_time(r);
	s.ctime = get_time(r);
	return s;
}

/* n bytes and the NUL behind them, which must be the first one. "" when bad. */
static inline const char *get_chars(struct reader *r, size_t n)
{
	const char *s = get_bytes(r, n + 1);

	if (s && !memchr(s, 0, n) && s[n] == 0)
		return s;
	r->bad = true;
	return "";
}

static inline const char *get_string(struct reader *r)
{
	return get_chars(r, get_u16(r));
}

static inline void get_id(struct reader *r, struct store_id *id)
{
	uint16_t n = get_u16(r);
	const void *p;

	if (n > STORE_ID_MAX)
		r->bad = true;
	p = get_bytes(r, n);
	if (!p)
		return;
	id->len = n;
	if (n)
		memcpy(id->bytes, p, n);
}

static inline bool get_flag(struct reader *r, uint32_t flag)
{
	uint32_t v = get_u32(r);

	if (v & ~flag)
		r->bad = true;
	return v & flag;
}

#endif
