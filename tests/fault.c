/* fault.c - faults: their texts, which calls can fail how, counting calls and failing the n-th one. */
#include "tests/fault_private.h"

#include <stdio.h>
#include <string.h>

static struct {
	struct fault f;
	bool armed;
	unsigned paused;
	uint64_t count[FAULT_NCALLS], hits;
} L;

/* ---- texts ---- */

static const struct call {
	const char *text;
} calls[FAULT_NCALLS] = {
#define FAULT_STORE_TEXT(f) [FAULT_store_##f] = {.text = "store:" #f},
#define FAULT_OS_TEXT(f) [FAULT_os_##f] = {.text = "os:" #f},
	FAULT_CALLS(FAULT_STORE_TEXT, FAULT_OS_TEXT)
	[FAULT_any] = {.text = "all:any"},
	[FAULT_space] = {.text = "all:space"},
	[FAULT_change] = {.text = "all:change"},
	[FAULT_home] = {.text = "store:change"},
	[FAULT_sync] = {.text = "all:sync"},
	[FAULT_alloc] = {.text = "alloc:any"},
};

static const struct how {
	const char *name;
	int err;
} hows[FAULT_HOWS] = {
	[FAULT_EIO] = {"EIO", EIO},
	[FAULT_ENOSPC] = {"ENOSPC", ENOSPC},
	[FAULT_EDQUOT] = {"EDQUOT", EDQUOT},
	[FAULT_EINTR] = {"EINTR", EINTR},
	[FAULT_ENOMEM] = {"ENOMEM", ENOMEM},
	[FAULT_EMFILE] = {"EMFILE", EMFILE},
	[FAULT_EOPNOTSUPP] = {"EOPNOTSUPP", EOPNOTSUPP},
	[FAULT_SHORT] = {"SHORT", EIO},
	[FAULT_TORN] = {"TORN", EIO},
	[FAULT_LATE] = {"LATE", EIO},
	[FAULT_STUCK] = {"STUCK", EIO},
};

static const char *const modes[] = {[FAULT_ONCE] = "once", [FAULT_TWICE] = "twice", [FAULT_ALWAYS] = "always"};

static bool takes_space(enum fault_call c)
{
	switch (c) {
	case FAULT_store_create:
	case FAULT_store_tmpfile:
	case FAULT_store_link:
	case FAULT_store_rename:
	case FAULT_store_setattr:
	case FAULT_store_setxattr:
	case FAULT_store_write:
	case FAULT_store_fallocate:
	case FAULT_store_copy:
	case FAULT_store_reserve:
	case FAULT_store_seal:
	case FAULT_os_openat:
	case FAULT_os_pwritev:
	case FAULT_os_ftruncate:
	case FAULT_os_allocate:
	case FAULT_os_renameat:
		return true;
	default:
		return false;
	}
}

static bool syncs(enum fault_call c)
{
	return c == FAULT_store_sync || c == FAULT_store_sync_all || c == FAULT_os_fdatasync || c == FAULT_os_fsync;
}

static bool changes(enum fault_call c)
{
	return (takes_space(c) && c != FAULT_store_reserve && c != FAULT_os_openat) || syncs(c) ||
	       c == FAULT_store_unlink || c == FAULT_store_removexattr || c == FAULT_os_unlinkat;
}

static bool changes_home(enum fault_call c)
{
	return changes(c) && c < FAULT_os_openat && !syncs(c);
}

