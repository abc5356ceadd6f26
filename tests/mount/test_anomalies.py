"""
The anomalies of the literature (Berenson et al. 1995, Adya 1999, Bailis et al. 2013, and Kleppmann's Hermitage for the
schedules) by name: what each isolation level prevents and what it allows, for contents, attributes and names.

PREVENTED is the table, and README.md shows it. Both directions are tested: where a level prevents an anomaly, its
schedule ends with an error or with right values; where it allows it, the anomaly is seen.
"""
import errno
import os
import re

from harness import Failure, Skip, check, ctl, equal, exists, ls, quick, read, write

READ_COMMITTED, SNAPSHOT, SERIALIZABLE = LEVELS = "read committed", "snapshot", "serializable"
PREVENTED = {
    "dirty write": LEVELS,                             # G0
    "aborted read": LEVELS,                            # G1a
    "intermediate read": LEVELS,                       # G1b
    "circular information flow": LEVELS,               # G1c
    "observed transaction vanishes": LEVELS,           # OTV
    "lost update": (SNAPSHOT, SERIALIZABLE),           # P4
    "fuzzy read": (SNAPSHOT, SERIALIZABLE),            # P2
    "phantom": (SNAPSHOT, SERIALIZABLE),               # P3
    "predicate many preceders": (SNAPSHOT, SERIALIZABLE),  # PMP
    "read skew": (SNAPSHOT, SERIALIZABLE),             # A5A
    "write skew": (SERIALIZABLE,),                     # A5B
}
CONFLICT = (errno.EBUSY, errno.EDEADLK, errno.ECANCELED)


# ---- what is read and written: items x and y, and sets of items ----

class Contents:
    """A file's contents; sets: the files that have certain contents."""

    def make(self, d, x, v):
        write(f"{d}/{x}", f"{v:04}")

    def w(self, d, x, v):
        fd = os.open(f"{d}/{x}", os.O_WRONLY)
        try:
            os.pwrite(fd, b"%04d" % v, 0)
        finally:
            os.close(fd)

    def r(self, d, x):
        return int(read(f"{d}/{x}"))

    def join(self, d, v):
        """One item more belongs to the set."""
        self.w(d, "z", v)

    def those(self, d, v):
        return {x for x in ls(d) if self.r(d, x) == v}

    def those_too(self, d, v):
        """Another set, which has all the items of `those` as well."""
        return {x for x in ls(d) if self.r(d, x) >= v}


class Attributes(Contents):
    """A file's owner's extended attribute, its mode and its modification time, which change together."""

    def make(self, d, x, v):
        write(f"{d}/{x}", "-")
        self.w(d, x, v)

    def w(self, d, x, v):
        os.chmod(f"{d}/{x}", 0o600 + v)
        os.setxattr(f"{d}/{x}", "user.value", b"%d" % v)
        os.utime(f"{d}/{x}", (1000 + v, 1000 + v))

    def r(self, d, x):
        st = os.stat(f"{d}/{x}")
        seen = st.st_mode & 0o77, int(os.getxattr(f"{d}/{x}", "user.value")), int(st.st_mtime) - 1000
        if len(set(seen)) > 1:
            raise Failure(f"{x}: mode, extended attribute and time are of several versions: {seen}")
        return seen[0]


class Names(Contents):
    """What a name stands for; sets: a directory's listing."""

    def make(self, d, x, v):
        os.symlink(str(v), f"{d}/{x}")

    def w(self, d, x, v):
        os.symlink(str(v), f"{d}/new-{x}")
        try:
            os.rename(f"{d}/new-{x}", f"{d}/{x}")
        except OSError:
            os.unlink(f"{d}/new-{x}")
            raise

    def r(self, d, x):
        return int(os.readlink(f"{d}/{x}"))

    def join(self, d, v):
        os.symlink(str(v), f"{d}/joined")

    def those(self, d, v):
        return {x for x in ls(d) if x == "joined"}

    def those_too(self, d, v):
        return {"joined"} if exists(f"{d}/joined") else set()


KINDS = {"contents": Contents(), "attributes": Attributes(), "names": Names()}


