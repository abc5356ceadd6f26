"""Isolation levels over real mounts: serializable and snapshot, with the kernel's caches warm."""
import errno
import os
import subprocess

from harness import OPT, append, check, ctl, ctl_refused, equal, exists, ls, quick, read, same_tree, snapshot, tool, write


def text_of(path):
    return read(path).decode()


def holds(path, want):
    equal(text_of(path), want, path)


def level(m, name, text):
    n = m.named(name)
    n.ctl("isolation " + text)
    check(f"isolation: {text}\n" in n.status(), "status")
    return n


def last_line(m):
    return text_of(m(".txn/ctl"))


def refused(code, fn, *args):
    try:
        fn(*args)
    except OSError as e:
        equal(e.errno, code, f"{fn.__name__}{args}")
        return
    check(False, f"{fn.__name__}{args} succeeded")


def tree(m):
    os.mkdir(m("d"))
    os.mkdir(m("e"))
    write(m("x"), "x0")
    write(m("y"), "y0")
    write(m("d/f"), "f0")
    os.setxattr(m("x"), "user.a", b"a0")


READS = [  # how it is read, how it is changed, what the message names
    ("contents", lambda r: read(r + "/x"), lambda r: write(r + "/x", "x1"), "x"),
    ("size", lambda r: os.stat(r + "/x").st_size, lambda r: append(r + "/x", "more"), "x"),
    ("mode", lambda r: os.stat(r + "/x").st_mode, lambda r: os.chmod(r + "/x", 0o600), "x"),
    ("xattr", lambda r: os.getxattr(r + "/x", "user.a"), lambda r: os.setxattr(r + "/x", "user.a", b"a1"), "x"),
    ("name", lambda r: exists(r + "/d/f"), lambda r: os.rename(r + "/d/f", r + "/d/g"), "d/f"),
    ("missing", lambda r: exists(r + "/d/n"), lambda r: write(r + "/d/n", ""), "d/n"),
    ("listing", lambda r: ls(r + "/d"), lambda r: write(r + "/d/n2", ""), "d"),
    ("directory's mode", lambda r: os.stat(r + "/e").st_mode, lambda r: os.chmod(r + "/e", 0o700), "e"),
]


@quick
def test_serializable_verifies_what_was_read(t):
    m = t.mount()
    tree(m)
    for plain in (True, False):
        for i, (what, look, change, path) in enumerate(READS):
            snapshot(m.mnt)
            n = level(m, f"s{plain}{i}", "serializable")
            look(n.root)
            look(n.root)  # from the kernel's cache
            write(n.root + "/own", what)
            if plain:
                change(m.mnt)
            else:
                o = m.named("other")
                change(o.root)
                o.ctl("commit")
            refused(errno.ECANCELED, n.ctl, "commit")
            line = last_line(m)
            check("ECANCELED" in line and f" failed: {path} " in line and "rolled back" in line, f"{what}: {line}")
            check(not exists(m("own")), what)
            check(not exists(m(".txn/" + f"s{plain}{i}")), "it has ended")
        # again from the start
        for name in ("d/g", "d/n", "d/n2"):
            if exists(m(name)):
                os.unlink(m(name))
        write(m("d/f"), "f0")
        os.chmod(m("x"), 0o644)
        os.chmod(m("e"), 0o755)


@quick
def test_serializable_commits_when_nothing_changed(t):
    m = t.mount()
    tree(m)
    n = level(m, "s", "serializable")
    for _, look, _, _ in READS:
        look(n.root)
    write(n.root + "/own", "1")
    n.ctl("commit")
    holds(m("own"), "1")
    # others' names in directories on the way, and files that were listed only
    n = level(m, "s", "serializable")
    ls(n.root)
    subprocess.run(["ls", "-f", n.root + "/d"], check=True, stdout=subprocess.DEVNULL)
    holds(n.root + "/d/f", "f0")
    write(n.root + "/own", "2")
    write(m("e/new"), "")
    write(m("y"), "y1")
    n.ctl("commit")
    holds(m("own"), "2")


@quick
def test_write_skew(t):
    m = t.mount()
    tree(m)
    a, b = level(m, "a", "serializable"), level(m, "b", "serializable")
    for n in (a, b):
        read(n.root + "/x"), read(n.root + "/y")
    write(a.root + "/x", "0")
    write(b.root + "/y", "0")
    a.ctl("commit")
    refused(errno.ECANCELED, b.ctl, "commit")
    holds(m("y"), "y0")


