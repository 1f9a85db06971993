"""Heads, rounds, the change feed and messages of the name directory once more, straight from the
text of protocol/names.rst and protocol/directory.rst: see naive_names. Nothing of cbfs_common."""

import base64
import re
from collections.abc import Callable, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from tests.support.naive_layouts import Bytes, Wrong, is_bytes, is_number, messagepack, need
from tests.support.naive_messages import Given, check_name
from tests.support.naive_names import (
    VISIBLE,
    bits,
    labelled,
    log_root,
    long,
    node,
    operation,
    prove_extends,
    verify,
)
from tests.support.vectors import Readers

WORDS = Path(__file__).parents[2] / "cbfs" / "contacts" / "words.txt"
"""The list of BIP 39: its hash stands in the text."""


# Heads


def unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Wrong("malformed") from None
    need(base64.b64encode(data).decode() == text)
    return data


def key_id(name: str, kind: int, key: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([kind]) + key).digest()[:4]


def vkey(text: str, kind: int) -> tuple[str, bytes]:
    """Name and key."""
    parts = text.split("+", 2)
    need(len(parts) == 3)
    name, id, encoded = parts
    need(1 <= len(name) <= 64 and set(name) <= VISIBLE)
    data = unbase64(encoded)
    need(len(data) == 33 and data[0] == kind and id == key_id(name, kind, data[1:]).hex())
    return name, data[1:]


def checkpoint(text: str) -> Given:
    lines = text.split("\n")
    need(len(lines) == 4 and lines[3] == "")
    need(1 <= len(lines[0]) <= 64 and set(lines[0]) <= VISIBLE - {"+"})
    need(re.fullmatch("0|[1-9][0-9]{0,18}", lines[1]) is not None)
    root = unbase64(lines[2])
    need(len(root) == 32)
    return {"origin": lines[0], "size": int(lines[1]), "root": root}


def note(note: bytes) -> Given:
    need(len(note) <= 6_144)
    text, blank, tail = note.rpartition(b"\n\n")
    need(bool(blank) and text.isascii() and tail.endswith(b"\n"))
    try:
        lines = tail.decode()[:-1].split("\n")
    except UnicodeDecodeError:
        raise Wrong("malformed") from None
    need(1 <= len(lines) <= 33)
    found = []
    for line in lines:
        words = line.split(" ")
        need(len(words) == 3 and words[0] == "\u2014")
        need(1 <= len(words[1]) <= 64 and set(words[1]) <= VISIBLE - {"+"})
        data = unbase64(words[2])
        need(len(data) > 4)
        found.append((words[1], data[:4], data[4:]))
    need(len({line[:2] for line in found}) == len(found))
    return {"text": text.decode() + "\n", "lines": found}


def cosigned(time: int, text: str) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def line(name: str, kind: int, key: bytes, signature: bytes) -> str:
    data = base64.b64encode(key_id(name, kind, key) + signature).decode()
    return f"\u2014 {name} {data}\n"


# Rounds


def round_(round: bytes) -> Given:
    fields = Bytes(round)
    need(fields.take(18) == b"cbfs1 names round\n")
    namespace = fields.short()
    need(1 <= len(namespace) <= 64 and set(namespace.decode("latin-1")) <= VISIBLE)
    told: Given = {"namespace": namespace.decode(), "number": fields.u(8), "time": fields.u(8)}
    for name in ("map_root", "operations_hash", "changes_hash", "config_hash"):
        told[name] = fields.take(32)
    fields.end()
    return told | {"hash": sha256(b"\x00" + round).digest()}


def operations_hash(operations: Sequence[bytes]) -> bytes:
    count = len(operations).to_bytes(4, "big")
    return labelled("cbfs1 names operations", count, *map(long, operations))


def changes_hash(changes: Sequence[bytes]) -> bytes:
    return labelled("cbfs1 names changes", len(changes).to_bytes(4, "big"), *changes)


