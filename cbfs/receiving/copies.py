"""Copies of the account: a backup that was put back, or two directories of one account in use.

A copy is told by the identity of the store's file before anything else (``notice_copy``), and where
that stays the same, by the mark at the home server (``cbfs.account.claim``), which is put with each
connection and each hour, whatever has arrived. Sessions and prekeys of a copy must not be used: its
peers are ahead of it. So they are given up, and all begins anew. Where two copies run, one of them
stops until its user claims the account: otherwise each would begin anew upon the other for ever.

What a crash leaves: a mark is in the store before the server has it, and the next one is made only
when it is known to be there. So no mark that one has put oneself counts as far as the one in the
store without being that one, and what another copy has put counts so until that has been written
down here, in the transaction that gives up all sessions.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cbfs.account.claim import (
    CopyStanding,
    CopyState,
    Finding,
    Marker,
    read_standing,
    write_standing,
)
from cbfs.contacts.lives import give_up_all
from cbfs.context import Context, Events
from cbfs.messages.queues.delivery_queue import begin_all_again
from cbfs.messages.queues.note_queue import Dues
from cbfs.network.link import Link, request
from cbfs.receiving.lost_state import tell_loss
from cbfs.storage.store import Meta, Store, Table, Writer
from cbfs_common.wire.requests import SwapMark
from cbfs_host.file_identity import decode_identity, identity_of

TRIES = 4
"""Requests on one connection, at most: to see what is there, to put what the store has, and to put
the next one. A server that says another thing each time is left alone until the next time."""

TOLD = "this is a copy of an account: its sessions begin anew (use one of the two only)"

STOPPED = (
    "another copy of this account is in use, and only one can be: this one has stopped, and neither"
    " sends nor fetches anything"
)


def notice_copy(store: Store, directory: Path, marker: Marker, now: int) -> bool:
    """Forget sessions and prekeys when the store lies in another file than when it was last used.
    True when it does. Before the store runs; ``now`` in milliseconds since 1970. A crash before
    the commit notices it at the next start."""
    file = identity_of(directory / "store" / "data.mdb")

    def change(writer: Writer) -> bool:
        known, standing = writer.get(Table.META, Meta.PLACE), read_standing(writer)
        if known != file.encode():
            writer.put(Table.META, Meta.PLACE, file.encode())
        is_copy = known is not None and not decode_identity(known).may_be(file)
        if is_copy:
            _give_up_sessions(writer)
        if is_copy and standing is not None:
            write_standing(writer, marker.copied(standing, now))
        return is_copy

    return store.write(change)


def begin_anew(writer: Writer, marker: Marker, now: int) -> None:
    """In a transaction: this copy goes on, and no other, without any session or prekey of before.
    ``now`` in milliseconds since 1970."""
    known = read_standing(writer)
    write_standing(writer, marker.claimed(marker.settled(known) if known else marker.first(), now))
    _give_up_sessions(writer)


def _give_up_sessions(writer: Writer) -> None:
    give_up_all(writer)
    begin_all_again(writer)


class Copies:
    """The mark of an account at work. ``events`` hears whom there is something to tell; ``stop``
    ends all that connects."""

    def __init__(self, context: Context, events: Events, stop: Callable[[], None]) -> None:
        self._context = context
        self._events = events
        self._stop = stop
        self._marker = Marker(context.account.transport, context.random)
        with context.store.read() as reader:
            known = read_standing(reader)
        self._standing = self._marker.settled(known) if known else self._marker.first()
        self._is_kept = self._standing is known
        self._there = b""
        self._is_put = False

    @property
    def stopped(self) -> str:
        """Why this copy connects no more, or empty."""
        return STOPPED if self._standing.state is CopyState.STOPPED else ""

    async def swap(self, link: Link) -> None:
        """Put a new mark, and see whether another copy has put one. On the disk on return; this
        copy may have begun anew, or stopped. Raises what ``request`` raises."""
        fresh = False
        for _ in range(TRIES):
            fresh = fresh or self._is_put
            asked = await self.ask()
            await self.heard(asked, (await request(link, asked)).mark)
            if self.stopped or (fresh and self._is_put):
                return

    async def ask(self) -> SwapMark:
        """The next request. What it puts is in the store on return."""
        if self._is_put:
            self._there, self._is_put = self._standing.put, False
            await self._keep(self._marker.next(self._standing))
        elif not self._is_kept:
            await self._keep(self._standing)
        return SwapMark(self._there, self._standing.put)

    async def heard(self, asked: SwapMark, found: bytes) -> bool:
        """``found`` is the mark that was at the server (empty for none). What follows from it is on
        the disk on return. True when all sessions and prekeys were given up."""
        if found in (asked.seen, asked.new):
            self._is_put = True
            return False
        self._there = found
        now = self._context.clock()
        standing, finding = self._marker.judge(self._standing, found, now)
        if finding is Finding.NOTHING:
            if standing is not self._standing:
                await self._keep(standing)
            return False
        await self._give_up(standing, now)
        if finding is Finding.TWO:
            self._stop()
        else:
            self._context.problems.set("copy", TOLD)
        return True

    async def _keep(self, standing: CopyStanding) -> None:
        await self._context.store.commit(partial(write_standing, standing=standing))
        self._standing, self._is_kept = standing, True

    async def _give_up(self, standing: CopyStanding, now: int) -> None:
        """All sessions are of before. One commit: a crash before it notices that again, as the
        other copy's mark is still there; one after it finds all begun anew."""
        context, dues = self._context, Dues()

        def change(writer: Writer) -> None:
            write_standing(writer, standing)
            _give_up_sessions(writer)
            tell_loss(writer, dues, context.account.name, now, context.random)

        async with context.sessions.lock:
            await context.store.commit(change)
            self._standing, self._is_kept = standing, True
            context.sessions.given_up_all(context.store)
        self._events.notes_due(dues)
