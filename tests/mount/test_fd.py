"""Descriptors, mappings and listings over begin, commit and rollback; what crosses from one view to another."""
import errno
import fcntl
import mmap
import os

import sysc
from harness import (KEEP, Failure, append, check, ctl, equal, exists, expect, ls, name_of, quick, read, same_tree,
                     snapshot, wait_until, write)


def opened(path, flags=os.O_RDWR, key="fd"):
    """In an actor: open and keep."""
    KEEP[key] = os.open(path, flags, 0o644)


def fd_write(data, off=0, key="fd"):
    return os.pwrite(KEEP[key], data, off)


def fd_read(n=100, off=0, key="fd"):
    return os.pread(KEEP[key], n, off)


def fd_write_at_end(data, key="fd"):
    return os.write(KEEP[key], data)


def fd_stat(key="fd"):
    st = os.fstat(KEEP[key])
    return st.st_nlink, st.st_size


def fd_close(key="fd"):
    os.close(KEEP.pop(key))


def one_file(t, data="committed", options=""):
    m = t.mount(options=options)
    write(m("f"), data)
    return m


# ---- begin ----

@quick
def test_descriptor_from_before_begin_stays_outside(t):
    m = one_file(t)
    write(m("g"), "g")
    a = t.actor()
    a(opened, m("f"))
    a(opened, m("g"), os.O_RDWR, "g")
    a(ctl, m.mnt, "begin")
    a(write, m("f"), "inside")
    equal(a(fd_read), b"committed", "it shows the committed file")
    expect(errno.EBUSY, a, fd_write, b"x")
    a(fd_write, b"plain", 0, "g")
    equal(read(m("g")), b"plain", "a write through it to another object is a plain one")
    a(ctl, m.mnt, "rollback")
    equal(read(m("g")), b"plain", "rollback does not touch it")
    a(fd_write, b"after")
    equal(read(m("f")), b"aftertted")


# ---- commit ----

@quick
def test_descriptor_outlives_commit(t):
    m = one_file(t, options="lock_timeout=0")
    for how in ("ambient", "named"):
        a = t.actor()
        if how == "ambient":
            a(ctl, m.mnt, "begin")
            root, tx = m.mnt, None
        else:
            a(os.mkdir, m(".txn/n"))
            root, tx = m(".txn/n/root"), "n"
        a(opened, root + "/f")
        a(opened, root + "/new", os.O_RDWR | os.O_CREAT, "new")
        a(fd_write, b"COMM")
        a(fd_write, b"new" * 1000, 0, "new")
        a(ctl, m.mnt, "commit", tx)
        equal(a(fd_read), b"COMMitted")
        a(fd_write, b"plain")
        equal(read(m("f")), b"plaintted", f"{how}: a write through it is an ordinary one")
        a(fd_write, b"more", 3000, "new")
        equal(read(m("new")), b"new" * 1000 + b"more")
        b = t.actor()
        b(ctl, m.mnt, "begin")
        b(write, m("f"), "theirs")
        expect(errno.EBUSY, a, fd_write, b"x")
        b(ctl, m.mnt, "rollback")
        a(fd_close)
        a(fd_close, "new")
        a.end()
        os.unlink(m("new"))
        write(m("f"), "committed")
    m.umount()
    equal(read(m.home("f")), b"committed")


@quick
def test_read_descriptors_of_others_over_commit(t):
    """A descriptor of the committed file shows the file's present content, before and after."""
    m = one_file(t, "x" * 10_000)
    r = t.actor()
    r(opened, m("f"), os.O_RDONLY)
    equal(r(fd_read, 10_000), b"x" * 10_000)
    n = m.named()
    with open(n("f"), "r+b") as f:
        f.seek(4096)
        f.write(b"Y" * 100)
    equal(r(fd_read, 10_000), b"x" * 10_000, "before commit")
    n.ctl("commit")
    equal(r(fd_read, 10_000), b"x" * 4096 + b"Y" * 100 + b"x" * 5804, "after commit")
    os.truncate(m("f"), 5)
    equal(r(fd_read, 10_000), b"xxxxx")
    equal(r(fd_stat), (1, 5))


