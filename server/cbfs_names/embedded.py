"""Sequencer and one verifier in one process, each with its own keys and its own transactions:
what they tell each other is what separate processes would. Blocking; runs in one thread at a
time."""

import logging
from dataclasses import dataclass

from cbfs_common.names_note import SignatureLine
from cbfs_common.names_operations import Refusal
from cbfs_names.block import BlockRefused
from cbfs_names.config import Config
from cbfs_names.log import Log
from cbfs_names.sequencer import Refused, Sequencer
from cbfs_names.store import Store
from cbfs_names.verifier import Verifier, head_note

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest round as clients get it: signed head, leaf, and proof that it is the last."""

    note: bytes
    round: bytes
    number: int
    log_proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """``placed`` operations are in the round of ``head``; ``refused`` in none. ``head`` is None
    when no round was made."""

    head: Head | None
    placed: frozenset[bytes]
    refused: Refused


class Embedded:
    """A whole directory over one store."""

    def __init__(
        self, store: Store, config: Config, log_seed: bytes, verifier_seed: bytes, name: str
    ) -> None:
        """``name``: of the verifier's key. Seeds are Ed25519 (32)."""
        self._store = store
        self._config = config
        self._sequencer = Sequencer(store, config, log_seed)
        self._verifier = Verifier(store, config, verifier_seed, name)

    def start(self, now: int) -> Head:
        """Finish what was cut off, make the first round if there is none, sign the head."""
        block = self._sequencer.outstanding()
        if block is not None:
            try:
                return self._head(self._verifier.accept(block, now))
            except BlockRefused as error:
                _log.warning("the round proposed before the restart: %s", error)
                self._sequencer.drop(block.round.number)
        with self._store.read() as view:
            begun = view.tip() is not None
        if begun:
            return self.cosign(now)
        first, _ = self._sequencer.propose([], now)
        if first is None:
            raise ValueError("the first round is never left out")
        return self._head(self._verifier.accept(first, now))

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
        return Outcome(self._head(line), frozenset(block.operations), refused)

    def cosign(self, now: int) -> Head:
        """The newest head, signed anew."""
        return self._head(self._verifier.cosign(now))

    def _head(self, line: SignatureLine) -> Head:
        with self._store.read() as view:
            note = head_note(view, self._config, self._sequencer.sign_head(), (line,))
            tip = view.tip()
            if tip is None:
                raise ValueError("there is no round yet")
            proof = Log(tip.number + 1, view.log_hash).inclusion(tip.number)
        return Head(note.encode(), tip.encode(), tip.number, proof)
