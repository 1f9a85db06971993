"""A second implementation of sessions, straight from the text of PROTOCOL.rst.

It shares nothing with cbfs_common: it is here to make vectors, and envelopes that an honest
implementation never makes. It is slow, keeps everything, and checks nothing.
"""

from dataclasses import dataclass, field
from hashlib import blake2b

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.poly1305 import Poly1305
from kyber_py.ml_kem import ML_KEM_768
from nacl import bindings

SIZE = 16_384
BLANK = bytes(32)


def derive(key: bytes, label: str, data: bytes, size: int) -> bytes:
    person = b"cbfs1 " + label.encode()
    return blake2b(data, digest_size=size, key=key, person=person).digest()


def fixed(name: str, size: int) -> bytes:
    """The vectors' randomness: ``size`` bytes named by what they are for."""
    return blake2b(name.encode(), digest_size=size).digest()


def point(secret: bytes) -> bytes:
    return bindings.crypto_scalarmult_base(secret)


def dh(secret: bytes, public: bytes) -> bytes:
    return bindings.crypto_scalarmult(secret, public)


def kem_pair(seed: bytes) -> tuple[bytes, bytes]:
    """(ek, dk)"""
    ek, dk = ML_KEM_768.key_derive(seed)
    return ek, dk


def encapsulate(ek: bytes, m: bytes) -> tuple[bytes, bytes]:
    """(secret, ct) with the randomness ``m``, 32 bytes."""
    secret, ct = ML_KEM_768._encaps_internal(ek, m)
    return secret, ct


def aead(secret: bytes, plain: bytes) -> bytes:
    return ChaCha20Poly1305(secret[:32]).encrypt(secret[32:44], plain, None)


@dataclass
class Person:
    """Somebody's long-term keys, a prekey, and the randomness of each of their turns."""

    name: str

    def __post_init__(self) -> None:
        self.identity = fixed(f"{self.name} identity", 32)
        self.auth = fixed(f"{self.name} auth", 32)
        self.kem = fixed(f"{self.name} kem", 64)
        self.signing = fixed(f"{self.name} signing", 32)
        self.prekey_id = fixed(f"{self.name} prekey id", 16)
        self.prekey_x = fixed(f"{self.name} prekey x", 32)
        self.prekey_seed = fixed(f"{self.name} prekey seed", 64)

    def terms(self, kind: int = 1, expires: int = 2_000_000_000) -> bytes:
        ek, _ = kem_pair(self.prekey_seed)
        return (
            self.prekey_id + bytes([kind]) + expires.to_bytes(8, "big") + point(self.prekey_x) + ek
        )

    def draws(self, turn: int) -> list[bytes]:
        """x secret, auth secret and KEM seed of a turn of this person's."""
        where = f"{self.name} turn {turn}"
        return [fixed(f"{where} x", 32), fixed(f"{where} auth", 32), fixed(f"{where} seed", 64)]

    def m(self, turn: int) -> bytes:
        return fixed(f"{self.name} turn {turn} m", 32)

    def public(self, turn: int) -> bytes:
        x, auth, seed = self.draws(turn)
        return point(x) + point(auth) + kem_pair(seed)[0]


@dataclass
class Chain:
    """One turn: what its envelopes are sealed with."""

    header_key: bytes
    chain_key: bytes
    mac_key: bytes
    handshake: bytes
    terms: bytes

    def message_key(self, number: int) -> bytes:
        chain = self.chain_key
        for _ in range(number + 1):
            both = derive(chain, "chain", b"", 64)
            chain = both[:32]
        return both[32:]

    def envelope(
        self,
        number: int,
        body: bytes,
        *,
        route: bytes | None = None,
        terms: bytes | None = None,
        mac_key: bytes | None = None,
        length: int | None = None,
        pad: bytes = b"\0",
    ) -> bytes:
        """Envelope ``number``; the keywords make it other than it ought to be."""
        n = number.to_bytes(4, "big")
        route = route or derive(self.header_key, "route", n, 16)
        header = aead(derive(self.header_key, "header", route, 44), n + (terms or self.terms))
        mac_key = mac_key or self.mac_key
        digest = Poly1305.generate_tag(derive(mac_key, "content", route, 32), body)
        auth = derive(mac_key, "auth", route + len(body).to_bytes(2, "big") + digest, 32)
        front = route + self.handshake + header + auth
        size = len(body) if length is None else length
        plain = size.to_bytes(2, "big") + body
        plain += pad * (SIZE - len(front) - 16 - len(plain))
        return front + aead(derive(self.message_key(number), "body", auth, 44), plain)


@dataclass
class Talk:
    """One session as somebody sees it who knows all secrets. Turn 0 is ``first``'s."""

    first: Person
    second: Person
    version: int = 1
    prekey_kind: int = 1
    chains: list[Chain] = field(default_factory=list)

    def __post_init__(self) -> None:
        me, peer = self.first, self.second
        e_secret = fixed(f"{me.name} e", 32)
        e = bytearray(point(e_secret))
        e[31] |= e_secret[31] & 0x80
        prekey = peer.terms(self.prekey_kind)
        secret, ct = encapsulate(prekey[57:], me.m(0))
        transcript = bytes([self.version]) + peer.identity + prekey + e + ct
        start = derive(dh(e_secret, prekey[25:57]) + secret, "start", transcript, 64)
        handshake = peer.prekey_id + bytes(e) + ct
        terms = me.identity + point(me.auth) + me.public(0)
        digest = derive(b"", "terms", handshake + terms, 32)
        root = derive(start, "root 0", peer.identity + point(peer.auth) + digest, 64)
        self.start_hash = derive(root, "start hash", b"", 32)
        self.root = derive(root, "root", b"", 32)
        self.header_keys = [
            derive(start, "header 0", b"", 32),
            derive(root, "header 1", b"", 32),
            derive(root, "header 2", b"", 32),
        ]
        mac = self.mac(dh(me.auth, prekey[25:57]), me, peer, digest)
        chain_key = derive(root, "chain key", b"", 32)
        self.chains.append(Chain(self.header_keys[0], chain_key, mac, handshake, terms))

    def mac(self, shared: bytes, sender: Person, recipient: Person, digest: bytes) -> bytes:
        data = sender.identity + recipient.identity + self.start_hash + digest
        return derive(shared, "mac", data, 32)

    def turn(self, pn: int, public: bytes | None = None) -> Chain:
        """The next turn, by whoever's it is. ``public`` replaces the keys that it announces."""
        number = len(self.chains)
        me, peer = (self.first, self.second) if number % 2 == 0 else (self.second, self.first)
        x, _, _ = me.draws(number)
        theirs = peer.public(number - 1)
        secret, ct = encapsulate(theirs[64:], me.m(number))
        terms = pn.to_bytes(4, "big") + (public or me.public(number)) + ct
        digest = derive(b"", "terms", terms, 32)
        turn = derive(self.root, "turn", dh(x, theirs[:32]) + secret + digest, 64)
        self.root = derive(turn, "root", b"", 32)
        self.header_keys.append(derive(turn, "next hdr", b"", 32))
        mac = self.mac(dh(me.auth, theirs[32:64]), me, peer, digest)
        chain_key = derive(turn, "chain key", b"", 32)
        self.chains.append(Chain(self.header_keys[number], chain_key, mac, b"", terms))
        return self.chains[-1]
