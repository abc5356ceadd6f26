"""
Django: rows and files together. tests/django.sh runs all of it, with SQLite and with PostgreSQL.
"""
import errno
import os
import re
import subprocess
import sys
import threading

import django_kit as kit
import pg_kit
from django_kit import Oops, at_rest, raises
from docs import PYTHON, at_mnt_site, blocks
from harness import check, deadline, equal, exists, ls, named_open, quick, read, wait_until, write


def ready(t, options="", **more):
    """A mount, and Django with the database of this run."""
    m = t.mount(options=options)
    kit.setup(t, m, pg_kit.database(t), **more)
    return m


# ---- blocks ----

@quick
def test_classic(t):
    """An order, its items and an uploaded invoice: all or nothing."""
    m = ready(t)
    from django.db import transaction

    def fails():
        with transaction.atomic():
            kit.order(1)
            check(not exists(m("media/invoices")), "nobody else sees the file")
            raise Oops
    raises(Oops, fails)
    equal(kit.orders(m), [])
    equal(ls(m("media")), [], "no directory either")
    kit.place(1)
    equal(kit.orders(m), [1])
    at_rest(m)


def test_nested(t):
    m = ready(t)
    from django.core.files.base import ContentFile
    from django.db import transaction
    from shop.models import Order
    with transaction.atomic():
        try:
            with transaction.atomic():
                kit.order(1)  # the mount's transaction begins here, inside
                raise Oops
        except Oops:
            pass
        kit.order(2)
        with transaction.atomic():
            kit.order(3)
            try:
                with transaction.atomic():
                    o = Order.objects.get(number=2)
                    o.invoice.delete()
                    equal(exists(o.invoice.storage.path("invoices/2.pdf")), False)
                    raise Oops
            except Oops:
                pass
            try:
                with transaction.atomic(savepoint=False):
                    pass
            finally:
                pass
        sid = transaction.savepoint()
        kit.order(4)
        transaction.savepoint_rollback(sid)
        sid = transaction.savepoint()
        kit.order(5)
        transaction.savepoint_commit(sid)
        equal(Order.objects.get(number=2).invoice.read(), b"invoice 2")
    equal(kit.orders(m), [2, 3, 5])

    def without_savepoint():
        with transaction.atomic():
            kit.order(6)
            try:
                with transaction.atomic(savepoint=False):
                    kit.order(7)
                    raise Oops
            except Oops:
                pass
            e = raises(transaction.TransactionManagementError, Order._meta.get_field("invoice").storage.save,
                       "invoices/x", ContentFile(b"x"))
            check("atomic" in str(e), str(e))
    without_savepoint()  # Django marks the outer block, and says nothing
    equal(kit.orders(m), [2, 3, 5])

    def integrity():
        with transaction.atomic():
            kit.order(8)
            kit.order(2)
    from django.db import IntegrityError
    raises(IntegrityError, integrity)
    equal(kit.orders(m), [2, 3, 5])
    with transaction.atomic():
        kit.order(9)
        transaction.set_rollback(True)
    equal(kit.orders(m), [2, 3, 5])
    at_rest(m)


@pg_kit.full
def test_storage(t):
    """What the storage does, in a block and outside."""
    m = ready(t)
    from django.core.files.base import ContentFile
    from django.core.files.storage import default_storage as s
    from django.db import transaction
    equal(s.save("plain", ContentFile(b"1")), "plain")
    equal(read(m("media/plain")), b"1")
    equal(s.path("plain"), m("media/plain"))
    with transaction.atomic():
        equal(s.path("plain"), m("media/plain"), "no change yet, no transaction")
        name = s.save("a/plain", ContentFile(b"2"))
        equal((name, s.exists(name), s.size(name), s.url(name)), ("a/plain", True, 1, "/media/a/plain"))
        check(s.save("a/plain", ContentFile(b"3")) != name, "another name for another file")
        equal(sorted(s.listdir(""), key=str), [["a"], ["plain"]])
        equal(len(s.listdir("a")[1]), 2)
        with s.open("plain", "ab") as f:
            f.write(b"+")
        with s.open("plain") as f:
            equal(f.read(), b"1+")
        s.delete("a/plain")
        s.get_modified_time("plain")
        subprocess.run(["sh", "-c", 'echo shell > "$1"', "sh", s.path("a/by-path")], check=True)
        equal(read(m("media/plain")), b"1")
        check(not exists(m("media/a")))
        raises(Exception, s.path, "../x")
    equal(read(m("media/plain")), b"1+")
    equal(read(m("media/a/by-path")), b"shell\n")
    equal(len(ls(m("media/a"))), 2)
    s.delete("plain")
    check(not exists(m("media/plain")))
    before = kit.rows()
    with transaction.atomic():
        raises(FileNotFoundError, s.open, "none")
        s.delete("none")
        check(named_open(m.mnt))
    at_rest(m)
    equal(kit.rows(), before, "nothing was changed, so there was nothing to decide")


