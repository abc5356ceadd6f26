"""
kill -9 of the daemon under load, again and again: after each remount no transaction is torn, and every commit that was
acknowledged is there.

Each worker owns a few files and keeps a ledger outside of the mount: it writes N into it before it asks for commit
number N ("intent"), and after the commit returned ("acknowledged"). After a crash its files must show one whole
transaction, the acknowledged one or the intended one.
"""
import errno
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

from harness import (OPT, Failure, check, ctl, deadline, equal, json_lines, ls, mounted, named_open, quick, read,
                     same_tree, snapshot, tool, wait_until)

DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV, errno.ECONNREFUSED, errno.ESHUTDOWN)
TOTAL = 1000


# ---- ledgers ----

def ledger(path):
    """(intended, acknowledged)"""
    with open(path, "rb") as f:
        return struct.unpack("<QQ", f.read(16))


class Ledger:
    def __init__(self, path):
        if not os.path.exists(path):
            with open(path, "wb") as f:
                f.write(bytes(16))
        self.fd = os.open(path, os.O_RDWR)
        self.intended, self.acknowledged = struct.unpack("<QQ", os.pread(self.fd, 16, 0))

    def intend(self, n):
        os.pwrite(self.fd, struct.pack("<Q", n), 0)

    def acknowledge(self, n):
        os.pwrite(self.fd, struct.pack("<Q", n), 8)


