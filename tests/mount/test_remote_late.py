"""What arrives late at the hub, of a link that a mount on another machine has given up: it is not
carried out when the mount has another one. And what is being copied is not taken away."""

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.mount.remote import session as session_module
from cbfs.mount.remote.files import SWEPT_EVERY, UPLOADS_MAX
from cbfs.mount.remote.session import HubSession
from cbfs.mount.remote.wire import ID_SIZE, PART, VERSION, read_hub_answer, read_hub_request
from cbfs.mount.single.wire import Answer, Frames, FrameSender, SingleRequest, frame
from cbfs.storage.encoding import u64
from cbfs.storage.store import DamagedRecord, Table, Writer
from cbfs.tree import file_contents
from cbfs.tree.nodes import File, Folder, Node, PendingSubmission
from cbfs.tree.rules import TreeError
from cbfs.tree.write_buffer import BLOCK
from cbfs_common.errors import DecodeError
from tests.mount.test_remote_hub import FIRST, SECOND, THIRD, Hub, hub
from tests.support.world import WAIT

LAPTOP, OTHER = b"l" * ID_SIZE, b"o" * ID_SIZE
NOTE = b"outbox/bob/note"


class Link:
    """One link of a mount, as ssh has it: what is asked while it is ``late`` comes when it is not
    any more."""

    def __init__(self, hub: Hub) -> None:
        self._ours, theirs = trio.testing.memory_stream_pair()
        self._theirs = theirs
        self._hub = hub
        self._frames = Frames()
        self._waiting = bytearray()
        self._number = 2
        self.late = False
        self.ended = trio.Event()

    async def run(self) -> None:
        """Until the hub ends it, or it ends itself."""
        view, place, uploads = self._hub.mount.view, self._hub._place, self._hub.uploads
        session = HubSession(FrameSender(self._theirs), view, place, SYSTEM_RANDOM, uploads)
        try:
            await session.run(SingleRequest(1, "hub", [""]), self._theirs, Frames())
        except* trio.BrokenResourceError:
            pass
        self.ended.set()
        await self._theirs.aclose()

    async def send(self, word: str, *arguments: object) -> int:
        self._number += 1
        data = frame(self._number, word, list(arguments))
        if self.late:
            self._waiting += data
        else:
            await self._ours.send_all(data)
        return self._number

    async def arrive(self) -> None:
        """What was late is there."""
        try:
            await self._ours.send_all(bytes(self._waiting))
        except trio.BrokenResourceError:
            return
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def answer(self, number: int) -> Answer:
        with trio.fail_after(WAIT):
            while True:
                for each in self._frames.add(await self._ours.receive_some()):
                    answer = read_hub_answer(each)
                    if answer.number == number:
                        return answer

    async def ask(self, word: str, *arguments: object) -> Any:
        answer = await self.answer(await self.send(word, *arguments))
        assert not answer.errno, errno.errorcode[answer.errno]
        return answer.result

    async def hand_over(self, identity: bytes, content: bytes) -> None:
        await self.send("part", identity, 0, content)
        await self.send("put", identity, NOTE, 0o600, 0, len(content), b"", False, b"")

    async def has(self) -> None:
        """Returns when the hub has answered all that is asked until now."""
        await self.ask("ping")

    async def close(self) -> None:
        await self._ours.aclose()


@asynccontextmanager
async def links(hub: Hub, *mounts: bytes) -> AsyncIterator[list[Link]]:
    """Links of these mounts, each made when those before it were."""
    made = [Link(hub) for _ in mounts]
    async with trio.open_nursery() as nursery:
        for link, mount in zip(made, mounts, strict=True):
            nursery.start_soon(link.run)
            assert (await link.ask("hello", VERSION, mount))[0] == VERSION
        yield made
        for link in made:
            await link.close()


