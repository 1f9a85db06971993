"""What a clock has dated that was decades ahead, at who wrote and who read: dated anew when it is
right."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cbfs.account.account import (
    FORMER_KEPT,
    SYSTEM_RANDOM,
    Former,
    bring_back,
    load_account,
    opened_store,
    put_account,
)
from cbfs.contacts.contact import Contact
from cbfs.context import milliseconds
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages import conversations, history, lifetimes, listings, search_index
from cbfs.messages.model import Message
from cbfs.receiving import message_requests
from cbfs.storage.store import Store, Table
from cbfs.tree.nodes import Folder
from cbfs_common.messages.body import encode_part
from cbfs_common.messages.conversation import FOREVER
from tests.engine.test_engine import NO_TOR, Recorder, read, send, until
from tests.engine.test_lifetime import said
from tests.engine.test_names_wrong_clock import DAY, Clock
from tests.support.fake_backend import BOB
from tests.support.found import indexed
from tests.support.mounted import mounted
from tests.support.parts import HERE
from tests.support.stores import open_store
from tests.support.world import World, make_easy, wait_for
from tests.tree.test_tree import Mount, run
from tests.tree.test_tree import until as until_sent

YEARS = 40 * 365 * DAY


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("d"), stack)


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By how many seconds the clock of the engines is wrong."""
    made = [0]
    monkeypatch.setattr("cbfs.context.time", Clock(made))
    monkeypatch.setattr("cbfs.names.own_time.LOOK", 0.05)
    monkeypatch.setattr("cbfs.contacts.feeds.POLL", 0.2)
    monkeypatch.setattr("cbfs.receiving.receiver.PROMPT_AFTER", 0.2)
    return made


