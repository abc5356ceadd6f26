/*
 * fault_scripts.c - scripts: what runs with faults do. A slot is a directory with steps of its own; each script leads
 * some of them through transactions, savepoints, checkpoints and recoveries.
 */
#include "tests/fault_private.h"
#include "tests/fault_steps.h"

#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>

#define EXCHANGE 2u
#define NOREPLACE 1u
#define BIG 30000 /* more than one record holds */

#define STEP(name, call)                                                                                               \
	static int name(struct run *run, struct txn *v, const char *slot)                                              \
	{                                                                                                              \
		return call;                                                                                           \
	}
#define DO(what, ...) do_##what(run, v, slot, __VA_ARGS__)
#define THEN(...) ?: DO(__VA_ARGS__)

/* ---- contents ---- */

STEP(a_file, DO(make, "f", S_IFREG | 0644, NULL) THEN(write, "f", 0, 5000, 'a'))
STEP(write_inside, DO(write, "f", 100, 700, 'B'))
STEP(write_across, DO(write, "f", 4500, 1500, 'C'))
STEP(write_beyond, DO(write, "f", 9000, 100, 'D'))
STEP(append, DO(append, "f", 300, 'E'))
STEP(write_big, DO(write, "f", 2000, BIG, 'F'))
STEP(cut_down, DO(cut, "f", 1000))
STEP(cut_up, DO(cut, "f", 20000))
STEP(cut_all, DO(cut, "f", 0))
STEP(write_after_hole, DO(write, "f", 3000, 500, 'G'))
STEP(punch, DO(fallocate, "f", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 500, 1000))
STEP(zero_range, DO(fallocate, "f", FALLOC_FL_ZERO_RANGE, 4000, 2000))
STEP(allocate, DO(fallocate, "f", 0, 0, 12000))
STEP(allocate_keep, DO(fallocate, "f", FALLOC_FL_KEEP_SIZE, 12000, 5000))
STEP(open_empty, DO(open_empty, "f"))
STEP(a_file_and_another, a_file(run, v, slot) THEN(make, "g", S_IFREG | 0600, NULL) THEN(write, "g", 0, 900, 'g'))
STEP(copy, DO(copy, "f", 1000, "g", 100, 3000))
STEP(copy_to_end, DO(copy, "g", 0, "f", 5000, 500))
STEP(a_suid_file, a_file(run, v, slot) THEN(mode, "f", 06755))
STEP(write_as_user, DO(write_as_user, "f", 10, 10, 'H'))
STEP(make_file, DO(make, "n", S_IFREG | 0644, NULL))
STEP(write_new, DO(write, "n", 0, 200, 'N'))
STEP(append_new, DO(append, "n", 50, 'O'))

static const struct run_slot data_slots[] = {
	{"write", a_file, {write_inside, write_across, write_beyond, append, write_big}},
	{"cut", a_file, {cut_down, write_after_hole, cut_up, cut_all}},
	{"holes", a_file, {punch, zero_range, allocate, allocate_keep}},
	{"empty", a_file, {write_inside, open_empty, write_inside}},
	{"copy", a_file_and_another, {copy, copy_to_end}},
	{"suid", a_suid_file, {write_as_user}},
	{"new", NULL, {make_file, write_new, append_new}},
	{NULL},
};

static const char *const all_data[] = {"write", "cut", "holes", "empty", "copy", "suid", "new", NULL};

static void play_data(struct run *run)
{
	run_begin(run, 0);
	run_take_all(run, 0, all_data);
	run_take_all(run, 0, all_data);
	run_look(run, 0, "write");
	run_take_all(run, 0, all_data);
	run_take_all(run, 0, all_data);
	run_look(run, 0, "holes");
	run_commit(run, 0);
	run_begin(run, 1);
	run_take(run, 1, "write");
	run_commit(run, 1);
	run_look(run, -1, "write");
}

/* ---- names ---- */

