"""Names that end: given up, run out, renewed by themselves. Real clients and a real directory,
whose clocks the test moves."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.contacts.look_up import Lapsed
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.names.directory import NameTaken
from cbfs.names.own_name import read_own
from cbfs.problems import Refused
from cbfs.storage.store import StoreError, Writer
from cbfs.tree.texts import changed_text
from cbfs_common.errors import CbfsError
from cbfs_common.names.checks import Found
from cbfs_common.names.config import Registration, Terms
from cbfs_common.names.entry import Entry
from cbfs_common.primitives import sign_public
from cbfs_common.profile import parse_address
from tests.engine.test_engine import NO_TOR, Recorder, until
from tests.engine.test_healing import texts, write
from tests.support.names_moved import DAY, Moved, moved
from tests.support.world import World, make_easy

TERM = 730 * DAY
"""How long a name lasts."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a time at random does so for a moment."""
    monkeypatch.setattr("cbfs.contacts.feeds.POLL", 0.2)
    monkeypatch.setattr("cbfs.contacts.monitor.LOOKUP_DELAY", 0.1)
    monkeypatch.setattr("cbfs.engine.renewal.SOON", 0.1)
    monkeypatch.setattr("cbfs.engine.renewal.AGAIN", 0.2)
    monkeypatch.setattr("cbfs.engine.renewal.LOOK", 0.1)


@pytest.fixture
def years(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Moved], Awaitable[None]]], None]:
    """Runs a test with a directory of its own."""

    def go(body: Callable[[Moved], Awaitable[None]]) -> None:
        async def main() -> None:
            async with moved(tmp_path, here.server.url, monkeypatch) as made:
                await body(made)

        trio.run(main)

    return go


Years = Callable[[Callable[[Moved], Awaitable[None]]], None]


def own(place: Path) -> Entry:
    with opened_store(place, SYSTEM_RANDOM) as store, store.read() as reader:
        entry = read_own(reader)
    assert entry is not None
    return entry


async def both_write(alice: Path, bob: Path, words: str) -> None:
    async with running(alice, NO_TOR) as one, running(bob, NO_TOR) as other:
        for engine, to in ((one, "bob"), (other, "alice")):
            await write(engine, to, f"{words} of {engine.name}")
        await until(lambda: f"{words} of bob" in texts(one), "bob's words")
        await until(lambda: f"{words} of alice" in texts(other), "alice's words")


@pytest.mark.parametrize("released", [True, False], ids=["released", "run out"])
def test_a_name_that_is_over_can_be_registered_anew(years: Years, released: bool) -> None:
    """Not before some months have passed. The contacts of its owner of before are asked."""

    async def body(made: Moved) -> None:
        alice, bob = await made.init("alice"), await made.init("bob")
        for place in (alice, bob):
            make_easy(place)
        await both_write(alice, bob, "hello")
        if released:
            await made.do(lambda: made.owner(bob).release("bob"))
            made.jump(89 * DAY)
        else:
            made.jump(TERM + 119 * DAY)
        with pytest.raises(NameTaken, match="nobody else can have it") as refused:
            await made.init("bob", "early")
        assert "from 20" in (refused.value.hint or "")
        assert not (made.place / "early").exists()
        made.jump(2 * DAY)
        again = await made.init("bob", "again")
        assert own(again).incarnation == 2
        async with running(alice, NO_TOR) as engine:

            def is_known() -> bool:
                contact = engine.people.contact("bob")
                return contact is not None and contact.offered is not None

            await until(is_known, "alice to know of the new owner")
            known = engine.people.contact("bob")
            assert known is not None
            assert "registered it anew" in changed_text(known, "bob", engine.people.compare("bob"))
            with pytest.raises(Refused, match="other keys"):
                await write(engine, "bob", "is it you?")

    years(body)


