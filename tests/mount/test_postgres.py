"""
Files and a PostgreSQL database in one transaction: the row is there if and only if the file is, whoever is killed at
whichever step; and what is prepared too late is rolled back, never committed.
"""
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import time

from harness import (NOBODY, OPT, check, deadline, equal, exists, in_child, ls, named_open, needs_root, patience, quick, read,
                     tool, wait_until, write)
from postgres import ROOT, Cluster
from scenes import refused
from test_coordinator import Stepped, prepared, resolve_all, runs

# What the command does; at two of its points it waits when the test has asked for it.
SCRIPT = r"""
wait_at() {
	[ ! -e "$SCENE/stop-$1" ] || { : > "$SCENE/at-$1"; until [ -e "$SCENE/go" ]; do sleep 0.01; done; }
}
psql -XqAtw -v ON_ERROR_STOP=1 "$TXNFS_POSTGRES" <<SQL || exit
BEGIN;
INSERT INTO product VALUES (42, 'Teapot', '42.jpg');
\! [ ! -e "$SCENE/stop-open" ] || { : > "$SCENE/at-open"; until [ -e "$SCENE/go" ]; do sleep 0.01; done; }
PREPARE TRANSACTION '$TXNFS_POSTGRES_GID';
SQL
echo picture > "$TXNFS_MOUNT/42.jpg"
wait_at prepared
"""
NOTHING = """echo "BEGIN; PREPARE TRANSACTION '$TXNFS_POSTGRES_GID'" | psql -qX "$TXNFS_POSTGRES" """
STEPS = ["announced", "command open", "command prepared", "ended", "looked", "run", "prepared 1", "decided", "told 1",
         "told 2", "forgotten"]
DECIDED = STEPS.index("decided")


class Scene:
    """A mount, a database, and runs that change both."""

    def __init__(self, t, n=1, cluster=None):
        self.t, self.pg = t, cluster or Cluster(t)
        self.mounts = [t.mount(name) for name in "abc"[:n]]
        self.m = self.mounts[0]
        self.dir = t.path("scene")
        os.mkdir(self.dir)
        os.chmod(self.dir, 0o777)
        write(t.path("add.sh"), SCRIPT)
        self.reset()
        t.cleanups.append(self.go)

    def reset(self):
        for n in ls(self.dir):
            os.unlink(os.path.join(self.dir, n))
        self.pg.sql("DELETE FROM product")
        if exists(self.m("42.jpg")):
            os.unlink(self.m("42.jpg"))

    def go(self):
        write(os.path.join(self.dir, "go"), "")

    def options(self):
        return ["--postgres", self.pg.conninfo()]

    def command(self, script=None, *options, log="log"):
        cmd = [OPT.txnfs, "run", *self.options(), "--log", self.t.path(log), *options]
        for m in self.mounts:
            cmd += ["--mount", m.mnt]
        return cmd + ["--", "sh", "-c", script] if script else cmd + ["--", "sh", self.t.path("add.sh")]

    def env(self):
        return dict(os.environ, SCENE=self.dir)

    def run(self, script=None, *options, status=0, words=(), log="log"):
        p = subprocess.run(self.command(script, *options, log=log), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, check=False, timeout=patience(20), env=self.env())
        check(p.returncode == status, f"exit {p.returncode}, want {status}: {p.stdout}{p.stderr}")
        for w in words:
            check(w in p.stderr, f"{w!r} in", p.stderr)
        check(words or status or not p.stderr, p.stderr)
        return p

    def stepped(self):
        return Stepped(self.t, self.mounts, *self.options(), script=f"export SCENE={self.dir}; exec sh {self.t.path('add.sh')}")

    def until(self, name):
        """A run that stands at this step, or whose command does."""
        at = name.removeprefix("command ")
        if at == name:
            return self.stepped().until(name)
        write(os.path.join(self.dir, f"stop-{at}"), "")
        s = self.stepped().until("announced")
        s.go()
        wait_until(lambda: exists(os.path.join(self.dir, f"at-{at}")), 10, f"the command's {at}")
        return s

    def end(self, r, name, status=0):
        """Let a run go on from a step to its end."""
        self.go()
        if name.startswith("command"):
            r.step()  # the next one, at which it stands
        return r.end(status)

    def state(self):
        """"new" or "old", of the row and of the file alike."""
        seen = (self.pg.sql("SELECT number, name FROM product"), exists(self.m("42.jpg")))
        check(seen in ((["42|Teapot"], True), ([], False)), "the row and the file do not agree:", seen)
        return "new" if seen[1] else "old"

    def clean(self, log="log"):
        equal(self.pg.prepared(), [], "in doubt in PostgreSQL")
        for m in self.mounts:
            equal((prepared(m), named_open(m.mnt)), ([], []))
        equal([n for n in ls(self.t.path(log)) if not n.endswith(".db")], ["log"])

    def stragglers(self):
        """Processes of the command that are still there."""
        out = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                env = read(f"/proc/{pid}/environ")
            except OSError:
                continue
            if f"SCENE={self.dir}".encode() in env.split(b"\0") and int(pid) != os.getpid():
                out.append(int(pid))
        return out

    def let_them_end(self):
        """What the command has left goes on, and prepares if it can."""
        self.go()

        wait_until(lambda: not self.stragglers(), 10, "the command's end")


