"""As on the host: names, renames, links, special files. See cases.py."""
import os
import socket
import stat

import sysc
from cases import case, tree
from harness import append, exists, read, snapshot, write


# ---- names ----

@case(tree, in_quick=True)
def case_rename_dirs(p):
    for old, new in (("a", "a/b/c/d"), ("a", "a/x"), ("a", "a"), ("a", "full"), ("full", "empty"), ("f", "empty"),
                     ("a/b", "f"), ("empty2", "a/f"), ("none", "x"), ("a", "none/x"), ("f", "g"), ("g", "a/moved"),
                     ("a/b", "moved"), ("moved/c", "a/c2"), ("ln", "ln2"), ("a", "z"), ("z/moved", "z"), ("z", "f/x"),
                     (".", "q"), ("empty", "z/.."), ("z", "z/")):
        p.do(os.rename, p(old), p(new))
    p.do(lambda: sorted(snapshot(p.root)))


@case(tree, in_quick=True)
def case_rename_flags(p):
    for old, new, flags in (("f", "g", sysc.RENAME_NOREPLACE), ("f", "f2", sysc.RENAME_NOREPLACE),
                            ("f2", "g", sysc.RENAME_EXCHANGE), ("a", "full", sysc.RENAME_EXCHANGE),
                            ("g", "a", sysc.RENAME_EXCHANGE), ("g", "none", sysc.RENAME_EXCHANGE),
                            ("none", "g", sysc.RENAME_EXCHANGE), ("full", "full/b", sysc.RENAME_EXCHANGE),
                            ("full/b", "full", sysc.RENAME_EXCHANGE), ("a", "a", sysc.RENAME_EXCHANGE),
                            ("empty", "empty2", sysc.RENAME_NOREPLACE), ("ln", "empty2", sysc.RENAME_EXCHANGE),
                            ("f2", "h", sysc.RENAME_NOREPLACE | sysc.RENAME_EXCHANGE), ("f2", "full/f2", 0),
                            ("full/b/f", "g", sysc.RENAME_EXCHANGE), ("f2", "a", 1 << 5)):
        p.do(sysc.renameat2, p(old), p(new), flags)
    p.do(lambda: {k: v.get("data") for k, v in sorted(snapshot(p.root).items())} and None)
    for x in sorted(snapshot(p.root)):
        p.stat(p(x))


@case(tree)
def case_rename_chains(p):
    """Names that change hands several times within one transaction."""
    p.do(os.rename, p("f"), p("t"))
    p.do(os.rename, p("g"), p("f"))
    p.do(os.rename, p("t"), p("g"))
    p.do(os.rename, p("a/b"), p("b"))
    p.do(os.rename, p("a"), p("b/a"))
    p.do(os.mkdir, p("a"))
    p.do(os.rename, p("b/c"), p("a/c"))
    p.do(os.rename, p("b"), p("a/c/b"))
    p.do(write, p("a/c/b/a/f"), "deep")
    p.do(os.rename, p("empty"), p("full/empty"))
    p.do(os.rename, p("full"), p("empty"))
    p.do(os.rename, p("empty/x"), p("x"))
    p.do(os.rename, p("x"), p("x2"))
    p.do(os.unlink, p("x2"))
    p.do(os.mkdir, p("x2"))
    p.do(os.rmdir, p("x2"))
    p.do(write, p("x2"), "again")
    for x in sorted(snapshot(p.root)):
        p.stat(p(x))


@case(tree, in_quick=True)
def case_unlink_rmdir_mkdir(p):
    for op, name in ((os.unlink, "a"), (os.rmdir, "a"), (os.rmdir, "f"), (os.unlink, "none"), (os.rmdir, "none"),
                     (os.mkdir, "a"), (os.mkdir, "f"), (os.mkdir, "none/x"), (os.mkdir, "f/x"), (os.rmdir, "empty"),
                     (os.mkdir, "empty"), (os.rmdir, "empty/."), (os.rmdir, "a/.."), (os.unlink, "ln"),
                     (os.unlink, "full/x"), (os.rmdir, "full"), (os.unlink, "a/b/f"), (os.rmdir, "a/b/c"),
                     (os.rmdir, "a/b"), (os.unlink, "a/f"), (os.rmdir, "a"), (os.mkdir, "a"), (os.mkdir, "a/b"),
                     (os.unlink, "f/"), (os.rmdir, "")):
        p.do(op, p(name) if name else "")
    for x in ("", "a", "a/b", "empty"):
        p.stat(p(x))


@case(tree)
def case_removed_directory_in_use(p):
    fd = os.open(p("empty"), os.O_RDONLY | os.O_DIRECTORY)
    p.do(os.rmdir, p("empty"))
    p.do(lambda: os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)))
    p.do(lambda: os.mkdir("x", dir_fd=fd))
    p.do(lambda: os.listdir(fd))
    os.close(fd)


@case(tree)
def case_working_directory(p):
    """A member works in a directory that it renames."""
    back = os.getcwd()
    try:
        os.chdir(p("a/b"))
        p.do(os.rename, p("a"), p("moved"))
        p.do(read, "f")
        p.do(write, "new", "x")
        p.do(os.rename, "c", "../c")
        p.do(lambda: sorted(os.listdir("..")))
    finally:
        os.chdir(back)