def put(path, data):
    """Overwrite in place, then cut: never O_TRUNC only, so that sizes change both ways."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        data = data.encode() if isinstance(data, str) else data
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


# ---- workers: each function does transaction number n in root, calling control for savepoints ----

def transfer(root, n, rng, control):
    """Money moves between two files; large and small contents in turn."""
    amount = rng.randrange(TOTAL)
    pad = "." * rng.choice((0, 10, 5000, 70_000))
    put(f"{root}/a", f"{n} {amount} {pad}")
    put(f"{root}/b", f"{n} {TOTAL - amount} {pad}")


def check_transfer(d, lo, hi):
    got = []
    for x in "ab":
        parts = read(f"{d}/{x}").split()
        got.append((int(parts[0]), int(parts[1])))
    (na, va), (nb, vb) = got
    check(na == nb and va + vb == TOTAL, "torn transfer:", got)
    check(lo <= na <= hi, "the wrong transfer:", na, lo, hi)


def pairs(root, n, rng, control):
    """Files appear and disappear in pairs, in two directories, hard links and attributes with them."""
    for side in "xy":
        path = f"{root}/{side}/p{n}"
        put(path, f"{n}")
        os.setxattr(path, "user.n", b"%d" % n)
        os.link(path, path + ".link")
    for side in "xy":
        for old in (f"p{n - 3}", f"p{n - 3}.link"):
            try:
                os.unlink(f"{root}/{side}/{old}")
            except FileNotFoundError:
                pass
    os.utime(f"{root}/x", ns=(n, n))
    os.utime(f"{root}/y", ns=(n, n))


def check_pairs(d, lo, hi):
    x, y = ls(f"{d}/x"), ls(f"{d}/y")
    equal(x, y, "files appear together")
    newest = max((int(p[1:]) for p in x if not p.endswith("link")), default=0)
    want = sorted(f"p{i}{s}" for i in range(max(1, newest - 2), newest + 1) for s in ("", ".link"))
    equal(x, want, "the newest three pairs")
    check(lo <= newest <= hi, "the wrong pair:", newest, lo, hi)
    for side in "xy":
        for i in range(max(1, newest - 2), newest + 1):
            path = f"{d}/{side}/p{i}"
            equal(read(path), b"%d" % i)
            equal(os.getxattr(path, "user.n"), b"%d" % i)
            equal(os.stat(path).st_nlink, 2)
        if newest:
            equal(os.stat(f"{d}/{side}").st_mtime_ns, newest, "the directory's time")


def renames(root, n, rng, control):
    """A directory and a file move together, and two files change places."""
    old, new = f"{n - 1}", f"{n}"
    os.rename(f"{root}/dir-{old}", f"{root}/dir-{new}")
    os.rename(f"{root}/file-{old}", f"{root}/dir-{new}/tmp")
    os.rename(f"{root}/dir-{new}/tmp", f"{root}/file-{new}")
    os.rename(f"{root}/one", f"{root}/dir-{new}/swap")
    os.rename(f"{root}/two", f"{root}/one")
    os.rename(f"{root}/dir-{new}/swap", f"{root}/two")
    put(f"{root}/dir-{new}/in", new)


def check_renames(d, lo, hi):
    names = ls(d)
    n = int(next(x for x in names if x.startswith("dir-"))[4:])
    equal(names, sorted([f"dir-{n}", f"file-{n}", "one", "two"]), "moved together")
    check(lo <= n <= hi, "the wrong rename:", n, lo, hi)
    equal((read(f"{d}/one"), read(f"{d}/two")), (b"two", b"one") if n % 2 else (b"one", b"two"), f"at {n}")
    equal(ls(f"{d}/dir-{n}"), ["in"])
    equal(read(f"{d}/dir-{n}/in"), b"%d" % n)


def savepoints(root, n, rng, control):
    """What was rolled back to a savepoint is never seen; what came before and after is."""
    put(f"{root}/before", f"{n}")
    control("savepoint s")
    for i in range(5):
        for x in range(i % 3 + 1):
            put(f"{root}/junk{x}", "junk" * rng.randrange(1, 2000))
        put(f"{root}/before", "junk")
        put(f"{root}/after", "junk")
        os.unlink(f"{root}/junk0")
        control("rollback to s")
    put(f"{root}/after", f"{n}")


def check_savepoints(d, lo, hi):
    equal(ls(d), ["after", "before"], "no junk")
    before, after = int(read(f"{d}/before")), int(read(f"{d}/after"))
    equal(before, after, "torn")
    check(lo <= before <= hi, "the wrong one:", before, lo, hi)


def mixed_plain(root, n, rng, control):
    """Even numbers in a transaction, odd ones plainly and in one write, to the same file (I5)."""
    fd = os.open(f"{root}/f", os.O_WRONLY)
    os.pwrite(fd, b"%012d" % n, 0)
    os.close(fd)


def check_mixed_plain(d, lo, hi):
    n = int(read(f"{d}/f"))
    check(lo <= n <= hi, "the wrong write:", n, lo, hi)


WORK = {
    "transfer-ambient": (transfer, check_transfer), "transfer-named": (transfer, check_transfer),
    "transfer-run": (transfer, check_transfer), "pairs-named": (pairs, check_pairs),
    "renames-ambient": (renames, check_renames), "renames-named": (renames, check_renames),
    "savepoints-named": (savepoints, check_savepoints), "savepoints-ambient": (savepoints, check_savepoints),
    "mixed-plain": (mixed_plain, check_mixed_plain),
}


def prepare(src):
    for name in WORK:
        d = os.path.join(src, name)
        os.mkdir(d)
        kind = name.split("-")[0]
        if kind == "transfer":
            put(f"{d}/a", f"0 {TOTAL}")
            put(f"{d}/b", "0 0")
        elif kind == "pairs":
            os.mkdir(f"{d}/x")
            os.mkdir(f"{d}/y")
        elif kind == "renames":
            os.mkdir(f"{d}/dir-0")
            put(f"{d}/dir-0/in", "0")
            put(f"{d}/file-0", "")
            put(f"{d}/one", "one")
            put(f"{d}/two", "two")
        elif kind == "savepoints":
            put(f"{d}/before", "0")
            put(f"{d}/after", "0")
        else:
            put(f"{d}/f", "%012d" % 0)


def one(mnt, name, n, rng):
    """Transaction n of a worker; returns when it is committed."""
    work, _ = WORK[name]
    if name.endswith("-named") or (name == "mixed-plain" and n % 2 == 0):
        tx = f"{name}-{n}"
        os.mkdir(f"{mnt}/.txn/{tx}")
        work(f"{mnt}/.txn/{tx}/root/{name}", n, rng, lambda c: ctl(mnt, c, tx))
        ctl(mnt, "commit", tx)
    elif name.endswith("-ambient"):
        ctl(mnt, "begin")
        work(f"{mnt}/{name}", n, rng, lambda c: ctl(mnt, c))
        ctl(mnt, "commit")
    elif name.endswith("-run"):
        script = "import sys, random; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1])\n" \
                 "import test_crash; n = int(sys.argv[3]); test_crash.transfer(sys.argv[2], n, random.Random(n), None)"
        here = os.path.dirname(os.path.abspath(__file__))
        r = subprocess.run([OPT.txnfs, "run", mnt, "--", sys.executable, "-c", script, here, f"{mnt}/{name}", str(n)],
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if r.returncode and _alive(mnt):
            raise Failure(f"run: {r.returncode} {r.stderr!r}")
        if r.returncode:
            raise OSError(errno.ENOTCONN, "the daemon has gone")
    else:
        work(f"{mnt}/{name}", n, rng, None)


def _alive(mnt):
    try:
        os.stat(mnt)
        os.listdir(mnt)
        return True
    except OSError:
        return False


def worker(mnt, name, ledger_path, seed):
    """Works until the daemon is gone; what it did, or the error that should not have been."""
    rng = random.Random(seed)
    book = Ledger(ledger_path)
    n = done = 0
    try:
        # Where the files stand, not where the ledger does: an intended transaction may have been committed or not.
        n = now(f"{mnt}/{name}", name)
        while True:
            n += 1
            book.intend(n)
            one(mnt, name, n, rng)
            book.acknowledge(n)
            done += 1
    except OSError as e:
        if e.errno in DEAD:
            return done, None
        return done, f"{name} at {n}: {e!r} {getattr(e, 'line', '')}"
    except Failure as e:
        return done, f"{name} at {n}: {e}"


def now(d, name):
    """The number of the transaction that a worker's directory shows."""
    kind = name.split("-")[0]
    if kind == "transfer":
        return int(read(f"{d}/a").split()[0])
    if kind == "pairs":
        return max((int(p[1:]) for p in ls(f"{d}/x") if not p.endswith("link")), default=0)
    if kind == "renames":
        return int(next(x for x in ls(d) if x.startswith("dir-"))[4:])
    return int(read(f"{d}/before" if kind == "savepoints" else f"{d}/f"))


