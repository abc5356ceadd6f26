/*
 * cmd_diff.c - `txnfs diff`: what an open transaction would change.
 *
 * The file `changes` tells what to compare; both versions are read through the mount. A named transaction has its root;
 * its committed counterpart is the mount itself. Members of an ambient transaction see their own version there: for
 * them an empty transaction is opened, whose root shows what is committed.
 */
#include "tools/diff.h"

#include <fcntl.h>
#include <string.h>

#define MAX_SIZE (4u << 20) /* bytes of each version; diff(1) takes some times as much memory */
#define CONTEXT 3

enum format { PATCH, STAT, NAMES, JSON };
enum { OPT_STAT = 256, OPT_NAMES, OPT_COLOUR, OPT_NO_PAGER, OPT_EXIT_CODE, OPT_MAX_SIZE };

struct args {
	const char *point, *txn, *control, *colour;
	enum format format;
	bool exit_code, no_pager;
	uint64_t max_size;
	unsigned context;
	bool text;
};

struct session {
	struct tool_mount mount;
	const struct args *a;
	int ctl;      /* the transaction's control directory */
	char *status; /* as it was when we began */
	char *empty;  /* the directory of the transaction that shows what is committed; NULL: none is needed */
	struct diff d;
};

/* ---- control files ---- */

/* All of a control file; NULL with errno. */
static char *read_at(int dir, const char *name)
{
	CLEANUP_CLOSE int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	struct base_buf b = {0};
	char chunk[65536];
	ssize_t n;
	int err;

	if (fd < 0)
		return NULL;
	while ((n = read(fd, chunk, sizeof(chunk))) > 0 || (n < 0 && errno == EINTR))
		if (n > 0)
			base_buf_put(&b, chunk, (size_t)n);
	err = errno;
	base_buf_put(&b, "", 1);
	if (n >= 0 && !b.err)
		return (char *)b.p;
	base_buf_free(&b);
	errno = n < 0 ? err : ENOMEM;
	return NULL;
}

