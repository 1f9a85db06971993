"""The states of sessions, and which of them is sent on. PROTOCOL.rst, Session, States.

Pure. What is done at a transition stands here by name; the client does it (``cbfs.contacts``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Stage(Enum):
    """How far a session has come."""

    OUT = "out"
    """Begun here, and nothing has come back."""

    IN = "in"
    """Begun by the peer, who is not proven: whoever has stolen a prekey may have begun it."""

    CONFIRMED = "confirmed"
    """A turn of the peer has come that only the holder of its static keys can have made."""


class Event(Enum):
    """What happens to a session."""

    BEGUN = "begun here"
    START = "turn 0 opens"
    ANSWER = "turn 1 opens"
    PROOF = "turn 2 opens"
    MORE = "more opens"
    DIVERGED = "diverged"
    CROWDED = "two newer are in"
    IDLE = "idle"


class Action(Enum):
    """What else is done in the transaction of an event."""

    DOUBT = "doubt"
    """When the peer is confirmed in another session, notes are dropped, and messages that say more
    of their conversation than that they are there."""

    OWE = "owe"
    """The peer is owed a turn: the answer, or turn 2."""

    COUNT = "count"
    """The peer's life that it says counts, if it is a later one than that which counts. When it is
    a new one, all that has no receipt is sealed anew."""

    GIVE_UP = "give up"
    """All sessions with the peer are deleted, and one's life for the peer is a new one."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """What an event makes of a session: None when it is deleted."""

    stage: Stage | None
    actions: frozenset[Action]


def _to(stage: Stage | None, *actions: Action) -> StateChange:
    return StateChange(stage, frozenset(actions))


TABLE = {
    (None, Event.BEGUN): _to(Stage.OUT),
    (None, Event.START): _to(Stage.IN, Action.DOUBT, Action.OWE),
    (Stage.OUT, Event.ANSWER): _to(Stage.CONFIRMED, Action.COUNT, Action.OWE),
    (Stage.OUT, Event.DIVERGED): _to(None),
    (Stage.OUT, Event.IDLE): _to(None),
    (Stage.IN, Event.MORE): _to(Stage.IN, Action.DOUBT, Action.OWE),
    (Stage.IN, Event.PROOF): _to(Stage.CONFIRMED, Action.COUNT),
    (Stage.IN, Event.DIVERGED): _to(None),
    (Stage.IN, Event.CROWDED): _to(None),
    (Stage.IN, Event.IDLE): _to(None),
    (Stage.CONFIRMED, Event.MORE): _to(Stage.CONFIRMED, Action.COUNT),
    (Stage.CONFIRMED, Event.DIVERGED): _to(None, Action.GIVE_UP),
    (Stage.CONFIRMED, Event.IDLE): _to(None),
}
"""All that can happen. A state of None: there is no such session yet."""


def opening(before: Stage | None, after: Stage) -> Event:
    """What the opening of an envelope was, by the stages before and after it."""
    if before is None:
        return Event.START
    if before is after:
        return Event.MORE
    return Event.ANSWER if before is Stage.OUT else Event.PROOF


@dataclass(frozen=True, slots=True)
class Candidate:
    """A session that may be sent on. ``heard``: when something was opened on it last, ``made``:
    since when it is there; in one unit, larger numbers are later. ``life``: the peer's, as said on
    it. ``proven``: the peer has opened a turn of one's own that only this side can have made, so
    that the session is confirmed there as well."""

    id: bytes
    stage: Stage
    life: bytes | None
    heard: int
    made: int
    proven: bool

    @property
    def used(self) -> int:
        """When it was made, or something opened on it."""
        return max(self.heard, self.made)


@dataclass(frozen=True, slots=True)
class Choice:
    """Ids of sessions. ``first``: what is written goes on it at once; ``second``: and on this one
    when one's turn comes. ``note``: what is told on it counts as told. ``owed``: on these a turn
    is owed, besides. ``silent``: nothing has come on ``note`` for long, and it is not proven, so
    that the peer may have it no more, and what the user writes begins another."""

    first: bytes | None = None
    second: bytes | None = None
    note: bytes | None = None
    owed: tuple[bytes, ...] = ()
    silent: bool = False


def choose(
    candidates: Iterable[Candidate], present: bytes | None, past: Iterable[bytes], since: int
) -> Choice:
    """Which sessions with one peer are sent on, of those between the identities of now. ``present``
    and ``past``: the lives of the peer that count and have counted. ``since``: what was used before
    is silent, unless it is proven; and beside a confirmed session, what is written goes on one that
    is in when that was made then or later."""
    gone = frozenset(past)
    of: dict[Stage, list[Candidate]] = {stage: [] for stage in Stage}
    for candidate in candidates:
        if candidate.life not in gone:
            of[candidate.stage].append(candidate)
    living = [c for c in of[Stage.CONFIRMED] if c.life == present]
    # of another life than the one that counts, too: an answer says whether it is a later one
    unproven = [c for c in of[Stage.CONFIRMED] if not c.proven]
    out = max(of[Stage.OUT], key=_by_made, default=None)
    confirmed = max((c for c in living if not _is_silent(c, since)), key=_by_heard, default=None)
    if confirmed is None and living:
        confirmed = _instead(max(living, key=_by_heard), out, since)
    begun = of[Stage.IN]
    lately = [c for c in begun if confirmed is None or c.made >= since]
    newest = max(lately, key=_by_made, default=None)
    best = confirmed or _instead(newest, out, since)
    if best is None:
        return Choice()
    first, second = best, newest if confirmed else None
    if second is not None and second.heard > best.heard:
        first, second = second, best
    owed = sorted(c.id for c in (*begun, *unproven) if c is not best)
    silent = _is_silent(best, since)
    return Choice(first.id, second.id if second else None, best.id, tuple(owed), silent)


def _is_silent(candidate: Candidate, since: int) -> bool:
    return not candidate.proven and candidate.used < since


def _instead(kept: Candidate | None, out: Candidate | None, since: int) -> Candidate | None:
    """A session on which the peer was heard, or the one that was begun when it had gone silent."""
    if kept is None or (out is not None and _is_silent(kept, since) and out.made > kept.used):
        return out
    return kept


def excess(
    candidates: Iterable[Candidate], present: bytes | None, past: Iterable[bytes], most: int
) -> frozenset[bytes]:
    """Those of all sessions with one peer, of whatever identities, that go as there are more than
    ``most``, which is 5 or more: none that is sent on. Last of all goes the confirmed one of the
    life that counts that was heard last, as the peer may be able to read no other."""
    there, gone = list(candidates), frozenset(past)
    living = [c for c in there if c.stage is Stage.CONFIRMED and c.life == present]
    proven = [c for c in living if c.proven]
    last, known = (max(some, key=_by_heard, default=None) for some in (living, proven))
    out = max((c for c in there if c.stage is Stage.OUT), key=_by_made, default=None)

    def rank(c: Candidate) -> tuple[bool, bool, bool, bool, bool, int]:
        begins = c is out or (c.stage is Stage.IN and c.life not in gone)
        confirmed = c.stage is Stage.CONFIRMED
        return c is last, c is known, begins, confirmed and c.life == present, confirmed, c.used

    there.sort(key=rank)
    return frozenset(c.id for c in there[: max(0, len(there) - most)])


def _by_heard(candidate: Candidate) -> int:
    return candidate.heard


def _by_made(candidate: Candidate) -> int:
    return candidate.made
