"""What can go wrong, as exceptions. Each carries the daemon's own line, which says what was in the way and what to do."""
from __future__ import annotations

import errno
import os
from typing import Dict, Type


class TransactionError(RuntimeError):
    """The program uses transactions in a way that cannot work; nothing was committed by it."""


class RolledBack(TransactionError):
    """
    A block ended without an exception and was rolled back all the same, because an inner block without a savepoint had
    failed, or because a block of another task was still open in it.
    """


class OutsideTransaction(TransactionError):
    """A change by an ordinary path, inside a block, would have gone around the transaction."""


class Error(OSError):
    """The filesystem refused something. errno is the number, strerror the daemon's line."""


class Conflict(Error):
    """EBUSY: another transaction, or program, has changed the same thing and did not end within the timeout."""


class Deadlock(Error):
    """EDEADLK: whoever is in the way waits for this transaction."""


class SerializationFailure(Error):
    """ECANCELED: another one was faster. The transaction has been rolled back, or can only be rolled back: try again."""


class NotInTransaction(Error):
    """ENOTCONN: the transaction has ended, by someone else or by a timeout. Nothing of it was committed."""


class AlreadyInTransaction(Error):
    """EALREADY: this process is in a transaction that it does not know, of a parent or of `txnfs run`."""


class NotFound(Error):
    """ENOENT: no such savepoint, or nothing prepared by that name."""


class NotMounted(NotFound):
    """ENOENT: there is no txnfs mount."""


class InUse(Error):
    """EEXIST: the name, or the GID, is taken."""


class LimitExceeded(Error):
    """EUSERS, EDQUOT: too many transactions, or too much log, for this user."""


class NoSpace(Error):
    """ENOSPC."""


class ReadOnly(Error):
    """EROFS: the mount is read-only after an error, which the line names."""


class NotPermitted(Error):
    """EACCES, EPERM: the transaction is another user's."""


class NotSupported(Error):
    """EOPNOTSUPP: for example a level of isolation in an ambient transaction."""


class Disconnected(Error):
    """The daemon has ended. What was not committed is lost; open transactions are rolled back."""


class OutcomeUnknown(Disconnected):
    """
    The daemon ended, or the disk failed, while it committed or prepared. The log knows whether it did: after the next
    mount the files show all of it, or nothing.
    """


_BY_ERRNO: Dict[int, Type[Error]] = {
    errno.EBUSY: Conflict,
    errno.EDEADLK: Deadlock,
    errno.ECANCELED: SerializationFailure,
    errno.ENOTCONN: NotInTransaction,
    errno.EALREADY: AlreadyInTransaction,
    errno.ENOENT: NotFound,
    errno.EEXIST: InUse,
    errno.EUSERS: LimitExceeded,
    errno.EDQUOT: LimitExceeded,
    errno.ENOSPC: NoSpace,
    errno.EROFS: ReadOnly,
    errno.EACCES: NotPermitted,
    errno.EPERM: NotPermitted,
    errno.EOPNOTSUPP: NotSupported,
}


def from_answer(number: int, answer: str) -> Error:
    """The exception for a refused command; answer is what ctl says, "" when it says nothing any more."""
    line = answer.split("\n", 1)[0]
    if not line.startswith("error: "):
        if number in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
            return Disconnected(number, "the txnfs daemon has ended")
        return _BY_ERRNO.get(number, Error)(number, os.strerror(number))
    line = line[len("error: "):]
    name = f" ({errno.errorcode.get(number, '')})"
    if line.endswith(name):
        line = line[:-len(name)]
    return _BY_ERRNO.get(number, Error)(number, line)
