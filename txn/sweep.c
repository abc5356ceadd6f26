/* sweep.c - after recovery: what a crash has left in the stage and in the trash, and nobody needs. */
#include "txn/private.h"

#include <stdio.h>
#include <stdlib.h>
#include <syslog.h>

#define NUMBER_MAX (1ull << 62) /* what is called by a larger one was not called so by us */

struct sweep {
	struct txn_engine *eng;
	struct store_obj *dir;
	uint64_t *swept;
	bool stage;
};

/* Is it called by an object's number? */
static bool numbered(const char *name)
{
	return strlen(name) == 16 && strspn(name, "0123456789abcdef") == 16;
}

static int note_number(void *arg, const struct store_dirent *de)
{
	uint64_t *next = arg, oid = numbered(de->name) ? strtoull(de->name, NULL, 16) : 0;

	if (oid < NUMBER_MAX)
		*next = base_max_u64(*next, oid + 1);
	return 0;
}

int txn_numbers_left(struct txn_engine *eng, uint64_t *next)
{
	const struct store_ops *so = eng->so;
	int r = so->readdir(so->stage(eng->store), note_number, next);

	return r ? r : so->readdir(so->trash(eng->store), note_number, next);
}

static int sweep_one(void *arg, const struct store_dirent *de)
{
	struct sweep *s = arg;
	const struct store_ops *so = s->eng->so;
	int r;

	if (!numbered(de->name))
		return 0; /* something that is kept for its owner */
	if (s->stage && txn_stage_needed(s->eng, de->name))
		return 0;
	r = so->unlink(s->dir, de->name, false);
	if (r == -EISDIR || r == -EPERM)
		r = so->unlink(s->dir, de->name, true);
	if (r == -ENOTEMPTY) {
		char kept[40];

		snprintf(kept, sizeof(kept), "lost-%s", de->name);
		base_log(LOG_WARNING, "leftover directory is not empty; it is kept as " STORE_STATE_DIR "/trash/%s", kept);
		r = so->rename(s->dir, de->name, so->trash(s->eng->store), kept, 0);
	}
	if (!r)
		++*s->swept;
	return 0; /* the next recovery tries again */
}

int txn_sweep(struct txn_engine *eng, uint64_t *swept)
{
	const struct store_ops *so = eng->so;
	struct sweep stage = {eng, so->stage(eng->store), swept, true},
	             trash = {eng, so->trash(eng->store), swept, false};
	int r = so->readdir(stage.dir, sweep_one, &stage);

	return r ? r : so->readdir(trash.dir, sweep_one, &trash);
}
