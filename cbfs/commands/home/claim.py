"""``cbfs claim``: of several copies of an account, this one goes on."""

import argparse
import sys
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store
from cbfs.account.claim import Marker
from cbfs.account.leaving import forget_leaving
from cbfs.account.passphrase import unlocking
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.commands.account import add_old_passphrase
from cbfs.commands.options import add_account
from cbfs.context import milliseconds
from cbfs.receiving.copies import begin_anew
from cbfs.storage.store import Writer
from cbfs_common.errors import CbfsError

_DONE = """This copy of the account goes on when you mount it, with fresh sessions with everybody.
The other copy stops when it connects the next time, within the hour if it is mounted.
From then on it neither sends nor fetches anything. What was written or fetched there is
there only: copy it out if you need it, then remove that directory.
"""


def add_claim(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs claim`` takes."""
    parser.description = (
        "Says that the account goes on here, and not in another copy of its directory."
        " Unmount it first."
    )
    add_account(parser)
    add_old_passphrase(parser)
    parser.set_defaults(run=_claim)


def _claim(options: argparse.Namespace) -> int:
    place: Path = options.account.absolute()
    unlock = unlocking(PassphraseSource(options.account_passphrase_fd).once)
    with opened_store(place, SYSTEM_RANDOM, unlock, has_moved=True) as store:
        account = load_account(store)
        if account is None:
            raise CbfsError(
                f"the account in {place} is not finished", "run the same cbfs init again"
            )
        marker = Marker(account.transport, SYSTEM_RANDOM)

        def change(writer: Writer) -> None:
            begin_anew(writer, marker, milliseconds())
            forget_leaving(writer)

        store.write(change)
    sys.stdout.write(_DONE)
    return 0
