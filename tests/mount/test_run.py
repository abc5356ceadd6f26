"""`txnfs run` in all its ways: signals, what leaves the process tree, nesting, namespaces, users, and --ambient."""
import errno
import os
import signal
import subprocess

import sysc
from harness import (NOBODY, OPT, check, equal, exists, in_child, ls, mounted, needs_root, patience, quick, read, tool,
                     wait_until, write)
from namespaces import forbid_unshare, map_root
from scenes import refused

WAYS = ([], ["--ambient"])


def run(m, script, *options, status=0, **kw):
    return tool("run", *options, m.mnt, "--", "sh", "-c", script, "sh", m.mnt, status=status, **kw)


@quick
def test_ambient_run(t):
    """No private namespace: the command's processes are members, at the same paths; statuses are the same."""
    m = t.mount()
    write(m("f"), "committed")
    for way in WAYS:
        p = run(m, 'echo $TXNFS_MOUNT; echo inside > "$1/f"; (cat "$1/f"); readlink /proc/self/ns/mnt', *way)
        point, inside, ns = p.stdout.split()
        equal((point, inside), (m.mnt, "inside"))
        equal(ns == os.readlink("/proc/self/ns/mnt"), bool(way), "the same namespace")
        equal(read(m("f")), b"inside\n")
        for status in (1, 7, 255):
            run(m, f'echo lost > "$1/f"; exit {status}', *way, status=status)
        run(m, 'echo lost > "$1/f"; kill -9 $$', *way, status=128 + 9)
        refused("run", *way, m.mnt, "--", t.path("no-such-command"), status=127)
        refused("run", *way, m.mnt, "--", m("f"), status=126)
        equal(read(m("f")), b"inside\n")
        write(m("f"), "committed")
    equal([x for x in ls(m(".txn")) if x.startswith("run")], [])


