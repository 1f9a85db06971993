"""The table of the route tags that are expected next: finding the session of an envelope costs
the same with one session or ten thousand. PROTOCOL.rst, Session, Finding the session."""

from dataclasses import dataclass

from cbfs_common.limits import ENVELOPE_SIZE, ROUTE_WINDOW, ROUTE_WINDOW_NEXT, TRIALS_MAX
from cbfs_common.session.envelope import ROUTE_SIZE, number_of, route_of
from cbfs_common.session.session import Session
from cbfs_common.session.state import Skipped


@dataclass(frozen=True, slots=True)
class _Range:
    """Message numbers of one chain: those from ``start`` to ``end``, and ``skipped``."""

    start: int
    end: int
    skipped: Skipped


_EMPTY = _Range(0, 0, {})


class Routes:
    """Expected route tags of all sessions. In memory only: made anew from the sessions."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, bytes] = {}
        self._ranges: dict[bytes, dict[bytes, _Range]] = {}

    def __len__(self) -> int:
        """How many route tags are held."""
        return len(self._sessions)

    def update(self, session: Session) -> None:
        """Add a session, or take in what opening or sealing an envelope with it has changed."""
        session_id = session.id
        before = self._ranges.pop(session_id, {})
        after = _ranges(session)
        for header_key in before.keys() | after.keys():
            was, now = before.get(header_key, _EMPTY), after.get(header_key, _EMPTY)
            if was == now:
                continue
            for number in _numbers(was, now):
                self._sessions.pop(route_of(header_key, number), None)
            for number in _numbers(now, was):
                self._sessions[route_of(header_key, number)] = session_id
        self._ranges[session_id] = after  # moves to the end: tried first by search

    def remove(self, session_id: bytes) -> None:
        """Forget a session. Nothing happens when it is not there."""
        for header_key, numbers in self._ranges.pop(session_id, {}).items():
            for number in _numbers(numbers, _EMPTY):
                self._sessions.pop(route_of(header_key, number), None)

    def find(self, envelope: bytes) -> bytes | None:
        """The id of the session that expects an envelope (or a route of 16 bytes)."""
        return self._sessions.get(envelope[:ROUTE_SIZE])

    def search(self, envelope: bytes) -> bytes | None:
        """The id of the session one of whose header keys the envelope's route is of: slower,
        for an envelope that was not expected. At most TRIALS_MAX keys are tried, those of the
        session that last received first."""
        if len(envelope) != ENVELOPE_SIZE:
            return None
        trials = 0
        for session_id, ranges in reversed(self._ranges.items()):
            for header_key in ranges:
                if trials == TRIALS_MAX:
                    return None
                trials += 1
                if number_of(header_key, envelope) is not None:
                    return session_id
        return None


def _ranges(session: Session) -> dict[bytes, _Range]:
    state = session.state
    ranges = {}
    if state.next_receiving is not None:
        ranges[state.next_receiving] = _Range(0, ROUTE_WINDOW_NEXT, {})
    if state.receiving is not None:
        seal, number = state.receiving.seal, state.receiving.number
        skipped = state.receiving.skipped
        ranges[seal.header_key] = _Range(number, number + ROUTE_WINDOW, skipped)
    for chain in state.retired:
        ranges[chain.header_key] = _Range(0, 0, chain.skipped)
    return ranges


def _numbers(of: _Range, but: _Range) -> list[int]:
    """The message numbers of one range that are not in the other."""
    numbers = [
        number
        for number in range(of.start, of.end)
        if not but.start <= number < but.end and number not in but.skipped
    ]
    if of.skipped is not but.skipped:
        numbers += [
            number
            for number in of.skipped
            if number not in but.skipped and not but.start <= number < but.end
        ]
    return numbers
