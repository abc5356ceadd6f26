"""Groups sqlite, recovery and flat: a database in transactions, recovery and mounting, and what must not grow."""
import os
import shutil
import subprocess
import time

from rig import Case, Trouble, sync
from stats import Goal

MIB = 1 << 20


# ---- SQLite ----

def database(kind, journal, n, rows, ctl=False):
    def go(c):
        m = c.mount(kind)
        place = c.place(m)
        os.mkdir(f"{m.mnt}/{place}")
        return c.work(m, "sqlite", clean=place, db=f"{m.mnt}/{place}/t.db", journal=journal, n=n, rows=rows,
                      ctl=m.ctl if ctl else None)
    return go


def sqlite(rig):
    n = 60 if rig.opt.quick else 500
    out = []
    for rows in (1, 10):
        runners = {"txnfs": database("txnfs", "OFF", n, rows, True), "rollback-journal": database("plain", "DELETE", n, rows),
                   "wal": database("plain", "WAL", n, rows), "passthrough-wal": database("passthrough", "WAL", n, rows)}
        out.append(Case(f"sqlite.rows{rows}", f"SQLite changes {rows} row{'s' if rows > 1 else ''} durably, per transaction "
                        "(txnfs: journal_mode=OFF)", runners,
                        [Goal("speed", 1.5, "rollback-journal", target=7), Goal("speed", 0.9, "wal", target=7)], "wal"))
    return out


# ---- recovery ----

NO_CHECKPOINT = "checkpoint_mib=1000000,checkpoint_seconds=86400"


def tree_of(count):
    """Puts a tree of empty files into a directory."""
    def prepare(home):
        for i in range(count):
            if i % 1000 == 0:
                os.makedirs(f"{home}/tree/d{i // 1000}")
            os.close(os.open(f"{home}/tree/d{i // 1000}/f{i}", os.O_CREAT | os.O_WRONLY, 0o644))
    return prepare


def write_txn(m, data, files, number):
    """One transaction of new files."""
    with open(m.ctl, "r+b", buffering=0) as ctl:
        ctl.write(b"begin")
        for i in range(files):
            with open(f"{m.mnt}/t{number}.{i}", "wb", buffering=0) as f:
                f.write(data)
        ctl.write(b"commit")


