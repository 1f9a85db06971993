"""mail/ without a mount: what it costs who looks there, and nobody else."""

import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from cbfs.messages import search_index
from cbfs.messages.content import read_content
from cbfs.messages.marks import mail_notes
from cbfs.messages.marks.mail_notes import Noted
from cbfs.messages.search_index import SEGMENT
from cbfs.storage.store import Reader, Writer
from cbfs.tree.nodes import MAIL_CUR, MAIL_NEW
from cbfs.tree.virtual.mail import mails
from cbfs.tree.virtual.mail.boxes import Box
from cbfs.tree.virtual.mail.mail_folders import MailFolders
from cbfs.tree.virtual.mail.mails import MailFile
from cbfs.tree.virtual.virtual_directory import SearchedDirectory
from tests.tree.test_mail_folders import folder, mail, names, talk, with_two
from tests.tree.test_tree import Mount, run


def test_of_a_folder_with_many_files_the_rest_is_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        top = await mount.changes.mkdir(tree.tmp, "photos")
        for name in ("a", "b", "c", "d", "more.zip"):
            await mount.save(top, name, name.encode())
        await mount.save(await mount.changes.mkdir(top, "x"), "y", b"deep")
        for _ in range(3):
            await mount.backend.arrive_folder("bob", tree, top)
        await tree.overview.load()
        new = names(mount, "mail/new")
        found = mail(mount, f"mail/new/{new[0]}")
        parts = {str(part.get_filename()): part for part in found.iter_parts()}
        assert len(parts) == 4
        (rest,) = (part for name, part in parts.items() if name.startswith("more"))
        data = rest.get_payload(decode=True)
        assert isinstance(data, bytes)
        with zipfile.ZipFile(BytesIO(data)) as archive:
            assert archive.testzip() is None
            packed = {each: archive.read(each) for each in archive.namelist()}
        assert len(packed) == 3
        assert len(set(parts) | set(packed)) >= 6
        nodes = [tree.lookup(folder(mount, "mail/new"), name) for name in new]
        for node in nodes:
            assert node.size
        assert [tree.mail.mails.known(n) is not None for n in (1, 2, 3)] == [
            False, True, True,
        ]  # fmt: skip
        node = nodes[2]
        assert isinstance(node, MailFile)
        opened, threads = node.opened(), set[int]()

        def seen(*arguments: object) -> bytes:
            threads.add(threading.get_ident())
            return read_content(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(mails, "read_content", seen)
        assert opened.packs
        assert await opened.read_apart(0, node.size) == opened.read(0, node.size)
        assert len(threads) == 2

    assert mails.MAIL_FILES_MAX == 256
    monkeypatch.setattr(mails, "MAIL_FILES_MAX", 4)
    monkeypatch.setattr(mails, "REMEMBERED", 20)
    run(tmp_path, body)


def test_what_was_taken_out_of_new_is_passed_quickly_and_others_go_on(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        for number in range(600):
            await mount.backend.arrive("bob", b"%d\n" % number)
        await mount.tree.overview.load()
        new = names(mount, "mail/new")
        serials = [int(name.split(".")[1][1:]) for name in new]

        def take(writer: Writer) -> None:
            for serial in serials[:-1]:
                mail_notes.note(writer, serial, Noted(taken=True))

        await mount.backend.store.commit(take)
        mount.tree.mail._notes.clear()
        box, turns = folder(mount, "mail/new"), 0
        assert isinstance(box, SearchedDirectory)

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await trio.lowlevel.checkpoint()
            turns = 0
            with reads_counted(mount) as count:
                await box.look_from(0)
            assert turns >= max(serials) // SEGMENT
            assert count() < 10 + 2 * (max(serials) // SEGMENT)
            nursery.cancel_scope.cancel()
        with reads_counted(mount) as count:
            (last,) = box.provider.page(0)
            assert count() < 5
        assert last[1] == max(new, key=lambda name: int(name.split(".")[1][1:]))
        await box.look_from(last[0])
        assert not list(box.provider.page(last[0]))
        mount.tree.overview.read(serials[-1])
        assert not list(box.provider.page(0))

    run(tmp_path, body)


@contextmanager
def reads_counted(mount: Mount) -> Iterator[Callable[[], int]]:
    """How many transactions have read the store."""
    reads, read = 0, mount.backend.store.read

    def counted() -> AbstractContextManager[Reader]:
        nonlocal reads
        reads += 1
        return read()

    mount.backend.store.read = counted  # type: ignore[method-assign]
    yield lambda: reads
    mount.backend.store.read = read  # type: ignore[method-assign]


def test_reading_costs_mail_nothing_that_nobody_looks_at(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        before = folder(mount, "mail/new").modified_ns
        with reads_counted(mount) as count:
            mount.tree.overview.read(1)
            assert count() == 0
        assert folder(mount, "mail/new").modified_ns > before

    with_two(tmp_path, body)


def test_a_fault_in_mail_leaves_a_message_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> NoReturn:
        raise RuntimeError

    async def body(mount: Mount) -> None:
        mount.tree.overview.heard.append(fails)
        (message, other) = mount.backend.messages(mount.backend.conversations()[0].id)
        node = mount.tree.message_node(message)
        mount.tree.search_folders.unread.read_up_to(node, node.size)
        await mount.tree.search_folders.unread.flush()
        with mount.backend.store.read() as reader:
            known = search_index.entries(reader, 0)
        assert [unread for *_, unread in known] == [False, True]
        assert b"fault" in mount.view.status.render()
        monkeypatch.setattr(mount.tree.mail, "ending", fails)
        mount.view.message_ended(other)
        assert not mount.tree.overview.is_unread(other.serial)

    with_two(tmp_path, body)


def test_a_stranger_changes_no_box(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        names(mount, f"{talk(mount)}/new")
        own = f"{talk(mount)}/new"
        common, before = folder(mount, "mail/new"), folder(mount, own).modified_ns
        seen = common.modified_ns
        mount.view.contact_changed("carol")
        assert (common.modified_ns, folder(mount, own).modified_ns) == (seen, before)
        await mount.backend.arrive("carol", b"hello\n")
        assert common.modified_ns > seen
        assert folder(mount, own).modified_ns == before

    with_two(tmp_path, body)


def test_boxes_of_a_conversation_are_made_when_somebody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    box = MailFolders.box

    def seen(self: MailFolders, inode: int, scope: bytes | None, *, is_new: bool) -> Box:
        made.append(inode)
        return box(self, inode, scope, is_new=is_new)

    async def body(mount: Mount) -> None:
        names(mount, "mail")
        folder(mount, talk(mount))
        assert made == [MAIL_NEW, MAIL_CUR]
        assert len(names(mount, f"{talk(mount)}/new")) == 2
        assert len(made) == 4

    monkeypatch.setattr(MailFolders, "box", seen)
    with_two(tmp_path, body)
