"""What waits for a round, while it has to: what could not stand in one goes at once, and of the
rest goes first what is most urgent, and whose name has not been changed for longest."""

from collections.abc import Collection, Iterable

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.names.entry import decode_entry, name_index
from cbfs_common.names.operations import (
    Operation,
    OperationKind,
    OperationRefused,
    Refusal,
    decode_operation,
    kind_of,
)
from cbfs_host.logs import tell_fault
from cbfs_names.state.replay import Replay, StateView, config_now

_URGENT = frozenset(
    (
        OperationKind.CONFIGURE,
        OperationKind.ROTATE,
        OperationKind.RELEASE,
        OperationKind.FREEZE,
        OperationKind.RECOVER,
        OperationKind.CANCEL,
    )
)
"""What helps somebody whose keys were stolen, or the operators."""


class WaitingOperations:
    """Encoded operations that wait for a round, each of which could stand in the next one by
    itself. Of one kind and name there is one: so nobody fills the room for all with one name."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[OperationKind, str] | None] = {}
        self._taken: set[tuple[OperationKind, str] | None] = set()

    def sift(self, view: StateView, pending: Collection[bytes], now: int) -> dict[bytes, Refusal]:
        """Which of all that is ``pending`` has no place in the next round, and why."""
        self._known = {each: what for each, what in self._known.items() if each in pending}
        self._taken = set(self._known.values())
        refused: dict[bytes, Refusal] = {}
        for encoded in pending:
            if encoded in self._known:
                continue
            why = refusal_next(view, encoded, now)
            if why is None and not self._add(encoded):
                why = Refusal.TOO_MANY
            if why is not None:
                refused[encoded] = why
        return refused

    def _add(self, encoded: bytes) -> bool:
        """False when another one of its kind and name waits."""
        operation = decode_operation(encoded)
        what = (operation.kind, operation.name) if operation.name else None
        if what is not None and what in self._taken:
            return False
        self._known[encoded] = what
        self._taken.add(what)
        return True


def refusal_next(view: StateView, encoded: bytes, now: int) -> Refusal | None:
    """Why an encoded operation could not stand in the next round by itself; None: it could. Raises
    StoreError."""
    tip = view.tip()
    number, time = (0, now) if tip is None else (tip.number + 1, max(now, tip.time))
    try:
        Replay(view, config_now(view), number, time).apply(encoded)
    except OperationRefused as error:
        return error.refusal
    except CbfsError:
        raise
    except Exception as error:  # what anybody may send never stops the rounds
        tell_fault("an operation", error)
        return Refusal.BAD_REQUEST
    return None


_OF_NO_OWNER = frozenset(
    (None, OperationKind.COMMIT, OperationKind.REGISTER, OperationKind.CONFIGURE)
)
"""What is of no name that is there, or no operation at all."""

_OF_TIME = frozenset(Refusal) - {
    *(Refusal.BAD_REQUEST, Refusal.WRONG_DIRECTORY, Refusal.WRONG_VERSION),
    *(Refusal.NO_SUCH_NAME, Refusal.CHANGED_OFTEN),
}
"""Why an operation may be refused at one time and not at another."""


def refusal_at_any_time(view: StateView, encoded: bytes, now: int) -> Refusal | None:
    """Why an encoded operation could stand in the next round neither by the clock (``now``) nor by
    what the rounds say the time is; None: it could. What a wrong clock alone refuses has to wait
    for a round, as the clock is looked at before one is made; so the reason is not the clock's.
    That is for owners: what strangers may make any number of, as it changes no name that is there,
    goes by the clock alone. Raises StoreError."""
    why = refusal_next(view, encoded, now)
    if why is None or why not in _OF_TIME or kind_of(encoded) in _OF_NO_OWNER:
        return why
    return refusal_next(view, encoded, min(now, _begin(view, encoded)))


def _begin(view: StateView, encoded: bytes) -> int:
    """The time (seconds) from which on an operation's term can be asked for, or 0. A renewal is
    for as long as names last from when it was made, and so for too long at the last round."""
    if kind_of(encoded) is not OperationKind.RENEW:
        return 0
    try:
        operation = decode_operation(encoded)
    except DecodeError:
        return 0  # it is refused
    return max(0, operation.until - config_now(view).lifetime)


def first_of(
    view: StateView, pending: Iterable[bytes], receipted: Collection[bytes], room: int
) -> list[bytes]:
    """Those that go into the next round, of which there is ``room`` for so many bytes. What is
    ``receipted`` goes in any case: else verifiers would sign no round."""
    ranked = sorted(((_rank(view, each), each) for each in pending), key=lambda each: each[0])
    chosen: list[bytes] = []
    for _, encoded in ranked:
        if encoded in receipted:
            chosen.append(encoded)
        elif len(encoded) <= room:
            room -= len(encoded)
            chosen.append(encoded)
    return chosen


def _rank(view: StateView, encoded: bytes) -> tuple[int, int]:
    """How soon it goes: the smallest first."""
    try:
        operation = decode_operation(encoded)
    except DecodeError:
        return 0, -1  # it is refused
    if operation.kind in _URGENT:
        return 0, _changed(view, operation)
    if operation.kind is OperationKind.COMMIT and not operation.invite:
        return 2, -1
    return 1, _changed(view, operation)


def _changed(view: StateView, operation: Operation) -> int:
    """The round in which the name was changed last, or -1: who changes it often comes last."""
    if not operation.name:
        return -1
    stored = view.entry(name_index(operation.directory, operation.name))
    return -1 if stored is None else decode_entry(stored).round
