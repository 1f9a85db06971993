"""The settings of the message server: options of the command line, and keys of a file."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from cbfs_common.errors import DecodeError
from cbfs_common.limits import BLOB_DAYS_MAX, GRANT_INDEX_MAX, WORK_BITS_MAX
from cbfs_common.names.config import Registration
from cbfs_host import logs, metrics, onion
from cbfs_host.entry import add_version
from cbfs_host.listening import Place
from cbfs_host.lmdb_environment import MAP_SIZE
from cbfs_host.settings import (
    PATH,
    SWITCH,
    Given,
    Kind,
    ServerSetting,
    add_settings,
    given,
    number,
    place,
    several,
    size,
)
from cbfs_server.limits import (
    ACCOUNTS_MAX,
    BLOB_DAYS,
    BLOB_QUOTA,
    CONNECTIONS_MAX,
    FREE_MIN,
    INACTIVE_DAYS,
    INACTIVE_DAYS_MAX,
    MAILBOX_MAX,
    RETENTION_DAYS,
    STORE_LEAST,
    SUBSCRIPTIONS_MAX,
    USER_INVITES,
    Limits,
)
from cbfs_server.store.operations import Rule

PORT: Final = 1984
DEFAULT_LISTEN: Final = (Place("127.0.0.1", PORT),)

_EPILOG = """\
example:
  cbfs-server --data /var/lib/cbfs-server --listen 127.0.0.1:1984

The first line on stdout is the server's address, which clients need:
  cbfs://KEY@HOST:PORT
