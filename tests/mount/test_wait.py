"""Writers that meet another transaction: they wait, in order, and nobody else with them."""
import errno
import mmap
import os
import signal
import threading
import time

from harness import append, check, ctl, equal, exists, expect, needs_root, patience, quick, read, wait_until, write


def waiting(m):
    for line in open(m(".txn/status")):
        if line.startswith("waiting: "):
            return int(line.split()[1])


def wait_for(m, n):
    wait_until(lambda: waiting(m) == n, 30, f"{n} waiting requests")


def try_truncate(path):
    os.truncate(path, 1)


def overwrite(path):
    with open(path, "r+b", buffering=0) as f:
        f.write(b"mine")


def make(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL))


def open_creat(path):
    os.close(os.open(path, os.O_CREAT | os.O_RDWR))


# What waits for a transaction that has changed the file d/f ...
ON_FILE = {
    "open": overwrite,
    "append": lambda p: append(p, "x"),
    "open with O_TRUNC": lambda p: write(p, "x"),
    "truncate": try_truncate,
    "chmod": lambda p: os.chmod(p, 0o640),
    "utimes": lambda p: os.utime(p, (1, 1)),
    "setxattr": lambda p: os.setxattr(p, "user.x", b"1"),
    "removexattr": lambda p: os.removexattr(p, "user.y"),
    "unlink": os.unlink,
    "rename": lambda p: os.rename(p, p + "2"),
    "rename to another directory": lambda p: os.rename(p, os.path.dirname(p) + "/../e/f"),
    "link": lambda p: os.link(p, p + "3"),
}
# ... and for one that has made d/new.
ON_NAME = {
    "create": make,
    "mkdir": os.mkdir,
    "symlink": lambda p: os.symlink("x", p),
    "mknod": lambda p: os.mknod(p, 0o600 | 0o010000),
    "link": lambda p: os.link(os.path.dirname(p) + "/other", p),
    "rename to": lambda p: os.rename(os.path.dirname(p) + "/other", p),
    "rename from another directory": lambda p: os.rename(os.path.dirname(p) + "/../e/other", p),
}
COMES_TO_NOTHING = {"create", "mkdir", "symlink", "mknod", "link"}  # EEXIST, once it has been committed


def prepare(m):
    for d in ("d", "e"):
        os.mkdir(m(d))
        write(m(d, "other"), "other")
    write(m("d/f"), "0123456789")
    os.setxattr(m("d/f"), "user.y", b"1")


def holder(m, name="h"):
    h = m.named(name)
    append(h.root + "/d/f", "h")
    make(h.root + "/d/new")
    return h


def run_in(path, fn):
    os.chdir(os.path.dirname(path))
    try:
        fn(os.path.basename(path))
    finally:
        os.chdir("/")


def reset(m):
    for d in ("d", "e"):
        for name in os.listdir(m(d)):
            (os.rmdir if os.path.isdir(m(d, name)) and not os.path.islink(m(d, name)) else os.unlink)(m(d, name))
        os.rmdir(m(d))
    prepare(m)


def waits(t, m, kind, what, fn, path, commits):
    h = holder(m)
    a = t.actor()
    root = m.mnt
    if kind == "ambient":
        a(ctl, m.mnt, "begin")
    if kind == "named":
        root = m.named("w").root
    a.start(fn, f"{root}/{path}")
    wait_for(m, 1)
    # Whoever does not want just that is not in its way.
    make(m("d/bystander"))
    os.rename(m("d/bystander"), m("d/bystander2"))
    equal(sorted(os.listdir(m("d"))), ["bystander2", "f", "other"])
    os.unlink(m("d/bystander2"))
    equal(waiting(m), 1)
    h.ctl("commit" if commits else "rollback")
    if commits and path == "d/new" and what in COMES_TO_NOTHING:
        expect(errno.EEXIST, a.result)
    else:
        a.result()
    wait_for(m, 0)
    if kind == "ambient":
        a(ctl, m.mnt, "commit")
    if kind == "named":
        ctl(m.mnt, "commit", "w")
    a.end()
    reset(m)


