"""libtxnfs-xa, a mount as a resource manager: the specification's state tables, threads, processes, what is left after a crash."""
import os
import subprocess

from harness import OPT, check, ctl, equal, exists, ls, needs_root, patience, quick, read, wait_until, write
from xa import (TMASYNC, TMENDRSCAN, TMFAIL, TMJOIN, TMMIGRATE, TMNOWAIT, TMONEPHASE, TMRESUME, TMSTARTRSCAN, TMSUCCESS,
                TMSUSPEND, Process, branches, xid)

# ---- the state tables ----

# A branch's state, and from whose sight: thread A began the branch, B is another one. How A brings it about:
WORK = "put"
REACH = {
    "S0": [],
    "S1": [("start", 0), WORK],
    "T2": [("start", 0), WORK, ("end", TMSUSPEND)],
    "S2": [("start", 0), WORK, ("end", TMSUCCESS)],
    "S2 read-only": [("start", 0), ("end", TMSUCCESS)],
    "S3": [("start", 0), WORK, ("end", TMSUCCESS), ("prepare", 0)],
    "S4": [("start", 0), WORK, ("end", TMFAIL)],
}
CONTEXTS = ["S0 A", "S1 A", "S1 B", "T2 A", "T2 B", "S2 A", "S2 B", "S2 read-only B", "S3 A", "S3 B", "S4 A", "S4 B"]

# What each call gives, in the order of CONTEXTS, and (after a slash) the state that the branch has then when it is another one:
# 0 gone, 1 open, 3 prepared, 4 rollback-only; "c" gone, and its changes are there.
TABLE = {
    ("start", 0): "OK/1 PROTO DUPID DUPID DUPID DUPID DUPID DUPID DUPID DUPID DUPID DUPID",
    ("start", TMNOWAIT): "OK/1 PROTO DUPID DUPID DUPID DUPID DUPID DUPID DUPID DUPID DUPID DUPID",
    ("start", TMJOIN): "NOTA PROTO OK PROTO OK OK OK OK PROTO PROTO RBROLLBACK RBROLLBACK",
    ("start", TMRESUME): "NOTA PROTO PROTO OK PROTO PROTO PROTO PROTO PROTO PROTO PROTO PROTO",
    ("start", TMJOIN | TMRESUME): "INVAL" + 11 * " INVAL",
    ("start", TMASYNC): "ASYNC" + 11 * " ASYNC",
    ("start", TMSUCCESS): "INVAL" + 11 * " INVAL",
    ("end", TMSUCCESS): "NOTA OK PROTO OK PROTO PROTO PROTO PROTO PROTO PROTO PROTO PROTO",
    ("end", TMFAIL): "NOTA RBROLLBACK/4 PROTO RBROLLBACK/4 PROTO PROTO PROTO PROTO PROTO PROTO PROTO PROTO",
    ("end", TMSUSPEND): "NOTA OK PROTO PROTO PROTO PROTO PROTO PROTO PROTO PROTO PROTO PROTO",
    ("end", 0): "INVAL" + 11 * " INVAL",
    ("end", TMSUCCESS | TMFAIL): "INVAL" + 11 * " INVAL",
    ("end", TMSUSPEND | TMSUCCESS): "INVAL" + 11 * " INVAL",
    ("end", TMSUSPEND | TMMIGRATE): "INVAL" + 11 * " INVAL",
    ("end", TMSUCCESS | TMASYNC): "ASYNC" + 11 * " ASYNC",
    ("prepare", 0): "NOTA PROTO PROTO PROTO PROTO OK/3 OK/3 RDONLY/0 PROTO PROTO PROTO PROTO",
    ("prepare", TMASYNC): "ASYNC" + 11 * " ASYNC",
    ("prepare", TMONEPHASE): "INVAL" + 11 * " INVAL",
    ("commit", 0): "NOTA PROTO PROTO PROTO PROTO PROTO PROTO PROTO OK/c OK/c PROTO PROTO",
    ("commit", TMNOWAIT): "NOTA PROTO PROTO PROTO PROTO PROTO PROTO PROTO OK/c OK/c PROTO PROTO",
    ("commit", TMONEPHASE): "NOTA PROTO PROTO PROTO PROTO OK/c OK/c OK/0 PROTO PROTO PROTO PROTO",
    ("commit", TMASYNC): "ASYNC" + 11 * " ASYNC",
    ("commit", TMFAIL): "INVAL" + 11 * " INVAL",
    ("rollback", 0): "NOTA PROTO PROTO PROTO PROTO OK/0 OK/0 OK/0 OK/0 OK/0 RBROLLBACK/0 RBROLLBACK/0",
    ("rollback", TMASYNC): "ASYNC" + 11 * " ASYNC",
    ("rollback", TMNOWAIT): "INVAL" + 11 * " INVAL",
    ("forget", 0): "NOTA" + 11 * " PROTO",
    ("forget", TMASYNC): "ASYNC" + 11 * " ASYNC",
    ("close", 0): "OK PROTO OK PROTO OK OK OK OK OK OK OK OK",
    ("close", TMASYNC): "ASYNC" + 11 * " ASYNC",
    ("open", 0): "OK" + 11 * " OK",
    ("open", TMASYNC): "ASYNC" + 11 * " ASYNC",
}
START = {"S0": "0", "S1": "1", "T2": "1", "S2": "1", "S2 read-only": "1", "S3": "3", "S4": "4"}


