"""Makes a name directory with very many names, for benchmarks and a look by hand.

``make_directory(place)`` fills the data directory of ``cbfs-names`` through the directory's own
sequencer and verifier: every name is committed to and registered under a key of its own, every
operation is signed, replayed twice and checked, and every round is cosigned. Only the clock is
made up: as no more commitments may be in force at a time than COMMITS_MAX, a million names take
ten days of it, which end now. As a program:

    .venv/bin/python -m tests.bench.names_at_size DIR [--names 1000000]
    cbfs-names --data DIR

What was cut off is taken up where it was. A second process signs ahead.
"""

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from cbfs_common.limits import COMMIT_PACE, COMMITS_EASY, ROUND_COMMITS_MAX
from cbfs_common.names.config import Registration, Terms
from cbfs_common.names.entry import Keys
from cbfs_common.names.layout import ZERO
from cbfs_common.names.operations import Operation, OperationKind, commitment, registration_salt
from cbfs_common.names.registration import worked
from cbfs_common.person import Person
from cbfs_common.primitives import Random, kem_encapsulate, sign_public
from cbfs_host.files import opened_data
from cbfs_names.processes.single import Embedded
from cbfs_names.state.keys import VERIFIER, load_keys
from cbfs_names.state.store import StateStore

BATCH = ROUND_COMMITS_MAX
"""Names in a round: so many are committed to, and those of the round before registered."""

STEP = BATCH * COMMIT_PACE
"""Seconds between two rounds, in which the commitments of one are forgotten: else more work would
be asked for each."""

BITS = (BATCH // COMMITS_EASY).bit_length()
"""Of the proof of work of a commitment, for the last ones of a round."""

EXPIRES = 1_000
"""Rounds from that of the batch: the last that may hold an operation."""

AHEAD = 4
"""Batches that are signed ahead."""


def name_of(number: int) -> str:
    """The name with this number."""
    return f"name-{number:08d}"


def owner_of(number: int) -> bytes:
    """Its owner's key (Ed25519 seed, 32)."""
    return sha256(b"the owner of a name in a benchmark: %d" % number).digest()


def registration(place: bytes, number: int) -> tuple[bytes, bytes]:
    """The COMMIT and the REGISTER of a name, encoded."""
    name, seed = name_of(number), owner_of(number)
    owners = Keys(1, (sign_public(seed),))
    salt = registration_salt(seed, Person(place, name))
    hidden = commitment(Person(place, name), owners, salt)
    expires = number // BATCH + EXPIRES
    commit, proven = Operation(OperationKind.COMMIT, place, "", 0, 0, ZERO, expires, hidden), False
    while not proven:
        commit, proven = worked(commit, BITS, 1 << BITS)
    register = Operation(
        OperationKind.REGISTER,
        place,
        name,
        1,
        1,
        ZERO,
        expires,
        salt,
        owners,
        profile=b"the profile of %d, as long as those of people who use a server: " % number
        + bytes(64),
    )
    return commit.encode(), register.signed((seed,)).encode()


def batch(place: bytes, first: int, last: int) -> list[tuple[bytes, bytes]]:
    """The registrations of the names from ``first`` to before ``last``."""
    return [registration(place, number) for number in range(first, last)]


@contextmanager
def directory(place: Path) -> Iterator[tuple[StateStore, Embedded, bytes]]:
    """The store of a data directory, made if need be, its core, and what stands for it."""
    with opened_data(place, "cbfs-names"):
        keys = load_keys(place, Random(os.urandom, kem_encapsulate))
        config = keys.config(Terms(Registration.WORK))
        store = StateStore(place / "store", config.encode())
        try:
            name = dict(config.witnesses)[VERIFIER].name
            yield store, Embedded(store, keys.log, keys.verifier, name), config.directory
        finally:
            store.close()


def make_directory(place: Path, names: int = 1_000_000, *, tell: bool = False) -> None:
    """``names`` registered; nothing is done when they are. ``tell``: of every hundredth round."""
    batches = -(-names // BATCH)
    with directory(place) as (store, core, here):
        with store.read() as view:
            tip = view.tip()
        if tip is not None and tip.number > batches:
            return
        clock = int(time.time()) - (batches + 2) * STEP if tip is None else tip.time
        done = 0 if tip is None else tip.number
        core.start(clock)
        for number, operations in enumerate(rounds(here, names, done), done + 1):
            clock += STEP
            outcome = core.round(operations, clock)
            if outcome.refused or len(outcome.placed) != len(operations):
                raise AssertionError(f"round {number}: {set(outcome.refused.values())}")
            if tell and number % 100 == 0:
                print(f"round {number} of {batches + 1}", file=sys.stderr, flush=True)


def rounds(place: bytes, names: int, done: int) -> Iterator[list[bytes]]:
    """The operations of each round from ``done`` + 1 on. Round n registers batch n - 2 and
    commits to batch n - 1."""
    last: list[tuple[bytes, bytes]] = []
    for number, made in enumerate(signed(place, names, max(0, done - 1)), max(1, done)):
        if number > done:
            yield [commit for commit, _ in made] + [register for _, register in last]
        last = made
    yield [register for _, register in last]


def signed(place: bytes, names: int, start: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """The batches from ``start`` on."""
    under_way: deque[Future[list[tuple[bytes, bytes]]]] = deque()
    with ProcessPoolExecutor(1) as pool:
        for first in range(start * BATCH, names, BATCH):
            under_way.append(pool.submit(batch, place, first, min(first + BATCH, names)))
            if len(under_way) > AHEAD:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def main() -> None:
    """The entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.names_at_size", description=__doc__
    )
    parser.add_argument("place", type=Path, metavar="DIR")
    parser.add_argument("--names", type=int, default=1_000_000)
    options = parser.parse_args()
    make_directory(options.place, options.names, tell=True)


if __name__ == "__main__":
    main()
