"""Who may make an account, and what is asked for it. No sockets here, and no store.

A newcomer has an invite, or pays by a proof of work. What that costs grows with how many have come
lately, which the store knows, and ``store.pricing``.

A challenge is the same for all and for one WORK_WINDOW, and counts in the next one as well. It
follows from the server's keys: nothing is kept of those that were given out, and nobody can work
for those of later. A proof is for one user, and good once: those that were used are kept for as
long as it counts.

An invite is signed by a key that follows from the server's, so that it can be made without the
store, while the server runs. Those that were used are in the store.

A grant lets an account ask for invites, so many a week. They follow from the grant, the week and
their number among them: asked for again they are the same ones, so that nothing is kept of them
before they are used. One who is invited so gets a grant that counts from the next week on: however
many ask, a week makes of one account no more than the operator has said, and one.
"""

from collections.abc import Callable
from typing import Protocol

from cbfs_common.limits import CHALLENGE_SIZE, LINE_FINISH_DAYS
from cbfs_common.names.config import Registration
from cbfs_common.newcomers import ServerInvite, work_of
from cbfs_common.primitives import KEY_SIZE, Random, equal, kdf
from cbfs_common.wire.requests import (
    AskInvite,
    Code,
    CreateAccount,
    ErrorReply,
    Granted,
    NewcomerTerms,
)
from cbfs_common.wire.transport import ServerSecret
from cbfs_host.calendar import DAY
from cbfs_server.limits import WORK_WINDOW
from cbfs_server.store.operations import REFUSED, Proof, Rule, Ticket

INVITE_ID_SIZE = 16
_EXPIRES_SIZE = 8
_MAC_SIZE = 32

_WEEK = 7 * DAY
_GRANT = b"cbfs1 grant"
_INVITE = b"cbfs1 invite"

OPEN = Rule()


class Registrar(Protocol):
    """Who signs invites to a name directory."""

    def token(self, seed: bytes, expires: int) -> bytes:
        """An invite (GRANTED_TOKEN_SIZE) for any name until then, of this seed (32)."""


class Newcomers:
    """``secret``: SERVER_SECRET_SIZE bytes; ``registrar`` gives that of the name directory for
    which accounts may invite. ``now``: seconds since 1970."""

    def __init__(
        self,
        secret: bytes,
        rule: Rule = OPEN,
        registrar: Callable[[], Registrar | None] = lambda: None,
    ) -> None:
        self._root = _root(secret)
        self._registrar = registrar
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
        found = self._opened(_INVITE, invite)
        return found[0] if found and now <= found[1] else None

    def granted(self, asked: AskInvite, most: int, now: float) -> Granted | ErrorReply:
        """The invites that are asked for by an account, of which each may have ``most`` a week."""
        found = self._opened(_GRANT, asked.grant)
        if not most or found is None or now < found[1]:
            return REFUSED[Code.GRANT_NEEDED]
        if asked.index >= most:
            return REFUSED[Code.INVITES_SPENT]
        week = int(now) // _WEEK
        next_week = (week + 1) * _WEEK
        expires = next_week + LINE_FINISH_DAYS * DAY
        which = found[0] + week.to_bytes(8, "big") + asked.index.to_bytes(2, "big")

        def made(kind: bytes, what: bytes, time: int) -> bytes:
            id = kdf(self._root, b"cbfs1 granted", what + which, INVITE_ID_SIZE)
            return _made(self._root, kind, id, time)

        registrar, token = self._registrar(), b""
        if registrar is not None:
            seed = kdf(self._root, b"cbfs1 grant name", which, KEY_SIZE)
            token = registrar.token(seed, expires)
        return Granted(
            made(_INVITE, b"drop", expires),
            made(_INVITE, b"user", expires),
            made(_GRANT, b"next", next_week),
            token,
        )

    def _opened(self, kind: bytes, signed: bytes) -> tuple[bytes, int] | None:
        """The id and the time of an invite or a grant that this server has made, else None."""
        body, signature = signed[:-_MAC_SIZE], signed[-_MAC_SIZE:]
        if not equal(signature, kdf(self._root, kind, body, _MAC_SIZE)):
            return None
        return body[:INVITE_ID_SIZE], int.from_bytes(body[INVITE_ID_SIZE:], "big")

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
    id = random.token(INVITE_ID_SIZE)
    return ServerInvite(secret.key, _made(_root(secret.encoded), _INVITE, id, expires))


def make_grant(secret: ServerSecret, random: Random) -> ServerInvite:
    """A grant of this server, that counts at once."""
    id = random.token(INVITE_ID_SIZE)
    return ServerInvite(secret.key, _made(_root(secret.encoded), _GRANT, id, 0))


def _root(secret: bytes) -> bytes:
    return kdf(b"", b"cbfs1 newcomers", secret, 32)


def _made(root: bytes, kind: bytes, id: bytes, time: int) -> bytes:
    body = id + time.to_bytes(_EXPIRES_SIZE, "big")
    return body + kdf(root, kind, body, _MAC_SIZE)
