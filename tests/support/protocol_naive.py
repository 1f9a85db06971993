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

LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
"""Public keys with which every X25519 result is zero, bit 255 clear."""


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


def aead(secret: bytes, plain: bytes, data: bytes = b"") -> bytes:
    return ChaCha20Poly1305(secret[:32]).encrypt(secret[32:44], plain, data)


def unmarked(secret: bytes) -> bytes:
    """A public key whose bit 255 is that of its secret."""
    public = bytearray(point(secret))
    public[31] |= secret[31] & 0x80
    return bytes(public)


def route_of(header_key: bytes, number: int) -> bytes:
    n = number.to_bytes(4, "big")
    tag = derive(header_key, "route", n, 12)
    mask = derive(header_key, "route n", tag, 4)
    return tag + bytes(a ^ b for a, b in zip(n, mask, strict=True))


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

    @property
    def static_ek(self) -> bytes:
        return kem_pair(self.kem)[0]

    @property
    def life(self) -> bytes:
        return fixed(f"{self.name} life", 8)

    def draws(self, turn: int) -> list[bytes]:
        """x secret and auth secret of a turn of this person's, and its KEM seed but in turn 0."""
        where = f"{self.name} turn {turn}"
        seed = [fixed(f"{where} seed", 64)] if turn else []
        return [fixed(f"{where} x", 32), fixed(f"{where} auth", 32), *seed]

    def m(self, turn: int) -> bytes:
        return fixed(f"{self.name} turn {turn} m", 32)

    def outer_draws(self, number: int) -> list[bytes]:
        """f and the KEM's randomness of the outer layer of envelope ``number`` of a turn 0."""
        return [fixed(f"{self.name} f {number}", 32), fixed(f"{self.name} f m {number}", 32)]

    def public(self, turn: int) -> bytes:
        x, auth, *seed = self.draws(turn)
        return point(x) + point(auth) + (kem_pair(seed[0])[0] if seed else self.static_ek)


@dataclass
class Start:
    """What an outer layer is made of: a handshake, for whom, and by whom."""

    handshake: bytes
    sender: Person
    recipient: Person

    def outer(self, number: int, handshake: bytes | None = None) -> tuple[bytes, bytes]:
        """(outer layer, secret) of envelope ``number``."""
        f, m = self.sender.outer_draws(number)
        to, public = self.recipient, unmarked(f)
        secret, ct = encapsulate(to.static_ek, m)
        key = derive(dh(f, point(to.auth)) + secret, "outer", to.identity + public + ct, 64)
        sealed = aead(derive(key, "outer hs", b"", 44), handshake or self.handshake)
        return public + ct + sealed, derive(key, "outer body", b"", 32)


@dataclass
class Chain:
    """One turn: what its envelopes are sealed with. ``start`` in turn 0 only."""

    header_key: bytes
    chain_key: bytes
    mac_key: bytes
    terms: bytes
    start: Start | None = None

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
        message_key: bytes | None = None,
        handshake: bytes | None = None,
        length: int | None = None,
        pad: bytes = b"\0",
    ) -> bytes:
        """Envelope ``number``; the keywords make it other than it ought to be."""
        outer, outer_secret = self.start.outer(number, handshake) if self.start else (b"", b"")
        route = route or route_of(self.header_key, number)
        header = terms or self.terms
        mac_key = mac_key or self.mac_key
        digest = Poly1305.generate_tag(derive(mac_key, "content", route, 32), body)
        auth = derive(mac_key, "auth", route + len(body).to_bytes(2, "big") + digest, 32)
        size = len(body) if length is None else length
        plain = size.to_bytes(2, "big") + body
        rest = SIZE - 16 - len(outer) - len(header) - 16 - 32 - 16
        plain += pad * (rest - len(plain))
        sealed = aead(
            derive(message_key or self.message_key(number), "body", auth + outer_secret, 44), plain
        )
        secret = derive(self.header_key, "header", route + auth + outer_secret, 44)
        return route + outer + aead(secret, header, outer + auth + sealed) + auth + sealed


@dataclass
class Talk:
    """One session as somebody sees it who knows all secrets. Turn 0 is ``first``'s."""

    first: Person
    second: Person
    version: int = 1
    prekey_kind: int = 1
    public: bytes | None = None
    """In the place of X0 | A0 | ek."""
    auth: bytes | None = None
    """In the place of L I."""
    chains: list[Chain] = field(default_factory=list)

    def __post_init__(self) -> None:
        me, peer = self.first, self.second
        e_secret = fixed(f"{me.name} e", 32)
        e = unmarked(e_secret)
        prekey = peer.terms(self.prekey_kind)
        secret, ct = encapsulate(prekey[57:], me.m(0))
        transcript = bytes([self.version]) + peer.identity + prekey + e + ct
        start = derive(dh(e_secret, prekey[25:57]) + secret, "start", transcript, 64)
        handshake = peer.prekey_id + e + ct
        auth = self.auth or point(me.auth)
        terms = me.life + me.identity + auth + (self.public or me.public(0))
        digest = derive(b"", "terms", handshake + terms, 32)
        root = derive(start, "root 0", peer.identity + point(peer.auth) + digest, 64)
        self.start_hash = derive(root, "start hash", b"", 32)
        self.root = derive(root, "root", b"", 32)
        header_key = derive(start, "header 0", b"", 32)
        self.next_header_key = derive(root, "next hdr", b"", 32)
        mac = self.mac(dh(me.auth, prekey[25:57]), me, peer, digest)
        chain_key = derive(root, "chain key", b"", 32)
        outer = Start(handshake, me, peer)
        self.chains.append(Chain(header_key, chain_key, mac, terms, outer))

    def mac(self, shared: bytes, sender: Person, recipient: Person, digest: bytes) -> bytes:
        data = sender.identity + recipient.identity + self.start_hash + digest
        return derive(shared, "mac", data, 32)

    def turn(
        self,
        pn: int,
        public: bytes | None = None,
        life: bytes | None = None,
        *,
        static: bool = True,
    ) -> Chain:
        """The next turn, by whoever's it is. ``public`` replaces the keys that it announces, and
        ``life`` the life. Not ``static``: a turn 1 that leaves out the initiator's static keys."""
        number = len(self.chains)
        me, peer = (self.first, self.second) if number % 2 == 0 else (self.second, self.first)
        x, *_ = me.draws(number)
        theirs = peer.public(number - 1)
        secret, ct = encapsulate(theirs[64:], me.m(number))
        terms = pn.to_bytes(4, "big") + (life or me.life) + (public or me.public(number)) + ct
        digest = derive(b"", "terms", terms, 32)
        shared = dh(x, theirs[:32])
        label = "turn"
        if number == 1 and static:
            shared += dh(x, point(peer.auth))
            label = "turn 1"
        turn = derive(self.root, label, shared + secret + digest, 64)
        self.root = derive(turn, "root", b"", 32)
        mac = self.mac(dh(me.auth, theirs[32:64]), me, peer, digest)
        chain_key = derive(turn, "chain key", b"", 32)
        self.chains.append(Chain(self.next_header_key, chain_key, mac, terms))
        self.next_header_key = derive(turn, "next hdr", b"", 32)
        return self.chains[-1]