def test_descriptor_of_a_replaced_file_over_commit(t):
    """The old inode lives until its last close, in each view."""
    m = one_file(t, "old")
    write(m("g"), "also old")
    r = t.actor()
    r(opened, m("f"))
    r(opened, m("g"), os.O_RDWR, "g")
    n = m.named()
    write(n("tmp"), "new")
    os.rename(n("tmp"), n("f"))
    os.unlink(n("g"))
    equal(r(fd_stat), (1, 3), "nothing has happened outside")
    n.ctl("commit")
    equal(read(m("f")), b"new")
    equal(r(fd_read), b"old")
    equal(r(fd_stat), (0, 3))
    r(fd_write, b"still writable")
    equal(r(fd_read), b"still writable")
    equal(r(fd_read, 100, 0, "g"), b"also old")
    check(not exists(m("g")))
    r(fd_close)
    r(fd_close, "g")
    m.remount()
    equal(ls(m.mnt), ["f"])
    equal(read(m("f")), b"new")


def test_unlinked_but_open_in_a_transaction(t):
    m = one_file(t)
    for end in ("rollback", "commit"):
        a = t.actor()
        n = m.named("n-" + end)
        a(opened, n("f"))
        os.unlink(n("f"))
        a(fd_write, b"CHANGED")
        equal(a(fd_read), b"CHANGEDed")
        equal(a(fd_stat)[0], 0)
        equal(read(m("f")), b"committed", "the committed view still has it")
        n.ctl(end)
        if end == "rollback":
            equal(read(m("f")), b"committed")
            equal(a(fd_read), b"committed", "an ordinary one on the committed file")
            a(fd_write, b"ordinary")
            equal(read(m("f")), b"ordinaryd")
            write(m("f"), "committed")
        else:
            check(not exists(m("f")))
            equal(a(fd_read), b"CHANGEDed", "the inode lives until its last close")
        a(fd_close)
        a.end()
    m.umount()
    equal(ls(m.home(".txnfs/trash")), [], "the trash is empty")


def test_plain_unlink_of_a_file_open_in_a_transaction(t):
    m = one_file(t)
    n = m.named()
    a = t.actor()
    a(opened, n("f"), os.O_RDONLY)
    equal(a(fd_read), b"committed")
    os.unlink(m("f"))
    check(not exists(n("f")), "read committed")
    equal(a(fd_read), b"committed")
    write(m("f"), "another")
    equal(read(n("f")), b"another")
    equal(a(fd_read), b"committed")
    n.ctl("commit")
    equal(a(fd_read), b"committed")


# ---- rollback ----

@quick
def test_descriptor_outlives_rollback(t):
    m = one_file(t)
    for how in ("ambient", "named"):
        a = t.actor()
        tx = None if how == "ambient" else "n"
        root = m.mnt if how == "ambient" else m(".txn/n/root")
        a(ctl, m.mnt, "begin") if how == "ambient" else a(os.mkdir, m(".txn/n"))
        a(opened, root + "/f")
        a(opened, root + "/new", os.O_RDWR | os.O_CREAT, "new")
        a(fd_write, b"CHANGED")
        a(fd_write, b"new", 0, "new")
        a(ctl, m.mnt, "rollback", tx)
        equal(a(fd_read), b"committed", f"{how}: an ordinary one on the committed file")
        a(fd_write, b"plain")
        equal(read(m("f")), b"plaintted")
        expect(errno.ESTALE, a, fd_read, 10, 0, "new")
        expect(errno.ESTALE, a, fd_write, b"x", 0, "new")
        a(fd_close)
        a(fd_close, "new")
        a.end()
        equal(ls(m.mnt), ["f"])
        write(m("f"), "committed")


def test_rollback_to_with_open_descriptors(t):
    m = one_file(t)
    n = m.named()
    a = t.actor()
    a(opened, n("f"))
    a(fd_write, b"ONE")
    n.ctl("savepoint s")
    a(opened, n("new"), os.O_RDWR | os.O_CREAT, "new")
    a(fd_write, b"new", 0, "new")
    a(fd_write, b"TWO!", 3)
    equal(a(fd_read), b"ONETWO!ed")
    n.ctl("rollback to s")
    equal(a(fd_read), b"ONEmitted", "the descriptor shows the savepoint's content")
    expect(errno.ESTALE, a, fd_read, 10, 0, "new")
    a(fd_write, b"3", 3)
    n.ctl("commit")
    equal(read(m("f")), b"ONE3itted")
    equal(ls(m.mnt), ["f"])


@quick
def test_append_by_path_after_rollback_to(t):
    m = one_file(t, "")
    n = m.named()
    append(n("f"), "one,")
    n.ctl("savepoint s")
    append(n("f"), "two,")
    n.ctl("rollback to s")
    append(n("f"), "three")
    equal(read(n("f")), b"one,three")
    n.ctl("commit")
    equal(read(m("f")), b"one,three")


