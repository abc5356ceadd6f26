"""
Django in a test's own process: settings for a mount and a database, models, a picture of what rows and files say together, and
processes that stop or die between the steps of a commit.
"""
import gc
import os
import signal
import sys
import time

from docs import PACKAGE
from harness import Skip, check, equal, exists, in_child, ls, named_open, read, wait_until

sys.dont_write_bytecode = True
sys.path.insert(0, PACKAGE)

# Between these a process is killed; "files committed" comes before the row's deletion.
STEPS = ("begin", "decision inserted", "one prepared", "prepared", "decided", "files committed", "row deleted")


class Oops(Exception):
    pass


def raises(kinds, fn, *args, **kw):
    try:
        r = fn(*args, **kw)
    except kinds as e:
        return e
    check(False, f"{fn} gave {r!r} where {kinds} is right")


def at_rest(m):
    import txnfs
    from django.db import connection
    gc.collect()  # instances of models and their open files refer to each other
    equal(named_open(m.mnt), [])
    equal(txnfs.prepared(m.mnt), [])
    equal((connection.txnfs._open, connection.txnfs._sids, connection.txnfs._rows, connection.txnfs._owed),
          ({}, [], {}, {}))


def needed():
    try:
        import django  # noqa: F401
    except ImportError:
        raise Skip("python3-django is not installed: tools/deps.sh python3-django") from None


def setup(t, m, database=None, **more):
    """Configure Django for this process; database: settings, SQLite in the test's directory unless given."""
    needed()
    import django
    from django.conf import settings
    if database is None:
        database = {"ENGINE": "txnfs.django.backends.sqlite3", "NAME": t.path("db.sqlite3"),
                    "OPTIONS": {"timeout": 30}}
    settings.configure(
        SECRET_KEY="x", INSTALLED_APPS=["txnfs.django", "shop"], USE_TZ=True, ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"TXNFS": m.mnt, **database}}, DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        DEFAULT_FILE_STORAGE="txnfs.django.storage.TxnfsStorage", MEDIA_ROOT=m("media"), MEDIA_URL="/media/",
        LOGGING={"version": 1, "loggers": {"txnfs.django": {"level": "CRITICAL"}}},
        ROOT_URLCONF="django_kit", **more)
    django.setup()
    from django.core.management import call_command
    call_command("migrate", run_syncdb=True, verbosity=0)
    if not exists(m("media")):
        os.mkdir(m("media"))
    if os.environ.get("TXNFS_SQLITE_WAL"):  # by hand: SQLite's other journal
        from django.db import connection
        if connection.vendor == "sqlite":
            connection.cursor().execute("PRAGMA journal_mode=WAL")


urlpatterns = []


def order(number, items=("tea", "cup")):
    """The classic case: a row, an uploaded file and more rows."""
    from django.core.files.base import ContentFile
    from shop.models import Item, Order
    o = Order.objects.create(number=number, invoice=ContentFile(f"invoice {number}".encode(), name=f"{number}.pdf"))
    for name in items:
        Item.objects.create(order=o, name=name)
    return o


def place(number):
    from django.db import transaction
    with transaction.atomic():
        order(number)


def orders(m):
    """{number: contents of its file, as everybody sees it}; each row must have its items and each file its row."""
    from shop.models import Order
    out = {}
    for o in Order.objects.all():
        equal(o.item_set.count(), 2)
        out[o.number] = read(m("media", o.invoice.name)) if exists(m("media", o.invoice.name)) else None
    files = ls(m("media/invoices")) if exists(m("media/invoices")) else []
    equal(sorted(files), sorted(f"{n}.pdf" for n in out), "files without rows, or rows without files")
    for n, data in out.items():
        equal(data, f"invoice {n}".encode())
    return sorted(out)


def rows():
    from txnfs.django.models import Decision
    return Decision.objects.count()


def fresh():
    """Forget the connection, as a new process would have none."""
    from django.db import connections
    connections.close_all()


def child(fn, *args):
    """A process of its own, which begins without a connection; its value or exception comes back."""
    fresh()
    return in_child(fn, *args)


def dies_at(name, fn, *args, nth=1):
    """Run fn in a process that is killed at its nth step of this name; False: it came to its end before."""
    fresh()
    pid = os.fork()
    if pid == 0:
        try:
            at_step(name, lambda: os.kill(os.getpid(), signal.SIGKILL), nth)
            fn(*args)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    check(status in (0, signal.SIGKILL), f"it ended with {status}")
    return status == signal.SIGKILL


def at_step(name, do, nth=1):
    from txnfs.django import files
    left = [nth]

    def step(at):
        if at == name:
            left[0] -= 1
            if left[0] == 0:
                do()
    files.step = step


class Paused:
    """A process that stands still at a step of fn until go()."""

    def __init__(self, name, fn, *args):
        fresh()
        there_r, there_w = os.pipe()
        go_r, self.go_w = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(there_r)
                os.close(self.go_w)

                def stop():
                    os.write(there_w, b"x")
                    os.read(go_r, 1)
                at_step(name, stop)
                fn(*args)
                code = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(there_w)
        os.close(go_r)
        equal(os.read(there_r, 1), b"x", "it came to the step")
        os.close(there_r)

    def go(self):
        os.write(self.go_w, b"x")
        os.close(self.go_w)
        equal(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), 0)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.go_w)
        os.waitpid(self.pid, 0)


def random_kills(t, m, seconds, crash=None):
    """Clients that place orders, killed at any time with or without the daemon or the database; crash ends the latter."""
    import txnfs
    from django.db import connection
    from txnfs.django import files
    files.IN_FLIGHT = 0
    end = time.monotonic() + seconds
    rounds, number, killed = 0, 0, {}
    while time.monotonic() < end:
        rounds += 1
        fresh()
        pids = [_client(number + 1000 * i) for i in range(3)]
        number += 3000
        time.sleep(t.rng.uniform(0.05, 0.4))
        what = t.rng.choice(["client"] * 3 + ["daemon"] + ["server"] * bool(crash))
        killed[what] = killed.get(what, 0) + 1
        if what == "daemon":
            m.kill9(detach=False)
        elif what == "server":
            crash()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if what == "daemon":
            m.detach()
            m.start()
        in_child(lambda: txnfs.Transaction(m.mnt).rollback())  # one may have been killed before it had an owner
        wait_until(lambda: not named_open(m.mnt), 5, "the rollback of what was open")

        def recovered():
            """A server may still be about to commit for the dead."""
            files._started.clear()
            fresh()
            connection.ensure_connection()
            return not txnfs.prepared(m.mnt)
        wait_until(recovered, 10, "the end of all doubt")
        done = orders(m)
    check(len(done) > 10, len(done))
    t.note(f"{rounds} rounds, {len(done)} orders, killed: {killed}")


def _client(number):
    pid = os.fork()
    if pid == 0:
        from django.db import connection
        try:
            for i in range(1000):
                try:
                    place(number + i)
                except Exception:
                    connection.close()
        finally:
            os._exit(0)
    return pid
