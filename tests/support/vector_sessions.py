"""session.json as the programs' code reads it: see ``tests.support.vector_code``."""

from typing import Any

from cbfs_common import errors, primitives
from cbfs_common.profile import kem_id
from cbfs_common.session import session
from cbfs_common.session.prekey import Prekey, PrekeyKind, PrekeyPair, decode_prekey, make_prekey
from tests.support.talking import NOW, scripted
from tests.support.vectors import Readers, vectors

Given = dict[str, Any]

ERRORS: dict[type[Exception], str] = {
    errors.CryptoError: "noise",
    session.SessionDiverged: "diverged",
    session.Duplicate: "duplicate",
    session.TooFar: "too far",
}
SEED = bytes(32)
"""With which a prekey is signed; no case looks at that."""


class Refused(Exception):
    """An envelope was refused, with the name of the error."""


def facts(kind: str, name: str) -> Given:
    return next(case.given for case in vectors("session")[kind] if case.name == name)


def sender_of(turn: int) -> str:
    return "bob" if turn % 2 else "alice"


class Side:
    """Alice or bob, with one session."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.own = facts("person", name)
        self.me = _party(self.own)
        self.session = _started(self.me, self.own) if name == "alice" else None

    def seal(self, turn: int, n: int, body: bytes, f_secret: bytes, f_m: bytes) -> bytes:
        assert self.session is not None
        drawn = facts("turn", f"turn {turn}")
        keys = [drawn[key] for key in ("x_secret", "auth_secret", "kem_seed", "m")]
        draws = keys if self.session.needs_turn else []
        draws += [f_secret, f_m] if f_secret else []
        random = scripted(draws)
        self.session, envelope = self.session.seal(self.me, body, random, self.own["life"])
        assert self.session.turn == turn
        return envelope

    def open(self, envelope: bytes) -> bytes:
        before = self.session
        try:
            if before is None:
                outer = session.outer_of(self.me, envelope)
                pair, _ = _prekey(self.own)
                self.session, body = session.open_first(self.me, pair, outer, envelope, NOW)
            else:
                self.session, body = before.open(self.me, envelope, NOW)
        except tuple(ERRORS) as error:
            assert self.session is before, "it is as it was"
            raise Refused(ERRORS[type(error)]) from error
        return body


def _party(own: Given) -> session.Party:
    auth = own["auth_secret"]
    kem = primitives.KemKey(own["kem_seed"])
    return session.Party(own["identity"], auth, primitives.dh_public(auth), kem)


def _prekey(own: Given) -> tuple[PrekeyPair, Prekey]:
    drawn = scripted([own[key] for key in ("prekey_id", "prekey_x_secret", "prekey_kem_seed")])
    pair = make_prekey(drawn, PrekeyKind(own["prekey_kind"]), own["prekey_expires"])
    return pair, decode_prekey(pair.public(SEED))


def _started(me: session.Party, own: Given) -> session.Session:
    theirs, drawn = facts("person", "bob"), facts("turn", "turn 0")
    public = primitives.kem_public(theirs["kem_seed"])
    auth = primitives.dh_public(theirs["auth_secret"])
    peer = session.Peer(theirs["identity"], auth, kem_id(public))
    draws = [drawn[key] for key in ("x_secret", "auth_secret", "e_secret", "m")]
    return session.start(me, peer, _prekey(theirs)[1], public, own["life"], scripted(draws))


def _after(name: str, history: list[str]) -> Side:
    side = Side(name)
    for each in history:
        case = next(case for case in vectors("session")["sealed"] if case.name == each)
        assert case.gives is not None
        if sender_of(case.given["turn"]) == name:
            assert side.seal(**case.given) == case.gives["envelope"]
        else:
            assert side.open(case.gives["envelope"]) == case.given["body"]
    return side


def start() -> Given:
    made = Side("alice").session
    assert made is not None
    assert made.id == made.start_hash[:16]
    return {"start_hash": made.start_hash}


def sealed(turn: int, n: int, body: bytes, f_secret: bytes, f_m: bytes) -> Given:
    above = [case.name for case in vectors("session")["sealed"]]
    above = above[: above.index(f"turn {turn} n {n}")]
    side = _after(sender_of(turn), above)
    return {"envelope": side.seal(turn, n, body, f_secret, f_m)}


def opened(by: str, history: list[str], envelope: bytes) -> Given:
    return {"body": _after(by, history).open(envelope)}


READERS: Readers = {
    ("session", "person"): lambda **_: {},
    ("session", "turn"): lambda **_: {},
    ("session", "start"): start,
    ("session", "sealed"): sealed,
    ("session", "opened"): opened,
}
