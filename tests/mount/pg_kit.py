"""The database of test_django.py: SQLite, or with TXNFS_PG=1 a PostgreSQL cluster that tests/django.sh has started."""
import os


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
