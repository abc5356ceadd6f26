"""Damaged and strange logs, full disks."""
import errno
import os
import shutil
import signal
import subprocess

import sysc
from harness import (NOBODY, OPT, Failure, Mount, check, deadline, equal, exists, expect, json_lines, ls,
                     mounted, needs_root, patience, quick, read, same_tree, snapshot, tool, wait_until, write)
from scenes import SMALL, refused, small_disk, unprivileged_mount


# ---- damaged and strange logs ----

def killed_source(t, commits=6):
    """A source directory whose log has something to recover, and what its tree must be."""
    m = t.mount(options="segment_mib=1,checkpoint_seconds=3600,checkpoint_mib=512")
    for i in range(commits):
        n = m.named(f"n{i}")
        write(n("a"), f"{i}" * 100)
        write(n("b"), f"{i}" * 100)
        write(n(f"f{i}"), "x" * 3000)
        n.ctl("commit")
    want = snapshot(m.mnt)
    m.kill9()
    return m, want


def records(src):
    return json_lines(tool("log", "--json", src).stdout)


def place(m, lsn, size=1 << 20):
    """The segment file and the offset of an LSN."""
    return m.home(f".txnfs/wal/{lsn // size:016x}"), lsn % size


def flip(path, off):
    with open(path, "r+b") as f:
        f.seek(off)
        b = f.read(1)
        f.seek(off)
        f.write(bytes([b[0] ^ 0x40]))


def names_lsn(text, lsn):
    return str(lsn) in text or hex(lsn) in text


@quick
def test_damage_in_the_middle_is_refused(t):
    m, want = killed_source(t)
    recs = [r for r in records(m.src) if r["transaction"]]
    check(len(recs) > 10, "records:", len(recs))
    damaged = recs[2]
    path, off = place(m, damaged["lsn"])
    flip(path, off + 56)
    before = snapshot(m.src)
    for args in (("mount", "-f", m.src, m.mnt), ("recover", m.src)):
        check(names_lsn(refused(*args), damaged["lsn"]), "the message tells the LSN:", damaged["lsn"])
    text = refused("check", m.src, status=3) if tool("check", m.src, status=None).stderr else \
        tool("check", m.src, status=3).stdout
    check(names_lsn(text, damaged["lsn"]), "check tells the LSN:", text)
    same_tree(snapshot(m.src), before, "a refused mount changes nothing")
    flip(path, off + 56)
    m.start()
    same_tree(snapshot(m.mnt), want, "with the damage repaired nothing is lost")


@quick
def test_torn_tail_is_accepted(t):
    """An open transaction's records cut off at any place: all before is there, nothing of it is."""
    m = t.mount(options="segment_mib=1,checkpoint_seconds=3600,checkpoint_mib=512")
    for i in range(2):
        n = m.named(f"n{i}")
        for x in (f"f{i}", "a", "b"):
            write(n(x), f"{i}" * 100)
        n.ctl("commit")
    want = snapshot(m.mnt)
    n = m.named("torn")
    for x in ("a", "b", "f2", "f3"):
        write(n(x), "torn" * 500)
    m.kill9()
    recs = [r for r in records(m.src) if r["transaction"]]
    mine = [r for r in recs if r["transaction"] == recs[-1]["transaction"]]
    check(len(mine) > 4, "records of the open transaction:", len(mine))
    path, off = place(m, t.rng.choice(mine)["lsn"] + t.rng.randrange(0, 56))
    with open(path, "r+b") as f:
        size = os.fstat(f.fileno()).st_size
        f.seek(off)
        f.write(bytes(size - off))
    check(tool("check", m.src).returncode == 0)
    m.start()
    same_tree(snapshot(m.mnt), want, "after recovery")
    m.umount()
    same_tree(snapshot(m.src), want, "in the backing directory")
    check(tool("check", m.src).returncode == 0)


