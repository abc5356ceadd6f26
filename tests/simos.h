/*
 * simos.h - files in memory behind struct os, for tests: they lose power, fill up and fail.
 *
 * What was written becomes durable by fdatasync (data and size) and by fsync of the directory (names). A power loss
 * keeps of the rest a random part: any of the 512-byte sectors, and the first few of the changes of names, as a
 * filesystem with an ordered journal does.
 */
#ifndef TXNFS_SIMOS_H
#define TXNFS_SIMOS_H

#include "base/os.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct simos;

struct simos *simos_new(uint64_t seed);
void simos_free(struct simos *sim);
const struct os *simos_os(struct simos *sim);
int simos_dir(struct simos *sim); /* handle of the directory */

/* A copy of the state with nothing open; with power_loss, what is left after one. */
struct simos *simos_copy(struct simos *sim, bool power_loss, uint64_t seed);

/* Bytes of a file as readers see them, to look at or to damage; NULL: no such file. */
uint8_t *simos_bytes(struct simos *sim, const char *name, uint64_t *size);
void simos_truncate(struct simos *sim, const char *name, uint64_t size);
size_t simos_names(struct simos *sim, char (*names)[32], size_t max);

/* Faults, all off at first. space: bytes that all files together may have. The others count calls down to the fault. */
struct simos_faults {
	uint64_t space;
	int fail_pwritev;   /* the n-th call from now on fails with -EIO, after writing a part */
	int write_all;      /* and that part is all of it */
	int fail_fdatasync; /* the n-th call from now on fails with -EIO, later ones succeed */
};
struct simos_faults *simos_faults(struct simos *sim);
uint64_t simos_open_handles(struct simos *sim);
/* Called in fdatasync, while no lock of the simulator is held. */
void simos_on_fdatasync(struct simos *sim, void (*fn)(void *arg), void *arg);

#endif
