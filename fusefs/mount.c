/* mount.c - the mount's life: open, recover, mount; serve; unmount, roll back, close. */
#include "fusefs/private.h"

#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define DEFAULT_THREADS 16
#define LEAST_THREADS 4
#define GRACE 1 /* second that requests under way have when the daemon is told to stop */

/* ---- libfuse's messages ---- */

static pthread_mutex_t last_lock = PTHREAD_MUTEX_INITIALIZER;
static char last_message[256]; /* [last_lock] */
static bool mounting;          /* [last_lock] keep messages for the caller instead of logging them */
static atomic_bool tracing;    /* the request trace was asked for */

static void fuse_message(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char text[sizeof(last_message)];
	bool keep;

	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = '\0';
	pthread_mutex_lock(&last_lock);
	keep = mounting && level <= FUSE_LOG_ERR;
	if (keep)
		memcpy(last_message, text, sizeof(text));
	pthread_mutex_unlock(&last_lock);
	if (!keep)
		base_log(level == FUSE_LOG_DEBUG && atomic_load(&tracing) ? LOG_INFO : (int)level, "%s", text);
}

static void keep_messages(bool keep)
{
	pthread_mutex_lock(&last_lock);
	mounting = keep;
	if (keep)
		last_message[0] = '\0';
	pthread_mutex_unlock(&last_lock);
}

static int fail(int r, char *err, size_t errlen, const char *what)
{
	pthread_mutex_lock(&last_lock);
	if (last_message[0])
		snprintf(err, errlen, "%s: %s", what, last_message);
	else
		snprintf(err, errlen, "%s: %s", what, strerror(-r));
	pthread_mutex_unlock(&last_lock);
	return r;
}

/* ---- INIT ---- */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct fusefs *fs = userdata;
	unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
	                FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_ASYNC_DIO |
	                FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;

	if (!fusefs_io_kills_priv(fs))
		want |= FUSE_CAP_HANDLE_KILLPRIV;
	conn->want = want & conn->capable;
	if (fs->max_read)
		conn->max_read = fs->max_read;
	conn->max_background = FUSEFS_BACKGROUND;
	conn->congestion_threshold = FUSEFS_BACKGROUND / 4 * 3;
	conn->time_gran = 1;
}

/* ---- opening ---- */

static void report(void *arg, const char *line)
{
	struct fusefs *fs = arg;

	if (fs->report)
		fs->report(fs->arg, line);
}

static void progress(void *arg, uint64_t done, uint64_t total)
{
	struct fusefs *fs = arg;

	if (fs->progress)
		fs->progress(fs->arg, done, total);
}

/* The source's own entry of that name would be out of reach. */
static int check_control(struct fusefs *fs, const struct fusefs_config *cfg, char *err, size_t errlen)
{
	const struct store_ops *so = fs->store->ops;
	struct store_obj *own;
	int r;

	if (!*fs->control || strchr(fs->control, '/') || !strcmp(fs->control, ".") || !strcmp(fs->control, "..") ||
	    strlen(fs->control) > 255 || !strncmp(fs->control, STORE_STATE_DIR, strlen(STORE_STATE_DIR) + 1)) {
		snprintf(err, errlen, "control=%s: not a name that the control directory can have", fs->control);
		return -EINVAL;
	}
	r = so->lookup(so->root(fs->store), fs->control, &own, NULL);
	if (r == -ENOENT)
		return 0;
	if (r) {
		snprintf(err, errlen, "%s/%s: %s", cfg->source, fs->control, strerror(-r));
		return r;
	}
	so->put(own);
	snprintf(err, errlen,
	         "%s has an entry \"%s\" of its own, where the control directory would be; choose another name with -o "
	         "control=NAME",
	         cfg->source, fs->control);
	return -EEXIST;
}

