"""What a thief of ``data.mdb`` learns from where its records are: with whom somebody writes must
not be among it, nor whether a guess is right.

``Thief`` has the file and a list of names. He makes of these whatever the program makes of them,
and looks for it in all pages, in use or free: first without a key, then with the newest
``root.key``."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.engine.running import running
from cbfs.messages.conversations import add_conversation
from cbfs.messages.history import Arrival, add_message, named_message, remove_message
from cbfs.messages.model import Message
from cbfs.storage.encoding import u32
from cbfs.storage.lmdb_pages import node, offsets
from cbfs.storage.records import Table, place_of
from cbfs.storage.store import Store, Writer
from cbfs.storage.tables import derived_place
from cbfs_common.messages.conversation import conversation_id
from cbfs_common.names.policy import parse_policy
from cbfs_common.person import Directories
from cbfs_common.primitives import kdf
from tests.engine.test_engine import NO_TOR, account
from tests.storage.test_erasure import exchange
from tests.support.disk import PAGE, Disk, follow
from tests.support.fake_backend import put_content
from tests.support.stores import open_store
from tests.support.world import World

NAMES = 300
NOW = 1_800_000_000_000
_STAY = {Table.CONTENT, Table.HELD, Table.INDEX, Table.TERMS}
"""Their keys are numbers, and nobody's names are in them."""

_NUMBERED = 16
"""A key below this size is a number or a fixed word."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("thief"), stack)


@dataclass
class Thief:
    """``pages``: the file, or all versions of it that there ever were. ``secrets``: what guesses
    may have been hidden under."""

    pages: list[bytes]
    secrets: tuple[bytes, ...] = (b"",)

    def keys(self) -> set[bytes]:
        """All that records are under, in any page."""
        found = set()
        for page in self.pages:
            for offset in offsets(page) if len(page) == PAGE and page[10] == 2 else ():
                entry = node(0, page, offset)
                if entry is not None:
                    found.add(entry[0])
        return found

    def confirms(self, guesses: set[bytes]) -> set[bytes]:
        """Those that begin a key, or stand anywhere in one, as they are or under a secret."""
        keys = self.keys()
        whole = b"\n".join(keys)
        return {guess for guess in guesses if guess in whole or self._hidden(guess) & keys}

    def _hidden(self, guess: bytes) -> set[bytes]:
        forms = [u32(len(guess)) + guess, *(place_of(table, guess) for table in Table)]
        plain = {kdf(s, b"cbfs1 lookup", form, 16) for s in self.secrets for form in forms}
        return plain | {derived_place(s, table, guess) for s in self.secrets for table in Table}


def guesses_of(me: str, names: list[str], here: World) -> set[bytes]:
    """What has to do with somebody of that name, of the directory of ``here``."""
    policy = parse_policy((here.place / "names" / "policy").read_text())
    where = Directories(policy.directory)
    return {
        *(name.encode() for name in names),
        *(kdf(b"", b"cbfs1 key part", u32(len(name)) + name.encode(), 16) for name in names),
        *(
            conversation_id(where.people((me, name)), "", number)
            for name in names
            for number in range(4)
        ),
    }


def pages_of(place: Path) -> list[bytes]:
    data = (place / "store" / "data.mdb").read_bytes()
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


def record_keys(store: Store) -> set[tuple[Table, bytes]]:
    with store.read() as reader:
        return {(table, key) for table in Table for key, _value in reader.items(table)}


def test_a_locked_account_confirms_no_guess(here: World) -> None:
    """Nobody's name, no conversation, message, session, prekey or envelope."""
    places = account(here, "alexandra"), account(here, "bartholomew")
    known: set[bytes] = set()

    async def life() -> None:
        async with running(places[0], NO_TOR) as alice, running(places[1], NO_TOR) as bob:
            for sender, receiver in ((alice, bob), (bob, alice), (alice, bob)):
                message, _got = await exchange(sender, receiver, b"hello")
                known.update((message.id, message.hash, message.conversation))
            await alice.delete(message)

    trio.run(life)
    names = [*(f"somebody{number}" for number in range(NAMES)), "bartholomew", "alexandra"]
    for place in places:
        thief = Thief(pages_of(place))
        assert len(thief.keys()) > 50
        assert not thief.confirms(guesses_of("alexandra", names, here) | known)
        with opened_store(place, SYSTEM_RANDOM) as store:
            there = record_keys(store)
        assert known & {key[:16] for table, key in there if table is Table.MESSAGES}
        assert not {key for _table, key in there if len(key) >= _NUMBERED} & thief.keys()


