"""What the files names-*.json hold of heads, rounds, registration, the change feed, and what goes
over the wire; see tests.vectors.make_names."""

import base64
import struct
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from typing import Any

import msgpack

from cbfs_common.names.entry import Keys
from cbfs_common.names.operations import Operation, OperationKind
from tests.support.naive_names import position
from tests.support.naive_rounds import compared
from tests.support.names_naive import (
    DIRECTORY,
    LOG_SEED,
    NAMESPACE,
    NOW,
    ZERO,
    Forger,
    log_consistency,
    log_root,
    make_entry,
    verifier_seed,
)
from tests.support.names_plain import (
    changed,
    changes_hash,
    checkpoint,
    feed_round,
    leaf,
    leaf_hash,
    long,
    note,
    public,
    short,
    signature,
    vkey,
)
from tests.vectors.cases import Case, File, case, cases
from tests.vectors.make_names import signed_operations

OWNER, NEW_OWNER, AGENT = b"o" * 32, b"p" * 32, b"a" * 32
REGISTRAR, GUEST = b"r" * 32, b"g" * 32


def keys_of(keys: Keys) -> list[Any]:
    return [keys.threshold, list(keys.keys)]


# Heads, rounds


def heads() -> File:
    head = Forger([make_entry("alice")]).note()
    text, lines = head.text.decode(), [line.encode() for line in head.lines]
    verifier = f"{NAMESPACE}/v1"
    root = text.split("\n")[2]
    wrong_texts = {
        "no newline at its end": text[:-1],
        "an extension line": text + "more\n",
        "size with a zero in front": text.replace("\n4\n", "\n04\n"),
        "size negative": text.replace("\n4\n", "\n-4\n"),
        "size of 20 digits": text.replace("\n4\n", "\n10000000000000000000\n"),
        "root without padding": text.replace(root, root[:-1]),
        "root of 31 bytes": text.replace(root, base64.b64encode(bytes(31)).decode()),
        "root with spare bits": text.replace(root, root[:-2] + chr(ord(root[-2]) + 1) + "="),
        "origin with a plus": text.replace(NAMESPACE, "a+b"),
        "origin of 65 letters": text.replace(NAMESPACE, "a" * 65),
    }
    data = head.encode()
    wrong_notes = {
        "no signature": head.text + b"\n",
        "no empty line": data.replace(b"\n\n", b"\n"),
        "no newline at its end": data[:-1],
        "a key twice": data + lines[1].encode(),
        "a line with a hyphen": data.replace("\u2014".encode(), b"-"),
        "a line without a signature": data + "\u2014 x AAAAAA==\n".encode(),
        "a text that is not ASCII": "é".encode() + data,
        "34 lines": head.text + b"\n" + b"".join(
            f"\u2014 x{n} {base64.b64encode(bytes(5)).decode()}\n".encode() for n in range(34)
        ),
    }  # fmt: skip
    origin, size, _ = text.split("\n")[:3]
    return {
        "checkpoint": [
            case("a head", text=text, origin=origin, size=int(size), root=base64.b64decode(root)),
            *cases("text", wrong_texts, error="malformed"),
        ],
        "vkey": [
            case("of a log", person=NAMESPACE, key_type=1, key=public(LOG_SEED),
                 vkey=vkey(NAMESPACE, 1, public(LOG_SEED))),
            case("of a verifier", person=verifier, key_type=4, key=public(verifier_seed(1)),
                 vkey=vkey(verifier, 4, public(verifier_seed(1)))),
        ],
        "log line": [case("a head", seed=LOG_SEED, person=NAMESPACE, text=text, line=lines[0])],
        "cosignature line": [case("a head", seed=verifier_seed(1), person=verifier, time=NOW,
                                  text=text, line=lines[1])],
        "note": [
            case("two lines", note=data, text=text,
                 lines=[[each.name, each.key_id, each.signature] for each in head.lines]),
            *cases("note", wrong_notes, error="malformed"),
        ],
    }  # fmt: skip


