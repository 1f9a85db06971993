"""The secrets of one's prekeys, as records of ``Table.PREKEYS``, and which of them are kept.

At most PREKEY_SECRETS_MAX, and each for a time that no server can prolong: whatever a server says
of its prekeys, a client replaces them once in PREKEY_REPLACE_PAUSE at most. PROTOCOL.rst, Prekeys.
"""

from collections.abc import Iterable
from itertools import pairwise

from cbfs.storage.encoding import pack, unpack, unpack_map
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.limits import (
    LAST_RESORT_GRACE,
    LAST_RESORT_LIFETIME,
    PREKEY_GRACE,
    PREKEY_LIFETIME,
    PREKEY_RENEWAL,
    PREKEY_REPLACE_PAUSE,
    PREKEY_SECRETS_MAX,
)
from cbfs_common.session.prekey import PrekeyKind, PrekeyPair

LIFETIME = {
    PrekeyKind.ONE_TIME: PREKEY_LIFETIME,
    PrekeyKind.LAST_RESORT: LAST_RESORT_LIFETIME,
}
"""Seconds from when a prekey is made until it expires."""

_GRACE = {PrekeyKind.ONE_TIME: PREKEY_GRACE, PrekeyKind.LAST_RESORT: LAST_RESORT_GRACE}

CLOCK_SLACK = 86_400
"""Seconds by which two clocks that are right may differ."""


def is_ahead(kind: PrekeyKind, expires: int, now: int) -> bool:
    """Whether a prekey was made by a clock that was ahead of ``now`` (both in seconds)."""
    return expires > now + LIFETIME[kind] + CLOCK_SLACK


def _is_ahead(pair: PrekeyPair, now: int) -> bool:
    return is_ahead(pair.kind, pair.expires, now)


def made_at(pair: PrekeyPair) -> int:
    """When a prekey was made, in seconds since 1970."""
    return pair.expires - LIFETIME[pair.kind]


class PrekeySecrets:
    """Those of one account, in memory as they are in the store; all times are in seconds since
    1970."""

    def __init__(self, reader: Reader) -> None:
        self.pairs: dict[bytes, PrekeyPair] = {}
        """By id. Not to be changed from outside."""
        for _key, data in reader.items(Table.PREKEYS):
            pair = PrekeyPair.decode(data)
            self.pairs[pair.id] = pair
        replaced = reader.get(Table.META, Meta.PREKEYS_REPLACED)
        self._replaced = None if replaced is None else _decode_time(replaced)
        self.ahead = _decode_ahead(reader.get(Table.META, Meta.PREKEYS_AHEAD))
        """Those that were made by a clock that was ahead, by their ids, and since when that is
        known. What is made later looks the same, once the clock has come to where it was."""

    def of(self, kind: PrekeyKind) -> list[PrekeyPair]:
        """All of one kind, the oldest first."""
        return sorted((p for p in self.pairs.values() if p.kind is kind), key=made_at)

    def made(self, pair: PrekeyPair, now: int) -> int:
        """When this one was made, as far as is known at ``now``: no later than when it was seen
        that a clock had been ahead which has dated it."""
        return min(self.ahead.get(pair.id, made_at(pair)), now)

    def given_out(self) -> list[PrekeyPair]:
        """The one-time prekeys that an honest server may still give away: those that were made
        since all were replaced."""
        since = self._replaced or 0
        return [pair for pair in self.of(PrekeyKind.ONE_TIME) if made_at(pair) >= since]

    def is_to_be_replaced(self, now: int, *, wrong: bool) -> bool:
        """Whether those on the server are to be replaced. ``wrong``: it seems to have others than
        it was given. Without any secret, as after a restore, they are at once."""
        since = self._replaced
        if since is None or since > now or not self.of(PrekeyKind.LAST_RESORT):
            return True
        return now >= since + (PREKEY_REPLACE_PAUSE if wrong else PREKEY_RENEWAL)

    def write_new(self, writer: Writer, pairs: Iterable[PrekeyPair], replaced: int | None) -> None:
        """Write new ones, and when they take the place of all on the server, if they do; those that
        have no room beside them are forgotten."""
        added = list(pairs)
        for pair in added:
            writer.put(Table.PREKEYS, pair.id, pair.encode())
        for id_ in self._excess(len(added)):
            writer.delete(Table.PREKEYS, id_)
        if replaced is not None:
            writer.put(Table.META, Meta.PREKEYS_REPLACED, _encode_time(replaced))

    def written(self, pairs: Iterable[PrekeyPair], replaced: int | None) -> None:
        """That transaction is on the disk."""
        added = list(pairs)
        self.drop(self._excess(len(added)))
        self.pairs.update((pair.id, pair) for pair in added)
        if replaced is not None:
            self._replaced = replaced

    def drop(self, ids: Iterable[bytes]) -> None:
        """Forget secrets that are not on the disk any more."""
        for id_ in ids:
            self.pairs.pop(id_, None)

    def _excess(self, more: int) -> list[bytes]:
        """The oldest, that have no place beside so many more; last-resort prekeys, of which there
        are few, go last."""
        oldest = self.of(PrekeyKind.ONE_TIME) + self.of(PrekeyKind.LAST_RESORT)
        return [pair.id for pair in oldest[: max(0, len(oldest) + more - PREKEY_SECRETS_MAX)]]

    def old(self, now: int) -> list[bytes]:
        """Those that expired so long ago that nothing can come to them any more, and last-resort
        ones whose successor has been there for LAST_RESORT_GRACE."""
        last = [p for p in self.of(PrekeyKind.LAST_RESORT) if not _is_ahead(p, now)]
        superseded = {
            first.id
            for first, second in pairwise(last)
            if made_at(second) + LAST_RESORT_GRACE < now and made_at(first) < made_at(second)
        }
        return [
            pair.id
            for pair in self.pairs.values()
            if pair.expires + _GRACE[pair.kind] < now
            or pair.id in superseded
            or self.ahead.get(pair.id, now) + LIFETIME[pair.kind] + _GRACE[pair.kind] < now
        ]

    def all_ahead(self, now: int) -> dict[bytes, int]:
        """``ahead`` as it is when the clock was put right at ``now``."""
        return {
            pair.id: self.ahead.get(pair.id, now)
            for pair in self.pairs.values()
            if pair.id in self.ahead or _is_ahead(pair, now)
        }

    def write_ahead(self, writer: Writer, ahead: dict[bytes, int]) -> None:
        """Write which were made by a clock that was ahead, and since when that is known."""
        writer.put(Table.META, Meta.PREKEYS_AHEAD, _encode_ahead(ahead))


def _encode_ahead(ahead: dict[bytes, int]) -> bytes:
    """{id: seconds, ...}."""
    return pack(ahead)


def _decode_ahead(data: bytes | None) -> dict[bytes, int]:
    if data is None:
        return {}
    return unpack_map(unpack(data, dict)[0], bytes, int)


def _encode_time(since: int) -> bytes:
    return pack(since)


def _decode_time(data: bytes) -> int:
    since: int = unpack(data, int)[0]
    return since
