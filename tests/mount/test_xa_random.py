"""XA calls at random: threads of two processes, each at any time, on a few XIDs that they all use."""
import os
from collections import Counter

from harness import check, equal, ls
from xa import NAMES, TMFAIL, TMJOIN, TMONEPHASE, TMRESUME, TMSUCCESS, TMSUSPEND, Process, branches, xid

ROUNDS = int(os.environ.get("TXNFS_XA_ROUNDS", 200))
THREADS = [f"T{i}" for i in range(5)]

ENDED = {"XA_RBROLLBACK", "XA_RBDEADLOCK"}
# What a call may give at all, when nothing is wrong with the mount.
CALLS = {
    ("start", 0): {"XA_OK", "XAER_DUPID", "XAER_PROTO"} | ENDED,
    ("start", TMJOIN): {"XA_OK", "XAER_NOTA", "XAER_PROTO"} | ENDED,
    ("start", TMRESUME): {"XA_OK", "XAER_NOTA", "XAER_PROTO"} | ENDED,
    ("end", TMSUCCESS): {"XA_OK", "XAER_NOTA", "XAER_PROTO"} | ENDED,
    ("end", TMSUSPEND): {"XA_OK", "XAER_NOTA", "XAER_PROTO"} | ENDED,
    ("end", TMFAIL): {"XAER_NOTA", "XAER_PROTO"} | ENDED,
    ("prepare", 0): {"XA_OK", "XA_RDONLY", "XAER_NOTA", "XAER_PROTO"} | ENDED,
    ("commit", 0): {"XA_OK", "XAER_NOTA", "XAER_PROTO"},
    ("commit", TMONEPHASE): {"XA_OK", "XAER_NOTA", "XAER_PROTO"} | ENDED,
    ("rollback", 0): {"XA_OK", "XAER_NOTA", "XAER_PROTO"} | ENDED,
    ("forget", 0): {"XAER_NOTA", "XAER_PROTO"},
}


def some_call(t, p, thread, xids):
    """Begin one; the codes that it may give, or None when any will do."""
    x = t.rng.choice(xids)
    n = t.rng.random()
    if n < 0.1:
        p.start(thread, "put", 1, "f" + thread, "x")
    elif n < 0.12:
        p.start(thread, "failed", 1, 35)
    elif n < 0.13:
        p.start(thread, "child", "start", 1, x, "0")
        return "fork", {"XAER_PROTO"}
    else:
        call = t.rng.choice(list(CALLS) + [("start", TMJOIN), ("end", TMSUCCESS)])
        p.start(thread, call[0], 1, x, f"{call[1]:x}")
        return call, CALLS[call]
    return None, None


def test_calls(t):
    """Each call gives a code that it may give, none hangs, and in the end all can be cleaned up. TXNFS_XA_ROUNDS=N: more of it."""
    m = t.mount(options="lock_timeout=0")
    processes = [Process(t), Process(t)]
    for p in processes:
        for n in THREADS:
            equal(p.open(n, 1, m.mnt), "XA_OK")
    xids = [xid(f"x{i}") for i in range(3)]
    descriptors = [len(ls(f"/proc/{p.p.pid}/fd")) for p in processes]
    seen = Counter()
    for _ in range(ROUNDS):
        begun = [(p, n, some_call(t, p, n, xids)) for p in processes for n in THREADS]
        for p, n, (call, may) in begun:
            code, _ = p.result(n)
            if may is not None:
                code = NAMES.get(code, code)
                check(code in may, call, code, p.error(n))
                seen[(call, code)] += 1
    for p in processes:
        for n in THREADS:
            for x in xids:
                p.xa(n, "end", 1, x, flags=TMSUCCESS)
    for p in processes:
        for x in xids:
            code = p.xa("T0", "rollback", 1, x)
            check(code in CALLS[("rollback", 0)] - {"XAER_PROTO"}, code, p.error("T0"))
    equal(branches(m), (set(), set()))
    equal([len(ls(f"/proc/{p.p.pid}/fd")) for p in processes], descriptors)
    check(seen[(("start", 0), "XA_OK")] and seen[(("start", TMJOIN), "XA_OK")], "something has happened at all:", seen)
    for p in processes:
        p.end()
