"""A verifier: it replays every round and signs only what it has checked and locked.

``check_block`` is pure. ``Verifier`` keeps the order that makes a second head for one round
impossible: check and lock in one transaction on the disk, then sign. A crash before the
transaction leaves the round open, and nothing signed; a crash after it leaves the lock, and the
head is cosigned at the next start.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from cbfs_common.errors import CbfsError, CryptoError
from cbfs_common.limits import RECEIPT_PATIENCE, ROUND_OPERATIONS_MAX, ROUND_TIME_OFF_MAX
from cbfs_common.names.config import Config, config_of
from cbfs_common.names.equivocation import decode_equivocation
from cbfs_common.names.note import Checkpoint, SignatureLine, cosign
from cbfs_common.names.operations import OperationRefused, Refusal, sign_receipt
from cbfs_common.primitives import sign_public, verify
from cbfs_names.limits import RECEIPTS_MAX
from cbfs_names.state.block import Block, BlockRefused, NotNow, Reason, SignedRefusal, proposal_text
from cbfs_names.state.replay import Replay, StateView, Transition, config_now
from cbfs_names.state.round_log import RoundLog
from cbfs_names.state.store import Snapshot, StateStore, StateWriter

Receipts = Iterable[tuple[int, bytes]]
"""Times (seconds) and encoded operations."""


class Diverged(CbfsError):
    """A published round is another than the one this verifier has locked."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"round {number} was published otherwise than this verifier has locked it",
            "keep its store: its key has signed what the others have not, or they are shown another"
            " history",
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """A block that may be locked, and what it changes."""

    change: Transition
    log_hashes: dict[tuple[int, int], bytes]


def check_block(
    view: StateView, config: Config, block: Block, now: int | None, receipts: Receipts = ()
) -> Checked:
    """Check that ``block`` is the valid next round after ``view`` at ``now`` (seconds since 1970;
    None when others have endorsed it). The checks that cost least come first. Raises
    BlockRefused."""
    tip = view.tip()
    number = 0 if tip is None else tip.number + 1
    round_ = block.round
    if round_.number != number:
        raise BlockRefused(Reason.WRONG_ROUND)
    if round_.namespace != config.namespace or round_.config != config.digest():
        raise BlockRefused(Reason.CONFIGURATION)
    root, log_hashes = RoundLog(number, view.log_hash).append(round_.digest())
    try:
        text = Checkpoint(config.namespace, number + 1, root).encode()
        verify(config.log.public, proposal_text(text), block.signature)
    except CryptoError as error:
        raise BlockRefused(Reason.SIGNATURE) from error
    if tip is not None and round_.time < tip.time:
        raise BlockRefused(Reason.TIME_BACK)
    if now is not None and abs(round_.time - now) > ROUND_TIME_OFF_MAX:
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
    if omits(replay, block, receipts):
        raise BlockRefused(Reason.OMITTED)
    return Checked(change, log_hashes)


def omits(replay: Replay, block: Block, receipts: Receipts) -> bool:
    """Whether a round leaves out an operation that could stand in it, and for which there has
    been a receipt for more than RECEIPT_PATIENCE. A full round may."""
    if len(block.operations) >= ROUND_OPERATIONS_MAX:
        return False
    held = set(block.operations)
    return any(
        block.round.time - time > RECEIPT_PATIENCE
        and operation not in held
        and replay.would_hold(operation)
        for time, operation in receipts
    )


def made_by(view: StateView, block: Block) -> bytes:
    """The text of the checkpoint that a block makes which is the next one of ``view``."""
    number = block.round.number
    tip = view.tip()
    if number != (0 if tip is None else tip.number + 1):
        raise BlockRefused(Reason.WRONG_ROUND)
    root, _ = RoundLog(number, view.log_hash).append(block.round.digest())
    return Checkpoint(block.round.namespace, number + 1, root).encode()


def checkpoint_at(view: StateView, config: Config) -> Checkpoint:
    """The log's newest checkpoint, also that of no rounds."""
    tip = view.tip()
    size = 0 if tip is None else tip.number + 1
    return Checkpoint(config.namespace, size, RoundLog(size, view.log_hash).root())


def stopped(view: Snapshot, config: Config) -> bool:
    """Whether there is evidence that a key of the present configuration has signed two
    histories. It is for people to decide what then; a configuration without the key goes on."""
    return any(
        key.public == config.log.public or config.witness(key.public) is not None
        for key in (decode_equivocation(each).key for each in view.evidence())
    )