@pg_kit.full
def test_temporary_files_and_pictures(t):
    """Large uploads are files that are moved; pictures are read for their size."""
    m = ready(t, FILE_UPLOAD_TEMP_DIR=t.dir, FILE_UPLOAD_PERMISSIONS=0o640)
    from django.core.files.uploadedfile import TemporaryUploadedFile
    from django.db import transaction
    from shop.models import Order
    up = TemporaryUploadedFile("big.pdf", "application/pdf", 3, None)
    up.write(b"big")
    up.seek(0)
    with transaction.atomic():
        o = Order.objects.create(number=1, invoice=up)
    equal(read(m("media", o.invoice.name)), b"big")
    equal(os.stat(m("media", o.invoice.name)).st_mode & 0o777, 0o640)
    try:
        from PIL import Image
    except ImportError:
        return
    import io
    from django.core.files.base import ContentFile
    from shop.models import Picture
    data = io.BytesIO()
    Image.new("RGB", (7, 5)).save(data, "PNG")
    with transaction.atomic():
        Picture.objects.create(image=ContentFile(data.getvalue(), name="p.png"))
        p = Picture.objects.get()
        equal((p.width, p.height, p.image.width), (7, 5, 7))
        check(not exists(m("media/pictures")))
    check(exists(m("media/pictures/p.png")))
    at_rest(m)


@pg_kit.full
def test_on_commit(t):
    m = ready(t)
    from django.db import transaction
    calls = []
    with transaction.atomic():
        kit.order(1)
        transaction.on_commit(lambda: calls.append(kit.orders(m)))
        try:
            with transaction.atomic():
                kit.order(2)
                transaction.on_commit(lambda: calls.append("dropped"))
                raise Oops
        except Oops:
            pass
    equal(calls, [[1]], "rows and files are there when it is called")

    def bad():
        raise Oops

    def fails():
        with transaction.atomic():
            kit.order(3)
            transaction.on_commit(bad)
    raises(Oops, fails)
    equal(kit.orders(m), [1, 3])
    calls.clear()

    def next_one():
        kit.place(5)
        calls.append(1)
    with transaction.atomic():
        kit.order(4)
        transaction.on_commit(next_one)
    equal((kit.orders(m), calls), ([1, 3, 4, 5], [1]))
    at_rest(m)


@pg_kit.full
def test_manual_transactions(t):
    """set_autocommit(False), commit() and rollback()."""
    m = ready(t)
    from django.db import connection, transaction
    transaction.set_autocommit(False)
    try:
        if connection.vendor == "sqlite":  # Django itself begins nothing there
            connection.cursor().execute("BEGIN")
        kit.order(1)
        check(not exists(m("media/invoices")))
        transaction.rollback()
        if connection.vendor == "sqlite":
            connection.cursor().execute("BEGIN")
        kit.order(2)
        transaction.commit()
        equal(kit.orders(m), [2])
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    at_rest(m)


