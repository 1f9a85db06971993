"""What arrives is applied one entry at a time: the same log, cut into any batches and with any
restarts, comes to the same account and says the same is to be done."""

import copy
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs.account.account import SYSTEM_RANDOM, no_lock
from cbfs.contacts.contact import Standing
from cbfs.context import milliseconds
from cbfs.messages.queues.quarantine import Why
from cbfs.receiving.entries import Course, LogEntry, Outputs, decode_entry, together
from cbfs.receiving.incoming import AccountState, apply
from cbfs.receiving.receiver import Receiver
from cbfs.storage.root_key import RootFile
from cbfs.storage.store import Table, Writer
from cbfs_common.errors import DecodeError
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.messages.body import Note, Refs, encode_note, encode_part
from cbfs_common.messages.conversation import continued_id
from cbfs_common.primitives import Random, kem_encapsulate
from cbfs_common.session.session import Peer, Session
from tests.support.groups_world import GroupClient, begin
from tests.support.healing_world import Client, DirectStore, World, contact_of
from tests.support.parts import HERE, sole_part, talk_id

PEOPLE = ("alice", "bob", "carol", "dave", "mallory")
GROUP = ("alice", "bob", "carol")
SKIPPED = 40
"""Messages that may be missing before one that is opened."""
OF_THE_STORE = Random(os.urandom, kem_encapsulate)
"""What seals records, and no part of what they say."""

Records = dict[Table, list[tuple[bytes, bytes]]]


@dataclass
class Log:
    """Of what came to alice, whose account was ``base`` before. ``records``: as they were when all
    had come."""

    world: World
    base: Path
    entries: list[LogEntry]
    outputs: list[Outputs]
    records: Records


@contextmanager
def as_it_is_here(world: World) -> Iterator[None]:
    """Sessions take little ahead, and who somebody is, is seen by their keys: nobody has proofs."""
    names = {c.account.profile.identity(c.account.person): c for c in world.clients.values()}

    def claimed(_policy: object, peer: Peer, _body: object, _known: object = None) -> object:
        return SimpleNamespace(person=names[peer.identity].account.person)

    with ExitStack() as stack:
        stack.enter_context(patch("cbfs_common.session.session.SKIP_MAX", SKIPPED))
        stack.enter_context(patch("cbfs.receiving.incoming.claimed_sender", claimed))
        yield


def alice_at(world: World, place: Path) -> GroupClient:
    """Her client, loaded from the store at another place."""
    alice = copy.copy(world.clients["alice"])
    assert isinstance(alice, GroupClient)
    root = RootFile(place / "root", no_lock, os.urandom)
    alice.store = DirectStore(place / "store", root, OF_THE_STORE)
    alice.load()
    return alice


def records_of(alice: GroupClient) -> Records:
    """All that her store says, opened."""
    with alice.store.read() as reader:
        return {table: sorted(reader.items(table)) for table in Table}


def talk(world: World) -> None:
    """Before the log: alice, bob and carol have answered each other, and mallory is met."""
    alice, bob, carol = (world.clients[name] for name in GROUP)
    alice.strangers = {"dave"}
    for client in world.clients.values():
        client.load()
    assert isinstance(alice, GroupClient)
    trio.run(alice.context.contacts.forget, ["dave"], lambda _writer: None)
    alice.put(replace(alice.contact("mallory"), standing=Standing.STRANGER))
    for turn in range(3):
        for client, people in ((alice, GROUP), (bob, ("alice",)), (carol, GROUP)):
            client.write(people, b"before %d" % turn)
            for one in (alice, bob, carol):
                one.pump(fails=False)
            for one in (alice, bob, carol):
                mail, one.mail = one.mail, []
                one.receive(mail)
                one.load()
        world.now += 60_000
    alice.write(GROUP, b"nobody has said yet that this came")
    alice.pump(fails=False)
    for client in (bob, carol):
        mail, client.mail = client.mail, []
        client.receive(mail)


