"""Messages of which parts have come, and not all: the one place that knows their records.

``Table.PARTS`` holds one for each such message, under key_part(conversation, hash); the
chunks that have come are in ``Table.CONTENT``. What one sender has on the way is counted in
``Table.META``, so that nobody fills the disk with what never becomes a message. What may be of
somebody else has a share of its own (``share_of``): it takes nothing from the sender's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cbfs.storage.encoding import pack, u64, unpack
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.errors import DecodeError
from cbfs_common.limits import INCOMPLETE_BYTES_MAX, INCOMPLETE_MAX


@dataclass(frozen=True, slots=True)
class Incomplete:
    """``content`` is the id of what has come of it, ``seen`` has a byte for each part, 1 when it
    has come. ``digest`` (BLAKE2b-256) and ``size`` (bytes) are those of the whole. ``doubts`` are
    as in ``Message``: none once a part has come on a session in which its sender is proven, as each
    part names the whole."""

    content: int
    seen: bytes
    digest: bytes
    conversation: bytes
    sender: str
    file_name: str
    size: int
    doubts: tuple[bytes, ...] = ()

    @property
    def share(self) -> str:
        """That in which it counts."""
        return share_of(self.sender, unconfirmed=bool(self.doubts))

    def encode(self) -> bytes:
        """As a record of ``Table.PARTS``."""
        return pack(
            self.content,
            self.seen,
            self.digest,
            self.conversation,
            self.sender,
            self.file_name,
            self.size,
            list(self.doubts),
        )


def decode_incomplete(data: bytes) -> Incomplete:
    """A record of ``Table.PARTS``. Raises DecodeError."""
    types = int, bytes, bytes, bytes, str, str, int, list
    content, seen, digest, conversation, sender, name, size, doubts = unpack(data, *types)
    return Incomplete(content, seen, digest, conversation, sender, name, size, tuple(doubts))


def get_incomplete(reader: Reader, key: bytes) -> Incomplete | None:
    """The message that is not whole with this key in ``Table.PARTS``, if it is there."""
    data = reader.get(Table.PARTS, key)
    return None if data is None else decode_incomplete(data)


def all_incomplete(reader: Reader) -> Iterator[Incomplete]:
    """The messages of all senders of which parts are missing."""
    for _key, data in reader.items(Table.PARTS):
        yield decode_incomplete(data)


def put_incomplete(writer: Writer, key: bytes, message: Incomplete, more: int) -> None:
    """One more part has come, of ``more`` bytes. Past the limits of its share the oldest in it are
    forgotten."""
    before = get_incomplete(writer, key)
    size = _take_out(writer, key, before.share) if before else 0
    writer.put(Table.PARTS, key, message.encode())
    shares = [*_shares(writer, message.share), _Share(key, message.content, size + more)]
    while len(shares) > INCOMPLETE_MAX or sum(s.size for s in shares) > INCOMPLETE_BYTES_MAX:
        oldest = shares.pop(0)
        writer.delete(Table.PARTS, oldest.key)
        writer.delete_prefix(Table.CONTENT, u64(oldest.content))
    _put_shares(writer, message.share, shares)


def complete(writer: Writer, key: bytes) -> None:
    """All of a message has come, or what has is to be forgotten: nothing is left of it but its
    content."""
    message = get_incomplete(writer, key)
    if message is not None:
        writer.delete(Table.PARTS, key)
        _take_out(writer, key, message.share)


def drop_incomplete(writer: Writer, key: bytes) -> None:
    """Forget a message of which parts are missing and what has come of it, if it is still there."""
    message = get_incomplete(writer, key)
    if message is not None:
        complete(writer, key)
        writer.delete_prefix(Table.CONTENT, u64(message.content))


@dataclass(frozen=True, slots=True)
class _Share:
    """What one message takes of a share: its key, its content's id, and bytes that have come."""

    key: bytes
    content: int
    size: int


def share_of(sender: str, *, unconfirmed: bool) -> str:
    """In whose share counts what ``sender`` is said to have sent or named. ``unconfirmed``: it may
    be of somebody else."""
    return f"{sender}?" if unconfirmed else sender  # no name has such a character


def _place(reader: Reader, share: str) -> bytes:
    return Meta.ARRIVING + reader.key_part(share.encode())


def _shares(reader: Reader, share: str) -> list[_Share]:
    """In the order in which something last came."""
    data = reader.get(Table.META, _place(reader, share))
    if data is None:
        return []
    return _decode_shares(data)


def _decode_shares(data: bytes) -> list[_Share]:
    (entries,) = unpack(data, list)
    try:
        return [_Share(key, content, size) for key, content, size in entries]
    except (TypeError, ValueError) as error:
        raise DecodeError("what is arriving is not recorded as this cbfs does it") from error


def _encode_shares(shares: list[_Share]) -> bytes:
    return pack([[share.key, share.content, share.size] for share in shares])


def _take_out(writer: Writer, key: bytes, share: str) -> int:
    """Take a message out of a share: bytes of it that have come."""
    shares = _shares(writer, share)
    others = [each for each in shares if each.key != key]
    if len(others) < len(shares):
        _put_shares(writer, share, others)
    return sum(each.size for each in shares if each.key == key)


def _put_shares(writer: Writer, share: str, shares: list[_Share]) -> None:
    if shares:
        writer.put(Table.META, _place(writer, share), _encode_shares(shares))
    else:
        writer.delete(Table.META, _place(writer, share))
