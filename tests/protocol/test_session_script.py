"""Sessions driven by scripts, in the manner of Pond's ratchet tests: both parties send, and what
they sent arrives at once, late, twice, in another order or never. After every step both are
saved and loaded again, and the table of routes is made anew beside the one that is kept."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbfs_common.errors import CryptoError
from cbfs_common.primitives import Random
from cbfs_common.session.prekey import PrekeyPair
from cbfs_common.session.routes import Routes
from cbfs_common.session.session import (
    Duplicate,
    Party,
    Session,
    decode_session,
)
from tests.support.talking import LIFE, NOW, opened, party, prekey_of, seeded, started


@dataclass
class Side:
    """One party: the session as it was loaded last, and its routes."""

    me: Party
    pair: PrekeyPair
    random: Random
    session: Session | None = None
    routes: Routes = field(default_factory=Routes)
    sent: int = 0

    def take(self, session: Session) -> None:
        """Save and load again."""
        loaded = decode_session(session.encode())
        assert loaded.encode() == session.encode()
        assert loaded == session
        self.session = loaded
        self.routes.update(loaded)
        anew = Routes()
        anew.update(loaded)
        assert anew._sessions == self.routes._sessions

    def send(self) -> tuple[bytes, bytes]:
        """(body, envelope)"""
        assert self.session is not None
        body = f"{self.sent}".encode() * (1 + self.sent % 7)
        self.sent += 1
        session, envelope = self.session.seal(self.me, body, self.random, LIFE)
        self.take(session)
        return body, envelope

    def receive(self, envelope: bytes) -> bytes:
        """The body."""
        if self.session is None:
            session, body = opened(self.me, self.pair, envelope)
        else:
            known = self.routes.find(envelope)
            assert known in (None, self.session.id)
            if known is None:
                assert self.routes.search(envelope) in (None, self.session.id)
            session, body = self.session.open(self.me, envelope, NOW)
        self.take(session)
        return body


class World:
    """Two sides and what is on its way: (body, envelope) to each, in order."""

    def __init__(self, seed: str) -> None:
        randoms = seeded(seed + " a"), seeded(seed + " b")
        self.sides = [Side(party(r), prekey_of(r), r) for r in randoms]
        a, b = self.sides
        a.take(started(a.me, b.me, b.pair, a.random))
        self.waiting: list[list[tuple[bytes, bytes]]] = [[], []]
        self.seen: list[list[tuple[bytes, bytes]]] = [[], []]
        self.envelopes: list[bytes] = []

    def send(self, by: int) -> None:
        body, envelope = self.sides[by].send()
        assert len(envelope) == 16_384
        self.envelopes.append(envelope)
        self.waiting[1 - by].append((body, envelope))

    def arrive(self, to: int, index: int) -> None:
        body, envelope = self.waiting[to].pop(index)
        assert self.sides[to].receive(envelope) == body
        self.seen[to].append((body, envelope))

    def repeat(self, to: int, index: int) -> None:
        """A copy of what has been opened: never opened again, and nothing changes."""
        before = self.sides[to].session
        with pytest.raises(CryptoError):
            self.sides[to].receive(self.seen[to][index][1])
        assert self.sides[to].session == before

    def settle(self) -> None:
        """All that waits arrives, newest first."""
        for to in (0, 1):
            while self.waiting[to]:
                self.arrive(to, len(self.waiting[to]) - 1)


def play(script: str) -> World:
    """``a`` or ``b`` sends; ``A`` or ``B`` receives the oldest that waits for it, ``A3`` the one
    after three others; ``A!`` loses the oldest; ``A=`` gets a copy of what it received last."""
    world = World(script)
    for word in script.split():
        side = "ab".index(word[0].lower())
        if word in "ab":
            world.send(side)
        elif word[1:] == "!":
            world.waiting[side].pop(0)
        elif word[1:] == "=":
            world.repeat(side, -1)
        else:
            world.arrive(side, int(word[1:] or 0))
    return world


@pytest.mark.parametrize(
    "script",
    [
        "a B b A a B b A a B b A",
        "a a a B B B b b b A A A",
        "a a a B2 B1 B",
        "a a B! B b A a B",
        "a a a B b A a a B3 B1 B B",
        "a B b b b A2 a B b A2 A1 A",
        "a B b A a a B1 b A a B1 B",
        "a B B= b A A= B= a B A=",
        "a B a B a B b b A1 B= a a B1 A= B",
        "a B b A! a a B B b A",
        "a B b b A! A a B b A",
        "a a a a a a a a a a a a a a a a a a a a B19 B B B b A a B15",
    ],
)
def test_script(script: str) -> None:
    world = play(script)
    world.settle()
    for _ in range(3):
        for side in (0, 1):
            if world.sides[side].session is not None:
                world.send(side)
                world.settle()


STEP = st.tuples(
    st.sampled_from(["send", "send", "arrive", "arrive", "lose", "repeat", "strange"]),
    st.integers(0, 1),
    st.integers(0, 2**16),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
@given(st.lists(STEP, min_size=20, max_size=60))
def test_any_script(steps: list[tuple[str, int, int]]) -> None:
    world = World("any")
    world.send(0)
    for what, side, pick in steps:
        waiting, seen = world.waiting[side], world.seen[side]
        if what == "send" and world.sides[side].session is not None:
            world.send(side)
        elif what == "arrive" and waiting:
            world.arrive(side, pick % len(waiting))
        elif what == "lose" and waiting:
            waiting.pop(pick % len(waiting))
        elif what == "repeat" and seen:
            world.repeat(side, pick % len(seen))
        elif what == "strange" and waiting and world.sides[side].session is not None:
            _, envelope = waiting[pick % len(waiting)]
            at = pick % len(envelope)
            before = world.sides[side].session
            with pytest.raises(CryptoError):
                world.sides[side].receive(
                    envelope[:at] + bytes([envelope[at] ^ 1 << pick % 8]) + envelope[at + 1 :]
                )
            assert world.sides[side].session == before
    world.settle()
    routes = [envelope[:16] for envelope in world.envelopes]
    assert len(set(routes)) == len(routes)


def test_a_copy_is_known_for_a_copy_in_this_turn_and_the_last() -> None:
    world = play("a B a B b A b A a B")
    bob, alice = world.sides[1], world.sides[0]
    for _, envelope in world.seen[1]:
        with pytest.raises(Duplicate):
            bob.receive(envelope)
    for _, envelope in world.seen[0]:
        with pytest.raises(Duplicate):
            alice.receive(envelope)
