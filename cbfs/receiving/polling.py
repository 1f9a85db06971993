"""Asking the home server at random moments, in place of staying connected to it.

Each poll is the same exchange whatever there is: three requests and POLL_FETCHES fetches, of one
frame each, of which those for which nothing waits ask for an envelope that is not there. What was
fetched is worked on when the connection has ended, and deleted by the next poll.
"""

from cbfs.account.account import Former
from cbfs.context import Context
from cbfs.network.dial import HOME
from cbfs.network.link import Link, ServerRefused, open_link, request_in_order
from cbfs.receiving.prekeys import Batch, make_batch, plan
from cbfs.receiving.receiver import Receiver
from cbfs.sending.cover_traffic import Dummies
from cbfs_common.errors import CbfsError
from cbfs_common.wire.requests import (
    ID_SIZE,
    AnyRequest,
    Code,
    CountPrekeys,
    Delete,
    EnvelopeIds,
    ErrorReply,
    Fetch,
    List,
    PrekeyCount,
    Reply,
    Stored,
)

POLL_FETCHES = 4
"""Envelopes that one poll can bring: more than dummies and messages come at the same pace."""


class Polling:
    """One for an account at work."""

    def __init__(
        self, context: Context, receiver: Receiver, dummies: Dummies, former: Former | None
    ) -> None:
        """``former``: the mailbox is an earlier one, which gets no prekeys."""
        self._context = context
        self._former = former
        self._receiver = receiver
        self._dummies = dummies
        self._taken: tuple[bytes, ...] = ()
        self._batches: list[Batch] = []

    async def poll(self) -> None:
        """One exchange, and what it brings into the store. Raises CbfsError."""
        context = self._context
        account = self._former or context.account
        spare: AnyRequest = CountPrekeys()
        if self._batches:
            spare = await make_batch(context, self._batches[0])
        taken = self._taken
        async with open_link(
            context.dialer.direct,
            account.server,
            account.transport,
            HOME + context.random.token(16),
            context.random,
        ) as link:
            replies = await _ask_all(link, [Delete(taken), spare, List(b"")])
            found = replies[2].ids if isinstance(replies[2], EnvelopeIds) else ()
            ids = [id_ for id_ in found if id_ not in taken][:POLL_FETCHES]
            noise = [context.random.token(ID_SIZE) for _ in range(POLL_FETCHES - len(ids))]
            fetched = await _ask_all(link, [Fetch(id_) for id_ in (*ids, *noise)])
        self._taken = ()
        await self._dummies.forget(taken)
        self._note_prekeys(replies[1])
        envelopes = [reply.envelope for reply in fetched if isinstance(reply, Stored)]
        real = [data for data in envelopes if not self._dummies.is_dummy(data)]
        if real:
            await self._receiver.take(real)
        self._taken = tuple(ids)
        if context.may_delete:
            await context.sessions.tidy(context.store, context.clock() // 1000)

    def _note_prekeys(self, reply: Reply) -> None:
        if isinstance(reply, PrekeyCount) and self._former is None:
            self._batches = plan(self._context, reply)
        elif self._batches:
            del self._batches[0]


async def _ask_all(link: Link, requests: list[AnyRequest]) -> list[Reply]:
    """All at once, as over Tor each would cost a round trip of its own. An envelope that is not
    there is no error here."""
    replies: list[Reply] = []
    for reply in await request_in_order(link, requests):
        if isinstance(reply, ServerRefused) and reply.code is Code.UNKNOWN_ENVELOPE:
            replies.append(ErrorReply(reply.code))
        elif isinstance(reply, CbfsError):
            raise reply
        elif reply is not None:
            replies.append(reply)
    return replies
