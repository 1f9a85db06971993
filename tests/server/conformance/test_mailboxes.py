"""Order, idempotence, quotas and deletion, as every store has them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import trio

from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import (
    Code,
    EnvelopeIds,
    ErrorReply,
    LastMark,
    PrekeyCount,
    PrekeyRecord,
    Stored,
)
from cbfs_host.calendar import ClockMark
from cbfs_server.limits import LIST_PAGE, PREKEY_BURST, PREKEYS_MAX, Limits
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AddEnvelope,
    AddPrekeys,
    AskAccount,
    AskPresent,
    Change,
    ChangeMark,
    CountPrekeysLeft,
    EndAccount,
    GivePrekey,
    ListIds,
    Mail,
    MakeAccount,
    NextMail,
    NoChange,
    NoteTime,
    NoteVisit,
    ReadEnvelope,
    RemoveEnvelopes,
    Suspend,
    Ticket,
)
from tests.server.conformance.backends import DEFAULT, Backend, look_up
from tests.server.test_server_store import play
from tests.support.serving import KEM, record

ALICE, BOB, CAROL = (letter * 32 for letter in (b"a", b"b", b"c"))
SIZE = 16_384
DAY = 1_000
NOW = 1_800_000_000.0


def mail(number: int, user: bytes = ALICE, day: int = DAY) -> AddEnvelope:
    id = number.to_bytes(16, "big")
    return AddEnvelope(user, id, id * (SIZE // 16), day)


def upload(*records: bytes, user: bytes = ALICE, replace: bool = False) -> AddPrekeys:
    return AddPrekeys(user, records, KEM, replace, NOW)


def last(expires: int = 2**40) -> bytes:
    return record(PrekeyKind.LAST_RESORT, expires)


@asynccontextmanager
async def front(backend: Backend, limits: Limits = DEFAULT) -> AsyncIterator[MailboxStore]:
    """A store in which alice and bob have accounts."""
    async with backend.opened(limits) as store:
        for user in ALICE, BOB:
            invite = Ticket(invite=user[:16])  # so that others pay as if nobody had come
            assert await store.commit(MakeAccount(user, DAY, invite)) == DONE
        yield store


def on(backend: Backend, script: Callable[[MailboxStore], Awaitable[None]], limits: Limits) -> None:
    async def life() -> None:
        async with front(backend, limits) as store:
            await script(store)

    play(life)


def test_a_mailbox_is_in_the_order_of_its_arrivals(backend: Backend) -> None:
    """Whoever has put them, and page by page."""
    total = LIST_PAGE + 5

    async def life() -> None:
        async with front(backend) as one, backend.opened() as other:
            for number in range(total):
                assert await (one, other)[number % 2].commit(mail(number)) == DONE
            ids = [mail(number).id for number in range(total)]
            for store in one, other:
                page = await look_up(store, ListIds(ALICE, b""))
                assert page == EnvelopeIds(tuple(ids[:LIST_PAGE]), True)
                rest = await look_up(store, ListIds(ALICE, ids[LIST_PAGE - 1]))
                assert rest == EnvelopeIds(tuple(ids[LIST_PAGE:]), False)
                assert await look_up(store, ListIds(ALICE, ids[-1])) == EnvelopeIds((), False)
            found, after = list[Mail](), 0
            while part := tuple(await look_up(other, NextMail(ALICE, after, 50))):
                assert len(part) == min(50, total - len(found))
                found += part
                after = part[-1].serial
            assert [each.id for each in found] == ids
            assert all(each.envelope == each.id * (SIZE // 16) for each in found)
            serials = [each.serial for each in found]
            assert serials == sorted(set(serials))
            assert serials[0] > 0

    play(life)


def test_what_one_owner_does_is_done_in_its_order(backend: Backend) -> None:
    """Without waiting for the answers, which come in the same order."""
    order: list[int] = []
    numbers = count()

    async def script(store: MailboxStore) -> None:
        owner = object()

        def do(change: Change[Any]) -> None:
            number = next(numbers)
            store.submit(change, lambda _: order.append(number), owner)

        for each in range(20):
            do(mail(each))
            do(RemoveEnvelopes(ALICE, (mail(each).id,)))
        do(mail(3))
        do(mail(1))
        done = trio.Event()
        store.submit(mail(2), lambda _: done.set(), owner)
        await done.wait()
        listed = await look_up(store, ListIds(ALICE, b""))
        assert listed == EnvelopeIds(tuple(mail(number).id for number in (3, 1, 2)), False)

    on(backend, script, DEFAULT)
    assert order == sorted(order)
    assert len(order) == 42


def test_what_was_delivered_is_done_again_also_when_the_mailbox_is_full(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        for number in range(3):
            for _ in range(2):
                assert await store.commit(mail(number)) == DONE
        for _ in range(2):
            assert await store.commit(mail(3)) == REFUSED[Code.MAILBOX_FULL]
            assert await store.commit(mail(1)) == DONE
            assert await store.commit(mail(3, BOB)) == DONE
        before = tuple(await look_up(store, NextMail(ALICE, 0, 9)))
        for _ in range(2):
            assert await store.commit(RemoveEnvelopes(ALICE, (mail(1).id, b"\xff" * 16))) == DONE
        assert await store.commit(mail(3)) == DONE
        assert await store.commit(mail(1)) == REFUSED[Code.MAILBOX_FULL]
        after = tuple(await look_up(store, NextMail(ALICE, 0, 9)))
        assert after[:2] == (before[0], before[2])
        assert after[2].id == mail(3).id
        assert after[2].serial > before[2].serial

    on(backend, script, Limits(mailbox=3, disk_free=0))


def test_a_limit_that_changes_holds_for_what_comes(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        assert await store.commit(mail(0)) == DONE
        assert await store.commit(mail(1)) == REFUSED[Code.MAILBOX_FULL]
        store.limits.now = Limits(mailbox=2, disk_free=0)
        assert await store.commit(mail(1)) == DONE

    on(backend, script, Limits(mailbox=1, disk_free=0))


def test_what_is_taken_out_of_a_mailbox_is_gone_and_nothing_else(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        for number in range(4):
            for user in ALICE, BOB:
                assert await store.commit(mail(number, user)) == DONE
        ids = [mail(number).id for number in range(4)]
        gone = RemoveEnvelopes(ALICE, (ids[2], ids[0], ids[2], bytes(15) + b"\xff"))
        assert await store.commit(gone) == DONE
        assert await look_up(store, ListIds(ALICE, b"")) == EnvelopeIds((ids[1], ids[3]), False)
        assert await look_up(store, AskPresent(ALICE, tuple(ids))) == {ids[1], ids[3]}
        unknown = REFUSED[Code.UNKNOWN_ENVELOPE]
        assert await look_up(store, ReadEnvelope(ALICE, ids[0])) == unknown
        assert await look_up(store, ListIds(ALICE, ids[0])) == unknown
        assert await look_up(store, ReadEnvelope(ALICE, ids[1])) == Stored(mail(1).envelope)
        assert await look_up(store, ListIds(BOB, b"")) == EnvelopeIds(tuple(ids), False)
        (first,) = await look_up(store, NextMail(ALICE, 0, 1))
        assert first.id == ids[1]

    on(backend, script, DEFAULT)


def test_who_has_no_account_gets_nothing_and_nothing_is_kept_for_them(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        no, unknown = REFUSED[Code.NO_ACCOUNT], REFUSED[Code.UNKNOWN_USER]
        assert await store.commit(mail(0, CAROL)) == unknown
        assert await store.commit(GivePrekey(CAROL, NOW)) == unknown
        assert await store.commit(RemoveEnvelopes(CAROL, (mail(0).id,))) == no
        assert await store.commit(upload(record(), user=CAROL)) == no
        assert await store.commit(ChangeMark(CAROL, b"", bytes(56))) == no
        assert await store.commit(EndAccount(CAROL)) is None
        await store.commit(NoteVisit(CAROL, DAY, True))
        for question in (
            *(ListIds(CAROL, b""), ReadEnvelope(CAROL, mail(0).id)),
            *(CountPrekeysLeft(CAROL, NOW), AskAccount(CAROL)),
        ):
            assert await look_up(store, question) == no
        assert tuple(await look_up(store, NextMail(CAROL, 0, 9))) == ()
        assert await look_up(store, AskPresent(CAROL, (mail(0).id,))) == frozenset()
        assert await store.commit(MakeAccount(CAROL, DAY)) == DONE
        assert await look_up(store, AskAccount(CAROL)) == DONE
        assert await look_up(store, ListIds(CAROL, b"")) == EnvelopeIds((), False)
        assert await look_up(store, CountPrekeysLeft(CAROL, NOW)) == PrekeyCount(0, 0)
        assert await store.commit(GivePrekey(CAROL, NOW)) == REFUSED[Code.NO_PREKEY]

    on(backend, script, DEFAULT)


def test_of_an_account_that_ends_nothing_is_left_for_the_next(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        for number in range(3):
            for user in ALICE, BOB:
                await store.commit(mail(number, user))
        await store.commit(upload(record(), last()))
        await store.commit(ChangeMark(ALICE, b"", bytes(56)))
        await store.commit(NoteVisit(ALICE, DAY, True))
        assert await store.commit(EndAccount(ALICE)) == 3
        assert await store.commit(EndAccount(ALICE)) is None
        assert await look_up(store, AskAccount(ALICE)) == REFUSED[Code.NO_ACCOUNT]
        assert tuple(await look_up(store, NextMail(ALICE, 0, 9))) == ()
        assert await store.commit(MakeAccount(ALICE, DAY)) == DONE
        assert await look_up(store, ListIds(ALICE, b"")) == EnvelopeIds((), False)
        assert await look_up(store, CountPrekeysLeft(ALICE, NOW)) == PrekeyCount(0, 0)
        assert await store.commit(GivePrekey(ALICE, NOW)) == REFUSED[Code.NO_PREKEY]
        assert await store.commit(ChangeMark(ALICE, b"", bytes(56))) == LastMark(b"")
        assert await store.commit(mail(0)) == DONE
        ids = tuple(mail(number).id for number in range(3))
        assert await look_up(store, ListIds(BOB, b"")) == EnvelopeIds(ids, False)

    on(backend, script, DEFAULT)


def test_a_mark_is_replaced_only_by_who_has_seen_it(backend: Backend) -> None:
    marks = [bytes([number]) * 56 for number in range(3)]

    async def script(store: MailboxStore) -> None:
        for seen, new, there in (
            (marks[0], marks[1], b""),
            (b"", marks[0], b""),
            (b"", marks[1], marks[0]),
            (marks[1], marks[2], marks[0]),
            (marks[0], marks[2], marks[0]),
            (marks[2], marks[2], marks[2]),
        ):
            assert await store.commit(ChangeMark(ALICE, seen, new)) == LastMark(there)
        assert await store.commit(ChangeMark(BOB, marks[2], marks[0])) == LastMark(b"")

    on(backend, script, DEFAULT)


def test_prekeys_go_in_the_order_of_their_ids_once_each_and_then_the_last_resort(
    backend: Backend,
) -> None:
    async def script(store: MailboxStore) -> None:
        over = record(expires=int(NOW))
        good = sorted(record() for _ in range(3))
        resort = last()
        assert await store.commit(GivePrekey(ALICE, NOW)) == REFUSED[Code.NO_PREKEY]
        assert await store.commit(upload(over, *reversed(good))) == DONE
        assert await look_up(store, CountPrekeysLeft(ALICE, NOW)) == PrekeyCount(3, 0)
        assert await store.commit(GivePrekey(ALICE, NOW)) == PrekeyRecord(good[0], KEM)
        assert await store.commit(upload(resort, user=ALICE)) == DONE
        assert await look_up(store, CountPrekeysLeft(ALICE, NOW)) == PrekeyCount(2, 2**40)
        for each in good[1], good[2], resort, resort:
            assert await store.commit(GivePrekey(ALICE, NOW)) == PrekeyRecord(each, KEM)
        earlier = await store.commit(GivePrekey(ALICE, NOW - 1))
        assert earlier == PrekeyRecord(over, KEM), "the clock may have been wrong"
        assert await store.commit(GivePrekey(ALICE, 2.0**41)) == REFUSED[Code.NO_PREKEY]
        assert await store.commit(GivePrekey(BOB, NOW)) == REFUSED[Code.NO_PREKEY]

    on(backend, script, DEFAULT)


def test_new_prekeys_take_the_place_of_old_ones_as_they_say(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        first, second, third = (record() for _ in range(3))
        assert await store.commit(upload(first, last(2**39))) == DONE
        assert await store.commit(upload(second)) == DONE
        assert await look_up(store, CountPrekeysLeft(ALICE, NOW)) == PrekeyCount(2, 2**39)
        for _ in range(2):
            assert await store.commit(upload(second, last(2**38))) == DONE
            assert await look_up(store, CountPrekeysLeft(ALICE, NOW)) == PrekeyCount(2, 2**38)
        kem = bytes(len(KEM) - 1) + b"\1"
        assert await store.commit(AddPrekeys(ALICE, (third,), kem, True, NOW)) == DONE
        assert await look_up(store, CountPrekeysLeft(ALICE, NOW)) == PrekeyCount(1, 0)
        assert await store.commit(GivePrekey(ALICE, NOW)) == PrekeyRecord(third, kem)
        assert await store.commit(GivePrekey(ALICE, NOW)) == REFUSED[Code.NO_PREKEY]

    on(backend, script, DEFAULT)


def test_an_account_has_so_many_prekeys_and_those_that_are_over_go_first(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        over = [record(expires=int(NOW) - 1) for _ in range(10)]
        good = [record() for _ in range(PREKEYS_MAX - 10)]
        assert await store.commit(upload(*over, *good)) == DONE
        assert await store.commit(upload(over[0], good[0])) == DONE, "they are there"
        more = [record() for _ in range(11)]
        assert await store.commit(upload(*more)) == REFUSED[Code.TOO_MANY]
        left = PrekeyCount(PREKEYS_MAX - 10, 0)
        assert await look_up(store, CountPrekeysLeft(ALICE, NOW)) == left
        assert await store.commit(upload(*more[:10])) == DONE
        assert await look_up(store, CountPrekeysLeft(ALICE, NOW)) == PrekeyCount(PREKEYS_MAX, 0)
        assert await store.commit(upload(more[10])) == REFUSED[Code.TOO_MANY]
        assert await store.commit(upload(*more, replace=True)) == DONE
        assert await look_up(store, CountPrekeysLeft(ALICE, NOW)) == PrekeyCount(11, 0)
        assert await store.commit(upload(*more, user=BOB)) == DONE

    on(backend, script, DEFAULT)


def test_takers_use_up_no_more_than_a_burst(backend: Backend) -> None:
    async def life() -> None:
        async with front(backend) as one, backend.opened() as other:
            resort = last()
            records = [record() for _ in range(PREKEY_BURST + 20)]
            assert await one.commit(upload(*records, resort)) == DONE
            given = [
                await (one, other)[number % 2].commit(GivePrekey(ALICE, NOW))
                for number in range(PREKEY_BURST + 1)
            ]
            assert given[:-1] == [PrekeyRecord(each, KEM) for each in sorted(records)[:-20]]
            assert given[-1] == PrekeyRecord(resort, KEM)
            assert await other.commit(upload(record(), user=BOB)) == DONE
            assert not isinstance(await other.commit(GivePrekey(BOB, NOW)), ErrorReply)

    play(life)


def test_what_was_done_is_there_after_a_restart(backend: Backend) -> None:
    mark, resort, one_time = bytes([7]) * 56, last(), record()
    time = ClockMark(5, 6, 7)

    async def before(store: MailboxStore) -> None:
        for number in range(3):
            await store.commit(mail(number))
        await store.commit(RemoveEnvelopes(ALICE, (mail(0).id,)))
        await store.commit(upload(one_time, resort))
        await store.commit(ChangeMark(ALICE, b"", mark))
        await store.commit(Suspend(CAROL, on=True))
        await store.commit(Suspend(BOB, on=True))
        await store.commit(Suspend(BOB, on=False))
        await store.commit(NoteTime(time))
        await store.commit(EndAccount(BOB))

    async def after() -> None:
        async with backend.opened() as store:
            listed = await look_up(store, ListIds(ALICE, b""))
            assert listed == EnvelopeIds((mail(1).id, mail(2).id), False)
            assert await look_up(store, ReadEnvelope(ALICE, mail(2).id)) == Stored(mail(2).envelope)
            assert await look_up(store, CountPrekeysLeft(ALICE, NOW)) == PrekeyCount(1, 2**40)
            assert await store.commit(ChangeMark(ALICE, b"", mark)) == LastMark(mark)
            assert store.suspended == {CAROL}
            assert store.noted() == time
            assert await look_up(store, AskAccount(BOB)) == REFUSED[Code.NO_ACCOUNT]
            before_it = tuple(await look_up(store, NextMail(ALICE, 0, 9)))[-1].serial
            assert await store.commit(mail(3)) == DONE
            (new,) = await look_up(store, NextMail(ALICE, before_it, 9))
            assert new.id == mail(3).id

    on(backend, before, DEFAULT)
    play(after)


def test_a_store_says_who_is_suspended_and_that_it_is_alive(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        assert store.noted() is None
        assert store.suspended == frozenset()
        for _ in range(2):
            await store.commit(Suspend(ALICE, on=True))
            assert store.suspended == {ALICE}
        await store.commit(EndAccount(ALICE))
        assert store.suspended == {ALICE}, "it holds for who comes again"
        await store.commit(Suspend(ALICE, on=False))
        assert store.suspended == frozenset()
        await store.commit(NoChange())
        await store.progress()

    on(backend, script, DEFAULT)
