"""What primitives.json, profile.json and prekey.json hold. Made with libraries and
tests/support/protocol_naive.py, without cbfs_common; see tests.vectors.make."""

import base64
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.poly1305 import Poly1305
from kyber_py.ml_kem import ML_KEM_768
from nacl import bindings

from tests.support.protocol_naive import (
    BLANK,
    LOW_ORDER,
    Person,
    aead,
    derive,
    dh,
    encapsulate,
    fixed,
    kem_pair,
    point,
)
from tests.vectors.cases import Case, File, case, cases

BOB = Person("bob")
MARKED = "ed" + "ff" * 31
"""One of LOW_ORDER, with bit 255, which X25519 ignores."""


def primitives() -> File:
    return {
        "kdf": [
            case(name, key=key, label=label, data=data, size=size,
                 out=derive(key, label.removeprefix("cbfs1 "), data, size))
            for name, key, label, data, size in (
                ("a hash", b"", "cbfs1 terms", b"", 32),
                ("a key of 32 bytes", fixed("key", 32), "cbfs1 chain", b"", 64),
                ("a key of 64 bytes", fixed("key", 64), "cbfs1 start", b"data", 44),
                ("a label of 16 bytes", fixed("key", 32), "cbfs1 header 012", b"data", 1),
            )
        ],
        "x25519": _x25519(),
        "ml-kem key": [
            case("a seed", seed=fixed("kem seed", 64), ek=kem_pair(fixed("kem seed", 64))[0])
        ],
        "ml-kem encapsulation": _encapsulations(),
        "ml-kem decapsulation": _decapsulations(),
        "seal": _seals(),
        "poly1305": [
            case("5 bytes", key=fixed("poly", 32), data=b"plain",
                 tag=Poly1305.generate_tag(fixed("poly", 32), b"plain"))
        ],
        "messagepack": _values(),
    }  # fmt: skip


def _x25519() -> list[Case]:
    secret, other = fixed("x", 32), point(fixed("other x", 32))
    marked = other[:31] + bytes([other[31] | 0x80])
    shared = dh(secret, other)
    return [
        case("two people", secret=secret, public=other, shared=shared),
        case("bit 255 set, which is ignored", secret=secret, public=marked, shared=shared),
    ] + [
        case(f"low order, {number}", secret=secret, public=bytes.fromhex(public), error="refused")
        for number, public in enumerate((*LOW_ORDER, MARKED))
    ]


def _encapsulations() -> list[Case]:
    ek, m = kem_pair(fixed("kem seed", 64))[0], fixed("m", 32)
    shared, ct = encapsulate(ek, m)
    return [
        case("a public key", ek=ek, m=m, shared=shared, ct=ct),
        *cases("ek", wrong_kem_keys(ek), m=m, error="refused"),
    ]


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


def _decapsulations() -> list[Case]:
    seed = fixed("kem seed", 64)
    ek, dk = kem_pair(seed)
    shared, ct = encapsulate(ek, fixed("m", 32))
    forged = ct[:-1] + bytes([ct[-1] ^ 1])
    return [
        case("a ciphertext", seed=seed, ct=ct, shared=shared),
        case("one that nobody made, of which a secret comes that nobody knows", seed=seed,
             ct=forged, shared=ML_KEM_768.decaps(dk, forged)),
    ]  # fmt: skip


def _seals() -> list[Case]:
    key, plain = fixed("aead", 44), b"plain"
    sealed, bound = aead(key, plain), aead(key, plain, b"data")
    nothing = aead(key, b"")
    return [
        case("without data", key=key, sealed=sealed, data=b"", plain=plain),
        case("with data", key=key, sealed=bound, data=b"data", plain=plain),
        case("nothing", key=key, sealed=nothing, data=b"", plain=b""),
        case("data left out", key=key, sealed=bound, data=b"", error="refused"),
        case("another tag", key=key, sealed=sealed[:-1] + bytes([sealed[-1] ^ 1]), data=b"",
             error="refused"),
        case("another text", key=key, sealed=bytes([sealed[0] ^ 1]) + sealed[1:], data=b"",
             error="refused"),
        case("shorter than a tag", key=key, sealed=nothing[1:], data=b"", error="refused"),
    ]  # fmt: skip


