"""
atomic(): blocks with the semantics of Django's. The outermost one on a mount is a transaction, inner ones are savepoints.

Which block code is in is a context variable, so threads and asyncio tasks each have their own. A task (or
asyncio.to_thread) inherits it from where it was started. It may open inner blocks there as long as these are properly
nested, one inside the other in time; two tasks that have inner blocks open side by side would roll back each
other's changes, and get an error instead.

The variable holds references that do not keep a block alive: it lives in the `with` statement. So whatever happens to
that statement's frame, a block that nobody can leave any more is rolled back.
"""
from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import pathlib
import threading
import weakref
from types import TracebackType
from typing import Any, Callable, FrozenSet, List, NamedTuple, NoReturn, Optional, Type, TypeVar, Union, cast

from . import _control, _errors, _guard, _transaction
from ._control import StrPath
from ._transaction import ACTIVE, COMMITTED, Transaction

F = TypeVar("F", bound=Callable[..., Any])


class _Callback(NamedTuple):
    levels: FrozenSet[int]
    fn: Callable[[], Any]
    robust: bool


class AtomicTransaction(Transaction):
    """What `with atomic(...) as tx` gives: the transaction of the outermost block, in inner blocks too."""

    def __init__(self, mount: StrPath, **kw: Any) -> None:
        self._top: Optional["weakref.ref[_Level]"] = None
        self._callbacks: List[_Callback] = []
        self._failed = False
        self._wanted = False  # _failed was set by set_rollback()
        self._serial = 0
        self._in_async = False
        self._guard = True
        super().__init__(mount, **kw)
        self._device = os.stat(self.mount).st_dev

    def set_rollback(self, rollback: bool) -> None:
        """The innermost block will be rolled back, or not, at its end, without an exception."""
        self._mine()
        self._failed = self._wanted = rollback

    def on_commit(self, fn: Callable[[], Any], robust: bool = False) -> None:
        """As txnfs.on_commit(), for this transaction."""
        self._mine()
        if not callable(fn):
            raise TypeError(f"on_commit() needs something that can be called, not {fn!r}")
        if _is_async(fn) and not self._in_async:
            raise TypeError(f"{fn!r} is a coroutine function: it can be called after `async with atomic(...)` only")
        top = self._top() if self._top else None
        self._callbacks.append(_Callback(frozenset(top.numbers()) if top else frozenset(), fn, robust))

    def prepare(self, gid: str) -> None:
        """
        End the transaction here with the first phase of a two-phase commit, in the outermost block. Its outcome is said
        by commit_prepared() or rollback_prepared(), and by nothing else: an exception that leaves the block after this
        does not roll it back.
        """
        with self._lock:
            self._mine()
            top = self._top() if self._top else None
            if top is None or top.outer is not None:
                raise _errors.TransactionError("prepare() inside an inner block: leave it first")
            if self._failed:
                raise _errors.RolledBack("prepare(): an inner block has failed, so that the transaction can only be "
                                         "rolled back")
            if self._callbacks:
                raise _errors.TransactionError("prepare(): there are on_commit() callbacks, and nobody would call them")
            super().prepare(gid)


class _Level:
    """One open block."""

    def __init__(self, tx: AtomicTransaction, outer: Optional[_Level], savepoint: Optional[str], number: int) -> None:
        self.tx = tx
        self.outer = outer  # on the same mount
        self.savepoint = savepoint
        self.number = number
        self.before: Optional[_Ref] = None  # what the context had

    def numbers(self) -> List[int]:
        return [self.number] + (self.outer.numbers() if self.outer else [])


class _Ref:
    """What the context variable holds: enough to tell of a block that is over."""

    def __init__(self, level: _Level, before: Optional[_Ref]) -> None:
        self._level = weakref.ref(level)
        self.before = before
        self.mount = level.tx.mount
        self.device = level.tx._device
        self.pid = level.tx._pid
        self.ambient = level.tx.ambient
        self.thread = threading.get_ident()

    def level(self) -> Optional[_Level]:
        """The block, when it is open and this process's."""
        level = self._level()
        return level if level is not None and level.tx.state == ACTIVE and self.pid == os.getpid() else None

    def is_of(self, level: _Level) -> bool:
        return self._level() is level


