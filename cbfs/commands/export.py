"""Exports: an account and its history in one file, sealed under a passphrase.

    header: magic 16 | salt 16 | passes u32 | memory u32 (KiB)
    chunks: 65,536 bytes each, the last 1 to 65,536, each sealed: 16 bytes more

The key is KDF(Argon2id(passphrase, salt, passes, memory), "cbfs1 export", header, 32); a chunk's
nonce is its number, u64, three zeros, and 1 for the last one, else 0. So nothing can be changed,
left out, put elsewhere or cut off without being noticed. The plain text is a row of msgpack
arrays (table, record key, value): the records of the store, but for

- sessions and prekeys, which must not be used a second time: peers are told at the next mount
  that they are lost, and all begin new ones;
- envelopes, which only those sessions could open, or peers have by now;
- what the account directory knows of itself;
- the pages of listings and of names of files, which are made again from the messages.

An export is one snapshot of the store. It can be made beside a mount, which goes on meanwhile.
"""

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import msgpack

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.formats import upgrade
from cbfs.account.passphrase import MEMORY, PASSES, SALT_SIZE, stretch
from cbfs.messages.history import message_content
from cbfs.messages.model import Content
from cbfs.messages.queues.delivery_queue import unsealed
from cbfs.messages.queues.incomplete import decode_incomplete
from cbfs.storage.encoding import number_of, u32, u64
from cbfs.storage.records import OF_CONVERSATION, Meta, Table, Writer
from cbfs.storage.store import Store
from cbfs.tree.nodes import File, decode_record
from cbfs_common.errors import CbfsError, CryptoError
from cbfs_common.primitives import KEY_SIZE, TAG_SIZE, Random, kdf, open_sealed, seal
from cbfs_host.files import written_beside_others

FORMAT = 7
STORE_FORMATS = {7: 8}
"""By the format of an export that can be restored: that of the store whose records it has. From the
next one on both are the same number."""


def magic(number: int) -> bytes:
    """What an export of this format begins with (16)."""
    return (b"cbfs export %d" % number).ljust(16, b"\0")


MAGIC = magic(FORMAT)
_MAGIC = re.compile(rb"cbfs export ([1-9]\d?)\0+")
_BROUGHT_OVER = 2
"""The one format before that of which a new store is made, as of such an account."""
CHUNK = 65_536
RECORD_MAX = 1 << 24
"""Bytes of one record that is read."""

GROUP = 512
"""Records that are restored in one transaction."""

_HEADER = struct.Struct(">16s16sII")
_LEFT_OUT = frozenset(
    (
        *(Table.SESSIONS, Table.PREKEYS, Table.INBOX, Table.QUARANTINE),
        *(Table.LISTINGS, Table.FILE_NAMES),
    )
)
_OF_THE_DIRECTORY = frozenset((Meta.PLACE, Meta.MARK, Meta.LISTED, Meta.SPOOL_KEY, Meta.LEAVING))
_LAST = (Meta.ACCOUNT, Meta.OWN)
"""In Table.META, restored when all else is on the disk."""

_NEEDED = frozenset(((Table.META, Meta.ACCOUNT), (Table.META, Meta.OWN)))
"""Without these nothing can be restored."""

Record = tuple[Table, bytes, bytes]
Told = Callable[[int], object]


def _nobody(_done: int) -> None:
    """Who is not to be told how far something is."""


@dataclass(slots=True)
class Count:
    """Records that were written, and that were damaged and left out (at least so many)."""

    written: int = 0
    damaged: int = 0


class Salvage(Protocol):
    """What a store has, at one moment."""

    @property
    def lost(self) -> int:
        """How many records at least cannot be read, while it is not known which."""

    def records(self, table: Table) -> Iterator[tuple[bytes, bytes | None]]:
        """(key, value) of each record of a table, or (place, None) of what is damaged."""

    def place(self, table: Table, key: bytes) -> bytes | None:
        """Where a record with this key would be."""


class Source(Protocol):
    """What can be exported: a ``Store``, or the ``Remains`` of one."""

    def salvage(self) -> AbstractContextManager[Salvage]:
        """The records, as they are now."""


class NotAnExport(CbfsError):
    """The file is no export, is damaged, or the passphrase is wrong."""


