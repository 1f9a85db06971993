"""Keeping up the prekeys on the home server.

The secrets are on the disk before the server has the public halves: a crash in between leaves
secrets that nobody uses, never a prekey that cannot be answered.
"""

from dataclasses import dataclass

from cbfs.contacts.sessions import is_ahead
from cbfs.context import Context
from cbfs.network.link import Link, request, request_in_order
from cbfs.storage.store import Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.limits import (
    LAST_RESORT_RENEWAL,
    PREKEY_LIFETIME,
    PREKEY_SECRETS_MAX,
    PREKEYS_ONE_TIME,
)
from cbfs_common.session.prekey import PrekeyKind, PrekeyPair, make_prekey
from cbfs_common.wire.requests import CountPrekeys, PrekeyCount, UploadPrekeys

UPLOAD = 10
"""Prekeys in one request."""

REFILL = 25
"""Prekeys are made anew when so many are missing."""

LAST_RESORT = PrekeyKind.LAST_RESORT


@dataclass(frozen=True, slots=True)
class PrekeyBatch:
    """Prekeys of one upload; ``replace``: in the place of all that the server has."""

    kinds: tuple[PrekeyKind, ...]
    replace: bool = False


def plan(context: Context, count: PrekeyCount) -> list[PrekeyBatch]:
    """What to upload: one-time prekeys when some are missing, a last-resort prekey when it is old,
    and all anew when the server has some whose secrets are not here. One that replaces is the
    first, and has to be there before the others."""
    now = context.clock() // 1000
    pairs = context.sessions.pairs.values()
    one_time = sum(p.kind is PrekeyKind.ONE_TIME and p.expires > now for p in pairs)
    known = any(p.expires == count.last_resort_expires for p in pairs if p.kind is LAST_RESORT)
    missing = PREKEYS_ONE_TIME - count.one_time
    batches: list[PrekeyBatch] = []
    # one of a clock that was ahead would be given out for as long
    ahead = context.clock_is_right and is_ahead(count.last_resort_expires, now)
    if ahead or count.one_time > one_time or (count.last_resort_expires and not known):
        # or the secrets of some that it gives away are not here: they were lost, or it lies
        batches.append(PrekeyBatch((LAST_RESORT,), replace=True))
        missing = PREKEYS_ONE_TIME
    elif count.last_resort_expires < now + PREKEY_LIFETIME - LAST_RESORT_RENEWAL:
        batches.append(PrekeyBatch((LAST_RESORT,)))
    missing = min(missing, _room(context))
    if missing >= REFILL:
        batches += [
            PrekeyBatch((PrekeyKind.ONE_TIME,) * min(UPLOAD, missing - start))
            for start in range(0, missing, UPLOAD)
        ]
    return batches


async def make_batch(context: Context, batch: PrekeyBatch) -> UploadPrekeys:
    """The request for a batch, whose secrets are on the disk on return."""
    now = context.clock() // 1000
    again = _last_resort(context, now) if LAST_RESORT in batch.kinds else []
    kinds = [kind for kind in batch.kinds if not (again and kind is LAST_RESORT)]
    pairs = [make_prekey(context.random, kind, now + PREKEY_LIFETIME) for kind in kinds]
    old = _excess(context, len(pairs))

    def change(writer: Writer) -> None:
        for pair in pairs:
            writer.put(Table.PREKEYS, pair.id, pair.encode())
        for id_ in old:
            writer.delete(Table.PREKEYS, id_)

    await context.store.commit(change)
    context.sessions.add_pairs(pairs)
    context.sessions.drop_pairs(old)
    records = tuple(pair.public(context.account.signing) for pair in again + pairs)
    return UploadPrekeys(records, batch.replace)


def _last_resort(context: Context, now: int) -> list[PrekeyPair]:
    """The newest last-resort prekey, if none has to be made yet: a server that says again and again
    that it has none, or another, is given this one again. It is for everybody anyway."""
    fresh = [
        pair
        for pair in context.sessions.pairs.values()
        if pair.kind is LAST_RESORT
        and pair.expires >= now + PREKEY_LIFETIME - LAST_RESORT_RENEWAL
        and not is_ahead(pair.expires, now)
    ]
    return sorted(fresh, key=lambda pair: pair.expires)[-1:]


def _room(context: Context) -> int:
    """One-time prekeys that may still be made. A server that says again and again that it has none
    gets no more: to forget the secrets of those that it has would lose what comes to them. Some
    place is left for last-resort prekeys, by which all can write meanwhile."""
    return max(0, PREKEY_SECRETS_MAX * 3 // 4 - len(context.sessions.pairs))


def _excess(context: Context, more: int) -> list[bytes]:
    """The oldest secrets, that have no place beside so many more."""
    pairs = context.sessions.pairs.values()
    oldest = sorted(pairs, key=lambda pair: pair.expires)
    return [pair.id for pair in oldest[: max(0, len(pairs) + more - PREKEY_SECRETS_MAX)]]


async def top_up(link: Link, context: Context) -> None:
    """Upload what is missing."""
    batches = plan(context, await request(link, CountPrekeys()))
    if batches and batches[0].replace:
        await request(link, await make_batch(context, batches.pop(0)))
    uploads = [await make_batch(context, batch) for batch in batches]
    # all at once: over Tor each would cost a round trip of its own
    for reply in await request_in_order(link, uploads):
        if isinstance(reply, CbfsError):
            raise reply
