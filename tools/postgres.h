/*
 * postgres.h - a PostgreSQL database as a participant: asked and told through psql(1).
 *
 * Its branch (struct decision_branch) has
 *     uuid      pg-SYSTEM-DATABASE: the cluster's system identifier and the database's oid
 *     source    the connection string as it was given
 *     point     a name for messages
 *     control   host, port, user and database that it led to, a line each: what the string leaves to the environment
 *               does not lead elsewhere when somebody else resolves; and the cluster's timeline
 *
 * Functions return 0, a positive answer or -errno with the reason in `why`. A psql that is missing is -ENOPKG. They
 * wait as long as psql does. Not thread-safe.
 */
#ifndef TXNFS_TOOLS_POSTGRES_H
#define TXNFS_TOOLS_POSTGRES_H

#include "tools/participant.h"

/* Is this branch one of a database? */
bool postgres_is(const struct decision_branch *br);

/*
 * Connect, and fill in the branch, whose strings are malloc'ed. Refused is what can prepare nothing
 * (max_prepared_transactions is 0), a standby, and a connection string with a password, which would be kept.
 */
int postgres_find(const char *conninfo, struct decision_branch *br, char why[PARTICIPANT_WHY]);

/* 0: gid is prepared, durably, and this connection may end it. 1: it is not prepared. */
int postgres_prepared(const struct decision_branch *br, const char *gid, char why[PARTICIPANT_WHY]);

/*
 * As participant_end. What is to be committed and is not there is -ESTALE when the cluster has another timeline than
 * before: it may have gone back to a time before the prepare.
 */
int postgres_end(const struct decision_branch *br, const char *gid, bool commit, char why[PARTICIPANT_WHY]);

/*
 * Call fn for each transaction that a coordinator's GID is prepared for in the cluster; mine: by this connection's
 * role, in its database.
 */
int postgres_each(const struct decision_branch *br, void (*fn)(void *arg, const char *gid, bool mine), void *arg,
                  char why[PARTICIPANT_WHY]);

#endif
