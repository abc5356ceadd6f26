"""As on the host: contents, open files without a name, mappings, locks, and programs. See cases.py."""
import errno
import fcntl
import mmap
import os
import stat
import subprocess

import sysc
from cases import case, files, hash_of, tree
from harness import Failure, append, check, equal, in_child, name_of, read, write


# ---- contents ----

@case(files, in_quick=True)
def case_open_flags(p):
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        for extra in (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_APPEND,
                      os.O_PATH, os.O_CREAT | os.O_NOFOLLOW, os.O_TRUNC | os.O_NOFOLLOW):
            for name in ("g", "dir", "ln", "dangling", "loop", "none", "none/x", "g/x", "dir/", "g/"):
                fd = p.open(p(name), flags | extra)
                if fd is not None:
                    os.close(fd)
                if name in ("none", "dangling") and extra & os.O_CREAT:
                    p.do(os.unlink, p("none" if name == "none" else "nowhere"))


@case(files, in_quick=True)
def case_read_and_write(p):
    fd = p.open(p("f"), os.O_RDWR)
    p.do(lambda: os.write(fd, b"start"))
    p.do(lambda: os.read(fd, 10))
    p.do(lambda: os.pread(fd, 20, 9990))
    p.do(lambda: os.pread(fd, 20, 10000))
    p.do(lambda: os.pread(fd, 20, 1 << 40))
    p.do(lambda: os.pwrite(fd, b"x" * 5000, 7000))
    p.do(lambda: os.pwrite(fd, b"far", 100_000))
    p.do(lambda: os.pread(fd, 100_100, 0))
    p.do(lambda: os.pwrite(fd, b"", 500_000))
    p.do(lambda: os.lseek(fd, 0, os.SEEK_END))
    p.do(lambda: os.lseek(fd, -5, os.SEEK_SET))
    p.do(lambda: os.writev(fd, [b"a", b"bc" * 3000, b"d"]))
    p.do(lambda: os.preadv(fd, [bytearray(10), bytearray(100)], 99_990))
    p.do(lambda: os.fstat(fd).st_size)
    os.close(fd)
    fd = p.open(p("f"), os.O_RDONLY)
    p.do(lambda: os.write(fd, b"x"))
    os.close(fd)
    fd = p.open(p("f"), os.O_WRONLY)
    p.do(lambda: os.read(fd, 1))
    os.close(fd)
    p.do(read, p("f"))


