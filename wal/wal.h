/*
 * wal.h - the write-ahead log: checksummed records in preallocated, recycled segment files.
 *
 * An LSN (log sequence number) is a byte position in the life of the log: it only grows, also across mounts and
 * recycling. Segment number k holds the bytes [k * segment_size, (k + 1) * segment_size). Each segment starts with a
 * header of WAL_SEGMENT_HEADER bytes, records follow, 8-byte aligned, none crosses a segment's end. A position inside
 * a record (lsn + WAL_RECORD_HEADER + offset in the payload) can be kept and read again with wal_read().
 * SPEC.md gives every byte.
 *
 * Calling sequence
 *     wal_open          opens the directory; with create, makes the first segment. Nothing is written otherwise.
 *     wal_scan          visits every valid record in LSN order and finds the end. Needed once before wal_start.
 *     wal_start         begins to append: in a fresh segment with a fresh salt, so that leftovers of a torn tail can
 *                       never be taken for records. (Tools that only read never call it.)
 *     wal_append        any thread
 *     wal_force         any thread: durable up to and including the record at this LSN
 *     wal_trim          recycle segments that end before an LSN
 *     wal_warm          a background thread, for speed only
 *     wal_close
 *
 * Appended records are handed to the kernel before wal_append returns: they survive a kill of the process. They
 * survive the machine only after wal_force. One fdatasync serves all callers that wait (group commit, as in DeWitt et
 * al. 1984).
 *
 * Errors: -ENOSPC from wal_append leaves the log as it was, and a later append works when there is space again. A
 * failed force is final: the log is failed from then on, and append and force return -EIO (fsync that failed once
 * cannot be trusted again). wal_scan returns -EUCLEAN for damage (a record that was durable does not check, or a file
 * is missing) and -EPROTONOSUPPORT for a newer version; wal_error_text() then says where.
 */
#ifndef TXNFS_WAL_H
#define TXNFS_WAL_H

#include "base/os.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define WAL_SEGMENT_HEADER 64u
#define WAL_RECORD_HEADER 56u
#define WAL_VERSION 1u
#define WAL_SEGMENT_DEFAULT (16u << 20)
#define WAL_SEGMENT_MIN (32u << 10)
/* Largest payload in a segment of the given size. */
#define WAL_MAX_PAYLOAD(segment) ((segment) / 2)
/* Most pieces of a payload in one wal_append. */
#define WAL_MAX_IOV 30

/* Flags of a record. */
#define WAL_CARRIED 0x01u /* a copy of an older record, written so that the old one can be trimmed */

/* Decoded header. */
struct wal_rec {
	uint64_t lsn;     /* set by append and scan */
	uint64_t txid;    /* 0: belongs to no transaction */
	uint64_t prev;    /* LSN of the transaction's previous record, 0: none */
	uint64_t durable; /* everything below this LSN was durable when the record was written */
	uint32_t len;     /* payload bytes */
	uint8_t type;     /* the caller's business; 0 is the log's own */
	uint8_t flags;    /* WAL_CARRIED */
};

struct wal;

struct wal_options {
	uint32_t segment_size; /* used at creation only; a multiple of 4096, up to 1 GiB; 0: default */
	bool create;           /* make the first segment when the directory is empty */
	bool read_only;        /* for tools: never writes, wal_start is refused */
};

/*
 * dirfd (not O_PATH) stays the caller's and must outlive the log; os: os_real() or a test's. -ENOENT: there is no log
 * and create was not asked for. A damaged log opens; wal_scan then tells.
 */
int wal_open(const struct os *os, int dirfd, const struct wal_options *opt, struct wal **out);
void wal_close(struct wal *wal);

/*
 * Visit records from the oldest segment on, from LSN `from` (0: all). By one thread at a time. May be repeated; after
 * wal_start it visits what had been appended when it was called (not while wal_trim may run). With read_only it is safe
 * while another process writes the log (records that are trimmed meanwhile are left out). fn's payload is valid during
 * the call only; a non-zero return stops the scan and is returned. *end (may be NULL): where the valid log ends.
 * progress (may be NULL) is called now and then with bytes done and bytes in all.
 */
typedef int wal_visit(void *arg, const struct wal_rec *rec, const void *payload);
typedef void wal_progress(void *arg, uint64_t done, uint64_t total);
int wal_scan(struct wal *wal, uint64_t from, wal_visit *fn, wal_progress *progress, void *arg, uint64_t *end);

/*
 * Makes durable what the scan has visited, then begins a new life of the log. On a full disk it succeeds when a segment
 * can be recycled; ordinary records are then refused with -ENOSPC until there is space for a spare segment.
 */
int wal_start(struct wal *wal);

/*
 * Append one record. in: type, flags, txid, prev; out: lsn (and len, durable).
 * control: the record may use the space that ordinary records leave free (a spare segment is always kept), so that
 * COMMIT, ABORT, CLR, END and CHECKPOINT can be written on a full disk. -EMSGSIZE: payload too large.
 * wal_force: an LSN at or beyond the end forces all that has been appended.
 */
int wal_append(struct wal *wal, struct wal_rec *rec, const struct iovec *payload, int iovcnt, bool control);
int wal_force(struct wal *wal, uint64_t lsn);

/* n bytes at a position, which must lie inside one record that has been appended and not trimmed. */
int wal_read(struct wal *wal, uint64_t pos, void *buf, size_t n);
/* One whole record; *payload is malloc'ed and the caller's. Verifies the checksum: -EUCLEAN. */
int wal_read_rec(struct wal *wal, uint64_t lsn, struct wal_rec *rec, void **payload);

/*
 * Recycle or remove segments that end at or below keep; never the current one. An error leaves the log in order: some
 * segments may be left, to be trimmed by a later call.
 */
int wal_trim(struct wal *wal, uint64_t keep);

/*
 * For a thread of its own: writes zeros over what was allocated for records to come but never written, while the log grows
 * slowly; commits take half the time then. Returns after wal_warm_stop, which must precede wal_close.
 */
void wal_warm(struct wal *wal);
void wal_warm_stop(struct wal *wal);

uint64_t wal_begin(struct wal *wal);   /* LSN of the oldest segment kept */
uint64_t wal_end(struct wal *wal);     /* LSN at which the next record goes */
uint64_t wal_durable(struct wal *wal); /* everything below is durable */
uint32_t wal_segment_size(struct wal *wal);
bool wal_failed(struct wal *wal);
/* The last scan's or open's trouble as a readable line: segment, LSN, what was found, what to do. "" when none. */
const char *wal_error_text(struct wal *wal);

struct wal_stats {
	uint64_t appends, bytes, forces, force_waits, segments;
};
void wal_stats(struct wal *wal, struct wal_stats *st);

/*
 * Codec, for tests and tools. wal_encode writes header and payload (WAL_RECORD_HEADER + payload, padded to 8) with
 * rec->lsn as given; wal_decode checks and decodes one at p: bytes consumed, or -EUCLEAN.
 */
size_t wal_record_size(size_t payload);
void wal_encode(const struct wal_rec *rec, const void *payload, uint64_t salt, uint8_t *out);
ssize_t wal_decode(const uint8_t *p, size_t n, uint64_t lsn, uint64_t salt, struct wal_rec *rec,
                   const void **payload);

#endif