static int open_engine(struct fusefs *fs, const struct fusefs_config *cfg, char *err, size_t errlen)
{
	struct store_dir_options so = {.create = true};
	struct txn_config tc = {
		.checkpoint_bytes = (uint64_t)cfg->checkpoint_mib << 20,
		.checkpoint_seconds = cfg->checkpoint_seconds,
		.segment_size = cfg->segment_mib << 20,
		.report = report,
		.progress = progress,
		.arg = fs,
	};
	struct fusefs_tx_hooks hooks;
	int r;

	r = store_dir_open(cfg->source, &so, &fs->store, &tc.wal_dirfd, err, errlen);
	if (r)
		return r;
	tc.store = fs->store;
	r = check_control(fs, cfg, err, errlen);
	if (!r)
		r = txn_engine_open(&tc, &fs->eng, NULL, err, errlen);
	if (r)
		return r;
	fusefs_view_hooks(fs, &hooks);
	r = fusefs_nodes_init(fs);
	if (!r)
		r = fusefs_registry_new(fs->eng, &hooks, &fs->reg);
	if (!r)
		fusefs_registry_limits(fs->reg, &(struct fusefs_limits){.idle = cfg->idle_timeout,
		                                                        .transactions = cfg->max_transactions,
		                                                        .log = (uint64_t)cfg->max_log_mib << 20});
	if (!r)
		r = fusefs_queue_start(fs, &fs->committed);
	if (!r)
		r = fusefs_queue_start(fs, &fs->outlived);
	if (!r)
		r = fusefs_queue_start(fs, &fs->late);
	if (!r)
		r = fusefs_park_start(fs);
	if (!r)
		r = fusefs_holding_start(fs);
	return r;
}

/* ---- mounting ---- */

static bool has_option(const char *options, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = options; p && *p; p = strchr(p, ',')) {
		p += *p == ',';
		if (!strncmp(p, name, n) && (!p[n] || p[n] == ',' || p[n] == '='))
			return true;
	}
	return false;
}

static int build_args(struct fusefs *fs, const struct fusefs_config *cfg, struct fuse_args *args)
{
	CLEANUP_FREE char *opts = NULL;
	CLEANUP_FREE char *fsname = NULL;
	const char *more = cfg->fuse_options ? cfg->fuse_options : "";
	const char *max_read = strstr(more, "max_read=");
	int r;

	if (max_read)
		fs->max_read = (unsigned)strtoul(max_read + strlen("max_read="), NULL, 10);
	if (asprintf(&fsname, "fsname=%s", cfg->source) < 0) {
		fsname = NULL;
		return -ENOMEM;
	}
	r = fuse_opt_add_opt(&opts, "subtype=txnfs");
	r |= fuse_opt_add_opt_escaped(&opts, fsname);
	if (!has_option(more, "default_permissions"))
		r |= fuse_opt_add_opt(&opts, "default_permissions");
	/* Root serves everybody; the others must ask, and /etc/fuse.conf must allow it. */
	if (geteuid() == 0 && !has_option(more, "allow_other") && !has_option(more, "allow_root"))
		r |= fuse_opt_add_opt(&opts, "allow_other");
	if (*more)
		r |= fuse_opt_add_opt(&opts, more);
	r |= fuse_opt_add_arg(args, "txnfs");
	r |= fuse_opt_add_arg(args, "-o");
	r |= fuse_opt_add_arg(args, opts);
	if (cfg->debug)
		r |= fuse_opt_add_arg(args, "-d");
	return r ? -ENOMEM : 0;
}

/* Where the connection can be aborted, should a request hang when the daemon is to end. */
static char *find_abort(const char *mountpoint)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL, *path = NULL, point[4096];
	size_t cap = 0;
	unsigned major, minor;

	while (f && getline(&line, &cap, f) > 0) {
		if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &major, &minor, point) != 3 || strcmp(point, mountpoint))
			continue;
		free(path);
		if (asprintf(&path, "/sys/fs/fuse/connections/%u/abort", (unsigned)makedev(major, minor)) < 0)
			path = NULL;
	}
	free(line);
	if (f)
		fclose(f);
	return path;
}

