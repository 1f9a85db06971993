"""``metadata.toml``: what it says of a conversation, and what a user may write into it."""

import difflib
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

import tomli_w

from cbfs.contacts.user_names import typed_name
from cbfs.messages import lifetimes
from cbfs.messages.file_names import moment
from cbfs.messages.lifetimes import Setting
from cbfs.messages.model import Conversation
from cbfs.messages.plain_text import escaped
from cbfs.problems import Refused
from cbfs.tree.texts import checked_people

METADATA_MAX = 65_536

_COMMENT = """# To have messages deleted on both sides so long after they are there, from now on:
# lifetime = "7d"
"""

_OF_USERS = ("participants", "subject", "lifetime")
_OF_OURS = ("id", "started", "lifetime_from", "lifetime_since")


def text_of(
    conversation: Conversation, setting: Setting, label: Callable[[str], str], *, editable: bool
) -> str:
    """That of a conversation; one that is ``editable`` says how. True names, ``@NAME`` where
    ``label`` shows one so."""
    text = escaped(tomli_w.dumps(_table(conversation, setting, label)))
    return text if setting.source or not editable else text + _COMMENT


def _table(
    conversation: Conversation, setting: Setting, label: Callable[[str], str]
) -> dict[str, object]:
    def shown(name: str) -> str:
        return called if (called := label(name))[0] == "@" else name

    table: dict[str, object] = {
        "id": conversation.id.hex(),
        "participants": [shown(name) for name in conversation.participants],
        "subject": conversation.subject,
        "started": moment(conversation.started),
    }
    if setting.source:
        table["lifetime"] = lifetimes.words(setting.lifetime.seconds)
        table["lifetime_from"] = shown(setting.source)
        table["lifetime_since"] = moment(setting.since)
    return table


def read_new(
    data: bytes, called: Callable[[str], str] = typed_name
) -> tuple[tuple[str, ...], str, int]:
    """(participants, subject, seconds that messages are kept or 0) of one that a user wrote for a
    conversation that is to be; ``called`` says whom a name means. Raises Refused."""
    table = _parse(data)
    _check_keys(table, (*_OF_USERS, *_OF_OURS))  # it may be a copy of another one
    participants, subject = table.get("participants"), table.get("subject", "")
    if not isinstance(participants, list) or not all(isinstance(n, str) for n in participants):
        raise Refused("metadata.toml is wrong", 'it needs: participants = ["bob", "carol"]')
    if not isinstance(subject, str):
        raise Refused("metadata.toml is wrong", 'subject is a text: subject = "lunch"')
    return checked_people(participants, called), subject, _lifetime(table.get("lifetime", ""))


def read_changed(
    data: bytes, conversation: Conversation, setting: Setting, label: Callable[[str], str] = str
) -> int | None:
    """The seconds that a user has set for a conversation, None when none are said. What else is
    said must be as it is. Raises Refused."""
    table, known = _parse(data), _table(conversation, setting, label)
    _check_keys(table, (*_OF_USERS, *_OF_OURS))
    for key, value in table.items():
        if not key.startswith("lifetime") and value != known[key]:
            raise Refused(f"{key} of a conversation cannot be changed", "change lifetime alone")
    return _lifetime(table["lifetime"]) if "lifetime" in table else None


def _parse(data: bytes) -> dict[str, Any]:
    try:
        if len(data) > METADATA_MAX:
            raise ValueError("it is too long")
        return tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"metadata.toml is wrong: {error}", "mend it") from error


def _check_keys(table: dict[str, Any], keys: Iterable[str]) -> None:
    for name in table:
        if name not in keys:
            near = difflib.get_close_matches(name, keys, 1)
            hint = f"did you mean {near[0]}" if near else f"you may set {', '.join(_OF_USERS)}"
            raise Refused(f"metadata.toml is wrong: there is no {name!r}", hint)


def _lifetime(value: object) -> int:
    try:
        return lifetimes.parse(value)
    except ValueError as error:
        raise Refused(
            f"metadata.toml is wrong: lifetime is not {error}", 'for example: lifetime = "7d"'
        ) from error
