/*
 * lame_store.h - a store whose changes fail from a random call on, as if the process had died there: what was done
 * before stays, readers go on, and the next engine finds home half done.
 */
#ifndef TXNFS_TESTS_LAME_STORE_H
#define TXNFS_TESTS_LAME_STORE_H

#include "txn/store.h"

#include <errno.h>

static const struct store_ops *real;
static struct store_ops lame;
static long fuse; /* calls that still work; negative: no limit */

static bool blown(void)
{
	if (fuse > 0)
		fuse--;
	return fuse == 0;
}

static int lame_create(struct store_obj *dir, const char *name, const struct store_new *nw, bool inherit,
                       struct store_obj **out, struct stat *attr)
{
	return blown() ? -EIO : real->create(dir, name, nw, inherit, out, attr);
}

static int lame_link(struct store_obj *obj, struct store_obj *dir, const char *name)
{
	return blown() ? -EIO : real->link(obj, dir, name);
}

static int lame_unlink(struct store_obj *dir, const char *name, bool is_dir)
{
	return blown() ? -EIO : real->unlink(dir, name, is_dir);
}

static int lame_rename(struct store_obj *dir, const char *name, struct store_obj *to_dir, const char *to_name,
                       unsigned flags)
{
	return blown() ? -EIO : real->rename(dir, name, to_dir, to_name, flags);
}

static int lame_setattr(struct store_obj *obj, const struct stat *attr, unsigned mask)
{
	return blown() ? -EIO : real->setattr(obj, attr, mask);
}

static int lame_setxattr(struct store_obj *obj, const char *name, const void *value, size_t size, int flags)
{
	return blown() ? -EIO : real->setxattr(obj, name, value, size, flags);
}

static int lame_removexattr(struct store_obj *obj, const char *name)
{
	return blown() ? -EIO : real->removexattr(obj, name);
}

/* The last write before the end may be a part of one. */
static ssize_t lame_write(struct store_file *f, const void *p, size_t n, uint64_t off)
{
	if (fuse == 1 && n > 1)
		real->write(f, p, n / 2, off);
	return blown() ? -EIO : real->write(f, p, n, off);
}

static int lame_fallocate(struct store_file *f, int mode, uint64_t off, uint64_t len)
{
	return blown() ? -EIO : real->fallocate(f, mode, off, len);
}

/* Put it in the real one's place. */
static void lame_store(struct store *st)
{
	real = st->ops;
	lame = *real;
	lame.create = lame_create;
	lame.link = lame_link;
	lame.unlink = lame_unlink;
	lame.rename = lame_rename;
	lame.setattr = lame_setattr;
	lame.setxattr = lame_setxattr;
	lame.removexattr = lame_removexattr;
	lame.write = lame_write;
	lame.fallocate = lame_fallocate;
	st->ops = &lame;
}

#endif
