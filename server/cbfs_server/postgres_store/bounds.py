"""What a change may go up to, and how it asks the database."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cbfs_server.limits import ENVELOPE_COST, Limits
from cbfs_server.postgres_store.statements import Call, Rows
from cbfs_server.store.room import Room

Ask = Callable[[Sequence[Call]], Awaitable[list[Rows]]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an operator has set, and the room that is left of that; None where nobody has said how
    much there is."""

    limits: Limits
    room: Room | None = None

    @property
    def mailbox(self) -> int:
        """Envelopes that one account may have; 0 when nobody has room."""
        if self.room is None:
            return self.limits.mailbox
        return min(self.limits.mailbox, self.room.share(ENVELOPE_COST))
