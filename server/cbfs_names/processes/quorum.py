"""The sequencer's side of verifiers that are processes of their own: it offers blocks, and
publishes a round when a quorum has signed it."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from cbfs_common.errors import DecodeError
from cbfs_common.names.config import Config
from cbfs_common.names.note import parse_note
from cbfs_common.names.operations import Refusal
from cbfs_host.meter import Counts
from cbfs_names.limits import AWAIT_PATIENCE, AWAITING_MAX, RETRY_PAUSE
from cbfs_names.processes.room import keep_trying
from cbfs_names.processes.votes import Votes
from cbfs_names.rounds.published import offered, page_of
from cbfs_names.rounds.sequencer import Sequencer, due
from cbfs_names.rounds.verifier import checkpoint_at
from cbfs_names.state.block import Block
from cbfs_names.state.replay import config_now
from cbfs_names.state.round_log import Head, Outcome, head_of
from cbfs_names.state.store import StateStore
from cbfs_names.wire.peer_messages import (
    Acknowledged,
    AskStatus,
    Await,
    BlockPage,
    Forward,
    GetBlock,
    Offer,
    PeerStatus,
    Reject,
    Vote,
    decode,
    encode,
)
from cbfs_names.wire.sockets import DeferredReply

_log = logging.getLogger(__name__)


class Quorum:
    """``ServiceCore`` of a sequencer with verifiers elsewhere. ``on_head`` is told of newer
    cosignatures of the newest head, ``on_config`` of a configuration when a head of it is
    published, ``on_receipted`` of operations that a verifier has given a receipt for."""

    def __init__(
        self,
        store: StateStore,
        sequencer: Sequencer,
        recover: Callable[[], Awaitable[None]],
        data: Path,
    ) -> None:
        """``recover`` takes over what verifiers have of this sequencer and the store has not.
        ``data``: where evidence is left."""
        self.on_head: Callable[[Head], None] = lambda head: None
        self.on_receipted: Callable[[bytes], None] = lambda operation: None
        self.on_config: Callable[[Config], None] = lambda config: None
        self._recover = recover
        self._store = store
        self._sequencer = sequencer
        self._votes = Votes(store, data, self._fire, self._tell_head)
        self._awaiting: list[tuple[Await, DeferredReply]] = []
        self._changed = trio.Event()
        self._pages: tuple[bytes, bytes] = b"", b""

    # ServiceCore

    async def start(self, now: int) -> Head:
        """Show the newest head, offer again what was proposed, or make the first round."""
        self._show_stored()
        await self._recover()
        self._show_stored()
        block = self._sequencer.outstanding()
        if block is not None:
            await self._collect(block)
        while self._votes.head is None:
            first, _ = await trio.to_thread.run_sync(self._sequencer.propose, [], now)
            if first is not None:
                await self._collect(first)
        return self._votes.head

    def _show_stored(self) -> None:
        with self._store.read() as view:
            stored = view.head()
            text = checkpoint_at(view, config_now(view)).encode()
            if stored is None or parse_note(stored).text != text:
                return  # of an old copy that is a round behind its head, or the reverse
            head = head_of(view, parse_note(stored))
        self._votes.show(head)
        self.on_head(head)

    async def round(self, pending: list[bytes], now: int) -> Outcome:
        """One round: proposed, and published or given up."""
        if self._sequencer.clock_is_behind(now):
            _log.error("no rounds are made: this computer's clock has been set back")
            return Outcome(None, frozenset(), dict.fromkeys(pending, Refusal.STOPPED))
        block, refused = await trio.to_thread.run_sync(self._sequencer.propose, pending, now)
        if block is None:
            return Outcome(None, frozenset(), refused)
        head = await self._collect(block)
        if head is None:
            await trio.sleep(RETRY_PAUSE)
            return Outcome(None, frozenset(), refused)
        return Outcome(head, frozenset(block.operations), refused)

    async def renew(self, now: int) -> Head | None:
        """Make an empty round when the configuration has changed; its head."""
        with self._store.read() as view:
            if not due(view):
                return None
        return (await self.round([], now)).head

    async def cosign(self, now: int) -> Head | None:
        """Nothing: verifiers cosign the newest head by themselves."""
        return None

    def refusal(self, now: int) -> Refusal | None:
        """Why no operation is taken at ``now`` (seconds); None: they are."""
        if self._votes.stopped:
            return Refusal.EQUIVOCATION
        if not self._votes.config.satisfied(self._votes.present(now)):
            return Refusal.NO_QUORUM
        return None

    def verifiers(self, now: int) -> Counts:
        """The verifiers of the configuration, each with 1 if it has signed lately."""
        present = set(self._votes.present(now))
        return tuple((name, int(name in present)) for name, _ in self._votes.config.witnesses)

    async def _collect(self, block: Block) -> Head | None:
        """Offer a block until a quorum has signed it, or can no longer. The head with it."""
        self._votes.open(block, self._sequencer.checkpoint(block))
        while True:
            self._fire()
            changed = self._changed
            if self._votes.won:
                return await self._publish(block)
            if self._votes.lost:
                self._votes.drop()
                await trio.to_thread.run_sync(self._sequencer.drop, block.round.number)
                return None
            await changed.wait()

    async def _publish(self, block: Block) -> Head | None:
        lines = self._votes.lines()
        # given up now, another would be proposed in the place of what verifiers have locked
        note = await keep_trying(partial(self._sequencer.publish, block, tuple(lines.values())))
        with self._store.read() as view:
            head = head_of(view, note)
        if self._votes.publish(head, lines):
            self.on_config(self._votes.shown)
        self._votes.refresh()
        return self._votes.head

    # what verifiers ask

    async def record(self) -> None:
        """Put cosignatures of proposals on the disk and then count them, until cancelled."""
        await self._votes.record()

    def answer(self, payload: bytes) -> bytes | DeferredReply | None:
        """The reply to a verifier's message; None when it is none."""
        try:
            message = decode(payload)
        except DecodeError:
            return None
        match message:
            case Await():
                return self._await(message)
            case GetBlock(round_, page):
                return encode(self._page(round_, page))
            case Vote(note):
                return self._votes.take(note)
            case Reject(refusal):
                self._votes.refuse(refusal)
            case Forward():
                if self._votes.receipted(message):
                    self.on_receipted(message.operation)
            case AskStatus(key):
                return encode(self._status(key))
            case _:
                return None
        return encode(Acknowledged())

    def _status(self, key: bytes) -> PeerStatus:
        with self._store.read() as view:
            vote = view.vote(key) if key else None
        return PeerStatus(self._head_note(), vote or b"")

    def _await(self, asked: Await) -> bytes | DeferredReply:
        found = self._offer(asked)
        if found is not None:
            return encode(found)
        late = encode(Offer(self._head_note(), b"", False, (), b""))
        waiting = DeferredReply(late, AWAIT_PATIENCE)
        self._awaiting.append((asked, waiting))
        if len(self._awaiting) > AWAITING_MAX:
            # anybody may wait: a verifier that has no place any more asks again at once
            self._awaiting.pop(0)[1].settle(late)
        return waiting

    def _offer(self, asked: Await) -> Offer | None:
        head, block, note = self._votes.head, self._votes.block, self._head_note()
        size = 0 if head is None else head.number + 1
        if asked.size < size:
            with self._store.read() as view:
                return offered(view, note, asked.size)
        if block is None or asked.size != size or asked.seen == block.round.digest():
            return Offer(note, b"", False, (), b"") if asked.shown < size else None
        return Offer(note, block.round.digest(), False, (), self._votes.note())

    def _page(self, round_: int, page: int) -> BlockPage:
        block = self._votes.block
        if block is not None and block.round.number == round_:
            leaf = block.round.digest()
            if self._pages[0] != leaf:
                self._pages = leaf, block.encode()
            data = self._pages[1]
        else:
            with self._store.read() as view:
                data = view.block(round_).encode() if round_ < view.size() else b""
        return page_of(data, page)

    def _head_note(self) -> bytes:
        return b"" if self._votes.head is None else self._votes.head.note

    def _tell_head(self) -> None:
        """Tell of a head that has newer cosignatures."""
        if self._votes.head is not None:
            self.on_head(self._votes.head)
            self._fire()

    def _fire(self) -> None:
        """Tell who waits for something new."""
        self._changed.set()
        self._changed = trio.Event()
        awaiting, self._awaiting = self._awaiting, []
        for asked, waiting in awaiting:
            found = self._offer(asked)
            if found is None:
                self._awaiting.append((asked, waiting))
            else:
                waiting.settle(encode(found))
