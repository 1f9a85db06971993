"""A second, naive implementation of the directory's two trees, straight from their definitions:
the map over all 256 levels, the log by RFC 9162's recursion. And a forger that signs anything."""

from dataclasses import dataclass, field, replace
from hashlib import sha256

from cbfs_common.names.entry import Entry, Keys, Round, Status, name_index
from cbfs_common.names.note import (
    COSIGNER_KEY,
    LOG_KEY,
    Checkpoint,
    NoteKey,
    SignatureLine,
    SignedNote,
    cosign,
    sign_checkpoint,
    to_base64,
)
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.names.proofs import Evidence
from cbfs_common.names.trees import MapProof, Terminal
from cbfs_common.names.wire import LookedUp
from cbfs_common.person import directory_id
from cbfs_common.primitives import sign_public
from cbfs_common.profile import Address

ZERO = bytes(32)
NAMESPACE = "test.example"
NOW = 1_700_000_000
LOG_SEED = b"l" * 32
DIRECTORY = directory_id(sign_public(LOG_SEED))
LOG = NoteKey(NAMESPACE, LOG_KEY, sign_public(LOG_SEED)).encode()
FIRST = NoteKey(f"{NAMESPACE}/v1", COSIGNER_KEY, sign_public(bytes([1]) * 32)).encode()
TERMS = (
    f"cbfs1 names config\nlog {LOG}\nregistration work 0\nshort 3\nlifetime 1000000\n"
    f"witness v1 {FIRST}\nquorum v1\n"
)
CONFIG = sha256(TERMS.encode()).digest()


def hash_leaf(index: bytes, value: bytes) -> bytes:
    return sha256(b"\x02" + index + value).digest()


def bits(index: bytes) -> str:
    return f"{int.from_bytes(index, 'big'):0256b}"


def subtree(leaves: dict[bytes, bytes], path: str) -> bytes:
    """What stands at ``path``, by the definition: nothing, a leaf alone, or a node."""
    here = {index: value for index, value in leaves.items() if bits(index).startswith(path)}
    if path and not here:
        return ZERO
    if path and len(here) == 1:
        return hash_leaf(*next(iter(here.items())))
    return sha256(b"\x03" + subtree(here, path + "0") + subtree(here, path + "1")).digest()


def map_proof(leaves: dict[bytes, bytes], index: bytes) -> MapProof:
    siblings = []
    for depth in range(1, 257):
        path = bits(index)[:depth]
        siblings.append(subtree(leaves, path[:-1] + "10"[int(path[-1])]))
        here = {other: value for other, value in leaves.items() if bits(other).startswith(path)}
        if not here:
            return MapProof(tuple(siblings), Terminal.EMPTY)
        if len(here) == 1:
            other, value = next(iter(here.items()))
            if other == index:
                return MapProof(tuple(siblings), Terminal.HERE)
            return MapProof(tuple(siblings), Terminal.OTHER, other, value)
    raise ValueError("two indexes are the same")


def log_root(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, of leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return sha256(b"\x01" + log_root(leaves[:k]) + log_root(leaves[k:])).digest()


def log_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162, 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if m < k:
        return [*log_path(m, leaves[:k]), log_root(leaves[k:])]
    return [*log_path(m - k, leaves[k:]), log_root(leaves[:k])]


def log_consistency(m: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """RFC 9162, 2.1.4.1."""
    if m == len(leaves):
        return [] if whole else [log_root(leaves)]
    k = _split(len(leaves))
    if m <= k:
        return [*log_consistency(m, leaves[:k], whole), log_root(leaves[k:])]
    return [*log_consistency(m - k, leaves[k:], False), log_root(leaves[:k])]


def _split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def verifier_seed(number: int) -> bytes:
    return bytes([number]) * 32


def verifier_key(number: int) -> NoteKey:
    return NoteKey(f"{NAMESPACE}/v{number}", COSIGNER_KEY, sign_public(verifier_seed(number)))


def make_policy(server: Address, witnesses: int = 1, threshold: int = 1) -> Policy:
    """A policy of ``threshold`` of the verifiers 1 to ``witnesses``."""
    text = (
        f"# cbfs-config {to_base64(CONFIG)}\n"
        f"log {NoteKey(NAMESPACE, LOG_KEY, sign_public(LOG_SEED)).encode()} "
        f"{server.url('cbfs-names')}\n"
        + "".join(f"witness v{n} {verifier_key(n).encode()}\n" for n in range(1, witnesses + 1))
        + f"group all {threshold} {' '.join(f'v{n}' for n in range(1, witnesses + 1))}\n"
        + "quorum all\n"
    )
    return parse_policy(text)


def make_entry(name: str, **changes: object) -> Entry:
    owners = Keys(1, (sign_public(b"o" * 32),))
    entry = Entry(
        name,
        1,
        1,
        Status.ACTIVE,
        NOW + 10**6,
        1,
        ZERO,
        owners,
        Keys(0, ()),
        b"profile of " + name.encode(),
    )
    return replace(entry, **changes)  # type: ignore[arg-type]  # fields by name


@dataclass
class Forger:
    """Verifiers and sequencer in one hand: every head it likes, properly signed."""

    entries: list[Entry] = field(default_factory=list)
    filler: int = 3
    time: int = NOW
    namespace: str = NAMESPACE
    config: bytes = CONFIG
    origin: str = NAMESPACE
    number_off: int = 0
    signers: tuple[int, ...] = (1,)
    times: dict[int, int] = field(default_factory=dict)
    log_seed: bytes = LOG_SEED
    salt: bytes = b""
    earlier: tuple[bytes, ...] = ()

    def leaves(self) -> dict[bytes, bytes]:
        return {name_index(DIRECTORY, entry.name): entry.digest() for entry in self.entries}

    def round(self) -> Round:
        root = subtree(self.leaves(), "")
        number = self.filler + self.number_off
        return Round(self.namespace, number, NOW, root, ZERO, ZERO, self.config)

    def log(self) -> list[bytes]:
        """Leaf hashes: ``filler`` rounds that nobody looks into (of which the ``earlier`` ones
        are given), then the last."""
        fillers = [sha256(self.salt + bytes([n])).digest() for n in range(self.filler)]
        fillers[: len(self.earlier)] = self.earlier
        return [*fillers, self.round().digest()]

    def note(self) -> SignedNote:
        log = self.log()
        text = Checkpoint(self.origin, len(log), log_root(log)).encode()
        lines = [sign_checkpoint(self.log_seed, NAMESPACE, text)]
        for number in self.signers:
            lines.append(self.cosign(number, text))
        return SignedNote(text, tuple(lines))

    def cosign(self, number: int, text: bytes) -> SignatureLine:
        time = self.times.get(number, self.time)
        return cosign(verifier_seed(number), verifier_key(number).name, time, text)

    def look_up(self, name: str) -> LookedUp:
        index = name_index(DIRECTORY, name)
        proof = map_proof(self.leaves(), index)
        entry = next((entry.encode() for entry in self.entries if entry.name == name), b"")
        log = self.log()
        evidence = Evidence(
            self.note().encode(),
            self.round().encode(),
            tuple(log_path(len(log) - 1, log)),
            proof.encode(),
            entry,
        )
        return LookedUp(evidence, ())