STEP(make_dir, DO(make, "d", S_IFDIR | 0755, NULL))
STEP(make_link, DO(make, "l", S_IFLNK | 0777, "somewhere"))
STEP(make_fifo, DO(make, "p", S_IFIFO | 0600, NULL))
STEP(make_below, DO(make, "d/x", S_IFREG | 0600, NULL))

STEP(file_and_dir, a_file(run, v, slot) THEN(make, "d", S_IFDIR | 0755, NULL))
STEP(link_g, DO(link, "f", "g"))
STEP(link_below, DO(link, "f", "d/h"))
STEP(unlink_f, DO(remove, "f", false))

STEP(file_with_two_names, a_file(run, v, slot) THEN(link, "f", "g"))

STEP(files_and_dirs, DO(make, "a", S_IFREG | 0600, NULL) THEN(write, "a", 0, 10, 'a')
     THEN(make, "b", S_IFREG | 0644, NULL) THEN(write, "b", 0, 20, 'b') THEN(make, "d", S_IFDIR | 0755, NULL)
     THEN(make, "e", S_IFDIR | 0755, NULL) THEN(make, "d/x", S_IFDIR | 0755, NULL)
     THEN(make, "d/x/y", S_IFREG | 0600, NULL) THEN(write, "d/x/y", 0, 30, 'y'))
STEP(rename_a_c, DO(rename, "a", "c", 0))
STEP(rename_over, DO(rename, "c", "b", 0))
STEP(rename_below, DO(rename, "b", "d/b", 0))
STEP(move_dir, DO(rename, "d", "e/d", 0))
STEP(make_in_moved, DO(make, "e/d/new", S_IFDIR | 0700, NULL))
STEP(move_up, DO(rename, "e/d/x", "e/x", 0))
STEP(remove_in_moved, DO(remove, "e/d/new", true))
STEP(exchange, DO(rename, "a", "d", EXCHANGE))
STEP(noreplace, DO(rename, "b", "c", NOREPLACE))
STEP(exchange_far, DO(rename, "c", "a/x/y", EXCHANGE))

STEP(dir_with_files, DO(make, "d", S_IFDIR | 0755, NULL) THEN(make, "d/f", S_IFREG | 0600, NULL)
     THEN(write, "d/f", 0, 100, 'f') THEN(make, "d/s", S_IFLNK | 0777, "t"))
STEP(unlink_below, DO(remove, "d/f", false))
STEP(unlink_symlink, DO(remove, "d/s", false))
STEP(remove_dir, DO(remove, "d", true))
STEP(file_for_dir, DO(make, "d", S_IFREG | 0600, NULL))

STEP(tmpfile_t, DO(tmpfile, "t", 'T'))
STEP(tmpfile_u, DO(tmpfile, "u", 'U'))
STEP(plain_tmpfile_t, DO(name_plain_tmpfile, "t", 'T'))
STEP(plain_tmpfile_u, DO(name_plain_tmpfile, "u", 'U'))
STEP(dirs, DO(make, "d", S_IFDIR | 0755, NULL) THEN(make, "e", S_IFDIR | 0700, NULL))
STEP(dir_over, DO(rename, "d", "e", 0))
STEP(make_a, DO(make, "a", S_IFREG | 0600, NULL))
STEP(rename_a_b, DO(rename, "a", "b", 0))
STEP(unlink_b, DO(remove, "b", false))

static const struct run_slot name_slots[] = {
	{"make", NULL, {make_file, make_dir, make_link, make_fifo, make_below}},
	{"link", file_and_dir, {link_g, link_below, unlink_f}},
	{"rename", files_and_dirs, {rename_a_c, rename_over, rename_below}},
	{"dirs", files_and_dirs, {move_dir, make_in_moved, move_up, remove_in_moved}},
	{"exchange", files_and_dirs, {exchange, noreplace, exchange_far}},
	{"remove", dir_with_files, {unlink_below, unlink_symlink, remove_dir, file_for_dir}},
	{"tmpfile", NULL, {tmpfile_t, tmpfile_u}},
	{"nameless", NULL, {plain_tmpfile_t, plain_tmpfile_u}},
	{"two", file_with_two_names, {write_inside, unlink_f}},
	{"over", dirs, {dir_over}},
	{"chain", NULL, {make_a, rename_a_b, unlink_b, make_a}},
	{NULL},
};