@pg_kit.full
def test_requests(t):
    """ATOMIC_REQUESTS, with uploads through the test client."""
    m = t.mount()
    database = pg_kit.database(t) or {"ENGINE": "txnfs.django.backends.sqlite3", "NAME": t.path("db.sqlite3")}
    kit.setup(t, m, {**database, "ATOMIC_REQUESTS": True})
    from django.core.files.base import ContentFile
    from django.http import HttpResponse
    from django.test import Client
    from django.urls import path
    from shop.models import Item, Order

    def view(request):
        o = Order.objects.create(number=request.POST["number"], invoice=request.FILES["invoice"])
        for i in range(2):
            Item.objects.create(order=o, name=i)
        if request.POST.get("fail"):
            raise Oops
        return HttpResponse("ok")
    kit.urlpatterns.append(path("place", view))

    def post(n, **kw):
        return Client(raise_request_exception=False).post("/place", {
            "number": n, "invoice": ContentFile(f"invoice {n}".encode(), name=f"{n}.pdf"), **kw}).status_code
    equal([post(1), post(2, fail=1), post(3), post(3)], [200, 500, 200, 500])
    equal(kit.orders(m), [1, 3])
    at_rest(m)


def test_test_case(t):
    """TestCase takes back the files of each test, and of the class."""
    m = ready(t)
    import unittest
    from django.test import TestCase
    from shop.models import Order

    class Case(TestCase):
        @classmethod
        def setUpTestData(cls):
            kit.order(1)

        def test_a(self):
            kit.order(2)
            self.assertEqual(Order.objects.get(number=2).invoice.read(), b"invoice 2")
            Order.objects.get(number=1).invoice.delete()

        test_b = test_a

        def test_c(self):
            self.assertEqual(Order.objects.get(number=1).invoice.read(), b"invoice 1")
    from django.db import connection
    connection.creation.mark_expected_failures_and_skips = lambda: None
    r = unittest.TextTestRunner(stream=open(os.devnull, "w")).run(unittest.defaultTestLoader.loadTestsFromTestCase(Case))
    equal((r.testsRun, [text for _, text in r.errors + r.failures]), (3, []))
    equal(kit.orders(m), [])
    equal(ls(m("media")), [])
    at_rest(m)


@pg_kit.full
def test_threads(t):
    """Each has its connection, and so its files."""
    m = ready(t)
    from django.db import connection
    os.mkdir(m("media/invoices"))
    errors = []

    def work(i):
        try:
            for k in range(3):
                kit.place(10 * i + k)
        except BaseException as e:
            errors.append(e)
        finally:
            connection.close()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for x in threads:
        x.start()
    for x in threads:
        x.join()
    equal(errors, [])
    equal(kit.orders(m), [10 * i + k for i in range(4) for k in range(3)])
    at_rest(m)


@pg_kit.full
def test_a_fork_in_a_block(t):
    """A child that closes the connections it has inherited, as it should, ends nothing of its parent's."""
    m = ready(t)
    from django.db import connection, transaction

    def in_a_child():
        # Not the database's connection, which Django would break for the parent, but the files of it.
        connection.txnfs.closed()
    with transaction.atomic():
        kit.order(1)
        from harness import in_child
        in_child(in_a_child)
        kit.order(2)
    equal(kit.orders(m), [1, 2])
    at_rest(m)


# ---- errors ----

@pg_kit.full
def test_conflicts(t):
    m = ready(t, "lock_timeout=0")
    import txnfs
    from django.core.files.base import ContentFile
    from django.core.files.storage import default_storage
    from django.db import transaction
    write(m("media/f"), "0")
    holder = txnfs.Transaction(m.mnt, name="holder")
    holder.open("media/f", "w").close()
    holder.open("media/new", "w").close()
    for fn, args in ((default_storage.open, ("f", "wb")), (default_storage.delete, ("f",)),
                     (default_storage.save, ("new", ContentFile(b"x")))):
        def block():
            with transaction.atomic():
                kit.order(1)
                fn(*args)
        e = raises(txnfs.Conflict, block)
        check("holder" in str(e), str(e))
    holder.rollback()
    equal(kit.orders(m), [])
    at_rest(m)


@pg_kit.full
def test_files_refuse_the_commit(t):
    """Before the decision an error of the files rolls back both, as an error of the database that Django knows."""
    m = ready(t)
    from django.db import DatabaseError, transaction
    from txnfs.django.files import FilesError
    for inner in (False, True):
        def block():
            with transaction.atomic():
                kit.order(1)
                os.rmdir(m(".txn", named_open(m.mnt)[0]))  # someone ends it
                if inner:
                    with transaction.atomic():
                        pass
        e = raises(FilesError, block)
        check(isinstance(e, DatabaseError) and "nothing of it was committed" in str(e), str(e))
        equal(kit.orders(m), [])
    kit.place(2)
    equal(kit.orders(m), [2])
    at_rest(m)


