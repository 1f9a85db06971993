"""Contacts whose keys or server change, by their owners' word and by nobody's: two engines, real
message servers, and a directory that does what the test says, over real sockets."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cbfs.account import SYSTEM_RANDOM, Account, load_account, make_account, opened_store
from cbfs.contact import Contact
from cbfs.engine import Engine, running
from cbfs.init import make
from cbfs.model import Refused
from cbfs.owner import Owner
from cbfs.texts import changed_text
from cbfs_common.errors import CbfsError
from cbfs_common.names_operations import Kind, Link, Operation
from cbfs_common.primitives import sign_public
from cbfs_common.profile import parse_address
from tests.names_liar import Liar
from tests.names_naive import NAMESPACE, make_policy
from tests.names_server import answering
from tests.test_engine import NO_TOR, Recorder, until
from tests.test_healing import texts, write
from tests.world import World


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("e"), stack)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls come often, and look-ups by name later than the test."""
    monkeypatch.setattr("cbfs.watch.POLL", 0.2)
    monkeypatch.setattr("cbfs.watch.LOOKUP_DELAY", 10_000.0)


class Town:
    """alice, bob and the directory between them. Each has a line to it of their own, so that it
    is known who asks for what."""

    def __init__(self, place: Path, server: str) -> None:
        self.place = place
        self.server = server
        self.liar = Liar()
        self.asked: dict[str, list[object]] = {"alice": [], "bob": []}

    def account(self, name: str) -> Path:
        return self.place / name

    def owner(self, name: str) -> Owner:
        return Owner(self.account(name), NO_TOR, lambda text: None)

    async def do(self, work: Callable[[], object]) -> None:
        """Something that runs a loop of its own, as the commands do."""
        await trio.to_thread.run_sync(work)

    def asked_for(self, who: str, name: str) -> bool:
        return any(getattr(request, "name", "") == name for request in self.asked[who])


def in_town(place: Path, server: str, body: Callable[[Town], Awaitable[None]]) -> None:
    town = Town(place, server)

    async def go() -> None:
        async with trio.open_nursery() as nursery:
            for name in town.asked:
                policy = await nursery.start(line, name)
                await town.do(
                    lambda name=name, policy=policy: make(  # type: ignore[misc]
                        name, town.account(name), server, policy, NO_TOR, lambda text: None
                    )
                )
            await body(town)
            nursery.cancel_scope.cancel()

    async def line(name: str, *, task_status: trio.TaskStatus[Path]) -> None:
        def answer(request: object) -> object:
            town.asked[name].append(request)
            return town.liar.answer(request)  # type: ignore[arg-type]

        async with answering(answer) as address:  # type: ignore[arg-type]
            policy = place / f"{name}-policy"
            policy.write_text(make_policy(address).encode())
            task_status.started(policy)
            await trio.sleep_forever()

    trio.run(go)


async def talk(town: Town, words: str) -> None:
    """Each writes to the other, and reads it."""
    async with (
        running(town.account("alice"), NO_TOR) as alice,
        running(town.account("bob"), NO_TOR) as bob,
    ):
        for engine, other in ((alice, "bob"), (bob, "alice")):
            await write(engine, other, f"{words} of {engine.name}")
        for engine, other in ((alice, "bob"), (bob, "alice")):
            await arrived(engine, f"{words} of {other}")
        await until(lambda: not alice.report().queue, "alice's queue to be empty")
        await until(lambda: not bob.report().queue, "bob's queue to be empty")


async def arrived(engine: Engine, text: str) -> None:
    await until(lambda: text in texts(engine), f"{text!r} at {engine.name}")


def contact(engine: Engine, name: str) -> Contact:
    found = engine.contact(name)
    assert found is not None
    return found


