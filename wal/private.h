/*
 * private.h - what the log's own files share.
 *
 *   codec.c    bytes of records and segment headers
 *   segment.c  the table of segments and their files: load, create, recycle, drop
 *   scan.c     visiting records, finding the end, telling a torn tail from damage
 *   wal.c      open, start, append, force, trim, read
 *   warm.c     in the background: writing what is allocated only, before it is used
 *
 * Lock order: wal.files, then wal.lock. `files` serialises work on the directory (create, recycle, drop) and may be
 * held across slow calls; `lock` is held across one pwritev at most.
 */
#ifndef TXNFS_WAL_PRIVATE_H
#define TXNFS_WAL_PRIVATE_H

#include "base/base.h"
#include "wal/wal.h"

#include <inttypes.h>
#include <pthread.h>

#define WAL_RECORD_MAGIC 0x5457u /* "WT" in the file */
#define WAL_SEGMENT_MAGIC "TXNFSWAL"
#define WAL_SEGMENT_MAX (1u << 30)
#define WAL_TYPE_PAD 0 /* the rest of the segment is unused: the log goes on in the next one */

#define WAL_SPARES_MAX 2 /* recycled segments that are kept ready */
#define WAL_FDS_MAX 128  /* open segments; more are closed when they are idle and durable */
#define WAL_NAME_SIZE 17
#define WAL_TEMP_NAME "next" /* a segment that is being made: no part of the log until it is renamed */

/* As in the file: little-endian. */
struct wal_disk_record {
	uint64_t checksum; /* XXH3-64, seeded with the segment's salt, of the rest of the header and the payload */
	uint32_t len;
	uint8_t type;
	uint8_t flags;
	uint16_t magic;
	uint64_t lsn;
	uint64_t txid;
	uint64_t prev;
	uint64_t durable;
	uint64_t reserved; /* 0 */
};

struct wal_disk_segment {
	uint8_t magic[8];
	uint64_t checksum; /* XXH3-64, seed 0, of the bytes behind it */
	uint32_t version;
	uint32_t segment_size;
	uint64_t number;
	uint64_t salt;
	uint64_t prev_end;
	uint64_t durable;
	uint64_t reserved; /* 0 */
};

_Static_assert(sizeof(struct wal_disk_record) == WAL_RECORD_HEADER, "record header");
_Static_assert(offsetof(struct wal_disk_record, len) == 8, "record len");
_Static_assert(offsetof(struct wal_disk_record, type) == 12, "record type");
_Static_assert(offsetof(struct wal_disk_record, flags) == 13, "record flags");
_Static_assert(offsetof(struct wal_disk_record, magic) == 14, "record magic");
_Static_assert(offsetof(struct wal_disk_record, lsn) == 16, "record lsn");
_Static_assert(offsetof(struct wal_disk_record, txid) == 24, "record txid");
_Static_assert(offsetof(struct wal_disk_record, prev) == 32, "record prev");
_Static_assert(offsetof(struct wal_disk_record, durable) == 40, "record durable");
_Static_assert(sizeof(struct wal_disk_segment) == WAL_SEGMENT_HEADER, "segment header");
_Static_assert(offsetof(struct wal_disk_segment, version) == 16, "segment version");
_Static_assert(offsetof(struct wal_disk_segment, number) == 24, "segment number");
_Static_assert(offsetof(struct wal_disk_segment, durable) == 48, "segment durable");
_Static_assert(WAL_SEGMENT_HEADER % 8 == 0 && WAL_RECORD_HEADER % 8 == 0, "alignment");

/* What a segment's header says. */
struct wal_seghdr {
	uint64_t number;
	uint64_t salt;
	uint64_t prev_end; /* not 0: a new life of the log starts here; the one before ended at this LSN */
	uint64_t durable;  /* everything below was durable when the header was written */
	uint32_t segment_size;
};

