"""What a sequencer and verifiers learn from each other besides the rounds: at a start, what they
have signed and may have forgotten; and all the time, whether others are shown another history."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from cbfs_common.errors import CbfsError, DecodeError, TransportError
from cbfs_common.names.config import Config
from cbfs_common.names.equivocation import signed_by
from cbfs_common.names.note import NoteKey, SignedNote, parse_checkpoint, parse_note
from cbfs_common.primitives import Random
from cbfs_common.profile import Address
from cbfs_host.logs import tell_fault
from cbfs_names.limits import GOSSIP_INTERVAL, GOSSIP_PAUSE, RETRY_PAUSE
from cbfs_names.rounds.equivocation import compare, keep
from cbfs_names.rounds.published import fetch, fetch_published, published
from cbfs_names.rounds.sequencer import Sequencer
from cbfs_names.state.block import BlockRefused
from cbfs_names.state.replay import config_now
from cbfs_names.state.store import StateStore
from cbfs_names.wire.peer_link import PeerLink, connected
from cbfs_names.wire.peer_messages import AskStatus, Await, Offer, PeerStatus, Vote

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peers:
    """The ``sequencer`` (None: this is it) and the other verifiers, as far as their addresses are
    known; and the ``names`` of those that the configuration names. ``current``: the operator's
    word that the store here is not an old copy. ``given``: the operator's configuration."""

    sequencer: Address | None
    others: tuple[Address, ...]
    names: dict[Address, str]
    given: Config
    current: bool = False

    @property
    def everybody(self) -> set[Address]:
        """The addresses of all others: verifiers, and the sequencer unless this is it."""
        return set(self.others) if self.sequencer is None else {self.sequencer, *self.others}

    def enough(self, answered: set[Address], own: str, config: Config) -> bool:
        """Whether enough have said what they know for one that may be an old copy: the sequencer,
        and so many that the rest, with the verifier ``own``, are no quorum; or all. So whatever
        was published with its signature, one has answered who has signed it too."""
        silent = {name for name, _ in config.witnesses} - {
            name for address, name in self.names.items() if address in answered
        }
        return (self.sequencer is None or self.sequencer in answered) and (
            answered.issuperset(self.others) or not config.satisfied({*silent, own})
        )


async def ask_enough(
    peers: Peers, store: StateStore, own: str, ask: Callable[[Address], Awaitable[bool]]
) -> None:
    """Ask everybody until enough have answered, or once when the store is known to be current.
    ``ask`` says whether one has."""
    answered: set[Address] = set()

    async def one(address: Address) -> None:
        if await ask(address):
            answered.add(address)

    told = -1
    while True:
        async with trio.open_nursery() as nursery:
            for address in peers.everybody - answered:
                nursery.start_soon(one, address)
        with store.read() as view:
            config = config_now(view)
        if peers.current or peers.enough(answered, own, config):
            return
        if told != len(answered):
            told = len(answered)
            _log.warning(
                "nothing is signed before more peers have answered: %d of %d have"
                " (--store-is-current)",
                told,
                len(peers.everybody),
            )
        await trio.sleep(RETRY_PAUSE)


