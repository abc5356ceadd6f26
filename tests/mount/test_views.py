"""Coherence: who sees what, and when, with the kernel's caches warm; and who may write."""
import errno
import os
import struct
import time

from harness import (KEEP, OPT, append, check, ctl, equal, exists, expect, ls, patience, quick, read, same_tree,
                     snapshot, write)


# ---- plain changes are seen at once ----

@quick
def test_plain_changes_are_seen_by_all(t):
    m = t.mount()
    os.mkdir(m("d"))
    write(m("f"), "0")
    n = m.named()
    a = t.actor()
    b = t.actor()
    b(ctl, m.mnt, "begin")
    views = [("another process", a, m.mnt), ("a named transaction", a, n.root), ("an ambient member", b, m.mnt)]
    for _, who, root in views:  # warm, negative names too
        who(snapshot, root)
        check(not who(exists, root + "/new") and not who(exists, root + "/d/x"))

    def all_see(text):
        want = snapshot(m.mnt)
        for name, who, root in views:
            same_tree(who(snapshot, root), want, f"{name} after {text}")
    write(m("f"), "a longer content")
    all_see("a write")
    write(m("new"), "n")
    all_see("a creation")
    os.rename(m("new"), m("d/x"))
    all_see("a rename")
    os.chmod(m("f"), 0o600)
    all_see("chmod")
    os.setxattr(m("f"), "user.x", b"1")
    all_see("setxattr")
    append(m("d/x"), "more")
    all_see("an append")
    os.truncate(m("f"), 3)
    all_see("a truncate")
    os.rename(m("d"), m("e"))
    all_see("a rename of a directory")
    os.unlink(m("e/x"))
    os.rmdir(m("e"))
    all_see("removals")
    os.link(m("f"), m("f2"))
    os.symlink("f", m("ln"))
    all_see("links")


def keep_open(path):
    KEEP["r"] = os.open(path, os.O_RDONLY)


def kept():
    return os.pread(KEEP["r"], 1000, 0), os.fstat(KEEP["r"]).st_size


@quick
def test_commit_is_seen_through_warm_caches(t):
    """Held descriptors, stat, listings, negative names: all show the new state right after commit returned."""
    m = t.mount()
    os.makedirs(m("d/sub"))
    for f in ("f", "g", "d/in", "d/sub/deep"):
        write(m(f), f * 500)
    other = m.named("other")
    watchers = [("another process", t.actor(), m.mnt), ("another transaction", t.actor(), other.root)]
    for _, w, root in watchers:
        w(snapshot, root)
        w(keep_open, root + "/f")
        equal(w(kept), (b"f" * 500, 500))
        check(not w(exists, root + "/new"))
    for kind in ("named", "ambient"):
        a = t.actor()
        tx, root = ("n", m(".txn/n/root")) if kind == "named" else (None, m.mnt)
        a(os.mkdir, m(".txn/n")) if tx else a(ctl, m.mnt, "begin")
        before = snapshot(m.mnt)
        a(write, root + "/f", kind)
        a(write, root + "/new", "new")
        a(os.unlink, root + "/g")
        a(os.rename, root + "/d/sub", root + "/moved")
        a(os.chmod, root + "/d", 0o700)
        a(write, root + "/g2", "g2")
        for name, w, wroot in watchers:
            same_tree(w(snapshot, wroot), before, f"{name}, before the {kind} commit")
        want = a(snapshot, root)
        a(ctl, m.mnt, "commit", tx)
        for name, w, wroot in watchers:
            equal(w(kept), (kind.encode(), len(kind)), f"{name}: a held descriptor after the {kind} commit")
            same_tree(w(snapshot, wroot), want, f"{name}, after the {kind} commit")
        same_tree(snapshot(m.mnt), want, "the test")
        a.end()
        os.rename(m("moved"), m("d/sub"))
        os.unlink(m("g2"))
        os.unlink(m("new"))
        write(m("g"), "g")
        write(m("f"), "f" * 500)
        for name, w, wroot in watchers:
            equal(w(kept), (b"f" * 500, 500))
            same_tree(w(snapshot, wroot), snapshot(m.mnt), f"{name}, after plain changes")