bool fault_possible(enum fault_call c, enum fault_how how)
{
	switch (how) {
	case FAULT_EIO:
		return c != FAULT_alloc && c != FAULT_space;
	case FAULT_ENOSPC:
	case FAULT_EDQUOT:
		return c == FAULT_space || takes_space(c) || c == FAULT_store_sync || c == FAULT_store_sync_all;
	case FAULT_EINTR:
		return c == FAULT_store_open || c == FAULT_store_read || c == FAULT_store_write ||
		       c == FAULT_store_fallocate || c == FAULT_store_sync || c == FAULT_os_openat ||
		       c == FAULT_os_pread || c == FAULT_os_pwritev;
	case FAULT_ENOMEM:
		return c == FAULT_alloc || c < FAULT_any;
	case FAULT_EMFILE:
		return c == FAULT_os_openat || c == FAULT_store_open || c == FAULT_store_lookup ||
		       c == FAULT_store_resolve;
	case FAULT_EOPNOTSUPP:
		return c == FAULT_store_fallocate;
	case FAULT_SHORT:
		return c == FAULT_os_pread || c == FAULT_os_pwritev || c == FAULT_store_write || c == FAULT_store_copy;
	case FAULT_TORN:
		return c == FAULT_os_pwritev || c == FAULT_store_write || c == FAULT_store_copy;
	case FAULT_LATE:
		return c == FAULT_os_pwritev || c == FAULT_store_write || syncs(c);
	case FAULT_STUCK:
		return c == FAULT_os_pwritev;
	default:
		return false;
	}
}

int fault_errno(const struct fault *f)
{
	return -hows[f->how].err;
}

const char *fault_call_text(enum fault_call call)
{
	return calls[call].text;
}

const char *fault_text(const struct fault *f)
{
	static char text[96];

	snprintf(text, sizeof(text), "%s:%llu:%s:%s", calls[f->call].text, (unsigned long long)f->n, hows[f->how].name,
	         modes[f->mode]);
	return text;
}

int fault_parse(const char *text, struct fault *f)
{
	char door[16], call[24], how[16], mode[8], whole[48];
	unsigned long long n;

	memset(f, 0, sizeof(*f));
	if (sscanf(text, "%15[^:]:%23[^:]:%llu:%15[^:]:%7s", door, call, &n, how, mode) != 5)
		return -EINVAL;
	snprintf(whole, sizeof(whole), "%s:%s", door, call);
	while (f->call < FAULT_NCALLS && strcmp(calls[f->call].text, whole))
		f->call++;
	while (f->how < FAULT_HOWS && strcmp(hows[f->how].name, how))
		f->how++;
	f->n = n;
	while (f->mode < ARRAY_LEN(modes) && strcmp(modes[f->mode], mode))
		f->mode++;
	return f->call == FAULT_NCALLS || f->how == FAULT_HOWS || f->mode == ARRAY_LEN(modes) ? -EINVAL : 0;
}

/* ---- counting and failing ---- */

void fault_arm(const struct fault *f)
{
	L.f = f ? *f : (struct fault){0};
	memset(L.count, 0, sizeof(L.count));
	L.hits = 0;
	L.armed = true;
}

void fault_disarm(void)
{
	L.armed = false;
}

void fault_pause(void)
{
	L.paused++;
}

void fault_resume(void)
{
	L.paused--;
}

uint64_t fault_count(enum fault_call call)
{
	return L.count[call];
}

uint64_t fault_hits(void)
{
	return L.hits;
}

static bool due(enum fault_call c)
{
	return L.f.call == c && fault_due(L.f.n, L.f.mode, L.count[c]);
}

int fault_gate(enum fault_call c, enum fault_how *how)
{
	bool hit;

	if (how)
		*how = FAULT_HOWS;
	if (!L.armed || L.paused)
		return 0;
	L.count[c]++;
	L.count[FAULT_any]++;
	L.count[FAULT_space] += takes_space(c);
	L.count[FAULT_change] += changes(c);
	L.count[FAULT_home] += changes_home(c);
	L.count[FAULT_sync] += syncs(c);
	hit = due(c) || due(FAULT_any) || (takes_space(c) && due(FAULT_space)) || (changes(c) && due(FAULT_change)) ||
	      (changes_home(c) && due(FAULT_home)) || (syncs(c) && due(FAULT_sync));
	if (!hit)
		return 0;
	L.hits++;
	if (how)
		*how = L.f.how != FAULT_STUCK ? L.f.how : L.hits == 1 ? FAULT_LATE : FAULT_EIO;
	return fault_errno(&L.f);
}