def _values() -> list[Case]:
    """One value in its one encoding, and what is none."""
    right = {
        "0": b"\x00", "127": b"\x7f", "128": b"\xcc\x80", "256": b"\xcd\x01\x00",
        "65536": b"\xce\x00\x01\x00\x00", "2^32": b"\xcf" + (2**32).to_bytes(8, "big"),
        "2^64 - 1": b"\xcf" + b"\xff" * 8, "-1": b"\xff", "-32": b"\xe0", "-33": b"\xd0\xdf",
        "-129": b"\xd1\xff\x7f", "-2^63": b"\xd3\x80" + bytes(7), "nil": b"\xc0",
        "false": b"\xc2", "true": b"\xc3", "bin of 0 bytes": b"\xc4\x00",
        "bin of 256 bytes": b"\xc5\x01\x00" + bytes(256), "str of 31 bytes": b"\xbf" + b"x" * 31,
        "str of 32 bytes": b"\xd9\x20" + b"x" * 32, "str, not ASCII": b"\xa2\xc3\xa9",
        "an array of 15": b"\x9f" + bytes(15), "an array of 16": b"\xdc\x00\x10" + bytes(16),
        "an array in an array": b"\x91\x91\x00",
    }  # fmt: skip
    wrong = {
        "nothing": b"", "cut short": b"\xcc", "something behind it": b"\x00\x00",
        "127 as uint 8": b"\xcc\x7f", "127 as int 8": b"\xd0\x7f",
        "128 as uint 16": b"\xcd\x00\x80",
        "65535 as uint 32": b"\xce\x00\x00\xff\xff", "128 as int 16": b"\xd1\x00\x80",
        "2^32 - 1 as uint 64": b"\xcf" + (2**32 - 1).to_bytes(8, "big"),
        "-1 as int 8": b"\xd0\xff", "-33 as int 16": b"\xd1\xff\xdf",
        "bin 16 of 0 bytes": b"\xc5\x00\x00", "bin 32 of 0 bytes": b"\xc6\x00\x00\x00\x00",
        "str 8 of 1 byte": b"\xd9\x01x", "str 16 of 32 bytes": b"\xda\x00\x20" + b"x" * 32,
        "str, not UTF-8": b"\xa1\xff", "str with a surrogate": b"\xa3\xed\xa0\x80",
        "str with a long form": b"\xa2\xc0\x80",
        "array 16 of 1": b"\xdc\x00\x01\x00", "array 32 of 1": b"\xdd\x00\x00\x00\x01\x00",
        "array 32 of more than there is": b"\xdd\xff\xff\xff\xff\x00",
        "a map": b"\x80", "float 32": b"\xca" + bytes(4), "float 64": b"\xcb" + bytes(8),
        "an extension": b"\xd4\x01\x00", "a time": b"\xd6\xff" + bytes(4), "never used": b"\xc1",
    }  # fmt: skip
    return cases("data", right) + cases("data", wrong, error="malformed")


LATER_PROFILES = [
    ("version 2", 2, b""),
    ("version 2 with nothing behind the host", 2, b"\0"),
    ("version 2 with what nobody knows yet", 2, b"\0later\0\xff"),
    ("version 255, as long as may be", 255, b"\0".ljust(1_024 - 174, b"\xff")),
]


