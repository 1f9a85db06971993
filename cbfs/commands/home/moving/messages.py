"""What the two computers say to each other while an account moves. PROTOCOL.rst, Moving.

A message is a frame of the transport: its id says of which kind it is.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from cbfs.account.leaving import COPY_SIZE
from cbfs_common.errors import DecodeError
from cbfs_common.primitives import KEY_SIZE
from cbfs_common.wire.transport import PAYLOAD_MAX, Frame

VERSION: Final = 1

MANIFEST_MAX: Final = 4 << 20
"""Bytes of a manifest: of some forty thousand files."""

CARGO_MAX: Final = 1 << 42
"""Bytes of an account with its manifest, at most."""

_OFFER = struct.Struct(f">BHIQ{KEY_SIZE}s")
_HAVE = struct.Struct(f">{COPY_SIZE}sQ{KEY_SIZE}s")
_FROM = struct.Struct(">Q")
_WRONG = "what the other computer says is not understood"
_SAME = "is the same version of cbfs on both?"


@dataclass(frozen=True, slots=True)
class MoveOffer:
    """The old one first: ``format`` of the account's store, how many bytes there are, ``manifest``
    of them first, and ``check`` (32), a hash of the token that is to come."""

    KIND: ClassVar[int] = 1
    format: int
    manifest: int
    size: int
    check: bytes

    def payload(self) -> bytes:
        """version u8 | format u16 | manifest u32 | size u64 | check 32."""
        return _OFFER.pack(VERSION, self.format, self.manifest, self.size, self.check)


@dataclass(frozen=True, slots=True)
class Have:
    """The new one: it is the ``copy`` (COPY_SIZE) that has the first ``count`` bytes, if ``digest``
    (32) is theirs."""

    KIND: ClassVar[int] = 2
    copy: bytes
    count: int
    digest: bytes

    def payload(self) -> bytes:
        """copy 16 | count u64 | digest 32."""
        return _HAVE.pack(self.copy, self.count, self.digest)


@dataclass(frozen=True, slots=True)
class From:
    """The old one: what comes begins at this byte, that behind those which are there, or 0."""

    KIND: ClassVar[int] = 3
    count: int

    def payload(self) -> bytes:
        """count u64."""
        return _FROM.pack(self.count)


@dataclass(frozen=True, slots=True)
class Data:
    """The old one: the next bytes."""

    KIND: ClassVar[int] = 4
    data: bytes

    def payload(self) -> bytes:
        """The bytes."""
        return self.data


@dataclass(frozen=True, slots=True)
class MoveEnd:
    """The old one: that was all, and ``digest`` (32) is that of all of it."""

    KIND: ClassVar[int] = 5
    digest: bytes

    def payload(self) -> bytes:
        """digest 32."""
        return self.digest


@dataclass(frozen=True, slots=True)
class Got:
    """The new one: all is on its disk, and can be opened."""

    KIND: ClassVar[int] = 6

    def payload(self) -> bytes:
        """Nothing."""
        return b""


@dataclass(frozen=True, slots=True)
class Go:
    """The old one: the account has moved, and its copy is to live by this ``token`` (32)."""

    KIND: ClassVar[int] = 7
    token: bytes

    def payload(self) -> bytes:
        """token 32."""
        return self.token


@dataclass(frozen=True, slots=True)
class MoveLives:
    """The new one: it does, whatever becomes of the connection."""

    KIND: ClassVar[int] = 8

    def payload(self) -> bytes:
        """Nothing."""
        return b""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The old one: the account has moved already, to another copy than this one."""

    KIND: ClassVar[int] = 9

    def payload(self) -> bytes:
        """Nothing."""
        return b""


MoveMessage: TypeAlias = MoveOffer | Have | From | Data | MoveEnd | Got | Go | MoveLives | Elsewhere


class Unintelligible(DecodeError):
    """The other computer breaks the rules of a move."""

    def __init__(self) -> None:
        super().__init__(_WRONG, _SAME)


def decode_message(frame: Frame) -> MoveMessage:
    """The message in a frame. Raises DecodeError."""
    data = frame.payload
    try:
        match frame.id:
            case MoveOffer.KIND:
                if data[:1] != bytes([VERSION]):
                    raise DecodeError("the other computer has another version of cbfs", _SAME)
                _version, store_format, manifest, size, check = _OFFER.unpack(data)
                if manifest <= min(size, MANIFEST_MAX) and size <= CARGO_MAX:
                    return MoveOffer(store_format, manifest, size, check)
            case Have.KIND:
                return Have(*_HAVE.unpack(data))
            case From.KIND:
                return From(*_FROM.unpack(data))
            case Data.KIND if 0 < len(data) <= PAYLOAD_MAX:
                return Data(data)
            case MoveEnd.KIND if len(data) == KEY_SIZE:
                return MoveEnd(data)
            case Got.KIND if not data:
                return Got()
            case Go.KIND if len(data) == KEY_SIZE:
                return Go(data)
            case MoveLives.KIND if not data:
                return MoveLives()
            case Elsewhere.KIND if not data:
                return Elsewhere()
    except struct.error as error:
        raise Unintelligible from error
    raise Unintelligible