def test_rotated_keys_are_found_without_asking_for_the_name(here: World, tmp_path: Path) -> None:
    async def body(town: Town) -> None:
        await talk(town, "hello")
        alice_asked = town.asked["alice"]
        before = load(town, "bob")
        alice_asked.clear()
        await town.do(lambda: town.owner("bob").rotate(None))
        after = load(town, "bob")
        assert not {before.owner, before.auth, before.signing, before.transport} & {
            after.owner, after.auth, after.signing, after.transport,
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


def load(town: Town, name: str) -> Account:
    with opened_store(town.account(name), SYSTEM_RANDOM) as store:
        account = load_account(store)
    assert account is not None
    return account


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


def test_change_that_was_cut_off_goes_on(here: World, tmp_path: Path) -> None:
    async def body(town: Town) -> None:
        await talk(town, "hello")
        down = {"down": True}
        town.liar.twist = lambda request, reply: None if down["down"] else reply
        with pytest.raises(CbfsError):
            await town.do(lambda: town.owner("bob").rotate(None))
        with pytest.raises(CbfsError, match="not finished"):
            async with running(town.account("bob"), NO_TOR):
                pass
        with pytest.raises(CbfsError, match="another change"):
            down["down"] = False
            await town.do(lambda: town.owner("bob").move(replace(load(town, "bob").server, port=9)))
        await town.do(lambda: town.owner("bob").rotate(None))
        assert town.liar.entries["bob"].version == 2
        await talk(town, "again")

    in_town(tmp_path, here.server.url, body)


def test_nothing_leaves_for_a_new_owner_until_the_user_says_so(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.watch.LOOKUP_DELAY", 0.1)

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
            text = changed_text(known, alice.compare("bob"))
            assert "registered it anew" in text
            assert "Nothing is sent" in text
        async with running(town.account("alice"), NO_TOR) as alice:  # and it stays so
            assert contact(alice, "bob").offered
            assert not await alice.verify("bob", "12345 " * 12)
            assert await alice.verify("bob", " ".join(alice.compare("bob").digits))
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
        monkeypatch.setattr("cbfs.watch.LOOKUP_DELAY", 0.1)
        async with running(town.account("alice"), NO_TOR) as alice:
            await until(lambda: contact(alice, "bob").offered, "alice to know")
            assert alice.report().queue == ("1 message to bob",)
            async with running(town.account("bob"), NO_TOR) as bob:
                await until(lambda: bob.alarm, "bob to be warned")
                assert "a secret" not in texts(bob)

    in_town(tmp_path, here.server.url, body)


def stolen(town: Town, seed: bytes, **changes: object) -> None:
    """A change of bob's entry, signed with ``seed``."""
    old = town.liar.entries["bob"]
    mallory = make_account("bob", parse_address(town.server), "", SYSTEM_RANDOM).profile.encode()
    operation = Operation(
        Kind.UPDATE, NAMESPACE, "bob", old.incarnation, old.version + 1, old.digest(),
        len(town.liar.rounds) + 9, profile=mallory,
    ).signed((seed,))  # fmt: skip
    entry = replace(
        old,
        version=old.version + 1,
        round=len(town.liar.rounds),
        previous=old.digest(),
        profile=operation.profile,
    )
    link = Link(len(town.liar.rounds), int(time.time()), operation.encode())
    town.liar.links.setdefault("bob", []).append(link)
    town.liar.put(replace(entry, **changes))  # type: ignore[arg-type]  # fields by name


def test_all_verifiers_together_cannot_replace_a_contact_s_keys(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.watch.LOOKUP_DELAY", 0.1)

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
                assert "in other hands" in said
                return
            town.liar.put(entry)
            await until(lambda: not bob.alarm, "the alarm to end")

    in_town(tmp_path, here.server.url, body)


def load_running(town: Town, engine: Engine) -> bytes:
    """The owner's seed of an account that is in use."""
    account = load_account(engine.store)
    assert account is not None
    assert sign_public(account.owner) in town.liar.entries[account.name].owners.keys
    return account.owner


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
