/*
 * store_dir_find.c - what names an object for good, and finding it again.
 *
 * An id is a tag byte and then, little-endian: for TAG_BORN the handle's type (4 bytes), the birth time's seconds (8) and
 * nanoseconds (4), and the kernel's file handle; for TAG_HANDLE, where there is no birth time, the same without it; for TAG_INODE,
 * where the filesystem has no handles, inode number (8) and birth time. The handle holds a generation number, so that an
 * inode number used again gives another one. But xfs counts the generations of an inode, and after a power cut that undid a removal
 * and the creation after it, the next creation gets the same number again: the birth time tells them apart.
 */
#include "txn/store_dir.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

#define TAG_HANDLE 1
#define TAG_INODE 2
#define TAG_BORN 3
#define TYPE_OFFSET 1
#define HANDLE_OFFSET 5
#define BORN_SIZE 12
#define HANDLE_TRIES 1000

_Static_assert(HANDLE_OFFSET + BORN_SIZE + MAX_HANDLE_SZ <= STORE_ID_MAX, "a file handle fits in an id");

union handle_space {
	struct file_handle fh;
	char space[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

struct store_dir_proc store_dir_proc(int fd)
{
	struct store_dir_proc p;
	snprintf(p.path, sizeof(p.path), "/proc/self/fd/%d", fd);
	return p;
}

/* When dirfd/name was born, as it is in ids; *born false: the filesystem does not know. */
static int birth(int dirfd, const char *name, uint8_t out[BORN_SIZE], bool *born, uint64_t *ino)
{
	struct statx sx;
	int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
	if (statx(dirfd, name, flags, STATX_INO | STATX_BTIME, &sx) < 0)
		return -errno;
	*born = sx.stx_mask & STATX_BTIME;
	*ino = sx.stx_ino;
	uint64_t sec = htole64(*born ? (uint64_t)sx.stx_btime.tv_sec : 0);
	uint32_t nsec = htole32(*born ? sx.stx_btime.tv_nsec : 0);
	memcpy(out, &sec, 8);
	memcpy(out + 8, &nsec, 4);
	return 0;
}

static int inode_id(int dirfd, const char *name, struct store_id *id)
{
	uint64_t ino;
	bool born;
	int r = birth(dirfd, name, id->bytes + 9, &born, &ino);
	if (r < 0)
		return r;
	ino = htole64(ino);
	id->bytes[0] = TAG_INODE;
	memcpy(id->bytes + 1, &ino, 8);
	id->len = 21;
	return 0;
}

static size_t handle_offset(const struct store_id *id)
{
	return id->bytes[0] == TAG_BORN ? HANDLE_OFFSET + BORN_SIZE : HANDLE_OFFSET;
}

/* The id of dirfd/name, not following a symbolic link, or of dirfd itself for "". -EXDEV: on another mount. */
int store_dir_id_at(struct store_dir *sd, int dirfd, const char *name, struct store_id *id)
{
	union handle_space h;
	int mnt = -1;
	memset(id, 0, sizeof(*id));
	h.fh.handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(dirfd, name, &h.fh, &mnt, *name ? 0 : AT_EMPTY_PATH) < 0) {
		if (errno == EOPNOTSUPP || errno == EOVERFLOW || errno == ENOSYS || errno == EPERM)
			return inode_id(dirfd, name, id);
		return -errno;
	}
	if (!sd->root)
		sd->handle_mnt = mnt; /* the first id asked for, while opening, is the root's */
	else if (mnt != sd->handle_mnt)
		return -EXDEV;
	uint32_t type = htole32((uint32_t)h.fh.handle_type);
	uint64_t ino;
	bool born = false;
	int r = sd->overlay ? 0 : birth(dirfd, name, id->bytes + HANDLE_OFFSET, &born, &ino);
	if (r < 0)
		return r;
	id->bytes[0] = born ? TAG_BORN : TAG_HANDLE;
	size_t at = handle_offset(id);
	memcpy(id->bytes + TYPE_OFFSET, &type, 4);
	memcpy(id->bytes + at, h.fh.f_handle, h.fh.handle_bytes);
	id->len = (uint16_t)(at + h.fh.handle_bytes);
	return 0;
}

bool store_dir_id_has_handle(const struct store_id *id)
{
	return (id->bytes[0] == TAG_HANDLE || id->bytes[0] == TAG_BORN) && id->len > handle_offset(id) &&
	       id->len <= handle_offset(id) + MAX_HANDLE_SZ;
}

int store_dir_open_id(struct store_dir *sd, const struct store_id *id)
{
	union handle_space h;
	uint32_t type;
	int fd, tries = 0;
	if (!store_dir_id_has_handle(id))
		return -EOPNOTSUPP;
	memcpy(&type, id->bytes + TYPE_OFFSET, 4);
	h.fh.handle_type = (int)le32toh(type);
	h.fh.handle_bytes = id->len - (unsigned)handle_offset(id);
	memcpy(h.fh.f_handle, id->bytes + handle_offset(id), h.fh.handle_bytes);
	for (;;) {
		fd = open_by_handle_at(sd->root_fd, &h.fh, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		fd = fd < 0 ? -errno : fd;
		/*
		 * Linux (iget_locked) also says that memory is short while the number of a removed inode is being given
		 * to a new one: in a moment it is -ESTALE.
		 */
		if (fd == -ENOMEM && tries++ < HANDLE_TRIES)
			nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
		else if (fd >= 0 || !store_dir_relieve(sd, fd))
			break;
	}
	if (fd >= 0 && id->bytes[0] == TAG_BORN) {
		uint8_t now[BORN_SIZE];
		uint64_t ino;
		bool born;
		int r = birth(fd, "", now, &born, &ino);
		if (!r && memcmp(now, id->bytes + HANDLE_OFFSET, BORN_SIZE))
			r = -ESTALE;
		if (r < 0) {
			close(fd);
			return r;
		}
	}
	return fd;
}

static bool same_id(const struct store_id *a, const struct store_id *b)
{
	return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

/* Known ids are kept in no more memory than they need: objects can be many. */
static bool known_id(struct store_dir_obj *o, struct store_id *id)
{
	struct store_dir *sd = store_dir_home(o);
	pthread_mutex_lock(&sd->lock);
	const struct store_id *known = o->id;
	pthread_mutex_unlock(&sd->lock);
	if (!known)
		return false;
	memset(id, 0, sizeof(*id));
	memcpy(id, known, offsetof(struct store_id, bytes) + known->len);
	return true;
}

static void remember_id(struct store_dir_obj *o, const struct store_id *id)
{
	struct store_dir *sd = store_dir_home(o);
	size_t n = offsetof(struct store_id, bytes) + id->len;
	CLEANUP_FREE struct store_id *copy = malloc(n);
	if (!copy)
		return;
	memcpy(copy, id, n);
	pthread_mutex_lock(&sd->lock);
	if (!o->id)
		o->id = TAKE_PTR(copy);
	pthread_mutex_unlock(&sd->lock);
}

/*
 * overlayfs copies a file up when it is first changed, and it is born again then. Have that behind us before the id is
 * told: who asks for it is about to change the object. Setting the access time to what it is does it.
 */
static void copy_up(int fd)
{
	struct stat st;
	if (fstatat(fd, "", &st, AT_EMPTY_PATH) < 0)
		return;
	struct timespec ts[2] = {st.st_atim, {.tv_nsec = UTIME_OMIT}};
	/* Where this fails the object cannot be changed later either. */
	(void)utimensat(fd, "", ts, AT_EMPTY_PATH);
}

int store_dir_id_pinned(const struct store_dir_pin *pin, struct store_id *id)
{
	const struct store_dir *sd = store_dir_home(pin->obj);
	if (known_id(pin->obj, id))
		return 0;
	if (sd->overlay && !sd->by_handle && !sd->read_only)
		copy_up(pin->fd);
	int r = store_dir_id_at(store_dir_home(pin->obj), pin->fd, "", id);
	if (!r)
		remember_id(pin->obj, id);
	return r;
}

int store_dir_id(struct store_obj *obj, struct store_id *id)
{
	struct store_dir_obj *o = store_dir_obj_of(obj);
	if (known_id(o, id))
		return 0;
	CLEANUP_PIN struct store_dir_pin pin = {0};
	int r = store_dir_pin(o, &pin);
	return r < 0 ? r : store_dir_id_pinned(&pin, id);
}

/* dir/name as an object if it is the one wanted, else -ENOENT. */
static int child_with_id(struct store_dir_obj *dir, const char *name, const struct store_id *id,
                         struct store_dir_obj **out)
{
	struct store_id found;
	struct store_obj *obj;
	int r = store_dir_lookup(&dir->pub, name, &obj, NULL);
	if (r < 0)
		return r;
	CLEANUP_OBJ struct store_dir_obj *o = store_dir_obj_of(obj);
	r = store_dir_id(obj, &found);
	if (!r && !same_id(&found, id))
		r = -ENOENT;
	if (!r)
		*out = TAKE_PTR(o);
	return r;
}

/* Follow a path from the root, one name at a time, never through a symbolic link. */
static int at_path(struct store_dir *sd, const char *hint, const struct store_id *id, struct store_dir_obj **out)
{
	CLEANUP_FREE char *path = strdup(hint);
	if (!path)
		return -ENOMEM;
	CLEANUP_OBJ struct store_dir_obj *dir = store_dir_obj_of(store_dir_get(&sd->root->pub));
	char *save = NULL, *name = strtok_r(path, "/", &save);
	if (!name) {
		struct store_id root;
		int r = store_dir_id(&dir->pub, &root);
		if (!r && !same_id(&root, id))
			r = -ENOENT;
		if (!r)
			*out = TAKE_PTR(dir);
		return r;
	}
	for (char *next; (next = strtok_r(NULL, "/", &save)); name = next) {
		struct store_obj *child;
		int r = store_dir_lookup(&dir->pub, name, &child, NULL);
		if (r < 0)
			return r;
		store_dir_put(&dir->pub);
		dir = store_dir_obj_of(child);
		if (!S_ISDIR(child->kind))
			return -ENOTDIR;
	}
	return child_with_id(dir, name, id, out);
}

/* The walk keeps the directories still to be read as references; their known places lead back to the root. */
struct walk {
	struct store_dir *sd;
	const struct store_id *id;
	struct store_dir_obj *dir;
	struct store_dir_pin pin;
	struct base_vec todo;
	struct store_dir_obj *found;
};

static int walk_entry(void *arg, const struct store_dirent *de)
{
	struct walk *w = arg;
	struct store_id id;
	int r = store_dir_id_at(w->sd, w->pin.fd, de->name, &id);
	/* Names come and go, and a mount point is no part of the tree. */
	if (r < 0 && r != -EACCES)
		return 0;
	if ((r < 0 || same_id(&id, w->id)) && child_with_id(w->dir, de->name, w->id, &w->found) == 0)
		return 1;
	if (de->kind && de->kind != S_IFDIR)
		return 0;
	struct store_obj *child;
	if (store_dir_lookup(&w->dir->pub, de->name, &child, NULL) < 0)
		return 0;
	r = S_ISDIR(child->kind) ? base_vec_push(&w->todo, (uintptr_t)child) : -ENOTDIR;
	if (r < 0)
		store_dir_put(child);
	return r == -ENOMEM ? r : 0;
}

static int walk_tree(struct store_dir *sd, const struct store_id *id, struct store_dir_obj **out)
{
	/* Also in the state directory's own two, where something may have been left by a crash. */
	struct store_dir_obj *starts[] = {sd->root, sd->trash, sd->stage};
	struct walk w = {.sd = sd, .id = id};
	int r = 0;
	for (size_t i = 0; i < ARRAY_LEN(starts) && !r; i++) {
		r = base_vec_push(&w.todo, (uintptr_t)&starts[i]->pub);
		if (!r)
			store_dir_get(&starts[i]->pub);
	}
	while (w.todo.n && !r) {
		struct store_obj *dir = (struct store_obj *)(uintptr_t)w.todo.v[--w.todo.n];
		w.dir = store_dir_obj_of(dir);
		r = store_dir_pin(w.dir, &w.pin);
		if (!r) {
			r = store_dir_readdir(dir, walk_entry, &w);
			store_dir_unpin(&w.pin);
		}
		store_dir_put(dir);
		/* A directory that is gone or closed to us does not end the search. */
		if (r < 0 && r != -ENOMEM && r != -EIO && r != -EMFILE && r != -ENFILE)
			r = 0;
	}
	while (w.todo.n)
		store_dir_put((struct store_obj *)(uintptr_t)w.todo.v[--w.todo.n]);
	base_vec_free(&w.todo);
	if (w.found)
		*out = w.found;
	return w.found ? 0 : r < 0 ? r : -ENOENT;
}

static int by_handle(struct store_dir *sd, const struct store_id *id, struct store_dir_obj **out)
{
	CLEANUP_CLOSE int fd = store_dir_open_id(sd, id);
	if (fd < 0)
		return fd;
	struct statx sx;
	int r = store_dir_statx(sd, fd, &sx);
	/* Still there only because someone has it open. */
	if (!r && sx.stx_nlink == 0)
		r = -ENOENT;
	return r < 0 ? r : store_dir_intern(sd, TAKE_FD(fd), &sx, NULL, NULL, STORE_DIR_ANY_GEN, out);
}

int store_dir_resolve(struct store *st, const struct store_id *id, const char *hint, const char *stage_name,
                      struct store_obj **out)
{
	struct store_dir *sd = store_dir_of(st);
	struct store_dir_obj *o = NULL;
	if (!id->len || id->len > STORE_ID_MAX)
		return -EINVAL;
	/* Names first: what is found by name has a known place. */
	int r = -ENOENT;
	if (stage_name)
		r = child_with_id(sd->stage, stage_name, id, &o);
	if (r < 0 && hint)
		r = at_path(sd, hint, id, &o);
	if (r < 0 && sd->by_handle && store_dir_id_has_handle(id))
		r = by_handle(sd, id, &o);
	else if (r < 0)
		r = walk_tree(sd, id, &o);
	if (r < 0)
		return r;
	*out = &o->pub;
	return 0;
}
