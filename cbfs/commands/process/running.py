"""How a program runs what waits for others, and ends with one error in place of several."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

from cbfs_common.errors import CbfsError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run(work: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
    """Run as ``trio.run`` does, and raise the first of our errors, else of the system's, in place
    of the group that nurseries make; KeyboardInterrupt whatever it has met on its way."""
    try:
        return trio.run(work, *arguments)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            raise KeyboardInterrupt from None
        if group.subgroup(lambda e: not _expected(e)) is not None:
            raise
        error: BaseException = group.subgroup(CbfsError) or group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def _expected(error: BaseException) -> bool:
    return isinstance(error, CbfsError | OSError | BaseExceptionGroup)
