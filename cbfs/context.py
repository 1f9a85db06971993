"""What the parts of the engine share."""

from collections.abc import Callable
from dataclasses import dataclass

from cbfs.account.account import Account
from cbfs.account.configuration import Configuration
from cbfs.contacts.contacts import Peers
from cbfs.contacts.sessions import Sessions
from cbfs.messages.model import Conversation
from cbfs.names.own_time import OwnTime
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems, Retries
from cbfs.storage.store import Store
from cbfs_common.names.policy import Policy
from cbfs_common.primitives import Random


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
    retries: Retries
    time: OwnTime | None = None

    @property
    def may_delete(self) -> bool:
        """Whether the clock may be believed so far that what is too old by it is deleted."""
        return self.time is None or self.time.may_delete

    @property
    def clock_is_right(self) -> bool:
        """Whether the directory agrees with the clock."""
        return self.time is not None and self.time.is_right

    @property
    def pace(self) -> float:
        """Mean seconds between two turns to connect; 0: at once."""
        return self.configuration.pace