def rounds() -> File:
    operations = [b"an operation", b"a second one of other length", b""]
    before = [leaf_hash(leaf(number)) for number in range(5)]
    changes = (b"\x01" * 8, b"\x02" * 8)
    last = leaf(5, changes, sha256(b"a configuration").digest())
    signed = b"cbfs1 names proposal\n" + checkpoint(6, log_root([*before, leaf_hash(last)]))
    proposed = signature(LOG_SEED, signed)
    count = struct.pack(">I", len(operations))
    block = short(last) + proposed + count + b"".join(map(long, operations))
    wrong_rounds = {
        "cut short": last[:-1],
        "a byte left over": last + b"\0",
        "another label": b"x" + last[1:],
        "no namespace": last[:18] + b"\0" + last[19 + len(NAMESPACE) :],
    }
    wrong_blocks = {
        "cut short": block[:-1],
        "a byte left over": block + b"\x00",
        "a round cut short": short(last[:-1]) + block[1 + len(last) :],
        "1025 operations": short(last) + proposed + struct.pack(">I", 1_025) + bytes(2 * 1_025),
    }
    first = bytes.fromhex(last.hex())
    return {
        "operations hash": [
            case(f"{n} operations", operations=operations[:n],
                 hash=_operations_hash(operations[:n]))
            for n in (0, 1, 3)
        ],
        "changes hash": [
            case(f"{n} changes", changes=list(changes[:n]), hash=changes_hash(changes[:n]))
            for n in (0, 1, 2)
        ],
        "round": [_round("a round", first), *cases("round", wrong_rounds, error="malformed")],
        "block": [
            case("a block", block=block, leaves=before, round=last, signature=proposed,
                 operations=operations, signed=signed),
            *cases("block", wrong_blocks, leaves=before, error="malformed"),
        ],
        "refusal": _refusals(leaf_hash(last)),
    }  # fmt: skip


def _operations_hash(operations: list[bytes]) -> bytes:
    count = struct.pack(">I", len(operations))
    return sha256(b"cbfs1 names operations\n" + count + b"".join(map(long, operations))).digest()


def _round(name: str, data: bytes) -> Case:
    at = 19 + len(NAMESPACE)
    number, time = struct.unpack(">QQ", data[at : at + 16])
    hashes = [data[at + 16 + 32 * n : at + 48 + 32 * n] for n in range(4)]
    return case(name, round=data, namespace=NAMESPACE, number=number, time=time,
                map_root=hashes[0], operations_hash=hashes[1], changes_hash=hashes[2],
                config_hash=hashes[3], hash=leaf_hash(data))  # fmt: skip


def _refusals(hashed: bytes) -> list[Case]:
    key = public(verifier_seed(1))

    def refusal(reason: int) -> bytes:
        body = b"cbfs1 names refusal\n" + short(NAMESPACE.encode()) + struct.pack(">Q", 5)
        body += hashed + bytes([reason])
        return body + signature(verifier_seed(1), body)

    made = [
        case(f"reason {reason}", refusal=refusal(reason), key=key, namespace=NAMESPACE, number=5,
             hash=hashed, reason=reason)
        for reason in (1, 9)
    ]  # fmt: skip
    wrong = {
        "reason 0": refusal(0),
        "reason 10": refusal(10),
        "cut short": refusal(1)[:-1],
        "a byte left over": refusal(1) + b"\0",
        "another label": b"x" + refusal(1)[1:],
    }
    forged = refusal(1)[:-1] + bytes([refusal(1)[-1] ^ 1])
    return [
        *made,
        *cases("refusal", wrong, key=key, error="malformed"),
        case("a wrong signature", refusal=forged, key=key, error="refused"),
    ]


