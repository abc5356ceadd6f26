/* wait_due.c - the waiters of all queues by time: whose deadline comes first. [waits.lock] */
#include "txn/private.h"

void txn_due_del(struct txn_waits *ws, struct txn_waiter *w)
{
	if (!w->due.tv_sec)
		return;
	*(w->due_prev ? &w->due_prev->due_next : &ws->due) = w->due_next;
	*(w->due_next ? &w->due_next->due_prev : &ws->due_last) = w->due_prev;
	w->due.tv_sec = 0;
}

/* Most come with the same patience, so the place is near the end. */
void txn_due_add(struct txn_waits *ws, struct txn_waiter *w, struct timespec at)
{
	struct txn_waiter *before;

	txn_due_del(ws, w);
	if (!at.tv_sec)
		return;
	before = ws->due_last;
	while (before && base_timespec_before(&at, &before->due))
		before = before->due_prev;
	w->due = at;
	w->due_prev = before;
	w->due_next = before ? before->due_next : ws->due;
	*(before ? &before->due_next : &ws->due) = w;
	*(w->due_next ? &w->due_next->due_prev : &ws->due_last) = w;
	if (ws->due == w)
		pthread_cond_signal(&ws->sooner);
}