class Verifier:
    """One verifier with its store and its cosigning key (Ed25519 seed, 32) under ``name``."""

    def __init__(self, store: StateStore, seed: bytes, name: str) -> None:
        self._store = store
        self._seed = seed
        self._name = name
        self._public = sign_public(seed)

    def accept(self, block: Block, now: int, *, endorsed: bool = False) -> SignatureLine:
        """Check, lock, then cosign the next round. A block that is locked already is cosigned
        again. ``endorsed``: another verifier has cosigned it while its time was good. Raises
        BlockRefused, after the signed refusal is on the disk, or NotNow."""
        number, leaf = block.round.number, block.round.digest()
        refused: BlockRefused | None = None
        with self._store.write() as writer:
            config = config_now(writer)
            locked = writer.lock(number)
            try:
                self._check_bound(locked, leaf, writer.refused(number, leaf))
                if locked is None:
                    self._check_free(writer, number, made_by(writer, block))
                    clock = None if endorsed else now
                    receipts = list(writer.receipts())
                    checked = check_block(writer, config, block, clock, receipts)
                    lock(writer, block, checked)
            except BlockRefused as error:
                refused = error
                if error.reason is not Reason.WRONG_ROUND:
                    said = SignedRefusal(config.namespace, number, leaf, error.reason)
                    writer.refuse(number, leaf, said.encode(self._seed))
        if refused is not None:
            raise refused
        return self.cosign(now)

    def follow(self, block: Block) -> None:
        """Take over a round that a quorum has published; nothing is signed. Raises Diverged when
        another is locked, and BlockRefused when it is not valid: then the quorum has signed what
        no honest verifier could."""
        with self._store.write() as writer:
            take_over(writer, block)

    def cosign(self, now: int) -> SignatureLine:
        """A cosignature of the newest locked head. Raises NotNow."""
        with self._store.read() as view:
            checkpoint = checkpoint_at(view, config_now(view))
            text = checkpoint.encode()
            self._check_free(view, checkpoint.size - 1, text)
        return cosign(self._seed, self._name, now, text)

    def receipt(self, operation: bytes, now: int) -> tuple[int, bytes]:
        """Promise, on the disk, not to sign rounds without the operation; time and signature.
        Raises OperationRefused when the next round could not hold it, or too many are held."""
        key = sha256(operation).digest()
        with self._store.write() as writer:
            config = config_now(writer)
            time = writer.receipt(key)
            if time is None:
                if stopped(writer, config):
                    raise OperationRefused(Refusal.EQUIVOCATION)
                if writer.receipt_count() >= RECEIPTS_MAX:
                    raise OperationRefused(Refusal.TOO_MANY)
                tip = writer.tip()
                if tip is None:  # the first round holds none
                    raise OperationRefused(Refusal.NO_QUORUM)
                Replay(writer, config, tip.number + 1, max(now, tip.time)).apply(operation)
                time = now
                writer.keep_receipt(key, now, operation)
        return time, sign_receipt(self._seed, config.directory, operation, time)

    def _check_free(self, view: Snapshot, number: int, checkpoint: bytes) -> None:
        """Whether it may sign this checkpoint, which round ``number`` makes."""
        abstains = view.abstains()
        if abstains is not None and (
            number < abstains[0] or (number == abstains[0] and checkpoint != abstains[1])
        ):
            raise NotNow("restored from a copy: the rounds it may have signed are left to others")
        config = config_now(view)
        if stopped(view, config):
            raise NotNow("a key of the directory has signed two histories")
        last = config_of(view.config_text(max(number, 0)))  # who leaves signs the last round still
        if config.witness(self._public) is None and last.witness(self._public) is None:
            raise NotNow("the configuration does not name this verifier")

    @staticmethod
    def _check_bound(locked: bytes | None, leaf: bytes, refusal: bytes | None) -> None:
        """What this verifier has said of a round before binds it."""
        if locked is not None and locked != leaf:
            raise BlockRefused(Reason.LOCKED)
        if refusal is not None:
            raise BlockRefused(Reason(refusal[-65]))


def take_over(writer: StateWriter, block: Block) -> None:
    """A round that a quorum has published. Raises Diverged when another is locked, and
    BlockRefused when it is not valid."""
    locked = writer.lock(block.round.number)
    if locked is None:
        lock(writer, block, check_block(writer, config_now(writer), block, None))
    elif locked != block.round.digest():
        raise Diverged(block.round.number)


def lock(writer: StateWriter, block: Block, checked: Checked) -> None:
    """All of a round, its lock, and the end of the receipts that it fulfils or makes void."""
    writer.lock_round(block, checked.change, checked.log_hashes)
    held = set(block.operations)
    receipts = list(writer.receipts())
    if not receipts:
        return
    tip = block.round
    after = Replay(writer, config_now(writer), tip.number + 1, tip.time)
    for _, operation in receipts:
        if operation in held or not after.would_hold(operation):
            writer.drop_receipt(sha256(operation).digest())