def evidence() -> File:
    """Of a log's key that has signed two histories: of one size, and of two."""
    one = [leaf_hash(leaf(number)) for number in range(7)]
    other = [*one[:3], *(sha256(bytes([number])).digest() for number in range(6))]
    made: list[Case] = []
    key = vkey(NAMESPACE, 1, public(LOG_SEED))
    for what, smaller, larger, seed, proven in (
        ("heads of one size", one, other[:7], LOG_SEED, True),
        ("heads of two sizes", one, other, LOG_SEED, True),
        ("one history", one, [*one, other[8]], LOG_SEED, False),
        ("signed by another key", one, other, OWNER, False),
    ):
        root = log_root(larger[: len(smaller)])
        proof = log_consistency(len(smaller), larger) if len(smaller) < len(larger) else []
        notes = [
            note(seed, NAMESPACE, checkpoint(len(tree), log_root(tree)))
            for tree in (smaller, larger)
        ]
        data = b"cbfs1 names equivocation\n" + short(key.encode()) + b"".join(map(long, notes))
        data += root + bytes([len(proof)]) + b"".join(proof)
        made.append(case(what, evidence=data, proven=proven))
    wrong = {
        "cut short": data[:-1],
        "a byte left over": data + b"\0",
        "another label": b"x" + data[1:],
        "a key that is none": data.replace(key.encode(), b"x" * len(key)),
    }
    return {"evidence": made + cases("evidence", wrong, error="malformed")}


# Registration


def registrations() -> File:
    invites, tokens = [], []
    registrar = public(REGISTRAR)

    def signed(body: bytes) -> bytes:
        return body + signature(REGISTRAR, b"cbfs1 names invite\n" + body)

    for person in ("", "bob"):
        body = b"\x01" + DIRECTORY + public(GUEST) + struct.pack(">Q", NOW)
        invite = signed(body + short(person.encode()))
        name = f"to {person or 'any name'}"
        invites.append(case(name, invite=invite, registrar=registrar, directory=DIRECTORY,
                            key=public(GUEST), expires=NOW, person=person))  # fmt: skip
        text = base64.b32encode(GUEST + invite).decode().rstrip("=").lower()
        tokens.append(case(name, text=f"cbfs-invite:{text}", seed=GUEST, invite=invite))
    wrong = {
        "cut short": invite[:-1],
        "a byte left over": invite + b"\x00",
        "another version": signed(b"\x02" + body[1:] + short(b"bob")),
        "a name that is none": signed(body + short(b"Bob")),
    }
    forged = invite[:-1] + bytes([invite[-1] ^ 1])
    commit = b"\x01\x01" + DIRECTORY + short(b"") + bytes(8 + 32)
    commit += struct.pack(">Q", 99) + sha256(b"hidden").digest()
    work = next(work for work in range(10**6) if _zeros(commit, work) >= 12)
    bits = _zeros(commit, work)
    counts = sorted({1, 12, bits, bits + 1})
    proofs = [(f"{asked} bits", work, asked, asked <= bits) for asked in counts]
    proofs.append(("another number", work + 1, 12, _zeros(commit, work + 1) >= 12))
    return {
        "invite": [
            *invites,
            *cases("invite", wrong, registrar=registrar, error="malformed"),
            case("a wrong signature", invite=forged, registrar=registrar, error="refused"),
            case("of another registrar", invite=invite, registrar=public(OWNER), error="refused"),
        ],
        "token": tokens,
        "proof of work": [
            case(name, commit=commit + _work(number) + b"\x00", bits=asked, proven=proven)
            for name, number, asked, proven in proofs
        ],
        "admission": _admissions(),
        "work asked": _works(),
        "turn": _turns(),
        "receipt": _receipts(),
    }