def write_export(
    store: Source, path: Path, passphrase: bytes, random: Random, told: Told = _nobody
) -> Count:
    """Export an account to ``path``, which is there in whole or not at all. ``told`` hears how many
    bytes of it are written. Raises CbfsError."""
    count = Count()
    if path.exists() and not path.is_file():
        raise CbfsError(f"{path} is not a file", "name a new one")
    try:
        with written_beside_others(path) as file, store.salvage() as salvage:
            _write(file, _exported(salvage, count), passphrase, random, told)
    except OSError as error:
        raise CbfsError(f"cannot write {path}: {(error.strerror or '').lower()}") from error
    return count


def _exported(salvage: Salvage, count: Count) -> Iterator[Record]:
    """The records that are exported. A message or a file whose content is damaged stays out with
    it: what is missing of a content would read as zeros. Where it is not known what is lost,
    nothing may be missing of it. A record of a conversation that is lost stays out as well."""
    damaged: set[bytes] = set()
    there: set[bytes] = set()
    chunks: Counter[int] = Counter()
    count.damaged = salvage.lost
    missing = set(_NEEDED)
    contents_first = sorted(Table, key=lambda table: table is not Table.CONTENT)
    for table in contents_first:
        if table in _LEFT_OUT:
            continue
        for key, value in salvage.records(table):
            if value is None:
                count.damaged += 1
                if table is Table.CONTENT:
                    damaged.add(key)
                continue
            if table is Table.CONTENT and salvage.lost:
                chunks[number_of(key[:8])] += 1
            if table is Table.CONVERSATIONS:
                there.add(key)
            content, kept = _kept(table, key, value)
            alone = table in OF_CONVERSATION and key[:16] not in there
            if alone or (content and _is_torn(content, salvage, damaged, chunks)):
                count.damaged += 1
            elif kept is not None:
                missing.discard((table, key))
                count.written += 1
                yield table, key, kept
    if missing and not count.damaged:
        raise CbfsError("there is no finished account there", "cbfs init makes one")
    if missing:
        raise CbfsError(
            "the account's own records are damaged: nothing could be restored",
            "use an older export",
        )


