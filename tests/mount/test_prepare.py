"""Prepared transactions on a real mount: whose they are, what survives, how they end, on the mount and without it."""
import errno
import json
import mmap
import os

from harness import (NOBODY, check, ctl, ctl_refused, equal, exists, expect, in_child, ls, named_open, needs_root,
                     quick, read, tool, wait_until, write)
from scenes import SMALL, balances, bank, refused, sh, small_disk

AT_ONCE = "lock_timeout=0"  # what a prepared transaction holds is refused, not waited for
BEFORE, AFTER = (b"100", b"200"), (b"70", b"230")


def listed(m):
    """{gid: (uid, changes)} of .txn/prepared"""
    out = {}
    for line in read(m(".txn/prepared")).decode().splitlines():
        gid, uid, when, changes = line.split("\t")
        check(len(when) == 20 and when.endswith("Z"), line)
        out[gid] = (int(uid), int(changes))
    return out


def transfer(m, gid, name="n"):
    """A named transaction that moves 30, makes a file and a directory, and is prepared."""
    n = m.named(name)
    write(n("account_a"), "70")
    write(n("account_b"), "230")
    write(n("receipt-" + gid), "30")
    os.mkdir(n("dir-" + gid))
    write(n("dir-" + gid, "in"), "in")
    n.ctl(f'prepare "{gid}"')
    return n


def nothing_seen(m, gid="g"):
    equal(balances(m.mnt), BEFORE)
    check(not exists(m("receipt-" + gid)), "what it made is not seen")
    check("dir-" + gid not in ls(m.mnt), ls(m.mnt))


def locks_held(m, gid="g"):
    expect(errno.EBUSY, write, m("account_a"), "0")
    expect(errno.EBUSY, os.chmod, m("account_b"), 0o600)
    expect(errno.EBUSY, write, m("receipt-" + gid), "mine")
    expect(errno.EBUSY, os.unlink, m("account_b"))


def done(m, gid="g"):
    equal(balances(m.mnt), AFTER)
    equal(read(m("receipt-" + gid)), b"30")
    equal(read(m("dir-" + gid, "in")), b"in")


@quick
def test_prepare_detaches_a_named_transaction(t):
    m = bank(t, AT_ONCE)
    n = transfer(m, "g")
    check("n" not in ls(m(".txn")), "its directory is gone:", ls(m(".txn")))
    expect(errno.ENOENT, os.stat, n.dir)
    equal(list(listed(m)), ["g"])
    uid, changes = listed(m)["g"]
    equal(uid, os.getuid())
    check(changes >= 6, "two files written, one made and written, a directory, one in it:", changes)
    check("prepared" in ls(m(".txn")), ls(m(".txn")))
    check("prepared: 1" in read(m(".txn/status")).decode(), read(m(".txn/status")))
    nothing_seen(m)
    locks_held(m)
    line = m.ctl("commit prepared g")
    check("committed" in line and '"g"' in line, line)
    done(m)
    equal(listed(m), {})
    ctl_refused(errno.ENOENT, m.mnt, "commit prepared g")
    ctl_refused(errno.ENOENT, m.mnt, "rollback prepared g")
    m.named("n").rollback()  # its name is free


@quick
def test_prepare_detaches_an_ambient_transaction(t):
    m = bank(t, AT_ONCE)
    a = t.actor()
    a(ctl, m.mnt, "begin")
    a(write, m("account_a"), "70")
    a(write, m("new"), "new")
    equal(a(read, m("account_a")), b"70")
    check("prepared" in a(ctl, m.mnt, "prepare g"), "the line tells")
    # The owner is in none, sees what is committed, and may begin another one.
    equal(a(read, m("account_a")), b"100")
    equal(a(exists, m("new")), False)
    try:
        a(ctl, m.mnt, "commit")
        check(False, "commit outside of a transaction was accepted")
    except OSError as e:
        equal(e.errno, errno.ENOTCONN)
    a(ctl, m.mnt, "begin")
    try:
        a(write, m("account_a"), "1")
        check(False, "a prepared transaction's lock was not held")
    except OSError as e:
        equal(e.errno, errno.EBUSY)
    a(write, m("other"), "other")
    a(ctl, m.mnt, "commit")
    a.kill()  # its first owner's death means nothing to it
    equal({g: u for g, (u, _) in listed(m).items()}, {"g": os.getuid()})
    m.ctl("rollback prepared g")
    equal(balances(m.mnt), BEFORE)
    check(not exists(m("new")), "rolled back")
    equal(read(m("other")), b"other")
    write(m("account_a"), "free again")