static int mount_it(struct fusefs *fs, const struct fusefs_config *cfg, char *err, size_t errlen)
{
	static struct fuse_lowlevel_ops ops = {.init = op_init};
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int r;

	fusefs_ops_name(&ops);
	fusefs_ops_file(&ops);
	fusefs_ops_attr(&ops);
	fusefs_ops_dir(&ops);
	keep_messages(true);
	fuse_set_log_func(fuse_message);
	atomic_store(&tracing, cfg->debug);
	r = build_args(fs, cfg, &args);
	if (r)
		goto out;
	fs->se = fuse_session_new(&args, &ops, sizeof(ops), fs);
	if (!fs->se) {
		r = fail(-EINVAL, err, errlen, "mount options");
		goto out;
	}
	if (fuse_session_mount(fs->se, cfg->mountpoint)) {
		r = fail(errno == EACCES || errno == EPERM ? -errno : -EIO, err, errlen, cfg->mountpoint);
		goto out;
	}
	fs->mounted = true;
	fs->abort_path = find_abort(cfg->mountpoint);
	fusefs_watchdog_mounted(&fs->watchdog, fs->abort_path);
	r = fusefs_io_hook(fs);
	if (r)
		snprintf(err, errlen, "libfuse: %s", strerror(-r));
out:
	fuse_opt_free_args(&args);
	keep_messages(false);
	return r;
}

int fusefs_new(const struct fusefs_config *cfg, struct fusefs **out, char *err, size_t errlen)
{
	struct fusefs *fs = calloc(1, sizeof(*fs));
	sigset_t all, old;
	int r;

	if (!fs)
		return -ENOMEM;
	err[0] = '\0';
	fs->report = cfg->report;
	fs->progress = cfg->progress;
	fs->arg = cfg->arg;
	fs->lock_timeout = cfg->lock_timeout;
	fs->max_threads = cfg->max_threads ? cfg->max_threads : DEFAULT_THREADS;
	if (fs->max_threads < LEAST_THREADS)
		fs->max_threads = LEAST_THREADS;
	clock_gettime(CLOCK_REALTIME, &fs->born);
	pthread_mutex_init(&fs->nodes, NULL);
	pthread_rwlock_init(&fs->sending, NULL);
	pthread_mutex_init(&fs->commands_lock, NULL);
	pthread_cond_init(&fs->commands_done, NULL);
	fs->control = strdup(cfg->control ? cfg->control : ".txn");
	fs->mountpoint = strdup(cfg->mountpoint);
	/* Signals are for the thread that calls fusefs_run. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	fusefs_watchdog_start(&fs->watchdog, cfg->mountpoint);
	r = fs->control && fs->mountpoint ? open_engine(fs, cfg, err, errlen) : -ENOMEM;
	if (!r)
		r = mount_it(fs, cfg, err, errlen);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r) {
		if (!err[0])
			snprintf(err, errlen, "%s: %s", cfg->source, strerror(-r));
		fusefs_free(fs);
		return r;
	}
	*out = fs;
	return 0;
}

/* ---- serving ---- */

static struct fuse_session *serving; /* for the signal handler */
static int stop_event = -1;

static void on_signal(int sig UNUSED)
{
	uint64_t one = 1;
	int saved = errno;
	ssize_t n;

	fuse_session_exit(serving);
	n = write(stop_event, &one, sizeof(one));
	(void)n;
	errno = saved;
}

struct guard {
	struct fusefs *fs;
	pthread_t main; /* which runs the loop */
	pthread_mutex_t lock;
	pthread_cond_t over;
	bool served; /* [lock] the loop has returned */
};

static void abort_connection(struct fusefs *fs)
{
	FILE *f = fs->abort_path ? fopen(fs->abort_path, "we") : NULL;

	base_log(LOG_INFO, "%s: requests under way do not end: cutting them off", fs->mountpoint);
	if (f) {
		fputs("1", f);
		fclose(f);
	} else if (umount2(fs->mountpoint, MNT_FORCE | MNT_DETACH)) {
		base_log(LOG_WARNING, "%s: %s", fs->mountpoint, strerror(errno));
	}
}

/*
 * Waits for a signal. The loop may have missed it (it looks at the flag, then sleeps), so it is told again; and if
 * requests under way do not let it end, they are cut off.
 */
static void *guard_run(void *arg)
{
	struct guard *g = arg;
	struct timespec until;
	uint64_t count;

	while (read(stop_event, &count, sizeof(count)) < 0 && errno == EINTR)
		;
	pthread_mutex_lock(&g->lock);
	for (int i = 1; !g->served; i++) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 200000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&g->over, &g->lock, &until);
		if (g->served)
			break;
		pthread_kill(g->main, SIGTERM);
		if (i == GRACE * 5)
			abort_connection(g->fs);
	}
	pthread_mutex_unlock(&g->lock);
	return NULL;
}

static const int stop_signals[] = {SIGTERM, SIGINT, SIGHUP};

