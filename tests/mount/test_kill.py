"""
kill -9 at random moments: of the daemon while transfers between many accounts go on, of a recovery, of clients; and
what a killed daemon leaves behind.

    TXNFS_CYCLES=1000 tests/mount/run.py kill

is the long search (about 100 cycles a minute). Kills cannot be repeated exactly; the load of one cycle can:
NAME[CYCLE].
"""
import errno
import fcntl
import os
import random
import select
import shutil
import signal
import subprocess
import time

import bank
from bank import ACCOUNTS, Ledger, Notes, Torn
from clients import client
from harness import (OPT, Failure, Mount, Skip, check, children, deadline, equal, ls, mounted, needs_root, quick, read,
                     same_tree, snapshot, tool, wait_until, write)
from scenes import SMALL, small_disk

CYCLES = int(os.environ.get("TXNFS_CYCLES", 0))
LOAD = ("ambient", "ambient", "named", "named", "run", "bulk0", "bulk1", "plain", "outside", "inside")


# ---- the test ----

class Bank:
    def __init__(self, t):
        self.t = t
        src = t.path("m.src")
        os.mkdir(src)
        bank.make(src)
        self.base = [bank.look(src, i) for i in range(ACCOUNTS)]
        self.seen = {}  # account: number in its plain attribute
        self.bulk = dict.fromkeys(range(bank.BULKS), 0)
        self.m = t.mount(options=SMALL)
        self.count = dict.fromkeys(("kills", "busy", "commit", "install", "transfers", "refused", "bulk", "plain",
                                    "reads", "spans", "clients", "recoveries", "middle"), 0)
        self.duration = 0.02  # of a recovery, so far

    def ledger(self, i):
        return self.t.path(f"ledger{i}")

    def load_and_kill(self, cycle, rng):
        """Clients of all kinds; kill -9 of some of them, and then of the daemon."""
        actors = [self.t.actor() for _ in LOAD]
        for i, (a, how) in enumerate(zip(actors, LOAD)):
            a.start(client, self.m.mnt, how, self.ledger(i), (cycle + 1) << 32 | i << 24, f"{OPT.seed}:{cycle}:{i}")
        wait = 0.005 * 160 ** rng.random() * min(OPT.slow, 3)
        killed = set()
        if rng.random() < 0.8:  # else from their very beginning on
            wait_until(lambda: any(os.path.exists(self.ledger(i)) and os.path.getsize(self.ledger(i))
                                   for i in range(len(LOAD)) if LOAD[i] != "plain"), 5, "the first commit")
        if rng.random() < 0.4:
            time.sleep(wait * rng.random())
            killed = self.kill_clients(actors, rng)
        time.sleep(wait)
        check(not self.m.kill9(detach=False), "the watchdog left clients of the dead daemon hanging")
        self.count["kills"] += 1
        trouble = []
        for i, a in enumerate(actors):
            if i in killed:
                a.wait()
            else:
                done, refused, reads, spans, bad = a.result()
                a.end()
                self.count[dict(plain="plain", bulk="bulk").get(LOAD[i].rstrip("01"), "transfers")] += done
                self.count["refused"] += refused
                self.count["reads"] += reads
                self.count["spans"] += spans
                trouble += [bad] if bad else []
            self.t.actors.remove(a)
        self.m.detach()
        reap(self.t)
        check(not trouble, "clients:", *trouble)
        in_commit, in_install = self.commit_was_under_way(killed), installs_pending(self.m)
        self.count["commit"] += in_commit
        self.count["install"] += in_install
        self.count["busy"] += in_commit or in_install

    def kill_clients(self, actors, rng):
        killed = set()
        for i in rng.sample(range(len(LOAD)), rng.randrange(1, 3)):
            victims = children(actors[i].pid) if LOAD[i] == "run" and rng.random() < 0.7 else []
            if not victims:
                victims = [actors[i].pid]
                killed.add(i)
            for pid in victims:
                try:
                    os.kill(pid, signal.SIGKILL)
                    self.count["clients"] += 1
                except ProcessLookupError:
                    pass
        return killed

    def commit_was_under_way(self, killed):
        """Did somebody, not killed himself, wait for a commit when the daemon was killed?"""
        for i, how in enumerate(LOAD):
            if i not in killed and how in ("ambient", "named") and os.path.exists(self.ledger(i)):
                intended, acknowledged = Ledger(self.ledger(i)).read()
                if intended and max(intended) not in acknowledged:
                    return True
            if i not in killed and how.startswith("bulk") and os.path.exists(self.ledger(i)):
                least, may = Notes(self.ledger(i)).read({})
                if may and max(may[int(how[4:])]) != least.get(int(how[4:])):
                    return True
        return False

    def audit(self, root, text):
        """The state at root agrees with all ledgers; it is remembered, and the ledgers begin anew with settle()."""
        intended, acknowledged = {}, set()
        for i, how in enumerate(LOAD):
            if how in ("ambient", "named", "run") and os.path.exists(self.ledger(i)):
                book = Ledger(self.ledger(i))
                more = book.read()
                os.close(book.fd)
                intended.update(more[0])
                acknowledged |= more[1]
        try:
            self.now = bank.audit(root, self.base, intended, acknowledged)
            bulk = [bank.audit_bulk(root, i) for i in range(bank.BULKS)]
        except (Torn, OSError) as e:
            raise Failure(f"{text}: {e}") from e
        self.bulk_now = {}
        for i, n in enumerate(bulk):
            self.bulk_now |= self.audit_numbers(f"bulk{i}", {i: self.bulk[i]}, lambda _, n=n: n, text)
        self.seen_now = self.audit_numbers("plain", self.seen, lambda i: seen(bank.path_of(root, i)), text)

    def audit_numbers(self, what, base, shown, text):
        notes = Notes(self.ledger(LOAD.index(what)))
        least, may = notes.read(base)
        os.close(notes.fd)
        now = {key: shown(key) for key in may}
        for key, n in now.items():
            check(n in may[key] and n >= least.get(key, 0), f"{text}: {what} {key} shows {n}, acknowledged was",
                  least.get(key))
        return now

    def settle(self):
        self.base, self.seen, self.bulk = self.now, self.seen_now, self.bulk_now
        for i in range(len(LOAD)):
            if os.path.exists(self.ledger(i)):
                os.unlink(self.ledger(i))

    # what comes after a kill

    def kill_recoveries(self, rng, offline):
        """One to three recoveries that do not live long."""
        for _ in range(rng.randrange(1, 4)):
            self.count["recoveries"] += 1
            self.count["middle"] += kill_one(self.m, rng.random() * 1.2 * self.duration, offline)

    def recover(self, text):
        began = time.monotonic()
        tool("recover", self.m.src)
        self.duration += (time.monotonic() - began - self.duration) / 4
        self.audit(self.m.src, text + ", recovered offline")
        sound(self.m, text + ", after recovery", clean=True)

    def orderly(self, text):
        self.m.umount()
        self.audit(self.m.src, text + ", in the backing directory")
        sound(self.m, text + ", after an orderly end", clean=True)
        for part in ("stage", "trash"):
            equal(ls(self.m.home(".txnfs", part)), [], f"{text}: left in {part} after an orderly end")
        self.m.start()

    def cycle(self, number):
        rng = random.Random(f"{OPT.seed}:kill:{number}")
        self.load_and_kill(number, rng)
        if OPT.keep:  # as the daemon left it
            shutil.rmtree(self.t.path("killed"), ignore_errors=True)
            shutil.copytree(self.m.src, self.t.path("killed"), symlinks=True)
        after = rng.choice(("mount", "check", "recover", "kill recover", "kill recover", "kill mount", "kill mount",
                            "kill both"))
        text = f"cycle {number} ({after})"
        if after == "check":
            sound(self.m, text)
        if after in ("kill recover", "kill both"):
            self.kill_recoveries(rng, True)
        if after in ("kill mount", "kill both"):
            self.kill_recoveries(rng, False)
        if after == "recover" or after.startswith("kill") and rng.random() < 0.3:
            self.recover(text)
        self.m.start()
        self.audit(self.m.mnt, text)
        if rng.random() < 0.15:
            self.orderly(text)
        self.settle()

    def figures(self):
        c = self.count
        return f"{c['kills']} kills, {c['commit']} of them in a commit, {c['install']} before an install was done; " \
               f"{c['middle']} of {c['recoveries']} kills of a recovery before its end, {c['clients']} of clients; " \
               f"{c['transfers']} transfers, {c['refused']} refused, {c['bulk']} large transactions, " \
               f"{c['plain']} plain changes, {c['reads']} reads, {c['spans']} of them over a commit"


