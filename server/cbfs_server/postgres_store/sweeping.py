"""Forgetting what is old, by one of the servers that share a database: the one whose connection
holds the lock of it. An account at a time is changed, so that nobody waits for long."""

from collections.abc import Callable
from typing import Any, Final

import trio

from cbfs_host.complaints import StoreError
from cbfs_host.logs import tell_fault
from cbfs_server.limits import ENDING_COST, ERASE_BATCH, EXPIRY_BATCH, NEWCOMER_DAYS, WORK_WINDOW
from cbfs_server.postgres_store import statements as s
from cbfs_server.postgres_store.changes import end_account
from cbfs_server.postgres_store.lines import Database, DatabaseLine, using
from cbfs_server.postgres_store.statements import Row, call
from cbfs_server.postgres_store.wire import ConnectionLost, StatementFailed, Wire
from cbfs_server.store.operations import (
    EraseChunks,
    Expired,
    ForgetBlobs,
    ForgetInvites,
    ForgetOld,
    Swept,
    SweptBlobs,
    min_day,
)

LOCK: Final = 0x63626673
"""The advisory lock."""

Search = ForgetOld | ForgetInvites | ForgetBlobs | EraseChunks


class Sweeper:
    """Does the searches of one server, one after the other."""

    def __init__(self, database: Database) -> None:
        self._line = DatabaseLine(database)
        self._send, self._receive = trio.open_memory_channel[
            tuple[Search, Callable[[Any], object]]
        ](64)

    def put(self, asked: Search, done: Callable[[Any], object]) -> None:
        """Queue a search."""
        try:
            self._send.send_nowait((asked, done))
        except trio.WouldBlock:
            done(StoreError("too much is searched for at once"))

    async def run(self) -> None:
        """Search, until cancelled."""
        async with using(self._line):
            async for asked, done in self._receive:
                try:
                    wire = await self._line.wire()
                    result: Any = await _search(wire, asked)
                except (ConnectionLost, StatementFailed) as error:
                    self._line.drop()
                    result = StoreError(f"the search was not made: {error}")
                except Exception as error:
                    self._line.drop()
                    tell_fault("a search", error)
                    result = StoreError("the search was not made")
                try:
                    done(result)
                except Exception as error:
                    tell_fault("an answer", error)


async def _search(wire: Wire, asked: Search) -> Swept | SweptBlobs | bytes | bool | None:
    (((held,),),) = await wire.ask([call(s.EXPIRES, LOCK)])
    mine = s.bool_of(held)
    match asked:
        case ForgetOld():
            return await _forget_old(wire, asked) if mine else Swept(None, Expired())
        case ForgetBlobs():
            return await _forget_blobs(wire, asked) if mine else SweptBlobs(None, 0)
        case EraseChunks():
            return mine and await _erase(wire)
        case ForgetInvites(start, before):
            return await _forget_invites(wire, start, before) if mine else None


async def _forget_invites(wire: Wire, start: bytes, before: int) -> bytes | None:
    (found,) = await wire.ask([call(s.FORGET_INVITES, start, before, EXPIRY_BATCH)])
    return s.bytes_of(found[-1][0]) + b"\0" if len(found) == EXPIRY_BATCH else None


async def _forget_blobs(wire: Wire, asked: ForgetBlobs) -> SweptBlobs:
    (found,) = await wire.ask([call(s.SWEEP_BLOBS, asked.start, EXPIRY_BATCH)])
    gone = 0
    for id, user, day, days in found:
        if s.int_of(day) + s.int_of(days) < asked.today:
            owner = s.bytes_of(user)
            await wire.ask([call(s.BEGIN), call(s.LOCK, owner)])
            await wire.commit([call(s.END_BLOB, s.bytes_of(id), owner)])
            gone += 1
    last = s.bytes_of(found[-1][0]) + b"\0" if len(found) == EXPIRY_BATCH else None
    return SweptBlobs(last, gone)


async def _erase(wire: Wire) -> bool:
    """A batch, where each blob counts like a chunk as well."""
    (found,) = await wire.ask([call(s.ERASING, ERASE_BATCH)])
    if not found:
        return False
    calls, left = [call(s.BEGIN)], ERASE_BATCH
    for row in found:
        id, chunks = s.bytes_of(row[0]), s.int_of(row[1])
        calls.append(call(s.ERASE, id, left))
        if chunks < left:
            calls.append(call(s.ERASED, id))
        left -= chunks + 1
        if left <= 0:
            break
    await wire.commit(calls)
    return True


async def _forget_old(wire: Wire, asked: ForgetOld) -> Swept:
    budget, counted = EXPIRY_BATCH, Expired()
    if not asked.start:
        await wire.ask([call(s.FORGET_PROOFS, WORK_WINDOW)])
    (found,) = await wire.ask([call(s.SWEEP, asked.start, EXPIRY_BATCH)])
    users = [s.bytes_of(row[0]) for row in found]
    oldest = await wire.ask([call(s.OLDEST, user) for user in users])
    before = asked.today - asked.retention
    for row, mail in zip(found, oldest, strict=True):
        if _is_over(row, asked):
            budget -= await _end(wire, s.bytes_of(row[0]), asked, budget, counted)
        elif mail and s.int_of(mail[0][0]) < before:
            budget -= await _forget_mail(wire, s.bytes_of(row[0]), before, budget, counted)
        elif mail:
            counted.oldest = min_day(counted.oldest, s.int_of(mail[0][0]))
        if budget <= 0:
            return Swept(s.bytes_of(row[0]), counted)
    return Swept(users[-1] + b"\0" if len(users) == EXPIRY_BATCH else None, counted)


def _is_over(row: Row, asked: ForgetOld) -> bool:
    _, visit, fetched = row
    inactive = asked.inactive if s.bool_of(fetched) else min(asked.inactive, NEWCOMER_DAYS)
    return s.int_of(visit) + inactive < asked.today


async def _end(wire: Wire, user: bytes, asked: ForgetOld, most: int, counted: Expired) -> int:
    """End an account, or as much of it as ``most`` envelopes are, if its owner has not come
    meanwhile. How much that cost."""
    await wire.ask([call(s.BEGIN), call(s.LOCK_SERVER), call(s.LOCK, user)])
    (found,) = await wire.ask([call(s.ACCOUNT, user)])
    if not found or not _is_over(found[0], asked):
        await wire.ask([call(s.ROLLBACK)])
        return 1
    (removed,) = await wire.ask([call(s.REMOVE_OLDEST, user, 2**62, most)])
    went = s.int_of(removed[0][0])
    if went < most:
        await end_account(user, wire.ask)
    await wire.commit()
    counted.envelopes += went
    counted.accounts += bool(went)
    if went < most:
        counted.ended.append(user)
        counted.unused += not s.bool_of(found[0][2])
    return went + ENDING_COST


async def _forget_mail(wire: Wire, user: bytes, before: int, most: int, counted: Expired) -> int:
    await wire.ask([call(s.BEGIN), call(s.LOCK, user)])
    removed, left = await wire.ask(
        [call(s.REMOVE_OLDEST, user, before, most), call(s.OLDEST, user)]
    )
    await wire.commit()
    went = s.int_of(removed[0][0])
    counted.envelopes += went
    counted.accounts += bool(went)
    if left:
        counted.oldest = min_day(counted.oldest, s.int_of(left[0][0]))
    return went