class Row:
    """One call in one context, with a fresh XID and file."""

    def __init__(self, m, p, number):
        self.m, self.p, self.number = m, p, number
        self.x = xid(f"row {number}")
        self.file = f"f{number}"

    def call(self, thread, verb, flags):
        if verb in ("open", "close"):
            words = (self.m.mnt,) if verb == "open" else ()
        else:
            words = (self.x,)
        return self.p.xa(thread, verb, 1, *words, flags=flags)

    def reach(self, steps):
        for step in steps:
            if step == WORK:
                equal(self.p.put("A", 1, self.file, "x"), 0)
            else:
                code = self.call("A", *step)
                check(code in ("XA_OK", "XA_RBROLLBACK"), step, code, self.p.error("A"))

    def state(self, rollback_only):
        is_open, prepared = branches(self.m)
        if rollback_only:
            equal((is_open, prepared), (set(), set()), "what is rollback-only holds nothing any more")
            return "4"
        return "1" if is_open else "3" if prepared else "c" if exists(self.m(self.file)) else "0"

    def clean(self):
        for thread in "AB":
            self.call(thread, "open", 0)
            self.call(thread, "end", TMSUCCESS)
        code = self.call("A", "rollback", 0)
        check(code in ("XA_OK", "XA_RBROLLBACK", "XAER_NOTA"), code, self.p.error("A"))
        equal(branches(self.m), (set(), set()))


@quick
def test_state_tables(t):
    m = t.mount()
    p = Process(t)
    for thread in "AB":
        equal(p.open(thread, 1, m.mnt), "XA_OK", p.error(thread))
    number = 0
    descriptors = len(os.listdir(f"/proc/{p.p.pid}/fd"))
    for (verb, flags), row in TABLE.items():
        wants = row.split()
        equal(len(wants), len(CONTEXTS), verb)
        if "TXNFS_LESS" in os.environ and len(set(wants)) == 1:
            wants = wants[:2]
        for context, want in zip(CONTEXTS, wants):
            state, thread = context.rsplit(" ", 1)
            code, _, after = want.partition("/")
            after = after or START[state]
            number += 1
            r = Row(m, p, number)
            r.reach(REACH[state])
            got = r.call(thread, verb, flags)
            what = f"{verb} 0x{flags:x} in state {state} by thread {thread}: {p.error(thread)}"
            check(got in ("XA_" + code, "XAER_" + code), what, got, "want", code)
            equal(r.state(after == "4"), after, what)
            if got not in ("XA_OK", "XA_RDONLY"):
                check(p.error(thread), "there is a text:", what)
            r.clean()
    t.note(f"{number} calls")
    equal(len(os.listdir(f"/proc/{p.p.pid}/fd")), descriptors, "none is left open")
    for thread in "AB":
        equal(p.xa(thread, "close", 1), "XA_OK")
    p.end()


