/* member.c - a cache of processes and their ancestry, checked by pidfds. */
#include "fusefs/member.h"

#include "base/base.h"
#include "base/map.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <syslog.h>

#define PROCESSES_DEFAULT 4096
#define PIDFDS_FALLBACK 64 /* when the descriptor limit cannot be read */
#define SWEEP 3
#define SECOND_CHANCES 8
#define ORPHAN_CHANCES 64
#define PARENT_TRIES 4
#define NAMESPACES_MAX 64 /* more than the 32 levels that the kernel allows */

#define TXNFS_PIDFS_MAGIC 0x50494446 /* from <linux/magic.h> of Linux 6.9 */

/* From <linux/pidfd.h> of Linux 6.13: older headers lack it, older kernels refuse it. */
#define TXNFS_PIDFD_THREAD O_EXCL
#define TXNFS_PIDFD_INFO_PID 1u

struct pidfd_info_v0 {
	uint64_t mask;
	uint64_t cgroupid;
	uint32_t pid;
	uint32_t tgid;
	uint32_t ppid;
	uint32_t ids[8];
	uint32_t spare;
};
_Static_assert(sizeof(struct pidfd_info_v0) == 64, "the kernel's first version of the structure");

#define TXNFS_PIDFD_GET_INFO _IOWR(0xff, 11, struct pidfd_info_v0)

struct process {
	struct fusefs_process pub;
	atomic_uint refs; /* the cache, children (through pub.parent) and callers */
	/* below: members.lock */
	int pidfd; /* -1: checked by start time */
	UT_hash_handle hh;
	TAILQ_ENTRY(process) used; /* newest first */
	TAILQ_ENTRY(process) held; /* those with a pidfd, newest first */
};

struct fusefs_members {
	pthread_mutex_t lock; /* a leaf */
	struct process *by_tgid;
	TAILQ_HEAD(used_head, process) used;
	TAILQ_HEAD(held_head, process) held;
	unsigned n_used, n_held;
	unsigned max_used, max_held;
	bool no_thread_info; /* this kernel has no PIDFD_THREAD or no PIDFD_GET_INFO */
	bool serials;        /* constant: pidfds are files of pidfs, whose numbers are never used again */
	bool blind;          /* constant: /proc is missing, or another namespace's */
};

struct stat_line {
	pid_t ppid;
	uint64_t start;
	bool dead; /* a zombie whose last thread has gone */
};

static struct process *process_of_pub(struct fusefs_process *p)
{
	return container_of(p, struct process, pub);
}

struct fusefs_process *fusefs_process_get(struct fusefs_process *p)
{
	atomic_fetch_add_explicit(&process_of_pub(p)->refs, 1, memory_order_relaxed);
	return p;
}

void fusefs_process_put(struct fusefs_process *p)
{
	while (p && atomic_fetch_sub_explicit(&process_of_pub(p)->refs, 1, memory_order_acq_rel) == 1) {
		struct fusefs_process *parent = p->parent;

		free(process_of_pub(p));
		p = parent;
	}
}

/* ---- /proc and pidfds ---- */

static int pidfd_open_(pid_t pid, unsigned flags)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, flags);

	return fd < 0 ? -errno : fd;
}

