"""The settings of an account: what ``config.toml`` may say, and ``Configuration``, which has those
in effect and keeps them in the store.

To add one: a field of ``Settings`` with its default, and its entry in ``KEYS``. Whoever reads
``Configuration.current`` at each use has it in effect at once.
"""

import difflib
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import tomli_w
import trio

from cbfs.account.bounds import (
    FILE_SIZE_MIN,
    GRACE,
    GRACE_MAX,
    PACE_MAX,
    PACE_MIN,
    QUOTA_MAX,
    QUOTA_MIN,
    STAGGER_MAX,
    STAGGER_MIN,
)
from cbfs.storage.store import Meta, Store, Table
from cbfs_common.errors import CbfsError
from cbfs_common.limits import BLOB_SIZE_MAX, FILE_SIZE_MAX

CONFIG_MAX = 65_536
"""Bytes of a config.toml."""

_TIMES = {"s": 1, "m": 60, "h": 3_600}

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Strangers(Enum):
    """What becomes of somebody who writes first."""

    ASK = "ask"  # it waits in requests/
    ACCEPT = "accept"  # they are a contact at once


class Reactions(Enum):
    """When receipts and repairs leave: what a client does because something has come."""

    STEADY = "steady"  # in notes at random times, whatever comes, or with what the user writes
    PROMPT = "prompt"  # soon after what has brought them about, too


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an account.

    ``grace``: seconds that a file must be left alone before it is sent (less than that, up to the
    default, when the programs that wrote it have ended). ``file_size_max``: bytes of
    the largest file that may be written in the mount. ``quota``: bytes that programs may make the
    account use in all; 0: as many as the disk has. ``receipts``: senders are told that their
    messages have arrived. ``pace``: mean seconds between two connections that send something or
    nothing, and between two polls; 0: send at once, and stay connected. ``strangers``: what becomes
    of who writes first. ``reactions``: when receipts and repairs leave. ``stagger``: mean seconds
    by which a message to several people goes later to each of them but one; 0: to all at once.
    ``blobs``: large files are put at the home server once, and fetched from there."""

    grace: float = GRACE
    file_size_max: int = BLOB_SIZE_MAX
    quota: int = 0
    receipts: bool = True
    pace: float = 0.0
    strangers: Strangers = Strangers.ASK
    reactions: Reactions = Reactions.STEADY
    stagger: float = 0.0
    blobs: bool = True

    @property
    def largest(self) -> int:
        """Bytes of the largest file that may be written: without blobs no more than goes in
        envelopes."""
        return self.file_size_max if self.blobs else min(self.file_size_max, FILE_SIZE_MAX)


class SettingsError(CbfsError):
    """A config.toml that is not to be used; its text names the key."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of config.toml. ``read`` gives the value of its field, or raises ValueError with
    what the value must be; ``write`` gives it back as TOML has it; ``comment`` is for users."""

    read: Callable[[object], Any]
    write: Callable[[Any], object]
    comment: str


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= GRACE_MAX:
        return float(value)
    raise ValueError(f"a number of seconds from 0 to {GRACE_MAX:.0f}")


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _bytes(value: object) -> int:
    """A size in bytes; 0 for what is no size."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,16}) ?([KMG]iB|B|)", value)):
        return int(match[1]) * _UNITS[match[2]]
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _size(value: object) -> int:
    size = _bytes(value)
    if FILE_SIZE_MIN <= size <= BLOB_SIZE_MAX:
        return size
    raise ValueError('a size like "10 MiB" or "500 KiB", from "64 KiB" to "4 GiB"')


def _quota(value: object) -> int:
    size = _bytes(value)
    if value == "" or QUOTA_MIN <= size <= QUOTA_MAX:
        return size
    raise ValueError('a size like "2 GiB", from "16 MiB" on, or ""')


def _quota_text(size: int) -> object:
    return _size_text(size) if size else ""


def _size_text(size: int) -> object:
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size % _UNITS[unit] == 0)
    return f"{size // _UNITS[unit]} {unit}"


