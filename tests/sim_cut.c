/* sim_cut.c - the simulated disk: what a crash leaves, and how trees are looked at. */
#include "tests/sim_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- the rules of sim.h ---- */

static bool same_name(const struct sim_change *a, const struct sim_change *b)
{
	for (int i = 0; i < a->u.names.n; i++)
		for (int k = 0; k < b->u.names.n; k++)
			if (a->u.names.set[i].dir == b->u.names.set[k].dir &&
			    !strcmp(a->u.names.set[i].name, b->u.names.set[k].name))
				return true;
	return false;
}

static bool happens_in(const struct sim_change *c, uint64_t dir)
{
	for (int i = 0; i < c->u.names.n; i++)
		if (c->u.names.set[i].dir == dir)
			return true;
	return false;
}

static bool name_needs(const struct sim_change *c, const struct sim_change *before)
{
	if (same_name(c, before) || (c->u.names.moves_dir && before->u.names.moves_dir))
		return true;
	if (before->serial && happens_in(c, before->serial)) /* the directory's making */
		return true;
	if (c->u.names.rmdir && happens_in(before, c->u.names.rmdir))
		return true;
	for (int i = 0; i < 2; i++)
		if (c->u.names.removes[i] && before->u.names.adds == c->u.names.removes[i])
			return true;
	return false;
}

struct sim_change *sim_change_needs(struct sim_changes *all, const struct sim_change *c)
{
	struct sim_change *b;

	if (c->kind == SIM_DATA)
		return NULL;
	TAILQ_FOREACH (b, all, link) {
		if (b == c)
			return NULL;
		if (b->keep)
			continue;
		if (c->kind == SIM_NAMES ? b->kind == SIM_NAMES && name_needs(c, b) :
		                           b->serial == c->serial && b->kind != SIM_NAMES && b->kind != SIM_DATA &&
		                                   (b->kind == SIM_SIZE) == (c->kind == SIM_SIZE))
			return b;
	}
	return NULL;
}

/* ---- copies ---- */

/* Of the inodes that have names, renumbered, all of it durable. */
static struct sim *copy_of(const struct sim *sim, const struct sim_tree *from)
{
	struct sim *to = sim_alloc();
	uint64_t *map = sim_need(calloc(from->n + 1, sizeof(*map))), n = 0;
	uint64_t *todo = sim_need(calloc(from->n + 1, sizeof(*todo)));
	const uint64_t fixed[] = {sim->root, sim->wal, sim->stage, sim->trash};

	for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
		todo[n++] = fixed[i];
		map[fixed[i]] = n;
	}
	for (uint64_t k = 0; k < n; k++) {
		struct sim_inode *in = from->v[todo[k]];

		for (size_t i = 0; i < in->nentries; i++) {
			uint64_t s = in->entries[i].serial;

			if (!map[s]) {
				todo[n++] = s;
				map[s] = n;
			}
		}
	}
	for (uint64_t k = 0; k < n; k++) {
		struct sim_inode *in = sim_inode_copy(from->v[todo[k]]);

		in->serial = k + 1;
		in->names = 0;
		in->forsaken = false;
		sim_tree_add(&to->now, in);
	}
	for (uint64_t k = 1; k <= n; k++) {
		struct sim_inode *in = to->now.v[k];

		for (size_t i = 0; i < in->nentries; i++) {
			in->entries[i].serial = map[in->entries[i].serial];
			to->now.v[in->entries[i].serial]->names++;
		}
	}
	to->root = map[sim->root];
	to->wal = map[sim->wal];
	to->stage = map[sim->stage];
	to->trash = map[sim->trash];
	to->gen = sim->gen;
	to->space = sim->space;
	to->sealed = sim->sealed;
	free(map);
	free(todo);
	for (size_t i = 0; i < to->now.n; i++)
		if (to->now.v[i])
			sim_tree_add(&to->durable, sim_inode_copy(to->now.v[i]));
	return to;
}

struct sim *sim_kill(const struct sim *sim)
{
	return copy_of(sim, &sim->now);
}

static struct sim_change *change_copy(const struct sim_change *c)
{
	struct sim_change *n = sim_need(malloc(sizeof(*n)));