def test_not_open(t):
    """Without xa_open everything but opening and closing is out of place: each thread opens for itself."""
    m = t.mount()
    p = Process(t)
    equal(p.open("A", 1, m.mnt), "XA_OK")
    for verb in "start", "end", "prepare", "commit", "rollback", "forget":
        equal(p.xa("B", verb, 1, xid("g"), flags=TMSUCCESS if verb == "end" else 0), "XAER_PROTO", verb)
        equal(p.xa("A", verb, 2, xid("g"), flags=TMSUCCESS if verb == "end" else 0), "XAER_PROTO", verb)
    equal(p.recover("B", 1), "XAER_PROTO")
    equal(p.xa("B", "close", 1), "XA_OK")
    equal(p.xa("A", "close", 1), "XA_OK")
    equal(p.xa("A", "start", 1, xid("g")), "XAER_PROTO")
    equal(p.xa("A", "start", 1, "null"), "XAER_INVAL")
    equal(p.call("A", "switch"), (2, "txnfs 0"))
    p.end()


def test_open_strings(t):
    m = t.mount(options="control=.ctl")
    os.mkdir(m("d"))
    p = Process(t)
    equal(p.open("A", 1, m.mnt), "XAER_RMERR")
    equal(p.open("A", 1, m.mnt + ",control=.ctl"), "XA_OK")
    equal(p.open("A", 1, m.mnt + ",control=.ctl"), "XA_OK", "again")
    equal(p.open("A", 1, m.mnt + ",control=.ctl,timeout=1"), "XAER_INVAL", "another string")
    equal(p.open("A", 2, m("d") + ",control=.ctl"), "XAER_RMERR", "not the mount point itself")
    check("is not a mount point" in p.error("A"), p.error("A"))
    equal(p.open("A", 2, t.dir), "XAER_RMERR")
    equal(p.open("A", 2, t.path("none")), "XAER_RMERR")
    for bad in "relative", m.mnt + ",timeout=x", m.mnt + ",nothing=1", "/" + "x" * 255:
        equal(p.open("A", 2, bad), "XAER_INVAL", bad)
    # The options do what they say.
    equal(p.open("A", 3, m.mnt + "/,control=.ctl,timeout=0,isolation=serializable"), "XA_OK")
    write(m("f"), "0")
    holder = m.mnt + "/.ctl/holder"
    os.mkdir(holder)
    write(holder + "/root/f", "1")
    equal(p.xa("A", "start", 3, xid("g")), "XA_OK")
    equal(p.put("A", 3, "f", "2"), -16, "EBUSY at once")
    os.rmdir(holder)
    equal(p.get("A", 3, "f"), "0")
    equal(p.put("A", 3, "g", "2"), 0)
    write(m("f"), "faster")
    equal(p.xa("A", "end", 3, xid("g"), flags=TMSUCCESS), "XA_OK")
    equal(p.xa("A", "prepare", 3, xid("g")), "XA_RBTRANSIENT")
    check("f has other contents" in p.error("A"), p.error("A"))
    equal(p.xa("A", "rollback", 3, xid("g")), "XAER_NOTA")
    # The same in one phase; and for one that has only read.
    for flags, verb in (TMONEPHASE, "commit"), (0, "prepare"):
        equal(p.xa("A", "start", 3, xid(verb)), "XA_OK")
        p.get("A", 3, "f")
        if verb == "commit":
            equal(p.put("A", 3, "g", "2"), 0)
        write(m("f"), "faster than " + verb)
        equal(p.xa("A", "end", 3, xid(verb), flags=TMSUCCESS), "XA_OK")
        equal(p.xa("A", verb, 3, xid(verb), flags=flags), "XA_RBTRANSIENT")
    check(not exists(m("g")), "rolled back")
    equal(p.xa("A", "start", 3, xid("reader")), "XA_OK")
    p.get("A", 3, "f")
    equal(p.xa("A", "end", 3, xid("reader"), flags=TMSUCCESS), "XA_OK")
    equal(p.xa("A", "prepare", 3, xid("reader")), "XA_RDONLY")
    p.end()


# ---- branches ----

def branch(p, rmid, x, name="f", text="x", thread="A"):
    """Begun, worked in, ended."""
    equal(p.xa(thread, "start", rmid, x), "XA_OK", p.error(thread))
    equal(p.put(thread, rmid, name, text), 0)
    equal(p.xa(thread, "end", rmid, x, flags=TMSUCCESS), "XA_OK")


