"""`txnfs run`, a shell's transactions, the tools' output, and small limits."""
import errno
import json
import os
import resource
import signal
import subprocess

import sysc
from harness import (OPT, Mount, append, check, ctl, deadline, equal, exists, json_lines, ls, needs_root, patience,
                     quick, read, same_tree, snapshot, tool, wait_until, write)
from scenes import SMALL, refused


# ---- txnfs run ----

@quick
def test_run_exit_statuses(t):
    m = t.mount()
    write(m("f"), "x")
    for status in (0, 1, 7, 255):
        tool("run", m.mnt, "--", "sh", "-c", f"exit {status}", status=status)
    tool("run", m.mnt, "--", "sh", "-c", "kill -9 $$", status=128 + 9)
    refused("run", m.mnt, "--", t.path("no-such-command"), status=127)
    refused("run", m.mnt, "--", m("f"), status=126)
    refused("run", t.path(), "--", "true", status=125)
    refused("run", status=125)
    tool("run", m.mnt, "true")
    check(not [x for x in ls(m(".txn")) if x.startswith("run")], "nothing is left in .txn:", ls(m(".txn")))


def start_run(t, m, script):
    """A run that tells when it is under way, in a session of its own."""
    go = t.path("go")
    p = subprocess.Popen([OPT.txnfs, "run", m.mnt, "--", "sh", "-c",
                          f"cd {m.mnt} && echo changed > f && echo n > new && : > {go} && {script}"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                         start_new_session=True)
    wait_until(lambda: exists(go), 10, "the command")
    os.unlink(go)
    return p


@quick
def test_run_rolls_back_on_signals(t):
    m = t.mount()
    write(m("f"), "committed")
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not a child of the shell's: dash loses a SIGINT that comes while it starts one.
        p = start_run(t, m, "exec sleep 600")
        equal(read(m("f")), b"committed")
        p.send_signal(sig)
        equal(p.wait(patience(20)), 128 + sig)
        equal(ls(m.mnt), ["f"])
        equal(read(m("f")), b"committed")
        write(m("f"), "committed")


def test_control_c_at_a_terminal(t):
    """With a terminal, ^C reaches the command and the run together."""
    import pty
    m = t.mount()
    write(m("f"), "committed")
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(OPT.txnfs,
                 [OPT.txnfs, "run", m.mnt, "--", "sh", "-c", f"echo changed > {m.mnt}/f; echo ready; exec sleep 600"])
    out = b""
    while b"ready" not in out:
        out += os.read(fd, 1000)
    os.write(fd, b"\x03")
    _, status = os.waitpid(pid, 0)
    equal(os.waitstatus_to_exitcode(status), 130)
    os.close(fd)
    equal(read(m("f")), b"committed")
    write(m("f"), "free")


@quick
def test_kill_of_run_rolls_back(t):
    m = t.mount()
    write(m("f"), "committed")
    p = start_run(t, m, "exec sleep 600")
    p.kill()
    p.wait()

    def free():
        try:
            write(m("f"), "committed")
            return True
        except OSError as e:
            equal(e.errno, errno.EBUSY)
            return False
    wait_until(free, 5, "the rollback after run was killed")
    equal(ls(m.mnt), ["f"])
    equal([x for x in ls(m(".txn")) if x.startswith("run")], [])


def test_run_ignores_what_it_leaves_running(t):
    """
    A command that leaves a process behind: the commit does not wait for it. Its namespace keeps the daemon alive after
    an unmount, until it ends.
    """
    m = t.mount()
    write(m("f"), "committed")
    script = f"echo changed > {m.mnt}/f; sleep 600 >/dev/null 2>&1 & echo $! > {t.path('pid')}; exit 0"
    tool("run", m.mnt, "--", "sh", "-c", script)
    equal(read(m("f")), b"changed\n")
    sysc.umount2(m.mnt)
    check(m.proc.poll() is None, "the daemon serves the namespace that is left")
    os.kill(int(read(t.path("pid"))), signal.SIGKILL)
    m.ended()
    equal(read(m.home("f")), b"changed\n")


def test_runs_side_by_side(t):
    m = t.mount()
    procs = [subprocess.Popen([OPT.txnfs, "run", m.mnt, "--", "sh", "-c",
                               f"cd {m.mnt}; for i in 1 2 3 4 5; do echo $i > f{k}; mkdir d{k}.$i; done; exit {k % 2}"],
                              stdin=subprocess.DEVNULL) for k in range(6)]
    equal([p.wait(patience(20)) for p in procs], [k % 2 for k in range(6)])
    equal(ls(m.mnt), sorted([f"f{k}" for k in (0, 2, 4)] + [f"d{k}.{i}" for k in (0, 2, 4) for i in range(1, 6)]))


# ---- a shell's transactions ----

@quick
def test_begin_belongs_to_the_calling_shell(t):
    m = t.mount()
    write(m("f"), "0")
    script = """set -e; tx=$1; cd "$2"
        $tx begin -q; echo 1 > f; $tx savepoint -q one; echo 2 > f; $tx rollback -q --to one; cat f
        $tx status > "$3"/status; $tx release -q one; $tx commit
        $tx begin -q "$2"; echo 9 > f; $tx rollback -q; cat f
        if $tx commit 2> "$3"/err; then exit 9; fi
        $tx begin -q; echo 10 > f; exit 0"""
    r = subprocess.run(["bash", "-c", script, "bash", OPT.txnfs, m.mnt, t.dir], stdin=subprocess.DEVNULL, check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    check(r.returncode == 0, r.stdout, r.stderr)
    lines = r.stdout.split("\n")
    equal(lines[0], "1")
    equal(lines[-2], "1", "after a rollback")
    check("transaction" in read(t.path("err")).decode(), "why the commit failed:", read(t.path("err")))
    wait_until(lambda: read(m("f")) == b"1\n" and _free(m("f")), 5, "the rollback at the shell's end")


def _free(path):
    try:
        append(path, "")
        os.utime(path)
        return True
    except OSError as e:
        equal(e.errno, errno.EBUSY)
        return False


def test_named_transactions_with_the_tools(t):
    m = t.mount()
    n = m.named("work")
    write(n("f"), "1")
    tool("savepoint", "--txn", "work", m.mnt, "s")
    write(n("f"), "2")
    tool("rollback", "--txn", "work", "--to", "s", m.mnt)
    equal(read(n("f")), b"1")
    refused("rollback", "--txn", "work", "--to", "unknown", m.mnt, words=["unknown"])
    tool("commit", "--txn", "work", m.mnt)
    equal(read(m("f")), b"1")
    refused("commit", "--txn", "work", m.mnt)
    refused("commit", m.mnt, words=["transaction"])


# ---- tools ----

@quick
def test_json_output(t):
    m = t.mount()
    n = m.named("n")
    write(n("f"), "x")
    write(n("two\nlines"), "x")
    s = json.loads(tool("status", "--json", m.mnt).stdout)
    equal((s["mount"], s["source"]), (m.mnt, m.src))
    check("n" in s["named"], s)
    s = json.loads(tool("status", "--json", "--changes", "--txn", "n", m.mnt, status=None).stdout)
    check({"f", "two\nlines"} <= {c["path"] for c in s["changes"]}, s)
    n.ctl("commit")
    for where in (m.mnt, m.src):
        for r in json_lines(tool("log", "--json", where).stdout):
            check({"lsn", "type", "transaction"} <= set(r), r)
    text = tool("log", m.src).stdout
    check("COMMIT" in text and "NAME" in text, text[:500])
    m.kill9()
    c = json.loads(tool("check", "--json", m.src).stdout)
    check(c["sound"] is True and not c["clean"], c)
    p = tool("recover", m.src)
    check("redone" in p.stdout, p.stdout)
    c = json.loads(tool("check", "--json", m.src).stdout)
    check(c["sound"] is True and c["clean"] is True, c)
    equal(ls(m.src), [".txnfs", "f", "two\nlines"])


@quick
def test_help_and_version(t):
    check("txnfs" in tool("--version").stdout)
    for cmd in ("mount", "umount", "run", "begin", "commit", "rollback", "savepoint", "release", "status", "recover",
                "log", "check"):
        text = tool(cmd, "--help").stdout
        check(len(text) > 100 and cmd in text, f"{cmd} --help:", text)
        check(cmd in tool("--help").stdout, f"--help mentions {cmd}")
    refused("nonsense", status=2)
    for cmd in ("log", "check", "recover"):
        refused(cmd, t.path("missing"))
        os.makedirs(t.path("plain"), exist_ok=True)
        refused(cmd, t.path("plain"), words=["txnfs"])
        check(not ls(t.path("plain")), f"{cmd} leaves a plain directory alone")


# ---- few descriptors ----

@needs_root
@deadline(120)
def test_low_descriptor_limit(t):
    """With 256 descriptors and no right to more, thousands of files work, in a transaction too."""
    def limit():
        sysc.prctl(24, 24)  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE: the limit cannot be raised again
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    m = Mount(t)
    m.start(preexec_fn=limit)
    equal(resource.prlimit(m.proc.pid, resource.RLIMIT_NOFILE)[1], 256, "the daemon's limit")
    count = 2500
    for d in range(10):
        os.mkdir(m(f"d{d}"))
    for i in range(count):
        write(m(f"d{i % 10}/f{i}"), f"{i}")
    n = m.named()
    for i in range(0, count, 2):
        write(n(f"d{i % 10}/f{i}"), f"new {i}")
    for i in range(0, count, 5):
        os.rename(n(f"d{i % 10}/f{i}"), n(f"d{(i + 1) % 10}/g{i}"))
    before = snapshot(m.mnt)
    inside = snapshot(n.root)
    equal(len(before), 11 + count)
    n.ctl("commit")
    same_tree(snapshot(m.mnt), inside, "after commit")
    keep = [os.open(m(f"d{i % 10}/f{i}"), os.O_RDONLY) for i in range(1, 100, 2) if i % 5]
    for fd in keep:
        check(os.read(fd, 10))
        os.close(fd)
    m.umount()
    same_tree(snapshot(m.src), inside, "in the backing directory")


def test_many_named_transactions(t):
    m = t.mount()
    count = 300
    for i in range(count):
        n = m.named(f"n{i}")
        write(n(f"f{i}"), f"{i}")
    equal(ls(m.mnt), [])
    equal(len([x for x in os.listdir(m(".txn")) if x.startswith("n")]), count)
    for i in range(count):
        ctl(m.mnt, "commit" if i % 2 else "rollback", f"n{i}")
    equal(len(ls(m.mnt)), count // 2)


def test_log_does_not_grow_for_ever(t):
    """Checkpoints recycle segments while transactions come and go, and one stays open all the time."""
    m = t.mount(options=SMALL)
    old = m.named("old")
    write(old("kept"), "kept")
    for i in range(60):
        n = m.named("n")
        write(n("f"), os.urandom(500_000))
        n.ctl("commit")
    size = lambda: sum(e.stat().st_size for e in os.scandir(m.home(".txnfs/wal")))  # noqa: E731
    wait_until(lambda: size() < 16 << 20, 10, "the log to shrink below 16 MiB of the 30 MiB that were written")
    t.note(f"{size() >> 20} MiB")
    old.ctl("commit")
    equal(read(m("kept")), b"kept")
    m.crash()
    equal(read(m("kept")), b"kept")
    equal(os.stat(m("f")).st_size, 500_000)