def each(t, table, path, kinds):
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    for i, (what, fn) in enumerate(table.items()):
        for kind in kinds:
            for commits in ((True, False) if not i else (bool(i % 2),)):
                t.progress(f"{kind}: {what}, {'commit' if commits else 'rollback'}")
                waits(t, m, kind, what, fn, path, commits)


@quick
def test_changes_of_files_wait(t):
    each(t, ON_FILE, "d/f", ("plain",))


def test_changes_of_files_wait_in_transactions(t):
    each(t, ON_FILE, "d/f", ("named", "ambient"))


@quick
def test_names_wait(t):
    each(t, ON_NAME, "d/new", ("plain",))


def test_names_wait_in_transactions(t):
    each(t, ON_NAME, "d/new", ("named", "ambient"))


ON_DIRECTORY = {
    "chmod": (lambda p: os.chmod(p, 0o750), lambda p: equal(os.stat(p).st_mode & 0o777, 0o750)),
    "chown": (lambda p: os.chown(p, -1, 77), lambda p: equal(os.stat(p).st_gid, 77)),
    "utimes": (lambda p: os.utime(p, (1, 1)), lambda p: equal(os.stat(p).st_mtime, 1)),
    "setxattr": (lambda p: os.setxattr(p, "user.x", b"1"), lambda p: equal(os.getxattr(p, "user.x"), b"1")),
    "removexattr": (lambda p: os.removexattr(p, "user.y"), lambda p: expect(errno.ENODATA, os.getxattr, p, "user.y")),
}


@quick
@needs_root
def test_changes_of_directories_wait(t):
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    for i, (what, (change, verify)) in enumerate(ON_DIRECTORY.items()):
        for kind in ("plain", "named", "ambient"):
            t.progress(f"{kind}: {what}")
            d = f"d/{kind}{i}"
            os.mkdir(m(d))
            os.setxattr(m(d), "user.y", b"1")
            h = m.named("h")
            os.chmod(h.root + "/" + d, 0o711)
            a = t.actor()
            root = m.mnt
            if kind == "ambient":
                a(ctl, m.mnt, "begin")
            if kind == "named":
                root = m.named("w").root
            a.start(change, f"{root}/{d}")
            wait_for(m, 1)
            make(m(d, "bystander"))
            make(m("d/bystander"))
            os.unlink(m("d/bystander"))
            equal(waiting(m), 1)
            h.ctl("commit" if i % 2 else "rollback")
            a.result()
            wait_for(m, 0)
            if kind == "ambient":
                a(ctl, m.mnt, "commit")
            if kind == "named":
                ctl(m.mnt, "commit", "w")
            verify(m(d))
            equal(os.listdir(m(d)), ["bystander"])
            a.end()


def test_what_cannot_come_again_is_refused(t):
    """By a descriptor, by '.', and the root: no second walk leads there."""
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    h = m.named("h")
    os.chmod(h.root + "/d", 0o711)
    os.chmod(h.root, 0o711)
    fd = os.open(m("d"), os.O_RDONLY)
    for fn in (lambda: os.fchmod(fd, 0o700), lambda: os.utime(fd), lambda: os.setxattr(fd, "user.x", b"1"),
               lambda: os.chmod(m.mnt, 0o700)):
        expect(errno.EBUSY, fn)
    os.close(fd)
    a = t.actor()
    a(os.chdir, m("d"))
    a.start(os.chmod, ".", 0o700)
    expect(errno.EBUSY, a.result)
    h.rollback()
    a(os.chmod, ".", 0o700)


@quick
def test_relative_paths_wait(t):
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    for fn, path in ((os.unlink, "d/f"), (make, "d/new"), (os.mkdir, "d/new"), (overwrite, "d/f")):
        h = holder(m)
        a = t.actor()
        a.start(run_in, m(path), fn)
        wait_for(m, 1)
        h.rollback()
        a.result()
        a.end()
        if path == "d/new":
            (os.rmdir if fn == os.mkdir else os.unlink)(m(path))
        elif fn == os.unlink:
            write(m(path), "again")


# ---- refusals ----

