"""What waits in the spool becomes drafts when a mount begins, each once whatever ends it."""

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.spool import Spool, SpoolKey, decode_keys
from cbfs.commands.mount import spooled as taking
from cbfs.commands.mount.spooled import Drafts, held_spool, take_in
from cbfs.commands.sendmail import letter as letters
from cbfs.commands.sendmail.letter import Letter, Recipient, encode_letter
from cbfs.messages.mail_ids import MailId
from cbfs.mount.view import MountView
from cbfs.storage.encoding import pack, u32
from cbfs.storage.store import CannotWrite, Meta, Store, Table
from cbfs.tree.changes import Changes
from cbfs.tree.nodes import File, Folder
from cbfs.tree.restore import restore
from cbfs_common.errors import CryptoError, DecodeError
from tests.support.fake_backend import NOBODY, FakeBackend
from tests.support.stores import open_store
from tests.tree.test_tree import Quiet, until

BOB, CAROL = Recipient("bob"), Recipient("carol", is_address=True)


def letter(text: str, *people: Recipient, subject: str = "", folder: str = "") -> Letter:
    files: tuple[tuple[str, bytes], ...] = (("message", text.encode()),)
    if folder:
        files = (*files, ("empty", b""))
    return Letter(people or (BOB,), (), subject, (), folder, files)


