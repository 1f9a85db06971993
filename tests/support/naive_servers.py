"""Transport and message server once more, straight from the text of protocol/server.rst: each kind
of case of the vectors. Nothing of cbfs_common."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from kyber_py.ml_kem import ML_KEM_768
from nacl import bindings
from nacl.exceptions import CryptoError

from tests.support.naive_layouts import Bytes, Wrong, is_bytes, messagepack, need
from tests.support.naive_messages import Given, check_ek, decapsulate, kdf
from tests.support.vectors import Readers
from tests.vectors.make_ed25519 import is_valid

# Transport


def dh(secret: bytes, public: bytes) -> bytes:
    try:
        return bindings.crypto_scalarmult(secret, public)
    except CryptoError:
        raise Wrong("ended") from None


def public(x: bytes, kem_seed: bytes) -> bytes:
    ek: bytes = ML_KEM_768.key_derive(kem_seed)[0]
    return bindings.crypto_scalarmult_base(x) + ek


def key(server_x: bytes, server_kem_seed: bytes) -> bytes:
    return kdf(b"", "cbfs1 server id", public(server_x, server_kem_seed), 32)


def encapsulate(ek: bytes, m: bytes) -> tuple[bytes, bytes]:
    try:
        check_ek(ek)
    except Wrong:
        raise Wrong("ended") from None
    secret, ct = ML_KEM_768._encaps_internal(ek, m)
    return secret, ct


def unseal(keys: bytes, sealed: bytes) -> bytes:
    try:
        return ChaCha20Poly1305(keys[:32]).decrypt(keys[32:], sealed, None)
    except InvalidTag:
        raise Wrong("ended") from None


def seal(keys: bytes, plain: bytes) -> bytes:
    return ChaCha20Poly1305(keys[:32]).encrypt(keys[32:], plain, None)


def agreed(shared: bytes, hello: bytes, begin: bytes) -> tuple[bytes, bytes]:
    """T and K."""
    t = kdf(b"", "cbfs1 tr hash", hello + begin, 64)
    return t, kdf(shared, "cbfs1 tr secret", t, 64)


def hello(a: bytes, kem_seed: bytes) -> bytes:
    return b"\x01" + public(a, kem_seed)


def _asked(hello: bytes, b: bytes, m: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """What a server has after the hello: A, the beginning of its answer, T and K."""
    need(len(hello) == 1_217 and hello[0] == 1, "ended")
    a, ek = hello[1:33], hello[33:]
    secret, ct = encapsulate(ek, m)
    begin = bindings.crypto_scalarmult_base(b) + ct
    return a, begin, *agreed(dh(b, a) + secret, hello, begin)


def answer(server_x: bytes, server_kem_seed: bytes, hello: bytes, b: bytes, m: bytes) -> Given:
    a, begin, t, k = _asked(hello, b, m)
    box = bindings.crypto_box(t, kdf(t, "cbfs1 tr snonce", b"", 24), a, server_x)
    shown = public(server_x, server_kem_seed) + box
    return {"answer": begin + seal(kdf(k, "cbfs1 tr server", b"", 44), shown)}


def _unbox(box: bytes, nonce: bytes, theirs: bytes, secret: bytes, t: bytes) -> None:
    try:
        need(bindings.crypto_box_open(box, nonce, theirs, secret) == t, "ended")
    except CryptoError:
        raise Wrong("ended") from None


def proof(key: bytes, client: bytes, a: bytes, kem_seed: bytes, m: bytes, answer: bytes) -> Given:
    return {"proof": proved(key, client, a, kem_seed, m, answer)[0]}


def proved(
    key: bytes, client: bytes, a: bytes, kem_seed: bytes, m: bytes, answer: bytes
) -> tuple[bytes, bytes, bytes]:
    """What a client says, and the chain keys of both directions."""
    need(len(answer) == 2_432, "ended")
    fields = Bytes(answer)
    b, ct = fields.take(32), fields.take(1_088)
    t, k = agreed(dh(a, b) + decapsulate(kem_seed, ct), hello(a, kem_seed), b + ct)
    fields = Bytes(unseal(kdf(k, "cbfs1 tr server", b"", 44), fields.rest))
    s, ek = fields.take(32), fields.take(1_184)
    need(kdf(b"", "cbfs1 server id", s + ek, 32) == key, "ended")
    _unbox(fields.rest, kdf(t, "cbfs1 tr snonce", b"", 24), s, a, t)
    secret, static = encapsulate(ek, m)
    k = kdf(k, "cbfs1 tr static", secret + static, 64)
    box = bindings.crypto_box(t, kdf(t, "cbfs1 tr cnonce", b"", 24), b, client)
    c = bindings.crypto_scalarmult_base(client)
    told = static + seal(kdf(k, "cbfs1 tr client", b"", 44), c + box)
    return told, kdf(k, "cbfs1 tr up", key + c, 32), kdf(k, "cbfs1 tr down", key + c, 32)


def chains(
    server_x: bytes, server_kem_seed: bytes, hello: bytes, b: bytes, m: bytes, proof: bytes
) -> Given:
    need(len(proof) == 1_216, "ended")
    _, _, t, k = _asked(hello, b, m)
    static = proof[:1_088]
    k = kdf(k, "cbfs1 tr static", decapsulate(server_kem_seed, static) + static, 64)
    fields = Bytes(unseal(kdf(k, "cbfs1 tr client", b"", 44), proof[1_088:]))
    c = fields.take(32)
    _unbox(fields.rest, kdf(t, "cbfs1 tr cnonce", b"", 24), c, b, t)
    ends = key(server_x, server_kem_seed) + c
    up, down = (kdf(k, label, ends, 32) for label in ("cbfs1 tr up", "cbfs1 tr down"))
    return {"client": c, "up": up, "down": down}


def _frame_key(chain: bytes, number: int) -> bytes:
    for _ in range(number // 256 + 1):
        both = kdf(chain, "cbfs1 tr frames", b"", 64)
        chain = both[:32]
    return both[32:] + (number % 256).to_bytes(12, "big")


def frame(chain: bytes, number: int, id: int, payload: bytes) -> bytes:
    plain = id.to_bytes(4, "big") + len(payload).to_bytes(2, "big") + payload
    return seal(_frame_key(chain, number), plain.ljust(16_916, b"\0"))


def frame_sent(chain: bytes, number: int, id: int, payload: bytes) -> Given:
    return {"digest": blake2b(frame(chain, number, id, payload), digest_size=32).digest()}


def frame_received(chain: bytes, number: int, frame: bytes) -> Given:
    need(len(frame) == 16_932, "ended")
    fields = Bytes(unseal(_frame_key(chain, number), frame), "ended")
    id, size = fields.u(4), fields.u(2)
    need(size <= 16_910, "ended")
    payload = fields.take(size)
    need(not any(fields.rest), "ended")
    return {"got": [] if id == 0 and size == 0 else [(id, payload)]}


# Message server

REQUESTS = {
    1: ("CreateAccount", (0, 56), (0, 16), int), 2: ("DeleteAccount",),
    3: ("UploadPrekeys", "records", 1_184, bool),
    4: ("CountPrekeys",), 5: ("TakePrekey", 32), 6: ("Deliver", 32, 16_384), 7: ("List", (0, 16)),
    8: ("Fetch", 16), 9: ("Delete", "ids"), 10: ("Subscribe",), 11: ("GetLimits",),
    12: ("SwapMark", (0, 56), 56), 13: ("GetTerms",),
    14: ("MakeBlob", 32, "blob", "days"), 15: ("PutChunk", 32, "index", 16_400),
    16: ("StatBlob", 32), 17: ("GetChunk", 32, "index"), 18: ("RemoveBlob", 32),
    19: ("AskInvite", 56, "number"),
    20: ("TellVersion", "version"),
}  # fmt: skip
REPLIES = {
    64: ("Done",), 65: ("ErrorReply", "code"), 66: ("PrekeyCount", int, int),
    67: ("PrekeyRecord", "record", 1_184), 68: ("EnvelopeIds", "ids", bool), 69: ("Stored", 16_384),
    70: ("ServerLimits", int, int, int), 71: ("LastMark", (0, 56)),
    72: ("NewcomerTerms", bool, 16, "bits"), 73: ("BlobState", "put", "kept"),
    74: ("BlobChunk", 16_400), 75: ("Granted", 56, 56, 56, (0, 154)),
    76: ("ServerVersion", "version"),
}  # fmt: skip
PUSHES = {128: ("Arrived", 16, 16_384)}
"""By kind: name, and of each field its size in bytes, or what else it is."""
BLOBS = {64, 128, 256, 512, 1_024, 2_048, *range(4_096, 262_145, 4_096)}
RANGES = {
    "version": (1, 255), "days": (1, 65_535),
    "kept": (0, 65_535), "index": (0, 262_656), "put": (0, 262_657),
    "number": (0, 1_023),
}  # fmt: skip


def _reader(kinds: dict[int, tuple[Any, ...]]) -> Callable[[bytes], Given]:
    def read(data: bytes) -> Given:
        value = messagepack(data)
        need(isinstance(value, list) and value != [] and type(value[0]) is int)
        need(value[0] in kinds)
        what, *types = kinds[value[0]]
        need(len(value) == 1 + len(types))
        for field, type_ in zip(value[1:], types, strict=True):
            _check(field, type_)
        return {"what": what, "fields": value[1:]}

    return read


def _check(field: Any, type_: Any) -> None:
    if type_ is bool:
        need(type(field) is bool)
    elif type_ is int:
        need(type(field) is int and 0 <= field < 2**64)
    elif type_ == "code":
        need(type(field) is int and 1 <= field <= 21)
    elif type_ == "blob":
        need(type(field) is int and field in BLOBS)
    elif type_ in RANGES:
        low, high = RANGES[type_]
        need(type(field) is int and low <= field <= high)
    elif type_ == "bits":
        need(type(field) is int and 0 <= field <= 64)
    elif type_ == "ids":
        need(isinstance(field, list) and len(field) <= 900)
        need(all(is_bytes(each, 16) for each in field))
    elif type_ == "record":
        need(is_bytes(field, 1_305))
    elif type_ == "records":
        need(isinstance(field, list) and 1 <= len(field) <= 12)
        need(all(is_bytes(each, 1_305) and each[16] in {1, 2} for each in field))
        need(len({each[:16] for each in field}) == len(field))
        need(sum(each[16] == 2 for each in field) <= 1)
    else:
        need(
            any(is_bytes(field, size) for size in (type_ if isinstance(type_, tuple) else (type_,)))
        )


def signature(public: bytes, message: bytes, signature: bytes) -> Given:
    need(len(signature) == 64 and is_valid(public, message, signature), "refused")
    return {}


def envelope_id(envelope: bytes) -> Given:
    return {"id": blake2b(envelope, digest_size=16, person=b"cbfs1 envelope").digest()}


def newcomers_work(challenge: bytes, user: bytes, number: int) -> Given:
    data = number.to_bytes(8, "big") + challenge + user
    digest = blake2b(data.ljust(4_096, b"\0"), digest_size=32, person=b"cbfs1 work").digest()
    bits = "".join(f"{byte:08b}" for byte in digest)
    return {"bits": len(bits) - len(bits.lstrip("0"))}


def server_invite(text: str) -> Given:
    need(text.startswith("cbfs-server-invite:"))
    body = text.removeprefix("cbfs-server-invite:").lower()
    need(len(body) == 141 and set(body) <= set("abcdefghijklmnopqrstuvwxyz234567"))
    bits = "".join(f"{'abcdefghijklmnopqrstuvwxyz234567'.index(each):05b}" for each in body)
    need(bits[704:] == "0")
    data = int(bits[:704], 2).to_bytes(88, "big")
    return {"server": data[:32], "invite": data[32:]}


READERS: Readers = {
    ("ed25519", "signature"): signature,
    ("transport", "server key"): lambda **given: {"key": key(**given)},
    ("transport", "hello"): lambda **given: {"hello": hello(**given)},
    ("transport", "answer"): answer,
    ("transport", "proof"): proof,
    ("transport", "chains"): chains,
    ("transport", "frame sent"): frame_sent,
    ("transport", "frame received"): frame_received,
    ("server", "request"): _reader(REQUESTS),
    ("server", "reply"): _reader(REPLIES),
    ("server", "push"): _reader(PUSHES),
    ("server", "envelope id"): envelope_id,
    ("server", "work"): newcomers_work,
    ("server", "invite"): server_invite,
}
