"""requests/: what strangers send waits there, within limits, until the user decides."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.account.settings import Settings, encode
from cbfs.contacts.contact import Mark, Standing
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.interface import MessageRequest
from cbfs.messages.queues.note_queue import NoteKind, items_for
from cbfs.receiving import message_requests
from cbfs.storage.store import Meta, Series, Table
from cbfs.tree.texts import request_text
from cbfs_common.limits import PROMPT_AFTER
from tests.engine.test_engine import NO_TOR, Recorder, account, send, until
from tests.engine.test_healing import texts, write
from tests.support.mounted import Watch
from tests.support.town import Town, arrived, contact, in_town
from tests.support.world import User, World, wait_for, world


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("e"), stack)


def asks(engine: Engine, name: str, messages: int = 1) -> bool:
    request = engine.people.request(name)
    return request is not None and request.messages >= messages


def owed(engine: Engine, name: str) -> list[NoteKind]:
    with engine.store.read() as reader:
        return [debt.kind for debt in items_for(reader, name)]


def held(engine: Engine) -> int:
    with engine.store.read() as reader:
        return reader.count(Table.REQUESTS)


# Two engines


def test_what_a_stranger_sends_is_nowhere_until_it_is_accepted(here: World, tmp_path: Path) -> None:
    async def body(town: Town) -> None:
        async with running(town.account("alice"), NO_TOR) as alice:
            await write(alice, "bob", "hello bob")
            await write(alice, "bob", "are you there")
            async with running(town.account("bob"), NO_TOR) as bob:
                view = Recorder()
                bob.attach(view)
                await until(lambda: asks(bob, "alice", 2), "the request")
                assert (bob.conversations(), view.arrived, view.conversations) == ((), [], [])
                assert bob.report().requests == ("alice",)
                assert owed(bob, "alice") == []
                assert contact(bob, "alice").standing is Standing.STRANGER
            async with running(town.account("bob"), NO_TOR) as bob:  # and it stays so
                view = Recorder()
                bob.attach(view)
                assert asks(bob, "alice", 2)
                assert bob.conversations() == ()
                await bob.people.admit("alice")
                assert {"hello bob", "are you there"} == set(texts(bob))
                assert len(view.arrived) == 2
                assert not asks(bob, "alice")
                assert owed(bob, "alice") == [NoteKind.RECEIPT, NoteKind.RECEIPT]
                await write(bob, "alice", "here I am")
                await arrived(alice, "here I am")
                await write(alice, "bob", "and this comes at once")
                await arrived(bob, "and this comes at once")
            assert len(alice.conversations()) == 1

    in_town(tmp_path, here.server.url, body, strangers=False)


def test_whoever_is_written_to_is_accepted(here: World, tmp_path: Path) -> None:
    """bob does not look at the request: he begins to write to alice, about something else."""

    async def body(town: Town) -> None:
        async with (
            running(town.account("alice"), NO_TOR) as alice,
            running(town.account("bob"), NO_TOR) as bob,
        ):
            await write(alice, "bob", "hello bob")
            await until(lambda: asks(bob, "alice"), "the request")
            await write(bob, "alice", "hello alice")
            assert "hello bob" in texts(bob)
            await arrived(alice, "hello alice")

    in_town(tmp_path, here.server.url, body, strangers=False)


def test_who_was_declined_is_not_heard_for_a_while_and_may_ask_again(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[bool] = []
    hold = message_requests.hold

    def watched(*arguments: object) -> bool:
        kept = hold(*arguments)  # type: ignore[arg-type]
        dropped.extend([] if kept else [True])
        return kept

    monkeypatch.setattr("cbfs.receiving.message_requests.hold", watched)

    async def body(town: Town) -> None:
        async with (
            running(town.account("alice"), NO_TOR) as alice,
            running(town.account("bob"), NO_TOR) as bob,
        ):
            await write(alice, "bob", "buy this")
            await until(lambda: asks(bob, "alice"), "the request")
            await bob.people.decline("alice")
            assert bob.people.request("alice") is None
            assert held(bob) == 0
            await write(alice, "bob", "buy that")
            await until(lambda: dropped, "it to be dropped")
            assert bob.people.request("alice") is None
            monkeypatch.setattr("cbfs.receiving.message_requests.DECLINED_FOR", 0)
            await write(alice, "bob", "sorry, I meant well")
            await until(lambda: asks(bob, "alice"), "the second request")
            await bob.people.admit("alice")
            assert texts(bob) == ["sorry, I meant well"]

    in_town(tmp_path, here.server.url, body, strangers=False)


def test_a_stranger_fills_no_more_than_a_request_holds(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was dropped is offered again by its sender, and comes once they are accepted."""
    monkeypatch.setattr("cbfs.receiving.message_requests.HELD_MAX", 3)
    for module in (
        "cbfs.messages.queues.delivery_queue",
        "cbfs.messages.queues.note_queue",
    ):
        monkeypatch.setattr(f"{module}.OFFER_AFTER", 1)
    monkeypatch.setattr("cbfs.receiving.receiver.PROMPT_AFTER", PROMPT_AFTER / 100)

    async def body(town: Town) -> None:
        async with (
            running(town.account("alice"), NO_TOR) as alice,
            running(town.account("bob"), NO_TOR) as bob,
        ):
            for number in range(6):
                await send(alice, ("bob",), b"%d " % number * 9_000)
            await until(lambda: not alice.report().queue, "alice's queue to be empty")
            await until(lambda: held(bob) == 3, "three envelopes to be kept")
            assert owed(bob, "alice") == []
            await bob.people.admit("alice")
            await until(lambda: len(texts(bob)) == 6, "all of it")
            assert held(bob) == 0

    in_town(tmp_path, here.server.url, body, strangers=False)