"""


def rule(text: str) -> Rule:
    """What a newcomer has to bring. Raises DecodeError."""
    word, colon, bits = text.partition(":")
    if word not in set(Registration) or not (word == Registration.WORK) == bool(colon) == bool(
        bits
    ):
        raise DecodeError("this is no rule", "it is open, invite or work:BITS")
    return Rule(Registration(word), number(1, WORK_BITS_MAX).read(bits) if bits else 0)


def database(text: str) -> str:
    """The URL of a database. Raises DecodeError."""
    if not text.startswith(("postgresql://", "postgres://")):
        raise DecodeError("this is no database", "it is postgresql://USER@HOST:PORT/DATABASE")
    return text


OPTIONS: Final = (
    ServerSetting("data", PATH, "key and store", "DIR"),
    ServerSetting(
        "store",
        Kind(str, "postgresql://... in quotes", database),
        "the database that keeps the mail, in the place of --data; several servers with one key may"
        " share it",
        "URL",
    ),
    ServerSetting(
        "store-logs",
        SWITCH,
        "your word that the database may log what people do, and when",
        default=False,
    ),
    ServerSetting(
        "listen",
        several(place(PORT)),
        "where to accept connections, port 0 for any; may be repeated (default: 127.0.0.1:1984)",
        "HOST:PORT",
    ),
    ServerSetting(
        "public",
        place(PORT),
        "how clients reach it, when that is not what it listens on (say, an .onion)",
        "HOST:PORT",
    ),
    ServerSetting(
        "own",
        PATH,
        "let nobody make an account but who connects at this unix socket, and end when standard"
        " input does: how a mount runs a server of its own",
        "SOCKET",
    ),
    ServerSetting(
        "registration",
        Kind(str, "open, invite or work:BITS, in quotes", rule),
        "who may make an account: open, invite, or work:BITS for a proof of work, which many"
        " newcomers make dearer, with open as well (default: open)",
        "RULE",
    ),
    ServerSetting(
        "names",
        PATH,
        "the data of cbfs-names on this machine, to which those are invited as well whom accounts"
        " invite (user-invites)",
        "DIR",
    ),
    *logs.SETTINGS,
    *onion.SETTINGS,
    *metrics.SETTINGS,
)

LIMITS: Final = (
    ServerSetting(
        "mailbox",
        number(1, 2**31 - 1),
        "envelopes of 16 KiB kept for one account",
        "N",
        MAILBOX_MAX,
        live=True,
    ),
    ServerSetting(
        "accounts", number(0, 10**9), "accounts that may be made", "N", ACCOUNTS_MAX, live=True
    ),
    ServerSetting(
        "user-invites",
        number(0, GRANT_INDEX_MAX),
        "people whom each account that has a grant may invite in a week; 0 for none",
        "N",
        USER_INVITES,
        live=True,
    ),
    ServerSetting(
        "retention-days",
        number(1, 36_500),
        "days for which mail is kept that nobody fetches",
        "N",
        RETENTION_DAYS,
        live=True,
    ),
    ServerSetting(
        "inactive",
        number(1, INACTIVE_DAYS_MAX),
        "days after which accounts end that nobody uses",
        "DAYS",
        INACTIVE_DAYS,
        live=True,
    ),
    ServerSetting(
        "blob-quota",
        size(0, MAP_SIZE),
        f"large files kept for one account, in all; 0M for none (default: {BLOB_QUOTA >> 30}G)",
        "SIZE",
        live=True,
    ),
    ServerSetting(
        "blob-days",
        number(1, BLOB_DAYS_MAX),
        "days for which a large file is kept at most",
        "DAYS",
        BLOB_DAYS,
        live=True,
    ),
    ServerSetting(
        "store-max",
        size(STORE_LEAST, MAP_SIZE),
        "how large the store may become, say 20G (default: what the disk has)",
        "SIZE",
        live=True,
    ),
    ServerSetting(
        "disk-free",
        size(0, MAP_SIZE),
        f"disk that is left to other programs (default: {FREE_MIN >> 20}M)",
        "SIZE",
        live=True,
    ),
    ServerSetting(
        "connections", number(16, 10**6), "connections at once", "N", CONNECTIONS_MAX, live=True
    ),
    ServerSetting(
        "subscriptions",
        number(1, 1_024),
        "connections of one account that get its mail as it comes",
        "N",
        SUBSCRIPTIONS_MAX,
        live=True,
    ),
)

SETTINGS: Final = OPTIONS + LIMITS


@dataclass(frozen=True, slots=True)
class Options:
    """The values of OPTIONS, and what only the command line says."""

    data: Path
    store: str | None
    store_logs: bool
    listen: tuple[Place, ...] | None
    public: Place | None
    own: Path | None
    log: Path | None
    log_format: str
    verbose: bool
    onion: bool
    onion_clients: Path | None
    tor_control: str
    metrics: Place | Path | None
    metrics_for_all: bool
    restored: bool
    registration: Rule | None
    names: Path | None


def command_line() -> argparse.ArgumentParser:
    """What the command line of a server that is to run may say."""
    parser = argparse.ArgumentParser(
        prog="cbfs-server",
        description="Keeps prekeys and sealed envelopes for the accounts of cbfs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    add_settings(parser, SETTINGS)
    parser.add_argument(
        "--restored",
        action="store_true",
        help="your word that the store is of an old snapshot of the disk, which it cannot see:"
        " give none of its one-time prekeys out again; for one start",
    )
    return parser


def parse(arguments: list[str] | None) -> tuple[Given, dict[str, Any]]:
    """What is said on the command line, and the values of all settings, by field. Exits with 2 for
    wrong usage; raises HostError for a wrong file."""
    parser = command_line()
    found = parser.parse_args(arguments)
    said = given(found, SETTINGS)
    values = said.values() | {"restored": found.restored}
    if values["data"] is None:
        parser.error("--data is needed: where the key and the store are")
    return said, values


def options_of(values: Mapping[str, Any]) -> Options:
    """The options among the values of all settings."""
    return Options(**{each.name: values[each.name] for each in fields(Options)})


def limits_of(values: Mapping[str, Any]) -> Limits:
    """The limits among the values of all settings."""
    said = {each.name: values[each.name] for each in fields(Limits)}
    return Limits(**{name: value for name, value in said.items() if value is not None})
