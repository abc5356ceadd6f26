"""The database of test_django.py: SQLite, or the PostgreSQL cluster that tests/django.sh has started."""
import os
import signal

from harness import wait_until


def database(t):
    """Settings of a new database in the cluster; None: SQLite."""
    socket = os.environ.get("TXNFS_PG_SOCKET")
    if not socket:
        return None
    import psycopg2
    name = "t_" + t.name.replace(".", "_").lower()
    c = psycopg2.connect(host=socket, dbname="postgres", user="txnfs")
    c.autocommit = True
    with c.cursor() as cursor:
        cursor.execute(f'DROP DATABASE IF EXISTS "{name}"')
        cursor.execute(f'CREATE DATABASE "{name}"')
    c.close()
    return {"ENGINE": "txnfs.django.backends.postgresql", "NAME": name, "HOST": socket, "USER": "txnfs"}


def full(test):
    """A mark on tests that tests/django.sh runs; elsewhere they do not exist."""
    return test if os.environ.get("TXNFS_DJANGO") else None


def connect(database):
    """A connection beside Django's, in autocommit mode."""
    import psycopg2
    c = psycopg2.connect(host=database["HOST"], dbname=database["NAME"], user=database["USER"])
    c.autocommit = True
    return c


def sql(c, text, *args):
    with c.cursor() as cursor:
        cursor.execute(text, args)
        return cursor.fetchall() if cursor.description else None


def crash():
    """The server dies at once; tests/django.sh starts it again."""
    def pid():
        try:
            with open(os.path.join(os.environ["TXNFS_PG_SOCKET"], "data/postmaster.pid")) as f:
                return int(f.readline())
        except (FileNotFoundError, ValueError):
            return None

    def answers():
        import psycopg2
        try:
            psycopg2.connect(host=os.environ["TXNFS_PG_SOCKET"], dbname="postgres", user="txnfs").close()
            return pid() not in (None, old)
        except psycopg2.OperationalError:
            return False
    old = pid()
    os.kill(old, signal.SIGQUIT)
    wait_until(answers, 10, "the server")
