"""How a command of ``cbfs`` gets its work done over the network: it waits for Tor and for one's own
server, says how far they are, and tries again what broke off."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from cbfs.account.account import SYSTEM_RANDOM, load_own_server
from cbfs.commands.reading.progress import ProgressBar
from cbfs.names.lookups import DirectoryDown
from cbfs.network.access import Network, reaching
from cbfs.network.dial import DialError
from cbfs.network.options import NetworkOptions
from cbfs.network.own_server import OwnServer
from cbfs.problems import Backoff
from cbfs.storage.store import Store
from cbfs_common.errors import CbfsError, TransportError
from cbfs_common.profile import Address

T = TypeVar("T")

BOOTSTRAP_TIMEOUT = 300.0
"""Seconds that Tor has to connect."""

CONNECTING = "connecting to the Tor network"

TRIES = 4
"""Times that it is gone on through Tor, where a connection that fails is nothing unusual."""


async def published(own: OwnServer) -> Address:
    """The address of one's own server, once others can reach it there. Raises CbfsError when that
    takes longer than BOOTSTRAP_TIMEOUT."""
    with trio.move_on_after(BOOTSTRAP_TIMEOUT):
        return await own.address()
    raise CbfsError(own.line, "see its log, in the folder server of the account")


@dataclass(slots=True)
class NetworkProgress:
    """Says how far Tor and one's own server are, each word once; on a terminal a bar shows how far
    Tor's start is. ``network`` is set as soon as there is one."""

    say: Callable[[str], None]
    network: Network | None = None
    _said: frozenset[str] = frozenset()
    _bar: ProgressBar = field(default_factory=lambda: ProgressBar(CONNECTING, 100))

    def tell(self) -> None:
        """Something has changed."""
        if self.network is None:
            return
        tor, own = self.network.tor, self.network.own_server
        percent = tor.report().percent if tor is not None and self._bar.is_seen else None
        if percent is None:
            self._bar.end()
        else:
            self._bar.at(percent)
        first = self.network.lines()[:1] if percent is None else ()
        lines = (*first, *((own.line,) if own else ()))
        for line in lines:
            if line not in self._said:
                self.say(line)
        self._said = frozenset(lines)

    def end(self) -> None:
        """There is nothing more to tell."""
        self._bar.end()


async def online(
    store: Store,
    place: Path,
    options: NetworkOptions,
    say: Callable[[str], None],
    steps: Callable[[Network], Awaitable[T]],
    own_server: bool = False,
) -> T:
    """Run the store, connect, start one's own server where there is one or is to be, and run all
    steps, as often as that must be done: done again, each goes on where it was cut off. Raises
    CbfsError."""
    known = load_own_server(store)
    own = own_server or known is not None
    async with trio.open_nursery() as committer:
        await committer.start(store.run)
        done = await reached(place, options, say, steps, own_server=own, known=known)
        committer.cancel_scope.cancel()
    return done


async def reached(
    place: Path,
    options: NetworkOptions,
    say: Callable[[str], None],
    steps: Callable[[Network], Awaitable[T]],
    *,
    own_server: bool = False,
    known: Address | None = None,
) -> T:
    """Connect and run all steps as ``online`` does, without a store. Raises CbfsError."""
    progress = NetworkProgress(say)
    async with reaching(
        options, place, SYSTEM_RANDOM, progress.tell, own_server=own_server, known=known
    ) as network:
        progress.network = network
        await connected(network, progress)
        if network.own_server is not None:
            await published(network.own_server)
        return await _persist(network, say, steps)


async def connected(network: Network, progress: NetworkProgress) -> None:
    """Wait until Tor is connected, where it is used. Raises CbfsError when that takes longer than
    BOOTSTRAP_TIMEOUT."""
    tor = network.tor
    if tor is None:
        return
    try:
        with trio.move_on_after(BOOTSTRAP_TIMEOUT):
            await tor.wait_up()
            return
    finally:
        progress.end()
    report = tor.report()
    raise CbfsError(report.state, report.hint)


async def _persist(
    network: Network, say: Callable[[str], None], steps: Callable[[Network], Awaitable[T]]
) -> T:
    backoff = Backoff(SYSTEM_RANDOM)
    for tries_left in reversed(range(TRIES if network.tor else 1)):
        try:
            return await steps(network)
        except (DialError, TransportError, DirectoryDown) as error:
            if not tries_left:
                raise
            say(f"{error.in_full}; trying again")
        await trio.sleep(backoff.next())
    raise RuntimeError("no tries")