static int serve(struct fusefs *fs)
{
	struct fuse_loop_config *cfg = fuse_loop_cfg_create();
	int r;

	if (!cfg)
		return -ENOMEM;
	fuse_loop_cfg_set_max_threads(cfg, fs->max_threads);
	fuse_loop_cfg_set_idle_threads(cfg, fs->max_threads);
	fuse_loop_cfg_set_clone_fd(cfg, 0);
	r = fuse_session_loop_mt(fs->se, cfg);
	fuse_loop_cfg_destroy(cfg);
	return r;
}

/* From here on nothing is written to the kernel: libfuse closes the descriptor, whose number may be given to another file. */
static void close_door(struct fusefs *fs)
{
	struct timespec until;

	for (int i = 0; i < 2; i++) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += GRACE;
		if (!pthread_rwlock_timedwrlock(&fs->sending, &until)) {
			fs->closed = true;
			pthread_rwlock_unlock(&fs->sending);
			return;
		}
		abort_connection(fs); /* a notification waits for a request that does not end */
	}
}

/* The loop has ended: nobody may hang on the mount, and notifications have nobody to go to. */
static void unmount(struct fusefs *fs)
{
	atomic_store(&fs->gone, true);
	if (!fs->mounted)
		return;
	for (int i = 0; i < 100; i++) {
		if (fusefs_queue_idle(&fs->committed) && fusefs_queue_idle(&fs->outlived) &&
		    fusefs_queue_idle(&fs->late) && fusefs_stall_idle(fs))
			break;
		if (i == 50)
			abort_connection(fs);
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	close_door(fs);
	fuse_session_unmount(fs->se);
	fs->mounted = false;
}

int fusefs_run(struct fusefs *fs)
{
	struct guard g = {
		.fs = fs, .main = pthread_self(), .lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER};
	struct sigaction act = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
	struct sigaction old[ARRAY_LEN(stop_signals)], old_pipe;
	sigset_t all, mask;
	pthread_t thread;
	uint64_t one = 1;
	int r;

	stop_event = eventfd(0, EFD_CLOEXEC);
	if (stop_event < 0)
		return -errno;
	serving = fs->se;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &mask);
	r = pthread_create(&thread, NULL, guard_run, &g);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (r) {
		close(TAKE_FD(stop_event));
		return -r;
	}
	for (size_t i = 0; i < ARRAY_LEN(stop_signals); i++)
		sigaction(stop_signals[i], &act, &old[i]);
	sigaction(SIGPIPE, &ignore, &old_pipe);

	r = serve(fs);
	fusefs_park_stop(fs);

	pthread_mutex_lock(&g.lock);
	g.served = true;
	pthread_cond_signal(&g.over);
	pthread_mutex_unlock(&g.lock);
	while (write(stop_event, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(thread, NULL);
	unmount(fs);
	for (size_t i = 0; i < ARRAY_LEN(stop_signals); i++)
		sigaction(stop_signals[i], &old[i], NULL);
	sigaction(SIGPIPE, &old_pipe, NULL);
	close(TAKE_FD(stop_event));
	return r < 0 ? r : 0;
}

int fusefs_free(struct fusefs *fs)
{
	int r = 0;

	if (!fs)
		return 0;
	fusefs_park_stop(fs);
	unmount(fs);
	fusefs_watchdog_stop(&fs->watchdog);
	fusefs_apart_wait(fs);
	fusefs_registry_free(fs->reg);
	fusefs_queue_stop(&fs->committed);
	fusefs_queue_stop(&fs->outlived);
	fusefs_queue_stop(&fs->late);
	fusefs_holding_stop(fs);
	if (fs->eng) {
		fusefs_nodes_free(fs);
		r = txn_engine_close(fs->eng);
	}
	fusefs_park_free(fs);
	if (fs->store)
		fs->store->ops->close(fs->store);
	if (fs->se)
		fuse_session_destroy(fs->se);
	pthread_cond_destroy(&fs->commands_done);
	pthread_mutex_destroy(&fs->commands_lock);
	pthread_mutex_destroy(&fs->nodes);
	pthread_rwlock_destroy(&fs->sending);
	free(fs->abort_path);
	free(fs->mountpoint);
	free(fs->control);
	free(fs);
	return r;
}
