#!/usr/bin/python3
"""
Real-mount tests of txnfs.

    run.py [--quick] [--txnfs PATH] [--seed N] [--jobs N] [--keep] [--list] [NAME...]

NAME is a file's (`basic`, `test_basic`), a test's (`basic.transfer_commits`), a part of one, or a test's with one of
its settings (`posix.rename[named]`). One line per test; the last line is "N passed, N failed, N skipped".
The exit status is 0 when none failed.
"""
import argparse
import importlib
import os
import pickle
import random
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import harness  # noqa: E402
import sysc  # noqa: E402
from harness import OPT, Skip, children  # noqa: E402

SANITIZER_FACTOR = 4.0
DEADLINE_FACTOR = 5  # on a machine that has other work


class Job:
    """A test in its own process."""

    def __init__(self, name, fn, settings, base):
        self.name, self.fn, self.settings = name, fn, settings
        self.dir = os.path.join(base, name.replace("/", "_"))
        os.mkdir(self.dir)
        os.chmod(self.dir, 0o755)
        self.began = time.monotonic()
        self.limit = getattr(fn, "deadline", 60) * OPT.slow * DEADLINE_FACTOR
        self.output = os.path.join(base, name + ".out")
        r, w = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(r)
            self._child(w)
        os.close(w)
        self.pipe = r

    def _child(self, w):
        """Never returns."""
        out = ("FAIL", "the test's process died", [])
        try:
            os.setsid()
            for sig in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):  # whatever this was started with, nohup perhaps
                signal.signal(sig, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, lambda sig, frame: sys.exit(1))  # the runner died: clean up
            sysc.prctl(sysc.PR_SET_CHILD_SUBREAPER, 1)
            sysc.prctl(sysc.PR_SET_PDEATHSIG, signal.SIGTERM)
            harness.PROGRESS = os.dup(1)
            fd = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            out = self._body()
        except BaseException:
            out = ("FAIL", traceback.format_exc(), [])
        finally:
            try:
                sys.stdout.flush()
                data = pickle.dumps(out)
                with os.fdopen(w, "wb") as f:
                    f.write(struct.pack("<Q", len(data)) + data)
            finally:
                os._exit(0)

    def _body(self):
        t = harness.Test(self.name, self.dir, self.settings)
        verdict, text = "ok", ""
        try:
            self.fn(t)
        except Skip as e:
            verdict, text = "skip", str(e)
        except harness.Failure as e:
            verdict, text = "FAIL", f"{e}\n{_short_trace()}"
        except BaseException:
            verdict, text = "FAIL", traceback.format_exc()
        logs = []
        try:
            t.finish(verdict == "FAIL")
        except BaseException as e:
            verdict, text = "FAIL", f"at the end: {e}\n{traceback.format_exc()}"
        if verdict == "FAIL":
            logs = [(n, s[-6000:]) for n, s in t.logs()]
        elif t.notes:
            text = "; ".join(t.notes)
        return verdict, text, logs

    def poll(self):
        """None while it runs, else (verdict, text, logs)."""
        if select.select([self.pipe], [], [], 0)[0]:
            data = b""
            while len(data) < 8 or len(data) < 8 + struct.unpack_from("<Q", data)[0]:
                part = os.read(self.pipe, 1 << 20)
                if not part:
                    return "FAIL", f"the test's process died\n{_tail(self.output)}", []
                data += part
            return pickle.loads(data[8:])
        if time.monotonic() - self.began > self.limit:
            text = f"not done after {self.limit:.0f} s; its processes:\n{describe(self.pid)}"
            return "FAIL", text, [(f, _tail(os.path.join(self.dir, f))) for f in sorted(os.listdir(self.dir))
                                  if f.endswith(".log")]
        return None

    def clean(self):
        """Take away all that the test mounted, started and wrote."""
        unmount_below(self.dir)  # forced: wakes whoever waits for a daemon
        kill_tree(self.pid)
        os.close(self.pipe)
        unmount_below(self.dir)
        if not OPT.keep:
            shutil.rmtree(self.dir, ignore_errors=True)


def _short_trace():
    """Where in the tests the failure came from."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    mine = [f for f in frames if os.path.basename(f.filename) not in ("run.py", "harness.py", "checks.py")]
    return "".join(traceback.format_list(mine))


def _tail(path, n=6000):
    try:
        with open(path, "rb") as f:
            return f.read()[-n:].decode("utf-8", "replace")
    except OSError:
        return ""


def tree(pid):
    out = [pid]
    for c in children(pid):
        out += tree(c)
    return out


def describe(pid):
    lines = []
    for p in tree(pid):
        try:
            with open(f"/proc/{p}/cmdline") as f:
                cmd = f.read().replace("\0", " ")[:100]
            with open(f"/proc/{p}/wchan") as f:
                where = f.read()
            with open(f"/proc/{p}/stack") as f:
                where += " < " + " < ".join(line.split()[-1].split("+")[0] for line in f.read().splitlines()[:6])
        except OSError:
            continue
        lines.append(f"  {p} {cmd} {where}")
    return "\n".join(lines)


def kill_tree(pid):
    """
    Kill a test's process and all below it. Daemons first: that wakes whoever waits for them. The test's process is
    the reaper of its descendants, so it goes last and nothing escapes.
    """
    end = time.monotonic() + 10
    while time.monotonic() < end:
        below = tree(pid)[1:]
        if not below:
            break
        for p in below:
            try:
                os.kill(p, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        states = []
        for p in below:
            try:
                with open(f"/proc/{p}/stat") as f:
                    states.append(f.read().rsplit(")", 1)[1].split()[0])
            except OSError:
                pass
        if all(s == "Z" for s in states):
            break
        time.sleep(0.01)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(pid, 0)


def unmount_below(path):
    for _ in range(50):
        with open("/proc/self/mountinfo") as f:
            points = [line.split()[4].encode().decode("unicode_escape") for line in f]
        points = [p for p in points if p.startswith(path + "/")]
        if not points:
            return
        for p in reversed(points):
            try:
                sysc.umount2(p, sysc.MNT_DETACH | sysc.MNT_FORCE)
            except OSError:
                os.spawnlp(os.P_WAIT, "fusermount3", "fusermount3", "-u", "-z", p)


def discover():
    """[(short name, function, settings or None)] in the files' order."""
    out = []
    for f in sorted(os.listdir(HERE)):
        if not (f.startswith("test_") and f.endswith(".py")):
            continue
        module = importlib.import_module(f[:-3])
        short = f[5:-3]
        for name, fn in vars(module).items():
            if name.startswith("test_") and callable(fn):
                out.append((f"{short}.{name[5:]}", fn))
    return out


