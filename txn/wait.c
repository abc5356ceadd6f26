/*
 * wait.c - who waits for whom: queues, circles, deadlines (txn.h, "waiting").
 *
 * A queue belongs to a thing (an object, or a name in a directory) as long as somebody waits for it. Its state:
 *
 *     held       by a transaction that is in the way; in the list of what that one holds
 *     passing    free, and reserved for one waiter, who was told to try; others queue up
 *     settling   that one has tried, and whether the thing is held again is being looked up, without the lock
 *
 * and when it is none of these, the first waiter is told to try; without one the queue goes.
 */
#include "txn/private.h"

enum { IDLE, QUEUED, PASSING };

struct txn_queue {
	UT_hash_handle hh;
	struct txn_obj *obj; /* reference */
	struct txn *holder;  /* reference; NULL: not held */
	struct txn_queue *held_next, **held_prev;
	struct txn_waiter *first, **last;
	struct txn_waiter *passing;
	bool settling;
	struct txn_queue *doomed; /* out of the table, to be freed without the lock */
	size_t key_len;
	char key[]; /* the object's address, then the name */
};

/* ---- queues ---- */

static size_t make_key(char *key, const struct txn_obj *obj, const char *name)
{
	size_t n = name ? strlen(name) : 0;

	memcpy(key, &obj, sizeof(struct txn_obj *));
	if (n)
		memcpy(key + sizeof(struct txn_obj *), name, n);
	return sizeof(struct txn_obj *) + n;
}

/* [lock] */
static struct txn_queue *find(struct txn_waits *ws, const struct txn_obj *obj, const char *name)
{
	char key[sizeof(obj) + NAME_MAX + 1];
	size_t n = make_key(key, obj, name);
	struct txn_queue *q;

	HASH_FIND(hh, ws->queues, key, n, q);
	return q;
}

/* [lock] */
static struct txn_queue *make(struct txn_waits *ws, const struct txn_obstacle *c)
{
	struct txn_queue *q = calloc(1, sizeof(*q) + sizeof(struct txn_obj *) + strlen(c->name));

	if (!q)
		return NULL;
	q->key_len = make_key(q->key, c->obj, c->name);
	HASH_ADD_KEYPTR(hh, ws->queues, q->key, q->key_len, q);
	if (!q->hh.tbl) {
		free(q);
		return NULL;
	}
	q->obj = txn_obj_get(c->obj);
	q->last = &q->first;
	return q;
}

/* [lock] The old holder's reference goes to *old: dropped without the lock, though it takes none today. */
static void set_holder(struct txn_queue *q, struct txn *t)
{
	struct txn *was = q->holder;

	if (was == t)
		return;
	if (was) {
		*q->held_prev = q->held_next;
		if (q->held_next)
			q->held_next->held_prev = q->held_prev;
	}
	q->holder = t ? txn_get(t) : NULL;
	if (t) {
		q->held_next = t->holds;
		q->held_prev = &t->holds;
		if (q->held_next)
			q->held_next->held_prev = &q->held_next;
		t->holds = q;
	}
	if (was)
		txn_put(was);
}

static void set_passing(struct txn_waits *ws, struct txn_queue *q, struct txn_waiter *w, bool settling)
{
	bool was = q->passing || q->settling;

	q->passing = w;
	q->settling = settling;
	if (was != (w || settling))
		atomic_fetch_add(&ws->reserved, was ? (unsigned)-1 : 1u);
}

/* Without the lock: what was taken out of the table. */
static void bury(struct txn_queue *doomed)
{
	while (doomed) {
		struct txn_queue *q = doomed;

		doomed = q->doomed;
		txn_obj_put(q->obj);
		free(q);
	}
}

/* ---- moving waiters; [lock] ---- */

static void enqueue(struct txn_waits *ws, struct txn_queue *q, struct txn_waiter *w, bool front)
{
	w->state = QUEUED;
	w->queue = q;
	if (front) {
		w->next = q->first;
		w->prev = &q->first;
		q->first = w;
		*(w->next ? &w->next->prev : &q->last) = &w->next;
	} else {
		w->next = NULL;
		w->prev = q->last;
		*q->last = w;
		q->last = &w->next;
	}
	if (w->txn) {
		w->txn_next = w->txn->waiting;
		w->txn_prev = &w->txn->waiting;
		if (w->txn_next)
			w->txn_next->txn_prev = &w->txn_next;
		w->txn->waiting = w;
	}
	ws->waiting++;
	txn_due_add(ws, w, w->deadline);
}

