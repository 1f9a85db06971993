"""``cbfs status``: how a mount is doing, by the file that everybody can read."""

import argparse
import os
import sys
from pathlib import Path

from cbfs.account.place import ACCOUNT_ATTRIBUTE, UNREADABLE, unreadable, waiting
from cbfs.commands.mountpoints import is_in_a_mount, no_mount


def add_status(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs status`` takes."""
    parser.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")
    parser.add_argument("--json", action="store_true", help="one object, for scripts")
    parser.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> int:
    place = options.mountpoint
    if not is_in_a_mount(place):
        raise no_mount(place, None)
    try:
        text = (place / "status").read_text(encoding="utf-8")
    except OSError as error:
        raise no_mount(place, error) from error
    account = _account_of(place)
    if options.json:
        sys.stdout.write(_as_json(text, account))
    else:
        sys.stdout.write(text + (spool_text(account) if account else ""))
    return 0


def _account_of(mountpoint: Path) -> Path | None:
    """None of another user's, whose account we do not see."""
    try:
        return Path(os.fsdecode(os.getxattr(mountpoint, ACCOUNT_ATTRIBUTE)))
    except OSError:
        return None


def _as_json(text: str, account: Path | None) -> str:
    from cbfs.commands.reading import status_record  # noqa: PLC0415 - too much for whom words do

    return status_record.as_json(text, account)


def spool_text(account: Path) -> str:
    """What is to be told of the spool of an account that is mounted, as lines; empty for nothing,
    which is the rule."""
    waits, lost = waiting(account), unreadable(account)
    text = ""
    if waits:
        text += (
            f"messages of cbfs sendmail that wait for the next mount, as its log says: {waits}\n"
        )
    if lost:
        text += (
            f"messages in the spool that could not be read: {lost} (remove them:"
            f" spool/*{UNREADABLE} in the account directory)\n"
        )
    return text
