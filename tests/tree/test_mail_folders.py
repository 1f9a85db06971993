"""mail/ without a mount: what is in new/ and cur/, and what names say and do."""

import email
import errno
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from cbfs.messages import conversations
from cbfs.messages.model import Message
from cbfs.storage.store import Table, Writer
from cbfs.storage.tables import WHOLE
from cbfs.tree.nodes import FIRST_MAIL, MAIL_CUR, MAIL_NEW, Folder, Node, Text
from cbfs.tree.virtual.mail.mails import MailFile
from cbfs.tree.virtual.virtual_directory import VirtualDirectory
from tests.tree.test_tree import Body, Mount, refused, run

T = TypeVar("T")


def folder(mount: Mount, path: str) -> Folder:
    here: Folder = mount.tree.root
    for name in path.split("/"):
        node = mount.tree.lookup(here, name)
        assert isinstance(node, Folder)
        here = node
    return here


def names(mount: Mount, path: str) -> list[str]:
    return sorted(folder(mount, path).entries)


def talk(mount: Mount) -> str:
    """The path of the Maildir of the one conversation."""
    (name,) = (n for n in names(mount, "mail") if n.startswith(".conversations."))
    return f"mail/{name}"


def mail(mount: Mount, path: str) -> EmailMessage:
    place, _, name = path.rpartition("/")
    node = mount.tree.lookup(folder(mount, place), name)
    assert isinstance(node, MailFile)
    data = mount.read(node)
    assert len(data) == node.size
    found = email.message_from_bytes(data, policy=default)
    assert isinstance(found, EmailMessage)
    return found


async def rename(mount: Mount, old: str, new: str) -> None:
    (place, _, name), (target, _, called) = old.rpartition("/"), new.rpartition("/")
    await mount.changes.rename(
        folder(mount, place), name, folder(mount, target), called, replace=True
    )


def with_two(tmp_path: Path, body: Body) -> None:
    """bob has sent two messages, which are not read."""

    async def main(mount: Mount) -> None:
        await mount.backend.arrive("bob", b"one\n")
        await mount.backend.arrive("bob", b"two\n")
        await mount.tree.overview.load()
        await body(mount)

    run(tmp_path, main)


