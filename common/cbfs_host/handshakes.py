"""Which connection goes when another needs its place, among those whose handshake is under way.

Whoever has not finished the handshake is nobody yet, and costs as little as a connection. So such
connections have a limit of their own, and go first, at once: those that have said nothing before
those that the server has answered, the oldest of each first. A stranger who opens ``r`` connections
a second and says nothing leaves an honest client ``most / r`` seconds to say its hello, and as long
as before from then on. One part in HANDSHAKES_PART of all places is theirs: when others hold all
the rest, some of those go instead, or a stranger who is busy at each place, with another who says
nothing, would leave an honest client no time at all.
"""

from typing import Final, Generic, TypeVar

T = TypeVar("T")

HANDSHAKES_PART: Final = 16
"""The part of all connections that others do not keep from those whose handshake is under way."""


class Handshakes(Generic[T]):
    """The handshakes under way, ``most`` of them. ``T``: a connection, known by what it is."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._silent: dict[T, None] = {}
        self._answered: dict[T, None] = {}

    def __len__(self) -> int:
        return len(self._silent) + len(self._answered)

    def __contains__(self, connection: T) -> bool:
        return connection in self._silent or connection in self._answered

    @property
    def full(self) -> bool:
        """Before another begins, one has to go."""
        return len(self) >= self.most

    def add(self, connection: T) -> None:
        """One that was accepted."""
        self._silent[connection] = None

    def answered(self, connection: T) -> None:
        """It has said its hello."""
        if connection in self._silent:
            del self._silent[connection]
            self._answered[connection] = None

    def remove(self, connection: T) -> None:
        """It has finished its handshake, or ended."""
        self._silent.pop(connection, None)
        self._answered.pop(connection, None)

    def first_to_go(self) -> T | None:
        """Who is to be ended for another, or None."""
        return next(iter(self._silent or self._answered), None)
