/*
 * resolver.h - what coordinators that died have left: brought to the end that their log has decided.
 *
 *     resolver_pass         goes through the log's runs; one that is alive is left alone
 *     resolver_look         looks at a mount for branches that no run in the log speaks of
 *     resolver_look_at_database   at a database
 *     resolver_free
 *
 * Any number of resolvers and coordinators may work with a log at the same time.
 */
#ifndef TXNFS_TOOLS_RESOLVER_H
#define TXNFS_TOOLS_RESOLVER_H

#include "tools/decision.h"
#include "tools/tools.h"

struct resolver {
	struct decision_log *log; /* NULL: there is none, so nothing can be decided */
	bool offline;             /* also in directories that are not mounted */
	bool tell;                /* print a line on stdout for what was done */
	bool complain;            /* and on stderr for what could not be done */
	bool strangers; /* look also for branches of other logs, whose runs may be alive for all that is known */
	json_t *runs, *in_doubt; /* arrays that get the same; NULL: not wanted */
	unsigned done;           /* branches that were ended */
	unsigned alive;          /* runs, or with another resolver */
	unsigned left;           /* branches and runs that stay in doubt and are this user's to decide */
	int err;                 /* what kept the pass itself from working */
};

void resolver_pass(struct resolver *rs);
void resolver_look(struct resolver *rs, const struct tool_mount *m, const char *control);
void resolver_look_at_database(struct resolver *rs, const struct decision_branch *db);
/* At all mounts, and all databases that the log knows. */
void resolver_look_everywhere(struct resolver *rs, const char *control);
void resolver_free(struct resolver *rs);

#endif
