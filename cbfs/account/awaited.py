"""Those whom the user has invited by a line, until they come or the line is too old.

In the store, ``Meta.AWAITED`` and the line's drop (32) is the key of a record: the line's text, and
until when it counts. While the account is mounted, what invites somebody cannot write there: it
puts the record into a file of the folder ``lines``, sealed to the key of the spool
(``cbfs.account.spool``), which the mount takes into the store.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbfs.account.place import LINES
from cbfs.account.spool import ID_SIZE, Spool, SpoolKey, sealed_to
from cbfs.storage.encoding import pack, unpack
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.errors import CbfsError, CryptoError, DecodeError
from cbfs_common.primitives import Random
from cbfs_common.wire.lines import InviteLine, parse_line
from cbfs_host.files import make_directory, write_file

AWAITED_MAX: Final = 64
"""People who are awaited at once."""

HANDED: Final = ".line"
"""How the names of files end that wait for a mount."""

HANDED_MAX: Final = 4_096
"""Bytes of such a file."""


@dataclass(frozen=True, slots=True, repr=False)
class Awaited:
    """Whoever comes by a ``line``, ``until`` when (seconds since 1970)."""

    line: InviteLine
    until: int

    def encode(self) -> bytes:
        """The line's text, and the time."""
        return pack(self.line.text(), self.until)


def decode_awaited(data: bytes) -> Awaited:
    """Undo ``Awaited.encode``. Raises DecodeError."""
    text, until = unpack(data, str, int)
    return Awaited(parse_line(text), until)


def awaited(reader: Reader) -> list[Awaited]:
    """Who is awaited."""
    return [decode_awaited(data) for _key, data in reader.items(Table.META, Meta.AWAITED)]


def await_(writer: Writer, one: Awaited) -> None:
    """Await somebody. Raises CbfsError when there are AWAITED_MAX already."""
    if sum(1 for _ in writer.keys(Table.META, Meta.AWAITED)) >= AWAITED_MAX:
        raise CbfsError(
            f"{AWAITED_MAX} people whom you have invited have not come yet",
            "invite more when some have, or their lines are too old",
        )
    writer.put(Table.META, Meta.AWAITED + one.line.drop, one.encode())


def await_no_more(writer: Writer, one: Awaited) -> None:
    """They have come, or will not."""
    writer.delete(Table.META, Meta.AWAITED + one.line.drop)


# While the account is mounted


def hand_over(account: Path, one: Awaited, random: Random) -> None:
    """Leave it to the mount of this account to await somebody. Raises OSError, CryptoError."""
    folder, identity = account / LINES, random.token(ID_SIZE)
    sealed = sealed_to(Spool(account).public(), identity, one.encode(), random)
    make_directory(folder)
    write_file(folder / f"{identity.hex()}{HANDED}", sealed)


def handed_over(account: Path, keys: tuple[SpoolKey, ...]) -> Iterator[tuple[Path, Awaited | None]]:
    """The files that wait, and what is in each; None for what cannot be read. Raises OSError."""
    for path in sorted((account / LINES).glob(f"*{HANDED}")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > HANDED_MAX:
            yield path, None
            continue
        yield path, _opened(path, keys)


def _opened(path: Path, keys: tuple[SpoolKey, ...]) -> Awaited | None:
    try:
        identity, data = bytes.fromhex(path.stem), path.read_bytes()
    except ValueError:
        return None
    for key in keys:
        with suppress(CryptoError, DecodeError):
            return decode_awaited(key.open(identity, data))
    return None