@quick
def test_roots(t):
    m = t.mount()
    p = Process(t)
    equal(p.open("A", 1, m.mnt), "XA_OK")
    x = xid(bytes(range(64)), bytes(range(192, 256)), -2)  # as long as can be, and no text at all
    equal(p.call("A", "root", 1, 4096), (-107, ""))
    equal(p.xa("A", "start", 1, x), "XA_OK", p.error("A"))
    code, root = p.call("A", "root", 1, 4096)
    equal(code, 0)
    check(root.startswith(m.mnt + "/.txn/xa1.fffffffffffffffe.") and exists(root), root)
    equal(p.call("A", "root", 1, len(root) + 1), (0, root))
    for size in 0, 1, len(root):
        equal(p.call("A", "root", 1, size), (-34, ""), size)
    equal(p.call("A", "root", 2, 4096)[0], -107)
    equal(p.call("B", "root", 1, 4096)[0], -107)
    equal(p.put("A", 1, "f", "x"), 0)
    equal(p.xa("A", "end", 1, x, flags=TMSUSPEND), "XA_OK")
    equal(p.call("A", "root", 1, 4096)[0], -107, "suspended")
    # While one branch is suspended the thread works in another one.
    branch(p, 1, xid("other"), "g")
    equal(p.xa("A", "commit", 1, xid("other"), flags=TMONEPHASE), "XA_OK")
    equal(p.xa("A", "start", 1, x, flags=TMRESUME), "XA_OK")
    equal(p.get("A", 1, "f"), "x")
    equal(p.xa("A", "end", 1, x, flags=TMSUCCESS), "XA_OK")
    equal(p.xa("A", "prepare", 1, x), "XA_OK", p.error("A"))
    equal(p.recover("A", 1), [x])
    m.remount()
    equal(p.recover("A", 1), [x], "the same rmid, another mount")
    equal(p.xa("A", "commit", 1, x), "XA_OK")
    equal(read(m("f")), b"x")
    p.end()


@quick
def test_votes(t):
    """Read-only is what changed nothing, also not through a mapping that the daemon has not heard of yet."""
    m = t.mount()
    write(m("f"), "old")
    write(m("h"), "old")
    p = Process(t)
    equal(p.open("A", 1, m.mnt), "XA_OK")
    x = xid("map")
    equal(p.xa("A", "start", 1, x), "XA_OK")
    equal(p.call("A", "map", 1, "f", "new")[0], 0)
    equal(p.xa("A", "end", 1, x, flags=TMSUCCESS), "XA_OK")
    equal(p.xa("A", "prepare", 1, x), "XA_OK")
    equal(p.xa("A", "commit", 1, x), "XA_OK")
    equal(read(m("f")), b"new")
    x = xid("read")
    equal(p.xa("A", "start", 1, x), "XA_OK")
    equal(p.get("A", 1, "h"), "old")
    equal(p.xa("A", "end", 1, x, flags=TMSUCCESS), "XA_OK")
    equal(p.xa("A", "prepare", 1, x), "XA_RDONLY")
    equal(branches(m), (set(), set()))
    p.end()


def test_two_rmids_on_one_mount(t):
    """One resource: an XID is one branch, whichever rmid it came by. And two mounts are two."""
    m, other = t.mount(), t.mount("o")
    p = Process(t)
    for rmid, where in (1, m.mnt), (2, m.mnt), (3, other.mnt):
        equal(p.open("A", rmid, where), "XA_OK")
    x = xid("g")
    equal(p.xa("A", "start", 1, x), "XA_OK")
    equal(p.xa("A", "start", 2, x), "XAER_DUPID")
    equal(p.xa("A", "start", 3, x), "XA_OK", "another mount")
    equal(p.xa("A", "start", 2, x, flags=TMJOIN), "XA_OK")
    equal(p.put("A", 1, "f", "by-1"), 0)
    equal(p.get("A", 2, "f"), "by-1")
    equal(p.get("A", 3, "f"), -2)
    equal(p.xa("A", "end", 1, x, flags=TMSUCCESS), "XA_OK")
    equal(p.xa("A", "prepare", 1, x), "XAER_PROTO", "rmid 2 is in it")
    equal(p.xa("A", "close", 2), "XAER_PROTO")
    equal(p.xa("A", "end", 2, x, flags=TMSUCCESS), "XA_OK")
    equal(p.xa("A", "close", 2), "XA_OK")
    equal(p.xa("A", "prepare", 1, x), "XA_OK")
    equal(p.xa("A", "prepare", 3, x), "XAER_PROTO")
    equal(p.xa("A", "end", 3, x, flags=TMSUCCESS), "XA_OK")
    equal(p.xa("A", "prepare", 3, x), "XA_RDONLY")
    equal(p.xa("A", "rollback", 1, x), "XA_OK")
    p.end()