@quick
def test_time_is_over(t):
    m = t.mount(options="lock_timeout=0.3")
    prepare(m)
    h = holder(m)
    os.chmod(h.root + "/e", 0o711)
    for fn, path in ((os.unlink, "d/f"), (make, "d/new"), (try_truncate, "d/f"), (overwrite, "d/f"),
                     (os.mkdir, "d/new"), (os.utime, "e")):
        began = time.monotonic()
        expect(errno.EBUSY, fn, m(path))
        took = time.monotonic() - began
        check(0.25 < took < patience(10), f"{fn}: EBUSY after {took} s")
        line = read(m(".txn/ctl")).decode()
        check(f'"{path}"' in line or path in line, line)
        check("\"h\"" in line and "uid" in line and "EBUSY" in line and "0.3 s" in line, line)
    # Opened all the same; the write says it, at once.
    fd = os.open(m("d/f"), os.O_RDWR)
    began = time.monotonic()
    expect(errno.EBUSY, os.pwrite, fd, b"x", 0)
    check(time.monotonic() - began < patience(0.25))
    equal(os.pread(fd, 4, 0), b"0123")
    h.rollback()
    os.pwrite(fd, b"x", 0)
    os.close(fd)
    wait_for(m, 0)


@quick
def test_each_transaction_has_its_patience(t):
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    h = holder(m)
    a = t.actor()
    a(ctl, m.mnt, "begin timeout 0")
    for fn, path in ((os.unlink, "d/f"), (make, "d/new"), (overwrite, "d/f"), (os.mkdir, "d/new")):
        try:
            a(fn, m(path))
            check(False, f"{fn} did not fail")
        except OSError as e:
            equal(e.errno, errno.EBUSY, f"{fn} of {path}")
    check("EBUSY" in a(read, m(".txn/ctl")).decode())
    w = m.named("w")
    w.ctl("timeout 0.2")
    expect(errno.EBUSY, os.unlink, w.root + "/d/f")
    expect(errno.EBUSY, write, w.root + "/d/f", "x")
    w.ctl("timeout 0")
    expect(errno.EBUSY, os.mkdir, w.root + "/d/new")
    equal(waiting(m), 0)
    h.rollback()


def handler(*_):
    raise InterruptedError(errno.EINTR, "a signal")


def interrupted(fn, path):
    signal.signal(signal.SIGINT, handler)
    fn(path)


@quick
def test_signals_interrupt(t):
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    h = holder(m)
    for fn, path in ((overwrite, "d/f"), (try_truncate, "d/f"), (os.unlink, "d/f"), (make, "d/new"), (os.mkdir, "d/new")):
        for sig in (signal.SIGINT, signal.SIGKILL):
            a = t.actor()
            a.start(interrupted, fn, m(path))
            wait_for(m, 1)
            os.kill(a.pid, sig)
            if sig == signal.SIGINT:
                expect(errno.EINTR, a.result)
                a.end()
            else:
                a.wait()
            wait_for(m, 0)
    h.rollback()
    os.unlink(m("d/f"))
    os.mkdir(m("d/new"))


@quick
def test_deadlocks(t):
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    for kind in ("named", "ambient"):
        for fn, a_path, b_path in ((overwrite, "d/f", "d/other"), (os.mkdir, "d/n1", "e/n2")):
            a, b = t.actor(), t.actor()
            if kind == "named":
                na, nb = m.named("a"), m.named("b")
                roots = na.root, nb.root
            else:
                a(ctl, m.mnt, "begin")
                b(ctl, m.mnt, "begin")
                roots = m.mnt, m.mnt
            a(fn, f"{roots[0]}/{a_path}")
            b(fn, f"{roots[1]}/{b_path}")
            a.start(fn, f"{roots[0]}/{b_path}")
            wait_for(m, 1)
            began = time.monotonic()
            try:
                b(fn, f"{roots[1]}/{a_path}")
                check(False, "no deadlock")
            except OSError as e:
                equal(e.errno, errno.EDEADLK)
            check(time.monotonic() - began < patience(20))
            check("EDEADLK" in b(read, m(".txn/ctl")).decode())
            b(make, f"{roots[1]}/d/b")  # it goes on
            if kind == "named":
                nb.ctl("rollback")
            else:
                b(ctl, m.mnt, "rollback")
            a.result()
            if kind == "named":
                na.ctl("rollback")
            else:
                a(ctl, m.mnt, "rollback")
            a.end()
            b.end()


# ---- many ----

