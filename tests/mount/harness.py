"""
What the real-mount tests share: the mount of a scratch directory, processes that are or are not members of a
transaction, control commands, and pictures of a tree that can be compared.

A test is a function test_NAME(t) in a file test_*.py; t is a Test. It runs in a process of its own, which is the
reaper of everything it starts, so that run.py can clean up whatever happens.
"""
import errno
import hashlib
import json
import marshal
import os
import pickle
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import traceback
import types

import sysc
from checks import (OPT, Failure, Skip, append, check, equal, exists, expect, ls, name_of, named_open, patience,  # noqa: F401
                    read, wait_until, write, write_all)  # tests import all of these from here

NOBODY = 65534


# ---- marks on tests ----

def quick(fn):
    fn.quick = True
    return fn


def needs_root(fn):
    fn.needs_root = True
    return fn


def deadline(seconds):
    def mark(fn):
        fn.deadline = seconds
        return fn
    return mark


# ---- control files ----

class CtlError(OSError):
    """A control command failed; line is what ctl said about it."""
    line = ""


def ctl(mnt, text, tx=None, control=".txn"):
    """Write a command to a mount's ctl (or to a named transaction's); the readable line is returned."""
    path = os.path.join(mnt, control, tx, "ctl") if tx else os.path.join(mnt, control, "ctl")
    data = text.encode() if isinstance(text, str) else text
    fd = os.open(path, os.O_RDWR)
    try:
        try:
            n = os.write(fd, data)
        except OSError as e:
            line = os.pread(fd, 65536, 0).decode("utf-8", "replace")
            err = CtlError(e.errno, f"{os.strerror(e.errno)} after {data[:60]!r}: {line.strip()}")
            err.line = line
            raise err from None
        if n != len(data):
            raise Failure(f"ctl took {n} of {len(data)} bytes")
        return os.pread(fd, 65536, 0).decode("utf-8", "replace")
    finally:
        os.close(fd)


def ctl_refused(code, mnt, text, tx=None):
    """The command must fail with this errno and a line that says something; the line is returned."""
    e = expect(code, ctl, mnt, text, tx)
    line = e.line.strip()
    check(len(line) >= 8 and line.isprintable() or "\n" in line, "no readable line after a refused command:", line)
    return line


class Named:
    """A named transaction."""

    def __init__(self, mnt, name):
        self.mnt, self.name = mnt, name
        self.dir = os.path.join(mnt, ".txn", name)
        self.root = os.path.join(self.dir, "root")
        os.mkdir(self.dir)

    def __call__(self, *names):
        return os.path.join(self.root, *names)

    def ctl(self, text):
        return ctl(self.mnt, text, self.name)

    def status(self):
        return read(os.path.join(self.dir, "status")).decode()

    def changes(self):
        return read(os.path.join(self.dir, "changes")).decode().splitlines()

    def rollback(self):
        os.rmdir(self.dir)


# ---- pictures of a tree ----

OLD = 1_500_000_000  # times before this were set on purpose


def _or_errno(fn, *args):
    """For a picture taken by someone who may not see everything."""
    try:
        return fn(*args)
    except PermissionError:
        return "EACCES"


def _xattrs(path):
    names = os.listxattr(path, follow_symlinks=False)
    return {n: _or_errno(os.getxattr, path, n) for n in sorted(names)}


def _entry(path, rel, inodes, data):
    st = os.lstat(path)
    kind = stat.S_IFMT(st.st_mode)
    e = {"kind": stat.filemode(st.st_mode), "uid": st.st_uid, "gid": st.st_gid}
    if rel:
        e["nlink"] = st.st_nlink
    if st.st_mtime < OLD:
        e["mtime"] = st.st_mtime_ns
    if kind == stat.S_IFREG:
        e["size"] = st.st_size
        if data:
            body = _or_errno(read, path)
            e["data"] = body if len(body) <= 80 else hashlib.sha1(body).hexdigest()
            if body != "EACCES" and len(body) != st.st_size:
                e["data"] = f"{len(body)} bytes read of {st.st_size}"
    elif kind == stat.S_IFLNK:
        e["target"] = os.readlink(path)
        e["size"] = st.st_size
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        e["rdev"] = st.st_rdev
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        xattrs = _xattrs(path)
        if xattrs:
            e["xattrs"] = xattrs
    if st.st_nlink > 1 and kind != stat.S_IFDIR:
        inodes.setdefault(st.st_ino, []).append(rel)
    return e, kind == stat.S_IFDIR


