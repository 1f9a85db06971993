"""Writes tests/vectors/{primitives,profile,prekey,folder,message,session}.json.

What they hold comes from tests/support/protocol_naive.py, kyber-py and msgpack, not from
cbfs_common. Run it after a change of the protocol: the files must not change otherwise.

    .venv/bin/python -m tests.vectors.make_vectors
"""

import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack
from nacl import bindings

from tests.support.protocol_naive import (
    BLANK,
    Person,
    Talk,
    aead,
    derive,
    dh,
    encapsulate,
    fixed,
    kem_pair,
    point,
)
from tests.vectors.make_folder_vectors import folder

FOLDER = Path(__file__).parent
ALICE, BOB, CAROL = Person("alice"), Person("bob"), Person("carol")
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


def digest(data: bytes) -> str:
    """Envelopes are long: their hash stands for them."""
    return blake2b(data, digest_size=32).hexdigest()


def primitives() -> dict[str, Any]:
    secret, other, seed, m = (
        fixed("x", 32),
        fixed("other x", 32),
        fixed("kem seed", 64),
        fixed("m", 32),
    )
    ek, _ = kem_pair(seed)
    shared, ct = encapsulate(ek, m)
    return {
        "kdf": [
            {
                "key": key.hex(),
                "label": label,
                "data": data.hex(),
                "out": derive(key, label, data, size).hex(),
            }
            for key, label, data, size in (
                (b"", "terms", b"", 32),
                (fixed("key", 32), "chain", b"", 64),
                (fixed("key", 64), "start", b"data", 44),
            )
        ],
        "x25519": {
            "secret": secret.hex(),
            "peer": point(other).hex(),
            "shared": dh(secret, point(other)).hex(),
        },
        "x25519 refused": [{"public": public, "error": "CryptoError"} for public in LOW_ORDER],
        "ml-kem-768": {
            "seed": seed.hex(),
            "m": m.hex(),
            "ek": ek.hex(),
            "ct": ct.hex(),
            "shared": shared.hex(),
        },
        "ml-kem-768 refused": [
            {"name": name, "ek": bad.hex(), "error": "CryptoError"}
            for name, bad in wrong_kem_keys(ek).items()
        ],
        "aead": {
            "key and nonce": fixed("aead", 44).hex(),
            "plain": b"plain".hex(),
            "sealed": aead(fixed("aead", 44), b"plain").hex(),
        },
    }


def wrong_kem_keys(ek: bytes) -> dict[str, bytes]:
    """Public keys with one number of 3329, in an even and in an odd place, and wrong sizes."""
    even = (3329).to_bytes(2, "little")
    return {
        "even number 3329": bytes([even[0], even[1] | ek[1] & 0xF0]) + ek[2:],
        "odd number 3329": ek[:1] + bytes([ek[1] & 0x0F | 0x10, 0xD0]) + ek[3:],
        "last number 4095": ek[:1150] + bytes([ek[1150] | 0xF0, 0xFF]) + ek[1152:],
        "short": ek[:-1],
        "long": ek + b"\0",
    }


def profile() -> dict[str, Any]:
    user_id, signing, auth, key = (fixed(f"profile {i}", 32) for i in range(4))
    ek, _ = kem_pair(fixed("profile kem", 64))
    kem = derive(b"", "kem id", ek, 32)
    encoded = b"\x01" + user_id + signing + auth + kem + key
    encoded += (7000).to_bytes(2, "big") + b"example.org"
    name, log = b"alice", fixed("log", 32)
    directory = derive(b"", "directory", log, 16)
    who = directory + b"\x05" + name
    return {
        "encoded": encoded.hex(),
        "user_id": user_id.hex(),
        "signing": signing.hex(),
        "auth": auth.hex(),
        "KEM key": ek.hex(),
        "kem": kem.hex(),
        "server key": key.hex(),
        "server host": "example.org",
        "server port": 7000,
        "name": name.decode(),
        "log key": log.hex(),
        "directory": directory.hex(),
        "identity": derive(b"", "identity", who + signing + auth + kem, 32).hex(),
        "refused": [
            {"name": what, "encoded": bad.hex(), "error": "DecodeError"}
            for what, bad in {
                "empty": b"",
                "version 2": b"\x02" + encoded[1:],
                "no host": encoded[:163],
                "port 0": encoded[:161] + b"\0\0" + encoded[163:],
                "host not ASCII": encoded[:-1] + b"\xff",
                "host with a slash": encoded[:-1] + b"/",
                "too long": encoded + b"a" * 1024,
            }.items()
        ],
    }


