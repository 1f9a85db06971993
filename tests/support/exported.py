"""Whether an account survives an export: what is restored is what was there.

After every test of the suite each account that the test has left in its directory is exported,
restored and compared, record by record: so whatever state the suite brings about is tried, and two
places that do not agree about a record are found.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.commands.export import restore_export, write_export
from cbfs.messages.queues.delivery_queue import unsealed
from cbfs.storage.records import Table
from cbfs.storage.store import Meta, Store, Writer
from cbfs_common.errors import CbfsError
from tests.support.stores import open_store

Records = dict[tuple[Table, bytes], bytes]

_AGAIN = {
    *(Table.SESSIONS, Table.PREKEYS, Table.INBOX, Table.QUARANTINE),
    *(Table.LISTINGS, Table.FILE_NAMES),
}
"""What begins anew, or is made again."""


def check_exports_in(place: Path) -> int:
    """Export and restore every store of a client there, however deep, that can be opened without a
    passphrase and is not damaged. Gives how many were compared."""
    found = [path.parent for path in place.rglob("root.key") if (path.parent / "store").is_dir()]
    return sum(check_export_of(directory) for directory in found)


def check_export_of(directory: Path) -> bool:
    """The same for one. Whether there was anything to compare."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with TemporaryDirectory(dir=memory) as again, mock.patch("cbfs.commands.export.MEMORY", 8):
        copy, file, restored = Path(again, "copy"), Path(again, "export"), Path(again, "restored")
        try:
            (copy / "store").mkdir(parents=True)
            shutil.copy(directory / "root.key", copy)
            shutil.copy(directory / "store" / "data.mdb", copy / "store")
            with opened(copy) as store:
                for key in (Meta.ACCOUNT, Meta.OWN):  # which bare stores of tests have not
                    store.write(partial(_put_if_missing, key=key))
                whole = records_of(store)
        except (CbfsError, OSError):
            return False  # sealed, damaged on purpose, or just being made
        with opened(copy) as store:
            count = write_export(store, file, b"of the test", SYSTEM_RANDOM)
        assert not count.damaged, f"{count.damaged} of {directory} are taken for damaged"
        restored.mkdir()
        with opened(restored) as store:
            restore_export(store, file, b"of the test")
            assert records_of(store) == as_exported(whole)
    return True


@contextmanager
def opened(directory: Path) -> Iterator[Store]:
    """The store in an account directory."""
    store = open_store(directory)
    try:
        yield store
    finally:
        store.close()


def _put_if_missing(writer: Writer, key: bytes) -> None:
    if writer.get(Table.META, key) is None:
        writer.put(Table.META, key, b"of a test")


def records_of(store: Store) -> Records:
    """All that is in it. Raises DamagedRecord."""
    with store.read() as reader:
        return {(table, key): data for table in Table for key, data in reader.items(table)}


def as_exported(whole: Records) -> Records:
    """What must come out again: nothing that is sealed to sessions or known of the directory."""
    records = {
        (table, key): value
        for (table, key), value in whole.items()
        if table not in _AGAIN and (table, key) not in _OF_THE_DIRECTORY
    }
    for table, key in list(records):
        if table is Table.QUEUE:
            job = unsealed(key, records.pop((table, key)))
            if job is not None:
                records[table, key] = job[1]
    return records


_OF_THE_DIRECTORY = {
    (Table.META, key) for key in (Meta.PLACE, Meta.MARK, Meta.LISTED, Meta.SPOOL_KEY, Meta.LEAVING)
}
