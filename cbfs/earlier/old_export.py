"""Exports of format 2, to be read: the records of a store of format 2, in chunks that are sealed
under a passphrase."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgpack

from cbfs.earlier.old_store import TABLES
from cbfs_common.errors import CbfsError, CryptoError, DecodeError
from cbfs_common.primitives import KEY_SIZE, TAG_SIZE, kdf, open_sealed

_CHUNK = 65_536
_RECORD_MAX = 1 << 24
_HEADER = struct.Struct(">16s16sII")

Stretch = Callable[[bytes, bytes, int, int], bytes]
"""Gives what a passphrase becomes with this salt, passes and memory (KiB)."""


def read_old_export(
    path: Path, passphrase: bytes, stretch: Stretch, told: Callable[[int], object]
) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(table, key, value) of each record of an export that is brought over, contents first.
    ``told`` hears how many bytes of it are read. Raises CbfsError; what came until then is
    authentic."""
    unpacker = msgpack.Unpacker(use_list=True, max_buffer_size=_RECORD_MAX)
    try:
        with path.open("rb") as file:
            for chunk in _chunks(file, passphrase, stretch, told):
                unpacker.feed(chunk)
                for record in unpacker:
                    table, key, value = _record(record)
                    if table in TABLES:
                        yield table, key, value
    except OSError as error:
        raise CbfsError(
            f"cannot read {path}: {(error.strerror or '').lower()}", "is it there, and yours?"
        ) from error
    except (ValueError, msgpack.UnpackException) as error:
        raise _not_as_written() from error


def _not_as_written() -> DecodeError:
    return DecodeError("the export is not as an earlier cbfs wrote it", "use another one")


def _record(record: object) -> tuple[bytes, bytes, bytes]:
    if not isinstance(record, list) or [type(field) for field in record] != [bytes] * 3:
        raise _not_as_written()
    table, key, value = record
    return table, key, value


def _chunks(
    file: BinaryIO, passphrase: bytes, stretch: Stretch, told: Callable[[int], object]
) -> Iterator[bytes]:
    header = file.read(_HEADER.size)
    if len(header) != _HEADER.size:
        raise DecodeError("the export is cut short", "use another one")
    _magic, salt, passes, memory = _HEADER.unpack(header)
    key = kdf(stretch(passphrase, salt, passes, memory), b"cbfs1 export", header, KEY_SIZE)
    number, data, last = 0, file.read(_CHUNK + TAG_SIZE), False
    while not last:
        after = file.read(_CHUNK + TAG_SIZE)
        last = not after
        nonce = number.to_bytes(8, "big") + bytes(3) + bytes([last])
        try:
            yield open_sealed(key, nonce, data)
        except CryptoError as error:
            if number == 0:
                raise DecodeError(
                    "the passphrase is wrong, or the export is damaged", "try again"
                ) from error
            raise DecodeError("the export is damaged, or cut short", "use another one") from error
        number, data = number + 1, after
        told(number * (_CHUNK + TAG_SIZE))
