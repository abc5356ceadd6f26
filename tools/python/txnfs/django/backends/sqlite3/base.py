from django.db.backends.sqlite3 import base

from ...backend import FilesMixin


class DatabaseWrapper(FilesMixin, base.DatabaseWrapper):
    """Django's, with the files of the mounts in "TXNFS"."""
