/* diff_out.c - colour, the pager, and text that a terminal can be trusted with. */
#include "tools/diff.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

extern char **environ;

static const char *const colours[] = {
	[DIFF_HEAD] = "\033[1m", [DIFF_PLACE] = "\033[36m",  [DIFF_OLD] = "\033[31m",
	[DIFF_NEW] = "\033[32m", [DIFF_WARN] = "\033[1;31m",
};

/* ---- the pager ---- */

static bool in_path(const char *program)
{
	const char *path = getenv("PATH");

	for (const char *p = path ? path : "/usr/bin:/bin"; *p;) {
		CLEANUP_FREE char *file = NULL;
		size_t n = strcspn(p, ":");

		if (asprintf(&file, "%.*s/%s", (int)n, p, program) < 0)
			file = NULL;
		if (n && file && !access(file, X_OK))
			return true;
		p += n + (p[n] == ':');
	}
	return false;
}

/* $PAGER, which may be a command with arguments, else less; NULL: none. */
static const char *pager_command(void)
{
	const char *pager = getenv("PAGER"), *term = getenv("TERM");

	if (pager)
		return *pager && strcmp(pager, "cat") ? pager : NULL;
	return term && strcmp(term, "dumb") && in_path("less") ? "less" : NULL;
}

/* stdout leads to the pager from then on. Without it all is shown as it comes. */
static int start_pager(struct diff_out *o, const char *command)
{
	char *argv[] = {"sh", "-c", (char *)command, NULL};
	posix_spawn_file_actions_t files;
	int fds[2], r;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	/* As git has it: end at once what fits on a screen, let colours through, leave the text on the screen. */
	setenv("LESS", "FRX", 0);
	setenv("LV", "-c", 0);
	fflush(stdout);
	posix_spawn_file_actions_init(&files);
	r = posix_spawn_file_actions_adddup2(&files, fds[0], 0);
	if (!r)
		r = posix_spawnp(&o->pager, "sh", &files, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	if (r)
		o->pager = 0;
	else if (dup2(fds[1], STDOUT_FILENO) < 0)
		r = errno;
	/* What goes wrong is to be read as well. */
	if (!r && isatty(STDERR_FILENO)) {
		o->errors = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
		if (o->errors >= 0)
			dup2(fds[1], STDERR_FILENO);
	}
	close(fds[0]);
	close(fds[1]);
	if (r)
		return -r;
	/* The keys are the pager's; that its reader has seen enough is told by a write. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	return 0;
}

/* ---- opening and closing ---- */

static unsigned terminal_width(bool terminal)
{
	const char *columns = getenv("COLUMNS");
	struct winsize ws;
	long n = columns ? strtol(columns, NULL, 10) : 0;

	if (n <= 0 && terminal && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws))
		n = ws.ws_col;
	return n < 20 || n > 10000 ? 80 : (unsigned)n;
}

int diff_out_open(struct diff_out *o, const char *colour, bool pager)
{
	const char *none = getenv("NO_COLOR"), *term = getenv("TERM"), *command;
	bool terminal = isatty(STDOUT_FILENO);

	*o = (struct diff_out){.visible = terminal, .width = terminal_width(terminal), .errors = -1};
	if (!strcmp(colour, "always"))
		o->colour = true;
	else if (!strcmp(colour, "auto"))
		o->colour = terminal && !(none && *none) && term && strcmp(term, "dumb");
	o->visible |= o->colour;
	command = terminal && pager ? pager_command() : NULL;
	return command ? start_pager(o, command) : 0;
}

bool diff_out_over(void)
{
	return ferror(stdout) != 0;
}

int diff_out_close(struct diff_out *o, int status)
{
	int done;

	if (!o->pager)
		return tool_finish(status);
	fflush(stdout); /* that nobody read to the end is no error */
	close(STDOUT_FILENO);
	if (o->errors >= 0) {
		dup2(o->errors, STDERR_FILENO);
		close(o->errors);
	}
	while (waitpid(o->pager, &done, 0) < 0 && errno == EINTR)
		;
	o->pager = 0;
	return status;
}

/* ---- text ---- */

/* The character at p: its length in bytes, and its number; 0: these bytes are no UTF-8. */
static size_t utf8(const unsigned char *p, size_t n, unsigned *code)
{
	size_t len = p[0] < 0x80                   ? 1
	             : p[0] >= 0xc2 && p[0] < 0xe0 ? 2
	             : (p[0] & 0xf0) == 0xe0       ? 3
	             : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
	                                           : 0;

	if (!len || len > n)
		return 0;
	*code = len == 1 ? p[0] : p[0] & (0x7fu >> len);
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (p[i] & 0x3f);
	}
	if ((len == 3 && (*code < 0x800 || (*code >= 0xd800 && *code < 0xe000))) ||
	    (len == 4 && (*code < 0x10000 || *code > 0x10ffff)))
		return 0;
	return len;
}

/* Does it steer the terminal, or show something else than is there: controls, text direction, what has no width? */
static bool steers(unsigned c)
{
	return (c < 0x20 && c != '\t') || (c >= 0x7f && c < 0xa0) || c == 0xad || c == 0x61c || c == 0x180e ||
	       (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) ||
	       c == 0xfeff || (c >= 0xfff9 && c <= 0xfffb) || (c >= 0xe0000 && c <= 0xe007f);
}

static void put_visible(const struct diff_out *o, const char *text, size_t n)
{
	const unsigned char *p = (const unsigned char *)text, *end = p + n, *plain = p;

	while (p < end) {
		unsigned c = 0;
		size_t len = utf8(p, (size_t)(end - p), &c);

		if (len && !steers(c)) {
			p += len;
			continue;
		}
		fwrite(plain, 1, (size_t)(p - plain), stdout);
		if (o->colour)
			fputs("\033[7m", stdout);
		if (!len)
			printf("<%02X>", *p);
		else if (c < 0x80)
			printf("^%c", c ^ 0x40);
		else
			printf("<U+%04X>", c);
		if (o->colour)
			fputs("\033[27m", stdout);
		p += len ? len : 1;
		plain = p;
	}
	fwrite(plain, 1, (size_t)(p - plain), stdout);
}

void diff_put(const struct diff_out *o, enum diff_colour c, const void *text, size_t n)
{
	if (!n)
		return;
	if (o->colour && c)
		fputs(colours[c], stdout);
	if (o->visible)
		put_visible(o, text, n);
	else
		fwrite(text, 1, n, stdout);
	if (o->colour && c)
		fputs("\033[m", stdout);
}

static void vprint(const struct diff_out *o, enum diff_colour c, const char *fmt, va_list ap)
{
	char *text = NULL;
	int n = vasprintf(&text, fmt, ap);

	if (n < 0)
		return;
	diff_put(o, c, text, (size_t)n);
	free(text);
}

void diff_print(const struct diff_out *o, enum diff_colour c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprint(o, c, fmt, ap);
	va_end(ap);
}

void diff_line(const struct diff_out *o, enum diff_colour c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprint(o, c, fmt, ap);
	va_end(ap);
	diff_end();
}

void diff_end(void)
{
	putchar('\n');
}
