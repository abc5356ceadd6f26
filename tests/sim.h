/*
 * sim.h - a disk in memory with one filesystem on it, for crash tests: the engine's store (txn/store.h) and the log's
 * door (base/os.h) over the same disk, so that what a power cut leaves of both is one picture.
 *
 * Calling sequence
 *     sim_new                  an empty tree and the state directory (wal/, stage/, trash/)
 *     sim_store, sim_os        what txn_config wants: the store is closed through its table, the door needs no close
 *     sim_on_change            a hook before each change and each sync: the place where a test makes the engine crash
 *     sim_kill                 a copy of the disk as a kill of the process leaves it: all that was done is there
 *     sim_images               copies of the disk as a power cut may leave it
 *     sim_free
 * A hook may copy the disk, open another engine on the copy and recover there, while the first one waits: the engine
 * need not die at a thousand places to be tried at a thousand places.
 *
 * What is durable (POSIX, without what filesystems add to it)
 *     data        each 512-byte sector of a file on its own, by sync or fdatasync of the file
 *     size        on its own too: it may come without the data (which reads as zeros then), or the data without it
 *     attributes  and xattrs: in the order of their changes, file by file, by sync of the file (not by fdatasync)
 *     names       by sync of their directory, not by sync of the file. A rename is one change. A change of a name needs
 *                 the earlier ones of the same name, what it happens in (mkdir), a rename of a directory the earlier ones of
 *                 directories, an rmdir the emptying, a removed name the file's other new names: no filesystem
 *                 loses a file that had a name all the time.
 *     sync_all    all of it
 * What is not durable may be there after a power cut or not, in any combination that keeps to these rules; SIM_JOURNAL keeps
 * to one more: of all changes of names and attributes the first n are there, as with a journal.
 *
 * A file without a name is gone after a crash. A freed inode number is used again soon, with another generation (I7).
 *
 * Threads: the disk has a lock; hooks run without it. Not for copying while other threads change it.
 */
#ifndef TXNFS_TESTS_SIM_H
#define TXNFS_TESTS_SIM_H

#include "base/base.h"
#include "base/os.h"
#include "txn/store.h"

struct sim;

struct sim *sim_new(void);
void sim_free(struct sim *sim);

/* One store at a time. It is the sim's: its close only forgets the handles. */
struct store *sim_store(struct sim *sim);
const struct os *sim_os(struct sim *sim);
int sim_wal_dir(struct sim *sim); /* handle for sim_os */

/*
 * Called before each change or sync, in the thread that makes it; n counts from 0 since sim_new (copies: from 0).
 * what: "write", "rename", "os.fdatasync", ...; on: the object's name, or "". Less than 0 makes the call fail with that
 * error, unless it cannot fail. NULL: no hook.
 */
typedef int sim_hook(void *arg, struct sim *sim, uint64_t n, const char *what, const char *on);
void sim_on_change(struct sim *sim, sim_hook *fn, void *arg);
uint64_t sim_changes(const struct sim *sim);

/* Copies have no open files and no hook, and all of it is durable, */
struct sim *sim_kill(const struct sim *sim);
/* but here: what was not durable is not yet. For a power cut soon after a kill. */
struct sim *sim_kill_only(const struct sim *sim);

enum sim_model { SIM_POSIX, SIM_JOURNAL };
/*
 * Visit what a power cut may leave: every allowed picture when there are at most `max`, else `max` of them, from seed, nothing
 * and everything among them. fn owns the copy; what it returns, when not 0, ends the visit and is returned. *all
 * (may be NULL): whether all were visited.
 */
typedef int sim_visit(void *arg, struct sim *image, uint64_t i);
int sim_images(const struct sim *sim, enum sim_model model, uint64_t max, uint64_t seed, sim_visit *fn, void *arg,
               bool *all);
/* The i-th of these again, for replay; NULL: there is none. */
struct sim *sim_image(const struct sim *sim, enum sim_model model, uint64_t max, uint64_t seed, uint64_t i);
/* Is there anything that a power cut could take away? */
bool sim_dirty(const struct sim *sim);

/*
 * The tree as text, a line per object and name in order: names, kinds, modes, owners, sizes, contents (long ones as a
 * hash), targets, xattrs, link counts, which names are the same file. Equal trees have equal texts. Not in it: times,
 * numbers, the state directory. malloc'ed.
 */
char *sim_picture(struct sim *sim);
/* Names in stage/ and trash/: how many, and one of them ("" when none; valid until the next change). */
unsigned sim_leftovers(struct sim *sim);
const char *sim_leftover(struct sim *sim);
/* Of these, directories with something in them that are kept in trash/ as lost-... */
unsigned sim_lost(struct sim *sim);
/* The filesystem's own rules: link counts, one parent for each directory, no circle. NULL or what is wrong (static). */
const char *sim_fsck(struct sim *sim);

/* Bytes that files may have in all; 0: no limit. reserve keeps to it, too. */
void sim_set_space(struct sim *sim, uint64_t bytes);

/* A file of the log, to damage it: borrowed whole contents in *p (written back by sim_poke). */
int sim_peek(struct sim *sim, const char *wal_name, uint8_t **p, uint64_t *size); /* malloc'ed */
int sim_poke(struct sim *sim, const char *wal_name, const uint8_t *p, uint64_t size);
int sim_wal_names(struct sim *sim, int (*fn)(void *arg, const char *name), void *arg);

#endif
