"""
The files' side of a database connection. A transaction of the mount begins with the first change of a file in a block, with
the savepoints that the database has at that time, and ends with the database's.

The order of the two commits:

    1  INSERT the decision, a row with a new GID, in the database's transaction
    2  prepare GID: the files are durable, locked and invisible, whatever happens
    3  COMMIT of the database: the decision for both
    4  commit prepared GID
    5  DELETE of the row

A crash before 3 leaves no row, so that recovery rolls the files back; one after 3 leaves the row, and recovery commits them.
The INSERT comes before the preparation, so that whoever sees a prepared GID, and can insert that row himself, knows that the
transaction is over and was not committed (recovery.py).
"""
from __future__ import annotations

import errno
import logging
import os
import threading
import uuid
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, Iterator, List, Optional, Set, Tuple

from django.core.exceptions import ImproperlyConfigured
from django.db.utils import DatabaseError, Error, OperationalError
from django.utils import timezone

from .. import _control, _errors
from .._transaction import ACTIVE, Transaction, within

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

log = logging.getLogger("txnfs.django")
PREFIX = "django-"

# Seconds that a commit may take before others ask the database about it. Only for their cost: asking is always safe.
IN_FLIGHT = 2.0
_started: Set[Tuple[int, str]] = set()  # processes (after forks) and aliases that have connected

# GIDs whose files are committed and whose rows can go, by alias: of all connections, for each may be closed any time.
_finished: Dict[str, Deque[str]] = {}
_finished_lock = threading.Lock()


class FilesError(OperationalError):
    """The files refused what the database would have done. The cause is the exception of txnfs."""


def step(name: str) -> None:
    """Between each two steps of a commit; tests put themselves in its place."""


@contextmanager
def _as_database_error(what: str) -> Iterator[None]:
    """Django handles errors of the database in the right way, and only these."""
    try:
        yield
    except DatabaseError:
        raise
    except (OSError, _errors.TransactionError) as e:
        text = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise FilesError(f"{what}: {text}") from e


