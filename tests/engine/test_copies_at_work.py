"""Copies of an account at work, with a real server: backups that are put back in place, two
directories in use, and a server that lies about the mark."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, load_account, opened_store
from cbfs.account.claim import CopyMark, Marker, open_mark, read_standing, seal_mark
from cbfs.account.settings import Configuration
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.network.dial import HOME, LoopbackDialer, NotAllowed
from cbfs.network.link import Link, open_link, request
from cbfs.problems import NotYet
from cbfs.receiving.copies import STOPPED, TOLD, begin_anew
from cbfs.storage.store import Table
from cbfs_common.limits import MARK_SIZE
from cbfs_common.wire.requests import CreateAccount, DeleteAccount, SwapMark
from tests.engine.test_engine import NO_TOR, account, until
from tests.engine.test_healing import texts, write
from tests.support.copied import put_in_place, settle_in
from tests.support.world import World

OTHER_DISK = Path("/dev/shm")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs.receiving.receiver.PROMPT_AFTER", 0.2)
    monkeypatch.setattr("cbfs.receiving.reassembly.ASK_FIRST", 0)
    monkeypatch.setattr("cbfs.receiving.lost_state.LOST_FIRST", 50)
    monkeypatch.setattr("cbfs.receiving.mailbox.PREKEY_CHECK", 0.5)


@pytest.fixture(params=["here", "tmpfs"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where account directories are."""
    if request.param == "here":
        yield tmp_path
        return
    if not OTHER_DISK.is_mount():
        pytest.skip("there is no tmpfs")
    with TemporaryDirectory(dir=OTHER_DISK) as place:
        yield Path(place)


def of(place: Path) -> Account:
    with opened_store(place, SYSTEM_RANDOM) as store:
        found = load_account(store)
    assert found is not None
    return found


@asynccontextmanager
async def at_home(owner: Account) -> AsyncIterator[Link]:
    """A connection to the mailbox, as its owner."""
    async with open_link(
        LoopbackDialer(), owner.server, owner.transport, HOME, SYSTEM_RANDOM
    ) as link:
        yield link


async def mark_of(owner: Account) -> bytes:
    async with at_home(owner) as link:
        return (await request(link, SwapMark(b"x" * MARK_SIZE, bytes(MARK_SIZE)))).mark


async def put_mark(owner: Account, new: bytes) -> None:
    async with at_home(owner) as link:
        seen = (await request(link, SwapMark(b"x" * MARK_SIZE, new))).mark
        while (now := (await request(link, SwapMark(seen, new))).mark) != seen:
            seen = now


def is_copy(engine: Engine) -> bool:
    return TOLD in engine.report().problems


async def connected(engine: Engine) -> None:
    await until(lambda: engine.report().connection.startswith("connected"), "a connection")


async def marked(engine: Engine, times: int) -> None:
    """Until it has put so many marks more."""

    def counter() -> int:
        with engine.store.read() as reader:
            standing = read_standing(reader)
        return standing.counter if standing else 0

    first = counter()
    await until(lambda: counter() >= first + times, f"{times} marks of {engine.name}")


async def exchange(one: Engine, other: Engine, words: str) -> None:
    for a, b in ((one, other), (other, one)):
        text = f"{words} of {a.name}"
        await write(a, b.name, text)
        await until(lambda b=b, text=text: text in texts(b), f"{text!r} at {b.name}")
    for each in (one, other):
        await until(lambda e=each: not e.report().queue, "the queue to be empty")


async def talked(alice: Path, bob: Path, words: str) -> None:
    async with running(alice, NO_TOR) as a, running(bob, NO_TOR) as b:
        await exchange(a, b, words)


def sessions(place: Path) -> set[bytes]:
    with opened_store(place, SYSTEM_RANDOM) as store, store.read() as reader:
        return set(reader.keys(Table.SESSIONS))


def two(here: World, room: Path, names: tuple[str, str]) -> tuple[Path, Path]:
    """Accounts; the directory of the second is in ``room``."""
    alice, made = account(here, names[0]), account(here, names[1])
    bob = room / names[1]
    shutil.move(made, bob)
    return alice, bob


def test_a_backup_that_is_put_back_in_place_is_noticed(here: World, room: Path) -> None:
    alice, bob = two(here, room, (f"ann{room.parts[1]}", f"ben{room.parts[1]}"))
    a_name, b_name = alice.name.removesuffix("-account"), bob.name
    trio.run(talked, alice, bob, "hello")
    backup = room / "backup"
    shutil.copytree(bob, backup)
    old = sessions(bob)
    assert old
    trio.run(talked, alice, bob, "after the backup")
    put_in_place(backup, bob)

    async def body() -> None:
        async with running(alice, NO_TOR) as a, running(bob, NO_TOR) as b:
            await until(lambda: is_copy(b), "it to be noticed")
            assert f"after the backup of {a_name}" not in texts(b)
            await exchange(a, b, "after all")
            await until(lambda: f"after the backup of {a_name}" in texts(b), "what is missing")
            assert not b.stopped
            assert not is_copy(a), "another account at the same server"
            assert not old & set(b._context.sessions._held)
        async with running(bob, NO_TOR) as b:
            await connected(b)
            await marked(b, 3)
            assert not is_copy(b), "once"

    trio.run(body)
    assert not old & sessions(bob)
    assert b_name


