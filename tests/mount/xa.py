"""
X/Open XA from outside: the specification's names, a process whose threads call a switch (xa_manager.c), and a small
transaction manager with a decision log, presumed abort and recovery.
"""
import os
import signal
import subprocess

from harness import OPT, TROUBLE, Failure, check, equal, ls, read

TMNOFLAGS = 0
TMASYNC, TMONEPHASE, TMFAIL, TMNOWAIT = 0x80000000, 0x40000000, 0x20000000, 0x10000000
TMRESUME, TMSUCCESS, TMSUSPEND, TMSTARTRSCAN = 0x08000000, 0x04000000, 0x02000000, 0x01000000
TMENDRSCAN, TMMULTIPLE, TMJOIN, TMMIGRATE = 0x00800000, 0x00400000, 0x00200000, 0x00100000

NAMES = {100: "XA_RBROLLBACK", 101: "XA_RBCOMMFAIL", 102: "XA_RBDEADLOCK", 103: "XA_RBINTEGRITY", 104: "XA_RBOTHER",
         105: "XA_RBPROTO", 106: "XA_RBTIMEOUT", 107: "XA_RBTRANSIENT", 9: "XA_NOMIGRATE", 8: "XA_HEURHAZ", 7: "XA_HEURCOM",
         6: "XA_HEURRB", 5: "XA_HEURMIX", 4: "XA_RETRY", 3: "XA_RDONLY", 0: "XA_OK", -2: "XAER_ASYNC", -3: "XAER_RMERR",
         -4: "XAER_NOTA", -5: "XAER_INVAL", -6: "XAER_PROTO", -7: "XAER_RMFAIL", -8: "XAER_DUPID", -9: "XAER_OUTSIDE"}


def xid(gtrid, bqual=b"b", format_id=7):
    """As the program takes it, and as it gives it back."""
    def raw(x):
        return (x if isinstance(x, bytes) else x.encode()).hex()
    return f"{format_id}:{raw(gtrid)}:{raw(bqual)}"


def gtrid_of(x):
    return bytes.fromhex(x.split(":")[1])


RESERVED = {"ctl", "status", "transactions", "prepared"}


def branches(m):
    """The mount's (open, prepared) branches."""
    return set(ls(m(".txn"))) - RESERVED, {line.split("\t")[0] for line in read(m(".txn/prepared")).decode().splitlines()}


class Process:
    """A process with threads of control."""

    def __init__(self, t, program=None, **kw):
        path = program or os.path.join(os.path.dirname(OPT.txnfs), "tests", "xa_manager")
        if not os.access(path, os.X_OK):
            raise Failure(f"no program at {path}: build it")
        self.p = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  errors="replace", bufsize=1, **kw)
        self.waiting = {}
        t.cleanups.append(self.kill)

    def start(self, thread, *words):
        self.p.stdin.write(" ".join(map(str, (thread, *words))) + "\n")
        self.p.stdin.flush()

    def result(self, thread):
        while thread not in self.waiting:
            line = self.p.stdout.readline()
            if not line:
                raise Failure(f"the manager's process has ended: {self.p.stderr.read()}")
            who, code, text = line.rstrip("\n").split(" ", 2)
            self.waiting[who] = (int(code), text)
        return self.waiting.pop(thread)

    def call(self, thread, *words):
        """(code, text)"""
        self.start(thread, *words)
        return self.result(thread)

    def xa(self, thread, verb, rmid, *words, flags=0):
        """The name of XA's code."""
        code, _ = self.call(thread, verb, rmid, *words, f"{flags:x}")
        return NAMES.get(code, str(code))

    def open(self, thread, rmid, text):
        return self.xa(thread, "open", rmid, text)

    def recover(self, thread, rmid, count=10, flags=TMSTARTRSCAN | TMENDRSCAN):
        code, text = self.call(thread, "recover", rmid, count, f"{flags:x}")
        return text.split() if code >= 0 else NAMES[code]

    def put(self, thread, rmid, name, text):
        return self.call(thread, "put", rmid, name, text)[0]

    def get(self, thread, rmid, name):
        code, text = self.call(thread, "get", rmid, name)
        return text if code == 0 else code

    def error(self, thread):
        return self.call(thread, "error")[1]

    def kill(self):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGKILL)
        self.p.wait()
        for f in (self.p.stdin, self.p.stdout, self.p.stderr):
            try:
                f.close()
            except BrokenPipeError:
                pass

    def end(self):
        """An orderly end, which must be a good one."""
        _, errors = self.p.communicate()
        check(self.p.returncode == 0 and not any(m in errors for m in TROUBLE), errors)


class Crash(Exception):
    """The manager has been killed at this step."""


class Manager:
    """
    A transaction manager: one thread of control, several resource managers {rmid: open string}, and a log of decisions that
    survives it. Presumed abort: what the log does not have is rolled back.
    """

    def __init__(self, t, resources, log, program=None):
        self.t, self.resources, self.log, self.program = t, resources, log, program
        self.step = lambda name: None  # what happens between the steps
        self.start()

    def start(self):
        self.p = Process(self.t, self.program)
        for rmid, text in self.resources.items():
            equal(self.p.open("M", rmid, text), "XA_OK", self.p.error("M"))

    def decided(self):
        if not os.path.exists(self.log):
            return set()
        with open(self.log) as f:
            return {line.strip() for line in f}

    def decide(self, gtrid):
        with open(self.log, "a") as f:
            f.write(gtrid + "\n")
            f.flush()
            os.fsync(f.fileno())

    def do(self, verb, rmid, x, flags=0):
        code = self.p.xa("M", verb, rmid, x, flags=flags)
        self.step(f"{verb} {rmid}")
        return code

    def run(self, gtrid, work):
        """work(rmid) in a branch of each; True: committed, also when somebody has yet to hear of it."""
        branches = {rmid: xid(gtrid, f"b{rmid}") for rmid in self.resources}
        votes = {}
        good = True
        for rmid, x in branches.items():
            good = good and self.do("start", rmid, x) == "XA_OK"
        for rmid, x in branches.items():
            good = good and work(rmid) in (0, None)
            self.step(f"work {rmid}")
        for rmid, x in branches.items():
            good = self.do("end", rmid, x, TMSUCCESS if good else TMFAIL) == "XA_OK" and good
        for rmid, x in branches.items():
            if good:
                votes[rmid] = self.do("prepare", rmid, x)
                good = votes[rmid] in ("XA_OK", "XA_RDONLY")
        if good:
            self.decide(gtrid)
            self.step("decide")
        for rmid, x in branches.items():
            if votes.get(rmid) != "XA_RDONLY":
                code = self.do("commit" if good else "rollback", rmid, x)
                check(not good or code in ("XA_OK", "XA_RETRY", "XAER_RMFAIL"), f"prepared, and commit gives {code}")
        return good

    def recover(self):
        """Finish what is in doubt, in a new process. Returns how many branches there were."""
        self.p.kill()
        self.step = lambda name: None
        self.start()
        decided = self.decided()
        n = 0
        for rmid in self.resources:
            for x in self.p.recover("M", rmid):
                verb = "commit" if gtrid_of(x).decode() in decided else "rollback"
                equal(self.p.xa("M", verb, rmid, x), "XA_OK", self.p.error("M"))
                n += 1
            equal(self.p.recover("M", rmid), [])
        return n

    def end(self):
        for rmid in self.resources:
            equal(self.p.xa("M", "close", rmid), "XA_OK")
        self.p.end()
