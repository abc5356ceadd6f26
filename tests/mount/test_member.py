"""
Who belongs to a transaction: trees of processes, orphans, ids that are used again, pid namespaces; where bystanders
stand; and `txnfs run` in all its ways.
"""
import errno
import os
import signal
import subprocess
import sys
import threading
import time

import sysc
from harness import (NOBODY, OPT, Actor, Failure, Mount, Skip, append, check, ctl, deadline, equal, exists, expect,
                     in_child, ls, mounted, named_open, needs_root, patience, quick, read, same_tree, snapshot, tool,
                     wait_until, write)
from namespaces import fork_as, forbid_unshare, in_pid_namespace, map_root, setns
from scenes import bank, ctl_refused_in, refused, sh


def free(path):
    """Has nobody changed it in an open transaction?"""
    try:
        os.utime(path)
        return True
    except OSError as e:
        equal(e.errno, errno.EBUSY)
        return False


# ---- trees ----

def grow(d, depth):
    os.mkdir(d)
    threads = [threading.Thread(target=write, args=(f"{d}/thread{i}", "t")) for i in range(2)]
    for th in threads:
        th.start()
    subprocess.run(["sh", "-c", f"echo x > {d}/shell; (cat {d}/shell > {d}/copy)"], check=True)
    pids = []
    for i in range(3 if depth else 0):
        pid = os.fork()
        if pid == 0:
            try:
                grow(f"{d}/{i}", depth - 1)
                os._exit(0)
            except BaseException:
                os._exit(1)
        pids.append(pid)
    check(all(os.waitpid(p, 0)[1] == 0 for p in pids), "a child failed in", d)
    for th in threads:
        th.join()


@quick
def test_a_tree_of_processes_and_threads(t):
    """Each of a tree of processes and threads, some of them after an exec, works in the transaction."""
    m = t.mount()
    a = t.actor()
    a(ctl, m.mnt, "begin")
    a(grow, m("d"), 2)
    inside = a(snapshot, m.mnt)
    equal(len(inside), 1 + 13 * 5, "files of the tree")
    equal(ls(m.mnt), [], "nothing of it is seen outside")
    a(ctl, m.mnt, "commit")
    same_tree(snapshot(m.mnt), inside, "after the commit")


EXEC_IN_THREAD = """
import os, sys, threading
mnt = sys.argv[1]
with open(mnt + "/.txn/ctl", "w") as f: f.write("begin")
with open(mnt + "/f", "w") as f: f.write("before")
go = threading.Thread(target=os.execv, args=("/bin/sh", ["sh", "-c",
    f"cat {mnt}/f; printf after > {mnt}/f; cat {mnt}/f; echo commit > {mnt}/.txn/ctl"]))
go.start(); go.join()
"""


