"""Marks once more, straight from the text of protocol/client.rst, Copies, and protocol/server.rst,
Promises: each kind of case of the vectors. Nothing of cbfs_common."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.support.naive_layouts import Bytes, Wrong, need
from tests.support.naive_messages import Given, kdf
from tests.support.vectors import Readers

CLAIM = 2**32


def _keys(transport: bytes, salt: bytes) -> bytes:
    mk = kdf(transport, "cbfs1 mark key", b"", 32)
    return kdf(mk, "cbfs1 mark", salt, 44)


def made(transport: bytes, salt: bytes, counter: int, instance: bytes) -> Given:
    keys = _keys(transport, salt)
    plain = counter.to_bytes(8, "big") + instance
    return {"mark": salt + ChaCha20Poly1305(keys[:32]).encrypt(keys[32:], plain, None)}


def read(transport: bytes, mark: bytes) -> Given:
    need(len(mark) == 56, "refused")
    keys = _keys(transport, mark[:24])
    try:
        fields = Bytes(ChaCha20Poly1305(keys[:32]).decrypt(keys[32:], mark[24:], None))
    except InvalidTag:
        raise Wrong("refused") from None
    counter = fields.u(8)
    need(counter <= 2**63, "refused")
    return {"counter": counter, "instance": fields.take(8)}


def swap(there: bytes, seen: bytes, new: bytes) -> Given:
    return {"told": there, "after": new if seen == there else there}


def found(transport: bytes, put: bytes, state: str, since: int | None, found: bytes) -> Given:
    own = read(transport, put)
    nothing = {"does": "nothing", "counter": own["counter"]}
    try:
        other = read(transport, found)
    except Wrong:
        return nothing
    if other["counter"] < own["counter"] or found == put:
        return nothing
    on, claim = other["counter"] + 1, other["counter"] // CLAIM
    next_claim = (claim + 1) * CLAIM + 1
    if state == "claimed":
        return {"does": "goes on", "counter": next_claim}
    if state == "restored":
        return {"does": "goes on", "counter": on}
    two = since is not None and since < 86_400 and other["instance"] != own["instance"]
    if two or claim > own["counter"] // CLAIM:
        return {"does": "stops", "counter": next_claim}
    return {"does": "begins anew", "counter": on}


READERS: Readers = {
    ("marks", "made"): made,
    ("marks", "mark"): read,
    ("marks", "swap"): swap,
    ("marks", "found"): found,
}
