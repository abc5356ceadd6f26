"""Mounting, its refusals, and mounts of an ordinary user."""
import errno
import os
import signal
import subprocess
import time

from harness import (NOBODY, OPT, Mount, check, ctl, equal, exists, expect, ls, mounted, needs_root, patience, quick,
                     read, same_tree, snapshot, tool, wait_until, write)
from scenes import refused, unprivileged_mount


# ---- mounting ----

@quick
def test_mount_in_the_background(t):
    """`txnfs mount` returns when the mount is ready; `txnfs umount` when everything is at home."""
    m = Mount(t)
    began = time.monotonic()
    tool("mount", m.src, m.mnt)
    check(mounted(m.mnt), "mounted when the command returns")
    n = m.named()
    write(n("f"), "x")
    n.ctl("commit")
    tool("umount", m.mnt)
    check(not mounted(m.mnt))
    equal(ls(m.src), [".txnfs", "f"])
    tool("mount", m.src, m.mnt, "-o", "noatime,control=.tx")
    check(os.path.isdir(m(".tx")) and not exists(m(".txn")))
    tool("umount", m.mnt)
    refused("umount", m.mnt, words=["not"])
    t.note(f"{time.monotonic() - began:.2f} s for two")


@quick
def test_second_mount_is_refused(t):
    m = t.mount()
    os.mkdir(t.path("other"))
    text = refused("mount", "-f", m.src, t.path("other"), words=["in use"])
    check(m.src in text, text)
    refused("recover", m.src, words=["in use"])
    check(not mounted(t.path("other")))
    write(m("f"), "goes on")
    m.umount()
    Mount(t, "second", src=m.src).start()


@quick
def test_mount_point_refusals(t):
    m = t.mount()
    src = t.path("src")
    os.mkdir(src)
    refused("mount", src, t.path("missing"), words=["mount point"])
    write(t.path("file"), "x")
    refused("mount", src, t.path("file"), words=["directory"])
    os.mkdir(t.path("full"))
    write(t.path("full/x"), "x")
    refused("mount", src, t.path("full"), words=["empty"])
    refused("mount", src, m.mnt, words=["mounted"])
    refused("mount", t.path("nowhere"), t.path("full"), words=["does not exist"])
    refused("mount", t.path("file"), t.path("full"), words=["directory"])
    refused("mount", "-o", "nonsense", src, t.path("full"), words=["nonsense"], status=2)
    refused("mount", src, status=2)
    check(not exists(t.path("src/.txnfs")), "a refused mount leaves nothing")


@quick
def test_source_with_its_own_txn_is_refused(t):
    m = Mount(t)
    os.mkdir(m.home(".txn"))
    write(m.home(".txn/mine"), "x")
    refused("mount", "-f", m.src, m.mnt, words=[".txn", "control="])
    m.options = "control=.tx"
    m.start()
    equal(read(m(".txn/mine")), b"x")
    equal(ls(m.mnt), [".txn"])
    os.mkdir(m(".tx/n"))
    write(m(".tx/n/root/f"), "f")
    ctl(m.mnt, "commit", "n", control=".tx")
    equal(read(m("f")), b"f")


@needs_root
def test_mount_helper(t):
    """As mount(8) calls it: mount.fuse.txnfs SRC MNT -o OPTIONS."""
    m = Mount(t)
    helper = t.path("mount.fuse.txnfs")
    os.symlink(OPT.txnfs, helper)
    r = subprocess.run([helper, m.src, m.mnt, "-o", "rw,noatime,_netdev,nofail"], stdin=subprocess.DEVNULL, check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    check(r.returncode == 0 and mounted(m.mnt), r.stdout)
    write(m("f"), "x")
    tool("umount", m.mnt)
    r = subprocess.run([helper, m.src, t.path("missing")], stdin=subprocess.DEVNULL, check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    check(r.returncode == 32, "mount(8)'s exit status for a failure:", r.returncode, r.stdout)


def test_read_only_mount(t):
    m = t.mount()
    write(m("f"), "x")
    m.umount()
    m.options = "ro"
    m.start()
    equal(read(m("f")), b"x")
    expect(errno.EROFS, write, m("f"), "y")
    expect(errno.EROFS, os.mkdir, m("d"))


@quick
def test_umount_while_busy(t):
    m = Mount(t)
    tool("mount", m.src, m.mnt)
    write(m("f"), "x")
    fd = os.open(m("f"), os.O_RDWR)
    refused("umount", m.mnt, words=["use"])
    check(mounted(m.mnt))
    os.write(fd, b"still works")
    os.close(fd)
    tool("umount", m.mnt)


@needs_root
def test_fuse_device_absent(t):
    m = Mount(t)
    script = f"mount -t tmpfs none /dev && exec {OPT.txnfs} mount -f {m.src} {m.mnt}"
    r = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c", script], check=False,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=patience(20))
    check(r.returncode != 0 and "/dev/fuse" in r.stdout, r.stdout)
    check(not mounted(m.mnt))


# ---- an ordinary user ----

@quick
@needs_root
def test_unprivileged_mount(t):
    m, exe = unprivileged_mount(t)
    a = t.actor(uid=NOBODY)
    a(os.stat, m.mnt)
    a(write, m("f"), "f")
    a(os.mkdir, m("d"))
    a(write, m("d/secret"), "s", 0o600)
    a(os.chmod, m("d"), 0o555)
    a(ctl, m.mnt, "begin")
    a(write, m("f"), "changed")
    a(os.rename, m("f"), m("g"))
    a(os.setxattr, m("g"), "user.x", b"1")
    a(ctl, m.mnt, "commit")
    a(os.mkdir, m(".txn/n"))
    a(write, m(".txn/n/root/g"), "by name")
    a(os.chmod, m(".txn/n/root/d"), 0o755)
    a(write, m(".txn/n/root/d/more"), "x")
    a(os.chmod, m(".txn/n/root/d"), 0o555)
    a(ctl, m.mnt, "commit", "n")
    equal(a(read, m("g")), b"by name")
    want = a(snapshot, m.mnt)

    def run(exe, mnt):
        script = 'cd "$1" && echo run > r && cat g && id -u'
        return subprocess.run([exe, "run", mnt, "--", "sh", "-c", script, "sh", mnt], check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    out = a(run, exe, m.mnt)
    equal(out, b"by name%d\n" % NOBODY)
    equal(a(read, m("r")), b"run\n")
    a(os.unlink, m("r"))
    a.end()
    m.proc.send_signal(signal.SIGTERM)
    m.ended()
    same_tree(snapshot(m.src), want, "the backing directory")
    equal(os.stat(m.home("g")).st_uid, NOBODY)


@needs_root
def test_unprivileged_mount_recovers(t):
    m, exe = unprivileged_mount(t)
    a = t.actor(uid=NOBODY)
    a(os.makedirs, m("d/e"))
    a(ctl, m.mnt, "begin")
    a(write, m("d/e/f"), "committed")
    a(os.rename, m("d"), m("moved"))
    a(os.chmod, m("moved/e"), 0o500)
    want = a(snapshot, m.mnt)
    a(ctl, m.mnt, "commit")
    a.end()
    m.kill9()
    m.spawn(user=NOBODY, group=NOBODY, extra_groups=[])
    wait_until(lambda: m.proc.poll() is not None or mounted(m.mnt), 10, "the mount")
    a = t.actor(uid=NOBODY)
    same_tree(a(snapshot, m.mnt), want, "after recovery")
    a.end()
    m.proc.send_signal(signal.SIGTERM)
    m.ended()
    same_tree(snapshot(m.src), want, "the backing directory")