def test_rollback_is_seen_through_warm_caches(t):
    m = t.mount()
    os.makedirs(m("d/sub"))
    write(m("f"), "f" * 5000)
    before = snapshot(m.mnt)
    a = t.actor()
    a(ctl, m.mnt, "begin")
    a(write, m("f"), "changed")
    a(os.rename, m("d"), m("e"))
    a(write, m("e/sub/new"), "x")
    a(snapshot, m.mnt)
    a(ctl, m.mnt, "rollback")
    same_tree(a(snapshot, m.mnt), before, "the former member")
    same_tree(snapshot(m.mnt), before, "others")


# ---- atomic visibility ----

class Word:
    """The committer's to its readers, in a file outside of the mount: which commit it has begun, and which is done."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)

    def begin(self, version):
        os.pwrite(self.fd, struct.pack("<Q", version), 0)

    def done(self, version):
        os.pwrite(self.fd, struct.pack("<Q", version), 8)

    def get(self):
        """(begun, done)"""
        return struct.unpack("<QQ", os.pread(self.fd, 16, 0))


def _watch(mnt, how, stop, word):
    """
    Reads a and b in turn: whoever saw version n of the one must not see an older one of the other, nor one older than
    what was committed when it began to read. What is wrong, or None, and the number of reads, and how many of them
    showed two versions: a single read that is under way while someone has the file open may span a commit, but
    nothing after it may show the older version again.
    """
    word = Word(word)
    last = reads = torn = 0
    while not os.path.exists(stop):
        for x in "ab":
            last = max(last, word.get()[1])
            if how == "open":
                data = read(os.path.join(mnt, x))
            else:
                names = os.listdir(os.path.join(mnt, x + ".d"))
                if len(names) != 1:
                    return f"{x}.d lists {names}", reads, torn
                data = names[0].encode()
            versions = sorted(map(int, set(data.split())))
            if versions[0] < last:
                return f"{how}: version {versions} of {x} after {last}", reads, torn
            if versions[-1] > word.get()[0] or how == "open" and len(data) != SIZES[x]:
                return f"{how}: versions {versions} of {x} in one read of {len(data)}", reads, torn
            last = versions[-1]
            torn += len(versions) > 1
            reads += 1
    return None, reads, torn


SIZES = {"a": 4096, "b": 100_000}


def body(version, size):
    return b"%07d " % version * (size // 8)


def _commits(t, hows, seconds):
    m = t.mount()
    for x, size in SIZES.items():
        write(m(x), body(1, size))
        os.mkdir(m(x + ".d"))
        write(m(x + ".d/1"), "")
    stop, word = t.path("stop"), Word(t.path("word"))
    word.begin(1)
    word.done(1)
    watchers = []
    for how in hows:
        w = t.actor()
        w.start(_watch, m.mnt, how, stop, t.path("word"))
        watchers.append(w)
    end, version = time.monotonic() + seconds, 1
    try:
        while time.monotonic() < end:
            version += 1
            word.begin(version)
            tx = m.named("n")
            for x, size in SIZES.items():
                fd = os.open(tx(x), os.O_WRONLY)
                os.pwrite(fd, body(version, size), 0)
                os.close(fd)
                os.rename(tx(f"{x}.d/{version - 1}"), tx(f"{x}.d/{version}"))
            tx.ctl("commit" if version % 5 else "savepoint s; rollback to s; commit")
            word.done(version)
    finally:
        write(stop, "")
    results = [w.result() for w in watchers]
    t.note(f"{version} commits, {sum(r[1] for r in results)} reads, {sum(r[2] for r in results)} in two versions")
    for bad, *_ in results:
        check(bad is None, bad)


@quick
def test_commit_is_atomic_for_readers_that_reopen(t):
    _commits(t, ["open", "open", "list"], 2 if OPT.quick else 5)


def test_held_descriptors_follow_commits(t):
    """
    Through descriptors held over commits: nobody reads an older version than the one whose commit had returned before.
    While it has not, one file can be old after another one was new (README); the share of that is noted.
    """
    m = t.mount()
    for x in "ab":
        write(m(x), b"%06d" % 1)
    stop, word = t.path("stop"), Word(t.path("word"))
    word.done(1)

    def watch(mnt, stop, word):
        word = Word(word)
        fds = [os.open(f"{mnt}/{x}", os.O_RDONLY) for x in "ab"]
        last = reads = older = wrong = 0
        while not os.path.exists(stop):
            for fd in fds:
                done = word.get()[1]
                v = int(os.pread(fd, 10, 0))
                wrong += v < done
                older += v < last
                last, reads = max(v, last), reads + 1
        return [int(os.pread(fd, 10, 0)) for fd in fds], reads, older, wrong
    watchers = [t.actor() for _ in range(2)]
    for w in watchers:
        w.start(watch, m.mnt, stop, t.path("word"))
    end, version = time.monotonic() + (2 if OPT.quick else 4), 1
    try:
        while time.monotonic() < end:
            version += 1
            tx = m.named("n")
            for x in "ba":
                fd = os.open(tx(x), os.O_WRONLY)
                os.pwrite(fd, b"%06d" % version, 0)
                os.close(fd)
            tx.ctl("commit")
            word.done(version)
    finally:
        write(stop, "")
    results = [w.result() for w in watchers]
    reads, older = sum(r[1] for r in results), sum(r[2] for r in results)
    t.note(f"{version} commits, {reads} reads, {older} of them older than one before")
    for final, _, _, wrong in results:
        equal(final, [version, version])
        equal(wrong, 0, "reads of a version older than the one committed before")


# ---- one writer ----

@quick
def test_second_writer_of_contents_is_refused(t):
    m = t.mount(options="lock_timeout=0")
    write(m("f"), "committed")
    write(m("free"), "x")
    n = m.named("first")
    write(n("f"), "first's")
    second = m.named("second")
    amb = t.actor()
    amb(ctl, m.mnt, "begin")
    here = t.actor()
    for who, root in ((here, m.mnt), (here, second.root), (amb, m.mnt)):
        began = time.monotonic()
        for op in (lambda p: write(p, "x"), lambda p: append(p, "x"), lambda p: os.truncate(p, 1),
                   lambda p: os.chmod(p, 0o600), lambda p: os.utime(p, (1, 1)),
                   lambda p: os.setxattr(p, "user.x", b"1"), os.unlink,
                   lambda p: os.rename(p, p + "2"), lambda p: os.link(p, p + "3")):
            expect(errno.EBUSY, who, op, root + "/f")
        check(time.monotonic() - began < patience(2), "at once")
        equal(who(read, root + "/f"), b"committed", "reading goes on")
        if who is here:
            who(append, root + "/free", "y")
        if root == second.root:
            second.rollback()
    amb(ctl, m.mnt, "rollback")
    equal(read(n("f")), b"first's")
    n.ctl("commit")
    append(m("f"), "!")
    equal(read(m("f")), b"first's!")


@quick
def test_second_writer_of_attributes_is_refused(t):
    m = t.mount(options="lock_timeout=0")
    write(m("f"), "x")
    os.mkdir(m("d"))
    n = m.named("first")
    os.chmod(n("f"), 0o600)
    os.setxattr(n("d"), "user.x", b"1")
    second = m.named("second")
    for root in (m.mnt, second.root):
        expect(errno.EBUSY, os.chmod, root + "/f", 0o640)
        expect(errno.EBUSY, append, root + "/f", "x")
        expect(errno.EBUSY, os.setxattr, root + "/d", "user.x", b"2")
        expect(errno.EBUSY, os.chmod, root + "/d", 0o700)
        write(root + "/d/in-" + os.path.basename(root), "names in the directory are free")
    n.rollback()
    os.chmod(m("f"), 0o640)


@quick
def test_second_writer_of_a_name_is_refused(t):
    m = t.mount(options="lock_timeout=0")
    os.mkdir(m("d"))
    write(m("d/old"), "x")
    write(m("d/gone"), "x")
    n = m.named("first")
    write(n("d/new"), "x")
    os.unlink(n("d/gone"))
    os.rename(n("d/old"), n("d/older"))
    second = m.named("second")
    for root in (m.mnt, second.root):
        for name in ("new", "older"):
            expect(errno.EBUSY, write, f"{root}/d/{name}", "y")
            expect(errno.EBUSY, os.mkdir, f"{root}/d/{name}")
            check(not exists(f"{root}/d/{name}"))
        for name in ("gone", "old"):
            expect(errno.EBUSY, os.unlink, f"{root}/d/{name}")
            expect(errno.EBUSY, os.rename, f"{root}/d/{name}", f"{root}/d/z")
        write(f"{root}/d/free-{os.path.basename(root)}", "other names are free")
    n.ctl("commit")
    equal([x for x in ls(m("d")) if "free" not in x], ["new", "older"])
    second.ctl("commit")


def test_removed_directory_and_new_entry_exclude_each_other(t):
    m = t.mount(options="lock_timeout=0")
    os.mkdir(m("d"))
    os.mkdir(m("e"))
    n, second = m.named("first"), m.named("second")
    os.rmdir(n("d"))
    for root in (m.mnt, second.root):
        expect(errno.EBUSY, write, root + "/d/x", "x")
        expect(errno.EBUSY, os.mkdir, root + "/d/x")
        expect(errno.EBUSY, os.rename, root + "/e", root + "/d/e")
    write(n("e/x"), "x")
    for root in (m.mnt, second.root):
        expect(errno.EBUSY, os.rmdir, root + "/e")
        expect(errno.EBUSY, os.rename, root + "/e", root + "/d")
    n.ctl("commit")
    equal(sorted(snapshot(m.mnt)), ["", "e", "e/x"])


def test_directory_loops_from_two_transactions(t):
    """Two renames that are right each by itself must not make a loop together."""
    m = t.mount(options="lock_timeout=0")
    os.makedirs(m("a/x"))
    os.makedirs(m("b/y"))
    n1, n2 = m.named("one"), m.named("two")
    os.rename(n1("a"), n1("b/y/a"))
    try:
        os.rename(n2("b"), n2("a/x/b"))
        refused = False
    except OSError as e:
        equal(e.errno, errno.EBUSY)
        refused = True
    n1.ctl("commit")
    if not refused:
        expect((errno.EBUSY, errno.ECANCELED), n2.ctl, "commit")
    n2.rollback() if exists(n2.dir) else None
    equal(sorted(snapshot(m.mnt)), ["", "b", "b/y", "b/y/a", "b/y/a/x"])
    m.umount()
    equal(sorted(snapshot(m.src)), ["", "b", "b/y", "b/y/a", "b/y/a/x"])


def test_hard_links_are_locked_by_object(t):
    m = t.mount(options="lock_timeout=0")
    write(m("f"), "x")
    os.link(m("f"), m("g"))
    n = m.named()
    write(n("f"), "changed")
    equal(read(n("g")), b"changed")
    equal(read(m("g")), b"x")
    expect(errno.EBUSY, append, m("g"), "y")
    expect(errno.EBUSY, os.chmod, m("g"), 0o600)
    n.ctl("commit")
    equal(read(m("g")), b"changed")


@quick
def test_locks_go_with_rollback_to(t):
    """What a rollback to a savepoint undoes may stay locked, but the transaction's end frees it."""
    m = t.mount()
    write(m("f"), "x")
    n = m.named()
    n.ctl("savepoint s")
    write(n("f"), "y")
    write(n("new"), "y")
    n.ctl("rollback to s; commit")
    append(m("f"), "z")
    write(m("new"), "z")
    equal(read(m("f")), b"xz")