class Place:
    """An account directory with a spool, and a mount of it that begins again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = Spool(path)

    def add(self, each: Letter) -> None:
        self.spool.add(encode_letter(each), SYSTEM_RANDOM)

    def secrets(self) -> tuple[SpoolKey, ...]:
        """Those that the store has."""
        store = open_store(self.path)
        try:
            with store.read() as reader:
                return decode_keys(reader.get(Table.META, Meta.SPOOL_KEY) or b"")
        finally:
            store.close()

    def mount(
        self, body: Callable[[FakeBackend, MountView], Awaitable[None]] | None = None
    ) -> list[str]:
        """Take what waits; then what ``body`` does. Gives what is in outbox/ then, as paths."""
        found: list[str] = []

        async def main() -> None:
            store = open_store(self.path)
            try:
                async with trio.open_nursery() as committer:
                    await committer.start(store.run)
                    async with trio.open_nursery() as nursery:
                        await life(FakeBackend(store), nursery)
                        nursery.cancel_scope.cancel()
                    committer.cancel_scope.cancel()
            finally:
                store.close()

        async def life(backend: FakeBackend, nursery: trio.Nursery) -> None:
            view = MountView(backend, Quiet(), 0.0, nursery)
            backend.attach(view)
            spool = await held_spool(self.path)
            assert spool is not None
            try:
                await take_in(view.tree, spool, SYSTEM_RANDOM)
            finally:
                spool.release()
            await backend.store.commit(restore(view.tree))
            found.extend(paths(view.tree.outbox))
            if body:
                nursery.start_soon(view.run)
                await body(backend, view)

        trio.run(main)
        return found


def paths(folder: Folder, above: str = "") -> list[str]:
    found = []
    for name, node in sorted(folder.entries.items()):
        if isinstance(node, Folder):
            found += [f"{above}{name}/", *paths(node, f"{above}{name}/")]
        elif name.startswith("mail-"):
            found.append(f"{above}MAIL")
        else:
            found.append(above + name)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    assert made.mount() == []
    return made


def test_a_letter_becomes_a_draft_with_its_people(place: Place) -> None:
    place.add(letter("hello", BOB, CAROL, subject="lunch"))
    found = place.mount()
    assert found == ["bob,carol lunch/", "bob,carol lunch/MAIL", "bob,carol lunch/metadata.toml"]
    assert place.spool.waiting() == []
    assert place.mount() == found


def test_it_is_sent_as_any_other(place: Place) -> None:
    async def body(backend: FakeBackend, _view: MountView) -> None:
        await until(lambda: backend.sent)
        ((message, data),) = backend.sent
        (conversation,) = backend.conversations()
        assert conversation.participants == ("alice", "bob", "carol")
        assert (conversation.subject, message.folder, data) == ("lunch", False, b"hello")

    place.add(letter("hello", BOB, CAROL, subject="lunch"))
    place.mount(body)


def test_a_folder_is_one_message(place: Place) -> None:
    async def body(backend: FakeBackend, _view: MountView) -> None:
        await until(lambda: backend.sent)
        ((message, data),) = backend.sent
        assert (message.folder, message.file_name) == (True, "photos")
        assert data.endswith(b"see")

    place.add(letter("see", folder="photos"))
    place.mount(body)


def test_an_address_is_not_the_one_whom_another_is_called_by(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(_backend: FakeBackend, text: str) -> str:
        return {"bob": "carol", "@bob": "bob"}.get(text, text)

    monkeypatch.setattr(FakeBackend, "called", called)
    people = (Recipient("bob", is_address=True), BOB, CAROL)
    place.add(Letter((), people, "x", (), "", (("message", b"hi"),)))
    assert [each for each in place.mount() if each.endswith("/")] == ["@bob x/", "bob x/"]


@pytest.mark.parametrize("name", ["metadata.toml", "desktop.ini", "x.part"])
def test_no_name_of_a_folder_keeps_it_from_being_sent(place: Place, name: str) -> None:
    """Also where what puts letters there does not see to that."""

    async def body(backend: FakeBackend, _view: MountView) -> None:
        await until(lambda: backend.sent)
        ((message, data),) = backend.sent
        assert (message.file_name, data.endswith(b"see")) == (f"{name}_", True)

    place.add(letter("see", folder=name))
    place.mount(body)


def test_letters_to_the_same_people_about_the_same_are_together(place: Place) -> None:
    for number in range(3):
        place.add(letter(f"{number}", subject="x", folder="f" if number else ""))
    found = place.mount()
    assert [each for each in found if each.count("/") == 1 and each.endswith("/")] == ["bob x/"]
    assert {"bob x/MAIL", "bob x/f/message", "bob x/f (2)/empty"} <= set(found)


def test_the_same_people_by_other_names_are_together(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = FakeBackend.called
    monkeypatch.setattr(
        FakeBackend, "called", lambda self, text: called(self, text.removeprefix("dear-"))
    )
    place.add(letter("one", subject="x"))
    place.add(letter("two", Recipient("dear-bob"), subject="x"))
    found = place.mount()
    assert [each for each in found if each.endswith("/")] == ["bob x/"]


def test_no_more_is_taken_at_once_than_one_limit_says(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "WAITING_BYTES_MAX", 10)
    place.mount()
    apart = (CAROL, Recipient("dave"), Recipient("erin"))
    place.add(Letter((), apart, "x", (), "", (("message", b"hi\n"),)))  # 9 bytes
    place.add(letter("one"))
    assert [each for each in place.mount() if "MAIL" in each] == [
        "carol x/MAIL", "dave x/MAIL", "erin x/MAIL",
    ]  # fmt: skip
    assert len(place.spool.waiting()) == 1
    assert "bob/MAIL" in place.mount()
    assert not place.spool.waiting()


def test_people_apart_have_a_conversation_each(place: Place) -> None:
    place.add(Letter((BOB,), (CAROL, Recipient("dave")), "x", (), "", (("message", b"hi"),)))
    found = place.mount()
    assert [each for each in found if each.endswith("/")] == ["bob x/", "carol x/", "dave x/"]


def test_an_answer_goes_where_just_its_people_are(place: Place) -> None:
    async def begin(backend: FakeBackend, view: MountView) -> None:
        folder = await Changes(view.tree).mkdir(view.tree.outbox, "bob,carol lunch")
        file = Changes(view.tree).create(folder, "hi", 0o600, None)
        await view.tree.contents.write(file, 0, b"hello")
        await view.tree.contents.save(file)
        view.tree.contents.closed(file)
        await until(backend.conversations)
        ids.append(backend.conversations()[0].id)

    ids: list[bytes] = []
    place.mount(begin)
    answer = MailId(bytes(16), ids[0])
    for people in ((BOB, CAROL), (BOB,)):
        place.add(Letter(people, (), "Re: lunch", (answer,), "", (("message", b"hi"),)))
    found = [each for each in place.mount() if "MAIL" in each]
    assert len(found) == 2
    assert found[0].endswith("alice-bob-carol lunch/MAIL")
    assert found[1] == "bob Re_ lunch/MAIL"


def test_the_mails_of_a_thread_begin_one_conversation(place: Place) -> None:
    for number, root in ((0, b"r"), (1, b"r"), (2, b"s"), (3, b"")):
        made = letter("hi\n", subject=f"PATCH {number}")
        place.add(replace(made, root=16 * root))
    for people in ((CAROL,), (BOB,)):
        place.add(replace(letter("hi\n", *people, subject="PATCH 4"), root=16 * b"r"))
    found = [each for each in place.mount() if "MAIL" in each]
    assert sorted(each.replace("MAIL", "") for each in found) == [
        *3 * ["bob PATCH 0/"], "bob PATCH 2/", "bob PATCH 3/", "carol PATCH 4/",
    ]  # fmt: skip


@pytest.mark.parametrize("step", ["publish", "drop"])
def test_a_crash_between_takes_nothing_twice(
    place: Place, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.add(letter("hello"))

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Spool, step, killed)
        with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
            place.mount()
    assert len(place.spool.waiting()) == 1
    place.add(letter("meanwhile", CAROL))
    found = place.mount()
    assert [each for each in found if "MAIL" in each] == ["bob/MAIL", "carol/MAIL"]
    assert place.spool.waiting() == []
    assert place.mount() == found


@pytest.mark.parametrize("commits", range(5))
def test_a_crash_at_any_commit_takes_nothing_twice(
    place: Place, commits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two letters take a commit each, the new key one, and its being the only one another."""
    place.add(letter("hello"))
    place.add(letter("hello", CAROL))
    left = [commits]
    commit = Store.commit

    async def limited(store: Store, *arguments: Any, **more: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return await commit(store, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", limited)
        with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
            place.mount()
    place.add(letter("meanwhile", Recipient("dave")))
    found = place.mount()
    assert [each for each in found if "MAIL" in each] == ["bob/MAIL", "carol/MAIL", "dave/MAIL"]
    assert place.spool.waiting() == []
    assert len(place.secrets()) == 1


@pytest.mark.parametrize("commits", range(4))
def test_a_full_disk_keeps_nobody_from_mounting_and_nothing_is_lost_or_twice(
    place: Place, commits: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.add(letter("hello"))
    place.add(letter("hello", CAROL))
    made = 0
    commit = Store.commit

    async def full_once(store: Store, *arguments: Any, **more: Any) -> Any:
        nonlocal made
        made += 1
        if made == commits + 1:
            raise CannotWrite("the disk is full", "make room")
        return await commit(store, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", full_once)
        place.mount()
    assert "the disk is full (make room)" in caplog.text
    assert len(place.spool.waiting()) == (1, 1, 2, 0)[commits]
    found = place.mount()
    assert [each for each in found if "MAIL" in each] == ["bob/MAIL", "carol/MAIL"]
    assert place.spool.waiting() == []
    assert len(place.secrets()) == 1


def test_what_was_taken_cannot_be_read_with_what_there_is(place: Place) -> None:
    before = place.spool.public()
    place.add(letter("hello"))
    (identity,) = place.spool.waiting()
    left = place.spool.read(identity)
    assert any(opens(key, identity, left) for key in place.secrets())
    place.mount()
    after = place.spool.public()
    assert before != after
    (key,) = place.secrets()
    assert key.public == after
    assert not opens(key, identity, left)
    place.mount()
    assert place.spool.public() == after


def opens(key: SpoolKey, identity: bytes, data: bytes) -> bool:
    try:
        key.open(identity, data)
    except CryptoError:
        return False
    return True


def test_a_key_that_somebody_has_put_there_is_replaced(place: Place) -> None:
    key = place.spool.public()
    place.spool.publish(bytes(len(key)))
    place.mount()
    assert place.spool.public() == key


def test_what_cannot_be_read_is_set_aside(place: Place) -> None:
    place.add(letter("hello"))
    place.spool.add(b"no letter", SYSTEM_RANDOM)
    (place.spool.path / f"{'ab' * 16}.mail").write_bytes(b"damaged")
    assert [each for each in place.mount() if "MAIL" in each] == ["bob/MAIL"]
    assert place.spool.waiting() == []
    assert len(list(place.spool.path.glob("*.unreadable"))) == 2


ONE = [["message", 2]]


def spooled(*head: object) -> bytes:
    packed = pack(*head)
    return u32(len(packed)) + packed + b"hi"


HOSTILE: dict[str, tuple[object, ...]] = {
    "numbers for bytes": ([["bob", False]], [], "", [[2**63, b""]], "", ONE),
    "large numbers": ([["bob", False]], [], "", [[2**45, b""]], "", ONE),
    "a large size": ([["bob", False]], [], "", [], "", [["message", 2**45]]),
    "a size below none": ([["bob", False]], [], "", [], "f", [["message", 3], ["other", -1]]),
    "more than there is": ([["bob", False]], [], "", [], "", [["message", 3]]),
    "less than there is": ([["bob", False]], [], "", [], "", [["message", 1]]),
    "a content in the head": ([["bob", False]], [], "", [], "", [["message", b"hi"]]),
    "ids that are none": ([["bob", False]], [], "", [[b"m", b"c"]], "", ONE),
    "nothing in it": ([["bob", False]], [], "", [], "", []),
    "nothing in a folder": ([["bob", False]], [], "", [], "f", []),
    "many without a folder": ([["bob", False]], [], "", [], "", ONE * 2),
    "many people": ([[f"u{each}", False] for each in range(60)], [], "", [], "", ONE),
    "nobody": ([], [], "", [], "", ONE),
    "a name that is none": ([["../bob", False]], [], "", [], "", ONE),
    "a number for a name": ([[1, False]], [], "", [], "", ONE),
    "a number for a truth": ([["bob", 1]], [], "", [], "", ONE),
    "three of two": ([["bob", False, 1]], [], "", [], "", ONE),
    "a way up": ([["bob", False]], [], "", [], "..", ONE),
    "a way": ([["bob", False]], [], "", [], "f", [["a/b", 2]]),
    "no name": ([["bob", False]], [], "", [], "f", [["", 2]]),
    "a long name": ([["bob", False]], [], "", [], "f" * 256, ONE),
    "no list": ([["bob", False]], [], "", 7, "", ONE),
    "no pair": ([["bob", False]], [], "", [7], "", ONE),
    "a long subject": ([["bob", False]], [], "x" * 201, [], "", ONE),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_letter_is_set_aside_and_the_rest_is_taken(kind: str, place: Place) -> None:
    """Whoever may write to the account directory has the key that letters are sealed to."""
    place.spool.add(spooled(*HOSTILE[kind]), SYSTEM_RANDOM)
    place.add(letter("hello"))
    assert place.mount() == ["bob/", "bob/MAIL", "bob/metadata.toml"]
    assert place.spool.waiting() == []
    assert len(list(place.spool.path.glob("*.unreadable"))) == 1


def test_what_is_no_file_is_in_nobodys_way(place: Place) -> None:
    (place.spool.path / f"{'1' * 32}.mail").mkdir()
    os.mkfifo(place.spool.path / f"{'2' * 32}.mail")
    (place.spool.path / f"{'3' * 32}.mail").symlink_to("nowhere")
    (place.spool.path / "x.mail.new").mkdir()
    (place.spool.path / f"{'4' * 32}.mail").touch()
    os.truncate(place.spool.path / f"{'4' * 32}.mail", 1 << 40)
    place.add(letter("hello"))
    assert place.mount() == ["bob/", "bob/MAIL", "bob/metadata.toml"]
    assert len(list(place.spool.path.glob("*.unreadable"))) == 1


def test_a_fault_at_one_letter_takes_nothing_from_the_next(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though both were to be in one folder, which the first of them was to make."""
    made: list[str] = []
    file = Drafts._file

    def failing(drafts: Drafts, above: Folder, name: str) -> File:
        made.append(name)
        if len(made) == 2:  # its metadata.toml is made, and the folder of it
            raise MemoryError
        return file(drafts, above, name)

    for _ in range(2):
        place.add(letter("hello"))
    with monkeypatch.context() as patch:
        patch.setattr(Drafts, "_file", failing)
        assert place.mount() == ["bob/", "bob/MAIL", "bob/metadata.toml"]
    # it is a letter all the same, and is taken when there is no fault, by the key that it needs
    assert not list(place.spool.path.glob("*.unreadable"))
    assert len(place.spool.waiting()) == 1
    assert place.mount().count("bob/MAIL") + place.mount().count("bob (2)/MAIL") == 2
    assert place.spool.waiting() == []
    assert len(place.secrets()) == 1


def test_a_letter_that_the_disk_gives_once_more_is_taken_then(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_arguments: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    place.add(letter("hello"))
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "read", failing)
        assert place.mount() == []
    assert place.mount() == ["bob/", "bob/MAIL", "bob/metadata.toml"]


def test_a_head_that_is_too_long_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of arrays alone takes eighty times its size of memory."""
    monkeypatch.setattr(letters, "LETTER_HEAD_MAX", 100)
    head = pack([["bob", False]], [], "x" * 90, [], "", [["message", 2]], b"")
    with pytest.raises(DecodeError):
        letters.decode_letter(u32(len(head)) + head + b"hi")
    monkeypatch.setattr(letters, "LETTER_HEAD_MAX", len(head))
    assert letters.decode_letter(u32(len(head)) + head + b"hi").files == (("message", b"hi"),)


def test_what_cannot_be_set_aside_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> None:
        raise PermissionError

    place.spool.add(b"no letter", SYSTEM_RANDOM)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "set_aside", refused)
        place.add(letter("hello"))
        assert "bob/MAIL" in place.mount()
    assert len(place.spool.waiting()) == 1


def test_what_is_for_nobody_is_told_in_an_error_file(place: Place) -> None:
    async def body(_backend: FakeBackend, view: MountView) -> None:
        await until(lambda: any(name.endswith(".error") for name in paths(view.tree.outbox)))
        await until(lambda: bool(view.loop.held))
        (path,) = view.loop.held  # and not its metadata.toml, which is never sent
        assert path.startswith(f"{NOBODY} lunch/mail-")

    place.add(letter("hello", Recipient(NOBODY), subject="lunch"))
    place.mount(body)
