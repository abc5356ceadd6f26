/*
 * xa_state.c - threads of control: what each has opened and which branches it is in; which branches are rollback-only.
 *
 * The rest of a branch's state is the mount's: whether it exists, is prepared, or has threads in it (a shared flock on
 * its directory, by each association). So all processes that use a mount see one state.
 */
#include "tools/lib/xa_private.h"

#include <string.h>
#include <sys/file.h>

struct xa_thread {
	struct xa_thread *next;
	struct xa_rm *rms;
};

/* Under `table`: both lists, and all that hangs on them as far as xa_private.h says so. */
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;
static struct xa_thread *threads;
static struct xa_branch *branches;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* the calling thread's struct xa_thread */
static int key_error;

/* ---- branches; the table is locked ---- */

static struct xa_branch *branch_find(const char *point, const char *gid)
{
	struct xa_branch *b = branches;

	while (b && (strcmp(b->gid, gid) || strcmp(b->point, point)))
		b = b->next;
	return b;
}

static struct xa_branch *branch_new(const char *point, const char *gid)
{
	struct xa_branch *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->point = strdup(point);
	if (!b->point) {
		free(b);
		return NULL;
	}
	memcpy(b->gid, gid, strlen(gid) + 1);
	b->next = branches;
	branches = b;
	return b;
}

static void branch_free(struct xa_branch *b)
{
	free(b->point);
	free(b);
}

static void branch_drop(struct xa_branch *b)
{
	struct xa_branch **p = &branches;

	if (b->associations || b->rollback_only)
		return;
	while (*p != b)
		p = &(*p)->next;
	*p = b->next;
	branch_free(b);
}

/* ---- threads ---- */

static void rm_free(struct xa_rm *rm)
{
	txnfs_close(rm->fs);
	free(rm->scan);
	free(rm);
}

/* The thread ends. */
static void thread_end(void *arg)
{
	struct xa_thread *t = arg, **p = &threads;
	struct xa_rm *rm;

	while ((rm = t->rms)) {
		while (rm->associations) {
			xa_abandon(rm, rm->associations);
			xa_dissociate(rm, rm->associations);
		}
		/* xa_rm_remove would look the calling thread up, whose key has been cleared. */
		pthread_mutex_lock(&table);
		t->rms = rm->next;
		pthread_mutex_unlock(&table);
		rm_free(rm);
	}
	pthread_mutex_lock(&table);
	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
	pthread_mutex_unlock(&table);
	free(t);
}

static void before_fork(void)
{
	pthread_mutex_lock(&table);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&table);
}

/*
 * The child is no thread of control yet, and in no branch. Its copies of the descriptors must go: they would keep the
 * parent's mount busy. (Closing them leaves the parent's locks alone.)
 */
static void in_child(void)
{
	struct xa_association *a;
	struct xa_thread *t;
	struct xa_branch *b;
	struct xa_rm *rm;

	while ((t = threads)) {
		threads = t->next;
		while ((rm = t->rms)) {
			t->rms = rm->next;
			while ((a = rm->associations)) {
				rm->associations = a->next;
				close(a->fd);
				free(a);
			}
			rm_free(rm);
		}
		free(t);
	}
	while ((b = branches)) {
		branches = b->next;
		branch_free(b);
	}
	pthread_setspecific(key, NULL);
	pthread_mutex_unlock(&table);
}

static void init(void)
{
	key_error = pthread_key_create(&key, thread_end);
	if (!key_error)
		key_error = pthread_atfork(before_fork, after_fork, in_child);
}

static struct xa_thread *thread_self(bool make)
{
	struct xa_thread *t;

	pthread_once(&once, init);
	t = key_error ? NULL : pthread_getspecific(key);
	if (t || !make || key_error)
		return t;
	t = calloc(1, sizeof(*t));
	if (t && pthread_setspecific(key, t)) {
		free(t);
		t = NULL;
	}
	if (!t)
		return NULL;
	pthread_mutex_lock(&table);
	t->next = threads;
	threads = t;
	pthread_mutex_unlock(&table);
	return t;
}

/* ---- resource managers ---- */

struct xa_rm *xa_rm_find(int rmid)
{
	struct xa_thread *t = thread_self(false);
	struct xa_rm *rm = t ? t->rms : NULL;