def test_many_transactions_on_different_files(t):
    m = t.mount()
    os.mkdir(m("d"))
    count, rounds = 8, 15
    for i in range(count):
        write(m(f"d/f{i}"), "0")

    def work(mnt, i, named):
        for r in range(rounds):
            if named:
                os.mkdir(f"{mnt}/.txn/w{i}")
                root, tx = f"{mnt}/.txn/w{i}/root", f"w{i}"
            else:
                ctl(mnt, "begin")
                root, tx = mnt, None
            for step in range(3):
                v = int(read(f"{root}/d/f{i}"))
                write(f"{root}/d/f{i}", str(v + 1))
            write(f"{root}/d/tmp{i}", "x")
            os.rename(f"{root}/d/tmp{i}", f"{root}/d/done{i}-{r}")
            ctl(mnt, "commit" if r % 3 else "rollback", tx)
    actors = [t.actor() for _ in range(count)]
    for i, a in enumerate(actors):
        a.start(work, m.mnt, i, i % 2)
    for a in actors:
        a.result()
    done = sum(1 for r in range(rounds) if r % 3)
    for i in range(count):
        equal(int(read(m(f"d/f{i}"))), 3 * done, f"f{i}")
        equal(len([x for x in ls(m("d")) if x.startswith(f"done{i}-")]), done)
    m.umount()
    equal(len(ls(m.home("d"))), count * (1 + done))


