"""The command ``admin`` of both servers: it asks a server that runs, by the socket in its data
directory, and prints what that answers."""

import argparse
import json
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cbfs_common.errors import DecodeError
from cbfs_host.admin import (
    ANSWER_MAX,
    FOLDER,
    NIL,
    SOCKET,
    Asked,
    Lines,
    Value,
    decode_answer,
    reachable,
)
from cbfs_host.complaints import HostError, printable

PATIENCE: Final = 60.0
"""Seconds without a sign of life of the server."""

READ_SIZE: Final = 65_536

Subcommands = Any
"""What ``ArgumentParser.add_subparsers`` gives, whose class argparse does not export."""


def ask(place: Path, asked: Asked, file: int | None = None) -> Lines:
    """What the server answers whose data directory, or socket, is at ``place``; ``file``: a
    descriptor that it gets as well. Raises HostError, DecodeError."""
    path = place / FOLDER / SOCKET if place.is_dir() else place
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        try:
            with reachable(path) as name:
                client.connect(name)
            _send(client, asked.encode(), file)
            return decode_answer(_received(client))
        except TimeoutError as error:
            raise HostError("the server does not answer", "look at its log") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise HostError(f"no server runs at {place}", "start it first") from error
        except PermissionError as error:
            raise HostError(
                f"{path} cannot be reached by this user", "run this as the user of the server"
            ) from error
        except OSError as error:
            raise HostError(f"{path}: {error.strerror or error}", "look at the log") from error


def _send(client: socket.socket, data: bytes, file: int | None) -> None:
    """A server that answers before it has read all has something to say."""
    with suppress(BrokenPipeError):
        if file is not None:
            data = data[socket.send_fds(client, [data], [file]) :]
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)


def _received(client: socket.socket) -> bytes:
    data = b""
    while part := client.recv(READ_SIZE):
        data = (data + part).lstrip(NIL) if not data else data + part
        if len(data) > ANSWER_MAX:
            raise DecodeError("not an answer of a server", "is it of another version?")
    if not data:
        raise HostError("the server has ended before it answered", "look at its log")
    return data


def show(lines: Lines, *, as_json: bool) -> None:
    """Print an answer."""
    if as_json:
        made = {name: dict(value) if type(value) is tuple else value for name, value in lines}
        sys.stdout.write(json.dumps(made, indent=2) + "\n")
        return
    for name, value in lines:
        sys.stdout.write(f"{name.replace('_', ' ')}: {in_words(value)}\n")


def in_words(value: Value) -> str:
    """A value as people read it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case tuple():
            return ", ".join(f"{name} {count:,}" for name, count in value) or "none"
    return "none" if value is None else printable(value)


# The command line


def add_status(commands: Subcommands) -> None:
    """Add the command that shows the figures of a server."""
    parser = commands.add_parser("status", help="show the figures of the server")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=lambda got: show(ask(got.place, Asked("status")), as_json=got.json))


def administer(program: str, given: list[str], *adding: Callable[[Subcommands], None]) -> None:
    """Run ``PROGRAM admin PLACE COMMAND ...`` with the commands that ``adding`` adds. Exits with 2
    for wrong usage. Raises CbfsError."""
    parser = argparse.ArgumentParser(
        prog=f"{program} admin", description=f"Ask a {program} that runs, or have it do something."
    )
    parser.add_argument(
        "place", metavar="DIR|SOCKET", type=Path, help="its data directory, or its socket"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in adding:
        add(commands)
    got = parser.parse_args(given)
    got.run(got)
