"""What owners do with their names, and what becomes of it at their contacts; and what somebody else
does with them."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cbfs.commands.owner.name_owner import Owner
from cbfs.engine.running import running
from cbfs.problems import Refused
from cbfs.tree.texts import changed_text, warning_text
from cbfs_common.errors import CbfsError
from cbfs_common.names.entry import Status
from cbfs_common.profile import parse_address
from tests.engine.test_engine import NO_TOR, Recorder, until
from tests.engine.test_healing import write
from tests.support.town import Town, arrived, contact, in_town, load, load_running, stolen, talk
from tests.support.world import World, make_easy


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls come often, and look-ups by name later than the test."""
    monkeypatch.setattr("cbfs.contacts.feeds.POLL", 0.2)
    monkeypatch.setattr("cbfs.contacts.monitor.LOOKUP_DELAY", 10_000.0)


def test_frozen_name_is_not_written_to(here: World, tmp_path: Path) -> None:
    """bob has lost his computer, and kept a certificate."""

    async def body(town: Town) -> None:
        await talk(town, "hello")
        kept = tmp_path / "certificate"
        await town.do(lambda: town.owner("bob").certify(kept))
        assert kept.stat().st_mode & 0o777 == 0o600
        with pytest.raises(CbfsError, match="cannot write"):
            await town.do(lambda: town.owner("bob").certify(kept))
        elsewhere = Owner(tmp_path / "nothing", NO_TOR, lambda text: None)
        for _ in range(2):
            await town.do(lambda: elsewhere.freeze(tmp_path / "alice-policy", kept))
        assert town.liar.entries["bob"].status is Status.FROZEN
        assert not (tmp_path / "nothing").exists()
        with pytest.raises(CbfsError, match="frozen"):
            await town.do(lambda: town.owner("bob").rotate(None))
        async with running(town.account("alice"), NO_TOR) as alice:
            await alice._context.look_up.find("bob")
            with pytest.raises(Refused, match="frozen"):
                await write(alice, "bob", "a secret")
            assert "Nothing is sent" in warning_text(contact(alice, "bob"))
        async with running(town.account("bob"), NO_TOR) as bob:
            await until(lambda: bob.alarm, "the thief to be told")

    in_town(tmp_path, here.server.url, body)