def select_tests(tests, names):
    if not names:
        return [(n, fn, None) for n, fn in tests if not OPT.quick or getattr(fn, "quick", False)]
    chosen = []
    for name in names:
        name, _, setting = name.removesuffix(".py").partition("[")
        setting = [setting.rstrip("]")] if setting else None
        name = name.removeprefix("test_")
        hits = [x for x in tests if x[0] == name] or [x for x in tests if x[0].split(".")[0] == name] \
            or [x for x in tests if name in x[0]]
        if not hits:
            sys.exit(f"run.py: no test matches {name!r}")
        chosen += [(n, fn, setting) for n, fn in hits]
    return chosen


def report(job, result, seconds):
    verdict, text, logs = result
    extra = f"  ({text})" if verdict != "FAIL" and text else ""
    print(f"{job.name:<46} {verdict:<4} {seconds:7.2f}{extra}", flush=True)
    if verdict != "FAIL":
        return
    out = _tail(job.output)
    print("    " + text.rstrip().replace("\n", "\n    "))
    for name, log in logs + ([("output", out)] if out else []):
        if log.strip():
            print(f"    --- {name}\n    " + log.rstrip().replace("\n", "\n    "))
    which = job.name + (f"[{job.settings[0]}]" if job.settings else "")
    env = "".join(f"{k}={v} " for k, v in os.environ.items() if k == "TXNFS_CYCLES")
    print(f"    again: {env}tests/mount/run.py --seed {OPT.seed} --txnfs {OPT.txnfs} '{which}'", flush=True)


def run_all(todo, jobs, base):
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    running, failed = [], []
    todo = list(todo)
    try:
        while todo or running:
            while todo and len(running) < jobs:
                name, fn, settings = todo.pop(0)
                if getattr(fn, "needs_root", False) and os.geteuid() != 0:
                    counts["skip"] += 1
                    print(f"{name:<46} skip    0.00  (needs root)", flush=True)
                    continue
                running.append(Job(name, fn, settings, base))
            if not running:
                continue
            select.select([j.pipe for j in running], [], [], 0.5)
            for j in list(running):
                result = j.poll()
                if result is None:
                    continue
                seconds = time.monotonic() - j.began
                running.remove(j)
                j.clean()
                counts[result[0]] += 1
                failed += [j.name] if result[0] == "FAIL" else []
                report(j, result, seconds)
    finally:
        for j in running:
            j.clean()
    return counts, failed


def main():
    ap = argparse.ArgumentParser(description="Real-mount tests of txnfs.")
    ap.add_argument("--quick", action="store_true", help="the subset that takes a minute or two")
    ap.add_argument("--txnfs", default=os.path.join(HERE, "../../build/txnfs"), help="the program to test")
    ap.add_argument("--seed", type=int, default=None, help="of all that is random in the tests")
    ap.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="tests at a time")
    ap.add_argument("--keep", action="store_true", help="leave the scratch directories")
    ap.add_argument("--list", action="store_true", help="names only")
    ap.add_argument("names", nargs="*", metavar="NAME")
    a = ap.parse_args()
    OPT.quick, OPT.keep = a.quick, a.keep
    env = os.environ.get("TXNFS_SEED")
    OPT.seed = a.seed if a.seed is not None else int(env) if env else random.SystemRandom().randrange(1 << 31)
    OPT.txnfs = os.path.abspath(a.txnfs)
    todo = select_tests(discover(), a.names)
    if a.list:
        print("\n".join(n for n, _, _ in todo))
        return 0
    if not os.access(OPT.txnfs, os.X_OK):
        sys.exit(f"run.py: no program at {OPT.txnfs}: build it, or say --txnfs PATH")
    with open(OPT.txnfs, "rb") as f:
        if any(mark in f.read() for mark in (b"__asan_init", b"__tsan_init")):
            OPT.slow = SANITIZER_FACTOR
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, lambda sig, frame: sys.exit(128 + sig))
    base = tempfile.mkdtemp(prefix="txnfs-mount-")
    os.chmod(base, 0o755)
    print(f"seed {OPT.seed}, {len(todo)} tests, scratch {base}", flush=True)
    try:
        counts, failed = run_all(todo, a.jobs, base)
    finally:
        unmount_below(base)
        if not OPT.keep:
            shutil.rmtree(base, ignore_errors=True)
    if failed:
        print("failed: " + " ".join(failed))
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
