"""
Histories of random concurrent transactions, checked for cycles. TXNFS_LISTS_SECONDS=N searches longer; a history that
fails is kept, and `python3 tests/mount/lists.py FILE` checks it again.
"""
import errno
import os
import shlex
import shutil
import subprocess
import tempfile

import histories
import lists
from harness import OPT, Failure, Skip, check, ctl, deadline, equal, quick, read, write

SECONDS = float(os.environ.get("TXNFS_LISTS_SECONDS", 0))
RC, SI, SER = histories.READ_COMMITTED, histories.SNAPSHOT, histories.SERIALIZABLE


# ---- the checker itself ----

def txn(i, *ops, outcome="committed", level=SER):
    """ops: "a x 1" appends 1 to x, "r x 1 2" reads x as [1, 2]."""
    out = []
    for op in ops:
        kind, key, *numbers = op.split()
        numbers = list(map(int, numbers))
        out.append(["append", key, numbers[0]] if kind == "a" else ["read", key, numbers])
    return {"id": i, "level": level, "outcome": outcome, "ops": out}


HAND_MADE = {
    "serial": ([txn(1, "a x 1", "r y"), txn(2, "r x 1", "a x 2", "r x 1 2"), txn(3, "a y 3", "r x 1 2")],
               {"x": [1, 2], "y": [3]}, set()),
    "dirty write": ([txn(1, "a x 1", "a y 1"), txn(2, "a x 2", "a y 2")], {"x": [1, 2], "y": [2, 1]}, {"G0"}),
    "aborted read": ([txn(1, "a x 1", outcome="aborted"), txn(2, "r x 1")], {"x": []}, {"G1a"}),
    "a number from nowhere": ([txn(2, "r x 7")], {"x": []}, {"G1a"}),
    "intermediate read": ([txn(1, "a x 1", "a x 2"), txn(2, "r x 1")], {"x": [1, 2]}, {"G1b", "G-single"}),
    "circular information flow": ([txn(1, "a x 1", "r y 2"), txn(2, "a y 2", "r x 1")], {"x": [1], "y": [2]}, {"G1c"}),
    "lost update": ([txn(1, "r x", "a x 1"), txn(2, "r x", "a x 2")], {"x": [1, 2]}, {"G-single"}),
    "fuzzy read": ([txn(1, "r x", "r x 2", level=RC), txn(2, "a x 2")], {"x": [2]}, {"G-single"}),
    "a second look": ([txn(1, "r x", "r x 2"), txn(2, "a x 2")], {"x": [2]}, {"G-single", "internal"}),
    "read skew": ([txn(1, "r x", "r y 2"), txn(2, "a x 2", "a y 2")], {"x": [2], "y": [2]}, {"G-single"}),
    "write skew": ([txn(1, "r x", "r y", "a x 1"), txn(2, "r x", "r y", "a y 2")], {"x": [1], "y": [2]}, {"G2-item"}),
    "phantoms": ([txn(1, "r dir0", "a dir1 1"), txn(2, "r dir1", "a dir0 2")], {"dir0": [2], "dir1": [1]}, {"G2"}),
    # T3 -rw-> T1 -wr-> T4 -rw-> T2 -wr-> T3: what snapshots never show, although no cycle has one rw alone.
    "long fork": ([txn(1, "a x 1"), txn(2, "a y 2"), txn(3, "r x", "r y 2"), txn(4, "r x 1", "r y")],
                  {"x": [1], "y": [2]}, {"G-SI"}),
    "a lost number": ([txn(1, "a x 1"), txn(2, "a x 2")], {"x": [2]}, {"lost"}),
    "a directory that loses": ([txn(1, "a dir0 1")], {"dir0": []}, {"lost"}),
    "two orders": ([txn(1, "a x 1"), txn(2, "a x 2"), txn(3, "r x 2 1")], {"x": [1, 2]}, {"order"}),
    "not its own": ([txn(1, "a x 1", "r x")], {"x": [1]}, {"internal"}),
    "sets have no order": ([txn(1, "a dir0 5"), txn(2, "a dir0 3"), txn(3, "r dir0 3 5")], {"dir0": [3, 5]}, set()),
}


@quick
def test_the_checker(t):
    """Hand-made histories: it finds what is in them, and nothing else."""
    for name, (txns, last, want) in HAND_MADE.items():
        h = {"txns": txns, "lists": last}
        found = histories.anomalies(h)
        got = {f[0] for f in found}
        check(want <= got if "order" in want else got == want, name, "found", found, "want", sorted(want))
    for level, allowed in ((RC, {"lost update", "fuzzy read", "read skew", "write skew", "phantoms", "long fork"}),
                           (SI, {"write skew", "phantoms"}), (SER, set())):
        for name, (txns, last, want) in HAND_MADE.items():
            if name == "a second look":
                continue
            h = {"txns": [dict(x, level=level) for x in txns], "lists": last}
            equal(bool(histories.forbidden(h)), bool(want) and name not in allowed, f"{name} at {level}")


def test_the_checker_on_large_histories(t):
    """A serial history of many transactions is fine; one exchange in it is found."""
    state, txns = {k: [] for k in lists.KEYS}, []
    for i in range(600):
        ops = []
        for k in range(t.rng.randrange(1, 6)):
            key = t.rng.choice(lists.KEYS)
            if t.rng.random() < 0.5 and len(state[key]) < 80:
                state[key].append(10 * i + k)
                ops.append(["append", key, 10 * i + k])
            else:
                ops.append(["read", key, list(state[key])])
        txns.append({"id": i, "level": SER, "outcome": "committed", "ops": ops})
    h = {"txns": txns, "lists": state}
    equal(histories.anomalies(h), [])
    stale = next(x for x in txns[100:] if x["ops"][0][:2] == ["read", "file0"] and len(x["ops"][0][2]) > 20 and
                 any(o[:2] == ["read", "file1"] for o in x["ops"]))
    stale["ops"][0][2] = stale["ops"][0][2][:-15]
    check(histories.anomalies(h), "a stale read is found")


