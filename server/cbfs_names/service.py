"""What the directory answers. One thread makes rounds; look-ups read the snapshot of the round
that is published, so that map, log and head always belong together."""

import logging
from collections.abc import Callable

import trio

from cbfs_common.errors import DecodeError
from cbfs_common.limits import COSIGN_INTERVAL, FEED_PART, FEED_TILE
from cbfs_common.names_entry import CHANGE_SIZE, decode_entry, name_index
from cbfs_common.names_evidence import Evidence, encode_links, newest_links
from cbfs_common.names_feed import FeedRound
from cbfs_common.names_log import PROOF_MAX
from cbfs_common.names_operations import Kind, Link, Refusal, decode_operation
from cbfs_common.names_wire import (
    NAMES_REPLY_MAX,
    AskChanges,
    AskHead,
    ChangesAre,
    HeadIs,
    History,
    LookedUp,
    Lookup,
    Refused,
    Reply,
    Request,
    Steps,
    Submit,
    Submitted,
    decode_request,
)
from cbfs_names.config import Config
from cbfs_names.embedded import Embedded, Head, Outcome
from cbfs_names.limits import CONSISTENCY_KEPT_MAX, FEED_KEPT_MAX, PENDING_MAX
from cbfs_names.log import Log
from cbfs_names.store import Snapshot, Store
from cbfs_names.tree import Tree

_log = logging.getLogger(__name__)

_ENVELOPE = 64
"""More than msgpack adds to a reply."""


class Waiting:
    """An operation that waits for its round."""

    __slots__ = ("_done", "_reply")

    def __init__(self) -> None:
        self._done = trio.Event()
        self._reply: Reply = Refused(Refusal.STOPPED)

    def settle(self, reply: Reply) -> None:
        """Once."""
        self._reply = reply
        self._done.set()

    async def reply(self) -> Reply:
        """Wait for it."""
        await self._done.wait()
        return self._reply