def _admissions() -> list[Case]:
    verifier = vkey(f"{NAMESPACE}/v1", 4, public(verifier_seed(1)))
    log, key = vkey(NAMESPACE, 1, public(LOG_SEED)), base64.b64encode(public(REGISTRAR)).decode()
    begin, end = f"cbfs1 names config\nlog {log}\n", f"witness v1 {verifier}\nquorum v1\n"
    terms = "short 3\nlifetime 100\n"
    open_ = f"{begin}registration open\n{terms}{end}"
    invited = f"{begin}registration invite\nregistrar {key}\n{terms}{end}"
    working = f"{begin}registration work 8\n{terms}{end}"
    plain = Operation(OperationKind.COMMIT, DIRECTORY, "", 0, 0, ZERO, 99, b"c" * 32)
    bare = plain.encode()[: -len(_work(0)) - 1]
    enough = next(n for n in range(10**6) if _zeros(bare, n) >= 8)
    few = next(n for n in range(10**6) if _zeros(bare, n) < 8)
    all_ = next(n for n in range(10**7) if _zeros(bare, n) >= 18)
    less = next(n for n in range(10**7) if _zeros(bare, n) == 17)
    exact = next(n for n in range(10**6) if _zeros(bare, n) == 9)

    def by_invite(
        person: str = "bob",
        directory: bytes = DIRECTORY,
        signer: bytes = GUEST,
        registrar: bytes = REGISTRAR,
    ) -> bytes:
        body = b"\1" + directory + public(GUEST) + struct.pack(">Q", NOW) + short(person.encode())
        invite = body + signature(registrar, b"cbfs1 names invite\n" + body)
        return replace(plain, invite=invite).signed((signer,)).encode()

    made: list[tuple[str, str, bytes, int, str | None, str]] = [
        ("where everybody may", open_, replace(plain, work=all_).encode(), NOW, None, ""),
        ("with too little work where everybody may", open_, replace(plain, work=less).encode(), NOW,
         None, "WORK_NEEDED"),
        ("with an invite to a name", invited, by_invite(), NOW - 1, "bob", ""),
        ("with an invite to any name", invited, by_invite(""), NOW, "", ""),
        ("in the last second of an invite", invited, by_invite(), NOW, "bob", ""),
        ("a second later", invited, by_invite(), NOW + 1, None, "INVITE_NEEDED"),
        ("without an invite", invited, plain.encode(), NOW, None, "INVITE_NEEDED"),
        ("where there is no registrar", open_, by_invite(), NOW, None, "INVITE_NEEDED"),
        ("of another registrar", invited, by_invite(registrar=OWNER), NOW, None, "INVITE_NEEDED"),
        ("an invite of another directory", invited, by_invite(directory=bytes(16)), NOW, None,
         "INVITE_NEEDED"),
        ("an invite that is none", invited,
         replace(plain, invite=b"x").signed((GUEST,)).encode(), NOW, None, "INVITE_NEEDED"),
        ("not signed by the invite's key", invited, by_invite(signer=OWNER), NOW, None,
         "WRONG_SIGNATURE"),
        ("signed without an invite", open_, plain.signed((GUEST,)).encode(), NOW, None,
         "WRONG_SIGNATURE"),
        ("with a proof of work", working, replace(plain, work=enough).encode(), NOW, None, ""),
        ("with a proof of too little work", working, replace(plain, work=few).encode(), NOW, None,
         "WORK_NEEDED"),
    ]  # fmt: skip
    found = []
    for name, config, commit, time, granted, error in made:
        result: dict[str, Any] = {"error": error} if error else {"granted": granted}
        found.append(case(name, config=config, commit=commit, time=time, busy=0, **result))
    nine = {"config": working, "commit": replace(plain, work=exact).encode(), "time": NOW}
    for waiting, error in (255, ""), (256, ""), (511, ""), (512, "WORK_NEEDED"):
        result = {"error": error} if error else {"granted": None}
        found.append(case(f"9 bits after {waiting} others", **nine, busy=NOW + waiting, **result))
    return found


