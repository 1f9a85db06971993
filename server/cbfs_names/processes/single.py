"""Sequencer and one verifier in one process, each with its own keys and its own transactions
over one store: what they tell each other is what separate processes would. Blocking; runs in one
thread at a time."""

import logging
from dataclasses import replace

import trio

from cbfs_common.names.config import Terms
from cbfs_common.names.note import SignatureLine
from cbfs_common.names.operations import Operation, OperationKind, Refusal
from cbfs_host.meter import Counts
from cbfs_names.rounds.sequencer import Sequencer, due
from cbfs_names.rounds.verifier import Verifier
from cbfs_names.state.block import BlockRefused
from cbfs_names.state.replay import config_now
from cbfs_names.state.round_log import Head, Outcome, head_of
from cbfs_names.state.store import StateStore
from cbfs_names.state.tables import StoreFull

_log = logging.getLogger(__name__)


class Embedded:
    """A whole directory over one store: a sequencer and the one verifier."""

    def __init__(self, store: StateStore, log_seed: bytes, verifier_seed: bytes, name: str) -> None:
        """``name``: of the verifier's key. Seeds are Ed25519 (32)."""
        self._store = store
        self._seed = verifier_seed
        self._sequencer = Sequencer(store, log_seed)
        self._verifier = Verifier(store, verifier_seed, name)

    def start(self, now: int) -> Head:
        """Finish what was cut off, make the first round if there is none, sign the head."""
        try:
            head = self._finish(now)
        except StoreFull as error:  # it is proposed anew when there is room
            _log.error("the round proposed before the restart: %s", error.in_full)
            head = None
        if head is not None:
            return head
        with self._store.read() as view:
            begun = view.tip() is not None
        if begun:
            return self.cosign(now)
        first, _ = self._sequencer.propose([], now)
        if first is None:
            raise ValueError("the first round is never left out")
        line = self._verifier.accept(first, now)
        self._sequencer.publish(first, (line,))
        return self._head(line)

    def _finish(self, now: int) -> Head | None:
        """The round that was proposed before a restart; None: there is none, or none any more."""
        block = self._sequencer.outstanding()
        if block is None:
            return None
        try:
            line = self._verifier.accept(block, now)
            self._sequencer.publish(block, (line,))
            return self._head(line)
        except BlockRefused as error:
            _log.warning("the round proposed before the restart: %s", error.in_full)
            self._sequencer.drop(block.round.number)
            return None

    def round(self, pending: list[bytes], now: int) -> Outcome:
        """One round of what is pending. Raises BlockRefused when the verifier does not sign what
        the sequencer proposes: then something is wrong, and the directory must stop."""
        if self._sequencer.clock_is_behind(now):
            _log.error("no rounds are made: this computer's clock has been set back")
            return Outcome(None, frozenset(), dict.fromkeys(pending, Refusal.STOPPED))
        block, refused = self._sequencer.propose(pending, now)
        if block is None:
            return Outcome(None, frozenset(), refused)
        line = self._verifier.accept(block, now)
        self._sequencer.publish(block, (line,))
        return Outcome(self._head(line), frozenset(block.operations), refused)

    def renew(self, now: int) -> Head | None:
        """An empty round of a new configuration, when there is one."""
        with self._store.read() as view:
            if not due(view):
                return None
        return self.round([], now).head

    def change_terms(self, terms: Terms, now: int) -> Head | None:
        """Ask other things of newcomers from now on; None: they are the same as before. The one
        verifier is the quorum that signs it."""
        with self._store.read() as view:
            old, size = config_now(view), view.size()
        if old.terms == terms:
            return None
        text = replace(old, terms=terms).encode()
        change = Operation(
            OperationKind.CONFIGURE, old.directory, "", 0, 0, old.digest(), size + 1, terms=text
        ).signed((self._seed,))
        self.round([change.encode()], now)
        return self.renew(now)

    def cosign(self, now: int) -> Head:
        """Cosign the newest head anew at ``now`` (seconds); the head with it."""
        return self._head(self._verifier.cosign(now))

    def _head(self, line: SignatureLine) -> Head:
        with self._store.read() as view:
            return head_of(view, self._sequencer.head((line,)))


class EmbeddedCore:
    """``ServiceCore`` of a directory that signs alone."""

    def __init__(self, core: Embedded, head: Head) -> None:
        self._core = core
        self._first = head

    async def start(self, now: int) -> Head:
        """The head as it was when the directory was opened."""
        return self._first

    async def round(self, pending: list[bytes], now: int) -> Outcome:
        """Make a round of what is pending, in a thread; once begun it is finished."""
        return await trio.to_thread.run_sync(self._core.round, pending, now)

    async def renew(self, now: int) -> Head | None:
        """Make an empty round when the configuration has changed, in a thread; its head."""
        return await trio.to_thread.run_sync(self._core.renew, now)

    async def cosign(self, now: int) -> Head | None:
        """Cosign the newest head anew, in a thread; the head with it."""
        return await trio.to_thread.run_sync(self._core.cosign, now)

    def refusal(self, now: int) -> Refusal | None:
        """Why no operation is taken now; None: they are."""
        return None

    def verifiers(self, now: int) -> Counts:
        """None are elsewhere."""
        return ()
