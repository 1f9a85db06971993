"""Which copy of an account goes on: the mark that each leaves at the home server.

A backup that is put back in place, in the same file, cannot be told from the account by anything
on its own disk. So there is a mark at the home server, which counts; the store knows the one that
it has put last. One that counts as far, and that this store has not put, was put by another copy,
which has gone on since: the server can hide that, not make it up. PROTOCOL.rst, Copies.

A mark is ``salt 24 | Seal(counter u64 | instance 8)``. The upper half of the counter says how often
the account was claimed by its user, the lower how many marks were put since. The instance is what
one copy goes by from when it has begun anew.
"""

import struct
from dataclasses import dataclass, replace
from enum import Enum

from cbfs.storage.encoding import pack, unpack
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.errors import CryptoError, DecodeError
from cbfs_common.limits import COPIES_WITHIN, MARK_SIZE
from cbfs_common.primitives import Random, kdf, open_sealed, seal

INSTANCE_SIZE = 8
_SALT_SIZE = 24
_CLAIM = 2**32
_COUNTER_MAX = 2**63
"""A mark that counts further was not made by counting: past it nobody could."""

_PLAIN = struct.Struct(f">Q{INSTANCE_SIZE}s")


@dataclass(frozen=True, slots=True)
class CopyMark:
    """What a mark says: how far its copy has counted, and which copy that is (8 bytes)."""

    counter: int
    instance: bytes

    @property
    def claim(self) -> int:
        """How often the account has been claimed."""
        return self.counter // _CLAIM


def seal_mark(mark: CopyMark, transport: bytes, random: Random) -> bytes:
    """The mark as the server keeps it (MARK_SIZE). ``transport``: the account's secret key (32)
    for its home server."""
    salt = random.token(_SALT_SIZE)
    return salt + seal(*mark_key(transport, salt), _PLAIN.pack(mark.counter, mark.instance))


def open_mark(data: bytes, transport: bytes) -> CopyMark:
    """Undo ``seal_mark``. Raises CryptoError for what no copy of this account has sealed."""
    if len(data) != MARK_SIZE:
        raise CryptoError("not a mark")
    salt, sealed = data[:_SALT_SIZE], data[_SALT_SIZE:]
    mark = CopyMark(*_PLAIN.unpack(open_sealed(*mark_key(transport, salt), sealed)))
    if mark.counter > _COUNTER_MAX:
        raise CryptoError("not a mark")
    return mark


