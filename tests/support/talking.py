"""Two people with prekeys and seeded randomness, for tests of sessions."""

from collections.abc import Iterable
from hashlib import blake2b

from cbfs_common.primitives import KemKey, Random, dh_public
from cbfs_common.profile import kem_id
from cbfs_common.session.prekey import PrekeyKind, PrekeyPair, decode_prekey, make_prekey
from cbfs_common.session.session import Party, Peer, Session, open_first, outer_of, start
from tests.support.protocol_naive import encapsulate

NOW = 1_700_000_000
LIFE = bytes(range(8))


def seeded(seed: str) -> Random:
    """Randomness that is the same in every run."""
    drawn = 0

    def token(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return blake2b(f"{seed} {drawn}".encode(), digest_size=size).digest()

    return Random(token, lambda public: encapsulate(public, token(32)))


def scripted(draws: Iterable[bytes]) -> Random:
    """Randomness that is drawn in this order and no other."""
    rest = iter(draws)

    def token(size: int) -> bytes:
        draw = next(rest)
        assert len(draw) == size
        return draw

    return Random(token, lambda public: encapsulate(public, token(32)))


def party(random: Random) -> Party:
    """Somebody new."""
    secret = random.token(32)
    return Party(random.token(32), secret, dh_public(secret), KemKey(random.token(64)))


def peer_of(person: Party) -> Peer:
    """Somebody as others see them."""
    return Peer(person.identity, person.auth_public, kem_id(person.kem.public()))


def prekey_of(random: Random, kind: PrekeyKind = PrekeyKind.ONE_TIME) -> PrekeyPair:
    """A prekey that has not expired at NOW."""
    return make_prekey(random, kind, NOW + 1_000)


def started(me: Party, other: Party, pair: PrekeyPair, random: Random) -> Session:
    """A session of ``me`` with ``other``, who has ``pair``."""
    prekey = decode_prekey(pair.public(bytes(32)))
    return start(me, peer_of(other), prekey, other.kem.public(), LIFE, random)


def opened(me: Party, pair: PrekeyPair, envelope: bytes) -> tuple[Session, bytes]:
    """(session, body) of somebody's first message."""
    return open_first(me, pair, outer_of(me, envelope), envelope, NOW)