def links(d):
    write(d + "/f", "one")
    os.link(d + "/f", d + "/f2")
    os.mkdir(d + "/d")
    os.link(d + "/f", d + "/d/f3")
    write(d + "/single", "s")
    os.symlink("f", d + "/ln")


@case(links, in_quick=True)
def case_hard_links(p):
    p.do(os.link, p("f"), p("f4"))
    p.do(append, p("f2"), "two")
    for x in ("f", "f2", "d/f3", "f4"):
        p.do(read, p(x))
        p.stat(p(x))
    p.do(os.unlink, p("f"))
    p.do(write, p("d/f3"), "rewritten")
    p.do(read, p("f2"))
    p.do(os.chmod, p("f4"), 0o600)
    p.do(os.rename, p("f2"), p("f4"))  # the same file: nothing happens
    p.stat(p("f2"))
    p.do(os.link, p("single"), p("d/single"))
    p.do(os.unlink, p("single"))
    p.do(append, p("d/single"), "more")
    p.stat(p("d/single"))
    p.do(os.link, p("d"), p("d2"))
    p.do(os.link, p("none"), p("n2"))
    p.do(os.link, p("f2"), p("f4"))
    p.do(os.link, p("f2"), p("none/x"))
    p.do(os.link, p("ln"), p("ln2"), follow_symlinks=False)
    p.do(lambda: os.readlink(p("ln2")))
    p.do(write, p("new"), "n")
    p.do(os.link, p("new"), p("new2"))
    p.do(append, p("new"), "m")
    p.do(read, p("new2"))
    p.do(os.unlink, p("new"))
    p.stat(p("new2"))


@case(links)
def case_hard_links_through_descriptors(p):
    a, b = p.open(p("f"), os.O_RDWR), p.open(p("d/f3"), os.O_RDWR)
    p.do(os.pwrite, a, b"AAAA", 0)
    p.do(lambda: os.pread(b, 10, 0))
    p.do(os.pwrite, b, b"BB", 1)
    p.do(lambda: os.pread(a, 10, 0))
    p.do(lambda: os.fstat(a).st_ino == os.stat(p("f2")).st_ino)
    p.do(os.ftruncate, a, 3)
    p.do(lambda: os.stat(p("d/f3")).st_size)
    os.close(a)
    os.close(b)


@case(links, in_quick=True)
def case_symlinks(p):
    p.do(os.symlink, "f", p("to_f"))
    p.do(read, p("to_f"))
    p.do(os.symlink, "x" * 4000, p("long"))
    p.do(os.symlink, "x" * 4095, p("longest"))
    p.do(os.symlink, "x" * 4096, p("too_long"))
    p.do(os.symlink, "", p("void"))
    p.do(os.symlink, "nowhere", p("dangling"))
    p.do(read, p("dangling"))
    p.do(write, p("dangling"), "created through it")
    p.do(os.symlink, "x", p("f"))
    p.do(lambda: os.readlink(p("long")))
    p.do(lambda: os.readlink(p("f")))
    p.do(os.symlink, "d", p("to_d"))
    p.do(lambda: sorted(os.listdir(p("to_d"))))
    p.do(os.rename, p("to_d"), p("to_d2"))
    p.do(append, p("ln"), "through ln")
    p.do(os.unlink, p("to_f"))
    p.do(os.symlink, "../d/f3", p("d/up"))
    p.do(read, p("d/up"))
    p.do(os.chmod, p("ln"), 0o600)
    p.do(sysc.utimensat, p("ln"), (1000, 5), (2000, 7), sysc.AT_SYMLINK_NOFOLLOW)
    p.do(lambda: os.lstat(p("ln")).st_mtime_ns)
    if os.geteuid() == 0:
        p.do(os.lchown, p("ln"), 5, 6)
    p.stat(p("ln"))
    p.stat(p("longest"))


@case(links)
def case_mknod(p):
    p.do(os.mkfifo, p("fifo"), 0o640)
    p.do(os.mkfifo, p("fifo"))
    p.do(os.mknod, p("reg"), stat.S_IFREG | 0o600)
    p.do(os.mknod, p("sock"), stat.S_IFSOCK | 0o755)
    if os.geteuid() == 0:
        p.do(os.mknod, p("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        p.do(os.mknod, p("blk"), stat.S_IFBLK | 0o600, os.makedev(7, 200))
    for x in ("fifo", "reg", "sock", "null", "blk"):
        if exists(p(x)):
            p.stat(p(x))
    r = os.open(p("fifo"), os.O_RDONLY | os.O_NONBLOCK)
    w = os.open(p("fifo"), os.O_WRONLY)
    p.do(lambda: os.write(w, b"through the fifo"))
    p.do(lambda: os.read(r, 100))
    os.close(r)
    os.close(w)
    back = os.getcwd()
    os.chdir(p.root)
    s, c = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    try:
        p.do(lambda: s.bind("s"))
        p.do(lambda: s.listen(1))
        p.do(lambda: c.connect("s"))
    finally:
        s.close()
        c.close()
        os.chdir(back)
    p.do(os.rename, p("fifo"), p("fifo2"))
    p.do(os.unlink, p("sock"))
