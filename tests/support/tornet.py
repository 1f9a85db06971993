"""What tests over real Tor share: the private network, and ends to talk with.

The network is started once a session, when a test first asks for it, and goes with the tests
however they end (``cbfs.network.tor.private_network``).
"""

import math
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import stem.process
import trio

from cbfs.network.dial import DialError
from cbfs.network.tor.config import TorOptions
from cbfs.network.tor.control import TorSession, open_session
from cbfs.network.tor.events import Circuit, Event, Stream
from cbfs.network.tor.private_network import PrivateTorNetwork, running_network
from cbfs.network.tor.tor import Tor, TorReport, running_tor
from cbfs_common.onion import ServiceKey, make_service_key
from cbfs_host.listening import Place
from cbfs_host.onion import Onion
from cbfs_host.onion_service import published

PATIENCE = 150.0
"""Seconds after which a test that waits has failed. No test measures time."""


@pytest.fixture(scope="session")
def tor_network() -> Iterator[PrivateTorNetwork]:
    """The private Tor network."""
    with running_network(lambda step: None) as network:
        yield network


class Changes:
    """Lets a test wait for what a Tor reports."""

    def __init__(self) -> None:
        self.tor: Tor | None = None
        self.seen: list[TorReport] = []
        self._event = trio.Event()

    def __call__(self) -> None:
        if self.tor is not None:
            self.seen.append(self.tor.report())
        self._event.set()
        self._event = trio.Event()

    async def until(self, wanted: Callable[[TorReport], bool]) -> TorReport:
        """The first report from now on for which ``wanted`` holds."""
        assert self.tor is not None
        with trio.fail_after(PATIENCE):
            while not wanted(report := self.tor.report()):
                await self._event.wait()
        return report


@asynccontextmanager
async def tor_of(options: TorOptions, directory: Path) -> AsyncIterator[tuple[Tor, Changes]]:
    """A Tor, and its changes."""
    changes = Changes()
    async with running_tor(options, directory, os.urandom, changes) as tor:
        changes.tor = tor
        yield tor, changes
        changes.tor = None


def own_options(network: PrivateTorNetwork, directory: Path, *lines: str) -> TorOptions:
    """Options for a tor of one's own in ``directory`` that joins the private network."""
    path = directory.parent / "torrc"
    path.write_text("\n".join((*network.torrc, *lines)))
    network.seed(directory / "data")
    return TorOptions(torrc=path)


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """The port of a server on loopback that sends back what it gets."""

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(_serve, echo)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _serve(
    handler: Callable[[trio.SocketStream], object],
    task_status: trio.TaskStatus[list[trio.SocketListener]],
) -> None:
    await trio.serve_tcp(handler, 0, host="127.0.0.1", task_status=task_status)  # type: ignore[arg-type]


@asynccontextmanager
async def onion_echo(
    network: PrivateTorNetwork, clients: tuple[str, ...] = (), key: ServiceKey | None = None
) -> AsyncIterator[str]:
    """The host name of an onion service of the network that sends back what it gets."""
    onion = Onion(key or make_service_key(os.urandom), clients, network.control("host"))
    async with echo_server() as port, published(onion, Place("127.0.0.1", port)) as host:
        yield host


