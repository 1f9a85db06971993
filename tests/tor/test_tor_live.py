"""Connections, circuits and onion services over the private Tor network."""

import contextlib
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.commands.home.onion_key import admission
from cbfs.network.dial import DialError
from cbfs.network.tor.config import TorOptions
from cbfs.network.tor.control import TorSession, open_session
from cbfs.network.tor.private_network import PrivateTorNetwork
from cbfs.network.tor.segments import SEGMENT
from cbfs_common.onion import PORT, make_service_key, parse_clients
from tests.support.tornet import (
    PATIENCE,
    dial,
    echo_server,
    observing,
    onion_echo,
    own_options,
    refused,
    talk,
    tor_of,
)

pytestmark = pytest.mark.tor


def client(network: PrivateTorNetwork) -> TorOptions:
    return TorOptions(control=network.control("client"))


def test_each_isolation_has_a_circuit_that_ends_with_it(
    tor_network: PrivateTorNetwork, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            echo_server() as port,
            tor_of(client(tor_network), tmp_path) as (tor, changes),
            observing(tor_network.control("client")) as observer,
            AsyncExitStack() as stack,
        ):
            names = (b"home:1", b"deliver:1", b"deliver:2", b"home:1")
            streams = [
                await stack.enter_async_context(await dial(tor, "127.0.0.1", port, name))
                for name in names
            ]
            for stream in streams:
                await talk(stream)
            await observer.until(lambda seen: len(seen.carriers()) == 3)
            home, first, second = carriers = list(observer.carriers().values())
            assert len(home | first | second) == sum(map(len, carriers))  # none is shared
            assert set(tor.report().circuits) == {"home server", "deliveries"}
            assert not observer.ended() & (home | first | second)

            await streams[1].aclose()
            await observer.until(lambda seen: first <= seen.ended())
            await streams[0].aclose()
            await talk(streams[3])
            await talk(streams[2])
            assert not observer.ended() & (home | second)
            await streams[3].aclose()
            await observer.until(lambda seen: home <= seen.ended())
            await talk(streams[2])
            await streams[2].aclose()
            await observer.until(lambda seen: second <= seen.ended())
            await changes.until(lambda report: report.circuits == {})

    trio.run(main)


def test_two_deliveries_to_one_onion_share_nothing(
    tor_network: PrivateTorNetwork, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            onion_echo(tor_network) as host,
            tor_of(client(tor_network), tmp_path) as (tor, _),
            observing(tor_network.control("client")) as observer,
        ):
            async with (
                await dial(tor, host, PORT, b"deliver:1") as one,
                await dial(tor, host, PORT, b"deliver:2") as two,
            ):
                await talk(one, os.urandom(40_000))
                await talk(two, os.urandom(40_000))
                await observer.until(lambda seen: len(seen.carriers()) >= 2)
                carriers = list(observer.carriers().values())
                every = set[str]().union(*carriers)
                assert len(every) == sum(map(len, carriers))
            await observer.until(lambda seen: every <= seen.ended())

    trio.run(main)