	while (rm && rm->rmid != rmid)
		rm = rm->next;
	return rm;
}

int xa_rm_add(int rmid, const char *text, const struct xa_info *info, struct txnfs *fs)
{
	struct xa_thread *t = thread_self(true);
	struct xa_rm *rm = t ? calloc(1, sizeof(*rm)) : NULL;

	if (!rm) {
		txnfs_close(fs);
		return txnfs_lib_fail(-ENOMEM, "%s", strerror(ENOMEM));
	}
	rm->rmid = rmid;
	rm->info = *info;
	rm->fs = fs;
	memcpy(rm->text, text, strlen(text) + 1);
	pthread_mutex_lock(&table);
	rm->next = t->rms;
	t->rms = rm;
	pthread_mutex_unlock(&table);
	return 0;
}

void xa_rm_remove(struct xa_rm *rm)
{
	struct xa_rm **p = &thread_self(false)->rms;

	pthread_mutex_lock(&table);
	while (*p != rm)
		p = &(*p)->next;
	*p = rm->next;
	pthread_mutex_unlock(&table);
	rm_free(rm);
}

/* ---- associations ---- */

struct xa_association *xa_association_of(struct xa_rm *rm, const char *gid)
{
	struct xa_association *a = rm->associations;

	while (a && strcmp(a->branch->gid, gid))
		a = a->next;
	return a;
}

struct xa_association *xa_association_active(struct xa_rm *rm)
{
	struct xa_association *a = rm->associations;

	while (a && a->suspended)
		a = a->next;
	return a;
}

int xa_associate(struct xa_rm *rm, const char *gid, int fd)
{
	struct xa_association *a = calloc(1, sizeof(*a));
	struct xa_branch *b;
	int code = XA_OK;

	pthread_mutex_lock(&table);
	b = branch_find(txnfs_mount_point(rm->fs), gid);
	if (!b && a)
		b = branch_new(txnfs_mount_point(rm->fs), gid);
	if (!a || !b)
		code = XAER_RMERR;
	else if (b->rollback_only)
		code = b->rollback_only;
	if (!code) {
		b->associations++;
		*a = (struct xa_association){.next = rm->associations, .branch = b, .fd = fd};
		rm->associations = TAKE_PTR(a);
	}
	pthread_mutex_unlock(&table);
	free(a);
	if (code) {
		flock(fd, LOCK_UN); /* not only the last close: a child may have a copy for a moment */
		close(fd);
	}
	if (code == XAER_RMERR)
		txnfs_lib_fail(-ENOMEM, "%s", strerror(ENOMEM));
	else if (code)
		txnfs_lib_fail(0, "branch %s is rollback-only", gid);
	return code;
}

void xa_dissociate(struct xa_rm *rm, struct xa_association *a)
{
	struct xa_association **p = &rm->associations;

	/* For a child that has the same open file, too. */
	flock(a->fd, LOCK_UN);
	pthread_mutex_lock(&table);
	close(a->fd);
	while (*p != a)
		p = &(*p)->next;
	*p = a->next;
	a->branch->associations--;
	branch_drop(a->branch);
	pthread_mutex_unlock(&table);
	free(a);
}

/* ---- rollback-only ---- */

int xa_rollback_only(const struct xa_rm *rm, const char *gid)
{
	struct xa_branch *b;
	int code;

	pthread_mutex_lock(&table);
	b = branch_find(txnfs_mount_point(rm->fs), gid);
	code = b ? b->rollback_only : 0;
	pthread_mutex_unlock(&table);
	return code;
}

int xa_mark_rollback_only(struct xa_association *a, int code)
{
	pthread_mutex_lock(&table);
	if (!a->branch->rollback_only)
		a->branch->rollback_only = code;
	code = a->branch->rollback_only;
	pthread_mutex_unlock(&table);
	return code;
}

int xa_clear_rollback_only(const struct xa_rm *rm, const char *gid)
{
	struct xa_branch *b;
	int code = 0;

	pthread_mutex_lock(&table);
	b = branch_find(txnfs_mount_point(rm->fs), gid);
	if (b && b->rollback_only) {
		code = b->associations ? XAER_PROTO : b->rollback_only;
		if (!b->associations) {
			b->rollback_only = 0;
			branch_drop(b);
		}
	}
	pthread_mutex_unlock(&table);
	return code;
}
