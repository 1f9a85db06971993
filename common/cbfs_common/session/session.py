"""Sessions: what two people share. PROTOCOL.rst, Session.

A session is a value: ``seal`` and ``open`` give a new one beside their output and leave the old
one as it was. Store the new one before the envelope leaves, and in one transaction with the
body that came out. A session that was restored from a backup must not be used again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from cbfs_common.errors import CryptoError, LimitError
from cbfs_common.limits import BODY_MAX, ENVELOPE_SIZE, SKIP_MAX
from cbfs_common.primitives import (
    KEM_CIPHERTEXT_SIZE,
    KEY_SIZE,
    Random,
    check_dh_public,
    check_kem_public,
    dh,
    dh_public_unmarked,
    kem_decapsulate,
)
from cbfs_common.profile import kem_id
from cbfs_common.session.envelope import (
    FIRST,
    HANDSHAKE_SIZE,
    LATER,
    LIFE_SIZE,
    NUMBER_SIZE,
    PREKEY_ID_SIZE,
    Layout,
    Outer,
    Seal,
    make_outer,
    number_of,
    open_body,
    open_header,
    open_outer,
    seal_envelope,
)
from cbfs_common.session.prekey import Prekey, PrekeyPair
from cbfs_common.session.ratchet import (
    PeerKeys,
    TurnKeys,
    answer_secret,
    chain_step,
    first_chain_key,
    first_header_key,
    first_root_secret,
    life_of,
    mac_key,
    make_start_keys,
    make_turn_keys,
    next_header_key,
    peer_keys,
    root_key,
    start_hash,
    start_secret,
    terms_digest,
    turn_secret,
)
from cbfs_common.session.state import (
    Core,
    Party,
    Peer,
    Receiving,
    Retired,
    Sending,
    Skipped,
    State,
    add_skipped,
    bring_skipped_back,
    decode_state,
    expire_skipped,
    limit_skipped,
    without,
)
from cbfs_common.session.states import Stage

__all__ = [
    "LIFE_SIZE",
    "Duplicate",
    "Outer",
    "Party",
    "Peer",
    "Session",
    "SessionDiverged",
    "Stage",
    "TooFar",
    "TurnKeys",
    "decode_session",
    "make_turn_keys",
    "open_first",
    "outer_of",
    "start",
]

SESSION_ID_SIZE = 16
PROTOCOL_VERSION = 1
NUMBER_END = 2**32
"""Messages of one turn."""

_NONE: Skipped = {}
_SENDER = HANDSHAKE_SIZE + LIFE_SIZE
_SENDER_AUTH = _SENDER + KEY_SIZE
_SENDER_END = _SENDER_AUTH + KEY_SIZE


class Duplicate(CryptoError):
    """An envelope that was opened before, or a copy of one. It can be dropped."""


class SessionDiverged(CryptoError):
    """An envelope that was sealed with the header key of this session, whole and unchanged, and
    that this state cannot open: the two sides have come apart. A server alone brings this about
    only by holding back starts by last-resort prekeys until others have crowded them out."""


class TooFar(LimitError):
    """An envelope more than SKIP_MAX messages ahead. It opens once some of those before it have
    come: keep it."""


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """One session with one peer, made by ``start`` or ``open_first``."""

    state: State

    @property
    def id(self) -> bytes:
        """16 bytes, the same on both sides and for as long as the session lives."""
        return self.state.core.start[:SESSION_ID_SIZE]

    @property
    def start_hash(self) -> bytes:
        """32 bytes, the same on both sides: the transcript of the start."""
        return self.state.core.start

    @property
    def peer(self) -> Peer:
        """The other. After ``open_first`` the MAC has shown that the sender holds this auth key, or
        the prekey's secrets; that the identity has these keys is for the name directory to say."""
        return self.state.core.peer

    @property
    def own_identity(self) -> bytes:
        """One's own ``Profile.identity`` (32) that this session is of."""
        return self.state.core.identity

    @property
    def stage(self) -> Stage:
        """How far it has come: OUT becomes CONFIRMED by opening turn 1, IN by opening turn 2."""
        receiving = self.state.receiving
        if receiving is None:
            return Stage.OUT
        return Stage.IN if receiving.seal.layout is FIRST else Stage.CONFIRMED

    @property
    def turn(self) -> int:
        """The number of the newest turn that was made or opened here: 0 after the start, even ones
        are the initiator's. The peer has opened all of one's own but the newest, if that is it."""
        return self.state.core.turn

    @property
    def begun_here(self) -> bool:
        """Whether this side is the initiator, whose turns are the even ones."""
        own = self.turn - 1 if self.needs_turn else self.turn
        return own % 2 == 0

    @property
    def proven(self) -> bool:
        """Whether the peer has opened a turn of this side that proves it, so that the session is
        confirmed there: turn 2 of the initiator (then turn 3 has come), turn 1 of the
        responder."""
        return self.turn >= 3 if self.begun_here else self.turn >= 2

    @property
    def own_life(self) -> bytes | None:
        """One's own life (8) that was said in this session; None while nothing was sealed."""
        sending = self.state.sending
        return life_of(sending.seal.layout, sending.seal.terms) if sending else None

    @property
    def peer_life(self) -> bytes | None:
        """The peer's life (8), the same in all its turns; None while nothing was opened. Only in a
        CONFIRMED session it is the peer that has said it."""
        receiving = self.state.receiving
        return life_of(receiving.seal.layout, receiving.seal.terms) if receiving else None

    @property
    def answered(self) -> bool:
        """Whether anything was ever sealed with it here."""
        return self.state.sending is not None

    @property
    def heard(self) -> bool:
        """Whether anything of the peer was ever opened with it, so that the peer has it."""
        return self.state.receiving is not None

    @property
    def number(self) -> int:
        """That after the highest that has opened of the peer's last turn; 0 before any has."""
        return self.state.receiving.number if self.state.receiving else 0

    def only_from(self, number: int) -> Self:
        """Without the keys of messages of the peer's last turn before this number that are not
        here: they may have been, when this session was here before."""
        receiving = self.state.receiving
        if receiving is None:
            return self
        skipped = {n: key for n, key in receiving.skipped.items() if n >= number}
        receiving = replace(receiving, skipped=skipped)
        return type(self)(replace(self.state, receiving=receiving))

    @property
    def needs_turn(self) -> bool:
        """Whether the next ``seal`` makes a turn, and so uses up turn keys."""
        return self.state.sending is None or self.state.sending.keys is None

    def seal(
        self, me: Party, body: bytes, random: Random, life: bytes, keys: TurnKeys | None = None
    ) -> tuple[Self, bytes]:
        """(new session, envelope of ENVELOPE_SIZE bytes). ``life`` (8) is one's own for this peer;
        it is said in the first turn that is made here, and later turns repeat it. ``keys`` are turn
        keys made ahead, for when ``needs_turn``. Raises LimitError when ``body`` has over BODY_MAX
        bytes."""
        if len(body) > BODY_MAX:
            raise LimitError("the message is too long for one envelope")
        state = self.state
        core, sending = state.core, state.sending
        if sending is None or sending.keys is None:
            life = self.own_life or life
            core, sending = _turn(state, me, random, life, keys or make_turn_keys(random))
        if sending.number == NUMBER_END:
            raise LimitError("too many messages without an answer")
        seal, outer = sending.seal, None
        if seal.layout is FIRST:
            peer, handshake = core.peer, seal.terms[:HANDSHAKE_SIZE]
            kem = sending.recipient_kem
            outer = make_outer(peer.identity, peer.auth_public, kem, handshake, random)
        chain_key, message_key = chain_step(sending.chain_key)
        envelope = seal_envelope(seal, sending.number, message_key, body, outer)
        number, kem = sending.number + 1, sending.recipient_kem
        sending = Sending(seal, chain_key, number, sending.keys, kem)
        return type(self)(State(core, sending, state.receiving, state.retired)), envelope

    def open(
        self, me: Party, envelope: bytes, now: int, outer: Outer | None = None
    ) -> tuple[Self, bytes]:
        """(new session, body) of an envelope of this session; ``now`` in seconds since 1970.
        ``me`` has ``own_identity``; ``outer`` is its ``outer_of`` the envelope, when that is known.

        Raises CryptoError when it is not one, with any bit that is not as the peer has sealed it;
        SessionDiverged when it is, and cannot be opened all the same; Duplicate when it was opened
        before, TooFar when it is too far ahead. Nothing has changed then."""
        if len(envelope) != ENVELOPE_SIZE or me.identity != self.own_identity:
            raise CryptoError("cannot be opened")
        place, letter = _find(self.state, me, envelope, outer)
        try:
            state, body = _open(self.state, me, place, letter, now)
        except Duplicate:
            raise
        except CryptoError as error:
            raise SessionDiverged("cannot be opened") from error
        return type(self)(state), body

    def expire(self, now: int) -> Self:
        """Forget the skipped keys older than SKIPPED_LIFETIME at ``now`` (seconds). Gives
        ``self`` when there are none."""
        state = self.state
        receiving, retired = expire_skipped(state.receiving, state.retired, now)
        expired = State(state.core, state.sending, receiving, retired)
        return self if expired == state else type(self)(expired)

    def bring_back(self, now: int) -> Self:
        """No skipped key is younger than ``now`` (seconds): it was dated by a clock that was ahead.
        Gives ``self`` when none is."""
        state = self.state
        receiving, retired = bring_skipped_back(state.receiving, state.retired, now)
        brought = State(state.core, state.sending, receiving, retired)
        return self if brought == state else type(self)(brought)

    def encode(self) -> bytes:
        """For the store; see ``decode_session``. Holds secrets."""
        return self.state.encode()