@pg_kit.full
def test_database_refuses_the_commit(t):
    """A constraint that is checked at the commit: the files are prepared then."""
    m = ready(t)
    from django.db import IntegrityError, connection, transaction
    if connection.vendor == "sqlite":
        from shop.models import Item

        def block():
            with transaction.atomic():
                kit.order(1)
                Item.objects.create(order_id=12345, name="of no order")  # Django's foreign keys are deferred
    else:
        with connection.cursor() as c:
            c.execute("CREATE TABLE once (n int, CONSTRAINT one UNIQUE (n) DEFERRABLE INITIALLY DEFERRED)")

        def block():
            with transaction.atomic():
                kit.order(1)
                with connection.cursor() as c:
                    c.execute("INSERT INTO once VALUES (1), (1)")
    prepared = []
    kit.at_step("prepared", lambda: prepared.append(ls(m(".txn"))))
    raises(IntegrityError, block)
    equal(len(prepared), 1, "it was prepared")
    equal(kit.orders(m), [])
    equal(kit.rows(), 0)
    at_rest(m)
    kit.place(1)
    equal(kit.orders(m), [1])
    at_rest(m)


@pg_kit.full
def test_interrupts(t):
    """KeyboardInterrupt between each two steps of the commit."""
    m = ready(t)
    for n, name in enumerate(kit.STEPS[:-1]):
        def interrupt():
            raise KeyboardInterrupt
        kit.at_step(name, interrupt)
        raises(KeyboardInterrupt, kit.place, n)
        kit.at_step("", None)
        decided = name in ("decided", "files committed")
        kit.place(100 + n)
        equal(n in kit.orders(m), decided, f"after {name!r}")
        at_rest(m)


@pg_kit.full
def test_settings(t):
    m = ready(t)
    from django.core.checks import run_checks
    from django.core.exceptions import ImproperlyConfigured
    from django.core.files.base import ContentFile
    from django.db import connection, connections, transaction
    from txnfs.django.storage import TxnfsStorage
    equal([e for e in run_checks() if e.id.startswith("txnfs")], [])
    from django.core.management import call_command
    call_command("makemigrations", "txnfs", check=True, dry_run=True, verbosity=0)  # exits when one is missing
    connections.databases["plain"] = {**connections.databases["default"], "ENGINE": "django.db.backends.sqlite3"}
    connections.databases["empty"] = {**connections.databases["default"]}
    del connections.databases["empty"]["TXNFS"]
    equal(sorted(e.id for e in run_checks() if e.id.startswith("txnfs")), ["txnfs.E001", "txnfs.E002"])
    del connections.databases["empty"]
    e = raises(ImproperlyConfigured, TxnfsStorage(using="plain").save, "f", ContentFile(b"x"))
    check("ENGINE" in str(e), str(e))
    del connections.databases["plain"]
    with transaction.atomic():
        e = raises(ImproperlyConfigured, TxnfsStorage(location=t.dir).save, "f", ContentFile(b"x"))
    check("TXNFS" in str(e), str(e))
    with connection.cursor() as c:
        c.execute("DELETE FROM txnfs_identity")
    from django.db import OperationalError
    e = raises(OperationalError, kit.place, 1)
    check("migrate" in str(e), str(e))
    equal(kit.orders(m), [])
    call_command("flush", interactive=False, verbosity=0)
    kit.place(1)
    equal(kit.orders(m), [1])
    at_rest(m)


# ---- crashes ----

