"""
`txnfs run` over several mounts: all commit or none does, whoever dies at whichever step, and what is left in doubt is
finished by the next run or by `txnfs resolve --all`.
"""
import itertools
import json
import os
import shutil
import signal
import subprocess

from harness import (NOBODY, OPT, check, deadline, equal, exists, in_child, ls, named_open, needs_root, patience, quick,
                     read, tool, wait_until, write)
from namespaces import forbid_unshare
from scenes import refused, unprivileged_mount

OLD, NEW = b"100\n", b"70\n"
CHANGE = 'for m in $TXNFS_MOUNTS; do echo 70 > "$m/account"; echo x > "$m/new"; done'
STEPS = ["ended", "run", "prepared 1", "prepared 2", "decided", "told 1", "told 2", "forgotten"]
DECIDED = STEPS.index("decided")


def change(*mounts):
    """The same on these alone."""
    return "".join(f'echo 70 > {m("account")}; echo x > {m("new")}; ' for m in mounts)


def set_old(*mounts):
    for m in mounts:
        write(m("account"), OLD)
        if exists(m("new")):
            os.unlink(m("new"))


def pair(t, n=2, options=""):
    mounts = [t.mount(name, options=options) for name in "abcdef"[:n]]
    set_old(*mounts)
    return mounts


def state(m):
    """"old" or "new", all of it."""
    seen = (read(m("account")), exists(m("new")))
    check(seen in ((OLD, False), (NEW, True)), f"{m.mnt} is neither as before nor as after:", seen)
    return "new" if seen[1] else "old"


def states(mounts):
    return [state(m) for m in mounts]


def prepared(m):
    return [line.split("\t")[0] for line in read(m(".txn/prepared")).decode().splitlines()]


def command(t, mounts, *options, log="log"):
    out = [OPT.txnfs, "run", *options]
    if log:
        out += ["--log", t.path(log)]
    for m in mounts:
        out += ["--mount", m.mnt]
    return out + ["--"]


def run(t, mounts, script=CHANGE, *options, status=0, log="log", **kw):
    p = subprocess.run(command(t, mounts, *options, log=log) + ["sh", "-c", script, "sh"], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=patience(20),
                       **kw)
    check(p.returncode == status, f"exit {p.returncode}, want {status}: {p.stdout}{p.stderr}")
    return p


def runs(t, log="log"):
    """Of the log: ids of the runs."""
    return sorted(n[:-4] for n in ls(t.path(log)) if n.endswith(".run"))


def clean(t, *mounts, log="log"):
    for m in mounts:
        equal(prepared(m), [], f"in doubt at {m.mnt}")
        equal(named_open(m.mnt), [])
    equal(ls(t.path(log)), ["log"])


def resolve_all(t, left=False, log="log", words=()):
    """`txnfs resolve --all`; what other tests have in doubt at the moment, with logs of their own, is overlooked."""
    p = tool("resolve", "--all", "--json", "--log", t.path(log), status=None)
    out = json.loads(p.stdout)
    mine = [d for d in out["in_doubt"] if d["mount"].startswith(t.dir + "/")]
    others = len(out["in_doubt"]) - len(mine)
    out["in_doubt"] = mine
    waiting = [r for r in out["runs"]
               if r["outcome"] == "unknown" or any(b["state"] == "waiting" for b in r["branches"])]
    check(bool(mine or waiting) == left, f"something is left: {bool(mine or waiting)}", p.stdout, p.stderr)
    check(p.returncode == (1 if left or others else 0), p.returncode, p.stderr)
    for w in words:
        check(w in p.stderr, f"{w!r} in", p.stderr)
    out["stderr"] = p.stderr
    return out