def test_names_go_to_tor_as_they_are(
    tor_network: PrivateTorNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    real = socket.getaddrinfo

    def spy(host: object, *rest: object, **more: object) -> object:
        asked.append(host)
        return real(host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", spy)

    async def main() -> None:
        async with tor_of(client(tor_network), tmp_path) as (tor, _):
            with pytest.raises(DialError, match=r"cannot reach nobody\.invalid:80") as caught:
                await tor.dialer.dial("nobody.invalid", 80, b"deliver:1")
            assert caught.value.hint

    trio.run(main)
    assert all(str(host) in ("127.0.0.1", "None") for host in asked)


def test_an_onion_that_is_not_there(tor_network: PrivateTorNetwork, tmp_path: Path) -> None:
    host = make_service_key(os.urandom).host

    async def main() -> None:
        async with tor_of(client(tor_network), tmp_path) as (tor, changes):
            await refused(tor, host, PORT, b"deliver:1", "is not published")
            await changes.until(lambda report: report.circuits == {})

    trio.run(main)


def test_an_onion_without_a_server_behind_it(
    tor_network: PrivateTorNetwork, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            onion_echo(tor_network) as host,
            tor_of(client(tor_network), tmp_path) as (tor, _),
        ):
            stream = await dial(tor, host, PORT, b"deliver:1")
            await talk(stream)
            await stream.aclose()
            await refused(tor, host, PORT + 1, b"deliver:2", "refuses the connection")

    trio.run(main)


def test_a_private_onion_admits_whom_it_knows(
    tor_network: PrivateTorNetwork, tmp_path: Path
) -> None:
    """By the line that ``cbfs onion-key`` prints."""
    admitted, other = tmp_path / "admitted", tmp_path / "other"
    key = make_service_key(os.urandom)
    clients = parse_clients("work " + admission(admitted, key.host, SYSTEM_RANDOM))
    kept = admitted / "tor" / "onion_auth" / f"{key.host[:-6]}.auth_private"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert parse_clients(admission(admitted, key.host, SYSTEM_RANDOM)) == clients

    async def main() -> None:
        options = client(tor_network)
        async with onion_echo(tor_network, clients, key) as host:
            async with tor_of(options, other / "tor") as (tor, _):
                await refused(tor, host, PORT, b"home:1", "you have no key for it")
            admission(other, host, SYSTEM_RANDOM)
            async with tor_of(options, other / "tor") as (tor, _):
                await refused(tor, host, PORT, b"home:1", "refuses your key")
            async with (
                tor_of(options, admitted / "tor") as (tor, _),
                await dial(tor, host, PORT, b"home:1") as stream,
            ):
                await talk(stream)
            kept.unlink()
            async with observing(tor_network.control("client")) as observer:
                known = await trio.to_thread.run_sync(observer.session.client_keys)
                assert host.removesuffix(".onion") not in known

    trio.run(main)


def test_a_circuit_that_ends_in_the_middle(tor_network: PrivateTorNetwork, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            echo_server() as port,
            tor_of(client(tor_network), tmp_path) as (tor, _),
            observing(tor_network.control("client")) as observer,
            await dial(tor, "127.0.0.1", port, b"home:1") as stream,
        ):
            await talk(stream)
            await observer.until(lambda seen: seen.carriers() != {})
            (carriers,) = observer.carriers().values()
            await end_circuits(observer.session, carriers)
            with trio.fail_after(PATIENCE), contextlib.suppress(trio.BrokenResourceError):
                assert not await stream.receive_some()
            async with await dial(tor, "127.0.0.1", port, b"home:1") as again:
                await talk(again)
                await stream.aclose()
                await talk(again)

    trio.run(main)


async def end_circuits(session: TorSession, circuits: set[str]) -> None:
    """Closes circuits with all that tor has joined with them."""
    present = await trio.to_thread.run_sync(session.circuits)
    groups = {found.group for found in present if found.id in circuits and found.group}
    joined = {found.id for found in present if found.group in groups}
    for circuit in circuits | joined:
        await trio.to_thread.run_sync(session.close_circuit, circuit)


def test_a_tor_of_our_own_comes_up_and_goes(tor_network: PrivateTorNetwork, tmp_path: Path) -> None:
    async def main() -> None:
        directory = tmp_path / "tor"
        async with (
            echo_server() as port,
            tor_of(own_options(tor_network, directory), directory) as (tor, changes),
        ):
            async with await dial(tor, "127.0.0.1", port, b"home:1") as stream:
                await talk(stream)
            assert any("%" in report.state for report in changes.seen)
            await changes.until(lambda report: report.up)  # who dials may be served before that
            assert tor.report().state == "connected to the Tor network"
            assert (directory / "control").is_socket()
        assert not (directory / "control").exists()

    trio.run(main)


def test_a_long_path_is_no_obstacle(tor_network: PrivateTorNetwork, tmp_path: Path) -> None:
    async def main() -> None:
        directory = tmp_path / ("a" * 100) / "tor"
        directory.parent.mkdir()
        async with tor_of(own_options(tor_network, directory), directory) as (tor, changes):
            await changes.until(lambda report: report.up)
            assert tor.control != str(directory / "control")
        assert not Path(tor.control).parent.exists()

    trio.run(main)


def test_its_relays_talk_in_segments_of_a_real_network(tor_network: PrivateTorNetwork) -> None:
    """Those of loopback have 64 KiB, and tor waits for 40 ms behind each that is not full."""
    session = open_session(tor_network.control("client"))
    try:
        relays = [
            line.split() for line in session.get_info("ns/all").splitlines() if line[:2] == "r "
        ]
    finally:
        session.close()
    assert len(relays) == 4
    for *_, host, port, _ in relays:
        with socket.create_connection((host, int(port))) as connected:
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= SEGMENT
