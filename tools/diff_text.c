/*
 * diff_text.c - contents as a unified diff. What is wholly new or gone is printed here; to compare two versions diff(1)
 * is called, which every Debian has, on copies in memory (diff_item.c).
 */
#include "tools/diff.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define DIFF_SECONDS 4 /* of a processor, for one file: of two that have little in common it can take hours */

static uint64_t count_lines(const struct diff_side *s)
{
	const char *p = s->map, *end = p + s->n;
	uint64_t lines = 0;

	for (; p < end; lines++) {
		const char *eol = memchr(p, '\n', (size_t)(end - p));

		p = eol ? eol + 1 : end;
	}
	return lines;
}

static void put_lines(const struct diff_out *o, const struct diff_side *s, enum diff_colour c, const char *sign)
{
	const char *p = s->map, *end = p + s->n;

	while (p < end && !diff_out_over()) {
		const char *eol = memchr(p, '\n', (size_t)(end - p));
		size_t n = (size_t)((eol ? eol : end) - p);

		diff_put(o, c, sign, 1);
		diff_put(o, c, p, n);
		diff_end();
		if (!eol)
			diff_line(o, DIFF_PLAIN, "\\ No newline at end of file");
		p += n + 1;
	}
}

static void put_range(struct base_buf *b, uint64_t lines)
{
	base_buf_printf(b, lines == 1 ? "1" : lines ? "1,%llu" : "0,0", (unsigned long long)lines);
}

/* All lines of both sides, one of which may be NULL. */
static int whole(const struct diff_out *o, const struct diff_side *a, const struct diff_side *b, const char *why,
                 struct diff_counts *counts)
{
	struct base_buf line = {0};
	int r;

	counts->minus = a ? count_lines(a) : 0;
	counts->plus = b ? count_lines(b) : 0;
	if (!o || counts->minus + counts->plus == 0)
		return 0;
	base_buf_printf(&line, "@@ -");
	put_range(&line, counts->minus);
	base_buf_printf(&line, " +");
	put_range(&line, counts->plus);
	base_buf_printf(&line, " @@%s", why);
	if (!line.err) {
		diff_line(o, DIFF_PLACE, "%s", line.p);
		if (a)
			put_lines(o, a, DIFF_OLD, "-");
		if (b)
			put_lines(o, b, DIFF_NEW, "+");
	}
	r = line.err;
	base_buf_free(&line);
	return r;
}

/* diff's output from now on comes out of *out. */
static int start(const struct diff *d, const struct diff_side *a, const struct diff_side *b, pid_t *pid, FILE **out)
{
	char context[32];
	char *argv[] = {"diff", "-a", context, "--", "/dev/fd/3", "/dev/fd/4", NULL};
	char *env[] = {"LC_ALL=C", "PATH=/usr/bin:/bin", NULL};
	const struct rlimit limit = {DIFF_SECONDS, DIFF_SECONDS};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t set;
	int fds[2], r;

	snprintf(context, sizeof(context), "-U%u", d->context);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	/* Out of the way of 3 and 4 first: these may be the pipe's. */
	r = posix_spawn_file_actions_adddup2(&files, fds[1], 1);
	if (!r)
		r = posix_spawn_file_actions_adddup2(&files, a->fd, 3);
	if (!r)
		r = posix_spawn_file_actions_adddup2(&files, b->fd, 4);
	if (!r)
		r = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGQUIT);
	if (!r)
		r = posix_spawnattr_setsigdefault(&attr, &set);
	if (!r)
		r = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
	if (!r)
		r = posix_spawn(pid, "/usr/bin/diff", &files, &attr, argv, env);
	if (r == ENOENT)
		r = posix_spawnp(pid, "diff", &files, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	close(fds[1]);
	*out = r ? NULL : fdopen(fds[0], "r");
	if (*out) {
		prlimit(*pid, RLIMIT_CPU, &limit, NULL);
		return 0;
	}
	close(fds[0]);
	return r ? -r : -ENOMEM;
}

/* One line of a hunk. */
static void put_line(const struct diff_out *o, char *line, size_t n, struct diff_counts *counts)
{
	enum diff_colour c = DIFF_PLAIN;

	if (line[0] == '+') {
		counts->plus++;
		c = DIFF_NEW;
	} else if (line[0] == '-') {
		counts->minus++;
		c = DIFF_OLD;
	} else if (line[0] == '@') {
		c = DIFF_PLACE;
	}
	if (!o)
		return;
	n -= line[n - 1] == '\n';
	diff_put(o, c, line, n);
	diff_end();
}

static int compared(const struct diff *d, const struct diff_out *o, const struct diff_side *a,
                    const struct diff_side *b, struct diff_counts *counts)
{
	CLEANUP_FREE char *line = NULL;
	size_t cap = 0, number = 0;
	FILE *in = NULL;
	int r, status;
	ssize_t n;
	pid_t pid;

	r = start(d, a, b, &pid, &in);
	if (r)
		return r;
	/* The first two lines are its header. */
	while ((n = getline(&line, &cap, in)) > 0 && !(o && diff_out_over()))
		if (++number > 2)
			put_line(o, line, (size_t)n, counts);
	r = ferror(in) ? -EIO : 0;
	fclose(in);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (o && diff_out_over())
		return r;
	/* It prints when it knows everything. */
	if (!r && !number && WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL))
		return whole(o, a, b, " too different to be compared line by line", counts);
	return r || !WIFEXITED(status) || WEXITSTATUS(status) > 1 ? -EIO : 0;
}

int diff_text(const struct diff *d, const struct diff_out *o, const struct diff_side *a, const struct diff_side *b,
              struct diff_counts *counts)
{
	*counts = (struct diff_counts){0};
	a = a && a->n ? a : NULL;
	b = b && b->n ? b : NULL;
	if (!a || !b)
		return whole(o, a, b, "", counts);
	return compared(d, o, a, b, counts);
}