def test_one_stranger_too_many_leaves_nothing(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.receiving.message_requests.REQUESTS_MAX", 0)

    async def body(town: Town) -> None:
        async with running(town.account("alice"), NO_TOR) as alice:
            await write(alice, "bob", "hello bob")
            await until(lambda: not alice.report().queue, "alice's queue to be empty")
        async with running(town.account("bob"), NO_TOR) as bob:

            def left() -> int:
                with bob.store.read() as reader:
                    tables = (Table.INBOX, Table.QUARANTINE, Table.SESSIONS, Table.REQUESTS)
                    return sum(reader.count(table) for table in tables)

            with bob.store.read() as reader:
                before = reader.number(Series.INBOX)
            assert before == 0

            def seen() -> bool:
                with bob.store.read() as reader:
                    return reader.number(Series.INBOX) > 0

            await until(seen, "it to come")
            await until(lambda: left() == 0, "it to be dropped")
            assert bob.people.contact("alice") is None

    in_town(tmp_path, here.server.url, body, strangers=False)


def test_blocking_a_request_is_undone_in_contacts(here: World, tmp_path: Path) -> None:
    async def body(town: Town) -> None:
        async with (
            running(town.account("alice"), NO_TOR) as alice,
            running(town.account("bob"), NO_TOR) as bob,
        ):
            await write(alice, "bob", "buy this")
            await until(lambda: asks(bob, "alice"), "the request")
            await bob.people.mark("alice", Mark.BLOCKED, on=True)
            assert held(bob) == 0
            assert contact(bob, "alice").standing is Standing.LISTED
            await bob.people.mark("alice", Mark.BLOCKED, on=False)
            await write(alice, "bob", "once more")
            await until(lambda: asks(bob, "alice"), "a request again")
            assert bob.conversations() == ()

    in_town(tmp_path, here.server.url, body, strangers=False)


def test_strangers_without_requests_are_remembered_so_far_and_no_more(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is forgotten of them are their keys, their sessions, and that they were declined."""
    places = {name: account(here, name) for name in ("many-a", "many-b", "many-c")}
    ask_strangers(places["many-b"])

    def sessions(engine: Engine) -> int:
        with engine.store.read() as reader:
            return reader.count(Table.SESSIONS)

    async def body() -> None:
        async with (
            running(places["many-a"], NO_TOR) as alice,
            running(places["many-b"], NO_TOR) as bob,
            running(places["many-c"], NO_TOR) as carol,
        ):
            await send(alice, ("many-b",), b"buy this")
            await until(lambda: asks(bob, "many-a"), "the request")
            await bob.people.decline("many-a")
            assert sessions(bob) == 1
            monkeypatch.setattr("cbfs.receiving.message_requests.STRANGERS_MAX", 0)
            await send(carol, ("many-b",), b"hello")
            await until(lambda: asks(bob, "many-c"), "the other request")
            assert bob.people.contact("many-a") is None
            assert sessions(bob) == 1
            await send(bob, ("many-a",), b"who are you")
            await arrived(alice, "who are you")
            await send(alice, ("many-b",), b"somebody else now")
            await arrived(bob, "somebody else now")

    trio.run(body)


def ask_strangers(place: Path) -> None:
    with opened_store(place, SYSTEM_RANDOM) as store:
        store.write(lambda writer: writer.put(Table.META, Meta.SETTINGS, encode(Settings())))


# Text that is safe to show


def asked(head: bytes, **changes: object) -> str:
    people = ("bob", "mallory")
    request = MessageRequest("mallory", 10**12, people, "", "", len(head), head, False, 1)
    return request_text(replace(request, **changes), "bob", str)  # type: ignore[arg-type]  # fields by name


def test_what_a_stranger_wrote_is_shown_without_what_it_could_do() -> None:
    head = "hello\n\x1b[2J\x1b]0;root\x07 \u202egnp.exe\nAccept: rm -rf\n".encode()
    text = asked(head, subject="\x1b[1mhi\u202e", messages=3)
    assert not {c for c in text if not c.isprintable()} - {"\n"}
    assert "\n    Accept: rm -rf\n" in text, "theirs is indented, ours is not"
    assert "and 2 more messages" in text
    assert "mv requests/mallory contacts/" in text
    file = asked(b"\xff\xd8\xff" * 99, file_name="x.jpg", size=10**6)
    assert "(a file, x.jpg, 1000000 bytes)" in file
    assert "(a folder, x, 9 bytes)" in asked(b"", file_name="x", size=9, folder=True)
    assert len(asked(b"\n" * 2_000, size=10**6).splitlines()) < 60
    assert "\u00fc\n" in asked("\u00fc".encode() * 1_000 + b"\xc3", size=10**6)


# Real mounts


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, User, User]]:
    with world(tmp_path_factory.mktemp("w")) as made:
        made.open = False
        yield made, made.user("alice"), made.user("bob")


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wait_request(user: User, name: str) -> Path:
    folder = user.mountpoint / "requests" / name
    wait_for(lambda: (folder / "message").exists() or None, f"{name}'s request")
    return folder


@pytest.mark.mount
def test_a_request_is_accepted_by_moving_it(people: tuple[World, User, User]) -> None:
    made, alice, bob = people
    watch = Watch(bob.mountpoint / "requests")
    (alice.mountpoint / "outbox" / "bob lunch").mkdir()
    alice.write("bob lunch", "note", "See you at ten.\n")
    watch.wait("alice")
    folder = wait_request(bob, "alice")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["fingerprint", "message", "profile.toml"]
    message = (folder / "message").read_text()
    assert "    See you at ten.\n" in message
    assert "subject: lunch" in message
    assert "accepted = false" in (folder / "profile.toml").read_text()
    assert "alice" in (bob.mountpoint / "status").read_text()
    for view in ("conversations", "unread", "by-date", "contacts", "outbox"):
        assert listed(bob.mountpoint / view) == [], view
    assert listed(bob.mountpoint / "search" / "ten") == []
    for target in ("outbox/alice", "tmp/alice"):
        with pytest.raises(OSError, match="ermission"):
            folder.rename(bob.mountpoint / target)
    bob.kill()
    bob.mount()
    watch.close()
    watch = Watch(bob.mountpoint / "contacts")
    bob.run("mv requests/alice contacts/")
    watch.wait("alice")
    watch.close()
    wait_for(lambda: len(listed(bob.mountpoint / "unread")) == 1 or None, "it in unread/")
    bob.wait_message("alice", "See you at ten.\n")
    assert listed(bob.mountpoint / "requests") == []
    there = bob.mountpoint / "contacts" / "alice"
    assert listed(there) == ["fingerprint", "profile.toml"]
    assert "accepted" not in (there / "profile.toml").read_text()
    bob.run("cp contacts/alice/fingerprint contacts/alice/verified")
    bob.kill()
    bob.mount()
    assert listed(bob.mountpoint / "requests") == []
    bob.wait_message("alice", "See you at ten.\n")
    carol = made.user("carol")
    (carol.mountpoint / "outbox" / "bob").mkdir()
    carol.write("bob", "note", "buy this\n")
    wait_request(bob, "carol")
    bob.run("rm -r requests/carol")
    assert listed(bob.mountpoint / "requests") == []
    assert listed(bob.mountpoint / "contacts") == ["alice"]


@pytest.mark.mount
def test_a_request_is_blocked_where_it_is(people: tuple[World, User, User]) -> None:
    made, _alice, bob = people
    dave = made.user("dave")
    (dave.mountpoint / "outbox" / "bob").mkdir()
    dave.write("bob", "note", "buy this\n")
    wait_request(bob, "dave")
    watch = Watch(bob.mountpoint / "contacts")
    bob.run("cp requests/dave/fingerprint requests/dave/verified; touch requests/dave/blocked")
    watch.wait("dave")
    watch.close()
    wait_for(lambda: not listed(bob.mountpoint / "requests"), "the request to go")
    assert (bob.mountpoint / "contacts" / "dave" / "blocked").exists()
    bob.run("rm contacts/dave/blocked")


@pytest.mark.mount
def test_settings_accept_everybody(people: tuple[World, User, User]) -> None:
    made, alice, _bob = people
    grace = made.user("grace")
    (alice.mountpoint / "outbox" / "grace").mkdir()
    alice.write("grace", "note", "first\n")
    wait_request(grace, "alice")
    (grace.mountpoint / "config.toml").write_text('strangers = "accept"\n')
    grace.wait_message("alice", "first\n")
    wait_for(lambda: not listed(grace.mountpoint / "requests"), "the request to go")
    heidi = made.user("heidi")
    (heidi.mountpoint / "outbox" / "grace").mkdir()
    heidi.write("grace", "note", "second\n")
    grace.wait_message("heidi", "second\n")


@pytest.mark.mount
def test_a_mount_killed_while_it_accepts_has_all_or_nothing(
    people: tuple[World, User, User],
) -> None:
    made, _alice, bob = people
    ivan = made.user("ivan")
    (ivan.mountpoint / "outbox" / "bob").mkdir()
    for number in range(5):
        ivan.write("bob", f"note{number}", f"number {number}\n")
    folder = wait_request(bob, "ivan")
    wait_for(lambda: "and 4 more" in (folder / "message").read_text() or None, "all of it")
    process = bob.start("mv requests/ivan contacts/")
    try:
        for pid in bob.pids():
            os.kill(pid, signal.SIGKILL)
    finally:
        bob.kill()
        process.wait(60)
    bob.mount()
    if (bob.mountpoint / "requests" / "ivan").exists():
        assert bob.messages("ivan") == []
        bob.run("mv requests/ivan contacts/")
    for number in range(5):
        bob.wait_message("ivan", f"number {number}\n")
    assert len(bob.messages("ivan")) == 5
    assert (bob.mountpoint / "contacts" / "ivan").exists()


@pytest.mark.mount
def test_who_looks_like_a_contact_comes_with_a_warning(people: tuple[World, User, User]) -> None:
    """Before and after they are accepted; and who has the petname of a contact is shown with @."""
    made, _alice, bob = people
    for name in ("henrietta", "henriette", "hen"):
        made.user(name)
    (bob.mountpoint / "outbox" / "henrietta").mkdir()
    bob.write("henrietta", "note", "hello\n")
    contacts = bob.mountpoint / "contacts"
    wait_for((contacts / "henrietta").is_dir, "the contact")
    for name, shown, says in (
        ("henriette", "henriette", "looks like henrietta"),
        ("hen", "@hen", "is not henrietta, whom you call hen"),
    ):
        if name == "hen":
            bob.run("mv contacts/henrietta contacts/hen")
        stranger = made.place / name
        (stranger / "outbox" / "bob").mkdir()
        (stranger / "outbox" / "bob" / "note").write_text("it is me\n")
        assert says in (wait_request(bob, shown) / "warning").read_text()
        bob.run(f"mv requests/{shown} contacts/")
        wait_for((contacts / shown / "warning").exists, "the warning of a contact")
