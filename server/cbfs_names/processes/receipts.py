"""A verifier's receipts: what it has given one for is brought to the sequencer, and it signs no
round without it. So a sequencer that would rather not hear somebody has to stop altogether."""

import logging
from collections.abc import Callable

import trio

from cbfs_common.errors import CbfsError, DecodeError, TransportError
from cbfs_common.names.operations import OperationRefused, Refusal, decode_operation, sign_receipt
from cbfs_common.names.wire import Receipted, RefusedReply, encode_reply
from cbfs_common.primitives import Random
from cbfs_common.profile import Address
from cbfs_host.logs import keep_going, tell_fault
from cbfs_names.limits import CALL_TIMEOUT, FORWARD_INTERVAL, RECEIPT_PACE, RECEIPTS_MAX
from cbfs_names.rounds.verifier import Verifier
from cbfs_names.state.replay import config_now
from cbfs_names.state.store import StateStore
from cbfs_names.state.tables import StoreFull
from cbfs_names.wire.pace import Allowance
from cbfs_names.wire.peer_link import connected
from cbfs_names.wire.peer_messages import Forward
from cbfs_names.wire.sockets import DeferredReply

_log = logging.getLogger(__name__)


class Receipts:
    """The receipts of one ``verifier`` with its cosigning ``seed`` (Ed25519, 32)."""

    def __init__(
        self,
        store: StateStore,
        verifier: Verifier,
        seed: bytes,
        sequencer: Address,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._store = store
        self._verifier = verifier
        self._seed = seed
        self._sequencer = sequencer
        self._clock = clock
        self._random = random
        self._pace = Allowance(RECEIPTS_MAX, 1 / RECEIPT_PACE)
        self._asked: list[tuple[bytes, DeferredReply]] = []
        self._arrival = trio.Event()
        self._given = trio.Event()

    def ask(self, operation: bytes) -> bytes | DeferredReply:
        """The encoded reply to who submits this encoded operation: a receipt, or why there is
        none."""
        try:
            decode_operation(operation)
        except DecodeError:
            return encode_reply(RefusedReply(Refusal.BAD_REQUEST))
        if len(self._asked) >= RECEIPTS_MAX or self._pace.wait(1):
            return encode_reply(RefusedReply(Refusal.TOO_MANY))
        waiting = DeferredReply(encode_reply(RefusedReply(Refusal.TOO_MANY)), CALL_TIMEOUT)
        self._asked.append((operation, waiting))
        self._arrival.set()
        return waiting

    async def run(self) -> None:
        """Give receipts, and bring what they are for to the sequencer, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_going, "giving receipts", self._give, CbfsError)
            nursery.start_soon(keep_going, "bringing receipts", self._bring, CbfsError)

    async def _give(self) -> None:
        while True:
            await self._arrival.wait()
            self._arrival = trio.Event()
            asked, self._asked = self._asked, []
            for operation, waiting in asked:
                waiting.settle(await trio.to_thread.run_sync(self._receipt, operation))
            self._given.set()

    def _receipt(self, operation: bytes) -> bytes:
        try:
            time, signature = self._verifier.receipt(operation, int(self._clock()))
        except OperationRefused as error:
            return encode_reply(RefusedReply(error.refusal))
        except StoreFull as error:
            _log.error("no receipt is given: %s", error.in_full)
            return encode_reply(RefusedReply(Refusal.STOPPED))
        except CbfsError:
            raise
        except Exception as error:
            tell_fault("an operation", error)
            return encode_reply(RefusedReply(Refusal.BAD_REQUEST))
        self._pace.take(1)
        return encode_reply(Receipted(time, signature))

    async def _bring(self) -> None:
        while True:
            with trio.move_on_after(FORWARD_INTERVAL):
                await self._given.wait()
            self._given = trio.Event()
            with self._store.read() as view:
                directory = config_now(view).directory
                held = list(view.receipts())
            if not held:
                continue
            try:
                async with connected(self._sequencer, self._random) as link:
                    for time, operation in held:
                        signature = sign_receipt(self._seed, directory, operation, time)
                        await link.call(Forward(operation, time, signature))
            except (TransportError, DecodeError) as error:
                _log.info("the sequencer: %s", error.in_full)