_current: contextvars.ContextVar[Optional[_Ref]] = contextvars.ContextVar("txnfs_block", default=None)


def _is_async(fn: Any) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))


def _running_loop() -> bool:
    try:
        asyncio.get_running_loop()
        return True
    except RuntimeError:
        return False


def _here() -> Optional[_Ref]:
    """The context's innermost block, without those that were abandoned here (see the module's text)."""
    ref = _current.get()
    while ref is not None and ref._level() is None and ref.thread == threading.get_ident() and not _running_loop():
        ref = ref.before
        _current.set(ref)
    return ref


def _find(device: int) -> Optional[_Level]:
    ref = _here()
    while ref is not None:
        level = ref.level()
        if level is not None and ref.device == device:
            return level
        ref = ref.before
    return None


def current(mount: Optional[StrPath] = None) -> Optional[AtomicTransaction]:
    """The transaction of the block that the calling code is in, on this mount or on any; None outside."""
    if mount is not None:
        level = _find(os.stat(mount).st_dev)
        return level.tx if level else None
    ref = _here()
    while ref is not None:
        level = ref.level()
        if level is not None:
            return level.tx
        ref = ref.before
    return None


def on_commit(fn: Callable[[], Any], mount: Optional[StrPath] = None, robust: bool = False) -> None:
    """
    Call fn() when the transaction of the innermost block (of the innermost on this mount) has been committed; not at all
    when the block, or one around it, is rolled back. Outside of a block: at once. An exception in fn leaves the
    outermost block, after the commit, and keeps those behind it from being called; with robust=True it is logged.
    """
    tx = current(mount)
    if tx is not None:
        tx.on_commit(fn, robust)
        return
    if not callable(fn):
        raise TypeError(f"on_commit() needs something that can be called, not {fn!r}")
    if _is_async(fn):
        raise TypeError(f"{fn!r} is a coroutine function, and there is no block: await it")
    fn()


def _mark_committed(e: BaseException) -> None:
    try:
        e._txnfs_committed = True  # type: ignore[attr-defined]  # retry() must not run it again
    except AttributeError:
        pass


def _log_callback(fn: Any) -> None:
    import logging
    logging.getLogger("txnfs").exception("error in the on_commit() callback %r", fn)


