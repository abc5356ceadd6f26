/*
 * extent.c - the extent map: a treap (Seidel and Aragon 1996) of ranges that do not overlap, ordered by offset.
 *
 * A change splits the tree at both ends of its range, drops what is between, and joins the rest around the new extent.
 */
#include "txn/extent.h"

#include "base/base.h"

/* Nodes that a change frees are kept for the next changes, up to this many. */
#define SPARES_KEPT 16u
/* One change needs a node for itself and one for the tail of an extent that it cuts in two. */
#define NODES_PER_SET 2u

struct txn_extent_node {
	struct txn_extent e;
	uint64_t priority;                    /* a parent's is never below its children's */
	struct txn_extent_node *left, *right; /* in the spare list: right is the next one */
};

static inline uint64_t extent_end(const struct txn_extent *e)
{
	return e->off + e->len;
}

/* xorshift64* (Vigna 2016): the shape of the tree needs no better, and per thread it needs no lock. */
static uint64_t next_priority(void)
{
	static _Thread_local uint64_t state = 0x9e3779b97f4a7c15u;

	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1du;
}

static void spare_push(struct txn_extents *x, struct txn_extent_node *n)
{
	n->left = NULL;
	n->right = x->spare;
	x->spare = n;
	x->spares++;
}

/* The caller of set has reserved: an empty list is a mistake in the program. */
static struct txn_extent_node *spare_pop(struct txn_extents *x, const struct txn_extent *e)
{
	struct txn_extent_node *n = x->spare;

	if (!n)
		abort();
	x->spare = n->right;
	x->spares--;
	x->count++;
	n->e = *e;
	n->left = n->right = NULL;
	return n;
}

static void node_drop(struct txn_extents *x, struct txn_extent_node *n)
{
	x->count--;
	if (x->spares < SPARES_KEPT)
		spare_push(x, n);
	else
		free(n);
}

static void tree_drop(struct txn_extents *x, struct txn_extent_node *n)
{
	if (!n)
		return;
	tree_drop(x, n->left);
	tree_drop(x, n->right);
	node_drop(x, n);
}

/* Extents that begin below off go to *low, the others to *high. */
static void tree_split(struct txn_extent_node *n, uint64_t off, struct txn_extent_node **low,
                       struct txn_extent_node **high)
{
	if (!n) {
		*low = *high = NULL;
	} else if (n->e.off < off) {
		*low = n;
		tree_split(n->right, off, &n->right, high);
	} else {
		*high = n;
		tree_split(n->left, off, low, &n->left);
	}
}

static struct txn_extent_node *tree_join(struct txn_extent_node *low, struct txn_extent_node *high)
{
	if (!low || !high)
		return low ? low : high;
	if (low->priority >= high->priority) {
		low->right = tree_join(low->right, high);
		return low;
	}
	high->left = tree_join(low, high->left);
	return high;
}

static struct txn_extent_node *tree_first(struct txn_extent_node *n)
{
	while (n && n->left)
		n = n->left;
	return n;
}

static struct txn_extent_node *tree_last(struct txn_extent_node *n)
{
	while (n && n->right)
		n = n->right;
	return n;
}

/* Take the first or last node out of a tree. */
static void tree_remove(struct txn_extents *x, struct txn_extent_node **root, struct txn_extent_node *end)
{
	struct txn_extent_node **link = root;

	while (*link != end)
		link = end->e.off < (*link)->e.off ? &(*link)->left : &(*link)->right;
	*link = tree_join(end->left, end->right);
	node_drop(x, end);
}

/* What is left of an extent from off on. */
static struct txn_extent tail_from(const struct txn_extent *e, uint64_t off)
{
	struct txn_extent t = *e;

	t.off = off;
	t.len = extent_end(e) - off;
	if (t.where == TXN_IN_LOG)
		t.pos += off - e->off;
	return t;
}

static bool continues(const struct txn_extent *a, const struct txn_extent *b)
{
	if (extent_end(a) != b->off || a->where != b->where || a->stolen != b->stolen)
		return false;
	return a->where != TXN_IN_LOG || a->pos + a->len == b->pos;
}

void txn_extents_init(struct txn_extents *x)
{
	*x = (struct txn_extents){0};
}

void txn_extents_free(struct txn_extents *x)
{
	struct txn_extent_node *n;

	tree_drop(x, x->root);
	while ((n = x->spare)) {
		x->spare = n->right;
		free(n);
	}
	txn_extents_init(x);
}

