"""The directory killed at every commit and at every signature, and started again: nobody signs
two histories, and what was acknowledged is there once.

A child runs a script over real stores and writes down whatever leaves it: signatures, and rounds
that were acknowledged. It is killed at the n-th point; another child takes the same stores up."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs_common.names.config import Config
from cbfs_common.names.entry import Entry, decode_entry, name_index
from cbfs_common.names.note import (
    COSIGNER_KEY,
    Checkpoint,
    NoteKey,
    SignatureLine,
    cosign,
    sign_checkpoint,
)
from cbfs_common.names.operations import Operation
from cbfs_common.names.policy import Group
from cbfs_common.primitives import sign, sign_public
from cbfs_host import lmdb_environment
from cbfs_names.processes.single import Embedded
from cbfs_names.rounds import sequencer as sequencer_module
from cbfs_names.rounds import verifier as verifier_module
from cbfs_names.rounds.sequencer import Sequencer
from cbfs_names.rounds.verifier import Verifier
from cbfs_names.state.block import Block, BlockRefused, decode_block, proposal_text
from cbfs_names.state.round_log import RoundLog
from cbfs_names.state.store import StateStore
from tests.support.children import exit_code
from tests.support.killing import Kill, KillingEnv, Record, every_point
from tests.support.names_local import (
    CONFIG,
    COSIGNER,
    FREE,
    KEYS,
    LIFETIME,
    NOW,
    commit,
    owners,
    register,
    rotate,
    update,
)

VERIFIERS = ("v1", "v2", "v3")
SEEDS = {name: name.encode() * 16 for name in VERIFIERS}
ANOTHER = b"p" * 32
THREE = Config(
    CONFIG.log,
    tuple(
        (name, NoteKey(f"{CONFIG.namespace}/{name}", COSIGNER_KEY, sign_public(SEEDS[name])))
        for name in VERIFIERS
    ),
    (Group("two", 2, VERIFIERS),),
    "two",
    replace(FREE, lifetime=LIFETIME),
)


def entry_of(store: StateStore, name: str) -> Entry | None:
    with store.read() as view:
        found = view.entry(name_index(CONFIG.directory, name))
    return None if found is None else decode_entry(found)


def updated(store: StateStore) -> list[Operation]:
    old = entry_of(store, "alice")
    return [update(old, b"second")] if old and old.version == 1 else []


def rotated(store: StateStore) -> list[Operation]:
    old = entry_of(store, "alice")
    return [rotate(old, owners(ANOTHER), b"o" * 32, ANOTHER)] if old and old.version == 2 else []


STEPS: tuple[Callable[[StateStore], list[Operation]], ...] = (
    lambda _: [commit("alice"), commit("bobby")],
    lambda _: [register("alice"), register("bobby")],
    updated,
    rotated,
)
"""What is submitted, round by round; again from the beginning after a kill."""


class Whole:
    """Sequencer and verifier in one process, over one store."""

    def __init__(self, place: Path) -> None:
        self.store = StateStore(place / "store", CONFIG.encode())
        self._core = Embedded(self.store, KEYS.log, KEYS.verifier, COSIGNER)

    def start(self, now: int) -> None:
        self._core.start(now)

    def round(self, pending: list[bytes], now: int) -> frozenset[bytes]:
        return self._core.round(pending, now).placed

    def close(self) -> None:
        self.store.close()


class Parts:
    """A sequencer and three verifiers, each with a store of its own; two of them, other ones each
    time, sign a round."""

    def __init__(self, place: Path) -> None:
        text = THREE.encode()
        self.store = StateStore(place / "sequencer", text)
        self.sequencer = Sequencer(self.store, KEYS.log)
        self.stores = {name: StateStore(place / name, text) for name in VERIFIERS}
        self.verifiers = {
            name: Verifier(store, SEEDS[name], f"{CONFIG.namespace}/{name}")
            for name, store in self.stores.items()
        }

    def start(self, now: int) -> None:
        block = self.sequencer.outstanding()
        if block is not None:
            self._collect(block, now)
        elif entry_count(self.store) == 0:
            self.round([], now)

    def round(self, pending: list[bytes], now: int) -> frozenset[bytes]:
        block, _ = self.sequencer.propose(pending, now)
        if block is None:
            return frozenset()
        self._collect(block, now)
        return frozenset(block.operations)

    def _collect(self, block: Block, now: int) -> None:
        first = block.round.number % len(VERIFIERS)
        lines = []
        for name in (*VERIFIERS[first:], *VERIFIERS[:first])[:2]:
            while (size := entry_count(self.stores[name])) < block.round.number:
                with self.store.read() as view:
                    missed = view.block(size)
                self.verifiers[name].follow(missed)
            lines.append(self.verifiers[name].accept(block, now))
        self.sequencer.publish(block, tuple(lines))

    def close(self) -> None:
        for store in (self.store, *self.stores.values()):
            store.close()


def entry_count(store: StateStore) -> int:
    """Rounds that are locked."""
    with store.read() as view:
        return view.size()


def watch(record: Record, kill: Kill) -> None:
    """Points at every commit and signature of this process; what is signed is written down."""
    opened, accept = lmdb_environment.open_environment, Verifier.accept

    def cosigned(seed: bytes, name: str, now: int, text: bytes) -> SignatureLine:
        kill.point()
        line = cosign(seed, name, now, text)
        record.write("signed", name, *text.decode().split()[1:3])
        kill.point()
        return line

    def sign_head(seed: bytes, name: str, text: bytes) -> SignatureLine:
        kill.point()
        line = sign_checkpoint(seed, name, text)
        record.write("signed", "log", *text.decode().split()[1:3])
        kill.point()
        return line

    def offered(self: Verifier, block: Block, now: int, **more: bool) -> SignatureLine:
        record.write("offered", str(block.round.number), block.encode().hex())
        return accept(self, block, now, **more)

    places = {
        (lmdb_environment, "open_environment"): lambda *place: KillingEnv(opened(*place), kill),
        (verifier_module, "cosign"): cosigned,
        (sequencer_module, "sign_checkpoint"): sign_head,
        (Verifier, "accept"): offered,
    }
    for (place, name), function in places.items():
        setattr(place, name, function)


KINDS: dict[str, type[Whole] | type[Parts]] = {"whole": Whole, "parts": Parts}


def run(kind: str, place: Path, number: int, now: int) -> int:
    """The script, from where the stores are, to its end, unless the process is killed before."""
    record = Record(place / "record")
    watch(record, Kill(number))
    town = KINDS[kind](place)
    try:
        check_acknowledged(town.store, record)
        town.start(now)
        for step in STEPS:
            operations = step(town.store)
            placed = town.round([each.encode() for each in operations], now)
            for each in operations:
                if each.encode() in placed and each.name:
                    record.write("acknowledged", each.name, str(each.version))
        check_acknowledged(town.store, record)
        alice, bobby = entry_of(town.store, "alice"), entry_of(town.store, "bobby")
        assert alice is not None
        assert bobby is not None
        assert (alice.incarnation, alice.version, alice.owners) == (1, 3, owners(ANOTHER))
        assert (bobby.incarnation, bobby.version) == (1, 1)
    finally:
        town.close()
    return 0


def check_acknowledged(store: StateStore, record: Record) -> None:
    for kind, *words in record.lines():
        if kind == "acknowledged":
            entry = entry_of(store, words[0])
            assert entry is not None, "what was acknowledged is lost"
            assert entry.version >= int(words[1])


def run_whole(place: Path, number: int, now: int = NOW) -> int:
    return run("whole", place, number, now)


def run_parts(place: Path, number: int, now: int = NOW) -> int:
    return run("parts", place, number, now)


RUNS = {"whole": run_whole, "parts": run_parts}


def check_signed(record: Record) -> None:
    """One head of each size, whoever signed it and how often."""
    heads = defaultdict(set)
    for kind, *words in record.lines():
        if kind == "signed":
            heads[int(words[1])].add(words[2])
    assert heads
    for size, roots in heads.items():
        assert len(roots) == 1, f"two heads of size {size} are signed"


@pytest.mark.parametrize("kind", RUNS)
def test_a_kill_at_any_commit_or_signature_lets_nobody_sign_twice(memory: Path, kind: str) -> None:
    points = 0
    for place in every_point(RUNS[kind], memory):
        points += 1
        later = NOW + (10 if kind == "parts" or points % 2 else 1_000)
        assert exit_code(RUNS[kind], place, 0, later) == 0
        record = Record(place / "record")
        check_signed(record)
        if later == NOW + 10:
            offers = {(words[1], words[2]) for words in record.lines() if words[0] == "offered"}
            assert len(offers) == len({number for number, _ in offers}), "byte for byte the same"
    assert points > 5 * len(STEPS)


def offer_rivals(place: Path) -> int:
    """To every verifier: each block that was offered, a second later, and then as it was."""
    record = Record(place / "record")
    offers = [words[2] for words in record.lines() if words[0] == "offered"]
    watch(record, Kill(0))
    town = Parts(place)
    try:
        for encoded in dict.fromkeys(offers):
            block = decode_block(bytes.fromhex(encoded))
            for name in VERIFIERS:
                for each in (rival(town.stores[name], block), block):
                    if each is None:
                        continue
                    with suppress(BlockRefused):
                        town.verifiers[name].accept(each, NOW + 1)
    finally:
        town.close()
    return 0


def rival(store: StateStore, block: Block) -> Block | None:
    """The block as of a second later, properly signed; None where the store is too far behind."""
    round_ = replace(block.round, time=block.round.time + 1)
    with store.read() as view:
        if view.size() < round_.number:
            return None
        root, _ = RoundLog(round_.number, view.log_hash).append(round_.digest())
    text = Checkpoint(CONFIG.namespace, round_.number + 1, root).encode()
    return replace(block, round=round_, signature=sign(KEYS.log, proposal_text(text)))


def test_no_verifier_signs_a_rival_of_what_it_has_locked_before_a_kill(memory: Path) -> None:
    for place in every_point(run_parts, memory, 5):
        if not (place / "record").exists():
            continue
        assert exit_code(offer_rivals, place) == 0
        heads = defaultdict(set)
        for kind, *words in Record(place / "record").lines():
            if kind == "signed" and words[0] != "log":
                heads[words[0], words[1]].add(words[2])
        assert all(len(roots) == 1 for roots in heads.values()), heads