class Txn:
    """A transaction that gives up at its first conflict; what it would do after that is left out and gives None."""

    def __init__(self, mnt, name, level, kind):
        self.mnt, self.name, self.kind = mnt, name, kind
        self.open, self.committed, self.error = True, False, None
        os.mkdir(f"{mnt}/.txn/{name}")
        try:
            ctl(mnt, f"isolation {level}", name)
        except OSError as e:
            os.rmdir(f"{mnt}/.txn/{name}")
            if e.errno == errno.EOPNOTSUPP:
                raise Skip(str(e)) from None
            raise
        ctl(mnt, "timeout 0", name)
        self.d = f"{mnt}/.txn/{name}/root/d"

    def _try(self, fn, *args):
        if not self.open:
            return None
        try:
            return fn(*args)
        except OSError as e:
            if e.errno not in CONFLICT:
                raise
            self.error = e
            self.rollback()
            return None

    def r(self, x):
        return self._try(self.kind.r, self.d, x)

    def w(self, x, v):
        return self._try(self.kind.w, self.d, x, v)

    def join(self, v):
        return self._try(self.kind.join, self.d, v)

    def those(self, v):
        return self._try(self.kind.those, self.d, v)

    def those_too(self, v):
        return self._try(self.kind.those_too, self.d, v)

    def free(self, x, v):
        """Can it be written now, with the transaction going on if not?"""
        try:
            self.kind.w(self.d, x, v)
            return True
        except OSError as e:
            if e.errno not in CONFLICT:
                raise
            if e.errno != errno.EBUSY:
                self.error = e
                self.rollback()
            return False

    def commit(self):
        if self._try(ctl, self.mnt, "commit", self.name) is not None:
            self.open, self.committed = False, True

    def rollback(self):
        self.open = False
        try:
            os.rmdir(f"{self.mnt}/.txn/{self.name}")
        except FileNotFoundError:  # a failed commit has done it
            pass


# ---- the schedules: each tells whether the anomaly was seen ----

def dirty_write(t1, t2, _, now):
    t1.w("x", 1)
    t2.w("x", 2)
    t1.w("y", 1)
    t1.commit()
    t2.w("y", 2)
    t2.commit()
    return now("x") != now("y")


def aborted_read(t1, t2, _, now):
    t1.w("x", 1)
    seen = [t2.r("x")]
    t1.rollback()
    seen.append(t2.r("x"))
    t2.commit()
    return t2.committed and 1 in seen


def intermediate_read(t1, t2, _, now):
    t1.w("x", 1)
    seen = [t2.r("x")]
    t1.w("x", 2)
    seen.append(t2.r("x"))
    t1.commit()
    seen.append(t2.r("x"))
    t2.commit()
    return t2.committed and 1 in seen


def circular_information_flow(t1, t2, _, now):
    t1.w("x", 1)
    t2.w("y", 2)
    seen = t1.r("y"), t2.r("x")
    t1.commit()
    t2.commit()
    return t1.committed and t2.committed and (seen[0] == 2 or seen[1] == 1)


def observed_transaction_vanishes(t1, t2, t3, now):
    t1.w("x", 1)
    t1.w("y", 1)
    early = t2.free("x", 2)
    t1.commit()
    if not early:
        t2.w("x", 2)
    seen = [t3.r("x")]
    t2.w("y", 2)
    seen.append(t3.r("y"))
    t2.commit()
    seen += [t3.r("x"), t3.r("y")]
    t3.commit()
    return t3.committed and (seen != sorted(seen) or now("x") != now("y"))


def lost_update(t1, t2, _, now):
    seen = t1.r("x"), t2.r("x")
    t1.w("x", 1)
    t1.commit()
    t2.w("x", 2)
    t2.commit()
    return t1.committed and t2.committed and seen == (0, 0)


def fuzzy_read(t1, t2, _, now):
    seen = [t1.r("x")]
    t2.w("x", 1)
    t2.commit()
    seen.append(t1.r("x"))
    t1.commit()
    return t1.committed and t2.committed and seen == [0, 1]


