"""What the directory answers, and its rounds. One task makes rounds of what was submitted;
everything else is read from the round that is published."""

import logging
from collections.abc import Callable
from typing import Protocol

import trio

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import COSIGN_INTERVAL
from cbfs_common.names.operations import Refusal, decode_operation
from cbfs_common.names.wire import (
    RefusedReply,
    Request,
    Submit,
    Submitted,
    decode_request,
    encode_reply,
)
from cbfs_host.logs import keep_going
from cbfs_names.limits import PENDING_MAX, QUORUM_PATIENCE
from cbfs_names.state.round_log import Head, Outcome
from cbfs_names.state.store import StateStore
from cbfs_names.state.timekeeping import Timekeeper
from cbfs_names.wire.queries import Answers
from cbfs_names.wire.sockets import DeferredReply

_log = logging.getLogger(__name__)


class ServiceCore(Protocol):
    """What makes and signs the rounds of a directory. Times are seconds since 1970."""

    async def start(self, now: int) -> Head:
        """Finish what was cut off, make the first round if there is none; the newest head."""

    async def round(self, pending: list[bytes], now: int) -> Outcome:
        """Make one round of encoded operations that are pending, or none."""

    async def renew(self, now: int) -> Head | None:
        """Make an empty round when the configuration has changed; its head."""

    async def cosign(self, now: int) -> Head | None:
        """The newest head signed anew, unless that happens by itself."""

    def refusal(self, now: int) -> Refusal | None:
        """Why no operation is taken now; None: they are."""


class DirectoryService:
    """A directory at work: it answers requests, and gives what was submitted to its core. ``run``
    must be running for operations to be answered."""

    def __init__(
        self,
        store: StateStore,
        core: ServiceCore,
        clock: Callable[[], float],
        head: Head | None = None,
        timekeeper: Timekeeper | None = None,
    ) -> None:
        """``clock`` gives seconds since 1970. ``head``: the newest one, if it is known before
        ``run``; until then nothing is answered. ``timekeeper`` says when there are no rounds."""
        self._timekeeper = timekeeper
        self._store = store
        self._core = core
        self._clock = clock
        self._pending: dict[bytes, DeferredReply] = {}
        self._wake = trio.Event()
        self._signed = int(clock())
        self._answers = None if head is None else Answers(store, head)

    def close(self) -> None:
        """Let go of the store, after ``run`` has ended."""
        if self._answers is not None:
            self._answers.close()

    async def run(self) -> None:
        """Make rounds when there is something to do, and cosign now and then, until cancelled."""
        self.publish(await self._core.start(int(self._clock())))
        await self._renew()
        await keep_going("making rounds", self._rounds, CbfsError)

    async def _rounds(self) -> None:
        while True:
            with trio.move_on_after(COSIGN_INTERVAL):
                await self._wake.wait()
            await self._turn()

    def answer(self, payload: bytes) -> bytes | DeferredReply:
        """The encoded reply to one request, or what to wait on for it. Whatever the payload is,
        there is one."""
        try:
            request: Request = decode_request(payload)
        except DecodeError:
            return encode_reply(RefusedReply(Refusal.BAD_REQUEST))
        if isinstance(request, Submit):
            return self._submit(request.operation)
        if self._answers is None:
            return encode_reply(
                RefusedReply(self._core.refusal(int(self._clock())) or Refusal.NO_QUORUM)
            )
        return encode_reply(self._answers.answer(request))

    def publish(self, head: Head) -> None:
        """Answer from this head from now on."""
        if self._answers is None:
            self._answers = Answers(self._store, head)
        elif head.number != self._answers.head.number:
            _log.info("round %d", head.number)
        self._answers.show(head)
        self._signed = int(self._clock())

    def _submit(self, operation: bytes) -> bytes | DeferredReply:
        try:
            decode_operation(operation)
        except DecodeError:
            return encode_reply(RefusedReply(Refusal.BAD_REQUEST))
        waiting = self._pending.get(operation)
        if waiting is None:
            refusal = self._core.refusal(int(self._clock()))
            if refusal is None and len(self._pending) >= PENDING_MAX:
                refusal = Refusal.TOO_MANY
            if refusal is not None:
                return encode_reply(RefusedReply(refusal))
            late = encode_reply(RefusedReply(Refusal.NO_QUORUM))
            waiting = self._pending[operation] = DeferredReply(late, QUORUM_PATIENCE)
            self._wake.set()
        return waiting

    def take(self, operation: bytes) -> None:
        """Put an operation that a verifier has given a receipt for into a round, also when there is
        no room for others: else it would sign none."""
        if operation not in self._pending and len(self._pending) < 2 * PENDING_MAX:
            late = encode_reply(RefusedReply(Refusal.NO_QUORUM))
            self._pending[operation] = DeferredReply(late, QUORUM_PATIENCE)
            self._wake.set()

    async def _turn(self) -> None:
        self._wake = trio.Event()
        now = int(self._clock())
        pending = list(self._pending)
        if self._timekeeper is not None and await trio.to_thread.run_sync(self._timekeeper.look):
            if pending:
                _log.error("no rounds are made: this computer's clock has jumped ahead")
            for operation in pending:
                self._pending.pop(operation).settle(encode_reply(RefusedReply(Refusal.STOPPED)))
        elif pending:
            outcome = await self._core.round(pending, now)
            if outcome.head is not None:
                self.publish(outcome.head)
            for operation in pending:
                self._settle(operation, outcome)
            await self._renew()
            if self._pending:
                self._wake.set()
        if abs(now - self._signed) >= COSIGN_INTERVAL:
            head = await self._core.cosign(now)
            if head is not None:
                self.publish(head)

    async def _renew(self) -> None:
        head = await self._core.renew(int(self._clock()))
        if head is not None:
            self.publish(head)

    def _settle(self, operation: bytes, outcome: Outcome) -> None:
        """Answer who waits for it. What was left out for want of room waits on."""
        if outcome.head is not None and operation in outcome.placed:
            reply = encode_reply(Submitted(outcome.head.number))
        elif outcome.refused.get(operation, Refusal.TOO_MANY) is not Refusal.TOO_MANY:
            reply = encode_reply(RefusedReply(outcome.refused[operation]))
        else:
            return
        self._pending.pop(operation).settle(reply)
