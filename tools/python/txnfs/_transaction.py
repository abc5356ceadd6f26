"""One transaction, named or ambient: the commands, its view of the tree, and what has become of it."""
from __future__ import annotations

import errno
import os
import pathlib
import secrets
import threading
from typing import IO, Any, List, Optional, Set, Tuple

from . import _control, _errors
from ._control import StrPath

ACTIVE, COMMITTED, ROLLED_BACK, PREPARED, UNKNOWN = "active", "committed", "rolled back", "prepared", "unknown"


def within(directory: str, path: str) -> Optional[str]:
    """path relative to directory ("" for itself), None when it is elsewhere. Both are absolute and without `..`."""
    if path == directory:
        return ""
    head = directory if directory.endswith("/") else directory + "/"
    return path[len(head):] if path.startswith(head) else None


_swept: Set[Tuple[int, str]] = set()  # by this process (after a fork), of this mount


def _own_prefix() -> str:
    """Of the names of this package's transactions: in which pid namespace the process number counts."""
    try:
        return f"py-{os.stat('/proc/self/ns/pid').st_ino}-"
    except OSError:
        return "py-0-"


def _sweep(base: str) -> None:
    """
    Once in a process: a process that was killed after it had made its transaction, and before it had told whose it is, has
    left it. It is empty; the numbers of processes that are alive are left alone.
    """
    key = (os.getpid(), base)
    prefix = _own_prefix()
    if key in _swept or prefix == "py-0-":
        return
    _swept.add(key)
    try:
        for name in os.listdir(base):
            rest = name[len(prefix):].split("-")
            if name.startswith(prefix) and len(rest) == 2 and rest[0].isdigit() and not os.path.exists(f"/proc/{rest[0]}"):
                try:
                    os.rmdir(os.path.join(base, name))
                except OSError:
                    pass  # another user's, or swept by someone else
    except OSError:
        pass


