"""Trying again after failures that are nobody's fault."""
from __future__ import annotations

import asyncio
import functools
import inspect
import random
import time
from typing import Any, Callable, Optional, Tuple, Type, TypeVar, Union, cast, overload

from . import _errors
from ._atomic import _is_async, current

F = TypeVar("F", bound=Callable[..., Any])


@overload
def retry(fn: F) -> F: ...


@overload
def retry(fn: None = None, *, attempts: int = 10, on: Tuple[Type[BaseException], ...] = ..., delay: float = 0.01,
          max_delay: float = 1.0) -> Callable[[F], F]: ...


def retry(fn: Optional[F] = None, *, attempts: int = 10,
          on: Tuple[Type[BaseException], ...] = (_errors.SerializationFailure, _errors.Deadlock),
          delay: float = 0.01, max_delay: float = 1.0) -> Union[F, Callable[[F], F]]:
    """
    A decorator, above @atomic or around a function with a block of its own: call it again, up to attempts times in all,
    when it ends with one of these exceptions, after a pause that doubles from delay to max_delay seconds (a random part
    of it, so that two do not meet again). Called inside a block it calls once: only the outermost can be tried
    again. What was committed is never run again: an exception of an on_commit() callback goes through.
    """
    if attempts < 1:
        raise ValueError(f"attempts={attempts}: at least 1")

    def decorate(fn: F) -> F:
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"{fn.__qualname__} is a generator function: it cannot be called again")

        def last(attempt: int, e: BaseException) -> bool:
            return attempt >= attempts or getattr(e, "_txnfs_committed", False) or current() is not None

        def pause(attempt: int) -> float:
            return random.uniform(0, min(max_delay, delay * 2.0 ** min(attempt, 30)))

        if _is_async(fn):
            @functools.wraps(fn)
            async def again_async(*args: Any, **kw: Any) -> Any:
                attempt = 1
                while True:
                    try:
                        return await fn(*args, **kw)
                    except on as e:
                        if last(attempt, e):
                            raise
                    await asyncio.sleep(pause(attempt))
                    attempt += 1
            return cast(F, again_async)

        @functools.wraps(fn)
        def again(*args: Any, **kw: Any) -> Any:
            attempt = 1
            while True:
                try:
                    return fn(*args, **kw)
                except on as e:
                    if last(attempt, e):
                        raise
                time.sleep(pause(attempt))
                attempt += 1
        return cast(F, again)
    return decorate if fn is None else decorate(fn)
