/* map.h - the one door to uthash: hash tables whose nodes are embedded in the caller's structures. */
#ifndef TXNFS_MAP_H
#define TXNFS_MAP_H

/* Out of memory in a hash insert must reach the caller, not exit(): HASH_ADD leaves the element out and sets
 * the element's hh.tbl to NULL. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#endif