struct wal_segment {
	struct wal_seghdr h; /* constant while the segment is in the table */
	int fd;              /* lock; -1: not open at present */
	unsigned refs;       /* lock; users of fd that do not hold the lock */
	bool gone;           /* lock; out of the table: the last user frees it */
	uint64_t used;       /* lock; wal.tick of the last use */
	uint64_t written;    /* lock; up to here the file has been written once; the rest may be allocated only (warm.c) */
};

struct wal {
	const struct os *os;
	int dir;
	bool read_only;
	bool fresh; /* made by this wal_open: its first segment is used as it is */
	uint32_t segment_size;

	pthread_mutex_t files;
	pthread_mutex_t lock;
	pthread_cond_t forced; /* lock; a force has ended */

	struct wal_segment **segs; /* files and lock to change, either to read; ascending */
	size_t nsegs, segs_cap;
	size_t nopen;            /* lock */
	uint64_t tick;           /* lock */
	struct wal_segment *cur; /* lock; segments behind it in the table are spares */
	uint64_t end;            /* lock; where the next record goes */
	uint64_t durable;        /* lock */
	bool started, failed;    /* lock */
	bool forcing;            /* lock; a leader is at work */
	struct wal_stats st;     /* lock */
	pthread_cond_t cold;     /* lock; there is something for wal_warm to do */
	bool cool;               /* lock; wal_warm is to end */

	/* Set by wal_open and wal_scan, which are called by one thread before wal_start. */
	int trouble;             /* what is wrong with the files, 0: nothing */
	uint64_t trouble_number; /* the segment where it begins */
	bool scanned;
	uint64_t scan_end;     /* where the valid log ends */
	uint64_t scan_number;  /* segment in which it ends */
	uint64_t scan_durable; /* newest durable LSN that a record tells */
	char text[512];
};

static inline uint64_t wal_seg_start(const struct wal *wal, uint64_t number)
{
	return number * wal->segment_size;
}

static inline uint64_t wal_seg_end(const struct wal *wal, uint64_t number)
{
	return (number + 1) * wal->segment_size;
}

/* codec.c */
void wal_record_header(const struct wal_rec *rec, uint64_t salt, const struct iovec *payload, int iovcnt,
                       uint8_t out[WAL_RECORD_HEADER]);
/* Could a record with this LSN be here? Cheap, without the checksum. */
bool wal_record_plausible(const uint8_t *p, size_t n, uint64_t lsn);
void wal_seghdr_encode(const struct wal_seghdr *h, uint8_t out[WAL_SEGMENT_HEADER]);
/* -EUCLEAN, -EPROTONOSUPPORT */
int wal_seghdr_decode(const uint8_t in[WAL_SEGMENT_HEADER], struct wal_seghdr *h);

/* segment.c */
int wal_seg_zero(struct wal *wal, int fd, uint64_t from, uint64_t to);
void wal_seg_name(uint64_t number, char name[WAL_NAME_SIZE]);
/* Read the directory into the table. Damage is noted in wal.trouble; the result is about the environment only. */
int wal_seg_load(struct wal *wal);
void wal_seg_unload(struct wal *wal);
void wal_trouble(struct wal *wal, int err, uint64_t number, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* lock held. Index of the first segment with at least this number; nsegs when there is none. */
size_t wal_seg_index(const struct wal *wal, uint64_t number);
/* lock held. Open it and keep it so until put; -errno when it cannot be opened. */
int wal_seg_get(struct wal *wal, struct wal_segment *seg);
void wal_seg_put(struct wal *wal, struct wal_segment *seg);
/* The rest: files held, lock not. New segments go to the end of the table. */
int wal_seg_create(struct wal *wal, uint64_t number, uint64_t prev_end);
/* Turn an old segment into a new one. 1: it is in use, nothing was done. On failure it may have been dropped. */
int wal_seg_recycle(struct wal *wal, struct wal_segment *seg, uint64_t number, uint64_t prev_end);
int wal_seg_drop(struct wal *wal, struct wal_segment *seg);

#endif