int txn_extents_reserve(struct txn_extents *x, size_t n)
{
	size_t need;

	if (__builtin_mul_overflow(n, (size_t)NODES_PER_SET, &need))
		return -ENOMEM;
	while (x->spares < need) {
		struct txn_extent_node *node = calloc(1, sizeof(*node));

		if (!node)
			return -ENOMEM;
		node->priority = next_priority();
		spare_push(x, node);
	}
	return 0;
}

void txn_extents_set(struct txn_extents *x, uint64_t off, uint64_t end, enum txn_where where, uint64_t pos)
{
	struct txn_extent e = {.off = off, .len = end - off, .where = where, .pos = where == TXN_IN_LOG ? pos : 0};
	struct txn_extent_node *low, *mid, *high, *n;

	if (off >= end)
		return;
	tree_split(x->root, off, &low, &high);
	tree_split(high, end, &mid, &high);

	/* Only the last extent that begins before off, and the last one inside the range, can reach beyond it. The
	 * nodes for what remains of them are taken before the others are dropped, so that the reserve is counted
	 * exactly. */
	n = tree_last(mid);
	if (n && extent_end(&n->e) > end) {
		struct txn_extent tail = tail_from(&n->e, end);

		high = tree_join(spare_pop(x, &tail), high);
	}
	n = tree_last(low);
	if (n && extent_end(&n->e) > off) {
		if (extent_end(&n->e) > end) {
			struct txn_extent tail = tail_from(&n->e, end);

			high = tree_join(spare_pop(x, &tail), high);
		}
		n->e.len = off - n->e.off;
	}
	tree_drop(x, mid);

	if (where != TXN_AT_HOME) {
		n = tree_last(low);
		if (n && continues(&n->e, &e)) {
			e = n->e;
			e.len = end - e.off;
			tree_remove(x, &low, n);
		}
		n = tree_first(high);
		if (n && continues(&e, &n->e)) {
			e.len = extent_end(&n->e) - e.off;
			tree_remove(x, &high, n);
		}
		low = tree_join(low, spare_pop(x, &e));
	}
	x->root = tree_join(low, high);
}

/* The last extent that begins at or below off, and the first one after it. */
static void tree_find(const struct txn_extents *x, uint64_t off, const struct txn_extent_node **at,
                      const struct txn_extent_node **after)
{
	const struct txn_extent_node *n = x->root;

	*at = *after = NULL;
	while (n) {
		if (n->e.off <= off) {
			*at = n;
			n = n->right;
		} else {
			*after = n;
			n = n->left;
		}
	}
}

void txn_extents_get(const struct txn_extents *x, uint64_t off, uint64_t end, struct txn_extent *piece)
{
	const struct txn_extent_node *at, *after;

	tree_find(x, off, &at, &after);
	if (at && extent_end(&at->e) > off) {
		*piece = tail_from(&at->e, off);
		piece->len = base_min_u64(piece->len, end - off);
		return;
	}
	if (after)
		end = base_min_u64(end, after->e.off);
	*piece = (struct txn_extent){.off = off, .len = end - off, .where = TXN_AT_HOME};
}

bool txn_extents_next(const struct txn_extents *x, uint64_t off, struct txn_extent *e)
{
	const struct txn_extent_node *at, *after;

	tree_find(x, off, &at, &after);
	if (!at || extent_end(&at->e) <= off)
		at = after;
	if (at)
		*e = at->e;
	return at;
}

static size_t tree_count(const struct txn_extent_node *n, uint64_t off, uint64_t end)
{
	if (!n)
		return 0;
	if (extent_end(&n->e) <= off)
		return tree_count(n->right, off, end);
	if (n->e.off >= end)
		return tree_count(n->left, off, end);
	return 1 + tree_count(n->left, off, end) + tree_count(n->right, off, end);
}

size_t txn_extents_count(const struct txn_extents *x, uint64_t off, uint64_t end)
{
	return off < end ? tree_count(x->root, off, end) : 0;
}

static void tree_relocate(struct txn_extent_node *n, uint64_t (*map)(void *arg, uint64_t pos), void *arg)
{
	if (!n)
		return;
	tree_relocate(n->left, map, arg);
	if (n->e.where == TXN_IN_LOG)
		n->e.pos = map(arg, n->e.pos);
	tree_relocate(n->right, map, arg);
}

void txn_extents_relocate(struct txn_extents *x, uint64_t (*map)(void *arg, uint64_t pos), void *arg)
{
	tree_relocate(x->root, map, arg);
}
