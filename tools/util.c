/* util.c - messages, arguments and progress. */
#include "tools/tools.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void tool_error(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("txnfs: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

void tool_parse(const struct argp *argp, int argc, char **argv, unsigned flags, void *input)
{
	error_t e = argp_parse(argp, argc, argv, flags, NULL, input);

	if (e) {
		tool_error("%s", strerror(e));
		exit(argp_err_exit_status);
	}
}

uint64_t tool_number(struct argp_state *state, const char *what, const char *text, uint64_t min, uint64_t max)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 0);
	if (errno || end == text || *end || strchr(text, '-') || v < min || v > max)
		argp_error(state, "%s: \"%s\" is not a number from %llu to %llu", what, text, (unsigned long long)min,
		           (unsigned long long)max);
	return v;
}

int tool_finish(int status)
{
	if (fflush(stdout) || ferror(stdout)) {
		tool_error("standard output: %s", strerror(errno));
		return status ? status : TOOL_FAILED;
	}
	return status;
}

static double seconds_between(const struct timespec *a, const struct timespec *b)
{
	return (double)(b->tv_sec - a->tv_sec) + (double)(b->tv_nsec - a->tv_nsec) / 1e9;
}

void tool_progress(struct tool_progress *p, const char *what, uint64_t done, uint64_t total)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!p->began.tv_sec) {
		p->began = now;
		p->shown = now;
	}
	if (!isatty(STDERR_FILENO) || seconds_between(&p->began, &now) < 1 || seconds_between(&p->shown, &now) < 0.2)
		return;
	p->shown = now;
	p->visible = true;
	fprintf(stderr, "\rtxnfs: %s: %.1f of %.1f MiB (%u %%)\033[K", what, (double)done / 1048576,
	        (double)total / 1048576, total ? (unsigned)((double)done * 100 / (double)total) : 100);
}

void tool_progress_end(struct tool_progress *p)
{
	if (p->visible)
		fputs("\r\033[K", stderr);
	p->visible = false;
}
