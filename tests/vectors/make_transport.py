"""What transport.json holds, from the text of Transport in the specification; see
tests.vectors.make.

Straight-line code over the primitives of the libraries; it shares nothing with
cbfs_common/wire/transport.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from kyber_py.ml_kem import ML_KEM_768
from nacl import bindings

from tests.support.protocol_naive import LOW_ORDER, encapsulate, fixed
from tests.vectors.cases import Case, File, case, changed

FRAME_SIZE = 16_932
PLAIN_SIZE = FRAME_SIZE - 16
PAYLOAD_MAX = PLAIN_SIZE - 6


def derive(key: bytes, label: bytes, data: bytes, size: int) -> bytes:
    return blake2b(data, digest_size=size, key=key, person=label).digest()


def seal(key: bytes, plain: bytes) -> bytes:
    """Under key 32 | nonce 12."""
    return ChaCha20Poly1305(key[:32]).encrypt(key[32:], plain, None)


def frame(
    chain: bytes,
    number: int,
    id: int,
    payload: bytes,
    *,
    length: int | None = None,
    last: bytes = b"\0",
) -> bytes:
    """The frame of that number (0, 1, ...) in its direction; keywords make it one that is none."""
    for _ in range(number // 256 + 1):
        keys = derive(chain, b"cbfs1 tr frames", b"", 64)
        chain, key = keys[:32], keys[32:]
    size = len(payload) if length is None else length
    plain = id.to_bytes(4, "big") + size.to_bytes(2, "big") + payload
    if len(plain) < PLAIN_SIZE:
        plain += bytes(PLAIN_SIZE - len(plain) - 1) + last
    return seal(key + (number % 256).to_bytes(12, "big"), plain)


def digest(data: bytes) -> str:
    """Frames are long: their hash stands for them."""
    return derive(b"", b"", data, 32).hex()


@dataclass
class Shaken:
    """A handshake as somebody sees it who knows all secrets. The keywords make a side do what an
    honest one does not."""

    server: bytes = fixed("server", 32)
    server_seed: bytes = fixed("server kem seed", 64)
    client: bytes = fixed("client", 32)
    a: bytes = fixed("a", 32)
    b: bytes = fixed("b", 32)
    seed: bytes = fixed("kem seed", 64)
    m: bytes = fixed("m", 32)
    m_static: bytes = fixed("m static", 32)
    version: int = 1
    shown_s: bytes | None = None
    shown_ek: bytes | None = None
    shown_c: bytes | None = None
    static_mixed: bool = True
    boxed: bytes | None = None
    reuse: bool = False

    def __post_init__(self) -> None:
        point = bindings.crypto_scalarmult_base
        ek, _ = ML_KEM_768.key_derive(self.seed)
        ek_static, _ = ML_KEM_768.key_derive(self.server_seed)
        shown_s = point(self.server) if self.shown_s is None else self.shown_s
        shown_ek = ek_static if self.shown_ek is None else self.shown_ek
        self.key = derive(b"", b"cbfs1 server id", point(self.server) + ek_static, 32)
        self.hello = bytes([self.version]) + point(self.a) + ek
        self.kem, self.ct = encapsulate(ek, self.m)
        t = derive(b"", b"cbfs1 tr hash", self.hello + point(self.b) + self.ct, 64)
        shared = bindings.crypto_scalarmult(self.b, point(self.a)) + self.kem
        k = derive(shared, b"cbfs1 tr secret", t, 64)
        boxed = t if self.boxed is None else self.boxed
        box = bindings.crypto_box(
            boxed, derive(t, b"cbfs1 tr snonce", b"", 24), point(self.a), self.server
        )
        sealed = seal(derive(k, b"cbfs1 tr server", b"", 44), shown_s + shown_ek + box)
        self.answer = point(self.b) + self.ct + sealed
        self.kem_static, self.ct_static = encapsulate(ek_static, self.m_static)
        k2 = derive(k, b"cbfs1 tr static", self.kem_static + self.ct_static, 64)
        if not self.static_mixed:
            k2 = k
        shown_c = point(self.client) if self.shown_c is None else self.shown_c
        label = b"cbfs1 tr snonce" if self.reuse else b"cbfs1 tr cnonce"
        box = bindings.crypto_box(boxed, derive(t, label, b"", 24), point(self.b), self.client)
        self.proof = self.ct_static + seal(derive(k2, b"cbfs1 tr client", b"", 44), shown_c + box)
        ends = self.key + point(self.client)
        self.up, self.down = (
            derive(k2, label, ends, 32) for label in (b"cbfs1 tr up", b"cbfs1 tr down")
        )


HIGH = 4095
"""A number in an ML-KEM public key that is too large."""


def make() -> File:
    right = Shaken()
    server = {"server_x": right.server, "server_kem_seed": right.server_seed}
    return {
        "server key": [case("a server", **server, key=right.key)],
        "hello": [case("a client", a=right.a, kem_seed=right.seed, hello=right.hello)],
        "answer": answers(right, server),
        "proof": proofs(right),
        "chains": chains(right, server),
        "frame sent": sent(right),
        "frame received": received(right),
    }


def answers(right: Shaken, server: Mapping[str, bytes]) -> list[Case]:
    hello, fresh = right.hello, {"b": right.b, "m": right.m}
    high = bytearray(hello[33:])
    high[0], high[1] = HIGH & 0xFF, high[1] & 0xF0 | HIGH >> 8
    wrong = {
        "version 0": b"\0" + hello[1:],
        "version 2": b"\2" + hello[1:],
        "ek with a number of 3329 or more": hello[:33] + bytes(high),
    }
    for number, low in enumerate(LOW_ORDER):
        wrong[f"A of low order, {number}"] = hello[:1] + bytes.fromhex(low) + hello[33:]
    return [
        case("a server", **server, hello=hello, **fresh, answer=right.answer),
        *(case(name, **server, hello=bad, **fresh, error="ended") for name, bad in wrong.items()),
    ]


def proofs(right: Shaken) -> list[Case]:
    other_ek, _ = ML_KEM_768.key_derive(fixed("other kem seed", 64))
    other, answer = fixed("other", 32), right.answer
    client = {
        "key": right.key,
        "client": right.client,
        "a": right.a,
        "kem_seed": right.seed,
        "m": right.m_static,
    }
    wrong: dict[str, object] = {
        "another B": changed("a client", 0),
        "another ct": changed("a client", 32),
        "another proof": changed("a client", 1_120),
        "another tag": changed("a client", 2_431),
        "another S, with its secret": Shaken(server=other).answer,
        "S without its secret": Shaken(server=other, shown_s=right_s()).answer,
        "another ekS": Shaken(shown_ek=other_ek).answer,
        "S of low order": Shaken(shown_s=bytes(32)).answer,
        "a box with another T": Shaken(boxed=bytes(64)).answer,
    }
    for number, low in enumerate(LOW_ORDER):
        wrong[f"B of low order, {number}"] = bytes.fromhex(low) + answer[32:]
    return [
        case("a client", **client, answer=answer, proof=right.proof),
        *(case(name, **client, answer=bad, error="ended") for name, bad in wrong.items()),
    ]


def chains(right: Shaken, server: Mapping[str, bytes]) -> list[Case]:
    other, c = fixed("other", 32), right_c()
    before = {**server, "hello": right.hello, "b": right.b, "m": right.m}
    wrong: dict[str, object] = {
        "another ctS": changed("a server", 0),
        "another tag": changed("a server", 1_215),
        "a key that holds nothing of ctS": Shaken(static_mixed=False).proof,
        "C without its secret": Shaken(client=other, shown_c=c).proof,
        "C of low order": Shaken(shown_c=bytes(32)).proof,
        "a box with another T": Shaken(boxed=bytes(64)).proof,
        "a box with the nonce of the server's": Shaken(reuse=True).proof,
        "of another connection": Shaken(a=other).proof,
    }
    return [
        case("a server", **before, proof=right.proof, client=c, up=right.up, down=right.down),
        *(case(name, **before, proof=bad, error="ended") for name, bad in wrong.items()),
    ]


def sent(right: Shaken) -> list[Case]:
    made = [(f"number {n}", right.up, n, 1, b"hello") for n in (0, 1, 255, 256, 512)]
    made += [
        ("the longest, of the highest id", right.up, 0, 2**32 - 1, bytes(PAYLOAD_MAX)),
        ("padding", right.down, 0, 0, b""),
        ("a push", right.down, 1, 0, b"hello"),
        ("a request without a payload", right.up, 0, 7, b""),
    ]
    return [
        case(name, chain=chain, number=number, id=id, payload=payload,
             digest=digest(frame(chain, number, id, payload)))
        for name, chain, number, id, payload in made
    ]  # fmt: skip


def received(right: Shaken) -> list[Case]:
    up, down = right.up, right.down
    taken = {"a request": (7, b"hello"), "without a payload": (7, b""), "a push": (0, b"hello")}
    made = [
        case(name, chain=up, number=3, frame=frame(up, 3, id, payload), got=[[id, payload]])
        for name, (id, payload) in taken.items()
    ]
    made.append(case("padding", chain=up, number=3, frame=frame(up, 3, 0, b""), got=[]))
    too_long = frame(up, 0, 1, bytes(PAYLOAD_MAX), length=PAYLOAD_MAX + 1)
    wrong: dict[str, bytes] = {
        "padding that is not zeros": frame(up, 0, 1, b"x", last=b"\1"),
        "padding that is not zeros, of id 0": frame(up, 0, 0, b"", last=b"\1"),
        "length 65535": frame(up, 0, 1, b"x", length=65_535),
        "length PAYLOAD_MAX + 1": too_long,
        "second key too early": frame(up, 256, 1, b"x"),
        "number 1 in the place of 0": frame(up, 1, 1, b"x"),
        "other direction": frame(down, 0, 1, b"x"),
        "a key that holds nothing of ctS": frame(Shaken(static_mixed=False).up, 0, 1, b"x"),
        "another tag": frame(up, 0, 1, b"x")[:-1] + b"\0",
    }
    return made + [
        case(name, chain=up, number=0, frame=data, error="ended") for name, data in wrong.items()
    ]


def right_s() -> bytes:
    return bindings.crypto_scalarmult_base(fixed("server", 32))


def right_c() -> bytes:
    return bindings.crypto_scalarmult_base(fixed("client", 32))


FILES = {"transport": make}
