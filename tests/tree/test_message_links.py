"""Links to messages in search/, by-date/ and unread/: what is found, and what is read for that."""

import threading
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from cbfs.messages import conversations, history, search_index
from cbfs.storage.store import Table
from cbfs.tree.inodes import REMEMBERED, Inodes
from cbfs.tree.nodes import (
    FIRST_FOUND,
    FIRST_MESSAGE,
    FIRST_UNREAD,
    Folder,
    MessageFile,
    Node,
    SymbolicLink,
)
from cbfs.tree.rules import Area
from cbfs.tree.virtual.conversation_folder import OpenTranscript, TranscriptFile
from cbfs.tree.virtual.message_links import MORE
from cbfs.tree.virtual.search_folders import LOOKS_MAX
from cbfs.tree.virtual.virtual_directory import PAGE, Listing, SearchedDirectory
from tests.bench.at_size import fill, make_account
from tests.support.counted import counting
from tests.support.stores import open_store
from tests.tree.test_tree import Mount, run

SIZE = 1_000


async def pages(folder: Folder) -> list[tuple[str, Node]]:
    """All that the kernel is told of a folder, as it asks for it: a little at a time."""
    listing, found, place = Listing(folder), list[tuple[str, Node]](), 0
    while True:
        await listing.look_from(place)
        told = list(islice(listing.after(place), 100))
        if not told:
            return [(name, node) for name, node in found if name not in {".", ".."}]
        found += [(name, node) for _place, name, node in told]
        place = told[-1][0]


async def listed(folder: Folder) -> list[str]:
    """The names in a folder."""
    return [name for name, _node in await pages(folder)]


def folder_at(mount: Mount, *path: str) -> SearchedDirectory:
    """A folder of links."""
    here: Node = mount.tree.root
    for name in path:
        assert isinstance(here, Folder)
        here = here.entries[name]
    assert isinstance(here, SearchedDirectory)
    return here


def views(mount: Mount) -> list[SearchedDirectory]:
    day = mount.tree.overview.days()[0]
    return [
        folder_at(mount, "unread"),
        folder_at(mount, "search", "station"),
        folder_at(mount, "by-date", search_index.day_name(day)),
    ]


