"""Fixed byte layouts of what the name directory hashes and signs. PROTOCOL.rst, Names.

Integers are big-endian. A short string has a length byte in front, a long one two bytes.
SHA-256 throughout, as in the C2SP and RFC 9162 formats it is joined with; every hash begins
with a byte or label of its own.
"""

from hashlib import sha256

from cbfs_common.errors import DecodeError

HASH_SIZE = 32
ZERO = bytes(HASH_SIZE)

LOG_LEAF = b"\x00"
LOG_NODE = b"\x01"
MAP_LEAF = b"\x02"
MAP_NODE = b"\x03"
ENTRY_VALUE = b"\x04"
"""First bytes of hashes. The first two are RFC 9162's."""


def short(data: bytes) -> bytes:
    """``data`` (at most 255 bytes) behind its length byte."""
    return bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    """``data`` (at most 65,535 bytes) behind its two length bytes."""
    return len(data).to_bytes(2, "big") + data


def labelled(label: bytes, *parts: bytes) -> bytes:
    """SHA-256 (32) of a label, a newline, and parts that each have a fixed size or a length."""
    return sha256(label + b"\n" + b"".join(parts)).digest()


_VISIBLE = bytes(range(0x21, 0x7F))


class Fields:
    """Reads a layout from its beginning. Every method raises DecodeError when bytes are missing."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def error(self) -> DecodeError:
        """The error that every reading of this layout raises."""
        return DecodeError(f"not {self._what}")

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise self.error()
        part = self._data[self._at : end]
        self._at = end
        return part

    def number(self, size: int) -> int:
        """The next integer, ``size`` bytes long."""
        return int.from_bytes(self.take(size), "big")

    def short(self) -> bytes:
        """The next string with a length byte."""
        return self.take(self.number(1))

    def long(self) -> bytes:
        """The next string with two length bytes."""
        return self.take(self.number(2))

    def hashes(self, count: int) -> tuple[bytes, ...]:
        """The next ``count`` 32-byte strings."""
        return tuple(self.take(HASH_SIZE) for _ in range(count))

    def text(self, limit: int) -> str:
        """The next short string, which must be printable ASCII without spaces, 1 to ``limit``."""
        raw = self.short()
        if not 0 < len(raw) <= limit or raw.translate(None, _VISIBLE):
            raise self.error()
        return raw.decode("ascii")

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._at

    def end(self) -> None:
        """There must be no more bytes. Raises DecodeError."""
        if self._at != len(self._data):
            raise self.error()
