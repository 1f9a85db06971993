"""The sequencer's side of verifiers that are processes of their own: it offers blocks, takes
votes and refusals, and publishes when a quorum has signed."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import trio

from cbfs_common.errors import CryptoError, DecodeError
from cbfs_common.names.config import Config, config_of
from cbfs_common.names.equivocation import Equivocation
from cbfs_common.names.note import (
    SignatureLine,
    SignedNote,
    parse_checkpoint,
    parse_note,
    verify_cosignature,
)
from cbfs_common.names.operations import Refusal, verify_receipt
from cbfs_names.limits import AWAIT_PATIENCE, AWAITING_MAX, CALL_TIMEOUT, PRESENCE, RETRY_PAUSE
from cbfs_names.rounds.equivocation import compare, doubled, keep
from cbfs_names.rounds.published import offered, page_of
from cbfs_names.rounds.sequencer import Sequencer, due
from cbfs_names.rounds.verifier import checkpoint_at, stopped
from cbfs_names.state.block import Block, decode_refusal
from cbfs_names.state.heads import Head, Outcome, head_of
from cbfs_names.state.replay import config_now
from cbfs_names.state.store import Store
from cbfs_names.wire.deferred import Waiting
from cbfs_names.wire.peer_messages import (
    AskStatus,
    Await,
    BlockPage,
    Done,
    Forward,
    GetBlock,
    Offer,
    Reject,
    Status,
    Vote,
    decode,
    encode,
)

_log = logging.getLogger(__name__)


class Panel:
    """``service.Core`` of a sequencer with verifiers elsewhere. ``on_head`` is told of newer
    cosignatures of the newest head, ``on_config`` of a configuration when a head of it is
    published, ``on_receipted`` of operations that a verifier has given a receipt for."""

    def __init__(
        self,
        store: Store,
        sequencer: Sequencer,
        recover: Callable[[], Awaitable[None]],
        data: Path,
        clock: Callable[[], float],
    ) -> None:
        """``recover`` takes over what verifiers have of this sequencer and the store has not."""
        self.on_head: Callable[[Head], None] = lambda head: None
        self.on_receipted: Callable[[bytes], None] = lambda operation: None
        self.on_config: Callable[[Config], None] = lambda config: None
        self._recover = recover
        self._store = store
        self._sequencer = sequencer
        self._data = data
        self._clock = clock
        self._block: Block | None = None
        self._text = b""
        self._votes: dict[str, SignatureLine] = {}
        self._refusers: set[str] = set()
        self._present: dict[str, int] = {}
        self._lines: dict[str, SignatureLine] = {}
        self._head: Head | None = None
        self._awaiting: list[tuple[Await, Waiting]] = []
        self._changed = trio.Event()
        self._pages: tuple[bytes, bytes] = b"", b""
        self._arrived: list[tuple[SignedNote, dict[str, SignatureLine], Waiting]] = []
        self._arrival = trio.Event()
        self._config, self._stopped = self._read()
        self._shown = self._config

    # service.Core

    async def start(self, now: int) -> Head:
        """Show the newest head, offer again what was proposed, or make the first round."""
        self._show_stored()
        await self._recover()
        self._show_stored()
        block = self._sequencer.outstanding()
        if block is not None:
            await self._collect(block)
        while self._head is None:
            first, _ = await trio.to_thread.run_sync(self._sequencer.propose, [], now)
            if first is not None:
                await self._collect(first)
        return self._head

    def _show_stored(self) -> None:
        with self._store.read() as view:
            stored = view.head()
            text = checkpoint_at(view, config_now(view)).encode()
            if stored is None or parse_note(stored).text != text:
                return  # of an old copy that is a round behind its head, or the reverse
            note = parse_note(stored)
            self._head = head_of(view, note)
        self._config, self._stopped = self._read()
        self._shown = self._config_of(self._head)
        self._lines = self._known_lines(note, self._shown)
        self.on_head(self._head)

    def _config_of(self, head: Head) -> Config:
        """In whose force the head's round was made: that one's verifiers sign it."""
        with self._store.read() as view:
            return config_of(view.config_text(head.number))

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
        """An empty round of a new configuration."""
        with self._store.read() as view:
            if not due(view):
                return None
        return (await self.round([], now)).head

    async def cosign(self, now: int) -> Head | None:
        """Verifiers do that by themselves."""
        return None

    def refusal(self, now: int) -> Refusal | None:
        """Why no operation is taken now."""
        if self._stopped:
            return Refusal.EQUIVOCATION
        if not self._config.satisfied(
            name for name, seen in self._present.items() if now - seen <= PRESENCE
        ):
            return Refusal.NO_QUORUM
        return None

    # what verifiers ask

    def answer(self, payload: bytes) -> bytes | Waiting | None:
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
                return self._vote(note)
            case Reject(refusal):
                self._reject(refusal)
            case Forward():
                self._take(message)
            case AskStatus(key):
                return encode(self._status(key))
            case _:
                return None
        return encode(Done())

    def _status(self, key: bytes) -> Status:
        with self._store.read() as view:
            vote = view.vote(key) if key else None
        return Status(b"" if self._head is None else self._head.note, vote or b"")

    def _await(self, asked: Await) -> bytes | Waiting:
        found = self._offer(asked)
        if found is not None:
            return encode(found)
        late = encode(Offer(b"" if self._head is None else self._head.note, b"", False, (), b""))
        waiting = Waiting(late, AWAIT_PATIENCE)
        self._awaiting.append((asked, waiting))
        if len(self._awaiting) > AWAITING_MAX:
            # anybody may wait: a verifier that has no place any more asks again at once
            self._awaiting.pop(0)[1].settle(late)
        return waiting

    def _offer(self, asked: Await) -> Offer | None:
        size = 0 if self._head is None else self._head.number + 1
        note = b"" if self._head is None else self._head.note
        if asked.size < size:
            with self._store.read() as view:
                return offered(view, note, asked.size)
        block = self._block
        if block is None or asked.size != size or asked.seen == block.round.digest():
            return Offer(note, b"", False, (), b"") if asked.shown < size else None
        votes = SignedNote(self._text, tuple(self._votes.values())).encode() if self._votes else b""
        return Offer(note, block.round.digest(), False, (), votes)

    def _page(self, round_: int, page: int) -> BlockPage:
        leaf = self._block.round.digest() if self._block else b""
        if self._block is not None and self._block.round.number == round_:
            if self._pages[0] != leaf:
                self._pages = leaf, self._block.encode()
            data = self._pages[1]
        else:
            with self._store.read() as view:
                data = view.block(round_).encode() if round_ < view.size() else b""
        return page_of(data, page)

    def _vote(self, encoded: bytes) -> bytes | Waiting:
        """A proposal's is on the disk before it counts: a verifier that is restored from a copy
        learns it from here, also when the proposal is dropped meanwhile."""
        done = encode(Done())
        try:
            note = parse_note(encoded)
            parse_checkpoint(note.text.decode("ascii"))
        except (DecodeError, UnicodeDecodeError):
            return done
        found = self._known_lines(note, self._config)
        fresh = {name: line for name, line in found.items() if name not in self._votes}
        if self._block is None or note.text != self._text or not fresh:
            self._count(note, found)
            return done
        waiting = Waiting(done, CALL_TIMEOUT)
        self._arrived.append((note, fresh, waiting))
        self._arrival.set()
        return waiting

    async def record(self) -> None:
        """Keep votes and then count them, until cancelled."""
        while True:
            await self._arrival.wait()
            self._arrival = trio.Event()
            arrived, self._arrived = self._arrived, []
            await trio.to_thread.run_sync(self._keep, [each[:2] for each in arrived])
            for note, found, waiting in arrived:
                self._count(note, found)
                waiting.settle(encode(Done()))

    def _keep(self, arrived: list[tuple[SignedNote, dict[str, SignatureLine]]]) -> None:
        keys = dict(self._config.witnesses)
        with self._store.write() as writer:
            for note, found in arrived:
                for name, line in found.items():
                    writer.keep_vote(keys[name].public, SignedNote(note.text, (line,)).encode())

    def _count(self, note: SignedNote, found: dict[str, SignatureLine]) -> None:
        size = parse_checkpoint(note.text.decode("ascii")).size
        self._check_doubled(note, found)
        for name, line in found.items():
            self._present[name] = max(line.time, self._present.get(name, 0))
        if self._block is not None and note.text == self._text:
            _renew(self._votes, found)
            self._fire()
        elif self._head is not None and self._head.note.startswith(note.text + b"\n"):
            _renew(self._lines, self._known_lines(note, self._shown))
            self._refresh()
        elif self._head is None or size > self._head.number + 1:
            if size:
                _log.warning("a verifier has a round that is not known here: %s", ", ".join(found))
        else:
            self._compare(note)

    def _check_doubled(self, note: SignedNote, found: dict[str, SignatureLine]) -> None:
        """Has one of them signed another checkpoint of this size before?"""
        proven = []
        with self._store.read() as view:
            for name, key in self._config.witnesses:
                vote = view.vote(key.public) if name in found else None
                made = vote and doubled(key, parse_note(vote), note)
                if made:
                    proven.append(made)
        self._stop(proven)

    def _compare(self, note: SignedNote) -> None:
        with self._store.read() as view:
            found = compare(view, note)
        self._stop(found)

    def _stop(self, found: list[Equivocation]) -> None:
        """For people to decide, when there is evidence."""
        if found:
            keep(self._store, self._data, found)
            self._config, self._stopped = self._read()

    def _take(self, message: Forward) -> None:
        """An operation that a verifier waits for."""
        namespace = self._config.namespace
        for _, key in self._config.witnesses:
            try:
                verify_receipt(
                    key.public, namespace, message.operation, message.time, message.signature
                )
            except CryptoError:
                continue
            self.on_receipted(message.operation)
            return

    def _reject(self, encoded: bytes) -> None:
        try:
            refusal, signature = decode_refusal(encoded)
        except DecodeError:
            return
        block = self._block
        if block is None or refusal.leaf != block.round.digest():
            return
        for name, key in self._config.witnesses:
            try:
                refusal.verify(key.public, signature)
            except CryptoError:
                continue
            _log.warning("verifier %s refuses a round: %s", name, refusal.reason.name)
            self._refusers.add(name)
            self._fire()

    @staticmethod
    def _known_lines(note: SignedNote, config: Config) -> dict[str, SignatureLine]:
        """The lines of verifiers of a configuration that verify."""
        found = {}
        for line in note.lines:
            for name, key in config.witnesses:
                if (line.name, line.key_id) != (key.name, key.id):
                    continue
                try:
                    verify_cosignature(key, note.text, line.signature)
                except (CryptoError, DecodeError):
                    continue
                found[name] = line
        return found

    async def _collect(self, block: Block) -> Head | None:
        """Offer a block until a quorum has signed it, or can no longer. The head with it."""
        self._text = self._sequencer.checkpoint(block)
        self._block, self._votes, self._refusers = block, self._voted(), set()
        everybody = {name for name, _ in self._config.witnesses}
        while True:
            self._fire()
            changed = self._changed
            if self._config.satisfied(self._votes):
                return await self._publish(block)
            if not self._config.satisfied(everybody - self._refusers):
                self._block = None
                await trio.to_thread.run_sync(self._sequencer.drop, block.round.number)
                return None
            await changed.wait()

    def _voted(self) -> dict[str, SignatureLine]:
        """Who has signed the proposal before a restart."""
        found = {}
        with self._store.read() as view:
            for name, key in self._config.witnesses:
                vote = view.vote(key.public)
                if vote is not None and parse_note(vote).text == self._text:
                    found[name] = parse_note(vote).lines[0]
        return found

    async def _publish(self, block: Block) -> Head:
        lines = dict(self._votes)
        note = await trio.to_thread.run_sync(self._sequencer.publish, block, tuple(lines.values()))
        with self._store.read() as view:
            self._head = head_of(view, note)
        late = {name: line for name, line in self._votes.items() if name not in lines}
        self._block, self._votes, self._lines = None, {}, lines | late
        before, self._shown = self._shown, self._config
        self._config, self._stopped = self._read()
        if self._shown != before:
            self.on_config(self._shown)
        self._refresh()
        return self._head

    def _refresh(self) -> None:
        """The newest head with the newest cosignatures. Made of the head and not of the store,
        which may be a round ahead while one is being published."""
        if self._head is None:
            return
        note, log = parse_note(self._head.note), self._shown.log
        own = tuple(line for line in note.lines if (line.name, line.key_id) == (log.name, log.id))
        fresh = SignedNote(note.text, (*own, *self._lines.values()))
        self._head = replace(self._head, note=fresh.encode())
        self.on_head(self._head)
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

    def _read(self) -> tuple[Config, bool]:
        with self._store.read() as view:
            config = config_now(view)
            return config, stopped(view, config)


def _renew(lines: dict[str, SignatureLine], found: dict[str, SignatureLine]) -> None:
    """Put newer cosignatures in the place of older ones. Anybody can show old ones again, and they
    must not make a head look older than it is."""
    for name, line in found.items():
        if name not in lines or line.time > lines[name].time:
            lines[name] = line
