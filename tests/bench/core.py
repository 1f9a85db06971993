"""Rows of the core: the ratchet, the first message, finding a session."""

import os
import time
from collections.abc import Callable, Iterator
from statistics import median

from cbfs_common.limits import BODY_MAX
from cbfs_common.primitives import (
    NONCE_SIZE,
    KemKey,
    Random,
    dh,
    dh_public,
    kdf,
    kem_encapsulate,
    open_sealed,
    seal,
    sign,
    sign_public,
    verify,
)
from cbfs_common.profile import kem_id
from cbfs_common.session.prekey import PrekeyKind, PrekeyPair, decode_prekey, make_prekey
from cbfs_common.session.ratchet import TurnKeys, make_turn_keys
from cbfs_common.session.routes import Routes
from cbfs_common.session.session import Party, Peer, Session, open_first, outer_of, start
from tests.bench.peers import DoubleRatchetPair, Pair, VodozemacPair
from tests.bench.table import Row, faster
from tests.bench.timing import times

RANDOM = Random(os.urandom, kem_encapsulate)
NOW = int(time.time())
LATER = NOW + 86_400
LIFE = bytes(8)
SIZES = (("1 KiB", 1_024), ("16 KiB", BODY_MAX))
"""The bodies: the second is as long as an envelope of 16 KiB carries. Peers seal the same."""


class Person:
    """One side of a session."""

    def __init__(self) -> None:
        auth_secret = os.urandom(32)
        self.party = Party(
            os.urandom(32), auth_secret, dh_public(auth_secret), KemKey(os.urandom(64))
        )
        self.signing = os.urandom(32)
        self.kem = self.party.kem.public()
        self.peer = Peer(self.party.identity, self.party.auth_public, kem_id(self.kem))


def begin(alice: Person, bob: Person) -> tuple[Session, Session]:
    """A session of which both sides know."""
    pair = make_prekey(RANDOM, PrekeyKind.ONE_TIME, LATER)
    prekey = decode_prekey(pair.public(bob.signing))
    first = start(alice.party, bob.peer, prekey, bob.kem, LIFE, RANDOM)
    first, envelope = first.seal(alice.party, b"first", RANDOM, LIFE)
    return first, open_start(bob, pair, envelope)[0]


def open_start(bob: Person, pair: PrekeyPair, envelope: bytes) -> tuple[Session, bytes]:
    """As its recipient does."""
    return open_first(bob.party, pair, outer_of(bob.party, envelope), envelope, NOW)


class CbfsPair:
    """Our own, as a peer of the others. ``ahead``: turn keys made before the message is."""

    def __init__(self, ahead: bool = False) -> None:
        self._people = (Person(), Person())
        self._sides = list(begin(*self._people))
        self._ahead: list[TurnKeys] | None = [] if ahead else None
        self.say(1, b"answer")
        self.say(0, b"and back")

    def stock(self, count: int) -> None:
        """Make keys for so many turns."""
        if self._ahead is not None:
            self._ahead += [make_turn_keys(RANDOM) for _ in range(count)]

    def say(self, sender: int, body: bytes) -> bytes:
        me, session = self._people[sender].party, self._sides[sender]
        keys = self._ahead.pop() if self._ahead and session.needs_turn else None
        self._sides[sender], envelope = session.seal(me, body, RANDOM, LIFE, keys)
        other = self._people[1 - sender].party
        self._sides[1 - sender], opened = self._sides[1 - sender].open(other, envelope, NOW)
        return opened


def one_way(pair: Pair, body: bytes, count: int) -> Callable[[], int]:
    def work() -> int:
        for _ in range(count):
            pair.say(0, body)
        return count

    return work


def ping_pong(pair: Pair, body: bytes, count: int) -> Callable[[], int]:
    def work() -> int:
        for number in range(count):
            pair.say(1 - number % 2, body)
        return count

    return work


def keys_ahead(pair: CbfsPair, body: bytes, count: int, rounds: int) -> float:
    """Seconds a message in ping-pong when key pairs are made while nothing is to be sent."""
    taken = []
    for _ in range(rounds):
        pair.stock(count)
        taken += times(1, ping_pong(pair, body, count))
    return median(taken)


def ratchet(quick: bool) -> Iterator[Row]:
    """Encrypt and decrypt, a message."""
    rounds, count = (3, 20) if quick else (30, 200)
    for label, size in SIZES:
        body = os.urandom(size)
        pairs = (CbfsPair(), DoubleRatchetPair(RANDOM), VodozemacPair())
        if any(pair.say(0, body) != body for pair in pairs):
            raise AssertionError("what was sealed is not what was opened")
        what = f"ratchet, one way, {label}"
        ours, python, rust = times(rounds, *(one_way(pair, body, count) for pair in pairs))
        yield faster(what, ours, "vodozemac", rust, 2.0 if size > 1_024 else None)
        yield faster(what, ours, "DoubleRatchet", python)
        what = f"ratchet, ping-pong, {label}"
        ours, python, rust = times(rounds, *(ping_pong(pair, body, count) for pair in pairs))
        yield faster(what, ours, "DoubleRatchet", python, 1.25 if size > 1_024 else None)
        yield faster(what, ours, "vodozemac", rust)
        ahead = keys_ahead(CbfsPair(ahead=True), body, count, rounds)
        yield faster(f"{what}, keys made ahead", ahead, "DoubleRatchet", python)


