"""What happens while the mount is slow to show what the daemon has done."""

import errno
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cbfs.interface import Outgoing
from cbfs.messages.model import Message
from cbfs.outbox import loop, submission
from cbfs.outbox.loop import OutboxLoop
from cbfs.tree.nodes import File, Folder, Node, SymbolicLink
from cbfs.tree.rules import TreeError
from tests.support import fake_backend
from tests.tree.test_tree import Mount, refused, run, until


class Slow:
    """A revealer that has not come to anything yet."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def show(self, path: str, node: Node, enter: Callable[[], None]) -> None:
        self.waiting.append(enter)

    def make(self, path: str, enter: Callable[[], None]) -> None:
        self.waiting.append(enter)

    def remove(self, path: str, leave: Callable[[], None]) -> None:
        self.waiting.append(leave)

    async def removed(self, path: str) -> None:
        pass

    def remove_folder(self, path: str, leave: Callable[[], None]) -> None:
        self.waiting.append(leave)

    def move(self, path: str, new: str, change: Callable[[], None]) -> None:
        self.waiting.append(change)

    def touch(self, inode: int) -> None:
        pass

    def outdate(self, folder: int, name: str) -> None:
        pass


def test_the_users_name_leads_into_the_folder_all_the_time(tmp_path: Path) -> None:
    """Also while the folder under the proper name is yet to be shown."""

    async def body(mount: Mount) -> None:
        tree, slow = mount.tree, Slow()
        mount.view.watchers.revealer = slow
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await mount.save(folder, "first", b"first")
        await until(lambda: folder.alias is not None)
        assert tree.outbox.entries["bob"] is folder
        assert folder.alias is not None
        await mount.save(folder.alias, "second", b"second")
        for change in slow.waiting:
            change()
        link = tree.outbox.entries["bob"]
        assert isinstance(link, SymbolicLink)
        assert tree.outbox.entries[link.target] is folder.alias
        await until(lambda: len(mount.backend.sent) == 2)
        mount.view.watchers.revealer = None

    run(tmp_path, body)


@pytest.mark.parametrize("change", ["link", "remove", "remove folder"])
def test_what_waits_for_the_first_message_finds_its_folder_behind_it(
    tmp_path: Path, change: str
) -> None:
    """Here the message cannot be taken back any more, and its folder is yet to be shown."""

    async def body(mount: Mount) -> None:
        outbox, begun, gate = mount.tree.outbox, trio.Event(), trio.Event()
        sent: list[Message] = []
        send, mount.view.watchers.revealer = mount.backend.send, Slow()

        async def slow(outgoing: Outgoing) -> Message:
            begun.set()
            with trio.CancelScope(shield=True):
                await gate.wait()
                sent.append(await send(outgoing))
            return sent[0]

        mount.backend.send = slow  # type: ignore[method-assign]
        folder = await mount.changes.mkdir(outbox, "bob")
        file = await mount.save(folder, "first", b"first")
        await begun.wait()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "link": lambda: mount.changes.link(file, folder, "second"),
            "remove": lambda: mount.changes.unlink(folder, "first"),
            "remove folder": lambda: mount.changes.rmdir(outbox, "bob"),
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calls_for, calls[change], change)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert folder.alias is not None
        assert not folder.entries
        names = {"link": {"first", "second"}, "remove": set(), "remove folder": {"first"}}
        assert folder.alias.entries.keys() - {"metadata.toml"} == names[change]
        assert outbox.entries["bob"] is folder
        mount.view.watchers.revealer = None

    async def calls_for(call: Callable[[], Awaitable[object]], change: str) -> None:
        if change != "remove folder":
            await call()
            return
        with refused(errno.ENOTEMPTY):
            await call()

    run(tmp_path, body)


def test_a_file_goes_to_whom_its_folder_is_for_when_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder gets another name while the file is put on the disk for sending."""

    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        save = mount.tree.contents.save

        async def slow(file: File, *, whole: bool = True) -> None:
            await save(file, whole=whole)
            if not file.writers and "bob" in mount.tree.outbox.entries:
                outbox = mount.tree.outbox
                await mount.changes.rename(outbox, "bob", outbox, "carol", replace=False)

        monkeypatch.setattr(mount.tree.contents, "save", slow)
        await mount.save(folder, "first", b"first")
        await until(lambda: mount.backend.sent)
        (conversation,) = mount.backend.conversations()
        assert conversation.participants == ("alice", "carol")

    run(tmp_path, body)


