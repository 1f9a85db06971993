"""What every store forgets, and what it keeps."""

from cbfs_common.wire.requests import Code, EnvelopeIds
from cbfs_server.limits import EXPIRY_BATCH, NEWCOMER_DAYS, Limits
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AskAccount,
    Expired,
    ForgetInvites,
    ForgetOld,
    ListIds,
    MakeAccount,
    NextMail,
    NoteVisit,
    Ticket,
)
from tests.server.conformance.backends import DEFAULT, Backend, look_up
from tests.server.conformance.test_mailboxes import ALICE, BOB, CAROL, DAY, mail, on

RETENTION, INACTIVE = 60, 180
USERS = [bytes([number]) * 32 for number in range(4)]


async def sweep(store: MailboxStore, today: int) -> Expired:
    """One look through all mailboxes."""
    found, start = Expired(), b""
    while True:
        swept = await store.commit(ForgetOld(start, today, RETENTION, INACTIVE))
        found.add(swept.expired)
        if swept.rest is None:
            found.ended.sort()
            return found
        start = swept.rest


async def visited(store: MailboxStore) -> None:
    for user in ALICE, BOB:
        await store.commit(NoteVisit(user, DAY, True))


def test_envelopes_are_forgotten_when_they_are_older_than_that(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        await visited(store)
        for number in range(5):
            assert await store.commit(mail(number, ALICE, DAY + number)) == DONE
        assert await store.commit(mail(9, BOB, DAY + 9)) == DONE
        assert await sweep(store, DAY + RETENTION) == Expired(oldest=DAY)
        assert await sweep(store, DAY + RETENTION + 2) == Expired(2, 1, DAY + 2)
        left = EnvelopeIds(tuple(mail(number).id for number in (2, 3, 4)), False)
        assert await look_up(store, ListIds(ALICE, b"")) == left
        assert [each.id for each in await look_up(store, NextMail(ALICE, 0, 9))] == list(left.ids)
        assert await store.commit(mail(0, ALICE, DAY + 70)) == DONE, "it can come again"
        assert await sweep(store, DAY + RETENTION + 20) == Expired(4, 2, DAY + 70)
        assert await sweep(store, DAY + RETENTION + 71) == Expired(1, 1, None)

    on(backend, script, DEFAULT)


def test_what_is_forgotten_makes_room(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        await visited(store)
        for number in range(2):
            assert await store.commit(mail(number)) == DONE
        assert await store.commit(mail(2)) == REFUSED[Code.MAILBOX_FULL]
        await sweep(store, DAY + RETENTION + 1)
        for number in range(2, 4):
            assert await store.commit(mail(number)) == DONE

    on(backend, script, Limits(mailbox=2, disk_free=0))


def test_accounts_end_when_nobody_comes_and_those_that_never_fetched_soon(
    backend: Backend,
) -> None:
    async def script(store: MailboxStore) -> None:
        await store.commit(NoteVisit(ALICE, DAY, True))
        await store.commit(NoteVisit(ALICE, DAY, False))  # that stays so
        await store.commit(NoteVisit(BOB, DAY + 2, False))
        assert await store.commit(MakeAccount(CAROL, DAY)) == DONE
        for number in range(3):
            assert await store.commit(mail(number, CAROL)) == DONE
        assert (await sweep(store, DAY + NEWCOMER_DAYS)).ended == []
        ended = Expired(3, 1, None, [CAROL], 1)
        assert await sweep(store, DAY + NEWCOMER_DAYS + 1) == ended
        assert await look_up(store, AskAccount(CAROL)) == REFUSED[Code.NO_ACCOUNT]
        assert (await sweep(store, DAY + NEWCOMER_DAYS + 2)).ended == []
        assert await sweep(store, DAY + NEWCOMER_DAYS + 3) == Expired(0, 0, None, [BOB], 1)
        assert (await sweep(store, DAY + INACTIVE)).ended == []
        assert await sweep(store, DAY + INACTIVE + 1) == Expired(0, 0, None, [ALICE], 0)
        assert await store.commit(MakeAccount(ALICE, DAY + 500)) == DONE
        assert (await sweep(store, DAY + 500 + NEWCOMER_DAYS)).ended == []
        assert (await sweep(store, DAY + 501 + NEWCOMER_DAYS)).ended == [ALICE]

    on(backend, script, DEFAULT)


def test_many_accounts_and_much_mail_are_looked_through_in_batches(backend: Backend) -> None:
    """And each batch is bounded."""
    users = [number.to_bytes(2, "big") * 16 for number in range(EXPIRY_BATCH + 20)]

    async def script(store: MailboxStore) -> None:
        await visited(store)
        for number, user in enumerate(users):
            ticket = Ticket(invite=number.to_bytes(16, "big"))
            assert await store.commit(MakeAccount(user, DAY, ticket)) == DONE
        for number in range(EXPIRY_BATCH + 30):
            assert await store.commit(mail(number, users[7])) == DONE
        assert (await sweep(store, DAY)).oldest == DAY
        start: bytes | None = b""
        found, batches = Expired(), 0
        while start is not None:
            swept = await store.commit(
                ForgetOld(start, DAY + NEWCOMER_DAYS + 1, RETENTION, INACTIVE)
            )
            assert swept.expired.envelopes <= EXPIRY_BATCH
            found.add(swept.expired)
            start = swept.rest
            batches += 1
        assert sorted(found.ended) == users
        assert found.envelopes == EXPIRY_BATCH + 30
        assert batches > 1

    on(backend, script, Limits(mailbox=1_000, disk_free=0))


def test_who_comes_stays(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        for day in range(DAY, DAY + 400, 100):
            await store.commit(NoteVisit(ALICE, day, True))
            assert ALICE not in (await sweep(store, day + 100)).ended
        assert await look_up(store, AskAccount(ALICE)) == DONE

    on(backend, script, DEFAULT)


def test_invites_are_forgotten_when_they_are_old(backend: Backend) -> None:
    needed = REFUSED[Code.INVITE_NEEDED]

    def by(user: bytes, invite: int, day: int) -> MakeAccount:
        return MakeAccount(user, day, Ticket(invite=bytes([invite]) * 16))

    async def forget(store: MailboxStore, before: int) -> None:
        start: bytes | None = b""
        while start is not None:
            start = await store.commit(ForgetInvites(start, before))

    async def script(store: MailboxStore) -> None:
        assert await store.commit(by(USERS[1], 1, DAY)) == DONE
        assert await store.commit(by(USERS[2], 2, DAY + 1)) == DONE
        await forget(store, DAY)
        for number in 1, 2:
            assert await store.commit(by(USERS[3], number, DAY + 2)) == needed
        await forget(store, DAY + 1)
        assert await store.commit(by(USERS[3], 2, DAY + 2)) == needed
        assert await store.commit(by(USERS[3], 1, DAY + 2)) == DONE

    on(backend, script, DEFAULT)