# ---- real mounts ----

def search(t, m, level, seconds, limit=10 ** 6, processes=4):
    """(what is forbidden, the names of all that was found, the history)"""
    if not os.path.exists(m("file0")):
        lists.make(m.mnt)
    h = lists.history(t, m, level, processes, seconds, limit)
    return histories.forbidden(h), {a[0] for a in histories.anomalies(h)}, h


def keep(h):
    fd, path = tempfile.mkstemp(prefix="txnfs-history-", suffix=".json")
    os.close(fd)
    lists.save(h, path)
    return path


def supported(m, level):
    os.mkdir(m(".txn/probe"))
    try:
        ctl(m.mnt, f"isolation {level}", "probe")
        return True
    except OSError as e:
        equal(e.errno, errno.EOPNOTSUPP)
        return False
    finally:
        os.rmdir(m(".txn/probe"))


@quick
@deadline(60 + SECONDS * 2)
def test_random_histories(t):
    """Each level shows nothing that it forbids; read committed does show what it allows."""
    seen = set()
    for level in (RC, SI, SER):
        m = t.mount(level.replace(" ", "-"))
        if not supported(m, level):
            t.note(f"no {level} in this version")
            continue
        bad, names, h = search(t, m, level, SECONDS or 1.5)
        if bad:
            raise Failure(f"{level}, seed {t.seed}: {len(bad)} anomalies, kept in {keep(h)}:\n" +
                          "\n".join(f"{name}: {text}" for name, text, _ in bad[:10]))
        done = sum(x["outcome"] == "committed" for x in h["txns"])
        check(done > 20, f"{level}: only {done} of {len(h['txns'])} transactions committed")
        t.note(f"{level}: {done} of {len(h['txns'])} committed, seen {sorted(names) or 'nothing'}")
        m.umount()


VISIBLE = "static inline bool txn_visible(const struct txn *t, const struct txn *view)\n{\n"
LATE = "static bool late(const struct txn *t, const struct txn_obj *obj)\n{\n"
# A line of the engine, what it becomes, in which files it counts, at which level, and what must be found then.
BROKEN = [
    ("uncommitted changes are visible", "txn/private.h", VISIBLE, VISIBLE + "\tif (t)\n\t\treturn true;\n",
     ["txn/file.c", "txn/op_attr.c", "txn/op_data.c", "txn/name.c"], RC, {"G1a", "G1b", "G1c"}),
    ("what was read is not verified at commit", "txn/isolation.c", "r = txn_readset_check(t);", "r = 0;",
     ["txn/isolation.c"], SER, {"G-single", "G-SI", "G2-item", "G2"}),
    ("the first updater does not win", "txn/stmt.c", LATE, LATE + "\tif (t)\n\t\treturn false;\n", ["txn/stmt.c"], SI,
     {"G-single", "G-SI", "internal", "lost"}),
]


def broken_daemon(t, header, line, instead, sources):
    """The program with these sources of the engine built anew, one line changed."""
    build = os.path.dirname(OPT.txnfs)
    top = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
    link = os.path.join(build, "CMakeFiles/txnfs.dir/link.txt")
    if not shutil.which("cc") or not os.path.exists(link):
        raise Skip("the build directory is not there")
    d = t.tmp()
    os.mkdir(f"{d}/txn")
    text = read(os.path.join(top, header)).decode()
    check(text.count(line) == 1, f"{header} has no line {line!r} any more")
    write(os.path.join(d, header), text.replace(line, instead))
    flags = shlex.split(read(os.path.join(build, "CMakeFiles/txn.dir/flags.make")).decode()
                        .split("C_FLAGS = ", 1)[1].splitlines()[0])
    objects = []
    for i, source in enumerate(sources):
        src = os.path.join(d if source == header else top, source)
        objects.append(f"{d}/{i}.o")
        subprocess.run(["cc", *flags, "-O0", "-w", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", f"-I{d}", f"-I{top}",
                        "-c", src, "-o", objects[-1]], check=True)
    words = shlex.split(read(link).decode())
    words[words.index("-o") + 1] = f"{d}/txnfs"
    words[words.index("-o"):words.index("-o")] = objects
    subprocess.run(words, cwd=build, check=True)
    return f"{d}/txnfs"


def test_broken_engines_are_found(t):
    """The engine with one line changed: the checker sees it."""
    good = OPT.txnfs
    m = t.mount("good")
    have = {level: supported(m, level) for level in (SI, SER)}
    m.umount()
    for name, header, line, instead, sources, level, want in BROKEN:
        if level != RC and not have[level]:
            continue
        exe = broken_daemon(t, header, line, instead, sources)
        OPT.txnfs = exe
        try:
            m = t.mount(f"b{len(t.mounts)}")
            for _ in range(5):
                bad, names, _ = search(t, m, level, 3, limit=60)
                if bad:
                    break
                for key in lists.KEYS:
                    (shutil.rmtree if key.startswith("dir") else os.unlink)(m(key))
            check(names & want, f"{name}: found {sorted(names)}, want one of {sorted(want)}")
            t.note(f"{name}: {sorted(names)}")
            m.umount()
        finally:
            OPT.txnfs = good