def gid_of(t):
    log_id = [line.split()[1] for line in read(t.path("log", "log")).decode().splitlines() if line.startswith("id ")][0]
    return f"txnfs:{log_id}:{runs(t)[0]}:"


# ---- what it does ----

@quick
def test_both_or_neither(t):
    s = Scene(t, 2)
    for way in ([], ["--ambient"]):
        p = s.run(None, "-v", *way, words=("committed",))
        equal(s.state(), "new")
        s.clean()
        s.run(None, *way, status=3, words=("duplicate key",))  # psql's status
        equal(s.state(), "new")
        s.reset()
        script = read(t.path("add.sh")).decode()
        for end, status in (("kill -9 $$", 137),) if way else (("exit 7", 7),):
            s.run(script + end, *way, status=status)
            equal(s.state(), "old")
            s.clean()
    # Started without standard streams, and by someone who ignores the end of children.
    cmd = " ".join(shlex.quote(x) for x in s.command(NOTHING))
    p = subprocess.run(["bash", "-c", f"trap '' CHLD; exec {cmd} <&- >&-"], stderr=subprocess.PIPE, text=True, check=False)
    equal((p.returncode, p.stderr), (0, ""))
    s.clean()
    # Who takes no part: mounts without changes; the database alone; with one mount it need not be named by an option.
    p = s.run("env; " + script)
    check(f"TXNFS_POSTGRES={s.pg.conninfo()}\n" in p.stdout and "TXNFS_POSTGRES_GID=txnfs:" in p.stdout, p.stdout)
    equal(s.state(), "new")
    s.run(script.replace("echo picture", ": #").replace("42", "43"))
    equal(s.pg.sql("SELECT number FROM product ORDER BY 1"), ["42", "43"])
    # A run without the option says nothing of it to its command.
    p = s.run(f"{OPT.txnfs} run {t.mount('c').mnt} -- env | grep TXNFS_POSTGRES; {NOTHING}")
    equal(p.stdout, "")
    s.clean()


