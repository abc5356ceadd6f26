"""As on the host: modes, owners, times, extended attributes, ACLs. See cases.py."""
import errno
import os
import stat
import subprocess

import sysc
from cases import case, files, tree
from harness import NOBODY, Failure, append, check, exists, read, write


# ---- attributes ----

@case(tree, in_quick=True)
def case_chmod(p):
    for name, mode in (("f", 0o600), ("f", 0o4755), ("g", 0o2755), ("a", 0o1777), ("a/b", 0o2750), ("none", 0o600),
                       ("ln", 0o711)):
        p.do(os.chmod, p(name), mode)
        if exists(p(name)):
            p.stat(p(name))
    fd = p.open(p("a/f"), os.O_RDWR)
    p.do(os.fchmod, fd, 0o640)
    p.do(lambda: stat.filemode(os.fstat(fd).st_mode))
    os.close(fd)
    p.stat(p("a"))


@case(tree)
def case_chown(p):
    if os.geteuid():
        return
    os.chmod(p("f"), 0o6755)
    for name, u, g in (("f", 10, 20), ("g", -1, 30), ("a", 40, -1), ("a/b/f", 1, 1), ("none", 1, 1), ("g", -1, -1),
                       ("ln", 7, 7)):
        p.do(os.chown, p(name), u, g)
        if exists(p(name)):
            p.stat(p(name))
    p.stat(p("a"))
    p.do(os.mkdir, p("d"))
    p.do(os.chown, p("d"), 12, 13)
    p.do(write, p("d/x"), "x")
    p.do(os.chown, p("d/x"), 14, 15)
    p.stat(p("d/x"))


def for_nobody(d):
    write(d + "/mine", "m")
    write(d + "/theirs", "t")
    write(d + "/suid", "s" * 100)
    write(d + "/sgid", "s" * 100)
    write(d + "/secret", "s")
    os.mkdir(d + "/locked")
    write(d + "/locked/in", "x")
    os.mkdir(d + "/sticky")
    write(d + "/sticky/theirs", "x")
    write(d + "/sticky/mine", "x")
    os.mkdir(d + "/readonly")
    write(d + "/readonly/f", "x")
    if os.geteuid() == 0:
        for x in ("mine", "suid", "sgid", "sticky/mine"):
            os.chown(f"{d}/{x}", NOBODY, NOBODY)
    for x, mode in (("suid", 0o4777), ("sgid", 0o2777), ("secret", 0o600), ("locked", 0o700), ("sticky", 0o1777),
                    ("theirs", 0o644), ("readonly", 0o755)):
        os.chmod(f"{d}/{x}", mode)


