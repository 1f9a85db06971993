"""Records of format 2 of many messages, of strangers, and of what is missing, as they are brought
over."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest

from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store
from cbfs.account.passphrase import Guard
from cbfs.earlier import bringing
from cbfs.earlier.bringing import bring_over
from cbfs.messages import history, search_index
from cbfs.messages.lifetimes import counts, slots
from cbfs.messages.model import Delivery
from cbfs.messages.queues import delivery_queue
from cbfs.messages.search_index import parse_query
from cbfs.receiving import lost_state, message_requests
from cbfs.receiving.lost_state import make_listings
from cbfs.storage.encoding import pack, u32, u64
from cbfs.storage.store import CannotWrite, Meta, Store, Table
from cbfs_common.errors import CbfsError
from cbfs_common.names.entry import Keys
from cbfs_common.names.layout import long, short
from cbfs_common.names.note import COSIGNER_KEY, LOG_KEY, NoteKey, to_base64
from cbfs_common.person import Directories, directory_id
from cbfs_common.primitives import kdf
from cbfs_common.profile import NO_KEM, Address

Record = tuple[bytes, bytes, bytes]

LOG = NoteKey("cbfs-names/0123", LOG_KEY, b"l" * 32)
VERIFIER = NoteKey("cbfs-names/0123/verifier-1", COSIGNER_KEY, b"v" * 32)
SERVER = Address(b"s" * 32, "127.0.0.1", 7_700)
POLICY = (
    f"# cbfs-config {to_base64(bytes(32))}\n"
    f"log {LOG.encode()} {SERVER.url('cbfs-names')}\n"
    f"witness verifier-1 {VERIFIER.encode()}\nquorum verifier-1\n"
)
TALKS = [bytes([number]) * 16 for number in (9, 5, 7)]
MANY = 700
DAY = 86_400_000
NOW = 1_796_000_000_000


def entry(
    name: str, signing: bytes = b"i" * 32, auth: bytes = b"a" * 32, owner: bytes = b"o" * 32
) -> bytes:
    """An entry of a directory of then."""
    profile = b"\1" + b"u" * 32 + signing + auth + SERVER.key + b"\x1e\x14" + b"127.0.0.1"
    numbers = (1).to_bytes(4, "big") * 2 + b"\1" + (2_000_000_000).to_bytes(8, "big") + bytes(40)
    keys = Keys(1, (owner,)).encode() + Keys(0, ()).encode() * 2
    return b"\1" + short(name.encode()) + numbers + keys + bytes(8) + long(profile)


def contact(name: str, petname: str = "", standing: str = "known", said: bytes = b"") -> bytes:
    """Somebody who is known, by the entry that is ``said`` of them."""
    plain = (NOW, "DIRECTORY", 0, 7, b"", 0, 0, "", 0, 0, standing, 0, petname)
    return pack(said or entry(name), *plain)


def id_of(serial: int) -> bytes:
    return hashlib.blake2b(u64(serial), digest_size=16).digest()


def message(serial: int, **other: Any) -> Record:
    """One of bob's to alice, each of which names the one before it in its conversation."""
    talk, at = TALKS[serial % 3], NOW + serial
    told: dict[str, Any] = {"sender": "bob", "to": [], "parents": [], "ends": [0, 0, 0]} | other
    told["parents"] = told["parents"] or ([id_of(serial - 3)] if serial > 3 else [])
    name = f"2026-11-30T10.{serial // 60:02}.{serial % 60:02}.000Z-{told['sender']} ({serial})"
    place = [name, 1_000 + serial, [serial, 9, 65_536], told["to"], told["parents"]]
    rest = ["", 50, False, told["sender"], told["ends"]]
    return (
        b"messages",
        talk + u64(serial),
        pack(id_of(serial), told["sender"], at, at, *place, *rest),
    )


def changed(record: Record, content: list[int]) -> Record:
    """A message with another content."""
    table, key, data = record
    values = msgpack.unpackb(data)
    values[6] = content
    return table, key, pack(*values)


def text(serial: int) -> bytes:
    return b"word%05d" % serial


def meta(**more: bytes) -> dict[bytes, bytes]:
    account = ("alice", *(bytes([n]) * 32 for n in range(1, 5)), SERVER.url(), POLICY, [])
    found = {b"account": pack(*account), b"own": entry("alice"), b"blind": bytes(32)}
    found |= {b"counter message": u64(MANY), b"counter inode": u64(9), b"counter content": u64(9)}
    return found | {key.encode(): value for key, value in more.items()}


