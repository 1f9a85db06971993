"""The directory of ``cbfs host``, and its one file of settings.

host.toml      what this file reads, written at the first start
server/        data of cbfs-server: its key, its onion's, its store
names/         data of cbfs-names: the same, and the policy
tor/           of a tor that the host has started
address        of the message server, as clients have it
control        where the host's tor is, while it runs
lock           held while it runs
"""

import socket
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tomli_w

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.profile import Address, host_and_port, parse_address
from cbfs_host.files import write_file
from cbfs_host.listening import parse_place

SETTINGS: Final = "host.toml"
SERVER: Final = "server"
NAMES: Final = "names"
ADDRESS: Final = "address"
CONTROL: Final = "control"

FILE_MAX: Final = 65_536
"""Bytes of each of these files."""

SHORT: Final = 3
"""Letters of the shortest name that an invite without a name is good for: among friends all are
short."""

_HEAD: Final = """\
# Settings of cbfs host. It reads them again at SIGHUP: limits and logs count at once, the rest when
# it is started again, as it says then.
# [server] has those of cbfs-server(8), [names] those of cbfs-names(8).
# user-invites: how many others each of those who have come by a line may invite in a week.

"""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """``tor``: the servers are onion services. ``server`` and ``names``: the settings of each, as
    its own file has them."""

    tor: bool
    server: dict[str, Any]
    names: dict[str, Any]


def first_settings(*, tor: bool, listen: str | None) -> HostSettings:
    """The settings of a new host, where only who is invited gets an account. ``listen``:
    HOST:PORT of the message server, the directory has the next port; with port 0, two that are free
    are taken. Raises CbfsError."""
    both: dict[str, Any] = {"registration": "invite"}
    mail = {**both, "user-invites": 0}
    if tor:
        loopback = {"listen": ["127.0.0.1:0"], "onion": True}
        return HostSettings(tor, {**mail, **loopback}, {**both, "short": SHORT, **loopback})
    place = parse_place(listen or "127.0.0.1:0", 0)
    first, second = (place.port, place.port + 1) if place.port else _free_ports(place.host)
    server, names = ([host_and_port(place.host, port)] for port in (first, second))
    return HostSettings(tor, {**mail, "listen": server}, {**both, "short": SHORT, "listen": names})


def _free_ports(host: str) -> tuple[int, int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as one, socket.socket(family) as other:
            one.bind((host, 0))
            other.bind((host, 0))
            return one.getsockname()[1], other.getsockname()[1]
    except OSError as error:
        raise CbfsError(
            f"cannot listen at {host}: {error.strerror}", "give an address of this machine"
        ) from error


def write_settings(place: Path, settings: HostSettings) -> None:
    """Keep the settings of a new host; they are on the disk on return. Raises OSError."""
    values = {"tor": settings.tor, SERVER: settings.server, NAMES: settings.names}
    write_file(place / SETTINGS, (_HEAD + tomli_w.dumps(values)).encode())


def read_settings(place: Path) -> HostSettings | None:
    """The settings in a directory; None for a new one. Raises CbfsError."""
    path = place / SETTINGS
    if not path.exists():
        return None
    try:
        found = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise CbfsError(f"{path} is no TOML: {error}", "put it right, and start again") from error
    match found:
        case {"tor": bool(tor), "server": dict(server), "names": dict(names), **rest} if not rest:
            return HostSettings(tor, server, names)
    raise CbfsError(
        f"{path} is not the settings of a host",
        "it has tor = true or false, and the tables [server] and [names]",
    )


def read_text(path: Path) -> str:
    """A small file of a host. Raises CbfsError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX + 1)
        if len(data) > FILE_MAX:
            raise DecodeError("it is too long")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError, DecodeError) as error:
        raise CbfsError(f"cannot read {path}", "is it the directory of a cbfs host?") from error


def address_of(place: Path) -> Address:
    """Where clients reach the message server of a host. Raises CbfsError."""
    if not (place / ADDRESS).exists():
        raise CbfsError(
            f"the host in {place} has not run yet", f"start it first: cbfs host {place}"
        )
    return parse_address(read_text(place / ADDRESS))