static void dequeue(struct txn_waits *ws, struct txn_waiter *w)
{
	struct txn_queue *q = w->queue;

	*w->prev = w->next;
	*(w->next ? &w->next->prev : &q->last) = w->prev;
	if (w->txn) {
		*w->txn_prev = w->txn_next;
		if (w->txn_next)
			w->txn_next->txn_prev = w->txn_prev;
	}
	ws->waiting--;
	txn_due_del(ws, w);
	w->state = IDLE;
	w->queue = NULL;
}

static void refuse(struct txn_waits *ws, struct txn_waiter *w, int why)
{
	dequeue(ws, w);
	w->wake(w, why);
}

/* Let the next one try, when nothing is in the way; drop the queue when there is none. */
static void go_on(struct txn_waits *ws, struct txn_queue *q, struct txn_queue **doomed)
{
	struct txn_waiter *w = q->first;

	if (q->holder || q->passing || q->settling)
		return;
	if (!w) {
		HASH_DEL(ws->queues, q);
		q->doomed = *doomed;
		*doomed = q;
		return;
	}
	dequeue(ws, w);
	w->state = PASSING;
	w->queue = q;
	set_passing(ws, q, w, false);
	if (w->hold_ms)
		txn_due_add(ws, w, base_after_ms(w->hold_ms));
	w->wake(w, 0);
}

/* The queue has lost a waiter. Nobody left: it goes. */
static void shrink(struct txn_waits *ws, struct txn_queue *q, struct txn_queue **doomed)
{
	if (q->first || q->passing || q->settling)
		return;
	set_holder(q, NULL);
	go_on(ws, q, doomed);
}

/* ---- circles; [lock] ---- */

/* For whom must a waiter of this queue wait? */
static struct txn *ahead(const struct txn_queue *q)
{
	return q->holder ? q->holder : q->passing ? q->passing->txn : NULL;
}

static bool reaches(struct txn_waits *ws, struct txn *from, const struct txn *goal)
{
	struct txn *stack = NULL;
	unsigned stamp = ++ws->stamp;

	if (!from || !goal)
		return false;
	from->wait_stamp = stamp;
	from->wait_next = NULL;
	for (stack = from; stack;) {
		struct txn *t = stack;

		stack = t->wait_next;
		for (struct txn_waiter *w = t->waiting; w; w = w->txn_next) {
			struct txn *to = ahead(w->queue);

			if (to == goal)
				return true;
			if (!to || to->wait_stamp == stamp)
				continue;
			to->wait_stamp = stamp;
			to->wait_next = stack;
			stack = to;
		}
	}
	return false;
}

/* The thing has gone to another holder: who waits for it may have closed a circle by that. */
static void look_for_circles(struct txn_waits *ws, struct txn_queue *q)
{
	struct txn_waiter *w, *next;

	for (w = q->first; w; w = next) {
		next = w->next;
		if (w->txn && q->holder == w->txn)
			refuse(ws, w, 0); /* its own transaction has it now: nothing is in the way */
		else if (w->txn && reaches(ws, q->holder, w->txn))
			refuse(ws, w, -EDEADLK);
		else if (!w->due.tv_sec && w->deadline.tv_sec) /* its deadline did not count while the last holder was on its way out */
			txn_due_add(ws, w, w->deadline);
	}
}

/* Has it ended, and is on its way out? */
static bool being_installed(const struct txn *t)
{
	return t && !txn_is_open(t);
}

/* ---- who holds it now? Without the lock ---- */

static struct txn *holder_of(struct txn_obj *obj, const char *name)
{
	struct txn_engine *eng = obj->eng;
	struct txn *t = NULL;

	if (*name) {
		struct txn_name *e;

		pthread_rwlock_rdlock(&eng->ns);
		e = obj->names ? txn_name_find(obj, name) : NULL;
		if (e && e->txn)
			t = txn_get(e->txn);
		pthread_rwlock_unlock(&eng->ns);
	} else {
		pthread_rwlock_rdlock(&obj->lock);
		if (obj->ws)
			t = txn_get(obj->ws->ws->txn);
		pthread_rwlock_unlock(&obj->lock);
	}
	return t;
}

