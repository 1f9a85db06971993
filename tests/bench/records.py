"""Rows of the client's store: records written and read, beside the store that Signal has."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlcipher3

from cbfs.storage.store import Store, Table, Writer
from tests.bench.table import Row, faster
from tests.bench.timing import times
from tests.support.stores import open_store

KEY_SIZE = 24
VALUE_SIZE = 200

Record = tuple[bytes, bytes]


class SqlCipher:
    """A table of SQLCipher under a raw key, with a journal as Signal has it: each transaction is
    on the disk when it ends. One key for all that it will ever hold: what is deleted can be read
    by who finds the key later."""

    def __init__(self, place: Path) -> None:
        self._database = sqlcipher3.connect(str(place / "peer.db"), isolation_level=None)
        self._database.execute(f"PRAGMA key = \"x'{os.urandom(32).hex()}'\"")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")

    def put(self, records: list[Record]) -> None:
        """All in one transaction."""
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO t VALUES (?, ?)", records)
        self._database.execute("COMMIT")

    def get(self, records: list[Record]) -> None:
        """Each for itself, in one transaction."""
        self._database.execute("BEGIN")
        for key, value in records:
            if self._database.execute("SELECT v FROM t WHERE k = ?", (key,)).fetchone()[0] != value:
                raise AssertionError("another record was found")
        self._database.execute("COMMIT")

    def close(self) -> None:
        """The end."""
        self._database.close()


class Ours:
    """A table of the store, of which the keys are in memory. Each record has a key of its own,
    which is gone for ever with it."""

    def __init__(self, place: Path) -> None:
        self._store: Store = open_store(place)

    def put(self, records: list[Record]) -> None:
        """All in one transaction."""

        def change(writer: Writer) -> None:
            for key, value in records:
                writer.put(Table.QUEUE, key, value)

        self._store.write(change)

    def get(self, records: list[Record]) -> None:
        """Each for itself, in one transaction."""
        with self._store.read() as reader:
            if any(reader.get(Table.QUEUE, key) != value for key, value in records):
                raise AssertionError("another record was found")

    def close(self) -> None:
        """The end."""
        self._store.close()


@contextmanager
def both() -> Iterator[tuple[Ours, SqlCipher]]:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        with closing(Ours(place)) as ours, closing(SqlCipher(place)) as theirs:
            yield ours, theirs


def putting(side: Ours | SqlCipher, count: int) -> Callable[[], int]:
    """New records, again and again."""

    def work() -> int:
        side.put([(os.urandom(KEY_SIZE), os.urandom(VALUE_SIZE)) for _ in range(count)])
        return count

    return work


def getting(side: Ours | SqlCipher, records: list[Record]) -> Callable[[], int]:
    """The same records, again and again."""

    def work() -> int:
        side.get(records)
        return len(records)

    return work


def records(quick: bool) -> Iterator[Row]:
    """A record, of many that are written or read in one transaction."""
    rounds = 3 if quick else 50
    with both() as (ours, theirs):
        for count in (1, 10, 1_000):
            mine, other = times(rounds, putting(ours, count), putting(theirs, count))
            yield faster(
                f"store, a record of {count:,} that are written at once", mine, "SQLCipher", other
            )
        some = [(os.urandom(KEY_SIZE), os.urandom(VALUE_SIZE)) for _ in range(1_000)]
        ours.put(some)
        theirs.put(some)
        mine, other = times(rounds, getting(ours, some), getting(theirs, some))
        yield faster("store, a record read", mine, "SQLCipher", other)
