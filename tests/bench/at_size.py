"""Makes an account with very many messages, for benchmarks, tests and a look by hand.

``make_account(place)`` fills the store of a fake backend's account
(``tests.support.fake_backend``), so that ``tests.support.mounted.Mounted`` mounts it; nothing of it
has been through a server. As a program:

    .venv/bin/python -m tests.bench.at_size DIR [--conversations 1000] [--messages 100000]
    .venv/bin/python -m tests.support.fake_backend DIR MOUNTPOINT --no-tor

Making 100,000 messages takes about half a minute.
"""

import argparse
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.messages import history
from cbfs.messages.conversations import add_conversation
from cbfs.messages.history import Arrival
from cbfs.messages.model import Conversation
from cbfs.storage.store import Series, Store, Writer
from tests.support.fake_backend import NAME, put_content
from tests.support.stores import open_store

STARTED = 1_795_000_000_000
"""When the first conversation began, in ms; all else follows from the numbers alone."""

BATCH = 1_000
"""Messages in one transaction."""


def text_of(number: int) -> bytes:
    """What message ``number`` says: 46 to 1,000 bytes."""
    line = b"Message %08d: see you at the station at ten.\n" % number
    return line * (1 + number * 7 % 21)


def make_account(place: Path, conversations: int = 1_000, messages: int = 100_000) -> None:
    """An account directory that is filled."""
    place.mkdir(parents=True, exist_ok=True)
    store = open_store(place)
    fill(store, conversations, messages)
    store.close()


def fill(
    store: Store, conversations: int, messages: int, person: str = "person"
) -> list[Conversation]:
    """``messages`` spread evenly over ``conversations``, which it gives, with as many people, half
    of them one's own, each in every tenth with a file name."""
    known: list[Conversation] = []

    def start(writer: Writer) -> None:
        for number in range(conversations):
            people = tuple(sorted((NAME, f"{person}{number:06d}")))
            key = SYSTEM_RANDOM.token(16)
            begun = STARTED + number * 60_000
            known.append(add_conversation(writer, key, NAME, people, "", begun))

    def add(writer: Writer, first: int, last: int) -> None:
        for number in range(first, last):
            conversation = known[number % conversations]
            (other,) = (name for name in conversation.participants if name != NAME)
            own = number % 2 == 0
            moment = STARTED + 10**9 + number * 1_000
            arrival = Arrival(
                SYSTEM_RANDOM.token(32),
                NAME if own else other,
                moment,
                (),
                "" if number % 10 else "note.txt",
                writer.next_number(Series.INODE),
                put_content(writer, text_of(number)),
                (other,) if own else (),
            )
            history.add_message(writer, conversation.id, arrival, moment)

    store.write(start)
    for first in range(0, messages, BATCH):
        last = min(first + BATCH, messages)
        store.write(lambda writer, first=first, last=last: add(writer, first, last))  # type: ignore[misc]
    return known


def main() -> None:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.at_size", description=__doc__)
    parser.add_argument("place", type=Path, metavar="DIR")
    parser.add_argument("--conversations", type=int, default=1_000)
    parser.add_argument("--messages", type=int, default=100_000)
    options = parser.parse_args()
    make_account(options.place, options.conversations, options.messages)


if __name__ == "__main__":
    main()
