"""The double ratchet with header encryption: key schedule and chains.
PROTOCOL.rst, Session; the shape is Signal's "The Double Ratchet Algorithm", section 4.

A turn is one side's move: fresh X25519, auth and ML-KEM keys, mixed into the root with the
other side's last ones. Turn 0 is the start; even turns are the initiator's, odd ones the
responder's. Each turn has one chain of message keys.
"""

from dataclasses import dataclass, field

from cbfs_common.primitives import KEM_PUBLIC_SIZE, KEM_SEED_SIZE, KEY_SIZE, KemKey, Random, kdf
from cbfs_common.primitives import dh_public as x_public
from cbfs_common.session.envelope import HANDSHAKE_SIZE, LIFE_SIZE, NUMBER_SIZE, Layout

_FIRST_LIFE = HANDSHAKE_SIZE
_FIRST_KEYS = _FIRST_LIFE + LIFE_SIZE + 2 * KEY_SIZE
_LATER_LIFE = NUMBER_SIZE
_LATER_KEYS = _LATER_LIFE + LIFE_SIZE

TURN_PUBLIC_SIZE = 2 * KEY_SIZE + KEM_PUBLIC_SIZE
START_KEYS_SIZE = 2 * KEY_SIZE
TURN_KEYS_SIZE = START_KEYS_SIZE + KEM_SEED_SIZE


@dataclass(frozen=True, slots=True, repr=False)
class TurnKeys:
    """The fresh secrets of one turn; ``public`` is ratchet 32 | ratchet auth 32 | ek 1184. ``kem``
    is None in turn 0, whose ek is one's static key."""

    x_secret: bytes
    auth_secret: bytes
    kem: KemKey | None = field(compare=False)
    public: bytes

    def encode(self) -> bytes:
        """x_secret 32 | auth_secret 32 | seed 64: TURN_KEYS_SIZE bytes, or START_KEYS_SIZE without
        ``kem``. The public halves are in the terms of the turn."""
        return self.x_secret + self.auth_secret + (self.kem.seed if self.kem else b"")


def make_turn_keys(random: Random) -> TurnKeys:
    """Fresh keys for one turn. They can be made ahead, and must be used for one turn only."""
    x_secret = random.token(KEY_SIZE)
    auth_secret = random.token(KEY_SIZE)
    kem = KemKey(random.token(KEM_SEED_SIZE))
    public = x_public(x_secret) + x_public(auth_secret) + kem.public()
    return TurnKeys(x_secret, auth_secret, kem, public)


def make_start_keys(random: Random, kem: KemKey) -> TurnKeys:
    """Keys for a turn 0, of which ``kem`` (one's static key) is a part."""
    x_secret = random.token(KEY_SIZE)
    auth_secret = random.token(KEY_SIZE)
    public = x_public(x_secret) + x_public(auth_secret) + kem.public()
    return TurnKeys(x_secret, auth_secret, None, public)


def decode_turn_keys(data: bytes, public: bytes) -> TurnKeys:
    """Undo ``TurnKeys.encode``; ``data`` has TURN_KEYS_SIZE or START_KEYS_SIZE bytes."""
    seed = data[START_KEYS_SIZE:]
    return TurnKeys(data[:32], data[32:64], KemKey(seed) if seed else None, public)


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """The peer's public keys of one turn, out of the terms of its chain."""

    ratchet: bytes
    auth: bytes
    ek: bytes


def turn_public(layout: Layout, terms: bytes) -> bytes:
    """ratchet 32 | ratchet auth 32 | ek 1184 of a chain's terms."""
    start = _FIRST_KEYS if layout.handshake else _LATER_KEYS
    return terms[start : start + TURN_PUBLIC_SIZE]


def peer_keys(layout: Layout, terms: bytes) -> PeerKeys:
    """The public keys that a chain's terms announce."""
    public = turn_public(layout, terms)
    return PeerKeys(public[:32], public[32:64], public[64:])


def life_of(layout: Layout, terms: bytes) -> bytes:
    """The life (8) of its sender that a chain's terms say."""
    start = _FIRST_LIFE if layout.handshake else _LATER_LIFE
    return terms[start : start + LIFE_SIZE]


def start_secret(shared: bytes, transcript: bytes) -> bytes:
    """64 bytes from DH 32 | KEM secret 32 of the start and its transcript."""
    return kdf(shared, b"cbfs1 start", transcript, 64)


def first_header_key(secret: bytes) -> bytes:
    """Header key (32) of turn 0, from the start secret."""
    return kdf(secret, b"cbfs1 header 0", b"", KEY_SIZE)


def first_root_secret(
    secret: bytes, recipient: bytes, recipient_auth: bytes, digest: bytes
) -> bytes:
    """64 bytes from the start secret, the recipient's identity and long-term auth key, and the
    digest of turn 0's terms, which hold the sender's."""
    return kdf(secret, b"cbfs1 root 0", recipient + recipient_auth + digest, 64)


def start_hash(root_secret: bytes) -> bytes:
    """32 bytes that name the start: the same on both sides, in no envelope."""
    return kdf(root_secret, b"cbfs1 start hash", b"", 32)


def answer_secret(root_key: bytes, shared: bytes, digest: bytes) -> bytes:
    """64 bytes of turn 1 from the root key, the responder's DH with the initiator's ratchet key |
    with their long-term auth key | KEM secret for their static key (32 each), and the digest of
    its terms."""
    return kdf(root_key, b"cbfs1 turn 1", shared + digest, 64)


def turn_secret(root_key: bytes, shared: bytes, digest: bytes) -> bytes:
    """64 bytes of a turn after turn 1 from the root key, DH 32 | KEM secret 32, and its terms'
    digest."""
    return kdf(root_key, b"cbfs1 turn", shared + digest, 64)


def root_key(secret: bytes) -> bytes:
    """The next root key (32), from a root or turn secret."""
    return kdf(secret, b"cbfs1 root", b"", KEY_SIZE)


def first_chain_key(secret: bytes) -> bytes:
    """The first chain key (32) of a turn, from its root or turn secret."""
    return kdf(secret, b"cbfs1 chain key", b"", KEY_SIZE)


def next_header_key(secret: bytes) -> bytes:
    """Header key (32) of the turn that answers this one, from its root or turn secret."""
    return kdf(secret, b"cbfs1 next hdr", b"", KEY_SIZE)


def chain_step(chain_key: bytes) -> tuple[bytes, bytes]:
    """(next chain key, message key), 32 each."""
    both = kdf(chain_key, b"cbfs1 chain", b"", 64)
    return both[:KEY_SIZE], both[KEY_SIZE:]


def mac_key(shared: bytes, sender: bytes, recipient: bytes, start: bytes, digest: bytes) -> bytes:
    """The key of a chain's MACs. ``shared``: DH of the sender's long-term auth key with the
    recipient's last ratchet auth key (the prekey in turn 0). The other parts have 32 bytes each."""
    return kdf(shared, b"cbfs1 mac", sender + recipient + start + digest, KEY_SIZE)


def terms_digest(terms: bytes) -> bytes:
    """32 bytes that stand for a chain's terms."""
    return kdf(b"", b"cbfs1 terms", terms, 32)