@quick
def test_gids(t):
    m = bank(t, AT_ONCE)
    transfer(m, "g")
    n = m.named("again")
    write(n("else"), "else")
    line = None
    try:
        n.ctl("prepare g")
    except OSError as e:
        equal(e.errno, errno.EEXIST)
        line = e.line
    check(line and "prepared" in line, "a GID in use is refused:", line)
    check("again" not in ls(m(".txn")), "a prepare that fails rolls back")
    check(not exists(m("else")), "rolled back")
    n = m.named("long")
    write(n("long"), "long")
    expect(errno.ENAMETOOLONG, n.ctl, "prepare " + "x" * 201)
    check("long" in ls(m(".txn")), "a line that cannot be understood does nothing")
    n.ctl("prepare " + "x" * 200)
    n = m.named("odd")
    write(n("odd"), "odd")
    n.ctl('prepare "two words\tand ""quotes"""')
    rows = json.loads(tool("prepared", "--json", m.mnt).stdout)
    equal([r["gid"] for r in rows], ["g", "x" * 200, 'two words\tand "quotes"'])
    check(all(r["uid"] == os.getuid() and r["changes"] >= 1 and r["time"].startswith("20") for r in rows), rows)
    tool("resolve", m.mnt, 'two words\tand "quotes"', "commit")
    equal(read(m("odd")), b"odd")
    ctl_refused(errno.EINVAL, m.mnt, "prepare")
    ctl_refused(errno.ENOTCONN, m.mnt, "prepare g2")
    m.ctl("rollback prepared " + "x" * 200)
    m.ctl("rollback prepared g")


def test_caches_hear_of_it(t):
    """Open descriptors, mappings and cached names of others and of its own, over prepare and its outcome."""
    m = bank(t, AT_ONCE)
    os.mkdir(m("d"))
    other = os.open(m("account_a"), os.O_RDONLY)
    equal(os.pread(other, 10, 0), b"100")
    equal(exists(m("receipt-g")), False)
    equal(ls(m("d")), [])
    n = m.named("n")
    write(n("receipt-g"), "30")
    write(n("d/x"), "x")
    fd = os.open(n("account_a"), os.O_RDWR)
    with mmap.mmap(fd, 3) as area:
        area[:3] = b"070"  # only mapped: prepare collects it
        equal(os.pread(other, 10, 0), b"100")
        made = os.open(n("receipt-g"), os.O_RDONLY)
        equal(os.pread(made, 10, 0), b"30")
        n.ctl("prepare g")
    equal(os.pread(fd, 10, 0), b"100", "its own descriptor shows what is committed")
    expect(errno.ESTALE, os.pread, made, 10, 0)
    equal(os.pread(other, 10, 0), b"100")
    expect(errno.EBUSY, os.pwrite, fd, b"1", 0)
    m.ctl("commit prepared g")
    equal(os.pread(other, 10, 0), b"070")
    equal(os.pread(fd, 10, 0), b"070")
    equal(os.pread(made, 10, 0), b"30")
    equal(read(m("receipt-g")), b"30")
    equal(ls(m("d")), ["x"])
    for f in (fd, made, other):
        os.close(f)


@quick
def test_kill_and_remount(t):
    m = bank(t, AT_ONCE)
    transfer(m, "g", "one")
    n = m.named("two")
    write(n("second"), "2")
    n.ctl("prepare h")
    open_one = m.named("open")
    write(open_one("open"), "lost")
    for _ in range(2):
        m.crash()
        equal({g: u for g, (u, _) in listed(m).items()}, {"g": os.getuid(), "h": os.getuid()})
        equal(named_open(m.mnt), [])
        nothing_seen(m)
        locks_held(m)
        write(m("life"), "goes on")
    m.ctl("commit prepared g")
    done(m)
    m.crash()
    done(m)
    equal(set(listed(m)), {"h"})
    m.ctl("rollback prepared h")
    m.crash()
    equal(listed(m), {})
    done(m)
    check(not exists(m("second")) and not exists(m("open")), ls(m.mnt))
    m.umount()
    equal(ls(m.home(".txnfs/stage")), [])
    check(tool("check", m.src).returncode == 0)


@quick
def test_unmount_keeps_it_and_tools_resolve_offline(t):
    m = bank(t, AT_ONCE)
    transfer(m, "g")
    n = m.named("n2")
    write(n("second"), "2")
    n.ctl("prepare h")
    online = tool("prepared", m.mnt).stdout
    m.umount()
    state = {p: os.stat(m.home(".txnfs/wal", p)).st_mtime_ns for p in ls(m.home(".txnfs/wal"))}
    equal(tool("prepared", m.src).stdout, online, "the log says the same as the mount")
    rows = json.loads(tool("prepared", "--json", m.src).stdout)
    equal([r["gid"] for r in rows], ["g", "h"])
    equal({p: os.stat(m.home(".txnfs/wal", p)).st_mtime_ns for p in ls(m.home(".txnfs/wal"))}, state,
          "listing changes nothing")
    check("in doubt: 2" in tool("recover", m.src).stdout, "recover tells")
    refused("resolve", m.src, "unknown", "commit", words=("no transaction",))
    refused("resolve", m.src, "g", "perhaps", words=("neither",), status=2)
    tool("resolve", m.src, "g", "commit")
    equal(balances(m.src), AFTER, "installed at home")
    equal([r["gid"] for r in json.loads(tool("prepared", "--json", m.src).stdout)], ["h"])
    m.start()
    check("in doubt: 1 prepared" in m.log_text(), "the mount tells:", m.log_text())
    done(m)
    refused("resolve", m.src, "h", "rollback", words=("mount",))
    tool("resolve", m.mnt, "h", "rollback")
    refused("resolve", m.mnt, "h", "rollback", words=("no transaction",))
    check(not exists(m("second")), "rolled back")
    equal(tool("prepared", m.mnt).stdout, "")
    # After a crash, without a mount in between; the dead mount is asked in vain and the log answers.
    transfer_back = m.named("n3")
    write(transfer_back("account_a"), "100")
    write(transfer_back("account_b"), "200")
    transfer_back.ctl("prepare back")
    m.kill9(detach=False)
    check("back" in tool("prepared", m.mnt).stdout, "of a dead mount")
    m.detach()
    tool("resolve", m.src, "back", "commit")
    equal(balances(m.src), BEFORE)
    m.start()
    equal(listed(m), {})