static const char *const all_names[] = {"make",   "link",    "rename",   "dirs", "exchange",
                                        "remove", "tmpfile", "nameless", "two",  "over", "chain",    NULL};

static void play_names(struct run *run)
{
	run_begin(run, 0);
	for (int i = 0; i < 4; i++)
		run_take_all(run, 0, all_names);
	run_look(run, 0, "dirs");
	run_tell(run, 0);
	run_commit(run, 0);
	run_look(run, -1, "dirs");
	run_begin(run, 1);
	run_take(run, 1, "make");
	run_commit(run, 1);
}

/* ---- attributes ---- */

STEP(mode, DO(mode, "f", 0600))
STEP(times, DO(times, "f", 500000000))
STEP(owner, DO(owner, "f", 1, 1))
STEP(size_and_mode, DO(size_and_mode, "f", 100, 0640))
STEP(one_dir, DO(make, "d", S_IFDIR | 0755, NULL))
STEP(dir_mode, DO(mode, "d", 0700))
STEP(dir_times, DO(times, "d", 600000000))
STEP(in_dir, DO(make, "d/x", S_IFREG | 0600, NULL))
STEP(xattr_new, DO(setxattr, "f", "user.a", 10, 'x', 1))
STEP(xattr_again, DO(setxattr, "f", "user.a", 100, 'y', 2))
STEP(xattr_big, DO(setxattr, "f", "user.b", 2500, 'z', 0))
STEP(xattr_gone, DO(removexattr, "f", "user.a"))
STEP(sgid_dir, DO(make, "d", S_IFDIR | 0755, NULL) THEN(owner, "d", 1, 1) THEN(mode, "d", 02775))
STEP(dir_in_sgid, DO(make, "d/e", S_IFDIR | 0755, NULL))
STEP(file_in_sgid, DO(make, "d/f", S_IFREG | 0644, NULL))
STEP(one_link, DO(make, "l", S_IFLNK | 0777, "x"))
STEP(link_times, DO(times, "l", 700000000))

static const struct run_slot attr_slots[] = {
	{"file", a_file, {mode, times, owner, size_and_mode}},
	{"dir", one_dir, {dir_mode, dir_times, in_dir, dir_times}},
	{"xattr", a_file, {xattr_new, xattr_again, xattr_big, xattr_gone}},
	{"sgid", sgid_dir, {dir_in_sgid, file_in_sgid}},
	{"symlink", one_link, {link_times}},
	{NULL},
};

static const char *const all_attrs[] = {"file", "dir", "xattr", "sgid", "symlink", NULL};

static void play_attrs(struct run *run)
{
	run_begin(run, 0);
	for (int i = 0; i < 3; i++)
		run_take_all(run, 0, all_attrs);
	run_look(run, 0, "xattr");
	run_commit(run, 0);
	run_begin(run, 1);
	run_take_all(run, 1, all_attrs);
	run_commit(run, 1);
	run_look(run, -1, "xattr");
}

/* ---- savepoints, rollbacks, checkpoints, a long transaction ---- */

static const struct run_slot life_slots[] = {
	{"write", a_file, {write_inside, write_across, write_beyond, append, write_big}},
	{"cut", a_file, {cut_down, write_after_hole, cut_up, cut_all}},
	{"rename", files_and_dirs, {rename_a_c, rename_over, rename_below}},
	{"exchange", files_and_dirs, {exchange, noreplace, exchange_far}},
	{"remove", dir_with_files, {unlink_below, unlink_symlink, remove_dir, file_for_dir}},
	{"new", NULL, {make_file, write_new, append_new}},
	{"xattr", a_file, {xattr_new, xattr_again, xattr_big, xattr_gone}},
	{"dir", one_dir, {dir_mode, dir_times, in_dir, dir_times}},
	{"make", NULL, {make_file, make_dir, make_link, make_fifo, make_below}},
	{"traffic", a_file, {write_big, cut_down, write_big, cut_down, write_big, cut_down, write_big, cut_down}},
	{"link", file_and_dir, {link_g, link_below, unlink_f}},
	{"holes", a_file, {punch, zero_range, allocate, allocate_keep}},
	{NULL},
};