def block(block: bytes, leaves: list[bytes]) -> Given:
    fields = Bytes(block)
    leaf = fields.short()
    told = round_(leaf)
    signature, count = fields.take(64), fields.u(4)
    need(count <= 1_024)
    operations = [fields.long() for _ in range(count)]
    fields.end()
    root = base64.b64encode(log_root([*leaves, told["hash"]])).decode()
    signed = f"cbfs1 names proposal\n{told['namespace']}\n{told['number'] + 1}\n{root}\n".encode()
    return {"round": leaf, "signature": signature, "operations": operations, "signed": signed}


def refusal(refusal: bytes, key: bytes) -> Given:
    fields = Bytes(refusal)
    need(fields.take(20) == b"cbfs1 names refusal\n")
    namespace = fields.short()
    need(1 <= len(namespace) <= 64 and set(namespace.decode("latin-1")) <= VISIBLE)
    told: Given = {"namespace": namespace.decode(), "number": fields.u(8), "hash": fields.take(32)}
    told["reason"] = fields.u(1)
    need(1 <= told["reason"] <= 9)
    signature = fields.take(64)
    fields.end()
    verify(key, refusal[:-64], signature)
    return told


def evidence(evidence: bytes) -> Given:
    fields = Bytes(evidence)
    need(fields.take(25) == b"cbfs1 names equivocation\n")
    text = fields.short()
    need(text.isascii())
    try:
        name, key = vkey(text.decode(), 4)
        kind = 4
    except Wrong:
        name, key = vkey(text.decode(), 1)
        kind = 1
    notes = [note(fields.long()), note(fields.long())]
    root, count = fields.take(32), fields.u(1)
    need(count <= 64)
    proof = [fields.take(32) for _ in range(count)]
    fields.end()
    try:
        one, other = (signed_by(name, kind, key, each) for each in notes)
        need(one["origin"] == other["origin"] and root != one["root"], "unproven")
        need(0 < one["size"] <= other["size"], "unproven")
        if one["size"] == other["size"]:
            need(not proof and root == other["root"], "unproven")
        else:
            prove_extends(one["size"], other["size"], root, other["root"], proof)
    except Wrong:
        return {"proven": False}
    return {"proven": True}


def signed_by(name: str, kind: int, key: bytes, found: Given) -> Given:
    """The checkpoint of a note that this key must have signed."""
    id = key_id(name, kind, key)
    (signature,) = [each[2] for each in found["lines"] if each[:2] == (name, id)] or [b""]
    message = found["text"].encode()
    if kind == 4:
        need(len(signature) == 72, "refused")
        message = cosigned(int.from_bytes(signature[:8], "big"), found["text"])
        signature = signature[8:]
    verify(key, message, signature)
    return checkpoint(found["text"])


# Invites, receipts, comparing


def invite(invite: bytes, registrar: bytes) -> Given:
    fields = Bytes(invite)
    need(len(invite) <= 256 and fields.u(1) == 1)
    told: Given = {"directory": fields.take(16), "key": fields.take(32), "expires": fields.u(8)}
    name = fields.short()
    need(name.isascii())
    if name:
        check_name(name.decode())
    told["person"] = name.decode()
    signature = fields.take(64)
    fields.end()
    verify(registrar, b"cbfs1 names invite\n" + invite[:-64], signature)
    return told


def work(commit: bytes, bits: int) -> bool:
    body = operation(commit)["body"]
    digest = labelled("cbfs1 names work", body)
    return int.from_bytes(digest, "big") < 1 << 256 - bits


def token(text: str) -> Given:
    need(text.startswith("cbfs-invite:"))
    body = text.removeprefix("cbfs-invite:")
    need(set(body) <= set("abcdefghijklmnopqrstuvwxyz234567"))
    data = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    return {"seed": data[:32], "invite": data[32:]}


def receipt(directory: bytes, operation: bytes, time: int) -> bytes:
    hashed = sha256(operation).digest()
    return b"cbfs1 names receipt\n" + directory + hashed + time.to_bytes(8, "big")


def compared(one: bytes, other: bytes) -> Given:
    listed = WORDS.read_text().split()
    words: list[str] = []
    digits: list[str] = []
    halves = [blake2b(i, digest_size=32, person=b"cbfs1 compare").digest() for i in (one, other)]
    for half in sorted(halves):
        text = bits(half)
        words += [listed[int(text[at : at + 11], 2)] for at in range(0, 99, 11)]
        digits += [f"{int(text[at : at + 40], 2) % 100_000:05d}" for at in range(0, 240, 40)]
    return {"words": words, "digits": digits}


