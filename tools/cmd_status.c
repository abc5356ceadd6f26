/* cmd_status.c - `txnfs status`: where the caller's or a named transaction stands. */
#include "tools/tools.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

struct args {
	const char *point, *txn, *control;
	bool json, changes;
};

static char *status_file(const struct tool_mount *m, const struct args *a, const char *name)
{
	return tool_control_read(m, a->control, a->txn, name);
}

/* "A path", "R path<TAB>to" */
static json_t *json_changes(char *text)
{
	json_t *list = json_array();

	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		json_t *o = json_object();
		char *path, *rest, *to = NULL;

		if (strlen(line) < 3) {
			json_decref(o);
			continue;
		}
		rest = tool_unquote(line + 2, &path);
		if (*rest == '\t') {
			*rest = 0;
			tool_unquote(rest + 1, &to);
		}
		json_object_set_new(o, "kind", json_stringn(line, 1));
		json_object_set_new(o, "path", tool_json_bytes(path));
		if (to)
			json_object_set_new(o, "to", tool_json_bytes(to));
		json_array_append_new(list, o);
	}
	return list;
}

/* "key: value" lines as members; numbers as numbers, an empty value as null */
static void json_status(json_t *o, char *text)
{
	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *colon = strchr(line, ':'), *value, *end;
		json_int_t number;
		double real;

		if (!colon)
			continue;
		*colon = 0;
		value = colon + 1 + strspn(colon + 1, " ");
		errno = 0;
		number = strtoll(value, &end, 10);
		if (!*value) {
			json_object_set_new(o, line, json_null());
		} else if (!*end && !errno) {
			json_object_set_new(o, line, json_integer(number));
		} else if (real = strtod(value, &end), !*end && strspn(value, "0123456789.") == strlen(value)) {
			json_object_set_new(o, line, json_real(real));
		} else {
			json_object_set_new(o, line, tool_json_bytes(value));
		}
	}
}

/* The named transactions of the mount. */
static json_t *named(const struct tool_mount *m, const struct args *a)
{
	CLEANUP_FREE char *path = NULL;
	json_t *list = json_array();
	struct dirent *de;
	DIR *d;

	if (asprintf(&path, "%s/%s", m->point, a->control) < 0) {
		path = NULL;
		return list;
	}
	d = opendir(path);
	while (d && (de = readdir(d)))
		if (de->d_type == DT_DIR && strcmp(de->d_name, ".") && strcmp(de->d_name, ".."))
			json_array_append_new(list, tool_json_bytes(de->d_name));
	if (d)
		closedir(d);
	return list;
}

static void print_named(json_t *list)
{
	json_t *name;
	size_t i;

	if (!json_array_size(list))
		return;
	printf("named:");
	json_array_foreach (list, i, name)
		printf(" %s", json_string_value(name));
	putchar('\n');
}

/* The lines of `transactions` as objects, by the names in its first line. */
static json_t *json_transactions(char *text)
{
	json_t *list = json_array();
	char *names = text, *line;

	text += strcspn(text, "\n");
	if (*text)
		*text++ = 0;
	for (char *save; (line = strtok_r(text, "\n", &save)); text = NULL) {
		json_t *o = json_object();
		char *name = names;

		while (*line && *name) {
			size_t n = strcspn(name, "\t"), len = strcspn(line, "\t");
			CLEANUP_FREE char *key = strndup(name, n), *value = strndup(line, len);
			char *path = value, *end;

			if (!key || !value)
				break;
			if (!strcmp(value, "-"))
				json_object_set_new(o, key, json_null());
			else if (strcmp(key, "waits_for") && strcmp(key, "name") && strtod(value, &end) >= 0 && !*end)
				json_object_set_new(o, key, strchr(value, '.') ? json_real(strtod(value, NULL))
				                                               : json_integer(strtoll(value, NULL, 10)));
			else {
				tool_unquote(value, &path);
				json_object_set_new(o, key, tool_json_bytes(path));
			}
			name += n + (name[n] == '\t');
			line += len + (line[len] == '\t');
		}
		json_array_append_new(list, o);
	}
	return list;
}