@needs_root
def test_only_its_owner_and_root(t):
    m = bank(t, AT_ONCE)
    os.chmod(m.mnt, 0o777)
    os.chmod(t.dir, 0o755)

    def make(gid):
        os.mkdir(m(".txn", gid))
        write(m(".txn", gid, "root", "of-" + gid), gid)
        ctl(m.mnt, f"prepare {gid}", gid)
    for gid in ("nobodys", "too", "third"):
        in_child(make, gid, uid=NOBODY)
    transfer(m, "roots")
    equal({g: u for g, (u, _) in listed(m).items()}, {"nobodys": NOBODY, "too": NOBODY, "third": NOBODY, "roots": 0})

    def refused_here(text):
        ctl_refused(errno.EACCES, m.mnt, text)
    in_child(refused_here, "commit prepared roots", uid=NOBODY)
    in_child(refused_here, "rollback prepared roots", uid=NOBODY)
    in_child(refused_here, "commit prepared nobodys", uid=NOBODY - 1)
    in_child(ctl, m.mnt, "commit prepared nobodys", uid=NOBODY)  # another process of the same uid
    equal(read(m("of-nobodys")), b"nobodys")
    m.crash()
    in_child(refused_here, "commit prepared too", uid=NOBODY - 1)
    in_child(ctl, m.mnt, "rollback prepared too", uid=NOBODY)
    m.ctl("commit prepared third")  # root may
    equal(os.stat(m("of-third")).st_uid, NOBODY)
    check(not exists(m("of-too")), "rolled back")
    m.ctl("rollback prepared roots")


@quick
@needs_root
def test_full_disk_after_prepare(t):
    """What prepare has promised fits: the disk runs full behind the mount's back, before and after a crash."""
    point, src = small_disk(t, 48)
    m = t.mount(src=src, options=f"{SMALL},{AT_ONCE}")
    write(m("f"), "before")
    block = os.urandom(1 << 20)
    for i, crash in enumerate((False, True)):
        n = m.named("n")
        write(n("f"), f"changed {i}")
        for k in range(4):
            write(n(f"d{i}-{k}"), block)
        n.ctl("prepare g")
        if crash:
            m.crash()
        filler = os.path.join(point, "filler")
        fd = os.open(filler, os.O_CREAT | os.O_WRONLY)
        for size in (1 << 20, 4096):
            try:
                while True:
                    os.write(fd, b"x" * size)
            except OSError as e:
                equal(e.errno, errno.ENOSPC)
        os.fsync(fd)
        os.close(fd)
        m.ctl("commit prepared g")
        equal(read(m("f")), f"changed {i}".encode())
        for k in range(4):
            check(read(m(f"d{i}-{k}")) == block, f"d{i}-{k} is whole")
        os.unlink(filler)
        m.remount()
        for k in range(4):
            check(read(m(f"d{i}-{k}")) == block, f"d{i}-{k} is whole after a remount")
            os.unlink(m(f"d{i}-{k}"))
        m.remount()


def test_a_long_doubt_does_not_keep_the_log(t):
    """Its records are carried forward, over remounts too."""
    m = t.mount(options=f"{SMALL},{AT_ONCE}")
    write(m("account_a"), "100")
    write(m("account_b"), "200")
    transfer(m, "g")
    block = os.urandom(256 << 10)
    for life in range(3):
        for i in range(60):
            n = m.named(f"n{i}")
            write(n("big"), block)
            n.ctl("commit")

        def log_bytes():
            text = read(m(".txn/status")).decode()
            return int([x for x in text.splitlines() if x.startswith("log_bytes")][0].split()[1])
        wait_until(lambda: log_bytes() < 12 << 20, 20, "a checkpoint that carries it")
        nothing_seen(m)
        locks_held(m)
        (m.crash if life % 2 else m.remount)()
        equal(set(listed(m)), {"g"})
    m.ctl("commit prepared g")
    done(m)


def test_ambient_shell(t):
    """As in the manual, by shell."""
    m = bank(t, AT_ONCE)
    sh('''
        cd "$1"; echo begin > .txn/ctl; echo 70 > account_a; echo 230 > account_b
        echo 'prepare transfer-1' > .txn/ctl
        test "$(cat account_a)" = 100 || exit 5
    ''', m.mnt)
    m.crash()
    sh('''echo 'commit prepared transfer-1' > "$1/.txn/ctl"''', m.mnt)
    equal(read(m("account_a")), b"70\n")