def test_nothing_goes_of_a_folder_that_was_moved_away_while_the_first_of_it_waited(
    tmp_path: Path,
) -> None:
    async def body(mount: Mount) -> None:
        tree, begun = mount.tree, trio.Event()

        async def slow(outgoing: Outgoing) -> Message:
            begun.set()
            await trio.sleep_forever()
            raise AssertionError(outgoing)

        send, mount.backend.send = mount.backend.send, slow  # type: ignore[method-assign]
        folder = await mount.changes.mkdir(tree.tmp, "bob")
        for name in ("first", "second"):
            await mount.save(folder, name, b"text")
        pack = await mount.changes.mkdir(tree.tmp, "pack")
        await mount.save(pack, "inside", b"text")
        await mount.changes.rename(tree.tmp, "bob", tree.outbox, "bob", replace=False)
        await mount.changes.rename(tree.tmp, "pack", folder, "pack", replace=False)
        await begun.wait()
        mount.backend.send = send  # type: ignore[method-assign]
        await mount.changes.rename(tree.outbox, "bob", tree.tmp, "bob", replace=False)
        await mount.save(await mount.changes.mkdir(tree.outbox, "carol"), "last", b"last")
        await until(lambda: mount.backend.sent)
        assert [data for _message, data in mount.backend.sent] == [b"last"]
        assert folder.entries.keys() == {"first", "second", "pack"}
        assert b"failed" not in mount.view.status.render()

    run(tmp_path, body)


def test_what_was_just_sent_and_is_moved_on_to_somebody_else_goes_to_them_too(
    tmp_path: Path,
) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        bob, carol = [await mount.changes.mkdir(tree.outbox, name) for name in ("bob", "carol")]
        file = await mount.save(bob, "note", b"hello")
        await until(lambda: bob.alias is not None)
        assert bob.alias is not None
        await mount.changes.rename(bob.alias, "note", bob.alias, "same", replace=False)
        await mount.changes.rename(bob.alias, "same", carol, "note", replace=False)
        await until(lambda: len(mount.backend.sent) == 2)
        assert [data for _message, data in mount.backend.sent] == [b"hello"] * 2
        people = [conversation.participants for conversation in mount.backend.conversations()]
        assert people == [("alice", "bob"), ("alice", "carol")]
        await until(lambda: not file.names)

    run(tmp_path, body)


def test_both_folders_of_a_conversation_are_removed_at_once(tmp_path: Path) -> None:
    """By two programs: one of them comes too late."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        message = await mount.backend.arrive("bob", b"hello")
        name = tree.conversation(message.conversation).folder
        await mount.backend.delete(message)
        told: list[int] = []

        async def remove(place: Folder) -> None:
            try:
                await mount.changes.rmdir(place, name)
            except TreeError as error:
                told.append(error.errno)

        async with trio.open_nursery() as nursery:
            for place in (tree.conversations, tree.outbox):
                nursery.start_soon(remove, place)
        assert told == [errno.ENOENT]
        assert not tree.conversations.entries
        assert not tree.outbox.entries

    run(tmp_path, body)


def test_the_grace_begins_anew_when_a_lock_goes(tmp_path: Path) -> None:
    """LibreOffice removes its lock, saves, and makes it again."""

    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        letter = await mount.save(folder, "letter.odt", b"first")
        other = await mount.save(folder, "other.odt", b"other")
        lock = await mount.save(folder, ".~lock.letter.odt#", b"me")
        letter.changed = other.changed = lock.changed = 0.0
        await mount.changes.unlink(folder, ".~lock.letter.odt#")
        assert letter.changed > 0
        assert other.changed == 0

    run(tmp_path, body, grace=1e6)


def test_a_name_that_was_nobodys_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When something new is saved for it, some time later: not by itself, and not at once."""

    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "nobody")
        first = await mount.save(folder, "first", b"first")
        await until(lambda: bool(first.error))
        monkeypatch.setattr(fake_backend, "NOBODY", "still-nobody")  # it is somebody's now
        second = await mount.save(folder, "second", b"second")
        await until(lambda: bool(second.error))
        monkeypatch.setattr(loop, "ASK_AGAIN", 0.0)
        await mount.save(folder, "third", b"third")
        contents = [b"first", b"second", b"third"]
        await until(lambda: [data for _message, data in mount.backend.sent] == contents)

    run(tmp_path, body)


