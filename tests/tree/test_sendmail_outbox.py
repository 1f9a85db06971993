"""``cbfs sendmail`` puts a letter into an outbox, and says what became of it. The mount is a folder
of files here, in which nothing happens but what a test says."""

import errno
import os
import pwd
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.spool import Spool, make_key
from cbfs.commands.sendmail import handing_over, logins, queueing, threads
from cbfs.commands.sendmail.handing_over import MountOutbox
from cbfs.commands.sendmail.letter import Letter, Recipient
from cbfs.commands.sendmail.options import Exit, NotSent
from cbfs.commands.sendmail.queueing import Queue

BOB, CAROL, DAVE = Recipient("bob"), Recipient("carol"), Recipient("dave")
NOBODY = "This was not sent: nobody is called {}.\nWhat to do: rename the folder.\n"


class Mount:
    """One in which nobody is a contact."""

    def __init__(self, path: Path) -> None:
        self.path, self.outbox = path, path / "outbox"
        self.conversations = path / "conversations"
        for name in ("outbox", "tmp", "contacts", "conversations", "directories"):
            (path / name).mkdir()
        (path / "profile.toml").write_text('name = "alice"\n')

    def take(self, *apart: Recipient, together: tuple[Recipient, ...] = ()) -> None:
        MountOutbox(self.path).take(Letter(together, apart, "", (), "", (("message", b"hi\n"),)))

    def contact(self, label: str, name: str = "") -> None:
        folder = self.path / "contacts" / label
        folder.mkdir()
        (folder / "profile.toml").write_text(f'name = "{name or label}"\n')

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.outbox.iterdir())


LOGIN = "backup"
"""A user of this machine whom a program of it may mean."""


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    monkeypatch.setattr(handing_over, "_LOOK", 0.0)
    monkeypatch.setattr(logins, "_is_login", LOGIN.__eq__)
    return Mount(tmp_path)


def looked_up(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Path], str]) -> None:
    """``answer`` is what the attribute user.cbfs.error of a draft gives, or raises."""
    monkeypatch.setattr(handing_over, "_attribute", lambda path, _name: answer(path))


def is_gone(path: Path) -> str:
    raise FileNotFoundError(errno.ENOENT, str(path))


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.EIO, errno.ECONNABORTED])
def test_a_mount_that_ends_while_it_is_waited_for_is_no_reason_to_send_again(
    mount: Mount,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: int,
) -> None:
    def ended(_path: Path) -> str:
        raise OSError(number, os.strerror(number))

    looked_up(monkeypatch, ended)
    mount.take(BOB, CAROL)
    assert mount.folders() == ["bob", "carol"]
    told = capfd.readouterr().err
    for name in ("bob", "carol"):
        assert f"{name}: not looked up yet; the message is in the outbox" in told


