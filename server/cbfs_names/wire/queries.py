"""What anybody may ask: look-ups, histories, heads, the change feed, the terms. Everything is
read from the snapshot of the round that is published, so that map, log and head always belong
together."""

import logging
import time
from collections.abc import Callable

from cbfs_common.limits import FEED_PART, FEED_TILE, FOLLOW_MAX
from cbfs_common.names.changes import HistoryLink
from cbfs_common.names.entry import CHANGE_SIZE, decode_entry, decode_round, name_index
from cbfs_common.names.feed import FeedRound
from cbfs_common.names.operations import Refusal, decode_operation
from cbfs_common.names.proofs import Evidence, encode_links, newest_links
from cbfs_common.names.registration import waiting_at, work_asked
from cbfs_common.names.trees import Terminal
from cbfs_common.names.wire import (
    NAMES_REPLY_MAX,
    AskChanges,
    AskConsistency,
    AskHead,
    AskHistory,
    AskTerms,
    ChangesAre,
    ConsistencyIs,
    HeadIs,
    LookedUp,
    Lookup,
    RefusedReply,
    Reply,
    Steps,
    TermsAre,
)
from cbfs_host.complaints import StoreError
from cbfs_names.limits import FEED_KEPT_MAX
from cbfs_names.state.map_nodes import MapTree
from cbfs_names.state.replay import config_now
from cbfs_names.state.round_log import Head, RoundLog
from cbfs_names.state.store import StateStore
from cbfs_names.state.tables import DAMAGED
from cbfs_names.state.waiting import refusal_at_any_time

Asked = Lookup | AskHistory | AskHead | AskChanges | AskTerms | AskConsistency

_log = logging.getLogger(__name__)

_ENVELOPE = 64
"""More than msgpack adds to a reply."""


class Answers:
    """Answers from one published head on; ``show`` moves it to the next."""

    def __init__(
        self, store: StateStore, head: Head, clock: Callable[[], float] = time.time
    ) -> None:
        """``clock``: seconds since 1970."""
        self._store = store
        self._clock = clock
        self.head = head
        self._snapshot = store.snapshot()
        self._directory = self._snapshot.directory()
        self._feed: dict[int, bytes] = {}

    def close(self) -> None:
        """Let go of the store."""
        self._snapshot.close()

    def show(self, head: Head) -> None:
        """A newer head, or the same one with newer cosignatures. The store must be at it."""
        if head.number != self.head.number:
            self._snapshot.close()
            self._snapshot = self._store.snapshot()
        self.head = head

    def answer(self, request: Asked) -> Reply:
        """The reply to one request; a refusal when what it takes is damaged on the disk."""
        try:
            return self._answer(request)
        except StoreError as error:
            _log.error("a request was not answered: %s", error.in_full)
            return RefusedReply(Refusal.STOPPED)

    def refusal(self, operation: bytes) -> Refusal | None:
        """Why an encoded operation could not stand in a round after this one, also if the clock is
        wrong; None: it could."""
        try:
            return refusal_at_any_time(self._snapshot, operation, int(self._clock()))
        except StoreError as error:
            _log.error("an operation was not looked at: %s", error.in_full)
            return Refusal.STOPPED

    def _answer(self, request: Asked) -> Reply:
        match request:
            case Lookup(name):
                return self._look_up(name)
            case AskHistory(name, incarnation, version):
                return self._history(name, incarnation, version)
            case AskHead():
                return HeadIs(self.head.note, self.head.round, self.head.log_proof)
            case AskChanges(tile, part):
                return self._changes(tile, part)
            case AskTerms(round_):
                newest = min(round_, self.head.number + 1)
                return TermsAre(self._snapshot.config_text(newest), self._work())
            case AskConsistency(old_size, size):
                return self._consistent(old_size, size)

    def _look_up(self, name: str) -> Reply:
        view, index = self._snapshot, name_index(self._directory, name)
        tree, entry = MapTree(view.node, view.leaf), view.entry(index) or b""
        tree.check_root(decode_round(self.head.round).map_root)
        proof = tree.prove(index)
        if bool(entry) is not (proof.terminal is Terminal.HERE):
            raise StoreError("the map of names is damaged", DAMAGED)
        evidence = Evidence(
            self.head.note, self.head.round, self.head.log_proof, proof.encode(), entry
        )
        links: tuple[HistoryLink, ...] = ()
        if entry:
            last = decode_entry(entry)
            room = NAMES_REPLY_MAX - len(evidence.encode()) - _ENVELOPE
            newest = view.newest_links(index, last.incarnation, last.version)
            links = newest_links(newest, room)
        return LookedUp(evidence, links)

    def _history(self, name: str, incarnation: int, version: int) -> Reply:
        index = name_index(self._directory, name)
        links: list[HistoryLink] = []
        if incarnation < 2**32:
            for link in self._snapshot.links(index, incarnation, version):
                if len(encode_links((*links, link))) > NAMES_REPLY_MAX - _ENVELOPE:
                    break
                links.append(link)
        return Steps(tuple(links))

    def _changes(self, tile: int, part: int) -> Reply:
        end = min((tile + 1) * FEED_TILE, self.head.number + 1)
        data = b"".join(self._feed_round(number) for number in range(tile * FEED_TILE, end))
        rest = data[part * FEED_PART :]
        return ChangesAre(rest[:FEED_PART], len(rest) > FEED_PART)

    def _feed_round(self, number: int) -> bytes:
        """A round's record never changes; everybody asks for the same few."""
        found = self._feed.get(number)
        if found is None:
            block = self._snapshot.block(number)
            names = {decode_operation(encoded).name for encoded in block.operations} - {""}
            indexes = [name_index(self._directory, name) for name in names]
            changes = tuple(sorted({index[:CHANGE_SIZE] for index in indexes}))
            found = FeedRound(block.round, changes).encode()
            if len(self._feed) >= FEED_KEPT_MAX:
                self._feed.clear()
            self._feed[number] = found
        return found

    def _work(self) -> int:
        """What the next round would ask of a COMMIT without an invite."""
        view = self._snapshot
        now = max(int(self._clock()), decode_round(self.head.round).time)
        return work_asked(config_now(view).terms, waiting_at(view.busy_until(), now))

    def _consistent(self, old_size: int, size: int) -> Reply:
        """From a size that many have in common only: who asked from their own would show which
        client they are."""
        if not 0 < old_size <= size <= self.head.number + 1 or old_size % FOLLOW_MAX:
            return RefusedReply(Refusal.BAD_REQUEST)
        return ConsistencyIs(RoundLog(size, self._snapshot.log_hash).consistency(old_size))