def test_a_waiting_transaction_disturbs_nobody(t):
    """I10: an idle transaction with many locks; everyone else goes on at full speed."""
    m = t.mount()
    os.mkdir(m("d"))
    n = m.named("idle")
    for i in range(200):
        write(n(f"d/held{i}"), "x")
    began = time.monotonic()
    for i in range(100):
        write(m(f"d/plain{i}"), "x")
        tx = m.named("busy")
        write(tx(f"d/tx{i}"), "x")
        tx.ctl("commit")
    seconds = time.monotonic() - began
    t.note(f"100 plain writes and commits in {seconds:.2f} s")
    check(seconds < patience(2), "not at full speed")
    equal(len(ls(m("d"))), 200)
    n.ctl("commit")
    equal(len(ls(m("d"))), 400)


# ---- bystanders' directories ----

@quick
def test_bystanders_working_directory_survives(t):
    """A directory renamed or removed in a transaction: those who stand in it notice nothing until commit."""
    m = t.mount()
    os.makedirs(m("d/sub"))
    write(m("d/sub/f"), "x")
    for kind in ("ambient", "named"):
        for end in ("rollback", "commit"):
            b = t.actor(cwd=m("d/sub"))
            a = t.actor()
            tx, root = ("n", m(".txn/n/root")) if kind == "named" else (None, m.mnt)
            a(os.mkdir, m(".txn/n")) if tx else a(ctl, m.mnt, "begin")
            a(os.rename, root + "/d", root + "/moved")
            a(write, root + "/moved/sub/f", kind + end)
            equal(b(os.getcwd), m("d/sub"), f"{kind}: getcwd before {end}")
            equal(b(read, "f"), b"x", f"{kind}: a relative path before {end}")
            equal(b(ls, ".."), ["sub"])
            equal(a(read, root + "/moved/sub/f"), (kind + end).encode())
            a(ctl, m.mnt, end, tx)
            if end == "rollback":
                equal(b(os.getcwd), m("d/sub"), f"{kind}: getcwd after {end}")
                equal(b(read, "f"), b"x")
            else:
                equal(b(read, "f"), (kind + end).encode(), f"{kind}: a relative path after {end}")
                # The kernel learns of the move when it next looks the names up; meanwhile the old path is shown.
                check(b(os.getcwd) in (m("d/sub"), m("moved/sub")), f"{kind}: getcwd after {end}:", b(os.getcwd))
            b.end()
            a.end()
        os.rename(m("moved"), m("d"))
        write(m("d/sub/f"), "x")


