"""Accounts end whose owners do not come: by days that the server has lived, bounded in each
transaction, and whole whatever ends the server meanwhile."""

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cbfs_common.limits import MARK_SIZE
from cbfs_common.wire.fields import Done, Request
from cbfs_common.wire.requests import (
    Code,
    CountPrekeys,
    CreateAccount,
    Delete,
    DeleteAccount,
    Deliver,
    ErrorReply,
    Fetch,
    GetLimits,
    List,
    Subscribe,
    SwapMark,
    TakePrekey,
    UploadPrekeys,
    envelope_id,
)
from cbfs_host import lmdb_environment
from cbfs_server.housekeeping import Housekeeping
from cbfs_server.limits import ENDING_COST, EXPIRY_BATCH, INACTIVE_DAYS, NEWCOMER_DAYS
from cbfs_server.lmdb_store import expiry as expiry_module
from cbfs_server.lmdb_store.mailboxes import MailboxWriter
from cbfs_server.lmdb_store.records import AccountRecord, Visit
from cbfs_server.service import Service
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import Expired
from tests.server.test_server_clock import DAY, FAR, Machine
from tests.server.test_server_store import ALICE, BOB, Caller, Clock, lmdb_of, old, play, serving
from tests.support.children import exit_code
from tests.support.killing import Kill, KillingEnv, Record, every_point
from tests.support.serving import KEM, envelope, record

Script = Callable[[Housekeeping, Caller, Caller], Awaitable[None]]

ENVELOPE = envelope()
OWNERS: list[Request[Any]] = [
    List(),
    Fetch(envelope_id(ENVELOPE)),
    Subscribe(),
    Delete(()),
    CountPrekeys(),
    UploadPrekeys((record(),), KEM),
    SwapMark(b"", bytes(MARK_SIZE)),
]
FETCHING = OWNERS[:3]
OTHERS: list[Request[Any]] = [
    CreateAccount(),
    GetLimits(),
    TakePrekey(ALICE),
    Deliver(ALICE, ENVELOPE),
]


async def is_there(alice: Caller, bob: Caller) -> bool:
    """Whether there is an account, without its owner."""
    return bool(await bob.ask(TakePrekey(alice.key)) != ErrorReply(Code.UNKNOWN_USER))


async def days(machine: Machine, house: Housekeeping, number: int) -> None:
    machine.real += number * DAY
    await house.look()


