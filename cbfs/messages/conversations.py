"""What people are shown as, as records of the store: see ``cbfs.messages.petnames``."""

from cbfs.storage.store import Meta, Reader, Table, Writer


def label(reader: Reader, name: str) -> str:
    """What somebody is shown as."""
    data = reader.get(Table.META, Meta.LABEL + reader.blind(name.encode()))
    return name if data is None else data.decode()


def put_label(writer: Writer, name: str, shown: str) -> None:
    """Show somebody as that from now on."""
    key = Meta.LABEL + writer.blind(name.encode())
    if shown == name:
        writer.delete(Table.META, key)
    else:
        writer.put(Table.META, key, shown.encode())
