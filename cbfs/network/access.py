"""How servers are reached: through Tor, or, when the user says so, plainly on this machine.

There is no third way, and neither falls back to the other."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cbfs.network.dial import Dialer, LoopbackDialer, OwnServerDialer, socket_path
from cbfs.network.options import NetworkOptions
from cbfs.network.own_server import OwnServer
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import Random
from cbfs_common.profile import Address

if TYPE_CHECKING:
    from cbfs.network.tor.tor import Tor


@dataclass(frozen=True, slots=True)
class Network:
    """The way to servers, open. ``tor`` is None when the user has switched it off. ``own_server``
    is the home server where it runs with the client. ``is_used``: whether anybody is reached."""

    dialer: Dialer
    tor: "Tor | None"
    own_server: OwnServer | None = None
    is_used: bool = True

    def lines(self) -> tuple[str, ...]:
        """How the network is, for ``status``: Tor's state, one's own server, circuits by
        purpose."""
        if not self.is_used:
            return ()
        if self.tor is None:
            return ("Tor is switched off: only servers on this machine can be reached",)
        report = self.tor.report()
        hint = f" ({report.hint})" if report.hint else ""
        circuits = [
            f"circuits for {purpose}: {count}" for purpose, count in sorted(report.circuits.items())
        ]
        own = (self.own_server.line,) if self.own_server else ()
        return (f"Tor: {report.state}{hint}", *own, *circuits)


def read_in(options: NetworkOptions) -> None:
    """Read in what ``reaching`` takes, for a program that does something in between which wants
    it there."""
    if not options.no_tor:
        import_module("cbfs.network.tor.tor")


def unused() -> Network:
    """What stands in the place of a network for who reaches nobody."""
    return Network(LoopbackDialer(), None, is_used=False)


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
    # read in only here: a mount without Tor would be a tenth slower, and larger, for it
    from cbfs.network.tor.tor import running_tor  # noqa: PLC0415

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