/* [lock, released meanwhile] The waiter for whom it was reserved has tried, or has given up. */
static void settle(struct txn_engine *eng, struct txn_queue *q)
{
	struct txn_waits *ws = &eng->waits;
	struct txn_queue *doomed = NULL;
	char name[NAME_MAX + 1];
	struct txn *t;
	size_t n = q->key_len - sizeof(struct txn_obj *);

	if (!q->first) { /* nobody cares */
		set_passing(ws, q, NULL, false);
		shrink(ws, q, &doomed);
		pthread_mutex_unlock(&ws->lock);
		bury(doomed);
		pthread_mutex_lock(&ws->lock);
		return;
	}
	memcpy(name, q->key + sizeof(struct txn_obj *), n);
	name[n] = '\0';
	set_passing(ws, q, NULL, true); /* which keeps it */
	pthread_mutex_unlock(&ws->lock);
	t = holder_of(q->obj, name);
	pthread_mutex_lock(&ws->lock);
	set_passing(ws, q, NULL, false);
	if (t && !t->released) {
		set_holder(q, t);
		look_for_circles(ws, q);
	}
	go_on(ws, q, &doomed);
	pthread_mutex_unlock(&ws->lock);
	if (t)
		txn_put(t);
	bury(doomed);
	pthread_mutex_lock(&ws->lock);
}

/* ---- the timer ---- */

static void *timer_run(void *arg)
{
	struct txn_engine *eng = arg;
	struct txn_waits *ws = &eng->waits;
	struct timespec now;

	pthread_mutex_lock(&ws->lock);
	while (!ws->stopping) {
		struct txn_waiter *w = ws->due;
		struct txn_queue *q, *doomed = NULL;

		clock_gettime(CLOCK_MONOTONIC, &now);
		if (!w) {
			pthread_cond_wait(&ws->sooner, &ws->lock);
		} else if (base_timespec_before(&now, &w->due)) {
			struct timespec until = w->due;

			pthread_cond_timedwait(&ws->sooner, &ws->lock, &until);
		} else if (w->state == PASSING) {
			q = w->queue;
			txn_due_del(ws, w);
			w->state = IDLE;
			w->queue = NULL;
			q->passing = NULL;
			q->settling = true; /* still reserved: settle goes on from here */
			w->wake(w, -ECANCELED);
			settle(eng, q);
		} else if (being_installed(w->queue->holder)) {
			txn_due_del(ws, w); /* it will not take long, and is not for anybody to decide */
		} else {
			q = w->queue;
			refuse(ws, w, -EBUSY);
			shrink(ws, q, &doomed);
			pthread_mutex_unlock(&ws->lock);
			bury(doomed);
			pthread_mutex_lock(&ws->lock);
		}
	}
	pthread_mutex_unlock(&ws->lock);
	return NULL;
}

/* [lock] */
static int start_timer(struct txn_engine *eng)
{
	int r;

	if (eng->waits.started)
		return 0;
	r = pthread_create(&eng->waits.timer, NULL, timer_run, eng);
	eng->waits.started = !r;
	return -r;
}

/* ---- the interface ---- */

static bool passed(const struct timespec *deadline)
{
	struct timespec now;

	if (!deadline->tv_sec)
		return false;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return !base_timespec_before(&now, deadline);
}

/* [lock] May it wait for this? As txn_wait's result. */
static int may_wait(struct txn_engine *eng, struct txn_waiter *w, const struct txn_obstacle *c, const struct txn_queue *q)
{
	struct txn_waits *ws = &eng->waits;
	struct txn *t = c->holder;
	bool install = being_installed(t);

	if (w->cancelled)
		return -EINTR;
	if (w->txn && w->txn->released)
		return -ENOTCONN;
	if (t ? t->released : !q || !(q->holder || q->passing || q->settling))
		return 1;
	if (atomic_load(&eng->failed))
		return -EROFS;
	if (install && ws->stuck)
		return ws->stuck;
	if (!install && passed(&w->deadline))
		return -EBUSY;
	if (!t)
		t = ahead(q);
	if (w->txn && t != w->txn && reaches(ws, t, w->txn))
		return -EDEADLK;
	return 0;
}

int txn_wait(struct txn_engine *eng, struct txn_waiter *w, struct txn_obstacle *c)
{
	struct txn_waits *ws = &eng->waits;
	struct txn_queue *q, *left = NULL;
	int r;

	pthread_mutex_lock(&ws->lock);
	q = find(ws, c->obj, c->name);
	r = may_wait(eng, w, c, q);
	if (!r)
		r = start_timer(eng);
	if (!r && !q && !(q = make(ws, c)))
		r = -ENOMEM;
	if (!r) {
		bool front = w->state == PASSING && w->queue == q;

		if (w->state == PASSING) {
			txn_due_del(ws, w);
			if (front)
				set_passing(ws, q, NULL, false);
			else
				left = w->queue;
			w->state = IDLE;
		}
		enqueue(ws, q, w, front);
		if (c->holder && q->holder != c->holder) {
			set_holder(q, c->holder);
			look_for_circles(ws, q);
		}
	}
	if (left)
		settle(eng, left);
	pthread_mutex_unlock(&ws->lock);
	txn_obstacle_drop(c);
	return r;
}