@quick
def test_first_come_first_served(t):
    """Each takes the file and keeps it: of all that wait, the one that has waited longest gets it next."""
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    h = holder(m)
    actors, names = [t.actor() for _ in range(6)], [m.named(f"w{i}") for i in range(6)]
    for i, (a, n) in enumerate(zip(actors, names)):
        a.start(*((os.chmod, n.root + "/d/f", 0o600) if i % 2 else (os.mkdir, n.root + "/d/new")))
        wait_for(m, i + 1)
    h.rollback()
    for i in range(0, 6, 2):
        actors[i].result()
        actors[i + 1].result()
        equal(waiting(m), 4 - i)
        names[i].rollback()
        names[i + 1].ctl("commit")
    for a in actors:
        a.end()


def many(path, n, sock):
    """n threads that append a line each; a byte through the socket for each that has."""
    def one(i):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"%06d\n" % i)
        os.close(fd)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    threading.stack_size(256 << 10)
    for x in threads:
        x.start()
    for x in threads:
        x.join()


def daemon_threads(m):
    return len(os.listdir(f"/proc/{m.proc.pid}/task")) if getattr(m, "proc", None) else 0


@quick
def test_a_thousand_wait(t):
    m = t.mount(options="lock_timeout=1000")
    prepare(m)
    h = holder(m)
    before = daemon_threads(m)
    actors = [t.actor() for _ in range(10)]
    for a in actors:
        a.start(many, m("d/f"), 100, None)
    wait_for(m, 1000)
    # While they do, the others and the commit go through as if there were nobody.
    began = time.monotonic()
    for i in range(20):
        write(m("d/other"), str(i))
        make(m(f"d/x{i}"))
        equal(read(m("d/f")), b"0123456789")
    quick_took = time.monotonic() - began
    equal(waiting(m), 1000)
    check(daemon_threads(m) <= before + 16, f"{before} threads became {daemon_threads(m)}")
    began = time.monotonic()
    h.ctl("commit")
    commit_took = time.monotonic() - began
    check(quick_took < patience(20) and commit_took < patience(20),
          f"unrelated work took {quick_took} s, the commit {commit_took} s")
    for a in actors:
        a.result()
        a.end()
    got = read(m("d/f"))
    equal(len(got), 11 + 7000)
    equal(waiting(m), 0)
    t.note(f"unrelated work {quick_took:.3f} s, commit {commit_took:.3f} s")


# ---- what must not be stopped ----

def test_others_use_the_directory(t):
    """Somebody waits for a name: everything else in its directory goes on, for hours if need be."""
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    h = holder(m)
    a, b = t.actor(), t.actor()
    a.start(os.unlink, m("d/f"))
    b.start(os.mkdir, m("d/new"))
    wait_for(m, 2)
    for i in range(50):
        make(m(f"d/y{i}"))
        os.stat(m("d"))
        check(not exists(m("d/new")))
        os.rename(m(f"d/y{i}"), m("d/z"))
        os.unlink(m("d/z"))
        equal(read(m("d/f")), b"0123456789")
    n = m.named("n")
    make(n.root + "/d/n")
    n.ctl("commit")
    equal(waiting(m), 2)
    h.ctl("commit")
    a.result()
    expect(errno.EEXIST, b.result)


OPEN = {}


def open_first(path):
    OPEN["fd"] = os.open(path, os.O_RDWR)


def use_descriptor(hold):
    HOLDS[hold](OPEN["fd"])


# What holds the file in the kernel while it waits ...
HOLDS = {
    "write": lambda fd: os.write(fd, b"mine"),
    "ftruncate": lambda fd: os.ftruncate(fd, 3),
    "fallocate": lambda fd: os.posix_fallocate(fd, 0, 100),
    "fchmod": lambda fd: os.fchmod(fd, 0o640),
    "futimens": lambda fd: os.utime(fd, (1, 1)),
    "fsetxattr": lambda fd: os.setxattr(fd, "user.x", b"1"),
    "fremovexattr": lambda fd: os.removexattr(fd, "user.y"),
}
# ... and what takes the directory and then the file.
TAKES = {
    "unlink": os.unlink,
    "rename": lambda p: os.rename(p, p + "2"),
    "rename to another directory": lambda p: os.rename(p, os.path.dirname(p) + "/../e/f"),
    "rename over it": lambda p: os.rename(os.path.dirname(p) + "/other", p),
    "link": lambda p: os.link(p, p + "3"),
}