def snapshot(root, data=True):
    """
    {path: attributes} of a tree as this process sees it: kind and mode, owner, size, contents, links and which names
    share an inode, device, target, xattrs, and mtime where it was set to an old value. The state directory at the
    root of a backing directory is left out.
    """
    out, inodes, todo = {}, {}, [""]
    while todo:
        rel = todo.pop()
        path = os.path.join(root, rel) if rel else root
        out[rel], is_dir = _entry(path, rel, inodes, data)
        if is_dir:
            names = _or_errno(os.listdir, path)
            if names == "EACCES":
                continue
            check(len(names) == len(set(names)), f"{rel or '/'} lists a name twice:", sorted(names))
            todo += [os.path.join(rel, n) for n in names if rel or n != ".txnfs"]
    for group in inodes.values():
        for rel in group:
            out[rel]["same"] = sorted(group)
    return out


def snapshot_diff(got, want):
    """Lines that tell where two pictures differ; none when they agree."""
    lines = []
    for p in sorted(set(got) | set(want)):
        if p not in got:
            lines.append(f"{p!r} is missing; want {want[p]}")
        elif p not in want:
            lines.append(f"{p!r} should not be there; got {got[p]}")
        elif got[p] != want[p]:
            keys = [k for k in sorted(set(got[p]) | set(want[p])) if got[p].get(k) != want[p].get(k)]
            lines += [f"{p!r} {k}: got {got[p].get(k)!r}, want {want[p].get(k)!r}" for k in keys]
    return lines


def same_tree(got, want, text):
    lines = snapshot_diff(got, want)
    if lines:
        raise Failure(f"{text}: {len(lines)} differences\n  " + "\n  ".join(lines[:20]))


# ---- processes ----

PROGRESS = None  # a descriptor: where the runner's lines go
KEEP = {}  # what an actor's functions keep between calls: open files and the like


def _pack(fn):
    if not hasattr(fn, "__code__") or fn.__name__ == fn.__qualname__ != "<lambda>":
        return ("ref", fn.__module__, fn.__name__)
    cells = [c.cell_contents for c in fn.__closure__ or ()]
    return ("code", fn.__module__, fn.__name__, marshal.dumps(fn.__code__), fn.__defaults__, cells)


def _unpack(p):
    module = sys.modules[p[1]]
    if p[0] == "ref":
        return getattr(module, p[2])
    cells = tuple(types.CellType(c) for c in p[5])
    return types.FunctionType(marshal.loads(p[3]), vars(module), p[2], p[4], cells or None)


class Actor:
    """
    A child process that runs functions one after the other: actor(fn, args...). Lambdas and nested functions may
    refer to values that can be pickled. Exceptions come back. What it begins is its own: other actors and the test
    itself are strangers to its ambient transaction.
    """

    def __init__(self, uid=None, groups=(), cwd=None):
        mine, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        self.sock = mine
        if self.pid:
            theirs.close()
            self.result()  # it stands where it should, as whom it should
            return
        try:
            mine.close()
            self.sock = theirs
            for fd in os.listdir("/proc/self/fd"):  # sockets of other actors: their end must be noticed
                fd = int(fd)
                if fd > 2 and fd != theirs.fileno():
                    try:
                        os.close(fd)
                    except OSError:
                        pass
            KEEP.clear()
            if cwd:
                os.chdir(cwd)
            if uid is not None:
                become(uid, groups)
            self._send((True, None))
            self._serve()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    def _serve(self):
        while True:
            msg = self._recv()
            if msg is None:
                return
            fn, args, kw = msg
            try:
                r = (True, _unpack(fn)(*args, **kw))
            except BaseException as e:
                e.trace = traceback.format_exc()
                r = (False, e)
            try:
                self._send(r)
            except (pickle.PicklingError, TypeError, AttributeError) as e:
                self._send((False, Failure(f"cannot send {r[1]!r}: {e}")))

    def _send(self, obj):
        data = pickle.dumps(obj)
        self.sock.sendall(struct.pack("<Q", len(data)) + data)

    def _read(self, n):
        out = b""
        while len(out) < n:
            part = self.sock.recv(min(n - len(out), 1 << 20))
            if not part:
                return None
            out += part
        return out

    def _recv(self):
        head = self._read(8)
        return pickle.loads(self._read(struct.unpack("<Q", head)[0])) if head else None

    def start(self, fn, *args, **kw):
        """Begin a call without waiting for it; result() waits."""
        self._send((_pack(fn), args, kw))

    def result(self):
        r = self._recv()
        if r is None:
            raise Failure(f"actor {self.pid} died")
        ok, value = r
        if ok:
            return value
        if getattr(value, "trace", None) and not isinstance(value, OSError):
            value.args = (f"{value}\n--- in the actor:\n{value.trace}",)
        raise value

    def __call__(self, fn, *args, **kw):
        self.start(fn, *args, **kw)
        return self.result()

    def kill(self, sig=signal.SIGKILL):
        os.kill(self.pid, sig)
        self.wait()

    def wait(self):
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0
            self.sock.close()

    def end(self):
        """Let it exit by itself."""
        if self.pid:
            self.sock.close()
            os.waitpid(self.pid, 0)
            self.pid = 0