def test_what_an_earlier_link_of_the_same_mount_still_has_on_its_way_is_not_done(
    tmp_path: Path,
) -> None:
    async def body(hub: Hub) -> None:
        async with links(hub, LAPTOP) as [first]:
            first.late = True
            await first.hand_over(FIRST, b"text")
            await first.send("unlink", NOTE)
            async with links(hub, LAPTOP) as [second]:
                await second.hand_over(FIRST, b"text")
                await second.has()
                await second.ask("upload", FIRST)
                await second.send("taken", [FIRST])
                await second.has()
                assert not hub.notes()
                await first.arrive()
                await second.has()
                assert hub.drafts() == {"note": b"text"}
            assert first.ended.is_set()

    hub(tmp_path, body)


@asynccontextmanager
async def being_saved(hub: Hub) -> AsyncIterator[tuple[Link, Link, trio.Event]]:
    """A second link of a mount, the first one, and the event that ends the saving of a file which
    that has handed over."""
    contents, begun, goes = hub.mount.tree.contents, trio.Event(), trio.Event()
    save = contents.save

    async def slow(file: File, **words: Any) -> None:
        begun.set()
        await goes.wait()
        await save(file, **words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "save", slow)
        async with links(hub, LAPTOP) as [first], trio.open_nursery() as nursery:
            await first.hand_over(FIRST, b"text")
            await begun.wait()
            second = Link(hub)
            nursery.start_soon(second.run)
            yield second, first, goes