def test_truncated_segment(t):
    """A segment file that was cut short, or that is gone with all the others: refused with a message."""
    for cut in (0, 50, 64, 3000, 500_000):
        m = Mount(t, f"m{cut}", options="segment_mib=1,checkpoint_seconds=3600")
        m.start()
        for i in range(3):
            n = m.named(f"n{i}")
            write(n("a"), f"{i}" * 3000)
            write(n("b"), f"{i}" * 3000)
            n.ctl("commit")
        m.kill9()
        lsn = [r for r in records(m.src) if r["transaction"]][0]["lsn"]
        path, _ = place(m, lsn)
        os.truncate(path, cut)
        p = tool("check", m.src, status=None)
        check(p.returncode == 3, p)
        m.spawn()
        wait_until(lambda: m.proc.poll() is not None or mounted(m.mnt), 10, "a verdict")
        if m.proc.poll() is None:
            a, b = exists(m("a")) and read(m("a")), exists(m("b")) and read(m("b"))
            equal(a, b, f"cut at {cut}: torn")
            m.umount()
        else:
            check(p.returncode == 3, "check agrees with mount:", p.stdout)
            check(len(m.log_text().strip()) > 20, "a clear message:", m.log_text())
            m.proc = None


def test_missing_segment_is_refused(t):
    m = t.mount(options="segment_mib=1,checkpoint_seconds=3600,checkpoint_mib=512")
    for i in range(5):
        n = m.named(f"n{i}")
        write(n("a"), os.urandom(1 << 20))
        n.ctl("commit")
    m.kill9()
    numbers = sorted({r["lsn"] >> 20 for r in records(m.src)})
    check(len(numbers) > 3, "segments:", numbers)
    middle = m.home(f".txnfs/wal/{numbers[len(numbers) // 2]:016x}")
    os.rename(middle, t.path("kept"))
    refused("mount", "-f", m.src, m.mnt)
    tool("check", m.src, status=3)
    os.rename(t.path("kept"), middle)
    m.start()
    equal(os.stat(m("a")).st_size, 1 << 20)


@quick
def test_copy_is_never_taken_for_the_original(t):
    """A copy's log speaks of the original's files: with something to redo it is refused, and nothing is written."""
    m = Mount(t, "m", options="checkpoint_seconds=3600")
    m.start()
    write(m("f"), "v1")
    n = m.named("n")
    write(n("f"), "v2")
    write(n("new"), "x")
    n.ctl("commit")
    copy = t.path("copy")
    subprocess.run(["cp", "-a", m.src, copy], check=True)  # beside the running mount
    os.unlink(m("new"))
    write(m("f"), "v3")
    refused("mount", "-f", copy, t.tmp(), words=["copy"])
    refused("recover", copy, words=["copy"])
    equal(read(m("f")), b"v3")
    check(not exists(m("new")))
    m.kill9()
    refused("recover", copy, words=["copy"])
    m.start()
    equal(read(m("f")), b"v3")
    check(not exists(m("new")))
    m.umount()
    # A copy of what was closed cleanly is a directory like any other.
    shutil.rmtree(copy)
    subprocess.run(["cp", "-a", m.src, copy], check=True)
    tool("recover", copy)
    equal(read(copy + "/f"), b"v3")
    # And a log that is gone is not replaced by an empty one.
    for name in os.listdir(copy + "/.txnfs/wal"):
        os.unlink(copy + "/.txnfs/wal/" + name)
    refused("recover", copy, words=["log is missing"])
    equal(tool("check", copy, status=None).returncode, 3)


def test_newer_format_is_refused(t):
    m = t.mount()
    write(m("f"), "x")
    m.umount()
    path = m.home(".txnfs/format")
    old = read(path)
    write(path, old.replace(b"txnfs format 1", b"txnfs format 9"))
    check(read(path) != old, "the format file:", old)
    refused("mount", "-f", m.src, m.mnt, words=["newer"])
    refused("recover", m.src, words=["newer"])
    write(path, b"\0garbage\xff" * 20)
    refused("mount", "-f", m.src, m.mnt, words=["damaged"])
    write(path, old)
    m.start()
    equal(read(m("f")), b"x")


