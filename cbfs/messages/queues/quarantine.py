"""Envelopes that could not be read: kept, and tried again when that may help.

A record ``number u64 | key_part(envelope) 16 | which 16`` is ``why 1 | session 16 | envelope``;
``which`` stands for the session of what is too far ahead in it, zeros for the rest. That is tried
when its session has come closer, the rest when a mount begins. An envelope is kept once, however
often it comes. Past QUARANTINE_MAX the oldest go: anybody can send noise to a mailbox.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from cbfs.storage.encoding import u64
from cbfs.storage.store import Reader, Series, Table, Writer
from cbfs_common.limits import QUARANTINE_MAX

RETRIES_MAX = 1_024
"""Envelopes, the newest, that are tried again when a mount begins."""

_NO_SESSION = bytes(16)
_HEAD = 17
_ONCE, _WHICH = slice(8, 24), slice(24, 40)
_NONE = bytes(16)


class Why(Enum):
    """Why an envelope could not be read."""

    NOISE = b"n"  # nothing that is here opens it
    FAR = b"f"  # too many are missing between it and what has come in its session
    DAMAGED = b"d"  # its session is known, and it does not open in it
    LATER = b"l"  # of a later version, or from somebody whom the directory does not confirm
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


class Keeping:
    """What one transaction keeps and takes out: all are looked at once, as there may be many."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._once: set[bytes] | None = None
        """By what each is known that is here, when that was asked for."""

    def keep(self, unread: QuarantinedEnvelope) -> None:
        """Keep one that is not here yet; the oldest goes when there are too many."""
        writer = self._writer
        if self._once is None:
            self._once = {key[_ONCE] for key in writer.keys(Table.QUARANTINE)}
        once = writer.key_part(unread.envelope)
        if once in self._once:
            return
        self._once.add(once)
        which = which_session(writer, unread.session) if unread.why is Why.FAR else _NONE
        key = u64(writer.next_number(Series.QUARANTINE)) + once + which
        writer.put(Table.QUARANTINE, key, unread.encode())
        if writer.count(Table.QUARANTINE) > QUARANTINE_MAX:
            self.take_out(next(writer.keys(Table.QUARANTINE)))

    def take_out(self, key: bytes) -> None:
        """Delete the record with this key."""
        self._writer.delete(Table.QUARANTINE, key)
        if self._once is not None:
            self._once.discard(key[_ONCE])


def numbered(reader: Reader, number: int) -> bytes | None:
    """The key of the record with this number, or None."""
    return next(reader.keys(Table.QUARANTINE, u64(number)), None)


def is_far(key: bytes) -> bool:
    """Whether the record with this key is of what is too far ahead in its session."""
    return key[_WHICH] != _NONE


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
    return {key[_WHICH] for key in reader.keys(Table.QUARANTINE)} - {_NONE}


def newest(reader: Reader) -> list[bytes]:
    """The keys of the records that are tried again when a mount begins."""
    return list(reader.keys(Table.QUARANTINE))[-RETRIES_MAX:]
