"""Somebody has a copy of an account: what it is good for after the owner has made new keys."""

import shutil
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, load_next, opened_store
from cbfs.commands.owner.name_owner import Owner
from cbfs.contacts.former_keys import is_given_up
from cbfs.engine.running import running
from cbfs.network.link import Link, ServerRefused
from cbfs.storage.store import Table
from cbfs_common.errors import CbfsError
from cbfs_common.limits import FORMER_KEYS_GRACE
from cbfs_common.wire.requests import Code, DeleteAccount
from tests.engine.test_engine import NO_TOR, until
from tests.engine.test_healing import texts, write
from tests.support.town import Town, arrived, contact, in_town, load, talk
from tests.support.world import World


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs.contacts.feeds.POLL", 0.2)
    monkeypatch.setattr("cbfs.contacts.monitor.LOOKUP_DELAY", 0.2)


async def the_thief_writes(town: Town, copy: Path, text: str) -> None:
    """As bob, on the sessions that were bob's: a client of his does not look whether it is a copy.
    Until it lies in alice's mailbox."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cbfs.engine.running.notice_copy", lambda *_: False)
        async with running(copy, NO_TOR) as thief:
            sessions = set(thief._context.sessions._held)
            assert sessions
            await write(thief, "alice", text)
            await until(lambda: not thief.report().queue, "the envelope to be at the server")
            assert set(thief._context.sessions._held) == sessions, "none was begun"


def test_after_a_theft_sessions_of_the_copy_do_not_go_on(here: World, tmp_path: Path) -> None:
    async def body(town: Town) -> None:
        await talk(town, "hello")
        copy = tmp_path / "copy"
        shutil.copytree(town.account("bob"), copy)
        old = load(town, "bob")
        await town.do(lambda: town.owner("bob").rotate(None, stolen=True))
        new = load(town, "bob")
        assert not new.former
        for key in ("transport", "signing", "auth", "kem", "owner"):
            assert getattr(new, key) != getattr(old, key), key
        with opened_store(town.account("bob"), SYSTEM_RANDOM) as store, store.read() as reader:
            assert not list(reader.keys(Table.SESSIONS))
            assert list(reader.keys(Table.PREKEYS))
        await talk(town, "with new keys")
        await talk(town, "answered with them")
        await the_thief_writes(town, copy, "send me the key to the safe")
        async with running(town.account("alice"), NO_TOR) as alice:
            noise = "cannot be read"
            await until(
                lambda: any(noise in line for line in alice.report().problems), "it to be refused"
            )
            assert "send me the key to the safe" not in texts(alice)
            await write(alice, "bob", "all is well")
            await until(lambda: not alice.report().queue, "alice's queue to be empty")
        async with running(town.account("bob"), NO_TOR) as bob:
            await arrived(bob, "all is well")

    in_town(tmp_path, here.server.url, body)


def test_after_a_planned_change_the_keys_of_before_are_read_for_two_days(
    here: World, tmp_path: Path
) -> None:
    async def body(town: Town) -> None:
        await talk(town, "hello")
        await town.do(lambda: town.owner("bob").rotate(None))
        async with (
            running(town.account("alice"), NO_TOR) as alice,
            running(town.account("bob"), NO_TOR) as bob,
        ):
            await write(bob, "alice", "with new keys")
            await arrived(alice, "with new keys")
            context, known = alice._context, contact(alice, "bob")
            identity = context.contacts.identity("bob", known.profile)
            await until(
                lambda: context.sessions.chosen("bob", 0, identity).first is not None,
                "the new session",
            )
            held = [h.session for h in context.sessions._held.values()]
            old = [s for s in held if s.peer.identity != identity]  # two, if both have begun one
            new = [s for s in held if s.peer.identity == identity]

            def given_up(session: object, after: int) -> bool:
                now = known.rekeyed + after * 1_000
                return is_given_up(context.contacts, context.sessions, "bob", session, now)  # type: ignore[arg-type]

            assert known.rekeyed
            assert old
            for session in old:
                assert not given_up(session, 0)
                assert not given_up(session, FORMER_KEYS_GRACE - 1)
                assert given_up(session, FORMER_KEYS_GRACE)
            assert not any(given_up(session, 2 * FORMER_KEYS_GRACE) for session in new)
            chosen = context.sessions.chosen("bob", 0, identity).first
            assert chosen is not None
            assert chosen.id in {s.id for s in new}, "nothing is sent on an old one"
            await context.sessions.forget_given_up(
                alice.store, lambda name, session: given_up(session, FORMER_KEYS_GRACE)
            )
            assert set(context.sessions._held) == {s.id for s in new}

    in_town(tmp_path, here.server.url, body)


def test_a_change_after_a_theft_that_was_cut_off_goes_on(here: World, tmp_path: Path) -> None:
    async def body(town: Town) -> None:
        await talk(town, "hello")
        silent = {"on": True}

        def twist(request: object, reply: object) -> object:
            changed = town.liar.entries["bob"].version > 1
            return None if silent["on"] and changed else reply

        town.liar.twist = twist  # type: ignore[assignment]
        with pytest.raises(CbfsError):
            await town.do(lambda: town.owner("bob").rotate(None, stolen=True))
        silent["on"] = False
        await town.do(lambda: town.owner("bob").rotate(None))
        assert not load(town, "bob").former, "what was begun goes on"
        await talk(town, "with new keys")
        await trio.lowlevel.checkpoint()

    in_town(tmp_path, here.server.url, body)


def test_keys_that_were_made_before_a_theft_are_not_those_after_it(
    here: World, tmp_path: Path
) -> None:
    """A planned change was cut off: the copy that somebody has holds the keys that it has made."""

    async def body(town: Town) -> None:
        silent = {"on": True}

        def twist(request: object, reply: object) -> object:
            return None if silent["on"] and town.liar.entries["bob"].version > 1 else reply

        town.liar.twist = twist  # type: ignore[assignment]
        with pytest.raises(CbfsError):
            await town.do(lambda: town.owner("bob").rotate(None))
        with opened_store(town.account("bob"), SYSTEM_RANDOM) as store:
            made = load_next(store)
        assert made is not None
        silent["on"] = False
        with pytest.raises(CbfsError, match="not finished"):
            await town.do(lambda: town.owner("bob").rotate(None, stolen=True))
        await town.do(lambda: town.owner("bob").rotate(None))
        await town.do(lambda: town.owner("bob").rotate(None, stolen=True))
        now = load(town, "bob")
        assert not now.former
        for key in ("transport", "signing", "auth", "kem", "owner"):
            assert getattr(now, key) != getattr(made, key), key

    in_town(tmp_path, here.server.url, body)


def test_a_mailbox_that_is_not_deleted_after_a_theft_is_told(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(link: Link, asked: object) -> NoReturn:
        assert isinstance(asked, DeleteAccount)
        raise ServerRefused(Code.TROUBLE)

    async def body(town: Town) -> None:
        monkeypatch.setattr("cbfs.commands.owner.name_owner.request", refuse)
        said: list[str] = []
        owner = Owner(town.account("bob"), NO_TOR, said.append)
        await town.do(lambda: owner.rotate(None, stolen=True))
        assert any("was not deleted" in line for line in said)

    in_town(tmp_path, here.server.url, body)
