"""What a hub tells by itself reaches who looks, in whatever order it comes; reading that is cut off
says so."""

import errno
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.mount.notifier import Notifier
from cbfs.mount.remote import session
from cbfs.mount.remote.link import ASK_MAX, BUSY, WHOLE_MAX, AwayError, HubLink, Pieces, _Asked
from cbfs.mount.remote.nodes import RemoteNode
from cbfs.mount.remote.process import _HubMount
from cbfs.mount.remote.wire import Stat
from cbfs.mount.single.wire import Answer, Frames, FrameSender, SingleRequest
from tests.mount.test_remote_hub import Hub, hub
from tests.support.remote_machine import FOLDER, Machine, run

MESSAGE = Stat(9, stat.S_IFREG | 0o600, 1, 5, 1, 1, 1, True, b"")


class LateNotifier:
    """Shows watchers what it is told when the test says so."""

    waiting = 0

    def __init__(self) -> None:
        self.changes: list[Callable[[], None]] = []

    def make(self, _path: str, change: Callable[[], None]) -> None:
        self.changes.append(change)

    remove = remove_folder = make

    def show(self, _path: str, _node: object, change: Callable[[], None]) -> None:
        self.changes.append(change)

    move = show

    def act(self) -> None:
        for change in self.changes:
            change()


def listed(machine: Machine, above: RemoteNode, name: bytes) -> RemoteNode:
    """A folder of which all is known."""
    folder = machine.tree.enter(above, name, FOLDER._replace(inode=len(name) + 20), 1)
    folder.listed, folder.listed_on = time.monotonic(), 1
    return folder


def test_what_comes_behind_a_move_is_of_the_new_path(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        view, notifier = machine.view, LateNotifier()
        view.notifier = cast(Notifier, notifier)
        conversations = listed(machine, machine.tree.root, b"conversations")
        bob = listed(machine, conversations, b"bob")
        machine.tree.enter(bob, b"gone", MESSAGE, 1)
        view.news(["moves", b"conversations/bob", b"robert"])
        view.news(["appears", b"conversations/robert/x", list(MESSAGE._replace(inode=10))])
        view.news(["goes", b"conversations/robert/gone"])
        view.news(["appears", b"conversations/bob", list(FOLDER._replace(inode=11))])
        notifier.act()
        assert conversations.entries[b"robert"] is bob
        assert not view._is_listed(bob)  # both are asked for again by who looks
        assert not view._is_listed(conversations)

    run(tmp_path, body)


def test_what_comes_under_the_name_of_what_is_going_is_there(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        view, notifier = machine.view, LateNotifier()
        view.notifier = cast(Notifier, notifier)
        bob = listed(machine, listed(machine, machine.tree.root, b"conversations"), b"bob")
        machine.tree.enter(bob, b"x", MESSAGE, 1)
        view.news(["goes", b"conversations/bob/x"])
        view.news(["appears", b"conversations/bob/x", list(MESSAGE._replace(inode=10))])
        notifier.act()
        assert bob.entries[b"x"].stat.inode == 10

    run(tmp_path, body)


def test_two_who_have_read_to_the_end_at_once_are_both_told_of(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        view, told = machine.view, list[object]()

        async def tell(*words: object) -> None:
            await trio.testing.wait_all_tasks_blocked()
            told.append(words[1])

        machine.link.tell = tell  # type: ignore[method-assign]
        nodes = [machine.tree.enter(machine.bob, name, MESSAGE, 1) for name in (b"a", b"b")]
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(view.seen, node)
        assert sorted(cast(list[bytes], told)) == [b"outbox/bob/a", b"outbox/bob/b"]
        assert not view._seen

    run(tmp_path, body)


def test_who_waits_for_what_is_read_ahead_is_told_that_the_hub_is_away(tmp_path: Path) -> None:
    cut = trio.Event()

    class Pieces:
        def __enter__(self) -> "Pieces":
            return self

        def __exit__(self, *_error: object) -> None:
            pass

        def __aiter__(self) -> "Pieces":
            return self

        async def __anext__(self) -> object:
            await cut.wait()
            raise AwayError

    async def body(machine: Machine) -> None:
        contents = machine.view.contents
        machine.link.pieces = lambda *_words: Pieces()  # type: ignore[attr-defined]
        node = machine.tree.enter(machine.bob, b"x", MESSAGE._replace(size=3 << 20), 1)
        content = await contents.opened(node)
        found: list[int | None] = []

        async def read() -> None:
            with pytest.raises(OSError) as caught:
                await contents.read(node, content, 1 << 20, 4_096)
            found.append(caught.value.errno)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(contents._fetch_quietly, node, content, 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            machine.link.is_up = False
            cut.set()
        assert found == [errno.EHOSTUNREACH]

    run(tmp_path, body)


def test_a_link_that_is_cut_while_one_catches_up_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Away:
        def again(self) -> None:
            pass

        async def tell_seen(self) -> None:
            pass

        async def catch_up(self) -> None:
            raise AwayError

    async def main() -> None:
        mount = _HubMount.__new__(_HubMount)
        mount._handing = mount._view = cast(Any, Away())
        await HubLink.__new__(HubLink)._tell_back(mount._back)

    trio.run(main)
    assert not caplog.records


def test_a_link_that_ends_at_once_leaves_nothing_at_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class One:
        def __init__(self, _tree: object, _conversation: object, tmp: object) -> None:
            self.tmp, self.root = tmp, None
            self.drafts = type("Drafts", (), {"conversation": b"c" * 16})()

    monkeypatch.setattr(session, "conversation_called", lambda _tree, _name: None)
    monkeypatch.setattr(session, "SingleView", One)

    async def body(found: Hub) -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.aclose()
        sender, view = FrameSender(theirs), found.mount.view
        one = session.HubSession(sender, view, tmp_path, SYSTEM_RANDOM, found.uploads)
        with pytest.raises(trio.BrokenResourceError):
            await one.run(SingleRequest(1, "hub", ["x"]), theirs, Frames())
        assert not found.mount.tree.tmp.entries
        assert not found.mount.view.watchers.observers

    hub(tmp_path, body)


class BusyLink:
    """One on which much comes, and of this answer one piece late and then nothing."""

    def __init__(self) -> None:
        self.answer: trio.MemorySendChannel[Answer] | None = None

    @property
    def heard(self) -> float:
        return BUSY * trio.current_time()

    def expect(self, channel: trio.MemorySendChannel[Answer]) -> int:
        self.answer = channel
        return 3

    def forget(self, _number: int) -> None:
        pass

    async def send(self, *_words: object, later: bool = False) -> None:
        pass

    async def come(self) -> None:
        await trio.sleep(WHOLE_MAX - 5)
        assert self.answer is not None
        await self.answer.send(Answer(3, 0, [True, [1]]))


def test_a_whole_answer_has_an_end_whatever_one_piece_of_it_takes() -> None:
    async def main() -> None:
        link, began = BusyLink(), trio.current_time()
        asked = _Asked(cast(Any, link), ASK_MAX)
        async with trio.open_nursery() as nursery:
            with pytest.raises(AwayError), Pieces(asked, "list", ()) as pieces:
                nursery.start_soon(link.come)
                async for _ in pieces:
                    pass
        assert trio.current_time() - began <= WHOLE_MAX + ASK_MAX

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
