"""Few descriptors: what the daemon holds must not grow with the number of files that it knows, or knew."""
import errno
import os
import resource

import sysc
from harness import (Mount, check, ctl, deadline, equal, expect, needs_root, quick, read, same_tree, snapshot, wait_until,
                     write)

LIMIT = 256
FILES = 700


def start_few(m):
    """The daemon has LIMIT descriptors and no right to more."""
    def limit():
        sysc.prctl(24, 24)  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE: the limit cannot be raised again
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    m.start(preexec_fn=limit)
    equal(resource.prlimit(m.proc.pid, resource.RLIMIT_NOFILE)[1], LIMIT, "the daemon's limit")
    return m


def few(t, **kw):
    return start_few(Mount(t, **kw))


def descriptors(m):
    found = []
    for fd in os.listdir(f"/proc/{m.proc.pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{m.proc.pid}/fd/{fd}"))
        except FileNotFoundError:
            pass  # closed meanwhile
    return found


def deleted(m):
    return sum(path.endswith(" (deleted)") for path in descriptors(m))


def none_left(m):
    """Nothing that was removed keeps its descriptor, though no checkpoint has come."""
    wait_until(lambda: deleted(m) <= 8, 20, f"the end of the removed files' descriptors: {deleted(m)} are left")


def fill(root, n=FILES, dirs=10):
    for d in range(dirs):
        os.mkdir(f"{root}/d{d}")
    for i in range(n):
        write(f"{root}/d{i % dirs}/f{i}", f"{i}")


def empty(root):
    for at, dirs, files in os.walk(root, topdown=False):
        for name in files:
            os.unlink(f"{at}/{name}")
        if at != root:
            os.rmdir(at)


