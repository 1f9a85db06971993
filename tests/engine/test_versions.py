"""Peers and servers of another version of the protocol than this one: what both have goes on, and
the rest is kept, said, and read after the upgrade."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
import trio

from cbfs.commands.init import has_profile
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages.queues.quarantine import Why, of_later_version
from cbfs.names.own_name import Intent
from cbfs.network.link import ServerRefused, request
from cbfs.storage.store import Table
from cbfs.tree.texts import contact_text
from cbfs_common.messages.body import Note, Refs, encode_note, encode_part
from cbfs_common.primitives import Random
from cbfs_common.wire.requests import GetLimits, TellVersion, encode
from cbfs_common.wire.transport import ClientConnection
from tests.engine.test_engine import NO_TOR, send, until
from tests.engine.test_hostile_peers import Mallory, messages, part
from tests.support.healing_world import World as PeerWorld
from tests.support.next_version import (
    LATER,
    NEW,
    NEXT,
    NewRequest,
    make_next,
    next_version,
    running_next,
)
from tests.support.serving import link_to, running_server
from tests.support.town import Town, contact, in_town, load, talk
from tests.support.world import World


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs.receiving.receiver.PROMPT_AFTER", 0.2)


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[PeerWorld]:
    made = PeerWorld(tmp_path)
    made.begin(("alice", "bob", "mallory"))
    yield made
    made.close()


def shown(engine: Engine) -> list[str]:
    """The names of the files of all messages."""
    return sorted(m.file_name for c in engine.conversations() for m in engine.messages(c.id))


def told(engine: Engine) -> list[str]:
    return [line for line in engine.report().problems if "later version" in line]


def kept(engine: Engine) -> int:
    with engine.store.read() as reader:
        return reader.count(Table.QUARANTINE)


@pytest.mark.parametrize("first", ["alice", "bob"])
def test_two_versions_talk_both_ways_and_all_is_read_after_the_upgrade(
    first: str, here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bob is of the next version; alice is of today's, and then of the next as well."""
    make_next(monkeypatch, "bob")

    async def main(town: Town) -> None:
        alice_at, bob_at = town.account("alice"), town.account("bob")
        async with running(alice_at, NO_TOR) as alice, running_next(bob_at) as bob:
            if first == "alice":
                await send(alice, ("bob",), b"from today", name="one")
                await until(lambda: shown(bob) == ["one"], "bob to read it")
            else:
                await send(bob, ("alice",), b"from tomorrow", name="one")
                await until(lambda: shown(alice) == ["one"], "alice to read it")
            known = contact(alice, "bob")
            assert (known.profile.version, known.profile.later) == (NEXT, LATER)
            assert f"protocol_version = {NEXT}" in contact_text(known, "bob")
            with next_version():
                await send(bob, ("alice",), b"of a new kind", name=NEW)
            await send(bob, ("alice",), b"of a kind of today", name="two")
            await until(lambda: "two" in shown(alice), "alice to read what she can")
            await until(lambda: kept(alice), "the other one to be kept")
            assert shown(alice) == ["one", "two"]
            (line,) = told(alice)
            assert "from bob" in line
            assert "install a newer one" in line
            await send(alice, ("bob",), b"and on", name="three")
            await until(lambda: "three" in shown(bob), "bob to read on")
            assert bob.report().unreceived
        async with running_next(alice_at) as alice, running_next(bob_at) as bob:
            await until(lambda: NEW in shown(alice), "alice to read it after the upgrade")
            await until(lambda: not kept(alice), "nothing of a later version to be left")
            assert not told(alice)
            assert shown(alice) == sorted(["one", NEW, "two", "three"])
            await until(lambda: not bob.report().unreceived, "bob to hear of it")

    in_town(tmp_path, here.server.url, main)