# The change feed, and what a client keeps


def tile(tile: int, data: bytes) -> Given:
    fields, rounds = Bytes(data), list[Any]()
    while fields.rest:
        leaf = fields.short()
        told, count = round_(leaf), fields.u(2)
        need(count <= 1_024 and len(rounds) < 64)
        changes = [fields.take(8) for _ in range(count)]
        need(told["number"] == 64 * tile + len(rounds) and changes == sorted(set(changes)))
        need(changes_hash(changes) == told["changes_hash"])
        rounds.append([told["number"], told["hash"], changes])
    return {"rounds": rounds}


def read_position(fields: Bytes) -> bytes:
    size = fields.u(8)
    return size.to_bytes(8, "big") + fields.take(32 * size.bit_count())


def position_root(position: bytes) -> bytes:
    hashes = [position[at : at + 32] for at in range(8, len(position), 32)]
    if not hashes:
        return log_root([])
    root = hashes.pop()
    while hashes:
        root = node(hashes.pop(), root)
    return root


def position_added(position: bytes, leaf: bytes) -> bytes:
    size = int.from_bytes(position[:8], "big")
    hashes = [position[at : at + 32] for at in range(8, len(position), 32)]
    merged = size
    while merged & 1:
        leaf, merged = node(hashes.pop(), leaf), merged >> 1
    return (size + 1).to_bytes(8, "big") + b"".join(hashes) + leaf


def size_of(position: bytes) -> int:
    return int.from_bytes(position[:8], "big")


def state(state: bytes) -> Given:
    fields = Bytes(state)
    need(fields.u(1) == 3)
    told: Given = {"directory": fields.take(16), "head": read_position(fields)}
    told |= {"time": fields.u(8), "feed": read_position(fields)}
    count = fields.u(1)
    need(count <= 32)
    told["seen"] = [read_position(fields) for _ in range(count)]
    fields.end()
    sizes = [size_of(each) for each in (told["head"], *told["seen"])]
    need(sizes == sorted(set(sizes)) and size_of(told["feed"]) <= sizes[0])
    return told


# Messages


NUMBER, BYTES = object(), 2**32
REQUESTS: dict[int, tuple[Any, ...]] = {
    1: ("Lookup", "name"), 2: ("AskHistory", "name", NUMBER, NUMBER), 3: ("Submit", BYTES),
    4: ("AskHead",), 5: ("AskChanges", NUMBER, NUMBER), 6: ("AskTerms", NUMBER),
    7: ("AskConsistency", NUMBER, NUMBER),
}  # fmt: skip
REPLIES: dict[int, tuple[Any, ...]] = {
    129: ("LookedUp", "evidence", "links"), 130: ("Steps", "links"), 131: ("Submitted", NUMBER),
    132: ("RefusedReply", "reason"), 133: ("HeadIs", 6_144, 227, "proof"),
    134: ("ChangesAre", 16_000, bool), 135: ("TermsAre", "terms", "bits"),
    136: ("Receipted", NUMBER, (64,)), 137: ("ConsistencyIs", "proof"),
}  # fmt: skip
PEERS: dict[int, tuple[Any, ...]] = {
    32: ("Await", NUMBER, (0, 32), NUMBER), 33: ("GetBlock", NUMBER, NUMBER), 34: ("Vote", BYTES),
    35: ("Reject", BYTES), 36: ("AskStatus", (0, 32)), 37: ("Forward", BYTES, NUMBER, (64,)),
    160: ("Offer", BYTES, (0, 32), bool, "proof", BYTES), 161: ("BlockPage", NUMBER, BYTES),
    162: ("PeerStatus", BYTES, BYTES), 163: ("Acknowledged",),
}  # fmt: skip
"""By kind: name, and of each field how many bytes it has at most, or exactly, or what it is."""


