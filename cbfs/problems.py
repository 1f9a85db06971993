"""What goes wrong and may go right later: refusals, what ``status`` says of it, and when what has
failed is tried again, by one schedule for all of an account.

Waits grow exponentially and are cut at random. What is known to be gone waits for days. However
many peers cannot be reached, so many tries a minute are made for all of them, and no more. When
something can be reached after nothing could, what has failed for want of a network is tried soon.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import trio

from cbfs_common.errors import CbfsError
from cbfs_common.primitives import Random

FIRST = 0.5
MOST = 300.0
"""Seconds between tries, doubled each time."""

AGEING = 10
LONGEST = 3_600.0
"""What was refused for long may wait for this share of that time instead; and the most."""

GONE_FIRST = 86_400.0
GONE_MOST = 7 * 86_400.0
"""Seconds between tries of what is known to be gone, the first and the most."""

PER_MINUTE = 300
BURST = 60
"""Tries that are made for the whole account, of things that have failed or that nobody waits for;
and how many of them at once after a pause."""

_MOMENT = 0.001
"""The shortest wait for a turn: less may be lost in the sum of two large numbers."""

SOON = 5.0
"""Seconds within which things are tried again when the network is back, and at the least since
their last try; the latter doubles each time that it was for nothing."""


class Refused(CbfsError):
    """A file that cannot be sent as it is. Text and hint become its error file."""


class ContactRefused(Refused):
    """A file that cannot be sent in the state that a contact is in: it is tried again when that
    changes. Text and hint become its error file."""


class NotAName(Refused):
    """What somebody is to be called cannot be a name."""

    def __init__(self, petname: str) -> None:
        super().__init__(f"{petname!r} cannot be a name", "a-z and 0-9, single - or _ inside")


class Taken(Refused):
    """What somebody is to be called means somebody else."""

    def __init__(self, petname: str) -> None:
        super().__init__(f"{petname} is somebody else", "choose another name")


class NotYet(CbfsError):
    """A file that cannot be sent now (say, the directory does not answer). It stays in the
    outbox and is tried again when ``View.retry`` is called."""


@dataclass(slots=True)
class Problems:
    """What does not work at the moment, by topic, in words for ``status``."""

    changed: Callable[[], None]
    _texts: dict[str, str] = field(default_factory=dict)

    def set(self, topic: str, text: str) -> None:
        """This is wrong now."""
        if self._texts.get(topic) != text:
            self._texts[topic] = text
            self.changed()

    def clear(self, topic: str) -> None:
        """This is no longer wrong."""
        if self._texts.pop(topic, None) is not None:
            self.changed()

    def of(self, topic: str) -> str:
        """What is wrong with that, or empty."""
        return self._texts.get(topic, "")

    def tell(self) -> None:
        """Something else that ``status`` shows has changed."""
        self.changed()

    def lines(self) -> tuple[str, ...]:
        """All, by topic."""
        return tuple(self._texts[topic] for topic in sorted(self._texts))


class Cause(Enum):
    """Why something has failed."""

    NETWORK = "network"  # it was not reached
    AWAY = "away"  # the same, and that a server is reached again says nothing of it
    REFUSED = "refused"  # it was, and somebody else has to do something first
    GONE = "gone"  # it is not there any more


@dataclass(slots=True)
class Backoff:
    """Growing waits between tries, each at random between a half and the whole of its step, so
    that clients of a server that comes back do not all come at once."""

    random: Random
    _step: float = FIRST

    def next(self) -> float:
        """Seconds to wait now."""
        wait = self._step * _share(self.random)
        self._step = min(self._step * 2, MOST)
        return wait

    def reset(self) -> None:
        """It worked: begin anew."""
        self._step = FIRST


def _share(random: Random) -> float:
    return 0.5 + int.from_bytes(random.token(2), "big") / 131_072


@dataclass(slots=True)
class _Failed:
    """``tries`` have failed since ``since``, the last at ``last``; the next is ``due``. ``hurried``
    counts those that came early as the network was back."""

    since: float
    tries: int = 0
    last: float = 0.0
    due: float = 0.0
    hurried: int = 0
    cause: Cause = Cause.NETWORK


@dataclass(slots=True)
class Schedule:
    """What has failed, by key. Pure: ``now`` in seconds, on any clock that does not go back."""

    random: Random
    _failed: dict[str, _Failed] = field(default_factory=dict)
    _down: bool = False
    _tokens: float = BURST
    _counted: float = 0.0

    def failed(self, key: str, now: float, cause: Cause) -> float:
        """Seconds until it is due again."""
        known = self._failed.setdefault(key, _Failed(now))
        if cause is Cause.GONE and known.cause is not cause:
            known.tries = 0
        known.tries += 1
        known.last, known.cause = now, cause
        self._down = self._down or cause is Cause.NETWORK
        first, most = FIRST, MOST
        if cause is Cause.REFUSED:
            most = min(max(MOST, (now - known.since) / AGEING), LONGEST)
        elif cause is Cause.GONE:
            first, most = GONE_FIRST, GONE_MOST
        wait = min(first * 2.0 ** min(known.tries - 1, 64), most) * _share(self.random)
        known.due = now + wait
        return wait

    def worked(self, key: str, now: float) -> bool:
        """It is forgotten. True when that shows that the network is back: others are due sooner."""
        self._failed.pop(key, None)
        return self.alive(now)

    def alive(self, now: float) -> bool:
        """Something was reached. True when nothing was before: others are due sooner."""
        if not self._down:
            return False
        self._down = False
        self._hasten(now, {Cause.NETWORK})
        return True

    def connected(self, now: float) -> None:
        """The network is back, as it says itself: all that was not reached is due sooner."""
        self._hasten(now, {Cause.NETWORK, Cause.AWAY})

    def _hasten(self, now: float, causes: set[Cause]) -> None:
        for known in self._failed.values():
            early = max(known.last + SOON * 2.0**known.hurried, now + SOON * _share(self.random))
            if known.cause in causes and early < known.due:
                known.due = early
                known.hurried = min(known.hurried + 1, 16)

    def sooner(self, key: str, now: float) -> None:
        """Something of it is new: it is due."""
        if key in self._failed:
            self._failed[key].due = now

    def forget(self, key: str) -> None:
        """Nobody wants it any more."""
        self._failed.pop(key, None)

    def due(self, key: str) -> float:
        """When it is to be tried; 0 for what has not failed."""
        known = self._failed.get(key)
        return known.due if known else 0.0

    def take(self, now: float) -> float:
        """Count a try of the account's: 0 when it may be made now, else the seconds until one may,
        and it does not count."""
        passed = max(0.0, now - self._counted)
        self._tokens = min(BURST, self._tokens + passed * PER_MINUTE / 60)
        self._counted = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return max((1 - self._tokens) * 60 / PER_MINUTE, _MOMENT)


class Retries:
    """The schedule of an account at work, on trio's clock."""

    def __init__(self, random: Random) -> None:
        self._schedule = Schedule(random)
        self._news = trio.Event()
        self.sooner_than_said: Callable[[], None] = lambda: None
        """Told when what has failed is due sooner than ``failed`` has said."""
        self.all_sooner: Callable[[], None] = lambda: None
        """Told before that, when it is all that was not reached, at once."""

    def failed(self, key: str, cause: Cause = Cause.NETWORK) -> float:
        """A try has failed. Seconds until the next one is due."""
        return self._schedule.failed(key, trio.current_time(), cause)

    def worked(self, key: str) -> None:
        """A try has worked: what it was of is forgotten, and others are due sooner if nothing was
        reached before."""
        if self._schedule.worked(key, trio.current_time()):
            self._tell_all()

    def alive(self) -> None:
        """Something was reached: others are due sooner if nothing was before."""
        if self._schedule.alive(trio.current_time()):
            self._tell_all()

    def connected(self) -> None:
        """The network is back, as it says itself: all that was not reached is due sooner."""
        self._schedule.connected(trio.current_time())
        self._tell_all()

    def sooner(self, key: str) -> None:
        """Something of it is new: it is due."""
        self._schedule.sooner(key, trio.current_time())
        self._tell()

    def forget(self, key: str) -> None:
        """Nobody wants it any more."""
        self._schedule.forget(key)

    def due(self, key: str) -> float:
        """When it is to be tried, in seconds on trio's clock; 0 for what has not failed."""
        return self._schedule.due(key)

    def take(self) -> float:
        """Count a try of the account's: 0 when it may be made now, else the seconds until one may,
        and it does not count."""
        return self._schedule.take(trio.current_time())

    async def turn(self) -> None:
        """Wait until a try of the account's may be made."""
        wait = self.take()
        while wait:
            await trio.sleep(wait)
            wait = self.take()

    async def wait(self, key: str) -> None:
        """Until it is due."""
        while (due := self.due(key)) > trio.current_time():
            with trio.move_on_at(due):
                await self._news.wait()

    def _tell_all(self) -> None:
        self.all_sooner()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
        self.sooner_than_said()


def in_words(seconds: float) -> str:
    """``40 s``, ``5 min``, ``2 h``, ``3 d``: rounded up."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{-int(-seconds // size)} {unit}"
    return f"{seconds:.0f} s"