@quick
def test_a_snapshot_stays(t):
    m = t.mount()
    tree(m)
    os.symlink("x", m("ln"))
    os.link(m("x"), m("d/hard"))
    write(m("big"), "b" * 300000)
    n = level(m, "s", "snapshot")
    cold = level(m, "cold", "snapshot")  # not looked at before everything has changed
    want = snapshot(m.mnt)
    same_tree(snapshot(n.root), want, "at begin")
    fd = os.open(n.root + "/x", os.O_RDONLY)

    def plain(r):
        write(r + "/x", "another content")
        os.setxattr(r + "/x", "user.a", b"a1")
        os.truncate(r + "/big", 10)
        append(r + "/big", "c" * 100000)
        os.rename(r + "/d", r + "/e/d")
        write(r + "/e/d/new", "1")
        os.unlink(r + "/y")
        write(r + "/y", "another file")
        os.unlink(r + "/ln")
        os.chmod(r + "/e", 0o700)

    def more(r):
        os.unlink(r + "/x")
        os.unlink(r + "/e/d/hard")
        os.unlink(r + "/e/d/f")
        os.unlink(r + "/e/d/new")
        os.rmdir(r + "/e/d")
        os.unlink(r + "/big")
        write(r + "/d", "a file now")

    plain(m.mnt)
    same_tree(snapshot(n.root), want, "after plain changes")
    o = m.named("other")
    more(o.root)
    same_tree(snapshot(n.root), want, "while another one is open")
    o.ctl("commit")
    same_tree(snapshot(n.root), want, "after a commit")
    same_tree(snapshot(cold.root), want, "seen for the first time")
    equal(os.pread(fd, 100, 0), b"x0")
    # its own changes are seen over it
    write(n.root + "/own", "mine")
    os.mkdir(n.root + "/dir")
    holds(n.root + "/own", "mine")
    n.ctl("commit")
    holds(m("own"), "mine")
    os.close(fd)
    cold.rollback()
    check("\nhistory_bytes: 0\n" in text_of(m(".txn/status")), "all of it has gone")


@quick
def test_the_first_updater_wins(t):
    m = t.mount()
    tree(m)
    n = level(m, "s", "snapshot")
    write(n.root + "/own", "1")
    write(m("x"), "x1")
    os.unlink(m("d/f"))
    write(m("d/n"), "")
    refused(errno.ECANCELED, write, n.root + "/x", "s")
    line = text_of(m(".txn/s/ctl"))
    check("it cannot commit: x has been changed" in line, line)
    refused(errno.ECANCELED, os.unlink, n.root + "/d/f")
    refused(errno.ECANCELED, os.mkdir, n.root + "/d/n")
    holds(n.root + "/x", "x0")
    holds(n.root + "/own", "1")
    refused(errno.ECANCELED, n.ctl, "commit")
    check(" failed: x has been changed" in last_line(m), last_line(m))
    check(not exists(m("own")))


@quick
def test_levels_are_chosen_first(t):
    m = t.mount()
    tree(m)
    n = m.named("s")
    holds(n.root + "/x", "x0")
    check(not exists(n.root + "/e/new"))
    n.ctl("isolation snapshot")  # what was cached before is as of now
    write(m("x"), "x1")
    write(m("e/new"), "1")
    holds(n.root + "/x", "x0")
    check(not exists(n.root + "/e/new"))
    n.ctl("isolation snapshot")
    holds(n.root + "/x", "x1")
    holds(n.root + "/e/new", "1")
    n.ctl("isolation serializable")
    holds(n.root + "/x", "x1")
    write(m("x"), "x2")
    refused(errno.ECANCELED, n.ctl, "commit")
    n = m.named("s")
    write(n.root + "/y", "y1")
    refused(errno.EINVAL, n.ctl, "isolation snapshot")
    check("has changed something" in last_line(m), last_line(m))
    n.ctl("isolation read committed")
    n.ctl("commit")


@quick
def test_ambient_transactions_are_refused(t):
    m = t.mount()
    a = t.actor()
    for text in ("begin isolation serializable", "begin isolation level snapshot"):
        a(ctl_refused, errno.EOPNOTSUPP, m.mnt, text)
        check("mkdir .txn/NAME" in a(text_of, m(".txn/ctl")) and "txnfs run" in a(text_of, m(".txn/ctl")))
    a(ctl, m.mnt, "begin isolation read committed")
    a(ctl_refused, errno.EOPNOTSUPP, m.mnt, "isolation snapshot")
    a(ctl, m.mnt, "rollback")


@quick
def test_run(t):
    m = t.mount()
    tree(m)

    def run(lvl, script, status=0):
        return tool("run", "--isolation", lvl, m.mnt, "--", "sh", "-ec", script, status=status)
    out = m(".txn/status")
    base = t.path("flag")
    home = m.mnt
    # the committed tree is changed from outside while the command runs: it waits for a file outside of the mount
    for lvl, want, status in (("read-committed", "new", 0), ("snapshot", "old", 0), ("serializable", "old", 125)):
        write(m("x"), "old")
        p = subprocess.Popen([OPT.txnfs, "run", "--isolation", lvl, home, "--", "sh", "-ec",
                              f"cat {home}/x >/dev/null; touch {base}; while [ -e {base} ]; do sleep 0.02; done; "
                              f"cat {home}/x >{home}/copy-{lvl}"], stderr=subprocess.PIPE, text=True)
        while not os.path.exists(base):
            check(p.poll() is None, "it runs")
        write(m("x"), "new")
        os.unlink(base)
        err = p.communicate()[1]
        equal(p.returncode, status, f"{lvl}: {err}")
        if status:
            check("x has other contents" in err or "x has other attributes" in err, err)
            check(not exists(m("copy-" + lvl)))
        else:
            holds(m("copy-" + lvl), want)
    check(exists(out))
    run("dirty", "true", status=125)
    tool("run", "--ambient", "--isolation", "snapshot", m.mnt, "--", "true", status=125)