def test_exec_from_a_thread_keeps_the_transaction(t):
    """The thread that calls exec gets the process's id."""
    m = t.mount()
    write(m("f"), "old")
    p = subprocess.run([sys.executable, "-c", EXEC_IN_THREAD, m.mnt], stdin=subprocess.DEVNULL, check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    equal((p.returncode, p.stdout), (0, b"beforeafter"))
    equal(read(m("f")), b"after")


def test_a_thread_outlives_its_leader(t):
    """The first thread ends, another one goes on: the process lives, and so does its transaction."""
    m = t.mount()
    script = f"""
import ctypes, os, threading, time
mnt = {m.mnt!r}
def rest():
    while open("/proc/self/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.002)
    with open(mnt + "/g", "w") as f: f.write("g")
    seen = open(mnt + "/f").read() + open(mnt + "/g").read()
    with open(mnt + "/.txn/ctl", "w") as f: f.write("commit")
    os.write(1, seen.encode())
    os._exit(0)
with open(mnt + "/.txn/ctl", "w") as f: f.write("begin")
with open(mnt + "/f", "w") as f: f.write("f")
threading.Thread(target=rest).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    p = subprocess.run([sys.executable, "-c", script], stdin=subprocess.DEVNULL, check=False, timeout=patience(10),
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    equal((p.returncode, p.stdout), (0, b"fg"), p.stderr.decode())
    equal(read(m("f")) + read(m("g")), b"fg")


# ---- orphans ----

def orphan(mnt, out, seen_before):
    """
    Make a process whose parent ends. What it reads in f goes to out, after it has written g. seen_before: it uses the
    mount while its parent lives.
    """
    r, w = os.pipe()
    pid = os.fork()
    if pid:
        os.close(w)
        os.waitpid(pid, 0)
        os.read(r, 1)  # the orphan has ended
        return
    ready, go = os.pipe()
    if os.fork():
        os.close(w)
        os.read(ready, 1)
        os._exit(0)
    try:
        parent = os.getppid()
        if seen_before:
            read(mnt + "/f")
        os.write(go, b"x")
        while os.getppid() == parent:
            time.sleep(0.001)
        saw = read(mnt + "/f")
        write(mnt + "/g", "orphan")
        write(out, saw)
    finally:
        os._exit(0)


@quick
def test_orphans(t):
    """
    A process whose parent has ended is in no ambient transaction, unless it used the mount before: then it is known to
    descend from the owner.
    """
    m = t.mount()
    for seen_before in (False, True):
        write(m("f"), "committed")
        write(m("g"), "committed")
        a = t.actor()
        a(ctl, m.mnt, "begin")
        a(write, m("f"), "inside")
        a(orphan, m.mnt, t.path("saw"), seen_before)
        equal(read(t.path("saw")), b"inside" if seen_before else b"committed")
        equal(read(m("g")), b"committed" if seen_before else b"orphan")
        equal(a(read, m("g")), b"orphan")
        a(ctl, m.mnt, "rollback")
        equal(read(m("g")), b"committed" if seen_before else b"orphan")
        a.end()


def test_orphans_of_a_subreaper_stay(t):
    """Where the owner is the one to whom orphans are given, they go on descending from it."""
    m = t.mount()
    write(m("f"), "committed")
    write(m("g"), "committed")
    a = t.actor()
    a(sysc.prctl, sysc.PR_SET_CHILD_SUBREAPER, 1)
    a(ctl, m.mnt, "begin")
    a(write, m("f"), "inside")
    a(orphan, m.mnt, t.path("saw"), False)
    equal(read(t.path("saw")), b"inside")
    a(ctl, m.mnt, "rollback")
    equal(read(m("g")), b"committed")


# ---- the owner's death ----

@quick
def test_owner_killed_in_the_middle_of_a_write(t):
    m = t.mount(options="lock_timeout=0")
    write(m("f"), "committed")
    os.mkdir(m("d"))
    mnt = m.mnt

    def work():
        ctl(mnt, "begin")
        data = b"x" * (1 << 20)

        def body(i):
            while True:
                fd = os.open(f"{mnt}/f" if i == 0 else f"{mnt}/d/{i}", os.O_WRONLY | os.O_CREAT)
                for k in range(4):
                    os.pwrite(fd, data, k << 20)
                os.close(fd)
                if i:
                    os.rename(f"{mnt}/d/{i}", f"{mnt}/d/{i}.old")
        for i in range(3):
            threading.Thread(target=body, args=(i,), daemon=True).start()
        threading.Event().wait()
    for _ in range(5):
        a = t.actor()
        a.start(work)
        wait_until(lambda: not free(m("f")), 5, "the owner's first write")
        time.sleep(t.rng.random() * 0.05)  # anywhere
        a.kill()
        wait_until(lambda: free(m("f")), 5, "the rollback")
        equal(read(m("f")), b"committed")
        equal((ls(m.mnt), ls(m("d"))), (["d", "f"], []))


# ---- ids that are used again ----

def own_mount(t, **kw):
    """A mount by a daemon in the caller's pid namespace, which the caller ends."""
    m = Mount(t, **kw)
    t.mounts.remove(m)
    return m.start()


@needs_root
def test_a_pid_that_is_used_again(t):
    """
    A process that has the id of a member or owner that died, and a father or not in the transaction, is what it is and
    not what the dead one was.
    """
    def body():
        m = own_mount(t)
        write(m("f"), "committed")
        try:
            for i in range(30):
                reuse_owner(m)
                reuse_member(m)
        finally:
            m.umount()
        check(not m.complains(), m.log_text())
    in_pid_namespace(body)


def in_fork_as(pid, fn, *args):
    """A child with this id runs fn; its value must be true."""
    for _ in range(100):  # the daemon's threads take ids too
        child = fork_as(pid)
        if child == 0 and os.getpid() != pid:
            os._exit(0)
        if child in (0, pid):
            break
        os.waitpid(child, 0)
    if child == 0:
        ok = 1
        try:
            ok = 0 if fn(*args) else 2
        except BaseException as e:
            sys.stderr.write(f"{pid}: {e!r}\n")
        finally:
            os._exit(ok)
    equal(child, pid, "the child's id")
    return child


def reap(pid):
    equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0, "the child's verdict")