@quick
@needs_root
@deadline(120)
def test_removed_after_commit(t):
    """Files that a transaction made and plain programs remove: the log still names them."""
    m = few(t, options="checkpoint_seconds=3600")
    for turn in range(2):
        os.mkdir(m("top"))
        ctl(m.mnt, "begin")
        fill(m("top"))
        ctl(m.mnt, "commit")
        equal(len(os.listdir(m("top/d0"))), FILES // 10)
        empty(m("top"))
        os.rmdir(m("top"))
        equal(os.listdir(m.mnt), [])
        none_left(m)
    m.umount()


@needs_root
@deadline(120)
def test_rollback_and_removal_inside(t):
    """New files that are taken back, by rollback, by a savepoint, and by the transaction itself."""
    m = few(t, options="checkpoint_seconds=3600")
    ctl(m.mnt, "begin")
    fill(m.mnt)
    ctl(m.mnt, "rollback")
    equal(os.listdir(m.mnt), [])
    none_left(m)
    fill(m.mnt)
    before = snapshot(m.mnt)
    n = m.named()
    n.ctl("savepoint s")
    for i in range(0, FILES, 2):
        os.unlink(n(f"d{i % 10}/f{i}"))
    os.mkdir(n("new"))
    fill(n("new"))
    n.ctl("rollback to s")
    equal(len(snapshot(n.root)), len(before))
    empty(n.root)
    n.ctl("commit")
    equal(os.listdir(m.mnt), [])
    none_left(m)
    m.umount()
    equal(len(os.listdir(m.home(".txnfs/stage"))), 0)


@needs_root
@deadline(120)
def test_removed_under_a_snapshot(t):
    """A snapshot needs what has been removed since, but not a descriptor for each."""
    m = few(t, options="checkpoint_seconds=3600")
    fill(m.mnt)
    before = snapshot(m.mnt)
    n = m.named()
    n.ctl("isolation snapshot")
    equal(len(os.listdir(n("d1"))), FILES // 10)
    empty(m.mnt)
    equal(os.listdir(m.mnt), [])
    fill(m.mnt, FILES, 1)
    check(len(descriptors(m)) < LIMIT * 3 // 4, descriptors(m))
    after = snapshot(n.root)
    equal([(name, x.get("data")) for name, x in after.items()] if isinstance(after, dict) else len(after),
          [(name, x.get("data")) for name, x in before.items()] if isinstance(before, dict) else len(before))
    n.ctl("rollback")
    none_left(m)
    m.umount()


HELD = []  # of the process that holds them


def hold(names):
    """As many as there are."""
    for name in names:
        try:
            HELD.append(os.open(name, os.O_RDWR))
        except OSError as e:
            equal(e.errno, errno.ENFILE)
            break
    for fd in HELD:
        os.pwrite(fd, b"held", 0)
    return len(HELD)


def let_go():
    for fd in HELD:
        equal(os.pread(fd, 4, 0), b"held")
        check(os.fstat(fd).st_size >= 4)
        os.close(fd)
    HELD.clear()


def refused(path):
    expect(errno.ENFILE, os.open, path, os.O_CREAT | os.O_RDWR)
    return not os.path.exists(path)


@quick
@needs_root
@deadline(120)
def test_many_open_files(t):
    """Clients get as many as there are; what is needed to go on is left, and nobody loses anything."""
    m = few(t, options="checkpoint_seconds=3600")
    fill(m.mnt)
    names = [m(f"d{i % 10}/f{i}") for i in range(FILES)]
    n = m.named()
    for i in range(0, FILES // 2, 7):
        write(n(f"d{i % 10}/new{i}"), f"new {i}")
        os.unlink(n(f"d{(FILES - 1 - i) % 10}/f{FILES - 1 - i}"))
    a = t.actor()
    got = a(hold, names[:FILES // 2])
    check(32 <= got < FILES // 2, got)
    t.note(f"{got} of {LIMIT}")
    check(a(refused, m("d0/made")), "a file was made that could not be opened")
    check("files are open" in m.log_text(), m.log_text())
    # All that needs no open file goes on: names, attributes, listings, commits, and logged plain operations.
    check(len(os.listdir(m("d3"))) >= FILES // 10)
    for name in names[:FILES // 2]:
        os.stat(name)
    os.mkdir(m("dir"))
    n.ctl("commit")
    for i in range(0, FILES // 2, 7):
        os.rename(m(f"d{i % 10}/new{i}"), m(f"d{i % 10}/newer{i}"))
    for i in range(0, FILES // 2, 14):
        os.unlink(m(f"d{i % 10}/newer{i}"))
    for name in names[:got]:
        os.unlink(name)
    a(let_go)
    equal(read(m("d7/newer7")), b"new 7")
    none_left(m)
    os.rmdir(m("dir"))  # not read-only
    m.umount()


@needs_root
@deadline(120)
def test_removed_while_open(t):
    """One descriptor for each file that is open, also when it has no name any more, and only as long."""
    m = few(t, options="checkpoint_seconds=3600")
    ctl(m.mnt, "begin")
    fill(m.mnt, 60)
    ctl(m.mnt, "commit")
    fds = [os.open(m(f"d{i % 10}/f{i}"), os.O_RDWR) for i in range(60)]
    paths = [os.open(m(f"d{i % 10}/f{i}"), os.O_PATH) for i in range(60)]
    for i, fd in enumerate(fds):
        os.pwrite(fd, b"open ", 0)
    empty(m.mnt)
    fill(m.mnt, FILES)  # pressure
    for i, fd in enumerate(fds):
        equal(os.pread(fd, 5, 0), b"open ")
        equal(os.fstat(fd).st_nlink, 0)
        os.fchmod(fd, 0o600)
        os.pwrite(fd, b"more", 0)
        os.close(fd)
    for fd in paths:  # nothing else leads to these
        equal(os.fstat(fd).st_mode & 0o777, 0o600)
        os.close(fd)
    none_left(m)
    m.umount()


@needs_root
@deadline(120)
def test_recovery(t):
    """Thousands of changes to be redone, and removed objects among them, by a daemon with few descriptors."""
    m = few(t, options="checkpoint_seconds=3600")
    ctl(m.mnt, "begin")
    fill(m.mnt)
    ctl(m.mnt, "commit")
    for i in range(0, FILES, 2):
        os.unlink(m(f"d{i % 10}/f{i}"))
    for i in range(0, FILES, 4):
        write(m(f"d{i % 10}/f{i}"), f"again {i}")  # may have a removed one's inode
    for i in range(FILES):
        write(m(f"plain{i}"), f"plain {i}")
    n = m.named("lost")
    os.mkdir(n("top"))
    fill(n("top"), 300)
    want = snapshot(m.mnt)
    m.kill9()
    start_few(m)
    same_tree(snapshot(m.mnt), want, "after recovery")
    equal(os.listdir(m.home(".txnfs/stage")), [])
    m.umount()
    same_tree(snapshot(m.src), want, "in the backing directory")