def test_outside(t):
    """A process in an ambient transaction is at work outside of any global one."""
    m = t.mount()
    p = Process(t)
    equal(p.open("A", 1, m.mnt), "XA_OK")
    a = t.actor()
    a(ctl, m.mnt, "begin")
    equal(p.xa("A", "start", 1, xid("g")), "XA_OK", "someone else's")
    equal(p.xa("A", "end", 1, xid("g"), flags=TMSUCCESS), "XA_OK")
    ctl(m.mnt, "begin")  # the test's process is the manager's parent
    equal(p.xa("A", "start", 1, xid("h")), "XAER_OUTSIDE")
    equal(p.xa("A", "commit", 1, xid("g"), flags=TMONEPHASE), "XA_OK")
    ctl(m.mnt, "rollback")
    equal(p.xa("A", "start", 1, xid("h")), "XA_OK")
    equal(len(branches(m)[0]), 1)
    p.kill()
    wait_until(lambda: not branches(m)[0], 10, "the rollback for a process that has ended")
    # In `txnfs run` the mount is another transaction's view.
    out = subprocess.run([OPT.txnfs, "run", m.mnt, "--", os.path.join(os.path.dirname(OPT.txnfs), "tests", "xa_manager")],
                         input=f"A open 1 {m.mnt} 0\n" + f"A start 1 {xid('g')} 0\n", stdout=subprocess.PIPE, text=True, check=True,
                         timeout=patience(20)).stdout
    equal(out.split("\n")[:2], ["A 0 ", "A -9 "])


def test_rollback_only(t):
    """What the program was told by open and write, it tells the library; xa_end tells the manager."""
    m = t.mount()
    p = Process(t)
    for thread in "AB":
        equal(p.open(thread, 1, m.mnt), "XA_OK")
    for err, code in (35, "XA_RBDEADLOCK"), (16, "XA_RBTIMEOUT"), (125, "XA_RBTRANSIENT"), (28, "XA_RBOTHER"):
        x = xid(code)
        equal(p.xa("A", "start", 1, x), "XA_OK")
        equal(p.put("A", 1, "f", "x"), 0)
        equal(p.xa("B", "start", 1, x, flags=TMJOIN), "XA_OK")
        equal(p.call("A", "failed", 1, err)[0], 0)
        equal(p.call("A", "failed", 1, 1)[0], 0)  # the first one counts
        equal(p.xa("A", "end", 1, x, flags=TMSUSPEND), code)
        equal(p.xa("A", "end", 1, x, flags=TMSUCCESS), "XAER_PROTO", "it is through")
        equal(p.xa("A", "start", 1, x, flags=TMJOIN), code)
        equal(p.xa("A", "start", 1, x, flags=TMRESUME), "XAER_PROTO")
        equal(p.xa("A", "rollback", 1, x), "XAER_PROTO", "B is in it")
        equal(p.xa("B", "end", 1, x, flags=TMSUCCESS), code)
        equal(p.xa("A", "rollback", 1, x), code)
        equal(p.xa("A", "rollback", 1, x), "XAER_NOTA")
    # Suspended, then made rollback-only by the other one.
    equal(p.xa("A", "start", 1, xid("s")), "XA_OK")
    equal(p.xa("B", "start", 1, xid("s"), flags=TMJOIN), "XA_OK")
    equal(p.xa("A", "end", 1, xid("s"), flags=TMSUSPEND), "XA_OK")
    equal(p.xa("B", "end", 1, xid("s"), flags=TMFAIL), "XA_RBROLLBACK")
    equal(p.xa("A", "start", 1, xid("s"), flags=TMRESUME), "XA_RBROLLBACK")
    equal(p.xa("B", "rollback", 1, xid("s")), "XA_RBROLLBACK")
    # An operator ends it.
    equal(p.xa("A", "start", 1, xid("o")), "XA_OK")
    os.rmdir(m(".txn", branches(m)[0].pop()))
    equal(p.xa("A", "end", 1, xid("o"), flags=TMSUCCESS), "XA_RBROLLBACK")
    equal(p.xa("A", "start", 1, xid("o")), "XAER_DUPID")
    equal(p.xa("A", "rollback", 1, xid("o")), "XA_RBROLLBACK")
    branch(p, 1, xid("o"))
    os.rmdir(m(".txn", branches(m)[0].pop()))
    equal(p.xa("A", "prepare", 1, xid("o")), "XAER_NOTA")
    check(not exists(m("f")), "nothing of all that")
    p.end()