def reuse_owner(m):
    """An owner dies, the next process has its id at once."""
    def own():
        ctl(m.mnt, "begin")
        write(m("f"), "inside")
        return read(m("f")) == b"inside"

    def stranger():
        if read(m("f")) != b"committed":
            return False
        if "no transaction" not in read(m(".txn/ctl")).decode():
            return False
        wait_until(lambda: free(m("f")), 5, "the rollback for the dead owner")
        ctl(m.mnt, "begin")
        write(m("f"), "mine")
        ctl(m.mnt, "rollback")
        return True
    reap(in_fork_as(500, own))
    reap(in_fork_as(500, stranger))


def reuse_member(m):
    """A member dies, its id goes to a stranger, and then to a member again."""
    a = Actor()
    try:
        a(ctl, m.mnt, "begin")
        a(write, m("f"), "inside")
        for _ in range(2):
            a(in_child_as, 600, member_sees, m.mnt)
            reap(in_fork_as(600, lambda: read(m("f")) == b"committed"))
        a(ctl, m.mnt, "rollback")
    finally:
        a.end()


def member_sees(mnt):
    return read(mnt + "/f") == b"inside"


def in_child_as(pid, fn, *args):
    reap(in_fork_as(pid, fn, *args))


# ---- pid namespaces ----

@quick
@needs_root
def test_members_in_a_pid_namespace_of_their_own(t):
    """As in a container: the daemon sees them by other ids than they do themselves, which are in its own namespace."""
    m = bank(t)
    mnt, txnfs = m.mnt, OPT.txnfs

    def body():
        ctl(mnt, "begin")
        write(f"{mnt}/account_a", "1")
        in_child(write, f"{mnt}/account_b", "2")
        mine = read(f"{mnt}/account_a"), in_child(read, f"{mnt}/account_b")
        ctl(mnt, "commit")
        # The ids that a process in here gives are those of in here.
        out = sh('''"$2" begin "$1" && echo 3 > "$1"/account_a && "$2" commit -q "$1"
            echo "begin owner $$" > "$1"/.txn/ctl && echo 4 > "$1"/account_b && echo commit > "$1"/.txn/ctl
            "$2" run "$1" -- sh -c "cat $1/account_b; echo 5 > $1/account_b"
            "$2" run --ambient "$1" -- sh -c "cat $1/account_b; echo 6 > $1/account_b"
            cat "$1"/account_b''', mnt, txnfs)
        e = expect((errno.ESRCH, errno.EPERM), ctl, mnt, "begin owner 4000000")
        return mine, out, e.line, os.getpid()
    mine, out, line, pid = in_pid_namespace(body)
    equal(pid, 1)
    equal(mine, (b"1", b"2"))
    equal(out.split()[-3:], ["4", "5", "6"], out)
    check("4000000" in line, line)
    equal(read(m("account_a")), b"3\n")