def mark_key(transport: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """Key (32) and nonce (12) of the mark with this salt (24)."""
    both = kdf(kdf(transport, b"cbfs1 mark key", b"", 32), b"cbfs1 mark", salt, 44)
    return both[:32], both[32:]


class CopyState(Enum):
    """How it is with a copy."""

    GOES_ON = 0
    TAKES_OVER = 1  # has begun anew: a mark of another copy that it finds is of before
    STOPPED = 2  # connects no more
    CLAIMED = 3  # takes over, and all that were claimed before it are to stop


class Finding(Enum):
    """What a mark at the server shows."""

    NOTHING = 0
    COPY = 1  # another copy has gone on: this one begins anew
    TWO = 2  # two of them run: this one stops


@dataclass(frozen=True, slots=True)
class CopyStanding:
    """What a store knows of itself. ``counter``: of the mark that it has put last, or puts next;
    ``put``: that mark, as it is sealed; ``begun``: when it last began anew, in milliseconds since
    1970, 0 for never."""

    counter: int
    instance: bytes
    put: bytes
    begun: int
    state: CopyState

    def encode(self) -> bytes:
        """The record ``Meta.MARK``."""
        return pack(self.counter, self.instance, self.put, self.begun, self.state.value)

    @property
    def claim(self) -> int:
        """How often the account has been claimed, as far as this copy knows."""
        return self.counter // _CLAIM


def decode_standing(data: bytes) -> CopyStanding:
    """Undo ``CopyStanding.encode``. Raises DecodeError."""
    counter, instance, put, begun, state = unpack(data, int, bytes, bytes, int, int)
    try:
        known = CopyState(state)
    except ValueError as error:
        raise DecodeError("what is known of other copies is damaged") from error
    if (
        not 0 <= counter < 2**64
        or begun < 0
        or (len(instance), len(put)) != (INSTANCE_SIZE, MARK_SIZE)
    ):
        raise DecodeError("what is known of other copies is damaged")
    return CopyStanding(counter, instance, put, begun, known)


def read_standing(reader: Reader) -> CopyStanding | None:
    """What the store knows of itself, None before the first time. Raises DecodeError."""
    data = reader.get(Table.META, Meta.MARK)
    return None if data is None else decode_standing(data)


def write_standing(writer: Writer, standing: CopyStanding) -> None:
    """Keep it in the store."""
    writer.put(Table.META, Meta.MARK, standing.encode())


class Marker:
    """Makes marks under ``transport``, the account's secret key (32) for its home server."""

    def __init__(self, transport: bytes, random: Random) -> None:
        self._transport = transport
        self._random = random

    def first(self) -> CopyStanding:
        """Of a store that has never been at work: an account that is new, or was restored."""
        return self._anew(0, 0, CopyState.TAKES_OVER)

    def settled(self, standing: CopyStanding) -> CopyStanding:
        """One with its mark under the transport key of now: the bytes of before would tell
        two home servers that a client has moved from one to the other. Under a key that is new it
        is counted anew: whoever had the one before may have counted to the end."""
        try:
            open_mark(standing.put, self._transport)
        except CryptoError:
            return replace(standing, counter=1, put=self._sealed(1, standing.instance))
        return standing

    def next(self, standing: CopyStanding) -> CopyStanding:
        """The mark that was put last is at the server: the next one."""
        counter = standing.counter + 1
        put = self._sealed(counter, standing.instance)
        return replace(standing, counter=counter, put=put, state=CopyState.GOES_ON)

    def copied(self, standing: CopyStanding, now: int) -> CopyStanding:
        """The store lies in another file, and its sessions begin anew at ``now`` (milliseconds):
        that a copy has stopped stays so."""
        if standing.state is CopyState.STOPPED:
            return standing
        claimed = standing.state is CopyState.CLAIMED
        state = CopyState.CLAIMED if claimed else CopyState.TAKES_OVER
        return self._anew(standing.counter, now, state)

    def claimed(self, standing: CopyStanding, now: int) -> CopyStanding:
        """The user says that this copy goes on, and no other; its sessions begin anew."""
        counter = (standing.claim + 1) * _CLAIM
        return self._anew(counter, now, CopyState.CLAIMED)

    def judge(self, standing: CopyStanding, found: bytes, now: int) -> tuple[CopyStanding, Finding]:
        """What it means that ``found`` is the mark at the server (empty for none), and how it
        is with this copy then. What cannot be read means nothing, as the server may have made
        it up, and so does a mark that counts less far, as the server may have kept it."""
        try:
            mark = open_mark(found, self._transport)
        except CryptoError:
            return standing, Finding.NOTHING
        if mark.counter < standing.counter or found == standing.put:
            return standing, Finding.NOTHING
        if standing.state is CopyState.CLAIMED:  # the other one may have been, and not known here
            counter = (mark.claim + 1) * _CLAIM
            return self._anew(counter, standing.begun, CopyState.CLAIMED), Finding.NOTHING
        if standing.state is CopyState.TAKES_OVER:
            return self._anew(mark.counter, standing.begun, CopyState.GOES_ON), Finding.NOTHING
        lately = 0 <= now - standing.begun < COPIES_WITHIN * 1_000
        again = lately and mark.instance != standing.instance
        if again or mark.claim > standing.claim:
            stopped = replace(standing, counter=mark.counter, state=CopyState.STOPPED)
            return stopped, Finding.TWO
        return self._anew(mark.counter, now, CopyState.GOES_ON), Finding.COPY

    def _anew(self, counter: int, begun: int, state: CopyState) -> CopyStanding:
        instance = self._random.token(INSTANCE_SIZE)
        put = self._sealed(counter + 1, instance)
        return CopyStanding(counter + 1, instance, put, begun, state)

    def _sealed(self, counter: int, instance: bytes) -> bytes:
        return seal_mark(CopyMark(counter, instance), self._transport, self._random)