def test_threads(t):
    """Many threads, each with branches of its own; and all in one; a thread that ends inside of a branch."""
    m = t.mount()
    p = Process(t)
    names = [f"T{i}" for i in range(8)]
    for n in names:
        equal(p.open(n, 1, m.mnt), "XA_OK")

    def all_of(*words):
        for n in names:
            p.start(n, *(w(n) if callable(w) else w for w in words))
        return [p.result(n)[0] for n in names]

    for i in range(10):
        x = lambda n: xid(f"{n} {i}")  # noqa: E731
        equal(set(all_of("start", 1, x, "0")), {0})
        equal(set(all_of("put", 1, lambda n: "f" + n, str(i))), {0})
        equal(set(all_of("end", 1, x, f"{TMSUCCESS:x}")), {0})
        if i % 2:
            equal(set(all_of("commit", 1, x, f"{TMONEPHASE:x}")), {0})
        else:
            equal(set(all_of("prepare", 1, x, "0")), {0})
            equal(len(p.recover("T0", 1)), 8)
            equal(set(all_of("commit", 1, x, "0")), {0})
        equal({read(m("f" + n)) for n in names}, {str(i).encode()})
    equal(p.xa("T0", "start", 1, xid("one")), "XA_OK")
    equal([p.xa(n, "start", 1, xid("one"), flags=TMJOIN) for n in names[1:]], ["XA_OK"] * 7)
    equal(set(all_of("put", 1, lambda n: "f" + n, "together")), {0})
    for n in names[:-1]:
        equal(p.xa(n, "end", 1, xid("one"), flags=TMSUCCESS), "XA_OK")
        equal(p.xa(n, "prepare", 1, xid("one")), "XAER_PROTO")
    equal(p.xa("T7", "end", 1, xid("one"), flags=TMSUCCESS), "XA_OK")
    # All prepare at once: one of them does, none thinks that it is gone.
    codes = all_of("prepare", 1, xid("one"), "0")
    equal((codes.count(0), codes.count(-6)), (1, 7))
    codes = all_of("commit", 1, xid("one"), "0")
    equal((codes.count(0), codes.count(-4)), (1, 7))
    equal({read(m("f" + n)) for n in names}, {b"together"})
    # A thread ends.
    equal(p.xa("T0", "start", 1, xid("end")), "XA_OK")
    equal(p.put("T0", 1, "fT0", "never"), 0)
    equal(p.xa("T1", "start", 1, xid("end"), flags=TMJOIN), "XA_OK")
    p.call("T0", "exit")
    equal(p.xa("T1", "end", 1, xid("end"), flags=TMSUCCESS), "XA_RBROLLBACK")
    equal(p.xa("T1", "rollback", 1, xid("end")), "XA_RBROLLBACK")
    equal(read(m("fT0")), b"together")
    p.end()


