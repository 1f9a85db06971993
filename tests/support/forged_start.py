"""Whoever has stolen a backup of somebody's begins sessions with them, in anybody's name: what is
made here, and what is tried on the answers, takes no secret of whom he poses as."""

from contextlib import suppress
from unittest.mock import patch

from cbfs.account.account import SYSTEM_RANDOM
from cbfs_common.errors import CryptoError
from cbfs_common.primitives import KemKey, Random, dh
from cbfs_common.session.envelope import number_of
from cbfs_common.session.prekey import PrekeyPair, decode_prekey
from cbfs_common.session.session import Party, Peer, Session, start


class Thief:
    """``pair`` is a prekey of ``victim``'s with its secrets. Of whom he poses as he has what is
    public: the identity, the auth key and the KEM key."""

    def __init__(
        self,
        pair: PrekeyPair,
        victim: Party,
        peer: Peer,
        posed: tuple[bytes, bytes, bytes],
        random: Random = SYSTEM_RANDOM,
    ) -> None:
        identity, auth_public, self._kem_public = posed
        self._random = random
        own = KemKey(random.token(64))
        self.party = Party(identity, random.token(32), auth_public, own)
        prekey = decode_prekey(pair.public(bytes(32)))

        def proven(secret: bytes, public: bytes) -> bytes:
            """The proof of who begins, by the prekey's secret and their public key."""
            if secret == self.party.auth_secret:
                return dh(pair.x_secret, auth_public)
            return dh(secret, public)

        claimed = patch.object(KemKey, "public", self._public(own))
        with claimed, patch("cbfs_common.session.session.dh", proven):
            kem_public = victim.kem.public()
            self.session = start(self.party, peer, prekey, kem_public, random.token(8), random)

    def _public(self, own: KemKey) -> object:
        real, claimed = KemKey.public, self._kem_public
        return lambda key: claimed if key is own else real(key)

    def seal(self, body: bytes) -> bytes:
        """An envelope of turn 0."""
        life = self._random.token(8)
        self.session, envelope = self.session.seal(self.party, body, self._random, life)
        return envelope

    def reads(self, envelopes: list[bytes], now: int) -> list[bytes]:
        """What he can open of these."""
        return opened(self.session, self.party, envelopes, now)

    def recognises(self, envelopes: list[bytes]) -> int:
        """How many of these he sees to be answers to him: their header key he knows."""
        key = self.session.state.next_receiving
        return sum(key is not None and number_of(key, each) is not None for each in envelopes)


def opened(session: Session, party: Party, envelopes: list[bytes], now: int) -> list[bytes]:
    """What somebody opens of these who has a copy of a session."""
    found = []
    for envelope in envelopes:
        with suppress(CryptoError):
            session, body = session.open(party, envelope, now)
            found.append(body)
    return found