@pytest.mark.parametrize("which", range(3), ids=["unread", "search", "day"])
def test_a_page_reads_what_is_in_it_and_nothing_else(tmp_path: Path, which: int) -> None:
    async def body(mount: Mount) -> None:
        await mount.tree.overview.load()
        folder = views(mount)[which]
        with counting() as read:
            await folder.look_from(0)
        assert read[Table.MESSAGES] <= 2 * PAGE
        assert read.total() <= 4 * PAGE
        with counting() as read:
            found = await pages(folder)
        assert len(found) == (SIZE // 2 if which == 0 else SIZE)
        assert read[Table.MESSAGES] <= len(found)  # each once, however many pages there are
        assert read.total() <= 3 * len(found)
        with counting() as read:
            assert len(await pages(folder)) == len(found)
        assert read[Table.MESSAGES] == 0

    make_account(tmp_path / "account", 20, SIZE)
    run(tmp_path / "account", body)


def test_what_stands_behind_a_conversation_that_was_left_is_listed(tmp_path: Path) -> None:
    """More of that is found at first than a page holds, and none of it is shown."""

    async def body(mount: Mount) -> None:
        await mount.tree.overview.load()
        unread, search, day = views(mount)
        assert [len(await listed(folder)) for folder in (search, day, unread)] == [6, 6, 3]

    store = open_store(tmp_path)
    fill(store, 1, 6, "bob")  # half of them one's own
    (left,) = fill(store, 1, 2 * (PAGE + 44), "carol")
    store.write(lambda writer: conversations.leave(writer, left.id))
    store.close()
    run(tmp_path, body)


def test_what_is_deleted_while_many_look_is_not_found(tmp_path: Path) -> None:
    """What is being looked for hears of it, though more folders are asked than are remembered."""

    async def body(mount: Mount) -> None:
        message = await mount.backend.arrive("bob", b"at the station")
        folder, _drafts = mount.tree.folders(message.conversation)
        known, asked = folder_at(mount, "search", "bob"), folder_at(mount, "search", "station")
        await known.look_from(0)
        get, found, may_go_on = history.get_message, trio.Event(), threading.Event()
        told: list[str] | None = None

        def get_message(*arguments: object) -> object:
            given = get(*arguments)  # type: ignore[arg-type]
            trio.from_thread.run_sync(found.set)
            assert may_go_on.wait(60)
            return given

        async def ask() -> None:
            nonlocal told
            await asked.look_from(0)
            told = list(asked.entries)

        with patch("cbfs.tree.virtual.message_links.get_message", get_message):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await found.wait()
                for number in range(LOOKS_MAX):
                    other = folder_at(mount, "search", f"word{number}")
                    nursery.start_soon(other.look_from, 0)
                    await wait_all_tasks_blocked()
                    await known.look_from(0)
                await mount.changes.unlink(folder, message.name)
                may_go_on.set()
        assert told == []
        looks = mount.view.search_folders._looks
        assert len(looks) <= LOOKS_MAX
        assert not any(look.is_busy for look in looks.values())

    run(tmp_path, body)


def test_what_comes_makes_nothing_be_found_anew(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        await mount.tree.overview.load()
        folders = views(mount)
        for folder in folders:
            await pages(folder)
        message = await mount.backend.arrive("person000001", b"at the station")
        with counting() as read:
            first = [(await listed(folder))[0] for folder in folders]
        assert first[:2] == [message.name] * 2  # it may be of another day than the others
        assert read.total() <= 4 * search_index.SEGMENT

    make_account(tmp_path / "account", 20, SIZE)
    run(tmp_path / "account", body)


def test_others_go_on_while_something_is_looked_for(tmp_path: Path) -> None:
    """It is done in a thread, which stands still here."""

    async def body(mount: Mount) -> None:
        found, looks, may_go_on = search_index.find, trio.Event(), threading.Event()

        def find(*arguments: object) -> object:
            trio.from_thread.run_sync(looks.set)
            assert may_go_on.wait(60)
            return found(*arguments)  # type: ignore[arg-type]

        with patch("cbfs.messages.search_index.find", find):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(folder_at(mount, "search", "station").look_from, 0)
                await looks.wait()
                message = await mount.backend.arrive("bob", b"another")
                folder, _drafts = mount.tree.folders(message.conversation)
                assert message.name in folder.entries
                may_go_on.set()

    make_account(tmp_path / "account", 20, SIZE)
    run(tmp_path / "account", body)


def test_others_go_on_while_a_transcript_is_read(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        entries, reads, may_go_on = history.transcript_entries, trio.Event(), threading.Event()

        def load(*arguments: object) -> object:
            trio.from_thread.run_sync(reads.set)
            assert may_go_on.wait(60)
            return entries(*arguments)  # type: ignore[arg-type]

        message = await mount.backend.arrive("bob", b"hello")
        folder, _drafts = mount.tree.folders(message.conversation)
        transcript = folder.entries["transcript"]
        assert isinstance(transcript, TranscriptFile)
        opened = transcript.opened()
        assert isinstance(opened, OpenTranscript)
        with patch("cbfs.tree.virtual.conversation_folder.transcript_entries", load):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(opened.read_apart, 0, 100)
                await reads.wait()
                assert message.name in folder.entries
                may_go_on.set()
        assert (await opened.read_apart(0, 100)).endswith(b"bob: hello\n")

    run(tmp_path, body)


@given(st.lists(st.sampled_from(("come", "go", "read", "look")), max_size=25), st.integers(2, 12))
@example(["come", "come", "look", "come", "go"], 2)  # what there was no room for is shown again
@example(["come", "come", "come", "look", "go", "go", "come"], 2)  # what there was more has gone
@settings(max_examples=25, deadline=None)
def test_views_show_the_newest_of_what_is_there(steps: list[str], most: int) -> None:
    """As a list says that is kept beside them; and when there is more, they say so."""

    async def body(mount: Mount) -> None:
        there: list[str] = []
        unread: list[str] = []
        texts = 0
        for step in (*steps, "look"):
            if step == "come":
                texts += 1
                message = await mount.backend.arrive("bob", b"word number %d" % texts)
                there.insert(0, message.name)
                unread.insert(0, message.name)
            elif step == "look":
                folders = {"unread": unread, "search/word": there, "search/number": there}
                for path, expected in folders.items():
                    names = await listed(folder_at(mount, *path.split("/")))
                    assert names == expected[:most] + [MORE] * (len(expected) > most), path
                for day in mount.tree.overview.days():
                    shown = await listed(folder_at(mount, "by-date", search_index.day_name(day)))
                    expected = [name for name in there if name[:10] == search_index.day_name(day)]
                    assert shown == expected[:most] + [MORE] * (len(expected) > most)
                assert bool(there) == bool(mount.tree.overview.days())
            elif there:
                name = there[len(there) // 2]
                (conversation,) = mount.backend.conversations()
                directory, _drafts = mount.tree.folders(conversation.id)
                node = directory.entries[name]
                if name in unread:
                    unread.remove(name)
                if step == "go":
                    there.remove(name)
                    await mount.changes.unlink(directory, name)
                else:
                    mount.view.search_folders.unread.read_up_to(node, node.size)
                    await mount.view.search_folders.unread.flush()

    with (
        patch("cbfs.tree.virtual.message_links.LINKS_MOST", most),
        TemporaryDirectory() as place,
    ):
        run(Path(place), body)


def test_what_the_kernel_knows_of_messages_takes_no_memory() -> None:
    """It may know a million, and asks for one of long ago by its number alone."""

    def again(inode: int) -> Node:
        return MessageFile(b"again", (inode - FIRST_MESSAGE, *(0,) * 11))  # type: ignore[arg-type]

    inodes = Inodes(Folder(1, Area.ROOT, 0), again)
    for serial in range(4 * REMEMBERED):
        inodes.count(MessageFile(b"", (serial, *(0,) * 11)))  # type: ignore[arg-type]
    kept = sum(inodes.known(FIRST_MESSAGE + s) is not None for s in range(4 * REMEMBERED))
    assert REMEMBERED <= kept <= 2 * REMEMBERED
    held = MessageFile(b"held", (1, *(0,) * 11))  # type: ignore[arg-type]
    inodes.opened(held)
    inodes.opened(held)
    inodes.closed(held)
    assert inodes.get(FIRST_MESSAGE + 1) is held
    inodes.closed(held)
    assert inodes.get(FIRST_MESSAGE + 1) is not held
    first = inodes.get(FIRST_MESSAGE)
    assert isinstance(first, MessageFile)
    assert first.conversation == b"again"
    assert inodes.get(FIRST_MESSAGE) is first


def test_what_was_forgotten_is_made_once_more_from_the_store(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        message = await mount.backend.arrive("bob", b"text")
        folder, _drafts = mount.tree.folders(message.conversation)
        node, inodes = folder.entries[message.name], mount.tree.inodes
        assert node.inode == FIRST_MESSAGE + message.serial
        same = inodes.get(node.inode)
        assert isinstance(same, MessageFile)
        assert mount.read(same) == b"text"
        await listed(folder_at(mount, "unread"))
        await listed(folder_at(mount, "search", "text"))
        for base, link in (
            (FIRST_UNREAD, folder_at(mount, "unread").entries[message.name]),
            (FIRST_FOUND, folder_at(mount, "search", "text").entries[message.name]),
        ):
            again = inodes.get(base + message.serial)
            assert isinstance(again, SymbolicLink)
            assert isinstance(link, SymbolicLink)
            assert (again.inode, again.target) == (link.inode, link.target)
        fresh = Inodes(mount.tree.root, mount.tree.inodes._remake)
        await mount.backend.store.commit(lambda writer: history.remove_message(writer, message))
        assert fresh.get(node.inode) is None
        assert fresh.get(FIRST_UNREAD + message.serial) is None

    run(tmp_path, body)
