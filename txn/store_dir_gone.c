/*
 * store_dir_gone.c - what has no name: kept by its descriptor, found through a file that is open, or let go.
 */
#include "txn/store_dir.h"

void store_dir_keep(struct store_dir_obj *o)
{
	struct store_dir *sd = store_dir_home(o);
	pthread_mutex_lock(&sd->lock);
	o->keep = true;
	store_dir_lru_update(sd, o);
	pthread_mutex_unlock(&sd->lock);
}

/*
 * With the lock held: when it has no descriptor any more, its inode number is given to another one. Does the id that the log
 * has of it stay its own (I7)? One without a handle does when it was born in an earlier tick of the clock than all that
 * is still to come.
 */
static bool may_be_reused(const struct store_dir *sd, const struct store_dir_obj *o)
{
	struct timespec born, now;
	if (!o->id || store_dir_id_has_handle(o->id))
		return true;
	if (!store_dir_id_birth(o->id, &born))
		return false;
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	/* Elsewhere than on a local disk birth times may be in whole seconds, and another machine's. */
	int64_t ns = (now.tv_sec - born.tv_sec) * 1000000000 + now.tv_nsec - born.tv_nsec;
	return ns > (sd->overlay ? 20000000 : 3000000000);
}

int store_dir_let_go(struct store_dir *sd, struct store_dir_obj *o)
{
	if (!o->forsaken || o->pins || o->fd < 0)
		return -1;
	sd->open_fds--;
	return TAKE_FD(o->fd);
}

void store_dir_forsake(struct store_obj *obj)
{
	struct store_dir_obj *o = store_dir_obj_of(obj);
	struct store_dir *sd = store_dir_home(o);
	int fd = -1;
	pthread_mutex_lock(&sd->lock);
	if (o->gone && !o->fixed && may_be_reused(sd, o)) {
		o->forsaken = true;
		/* Whoever gets the inode's number next is another object. */
		if (o->hh.tbl)
			HASH_DEL(sd->table, o);
		o->hh.tbl = NULL;
		fd = store_dir_let_go(sd, o);
	}
	pthread_mutex_unlock(&sd->lock);
	if (fd >= 0)
		close(fd);
}

void store_dir_file_opened(struct store_file *f)
{
	struct store_dir_obj *o = f->obj;
	struct store_dir *sd = store_dir_home(o);
	pthread_mutex_lock(&sd->lock);
	f->next = o->files;
	f->link = &o->files;
	if (f->next)
		f->next->link = &f->next;
	o->files = f;
	if (o->gone)
		store_dir_lru_update(sd, o);
	pthread_mutex_unlock(&sd->lock);
}

void store_dir_file_closing(struct store_file *f)
{
	struct store_dir_obj *o = f->obj;
	struct store_dir *sd = store_dir_home(o);
	pthread_mutex_lock(&sd->lock);
	*f->link = f->next;
	if (f->next)
		f->next->link = f->link;
	if (o->gone) {
		/* Those who know the object have nothing else that leads to it. */
		if (!o->files && !o->forsaken && o->fd < 0) {
			o->fd = TAKE_FD(f->fd);
			sd->open_fds++;
		}
		store_dir_lru_update(sd, o);
	}
	pthread_mutex_unlock(&sd->lock);
}
