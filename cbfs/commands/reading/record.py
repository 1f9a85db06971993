"""A message as a record for other programs: one object of JSON, on one line of ASCII. The manual
page cbfs(1) lists its fields under MESSAGES AS JSON, and a test holds the two together.

Fields may be added; none is taken away, nor means something else. Every field is always there.
"""

import json
from collections.abc import Mapping, Sequence

from cbfs.commands.reading.past import Past, PastMessage
from cbfs.messages.file_names import moment

Json = str | int | bool | None | Sequence["Json"] | Mapping[str, "Json"]

FIELDS = (
    *("id", "conversation", "folder", "subject", "participants", "from", "from_name", "own"),
    *("date", "received", "ends", "name", "path", "kind", "text", "size", "file_name", "files"),
    *("whole", "parents", "recipients", "unread", "unconfirmed", "leaving", "added"),
)
"""Of a message, in the order in which they stand."""

FILE_FIELDS = ("name", "size", "saved")
"""Of each of its files."""

RECIPIENT_FIELDS = ("name", "state")
"""Of each of its recipients."""

CONVERSATIONS = "conversations"
"""The folder of a mount in which they are."""


def record_of(
    past: Past, told: PastMessage, me: str, saved: Sequence[str | None] = ()
) -> dict[str, Json]:
    """The record of a message for the account of the true name ``me``. ``saved``: where each of its
    files was saved; empty for nowhere."""
    message, place = told.message, told.place
    places = saved or [None] * len(told.files)
    return {
        "id": message.id.hex(),
        "conversation": place.id.hex(),
        "folder": place.folder,
        "subject": place.subject,
        "participants": [past.shown(name) for name in place.participants],
        "from": past.label(message.sender),
        "from_name": past.shown(message.sender),
        "own": message.sender == me,
        "date": timestamp(message.date),
        "received": timestamp(message.received),
        "ends": timestamp(message.ends) if message.ends else None,
        "name": message.name,
        "path": f"{CONVERSATIONS}/{place.folder}/{message.name}",
        "kind": "folder" if message.folder else "file" if told.text is None else "text",
        "text": told.text,
        "size": message.content.size,
        "file_name": message.file_name,
        "files": [
            {"name": file.name, "size": file.size, "saved": where}
            for file, where in zip(told.files, places, strict=True)
        ],
        "whole": told.whole,
        "parents": [parent.id.hex() for parent in message.parents],
        "recipients": [
            {"name": past.shown(who), "state": state.value} for who, state in message.recipients
        ],
        "unread": told.unread,
        "unconfirmed": bool(message.doubts),
        "leaving": message.leaving,
        "added": [past.shown(name) for name in message.added],
    }


def timestamp(milliseconds: int) -> str:
    """As in RFC 3339, in UTC: ``2026-11-23T14:46:02.123Z``."""
    return moment(milliseconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_line(record: Mapping[str, Json]) -> str:
    """A record as one line of ASCII, with its end: nothing in it can rewrite what stands on a
    terminal."""
    return json.dumps(record, ensure_ascii=True, separators=(", ", ": ")) + "\n"