def _time(value: object) -> int:
    """Seconds of a time; -1 for what is none."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,6}) ?([smh])", value)):
        return int(match[1]) * _TIMES[match[2]]
    return -1


def _pace(value: object) -> float:
    pace = _time(value)
    if value == "" or PACE_MIN <= pace <= PACE_MAX:
        return float(pace) if value else 0.0
    raise ValueError('a time like "30s", "5m" or "1h", from "10s" to "24h", or ""')


def _stagger(value: object) -> float:
    stagger = _time(value)
    if value == "" or STAGGER_MIN <= stagger <= STAGGER_MAX:
        return float(stagger) if value else 0.0
    raise ValueError('a time like "30s" or "5m", from "1s" to "1h", or ""')


def words(seconds: float) -> str:
    """A time as config.toml has it."""
    if not seconds:
        return ""
    unit = next(unit for unit in "hms" if seconds % _TIMES[unit] == 0)
    return f"{int(seconds // _TIMES[unit])}{unit}"


def _strangers(value: object) -> Strangers:
    known = {each.value: each for each in Strangers}
    if isinstance(value, str) and value in known:
        return known[value]
    raise ValueError('"ask" or "accept"')


def _reactions(value: object) -> Reactions:
    known = {each.value: each for each in Reactions}
    if isinstance(value, str) and value in known:
        return known[value]
    raise ValueError('"steady" or "prompt"')


KEYS: dict[str, Key] = {
    "grace": Key(
        _seconds,
        lambda seconds: int(seconds) if seconds == int(seconds) else seconds,
        "Seconds that a file must be left alone before it is sent: see mount.cbfs(8).",
    ),
    "file_size_max": Key(
        _size,
        _size_text,
        'The largest file that may be written: "64 KiB" to "4 GiB".',
    ),
    "quota": Key(
        _quota,
        _quota_text,
        'How much of the disk the account may use before programs cannot write: "2 GiB". "": all.',
    ),
    "receipts": Key(
        _truth,
        bool,
        "Whether people who write to you are told that it has arrived.",
    ),
    "pace": Key(
        _pace,
        words,
        'Send and poll at random times, this far apart on average: "5m". "": at once.',
    ),
    "strangers": Key(
        _strangers,
        lambda strangers: strangers.value,
        'Who writes to you first: "ask" lets it wait in requests/, "accept" shows it at once.',
    ),
    "reactions": Key(
        _reactions,
        lambda reactions: reactions.value,
        'When receipts leave: "steady", at times that tell servers nothing, or "prompt": soon.',
    ),
    "stagger": Key(
        _stagger,
        words,
        'How much later a message to a group goes to each member, on average: "60s". "": at once.',
    ),
    "blobs": Key(
        _truth,
        bool,
        "Whether files over 1 MiB are put at your server once. If not: 64 MiB, and to each apart.",
    ),
}
"""Every key, in the order in which the file has them."""


def decode(data: bytes) -> Settings:
    """The settings that a config.toml says; what it leaves out has its default. Raises
    SettingsError."""
    if len(data) > CONFIG_MAX:
        raise SettingsError("it is too long", f"at most {CONFIG_MAX} bytes")
    try:
        table = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SettingsError("it is not UTF-8", "save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"it is not TOML: {error}", 'lines are: key = "value"') from error
    values = {}
    for name, value in table.items():
        key = KEYS.get(name)
        if key is None:
            near = difflib.get_close_matches(name, KEYS, 1)
            hint = f"did you mean {near[0]}" if near else f"the keys are {', '.join(KEYS)}"
            raise SettingsError(f"there is no setting {name!r}", hint)
        try:
            values[name] = key.read(value)
        except ValueError as error:
            default = tomli_w.dumps({name: key.write(getattr(Settings(), name))}).strip()
            raise SettingsError(f"{name} is not {error}", f"for example: {default}") from error
    return Settings(**values)


def encode(settings: Settings) -> bytes:
    """All settings as TOML; ``decode`` gives the same again."""
    table = {name: key.write(getattr(settings, name)) for name, key in KEYS.items()}
    return tomli_w.dumps(table).encode()


def commented(settings: Settings) -> bytes:
    """The config.toml of somebody who has none, with each key explained. What has its default is a
    comment, so that another default of a later version counts."""
    lines = [
        "# Settings, checked when this file is closed. A wrong one leaves the old ones in effect,",
        "# and config.toml.error says what is wrong. See mount.cbfs(8).",
    ]
    for name, key in KEYS.items():
        value = getattr(settings, name)
        line = tomli_w.dumps({name: key.write(value)}).strip()
        comment = "" if value != getattr(Settings(), name) else "# "
        lines += ["", f"# {key.comment}", comment + line]
    return ("\n".join(lines) + "\n").encode()


class Configuration:
    """The settings in effect of an account at work, kept in its store."""

    def __init__(self, store: Store) -> None:
        """Load the settings of this store. Raises CbfsError for settings that this version does not
        know: to go on without them might show what they were to hide."""
        with store.read() as reader:
            data = reader.get(Table.META, Meta.SETTINGS)
        try:
            self._current = Settings() if data is None else decode(data)
        except SettingsError as error:
            raise CbfsError(
                f"the settings of the account cannot be used: {error}",
                "another version of cbfs made them: use that one",
            ) from error
        self._store = store
        self._changed = trio.Event()

    @property
    def current(self) -> Settings:
        """The settings as they are now: read them at each use."""
        return self._current

    @property
    def pace(self) -> float:
        """Mean seconds between two turns to connect; 0: at once."""
        return self._current.pace

    @property
    def is_prompt(self) -> bool:
        """Whether receipts and repairs leave soon after what has brought them about."""
        return self._current.reactions is Reactions.PROMPT

    async def change(self, settings: Settings) -> None:
        """Put other settings into effect; they are on the disk on return. A crash before the commit
        leaves the old ones, one after it the new ones."""
        if settings == self._current:
            return
        data = encode(settings)
        await self._store.commit(lambda writer: writer.put(Table.META, Meta.SETTINGS, data))
        self._current = settings
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self) -> None:
        """Wait until the settings are others."""
        await self._changed.wait()
