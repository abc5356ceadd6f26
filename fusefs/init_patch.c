/*
 * init_patch.c - what the kernel can do and libfuse 3.14 cannot: a look at each request before libfuse has it, and at
 * the reply to INIT before the kernel has it.
 *
 *   - HANDLE_KILLPRIV_V2. Without it the kernel asks for security.capability before each write(2). With it requests
 *     say when suid and sgid must be cleared, which libfuse does not pass on.
 *   - PARALLEL_DIROPS, which libfuse negotiates but forgets to put into its reply.
 *   - TMPFILE becomes a CREATE without a name.
 */
#include "fusefs/private.h"

#include <linux/fuse.h>

_Thread_local struct fusefs_raw fusefs_raw;

#define WANTED (FUSE_HANDLE_KILLPRIV_V2 | FUSE_PARALLEL_DIROPS)

static ssize_t io_read(int fd, void *buf, size_t len, void *userdata)
{
	struct fusefs *fs = userdata;
	ssize_t n = read(fd, buf, len);
	struct fuse_in_header *in = buf;
	const void *arg = in + 1;

	if (n < (ssize_t)sizeof(*in))
		return n;
	len = (size_t)n - sizeof(*in);
	fusefs_raw = (struct fusefs_raw){.bytes = buf, .len = (size_t)n};
	switch (in->opcode) {
	case FUSE_INIT:
		if (len >= offsetof(struct fuse_init_in, flags2)) {
			fs->init_unique = in->unique;
			fs->init_offered = ((const struct fuse_init_in *)arg)->flags;
			fs->init_pending = true;
		}
		break;
	case FUSE_TMPFILE:
		in->opcode = FUSE_CREATE;
		break;
	case FUSE_WRITE:
		if (len >= sizeof(struct fuse_write_in))
			fusefs_raw.kill_suidgid =
				((const struct fuse_write_in *)arg)->write_flags & FUSE_WRITE_KILL_SUIDGID;
		break;
	case FUSE_OPEN:
		if (len >= sizeof(struct fuse_open_in))
			fusefs_raw.kill_suidgid =
				((const struct fuse_open_in *)arg)->open_flags & FUSE_OPEN_KILL_SUIDGID;
		break;
	case FUSE_SETATTR:
		if (len >= sizeof(struct fuse_setattr_in))
			fusefs_raw.kill_suidgid = ((const struct fuse_setattr_in *)arg)->valid & FATTR_KILL_SUIDGID;
		break;
	default:
		break;
	}
	return n;
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct fusefs *fs = userdata;
	ssize_t n;

	/* INIT is alone on the connection until it is answered. */
	if (fs->init_pending && count == 2 && iov[0].iov_len == sizeof(struct fuse_out_header) &&
	    iov[1].iov_len >= offsetof(struct fuse_init_out, flags) + sizeof(uint32_t)) {
		const struct fuse_out_header *out = iov[0].iov_base;
		struct fuse_init_out *init = iov[1].iov_base;

		if (out->unique == fs->init_unique && !out->error) {
			init->flags |= fs->init_offered & WANTED;
			atomic_store(&fs->kill_flags, (fs->init_offered & FUSE_HANDLE_KILLPRIV_V2) != 0);
			fs->init_pending = false;
		}
	}
	/* A thread that tells the kernel of an owner's death, say, may be on its way here while the mount ends. */
	pthread_rwlock_rdlock(&fs->sending);
	if (fs->closed) {
		errno = ENODEV;
		n = -1;
	} else {
		n = writev(fd, iov, count);
	}
	pthread_rwlock_unlock(&fs->sending);
	return n;
}

int fusefs_io_hook(struct fusefs *fs)
{
	static const struct fuse_custom_io io = {.read = io_read, .writev = io_writev};

	return fuse_session_custom_io(fs->se, &io, fuse_session_fd(fs->se));
}

bool fusefs_io_kills_priv(const struct fusefs *fs)
{
	return fs->init_pending && (fs->init_offered & FUSE_HANDLE_KILLPRIV_V2);
}

bool fusefs_kill_priv(struct fusefs *fs, fuse_req_t req)
{
	if (atomic_load_explicit(&fs->kill_flags, memory_order_relaxed))
		return fusefs_raw.kill_suidgid;
	/* An older kernel leaves it to us without telling who has CAP_FSETID. */
	return fuse_req_ctx(req)->uid != 0;
}