def test_what_is_gone_is_confirmed_by_no_secret_that_is_left(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all pages that ever were and the newest root.key, nobody finds out with whom one wrote
    once the conversation and the contact are gone."""
    places = account(here, "carolina"), account(here, "dominique")
    disks = follow(monkeypatch, places)

    async def life() -> None:
        async with running(places[0], NO_TOR) as carol, running(places[1], NO_TOR) as david:
            await exchange(carol, david, b"hello")
            await exchange(david, carol, b"hello")

    def forget(writer: Writer) -> None:
        for table in Table:
            if table not in _STAY | {Table.META}:
                writer.delete_prefix(table, b"")
        for key in list(writer.keys(Table.META)):
            if len(key) >= _NUMBERED:
                writer.delete(Table.META, key)

    trio.run(life)
    with opened_store(places[0], SYSTEM_RANDOM) as store:
        store.write(forget)
        left, blind_key = record_keys(store), store._blind_key
    disk = disks[places[0]]
    gone = {key for table, key in gone_keys(disk, left) if len(key) >= _NUMBERED}
    assert len(gone) > 15
    guesses = gone | guesses_of("carolina", ["dominique"], here)
    thief = Thief(list(disk.pages), (b"", blind_key))  # no conversation's secret is left
    assert not thief.confirms(guesses)
    # he who cannot tell what a key that he knows leads to is no attacker
    before = {key for table, key, _value in disk.plain if table in {Table.CONTENT, Table.HELD}}
    assert thief.confirms(before)


def test_the_name_of_a_deleted_file_is_confirmed_by_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its conversation is still there, and so is the secret that places of its records are made
    of."""
    disk = follow(monkeypatch, [tmp_path])[tmp_path]
    store = open_store(tmp_path)
    talk = bytes([3]) * 16
    people = ("alexandra", "bartholomew")
    store.write(lambda writer: add_conversation(writer, talk, people[0], people, "", 1))

    def add(writer: Writer, name: str) -> Message:
        content = put_content(writer, b"plan")
        salt = SYSTEM_RANDOM.token(32)
        arrival = Arrival(salt, people[1], NOW, (), name, 9, content, ())
        return add_message(writer, talk, arrival, NOW)

    kept, gone = (store.write(lambda w, n=n: add(w, n)) for n in ("kept.pdf", "gone.pdf"))  # type: ignore[misc]
    with store.read() as reader:
        assert named_message(reader, talk, gone.name) == gone
    store.write(lambda writer: remove_message(writer, gone))
    with store.read() as reader:
        assert named_message(reader, talk, kept.name) == kept
        assert named_message(reader, talk, gone.name) is None
        spot = reader._spot(Table.CONVERSATIONS, talk)
    assert spot is not None
    secrets = b"", store._blind_key, spot.secret
    store.close()
    thief = Thief(list(disk.pages), secrets)
    names = {gone.name.encode(), b"gone.pdf"}
    assert not thief.confirms(names | {talk + name for name in names})
    assert thief.confirms({talk + kept.serial.to_bytes(8, "big")}), "he knows the secret"


def gone_keys(disk: Disk, left: set[tuple[Table, bytes]]) -> set[tuple[Table, bytes]]:
    """Of all records that ever were, those that are no more."""
    ever = {(table, key) for table, key, _value in disk.plain if table not in _STAY}
    return ever - left
