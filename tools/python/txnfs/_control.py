"""The control files: where they are, commands and answers. txnfs-control(5) is the reference."""
from __future__ import annotations

import errno
import io
import os
import re
import stat
from datetime import datetime, timezone
from typing import List, NamedTuple, Optional, Union

from . import _errors

CONTROL = ".txn"

StrPath = Union[str, "os.PathLike[str]"]


def find_mount(path: StrPath, control: str = CONTROL) -> str:
    """The mount point, or the root of the view, that path is in: the nearest directory upwards with control files."""
    start = os.path.realpath(os.fspath(path))
    at = start
    while True:
        try:
            if stat.S_ISREG(os.lstat(os.path.join(at, control, "ctl")).st_mode):
                return at
        except OSError as e:
            if e.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                raise _errors.Disconnected(e.errno, f"the txnfs daemon of {at} has ended") from None
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
        up = os.path.dirname(at)
        if up == at:
            raise _errors.NotMounted(errno.ENOENT, f"{start} is not in a txnfs mount (there is no {control}/ctl): "
                                   "mount it, or say control= if the mount has another name for it")
        at = up


def quote(name: str) -> str:
    """A savepoint or a GID as the commands have it."""
    if not name:
        raise ValueError("a name must not be empty")
    return '"' + name.replace('"', '""') + '"'


def answer(f: io.FileIO) -> str:
    """What ctl tells on this descriptor; "" when nobody answers."""
    try:
        return os.pread(f.fileno(), 65536, 0).decode("utf-8", "replace")
    except OSError:
        return ""


def ended(e: OSError, path: str) -> _errors.Error:
    """The exception for a transaction's control file that cannot be opened."""
    if e.errno == errno.ENOENT:
        return _errors.NotInTransaction(errno.ENOTCONN, f"{path} is not there any more: the transaction was ended by someone "
                                        "else, by a timeout or with the mount, and nothing of it was committed")
    if e.errno in (errno.ENOTCONN, errno.ECONNABORTED):
        return _errors.Disconnected(e.errno, "the txnfs daemon has ended")
    return _errors.from_answer(e.errno or 0, f"error: {path}: {e.strerror}")


def open_ctl(path: str) -> io.FileIO:
    """An object, no number, so that an interrupt between two steps does not leave a descriptor behind."""
    try:
        return io.FileIO(path, "r+")
    except OSError as e:
        raise ended(e, path) from None


def write(f: io.FileIO, text: str) -> str:
    """Carry out commands; the first line of the answer is returned."""
    try:
        os.write(f.fileno(), text.encode("utf-8", "surrogateescape"))
    except OSError as e:
        raise _errors.from_answer(e.errno or 0, answer(f)) from None
    return answer(f).split("\n", 1)[0]


def command(path: str, text: str) -> str:
    with open_ctl(path) as f:
        return write(f, text)


class Prepared(NamedTuple):
    """A prepared transaction, as .txn/prepared lists it."""
    gid: str
    uid: int
    time: datetime
    changes: int


_ESCAPE = re.compile(rb'\\([0-7]{1,3}|x[0-9a-fA-F]{2}|.)', re.S)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"e": b"\x1b"}


def unquote(field: bytes) -> str:
    """A name that stands as it is, or in double quotes with the escapes of C."""
    def one(m: "re.Match[bytes]") -> bytes:
        x = m.group(1)
        if x[:1].isdigit():
            return bytes([int(x, 8) & 0xff])
        if x[:1] == b"x" and len(x) == 3:
            return bytes([int(x[1:], 16)])
        return _LETTERS.get(x, x)
    if len(field) >= 2 and field[:1] == field[-1:] == b'"':
        field = _ESCAPE.sub(one, field[1:-1])
    return field.decode("utf-8", "surrogateescape")


def parse_prepared(text: bytes) -> List[Prepared]:
    out = []
    for line in text.splitlines():
        gid, uid, when, changes = line.split(b"\t")
        at = datetime.strptime(when.decode(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        out.append(Prepared(unquote(gid), int(uid), at, int(changes)))
    return out


def prepared(mount: StrPath, control: str = CONTROL) -> List[Prepared]:
    """What is prepared on the mount and waits for its outcome."""
    path = os.path.join(find_mount(mount, control), control, "prepared")
    try:
        with open(path, "rb") as f:
            return parse_prepared(f.read())
    except OSError as e:
        if e.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise _errors.Disconnected(e.errno, "the txnfs daemon has ended") from None
        raise


def _resolve(mount: StrPath, verb: str, gid: str, control: str) -> None:
    command(os.path.join(find_mount(mount, control), control, "ctl"), f"{verb} prepared {quote(gid)}")


def commit_prepared(mount: StrPath, gid: str, control: str = CONTROL) -> None:
    """Commit what was prepared as gid: from any process of its user, or of root, now or after any number of mounts."""
    _resolve(mount, "commit", gid, control)


def rollback_prepared(mount: StrPath, gid: str, control: str = CONTROL) -> None:
    """Roll back what was prepared as gid."""
    _resolve(mount, "rollback", gid, control)


def options(isolation: Optional[str], timeout: Optional[float]) -> str:
    """The words of `begin` and of a named transaction's ctl."""
    out = ""
    if isolation is not None:
        if isolation not in ("read committed", "serializable", "snapshot"):
            raise ValueError(f'isolation={isolation!r}: "read committed", "serializable" or "snapshot"')
        out += f" isolation {isolation}"
    if timeout is not None:
        if not 0 <= timeout < 1e9:
            raise ValueError(f"timeout={timeout!r}: seconds, not negative; 0: do not wait")
        out += f" timeout {timeout:.3f}"
    return out
