/* recovery.h - what recovery.c and in_doubt.c share. Not for others. */
#ifndef TXNFS_TXN_RECOVERY_H
#define TXNFS_TXN_RECOVERY_H

#include "txn/private.h"

struct loser { /* a transaction without outcome so far */
	UT_hash_handle hh;
	uint64_t txid;
	uint64_t last, carry_last; /* ends of the chain that counts, and of a copy that does not count yet */
	struct base_vec recs, carried;
	bool prepared; /* then it is not lost, but in doubt */
};

struct winner {
	uint64_t commit;
	struct base_vec recs;
};

struct declared {
	UT_hash_handle hh;
	uint64_t oid;
	struct txn_rec_object o;
	char *hint, *target;
	bool bound; /* made anew by a recovery that did not come to its end */
	struct txn_wsobj *w; /* in the workspace that is being made */
};

struct recovery {
	struct txn_engine *eng;
	struct txn_recovery *rec;
	struct loser *open;
	struct winner *won;
	size_t nwon, capwon;
	struct declared *declared;
	uint64_t next_oid, next_txid;
	uint64_t scan; /* of the last checkpoint; 0: none seen */
	bool bound; /* BINDs were logged */
	char *err;
	size_t errlen;
};

void txn_recovery_say(struct recovery *rv, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* A created object that is needed and whose inode is gone: make it anew in the stage, and log its new identity. */
int txn_recovery_recreate(struct recovery *rv, struct declared *d);

/* in_doubt.c: bring back the prepared transactions, when what was committed is installed. */
int txn_restore_in_doubt(struct recovery *rv);
/* What is in doubt keeps the log, and in it the losers' records: the next recovery need not report them again. */
void txn_abort_losers(struct recovery *rv);

#endif