def verify(root, books, text):
    for name, (_, verdict) in WORK.items():
        hi, lo = ledger(books[name])
        try:
            verdict(os.path.join(root, name), lo, hi)
        except (Failure, OSError, ValueError, IndexError, StopIteration) as e:
            raise Failure(f"{text}: {name} (acknowledged {lo}, intended {hi}): {e!r}") from e


def settle(root, books):
    """After verification: what is there is what there is."""
    for name in WORK:
        n = now(os.path.join(root, name), name)
        book = Ledger(books[name])
        book.intend(n)
        book.acknowledge(n)
        os.close(book.fd)


class Load:
    def __init__(self, t, options):
        self.t = t
        self.m = None
        src = t.path("m.src")
        os.mkdir(src)
        prepare(src)
        self.books = {name: t.path(name + ".ledger") for name in WORK}
        for path in self.books.values():
            os.close(Ledger(path).fd)
        self.m = t.mount(options=options)
        self.done = 0

    def run_and_kill(self, seconds, names, seed):
        """Load from these workers, kill -9 after a while, and wait for the workers' end."""
        actors = [self.t.actor() for _ in names]
        for a, name in zip(actors, names):
            a.start(worker, self.m.mnt, name, self.books[name], f"{seed}:{name}")
        time.sleep(seconds)
        check(not self.m.kill9(detach=False), "the watchdog left clients of the dead daemon hanging")
        bad = []
        for a in actors:
            done, trouble = a.result()
            self.done += done
            bad += [trouble] if trouble else []
            a.end()
            self.t.actors.remove(a)
        self.m.detach()
        check(not bad, "workers:", bad)