def decode_session(data: bytes) -> Session:
    """Undo ``Session.encode``. Raises DecodeError."""
    return Session(decode_state(data))


def outer_of(me: Party, envelope: bytes) -> Outer:
    """The outer layer of an envelope of a first chain to one's static keys. It says nothing of the
    sender: anybody can make one. Raises CryptoError when there is none, as in all later chains."""
    return open_outer(me.identity, me.auth_secret, me.kem, envelope)


def start(
    me: Party, peer: Peer, prekey: Prekey, kem_public: bytes, life: bytes, random: Random
) -> Session:
    """A session that can be sealed with at once. ``prekey`` is the peer's, and was verified;
    ``kem_public`` came with it: the peer's static ML-KEM public key (1184). ``life`` (8) is one's
    own for this peer. Raises CryptoError, also when ``kem_public`` is not that of the profile."""
    if me.identity == peer.identity:
        raise CryptoError("a session takes two people")
    if kem_id(kem_public) != peer.kem:
        raise CryptoError("not the KEM key of the profile")
    check_kem_public(kem_public)
    check_dh_public(peer.auth_public)
    keys = make_start_keys(random, me.kem)
    e_secret = random.token(KEY_SIZE)
    e = dh_public_unmarked(e_secret)
    secret, ciphertext = random.encapsulate(prekey.ek)
    shared = dh(e_secret, prekey.x) + secret
    secret = start_secret(shared, _start_transcript(peer.identity, prekey.terms, e, ciphertext))
    handshake = prekey.id + e + ciphertext
    terms = b"".join((handshake, life, me.identity, me.auth_public, keys.public))
    digest = terms_digest(terms)
    root = first_root_secret(secret, peer.identity, peer.auth_public, digest)
    core = Core(start_hash(root), me.identity, peer, 0, root_key(root), next_header_key(root))
    mac = mac_key(dh(me.auth_secret, prekey.x), me.identity, peer.identity, core.start, digest)
    seal = Seal(FIRST, first_header_key(secret), mac, terms, digest)
    sending = Sending(seal, first_chain_key(root), 0, keys, kem_public)
    return Session(State(core, sending, None, ()))


