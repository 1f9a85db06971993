"""Contacts whose keys or server change, by their owners' word and by nobody's: two engines, real
message servers, and a directory that does what the test says, over real sockets."""

from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, make_account
from cbfs.contacts.contact import Mark
from cbfs.contacts.look_up import Blocked
from cbfs.engine.running import running
from cbfs.messages.model import Conversation
from cbfs.problems import Refused
from cbfs.receiving.reassembly import Reception, drop_part
from cbfs.storage.store import Writer
from cbfs.tree.texts import changed_text
from cbfs_common.messages.body import Part
from cbfs_common.profile import parse_address
from tests.engine.test_engine import NO_TOR, Recorder, account, send, until
from tests.engine.test_healing import texts, write
from tests.support.town import Town, arrived, contact, in_town, load, stolen, talk
from tests.support.world import World


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls come often, and look-ups by name later than the test."""
    monkeypatch.setattr("cbfs.contacts.feeds.POLL", 0.2)
    monkeypatch.setattr("cbfs.contacts.monitor.LOOKUP_DELAY", 10_000.0)


def test_rotated_keys_are_found_without_asking_for_the_name(here: World, tmp_path: Path) -> None:
    async def body(town: Town) -> None:
        await talk(town, "hello")
        alice_asked = town.asked["alice"]
        before = load(town, "bob")
        alice_asked.clear()
        await town.do(lambda: town.owner("bob").rotate(None))
        after = load(town, "bob")
        assert not {before.owner, before.auth, before.kem, before.signing, before.transport} & {
            after.owner, after.auth, after.kem, after.signing, after.transport,
        }  # fmt: skip
        async with running(town.account("alice"), NO_TOR) as alice:
            alice.attach(Recorder())
            await until(lambda: contact(alice, "bob").doubted, "alice to notice a change")
            await write(alice, "bob", "after the change")
            assert alice.report().queue
            async with running(town.account("bob"), NO_TOR) as bob:
                await arrived(bob, "after the change")
                await write(bob, "alice", "got it")
                await arrived(alice, "got it")
            known = contact(alice, "bob")
            assert known.profile == after.profile
            assert known.moved
            assert not known.doubted
        assert not town.asked_for("alice", "bob")

    in_town(tmp_path, here.server.url, body)


def test_what_is_on_its_way_to_the_old_keys_is_read(here: World, tmp_path: Path) -> None:
    """alice has heard of nothing: her message goes to the mailbox of before."""

    async def body(town: Town) -> None:
        await talk(town, "hello")
        async with running(town.account("alice"), NO_TOR) as alice:
            await write(alice, "bob", "to the old keys")
            await until(lambda: not alice.report().queue, "the queue to be empty")
        await town.do(lambda: town.owner("bob").rotate(None))
        async with running(town.account("bob"), NO_TOR) as bob:
            await arrived(bob, "to the old keys")
        await talk(town, "again")

    in_town(tmp_path, here.server.url, body)


def test_moved_home_server_is_found_without_asking_for_the_name(
    here: World, tmp_path: Path
) -> None:
    elsewhere = here.another_server(f"elsewhere-{tmp_path.name}")

    async def body(town: Town) -> None:
        await talk(town, "hello")
        town.asked["alice"].clear()
        await town.do(lambda: town.owner("bob").move(parse_address(elsewhere.url)))
        await talk(town, "again")
        async with running(town.account("alice"), NO_TOR) as alice:
            known = contact(alice, "bob")
            assert known.profile.server == parse_address(elsewhere.url)
            assert known.moved
        assert not town.asked_for("alice", "bob")

    in_town(tmp_path, here.server.url, body)


def test_nothing_leaves_for_a_new_owner_until_the_user_says_so(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.contacts.monitor.LOOKUP_DELAY", 0.1)

    async def body(town: Town) -> None:
        await talk(town, "hello")
        old = load(town, "bob").profile
        server = parse_address(here.server.url)
        thief = make_account("bob", server, "", SYSTEM_RANDOM)
        async with running(town.account("alice"), NO_TOR) as alice:
            town.liar.reregister("bob", thief.profile.encode())
            await until(lambda: contact(alice, "bob").offered, "alice to know of the new owner")
            with pytest.raises(Refused, match="other keys"):
                await write(alice, "bob", "a secret")
            known = contact(alice, "bob")
            assert known.profile == old
            text = changed_text(known, "bob", alice.people.compare("bob"))
            assert "registered it anew" in text
            assert "Nothing is sent" in text
        async with running(town.account("alice"), NO_TOR) as alice:  # and it stays so
            assert contact(alice, "bob").offered
            assert not await alice.people.verify("bob", "12345 " * 12)
            assert await alice.people.verify("bob", " ".join(alice.people.compare("bob").digits))
            known = contact(alice, "bob")
            assert known.profile == thief.profile
            assert known.verified
            assert known.offered is None

    in_town(tmp_path, here.server.url, body)


def test_queued_message_does_not_leave_for_a_new_owner(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written while bob's entry was in doubt."""

    async def body(town: Town) -> None:
        await talk(town, "hello")
        server = parse_address(here.server.url)
        thief = make_account("bob", server, "", SYSTEM_RANDOM)
        async with running(town.account("alice"), NO_TOR) as alice:
            town.liar.reregister("bob", thief.profile.encode())
            await until(lambda: contact(alice, "bob").doubted, "alice to be in doubt")
            await write(alice, "bob", "a secret")
            assert alice.report().queue == ("1 message to bob",)
        monkeypatch.setattr("cbfs.contacts.monitor.LOOKUP_DELAY", 0.1)
        async with running(town.account("alice"), NO_TOR) as alice:
            await until(lambda: contact(alice, "bob").offered, "alice to know")
            assert alice.report().queue == ("1 message to bob",)
            async with running(town.account("bob"), NO_TOR) as bob:
                await until(lambda: bob.alarm, "bob to be warned")
                assert "a secret" not in texts(bob)

    in_town(tmp_path, here.server.url, body)


