/* mount_options.c - the -o lists of `txnfs mount` and of mount(8). */
#include "tools/mount.h"

#include <stdio.h>
#include <string.h>

enum kind {
	PASS,    /* for FUSE or the kernel, as it stands */
	IGNORE,  /* the default anyway */
	GENERIC, /* mount(8)'s own business: fine in fstab, an error on our command line */
	NUMBER,
	SECONDS, /* 0 or more, with a fraction if need be */
	TEXT,
	FLAG,
};

#define FIELD(f) offsetof(struct mount_options, f)

/* A trailing '=' means that a value is needed, a trailing '*' that anything may follow. */
static const struct option {
	const char *name;
	enum kind kind;
	size_t field;
	unsigned max;
} table[] = {
	{"control=", TEXT, FIELD(control), 0},
	{"checkpoint_mib=", NUMBER, FIELD(checkpoint_mib), 1u << 20},
	{"checkpoint_seconds=", NUMBER, FIELD(checkpoint_seconds), 86400},
	{"lock_timeout=", SECONDS, FIELD(lock_timeout), 0},
	{"idle_timeout=", SECONDS, FIELD(idle_timeout), 0},
	{"max_transactions=", NUMBER, FIELD(max_transactions), 1u << 30},
	{"max_log=", NUMBER, FIELD(max_log), 1u << 30},
	{"segment_mib=", NUMBER, FIELD(segment_mib), 1024},
	{"max_threads=", NUMBER, FIELD(max_threads), 1024},
	{"debug", FLAG, FIELD(debug), 0},
	{"nonempty", FLAG, FIELD(nonempty), 0},

	{"allow_other", PASS, 0, 0},
	{"allow_root", PASS, 0, 0},
	{"default_permissions", PASS, 0, 0},
	{"auto_unmount", PASS, 0, 0},
	{"max_read=", PASS, 0, 0},
	{"ro", PASS, 0, 0},
	{"suid", PASS, 0, 0},
	{"nosuid", PASS, 0, 0},
	{"dev", PASS, 0, 0},
	{"nodev", PASS, 0, 0},
	{"exec", PASS, 0, 0},
	{"noexec", PASS, 0, 0},
	{"sync", PASS, 0, 0},
	{"async", PASS, 0, 0},
	{"dirsync", PASS, 0, 0},
	{"atime", PASS, 0, 0},
	{"noatime", PASS, 0, 0},
	{"nodiratime", PASS, 0, 0},
	{"context=", PASS, 0, 0},
	{"fscontext=", PASS, 0, 0},
	{"defcontext=", PASS, 0, 0},
	{"rootcontext=", PASS, 0, 0},

	{"rw", IGNORE, 0, 0},
	{"defaults", IGNORE, 0, 0},
	{"relatime", IGNORE, 0, 0},
	{"diratime", IGNORE, 0, 0},

	{"auto", GENERIC, 0, 0},
	{"noauto", GENERIC, 0, 0},
	{"user", GENERIC, 0, 0},
	{"user=", GENERIC, 0, 0},
	{"nouser", GENERIC, 0, 0},
	{"users", GENERIC, 0, 0},
	{"owner", GENERIC, 0, 0},
	{"noowner", GENERIC, 0, 0},
	{"group", GENERIC, 0, 0},
	{"nogroup", GENERIC, 0, 0},
	{"_netdev", GENERIC, 0, 0},
	{"nofail", GENERIC, 0, 0},
	{"comment=", GENERIC, 0, 0},
	{"uhelper=", GENERIC, 0, 0},
	{"helper=", GENERIC, 0, 0},
	{"x-*", GENERIC, 0, 0},
	{"X-*", GENERIC, 0, 0},
};

static const struct option *find(const char *text, size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		size_t n = strlen(table[i].name);
		char last = table[i].name[n - 1];

		if (last == '*'   ? len >= n - 1 && !strncmp(text, table[i].name, n - 1)
		    : last == '=' ? len >= n && !strncmp(text, table[i].name, n)
		                  : len == n && !strncmp(text, table[i].name, n))
			return &table[i];
	}
	return NULL;
}