def _works() -> list[Case]:
    """How many bits are asked of a COMMIT without an invite, by those that are remembered."""
    log, verifier = vkey(NAMESPACE, 1, public(LOG_SEED)), verifier_seed(1)
    end = f"witness v1 {vkey(f'{NAMESPACE}/v1', 4, public(verifier))}\nquorum v1\n"
    made = {
        "the first": ("open", 0, 18, NOW + 1),
        "after one long ago": ("open", NOW - 1, 18, NOW + 1),
        "after 255": ("work 8", NOW + 255, 8, NOW + 256),
        "after 256": ("work 8", NOW + 256, 9, NOW + 257),
        "after 1,023": ("work 8", NOW + 1_023, 10, NOW + 1_024),
        "after 1,024": ("work 0", NOW + 1_024, 3, NOW + 1_025),
        "after 100,000": ("open", NOW + 100_000, 27, NOW + 100_001),
        "never more than 40": ("work 39", NOW + 100_000, 40, NOW + 100_001),
    }
    return [
        case(name, time=NOW, busy=busy, bits=bits, after=after, config=(
            f"cbfs1 names config\nlog {log}\nregistration {rule}\nshort 3\nlifetime 100\n{end}"
        ))
        for name, (rule, busy, bits, after) in made.items()
    ]  # fmt: skip


def _turns() -> list[Case]:
    """Whether a change of a name has a turn, and until when they are used with it."""
    made: dict[str, tuple[str, int, int | None]] = {
        "the first UPDATE": ("UPDATE", 0, NOW + 3_600),
        "one after a long time": ("UPDATE", NOW - 1, NOW + 3_600),
        "the eighth at once": ("UPDATE", NOW + 7 * 3_600, NOW + 8 * 3_600),
        "the ninth": ("UPDATE", NOW + 8 * 3_600, None),
        "the ninth, a second early": ("UPDATE", NOW + 7 * 3_600 + 1, None),
        "the eighth ROTATE": ("ROTATE", NOW + 7 * 86_400, NOW + 8 * 86_400),
        "the ninth ROTATE": ("ROTATE", NOW + 7 * 86_400 + 1, None),
        "a RECOVER": ("RECOVER", NOW, NOW + 86_400),
        "a ninth RECOVER": ("RECOVER", NOW + 8 * 86_400, None),
        "a CANCEL": ("CANCEL", NOW, NOW + 86_400),
        "a ninth CANCEL": ("CANCEL", NOW + 8 * 86_400, None),
    }
    return [
        case(name, what=what, time=NOW, used=used,
             **({"error": "CHANGED_OFTEN"} if after is None else {"after": after}))
        for name, (what, used, after) in made.items()
    ]  # fmt: skip


def _work(number: int) -> bytes:
    """The end of a COMMIT's body: its proof of work, and no invite."""
    return struct.pack(">QH", number, 0)


def _zeros(commit: bytes, work: int) -> int:
    """Leading zero bits of the proof."""
    digest = sha256(b"cbfs1 names work\n" + commit + _work(work)).digest()
    return 256 - int.from_bytes(digest, "big").bit_length()


def _receipts() -> list[Case]:
    operation = b"an encoded operation"
    body = b"cbfs1 names receipt\n" + DIRECTORY + sha256(operation).digest()
    body += struct.pack(">Q", NOW)
    given = {"seed": verifier_seed(2), "directory": DIRECTORY, "operation": operation}
    return [case("a receipt", **given, time=NOW, signature=signature(verifier_seed(2), body))]


def fingerprints() -> File:
    """Of pairs of identities, in either order."""
    identities = [bytes(32), b"\xff" * 32, *(sha256(b"person %d" % n).digest() for n in range(4))]
    pairs = list(pairwise(identities))
    return {
        "compared": [
            case(f"pair {number}{', the other way round' if turned else ''}", one=one, other=other,
                 **compared(one, other))
            for turned in (False, True)
            for number, (one, other) in enumerate(p[::-1] if turned else p for p in pairs)
        ]
    }  # fmt: skip


# The change feed, and what a client keeps