def test_the_next_link_waits_until_what_the_earlier_one_has_begun_is_over(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        async with being_saved(hub) as (second, _first, goes):
            hello = await second.send("hello", VERSION, LAPTOP)
            async with trio.open_nursery() as asking:

                @asking.start_soon
                async def _ask() -> None:
                    assert (await second.answer(hello)).result[0] == VERSION
                    assert hub.notes() == [FIRST]
                    answered.append(True)

                answered: list[bool] = []
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert not answered
                goes.set()
            assert await second.ask("upload", FIRST) is None
            await second.close()
        assert hub.drafts() == {"note": b"text"}

    hub(tmp_path, body)


def test_a_link_before_which_something_goes_on_for_too_long_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again."""
    monkeypatch.setattr(session_module, "OVER_MAX", 0.01)

    async def body(hub: Hub) -> None:
        async with being_saved(hub) as (second, first, goes):
            await second.send("hello", VERSION, LAPTOP)
            await second.ended.wait()
            goes.set()
            await first.ended.wait()
        assert not hub.uploads.of(b"").links
        async with links(hub, LAPTOP) as [third]:
            assert await third.ask("upload", FIRST) is None

    hub(tmp_path, body)


def test_links_of_other_mounts_live_on(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        async with links(hub, LAPTOP, OTHER) as [first, second]:
            await first.hand_over(FIRST, b"text")
            await first.has()
            await second.has()
        assert hub.uploads.of(FIRST) is not hub.uploads.of(b"")  # nor those who see other things
        assert not hub.uploads.of(b"").links

    hub(tmp_path, body)


@pytest.mark.parametrize("mount", [b"", b"x", b"x" * (ID_SIZE + 1), 3, None, "x" * ID_SIZE])
def test_a_mount_says_which_one_it_is(mount: Any) -> None:
    with pytest.raises(DecodeError):
        read_hub_request(frame(1, "hello", [VERSION, mount])[4:])
    with pytest.raises(DecodeError):
        read_hub_request(frame(1, "hello", [VERSION])[4:])


# what is being copied, and what is withdrawn


@contextmanager
def at_first(hub: Hub, name: str, act: Callable[[], Awaitable[object]]) -> Iterator[None]:
    """Do something when the contents of files are asked for ``name`` for the first time."""
    contents = hub.mount.tree.contents
    done = getattr(contents, name)

    async def then(*arguments: Any, **words: Any) -> Any:
        patch.undo()
        await act()
        return await done(*arguments, **words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, name, then)
        yield


async def others(hub: Hub) -> None:
    """As many files come as may."""
    for number in range(UPLOADS_MAX):
        await hub.files.part(bytes([100 + number]) * ID_SIZE, 0, b"of others")


LARGE = bytes(range(256)) * 4_096  # 1 MiB


async def large(hub: Hub) -> None:
    """It has come, and is spilled to the store."""
    for at in range(0, len(LARGE), PART):
        await hub.files.part(FIRST, at, LARGE[at : at + PART])
    await trio.testing.wait_all_tasks_blocked(0.01)


def put(hub: Hub, size: int) -> Awaitable[list[Any]]:
    return hub.files.put(FIRST, NOTE, 0o600, 0, size, b"", False, b"")


def test_what_is_copied_is_not_dropped_for_what_others_hand_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_contents, "MEMORY_MAX", BLOCK)

    async def body(hub: Hub) -> None:
        await large(hub)
        with at_first(hub, "truncate", lambda: others(hub)):
            await put(hub, len(LARGE))
        assert hub.drafts() == {"note": LARGE}
        assert len(hub.uploads.of(b"").uploads) == UPLOADS_MAX

    hub(tmp_path, body)


def test_what_the_store_has_lost_of_a_file_is_no_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_contents, "MEMORY_MAX", BLOCK)

    async def body(hub: Hub) -> None:
        await large(hub)
        file = hub.uploads.of(b"").uploads[FIRST].file
        assert file.draft is not None
        spilled = u64(file.draft.spill)
        assert file.draft.spilled

        def lose(writer: Writer) -> None:
            writer.delete_prefix(Table.CONTENT, spilled)

        await hub.mount.tree.backend.store.commit(lose)
        with pytest.raises(DamagedRecord):
            await put(hub, len(LARGE))
        assert not hub.drafts()
        assert not hub.notes()

    hub(tmp_path, body)


def test_a_part_that_comes_late_begins_nothing(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        await hub.put(FIRST, NOTE, b"text")
        assert await hub.files.part(FIRST, 0, b"text") == 4
        await hub.files.withdraw(SECOND)
        with pytest.raises(TreeError) as caught:
            await hub.files.part(SECOND, 0, b"text")
        assert caught.value.errno == errno.ECANCELED
        assert not hub.uploads.of(b"").uploads

    hub(tmp_path, body)


def test_what_has_come_is_gone_on_with_where_a_part_is_missing(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        await hub.files.part(FIRST, 0, b"half of ")
        with pytest.raises(TreeError) as caught:
            await put(hub, 10)
        assert caught.value.errno == errno.EAGAIN
        assert await hub.files.upload(FIRST) == 8
        with pytest.raises(TreeError):
            await put(hub, 4)  # it was another file
        assert await hub.files.upload(FIRST) == 0

    hub(tmp_path, body)


def test_parts_of_long_ago_make_room_for_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(hub: Hub) -> None:
        await hub.files.part(FIRST, 0, b"text")
        monkeypatch.setattr("cbfs.mount.remote.files.UPLOAD_KEPT", -1.0)
        await hub.files.part(SECOND, 0, b"text")
        assert list(hub.uploads.of(b"").uploads) == [SECOND]

    hub(tmp_path, body)


@contextmanager
def when_settled(hub: Hub, act: Callable[[], Awaitable[object]]) -> Iterator[None]:
    """Do something while it is waited for that what is to be withdrawn is not being sent."""
    scope, done, begun = trio.CancelScope(), trio.Event(), False

    async def then(*nodes: Node | None) -> None:
        nonlocal begun
        assert not begun
        begun = True
        await act()
        (node,) = nodes
        assert isinstance(node, File)
        node.sending = None
        done.set()

    (folder,) = (f for f in hub.mount.tree.outbox.entries.values() if isinstance(f, Folder))
    node = folder.entries["note"]
    assert isinstance(node, File)
    node.sending = PendingSubmission(scope, done)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cbfs.mount.remote.files.settle", then)
        yield
    assert begun


def test_what_gets_another_name_while_it_is_withdrawn_goes_and_nothing_else(
    tmp_path: Path,
) -> None:
    async def body(hub: Hub) -> None:
        await hub.put(FIRST, NOTE, b"mine")
        await hub.put(SECOND, b"outbox/bob/other", b"of another machine")
        folder = await hub.files.node(b"outbox/bob")
        assert isinstance(folder, Folder)

        async def renamed() -> None:
            for old, new in (("note", "letter"), ("other", "note")):
                folder.add(new, folder.remove(old))

        with when_settled(hub, renamed):
            assert await hub.files.withdraw(FIRST) == b""
        assert hub.drafts() == {"note": b"of another machine"}

    hub(tmp_path, body)


def test_what_is_sent_while_it_is_withdrawn_is_told_as_gone(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        await hub.put(FIRST, NOTE, b"text")
        file = await hub.files.node(NOTE)
        assert isinstance(file, File)

        async def sent() -> None:
            file.sent = file.version

        with when_settled(hub, sent):
            assert await hub.files.withdraw(FIRST + SECOND) == FIRST
        assert await hub.files.withdraw(FIRST + SECOND) == FIRST
        assert await hub.files.node(NOTE) is file  # the outbox takes it away

    hub(tmp_path, body)


def test_drafts_go_with_the_note_that_they_are_withdrawn_in_one_commit(tmp_path: Path) -> None:
    """Else a kill between them leaves drafts that are sent, and of which it is said that they are
    not there."""

    async def body(hub: Hub) -> None:
        await hub.put(FIRST, NOTE, b"one")
        await hub.put(SECOND, b"outbox/bob/other", b"two")
        inodes = [(await hub.files.node(b"outbox/bob/" + n)).inode for n in (b"note", b"other")]
        store = hub.mount.tree.backend.store
        commit, seen = store.commit, list[int]()

        async def watched(*arguments: Any, **words: Any) -> Any:
            result = await commit(*arguments, **words)
            with store.read() as reader:
                seen.append(sum(reader.get(Table.NODES, u64(i)) is not None for i in inodes))
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "commit", watched)
            assert await hub.files.withdraw(FIRST + SECOND) == b""
        assert seen == [0]
        assert hub.files._noted(FIRST) == hub.files._noted(SECOND) == bytes(16)

    hub(tmp_path, body)


def test_notes_of_long_ago_are_looked_for_once_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each word about one of them would go through all, in the hub's own commits."""

    async def body(hub: Hub) -> None:
        await hub.put(FIRST, NOTE, b"one")
        await hub.put(SECOND, b"outbox/bob/other", b"two")
        await hub.files.taken([FIRST])
        assert hub.notes() == [SECOND]
        monkeypatch.setattr("cbfs.mount.remote.files.NOTED_FOR", -1)
        await hub.files.taken([FIRST])
        assert hub.notes() == [SECOND]
        hub.uploads.of(b"").swept -= SWEPT_EVERY
        await hub.link().taken([])
        assert not hub.notes()

    hub(tmp_path, body)


def test_while_a_decision_is_looked_at_drafts_are_made(tmp_path: Path) -> None:
    """A server may be asked for it."""

    async def body(hub: Hub) -> None:
        looked, goes = trio.Event(), trio.Event()

        async def slow(_file: File) -> None:
            looked.set()
            await goes.wait()

        hub.files._changes.check_close = slow  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _set() -> None:
                await hub.put(SECOND, b"config.toml", b"", replace=True)

            await looked.wait()
            await hub.put(FIRST, NOTE, b"text")
            assert await hub.files.withdraw(THIRD) == b""
            goes.set()
        assert hub.drafts() == {"note": b"text"}

    hub(tmp_path, body)


def test_a_part_that_comes_late_while_the_file_is_copied_is_not_kept(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        await hub.files.part(FIRST, 0, b"text")
        with at_first(hub, "truncate", lambda: hub.link().part(FIRST, 0, b"te")):
            await put(hub, 4)
        assert hub.drafts() == {"note": b"text"}
        assert not hub.uploads.of(b"").uploads

    hub(tmp_path, body)
