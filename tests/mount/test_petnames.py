"""contacts/: people are called otherwise by moving their folders."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages import conversations, history, petnames
from cbfs.messages.conversations import label
from cbfs.messages.listings import every
from cbfs.problems import NotAName, Taken
from cbfs.storage.store import Series, Writer
from cbfs.tree.texts import status_text
from cbfs_common.errors import DecodeError
from tests.engine.test_engine import NO_TOR, Recorder, until
from tests.engine.test_healing import texts, write
from tests.support.fake_backend import put_content
from tests.support.mounted import Watch
from tests.support.stores import open_store
from tests.support.town import Town, arrived, contact, in_town, talk
from tests.support.world import WAIT, User, World, run, wait_for, world

# Records


def test_messages_follow_a_few_at_a_time_and_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(petnames, "BATCH", 3)
    store = open_store(tmp_path)

    def begin(writer: Writer) -> bytes:
        talk = conversations.add_conversation(writer, b"t" * 16, "bob", ("alice", "bob"), "tea", 0)
        other = conversations.add_conversation(
            writer, b"o" * 16, "alice", ("alice", "carol"), "", 0
        )
        for number in range(10):
            for conversation, sender in ((talk, "bob"), (talk, "alice"), (other, "carol")):
                arrival = history.Arrival(
                    SYSTEM_RANDOM.token(32), sender, 1_000, (), "x.txt",
                    writer.next_number(Series.INODE), put_content(writer, b"%d\n" % number), (),
                )  # fmt: skip
                history.add_message(writer, conversation.id, arrival, 1_000)
        return talk.id

    talk = store.write(begin)
    ((old, new),) = store.write(lambda writer: petnames.rename(writer, "bob", "", "bobby"))
    assert old.folder == "1970-01-01-bob-alice tea"
    assert new.folder == "1970-01-01-bobby-alice tea"
    store.close()
    store = open_store(tmp_path)
    for _ in range(3):
        store.write(lambda writer: petnames.relabel(writer, "bob"))
    store.close()
    store = open_store(tmp_path)
    while True:
        with store.read() as reader:
            if not petnames.pending(reader):
                break
        store.write(lambda writer: petnames.relabel(writer, "bob"))
    with store.read() as reader:
        messages = history.load_messages(reader, talk)
        assert {m.sender for m in messages if "Z-bobby-x" in m.name} == {"bob"}
        assert len({m.name for m in messages}) == 20
        for message in messages:
            assert history.named_message(reader, talk, message.name) == message
            assert history.named_message(reader, talk, message.name.replace("bobby", "bob")) in (
                None, message,
            )  # fmt: skip
        assert {entry[2] for entry in every(reader, talk)} == {m.name for m in messages}
        size = sum(len(history.transcript_entry(reader, talk, m.serial)) for m in messages)
        assert history.transcript_extent(reader, talk).size == size
        assert size == sum(m.entry_size for m in messages)
        assert label(reader, "bobby") == "@bobby"
    ((_, back),) = store.write(lambda writer: petnames.rename(writer, "bob", "bobby", ""))
    assert back.folder == old.folder
    with store.read() as reader:
        assert (label(reader, "bobby"), label(reader, "bob")) == ("bobby", "bob")
        assert sorted(petnames.pending(reader)) == ["bob", "bobby"]
    store.close()


# Two engines


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("e"), stack)


def test_no_petname_makes_one_person_look_like_another(here: World, tmp_path: Path) -> None:
    async def refused(engine: Engine, petname: str, why: type[Exception]) -> None:
        with pytest.raises(why):
            await engine.people.rename("bob", petname)
        assert engine.people.label("bob") == "bob"

    async def body(town: Town) -> None:
        await talk(town, "hello")
        async with running(town.account("alice"), NO_TOR) as alice:
            for bad in (
                "bo",
                "b\u043eb",
                "Bobby",
                "bob.y",
                "\u202ebob",
                "-bob",
                "bob by",
                "@carol",
            ):
                await refused(alice, bad, NotAName)
            await refused(alice, "alice", Taken)
            await write(alice, "bob", "before")
            await alice.people.rename("bob", "bobby")
            assert (alice.people.called("bobby"), alice.people.called("bob")) == ("bob", "bob")
            assert (alice.people.called("@bobby"), alice.people.label("bobby")) == (
                "bobby",
                "@bobby",
            )
            for bad in ("Al ice", "@@bob", ""):
                with pytest.raises(DecodeError):
                    alice.people.called(bad)
            (conversation,) = alice.conversations()[:1]
            assert "bobby" in conversation.folder
            await until(
                lambda: all(
                    "bobby" in message.name
                    for message in alice.messages(conversation.id)
                    if message.sender == "bob"
                ),
                "the messages to have their names",
            )
        async with running(town.account("alice"), NO_TOR) as alice:  # and it stays so
            assert alice.people.label("bob") == "bobby"
            assert contact(alice, "bob").petname == "bobby"
            assert "bobby" in alice.conversations()[0].folder
            async with running(town.account("bob"), NO_TOR) as bob:
                await write(bob, "alice", "to whoever I am")
                await arrived(alice, "to whoever I am")
                await write(alice, "bob", "hello bobby")
                await arrived(bob, "hello bobby")
                assert "bobby" not in "".join(c.folder for c in bob.conversations())
            newest = alice.newest(alice.conversations()[0].id)
            assert newest is not None
            await alice.people.rename("bob", "bob")
            assert alice.people.label("bob") == "bob"
            assert "hello bobby" in texts(alice)
            assert "bobby" not in "".join(c.folder for c in alice.conversations())

    in_town(tmp_path, here.server.url, body)


def test_status_says_how_many_files_still_get_other_names(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(petnames, "BATCH", 2)
    seen: list[tuple[str, ...]] = []

    async def body(town: Town) -> None:
        await talk(town, "hello")
        async with running(town.account("alice"), NO_TOR) as alice:

            class Watching(Recorder):
                def status_changed(self) -> None:
                    seen.append(alice.report().renaming)

            for number in range(4):
                await write(alice, "bob", f"number {number}")
            alice.attach(Watching())
            await alice.people.rename("bob", "bobby")
            await until(lambda: seen and not seen[-1] and any(seen), "the end of it")
            assert ("4 messages are looked at for those of bobby",) in seen
            said = status_text("alice", replace(alice.report(), renaming=("so many",)), ())
            assert "files that get other names:\n  so many\n" in said

    in_town(tmp_path, here.server.url, body)


# Real mounts


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, User, User]]:
    with world(tmp_path_factory.mktemp("w")) as made:
        yield made, made.user("alice"), made.user("bob")


def wait_path(user: User, pattern: str) -> Path:
    return wait_for(lambda: next(iter(user.mountpoint.glob(pattern)), None), pattern)


@pytest.mark.mount
def test_a_contact_is_called_what_its_folder_is(people: tuple[World, User, User]) -> None:
    made, alice, bob = people
    (bob.mountpoint / "outbox" / "alice lunch").mkdir()
    bob.write("alice lunch", "photo.jpg", b"\xff\xd8 a photo\n")
    wait_path(alice, "conversations/*-bob-alice lunch/*Z-bob-photo.jpg")
    wait_path(alice, "contacts/bob/fingerprint")
    wait_path(alice, "unread/*Z-bob-photo.jpg")
    contacts, conversations = (Watch(alice.mountpoint / x) for x in ("contacts", "conversations"))
    alice.run("mv contacts/bob contacts/bobby")
    contacts.wait("bobby")
    conversations.wait("bobby")
    for watch in (contacts, conversations):
        watch.close()
    assert [path.name for path in (alice.mountpoint / "contacts").iterdir()] == ["bobby"]
    profile = alice.mountpoint / "contacts" / "bobby" / "profile.toml"
    assert 'name = "bob"' in profile.read_text()
    assert 'petname = "bobby"' in profile.read_text()
    photo = wait_path(alice, "conversations/*-bobby-alice lunch/*Z-bobby-photo.jpg")
    link = wait_path(alice, "unread/*Z-bobby-photo.jpg")
    assert link.resolve() == photo
    assert photo.read_bytes() == b"\xff\xd8 a photo\n"
    assert os.getxattr(photo, "user.cbfs.sender") == b"bob"
    assert "] bobby: " in (photo.parent / "transcript").read_text()
    assert '"bob"' in (photo.parent / "metadata.toml").read_text()
    folder = photo.parent.name
    assert (alice.mountpoint / "outbox" / folder).is_dir()
    assert photo.name in {p.name for p in (alice.mountpoint / "search" / "from:bobby").iterdir()}
    alice.write(folder, "answer", "nice\n")
    bob.wait_message("alice", "nice\n")
    alice.run("mkdir outbox/bobby; echo hi bobby > outbox/bobby/hi")
    bob.wait_message("alice", "hi bobby\n")
    bob.write(wait_path(bob, "outbox/*-alice-bob").name, "x", "to you\n")
    assert "Z-bobby" in alice.wait_message("bobby", "to you\n").name
    alice.run("cp contacts/bobby/fingerprint contacts/bobby/verified")
    alice.kill()
    alice.mount()
    wait_path(alice, "conversations/*-bobby-alice lunch/*Z-bobby-photo.jpg")
    assert (alice.mountpoint / "contacts" / "bobby" / "verified").exists()
    other_bobby(made, alice)


def other_bobby(made: World, alice: User) -> None:
    """Somebody whose true name is what alice calls bob."""
    bobby = made.user("bobby")
    (bobby.mountpoint / "outbox" / "alice").mkdir()
    bobby.write("alice", "hi", "I am bobby\n")
    assert "-@bobby" in alice.wait_message("@bobby", "I am bobby\n").parent.name
    warning = wait_path(alice, "contacts/@bobby/warning")
    assert "is not bob, whom you call bobby" in warning.read_text()
    alice.run("mkdir outbox/@bobby; echo indeed > outbox/@bobby/answer")
    bobby.wait_message("alice", "indeed\n")
    alice.run("mv contacts/bobby contacts/bob")
    wait_path(alice, "contacts/bobby/profile.toml")
    wait_path(alice, "conversations/*-bobby-alice/*Z-bobby")
    wait_path(alice, "conversations/*-bob-alice lunch/*Z-bob-photo.jpg")
    alice.run("mv contacts/bob contacts/bobby || mv contacts/bob contacts/robert")
    assert sorted(p.name for p in (alice.mountpoint / "contacts").iterdir()) == ["bobby", "robert"]


@pytest.mark.mount
def test_a_window_keeps_its_names_and_its_conversation(people: tuple[World, User, User]) -> None:
    """Its owner calls people otherwise while it is open, and back."""
    made, _alice, _bob = people
    frank, grace = made.user("frank"), made.user("grace")
    for subject in ("a", "b"):
        (grace.mountpoint / "outbox" / f"frank {subject}").mkdir()
        grace.write(f"frank {subject}", "hi", f"about {subject}\n")
        frank.wait_message("grace", f"about {subject}\n")
    folder = wait_path(frank, "conversations/*-grace-frank a").name
    window = frank.account.parent / "window"
    window.mkdir()
    options = ("-o", f"only={folder}", "--no-tor")
    assert run("mount.cbfs", frank.account, window, *options).returncode == 0
    watch = Watch(window / "conversations" / folder)
    try:
        frank.run("mv contacts/grace contacts/granny")
        wait_path(frank, "conversations/*-granny-frank a/*Z-granny")
        for subject in ("b", "a"):
            outbox = wait_path(grace, f"outbox/*-grace-frank {subject}")
            grace.write(outbox.name, "more", f"more about {subject}\n")
            frank.wait_message("granny", f"more about {subject}\n")
        watch.wait("-granny")
        here = {path.read_text() for path in window.glob("conversations/*/*Z-*")}
        assert here == {"about a\n", "more about a\n"}
        (window / "outbox" / folder / "answer").write_text("from the window\n")
        grace.wait_message("frank", "from the window\n")
    finally:
        watch.close()
        subprocess.run(["fusermount3", "-u", "-z", window], check=True, timeout=WAIT)


@pytest.mark.mount
def test_what_is_no_petname_is_refused_by_its_errno(people: tuple[World, User, User]) -> None:
    made, alice, _bob = people
    carol = made.user("carol")
    (carol.mountpoint / "outbox" / "alice").mkdir()
    carol.write("alice", "hi", "from carol\n")
    folder = wait_path(alice, "contacts/carol")
    bob = next(p for p in (alice.mountpoint / "contacts").iterdir() if p.name != "carol")
    for name, number in (
        ("alice", errno.EEXIST),
        (bob.name, errno.EEXIST),
        ("c", errno.EPERM),
        ("Carol", errno.EPERM),
        ("ca\u202erol", errno.EINVAL),
        ("c\u0430rol", errno.EPERM),
        ("ca\nrol", errno.EINVAL),
    ):
        with pytest.raises(OSError, match=r"Errno") as caught:
            folder.rename(folder.parent / name)
        assert caught.value.errno == number, name
    with pytest.raises(OSError, match=r"Errno") as caught:
        folder.rename(bob / "carol")  # what mv makes of: mv contacts/carol contacts/bob
    assert caught.value.errno == errno.EEXIST
    for target in ("tmp", "requests", "outbox"):
        with pytest.raises(OSError, match=r"Errno") as caught:
            folder.rename(alice.mountpoint / target / "carol")
        assert caught.value.errno == errno.EACCES
    assert folder.is_dir()


@pytest.mark.mount
def test_a_request_is_accepted_under_another_name(people: tuple[World, User, User]) -> None:
    made, alice, _bob = people
    made.open = False
    dave, erin = made.user("dave"), made.user("erin")
    for name in ("erin", "dave"):
        (alice.mountpoint / "outbox" / name).mkdir()
        alice.write(name, "hi", "who are you\n")
    wait_path(dave, "requests/alice/message")
    wait_path(erin, "requests/alice/message")
    dave.run("mv requests/alice contacts/boss")
    dave.wait_message("boss", "who are you\n")
    assert [path.name for path in (dave.mountpoint / "contacts").iterdir()] == ["boss"]
    (erin.mountpoint / "outbox" / "dave").mkdir()
    erin.write("dave", "hi", "it is me\n")
    request = wait_path(dave, "requests/erin")
    with pytest.raises(OSError, match=r"Errno") as caught:
        request.rename(dave.mountpoint / "contacts" / "boss")
    assert caught.value.errno == errno.EEXIST
    dave.run("mkdir outbox/erin; echo yes > outbox/erin/yes")
    erin_contact = wait_path(dave, "contacts/erin")
    wait_for(lambda: not list((dave.mountpoint / "requests").iterdir()), "the request to go")
    assert erin_contact.is_dir()