def test_what_was_written_and_read_by_a_wrong_clock_is_dated_anew(
    here: World, off: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.engine.redating.BATCH", 2)  # in several transactions
    alice_account, bobby_account, carol_account = (
        here.account(name).account for name in ("alice", "bobby", "carol")
    )
    for account in alice_account, bobby_account, carol_account:
        make_easy(account)

    async def go() -> None:
        async with (
            running(alice_account, NO_TOR) as alice,
            running(bobby_account, NO_TOR) as bobby,
        ):
            seen = Recorder()
            alice.attach(seen)
            bobby.attach(Recorder())
            async with running(carol_account, NO_TOR) as carol:
                carol.attach(Recorder())
                await send(alice, ("carol",), b"to carol")
                await until(lambda: "to carol" in texts(carol), "carol's first message")
            await send(alice, ("bobby",), b"right")
            await until(lambda: "right" in texts(bobby), "the first message")

            off[0] = YEARS
            await until(lambda: wrong(alice) and wrong(bobby), "the clock in status")
            for text in b"one", b"two", b"three":
                await send(alice, ("bobby",), text)
            await until(lambda: {"one", "two", "three"} <= set(texts(bobby)), "what is ahead")
            await send(bobby, ("alice",), b"answer")
            await until(lambda: "answer" in texts(alice), "the answer")
            (talk,) = (c for c in alice.conversations() if "bobby" in c.participants)
            await alice.store.commit(
                lambda w: lifetimes.choose(w, talk.id, 3_600, "alice", alice._context.clock())
            )
            await send(alice, ("carol",), b"to carol again")  # to who is away
            assert late(alice)
            assert late(bobby)
            await alice._cover._make()
            before = {engine: in_order(engine) for engine in (alice, bobby)}

            off[0] = 0
            await until(lambda: not late(alice) and not late(bobby), "the dates")
            for engine in alice, bobby:
                assert in_order(engine) == before[engine]
                check(engine)
            await until(lambda: len(seen.renamed) == 5, "that the mount is told")
            await until(lambda: sent_late(alice) == (0, 0), "the dummy")
            await send(alice, ("bobby",), b"after")
            await until(lambda: "after" in texts(bobby), "what was written after that")
            await send(bobby, ("alice",), b"and after")
            await until(lambda: "and after" in texts(alice), "that of the other")
            for engine in alice, bobby:
                assert not late(engine)
                check(engine)
                assert in_order(engine)[:-2] == before[engine]

            # what waited for somebody, or is asked for again, has the same place there
            async with running(carol_account, NO_TOR) as carol:
                carol.attach(Recorder())
                await until(lambda: "to carol again" in texts(carol), "what waited")
                check(carol)
                assert not late(carol)
                assert places(carol) == places(alice, "carol")
                waited = messages(alice, "carol")[-1]
                assert waited.place > now_and_a_bit()
                assert waited.origin is not None
                assert waited.origin.date == waited.place

    trio.run(go)


def now_and_a_bit() -> int:
    return int((time.time() + 3_600) * 1_000)


def wrong(engine: Engine) -> bool:
    return any("ahead of the name directory's" in line for line in engine.report().problems)


def messages(engine: Engine, other: str = "") -> list[Message]:
    talks = [c for c in engine.conversations() if not other or other in c.participants]
    return [message for talk in talks for message in engine.messages(talk.id)]


def texts(engine: Engine) -> list[str]:
    return [read(engine, message).decode() for message in messages(engine)]


def places(engine: Engine, other: str = "") -> dict[bytes, int]:
    return {message.id: message.place for message in messages(engine, other)}


def in_order(engine: Engine) -> list[bytes]:
    """The messages of alice and bobby."""
    found = messages(engine, "bobby" if engine.name == "alice" else "alice")
    return [m.id for m in sorted(found, key=lambda m: (m.place, m.id))]


def late(engine: Engine) -> list[str]:
    """What is dated in years to come."""
    soon = now_and_a_bit()
    found = [c.folder for c in engine.conversations() if c.started > soon]
    found += [m.name for m in messages(engine) if max(m.date, m.received) > soon]
    with engine.store.read() as reader:
        for talk in engine.conversations():
            if lifetimes.setting(reader, talk.id).since > soon:
                found.append("a lifetime")
    return found


def sent_late(engine: Engine) -> tuple[int, int]:
    """How many dummies are dated so, in memory and store."""
    soon = now_and_a_bit()
    with engine.store.read() as reader:
        kept = [int.from_bytes(data, "big") for _key, data in reader.items(Table.COVER)]
    assert kept
    return sum(made > soon for made in engine._cover._out.values()), sum(m > soon for m in kept)


def check(engine: Engine) -> None:
    """All places where a date stands say the same, and what is written later is dated later."""
    with engine.store.read() as reader:
        days = [day for _serial, day, _unread in indexed(reader)]
        assert len(days) == len(messages(engine))
        assert all(
            search_index.day_name(day)[:2] == "20" and day * DAY < time.time() for day in days
        )
        for talk in engine.conversations():
            assert talk.folder[:4] == time.strftime("%Y", time.gmtime(talk.started / 1_000))
            assert conversations.load_conversations(reader)[talk.id] == talk
            found = engine.messages(talk.id)
            for message in found:
                assert message.name.startswith(
                    time.strftime("%Y-%m-%dT%H.%M.%S", time.gmtime(message.date // 1_000))
                )
                assert history.named_message(reader, talk.id, message.name) == message
                assert message.date // 86_400_000 in days
                assert len(history.transcript_text(reader, message)) == message.entry_size
            assert list(listings.every(reader, talk.id)) == [listings.entry_of(m) for m in found]
            by_place = sorted(found, key=lambda m: (m.place, m.id))
            assert [m.date for m in by_place] == sorted(m.date for m in found)
            extent = history.transcript_extent(reader, talk.id)
            assert extent.size == sum(message.entry_size for message in found)


@pytest.mark.mount
def test_a_mount_shows_what_is_dated_anew_at_once_and_after_the_next_mount() -> None:
    """A mount whose clock is right, and that hears that it was ahead by two days."""
    with mounted() as mount:
        for text in "one", "two":
            mount.arrive("bob", text)
        (folder,) = wait_for(
            lambda: list(mount.path.glob("conversations/*-bob*")) or None,
            "the conversation",
        )
        wait_for(lambda: len(list((mount.path / "unread").iterdir())) == 2 or None, "the messages")
        held = [path.open("rb") for path in sorted(folder.glob("2*"))]
        wait_for(lambda: len(list((mount.path / "by-date").iterdir())) == 1 or None, "a day")
        now = time.time_ns() // 1_000_000 - 2 * 86_400_000
        day = time.strftime("%Y-%m-%d", time.gmtime(now / 1_000))
        mount.order(f"redate {now}")
        wait_for(lambda: not folder.exists() or None, "the folder to have another name")
        wait_for(lambda: (mount.path / "by-date" / day).exists() or None, "the day")

        def look() -> None:
            (moved,) = mount.path.glob("conversations/*-bob*")
            assert moved.name.startswith(day)
            assert (mount.path / "outbox" / moved.name).is_dir()
            found = sorted(moved.glob("2*"))
            assert [path.read_text() for path in found] == ["one\n", "two\n"]
            for path in found:
                assert path.name.startswith(day)
                assert path.stat().st_mtime * 1_000 <= now + 1
                assert path.stat().st_ctime * 1_000 <= now + 1
            assert [path.name for path in (mount.path / "by-date").iterdir()] == [day]
            links = sorted((mount.path / "by-date" / day).iterdir())
            assert [path.resolve() for path in links] == found
            transcript = (moved / "transcript").read_text()
            assert transcript.count(day) == 2
            assert len(transcript.encode()) == (moved / "transcript").stat().st_size

        look()
        for file in held:
            assert os.fstat(file.fileno()).st_mtime * 1_000 <= now + 1
            file.close()
        assert all(path.name.startswith(day) for path in (mount.path / "unread").iterdir())
        mount.unmount()
        mount.mount()
        look()


class AheadTime(Clock):
    """In the place of the module time, where it tells how long things are, too."""

    def monotonic(self) -> float:
        return time.monotonic()


def test_what_was_saved_while_the_clock_was_ahead_is_no_message_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not sent then, as nothing could be; a date that a user gave holds all the same."""
    off = [2 * 3_600]
    for module in "nodes", "file_contents":
        monkeypatch.setattr(f"cbfs.tree.{module}.time", AheadTime(off))

    async def save(mount: Mount) -> None:
        bob = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await mount.save(bob, "saved", b"saved")
        renamed = await mount.save(bob, "saved as x", b"renamed")
        await mount.changes.rename(bob, "saved as x", bob, "renamed", replace=False)
        assert renamed.changed_ns >= renamed.mtime_ns
        await mount.save(bob, "later", b"later")

    async def go(mount: Mount) -> None:
        off[0] = 0
        (bob,) = mount.tree.outbox.entries.values()
        assert isinstance(bob, Folder)
        at = time.time_ns() + 3_600 * 10**9  # before the clock was ahead by
        await mount.changes.describe(bob.entries["later"], None, at)
        await until_sent(lambda: len(mount.backend.sent) == 2)
        assert {data for _message, data in mount.backend.sent} == {b"saved", b"renamed"}

    run(tmp_path, save, grace=3_600.0)
    run(tmp_path, go)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def test_a_request_says_no_date_that_is_to_come(store: Store) -> None:
    body = encode_part(said(b"hello", 0, 1, FOREVER))
    now = milliseconds()
    later = now + YEARS * 1_000
    contact = Contact(BOB, later)
    assert store.write(lambda writer: message_requests.hold(writer, contact, body, later, b""))
    assert store.write(lambda writer: message_requests.bring_back(writer, now)) == {"bob"}
    with store.read() as reader:
        request = message_requests.request(reader, HERE, "bob")
    assert request is not None
    assert request.since == now
    assert store.write(lambda writer: message_requests.bring_back(writer, now)) == set()


def test_a_former_mailbox_is_looked_into_for_no_longer_than_from_now(here: World) -> None:
    with opened_store(here.account("dora").account, SYSTEM_RANDOM) as opened:
        known = load_account(opened)
        assert known is not None
        now = milliseconds() // 1_000
        left = replace(known, former=known.moved(now + YEARS))
        opened.write(lambda writer: put_account(writer, left))
        opened.write(lambda writer: bring_back(writer, now))
        (former,) = formers(opened)
        assert former.until == now + FORMER_KEPT
        opened.write(lambda writer: bring_back(writer, now + 5))
        assert formers(opened) == (former,)
        opened.write(lambda writer: put_account(writer, known))


def test_a_clock_that_is_doubted_ends_no_former_mailbox(here: World, off: list[int]) -> None:
    account = here.account("erin").account

    async def looked_into() -> list[Former]:
        async with running(account, NO_TOR) as engine:
            return engine._former()

    async def go() -> None:
        assert await looked_into() == []
        with opened_store(account, SYSTEM_RANDOM) as opened:
            known = load_account(opened)
            assert known is not None
            left = replace(known, former=known.moved(milliseconds() // 1_000))
            opened.write(lambda writer: put_account(writer, left))
        off[0] = YEARS
        assert len(await looked_into()) == 1
        off[0] = 0
        assert len(await looked_into()) == 1

    trio.run(go)


def formers(opened: Store) -> tuple[Former, ...]:
    known = load_account(opened)
    return known.former if known else ()


@pytest.mark.mount
def test_a_name_that_the_kernel_knows_is_gone_with_the_renaming() -> None:
    """Nobody is to wait for what the kernel remembers of messages, which is minutes."""
    with mounted() as mount:
        mount.arrive("bob", "one")
        (folder,) = wait_for(lambda: list(mount.path.glob("conversations/*-bob*")) or None, "it")
        (one,) = wait_for(lambda: list(folder.glob("2*")) or None, "the first message")
        begun = time.time_ns() // 1_000_000 - 1  # the other may come within the same millisecond
        mount.arrive("bob", "two")
        (two,) = wait_for(lambda: [p for p in folder.glob("2*") if p != one] or None, "the other")
        assert two.read_text() == "two\n"
        mount.order(f"redate {begun}")
        wait_for(lambda: not two.exists() or None, "the old name to be gone")
        assert one.read_text() == "one\n"
        (new,) = [path for path in folder.glob("2*") if path != one]
        assert new.read_text() == "two\n"
        assert new.stat().st_mtime * 1_000 <= begun + 1