@quick
@deadline(420)
def test_kill_under_load(t):
    cycles = 15 if OPT.quick else 80
    load = Load(t, "segment_mib=1,checkpoint_mib=2,checkpoint_seconds=1")
    m, rng = load.m, t.rng
    counts = {"check": 0, "recover": 0, "again": 0}
    unsound = ""
    for cycle in range(cycles):
        names = rng.sample(sorted(WORK), rng.randrange(3, 6))
        load.run_and_kill(rng.choice((0.03, 0.06, 0.1, 0.2, 0.4)) * min(OPT.slow, 2), names, f"{OPT.seed}:{cycle}")
        text = f"cycle {cycle} ({', '.join(names)})"
        kind = cycle % 5
        if kind == 1:
            p = tool("check", m.src, status=None)
            if p.returncode:  # the more interesting is whether recovery is wrong, too
                unsound = f"{text}: check before recovery: {p.stdout}{p.stderr}"
                shutil.copytree(m.src, t.path("unsound"), symlinks=True, dirs_exist_ok=True)
            lines = tool("log", "--json", m.src).stdout.splitlines()
            for line in lines:
                check("lsn" in json_lines(line)[0], line)
            counts["check"] += 1
        if kind == 2:
            recover(m, text)
            verify(m.src, load.books, text + ", recovered offline")
            counts["recover"] += 1
        if kind in (3, 4):
            counts["again"] += kill_during_recovery(m, rng)
        m.start()
        verify(m.mnt, load.books, text)
        check(not unsound, unsound + "; but recovery was right")
        if kind == 0:
            m.umount()
            verify(m.src, load.books, text + ", backing directory")
            state = snapshot(m.home(".txnfs"), data=False)
            left = [p for p in state if p.startswith(("trash/", "stage/"))]
            check(not left, f"{text}: left in the state directory:", left)
            check(tool("check", m.src, status=None).returncode == 0, f"{text}: check after an orderly end")
            m.start()
        settle(m.mnt, load.books)
        equal(named_open(m.mnt), [], "no transaction is left")
    m.umount()
    verify(m.src, load.books, "at the end")
    t.note(f"{cycles} kills, {load.done} transactions, {counts['again']} kills of a recovery")


def recover(m, text):
    p = tool("recover", m.src, status=None)
    check(p.returncode == 0, f"{text}: recover:", p.stdout, p.stderr)
    check(p.stdout.strip(), "recover prints what it did")
    p = tool("check", m.src, status=None)
    check(p.returncode == 0, f"{text}: check after recovery:", p.stdout, p.stderr)
    again = tool("recover", m.src)
    check("nothing" in again.stdout or "clean" in again.stdout, "recovering twice changes nothing:", again.stdout)


def kill_during_recovery(m, rng):
    """Start the daemon and kill it before it is ready, or just when it is."""
    killed = 0
    for _ in range(rng.randrange(1, 4)):
        m.spawn()
        end = time.monotonic() + rng.random() * 0.03 * OPT.slow
        while time.monotonic() < end and not mounted(m.mnt):
            time.sleep(0.001)
        killed += not mounted(m.mnt)
        m.kill9()
    return killed


@quick
def test_kill_with_one_big_transaction(t):
    """A transaction too large for a log segment, killed before its commit, and after."""
    m = t.mount(options="segment_mib=1,checkpoint_mib=2")
    old = os.urandom(3 << 20)
    put(m("old"), old)
    n = m.named("big")
    new = os.urandom(5 << 20)
    put(n("old"), new)
    put(n("new"), new)
    os.mkdir(n("d"))
    m.crash()
    equal(ls(m.mnt), ["old"])
    check(read(m("old")) == old, "a lost transaction left something")
    n = m.named("big")
    put(n("old"), new)
    put(n("new"), new)
    n.ctl("commit")
    m.crash()
    equal(ls(m.mnt), ["new", "old"])
    check(read(m("old")) == new and read(m("new")) == new, "a committed transaction lost something")
    m.umount()
    check(read(m.home("old")) == new and read(m.home("new")) == new, "in the backing directory")


