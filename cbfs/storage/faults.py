"""Faults of this program, where it works on what others have made.

Whatever somebody sends may meet an error that nobody thought of, of any class. Work that is fed
from outside is done under ``contained``: such an error comes out as a ``ProgramFault``, one of our
own errors, which the loop around it goes on after as after every other. It is logged by its class
and place, without its text: that may hold a name or a word of a message.
"""

import logging
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from cbfs_common.errors import CbfsError
from cbfs_host.complaints import StoreError

REPEATS_MAX = 8
"""How often one fault is logged: who can bring it about can do so for ever."""

PLACES_MAX = 256
"""Different faults that are logged."""

FRAMES_MAX = 64
"""Innermost calls that are logged of one: a recursion has thousands."""

_log = logging.getLogger(__name__)
_logged: Counter[str] = Counter()


class ProgramFault(CbfsError):
    """Something went wrong that none of our errors stands for."""

    def __init__(self) -> None:
        super().__init__("a fault of this program, which its log describes", "please report it")


@contextmanager
def contained() -> Iterator[None]:
    """What is raised within comes out as CbfsError, or as what is no fault: cancellation, and the
    end of the program. Of several errors side by side one of the store comes first."""
    try:
        yield
    except CbfsError:
        raise
    except Exception as error:
        raise _sorted_out(error) from error
    except BaseExceptionGroup as group:  # beside a cancellation, which goes on
        faults, rest = group.split(Exception)
        if faults is not None:
            _sorted_out(faults)
        if rest is None:
            raise
        raise rest from None


@contextmanager
def unharmed() -> Iterator[None]:
    """A fault within is logged, and what follows goes on. Errors of ours come out."""
    with suppress(ProgramFault), contained():
        yield


def _nobody() -> None:
    """Nobody is told."""


@contextmanager
def harmless(failed: Callable[[], None] = _nobody) -> Iterator[None]:
    """Whatever error is raised within, of ours as well, is logged, ``failed`` is called, and what
    follows goes on: for what no caller is there to handle."""
    try:
        with contained():
            yield
    except CbfsError as error:
        if isinstance(error, StoreError):
            _log.error("%s", error.in_full)
        elif not isinstance(error, ProgramFault):  # which is logged
            log_fault(error)
        failed()


class Tasks:
    """Tasks in a nursery, none of which ends the others by an error; ``failed`` is told then."""

    def __init__(self, nursery: trio.Nursery, failed: Callable[[], None]) -> None:
        self._nursery = nursery
        self._failed = failed

    def start_soon(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Start a task in the nursery; an error of it is logged, and ends nothing else."""
        self._nursery.start_soon(self._run, task, arguments)

    async def _run(
        self, task: Callable[..., Awaitable[None]], arguments: tuple[object, ...]
    ) -> None:
        with harmless(self._failed):
            await task(*arguments)


def _sorted_out(error: Exception) -> CbfsError:
    """The error of ours that stands for this one, which is logged if it is a fault."""
    ours: list[CbfsError] = []
    others: list[Exception] = []
    for each in _leaves(error):
        if isinstance(each, CbfsError):
            ours.append(each)
        else:
            others.append(each)
    for other in others:
        log_fault(other)
    for each in ours:
        if isinstance(each, StoreError):
            return each
    return ProgramFault() if others else ours[0]


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def log_fault(error: BaseException) -> None:
    """Log where an error came from, and its class."""
    text = _described(error)
    if text not in _logged and len(_logged) >= PLACES_MAX:
        return
    _logged[text] += 1
    if _logged[text] <= REPEATS_MAX:
        _log.error("a fault of this program:\n%s", text)


def _described(error: BaseException) -> str:
    """The traceback of an error and of what led to it, without any text of theirs."""
    lines: list[str] = []
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        lines.append(f"{type(now).__module__}.{type(now).__qualname__}")
        frames = traceback.extract_tb(now.__traceback__)[-FRAMES_MAX:]
        lines += [f"  {Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames)]
        now = now.__cause__ or now.__context__
    return "\n".join(lines)
