"""Group commit: all changes that wait are applied in one transaction, in a thread.

A change that nobody waits for rides with the next group, before all others of it: so whatever is
decided there is decided with it in mind. When none comes in time, it is a group by itself.
"""

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

W = TypeVar("W")
T = TypeVar("T")

PUT_OFF = 1.0
"""Seconds for which a change that nobody waits for is put off, at most: so long a crash may take
it back."""


class Pending(Generic[W, T]):
    """A change that waits for its transaction, and what came of it."""

    __slots__ = ("alone", "change", "done", "error", "result")

    def __init__(self, change: Callable[[W], T], *, alone: bool = False) -> None:
        """``alone``: nothing is to ride with it."""
        self.change = change
        self.alone = alone
        self.done = trio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def outcome(self) -> T:
        """What the change has returned. Raises what it has raised."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # set when there is no error

    async def settled(self) -> T:
        """What the change has returned, when it is on the disk. Raises what it has raised."""
        await self.done.wait()
        return self.outcome()


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
        self._riding: list[Pending[W, Any]] = []
        self._due = math.inf
        self._wake = trio.Event()
        self._draining = trio.Lock()
        self._over = False

    def write(self, change: Callable[[W], T]) -> T:
        """Apply one change now, in this thread."""
        pending = Pending(change)
        self._apply([pending])
        return pending.outcome()

    async def commit(self, change: Callable[[W], T], *, alone: bool = False) -> T:
        """Wait until it is applied, which nothing cancels; ``alone``: no reason to apply what
        rides, that can wait. When ``run`` has ended it is applied
        all the same: so what is kept at the end is, when something else has failed before."""
        pending = Pending(change, alone=alone)
        self._waiting.append(pending)
        self._wake.set()
        with trio.CancelScope(shield=True):
            if self._over:
                await self._drain()
            await pending.done.wait()
        return pending.outcome()

    def ride(self, change: Callable[[W], T]) -> Pending[W, T]:
        """Have it applied with the next group, at the latest after PUT_OFF or when ``run`` ends,
        before which it must be called. Whether anybody waits for that makes no difference."""
        pending = Pending(change)
        self._riding.append(pending)
        if self._due == math.inf:
            self._due = trio.current_time() + PUT_OFF
            self._wake.set()  # whoever waits must do so no longer than that
        return pending

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Apply what waits, until cancelled, and then until nothing waits."""
        task_status.started()
        try:
            while True:
                with trio.move_on_at(self._due):
                    await self._wake.wait()
                await self._drain()
        finally:
            self._over = True
            await self._drain()

    async def _drain(self) -> None:
        """Nothing cancels it: who waits for a group that was taken would wait for ever."""
        with trio.CancelScope(shield=True):
            async with self._draining:
                while self._waiting or self._is_due():
                    group = self._next_group()
                    try:
                        await trio.to_thread.run_sync(self._apply, group)
                    except RuntimeError:  # no thread can be started
                        self._apply(group)
                    for pending in group:
                        pending.done.set()
                self._wake = trio.Event()

    def _next_group(self) -> list[Pending[W, Any]]:
        group, self._waiting = self._waiting, []
        if self._is_due() or not all(pending.alone for pending in group):
            group = [*self._riding, *group]
            self._riding, self._due = [], math.inf
        return group

    def _is_due(self) -> bool:
        """Whether what rides waits for no group any more."""
        return bool(self._riding) and (self._over or trio.current_time() >= self._due)

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
