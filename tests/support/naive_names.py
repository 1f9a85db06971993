"""Entries, operations and trees of the name directory once more, straight from the text of
protocol/names.rst: each kind of case of their vectors. Nothing of cbfs_common."""

from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import Any

from tests.support.naive_layouts import Bytes, need
from tests.support.naive_messages import Given, check_name
from tests.support.vectors import Readers
from tests.vectors.make_ed25519 import is_valid

Keys = tuple[int, list[bytes]]
VISIBLE = set(map(chr, range(0x21, 0x7F)))


def labelled(label: str, *parts: bytes) -> bytes:
    return sha256(label.encode() + b"\n" + b"".join(parts)).digest()


def short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def verify(key: bytes, message: bytes, signature: bytes) -> None:
    need(is_valid(key, message, signature), "refused")


def person(directory: bytes, name: str) -> bytes:
    return directory + short(name.encode())


# Entries and operations


def read_keys(fields: Bytes, *, some: bool = False) -> Keys:
    threshold, count = fields.u(1), fields.u(1)
    need(count <= 5)
    keys = [fields.take(32) for _ in range(count)]
    need(keys == sorted(set(keys)))
    need(1 <= threshold <= count if count else threshold == 0 and not some)
    return threshold, keys


def read_name(fields: Bytes) -> str:
    data = fields.short()
    need(data.isascii())
    check_name(data.decode())
    return data.decode()


def read_agent(fields: Bytes) -> bytes:
    agent = fields.short()
    need(len(agent) in {0, 32})
    return agent


def entry(entry: bytes) -> Given:
    fields = Bytes(entry)
    need(fields.u(1) == 1)
    told: Given = {"person": read_name(fields), "incarnation": fields.u(4), "version": fields.u(4)}
    told |= {"status": fields.u(1), "expires": fields.u(8), "round": fields.u(8)}
    told |= {"previous": fields.take(32), "owners": read_keys(fields, some=True)}
    told |= {"recovery": read_keys(fields), "heirs": read_keys(fields), "due": fields.u(8)}
    told |= {"agent": read_agent(fields), "profile": fields.long()}
    fields.end()
    need(told["status"] in {1, 2, 3, 4} and told["incarnation"] > 0 and told["version"] > 0)
    need(bool(told["heirs"][1]) == bool(told["due"]) and len(told["profile"]) <= 1_024)
    return told | {"hash": sha256(b"\x04" + entry).digest()}


def index(directory: bytes, person_: str) -> bytes:
    return labelled("cbfs1 names index", person(directory, person_))


KINDS = ("COMMIT", "REGISTER", "UPDATE", "ROTATE", "RENEW", "RELEASE", "FREEZE", "RECOVER",
         "CANCEL", "CONFIGURE")  # fmt: skip


def operation(operation: bytes) -> Given:
    fields = Bytes(operation)
    need(fields.u(1) == 1)
    number = fields.u(1)
    need(1 <= number <= len(KINDS))
    kind = KINDS[number - 1]
    nameless = kind in {"COMMIT", "CONFIGURE"}
    told: Given = {"what": kind, "directory": fields.take(16)}
    told["person"] = "" if nameless else read_name(fields)
    if nameless:
        need(fields.short() == b"")
    told |= {"incarnation": fields.u(4), "version": fields.u(4), "previous": fields.take(32)}
    told["expires"] = fields.u(8)
    need((told["incarnation"] == 0) == nameless)
    need((told["version"] == 0) == (nameless or kind == "FREEZE"))
    need(kind not in {"COMMIT", "FREEZE"} or not any(told["previous"]))
    told |= _rest(fields, kind)
    body = operation[: len(operation) - len(fields.rest)]
    least, most = {"COMMIT": (0, 1), "CONFIGURE": (1, 32)}.get(kind, (1, 10))
    count = fields.u(1)
    need(least <= count <= most)
    signed = [(fields.take(32), fields.take(64)) for _ in range(count)]
    fields.end()
    signers = [key for key, _ in signed]
    need(signers == sorted(set(signers)))
    message = b"cbfs1 names operation\n" + body
    genuine = all(is_valid(key, message, signature) for key, signature in signed)
    return told | {"body": body, "signers": signers, "genuine": genuine}


def _rest(fields: Bytes, kind: str) -> Given:
    told: Given = {"secret": b"", "owners": (0, []), "recovery": (0, []), "agent": b""}
    told |= {"profile": b"", "until": 0, "work": 0, "invite": b"", "terms": ""}
    if kind == "COMMIT":
        told |= {"secret": fields.take(32), "work": fields.u(8), "invite": fields.long()}
        need(len(told["invite"]) <= 256)
    if kind == "REGISTER":
        told["secret"] = fields.take(32)
    if kind in {"REGISTER", "ROTATE"}:
        told |= {"owners": read_keys(fields, some=True), "recovery": read_keys(fields)}
        told["agent"] = read_agent(fields)
    if kind in {"REGISTER", "ROTATE", "UPDATE"}:
        told["profile"] = fields.long()
        need(len(told["profile"]) <= 1_024)
    if kind == "RENEW":
        told["until"] = fields.u(8)
    if kind == "RECOVER":
        told["owners"] = read_keys(fields, some=True)
    if kind == "CONFIGURE":
        text = fields.long()
        need(len(text) <= 8_192 and text.isascii())
        told["terms"] = text.decode()
    return told


def salt(seed: bytes, directory: bytes, person_: str) -> bytes:
    data = person(directory, person_)
    return blake2b(data, digest_size=32, key=seed, person=b"cbfs1 names salt").digest()


