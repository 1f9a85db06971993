"""Envelopes that could not be read: kept, and tried again when that may help.

A record is ``why 1 | session 16 | envelope``. What is too far ahead of its session is tried when
that session has come closer, the rest when a mount begins. Past QUARANTINE_MAX the oldest go:
anybody can send noise to a mailbox.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from cbfs.store import Reader, Table, Writer
from cbfs.stored import u64
from cbfs_common.limits import QUARANTINE_MAX

RETRIES_MAX = 1_024
"""Envelopes, the newest, that are tried again when a mount begins."""

_NO_SESSION = bytes(16)
_HEAD = 17


class Why(Enum):
    """Why an envelope could not be read."""

    NOISE = b"n"  # nothing that is here opens it
    FAR = b"f"  # too many are missing between it and what has come in its session
    DAMAGED = b"d"  # its session is known, and it does not open in it
    LATER = b"l"  # of a later version, or from somebody whom the directory does not confirm
    FAULT = b"p"  # a fault of this program


@dataclass(frozen=True, slots=True)
class Unread:
    """An envelope, and of which session it is when that is known."""

    envelope: bytes
    why: Why
    session: bytes = _NO_SESSION


def keep(writer: Writer, unread: Unread) -> None:
    """Keep one; the oldest goes when there are too many."""
    key = u64(writer.next_number(Table.QUARANTINE.value))
    writer.put(Table.QUARANTINE, key, unread.why.value + unread.session + unread.envelope)
    if writer.count(Table.QUARANTINE) > QUARANTINE_MAX:
        writer.delete(Table.QUARANTINE, next(writer.keys(Table.QUARANTINE)))


def envelope_at(reader: Reader, key: bytes) -> bytes | None:
    """The envelope of a record, or None when it has gone."""
    data = reader.get(Table.QUARANTINE, key)
    return None if data is None else data[_HEAD:]


def reason_at(reader: Reader, key: bytes) -> Why | None:
    """Why the envelope of a record could not be read, or None when it has gone."""
    data = reader.get(Table.QUARANTINE, key)
    return None if data is None else Why(data[:1])


def waiting_for(reader: Reader, sessions: Iterable[bytes]) -> list[bytes]:
    """Records of what was too far ahead in one of these sessions. Looks at all records: call it
    for sessions that have some."""
    wanted = set(sessions)
    return [
        key
        for key, data in reader.items(Table.QUARANTINE)
        if data[:1] == Why.FAR.value and data[1:_HEAD] in wanted
    ]


def far_sessions(reader: Reader) -> set[bytes]:
    """The sessions that something is too far ahead in."""
    return {
        data[1:_HEAD] for _key, data in reader.items(Table.QUARANTINE) if data[:1] == Why.FAR.value
    }


def newest(reader: Reader) -> list[bytes]:
    """The records that are tried again at the beginning."""
    return list(reader.keys(Table.QUARANTINE))[-RETRIES_MAX:]
