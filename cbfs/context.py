"""What the parts of the engine share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cbfs.account import Account
from cbfs.configuration import Configuration
from cbfs.model import Conversation
from cbfs.pacing import PacedDialer
from cbfs.peers import Peers
from cbfs.sessions import Sessions
from cbfs.store import Store
from cbfs_common.names_policy import Policy
from cbfs_common.primitives import Random

BACKOFF_FIRST = 0.5
BACKOFF_MOST = 300.0
"""Seconds between tries, doubled each time."""


@dataclass(slots=True)
class Backoff:
    """Growing waits between tries, each at random between a half and the whole of its step, so
    that clients of a server that comes back do not all come at once."""

    random: Random
    _step: float = BACKOFF_FIRST

    def next(self) -> float:
        """Seconds to wait now."""
        share = 0.5 + int.from_bytes(self.random.token(2), "big") / 131_072
        wait = self._step * share
        self._step = min(self._step * 2, BACKOFF_MOST)
        return wait

    def reset(self) -> None:
        """It worked: begin anew."""
        self._step = BACKOFF_FIRST


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

    def tell(self) -> None:
        """Something else that ``status`` shows has changed."""
        self.changed()

    def lines(self) -> tuple[str, ...]:
        """All, by topic."""
        return tuple(self._texts[topic] for topic in sorted(self._texts))


@dataclass(frozen=True, slots=True)
class Context:
    """One account at work. ``clock`` gives milliseconds since 1970, UTC."""

    account: Account
    policy: Policy
    store: Store
    configuration: Configuration
    sessions: Sessions
    peers: Peers
    conversations: dict[bytes, Conversation]
    dialer: PacedDialer
    clock: Callable[[], int]
    random: Random
    problems: Problems

    @property
    def pace(self) -> float:
        """Mean seconds between two turns to connect; 0: at once."""
        return self.configuration.current.pace
