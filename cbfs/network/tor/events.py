"""What tor reports, as values without stem, and the state of its start in words. Pure."""

import re
import shlex
from dataclasses import dataclass
from typing import Final

STUCK_AFTER: Final = 60.0
"""Seconds without progress after which the start of tor is called stuck."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """A circuit has changed. control-spec 4.1.1."""

    id: str
    user: str
    """SOCKS user name of the streams it is for, may be empty."""
    ended: bool
    purpose: str = ""
    group: str = ""
    """The conflux set that it is a leg of, may be empty."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream has changed. control-spec 4.1.2."""

    id: str
    circuit: str
    """Empty while it is on none."""
    user: str
    ended: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Liveness:
    """Whether relays answer and circuits can be built. control-spec 4.1.10 and 4.1.27."""

    up: bool


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How far tor has come. control-spec 5.5."""

    percent: int
    summary: str
    warning: str = ""
    """Why it does not go on, in tor's word; empty while it does."""


Event = Circuit | Stream | Liveness | Bootstrap


def parse_bootstrap(text: str) -> Bootstrap:
    """From a ``STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=10 ...`` line or the answer to GETINFO
    ``status/bootstrap-phase``. What is missing counts as 0 percent."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    fields = dict(word.split("=", 1) for word in words if "=" in word)
    progress = fields.get("PROGRESS", "0")
    percent = min(int(progress), 100) if re.fullmatch("[0-9]{1,3}", progress) else 0
    warning = fields.get("WARNING") or fields.get("REASON", "")
    return Bootstrap(percent, fields.get("SUMMARY", fields.get("TAG", "starting")), warning)


def bootstrap_words(state: Bootstrap, without_progress: float) -> str:
    """The state of the start for a user, ``without_progress`` seconds after it last went on."""
    if state.percent == 100:
        return "connected to the Tor network"
    words = f"connecting to the Tor network: {state.percent}% ({state.summary})"
    if state.warning:
        return f"{words}, stuck: {state.warning}"
    if without_progress >= STUCK_AFTER:
        return f"{words}, stuck for {without_progress / 60:.0f} min"
    return words
