/* fault_cases.c - many runs in a process of their own: one that ends in a signal, or never, is told like all others. */
#include "tests/fault_private.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define SECONDS_MAX 60
#define TELL_MAX 10

static uint64_t all_runs, all_hit, all_hits, all_broken; /* of all tests */

struct progress {
	size_t at; /* the run that is under way */
	uint64_t hits, runs_hit, runs_broken;
	char replay[512];
};

void run_cases_add(struct run_cases *c, struct run_plan *plan, struct fault f)
{
	if (c->n == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 1024;
		c->v = reallocarray(c->v, c->cap, sizeof(c->v[0]));
		assert_non_null(c->v);
	}
	c->v[c->n++] = (struct run_case){plan, f};
}

/* TXNFS_PART=I/N: each N-th of them, from the I-th on. */
static void keep_part(struct run_cases *c)
{
	const char *text = getenv("TXNFS_PART");
	size_t part, parts, n = 0;

	if (!text)
		return;
	if (sscanf(text, "%zu/%zu", &part, &parts) != 2 || part >= parts)
		fail_msg("TXNFS_PART=%s: not I/N", text);
	for (size_t i = part; i < c->n; i += parts)
		c->v[n++] = c->v[i];
	c->n = n;
}

/* What a run says is of interest when it fails. */
static void play_from(struct run_cases *c, size_t from, struct progress *p, int said)
{
	FILE *shown = getenv("TXNFS_PROGRESS") ? fdopen(dup(STDERR_FILENO), "w") : NULL;

	run_alone = true;
	dup2(said, STDERR_FILENO);
	for (size_t i = from; i < c->n; i++) {
		uint64_t n;

		if (ftruncate(said, 0))
			_exit(2);
		lseek(said, 0, SEEK_SET);
		p->at = i;
		alarm(SECONDS_MAX);
		n = run_once(c->v[i].plan, &c->v[i].fault);
		p->hits += n;
		p->runs_hit += n != 0;
		p->runs_broken += run_was_broken;
		if (shown && i % 1000 == 999) {
			fprintf(shown, "%zu of %zu runs\n", i + 1, c->n);
			fflush(shown);
		}
	}
	p->at = c->n;
	_exit(0);
}

static void tell(struct run_case *k, const char *how, int said)
{
	static char text[32 << 10];
	ssize_t n = pread(said, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	print_error("FAILED: a run %s\n%sagain: TXNFS_SCRIPT=%s%s TXNFS_FAULT=%s %s\n\n", how, text,
	            k->plan->script->name, k->plan->real ? " TXNFS_STORE=dir" : "", fault_text(&k->fault), run_command);
}

static const char *ending(int status)
{
	static char text[64];

	if (WIFSIGNALED(status))
		snprintf(text, sizeof(text), WTERMSIG(status) == SIGALRM ? "does not end" : "ends with signal %d",
		         WTERMSIG(status));
	else
		snprintf(text, sizeof(text), "ends with status %d", WEXITSTATUS(status));
	return text;
}

void run_cases_play(struct run_cases *c, const char *test)
{
	struct progress *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	size_t failed = 0, most = getenv("TXNFS_TELL") ? (size_t)atol(getenv("TXNFS_TELL")) : TELL_MAX;
	int said = memfd_create("said", 0);

	assert_true(p != MAP_FAILED && said >= 0);
	keep_part(c);
	while (p->at < c->n && failed < most) {
		int status = 0;
		pid_t pid;

		fflush(NULL);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0)
			play_from(c, p->at, p, said);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (p->at < c->n) {
			failed++;
			tell(&c->v[p->at], ending(status), said);
			p->at++;
		}
	}
	print_message("%s: %zu runs, a fault came in %llu of them (%llu faults), %llu ended read-only\n", test, p->at,
	              (unsigned long long)p->runs_hit, (unsigned long long)p->hits, (unsigned long long)p->runs_broken);
	all_runs += p->at;
	all_hit += p->runs_hit;
	all_hits += p->hits;
	all_broken += p->runs_broken;
	close(said);
	munmap(p, sizeof(*p));
	free(c->v);
	memset(c, 0, sizeof(*c));
	if (failed)
		fail_msg("%zu runs have failed", failed);
}

void run_cases_total(void)
{
	print_message("all: %llu runs, %llu with a fault, %llu faults in all, %llu ended read-only\n",
	              (unsigned long long)all_runs, (unsigned long long)all_hit, (unsigned long long)all_hits,
	              (unsigned long long)all_broken);
}
