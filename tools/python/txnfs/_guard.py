"""
Changes by ordinary paths inside a block would go around its transaction without a sign. Python tells of such calls
before it makes them (PEP 578), so they are refused. It cannot see everything: extensions in C and other programs.
"""
from __future__ import annotations

import os
import sys
from typing import Any, Dict, Tuple

from . import _errors

# Which arguments are paths that the call changes.
_EVENTS: Dict[str, Tuple[int, ...]] = {
    "open": (0,), "os.remove": (0,), "os.rename": (0, 1), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (1,),
    "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,),
    "os.setxattr": (0,), "os.removexattr": (0,),
}
# Which argument is the directory that a relative path is relative to; -1 in it: the working directory.
_DIR_FD: Dict[str, int] = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.rename": 2, "os.chmod": 2, "os.chown": 3,
                           "os.utime": 3, "os.link": 2, "os.symlink": 2}
_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_installed = False


def install() -> None:
    """Once for the process: there is no way to take such a hook away. Outside of blocks it costs a look."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)


def _hook(event: str, args: Tuple[Any, ...]) -> None:
    which = _EVENTS.get(event)
    if which is None:
        return
    from ._atomic import _current
    ref = _current.get(None)
    if ref is None or (event == "open" and not (isinstance(args[2], int) and args[2] & _CHANGES)):
        return
    dir_fd = args[_DIR_FD[event]] if event in _DIR_FD and len(args) > _DIR_FD[event] else -1
    for i in which:
        if isinstance(args[i], int):
            continue
        try:
            p = os.fsdecode(args[i])
            if dir_fd != -1 and not os.path.isabs(p):
                continue
            p = os.path.abspath(p)
        except (OSError, TypeError, ValueError):
            continue
        _check(ref, event, p)


def _check(ref: Any, event: str, p: str) -> None:
    while ref is not None:
        if p.startswith(ref.mount + "/"):
            level = ref.level()
            if level is None:
                return
            tx = level.tx
            if tx._guard and not tx.ambient and not p.startswith(tx._base + "/") and "/__pycache__/" not in p:
                raise _errors.OutsideTransaction(
                    f"{event} of {p} inside a block would go around {tx!r}: use txnfs.open(), txnfs.path(), tx.open() or "
                    "tx.path; or say atomic(..., guard=False) if that is meant, or ambient=True for ordinary paths")
            return
        ref = ref.before
