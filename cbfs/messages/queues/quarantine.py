"""Envelopes that could not be read: kept, and tried again when that may help.

A record ``number u64 | key_part(envelope) 16 | which 16`` is ``why 1 | session 16 | envelope``;
``which`` stands for the session of what is too far ahead in it, and for all that is of a later
version of the protocol; zeros for the rest. That is tried
when its session has come closer, the rest when a mount begins. An envelope is kept once, however
often it comes. Past QUARANTINE_MAX the oldest go: anybody can send noise to a mailbox.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from cbfs.storage.encoding import u64
from cbfs.storage.store import Reader, Series, Table, Writer
from cbfs_common.limits import QUARANTINE_MAX

RETRIES_MAX = 1_024
"""Envelopes, the newest, that are tried again when a mount begins: so many of a later version, and
of the rest."""

_NO_SESSION = bytes(16)
_HEAD = 17
_ONCE, _WHICH = slice(8, 24), slice(24, 40)
_NONE = bytes(16)
_ALL_LATER = b"\xff" * 16
"""In the place of a session, for all that is of a later version."""

_NAMED_MAX = 64
"""Envelopes of a later version of which is told who sent them."""


class Why(Enum):
    """Why an envelope could not be read."""

    NOISE = b"n"  # nothing that is here opens it
    FAR = b"f"  # too many are missing between it and what has come in its session
    DAMAGED = b"d"  # its session is known, and it does not open in it
    LATER = b"l"  # from somebody whom the directory does not confirm, or by a later program
    VERSION = b"v"  # of a later version of the protocol
    ELSEWHERE = b"e"  # from somebody of a name directory that is not followed
    FAULT = b"p"  # a fault of this program


@dataclass(frozen=True, slots=True)
class QuarantinedEnvelope:
    """An envelope that could not be read, why, and of which session it is when that is known."""

    envelope: bytes
    why: Why
    session: bytes = _NO_SESSION

    def encode(self) -> bytes:
        """why 1 | session 16 | envelope."""
        return self.why.value + self.session + self.envelope


def _decode(data: bytes) -> QuarantinedEnvelope:
    """Any record: one that says a reason that is not known here is of a later version."""
    try:
        why = Why(data[:1])
    except ValueError:
        why = Why.LATER
    return QuarantinedEnvelope(data[_HEAD:], why, data[1:_HEAD])


def keep(writer: Writer, unread: QuarantinedEnvelope) -> None:
    """Keep one that is not here yet; the oldest goes when there are too many."""
    keep_all(writer, [unread])


def keep_all(writer: Writer, found: Iterable[QuarantinedEnvelope]) -> None:
    """Keep each of these that is not here yet; the oldest go when there are too many."""
    kept: set[bytes] | None = None
    for unread in found:
        if kept is None:
            kept = {key[_ONCE] for key in writer.keys(Table.QUARANTINE)}
        once = writer.key_part(unread.envelope)
        if once not in kept:
            kept.add(once)
            _put(writer, once, unread)


def _put(writer: Writer, once: bytes, unread: QuarantinedEnvelope) -> None:
    which = _NONE
    if unread.why is Why.FAR:
        which = which_session(writer, unread.session)
    elif unread.why is Why.VERSION:
        which = which_session(writer, _ALL_LATER)
    key = u64(writer.next_number(Series.QUARANTINE)) + once + which
    writer.put(Table.QUARANTINE, key, unread.encode())
    if writer.count(Table.QUARANTINE) > QUARANTINE_MAX:
        writer.delete(Table.QUARANTINE, next(writer.keys(Table.QUARANTINE)))


def numbered(reader: Reader, number: int) -> bytes | None:
    """The key of the record with this number, or None."""
    return next(reader.keys(Table.QUARANTINE, u64(number)), None)


def which_session(reader: Reader, session: bytes) -> bytes:
    """What stands for a session in the keys of records."""
    return reader.key_part(b"far", session)


def envelope_at(reader: Reader, key: bytes) -> bytes | None:
    """The envelope of a record, or None when it has gone."""
    data = reader.get(Table.QUARANTINE, key)
    return None if data is None else _decode(data).envelope


def reason_at(reader: Reader, key: bytes) -> Why | None:
    """Why the envelope of a record could not be read, or None when it has gone."""
    data = reader.get(Table.QUARANTINE, key)
    return None if data is None else _decode(data).why


def waiting_for(reader: Reader, sessions: Collection[bytes]) -> list[bytes]:
    """Keys of the records of what was too far ahead in one of these sessions, as ``which_session``
    calls them."""
    return [key for key in reader.keys(Table.QUARANTINE) if key[_WHICH] in sessions]


def far_sessions(reader: Reader) -> set[bytes]:
    """The sessions that an envelope is too far ahead in, as ``which_session`` calls them."""
    none = {_NONE, which_session(reader, _ALL_LATER)}
    return {key[_WHICH] for key in reader.keys(Table.QUARANTINE)} - none


def of_later_version(reader: Reader) -> tuple[int, set[bytes]]:
    """How many are of a later version of the protocol, and the sessions of the newest of them."""
    later = which_session(reader, _ALL_LATER)
    keys = [key for key in reader.keys(Table.QUARANTINE) if key[_WHICH] == later]
    found = (reader.get(Table.QUARANTINE, key) for key in keys[-_NAMED_MAX:])
    return len(keys), {_decode(data).session for data in found if data is not None}


def newest(reader: Reader) -> list[bytes]:
    """The keys of the records that are tried again when a mount begins, in their order: no noise
    keeps what is of a later version from being read after an upgrade."""
    later = which_session(reader, _ALL_LATER)
    keys = list(reader.keys(Table.QUARANTINE))
    told = [key for key in keys if key[_WHICH] == later]
    rest = [key for key in keys if key[_WHICH] != later]
    return sorted((*told[-RETRIES_MAX:], *rest[-RETRIES_MAX:]))