def test_processes(t):
    """Branches are the mount's: other processes join, prepare and end them, but not while someone is in them."""
    m = t.mount()
    p, q = Process(t), Process(t)
    equal((p.open("A", 1, m.mnt), q.open("A", 9, m.mnt)), ("XA_OK", "XA_OK"))
    x = xid("g")
    equal(p.xa("A", "start", 1, x), "XA_OK")
    equal(p.put("A", 1, "f", "p"), 0)
    equal(q.xa("A", "start", 9, x), "XAER_DUPID")
    for verb, flags in ("prepare", 0), ("commit", TMONEPHASE), ("rollback", 0):
        equal(q.xa("A", verb, 9, x, flags=flags), "XAER_PROTO", verb)
    equal(q.xa("A", "start", 9, x, flags=TMJOIN), "XA_OK")
    equal(q.get("A", 9, "f"), "p")
    equal(q.put("A", 9, "g", "q"), 0)
    equal(p.xa("A", "end", 1, x, flags=TMSUCCESS), "XA_OK")
    equal(p.xa("A", "prepare", 1, x), "XAER_PROTO")
    equal(q.xa("A", "end", 9, x, flags=TMSUCCESS), "XA_OK")
    equal(q.xa("A", "prepare", 9, x), "XA_OK")
    equal(p.xa("A", "start", 1, x), "XAER_DUPID")
    equal(p.xa("A", "start", 1, x, flags=TMJOIN), "XAER_PROTO")
    p.kill()
    equal(q.xa("A", "commit", 9, x), "XA_OK")
    equal((read(m("f")), read(m("g"))), (b"p", b"q"))
    # What is not prepared ends with the process that began it, unless it is owned by none.
    p = Process(t)
    equal(p.open("A", 1, m.mnt), "XA_OK")
    equal(p.open("A", 2, m.mnt + ",owner=none"), "XA_OK")
    branch(p, 1, xid("owned"), "owned")
    branch(p, 2, xid("free"), "free")
    p.kill()
    wait_until(lambda: len(branches(m)[0]) == 1, 10, "the rollback for a process that has ended")
    equal(q.xa("A", "prepare", 9, xid("owned")), "XAER_NOTA")
    equal(q.xa("A", "prepare", 9, xid("free")), "XA_OK")
    equal(q.xa("A", "commit", 9, xid("free")), "XA_OK")
    check(exists(m("free")) and not exists(m("owned")), ls(m.mnt))
    q.end()


def test_fork(t):
    """A child opens anew; its copies of the parent's descriptors do not stand in the way of anybody."""
    m = t.mount()
    p = Process(t)
    equal(p.open("A", 1, m.mnt), "XA_OK")
    x = xid("g")
    equal(p.xa("A", "start", 1, x), "XA_OK")
    equal(p.put("A", 1, "f", "x"), 0)
    for words in (("end", 1, x, f"{TMSUCCESS:x}"), ("prepare", 1, x, "0"), ("start", 1, x, f"{TMRESUME:x}")):
        equal(p.call("A", "child", *words)[0], -6, words)
    equal(p.call("A", "child", "root", 1, 4096)[0], -107)
    equal(p.call("A", "child", "open", 1, m.mnt, "0")[0], 0)
    check(p.call("A", "fork")[0] > 0, "a child that stays")
    equal(p.get("A", 1, "f"), "x", "the parent's branch lives")
    equal(p.xa("A", "end", 1, x, flags=TMSUCCESS), "XA_OK")
    equal(p.xa("A", "prepare", 1, x), "XA_OK", p.error("A"))
    equal(p.xa("A", "close", 1), "XA_OK")
    m.remount()  # nobody keeps it busy
    equal(p.open("A", 1, m.mnt), "XA_OK")
    equal(p.xa("A", "rollback", 1, x), "XA_OK")
    p.end()


# ---- recovery ----

def test_recover_scans(t):
    m = t.mount()
    p = Process(t)
    equal(p.open("A", 1, m.mnt), "XA_OK")
    equal(p.recover("A", 1, 5, 0), "XAER_INVAL")
    equal(p.recover("A", 1, 5, TMENDRSCAN), "XAER_INVAL")
    xids = [xid(f"g{i}", bytes([i, 0, 255])) for i in range(5)]
    for i, x in enumerate(xids):
        branch(p, 1, x, f"f{i}")
        equal(p.xa("A", "prepare", 1, x), "XA_OK")
    for name, gid in ("n", "not-an-xid"), ("o", "xa1.0.YQ.YR"):  # other people's: the second only looks like one
        n = m.named(name)
        write(n(name), "x")
        n.ctl(f"prepare {gid}")
    branch(p, 1, xid("idle"))
    equal(p.recover("A", 1), xids)
    equal(p.recover("A", 1, 2, TMSTARTRSCAN), xids[:2])
    equal(p.recover("A", 1, 0, 0), [])
    equal(p.recover("A", 1, 2, 0), xids[2:4])
    equal(p.xa("A", "rollback", 1, xids[4]), "XA_OK")
    equal(p.recover("A", 1, 2, 0), xids[4:], "a scan is as of its start")
    equal(p.recover("A", 1, 2, 0), [])
    equal(p.recover("A", 1, 2, TMSTARTRSCAN), xids[:2], "begins anew")
    equal(p.recover("A", 1, 1, TMENDRSCAN), xids[2:3])
    equal(p.recover("A", 1, 1, 0), "XAER_INVAL")
    for x in xids[:4]:
        equal(p.xa("A", "forget", 1, x), "XAER_PROTO")
        equal(p.xa("A", "commit", 1, x), "XA_OK")
    m.ctl("rollback prepared not-an-xid")
    m.ctl("rollback prepared xa1.0.YQ.YR")
    p.end()