class Service:
    """Answers requests. ``run`` must be running for operations to be answered."""

    def __init__(
        self, store: Store, config: Config, core: Embedded, clock: Callable[[], float]
    ) -> None:
        """``clock`` gives seconds since 1970."""
        self._store = store
        self._config = config
        self._core = core
        self._clock = clock
        self._pending: dict[bytes, Waiting] = {}
        self._wake = trio.Event()
        self._consistency: dict[int, tuple[bytes, ...]] = {}
        self._feed: dict[int, bytes] = {}
        self._signed = int(clock())
        self._head = core.start(self._signed)
        self._snapshot: Snapshot = store.snapshot()

    def close(self) -> None:
        """Let go of the store."""
        self._snapshot.close()

    async def run(self) -> None:
        """Make rounds when there is something to do, and cosign now and then, until cancelled.
        A round that has begun is finished."""
        while True:
            with trio.move_on_after(COSIGN_INTERVAL):
                await self._wake.wait()
            with trio.CancelScope(shield=True):
                await self._turn()

    def answer(self, payload: bytes) -> Reply | Waiting:
        """The reply to one request, or what to wait on for it. Whatever the payload is, there is
        one."""
        try:
            request: Request = decode_request(payload)
        except DecodeError:
            return Refused(Refusal.BAD_REQUEST)
        match request:
            case Lookup(name, old_size):
                return self._look_up(name, old_size)
            case History(name, incarnation, version):
                return self._history(name, incarnation, version)
            case Submit(operation):
                return self._submit(operation)
            case AskHead():
                return HeadIs(self._head.note, self._head.round, self._head.log_proof)
            case AskChanges(tile, part):
                return self._changes(tile, part)

    def _look_up(self, name: str, old_size: int) -> Reply:
        view, index = self._snapshot, name_index(self._config.namespace, name)
        proof = Tree(view.node, view.leaf).prove(index)
        entry = view.entry(index) or b""
        evidence = Evidence(
            self._head.note, self._head.round, self._head.log_proof, proof.encode(), entry
        )
        consistency = self._consistent(old_size)
        links: tuple[Link, ...] = ()
        if entry:
            last = decode_entry(entry)
            room = NAMES_REPLY_MAX - len(evidence.encode()) - 32 * PROOF_MAX - _ENVELOPE
            newest = view.newest_links(index, last.incarnation, last.version)
            links = newest_links(newest, room)
        return LookedUp(evidence, consistency, links)

    def _history(self, name: str, incarnation: int, version: int) -> Reply:
        index = name_index(self._config.namespace, name)
        links: list[Link] = []
        if incarnation < 2**32:
            for link in self._snapshot.links(index, incarnation, version):
                if len(encode_links((*links, link))) > NAMES_REPLY_MAX - _ENVELOPE:
                    break
                links.append(link)
        return Steps(tuple(links))

    def _changes(self, tile: int, part: int) -> Reply:
        end = min((tile + 1) * FEED_TILE, self._head.number + 1)
        data = b"".join(self._feed_round(number) for number in range(tile * FEED_TILE, end))
        rest = data[part * FEED_PART :]
        return ChangesAre(rest[:FEED_PART], len(rest) > FEED_PART)

    def _feed_round(self, number: int) -> bytes:
        """A round's record never changes; everybody asks for the same few."""
        found = self._feed.get(number)
        if found is None:
            block = self._snapshot.block(number)
            operations = [decode_operation(encoded) for encoded in block.operations]
            names = [each.name for each in operations if each.kind is not Kind.COMMIT]
            indexes = [name_index(self._config.namespace, name) for name in names]
            changes = tuple(sorted({index[:CHANGE_SIZE] for index in indexes}))
            found = FeedRound(block.round, changes).encode()
            if len(self._feed) >= FEED_KEPT_MAX:
                self._feed.clear()
            self._feed[number] = found
        return found

    def _consistent(self, old_size: int) -> tuple[bytes, ...]:
        """Most clients have one of few sizes: proofs are kept until the next round."""
        size = self._head.number + 1
        if not 0 < old_size < size:
            return ()
        found = self._consistency.get(old_size)
        if found is None:
            found = Log(size, self._snapshot.log_hash).consistency(old_size)
            if len(self._consistency) >= CONSISTENCY_KEPT_MAX:
                self._consistency.clear()
            self._consistency[old_size] = found
        return found

    def _submit(self, operation: bytes) -> Reply | Waiting:
        try:
            decode_operation(operation)
        except DecodeError:
            return Refused(Refusal.BAD_REQUEST)
        waiting = self._pending.get(operation)
        if waiting is None:
            if len(self._pending) >= PENDING_MAX:
                return Refused(Refusal.TOO_MANY)
            waiting = self._pending[operation] = Waiting()
            self._wake.set()
        return waiting

    async def _turn(self) -> None:
        self._wake = trio.Event()
        now = int(self._clock())
        pending = list(self._pending)
        if pending:
            outcome = await trio.to_thread.run_sync(self._core.round, pending, now)
            if outcome.head is not None:
                self._publish(outcome.head, now)
            for operation in pending:
                self._settle(operation, outcome)
            if self._pending:
                self._wake.set()
        if abs(now - self._signed) >= COSIGN_INTERVAL:
            self._publish(await trio.to_thread.run_sync(self._core.cosign, now), now)

    def _settle(self, operation: bytes, outcome: Outcome) -> None:
        """Answer who waits for it. What was left out for want of room waits on."""
        if outcome.head is not None and operation in outcome.placed:
            reply: Reply = Submitted(outcome.head.number)
        elif outcome.refused.get(operation, Refusal.TOO_MANY) is not Refusal.TOO_MANY:
            reply = Refused(outcome.refused[operation])
        else:
            return
        self._pending.pop(operation).settle(reply)

    def _publish(self, head: Head, now: int) -> None:
        self._snapshot.close()
        self._snapshot = self._store.snapshot()
        if head.number != self._head.number:
            self._consistency.clear()
            _log.info("round %d", head.number)
        self._head, self._signed = head, now
