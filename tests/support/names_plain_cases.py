"""Vectors made with the second implementation of the layouts (``tests.support.names_plain``): of
the change feed, fingerprints, rounds, configurations, invites, receipts, evidence, what goes
between the programs, and a client's state. Keys are fixed; a case that must fail names its error.
"""

import base64
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b, sha256
from itertools import pairwise
from typing import Any

import msgpack

from tests.support.names_naive import (
    LOG_SEED,
    NAMESPACE,
    NOW,
    log_consistency,
    log_root,
    verifier_seed,
)
from tests.support.names_plain import (
    Half,
    changed,
    checkpoint,
    feed_round,
    leaf,
    leaf_hash,
    long,
    note,
    position,
    public,
    short,
    signature,
    vkey,
)

Case = dict[str, Any]
REGISTRAR, GUEST = b"r" * 32, b"g" * 32
DIRECTORY: bytes = blake2b(public(LOG_SEED), digest_size=16, person=b"cbfs1 directory").digest()


def feeds() -> list[Case]:
    """Two tiles, the second unfinished; where a client is after each of some sizes; and tiles that
    are refused."""
    numbers = range(70)
    leaves = [leaf_hash(leaf(number, changed(number))) for number in numbers]
    tiles = [
        b"".join(feed_round(number, changed(number)) for number in numbers[start : start + 64])
        for start in (0, 64)
    ]
    cases: list[Case] = [
        {
            "tile": tile,
            "data": data.hex(),
            "rounds": [
                {
                    "number": number,
                    "changes": [each.hex() for each in changed(number)],
                    "leaf_hash": leaves[number].hex(),
                }
                for number in numbers[tile * 64 : tile * 64 + 64]
            ],
        }
        for tile, data in enumerate(tiles)
    ]
    cases += [
        {
            "size": size,
            "position": position(leaves[:size]).hex(),
            "root": log_root(leaves[:size]).hex(),
        }
        for size in (0, 1, 2, 3, 7, 8, 63, 64, 65, 70)
    ]
    one, other = b"\x01" * 8, b"\x02" * 8
    whole = feed_round(64, (one, other))
    wrong = {
        "a round of another tile": (0, feed_round(64, ())),
        "a round left out": (1, feed_round(64, ()) + feed_round(66, ())),
        "cut short": (1, whole[:-1]),
        "a byte left over": (1, whole + b"\x00"),
        "changes out of order": (
            1,
            short(leaf(64, (other, one))) + struct.pack(">H", 2) + other + one,
        ),
        "a change twice": (1, short(leaf(64, (one, one))) + struct.pack(">H", 2) + one + one),
        "other changes than were hashed": (
            1,
            short(leaf(64, (one,))) + struct.pack(">H", 1) + other,
        ),
        "changes left out": (1, short(leaf(64, (one,))) + struct.pack(">H", 0)),
        "65 rounds": (0, b"".join(feed_round(number, ()) for number in range(65))),
    }
    return cases + [
        {"what": what, "tile": tile, "data": data.hex(), "error": "DecodeError"}
        for what, (tile, data) in wrong.items()
    ]


def fingerprints() -> list[Case]:
    """Of pairs of identities, in either order."""
    identities = [bytes(32), b"\xff" * 32, *(sha256(b"person %d" % n).digest() for n in range(4))]
    cases = []
    for one, other in pairwise(identities):
        halves = sorted((Half(one), Half(other)), key=lambda half: half.bits)
        cases.append(
            {
                "identities": [one.hex(), other.hex()],
                "words": [word for half in halves for word in half.words()],
                "digits": [group for half in halves for group in half.digits()],
            }
        )
    return cases


def rounds() -> list[Case]:
    """A round as the log's leaf, as a proposed block, and as it is refused."""
    operations = (b"an operation", b"a second one of other length", b"")
    before = [leaf_hash(leaf(number)) for number in range(5)]
    last = leaf(5, (b"\x01" * 8,), sha256(b"a configuration").digest())
    text = checkpoint(6, log_root([*before, leaf_hash(last)]))
    signed = signature(LOG_SEED, b"cbfs1 names proposal\n" + text)
    block = (
        short(last)
        + signed
        + struct.pack(">I", len(operations))
        + b"".join(long(operation) for operation in operations)
    )
    cases: list[Case] = [
        {
            "round": last.hex(),
            "hash": leaf_hash(last).hex(),
            "operations": [each.hex() for each in operations],
            "log_seed": LOG_SEED.hex(),
            "checkpoint": text.decode(),
            "block": block.hex(),
        }
    ]
    for reason in (1, 9):
        body = (
            b"cbfs1 names refusal\n"
            + short(NAMESPACE.encode())
            + struct.pack(">Q", 5)
            + leaf_hash(last)
            + struct.pack(">B", reason)
        )
        cases.append(
            {
                "number": 5,
                "hash": leaf_hash(last).hex(),
                "reason": reason,
                "verifier_seed": verifier_seed(1).hex(),
                "refusal": (body + signature(verifier_seed(1), body)).hex(),
            }
        )
    wrong = {
        "round": {"cut short": last[:-1], "another label": b"x" + last[1:]},
        "block": {"cut short": block[:-1], "a byte left over": block + b"\x00"},
        "refusal": {
            "an unknown reason": body[:-1] + b"\x63" + bytes(64),
            "cut short": body + bytes(63),
        },
    }
    return cases + [
        {"what": what, field: data.hex(), "error": "DecodeError"}
        for field, cases_ in wrong.items()
        for what, data in cases_.items()
    ]