@needs_root
def test_other_users(t):
    """A user's manager sees and ends what is the user's own; a branch of someone else is not touched."""
    m = t.mount(options="allow_other")
    os.chmod(m.mnt, 0o777)
    p, q = Process(t), Process(t, user=65534, group=65534, extra_groups=[])
    equal((p.open("A", 1, m.mnt), q.open("A", 1, m.mnt)), ("XA_OK", "XA_OK"), q.error("A"))
    branch(p, 1, xid("root's"), "a")
    for verb, flags in ("prepare", 0), ("commit", TMONEPHASE), ("rollback", 0), ("start", TMJOIN):
        code = q.xa("A", verb, 1, xid("root's"), flags=flags)
        check(code.startswith("XAER_") and code != "XAER_NOTA", verb, code)
    equal(q.xa("A", "start", 1, xid("root's")), "XAER_DUPID")
    equal(p.xa("A", "prepare", 1, xid("root's")), "XA_OK")
    branch(q, 1, xid("user's"), "b")
    equal(q.xa("A", "prepare", 1, xid("user's")), "XA_OK")
    equal(q.recover("A", 1), [xid("user's")])
    equal(set(p.recover("A", 1)), {xid("user's"), xid("root's")})
    equal(q.xa("A", "commit", 1, xid("root's")), "XAER_RMFAIL")
    equal(q.xa("A", "rollback", 1, xid("root's")), "XAER_RMFAIL")
    equal(p.xa("A", "commit", 1, xid("root's")), "XA_OK")
    equal(q.xa("A", "commit", 1, xid("user's")), "XA_OK")
    equal((read(m("a")), read(m("b"))), (b"x", b"x"))


def test_mount_goes(t):
    """Whatever the daemon's end comes into, nobody is told that a branch is gone which is not."""
    m = t.mount()
    p = Process(t)
    for thread in "AB":
        equal(p.open(thread, 1, m.mnt), "XA_OK")
    prepared, idle, suspended = xid("prepared"), xid("idle"), xid("suspended")
    branch(p, 1, prepared, "f")
    equal(p.xa("A", "prepare", 1, prepared), "XA_OK")
    branch(p, 1, idle, "g")
    equal(p.xa("A", "start", 1, suspended), "XA_OK")
    equal(p.xa("A", "end", 1, suspended, flags=TMSUSPEND), "XA_OK")
    equal(p.xa("B", "start", 1, xid("active")), "XA_OK")
    for down in "dead", "unmounted":
        if down == "dead":
            m.kill9(detach=False)
        for x in prepared, idle, xid("unheard of"):
            for verb, flags in (("prepare", 0), ("commit", 0), ("commit", TMONEPHASE), ("rollback", 0), ("forget", 0), ("start", TMJOIN),
                                ("start", TMRESUME), ("start", 0), ("end", TMSUCCESS)):
                equal(p.xa("A", verb, 1, x, flags=flags), "XAER_RMFAIL", f"{down}: {verb} {p.error('A')}")
        equal(p.recover("A", 1), "XAER_RMFAIL")
        equal(p.open("C", 1, m.mnt), "XAER_RMERR")
        if down == "dead":
            equal(p.xa("A", "end", 1, suspended, flags=TMSUCCESS), "XAER_RMFAIL")
            equal(p.xa("A", "end", 1, suspended, flags=TMSUCCESS), "XAER_RMFAIL")
            m.detach()
    m.start()
    equal(p.recover("A", 1), [prepared])
    equal(p.xa("B", "end", 1, xid("active"), flags=TMSUCCESS), "XA_RBCOMMFAIL")
    equal(p.xa("B", "rollback", 1, xid("active")), "XA_RBCOMMFAIL")
    for x in idle, suspended:
        equal(p.xa("A", "rollback", 1, x), "XAER_NOTA")
    equal(p.xa("A", "start", 1, prepared), "XAER_DUPID")
    equal(p.xa("A", "commit", 1, prepared), "XA_OK")
    equal(read(m("f")), b"x")
    check(not exists(m("g")), "rolled back")
    p.end()
