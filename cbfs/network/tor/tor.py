"""The Tor that the client goes through, all of its life.

``running_tor`` returns when tor is there, long before it is connected; a task follows in tor's
events how far it is and which circuit carries what, and finds or starts it again when it has
ended. While there is no Tor nothing is sent: ``dial`` waits, then fails, and never goes another
way.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from cbfs.network.dial import DialError, socket_path
from cbfs.network.tor.circuits import Circuits, Lease
from cbfs.network.tor.config import TorOptions, check_options, client_keys
from cbfs.network.tor.control import ControlError
from cbfs.network.tor.dial import TorDialer
from cbfs.network.tor.events import (
    STUCK_AFTER,
    Bootstrap,
    Circuit,
    Event,
    Liveness,
    Stream,
    bootstrap_words,
)
from cbfs.network.tor.session import LiveTor, find_running
from cbfs_common.errors import CbfsError

HEARTBEAT: Final = 60.0
"""Seconds between questions whether tor is still well."""

READY_TIMEOUT: Final = 60.0
"""Seconds that a connection waits for Tor to come up before it fails."""

BACKOFF_FIRST: Final = 1.0
BACKOFF_LAST: Final = 60.0
"""Seconds before tor is looked for or started again: after it was well, and at most."""

NOT_CONNECTED: Final = "is this machine online? where Tor is blocked: --bridges FILE"
"""What all programs of ours take."""


@dataclass(frozen=True, slots=True)
class TorReport:
    """How Tor is, in words for users."""

    up: bool
    state: str
    """One line."""
    hint: str
    """What the user can do, may be empty."""
    circuits: Mapping[str, int]
    """Purpose in words, and how many circuits are for it."""
    percent: int | None = None
    """How far its start is, while that goes well; None otherwise."""


@asynccontextmanager
async def running_tor(
    options: TorOptions,
    directory: Path,
    token: Callable[[int], bytes],
    changed: Callable[[], None],
) -> "AsyncIterator[Tor]":
    """Tor for the length of the ``async with``.

    ``directory`` holds our own tor's data and the folder ``onion_auth`` with keys for private
    servers; ``token(n)`` gives n random bytes; ``changed`` is called whenever ``Tor.report()``
    has changed.

    Raises what only the user can mend: ControlRefused, TorConfigError. A tor that is not there
    yet is waited for. What the body raises comes out in an ExceptionGroup, as from any nursery.
    """
    check_options(options)
    with socket_path(directory, "control") as socket:
        tor = Tor(options, directory, socket, token, changed)
        live = await tor.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tor.keep, live)
            yield tor
            nursery.cancel_scope.cancel()


class Tor:
    """A Tor that is coming up, up, or being started again."""

    def __init__(
        self,
        options: TorOptions,
        directory: Path,
        socket: str,
        token: Callable[[int], bytes],
        changed: Callable[[], None],
    ) -> None:
        self._keys = client_keys(directory / "onion_auth")
        self._options = options
        self._directory = directory
        self._socket = socket
        self._changed = changed
        self._circuits = Circuits(token)
        self._closing: set[str] = set()
        self._wake = trio.Event()
        self._doubted = False
        self._up = trio.Event()
        self._socks = ("", 0)
        self._bootstrap = Bootstrap(0, "starting")
        self._progressed = trio.current_time()
        self._alive = True
        self._down: CbfsError | None = None
        self._note = ""
        self._told: TorReport | None = None
        self.back: Callable[[], None] = lambda: None
        """Called when the Tor network answers again after it did not, as tor says: a server that
        was reached through it can bring that about no more than that it did not."""
        self.control = ""
        """Control socket or port of the tor in use, for a server of one's own to publish itself
        through; empty until there is one."""
        self.dialer = TorDialer(self)

    # ---- for users ----

    def report(self) -> TorReport:
        """How Tor is now."""
        circuits = self._circuits.by_purpose()
        if self._down is not None:
            return TorReport(False, f"not connected: {self._down}", self._down.hint, circuits)
        waited = trio.current_time() - self._progressed
        state = bootstrap_words(self._bootstrap, waited)
        if not self._up.is_set():
            well = not self._bootstrap.warning and waited < STUCK_AFTER
            percent = self._bootstrap.percent if well else None
            return TorReport(False, state, "" if well else NOT_CONNECTED, circuits, percent)
        if not self._alive:
            return TorReport(False, "the Tor network does not answer", NOT_CONNECTED, circuits)
        return TorReport(True, state + self._note, "", circuits)

    async def wait_up(self) -> None:
        """Wait until Tor is connected."""
        while not self._up.is_set():
            await self._up.wait()

    # ---- for the dialer ----

    async def socks(self) -> tuple[str, int]:
        """The address and port where tor speaks SOCKS, as soon as it is connected. Raises DialError
        when that takes too long."""
        while True:
            with trio.move_on_after(READY_TIMEOUT):
                await self.wait_up()
                return self._socks
            going_on = trio.current_time() - self._progressed < READY_TIMEOUT
            if self._down is not None or not going_on:
                break  # a start that only takes its time is no failure
        report = self.report()
        raise DialError(f"Tor is {report.state}", report.hint)

    def failed(self) -> None:
        """Look whether tor is still well: a connection failed."""
        self._doubted = True
        self._wake.set()

    def lease(self, isolation: bytes) -> Lease:
        """Credentials for one stream of this isolation."""
        return self._circuits.lease(isolation, trio.current_time())

    def release(self, lease: Lease) -> None:
        """Note that the stream of a lease has ended, and close the circuits that nothing else
        uses."""
        self._close_soon(self._circuits.release(lease))

    # ---- its life ----

    async def open(self) -> LiveTor | None:
        """Find or start a tor, for the first time: None when that must be tried again. Raises what
        only the user can mend."""
        try:
            return await self._open()
        except ControlError as error:
            if error.lasting:
                raise
            self._down = error
            return None

    async def _open(self) -> LiveTor:
        """The tor that was used before, or is asked for, or is found; else our own. Once one is
        chosen it stays: when the user stops it, Tor is stopped."""
        if self._options.own or self.control == self._socket:
            return await LiveTor.own(self._options, self._directory, self._socket)
        if self._options.control or self.control:
            return await LiveTor.running(self._options.control or self.control)
        found, refused = await find_running()
        if found is not None:
            return found
        if refused is not None:
            self._note = f" by a tor of our own, as {refused}"
        return await LiveTor.own(self._options, self._directory, self._socket)

    async def keep(self, live: LiveTor | None) -> None:
        """Goes on from the first try until it is cancelled."""
        pause = BACKOFF_FIRST
        while True:
            try:
                live = live or await self._open()
                await self._follow(live)
                error: CbfsError = ControlError("tor has ended", "cbfs tries again by itself")
            except CbfsError as raised:
                error = raised
            finally:
                if live is not None:
                    await live.aclose()
            live = None
            pause = BACKOFF_FIRST if self._up.is_set() else min(2 * pause, BACKOFF_LAST)
            self._set_down(error)
            await trio.sleep(pause)

    async def _follow(self, live: LiveTor) -> None:
        """Keeps up with a tor until it ends. Raises ControlError when it hangs."""
        self.control = live.address
        self._circuits.forget()
        self._closing.clear()
        ended = trio.Event()

        def end() -> None:
            ended.set()
            self._wake.set()

        await live.listen(self._hear, end)
        for circuit in await live.call(live.session.circuits):
            self._hear(circuit)
        await live.give_keys(self._keys)
        self._down, self._alive = None, True
        self._progressed = trio.current_time()
        self._doubted = True
        while not ended.is_set():
            if self._doubted:
                health = await live.check()
                self._socks = health.socks
                self._hear(Liveness(health.established or health.bootstrap.percent < 100))
                self._hear(health.bootstrap)
            self._wake, self._doubted = trio.Event(), False
            while self._closing:
                await live.call(live.session.close_circuit, self._closing.pop())
            with trio.move_on_after(HEARTBEAT) as sleep:
                await self._wake.wait()
            self._doubted = self._doubted or sleep.cancelled_caught

    def _hear(self, event: Event) -> None:
        """Take note of an event of tor's, in the order in which they come."""
        match event:
            case Circuit():
                self._close_soon(self._circuits.circuit(event))
            case Stream():
                self._close_soon(self._circuits.stream(event))
            case Liveness():
                back, self._alive = event.up and not self._alive, event.up
                if back:
                    self.back()
            case Bootstrap():
                if event.percent > self._bootstrap.percent:
                    self._progressed = trio.current_time()
                self._bootstrap = event
                if event.percent == 100:
                    self._up.set()
        self._tell()

    def _close_soon(self, circuits: tuple[str, ...]) -> None:
        self._closing.update(circuits)
        self._wake.set()
        self._tell()

    def _set_down(self, error: CbfsError) -> None:
        if self._up.is_set():
            self._up = trio.Event()
        self._down = error
        self._bootstrap = Bootstrap(0, "starting")
        self._circuits.forget()
        self._tell()

    def _tell(self) -> None:
        """Calls ``changed`` when there is something new to report."""
        report = self.report()
        if report != self._told:
            self._told = report
            self._changed()