/* A small file below /proc/PID, NUL-terminated in buf. */
static int read_proc(pid_t pid, const char *file, char *buf, size_t size)
{
	CLEANUP_CLOSE int fd = -1;
	char path[64];
	size_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	while (n < size - 1) {
		ssize_t got = read(fd, buf + n, size - 1 - n);

		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	buf[n] = '\0';
	return 0;
}

static int read_stat(pid_t pid, struct stat_line *out)
{
	char buf[1024], state, *p;
	unsigned long long start;
	long threads;
	int rc = read_proc(pid, "stat", buf, sizeof(buf)), ppid;

	if (rc)
		return rc;
	p = strrchr(buf, ')'); /* the name before it may hold anything */
	if (!p || sscanf(p + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d %llu",
	                 &state, &ppid, &threads, &start) != 4)
		return -EIO;
	out->ppid = ppid;
	out->start = start;
	out->dead = (state == 'Z' || state == 'X') && threads <= 1;
	return 0;
}

/* The value of a line "KEY:\tvalue" in /proc/PID/status. */
static int read_status(pid_t pid, const char *key, char *value, size_t size)
{
	char buf[4096], *p;
	int rc = read_proc(pid, "status", buf, sizeof(buf));

	if (rc)
		return rc;
	p = strstr(buf, key); /* keys begin with '\n': the process's name comes first and has its newlines escaped */
	if (!p)
		return -EIO;
	p += strlen(key);
	snprintf(value, size, "%.*s", (int)strcspn(p, "\n"), p);
	return 0;
}

static uint64_t serial_of(const struct fusefs_members *m, int pidfd)
{
	struct stat st;

	return m->serials && pidfd >= 0 && fstat(pidfd, &st) == 0 ? st.st_ino : 0;
}

/* Pids of a process, from the outermost namespace that /proc shows to its own: their number. */
static unsigned namespace_pids(pid_t pid, pid_t *ids)
{
	char value[NAMESPACES_MAX * 12], *p = value, *end;
	unsigned n = 0;

	if (read_status(pid, "\nNSpid:", value, sizeof(value)) != 0)
		return 0;
	for (; n < NAMESPACES_MAX; p = end) {
		long id = strtol(p, &end, 10);

		if (end == p)
			break;
		ids[n++] = (pid_t)id;
	}
	return n;
}

pid_t fusefs_process_seen_by(const struct fusefs_process *p, const struct fusefs_process *viewer)
{
	pid_t ours[NAMESPACES_MAX], theirs[NAMESPACES_MAX];
	unsigned n, depth;

	n = namespace_pids(p->tgid, ours);
	depth = namespace_pids(viewer->tgid, theirs);
	if (!fusefs_process_alive(p) || !fusefs_process_alive(viewer))
		return 0;
	if (!n && !depth)
		return p->tgid; /* a kernel without namespaces */
	/* Nobody leaves its namespace but downwards: as deep as a descendant is as deep in the same one. */
	return n && n == depth ? ours[n - 1] : 0;
}

static int thread_group(struct fusefs_members *m, pid_t tid, pid_t *tgid)
{
	char value[64];
	int rc;

	if (!m->no_thread_info) {
		struct pidfd_info_v0 info = {.mask = TXNFS_PIDFD_INFO_PID};
		CLEANUP_CLOSE int fd = pidfd_open_(tid, TXNFS_PIDFD_THREAD);

		if (fd == -ESRCH)
			return -ESRCH;
		if (fd >= 0 && ioctl(fd, TXNFS_PIDFD_GET_INFO, &info) == 0 && info.tgid > 0) {
			*tgid = (pid_t)info.tgid;
			return 0;
		}
		if (fd >= 0 && errno == ESRCH)
			return -ESRCH;
		if (fd >= 0 || fd == -EINVAL || fd == -ENOSYS)
			m->no_thread_info = true;
	}
	rc = read_status(tid, "\nTgid:", value, sizeof(value));
	if (rc)
		return rc;
	*tgid = (pid_t)strtol(value, NULL, 10);
	return *tgid > 0 ? 0 : -ESRCH;
}

static bool pidfd_alive(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	return poll(&pfd, 1, 0) == 0;
}

int fusefs_process_open(const struct fusefs_process *p)
{
	struct stat_line st;
	int fd = pidfd_open_(p->tgid, 0), rc;

	if (fd < 0)
		return fd == -EINVAL ? -ESRCH : fd; /* EINVAL: the id now is a thread's */
	/* The start time is read after the id was opened: when it is right the process lives on, and is what was
	 * opened. */
	rc = read_stat(p->tgid, &st);
	if (rc == 0 && st.start != p->start)
		rc = -ESRCH;
	if (rc) {
		close(fd);
		return rc;
	}
	return fd;
}

bool fusefs_process_alive(const struct fusefs_process *p)
{
	struct stat_line st;

	return read_stat(p->tgid, &st) == 0 && st.start == p->start && !st.dead;
}

int fusefs_process_uids(const struct fusefs_process *p, uid_t *real, uid_t *effective)
{
	char value[128];
	unsigned r, e;
	int rc = read_status(p->tgid, "\nUid:", value, sizeof(value));

	if (rc)
		return rc == -ESRCH ? rc : -EACCES;
	if (sscanf(value, "%u %u", &r, &e) != 2)
		return -EACCES;
	if (!fusefs_process_alive(p))
		return -ESRCH;
	*real = r;
	*effective = e;
	return 0;
}

/* ---- the cache; members.lock is held in all of these ---- */

static void release_pidfd(struct fusefs_members *m, struct process *p)
{
	if (p->pidfd < 0)
		return;
	close(p->pidfd);
	p->pidfd = -1;
	TAILQ_REMOVE(&m->held, p, held);
	m->n_held--;
}

/* Takes fd over. The process that was used least recently gives its own up when there are too many. */
static void hold_pidfd(struct fusefs_members *m, struct process *p, int fd)
{
	if (m->n_held >= m->max_held)
		release_pidfd(m, TAILQ_LAST(&m->held, held_head));
	p->pidfd = fd;
	TAILQ_INSERT_HEAD(&m->held, p, held);
	m->n_held++;
}

/* Was that for want of descriptors, and has one been freed for another try? */
static bool make_room(struct fusefs_members *m, int rc)
{
	if ((rc != -EMFILE && rc != -ENFILE) || !m->n_held)
		return false;
	release_pidfd(m, TAILQ_LAST(&m->held, held_head));
	return true;
}

static int look(struct fusefs_members *m, pid_t pid, struct stat_line *out)
{
	int rc;

	do
		rc = read_stat(pid, out);
	while (make_room(m, rc));
	return rc;
}

static void forget(struct fusefs_members *m, struct process *p)
{
	release_pidfd(m, p);
	HASH_DEL(m->by_tgid, p);
	TAILQ_REMOVE(&m->used, p, used);
	m->n_used--;
	fusefs_process_put(&p->pub);
}

static void touch(struct fusefs_members *m, struct process *p)
{
	TAILQ_REMOVE(&m->used, p, used);
	TAILQ_INSERT_HEAD(&m->used, p, used);
	if (p->pidfd >= 0) {
		TAILQ_REMOVE(&m->held, p, held);
		TAILQ_INSERT_HEAD(&m->held, p, held);
	}
}

/* Is the process that was cached under this id still the one that has it? */
static bool still_there(struct fusefs_members *m, struct process *p)
{
	struct stat_line st;
	int fd;

	if (p->pidfd >= 0)
		return pidfd_alive(p->pidfd);
	/* Opened before the start time is read, so that a right start time proves the descriptor right too. */
	fd = m->max_held ? pidfd_open_(p->pub.tgid, 0) : -1;
	if (look(m, p->pub.tgid, &st) != 0 || st.start != p->pub.start ||
	    (fd >= 0 && p->pub.serial && serial_of(m, fd) != p->pub.serial)) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	if (fd >= 0)
		hold_pidfd(m, p, fd);
	return true;
}

static struct process *find(struct fusefs_members *m, pid_t tgid)
{
	struct process *p;

	HASH_FIND(hh, m->by_tgid, &tgid, sizeof(tgid), p);
	if (!p)
		return NULL;
	if (!still_there(m, p)) {
		forget(m, p);
		return NULL;
	}
	touch(m, p);
	return p;
}

/* Has it lost the parent that it had, so that its ancestry is known here alone? */
static bool is_orphan(struct fusefs_members *m, const struct process *p)
{
	struct stat_line st;

	return p->pub.parent && (look(m, p->pub.tgid, &st) != 0 || st.ppid != p->pub.parent->tgid);
}

/* Make room, at the cost of the dead if possible, and not of living orphans, of which there may be too many for once. */
static void evict(struct fusefs_members *m, const struct process *newest)
{
	for (unsigned i = 0; m->n_used > m->max_used && i < SECOND_CHANCES + ORPHAN_CHANCES; i++) {
		struct process *p = TAILQ_LAST(&m->used, used_head);

		if (p == newest)
			return;
		if (still_there(m, p) && (i < SECOND_CHANCES || is_orphan(m, p)))
			touch(m, p);
		else
			forget(m, p);
	}
}

/* With each new process, look at some that were not seen for long: the dead go, and their descriptors. */
static void sweep(struct fusefs_members *m, const struct process *newest)
{
	for (unsigned i = 0; i < SWEEP; i++) {
		struct process *p = TAILQ_LAST(&m->used, used_head);

		if (p == newest)
			return;
		if (still_there(m, p))
			touch(m, p);
		else
			forget(m, p);
	}
}

/* Put a process that is not cached into the cache, without its parent. The reference is the cache's. */
static int load(struct fusefs_members *m, pid_t tgid, struct process **out, pid_t *ppid)
{
	struct stat_line st;
	struct process *p;
	int fd = m->max_held ? pidfd_open_(tgid, 0) : -1;
	int rc = fd == -ESRCH || fd == -EINVAL ? -ESRCH : look(m, tgid, &st);

	if (rc == 0 && (st.dead || (fd >= 0 && !pidfd_alive(fd))))
		rc = -ESRCH; /* what was read may be of the next one with this id */
	p = rc ? NULL : calloc(1, sizeof(*p));
	if (!p) {
		if (fd >= 0)
			close(fd);
		return rc ? rc : -ENOMEM;
	}
	p->pub.tgid = tgid;
	p->pub.start = st.start;
	p->pub.serial = serial_of(m, fd);
	p->pidfd = -1;
	atomic_init(&p->refs, 1);
	HASH_ADD(hh, m->by_tgid, pub.tgid, sizeof(p->pub.tgid), p);
	if (!p->hh.tbl) {
		if (fd >= 0)
			close(fd);
		free(p);
		return -ENOMEM;
	}
	TAILQ_INSERT_HEAD(&m->used, p, used);
	m->n_used++;
	if (fd >= 0)
		hold_pidfd(m, p, fd);
	*ppid = st.ppid;
	*out = p;
	return 0;
}

/*
 * The parent of a process that has just been loaded, or NULL; *grandparent: of one that was not cached.
 *
 * The id of a parent was read before the parent was looked at, which may have died in between and its id been used
 * again. But a parent is never younger than its child, and a new process is. The child has another parent then.
 */
static struct process *find_parent(struct fusefs_members *m, const struct process *child, pid_t ppid, bool *cached,
                                   pid_t *grandparent)
{
	struct stat_line st;
	struct process *p;

	for (unsigned i = 0; i < PARENT_TRIES && ppid > 0; i++) {
		p = find(m, ppid);
		*cached = p != NULL;
		if ((p || load(m, ppid, &p, grandparent) == 0) && p->pub.start <= child->pub.start)
			return p;
		if (look(m, child->pub.tgid, &st) != 0 || st.start != child->pub.start || st.ppid == ppid)
			return NULL;
		ppid = st.ppid;
	}
	return NULL;
}

/*
 * A reference to the process with this id, from the cache or loaded together with its ancestors up to the first that is
 * cached.
 */
static int find_or_load(struct fusefs_members *m, pid_t tgid, struct fusefs_process **out)
{
	struct process *first = find(m, tgid), *child, *p;
	pid_t ppid;
	int rc;

	if (first) {
		*out = fusefs_process_get(&first->pub);
		return 0;
	}
	rc = load(m, tgid, &first, &ppid);
	if (rc)
		return rc;
	*out = fusefs_process_get(&first->pub);
	for (child = first; ppid > 0; child = p) {
		bool cached;
		pid_t next = 0;

		p = find_parent(m, child, ppid, &cached, &next);
		if (!p)
			break;
		child->pub.parent = fusefs_process_get(&p->pub);
		if (cached)
			break;
		ppid = next;
	}
	sweep(m, first);
	evict(m, first); /* only now: it must see who is whose child */
	return 0;
}

/* ---- the module's door ---- */

/* Is /proc that of this process's pid namespace? Of another one, its entries are other processes than ids mean here. */
static bool proc_is_ours(void)
{
	char text[32];
	ssize_t n = readlink("/proc/self", text, sizeof(text) - 1);

	if (n <= 0)
		return false;
	text[n] = '\0';
	return strtol(text, NULL, 10) == getpid();
}

int fusefs_members_new(unsigned processes, unsigned pidfds, struct fusefs_members **out)
{
	struct fusefs_members *m = calloc(1, sizeof(*m));
	struct rlimit lim;
	struct statfs sfs;
	int probe;

	if (!m)
		return -ENOMEM;
	pthread_mutex_init(&m->lock, NULL);
	TAILQ_INIT(&m->used);
	TAILQ_INIT(&m->held);
	m->max_used = processes ? processes : PROCESSES_DEFAULT;
	if (!pidfds)
		pidfds = getrlimit(RLIMIT_NOFILE, &lim) ? PIDFDS_FALLBACK
		                                        : (unsigned)base_min_u64(lim.rlim_cur / 4, m->max_used);
	m->max_held = pidfds;
	m->blind = !proc_is_ours();
	if (m->blind)
		base_log(LOG_WARNING, "/proc does not show this process's pid namespace: no process can be a member of a "
		                      "transaction, only named ones are possible");
	probe = pidfd_open_(getpid(), 0);
	m->serials = probe >= 0 && fstatfs(probe, &sfs) == 0 && sfs.f_type == TXNFS_PIDFS_MAGIC;
	if (probe >= 0)
		close(probe);
	else if (probe == -ENOSYS || probe == -EPERM)
		m->max_held = 0; /* an old kernel, or a sandbox that forbids it */
	*out = m;
	return 0;
}

void fusefs_members_free(struct fusefs_members *m)
{
	struct process *p;

	if (!m)
		return;
	while ((p = TAILQ_FIRST(&m->used)))
		forget(m, p);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

int fusefs_process_of(struct fusefs_members *m, pid_t tid, struct fusefs_process **out)
{
	struct process *p;
	pid_t tgid;
	int rc = 0;

	if (tid <= 0 || m->blind)
		return -ESRCH;
	pthread_mutex_lock(&m->lock);
	/* A cached process that lives still has its id: a thread with that id is its leader. */
	p = find(m, tid);
	if (p) {
		*out = fusefs_process_get(&p->pub);
	} else {
		do
			rc = thread_group(m, tid, &tgid);
		while (make_room(m, rc));
		if (rc == 0)
			rc = find_or_load(m, tgid, out);
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}