bool txn_wait_cancel(struct txn_engine *eng, struct txn_waiter *w)
{
	struct txn_queue *doomed = NULL, *q;
	bool queued;

	pthread_mutex_lock(&eng->waits.lock);
	queued = w->state == QUEUED;
	if (queued) {
		q = w->queue;
		dequeue(&eng->waits, w);
		shrink(&eng->waits, q, &doomed);
	} else {
		w->cancelled = true;
	}
	pthread_mutex_unlock(&eng->waits.lock);
	bury(doomed);
	return queued;
}

void txn_wait_done(struct txn_engine *eng, struct txn_waiter *w)
{
	struct txn_waits *ws = &eng->waits;

	pthread_mutex_lock(&ws->lock);
	if (w->state == PASSING) {
		struct txn_queue *q = w->queue;

		txn_due_del(ws, w);
		w->state = IDLE;
		w->queue = NULL;
		settle(eng, q);
	}
	pthread_mutex_unlock(&ws->lock);
}

void txn_wait_deadline(struct txn_engine *eng, struct txn_waiter *w, const struct timespec *deadline)
{
	pthread_mutex_lock(&eng->waits.lock);
	w->deadline = *deadline;
	if (w->state == QUEUED)
		txn_due_add(&eng->waits, w, *deadline);
	pthread_mutex_unlock(&eng->waits.lock);
}

size_t txn_waits_for(struct txn *t, uint64_t *ids, size_t max)
{
	size_t n = 0;

	pthread_mutex_lock(&t->eng->waits.lock);
	for (struct txn_waiter *w = t->waiting; w; w = w->txn_next) {
		struct txn *to = ahead(w->queue);

		if (n < max)
			ids[n] = to ? to->id : 0;
		n++;
	}
	pthread_mutex_unlock(&t->eng->waits.lock);
	return n;
}

size_t txn_waiters(struct txn_engine *eng)
{
	size_t n;

	pthread_mutex_lock(&eng->waits.lock);
	n = eng->waits.waiting;
	pthread_mutex_unlock(&eng->waits.lock);
	return n;
}

/* ---- for the rest of the engine ---- */

bool txn_waits_reserved(struct txn_obj *obj, const char *name, const struct txn_waiter *self)
{
	struct txn_waits *ws = &obj->eng->waits;
	struct txn_queue *q;
	bool other;

	pthread_mutex_lock(&ws->lock);
	q = find(ws, obj, name);
	other = q && (q->settling || (q->passing && q->passing != self));
	pthread_mutex_unlock(&ws->lock);
	return other;
}

void txn_waits_release(struct txn *t)
{
	struct txn_waits *ws = &t->eng->waits;
	struct txn_queue *q, *doomed = NULL;

	pthread_mutex_lock(&ws->lock);
	t->released = true;
	while (t->waiting) {
		q = t->waiting->queue;
		refuse(ws, t->waiting, -ENOTCONN);
		shrink(ws, q, &doomed);
	}
	while ((q = t->holds)) {
		set_holder(q, NULL);
		go_on(ws, q, &doomed);
	}
	pthread_mutex_unlock(&ws->lock);
	bury(doomed);
}

void txn_waits_stuck(struct txn_engine *eng, int why)
{
	struct txn_waits *ws = &eng->waits;
	struct txn_queue *q, *tmp, *doomed = NULL;
	bool all = atomic_load(&eng->failed);

	pthread_mutex_lock(&ws->lock);
	ws->stuck = why;
	HASH_ITER (hh, ws->queues, q, tmp) {
		if (!why || !(all || being_installed(q->holder)))
			continue;
		while (q->first)
			refuse(ws, q->first, why);
		shrink(ws, q, &doomed);
	}
	pthread_mutex_unlock(&ws->lock);
	bury(doomed);
}

void txn_waits_init(struct txn_engine *eng)
{
	pthread_mutex_init(&eng->waits.lock, NULL);
	base_cond_init(&eng->waits.sooner);
}

/* Nobody waits any more: whoever queued up has cancelled. */
void txn_waits_free(struct txn_engine *eng)
{
	struct txn_waits *ws = &eng->waits;

	pthread_mutex_lock(&ws->lock);
	ws->stopping = true;
	pthread_cond_signal(&ws->sooner);
	pthread_mutex_unlock(&ws->lock);
	if (ws->started)
		pthread_join(ws->timer, NULL);
	pthread_mutex_destroy(&ws->lock);
	pthread_cond_destroy(&ws->sooner);
}