def test_examples(t):
    """Those of README.md and tools/examples, as they are written."""
    s = Scene(t)
    text = read(os.path.join(ROOT, "README.md")).decode().split("## A database beside files\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    equal(len(blocks), 2, "examples in README.md")
    work = t.path("work")
    os.makedirs(work + "/bin")
    os.symlink(OPT.txnfs, work + "/bin/txnfs")
    write(work + "/teapot.jpg", "picture\n")
    shutil.copy(os.path.join(ROOT, "tools/examples/add_product.py"), work)
    env = dict(os.environ, PATH=f"{work}/bin:/usr/bin:/bin", XDG_STATE_HOME=work, PGHOST=s.pg.dir, PGUSER="shopkeeper")
    for block in blocks:
        for want, code in (("new", 0), ("new", 3)):
            # Where the mount is, and a log that is not the machine's, are the test's own.
            script = block.replace("/mnt/site", s.m.mnt).replace("txnfs run", f"txnfs run --log {work}/log") \
                .replace("--all", f"--all --log {work}/log")
            p = subprocess.run(["bash", "-c", "set -e\n" + script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False, cwd=work, env=env)
            check(p.returncode == code or (code and p.returncode), block, p.stdout)
            equal((s.state(), read(s.m("42.jpg"))), (want, b"picture\n"))
        s.reset()
    s.run(f"cd {work}; python3=/usr/bin/python3; $python3 add_product.py 42 Teapot missing.jpg", status=1,
          words=("missing.jpg",))
    equal(s.state(), "old")
    s.clean()


@quick
def test_refusals(t):
    s = Scene(t)
    script = read(t.path("add.sh")).decode()

    def no(*args, words=(), **kw):
        refused("run", "--log", t.path("log"), *args, "--mount", s.m.mnt, "--", "touch", t.path("ran"), words=words, status=125,
                **kw)
    both = ["--postgres", s.pg.conninfo()]
    no(*both, "--isolation", "serializable", words=("one mount",))
    no(*both, *both, words=("twice",))
    no("--postgres", f"host={t.path('nobody')} dbname=shop", words=("--postgres", "nobody", "running"))
    for secret in ("dbname=shop password=geheim", "dbname=shop password = geheim", "postgresql://u:geheim@/shop"):
        p = tool("run", "--log", t.path("log"), "--postgres", secret, s.m.mnt, "true", status=125)
        check("pgpass" in p.stderr and "geheim" not in p.stderr, p.stderr)
    os.mkdir(t.path("empty"))
    no(*both, words=("psql", "postgresql-client"), env=dict(os.environ, PATH=t.path("empty")))
    refused("run", "--postgres", s.pg.conninfo(), words=("command",), status=125)
    check(not exists(t.path("ran")), "no command was run")
    # A command that has not prepared, or not so that this connection can commit it.
    s.run("touch $TXNFS_MOUNT/42.jpg", status=125, words=("has not prepared", "nothing is committed"))
    equal(s.state(), "old")
    s.clean()
    s.run(script.replace("PREPARE TRANSACTION", "COMMIT; --"), status=125, words=("has not prepared",))
    equal(s.pg.sql("SELECT number FROM product"), ["42"], "the command's own commit")
    s.reset()
    for other, word in (("dbname=shop user=postgres", "another role"), ("dbname=postgres user=postgres", "another database")):
        s.run(f"echo \"BEGIN; CREATE TABLE x (); PREPARE TRANSACTION '$TXNFS_POSTGRES_GID'\" | "
              f"psql -qX \"host={s.pg.dir} {other}\"", status=125, words=(word, "may be in doubt"))
        gid, = s.pg.prepared()
        resolve_all(t, True, words=("stays in doubt", gid))
        s.pg.sql(f"ROLLBACK PREPARED '{gid}'", other.split()[0][7:], "postgres")
        resolve_all(t)
    s.clean()
    s.pg.stop()
    with open(os.path.join(s.pg.data, "postgresql.conf"), "a") as f:
        f.write("max_prepared_transactions = 0\n")
    s.pg.start()
    no(*both, words=("max_prepared_transactions", "restart"))


# ---- whoever dies, at every step ----

def crash_at(t, s, name, victims, way):
    text = f"{name}, killed {victims}, then {way}"
    s.reset()
    r = s.until(name)
    if "daemon" in victims:
        s.m.kill9(detach=False)
    if "postgres" in victims:
        s.pg.kill9()
    status = None
    if "client" in victims:
        r.kill()
    else:
        s.end(r, name, None)
        status = r.p.returncode
    # Everything is started again, as after a crash of the machine.
    if "daemon" in victims:
        s.m.detach()
        s.m.start()
    if "postgres" in victims:
        s.pg.start()
    if way == "late" or way == "mounted":
        if way == "late":
            s.let_them_end()
        resolve_all(t)
    elif way == "offline":
        s.m.kill9()
        resolve_all(t)
        s.m.start()
    elif way == "run":
        s.run(NOTHING)
    s.let_them_end()
    resolve_all(t)  # what was prepared too late
    got = s.state()
    decided = STEPS.index(name) >= DECIDED
    if status is None:
        equal(got, "new" if decided else "old", text)
    else:
        equal(got, "new" if status == 0 else "old", f"{text}: status {status}")
        check(not decided or status == 0, text, status)
    s.clean()
    r.close()


VICTIMS = [["client"], ["daemon"], ["postgres"], ["client", "daemon"], ["client", "postgres"], ["daemon", "postgres"],
           ["client", "daemon", "postgres"]]
WAYS = ["mounted", "run", "offline", "late"]


@deadline(1800)
def test_kill_anyone_at_every_step(t):
    """TXNFS_DATABASE=all tries every combination with each way of resolving."""
    s = Scene(t)
    cases = [(name, VICTIMS[(i + 2) % 3], WAYS[i % 4]) for i, name in enumerate(STEPS)]
    if os.environ.get("TXNFS_DATABASE") == "all":
        cases = list(itertools.product(STEPS, VICTIMS, WAYS))
    for i, case in enumerate(cases):
        crash_at(t, s, *case)
        if i % 50 == 49:
            t.progress(f"{i + 1} of {len(cases)} combinations")
    t.note(f"{len(cases)} combinations")


@deadline(1800)
def test_kills_at_random_moments(t):
    """TXNFS_DATABASE_KILLS=N rounds."""
    s = Scene(t)
    began = time.monotonic()
    s.run()
    lasts = time.monotonic() - began
    committed = 0
    n = int(os.environ.get("TXNFS_DATABASE_KILLS", "3"))
    for i in range(n):
        s.reset()
        p = subprocess.Popen(s.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env=s.env())
        victims = t.rng.choice(VICTIMS)
        try:
            p.wait(t.rng.uniform(0.2, 1.2) * lasts)
        except subprocess.TimeoutExpired:
            pass
        if "client" in victims:
            p.kill()
        if "daemon" in victims:
            s.m.kill9(detach=False)
        if "postgres" in victims:
            s.pg.kill9()
        status = p.wait(patience(20))
        if "daemon" in victims:
            s.m.detach()
            s.m.start()
        if "postgres" in victims:
            s.pg.start()
        if exists(t.path("log")):
            resolve_all(t)
            s.let_them_end()
            resolve_all(t)
        got = s.state()
        if status >= 0:
            equal(got, "old" if status else "new", f"round {i}, {victims}: status {status}")
        committed += got == "new"
        if exists(t.path("log")):
            s.clean()
    t.note(f"{n} kills, {committed} committed")


def test_kill_the_command(t):
    """Not the run, which goes on and takes back what there is."""
    s = Scene(t)
    for name in "command open", "command prepared":
        s.reset()
        r = s.until(name)
        for pid in s.stragglers():
            os.kill(pid, signal.SIGKILL)
        check(s.end(r, name, 137) is not None)
        s.let_them_end()
        resolve_all(t)
        equal(s.state(), "old", name)
        s.clean()
        r.close()


# ---- prepared too late ----

def test_a_session_that_is_preparing_is_waited_for(t):
    """Its client is dead, and the server does not know it yet."""
    s = Scene(t)
    r = s.run("""psql -qX "$TXNFS_POSTGRES" -c "BEGIN; INSERT INTO product VALUES (42); SELECT pg_sleep(2);
PREPARE TRANSACTION '$TXNFS_POSTGRES_GID'" & until psql -qXAt "$TXNFS_POSTGRES" -c "SELECT state FROM pg_stat_activity WHERE
query LIKE '%sleep(2)%' AND pid <> pg_backend_pid()" | grep active; do sleep 0.01; done; kill -9 $!; exit 3""", status=3)
    check("active" in r.stdout, r.stdout)
    wait_until(lambda: s.pg.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(2)%' AND pid <> pg_backend_pid()")
               == ["0"], 5, "the session's end")
    equal(s.state(), "old")
    s.clean()


@quick
def test_what_is_prepared_too_late_is_rolled_back(t):
    s = Scene(t)
    # The coordinator is dead, its outcome presumed and its file gone; then the session prepares.
    for way in ("resolve", "run"):
        s.reset()
        r = s.until("command open")
        gid = gid_of(t) + "2"
        r.kill()
        equal([x["outcome"] for x in resolve_all(t)["runs"]], ["rollback"])
        equal(runs(t), [])
        s.let_them_end()
        equal(s.pg.prepared(), [gid], "the orphan")
        equal(s.state(), "old")
        s.pg.crash()
        equal(s.pg.prepared(), [gid])
        if way == "resolve":
            out = resolve_all(t)
            equal([(x["outcome"], x["branches"][0]["kind"], x["branches"][0]["gid"]) for x in out["runs"]],
                  [("rollback", "postgres", gid)])
        else:
            p = s.run(NOTHING, "-v",
                      words=("finished what earlier runs",))
        equal(s.state(), "old")
        s.clean()
        r.close()
    # The command ends well, and has left it to a child that is not through.
    s.reset()
    write(os.path.join(s.dir, "stop-open"), "")
    p = s.run(f"sh {t.path('add.sh')} > {t.path('out')} 2>&1 & until [ -e {s.dir}/at-open ]; do sleep 0.01; done", status=125,
              words=("has not prepared",))
    s.clean()
    s.let_them_end()
    equal(len(s.pg.prepared()), 1)
    resolve_all(t)
    equal(s.state(), "old")
    s.clean()


def test_a_run_that_is_alive_is_left_alone(t):
    s = Scene(t)
    for name in ("announced", "command prepared", "decided"):
        s.reset()
        r = s.until(name)
        before = s.pg.prepared()
        equal([x["outcome"] for x in resolve_all(t)["runs"]], ["running"])
        equal(s.pg.prepared(), before)
        s.end(r, name)
        equal(s.state(), "new")
        s.clean()
        r.close()


# ---- databases that are not there, or not the same ----

def test_not_taken_for_another_database(t):
    s = Scene(t)
    r = s.until("decided")
    r.kill()
    s.pg.stop()
    os.rename(s.pg.data, s.pg.data + ".away")
    out = resolve_all(t, True, words=("stays in doubt, to be committed", "running"))
    equal([b["state"] for b in out["runs"][0]["branches"]], ["ended", "waiting"])
    equal((out["runs"][0]["branches"][1]["kind"], exists(s.m("42.jpg"))), ("postgres", True))
    # Another one answers at the same place, and has no such transaction: that does not mean that it has ended.
    away, s.pg.dir = s.pg.dir, s.pg.dir
    os.rename(away, away + ".kept")
    other = Cluster(t, new=True)
    resolve_all(t, True, words=("another database",))
    # Nor is a standby asked, which may lag behind.
    other.stop()
    os.rename(other.dir, other.dir + ".other")
    os.rename(away + ".kept", away)
    os.rename(s.pg.data + ".away", s.pg.data)
    write(os.path.join(s.pg.data, "standby.signal"), "")
    if os.getuid() == 0:
        os.chown(os.path.join(s.pg.data, "standby.signal"), NOBODY, NOBODY)
    s.pg.start()
    resolve_all(t, True, words=("standby",))
    refused("run", "--log", t.path("log"), *s.options(), s.m.mnt, "true", words=("standby",), status=125)
    s.pg.stop()
    os.unlink(os.path.join(s.pg.data, "standby.signal"))
    s.pg.start()
    resolve_all(t)
    equal(s.state(), "new")
    s.clean()
    # Gone for good: said each time, until the list of databases is told so.
    s.pg.stop()
    resolve_all_left(t, "gone for good")
    db, = [n for n in ls(t.path("log")) if n.endswith(".db")]
    good = read(t.path("log", db))
    write(t.path("log", db), good[:-3] + b"000")
    resolve_all_left(t, "damaged")
    os.unlink(t.path("log", db))
    resolve_all(t)


def resolve_all_left(t, word):
    p = tool("resolve", "--all", "--log", t.path("log"), status=1)
    check(word in p.stderr and ".db" in p.stderr, p.stderr)


def test_a_failover(t):
    """What is there is committed. What is not there may have been lost, and does not count as committed."""
    s = Scene(t)

    def promote():
        s.pg.kill9()
        write(os.path.join(s.pg.data, "standby.signal"), "")
        if os.getuid() == 0:
            os.chown(os.path.join(s.pg.data, "standby.signal"), NOBODY, NOBODY)
        s.pg.start()
        equal(s.pg.sql("SELECT pg_promote()", "postgres", "postgres"), ["t"])
    s.until("decided").kill()
    promote()
    resolve_all(t)
    equal(s.state(), "new")
    s.clean()
    s.reset()
    s.until("decided").kill()
    promote()
    gid, = s.pg.prepared()
    s.pg.sql(f"ROLLBACK PREPARED '{gid}'")
    resolve_all(t, True, words=("failed over",))
    equal((s.pg.sql("SELECT number FROM product"), exists(s.m("42.jpg"))), ([], True))
    os.unlink(t.path("log", runs(t)[0] + ".run"))
    resolve_all(t)
    s.clean()


def test_a_log_that_is_gone_for_good(t):
    s = Scene(t)
    r = s.until("decided")
    r.kill()
    shutil.copytree(t.path("log"), t.path("copy"))
    shutil.rmtree(t.path("log"))
    s.run(NOTHING)
    gid, = s.pg.prepared()
    out = resolve_all(t, True, words=("gone for good", "COMMIT PREPARED", "txnfs resolve"))
    equal(len(out["in_doubt"]), 1)
    check(gid in out["stderr"], out["stderr"])
    refused("resolve", "--all", "--log", t.path("copy"), words=("copy of a decision log",))
    s.pg.sql(f"COMMIT PREPARED '{gid}'")
    tool("resolve", s.m.mnt, prepared(s.m)[0], "commit")
    equal(s.state(), "new")


# ---- users ----

@needs_root
def test_an_ordinary_user(t):
    """In a user namespace of its own, on root's mount, with what the connection string leaves out in the environment."""
    s = Scene(t)
    exe, home = shutil.copy(OPT.txnfs, t.path("txnfs")), t.path("home")
    os.chmod(exe, 0o755)
    os.mkdir(home)
    os.chown(home, NOBODY, NOBODY)
    os.chmod(s.m.mnt, 0o777)
    env = dict(s.env(), HOME=home, XDG_STATE_HOME="", PGHOST=s.pg.dir, PGUSER="shopkeeper", PGDATABASE="shop")

    def user(cmd, extra):
        p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                           env=dict(env, **extra), cwd="/")
        return p.returncode, p.stdout + p.stderr
    run = [exe, "run", "--postgres", "", "--mount", s.m.mnt, "--", "sh", t.path("add.sh")]
    equal(in_child(user, run, {}, uid=NOBODY), (0, ""))
    equal((s.state(), os.stat(s.m("42.jpg")).st_uid), ("new", NOBODY))
    s.reset()
    # It is resolved in the same database, wherever the resolver's environment leads.
    write(os.path.join(s.dir, "stop-prepared"), "")
    p = subprocess.Popen(run, env=env, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", stdin=subprocess.DEVNULL)
    wait_until(lambda: exists(os.path.join(s.dir, "at-prepared")), 10, "the command")
    p.send_signal(signal.SIGKILL)
    p.wait()
    equal(len(s.pg.prepared()), 1)
    code, text = in_child(user, [exe, "resolve", "--all"], {"PGHOST": "/nowhere", "PGDATABASE": "postgres"}, uid=NOBODY)
    equal(code, 0, text)
    check("rolled back" in text and "postgres shop" in text, text)
    s.let_them_end()
    equal((s.state(), s.pg.prepared()), ("old", []))