def feeds() -> File:
    """Two tiles, the second unfinished; and tiles that are refused."""
    made = []
    for tile in (0, 1):
        numbers = range(70)[tile * 64 : tile * 64 + 64]
        data = b"".join(feed_round(number, changed(number)) for number in numbers)
        rounds = [
            [number, leaf_hash(leaf(number, changed(number))), list(changed(number))]
            for number in numbers
        ]
        made.append(case(f"tile {tile}", tile=tile, data=data, rounds=rounds))
    one, other = b"\x01" * 8, b"\x02" * 8
    whole = feed_round(64, (one, other))

    def lie(hashed: tuple[bytes, ...], count: int, shown: bytes) -> bytes:
        return short(leaf(64, hashed)) + struct.pack(">H", count) + shown

    wrong: dict[str, tuple[int, bytes]] = {
        "a round of another tile": (0, feed_round(64, ())),
        "a round left out": (1, feed_round(64, ()) + feed_round(66, ())),
        "the first round left out": (1, feed_round(65, ())),
        "cut short": (1, whole[:-1]),
        "a byte left over": (1, whole + b"\x00"),
        "changes out of order": (1, lie((other, one), 2, other + one)),
        "a change twice": (1, lie((one, one), 2, one + one)),
        "other changes than were hashed": (1, lie((one,), 1, other)),
        "changes left out": (1, lie((one,), 0, b"")),
        "65 rounds": (0, b"".join(feed_round(number, ()) for number in range(65))),
    }
    made += [
        case(what, tile=tile, data=data, error="malformed") for what, (tile, data) in wrong.items()
    ]
    return {"tile": made, "state": _states()}


def _states() -> list[Case]:
    leaves = [leaf_hash(leaf(number)) for number in range(21)]

    def plain(head: int, feed: int, *seen: int) -> bytes:
        data = b"\x03" + DIRECTORY + position(leaves[:head]) + struct.pack(">Q", NOW)
        data += position(leaves[:feed]) + bytes([len(seen)])
        return data + b"".join(position(leaves[:size]) for size in seen)

    made = [
        case(f"followed to {head}, its changes to {feed}", state=plain(head, feed, *seen),
             directory=DIRECTORY, head=position(leaves[:head]), time=NOW,
             feed=position(leaves[:feed]), seen=[position(leaves[:size]) for size in seen])
        for head, feed, *seen in ((0, 0), (21, 13), (16, 16), (13, 13, 16, 17, 21))
    ]  # fmt: skip
    wrong = {
        "another version": b"\x02" + plain(16, 16)[1:],
        "cut short": plain(16, 16)[:-1],
        "a byte left over": plain(16, 16) + b"\0",
        "a feed past the head": plain(13, 16),
        "a head that was followed": plain(13, 13, 13),
        "heads out of order": plain(13, 13, 17, 16),
        "a head twice": plain(13, 13, 16, 16),
        "33 heads": plain(0, 0)[:-1] + b"\x21"
        + b"".join(position([ZERO] * n) for n in range(1, 34)),
    }  # fmt: skip
    return made + cases("state", wrong, error="malformed")


# Messages


def packed(*fields: object) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


def text(value: str) -> dict[str, str]:
    """A text among fields, where bytes stand as texts."""
    return {"text": value}


