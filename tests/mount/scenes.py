"""Scenes that several test files use."""
import os
import shutil
import stat
import subprocess

import sysc
from harness import NOBODY, OPT, Failure, Mount, Skip, check, ctl, mounted, read, tool, wait_until, write

SMALL = "segment_mib=1,checkpoint_mib=2,checkpoint_seconds=1"


def bank(t, options=""):
    m = t.mount(options=options)
    write(m("account_a"), "100")
    write(m("account_b"), "200")
    return m


def balances(where):
    return read(os.path.join(where, "account_a")), read(os.path.join(where, "account_b"))


def sh(script, *args, status=0, **kw):
    """bash -c script, with the arguments as $1...; stdout comes back."""
    p = subprocess.run(["bash", "-c", script, "bash", *map(str, args)], stdin=subprocess.DEVNULL, check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)
    check(p.returncode == status, f"exit {p.returncode}, want {status}: {p.stdout}{p.stderr}")
    return p.stdout


def ctl_refused_in(a, codes, m, text):
    line = ""
    try:
        a(ctl, m.mnt, text)
        raise Failure(f"{text!r} was accepted")
    except OSError as e:
        check(e.errno in codes, f"{text!r}:", e)
        line = str(e)
    return line


def refused(*args, words=(), status=1, **kw):
    """A tool must end with this status and a message that has these words; the message is returned."""
    p = tool(*args, status=None, **kw)
    text = p.stdout + p.stderr
    check(p.returncode == status, f"txnfs {args}: exit {p.returncode}, want {status}:", text)
    check(len(p.stderr.strip()) > 10, "a clear message:", text)
    for w in words:
        check(w.lower() in text.lower(), f"the message has {w!r}:", text)
    return text


def own_fuse_device(t):
    """Where /dev/fuse is root's alone: a private mount namespace for this test, with one as Debian's udev makes it."""
    node = t.path("fuse")
    sysc.unshare(sysc.CLONE_NEWNS)
    sysc.mount("none", "/", "none", sysc.MS_REC | sysc.MS_PRIVATE)
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(10, 229))
    os.chmod(node, 0o666)
    sysc.mount(node, "/dev/fuse", "none", sysc.MS_BIND)


def unprivileged_mount(t, name="u"):
    fm = shutil.which("fusermount3")
    if not fm or not os.stat(fm).st_mode & stat.S_ISUID:
        raise Skip("no setuid fusermount3")
    if os.stat("/dev/fuse").st_mode & 0o666 != 0o666:
        own_fuse_device(t)
    m = Mount(t, name)
    for d in (m.src, m.mnt):
        os.chown(d, NOBODY, NOBODY)
    exe = t.path("txnfs")  # the build directory need not be open to everyone
    if not os.path.exists(exe):
        shutil.copy(OPT.txnfs, exe)
        os.chmod(exe, 0o755)
    m.command = lambda: [exe, "mount", "-f", m.src, m.mnt]
    with open(m.log, "ab"):
        pass
    m.spawn(user=NOBODY, group=NOBODY, extra_groups=[])
    wait_until(lambda: m.proc.poll() is not None or mounted(m.mnt), 10, "the mount")
    if m.proc.poll() is not None:
        if "Operation not permitted" in m.log_text() and "fusermount" in m.log_text():
            raise Skip(f"fusermount3 may not mount here: {m.log_text().strip()[-80:]}")
        raise Failure(f"an unprivileged mount ended: {m.log_text()}")
    return m, exe


def small_disk(t, mib, name="disk"):
    """An ext4 of its own."""
    if not shutil.which("mkfs.ext4"):
        raise Skip("no mkfs.ext4")
    img, point = t.path(name + ".img"), t.path(name)
    with open(img, "wb") as f:
        f.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", img], check=True)
    os.mkdir(point)
    r = subprocess.run(["mount", "-o", "loop", img, point], check=False, stderr=subprocess.PIPE, text=True)
    if r.returncode:
        raise Skip(f"no loop mount: {r.stderr.strip()}")
    t.cleanups.append(lambda: subprocess.run(["umount", "-l", point], check=False))
    os.rmdir(os.path.join(point, "lost+found"))
    src = os.path.join(point, "src")
    os.mkdir(src)
    return point, src