def test_what_is_unread_is_new_in_both_maildirs(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        new = names(mount, "mail/new")
        assert len(new) == 2
        assert names(mount, f"{talk(mount)}/new") == new
        assert names(mount, "mail/cur") == names(mount, f"{talk(mount)}/cur") == []
        assert names(mount, "mail/tmp") == names(mount, f"{talk(mount)}/tmp") == []
        assert sorted(names(mount, talk(mount))) == ["cur", "new", "tmp"]
        first = mail(mount, f"mail/new/{new[0]}")
        assert first["From"] == "bob <bob@cbfs.invalid>"
        assert first["To"] == "alice <alice@cbfs.invalid>"
        assert first["Subject"] == "one"
        assert first.get_content() == "one\n"
        both = {
            mount.tree.lookup(folder(mount, p), new[0]).inode
            for p in ("mail/new", f"{talk(mount)}/new")
        }
        assert len(both) == 1

    with_two(tmp_path, body)


def test_what_is_read_elsewhere_is_seen_in_cur(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        first, second = names(mount, "mail/new")
        unread = mount.tree.search_folders.unread
        (message, _other) = mount.backend.messages(mount.backend.conversations()[0].id)
        node = mount.tree.message_node(message)
        unread.read_up_to(node, node.size)
        assert names(mount, "mail/new") == names(mount, f"{talk(mount)}/new") == [second]
        assert names(mount, "mail/cur") == names(mount, f"{talk(mount)}/cur") == [f"{first}:2,S"]
        with refused(errno.ENOENT):
            mount.tree.lookup(folder(mount, "mail/new"), first)

    with_two(tmp_path, body)


def test_a_name_with_s_says_that_it_is_read_and_one_without_that_it_is_not(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        first, second = names(mount, "mail/new")
        unread = folder(mount, "unread")
        assert isinstance(unread, VirtualDirectory)
        await unread.provider.look_from(0)  # type: ignore[attr-defined]
        assert len(unread.entries) == 2
        await rename(mount, f"mail/new/{first}", f"mail/cur/{first}:2,S")
        assert names(mount, "mail/new") == [second]
        assert names(mount, f"{talk(mount)}/cur") == [f"{first}:2,S"]
        await mount.tree.search_folders.unread.flush()
        assert len(unread.entries) == 1
        await rename(mount, f"mail/cur/{first}:2,S", f"mail/cur/{first}:2,")
        assert len(unread.entries) == 2
        assert names(mount, "mail/cur") == [f"{first}:2,"]
        await rename(mount, f"mail/cur/{first}:2,", f"mail/new/{first}")
        assert names(mount, "mail/new") == [first, second]
        assert names(mount, "mail/cur") == []
        await mount.tree.search_folders.unread.flush()
        assert len(unread.entries) == 2

    with_two(tmp_path, body)


def test_reading_and_taking_it_back_at_once_leaves_it_unread(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        first, second = names(mount, "mail/new")
        messages = mount.backend.messages(mount.backend.conversations()[0].id)
        node = mount.tree.message_node(messages[0])
        mount.tree.search_folders.unread.read_up_to(node, node.size)
        await rename(mount, f"mail/cur/{first}:2,S", f"mail/new/{first}")
        await mount.tree.search_folders.unread.flush()
        assert names(mount, "mail/new") == [first, second]
        assert mount.tree.overview.is_unread(messages[0].serial)

    with_two(tmp_path, body)
    run(tmp_path, still_unread)


async def still_unread(mount: Mount) -> None:
    await mount.tree.overview.load()
    assert len(names(mount, "mail/new")) == 2


def test_flags_are_kept_over_an_unmount(tmp_path: Path) -> None:
    seen: list[str] = []

    async def body(mount: Mount) -> None:
        first, second = names(mount, "mail/new")
        await rename(mount, f"mail/new/{first}", f"{'mail/cur'}/{first}:2,FRSa")
        await rename(mount, f"mail/new/{second}", f"mail/cur/{second},U=7:2,F")
        seen.extend(names(mount, "mail/cur"))
        assert len(seen) == 2
        assert set(seen) == {f"{first}:2,FRSa", f"{second},U=7:2,F"}
        await mount.tree.mail.sayings.store()

    async def later(mount: Mount) -> None:
        await mount.tree.overview.load()
        assert names(mount, "mail/cur") == names(mount, f"{talk(mount)}/cur") == seen
        for name in seen:
            mount.tree.lookup(folder(mount, "mail/cur"), name)

    with_two(tmp_path, body)
    run(tmp_path, later)


@pytest.mark.parametrize("way", ["rm", "T"])
def test_a_message_is_deleted(tmp_path: Path, way: str) -> None:
    async def body(mount: Mount) -> None:
        first, second = names(mount, "mail/new")
        await rename(mount, f"mail/new/{first}", f"mail/cur/{first}:2,F")
        node = mount.tree.lookup(folder(mount, "mail/cur"), f"{first}:2,F")
        assert isinstance(node, MailFile)
        opened = node.opened()
        if way == "rm":
            await mount.changes.unlink(folder(mount, "mail/cur"), f"{first}:2,F")
        else:
            await rename(mount, f"mail/cur/{first}:2,F", f"mail/cur/{first}:2,FT")
        assert names(mount, "mail/cur") == names(mount, f"{talk(mount)}/cur") == []
        assert names(mount, "mail/new") == [second]
        place = folder(mount, f"conversations/{mount.backend.conversations()[0].folder}")
        assert len([each for each in place.entries.values() if not isinstance(each, Text)]) == 1
        for read in (node.read, opened.read):
            with refused(errno.ESTALE):
                read(0, 10)
        with mount.backend.store.read() as reader:
            assert reader.get(Table.MAIL, bytes(4)) is None

    with_two(tmp_path, body)


def test_a_message_is_deleted_of_a_conversation_that_is_left_meanwhile(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        first, _second = names(mount, "mail/new")
        (conversation,) = mount.backend.conversations()
        delete = mount.backend.delete

        async def overtaken(message: Message) -> None:
            await mount.changes.rmdir(folder(mount, "outbox"), conversation.folder)
            await delete(message)

        mount.backend.delete = overtaken  # type: ignore[method-assign]
        await mount.changes.unlink(folder(mount, "mail/new"), first)
        assert names(mount, "mail/new") == []

    with_two(tmp_path, body)


def test_what_is_removed_under_conversations_is_gone(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        _first, second = names(mount, "mail/new")
        place = folder(mount, f"conversations/{mount.backend.conversations()[0].folder}")
        await mount.changes.unlink(place, next(iter(place.entries)))
        assert names(mount, "mail/new") == names(mount, f"{talk(mount)}/new") == [second]

    with_two(tmp_path, body)


def test_names_that_say_something_else_change_nothing(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        first, second = names(mount, "mail/new")
        for new in (
            f"mail/cur/{first}",
            f"mail/new/{first}:2,S",
            f"mail/cur/{second}:2,S",
            f"mail/cur/{first}:2,SF",
            "mail/cur/other:2,S",
            "mail/cur/1.M1.cbfs:2,S",
            f"{talk(mount)}/cur/{first}:2,S",
        ):
            with refused(errno.EPERM):
                await rename(mount, f"mail/new/{first}", new)
        for new in (f"mail/tmp/{first}", f"mail/{first}", f"conversations/{first}"):
            with refused(errno.EACCES):
                await rename(mount, f"mail/new/{first}", new)
        with refused(errno.EXDEV):
            await rename(mount, f"mail/new/{first}", f"tmp/{first}")
        assert names(mount, "mail/new") == [first, second]
        assert names(mount, "mail/cur") == []

    with_two(tmp_path, body)


def test_nothing_is_made_in_mail_but_what_programs_keep(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        for place in (
            "mail/new",
            "mail/cur",
            "mail/tmp",
            "mail",
            talk(mount),
            f"{talk(mount)}/tmp",
        ):
            with refused(errno.EACCES):
                mount.changes.create(folder(mount, place), "1.x.host", 0o600, None)
            name = "folder" if place == "mail" else ".folder"
            with refused(errno.EACCES):
                await mount.changes.mkdir(folder(mount, place), name)
        with refused(errno.EACCES):
            mount.changes.create(folder(mount, "mail"), ".conversations.x", 0o600, None)
        with refused(errno.EACCES):
            await mount.changes.mkdir(folder(mount, "mail"), ".conversations.x")
        drafts = await mount.changes.mkdir(folder(mount, "mail"), ".Drafts")
        await mount.save(drafts, "1.x.host", b"hello\n")
        for place in ("mail/new", "mail/tmp", talk(mount), "mail"):
            above, _, name = place.rpartition("/")
            with refused(errno.EACCES):
                await mount.changes.rmdir(folder(mount, above) if above else mount.tree.root, name)
        await mount.save(folder(mount, "mail"), ".uidvalidity", b"1\n")

    async def later(mount: Mount) -> None:
        assert mount.read(mount.tree.lookup(folder(mount, "mail"), ".uidvalidity")) == b"1\n"
        drafts = folder(mount, "mail/.Drafts")
        assert mount.read(mount.tree.lookup(drafts, "1.x.host")) == b"hello\n"

    with_two(tmp_path, body)
    run(tmp_path, later)


def test_stale_names_are_not_found(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        (first, _second) = names(mount, "mail/new")
        await rename(mount, f"mail/new/{first}", f"mail/cur/{first}:2,FS")
        cur = folder(mount, "mail/cur")
        mount.tree.lookup(cur, f"{first}:2,FS")
        for name in (first, f"{first}:2,S", f"{first}:2,F", f"{first}:2,SF", f"{first},U=1:2,FS"):
            with refused(errno.ENOENT):
                mount.tree.lookup(cur, name)

    with_two(tmp_path, body)


def test_ones_own_messages_are_read_and_answers_name_what_they_answer(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        outbox = folder(mount, f"outbox/{mount.backend.conversations()[0].folder}")
        await mount.save(outbox, "answer.txt", "Grüße\n".encode())
        with trio.fail_after(60):
            while not mount.backend.sent:
                await trio.sleep(0.01)
        (name,) = names(mount, "mail/cur")
        assert name.endswith(":2,S")
        own = mail(mount, f"mail/cur/{name}")
        assert own["From"] == "alice <alice@cbfs.invalid>"
        assert own["To"] == "bob <bob@cbfs.invalid>"
        assert own.get_filename() == "answer.txt"
        assert own.get_content() == "Grüße\n"
        heard = [mail(mount, f"mail/new/{each}")["Message-ID"] for each in names(mount, "mail/new")]
        assert set(own["References"].split()) <= set(heard)
        assert own["References"].split()

    with_two(tmp_path, body)


def test_a_folder_is_a_mail_with_its_files_and_loses_what_is_removed(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        top = await mount.changes.mkdir(tree.tmp, "photos")
        await mount.save(top, "a.txt", b"text\n")
        await mount.save(top, "b.jpg", b"\xff\xd8" * 40_000)
        await mount.save(top, "message", b"See these.\n")
        inner = await mount.changes.mkdir(top, "inner")
        await mount.save(inner, "c", b"deep")
        message = await mount.backend.arrive_folder("bob", tree, top)
        await tree.overview.load()
        (name,) = names(mount, "mail/new")
        found = mail(mount, f"mail/new/{name}")
        parts = {part.get_filename(): part for part in found.iter_parts()}
        assert list(parts) == ["message", "a.txt", "b.jpg", "inner.zip"]  # the text is read first
        assert parts["b.jpg"].get_payload(decode=True) == b"\xff\xd8" * 40_000
        assert found["Subject"] == "photos"
        place = tree.message_node(message)
        assert isinstance(place, Folder)
        node = tree.lookup(folder(mount, "mail/new"), name)
        assert isinstance(node, MailFile)
        opened = node.opened()
        await mount.changes.unlink(place, "b.jpg")
        with refused(errno.ESTALE):
            opened.read(0, 10)
        found = mail(mount, f"mail/new/{name}")
        left = [part.get_filename() for part in found.iter_parts()]
        assert left == ["message", "a.txt", "inner.zip"]
        await mount.changes.unlink(folder(mount, "mail/new"), name)
        assert mount.backend.message(message.conversation, message.serial) is None

    run(tmp_path, body)


def test_a_left_conversation_has_no_mail_and_comes_back(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        (conversation,) = mount.backend.conversations()
        await mount.changes.rmdir(folder(mount, "outbox"), conversation.folder)
        assert names(mount, "mail/new") == []
        assert names(mount, "mail") == ["cur", "new", "tmp"]
        await mount.backend.arrive("bob", b"three\n")
        assert len(names(mount, "mail/new")) == 3
        assert len(names(mount, f"{talk(mount)}/new")) == 3

    with_two(tmp_path, body)


def test_listing_goes_on_from_any_place(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        for number in range(600):
            await mount.backend.arrive(f"person-{number % 3}", b"%d\n" % number)
        await mount.tree.overview.load()
        new = names(mount, "mail/new")
        assert len(new) == 600
        for name in new[::2]:
            await rename(mount, f"mail/new/{name}", f"mail/cur/{name}:2,S")
        for path, count in (("mail/new", 300), ("mail/cur", 300)):
            box = folder(mount, path)
            assert isinstance(box, VirtualDirectory)
            listed = list(box.provider.page(0))
            assert len(listed) == count
            assert [place for place, _n, _f in listed] == sorted({place for place, *_ in listed})
            for index in range(0, count, 37):
                rest = list(box.provider.page(listed[index][0]))
                assert [name for _p, name, _n in rest] == [n for _p, n, _ in listed[index + 1 :]]

    run(tmp_path, body)


def test_a_node_that_the_kernel_has_known_for_long_is_made_again(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        (first, _second) = names(mount, "mail/new")
        node = mount.tree.lookup(folder(mount, "mail/new"), first)
        assert node.inode >= FIRST_MAIL
        again: Node | None = mount.tree.inodes.get(node.inode)
        assert isinstance(again, MailFile)
        assert mount.read(again) == mount.read(node)
        assert (again.inode, again.mtime_ns) == (node.inode, node.mtime_ns)
        await mount.changes.unlink(folder(mount, "mail/new"), first)
        mount.tree.inodes.forget(node.inode, 1)

    with_two(tmp_path, body)


def test_the_boxes_have_the_same_inodes_in_each_mount(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        assert folder(mount, "mail/new").inode == MAIL_NEW
        assert folder(mount, "mail/cur").inode == MAIL_CUR
        seen.append(
            [folder(mount, f"{talk(mount)}/{name}").inode for name in ("new", "cur", "tmp")]
        )

    seen: list[list[int]] = []
    with_two(tmp_path, body)
    run(tmp_path, body)
    assert seen[0] == seen[1]


def test_a_mail_of_a_left_conversation_is_not_read(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        first, _second = names(mount, "mail/new")
        node = mount.tree.lookup(folder(mount, "mail/new"), first)
        assert isinstance(node, MailFile)
        mount.tree.inodes.count(node, folder(mount, "mail/new"))
        opened = node.opened()
        assert opened.read(0, 10)
        revealer = Outdated()
        mount.view.watchers.revealer = revealer  # type: ignore[assignment]
        (conversation,) = mount.backend.conversations()
        await mount.changes.rmdir(folder(mount, "outbox"), conversation.folder)
        for read in (node.read, opened.read):
            with refused(errno.ESTALE):
                read(0, 10)
        assert (MAIL_NEW, first) in revealer.names
        mount.view.watchers.revealer = None

    with_two(tmp_path, body)


class Outdated:
    """What the kernel is to forget; all else is done at once."""

    def __init__(self) -> None:
        self.names: list[tuple[int, str]] = []

    def outdate(self, inode: int, name: str) -> None:
        self.names.append((inode, name))

    def touch(self, _inode: int) -> None:
        """Nothing is cached."""

    def remove_folder(self, _path: str, leave: Callable[[], None]) -> None:
        leave()


def test_long_names_of_conversations_are_cut(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        for number in range(2):
            key = bytes([number]) * 16
            made = await mount.backend.store.commit(
                lambda writer, key=key: conversations.add_conversation(  # type: ignore[misc]
                    writer, key, "bob", ("alice", "bob"), "ö" * 200, 1_795_445_162_123
                )
            )
            mount.view.conversation_added(made)
        found = [n for n in names(mount, "mail") if n.startswith(".conversations.")]
        assert len(found) == 2
        assert all(len(name.encode()) <= 255 for name in found)

    run(tmp_path, body)


def test_of_a_mail_nothing_is_stored_but_its_flags(tmp_path: Path) -> None:
    def records(mount: Mount) -> dict[tuple[Table, bytes], bytes]:
        with mount.backend.store.read() as reader:
            return {
                (table, key): reader.get(table, key) or b""
                for table in Table
                if table in WHOLE
                for key in reader.keys(table)
            }

    def count(mount: Mount) -> int:
        """How many entries LMDB has, of any table."""
        return int(mount.backend.store._env.stat()["entries"])

    async def body(mount: Mount) -> None:
        before, counted = records(mount), count(mount)
        for name in names(mount, "mail/new"):
            mail(mount, f"mail/new/{name}")
            await rename(mount, f"mail/new/{name}", f"mail/cur/{name}:2,FS")
        await mount.tree.mail.sayings.store()
        assert records(mount) == before
        assert count(mount) == counted + 1  # the record of flags
        with mount.backend.store.read() as reader:
            assert 0 < len(reader.get(Table.MAIL, bytes(4)) or b"") < 20

    with_two(tmp_path, body)


@pytest.mark.parametrize("news", ["contact", "directories"])
def test_what_people_are_called_is_looked_up_when_it_may_be_another(
    tmp_path: Path, news: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(mount: Mount) -> None:
        first, _second = names(mount, "mail/new")
        assert mail(mount, f"mail/new/{first}")["From"] == "bob <bob@cbfs.invalid>"
        monkeypatch.setattr(type(mount.backend), "label", lambda _self, name: f"{name} the builder")
        if news == "contact":
            mount.view.contact_changed("bob")
        else:
            mount.view.directories_changed()
        found = mail(mount, f"mail/new/{first}")
        assert found["From"] == "bob the builder <bob@cbfs.invalid>"

    with_two(tmp_path, body)


def test_damaged_flags_keep_no_message_from_being_listed_and_deleted(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        def damage(writer: Writer) -> None:
            writer.put(Table.MAIL, bytes(4), b"damaged")

        await mount.backend.store.commit(damage)
        first, second = names(mount, "mail/new")
        await mount.changes.unlink(folder(mount, "mail/new"), first)
        assert names(mount, "mail/new") == [second]

    with_two(tmp_path, body)


def test_a_number_that_no_message_can_have_is_not_found(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        for serial in (1 << 38) - 1, 1 << 38, 1 << 62:
            with refused(errno.ENOENT):
                mount.tree.lookup(folder(mount, "mail/new"), f"1.M{serial}.cbfs")

    with_two(tmp_path, body)
