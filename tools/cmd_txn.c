/* cmd_txn.c - begin, commit, rollback, savepoint, release: the control files' commands for shell scripts. */
#include "tools/tools.h"

#include <stdio.h>
#include <string.h>

struct args {
	const char *point;
	const char *txn; /* named transaction meant, NULL: the caller's own */
	const char *control;
	bool quiet;
	/* begin */
	const char *name, *timeout, *isolation;
	/* rollback */
	const char *to, *id;
	/* what stands behind the options */
	const char *pos[2];
	unsigned npos;
	bool needs_name;  /* savepoint, release: the last argument is the savepoint's name */
	bool expect_name; /* rollback: "to" was the last argument */
};

static const struct argp_option common_options[] = {
	{"txn", 'n', "NAME", 0, "Act on the named transaction, MNT/.txn/NAME", 0},
	{"control", 'c', "NAME", 0, "Name of the control directory (default $TXNFS_CONTROL or .txn)", 0},
	{"quiet", 'q', NULL, 0, "Print nothing when it went well", 0},
	{0},
};

static const struct argp_option begin_options[] = {
	{"name", 'N', "NAME", 0, "A name to know it by in status and messages", 0},
	{"timeout", 't', "SECONDS", 0, "How long its operations wait for another transaction's lock", 0},
	{"isolation", 'i', "LEVEL", 0, "read-committed (the default), serializable or snapshot", 0},
	{"control", 'c', "NAME", 0, "Name of the control directory (default $TXNFS_CONTROL or .txn)", 0},
	{"quiet", 'q', NULL, 0, "Print nothing when it went well", 0},
	{0},
};

static const struct argp_option rollback_options[] = {
	{"to", 't', "SAVEPOINT", 0, "Undo only what came after this savepoint; the transaction goes on", 0},
	{"id", 'i', "N", 0, "Roll back transaction number N, as `txnfs status` lists it, whoever is in it", 0},
	{"txn", 'n', "NAME", 0, "Act on the named transaction, MNT/.txn/NAME", 0},
	{"control", 'c', "NAME", 0, "Name of the control directory (default $TXNFS_CONTROL or .txn)", 0},
	{"quiet", 'q', NULL, 0, "Print nothing when it went well", 0},
	{0},
};

