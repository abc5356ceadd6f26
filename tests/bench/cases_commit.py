"""Groups commit and small: what a durable unit of changes costs."""
from rig import Case
from stats import Goal

KINDS = {"txnfs": ("txnfs", None, "ambient"), "txnfs-named": ("txnfs", None, "named"), "floor": ("plain", None, "floor"),
         "sqlite": ("plain", None, "sqlite"), "lmdb": ("plain", None, "lmdb"), "rename": ("plain", None, "rename"),
         "git": ("plain", None, "git"), "btrfs-snapshot": ("plain", "btrfs", "btrfs"), "dir-swap": ("plain", None, "swap")}


def runner(subject, n, over, reps, cold):
    kind, fs, how = KINDS[subject]

    def go(c):
        m = c.mount(kind, fs)
        place = c.place(m)
        return c.work(m, "commit", clean=place, how=how, dir=f"{m.mnt}/{place}", n=n, size=4096, over=int(over),
                      reps=reps, cold=int(cold), ctl=m.ctl if kind == "txnfs" else None)
    return go


def commit_case(opt, n, over):
    # Enough repetitions that a sample is more than a few milliseconds; those whose unit is long have fewer.
    reps = max(1, min(20, (40 if opt.quick else 200) // n))
    slow = {"git": 1 if n >= 100 or opt.quick else 3, "dir-swap": max(1, min(4, reps)), "rename": max(1, min(5, reps)),
            "btrfs-snapshot": max(1, min(4, reps))}
    subjects = [s for s in KINDS if not (opt.quick and s == "git" and n not in (1, 100))]
    goals = [Goal("time", 1.3, "floor", measure="commit", peer_measure="seconds", target=2)]
    for db in ("sqlite", "lmdb"):
        goals.append(Goal("time", 1 if n <= 10 else 2.5, db, target=2))
    if n >= 10:
        goals.append(Goal("speed", 5 if n < 100 else 10, "rename", target=2))
    what = "overwritten" if over else "new"
    return Case(f"commit.{'over' if over else 'new'}.{n}", f"{n} {what} file{'s' if n > 1 else ''} of 4 KiB, durably as one",
                {s: runner(s, n, over, slow.get(s, reps), opt.quick and s in slow) for s in subjects}, goals)


def commit(rig):
    return [commit_case(rig.opt, n, over) for over in (False, True) for n in (1, 10, 100, 1000)]


def small_runner(kind, how, clients, seconds, held=1):
    def go(c):
        m = c.mount(kind)
        place = c.place(m)
        return c.work(m, "small", clean=place, how=how, dir=f"{m.mnt}/{place}", clients=clients, seconds=seconds, held=held,
                      ctl=m.ctl if kind == "txnfs" else None)
    return go


def small(rig):
    s = 0.4 if rig.opt.quick else 3
    one = {"txnfs": small_runner("txnfs", "ambient", 1, s), "txnfs-reopen": small_runner("txnfs", "ambient", 1, s, 0),
           "floor": small_runner("plain", "floor", 1, s), "rename": small_runner("plain", "rename", 1, s),
           "sqlite": small_runner("plain", "sqlite", 1, s), "lmdb": small_runner("plain", "lmdb", 1, s)}
    many = {"txnfs": small_runner("txnfs", "ambient", 16, s), "txnfs-one": small_runner("txnfs", "ambient", 1, s),
            "floor": small_runner("plain", "floor", 16, s), "rename": small_runner("plain", "rename", 16, s),
            "sqlite": small_runner("plain", "sqlite", 16, s), "lmdb": small_runner("plain", "lmdb", 16, s)}
    return [
        Case("small.one", "128 bytes of a file changed durably, one client, time of each", one,
             [Goal("speed", 0.8, "floor", target=3), Goal("speed", 0.5, "floor", ours="txnfs-reopen", target=3)]),
        Case("small.sixteen", "the same with 16 clients on a file each", many,
             [Goal("speed", 5, "txnfs-one", target=3)]),
    ]
