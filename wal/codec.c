/* codec.c - the bytes of records and segment headers. SPEC.md is the reference. */
#define XXH_INLINE_ALL
#include "wal/private.h"

#include <endian.h>
#include <string.h>
#include <xxhash.h>

#define CHECKSUMMED offsetof(struct wal_disk_record, len) /* the checksum covers what follows itself */

size_t wal_record_size(size_t payload)
{
	return (size_t)base_align_up(WAL_RECORD_HEADER + payload, 8);
}

void wal_record_header(const struct wal_rec *rec, uint64_t salt, const struct iovec *payload, int iovcnt,
                       uint8_t out[WAL_RECORD_HEADER])
{
	struct wal_disk_record d = {
		.len = htole32(rec->len),
		.type = rec->type,
		.flags = rec->flags,
		.magic = htole16(WAL_RECORD_MAGIC),
		.lsn = htole64(rec->lsn),
		.txid = htole64(rec->txid),
		.prev = htole64(rec->prev),
		.durable = htole64(rec->durable),
	};
	XXH3_state_t state;

	XXH3_INITSTATE(&state);
	XXH3_64bits_reset_withSeed(&state, salt);
	XXH3_64bits_update(&state, (const uint8_t *)&d + CHECKSUMMED, sizeof(d) - CHECKSUMMED);
	for (int i = 0; i < iovcnt; i++)
		if (payload[i].iov_len)
			XXH3_64bits_update(&state, payload[i].iov_base, payload[i].iov_len);
	d.checksum = htole64(XXH3_64bits_digest(&state));
	memcpy(out, &d, sizeof(d));
}

void wal_encode(const struct wal_rec *rec, const void *payload, uint64_t salt, uint8_t *out)
{
	struct iovec iov = { (void *)(uintptr_t)payload, rec->len };

	wal_record_header(rec, salt, &iov, 1, out);
	if (rec->len)
		memcpy(out + WAL_RECORD_HEADER, payload, rec->len);
	memset(out + WAL_RECORD_HEADER + rec->len, 0, wal_record_size(rec->len) - WAL_RECORD_HEADER - rec->len);
}

bool wal_record_plausible(const uint8_t *p, size_t n, uint64_t lsn)
{
	struct wal_disk_record d;

	if (n < sizeof(d))
		return false;
	memcpy(&d, p, sizeof(d));
	return le16toh(d.magic) == WAL_RECORD_MAGIC && le64toh(d.lsn) == lsn && d.reserved == 0 &&
	       le32toh(d.len) <= n - sizeof(d) && wal_record_size(le32toh(d.len)) <= n;
}

ssize_t wal_decode(const uint8_t *p, size_t n, uint64_t lsn, uint64_t salt, struct wal_rec *rec, const void **payload)
{
	struct wal_disk_record d;
	uint32_t len;
	size_t size;

	if (!wal_record_plausible(p, n, lsn))
		return -EUCLEAN;
	memcpy(&d, p, sizeof(d));
	len = le32toh(d.len);
	size = wal_record_size(len);
	if (XXH3_64bits_withSeed(p + CHECKSUMMED, WAL_RECORD_HEADER - CHECKSUMMED + len, salt) != le64toh(d.checksum))
		return -EUCLEAN;
	for (size_t i = WAL_RECORD_HEADER + len; i < size; i++)
		if (p[i])
			return -EUCLEAN;
	*rec = (struct wal_rec){
		.lsn = lsn,
		.txid = le64toh(d.txid),
		.prev = le64toh(d.prev),
		.durable = le64toh(d.durable),
		.len = len,
		.type = d.type,
		.flags = d.flags,
	};
	*payload = p + WAL_RECORD_HEADER;
	return (ssize_t)size;
}

static uint64_t seghdr_checksum(const struct wal_disk_segment *d)
{
	const size_t from = offsetof(struct wal_disk_segment, version);

	return XXH3_64bits((const uint8_t *)d + from, sizeof(*d) - from);
}

void wal_seghdr_encode(const struct wal_seghdr *h, uint8_t out[WAL_SEGMENT_HEADER])
{
	struct wal_disk_segment d = {
		.version = htole32(WAL_VERSION),
		.segment_size = htole32(h->segment_size),
		.number = htole64(h->number),
		.salt = htole64(h->salt),
		.prev_end = htole64(h->prev_end),
		.durable = htole64(h->durable),
	};

	memcpy(d.magic, WAL_SEGMENT_MAGIC, sizeof(d.magic));
	d.checksum = htole64(seghdr_checksum(&d));
	memcpy(out, &d, sizeof(d));
}

int wal_seghdr_decode(const uint8_t in[WAL_SEGMENT_HEADER], struct wal_seghdr *h)
{
	struct wal_disk_segment d;

	memcpy(&d, in, sizeof(d));
	if (memcmp(d.magic, WAL_SEGMENT_MAGIC, sizeof(d.magic)) != 0 || le64toh(d.checksum) != seghdr_checksum(&d))
		return -EUCLEAN;
	if (le32toh(d.version) > WAL_VERSION)
		return -EPROTONOSUPPORT;
	*h = (struct wal_seghdr){
		.number = le64toh(d.number),
		.salt = le64toh(d.salt),
		.prev_end = le64toh(d.prev_end),
		.durable = le64toh(d.durable),
		.segment_size = le32toh(d.segment_size),
	};
	if (le32toh(d.version) != WAL_VERSION || d.reserved != 0 || h->number == 0 ||
	    h->number >= UINT64_MAX / WAL_SEGMENT_MAX || h->segment_size < WAL_SEGMENT_MIN ||
	    h->segment_size > WAL_SEGMENT_MAX || h->segment_size % 4096 != 0)
		return -EUCLEAN;
	return 0;
}