def broken(client: Client, alice: Client) -> bytes:
    """What a peer sends whose state and alice's have come apart."""
    session = client.session(alice)
    state = session.state
    assert state.sending is not None
    apart = Session(replace(state, sending=replace(state.sending, chain_key=bytes(32))))
    return apart.seal(client.account.party, b"", SYSTEM_RANDOM, bytes(8))[1]


def sealed(client: Client, alice: Client, body: bytes) -> bytes:
    session, batch = client.session(alice), client.context.sessions.batch()
    envelope = batch.seal(session, "alice", body, client.world.now)
    client.store.write(batch.write)
    batch.done()
    return envelope


def mail_for_alice(world: World, dice: random.Random) -> list[bytes]:
    """Of everybody, in no order, some of it twice, some of it damaged."""
    alice, bob, carol = (world.clients[name] for name in GROUP)
    peers = [world.clients[name] for name in PEOPLE if name != "alice"]
    texts: dict[str, list[tuple[str, ...]]] = {
        "bob": [GROUP, ("alice", "bob"), ("alice", "bob", "mallory")],
        "carol": [GROUP],
    }
    texts |= {"dave": [("alice", "dave")], "mallory": [("alice", "mallory")]}
    texts["mallory"].append(("alice", "bob", "mallory"))
    mail: list[bytes] = []
    for turn in range(4):
        for client in peers:
            assert isinstance(client, GroupClient)
            for people in texts[client.name]:
                size = dice.choice((1, 40, 14_000, 30_000))
                client.write(people, bytes([65 + turn]) * size)
            client.pump(fails=False)
            client.tick(alice)
        world.now += dice.randrange(100_000)
        some, alice.mail = alice.mail, []
        if dice.random() < 0.5:
            dice.shuffle(some)
        for envelope in some:
            fate = dice.random()
            at = dice.randrange(ENVELOPE_SIZE)
            garbled = envelope[:at] + bytes([envelope[at] ^ 1]) + envelope[at + 1 :]
            mail += [garbled] if fate < 0.1 else [envelope] * (2 if fate < 0.2 else 1)
        if turn == 1:
            mail.append(broken(carol, alice))  # she gives up its sessions
        if turn in {1, 2}:
            loses = carol if turn == 1 else bob
            loses.restore(loses.export())
    people, root = (*GROUP, "mallory"), talk_id(GROUP)
    more = replace(
        sole_part(b"with mallory", people),
        root=root,
        conversation=continued_id(root, HERE.people(people), ""),
    )
    mail.append(sealed(bob, alice, encode_part(more)))
    mail.append(sealed(carol, alice, encode_part(replace(sole_part(b"", GROUP), leaving=True))))
    note = encode_note(Note(Refs(), b""))
    run = [sealed(bob, alice, note) for _ in range(SKIPPED + 3)]
    mail += [run[-1], *run[2:-1], SYSTEM_RANDOM.token(ENVELOPE_SIZE)]
    return mail


def receive_all(world: World, alice: GroupClient, mail: list[bytes], dice: random.Random) -> None:
    """As a mailbox and a directory bring it about."""
    receiver = alice._receiver()
    while mail:
        size = dice.randrange(1, 9)
        some, mail = mail[:size], mail[size:]
        trio.run(receiver.take, some)
        world.now += dice.choice((0, 0, 1, 5_000))
    with alice.store.read() as reader:
        waiting = list(reader.items(Table.INBOX))
    dave = replace(contact_of(world.clients["dave"]), standing=Standing.STRANGER)
    for number, (key, envelope) in enumerate(waiting):
        (entry,) = receiver._entries([(envelope, (Table.INBOX, key))])
        if number == 1:
            trio.run(receiver._settle, entry, Course.UNHEARD)
        elif number == 2:
            trio.run(receiver._settle, entry, Course.UNCONFIRMED)
        else:
            trio.run(receiver._take, [replace(entry, confirmed=dave)])
    (entry,) = receiver._entries([(SYSTEM_RANDOM.token(ENVELOPE_SIZE), None)])
    trio.run(receiver._settle, entry, Course.FAULT)
    trio.run(receiver.retry)


