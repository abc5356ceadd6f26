"""Files in global transactions: two mounts, a mount and a database, crashes between the steps; the library as it is installed."""
import itertools
import os
import subprocess

from harness import OPT, Skip, check, equal, exists, quick, read, wait_until, write
from test_libtxnfs import (ROOT, compile_example, declared, exports, installed, manual_example, needed, pkg_config,
                           sanitized)
from xa import TMSUCCESS, Crash, Manager, Process, branches, xid

# ---- two mounts and a manager ----

STEPS = ["start 1", "start 2", "work 1", "work 2", "end 1", "end 2", "prepare 1", "prepare 2", "decide", "commit 1", "commit 2"]


def two_phase(t, mounts, manager, number, step, victims):
    """One transaction over both; after `step`, `victims` die. Whatever comes, both mounts agree with the log."""
    gtrid = f"t{number}"

    def crash(name):
        if name == step:
            for v in victims:
                if v == "manager":
                    manager.p.kill()
                else:
                    mounts[v].kill9()
                    mounts[v].start()
            if "manager" in victims:
                raise Crash

    manager.step = crash
    try:
        committed = manager.run(gtrid, lambda rmid: manager.p.put("M", rmid, "f", gtrid))
        equal(committed, gtrid in manager.decided())
    except Crash:
        pass
    manager.recover()
    decided = gtrid in manager.decided()
    for m in mounts.values():
        equal(branches(m)[1], set(), "nothing is in doubt")
        wait_until(lambda: not branches(m)[0], 10, "the end of what was not prepared")  # noqa: B023
        equal(read(m("f")) == gtrid.encode(), decided, f"{step}, {victims}: {read(m('f'))}")
    return decided


VICTIMS = [["manager"], [1], [2], [1, 2], ["manager", 1, 2]]


def two_phase_crashes(t, cases):
    mounts = {1: t.mount("a"), 2: t.mount("b")}
    for m in mounts.values():
        write(m("f"), "before")
    manager = Manager(t, {rmid: m.mnt for rmid, m in mounts.items()}, t.path("decisions"))
    outcomes = [two_phase(t, mounts, manager, n, step, victims) for n, (step, victims) in enumerate(cases)]
    t.note(f"{len(outcomes)} crashes, {sum(outcomes)} committed all the same")
    manager.end()
    return outcomes


@quick
def test_two_phase_commit(t):
    """The manager dies between any two steps."""
    outcomes = two_phase_crashes(t, [(step, ["manager"]) for step in STEPS])
    equal(outcomes, [False] * 8 + [True] * 3)


def test_two_phase_commit_and_daemons(t):
    """A daemon dies, or both, or all three. TXNFS_XA=all: at each step, else at some that change with the seed."""
    cases = list(itertools.product(STEPS, VICTIMS[1:]))
    if os.environ.get("TXNFS_XA") != "all":
        cases = t.rng.sample(cases, 8)
    two_phase_crashes(t, cases)


def test_manager_votes(t):
    """A branch that fails takes the other one along; one that has changed nothing is left out."""
    mounts = {1: t.mount("a"), 2: t.mount("b")}
    manager = Manager(t, {rmid: m.mnt for rmid, m in mounts.items()}, t.path("decisions"))
    p = manager.p
    equal(manager.run("both", lambda rmid: p.put("M", rmid, "f", "both")), True)
    equal(manager.run("one", lambda rmid: p.put("M", rmid, "f", "one") if rmid == 1 else 0), True)
    equal(manager.run("none", lambda rmid: p.put("M", rmid, "f", "none") if rmid == 1 else -1), False)
    equal(manager.run("nothing", lambda rmid: 0), True)
    equal((read(mounts[1]("f")), read(mounts[2]("f"))), (b"one", b"both"))
    manager.end()


# ---- with a database ----

DB = 100  # its rmid


class WithBerkeley(Manager):
    """
    Berkeley DB's own switch is the second resource manager. After a crash its prepared branches are finished by its
    native calls: its xa_recover (5.3.28) gives XIDs without lengths then, and its xa_commit does not take them.
    """

    def __init__(self, t, resources, log, program):
        self.home = resources[DB]
        super().__init__(t, resources, log, program)

    def start(self):
        super().start()
        equal(self.p.call("M", "dbopen", DB, "accounts")[0], 0)

    def recover_database(self, gtrid):
        self.p.kill()
        p = Process(self.t, self.program)
        verb = "commit" if gtrid in self.decided() else "rollback"
        n, _ = p.call("R", "dbresolve", self.home, verb, gtrid.encode().hex())
        check(n in (0, 1), "no other branch was prepared:", n)
        p.end()

    def value(self):
        x = xid("reader")
        equal(self.p.xa("M", "start", DB, x), "XA_OK")
        code, text = self.p.call("M", "dbget", "k")
        equal(self.p.xa("M", "end", DB, x, flags=TMSUCCESS), "XA_OK")
        equal(self.p.xa("M", "rollback", DB, x), "XA_OK")
        return text if code == 0 else None