static void play_savepoints(struct run *run)
{
	static const char *const some[] = {"write", "cut", "rename", "exchange", "remove", "new", "xattr", "dir", NULL};
	static const char *const others[] = {"make", "link", "holes", NULL};

	run_begin(run, 0);
	run_savepoint(run, 0, "start");
	run_take_all(run, 0, some);
	run_savepoint(run, 0, "one");
	run_take_all(run, 0, some);
	run_take_all(run, 0, others);
	run_savepoint(run, 0, "two");
	run_take_all(run, 0, some);
	run_rollback_to(run, 0, "two");
	run_take_all(run, 0, some);
	run_rollback_to(run, 0, "one");
	run_rollback_to(run, 0, "one");
	run_release(run, 0, "one");
	run_take_all(run, 0, some);
	run_tell(run, 0);
	run_commit(run, 0);
	run_begin(run, 1);
	run_take_all(run, 1, others);
	run_take_all(run, 1, some);
	run_rollback(run, 1);
	run_begin(run, 2);
	run_commit(run, 2);
	run_begin(run, 3);
	run_take_all(run, 3, others);
	run_savepoint(run, 3, "open");
	run_take_all(run, 3, others);
	/* It is open when the engine ends. */
}

static void traffic(struct run *run, int n)
{
	for (int i = 0; i < n; i++) {
		run_begin(run, 3);
		run_take(run, 3, "traffic");
		run_commit(run, 3);
	}
}

/* The log grows, and two open transactions are carried forward. */
static void play_long(struct run *run)
{
	static const char *const some[] = {"write", "cut", "rename", "new", "xattr", NULL};

	run_begin(run, 0);
	run_begin(run, 1);
	run_take_all(run, 0, some);
	run_take(run, 1, "make");
	run_savepoint(run, 0, "before");
	run_take_all(run, 0, some);
	run_take(run, 1, "holes");
	traffic(run, 4);
	run_checkpoint(run);
	run_look(run, 0, "cut");
	run_take_all(run, 0, some);
	run_rollback_to(run, 0, "before");
	run_take(run, 0, "new");
	run_take(run, 1, "make");
	traffic(run, 2);
	run_checkpoint(run);
	run_commit(run, 0);
	run_checkpoint(run);
	run_rollback(run, 1);
	run_checkpoint(run);
}

/* ---- plain operations, on what no log speaks of and on what one does ---- */

static const struct run_slot plain_slots[] = {
	{"write", a_file, {write_inside, write_across, write_beyond, append, write_big}},
	{"cut", a_file, {cut_down, write_after_hole, cut_up, cut_all}},
	{"holes", a_file, {punch, allocate, allocate_keep}},
	{"copy", a_file_and_another, {copy, copy_to_end}},
	{"make", NULL, {make_file, make_dir, make_link, make_fifo, make_below}},
	{"link", file_and_dir, {link_g, link_below, unlink_f}},
	{"rename", files_and_dirs, {rename_a_c, rename_over, rename_below}},
	{"dirs", files_and_dirs, {move_dir, make_in_moved, move_up, remove_in_moved}},
	{"exchange", files_and_dirs, {exchange, noreplace, exchange_far}},
	{"remove", dir_with_files, {unlink_below, unlink_symlink, remove_dir, file_for_dir}},
	{"tmpfile", NULL, {tmpfile_t, plain_tmpfile_u}},
	{"file", a_file, {mode, times, owner, size_and_mode}},
	{"xattr", a_file, {xattr_new, xattr_again, xattr_big, xattr_gone}},
	{"dir", one_dir, {dir_mode, in_dir, dir_times}},
	{NULL},
};