@pytest.mark.parametrize("asked", FETCHING, ids=lambda each: type(each).__name__)
def test_who_has_fetched_stays_until_nobody_comes_for_long(
    asked: Request[Any], memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(memory)

    async def script(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await alice.ask(CreateAccount())
        await alice.ask(Deliver(ALICE, ENVELOPE))
        assert not isinstance(await alice.ask(asked), ErrorReply)
        await days(machine, house, INACTIVE_DAYS)
        assert await is_there(alice, bob)
        await days(machine, house, 1)
        assert not await is_there(alice, bob)

    machine.live(script)
    ended = f"ended 1 accounts: 1 that nobody has used for {INACTIVE_DAYS} days, 0 that never"
    assert ended in caplog.text


def test_who_never_fetches_anything_goes_soon(
    memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(memory)

    async def script(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        for each in alice, bob:
            await each.ask(CreateAccount())
            await each.ask(UploadPrekeys((record(),), KEM))
        await bob.ask(List())
        await days(machine, house, NEWCOMER_DAYS)
        assert await is_there(alice, bob)
        await days(machine, house, 1)
        assert not await is_there(alice, bob)
        assert await is_there(bob, alice)

    machine.live(script)
    assert "ended 1 accounts: 0 that nobody has used" in caplog.text
    assert "1 that never fetched anything" in caplog.text


@pytest.mark.parametrize("asked", OWNERS, ids=lambda each: type(each).__name__)
def test_whatever_an_owner_asks_keeps_the_account(asked: Request[Any], memory: Path) -> None:
    """Over lives of the server as well."""
    machine = Machine(memory)

    async def begin(house: Housekeeping, alice: Caller, _bob: Caller) -> None:
        await alice.ask(CreateAccount())
        await alice.ask(List())

    async def come(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await days(machine, house, INACTIVE_DAYS)
        await bob.ask(Deliver(ALICE, ENVELOPE))
        assert not isinstance(await alice.ask(asked), ErrorReply)

    machine.live(begin)
    for _ in range(3):
        machine.live(come)
        machine.boots = machine.real


@pytest.mark.parametrize("asked", OTHERS, ids=lambda each: type(each).__name__)
def test_what_anybody_may_ask_keeps_no_account(asked: Request[Any], memory: Path) -> None:
    machine = Machine(memory)

    async def script(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await alice.ask(CreateAccount())
        for _ in range(NEWCOMER_DAYS + 1):
            await alice.ask(asked)
            await days(machine, house, 1)
        assert not await is_there(alice, bob)

    machine.live(script)


@pytest.mark.parametrize("jump", FAR.values(), ids=FAR)
@pytest.mark.parametrize("restarts", [True, False], ids=["off meanwhile", "running"])
def test_no_jump_of_the_clock_ends_an_account(jump: int, restarts: bool, memory: Path) -> None:
    machine = Machine(memory)

    async def begin(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await alice.ask(CreateAccount())
        if not restarts:
            await jumped(house, alice, bob)

    async def jumped(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        for machine.off in (jump, 0):
            await days(machine, house, 2)
            assert await is_there(alice, bob)

    machine.live(begin)
    if restarts:
        machine.live(jumped)


def test_of_an_account_that_an_older_server_has_made_time_begins_now(memory: Path) -> None:
    async def script() -> None:
        async with serving(memory / "store", Clock()) as service:
            alice, bob = Caller(service, ALICE), Caller(service, BOB)
            await alice.ask(CreateAccount())
            store = lmdb_of(service)
            with store._env.begin(write=True) as txn:
                txn.delete(ALICE, db=store._tables.visits.db)
            for day in 5_000, 5_000 + INACTIVE_DAYS:
                await store.commit(old(b"", day))
                assert await is_there(alice, bob)
            await store.commit(old(b"", 5_001 + INACTIVE_DAYS))
            assert not await is_there(alice, bob)

    play(script)


def sweep(
    store: MailboxStore, today: int, found: list[Expired]
) -> Callable[[bytes], Awaitable[bytes | None]]:
    """Makes a batch: a transaction."""

    async def batch(start: bytes) -> bytes | None:
        swept = await store.commit(old(start, today))
        found.append(swept.expired)
        return swept.rest

    return batch


def make(users: list[bytes], writer: MailboxWriter) -> None:
    """More than come for nothing."""
    for user in users:
        writer.put_account(user, AccountRecord(1, 0))
        writer.put_visit(user, Visit(1_000, False))


def test_what_ends_is_bounded_in_each_transaction(memory: Path) -> None:
    """Accounts with much mail, and many with none."""
    users = [number.to_bytes(2, "big") * 16 for number in range(EXPIRY_BATCH + 60)]
    found: list[Expired] = []

    async def script() -> None:
        async with serving(memory / "store", Clock(), 2 * EXPIRY_BATCH) as service:
            await lmdb_of(service).applied(partial(make, users))
            full = Caller(service, users[7])
            for _ in range(EXPIRY_BATCH + EXPIRY_BATCH // 2):
                await full.ask(Deliver(full.key, envelope()))
            batch, start = sweep(service._store, 1_001 + NEWCOMER_DAYS, found), b""
            while (after := await batch(start)) is not None:
                start = after
            with lmdb_of(service).read() as reader:
                assert reader.accounts() == 0
                tables = lmdb_of(service)._tables
                left = [
                    reader._txn.stat(each.db)["entries"]
                    for each in (tables.prekeys, tables.order, tables.mail, tables.visits)
                ]
            assert left == [0, 0, 0, 0]

    play(script)
    costs = [each.envelopes + ENDING_COST * len(each.ended) for each in found]
    assert max(costs) <= EXPIRY_BATCH + ENDING_COST
    assert sorted(user for each in found for user in each.ended) == users


def test_who_comes_while_the_account_ends_keeps_what_is_left(memory: Path) -> None:
    async def script() -> None:
        async with serving(memory / "store", Clock(), 2 * EXPIRY_BATCH) as service:
            alice, found = Caller(service, ALICE), list[Expired]()
            await alice.ask(CreateAccount())
            for number in range(EXPIRY_BATCH + 9):
                await alice.ask(Deliver(ALICE, number.to_bytes(4, "big") * 4_096))
            batch = sweep(service._store, 1_001 + NEWCOMER_DAYS, found)
            start = await batch(b"")
            assert start == ALICE
            service._lived = service._visits._lived = lambda: (1_001.0 + NEWCOMER_DAYS) * DAY
            assert len((await alice.ask(List())).ids) == 9
            assert await batch(start) is None
            assert len((await alice.ask(List())).ids) == 9
            assert found[-1].ended == []

    play(script)


def test_an_account_that_is_made_again_gets_what_comes_then(memory: Path) -> None:
    """And stays only if its owner fetches again: that the last one did counts no more."""
    machine = Machine(memory)

    async def script(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await alice.ask(CreateAccount())
        await alice.ask(List())
        await alice.ask(DeleteAccount())
        await alice.ask(CreateAccount())
        each = envelope()
        assert await bob.ask(Deliver(ALICE, each)) == Done()
        await days(machine, house, NEWCOMER_DAYS)
        assert (await alice.ask(List())).ids == (envelope_id(each),)
        await days(machine, house, NEWCOMER_DAYS + 1)
        assert await is_there(alice, bob)

    machine.live(script)


def test_the_subscriptions_of_an_account_end_with_it(memory: Path) -> None:
    machine = Machine(memory)

    async def script(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await alice.ask(CreateAccount())
        await alice.ask(Subscribe())
        (pusher,) = house._pushers
        assert pusher.subscribed(alice)
        await days(machine, house, INACTIVE_DAYS + 1)
        assert not pusher.subscribed(alice)

    machine.live(script)


USERS = [bytes([number]) * 32 for number in range(4)]
STAYS = USERS[2]
MAIL = 5


async def ending(place: Path, number: int) -> None:
    """An account with mail and prekeys that is over, among others; killed at a point of it."""
    known = Record(place / "record").lines()
    kill, opened = Kill(number), lmdb_environment.open_environment
    async with serving(place / "store", Clock()) as service:
        if not known:
            for user in USERS:
                caller = Caller(service, user)
                await caller.ask(CreateAccount())
                await caller.ask(UploadPrekeys((record(),), KEM))
                for each in range(MAIL):
                    await caller.ask(Deliver(user, bytes([each]) * len(ENVELOPE)))
            await lmdb_of(service).applied(
                lambda writer: writer.put_visit(STAYS, Visit(1_000, True))
            )
            Record(place / "record").write("made")
    expiry_module.__dict__["EXPIRY_BATCH"] = 3
    lmdb_environment.__dict__["open_environment"] = lambda *place: KillingEnv(opened(*place), kill)
    async with serving(place / "store", Clock()) as service:
        await check(service)
        batch, start = sweep(service._store, 1_001 + NEWCOMER_DAYS, []), b""
        while (after := await batch(start)) is not None:
            start = after
        await check(service)
        with lmdb_of(service).read() as reader:
            assert reader.users(b"", 10) == [STAYS]


async def check(service: Service) -> None:
    """An account is whole, but for the mail that has gone first; or nothing of it is there."""
    with lmdb_of(service).read() as reader:
        for user in USERS:
            account, ids = reader.account(user), reader.ids(user, 0, 100)
            if account is None:
                assert not ids
                assert reader.visit(user) is None
                assert not list(reader.prekeys(user, 1))  # type: ignore[arg-type]
                assert user != STAYS
            else:
                assert account.stored == len(ids)
                assert all(reader.envelope(user, id) is not None for id in ids)
                assert len(ids) == MAIL or user != STAYS
                assert list(reader.prekeys(user, 1))  # type: ignore[arg-type]


def end_them(place: Path, number: int) -> int:
    play(partial(ending, place, number))
    return 0


def test_a_kill_while_accounts_end_leaves_each_whole_or_nothing_of_it(memory: Path) -> None:
    points = count()
    for place in every_point(end_them, memory):
        next(points)
        assert exit_code(end_them, place, 0) == 0
    assert next(points) > 6