async def dial(tor: Tor, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
    """Dials until it works, with pauses as the client makes them: over Tor a failed attempt is part
    of normal operation."""
    for pause in (0.1, 0.2, 0.5, 1.0, 2.0, 4.0):
        try:
            return await tor.dialer.dial(host, port, isolation)
        except DialError:
            await trio.sleep(pause)
    return await tor.dialer.dial(host, port, isolation)


async def refused(tor: Tor, host: str, port: int, isolation: bytes, words: str) -> None:
    """Dials until it fails in these words. On a busy machine it may be that a circuit was not built
    in time, which is told as well."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                stream = await tor.dialer.dial(host, port, isolation)
            except DialError as error:
                if words in str(error):
                    return
            else:
                await stream.aclose()
                raise AssertionError(f"{host}:{port} was reached")


async def talk(stream: trio.abc.Stream, word: bytes = b"hello") -> None:
    """Sends a word and gets it back."""
    with trio.fail_after(PATIENCE):
        await stream.send_all(word)
        got = b""
        while len(got) < len(word):
            more = await stream.receive_some()
            assert more, "the connection ended"
            got += bytes(more)
    assert got == word


class Observer:
    """Watches a tor with a control connection of its own."""

    def __init__(self, session: TorSession) -> None:
        self.session = session
        self.events: list[Event] = []
        self._send, self._receive = trio.open_memory_channel[Event](math.inf)
        token = trio.lowlevel.current_trio_token()
        session.listen(lambda event: token.run_sync_soon(self._heard, event), lambda: None)

    def _heard(self, event: Event) -> None:
        self.events.append(event)
        self._send.send_nowait(event)

    async def until(self, wanted: Callable[["Observer"], bool]) -> None:
        """Waits for an event after which ``wanted`` holds."""
        with trio.fail_after(PATIENCE):
            while not wanted(self):
                await self._receive.receive()

    def carriers(self) -> dict[str, set[str]]:
        """SOCKS user name and the circuits that have carried its streams to their ends."""
        found: dict[str, set[str]] = {}
        for event in self.events:
            if isinstance(event, Stream) and event.user and event.circuit:
                found.setdefault(event.user, set()).add(event.circuit)
        return found

    def ended(self) -> set[str]:
        """The circuits that have been closed."""
        return {event.id for event in self.events if isinstance(event, Circuit) and event.ended}


@asynccontextmanager
async def observing(address: str) -> AsyncIterator[Observer]:
    """An observer of the tor with this control socket."""
    session = open_session(address)
    try:
        yield Observer(session)
    finally:
        await trio.to_thread.run_sync(session.close)


@contextmanager
def lone_tor(directory: Path, *lines: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A tor that reaches nobody, for what its control port does: at ``directory``/control."""
    directory.mkdir(mode=0o700, parents=True)
    base = (f"DataDirectory {directory}", f"ControlSocket {directory}/control", "UseBridges 1")
    process = run_tor((*base, f"Bridge 127.0.0.1:1 {'A' * 40}", *lines))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run_tor(lines: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """A tor that is nobody's, as the system's is: whoever asks for it, it goes on."""
    config: dict[str, list[str]] = {}
    for line in lines:
        key, _, value = line.partition(" ")
        config.setdefault(key, []).append(value)
    return stem.process.launch_tor_with_config(  # type: ignore[no-any-return]
        config, completion_percent=0, timeout=None
    )


HASHED = "HashedControlPassword 16:872860B76453A77D60CA2BB8C1A7042072093276A3D701AD684053EC4C"
"""A control port that wants a password."""


@pytest.fixture
def system_tor(tor_network: PrivateTorNetwork, tmp_path: Path) -> Iterator["SystemTor"]:
    """A tor that runs beside the client, as Debian's does."""
    system = SystemTor(tor_network, tmp_path / "system")
    try:
        yield system
    finally:
        system.stop()


class SystemTor:
    """Can be stopped and started, and its network switched."""

    def __init__(self, network: PrivateTorNetwork, directory: Path) -> None:
        network.seed(directory)
        self.control = f"{directory}/control"
        own = (f"DataDirectory {directory}", f"ControlSocket {self.control}", "SocksPort auto")
        self._lines = (*own, *network.torrc)
        self.start()

    def start(self) -> None:
        """From nothing."""
        self._process = run_tor(self._lines)

    def stop(self) -> None:
        """At once."""
        self._process.kill()
        self._process.wait()

    def switch_network(self, on: bool) -> None:
        """Takes the network away or gives it back."""
        with socket.socket(socket.AF_UNIX) as control, control.makefile("rwb") as file:
            control.connect(self.control)
            for command in ("AUTHENTICATE", f"SETCONF DisableNetwork={0 if on else 1}"):
                file.write(command.encode() + b"\r\n")
                file.flush()
                assert file.readline() == b"250 OK\r\n"
