"""Which conversations the mails of a thread went into, as git sends a series: the later ones answer
the first by its Message-ID, which nobody else knows here.

That is kept in the mount, in ui_info/. Nothing of a mail can be read there: it stands for people,
and for a subject, each together with a Message-ID.
"""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

THREADS_MAX: Final = 256
"""Threads that are remembered: the newest."""

_NAME: Final = "sendmail"
_DIGEST_SIZE = 16


class Threads:
    """Those of ``mount``. One that is not remembered begins another conversation, which is no
    reason for which a mail is not sent."""

    def __init__(self, mount: Path) -> None:
        self._path = mount / "ui_info" / _NAME
        self._stage = mount / "tmp"

    def about(self, root: bytes, people: set[str]) -> Callable[[str], bool] | None:
        """Whether the thread of this root went into a conversation of these people about a subject;
        None where nothing is remembered of it."""
        kept = self._lines().get(_mark(root, *sorted(people))) if root else None
        return None if kept is None else lambda subject: _mark(root, subject) == kept

    def remember(self, root: bytes, people: set[str], subject: str) -> None:
        """The thread of this root has gone into a conversation of these people about that."""
        if not root:
            return
        lines, key, mark = self._lines(), _mark(root, *sorted(people)), _mark(root, subject)
        if lines.pop(key, "") == mark:
            return
        lines[key] = mark
        text = "".join(f"{key} {mark}\n" for key, mark in list(lines.items())[-THREADS_MAX:])
        fresh = self._stage / f"mail-{secrets.token_hex(8)}"
        with suppress(OSError):
            fresh.write_text(text, encoding="ascii")
            os.replace(fresh, self._path)  # noqa: PTH105 - one that is there is replaced

    def _lines(self) -> dict[str, str]:
        try:
            text = self._path.read_text(encoding="ascii")
        except (OSError, ValueError):
            return {}
        pairs = (line.split(" ") for line in text.splitlines())
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _mark(root: bytes, *texts: str) -> str:
    """What stands for texts, together with a root."""
    data = "\0".join(texts).encode()
    return blake2b(data, digest_size=_DIGEST_SIZE, key=root).hexdigest()