def installs_pending(m):
    """Was something committed and not yet installed? The log of a killed daemon tells."""
    clean, pending = 0, {}
    for line in tool("log", m.src).stdout.splitlines():
        f = line.split(maxsplit=4)
        if f[2] == "CHECKPOINT":
            clean = int(f[4].split()[0])
        elif f[2] == "COMMIT":
            pending[f[1]] = int(f[0])
        elif f[2] == "END":
            pending.pop(f[1], None)
    return any(lsn >= clean for lsn in pending.values())


def seen(path):
    try:
        return int(os.getxattr(path, "user.seen"))
    except OSError as e:
        equal(e.errno, errno.ENODATA)
        return 0


def kill_one(m, seconds, offline):
    """Start a recovery, by `txnfs recover` or by mounting, kill it after a while; True when it had not ended yet."""
    if offline:
        p = subprocess.Popen([OPT.txnfs, "recover", m.src], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
        time.sleep(seconds)
        p.kill()
        out = p.communicate()[0].decode(errors="replace")
        check(p.returncode in (0, -signal.SIGKILL), "recover:", p.returncode, out)
        return p.returncode != 0
    m.spawn()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not mounted(m.mnt):
        time.sleep(0.001)
    check(m.proc.poll() is None, "a recovering mount ended:", m.log_text()[-2000:])
    middle = not mounted(m.mnt)
    m.kill9()
    return middle


def sound(m, text, clean=False):
    p = tool("check", m.src, status=None)
    check(p.returncode == 0, f"{text}: check:", p.stdout, p.stderr)
    check(not clean or "closed cleanly" in p.stdout and "not closed" not in p.stdout, text, p.stdout)


def reap(t):
    """Orphans of killed clients, which have come to this process: they must not do anything to the next mount."""
    mine = {m.proc.pid for m in t.mounts if m.proc} | {a.pid for a in t.actors}
    while True:
        strays = set(children(os.getpid())) - mine
        if not strays:
            return
        for pid in strays:
            with open(f"/proc/{pid}/comm") as f:
                if "watchdog" not in f.read():  # that one ends by itself
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@quick
@deadline(60 + CYCLES * 2)
def test_transfers(t):
    cycles = CYCLES or (10 if OPT.quick else 40)
    first = int(t.settings[0]) if t.settings else 0
    b = Bank(t)
    told = time.monotonic()
    for cycle in range(first, first + cycles):
        try:
            b.cycle(cycle)
        except (Failure, OSError) as e:
            raise Failure(f"{e}\nthis load alone, again and again: TXNFS_CYCLES=1 tests/mount/run.py --seed {OPT.seed} "
                          f"'kill.transfers[{cycle}]'") from e
        if time.monotonic() > told + 20:
            told = time.monotonic()
            t.progress(f"cycle {cycle - first + 1} of {cycles}: {b.figures()}")
    b.orderly("at the end")
    t.note(b.figures())
    c = b.count
    if cycles >= 40:
        check(c["busy"] + c["middle"] >= (c["kills"] + c["recoveries"]) / 2, "most kills hit nothing:", c)


# ---- kills of a recovery that takes long ----

def much_work(m, rng, transactions):
    """
    Many transactions that make, change, move and remove files; the last one, large, is not committed: it is returned,
    with the tree as it sees it.
    """
    files = []
    for d in range(10):
        os.mkdir(m(f"d{d}"))
    for i in range(transactions):
        n = m.named(f"n{i}")
        last = i == transactions - 1
        for k in range(rng.randrange(1, 20) if not last else 10 * transactions):
            files.append(f"d{rng.randrange(10)}/f{i}.{k}")
            write(n(files[-1]), rng.randbytes(rng.randrange(20_000)))
        for name in rng.sample(files, min(len(files), 8 if not last else 2 * transactions)):
            what = rng.randrange(4)
            if what == 0:
                os.unlink(n(name))
                files.remove(name)
            elif what == 1:
                files[files.index(name)] = to = f"d{rng.randrange(10)}/m{i}.{files.index(name)}"
                os.rename(n(name), n(to))
            elif what == 2:
                os.truncate(n(name), rng.randrange(50_000))
                os.setxattr(n(name), "user.x", rng.randbytes(100))
            else:
                write(n(name), rng.randbytes(rng.randrange(20_000)))
        if i % 5 == 0:  # two directories change places
            a, b = rng.sample(range(10), 2)
            for x, y in ((f"d{a}", "tmp"), (f"d{b}", f"d{a}"), ("tmp", f"d{b}")):
                os.rename(n(x), n(y))
            swap = {f"d{a}": f"d{b}", f"d{b}": f"d{a}"}
            files = [swap.get(f.split("/")[0], f.split("/")[0]) + "/" + f.split("/")[1] for f in files]
        if last:
            return n, snapshot(n.root)
        n.ctl("commit")
    return None


def how_far(pid):
    """Of a recovery: 0 not begun, 1 begun: it has read something, 2 installing: it has written more than the log."""
    try:
        with open(f"/proc/{pid}/io") as f:
            io = {k: int(v) for k, v in (line.split(": ") for line in f)}
    except OSError:
        return 0
    return 0 if io["rchar"] < 1 << 20 else 1 if io["syscw"] < 50 else 2


def kill_later(m, seconds, offline, install):
    """
    One recovery, killed some time after its start, or after the beginning of its install: (how far it was, it had
    ended).
    """
    if offline:
        p = subprocess.Popen([OPT.txnfs, "recover", "-q", m.src], stdin=subprocess.DEVNULL)
    else:
        p = m.spawn().proc
    ended = lambda: p.poll() is not None or not offline and mounted(m.mnt)  # noqa: E731
    while install and how_far(p.pid) < 2 and not ended():
        time.sleep(0.0005)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not ended():
        time.sleep(0.0005)
    far, done = how_far(p.pid), p.poll() is not None if offline else bool(mounted(m.mnt))
    if offline:
        p.kill()
        check(p.wait() in (0, -signal.SIGKILL), "recover:", p.returncode)
        return far, p.returncode == 0
    check(p.poll() is None, "a recovering mount ended:", m.log_text()[-2000:])
    m.kill9()
    return far, done


@quick
@deadline(120 + CYCLES * 2)
def test_kills_of_a_long_recovery(t):
    """At random moments, and later and later, until one comes to its end before it is killed."""
    rounds = max(1 if OPT.quick else 2, CYCLES // 50)
    kills = begun = installing = 0
    for i in range(rounds):
        m = Mount(t, f"m{i}", options="segment_mib=2,checkpoint_mib=4096,checkpoint_seconds=3600").start()
        rng = random.Random(f"{OPT.seed}:recovery:{i}")
        last, want = much_work(m, rng, 30 if OPT.quick else 100)
        last.ctl("commit")
        m.kill9()
        sound(m, "before recovery")
        wait, install, done = 0.05, False, False
        while not done:
            install = not install
            far, done = kill_later(m, wait * rng.random() / (3 if install else 1), rng.random() < 0.5, install)
            kills += not done
            begun += not done and far > 0
            installing += not done and far > 1
            wait *= 1.1
        m.start()
        same_tree(snapshot(m.mnt), want, f"round {i}")
        m.umount()
        same_tree(snapshot(m.src), want, f"round {i}, in the backing directory")
        sound(m, f"round {i}", clean=True)
        for part in ("stage", "trash"):
            equal(ls(m.home(".txnfs", part)), [], f"round {i}: left in {part}")
        shutil.rmtree(m.src)
        t.mounts.remove(m)
        if CYCLES:
            t.progress(f"round {i + 1} of {rounds}: {kills} kills")
    t.note(f"{kills} kills, {begun} of recoveries that had begun, {installing} of them in an install")
    if kills >= 10:  # a fast machine recovers before much can be said
        check(begun * 2 >= kills, "most kills came too early:", kills, begun)
        check(installing * 4 >= kills, "few kills hit an install:", kills, installing)


@quick
@deadline(60 + CYCLES)
def test_kill_in_a_long_install(t):
    """While a large transaction is being installed, logged plain changes go on, and checkpoints come in between."""
    rounds = max(3 if OPT.quick else 10, CYCLES // 20)
    m = t.mount(options=SMALL)
    pending = 0
    os.mkdir(m("d"))
    for i in range(rounds):
        rng = random.Random(f"{OPT.seed}:install:{i}")
        n = m.named("small")
        write(n("p"), b"%08d" % 0)  # logged from here on
        n.ctl("commit")
        n = m.named()
        for k in range(1000):
            write(n(f"d/{k}"), f"{i} {k} " * rng.randrange(1, 300))
        want = snapshot(n("d"))
        n.ctl("commit")
        end, number = time.monotonic() + rng.random() * 0.06 * OPT.slow, 0
        fd = os.open(m("p"), os.O_WRONLY)
        while time.monotonic() < end:
            number += 1
            os.pwrite(fd, b"%08d" % number, 0)
        m.kill9()
        os.close(fd)
        pending += installs_pending(m)
        if rng.random() < 0.5:
            tool("recover", m.src)
        m.start()
        same_tree(snapshot(m("d")), want, f"round {i}")
        equal(int(read(m("p"))), number, f"round {i}: the last plain change")
    t.note(f"{rounds} kills, {pending} before the install was done")


# ---- what a killed daemon leaves behind ----

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


def states(pid):
    out = set()
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/stat") as f:
            out.add(f.read().rsplit(")", 1)[1].split()[0])
    return out


@quick
@needs_root
def test_clients_of_a_daemon_that_cannot_die(t):
    """A thread of the killed daemon waits and cannot be interrupted (here for a frozen disk): clients get an error."""
    point, src = small_disk(t, 64)
    m = t.mount(src=src, options=SMALL)
    write(m("f"), "f")
    a = t.actor()
    disk = os.open(point, os.O_RDONLY)
    try:
        fcntl.ioctl(disk, FIFREEZE, 0)
    except OSError as e:
        os.close(disk)
        raise Skip(f"the disk cannot be frozen: {e}") from None
    try:
        a.start(write, m("new"), "x")
        wait_until(lambda: "D" in states(m.proc.pid), 5, "the daemon to wait for the disk")
        m.proc.kill()
        wait_until(lambda: select.select([a.sock], [], [], 0)[0], 5, "the client's error")
        try:
            a.result()
            raise Failure("written to a frozen disk")
        except OSError as e:
            check(e.errno in bank.DEAD, e)
        check("D" in states(m.proc.pid), "the daemon had ended by itself")
    finally:
        fcntl.ioctl(disk, FITHAW, 0)
        os.close(disk)
    check(not m.kill9(), "the daemon does not end")
    m.start()
    equal(read(m("f")), b"f")


@quick
def test_late_watchdog_harms_nobody(t):
    """The killed daemon's watchdog wakes only after the source has been mounted again."""
    m = t.mount()
    write(m("f"), "f")
    dog = next(p for p in children(m.proc.pid) if read(f"/proc/{p}/comm") == b"txnfs-watchdog\n")
    os.kill(dog, signal.SIGSTOP)
    m.kill9()
    m.start()
    n = m.named()
    write(n("f"), "changed")
    os.kill(dog, signal.SIGCONT)
    os.waitpid(dog, 0)
    equal(read(n("f")), b"changed")
    n.ctl("commit")
    m.umount()
    equal(read(m.home("f")), b"changed")


@quick
def test_kill_of_the_first_mount(t):
    """While it makes the state directory: the next one finishes that, and the files are as they were."""
    early = 0
    for i in range(10 if OPT.quick else 30):
        m = Mount(t, f"m{i}", options=SMALL)
        write(m.home("f"), "f")
        m.spawn()
        time.sleep(t.rng.random() * 0.15)
        early += not mounted(m.mnt)
        m.kill9()
        m.start()
        equal(ls(m.mnt), ["f"])
        write(m("f"), "changed")
        m.umount()
        equal(read(m.home("f")), b"changed")
        sound(m, f"round {i}", clean=True)
        t.mounts.remove(m)
    t.note(f"{early} killed before they were ready")
