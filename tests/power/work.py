"""
The load of the power-cut test, and what must be there after a cut.

Each worker is a process that commits numbered transactions (named ones, in its part of the tree) and keeps a book outside of the
disk: `I n p`, it will commit n and the disk has p records; `A n p`, n was acknowledged, at p records at the latest. What a
worker's files hold is a function of the number of its last transaction. So after a cut at c the number that is found must
be one that was begun before c and not below the last one that was acknowledged before c, and the files must be exactly
the ones of that number.
"""
import bisect
import errno
import functools
import os
import random
import time

DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV, errno.ESHUTDOWN, errno.ESTALE)
SLOT = 512


class Wrong(Exception):
    """What was promised is not there."""


def put(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        while data:
            data = data[os.write(fd, data):]
    finally:
        os.close(fd)


def get(path):
    with open(path, "rb", buffering=0) as f:
        return f.read()


@functools.lru_cache(maxsize=256)
def noise(key, size):
    return random.Random(key).randbytes(size)


def text(key, n, lo=100, hi=9000):
    """A file's contents: they begin with the number."""
    return b"%012d\n" % n + noise(f"{key}:{n}", random.Random(f"{key}#{n}").randrange(lo, hi))


class Book:
    """A worker's book, read back: what was begun and what was acknowledged at which position."""

    def __init__(self, path, position=None):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.position = position
        self.begun, self.acked, self.sorted = [], [], {}
        for line in get(path).decode().splitlines():
            kind, n, p, *tag = line.split()
            (self.begun if kind == "I" else self.acked).append((int(n), int(p), *tag))

    def _note(self, kind, n, tag):
        os.write(self.fd, f"{kind} {n} {self.position()} {tag}".rstrip().encode() + b"\n")

    def intend(self, n, tag=""):
        self._note("I", n, tag)

    def acknowledge(self, n, tag=""):
        self._note("A", n, tag)

    def bounds(self, cut, tag=None):
        """The least and the greatest number that may be found after a cut."""
        return self._most("A", cut, tag), self._most("I", cut, tag)

    def _most(self, kind, cut, tag):
        if (kind, tag) not in self.sorted:  # numbers grow with positions
            mine = [e for e in (self.begun if kind == "I" else self.acked) if tag is None or e[2] == tag]
            self.sorted[kind, tag] = [e[1] for e in mine], [0] + [e[0] for e in mine]
        positions, numbers = self.sorted[kind, tag]
        return numbers[bisect.bisect_right(positions, cut)]


class Rolled(Exception):
    """Someone else holds what we want."""


class Worker:
    """Base of the workers. step() makes transaction n; tree() says what is there after n."""
    noisy = True  # a transaction that is rolled back now and then

    def __init__(self, name, seed):
        self.name, self.key = name, f"{seed}:{name}"

    # -- while the disk runs --

    def prepare(self, root):
        os.mkdir(f"{root}/{self.name}")
        put(f"{root}/{self.name}/n", b"%012d" % 0)

    def prepare_late(self, root):
        pass

    def now(self, root):
        return int(get(f"{root}/{self.name}/n"))

    def before(self, root, n):
        """Plain operations that transaction n builds on."""

    def transaction(self, mnt, name, work, commit=True):
        """work(root, control); the position right after the commit is what acknowledge() should see."""
        d = f"{mnt}/.txn/{name}"

        def control(command):
            fd = os.open(f"{d}/ctl", os.O_WRONLY)
            try:
                os.write(fd, command.encode())
            finally:
                os.close(fd)
        os.mkdir(d)
        try:
            work(f"{d}/root/{self.name}", control)
            if commit:
                control("commit")
                return
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            os.rmdir(d)
            raise Rolled from None
        os.rmdir(d)

    def one(self, mnt, book, n, rng):
        self.before(f"{mnt}/{self.name}", n)
        if self.noisy and rng.random() < 0.15:
            self.transaction(mnt, f"{self.name}-no-{n}", lambda root, control: self.step(root, n, control), False)
        book.intend(n)
        for attempt in range(1000):
            try:
                self.transaction(mnt, f"{self.name}-{n}", lambda root, control: self.step(root, n, control))
                book.acknowledge(n)
                return
            except Rolled:
                time.sleep(rng.random() * 0.001 * min(attempt + 1, 20))
        raise Wrong(f"{self.name}: transaction {n} met EBUSY 1000 times")

    def settle(self, mnt, book):
        """After a remount: what it shows is there to stay. The next number."""
        n = self.now(mnt)
        lo, hi = book.bounds(book.position())
        if not lo <= n <= hi:
            raise Wrong(f"{self.name}: after the daemon was killed: {n}, acknowledged {lo}, begun {hi}")
        book.acknowledge(n)
        return n + 1

    def loop(self, mnt, book, n, stop, rng):
        while not stop():
            self.one(mnt, book, n, rng)
            n += 1

    # -- after the cut --

    def ignored(self, path, n):
        return False

    def verify(self, root, books, cut):
        """How many acknowledged transactions must be there, and are."""
        lo, hi = books[self.name].bounds(cut)
        n = self.now(root)
        if not lo <= n <= hi:
            raise Wrong(f"{self.name}: shows transaction {n}; acknowledged {lo}, begun {hi}")
        got, want = scan(f"{root}/{self.name}"), self.tree(n)
        want["n"] = b"%012d" % n
        bad = []
        for path in sorted(set(got) | set(want)):
            a, b = got.get(path), want.get(path)
            if a != b and not (b is None and self.ignored(path, n)):
                bad.append(f"{path}: {show(a)}, should be {show(b)}")
        if bad:
            raise Wrong(f"{self.name}: torn at {n} (acknowledged {lo}, begun {hi}): " + "; ".join(bad[:8]))
        return lo


def show(entry):
    if entry is None:
        return "missing"
    if isinstance(entry, bytes):
        return f"{len(entry)} bytes {entry[:24]!r}"
    return f"({', '.join(show(e) if isinstance(e, bytes) else repr(e) for e in entry)})"


def scan(root):
    """
    {path: contents, or (contents, xattrs, other names)}; a directory's contents are "dir", a link's "-> target".
    """
    out, inodes, todo = {}, {}, [""]
    while todo:
        rel = todo.pop()
        for e in os.scandir(os.path.join(root, rel)):
            path, st = os.path.join(rel, e.name), e.stat(follow_symlinks=False)
            if e.is_symlink():
                out[path] = f"-> {os.readlink(e.path)}"
                continue
            xattrs = {k: os.getxattr(e.path, k) for k in sorted(os.listxattr(e.path))}
            if e.is_dir():
                todo.append(path)
                out[path] = ("dir", xattrs, ()) if xattrs else "dir"
                continue
            data = get(e.path)
            if len(data) != st.st_size:
                data = f"{len(data)} of {st.st_size} bytes"
            out[path] = data
            if xattrs or st.st_nlink > 1:
                out[path] = (data, xattrs, st.st_nlink)
                inodes.setdefault(st.st_ino, []).append(path)
    for names in inodes.values():
        for path in names:
            data, xattrs, nlink = out[path]
            group = tuple(sorted(names)) if nlink == len(names) else f"{nlink} links"
            out[path] = (data, xattrs, group if nlink > 1 else ())
    return out


# ---- workers ----

class Pairs(Worker):
    """Two directories that always have the same files, made by create, rename, link and setxattr, gone by unlink."""

    def prepare(self, root):
        super().prepare(root)
        os.mkdir(f"{root}/{self.name}/x")
        os.mkdir(f"{root}/{self.name}/y")

    def step(self, d, n, control):
        put(f"{d}/y/new", text(self.key, n))
        os.setxattr(f"{d}/y/new", "user.n", b"%d" % n)
        os.rename(f"{d}/y/new", f"{d}/y/p{n}")
        os.link(f"{d}/y/p{n}", f"{d}/x/p{n}")
        if n > 1:
            os.setxattr(f"{d}/y/p{n - 1}", "user.next", b"%d" % n)
        if n % 3 == 0:
            control("savepoint s")
            put(f"{d}/x/junk", b"junk" * 1000)
            put(f"{d}/x/p{n}", b"junk")
            os.unlink(f"{d}/y/p{n - 1}")
            os.setxattr(f"{d}/x", "user.junk", b"junk")
            control("rollback to s")
        if n > 3:
            os.unlink(f"{d}/x/p{n - 3}")
            os.unlink(f"{d}/y/p{n - 3}")
        if n % 4 == 0:
            if n > 4:
                os.unlink(f"{d}/link")
            os.symlink(f"p{n}", f"{d}/link")
        put(f"{d}/n", b"%012d" % n)

    def tree(self, n):
        out = {"x": "dir", "y": "dir"}
        for j in range(max(1, n - 2), n + 1):
            xattrs = {"user.n": b"%d" % j}
            if j < n:
                xattrs["user.next"] = b"%d" % (j + 1)
            for side in "xy":
                out[f"{side}/p{j}"] = (text(self.key, j), xattrs, (f"x/p{j}", f"y/p{j}"))
        if n >= 4:
            out["link"] = f"-> p{n // 4 * 4}"
        return out


class Tree(Worker):
    """A directory tree that is renamed, rearranged inside, and gets and loses many files at once."""
    BATCH = 40  # more objects than commit and checkpoint sync one by one

    def prepare(self, root):
        super().prepare(root)
        d = f"{root}/{self.name}"
        os.makedirs(f"{d}/dir-0/a/b")
        os.mkdir(f"{d}/dir-0/c")
        put(f"{d}/dir-0/a/b/leaf", text(self.key, 0))
        put(f"{d}/one", b"one")
        put(f"{d}/two", b"two")

    def step(self, d, n, control):
        t = f"{d}/dir-{n}"
        os.rename(f"{d}/dir-{n - 1}", t)
        here, there = ("a", "c") if n % 2 else ("c", "a")
        os.rename(f"{t}/{here}/b", f"{t}/{there}/b")
        put(f"{t}/{there}/b/leaf", text(self.key, n))
        os.mkdir(f"{t}/k{n}")
        put(f"{t}/k{n}/in", text(self.key, n))
        if n > 2:
            os.unlink(f"{t}/k{n - 2}/in")
            os.rmdir(f"{t}/k{n - 2}")
        os.rename(f"{d}/one", f"{t}/swap")
        os.rename(f"{d}/two", f"{d}/one")
        os.rename(f"{t}/swap", f"{d}/two")
        if n % 10 == 0:
            os.mkdir(f"{t}/batch")
            for i in range(self.BATCH):
                put(f"{t}/batch/{i}", text(self.key, n + i, 10, 400))
        if n % 10 == 5 and n > 10:
            for i in range(self.BATCH):
                os.unlink(f"{t}/batch/{i}")
            os.rmdir(f"{t}/batch")
        put(f"{d}/n", b"%012d" % n)

    def tree(self, n):
        t = f"dir-{n}"
        out = {t: "dir", f"{t}/a": "dir", f"{t}/c": "dir", f"{t}/{'c' if n % 2 else 'a'}/b": "dir",
               f"{t}/{'c' if n % 2 else 'a'}/b/leaf": text(self.key, n)}
        for j in range(max(1, n - 1), n + 1):
            out[f"{t}/k{j}"] = "dir"
            out[f"{t}/k{j}/in"] = text(self.key, j)
        out["one"], out["two"] = (b"two", b"one") if n % 2 else (b"one", b"two")
        if n >= 10 and n % 10 < 5:
            out[f"{t}/batch"] = "dir"
            for i in range(self.BATCH):
                out[f"{t}/batch/{i}"] = text(self.key, n // 10 * 10 + i, 10, 400)
        return out


class Build(Worker):
    """Transactions on files that were made plainly the moment before, or before the mount, without fsync."""
    LATE = 30  # so many are made before the mount
    noisy = False

    def prepare_late(self, root):
        """After everything else was made durable."""
        for n in range(1, self.LATE + 1):
            self.before(f"{root}/{self.name}", n)

    def before(self, root, n):
        d = f"{root}/plain-{n}"
        try:
            os.mkdir(d)
        except FileExistsError:
            # From before the mount, or before the daemon was killed; whole when it has what is made last.
            if os.path.islink(f"{d}/s"):
                return
            for name in os.listdir(d):
                os.unlink(f"{d}/{name}")
        put(f"{d}/f", text(self.key, n))
        put(f"{d}/g", text(self.key, n, 5, 50))
        os.symlink("f", f"{d}/s")

    def step(self, d, n, control):
        fd = os.open(f"{d}/plain-{n}/f", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"and more")
        os.close(fd)
        os.rename(f"{d}/plain-{n}/f", f"{d}/plain-{n}/h")
        os.setxattr(f"{d}/plain-{n}/g", "user.n", b"%d" % n)
        os.rename(f"{d}/plain-{n}/s", f"{d}/plain-{n}/t")
        os.rename(f"{d}/plain-{n}", f"{d}/kept-{n}")
        if n > 3:
            for name in "hgt":
                os.unlink(f"{d}/kept-{n - 3}/{name}")
            os.rmdir(f"{d}/kept-{n - 3}")
        put(f"{d}/n", b"%012d" % n)

    def tree(self, n):
        out = {}
        for j in range(max(1, n - 2), n + 1):
            out[f"kept-{j}"] = "dir"
            out[f"kept-{j}/h"] = text(self.key, j) + b"and more"
            out[f"kept-{j}/g"] = (text(self.key, j, 5, 50), {"user.n": b"%d" % j}, ())
            out[f"kept-{j}/t"] = "-> f"
        return out

    def ignored(self, path, n):
        # Nobody promised anything yet.
        return path.startswith("plain-") and n < int(path.split("/")[0][6:]) <= max(n + 1, self.LATE)


class Big(Worker):
    """Large contents: a file that is written anew, with a hole, and one that is overwritten block by block."""
    BLOCK, BLOCKS = 8192, 48
    noisy = False

    def prepare(self, root):
        super().prepare(root)
        put(f"{root}/{self.name}/whole", b"")
        put(f"{root}/{self.name}/blocks", bytes(self.BLOCK * self.BLOCKS))

    def shape(self, n):
        """Size that is written, and what is left of it; the hole."""
        r = random.Random(f"{self.key}%{n}")
        size = r.choice((20_000, 100_000, 400_000, 1_200_000)) + r.randrange(10_000)
        first = r.randrange(size // 2)
        return size, size - r.randrange(size // 3), first, r.randrange(1, size // 4)

    def block(self, n):
        return b"%012d" % n + noise(f"{self.key}b{n}", self.BLOCK - 12)

    def step(self, d, n, control):
        size, left, hole, length = self.shape(n)
        put(f"{d}/whole", noise(f"{self.key}w{n}", size))
        os.truncate(f"{d}/whole", left)
        fd = os.open(f"{d}/whole", os.O_WRONLY)
        os.pwrite(fd, bytes(length), hole)
        os.close(fd)
        fd = os.open(f"{d}/blocks", os.O_WRONLY)
        os.pwrite(fd, self.block(n), n % self.BLOCKS * self.BLOCK)
        os.close(fd)
        put(f"{d}/n", b"%012d" % n)

    def tree(self, n):
        out = {"whole": b"", "blocks": bytearray(self.BLOCK * self.BLOCKS)}
        if n:
            size, left, hole, length = self.shape(n)
            data = bytearray(noise(f"{self.key}w{n}", size)[:left])
            data[hole:hole + length] = bytes(length)
            out["whole"] = bytes(data)
        for j in range(max(1, n - self.BLOCKS + 1), n + 1):
            at = j % self.BLOCKS * self.BLOCK
            out["blocks"][at:at + self.BLOCK] = self.block(j)
        out["blocks"] = bytes(out["blocks"])
        return out


class Slow(Worker):
    """A transaction that is open for so long that checkpoints carry its records forward."""
    PIECES, PAUSE = 20, 0.04
    noisy = False

    def piece(self, n, i):
        return noise(f"{self.key}:{n}:{i}", 300)

    def step(self, d, n, control):
        for i in range(self.PIECES):
            fd = os.open(f"{d}/slow", os.O_WRONLY | os.O_CREAT, 0o644)
            os.pwrite(fd, self.piece(n, i), 300 * i)
            os.close(fd)
            put(f"{d}/new-{n}-{i % 3}", self.piece(n, i))
            time.sleep(self.PAUSE)
        if n > 1:
            for i in range(3):
                os.unlink(f"{d}/new-{n - 1}-{i}")
        put(f"{d}/n", b"%012d" % n)

    def tree(self, n):
        if not n:
            return {}
        out = {"slow": b"".join(self.piece(n, i) for i in range(self.PIECES))}
        for i in range(self.PIECES):
            out[f"new-{n}-{i % 3}"] = self.piece(n, i)
        return out


# ---- the bank: several workers on the same files ----

class Bank:
    """
    Accounts are files. Tellers move money between two of them in a transaction. Clerks write into a sector of their own in the
    same files, plainly, and fsync. An account: a sector for each clerk; a header with the balance, the number of each teller's
    last transaction here and who was the last one; and a body that depends on who that was.
    """
    ACCOUNTS, MONEY, TELLERS, CLERKS = 6, 10_000, 3, 2
    dir = "bank"

    def __init__(self, seed):
        self.seed = seed

    @functools.cache
    def plan(self, teller, n):
        """From, to, how much, and whether the files are replaced instead of overwritten."""
        r = random.Random(f"{self.seed}:{teller}:{n}")
        a, b = r.sample(range(self.ACCOUNTS), 2)
        return a, b, r.randrange(1, 100), r.random() < 0.15

    def body(self, teller, n):
        return noise(f"{self.seed}:body:{teller}:{n}", 2000 + (teller * 7919 + n * 104729) % 7000) if n else b""

    def slot(self, clerk, n):
        line = b"clerk %d wrote %d\n" % (clerk, n)
        return (line * (SLOT // len(line) + 1))[:SLOT]

    def account(self, slots, balance, last, teller, n):
        head = f"{balance} {' '.join(map(str, last))} {teller} {n}".encode()
        return slots + head.ljust(SLOT) + self.body(teller, n)

    def parse(self, data):
        """(slots, balance, each teller's last number, last teller, its number)"""
        at = SLOT * self.CLERKS
        balance, *last, teller, n = map(int, data[at:at + SLOT].split())
        return data[:at], balance, last, teller, n

    def prepare(self, root):
        os.mkdir(f"{root}/{self.dir}")
        slots = b"".join(self.slot(c, 0) for c in range(self.CLERKS))
        for i in range(self.ACCOUNTS):
            put(f"{root}/{self.dir}/{i}", self.account(slots, self.MONEY, [0] * self.TELLERS, 0, 0))

    def prepare_late(self, root):
        pass

    def verify(self, root, books, cut):
        files = {name: get(f"{root}/{self.dir}/{name}") for name in sorted(os.listdir(f"{root}/{self.dir}"))}
        if list(files) != [str(i) for i in range(self.ACCOUNTS)]:
            raise Wrong(f"bank: files {list(files)}")
        state = []
        for name, data in files.items():
            try:
                state.append(self.parse(data))
            except ValueError:
                raise Wrong(f"bank: account {name} is torn: {show(data)}") from None
        money = sum(s[1] for s in state)
        if money != self.MONEY * self.ACCOUNTS:
            raise Wrong(f"bank: the sum of all money is {money}, not {self.MONEY * self.ACCOUNTS}: {self.short(state)}")
        done = self.tellers(books, cut, state)
        for i, (slots, balance, last, teller, n) in enumerate(state):
            if last[teller] != n:
                raise Wrong(f"bank: account {i} is torn: last was {n} of teller {teller}, of {last}")
            if files[str(i)] != self.account(slots, balance, last, teller, n):
                raise Wrong(f"bank: account {i} is torn: its body is not the one of {n} of teller {teller}")
            done += self.slots(books, cut, i, slots)
        return done

    def tellers(self, books, cut, state):
        """Each teller's transactions are there up to one number, in all accounts, and no others."""
        balance = [self.MONEY] * self.ACCOUNTS
        done = 0
        for t in range(self.TELLERS):
            lo, hi = books[f"teller-{t}"].bounds(cut)
            n = max(s[2][t] for s in state)
            if not lo <= n <= hi:
                raise Wrong(f"bank: teller {t} is at {n}; acknowledged {lo}, begun {hi}: {self.short(state)}")
            last = [0] * self.ACCOUNTS
            for j in range(1, n + 1):
                a, b, amount, _ = self.plan(t, j)
                balance[a] -= amount
                balance[b] += amount
                last[a] = last[b] = j
            for i, s in enumerate(state):
                if s[2][t] != last[i]:
                    raise Wrong(f"bank: teller {t} is at {n}, but account {i} has its {s[2][t]}, not {last[i]} "
                                f"(acknowledged {lo}, begun {hi})")
            done += lo
        for i, s in enumerate(state):
            if s[1] != balance[i]:
                raise Wrong(f"bank: account {i} has {s[1]}, should have {balance[i]}")
        return done

    def slots(self, books, cut, i, slots):
        done = 0
        for c in range(self.CLERKS):
            mine = slots[c * SLOT:(c + 1) * SLOT]
            lo, hi = books[f"clerk-{c}"].bounds(cut, str(i))
            try:
                n = int(mine.split()[3])
            except (ValueError, IndexError):
                n = -1
            if n < 0 or mine != self.slot(c, n):
                raise Wrong(f"bank: account {i}: clerk {c}'s sector is torn: {show(mine)}")
            if not lo <= n <= hi:
                raise Wrong(f"bank: account {i}: clerk {c} shows {n}; synced {lo}, begun {hi}")
            done += lo > 0
        return done

    @staticmethod
    def short(state):
        return "; ".join(f"{i}: {s[1]} {s[2]}" for i, s in enumerate(state))


class Teller(Worker):
    noisy = False

    def __init__(self, bank, number):
        super().__init__(f"teller-{number}", bank.seed)
        self.bank, self.number = bank, number

    def prepare(self, root):
        pass

    def now(self, root):
        bank = self.bank
        return max(bank.parse(get(f"{root}/{bank.dir}/{i}"))[2][self.number] for i in range(bank.ACCOUNTS))

    def step(self, d, n, control):
        d = os.path.join(os.path.dirname(d), self.bank.dir)
        a, b, amount, replace = self.bank.plan(self.number, n)
        for i in sorted((a, b)):
            self.take(f"{d}/{i}")
        for i, change in ((a, -amount), (b, amount)):
            slots, balance, last, _, _ = self.bank.parse(get(f"{d}/{i}"))
            last[self.number] = n
            data = self.bank.account(slots, balance + change, last, self.number, n)
            if replace:
                put(f"{d}/{i}.new{self.number}", data)
                os.rename(f"{d}/{i}.new{self.number}", f"{d}/{i}")
                continue
            fd = os.open(f"{d}/{i}", os.O_WRONLY)
            try:
                os.pwrite(fd, data, 0)
                os.ftruncate(fd, len(data))
            finally:
                os.close(fd)

    def take(self, path):
        """
        Change it before reading it: then nobody else changes it until we have committed. If it still has the name. Tellers that
        wait here take turns: everyone takes accounts in the same order.
        """
        for attempt in range(200):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.setxattr(fd, "user.teller", b"%d" % self.number)
                if os.fstat(fd).st_ino == os.stat(path).st_ino:
                    return
                break
            except OSError as e:
                if e.errno != errno.EBUSY:
                    raise
                time.sleep(0.0002)
            finally:
                os.close(fd)
        raise OSError(errno.EBUSY, "somebody else's, or replaced meanwhile")

    def verify(self, root, books, cut):
        return 0  # the bank does it


class Clerk(Worker):
    """Plain writes with fsync between the tellers' transactions: the log must not bring back what was before (I5)."""

    def __init__(self, bank, number):
        super().__init__(f"clerk-{number}", bank.seed)
        self.bank, self.number = bank, number

    def prepare(self, root):
        pass

    def settle(self, mnt, book):
        return max((e[0] for e in book.begun), default=0) + 1

    def one(self, mnt, book, n, rng):
        i = rng.randrange(self.bank.ACCOUNTS)
        path = f"{mnt}/{self.bank.dir}/{i}"
        book.intend(n, str(i))
        for attempt in range(5000):
            fd = os.open(path, os.O_WRONLY)
            try:
                os.pwrite(fd, self.bank.slot(self.number, n), SLOT * self.number)
                # A teller may have replaced the file between open and write: then it was written to the old one.
                if os.fstat(fd).st_ino == os.stat(path).st_ino:
                    os.fsync(fd)
                    book.acknowledge(n, str(i))
                    time.sleep(rng.random() * 0.002)
                    return
            except OSError as e:
                if e.errno != errno.EBUSY:
                    raise
                time.sleep(rng.random() * 0.001)
            finally:
                os.close(fd)
        raise Wrong(f"{self.name}: write {n} met EBUSY 5000 times")

    def verify(self, root, books, cut):
        return 0


def workers(seed):
    """(who prepares and verifies, who runs)"""
    bank = Bank(seed)
    mine = [Pairs("pairs", seed), Tree("tree", seed), Build("build", seed), Big("big", seed),
            Slow("slow", seed)]
    people = [Teller(bank, i) for i in range(bank.TELLERS)] + [Clerk(bank, i) for i in range(bank.CLERKS)]
    return [bank, *mine], [*mine, *people]


def verify(root, seed, books, cut):
    """How many acknowledged commits must be in the tree at root, and are; Wrong tells what is not as promised."""
    done, bad = 0, []
    for w in workers(seed)[0]:
        try:
            done += w.verify(root, books, cut)
        except (Wrong, OSError, ValueError) as e:
            bad.append(str(e) if isinstance(e, Wrong) else f"{getattr(w, 'name', 'bank')}: {e!r}")
    extra = set(os.listdir(root)) - {"bank", "pairs", "tree", "build", "big", "slow", ".txnfs"}
    if extra:
        bad.append(f"strangers: {sorted(extra)}")
    if bad:
        raise Wrong("\n".join(bad))
    return done
