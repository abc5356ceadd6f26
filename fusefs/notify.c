/* notify.c - messages to the kernel's caches, and replies that go out behind them (see private.h). */
#include "fusefs/private.h"

#include <signal.h>

/* One letter: notifications, then perhaps a reply. */
/* One thread has sent what another one's reply should come after. Two references. */
struct latch {
	pthread_mutex_t lock;
	pthread_cond_t open;
	bool done;     /* [lock] */
	unsigned refs; /* [lock] */
};

/* A reply waits for the thread `late` no longer than this: it might be what that thread is waiting for. */
#define LATE_NS 20000000
/* And a commit for what the pages of waiting WRITEs are told: nearly always they are on their way out. */
#define APART_NS 500000000

struct fusefs_letter {
	TAILQ_ENTRY(fusefs_letter) link;
	struct fusefs_notices notices;
	struct fusefs_reply *reply; /* owned; may be NULL */
	struct latch *after;        /* wait for it before the reply; may be NULL */
	struct latch *opens;        /* open it when the notices are sent; may be NULL */
};

static struct latch *latch_new(void)
{
	struct latch *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->open, NULL);
	l->refs = 2;
	return l;
}

/* wait: nanoseconds at most. */
static void latch_put(struct latch *l, bool open, long wait)
{
	struct timespec until;
	bool last;

	pthread_mutex_lock(&l->lock);
	if (open) {
		l->done = true;
		pthread_cond_signal(&l->open);
	}
	if (wait) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += wait;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		while (!l->done && !pthread_cond_timedwait(&l->open, &l->lock, &until))
			;
	}
	last = --l->refs == 0;
	pthread_mutex_unlock(&l->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->open);
	free(l);
}

/* ---- notices ---- */

/* [fs->nodes] */
static struct fusefs_notice *add(struct fusefs_notices *list, struct fusefs_node *n)
{
	if (list->n == list->cap) {
		size_t cap = list->cap ? list->cap * 2 : 8;
		struct fusefs_notice *v = reallocarray(list->v, cap, sizeof(*v));

		if (!v) {
			base_log(LOG_ERR, "out of memory: a cached name or file may stay stale until it is evicted");
			return NULL;
		}
		list->v = v;
		list->cap = cap;
	}
	fusefs_node_get_locked(n);
	list->v[list->n] = (struct fusefs_notice){.node = n};
	return &list->v[list->n++];
}

void fusefs_notice_inode_locked(struct fusefs_notices *list, struct fusefs_node *n, off_t off, off_t len)
{
	struct fusefs_notice *notice = n->nlookup ? add(list, n) : NULL;

	if (!notice)
		return;
	notice->off = n->directory ? FUSEFS_ATTRS_ONLY : off;
	notice->len = n->directory ? 0 : len;
}

void fusefs_notice_entry_locked(struct fusefs_notices *list, struct fusefs_node *dir, const char *name)
{
	struct fusefs_notice *notice = dir->nlookup ? add(list, dir) : NULL;

	if (!notice)
		return;
	notice->off = FUSEFS_ATTRS_ONLY; /* also what is left of it when there is no memory for the name */
	notice->name = strdup(name);
}

void fusefs_notices_send(struct fusefs *fs, struct fusefs_notices *list)
{
	for (size_t i = 0; i < list->n; i++) {
		struct fusefs_notice *v = &list->v[i];
		fuse_ino_t ino = fusefs_ino(fs, v->node);

		/* Errors mean that the kernel does not have it, or has gone. */
		if (atomic_load_explicit(&fs->gone, memory_order_relaxed))
			;
		else if (v->name)
			fuse_lowlevel_notify_inval_entry(fs->se, ino, v->name, strlen(v->name));
		else
			fuse_lowlevel_notify_inval_inode(fs->se, ino, v->off, v->len);
		free(v->name);
		fusefs_node_put(fs, v->node);
	}
	free(list->v);
	*list = (struct fusefs_notices){0};
}

/* ---- replies ---- */

void fusefs_reply_send(struct fusefs *fs, struct fusefs_reply *r)
{
	int e = 0;

	switch (r->kind) {
	case FUSEFS_REPLY_ERR:
		fuse_reply_err(r->req, r->err);
		break;
	case FUSEFS_REPLY_ENTRY:
		e = fuse_reply_entry(r->req, &r->e);
		break;
	case FUSEFS_REPLY_CREATE:
		e = fuse_reply_create(r->req, &r->e, &r->fi);
		break;
	case FUSEFS_REPLY_ATTR:
		fuse_reply_attr(r->req, &r->attr, r->timeout);
		break;
	case FUSEFS_REPLY_WRITE:
		fuse_reply_write(r->req, r->count);
		break;
	case FUSEFS_REPLY_OPEN:
		e = fuse_reply_open(r->req, &r->fi);
		break;
	}
	if (!e)
		return;
	/* Interrupted: the kernel will neither release nor forget what it did not get. */
	if (r->handle)
		fusefs_handle_free(fs, r->handle);
	if (r->node)
		fusefs_node_forget(fs, r->node, 1);
}

/* ---- queues ---- */

