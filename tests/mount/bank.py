"""
The bank of the kill tests: accounts in files of several pages, and transfers between two of them in all kinds of
transactions. What an account's file says is repeated to its end, so that a torn file shows; each version names the
transfer that made it and the other account's version, so that half a transfer shows.

Works as a program too, for `txnfs run`: bank.py ROOT LEDGER SEED ID. Small imports: it is started often.
"""
import collections
import errno
import os
import random
import struct
import sys

ACCOUNTS = 50
FUNDS = 1000  # of each account in the beginning
PLAIN = 3     # every so manieth account gets plain changes too; every fifth one is replaced by rename
DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV, errno.ECONNREFUSED, errno.ESHUTDOWN)
BUSY, GONE = 3, 4  # exit statuses: an account is in use, the daemon has ended

Entry = collections.namedtuple("Entry", "balance version transfer peer peer_version")
Change = collections.namedtuple("Change", "transfer account entry")

CELL = 64


class Torn(Exception):
    """A file that does not show one version."""


# ---- files ----

def path_of(root, account):
    return os.path.join(root, "bank", f"{account:02d}")


def contents(account, entry):
    cell = b"%010d %010d %016x %04d %010d" % entry
    return (cell + b"." * (CELL - 1 - len(cell)) + b"\n") * (70 + account * 5 + entry.version % 7)


def parse(account, data):
    try:
        f = data[:CELL].split(b".")[0].split()
        entry = Entry(int(f[0]), int(f[1]), int(f[2], 16), int(f[3]), int(f[4]))
    except (IndexError, ValueError):
        raise Torn(f"account {account}: {len(data)} bytes begin with {data[:CELL]!r}") from None
    if data != contents(account, entry):
        cells = collections.Counter(data[i:i + CELL] for i in range(0, len(data), CELL))
        raise Torn(f"account {account}: {len(data)} bytes of {cells.most_common(3)}")
    return entry


def look(root, account):
    with open(path_of(root, account), "rb") as f:
        return parse(account, f.read())


def make(src):
    os.mkdir(os.path.join(src, "bank"))
    for i in range(ACCOUNTS):
        with open(path_of(src, i), "wb") as f:
            f.write(contents(i, Entry(FUNDS, 0, 0, 0, 0)))
    for which in range(BULKS):
        os.mkdir(os.path.join(src, f"bulk{which}"))
        fill(os.path.join(src, f"bulk{which}"), 0)


def replaced(account):
    return account % 5 == 4


# ---- the ledger ----

