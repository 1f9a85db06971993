"""How a command of ``cbfs`` gets its work done over the network: it waits for Tor and for one's own
server, says how far they are, and tries again what broke off."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from cbfs.account.account import SYSTEM_RANDOM, load_own_server
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

TRIES = 4
"""Times that it is gone on through Tor, where a connection that fails is nothing unusual."""


async def published(own: OwnServer) -> Address:
    """The address of one's own server, once others can reach it there. Raises CbfsError when that
    takes longer than BOOTSTRAP_TIMEOUT."""
    with trio.move_on_after(BOOTSTRAP_TIMEOUT):
        return await own.address()
    raise CbfsError(own.line, "see its log, in the folder server of the account")


@dataclass(slots=True)
class _Progress:
    """Says how far Tor and one's own server are, each word once."""

    say: Callable[[str], None]
    network: Network | None = None
    said: frozenset[str] = frozenset()

    def tell(self) -> None:
        if self.network is None:
            return
        own = self.network.own_server
        lines = (self.network.lines()[0], *((own.line,) if own else ()))
        for line in lines:
            if line not in self.said:
                self.say(line)
        self.said = frozenset(lines)


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
    progress = _Progress(say)
    async with reaching(
        options, place, SYSTEM_RANDOM, progress.tell, own_server=own_server, known=known
    ) as network:
        progress.network = network
        if network.tor is not None:
            with trio.move_on_after(BOOTSTRAP_TIMEOUT) as waiting:
                await network.tor.wait_up()
            if waiting.cancelled_caught:
                report = network.tor.report()
                raise CbfsError(report.state, report.hint)
        if network.own_server is not None:
            await published(network.own_server)
        return await _persist(network, say, steps)


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