@case(files, in_quick=True)
def case_truncate_on_open(p):
    fd = p.open(p("f"), os.O_RDWR | os.O_TRUNC)
    p.do(lambda: os.fstat(fd).st_size)
    p.do(lambda: os.pwrite(fd, b"tail", 100))
    os.close(fd)
    fd = p.open(p("g"), os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
    os.close(fd)
    p.do(read, p("f"))
    p.stat(p("g"))
    p.do(lambda: os.close(os.open(p("dir"), os.O_RDONLY | os.O_TRUNC)))


@case(files, in_quick=True)
def case_append(p):
    fd = p.open(p("g"), os.O_RDWR | os.O_APPEND)
    fd2 = p.open(p("g"), os.O_WRONLY | os.O_APPEND)
    for i in range(20):
        p.do(lambda i=i: os.write(fd if i % 2 else fd2, b"%d," % i))
    p.do(lambda: os.lseek(fd, 0, os.SEEK_CUR))
    p.do(lambda: os.pread(fd, 1000, 0))
    p.do(lambda: os.ftruncate(fd, 3))
    p.do(lambda: os.write(fd2, b"after"))
    os.close(fd)
    os.close(fd2)
    p.do(read, p("g"))


@case(files)
def case_appends_of_several_processes(p):
    def many(path, mark):
        for _ in range(50):
            append(path, mark * 10)
    pids = []
    for mark in (b"a", b"b", b"c"):
        pid = os.fork()
        if pid == 0:
            try:
                many(p("empty"), mark)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    p.note([os.waitpid(pid, 0)[1] for pid in pids])
    data = read(p("empty"))
    p.note(len(data), [data.count(m) for m in (b"a", b"b", b"c")])
    p.note(all(data[i:i + 10] == data[i:i + 1] * 10 for i in range(0, len(data), 10)))
    write(p("empty"), "")  # the order is not the same everywhere


@case(files)
def case_far_beyond_the_end(p):
    fd = p.open(p("g"), os.O_RDWR)
    for off in (4095, 4096, 65535, 1 << 20, (1 << 30) + 7, 1 << 40):
        p.do(os.pwrite, fd, b"mark", off)
        p.do(lambda off=off: os.pread(fd, 12, off - 4))
        p.do(lambda: os.fstat(fd).st_size)
    p.do(lambda: os.pwrite(fd, b"x", 1 << 62))
    p.do(os.ftruncate, fd, 1 << 63 - 1)
    p.do(os.ftruncate, fd, (2 << 20) + 100)
    p.do(lambda: os.pread(fd, 1 << 21, 0))
    os.close(fd)


@case(files, in_quick=True)
def case_truncate(p):
    for size in (5000, 4096, 10, 8000, 0, 100, 100, 70_000, 1):
        p.do(os.truncate, p("f"), size)
        p.do(read, p("f"))
    fd = p.open(p("g"), os.O_RDWR)
    p.do(os.ftruncate, fd, 3)
    p.do(os.ftruncate, fd, 10)
    p.do(lambda: os.pread(fd, 100, 0))
    p.do(os.pwrite, fd, b"Z", 6)
    p.do(os.ftruncate, fd, 2)
    p.do(os.ftruncate, fd, 8)
    p.do(lambda: os.pread(fd, 100, 0))
    p.do(os.ftruncate, fd, -1)
    os.close(fd)
    p.do(os.truncate, p("dir"), 0)
    p.do(os.truncate, p("none"), 0)
    p.do(os.truncate, p("ln"), 7)
    fd = p.open(p("f"), os.O_RDONLY)
    p.do(os.ftruncate, fd, 1)
    os.close(fd)


@case(files, in_quick=True)
def case_fallocate(p):
    fd = p.open(p("f"), os.O_RDWR)
    keep, punch, zero = sysc.FALLOC_KEEP_SIZE, sysc.FALLOC_PUNCH_HOLE, sysc.FALLOC_ZERO_RANGE
    for mode, off, n in ((0, 0, 100), (0, 9000, 5000), (keep, 20_000, 10_000), (punch | keep, 4096, 4096),
                         (punch | keep, 100, 50), (punch | keep, 13_000, 100_000), (zero, 200, 30),
                         (zero, 13_990, 500), (zero | keep, 14_400, 5000), (0, 50_000, 1), (punch, 0, 10),
                         (0, 0, 0), (0, -1, 10), (0, 10, -1)):
        p.do(sysc.fallocate, fd, mode, off, n)
        p.do(lambda: os.fstat(fd).st_size)
        p.do(lambda: os.pread(fd, 100_000, 0))
    os.close(fd)
    fd = p.open(p("f"), os.O_RDONLY)
    p.do(sysc.fallocate, fd, 0, 0, 10)
    os.close(fd)


def test_fallocate_other_modes_are_refused(t):
    m = t.mount()
    n = m.named()
    for root in (m.mnt, n.root):
        write(root + "/f", b"x" * 20000)
        fd = os.open(root + "/f", os.O_RDWR)
        for mode in (sysc.FALLOC_COLLAPSE_RANGE, sysc.FALLOC_INSERT_RANGE, 0x40 | 1):
            try:
                sysc.fallocate(fd, mode, 4096, 4096)
                raise Failure(f"mode {mode} succeeded")
            except OSError as e:
                equal(e.errno, errno.EOPNOTSUPP, f"mode {mode}")
        os.close(fd)
        equal(read(root + "/f"), b"x" * 20000)
        if root == m.mnt:
            os.unlink(root + "/f")


@case(files, in_quick=True)
def case_copy_file_range(p):
    a, b = p.open(p("f"), os.O_RDWR), p.open(p("g"), os.O_RDWR)

    def copy(x, y, n, off_x, off_y):
        done = 0
        while done < n:
            k = os.copy_file_range(x, y, n - done, off_x + done, off_y + done)
            if not k:
                break
            done += k
        return done
    p.do(lambda: copy(a, b, 5000, 100, 2))
    p.do(lambda: copy(a, b, 100_000, 9000, 6000))
    p.do(lambda: copy(a, b, 10, 20_000, 0))
    p.do(lambda: copy(a, a, 1000, 0, 20_000))
    p.do(lambda: copy(a, a, 1000, 0, 500))
    p.do(lambda: copy(b, a, 4096, 0, 4096))
    ro = p.open(p("g"), os.O_RDONLY)
    p.do(lambda: copy(a, ro, 10, 0, 0))
    for fd in (a, b, ro):
        os.close(fd)
    p.do(read, p("f"))
    p.do(read, p("g"))


def case_seek_setup(d):
    fd = os.open(d + "/sparse", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, b"A" * 5000, 0)
    os.pwrite(fd, b"B" * 100, 1 << 20)
    os.ftruncate(fd, 3 << 20)
    os.close(fd)


@case(case_seek_setup)
def case_seek_data_and_hole(p):
    """Data must never be reported as a hole; holes may be reported as data."""
    fd = p.open(p("sparse"), os.O_RDWR)
    os.pwrite(fd, b"C" * 10, 2 << 20)
    sysc.fallocate(fd, sysc.FALLOC_PUNCH_HOLE | sysc.FALLOC_KEEP_SIZE, 0, 4096)
    marks = [(4096, 904), (1 << 20, 100), (2 << 20, 10)]
    pos, extents = 0, []
    while True:
        try:
            start = os.lseek(fd, pos, os.SEEK_DATA)
        except OSError as e:
            equal(e.errno, errno.ENXIO)
            break
        end = os.lseek(fd, start, os.SEEK_HOLE)
        check(pos <= start < end <= 3 << 20, "extents advance:", pos, start, end)
        extents.append((start, end))
        pos = end
    for off, n in marks:
        check(any(s <= off and off + n <= e for s, e in extents), "data reported as a hole:", off, n, extents)
    p.do(lambda: os.lseek(fd, 3 << 20, os.SEEK_DATA))
    p.do(lambda: os.lseek(fd, 4 << 20, os.SEEK_HOLE))
    p.do(lambda: os.lseek(fd, (3 << 20) - 1, os.SEEK_HOLE))
    os.close(fd)


def aligned(n, fill):
    buf = mmap.mmap(-1, n)
    buf.write(fill * n)
    return buf


@case(files)
def case_direct_io(p):
    fd = p.open(p("d"), os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    p.do(lambda: os.pwrite(fd, aligned(8192, b"x"), 0))
    p.do(lambda: os.pwrite(fd, aligned(4096, b"y"), 4096 * 5))
    buf = aligned(4096 * 8, b" ")
    n = p.do(lambda: os.preadv(fd, [buf], 0))
    p.note(hash_of(bytes(buf[:n])))
    plain = p.open(p("d"), os.O_RDWR)
    p.do(lambda: os.pread(plain, 100, 4096))
    p.do(lambda: os.pwrite(plain, b"cached", 4096))
    buf = aligned(4096, b" ")
    p.do(lambda: os.preadv(fd, [buf], 4096))
    p.note(bytes(buf[:10]))
    p.do(lambda: os.pwrite(fd, aligned(4096, b"z"), 4096))
    p.do(lambda: os.pread(plain, 10, 4096))
    os.close(fd)
    os.close(plain)


# ---- open files without a name ----

@case(files, in_quick=True)
def case_unlink_open(p):
    fd = p.open(p("f"), os.O_RDWR)
    p.do(os.unlink, p("f"))
    p.do(lambda: os.pread(fd, 10, 0))
    p.do(lambda: os.pwrite(fd, b"still here", 0))
    p.do(lambda: os.pread(fd, 12, 0))
    p.do(lambda: os.fstat(fd).st_nlink)
    p.do(os.ftruncate, fd, 5)
    p.do(os.fchmod, fd, 0o600)
    p.do(lambda: stat.filemode(os.fstat(fd).st_mode))
    p.do(write, p("f"), "another")
    p.do(lambda: os.pread(fd, 12, 0))
    os.close(fd)
    p.do(read, p("f"))


@case(files, in_quick=True)
def case_rename_over_open(p):
    fd = p.open(p("g"), os.O_RDWR)
    p.do(os.rename, p("f"), p("g"))
    p.do(lambda: os.pread(fd, 10, 0))
    p.do(lambda: os.pwrite(fd, b"old one", 0))
    p.do(lambda: os.fstat(fd).st_nlink)
    p.do(read, p("g"))
    p.do(os.stat, p("f"))
    os.close(fd)
    p.do(read, p("g"))


@case(files)
def case_created_and_unlinked_while_open(p):
    fd = p.open(p("new"), os.O_RDWR | os.O_CREAT | os.O_EXCL)
    p.do(os.pwrite, fd, b"data" * 2000, 0)
    p.do(os.unlink, p("new"))
    p.do(lambda: os.pread(fd, 9000, 0))
    p.do(os.pwrite, fd, b"more", 8000)
    p.do(lambda: os.pread(fd, 9000, 0))
    p.do(os.mkdir, p("new"))
    os.close(fd)


@case(files, in_quick=True)
def case_tmpfile(p):
    fd = p.open(p("dir"), os.O_TMPFILE | os.O_RDWR, 0o640)
    p.do(os.pwrite, fd, b"unnamed", 0)
    p.do(lambda: os.fstat(fd).st_nlink)
    p.do(sysc.linkat, f"/proc/self/fd/{fd}", p("named"), sysc.AT_SYMLINK_FOLLOW)
    p.do(os.pwrite, fd, b"NAMED", 2)
    p.do(lambda: os.fstat(fd).st_nlink)
    os.close(fd)
    p.stat(p("named"))
    p.do(read, p("named"))
    fd = p.open(p("dir"), os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    p.do(os.pwrite, fd, b"never named", 0)
    p.do(sysc.linkat, f"/proc/self/fd/{fd}", p("x"), sysc.AT_SYMLINK_FOLLOW)
    os.close(fd)
    p.open(p("dir"), os.O_TMPFILE | os.O_RDONLY)


# ---- mappings and locks ----

@case(files, in_quick=True)
def case_shared_mapping(p):
    fd = p.open(p("f"), os.O_RDWR)
    with mmap.mmap(fd, 10_000) as mp:
        p.note(bytes(mp[:10]))
        mp[5:9] = b"MMAP"
        mp[9990:10_000] = b"the end..."
        p.do(lambda: os.pread(fd, 12, 0))
        p.do(os.pwrite, fd, b"write", 4096)
        p.note(bytes(mp[4096:4101]))
    os.close(fd)
    p.do(lambda: read(p("f"))[:20])


@case(files, in_quick=True)
def case_shared_mapping_of_a_new_file(p):
    fd = p.open(p("new"), os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 20_000)
    with mmap.mmap(fd, 20_000) as mp:
        for i in range(0, 20_000, 100):
            mp[i] = i % 251
        mp.flush()
        mp[19_999] = 7
    p.do(lambda: os.pread(fd, 20_000, 0))
    os.close(fd)


@case(files)
def case_private_mapping(p):
    fd = p.open(p("f"), os.O_RDWR)
    with mmap.mmap(fd, 8192, mmap.MAP_PRIVATE) as mp:
        mp[0:4] = b"mine"
        p.note(bytes(mp[:8]))
        p.do(lambda: os.pread(fd, 8, 0))
        p.do(os.pwrite, fd, b"written", 5000)
        p.note(bytes(mp[5000:5007]))
    os.close(fd)


@case(files)
def case_locks_between_processes(p):
    fd = p.open(p("f"), os.O_RDWR)

    def other(how, kind, span=()):
        """What another process of the same view gets."""
        def body():
            fd2 = os.open(p("f"), os.O_RDWR)
            try:
                how(fd2, kind | fcntl.LOCK_NB, *span)
                return "locked"
            except OSError as e:
                return name_of(e)
        return in_child(body)
    p.do(lambda: fcntl.flock(fd, fcntl.LOCK_EX))
    p.note("flock", other(fcntl.flock, fcntl.LOCK_EX), other(fcntl.flock, fcntl.LOCK_SH))
    p.do(lambda: fcntl.flock(fd, fcntl.LOCK_SH))
    p.note("flock", other(fcntl.flock, fcntl.LOCK_EX), other(fcntl.flock, fcntl.LOCK_SH))
    p.do(lambda: fcntl.flock(fd, fcntl.LOCK_UN))
    p.note("flock", other(fcntl.flock, fcntl.LOCK_EX))
    p.do(lambda: fcntl.lockf(fd, fcntl.LOCK_EX, 10, 100))
    p.note("lockf", other(fcntl.lockf, fcntl.LOCK_EX, (5, 105)), other(fcntl.lockf, fcntl.LOCK_SH, (10, 110)))
    p.do(lambda: fcntl.lockf(fd, fcntl.LOCK_UN, 10, 100))
    p.note("lockf", other(fcntl.lockf, fcntl.LOCK_EX, (5, 105)))
    os.close(fd)


# ---- many things at once ----

@case(tree)
def case_many_small_files(p):
    for i in range(300):
        write(p(f"full/f{i:03}"), f"{i}" * (i % 7))
    for i in range(0, 300, 3):
        os.unlink(p(f"full/f{i:03}"))
    for i in range(1, 300, 3):
        os.rename(p(f"full/f{i:03}"), p(f"empty/g{i:03}"))
    p.do(lambda: sorted(os.listdir(p("full"))))
    p.do(lambda: sorted(os.listdir(p("empty"))))


@case(tree)
def case_programs(p):
    """What ordinary programs do."""
    script = """set -e; cd "$1"
        cp -a a copy; tar cf t.tar copy; mkdir out; tar xf t.tar -C out; rm -r copy
        sed -i s/f/F/ f; ln -sf f ln; ln -f f hard; mv out/copy/b b2; touch -d @1000 b2/f
        seq 1000 > n; sort -r -o n n; gzip -n n; zcat n.gz | head -3; rm t.tar
        find . -name 'f*' | sort; install -m 750 f bin
        dd if=/dev/zero of=z bs=1k count=3 seek=10 conv=notrunc 2>/dev/null; truncate -s 5 z
        rmdir empty; du -a >/dev/null"""
    r = subprocess.run(["bash", "-c", script, "bash", p.root], check=False, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT)
    p.note(r.returncode, r.stdout)


@case(tree)
def case_sqlite(p):
    """A database with its own journal works in every view."""
    import sqlite3
    db = sqlite3.connect(p("db"), isolation_level=None)
    db.execute("create table t (a, b)")
    db.execute("begin")
    db.executemany("insert into t values (?, ?)", [(i, "x" * i) for i in range(200)])
    db.execute("commit")
    db.execute("begin")
    db.execute("delete from t")
    db.execute("rollback")
    p.note(db.execute("select count(*), sum(a), sum(length(b)) from t").fetchall())
    p.note(db.execute("pragma integrity_check").fetchall())
    db.close()
    p.note(os.path.exists(p("db-journal")))
    os.unlink(p("db"))  # its bytes hold counters
