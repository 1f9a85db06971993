"""Accounts that follow several name directories, with real directories as processes: one that lies
or is down harms nobody of another, and what the disk does not take has not happened."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from cbfs.contacts.contact import Mark
from cbfs.contacts.look_up import NotFollowed
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.names.followed import PolicyRefused
from cbfs.network.dial import LoopbackDialer
from cbfs.problems import NotYet, Refused
from cbfs.storage.store import CannotWrite, Meta, Table
from cbfs_common.names.checks import decode_state
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.person import Directories
from tests.engine.test_engine import NO_TOR, read, send, until
from tests.support.world import World


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls come often."""
    monkeypatch.setattr("cbfs.contacts.feeds.POLL", 0.2)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with one more directory, of the namespace other.example."""
    with ExitStack() as stack:
        made = World(tmp_path_factory.mktemp("two"), stack)
        made.another_directory("elsewhere", "other.example")
        yield made


def policy(world: World, directory: str = "names") -> Policy:
    return parse_policy((world.place / directory / "policy").read_text())


async def follow(engine: Engine, *policies: Policy) -> None:
    for each in policies:
        await engine.directories.follow(each.encode().encode())


def texts(engine: Engine) -> list[str]:
    """Of all messages in all conversations."""
    talks = engine.conversations()
    return [read(engine, m).decode() for c in talks for m in engine.messages(c.id)]


async def arrived(engine: Engine, text: str) -> None:
    await until(lambda: text in texts(engine), f"{text!r} at {engine.name}")


def account(world: World, name: str, directory: str = "names") -> Path:
    return world.account(name, directory=directory).account


def test_a_directory_that_lies_or_is_down_harms_nobody_of_another(
    there: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.another_directory("liar", "liar.example")
    there.another_directory("down", "down.example")
    home = policy(there)
    # it answers with another's log, and all its signatures
    text = policy(there, "liar").encode()
    liar = parse_policy(text.replace(policy(there, "liar").server.url("cbfs-names"),
                                     home.server.url("cbfs-names")))  # fmt: skip
    there.directories["down"].end()
    used: dict[bytes, set[tuple[str, int]]] = defaultdict(set)
    dialled: list[bytes] = []
    dial = LoopbackDialer.dial

    async def noting(
        self: LoopbackDialer, host: str, port: int, isolation: bytes
    ) -> trio.abc.Stream:
        if isolation.startswith(b"names:"):
            used[isolation].add((host, port))
            dialled.append(isolation)
        return await dial(self, host, port, isolation)

    monkeypatch.setattr(LoopbackDialer, "dial", noting)
    places = account(there, "alice"), account(there, "bob"), account(there, "carol", "elsewhere")

    async def body() -> None:
        async with (
            running(places[0], NO_TOR) as alice,
            running(places[1], NO_TOR) as bob,
            running(places[2], NO_TOR) as carol,
        ):
            await follow(alice, policy(there, "elsewhere"), liar, policy(there, "down"))
            await follow(carol, home)

            def problems() -> str:
                return "\n".join(alice.report().problems)

            for name in ("liar", "down"):
                await until(
                    lambda name=name: (
                        f"the name directory {name}.example was not followed" in problems()
                    ),
                    name,
                )
            for name in ("dave", "erin"):
                with pytest.raises((NotYet, Refused)) as down:
                    who = alice.people.called(f"{name}@down.example")
                    await send(alice, (who,), b"not yet")
                assert "down.example" in str(down.value)
            await send(alice, ("bob",), b"to bob")
            await send(alice, (alice.people.called("carol@other.example"),), b"to carol")
            await arrived(bob, "to bob")
            await arrived(carol, "to carol")
            assert "the name directory was not followed" not in problems()
            assert "other.example was not followed" not in problems()
            assert not any(contact.doubted for contact in alice.people.contacts())
            await alice.directories.leave(liar.directory)
            await until(lambda: "liar.example" not in problems(), "nothing more of it")

    trio.run(body)
    # each connection has a circuit of its own: none is of two directories, or of two questions
    assert len(dialled) > 10
    assert len(set(dialled)) == len(dialled)
    assert all(len(places) == 1 for places in used.values())


def test_namesakes_are_two_people_everywhere(there: World) -> None:
    places = [
        account(there, "robert"), account(there, "robert", "elsewhere"), account(there, "anna")
    ]  # fmt: skip

    async def body() -> None:
        async with (
            running(places[0], NO_TOR) as near,
            running(places[1], NO_TOR) as far,
            running(places[2], NO_TOR) as anna,
        ):
            await follow(anna, policy(there, "elsewhere"))
            await follow(far, policy(there))
            other = anna.people.called("robert@other.example")
            assert other != "robert"
            assert anna.people.called("robert") == "robert"
            await send(anna, ("robert",), b"near")
            await send(anna, (other,), b"far")
            await send(anna, ("robert", other), b"both")
            await arrived(near, "near")
            await arrived(far, "far")
            assert "far" not in texts(near)
            assert "near" not in texts(far)
            # the near one does not follow the other directory, and reads what anna writes
            await arrived(near, "both")
            await arrived(far, "both")
            assert len(anna.conversations()) == 3
            assert len({c.id for c in anna.conversations()}) == 3
            await anna.people.rename(other, "rob")
            await anna.people.mark(other, Mark.MUTED, on=True)
            kept = {contact.name: contact for contact in anna.people.contacts()}
            assert (kept["robert"].petname, kept["robert"].muted) == ("", 0)
            assert (kept[other].petname, bool(kept[other].muted)) == ("rob", True)
            assert anna.people.called("rob") == other
            # under its true name again
            await anna.people.rename(other, "robert@other.example")
            assert anna.people.label(other) == "robert@other.example"

    trio.run(body)


def test_who_is_of_a_directory_that_was_removed_is_not_written_to(there: World) -> None:
    places = account(there, "gina"), account(there, "hugo", "elsewhere")

    async def body() -> None:
        async with running(places[0], NO_TOR) as gina, running(places[1], NO_TOR) as hugo:
            elsewhere = policy(there, "elsewhere")
            await follow(gina, elsewhere)
            await follow(hugo, policy(there))
            who = gina.people.called("hugo@other.example")
            await send(gina, (who,), b"hello")
            await arrived(hugo, "hello")
            await gina.directories.leave(elsewhere.directory)
            with pytest.raises(NotFollowed):
                await send(gina, (who,), b"into nothing")
            assert gina.people.label(who) == who
            await gina.directories.leave(elsewhere.directory)  # once more is no change
            # there is somebody of it: its log must go on from where it was
            key = Meta.LOG + elsewhere.directory
            with gina.store.read() as reader:
                followed_to = reader.get(Table.META, key)
            assert followed_to is not None
            # what they write in a session that is known is read all the same
            me = Directories(elsewhere.directory).text(
                Directories(policy(there).directory).person("gina")
            )
            await send(hugo, (me,), b"still here")
            await arrived(gina, "still here")
            await follow(gina, elsewhere)
            state = gina._context.followed.of(elsewhere.directory)._state
            assert state.head.size >= decode_state(followed_to).head.size > 0
            await send(gina, (who,), b"and back")
            await arrived(hugo, "and back")
            assert "into nothing" not in texts(hugo)

    trio.run(body)


def test_what_the_disk_does_not_take_has_not_happened(
    there: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = account(there, "ivan")

    async def body() -> None:
        async with running(place, NO_TOR) as ivan:
            elsewhere = policy(there, "elsewhere")
            known = ivan.directories.policies()

            async def full(_change: object) -> object:
                raise CannotWrite("the disk is full")

            with monkeypatch.context() as broken:
                broken.setattr(ivan.store, "commit", full)
                with pytest.raises(CannotWrite):
                    await follow(ivan, elsewhere)
                assert ivan.directories.policies() == known
            await follow(ivan, elsewhere)
            with monkeypatch.context() as broken:
                broken.setattr(ivan.store, "commit", full)
                with pytest.raises(CannotWrite):
                    await ivan.directories.leave(elsewhere.directory)
                assert len(ivan.directories.policies()) == 2
        async with running(place, NO_TOR) as ivan:
            assert [each.namespace for each in ivan.directories.policies()] == [
                known[0].namespace,
                "other.example",
            ]

    trio.run(body)


def test_ones_own_policy_can_be_replaced_by_a_newer_one(there: World) -> None:
    place = account(there, "judy")

    async def body() -> None:
        home = policy(there)
        newer = home.encode().replace(
            f"quorum {home.quorum}\n", f"group newer all {home.quorum}\nquorum newer\n"
        )
        async with running(place, NO_TOR) as judy:
            with pytest.raises(PolicyRefused):
                await judy.directories.follow(
                    home.encode().replace(home.namespace, "else.example").encode()
                )
            await judy.directories.follow(newer.encode())
            await judy._own.check()
        async with running(place, NO_TOR) as judy:
            assert judy.directories.policies() == (parse_policy(newer),)
            assert judy.directories.policies() != (home,)
            await judy._own.check()
            assert not judy.alarm

    trio.run(body)