def open_first(
    me: Party, pair: PrekeyPair, outer: Outer, envelope: bytes, now: int
) -> tuple[Session, bytes]:
    """(session, body) of an envelope of somebody's first chain, whose ``outer`` layer names the
    prekey ``pair``; ``now`` in seconds since 1970. Raises CryptoError, or TooFar.

    A last-resort prekey stays, so this also opens later envelopes, and copies, of a start that
    is known already: when there is a session with the ``id`` of the one that comes out, drop
    this one and ``open`` the envelope with that one.
    """
    handshake = outer.handshake
    if outer.prekey_id != pair.id or len(envelope) != ENVELOPE_SIZE:
        raise CryptoError("cannot be opened")
    e, ciphertext = handshake[PREKEY_ID_SIZE:-KEM_CIPHERTEXT_SIZE], handshake[-KEM_CIPHERTEXT_SIZE:]
    shared = dh(pair.x_secret, e) + kem_decapsulate(pair.kem_seed, ciphertext)
    secret = start_secret(shared, _start_transcript(me.identity, pair.terms, e, ciphertext))
    header_key = first_header_key(secret)
    number = number_of(header_key, envelope)
    if number is None:
        raise CryptoError("cannot be opened")
    terms = open_header(FIRST, header_key, envelope, outer)
    theirs = peer_keys(FIRST, terms)
    identity, auth = terms[_SENDER:_SENDER_AUTH], terms[_SENDER_AUTH:_SENDER_END]
    if identity == me.identity:
        raise CryptoError("cannot be opened")
    check_dh_public(auth)
    check_dh_public(theirs.ratchet)
    _check_peer_keys(theirs)
    peer = Peer(identity, auth, kem_id(theirs.ek))
    digest = terms_digest(terms)
    root = first_root_secret(secret, me.identity, me.auth_public, digest)
    core = Core(start_hash(root), me.identity, peer, 0, root_key(root), next_header_key(root))
    mac = mac_key(dh(pair.x_secret, auth), identity, me.identity, core.start, digest)
    receiving = Receiving(
        Seal(FIRST, header_key, mac, terms, digest), first_chain_key(root), 0, _NONE
    )
    letter = _Letter(envelope, number, terms, outer)
    receiving, body = _open_current(receiving, letter, now)
    limited, _ = limit_skipped(receiving, ())
    return Session(State(core, None, limited, ())), body