static error_t parse_common(int key, char *arg, struct args *a, struct argp_state *state)
{
	switch (key) {
	case 'n':
		a->txn = arg;
		return 0;
	case 'c':
		a->control = arg;
		return 0;
	case 'q':
		a->quiet = true;
		return 0;
	case ARGP_KEY_ARG:
		if (a->npos == (a->needs_name ? 2 : 1))
			return ARGP_ERR_UNKNOWN;
		a->pos[a->npos++] = arg;
		return 0;
	case ARGP_KEY_END:
		if (a->needs_name && !a->npos)
			argp_error(state, "the savepoint's name is needed");
		if (a->npos > a->needs_name)
			a->point = a->pos[0];
		if (a->needs_name)
			a->name = a->pos[a->npos - 1];
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_plain(int key, char *arg, struct argp_state *state)
{
	return parse_common(key, arg, state->input, state);
}

static error_t parse_begin(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;
	char *end;

	switch (key) {
	case 'N':
		a->name = arg;
		return 0;
	case 't':
		if (!(strtod(arg, &end) >= 0) || end == arg || *end)
			argp_error(state, "--timeout: \"%s\" is not a number of seconds", arg);
		a->timeout = arg;
		return 0;
	case 'i':
		a->isolation = tool_isolation(arg);
		if (!a->isolation)
			argp_error(state, "--isolation: \"%s\" is not read-committed, serializable or snapshot", arg);
		return 0;
	default:
		return parse_common(key, arg, a, state);
	}
}

static error_t parse_rollback(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	if (key == 'i') {
		if (!*arg || arg[strspn(arg, "0123456789")])
			argp_error(state, "--id: \"%s\" is not a transaction's number", arg);
		a->id = arg;
		return 0;
	}
	if (key == ARGP_KEY_END && a->id && (a->to || a->txn))
		argp_error(state, "--id says it all: without --to and --txn");
	if (key == 't' || (key == ARGP_KEY_ARG && a->expect_name)) {
		a->to = arg;
		a->expect_name = false;
		return 0;
	}
	/* As in the control language: `rollback to NAME` */
	if (key == ARGP_KEY_ARG && !a->to && !strcasecmp(arg, "to")) {
		a->expect_name = true;
		return 0;
	}
	if (key == ARGP_KEY_END && a->expect_name)
		argp_error(state, "the savepoint's name is needed behind \"to\"");
	return parse_common(key, arg, a, state);
}

/* Send what was built in b; the exit status. Frees b. */
static int send(const struct args *a, struct base_buf *b)
{
	CLEANUP_FREE char *answer = NULL;
	CLEANUP_CLOSE int fd = -1;
	struct tool_mount m = {0};
	int r;

	base_buf_put(b, "\n", 2);
	r = b->err;
	if (r)
		tool_error("%s", strerror(-r));
	if (!r)
		r = tool_mount_find(a->point, &m);
	if (!r) {
		fd = tool_ctl_open(&m, tool_control(a->control), a->txn);
		r = fd < 0 ? -EIO : 0;
	}
	if (!r) {
		r = tool_ctl_command(fd, (char *)b->p, &answer);
		if (r)
			tool_error("%s: %s", m.point, answer ? answer : strerror(-r));
		else if (!a->quiet && answer)
			puts(answer);
	}
	tool_mount_free(&m);
	base_buf_free(b);
	return tool_finish(r ? TOOL_FAILED : TOOL_OK);
}

/* VERB ["NAME"] */
static int send_verb(const struct args *a, const char *verb, const char *name)
{
	struct base_buf b = {0};

	base_buf_printf(&b, "%s", verb);
	if (name) {
		base_buf_put(&b, " ", 1);
		tool_ctl_quote(&b, name);
	}
	return send(a, &b);
}

int cmd_begin(int argc, char **argv)
{
	static const struct argp argp = {
		begin_options,
		parse_begin,
		"[MNT]",
		"Begin a transaction that belongs to the calling shell: the shell and all that it starts are in it "
		"until "
		"`txnfs commit` or `txnfs rollback`. When the shell ends without them, it is rolled back.\v"
		"MNT is the mount point, or any path in the mount; without it $TXNFS_MOUNT counts, then the working "
		"directory. The transaction belongs to the process that calls this program: do not call it in $(...), "
		"in "
		"a pipeline or in (...), which are processes of their own.",
		NULL,
		NULL,
		NULL};
	struct args a = {0};
	struct base_buf b = {0};

	tool_parse(&argp, argc, argv, 0, &a);
	base_buf_printf(&b, "begin");
	if (a.name) {
		base_buf_put(&b, " ", 1);
		tool_ctl_quote(&b, a.name);
	}
	if (a.isolation)
		base_buf_printf(&b, " isolation %s", a.isolation);
	if (a.timeout)
		base_buf_printf(&b, " timeout %s", a.timeout);
	base_buf_printf(&b, " owner %d", getppid());
	return send(&a, &b);
}

int cmd_commit(int argc, char **argv)
{
	static const struct argp argp = {
		common_options,
		parse_plain,
		"[MNT]",
		"Commit the transaction: on success all of it is durable and visible to everyone.",
		NULL,
		NULL,
		NULL};
	struct args a = {0};

	tool_parse(&argp, argc, argv, 0, &a);
	return send_verb(&a, "commit", NULL);
}

int cmd_rollback(int argc, char **argv)
{
	static const struct argp argp = {
		rollback_options,
		parse_rollback,
		"[MNT] [to SAVEPOINT]",
		"Roll the transaction back: nothing of it remains. With a savepoint, undo only "
		"what came after it.",
		NULL,
		NULL,
		NULL};
	struct args a = {0};

	tool_parse(&argp, argc, argv, 0, &a);
	if (a.id) {
		struct base_buf b = {0};

		base_buf_printf(&b, "rollback transaction %s", a.id);
		return send(&a, &b);
	}
	return send_verb(&a, a.to ? "rollback to savepoint" : "rollback", a.to);
}

int cmd_savepoint(int argc, char **argv)
{
	static const struct argp argp = {
		common_options,
		parse_plain,
		"[MNT] NAME",
		"Set a savepoint in the transaction, to which `txnfs rollback --to NAME` returns. "
		"Names may repeat: the newest counts.",
		NULL,
		NULL,
		NULL};
	struct args a = {.needs_name = true};

	tool_parse(&argp, argc, argv, 0, &a);
	return send_verb(&a, "savepoint", a.name);
}

int cmd_release(int argc, char **argv)
{
	static const struct argp argp = {common_options,
	                                 parse_plain,
	                                 "[MNT] NAME",
	                                 "Forget a savepoint and those set after it, keeping the changes.",
	                                 NULL,
	                                 NULL,
	                                 NULL};
	struct args a = {.needs_name = true};

	tool_parse(&argp, argc, argv, 0, &a);
	return send_verb(&a, "release savepoint", a.name);
}
