"""Rows of what a message costs as an account grows: all commits of sending one (the file, the
message, its envelope, its end) and of receiving one, on the disk, in time and in bytes written.

The accounts are filled by the real code, 1,000 messages in a transaction, and have a session with
each of the people; nothing has been through a server, and nothing is in the measure but the client:
its records, the ratchet, and the store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from statistics import median
from time import perf_counter

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.interface import Outgoing
from cbfs.sending.compose import Settled, make_message
from cbfs_common.profile import kem_id
from cbfs_common.session.prekey import PrekeyKind, decode_prekey, make_prekey
from cbfs_common.session.session import Peer
from tests.bench.at_size import fill, text_of
from tests.bench.core import LATER, Person
from tests.bench.server import on_disk
from tests.bench.table import Row, faster
from tests.support.fake_backend import NAME, put_content
from tests.support.healing_world import World

AIM = 1 / 1.5
"""What LMDB's trees cost that are deeper by a page or two."""

SESSIONS_AT_ONCE = 250


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one message."""

    seconds: float
    written: float


class Account:
    """alice, whose account is filled, and bob, whose is not."""

    def __init__(self, place: Path, conversations: int, messages: int) -> None:
        self.label = f"{messages:,} in {conversations:,} conversations"
        place.mkdir()
        self._world = World(place)
        self._world.begin((NAME, "bob"))
        self._alice, self._bob = self._world.clients[NAME], self._world.clients["bob"]
        self._bob.write((NAME,), b"hello")
        self._bob.pump(fails=False)
        fill(self._alice.store, conversations, messages)
        self._begin_sessions(conversations)
        self._alice.load()
        self._alice.receive(self._alice.mail)
        self._number = 0
        self._conversation = next(
            key
            for key, each in self._alice.context.conversations.items()
            if each.participants == (NAME, "bob")
        )

    def close(self) -> None:
        self._world.close()

    def _begin_sessions(self, count: int) -> None:
        """As if one had written to each."""
        sessions, me = self._alice.context.sessions, Person()
        for first in range(0, count, SESSIONS_AT_ONCE):
            batch = sessions.batch()
            for number in range(first, min(first + SESSIONS_AT_ONCE, count)):
                pair = make_prekey(SYSTEM_RANDOM, PrekeyKind.ONE_TIME, LATER)
                prekey = decode_prekey(pair.public(me.signing))
                name, kem = f"person{number:06d}", me.party.kem.public()
                peer = Peer(SYSTEM_RANDOM.token(32), me.party.auth_public, kem_id(kem))
                session = sessions.start(name, peer, prekey, kem)
                batch.seal(session, name, b"hello", number)
            self._alice.store.write(batch.write)
            batch.done()

    def send(self) -> None:
        """All that becomes of a saved file, until its recipient's server has it."""
        alice, world = self._alice, self._world
        self._number += 1
        text = text_of(self._number)
        content = alice.store.write(lambda writer: put_content(writer, text))
        outgoing = Outgoing(self._conversation, (), "", "", content, lambda *_: None)
        settled = Settled(
            NAME,
            (NAME, "bob"),
            "",
            blake2b(text, digest_size=32).digest(),
            world.now,
            SYSTEM_RANDOM.token(16),
            SYSTEM_RANDOM.token(16),
            alice.context.contacts.directories,
        )
        known = alice.context.conversations
        alice.store.write(lambda writer: make_message(writer, known, outgoing, settled))
        alice._deliver(self._bob, again=False, fails=False)
        world.now += 1_000

    def receiving(self, count: int) -> Callable[[], None]:
        """So many are in the mailbox: what takes one of them in."""
        self._bob.mail.clear()
        for number in range(count):
            self._bob.write((NAME,), text_of(number))
        self._alice.mail.clear()
        while len(self._alice.mail) < count:
            self._bob.pump(fails=False)
        envelopes = iter(list(self._alice.mail))
        return lambda: self._alice.receive([next(envelopes)])


def flat(quick: bool) -> Iterator[Row]:
    """Up to 10,000 conversations and 1,000,000 messages."""
    sizes = (
        ((10, 100), (20, 1_000)) if quick else ((100, 10_000), (1_000, 100_000), (10_000, 10**6))
    )
    rounds = 5 if quick else 300
    with on_disk() as place:
        accounts = [Account(place / str(number), *size) for number, size in enumerate(sizes)]
        try:
            for what, works in (
                ("sending", [account.send for account in accounts]),
                ("receiving", [account.receiving(rounds) for account in accounts]),
            ):
                costs = measure(rounds, works)
                for account, cost in zip(accounts[1:], costs[1:], strict=True):
                    name, peer = f"{what} one, {account.label}", accounts[0].label
                    yield faster(name, cost.seconds, peer, costs[0].seconds, AIM)
                    yield fewer(name, cost.written, peer, costs[0].written)
        finally:
            for account in accounts:
                account.close()


def fewer(what: str, ours: float, peer: str, theirs: float) -> Row:
    """A row of two numbers of bytes."""
    return Row(what, f"{ours:,.0f} B", peer, f"{theirs:,.0f} B", theirs / ours, AIM)


def measure(rounds: int, works: list[Callable[[], None]]) -> list[Cost]:
    """Each in turn in every round, so that a slow moment meets all."""
    taken: list[list[Cost]] = [[] for _ in works]
    for _ in range(rounds):
        for work, costs in zip(works, taken, strict=True):
            before, began = written(), perf_counter()
            work()
            costs.append(Cost(perf_counter() - began, written() - before))
    return [
        Cost(median(c.seconds for c in costs), median(c.written for c in costs)) for costs in taken
    ]


def written() -> int:
    """Bytes that this process has given to write calls so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise AssertionError("no /proc/self/io")