@needs_root
def test_clients_that_the_daemon_cannot_see(t):
    """The daemon runs in a container, its client does not: it is nobody's member, and has named transactions."""
    m = Mount(t)
    os.mkdir(t.path("proc"))
    plain = m.command
    m.command = lambda: ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *plain()]
    m.spawn()
    inner = wait_until(lambda: daemon_of(m), 10, "the daemon")
    a = t.actor()
    wait_until(lambda: inner_mounted(inner, m.mnt), 10, "the mount")
    a(setns, f"/proc/{inner}/ns/mnt")
    write_at = m("f")
    a(write, write_at, "committed")
    line = ctl_refused_in(a, (errno.ESRCH,), m, "begin")
    check("mkdir" in line, "what to do instead:", line)
    a(os.mkdir, m(".txn/n"))
    a(write, m(".txn/n/root/f"), "named")
    equal(a(read, m("f")), b"committed")
    # Someone whom the daemon can see has an ambient transaction meanwhile.
    b = t.actor()
    b(enter, inner)
    b(in_child, ctl, m.mnt, "begin; rollback")
    line = ctl_refused_in_named(a, m, f"owner {os.getpid()}")
    check("cannot be seen" in line, line)
    a(ctl, m.mnt, "commit", "n")
    equal(a(read, m("f")), b"named")
    a(own_proc)
    refusal = a(run_tool, "run", m.mnt, "true")
    check(refusal[0] == 125 and len(refusal[1]) > 20, refusal)
    equal(a(named_open, m.mnt), [])
    os.kill(inner, signal.SIGTERM)
    m.ended()


def daemon_of(m):
    if m.proc.poll() is not None:
        raise Failure(m.log_text())
    with open(f"/proc/{m.proc.pid}/task/{m.proc.pid}/children") as f:
        return int(f.read() or 0)


def inner_mounted(pid, mnt):
    with open(f"/proc/{pid}/mountinfo") as f:
        return f" {mnt} " in f.read()


def enter(pid):
    setns(f"/proc/{pid}/ns/pid")
    setns(f"/proc/{pid}/ns/mnt")


def ctl_refused_in_named(a, m, text):
    try:
        a(ctl, m.mnt, text, "n")
    except OSError as e:
        return str(e)
    raise Failure(f"{text!r} was accepted")


def own_proc():
    """In another mount namespace: a /proc of the own pid namespace, by which a sanitizer finds its threads."""
    sysc.unshare(sysc.CLONE_NEWNS)
    sysc.mount("none", "/", "none", sysc.MS_REC | sysc.MS_PRIVATE)
    sysc.mount("proc", "/proc", "proc")


