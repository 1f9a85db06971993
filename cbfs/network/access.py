"""How servers are reached: through Tor, or, when the user says so, plainly on this machine.

There is no third way, and neither falls back to the other."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from cbfs.network.dial import Dialer, LoopbackDialer, OwnServerDialer, socket_path
from cbfs.network.own_server import OwnServer
from cbfs.network.tor.config import TorOptions
from cbfs.network.tor.tor import Tor, running_tor
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import Random
from cbfs_common.profile import Address

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How the user wants servers to be reached. ``no_tor``: by plain TCP, at loopback addresses
    only. Else ``tor`` says which tor."""

    no_tor: bool = False
    tor: TorOptions = field(default_factory=TorOptions)


@dataclass(frozen=True, slots=True)
class Network:
    """The way to servers, open. ``tor`` is None when the user has switched it off. ``own_server``
    is the home server where it runs with the client."""

    dialer: Dialer
    tor: Tor | None
    own_server: OwnServer | None = None

    def lines(self) -> tuple[str, ...]:
        """How the network is, for ``status``: Tor's state, one's own server, circuits by
        purpose."""
        if self.tor is None:
            return ("Tor is switched off: only servers on this machine can be reached",)
        report = self.tor.report()
        hint = f" ({report.hint})" if report.hint else ""
        circuits = [
            f"circuits for {purpose}: {count}" for purpose, count in sorted(report.circuits.items())
        ]
        own = (self.own_server.line,) if self.own_server else ()
        return (f"Tor: {report.state}{hint}", *own, *circuits)


@asynccontextmanager
async def reaching(
    options: NetworkOptions,
    account: Path,
    random: Random,
    changed: Callable[[], None],
    *,
    own_server: bool = False,
    known: Address | None = None,
) -> AsyncIterator[Network]:
    """The way to servers for the length of the block; ``changed`` is told of news in ``lines``.
    ``own_server``: the home server runs for as long, at the address ``known`` if that is settled.
    Raises what ``running_tor`` raises."""
    if options.no_tor:
        if own_server:
            raise CbfsError("your own server can only be reached through Tor", "leave out --no-tor")
        yield Network(LoopbackDialer(), None)
        return
    async with running_tor(options.tor, account / "tor", random.token, changed) as tor:
        if not own_server:
            yield Network(tor.dialer, tor)
            return
        directory = account / "server"
        with socket_path(directory, "local") as path:
            own = OwnServer(directory, path, tor, known, random, changed)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(own.keep)
                yield Network(OwnServerDialer(path, own.host, tor.dialer), tor, own)
                nursery.cancel_scope.cancel()


def run(work: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
    """Run as ``trio.run`` does, and raise the first of our errors, else of the system's, in place
    of the group that nurseries make; KeyboardInterrupt whatever it has met on its way."""
    try:
        return trio.run(work, *arguments)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            raise KeyboardInterrupt from None
        if group.subgroup(lambda e: not _expected(e)) is not None:
            raise
        error: BaseException = group.subgroup(CbfsError) or group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def _expected(error: BaseException) -> bool:
    return isinstance(error, CbfsError | OSError | BaseExceptionGroup)