	*n = *c;
	if (c->kind == SIM_DATA) {
		n->u.data.bytes = sim_need(malloc(SIM_SECTOR));
		memcpy(n->u.data.bytes, c->u.data.bytes, SIM_SECTOR);
	} else if (c->kind == SIM_XATTR) {
		n->u.xattr.name = sim_need(strdup(c->u.xattr.name));
		if (c->u.xattr.value) {
			n->u.xattr.value = sim_need(malloc(c->u.xattr.len + 1));
			memcpy(n->u.xattr.value, c->u.xattr.value, c->u.xattr.len);
		}
	} else if (c->kind == SIM_NAMES) {
		for (int i = 0; i < c->u.names.n; i++)
			n->u.names.set[i].name = sim_need(strdup(c->u.names.set[i].name));
	}
	return n;
}

struct sim *sim_kill_only(const struct sim *sim)
{
	const struct sim_tree *from[] = {&sim->now, &sim->durable};
	struct sim *copy = sim_alloc();
	struct sim_tree *to[] = {&copy->now, &copy->durable};
	struct sim_change *c;

	for (size_t k = 0; k < ARRAY_LEN(to); k++)
		for (size_t i = 0; i < from[k]->n; i++) {
			struct sim_inode *in = from[k]->v[i];

			if (in && (k == 1 || in->names || in->fixed))
				sim_tree_add(to[k], sim_inode_copy(in));
		}
	TAILQ_FOREACH (c, &sim->pending, link) {
		struct sim_change *n = change_copy(c);

		TAILQ_INSERT_TAIL(&copy->pending, n, link);
	}
	copy->npending = sim->npending;
	copy->root = sim->root;
	copy->stage = sim->stage;
	copy->trash = sim->trash;
	copy->wal = sim->wal;
	copy->gen = sim->gen;
	copy->space = sim->space;
	copy->sealed = sim->sealed;
	return copy;
}

static void no_bytes_beyond_the_end(struct sim_tree *t)
{
	for (size_t i = 0; i < t->n; i++) {
		struct sim_inode *in = t->v[i];
		uint64_t size = in ? in->size : 0;

		if (in && in->npages * SIM_PAGE > size) {
			struct sim_change cut = {.kind = SIM_SIZE, .serial = i, .u.size = size};

			in->size = in->npages * SIM_PAGE;
			sim_apply(t, &cut);
		}
	}
}

static struct sim *image_of_kept(const struct sim *sim)
{
	struct sim_tree t = {0};
	struct sim_change *c;
	struct sim *image;

	for (size_t i = 0; i < sim->durable.n; i++)
		if (sim->durable.v[i])
			sim_tree_add(&t, sim_inode_copy(sim->durable.v[i]));
	TAILQ_FOREACH (c, &sim->pending, link)
		if (c->keep)
			sim_apply(&t, c);
	no_bytes_beyond_the_end(&t);
	image = copy_of(sim, &t);
	sim_tree_free(&t);
	return image;
}

bool sim_dirty(const struct sim *sim)
{
	return sim->npending != 0;
}

/* ---- choosing ---- */

static bool in_journal(const struct sim_change *c)
{
	return c->kind != SIM_DATA && c->kind != SIM_SIZE;
}

/* May this one be kept after what was decided for those before it? */
static bool allowed(const struct sim *sim, enum sim_model model, const struct sim_change *c)
{
	struct sim_change *b;

	if (sim_change_needs((struct sim_changes *)(uintptr_t)&sim->pending, c))
		return false;
	if (model == SIM_JOURNAL && in_journal(c))
		TAILQ_FOREACH (b, &sim->pending, link) {
			if (b == c)
				break;
			if (in_journal(b) && !b->keep)
				return false;
		}
	return true;
}

/* The next picture after the one chosen, with the last decisions first; false: there is none. */
static bool next_choice(const struct sim *sim, enum sim_model model)
{
	struct sim_change *c;

	TAILQ_FOREACH_REVERSE (c, &sim->pending, sim_changes, link) {
		if (!c->keep && allowed(sim, model, c)) {
			c->keep = true;
			while ((c = TAILQ_NEXT(c, link)))
				c->keep = false;
			return true;
		}
		c->keep = false;
	}
	return false;
}

static void choose_none(const struct sim *sim)
{
	struct sim_change *c;

	TAILQ_FOREACH (c, &sim->pending, link)
		c->keep = false;
}

