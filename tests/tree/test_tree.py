"""The tree and the outbox without a mount, over a real store and a backend without network."""

import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from cbfs.mount.view import MountView
from cbfs.problems import Refused
from cbfs.tree.changes import Changes
from cbfs.tree.nodes import File, Folder, MessageFile, Node, SymbolicLink, Text
from cbfs.tree.processes import Process
from cbfs.tree.restore import restore
from cbfs.tree.rules import TreeError
from cbfs.tree.tree import Tree
from cbfs.tree.unsent import settle
from cbfs.tree.write_buffer import BLOCK
from cbfs_common.limits import BLOB_SIZE_MAX
from tests.support.fake_backend import NOBODY, FakeBackend
from tests.support.stores import open_store

FINISH = 60.0
"""Seconds that a test may wait for what must happen."""


class Quiet:
    """No process lives."""

    def is_alive(self, process: Process) -> bool:
        return False

    def is_running(self, pid: int) -> bool:
        return False

    def of_thread(self, thread: int) -> Process | None:
        return None

    def above(self, process: Process) -> tuple[Process, ...]:
        return ()

    def goes_on(self, process: Process, ended: Process) -> bool:
        return False


class Mount:
    """What the mount shows, and its tree, at work."""

    def __init__(self, backend: FakeBackend, view: MountView) -> None:
        self.backend = backend
        self.view = view
        self.tree: Tree = view.tree
        self.changes = Changes(view.tree)

    async def save(self, folder: Folder, name: str, data: bytes) -> File:
        """As a program saves: create, write, close."""
        file = self.changes.create(folder, name, 0o600, None)
        file.writers += 1
        file.handles += 1
        await self.tree.contents.write(file, 0, data)
        await self.close(file)
        return file

    async def close(self, file: File) -> None:
        await self.tree.contents.save(file)
        file.writers -= 1
        file.handles -= 1
        self.tree.contents.closed(file)
        if not file.handles:
            await self.tree.contents.released(file)

    def read(self, node: Node) -> bytes:
        return self.tree.contents.read(node, 0, node.size)


async def until(look: Callable[[], object]) -> None:
    """What the tree does is done on this thread: looking again is enough."""
    with trio.fail_after(FINISH):
        while not look():
            await trio.sleep(0.01)


Body = Callable[[Mount], Awaitable[None]]


def run(place: Path, body: Body, *, grace: float = 0.0) -> None:
    """One mount of the account in ``place``."""

    async def main() -> None:
        store = open_store(place)
        async with trio.open_nursery() as committer:
            await committer.start(store.run)
            async with trio.open_nursery() as nursery:
                backend = FakeBackend(store)
                view = MountView(backend, Quiet(), grace, nursery)
                await store.commit(restore(view.tree))
                backend.attach(view)
                nursery.start_soon(view.run)
                await body(Mount(backend, view))
                nursery.cancel_scope.cancel()
            committer.cancel_scope.cancel()
        store.close()

    trio.run(main)


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(TreeError) as caught:
        yield
    assert caught.value.errno == number, errno.errorcode[caught.value.errno]


def only(folder: Folder) -> MessageFile:
    """The one message of a conversation."""
    (message,) = [node for node in folder.entries.values() if isinstance(node, MessageFile)]
    return message