def test_bystander_in_a_removed_directory(t):
    m = t.mount()
    os.makedirs(m("d/sub"))
    for kind in ("ambient", "named"):
        b = t.actor(cwd=m("d/sub"))
        a = t.actor()
        tx, root = ("n", m(".txn/n/root")) if kind == "named" else (None, m.mnt)
        a(os.mkdir, m(".txn/n")) if tx else a(ctl, m.mnt, "begin")
        a(os.rmdir, root + "/d/sub")
        equal(b(ls, "."), [])
        check(not a(exists, root + "/d/sub"))
        # A member's look at the name may cost the bystander its getcwd, until someone outside looks at it too.
        os.stat(m("d/sub"))
        equal(b(os.getcwd), m("d/sub"))
        equal(b(ls, "."), [])
        a(ctl, m.mnt, "commit", tx)
        expect(errno.ENOENT, b, os.getcwd)
        expect(errno.ENOENT, b, write, "x", "x")
        b.end()
        a.end()
        os.mkdir(m("d/sub"))


def test_own_working_directory_when_it_is_renamed_by_commit(t):
    m = t.mount()
    os.makedirs(m("d/sub"))
    a = t.actor(cwd=m("d/sub"))
    a(ctl, m.mnt, "begin")
    a(os.rename, m("d"), m("e"))
    a(write, "f", "relative")
    equal(a(read, m("e/sub/f")), b"relative")
    check(not exists(m("e")) and not exists(m("d/sub/f")))
    a(ctl, m.mnt, "commit")
    equal(read(m("e/sub/f")), b"relative")
    equal(a(read, "f"), b"relative")