class Transaction:
    """
    A transaction that begins when the object is made. atomic() is the usual way to have one; this is for those who
    hold transactions across calls. It ends with commit(), rollback() or prepare(); a named one is also rolled back
    when the object is garbage and when the process ends, an ambient one when the process ends.

    Threads may share it: commands are carried out one after the other. In a forked child path and open() go on
    working (named), but commands are refused: the transaction is the parent's.
    """

    def __init__(self, mount: StrPath, *, name: Optional[str] = None, ambient: bool = False,
                 isolation: Optional[str] = None, timeout: Optional[float] = None,
                 control: str = _control.CONTROL) -> None:
        self.state = UNKNOWN
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self.mount = _control.find_mount(mount, control)
        self.isolation = isolation or "read committed"
        self._base = os.path.join(self.mount, control)
        words = _control.options(isolation, timeout)
        if ambient:
            if name is not None:
                raise ValueError("name= is of named transactions; an ambient one has none")
            self.name: Optional[str] = None
            self._root = self.mount
            self._ctl = os.path.join(self._base, "ctl")
            self._begin_ambient(words)
            self.state = ACTIVE
        else:
            _sweep(self._base)
            self.name = name or f"{_own_prefix()}{self._pid}-{secrets.token_hex(6)}"
            if "/" in self.name or self.name in (".", ".."):
                raise ValueError(f"name={name!r}: the name of a directory, without slashes")
            self._dir = os.path.join(self._base, self.name)
            self._root = os.path.join(self._dir, "root")
            self._ctl = os.path.join(self._dir, "ctl")
            self._begin_named(words)
        self.state = ACTIVE

    def _begin_ambient(self, words: str) -> None:
        with _control.open_ctl(self._ctl) as f:
            try:
                _control.write(f, "begin" + words)
            except _errors.Error:
                raise
            except BaseException:  # an interrupt: has it begun?
                if _control.answer(f).startswith("ok: began"):
                    _control.write(f, "rollback")
                raise

    def _begin_named(self, words: str) -> None:
        made: List[None] = []
        try:
            try:
                # One call: a signal that comes during mkdir is raised when the list tells that there is a directory.
                made.extend(map(os.mkdir, (self._dir,), (0o700,)))
            except OSError as e:
                raise self._begin_refused(e) from None
            self.state = ACTIVE
            if words:
                _control.command(self._ctl, words)
            try:
                _control.command(self._ctl, f"owner {self._pid}")
            except _errors.Error as e:
                # A process that the daemon cannot see (the daemon is in a container): then it lives until it is ended.
                if e.errno != errno.ESRCH:
                    raise
        except BaseException:
            if made:
                self._remove()
                self.state = ROLLED_BACK
            raise

    def _begin_refused(self, e: OSError) -> OSError:
        number, line = e.errno or 0, ""
        if number in (errno.ENOTCONN, errno.ECONNABORTED):
            return _errors.Disconnected(number, "the txnfs daemon has ended")
        try:
            with open(os.path.join(self._base, "ctl"), encoding="utf-8", errors="replace") as f:
                line = f.read()
        except OSError:
            pass
        if number == errno.EPERM and " is open" in line:
            # The root of a transaction's view: `txnfs run`.
            return _errors.AlreadyInTransaction(errno.EALREADY, f"{self.mount} is the view of a transaction already: "
                                                + line.strip().splitlines()[-1])
        if line.startswith("error: ") and line.split("\n")[0].endswith(f"({errno.errorcode.get(number)})"):
            return _errors.from_answer(number, line)
        return _errors.from_answer(number, f"error: transaction {self.name} on {self.mount} cannot begin: "
                                   f"{os.strerror(number)}")

    def _remove(self) -> None:
        try:
            os.rmdir(self._dir)
        except OSError:
            pass

    def __del__(self) -> None:
        # Nobody can end it any more. An ambient one may be meant to outlive the object: it ends with the process.
        try:
            if self.state == ACTIVE and self.name is not None and self._pid == os.getpid():
                self._remove()
        except (AttributeError, TypeError):  # half made, or at the interpreter's end
            pass

    def __repr__(self) -> str:
        return f"<txnfs transaction {self.name or '(ambient)'} on {self.mount}, {self.state}>"

    # ---- its view ----

    @property
    def ambient(self) -> bool:
        return self.name is None

    @property
    def path(self) -> pathlib.Path:
        """The root of the tree as this transaction sees it."""
        return pathlib.Path(self._root)

    def resolve(self, path: StrPath) -> pathlib.Path:
        """
        Where this transaction has path, which is relative to the mount's root or an absolute path in the mount.
        Symbolic links with absolute targets in the mount are followed within the transaction.
        """
        p = os.fspath(path)
        if os.path.isabs(p):
            p = os.path.normpath(p)
            rel = within(self._root, p)
            if rel is None:
                rel = within(self.mount, p)
            if rel is None:
                rel = within(self.mount, os.path.join(os.path.realpath(os.path.dirname(p)), os.path.basename(p)))
            if rel is None:
                raise ValueError(f"{p} is not in {self.mount}")
        else:
            rel = p
            if os.path.normpath(p).split("/", 1)[0] == "..":
                raise ValueError(f"{p} leads out of {self.mount}")
        at = os.path.join(self._root, rel) if rel else self._root
        if self.name is None:
            return pathlib.Path(at)
        for _ in range(40):
            real = os.path.realpath(at)
            back = within(self.mount, real)
            if back is None or within(self._base, real) is not None:
                return pathlib.Path(at)
            at = os.path.join(self._root, back)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), p)

    def open(self, path: StrPath, mode: str = "r", **kw: Any) -> IO[Any]:
        """The built-in open() in this transaction; path as in resolve()."""
        self._usable()
        try:
            return open(self.resolve(path), mode, **kw)
        except OSError as e:
            better = self.explain(e)
            if better is not None:
                raise better from e
            raise

    def changes(self) -> List[str]:
        """What it has changed: lines as in .txn/NAME/changes (`A new`, `D gone`, `M other`). Named ones only."""
        if self.name is None:
            raise TypeError("an ambient transaction has no list of changes")
        return self._read("changes").splitlines()

    def untouched(self) -> bool:
        """It has changed nothing up to now, not even what was rolled back since. Named ones only."""
        if self.name is None:
            raise TypeError("an ambient transaction has no status of its own")
        return "\noperations: 0\n" in self._read("status")

    def _read(self, name: str) -> str:
        try:
            with open(os.path.join(self._dir, name), encoding="utf-8", errors="surrogateescape") as f:
                return f.read()
        except OSError as e:
            raise _control.ended(e, self._dir) from None

    def explain(self, e: OSError) -> Optional[_errors.Error]:
        """The exception with the daemon's line for an error of a file operation; None when the daemon knows nothing of it."""
        if isinstance(e, _errors.Error) or e.errno not in (errno.EBUSY, errno.EDEADLK, errno.ECANCELED):
            return None
        try:
            with _control.open_ctl(self._ctl) as f:
                line = _control.answer(f).split("\n", 1)[0]
        except OSError:
            return None
        if line.startswith("error: ") and line.endswith(f"({errno.errorcode[e.errno]})"):
            return _errors.from_answer(e.errno, line)
        return None

    # ---- commands ----

    def _usable(self) -> None:
        if self.state != ACTIVE:
            raise _errors.TransactionError(f"{self!r} cannot be used any more")

    def _mine(self) -> None:
        if self._pid != os.getpid():
            raise _errors.TransactionError(f"{self!r} belongs to process {self._pid}, not to its child {os.getpid()}: "
                                           "a child may use path and open(), but not end it or set savepoints")
        self._usable()

    def _command(self, text: str) -> str:
        with self._lock:
            self._mine()
            return _control.command(self._ctl, text)

    def savepoint(self, name: str) -> None:
        self._command(f"savepoint {_control.quote(name)}")

    def rollback_to(self, name: str) -> None:
        """Undo what came after the savepoint, which stays."""
        self._command(f"rollback to {_control.quote(name)}")

    def release(self, name: str) -> None:
        """Forget the savepoint and those behind it. The changes stay."""
        self._command(f"release {_control.quote(name)}")

    def _end(self, text: str, good: str, words: str) -> None:
        """
        commit or prepare. Whatever comes in between, state tells what happened: an interrupt is looked into, and after
        a refusal the daemon is asked whether the transaction is still open.
        """
        with self._lock:
            self._mine()
            with _control.open_ctl(self._ctl) as f:
                try:
                    _control.write(f, text)
                    self.state = good
                except _errors.Disconnected as e:
                    self.state = UNKNOWN
                    raise _errors.OutcomeUnknown(e.errno, f"{e.strerror}, while a {words} was under way: after the next "
                                                 "mount all of it is there, or nothing") from None
                except _errors.Error as e:
                    if e.errno in (errno.EROFS, errno.EIO):
                        self.state = UNKNOWN
                        raise _errors.OutcomeUnknown(e.errno, e.strerror) from None
                    if self._gone(e):
                        self.state = ROLLED_BACK
                    raise
                except BaseException:
                    if _control.answer(f).startswith("ok: " + good):
                        self.state = good
                    raise

    def _gone(self, e: _errors.Error) -> bool:
        """After a refusal: has it been rolled back?"""
        if self.name is not None:
            return not os.path.lexists(self._dir)
        return e.errno in (errno.ECANCELED, errno.EEXIST, errno.ENOTCONN)

    def commit(self) -> None:
        """Durable and visible to all at once. When it fails, state tells whether the transaction is still open."""
        self._end("commit", COMMITTED, "commit")

    def prepare(self, gid: str) -> None:
        """
        First phase of a two-phase commit. The transaction leaves this object, keeps its locks, survives everything, and
        waits for commit_prepared() or rollback_prepared(). One that fails rolls back.
        """
        self._end(f"prepare {_control.quote(gid)}", PREPARED, "prepare")

    def rollback(self) -> None:
        """Nothing of it is left. It does not matter if it has been rolled back by someone else before."""
        with self._lock:
            self._mine()
            try:
                _control.command(self._ctl, "rollback")
            except (_errors.NotInTransaction, _errors.Disconnected):
                pass  # there is nothing any more
            self.state = ROLLED_BACK
