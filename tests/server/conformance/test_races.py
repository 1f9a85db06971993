"""Two front-ends of one store, and who is first: never both, and never nobody."""

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import pytest

from cbfs_common.names.config import Registration
from cbfs_common.wire.requests import (
    Code,
    EnvelopeIds,
    LastMark,
    PrekeyCount,
    PrekeyRecord,
)
from cbfs_server.limits import NEWCOMERS_FREE, WORK_LEAST, Limits
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AddEnvelope,
    AskPrice,
    Change,
    ChangeMark,
    CountPrekeysLeft,
    EndAccount,
    GivePrekey,
    ListIds,
    MakeAccount,
    NextMail,
    Proof,
    RemoveEnvelopes,
    Rule,
    Ticket,
)
from tests.server.conformance.backends import DEFAULT, Backend, look_up, together
from tests.server.conformance.test_mailboxes import ALICE, DAY, NOW, front, last, mail, upload
from tests.server.test_server_store import play
from tests.support.serving import KEM, record

RACERS = 8
OPEN, WORK, INVITE = Rule(), Rule(Registration.WORK, 6), Rule(Registration.INVITE)
NO_WORK, NO_INVITE = REFUSED[Code.WORK_NEEDED], REFUSED[Code.INVITE_NEEDED]

Script = Callable[[MailboxStore, MailboxStore], Awaitable[None]]


def both(backend: Backend, script: Script, limits: Limits = DEFAULT) -> None:
    async def life() -> None:
        async with front(backend, limits) as one, backend.opened(limits) as other:
            await script(one, other)

    play(life)


async def race(one: MailboxStore, other: MailboxStore, changes: Sequence[Change[Any]]) -> list[Any]:
    """All at once, every other one by the other front-end."""
    return await together(
        *(((one, other)[number % 2], change) for number, change in enumerate(changes))
    )


@pytest.mark.parametrize("resort", [True, False], ids=["and a last resort", "and nothing else"])
def test_the_last_prekey_is_given_to_one(resort: bool, backend: Backend) -> None:
    async def script(one: MailboxStore, other: MailboxStore) -> None:
        spare = last()
        if resort:
            assert await one.commit(upload(spare)) == DONE
        rest = PrekeyRecord(spare, KEM) if resort else REFUSED[Code.NO_PREKEY]
        for _ in range(3):
            only = record()
            assert await one.commit(upload(only)) == DONE
            given = await race(one, other, [GivePrekey(ALICE, NOW)] * RACERS)
            assert given.count(PrekeyRecord(only, KEM)) == 1
            assert given.count(rest) == RACERS - 1
            count = await look_up(other, CountPrekeysLeft(ALICE, NOW))
            assert count == PrekeyCount(0, 2**40 if resort else 0)

    both(backend, script)


def test_no_prekey_is_given_twice(backend: Backend) -> None:
    """While more come, to several who take at once."""

    async def script(one: MailboxStore, other: MailboxStore) -> None:
        sent, given = set[bytes](), list[bytes]()
        for _ in range(6):
            fresh = [record() for _ in range(RACERS)]
            sent.update(fresh)
            changes: list[Change[Any]] = [GivePrekey(ALICE, NOW)] * RACERS
            changes[3:3] = [upload(*fresh)]
            said = await race(one, other, changes)
            given += [each.record for each in said if isinstance(each, PrekeyRecord)]
        left = await look_up(one, CountPrekeysLeft(ALICE, NOW))
        assert len(given) == len(set(given))
        assert set(given) <= sent
        assert left == PrekeyCount(len(sent) - len(given), 0)

    both(backend, script)


def test_one_envelope_that_comes_twice_at_once_is_there_once(backend: Backend) -> None:
    async def script(one: MailboxStore, other: MailboxStore) -> None:
        assert await race(one, other, [mail(1)] * RACERS) == [DONE] * RACERS
        for store in one, other:
            assert await look_up(store, ListIds(ALICE, b"")) == EnvelopeIds((mail(1).id,), False)
            assert len(tuple(await look_up(store, NextMail(ALICE, 0, 9)))) == 1

    both(backend, script)


