"""
A commit is one moment, for the kernel's caches too: whoever has seen something of it sees nothing older any more.

The readers and writers are visible.c's. The long search, with 1, 4 and 16 readers, is

    TXNFS_READS=1000000 tests/mount/run.py visible.many
"""
import os
import random
import re
import signal
import subprocess
import time

from harness import KEEP, OPT, Failure, check, deadline, equal, patience, quick, read, wait_until, write

READS = int(os.environ.get("TXNFS_READS", 0))


def program():
    path = os.path.join(os.path.dirname(OPT.txnfs), "tests", "visible")
    if not os.access(path, os.X_OK):
        raise Failure(f"no program at {path}: build it")
    return path


def start(m, *args):
    return subprocess.Popen([program(), m.mnt, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(t, name, seconds, *args, reads=0, options=""):
    """Nothing older after anything newer. Returns how many commits there were."""
    m = t.mount(name, options=options)
    p = start(m, "--seconds", str(seconds), "--reads", str(reads), *args)
    out, _ = p.communicate()
    print(out, flush=True)
    check(p.returncode in (0, 1), f"visible {args}: exit status {p.returncode}:\n{out}")
    status = read(m(".txn/status")).decode()
    given_up = int(re.search(r"^mixed_caches: (\d+)$", status, re.M)[1])
    commits, = re.findall(r"(\d+) commits", out)
    total, bad = re.findall(r"^total (\d+) reads (\d+) older", out, re.M)[0]
    # A machine that stands still for a second may make it so; then it says so.
    check(given_up <= int(commits) // 100, f"{given_up} of {commits} commits were not one moment")
    if not given_up:
        check(bad == "0", f"{bad} of {total} reads saw something older after something newer:\n{out}")
    t.note(f"{' '.join(args)}: {total} reads, {commits} commits, {bad} wrong")
    m.umount()
    return int(commits)


@quick
def test_a_commit_is_one_moment(t):
    check(run(t, "m", 5, "--readers", "4") > 1, "hardly any commits")


def test_held_and_mapped(t):
    check(run(t, "m", 3, "--readers", "4", "--modes", "held,reopen,mmap,mapped") > 1, "hardly any commits")


def test_ambient_beside_others(t):
    """With plain writers, dirty mappings, rollbacks and names that come and go."""
    check(run(t, "m", 4, "--readers", "3", "--ambient", "--churn") > 1, "hardly any commits")


def test_named_with_few_workers(t):
    check(run(t, "m", 4, "--readers", "8", "--churn", options="max_threads=4") > 1, "hardly any commits")


@deadline(3600)
def test_many(t):
    for readers in (1, 4, 16) if READS else (16,):
        run(t, f"m{readers}", 2, "--readers", str(readers), reads=READS)


# ---- beside those who wait for it ----

def keep_open(path):
    KEEP["w"] = os.open(path, os.O_WRONLY)


def poke(at):
    return os.pwrite(KEEP["w"], b"P" * 100, at)


def status(m, key):
    return int(re.search(rf"^{key}: (\d+)$", read(m(".txn/status")).decode(), re.M)[1])


@quick
def test_a_write_waits_in_a_page(t):
    """It has locked the page, or not, and waits for the commit, which must not wait for it."""
    os.mkdir(t.path("m.src"))
    for i in range(4):
        write(os.path.join(t.path("m.src"), f"f{i}"), "a" * 10000)
    m = t.mount()
    for i in range(4):
        f, at = m(f"f{i}"), (50, 4096 * 2 - 50)[i // 2]
        if i % 2:
            equal(read(f), b"a" * 10000)  # its pages are cached
        a = t.actor()
        a(keep_open, f)
        n = m.named()
        write(n(f"f{i}"), "b" * 10000)
        a.start(poke, at)
        wait_until(lambda: status(m, "waiting") == 1, 30, "the write waits")
        began = time.monotonic()
        n.ctl("commit")
        took = time.monotonic() - began
        equal(a.result(), 100)
        want = b"b" * at + b"P" * 100 + b"b" * (10000 - at - 100)
        equal(read(f), want)
        check(took < patience(0.8), f"the commit took {took} s")
    equal(status(m, "mixed_caches"), 0)


# ---- the end of the daemon in the middle of it ----

def busy(t, name):
    m = t.mount(name)
    p = start(m, "--readers", "6", "--churn", "--seconds", "1000")
    end = time.monotonic() + patience(20)
    while "committed: 0\n" in read(m(".txn/status")).decode() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    return m, p


def ended(p):
    """All of them: none may hang in the kernel."""
    try:
        p.communicate(timeout=patience(20))
    except subprocess.TimeoutExpired:
        raise Failure("readers and writers hang after the daemon's end") from None


@quick
def test_killed_in_the_middle(t):
    for i in range(3):
        m, p = busy(t, f"k{i}")
        check(not m.kill9(detach=False), "the killed daemon hung")
        ended(p)
        m.detach()


def test_told_to_end_in_the_middle(t):
    for i in range(2):
        m, p = busy(t, f"e{i}")
        m.proc.send_signal(signal.SIGTERM)
        m.ended()
        ended(p)
        m.detach()
