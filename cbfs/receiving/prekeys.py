"""Keeping up the prekeys on the home server.

The secrets are on the disk before the server has the public halves: a crash in between leaves
secrets that nobody uses, never a prekey that cannot be answered.
"""

from dataclasses import dataclass

from cbfs.contacts.prekey_secrets import LIFETIME, is_ahead
from cbfs.context import Context
from cbfs.network.link import Link, request, request_in_order
from cbfs_common.errors import CbfsError
from cbfs_common.limits import (
    LAST_RESORT_LIFETIME,
    LAST_RESORT_RENEWAL,
    PREKEY_SECRETS_MAX,
    PREKEYS_ONE_TIME,
)
from cbfs_common.session.prekey import PrekeyKind, PrekeyPair, make_prekey
from cbfs_common.wire.requests import CountPrekeys, PrekeyCount, UploadPrekeys

UPLOAD = 10
"""Prekeys in one request."""

REFILL = 25
"""Prekeys are made anew when so many are missing."""

ROOM = PREKEY_SECRETS_MAX // 2
"""One-time prekeys made between two times that all are replaced. A server that says again and again
that it has none gets no more: to forget the secrets of those that it has would lose what comes to
them. By the last-resort prekey all can write meanwhile."""

LAST_RESORT = PrekeyKind.LAST_RESORT


@dataclass(frozen=True, slots=True)
class PrekeyBatch:
    """Prekeys of one upload. ``anew``: a new set of all begins; ``replace``: it takes the
    place of what the server has, if it has any."""

    kinds: tuple[PrekeyKind, ...]
    anew: bool = False
    replace: bool = False


def plan(context: Context, count: PrekeyCount) -> list[PrekeyBatch]:
    """What to upload: one-time prekeys when some are missing, a last-resort prekey when it is old,
    and all anew once in PREKEY_RENEWAL, and when the server has some whose secrets are not here.
    One that replaces is the first, and has to be there before the others."""
    now = context.clock() // 1000
    secrets = context.sessions.prekeys
    given_out = secrets.given_out()
    good = sum(pair.expires > now for pair in given_out)
    expires = count.last_resort_expires
    unknown = expires and all(p.expires != expires for p in secrets.of(LAST_RESORT))
    # one of a clock that was ahead would be given out for as long
    ahead = context.clock_is_right and is_ahead(LAST_RESORT, expires, now)
    # or the secrets of some that it gives away are not here: they were lost, or it lies
    wrong = bool(ahead or unknown or count.one_time > good)
    room, missing = ROOM - len(given_out), PREKEYS_ONE_TIME - count.one_time
    batches: list[PrekeyBatch] = []
    if secrets.is_to_be_replaced(now, wrong=wrong):
        has_any = bool(count.one_time or expires)
        batches.append(PrekeyBatch((LAST_RESORT,), anew=True, replace=has_any))
        room = missing = PREKEYS_ONE_TIME
    elif unknown or expires < now + LAST_RESORT_LIFETIME - LAST_RESORT_RENEWAL:
        batches.append(PrekeyBatch((LAST_RESORT,)))
    missing = min(missing, room)
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
    pairs = [make_prekey(context.random, kind, now + LIFETIME[kind]) for kind in kinds]
    secrets, replaced = context.sessions.prekeys, now if batch.anew else None
    async with context.sessions.lock:
        await context.store.commit(lambda writer: secrets.write_new(writer, pairs, replaced))
        secrets.written(pairs, replaced)
    records = tuple(pair.public(context.account.signing) for pair in again + pairs)
    return UploadPrekeys(records, context.account.kem_public, batch.replace)


def _last_resort(context: Context, now: int) -> list[PrekeyPair]:
    """The newest last-resort prekey, if none has to be made yet: a server that says again and again
    that it has none, or another, is given this one again. It is for everybody anyway."""
    fresh = [
        pair
        for pair in context.sessions.prekeys.of(LAST_RESORT)
        if pair.expires >= now + LAST_RESORT_LIFETIME - LAST_RESORT_RENEWAL
        and not is_ahead(LAST_RESORT, pair.expires, now)
    ]
    return fresh[-1:]


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
