"""``cbfs export --mbox``, ``--html`` and ``--jsonl``: history that can be read without cbfs. Unlike
an export of the account it is not sealed, has no keys in it, and cannot be restored.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM, load_account, reading_store
from cbfs.account.passphrase import asks_for_passphrase, unlocking
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.account.place import check_account
from cbfs.commands.mountpoints import account_of
from cbfs.commands.reading.html import HtmlPages
from cbfs.commands.reading.jsonl import FILES, Lines
from cbfs.commands.reading.mbox import Mbox
from cbfs.commands.reading.past import Past, PastMessage
from cbfs.commands.reading.places import new_file, new_folder
from cbfs.commands.reading.progress import shown_progress
from cbfs.messages.model import Conversation
from cbfs.storage.records import DamagedRecord
from cbfs_common.errors import CbfsError

MESSAGE_WORK = 4_096
"""Bytes of work that a message is, besides its content, for the bar."""


@dataclass(slots=True)
class Archived:
    """What was written: messages, and those of them whose files have not all come; and how many
    were damaged and are left out."""

    messages: int = 0
    unfinished: int = 0
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class OpenedPast:
    """An account to read: whose it is (a true name), and its history."""

    me: str
    past: Past


def add_archives(parser: argparse.ArgumentParser) -> None:
    """Add ``--mbox``, ``--html`` and ``--jsonl`` to a command."""
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--mbox", type=Path, metavar="FILE", help="all messages as mails, not encrypted"
    )
    kinds.add_argument(
        "--html", type=Path, metavar="DIR", help="pages for a browser, not encrypted"
    )
    kinds.add_argument(
        "--jsonl",
        type=Path,
        metavar="FILE",
        help=f"a line of JSON for each message, and files in FILE{FILES}, not encrypted",
    )


def is_archive(options: argparse.Namespace) -> bool:
    """Whether one of them was given."""
    return any(each is not None for each in (options.mbox, options.html, options.jsonl))


def archive(options: argparse.Namespace) -> int:
    """Write what the options ask for; the exit code. Raises CbfsError."""
    source = PassphraseSource(options.account_passphrase_fd)
    with opened_past(account_of(options.place), source) as known:
        if options.mbox is not None:
            where, done = options.mbox, write_mbox(known, options.mbox)
        elif options.html is not None:
            where, done = options.html / "index.html", write_html(known, options.html)
        else:
            where, done = options.jsonl, write_jsonl(known, options.jsonl)
    many = "1 message" if done.messages == 1 else f"{done.messages:,} messages"
    print(f"{where}: {many}; not encrypted, and nothing in it is deleted when its time is over")
    if done.unfinished:
        print(
            f"cbfs: {done.unfinished:,} files had not all come, and are named only", file=sys.stderr
        )
    if done.damaged:
        print(f"cbfs: {done.damaged:,} messages were damaged and are left out", file=sys.stderr)
    return 0


@contextmanager
def opened_past(account: Path, source: PassphraseSource) -> Iterator[OpenedPast]:
    """The history of an account, mounted or not, as it is now. Raises CbfsError."""
    check_account(account)
    own = source.once() if asks_for_passphrase(account) else b""
    with reading_store(account, SYSTEM_RANDOM, unlocking(lambda: own)) as store:
        loaded = load_account(store)
        if loaded is None:
            raise CbfsError(f"there is no finished account in {account}", "cbfs init makes one")
        with store.read() as reader:
            yield OpenedPast(loaded.name, Past(reader, int(time.time() * 1_000)))


def write_mbox(known: OpenedPast, path: Path) -> Archived:
    """Write all messages into a new file, as mails. Raises CbfsError."""
    with new_file(path) as file:
        return _all(known.past, Mbox(known.past, file).add)


def write_html(known: OpenedPast, path: Path) -> Archived:
    """Write all messages into a new folder, as pages. Raises CbfsError."""
    with new_folder(path) as folder:
        pages = HtmlPages(known.past, known.me, folder)
        try:
            done = _all(known.past, pages.add, pages.begin)
            pages.end()
        finally:
            pages.close()
        return done


def write_jsonl(known: OpenedPast, path: Path) -> Archived:
    """Write all messages into a new file, as lines, and their files into a folder beside it; the
    file is in its place after the folder. Raises CbfsError."""
    beside = path.with_name(path.name + FILES)
    with new_file(path) as file, new_folder(beside) as folder:
        return _all(known.past, Lines(known.past, known.me, file, folder, beside.name).add)


def _all(
    past: Past,
    add: Callable[[PastMessage], None],
    begin: Callable[[Conversation], None] = lambda _place: None,
) -> Archived:
    """Hand over each message, in order."""
    done = Archived()
    places = past.conversations()
    amount = past.amount(places) if sys.stderr.isatty() else None
    whole = amount.size + amount.messages * MESSAGE_WORK if amount else 0
    with shown_progress("writing", whole) as progress:
        for place in places:
            begin(place)
            for told in past.messages(place):
                try:
                    add(told)
                except DamagedRecord:
                    past.damaged += 1
                    continue
                done.messages += 1
                done.unfinished += not told.whole
                progress.add(told.message.content.size + MESSAGE_WORK)
    done.damaged = past.damaged
    return done
