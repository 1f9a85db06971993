"""The table of leases and circuits, and what tor reports: pure."""

import os
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cbfs.network.dial import REUSE_COUNT, REUSE_TIME, DialError
from cbfs.network.tor.circuits import Circuits, Lease, purpose_words
from cbfs.network.tor.config import TorOptions
from cbfs.network.tor.events import Bootstrap, Circuit, Stream, bootstrap_words, parse_bootstrap
from cbfs.network.tor.tor import READY_TIMEOUT, Tor


def attach(circuits: Circuits, lease: Lease, circuit: str) -> tuple[str, ...]:
    return circuits.stream(Stream("1", circuit, lease.user, False))


def test_streams_of_one_isolation_share_and_others_do_not() -> None:
    circuits = Circuits(os.urandom)
    first, second = circuits.lease(b"deliver:1", 0), circuits.lease(b"deliver:1", 1)
    other = circuits.lease(b"deliver:2", 1)
    assert first == second
    assert first.user != other.user
    assert first.password != other.password


def test_a_circuit_is_closed_with_the_last_stream_of_its_lease() -> None:
    circuits = Circuits(os.urandom)
    first, second = circuits.lease(b"home:1", 0), circuits.lease(b"home:1", 0)
    other = circuits.lease(b"names:1", 0)
    attach(circuits, first, "7")
    attach(circuits, first, "9")
    attach(circuits, other, "8")
    assert circuits.by_purpose() == {"home server": 2, "name directory": 1}
    assert circuits.release(first) == ()
    assert circuits.release(second) == ("7", "9")
    assert circuits.by_purpose() == {"name directory": 1}
    assert circuits.lease(b"home:1", 0) != first


def test_reuse_ends_after_so_many_streams() -> None:
    circuits = Circuits(os.urandom)
    leases = [circuits.lease(b"home:1", 0) for _ in range(REUSE_COUNT + 1)]
    assert len(set(leases)) == 2
    attach(circuits, leases[0], "1")
    attach(circuits, leases[-1], "2")
    assert circuits.release(leases[-1]) == ("2",)
    assert [circuits.release(lease) for lease in leases[:-1]][-1] == ("1",)


def test_reuse_ends_after_some_time() -> None:
    circuits = Circuits(os.urandom)
    first = circuits.lease(b"home:1", 100)
    assert circuits.lease(b"home:1", 100 + REUSE_TIME - 1) == first
    assert circuits.lease(b"home:1", 100 + REUSE_TIME) != first


def test_a_circuit_that_comes_up_late_is_closed() -> None:
    circuits = Circuits(os.urandom)
    lease = circuits.lease(b"prekey:1", 0)
    assert circuits.release(lease) == ()
    assert circuits.circuit(Circuit("5", lease.user, False, "HS_CLIENT_REND")) == ("5",)
    assert attach(circuits, lease, "6") == ("6",)


def test_circuits_of_others_and_paddings_are_left_alone() -> None:
    circuits = Circuits(os.urandom)
    lease = circuits.lease(b"home:1", 0)
    assert circuits.circuit(Circuit("1", "somebody", False, "GENERAL")) == ()
    assert circuits.circuit(Circuit("2", "", False, "GENERAL")) == ()
    assert circuits.circuit(Circuit("3", lease.user, False, "CIRCUIT_PADDING")) == ()
    assert circuits.release(lease) == ()


def test_joined_circuits_are_closed_together() -> None:
    circuits = Circuits(os.urandom)
    lease = circuits.lease(b"home:1", 0)
    for number, group in (("1", "A"), ("2", "A"), ("3", "B")):
        circuits.circuit(Circuit(number, "", False, "CONFLUX_LINKED", group))
    attach(circuits, lease, "2")
    assert circuits.release(lease) == ("1", "2")


def test_an_ended_circuit_is_forgotten() -> None:
    circuits = Circuits(os.urandom)
    lease = circuits.lease(b"home:1", 0)
    attach(circuits, lease, "1")
    circuits.circuit(Circuit("1", lease.user, True, "GENERAL"))
    assert circuits.by_purpose() == {}
    attach(circuits, lease, "2")
    circuits.forget()
    assert circuits.release(lease) == ()


def test_purposes() -> None:
    assert purpose_words(b"home:abc") == "home server"
    assert purpose_words(b"deliver:abc") == "deliveries"
    assert purpose_words(b"\xff") == "other"


def test_bootstrap_in_words() -> None:
    line = (
        "STATUS_CLIENT WARN BOOTSTRAP PROGRESS=10 TAG=conn_done "
        'SUMMARY="Connected to a relay" WARNING="No route to host" REASON=NOROUTE COUNT=3'
    )
    state = parse_bootstrap(line)
    assert state.percent == 10
    assert bootstrap_words(state, 0) == (
        "connecting to the Tor network: 10% (Connected to a relay), stuck: No route to host"
    )
    quiet = parse_bootstrap('NOTICE BOOTSTRAP PROGRESS=50 TAG=loading SUMMARY="Loading relays"')
    assert bootstrap_words(quiet, 10).endswith("50% (Loading relays)")
    assert bootstrap_words(quiet, 300).endswith("(Loading relays), stuck for 5 min")
    assert bootstrap_words(parse_bootstrap("PROGRESS=100"), 0) == "connected to the Tor network"


@given(st.text(max_size=200))
def test_any_text_is_a_state(text: str) -> None:
    assert 0 <= parse_bootstrap(text).percent <= 100
    assert parse_bootstrap("PROGRESS=" + text).percent <= 100


def test_a_start_that_takes_its_time_is_no_failure(tmp_path: Path) -> None:
    """A healthy tor that is starting has nothing to be told about, and is waited for while it goes
    on; one that is stuck has, and is not."""

    async def main() -> None:
        tor = Tor(TorOptions(), tmp_path, "socket", os.urandom, lambda: None)
        assert tor.report().hint == ""
        assert "not connected" not in tor.report().state

        async def start(until: int) -> None:
            for percent in (10, 40, 75, until):
                await trio.sleep(READY_TIMEOUT - 5)
                tor._hear(Bootstrap(percent, "Loading"))
                assert tor.report().hint == ""

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start, 100)
            await tor.socks()
        stuck = Tor(TorOptions(), tmp_path, "socket", os.urandom, lambda: None)
        stuck._hear(Bootstrap(10, "Loading"))
        with pytest.raises(DialError) as failed:
            await stuck.socks()
        assert failed.value.hint == stuck.report().hint
        assert "--bridges FILE" in failed.value.hint
        warned = Tor(TorOptions(), tmp_path, "socket", os.urandom, lambda: None)
        warned._hear(Bootstrap(10, "Loading", "TIMEOUT"))
        assert "--bridges FILE" in warned.report().hint

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