class Sketch:
    """The first message as it would be without a KEM: X25519, Ed25519, ChaCha20-Poly1305, the
    same header (n, ratchet key, auth key, sender) and the same padded size."""

    def __init__(self) -> None:
        self.alice, self.bob = Person(), Person()
        self._prekey = os.urandom(32)
        self._public = dh_public(self._prekey)
        self._signature = sign(self.bob.signing, self._public)
        self._signing = sign_public(self.bob.signing)

    def seal(self, body: bytes) -> bytes:
        """Verify the prekey, start, seal."""
        verify(self._signing, self._public, self._signature)
        e, ratchet_secret, auth_secret = os.urandom(32), os.urandom(32), os.urandom(32)
        e_public = dh_public(e)
        shared = kdf(dh(e, self._public), b"bench start", e_public + self._public)
        route = kdf(shared, b"bench route", bytes(4), 16)
        me = self.alice.party
        header = me.identity + me.auth_public + dh_public(ratchet_secret) + dh_public(auth_secret)
        secret = kdf(shared, b"bench header", route, 32 + NONCE_SIZE)
        sealed_header = seal(secret[:32], secret[32:], bytes(4) + header)
        mac = kdf(dh(me.auth_secret, self._public), b"bench mac", route + header + body, 32)
        secret = kdf(shared, b"bench body", route, 32 + NONCE_SIZE)
        padded = len(body).to_bytes(2, "big") + body + bytes(BODY_MAX - len(body))
        return e_public + route + sealed_header + mac + seal(secret[:32], secret[32:], padded)

    def open(self, envelope: bytes) -> bytes:
        """What the receiver does."""
        e_public, route, rest = envelope[:32], envelope[32:48], envelope[48:]
        shared = kdf(dh(self._prekey, e_public), b"bench start", e_public + self._public)
        secret = kdf(shared, b"bench header", route, 32 + NONCE_SIZE)
        header = open_sealed(secret[:32], secret[32:], rest[:148])[4:]
        mac, sealed = rest[148:180], rest[180:]
        secret = kdf(shared, b"bench body", route, 32 + NONCE_SIZE)
        padded = open_sealed(secret[:32], secret[32:], sealed)
        body = padded[2 : 2 + int.from_bytes(padded[:2], "big")]
        expected = kdf(dh(self._prekey, header[32:64]), b"bench mac", route + header + body, 32)
        if mac != expected:
            raise AssertionError("the sketch is wrong")
        return body


def first(quick: bool) -> Iterator[Row]:
    """The first message, prekey in hand, at either side."""
    rounds, count = (3, 5) if quick else (30, 50)
    alice, bob = Person(), Person()
    body, sketch = os.urandom(1_024), Sketch()
    pair = make_prekey(RANDOM, PrekeyKind.ONE_TIME, LATER)
    record, signing = pair.public(bob.signing), sign_public(bob.signing)

    def seal_first() -> bytes:
        prekey = decode_prekey(record)
        prekey.verify(signing, NOW)
        session = start(alice.party, bob.peer, prekey, bob.kem, LIFE, RANDOM)
        return session.seal(alice.party, body, RANDOM, LIFE)[1]

    envelope, sketched = seal_first(), sketch.seal(body)
    peer, aim = "a classical sketch without KEM", 1 / 1.5
    ours, theirs = times(
        rounds, repeat(seal_first, count), repeat(lambda: sketch.seal(body), count)
    )
    yield faster("first message, encrypt", ours, peer, theirs, aim)
    ours, theirs = times(
        rounds,
        repeat(lambda: open_start(bob, pair, envelope), count),
        repeat(lambda: sketch.open(sketched), count),
    )
    yield faster("first message, decrypt", ours, peer, theirs, aim)


def repeat(call: Callable[[], object], count: int) -> Callable[[], int]:
    """The same call again and again."""

    def work() -> int:
        for _ in range(count):
            call()
        return count

    return work


class Inbox:
    """One receiver with many sessions, and a sender in one of them."""

    def __init__(self, sessions: int) -> None:
        self._me, self._alice = Person(), Person()
        self._sending, receiving = begin(self._alice, self._me)
        self._key = receiving.id
        self._sessions = {receiving.id: receiving}
        self._routes = Routes()
        self._routes.update(receiving)
        for _ in range(sessions - 1):
            _, other = begin(self._alice, self._me)
            self._sessions[other.id] = other
            self._routes.update(other)

    def envelopes(self, count: int) -> list[bytes]:
        """What the sender sends next."""
        made = []
        for _ in range(count):
            self._sending, envelope = self._sending.seal(self._alice.party, b"hello", RANDOM, LIFE)
            made.append(envelope)
        return made

    def receive(self, envelope: bytes) -> None:
        """Find the session, open, and expect the next."""
        found = self._routes.find(envelope)
        if found != self._key:
            raise AssertionError("another session was found")
        session, _ = self._sessions[found].open(self._me.party, envelope, NOW)
        self._routes.update(session)
        self._sessions[found] = session


def find(quick: bool) -> Iterator[Row]:
    """Find the session of an envelope and open it."""
    rounds, count = (5, 20) if quick else (100, 50)
    sizes = (1, 100, 1_000 if quick else 10_000)
    inboxes = [Inbox(size) for size in sizes]
    taken: list[list[float]] = [[] for _ in sizes]
    for _ in range(rounds):
        for inbox, results in zip(inboxes, taken, strict=True):
            envelopes = inbox.envelopes(count)
            started = time.perf_counter()
            for envelope in envelopes:
                inbox.receive(envelope)
            results.append((time.perf_counter() - started) / count)
    one, *more = map(median, taken)
    for size, result in zip(sizes[1:], more, strict=True):
        yield faster(f"find and open among {size:,} sessions", result, "among 1", one, 1 / 1.1)
