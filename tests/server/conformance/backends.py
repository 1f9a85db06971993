"""The stores that the tests of this room are for, each with what it needs to be opened, shared and
killed."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

import trio

from cbfs_host import lmdb_environment
from cbfs_host.complaints import StoreError
from cbfs_host.settings import Current
from cbfs_server.limits import Limits
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import Change, NextMail, Question
from tests.support.killing import Kill, KillingEnv

T = TypeVar("T")

DEFAULT = Limits(disk_free=0)


class Backend(Protocol):
    """The data of one store. Can be given to another process."""

    def opened(self, limits: Limits = DEFAULT) -> AbstractAsyncContextManager[MailboxStore]:
        """A front-end: the store at work. Several may be open at once."""

    def wait_closed(self) -> None:
        """Until nothing is held any more by front-ends that were closed."""

    def kill_at(self, number: int) -> None:
        """Have this process, which is of a test alone, killed at its ``number``-th step that
        matters to what it will have opened."""


@dataclass
class OnLmdb:
    """In a directory. The only front-end that there can be is every one of them."""

    place: Path
    _open: LmdbStore | None = None

    @asynccontextmanager
    async def opened(self, limits: Limits = DEFAULT) -> AsyncIterator[MailboxStore]:
        if self._open is not None:
            yield self._open
            return
        self._open = store = LmdbStore(self.place / "store", Current(limits))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.run)
                yield store
                nursery.cancel_scope.cancel()
        finally:
            store.close()
            self._open = None

    def wait_closed(self) -> None:
        """What is held goes with the process's own handle of it."""

    def kill_at(self, number: int) -> None:
        kill, opened = Kill(number), lmdb_environment.open_environment

        def killing(*place: Any) -> Any:
            return KillingEnv(opened(*place), kill)

        lmdb_environment.__dict__["open_environment"] = killing


@contextmanager
def on_lmdb(place: Path) -> Iterator[Backend]:
    with TemporaryDirectory(dir=place) as path:
        yield OnLmdb(Path(path))


Fresh = Callable[[], AbstractContextManager[Backend]]
"""Makes an empty store each time."""

BACKENDS: dict[str, Callable[[Path], AbstractContextManager[Backend]]] = {"lmdb": on_lmdb}
"""Given a directory in memory."""


async def look_up(store: MailboxStore, question: Question[T]) -> T:
    """The answer, whenever it comes. Raises StoreError."""
    event = trio.Event()
    results: list[Any] = []

    def done(result: Any) -> None:
        if isinstance(question, NextMail) and not isinstance(result, StoreError):
            result = tuple(result)
        results.append(result)
        event.set()

    store.ask(question, done)
    await event.wait()
    if isinstance(results[0], StoreError):
        raise results[0]
    found: T = results[0]
    return found


async def together(*asked: tuple[MailboxStore, Change[Any]]) -> list[Any]:
    """The results of changes that are made at once, by other owners each."""
    results: list[Any] = [None] * len(asked)

    async def one(number: int, store: MailboxStore, change: Change[Any]) -> None:
        results[number] = await store.commit(change)

    async with trio.open_nursery() as nursery:
        for number, (store, change) in enumerate(asked):
            nursery.start_soon(one, number, store, change)
    return results