def recover(mib, tree):
    """A warm log of that many MiB of file contents, whose daemon was killed."""
    def go(c):
        m = c.mount("txnfs", key=("recover", tree), options=NO_CHECKPOINT, prepare=tree_of(tree))
        data = os.urandom(MIB // 4)
        for number in range(mib // 4):
            write_txn(m, data, 16, number)
        m.calm()
        sync(m.bed)
        m.kill()
        begin = time.monotonic()
        p = subprocess.Popen([c.opt.txnfs, "recover", m.home], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE)
        text = p.stderr.read()
        _, status, used = os.wait4(p.pid, 0)
        took = time.monotonic() - begin
        p.returncode = os.waitstatus_to_exitcode(status)
        if status:
            raise Trouble(f"txnfs recover: status {p.returncode}: {text[-500:]!r}")
        for name in os.listdir(m.home):
            if name.startswith("t") and name != "tree":
                os.unlink(os.path.join(m.home, name))
        m.start()
        return {"seconds": took * 500 / mib, "cpu": (used.ru_utime + used.ru_stime) * 500 / mib,
                "peak": used.ru_maxrss * 1024}
    return go


def copy(mib):
    """The same bytes as files, and a sync: what the disk allows."""
    def go(c):
        m = c.mount("plain")
        top = f"{m.mnt}/{c.place(m)}"
        os.mkdir(top)
        data = os.urandom(MIB // 4)
        sync(m.bed)
        begin = time.monotonic()
        for i in range(mib * 4):
            with open(f"{top}/{i}", "wb", buffering=0) as f:
                f.write(data)
        sync(m.bed)
        took = time.monotonic() - begin
        shutil.rmtree(top)
        return {"seconds": took * 500 / mib}
    return go


def first_mount(files):
    def go(c):
        m = c.mount("txnfs", key=("first", files), prepare=tree_of(files))
        m.stop()
        shutil.rmtree(m.home + "/.txnfs")
        sync(m.bed)
        return {"seconds": m.start()}
    return go


def again_mount(files):
    def go(c):
        m = c.mount("txnfs", key=("first", files), prepare=tree_of(files))
        m.stop()
        sync(m.bed)
        return {"seconds": m.start()}
    return go


def recovery(rig):
    mib, tree, files = (64, 2000, 10000) if rig.opt.quick else (1024, 100000, 1000000)
    return [
        Case("recovery.log", f"txnfs recover, {mib} MiB of contents in a warm log; per 500 MiB",
             {"txnfs": recover(mib, 0), "txnfs-tree": recover(mib, tree), "write-and-sync": copy(mib)},
             [Goal("value", 1, target=8), Goal("time", 1.2, "txnfs", ours="txnfs-tree", target=8),
              Goal("value", 128 * MIB, measure="peak", target=8)], "write-and-sync"),
        Case("recovery.mount", f"the first mount of a tree, of {files} files and of none; and a later mount",
             {"txnfs": first_mount(files), "txnfs-empty": first_mount(0), "txnfs-again": again_mount(files)},
             [Goal("value", 0.1, target=8)], "txnfs-empty"),
    ]


# ---- flatness ----

def flat_work(kind, n, key):
    def go(c):
        m = c.mount("txnfs", key=key)
        place = c.place(m)
        return c.work(m, "flat", clean=place, change=kind, dir=f"{m.mnt}/{place}", n=n, ctl=m.ctl)
    return go


def in_tree(files, seconds):
    def go(c):
        m = c.mount("txnfs", key=("tree", files), prepare=tree_of(files))
        place = c.place(m)
        return c.work(m, "small", clean=place, how="ambient", dir=f"{m.mnt}/{place}", clients=1, seconds=seconds, held=1,
                      ctl=m.ctl)
    return go


def while_open(n, reps):
    def go(c):
        m = c.mount("txnfs", key=("open", n))
        place = c.place(m)
        return c.work(m, "open", clean=place, dir=f"{m.mnt}/{place}", named=f"{m.mnt}/.txn", root=place, n=n, ctl=m.ctl,
                      reps=reps)
    return go


def few_descriptors(limit, n):
    def go(c):
        m = c.mount("txnfs", key=("fds", limit), descriptors=limit)
        place = c.place(m)
        return c.work(m, "flat", clean=place, change="create", dir=f"{m.mnt}/{place}", n=n, ctl=m.ctl)
    return go


def flat(rig):
    quick = rig.opt.quick
    large, tree, reps, seconds = (20000, 10000, 50, 0.3) if quick else (1000000, 1000000, 500, 2)
    n = 300 if quick else 1000
    limit = 1.2
    return [
        Case("flat.write", f"a write of 128 bytes in a transaction of 1000, and of {large}, with its commit",
             {"txnfs-1000": flat_work("write", 1000, "w0"), "txnfs": flat_work("write", large, "w1")},
             [Goal("time", limit, "txnfs-1000", target=9, measure=m) for m in ("seconds", "operation", "processor")], "txnfs-1000",
             fresh=True),
        Case("flat.create", f"a new file in a transaction of 1000, and of {large // 10}, with its commit",
             {"txnfs-1000": flat_work("create", 1000, "c0"), "txnfs": flat_work("create", large // 10, "c1")},
             [Goal("time", limit, "txnfs-1000", target=9, measure=m) for m in ("seconds", "operation", "processor")], "txnfs-1000",
             fresh=True),
        Case("flat.tree", f"a small transaction in a tree without other files, and with {tree}",
             {"txnfs-empty": in_tree(0, seconds), "txnfs": in_tree(tree, seconds)},
             [Goal("time", limit, "txnfs-empty", target=9, measure=m) for m in ("seconds", "processor")], "txnfs-empty"),
        Case("flat.open", f"a small transaction while one other is open, and while {n} are",
             {"txnfs-1": while_open(1, reps), "txnfs": while_open(n, reps)},
             [Goal("time", limit, "txnfs-1", target=9, measure=m) for m in ("seconds", "processor")], "txnfs-1"),
        Case("flat.descriptors", "5000 new files in one transaction by a daemon with 1024 descriptors, and with all it likes",
             {"txnfs-unlimited": few_descriptors(0, 5000), "txnfs": few_descriptors(1024, 5000)},
             [Goal("time", limit, "txnfs-unlimited", target=9, measure=m) for m in ("seconds", "processor")], "txnfs-unlimited"),
    ]