@quick
def test_killed_between_each_two_steps(t):
    """The process dies; the next one finds both or neither, and nothing left of it."""
    m = ready(t)
    committed = []
    for n, name in enumerate(kit.STEPS):
        if not kit.dies_at(name, kit.place, n):
            check(name == "row deleted", f"no step {name!r}")
        if name in kit.STEPS[4:]:
            committed.append(n)
        # At the start: connecting is enough.
        equal(kit.child(kit.orders, m), committed, f"killed at {name!r}")
        wait_until(lambda: not named_open(m.mnt), 5, "the rollback of what was open")
        at_rest(m)
    # At the next transaction, of a process that has been connected for long.
    from django.db import connection
    from txnfs.django import files
    files.IN_FLIGHT = 0
    connection.ensure_connection()
    for n, name in enumerate(kit.STEPS[2:5], 100):
        connection.txnfs._recovering = True
        kit.fresh()
        died = kit.dies_at(name, kit.place, n)
        connection.ensure_connection()
        connection.txnfs._recovering = False
        check(died)
        equal(len(ls(m(".txn"))), 4)
        kit.place(1000 + n)
        committed += [n, 1000 + n] if name == "decided" else [1000 + n]
        equal(kit.orders(m), sorted(committed), f"killed at {name!r}")
    at_rest(m)


@pg_kit.full
def test_two_mounts(t):
    """One decision for the files of both."""
    m, other = t.mount(), t.mount("other")
    database = pg_kit.database(t) or {"ENGINE": "txnfs.django.backends.sqlite3", "NAME": t.path("db.sqlite3")}
    kit.setup(t, m, {**database, "TXNFS": {"MOUNTS": [m.mnt, other.mnt], "TIMEOUT": 3}})
    from django.core.files.base import ContentFile
    from django.db import connection, transaction
    from txnfs.django import recovery
    from txnfs.django.storage import TxnfsStorage
    import txnfs

    def place(n, fail=False):
        with transaction.atomic():
            kit.order(n)
            TxnfsStorage(location=other("thumbs")).save(f"{n}.png", ContentFile(b"x"))
            if fail:
                raise Oops
    raises(Oops, place, 1, True)
    equal((kit.orders(m), ls(other.mnt)), ([], []))
    n, done = 2, []
    for name, nth in (("one prepared", 1), ("one prepared", 2), ("prepared", 1), ("decided", 1), ("files committed", 1)):
        check(kit.dies_at(name, place, n, nth=nth))
        gids = [p.gid for x in (m, other) for p in txnfs.prepared(x.mnt)]
        equal(len(gids), {"files committed": 0}.get(name, nth if name == "one prepared" else 2))
        equal(recovery.recover(connection, min_age=60), [], "too young to be looked at")
        done += [n] if name in ("decided", "files committed") else []
        found = kit.child(lambda: (kit.orders(m), sorted(ls(other("thumbs"))) if exists(other("thumbs")) else []))
        equal(found, (done, [f"{x}.png" for x in done]), f"killed at {name!r}")
        at_rest(m)
        equal(txnfs.prepared(other.mnt), [])
        n += 1


@pg_kit.full
@deadline(600)
def test_random_kills(t):
    """Clients that place orders, and the daemon, killed at any time. TXNFS_LONG=1: five minutes."""
    m = ready(t, "lock_timeout=1")
    os.mkdir(m("media/invoices"))
    kit.random_kills(t, m, 300 if os.environ.get("TXNFS_LONG") else 4)


def test_daemon_killed_between_each_two_steps(t):
    """The mount crashes; before the decision both are rolled back, after it the files come with the next mount."""
    m = ready(t)
    from django.db import OperationalError
    committed = []
    for n, name in enumerate(kit.STEPS[:5]):
        kit.at_step(name, lambda: m.kill9())
        if name in ("prepared", "decided"):  # nothing more is asked of the mount before the decision
            kit.place(n)
            committed.append(n)
        else:
            if name == "one prepared":
                kit.place(n)
                committed.append(n)
            else:
                raises(OperationalError, kit.place, n)
        kit.at_step("", None)
        m.start()
        kit.place(100 + n)  # recovers
        committed.append(100 + n)
        equal(kit.orders(m), sorted(committed), f"killed at {name!r}")
        at_rest(m)