static const char *const all_plain[] = {"write",  "cut",      "holes",  "copy",    "make", "link",  "rename",
                                        "dirs",   "exchange", "remove", "tmpfile", "file", "xattr", "dir", NULL};

STEP(fsync_f, DO(fsync, "f"))
STEP(fsync_slot, DO(fsync_dir, ""))

static void play_plain(struct run *run)
{
	run_take_all(run, -1, all_plain);
	run_take_all(run, -1, all_plain);
	run_force(run, "write", fsync_f);
	run_force(run, "make", fsync_slot);
	run_take_all(run, -1, all_plain);
	run_take_all(run, -1, all_plain);
	run_look(run, -1, "write");
	run_checkpoint(run);
}

static void play_logged(struct run *run)
{
	run_begin(run, 0);
	run_take_all(run, 0, all_plain);
	run_commit(run, 0);
	run_take_all(run, -1, all_plain);
	run_force(run, "write", fsync_f);
	run_take_all(run, -1, all_plain);
	run_look(run, -1, "write");
	run_checkpoint(run);
	run_take_all(run, -1, all_plain);
}

/* ---- recovery ---- */

static void fill_log(struct run *run, const char *const *winners, const char *const *losers)
{
	run_begin(run, 0);
	run_take_all(run, 0, winners);
	run_savepoint(run, 0, "s");
	run_take_all(run, 0, winners);
	run_rollback_to(run, 0, "s");
	run_commit(run, 0);
	run_begin(run, 1); /* it will be lost */
	run_take_all(run, 1, losers);
	run_begin(run, 2);
	run_take_all(run, 2, winners);
}

static void before_recovery(struct run *run)
{
	static const char *const winners[] = {"write", "cut",     "copy", "make",  "link", "rename", "dirs",
	                                      "exchange", "tmpfile", "file", "xattr", "dir",  NULL};
	static const char *const losers[] = {"holes", "remove", NULL};

	fill_log(run, winners, losers);
	run_cut_off(run);
	run_commit(run, 2); /* committed, and not at home */
}

/* Nothing here makes the stage durable: what was to be created is made anew after a power cut. */
static void before_remake(struct run *run)
{
	static const char *const winners[] = {"write", "make", "link", "rename", "dirs", "remove", NULL};
	static const char *const losers[] = {"holes", "tmpfile", NULL};

	fill_log(run, winners, losers);
	run_take_all(run, 2, winners);
	run_take_all(run, 2, winners);
	run_cut_off(run);
	run_commit(run, 2);
}

/* The same as the first, and the long ones have been carried forward. */
static void before_carried(struct run *run)
{
	static const char *const winners[] = {"write", "cut", "new", "rename", "exchange", "xattr", "dir", NULL};
	static const char *const losers[] = {"holes", "remove", "make", NULL};

	fill_log(run, winners, losers);
	traffic(run, 4);
	run_checkpoint(run);
	run_take_all(run, 1, losers);
	run_take_all(run, 2, winners);
	run_cut_off(run);
	run_commit(run, 2);
}

/* ---- where nothing has been before ---- */

STEP(make_slot, DO(make, "", S_IFDIR | 0755, NULL))

static const struct run_slot first_slots[] = {
	{"first", NULL, {make_slot, make_file, make_dir}},
	{"second", NULL, {make_slot}},
	{NULL},
};

static void play_first(struct run *run)
{
	run_take(run, -1, "first");
	run_begin(run, 0);
	run_take(run, 0, "first");
	run_take(run, 0, "second");
	run_commit(run, 0);
}

/* ---- tables that grow ---- */

#define MANY 160

static int make_many(struct run *run, struct txn *v, const char *slot)
{
	int r = txn_savepoint(v, "many"), s;

	if (r)
		return r;
	for (int i = 0; i < MANY && !r; i++) {
		char name[16];

		snprintf(name, sizeof(name), "d/%d", i);
		r = do_make(run, v, slot, name, S_IFREG | 0600, NULL);
	}
	if (!r)
		return txn_release(v, "many");
	s = txn_rollback_to(v, "many");
	return s ? s : r;
}