def messages() -> File:
    last = leaf(5)
    hashes = [sha256(bytes([n])).digest() for n in range(3)]
    proof = bytes([3]) + b"".join(hashes)
    head = note(LOG_SEED, NAMESPACE, checkpoint(6, hashes[0]))
    found = Forger([make_entry("alice")]).look_up("alice").evidence
    shown = [found.note, found.round, list(found.log_proof), found.map_proof, found.entry]
    link = struct.pack(">QQ", 7, NOW) + long(signed_operations()["UPDATE"].encode())
    links = b"\1" + link
    requests: list[tuple[str, list[Any], list[Any]]] = [
        ("Lookup", [1, "alice"], [text("alice")]),
        ("AskHistory", [2, "alice", 1, 2], [text("alice"), 1, 2]),
        ("Submit", [3, b"an operation"], [b"an operation"]),
        ("AskHead", [4], []),
        ("AskChanges", [5, 2**33, 1], [2**33, 1]),
        ("AskTerms", [6, 7], [7]),
        ("AskConsistency", [7, 4_096, 5_000], [4_096, 5_000]),
    ]
    replies: list[tuple[str, list[Any], list[Any]]] = [
        ("LookedUp", [129, found.encode(), links], [shown, [link]]),
        ("Steps", [130, b"\0"], [[]]),
        ("Submitted", [131, 7], [7]),
        *(("RefusedReply", [132, reason], [reason]) for reason in (1, 26)),
        ("HeadIs", [133, head, last, proof], [head, last, hashes]),
        ("ChangesAre", [134, b"a part of a tile", True], [b"a part of a tile", True]),
        ("TermsAre", [135, "a text\n", 20], [text("a text\n"), 20]),
        ("Receipted", [136, NOW, bytes(64)], [NOW, bytes(64)]),
        ("ConsistencyIs", [137, proof], [hashes]),
    ]
    peers: list[tuple[str, list[Any], list[Any]]] = [
        ("Await", [32, 5, hashes[0], 4], [5, hashes[0], 4]),
        ("Await", [32, 0, b"", 0], [0, b"", 0]),
        ("GetBlock", [33, 5, 1], [5, 1]),
        ("Vote", [34, head], [head]),
        ("Reject", [35, b"a refusal"], [b"a refusal"]),
        ("AskStatus", [36, hashes[1]], [hashes[1]]),
        ("Forward", [37, b"an operation", NOW, bytes(64)], [b"an operation", NOW, bytes(64)]),
        ("Offer", [160, head, hashes[2], True, proof, b""], [head, hashes[2], True, hashes, b""]),
        ("BlockPage", [161, 2, b"a page"], [2, b"a page"]),
        ("PeerStatus", [162, head, b""], [head, b""]),
        ("Acknowledged", [163], []),
    ]
    wrong: dict[str, dict[str, bytes]] = {
        "request": {
            "a kind that there is not": packed(99),
            "a kind of a reply": packed(131, 7),
            "a field too many": packed(4, 1),
            "a field too few": packed(5, 1),
            "a name that is none": packed(1, "Alice"),
            "a name as bytes": packed(1, b"alice"),
            "a text for bytes": packed(3, "text"),
            "how large the last head was, in a look-up": packed(1, "alice", 5),
            "a consistency proof from below 0": packed(7, -1, 5),
            "a flag for a number": packed(6, True),
            "a number not in its shortest form": b"\x92\x06\xcc\x07",
        },
        "reply": {
            "a kind of a request": packed(4),
            "reason 0": packed(132, 0),
            "reason 27": packed(132, 27),
            "a receipt of 63 bytes": packed(136, NOW, bytes(63)),
            "a part of 16001 bytes": packed(134, bytes(16_001), True),
            "evidence cut short": packed(129, found.encode()[:-1], links),
            "links cut short": packed(129, found.encode(), links[:-1]),
            "65 links": packed(130, b"\x41" + link * 65),
            "a proof of 65 hashes": packed(137, b"\x41" + bytes(65 * 32)),
            "a proof with a byte left over": packed(137, proof + b"\0"),
        },
        "between verifiers": {
            "a kind of a request": packed(4),
            "a text for bytes": packed(34, "text"),
            "a number below 0": packed(33, -1, 0),
            "a leaf of 31 bytes": packed(32, 5, bytes(31), 4),
            "a key of 31 bytes": packed(36, bytes(31)),
            "a flag as a number": packed(160, head, hashes[2], 1, proof, b""),
            "a receipt of 63 bytes": packed(37, b"an operation", NOW, bytes(63)),
        },
    }
    made = {"request": requests, "reply": replies, "between verifiers": peers}
    return {
        kind: [
            case(f"{number}: {what}", data=packed(*plain), what=what, fields=fields)
            for number, (what, plain, fields) in enumerate(several)
        ]
        + cases("data", wrong[kind], error="malformed")
        for kind, several in made.items()
    }


FILES: dict[str, Callable[[], File]] = {
    "names-heads": heads,
    "names-rounds": rounds,
    "names-registration": registrations,
    "names-evidence": evidence,
    "names-feed": feeds,
    "names-fingerprint": fingerprints,
    "names-messages": messages,
}
