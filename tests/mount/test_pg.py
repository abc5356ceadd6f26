"""What Django's two commits do when PostgreSQL itself is in trouble. tests/django.sh runs it, one test at a time."""
import os
import signal

import django_kit as kit
import pg_kit
from harness import check, deadline, equal, patience, wait_until
from django_kit import at_rest, raises


def ready(t, options="", **database):
    m = t.mount(options=options)
    settings = {**pg_kit.database(t), **database}
    kit.setup(t, m, settings)
    os.mkdir(m("media/invoices"))
    return m, settings


@pg_kit.full
@deadline(120)
def test_server_killed(t):
    """Between each two steps. An outcome that the client does not learn is the same on both sides."""
    m, _ = ready(t)
    from django.db import Error, connection
    from txnfs.django import files
    files.IN_FLIGHT = 0
    committed = []
    for n, name in enumerate(kit.STEPS[:-1]):
        kit.at_step(name, pg_kit.crash)
        if name in ("decided", "files committed"):
            kit.place(n)  # it is decided; only the row stays
            committed.append(n)
        else:
            raises(Error, kit.place, n)
        kit.at_step("", None)
        connection.close()
        kit.place(100 + n)
        committed.append(100 + n)
        equal(kit.orders(m), sorted(committed), f"server killed at {name!r}")
        at_rest(m)


class SlowCommit:
    """COMMIT waits in the server, in a deferred trigger, until release()."""

    def __init__(self, settings):
        self.c = pg_kit.connect(settings)
        pg_kit.sql(self.c, """
            CREATE OR REPLACE FUNCTION stand() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$""")
        pg_kit.sql(self.c, """
            CREATE CONSTRAINT TRIGGER stand AFTER INSERT ON shop_order DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION stand()""")
        self.hold()

    def hold(self):
        pg_kit.sql(self.c, "SELECT pg_advisory_lock(7)")

    def release(self):
        pg_kit.sql(self.c, "SELECT pg_advisory_unlock(7)")

    def waiting(self):
        return [pid for (pid,) in pg_kit.sql(self.c, "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")]


def commits_slowly(m, settings, n):
    """A process whose COMMIT stands in the server: (its pid, the server's, the lock)."""
    slow = SlowCommit(settings)
    kit.fresh()
    pid = os.fork()
    if pid == 0:
        try:
            kit.place(n)
            os._exit(0)
        except BaseException:
            os._exit(1)
    (backend,) = wait_until(slow.waiting, 5, "a COMMIT that stands")
    return pid, backend, slow


@pg_kit.full
def test_client_killed_during_commit(t):
    """
    The client is dead, its row cannot be seen, and the server commits all the same a moment later. Whoever rolled the
    files back meanwhile would be wrong.
    """
    m, settings = ready(t)
    import txnfs
    from django.db import connection
    from txnfs.django import recovery
    pid, _, slow = commits_slowly(m, settings, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for _ in range(3):
        equal([r.outcome for r in recovery.recover(connection, wait=False)], [recovery.ALIVE])
    equal(len(txnfs.prepared(m.mnt)), 1)
    slow.release()
    wait_until(lambda: [r.outcome for r in recovery.recover(connection, wait=False)] == [recovery.COMMITTED], 5,
               "the server's commit")
    equal(kit.orders(m), [1])
    at_rest(m)
    # With patience, recovery waits in the database for the end of it.
    slow.hold()
    pid = os.fork()
    if pid == 0:
        from django.db import connections
        connections["default"].connection = None
        try:
            kit.place(2)
        finally:
            os._exit(1)
    wait_until(slow.waiting, 5, "a COMMIT that stands")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    helper = os.fork()
    if helper == 0:
        try:
            other = pg_kit.connect(settings)
            wait_until(lambda: pg_kit.sql(other, "SELECT 1 FROM pg_locks WHERE locktype = 'transactionid' "
                                          "AND NOT granted"), 5, "recovery that waits")
            os._exit(0)
        finally:
            os._exit(1)
    import threading
    found = []

    def waits():
        from django.db import connection
        found.extend(r.outcome for r in recovery.recover(connection, wait=True))
        connection.close()
    x = threading.Thread(target=waits)
    x.start()
    equal(os.waitpid(helper, 0)[1], 0)
    slow.release()
    x.join(patience(5))
    equal(found, [recovery.COMMITTED])
    equal(kit.orders(m), [1, 2])
    at_rest(m)


@pg_kit.full
def test_connection_broken_during_commit(t):
    """The server ends the session: rolled back, if the commit had not got further. The client gets an error; both agree."""
    m, settings = ready(t)
    from txnfs.django import files
    files.IN_FLIGHT = 0
    pid, backend, slow = commits_slowly(m, settings, 1)
    pg_kit.sql(slow.c, "SELECT pg_terminate_backend(%s)", backend)
    equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 1)
    slow.release()
    kit.place(2)
    equal(kit.orders(m), [2])
    at_rest(m)


