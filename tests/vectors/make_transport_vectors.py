"""Writes tests/vectors/transport.json, from the text of PROTOCOL.rst, Transport.

Straight-line code over the primitives of the libraries; it shares nothing with
cbfs_common/wire/transport.py. Run it after a change of the protocol: the file must not change
otherwise.

    .venv/bin/python tests/vectors/make_transport_vectors.py
"""

import json
from hashlib import blake2b
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from kyber_py.ml_kem import ML_KEM_768
from nacl import bindings

FILE = Path(__file__).parent / "transport.json"
FRAME_SIZE = 16_932


def derive(key: bytes, label: bytes, data: bytes, size: int) -> bytes:
    return blake2b(data, digest_size=size, key=key, person=label).digest()


def fixed(name: str, size: int) -> bytes:
    return blake2b(name.encode(), digest_size=size).digest()


def seal(key: bytes, nonce: bytes, plain: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(nonce, plain, None)


def proof(side: bytes, secret: bytes, transcript: bytes, own: bytes, ephemeral: bytes) -> bytes:
    nonce = derive(transcript, b"cbfs1 tr " + side[:1] + b"nonce", b"", 24)
    box = bindings.crypto_box(transcript, nonce, ephemeral, own)
    key = derive(secret, b"cbfs1 tr " + side, b"", 44)
    return seal(key[:32], key[32:], bindings.crypto_scalarmult_base(own) + box)


def frame(
    chain: bytes, number: int, id: int, payload: bytes, padding: bytes | None = None
) -> bytes:
    """The frame of that number (0, 1, ...) in its direction."""
    for _ in range(number // 256 + 1):
        keys = derive(chain, b"cbfs1 tr frames", b"", 64)
        chain, key = keys[:32], keys[32:]
    if padding is None:
        padding = bytes(FRAME_SIZE - 16 - 6 - len(payload))
    plain = id.to_bytes(4, "big") + len(payload).to_bytes(2, "big") + payload + padding
    return seal(key, (number % 256).to_bytes(12, "big"), plain)


def short(data: bytes) -> dict[str, str | int]:
    """Frames are long: their hash stands for them."""
    return {"size": len(data), "blake2b-256": blake2b(data, digest_size=32).hexdigest()}


def wrong_frames(up: bytes, down: bytes) -> dict[str, bytes]:
    """First frames of a client that a server must refuse, by what is wrong with them."""
    return {
        "padding": frame(up, 0, 1, b"x", b"\x01" + bytes(FRAME_SIZE - 16 - 6 - 2)),
        "length": seal(
            derive(up, b"cbfs1 tr frames", b"", 64)[32:],
            bytes(12),
            b"\0\0\0\x01\xff\xff" + bytes(FRAME_SIZE - 16 - 6),
        ),
        "second key too early": frame(up, 256, 1, b"x"),
        "other direction": frame(down, 0, 1, b"x"),
    }


def make() -> dict[str, object]:
    server, client, a_secret, b_secret, m = (
        fixed(name, 32) for name in ("server", "client", "a", "b", "m")
    )
    kem_seed = fixed("kem seed", 64)
    ek, _ = ML_KEM_768.key_derive(kem_seed)
    kem_secret, ct = ML_KEM_768._encaps_internal(ek, m)
    a, b = (bindings.crypto_scalarmult_base(s) for s in (a_secret, b_secret))
    hello = b"\x01" + a + ek
    transcript = derive(b"", b"cbfs1 tr hash", hello + b + ct, 64)
    shared = bindings.crypto_scalarmult(b_secret, a) + kem_secret
    secret = derive(shared, b"cbfs1 tr secret", transcript, 64)
    answer = b + ct + proof(b"server", secret, transcript, server, a)
    client_proof = proof(b"client", secret, transcript, client, b)
    keys = bindings.crypto_scalarmult_base(server) + bindings.crypto_scalarmult_base(client)
    up, down = (derive(secret, label, keys, 32) for label in (b"cbfs1 tr up", b"cbfs1 tr down"))
    return {
        "server secret": server.hex(),
        "client secret": client.hex(),
        "a secret": a_secret.hex(),
        "b secret": b_secret.hex(),
        "kem seed": kem_seed.hex(),
        "kem secret": kem_secret.hex(),
        "kem ciphertext": ct.hex(),
        "hello": hello.hex(),
        "answer": answer.hex(),
        "proof": client_proof.hex(),
        "id of 16384 zeros": derive(b"", b"cbfs1 envelope", bytes(16_384), 16).hex(),
        "chain up": up.hex(),
        "chain down": down.hex(),
        "frames up": [
            {"number": n, "id": 1, "payload": "hello", **short(frame(up, n, 1, b"hello"))}
            for n in (0, 1, 255, 256, 512)
        ],
        "frames down": [
            {"number": n, "id": 1, "payload": "hello", **short(frame(down, n, 1, b"hello"))}
            for n in (0, 1, 255, 256, 512)
        ],
        "fails": {name: short(data) for name, data in wrong_frames(up, down).items()},
    }


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(make(), indent=1) + "\n")