def reader(kinds: dict[int, tuple[Any, ...]]) -> Callable[[bytes], Given]:
    def read(data: bytes) -> Given:
        value = messagepack(data)
        need(isinstance(value, list) and value != [] and type(value[0]) is int)
        need(value[0] in kinds)
        what, *types = kinds[value[0]]
        need(len(value) == 1 + len(types))
        told: list[Any] = []
        for given, type_ in zip(value[1:], types, strict=True):
            told += _field(given, type_)
        return {"what": what, "fields": told}

    return read


def _field(value: Any, type_: Any) -> list[Any]:
    if type_ is NUMBER:
        need(is_number(value, 2**64 - 1))
    elif type_ is bool:
        need(type(value) is bool)
    elif type_ == "name":
        check_name(value)
    elif type_ == "reason":
        need(is_number(value, 26) and value > 0)
    elif type_ == "bits":
        need(is_number(value, 40))
    elif type_ == "terms":
        need(isinstance(value, str) and len(value) <= 8_192)
    elif isinstance(type_, tuple):
        need(any(is_bytes(value, size) for size in type_))
    elif isinstance(type_, int):
        need(isinstance(value, bytes) and len(value) <= type_)
    else:
        need(isinstance(value, bytes))
        fields = Bytes(value)
        read = {"evidence": read_evidence, "links": read_links, "proof": read_proof}[type_]
        told = read(fields)
        fields.end()
        return [told]
    return [value]


def read_proof(fields: Bytes) -> list[bytes]:
    count = fields.u(1)
    need(count <= 64)
    return [fields.take(32) for _ in range(count)]


def read_evidence(fields: Bytes) -> list[Any]:
    """Head, round, proof, map proof, entry."""
    head, leaf, proof = fields.long(), fields.short(), read_proof(fields)
    map_proof, entry = fields.long(), fields.long()
    need(len(head) <= 6_144)
    return [head, leaf, proof, map_proof, entry]


def read_links(fields: Bytes) -> list[bytes]:
    count = fields.u(1)
    need(count <= 64)
    return [fields.take(16) + long(fields.long()) for _ in range(count)]


# Readers


def _cosigned(seed: bytes, person: str, time: int, text: str) -> Given:
    key, signature = sign(seed, cosigned(time, text))
    return {"line": line(person, 4, key, time.to_bytes(8, "big") + signature)}


def _log_line(seed: bytes, person: str, text: str) -> Given:
    key, signature = sign(seed, text.encode())
    return {"line": line(person, 1, key, signature)}


def sign(seed: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Public key and signature."""
    key = SigningKey(seed)
    return bytes(key.verify_key), key.sign(message).signature


def _vkey(person: str, key_type: int, key: bytes) -> Given:
    encoded = base64.b64encode(bytes([key_type]) + key).decode()
    return {"vkey": f"{person}+{key_id(person, key_type, key).hex()}+{encoded}"}


READERS: Readers = {
    ("names-heads", "checkpoint"): checkpoint,
    ("names-heads", "vkey"): _vkey,
    ("names-heads", "log line"): _log_line,
    ("names-heads", "cosignature line"): _cosigned,
    ("names-heads", "note"): note,
    ("names-rounds", "operations hash"): lambda operations: {"hash": operations_hash(operations)},
    ("names-rounds", "changes hash"): lambda changes: {"hash": changes_hash(changes)},
    ("names-rounds", "round"): round_,
    ("names-rounds", "block"): block,
    ("names-rounds", "refusal"): refusal,
    ("names-evidence", "evidence"): evidence,
    ("names-registration", "invite"): invite,
    ("names-registration", "token"): token,
    ("names-registration", "proof of work"): lambda **given: {"proven": work(**given)},
    ("names-registration", "receipt"): lambda seed, **given: {
        "signature": sign(seed, receipt(**given))[1]
    },
    ("names-fingerprint", "compared"): compared,
    ("names-feed", "tile"): tile,
    ("names-feed", "state"): state,
    ("names-messages", "request"): reader(REQUESTS),
    ("names-messages", "reply"): reader(REPLIES),
    ("names-messages", "between verifiers"): reader(PEERS),
}