static void *queue_run(void *arg)
{
	struct fusefs_queue *q = arg;
	struct fusefs_letter *l;

	pthread_mutex_lock(&q->lock);
	for (;;) {
		while (!(l = TAILQ_FIRST(&q->letters)) && !q->stop)
			pthread_cond_wait(&q->more, &q->lock);
		if (!l)
			break;
		TAILQ_REMOVE(&q->letters, l, link);
		q->busy = true;
		pthread_mutex_unlock(&q->lock);
		fusefs_notices_send(q->fs, &l->notices);
		if (l->opens)
			latch_put(l->opens, true, 0);
		if (l->after)
			latch_put(l->after, false, LATE_NS);
		if (l->reply)
			fusefs_reply_send(q->fs, l->reply);
		free(l->reply);
		free(l);
		pthread_mutex_lock(&q->lock);
		q->busy = false;
	}
	pthread_mutex_unlock(&q->lock);
	return NULL;
}

int fusefs_queue_start(struct fusefs *fs, struct fusefs_queue *q)
{
	int r;

	q->fs = fs;
	TAILQ_INIT(&q->letters);
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->more, NULL);
	r = pthread_create(&q->thread, NULL, queue_run, q);
	q->started = !r;
	return -r;
}

void fusefs_queue_stop(struct fusefs_queue *q)
{
	if (!q->started)
		return;
	pthread_mutex_lock(&q->lock);
	q->stop = true;
	pthread_cond_signal(&q->more);
	pthread_mutex_unlock(&q->lock);
	pthread_join(q->thread, NULL);
	q->started = false;
	pthread_mutex_destroy(&q->lock);
	pthread_cond_destroy(&q->more);
}

bool fusefs_queue_idle(struct fusefs_queue *q)
{
	bool idle;

	if (!q->started)
		return true;
	pthread_mutex_lock(&q->lock);
	idle = !q->busy && TAILQ_EMPTY(&q->letters);
	pthread_mutex_unlock(&q->lock);
	return idle;
}

/* Takes over the notices; copies the reply (NULL: none). */
static int post(struct fusefs_queue *q, struct fusefs_notices *list, const struct fusefs_reply *reply,
                struct latch *after, struct latch *opens)
{
	struct fusefs_letter *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	if (reply) {
		l->reply = malloc(sizeof(*reply));
		if (!l->reply) {
			free(l);
			return -ENOMEM;
		}
		*l->reply = *reply;
	}
	l->after = after;
	l->opens = opens;
	l->notices = *list;
	*list = (struct fusefs_notices){0};
	pthread_mutex_lock(&q->lock);
	TAILQ_INSERT_TAIL(&q->letters, l, link);
	pthread_cond_signal(&q->more);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

static void discard(struct fusefs *fs, struct fusefs_notices *list)
{
	base_log(LOG_ERR, "out of memory: cached names or files may stay stale until they are evicted");
	for (size_t i = 0; i < list->n; i++) {
		free(list->v[i].name);
		fusefs_node_put(fs, list->v[i].node);
	}
	free(list->v);
	*list = (struct fusefs_notices){0};
}

void fusefs_notices_later(struct fusefs *fs, struct fusefs_notices *list)
{
	if (list->n && post(&fs->late, list, NULL, NULL, NULL))
		discard(fs, list);
}

struct apart {
	struct fusefs *fs;
	struct latch *sent; /* may be NULL */
	struct fusefs_notices list;
};

static void send_apart(void *arg)
{
	struct apart *a = arg;

	fusefs_notices_send(a->fs, &a->list);
	if (a->sent)
		latch_put(a->sent, true, 0);
	free(a);
}

void fusefs_notices_apart(struct fusefs *fs, struct fusefs_notices *list)
{
	struct apart *a = malloc(sizeof(*a));
	struct latch *sent = a ? latch_new() : NULL;
	int r = -ENOMEM;

	if (a) {
		*a = (struct apart){fs, sent, *list};
		r = fusefs_apart(fs, send_apart, a);
		if (r)
			free(a);
	}
	if (r) {
		if (sent)
			latch_put(sent, true, 0);
		fusefs_notices_later(fs, list);
	} else {
		*list = (struct fusefs_notices){0};
	}
	if (sent)
		latch_put(sent, false, r ? 0 : APART_NS);
}

void fusefs_finish_late(struct fusefs *fs, struct fusefs_telling *t, struct fusefs_reply *r)
{
	fusefs_notices_later(fs, &t->later);
	if (post(&fs->late, &t->first, r, NULL, NULL)) {
		discard(fs, &t->first);
		fusefs_reply_send(fs, r);
	}
}

void fusefs_finish(struct fusefs *fs, const struct fusefs_node *self, struct fusefs_telling *t, struct fusefs_reply *r)
{
	struct fusefs_queue *q = self->tx ? &fs->outlived : &fs->committed;
	struct latch *late = t->later.n ? latch_new() : NULL;

	if (late && post(&fs->late, &t->later, NULL, NULL, late)) {
		latch_put(late, true, 0);
		latch_put(late, true, 0);
		late = NULL;
	}
	if ((!t->first.n && !late) || post(q, &t->first, r, late, NULL)) {
		if (t->first.n)
			discard(fs, &t->first);
		if (late)
			latch_put(late, false, 0);
		fusefs_reply_send(fs, r);
	}
	fusefs_notices_later(fs, &t->later);
}
