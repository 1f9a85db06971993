"""The one place where the client makes connections.

A ``Dialer`` reaches a server; everything that the client sends goes through one. Without Tor
only loopback addresses can be reached, and only when the user asked for it (``--no-tor``).
"""

import ipaddress
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import trio

from cbfs_common.errors import CbfsError
from cbfs_common.profile import host_and_port

DIAL_TIMEOUT = 20.0
"""Seconds for a connection within this machine."""

REUSE_TIME = 600.0
"""Seconds after which nothing new goes through a circuit: a delivery session ends then and is
replaced by another, and credentials take no further streams."""

REUSE_COUNT = 8
"""Streams that one pair of SOCKS credentials may carry in all, one beside the other."""

SOCKET_PATH_MAX: Final = 100
"""Bytes that a path of a socket may have (sun_path of unix(7) holds 107)."""

HOME = b"home:"
"""How isolations begin of connections to a home server as its owner, and of no others."""


class DialError(CbfsError):
    """A server that cannot be reached now. Trying again later is right."""


class NotAllowed(CbfsError):
    """An address that this client must not reach. Trying again will not help."""


class Dialer(Protocol):
    """The way to servers: whatever can make a connection to one."""

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        """A connection to ``host``:``port``. Two different ``isolation`` values never share a
        circuit. Raises DialError or NotAllowed."""


class LoopbackDialer:
    """Plain TCP to loopback addresses and nowhere else."""

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        """A plain TCP connection to a loopback address. There are no circuits here: ``isolation``
        has nothing to separate. Raises DialError or NotAllowed."""
        check_loopback(host)
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                return await trio.open_tcp_stream(host, port, happy_eyeballs_delay=None)
        except (OSError, trio.TooSlowError) as error:
            raise DialError(
                f"no connection to {host_and_port(host, port)}", "is the server running there?"
            ) from error


class OwnServerDialer:
    """Reaches a home server that runs beside the client as its owner does, at its unix socket.
    All else goes by ``rest``, also what is sent to oneself: it must look like any delivery."""

    def __init__(self, socket: str, host: Callable[[], str], rest: Dialer) -> None:
        """``socket``: the path of that server's unix socket. ``host`` gives where others find
        it."""
        self._socket = socket
        self._host = host
        self._rest = rest

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        """A connection to one's own server as its owner, when that is where it goes; else what the
        rest gives. Raises DialError or NotAllowed."""
        if host != self._host() or not isolation.startswith(HOME):
            return await self._rest.dial(host, port, isolation)
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                return await trio.open_unix_socket(self._socket)
        except (OSError, trio.TooSlowError) as error:
            raise DialError(
                "your own server is not running", "it starts when Tor is connected"
            ) from error


def check_loopback(host: str) -> None:
    """Raises NotAllowed for anything but a loopback address. Names are not resolved: a look-up
    would already tell the network who is being looked for."""
    try:
        allowed = ipaddress.ip_address(host).is_loopback
    except ValueError:
        allowed = host == "localhost"
    if not allowed:
        raise NotAllowed(
            f"{host} is not on this machine, and Tor is switched off",
            "leave out --no-tor: without Tor only loopback addresses can be reached",
        )


@contextmanager
def socket_path(directory: Path, name: str) -> Iterator[str]:
    """``name`` in ``directory``, or in a new directory (0700) under the system's temporary one
    where the path would be too long for a socket."""
    path = str(directory.absolute() / name)
    if _fits(path):
        yield path
        return
    room = f"cbfs-{'x' * 8}/{name}"
    places = (tempfile.gettempdir(), "/tmp")  # noqa: S108 - the folder in it is ours alone
    base = next((place for place in places if _fits(f"{place}/{room}")), None)
    with tempfile.TemporaryDirectory(prefix="cbfs-", dir=base) as short:
        yield f"{short}/{name}"


def _fits(path: str) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_MAX
