/* main.c - the program txnfs: which subcommand is meant. */
#include "tools/tools.h"

#include <stdio.h>
#include <string.h>

#ifndef TXNFS_VERSION
#define TXNFS_VERSION "unknown"
#endif

#if defined(__SANITIZE_ADDRESS__)
/*
 * After a write, AddressSanitizer looks at the buffer once more. A reply's may be gone by then: as soon as the kernel
 * has the reply, the next request can come, another thread serves it, and frees what the first one used.
 */
const char *__asan_default_suppressions(void);
const char *__asan_default_suppressions(void)
{
	return "interceptor_via_fun:fuse_reply_*\n";
}
#endif

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *args;
	const char *what;
} commands[] = {
	{"mount", cmd_mount, "SRC MNT", "mount the directory SRC at MNT"},
	{"umount", cmd_umount, "MNT", "unmount and wait until everything is written"},
	{"run", cmd_run, "MNT [--] CMD...", "run a command in a transaction of its own, on one mount or several"},
	{"begin", cmd_begin, "[MNT]", "begin a transaction for the calling shell"},
	{"commit", cmd_commit, "[MNT]", "commit it"},
	{"rollback", cmd_rollback, "[MNT]", "roll it back, wholly or to a savepoint"},
	{"savepoint", cmd_savepoint, "[MNT] NAME", "set a savepoint"},
	{"release", cmd_release, "[MNT] NAME", "forget a savepoint, keep the changes"},
	{"status", cmd_status, "[MNT]", "tell where a transaction stands"},
	{"diff", cmd_diff, "[MNT [NAME]]", "show what a transaction would change"},
	{"prepared", cmd_prepared, "SRC|MNT", "list the prepared transactions, which are in doubt"},
	{"resolve", cmd_resolve, "SRC|MNT GID OUTCOME", "commit or roll back a prepared transaction, or --all"},
	{"recover", cmd_recover, "SRC", "recover a directory that is not mounted"},
	{"log", cmd_log, "SRC|MNT", "print the log, a line a record"},
	{"check", cmd_check, "SRC|MNT", "verify the log and the state directory"},
};

static void usage(FILE *out)
{
	fprintf(out, "Usage: txnfs COMMAND [OPTION...] ARGUMENT...\n"
	             "Transactions for files: group file operations, then commit them or roll them back as one.\n\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  %-10s %-19s %s\n", commands[i].name, commands[i].args, commands[i].what);
	fprintf(out, "\n`txnfs COMMAND --help` tells a command's options; txnfs(1) is the manual, txnfs-control(5)\n"
	             "describes the control files. Exit status: 0 done, 1 failed, 2 wrong usage, 3 `check` found\n"
	             "problems; `run` gives its command's status, or 125 when txnfs itself failed.\n");
}

static int run_command(const struct command *c, int argc, char **argv)
{
	char name[32];

	snprintf(name, sizeof(name), "txnfs %s", c->name);
	argv[0] = name;
	return c->run(argc, argv);
}

int main(int argc, char **argv)
{
	const char *base = strrchr(argv[0] ? argv[0] : "txnfs", '/');

	argp_program_version = "txnfs " TXNFS_VERSION;
	argp_err_exit_status = TOOL_USAGE;
	base = base ? base + 1 : argv[0];
	if (base && (!strcmp(base, "mount.fuse.txnfs") || !strcmp(base, "mount.txnfs")))
		return mount_helper(argc, argv);

	if (argc < 2) {
		usage(stderr);
		return TOOL_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-?") || !strcmp(argv[1], "-h")) {
		usage(stdout);
		return tool_finish(TOOL_OK);
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts(argp_program_version);
		return tool_finish(TOOL_OK);
	}
	if (!strcmp(argv[1], "help")) {
		if (argc == 2) {
			usage(stdout);
			return tool_finish(TOOL_OK);
		}
		/* `txnfs help mount` is `txnfs mount --help` */
		argv[1] = argv[2];
		argv[2] = (char[]){"--help"};
		argc = 3;
	}
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return run_command(&commands[i], argc - 1, argv + 1);
	/* mount.fuse(8), for the type fuse.txnfs, calls `txnfs SRC MNT -o OPTIONS`. */
	if (strchr(argv[1], '/') && argc > 2)
		return mount_helper(argc, argv);
	tool_error("\"%s\" is not a command; `txnfs --help` lists them", argv[1]);
	return TOOL_USAGE;
}
