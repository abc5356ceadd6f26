/* fault_steps.h - operations for scripts: each is one change, which happens or not. Paths are relative to the slot. */
#ifndef TXNFS_FAULT_STEPS_H
#define TXNFS_FAULT_STEPS_H

#include "tests/fault_kit.h"

/* All return 0 or -errno; 1: done in part (plain ones only). */
int do_make(struct run *run, struct txn *v, const char *slot, const char *path, mode_t mode, const char *target);
int do_write(struct run *run, struct txn *v, const char *slot, const char *path, uint64_t off, size_t n, char c);
int do_write_as_user(struct run *run, struct txn *v, const char *slot, const char *path, uint64_t off, size_t n,
                     char c);
int do_append(struct run *run, struct txn *v, const char *slot, const char *path, size_t n, char c);
int do_cut(struct run *run, struct txn *v, const char *slot, const char *path, uint64_t size); /* to this size */
int do_open_empty(struct run *run, struct txn *v, const char *slot, const char *path);         /* O_TRUNC */
int do_fallocate(struct run *run, struct txn *v, const char *slot, const char *path, int mode, uint64_t off,
                 uint64_t n);
int do_copy(struct run *run, struct txn *v, const char *slot, const char *from, uint64_t off, const char *to,
            uint64_t to_off, size_t n);
int do_link(struct run *run, struct txn *v, const char *slot, const char *from, const char *to);
int do_remove(struct run *run, struct txn *v, const char *slot, const char *path, bool dir);
int do_rename(struct run *run, struct txn *v, const char *slot, const char *from, const char *to, unsigned flags);
int do_tmpfile(struct run *run, struct txn *v, const char *slot, const char *path, char c); /* and contents and name */
/* The same, but it is made outside of the transaction. */
int do_name_plain_tmpfile(struct run *run, struct txn *v, const char *slot, const char *path, char c);
int do_mode(struct run *run, struct txn *v, const char *slot, const char *path, mode_t mode);
int do_times(struct run *run, struct txn *v, const char *slot, const char *path, int64_t second);
int do_owner(struct run *run, struct txn *v, const char *slot, const char *path, uid_t uid, gid_t gid);
int do_size_and_mode(struct run *run, struct txn *v, const char *slot, const char *path, uint64_t size, mode_t mode);
int do_setxattr(struct run *run, struct txn *v, const char *slot, const char *path, const char *name, size_t n, char c,
                int flags);
int do_removexattr(struct run *run, struct txn *v, const char *slot, const char *path, const char *name);
int do_fsync(struct run *run, struct txn *v, const char *slot, const char *path);
int do_fsync_dir(struct run *run, struct txn *v, const char *slot, const char *path);

#endif