def _of_later_version(wanted: bytes) -> dict[str, bytes]:
    """Bodies that there are not yet: of another version, and of other kinds."""
    note = encode_note(Note(Refs(wanted=(wanted,)), b""))
    fields, of_note = msgpack.unpackb(encode_part(part(b"later"))), msgpack.unpackb(note)
    return {
        "a part of version 2": msgpack.packb([2, *fields[1:]]),
        "a part with another element": msgpack.packb([2, *fields[1:], b"new"]),
        "a note of version 2": msgpack.packb([2, *of_note[1:], []]),
        "a kind that there is not": msgpack.packb([1, 7, b"new"]),
        "a kind of nothing": msgpack.packb([1, 2**64 - 1]),
    }


@pytest.mark.parametrize("what", _of_later_version(bytes(32)))
def test_all_that_is_of_a_later_version_is_kept_beside_what_goes_on(
    what: str, peers: PeerWorld
) -> None:
    mallory, alice = Mallory(peers), peers.clients["alice"]
    mallory.send(encode_part(part(b"before")))
    mallory.send(_of_later_version(bytes(32))[what], encode_part(part(b"after")))
    assert len(messages(alice)) == 2
    with alice.store.read() as reader:
        ((_key, data),) = reader.items(Table.QUARANTINE)
        counted, (session,) = of_later_version(reader)
    assert (counted, data[:1]) == (1, Why.VERSION.value)
    assert alice.context.sessions.peer_of(session) == "mallory"


def test_an_account_has_its_name_whatever_version_it_was_taken_with(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_next(monkeypatch, "bob")

    async def main(town: Town) -> None:
        monkeypatch.undo()
        bob, alice = load(town, "bob"), load(town, "alice")
        assert bob.profile.encode() != town.liar.entries["bob"].profile
        assert has_profile(town.liar.entries["bob"], bob)
        assert not has_profile(town.liar.entries["bob"], alice)
        assert not has_profile(replace(town.liar.entries["bob"], profile=b"x"), bob)
        entry = town.liar.entries["bob"]
        wanted = Intent(entry.owners, entry.agent, bob.profile.encode())
        assert wanted.made(entry)  # else what was cut off by an upgrade never ends
        assert not replace(wanted, profile=alice.profile.encode()).made(entry)

    in_town(tmp_path, here.server.url, main)


def test_a_server_says_of_a_request_of_later_that_it_is_older(tmp_path: Path) -> None:
    async def main() -> None:
        with running_server(tmp_path / "data") as server:
            async with link_to(server) as link:
                with pytest.raises(ServerRefused, match="of an earlier version") as refused:
                    await request(link, NewRequest())
                assert "upgrade" in refused.value.hint
                assert (await request(link, TellVersion(NEXT))).version == NEXT - 1
                assert (await request(link, GetLimits())).mailbox

    trio.run(main)


def test_client_and_server_tell_each_other(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of the next version, and a server of today's."""
    monkeypatch.setattr("cbfs.receiving.mailbox.SPOKEN_VERSION", NEXT)

    async def main(town: Town) -> None:
        async with running(town.account("alice"), NO_TOR) as alice:
            await until(lambda: "connected to" in alice.report().connection, "a connection")
            said = alice.report().connection
            assert f"reads version {NEXT - 1} of the protocol, and this cbfs version {NEXT}" in said
        await talk(town, "hello")

    in_town(tmp_path, here.server.url, main)


def test_only_the_home_server_of_a_connection_that_stays_is_told(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: dict[ClientConnection, bytes] = {}
    tellers: list[bytes] = []
    others: set[bytes] = set()
    begin, frame = ClientConnection.__init__, ClientConnection.send

    def begun(self: ClientConnection, server: bytes, own: bytes, random: Random) -> None:
        begin(self, server, own, random)
        owners[self] = own

    def sent(self: ClientConnection, id: int, payload: bytes) -> bytes:
        if payload[:2] == encode(TellVersion(1))[:2]:
            tellers.append(owners[self])
        elif payload:
            others.add(owners[self])
        return frame(self, id, payload)

    monkeypatch.setattr(ClientConnection, "__init__", begun)
    monkeypatch.setattr(ClientConnection, "send", sent)

    async def main(town: Town) -> None:
        await talk(town, "hello")
        homes = {load(town, name).transport for name in ("alice", "bob")}
        assert sorted(tellers) == sorted(homes)
        assert others - homes

    in_town(tmp_path, here.server.url, main)
