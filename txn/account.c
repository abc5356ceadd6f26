/* account.c - limits on what a user's open transactions may have in the log. */
#include "txn/private.h"

struct txn_account {
	atomic_ulong refs;
	uint64_t limit;
	_Atomic uint64_t bytes;
};

struct txn_account *txn_account_new(uint64_t limit)
{
	struct txn_account *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	atomic_init(&a->refs, 1);
	a->limit = limit;
	return a;
}

void txn_account_put(struct txn_account *a)
{
	if (a && atomic_fetch_sub(&a->refs, 1) == 1)
		free(a);
}

void txn_set_account(struct txn *t, struct txn_account *a)
{
	atomic_fetch_add(&a->refs, 1);
	t->account = a;
}

int txn_charge(struct txn *t, uint64_t bytes, bool control)
{
	struct txn_account *a = t->account;

	if (!a)
		return 0;
	if (atomic_fetch_add(&a->bytes, bytes) + bytes > a->limit && !control) {
		atomic_fetch_sub(&a->bytes, bytes);
		return -EDQUOT;
	}
	t->charged += bytes;
	return 0;
}

void txn_discharge(struct txn *t)
{
	if (t->account)
		atomic_fetch_sub(&t->account->bytes, t->charged);
	t->charged = 0;
}

void txn_glance(struct txn *t, uint64_t *operations, uint64_t *log_bytes)
{
	*operations = atomic_load(&t->operations);
	*log_bytes = atomic_load(&t->bytes);
}