@pg_kit.full
def test_daemon_dies_inside_a_block(t):
    """Whatever comes next in the block fails, or its commit; the rows are rolled back with it."""
    m = ready(t)
    from django.db import DatabaseError, transaction

    def nested():
        with transaction.atomic():
            kit.order(1)
            m.kill9()
            try:
                with transaction.atomic():
                    pass
            except DatabaseError:
                pass

    def failing_inside():
        with transaction.atomic():
            kit.order(2)
            try:
                with transaction.atomic():
                    kit.order(3)
                    m.kill9()
                    raise Oops
            except Oops:
                pass

    def new_file():
        with transaction.atomic():
            kit.order(4)
            m.kill9()
            kit.order(5)

    def nothing_more():
        with transaction.atomic():
            kit.order(6)
            m.kill9()
    for fn in (nested, failing_inside, new_file, nothing_more):
        try:
            fn()
        except (DatabaseError, OSError):
            pass
        else:
            check(fn is failing_inside, f"{fn.__name__} has not told")  # as Django: marked for rollback
        m.start()
        equal(kit.orders(m), [], fn.__name__)
        at_rest(m)
    kit.place(7)
    equal(kit.orders(m), [7])


def test_alive_elsewhere(t):
    """A transaction that stands between its steps in another process is not resolved by anybody."""
    m = ready(t)
    import txnfs
    from django.core.management import call_command
    from django.db import connection
    from txnfs.django import files, recovery
    files.IN_FLIGHT = 0
    os.mkdir(m("media/invoices"))  # else it belongs to the one that stands still
    n = 0
    for name in ("one prepared", "prepared"):
        for ending in ("go", "kill"):
            n += 1
            p = kit.Paused(name, kit.place, n)
            (gid,) = [x.gid for x in txnfs.prepared(m.mnt)]
            connection.ensure_connection()
            equal([r.outcome for r in recovery.recover(connection, wait=False)], [recovery.ALIVE])
            call_command("txnfs_recover", list=True, stdout=open(os.devnull, "w"))
            equal([x.gid for x in txnfs.prepared(m.mnt)], [gid])
            if connection.vendor == "postgresql":
                kit.place(1000 + n)  # others go on
            getattr(p, ending)()
            kit.fresh()
            equal(n in kit.orders(m), ending == "go")
            at_rest(m)
    # Decided, and not committed on the mount yet: whoever comes may do it, and the process finds it done.
    p = kit.Paused("decided", kit.place, 100)
    check(100 in kit.orders(m))
    equal(txnfs.prepared(m.mnt), [])
    p.go()
    at_rest(m)


@pg_kit.full
def test_recover_command(t):
    m = ready(t)
    import io
    import json
    import txnfs
    from django.core.management import call_command
    from django.db import connection
    check(kit.dies_at("prepared", kit.place, 1) and exists(m(".txn")))
    with txnfs.atomic(m.mnt) as tx:
        tx.prepare("django-" + "0" * 32 + "-of-another-project")
    with txnfs.atomic(m.mnt) as tx:
        tx.prepare("somebody-else")

    def run(**kw):
        out = io.StringIO()
        connection.close()
        call_command("txnfs_recover", stdout=out, **kw)
        return out.getvalue()
    text = run(list=True)
    check("would be rolled back" in text and "of another database" in text and "somebody" not in text, text)
    equal(len(txnfs.prepared(m.mnt)), 3)
    found = json.loads(run(json=True))
    equal(sorted(r["outcome"] for r in found), ["of another database", "rolled back"])
    equal(len(txnfs.prepared(m.mnt)), 2)
    for p in txnfs.prepared(m.mnt):
        txnfs.rollback_prepared(m.mnt, p.gid)
    equal(run(), "nothing is in doubt\n")
    check(kit.dies_at("files committed", kit.place, 2))
    equal(kit.rows(), 1, "a crash leaves a row")
    check("0 rows" in run(purge=1))
    check("1 rows" in run(purge=0))
    equal((kit.rows(), kit.orders(m)), (0, [2]))
    at_rest(m)


