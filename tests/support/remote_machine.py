"""One machine that mounts an account of another, without a kernel, and a link to a hub that answers
what the test says."""

import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from pyfuse3 import FUSEError

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.mount.remote.cache import BLOCK, SealedCache
from cbfs.mount.remote.handing import Handing
from cbfs.mount.remote.hub_view import HubView
from cbfs.mount.remote.link import AwayError, HubLink
from cbfs.mount.remote.nodes import RemoteNode, RemoteTree, local_stat
from cbfs.mount.remote.spool import OutgoingSpool, WaitingFile
from cbfs.mount.remote.wire import ID_SIZE, Stat
from cbfs.mount.remote.writing import RemoteWriting
from cbfs.storage.faults import Tasks
from tests.support.world import WAIT

ACCOUNT = bytes(ID_SIZE)
BOB, CAROL = b"b" * ID_SIZE, b"c" * ID_SIZE
FOLDER = local_stat(stat.S_IFDIR | 0o700)


def made(name: bytes) -> list[Any]:
    """What a hub says that has made a draft."""
    return [name, list(Stat(9, stat.S_IFREG | 0o600, 1, 5, 1, 1, 1, False, b""))]


class Link:
    """A link to a hub that answers what the test says, when it does."""

    def __init__(self) -> None:
        self.is_up = True
        self.generation = 1
        self.handed: list[tuple[WaitingFile, bytes]] = []
        self.again: list[bool] = []
        """Of each that was handed over: whether the hub may have had it."""
        self.told: list[tuple[object, ...]] = []
        self.asked: list[tuple[object, ...]] = []
        self.there: int | None = 0
        """What it says of what it may have."""
        self.gone = b""
        """Ids of what the hub has sent, when it is to be withdrawn."""
        self.answer, self._answers = trio.open_memory_channel[Any](100)

    async def hand_over(self, item: WaitingFile, content: bytes, *, again: bool = False) -> Any:
        if not self.is_up:
            raise AwayError
        self.handed.append((item, content))
        self.again.append(again)
        result = await self._answers.receive()
        if isinstance(result, OSError):
            raise result
        return result

    async def ask(self, *words: object) -> Any:
        if not self.is_up:
            raise AwayError
        self.asked.append(words)
        return {"withdraw": self.gone, "upload": self.there}.get(str(words[0]))

    async def tell(self, *words: object) -> None:
        self.told.append(words)

    def hurry(self) -> None:
        pass


class Machine:
    """What there is on one machine: ``bob`` and ``carol`` are folders of its outbox."""

    def __init__(self, place: Path, nursery: trio.Nursery) -> None:
        self.link = Link()
        self.tree = RemoteTree(FOLDER)
        cache = SealedCache(place, SYSTEM_RANDOM, most=4 * BLOCK)
        tasks = Tasks(nursery, lambda: None)
        link = cast(HubLink, self.link)
        nothing = lambda *_arguments: None  # noqa: E731
        self.view = HubView(self.tree, link, cache, tasks, SYSTEM_RANDOM, nothing, nothing)
        self.spool = OutgoingSpool("ssh://home", "", SYSTEM_RANDOM, place / "spool")
        self.waiting = self.spool.open(ACCOUNT)
        self.handing = Handing(self.view, self.spool)
        self.writing = RemoteWriting(self.view, self.handing)
        self.outbox = self.tree.enter(self.tree.root, b"outbox", FOLDER, 1)
        self.bob = self.folder(b"bob", BOB)
        self.carol = self.folder(b"carol", CAROL)

    def folder(self, name: bytes, conversation: bytes) -> RemoteNode:
        return self.tree.enter(self.outbox, name, FOLDER._replace(conversation=conversation), 1)

    async def save(self, folder: RemoteNode, name: bytes, content: bytes) -> RemoteNode:
        known = folder.entries.get(name)
        told = local_stat(stat.S_IFREG | 0o600)
        node = known if known is not None else self.tree.make(folder, name, told)
        await self.handing.save(node, content)
        self.handing.wake()
        return node

    def waits(self) -> list[tuple[bytes, bytes, bytes]]:
        """(path, conversation, content) of what is on the disk."""
        again = OutgoingSpool("ssh://home", "", SYSTEM_RANDOM, self.spool.path.parent.parent)
        again.path, again._key = self.spool.path, self.spool._key
        items = [again.read(bytes.fromhex(each.stem)) for each in self.spool.path.glob("*.out")]
        return sorted((item.path, item.conversation, content) for item, content in items)

    async def sent(self, count: int) -> tuple[WaitingFile, bytes]:
        """The file that is on the link as number ``count``."""
        await until(lambda: len(self.link.handed) >= count)
        return self.link.handed[count - 1]


async def until(look: Callable[[], object]) -> None:
    with trio.fail_after(WAIT):
        while not look():
            await trio.sleep(0.005)


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises((OSError, FUSEError)) as caught:
        yield
    error = caught.value
    assert getattr(error, "errno", 0) == number


def run(place: Path, body: Callable[[Machine], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(WAIT):
            async with trio.open_nursery() as nursery:
                machine = Machine(place, nursery)
                nursery.start_soon(machine.handing.run)
                await body(machine)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def soon(nursery: trio.Nursery, task: Callable[..., Awaitable[Any]], *what: Any) -> list[Any]:
    """Start it, and let it come to where it waits. What it gives or raises is in the list then."""
    found: list[Any] = []

    async def do() -> None:
        try:
            found.append(await task(*what))
        except OSError as error:
            found.append(error)

    nursery.start_soon(do)
    await trio.testing.wait_all_tasks_blocked(0.01)
    return found