def _start_transcript(recipient: bytes, prekey_terms: bytes, e: bytes, ciphertext: bytes) -> bytes:
    return b"".join((bytes([PROTOCOL_VERSION]), recipient, prekey_terms, e, ciphertext))


def _turn(
    state: State, me: Party, random: Random, life: bytes, keys: TurnKeys
) -> tuple[Core, Sending]:
    """One's own next turn, in answer to the peer's last one."""
    core = state.core
    if state.receiving is None or keys.kem is None:
        raise CryptoError("the session is damaged")
    theirs = peer_keys(state.receiving.seal.layout, state.receiving.seal.terms)
    secret, ciphertext = random.encapsulate(theirs.ek)
    before = state.sending.number if state.sending else 0
    terms = b"".join((before.to_bytes(NUMBER_SIZE, "big"), life, keys.public, ciphertext))
    digest = terms_digest(terms)
    shared = dh(keys.x_secret, theirs.ratchet)
    if core.turn == 0:
        shared += dh(keys.x_secret, core.peer.auth_public)
        secret = answer_secret(core.root, shared + secret, digest)
    else:
        secret = turn_secret(core.root, shared + secret, digest)
    proof = dh(me.auth_secret, theirs.auth)
    mac = mac_key(proof, core.identity, core.peer.identity, core.start, digest)
    seal = Seal(LATER, core.next_header, mac, terms, digest)
    return _turned(core, secret), Sending(seal, first_chain_key(secret), 0, keys)


def _turned(core: Core, secret: bytes) -> Core:
    """After a turn of either side, by its secret."""
    root, header = root_key(secret), next_header_key(secret)
    return Core(core.start, core.identity, core.peer, core.turn + 1, root, header)


@dataclass(frozen=True, slots=True, repr=False)
class _Letter:
    """An envelope whose header opened: its number and terms, and its outer layer in turn 0."""

    envelope: bytes
    number: int
    terms: bytes
    outer: Outer | None


_LAST, _NEXT = -1, -2
"""Places of the chains of a state that are not among the retired ones."""


def _find(state: State, me: Party, envelope: bytes, outer: Outer | None) -> tuple[int, _Letter]:
    """The chain that an envelope is of: _LAST, _NEXT, or its place among the retired ones; the
    likeliest is tried first. Raises CryptoError when it is of none, or any bit of it is wrong."""
    for place, layout, header_key in _chains(state):
        number = number_of(header_key, envelope)
        if number is not None:
            outer = (outer or outer_of(me, envelope)) if layout is FIRST else None
            terms = open_header(layout, header_key, envelope, outer)
            return place, _Letter(envelope, number, terms, outer)
    raise CryptoError("cannot be opened")


def _chains(state: State) -> Iterator[tuple[int, Layout, bytes]]:
    if state.receiving is not None:
        yield _LAST, state.receiving.seal.layout, state.receiving.seal.header_key
    if state.next_receiving is not None:
        yield _NEXT, LATER, state.next_receiving
    for place, chain in enumerate(state.retired):
        yield place, chain.layout, chain.header_key


def _open(state: State, me: Party, place: int, letter: _Letter, now: int) -> tuple[State, bytes]:
    if place == _NEXT:
        return _open_turn(state, me, letter, now)
    receiving, retired = state.receiving, state.retired
    if place != _LAST:
        late, body = _open_late(retired[place], letter)
        _, retired = limit_skipped(None, (*retired[:place], late, *retired[place + 1 :]))
    elif receiving is not None:
        before = len(receiving.skipped)
        receiving, body = _open_current(receiving, letter, now)
        if len(receiving.skipped) > before:
            limited, retired = limit_skipped(receiving, retired)
            receiving = limited or receiving
    return State(state.core, state.sending, receiving, retired), body


