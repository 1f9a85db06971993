"""Backups of account directories, put back in the same files, as a file system or a machine is that
was put back whole."""

from pathlib import Path

from cbfs.storage.store import Meta, Table
from cbfs_host.file_identity import identity_of
from tests.support.stores import open_store


def put_in_place(backup: Path, place: Path) -> None:
    """Every file of a backup over the one of that name, which stays the same file: no program may
    have them open."""
    before = identity_of(place / "store" / "data.mdb")
    for file in backup.rglob("*"):
        if file.is_file():
            (place / file.relative_to(backup)).write_bytes(file.read_bytes())
    if identity_of(place / "store" / "data.mdb") != before:
        raise AssertionError("another file")


def settle_in(place: Path) -> None:
    """The store is in the file that it was in when it was used last, for all that the file tells:
    as in the clone of a machine."""
    store = open_store(place)
    identity = identity_of(place / "store" / "data.mdb").encode()
    store.write(lambda writer: writer.put(Table.META, Meta.PLACE, identity))
    store.close()