@quick
def test_kill_right_after_commit(t):
    """The acknowledged commit is there although nothing was installed yet, with each kind of change."""
    for i in range(3 if OPT.quick else 10):
        m = t.mount(f"m{i}")
        os.makedirs(m("d/e"))
        for f in ("f", "g", "h", "d/in"):
            put(m(f), f * 2000)
        os.link(m("g"), m("g2"))
        a = t.actor()
        a(ctl, m.mnt, "begin")
        a(changes_of_all_kinds, m.mnt)
        want = a(snapshot, m.mnt)
        a(ctl, m.mnt, "commit")
        m.kill9()
        if i % 2:
            recover(m, "offline")
            lines = snapshot(m.src)
            equal(sorted(lines), sorted(want), "names at home")
        m.start()
        same_tree(snapshot(m.mnt), want, "after the remount")
        m.umount()
        same_tree(snapshot(m.src), want, "in the backing directory")


def changes_of_all_kinds(root):
    put(root + "/f", "changed")
    put(root + "/new", "n" * 100_000)
    os.unlink(root + "/h")
    os.rename(root + "/d/e", root + "/e2")
    os.rename(root + "/d", root + "/e2/d")
    put(root + "/e2/d/more", "x")
    os.unlink(root + "/g")
    os.link(root + "/f", root + "/e2/f-link")
    os.chmod(root + "/g2", 0o600)
    os.setxattr(root + "/g2", "user.x", b"y" * 500)
    os.symlink("nowhere", root + "/sym")
    os.mkfifo(root + "/fifo")
    os.truncate(root + "/new", 50_000)
    os.utime(root + "/f", ns=(5, 7))
    if os.geteuid() == 0:
        os.chown(root + "/f", 3, 4)


@quick
def test_plain_operations_survive_a_kill(t):
    """Plain operations right after a commit of the same objects go through the log (I5) and keep their order."""
    m = t.mount()
    for i in range(10 if OPT.quick else 40):
        n = m.named("n")
        put(n("f"), f"tx {i}" * 500)
        put(n("g"), "g")
        os.mkdir(n("d"))
        put(n("d/x"), "x")
        n.ctl("commit")
        put(m("f"), f"plain {i}")
        os.rename(m("d/x"), m("y"))
        os.rmdir(m("d"))
        os.unlink(m("g"))
        os.chmod(m("f"), 0o600 + i)
        want = snapshot(m.mnt)
        m.kill9()
        m.start()
        same_tree(snapshot(m.mnt), want, f"round {i}")
        os.unlink(m("y"))
    m.umount()
    equal(ls(m.src), [".txnfs", "f"])


def test_workers_see_a_dead_daemon_as_an_error(t):
    """Nobody hangs when the daemon dies; a commit in flight fails."""
    m = t.mount()
    a = t.actor()
    a(ctl, m.mnt, "begin")
    a(put, m("f"), "x")
    m.kill9(detach=False)
    for op, args in ((put, (m("f"), "y")), (ctl, (m.mnt, "commit")), (read, (m("f"),))):
        try:
            a(op, *args)
            raise Failure("succeeded on a dead mount")
        except OSError as e:
            check(e.errno in DEAD, e)
    m.detach()
    m.start()
    equal(ls(m.mnt), [])


@quick
def test_orderly_stop_by_signal(t):
    """SIGTERM: unmounts, rolls back what is open, installs, ends with 0."""
    for sig in (signal.SIGTERM, signal.SIGINT):
        m = t.mounts[0] if t.mounts else t.mount()
        put(m("f"), "f")
        n = m.named("n")
        put(n("lost"), "x")
        n2 = m.named("n2")
        put(n2("kept"), "x")
        n2.ctl("commit")
        m.proc.send_signal(sig)
        m.ended()
        wait_until(lambda: not mounted(m.mnt), 3, "the unmount")
        equal(ls(m.src), [".txnfs", "f", "kept"])
        check(tool("check", m.src).returncode == 0)
        m.start()
