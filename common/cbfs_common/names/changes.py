"""What operations make of the entries of names, and links, by which a client follows what was made.
PROTOCOL.rst, Names: operations.

The sequencer, every verifier and every client run the same ``apply_*`` functions, so that they
cannot come to different entries.
"""

from dataclasses import dataclass, replace

from cbfs_common.errors import DecodeError
from cbfs_common.limits import (
    AGENT_RENEWALS,
    CHANGE_PACE,
    CHANGES_AT_ONCE,
    COMMIT_LIFETIME,
    COMMIT_ROUNDS_MAX,
    KEYS_PACE,
    NAME_GRACE,
    NAME_QUARANTINE,
    OPERATION_ROUNDS_MAX,
    RECOVERY_DELAY,
)
from cbfs_common.names.entry import NO_KEYS, Entry, Keys, Status
from cbfs_common.names.layout import ZERO, Fields, long
from cbfs_common.names.operations import (
    NEVER,
    OPERATION_MAX,
    Operation,
    OperationKind,
    OperationRefused,
    Refusal,
    decode_operation,
)


def check_place(operation: Operation, directory: bytes, round_: int) -> None:
    """Whether it may stand in this round of this directory. Raises OperationRefused."""
    if operation.directory != directory:
        raise OperationRefused(Refusal.WRONG_DIRECTORY)
    ahead = COMMIT_ROUNDS_MAX if operation.kind is OperationKind.COMMIT else OPERATION_ROUNDS_MAX
    last = NEVER if operation.kind is OperationKind.FREEZE else round_ + ahead
    if not round_ <= operation.expires <= last:
        raise OperationRefused(Refusal.OUT_OF_DATE)


def taken_until(entry: Entry) -> int:
    """The last second (since 1970) in which nobody else may register an entry's name."""
    grace = 0 if entry.status is Status.RELEASED else NAME_GRACE
    return entry.expires + grace + NAME_QUARANTINE


def renewable_until(entry: Entry) -> int:
    """The last second in which the owner of an active entry may still change it."""
    return entry.expires + NAME_GRACE


def apply_register(
    old: Entry | None, operation: Operation, round_: int, time: int, lifetime: int
) -> Entry:
    """The entry that a REGISTER in this round (of this time, seconds) makes, for ``lifetime``
    seconds. Its commitment is the caller's to check. Raises OperationRefused."""
    incarnation, previous = 1, ZERO
    if old is not None:
        if time <= taken_until(old):
            raise OperationRefused(Refusal.NAME_TAKEN)
        incarnation, previous = old.incarnation + 1, old.digest()
    if (operation.incarnation, operation.version, operation.previous) != (incarnation, 1, previous):
        raise OperationRefused(Refusal.WRONG_VERSION)
    _check_signed(operation, operation.owners)
    return Entry(
        operation.name,
        incarnation,
        1,
        Status.ACTIVE,
        time + lifetime,
        round_,
        previous,
        operation.owners,
        operation.recovery,
        operation.profile,
        agent=operation.agent,
    )


def apply_change(old: Entry | None, operation: Operation, round_: int, time: int) -> Entry:
    """The entry that any operation but COMMIT, REGISTER and CONFIGURE in this round makes of
    ``old``. Raises OperationRefused. RENEW's term is the caller's to check as well
    (``check_term``): a client does not know the directory's."""
    if old is None or old.name != operation.name:
        raise OperationRefused(Refusal.NO_SUCH_NAME)
    frozen_now = operation.kind is OperationKind.FREEZE
    wanted = (0, ZERO) if frozen_now else (old.version + 1, old.digest())
    if (operation.version, operation.previous) != wanted or (
        operation.incarnation != old.incarnation
    ):
        raise OperationRefused(Refusal.WRONG_VERSION)
    if old.status is Status.RELEASED:
        raise OperationRefused(Refusal.NAME_RELEASED)
    if time > renewable_until(old):
        raise OperationRefused(Refusal.NAME_EXPIRED)
    now = old.settled(time)
    if now.status is Status.FROZEN and operation.kind is not OperationKind.RECOVER:
        raise OperationRefused(Refusal.NAME_FROZEN)
    if now.status is Status.SUSPENDED and not _ends_suspension(operation, now):
        raise OperationRefused(Refusal.NAME_SUSPENDED)
    changed = _changed(now, operation, time)
    return replace(changed, version=old.version + 1, round=round_, previous=old.digest())


def _ends_suspension(operation: Operation, now: Entry) -> bool:
    """Whether this is something that may be done with a name that its agent has frozen. Afterwards
    it has another agent: what this one has signed could be handed in again, by anybody."""
    if operation.kind is OperationKind.ROTATE:
        return operation.agent != now.agent
    return operation.kind in (OperationKind.FREEZE, OperationKind.RECOVER)


def _frozen(operation: Operation, now: Entry) -> Status:
    """What a FREEZE makes of an entry. Raises OperationRefused."""
    if not _signed_by_agent(operation, now):
        return Status.FROZEN
    if now.status is Status.SUSPENDED:
        raise OperationRefused(Refusal.NAME_SUSPENDED)
    return Status.SUSPENDED


def check_term(old: Entry | None, operation: Operation, time: int, lifetime: int) -> None:
    """Whether a RENEW may keep a name until then, in a round of this time (seconds), where names
    last ``lifetime`` seconds. Raises OperationRefused. An agent must add a good part of that: each
    renewal is another version, and so many in a row would keep the owners from making theirs."""
    by_agent = old is not None and _by_agent(operation, old)
    least = old.expires + lifetime // AGENT_RENEWALS if old is not None and by_agent else 0
    if not least <= operation.until <= time + lifetime:
        raise OperationRefused(Refusal.WRONG_TERM)