def configs() -> list[Case]:
    """Texts whose hash is the configuration's."""
    log = vkey(NAMESPACE, 1, public(LOG_SEED))
    witnesses = "".join(
        f"witness v{n} {vkey(f'{NAMESPACE}/v{n}', 4, public(verifier_seed(n)))}\n"
        for n in (1, 2, 3)
    )
    registrar = base64.b64encode(public(REGISTRAR)).decode()
    texts = [
        f"cbfs1 names config\nlog {log}\nregistration open\nshort 3\nlifetime 63072000\n"
        f"{witnesses}group all 3 v1 v2 v3\nquorum all\n",
        f"cbfs1 names config\nlog {log}\nregistration invite\nregistrar {registrar}\nshort 8\n"
        f"lifetime 100\n{witnesses}group some 2 v1 v2\ngroup both 2 some v3\nquorum both\n",
        f"cbfs1 names config\nlog {log}\nregistration work 20\nshort 3\nlifetime 100\n"
        f"{witnesses}quorum v1\n",
    ]
    cases: list[Case] = [
        {"config": text, "hash": sha256(text.encode()).hexdigest()} for text in texts
    ]
    wrong = {
        "no quorum": texts[0].replace("quorum all\n", ""),
        "a quorum of nobody": texts[0].replace("quorum all", "quorum nobody"),
        "an unknown registration": texts[0].replace("open", "closed"),
        "work of 41 bits": texts[2].replace("work 20", "work 41"),
        "names of 9 reserved": texts[0].replace("short 3", "short 9"),
    }
    return cases + [
        {"what": what, "config": text, "error": "DecodeError"} for what, text in wrong.items()
    ]


def registrations() -> list[Case]:
    """Invites, tokens, and what a proof of work is made over."""
    cases: list[Case] = []
    for name in ("", "bob"):
        body = b"\x01" + DIRECTORY + public(GUEST) + struct.pack(">Q", NOW) + short(name.encode())
        invite = body + signature(REGISTRAR, b"cbfs1 names invite\n" + body)
        text = base64.b32encode(GUEST + invite).decode().rstrip("=").lower()
        cases.append(
            {
                "registrar_seed": REGISTRAR.hex(),
                "seed": GUEST.hex(),
                "expires": NOW,
                "name": name,
                "invite": invite.hex(),
                "token": f"cbfs-invite:{text}",
            }
        )
    commit = b"\x01\x01" + DIRECTORY + short(b"") + bytes(8 + 32)
    commit += struct.pack(">Q", 99) + sha256(b"hidden").digest()
    work = 0
    while _zeros(commit, work) < 12:
        work += 1
    cases.append({"commit": (commit + _work(work) + b"\x00").hex(), "work": work, "bits": 12})
    wrong = {
        "cut short": invite[:-1],
        "a byte left over": invite + b"\x00",
        "another version": b"\x02" + invite[1:],
    }
    return cases + [
        {"what": what, "invite": data.hex(), "error": "DecodeError"} for what, data in wrong.items()
    ]


def _work(number: int) -> bytes:
    """The end of a COMMIT: its proof of work, and no invite."""
    return struct.pack(">QH", number, 0)


def _zeros(commit: bytes, work: int) -> int:
    """Leading zero bits of the proof."""
    digest = sha256(b"cbfs1 names work\n" + commit + _work(work)).digest()
    return 256 - int.from_bytes(digest, "big").bit_length()


def receipts() -> list[Case]:
    """Of a verifier for an operation."""
    operation = b"an encoded operation"
    body = (
        b"cbfs1 names receipt\n" + DIRECTORY + sha256(operation).digest() + struct.pack(">Q", NOW)
    )
    return [
        {
            "verifier_seed": verifier_seed(2).hex(),
            "operation": operation.hex(),
            "time": NOW,
            "signed": body.hex(),
            "signature": signature(verifier_seed(2), body).hex(),
        }
    ]


def evidence() -> list[Case]:
    """Of a log's key that has signed two histories: of one size, and of two."""
    one = [leaf_hash(leaf(number)) for number in range(7)]
    other = [*one[:3], *(sha256(bytes([number])).digest() for number in range(6))]
    cases: list[Case] = []
    for what, smaller, larger, proven in (
        ("heads of one size", one, other[:7], True),
        ("heads of two sizes", one, other, True),
        ("one history", one, [*one, other[8]], False),
    ):
        root = log_root(larger[: len(smaller)])
        proof = log_consistency(len(smaller), larger) if len(smaller) < len(larger) else []
        notes = [
            note(LOG_SEED, NAMESPACE, checkpoint(len(tree), log_root(tree)))
            for tree in (smaller, larger)
        ]
        data = (
            b"cbfs1 names equivocation\n"
            + short(vkey(NAMESPACE, 1, public(LOG_SEED)).encode())
            + b"".join(long(each) for each in notes)
            + root
            + bytes([len(proof)])
            + b"".join(proof)
        )
        cases.append({"what": what, "evidence": data.hex(), "proven": proven})
    cases.append({"what": "cut short", "evidence": data[:-1].hex(), "error": "DecodeError"})
    return cases