def records(
    messages: list[Record],
    other: dict[bytes, bytes] | None = None,
    requests: tuple[bytes, ...] = (),
) -> Iterator[Record]:
    """In the order of an export."""
    for number in range(1, MANY + 2):  # one has no message
        yield b"content", u64(number) + u32(0), text(number)
    yield from ((b"meta", *each) for each in sorted((meta() | (other or {})).items()))
    yield b"peers", b"1" * 16, contact("bob", "bobby")
    for number, talk in enumerate(sorted(TALKS)):
        people = ["alice", "bob"] if number else ["alice", "bob", "carol"]
        data = pack(people, "", NOW, f"2026-11-30-bob-alice {number}", 500 + number, 600 + number)
        yield b"conversations", talk, data
    yield from sorted(messages)
    yield from ((b"requests", b"2" * 16 + u64(n), data) for n, data in enumerate(requests))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened_store(tmp_path / "account", SYSTEM_RANDOM, create=Guard) as store:
        yield store


def bring(store: Store, found: Iterator[Record]) -> None:
    bring_over(store, found, SYSTEM_RANDOM, lambda _writer: None)


def test_many_messages_are_all_there(store: Store) -> None:
    messages = [message(serial) for serial in range(1, MANY + 1)]
    heads = {b"heads " + TALKS[MANY % 3]: id_of(MANY)}
    bring(store, records(messages, heads))
    make_listings(store)
    with store.read() as reader:
        for talk in TALKS:
            found = history.load_messages(reader, talk)
            assert [m.serial for m in found] == [
                n for n in range(1, MANY + 1) if TALKS[n % 3] == talk
            ]
            for one, after in pairwise(found):
                assert after.parents == (one.as_parent,)
                assert not after.missing
            extent = history.transcript_extent(reader, talk)
            assert extent.size == sum(m.entry_size for m in found) > 0
            assert history.named_message(reader, talk, found[0].name) == found[0]
        (head,) = history.heads(reader, TALKS[MANY % 3])
        assert history.find_message(reader, TALKS[MANY % 3], "bob", head.id) is not None
        assert not list(reader.keys(Table.CONTENT, u64(MANY + 1)))
        assert list(reader.keys(Table.CONTENT, u64(MANY)))


