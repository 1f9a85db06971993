"""A verifier: it replays every round and signs only what it has checked and locked.

``check_block`` is pure. ``Verifier`` keeps the order that makes a second head for one round
impossible: check and lock in one transaction on the disk, then sign. A crash before the
transaction leaves the round open, and nothing signed; a crash after it leaves the lock, and the
head is cosigned at the next start.
"""

from dataclasses import dataclass

from cbfs_common.errors import CryptoError
from cbfs_common.limits import ROUND_TIME_OFF_MAX
from cbfs_common.names_note import (
    Checkpoint,
    Note,
    SignatureLine,
    cosign,
    verify_log,
)
from cbfs_common.names_operations import OperationRefused
from cbfs_names.block import Block, BlockRefused, Reason, SignedRefusal
from cbfs_names.config import Config
from cbfs_names.log import Log
from cbfs_names.replay import Replay, Transition, View
from cbfs_names.store import Snapshot, Store


@dataclass(frozen=True, slots=True)
class Checked:
    """A block that may be locked, and what it changes."""

    change: Transition
    log_hashes: dict[tuple[int, int], bytes]


def check_block(view: View, config: Config, block: Block, now: int) -> Checked:
    """Whether ``block`` is the valid next round after ``view`` at ``now`` (seconds). The checks
    that cost least come first. Raises BlockRefused."""
    tip = view.tip()
    number = 0 if tip is None else tip.number + 1
    round_ = block.round
    if round_.number != number:
        raise BlockRefused(Reason.WRONG_ROUND)
    if round_.namespace != config.namespace or round_.config != config.digest():
        raise BlockRefused(Reason.CONFIGURATION)
    root, log_hashes = Log(number, view.log_hash).append(round_.digest())
    try:
        text = Checkpoint(config.namespace, number + 1, root).encode()
        verify_log(config.log, text, block.signature)
    except CryptoError as error:
        raise BlockRefused(Reason.SIGNATURE) from error
    if tip is not None and round_.time < tip.time:
        raise BlockRefused(Reason.TIME_BACK)
    if abs(round_.time - now) > ROUND_TIME_OFF_MAX:
        raise BlockRefused(Reason.TIME_OFF)
    replay = Replay(view, config, number, round_.time)
    try:
        for operation in block.operations:
            replay.apply(operation)
    except OperationRefused as error:
        raise BlockRefused(Reason.OPERATION) from error
    change = replay.finish()
    if change.round != round_:
        raise BlockRefused(Reason.ROOTS)
    return Checked(change, log_hashes)


def checkpoint_at(view: View, config: Config) -> Checkpoint:
    """The log's newest checkpoint; there must be a round."""
    tip = view.tip()
    size = 0 if tip is None else tip.number + 1
    return Checkpoint(config.namespace, size, Log(size, view.log_hash).root())


class Verifier:
    """One verifier with its store and its cosigning key (Ed25519 seed, 32) under ``name``."""

    def __init__(self, store: Store, config: Config, seed: bytes, name: str) -> None:
        self._store = store
        self._config = config
        self._seed = seed
        self._name = name

    def accept(self, block: Block, now: int) -> SignatureLine:
        """Check, lock, then cosign the next round. A block that is locked already is cosigned
        again. Raises BlockRefused, after the signed refusal is on the disk."""
        number, leaf = block.round.number, block.round.digest()
        refused: BlockRefused | None = None
        with self._store.write() as writer:
            locked = writer.lock(number)
            try:
                self._check_bound(locked, leaf, writer.refused(number, leaf))
                if locked is None:
                    checked = check_block(writer, self._config, block, now)
                    writer.lock_round(block, checked.change, checked.log_hashes)
            except BlockRefused as error:
                refused = error
                said = SignedRefusal(self._config.namespace, number, leaf, error.reason)
                writer.refuse(number, leaf, said.encode(self._seed))
        if refused is not None:
            raise refused
        return self.cosign(now)

    def cosign(self, now: int) -> SignatureLine:
        """A cosignature of the newest locked head."""
        with self._store.read() as view:
            text = checkpoint_at(view, self._config).encode()
        return cosign(self._seed, self._name, now, text)

    @staticmethod
    def _check_bound(locked: bytes | None, leaf: bytes, refusal: bytes | None) -> None:
        """What this verifier has said of a round before binds it."""
        if locked is not None and locked != leaf:
            raise BlockRefused(Reason.LOCKED)
        if refusal is not None:
            raise BlockRefused(Reason(refusal[-65]))


def head_note(
    view: Snapshot, config: Config, log_line: SignatureLine, cosignatures: tuple[SignatureLine, ...]
) -> Note:
    """The signed head of the newest round."""
    return Note(checkpoint_at(view, config).encode(), (log_line, *cosignatures))
