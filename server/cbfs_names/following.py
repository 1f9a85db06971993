"""A verifier that is a process of its own: it follows the sequencer's rounds, answers each
proposal with a cosignature or a signed refusal, and cosigns its newest head anew.

Before the first signature it asks its peers for its own highest cosignature. Started from an old
copy of its directory it so learns of rounds that it has signed and forgotten, and leaves them to
the others: what it abstains from is on the disk before it signs anything.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from cbfs_common.errors import DecodeError, TransportError
from cbfs_common.limits import ROUND_TIME_OFF_MAX
from cbfs_common.names_audit import signed_by
from cbfs_common.names_config import Config
from cbfs_common.names_log import includes
from cbfs_common.names_note import Checkpoint, Note, NoteKey, parse_checkpoint, parse_note
from cbfs_common.primitives import Random
from cbfs_common.profile import Address
from cbfs_names.block import Block, BlockRefused, NotNow, Reason, decode_block
from cbfs_names.calls import PeerLink, connected
from cbfs_names.evidence import compare, keep
from cbfs_names.heads import Head, head_of
from cbfs_names.limits import BLOCK_PAGES_MAX, OLD_PATIENCE, RECOSIGN, RETRY_PAUSE
from cbfs_names.log import Log
from cbfs_names.peer_wire import (
    AskStatus,
    Await,
    BlockPage,
    GetBlock,
    Offer,
    Reject,
    Status,
    Vote,
)
from cbfs_names.replay import config_now
from cbfs_names.store import Store
from cbfs_names.verifier import Diverged, Verifier, checkpoint_at

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peers:
    """The ``sequencer`` and the other verifiers, as far as their addresses are known."""

    sequencer: Address
    others: tuple[Address, ...]
    names: dict[Address, str]

    def enough(self, answered: set[Address], own: str, config: Config) -> bool:
        """Whether enough have said what they know of the verifier ``own``: the sequencer, and so
        many that the rest are no quorum together with it, or all that are known."""
        silent = {name for name, _ in config.witnesses} - {
            name for address, name in self.names.items() if address in answered
        }
        return self.sequencer in answered and (
            answered.issuperset(self.others) or not config.satisfied(silent | {own})
        )


class Follower:
    """``on_head`` is told of each head that is published, or has newer cosignatures."""

    def __init__(
        self,
        store: Store,
        seed: bytes,
        key: NoteKey,
        peers: Peers,
        data: Path,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        """``seed`` (32) of the cosigning ``key``; ``data``: where evidence is left."""
        self.on_head: Callable[[Head], None] = lambda head: None
        self._store = store
        self._verifier = Verifier(store, seed, key.name)
        self._key = key
        self._peers = peers
        self._data = data
        self._clock = clock
        self._random = random
        self._votes = b""
        self._signed = 0
        self._old = b"", 0.0

    def status(self) -> Status:
        """The heads that are known here, for peers that ask for their own cosignatures."""
        with self._store.read() as view:
            return Status(view.head() or b"", self._votes)

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
        """Until cancelled. Raises Diverged."""
        await self.remember()
        while True:
            try:
                async with connected(self._peers.sequencer, self._random) as link:
                    await self._follow(link)
            except (TransportError, DecodeError) as error:
                _log.info("the sequencer: %s", error)
            await trio.sleep(RETRY_PAUSE)

    # own cosignatures that may be forgotten

    async def remember(self) -> None:
        """Ask peers for the own highest cosignature until enough have answered; abstain from the
        rounds up to it that are not in the store."""
        answered: set[Address] = set()
        while not self._enough(answered):
            async with trio.open_nursery() as nursery:
                for address in {self._peers.sequencer, *self._peers.others} - answered:
                    nursery.start_soon(self._ask, address, answered)
            if not self._enough(answered):
                _log.warning("nothing is signed before more peers have answered")
                await trio.sleep(RETRY_PAUSE)

    def _enough(self, answered: set[Address]) -> bool:
        config = self._config()
        found = config.witness(self._key.public)
        return self._peers.enough(answered, found[0] if found else "", config)

    async def _ask(self, address: Address, answered: set[Address]) -> None:
        try:
            async with connected(address, self._random) as link:
                status = await link.call(AskStatus())
        except (TransportError, DecodeError) as error:
            _log.info("a peer at %s:%d: %s", address.host, address.port, error)
            return
        if isinstance(status, Status):
            for note in (status.head, status.votes):
                self._recall(note)
            answered.add(address)

    def _recall(self, encoded: bytes) -> None:
        """A note that a peer has: is it one of the own that is not in the store?"""
        try:
            note = parse_note(encoded)
            size = parse_checkpoint(note.text.decode("ascii")).size
        except (DecodeError, UnicodeDecodeError):
            return
        if not signed_by(self._key, note):
            return
        with self._store.write() as writer:
            if size > max(writer.size(), (writer.abstains() or 0) + 1):
                writer.abstain(size - 1)
                _log.warning("restored from a copy: rounds up to %d are left to others", size - 1)

    # following

    async def _follow(self, link: PeerLink) -> None:
        seen = b""
        self._signed = 0
        while True:
            await self._cosign(link)
            size = self._size()
            offer = await link.call(Await(size, seen))
            if not isinstance(offer, Offer):
                raise TransportError("the sequencer answers something else")
            self._take_head(offer.head)
            if offer.leaf and offer.published:
                await self._catch_up(link, offer, size)
                self._take_head(offer.head)
            elif offer.leaf:
                seen = await self._consider(link, offer, size)

    async def _cosign(self, link: PeerLink) -> None:
        """The newest head, when the last cosignature on this connection is old."""
        now = int(self._clock())
        if not self._size() or abs(now - self._signed) < RECOSIGN:
            return
        try:
            line = await trio.to_thread.run_sync(self._verifier.cosign, now)
        except NotNow as error:
            _log.info("nothing is signed: %s", error)
            return
        await link.call(Vote(Note(self._text(), (line,)).encode()))
        self._signed = now

    async def _catch_up(self, link: PeerLink, offer: Offer, size: int) -> None:
        """One round that is published: replayed, not signed."""
        note = self._published(offer.head)
        there = parse_checkpoint(note.text.decode("ascii"))
        if not includes(size, there.size, offer.leaf, offer.proof, there.root):
            raise TransportError("the sequencer offers a round that is not in its head")
        block = await self._fetch(link, size, offer.leaf)
        try:
            await trio.to_thread.run_sync(self._verifier.follow, block)
        except BlockRefused as error:
            raise Diverged(size) from error

    async def _consider(self, link: PeerLink, offer: Offer, size: int) -> bytes:
        """A proposal: cosigned or refused. Its leaf hash, or empty to be asked again: an old one
        that nobody has cosigned yet may be one that others have locked, who are still to say so."""
        block = await self._fetch(link, size, offer.leaf)
        now = int(self._clock())
        vouched = self._vouched(offer.votes, block, now)
        if not vouched and block.round.time < now - ROUND_TIME_OFF_MAX:
            if self._old[0] != offer.leaf:
                self._old = offer.leaf, trio.current_time() + OLD_PATIENCE
            if trio.current_time() < self._old[1]:
                await trio.sleep(RETRY_PAUSE)
                return b""
        await self._decide(link, block, vouched, now)
        return offer.leaf

    async def _decide(self, link: PeerLink, block: Block, vouched: bool, now: int) -> None:
        size = block.round.number
        try:
            line = await trio.to_thread.run_sync(
                lambda: self._verifier.accept(block, now, vouched=vouched)
            )
        except NotNow as error:
            _log.warning("round %d is not signed: %s", size, error)
            return
        except BlockRefused as error:
            _log.warning("round %d: %s", size, error)
            if error.reason is not Reason.WRONG_ROUND:
                with self._store.read() as view:
                    refusal = view.refused(size, block.round.digest())
                await link.call(Reject(refusal or b""))
            return
        await link.call(Vote(Note(self._text(), (line,)).encode()))
        self._signed = now

    async def _fetch(self, link: PeerLink, round_: int, leaf: bytes) -> Block:
        data, pages, page = b"", 1, 0
        while page < pages:
            found = await link.call(GetBlock(round_, page))
            if not isinstance(found, BlockPage) or found.pages > BLOCK_PAGES_MAX:
                raise TransportError("the sequencer answers something else")
            data, pages, page = data + found.data, found.pages, page + 1
        block = decode_block(data)
        if block.round.digest() != leaf or block.round.number != round_:
            raise TransportError("the sequencer sends another round than it offers")
        return block

    def _vouched(self, votes: bytes, block: Block, now: int) -> bool:
        """Whether another verifier has cosigned the proposal, which then may be older than the
        clock allows, but never ahead of it: nobody's name expires early by that."""
        if not votes or block.round.time > now + ROUND_TIME_OFF_MAX:
            return False
        note = parse_note(votes)
        self._votes = votes
        with self._store.read() as view:
            root, _ = Log(block.round.number, view.log_hash).append(block.round.digest())
        made = Checkpoint(block.round.namespace, block.round.number + 1, root)
        return note.text == made.encode() and any(
            key != self._key and signed_by(key, note) for _, key in self._config().witnesses
        )

    def _published(self, encoded: bytes) -> Note:
        """A head that the log and a quorum of the configuration have signed."""
        note, config = parse_note(encoded), self._config()
        signers = [name for name, key in config.witnesses if signed_by(key, note)]
        if not signed_by(config.log, note) or not config.satisfied(signers):
            raise TransportError("the sequencer shows a head that no quorum has signed")
        return note

    def _take_head(self, encoded: bytes) -> None:
        """Keep and show a head at which the store is. Raises Diverged when it is another than
        the store's; whose keys have then signed two histories, is kept as evidence."""
        if not encoded:
            return
        note = self._published(encoded)
        there = parse_checkpoint(note.text.decode("ascii"))
        with self._store.read() as view:
            here = checkpoint_at(view, config_now(view))
            found = compare(view, note)
        keep(self._store, self._data, found)
        if there.size != here.size:
            return
        if there != here:
            raise Diverged(there.size - 1)
        with self._store.write() as writer:
            writer.keep_head(encoded)
            head = head_of(writer, note)
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