def profile() -> File:
    user_id, signing, auth, key = (fixed(f"profile {i}", 32) for i in range(4))
    ek, _ = kem_pair(fixed("profile kem", 64))
    kem = derive(b"", "kem id", ek, 32)
    fields = {"user_id": user_id, "signing": signing, "auth": auth, "kem": kem, "server_key": key}

    def encoded(host: bytes, port: int = 7000) -> bytes:
        return b"\x01" + b"".join(fields.values()) + port.to_bytes(2, "big") + host

    good = encoded(b"example.org")
    wrong = {
        "empty": b"",
        "version 0": b"\x00" + good[1:],
        "version 1 with something behind the host": good + b"\0",
        "version 2 whose host is not ASCII": b"\x02" + encoded(b"example.or\xff\0a")[1:],
        "version 2 too long": b"\x02" + (good + b"\0").ljust(1_025, b"a")[1:],
        "cut short": good[:163],
        "port 0": encoded(b"example.org", 0),
        "host not ASCII": encoded(b"example.or\xff"),
        "host with a slash": encoded(b"example.or/"),
        "host in capitals": encoded(b"Example.org"),
        "host with a dot at its end": encoded(b"example.org."),
        "host with a dash at its beginning": encoded(b"-example.org"),
        "host of 254 bytes": encoded(b"a" * 254),
        "IPv6 that could be shorter": encoded(b"2001:db8:0::1"),
        "IPv6 with a zone": encoded(b"fe80::1%1"),
        "IPv6 that stands for IPv4": encoded(b"::ffff:1.2.3.4"),
        "IPv6 that stands for IPv4, in numbers": encoded(b"::ffff:102:304"),
        "IPv6 in brackets": encoded(b"[2001:db8::1]"),
        "too long": good + b"a" * 1024,
    }
    hosts = ("example.org", "a", "192.0.2.1", "2001:db8::1", "::1", "a" * 253)
    return {
        "profile": [
            case(
                host[:20], encoded=encoded(host.encode()), **fields, host=host, port=7000, version=1
            )
            for host in hosts
        ]
        + [
            case(
                name,
                encoded=bytes([version]) + good[1:] + behind,
                **fields,
                host="example.org",
                port=7000,
                version=version,
            )
            for name, version, behind in LATER_PROFILES
        ]
        + [
            case(
                "port 65535",
                encoded=encoded(b"a", 65_535),
                **fields,
                host="a",
                port=65_535,
                version=1,
            )
        ]
        + cases("encoded", wrong, error="malformed"),
        "kem": [case("a key", ek=ek, kem=kem)],
        "identity": [_identity(name, signing, auth, kem) for name in ("alice", "x" * 32)],
        "name": _names(),
        "address": _addresses(key),
    }


def _identity(name: str, signing: bytes, auth: bytes, kem: bytes) -> Case:
    log = fixed("log", 32)
    directory = derive(b"", "directory", log, 16)
    who = directory + bytes([len(name)]) + name.encode()
    return case(name, log_key=log, person=name, signing=signing, auth=auth, kem=kem,
                directory=directory,
                identity=derive(b"", "identity", who + signing + auth + kem, 32))  # fmt: skip


def _names() -> list[Case]:
    right = ("abc", "a-b_c", "123", "x" * 32, "console", "com10", "a0-b1")
    wrong = ("", "ab", "x" * 33, "Abc", "a--b", "a-_b", "-ab", "ab-", "_ab", "ab_", "a.b", "a b",
             "äbc", "con", "prn", "aux", "nul", "com0", "com9", "lpt0", "lpt9",
             "abc\n")  # fmt: skip
    return [case(text or "nothing", text=text) for text in right] + [
        case(repr(text), text=text, error="malformed") for text in wrong
    ]