class Stepped:
    """A run that stops at each step of its protocol, until it is told to go on."""

    def __init__(self, t, mounts, *options, script=CHANGE, log="log"):
        out_r, out_w = os.pipe()
        in_r, in_w = os.pipe()
        env = dict(os.environ, TXNFS_TEST_STEPS=f"{out_w},{in_r}")
        self.p = subprocess.Popen(command(t, mounts, *options, log=log) + ["sh", "-c", script, "sh"], env=env,
                                  pass_fds=(out_w, in_r), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        os.close(out_w)
        os.close(in_r)
        self.out, self.into = os.fdopen(out_r), in_w
        t.cleanups.append(self.close)

    def close(self):
        if self.into >= 0:
            self.out.close()
            os.close(self.into)
            self.into = -1
        if self.p.poll() is None:
            self.p.kill()
        self.p.communicate()

    def step(self):
        """The next one; "" at the end."""
        return self.out.readline().strip()

    def go(self):
        os.write(self.into, b".")

    def until(self, name):
        """Let it go on up to a step, where it stands then."""
        while True:
            s = self.step()
            if s == name:
                return self
            check(s, f"it ended before {name}:", self.p.poll())
            self.go()

    def kill(self):
        self.p.kill()
        self.p.wait()

    def end(self, status=0):
        self.go()
        while self.step():
            self.go()
        out, err = self.p.communicate(timeout=patience(20))
        if status is not None:
            check(self.p.returncode == status, f"exit {self.p.returncode}, want {status}: {out}{err}")
        return err


# ---- what it does ----

@quick
def test_commit_and_rollback(t):
    for n in (2, 3):
        mounts = pair(t, n)
        for way in ([], ["--ambient"]):
            p = run(t, mounts, CHANGE + '; printf "%s|" "$TXNFS_MOUNT" "$TXNFS_TXN" "$TXNFS_TEST_STEPS"; '
                    'for m in $TXNFS_MOUNTS; do cat "$m/account"; done; cat ' + mounts[0]("account"), "--name", "both",
                    *way)
            equal(p.stdout, f"{mounts[0].mnt}|both||" + "70\n" * (n + 1))
            equal((states(mounts), p.stderr), (["new"] * n, ""))
            clean(t, *mounts)
            set_old(*mounts)
            for script, status in ((CHANGE + "; exit 7", 7), (CHANGE + "; kill -9 $$", 137), ("no-such-command", 127)):
                run(t, mounts, script, *way, status=status)
                equal(states(mounts), ["old"] * n)
            clean(t, *mounts)
        for m in mounts:
            m.umount()


@quick
def test_nobody_else_sees_it_before(t):
    a, b = mounts = pair(t)
    s = Stepped(t, mounts)
    for name in STEPS[:5]:
        s.until(name)
        equal(states(mounts), ["old", "old"], name)
        if name != "decided":
            s.go()
    s.end()
    equal(states(mounts), ["new", "new"])
    clean(t, a, b)


@quick
def test_unchanged_mounts_take_no_part(t):
    a, b, c = mounts = pair(t, 3)
    s = Stepped(t, mounts, script=change(a, b) + f'cat {c("account")}').until("prepared 2")
    equal((len(prepared(a)), len(prepared(b)), prepared(c)), (1, 1, []))
    run_file = read(t.path("log", runs(t)[0] + ".run")).decode()
    check(a.src in run_file and b.mnt in run_file and c.src not in run_file, run_file)
    s.end()
    equal(states(mounts), ["new", "new", "old"])
    # One that changes, or none: a plain commit; nothing is written to the log.
    for changed in ([b], []):
        set_old(*mounts)
        s = Stepped(t, mounts, script=change(*changed) + ":")
        s.until("ended")
        equal(ls(t.path("log")), ["log"])
        s.go()
        equal(s.step(), "", "no further step")
        equal(s.p.wait(patience(20)), 0)
        equal(states(mounts), ["new" if m in changed else "old" for m in mounts])
    clean(t, *mounts)


@quick
def test_mapped_pages_are_changes(t):
    """A process that outlives the command has only mapped what it has changed."""
    a, b = mounts = pair(t)
    write(t.path("map.py"), f"""
import mmap, sys, time
keep = []
for d in sys.argv[1:]:
    f = open(d + "/account", "r+b")
    keep += [f, mmap.mmap(f.fileno(), 4)]
    keep[-1][:4] = b"070\\n"
open("{t.path("did")}", "w")
time.sleep(600)
""")
    s = Stepped(t, mounts, script=f"/usr/bin/python3 {t.path('map.py')} $TXNFS_MOUNTS > /dev/null 2>&1 & "
                f"echo $! > {t.path('pid')}; while kill -0 $! && ! [ -e {t.path('did')} ]; do sleep 0.01; done")
    s.until("prepared 2")  # both take part
    s.end()
    os.kill(int(read(t.path("pid"))), signal.SIGKILL)
    equal([read(m("account")) for m in mounts], [b"070\n"] * 2)
    clean(t, a, b)


@quick
def test_a_mount_inside_another_one(t):
    a = t.mount("a")
    os.mkdir(a("sub"))
    b = t.mount("b", base=None)
    b.umount()
    b.mnt = a("sub")
    b.start()
    for order in ([a, b], [b, a]):
        set_old(a, b)
        one = "echo 70 > account; echo x > new"
        p = run(t, order, f"{one}; cd {a.mnt}; {one}; cat sub/account", cwd=b.mnt)
        equal((p.stdout, states([a, b])), ("70\n", ["new", "new"]))
        set_old(a, b)
        run(t, order, CHANGE + "; exit 3", status=3)
        equal(states([a, b]), ["old", "old"])
    clean(t, a, b)
    b.umount()


@quick
def test_refusals(t):
    a, b = mounts = pair(t)
    other = t.mount("c")

    def no(*args, words=(), status=125):
        return refused("run", *args, "--", "touch", t.path("ran"), words=words, status=status)
    both = ["--mount", a.mnt, "--mount", b.mnt]
    no("--log", t.path("log"), "--mount", a.mnt, "--mount", a("."), words=("twice",))
    no("--log", t.path("log"), "--mount", a.mnt, "--mount", t.path(), words=("not in a txnfs mount",))
    no(*both, "--log", t.path("log"), "--isolation", "serializable", words=("one mount",))
    for where in (b("log"), b("x/y"), b.home("log"), a.mnt, other("x/y")):
        no(*both, "--log", where, words=("log", "another place", "--log"))
    refused("resolve", "--all", "--log", other("x"), words=("must not",))
    equal((ls(b.mnt), ls(b.src), ls(other.mnt)), (["account"], [".txnfs", "account"], []), "nothing was made there")
    write(t.path("file"), "")
    no(*both, "--log", t.path("file"), words=("decision log",))
    os.mkdir(t.path("open"))
    os.chmod(t.path("open"), 0o777)
    no(*both, "--log", t.path("open"), words=("forge",))
    if os.getuid() == 0:
        os.mkdir(t.path("theirs"))
        os.chown(t.path("theirs"), NOBODY, NOBODY)
        no(*both, "--log", t.path("theirs"), words=("belongs to user",))
    refused("run", *both, words=("command",), status=125)
    p = run(t, mounts, f'{OPT.txnfs} run --log {t.path("log")} --mount {other.mnt} --mount {a.mnt} -- true', status=125)
    check("already inside" in p.stderr, p.stderr)
    check(not exists(t.path("ran")), "no command was run")
    run(t, mounts, CHANGE, "--isolation", "snapshot")
    equal(states(mounts), ["new", "new"])
    # With one mount there is no log.
    tool("run", "--mount", a.mnt, "--log", t.path("unused"), "--", "touch", a("one"))
    check(exists(a("one")) and not exists(t.path("unused")))
    b.kill9(detach=False)
    no(*both, "--log", t.path("log"), words=("daemon has ended",))
    equal(named_open(a.mnt), [])


@quick
def test_signals(t):
    a, b = mounts = pair(t)
    for way in ([], ["--ambient"]):
        for sig in (signal.SIGINT, signal.SIGKILL):
            go = t.path("go")
            p = subprocess.Popen(command(t, mounts, *way) + ["sh", "-c", CHANGE + f"; : > {go}; exec sleep 600"],
                                 start_new_session=True)
            wait_until(lambda: exists(go), 10, "the command")
            os.unlink(go)
            p.send_signal(sig)
            equal(p.wait(patience(20)), 130 if sig == signal.SIGINT else -9)
            wait_until(lambda: not named_open(a.mnt) and not named_open(b.mnt), 5, "the rollback")
            equal(states(mounts), ["old", "old"])
    clean(t, a, b)


@quick
@needs_root
def test_without_namespaces(t):
    mounts = pair(t)

    def body():
        forbid_unshare()
        return run(t, mounts, CHANGE + "; cat $TXNFS_MOUNT/account", "-v").stderr
    check("namespace" in in_child(body), "it says what it does instead")
    equal(states(mounts), ["new", "new"])


# ---- a participant that does not want to ----

def squat(t, m, branch):
    """Someone else has prepared by the name that the run will want."""
    n = m.named("squatter")
    write(n("squat"), "s")
    log_id = [line.split()[1] for line in read(t.path("log", "log")).decode().splitlines() if line.startswith("id ")][0]
    gid = f"txnfs:{log_id}:{runs(t)[0]}:{branch}"
    n.ctl(f'prepare "{gid}"')
    return gid


@quick
def test_a_prepare_that_fails_rolls_all_back(t):
    mounts = pair(t, 3)
    for k, m in enumerate(mounts):
        s = Stepped(t, mounts).until("run")
        gid = squat(t, m, k + 1)
        err = s.end(125)
        check("prepare failed" in err and m.mnt in err and "nothing is committed" in err, err)
        for other in mounts:
            if other is not m:
                equal((state(other), prepared(other)), ("old", []))
        # Telling all to roll back has ended the stranger's, too: it had the run's own name.
        equal((prepared(m), gid in err), ([], False))
        equal(states(mounts), ["old"] * 3)
        clean(t, *mounts)


@quick
def test_kill_the_coordinator_while_it_gives_up(t):
    a, b = mounts = pair(t)
    for i, name in enumerate(("giving up", "rolled back 1", "rolled back 2")):
        s = Stepped(t, mounts).until("run")
        squat(t, b, 2)
        s.go()
        s.until(name).kill()
        resolve(t, a, b, WAYS[i])
        equal(states(mounts), ["old", "old"])
        clean(t, a, b)


@quick
def test_a_mount_that_is_detached_meanwhile(t):
    """Its daemon goes on for the run, which holds a control file of it."""
    a, b = mounts = pair(t)
    s = Stepped(t, mounts).until("prepared 2")
    b.tool("umount", "--lazy", b.mnt)
    equal(s.end(), "")
    b.ended()
    b.start()
    equal(states(mounts), ["new", "new"])
    clean(t, a, b)


@quick
def test_a_participant_dies_at_prepare(t):
    a, b = mounts = pair(t)
    s = Stepped(t, mounts).until("prepared 1")
    b.kill9(detach=False)
    err = s.end(125)
    check(b.mnt in err, err)
    b.detach()
    b.start()
    resolve_all(t)
    equal(states(mounts), ["old", "old"])
    clean(t, a, b)


# ---- whoever dies, at every step ----

def resolve(t, a, b, way):
    """What a crash left is finished: on the mounts, in the directories, one on each, or by the next run."""
    crashed = [m for m in (a, b)]
    if way == "offline":
        for m in crashed:
            m.umount()
        resolve_all(t)
        for m in crashed:
            m.start()
    elif way == "dead":
        for m in crashed:
            m.kill9(detach=False)
        resolve_all(t)
        for m in crashed:
            m.detach()
            m.start()
    elif way == "halves":
        b.umount()
        resolve_all(t)
        b.start()
    elif way == "run":
        run(t, [a, b], ":")
    else:
        resolve_all(t)


def crash_at(t, a, b, name, victims, way):
    """One case; what is right is known from the step at which the coordinator or a participant died."""
    set_old(a, b)
    text = f"{name}, killed {victims}, then {way}"
    s = Stepped(t, [a, b]).until(name)
    status = None
    for m in (a, b):
        if m in victims:
            m.kill9(detach=False)
    if "coordinator" in victims:
        s.kill()
    else:
        s.end(None)
        status = s.p.returncode
    for m in (a, b):
        m.kill9()
        m.start()
    resolve(t, a, b, way)
    got = states([a, b])
    decided = STEPS.index(name) >= DECIDED
    if status is None:
        equal(got, ["new" if decided else "old"] * 2, text)
    else:
        check(status in (0, 125), text, status)
        equal(got, ["new" if status == 0 else "old"] * 2, f"{text}: status {status}")
        check(not decided or status == 0, text, status)
    clean(t, a, b)
    s.close()


WAYS = ["mounted", "run", "offline", "dead", "halves"]


def test_kill_the_coordinator_at_every_step(t):
    a, b = pair(t)
    for i, name in enumerate(STEPS):
        crash_at(t, a, b, name, ["coordinator"], WAYS[i % len(WAYS)])


@deadline(600)
def test_kill_anyone_at_every_step(t):
    """TXNFS_COORDINATOR=all tries every combination with each way of resolving."""
    a, b = pair(t)
    everything = os.environ.get("TXNFS_COORDINATOR") == "all"
    cases = 0
    groups = [[a], [b], [a, b], ["coordinator", a], ["coordinator", b], ["coordinator", a, b]]
    for i, name in enumerate(STEPS):
        for k, victims in enumerate(groups if everything else [groups[(5 * i + i // 6) % 6]]):
            for way in WAYS if everything else [WAYS[(i + k) % len(WAYS)]]:
                crash_at(t, a, b, name, victims, way)
                cases += 1
    t.note(f"{cases} combinations")


@quick
def test_kill_the_resolver_too(t):
    """It is a process as others: whatever it has done, the next one goes on."""
    a, b = pair(t)
    for i in range(4):
        set_old(a, b)
        s = Stepped(t, [a, b]).until("decided")
        s.kill()
        p = subprocess.Popen([OPT.txnfs, "resolve", "--all", "--log", t.path("log")], stdout=subprocess.DEVNULL)
        if i % 2:
            wait_until(lambda: p.poll() is not None or not (prepared(a) and prepared(b)), 5, "its first step")
        p.kill()
        p.wait()
        check(state(a) == "new" or runs(t), "it is known what is to be done")
        resolve_all(t)
        equal(states([a, b]), ["new", "new"])
        clean(t, a, b)


@deadline(1200)
def test_kills_at_random_moments(t):
    """TXNFS_COORDINATOR_KILLS=N rounds."""
    a, b = pair(t)
    committed = 0
    for i in range(int(os.environ.get("TXNFS_COORDINATOR_KILLS", "6"))):
        set_old(a, b)
        p = subprocess.Popen(command(t, [a, b]) + ["sh", "-c", CHANGE], stderr=subprocess.DEVNULL)
        victims = t.rng.choice([(p,), (a,), (b,), (p, a), (a, b), (p, a, b)])
        try:
            p.wait(t.rng.uniform(0.005, 0.08))
        except subprocess.TimeoutExpired:
            pass
        for v in victims:
            if v is p:
                p.kill()
            else:
                v.kill9(detach=False)
        status = p.wait(patience(20))
        for m in (a, b):
            m.kill9()
            m.start()
        if exists(t.path("log/log")):
            resolve_all(t)
        got = states([a, b])
        check(got[0] == got[1], f"round {i}, {victims}: {got}")
        if status in (0, 125):
            equal(got[0], "old" if status else "new", f"round {i}, {victims}: status {status}")
        committed += got[0] == "new"
        if exists(t.path("log")):
            clean(t, a, b)
    t.note(f"{i + 1} kills, {committed} committed")


# ---- the log ----

def in_doubt(t, at="decided", mounts=None, log="log"):
    mounts = mounts or pair(t)
    s = Stepped(t, mounts, log=log).until(at)
    s.kill()
    equal([len(prepared(m)) for m in mounts], [1] * len(mounts))
    return mounts


@quick
def test_a_run_that_is_alive_is_left_alone(t):
    a, b = mounts = pair(t)
    for name in STEPS[1:5]:
        set_old(a, b)
        s = Stepped(t, mounts).until(name)
        before = [prepared(m) for m in mounts]
        equal([r["outcome"] for r in resolve_all(t)["runs"]], ["running"])
        check("alive" in tool("resolve", "--all", "--log", t.path("log"), status=None).stdout)
        other = Stepped(t, mounts, script=":")  # another run looks, too
        other.until("ended").end()
        equal([prepared(m) for m in mounts], before)
        s.end()
        equal(states(mounts), ["new", "new"])
    clean(t, a, b)


@quick
def test_runs_and_resolvers_at_once(t):
    """On a log that is new to all of them: whoever comes first makes it, and nobody ends another one's run."""
    mounts = pair(t)
    for k in range(3):
        log = f"log{k}"
        many = [subprocess.Popen(command(t, mounts, log=log) +
                                 ["sh", "-c", f'for m in $TXNFS_MOUNTS; do echo {i} > $m/n{k}-{i}; done'],
                                 stderr=subprocess.PIPE, text=True) for i in range(6)]
        look = [subprocess.Popen([OPT.txnfs, "resolve", "--all", "--log", t.path(log)], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL) for _ in range(6)]
        for p in many:
            err = p.communicate(timeout=patience(20))[1]
            equal((p.returncode, err), (0, ""))
        for p in look:
            p.wait(patience(20))
        clean(t, *mounts, log=log)
        for m in mounts:
            equal([n for n in ls(m.mnt) if n.startswith(f"n{k}-")], [f"n{k}-{i}" for i in range(6)])


@quick
def test_what_the_next_run_finds(t):
    """It finishes the earlier one first, whose locks would be in its way; an outcome is not taken for another."""
    for at, want in (("prepared 2", "old"), ("decided", "new")):
        a, b = in_doubt(t, at)
        p = run(t, [a, b], "cat $TXNFS_MOUNT/account; echo 1 > $TXNFS_MOUNT/more", "-v")
        equal(p.stdout.encode(), OLD if want == "old" else NEW)
        check("finished what earlier runs" in p.stderr, p.stderr)
        equal(states([a, b]), [want, want])
        clean(t, a, b)
        for m in (a, b):
            m.umount()


@quick
def test_json_and_text_of_resolve(t):
    a, b = in_doubt(t)
    b.umount()
    os.rename(b.src, b.src + ".away")
    run_id = runs(t)[0]
    out = resolve_all(t, True)
    equal((out["log"], [r["run"] for r in out["runs"]], out["runs"][0]["outcome"], out["in_doubt"]),
          (t.path("log"), [run_id], "commit", []))
    one, two = out["runs"][0]["branches"]
    equal((one["state"], one["source"], one["mount"], one["reason"]), ("ended", a.src, a.mnt, None))
    equal((two["state"], two["mount"]), ("waiting", b.mnt))
    check(b.src in two["reason"] and two["gid"].startswith(f"txnfs:{out['id']}:{run_id}:"), two)
    check("stays in doubt, to be committed" in out["stderr"] and run_id + ".run" in out["stderr"], out["stderr"])
    equal(state(a), "new")
    # The next run says so, too, and goes on without it.
    c = t.mount("c")
    p = run(t, [a, c], "touch $TXNFS_MOUNT/other")
    check("stays in doubt" in p.stderr, p.stderr)
    # Another directory in its place is not asked.
    os.mkdir(b.src)
    b.start()
    resolve_all(t, True, words=("another directory",))
    b.umount()
    shutil.rmtree(b.src)
    os.rename(b.src + ".away", b.src)
    text = tool("resolve", "--all", "--log", t.path("log"), status=None).stdout
    check("committed" in text and b.mnt in text, text)
    b.start()
    equal(states([a, b]), ["new", "new"])
    check(tool("resolve", "--all", "--log", t.path("log"), status=None).stdout in ("nothing is in doubt\n", ""))
    clean(t, a, b)
    n = a.named("n")
    write(n("x"), "x")
    n.ctl("prepare by-hand")
    equal(json.loads(tool("resolve", "--json", a.mnt, "by-hand", "rollback").stdout),
          {"gid": "by-hand", "outcome": "rollback"})
    refused("resolve", "--all", a.mnt, words=("--all",), status=2)
    refused("resolve", "--all", "--log", t.path("none"), words=("no decision log",))


@quick
def test_a_log_that_is_gone_for_good(t):
    a, b = in_doubt(t)
    gids = {m: prepared(m)[0] for m in (a, b)}
    other = t.mount("c")
    n = other.named("n")
    write(n("x"), "x")
    n.ctl("prepare a-stranger")
    shutil.rmtree(t.path("log"))

    def still():
        p = tool("resolve", "--all", "--log", t.path("log"), status=1)
        for m in (a, b):
            check(f"{m.mnt}: {gids[m]} stays in doubt" in p.stderr and "gone for good" in p.stderr, p.stderr)
        check("a-stranger" not in p.stderr, "who is not a coordinator's is not spoken of:", p.stderr)
    still()
    equal(ls(t.path()).count("log"), 0, "resolving makes no log")
    # A new log is another one, and decides nothing about them.
    run(t, [a, b], "touch $TXNFS_MOUNT/other")
    still()
    for m in (a, b):
        m.kill9()
        m.start()
    still()
    equal([prepared(m) for m in (a, b)], [[gids[a]], [gids[b]]])
    for m in (a, b):
        tool("resolve", m.mnt, gids[m], "commit")
    equal(states([a, b]), ["new", "new"])
    equal(prepared(other), ["a-stranger"])
    resolve_all(t)


@quick
def test_a_copy_of_the_log_decides_nothing(t):
    a, b = in_doubt(t, "prepared 2")
    shutil.copytree(t.path("log"), t.path("copy"))
    refused("resolve", "--all", "--log", t.path("copy"), words=("copy of a decision log",))
    p = run(t, [a, b], "true", log="copy", status=125)
    check("copy of a decision log" in p.stderr, p.stderr)
    equal([len(prepared(m)) for m in (a, b)], [1, 1])
    os.rename(t.path("log"), t.path("moved"))  # but it may move
    resolve_all(t, log="moved")
    equal(states([a, b]), ["old", "old"])
    clean(t, a, b, log="moved")


@quick
def test_a_damaged_log(t):
    a, b = in_doubt(t)
    path = t.path("log", runs(t)[0] + ".run")
    good = read(path)
    for bad in (good.replace(b"commit", b"c0mmit"), good[:600], b""):
        write(path, bad)
        resolve_all(t, True, words=("damaged", "stay in doubt"))
        equal([len(prepared(m)) for m in (a, b)], [1, 1])
    write(path, good)
    log_id = read(t.path("log", "log"))
    write(t.path("log", "log"), b"x" * 100)
    refused("resolve", "--all", "--log", t.path("log"), words=("damaged",))
    write(t.path("log", "log"), log_id)
    resolve_all(t)
    equal(states([a, b]), ["new", "new"])


@quick
def test_abort_is_presumed_without_a_run(t):
    """Its file is gone, the log is there: it was not decided."""
    a, b = in_doubt(t, "prepared 2")
    os.unlink(t.path("log", runs(t)[0] + ".run"))
    equal([r["outcome"] for r in resolve_all(t)["runs"]], ["rollback"] * 2)
    equal(states([a, b]), ["old", "old"])
    clean(t, a, b)
    write(t.path("log", "0" * 24 + ".new"), "half a run")  # a power cut's
    resolve_all(t)
    clean(t, a, b)


@quick
def test_ended_by_hand(t):
    """A log that is at hand is not contradicted by mistake; without it everything goes."""
    a, b = mounts = in_doubt(t)
    log = ("--log", t.path("log"))
    refused("resolve", *log, b.mnt, prepared(b)[0], "rollback", words=("to be committed", "--all"))
    tool("resolve", *log, b.mnt, prepared(b)[0], "commit")
    resolve_all(t)
    equal(states(mounts), ["new", "new"])
    set_old(a, b)
    s = Stepped(t, mounts).until("prepared 2")
    refused("resolve", *log, b.mnt, prepared(b)[0], "rollback", words=("alive",))
    tool("resolve", b.mnt, prepared(b)[0], "rollback")
    err = s.end(0)
    check("ended by someone else" in err and b.mnt in err, err)
    clean(t, a, b)


# ---- users ----

def user_run(exe, env, script, points, *options):
    cmd = [exe, "run", *options]
    for p in points:
        cmd += ["--mount", p]
    p = subprocess.run(cmd + ["--", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, check=False, env=dict(os.environ, **env), cwd="/")
    return p.returncode, p.stdout + p.stderr


def user_resolve(exe, env):
    p = subprocess.run([exe, "resolve", "--all", "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, check=False, env=dict(os.environ, **env), cwd="/")
    return p.returncode, p.stdout, p.stderr


def die_at(exe, env, points, name):
    """As a user: a run that kills itself at a step, or goes on to its end."""
    out_r, out_w = os.pipe()
    in_r, in_w = os.pipe()
    p = subprocess.Popen([exe, "run", *itertools.chain(*[("--mount", x) for x in points]), "--", "sh", "-c", CHANGE],
                         env=dict(os.environ, TXNFS_TEST_STEPS=f"{out_w},{in_r}", **env),
                         pass_fds=(out_w, in_r), cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    os.close(out_w)
    os.close(in_r)
    with os.fdopen(out_r) as out:
        for line in out:
            if line.strip() == name:
                p.kill()
                break
            os.write(in_w, b".")
    os.close(in_w)
    return p.wait()


@quick
@needs_root
def test_an_ordinary_user(t):
    """On mounts of root's, with a log of the user's own, where users' state belongs."""
    a, b = mounts = pair(t)
    for m in mounts:
        os.chmod(m.mnt, 0o777)
        os.chmod(m("account"), 0o666)
    exe = shutil.copy(OPT.txnfs, t.path("txnfs"))
    os.chmod(exe, 0o755)
    home = t.path("home")
    os.mkdir(home)
    os.chown(home, NOBODY, NOBODY)
    points = [m.mnt for m in mounts]

    def as_user(fn, *args):
        return in_child(fn, exe, *args, uid=NOBODY)
    for env, log in (({"HOME": home, "XDG_STATE_HOME": ""}, "home/.local/state/txnfs"),
                     ({"XDG_STATE_HOME": home + "/state"}, "home/state/txnfs")):
        for way in ([], ["--ambient"]):
            code, text = as_user(user_run, env, CHANGE + "; id -u", points, *way)
            equal((code, text), (0, f"{NOBODY}\n"))
            equal((states(mounts), [os.stat(m("new")).st_uid for m in mounts]), (["new", "new"], [NOBODY] * 2))
            equal((os.stat(t.path(log)).st_uid, os.stat(t.path(log)).st_mode & 0o777), (NOBODY, 0o700))
            set_old(a, b)
        for name, want in (("prepared 1", "old"), ("told 1", "new")):
            equal(as_user(die_at, env, points, name), -signal.SIGKILL)
            # It is neither root's to presume anything about, nor root's log's.
            out = json.loads(tool("resolve", "--all", "--json", "--log", t.path("roots"), status=None).stdout)
            equal(out["in_doubt"], [])
            check(prepared(a) or prepared(b), "still in doubt")
            code, out, err = as_user(user_resolve, env)
            equal((code, err), (0, ""))
            equal(states(mounts), [want, want])
            clean(t, a, b, log=log)
            set_old(a, b)
    refused("resolve", "--all", "--log", t.path("home/state/txnfs"), words=("belongs to user",))


@needs_root
def test_mounts_of_an_ordinary_user(t):
    """Everything is the user's: mounts, sources, log; resolved without mounts, too."""
    a, exe = unprivileged_mount(t, "a")
    b, exe = unprivileged_mount(t, "b")
    points = [a.mnt, b.mnt]
    home = t.path("home")
    os.mkdir(home)
    os.chown(home, NOBODY, NOBODY)
    env = {"HOME": home, "XDG_STATE_HOME": ""}

    def as_user(fn, *args):
        return in_child(fn, *args, uid=NOBODY)
    for m in (a, b):
        as_user(write, m("account"), OLD)
    equal(as_user(user_run, exe, env, CHANGE, points), (0, ""))
    equal(as_user(lambda: states([a, b])), ["new", "new"])
    as_user(lambda: set_old(a, b))
    equal(as_user(die_at, exe, env, points, "decided"), -signal.SIGKILL)
    for m in (a, b):
        m.kill9()
    code, out, err = as_user(user_resolve, exe, env)
    equal((code, err), (0, ""))
    equal([br["state"] for br in json.loads(out)["runs"][0]["branches"]], ["ended", "ended"])
    for m in (a, b):
        equal((read(m.home("account")), exists(m.home("new"))), (NEW, True))
