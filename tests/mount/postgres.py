"""A PostgreSQL cluster of a test's own: in its scratch directory, on a local socket, by an unprivileged user."""
import fcntl
import glob
import os
import re
import signal
import subprocess

from harness import NOBODY, Failure, Skip, check, children, patience, read, wait_until, write

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
PACKAGES = ["postgresql", "python3-psycopg2"]
CREATE_CONF = "/etc/postgresql-common/createcluster.conf"


def deps(*packages):
    p = subprocess.run([os.path.join(ROOT, "tools/deps.sh"), *packages], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, check=False)
    if p.returncode:
        raise Skip(f"{' '.join(packages)} cannot be installed: " + p.stdout.strip()[-200:])


def binaries():
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb")
    return os.path.dirname(max(found, key=lambda p: float(p.split("/")[4]))) if found else None


def install(scratch):
    """Debian's packages; the server's would make a cluster for the machine and start it, which nobody has asked for."""
    with open(os.path.join(scratch, "postgres.install"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if binaries():
            deps(*PACKAGES)
            return binaries()
        deps("postgresql-common")
        conf = read(CREATE_CONF).decode()
        line = "create_main_cluster = false\n"
        write(CREATE_CONF, re.sub(r"(?m)^#?create_main_cluster\b.*\n|\Z", line, conf, count=1))
        try:
            deps(*PACKAGES)
        finally:
            write(CREATE_CONF, conf)
        return binaries()


class Cluster:
    """Ended and taken away with the test."""

    def __init__(self, t, name="pg", new=False):
        """A copy of one that all tests of this run share, with its identity; `new`: another one."""
        self.bin = install(os.path.dirname(t.dir))
        self.t, self.dir = t, t.path(name)
        self.data, self.log = os.path.join(self.dir, "data"), t.path(name + ".log")
        self.who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        self.proc = None
        self._make_dir(self.dir)
        t.cleanups.append(self.kill9)
        if new:
            self._initdb()
        else:
            self._copy(os.path.join(os.path.dirname(t.dir), "postgres"))
        self.start()

    def _make_dir(self, path):
        os.mkdir(path, 0o700)
        if self.who:
            os.chown(path, NOBODY, NOBODY)

    def _as_owner(self, *cmd):
        p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           check=False, cwd="/", env=self.env, **self.who)
        check(p.returncode == 0, cmd, p.stdout)

    def _initdb(self):
        self._as_owner(self.tool("initdb"), "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8",
                       "--locale=C")
        with open(os.path.join(self.data, "postgresql.conf"), "a") as f:
            f.write("listen_addresses = ''\nfsync = on\nmax_prepared_transactions = 20\nshared_buffers = 8MB\n"
                    "max_connections = 30\n")
        self.start()
        self.sql("CREATE ROLE shopkeeper LOGIN", "postgres", "postgres")
        self.sql("CREATE DATABASE shop OWNER shopkeeper", "postgres", "postgres")
        self.sql("CREATE TABLE product (number int PRIMARY KEY, name text, picture text)")
        self.stop()

    def _copy(self, template):
        with open(template + ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.isdir(template):
                self._initdb()
                self._make_dir(template + ".new")
                self._as_owner("cp", "-a", self.data, template + ".new/data")
                os.rename(template + ".new", template)
            else:
                self._as_owner("cp", "-a", template + "/data", self.data)

    def tool(self, name):
        return os.path.join(self.bin, name)

    def conninfo(self, db="shop", user="shopkeeper"):
        return f"host={self.dir} dbname={db} user={user}"

    def sql(self, text, db="shop", user="shopkeeper"):
        """Rows, a line each."""
        p = subprocess.run(["psql", "-XqAtw", "-v", "ON_ERROR_STOP=1", "-d", self.conninfo(db, user), "-c", text],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                           env=self.env)
        check(p.returncode == 0, text, p.stderr)
        return p.stdout.splitlines()

    def prepared(self):
        return self.sql("SELECT gid FROM pg_prepared_xacts ORDER BY gid", "postgres", "postgres")

    def _ready(self):
        if self.proc.poll() is not None:
            return True
        try:
            lines = read(os.path.join(self.data, "postmaster.pid")).decode().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.proc.pid) and lines[7].strip() == "ready"

    def start(self):
        for _ in range(100):  # what a killed one has left may still be there: it says so and ends
            with open(self.log, "ab") as log:
                self.proc = subprocess.Popen([self.tool("postgres"), "-D", self.data, "-k", self.dir], stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=log, cwd="/", env=self.env, **self.who)
            wait_until(self._ready, 20, "PostgreSQL")
            if self.proc.poll() is None:
                return self
        raise Failure("PostgreSQL does not start: " + read(self.log).decode("utf-8", "replace")[-2000:])

    def kill9(self):
        """All of its processes, at once."""
        if not self.proc:
            return
        self.proc.send_signal(signal.SIGSTOP)  # it starts no others
        below = children(self.proc.pid)
        self.proc.kill()
        self.proc.wait()
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in below:  # they are this process's now, which is the reaper of its descendants
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), 5, "a server process's end")
        self.proc = None

    def crash(self):
        self.kill9()
        return self.start()

    def stop(self):
        self.proc.send_signal(signal.SIGINT)
        check(self.proc.wait(patience(20)) == 0, "PostgreSQL's end")
        self.proc = None