def encoded_keys(keys: Any) -> bytes:
    return bytes([keys[0], len(keys[1])]) + b"".join(keys[1])


def commitment(directory: bytes, person_: str, owners: Any, salt: bytes) -> bytes:
    parts = person(directory, person_), encoded_keys(owners), salt
    return labelled("cbfs1 names commit", *parts)


# Trees


def bits(index: bytes) -> str:
    return f"{int.from_bytes(index, 'big'):0256b}"


def map_proof(proof: bytes) -> Given:
    fields = Bytes(proof)
    depth = fields.u(2)
    need(1 <= depth <= 256)
    size = -(-depth // 8)
    bitmap = f"{fields.u(size):0{8 * size}b}"
    need("1" not in bitmap[depth:])
    need(depth == 1 or bitmap[depth - 1] == "1")
    siblings = []
    for bit in bitmap[:depth]:
        siblings.append(fields.take(32) if bit == "1" else bytes(32))
        need((bit == "1") == any(siblings[-1]))
    terminal = fields.u(1)
    need(terminal <= 2)
    other = (fields.take(32), fields.take(32)) if terminal == 2 else None
    fields.end()
    return {"siblings": siblings, "terminal": terminal, "other": other}


def prove_map(root: bytes, index: bytes, value: bytes | None, proof: bytes) -> None:
    told = map_proof(proof)
    here, depth = bits(index), len(told["siblings"])
    need((told["terminal"] == 1) == (value is not None), "unproven")
    found = bytes(32)
    if value is not None:
        found = sha256(b"\x02" + index + value).digest()
    elif told["terminal"] == 2:
        need(
            told["other"][0] != index and bits(told["other"][0])[:depth] == here[:depth], "unproven"
        )
        found = sha256(b"\x02" + b"".join(told["other"])).digest()
    for bit, sibling in zip(reversed(here[:depth]), reversed(told["siblings"]), strict=True):
        pair = sibling + found if bit == "1" else found + sibling
        found = sha256(b"\x03" + pair).digest()
    need(found == root, "unproven")


def map_root(leaves: Sequence[Sequence[bytes]], path: str = "") -> bytes:
    here = [each for each in leaves if bits(each[0]).startswith(path)]
    if path and len(here) <= 1:
        return sha256(b"\x02" + b"".join(here[0])).digest() if here else bytes(32)
    return sha256(b"\x03" + map_root(here, path + "0") + map_root(here, path + "1")).digest()


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def log_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, 2.1.1."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else sha256(b"").digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return node(log_root(leaves[:k]), log_root(leaves[k:]))


def path_root(at: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof gives, by the definition of 2.1.3.1, backwards."""
    if size == 1:
        need(not proof, "unproven")
        return leaf
    need(len(proof) > 0, "unproven")
    k = 1 << (size - 1).bit_length() - 1
    if at < k:
        return node(path_root(at, k, leaf, proof[:-1]), proof[-1])
    return node(proof[-1], path_root(at - k, size - k, leaf, proof[:-1]))


def prove_last(number: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    need(0 <= number < size and len(proof) <= 64, "unproven")
    need(path_root(number, size, leaf, proof) == root, "unproven")


def prove_extends(
    old_size: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]
) -> None:
    """By the definition of 2.1.4.1, backwards."""
    need(0 < old_size <= size, "unproven")
    rest = list(proof)

    def roots(m: int, n: int, whole: bool) -> tuple[bytes, bytes]:
        if m == n:
            if whole:
                return old_root, old_root
            need(bool(rest), "unproven")
            known = rest.pop(0)
            return known, known
        k = 1 << (n - 1).bit_length() - 1
        if m <= k:
            old, new = roots(m, k, whole)
            need(bool(rest), "unproven")
            return old, node(new, rest.pop(0))
        old, new = roots(m - k, n - k, False)
        need(bool(rest), "unproven")
        left = rest.pop(0)
        return node(left, old), node(left, new)

    need(roots(old_size, size, True) == (old_root, root) and not rest, "unproven")


def position(leaves: Sequence[bytes]) -> bytes:
    hashes, at = [], 0
    for bit in reversed(range(64)):
        if len(leaves) >> bit & 1:
            hashes.append(log_root(leaves[at : at + (1 << bit)]))
            at += 1 << bit
    return len(leaves).to_bytes(8, "big") + b"".join(hashes)


# Readers


def _prove_map(root: bytes, index: bytes, value: bytes | None, proof: bytes) -> Given:
    prove_map(root, index, value, proof)
    return {}


def _prove_last(**given: Any) -> Given:
    prove_last(**given)
    return {}


def _prove_extends(**given: Any) -> Given:
    prove_extends(**given)
    return {}


READERS: Readers = {
    ("names-entries", "entry"): entry,
    ("names-entries", "index"): lambda directory, person: {"index": index(directory, person)},
    ("names-operations", "operation"): operation,
    ("names-operations", "salt"): lambda seed, directory, person: {
        "salt": salt(seed, directory, person)
    },
    ("names-operations", "commitment"): lambda directory, person, owners, salt: {
        "commitment": commitment(directory, person, owners, salt)
    },
    ("names-trees", "map root"): lambda leaves: {"root": map_root(leaves)},
    ("names-trees", "map proof"): _prove_map,
    ("names-trees", "log root"): lambda leaves: {"root": log_root(leaves)},
    ("names-trees", "log inclusion"): _prove_last,
    ("names-trees", "log consistency"): _prove_extends,
    ("names-trees", "position"): lambda leaves: {"position": position(leaves)},
}