@needs_root
def test_unwritable_log_directory(t):
    """As an ordinary user, with a log directory that may not be written: a clear message."""
    m, exe = unprivileged_mount(t)
    t.actor(uid=NOBODY)(write, m("f"), "x")
    m.proc.send_signal(signal.SIGTERM)
    m.ended()
    os.chmod(m.home(".txnfs/wal"), 0o500)
    r = subprocess.run([exe, "mount", "-f", m.src, m.mnt], user=NOBODY, group=NOBODY, extra_groups=[], check=False,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=patience(20))
    check(r.returncode != 0, "mounted although its log cannot be written")
    check("wal" in r.stdout or "log" in r.stdout, r.stdout)
    equal(read(m.home("f")), b"x")


# ---- full disks ----

def fill_disk(point, leave=0):
    """Take all space that is left on the filesystem below, but `leave` bytes."""
    path = os.path.join(point, "filler")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for step in (1 << 20, 64 << 10, 4096):
            while True:
                sv = os.statvfs(point)
                if sv.f_bavail * sv.f_frsize < leave + step:
                    break
                try:
                    end = os.fstat(fd).st_size
                    sysc.fallocate(fd, 0, end, step)
                except OSError as e:
                    equal(e.errno, errno.ENOSPC)
                    break
    finally:
        os.close(fd)
    return path


def room_in_the_log(m):
    """Can a transaction write 1 MiB?"""
    n = m.named("probe")
    try:
        write(n("probe"), os.urandom(1 << 20))
        return True
    except OSError as e:
        equal(e.errno, errno.ENOSPC)
        return False
    finally:
        n.rollback()


@quick
@needs_root
def test_full_disk_at_an_operation(t):
    """The one operation fails with ENOSPC; the transaction goes on and can be committed or rolled back."""
    _, src = small_disk(t, 48)
    m = t.mount(src=src, options=SMALL)
    write(m("f"), "committed")
    for end in ("rollback", "commit"):
        wait_until(lambda: room_in_the_log(m), 10, "room in the log after a rollback")
        n = m.named(end)
        write(n("f"), "changed")
        n.ctl("savepoint s")
        block = os.urandom(1 << 20)
        written, full = [], False
        for i in range(100):
            try:
                write(n(f"big{i}"), block)
                written.append(i)
            except OSError as e:
                equal(e.errno, errno.ENOSPC)
                full = True
                break
        check(full and written, "the disk fills:", len(written))
        equal(read(n("f")), b"changed")
        for i in written:
            check(read(n(f"big{i}")) == block, f"big{i} is whole")
        equal(ls(m.mnt), ["f"])
        if end == "commit":
            n.ctl("rollback to s")
            write(n("g"), "small")
        n.ctl(end)
        equal(ls(m.mnt), ["f"] if end == "rollback" else ["f", "g"])
        equal(read(m("f")), b"committed" if end == "rollback" else b"changed")
    m.crash()
    equal(read(m("f")), b"changed")
    equal(read(m("g")), b"small")
    m.umount()
    equal(ls(m.src), [".txnfs", "f", "g"])


@quick
@needs_root
def test_full_disk_at_commit(t):
    """
    The disk fills behind the mount's back, before commit: it succeeds wholly, or fails with ENOSPC and the transaction
    is still there to be tried again or rolled back. After a kill it is whole or absent.
    """
    point, src = small_disk(t, 48)
    m = t.mount(src=src, options=SMALL)
    write(m("f"), "committed")
    block = os.urandom(1 << 20)
    outcomes = []
    for i, leave in enumerate((0, 100_000, 1 << 20, 3 << 20)):
        n = m.named(f"n{i}")
        write(n("f"), f"changed {i}")
        for k in range(6):
            write(n(f"d{i}-{k}"), block)
        inside = snapshot(n.root)
        before = snapshot(m.mnt)
        filler = fill_disk(point, leave)
        try:
            n.ctl("commit")
            outcomes.append("committed")
            want = inside
        except OSError as e:
            check(e.errno == errno.ENOSPC, f"commit on a full disk: {e}")
            same_tree(snapshot(n.root), inside, "the transaction is as it was")
            outcomes.append("ENOSPC")
            want = before
        same_tree(snapshot(m.mnt), want, f"everyone sees all or nothing ({outcomes[-1]})")
        if i % 2:
            m.kill9()
            os.unlink(filler)
            m.start()
            same_tree(snapshot(m.mnt), want, f"after a kill and a remount ({outcomes[-1]})")
        else:
            os.unlink(filler)
            if outcomes[-1] == "ENOSPC":
                n.ctl("commit")
                want = inside
            same_tree(snapshot(m.mnt), want, "with space again")
        for x in ls(m.mnt):
            if x != "f":
                os.unlink(m(x))
    t.note(" ".join(outcomes))
    m.umount()
    check(tool("check", m.src).returncode == 0)