class Ledger:
    """
    A worker's own, outside of the mount: what a transfer makes of its two accounts is in it before the commit is asked
    for, that it was acknowledged after.
    """
    FORM = struct.Struct("<BQHIIHIHIIHI")

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    def _put(self, kind, transfer, *changes):
        flat = [x for c in changes for x in (c.account, c.entry.balance, c.entry.version, c.entry.peer,
                                             c.entry.peer_version)]
        os.write(self.fd, self.FORM.pack(kind, transfer, *flat))

    def intend(self, one, other):
        self._put(0, one.transfer, one, other)

    def acknowledge(self, transfer):
        nothing = Change(0, 0, Entry(0, 0, 0, 0, 0))
        self._put(1, transfer, nothing, nothing)

    def read(self):
        """({transfer: its two changes}, the acknowledged transfers)"""
        intended, acknowledged = {}, set()
        data = os.pread(self.fd, os.fstat(self.fd).st_size, 0)
        for kind, transfer, *f in self.FORM.iter_unpack(data[:len(data) // self.FORM.size * self.FORM.size]):
            if kind:
                acknowledged.add(transfer)
                continue
            intended[transfer] = [Change(transfer, a, Entry(balance, version, transfer, peer, peer_version))
                                  for a, balance, version, peer, peer_version in (f[:5], f[5:])]
        return intended, acknowledged


class Notes:
    """
    The same for changes that are numbers: which one of a key is to come, has come, was refused. One line each, in a
    file that only one process writes.
    """
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    def intend(self, key, number):
        os.write(self.fd, b"%d %d 0\n" % (key, number))

    def acknowledge(self, key, number):
        os.write(self.fd, b"%d %d 1\n" % (key, number))

    def read(self, base):
        """({key: newest number acknowledged}, {key: those that may be there}); base: the numbers before."""
        least, may = dict(base), {key: {n} for key, n in base.items()}
        for line in os.pread(self.fd, os.fstat(self.fd).st_size, 0).splitlines():
            key, number, acknowledged = map(int, line.split())
            may.setdefault(key, {0}).add(number)
            if acknowledged:
                least[key] = number
        return least, may


# ---- transfers ----

def busy(path):
    return OSError(errno.EBUSY, "replaced meanwhile", path)


def lock(root, account, rng):
    """Take it for the transaction by some change, then read it: what is read now is the newest version."""
    path = path_of(root, account)
    before = os.stat(path)
    how = rng.choice(("utime", "chmod", "write", "extend"))
    if how == "utime":
        try:
            os.utime(path, ns=(rng.randrange(1 << 60), rng.randrange(1 << 60)))
        except OSError as e:
            e.filename = path  # which Python leaves out
            raise
    elif how == "chmod":
        os.chmod(path, (before.st_mode & 0o7777) ^ 0o040)
    elif how == "write":
        fd = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(fd, b"\n", CELL - 1)
        finally:
            os.close(fd)
    else:
        os.truncate(path, 100_000)
    if os.stat(path).st_ino != before.st_ino:
        raise busy(path)  # someone else's rename came between: the lock is on the file that was replaced
    with open(path, "rb") as f:
        cell = f.read(CELL)
    return parse_cell(account, cell)


def parse_cell(account, cell):
    """As parse(), of the first cell alone."""
    try:
        f = cell.split(b".")[0].split()
        return Entry(int(f[0]), int(f[1]), int(f[2], 16), int(f[3]), int(f[4]))
    except (IndexError, ValueError):
        raise Torn(f"account {account} begins with {cell!r}") from None


def enter(root, change, rng):
    path = path_of(root, change.account)
    data = contents(change.account, change.entry)
    if replaced(change.account):
        new = f"{path}.{change.transfer:x}"
        with open(new, "wb") as f:
            f.write(data)
        os.rename(new, path)
        return
    fd = os.open(path, os.O_WRONLY)
    try:
        cut = rng.randrange(len(data))
        os.pwrite(fd, data[cut:], cut)
        os.pwrite(fd, data[:cut], 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def transfer(root, ledger, number, rng, control=None):
    """Inside a transaction: move money between two accounts. It is up to the caller to commit."""
    a, b = rng.sample(range(ACCOUNTS), 2)
    was_a, was_b = lock(root, a, rng), lock(root, b, rng)
    amount = rng.randrange(was_a.balance + 1)
    one = Change(number, a, Entry(was_a.balance - amount, was_a.version + 1, number, b, was_b.version + 1))
    other = Change(number, b, Entry(was_b.balance + amount, was_b.version + 1, number, a, was_a.version + 1))
    if control and rng.random() < 0.3:
        control("savepoint s")
        for c in (one, other):
            enter(root, c._replace(entry=c.entry._replace(balance=666)), rng)
        control("rollback to s")
    for c in (one, other):
        enter(root, c, rng)
    for c in (one, other):
        if look(root, c.account) != c.entry:
            raise Torn(f"transfer {number:x} reads {look(root, c.account)} where it wrote {c}")
    ledger.intend(one, other)


# ---- large transactions: all files of a directory ----

BULKS = 2
BULK = 60


def fill(d, number):
    for i in range(BULK):
        fd = os.open(f"{d}/{i}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, b"%016d" % number * (300 + 10 * i))
        os.close(fd)


def bulk(root, which, number):
    """They are written anew, or the whole directory is replaced."""
    d = os.path.join(root, f"bulk{which}")
    if number % 3:
        fill(d, number)
        return
    os.mkdir(d + ".new")
    fill(d + ".new", number)
    os.rename(d, d + ".old")
    os.rename(d + ".new", d)
    for i in range(BULK):
        os.unlink(f"{d}.old/{i}")
    os.rmdir(d + ".old")


def audit_bulk(root, which):
    """The number that all files show."""
    d = os.path.join(root, f"bulk{which}")
    numbers = set()
    if sorted(os.listdir(d), key=int) != [str(i) for i in range(BULK)]:
        raise Torn(f"{d} holds {sorted(os.listdir(d))}")
    for i in range(BULK):
        with open(f"{d}/{i}", "rb") as f:
            data = f.read()
        numbers.add(int(data[:16]))
        if data != data[:16] * (300 + 10 * i):
            raise Torn(f"{d}/{i}: {len(data)} bytes, {set(data.split(b'0000'))}")
    if len(numbers) > 1:
        raise Torn(f"files of one transaction show {numbers}")
    return numbers.pop()


# ---- what must hold at rest ----

def audit(root, base, intended, acknowledged):
    """
    Every account in root is whole, no money was made or lost, each transfer is wholly there or not at all, and those
    acknowledged are. base: the state when the ledgers were begun. Returns the state, or raises Torn.
    """
    now = [look(root, i) for i in range(ACCOUNTS)]
    if sum(e.balance for e in now) != ACCOUNTS * FUNDS:
        raise Torn(f"the sum is {sum(e.balance for e in now)} instead of {ACCOUNTS * FUNDS}: {now}")
    for i, e in enumerate(now):
        if e != base[i] and Change(e.transfer, i, e) not in intended.get(e.transfer, ()):
            raise Torn(f"account {i} shows {e}, which nobody wrote; it was {base[i]}")
        if e.version < base[i].version:
            raise Torn(f"account {i} went back to {e} from {base[i]}")
        peer = now[e.peer]
        if e.version and (peer.version < e.peer_version or
                          peer.version == e.peer_version and (peer.transfer, peer.peer) != (e.transfer, i)):
            raise Torn(f"half a transfer: account {i} shows {e}, account {e.peer} {peer}")
    for number in acknowledged:
        for c in intended[number]:
            e = now[c.account]
            if e.version < c.entry.version or e.version == c.entry.version and e != c.entry:
                raise Torn(f"the acknowledged transfer {number:x} is lost: account {c.account} shows {e}")
    left = [x for x in os.listdir(os.path.join(root, "bank")) if not x.isdigit()]
    left += set(os.listdir(root)) - {"bank", ".txnfs"} - {f"bulk{i}" for i in range(BULKS)}
    if left:
        raise Torn(f"left in the bank: {left}")
    return now


class Watcher:
    """Reads accounts while transfers go on, each time opened anew."""

    def __init__(self, rng):
        self.rng = rng
        self.least = [0] * ACCOUNTS  # versions that must be there: seen, or told of by the other account
        self.reads = self.spans = 0

    def read(self, root):
        """
        A read that is under way when a commit takes effect may show both versions; what is read anew after it is
        whole again, sooner or later, when one is lucky enough to find a moment without a commit.
        """
        account = self.rng.randrange(ACCOUNTS)
        for i in range(1000):
            least = self.least[account]
            try:
                entry = look(root, account)
                break
            except Torn:
                self.spans += 1
                if i == 999:
                    raise
        self.reads += 1
        if entry.version < least:
            raise Torn(f"account {account} shows {entry} after version {least} was seen or named by the other account")
        self.least[account] = entry.version
        self.least[entry.peer] = max(self.least[entry.peer], entry.peer_version)


def main(root, ledger, seed, number):
    try:
        transfer(root, Ledger(ledger), int(number), random.Random(seed))
        return 0
    except OSError as e:
        if e.errno in (errno.EBUSY, errno.EDEADLK):
            return BUSY
        if e.errno in DEAD:
            return GONE
        raise


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