def _open_current(chain: Receiving, letter: _Letter, now: int) -> tuple[Receiving, bytes]:
    """Open a message of the peer's last turn."""
    seal, number = chain.seal, letter.number
    if letter.terms != seal.terms:
        raise CryptoError("cannot be opened")
    if number < chain.number:
        body = _open_skipped(seal.layout, seal.mac_key, chain.skipped, letter)
        skipped = without(chain.skipped, number)
        return Receiving(seal, chain.chain_key, chain.number, skipped), body
    chain_key, more = _advance(chain, number, now)
    chain_key, message_key = chain_step(chain_key)
    body = open_body(seal.layout, seal.mac_key, message_key, letter.envelope, letter.outer)
    return Receiving(seal, chain_key, number + 1, add_skipped(chain.skipped, more)), body


def _open_skipped(layout: Layout, mac_key: bytes, skipped: Skipped, letter: _Letter) -> bytes:
    if letter.number not in skipped:
        raise Duplicate("this was opened before")
    message_key = skipped[letter.number][0]
    return open_body(layout, mac_key, message_key, letter.envelope, letter.outer)


def _advance(chain: Receiving, end: int, now: int) -> tuple[bytes, Skipped]:
    """The chain key of message ``end``, and the keys of those before it that have not come."""
    if end == chain.number:
        return chain.chain_key, _NONE
    if end - chain.number > SKIP_MAX:
        raise TooFar("too far ahead of what has come so far")
    chain_key, skipped = chain.chain_key, {}
    for number in range(chain.number, end):
        chain_key, message_key = chain_step(chain_key)
        skipped[number] = (message_key, now)
    return chain_key, skipped


def _open_late(chain: Retired, letter: _Letter) -> tuple[Retired, bytes]:
    """Open a message of an earlier turn."""
    if terms_digest(letter.terms) != chain.digest or letter.number >= chain.end:
        raise CryptoError("cannot be opened")
    body = _open_skipped(chain.layout, chain.mac_key, chain.skipped, letter)
    skipped = without(chain.skipped, letter.number)
    return replace(chain, skipped=skipped), body


def _open_turn(state: State, me: Party, letter: _Letter, now: int) -> tuple[State, bytes]:
    """Open the first envelope to come of the peer's next turn."""
    core, sending, terms = state.core, state.sending, letter.terms
    if sending is None or sending.keys is None:  # it answers no turn of ours
        raise CryptoError("cannot be opened")
    keys = sending.keys
    retired = _retire(state, terms, now)
    theirs = peer_keys(LATER, terms)
    _check_peer_keys(theirs)
    digest = terms_digest(terms)
    shared = dh(keys.x_secret, theirs.ratchet)
    ciphertext = terms[-KEM_CIPHERTEXT_SIZE:]
    if keys.kem is None:  # turn 1
        shared += dh(me.auth_secret, theirs.ratchet) + me.kem.decapsulate(ciphertext)
        secret = answer_secret(core.root, shared, digest)
    else:
        secret = turn_secret(core.root, shared + keys.kem.decapsulate(ciphertext), digest)
    proof = dh(keys.auth_secret, core.peer.auth_public)
    mac = mac_key(proof, core.peer.identity, core.identity, core.start, digest)
    seal = Seal(LATER, core.next_header, mac, terms, digest)
    receiving = Receiving(seal, first_chain_key(secret), 0, _NONE)
    receiving, body = _open_current(receiving, letter, now)
    sending = replace(sending, keys=None)
    limited, retired = expire_skipped(receiving, retired, now)
    return State(_turned(core, secret), sending, limited, retired), body


def _retire(state: State, terms: bytes, now: int) -> tuple[Retired, ...]:
    """The earlier turns, once the terms of the peer's next one have said after how many messages
    the last one has ended."""
    last, end = state.receiving, int.from_bytes(terms[:NUMBER_SIZE], "big")
    if last is None:
        if end:
            raise CryptoError("cannot be opened")
        return state.retired
    seal = last.seal
    if end < last.number or life_of(LATER, terms) != life_of(seal.layout, seal.terms):
        raise CryptoError("cannot be opened")
    _, more = _advance(last, end, now)
    skipped = add_skipped(last.skipped, more)
    chain = Retired(seal.layout, seal.header_key, seal.mac_key, seal.digest, end, skipped)
    return (*state.retired, chain)


def _check_peer_keys(theirs: PeerKeys) -> None:
    """Refuse keys with which the answer could not be sealed."""
    check_dh_public(theirs.auth)
    check_kem_public(theirs.ek)