class HeadComparison:
    """Comparison of a verifier's newest head with those of its peers, whose keys may have signed
    another history."""

    def __init__(
        self, store: StateStore, key: NoteKey, peers: Peers, data: Path, random: Random
    ) -> None:
        """``key``: the own cosigning key. ``data``: where evidence is left."""
        self._store = store
        self._key = key
        self._peers = peers
        self._data = data
        self._random = random
        self._stirred = trio.Event()

    async def remember(self) -> None:
        """Learn up to which round this verifier has signed, if its store does not know: what it
        abstains from is on the disk on return."""
        with self._store.read() as view:
            found = config_now(view).witness(self._key.public)
        own = found[0] if found else ""
        await ask_enough(self._peers, self._store, own, self._recall_from)

    def stir(self) -> None:
        """Compare soon, as there is a new head."""
        self._stirred.set()

    async def run(self) -> None:
        """Compare heads with everybody now and then, until cancelled."""
        while True:
            with trio.move_on_after(GOSSIP_INTERVAL):
                await self._stirred.wait()
            self._stirred = trio.Event()
            await self.tell()
            await trio.sleep(GOSSIP_PAUSE)

    async def _recall_from(self, address: Address) -> bool:
        notes = await self._ask(address)
        for note in notes or ():
            self._recall(note, parse_checkpoint(note.text.decode("ascii")).size)
        return notes is not None

    async def _ask(self, address: Address) -> list[SignedNote] | None:
        """The checkpoints that a peer knows, compared with the own; None: it does not answer."""
        try:
            async with connected(address, self._random) as link:
                status = await link.call(AskStatus(self._key.public))
                await self._show(link)
        except (TransportError, DecodeError) as error:
            _log.info("a peer at %s:%d: %s", address.host, address.port, error.in_full)
            return None
        except CbfsError:
            raise
        except Exception as error:  # whatever it has sent: the others are asked all the same
            tell_fault("asking a peer", error)
            return None
        if not isinstance(status, PeerStatus):
            return None
        notes = []
        for encoded in filter(None, (status.votes, status.head)):
            try:
                note = parse_note(encoded)
                parse_checkpoint(note.text.decode("ascii"))
            except (DecodeError, UnicodeDecodeError):
                return None
            with self._store.read() as view:
                found = compare(view, note)
            keep(self._store, self._data, found)
            notes.append(note)
        return notes

    async def tell(self) -> None:
        """Show everybody the own head, for them to compare, in case they are shown another
        history."""
        async with trio.open_nursery() as nursery:
            for address in self._peers.everybody:
                nursery.start_soon(self._ask, address)

    async def _show(self, link: PeerLink) -> None:
        """The own head: only who has the larger log can compare two."""
        with self._store.read() as view:
            head = view.head()
        if head is not None:
            await link.call(Vote(head))

    def compare(self, encoded: bytes) -> None:
        """Compare a head that somebody shows, as a signed note, with the own log; evidence is
        kept."""
        try:
            note = parse_note(encoded)
            parse_checkpoint(note.text.decode("ascii"))
        except (DecodeError, UnicodeDecodeError):
            return
        with self._store.read() as view:
            found = compare(view, note)
        keep(self._store, self._data, found)

    def _recall(self, note: SignedNote, size: int) -> None:
        """Abstain from rounds that were signed before, here or by a quorum."""
        own = signed_by(self._key, note)
        with self._store.write() as writer:
            abstains = writer.abstains() or (-1, b"")
            known = abstains == (size - 1, note.text)
            if known or size <= max(writer.size(), abstains[0] + (not own)):
                return
            try:
                if not own:
                    published(writer, self._peers.given, note.encode())
            except (TransportError, DecodeError):
                return
            writer.abstain(size - 1, note.text)
        if own:
            _log.warning("restored from a copy: rounds up to %d are left to others", size - 1)


class Recovery:
    """A sequencer whose store may be an old copy: before it proposes anything it takes over what
    verifiers have of it. A published round is replayed; a block that a verifier has locked is
    proposed again, byte for byte."""

    def __init__(
        self, store: StateStore, sequencer: Sequencer, peers: Peers, random: Random
    ) -> None:
        self._store = store
        self._sequencer = sequencer
        self._peers = peers
        self._random = random
        self._turn = trio.Lock()

    async def run(self) -> None:
        """Until enough verifiers have told. Raises Diverged."""
        await ask_enough(self._peers, self._store, "", self._ask)

    async def _ask(self, address: Address) -> bool:
        try:
            async with connected(address, self._random) as link, self._turn:
                await self._learn(link)
        except (TransportError, DecodeError, BlockRefused) as error:
            _log.info("a verifier at %s:%d: %s", address.host, address.port, error.in_full)
            return False
        except CbfsError:
            raise
        except Exception as error:  # whatever it has sent
            tell_fault("asking a verifier", error)
            return False
        return True

    async def _learn(self, link: PeerLink) -> None:
        while True:
            with self._store.read() as view:
                size = view.size()
            offer = await link.call(Await(size, b"", 0))
            if not isinstance(offer, Offer):
                raise TransportError("a verifier answers something else")
            if offer.leaf and offer.published:
                given = self._peers.given
                block = await fetch_published(link, self._store, given, offer, size)
                await trio.to_thread.run_sync(self._sequencer.follow, block)
                _log.warning("round %d is taken over from a verifier", size)
                continue
            if offer.head:
                with self._store.read() as view:
                    note = published(view, self._peers.given, offer.head)
                self._sequencer.take_head(note)
            if offer.leaf:
                block = await fetch(link, size, offer.leaf)
                await trio.to_thread.run_sync(self._sequencer.adopt, block)
            return