def become(uid, groups=()):
    os.setgroups(list(groups))
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def in_child(fn, *args, uid=None, groups=()):
    """Run fn in a child of the calling process, by choice as another user; its value or exception comes back."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        try:
            if uid is not None:
                become(uid, groups)
            out = (True, fn(*args))
        except BaseException as e:
            out = (False, e)
        try:
            with os.fdopen(w, "wb") as f:
                f.write(pickle.dumps(out))
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        data = f.read()
    os.waitpid(pid, 0)
    if not data:
        raise Failure("a child process died without an answer")
    ok, value = pickle.loads(data)
    if ok:
        return value
    raise value


def children(pid):
    out = []
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/children") as f:
                out += map(int, f.read().split())
    except OSError:
        pass
    return out


# ---- mounts ----

TROUBLE = ("AddressSanitizer", "runtime error:", "LeakSanitizer", "ThreadSanitizer", "UndefinedBehaviorSanitizer")


def mounted(path):
    """The filesystem type mounted there (the topmost), or None. Never touches the mount itself."""
    found = None
    with open("/proc/self/mountinfo") as f:
        for line in f:
            left, right = line.split(" - ", 1)
            if left.split()[4].encode().decode("unicode_escape") == path:
                found = right.split()[0]
    return found


class Mount:
    """A scratch directory and its mount."""

    def __init__(self, t, name="m", options="", src=None, base=None, args=()):
        self.t = t
        base = base or t.dir
        self.src = src or os.path.join(base, name + ".src")
        self.mnt = os.path.join(base, name + ".mnt")
        for d in (self.src, self.mnt):
            if not os.path.isdir(d):
                os.mkdir(d)
                os.chmod(d, 0o755)
        self.log = os.path.join(t.dir, name + ".log")
        self.options = options
        self.args = list(args)
        self.proc = None
        t.mounts.append(self)

    def __call__(self, *names):
        return os.path.join(self.mnt, *names)

    def home(self, *names):
        """A path in the backing directory."""
        return os.path.join(self.src, *names)

    def command(self):
        cmd = [OPT.txnfs, "mount", "-f"]
        if self.options:
            cmd += ["-o", self.options]
        return cmd + self.args + [self.src, self.mnt]

    def spawn(self, **kw):
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, **kw)
        return self

    def start(self, seconds=20, **kw):
        self.spawn(**kw)
        wait_until(lambda: self.proc.poll() is not None or mounted(self.mnt), seconds, "the mount")
        if self.proc.poll() is not None:
            raise Failure(f"txnfs mount ended with {self.proc.returncode}: {self.log_text()[-2000:]}")
        os.stat(self.mnt)
        return self

    def log_text(self):
        try:
            return read(self.log).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def complains(self):
        """A sanitizer found something."""
        text = self.log_text()
        return any(mark in text for mark in TROUBLE)

    def detach(self):
        while mounted(self.mnt):
            try:
                sysc.umount2(self.mnt, sysc.MNT_DETACH | (0 if self.proc else sysc.MNT_FORCE))
            except PermissionError:
                subprocess.run(["fusermount3", "-u", "-z", self.mnt], check=False)
                break

    def kill9(self, detach=True):
        """
        The daemon dies at once; the dead mount is taken away. When the kill comes while the kernel invalidates a name
        for the daemon and waits for a directory whose lock belongs to a request that nobody answers any more, the
        dead daemon's thread and that request wait for each other. Its watchdog sees to that. True: it did not, and a
        forced unmount was needed.
        """
        forced = False
        if self.proc:
            self.proc.kill()
            try:
                self.proc.wait(patience(3))
            except subprocess.TimeoutExpired:
                forced = True
                try:
                    sysc.umount2(self.mnt, sysc.MNT_FORCE)
                except OSError:  # busy; the requests are ended all the same
                    pass
                self.proc.wait()
            self.proc = None
        if detach:
            self.detach()
        return forced

    def umount(self):
        """An orderly end: afterwards the backing directory holds everything that was committed."""
        def gone():
            try:
                sysc.umount2(self.mnt)
                return True
            except PermissionError:  # a user's mount
                return subprocess.run(["fusermount3", "-u", self.mnt], stderr=subprocess.DEVNULL, check=False).returncode == 0
            except OSError as e:
                if e.errno != errno.EBUSY:
                    raise
                return False
        wait_until(gone, 5, f"umount of {self.mnt} (busy)")
        self.ended()
        return self

    def ended(self, seconds=20):
        """Wait for the daemon's own end, which must be a good one."""
        try:
            rc = self.proc.wait(patience(seconds))
        except subprocess.TimeoutExpired:
            raise Failure("the daemon goes on after umount") from None
        self.proc = None
        check(rc == 0, f"the daemon's exit status is {rc}")

    def remount(self):
        self.umount()
        return self.start()

    def crash(self):
        """kill -9 and mount again."""
        self.kill9()
        return self.start()

    def ctl(self, text, tx=None):
        return ctl(self.mnt, text, tx)

    def named(self, name="t"):
        return Named(self.mnt, name)

    def tool(self, *args, status=0, **kw):
        """Run `txnfs ARGS`; status None: any. The CompletedProcess is returned, with text."""
        return tool(*args, status=status, **kw)

    def release(self):
        """Clean up, whatever state it is in."""
        self.kill9()


