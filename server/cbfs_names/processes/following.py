"""A verifier that is a process of its own: it follows the sequencer's rounds, answers each
proposal with a cosignature or a signed refusal, and cosigns its newest head anew.

Before the first signature it asks its peers for its own highest cosignature: see
``cbfs_names.processes.gossip``.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import trio

from cbfs_common.errors import CbfsError, DecodeError, TransportError
from cbfs_common.limits import ROUND_TIME_OFF_MAX
from cbfs_common.names.config import Config
from cbfs_common.names.equivocation import signed_by
from cbfs_common.names.note import Checkpoint, NoteKey, SignedNote, parse_checkpoint, parse_note
from cbfs_common.primitives import Random
from cbfs_common.profile import Address
from cbfs_host.logs import keep_going, tell_fault
from cbfs_names.limits import FULL_PAUSE, OLD_PATIENCE, RECOSIGN, RETRY_PAUSE
from cbfs_names.processes.gossip import HeadComparison, Peers
from cbfs_names.rounds.equivocation import compare, keep
from cbfs_names.rounds.published import fetch, fetch_published, offered, page_of, published
from cbfs_names.rounds.verifier import Diverged, Verifier, checkpoint_at
from cbfs_names.state.block import Block, BlockRefused, NotNow, Reason
from cbfs_names.state.replay import config_now
from cbfs_names.state.round_log import Head, RoundLog, head_of
from cbfs_names.state.store import StateStore
from cbfs_names.state.tables import StoreFull
from cbfs_names.state.timekeeping import Timekeeper
from cbfs_names.wire.peer_link import PeerLink, connected
from cbfs_names.wire.peer_messages import (
    Acknowledged,
    AskStatus,
    Await,
    GetBlock,
    Offer,
    Peer,
    PeerStatus,
    Reject,
    Vote,
)

_log = logging.getLogger(__name__)


class Follower:
    """A verifier at work. ``on_head`` is told of each head that is published, or has newer
    cosignatures."""

    def __init__(
        self,
        store: StateStore,
        seed: bytes,
        key: NoteKey,
        sequencer: Address,
        peers: Peers,
        data: Path,
        clock: Callable[[], float],
        random: Random,
        timekeeper: Timekeeper | None = None,
    ) -> None:
        """``seed`` (32) of the cosigning ``key``; ``data``: where evidence is left. ``timekeeper``
        says when proposals have to wait."""
        self._timekeeper = timekeeper
        self.on_head: Callable[[Head], None] = lambda head: None
        self._store = store
        self.verifier = Verifier(store, seed, key.name)
        self._key = key
        self._sequencer = sequencer
        self._peers = peers
        self._comparison = HeadComparison(store, key, peers, data, random)
        self._data = data
        self._clock = clock
        self._random = random
        self._votes = b""
        self._signed = 0
        self._shown = 0
        self._old = b"", 0.0

    def answer(self, asked: Peer) -> Peer | None:
        """What a peer asks: heads, and rounds that it lacks; or a head that it shows."""
        if isinstance(asked, Vote):
            self._comparison.compare(asked.note)
            return Acknowledged()
        with self._store.read() as view:
            note = view.head() or b""
            match asked:
                case AskStatus():
                    return PeerStatus(note, self._votes)
                case Await(size):
                    offer = offered(view, note, size) or Offer(note, b"", False, (), b"")
                    locked = None if offer.leaf else view.lock(size)
                    return offer if locked is None else Offer(note, locked, False, (), b"")
                case GetBlock(round_, page):
                    known = round_ < view.size()
                    return page_of(view.block(round_).encode() if known else b"", page)
        return None

    def head(self) -> Head | None:
        """The newest published head, when the store is at it."""
        with self._store.read() as view:
            note = view.head()
            if (
                note is None
                or parse_note(note).text != checkpoint_at(view, self._config()).encode()
            ):
                return None
            return head_of(view, parse_note(note))

    async def run(self) -> None:
        """Follow the sequencer, and compare heads with the others, until cancelled. Raises
        Diverged."""
        await self._comparison.remember()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_going, "comparing heads", self._comparison.run, CbfsError)
            while True:
                try:
                    async with connected(self._sequencer, self._random) as link:
                        await self._follow(link)
                except (TransportError, DecodeError) as error:
                    _log.info("the sequencer: %s", error.in_full)
                except Diverged:
                    await self._comparison.tell()  # who has the other history can prove it
                    raise
                except StoreFull as error:
                    _log.error("no round is signed, and look-ups are answered: %s", error.in_full)
                    await trio.sleep(FULL_PAUSE)
                except CbfsError:
                    raise
                except Exception as error:  # whatever the sequencer has sent
                    tell_fault("following the sequencer", error)
                await trio.sleep(RETRY_PAUSE)

    # following

    async def _follow(self, link: PeerLink) -> None:
        seen = b""
        self._signed = self._shown = 0
        while True:
            await self._cosign(link)
            size = self._size()
            offer = await link.call(Await(size, seen, self._shown))
            if not isinstance(offer, Offer):
                raise TransportError("the sequencer answers something else")
            self._take_head(offer.head)
            if offer.leaf and offer.published:
                await self._catch_up(link, offer, size)
                self._take_head(offer.head)
            elif offer.leaf:
                seen = await self._consider(link, offer, size)

    async def _cosign(self, link: PeerLink) -> None:
        """Sign the newest head with the time of now, and send that, when the last cosignature on
        this connection is older than RECOSIGN seconds."""
        now = int(self._clock())
        if not self._size() or abs(now - self._signed) < RECOSIGN:
            return
        try:
            line = await trio.to_thread.run_sync(self.verifier.cosign, now)
        except NotNow as error:
            _log.info("nothing is signed: %s", error.in_full)
            return
        await link.call(Vote(SignedNote(self._text(), (line,)).encode()))
        self._signed = now

    async def _catch_up(self, link: PeerLink, offer: Offer, size: int) -> None:
        """One round that is published: replayed, not signed."""
        block = await fetch_published(link, self._store, self._peers.given, offer, size)
        try:
            await trio.to_thread.run_sync(self.verifier.follow, block)
        except BlockRefused as error:
            raise Diverged(size) from error

    async def _consider(self, link: PeerLink, offer: Offer, size: int) -> bytes:
        """A proposal: cosigned or refused. Its leaf hash, or empty to be asked again: an old one
        that nobody has cosigned yet may be one that others have locked, who are still to say so."""
        if self._timekeeper is not None and await trio.to_thread.run_sync(self._timekeeper.look):
            await trio.sleep(RETRY_PAUSE)  # a refusal would bind it for good
            return b""
        block = await fetch(link, size, offer.leaf)
        now = int(self._clock())
        endorsed = self._endorsed(offer.votes, block, now)
        if not endorsed and block.round.time < now - ROUND_TIME_OFF_MAX:
            if self._old[0] != offer.leaf:
                self._old = offer.leaf, trio.current_time() + OLD_PATIENCE
            if trio.current_time() < self._old[1]:
                await trio.sleep(RETRY_PAUSE)
                return b""
        await self._decide(link, block, endorsed, now)
        return offer.leaf

    async def _decide(self, link: PeerLink, block: Block, endorsed: bool, now: int) -> None:
        size = block.round.number
        try:
            line = await trio.to_thread.run_sync(
                lambda: self.verifier.accept(block, now, endorsed=endorsed)
            )
        except NotNow as error:
            _log.warning("round %d is not signed: %s", size, error.in_full)
            return
        except BlockRefused as error:
            _log.warning("round %d: %s", size, error.in_full)
            if error.reason is not Reason.WRONG_ROUND:
                with self._store.read() as view:
                    refusal = view.refused(size, block.round.digest())
                await link.call(Reject(refusal or b""))
            return
        await link.call(Vote(SignedNote(self._text(), (line,)).encode()))
        self._signed = now

    def _endorsed(self, votes: bytes, block: Block, now: int) -> bool:
        """Whether another verifier has cosigned the proposal, which then may be older than the
        clock allows, but never ahead of it: nobody's name expires early by that."""
        if not votes or block.round.time > now + ROUND_TIME_OFF_MAX:
            return False
        note = parse_note(votes)
        self._votes = votes
        with self._store.read() as view:
            root, _ = RoundLog(block.round.number, view.log_hash).append(block.round.digest())
        made = Checkpoint(block.round.namespace, block.round.number + 1, root)
        return note.text == made.encode() and any(
            key != self._key and signed_by(key, note) for _, key in self._config().witnesses
        )

    def _take_head(self, encoded: bytes) -> None:
        """Keep and show a head at which the store is. Raises Diverged when it is another than
        the store's; whose keys have then signed two histories, is kept as evidence."""
        if not encoded:
            return
        with self._store.read() as view:
            note = published(view, self._peers.given, encoded)
            there = parse_checkpoint(note.text.decode("ascii"))
            here = checkpoint_at(view, config_now(view))
            found = compare(view, note)
        keep(self._store, self._data, found)
        self._shown = max(self._shown, there.size)
        if there.size != here.size:
            return
        if there != here:
            raise Diverged(there.size - 1)
        try:
            with self._store.write() as writer:
                writer.keep_head(encoded)
        except StoreFull as error:  # it is shown all the same
            _log.error("the newest head was not kept: %s", error.in_full)
        with self._store.read() as view:
            head = head_of(view, note)
        self._comparison.stir()
        self.on_head(head)

    def _size(self) -> int:
        with self._store.read() as view:
            return view.size()

    def _text(self) -> bytes:
        with self._store.read() as view:
            return checkpoint_at(view, config_now(view)).encode()

    def _config(self) -> Config:
        with self._store.read() as view:
            return config_now(view)