@quick
def test_append_after_someone_elses_commit(t):
    """O_APPEND means the end of the file as it is now, whatever the kernel remembers of its size."""
    m = one_file(t, "")
    held = t.actor()
    held(opened, m("f"), os.O_RDWR | os.O_APPEND)
    held(fd_write_at_end, b"one,")
    for i, text in enumerate((b"two,", b"three,", b"four,")):
        n = m.named(f"n{i}")
        append(n("f"), text)
        n.ctl("commit")
        if i == 0:
            held(fd_write_at_end, b"held,")
        elif i == 1:
            append(m("f"), "path,")
    equal(read(m("f")), b"one,two,held,three,path,four,")
    n = m.named("shorter")
    write(n("f"), "cut,")
    n.ctl("commit")
    held(fd_write_at_end, b"held,")
    append(m("f"), "end")
    equal(read(m("f")), b"cut,held,end")
    held.end()
    m.umount()
    equal(read(m.home("f")), b"cut,held,end")


def test_append_descriptor_over_rollback_to(t):
    m = one_file(t, "")
    n = m.named()
    fd = os.open(n("f"), os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"one,")
    n.ctl("savepoint s")
    os.write(fd, b"two,")
    n.ctl("rollback to s")
    os.write(fd, b"three")
    os.close(fd)
    equal(read(n("f")), b"one,three")
    n.ctl("commit")
    equal(read(m("f")), b"one,three")


# ---- descriptors that the kernel cannot move ----

def test_read_only_descriptor_before_the_change(t):
    """
    A member's read-only descriptor from before the file's first change may go on showing the committed content;
    fchmod on it may fail with ESTALE, but then nothing has changed. It never shows a mix.
    """
    m = one_file(t)
    a = t.actor()
    a(ctl, m.mnt, "begin")
    a(opened, m("f"), os.O_RDONLY)
    a(write, m("f"), "INSIDE")
    check(a(fd_read) in (b"committed", b"INSIDE"), a(fd_read))

    def fchmod():
        try:
            os.fchmod(KEEP["fd"], 0o600)
            return "ok"
        except OSError as e:
            return name_of(e)
    check(a(fchmod) in ("ok", "ESTALE"))
    equal(os.stat(m("f")).st_mode & 0o777, 0o644, "outside")
    a(ctl, m.mnt, "commit")
    equal(read(m("f")), b"INSIDE")
    equal(a(fd_read), b"INSIDE", "after commit it shows the committed file")


# ---- mappings ----

def map_write(path, data, off, keep=False):
    fd = os.open(path, os.O_RDWR)
    mp = mmap.mmap(fd, os.fstat(fd).st_size)
    os.close(fd)
    mp[off:off + len(data)] = data
    if keep:
        KEEP["map"] = mp
    else:
        mp.close()


def map_read(off, n):
    return bytes(KEEP["map"][off:off + n])


@quick
def test_mapped_writes_are_committed_and_rolled_back(t):
    """Dirty pages of a shared mapping are collected by commit, without msync, while it stays mapped."""
    m = one_file(t, "m" * 9000)
    for how in ("ambient", "named"):
        for end, want in (("rollback", b"mmmmmm"), ("commit", b"mMAPPm")):
            a = t.actor()
            tx = None if how == "ambient" else "n"
            root = m.mnt if how == "ambient" else m(".txn/n/root")
            a(ctl, m.mnt, "begin") if how == "ambient" else a(os.mkdir, m(".txn/n"))
            a(map_write, root + "/f", b"MAPP", 5001, True)
            equal(read(m("f"))[5000:5006], b"mmmmmm", f"{how}: outside before {end}")
            a(ctl, m.mnt, end, tx)
            equal(read(m("f"))[5000:5006], want, f"{how}: outside after {end}")
            a.kill()
            equal(read(m("f"))[5000:5006], want, f"{how}: after the mapping has gone")
        write(m("f"), "m" * 9000)


def test_mapped_writes_and_savepoints(t):
    m = one_file(t, "m" * 9000)
    n = m.named()
    fd = os.open(n("f"), os.O_RDWR)
    mp = mmap.mmap(fd, 9000)
    mp[0:3] = b"ONE"
    n.ctl("savepoint s")
    mp[0:3] = b"TWO"
    mp[5000:5003] = b"TWO"
    n.ctl("rollback to s")
    equal((mp[0:4], mp[5000:5003]), (b"ONEm", b"mmm"), "the mapping after rollback to")
    mp[8000:8005] = b"THREE"
    n.ctl("commit")
    data = read(m("f"))
    equal((data[:4], data[5000:5003], data[8000:8005]), (b"ONEm", b"mmm", b"THREE"))
    mp.close()
    os.close(fd)


