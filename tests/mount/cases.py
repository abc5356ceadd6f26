"""
Differential tests: the same operations on a plain directory of the host's filesystem and through the mount must give
the same results, the same errors and the same tree, outside of any transaction, in an ambient and in a named one;
committed, the tree is everyone's; rolled back, it is what it was.

A case is a function of a Place: case_NAME(p). `setup` of the case makes the initial tree in the backing directory
before it is mounted.
"""
import hashlib
import os
import stat
import sys

from harness import KEEP, Failure, ctl, equal, name_of, quick, same_tree, snapshot, snapshot_diff, write

SETTINGS = ("plain", "ambient", "ambient-rollback", "named", "named-rollback")
CASES = {}


class Place:
    """Where a case works, and the record of what happened there."""

    def __init__(self, root):
        self.root = root
        self.log = []

    def __call__(self, *names):
        return os.path.join(self.root, *names)

    def _plain(self, v):
        if isinstance(v, str):
            return v.replace(self.root, "@")
        if isinstance(v, bytes):
            v = v.replace(os.fsencode(self.root), b"@")
            return v if len(v) < 200 else (len(v), hash_of(v))
        if isinstance(v, (list, tuple)):
            return tuple(self._plain(x) for x in v)
        return v if isinstance(v, (int, float, bool, type(None))) else type(v).__name__

    def note(self, *what):
        self.log.append(self._plain(what))

    def do(self, fn, *args, **kw):
        """Run it, remember its result or errno, return its result (None after an error)."""
        r = None
        try:
            r = fn(*args, **kw)
            out = self._plain(r)
        except OSError as e:
            out = name_of(e)
        self.log.append((getattr(fn, "__name__", "?"), self._plain(args), out))
        return r

    def open(self, path, flags, mode=0o644):
        """os.open; the descriptor itself is not compared."""
        try:
            fd = os.open(path, flags, mode)
            self.log.append(("open", self._plain(path), flags, mode, "ok"))
            return fd
        except OSError as e:
            self.log.append(("open", self._plain(path), flags, mode, name_of(e)))
            return None

    def stat(self, path):
        """The part of stat that must agree."""
        def lstat(path):
            st = os.lstat(path)
            return stat.filemode(st.st_mode), st.st_uid, st.st_gid, st.st_nlink, \
                st.st_size if not stat.S_ISDIR(st.st_mode) else 0, st.st_rdev
        return self.do(lstat, path)


def hash_of(data):
    return hashlib.sha1(data).hexdigest()


# ---- running a case ----

def nothing(d):
    """No initial tree."""


def case(setup=nothing, uid=None, in_quick=False, xfail=()):
    """xfail: settings in which this cannot be as on the host, with the reason in the case's docstring."""
    def mark(fn):
        name = fn.__name__.removeprefix("case_")

        def test(t):
            run_case(t, fn, setup, uid, xfail)
        test.__name__ = "test_" + name
        test.__doc__ = fn.__doc__
        if in_quick:
            quick(test)
        CASES[name] = fn
        setattr(sys.modules[fn.__module__], "test_" + name, test)
        return fn
    return mark


def go(fn_name, root):
    """In the process that works: run the case there; what it recorded, and the tree as it sees it."""
    p = Place(root)
    os.umask(0o022)
    try:
        CASES[fn_name](p)
        return p.log, snapshot(root)
    finally:
        for fd in KEEP.pop("fds", ()):
            os.close(fd)


def make(setup, d):
    os.mkdir(d)
    os.umask(0)
    os.chmod(d, 0o777)
    os.umask(0o022)
    setup(d)


def compare_log(got, want):
    for i, (g, w) in enumerate(zip(got, want)):
        if g != w:
            raise Failure(f"step {i} differs from the host's filesystem:\n  got:  {g}\n  want: {w}")
    equal(len(got), len(want), "number of steps")


def run_case(t, fn, setup, uid, xfail):
    name = fn.__name__.removeprefix("case_")
    settings = [s for s in (t.settings or SETTINGS) if s not in xfail]
    os.umask(0o022)
    host = t.path("host")
    make(setup, host)
    start = snapshot(host)
    m_src = t.path("m.src")
    os.mkdir(m_src)
    os.chmod(m_src, 0o755)
    for s in settings:
        make(setup, os.path.join(m_src, s))
    m = t.mount()
    want_log, want_inside = t.actor(uid=uid)(go, name, host)
    want = start, want_inside, snapshot(host)
    failures, final = [], {}
    for s in settings:
        try:
            final[s] = run_setting(t, m, s, name, uid, want_log, *want)
        except (Failure, OSError) as e:
            failures.append(f"[{s}] {e}")
            if "died" in str(e):
                break
    if not failures:
        m.umount()
        for s, want in final.items():
            lines = snapshot_diff(snapshot(m.home(s)), want)
            if lines:
                failures.append(f"[{s}] in the backing directory:\n  " + "\n  ".join(lines[:10]))
    if failures:
        raise Failure("\n".join(failures))


def run_setting(t, m, s, name, uid, want_log, start, want_inside, want_tree):
    """
    One setting; returns what the tree must be at home in the end. want_inside is the changed tree as the working
    process may see it, which is less than what is there when it is not root.
    """
    a = t.actor(uid=uid)
    kind, rollback = s.split("-")[0], s.endswith("rollback")
    try:
        if kind == "plain":
            log, tree = a(go, name, m(s))
            compare_log(log, want_log)
            same_tree(tree, want_inside, "the tree")
            same_tree(snapshot(m(s)), want_tree, "the tree for another process")
            return want_tree
        if kind == "ambient":
            a(ctl, m.mnt, "begin")
            tx, root = None, m(s)
        else:
            tx = "t-" + s
            a(os.mkdir, m(".txn", tx))
            root = m(".txn", tx, "root", s)
        log, tree = a(go, name, root)
        compare_log(log, want_log)
        same_tree(tree, want_inside, "the tree inside")
        same_tree(snapshot(m(s)), start, "the tree outside, before the end")
        a(ctl, m.mnt, "rollback" if rollback else "commit", tx)
        want = start if rollback else want_tree
        if uid is None:
            same_tree(a(snapshot, m(s)), want, "the tree after the end, for the same process")
        same_tree(snapshot(m(s)), want, "the tree after the end, for another process")
        return want
    finally:
        a.kill()


# ---- initial trees ----

def files(d):
    write(d + "/f", b"0123456789" * 1000)
    write(d + "/g", b"abcdef")
    write(d + "/empty", b"")
    os.mkdir(d + "/dir")
    os.symlink("f", d + "/ln")
    os.symlink("nowhere", d + "/dangling")
    os.symlink("loop", d + "/loop")


def tree(d):
    for x in ("a", "a/b", "a/b/c", "full", "empty", "empty2"):
        os.mkdir(f"{d}/{x}")
    for x in ("f", "g", "a/f", "a/b/f", "full/x"):
        write(f"{d}/{x}", x)
    os.symlink("a", d + "/ln")