def prekey() -> dict[str, Any]:
    terms = BOB.terms()
    _, key = bindings.crypto_sign_seed_keypair(BOB.signing)
    record = terms + bindings.crypto_sign(b"cbfs1 prekey" + terms, key)[:64]
    plain = terms + bindings.crypto_sign(terms, key)[:64]
    low = terms[:25] + BLANK + terms[57:]
    low += bindings.crypto_sign(b"cbfs1 prekey" + low, key)[:64]
    wrong = {
        "empty": (b"", 0, "DecodeError"),
        "short": (record[:-1], 0, "DecodeError"),
        "long": (record + b"\0", 0, "DecodeError"),
        "kind 3": (record[:16] + b"\x03" + record[17:], 0, "DecodeError"),
        "kind changed": (record[:16] + b"\x02" + record[17:], 0, "CryptoError"),
        "signature without its label": (plain, 0, "CryptoError"),
        "expired": (record, 2_000_000_000, "CryptoError"),
        "x of low order": (low, 0, "CryptoError"),
    }
    return {
        "signing seed": BOB.signing.hex(),
        "id": BOB.prekey_id.hex(),
        "kind": 1,
        "expires": 2_000_000_000,
        "x secret": BOB.prekey_x.hex(),
        "kem seed": BOB.prekey_seed.hex(),
        "record": record.hex(),
        "refused": [
            {"name": name, "record": bad.hex(), "now": now, "error": error}
            for name, (bad, now, error) in wrong.items()
        ],
    }


def part(**changes: Any) -> list[Any]:
    """The fields of a good part, changed by name."""
    fields: dict[str, Any] = {
        "version": 1,
        "kind": 1,
        "salt": fixed("salt", 16),
        "conversation": fixed("conversation", 16),
        "parents": [b"\1" + fixed("parent", 32)],
        "participants": ["alice", "bob"],
        "subject": "Grüße",
        "date": 1_790_000_000_000,
        "file_name": "note.txt",
        "number": 0,
        "count": 1,
        "size": 5,
        "digest": blake2b(b"hello", digest_size=32).digest(),
        "chunk": b"hello",
        "bundle": b"",
        "lifetime": 604_800,
        "change": 3,
    }
    return list((fields | changes).values())


def message() -> dict[str, Any]:
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "version 2": ({"version": 2}, "UnknownKind"),
        "kind 99": ({"kind": 99}, "UnknownKind"),
        "kind true": ({"kind": True}, "DecodeError"),
        "salt short": ({"salt": bytes(15)}, "DecodeError"),
        "salt text": ({"salt": "0123456789abcdef"}, "DecodeError"),
        "17 parents": ({"parents": [b"\1" + bytes([i] * 32) for i in range(17)]}, "DecodeError"),
        "parent twice": ({"parents": [bytes(33), b"\1" + bytes(32)]}, "DecodeError"),
        "parent of nobody": ({"parents": [b"\2" + bytes(32)]}, "DecodeError"),
        "parent without an author": ({"parents": [bytes(32)]}, "DecodeError"),
        "one participant": ({"participants": ["alice"]}, "DecodeError"),
        "51 participants": ({"participants": [f"u{i:03}" for i in range(51)]}, "DecodeError"),
        "participants not sorted": ({"participants": ["bob", "alice"]}, "DecodeError"),
        "participant twice": ({"participants": ["bob", "bob"]}, "DecodeError"),
        "participant no name": ({"participants": ["alice", "../x"]}, "DecodeError"),
        "participants a text": ({"participants": "alice"}, "DecodeError"),
        "subject too long": ({"subject": "x" * 201}, "DecodeError"),
        "file name too long": ({"file_name": "é" * 128}, "DecodeError"),
        "date negative": ({"date": -1}, "DecodeError"),
        "date after the year 9999": ({"date": 253_402_300_800_000}, "DecodeError"),
        "number at count": ({"number": 1}, "DecodeError"),
        "count 0": ({"count": 0}, "DecodeError"),
        "size other than chunk": ({"size": 6}, "DecodeError"),
        "size too large": ({"size": 2**26 + 1, "count": 2**26 + 1}, "DecodeError"),
        "empty part": ({"count": 2, "size": 5, "chunk": b""}, "DecodeError"),
        "last part longer": ({"number": 1, "count": 2, "size": 9}, "DecodeError"),
        "last part uneven": ({"number": 2, "count": 3, "size": 16}, "DecodeError"),
        "chunk text": ({"chunk": "hello"}, "DecodeError"),
        "bundle too long": ({"bundle": bytes(3_073)}, "DecodeError"),
        "folder without a name": ({"kind": 3, "file_name": ""}, "DecodeError"),
        "lifetime too short": ({"lifetime": 9}, "DecodeError"),
        "lifetime too long": ({"lifetime": 366 * 86_400 + 1}, "DecodeError"),
        "lifetime negative": ({"lifetime": -1}, "DecodeError"),
        "lifetime true": ({"lifetime": True}, "DecodeError"),
        "lifetime that nobody set": ({"change": 0}, "DecodeError"),
        "change over 32 bits": ({"change": 2**32}, "DecodeError"),
        "change a text": ({"change": "3"}, "DecodeError"),
    }
    good = msgpack.packb(part())
    raw = {
        "empty": b"",
        "truncated": good[:-1],
        "trailing byte": good + b"\0",
        "a map": msgpack.packb({}),
        "subject not UTF-8": good.replace("Grüße".encode(), b"Gr\xff\xff\xff\xffe"),
        "a field more": msgpack.packb([*part(), 0]),
        "a field less": msgpack.packb(part()[:-1]),
        "too long": good + bytes(13_850),
    }
    refused = [
        {"name": name, "body": msgpack.packb(part(**change)).hex(), "error": error}
        for name, (change, error) in changes.items()
    ]
    refused += [{"name": n, "body": b.hex(), "error": "DecodeError"} for n, b in raw.items()]
    fields = part()
    hashed = [
        fields[1],
        fields[2],
        fields[3],
        "alice",
        *fields[4:9],
        *fields[11:13],
        *fields[15:17],
    ]
    return {
        "body": good.hex(),
        "sender": "alice",
        "hash": derive(b"", "message", msgpack.packb(hashed), 32).hex(),
        "fields": {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in zip(
                ("salt", "conversation", "subject", "date", "file_name", "digest", "chunk"),
                (part()[i] for i in (2, 3, 6, 7, 8, 12, 13)),
                strict=True,
            )
        },
        "refused": refused,
    }


