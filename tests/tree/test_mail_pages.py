"""mail/ without a mount: what is kept of names, sizes and flags, and what kernels are given."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.engine.redating import Late, redate
from cbfs.messages.marks import mail_pages
from cbfs.messages.marks.mail_pages import Page, Row, decode_page, encode_page
from cbfs.messages.search_index import SEGMENT
from cbfs.storage.store import Table, Writer
from cbfs.tree.nodes import MAIL
from cbfs.tree.virtual.mail import mails, pages
from cbfs.tree.virtual.mail.mails import MailFile
from cbfs.tree.virtual.virtual_directory import VirtualDirectory
from cbfs_common.errors import DecodeError
from tests.tree.test_mail_folders import folder, names, rename, with_two
from tests.tree.test_tree import Mount, run

T = TypeVar("T")
PAGE = bytes(4) + b"\1"
"""The key of what is kept of the first messages."""

ROWS = st.builds(
    Row,
    st.binary(min_size=16, max_size=16),
    st.integers(-(1 << 61), 1 << 61),
    st.integers(0, (1 << 64) - 1),
    st.binary(min_size=8, max_size=8),
)


def mail_file(mount: Mount, path: str) -> MailFile:
    place, _, name = path.rpartition("/")
    node = mount.tree.lookup(folder(mount, place), name)
    assert isinstance(node, MailFile)
    return node


def test_flags_of_a_message_that_goes_meanwhile_leave_nothing(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        place = folder(mount, f"conversations/{mount.backend.conversations()[0].folder}")
        sayings = mount.tree.mail.sayings
        for flags in ("F", "FS"):
            old = names(mount, "mail/new")[0]
            await rename(mount, f"mail/new/{old}", f"mail/cur/{old}:2,{flags}")
            assert names(mount, "mail/cur") == [f"{old}:2,{flags}"]
            change = sayings.keep()  # it is on its way to the disk
            await mount.changes.unlink(place, next(iter(place.entries)))
            await mount.backend.store.commit(change)
            await sayings.store()
            assert names(mount, "mail/cur") == []
            assert old not in names(mount, "mail/new")
            with mount.backend.store.read() as reader:
                assert reader.get(Table.MAIL, bytes(4)) is None
        unread = folder(mount, "unread")
        assert isinstance(unread, VirtualDirectory)
        await unread.provider.look_from(0)  # type: ignore[attr-defined]
        assert not unread.entries

    with_two(tmp_path, body)


def test_what_was_said_last_is_stored(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        first, second = names(mount, "mail/new")
        messages = mount.backend.messages(mount.backend.conversations()[0].id)
        await rename(mount, f"mail/new/{first}", f"mail/cur/{first}:2,S")
        await rename(mount, f"mail/cur/{first}:2,S", f"mail/cur/{first}:2,")
        node = mount.tree.message_node(messages[0])
        mount.tree.search_folders.unread.read_up_to(node, node.size)
        await rename(mount, f"mail/new/{second}", f"mail/cur/{second}:2,S")
        await rename(mount, f"mail/cur/{second}:2,S", f"mail/new/{second}")
        await mount.tree.search_folders.unread.flush()
        await mount.tree.mail.sayings.store()

    async def later(mount: Mount) -> None:
        await mount.tree.overview.load()
        assert [name.endswith(":2,S") for name in names(mount, "mail/cur")] == [True]
        assert len(names(mount, "mail/new")) == 1

    with_two(tmp_path, body)
    run(tmp_path, later)


def test_many_names_cost_one_transaction(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        for number in range(200):
            await mount.backend.arrive("bob", b"%d\n" % number)
        await mount.tree.overview.load()
        commit, commits = mount.backend.store.commit, 0

        async def counted(change: Callable[[Writer], T]) -> T:
            nonlocal commits
            commits += 1
            return await commit(change)

        mount.backend.store.commit = counted  # type: ignore[method-assign, assignment]
        new = names(mount, "mail/new")
        for name in new:
            await rename(mount, f"mail/new/{name}", f"mail/cur/{name}:2,FS")
        await mount.tree.mail.sayings.store()
        assert 0 < commits < 20
        mount.tree.mail._notes.clear()
        assert names(mount, "mail/cur") == [f"{name}:2,FS" for name in new]

    run(tmp_path, body)


@given(st.dictionaries(st.integers(0, SEGMENT - 1), ROWS, min_size=1, max_size=SEGMENT))
def test_pages_come_back(page: Page) -> None:
    assert decode_page(encode_page(page)) == page


@given(st.binary(max_size=200))
def test_any_other_bytes_are_no_page(data: bytes) -> None:
    try:
        found = decode_page(data)
    except DecodeError:
        return
    assert encode_page(found) == data


@pytest.mark.parametrize(
    "page",
    [
        {},
        {SEGMENT: Row(bytes(16), 0)},
        {0: Row(bytes(16), 1 << 62)},
        {1: Row(bytes(16), -(1 << 62))},
    ],
)
def test_wrong_pages_are_refused(page: Page) -> None:
    with pytest.raises(DecodeError):
        decode_page(encode_page(page))


def fails(*_arguments: object) -> NoReturn:
    raise AssertionError("nothing of a message is to be read")


def test_the_next_mount_reads_no_message_for_names_and_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}

    async def body(mount: Mount) -> None:
        for name in names(mount, "mail/new"):
            assert mail_file(mount, f"mail/new/{name}").known_size is None
            seen[name] = len(mount.read(mail_file(mount, f"mail/new/{name}")))
        await mount.backend.store.commit(mount.tree.keep_times())

    async def later(mount: Mount) -> None:
        await mount.tree.overview.load()
        box = folder(mount, "mail/new")
        assert isinstance(box, VirtualDirectory)
        monkeypatch.setattr(pages, "get_message", fails)
        monkeypatch.setattr(mails, "get_message", fails)
        found = {name: node for _place, name, node in box.provider.page(0)}
        assert {name: node.size for name, node in found.items()} == seen
        assert all(isinstance(node, MailFile) and node.known_size for node in found.values())

    with_two(tmp_path, body)
    run(tmp_path, later)


def test_sizes_are_stored_while_many_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(mount: Mount) -> None:
        for number in range(3 * SEGMENT):
            await mount.backend.arrive("bob", b"%d\n" % number)
        await mount.tree.overview.load()
        for name in names(mount, "mail/new"):
            assert mail_file(mount, f"mail/new/{name}").size
        commit, stored = mount.backend.store.commit, []

        async def seen(change: Callable[[Writer], T]) -> T:
            stored.append(change)
            return await commit(change)

        mount.backend.store.commit = seen  # type: ignore[method-assign, assignment]
        await mount.tree.mail.pages._flush()
        assert stored
        with mount.backend.store.read() as reader:
            assert len(mail_pages.page_of(reader, 1)) == SEGMENT

    monkeypatch.setattr(pages, "FLUSH_AT", 1)
    monkeypatch.setattr(pages, "PAGES_MAX", 2)
    run(tmp_path, body)


def look(mount: Mount) -> Iterable[MailFile]:
    """All in new/, whose sizes are known then."""
    found = [mail_file(mount, f"mail/new/{name}") for name in names(mount, "mail/new")]
    for node in found:
        assert node.size == len(mount.read(node))
    return found


def test_what_is_kept_of_a_message_goes_with_it(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        place = folder(mount, f"conversations/{mount.backend.conversations()[0].folder}")
        look(mount)
        late = mount.tree.mail.keep()  # as if it came to the disk behind what deletes it
        await mount.backend.store.commit(mount.tree.mail.keep())
        for left in (1, 0):
            await mount.changes.unlink(place, next(iter(place.entries)))
            await mount.backend.store.commit(late)
            with mount.backend.store.read() as reader:
                data = reader.get(Table.MAIL, PAGE)
                assert len(data or b"") == left * len(encode_page({0: Row(bytes(16), 0)}))

    with_two(tmp_path, body)


def test_what_is_dated_anew_is_read_anew(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        look(mount)
        (message, _other) = mount.backend.messages(mount.backend.conversations()[0].id)
        await mount.backend.store.commit(mount.tree.mail.keep())
        late = Late(message.conversation, message.serial, 1_000)

        def change(writer: Writer) -> None:
            mount.view.messages_renamed(redate(writer, [late], 2_000))

        await mount.backend.store.commit(change)
        with mount.backend.store.read() as reader:
            assert len(mail_pages.page_of(reader, 0)) == 1
        assert f"2.M{message.serial}.cbfs" in names(mount, "mail/new")

    with_two(tmp_path, body)


def test_a_damaged_page_is_made_anew(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        await mount.backend.store.commit(lambda writer: writer.put(Table.MAIL, PAGE, b"damaged"))
        before = names(mount, "mail/new")
        assert len(before) == 2
        place = folder(mount, "mail/new")
        await mount.changes.unlink(place, before[0])
        assert names(mount, "mail/new") == before[1:]
        look(mount)
        await mount.backend.store.commit(mount.tree.mail.keep())
        with mount.backend.store.read() as reader:
            assert len(mail_pages.page_of(reader, 0)) == 1

    with_two(tmp_path, body)


class Told:
    """The inodes of which kernels are told that they have changed; all else is done at once."""

    def __init__(self) -> None:
        self.inodes: list[int] = []

    def touch(self, inode: int) -> None:
        self.inodes.append(inode)

    def outdate(self, _folder: int, _name: str) -> None:
        """No kernel knows names."""

    def remove(self, _path: str, leave: Callable[[], None]) -> None:
        leave()

    def move(self, _path: str, _new: str, change: Callable[[], None]) -> None:
        change()


def test_kernels_are_told_when_mails_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(mount: Mount) -> None:
        mount.tree.inodes.count(folder(mount, "mail"))
        assert MAIL in mount.tree.inodes
        first, second = look(mount)
        told = Told()
        mount.view.watchers.revealer = told  # type: ignore[assignment]
        before = first.give()
        assert first.is_given
        assert before == first.read(0, first.size)
        mount.view.contact_changed("bob")  # who is called as before
        assert first.is_given
        assert not told.inodes
        long = "the builder" * 9  # longer than what there is room for
        monkeypatch.setattr(type(mount.backend), "label", lambda _self, name: f"{name} {long}")
        mount.view.contact_changed("bob")
        assert not first.is_given
        assert first.was_another
        assert first.known_size is None
        await mount.backend.store.commit(lambda _writer: None)
        while {first.inode, second.inode} - set(told.inodes):
            await mount.backend.store.commit(lambda _writer: None)
        after = first.give()
        assert b"the builder" in after
        assert first.size == len(after) > len(before)
        told.inodes.clear()
        place = folder(mount, f"conversations/{mount.backend.conversations()[0].folder}")
        await mount.changes.unlink(place, next(iter(place.entries)))
        assert told.inodes.count(first.inode)
        assert not first.is_given
        mount.view.watchers.revealer = None

    with_two(tmp_path, body)


def test_large_mails_and_folders_are_not_given(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        await mount.backend.arrive("bob", b"x\n" * mails.GIVEN_MAX)
        await mount.backend.arrive("bob", b"\xff" * (mails.GIVEN_MAX - 100))  # base64 makes it so
        top = await mount.changes.mkdir(mount.tree.tmp, "photos")
        await mount.save(top, "a", b"a")
        await mount.backend.arrive_folder("bob", mount.tree, top)
        await mount.tree.overview.load()
        found = [mail_file(mount, f"mail/new/{name}") for name in names(mount, "mail/new")]
        assert [bool(node.give()) for node in found] == [True, True, False, False, False]
        assert [node.is_given for node in found] == [True, True, False, False, False]
        for node in found:
            assert len(mount.read(node)) == node.size

    with_two(tmp_path, body)


def test_of_mails_that_wait_to_be_opened_only_the_last_are_whole_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(mount: Mount) -> None:
        for number in range(10):
            await mount.backend.arrive("bob", b"%d\n" % number)
        await mount.tree.overview.load()
        for name in names(mount, "mail/new"):
            assert mail_file(mount, f"mail/new/{name}").size
        known = mount.tree.mail.mails
        assert len(known._ready) == mails.READY_MAX
        for name in names(mount, "mail/new"):
            mail_file(mount, f"mail/new/{name}").give()
        assert not known._ready
        assert len(known._given) <= mails.GIVEN_KEPT
        mount.tree.mail.forgotten(
            mail_file(mount, f"mail/new/{names(mount, 'mail/new')[-1]}").inode
        )

    monkeypatch.setattr(mails, "READY_MAX", 3)
    monkeypatch.setattr(mails, "GIVEN_KEPT", 4)
    run(tmp_path, body)
