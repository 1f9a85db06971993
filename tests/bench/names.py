"""Rows of the name directory, at the size that ``tests.bench.names_at_size`` makes.

The directory runs as a process of its own; the load comes from this one. Its data stays in
bench-results, since making it takes ten minutes and more: delete it to have it
made anew.
"""

import os
import random
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cbfs_common.names.checks import check_bundle
from cbfs_common.names.entry import decode_entry, decode_round, entry_hash, name_index
from cbfs_common.names.note import (
    COSIGNER_KEY,
    NoteKey,
    SignedNote,
    cosign,
    parse_note,
)
from cbfs_common.names.policy import Group, Policy, parse_policy
from cbfs_common.names.proofs import Evidence, encode_bundle
from cbfs_common.names.trees import decode_map_proof
from cbfs_common.names.wire import LookedUp, Lookup, decode_reply, encode_request
from cbfs_common.primitives import sign, sign_public, verify
from cbfs_common.profile import Address, parse_address
from tests.bench.names_at_size import make_directory, name_of
from tests.bench.names_town import PEOPLE, cpu, measure
from tests.bench.server import TIMEOUT, Client
from tests.bench.table import Row, duration, faster, rate
from tests.bench.timing import times
from tests.support.world import Service

NAMES, FEW = 1_000_000, 1_000
CONNECTIONS = 8
VERIFIERS = 3
PROOF, BUNDLE = 650, 2_048
"""Bytes that the design expects of a proof at a million names, and of a bundle of three
verifiers."""

PROOF_TIME = 15e-6
"""Seconds that it expects of checking a proof."""

Asked = tuple[str, bytes]
"""A name and the encoded request for it."""


PARAKEET = 780
"""Updates a second that Parakeet's prototype accepts, each in 3 to 4 s (anchor of the design)."""

PARAKEET_TIME = 3.5
REGISTRATIONS = 1_000
"""As many as may come at once: of more each needs more work, and the log has its pace."""


@contextmanager
def served(names: int) -> Iterator[tuple[Service, Address]]:
    """A directory with so many names, made if need be."""
    place = Path("bench-results").absolute() / f"names-{names}"
    place.parent.mkdir(exist_ok=True)
    make_directory(place, names, tell=names > FEW)
    service = Service("cbfs-names", place)
    try:
        yield service, parse_address(service.url, "cbfs-names")
    finally:
        service.end(signal.SIGTERM)
        service.close()