@pg_kit.full
def test_rows_go(t):
    """Rows of decisions do not pile up, also when each block has a connection of its own."""
    m = ready(t)
    for n in range(5):
        kit.place(n)
        kit.fresh()
    check(kit.rows() <= 1, kit.rows())
    # One that a rollback would have deleted is deleted later.
    from django.db import transaction
    from txnfs.django.files import FilesError
    kit.place(10)

    def refused():
        with transaction.atomic():
            kit.order(11)

            def end():
                import txnfs
                raise txnfs.Conflict(errno.EBUSY, "of the test")
            kit.at_step("decision inserted", end)
    raises(FilesError, refused)
    kit.at_step("", None)
    kit.place(12)
    check(kit.rows() <= 1, kit.rows())
    at_rest(m)


# ---- locks ----

@pg_kit.full
def test_row_locks_beside_file_locks(t):
    """select_for_update() first, then the file: processes that append to one file lose nothing."""
    m = ready(t)
    from django.db import transaction
    from shop.models import Order
    kit.place(1)

    def append(who):
        for _ in range(5):
            with transaction.atomic():
                if transaction.get_connection().vendor == "sqlite":
                    Order.objects.filter(number=1).update(number=1)  # no row locks there: be the writer
                o = Order.objects.select_for_update().get(number=1)
                with o.invoice.open("r+b") as f:
                    f.seek(0, 2)
                    f.write(who)
    kit.fresh()
    pids = []
    for who in (b"x", b"y", b"z"):
        pid = os.fork()
        if pid == 0:
            try:
                append(who)
                os._exit(0)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
        pids.append(pid)
    for pid in pids:
        equal(os.waitpid(pid, 0)[1], 0)
    data = read(m("media/invoices/1.pdf"))
    equal([data.count(x) for x in (b"x", b"y", b"z")], [5, 5, 5])
    at_rest(m)


# ---- documentation ----

@deadline(120)
def test_manual(t):
    """The manual's project, as it is written, with its own tests."""
    kit.needed()
    m = t.mount()
    project = t.path("project")
    for d in ("mysite", "shop"):
        os.makedirs(os.path.join(project, d))
        write(os.path.join(project, d, "__init__.py"), "")
    found = set()
    for _, text in blocks("tools/python/README.md", "python", "Django"):
        where = re.match(r"# ([\w/]+\.py)", text)
        check(where, "an example of no file:", text)
        found.add(where.group(1))
        head = ""
        if where.group(1) == "mysite/settings.py":
            head = ("from pathlib import Path\nBASE_DIR = Path(__file__).parent.parent\nSECRET_KEY = 'x'\nUSE_TZ = True\n"
                    "ROOT_URLCONF = 'mysite.urls'\nDEFAULT_AUTO_FIELD = 'django.db.models.AutoField'\n")
        write(os.path.join(project, where.group(1)), head + text)
    equal(found, {"mysite/settings.py", "shop/models.py", "shop/views.py", "shop/tests.py", "shop/stamp.py"})
    write(os.path.join(project, "mysite/urls.py"), "from django.urls import path\nfrom shop.views import place\n"
          "urlpatterns = [path('place', place)]\n")
    env = {"DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONPATH": os.pathsep.join([project, sys.path[0]])}
    manage = [PYTHON, "-m", "django"]
    at_mnt_site(m, [*manage, "migrate", "--run-syncdb"], env=env, cwd=project)
    out = at_mnt_site(m, [*manage, "test", "shop"], env=env, cwd=project, seconds=60)
    check("Ran 4 tests" in out and "OK" in out, out)
    code = ("import django; django.setup()\nfrom django.core.files.base import ContentFile\n"
            "from shop.models import Order\nfrom shop.stamp import stamp\n"
            "o = Order.objects.create(customer='Ada', invoice=ContentFile(b'1', name='i'))\nstamp(o.pk, b'+2')\n"
            "assert o.invoice.open().read() == b'1+2'\n")
    at_mnt_site(m, [PYTHON, "-c", code], env=env, cwd=project)
    # The short form of README.md is the same settings.
    ((_, text),) = blocks("README.md", "python", "Django")
    short = {}
    exec(text, short)
    equal(short["DATABASES"]["default"]["TXNFS"], "/mnt/site")
    path = os.path.join(project, "mysite/settings.py")
    write(path, read(path).decode().split("# mysite")[0] + text)
    at_mnt_site(m, [*manage, "test", "shop.tests.RolledBackTest"], env=env, cwd=project, seconds=60)