def start(t, m, way, script):
    go = t.path("go")
    p = subprocess.Popen([OPT.txnfs, "run", *way, m.mnt, "--", "sh", "-c",
                          f"cd {m.mnt} && echo changed > f && echo n > new && : > {go}; {script}"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         start_new_session=True)
    wait_until(lambda: exists(go), 10, "the command")
    os.unlink(go)
    return p


def free(path):
    try:
        os.utime(path)
        return True
    except OSError as e:
        equal(e.errno, errno.EBUSY)
        return False


@quick
def test_signals_to_the_run_and_to_the_command(t):
    m = t.mount()
    write(m("f"), "committed")
    for way in WAYS:
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            p = start(t, m, way, "exec sleep 600")
            p.send_signal(sig)
            equal(p.wait(patience(20)), 128 + sig, f"{way}: {sig!r} to the run")
            equal((read(m("f")), ls(m.mnt)), (b"committed", ["f"]))
            p = start(t, m, way, "echo $$; exec sleep 600")
            os.kill(int(p.stdout.readline()), sig)
            equal(p.wait(patience(20)), 128 + sig, f"{way}: {sig!r} to the command")
            equal((read(m("f")), ls(m.mnt)), (b"committed", ["f"]))
        # A command that ends well although it got a signal does not commit: the run was told to end.
        p = start(t, m, way, "trap 'exit 0' TERM; echo; while :; do sleep 0.01; done")
        p.stdout.readline()
        p.send_signal(signal.SIGTERM)
        equal(p.wait(patience(20)), 128 + signal.SIGTERM)
        equal((read(m("f")), ls(m.mnt)), (b"committed", ["f"]))


@quick
def test_a_killed_run_leaves_nothing(t):
    """Its command, which may not be willing to end, changes nothing any more."""
    m = t.mount()
    write(m("f"), "committed")
    for way in WAYS:
        p = start(t, m, way, f"trap '' TERM HUP INT; echo $$; while :; do echo leak > {m.mnt}/leak; done 2>/dev/null")
        cmd = int(p.stdout.readline())
        p.kill()
        p.wait()
        wait_until(lambda: free(m("f")), 5, "the rollback")
        for _ in range(20):
            equal((read(m("f")), ls(m.mnt)), (b"committed", ["f"]), f"{way}: after the run was killed")
        try:
            os.kill(cmd, signal.SIGKILL)
        except ProcessLookupError:
            pass


@quick
def test_daemons_stay_in_their_run(t):
    """A process that leaves the process tree of a run stays in its namespace, until the end and after it."""
    m = t.mount()
    write(m("f"), "committed")
    p = run(m, f"""cd "$1"; echo inside > f
        setsid sh -c '(while ! [ -e {t.path("go")} ]; do sleep 0.01; done; cat f > {t.path("saw")}; echo d > g;
            : > {t.path("done")}; while ! [ -e {t.path("later")} ]; do sleep 0.01; done;
            echo late > late; echo $? > {t.path("status")}) > /dev/null 2>&1 &' &
        wait; : > {t.path("go")}; while ! [ -e {t.path("done")} ]; do sleep 0.01; done; exit 3""", status=3)
    equal(read(t.path("saw")), b"inside\n", p.stderr)
    equal((read(m("f")), ls(m.mnt)), (b"committed", ["f"]))
    write(t.path("later"), "")
    wait_until(lambda: exists(t.path("status")) and read(t.path("status")), 5, "the late daemon")
    check(read(t.path("status")) != b"0\n", "it can change nothing after the rollback")
    equal(ls(m.mnt), ["f"])


def test_daemons_of_an_ambient_run(t):
    """What leaves the process tree is given to the run, and so stays a member until the end."""
    m = t.mount()
    write(m("f"), "committed")
    for status in (3, 0):
        p = run(m, f"""cd "$1"; echo inside > f; rm -f {t.path("done")}
            (setsid sh -c 'exec > /dev/null 2>&1; until grep -q txnfs /proc/$(ps -o ppid= -p $$ | tr -d " ")/comm; do :; done
                cat f > {t.path("saw")}; echo d > g; : > {t.path("done")}' &)
            while ! [ -e {t.path("done")} ]; do sleep 0.01; done; exit {status}""", "--ambient", status=status)
        equal(read(t.path("saw")), b"inside\n", p.stderr)
        equal((read(m("f")), ls(m.mnt)), (b"committed", ["f"]) if status else (b"inside\n", ["f", "g"]))


@quick
def test_nested_runs(t):
    """On the same mount it is refused with a hint, on another one it works; both end as their commands do."""
    m, other = t.mount(), t.mount("o")
    for way in WAYS:
        for inner in WAYS:
            p = run(m, f'echo x > "$1/f"; {OPT.txnfs} run {" ".join(inner)} "$1" -- touch "$1/g"', *way, status=125)
            check("savepoint" in p.stderr, way, inner, p.stderr)
            equal(ls(m.mnt), [], "the outer command failed as the inner one did")
            for status in (4, 0):
                run(m, f'echo o > "$1/f"; {OPT.txnfs} run {" ".join(inner)} {other.mnt} -- '
                    f'sh -c "echo i > {other.mnt}/i; echo o2 >> $1/f"; exit {status}', *way, status=status)
                equal((ls(m.mnt), ls(other.mnt)), ([] if status else ["f"], ["i"]), f"{way} {inner}")
                os.unlink(other("i"))
            os.unlink(m("f"))


@needs_root
def test_a_command_that_changes_its_mounts(t):
    """It unmounts its view or binds over it: that is its own affair, and the end is the run's."""
    m = t.mount()
    write(m("f"), "committed")
    for script, inside in ((f'umount "$1"; cat "$1/f"', b"committed"),
                           (f'umount -l "$1"; umount -l "$1"; ls "$1"', b""),
                           (f'mkdir -p {t.path("b")}; mount --bind {t.path("b")} "$1"; ls "$1"', b""),
                           ('mount -t tmpfs none "$1"; echo lost > "$1/f"; cat "$1/f"', b"lost\n")):
        for status in (0, 5):
            p = run(m, f'echo inside > "$1/new"; {script}; exit {status}', status=status)
            equal(p.stdout.encode(), inside, script)
            equal(mounted(m.mnt), "fuse.txnfs", "the mount outside")
            equal((read(m("f")), ls(m.mnt)), (b"committed", ["f"] if status else ["f", "new"]))
            if not status:
                os.unlink(m("new"))


@needs_root
def test_run_by_an_ordinary_user(t):
    """In a user namespace: what it makes is its own, others' files stay others'."""
    m = t.mount()
    os.chmod(m.mnt, 0o777)
    write(m("roots"), "r", 0o644)
    os.mkdir(m("theirs"))
    os.chown(m("theirs"), 1234, 1234)
    exe = t.path("txnfs")
    with open(OPT.txnfs, "rb") as f:
        write(exe, f.read(), 0o755)
    os.chmod(exe, 0o755)

    def body(way, script, status):
        p = subprocess.run([exe, "run", *way, m.mnt, "--", "sh", "-c", script, "sh", m.mnt], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, text=True)
        check(p.returncode == status, p)
        return p.stdout
    for way in WAYS:
        out = in_child(body, way, 'cd "$1"; mkdir made; echo m > made/f; mv made moved; id -u; stat -c %u moved; '
                       'echo x 2>/dev/null > roots; cat roots; exit 0', 0, uid=NOBODY)
        equal(out, f"{NOBODY}\n{NOBODY}\nr")
        equal(ls(m.mnt), ["moved", "roots", "theirs"])
        equal([os.stat(m(x)).st_uid for x in ("moved", "moved/f", "roots", "theirs")], [NOBODY, NOBODY, 0, 1234])
        in_child(body, way, 'cd "$1"; rm -r moved; exit 9', 9, uid=NOBODY)
        equal(ls(m.mnt), ["moved", "roots", "theirs"])
        in_child(body, way, 'cd "$1"; rm -r moved', 0, uid=NOBODY)
        equal(ls(m.mnt), ["roots", "theirs"])


def without_mount_namespaces():
    map_root()
    write("/proc/sys/user/max_mnt_namespaces", "0")


@quick
@needs_root
def test_where_namespaces_are_forbidden(t):
    """The run falls back to membership by process, and says so when asked."""
    m = t.mount()
    write(m("f"), "committed")
    script = 'echo inside > "$1/f"; cat "$1/f"; readlink /proc/self/ns/mnt; exit $2'

    def body(forbid, status, options):
        forbid()
        p = subprocess.run([OPT.txnfs, "run", *options, m.mnt, "--", "sh", "-c", script, "sh", m.mnt, str(status)],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                           text=True)
        return p.returncode, p.stdout, p.stderr
    for forbid in (forbid_unshare, without_mount_namespaces):
        for status in (0, 6):
            r, out, err = in_child(body, forbid, status, ["-v"])
            equal((r, out.split()), (status, ["inside", os.readlink("/proc/self/ns/mnt")]), err)
            check("namespace" in err, "what it does instead:", err)
            equal(read(m("f")), b"committed" if status else b"inside\n")
            write(m("f"), "committed")
            r, out, err = in_child(body, forbid, status, [])
            equal((r, err), (status, ""))
            write(m("f"), "committed")
    equal([x for x in ls(m(".txn")) if x.startswith("run")], [])