def exchanges() -> list[Case]:
    """Requests, replies and what verifiers say, as MessagePack by hand, with the fields that they
    decode to. Of look-ups, which carry evidence, see names-messages.json."""
    last = leaf(5)
    hashes = [sha256(bytes([n])).digest() for n in range(3)]
    proof = bytes([len(hashes)]) + b"".join(hashes)
    head = note(LOG_SEED, NAMESPACE, checkpoint(6, hashes[0]))
    made: list[tuple[str, list[object], list[object]]] = [
        ("AskHead", [4], []),
        ("AskChanges", [5, 2**33, 1], [2**33, 1]),
        ("AskTerms", [6, 7], [7]),
        ("AskConsistency", [7, 4_096, 5_000], [4_096, 5_000]),
        ("HeadIs", [133, head, last, proof], [head, last, hashes]),
        ("ChangesAre", [134, b"a part of a tile", True], [b"a part of a tile", True]),
        ("TermsAre", [135, "a text\n"], ["a text\n"]),
        ("Receipted", [136, NOW, bytes(64)], [NOW, bytes(64)]),
        ("ConsistencyIs", [137, proof], [hashes]),
        ("Await", [32, 5, hashes[0], 4], [5, hashes[0], 4]),
        ("GetBlock", [33, 5, 1], [5, 1]),
        ("Vote", [34, head], [head]),
        ("Reject", [35, b"a refusal"], [b"a refusal"]),
        ("AskStatus", [36, hashes[1]], [hashes[1]]),
        ("Offer", [160, head, hashes[2], True, proof, b""], [head, hashes[2], True, hashes, b""]),
        ("BlockPage", [161, 2, b"a page"], [2, b"a page"]),
        ("PeerStatus", [162, head, b""], [head, b""]),
        ("Acknowledged", [163], []),
    ]
    cases: list[Case] = [
        {"message": what, "payload": packed(plain).hex(), "fields": plain_json(fields)}
        for what, plain, fields in made
    ]
    wrong: dict[str, list[object]] = {
        "an unknown kind": [99],
        "a field too many": [4, 1],
        "a field too few": [5, 1],
        "a text for bytes": [34, "text"],
        "a look-up that says how large the last head was": [1, "alice", 5],
        "a consistency proof from below 0": [7, -1, 5],
        "a number below 0": [33, -1, 0],
        "a leaf of 31 bytes": [32, 5, bytes(31), 4],
        "a key of 31 bytes": [36, bytes(31)],
        "a receipt of 63 bytes": [136, NOW, bytes(63)],
    }
    return cases + [
        {"what": what, "payload": packed(plain).hex(), "error": "DecodeError"}
        for what, plain in wrong.items()
    ]


def packed(fields: list[object]) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


def plain_json(fields: Sequence[object]) -> list[object]:
    """Bytes as hex, in lists as well."""
    return [
        field.hex()
        if isinstance(field, bytes)
        else plain_json(field)
        if isinstance(field, list | tuple)
        else field
        for field in fields
    ]


def states() -> list[Case]:
    """What a client stores: how far it has followed the log and the feed, and the heads of look-ups
    since."""
    leaves = [leaf_hash(leaf(number)) for number in range(21)]
    cases: list[Case] = []

    def plain(head: int, feed: int, *seen: int) -> bytes:
        data = b"\x03" + DIRECTORY + position(leaves[:head]) + struct.pack(">Q", NOW)
        data += position(leaves[:feed]) + bytes([len(seen)])
        return data + b"".join(position(leaves[:size]) for size in seen)

    for head, feed, *seen in ((0, 0), (21, 13), (16, 16), (13, 13, 16, 17, 21)):
        data = plain(head, feed, *seen).hex()
        cases.append({"head": head, "time": NOW, "feed": feed, "seen": seen, "state": data})
    wrong = {
        "another version": b"\x02" + plain(16, 16)[1:],
        "cut short": plain(16, 16)[:-1],
        "a feed past the head": plain(13, 16),
        "a head that was followed": plain(13, 13, 13),
        "heads out of order": plain(13, 13, 17, 16),
        "a head twice": plain(13, 13, 16, 16),
    }
    return cases + [
        {"what": what, "state": data.hex(), "error": "DecodeError"} for what, data in wrong.items()
    ]


FILES: dict[str, Callable[[], list[Case]]] = {
    "names-feed.json": feeds,
    "names-fingerprint.json": fingerprints,
    "names-rounds.json": rounds,
    "names-configs.json": configs,
    "names-registration.json": registrations,
    "names-receipts.json": receipts,
    "names-evidence.json": evidence,
    "names-exchanges.json": exchanges,
    "names-states.json": states,
}