/* Are there no more than max pictures? */
static bool few(const struct sim *sim, enum sim_model model, uint64_t max)
{
	uint64_t n = 1;

	if (sim->npending < 64 && UINT64_C(1) << sim->npending <= max)
		return true;
	choose_none(sim);
	while (n <= max && next_choice(sim, model))
		n++;
	return n <= max;
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* The i-th sample: the extremes first, then chance, with few or many kept. */
static void choose(const struct sim *sim, enum sim_model model, uint64_t seed, uint64_t i)
{
	uint64_t k = 0, cut = sim->npending ? mix(seed + i) % sim->npending : 0;
	static const unsigned percent[] = {50, 95, 5, 80};
	struct sim_change *c;

	choose_none(sim);
	TAILQ_FOREACH (c, &sim->pending, link) {
		bool want;

		switch (i) {
		case 0:
			want = true;
			break;
		case 1:
			want = false;
			break;
		case 2:
			want = c->kind != SIM_DATA;
			break;
		case 3:
			want = c->kind == SIM_DATA || c->kind == SIM_SIZE;
			break;
		default:
			if (i % 6 == 4)
				want = k < cut; /* in order */
			else if (i % 6 == 5)
				want = k != cut; /* all but one */
			else
				want = mix(seed ^ mix(i * 1000003 + k)) % 100 < percent[i / 6 % ARRAY_LEN(percent)];
		}
		c->keep = want && allowed(sim, model, c);
		k++;
	}
}

static int visit_images(const struct sim *sim, enum sim_model model, uint64_t max, uint64_t seed, sim_visit *fn, void *arg,
                        bool *all)
{
	uint64_t i = 0;
	bool every = few(sim, model, max);
	int r = 0;

	if (all)
		*all = every;
	if (every) {
		choose_none(sim);
		do
			r = fn(arg, image_of_kept(sim), i++);
		while (!r && next_choice(sim, model));
		return r;
	}
	for (; !r && i < max; i++) {
		choose(sim, model, seed, i);
		r = fn(arg, image_of_kept(sim), i);
	}
	return r;
}

int sim_images(const struct sim *sim, enum sim_model model, uint64_t max, uint64_t seed, sim_visit *fn, void *arg,
               bool *all)
{
	return visit_images(sim, model, max, seed, fn, arg, all);
}

struct pick {
	uint64_t i;
	struct sim *image;
};

static int pick(void *arg, struct sim *image, uint64_t i)
{
	struct pick *p = arg;

	if (i == p->i) {
		p->image = image;
		return 1;
	}
	sim_free(image);
	return 0;
}

struct sim *sim_image(const struct sim *sim, enum sim_model model, uint64_t max, uint64_t seed, uint64_t i)
{
	struct pick p = {.i = i};

	visit_images(sim, model, max, seed, pick, &p, NULL);
	return p.image;
}

/* ---- looking ---- */

struct drawing {
	struct sim *sim;
	struct base_buf out;
	char **first; /* by serial: the first path of a file with several names */
};

static void draw_bytes(struct drawing *d, struct sim_inode *in)
{
	uint8_t *p = sim_need(malloc(in->size + 1));
	uint64_t h = 0xcbf29ce484222325u;

	sim_read(in, p, in->size, 0);
	if (in->size <= 100) {
		for (uint64_t i = 0; i < in->size; i++)
			base_buf_printf(&d->out, p[i] >= ' ' && p[i] < 127 && p[i] != '\\' ? "%c" : "\\%02x", p[i]);
	} else {
		/* Enough to see what it is, and to tell it from others. */
		for (uint64_t i = 0; i < in->size; i++)
			h = (h ^ p[i]) * 0x100000001b3u;
		base_buf_printf(&d->out, "#%016" PRIx64 " ", h);
		for (uint64_t i = 0, run; i < in->size; i += run) {
			for (run = 1; i + run < in->size && p[i + run] == p[i]; run++)
				;
			if (run > 1 || i < 40)
				base_buf_printf(&d->out, p[i] >= ' ' && p[i] < 127 ? "%c*%" PRIu64 " " : "\\%02x*%" PRIu64 " ", p[i],
				                run);
		}
	}
	free(p);
}

static void draw_dir(struct drawing *d, struct sim_inode *dir, const char *path)
{
	for (size_t i = 0; i < dir->nentries; i++) {
		struct sim_inode *in = sim_at(&d->sim->now, dir->entries[i].serial);
		char *full = NULL;

		if (asprintf(&full, "%s/%s", path, dir->entries[i].name) < 0)
			abort();
		base_buf_printf(&d->out, "%s %o %u:%u", full, in->mode, in->uid, in->gid);
		if (!S_ISDIR(in->mode))
			base_buf_printf(&d->out, " links %u", in->names);
		for (size_t k = 0; k < in->nxattrs; k++)
			base_buf_printf(&d->out, " %s=%.*s", in->xattrs[k].name, (int)in->xattrs[k].len,
			                (char *)in->xattrs[k].value);
		if (!S_ISDIR(in->mode) && d->first[in->serial]) {
			base_buf_printf(&d->out, " = %s\n", d->first[in->serial]);
		} else {
			if (in->target)
				base_buf_printf(&d->out, " -> %s", in->target);
			if (S_ISREG(in->mode)) {
				base_buf_printf(&d->out, " size %" PRIu64 ": ", in->size);
				draw_bytes(d, in);
			}
			base_buf_printf(&d->out, "\n");
			if (!S_ISDIR(in->mode) && in->names > 1)
				d->first[in->serial] = sim_need(strdup(full));
		}
		if (S_ISDIR(in->mode))
			draw_dir(d, in, full);
		free(full);
	}
}

char *sim_picture(struct sim *sim)
{
	struct drawing d = {.sim = sim, .first = sim_need(calloc(sim->now.n + 1, sizeof(char *)))};
	struct sim_inode *root = sim_at(&sim->now, sim->root);

	base_buf_printf(&d.out, "/ %o %u:%u", root->mode, root->uid, root->gid);
	for (size_t k = 0; k < root->nxattrs; k++)
		base_buf_printf(&d.out, " %s=%.*s", root->xattrs[k].name, (int)root->xattrs[k].len,
		                (char *)root->xattrs[k].value);
	base_buf_printf(&d.out, "\n");
	draw_dir(&d, root, "");
	for (size_t i = 0; i < sim->now.n; i++)
		free(d.first[i]);
	free(d.first);
	if (d.out.err)
		abort();
	return (char *)d.out.p;
}

unsigned sim_leftovers(struct sim *sim)
{
	return (unsigned)(sim_at(&sim->now, sim->stage)->nentries + sim_at(&sim->now, sim->trash)->nentries);
}

const char *sim_leftover(struct sim *sim)
{
	struct sim_inode *stage = sim_at(&sim->now, sim->stage), *trash = sim_at(&sim->now, sim->trash);

	return stage->nentries ? stage->entries[0].name : trash->nentries ? trash->entries[0].name : "";
}

unsigned sim_lost(struct sim *sim)
{
	struct sim_inode *trash = sim_at(&sim->now, sim->trash);
	unsigned n = 0;

	for (size_t i = 0; i < trash->nentries; i++) {
		struct sim_inode *in = sim_at(&sim->now, trash->entries[i].serial);

		n += !strncmp(trash->entries[i].name, "lost-", 5) && in && S_ISDIR(in->mode) && in->nentries;
	}
	return n;
}

static const char *fsck_dir(struct sim *sim, struct sim_inode *dir, unsigned *seen, unsigned depth)
{
	const char *bad = NULL;

	if (depth > 200)
		return "directories in a circle";
	for (size_t i = 0; !bad && i < dir->nentries; i++) {
		struct sim_inode *in = sim_at(&sim->now, dir->entries[i].serial);

		if (!in)
			return "a name leads nowhere";
		seen[in->serial]++;
		if (S_ISDIR(in->mode) && seen[in->serial] > 1)
			return "a directory has two names";
		bad = S_ISDIR(in->mode) ? fsck_dir(sim, in, seen, depth + 1) : NULL;
	}
	return bad;
}

const char *sim_fsck(struct sim *sim)
{
	unsigned *seen = sim_need(calloc(sim->now.n + 1, sizeof(*seen)));
	const uint64_t from[] = {sim->root, sim->wal, sim->stage, sim->trash};
	const char *bad = NULL;

	for (size_t i = 0; !bad && i < ARRAY_LEN(from); i++)
		bad = fsck_dir(sim, sim_at(&sim->now, from[i]), seen, 0);
	for (size_t i = 0; !bad && i < sim->now.n; i++) {
		struct sim_inode *in = sim->now.v[i];

		if (in && in->names != seen[i])
			bad = S_ISDIR(in->mode) ? "directories in a circle" : "wrong link count";
	}
	free(seen);
	return bad;
}
