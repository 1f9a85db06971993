"""Group commit: all changes that wait are applied in one transaction, in a thread."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

W = TypeVar("W")
T = TypeVar("T")


class Pending(Generic[W, T]):
    """A change that waits for its transaction, and what came of it."""

    __slots__ = ("change", "done", "error", "result")

    def __init__(self, change: Callable[[W], T]) -> None:
        self.change = change
        self.done = trio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def outcome(self) -> T:
        """What the change has returned. Raises what it has raised."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # set when there is no error


class GroupCommit(Generic[W]):
    """``transact`` applies the changes of a group in one transaction and sets their results.
    Raises what a change raises, and then nothing is applied; an error of the store itself is one
    of ``broken``, and is told to the whole group."""

    def __init__(
        self,
        transact: Callable[[list[Pending[W, Any]]], None],
        broken: type[Exception],
    ) -> None:
        self._transact = transact
        self._broken = broken
        self._waiting: list[Pending[W, Any]] = []
        self._wake = trio.Event()
        self._draining = trio.Lock()
        self._over = False

    def write(self, change: Callable[[W], T]) -> T:
        """Apply one change now, in this thread."""
        pending = Pending(change)
        self._apply([pending])
        return pending.outcome()

    async def commit(self, change: Callable[[W], T]) -> T:
        """Wait until it is applied, which nothing cancels. When ``run`` has ended it is applied
        all the same: so what is kept at the end is, when something else has failed before."""
        pending = Pending(change)
        self._waiting.append(pending)
        self._wake.set()
        with trio.CancelScope(shield=True):
            if self._over:
                await self._drain()
            await pending.done.wait()
        return pending.outcome()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Apply what waits, until cancelled, and then until nothing waits."""
        task_status.started()
        try:
            while True:
                await self._wake.wait()
                await self._drain()
        finally:
            self._over = True
            await self._drain()

    async def _drain(self) -> None:
        """Nothing cancels it: who waits for a group that was taken would wait for ever."""
        with trio.CancelScope(shield=True):
            async with self._draining:
                while self._waiting:
                    group, self._waiting = self._waiting, []
                    try:
                        await trio.to_thread.run_sync(self._apply, group)
                    except RuntimeError:  # no thread can be started
                        self._apply(group)
                    for pending in group:
                        pending.done.set()
                self._wake = trio.Event()

    def _apply(self, group: list[Pending[W, Any]]) -> None:
        """One transaction for the group; when a change raises, each gets its own."""
        try:
            self._transact(group)
        except BaseException as error:
            if len(group) == 1 or isinstance(error, self._broken):
                for pending in group:
                    pending.error = error
                return
            for pending in group:
                self._apply([pending])
