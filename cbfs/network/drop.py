"""What a line leads to: the drop, an account at a message server that whoever has the line is the
owner of. PROTOCOL.rst, Lines.

``at_drop`` gives a link to that server on which the drop's key is proved; all other functions take
one.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from cbfs.network.dial import Dialer
from cbfs.network.link import Link, ServerRefused, open_link, request
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import LINE_DAYS, MARK_SIZE
from cbfs_common.primitives import Random
from cbfs_common.wire.lines import InviteLine, InviteRecord, LineArrival
from cbfs_common.wire.requests import (
    Code,
    DeleteAccount,
    Deliver,
    Fetch,
    List,
    SwapMark,
)

DROP: Final = b"drop:"
"""How isolations begin of connections to a drop."""

ENVELOPES_MAX: Final = 8
"""Envelopes of a drop that are looked at: there are two, and what the server may have added."""

_ASK: Final = "ask who invited you for another"


class LineSpent(CbfsError):
    """The line is good for nothing: it was used, or is too old, or was never at this server."""


def _gone() -> LineSpent:
    return LineSpent(
        f"nothing lies at the server for this line: it was used, or is older than {LINE_DAYS} days",
        _ASK,
    )


@asynccontextmanager
async def at_drop(dialer: Dialer, line: InviteLine, random: Random) -> AsyncIterator[Link]:
    """A link for a line, which shares its circuit with nothing. Raises what ``open_link``
    raises."""
    isolation = DROP + random.token(16)
    async with open_link(dialer, line.address, line.key, isolation, random) as link:
        yield link


@dataclass(frozen=True, slots=True)
class Drop:
    """What there is for a line: the ``record``, and the ``mark`` of who uses it, empty for
    nobody."""

    record: InviteRecord
    mark: bytes


async def put(link: Link, line: InviteLine, record: InviteRecord) -> None:
    """Put a record at a drop whose account is made; again is no error. Raises what ``request``
    raises."""
    await request(link, Deliver(line.drop, line.sealed(record)))


async def look(link: Link, line: InviteLine, now: float, user: bytes = b"") -> Drop:
    """What there is for a line at ``now`` (seconds since 1970). Nothing is used up by it. It is not
    too old for the ``user`` (32) who uses it. Raises LineSpent, DecodeError and what ``request``
    raises."""
    nobody = bytes(MARK_SIZE)  # whoever has this mark there: it stays
    wrong: DecodeError | None = None
    try:
        mark = (await request(link, SwapMark(nobody, nobody))).mark
        for envelope in await _envelopes(link):
            try:
                record = line.open_record(envelope)
            except DecodeError as error:  # of somebody else who has the line
                wrong = error
                continue
            if record is not None:
                ours = user and mark == line.mark(user)
                if record.expires < now and not ours:
                    raise LineSpent(f"this line is older than {LINE_DAYS} days", _ASK)
                return Drop(record, mark)
    except ServerRefused as error:
        if error.code is not Code.NO_ACCOUNT:
            raise
    raise wrong or _gone()


def check_unused(line: InviteLine, drop: Drop, user: bytes = b"") -> None:
    """Raises LineSpent unless nobody uses the line, or only ``user`` (32)."""
    if drop.mark and (not user or drop.mark != line.mark(user)):
        raise LineSpent("this line was used already", f"if that was not you, {_ASK}, and say so")


async def claim(link: Link, line: InviteLine, user: bytes) -> None:
    """Let the newcomer ``user`` (32) be the one who uses the line; again is no error. Raises
    LineSpent when it is somebody else, and what ``request`` raises."""
    ours = line.mark(user)
    try:
        before = (await request(link, SwapMark(b"", ours))).mark
    except ServerRefused as error:
        if error.code is not Code.NO_ACCOUNT:
            raise
        raise _gone() from error
    if before not in (b"", ours):
        raise LineSpent("this line was used already", f"if that was not you, {_ASK}, and say so")


async def answer(link: Link, line: InviteLine, come: LineArrival) -> None:
    """Tell who has invited one that one has come; again is no error. Raises what ``request``
    raises."""
    await request(link, Deliver(line.drop, line.sealed(come)))


async def come(link: Link, line: InviteLine) -> LineArrival | None:
    """Who has come by the line; None for nobody yet. Raises LineSpent when the drop is gone,
    DecodeError, and what ``request`` raises."""
    try:
        for envelope in await _envelopes(link):
            found = line.open_arrival(envelope)
            if found is not None:
                return found
    except ServerRefused as error:
        if error.code is not Code.NO_ACCOUNT:
            raise
        raise _gone() from error
    return None


async def forget(link: Link) -> None:
    """Remove the drop; again is no error. Raises what ``request`` raises."""
    try:
        await request(link, DeleteAccount())
    except ServerRefused as error:
        if error.code is not Code.NO_ACCOUNT:
            raise


async def _envelopes(link: Link) -> list[bytes]:
    ids = (await request(link, List())).ids[:ENVELOPES_MAX]
    return [(await request(link, Fetch(each))).envelope for each in ids]
