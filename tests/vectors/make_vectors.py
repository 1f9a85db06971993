"""Writes tests/vectors/{primitives,profile,prekey,folder,message,session}.json.

What they hold comes from tests/support/protocol_naive.py, kyber-py and msgpack, not from
cbfs_common. Run it after a change of the protocol: the files must not change otherwise.

    .venv/bin/python -m tests.vectors.make_vectors
"""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack
from nacl import bindings

from tests.support.protocol_naive import (
    BLANK,
    LOW_ORDER,
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
MARKED = "ed" + "ff" * 31
"""One of LOW_ORDER, with bit 255, which X25519 ignores."""


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
        "x25519 refused": [
            {"public": public, "error": "CryptoError"} for public in (*LOW_ORDER, MARKED)
        ],
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
            "associated data": b"data".hex(),
            "sealed with it": aead(fixed("aead", 44), b"plain", b"data").hex(),
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
        "note": [[], [], [], []],
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
        "too long": good + bytes(12_710),
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


Case = dict[str, Any]


def conversation() -> list[tuple[str, str, bytes, bytes]]:
    """(sender, what, body, envelope): Alice writes, Bob answers, twice."""
    talk = Talk(ALICE, BOB)
    said = [
        ("alice", "turn 0 n 0", b"hello", talk.chains[0].envelope(0, b"hello")),
        ("alice", "turn 0 n 1", b"", talk.chains[0].envelope(1, b"")),
    ]
    full = b"\xff" * 12_710
    for number, (sender, count) in enumerate((("bob", 3), ("alice", 2), ("bob", 1)), 1):
        chain = talk.turn(pn={1: 0, 2: 2, 3: 3}[number])
        for n in range(count):
            body = full if n == 1 else f"turn {number} number {n}".encode()
            said.append((sender, f"turn {number} n {n}", body, chain.envelope(n, body)))
    return said


FIRST_FIELDS = {
    "route, tag": 0,
    "route, n": 15,
    "F": 16,
    "ct of the outer layer": 48,
    "sealed handshake": 1_136,
    "sealed header": 2_288,
    "auth": 3_624,
    "sealed body": 3_656,
    "last byte": 16_383,
}
LATER_FIELDS = {
    "route, tag": 0,
    "route, n": 15,
    "sealed header": 16,
    "auth": 2_380,
    "sealed body": 2_412,
    "last byte": 16_383,
}


def flipped(base: str, fields: dict[str, int]) -> list[Case]:
    return [
        {"name": f"bit of {name}", "error": "noise", "base": base, "offset": at, "xor": "01"}
        for name, at in fields.items()
    ]


def given(cases: dict[str, tuple[bytes, str]]) -> list[Case]:
    return [
        {"name": name, "error": error, "envelope": envelope.hex()}
        for name, (envelope, error) in cases.items()
    ]


def wrong_first() -> list[Case]:
    """Envelopes of a start that Bob must refuse, who knows nothing yet."""
    chain = Talk(ALICE, BOB).chains[0]
    good, keys = chain.envelope(0, b"hello"), ALICE.public(0)
    identity = Talk(BOB, BOB).chains[0]
    other = Talk(ALICE, CAROL).chains[0]
    other.start = replace(other.start, recipient=BOB) if other.start else None
    astray = Talk(ALICE, BOB).chains[0]
    astray.start = replace(astray.start, recipient=CAROL) if astray.start else None

    def start(**changes: bytes | int) -> bytes:
        return Talk(ALICE, BOB, **changes).chains[0].envelope(0, b"")  # type: ignore[arg-type]

    return flipped("turn 0 n 0", FIRST_FIELDS) + given(
        {
            "short": (good[:-1], "noise"),
            "long": (good + b"\0", "noise"),
            "version 2": (start(version=2), "noise"),
            "other kind of prekey": (start(prekey_kind=2), "noise"),
            "prekey of somebody else": (other.envelope(0, b""), "noise"),
            "outer layer to somebody else": (astray.envelope(0, b""), "noise"),
            "route of another n": (
                chain.envelope(0, b"hello", route=chain.envelope(1, b"")[:16]),
                "noise",
            ),
            "sender is recipient": (identity.envelope(0, b""), "noise"),
            "MAC by somebody else": (chain.envelope(0, b"hello", mac_key=BLANK), "noise"),
            "identity changed": (
                chain.envelope(
                    0, b"hello", terms=chain.terms[:8] + CAROL.identity + chain.terms[40:]
                ),
                "noise",
            ),
            "L of low order": (start(auth=BLANK), "noise"),
            "X0 of low order": (start(public=BLANK + keys[32:]), "noise"),
            "A0 of low order": (start(public=keys[:32] + BLANK + keys[64:]), "noise"),
            "ek not a key": (start(public=keys[:64] + b"\xff" * 1_184), "noise"),
            "n 4097": (chain.envelope(4_097, b"hello"), "too far"),
        }
    )


def wrong_answer() -> list[Case]:
    """Turns 1 that Alice must refuse, who has sent turn 0 n 0 and 1."""

    def turn(pn: int = 0, public: bytes | None = None, *, static: bool = True) -> bytes:
        return Talk(ALICE, BOB).turn(pn, public, static=static).envelope(0, b"x")

    keys = BOB.public(1)
    return given(
        {
            "not to the static keys of the initiator": (turn(static=False), "diverged"),
            "pn not 0": (turn(1), "diverged"),
            "ratchet key of low order": (turn(public=BLANK + keys[32:]), "diverged"),
        }
    )


def wrong_later() -> list[Case]:
    """Envelopes that Alice must refuse, who has sent turn 0 n 0 and 1 and opened turn 1 n 0, of
    a Bob who also may be the one that does wrong."""
    talk = Talk(ALICE, BOB)
    chain = talk.turn(pn=0)
    good = chain.envelope(1, b"hello")
    changed = chain.terms[:-1] + bytes([chain.terms[-1] ^ 1])
    early = Talk(ALICE, BOB)
    early.turn(pn=0)
    early.turn(pn=2)
    return flipped("turn 1 n 1", LATER_FIELDS) + given(
        {
            "short": (good[:-1], "noise"),
            "opened before": (chain.envelope(0, b"turn 1 number 0"), "duplicate"),
            "n used for other words": (chain.envelope(0, b"other"), "duplicate"),
            "body of another n": (
                chain.envelope(1, b"x", route=chain.envelope(2, b"")[:16]),
                "diverged",
            ),
            "terms changed": (chain.envelope(1, b"x", terms=changed), "diverged"),
            "words changed with a stolen message key": (
                chain.envelope(1, b"x", mac_key=BLANK),
                "diverged",
            ),
            "padding not zero": (chain.envelope(1, b"x", pad=b"\1"), "diverged"),
            "length beyond the end": (chain.envelope(1, b"x", length=65_535), "diverged"),
            "body over BODY_MAX": (chain.envelope(1, bytes(12_711)), "diverged"),
            "n 4098": (chain.envelope(4_098, b"x"), "too far"),
            "turn without an answer between": (early.turn(pn=3).envelope(0, b"x"), "noise"),
        }
    )


def wrong_turns() -> list[Case]:
    """Second turns of Alice's that Bob must refuse, who has opened turn 0 n 0 and 1 and sent
    turn 1."""

    def turn(pn: int = 2, public: bytes | None = None, life: bytes | None = None) -> bytes:
        talk = Talk(ALICE, BOB)
        talk.turn(pn=0)
        return talk.turn(pn, public, life).envelope(0, b"x")

    keys = ALICE.public(2)
    return given(
        {
            "pn below what has come": (turn(pn=1), "diverged"),
            "pn too far": (turn(pn=2 + 4_097), "too far"),
            "another life": (turn(life=bytes(8)), "diverged"),
            "ratchet key of low order": (turn(public=BLANK + keys[32:]), "diverged"),
            "ratchet auth key of low order": (
                turn(public=keys[:32] + BLANK + keys[64:]),
                "diverged",
            ),
            "ek not a key": (turn(public=keys[:64] + b"\xff" * 1184), "diverged"),
        }
    )


def at_the_limit() -> list[Case]:
    """What opens just so: in each of the states that refuse what goes one further."""
    first, talk, again = Talk(ALICE, BOB).chains[0], Talk(ALICE, BOB), Talk(ALICE, BOB)
    answer = talk.turn(pn=0)
    again.turn(pn=0)
    return [
        {"name": name, "state": state, "envelope": envelope.hex(), "body": body.hex()}
        for name, state, envelope, body in (
            ("n 4096", "bob, who knows nothing", first.envelope(4_096, b"x"), b"x"),
            ("n 4097", "alice, who opened turn 1 n 0", answer.envelope(4_097, b"x"), b"x"),
            (
                "BODY_MAX bytes",
                "alice, who opened turn 1 n 0",
                answer.envelope(1, bytes(12_710)),
                bytes(12_710),
            ),
            ("pn 2", "bob, who sent turn 1", talk.turn(pn=2).envelope(0, b"x"), b"x"),
            ("pn 4098", "bob, who sent turn 1", again.turn(pn=4_098).envelope(0, b"x"), b"x"),
        )
    ]


FORMAT = (
    "Bytes are hexadecimal. Randomness is given as it is drawn: a turn's keys (x, auth and, but in"
    " turn 0, the KEM seed), e of the start, m of the encapsulation to the prekey or to the last"
    " ek; then for each envelope of turn 0 f and the m of its outer layer. An error is one of those"
    " of protocol/sessions.rst, Refusals. A case is an envelope, or 'base' of the envelopes here"
    " with the byte at 'offset' changed by 'xor'; nothing changes by it in who refuses it. The body"
    " of each envelope here is below; Bob's prekey is one-time, expires at 2000000000."
)


def session() -> dict[str, Any]:
    return {
        "format": FORMAT,
        "people": {
            person.name: {
                "identity": person.identity.hex(),
                "auth secret": person.auth.hex(),
                "static KEM seed": person.kem.hex(),
                "life": person.life.hex(),
                "prekey id": person.prekey_id.hex(),
                "prekey x secret": person.prekey_x.hex(),
                "prekey KEM seed": person.prekey_seed.hex(),
            }
            for person in (ALICE, BOB)
        },
        "e secret": fixed("alice e", 32).hex(),
        "outer": [
            {"f secret": f.hex(), "m": m.hex()} for f, m in (ALICE.outer_draws(n) for n in (0, 1))
        ],
        "turns": [
            {
                **{
                    name: draw.hex()
                    for name, draw in zip(
                        ("x secret", "auth secret", "KEM seed"), person.draws(turn), strict=False
                    )
                },
                "m": person.m(turn).hex(),
            }
            for turn, person in enumerate((ALICE, BOB, ALICE, BOB))
        ],
        "start hash": Talk(ALICE, BOB).start_hash.hex(),
        "envelopes": [
            {"sender": sender, "what": what, "body": body.hex(), "envelope": envelope.hex()}
            for sender, what, body, envelope in conversation()
        ],
        "opened at the limit": at_the_limit(),
        "refused": {
            "bob, who knows nothing": wrong_first(),
            "alice, who sent turn 0": wrong_answer(),
            "alice, who opened turn 1 n 0": wrong_later(),
            "bob, who sent turn 1": wrong_turns(),
        },
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
