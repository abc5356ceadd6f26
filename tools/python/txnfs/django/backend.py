"""The hooks of a database backend by which files follow its transactions."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .files import Files

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper as _Base
else:
    _Base = object


class FilesMixin(_Base):
    """
    In front of a backend's DatabaseWrapper:

        class DatabaseWrapper(FilesMixin, base.DatabaseWrapper): pass

    The backend must have savepoints, and a unique index must make an INSERT wait for (or refuse because of) another
    transaction's uncommitted row of the same key, as PostgreSQL and SQLite do: recovery relies on it.
    """

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.txnfs = Files(self)

    def connect(self) -> None:
        super().connect()
        self.txnfs.connected()

    def _savepoint(self, sid: str) -> None:
        super()._savepoint(sid)
        self.txnfs.savepoint(sid)

    def _savepoint_rollback(self, sid: str) -> None:
        super()._savepoint_rollback(sid)
        self.txnfs.rollback_to(sid)

    def _savepoint_commit(self, sid: str) -> None:
        super()._savepoint_commit(sid)
        self.txnfs.release(sid)

    def _commit(self) -> None:
        self.txnfs.commit(super()._commit)

    def _rollback(self) -> None:
        self.txnfs.rollback(super()._rollback)

    def _close(self) -> None:
        try:
            super()._close()
        finally:
            self.txnfs.closed()