@pg_kit.full
def test_connection_lost_while_the_server_commits(t):
    """The client gets an error and cannot know: nothing is rolled back, and what the server decides holds for the files."""
    m, settings = ready(t)
    import socket
    import threading
    from django.db import OperationalError, connection
    from txnfs.django import files
    import txnfs
    files.IN_FLIGHT = 0
    slow = SlowCommit(settings)
    connection.ensure_connection()
    line = socket.socket(fileno=os.dup(connection.connection.fileno()))

    def cut():
        wait_until(slow.waiting, 5, "a COMMIT that stands")
        line.shutdown(socket.SHUT_RDWR)
        line.close()
    x = threading.Thread(target=cut)
    x.start()
    raises(OperationalError, kit.place, 1)
    x.join()
    equal(len(txnfs.prepared(m.mnt)), 1, "in doubt")
    connection.ensure_connection()
    equal(len(txnfs.prepared(m.mnt)), 1, "the server is still about to commit")
    slow.release()
    wait_until(lambda: (kit.fresh(), connection.ensure_connection(), not txnfs.prepared(m.mnt))[-1], 5, "recovery")
    equal(kit.orders(m), [1])
    at_rest(m)


@pg_kit.full
def test_connection_ended_inside_a_block(t):
    """By the server, before the commit: both are rolled back, and the thread goes on."""
    m, settings = ready(t)
    from django.db import Error, connection, transaction

    def block(inner):
        with transaction.atomic():
            kit.order(1)
            other = pg_kit.connect(settings)
            pg_kit.sql(other, "SELECT pg_terminate_backend(%s)", connection.connection.get_backend_pid())
            other.close()
            if inner:
                with transaction.atomic():
                    kit.order(2)
    for inner in (False, True):
        raises(Error, block, inner)
        connection.close()
        equal(kit.orders(m), [])
        at_rest(m)
    kit.place(3)
    equal(kit.orders(m), [3])
    at_rest(m)


@pg_kit.full
def test_levels(t):
    """REPEATABLE READ and SERIALIZABLE: decisions do not depend on snapshots, and a failure at the commit takes both back."""
    from psycopg2 import extensions
    m, settings = ready(t, OPTIONS={"isolation_level": extensions.ISOLATION_LEVEL_SERIALIZABLE})
    from django.db import OperationalError, transaction
    from shop.models import Item
    kit.place(1)

    inherited = []  # not closed by the child

    def skewed(n):
        """Two that read what the other one writes: one of them cannot be serialized."""
        with transaction.atomic():
            Item.objects.count()
            kit.order(n)
            kit.in_child(other, 3)

    def other(n):
        # With a connection of its own; the parent's stays as it is.
        from django.db import connections
        inherited.append(connections["default"])
        connections["default"] = inherited[0].copy()
        with transaction.atomic():
            Item.objects.count()
            kit.order(n)
    e = raises(OperationalError, skewed, 2)
    check("serialize" in str(e), str(e))
    equal(kit.orders(m), [1, 3])
    at_rest(m)


@pg_kit.full
def test_row_locks_hold_between_processes(t):
    """select_for_update(nowait) of a row whose transaction is prepared: taken; after its end: free."""
    m, _ = ready(t)
    from django.db import OperationalError, transaction
    from shop.models import Order
    kit.place(1)

    def change():
        with transaction.atomic():
            o = Order.objects.select_for_update().get(number=1)
            with o.invoice.open("ab") as f:
                f.write(b"+")

    def try_it():
        with transaction.atomic():
            Order.objects.select_for_update(nowait=True).get(number=1)
    p = kit.Paused("prepared", change)
    raises(OperationalError, try_it)
    p.go()
    try_it()
    at_rest(m)


@pg_kit.full
@deadline(600)
def test_random_kills(t):
    """Clients that place orders, killed at any time; sometimes the daemon, sometimes the server. TXNFS_LONG=1: five minutes."""
    m, _ = ready(t, "lock_timeout=1")
    kit.random_kills(t, m, 300 if os.environ.get("TXNFS_LONG") else 8, pg_kit.crash)