def test_what_is_saved_while_a_conversation_begins_outlives_a_restart(tmp_path: Path) -> None:
    """Before, in and after the transaction, in which the folder becomes that of the
    conversation."""
    names = {"before.tmp", "meanwhile.tmp", "after.tmp"}

    async def begin(mount: Mount) -> None:
        folder, send = await mount.changes.mkdir(mount.tree.outbox, "bob"), mount.backend.send
        await mount.save(folder, "before.tmp", b"before.tmp")

        async def slow(outgoing: Outgoing) -> Message:
            await mount.save(folder, "meanwhile.tmp", b"meanwhile.tmp")
            message = await send(outgoing)
            await mount.save(folder, "after.tmp", b"after.tmp")
            return message

        mount.backend.send = slow  # type: ignore[method-assign]
        await mount.save(folder, "first", b"first")
        await until(lambda: folder.alias is not None)

    async def look(mount: Mount) -> None:
        folders = [folder for folder in mount.tree.drafts() if folder.entries]
        (folder,) = [folder for folder in folders if names & set(folder.entries)]
        assert {name: mount.read(folder.entries[name]) for name in names} == {
            name: name.encode() for name in names
        }

    run(tmp_path, begin)
    for _ in range(2):
        run(tmp_path, look)


def test_what_is_finished_while_the_folder_is_busy_leaves_in_the_order_of_finishing(
    tmp_path: Path,
) -> None:
    """As of ten quick saves: neither the order of names nor that of creation counts."""
    order = (4, 1, 9, 0, 7, 2, 8, 3, 6, 5)

    async def body(mount: Mount) -> None:
        folder, send = await mount.changes.mkdir(mount.tree.outbox, "bob"), mount.backend.send
        await mount.save(folder, "first", b"first")
        await until(lambda: folder.alias is not None)
        drafts, gate, begun = folder.alias, trio.Event(), trio.Event()
        assert drafts is not None

        async def slow(outgoing: Outgoing) -> Message:
            begun.set()
            await gate.wait()
            return await send(outgoing)

        mount.backend.send = slow  # type: ignore[method-assign]
        await mount.save(drafts, "second", b"second")
        await begun.wait()
        files = [mount.changes.create(drafts, f"{number}.txt", 0o600, None) for number in range(10)]
        for file in files:
            file.writers += 1
            file.handles += 1
        for number in order:
            await mount.tree.contents.write(files[number], 0, b"%d" % number)
            await mount.close(files[number])
        gate.set()
        contents = [b"first", b"second", *(b"%d" % number for number in order)]
        await until(lambda: len(mount.backend.sent) == len(contents))
        assert [data for _message, data in mount.backend.sent] == contents


def test_what_is_finished_while_a_message_is_on_its_way_is_sent_in_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "GATHER", 0.5)  # in which all of them are saved

    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await mount.save(folder, "first", b"first")
        await until(lambda: folder.alias is not None)
        drafts, backend = folder.alias, mount.backend
        assert drafts is not None
        assert drafts.conversation is not None
        backend.under_way.add(drafts.conversation)
        commits, before = [], backend.store._group._transact

        def transact(group: list[Any]) -> None:
            before(group)
            commits.append(len(backend.messages(drafts.conversation or b"")))

        backend.store._group._transact = transact
        contents = [b"%d" % number for number in range(5)]
        for data in contents:
            await mount.save(drafts, data.decode(), data)
        await until(lambda: len(backend.sent) == 6)
        assert [data for _message, data in backend.sent] == [b"first", *contents]
        grown = [b - a for a, b in pairwise(commits)]
        assert max(grown) >= 4, "all but the first share one"

    run(tmp_path, body)


def test_drafts_are_not_looked_at_for_each_change_when_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With thousands of them programs could save nothing else meanwhile."""
    looks: list[float] = []

    def look(_loop: OutboxLoop) -> float:
        looks.append(time.monotonic())
        time.sleep(0.02)
        return 3600.0

    async def body(mount: Mount) -> None:
        looks.clear()
        for _ in range(200):
            mount.tree.contents.changed()
            await trio.lowlevel.checkpoint()
        assert len(looks) < 100
        seen = len(looks)
        mount.tree.contents.changed()
        await until(lambda: len(looks) > seen)

    monkeypatch.setattr(OutboxLoop, "_look", look)
    run(tmp_path, body)