static void print_json(const struct tool_mount *m, const char *standing, char *status, char *changes, json_t *list,
                       char *transactions)
{
	json_t *o = json_object();

	json_object_set_new(o, "mount", tool_json_bytes(m->point));
	json_object_set_new(o, "source", tool_json_bytes(m->source));
	if (standing)
		json_object_set_new(o, "caller", tool_json_bytes(standing));
	if (list)
		json_object_set(o, "named", list);
	json_status(o, status);
	if (transactions)
		json_object_set_new(o, "transactions", json_transactions(transactions));
	if (changes)
		json_object_set_new(o, "changes", json_changes(changes));
	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
}

static int fail(const struct tool_mount *m, const struct args *a, const char *name)
{
	if (errno == ENOENT && a->txn)
		tool_error("%s: there is no transaction named \"%s\" (any more)", m->point, a->txn);
	else if (errno == EACCES && a->txn)
		tool_error("%s: transaction \"%s\" belongs to another user", m->point, a->txn);
	else if (errno == ENOTCONN)
		tool_error("%s: the filesystem's daemon has ended; `txnfs umount %s` and mount it again", m->point,
		           m->point);
	else
		tool_error("%s/%s/%s: %s", m->point, a->control, name, strerror(errno));
	return TOOL_FAILED;
}

static int status(const struct tool_mount *m, const struct args *a)
{
	CLEANUP_FREE char *text = NULL, *changes = NULL, *ctl = NULL, *transactions = NULL;
	char *standing = NULL;
	json_t *list = NULL;

	text = status_file(m, a, "status");
	if (!text)
		return fail(m, a, "status");
	if (a->changes) {
		changes = status_file(m, a, "changes");
		if (!changes && errno == ENOENT && !a->txn) {
			tool_error("%s: --changes needs a transaction: you are in none, name one with --txn NAME", m->point);
			return TOOL_FAILED;
		}
		if (!changes)
			return fail(m, a, "changes");
	}
	if (!a->txn) {
		/* The first line is the outcome of the last command, the second where the caller stands. */
		ctl = status_file(m, a, "ctl");
		if (!ctl)
			return fail(m, a, "ctl");
		standing = strchr(ctl, '\n');
		standing = standing ? standing + 1 : ctl;
		standing[strcspn(standing, "\n")] = 0;
		list = named(m, a);
		transactions = status_file(m, a, "transactions"); /* not inside a transaction's own root */
	}
	if (a->json) {
		print_json(m, standing, text, changes, list, transactions);
	} else {
		if (standing)
			printf("%s\n", standing);
		fputs(text, stdout);
		print_named(list);
		if (transactions && strchr(transactions, '\n') && strchr(transactions, '\n')[1])
			printf("open transactions:\n%s", transactions);
		if (changes && *changes)
			printf("changes:\n%s", changes);
	}
	json_decref(list);
	return tool_finish(TOOL_OK);
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
		a->json = true;
		return 0;
	case 'C':
		a->changes = true;
		return 0;
	case ARGP_KEY_ARG:
		if (a->point)
			return ARGP_ERR_UNKNOWN;
		a->point = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_status(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"txn", 'n', "NAME", 0, "The named transaction MNT/.txn/NAME", 0},
		{"changes", 'C', NULL, 0, "List what it has changed, too", 0},
		{"json", 'j', NULL, 0, "Print a JSON object", 0},
		{"control", 'c', "NAME", 0, "Name of the control directory (default $TXNFS_CONTROL or .txn)", 0},
		{0},
	};
	static const struct argp argp = {
		options, parse,
		"[MNT]", "Tell where the caller's transaction stands, or a named one, and how the mount is.",
		NULL,    NULL,
		NULL};
	struct args a = {0};
	struct tool_mount m;
	int r;

	tool_parse(&argp, argc, argv, 0, &a);
	a.control = tool_control(a.control);
	if (tool_mount_find(a.point, &m))
		return TOOL_FAILED;
	r = status(&m, &a);
	tool_mount_free(&m);
	return r;
}