@case(for_nobody, uid=NOBODY, in_quick=True)
def case_access_of_another_user(p):
    p.do(read, p("theirs"))
    p.do(write, p("theirs"), "x")
    p.do(read, p("secret"))
    p.do(os.listdir, p("locked"))
    p.do(read, p("locked/in"))
    p.do(os.unlink, p("locked/in"))
    p.do(write, p("readonly/new"), "x")
    p.do(os.unlink, p("readonly/f"))
    p.do(os.rename, p("readonly/f"), p("stolen"))
    p.do(os.unlink, p("sticky/theirs"))
    p.do(os.rename, p("sticky/theirs"), p("sticky/t2"))
    p.do(os.rename, p("sticky/mine"), p("sticky/m2"))
    p.do(os.unlink, p("sticky/m2"))
    p.do(os.chmod, p("theirs"), 0o777)
    p.do(os.chmod, p("mine"), 0o600)
    p.do(os.chown, p("mine"), 0, 0)
    p.do(os.chown, p("mine"), -1, NOBODY)
    p.do(os.utime, p("theirs"), (1, 1))
    p.do(os.utime, p("mine"), (1000, 1000))
    p.do(os.setxattr, p("theirs"), "user.x", b"1")
    p.do(os.setxattr, p("mine"), "user.x", b"1")
    p.do(os.setxattr, p("mine"), "trusted.x", b"1")
    p.do(os.mknod, p("dev"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    p.do(write, p("new"), "made by nobody")
    p.do(os.mkdir, p("newdir"))
    p.do(os.link, p("secret"), p("secret2"))
    for x in ("mine", "new", "newdir"):
        p.stat(p(x))
    for x in ("theirs", "secret", "locked", "mine", "readonly"):
        p.do(lambda x=x: [os.access(p(x), mode) for mode in (os.R_OK, os.W_OK, os.X_OK)])


@case(for_nobody, uid=NOBODY, in_quick=True)
def case_writing_clears_suid(p):
    for x in ("suid", "sgid"):
        p.stat(p(x))
        fd = p.open(p(x), os.O_WRONLY)
        p.do(os.pwrite, fd, b"x", 0)
        os.close(fd)
        p.stat(p(x))


@case(for_nobody, uid=NOBODY)
def case_truncating_clears_suid(p):
    p.do(os.truncate, p("suid"), 5)
    p.stat(p("suid"))
    os.close(os.open(p("sgid"), os.O_WRONLY | os.O_TRUNC))
    p.stat(p("sgid"))


@case(for_nobody, uid=NOBODY)
def case_fallocate_clears_suid(p):
    for x in ("suid", "sgid"):
        fd = p.open(p(x), os.O_RDWR)
        p.do(sysc.fallocate, fd, 0, 0, 5000)
        os.close(fd)
        p.stat(p(x))


@case(for_nobody)
def case_writing_as_root_keeps_suid(p):
    append(p("suid"), "x")
    p.stat(p("suid"))
    os.chown(p("sgid"), 3, 3)
    p.stat(p("sgid"))


@case(tree, in_quick=True)
def case_utimensat(p):
    def times(name):
        st = os.stat(p(name))
        return st.st_atime_ns, st.st_mtime_ns
    p.do(sysc.utimensat, p("f"), (1000, 123456789), (2000, 987654321))
    p.do(times, "f")
    p.do(sysc.utimensat, p("f"), (0, sysc.UTIME_OMIT), (3000, 1))
    p.do(times, "f")
    p.do(sysc.utimensat, p("f"), (4000, 5), (0, sysc.UTIME_OMIT))
    p.do(times, "f")
    p.do(sysc.utimensat, p("a"), (5000, 1), (6000, 2))
    p.do(times, "a")
    p.do(sysc.utimensat, p("g"), (7000, 1), (0, sysc.UTIME_NOW))
    p.note(os.stat(p("g")).st_mtime > 1_600_000_000)
    p.do(sysc.utimensat, p("a/f"), (-5, 0), (-1000, 0))
    p.do(times, "a/f")
    p.do(sysc.utimensat, p("none"), (1, 0), (1, 0))
    p.do(sysc.utimensat, p("full/x"), (1, 0), ((1 << 33) + 5, 9))
    p.do(times, "full/x")
    fd = p.open(p("a/b/f"), os.O_RDWR)
    p.do(os.utime, fd, ns=(11, 22))
    p.do(lambda: os.fstat(fd).st_mtime_ns)
    os.close(fd)
    p.do(times, "a/b/f")
    p.do(os.utime, p("full"), ns=(33, 44))


@case(tree)
def case_times_move_with_changes(p):
    def old(name):
        os.utime(p(name), (1000, 1000))

    def fresh(name):
        return os.stat(p(name)).st_mtime > 1_600_000_000
    for x in ("f", "g", "a", "full", "empty"):
        old(x)
    os.rename(p("g"), p("full/g"))
    p.note([fresh(x) for x in ("f", "full/g", "a", "full", "empty")])
    append(p("f"), "x")
    os.chmod(p("a"), 0o700)
    write(p("empty/new"), "")
    p.note([fresh(x) for x in ("f", "full/g", "a", "full", "empty")])
    old("empty")
    os.unlink(p("empty/new"))
    old("full")
    os.truncate(p("full/g"), 0)
    p.note([fresh(x) for x in ("f", "full/g", "a", "full", "empty")])


@case(tree, in_quick=True)
def case_xattrs(p):
    for name in ("f", "a"):
        p.do(os.setxattr, p(name), "user.one", b"1")
        p.do(os.setxattr, p(name), "user.one", b"x", os.XATTR_CREATE)
        p.do(os.setxattr, p(name), "user.two", b"x", os.XATTR_REPLACE)
        p.do(os.setxattr, p(name), "user.two", b"", os.XATTR_CREATE)
        p.do(os.setxattr, p(name), "user.one", b"\0\xff" * 100, os.XATTR_REPLACE)
        p.do(os.getxattr, p(name), "user.one")
        p.do(os.getxattr, p(name), "user.two")
        p.do(os.getxattr, p(name), "user.none")
        p.do(lambda name=name: sorted(os.listxattr(p(name))))
        p.do(os.removexattr, p(name), "user.none")
        p.do(os.removexattr, p(name), "user.one")
        p.do(lambda name=name: sorted(os.listxattr(p(name))))
        p.do(os.setxattr, p(name), "user." + "n" * 250, b"v")
        p.do(os.setxattr, p(name), "user." + "n" * 251, b"v")
        p.do(os.setxattr, p(name), "unknown.space", b"v")
    p.do(os.setxattr, p("g"), "user.big", b"B" * 3000)
    p.do(lambda: len(os.getxattr(p("g"), "user.big")))
    p.do(os.setxattr, p("ln"), "user.x", b"1", follow_symlinks=False)
    p.do(os.removexattr, p("g"), "user.big")
    if os.geteuid() == 0:
        p.do(os.setxattr, p("f"), "trusted.t", b"root's")
        p.do(os.getxattr, p("f"), "trusted.t")
    fd = p.open(p("f"), os.O_RDWR)
    p.do(os.setxattr, fd, "user.fd", b"fd")
    p.do(os.getxattr, fd, "user.fd")
    os.close(fd)
    p.do(write, p("new"), "x")
    p.do(os.setxattr, p("new"), "user.n", b"n")
    p.do(os.rename, p("new"), p("new2"))
    p.do(os.getxattr, p("new2"), "user.n")
    p.do(os.setxattr, p("none"), "user.n", b"n")


@case(tree)
def case_xattr_too_big(p):
    """As the filesystem below says: the errno may differ from the host's only in naming the limit."""
    try:
        os.setxattr(p("f"), "user.big", b"x" * 65537)
        raise Failure("65537 bytes accepted")
    except OSError as e:
        check(e.errno in (errno.E2BIG, errno.ENOSPC, errno.ERANGE), e)


def run(*cmd):
    return subprocess.run(cmd, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


@case(tree)
def case_acls(p):
    if not run("which", "setfacl"):
        return

    def show(name):
        return run("getfacl", "-n", "-c", "--absolute-names", p(name))
    p.note(run("setfacl", "-m", "u:1234:rw,g:77:r", p("f")), show("f"))
    p.stat(p("f"))
    p.note(run("setfacl", "-d", "-m", "u:1234:rwx,g::rx,o::-", p("a")), show("a"))
    write(p("a/new"), "x")
    os.mkdir(p("a/newdir"))
    write(p("a/newdir/new"), "x")
    os.mkfifo(p("a/fifo"))
    for x in ("a/new", "a/newdir", "a/newdir/new", "a/fifo"):
        p.note(show(x))
        p.stat(p(x))
    os.chmod(p("f"), 0o640)
    p.note(show("f"))
    p.note(run("setfacl", "-b", p("f")), show("f"))
    p.note(run("setfacl", "-k", p("a")), show("a"))
    p.stat(p("f"))


def acl_for_nobody(d):
    write(d + "/f", "secret")
    os.chmod(d + "/f", 0o600)
    run("setfacl", "-m", f"u:{NOBODY}:r", d + "/f")
    write(d + "/g", "open")
    os.chmod(d + "/g", 0o644)
    run("setfacl", "-m", f"u:{NOBODY}:-", d + "/g")


@case(acl_for_nobody, uid=NOBODY)
def case_acls_are_obeyed(p):
    p.do(read, p("f"))
    p.do(append, p("f"), "x")
    p.do(read, p("g"))


def setgid_tree(d):
    os.mkdir(d + "/sg")
    if os.geteuid() == 0:
        os.chown(d + "/sg", 0, 4321)
    os.chmod(d + "/sg", 0o2777)


@case(setgid_tree, uid=NOBODY, in_quick=True)
def case_setgid_directories(p):
    write(p("sg/f"), "x")
    os.mkdir(p("sg/d"))
    os.mkdir(p("sg/d/e"))
    os.symlink("x", p("sg/ln"))
    os.mkfifo(p("sg/fifo"))
    for x in ("sg/f", "sg/d", "sg/d/e", "sg/ln", "sg/fifo"):
        p.stat(p(x))
    p.do(os.chmod, p("sg/f"), 0o2755)
    p.stat(p("sg/f"))


@case(tree)
def case_umask(p):
    for mask in (0, 0o077, 0o777, 0o027):
        old = os.umask(mask)
        try:
            write(p(f"f{mask}"), "x", 0o666)
            os.mkdir(p(f"d{mask}"), 0o777)
            os.mkfifo(p(f"p{mask}"), 0o666)
        finally:
            os.umask(old)
        for x in "fdp":
            p.stat(p(f"{x}{mask}"))


@case(tree)
def case_statfs(p):
    sv = os.statvfs(p("f"))
    check(sv.f_bsize > 0 and sv.f_blocks > 0 and sv.f_bavail <= sv.f_blocks and sv.f_namemax == 255, sv)
    p.note(sv.f_namemax, sv.f_frsize)


@case(files, in_quick=True)
def case_fsync(p):
    fd = p.open(p("f"), os.O_RDWR)
    p.do(os.pwrite, fd, b"x", 3)
    p.do(lambda: os.fsync(fd))
    p.do(lambda: os.fdatasync(fd))
    os.close(fd)
    fd = p.open(p("new"), os.O_RDWR | os.O_CREAT | os.O_SYNC)
    p.do(lambda: os.write(fd, b"synchronous"))
    os.close(fd)
    fd = os.open(p.root, os.O_RDONLY | os.O_DIRECTORY)
    p.do(lambda: os.fsync(fd))
    os.close(fd)