static const struct run_slot many_slots[] = {
	{"lost", one_dir, {make_many}},
	{"won", one_dir, {make_many}},
	{"new", one_dir, {make_many}},
	{NULL},
};

static void before_many(struct run *run)
{
	run_begin(run, 0);
	run_take(run, 0, "lost");
	run_begin(run, 1);
	run_take(run, 1, "won");
	run_cut_off(run);
	run_commit(run, 1);
}

static void play_many(struct run *run)
{
	run_begin(run, 0);
	run_take(run, 0, "new");
	run_tell(run, 0);
	run_commit(run, 0);
}

static void play_recovered(struct run *run)
{
	run_look(run, -1, "write");
	run_begin(run, 0);
	run_take(run, 0, "write");
	run_take(run, 0, "rename");
	run_commit(run, 0);
}

/* ---- two-phase commit ---- */

/* One in doubt, behind it what is committed and not at home, and one that is lost; what they made is lost with the power. */
static void before_prepared(struct run *run)
{
	static const char *const doubtful[] = {"write", "new", "make", NULL};
	static const char *const winners[] = {"cut", "exchange", "rename", NULL};

	run_begin(run, 0);
	run_take_all(run, 0, doubtful);
	run_savepoint(run, 0, "s");
	run_take_all(run, 0, doubtful);
	run_rollback_to(run, 0, "s");
	run_take_all(run, 0, doubtful);
	run_begin(run, 1);
	run_take(run, 1, "dir");
	run_begin(run, 2);
	run_take_all(run, 2, winners);
	run_prepare(run, 0);
	run_take_all(run, 2, winners);
	run_cut_off(run);
	run_commit(run, 2);
}

/* The one in doubt is committed; one is prepared and rolled back, one waits at the end. */
static void play_prepared(struct run *run)
{
	run_look(run, -1, "write");
	run_begin(run, 1);
	run_take(run, 1, "dir");
	run_take(run, 1, "remove");
	run_prepare(run, 1);
	run_checkpoint(run);
	run_find(run, 0);
	run_commit(run, 0);
	run_rollback(run, 1);
	if (run_still_prepared(run, 0)) /* it has failed, and what it holds cannot be taken */
		return;
	run_begin(run, 2);
	run_take(run, 2, "cut");
	run_take(run, 2, "new");
	run_take(run, 2, "exchange");
	run_prepare(run, 2);
}

const struct run_script run_scripts[] = {
	{.name = "data", .slots = data_slots, .play = play_data},
	{.name = "names", .slots = name_slots, .play = play_names},
	{.name = "attrs", .slots = attr_slots, .play = play_attrs},
	{.name = "savepoints", .slots = life_slots, .play = play_savepoints},
	{.name = "long", .slots = life_slots, .play = play_long, .checkpoint_bytes = 32u << 10},
	{.name = "plain", .slots = plain_slots, .play = play_plain},
	{.name = "logged", .slots = plain_slots, .play = play_logged},
	{.name = "recovery", .slots = plain_slots, .before = before_recovery, .armed_open = true,
	 .play = play_recovered},
	{.name = "remake", .slots = plain_slots, .before = before_remake, .power_cut = true, .armed_open = true,
	 .play = play_recovered},
	{.name = "carried", .slots = life_slots, .before = before_carried, .armed_open = true, .play = play_recovered,
	 .checkpoint_bytes = 32u << 10},
	{.name = "prepared", .slots = life_slots, .before = before_prepared, .power_cut = true, .armed_open = true,
	 .play = play_prepared},
	{.name = "first", .slots = first_slots, .fresh = true, .armed_open = true, .play = play_first},
	{.name = "many", .slots = many_slots, .before = before_many, .armed_open = true, .play = play_many,
	 .rarely = true},
	{.name = NULL},
};

const struct run_script *run_script(const char *name)
{
	for (const struct run_script *s = run_scripts; s->name; s++)
		if (!strcmp(s->name, name))
			return s;
	return NULL;
}