# ---- adversaries of membership ----

MAKERS = {
    "dir": os.mkdir,
    "file": lambda p: write(p, "x"),
    "fifo": os.mkfifo,
    "symlink": lambda p: os.symlink("nowhere", p),
    "link": lambda p: os.link(os.path.dirname(p) + "/old", p),
    "moved": lambda p: os.rename(os.path.dirname(p) + "/mv-file", p),
    "moved-dir": lambda p: os.rename(os.path.dirname(p) + "/mv-dir", p),
    "moved-made": lambda p: (os.mkdir(p + "-"), os.rename(p + "-", p)),
}


@quick
def test_new_names_are_the_members_alone(t):
    """Looked up by an outsider right after they were made, with nothing in between that could have asked again."""
    m = t.mount()
    for probed in (False, True):
        d = m("probed" if probed else "fresh")
        os.mkdir(d)
        write(d + "/old", "o")
        write(d + "/mv-file", "f")
        os.mkdir(d + "/mv-dir")
        a = t.actor()
        a(ctl, m.mnt, "begin")
        for name, make in MAKERS.items():
            if probed:  # a name that the kernel knows to be missing
                check(not os.path.lexists(f"{d}/{name}"))
            a(make, f"{d}/{name}")
            check(not os.path.lexists(f"{d}/{name}"), f"an outsider sees {name}")
            check(a(os.path.lexists, f"{d}/{name}"), f"a member does not see {name}")
        a(ctl, m.mnt, "savepoint s")
        a(os.mkdir, d + "/undone")
        a(ctl, m.mnt, "rollback to s")
        a(expect, errno.ENOENT, os.open, d + "/undone", os.O_WRONLY)
        a(ctl, m.mnt, "commit")
        for name in MAKERS:
            check(os.path.lexists(f"{d}/{name}"), f"{name} after the commit")


def test_probing_outsiders_never_see_in(t):
    """Outsiders that look up, stat and list all the time while members change the same names."""
    m = t.mount()
    os.mkdir(m("d"))
    for i in range(20):
        write(m(f"d/f{i}"), "committed")
    stop = t.path("stop")

    def probe(mnt, stop):
        count = 0
        want = sorted(f"f{i}" for i in range(20))
        while not os.path.exists(stop):
            got = sorted(os.listdir(mnt + "/d"))
            if got != want:
                return f"listing {got}"
            for i in range(20):
                if read(f"{mnt}/d/f{i}") != b"committed":
                    return f"contents of f{i}"
                if os.stat(f"{mnt}/d/f{i}").st_size != 9:
                    return f"size of f{i}"
                if os.path.lexists(f"{mnt}/d/new{i}"):
                    return f"new{i}"
            count += 1
        return count

    def member(mnt, seconds):
        end, rounds = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            ctl(mnt, "begin")
            for i in range(20):
                p = f"{mnt}/d/f{i}"
                if i % 4 == 0:
                    write(p, "changed")
                elif i % 4 == 1:
                    os.unlink(p)
                elif i % 4 == 2:
                    os.rename(p, f"{mnt}/d/new{i}")
                else:
                    write(f"{mnt}/d/new{i}", "n")
            for i in range(20):
                p = f"{mnt}/d/f{i}"
                if i % 4 == 0 and read(p) != b"changed":
                    return f"the member lost its change of f{i}"
                if i % 4 in (1, 2) and os.path.lexists(p):
                    return f"the member sees f{i} which it removed"
                if i % 4 > 1 and not os.path.lexists(f"{mnt}/d/new{i}"):
                    return f"the member does not see new{i}"
            ctl(mnt, "rollback")
            rounds += 1
        return rounds
    probes = [t.actor() for _ in range(2)]
    for p in probes:
        p.start(probe, m.mnt, stop)
    rounds = t.actor()(member, m.mnt, 2 if OPT.quick else 4)
    write(stop, "")
    seen = [p.result() for p in probes]
    check(isinstance(rounds, int), rounds)
    check(all(isinstance(s, int) for s in seen), seen)
    t.note(f"{rounds} transactions, {sum(seen)} probes")
