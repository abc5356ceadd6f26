/* install.h - what install.c and install_name.c share: one try to take a workspace home. */
#ifndef TXNFS_TXN_INSTALL_H
#define TXNFS_TXN_INSTALL_H

#include "txn/private.h"

struct install {
	struct txn_engine *eng;
	const struct store_ops *so;
	struct txn_ws *ws;
};

/* Notes the name where it failed, for whoever has to mend it; returns r. */
int txn_install_trouble(struct install *in, const char *name, int r);

/* In this order, with the objects' contents between the first two: install_name.c */
void txn_install_count(struct install *in);
int txn_install_names(struct install *in, uint64_t *count);
int txn_install_leave_stage(struct install *in);
int txn_install_dead_dirs(struct install *in);

#endif