def own_memory(pid: int) -> int:
    """Bytes that a process has for itself: not what it has mapped of its store."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return 1_024 * int(line.split()[1])


@dataclass(frozen=True)
class Looked:
    """Look-ups a second of random names, and the processor time of the directory for one, in
    seconds; the process's own memory after them, and what its store takes on the disk, in bytes;
    some of the replies."""

    rate: float
    cpu: float
    memory: int
    store: int
    replies: tuple[LookedUp, ...]


def look_up(names: int, seconds: float) -> Looked:
    """Ask for names as fast as they are answered, one at a time on each connection."""
    chance = random.Random(names)
    with served(names) as (service, address):
        clients = [Client(address, os.urandom(32)) for _ in range(CONNECTIONS)]
        replies: list[bytes] = []
        poll = select.epoll()
        by_descriptor = {client.socket.fileno(): client for client in clients}
        for descriptor, client in by_descriptor.items():
            poll.register(descriptor, select.EPOLLIN)
            client.send(encode_request(Lookup(name_of(chance.randrange(names)))))
        started, answered, used = time.perf_counter(), 0, cpu(service.pid)
        while (taken := time.perf_counter() - started) < seconds:
            for descriptor, _ in poll.poll(TIMEOUT):
                client = by_descriptor[descriptor]
                for reply in client.replies():
                    answered += 1
                    if answered % 10 == 0 and len(replies) < 1_000:
                        replies.append(reply)
                    client.send(encode_request(Lookup(name_of(chance.randrange(names)))))
        poll.close()
        used = cpu(service.pid) - used
        own = own_memory(service.pid)
        for client in clients:
            client.socket.close()
    place = Path("bench-results") / f"names-{names}" / "store" / "data.mdb"
    decoded = tuple(reply for reply in map(decode_reply, replies) if isinstance(reply, LookedUp))
    if len(decoded) != len(replies):
        raise AssertionError("a look-up was refused")
    return Looked(answered / taken, used / answered, own, 512 * place.stat().st_blocks, decoded)


def by_three(names: int, replies: tuple[LookedUp, ...]) -> tuple[Policy, list[bytes]]:
    """Bundles of these replies under a head that three verifiers have cosigned, and the policy
    that asks for all of them. Everything else is as the directory gave it."""
    policy = parse_policy((Path("bench-results") / f"names-{names}" / "policy").read_text())
    seeds = [bytes([number + 1]) * 32 for number in range(VERIFIERS)]
    keys = [
        NoteKey(f"{policy.namespace}/v{number}", COSIGNER_KEY, sign_public(seed))
        for number, seed in enumerate(seeds)
    ]
    short = tuple((f"v{number}", key) for number, key in enumerate(keys))
    group = Group("all", VERIFIERS, tuple(name for name, _ in short))
    three = Policy(policy.log, policy.server, policy.config, short, (group,), "all")
    bundles = []
    for reply in replies:
        evidence = reply.evidence
        note = parse_note(evidence.note)
        log = tuple(line for line in note.lines if line.name == policy.namespace)
        now = int(time.time())
        lines = [
            cosign(seed, key.name, now, note.text) for seed, key in zip(seeds, keys, strict=True)
        ]
        signed = SignedNote(note.text, (*log, *lines)).encode()
        made = Evidence(
            signed, evidence.round, evidence.log_proof, evidence.map_proof, evidence.entry
        )
        bundles.append(encode_bundle(policy.directory, made, ()))
    return three, bundles


def names(quick: bool) -> Iterator[Row]:
    """Look-ups, proofs, bundles and memory at NAMES names, beside the same at FEW."""
    many, seconds = (FEW + 1, 0.5) if quick else (NAMES, 10.0)
    few, found = look_up(FEW, seconds), look_up(many, seconds)
    size = f"{many:,} names"
    yield Row(
        f"names, look-ups of one process, {size}",
        rate(found.rate),
        f"with {FEW:,} names",
        rate(few.rate),
        found.rate / few.rate,
    )
    what = f"names, processor time of one, {size}"
    yield faster(what, found.cpu, f"with {FEW:,} names", few.cpu)
    yield from _checked(many, found, size)
    yield Row(
        f"names, memory of the process, {size}",
        f"{found.memory / 2**20:.1f} MiB",
        f"with {FEW:,} names",
        f"{few.memory / 2**20:.1f} MiB",
        few.memory / found.memory,
    )
    each, other = found.store / many, few.store / FEW
    yield Row(
        f"names, disk a name, {size}",
        f"{each:,.0f} B",
        f"with {FEW:,} names",
        f"{other:,.0f} B",
        other / each,
    )


def claim(directory: bytes, evidence: Evidence) -> tuple[bytes, bytes, bytes, bytes]:
    """A map proof, and what it is to prove: root, index, value hash."""
    round_, entry = decode_round(evidence.round), decode_entry(evidence.entry)
    index = name_index(directory, entry.name)
    return evidence.map_proof, round_.map_root, index, entry_hash(evidence.entry)


def registrations(quick: bool) -> Iterator[Row]:
    """Registrations a second that a sequencer and three verifiers have all signed."""
    measured = measure(50 if quick else REGISTRATIONS)
    yield Row(
        f"names, registrations, 2 steps, {VERIFIERS} verifiers",
        rate(measured.rate),
        "Parakeet's prototype, updates",
        rate(PARAKEET),
        measured.rate / PARAKEET,
    )
    what = "names, processor time of one, all processes"
    yield faster(what, measured.cpu, "as Parakeet's rate on two cores", 2 / PARAKEET)
    what = f"names, one of them among {PEOPLE:,}, COMMIT to end"
    yield faster(what, measured.latency, "Parakeet's prototype, an update", PARAKEET_TIME)


def _checked(many: int, found: Looked, size: str) -> Iterator[Row]:
    """Sizes of proofs and bundles, and how long a client takes to check them."""
    proofs = [reply.evidence.map_proof for reply in found.replies]
    mean = sum(map(len, proofs)) / len(proofs)
    yield Row(
        f"names, proof, {size}",
        f"{mean:.0f} B",
        "as the design expects",
        f"{PROOF} B",
        PROOF / mean,
    )
    policy, bundles = by_three(many, found.replies)
    mean = sum(map(len, bundles)) / len(bundles)
    yield Row(
        f"names, bundle of {VERIFIERS} verifiers, {size}",
        f"{mean:,.0f} B",
        "as the design expects",
        f"{BUNDLE:,} B",
        BUNDLE / mean,
    )

    def check() -> int:
        for bundle in bundles:
            check_bundle(policy, bundle)
        return len(bundles)

    seed, text = os.urandom(32), os.urandom(150)
    public, signature = sign_public(seed), sign(seed, text)

    def signatures() -> int:
        for _ in bundles:
            for _ in range(VERIFIERS + 1):
                verify(public, text, signature)
        return len(bundles)

    claims = [claim(policy.directory, reply.evidence) for reply in found.replies]

    def map_proof() -> int:
        for proof, root, index, value in claims:
            if not decode_map_proof(proof).proves(root, index, value):
                raise AssertionError("a wrong proof")
        return len(claims)

    ours, alone, proof = times(5, check, signatures, map_proof)
    what = f"names, bundle of {VERIFIERS} verifiers checked"
    yield faster(what, ours, f"its {VERIFIERS + 1} signatures alone", alone)
    yield Row(
        f"names, proof checked, {size}",
        duration(proof),
        "as the design expects",
        duration(PROOF_TIME),
        PROOF_TIME / proof,
    )