def test_mapping_of_the_committed_file_over_commit(t):
    """Someone else's mapping shows the new content after a commit."""
    m = one_file(t, "m" * 9000)
    fd = os.open(m("f"), os.O_RDONLY)
    mp = mmap.mmap(fd, 9000, mmap.MAP_SHARED, mmap.PROT_READ)
    equal(mp[4998:5002], b"mmmm")
    n = m.named()
    with open(n("f"), "r+b") as f:
        f.seek(4998)
        f.write(b"NEW!")
    equal(mp[4998:5002], b"mmmm", "before commit")
    n.ctl("commit")
    equal(mp[4998:5002], b"NEW!", "after commit")
    mp.close()
    os.close(fd)


# ---- between views ----

@quick
def test_rename_and_link_between_views(t):
    m = one_file(t)
    os.mkdir(m("d"))
    x, y = m.named("x"), m.named("y")
    for a, b in ((m.mnt, x.root), (x.root, m.mnt), (x.root, y.root)):
        before = snapshot(a), snapshot(b)
        expect(errno.EXDEV, os.rename, a + "/f", b + "/g")
        expect(errno.EXDEV, os.rename, a + "/f", b + "/f")
        expect(errno.EXDEV, os.rename, a + "/d", b + "/d2")
        expect(errno.EXDEV, os.link, a + "/f", b + "/g")
        expect(errno.EXDEV, sysc.renameat2, a + "/f", b + "/f", sysc.RENAME_EXCHANGE)
        same_tree(snapshot(a), before[0], "the one")
        same_tree(snapshot(b), before[1], "the other")


def test_copy_between_views(t):
    m = one_file(t)
    n = m.named()
    write(n("f"), read(m("f")) + b" and more")
    src, dst = os.open(n("f"), os.O_RDONLY), os.open(m("copy"), os.O_RDWR | os.O_CREAT)
    try:
        done = os.copy_file_range(src, dst, 100)
        equal(read(m("copy")), b"committed and more"[:done])
    except OSError as e:
        equal(e.errno, errno.EXDEV)
    os.close(src)
    os.close(dst)
    equal(read(m("f")), b"committed")