/* The value of "key: value" up to its newline, or "". Not terminated. */
static const char *value(const char *status, const char *key)
{
	size_t n = strlen(key);

	for (const char *p = status; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (!strncmp(p, key, n) && p[n] == ':')
			return p + n + 1 + strspn(p + n + 1, " ");
	return "";
}

static bool same_value(const char *x, const char *y, const char *key)
{
	const char *a = value(x, key), *b = value(y, key);
	size_t n = strcspn(a, "\n");

	return n == strcspn(b, "\n") && !memcmp(a, b, n);
}

/* ---- the two views ---- */

static bool is_prepared(int control, const char *gid)
{
	CLEANUP_FREE char *text = read_at(control, "prepared");

	for (char *save, *line = text ? strtok_r(text, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		char *rest, *name;

		rest = tool_unquote(line, &name);
		*rest = 0;
		if (!strcmp(name, gid))
			return true;
	}
	return false;
}

/* The control directory of the transaction that is meant. */
static int open_control(struct session *s)
{
	const struct args *a = s->a;
	const char *point = s->mount.point;
	CLEANUP_FREE char *path = NULL;
	CLEANUP_CLOSE int control = -1;
	int r;

	if (asprintf(&path, "%s/%s", point, a->control) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	control = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (control < 0) {
		r = -errno;
		if (r == -ENOTCONN)
			tool_error("%s: the filesystem's daemon has ended; `txnfs umount %s` and mount it again", point,
			           point);
		else if (r == -ENOENT)
			tool_error(
				"%s: there is no control directory %s; when it was mounted with -o control=NAME, say "
				"--control NAME",
				point, a->control);
		else
			tool_error("%s: %s", path, strerror(-r));
		return r;
	}
	if (a->txn && (!*a->txn || strchr(a->txn, '/') || !strcmp(a->txn, ".") || !strcmp(a->txn, ".."))) {
		tool_error("\"%s\" cannot be the name of a transaction", a->txn);
		return -EINVAL;
	}
	s->ctl = openat(control, a->txn ? a->txn : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	r = s->ctl < 0 ? -errno : 0;
	if (!r) {
		s->status = read_at(s->ctl, "status");
		r = s->status ? 0 : -errno;
	}
	if (a->txn && (r == -ENOENT || r == -ENOTDIR) && is_prepared(control, a->txn))
		tool_error("%s: transaction \"%s\" is prepared: it can be committed or rolled back (`txnfs resolve`), "
		           "but not be looked into any more",
		           point, a->txn);
	else if (a->txn && (r == -ENOENT || r == -ENOTDIR))
		tool_error("%s: there is no transaction named \"%s\" (any more)", point, a->txn);
	else if (r == -EACCES && a->txn)
		tool_error("%s: transaction \"%s\" belongs to another user", point, a->txn);
	else if (r)
		tool_error("%s: %s", path, strerror(-r));
	else if (!*value(s->status, "transaction")) {
		tool_error("%s: you are in no transaction; name one of those in %s/", point, path);
		r = -ENOTCONN;
	}
	return r;
}

/* An empty transaction of our own, which goes when we do. */
static int open_empty(struct session *s)
{
	CLEANUP_FREE char *name = NULL, *path = NULL, *answer = NULL;
	char owner[32];
	CLEANUP_CLOSE int fd = -1;
	int r = 0;

	if (asprintf(&name, "diff-%d-%08x", getpid(), (unsigned)base_random_u64()) < 0)
		name = NULL;
	if (!name || asprintf(&path, "%s/%s/%s", s->mount.point, s->a->control, name) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	if (mkdir(path, 0700) < 0) {
		r = -errno;
		tool_error("%s: cannot begin the empty transaction that shows what is committed: %s", s->mount.point,
		           strerror(-r));
		return r;
	}
	s->empty = TAKE_PTR(path);
	fd = tool_ctl_open(&s->mount, s->a->control, name);
	if (fd < 0)
		return -EIO;
	snprintf(owner, sizeof(owner), "owner %d\n", getpid());
	r = tool_ctl_command(fd, owner, &answer);
	if (r) {
		tool_error("%s: the empty transaction that shows what is committed: %s", s->mount.point,
		           answer ? answer : strerror(-r));
		return r;
	}
	if (asprintf(&path, "%s/root", s->empty) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	s->d.old_root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return s->d.old_root < 0 ? -errno : 0;
}

/* In the namespace of `txnfs run`: the shell of --review has a descriptor of the committed root. */
static int open_inherited(struct session *s)
{
	const char *text = getenv("TXNFS_COMMITTED");
	struct stat here, there;
	int fd = text && *text ? (int)strtol(text, NULL, 10) : -1;

	if (fd > 2 && !fstat(fd, &there) && S_ISDIR(there.st_mode) && !stat(s->mount.point, &here) &&
	    here.st_dev == there.st_dev)
		s->d.old_root = openat(fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (s->d.old_root >= 0)
		return 0;
	tool_error("%s: from inside `txnfs run` the committed files cannot be seen; outside of it say "
	           "`txnfs diff %s NAME`, where NAME is in $TXNFS_TXN",
	           s->mount.point, s->mount.point);
	return -EPERM;
}

static int open_views(struct session *s)
{
	const char *point = s->mount.point;
	CLEANUP_FREE char *mine = NULL, *path = NULL;
	int r = 0;

	if (s->a->txn) {
		s->d.new_root = openat(s->ctl, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (asprintf(&path, "%s/%s/status", point, s->a->control) < 0) {
			path = NULL;
			return -ENOMEM;
		}
		mine = read_at(AT_FDCWD, path);
	} else {
		s->d.new_root = open(point, O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	if (s->d.new_root < 0)
		r = -errno;
	else if (!s->a->txn && !strncmp(value(s->status, "kind"), "named", 5))
		return open_inherited(s);
	else if (!s->a->txn || (mine && *value(mine, "transaction")))
		return open_empty(s);
	else
		s->d.old_root = open(point, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (!r && s->d.old_root < 0)
		r = -errno;
	if (r)
		tool_error("%s: %s", point, strerror(-r));
	return r;
}

/* Is it still the transaction that it was? */
static void look_again(struct session *s)
{
	CLEANUP_FREE char *now = read_at(s->ctl, "status");

	if (!now || !same_value(s->status, now, "transaction") || !same_value(s->status, now, "state")) {
		tool_error("the transaction has ended while it was read: what is shown may be incomplete");
		s->d.trouble = true;
	} else if (!same_value(s->status, now, "operations")) {
		tool_error("the transaction has gone on while it was read: look again");
	}
}

static mode_t kind(void *arg, bool in_new, const char *path)
{
	const struct session *s = arg;
	struct stat st;

	return diff_stat(in_new ? s->d.new_root : s->d.old_root, path, &st) ? 0 : st.st_mode & S_IFMT;
}

static int show(struct session *s)
{
	static int (*const shows[])(struct diff * d, const struct diff_list *list, bool *differs) = {
		[PATCH] = diff_show_patch, [STAT] = diff_show_stat, [NAMES] = diff_show_names, [JSON] = diff_show_json};
	const struct args *a = s->a;
	const int failed = a->exit_code ? TOOL_USAGE : TOOL_FAILED;
	CLEANUP_FREE char *changes = read_at(s->ctl, "changes");
	struct diff_list list = {0};
	bool differs = false;
	int r;

	if (!changes) {
		tool_error("%s: cannot read what the transaction has changed: %s", s->mount.point, strerror(errno));
		return failed;
	}
	r = diff_list_parse(changes, kind, s, &list);
	if (r) {
		tool_error("%s: %s", s->mount.point,
		           r == -EPROTO ? "the list of changes is not understood: is the daemon of another version?"
		                        : strerror(-r));
		return failed;
	}
	r = diff_out_open(&s->d.out, a->colour, !a->no_pager && a->format != JSON && list.n);
	if (!r)
		r = shows[a->format](&s->d, &list, &differs);
	if (r)
		tool_error("%s: %s", s->mount.point, r == -EIO ? "diff(1) has failed" : strerror(-r));
	look_again(s);
	diff_list_free(&list);
	return diff_out_close(&s->d.out, r || s->d.trouble ? failed : a->exit_code && differs ? 1 : TOOL_OK);
}

/* ---- the command ---- */

static void choose(struct args *a, enum format format, struct argp_state *state)
{
	if (a->format != PATCH && a->format != format)
		argp_error(state, "only one of --stat, --name-status and --json");
	a->format = format;
}

static uint64_t parse_size(struct argp_state *state, const char *arg)
{
	CLEANUP_FREE char *number = strdup(arg);
	size_t n = strlen(arg);
	const char *unit = n ? strchr("kKmMgG", arg[n - 1]) : NULL;
	unsigned shift = !unit ? 0 : strchr("kK", *unit) ? 10 : strchr("mM", *unit) ? 20 : 30;

	if (number && shift)
		number[n - 1] = 0;
	return tool_number(state, "--max-size", number ? number : arg, 0, (uint64_t)INT32_MAX >> shift) << shift;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'n':
		a->txn = arg;
		return 0;
	case 'c':
		a->control = arg;
		return 0;
	case 'j':
		choose(a, JSON, state);
		return 0;
	case 'U':
		a->context = (unsigned)tool_number(state, "--unified", arg, 0, 1000000);
		return 0;
	case 'a':
		a->text = true;
		return 0;
	case OPT_STAT:
		choose(a, STAT, state);
		return 0;
	case OPT_NAMES:
		choose(a, NAMES, state);
		return 0;
	case OPT_COLOUR:
		a->colour = arg ? arg : "always";
		if (strcmp(a->colour, "auto") && strcmp(a->colour, "always") && strcmp(a->colour, "never"))
			argp_error(state, "--color: \"%s\" is not auto, always or never", arg);
		return 0;
	case OPT_NO_PAGER:
		a->no_pager = true;
		return 0;
	case OPT_EXIT_CODE:
		a->exit_code = true;
		return 0;
	case OPT_MAX_SIZE:
		a->max_size = parse_size(state, arg);
		return 0;
	case ARGP_KEY_ARG:
		if (!a->point)
			a->point = arg;
		else if (!a->txn)
			a->txn = arg;
		else
			return ARGP_ERR_UNKNOWN;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_diff(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"stat", OPT_STAT, NULL, 0, "Lines added and removed, a line a file", 0},
		{"name-status", OPT_NAMES, NULL, 0,
	         "A letter and the path: Added, Deleted, Modified, Properties, Renamed, Copied, Type", 0},
		{"json", 'j', NULL, 0, "Print a JSON array of objects", 0},
		{"text", 'a', NULL, 0, "Show binary files as text, too", 0},
		{"unified", 'U', "N", 0, "Lines of context (default 3)", 0},
		{"max-size", OPT_MAX_SIZE, "SIZE", 0,
	         "Do not show contents of more bytes than this (k, M, G; default 4M)", 0},
		{"color", OPT_COLOUR, "WHEN", OPTION_ARG_OPTIONAL, "auto (the default: on a terminal), always or never",
	         0},
		{"no-pager", OPT_NO_PAGER, NULL, 0, "Use no pager on a terminal", 0},
		{"exit-code", OPT_EXIT_CODE, NULL, 0,
	         "Exit with 1 when something has changed, with 2 when something failed", 0},
		{"txn", 'n', "NAME", 0, "The named transaction MNT/.txn/NAME", 0},
		{"control", 'c', "NAME", 0, "Name of the control directory (default $TXNFS_CONTROL or .txn)", 0},
		{0},
	};
	static const struct argp argp = {
		options,
		parse,
		"[MNT [NAME]]",
		"Show what the transaction NAME of the mount MNT would change, or the one that the caller is in: "
		"names, "
		"modes, owners, extended attributes, and contents as a unified diff.\v"
		"On a terminal the output is coloured (unless $NO_COLOR is set) and shown by $PAGER, or less; control "
		"characters in it are made visible. Elsewhere it is a patch that `patch -p1` applies.",
		NULL,
		NULL,
		NULL};
	struct args a = {.colour = "auto", .max_size = MAX_SIZE, .context = CONTEXT};
	struct session s = {.a = &a, .ctl = -1, .d.old_root = -1, .d.new_root = -1};
	int status;

	tool_parse(&argp, argc, argv, 0, &a);
	a.control = tool_control(a.control);
	s.d.max_size = a.max_size;
	s.d.context = a.context;
	s.d.text = a.text;
	status = a.exit_code ? TOOL_USAGE : TOOL_FAILED;
	if (!tool_mount_find(a.point, &s.mount) && !open_control(&s) && !open_views(&s))
		status = show(&s);
	if (s.d.old_root >= 0)
		close(s.d.old_root);
	if (s.d.new_root >= 0)
		close(s.d.new_root);
	if (s.ctl >= 0)
		close(s.ctl);
	if (s.empty)
		rmdir(s.empty);
	free(s.empty);
	free(s.status);
	tool_mount_free(&s.mount);
	return status;
}
