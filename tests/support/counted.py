"""What is read of a store."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from cbfs.storage.store import Reader, Table


@contextmanager
def counting() -> Iterator[Counter[Table]]:
    """How many records of each table are read."""
    read: Counter[Table] = Counter()
    get = Reader.get

    def counted(reader: Reader, table: Table, key: bytes) -> bytes | None:
        read[table] += 1
        return get(reader, table, key)

    with patch.object(Reader, "get", counted):
        yield read