async def renewed(engine: Engine, before: Entry) -> None:
    await until(lambda: engine._own.expires > before.expires + TERM // 2, "the renewal")


def test_a_name_renews_itself_and_contacts_go_on(years: Years) -> None:
    async def body(made: Moved) -> None:
        alice, bob = await made.init("alice"), await made.init("bob")
        for place in (alice, bob):
            make_easy(place)
        await both_write(alice, bob, "hello")
        before = own(bob)
        made.jump(TERM - 70 * DAY)
        async with running(bob, NO_TOR) as engine:
            await renewed(engine, before)
            await until(lambda: "renewed" in engine.report().name, "status to say so")
            assert not engine.alarm
            assert not engine.lapse
        after = own(bob)
        assert (after.incarnation, after.version) == (1, 2)
        assert (after.owners, after.profile) == (before.owners, before.profile)
        async with running(bob, NO_TOR) as engine:
            assert engine._renewal.left() > TERM // 2
            await engine._own.check()
            assert not engine.alarm

    years(body)


REGISTRAR = b"r" * 32


@pytest.mark.parametrize(
    "terms",
    [
        Terms(Registration.WORK, work=4),
        Terms(Registration.INVITE, registrar=sign_public(REGISTRAR)),
    ],
    ids=["work", "invite"],
)
def test_a_renewal_needs_neither_work_nor_an_invite(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terms: Terms
) -> None:
    async def main() -> None:
        async with moved(tmp_path, here.server.url, monkeypatch, terms) as made:
            invite = made.invite(REGISTRAR) if terms.registrar else None
            bob = await made.init("bob", invite=invite)
            before = own(bob)
            made.jump(TERM - 70 * DAY)
            async with running(bob, NO_TOR) as engine:
                await renewed(engine, before)
            with pytest.raises(CbfsError, match="needs no renewal yet"):
                made.ahead -= 30  # some seconds later it would add those
                await made.do(lambda: made.owner(bob).renew())

    trio.run(main)


def test_a_renewal_that_was_cut_off_is_no_alarm(
    years: Years, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory has it, and the store does not."""

    def broken(_writer: Writer, _found: Found) -> None:
        raise StoreError("the store cannot be written")

    async def body(made: Moved) -> None:
        bob = await made.init("bob")
        before = own(bob)
        made.jump(TERM - 70 * DAY)
        with monkeypatch.context() as patched:
            patched.setattr("cbfs.names.own_name.write_own", broken)
            async with running(bob, NO_TOR) as engine:
                await until(lambda: "cannot be written" in "".join(said(engine)), "the failure")
                assert not engine.alarm
        assert own(bob) == before
        async with running(bob, NO_TOR) as engine:
            await engine._own.check()
            await renewed(engine, before)
            await engine._own.check()
            assert not engine.alarm
        assert own(bob).version == 2  # once

    years(body)


def said(engine: Engine) -> tuple[str, ...]:
    return engine.report().problems


def test_a_name_is_renewed_after_its_end_and_not_for_ever(years: Years) -> None:
    """A machine that was off. Newcomers are told; who knows the name goes on."""

    async def body(made: Moved) -> None:
        alice, bob, carol = [await made.init(name) for name in ("alice", "bob", "carol")]
        for place in (alice, bob):
            make_easy(place)
        await both_write(alice, bob, "hello")
        before = own(bob)
        made.jump(TERM + 20 * DAY)
        await made.do(lambda: made.owner(carol).renew())
        async with running(carol, NO_TOR) as engine:
            engine.attach(Recorder())
            with pytest.raises(Lapsed, match="bob's registration has expired"):
                await write(engine, "bob", "are you there?")
        async with running(bob, NO_TOR) as engine:
            await renewed(engine, before)
            assert not engine.lapse
        made.jump(TERM + 31 * DAY)
        async with running(bob, NO_TOR) as engine:
            await until(lambda: "cannot be renewed any more" in engine.lapse, "the shout")
            assert "bob has run out on 20" in engine.lapse
            assert not engine.alarm
        await both_write(alice, bob, "all the same")

    years(body)


def test_a_name_is_recovered_and_frozen_after_its_end(years: Years) -> None:
    """As long as the directory lets its owner change it, so does the client."""

    async def body(made: Moved) -> None:
        bob, key, frost = await made.init("bob"), made.place / "key", made.place / "frost"
        await made.do(lambda: made.owner(bob).rotate(key))
        await made.do(lambda: made.owner(bob).certify(frost))
        made.jump(TERM + 10 * DAY)
        elsewhere = made.owner(made.place / "elsewhere")
        await made.do(lambda: elsewhere.freeze(made.policy, frost))
        async with running(bob, NO_TOR) as engine:
            await until(lambda: engine.alarm, "the alarm")
        fresh = made.owner(made.place / "fresh")

        def recover() -> int:

            return fresh.recover("bob", parse_address(made.server), made.policy, key)

        due = await trio.to_thread.run_sync(recover)
        assert due
        made.jump(8 * DAY)
        assert await trio.to_thread.run_sync(recover) == 0
        before = own(made.place / "fresh")
        async with running(made.place / "fresh", NO_TOR) as engine:
            await renewed(engine, before)

    years(body)


def test_who_gives_a_name_up_is_not_warned_of_it(years: Years) -> None:
    """But who has not given it up is. The directory is followed all the same."""

    async def body(made: Moved) -> None:
        bob = await made.init("bob")
        copy = made.place / "copy"
        shutil.copytree(bob, copy)
        for _ in range(2):  # as when the reply of the first was lost
            await made.do(lambda: made.owner(bob).release("bob"))
        with pytest.raises(CbfsError, match="given up"):
            await made.do(lambda: made.owner(bob).renew())
        assert "released" in await trio.to_thread.run_sync(made.owner(bob).show)
        async with running(copy, NO_TOR) as engine:
            await until(lambda: "given your name up" in engine.alarm, "the alarm")
        made.jump(91 * DAY)
        async with running(bob, NO_TOR) as engine:
            await engine._own.check()
            await until(lambda: engine._context.followed.own._state.size, "the feed to be followed")
            assert "given your name up, for good" in engine.report().name
            assert not engine.alarm
        await made.init("bob", "again")
        async with running(bob, NO_TOR) as engine:
            await engine._own.check()
            assert not engine.alarm

    years(body)
