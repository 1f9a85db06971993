"""A sequencer whose store may be an old copy: before it proposes anything it takes over what
verifiers have of it. A published round is replayed; a block that a verifier has locked is proposed
again, byte for byte."""

import logging

import trio

from cbfs_common.errors import CbfsError, DecodeError, TransportError
from cbfs_common.primitives import Random
from cbfs_common.profile import Address
from cbfs_host.logs import tell_fault
from cbfs_names.processes.gossip import Peers, ask_enough
from cbfs_names.rounds.published import fetch, fetch_published, published
from cbfs_names.rounds.sequencer import Sequencer
from cbfs_names.state.block import BlockRefused
from cbfs_names.state.store import Store
from cbfs_names.wire.peer_link import PeerLink, connected
from cbfs_names.wire.peer_messages import Await, Offer

_log = logging.getLogger(__name__)


class Recovery:
    """Over the sequencer's store."""

    def __init__(self, store: Store, sequencer: Sequencer, peers: Peers, random: Random) -> None:
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