static int pass(struct mount_options *o, const char *text, size_t len)
{
	if (o->fuse.n)
		o->fuse.p[o->fuse.n - 1] = ','; /* was the NUL */
	base_buf_put(&o->fuse, text, len);
	base_buf_put(&o->fuse, "", 1);
	return o->fuse.err;
}

static int set_number(struct mount_options *o, const struct option *opt, const char *value, size_t len, char *err,
                      size_t errlen)
{
	unsigned long v = 0;
	size_t i;

	for (i = 0; i < len && value[i] >= '0' && value[i] <= '9' && v <= opt->max; i++)
		v = v * 10 + (unsigned long)(value[i] - '0');
	if (!len || i < len || v < 1 || v > opt->max) {
		snprintf(err, errlen, "mount option %s\"%.*s\": a number from 1 to %u is needed", opt->name, (int)len,
		         value, opt->max);
		return -EINVAL;
	}
	*(unsigned *)(void *)((char *)o + opt->field) = (unsigned)v;
	return 0;
}

static int set_seconds(struct mount_options *o, const struct option *opt, const char *value, size_t len, char *err,
                       size_t errlen)
{
	struct mount_seconds *s = (void *)((char *)o + opt->field);
	char text[32] = "", *end = text;

	if (len && len < sizeof(text) && strspn(value, "0123456789.") >= len) {
		memcpy(text, value, len);
		s->value = strtod(text, &end);
	}
	if (end == text || *end || s->value > 1e9) {
		snprintf(err, errlen, "mount option %s\"%.*s\": a number of seconds is needed, 0 or more", opt->name,
		         (int)len, value);
		return -EINVAL;
	}
	s->given = true;
	return 0;
}

static int set_control(struct mount_options *o, const char *value, size_t len, char *err, size_t errlen)
{
	if (!len || len > 255 || memchr(value, '/', len) || (len == 1 && value[0] == '.') ||
	    (len == 2 && !memcmp(value, "..", 2))) {
		snprintf(err, errlen, "mount option control=%.*s: a file name is needed", (int)len, value);
		return -EINVAL;
	}
	free(o->control);
	o->control = strndup(value, len);
	return o->control ? 0 : -ENOMEM;
}

static int add(struct mount_options *o, const char *text, size_t len, enum mount_strictness strict, char *err,
               size_t errlen)
{
	const struct option *opt = find(text, len);
	size_t name;

	if (!opt && strict == MOUNT_SLOPPY)
		return 0;
	if (!opt) {
		snprintf(err, errlen, "mount option \"%.*s\" is not known; `txnfs mount --help` lists them", (int)len,
		         text);
		return -EINVAL;
	}
	name = strlen(opt->name);
	switch (opt->kind) {
	case PASS:
		return pass(o, text, len);
	case NUMBER:
		return set_number(o, opt, text + name, len - name, err, errlen);
	case SECONDS:
		return set_seconds(o, opt, text + name, len - name, err, errlen);
	case TEXT:
		return set_control(o, text + name, len - name, err, errlen);
	case FLAG:
		*(bool *)(void *)((char *)o + opt->field) = true;
		return 0;
	case GENERIC:
		if (strict != MOUNT_STRICT)
			return 0;
		snprintf(err, errlen, "mount option \"%.*s\" is for fstab and mount(8)", (int)len, text);
		return -EINVAL;
	case IGNORE:
		return 0;
	}
	return 0;
}

int mount_options_parse(struct mount_options *o, const char *list, enum mount_strictness strict, char *err,
                        size_t errlen)
{
	int r = 0;

	while (*list && !r) {
		/* As in mount(8), a value in double quotes may hold commas (SELinux contexts). */
		size_t len = 0;
		bool quoted = false;

		for (; list[len] && (quoted || list[len] != ','); len++)
			quoted ^= list[len] == '"';
		if (len)
			r = add(o, list, len, strict, err, errlen);
		if (r == -ENOMEM)
			snprintf(err, errlen, "%s", strerror(ENOMEM));
		list += len + (list[len] == ',');
	}
	return r;
}

void mount_options_free(struct mount_options *o)
{
	free(o->control);
	base_buf_free(&o->fuse);
}