def phantom(t1, t2, _, now):
    seen = [t1.those(3)]
    t2.join(3)
    t2.commit()
    seen.append(t1.those(3))
    t1.commit()
    return t1.committed and t2.committed and seen[0] != seen[1]


def predicate_many_preceders(t1, t2, _, now):
    """As phantom, but the second look is another one, which would have shown it at the first time too."""
    seen = [t1.those(3)]
    t2.join(3)
    t2.commit()
    seen.append(t1.those_too(3))
    t1.commit()
    return t1.committed and t2.committed and not seen[0] and bool(seen[1])


def read_skew(t1, t2, _, now):
    x = t1.r("x")
    t2.w("x", 1)
    t2.w("y", 1)
    t2.commit()
    y = t1.r("y")
    t1.commit()
    return t1.committed and t2.committed and x != y


def write_skew(t1, t2, _, now):
    seen = t1.r("x"), t1.r("y"), t2.r("x"), t2.r("y")
    t1.w("x", 1)
    t2.w("y", 2)
    t1.commit()
    t2.commit()
    return t1.committed and t2.committed and seen == (0, 0, 0, 0)


def play(m, schedule, level, kind, n):
    """Was the anomaly seen? And the conflicts."""
    d = m("d")
    for x in ls(d):
        os.unlink(f"{d}/{x}")
    for x in ("x", "y", "z"):
        kind.make(d, x, 0)
    txns = [Txn(m.mnt, f"{schedule.__name__}-{n}-{i}", level, kind) for i in (1, 2, 3)]
    seen = schedule(*txns, lambda x: kind.r(d, x))
    for txn in txns:
        if txn.open:
            txn.rollback()
    return seen, [errno.errorcode[txn.error.errno] for txn in txns if txn.error]


def run(t, name):
    schedule = globals()[name.replace(" ", "_")]
    m = t.mount()
    os.mkdir(m("d"))
    for n, level in enumerate(LEVELS):
        try:
            for k, kind in KINDS.items():
                seen, errors = play(m, schedule, level, kind, f"{n}{k}")
                if level in PREVENTED[name]:
                    check(not seen, f"{name} is seen at {level} ({k})", errors)
                else:
                    check(seen, f"{name} is not seen at {level} ({k}), which should allow it", errors)
        except Skip:
            t.note(f"no {level} in this version")


# ---- the tests: one for each ----

@quick
def test_dirty_write(t):
    run(t, "dirty write")


@quick
def test_aborted_read(t):
    run(t, "aborted read")


@quick
def test_intermediate_read(t):
    run(t, "intermediate read")


@quick
def test_circular_information_flow(t):
    run(t, "circular information flow")


@quick
def test_observed_transaction_vanishes(t):
    run(t, "observed transaction vanishes")


@quick
def test_lost_update(t):
    run(t, "lost update")


@quick
def test_fuzzy_read(t):
    run(t, "fuzzy read")


@quick
def test_phantom(t):
    run(t, "phantom")


@quick
def test_predicate_many_preceders(t):
    run(t, "predicate many preceders")


@quick
def test_read_skew(t):
    run(t, "read skew")


@quick
def test_write_skew(t):
    run(t, "write skew")


def test_readme_has_the_table(t):
    """And each line of it has its test."""
    rows = {}
    with open(os.path.join(os.path.dirname(__file__), "../../README.md")) as f:
        text = f.read()
    head = re.search(r"^\| anomaly \|(.*)\|$", text, re.M)
    check(head, "README.md has no table of anomalies")
    levels = [c.strip() for c in head.group(1).split("|")]
    equal(sorted(levels), sorted(LEVELS))
    for line in text[head.end():].lstrip("\n").splitlines()[1:]:
        if not line.startswith("|"):
            break
        cells = [c.strip() for c in line.strip("|").split("|")]
        name = re.sub(r" \(.*\)$", "", cells[0])
        check(set(cells[1:]) <= {"prevented", "possible"}, line)
        rows[name] = {lv for lv, c in zip(levels, cells[1:]) if c == "prevented"}
    equal(rows, {name: set(lv) for name, lv in PREVENTED.items()})
    for name in PREVENTED:
        check(callable(globals().get("test_" + name.replace(" ", "_"))), f"no test for {name}")
