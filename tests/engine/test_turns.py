"""What turns hide, and from whom: a recipient's server does not see when something was written;
nothing is done outside them; and whoever watches both ends sees each turn at both."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random as Seeded

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs.network import pacing
from cbfs.network.pacing import PacedDialer, Slots
from cbfs.receiving import mailbox
from tests.engine.test_padding import off
from tests.support.talking import seeded
from tests.support.traced import Conduct, trace

PACE = 300.0
NEAR = 1.0
"""Seconds that somebody who watches allows between what is the same at both ends: the way through
Tor, and back."""


COMMIT = 2.0
"""Seconds after its turn in which a connection is made, at most: what it takes to write something
down before, on a clock that other things move on meanwhile."""


class Silent(trio.abc.Stream):
    """A connection on which nothing is said."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        pass

    async def wait_send_all_might_not_block(self) -> None:
        pass

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return b""

    async def aclose(self) -> None:
        pass


@dataclass
class Wires:
    """All that clients connect to, and when."""

    seen: list[tuple[float, str]] = field(default_factory=list)

    async def dial(self, host: str, _port: int, _isolation: bytes) -> trio.abc.Stream:
        self.seen.append((trio.current_time(), host))
        return Silent()


@dataclass
class Pace:
    """The setting."""

    pace: float

    async def wait_changed(self) -> None:
        await trio.sleep_forever()


async def live(
    pace: float, seed: str, wires: Wires, writes: Sequence[tuple[float, str]], span: float
) -> None:
    """One client that writes at these moments to these servers, and to its own when its turn comes
    and nothing waits."""
    dialer = PacedDialer(wires, Pace(pace), seeded(seed))

    async def cover() -> None:
        await (await dialer.in_turn.dial("home", 0, b"")).aclose()

    async def write(at: float, to: str) -> None:
        await trio.sleep_until(at)
        await (await dialer.dial(to, 0, b"")).aclose()

    with trio.move_on_at(span):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialer.run, cover)
            for at, to in writes:
                nursery.start_soon(write, at, to)


def on_a_mock_clock(main: Callable[[], Awaitable[None]]) -> None:
    async def begun() -> None:  # a mock clock does not begin at 0
        await trio.sleep_until(0.0)
        await main()

    trio.run(begun, clock=trio.testing.MockClock(autojump_threshold=0))


def lived(pace: float, seed: str, writes: Sequence[tuple[float, str]], span: float) -> Wires:
    wires = Wires()

    async def main() -> None:
        await live(pace, seed, wires, writes, span)

    on_a_mock_clock(main)
    wires.seen = [(round(at, 6), host) for at, host in wires.seen]
    return wires


# T2: a recipient's server


SHARE = st.floats(0.01, 0.99)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.lists(st.tuples(SHARE, SHARE), max_size=8))
def test_when_it_is_delivered_says_nothing_of_when_it_was_written(
    seed: int, within: list[tuple[float, float]]
) -> None:
    """Whatever two moments between the same two turns it is written at: all that leaves, and when,
    is the same."""
    span = 12 * PACE
    turns = [at for at, _ in lived(PACE, str(seed), [], span).seen]
    gaps = list(zip([0.0, *turns], turns, strict=False))
    histories = [
        [
            (start + share[which] * (end - start), "bob")
            for (start, end), share in zip(gaps, within, strict=False)
        ]
        for which in (0, 1)
    ]
    first, second = (lived(PACE, str(seed), writes, span).seen for writes in histories)
    assert first == second
    assert [at for at, _ in first] == turns
    assert sum(host == "bob" for _, host in first) == len(histories[0])


def test_from_writing_to_delivery_is_an_exponential_time() -> None:
    """Whenever it is written: so all that a recipient's server can say is how long ago it may have
    been, which is no more than it knew before."""
    waits = []
    for number in range(200):
        at = Seeded(number).uniform(0, 10 * PACE)
        seen = lived(PACE, f"waits {number}", [(at, "bob")], 30 * PACE).seen
        (left,) = (when for when, host in seen if host == "bob")
        waits.append(left - at)
    assert off(waits, PACE) < 1.63 / math.sqrt(len(waits))  # 1 in 100, and seeded
    at_once = lived(0.0, "no pace", [(1_000.0, "bob")], 2_000.0).seen
    assert at_once == [(1_000.0, "bob")]


# T4: what is done outside turns


@pytest.mark.parametrize("writes", [0.0, 800.0])
def test_all_connections_are_made_at_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: float
) -> None:
    """Of the real client, whatever it connects for: polls, deliveries, prekeys, names, dummies. So
    what is seen outside of them is that there is a pace, and that it begins and ends."""
    turns: list[float] = []

    class Noted(Slots):
        def due(self, now: float) -> int:
            turns.append(self.next)
            return super().due(now)

    for module in (pacing, mailbox):
        monkeypatch.setattr(module, "Slots", Noted)
    seen = trace(tmp_path / "t", Conduct(PACE, writes, writes), 10_000.0, b"turns")
    assert len(seen) > 40
    near = [min(abs(one.began - turn) for turn in turns) for one in seen]
    assert max(near) < COMMIT


# N5: both ends


def candidates(town: Sequence[Wires], arrivals: Sequence[float]) -> set[int]:
    """Those who were connected each time that something arrived."""
    return {
        number
        for number, client in enumerate(town)
        if all(any(abs(at - when) < NEAR for when, _ in client.seen) for at in arrivals)
    }


def town_of(pace: float, count: int, writes: Sequence[tuple[float, str]]) -> list[Wires]:
    """So many clients, of which the first writes."""
    span = max(at for at, _ in writes) + 20 * PACE
    town = [Wires() for _ in range(count)]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number, wires in enumerate(town):
                nursery.start_soon(
                    live, pace, f"town {number}", wires, [] if number else writes, span
                )

    on_a_mock_clock(main)
    return town


def arrivals_at(town: Sequence[Wires], server: str) -> list[float]:
    return sorted(at for client in town for at, host in client.seen if host == server)


@pytest.mark.slow
@pytest.mark.parametrize(("pace", "messages"), [(0.0, 1), (PACE, 3)])
def test_who_watches_both_ends_finds_who_writes_with_a_pace_too(pace: float, messages: int) -> None:
    """Without one by a single message; with one, by a few: he sees a turn at both ends."""
    random = Seeded(5)
    writes = [(random.uniform(0, 4_000), "bob") for _ in range(messages)]
    town = town_of(pace, 300, writes)
    arrivals = arrivals_at(town, "bob")
    assert len(arrivals) == messages
    assert candidates(town, arrivals) == {0}
    if pace:
        assert len(candidates(town, arrivals[:1])) > 1


def test_who_watches_the_wires_of_one_server_for_all_finds_nobody() -> None:
    """Where the recipient is at the sender's own home server, the dummies go there, too: at the
    wire, each turn of everybody is something that arrives there."""
    writes = [(1_000.0, "home"), (2_000.0, "home"), (3_000.0, "home")]
    busy, idle = (lived(PACE, "one server", chosen, 9_000.0).seen for chosen in (writes, ()))
    assert busy == idle
