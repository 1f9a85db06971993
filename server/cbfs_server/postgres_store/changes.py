"""How each change is made: with which statements, and what follows from their rows.

Most take one round trip, which all of a group share; the others look first, and decide then. All
locks of accounts are taken before anything else, in the order of the users, behind that of the row
that all share: so that no two transactions wait for each other.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cbfs_common.names.config import Registration
from cbfs_common.session.prekey import PREKEY_ID_SIZE, PrekeyKind
from cbfs_common.wire.requests import AnyReply, Code, LastMark, PrekeyRecord
from cbfs_host.complaints import StoreError
from cbfs_host.logs import tell_fault
from cbfs_server.limits import (
    END_BATCH,
    PREKEY_BURST,
    PREKEY_COST,
    PREKEY_PERIOD,
    PREKEYS_MAX,
)
from cbfs_server.postgres_store import blob_changes as blobs
from cbfs_server.postgres_store import statements as s
from cbfs_server.postgres_store.bounds import Ask, Bounds
from cbfs_server.postgres_store.statements import Call, Rows, call
from cbfs_server.postgres_store.wire import Wire
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AddBlob,
    AddChunk,
    AddEnvelope,
    AddPrekeys,
    Change,
    ChangeMark,
    EndAccount,
    EndBlob,
    GivePrekey,
    MakeAccount,
    NoChange,
    NoteTime,
    NoteVisit,
    RemoveEnvelopes,
    Suspend,
)
from cbfs_server.store.pricing import level, price

_log = logging.getLogger(__name__)

_PERIOD: Final = int(PREKEY_PERIOD)
_EXPIRES: Final = slice(PREKEY_ID_SIZE + 1, PREKEY_ID_SIZE + 9)


@dataclass(frozen=True, slots=True)
class OneTrip:
    """A change of one round trip: its statements, and what follows from their rows."""

    calls: Callable[[Any, Bounds], Sequence[Call]]
    result: Callable[[Any, Sequence[Rows], Bounds], Any]


# Those of one round trip


def _add_envelope(asked: AddEnvelope, bounds: Bounds) -> Sequence[Call]:
    return (call(s.ADD_ENVELOPE, asked.user, asked.id, asked.envelope, asked.day, bounds.mailbox),)


def _added(_asked: AddEnvelope, found: Sequence[Rows], bounds: Bounds) -> AnyReply:
    if not found[0]:
        return REFUSED[Code.UNKNOWN_USER]
    if s.bool_of(found[0][0][0]):
        return DONE
    return REFUSED[Code.MAILBOX_FULL if bounds.mailbox else Code.FULL]


def _remove_envelopes(asked: RemoveEnvelopes, _bounds: Bounds) -> Sequence[Call]:
    return (call(s.REMOVE_ENVELOPES, asked.user, asked.ids),)


def _removed(_asked: RemoveEnvelopes, found: Sequence[Rows], _bounds: Bounds) -> AnyReply:
    return DONE if found[0] else REFUSED[Code.NO_ACCOUNT]


def _give_prekey(asked: GivePrekey, _bounds: Bounds) -> Sequence[Call]:
    return (
        call(s.GIVE_PREKEY, asked.user, time_of(asked.now), _PERIOD, (PREKEY_BURST - 1) * _PERIOD),
    )


def _given(_asked: GivePrekey, found: Sequence[Rows], _bounds: Bounds) -> AnyReply:
    if not found[0]:
        return REFUSED[Code.UNKNOWN_USER]
    kem, record = found[0][0]
    if kem is None or record is None:
        return REFUSED[Code.NO_PREKEY]
    return PrekeyRecord(record, kem)


def _change_mark(asked: ChangeMark, _bounds: Bounds) -> Sequence[Call]:
    return (call(s.CHANGE_MARK, asked.user, asked.seen, asked.new),)


def _mark_changed(_asked: ChangeMark, found: Sequence[Rows], _bounds: Bounds) -> AnyReply:
    return LastMark(s.bytes_of(found[0][0][0])) if found[0] else REFUSED[Code.NO_ACCOUNT]


def _note_visit(asked: NoteVisit, _bounds: Bounds) -> Sequence[Call]:
    return (call(s.NOTE_VISIT, asked.user, asked.day, asked.fetches),)


def _note_time(asked: NoteTime, _bounds: Bounds) -> Sequence[Call]:
    return (call(s.NOTE_TIME, asked.mark.lived, asked.mark.encode()),)


def _suspend(asked: Suspend, _bounds: Bounds) -> Sequence[Call]:
    statement = s.SUSPEND if asked.on else s.RESUME
    return call(statement, asked.user), call(s.COUNT_ACCOUNTS, 0, 1)


def _nothing(_asked: Any, _found: Any, _bounds: Any) -> None:
    return None


ONE_TRIP: Final[dict[type[Any], OneTrip]] = {
    AddEnvelope: OneTrip(_add_envelope, _added),
    RemoveEnvelopes: OneTrip(_remove_envelopes, _removed),
    GivePrekey: OneTrip(_give_prekey, _given),
    ChangeMark: OneTrip(_change_mark, _mark_changed),
    NoteVisit: OneTrip(_note_visit, _nothing),
    NoteTime: OneTrip(_note_time, _nothing),
    Suspend: OneTrip(_suspend, _nothing),
    AddChunk: OneTrip(blobs.add_chunk, blobs.chunk_added),
    EndBlob: OneTrip(blobs.end_blob, blobs.blob_ended),
    NoChange: OneTrip(lambda _asked, _bounds: (), _nothing),
}


# Those that look first


async def _add_prekeys(asked: AddPrekeys, ask: Ask, bounds: Bounds) -> AnyReply:
    user = asked.user
    account, found = await ask([call(s.ACCOUNT, user), call(s.PREKEYS, user)])
    if not account:
        return REFUSED[Code.NO_ACCOUNT]
    known: dict[PrekeyKind, dict[bytes, bytes]] = {kind: {} for kind in PrekeyKind}
    for kind, id, expires in found:
        known[PrekeyKind(s.int_of(kind))][s.bytes_of(id)] = s.bytes_of(expires)
    one_time, last_resort = known[PrekeyKind.ONE_TIME], known[PrekeyKind.LAST_RESORT]
    new = {r[:PREKEY_ID_SIZE] for r in asked.records if _kind(r) == PrekeyKind.ONE_TIME}
    gone = set(one_time) if asked.replace else set()
    if len(set(one_time) - gone | new) > PREKEYS_MAX:  # those that seem to be over go first
        over = time_of(asked.now)
        gone |= {id for id, expires in one_time.items() if expires <= over}
    count = len(set(one_time) - gone | new)
    if count > PREKEYS_MAX:
        return REFUSED[Code.TOO_MANY]
    room = bounds.room
    if count > len(one_time) and room is not None and not room.fits(count * PREKEY_COST):
        return REFUSED[Code.FULL]
    calls = [call(s.REMOVE_PREKEYS, user, int(PrekeyKind.ONE_TIME), tuple(gone))] if gone else []
    if asked.replace or any(_kind(r) == PrekeyKind.LAST_RESORT for r in asked.records):
        ids = tuple(last_resort)
        calls.append(call(s.REMOVE_PREKEYS, user, int(PrekeyKind.LAST_RESORT), ids))
    for record in asked.records:
        values = int(_kind(record)), record[:PREKEY_ID_SIZE], record[_EXPIRES], record
        calls.append(call(s.ADD_PREKEY, user, *values))
    await ask([*calls, call(s.PUT_KEM, user, asked.kem)])
    return DONE


def _kind(record: bytes) -> PrekeyKind:
    return PrekeyKind(record[PREKEY_ID_SIZE])


async def _make_account(asked: MakeAccount, ask: Ask, bounds: Bounds) -> AnyReply:
    known, (server,) = await ask([call(s.ACCOUNT, asked.user), call(s.SERVER)])
    if known:
        return DONE
    if asked.closed:
        return REFUSED[Code.TOO_MANY]
    accounts = s.int_of(server[0])
    left = bounds.limits.accounts - accounts
    if left <= 0:
        _log.warning("no account was made: there are %d", accounts)
        return REFUSED[Code.TOO_MANY]
    if bounds.room is not None and bounds.room.tight:
        _log.warning("no account was made: there is little room")
        return REFUSED[Code.FULL]
    calls: list[Call] = []
    if asked.ticket.invite is not None:
        if not await _invited(asked, ask):
            return REFUSED[Code.INVITE_NEEDED]
    else:
        filled = level(s.float_of(server[1]), max(0.0, s.float_of(server[2])), left)
        code = await _refusal(asked, price(filled, left, asked.rule.work), ask)
        if code is not None:
            return REFUSED[code]
        calls.append(call(s.FILL, filled + 1))
        proof = asked.ticket.proof
        if proof is not None:
            number = proof.number.to_bytes(8, "big")
            calls.append(call(s.SPEND_PROOF, asked.user, number, proof.window))
    calls += call(s.MAKE_ACCOUNT, asked.user, asked.day), call(s.COUNT_ACCOUNTS, 1, 0)
    await ask(calls)
    return DONE


async def _invited(asked: MakeAccount, ask: Ask) -> bool:
    invite = asked.ticket.invite
    if not invite:
        return False
    (used,) = await ask([call(s.USE_INVITE, invite, asked.day)])
    return bool(used)


async def _refusal(asked: MakeAccount, bits: int, ask: Ask) -> Code | None:
    """Why a newcomer without an invite has to wait, when a proof has to have so many ``bits``."""
    if asked.rule.registration is Registration.INVITE:
        return Code.INVITE_NEEDED
    if not bits:
        return None
    proof = asked.ticket.proof
    if proof is None or proof.bits < bits:
        return Code.WORK_NEEDED
    (spent,) = await ask([call(s.PROOF, asked.user, proof.number.to_bytes(8, "big"))])
    return Code.WORK_NEEDED if spent else None


async def end_account(user: bytes, ask: Ask) -> int | None:
    """Forget an account, in a transaction that has locked it and the row that all share; how many
    envelopes it had, None when there is no such account."""
    (found,) = await ask([call(s.ACCOUNT, user)])
    if not found:
        return None
    stored = s.int_of(found[0][0])
    gone = END_BATCH
    while gone == END_BATCH:  # so that no statement takes long
        (removed,) = await ask([call(s.REMOVE_OLDEST, user, 2**62, END_BATCH)])
        gone = s.int_of(removed[0][0])
    calls = [call(statement, user) for statement in s.END_ACCOUNT]
    await ask([*calls, call(s.COUNT_ACCOUNTS, -1, 0)])
    return stored


async def _end_account(asked: EndAccount, ask: Ask, _bounds: Bounds) -> int | None:
    return await end_account(asked.user, ask)


_LONGER: Final[dict[type[Any], Callable[[Any, Ask, Bounds], Awaitable[Any]]]] = {
    AddPrekeys: _add_prekeys,
    AddBlob: blobs.add_blob,
    MakeAccount: _make_account,
    EndAccount: _end_account,
}

_OF_THE_SERVER: Final = MakeAccount, EndAccount, Suspend

MADE_HERE: Final = frozenset({*ONE_TRIP, *_LONGER})
"""What is made in groups."""


def time_of(now: float) -> bytes:
    """A time (seconds since 1970) like those at which prekeys expire, for comparing."""
    return min(max(int(now), 0), 2**64 - 1).to_bytes(8, "big")


async def make(wire: Wire, group: Sequence[Change[Any]], bounds: Bounds) -> list[Any]:
    """Make changes in one transaction; their results, once it is durable. Raises ConnectionLost,
    after which it may be done or not; StatementFailed, and then the transaction is to be rolled
    back."""
    calls = [call(s.BEGIN)]
    if any(isinstance(change, _OF_THE_SERVER) for change in group):
        calls.append(call(s.LOCK_SERVER))
    users = {change.user for change in group if not isinstance(change, Suspend)} - {b""}
    calls += (call(s.LOCK, user) for user in sorted(users))
    results: list[Any] = [None] * len(group)
    waiting: list[tuple[int, int, int]] = []  # the change, and its part of the calls

    async def flush(ask: Ask) -> None:
        found = await ask(calls)
        for place, start, end in waiting:
            change = group[place]
            try:
                results[place] = ONE_TRIP[type(change)].result(change, found[start:end], bounds)
            except Exception as error:  # it may be durable: who repeated it would do it twice
                tell_fault("a result of the store", error)
                results[place] = StoreError("what the store has said is not understood")
        calls.clear()
        waiting.clear()

    for place, change in enumerate(group):
        one = ONE_TRIP.get(type(change))
        if one is None:
            await flush(wire.ask)
            results[place] = await _LONGER[type(change)](change, wire.ask, bounds)
        else:
            start = len(calls)
            calls += one.calls(change, bounds)
            waiting.append((place, start, len(calls)))
    await flush(wire.commit)  # most groups are one round trip
    return results
