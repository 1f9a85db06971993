"""By what accounts invite others: what a server gives them, to whom, and how often."""

import os

from cbfs.account.account import SYSTEM_RANDOM
from cbfs_common.limits import LINE_FINISH_DAYS
from cbfs_common.names.registration import decode_token
from cbfs_common.primitives import sign_public
from cbfs_common.wire.requests import AskInvite, Code, ErrorReply, Granted
from cbfs_common.wire.transport import SERVER_SECRET_SIZE, ServerSecret
from cbfs_host.calendar import DAY
from cbfs_server.newcomers import Newcomers, make_grant, make_invite
from cbfs_server.registrar import KeptRegistrar

WEEK = 7 * DAY


def test_an_account_that_has_a_grant_gets_so_many_invites_a_week() -> None:
    """The same ones each time that it asks, others in another week, and none of another's."""
    secret = ServerSecret(os.urandom(SERVER_SECRET_SIZE))
    registrar = KeptRegistrar(b"d" * 16, b"r" * 32)
    newcomers = Newcomers(secret.encoded, registrar=lambda: registrar)
    grant = make_grant(secret, SYSTEM_RANDOM).invite
    now = 100 * WEEK + 5.0
    found = [newcomers.granted(AskInvite(grant, n), 3, now) for n in range(4)]
    assert found[3] == ErrorReply(Code.INVITES_SPENT)
    seen: set[bytes] = set()
    for number, granted in enumerate(found[:3]):
        assert isinstance(granted, Granted)
        assert newcomers.granted(AskInvite(grant, number), 3, now + 6 * DAY) == granted
        for invite in granted.drop, granted.invite:
            assert newcomers.invite_id(invite, now) is not None
            assert newcomers.invite_id(invite, now + LINE_FINISH_DAYS * DAY) is not None
            assert newcomers.invite_id(invite, now + 2 * WEEK + LINE_FINISH_DAYS * DAY) is None
        token = decode_token(granted.token)
        token.invite.verify(sign_public(registrar.seed))
        assert token.invite.directory == registrar.directory
        assert token.seed == granted.token[:32]
        seen |= {granted.drop, granted.invite, granted.token}
        next_week = newcomers.granted(AskInvite(grant, number), 3, now + WEEK)
        assert isinstance(next_week, Granted)
        seen |= {next_week.drop, next_week.invite, next_week.token}
    other = make_grant(secret, SYSTEM_RANDOM).invite
    another = newcomers.granted(AskInvite(other, 0), 3, now)
    assert isinstance(another, Granted)
    assert len(seen | {another.drop, another.invite, another.token}) == 21
    alone = Newcomers(secret.encoded).granted(AskInvite(grant, 0), 3, now)
    assert isinstance(alone, Granted)
    assert alone.token == b""


def test_who_was_invited_by_an_account_invites_from_the_next_week_on() -> None:
    """Else one who may invite made accounts without end, each by the grant of the last."""
    secret = ServerSecret(os.urandom(SERVER_SECRET_SIZE))
    newcomers, now = Newcomers(secret.encoded), 7 * WEEK + 3.0
    first = newcomers.granted(AskInvite(make_grant(secret, SYSTEM_RANDOM).invite, 0), 1, now)
    assert isinstance(first, Granted)
    assert newcomers.invite_id(first.grant, now) is None
    refused = ErrorReply(Code.GRANT_NEEDED)
    assert newcomers.granted(AskInvite(first.grant, 0), 1, now + 6 * DAY) == refused
    assert isinstance(newcomers.granted(AskInvite(first.grant, 0), 1, now + WEEK), Granted)


def test_nobody_invites_without_a_grant_or_where_the_operator_does_not_want_it() -> None:
    secret = ServerSecret(os.urandom(SERVER_SECRET_SIZE))
    newcomers, now = Newcomers(secret.encoded), 7 * WEEK + 3.0
    grant = make_grant(secret, SYSTEM_RANDOM).invite
    refused = ErrorReply(Code.GRANT_NEEDED)
    assert newcomers.granted(AskInvite(grant, 0), 0, now) == refused
    invite = make_invite(secret, int(now) + DAY, SYSTEM_RANDOM).invite
    foreign = make_grant(ServerSecret(os.urandom(SERVER_SECRET_SIZE)), SYSTEM_RANDOM).invite
    for wrong in (bytes(56), invite, foreign, grant[:-1] + bytes([grant[-1] ^ 1])):
        assert newcomers.granted(AskInvite(wrong, 0), 9, now) == refused
