"""The configuration of a tor of one's own: torrc lines, bridges and their programs."""

import base64
import binascii
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbfs_common.errors import CbfsError

FILE_MAX: Final = 65_536
"""Bytes that a file of bridges, of torrc lines or of a key may have."""

TRANSPORTS: Final = {
    "obfs4": ("lyrebird", "obfs4proxy"),
    "meek_lite": ("lyrebird", "obfs4proxy"),
    "webtunnel": ("lyrebird", "webtunnel-client"),
    "snowflake": ("snowflake-client", "lyrebird"),
}
"""Programs that speak each pluggable transport, the best first."""

_AUTH_LINE: Final = re.compile(r"([a-z2-7]{56}):descriptor:x25519:([A-Z2-7]{52})", re.IGNORECASE)


class TorConfigError(CbfsError):
    """A file of the user's that holds no configuration for tor."""


@dataclass(frozen=True, slots=True)
class TorOptions:
    """What the user decides about tor."""

    control: str = ""
    """Control socket (a path) or port (``HOST:PORT``) of the running tor to use, or ``own`` for
    one of our own. Empty: a running tor where there usually is one, else our own."""
    bridges: Path | None = None
    """File of bridge lines; makes it our own."""
    torrc: Path | None = None
    """File of further torrc lines; makes it our own."""
    program: str = "tor"

    @property
    def own(self) -> bool:
        """Whether no other tor than our own will do."""
        return self.control == "own" or self.bridges is not None or self.torrc is not None


@dataclass(frozen=True, slots=True)
class ClientKey:
    """The key that a private onion service knows this client by."""

    service: str
    """56 characters."""
    key: str
    """X25519 secret, base64."""


def check_options(options: TorOptions) -> None:
    """Raises TorConfigError for options that contradict each other or have no meaning."""
    if options.control not in ("", "own"):
        if options.bridges is not None or options.torrc is not None:
            raise TorConfigError(
                "bridges and torrc lines are for a tor that cbfs starts, not for a running one",
                "leave out one of the two",
            )
        if "/" not in options.control and not re.fullmatch(
            r"\d{1,3}(\.\d{1,3}){3}:\d{1,5}", options.control
        ):
            raise TorConfigError(
                f"{options.control} is not a control port",
                "give a path, or IP:PORT as 127.0.0.1:9051",
            )


def own_lines(options: TorOptions, directory: Path, socket: str) -> tuple[str, ...]:
    """The torrc of our own tor with its data under ``directory`` and its control socket at
    ``socket``. Raises TorConfigError."""
    lines = [
        f"DataDirectory {_quoted(f'{directory}/data')}",
        f"ControlSocket {_quoted(socket)}",
        "CookieAuthentication 1",
        "SocksPort auto ExtendedErrors",
        "ClientOnly 1",
        "AvoidDiskWrites 1",
        "DormantCanceledByStartup 1",
        "ShutdownWaitLength 0",
    ]
    if options.torrc is not None:
        lines += _read_lines(options.torrc)
    if options.bridges is not None:
        lines += bridge_lines(_read_lines(options.bridges), options.bridges.name)
    return tuple(lines)


def _quoted(value: str) -> str:
    """A value for a torrc line, whatever characters are in it. tor(1), The configuration file."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def bridge_lines(bridges: list[str], source: str) -> list[str]:
    """torrc lines for the bridges of a file, which may begin with ``Bridge`` or not, and for the
    programs of their transports. Raises TorConfigError."""
    bare = [line.removeprefix("Bridge ").strip() for line in bridges]
    if not bare:
        raise TorConfigError(
            f"{source} has no bridge in it", "get bridges from https://bridges.torproject.org"
        )
    named = sorted({line.split()[0] for line in bare if not re.match(r"[\[\d]", line)})
    plugins = [f"ClientTransportPlugin {name} exec {_program(name)}" for name in named]
    return ["UseBridges 1", *plugins, *(f"Bridge {line}" for line in bare)]


def _program(transport: str) -> str:
    programs = TRANSPORTS.get(transport)
    if programs is None:
        raise TorConfigError(
            f"{transport} is a kind of bridge that cbfs does not know",
            f"it knows addresses and {', '.join(sorted(TRANSPORTS))}",
        )
    for program in programs:
        found = shutil.which(program)
        if found is not None:
            return found
    raise TorConfigError(
        f"bridges of the kind {transport} need the program {programs[0]}",
        f"install it: apt-get install {' or '.join(programs)}",
    )


def _read_lines(path: Path) -> list[str]:
    """The lines of a file that say something."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def read_text(path: Path) -> str:
    """A small text file of the user's. Raises TorConfigError."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_MAX + 1)
        if len(raw) > FILE_MAX:
            raise TorConfigError(f"{path} is too long", f"it may have {FILE_MAX} bytes")
        text = raw.decode("utf-8")
    except OSError as error:
        raise TorConfigError(
            f"cannot read {path}: {error.strerror}", "is the path right?"
        ) from error
    except UnicodeDecodeError as error:
        raise TorConfigError(
            f"{path} is not a text file", "it should hold lines of text"
        ) from error
    if any(not (character.isprintable() or character in "\t\r\n") for character in text):
        raise TorConfigError(f"{path} is not a text file", "it should hold lines of text")
    return text


def client_keys(directory: Path) -> list[ClientKey]:
    """The keys for private servers: files ``NAME.auth_private`` in ``directory``, in the format of
    tor(1), ClientOnionAuthDir. A directory that is not there holds none. Raises TorConfigError."""
    keys = []
    for path in sorted(directory.glob("*.auth_private")):
        found = _AUTH_LINE.fullmatch(read_text(path).strip())
        if found is None:
            raise TorConfigError(
                f"{path} holds no key for a private server",
                "its one line is ONION:descriptor:x25519:KEY, as the operator gave it",
            )
        try:
            secret = base64.b32decode(found[2].upper() + "====")
        except binascii.Error:
            raise TorConfigError(
                f"{path} holds no valid key", "copy it again from where it came from"
            ) from None
        keys.append(ClientKey(found[1].lower(), base64.b64encode(secret).decode().rstrip("=")))
    return keys
