"""The storage for FileField and ImageField."""
from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, Iterator, Optional

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.deconstruct import deconstructible

from .files import Files


@deconstructible
class TxnfsStorage(FileSystemStorage):
    """
    Django's FileSystemStorage below a directory of a txnfs mount. In a block of the database `using`, what is saved,
    deleted or opened for writing belongs to that block; reading shows it. Outside of blocks it is done at once.
    """

    def __init__(self, location: Any = None, base_url: Optional[str] = None,
                 file_permissions_mode: Optional[int] = None, directory_permissions_mode: Optional[int] = None,
                 using: str = DEFAULT_DB_ALIAS) -> None:
        self.using = using
        super().__init__(location, base_url, file_permissions_mode, directory_permissions_mode)

    @property
    def files(self) -> Files:
        c = connections[self.using]
        try:
            files: Files = c.txnfs
        except AttributeError:
            raise ImproperlyConfigured(
                f"TxnfsStorage needs a database that carries files, and the ENGINE of {self.using!r} is "
                f"{c.settings_dict['ENGINE']!r}: use txnfs.django.backends.postgresql or .sqlite3") from None
        return files

    @property
    def location(self) -> str:
        """Where the files are for the calling code: in the view of its transaction, if there is one."""
        return self.files.view(os.path.abspath(self.base_location), begin=False)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        files = self.files
        files.view(os.path.abspath(self.base_location), begin=True)
        try:
            yield
        except OSError as e:
            better = files.explain(e)
            if better is e:
                raise
            raise better from e

    def save(self, name: Optional[str], content: Any, max_length: Optional[int] = None) -> str:
        with self._changing():
            return super().save(name, content, max_length)

    def delete(self, name: str) -> None:
        with self._changing():
            super().delete(name)

    def _open(self, name: str, mode: str = "rb") -> Any:
        if any(x in mode for x in "wax+"):
            with self._changing():
                return super()._open(name, mode)
        return super()._open(name, mode)
