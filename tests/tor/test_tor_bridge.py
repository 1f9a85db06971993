"""A bridge line that works, over the private Tor network: the first hop of everything is the
bridge, and no other relay sees the client."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from cbfs.network.tor.config import TorOptions
from cbfs.network.tor.control import open_session
from cbfs.network.tor.private_network import PrivateTorNetwork
from cbfs_common.onion import PORT
from tests.support.tornet import (
    PATIENCE,
    dial,
    echo_server,
    observing,
    onion_echo,
    run_tor,
    talk,
    tor_of,
)

pytestmark = pytest.mark.tor

BRIDGE_LINES = (
    "BridgeRelay 1",
    "BridgeDistribution none",
    "PublishServerDescriptor 0",
    "Nickname bridge",
    "Address 127.0.0.1",
    "ORPort 127.0.0.1:auto",
    "AssumeReachable 1",
    "ExitRelay 0",
    "ContactInfo none",
    "SocksPort 0",
    "ShutdownWaitLength 0",
    "CookieAuthentication 1",
)


@contextmanager
def bridge(network: PrivateTorNetwork, directory: Path) -> Iterator[str]:
    """A bridge of the private network that nobody is told of: its line."""
    network.seed(directory)
    own = (f"DataDirectory {directory}", f"ControlSocket {directory}/control")
    process = run_tor((*own, *network.torrc, *BRIDGE_LINES))
    try:
        session = open_session(f"{directory}/control")
        try:
            address = session.get_info("net/listeners/or").strip('"')
            yield f"{address} {session.get_info('fingerprint')}"
        finally:
            session.close()
    finally:
        process.kill()
        process.wait()


def test_all_goes_by_the_bridge(tor_network: PrivateTorNetwork, tmp_path: Path) -> None:
    async def main(line: str) -> None:
        (tmp_path / "torrc").write_text("\n".join(tor_network.torrc))
        (tmp_path / "bridges").write_text(f"# as the operator gave it\nBridge {line}\n")
        options = TorOptions(bridges=tmp_path / "bridges", torrc=tmp_path / "torrc")
        async with (
            echo_server() as port,
            onion_echo(tor_network) as host,
            tor_of(options, tmp_path / "own") as (tor, changes),
        ):
            await changes.until(lambda report: report.up)
            for target in (("127.0.0.1", port), (host, PORT)):
                async with await dial(tor, *target, os.urandom(8)) as stream:
                    await talk(stream)
            async with observing(tor.control) as observer:
                with trio.fail_after(PATIENCE):
                    hops = await trio.to_thread.run_sync(observer.session.get_info, "entry-guards")
                    reached = await trio.to_thread.run_sync(
                        observer.session.get_info, "orconn-status"
                    )
        fingerprint = line.split()[1]
        connections = [each for each in reached.splitlines() if each]
        assert connections
        assert fingerprint in hops
        assert all(fingerprint in each for each in connections), connections
        assert all(fingerprint in each for each in hops.splitlines() if " up" in each), hops

    with bridge(tor_network, tmp_path / "bridge") as line:
        trio.run(main, line)