Make = Callable[[], bytes]


def conversation() -> list[tuple[str, str, bytes, bytes]]:
    """(sender, what, body, envelope): Alice writes, Bob answers, twice."""
    talk = Talk(ALICE, BOB)
    said = [
        ("alice", "turn 0 n 0", b"hello", talk.chains[0].envelope(0, b"hello")),
        ("alice", "turn 0 n 1", b"", talk.chains[0].envelope(1, b"")),
    ]
    full = b"\xff" * 13_850
    for number, (sender, count) in enumerate((("bob", 3), ("alice", 2), ("bob", 1)), 1):
        chain = talk.turn(pn={1: 0, 2: 2, 3: 3}[number])
        for n in range(count):
            body = full if n == 1 else f"turn {number} number {n}".encode()
            said.append((sender, f"turn {number} n {n}", body, chain.envelope(n, body)))
    return said


def wrong_first() -> dict[str, tuple[bytes, str]]:
    """Envelopes of a start that Bob must refuse, who knows nothing yet."""
    chain = Talk(ALICE, BOB).chains[0]
    good = chain.envelope(0, b"hello")
    identity = Talk(BOB, BOB).chains[0]
    ek_offset = 2 * 32 + 2 * 32
    bad_ek = chain.terms[:ek_offset] + b"\xff" * 1152 + chain.terms[-32:]
    flips = {
        "route": 0,
        "prekey id": 16,
        "e": 32,
        "KEM ciphertext": 64,
        "sealed header": 1_152,
        "auth": 2_484,
        "sealed body": 2_516,
        "last byte": 16_383,
    }
    wrong = {
        f"bit of {name} flipped": (_flip(good, at), "CryptoError") for name, at in flips.items()
    }
    return wrong | {
        "short": (good[:-1], "DecodeError"),
        "long": (good + b"\0", "DecodeError"),
        "version 2": (Talk(ALICE, BOB, version=2).chains[0].envelope(0, b""), "CryptoError"),
        "other kind of prekey": (
            Talk(ALICE, BOB, prekey_kind=2).chains[0].envelope(0, b""),
            "CryptoError",
        ),
        "sender is recipient": (identity.envelope(0, b""), "CryptoError"),
        "MAC by somebody else": (chain.envelope(0, b"hello", mac_key=BLANK), "CryptoError"),
        "identity changed": (
            chain.envelope(0, b"hello", terms=CAROL.identity + chain.terms[32:]),
            "CryptoError",
        ),
        "ratchet ek not a key": (chain.envelope(0, b"hello", terms=bad_ek), "CryptoError"),
        "n 4097": (chain.envelope(4_097, b"hello"), "TooFar"),
    }