def _is_torn(content: Content, salvage: Salvage, damaged: set[bytes], chunks: Counter[int]) -> bool:
    """Whether something of a content is at one of the damaged places, or, where it is not known
    what is lost, missing; a file's holes count as well then."""
    if salvage.lost:
        return chunks[content.id] * content.chunk < content.size
    if not damaged:
        return False
    keys = (u64(content.id) + u32(index) for index in range(-(-content.size // content.chunk)))
    return any(salvage.place(Table.CONTENT, key) in damaged for key in keys)


def _kept(table: Table, key: bytes, value: bytes) -> tuple[Content | None, bytes | None]:
    """(the content that the record refers to and must have, the record as it is exported)."""
    if table is Table.META and key in _OF_THE_DIRECTORY:
        return None, None
    if table is Table.QUEUE:
        return unsealed(key, value) or (None, None)
    if table is Table.MESSAGES:
        return message_content(key, value), value
    if table is Table.PARTS:  # what is missing comes, or shows when it is complete
        return Content(decode_incomplete(value).content, 0, 1), value
    if table is Table.NODES:
        node, _names = decode_record(number_of(key), value)
        return (node.content if isinstance(node, File) else None), value
    return None, value


def _write(
    file: BinaryIO, records: Iterable[Record], passphrase: bytes, random: Random, told: Told
) -> None:
    header = _HEADER.pack(MAGIC, random.token(SALT_SIZE), PASSES, MEMORY)
    key = _key(header, passphrase)
    file.write(header)
    buffer, number = bytearray(), 0
    for table, record_key, value in records:
        buffer += msgpack.packb((table.value, record_key, value))
        while len(buffer) > CHUNK:  # what is left is never empty, and becomes the last one
            file.write(seal(key, _nonce(number, last=False), bytes(buffer[:CHUNK])))
            del buffer[:CHUNK]
            number += 1
            told(number * CHUNK)
    file.write(seal(key, _nonce(number, last=True), bytes(buffer)))


def read_export(path: Path, passphrase: bytes, told: Told = _nobody) -> Iterator[Record]:
    """The records of an export. ``told`` hears how many bytes of it are read. Raises NotAnExport or
    CbfsError; what came until then is authentic."""
    try:
        with path.open("rb") as file:
            yield from _records(_chunks(file, passphrase, told))
    except OSError as error:
        raise CbfsError(f"cannot read {path}: {(error.strerror or '').lower()}") from error


def _chunks(file: BinaryIO, passphrase: bytes, told: Told) -> Iterator[bytes]:
    header = file.read(_HEADER.size)
    _format(header)
    key = _key(header, passphrase)
    number, data, last = 0, file.read(CHUNK + TAG_SIZE), False
    while not last:
        after = file.read(CHUNK + TAG_SIZE)
        last = not after
        try:
            yield open_sealed(key, _nonce(number, last=last), data)
        except CryptoError as error:
            if number == 0:
                raise NotAnExport(
                    "the passphrase is wrong, or the export is damaged", "try again"
                ) from error
            raise NotAnExport("the export is damaged, or cut short", "use another one") from error
        number, data = number + 1, after
        told(number * (CHUNK + TAG_SIZE))


def _format(header: bytes) -> int:
    """The format of an export that can be restored. Raises NotAnExport."""
    said = _MAGIC.fullmatch(header[:16])
    if len(header) != _HEADER.size or said is None:
        raise NotAnExport("the file is not an export of an account", "cbfs export writes them")
    number = int(said[1])
    if number > FORMAT:
        raise NotAnExport(
            f"the export was made by a later cbfs: it has format {number}, and this one knows"
            f" those up to {FORMAT}",
            "restore it with the cbfs that made it, or a newer one",
        )
    if number not in {*STORE_FORMATS, _BROUGHT_OVER}:
        raise _other_version()
    return number


def _other_version() -> NotAnExport:
    return NotAnExport("the export was made by another version of cbfs", "use that one")


def export_format(path: Path) -> int:
    """The format of an export. Raises NotAnExport or CbfsError."""
    try:
        with path.open("rb") as file:
            return _format(file.read(_HEADER.size))
    except OSError as error:
        raise CbfsError(f"cannot read {path}: {(error.strerror or '').lower()}") from error


def _records(chunks: Iterator[bytes]) -> Iterator[Record]:
    unpacker = msgpack.Unpacker(use_list=True, max_buffer_size=RECORD_MAX)
    tables = {table.value: table for table in Table if table not in _LEFT_OUT}
    try:
        for chunk in chunks:
            unpacker.feed(chunk)
            for record in unpacker:
                yield _record(record, tables)
    except (ValueError, msgpack.UnpackException) as error:
        raise NotAnExport("the export is not as this cbfs writes it") from error


def _record(record: object, tables: dict[bytes, Table]) -> Record:
    if (
        not isinstance(record, list)
        or len(record) != 3
        or not all(isinstance(field, bytes) for field in record)
        or record[0] not in tables
    ):
        raise _other_version()
    return tables[record[0]], record[1], record[2]


def restore_export(store: Store, path: Path, passphrase: bytes, told: Told = _nobody) -> None:
    """Bring the records of an export into a store in which there is no account, before that store
    runs; those of an earlier format are upgraded. It begins with an empty store: what a restore has
    left that was cut off goes. A crash or an error leaves a store without an account, into which
    any export can be restored. The store must be opened anew afterwards. ``told`` hears how
    many bytes of it are read. Raises CbfsError."""
    number = export_format(path)
    store.write(Writer.clear)
    if number == _BROUGHT_OVER:
        _bring_over(store, path, passphrase, told)
        return
    found = STORE_FORMATS[number]
    last: dict[bytes, bytes] = {}
    group: list[Record] = []
    for table, key, value in read_export(path, passphrase, told):
        if table is Table.META and key in _LAST:
            last[key] = value
            continue
        group.append((table, key, value))
        if len(group) == GROUP:
            _put(store, group)
            group = []
    if Meta.ACCOUNT not in last or Meta.OWN not in last:
        raise NotAnExport("the export has no account in it: its record was damaged")
    group += ((Table.META, key, last[key]) for key in last)
    _put(store, group, lambda writer: upgrade(writer, found))


def _bring_over(store: Store, path: Path, passphrase: bytes, told: Told) -> None:
    from cbfs.earlier import bringing, old_export  # noqa: PLC0415 - seldom needed

    records = old_export.read_old_export(path, passphrase, stretch, told)
    bringing.bring_over(
        store, records, SYSTEM_RANDOM, lambda writer: upgrade(writer, bringing.FORMAT)
    )


def _put(
    store: Store, records: list[Record], also: Callable[[Writer], None] = lambda _writer: None
) -> None:
    def change(writer: Writer) -> None:
        for table, key, value in records:
            writer.put(table, key, value)
        also(writer)

    store.write(change)


def _key(header: bytes, passphrase: bytes) -> bytes:
    _magic, salt, passes, memory = _HEADER.unpack(header)
    return kdf(stretch(passphrase, salt, passes, memory), b"cbfs1 export", header, KEY_SIZE)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(8, "big") + bytes(3) + bytes([last])