def test_words_of_many_messages_are_found_again(store: Store) -> None:
    messages = [message(serial) for serial in range(1, MANY + 1)]
    index = [
        (b"index", u32(segment), b"".join(
            bytes([n]) + TALKS[serial % 3] + u32((NOW + serial) // DAY) + bytes([serial > 690])
            for n in range(64)
            if 1 <= (serial := segment * 64 + n) <= MANY
        ))
        for segment in range(MANY // 64 + 1)
    ]  # fmt: skip
    bring(store, iter([*records(messages), *index]))
    make_listings(store)
    with store.read() as reader:
        total = search_index.segments(reader)
        assert total == MANY // 64 + 1
        for serial in 1, 63, 64, 65, 640, MANY:
            query = parse_query(text(serial).decode())
            found = (search_index.find(reader, query, lambda _: "", n) for n in range(total))
            assert [hit.serial for hits in found for hit in hits] == [serial]
        unread = [
            n * 64 + e[0] for n in range(total) for e in search_index.entries(reader, n) if e[3]
        ]
        assert unread == list(range(691, MANY + 1))
        assert reader.get(Table.TERMS, u32(0)) is not None  # put together


def test_what_a_message_says_besides_is_kept(store: Store) -> None:
    lasting = message(4, ends=[3_600, 2, NOW + DAY])
    own = message(5, sender="alice", to=[["bob", "received"], ["carol", "queued"]])
    late = message(6, parents=[id_of(9), id_of(10_000)])
    talk = TALKS[2]
    lifetime = pack(3_600, 2, "bob", NOW)
    other = {b"lifetime " + talk: lifetime, b"wrote " + talk: b"\1", b"relabel x": pack("bob", b"")}
    bring(store, records([lasting, own, late, message(9)], other))
    make_listings(store)
    with store.read() as reader:
        mine = history.get_message(reader, TALKS[5 % 3], 5)
        assert mine is not None
        assert mine.origin is not None
        assert mine.recipients == (("bob", Delivery.RECEIVED), ("carol", Delivery.QUEUED))
        (job,) = delivery_queue.pending(reader, "carol")
        assert (job.serial, job.message, job.content) == (5, mine.id, mine.content)
        assert job.digest == hashlib.blake2b(text(5).ljust(9, b"\0")[:9], digest_size=32).digest()
        assert delivery_queue.job_of(reader, mine, "carol") == job
        assert not delivery_queue.pending(reader, "bob")
        behind = history.get_message(reader, TALKS[0], 6)
        assert behind is not None
        child = history.get_message(reader, TALKS[0], 9)
        assert child is not None
        assert behind.parents == (child.as_parent,)
        assert counts(reader) == {TALKS[1]: 1}
        assert slots(reader) == [(NOW + DAY) // 3_600_000]
        assert reader.get(Table.META, Meta.LIFETIME + talk) == lifetime
        assert reader.get(Table.META, Meta.WROTE + talk) == u64(NOW)


def body(number: int, count: int, chunk: bytes, size: int) -> bytes:
    """What dave has written to alice, packed as it was then."""
    said = bytes([2]) + b"\5alice" + b"\4dave" + u32(0)[2:] + b"lunch"
    talk = kdf(b"", b"cbfs1 talk id", said, 16)
    talk = bytes([talk[0] | 0x80]) + talk[1:]
    plain = ["lunch", NOW, "a.txt", number, count, size, b"d" * 32, chunk, b"bundle", 0, 0]
    packed: bytes = msgpack.packb([1, 1, b"m" * 16, talk, [], ["alice", "dave"], *plain])
    return packed


@pytest.mark.parametrize("here", [2, 1])
def test_a_long_request_is_cut_anew(store: Store, here: int) -> None:
    """Bodies had more room then. What was not whole stays as far as it has room."""
    size = 13_000
    parts = [body(0, 2, b"a" * size, size + 5), body(1, 2, b"b" * 5, size + 5)][:here]
    bring(store, records([], requests=tuple(pack("dave", NOW, part) for part in parts)))
    directory = directory_id(LOG.public)
    with store.read() as reader:
        found = message_requests.request(reader, Directories(directory), "dave")
    if here == 1:
        assert found is None
        return
    assert found is not None
    assert (found.participants, found.subject) == (("alice", "dave"), "lunch")
    assert (found.size, found.messages) == (size + 5, 1)
    assert found.head == b"a" * message_requests.TEXT_MAX


def test_parts_that_contradict_each_other_stop_no_account(store: Store) -> None:
    """A stranger has sent two under one id, both of which the cbfs of before has kept."""
    parts = [body(0, 3, b"a" * 100, 300), body(8, 9, b"b" * 100, 900)]
    bring(store, records([], requests=tuple(pack("dave", NOW, part) for part in parts)))
    assert load_account(store) is not None


def test_keys_and_people_are_those_of_before(store: Store) -> None:
    bring(store, records([]))
    account = load_account(store)
    assert account is not None
    assert (account.transport, account.owner) == (b"\1" * 32, b"\4" * 32)
    assert len(account.kem) == 64
    assert account.person.directory == directory_id(LOG.public)
    assert account.profile.kem != NO_KEM


@pytest.mark.parametrize(
    "wrong",
    [
        (b"messages", b"x" * 24, pack(1)),
        (b"peers", b"1", pack(entry("bob"))),
        (b"conversations", TALKS[0], pack(["alice", 1], "", 0, "", 1, 2)),
        (b"nodes", u64(1), pack("socket", [], 0, 0, [], "")),
        (b"requests", b"1" * 24, pack("dave", 0, b"\xc1")),
        message(4, ends=[0, 0, 1 << 63]),
        message(4, ends=[-1, 0, 0]),
        changed(message(4), [4, 9, 0]),
        changed(message(4), [4, -9, 9]),
    ],
)
def test_a_record_that_is_none_of_then_is_refused(store: Store, wrong: Record) -> None:
    """And leaves no account."""
    with pytest.raises(CbfsError):
        bring(store, iter([*records([]), wrong]))
    assert load_account(store) is None


def test_an_account_that_was_not_finished_is_refused(store: Store) -> None:
    found = [each for each in records([]) if each[1] != b"own"]
    with pytest.raises(CbfsError, match="not finished"):
        bring(store, iter(found))
    assert load_account(store) is None


@pytest.mark.slow
def test_what_is_made_of_messages_is_whole_wherever_that_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_state, "MADE_AT_ONCE", 20)
    monkeypatch.setattr(bringing, "GROUP", 16)
    messages = [message(serial) for serial in range(1, 141)]

    def made(place: str, cut: int) -> tuple[bool, list[Any]]:
        with opened_store(tmp_path / place, SYSTEM_RANDOM, create=Guard) as store:
            bring(store, records(messages))
            write, left = store.write, cut

            def writing(change: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise CannotWrite("the disk is full", "make room")
                return write(change)

            monkeypatch.setattr(store, "write", writing)
            with suppress(CannotWrite):
                make_listings(store)
            reached = left <= 0
            make_listings(store)
            tables = Table.TERMS, Table.MESSAGES, Table.LISTINGS
            with store.read() as reader:
                sizes = [history.transcript_extent(reader, talk).size for talk in TALKS]
                there = [sorted(reader.items(table)) for table in tables]
                listed = [[m.name for m in history.load_messages(reader, t)] for t in TALKS]
            return reached, [sizes, [hashed(each) for each in there], listed]

    _, whole = made("whole", 0)
    for cut in range(1, 100):
        reached, found = made(f"cut{cut}", cut)
        assert found == whole
        if not reached:
            break
    assert cut > 5


def hashed(rows: list[tuple[bytes, bytes]]) -> str:
    return hashlib.blake2b(repr(rows).encode()).hexdigest()