class Files:
    """Of one connection: so of one thread, unless the connection is shared, as LiveServerTestCase does."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection: Any = connection
        given = connection.settings_dict.get("TXNFS") or []
        options = given if isinstance(given, dict) else {"MOUNTS": given}
        mounts = options.get("MOUNTS") or []
        self.mounts: List[str] = [os.fspath(m) for m in ([mounts] if isinstance(mounts, (str, os.PathLike)) else mounts)]
        self.timeout: Optional[float] = options.get("TIMEOUT")
        self.control: str = options.get("CONTROL", _control.CONTROL)
        self._open: Dict[str, Transaction] = {}  # by mount
        self._sids: List[str] = []
        self._rows: Dict[str, str] = {}  # GID: mount, of what is prepared and was not rolled back
        self._in_commit = False  # the database's COMMIT has been sent, and nobody knows its outcome yet
        self._deleting: List[str] = []  # of _finished, by this transaction
        self._owed: Dict[str, str] = {}  # GID: mount, of what the database has committed and the mount not yet
        self._recovering = False

    # ---- for the storage ----

    def in_transaction(self) -> bool:
        c = self.connection
        if c.in_atomic_block:
            return True
        return not (c.autocommit if c.connection is not None else c.settings_dict["AUTOCOMMIT"])

    def mount_of(self, path: str) -> str:
        real = os.path.realpath(path)
        for m in self.mounts:
            if within(os.path.realpath(m), real) is not None:
                return os.path.realpath(m)
        raise ImproperlyConfigured(f"{path} is in none of the mounts that the database {self.connection.alias!r} carries: "
                                   f"\"TXNFS\" is {self.mounts}")

    def view(self, path: str, begin: bool) -> str:
        """Where the connection's transaction has this absolute path; begin: it will be changed, so there must be one."""
        if not self._open and not begin:
            return path
        if not self.in_transaction():
            return path
        mount = self.mount_of(path)
        tx = self._open.get(mount)
        if tx is None:
            if not begin:
                return path
            tx = self._begin(mount)
        elif begin:
            self.connection.validate_no_broken_transaction()
            if not os.path.isdir(tx.path):
                # Django makes directories that are missing: it must not make ours in what the mount has covered.
                raise _control.ended(OSError(errno.ENOENT, ""), str(tx.path.parent))
        return str(tx.resolve(path))

    def explain(self, e: OSError) -> OSError:
        """The exception with the daemon's line, if it has one."""
        for tx in self._open.values():
            better = tx.explain(e)
            if better is not None:
                return better
        return e

    def _begin(self, mount: str) -> Transaction:
        c = self.connection
        c.validate_thread_sharing()
        c.validate_no_broken_transaction()
        self._recover(IN_FLIGHT)
        tx = Transaction(mount, timeout=self.timeout, control=self.control)
        try:
            for sid in self._sids:
                tx.savepoint(sid)
        except BaseException:
            tx.rollback()
            raise
        self._open[mount] = tx
        return tx

    def _recover(self, min_age: float) -> None:
        """What others, or this process, have left. Cheap when there is nothing: a look at .txn/prepared."""
        if self._recovering or not self.mounts:
            return
        self._recovering = True
        try:
            from .recovery import recover
            self._pay()
            recover(self.connection, wait=False, min_age=min_age)
        except Exception as e:  # what wants to connect, or to save a file, is not to fail for it
            log.warning("txnfs: recovery of %s was not possible: %s", self.mounts, e)
        finally:
            self._recovering = False

    def connected(self) -> None:
        self._forget()
        first = (os.getpid(), self.connection.alias) not in _started
        _started.add((os.getpid(), self.connection.alias))
        self._recover(0 if first else IN_FLIGHT)

    # ---- savepoints ----

    def savepoint(self, sid: str) -> None:
        with _as_database_error("savepoint of the files"):
            for tx in self._open.values():
                tx.savepoint(sid)
        self._sids.append(sid)

    def rollback_to(self, sid: str) -> None:
        if sid in self._sids:
            del self._sids[self._sids.index(sid) + 1:]
            with _as_database_error("rollback of the files to a savepoint"):
                for tx in self._open.values():
                    tx.rollback_to(sid)

    def release(self, sid: str) -> None:
        if sid in self._sids:
            with _as_database_error("release of the files' savepoint"):
                for tx in self._open.values():
                    tx.release(sid)
            del self._sids[self._sids.index(sid):]

    # ---- the end ----

    def commit(self, db_commit: Callable[[], None]) -> None:
        if not self._open:
            db_commit()
            self._forget()
            return
        c = self.connection
        try:
            with _as_database_error("commit of the files"):
                self._prepare()
            self._in_commit = True
            step("prepared")
            db_commit()
        except BaseException as e:
            # After an error of the database Django rolls back. Nobody does after an interrupt.
            if not isinstance(e, DatabaseError):
                c.run_on_commit = []
                try:
                    c._rollback()
                except Exception:
                    c.close()
            raise
        self._in_commit = False
        decided = bool(self._rows)
        self._owed.update(self._rows)
        self._deleting = []
        self._forget()
        if not decided:
            return
        try:
            step("decided")
            self._pay()
            step("files committed")
            self._clean(db_commit)
        except BaseException:
            c.run_on_commit = []  # interrupted: they must not be called for the next transaction
            try:
                c.connection.rollback()
            except Exception:
                c.errors_occurred = True
            raise

    def _prepare(self) -> None:
        c = self.connection
        changed = {}
        for mount, tx in list(self._open.items()):
            if tx.untouched():
                tx.rollback()
                del self._open[mount]
            else:
                changed[mount] = tx
        if not changed:
            return
        step("begin")
        with c.cursor() as cursor:
            identity = own_identity(cursor)
            if identity is None:
                raise FilesError(f"the table txnfs_identity of the database {c.alias!r} is empty: run `manage.py migrate "
                                 f"--database {c.alias}`")
            gids = {f"{PREFIX}{identity}-{uuid.uuid4().hex}": mount for mount in changed}
            for gid, mount in gids.items():
                insert_decision(c, cursor, gid, mount)
            if c.vendor != "postgresql":
                self._delete_finished(cursor)
        step("decision inserted")
        for gid, mount in gids.items():
            self._rows[gid] = mount
            changed[mount].prepare(gid)
            step("one prepared")

    def _pay(self) -> None:
        """commit prepared, of what the database has committed."""
        for gid, mount in list(self._owed.items()):
            try:
                _control.commit_prepared(mount, gid, self.control)
            except OSError as e:
                if not isinstance(e, _errors.NotFound) or isinstance(e, _errors.NotMounted):
                    # It is decided, so this is no error of the transaction. They become visible with the next recovery.
                    log.error("txnfs: %s: the files of a committed transaction (%s) are not visible yet: %s", mount, gid, e)
                    continue
                # else a recovery was faster
            del self._owed[gid]
            with _finished_lock:
                _finished.setdefault(self.connection.alias, deque()).append(gid)

    def _clean(self, db_commit: Callable[[], None]) -> None:
        """
        Rows of files that are committed go: with PostgreSQL at once, in a transaction that need not be durable; elsewhere with
        the next commit, because another one would cost as much as the first.
        """
        c = self.connection
        if c.vendor != "postgresql":
            return
        try:
            with c.cursor() as cursor:
                cursor.execute("SET LOCAL synchronous_commit TO OFF")
                self._delete_finished(cursor)
            db_commit()
            self._deleting = []
        except Error as e:
            log.warning("txnfs: a row of txnfs_decision stays: %s", e)
            try:
                c.connection.rollback()
            except Exception:
                c.errors_occurred = True
        step("row deleted")

    def _delete_finished(self, cursor: Any) -> None:
        with _finished_lock:
            waiting = _finished.get(self.connection.alias)
            gids = [waiting.popleft() for _ in range(len(waiting))] if waiting else []
        self._deleting = gids
        for gid in gids:
            cursor.execute("DELETE FROM txnfs_decision WHERE gid = %s", [gid])

    def rollback(self, db_rollback: Callable[[], None]) -> None:
        try:
            db_rollback()
        except BaseException:
            self._drop()
            raise
        if self._in_commit and self._rows:
            self._settle(db_rollback)
        self._drop()

    def _settle(self, db_rollback: Callable[[], None]) -> None:
        """
        COMMIT failed. On the same connection, which has answered a ROLLBACK after it, the transaction is over: the rows tell
        how. If the connection is lost, recovery asks on another one.
        """
        c = self.connection
        rows = self._rows
        try:
            with c.wrap_database_errors:
                cursor = c.create_cursor()
                cursor.execute(f"SELECT gid FROM txnfs_decision WHERE gid IN ({', '.join(['%s'] * len(rows))})", list(rows))
                there = {r[0] for r in cursor.fetchall()}
                cursor.close()
                db_rollback()
        except Error:
            return
        self._owed.update({gid: mount for gid, mount in rows.items() if gid in there})
        self._rows = {gid: mount for gid, mount in rows.items() if gid not in there}
        self._in_commit = False
        self._pay()

    def _drop(self) -> None:
        """Roll back. What is in doubt stays for recovery."""
        for tx in self._open.values():
            try:
                if tx.state == ACTIVE:
                    tx.rollback()
            except (OSError, _errors.TransactionError) as e:
                log.warning("txnfs: rollback on %s: %s", tx.mount, e)
        if not self._in_commit:
            for gid, mount in self._rows.items():
                try:
                    _control.rollback_prepared(mount, gid, self.control)
                except _errors.NotFound:
                    pass
                except OSError as e:
                    log.warning("txnfs: rollback on %s is left to recovery: %s", mount, e)
        self._forget()

    def _forget(self) -> None:
        if self._deleting:  # it was rolled back
            with _finished_lock:
                _finished.setdefault(self.connection.alias, deque()).extend(self._deleting)
        self._deleting = []
        self._open = {}
        self._sids = []
        self._rows = {}
        self._in_commit = False

    def closed(self) -> None:
        if any(tx._pid != os.getpid() for tx in self._open.values()):
            # A forked child closes what it has inherited.
            self._forget()
            return
        self._drop()


def own_identity(cursor: Any) -> Optional[str]:
    cursor.execute("SELECT uuid FROM txnfs_identity WHERE id = 1")
    row = cursor.fetchone()
    return row[0] if row else None


def insert_decision(c: Any, cursor: Any, gid: str, mount: str) -> None:
    cursor.execute("INSERT INTO txnfs_decision (gid, mount, created) VALUES (%s, %s, %s)",
                   [gid, mount, c.ops.adapt_datetimefield_value(timezone.now())])