def test_who_goes_on_is_no_copy(here: World, tmp_path: Path) -> None:
    alice, bob = two(here, tmp_path, ("arthur", "bruno"))
    for number in range(3):
        trio.run(talked, alice, bob, f"day {number}")
    before = sessions(bob)

    async def body() -> None:
        async with running(bob, NO_TOR) as b:
            await connected(b)
            await marked(b, 3)
            assert not is_copy(b)
            assert not b.stopped

    trio.run(body)
    assert sessions(bob) == before


def test_a_server_that_lies_about_the_mark_ends_no_session(here: World, tmp_path: Path) -> None:
    alice, bob = two(here, tmp_path, ("astrid", "bertha"))
    trio.run(talked, alice, bob, "hello")
    owner, before = of(bob), sessions(bob)

    async def body() -> None:
        old = await mark_of(owner)
        assert open_mark(old, owner.transport).counter
        async with running(bob, NO_TOR) as b:
            await connected(b)
            await marked(b, 2)
            for lie in (bytes(MARK_SIZE), SYSTEM_RANDOM.token(MARK_SIZE), old):
                await put_mark(owner, lie)
                await marked(b, 2)
                assert open_mark(await mark_of(owner), owner.transport).counter
        for lie in (bytes(MARK_SIZE), SYSTEM_RANDOM.token(MARK_SIZE), old):
            await put_mark(owner, lie)
            async with running(bob, NO_TOR) as b:
                await connected(b)
                assert not is_copy(b)
                assert not b.stopped
        assert sessions(bob) == before
        async with at_home(owner) as link:  # it has none
            await request(link, DeleteAccount())
            await request(link, CreateAccount())
        async with running(bob, NO_TOR) as b:
            await connected(b)
            await marked(b, 2)
            assert not is_copy(b)
        assert sessions(bob) == before

    trio.run(body)


@pytest.mark.parametrize("how", ["copied", "cloned", "polled"])
def test_of_two_that_run_one_stops_until_it_is_claimed(
    here: World, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = two(here, tmp_path, (f"ada-{how}", f"bea-{how}"))
    trio.run(talked, alice, bob, "hello")
    if how == "polled":
        monkeypatch.setattr(Configuration, "pace", 1.0)
    other = tmp_path / "other"
    shutil.copytree(bob, other)
    if how != "copied":
        settle_in(other)

    async def body() -> None:
        async with AsyncExitStack() as stack:
            a = await stack.enter_async_context(running(alice, NO_TOR))
            async with running(bob, NO_TOR) as one, running(other, NO_TOR) as two:
                await until(lambda: one.stopped or two.stopped, "one of them to stop")
                stopped, goes_on = (one, two) if one.stopped else (two, one)
                place, left = (bob, other) if one.stopped else (other, bob)
                await marked(goes_on, 4)
                assert not goes_on.stopped, "no ping-pong"
                assert stopped.stopped == STOPPED
                assert stopped.report().connection == "not connected"
                with pytest.raises(NotYet, match="another copy"):
                    await write(stopped, a.name, "not from here")
                server = stopped._context.account.server
                for dialer in (stopped._context.dialer, stopped._context.dialer.direct):
                    with pytest.raises(NotAllowed):
                        await dialer.dial(server.host, server.port, b"")  # fmt: skip
                await write(a, goes_on.name, "to who goes on")
                await until(lambda: "to who goes on" in texts(goes_on), "a message")
                assert "to who goes on" not in texts(stopped)
            async with running(place, NO_TOR) as still:
                assert still.stopped == STOPPED, "also when it is mounted again"
            with opened_store(place, SYSTEM_RANDOM) as store:
                found = load_account(store)
                assert found is not None
                marker = Marker(found.transport, SYSTEM_RANDOM)
                store.write(lambda writer: begin_anew(writer, marker, 1))
            async with running(place, NO_TOR) as one, running(left, NO_TOR) as two:
                await until(lambda: two.stopped, "the other to stop")
                await marked(one, 3)
                assert not one.stopped
                await write(a, one.name, "to who claims")
                await until(lambda: "to who claims" in texts(one), "a message")
                await write(one, a.name, "from who claims")
                await until(lambda: "from who claims" in texts(a), "an answer")

    trio.run(body)


def test_who_has_the_transport_key_can_have_it_begin_anew_and_stop(
    here: World, tmp_path: Path
) -> None:
    """As a thief of the account has: a mark of his shows a copy, and there is one."""
    alice, bob = two(here, tmp_path, ("agathe", "bastian"))
    trio.run(talked, alice, bob, "hello")
    owner, before = of(bob), sessions(bob)

    async def forge(further: int) -> None:
        found = open_mark(await mark_of(owner), owner.transport)
        forged = CopyMark(found.counter + further, b"thief's!")
        await put_mark(owner, seal_mark(forged, owner.transport, SYSTEM_RANDOM))

    async def body() -> None:
        async with running(bob, NO_TOR) as b:
            await connected(b)
            await marked(b, 1)
            await forge(1_000)
            await until(lambda: is_copy(b), "it to begin anew")
            assert not b.stopped
            await forge(2**32)
            await until(lambda: b.stopped == STOPPED, "it to stop")

    trio.run(body)
    assert before
    assert not before & sessions(bob)