def berkeley_manager(t):
    """The program with Berkeley DB in it; Debian's libdb5.3-dev exports db_xa_switch."""
    if sanitized():
        raise Skip("the build without sanitizers has this test")
    p = subprocess.run([os.path.join(ROOT, "tools/deps.sh"), "libdb5.3-dev"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, check=False)
    if p.returncode:
        raise Skip("libdb5.3-dev cannot be installed: " + p.stdout.strip()[-200:])
    build, out = os.path.dirname(OPT.txnfs), t.path("xa_manager")
    p = subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", "-DWITH_DB", "-I", os.path.join(ROOT, "tools/lib"),
                        os.path.join(ROOT, "tests/mount/xa_manager.c"), "-o", out, "-L", build, "-ltxnfs-xa", "-ldb-5.3",
                        "-lpthread", "-Wl,-rpath," + build],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    equal(p.returncode, 0, p.stdout)
    return out


def test_files_and_a_database(t):
    """Files and Berkeley DB in one transaction; the manager dies between any two steps, the mount's daemon at some."""
    program = berkeley_manager(t)
    m, home = t.mount(), t.path("home")
    os.mkdir(home)
    write(m("f"), "before")
    number = 0
    for resources in {1: m.mnt, DB: home}, {DB: home, 1: m.mnt}:  # who is first in each phase
        manager = WithBerkeley(t, resources, t.path("decisions"), program)
        equal(manager.p.call("M", "switch", DB)[1], "Berkeley DB 0")
        steps = [f"{verb} {rmid}" for verb in ("start", "work", "end", "prepare") for rmid in resources]
        steps += ["decide"] + [f"commit {rmid}" for rmid in resources]
        for step, victim in itertools.product(steps, ("manager", "daemon")):
            if victim == "daemon" and not step.startswith(("prepare", "decide")):
                continue
            number += 1
            gtrid = f"t{number}"
            last = manager.value(), read(m("f")).decode()

            def crash(name, step=step, victim=victim):
                if name == step:
                    if victim == "daemon":
                        m.crash()
                        return
                    manager.p.kill()  # noqa: B023
                    raise Crash

            manager.step = crash
            try:
                manager.run(gtrid, lambda rmid: manager.p.call("M", "dbput", "k", gtrid)[0] if rmid == DB  # noqa: B023
                            else manager.p.put("M", rmid, "f", gtrid))  # noqa: B023
            except Crash:
                pass
            manager.recover_database(gtrid)
            manager.recover()
            now = manager.value(), read(m("f")).decode()
            equal(now, (gtrid, gtrid) if gtrid in manager.decided() else last, f"{step}, {victim}")
            equal(branches(m)[1], set())
        manager.end()
    t.note(f"{number} crashes")


# ---- as it is installed ----

def test_installed(t):
    if sanitized():
        raise Skip("the sanitizers' libraries would have to be linked too")
    dest, prefix = installed(t)
    libdir = os.path.dirname(next(os.path.join(d, f) for d, _, fs in os.walk(prefix) for f in fs if f == "libtxnfs-xa.so"))
    library = os.path.join(libdir, "libtxnfs-xa.so")
    libraries, soname = needed(library)
    equal(soname, ["libtxnfs-xa.so.0"])
    check(all(n.startswith(("libc.so", "ld-linux")) for n in libraries), "no dependency but libc:", libraries)
    equal(exports(library), declared("txnfs-xa.h") | {"txnfs_xa_switch"})
    check(exists(prefix + "/share/man/man3/libtxnfs-xa.3"), "the manual page")
    out = compile_example(t, "example", manual_example("libtxnfs-xa.3"), pkg_config(dest, prefix, "--cflags", "--libs", "libtxnfs-xa"))
    a, b = t.mount("a"), t.mount("b")
    env = {**os.environ, "LD_LIBRARY_PATH": libdir}

    def run(*args):
        return subprocess.run([out, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)

    p = run(a.mnt, b.mnt)
    equal(p.returncode, 0, p.stdout)
    for m in a, b:
        equal(read(m("greeting")), b"hello\n")
        os.unlink(m("greeting"))
    os.mkdir(b("greeting"))  # where the example wants a file
    p = run(a.mnt, b.mnt)
    equal(p.returncode, 1, p.stdout)
    check(not exists(a("greeting")), "in neither")
    equal((branches(a), branches(b)), ((set(), set()), (set(), set())))
    # The headers of the specification's names agree with other people's, and C++ takes them all.
    write(t.path("headers.c"), "#include <txnfs.h>\n#include <txnfs-xa.h>\n#include <txnfs/xa.h>\nint main(void) { return 0; }\n")
    for language in "c", "c++":
        compiler = subprocess.run(["sh", "-c", f"command -v {'c++' if language == 'c++' else 'cc'}"], stdout=subprocess.PIPE, check=False)
        if compiler.returncode == 0:
            flags = ["-std=c99"] if language == "c" else []
            q = subprocess.run([compiler.stdout.decode().strip(), "-x", language, *flags, "-Wall", "-Wextra", "-pedantic", "-Werror",
                                "-fsyntax-only", "-I" + prefix + "/include", t.path("headers.c")], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False)
            equal(q.returncode, 0, q.stdout)