def tool(*args, status=0, seconds=20, **kw):
    cmd = [OPT.txnfs, *map(str, args)]
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                       timeout=patience(seconds), text=True, errors="replace", **kw)
    text = f"{' '.join(cmd)}: exit {p.returncode}\n{p.stdout[-1500:]}{p.stderr[-3000:]}"
    check(not any(m in p.stderr for m in TROUBLE), text)
    if status is not None:
        check(p.returncode == status, f"(want exit {status})", text)
    return p


def json_lines(text):
    """A tool's --json output: one JSON value, or one a line."""
    try:
        v = json.loads(text)
        return v if isinstance(v, list) else [v]
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


class Test:
    """What a running test holds."""

    def __init__(self, name, directory, settings=None):
        self.name = name
        self.dir = directory
        self.settings = settings
        self.seed = OPT.seed
        self.rng = random.Random(f"{name}:{OPT.seed}")
        self.mounts = []
        self.cleanups = []
        self.actors = []
        self.notes = []

    def mount(self, name="m", options="", **kw):
        return Mount(self, name, options, **kw).start()

    def actor(self, **kw):
        a = Actor(**kw)
        self.actors.append(a)
        return a

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def tmp(self):
        return tempfile.mkdtemp(dir=self.dir)

    def note(self, text):
        """A word for the line of results."""
        self.notes.append(text)

    def progress(self, text):
        """A line now, from a test that takes long."""
        if PROGRESS is not None:
            os.write(PROGRESS, f"{self.name}: {text}\n".encode())

    def finish(self, failed):
        """Take everything down; troubles that only show at the end become the test's failure."""
        trouble = None
        for a in self.actors:
            try:
                if a.pid:
                    a.kill()
            except OSError:
                pass
        for m in self.mounts:
            try:
                if m.proc and not failed:
                    m.umount()
            except (Failure, OSError) as e:
                trouble = e
        for m in self.mounts:
            m.release()
            if m.complains():
                trouble = Failure("a sanitizer complains")
        for fn in reversed(self.cleanups):
            fn()
        if trouble and not failed:
            raise trouble

    def logs(self):
        return [(m.log, m.log_text()) for m in self.mounts]
