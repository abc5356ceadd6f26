/* txnfs.c - the calls of libtxnfs: mounts and transactions. */
#include "tools/lib/private.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif

#define TRIES 100 /* of names that are in use */

/* All but `ended` is as txnfs_begin left it. */
struct txnfs_tx {
	struct txnfs fs;
	char *name;      /* NULL: ambient */
	char *root;      /* NULL: ambient */
	unsigned number; /* of an ambient one; 0: not known */
	atomic_bool ended;
};

const char *txnfs_version(void)
{
	return TXNFS_VERSION;
}

static int no_memory(void)
{
	return txnfs_lib_fail(-ENOMEM, "%s", strerror(ENOMEM));
}

/* ---- mounts ---- */

/* Does `point` have the control directory of a txnfs? 1: no; negative: it cannot be known. */
static int probe(const struct txnfs *fs)
{
	CLEANUP_CLOSE int dirfd = -1, fd = -1;
	struct statfs st;
	int r = txnfs_lib_dir(fs, &dirfd);

	if (r == -ENODEV)
		return 1;
	if (r)
		return r;
	/* The directory itself may be known to the kernel still. */
	if (fstatfs(dirfd, &st))
		return errno == ENOTCONN || errno == ECONNABORTED ? txnfs_lib_daemon_ended(fs) : 1;
	if ((unsigned long)st.f_type != FUSE_SUPER_MAGIC)
		return 1;
	fd = openat(dirfd, "ctl", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0;
}

int txnfs_open(const char *path, const char *control, struct txnfs **out)
{
	CLEANUP_FREE char *real = NULL, *name = NULL;
	struct txnfs *fs;
	char *slash;
	int r;

	*out = NULL;
	if (!control)
		control = secure_getenv("TXNFS_CONTROL");
	if (!control)
		control = ".txn";
	if (!path || !*path)
		return txnfs_lib_fail(-EINVAL, "the mount point is empty");
	if (!*control || strchr(control, '/') || strlen(control) > NAME_MAX || !strcmp(control, ".") ||
	    !strcmp(control, ".."))
		return txnfs_lib_fail(-EINVAL, "\"%s\" cannot be the name of a control directory", control);
	real = realpath(path, NULL);
	if (!real && errno == ENOTCONN)
		return txnfs_lib_fail(-ENOTCONN, "%s: the filesystem's daemon has ended; unmount it and mount it again",
		                      path);
	if (!real)
		return txnfs_lib_fail(-errno, "%s: %s", path, strerror(errno));
	name = strdup(control);
	fs = malloc(sizeof(*fs));
	if (!name || !fs) {
		free(fs);
		return no_memory();
	}
	*fs = (struct txnfs){.point = TAKE_PTR(real), .control = TAKE_PTR(name)};
	while ((r = probe(fs)) == 1) {
		slash = strrchr(fs->point, '/');
		if (!slash[1])
			break; /* the root */
		slash[slash == fs->point] = '\0';
	}
	if (r) {
		txnfs_close(fs);
		return r < 0 ? r
		             : txnfs_lib_fail(-ENODEV, "%s: not in a txnfs mount with a control directory called %s",
		                              path, control);
	}
	*out = fs;
	return 0;
}

void txnfs_close(struct txnfs *fs)
{
	if (!fs)
		return;
	free(fs->point);
	free(fs->control);
	free(fs);
}

const char *txnfs_mount_point(const struct txnfs *fs)
{
	return fs->point;
}

/* ---- transactions ---- */

static int tx_new(const struct txnfs *fs, const char *name, struct txnfs_tx **out)
{
	struct txnfs_tx *tx = calloc(1, sizeof(*tx));

	if (!tx)
		return no_memory();
	tx->fs.point = strdup(fs->point);
	tx->fs.control = strdup(fs->control);
	if (name) {
		tx->name = strdup(name);
		if (asprintf(&tx->root, "%s/%s/%s/root", strcmp(fs->point, "/") ? fs->point : "", fs->control, name) <
		    0)
			tx->root = NULL;
	}
	if (!tx->fs.point || !tx->fs.control || (name && (!tx->name || !tx->root))) {
		txnfs_detach(tx);
		return no_memory();
	}
	*out = tx;
	return 0;
}

void txnfs_detach(struct txnfs_tx *tx)
{
	if (!tx)
		return;
	free(tx->fs.point);
	free(tx->fs.control);
	free(tx->name);
	free(tx->root);
	free(tx);
}

int txnfs_begin(struct txnfs *fs, const struct txnfs_options *options, struct txnfs_tx **out)
{
	struct txnfs_lib_command c = {0};
	char answer[TXNFS_LIB_TEXT];
	CLEANUP_CLOSE int dirfd = -1;
	struct txnfs_tx *tx = NULL;
	int r = 0;

	*out = NULL;
	txnfs_lib_put(&c, "begin");
	if (options && options->label) {
		r = txnfs_lib_check_dirname(options->label);
		txnfs_lib_put_name(&c, options->label);
	}
	if (!r)
		r = txnfs_lib_put_options(&c, options);
	txnfs_lib_put(&c, "\n");
	if (!r)
		r = tx_new(fs, NULL, &tx);
	if (!r)
		r = txnfs_lib_dir(fs, &dirfd);
	if (!r)
		r = txnfs_lib_command(fs, dirfd, NULL, &c, answer);
	if (r) {
		txnfs_detach(tx);
		return r;
	}
	tx->number = txnfs_lib_number(answer);
	*out = tx;
	return 0;
}

/* A name that nobody else has: of the process, a count, and some chance for pid namespaces and recycled processes. */
static void invent(char *name, size_t size)
{
	static atomic_uint count;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(name, size, "lib-%d-%u-%05lx", (int)getpid(), atomic_fetch_add(&count, 1) + 1,
	         (unsigned long)now.tv_nsec & 0xfffff);
}

int txnfs_begin_named(struct txnfs *fs, const char *name, const struct txnfs_options *options, struct txnfs_tx **out)
{
	CLEANUP_CLOSE int dirfd = -1;
	struct txnfs_tx *tx = NULL;
	char invented[64];
	int r = name ? txnfs_lib_check_dirname(name) : 0;

	*out = NULL;
	if (!r)
		r = txnfs_lib_dir(fs, &dirfd);
	if (r)
		return r;
	for (int i = 0; i < TRIES; i++) {
		if (!name)
			invent(invented, sizeof(invented));
		r = tx_new(fs, name ? name : invented, &tx);
		if (!r)
			r = txnfs_lib_begin_named(fs, dirfd, tx->name, options);
		if (!r) {
			*out = tx;
			return 0;
		}
		txnfs_detach(TAKE_PTR(tx));
		if (name || r != -EEXIST)
			return r;
	}
	return r;
}

int txnfs_attach(struct txnfs *fs, const char *name, struct txnfs_tx **out)
{
	CLEANUP_CLOSE int dirfd = -1;
	CLEANUP_FREE char *status = NULL;
	int r = txnfs_lib_check_dirname(name);

	*out = NULL;
	if (!r)
		r = txnfs_lib_dir(fs, &dirfd);
	if (!r)
		r = txnfs_lib_read(fs, dirfd, name, "status", &status);
	return r ? r : tx_new(fs, name, out);
}

const char *txnfs_tx_root(const struct txnfs_tx *tx)
{
	return tx->root ? tx->root : tx->fs.point;
}

const char *txnfs_tx_name(const struct txnfs_tx *tx)
{
	return tx->name;
}

/* ---- commands ---- */

/* To the transaction: VERB ["NAME"]. */
static int tell(struct txnfs_tx *tx, const char *verb, const char *name)
{
	struct txnfs_lib_command c = {0};
	CLEANUP_CLOSE int dirfd = -1;
	int r;

	/* The name, or the process, may have another transaction by now. */
	if (atomic_load(&tx->ended))
		return txnfs_lib_fail(-ENOTCONN, "%s: the transaction has ended", tx->fs.point);
	txnfs_lib_put(&c, "%s", verb);
	if (name)
		txnfs_lib_put_name(&c, name);
	txnfs_lib_put(&c, "\n");
	r = txnfs_lib_dir(&tx->fs, &dirfd);
	return r ? r : txnfs_lib_command(&tx->fs, dirfd, tx->name, &c, NULL);
}

int txnfs_commit(struct txnfs_tx *tx)
{
	int r = tell(tx, "commit", NULL);

	if (!r || r == -ECANCELED)
		atomic_store(&tx->ended, true);
	return r;
}

int txnfs_rollback(struct txnfs_tx *tx)
{
	int r = tell(tx, "rollback", NULL);

	if (!r)
		atomic_store(&tx->ended, true);
	return r;
}

int txnfs_savepoint(struct txnfs_tx *tx, const char *name)
{
	int r = txnfs_lib_check_name(name, TXNFS_NAME_MAX, "the savepoint's name");

	return r ? r : tell(tx, "savepoint", name);
}

int txnfs_rollback_to(struct txnfs_tx *tx, const char *name)
{
	int r = txnfs_lib_check_name(name, TXNFS_NAME_MAX, "the savepoint's name");

	return r ? r : tell(tx, "rollback to", name);
}

int txnfs_release(struct txnfs_tx *tx, const char *name)
{
	int r = txnfs_lib_check_name(name, TXNFS_NAME_MAX, "the savepoint's name");

	return r ? r : tell(tx, "release", name);
}

void txnfs_end(struct txnfs_tx *tx)
{
	struct txnfs_lib_command c = {0};
	CLEANUP_CLOSE int dirfd = -1;
	char text[TXNFS_LIB_TEXT];
	int err = errno;

	if (!tx)
		return;
	if (!atomic_load(&tx->ended)) {
		txnfs_lib_text_save(text);
		/* By its number: the process may be in another one by now. */
		if (tx->number)
			txnfs_lib_put(&c, "rollback transaction %u\n", tx->number);
		else
			txnfs_lib_put(&c, "rollback\n");
		if (!txnfs_lib_dir(&tx->fs, &dirfd))
			txnfs_lib_command(&tx->fs, dirfd, tx->name, &c, NULL);
		txnfs_lib_text_restore(text);
	}
	txnfs_detach(tx);
	errno = err;
}

/* ---- two-phase commit ---- */

int txnfs_prepare(struct txnfs_tx *tx, const char *gid)
{
	int r = txnfs_lib_check_name(gid, TXNFS_GID_MAX, "the global transaction id");

	if (!r)
		r = tell(tx, "prepare", gid);
	if (!r || r == -ECANCELED)
		atomic_store(&tx->ended, true);
	return r;
}

static int resolve(struct txnfs *fs, const char *verb, const char *gid)
{
	struct txnfs_lib_command c = {0};
	CLEANUP_CLOSE int dirfd = -1;
	int r = txnfs_lib_check_name(gid, TXNFS_GID_MAX, "the global transaction id");

	if (r)
		return r;
	txnfs_lib_put(&c, "%s", verb);
	txnfs_lib_put_name(&c, gid);
	txnfs_lib_put(&c, "\n");
	r = txnfs_lib_dir(fs, &dirfd);
	return r ? r : txnfs_lib_command(fs, dirfd, NULL, &c, NULL);
}

int txnfs_commit_prepared(struct txnfs *fs, const char *gid)
{
	return resolve(fs, "commit prepared", gid);
}

int txnfs_rollback_prepared(struct txnfs *fs, const char *gid)
{
	return resolve(fs, "rollback prepared", gid);
}

int txnfs_list_prepared(struct txnfs *fs, int (*fn)(void *arg, const struct txnfs_prepared *p), void *arg)
{
	CLEANUP_FREE char *text = NULL;
	CLEANUP_CLOSE int dirfd = -1;
	struct txnfs_prepared p;
	int r = txnfs_lib_dir(fs, &dirfd);

	if (!r)
		r = txnfs_lib_read(fs, dirfd, NULL, "prepared", &text);
	for (char *line = text; !r && *line;) {
		r = txnfs_lib_prepared(line, &p, &line);
		if (r)
			return txnfs_lib_fail(r, "%s: the list of prepared transactions cannot be understood",
			                      fs->point);
		r = fn(arg, &p);
	}
	return r;
}