@quick
def test_no_directory_waits_with_a_file(t):
    """A file's writer waits, and its name is to go: the directory does not stand still, nor does the commit they wait for."""
    m = t.mount(options="lock_timeout=1000")
    stranger = t.actor()
    for i, (hold, take) in enumerate(zip(HOLDS, list(TAKES) * 2)):
        d = f"d{i}"
        for name in (d, "e"):
            os.makedirs(m(name), exist_ok=True)
        for name in ("f", "other"):
            write(m(d, name), "0123456789")
        os.setxattr(m(d, "f"), "user.y", b"1")
        a, b = t.actor(), t.actor()
        a(open_first, m(d, "f"))
        h = m.named(f"h{i}")
        append(h.root + f"/{d}/f", "h")
        a.start(use_descriptor, hold)
        wait_for(m, 1)
        b.start(TAKES[take], m(d, "f"))
        stranger(make, m(d, "x"))  # maybe before b has come so far
        expect(errno.EBUSY, a.result)
        stranger(make, m(d, "y"))
        wait_for(m, 1)
        h.ctl("commit")
        b.result()
        for x in (a, b):
            x.end()


def test_writers_wait_on_when_their_directory_is_used(t):
    """Nobody wants the name: what happens in the directory meanwhile does not end the wait."""
    m = t.mount(options="lock_timeout=1000")
    prepare(m)
    a = t.actor()
    a(open_first, m("d/f"))
    h = holder(m)
    a.start(use_descriptor, "write")
    wait_for(m, 1)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        make(m("d/x"))
        os.rename(m("d/x"), m("d/y"))
        os.unlink(m("d/y"))
        equal(waiting(m), 1)
    h.ctl("commit")
    a.result()
    equal(read(m("d/f")), b"mine456789h")


def test_mapped_pages_never_wait(t):
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    fd = os.open(m("d/f"), os.O_RDWR)
    mapped = mmap.mmap(fd, 10)
    h = m.named("h")
    append(h.root + "/d/f", "h")
    mapped[0:4] = b"MINE"
    began = time.monotonic()
    try:
        mapped.flush()
    except OSError as e:
        check(e.errno in (errno.EBUSY, errno.EIO), str(e))
    check(time.monotonic() - began < 50, "write-back has waited")
    equal(waiting(m), 0)
    h.rollback()
    os.close(fd)


@quick
def test_unmount_ends_all_waits(t):
    m = t.mount(options="lock_timeout=1000")
    prepare(m)
    write(m("d/g"), "0123456789")
    append(holder(m).root + "/d/g", "h")
    actors = [t.actor() for _ in range(4)]
    for a, (fn, path) in zip(actors, ((overwrite, "d/f"), (os.unlink, "d/f"), (os.mkdir, "d/new"), (try_truncate, "d/g"))):
        a.start(fn, m(path))
    wait_for(m, 4)
    m.detach()
    os.kill(m.proc.pid, signal.SIGTERM)
    m.ended()
    for a in actors:
        try:
            a.result()
            check(False, "it cannot have succeeded")
        except OSError as e:
            check(e.errno in (errno.ENOTCONN, errno.EINTR, errno.ECONNABORTED, errno.EIO, errno.ESTALE), str(e))
        a.end()


def test_the_waiters_own_end(t):
    """A transaction that is rolled back does not leave its waiting requests to the committed tree."""
    m = t.mount(options="lock_timeout=100")
    prepare(m)
    h = holder(m)
    a = t.actor()
    a(ctl, m.mnt, "begin other")
    a.start(os.unlink, m("d/f"))
    wait_for(m, 1)
    w = m.named("w")
    b = t.actor()
    b.start(write, w.root + "/d/f", "x")
    wait_for(m, 2)
    w.ctl("rollback")
    expect((errno.ENOTCONN, errno.ESTALE), b.result)
    wait_for(m, 1)
    h.rollback()
    a.result()
    a(ctl, m.mnt, "rollback")
    equal(read(m("d/f")), b"0123456789")
