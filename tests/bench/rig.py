"""
What the cases stand on: filesystems in image files (beds), mounts of txnfs and its peers on them, runs of the
program `work`, and the removal of all that.
"""
import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import time

LIBC = ctypes.CDLL(None, use_errno=True)
MNT_FORCE, MNT_DETACH = 1, 2
# Nothing is left for later, the image's blocks are not given back, and there are inodes for a million files.
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F", "-i", "8192", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
        "xfs": ["mkfs.xfs", "-q", "-f", "-K"], "btrfs": ["mkfs.btrfs", "-q", "-f", "-K"]}


class Trouble(Exception):
    """A case cannot go on; the text tells why."""


class Missing(Exception):
    """A peer cannot be had here."""


def run(*cmd, seconds=600, **kw):
    p = subprocess.run(list(map(str, cmd)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       check=False, text=True, errors="replace", timeout=seconds, **kw)
    if p.returncode:
        raise Trouble(f"{' '.join(map(str, cmd))}: exit {p.returncode}: {(p.stderr or p.stdout).strip()[-1500:]}")
    return p.stdout


def mounted(path):
    """The type of the filesystem mounted there, or None; never touches it."""
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as f:
        for line in f:
            left, right = line.split(" - ", 1)
            if left.split()[4] == path:
                found = right.split()[0]
    return found


def umount(path, flags=0):
    """0 or an errno."""
    if LIBC.umount2(os.fsencode(path), flags) == 0:
        return 0
    code = ctypes.get_errno()
    if code == errno.EPERM:  # not root: a FUSE mount is ended by its helper
        p = subprocess.run(["fusermount3", "-u"] + (["-z"] if flags else []) + [path], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return errno.EBUSY if p.returncode else 0
    return code


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        LIBC.syncfs(fd)
    finally:
        os.close(fd)


def remove(path):
    """A file or a tree."""
    try:
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except OSError as e:
        raise Trouble(f"after the work its files could not be removed: {e}") from None


def cpu_of(pid):
    """User and system time of a process, with threads that have ended."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_of(pid, key="VmHWM"):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        for line in f:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    return 0


class Mounted:
    """A directory on a bed, by itself (plain) or through a daemon."""

    def __init__(self, rig, kind, bed, name, options="", descriptors=0, prepare=None):
        self.rig, self.kind, self.bed = rig, kind, bed
        self.home = os.path.join(bed, name)
        self.mnt = self.home if kind == "plain" else os.path.join(rig.dir, "mnt", name)
        self.options, self.descriptors = options, descriptors
        self.proc = None
        self.log = os.path.join(rig.dir, name + ".log")
        os.makedirs(self.home, exist_ok=True)
        os.makedirs(self.mnt, exist_ok=True)
        rig.mounts.append(self)
        if prepare:
            prepare(self.home)  # before it belongs to the mount
            sync(self.home)
        self.start()

    @property
    def pid(self):
        return self.proc.pid if self.proc else 0

    @property
    def ctl(self):
        return os.path.join(self.mnt, ".txn", "ctl")

    def command(self):
        if self.kind == "txnfs":
            return [self.rig.opt.txnfs, "mount", "-f"] + (["-o", self.options] if self.options else []) + [self.home, self.mnt]
        if self.kind == "passthrough":
            return [self.rig.opt.tools + "/passthrough", self.home, self.mnt]
        return ["bindfs", "-f", "--multithreaded"] + ([] if self.rig.root else ["--no-allow-other"]) + [self.home, self.mnt]

    def limit(self):
        if self.descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))

    def start(self):
        if self.kind == "plain":
            return 0.0
        with open(self.log, "ab") as log:
            begin = time.monotonic()
            self.proc = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         preexec_fn=self.limit)  # no threads here
        while not mounted(self.mnt):
            if self.proc.poll() is not None or time.monotonic() - begin > 120:
                raise Trouble(f"{' '.join(self.command())}: no mount, status {self.proc.poll()}: {self.text()}")
            time.sleep(0.001)
        os.stat(self.mnt)
        return time.monotonic() - begin

    def text(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()[-1500:].strip()

    def stop(self):
        """An orderly end."""
        if not self.proc:
            return
        end = time.monotonic() + 60
        while (code := umount(self.mnt)) and time.monotonic() < end:
            if code not in (errno.EBUSY, errno.EAGAIN):
                raise Trouble(f"umount {self.mnt}: {os.strerror(code)}")
            time.sleep(0.01)
        try:
            status = self.proc.wait(60)
        except subprocess.TimeoutExpired:
            raise Trouble(f"{self.kind} goes on after its umount") from None
        self.proc = None
        if status:
            raise Trouble(f"{self.kind} ended with {status}: {self.text()}")

    def kill(self):
        """kill -9, and the dead mount taken away."""
        if self.proc:
            self.proc.kill()
            self.proc.wait()
            self.proc = None
        while self.kind != "plain" and mounted(self.mnt) and not umount(self.mnt, MNT_DETACH):
            pass

    def busy(self):
        """One of its threads runs, or waits for the disk."""
        for tid in os.listdir(f"/proc/{self.pid}/task"):
            try:
                with open(f"/proc/{self.pid}/task/{tid}/stat", encoding="ascii", errors="replace") as f:
                    if f.read().rpartition(")")[2].split()[0] in "RD":
                        return True
            except (FileNotFoundError, ProcessLookupError):
                pass  # it has just ended
        return False

    def calm(self, forget=True):
        """Wait until the daemon has nothing to do; forget: its peak memory counts from now on."""
        if not self.proc:
            return
        last, still, end = 0.0, 0, time.monotonic() + 120
        while still < 4 and time.monotonic() < end:
            used = cpu_of(self.pid)
            still = still + 1 if used - last < 1e-4 and not self.busy() else 0
            last = used
            time.sleep(0.002)
        if forget:
            with open(f"/proc/{self.pid}/clear_refs", "w", encoding="ascii") as f:
                f.write("5")


class Rig:
    """Everything that must be taken down again."""

    def __init__(self, opt):
        self.opt = opt
        self.dir = opt.dir
        self.root = os.geteuid() == 0
        self.beds = {}
        self.mounts = []
        self.made = {}  # trees, archives and repositories that cases share
        self.names = 0
        self.direct = True
        self.tell = lambda text: None  # progress

    def bed(self, fs=None):
        """The directory of a filesystem of that kind; without root there is only the one that is there."""
        fs = fs or self.opt.fs
        if fs in self.beds:
            return self.beds[fs]
        place = os.path.join(self.dir, fs)
        os.makedirs(place, exist_ok=True)
        if fs != "here":
            self.loop(fs, place)
        self.beds[fs] = place
        return place

    def loop(self, fs, place):
        if not self.root:
            raise Missing("a disk image needs root to be mounted")
        if not os.path.exists("/dev/loop-control"):
            raise Missing("there are no loop devices (/dev/loop-control)")
        image = place + ".img"
        size = (self.opt.image_mib if fs == self.opt.fs else self.opt.image_mib // 3) << 20
        with open(image, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, size)
            if fs == self.opt.fs and not self.opt.quick:
                # Written once: else each first write to a block would cost the filesystem below some of its own.
                for i in range(size >> 22):
                    self.tell(f"writing the disk image: {i * 4} of {size >> 20} MiB")
                    f.write(bytes(1 << 22))
                os.fsync(f.fileno())
        run(*MKFS[fs], image)
        fd = os.open(image, os.O_RDONLY)
        os.fsync(fd)  # and out of the cache, where each direct write would have to look for it
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        run("mount", "-t", fs, "-o", "loop", image, place)  # the loop device goes with the mount, whoever ends it
        try:
            run("losetup", "--direct-io=on", run("findmnt", "-n", "-o", "SOURCE", place).strip())
        except Trouble:
            self.direct = False  # the filesystem below cannot; everything is cached twice then

    def mount(self, kind, fs=None, **kw):
        self.names += 1
        return Mounted(self, kind, self.bed(fs), f"{kind}{self.names}", **kw)

    def drop(self, m):
        """A mount and what is in it go."""
        m.stop()
        self.mounts.remove(m)
        shutil.rmtree(m.home, ignore_errors=True)
        if m.mnt != m.home:
            os.rmdir(m.mnt)

    def clean(self):
        for m in reversed(self.mounts):
            m.kill()
        self.mounts = []
        for fs in MKFS:
            place = os.path.join(self.dir, fs)
            if mounted(place):
                umount(place, MNT_DETACH)
        self.beds = {}


class Context:
    """A case while it runs: its mounts, one per kind."""

    def __init__(self, rig):
        self.rig = rig
        self.opt = rig.opt
        self.mounts = {}
        self.round = 0

    def mount(self, kind, fs=None, key=None, **kw):
        key = key or (kind, fs)
        if key not in self.mounts:
            self.mounts[key] = self.rig.mount(kind, fs, **kw)
        return self.mounts[key]

    def close(self):
        for m in list(self.mounts.values()):
            self.rig.drop(m)
        self.mounts = {}

    def place(self, m):
        """A name in the mount for this round, not there yet."""
        self.rig.names += 1
        return f"r{self.rig.names}"

    def work(self, m, kind, argv=(), clean=None, **args):
        """
        One run of the program `work`; measures by name. clean: a directory in the mount that is removed afterwards.
        The peak of the daemon's memory, and how far it was above what it had at rest before, come with them.
        """
        m.calm()
        before = memory_of(m.pid, "VmRSS") if m.pid else 0
        args = {"seed": self.opt.seed * 1000 + self.round, "bed": m.bed, "pid": m.pid or None, **args}
        words = [f"{k}={v}" for k, v in args.items() if v is not None]
        out = json.loads(run(self.opt.tools + "/work", kind, *words, *(["--", *argv] if argv else [])))
        if m.pid:
            out["peak"] = memory_of(m.pid)
            out["growth"] = max(0, out["peak"] - before)
        else:
            out.pop("daemon", None)
        out["processor"] = out["cpu"] + out.get("daemon", 0)  # of client and daemon: noise from other programs is not in it
        if clean:
            remove(os.path.join(m.mnt, clean))
        return out


class Case:
    """
    One comparison. runners: subject -> function(context) that gives a sample, a dict of measures with "seconds" in it.
    fresh: new mounts for each round. reference: what the ratios in the table are to.
    """

    def __init__(self, name, about, runners, goals=(), reference="floor", fresh=False):
        self.name, self.about, self.runners, self.goals = name, about, runners, list(goals)
        self.reference, self.fresh = reference, fresh
        self.skipped = {}


def on_signals():
    """A signal becomes an exception, so that all is taken down."""
    def stop(number, _):
        for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(s, signal.SIG_IGN)
        raise KeyboardInterrupt(number)
    for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(s, stop)
