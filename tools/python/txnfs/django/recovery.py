"""
What a crash between the two commits has left: files that are prepared under a GID of this database.

A row with that GID says that they are committed. Without one they are rolled back, but only when nobody can commit that row
any more: the transaction may be alive in another process, or its COMMIT under way in the server after its process has died. It
had inserted the row before it prepared, so we try to insert the same row. The database lets us do that only when the other
transaction has ended: PostgreSQL makes us wait for it, SQLite has one writer. Whoever is told to wait leaves the transaction alone.
"""
from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Set

from django.db.utils import IntegrityError, OperationalError

from .. import _control, _errors
from .files import PREFIX, insert_decision, own_identity

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

log = logging.getLogger("txnfs.django")

COMMITTED, ROLLED_BACK, ALIVE, FOREIGN = "committed", "rolled back", "alive", "of another database"


class Resolved(NamedTuple):
    mount: str
    gid: str
    outcome: str


def _in_doubt(c: Any, min_age: float) -> List[Resolved]:
    found = []
    for mount in c.txnfs.mounts:
        try:
            for p in _control.prepared(mount, c.txnfs.control):
                if p.gid.startswith(PREFIX) and time.time() - p.time.timestamp() >= min_age:
                    found.append(Resolved(mount, p.gid, ""))
        except OSError as e:
            log.warning("txnfs: %s: cannot look for prepared transactions: %s", mount, e)
    return found


def recover(connection: BaseDatabaseWrapper, wait: bool = True, dry: bool = False,
            min_age: float = 0) -> List[Resolved]:
    """
    Resolve what is left of this database's transactions on its mounts. wait: up to the database's own timeout for a
    transaction that is alive; else not at all. dry: only tell what would be done. min_age: of the preparation, in seconds.
    """
    c: Any = connection
    found = _in_doubt(c, min_age)
    if not found:
        return []
    if c.connection is not None and (c.in_atomic_block or not c.autocommit):
        return _beside(c, found, wait, dry)
    c.ensure_connection()
    return _resolve(c, found, wait, dry)


def _beside(c: Any, found: List[Resolved], wait: bool, dry: bool) -> List[Resolved]:
    """On a connection of its own: the transaction under way is not to take locks, or see a snapshot, for this."""
    if c.vendor == "sqlite" and c.is_in_memory_db():
        return []  # nothing in it has survived anything
    other = c.copy()
    other.txnfs._recovering = True
    try:
        other.ensure_connection()
        return _resolve(other, found, wait, dry)
    finally:
        other.close()


def _resolve(c: Any, found: List[Resolved], wait: bool, dry: bool) -> List[Resolved]:
    with c.cursor() as cursor:
        identity = own_identity(cursor)
    out = []
    for mount, gid, _ in found:
        if identity is None or not gid.startswith(f"{PREFIX}{identity}-"):
            out.append(Resolved(mount, gid, FOREIGN))
            continue
        outcome = _outcome(c, gid, wait)
        if outcome in (COMMITTED, ROLLED_BACK) and not dry:
            try:
                if outcome == COMMITTED:
                    _control.commit_prepared(mount, gid, c.txnfs.control)
                else:
                    _control.rollback_prepared(mount, gid, c.txnfs.control)
                log.warning("txnfs: %s: the files of an interrupted transaction were %s (%s)", mount, outcome, gid)
            except _errors.NotFound:
                pass  # someone else was faster
            except OSError as e:
                log.warning("txnfs: %s: an interrupted transaction (%s) should be %s: %s", mount, gid, outcome, e)
                outcome = f"should be {outcome}: {e.strerror}"
        out.append(Resolved(mount, gid, outcome))
    return out


def _outcome(c: Any, gid: str, wait: bool) -> str:
    """c is in no transaction."""
    before: Optional[int] = None
    autocommit = c.autocommit
    if not wait and c.vendor == "sqlite":
        with c.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout")
            before = cursor.fetchone()[0]
            cursor.execute("PRAGMA busy_timeout = 0")
    try:
        c.set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)
        with c.cursor() as cursor:
            cursor.execute("SELECT 1 FROM txnfs_decision WHERE gid = %s", [gid])
            if cursor.fetchone():
                return COMMITTED
            if not wait and c.vendor == "postgresql":
                cursor.execute("SET LOCAL lock_timeout TO '1ms'")
            insert_decision(c, cursor, gid, "")
        return ROLLED_BACK
    except IntegrityError:
        return COMMITTED
    except OperationalError:
        return ALIVE
    finally:
        c.rollback()  # the row too
        c.set_autocommit(autocommit)
        if before is not None:
            with c.cursor() as cursor:
                cursor.execute(f"PRAGMA busy_timeout = {int(before)}")


def purge(connection: BaseDatabaseWrapper, days: float) -> int:
    """
    Delete rows that are older than so many days and whose files are not prepared any more: crashes leave some. The mounts must be
    the right ones: a row that goes while its files wait on another disk would roll these back.
    """
    from datetime import timedelta

    from django.utils import timezone
    c: Any = connection
    with c.cursor() as cursor:
        cursor.execute("SELECT gid, mount FROM txnfs_decision WHERE created < %s",
                       [c.ops.adapt_datetimefield_value(timezone.now() - timedelta(days=days))])
        rows = cursor.fetchall()
    # After the rows: what is committed in the database and not here was prepared before.
    prepared: Dict[str, Optional[Set[str]]] = {}
    for _, mount in rows:
        if mount not in prepared:
            try:
                prepared[mount] = {p.gid for p in _control.prepared(mount, c.txnfs.control)}
            except OSError:
                prepared[mount] = None
    count = 0
    for gid, mount in rows:
        known = prepared[mount]
        if known is not None and gid not in known:
            with c.cursor() as cursor:
                cursor.execute("DELETE FROM txnfs_decision WHERE gid = %s", [gid])
                count += 1
    return count
