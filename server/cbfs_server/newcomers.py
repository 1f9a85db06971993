"""Who may make an account, and what is asked for it. No sockets here, and no store.

A newcomer has an invite, or pays by a proof of work. What that costs grows with how many have come
lately, which the store knows, and ``store.pricing``.

A challenge is the same for all and for one WORK_WINDOW, and counts in the next one as well. It
follows from the server's keys: nothing is kept of those that were given out, and nobody can work
for those of later. A proof is for one user, and good once: those that were used are kept for as
long as it counts.

An invite is signed by a key that follows from the server's, so that it can be made without the
store, while the server runs. Those that were used are in the store.
"""

from cbfs_common.limits import CHALLENGE_SIZE
from cbfs_common.names.config import Registration
from cbfs_common.newcomers import ServerInvite, work_of
from cbfs_common.primitives import Random, equal, kdf
from cbfs_common.wire.requests import CreateAccount, NewcomerTerms
from cbfs_common.wire.transport import ServerSecret
from cbfs_server.limits import WORK_WINDOW
from cbfs_server.store.operations import Proof, Rule, Ticket

INVITE_ID_SIZE = 16
_EXPIRES_SIZE = 8
_MAC_SIZE = 32

OPEN = Rule()


class Newcomers:
    """``secret``: SERVER_SECRET_SIZE bytes. ``now``: seconds since 1970."""

    def __init__(self, secret: bytes, rule: Rule = OPEN) -> None:
        self._root = _root(secret)
        self.rule = rule

    def terms(self, bits: int, now: float) -> NewcomerTerms:
        """What a newcomer needs now, when a proof must have so many zero ``bits``."""
        invited = self.rule.registration is Registration.INVITE
        return NewcomerTerms(invited, self._challenge(_window(now)), 0 if invited else bits)

    def ticket(self, user: bytes, asked: CreateAccount, now: float) -> Ticket:
        """What a newcomer has brought, as far as it counts."""
        if asked.invite:
            return Ticket(invite=self.invite_id(asked.invite, now) or b"")
        window = self._window_of(asked.challenge, now)
        if window is None:
            return Ticket()
        bits = work_of(asked.challenge, user, asked.number)
        return Ticket(proof=Proof(window, asked.number, bits, _window(now)))

    def invite_id(self, invite: bytes, now: float) -> bytes | None:
        """The id (16) of an invite that counts, or None. That it was not used is in the store."""
        body, signature = invite[:-_MAC_SIZE], invite[-_MAC_SIZE:]
        if not equal(signature, _sign(self._root, body)):
            return None
        expires = int.from_bytes(body[INVITE_ID_SIZE:], "big")
        return body[:INVITE_ID_SIZE] if now <= expires else None

    def _challenge(self, window: int) -> bytes:
        return kdf(self._root, b"cbfs1 challenge", window.to_bytes(8, "big"), CHALLENGE_SIZE)

    def _window_of(self, challenge: bytes, now: float) -> int | None:
        """The window of a challenge that counts."""
        if len(challenge) != CHALLENGE_SIZE:
            return None
        newest = _window(now)
        windows = range(max(0, newest - 1), newest + 1)
        return next((w for w in windows if equal(challenge, self._challenge(w))), None)


def _window(now: float) -> int:
    return int(now) // WORK_WINDOW


def make_invite(secret: ServerSecret, expires: int, random: Random) -> ServerInvite:
    """An invite to this server, until ``expires`` (seconds since 1970)."""
    body = random.token(INVITE_ID_SIZE) + expires.to_bytes(_EXPIRES_SIZE, "big")
    return ServerInvite(secret.key, body + _sign(_root(secret.encoded), body))


def _root(secret: bytes) -> bytes:
    return kdf(b"", b"cbfs1 newcomers", secret, 32)


def _sign(root: bytes, body: bytes) -> bytes:
    return kdf(root, b"cbfs1 invite", body, _MAC_SIZE)
