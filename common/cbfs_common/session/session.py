"""Sessions: what two people share. PROTOCOL.rst, Session.

A session is a value: ``seal`` and ``open`` give a new one beside their output and leave the old
one as it was. Store the new one before the envelope leaves, and in one transaction with the
body that came out. A session that was restored from a backup must not be used again.
"""

from dataclasses import dataclass
from typing import Self

from cbfs_common.errors import CryptoError, DecodeError, LimitError
from cbfs_common.limits import BODY_MAX, ENVELOPE_SIZE, SKIP_MAX
from cbfs_common.primitives import (
    KEM_CIPHERTEXT_SIZE,
    KEY_SIZE,
    Random,
    check_dh_public,
    check_kem_public,
    dh,
    dh_public,
    kem_decapsulate,
)
from cbfs_common.session.envelope import (
    FIRST,
    HANDSHAKE_SIZE,
    LATER,
    NUMBER_SIZE,
    ROUTE_SIZE,
    Layout,
    Seal,
    open_body,
    open_header,
    seal_envelope,
)
from cbfs_common.session.prekey import PREKEY_ID_SIZE, Prekey, PrekeyPair
from cbfs_common.session.ratchet import (
    PeerKeys,
    TurnKeys,
    chain_step,
    first_chain_key,
    first_header_key,
    first_root_secret,
    initiator_header_key,
    mac_key,
    make_turn_keys,
    next_header_key,
    peer_keys,
    responder_header_key,
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

__all__ = [
    "Duplicate",
    "Party",
    "Peer",
    "Session",
    "TooFar",
    "TurnKeys",
    "decode_session",
    "handshake_of",
    "make_turn_keys",
    "open_first",
    "start",
]

SESSION_ID_SIZE = 16
PROTOCOL_VERSION = 1
NUMBER_END = 2**32
"""Messages of one turn."""

_NONE: Skipped = {}
_SENDER = HANDSHAKE_SIZE
_SENDER_AUTH = HANDSHAKE_SIZE + KEY_SIZE
_SENDER_END = HANDSHAKE_SIZE + 2 * KEY_SIZE


class Duplicate(CryptoError):
    """An envelope that was opened before, or a copy of one. It can be dropped."""


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
        """The other. After ``open_first`` the MAC has shown that the sender holds this auth key;
        that the identity's auth key is this one is for the name directory to say."""
        return self.state.core.peer

    @property
    def own_identity(self) -> bytes:
        """One's own ``Profile.identity`` (32) that this session is of."""
        return self.state.core.identity

    @property
    def answered(self) -> bool:
        """Whether anything was ever sealed with it here."""
        return self.state.sending is not None

    @property
    def heard(self) -> bool:
        """Whether anything of the peer was ever opened with it, so that the peer has it."""
        return self.state.receiving is not None

    @property
    def unanswered(self) -> int:
        """How many envelopes of the peer's last turn have come that no turn has answered."""
        receiving = self.state.receiving
        return receiving.number if receiving is not None and self.needs_turn else 0

    @property
    def needs_turn(self) -> bool:
        """Whether the next ``seal`` makes a turn, and so uses up turn keys."""
        return self.state.sending is None or self.state.sending.keys is None

    def seal(
        self, me: Party, body: bytes, random: Random, keys: TurnKeys | None = None
    ) -> tuple[Self, bytes]:
        """(new session, envelope of ENVELOPE_SIZE bytes). ``keys`` are turn keys made ahead, for
        when ``needs_turn``. Raises LimitError when ``body`` has over BODY_MAX bytes."""
        if len(body) > BODY_MAX:
            raise LimitError("the message is too long for one envelope")
        state = self.state
        core, sending = state.core, state.sending
        if sending is None or sending.keys is None:
            core, sending = _turn(state, me, random, keys or make_turn_keys(random))
        if sending.number == NUMBER_END:
            raise LimitError("too many messages without an answer")
        chain_key, message_key = chain_step(sending.chain_key)
        envelope = seal_envelope(sending.seal, sending.number, message_key, body)
        sending = Sending(sending.seal, chain_key, sending.number + 1, sending.keys)
        return type(self)(State(core, sending, state.receiving, state.retired)), envelope

    def open(self, envelope: bytes, now: int) -> tuple[Self, bytes]:
        """(new session, body) of an envelope of this session; ``now`` in seconds since 1970.
        Raises CryptoError when it is not one, Duplicate when it was opened before, TooFar when
        it is too far ahead; nothing has changed then."""
        if len(envelope) != ENVELOPE_SIZE:
            raise CryptoError("cannot be opened")
        state, body = _open(self.state, envelope, now)
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


def handshake_of(envelope: bytes) -> bytes:
    """The 16 bytes where an envelope of a first chain has its prekey's id. Raises DecodeError
    for anything but ENVELOPE_SIZE bytes."""
    if len(envelope) != ENVELOPE_SIZE:
        raise DecodeError("not an envelope")
    return envelope[ROUTE_SIZE : ROUTE_SIZE + PREKEY_ID_SIZE]


def start(
    me: Party, peer: Peer, prekey: Prekey, random: Random, keys: TurnKeys | None = None
) -> Session:
    """A session that can be sealed with at once. ``prekey`` is the peer's, and was verified;
    ``keys`` are turn keys made ahead. Raises CryptoError."""
    if me.identity == peer.identity:
        raise CryptoError("a session takes two people")
    keys = keys or make_turn_keys(random)
    e_secret = random.token(KEY_SIZE)
    e = bytearray(dh_public(e_secret))
    e[-1] |= e_secret[-1] & 0x80  # X25519 ignores both bits: e has no constant bit
    secret, ciphertext = random.encapsulate(prekey.ek)
    shared = dh(e_secret, prekey.x) + secret
    secret = start_secret(shared, _start_transcript(peer.identity, prekey.terms, e, ciphertext))
    terms = b"".join((prekey.id, e, ciphertext, me.identity, me.auth_public, keys.public))
    digest = terms_digest(terms)
    root = first_root_secret(secret, peer.identity, peer.auth_public, digest)
    core = Core(
        start_hash(root),
        me.identity,
        peer,
        root_key(root),
        initiator_header_key(root),
        responder_header_key(root),
    )
    mac = mac_key(dh(me.auth_secret, prekey.x), me.identity, peer.identity, core.start, digest)
    seal = Seal(FIRST, first_header_key(secret), mac, terms, digest)
    return Session(State(core, Sending(seal, first_chain_key(root), 0, keys), None, ()))


def open_first(me: Party, pair: PrekeyPair, envelope: bytes, now: int) -> tuple[Session, bytes]:
    """(session, body) of an envelope of somebody's first chain that names the prekey ``pair``;
    ``now`` in seconds since 1970. Raises CryptoError, or TooFar.

    A last-resort prekey stays, so this also opens later envelopes, and copies, of a start that
    is known already: when there is a session with the ``id`` of the one that comes out, drop
    this one and ``open`` the envelope with that one.
    """
    if handshake_of(envelope) != pair.id:
        raise CryptoError("cannot be opened")
    e = envelope[ROUTE_SIZE + PREKEY_ID_SIZE :][:KEY_SIZE]
    ciphertext = envelope[ROUTE_SIZE + PREKEY_ID_SIZE + KEY_SIZE :][:KEM_CIPHERTEXT_SIZE]
    shared = dh(pair.x_secret, e) + kem_decapsulate(pair.kem_seed, ciphertext)
    secret = start_secret(shared, _start_transcript(me.identity, pair.terms, e, ciphertext))
    header_key = first_header_key(secret)
    number, terms = open_header(FIRST, header_key, envelope)
    peer = Peer(terms[_SENDER:_SENDER_AUTH], terms[_SENDER_AUTH:_SENDER_END])
    if peer.identity == me.identity:
        raise CryptoError("cannot be opened")
    _check_peer_keys(peer_keys(FIRST, terms))
    digest = terms_digest(terms)
    root = first_root_secret(secret, me.identity, me.auth_public, digest)
    core = Core(
        start_hash(root),
        me.identity,
        peer,
        root_key(root),
        responder_header_key(root),
        initiator_header_key(root),
    )
    mac = mac_key(
        dh(pair.x_secret, peer.auth_public), peer.identity, me.identity, core.start, digest
    )
    seal = Seal(FIRST, header_key, mac, terms, digest)
    receiving = Receiving(seal, first_chain_key(root), 0, _NONE)
    receiving, body = _open_current(receiving, number, terms, envelope, now)
    limited, _ = limit_skipped(receiving, ())
    return Session(State(core, None, limited, ())), body


def _start_transcript(
    recipient: bytes, prekey_terms: bytes, e: bytes | bytearray, ciphertext: bytes
) -> bytes:
    return b"".join((bytes([PROTOCOL_VERSION]), recipient, prekey_terms, e, ciphertext))


def _turn(state: State, me: Party, random: Random, keys: TurnKeys) -> tuple[Core, Sending]:
    """One's own next turn, in answer to the peer's last one."""
    core = state.core
    if state.receiving is None:
        raise CryptoError("the session is damaged")
    theirs = peer_keys(state.receiving.seal.layout, state.receiving.seal.terms)
    secret, ciphertext = random.encapsulate(theirs.ek)
    before = state.sending.number if state.sending else 0
    terms = before.to_bytes(NUMBER_SIZE, "big") + keys.public + ciphertext
    digest = terms_digest(terms)
    secret = turn_secret(core.root, dh(keys.x_secret, theirs.ratchet) + secret, digest)
    proof = dh(me.auth_secret, theirs.auth)
    mac = mac_key(proof, core.identity, core.peer.identity, core.start, digest)
    seal = Seal(LATER, core.next_sending, mac, terms, digest)
    core = Core(
        core.start,
        core.identity,
        core.peer,
        root_key(secret),
        next_header_key(secret),
        core.next_receiving,
    )
    return core, Sending(seal, first_chain_key(secret), 0, keys)


def _open(state: State, envelope: bytes, now: int) -> tuple[State, bytes]:
    """Find the chain whose header key opens the header, the likeliest first."""
    receiving = state.receiving
    if receiving is not None:
        seal = receiving.seal
        found = _try_header(seal.layout, seal.header_key, envelope)
        if found is not None:
            after, body = _open_current(receiving, *found, envelope, now)
            retired = state.retired
            if len(after.skipped) > len(receiving.skipped):
                limited, retired = limit_skipped(after, retired)
                after = limited or after
            return State(state.core, state.sending, after, retired), body
    found = _try_header(LATER, state.core.next_receiving, envelope)
    if found is not None:
        return _open_turn(state, *found, envelope, now)
    for index, chain in enumerate(state.retired):
        found = _try_header(chain.layout, chain.header_key, envelope)
        if found is not None:
            late, body = _open_late(chain, *found, envelope)
            chains = (*state.retired[:index], late, *state.retired[index + 1 :])
            _, chains = limit_skipped(None, chains)
            return State(state.core, state.sending, receiving, chains), body
    raise CryptoError("cannot be opened")


def _try_header(layout: Layout, header_key: bytes, envelope: bytes) -> tuple[int, bytes] | None:
    try:
        return open_header(layout, header_key, envelope)
    except CryptoError:
        return None


def _open_current(
    chain: Receiving, number: int, terms: bytes, envelope: bytes, now: int
) -> tuple[Receiving, bytes]:
    """Open message ``number`` of the peer's last turn."""
    seal = chain.seal
    if terms != seal.terms:
        raise CryptoError("cannot be opened")
    if number < chain.number:
        if number not in chain.skipped:
            raise Duplicate("this was opened before")
        body = open_body(seal.layout, seal.mac_key, chain.skipped[number][0], envelope)
        skipped = without(chain.skipped, number)
        return Receiving(seal, chain.chain_key, chain.number, skipped), body
    chain_key, more = _advance(chain, number, now)
    chain_key, message_key = chain_step(chain_key)
    body = open_body(seal.layout, seal.mac_key, message_key, envelope)
    return Receiving(seal, chain_key, number + 1, add_skipped(chain.skipped, more)), body


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


def _open_late(chain: Retired, number: int, terms: bytes, envelope: bytes) -> tuple[Retired, bytes]:
    """Open a message of an earlier turn."""
    if terms_digest(terms) != chain.digest or number >= chain.end:
        raise CryptoError("cannot be opened")
    if number not in chain.skipped:
        raise Duplicate("this was opened before")
    body = open_body(chain.layout, chain.mac_key, chain.skipped[number][0], envelope)
    skipped = without(chain.skipped, number)
    return Retired(
        chain.layout, chain.header_key, chain.mac_key, chain.digest, chain.end, skipped
    ), body


def _open_turn(
    state: State, number: int, terms: bytes, envelope: bytes, now: int
) -> tuple[State, bytes]:
    """Open the first envelope to come of the peer's next turn."""
    core, sending = state.core, state.sending
    if sending is None or sending.keys is None:  # it answers no turn of ours
        raise CryptoError("cannot be opened")
    keys = sending.keys
    retired = _retire(state, int.from_bytes(terms[:NUMBER_SIZE], "big"), now)
    theirs = peer_keys(LATER, terms)
    _check_peer_keys(theirs)
    digest = terms_digest(terms)
    secret = keys.kem.decapsulate(terms[-KEM_CIPHERTEXT_SIZE:])
    secret = turn_secret(core.root, dh(keys.x_secret, theirs.ratchet) + secret, digest)
    proof = dh(keys.auth_secret, core.peer.auth_public)
    mac = mac_key(proof, core.peer.identity, core.identity, core.start, digest)
    seal = Seal(LATER, core.next_receiving, mac, terms, digest)
    receiving = Receiving(seal, first_chain_key(secret), 0, _NONE)
    receiving, body = _open_current(receiving, number, terms, envelope, now)
    core = Core(
        core.start,
        core.identity,
        core.peer,
        root_key(secret),
        core.next_sending,
        next_header_key(secret),
    )
    sending = Sending(sending.seal, sending.chain_key, sending.number, None)
    limited, retired = expire_skipped(receiving, retired, now)
    return State(core, sending, limited, retired), body


def _retire(state: State, end: int, now: int) -> tuple[Retired, ...]:
    """The earlier turns, once the last one is known to have ended after ``end`` messages."""
    last = state.receiving
    if end < (last.number if last else 0) or (last is None and end):
        raise CryptoError("cannot be opened")
    if last is None:
        return state.retired
    _, more = _advance(last, end, now)
    seal = last.seal
    chain = Retired(
        seal.layout,
        seal.header_key,
        seal.mac_key,
        seal.digest,
        end,
        add_skipped(last.skipped, more),
    )
    return (*state.retired, chain)


def _check_peer_keys(theirs: PeerKeys) -> None:
    """Refuse keys with which the answer could not be sealed."""
    check_dh_public(theirs.auth)
    check_kem_public(theirs.ek)
