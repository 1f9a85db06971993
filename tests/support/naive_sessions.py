"""Sessions once more, straight from the text of protocol/sessions.rst, Envelope and Session: each
kind of case of the vectors. Nothing of cbfs_common, nor of what makes the vectors. It keeps
everything."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.poly1305 import Poly1305
from kyber_py.ml_kem import ML_KEM_768
from nacl import bindings

from tests.support.naive_layouts import Bytes, Wrong, need
from tests.support.naive_messages import Given, check_ek, decapsulate, dh, kdf, unseal
from tests.support.vectors import Readers, vectors

SKIP_MAX = 4_096


def facts(kind: str, name: str) -> Given:
    return next(case.given for case in vectors("session")[kind] if case.name == name)


def point(secret: bytes) -> bytes:
    return bindings.crypto_scalarmult_base(secret)


def unmarked(secret: bytes) -> bytes:
    public = point(secret)
    return public[:31] + bytes([public[31] | secret[31] & 0x80])


def ek_of(seed: bytes) -> bytes:
    ek: bytes = ML_KEM_768.key_derive(seed)[0]
    return ek


def encapsulate(ek: bytes, m: bytes) -> tuple[bytes, bytes]:
    secret, ct = ML_KEM_768._encaps_internal(ek, m)
    return secret, ct


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def seal(keys: bytes, plain: bytes, data: bytes = b"") -> bytes:
    return ChaCha20Poly1305(keys[:32]).encrypt(keys[32:], plain, data)


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


@dataclass
class Chain:
    """One turn of either side."""

    hk: bytes
    ak: bytes
    terms: bytes
    ck: bytes
    next: int = 0
    skipped: dict[int, bytes] = field(default_factory=dict)
    end: int | None = None
    first: bool = False

    def step(self) -> bytes:
        both = kdf(self.ck, "cbfs1 chain", b"", 64)
        self.ck, self.next = both[:32], self.next + 1
        return both[32:]

    def skip_to(self, n: int) -> None:
        need(n <= self.next + SKIP_MAX, "too far")
        while self.next < n:
            number = self.next
            self.skipped[number] = self.step()

    def route(self, n: int) -> bytes:
        tag = kdf(self.hk, "cbfs1 route", u32(n), 12)
        return tag + xor(u32(n), kdf(self.hk, "cbfs1 route n", tag, 4))

    def number(self, route: bytes) -> int | None:
        mask = kdf(self.hk, "cbfs1 route n", route[:12], 4)
        n = int.from_bytes(xor(route[12:], mask), "big")
        return n if self.route(n) == route else None

    def auth(self, route: bytes, body: bytes) -> bytes:
        digest = Poly1305.generate_tag(kdf(self.ak, "cbfs1 content", route, 32), body)
        size = len(body).to_bytes(2, "big")
        return kdf(self.ak, "cbfs1 auth", route + size + digest, 32)


@dataclass
class Letter:
    """The fields of an envelope; ``ob`` and ``handshake`` of an outer layer."""

    route: bytes
    outer: bytes
    header: bytes
    auth: bytes
    body: bytes
    ob: bytes = b""
    handshake: bytes = b""


def cut(envelope: bytes, *, first: bool) -> Letter:
    need(len(envelope) == 16_384, "noise")
    fields = Bytes(envelope)
    route, outer = fields.take(16), fields.take(2_272 if first else 0)
    header = fields.take(1_336 if first else 2_364)
    return Letter(route, outer, header, fields.take(32), fields.rest)


def open_outer(me: Given, letter: Letter) -> None:
    fields = Bytes(letter.outer)
    f, ct = fields.take(32), fields.take(1_088)
    shared = _noise(dh, me["auth_secret"], f) + decapsulate(me["kem_seed"], ct)
    k = kdf(shared, "cbfs1 outer", me["identity"] + f + ct, 64)
    letter.handshake = _noise(unseal, kdf(k, "cbfs1 outer hs", b"", 44), fields.rest)
    letter.ob = kdf(k, "cbfs1 outer body", b"", 32)


def _noise(call: Any, *arguments: bytes) -> bytes:
    try:
        found: bytes = call(*arguments)
    except Wrong:
        raise Wrong("noise") from None
    return found


def open_header(hk: bytes, letter: Letter) -> bytes:
    keys = kdf(hk, "cbfs1 header", letter.route + letter.auth + letter.ob, 44)
    return _noise(unseal, keys, letter.header, letter.outer + letter.auth + letter.body)


def open_body(chain: Chain, key: bytes, letter: Letter) -> bytes:
    fields = Bytes(unseal(kdf(key, "cbfs1 body", letter.auth + letter.ob, 44), letter.body))
    size = fields.u(2)
    need(size <= 12_710 and size <= len(fields.rest))
    body = fields.take(size)
    need(not any(fields.rest))
    need(chain.auth(letter.route, body) == letter.auth)
    return body


class Side:
    """Somebody with one session: ``me`` as persons stand in the vectors, and so what is drawn for
    each turn."""

    def __init__(self, me: Given, draw: Callable[[int], Given]) -> None:
        self.me = me
        self.draw = draw
        self.peer_id = self.peer_auth = self.start_hash = b""
        self.turn = 0
        self.root = self.next_hk = b""
        self.mine: Given | None = None
        self.theirs: bytes = b""
        self.sending: Chain | None = None
        self.receiving: list[Chain] = []
        self.to_ek = b""

    def _turned(self, s: bytes, turn: int) -> bytes:
        """Take over what follows from the secret of a turn, and give its first chain key."""
        self.turn = turn
        self.root = kdf(s, "cbfs1 root", b"", 32)
        self.next_hk = kdf(s, "cbfs1 next hdr", b"", 32)
        return kdf(s, "cbfs1 chain key", b"", 32)

    def _ak(self, proof: bytes, sender: bytes, recipient: bytes, digest: bytes) -> bytes:
        data = sender + recipient + self.start_hash + digest
        return kdf(proof, "cbfs1 mac", data, 32)

    def start(self, peer_id: bytes, peer_auth: bytes, to_ek: bytes, prekey: bytes) -> None:
        """Begin, with whom these belong to; ``prekey``: its terms."""
        me, drawn = self.me, self.draw(0)
        self.peer_id, self.peer_auth = peer_id, peer_auth
        self.to_ek, self.mine = to_ek, drawn
        e = unmarked(drawn["e_secret"])
        secret, ct = encapsulate(prekey[57:], drawn["m"])
        shared = dh(drawn["e_secret"], prekey[25:57]) + secret
        handshake = prekey[:16] + e + ct
        public = point(drawn["x_secret"]) + point(drawn["auth_secret"]) + ek_of(me["kem_seed"])
        who = me["life"] + me["identity"] + point(me["auth_secret"])
        hk, s, digest = self._begin(shared, self.peer_id, self.peer_auth, prekey,
                                    handshake, who + public)  # fmt: skip
        chain_key = self._turned(s, 0)
        ak = self._ak(dh(me["auth_secret"], prekey[25:57]), me["identity"], self.peer_id, digest)
        self.sending = Chain(hk, ak, handshake + who + public, chain_key, first=True)

    def _begin(
        self, shared: bytes, r: bytes, auth_r: bytes, prekey: bytes, handshake: bytes, header: bytes
    ) -> tuple[bytes, bytes, bytes]:
        """HK 0, S0 and the digest of the terms."""
        before = start_secret(shared, r, prekey, handshake)
        digest = kdf(b"", "cbfs1 terms", handshake + header, 32)
        s = kdf(before, "cbfs1 root 0", r + auth_r + digest, 64)
        self.start_hash = kdf(s, "cbfs1 start hash", b"", 32)
        return kdf(before, "cbfs1 header 0", b"", 32), s, digest

    # Sealing

    def seal(self, turn: int, n: int, body: bytes, f_secret: bytes, f_m: bytes) -> bytes:
        if self.mine is None:
            self._make_turn(turn)
        chain = self.sending
        assert chain is not None and (turn, n) == (self.turn, chain.next)
        outer = ob = b""
        header = chain.terms
        if chain.first:
            header = chain.terms[1_136:]
            f = unmarked(f_secret)
            secret, ct = encapsulate(self.to_ek, f_m)
            k = kdf(dh(f_secret, self.peer_auth) + secret, "cbfs1 outer", self.peer_id + f + ct, 64)
            hidden = seal(kdf(k, "cbfs1 outer hs", b"", 44), chain.terms[:1_136])
            outer, ob = f + ct + hidden, kdf(k, "cbfs1 outer body", b"", 32)
        route = chain.route(n)
        auth = chain.auth(route, body)
        size = 12_728 if chain.first else 13_972
        padded = (len(body).to_bytes(2, "big") + body).ljust(size - 16, b"\0")
        words = seal(kdf(chain.step(), "cbfs1 body", auth + ob, 44), padded)
        keys = kdf(chain.hk, "cbfs1 header", route + auth + ob, 44)
        return route + outer + seal(keys, header, outer + auth + words) + auth + words

    def _make_turn(self, turn: int) -> None:
        me, drawn = self.me, self.draw(turn)
        x, a, ek = self.theirs[:32], self.theirs[32:64], self.theirs[64:]
        secret, ct = encapsulate(ek, drawn["m"])
        before = self.sending.next if self.sending else 0
        public = point(drawn["x_secret"]) + point(drawn["auth_secret"]) + ek_of(drawn["kem_seed"])
        terms = u32(before) + me["life"] + public + ct
        digest = kdf(b"", "cbfs1 terms", terms, 32)
        shared, label = dh(drawn["x_secret"], x), "cbfs1 turn"
        if turn == 1:
            shared, label = shared + dh(drawn["x_secret"], self.peer_auth), "cbfs1 turn 1"
        s = kdf(self.root, label, shared + secret + digest, 64)
        ak = self._ak(dh(me["auth_secret"], a), me["identity"], self.peer_id, digest)
        hk = self.next_hk
        self.sending = Chain(hk, ak, terms, self._turned(s, turn))
        self.mine = drawn

    # Opening

    def open(self, envelope: bytes) -> bytes:
        if not self.receiving and self.sending is None:
            return self._open_first(envelope)
        for chain in reversed(self.receiving):
            letter = cut(envelope, first=chain.first)
            n = chain.number(letter.route)
            if n is not None:
                if chain.first:
                    open_outer(self.me, letter)
                terms = letter.handshake + open_header(chain.hk, letter)
                return _diverged(self._open_known, chain, n, terms, letter)
        letter = cut(envelope, first=False)
        coming = Chain(self.next_hk, b"", b"", b"")
        n = coming.number(letter.route)
        need(n is not None and self.mine is not None, "noise")
        terms = open_header(self.next_hk, letter)
        return _diverged(self._open_turn, n, terms, letter)

    def _open_known(self, chain: Chain, n: int, terms: bytes, letter: Letter) -> bytes:
        need(terms == chain.terms)
        need(chain.end is None or n < chain.end)
        if n < chain.next:
            need(n in chain.skipped, "duplicate")
            body = open_body(chain, chain.skipped[n], letter)
            del chain.skipped[n]
            return body
        chain.skip_to(n)
        return open_body(chain, chain.step(), letter)

    def _open_first(self, envelope: bytes) -> bytes:
        me = self.me
        letter = cut(envelope, first=True)
        open_outer(me, letter)
        fields = Bytes(letter.handshake)
        need(fields.take(16) == me["prekey_id"], "noise")
        e, ct = fields.take(32), fields.rest
        shared = _noise(dh, me["prekey_x_secret"], e) + decapsulate(me["prekey_kem_seed"], ct)
        prekey = prekey_terms(me)
        before = start_secret(shared, me["identity"], prekey, letter.handshake)
        chain = Chain(kdf(before, "cbfs1 header 0", b"", 32), b"", b"", b"", first=True)
        n = chain.number(letter.route)
        need(n is not None, "noise")
        assert n is not None
        header = open_header(chain.hk, letter)
        try:
            fields = Bytes(header[8:])
            self.peer_id, self.peer_auth, self.theirs = (
                fields.take(32),
                fields.take(32),
                fields.rest,
            )
            need(self.peer_id != me["identity"])
            check_keys(self.theirs)
            dh(me["auth_secret"], self.peer_auth)
            own = point(me["auth_secret"])
            _, s, digest = self._begin(
                shared, me["identity"], own, prekey, letter.handshake, header
            )
            chain.terms = letter.handshake + header
            chain.ck = self._turned(s, 0)
            proof = dh(me["prekey_x_secret"], self.peer_auth)
            chain.ak = self._ak(proof, self.peer_id, me["identity"], digest)
            chain.skip_to(n)
            body = open_body(chain, chain.step(), letter)
        except Wrong as error:
            raise Wrong("too far" if error.name == "too far" else "noise") from None
        self.receiving = [chain]
        return body

    def _open_turn(self, n: int, terms: bytes, letter: Letter) -> bytes:
        me, drawn = self.me, self.mine
        assert drawn is not None
        fields = Bytes(terms)
        pn, life, public, ct = fields.u(4), fields.take(8), fields.take(1_248), fields.rest
        last = self.receiving[-1] if self.receiving else None
        if last is None:
            need(pn == 0)
        else:
            at = 1_136 if last.first else 4
            need(pn >= last.next and life == last.terms[at : at + 8])
            last.skip_to(pn)
            last.end = pn
        check_keys(public)
        digest = kdf(b"", "cbfs1 terms", terms, 32)
        shared, label = dh(drawn["x_secret"], public[:32]), "cbfs1 turn"
        seed = drawn["kem_seed"]
        if self.turn == 0:
            shared, label = shared + dh(me["auth_secret"], public[:32]), "cbfs1 turn 1"
            seed = me["kem_seed"]
        s = kdf(self.root, label, shared + decapsulate(seed, ct) + digest, 64)
        ak = self._ak(
            dh(drawn["auth_secret"], self.peer_auth), self.peer_id, me["identity"], digest
        )
        hk = self.next_hk
        chain = Chain(hk, ak, terms, self._turned(s, self.turn + 1))
        chain.skip_to(n)
        body = open_body(chain, chain.step(), letter)
        self.receiving.append(chain)
        self.theirs, self.mine = public, None
        return body


def _diverged(call: Any, *arguments: Any) -> bytes:
    """Where the header of a known session has opened, what is wrong is that."""
    try:
        body: bytes = call(*arguments)
    except Wrong as error:
        kept = error.name in {"duplicate", "too far"}
        raise Wrong(error.name if kept else "diverged") from None
    return body


def check_keys(public: bytes) -> None:
    for key in (public[:32], public[32:64]):
        dh(b"\x08" + bytes(30) + b"\x40", key)
    check_ek(public[64:])


def prekey_terms(owner: Given) -> bytes:
    x, ek = point(owner["prekey_x_secret"]), ek_of(owner["prekey_kem_seed"])
    expires = owner["prekey_expires"].to_bytes(8, "big")
    terms: bytes = owner["prekey_id"] + bytes([owner["prekey_kind"]]) + expires + x + ek
    return terms


def start_secret(shared: bytes, r: bytes, prekey: bytes, handshake: bytes) -> bytes:
    return kdf(shared, "cbfs1 start", b"\x01" + r + prekey + handshake[16:], 64)


# Readers


def _after(name: str, history: list[str]) -> Side:
    side = Side(facts("person", name), lambda turn: facts("turn", f"turn {turn}"))
    if name == "alice":
        bob = facts("person", "bob")
        auth, ek = point(bob["auth_secret"]), ek_of(bob["kem_seed"])
        side.start(bob["identity"], auth, ek, prekey_terms(bob))
    for each in history:
        case = next(case for case in vectors("session")["sealed"] if case.name == each)
        assert case.gives is not None
        if (case.given["turn"] % 2 == 0) == (name == "alice"):
            assert side.seal(**case.given) == case.gives["envelope"]
        else:
            assert side.open(case.gives["envelope"]) == case.given["body"]
    return side


def sealed(turn: int, n: int, body: bytes, f_secret: bytes, f_m: bytes) -> Given:
    above = [case.name for case in vectors("session")["sealed"]]
    above = above[: above.index(f"turn {turn} n {n}")]
    side = _after("bob" if turn % 2 else "alice", above)
    return {"envelope": side.seal(turn, n, body, f_secret, f_m)}


def opened(by: str, history: list[str], envelope: bytes) -> Given:
    return {"body": _after(by, history).open(envelope)}


READERS: Readers = {
    ("session", "person"): lambda **_: {},
    ("session", "turn"): lambda **_: {},
    ("session", "start"): lambda: {"start_hash": _after("alice", []).start_hash},
    ("session", "sealed"): sealed,
    ("session", "opened"): opened,
}