class atomic:
    """
    with atomic(mount) as tx:             a transaction, or a savepoint inside a block on the same mount
    async with atomic(mount) as tx:       the same; begin and commit do not block the event loop
    @atomic(mount)                        each call of the function, async or not, is a block

    mount may be any path in the mount. The block ends with a commit (or goes on to belong to the outer one); an
    exception rolls back this block alone, and goes on.

    The transaction is a named one: it is seen by tx.open(), tx.path, txnfs.open() and txnfs.path(), from any thread,
    and by nobody else. ambient=True makes it the process's and its children's, who use ordinary paths: for programs
    with one thread. ambient="process": also when there are more, which are then all in it.

    savepoint=False: an inner block without a savepoint; when it fails, the next outer one with a savepoint is rolled
    back. durable=True: an error inside another block. isolation, timeout, name, ambient: of the outermost.
    guard=False: changes by ordinary paths inside a block are not refused.
    """

    def __init__(self, mount: StrPath, *, savepoint: bool = True, durable: bool = False,
                 isolation: Optional[str] = None, timeout: Optional[float] = None, name: Optional[str] = None,
                 ambient: Union[bool, str] = False, guard: bool = True, control: str = _control.CONTROL) -> None:
        if callable(mount):
            raise TypeError("atomic needs the mount: @atomic(\"/mnt/site\")")
        if ambient not in (False, True, "process"):
            raise ValueError(f'ambient={ambient!r}: False, True or "process"')
        _control.options(isolation, timeout)
        self._mount = mount
        self._savepoint = savepoint
        self._durable = durable
        self._isolation = isolation
        self._timeout = timeout
        self._name = name
        self._ambient = ambient
        self._guard = guard
        self._control = control
        self._open: List[_Level] = []  # it keeps them alive

    def _again(self) -> atomic:
        return atomic(self._mount, savepoint=self._savepoint, durable=self._durable, isolation=self._isolation,
                      timeout=self._timeout, name=self._name, ambient=self._ambient, guard=self._guard,
                      control=self._control)

    # ---- begin ----

    def _ambient_allowed(self, is_async: bool) -> None:
        if self._ambient == "process":
            return
        text = ("an ambient transaction is the whole process's, and {}: leave ambient=True out and use tx.open() and "
                'tx.path, or say ambient="process" if all of them are to be in it')
        if is_async or _running_loop():
            raise _errors.TransactionError(text.format("an event loop is running, whose other tasks would be in it"))
        if threading.active_count() > 1:
            raise _errors.TransactionError(text.format("there are other threads, which would be in it"))

    def _begin(self, outer: Optional[_Level], is_async: bool) -> _Level:
        """Blocks; needs no context."""
        if outer is None:
            if self._ambient:
                self._ambient_allowed(is_async)
            tx = AtomicTransaction(self._mount, name=self._name, ambient=bool(self._ambient),
                                   isolation=self._isolation, timeout=self._timeout, control=self._control)
            tx._in_async = is_async
            tx._guard = self._guard
            if self._guard and not tx.ambient:
                _guard.install()
            level = _Level(tx, None, None, 0)
            tx._top = weakref.ref(level)
            return level
        tx = outer.tx
        self._inner_allowed(outer)
        with tx._lock:
            if tx._top is None or tx._top() is not outer:
                raise _errors.TransactionError(
                    f"{tx!r} has an inner block open already, in another task, thread or generator: inner blocks must "
                    "be nested; let each task begin a transaction of its own, outside of this block")
            tx._serial += 1
            savepoint = f"txnfs-{tx._serial}" if self._savepoint and not tx._failed else None
            level = _Level(tx, outer, savepoint, tx._serial)
            if savepoint is not None:
                tx.savepoint(savepoint)
            tx._top = weakref.ref(level)
            return level

    def _inner_allowed(self, outer: _Level) -> None:
        tx = outer.tx
        if self._durable:
            raise _errors.TransactionError("a durable block cannot be inside another one: its end would not be a commit")
        if self._isolation is not None and self._isolation != tx.isolation:
            raise _errors.TransactionError(f"isolation is of the outermost block, which is {tx.isolation}")
        if self._timeout is not None or self._name is not None:
            raise _errors.TransactionError("timeout and name are of the outermost block")
        if self._ambient and not tx.ambient:
            raise _errors.TransactionError("ambient is of the outermost block, which is a named transaction")

    def _outer(self) -> Optional[_Level]:
        return _find(os.stat(_control.find_mount(self._mount, self._control)).st_dev) if _here() is not None else None

    def _enter(self, level: _Level) -> AtomicTransaction:
        self._open.append(level)
        level.before = _current.get()
        _current.set(_Ref(level, level.before))
        return level.tx

    # ---- end ----

    def _leave(self) -> _Level:
        """The block that ends here; the context is in the outer one again."""
        ref = _current.get()
        for level in reversed(self._open):
            if ref is not None and ref.is_of(level):
                _current.set(level.before)
                break
        else:  # a generator that is finished in another context
            level = self._open[-1]
        self._open.remove(level)
        return level

    def _end(self, level: _Level, exc: Optional[BaseException]) -> List[_Callback]:
        """Blocks; needs no context. Returns what is to be called now. Raises instead of exc what says more."""
        tx = level.tx
        with tx._lock:
            if tx._pid != os.getpid():
                if exc is None:
                    tx._mine()
                return []  # the parent's business
            if tx.state != ACTIVE:
                return self._end_of_ended(level, exc)
            better = tx.explain(exc) if isinstance(exc, OSError) else None
            try:
                done = self._end_active(level, exc is not None)
            except Exception as e:
                if exc is None:
                    raise
                e.__context__ = exc
                raise
            if better is not None:
                raise better from exc
            return done

    @staticmethod
    def _end_of_ended(level: _Level, exc: Optional[BaseException]) -> List[_Callback]:
        tx = level.tx
        tx._top = weakref.ref(level.outer) if level.outer else None
        if exc is None and tx.state not in (_transaction.PREPARED, COMMITTED):
            raise _errors.RolledBack(f"{tx!r} has ended before its block")
        if exc is None and tx.state == COMMITTED and level.outer is None:
            done, tx._callbacks = tx._callbacks, []
            return done
        return []

    def _end_active(self, level: _Level, failed: bool) -> List[_Callback]:
        tx = level.tx
        stray = tx._top is None or tx._top() is not level
        wanted = tx._wanted
        if level.outer is None:
            return self._end_outermost(level, failed, stray)
        if stray:
            # Inner blocks of others are open, whose savepoints are behind this one's.
            tx._failed = True
            self._rolled_back(failed, "a block was still open inside it, in another task, thread or generator")
        tx._top = weakref.ref(level.outer)
        if not failed and not tx._failed:
            if level.savepoint is not None:
                try:
                    tx.release(level.savepoint)
                except BaseException:
                    try:
                        self._undo(level)
                    except Exception:  # nobody knows whether the savepoint is still there: the outer block is marked
                        pass
                    raise
            return []
        marked, tx._failed, tx._wanted = tx._failed, False, False
        if level.savepoint is None:
            tx._failed, tx._wanted = True, wanted
            return []
        self._undo(level)
        if marked and not wanted:
            self._rolled_back(failed, "an inner block without a savepoint has failed")
        return []

    @staticmethod
    def _rolled_back(failed: bool, why: str) -> None:
        if not failed:
            raise _errors.RolledBack(f"the block has been rolled back: {why}")

    @staticmethod
    def _undo(level: _Level) -> None:
        tx = level.tx
        tx._callbacks = [c for c in tx._callbacks if level.number not in c.levels]
        assert level.savepoint is not None
        try:
            tx.rollback_to(level.savepoint)
            tx.release(level.savepoint)
        except BaseException:
            tx._failed, tx._wanted = True, False
            raise

    def _end_outermost(self, level: _Level, failed: bool, stray: bool) -> List[_Callback]:
        tx = level.tx
        marked, wanted = tx._failed, tx._wanted
        try:
            if not failed and not marked and not stray:
                tx.commit()
                done, tx._callbacks = tx._callbacks, []
                return done
        finally:
            tx._top = None
            if tx.state == ACTIVE:
                tx.rollback()
        if stray:
            self._rolled_back(failed, "a block was still open inside it, in another task, thread or generator")
        if marked and not wanted:
            self._rolled_back(failed, "an inner block without a savepoint has failed")
        return []

    # ---- with ----

    def __enter__(self) -> AtomicTransaction:
        return self._enter(self._begin(self._outer(), False))

    def __exit__(self, kind: Optional[Type[BaseException]], exc: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        for c in self._end(self._leave(), exc):
            try:
                c.fn()
            except BaseException as e:
                if not c.robust or not isinstance(e, Exception):
                    _mark_committed(e)
                    raise
                _log_callback(c.fn)

    # ---- async with ----

    async def __aenter__(self) -> AtomicTransaction:
        outer = self._outer()
        began: List[_Level] = []

        def begin() -> None:
            began.append(self._begin(outer, True))
        try:
            await _in_thread(begin)
        except BaseException:
            if began:  # cancelled meanwhile
                level = began.pop()
                await _in_thread(lambda: self._drop(level))
            raise
        return self._enter(began.pop())

    def _drop(self, level: _Level) -> None:
        self._end(level, asyncio.CancelledError())

    async def __aexit__(self, kind: Optional[Type[BaseException]], exc: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        level = self._leave()
        done: List[_Callback] = []

        def end() -> None:
            done.extend(self._end(level, exc))
        try:
            await _in_thread(end)
        except asyncio.CancelledError as e:
            if level.tx.state == COMMITTED:
                _mark_committed(e)
            raise
        for c in done:
            try:
                r = c.fn()
                if inspect.isawaitable(r):
                    await r
            except BaseException as e:
                if not c.robust or not isinstance(e, Exception):
                    _mark_committed(e)
                    raise
                _log_callback(c.fn)

    # ---- decorator ----

    def __call__(self, fn: F) -> F:
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"{fn.__qualname__} is a generator function: the block would end before its body runs; "
                            "use `with atomic(...)` inside, or around the loop")
        if _is_async(fn):
            @functools.wraps(fn)
            async def in_async_block(*args: Any, **kw: Any) -> Any:
                async with self._again():
                    return await fn(*args, **kw)
            return cast(F, in_async_block)

        @functools.wraps(fn)
        def in_block(*args: Any, **kw: Any) -> Any:
            with self._again():
                return fn(*args, **kw)
        return cast(F, in_block)


async def _in_thread(fn: Callable[[], None]) -> None:
    """
    Run fn in a thread of its own and wait for it to the end, also when the task is cancelled meanwhile; the
    cancellation comes then. Not in the loop's executor: its threads may all be waiting for what fn is to give free.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(e: Optional[BaseException]) -> None:
        if not done.done():
            if e is None:
                done.set_result(None)
            else:
                done.set_exception(e)

    def run() -> None:
        error: Optional[BaseException] = None
        try:
            fn()
        except BaseException as e:
            error = e
        try:
            loop.call_soon_threadsafe(tell, error)
        except RuntimeError:  # the loop is closed
            pass
    threading.Thread(target=run, name="txnfs", daemon=True).start()
    cancelled: Optional[asyncio.CancelledError] = None
    while not done.done():
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError as e:
            cancelled = e
        except BaseException:
            if not done.done():  # the coroutine is closed; the thread comes to its end without it
                raise
            break
    error = done.exception()
    if error is not None:
        raise error
    if cancelled is not None:
        raise cancelled


def path(p: Union[StrPath, bytes]) -> pathlib.Path:
    """
    Where the calling code has to look for p: in the transaction of the block that it is in, if p lies in its mount; else p
    itself. Inside, it is a path that any thread and child process may use until the transaction ends.
    """
    ref = _here()
    name = os.fsdecode(p)
    if ref is None:
        return pathlib.Path(name)
    at = os.path.abspath(name)
    for candidate in (at, os.path.join(os.path.realpath(os.path.dirname(at)), os.path.basename(at))):
        at_ref: Optional[_Ref] = ref
        while at_ref is not None:
            if _transaction.within(at_ref.mount, candidate) is not None:
                level = at_ref.level()
                if level is not None:
                    return level.tx.resolve(candidate)
                if at_ref.ambient and at_ref.pid != os.getpid():
                    return pathlib.Path(name)  # a child is a member
                _refuse_ended(at_ref, name)
            at_ref = at_ref.before
    return pathlib.Path(name)


def _refuse_ended(ref: _Ref, name: str) -> NoReturn:
    if ref.pid != os.getpid():
        raise _errors.TransactionError(f"{name}: this process was forked inside a block of its parent, which it is not in: "
                                       "use the parent's tx.open(), or a block of its own")
    raise _errors.TransactionError(f"{name}: the transaction in which this task was started has ended")


def open_(file: Union[StrPath, bytes, int], mode: str = "r", *args: Any, **kw: Any) -> Any:
    """The built-in open() for a path(): in the transaction of the block that the calling code is in."""
    if isinstance(file, int) or _current.get() is None:
        return open(file, mode, *args, **kw)
    try:
        return open(path(file), mode, *args, **kw)
    except OSError as e:
        tx = current()
        better = tx.explain(e) if tx is not None else None
        if better is not None:
            raise better from e
        raise