def test_locks_are_of_one_view(t):
    """A lock taken in a transaction's view does not stop those of the committed view once the file is its own."""
    m = one_file(t)
    n = m.named()
    inside = os.open(n("f"), os.O_RDWR)
    os.pwrite(inside, b"x", 0)
    fcntl.flock(inside, fcntl.LOCK_EX)
    again = os.open(n("f"), os.O_RDWR)
    expect(errno.EWOULDBLOCK, fcntl.flock, again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    outside = os.open(m("f"), os.O_RDONLY)
    fcntl.flock(outside, fcntl.LOCK_SH | fcntl.LOCK_NB)
    for fd in (inside, again, outside):
        os.close(fd)


# ---- large directories ----

MANY = 100_000


def fill(path, n):
    os.mkdir(path)
    d = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for i in range(n):
        os.mknod(f"name-{i:06}", 0o100644, dir_fd=d)
    os.close(d)


def big_directory(t, n):
    m = t.mount()
    m.umount()
    fill(m.home("big"), n)
    return m.start()


def listing(path, n, **kw):
    names = os.listdir(path)
    equal(len(names), n, f"names in {path}")
    equal(len(set(names)), n, "each once")


def test_readdir_of_100_000_names(t):
    m = big_directory(t, MANY)
    listing(m("big"), MANY)
    n = m.named()
    write(n("big/extra"), "")
    os.unlink(n("big/name-000007"))
    os.rename(n("big/name-000008"), n("big/renamed"))
    names = os.listdir(n("big"))
    equal(len(names), MANY)
    check({"extra", "renamed"} <= set(names) and not {"name-000007", "name-000008"} & set(names))
    listing(m("big"), MANY)
    n.ctl("commit")
    equal(sorted(os.listdir(m("big"))), sorted(names))


def _seek_test(path, rng):
    """Every position handed out leads back to the same rest, in a stream that nobody changes."""
    d = sysc.Dir(path)
    seen = []
    while True:
        pos = d.tell()
        name = d.read()
        if name is None:
            break
        seen.append((pos, name))
    equal(len(seen), len(set(n for _, n in seen)), "names in one pass")
    for i in sorted(rng.sample(range(len(seen)), min(25, len(seen))), key=lambda _: rng.random()):
        d.seek(seen[i][0])
        for j in range(i, min(i + 3, len(seen))):
            equal(d.read(), seen[j][1], f"after seekdir to entry {i}")
    d.close()
    return {n for _, n in seen}


@quick
def test_seekdir(t):
    m = big_directory(t, 3000)
    n = m.named()
    write(n("big/extra"), "")
    os.unlink(n("big/name-000010"))
    plain = _seek_test(m("big"), t.rng)
    inside = _seek_test(n("big"), t.rng)
    equal(plain ^ inside, {b"extra", b"name-000010"})


@quick
def test_deletion_while_iterating(t):
    """rm -r's way: names that were not deleted come exactly once, deleted ones never twice."""
    m = big_directory(t, 5000)
    n = m.named()
    for root in (n.root, m.mnt):
        seen = set()
        with os.scandir(root + "/big") as it:
            for i, e in enumerate(it):
                check(e.name not in seen, "twice:", e.name)
                seen.add(e.name)
                if i % 2 == 0:
                    os.unlink(e.path)
        equal(len(seen), 5000, "all names came")
        equal(len(os.listdir(root + "/big")), 2500)
        if root == n.root:
            listing(m("big"), 5000)
            n.rollback()
            listing(m("big"), 5000)


def test_creation_while_iterating(t):
    m = big_directory(t, 5000)
    seen = []
    with os.scandir(m("big")) as it:
        for i, e in enumerate(it):
            seen.append(e.name)
            if i % 10 == 0:
                write(m(f"big/new-{i:06}"), "")
            if i > 20_000:
                raise Failure("the listing does not end")
    old = [s for s in seen if s.startswith("name-")]
    equal(len(old), 5000, "the old names all came")
    equal(len(seen), len(set(seen)), "none twice")


def test_commit_while_iterating(t):
    """A listing that spans a commit: names that it did not touch come exactly once."""
    m = big_directory(t, 5000)
    n = m.named()
    for i in range(0, 5000, 5):
        os.unlink(n(f"big/name-{i:06}"))
        write(n(f"big/new-{i:06}"), "")
    seen = []
    with os.scandir(m("big")) as it:
        for i, e in enumerate(it):
            seen.append(e.name)
            if i == 2000:
                n.ctl("commit")
    equal(len(seen), len(set(seen)), "none twice")
    want = {f"name-{i:06}" for i in range(5000) if i % 5}
    check(want <= set(seen), "missing:", sorted(want - set(seen))[:10])
    equal(len(os.listdir(m("big"))), 5000)


def test_many_files_created_in_a_transaction(t):
    m = t.mount()
    n = m.named()
    count = 3000
    os.mkdir(n("d"))
    for i in range(count):
        write(n(f"d/f{i:05}"), "x")
    listing(n("d"), count)
    check(not exists(m("d")))
    n.ctl("commit")
    listing(m("d"), count)
    m.umount()
    listing(m.home("d"), count)


# ---- handles of directories ----

def test_directory_descriptor_over_commit_and_rollback(t):
    m = t.mount()
    os.makedirs(m("d/e"))
    write(m("d/e/f"), "x")
    fd = os.open(m("d/e"), os.O_RDONLY | os.O_DIRECTORY)
    for end in ("rollback", "commit"):
        n = m.named("n" + end)
        write(n("d/e/new"), "n")
        os.rename(n("d"), n("moved"))
        equal(sorted(os.listdir(fd)), ["f"], "before the end")
        n.ctl(end)
        equal(sorted(os.listdir(fd)), ["f"] if end == "rollback" else ["f", "new"], f"after {end}")
    new = os.open("new", os.O_RDONLY, dir_fd=fd)
    equal(os.read(new, 10), b"n")
    os.close(new)
    os.close(fd)


def test_working_directory_made_and_rolled_back(t):
    m = t.mount()
    a = t.actor()
    a(ctl, m.mnt, "begin")
    a(os.mkdir, m("d"))
    a(os.chdir, m("d"))
    a(write, "f", "x")
    a(ctl, m.mnt, "rollback")
    expect((errno.ENOENT, errno.ESTALE), a, read, "f")
    expect((errno.ENOENT, errno.ESTALE), a, write, "g", "x")
    a(os.chdir, "/")
    equal(ls(m.mnt), [])
    wait_until(lambda: not os.listdir(m.home(".txnfs/trash")), 2, "empty trash")