def test_all_are_written_to_before_any_is_waited_for(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def answer(path: Path) -> str:
        seen.append(mount.folders())
        return is_gone(path)

    looked_up(monkeypatch, answer)
    mount.take(BOB, CAROL)
    assert seen == [["bob", "carol"]] * 2


def test_who_is_nobody_keeps_it_from_nobody_else(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up(
        monkeypatch,
        lambda path: NOBODY.format("bob") if path.parent.name == "bob" else is_gone(path),
    )
    with pytest.raises(NotSent) as caught:
        mount.take(BOB, CAROL, DAVE)
    assert str(caught.value) == "sent to carol, dave, not to bob: nobody is called bob"
    assert caught.value.hint == "mend the name; then send it to bob alone"
    assert caught.value.code == Exit.NOUSER
    assert mount.folders() == ["carol", "dave"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ENOTCONN])
def test_what_fails_after_the_first_was_written_to_is_not_to_be_sent_again(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target.name == "carol":
            raise OSError(number, os.strerror(number))
        return rename(self, target)

    looked_up(monkeypatch, is_gone)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(NotSent) as caught:
        mount.take(BOB, CAROL, DAVE)
    assert str(caught.value).startswith("sent to bob, not to carol, dave: the mount ")
    assert "carol, dave alone" in caught.value.hint
    assert caught.value.code == Exit.UNAVAILABLE
    assert mount.folders() == ["bob"]
    assert not any((mount.path / "tmp").iterdir())


def test_a_full_disk_is_a_reason_to_send_again_while_nobody_was_written_to(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Path, _target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        mount.take(BOB, CAROL)
    assert mount.folders() == []


def test_a_mount_that_ends_at_the_rename_may_have_the_message(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(_self: Path, _target: Path) -> Path:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    mount.contact("bob")
    monkeypatch.setattr(Path, "rename", ended)
    with pytest.raises(NotSent) as caught:
        mount.take(BOB)
    assert caught.value.code == Exit.UNAVAILABLE
    assert caught.value.hint == "look there before you send it again"


def test_only_what_was_put_there_is_taken_back(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may have put a draft into the folder while it was waited for."""

    def answer(path: Path) -> str:
        (path.parent / "theirs").write_text("a draft\n")
        return NOBODY.format("bob")

    looked_up(monkeypatch, answer)
    with pytest.raises(NotSent):
        mount.take(BOB)
    there = mount.outbox / "bob"
    assert sorted(path.name for path in there.iterdir()) == ["metadata.toml", "theirs"]
    assert (there / "theirs").read_text() == "a draft\n"


def test_what_comes_while_the_folder_goes_keeps_its_people(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmdir = Path.rmdir

    def late(self: Path) -> None:
        (self / "theirs").write_text("a draft\n")
        rmdir(self)

    looked_up(monkeypatch, lambda _path: NOBODY.format("bob"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rmdir", late)
        with pytest.raises(NotSent):
            mount.take(BOB)
    there = mount.outbox / "bob"
    assert (there / "theirs").read_text() == "a draft\n"
    assert '"bob"' in (there / "metadata.toml").read_text()


def test_what_is_taken_back_leaves_nothing(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up(monkeypatch, lambda _path: NOBODY.format("bob"))
    with pytest.raises(NotSent) as caught:
        mount.take(BOB)
    assert str(caught.value) == "nobody is called bob"
    assert caught.value.hint == "mend the name"  # of the folder nothing is left
    assert mount.folders() == []


def test_a_login_name_is_no_stranger_of_that_name(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cron writes to the owner of a crontab."""
    looked_up(monkeypatch, is_gone)
    with pytest.raises(NotSent) as caught:
        mount.take(BOB, Recipient(LOGIN))
    assert caught.value.code == Exit.NOUSER
    assert f"{LOGIN}@cbfs.invalid" in caught.value.hint
    assert "MAILTO=NAME" in caught.value.hint
    assert mount.folders() == []
    mount.take(Recipient(LOGIN, is_address=True))
    assert mount.folders() == [LOGIN]


def test_a_login_name_is_a_contact_of_that_name(mount: Mount) -> None:
    mount.contact(LOGIN)
    mount.take(Recipient(LOGIN))
    assert mount.folders() == [LOGIN]


def test_a_login_name_may_be_ones_own(mount: Mount) -> None:
    (mount.path / "profile.toml").write_text(f'name = "{LOGIN}"\n')
    mount.take(Recipient(LOGIN))
    assert mount.folders() == [LOGIN]


def test_nothing_waits_for_a_login_name(tmp_path: Path) -> None:
    """Whom one knows cannot be known there."""
    spool = Spool(tmp_path)
    spool.prepare()
    spool.publish(make_key(SYSTEM_RANDOM).public)
    for person in (Recipient(LOGIN), Recipient(LOGIN, is_address=True)):
        text = (("message", b"hi\n"),)
        try:
            with Queue(tmp_path).held() as queue:
                queue.add(Letter((person,), (), "", (), "", text))
        except NotSent as error:
            assert not person.is_address
            assert error.code == Exit.NOUSER
            assert f"mount.cbfs {tmp_path} DIR" in error.hint
            assert spool.waiting() == []
        else:
            assert person.is_address
            assert len(spool.waiting()) == 1


def test_what_waits_has_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    spool.publish(make_key(SYSTEM_RANDOM).public)

    def add(size: int, *apart: Recipient) -> None:
        with Queue(tmp_path).held() as queue:
            queue.add(Letter((), apart, "", (), "", (("message", bytes(size)),)))

    monkeypatch.setattr(queueing, "WAITING_BYTES_MAX", 4_000)
    with pytest.raises(NotSent, match="so many people apart") as found:
        add(2_001, BOB, CAROL)
    assert found.value.code == Exit.UNAVAILABLE
    add(1_000, BOB, CAROL, DAVE)
    with pytest.raises(NotSent, match="so much waits already") as found:
        add(1_000, BOB, CAROL)
    assert found.value.code == Exit.TEMPFAIL
    assert spool.size() > 1_000
    add(10, BOB)
    assert len(spool.waiting()) == 2


def test_letters_go_on_in_what_was_just_begun(mount: Mount) -> None:
    for label in ("bob", "carol"):
        mount.contact(label)
    for _ in range(2):
        mount.take(together=(BOB, CAROL))
        mount.take(BOB)
    assert mount.folders() == ["bob", "bob,carol"]
    assert len(list((mount.outbox / "bob").iterdir())) == 3
    (mount.outbox / "bob" / "metadata.toml").write_text('participants = [1]\nsubject = ""\n')
    mount.take(BOB)
    assert mount.folders() == ["bob", "bob (2)", "bob,carol"]


def test_a_folder_that_is_sent_meanwhile_is_looked_for_once_more(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount.contact("bob")
    mount.take(BOB)
    moved = handing_over._moved

    def overtaken(item: Path, place: Path) -> Path:
        monkeypatch.setattr(handing_over, "_moved", moved)
        place.rename(mount.conversations / "2026-11-23-alice-bob")
        (mount.outbox / "2026-11-23-alice-bob").mkdir()
        (mount.conversations / "2026-11-23-alice-bob" / "metadata.toml").write_text(
            'participants = ["alice", "bob"]\nsubject = ""\n'
        )
        return moved(item, place)

    monkeypatch.setattr(handing_over, "_moved", overtaken)
    mount.take(BOB)
    assert mount.folders() == ["2026-11-23-alice-bob"]
    assert len(list((mount.outbox / "2026-11-23-alice-bob").iterdir())) == 1


@pytest.mark.parametrize("folder", ["", "two"])
def test_a_conversation_that_is_there_meanwhile_gets_the_subject_as_well(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """The first mail of a series was just going out when the second one was looked at."""
    mount.contact("bob")
    (mount.path / "ui_info").mkdir()
    root, first = b"r" * 16, (("message", b"first\n"),)
    outbox = MountOutbox(mount.path)
    outbox.take(Letter((), (BOB,), "[PATCH 0/1] numbers", (), "", first, root))
    looks = iter([None])
    place = MountOutbox._place
    monkeypatch.setattr(MountOutbox, "_place", lambda *given: next(looks, place(*given)))
    files = (("message", b"second\n"), *((("a.txt", b"a"),) if folder else ()))
    outbox.take(Letter((), (BOB,), "[PATCH 1/1] two", (), folder, files, root))
    (there,) = mount.outbox.iterdir()
    texts = [path for path in there.rglob("*") if path.is_file() and b"second" in path.read_bytes()]
    assert [path.read_bytes() for path in texts] == [b"Subject: [PATCH 1/1] two\n\nsecond\n"]
    assert not list((mount.path / "tmp").iterdir())


@pytest.mark.parametrize("known", [False, True])
def test_an_address_is_not_the_one_whom_another_is_called_by(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    looked_up(monkeypatch, is_gone)
    mount.contact("bob", "carol")
    if known:
        mount.contact("@bob", "bob")
    mount.take(Recipient("bob", is_address=True), BOB, CAROL)
    assert mount.folders() == ["@bob", "bob"]
    table = tomllib.loads((mount.outbox / "@bob" / "metadata.toml").read_text())
    assert table["participants"] == ["@bob"]


def test_who_has_an_account_on_this_machine_is_known() -> None:
    assert logins._is_login(pwd.getpwuid(os.geteuid()).pw_name)
    assert not logins._is_login("nobody has such a name")
    assert not logins._is_login("with\0nul")


def test_a_thread_goes_on_where_it_began(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    (mount.path / "ui_info").mkdir()
    mount.contact("bob")
    mount.contact("carol")

    def take(subject: str, root: bytes, person: Recipient = BOB) -> list[str]:
        text = (("message", b"hi\n"),)
        MountOutbox(mount.path).take(Letter((person,), (), subject, (), "", text, 16 * root))
        return mount.folders()

    assert take("one", b"r") == ["bob one"]
    assert take("two", b"r") == ["bob one"]
    assert take("three", b"s") == ["bob one", "bob three"]
    assert take("four", b"") == ["bob four", "bob one", "bob three"]
    assert take("five", b"r", CAROL)[-1] == "carol five"
    assert "bob six" not in take("six", b"r")
    texts = [path.read_text() for path in (mount.outbox / "bob one").glob("mail-*")]
    assert sorted(texts) == [
        *(f"Subject: {own}\n\nhi\n" for own in ("six", "two")), "hi\n"
    ]  # fmt: skip
    kept = (mount.path / "ui_info" / "sendmail").read_text()
    assert len(kept.splitlines()) == 3
    assert set(kept) <= set("0123456789abcdef \n")
    monkeypatch.setattr(threads, "THREADS_MAX", 1)
    take("eight", b"t")
    assert len((mount.path / "ui_info" / "sendmail").read_text().splitlines()) == 1
    (mount.path / "ui_info" / "sendmail").write_bytes(b"\xff no\n")
    assert "bob seven" in take("seven", b"t")


@pytest.mark.parametrize("subject", ["new", "again", "once more", "item", "0"])
def test_a_message_may_be_called_whatever_it_is_about(mount: Mount, subject: str) -> None:
    mount.contact("bob")
    files = (("message", b"hi\n"), ("a.txt", b"a"))
    MountOutbox(mount.path).take(Letter((), (BOB,), subject, (), subject, files))
    (folder,) = mount.outbox.iterdir()
    assert (folder / subject / "a.txt").read_bytes() == b"a"
