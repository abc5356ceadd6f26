/* xa_id.c - XIDs as GIDs, and the open string. */
#include "tools/lib/xa_private.h"

#include <stdio.h>
#include <string.h>

static const char prefix[] = "xa1.";
static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* Base64url without padding; returns behind it. */
static char *encode(char *out, const unsigned char *data, size_t n)
{
	unsigned bits = 0, have = 0;

	for (size_t i = 0; i < n; i++) {
		bits = bits << 8 | data[i];
		for (have += 8; have >= 6; have -= 6)
			*out++ = digits[bits >> (have - 6) & 63];
		bits &= 63;
	}
	if (have)
		*out++ = digits[bits << (6 - have) & 63];
	return out;
}

/* Up to `end`, which ends the text; 1 to max bytes. Returns behind it; NULL: no text that encode makes. */
static const char *decode(const char *in, char end, char *data, size_t max, long *length)
{
	unsigned bits = 0, have = 0;
	const char *digit;
	size_t n = 0;

	for (; *in && *in != end; in++) {
		digit = strchr(digits, *in);
		if (!digit)
			return NULL;
		bits = bits << 6 | (unsigned)(digit - digits);
		have += 6;
		if (have >= 8) {
			have -= 8;
			if (n == max)
				return NULL;
			data[n++] = (char)(bits >> have);
		}
		bits &= (1u << have) - 1;
	}
	*length = (long)n;
	/* Left-over bits are zero and fewer than a digit's: one text for one XID. */
	return n && *in == end && !bits && have < 6 ? in + (end != '\0') : NULL;
}

int txnfs_xa_gid(const XID *xid, char gid[TXNFS_XA_GID_MAX + 1])
{
	char *p = gid;

	*gid = '\0';
	if (!xid || xid->formatID == -1)
		return txnfs_lib_fail(-EINVAL, "the XID is null");
	if (xid->gtrid_length < 1 || xid->gtrid_length > MAXGTRIDSIZE || xid->bqual_length < 1 ||
	    xid->bqual_length > MAXBQUALSIZE)
		return txnfs_lib_fail(-EINVAL, "the XID's lengths %ld and %ld are not from 1 to 64", xid->gtrid_length,
		                      xid->bqual_length);
	p += sprintf(p, "%s%lx.", prefix, (unsigned long)xid->formatID);
	p = encode(p, (const unsigned char *)xid->data, (size_t)xid->gtrid_length);
	*p++ = '.';
	p = encode(p, (const unsigned char *)xid->data + xid->gtrid_length, (size_t)xid->bqual_length);
	*p = '\0';
	return 0;
}

int txnfs_xa_xid(const char *gid, XID *xid)
{
	unsigned long format = 0;
	const char *p = gid;
	char again[TXNFS_XA_GID_MAX + 1];
	size_t n;

	memset(xid, 0, sizeof(*xid));
	xid->formatID = -1;
	if (strncmp(p, prefix, sizeof(prefix) - 1))
		return txnfs_lib_fail(-EINVAL, "not the GID of an XID");
	p += sizeof(prefix) - 1;
	for (n = 0; n < 2 * sizeof(format) && ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f')); n++, p++)
		format = format << 4 | (unsigned)(*p <= '9' ? *p - '0' : *p - 'a' + 10);
	p = n && *p == '.' ? p + 1 : NULL;
	if (p)
		p = decode(p, '.', xid->data, MAXGTRIDSIZE, &xid->gtrid_length);
	if (p)
		p = decode(p, '\0', xid->data + xid->gtrid_length, MAXBQUALSIZE, &xid->bqual_length);
	xid->formatID = (long)format;
	/* The format id may have zeros before it, or be that of the null XID. */
	if (!p || txnfs_xa_gid(xid, again) || strcmp(gid, again)) {
		memset(xid, 0, sizeof(*xid));
		xid->formatID = -1;
		return txnfs_lib_fail(-EINVAL, "not the GID of an XID");
	}
	return 0;
}

/* ---- the open string ---- */

/* Up to the next comma, without its backslashes; returns behind the comma. */
static const char *word(const char *p, char *out)
{
	while (*p && *p != ',') {
		if (*p == '\\' && p[1])
			p++;
		*out++ = *p++;
	}
	*out = '\0';
	return *p ? p + 1 : p;
}

static int timeout(const char *value, int *ms)
{
	long whole = 0, part = 0;
	const char *p = value;
	int scale = 1000;

	for (; *p >= '0' && *p <= '9' && whole < 2000000; p++)
		whole = whole * 10 + (*p - '0');
	if (p != value && *p == '.') {
		for (p++; *p >= '0' && *p <= '9'; p++) {
			scale /= 10;
			part += (*p - '0') * scale;
		}
	}
	if (p == value || *p || whole > 2000000)
		return -EINVAL;
	*ms = (int)(whole * 1000 + part);
	/* What is not zero waits for something. */
	if (!*ms)
		*ms = strpbrk(value, "123456789") ? 1 : TXNFS_NO_WAIT;
	return 0;
}

static int isolation(const char *value, enum txnfs_isolation *out)
{
	static const struct {
		const char *name;
		enum txnfs_isolation level;
	} levels[] = {
		{"read-committed", TXNFS_READ_COMMITTED},
		{"serializable", TXNFS_SERIALIZABLE},
		{"snapshot", TXNFS_SNAPSHOT},
	};

	for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
		if (!strcmp(value, levels[i].name)) {
			*out = levels[i].level;
			return 0;
		}
	}
	return -EINVAL;
}

static int option(char *text, struct xa_info *out)
{
	char *value = strchr(text, '=');
	int r = 0;

	if (!value)
		return txnfs_lib_fail(-EINVAL, "open string: \"%s\" is not OPTION=VALUE", text);
	*value++ = '\0';
	if (!strcmp(text, "control")) {
		if (!*value || strchr(value, '/') || !strcmp(value, ".") || !strcmp(value, ".."))
			r = -EINVAL;
		else
			memcpy(out->control, value, strlen(value) + 1);
	} else if (!strcmp(text, "isolation")) {
		r = isolation(value, &out->options.isolation);
	} else if (!strcmp(text, "timeout")) {
		r = timeout(value, &out->options.timeout_ms);
	} else if (!strcmp(text, "owner")) {
		out->owned = !strcmp(value, "process");
		r = out->owned || !strcmp(value, "none") ? 0 : -EINVAL;
	} else {
		return txnfs_lib_fail(-EINVAL, "open string: unknown option \"%s\": control, isolation, timeout, owner",
		                      text);
	}
	return r ? txnfs_lib_fail(r, "open string: \"%s\" cannot be the value of %s", value, text) : 0;
}

int xa_info_parse(const char *text, struct xa_info *out)
{
	char part[MAXINFOSIZE];
	int r = 0;

	*out = (struct xa_info){.owned = true};
	if (!text || strnlen(text, MAXINFOSIZE) == MAXINFOSIZE)
		return txnfs_lib_fail(-EINVAL, "the open string is %s", text ? "longer than 255 bytes" : "missing");
	text = word(text, out->point);
	if (out->point[0] != '/')
		return txnfs_lib_fail(-EINVAL, "open string: \"%s\" is not the absolute path of a mount point",
		                      out->point);
	while (!r && *text) {
		text = word(text, part);
		r = option(part, out);
	}
	return r;
}
