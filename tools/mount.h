/* mount.h - between `txnfs mount` and its option parser. */
#ifndef TXNFS_TOOLS_MOUNT_H
#define TXNFS_TOOLS_MOUNT_H

#include "base/base.h"

struct mount_seconds {
	bool given;
	double value;
};

struct mount_options {
	char *control;                                                         /* NULL: the default */
	unsigned checkpoint_mib, checkpoint_seconds, segment_mib, max_threads; /* 0: the default */
	struct mount_seconds lock_timeout, idle_timeout;
	unsigned max_transactions, max_log;
	bool debug, nonempty;
	struct base_buf fuse; /* the rest, for FUSE and the kernel: comma-separated and NUL-terminated when not empty */
};

enum mount_strictness {
	MOUNT_STRICT, /* unknown options are errors; those that only mount(8) understands as well */
	MOUNT_FSTAB,  /* mount(8)'s own (defaults, noauto, x-...) are skipped */
	MOUNT_SLOPPY, /* unknown ones are skipped too */
};

/* Add a comma-separated list. -EINVAL with a readable line. */
int mount_options_parse(struct mount_options *o, const char *list, enum mount_strictness strict, char *err,
                        size_t errlen);
void mount_options_free(struct mount_options *o);

struct mount_request {
	const char *source, *point;
	struct mount_options options;
	bool foreground, verbose;
};

/* Check, mount, and serve here (foreground) or in a daemon. The exit status. */
int mount_start(const struct mount_request *req);

#define MOUNT_OPTIONS_HELP                                                                                             \
	"Mount options:\n"                                                                                             \
	"  control=NAME          name of the control directory (default .txn)\n"                                       \
	"  lock_timeout=S        a writer waits S seconds for someone else's transaction (5); 0: EBUSY at once\n"          \
	"  idle_timeout=S        roll back transactions that did nothing for S seconds; 0: never (the default)\n"        \
	"  max_transactions=N    open transactions per user (1000); root may have more\n"                               \
	"  max_log=MIB           of changes in the open transactions of each user; the default is no limit\n"           \
	"  checkpoint_mib=N      checkpoint when the log has grown by N MiB\n"                                         \
	"  checkpoint_seconds=N  and at least every N seconds\n"                                                       \
	"  segment_mib=N         size of a log segment, used when the log is created\n"                                \
	"  max_threads=N         threads that serve requests\n"                                                        \
	"  nonempty              mount over a directory that is not empty\n"                                           \
	"  debug                 trace every request (with -f)\n"                                                      \
	"  allow_other, allow_root, default_permissions, auto_unmount, max_read=N,\n"                                  \
	"  ro, nosuid, nodev, noexec, noatime, nodiratime, sync, dirsync, context=...:\n"                              \
	"                        as in mount.fuse3(8) and mount(8)\n"

#endif