def run_tool(*args):
    p = subprocess.run([OPT.txnfs, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       check=False, text=True)
    return p.returncode, p.stderr


@needs_root
def test_a_daemon_with_another_namespaces_proc(t):
    """Where /proc shows other processes than the kernel's ids mean, nobody is taken for someone else."""
    m = Mount(t)
    plain = m.command
    m.command = lambda: ["unshare", "--pid", "--fork", "--kill-child", *plain()]
    m.start()
    inner = daemon_of(m)
    write(m("f"), "committed")
    a = t.actor()
    b = t.actor()
    a(setns, f"/proc/{inner}/ns/pid")
    line = a(in_child, refusal_of, m.mnt, "begin")
    check("/proc" in line, line)
    b(write, m("f"), "plain")
    equal(a(in_child, read, m("f")), b"plain")
    os.kill(inner, signal.SIGTERM)
    m.ended()


def refusal_of(mnt, text):
    try:
        ctl(mnt, text)
    except OSError as e:
        return str(e)
    raise Failure(f"{text!r} was accepted")


# ---- where processes stand ----

@quick
def test_a_working_directory_from_before_and_after_begin(t):
    """Relative paths show the transaction to members, wherever and whenever they went there."""
    m = t.mount()
    os.makedirs(m("d/sub"))
    write(m("d/sub/f"), "committed")
    for when in ("before", "after"):
        a = t.actor(cwd=m("d") if when == "before" else None)
        stranger = t.actor(cwd=m("d"))
        a(ctl, m.mnt, "begin")
        a(os.chdir, m("d") if when == "after" else ".")
        a(write, "sub/f", "inside")
        a(write, "new", "n")
        a(os.mkdir, "made")
        a(os.chdir, "made")
        a(write, "deep", "x")
        equal(a(os.getcwd), m("d/made"))
        equal(a(read, "../sub/f"), b"inside")
        equal(a(lambda: in_child(ls, "..")), ["made", "new", "sub"])
        equal(stranger(ls, "."), ["sub"])
        equal(stranger(read, "sub/f"), b"committed")
        equal(stranger(os.getcwd), m("d"))
        a(ctl, m.mnt, "rollback")
        equal(stranger(ls, "."), ["sub"])
        a(os.chdir, m("d"))
        equal(a(read, "sub/f"), b"committed")
        a.end()
        stranger.end()


def stand(stop, allowed):
    """Ask where one stands, all the time; how often, or the first answer that is not allowed."""
    n = 0
    while not os.path.exists(stop):
        try:
            got = os.getcwd()
        except OSError as e:
            return f"getcwd: {e}"
        if got not in allowed:
            return f"getcwd: {got}"
        try:
            got = sorted(os.listdir("."))
        except OSError as e:
            return f"listing: {e}"
        if got != ["f"]:
            return f"listing: {got}"
        n += 1
    return n


@quick
def test_bystanders_stand_firm(t):
    """
    Transactions move the directories in which others stand, and roll back or commit: getcwd and the relative paths of
    those never fail, and never tell of what is not committed.
    """
    m = t.mount()
    os.makedirs(m("a/b/c"))
    write(m("a/b/c/f"), "x")
    for d in ("a", "a/b", "a/b/c"):
        write(m(d, "f"), "x") if d == "a/b/c" else None
    stop = t.path("stop")
    stayers = [t.actor(cwd=m("a/b/c")) for _ in range(2)]

    def move(mnt, how, end, i):
        tx, root = (f"n{i}", f"{mnt}/.txn/n{i}/root") if how == "named" else (None, mnt)
        os.mkdir(f"{mnt}/.txn/{tx}") if tx else ctl(mnt, "begin")
        os.rename(f"{root}/a/b", f"{root}/a/b2")
        os.rename(f"{root}/a", f"{root}/a2")
        write(f"{root}/a2/b2/c/f", f"{how}{i}")
        sorted(os.listdir(f"{root}/a2/b2/c"))
        if end == "back":
            os.rename(f"{root}/a2/b2", f"{root}/a2/b")
            os.rename(f"{root}/a2", f"{root}/a")
        ctl(mnt, "commit" if end == "back" else end, tx)
        if end == "commit":  # another one brings it back
            os.rename(f"{mnt}/a2/b2", f"{mnt}/a2/b")
            os.rename(f"{mnt}/a2", f"{mnt}/a")
    paths = {m(a, b, "c") for a in ("a", "a2") for b in ("b", "b2")}
    for ends, allowed in ((("rollback", "back"), {m("a/b/c")}), (("commit",), paths)):
        for b in stayers:
            b.start(stand, stop, allowed)
        a = t.actor()
        for i in range(24):
            a(move, m.mnt, ("ambient", "named")[i % 2], ends[i // 2 % len(ends)], i)
        write(stop, "")
        for b in stayers:
            n = b.result()
            check(isinstance(n, int), f"a bystander while directories move ({ends}):", n)
        os.unlink(stop)
        a.end()