def make_log(place: Path, seed: int) -> Log:
    """A log that a receiver has made."""
    dice, world = random.Random(seed), begin(place, PEOPLE)
    entries: list[LogEntry] = []
    outputs: list[Outputs] = []

    def recorded(state: AccountState, entry: LogEntry) -> Outputs:
        found = apply(state, entry)
        entries.append(entry)
        outputs.append(found)
        return found

    talk(world)
    world.clients["alice"].store.close()
    base = place / "base"
    shutil.copytree(place / "alice", base)
    shutil.copytree(base, place / "live")
    with as_it_is_here(world):
        alice = alice_at(world, place / "live")
        world.clients["alice"] = alice
        mail = mail_for_alice(world, dice)
        with patch("cbfs.receiving.receiver.apply", recorded):
            receive_all(world, alice, mail, dice)
    log = Log(world, base, entries, outputs, records_of(alice))
    world.close()
    return log


@pytest.fixture(scope="module", params=range(3))
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Log:
    return make_log(tmp_path_factory.mktemp("log"), request.param)


Guard = Callable[[], AbstractContextManager[object]]


def replayed(
    log: Log, place: Path, cuts: list[tuple[int, bool]], guard: Guard = ExitStack
) -> tuple[list[Outputs], Records]:
    """Apply a log to a copy of the account of before it: so many entries in one transaction, and
    whether all is loaded anew then; the rest one by one. ``guard`` stands around each entry."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(log.base, place)
    outputs: list[Outputs] = []
    left = [decode_entry(entry.encode()) for entry in log.entries]
    with as_it_is_here(log.world):
        alice = alice_at(log.world, place)
        for size, restart in [*cuts, *[(1, False)] * len(left)]:
            some, left = left[:size], left[size:]
            outputs += applied(alice, alice._receiver(), some, guard)
            if restart:
                alice.store.close()
                alice = alice_at(log.world, place)
    records = records_of(alice)
    alice.store.close()
    return outputs, records


def applied(
    alice: GroupClient, receiver: Receiver, entries: list[LogEntry], guard: Guard
) -> list[Outputs]:
    """In one transaction, which is made anew once, as when another change of its group fails."""

    def change(writer: Writer) -> tuple[AccountState, list[Outputs]]:
        state = AccountState(writer, alice.context, receiver._reception())
        with guard():
            return state, [apply(state, entry) for entry in entries]

    def fails(writer: Writer) -> None:
        change(writer)
        raise KeyError

    with pytest.raises(KeyError):
        alice.store.write(fails)
    state, outputs = alice.store.write(change)
    state.done()
    receiver._tell(together(outputs))
    return outputs


def same(log: Log, outputs: list[Outputs], records: Records) -> None:
    assert len(outputs) == len(log.outputs)
    for number, (found, before) in enumerate(zip(outputs, log.outputs, strict=True)):
        assert found == before, number
    for table in Table:
        other = set(records[table]) ^ set(
            log.records[table]
        )  # a list of all would take long to show
        assert not other, (table, sorted(other)[:4])


def test_a_log_has_all_that_there_is(log: Log) -> None:
    """Else the tests below say little."""
    found = together(log.outputs)
    whys = {unread.why for unread in found.unread}
    assert whys >= {Why.NOISE, Why.FAR, Why.DAMAGED, Why.LATER, Why.FAULT}
    assert {message.sender for message in found.arrived} >= {"bob", "carol", "mallory"}
    assert {course for course in Course if course is not Course.ALONE} == {
        entry.course for entry in log.entries
    }
    assert found.changed, "no receipt has come"
    assert found.again, "nobody has lost a session"
    assert found.requests
    assert found.dues
    assert found.parts
    assert found.asks
    assert found.new, "no group goes on with more people"
    assert any("carol" in one.left for one in found.new)
    assert any(entry.kept for entry in log.entries)
    assert any(entry.confirmed for entry in log.entries)
    assert any(out == Outputs() for out in log.outputs), "nothing has come twice"


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=40))
def test_any_batches_and_restarts_come_to_the_same(log: Log, cuts: list[tuple[int, bool]]) -> None:
    same(log, *replayed(log, log.base.parent / "again", cuts))


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("restart", [False, True])
def test_the_ends_of_it(size: int, restart: bool, log: Log) -> None:
    """Each entry by itself, and all of them at once."""
    same(log, *replayed(log, log.base.parent / "again", [(size, restart)] * len(log.entries)))


class Impure(BaseException):
    """Something was read that is not in the entry; nothing of the program's catches this."""


