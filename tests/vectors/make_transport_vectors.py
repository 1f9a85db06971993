"""Writes tests/vectors/transport.json, from the text of Transport in the specification.

Straight-line code over the primitives of the libraries; it shares nothing with
cbfs_common/wire/transport.py. Run it after a change of the protocol: the file must not change
otherwise.

    .venv/bin/python -m tests.vectors.make_transport_vectors
"""

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from kyber_py.ml_kem import ML_KEM_768
from nacl import bindings

from tests.support.protocol_naive import LOW_ORDER, encapsulate, fixed

FILE = Path(__file__).parent / "transport.json"
FRAME_SIZE = 16_932
PLAIN_SIZE = FRAME_SIZE - 16
PAYLOAD_MAX = PLAIN_SIZE - 6

FORMAT = """\
Bytes are hexadecimal. "server" and "client" are long-term secrets, "randomness" what each side
draws: with it, "handshake" is what they send and "chains" the first chain keys. Each of "refused"
is one message in the place of the right one, of "stage" hello (to the server), answer (to the
client), proof or frame (the first one up, to the server after the handshake): either "bytes", or
the message that is right with the bytes "xor" xored to it from "offset" on. Whoever gets it must
end the connection. "frames up" and "frames down" give the hash of frames by their number, of id
and payload; "longest" is the first frame up in another connection with the same keys, of the
highest id and a payload of PAYLOAD_MAX zeros. "padding" is the first frame down in yet another, of
id 0 and no payload, which gives nothing; "push" the one after it, of id 0 and payload.
"""


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


def altered(stage: str, name: str, offset: int, xor: bytes = b"\x01") -> dict[str, object]:
    return {"stage": stage, "name": name, "offset": offset, "xor": xor.hex()}


def instead(stage: str, name: str, data: bytes) -> dict[str, object]:
    return {"stage": stage, "name": name, "bytes": data.hex()}


def refused(right: Shaken) -> list[dict[str, object]]:
    """What is to be refused, by stage and by what is wrong with it."""
    high = bytearray(right.hello[33:])
    high[0], high[1] = 0xFF, high[1] | 0x0F  # the first number is 4095
    hello, answer = right.hello, right.answer
    other = fixed("other", 32)
    other_ek, _ = ML_KEM_768.key_derive(fixed("other kem seed", 64))
    empty = bytes(32)
    return [
        instead("hello", "version 0", b"\0" + hello[1:]),
        instead("hello", "version 2", b"\2" + hello[1:]),
        *(
            instead("hello", f"A of low order, {i}", hello[:1] + bytes.fromhex(p) + hello[33:])
            for i, p in enumerate(LOW_ORDER)
        ),
        instead("hello", "ek with a number of 3329 or more", hello[:33] + bytes(high)),
        *(
            instead("answer", f"B of low order, {i}", bytes.fromhex(p) + answer[32:])
            for i, p in enumerate(LOW_ORDER)
        ),
        altered("answer", "another B", 0),
        altered("answer", "another ct", 32),
        altered("answer", "another proof", 1_120),
        altered("answer", "another tag", 2_431),
        instead("answer", "another S, with its secret", Shaken(server=other).answer),
        instead("answer", "S without its secret", Shaken(server=other, shown_s=right_s()).answer),
        instead("answer", "another ekS", Shaken(shown_ek=other_ek).answer),
        instead("answer", "S of low order", Shaken(shown_s=empty).answer),
        instead("answer", "a box with another T", Shaken(boxed=bytes(64)).answer),
        altered("proof", "another ctS", 0),
        altered("proof", "another tag", 1_215),
        instead(
            "proof", "a proof whose key holds nothing of ctS", Shaken(static_mixed=False).proof
        ),
        instead("proof", "C without its secret", Shaken(client=other, shown_c=right_c()).proof),
        instead("proof", "C of low order", Shaken(shown_c=empty).proof),
        instead("proof", "a box with another T", Shaken(boxed=bytes(64)).proof),
        instead("proof", "a box with the nonce of the server's", Shaken(reuse=True).proof),
        instead("proof", "of another connection", Shaken(a=other).proof),
        instead("frame", "padding that is not zeros", frame(right.up, 0, 1, b"x", last=b"\1")),
        instead("frame", "length 65535", frame(right.up, 0, 1, b"x", length=65_535)),
        instead(
            "frame",
            "length PAYLOAD_MAX + 1",
            frame(right.up, 0, 1, bytes(PAYLOAD_MAX), length=PAYLOAD_MAX + 1),
        ),
        instead("frame", "second key too early", frame(right.up, 256, 1, b"x")),
        instead("frame", "number 1 in the place of 0", frame(right.up, 1, 1, b"x")),
        instead("frame", "other direction", frame(right.down, 0, 1, b"x")),
        instead(
            "frame",
            "a key that holds nothing of ctS",
            frame(Shaken(static_mixed=False).up, 0, 1, b"x"),
        ),
    ]


def right_s() -> bytes:
    return bindings.crypto_scalarmult_base(fixed("server", 32))


def right_c() -> bytes:
    return bindings.crypto_scalarmult_base(fixed("client", 32))


def make() -> dict[str, object]:
    right = Shaken()
    return {
        "format": FORMAT,
        "server": {
            "secret": right.server.hex(),
            "kem seed": right.server_seed.hex(),
            "key": right.key.hex(),
        },
        "client": {"secret": right.client.hex()},
        "randomness": {
            "a": right.a.hex(),
            "kem seed": right.seed.hex(),
            "b": right.b.hex(),
            "kem secret": right.kem.hex(),
            "ct": right.ct.hex(),
            "static kem secret": right.kem_static.hex(),
            "ctS": right.ct_static.hex(),
        },
        "handshake": {
            "hello": right.hello.hex(),
            "answer": right.answer.hex(),
            "proof": right.proof.hex(),
        },
        "chains": {"up": right.up.hex(), "down": right.down.hex()},
        "frames up": _frames(right.up),
        "frames down": _frames(right.down),
        "longest": digest(frame(right.up, 0, 2**32 - 1, bytes(PAYLOAD_MAX))),
        "padding": digest(frame(right.down, 0, 0, b"")),
        "push": {"payload": "hello", "blake2b-256": digest(frame(right.down, 1, 0, b"hello"))},
        "refused": refused(right),
    }


def _frames(chain: bytes) -> list[dict[str, object]]:
    return [
        {
            "number": n,
            "id": 1,
            "payload": "hello",
            "blake2b-256": digest(frame(chain, n, 1, b"hello")),
        }
        for n in (0, 1, 255, 256, 512)
    ]


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(make(), indent=1) + "\n")
