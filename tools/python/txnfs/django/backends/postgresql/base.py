from django.db.backends.postgresql import base

from ...backend import FilesMixin


class DatabaseWrapper(FilesMixin, base.DatabaseWrapper):
    """Django's, with the files of the mounts in "TXNFS"."""
