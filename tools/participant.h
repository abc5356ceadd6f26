/* participant.h - one branch of a run: finding the mount or the directory where it is prepared, and ending it there. */
#ifndef TXNFS_TOOLS_PARTICIPANT_H
#define TXNFS_TOOLS_PARTICIPANT_H

#include "tools/decision.h"
#include "tools/tools.h"

#include <limits.h>

#define PARTICIPANT_WHY (PATH_MAX + 512)

/*
 * Commit or roll back what is prepared as gid, where its branch says that it is: in the database, on the mount, or with
 * `offline` in the directory itself when that is not mounted. 0: done, and durable. 1: nothing is in doubt there by
 * that name (any more), durably. Negative: it cannot be done now, and why.
 */
int participant_end(const struct decision_branch *br, const char *gid, bool commit, bool offline,
                    char why[PARTICIPANT_WHY]);

/* The same in a directory that is not mounted; uuid NULL: whichever it is. *changes may be NULL. */
int participant_end_offline(const char *source, const char *uuid, const char *gid, bool commit, uint64_t *changes,
                            char why[PARTICIPANT_WHY]);
/* The same on a mount. *answer (may be NULL): what it said, malloc'ed. */
int participant_end_mounted(const struct tool_mount *m, const char *control, const char *gid, bool commit,
                            char **answer, char why[PARTICIPANT_WHY]);

/* The uuid of a mount's source directory. -ENOTCONN: its daemon has died. */
int participant_uuid(const struct tool_mount *m, const char *control, char uuid[37]);

#endif
