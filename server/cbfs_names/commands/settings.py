"""The settings of the directory: options of the command line, and keys of a file."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from cbfs_common.limits import NAME_MIN, SPOKEN_FOR_MAX
from cbfs_common.names.config import SHORT
from cbfs_host import logs, metrics, onion
from cbfs_host.entry import add_version
from cbfs_host.listening import Place
from cbfs_host.settings import (
    PATH,
    SWITCH,
    TEXT,
    Given,
    ServerSetting,
    add_settings,
    given,
    number,
    place,
    several,
)
from cbfs_names.limits import CONNECTIONS_MAX, PENDING_MAX, DirectoryLimits

DEFAULT_LISTEN: Final = (Place("127.0.0.1", 0),)

_EPILOG = """example:
  cbfs-names --data /var/lib/cbfs-names --listen 127.0.0.1:7701

Prints its address on the first line, and writes DATA/policy, the file that clients are given.
With --sequencer or --verifier it is one of several processes: see cbfs-names(8).
Besides: cbfs-names key, invite, configure, submit, audit, admin, each with --help.
"""

OPTIONS: Final = (
    ServerSetting("data", PATH, "keys, store and policy; made new", "DIR"),
    ServerSetting(
        "listen",
        several(place(0)),
        "where to accept connections, port 0 for any; may be repeated (default: 127.0.0.1:0)",
        "HOST:PORT",
    ),
    ServerSetting(
        "public",
        place(1),
        "how clients reach it, when that is not the address of --listen",
        "HOST:PORT",
    ),
    ServerSetting("sequencer", SWITCH, "order rounds; verifiers elsewhere", default=False),
    ServerSetting("verifier", SWITCH, "check and sign a sequencer's rounds", default=False),
    ServerSetting("config", PATH, "keys, groups, quorum, terms", "FILE"),
    ServerSetting(
        "first-config",
        PATH,
        "of the directory's first round, for a new store when FILE is another by now",
        "FILE",
    ),
    ServerSetting("sequencer-url", TEXT, "if FILE does not say it", "URL"),
    ServerSetting(
        "peer", several(TEXT), "another verifier, if FILE does not say it; may be repeated", "URL"
    ),
    ServerSetting(
        "registration",
        TEXT,
        "open (some work of a newcomer's computer), work:BITS (2^BITS hashes at least), or"
        " invite; kept until it is changed",
        "RULE",
    ),
    ServerSetting(
        "namespace",
        TEXT,
        "its name for itself in all that it signs, like example.org; for good, with the first"
        " start (default: from its key)",
        "NAME",
    ),
    ServerSetting(
        "short",
        number(NAME_MIN, SPOKEN_FOR_MAX),
        f"shorter names need an invite to that very name (default: {SHORT})",
        "LENGTH",
    ),
    *logs.SETTINGS,
    *onion.SETTINGS,
    *metrics.SETTINGS,
)

LIMITS: Final = (
    ServerSetting(
        "connections", number(16, 10**6), "connections at once", "N", CONNECTIONS_MAX, live=True
    ),
    ServerSetting(
        "pending",
        number(1, 10**6),
        "operations that wait for a round, of everybody",
        "N",
        PENDING_MAX,
        live=True,
    ),
)

SETTINGS: Final = OPTIONS + LIMITS


@dataclass(frozen=True, slots=True)
class DirectoryOptions:
    """The values of OPTIONS, and what only the command line says."""

    data: Path
    listen: tuple[Place, ...] | None
    public: Place | None
    sequencer: bool
    verifier: bool
    config: Path | None
    first_config: Path | None
    sequencer_url: str | None
    peer: tuple[str, ...] | None
    registration: str | None
    namespace: str | None
    short: int | None
    log: Path | None
    log_format: str
    verbose: bool
    onion: bool
    onion_clients: Path | None
    tor_control: str
    metrics: Place | Path | None
    metrics_for_all: bool
    store_is_current: bool
    clock_is_right: bool


def command_line() -> argparse.ArgumentParser:
    """What the command line of a directory that is to run may say."""
    parser = argparse.ArgumentParser(
        prog="cbfs-names",
        description="A name directory for cbfs: who has which name, provable to everybody.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    add_settings(parser, SETTINGS)
    parser.add_argument(
        "--store-is-current",
        action="store_true",
        help="your word that DIR is no old copy: nobody else has to say so",
    )
    parser.add_argument(
        "--clock-is-right",
        action="store_true",
        help="your word that this computer's clock is right, when the log says that it has jumped",
    )
    return parser


def parse(arguments: Sequence[str] | None) -> tuple[Given, dict[str, Any], DirectoryOptions]:
    """What is said on the command line, the values of all settings by field, and the options among
    them. Exits with 2 for wrong usage; raises HostError for a wrong file."""
    parser = command_line()
    found = parser.parse_args(arguments)
    said = given(found, SETTINGS)
    values = said.values()
    words = {
        "store_is_current": found.store_is_current,
        "clock_is_right": found.clock_is_right,
    }
    known = {
        each.name: values[each.name] for each in fields(DirectoryOptions) if each.name in values
    }
    options = DirectoryOptions(**known, **words)
    _check(parser, options)
    return said, values, options


def limits_of(values: Mapping[str, Any]) -> DirectoryLimits:
    """The limits among the values of all settings."""
    return DirectoryLimits(**{each.name: values[each.name] for each in fields(DirectoryLimits)})


def _check(parser: argparse.ArgumentParser, options: DirectoryOptions) -> None:
    """Exits with 2 when what was said does not go together."""
    if options.data is None:
        parser.error("--data is needed: where the keys and the store are")
    if options.sequencer and options.verifier:
        parser.error("--sequencer or --verifier, not both")
    if (options.sequencer or options.verifier) != (options.config is not None):
        parser.error("--config goes with --sequencer or --verifier")
    if options.first_config and options.config is None:
        parser.error("--first-config goes with --sequencer or --verifier")
    if options.config and (options.registration is not None or options.short is not None):
        parser.error("with --config, registration and short stand in FILE")
    if options.config and options.namespace is not None:
        parser.error("with --config, the namespace stands in FILE")
    if not options.verifier and (options.sequencer_url or options.peer):
        parser.error("--sequencer-url and --peer go with --verifier")