def wrong_later() -> dict[str, tuple[bytes, str]]:
    """Envelopes that Alice must refuse, who has sent turn 0 n 0 and 1 and opened turn 1 n 0, of
    a Bob who also may be the one that does wrong."""
    talk = Talk(ALICE, BOB)
    chain = talk.turn(pn=0)
    good = chain.envelope(1, b"hello")
    changed = chain.terms[:-1] + bytes([chain.terms[-1] ^ 1])
    flips = {"route": 0, "sealed header": 16, "auth": 2_376, "sealed body": 2_408}
    wrong = {
        f"bit of {name} flipped": (_flip(good, at), "CryptoError") for name, at in flips.items()
    }
    early = Talk(ALICE, BOB)
    early.turn(pn=0)
    early.turn(pn=2)
    return wrong | {
        "short": (good[:-1], "CryptoError"),
        "opened before": (chain.envelope(0, b"turn 1 number 0"), "Duplicate"),
        "n used for other words": (chain.envelope(0, b"other"), "Duplicate"),
        "route of another n": (
            chain.envelope(1, b"x", route=chain.envelope(2, b"")[:16]),
            "CryptoError",
        ),
        "terms changed": (chain.envelope(1, b"x", terms=changed), "CryptoError"),
        "words changed with a stolen message key": (
            chain.envelope(1, b"x", mac_key=BLANK),
            "CryptoError",
        ),
        "padding not zero": (chain.envelope(1, b"x", pad=b"\1"), "CryptoError"),
        "length beyond the end": (chain.envelope(1, b"x", length=65_535), "CryptoError"),
        "body over BODY_MAX": (chain.envelope(1, bytes(13_851)), "CryptoError"),
        "n 4098": (chain.envelope(4_098, b"x"), "TooFar"),
        "turn without an answer between": (early.turn(pn=3).envelope(0, b"x"), "CryptoError"),
    }


def wrong_turns() -> dict[str, tuple[bytes, str]]:
    """Second turns of Alice's that Bob must refuse, who has opened turn 0 n 0 and 1 and sent
    turn 1."""

    def turn(pn: int = 2, public: bytes | None = None) -> bytes:
        talk = Talk(ALICE, BOB)
        talk.turn(pn=0)
        return talk.turn(pn, public).envelope(0, b"x")

    keys = ALICE.public(2)
    return {
        "pn below what has come": (turn(pn=1), "CryptoError"),
        "pn too far": (turn(pn=2 + 4_097), "TooFar"),
        "ratchet key of low order": (turn(public=BLANK + keys[32:]), "CryptoError"),
        "ratchet auth key of low order": (
            turn(public=keys[:32] + BLANK + keys[64:]),
            "CryptoError",
        ),
        "ek not a key": (turn(public=keys[:64] + b"\xff" * 1184), "CryptoError"),
    }


def _flip(envelope: bytes, at: int) -> bytes:
    return envelope[:at] + bytes([envelope[at] ^ 1]) + envelope[at + 1 :]


def session() -> dict[str, Any]:
    def refused(cases: dict[str, tuple[bytes, str]]) -> list[dict[str, str]]:
        return [
            {"name": name, "blake2b-256": digest(envelope), "error": error}
            for name, (envelope, error) in cases.items()
        ]

    said = conversation()
    return {
        "people": {
            person.name: {
                "identity": person.identity.hex(),
                "auth secret": person.auth.hex(),
                "prekey id": person.prekey_id.hex(),
                "prekey x secret": person.prekey_x.hex(),
                "prekey KEM seed": person.prekey_seed.hex(),
            }
            for person in (ALICE, BOB)
        },
        "e secret": fixed("alice e", 32).hex(),
        "turns": [
            {
                "x secret": person.draws(turn)[0].hex(),
                "auth secret": person.draws(turn)[1].hex(),
                "KEM seed": person.draws(turn)[2].hex(),
                "m": person.m(turn).hex(),
            }
            for turn, person in enumerate((ALICE, BOB, ALICE, BOB))
        ],
        "start hash": Talk(ALICE, BOB).start_hash.hex(),
        "envelopes": [
            {
                "sender": sender,
                "what": what,
                "body": {"size": len(body), "start": body[:32].hex()},
                "route": envelope[:16].hex(),
                "blake2b-256": digest(envelope),
            }
            for sender, what, body, envelope in said
        ],
        "first envelope": said[0][3].hex(),
        "later envelope": said[2][3].hex(),
        "refused by bob, who knows nothing": refused(wrong_first()),
        "refused by alice, who opened turn 1 n 0": refused(wrong_later()),
        "refused by bob, who sent turn 1": refused(wrong_turns()),
    }


VECTORS: dict[str, Callable[[], dict[str, Any]]] = {
    "primitives": primitives,
    "profile": profile,
    "prekey": prekey,
    "folder": folder,
    "message": message,
    "session": session,
}


def main() -> None:
    for name, make in VECTORS.items():
        text = json.dumps(make(), indent=1, ensure_ascii=False) + "\n"
        (FOLDER / f"{name}.json").write_text(text)


if __name__ == "__main__":
    main()
