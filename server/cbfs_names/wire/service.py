"""What the directory answers, and its rounds. One task makes rounds of what was submitted;
everything else is read from the round that is published."""

import logging
from collections.abc import Callable
from typing import Protocol

import trio

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import COSIGN_INTERVAL
from cbfs_common.names.operations import OperationKind, Refusal, decode_operation
from cbfs_common.names.wire import (
    RefusedReply,
    Reply,
    Request,
    Submit,
    Submitted,
    decode_request,
    encode_reply,
)
from cbfs_host.logs import keep_going
from cbfs_host.meter import Counts
from cbfs_host.settings import Current
from cbfs_names.limits import QUORUM_PATIENCE, DirectoryLimits
from cbfs_names.state.round_log import Head, Outcome
from cbfs_names.state.store import StateStore
from cbfs_names.state.tables import StoreFull
from cbfs_names.state.timekeeping import Timekeeper
from cbfs_names.state.waiting import WaitingOperations, first_of
from cbfs_names.wire.pace import LogPace
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

    def verifiers(self, now: int) -> Counts:
        """The verifiers that are elsewhere, each with 1 if it has signed lately."""


class DirectoryService:
    """A directory at work: it answers requests, and gives what was submitted to its core. ``run``
    must be running for operations to be answered. ``kind``: what this process is."""

    kind = "directory"

    def __init__(
        self,
        store: StateStore,
        core: ServiceCore,
        clock: Callable[[], float],
        head: Head | None = None,
        timekeeper: Timekeeper | None = None,
        limits: Current[DirectoryLimits] | None = None,
        pace: LogPace | None = None,
    ) -> None:
        """``clock`` gives seconds since 1970. ``head``: the newest one, if it is known before
        ``run``; until then nothing is answered. ``timekeeper`` says when there are no rounds, and
        ``pace`` how many there are."""
        self._pace = pace or LogPace()
        self._waiting = WaitingOperations()
        self._receipted: set[bytes] = set()
        self._full = False
        self._timekeeper = timekeeper
        self._limits = limits or Current(DirectoryLimits())
        self._store = store
        self._core = core
        self._clock = clock
        self._pending: dict[bytes, DeferredReply] = {}
        self._wake = trio.Event()
        self._signed = int(clock())
        self._answers = None if head is None else Answers(store, head, clock)

    @property
    def waiting(self) -> int:
        """How many operations wait for a round."""
        return len(self._pending)

    @property
    def clock_doubted(self) -> bool:
        """Whether no rounds are made, as this computer's clock has jumped."""
        return self._timekeeper is not None and self._timekeeper.doubted

    def verifiers(self, now: int) -> Counts:
        """The verifiers that are elsewhere, each with 1 if it has signed lately."""
        return self._core.verifiers(now)

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
            wait = min(self._pace.wait(), COSIGN_INTERVAL) if self._pending else COSIGN_INTERVAL
            with trio.move_on_after(wait):
                await self._wake.wait()
            try:
                await self._turn()
            except StoreFull as error:
                self._stop(error)

    def _stop(self, error: StoreFull) -> None:
        """There is no room for a round: look-ups go on, and who waits is told. The next that comes
        is the next try."""
        _log.error("no rounds are made, and look-ups are answered: %s", error.in_full)
        self._full = True
        for operation in tuple(self._pending):
            self._end(operation, RefusedReply(Refusal.STOPPED))

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
            self._answers = Answers(self._store, head, self._clock)
        elif head.number != self._answers.head.number:
            _log.info("round %d", head.number)
        self._answers.show(head)
        self._signed = int(self._clock())

    def _submit(self, operation: bytes) -> bytes | DeferredReply:
        try:
            asked = decode_operation(operation)
        except DecodeError:
            return encode_reply(RefusedReply(Refusal.BAD_REQUEST))
        waiting = self._pending.get(operation)
        if waiting is None:
            refusal = self._core.refusal(int(self._clock()))
            # newcomers leave the other half of the room to owners
            room = self._limits.now.pending // (1 + (asked.kind is OperationKind.COMMIT))
            if refusal is None and len(self._pending) >= room:
                refusal = Refusal.TOO_MANY
            if refusal is None and self._answers is not None:
                # costs a fifth of what it would in a round, and nobody waits behind it
                refusal = self._answers.refusal(operation)
            if refusal is not None:
                return encode_reply(RefusedReply(refusal))
            late = encode_reply(RefusedReply(Refusal.NO_QUORUM))
            waiting = self._pending[operation] = DeferredReply(late, QUORUM_PATIENCE)
            self._wake.set()
        return waiting

    def take(self, operation: bytes) -> None:
        """Put an operation that a verifier has given a receipt for into a round, also when there is
        no room for others: else it would sign none."""
        self._receipted.add(operation)
        if operation not in self._pending and len(self._pending) < 2 * self._limits.now.pending:
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
                self._end(operation, RefusedReply(Refusal.STOPPED))
        elif pending and self._pace.wait():
            await self._sift(pending, now)
        elif pending:
            await self._round(pending, now)
        if abs(now - self._signed) >= COSIGN_INTERVAL:
            head = await self._core.cosign(now)
            if head is not None:
                self.publish(head)

    async def _sift(self, pending: list[bytes], now: int) -> None:
        """Answer whom the next round has no place for: nobody else waits behind them."""

        def sift() -> dict[bytes, Refusal]:
            with self._store.read() as view:
                return self._waiting.sift(view, dict.fromkeys(pending), now)

        refused = await trio.to_thread.run_sync(sift)
        for operation, why in refused.items():
            self._end(operation, RefusedReply(why))

    async def _round(self, pending: list[bytes], now: int) -> None:
        """One round of what is pending, as much as there is room for; the rest waits on."""

        def choose() -> list[bytes]:
            with self._store.read() as view:
                return first_of(view, pending, self._receipted, room)

        room = self._pace.room()
        if sum(map(len, pending)) > room:
            pending = await trio.to_thread.run_sync(choose)
        outcome = await self._core.round(pending, now)
        if outcome.head is not None:
            if self._full:
                _log.warning("rounds are made again")
            self._full = False
            self._pace.made(outcome.placed)
            self.publish(outcome.head)
        for operation in pending:
            self._settle(operation, outcome)
        await self._renew()

    async def _renew(self) -> None:
        head = await self._core.renew(int(self._clock()))
        if head is not None:
            self.publish(head)

    def _settle(self, operation: bytes, outcome: Outcome) -> None:
        """Answer who waits for it. What was left out for want of room waits on."""
        if outcome.head is not None and operation in outcome.placed:
            self._end(operation, Submitted(outcome.head.number))
        elif outcome.refused.get(operation, Refusal.TOO_MANY) is not Refusal.TOO_MANY:
            self._end(operation, RefusedReply(outcome.refused[operation]))

    def _end(self, operation: bytes, reply: Reply) -> None:
        self._receipted.discard(operation)
        self._pending.pop(operation).settle(encode_reply(reply))
