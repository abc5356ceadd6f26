"""
Random transactions of several processes on lists: files that are appended to, an extended attribute that grows, and
directories in which files are created. What each did and saw is the history that histories.py checks.
"""
import errno
import json
import os
import random
import time

from harness import ctl

CONFLICT = (errno.EBUSY, errno.EDEADLK, errno.ECANCELED)
FILES, ATTRS, DIRS = 4, 2, 2
KEYS = [f"file{i}" for i in range(FILES)] + [f"attr{i}" for i in range(ATTRS)] + [f"dir{i}" for i in range(DIRS)]
EACH = 1_000_000  # numbers of a process


def make(root):
    for key in KEYS:
        if key.startswith("dir"):
            os.mkdir(f"{root}/{key}")
        else:
            with open(f"{root}/{key}", "wb"):
                pass


def append(root, key, v):
    p = f"{root}/{key}"
    if key.startswith("dir"):
        os.close(os.open(f"{p}/{v}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    elif key.startswith("attr"):
        os.utime(p, (v, v))  # takes it for the transaction: what is read now is the newest
        os.setxattr(p, "user.list", _xattr(p) + b"%d " % v)
    else:
        fd = os.open(p, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, b"%9d\n" % v)
        finally:
            os.close(fd)


def _xattr(p):
    try:
        return os.getxattr(p, "user.list")
    except OSError as e:
        if e.errno != errno.ENODATA:
            raise
        return b""


def numbers(data):
    """What is no number becomes one that nobody has written."""
    return [int(x) if x.isdigit() else -1 for x in data.split()]


def look(root, key):
    p = f"{root}/{key}"
    if key.startswith("dir"):
        return sorted(map(int, os.listdir(p)))
    if key.startswith("attr"):
        return numbers(_xattr(p))
    with open(p, "rb") as f:
        return numbers(f.read())


def worker(mnt, level, seed, number, seconds, limit):
    """Transaction after transaction; the list of them."""
    rng = random.Random(f"{seed}:{number}")
    txns, v = [], number * EACH
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(txns) < limit:
        tid = number * EACH + len(txns)
        name, root = f"l{tid}", f"{mnt}/.txn/l{tid}/root"
        ops = []
        t = {"id": tid, "level": level, "outcome": "aborted", "ops": ops}
        os.mkdir(f"{mnt}/.txn/{name}")
        try:
            ctl(mnt, f"isolation {level}\ntimeout 0", name)
            for _ in range(rng.randrange(1, 7)):
                key = rng.choice(KEYS)
                if rng.random() < 0.5:
                    v += 1
                    # Before it is tried: should it fail, the transaction is rolled back, and nobody may see it.
                    ops.append(["append", key, v])
                    append(root, key, v)
                else:
                    ops.append(["read", key, look(root, key)])
            if rng.random() < 0.9:
                ctl(mnt, "commit", name)
                t["outcome"] = "committed"
        except OSError as e:
            if e.errno not in CONFLICT:
                raise
        if t["outcome"] == "aborted":
            try:
                os.rmdir(f"{mnt}/.txn/{name}")
            except FileNotFoundError:  # a failed commit has ended it
                pass
        txns.append(t)
    return txns


def history(t, m, level, processes, seconds, limit=10 ** 6):
    actors = [t.actor() for _ in range(processes)]
    for i, a in enumerate(actors):
        a.start(worker, m.mnt, level, t.seed, i + 1, seconds, limit)
    txns = [x for a in actors for x in a.result()]
    for a in actors:
        a.end()
    return {"level": level, "seed": t.seed, "lists": {k: look(m.mnt, k) for k in KEYS}, "txns": txns}


def save(h, path):
    with open(path, "w") as f:
        json.dump(h, f)


if __name__ == "__main__":
    import sys

    import histories
    with open(sys.argv[1]) as f:
        for found in histories.anomalies(json.load(f)):
            print(*found)
