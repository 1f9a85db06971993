"""Rows of the views at size: searches, unread/ and a transcript, beside grep -r over a plain
directory of the same messages."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.messages import conversations, history, search_index
from cbfs.messages.history import Arrival
from cbfs.storage.store import Series, Writer
from tests.bench.at_size import STARTED, make_account, text_of
from tests.bench.server import on_disk
from tests.bench.table import Row, faster
from tests.support.fake_backend import put_content
from tests.support.mounted import Mounted
from tests.support.stores import open_store

UPKEEP = 256
"""Messages whose cost is measured, in one transaction: not the disk's flush is asked for."""


def views(quick: bool) -> Iterator[Row]:
    """100,000 messages in 1,000 conversations; those that were received are unread."""
    conversations, messages = (10, 1_000) if quick else (1_000, 100_000)
    with on_disk() as place:
        mount = Mounted(place)
        make_account(mount.account, conversations, messages)
        plain = place / "plain"
        for number in range(messages):
            folder = plain / str(number % conversations)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:08d}").write_bytes(text_of(number))
        upkeep, whole = _upkeep(mount.account)
        mount.mount()
        try:
            yield from _looks(mount.path, plain, messages)
        finally:
            mount.close()
    yield faster("index upkeep of a message", upkeep, "the rest of storing it", whole - upkeep)


def _looks(mount: Path, plain: Path, messages: int) -> Iterator[Row]:
    word, peer = f"{messages // 2:08d}", "grep -r over plain files"
    grep = _timed("grep", "-r", word, plain)
    for what, folder in (
        ("a search that finds one of all", f"search/{word}"),
        ("the same search again", f"search/{word}"),
        ("a search that finds all of a sender", "search/station from:person000001"),
        ("ls -f of unread/, half of all", "unread"),
        ("ls of by-date/, first", "by-date"),
    ):
        yield faster(what, _timed("ls", "-f", mount / folder), peer, grep)
    same = sorted(plain.iterdir())[0]
    transcript = sorted((mount / "conversations").iterdir())[0] / "transcript"
    cat = _timed("sh", "-c", f"cat '{same}'/*")
    yield faster("cat of a transcript", _timed("cat", transcript), "cat of its plain files", cat)


class _RollBackError(Exception):
    """Leaves the account as it was."""


def _upkeep(account: Path) -> tuple[float, float]:
    """Seconds of one message: of the index, and of all that storing it takes."""
    store = open_store(account)
    times: list[float] = []

    def change(writer: Writer) -> None:
        conversation = next(iter(conversations.load_conversations(writer)))
        added = []
        began = time.perf_counter()
        for number in range(UPKEEP):
            arrival = Arrival(
                SYSTEM_RANDOM.token(32),
                "bob",
                STARTED + number,
                (),
                "",
                writer.next_number(Series.INODE),
                put_content(writer, text_of(number)),
                (),
            )
            added.append(history.add_message(writer, conversation, arrival, STARTED + number))
        times.append(time.perf_counter() - began)
        later = [replace(message, serial=message.serial + UPKEEP) for message in added]
        began = time.perf_counter()
        for number, message in enumerate(later):
            search_index.add(writer, message, text_of(number), unread=True)
        times.append(time.perf_counter() - began)
        raise _RollBackError

    try:
        store.write(change)
    except _RollBackError:
        whole, upkeep = times
    finally:
        store.close()
    return upkeep / UPKEEP, whole / UPKEEP


def _timed(*command: str | Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
