"""The sequencer: it orders operations into rounds.

A proposal is on the disk before any verifier sees it, and a restarted sequencer proposes it
again byte for byte. Only when verifiers without which there is no quorum have refused it for
good is it dropped, and another made. The log's key signs a head when a quorum has, and so one for
each size.
"""

from collections.abc import Iterable

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import ROUND_OPERATIONS_MAX, ROUND_TIME_OFF_MAX
from cbfs_common.names.config import Config
from cbfs_common.names.note import Checkpoint, SignatureLine, SignedNote, sign_checkpoint
from cbfs_common.names.operations import (
    OperationKind,
    OperationRefused,
    Refusal,
    decode_operation,
    kind_of,
)
from cbfs_common.primitives import sign
from cbfs_host.logs import tell_fault
from cbfs_names.rounds.verifier import Checked, check_block, checkpoint_at, take_over
from cbfs_names.state.block import Block, proposal_text
from cbfs_names.state.replay import (
    Committed,
    Replay,
    StateView,
    config_now,
    registration_commitment,
)
from cbfs_names.state.round_log import RoundLog
from cbfs_names.state.store import Snapshot, StateStore

Refused = dict[bytes, Refusal]
"""Encoded operations that cannot be in the round, and why."""


def build_block(
    view: StateView, config: Config, seed: bytes, pending: Iterable[bytes], now: int
) -> tuple[Block, Refused, Checked]:
    """The next round of all ``pending`` encoded operations that are valid in it (at most
    ROUND_OPERATIONS_MAX), signed with the log's seed (32); and what it changes."""
    tip = view.tip()
    number = 0 if tip is None else tip.number + 1
    time = now if tip is None else max(now, tip.time)
    replay = Replay(view, config, number, time)
    refused: Refused = {}
    for operation in in_order(view, pending):
        try:
            replay.apply(operation)
        except OperationRefused as error:
            refused[operation] = error.refusal
        except CbfsError:
            raise
        except Exception as error:  # what anybody may send never stops the rounds
            tell_fault("an operation", error)
            refused[operation] = Refusal.BAD_REQUEST
    change = replay.finish()
    root, hashes = RoundLog(number, view.log_hash).append(change.round.digest())
    text = proposal_text(Checkpoint(config.namespace, number + 1, root).encode())
    block = Block(change.round, change.operations, sign(seed, text))
    return block, refused, Checked(change, hashes)


def in_order(view: StateView, pending: Iterable[bytes]) -> list[bytes]:
    """Registrations by the age of their commitments, after all else in the order it came in."""
    others: list[bytes] = []
    registrations: list[tuple[Committed, bytes]] = []
    for encoded in dict.fromkeys(pending):
        made = _committed(view, encoded)
        if made is None:
            others.append(encoded)
        else:
            registrations.append((made, encoded))
    return others + [encoded for _, encoded in sorted(registrations)]


def _committed(view: StateView, encoded: bytes) -> Committed | None:
    if kind_of(encoded) is not OperationKind.REGISTER:
        return None
    try:
        operation = decode_operation(encoded)
    except DecodeError:
        return None  # the replay refuses it
    return view.committed(registration_commitment(operation))


def due(view: StateView) -> bool:
    """Whether the configuration has changed and no round is of the new one: before one is, nobody
    who believes it has a head to believe."""
    tip = view.tip()
    return tip is not None and tip.config != config_now(view).digest()


class Sequencer:
    """One sequencer with its log key (Ed25519 seed, 32)."""

    def __init__(self, store: StateStore, seed: bytes) -> None:
        self._store = store
        self._seed = seed
        self._built: tuple[bytes, Checked] | None = None

    def clock_is_behind(self, now: int) -> bool:
        """Whether no round can be made, because the last one is of a time far ahead of ``now``."""
        with self._store.read() as view:
            tip = view.tip()
        return tip is not None and tip.time > now + ROUND_TIME_OFF_MAX

    def propose(self, pending: list[bytes], now: int) -> tuple[Block | None, Refused]:
        """The proposal for the next round, on the disk; none when it would be empty, and is neither
        the first nor ``due``. Proposals of rounds that are locked by now are forgotten."""
        with self._store.write() as writer:
            block, refused, checked = build_block(
                writer, config_now(writer), self._seed, pending[:ROUND_OPERATIONS_MAX], now
            )
            if not block.operations and block.round.number and not due(writer):
                return None, refused
            writer.drop_proposals(block.round.number)
            writer.propose(block)
        self._built = block.round.digest(), checked
        return block, refused

    def adopt(self, block: Block) -> None:
        """Propose a block that this sequencer has made before its store was restored, and that a
        verifier has locked. Raises BlockRefused when it is not one."""
        with self._store.write() as writer:
            check_block(writer, config_now(writer), block, None)
            writer.propose(block)

    def follow(self, block: Block) -> None:
        """Take over a round that was published before the store was restored. Raises Diverged and
        BlockRefused."""
        with self._store.write() as writer:
            take_over(writer, block)
            writer.drop_proposals(block.round.number + 1)

    def take_head(self, note: SignedNote) -> None:
        """Keep a published head, if it is that of the newest round here."""
        with self._store.write() as writer:
            if note.text == checkpoint_at(writer, config_now(writer)).encode():
                writer.keep_head(note.encode())

    def outstanding(self) -> Block | None:
        """A proposal that was made before and is not locked."""
        with self._store.read() as view:
            return view.proposal(view.size())

    def drop(self, round_: int) -> None:
        """Forget a proposal that was refused for good, and older ones."""
        with self._store.write() as writer:
            writer.drop_proposals(round_ + 1)

    def publish(self, block: Block, lines: tuple[SignatureLine, ...]) -> SignedNote:
        """Take a round over that a quorum has signed with these lines: one transaction, after
        which the head is signed. A verifier over the same store may have done the first part."""
        with self._store.write() as writer:
            if writer.size() == block.round.number:
                checked = self._checked(writer, block)
                writer.lock_round(block, checked.change, checked.log_hashes)
            writer.drop_proposals(block.round.number + 1)
            note = self._note(writer, lines)
            writer.keep_head(note.encode())
        return note

    def head(self, lines: tuple[SignatureLine, ...]) -> SignedNote:
        """The newest head with other cosignatures of it."""
        with self._store.read() as view:
            return self._note(view, lines)

    def checkpoint(self, block: Block) -> bytes:
        """The text of the checkpoint that a proposal makes."""
        with self._store.read() as view:
            number = block.round.number
            root, _ = RoundLog(number, view.log_hash).append(block.round.digest())
        return Checkpoint(block.round.namespace, number + 1, root).encode()

    def _checked(self, view: StateView, block: Block) -> Checked:
        if self._built is not None and self._built[0] == block.round.digest():
            return self._built[1]
        return check_block(view, config_now(view), block, None)

    def _note(self, view: Snapshot, lines: tuple[SignatureLine, ...]) -> SignedNote:
        """Signed by the log: the round is published, or locked by a verifier over this store."""
        config = config_now(view)
        text = checkpoint_at(view, config).encode()
        return SignedNote(text, (sign_checkpoint(self._seed, config.namespace, text), *lines))