def forbidden(*_arguments: object, **_named: object) -> object:
    raise Impure


READ = ("time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter")
DRAWN = ("random.random", "secrets.token_bytes", "nacl.bindings.randombytes", "uuid.uuid4")
ASKED = ("socket.socket", *(f"cbfs.names.lookups.Lookups.{name}" for name in ("lookup", "poll")))


@contextmanager
def pure() -> Iterator[None]:
    """Within, nobody may look at a clock, draw at random or ask a directory. The store has a source
    of its own, for sealing."""
    with ExitStack() as stack:
        for name in (*READ, *DRAWN, *ASKED):
            stack.enter_context(patch(name, forbidden))
        stack.enter_context(patch.object(World, "now", property(forbidden)))
        for field in ("token", "encapsulate"):
            before = getattr(SYSTEM_RANDOM, field)
            object.__setattr__(SYSTEM_RANDOM, field, forbidden)
            stack.callback(object.__setattr__, SYSTEM_RANDOM, field, before)
        yield


def test_no_clock_no_chance_and_no_directory(log: Log) -> None:
    same(log, *replayed(log, log.base.parent / "pure", [(7, True)] * 5, pure))


def test_the_guard_sees_what_is_read(log: Log) -> None:
    place = log.base.parent / "guarded"
    shutil.copytree(log.base, place)
    alice = alice_at(log.world, place)
    context = alice.context
    for read in (
        milliseconds,
        context.clock,
        lambda: context.random.token(8),
        lambda: context.sessions.lives("somebody new"),
    ):
        with pure(), pytest.raises(Impure):
            read()
    alice.store.close()
    shutil.rmtree(place)


def entry() -> LogEntry:
    key = bytes(24)
    return LogEntry(bytes(ENVELOPE_SIZE), 5, bytes(32), 3, (Table.INBOX, key), Course.ALONE)


WRONG = {
    "a short envelope": replace(entry(), envelope=b"short"),
    "a time before all": replace(entry(), now=-1),
    "a time past all": replace(entry(), now=1 << 63),
    "a delay before all": replace(entry(), delay=-1),
    "a short seed": replace(entry(), seed=bytes(31)),
    "kept elsewhere": replace(entry(), kept=(Table.SESSIONS, bytes(24))),
    "under another key": replace(entry(), kept=(Table.QUARANTINE, bytes(24))),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_entry_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        decode_entry(WRONG[name].encode())


def test_an_entry_has_one_encoding() -> None:
    data = entry().encode()
    assert decode_entry(data) == entry()
    for wrong in (data + b"\0", data[:-1], b"", data.replace(b"\x05", b"\xcc\x05", 1)):
        with pytest.raises(DecodeError):
            decode_entry(wrong)


def test_the_same_seed_draws_the_same() -> None:
    first, again, other = entry().token(), entry().token(), replace(entry(), seed=b"s" * 32).token()
    drawn = [first(8), first(8)]
    assert drawn == [again(8), again(8)]
    assert len({*drawn, other(8)}) == 3
