"""Whether a server is an onion service: what its operator sets, its key, and its only clients.

``cbfs_host.onion_service`` publishes it; it is read in only by a server that is one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.onion import ServiceKey, decode_service_key, make_service_key, parse_clients
from cbfs_host.files import write_file
from cbfs_host.settings import PATH, SWITCH, TEXT, ServerSetting

SYSTEM_TOR: Final = "/run/tor/control"
"""Control socket of Debian's tor. Other places must be named: whoever listens there is given the
key of the service."""

FILE_MAX: Final = 65_536
"""Bytes of a key file or a file of clients."""

_ADDRESS: Final = re.compile(r".*/.*|[0-9]{1,3}(\.[0-9]{1,3}){3}:[0-9]{1,5}", re.DOTALL)


class OnionError(CbfsError):
    """The onion service cannot be published now."""


@dataclass(frozen=True, slots=True)
class Onion:
    """An onion service that is to be published, and by which tor."""

    key: ServiceKey
    clients: tuple[str, ...] = ()
    """Public keys (base32) of the only clients that it admits; empty: everybody."""
    control: str = SYSTEM_TOR
    """Path of tor's control socket, or IP:PORT of its control port."""


SETTINGS: Final = (
    ServerSetting(
        "onion",
        SWITCH,
        "publish the server as an onion service, with its key in the data directory",
        default=False,
    ),
    ServerSetting(
        "onion-clients",
        PATH,
        "admit only the clients of FILE, one a line: NAME descriptor:x25519:KEY",
        "FILE",
    ),
    ServerSetting(
        "tor-control",
        TEXT,
        "tor's control socket, or its control port as IP:PORT",
        "ADDRESS",
        SYSTEM_TOR,
    ),
)
"""What an operator sets of an onion service."""


class OnionOptions(Protocol):
    """The values of SETTINGS."""

    @property
    def onion(self) -> bool:
        """Publish one."""

    @property
    def onion_clients(self) -> Path | None:
        """The file of its only clients."""

    @property
    def tor_control(self) -> str:
        """Where tor is."""


def chosen(arguments: OnionOptions, data: Path, token: Callable[[int], bytes]) -> Onion | None:
    """The onion service that was asked for, with its key in ``data``; None when none was. Raises
    OnionError."""
    if not arguments.onion:
        if arguments.onion_clients is not None:
            raise OnionError("--onion-clients without --onion", "clients are admitted by onions")
        return None
    if not _ADDRESS.fullmatch(arguments.tor_control):
        raise OnionError(
            f"{arguments.tor_control} is no control port", "give a path, or 127.0.0.1:9051"
        )
    clients = load_clients(arguments.onion_clients) if arguments.onion_clients else ()
    return Onion(load_key(data / "onion_key", token), clients, arguments.tor_control)


def load_key(path: Path, token: Callable[[int], bytes]) -> ServiceKey:
    """The key in the file, which is made (0600) of ``token(32)``, random bytes, when it is not
    there. Raises OnionError.

    The file is complete or not there, whenever the machine stops; only then is the key used.
    """
    try:
        if not path.exists():
            write_file(path, make_service_key(token).encode().encode("ascii"))
        return decode_service_key(_read(path))
    except OSError as error:
        raise OnionError(f"cannot use {path}: {error.strerror}") from error
    except DecodeError as error:
        raise OnionError(f"{path}: {error}", error.hint) from error


def load_clients(path: Path) -> tuple[str, ...]:
    """The clients that a file admits. Raises OnionError."""
    try:
        return parse_clients(_read(path))
    except OSError as error:
        raise OnionError(f"cannot read {path}: {error.strerror}") from error
    except DecodeError as error:
        raise OnionError(f"{path}: {error}", error.hint) from error


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(FILE_MAX).decode("utf-8", "replace")