def test_the_last_place_in_a_mailbox_is_taken_once(backend: Backend) -> None:
    async def script(one: MailboxStore, other: MailboxStore) -> None:
        said = await race(one, other, [mail(number) for number in range(RACERS)])
        assert said.count(DONE) == 5
        assert said.count(REFUSED[Code.MAILBOX_FULL]) == RACERS - 5
        stored = tuple(mail(number).id for number in range(RACERS) if said[number] == DONE)
        listed = await look_up(other, ListIds(ALICE, b""))
        assert sorted(listed.ids) == sorted(stored)  # type: ignore[union-attr]

    both(backend, script, Limits(mailbox=5, disk_free=0))


def test_arrivals_at_many_mailboxes_leave_each_whole(backend: Backend) -> None:
    """Deliveries and deletions at once, in every order of the users."""
    users = [bytes([number]) * 32 for number in range(5)]
    dice = Random(5)

    async def script(one: MailboxStore, other: MailboxStore) -> None:
        await race(one, other, [MakeAccount(user, DAY) for user in users])
        for batch in range(4):
            changes: list[Change[Any]] = [
                mail(10 * batch + number, user) for user in users for number in range(4)
            ]
            if batch:
                gone = tuple(mail(10 * (batch - 1) + number).id for number in range(4))
                changes += [RemoveEnvelopes(user, gone) for user in users]
            dice.shuffle(changes)
            assert await race(one, other, changes) == [DONE] * len(changes)
            sent: dict[bytes, set[bytes]] = {user: set() for user in users}
            for each in changes:
                if isinstance(each, AddEnvelope):
                    sent[each.user].add(each.id)
            for user in users:
                found = tuple(await look_up(one, NextMail(user, 0, 99)))
                assert {each.id for each in found} == sent[user]
                assert len(found) == 4
                assert len({each.serial for each in found}) == 4
                assert all(each.envelope[:16] == each.id for each in found)

    both(backend, script)


def test_a_mark_is_swapped_by_one_of_those_who_have_seen_it(backend: Backend) -> None:
    async def script(one: MailboxStore, other: MailboxStore) -> None:
        there = b""
        for turn in range(4):
            marks = [bytes([turn, number]) * 28 for number in range(RACERS)]
            said = await race(one, other, [ChangeMark(ALICE, there, mark) for mark in marks])
            won = [mark for mark, each in zip(marks, said, strict=True) if each == LastMark(there)]
            assert len(won) == 1
            assert {each.mark for each in said} <= {there, won[0]}
            there = won[0]

    both(backend, script)


def test_an_account_ends_once(backend: Backend) -> None:
    async def script(one: MailboxStore, other: MailboxStore) -> None:
        for number in range(3):
            assert await one.commit(mail(number)) == DONE
        said = await race(one, other, [EndAccount(ALICE)] * RACERS)
        assert sorted(said, key=str) == [3] + [None] * (RACERS - 1)

    both(backend, script)


def newcomers(number: int, rule: Rule = OPEN, **ticket: Any) -> list[MakeAccount]:
    """The same ticket for so many."""
    users = (bytes([each + 1]) * 32 for each in range(number))
    return [MakeAccount(user, DAY, Ticket(**ticket), rule) for user in users]


