"""The sequencer: it orders operations into rounds.

A proposal is on the disk before any verifier sees it, and a restarted sequencer proposes it
again byte for byte. Only when a verifier without which there is no quorum has refused it for
good is it dropped, and another made.
"""

from collections.abc import Iterable

from cbfs_common.errors import DecodeError
from cbfs_common.limits import ROUND_OPERATIONS_MAX, ROUND_TIME_OFF_MAX
from cbfs_common.names_note import LOG_KEY, Checkpoint, NoteKey, SignatureLine
from cbfs_common.names_operations import Kind, OperationRefused, Refusal, decode_operation
from cbfs_common.primitives import sign, sign_public
from cbfs_names.block import Block
from cbfs_names.config import Config
from cbfs_names.log import Log
from cbfs_names.replay import Committed, Replay, View, registration_commitment
from cbfs_names.store import Store

Refused = dict[bytes, Refusal]
"""Encoded operations that cannot be in the round, and why."""


def build_block(
    view: View, config: Config, seed: bytes, pending: Iterable[bytes], now: int
) -> tuple[Block, Refused]:
    """The next round of all ``pending`` encoded operations that are valid in it (at most
    ROUND_OPERATIONS_MAX), signed with the log's seed (32)."""
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
    change = replay.finish()
    root, _ = Log(number, view.log_hash).append(change.round.digest())
    text = Checkpoint(config.namespace, number + 1, root).encode()
    return Block(change.round, change.operations, sign(seed, text)), refused


def in_order(view: View, pending: Iterable[bytes]) -> list[bytes]:
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


def _committed(view: View, encoded: bytes) -> Committed | None:
    try:
        operation = decode_operation(encoded)
    except DecodeError:
        return None  # the replay refuses it
    if operation.kind is not Kind.REGISTER:
        return None
    return view.committed(registration_commitment(operation))


class Sequencer:
    """One sequencer with its log key (Ed25519 seed, 32)."""

    def __init__(self, store: Store, config: Config, seed: bytes) -> None:
        self._store = store
        self._config = config
        self._seed = seed

    def clock_is_behind(self, now: int) -> bool:
        """Whether no round can be made, because the last one is of a time far ahead of ``now``."""
        with self._store.read() as view:
            tip = view.tip()
        return tip is not None and tip.time > now + ROUND_TIME_OFF_MAX

    def propose(self, pending: list[bytes], now: int) -> tuple[Block | None, Refused]:
        """The proposal for the next round, on the disk; none when it would be empty and is not
        the first. Proposals of rounds that are locked by now are forgotten."""
        with self._store.write() as writer:
            block, refused = build_block(
                writer, self._config, self._seed, pending[:ROUND_OPERATIONS_MAX], now
            )
            if not block.operations and block.round.number:
                return None, refused
            writer.drop_proposals(block.round.number)
            writer.propose(block)
        return block, refused

    def outstanding(self) -> Block | None:
        """A proposal that was made before and is not locked."""
        with self._store.read() as view:
            tip = view.tip()
            return view.proposal(0 if tip is None else tip.number + 1)

    def drop(self, round_: int) -> None:
        """Forget a proposal that was refused for good, and older ones."""
        with self._store.write() as writer:
            writer.drop_proposals(round_ + 1)

    def sign_head(self) -> SignatureLine:
        """The log's signature of the newest locked round."""
        with self._store.read() as view:
            block = view.tip_block()
        if block is None:
            raise ValueError("there is no round yet")
        key = NoteKey(self._config.namespace, LOG_KEY, sign_public(self._seed))
        return SignatureLine(key.name, key.id, block.signature)
