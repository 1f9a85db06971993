"""The file ``status`` of a mount as a record for other programs: one object of JSON on one line.
The manual page cbfs(1) lists its fields under STATUS AS JSON, and a test holds the two together.

Fields may be added; none is taken away, nor means something else. Every field is always there.
"""

import json
from pathlib import Path

from cbfs.account.place import unreadable, waiting

SECTIONS = {
    "waiting to be delivered:": "queue",
    "arriving:": "arriving",
    "delivered, without a receipt so far:": "unreceived",
    "strangers who wait for your decision, in requests/:": "requests",
    "deleted when their time is over:": "ending",
    "files that get other names:": "renaming",
    "in the outbox:": "outbox",
    "problems:": "problems",
}
"""The headings of the file, and the fields that have the lines below them."""

FIELDS = (
    *("name", "connection", "network", "delivered", *SECTIONS.values()),
    *("account", "spool_waiting", "spool_unreadable"),
)
"""In the order in which they stand."""

_INDENT = "  "


def as_json(text: str, account: Path | None) -> str:
    """The record of a ``status``, as one line with its end. ``account``: its directory, None when
    that is not known."""
    head, _, rest = text.partition("\n\n")
    first, *network = head.splitlines()
    name, _, connection = first.partition(": ")
    lists: dict[str, list[str]] = {field: [] for field in SECTIONS.values()}
    field = ""
    for line in rest.splitlines():
        if not line.startswith(_INDENT):
            field = SECTIONS.get(line, "")
        elif field:
            lists[field].append(line.removeprefix(_INDENT))
    record = {
        "name": name,
        "connection": connection,
        "network": network,
        "delivered": not lists["queue"],
        **lists,
        "account": str(account) if account else None,
        "spool_waiting": waiting(account) if account else 0,
        "spool_unreadable": unreadable(account) if account else 0,
    }
    return json.dumps(record, ensure_ascii=True) + "\n"