def test_the_last_account_is_made_for_one(backend: Backend) -> None:
    """As an invite costs nothing, whatever the price is then. Two are there."""

    async def script(one: MailboxStore, other: MailboxStore) -> None:
        changes = [
            MakeAccount(each.user, DAY, Ticket(invite=each.user[:16])) for each in newcomers(RACERS)
        ]
        said = await race(one, other, changes)
        assert said.count(DONE) == 1
        assert said.count(REFUSED[Code.TOO_MANY]) == RACERS - 1
        again = changes[said.index(DONE)]
        assert await other.commit(again) == DONE, "there is one"
        assert await one.commit(EndAccount(again.user)) == 0
        fresh = MakeAccount(again.user, DAY, Ticket(invite=bytes(16)))
        assert await other.commit(fresh) == DONE

    both(backend, script, Limits(accounts=3, disk_free=0))


def test_an_invite_makes_one_account(backend: Backend) -> None:
    async def script(one: MailboxStore, other: MailboxStore) -> None:
        said = await race(one, other, newcomers(RACERS, INVITE, invite=bytes(16)))
        assert said.count(DONE) == 1
        assert said.count(NO_INVITE) == RACERS - 1
        user = newcomers(RACERS)[said.index(DONE)].user
        assert await one.commit(EndAccount(user)) == 0
        for change in newcomers(RACERS, INVITE, invite=bytes(16)):
            assert await other.commit(change) == NO_INVITE
        for change in (*newcomers(2, INVITE), *newcomers(2, INVITE, invite=b"")):
            assert await one.commit(change) == NO_INVITE
        closed = MakeAccount(user, DAY, Ticket(invite=b"i" * 16), closed=True)
        assert await one.commit(closed) == REFUSED[Code.TOO_MANY]
        assert await one.commit(MakeAccount(user, DAY, Ticket(invite=b"i" * 16), INVITE)) == DONE

    both(backend, script)


def test_a_proof_makes_one_account_of_its_user(backend: Backend) -> None:
    async def script(one: MailboxStore, other: MailboxStore) -> None:
        assert await look_up(other, AskPrice(WORK)) == 6
        user = b"n" * 32
        good = Proof(window=7, number=5, bits=6, newest=7)
        for proof in None, Proof(7, 5, 5, 7):
            assert await one.commit(MakeAccount(user, DAY, Ticket(proof=proof), WORK)) == NO_WORK
        asked = [MakeAccount(user, DAY, Ticket(proof=good), WORK) for _ in range(RACERS)]
        assert await race(one, other, asked) == [DONE] * RACERS
        assert await other.commit(EndAccount(user)) == 0
        for store in one, other:
            again = MakeAccount(user, DAY, Ticket(proof=good), WORK)
            assert await store.commit(again) == NO_WORK
        for bad in 1, 2:  # another one of the same user's, and the same number of somebody else
            who, number = (user, 6) if bad == 1 else (b"m" * 32, 5)
            another = MakeAccount(who, DAY, Ticket(proof=Proof(7, number, 6, 7)), WORK)
            assert await other.commit(another) == DONE

    both(backend, script)


def test_newcomers_make_it_dearer_for_the_next_and_invites_do_not(backend: Backend) -> None:
    """Whichever front-end they come to."""

    async def script(one: MailboxStore, other: MailboxStore) -> None:
        made = 0
        for number in range(2 * NEWCOMERS_FREE):
            invited = number % 6 == 0
            ticket = Ticket(invite=number.to_bytes(16, "big")) if invited else Ticket()
            change = MakeAccount(number.to_bytes(32, "big"), DAY, ticket, OPEN)
            reply = await (one, other)[number % 2].commit(change)
            if reply == NO_WORK:
                break
            assert reply == DONE
            made += not invited
        assert NEWCOMERS_FREE <= made <= NEWCOMERS_FREE + 1
        for store in one, other:
            assert await look_up(store, AskPrice(OPEN)) == WORK_LEAST
            assert await look_up(store, AskPrice(INVITE)) == 0
        proof = Proof(1, 1, WORK_LEAST, 1)
        change = MakeAccount(b"n" * 32, DAY, Ticket(proof=proof), OPEN)
        assert await other.commit(change) == DONE

    both(backend, script, Limits(accounts=1_000, disk_free=0))