@needs_root
def test_full_disk_during_recovery(t):
    point, src = small_disk(t, 48)
    m = t.mount(src=src, options=SMALL)
    n = m.named()
    for i in range(8):
        write(n(f"f{i}"), os.urandom(700_000))
    want = snapshot(n.root)
    n.ctl("commit")
    m.kill9()
    filler = fill_disk(point)
    m.spawn()
    wait_until(lambda: m.proc.poll() is not None or mounted(m.mnt), 15, "a verdict")
    if m.proc.poll() is None:
        t.note("recovers on a full disk")
        same_tree(snapshot(m.mnt), want, "recovered on a full disk")
        m.kill9()
    else:
        t.note("says so")
        check("space" in m.log_text().lower() or "full" in m.log_text().lower(), m.log_text())
        m.proc = None
    os.unlink(filler)
    m.start()
    same_tree(snapshot(m.mnt), want, "with space again")
    m.umount()
    same_tree(snapshot(m.src), want, "in the backing directory")


@needs_root
def test_full_disk_for_plain_operations(t):
    """Outside transactions a full disk is a full disk; freeing space helps at once."""
    point, src = small_disk(t, 32)
    m = t.mount(src=src, options=SMALL)
    write(m("f"), "x")
    filler = fill_disk(point)
    expect(errno.ENOSPC, write, m("big"), os.urandom(2 << 20))
    equal(read(m("f")), b"x")
    os.unlink(m("f"))
    os.unlink(filler)
    write(m("big"), os.urandom(1 << 20))
    m.remount()
    equal(ls(m.mnt), ["big"])


# ---- what the filesystem below can never take ----

def too_far(root):
    fd = os.open(root + "/f", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, b"x", 1 << 62)
    finally:
        os.close(fd)


def too_long(root):
    write(root + "/f", "x")
    os.truncate(root + "/f", (1 << 63) - 1)


def too_many_xattrs(root):
    write(root + "/f", "x")
    for i in range(30):
        os.setxattr(root + "/f", f"user.{i}", bytes(3000))


def too_many_links(root):
    write(root + "/f", "x")
    for i in range(65_100):
        os.link(root + "/f", f"{root}/l{i}")


def reserved_name(root):
    os.mkdir(root + "/.txnfs")


@quick
@deadline(150)
def test_what_can_never_be_installed(t):
    """
    An operation that the filesystem below would refuse must fail in a transaction too, at once or at commit. It must
    never be committed and then stand in the way of everything that comes after.
    """
    bad = []
    for i, op in enumerate((too_far, too_long, too_many_xattrs, reserved_name, too_many_links)):
        if OPT.quick and op is too_many_links:
            continue
        host = t.path(f"host{i}")
        os.mkdir(host)
        try:
            op(host)
            if op is not reserved_name:
                continue  # this filesystem can
        except OSError:
            pass
        m = t.mount(f"m{i}")
        n = m.named()
        failed = ""
        for step in (op, lambda _: n.ctl("commit")):
            try:
                step(n.root)
            except OSError as e:
                failed = failed or os.strerror(e.errno)
        if exists(n.dir):
            n.rollback()
        if not failed:
            bad.append(f"{op.__name__}: committed")
        try:
            m.remount()
            write(m("after"), "x")
        except (Failure, OSError) as e:
            bad.append(f"{op.__name__}: the mount is lost: {e}")
            m.kill9()
    check(not bad, "\n".join(bad))