def test_recovered_name_needs_the_word_of_those_who_know_it(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs_common.names.changes.RECOVERY_DELAY", 2)

    async def body(town: Town) -> None:
        await talk(town, "hello")
        key = tmp_path / "recovery"
        await town.do(lambda: town.owner("bob").rotate(key))
        assert key.stat().st_mode & 0o777 == 0o600
        await talk(town, "with a recovery key")
        server = parse_address(here.server.url)
        fresh = Owner(tmp_path / "bob-again", NO_TOR, lambda text: None)

        def recover() -> int:
            return fresh.recover("bob", server, tmp_path / "bob-policy", key)

        (tmp_path / "wrong").write_text("no key\n")
        with pytest.raises(CbfsError, match="no recovery key"):
            await town.do(
                lambda: fresh.recover("bob", server, tmp_path / "bob-policy", tmp_path / "wrong")
            )
        due = await trio.to_thread.run_sync(recover)
        assert due
        async with running(town.account("alice"), NO_TOR) as alice:
            await alice._context.look_up.find("bob")
            assert "takes the name over" in warning_text(contact(alice, "bob"))
        async with running(town.account("bob"), NO_TOR) as bob:
            await until(lambda: "recovery key" in bob.alarm, "bob to be warned")
        await until(lambda: time.time() >= due, "the recovery to be due")
        assert await trio.to_thread.run_sync(recover) == 0
        async with running(town.account("alice"), NO_TOR) as alice:
            with pytest.raises(Refused):
                await alice._context.look_up.find("bob")
            text = changed_text(contact(alice, "bob"), "bob", alice.people.compare("bob"))
            assert "recovery keys" in text
            await alice.people.accept("bob")
            await write(alice, "bob", "is it you?")
            make_easy(tmp_path / "bob-again")
            async with running(tmp_path / "bob-again", NO_TOR) as bob:
                await arrived(bob, "is it you?")

    in_town(tmp_path, here.server.url, body)


def test_recovery_is_cancelled_by_the_owner(here: World, tmp_path: Path) -> None:
    async def body(town: Town) -> None:
        key = tmp_path / "recovery"
        await town.do(lambda: town.owner("bob").rotate(key))
        server = parse_address(here.server.url)
        thief = Owner(tmp_path / "thief", NO_TOR, lambda text: None)
        await town.do(lambda: thief.recover("bob", server, tmp_path / "bob-policy", key))
        assert town.liar.entries["bob"].heirs.keys
        await town.do(lambda: town.owner("bob").cancel())
        assert not town.liar.entries["bob"].heirs.keys
        async with running(town.account("bob"), NO_TOR) as bob:
            town.asked["bob"].clear()
            await until(lambda: town.asked_for("bob", "bob"), "bob to look at his name")
            assert not bob.alarm

    in_town(tmp_path, here.server.url, body)


def test_name_that_was_given_up_is_told(here: World, tmp_path: Path) -> None:
    async def body(town: Town) -> None:
        await talk(town, "hello")
        with pytest.raises(CbfsError, match="the name of this account is bob"):
            await town.do(lambda: town.owner("bob").release("alice"))
        await town.do(lambda: town.owner("bob").release("bob"))
        assert town.liar.entries["bob"].status is Status.RELEASED
        async with running(town.account("alice"), NO_TOR) as alice:
            with pytest.raises(CbfsError, match="given up"):
                await alice._context.look_up.find("bob")
            assert "given up" in warning_text(contact(alice, "bob"))

    in_town(tmp_path, here.server.url, body)


def test_own_changes_raise_no_alarm(here: World, tmp_path: Path) -> None:
    """Not even one that was made and not heard of."""

    async def body(town: Town) -> None:
        silent = {"on": False}

        def twist(request: object, reply: object) -> object:
            changed = town.liar.entries["bob"].version > 1
            return None if silent["on"] and changed else reply

        town.liar.twist = twist  # type: ignore[assignment]
        silent["on"] = True
        with pytest.raises(CbfsError):
            await town.do(lambda: town.owner("bob").rotate(None))
        assert town.liar.entries["bob"].version == 2
        silent["on"] = False
        async with running(town.account("bob"), NO_TOR) as bob:
            town.asked["bob"].clear()
            await until(lambda: town.asked_for("bob", "bob"), "bob to look at his name")
            town.liar.put(changed=("bob",))
            town.asked["bob"].clear()
            await until(lambda: town.asked_for("bob", "bob"), "bob to look again")
            assert not bob.alarm
        await town.do(lambda: town.owner("bob").rotate(None))
        assert town.liar.entries["bob"].version == 2
        async with running(town.account("bob"), NO_TOR) as bob:
            town.asked["bob"].clear()
            await until(lambda: town.asked_for("bob", "bob"), "bob to look at his name")
            town.liar.put(changed=("bob",))
            town.asked["bob"].clear()
            await until(lambda: town.asked_for("bob", "bob"), "bob to look again")
            assert not bob.alarm

    in_town(tmp_path, here.server.url, body)


@pytest.mark.parametrize("how", ["with the owner's key", "gone", "another of the same version"])
def test_change_of_one_s_own_name_is_shouted(here: World, tmp_path: Path, how: str) -> None:
    async def body(town: Town) -> None:
        async with running(town.account("bob"), NO_TOR) as bob:
            view = Recorder()
            bob.attach(view)
            await until(lambda: town.asked_for("bob", "bob"), "bob to look at his name")
            entry = town.liar.entries["bob"]
            if how == "gone":
                town.liar.entries.pop("bob")
                town.liar.put(changed=("bob",))
            elif how == "another of the same version":
                town.liar.put(replace(entry, profile=b"mallory's"))
            else:
                stolen(town, load_running(town, bob))
            await until(lambda: bob.alarm, "the alarm")
            said = bob.alarm
        async with running(town.account("bob"), NO_TOR) as bob:
            assert bob.alarm == said
            if how == "with the owner's key":
                assert "they have that key as well" in said
                return
            town.liar.put(entry)
            await until(lambda: not bob.alarm, "the alarm to end")

    in_town(tmp_path, here.server.url, body)


def test_change_that_was_cut_off_goes_on(here: World, tmp_path: Path) -> None:
    async def body(town: Town) -> None:
        await talk(town, "hello")
        down = {"down": True}
        town.liar.twist = lambda request, reply: None if down["down"] else reply
        with pytest.raises(CbfsError):
            await town.do(lambda: town.owner("bob").rotate(None))
        async with running(town.account("bob"), NO_TOR) as bob:
            assert any("not finished" in line for line in bob.report().problems)
        with pytest.raises(CbfsError, match="another change"):
            down["down"] = False
            await town.do(lambda: town.owner("bob").move(replace(load(town, "bob").server, port=9)))
        await town.do(lambda: town.owner("bob").rotate(None))
        assert town.liar.entries["bob"].version == 2
        await talk(town, "again")

    in_town(tmp_path, here.server.url, body)
