"""Addresses to listen on, and what to do about one that cannot be had."""

import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbfs_common.errors import DecodeError
from cbfs_host.complaints import HostError

BACKLOG: Final = 4_096
"""Connections that wait to be accepted, or as many as the system allows (``somaxconn``): behind
them, a client's next attempt comes a second later."""

PORT_MAX: Final = 65_535

_PLACE: Final = re.compile(
    r"\[(?P<six>[^\]]*)\](?::(?P<port6>[0-9]{1,5}))?|(?P<host>[^:\[\]]+):(?P<port>[0-9]{1,5})"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Host and TCP port; port 0 is a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def everywhere(self) -> bool:
        """Whether it stands for all addresses of the machine, so that nobody can connect to it."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return self.host == "0"


def parse_place(text: str, port: int, least: int = 0) -> Place:
    """``HOST:PORT``, ``[IPV6]:PORT``, or an IPv6 address alone, with ``port``. Raises
    DecodeError."""
    match = _PLACE.fullmatch(text)
    try:
        host = match["host"] if match and match["host"] else _ipv6(match["six"] if match else text)
    except ValueError as error:
        raise DecodeError(
            f"{text!r} is not HOST:PORT", "for example 127.0.0.1:7701, or [::1]:7701"
        ) from error
    given = (match["port"] or match["port6"]) if match else None
    found = port if given is None else int(given)
    if not least <= found <= PORT_MAX:
        raise DecodeError(f"{found} is not a port", f"ports are {least} to {PORT_MAX}")
    return Place(host, found)


def _ipv6(text: str) -> str:
    address = ipaddress.IPv6Address(text)
    if address.scope_id is not None:
        raise ValueError
    return address.compressed


def listen(place: Place) -> socket.socket:
    """A non-blocking listening socket. Raises HostError."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        listener = socket.create_server((place.host, place.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise HostError(f"cannot listen on {place}: {_why(error)}", _cause(error, place)) from error
    listener.setblocking(False)
    return listener


def _why(error: OSError) -> str:
    """The reason alone: ``create_server`` adds words of its own."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else "no such host"


def _cause(error: OSError, place: Place) -> str:
    if (error.errno or 0) <= 0:  # of a look-up
        return "give an address of this machine"
    if error.errno in (errno.EACCES, errno.EPERM) and place.port < 1_024:
        return (
            "ports below 1024 take the capability CAP_NET_BIND_SERVICE (AmbientCapabilities= in a"
            " unit of systemd): choose a higher one with --listen HOST:PORT"
        )
    if error.errno == errno.EADDRINUSE:
        return (
            f"another program listens there (ss -ltnp 'sport = {place.port}' says which): end it,"
            " or choose another port with --listen HOST:PORT"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            "this machine has no such address (ip address lists those it has); IPv6 with a port is"
            " written [::1]:7701"
        )
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6: choose another address with --listen HOST:PORT"
    return "choose another with --listen HOST:PORT"


@contextmanager
def listen_all(
    passed: Sequence[socket.socket], places: Sequence[Place]
) -> Iterator[list[socket.socket]]:
    """The non-blocking listening sockets that systemd has ``passed``, and one at each of some
    places; closed after the block. Raises HostError."""
    with ExitStack() as stack:
        yield [stack.enter_context(each) for each in (*passed, *map(listen, places))]


def place_of(listeners: Sequence[socket.socket]) -> Place:
    """Where the first of listening sockets is that others can reach by TCP. Raises HostError."""
    for each in listeners:
        if each.family in (socket.AF_INET, socket.AF_INET6):
            host, port = each.getsockname()[:2]
            return Place(host, port)
    raise HostError("it listens on no address", "give one with --listen HOST:PORT")


def local(place: Place) -> Place:
    """Where this machine itself reaches what listens at ``place``."""
    if not place.everywhere:
        return place
    return Place("::1" if ":" in place.host else "127.0.0.1", place.port)


@contextmanager
def listen_locally(path: Path) -> Iterator[socket.socket]:
    """A listening unix socket (SOCK_STREAM, non-blocking), whose file is gone after the block. It
    takes the place of one at which nobody listens, and of nothing else. Raises HostError."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            _remove_left(path)
            listener.bind(str(path))
            listener.listen(BACKLOG)
        except OSError as error:
            raise HostError(
                f"cannot listen at {path}: {error.strerror or error}",
                "give another path, of a socket or of nothing",
            ) from error
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _remove_left(path: Path) -> None:
    """Remove the socket of a process that was killed. Raises OSError for anything else that is at
    the path."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        if client.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink()