@pytest.mark.slow
def test_a_file_becomes_a_message_and_its_folder_a_conversation(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree, backend = mount.tree, mount.backend
        folder = await mount.changes.mkdir(tree.outbox, "bob,carol lunch")
        await until(lambda: backend.prepared == {"bob", "carol"})
        await mount.save(folder, "photo.jpg", b"hello")
        await until(lambda: backend.sent)
        ((message, data),) = backend.sent
        assert data == b"hello"
        assert message.name.endswith("-alice-photo.jpg")
        (conversation,) = backend.conversations()
        assert conversation.participants == ("alice", "bob", "carol")
        assert conversation.subject == "lunch"
        there, drafts = tree.folders(conversation.id)
        assert mount.read(only(there)) == b"hello"
        alias = tree.lookup(tree.outbox, "bob,carol lunch")
        assert isinstance(alias, SymbolicLink)
        assert alias.target == conversation.folder
        await until(lambda: "photo.jpg" not in drafts.entries)
        assert isinstance(tree.lookup(drafts, "metadata.toml"), Text)

    run(tmp_path, body)


def test_metadata_says_whom_a_folder_of_any_name_is_for(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.tmp, "Our lunch")
        metadata = b'participants = ["carol", "bob"]\nsubject = "lunch"\n'
        await mount.save(folder, "metadata.toml", metadata)
        await mount.save(folder, "hi", b"hello")
        assert not mount.backend.sent
        await mount.changes.rename(tree.tmp, "Our lunch", tree.outbox, "Our lunch", replace=False)
        await until(lambda: mount.backend.sent)
        (conversation,) = mount.backend.conversations()
        assert conversation.participants == ("alice", "bob", "carol")
        assert conversation.subject == "lunch"
        assert [data for _, data in mount.backend.sent] == [b"hello"]

    run(tmp_path, body)


def test_several_files_of_a_new_folder_are_one_conversation(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        for number in range(5):
            await mount.save(folder.alias or folder, f"f{number}", b"text %d" % number)
        await until(lambda: len(mount.backend.sent) == 5)
        assert len(mount.backend.conversations()) == 1
        assert [data for _, data in mount.backend.sent] == [b"text %d" % n for n in range(5)]

    run(tmp_path, body)


@pytest.mark.slow
def test_an_error_file_says_why_and_goes_when_it_is_mended(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, NOBODY)
        await until(lambda: f"{NOBODY}.error" in tree.outbox.entries)
        error = tree.lookup(tree.outbox, f"{NOBODY}.error")
        assert NOBODY.encode() in mount.read(error)
        await mount.save(folder, "hi", b"hello")
        await until(lambda: "hi.error" in folder.entries)
        await mount.changes.rename(tree.outbox, NOBODY, tree.outbox, "bob", replace=False)
        await mount.changes.rename(folder, "hi", folder, "hello", replace=False)
        await until(lambda: mount.backend.sent)

    run(tmp_path, body)


def test_an_error_file_can_be_removed(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        await mount.changes.mkdir(tree.outbox, NOBODY)
        await until(lambda: f"{NOBODY}.error" in tree.outbox.entries)
        await mount.changes.unlink(tree.outbox, f"{NOBODY}.error")
        assert f"{NOBODY}.error" not in tree.outbox.entries

    run(tmp_path, body)


def test_what_cannot_be_sent_now_goes_when_it_can(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        mount.backend.down = True
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await mount.save(folder, "hi", b"hello")
        await until(lambda: b"does not answer" in mount.view.status.render())
        mount.backend.down = False
        mount.view.retry()
        await until(lambda: mount.backend.sent)

    run(tmp_path, body)


def test_nothing_is_sent_while_it_rests_and_rm_takes_it_back(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await mount.save(folder, "hi", b"hello")
        await until(lambda: b"bob/hi" in mount.view.status.render())
        await mount.changes.unlink(folder, "hi")
        await until(lambda: b"bob/hi" not in mount.view.status.render())
        assert not mount.backend.sent

    run(tmp_path, body, grace=3600.0)


def test_names_and_contents_survive_the_mount_but_tmp_does_not(tmp_path: Path) -> None:
    large = os.urandom(3 * BLOCK + 5)

    async def write(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await mount.save(folder, "draft", b"a draft")
        deep = await mount.changes.mkdir(await mount.changes.mkdir(tree.ui_info, "client"), "state")
        await mount.save(deep, "large", large)
        await mount.changes.symlink(deep, "link", "large", None)
        await mount.changes.link(tree.lookup(deep, "large"), deep, "other")
        await mount.save(tree.tmp, "scratch", b"gone")
        await mount.save(deep, "removed", b"gone")
        await mount.changes.unlink(deep, "removed")

    async def read(mount: Mount) -> None:
        tree = mount.tree
        client = tree.lookup(tree.ui_info, "client")
        assert isinstance(client, Folder)
        deep = tree.lookup(client, "state")
        assert isinstance(deep, Folder)
        assert set(deep.entries) == {"large", "link", "other"}
        assert mount.read(deep.entries["large"]) == large
        assert deep.entries["other"] is deep.entries["large"]
        assert not tree.tmp.entries
        folder = tree.lookup(tree.outbox, "bob")
        assert isinstance(folder, Folder)
        assert mount.read(folder.entries["draft"]) == b"a draft"

    run(tmp_path, write, grace=3600.0)
    run(tmp_path, read, grace=3600.0)


def test_a_sent_file_is_no_draft_after_restart(tmp_path: Path) -> None:
    async def write(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await mount.save(folder, "hi", b"hello")
        await until(lambda: mount.backend.sent)

    async def read(mount: Mount) -> None:
        (conversation,) = mount.backend.conversations()
        there, drafts = mount.tree.folders(conversation.id)
        assert mount.read(only(there)) == b"hello"
        assert set(drafts.entries) == {"metadata.toml"}
        assert set(mount.tree.outbox.entries) == {conversation.folder}

    run(tmp_path, write)
    run(tmp_path, read)


def test_the_other_files_of_a_new_conversation_stay_with_it(tmp_path: Path) -> None:
    """The transaction that begins the conversation takes them along."""

    async def write(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        held = await mount.save(folder, "later", b"held")
        await mount.changes.describe(held, None, time.time_ns() + 10**12)
        await mount.save(folder, "hi", b"hello")
        await until(lambda: mount.backend.sent)

    async def read(mount: Mount) -> None:
        (conversation,) = mount.backend.conversations()
        _, drafts = mount.tree.folders(conversation.id)
        assert set(drafts.entries) == {"metadata.toml", "later"}
        assert set(mount.tree.outbox.entries) == {conversation.folder}

    run(tmp_path, write)
    run(tmp_path, read, grace=3600.0)


def test_a_write_after_sending_is_a_new_message_and_leaves_the_old(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        file = await mount.save(folder, "hi", b"hello")
        await until(lambda: mount.backend.sent)
        file.writers += 1
        file.handles += 1
        await mount.tree.contents.write(file, 5, b" again")
        await mount.close(file)
        await until(lambda: len(mount.backend.sent) == 2)
        (conversation,) = mount.backend.conversations()
        messages = mount.backend.messages(conversation.id)
        texts = [mount.read(mount.tree.message_node(message)) for message in messages]
        assert texts == [b"hello", b"hello again"]

    run(tmp_path, body)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        await mount.backend.arrive("bob", b"hello")
        (conversation,) = mount.backend.conversations()
        there, drafts = tree.folders(conversation.id)
        message = only(there)
        for folder in (tree.root, tree.conversations, tree.contacts, tree.outbox, there):
            with refused(errno.EACCES):
                mount.changes.create(folder, "new", 0o600, None)
        for folder in (tree.root, tree.conversations, there):
            with refused(errno.EACCES):
                await mount.changes.mkdir(folder, "new")
        with refused(errno.EPERM):
            await mount.changes.mkdir(drafts, "new")
        with refused(errno.EACCES):
            await mount.changes.rmdir(tree.root, "outbox")
        with refused(errno.ENOTEMPTY):
            await mount.changes.rmdir(tree.conversations, conversation.folder)
        with refused(errno.EACCES):
            await mount.changes.unlink(there, "metadata.toml")
        for folder in (tree.tmp, tree.ui_info, drafts):  # mv then copies
            with refused(errno.EXDEV):
                await mount.changes.rename(there, message.entry[2], folder, "x", replace=True)
        with refused(errno.EACCES):
            await mount.changes.rename(there, message.entry[2], tree.contacts, "x", replace=True)
        with refused(errno.EPERM):
            await mount.changes.describe(message, 0o777, None)
        with refused(errno.EEXIST):
            await mount.changes.mkdir(tree.outbox, conversation.folder)
        with refused(errno.ENOENT):
            await mount.changes.unlink(there, "no such")

    run(tmp_path, body)


def test_limits(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        file = mount.changes.create(tree.tmp, "n" * 255, 0o600, None)
        with refused(errno.ENAMETOOLONG):
            mount.changes.create(tree.tmp, "n" * 256, 0o600, None)
        with refused(errno.ENAMETOOLONG):
            mount.changes.create(tree.tmp, "é" * 128, 0o600, None)
        with refused(errno.EFBIG):
            await tree.contents.write(file, BLOB_SIZE_MAX, b"x")
        with refused(errno.EFBIG):
            await tree.contents.truncate(file, BLOB_SIZE_MAX + 1)
        assert file.size == 0

    run(tmp_path, body)


def test_a_deleted_message_is_gone(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        message = await mount.backend.arrive("bob", b"hello")
        there, _ = mount.tree.folders(message.conversation)
        await mount.changes.unlink(there, message.name)
        assert message.name not in there.entries
        assert mount.backend.messages(message.conversation) == ()

    run(tmp_path, body)


def test_an_unlinked_file_is_read_by_those_who_have_it_open(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        file = await mount.save(tree.tmp, "f", b"hello")
        file.handles += 1
        await mount.changes.unlink(tree.tmp, "f")
        assert mount.read(file) == b"hello"

    run(tmp_path, body)


def unexpected(*_: object) -> NoReturn:
    raise AssertionError("this must not be called")


def test_looking_makes_no_traffic(tmp_path: Path) -> None:
    """Indexers read everything: nothing of it may reach the backend's network side."""

    async def body(mount: Mount) -> None:
        message = await mount.backend.arrive("bob", b"hello")
        there, _ = mount.tree.folders(message.conversation)
        backend = mount.backend
        for name in ("send", "prepare", "delete"):
            vars(backend)[name] = unexpected
        pending: list[Folder] = [mount.tree.root]
        while pending:
            for node in list(pending.pop().entries.values()):
                if isinstance(node, Folder):
                    pending.append(node)
                elif not isinstance(node, SymbolicLink):
                    mount.read(node)
        assert mount.read(only(there)) == b"hello"

    run(tmp_path, body)


async def move_in(mount: Mount, begun: Folder) -> None:
    await mount.changes.rename(mount.tree.tmp, "from", begun, "to", replace=True)


async def move_on(mount: Mount, begun: Folder) -> None:
    await mount.changes.rename(begun, "one", begun, "to", replace=True)


async def link(mount: Mount, begun: Folder) -> None:
    await mount.changes.link(begun.entries["one"], begun, "to")


async def unlink(mount: Mount, begun: Folder) -> None:
    await mount.changes.unlink(begun, "one")


async def rmdir(mount: Mount, begun: Folder) -> None:
    await mount.changes.rmdir(begun, "folder")


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (move_in, {"one", "folder", "to"}),
        (move_on, {"folder", "to"}),
        (link, {"one", "folder", "to"}),
        (unlink, {"folder"}),
        (rmdir, {"one"}),
    ],
)
def test_what_waited_for_a_message_on_its_way_is_done_where_its_folder_is_now(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Mount, Folder], Awaitable[None]],
    left: set[str],
) -> None:
    """While a change waits, the conversation begins, and its folder takes the place of the one that
    the user has made."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        message = await mount.backend.arrive("bob", b"hello")
        await until(lambda: tree.outbox.entries)
        _there, drafts = tree.folders(message.conversation)
        begun = await mount.changes.mkdir(tree.outbox, "bob")
        await mount.save(begun, "one", b"1")
        await mount.save(tree.tmp, "from", b"2")
        await mount.changes.mkdir(tree.tmp, "folder")
        await mount.changes.rename(tree.tmp, "folder", begun, "folder", replace=False)

        async def settle_and_begin(*nodes: Node | None) -> None:
            await settle(*nodes)
            monkeypatch.setattr("cbfs.tree.changes.settle", settle)
            mount.view.outbox.bind(begun, message.conversation)

        monkeypatch.setattr("cbfs.tree.changes.settle", settle_and_begin)
        await change(mount, begun)
        assert set(drafts.entries) - {"metadata.toml"} == left
        assert not begun.entries

    run(tmp_path, body, grace=1_000)


def test_a_line_that_is_written_while_another_one_is_added_is_added_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a file of its own, as soon as what writes the one has closed it."""

    async def body(mount: Mount) -> None:
        added: list[str] = []
        go_on, contacts = trio.Event(), mount.tree.contacts

        async def add(line: str) -> None:
            added.append(line)
            await go_on.wait()

        async def paste(line: bytes) -> None:
            file = mount.changes.create(contacts, "NEW", 0o600, None)
            await mount.tree.contents.write(file, 0, line)
            await mount.changes.check_close(file)
            await mount.changes.close(file)

        monkeypatch.setattr(mount.backend, "add", add)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(paste, b"one")
            await until(lambda: added)
            nursery.start_soon(paste, b"two")
            await until(lambda: len(added) == 2)
            assert "NEW" not in contacts.entries
            go_on.set()
        assert added == ["one", "two"]
        assert set(contacts.entries) == {"bob"}

    run(tmp_path, body)


def test_why_a_line_adds_nobody_is_shown_until_another_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(mount: Mount) -> None:
        contacts = mount.tree.contacts

        async def add(_line: str) -> None:
            """It is taken."""

        async def paste() -> None:
            file = mount.changes.create(contacts, "NEW", 0o600, None)
            await mount.tree.contents.write(file, 0, b"a line")
            await mount.changes.check_close(file)

        with pytest.raises(TreeError, match="EINVAL"):
            await paste()
        said = contacts.entries["NEW.error"]
        assert b"there are none here" in mount.read(said)
        for why in ("it was used", "it is too old"):
            mount.view.line_refused(Refused(why, "ask for another"))
            said = contacts.entries["NEW.error"]
            assert mount.read(said).startswith(b"Nobody was added: " + why.encode())
        monkeypatch.setattr(mount.backend, "add", add)
        await paste()
        assert set(contacts.entries) == {"bob"}

    run(tmp_path, body)