def turn_of(operation: Operation, old: Entry) -> tuple[OperationKind, int] | None:
    """With what other changes of ``old`` this one shares its turns, by their first kind, and how
    many seconds one turn takes. None for what nobody can do often: a FREEZE, a RELEASE, and what an
    agent may do. So what one kind of change has used up keeps none of another kind waiting: who has
    stolen a key and changes the name with it keeps nobody from new keys or a recovery."""
    match operation.kind:
        case OperationKind.UPDATE:
            return OperationKind.UPDATE, CHANGE_PACE
        case OperationKind.RENEW if not _by_agent(operation, old):
            return OperationKind.UPDATE, CHANGE_PACE
        case OperationKind.ROTATE | OperationKind.RECOVER | OperationKind.CANCEL as kind:
            return kind, KEYS_PACE
    return None


def taken_turn(used: int, time: int, pace: int) -> int:
    """Until when (seconds) the turns of one name and kind are used, with one more at ``time``, when
    it was until ``used`` before it. Raises OperationRefused when all CHANGES_AT_ONCE are used."""
    if used > time + (CHANGES_AT_ONCE - 1) * pace:
        raise OperationRefused(Refusal.CHANGED_OFTEN)
    return max(used, time) + pace


def _by_agent(operation: Operation, old: Entry) -> bool:
    """Whether the agent's key alone is said to have signed."""
    return bool(old.agent) and operation.claimed() == {old.agent}


def _changed(now: Entry, operation: Operation, time: int) -> Entry:
    match operation.kind:
        case OperationKind.UPDATE:
            _check_signed(operation, now.owners)
            return replace(now, profile=operation.profile)
        case OperationKind.ROTATE:
            _check_signed(operation, now.owners, operation.owners)
            return replace(
                now,
                status=Status.ACTIVE,
                owners=operation.owners,
                recovery=operation.recovery,
                profile=operation.profile,
                agent=operation.agent,
            )
        case OperationKind.RENEW:
            _signed_by_agent(operation, now)
            if operation.until <= now.expires:
                raise OperationRefused(Refusal.WRONG_TERM)
            return replace(now, expires=operation.until)
        case OperationKind.RELEASE:
            _check_signed(operation, now.owners)
            return replace(
                now,
                status=Status.RELEASED,
                expires=min(now.expires, time),
                profile=b"",
                heirs=NO_KEYS,
                due=0,
            )
        case OperationKind.FREEZE:
            return replace(now, status=_frozen(operation, now))
        case OperationKind.RECOVER:
            if not now.recovery.keys:
                raise OperationRefused(Refusal.NO_RECOVERY)
            _check_signed(operation, now.recovery, operation.owners)
            return replace(now, heirs=operation.owners, due=time + RECOVERY_DELAY)
        case OperationKind.CANCEL:
            if not now.heirs.keys:
                raise OperationRefused(Refusal.NO_RECOVERY)
            _check_signed(operation, now.owners)
            return replace(now, heirs=NO_KEYS, due=0)
    raise OperationRefused(Refusal.BAD_REQUEST)


def _signed_by_agent(operation: Operation, now: Entry) -> bool:
    """Whether the agent's key alone has signed; False for the owners. Raises OperationRefused when
    it was neither."""
    if _by_agent(operation, now):
        operation.signers()
        return True
    _check_signed(operation, now.owners)
    return False


def _check_signed(operation: Operation, *sets: Keys) -> None:
    """Each of ``sets`` must have signed to its threshold, and nobody else. Signatures are verified
    only when those who are said to have made them would do. Raises OperationRefused."""
    claimed = operation.claimed()
    if not all(keys.satisfied(claimed) for keys in sets) or claimed.difference(
        *(keys.keys for keys in sets)
    ):
        raise OperationRefused(Refusal.WRONG_SIGNATURE)
    operation.signers()


def commit_fits(round_: int, time: int, made_round: int, made_time: int) -> bool:
    """Whether a REGISTER now may follow a COMMIT of then: a later round, within a day."""
    return made_round < round_ and time - made_time <= COMMIT_LIFETIME


@dataclass(frozen=True, slots=True)
class HistoryLink:
    """One step in an entry's history: an operation and the round (number, time) that held it."""

    round: int
    time: int
    operation: bytes

    def encode(self) -> bytes:
        """round u64 | time u64 | length u16 | operation."""
        return self.round.to_bytes(8, "big") + self.time.to_bytes(8, "big") + long(self.operation)

    def follow(self, old: Entry, directory: bytes) -> Entry:
        """The entry after this step. Raises OperationRefused or DecodeError."""
        operation = decode_operation(self.operation)
        if operation.kind in (
            OperationKind.COMMIT,
            OperationKind.REGISTER,
            OperationKind.CONFIGURE,
        ):
            raise DecodeError("not a change of a name")
        check_place(operation, directory, self.round)
        return apply_change(old, operation, self.round, self.time)


def read_link(fields: Fields) -> HistoryLink:
    """The next HistoryLink of a layout. Raises DecodeError."""
    round_, time, operation = fields.number(8), fields.number(8), fields.long()
    if len(operation) > OPERATION_MAX:
        raise fields.error()
    return HistoryLink(round_, time, operation)
