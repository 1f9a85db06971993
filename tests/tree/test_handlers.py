"""What the handlers of a mount allow, and for how long a kernel may know a name. No kernel."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyfuse3
import pytest
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT

from cbfs.mount.attributes import CACHE_SECONDS, DRAFT_CACHE_SECONDS, Attributes
from cbfs.mount.handles import wanted
from cbfs.mount.notifier import Notifier
from cbfs.mount.operations import Operations
from cbfs.mount.single.operations import SingleOperations
from cbfs.mount.single.view import SingleView, conversation_called, make_tmp
from cbfs.mount.single.wire import OWN_HANDLE
from cbfs.tree.nodes import OUTBOX, ROOT, TMP, Folder
from cbfs.tree.processes import ProcFS
from cbfs_host.complaints import StoreError
from tests.tree.test_tree import Mount, run, until


@dataclass(frozen=True)
class User:
    """Who asks: not root, who may do everything."""

    pid: int = 0
    uid: int = 1_000

    @property
    def context(self) -> pyfuse3.RequestContext:
        return cast(pyfuse3.RequestContext, self)


USER = User().context


async def handlers(mount: Mount, place: Path, above: str) -> Operations:
    """Those of a mount that nobody but the user may ask. ``above`` has been looked up."""
    notifier, attributes = Notifier(mount.view.failed), Attributes(mount.view)
    operations = Operations(mount.view, notifier, attributes, ProcFS(), place, alone=True)
    await operations.lookup(InodeT(ROOT), name(above), USER)
    return operations


def name(text: str) -> FileNameT:
    return FileNameT(text.encode())


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        yield
    assert caught.value.errno == number, caught.value


@pytest.mark.parametrize(
    ("flags", "access"),
    [
        (os.O_RDONLY, os.R_OK),
        (os.O_WRONLY, os.W_OK),
        (os.O_RDWR, os.R_OK | os.W_OK),
        (os.O_RDONLY | os.O_TRUNC, os.R_OK | os.W_OK),
        (os.O_WRONLY | os.O_TRUNC | os.O_APPEND, os.W_OK),
    ],
)
def test_what_an_opening_asks_for(flags: int, access: int) -> None:
    assert wanted(flags) == access


def test_a_file_that_may_only_be_read_is_not_cut_off(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        operations = await handlers(mount, tmp_path, "tmp")
        file = await mount.save(mount.tree.tmp, "file", b"text")
        await mount.changes.describe(file, 0o400, None)
        await operations.lookup(InodeT(TMP), name("file"), USER)
        await operations.open(InodeT(file.inode), FlagT(os.O_RDONLY), USER)
        with refused(errno.EACCES):
            await operations.open(InodeT(file.inode), FlagT(os.O_RDONLY | os.O_TRUNC), USER)

    run(tmp_path, body)


def test_who_only_reads_cuts_a_file_off_as_well(tmp_path: Path) -> None:
    """As Linux file systems do: it is empty, and stored so, when the call returns."""

    async def body(mount: Mount) -> None:
        operations = await handlers(mount, tmp_path, "tmp")
        file = await mount.save(mount.tree.tmp, "file", b"text")
        await operations.lookup(InodeT(TMP), name("file"), USER)
        flags = FlagT(os.O_RDONLY | os.O_TRUNC)
        opened = await operations.open(InodeT(file.inode), flags, USER)
        assert await operations.read(opened.fh, 0, 100) == b""
        assert (file.size, file.writers, file.unfinished) == (0, 0, False)
        assert file.content is not None
        assert file.content.size == 0
        await operations.release(opened.fh)

    run(tmp_path, body)


def test_what_is_read_one_after_the_other_in_a_window_is_given_ahead(tmp_path: Path) -> None:
    """With the opening, its content; with the second of a row, those behind it. Once, but for what
    the kernel had to forget; and nothing of what somebody has open, or was removed."""

    async def body(mount: Mount) -> None:
        tree, watchers = mount.tree, mount.view.watchers
        texts = [b"text %d" % number for number in range(6)]
        messages = [await mount.backend.arrive("bob", text) for text in texts]
        conversation = conversation_called(tree, messages[0].conversation.hex())
        single = SingleView(tree, conversation, await make_tmp(tree))
        window = SingleOperations(mount.view, tmp_path, single, bytes(32))
        told: list[tuple[int, bytes]] = []
        window.outdate = lambda *what: told.append(what)
        watchers.observers.append(window)
        nodes = [tree.message_node(message) for message in messages]
        window.numbers.count(*nodes)
        numbers = [window.numbers.number(node) for node in nodes]

        async def opened(at: int) -> FileHandleT:
            return (await window.open(InodeT(numbers[at]), FlagT(os.O_RDONLY), USER)).fh

        first = await opened(0)
        assert window.offered(first) == texts[0]
        assert window.offered(first) == b""
        assert window.ahead(first) == []
        window.opened(numbers[3], OWN_HANDLE + 1)  # without a question
        assert await window.read(FileHandleT(OWN_HANDLE + 1), 0, 100) == texts[3]
        message = messages[4]
        await mount.changes.unlink(tree.folders(conversation.id)[0], message.name)
        second = await opened(1)
        assert window.offered(second) == texts[1]
        assert window.ahead(second) == [(numbers[2], texts[2]), (numbers[5], texts[5])]
        third = await opened(2)
        assert (window.offered(third), window.ahead(third)) == (b"", [])
        await window.release(third)
        watchers.touch(nodes[2].inode)
        watchers.left(single.folder.inode, message.name)
        folder = window.numbers.number(single.folder)
        assert told == [(numbers[2], b"")]
        window.numbers.count(single.folder)
        watchers.left(single.folder.inode, message.name)
        assert told[1:] == [(folder, message.name.encode())]
        assert window.offered(await opened(2)) == texts[2]
        await window.close()

    run(tmp_path, body)


def test_a_message_that_cannot_be_read_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads it is told why. It is offered again when it can be."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        message = await mount.backend.arrive("bob", b"text")
        conversation = conversation_called(tree, message.conversation.hex())
        single = SingleView(tree, conversation, await make_tmp(tree))
        window = SingleOperations(mount.view, tmp_path, single, bytes(32))
        node = tree.message_node(message)
        window.numbers.count(node)
        inode, flags = InodeT(window.numbers.number(node)), FlagT(os.O_RDONLY)

        def damaged(*_: object) -> bytes:
            raise StoreError("it is damaged")

        with monkeypatch.context() as patch:
            patch.setattr(tree.contents, "read", damaged)
            opened = await window.open(inode, flags, USER)
            assert window.offered(opened.fh) == b""
            with refused(errno.EIO):
                await window.read(opened.fh, 0, 100)
            await window.release(opened.fh)
        opened = await window.open(inode, flags, USER)
        assert window.offered(opened.fh) == b"text"
        await window.close()

    run(tmp_path, body)


def test_a_folder_that_may_not_be_written_stays_in_its_folder(tmp_path: Path) -> None:
    """As on a disk, where ``..`` is an entry of it."""

    async def body(mount: Mount) -> None:
        operations, tmp = await handlers(mount, tmp_path, "tmp"), mount.tree.tmp
        here, there = InodeT(TMP), await mount.changes.mkdir(tmp, "there")
        folder = await mount.changes.mkdir(tmp, "folder")
        await operations.lookup(here, name("there"), USER)
        below = InodeT(there.inode)
        await mount.changes.describe(folder, 0o500, None)
        with refused(errno.EACCES):
            await operations.rename(here, name("folder"), below, name("folder"), FlagT(0), USER)
        await operations.rename(here, name("folder"), here, name("other"), FlagT(0), USER)
        await mount.changes.describe(folder, 0o300, None)
        await operations.rename(here, name("other"), below, name("folder"), FlagT(0), USER)
        assert list(there.entries) == ["folder"]
        with refused(errno.ENOENT):
            await operations.rename(here, name("other"), below, name("more"), FlagT(0), USER)

    run(tmp_path, body)


def test_a_name_in_a_folder_whose_place_another_has_taken_is_soon_asked_for_again(
    tmp_path: Path,
) -> None:
    """What leaves is told of the folder that is there now."""

    async def body(mount: Mount) -> None:
        operations = await handlers(mount, tmp_path, "outbox")
        begun = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await operations.lookup(InodeT(OUTBOX), name("bob"), USER)
        await mount.save(begun, "first", b"first")
        await until(lambda: begun.alias is not None and "first" not in begun.alias.entries)
        proper = begun.alias
        assert isinstance(proper, Folder)
        (proper_name,) = (text for _place, text in proper.names)
        await operations.lookup(InodeT(OUTBOX), name(proper_name), USER)
        for number, (folder, seconds) in enumerate(
            ((proper, DRAFT_CACHE_SECONDS), (begun, CACHE_SECONDS))
        ):
            inode, text = InodeT(folder.inode), name(f"file{number}")
            flags = FlagT(os.O_WRONLY | os.O_CREAT)
            _file, made = await operations.create(inode, text, ModeT(0o600), flags, USER)
            assert made.entry_timeout == seconds
            assert (await operations.lookup(inode, text, USER)).entry_timeout == seconds

    run(tmp_path, body)