def _addresses(key: bytes) -> list[Case]:
    text = base64.b32encode(key).decode().rstrip("=").lower()
    spare = text[:-1] + chr(ord(text[-1]) + 1)
    right = [
        (host, f"cbfs://{text}@{shown}:7000")
        for host, shown in (
            ("example.org", "example.org"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "[2001:db8::1]"),
        )
    ]
    wrong = {
        "no scheme": f"{text}@example.org:7000",
        "another scheme": f"http://{text}@example.org:7000",
        "key in capitals": f"cbfs://{text.upper()}@example.org:7000",
        "key of 31 bytes": f"cbfs://{text[:50]}@example.org:7000",
        "spare bits of the key set": f"cbfs://{spare}@example.org:7000",
        "padding": f"cbfs://{text}====@example.org:7000",
        "no port": f"cbfs://{text}@example.org",
        "port 0": f"cbfs://{text}@example.org:0",
        "port 65536": f"cbfs://{text}@example.org:65536",
        "port with a zero in front": f"cbfs://{text}@example.org:07000",
        "a path": f"cbfs://{text}@example.org:7000/",
        "IPv6 without brackets": f"cbfs://{text}@2001:db8::1:7000",
        "a name in brackets": f"cbfs://{text}@[example.org]:7000",
        "host in capitals": f"cbfs://{text}@Example.org:7000",
    }
    return [case(host, text=url, key=key, host=host, port=7000) for host, url in right] + cases(
        "text", wrong, error="malformed"
    )


def prekey() -> File:
    terms = BOB.terms()
    public, key = bindings.crypto_sign_seed_keypair(BOB.signing)

    def signed(data: bytes, label: bytes = b"cbfs1 prekey") -> bytes:
        return data + bindings.crypto_sign(label + data, key)[:64]

    record, end = signed(terms), 2_000_000_000
    last = signed(BOB.terms(kind=2))
    ek = kem_pair(BOB.prekey_seed)[0]
    keys = {"id": BOB.prekey_id, "expires": end, "x": point(BOB.prekey_x), "ek": ek}
    no_ek = wrong_kem_keys(ek)["even number 3329"]
    wrong: dict[str, tuple[bytes, int, str]] = {
        "empty": (b"", 0, "malformed"),
        "short": (record[:-1], 0, "malformed"),
        "long": (record + b"\0", 0, "malformed"),
        "kind 3": (signed(BOB.terms(kind=3)), 0, "malformed"),
        "kind 0": (signed(BOB.terms(kind=0)), 0, "malformed"),
        "kind changed": (record[:16] + b"\x02" + record[17:], 0, "refused"),
        "a bit of the signature changed": (record[:-1] + bytes([record[-1] ^ 1]), 0, "refused"),
        "signature without its label": (signed(terms, b""), 0, "refused"),
        "expires is now": (record, end, "refused"),
        "expired": (record, end + 1, "refused"),
        "x of low order": (signed(terms[:25] + BLANK + terms[57:]), 0, "refused"),
        "ek not a key": (signed(terms[:57] + no_ek), 0, "refused"),
    }
    return {
        "record": [
            case("one-time", record=record, signing=public, now=0, prekey_kind=1, **keys),
            case("last-resort", record=last, signing=public, now=0, prekey_kind=2, **keys),
            case("a second before its end", record=record, signing=public, now=end - 1,
                 prekey_kind=1, **keys),
            case("somebody else's", record=record, now=0, error="refused",
                 signing=bindings.crypto_sign_seed_keypair(BLANK)[0]),
        ] + [case(name, record=data, signing=public, now=now, error=error)
             for name, (data, now, error) in wrong.items()],
        "made": [case("by bob", signing_seed=BOB.signing, id=BOB.prekey_id, prekey_kind=1,
                      expires=end, x_secret=BOB.prekey_x, kem_seed=BOB.prekey_seed, record=record)],
        "static key": _static_keys(),
    }  # fmt: skip


def _static_keys() -> list[Case]:
    ek = BOB.static_ek
    bad = wrong_kem_keys(ek)["odd number 3329"]
    return [
        case("bob's", ek=ek, kem=derive(b"", "kem id", ek, 32)),
        case("another key's hash", ek=ek, kem=derive(b"", "kem id", bad, 32), error="refused"),
        case("no key", ek=bad, kem=derive(b"", "kem id", bad, 32), error="refused"),
        case("short", ek=ek[:-1], kem=derive(b"", "kem id", ek[:-1], 32), error="refused"),
    ]


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "primitives": primitives,
    "profile": profile,
    "prekey": prekey,
}
