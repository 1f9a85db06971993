"""``cbfs messages``: messages as lines, for a person or, with ``--json``, for a script."""

import argparse
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cbfs.account.passphrase_source import PassphraseSource
from cbfs.account.place import default_account
from cbfs.commands.mountpoints import account_of
from cbfs.commands.reading.archive import opened_past
from cbfs.commands.reading.past import Past
from cbfs.commands.reading.record import as_line, record_of
from cbfs.messages.history import transcript_text
from cbfs.messages.model import Conversation
from cbfs_common.errors import CbfsError

_AGO = re.compile(r"(\d{1,6})([mhdw])\Z", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add_messages(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs messages`` takes."""
    parser.description = "Prints messages, in the order of each conversation; changes nothing."
    parser.add_argument(
        "place",
        type=Path,
        metavar="MOUNT",
        nargs="?",
        help="or an account directory; default: that of the default account",
    )
    parser.add_argument("--json", action="store_true", help="one object on a line for each message")
    parser.add_argument(
        "--conversation",
        metavar="NAME",
        help="only of this folder under conversations/, or of all with this person",
    )
    parser.add_argument(
        "--since",
        type=_moment,
        metavar="TIME",
        help="only from then on: 2026-11-23, 2026-11-23T14:46 (UTC), or 30m, 2h, 7d, 4w ago",
    )
    parser.add_argument("--unread", action="store_true", help="only what has not been read")
    parser.add_argument(
        "--account-passphrase-fd",
        type=int,
        metavar="N",
        help="read the passphrase that the account has from descriptor N",
    )
    parser.set_defaults(run=_messages)


def _messages(options: argparse.Namespace) -> int:
    place = default_account() if options.place is None else account_of(options.place)
    source = PassphraseSource(options.account_passphrase_fd)
    since = 0 if options.since is None else int(options.since.timestamp() * 1_000)
    with opened_past(place, source) as known:
        past = known.past
        for conversation in _meant(past, options.conversation):
            headed = False
            for told in past.messages(conversation, since=since, only_unread=options.unread):
                if options.json:
                    sys.stdout.write(as_line(record_of(past, told, known.me)))
                    continue
                if not headed:
                    sys.stdout.write(f"{conversation.folder}:\n")
                    headed = True
                sys.stdout.write(transcript_text(past.reader, told.message).decode())
    if past.damaged:
        print(f"cbfs: {past.damaged:,} messages were damaged and are left out", file=sys.stderr)
    return 0


def _meant(past: Past, name: str | None) -> list[Conversation]:
    """The conversations that are asked for. Raises CbfsError when there is none."""
    places = past.conversations()
    if name is None:
        return places
    by_name = [each for each in places if each.folder == name]
    found = by_name or [
        each
        for each in places
        if any(name in (past.label(who), past.shown(who)) for who in each.participants)
    ]
    if not found:
        raise CbfsError(
            f"there is no conversation {name!r}, nor one with somebody of that name",
            "name a folder under conversations/, or a person",
        )
    return found


def _moment(text: str) -> datetime:
    ago = _AGO.match(text)
    try:
        if ago is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: 2026-11-23, or 7d") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
