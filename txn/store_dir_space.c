/*
 * store_dir_space.c - the ballast: a file that holds the space which committed transactions still need to be installed.
 *
 * reserve() before a commit makes the ballast at least as large as all outstanding reservations together, so the
 * promise is made in blocks that nobody else can take. While the disk has room, installs simply write and release()
 * only counts down: the ballast keeps its standing size and costs nothing. When the disk is low, release() cuts the
 * ballast by the bytes released before the install goes on, so that they are there for it; other reservations stay
 * covered, because
 *
 *     reserved <= ballast        at all times (space_lock)
 *
 * and a cut takes away no more than what was released. Low means: fewer than bytes + LOW_WATER are free for ordinary
 * users, or some operation of this store has met a full disk or quota since the ballast last grew; the latter covers
 * quotas, which statvfs does not tell. An install that got ENOSPC therefore calls release() for its own reservation and
 * tries again. Later reservations make the ballast grow back to its standing size when there is room.
 *
 * The file is never written where fallocate works. A ballast left by a crash is adopted at its size: the transactions
 * that recovery installs were promised it.
 */
#include "txn/store_dir.h"

#include <string.h>
#include <syslog.h>

#define BALLAST_NAME "ballast"
#define STANDING (8u << 20)
#define STANDING_MIN (64u << 10)
#define LOW_WATER (16u << 20)
/* Of the space that is free when the store is opened the ballast takes at most one part in this many. */
#define STANDING_SHARE 8

static uint64_t free_space(const struct store_dir *sd)
{
	struct statvfs sv;
	return fstatvfs(sd->root_fd, &sv) < 0 ? 0 : (uint64_t)sv.f_bavail * sv.f_frsize;
}

static int write_zeros(int fd, uint64_t from, uint64_t to)
{
	static const char zeros[64 << 10];
	while (from < to) {
		size_t n = (size_t)base_min_u64(to - from, sizeof(zeros));
		ssize_t r = pwrite(fd, zeros, n, (off_t)from);
		if (r < 0 && errno != EINTR)
			return -errno;
		from += r > 0 ? (uint64_t)r : 0;
	}
	/* Space is taken for good only when it is written back. */
	return fdatasync(fd) < 0 ? -errno : 0;
}

/* With space_lock held. On failure the ballast is as large as before. */
static int resize(struct store_dir *sd, uint64_t size)
{
	int r = 0;
	if (size > sd->ballast) {
		do
			r = fallocate(sd->ballast_fd, 0, (off_t)sd->ballast, (off_t)(size - sd->ballast)) < 0 ? -errno
			                                                                                      : 0;
		while (r == -EINTR);
		if (r == -EOPNOTSUPP || r == -ENOSYS)
			r = write_zeros(sd->ballast_fd, sd->ballast, size);
		if (r < 0 && ftruncate(sd->ballast_fd, (off_t)sd->ballast) < 0)
			base_log(LOG_WARNING, "ballast: %s", strerror(errno));
		if (!r)
			atomic_store(&sd->pressed, false);
	} else if (size < sd->ballast && ftruncate(sd->ballast_fd, (off_t)size) < 0) {
		r = -errno;
	}
	if (!r)
		sd->ballast = size;
	return r;
}

int store_dir_ballast_open(struct store_dir *sd)
{
	struct stat st;
	CLEANUP_CLOSE int fd = openat(sd->state_fd, BALLAST_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return errno == ENOSPC || errno == EDQUOT ? 0 : -errno; /* no inode left: go on without */
	if (fstat(fd, &st) < 0)
		return -errno;
	sd->ballast_fd = TAKE_FD(fd);
	sd->ballast = (uint64_t)st.st_size;
	/* A crash while it grew may have left holes. */
	if (st.st_blocks * 512 < st.st_size && resize(sd, 0) < 0)
		return -EIO;
	uint64_t size = base_min_u64(STANDING, free_space(sd) / STANDING_SHARE);
	for (; size >= STANDING_MIN && size > sd->ballast; size /= 2)
		if (resize(sd, size / STANDING_MIN * STANDING_MIN) == 0)
			break;
	return 0;
}

int store_dir_reserve(struct store *st, uint64_t bytes)
{
	struct store_dir *sd = store_dir_of(st);
	uint64_t need;
	int r = 0;
	if (sd->read_only)
		return -EROFS;
	pthread_mutex_lock(&sd->space_lock);
	if (base_add_u64(sd->reserved, bytes, &need) < 0 || need > INT64_MAX || (need && sd->ballast_fd < 0)) {
		r = -ENOSPC;
	} else {
		bool room = sd->ballast < STANDING && sd->ballast_fd >= 0 && free_space(sd) >= STANDING + LOW_WATER;
		if (room)
			(void)resize(sd, base_max_u64(STANDING, need));
		if (need > sd->ballast)
			r = resize(sd, need);
		if (r == -EDQUOT || r == -EFBIG)
			r = -ENOSPC;
		if (!r)
			sd->reserved = need;
	}
	pthread_mutex_unlock(&sd->space_lock);
	return r;
}

void store_dir_release(struct store *st, uint64_t bytes)
{
	struct store_dir *sd = store_dir_of(st);
	if (sd->read_only)
		return;
	pthread_mutex_lock(&sd->space_lock);
	if (bytes == UINT64_MAX) { /* recovery: whatever an earlier life has kept */
		bytes = sd->ballast;
		sd->reserved = 0;
	} else {
		bytes = base_min_u64(bytes, sd->reserved);
		sd->reserved -= bytes;
	}
	uint64_t target = sd->ballast, standing = base_max_u64(STANDING, sd->reserved);
	bool pressed = atomic_load(&sd->pressed);
	if (pressed || free_space(sd) < bytes + LOW_WATER)
		target = sd->ballast - bytes;
	else if (sd->ballast - base_min_u64(sd->ballast, standing) >= STANDING)
		target = standing; /* not for every small excess */
	int r = target != sd->ballast ? resize(sd, target) : 0;
	/* Journals hand freed blocks out again only after their next commit. */
	if (!r && pressed && bytes)
		r = fsync(sd->ballast_fd) < 0 ? -errno : 0;
	if (r < 0)
		base_log(LOG_WARNING, "ballast: %s", strerror(-r));
	pthread_mutex_unlock(&sd->space_lock);
}