def test_all_verifiers_together_cannot_replace_a_contact_s_keys(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.contacts.monitor.LOOKUP_DELAY", 0.1)

    async def body(town: Town) -> None:
        await talk(town, "hello")
        old = load(town, "bob").profile
        async with running(town.account("alice"), NO_TOR) as alice:
            stolen(town, b"m" * 32)
            await until(lambda: contact(alice, "bob").warning, "alice to see the lie")
            known = contact(alice, "bob")
            assert known.profile == old
            assert "does not follow" in known.warning
        async with running(town.account("bob"), NO_TOR) as bob:
            await until(lambda: bob.alarm, "bob to be warned")
            assert "does not follow" in bob.alarm

    in_town(tmp_path, here.server.url, body)


def test_who_is_looked_up_is_not_in_doubt_for_what_was_before(here: World, tmp_path: Path) -> None:
    """bob registers after alice, and she has not polled since."""

    async def body(town: Town) -> None:
        async with running(town.account("alice"), NO_TOR) as alice:
            await write(alice, "bob", "hello")
            await until(lambda: not alice.report().queue, "the queue to be empty")
            asked = len(town.asked["alice"])
            await until(lambda: len(town.asked["alice"]) > asked + 4, "some polls")
            assert not contact(alice, "bob").doubted
            town.liar.put(changed=("bob",))
            await until(lambda: contact(alice, "bob").doubted, "alice to be in doubt")

    in_town(tmp_path, here.server.url, body)


def test_what_somebody_blocked_sends_is_dropped_and_the_session_goes_on(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[str] = []

    def drop(
        writer: Writer,
        known: dict[bytes, Conversation],
        reception: Reception,
        sender: str,
        part: Part,
    ) -> None:
        dropped.append(sender)
        drop_part(writer, known, reception, sender, part)

    monkeypatch.setattr("cbfs.receiving.incoming.drop_part", drop)

    async def body(town: Town) -> None:
        await talk(town, "hello")
        async with (
            running(town.account("alice"), NO_TOR) as alice,
            running(town.account("bob"), NO_TOR) as bob,
        ):
            await alice.people.mark("bob", Mark.BLOCKED, on=True)
            await alice.people.mark("bob", Mark.MUTED, on=True)
            for number in range(3):
                await write(bob, "alice", f"unwanted {number}")
            await until(lambda: len(dropped) >= 3, "alice to drop them")
            with pytest.raises(Blocked):
                await write(alice, "bob", "after all")
            await alice.people.mark("bob", Mark.BLOCKED, on=False)
            await write(bob, "alice", "wanted")
            await arrived(alice, "wanted")
            await write(alice, "bob", "welcome")
            await arrived(bob, "welcome")
            assert not [text for text in texts(alice) if "unwanted" in text]
        async with running(town.account("alice"), NO_TOR) as alice:
            assert contact(alice, "bob").muted
            assert not contact(alice, "bob").blocked

    in_town(tmp_path, here.server.url, body)


def test_nobody_asks_for_what_somebody_blocked_wrote_in_a_group(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others answer it, so that it is a parent of what they write."""
    monkeypatch.setattr("cbfs.receiving.reassembly.ASK_FIRST", 10_000)
    places = {name: account(here, name) for name in ("group-a", "group-b", "group-m")}

    async def body() -> None:
        async with (
            running(places["group-a"], NO_TOR) as alice,
            running(places["group-b"], NO_TOR) as bob,
            running(places["group-m"], NO_TOR) as mallory,
        ):
            await send(alice, ("group-b", "group-m"), b"hello")
            await arrived(bob, "hello")
            await arrived(mallory, "hello")
            await alice.people.mark("group-m", Mark.BLOCKED, on=True)
            for number in range(3):
                await write(mallory, "group-a", f"unwanted {number}")
                await arrived(bob, f"unwanted {number}")
                await write(bob, "group-a", f"answer {number}")
                await arrived(alice, f"answer {number}")
            await until(lambda: not alice.report().problems, "nothing to be missing")
            assert not [text for text in texts(alice) if "unwanted" in text]

    trio.run(body)
