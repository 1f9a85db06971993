"""How much the message server takes in: the store's limit, its reserve, each account's share."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import lmdb
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cbfs_common.limits import IDS_MAX, MARK_SIZE
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    Code,
    CreateAccount,
    Delete,
    DeleteAccount,
    Deliver,
    ErrorReply,
    LastMark,
    List,
    SwapMark,
    UploadPrekeys,
    envelope_id,
)
from cbfs_host import lmdb_environment
from cbfs_host.complaints import StoreError
from cbfs_host.settings import Current
from cbfs_server.limits import (
    ENVELOPE_COST,
    LIST_PAGE,
    NEWCOMER_DAYS,
    NEWCOMERS_SHARE,
    PREKEYS_MAX,
    RETENTION_DAYS,
    ROOM_TIME,
    SHARE,
    STORE_LEAST,
    Limits,
)
from cbfs_server.lmdb_store import room as room_module
from cbfs_server.lmdb_store.mailboxes import MailboxWriter
from cbfs_server.lmdb_store.records import AccountRecord
from cbfs_server.lmdb_store.room import find_room
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.service import Service
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import NoChange
from cbfs_server.store.room import Room
from tests.server.test_server_store import ALICE, BOB, Caller, Clock, old, play, serving
from tests.support.disk import small_disk, use_up
from tests.support.serving import KEM, envelope, record

MIB = 1 << 20
SMALL = 8 * MIB
"""A store's limit in these tests, of which the eighth is the reserve."""

ACCOUNTS = 12
_MOST = SMALL * 7 // 8 * (NEWCOMERS_SHARE - 1) // NEWCOMERS_SHARE
"""Bytes of mail that leave no room for newcomers."""

MAIL = 5 * 4_096 + 100
"""About what an envelope takes of the file."""

FULL = ErrorReply(Code.FULL)
MAILBOX_FULL = ErrorReply(Code.MAILBOX_FULL)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "RESERVE", SMALL // 8)
    monkeypatch.setattr(room_module, "RESERVE_STEP", SMALL // 8)


@contextmanager
def everything_for_one() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "fits", lambda self, _held: self.left >= ENVELOPE_COST)
        yield


def used(store: Path) -> int:
    """Bytes that the file has on the disk."""
    return (store / "data.mdb").stat().st_blocks * 512


async def fill(caller: Caller, most: int = 10_000) -> tuple[list[bytes], object]:
    """Deliver to oneself until that is refused; what was taken, and what was said then."""
    ids: list[bytes] = []
    reply: object = Done()
    while reply == Done() and len(ids) < most:
        each = envelope()
        reply = await caller.ask(Deliver(caller.key, each))
        if reply == Done():
            ids.append(envelope_id(each))
    return ids, reply


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.data())
def test_room_is_what_is_free_and_may_grow_less_the_reserve(
    used: int, free: int, growth: int, data: st.DataObject
) -> None:
    most = data.draw(st.none() | st.integers(STORE_LEAST, 1 << 41))
    room = find_room(used, used + free, growth, most)
    assert 0 <= room.left <= room.all
    assert room.left == 0 or room.left + SMALL // 8 <= free + growth
    assert most is None or room.left == 0 or used + room.left + SMALL // 8 <= most
    more = find_room(used, used + free + 1, growth, most)
    assert more.left >= room.left


def test_where_there_is_plenty_the_room_is_not_looked_at_for_each_transaction(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But when a part of the reserve was taken in, when little is left, when somebody reads who
    keeps pages from being written over, and when what was taken in has not come to count."""
    now = 100.0
    monkeypatch.setattr(room_module, "monotonic", lambda: now)
    limits = Current(Limits(store_max=2 * SMALL))
    env = lmdb.open(str(memory), map_size=1 << 30)
    disk = room_module.Disk(memory, env, limits)
    looks: list[int] = []

    def pages() -> int:
        looks.append(1)
        return len(looks)

    def looked(*, pinned: bool = False) -> Room:
        before = len(looks)
        made = disk.room(pages, pinned)
        assert len(looks) == before + 1
        return made

    def not_looked() -> None:
        before = len(looks)
        assert disk.room(pages) is room
        assert len(looks) == before

    room = looked()
    room.left -= SMALL // 8 // 8 - 1
    not_looked()
    room.left -= 1
    room = looked()
    disk.look_again()
    room = looked()
    now += ROOM_TIME - 0.01
    not_looked()
    now += 0.01
    looked(pinned=True)
    room = looked()
    not_looked()
    limits.now = Limits(store_max=SMALL // 8 + 1)  # which is all but full
    disk.look_again()
    for _ in range(2):
        looked()
    disk.close()
    env.close()


@given(st.integers(STORE_LEAST, 1 << 40), st.integers(1, 300))
def test_those_who_take_all_they_can_leave_something_to_everybody(size: int, greedy: int) -> None:
    room = Room(size, size)
    for _ in range(greedy):
        held, step = 0, size
        while step > ENVELOPE_COST:
            step //= 2
            while Room(room.left - step, size).fits(held + step):
                held, room.left = held + step, room.left - step
    assert room.left >= size // (1 + greedy // SHARE) // 2


def test_one_account_has_a_share_and_others_still_get_their_mail(memory: Path) -> None:
    async def script() -> None:
        async with serving(memory / "store", Clock(), 10_000, SMALL) as service:
            honest = Caller(service, ALICE)
            await honest.ask(CreateAccount())
            greedy = [Caller(service, bytes([number]) * 32) for number in range(3)]
            taken = []
            for each in greedy:
                await each.ask(CreateAccount())
                ids, said = await fill(each)
                assert said == MAILBOX_FULL
                taken.append(len(ids))
            assert taken[0] > taken[1] > taken[2]
            ids, _ = await fill(honest)
            assert len(ids) > 10

    play(script)


def test_newcomers_wait_first_and_prekeys_have_a_share_too(
    memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def script() -> None:
        async with serving(memory / "store", Clock(), 10_000, SMALL) as service:
            alice, bob = Caller(service, ALICE), Caller(service, BOB)
            for each in alice, bob:
                await each.ask(CreateAccount())
            with everything_for_one():
                await fill(alice, _MOST // MAIL + 2)
            assert await Caller(service, bytes(32)).ask(CreateAccount()) == FULL
            assert await bob.ask(Deliver(ALICE, envelope())) == MAILBOX_FULL
            assert await alice.ask(Deliver(BOB, envelope())) == Done()
            said = [await bob.ask(UploadPrekeys((record(),), KEM)) for _ in range(PREKEYS_MAX // 4)]
            assert said[0] == Done()
            assert said[-1] == FULL
            with everything_for_one():
                await fill(alice)
            assert await alice.ask(Deliver(BOB, envelope())) == FULL
            fresh = tuple(record() for _ in range(said.count(Done())))[:12]
            assert await bob.ask(UploadPrekeys(fresh, KEM, replace=True)) == Done()

    play(script)
    assert "no account was made: there is little room" in caplog.text
    assert "there is no room for mail: " in caplog.text


async def empties(service: Service, caller: Caller, ids: list[bytes]) -> None:
    """Nothing that makes room is refused, nor that the owner was there."""
    await caller.ask(List())
    assert await caller.ask(SwapMark(b"", bytes(MARK_SIZE))) == LastMark(b"")
    assert await caller.ask(Delete(tuple(ids[:5]))) == Done()
    store = service._store
    assert await _expired(store, 1_000 + RETENTION_DAYS + 1) == len(ids) - 5
    again, _ = await fill(caller)
    assert len(again) > len(ids) // 2, "what was deleted is room"
    for start in range(0, len(again), IDS_MAX):
        assert await caller.ask(Delete(tuple(again[start : start + IDS_MAX]))) == Done()
    assert await caller.ask(DeleteAccount()) == Done()
    assert await caller.ask(CreateAccount()) == Done()
    await fill(caller)
    await _expired(store, 1_000 + NEWCOMER_DAYS + 1)
    assert await caller.ask(List()) == ErrorReply(Code.NO_ACCOUNT)
    assert await caller.ask(CreateAccount()) == Done()


async def _expired(store: MailboxStore, today: int) -> int:
    """How many envelopes were forgotten."""
    start: bytes | None = b""
    gone = 0
    while start is not None:
        swept = await store.commit(old(start, today))
        start = swept.rest
        gone += swept.expired.envelopes
    return gone


@pytest.mark.parametrize("what", ["its limit", "the map"])
def test_a_full_store_forgets_whatever_it_is_told_to_and_takes_in_as_much_again(
    memory: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "the map":
        monkeypatch.setattr(lmdb_environment, "MAP_SIZE", SMALL)

    async def script() -> None:
        most = None if what == "the map" else SMALL
        async with serving(memory / "store", Clock(), 10_000, most) as service:
            caller = Caller(service, ALICE)
            await caller.ask(CreateAccount())
            with everything_for_one():
                ids, said = await fill(caller)
                assert said == FULL
                assert len(ids) > SMALL * 7 // 8 // ENVELOPE_COST * 9 // 10
                await empties(service, caller, ids)
            assert used(memory / "store") <= SMALL + SMALL // 4

    play(script)


@pytest.mark.mount
@pytest.mark.parametrize("crowded", ["by mail", "by others"])
def test_deleting_and_expiry_work_on_a_disk_without_a_free_byte(crowded: str) -> None:
    """Its mail has filled it, or another program has, to the last byte."""
    with (
        tempfile.TemporaryDirectory(prefix="cbfs-room-", dir="/var/tmp") as place,
        small_disk(Path(place) / "disk", SMALL) as disk,
    ):
        play(partial(_on_a_full_disk, disk, crowded))


async def _on_a_full_disk(disk: Path, crowded: str) -> None:
    async with serving(disk / "store", Clock(), 10_000) as service:
        caller = Caller(service, ALICE)
        await caller.ask(CreateAccount())
        with everything_for_one():
            ids, said = await fill(caller, 10_000 if crowded == "by mail" else 20)
            assert said == (FULL if crowded == "by mail" else Done())
            other = use_up(disk)
            assert not shutil.disk_usage(disk).free
            if crowded == "by mail":
                await empties(service, caller, ids)
            else:
                await fill(caller)
                assert await caller.ask(Delete(tuple(ids))) == Done()
                other.unlink()
                assert await caller.ask(Deliver(ALICE, envelope())) == Done()


def test_what_comes_and_goes_for_long_never_makes_it_larger_nor_keeps_a_deletion_out(
    memory: Path,
) -> None:
    """Free pages in pieces of all sizes: mail, prekeys and accounts, at random, at the limit."""
    dice = random.Random(14)
    callers: list[Caller] = []
    held: dict[bytes, list[bytes]] = {}

    async def step(caller: Caller) -> None:
        ids = held[caller.key]
        match dice.randrange(10):
            case 0:
                fresh = tuple(record() for _ in range(dice.randrange(1, 13)))
                assert await caller.ask(UploadPrekeys(fresh, KEM, replace=True)) in (Done(), FULL)
            case 1 | 2:
                dice.shuffle(ids)
                gone = [ids.pop() for _ in range(dice.randrange(len(ids) + 1))]
                assert await caller.ask(Delete(tuple(gone[:IDS_MAX]))) == Done()
            case 3 if dice.random() < 0.2:
                assert await caller.ask(DeleteAccount()) == Done()
                ids.clear()
                while await caller.ask(CreateAccount()) == FULL:
                    await step(dice.choice([each for each in callers if each is not caller]))
            case _:
                ids += (await fill(caller, dice.randrange(1, 12)))[0]

    async def script() -> None:
        async with serving(memory / "store", Clock(), 10_000, SMALL) as service:
            callers.extend(Caller(service, bytes([number]) * 32) for number in range(ACCOUNTS))
            for caller in callers:
                held[caller.key] = []
                assert await caller.ask(CreateAccount()) == Done()
            for _ in range(400 if not os.environ.get("SOAK_S") else 20_000):
                await step(dice.choice(callers))
            assert used(memory / "store") <= SMALL + SMALL // 4
            for caller in callers:
                assert set((await caller.ask(List())).ids) == set(held[caller.key])

    play(script)


def test_a_limit_that_is_smaller_than_what_is_there_lets_it_be_fetched_and_deleted(
    memory: Path,
) -> None:
    ids: list[bytes] = []

    async def before() -> None:
        async with serving(memory / "store", Clock(), 10_000, 2 * SMALL) as service:
            caller = Caller(service, ALICE)
            await caller.ask(CreateAccount())
            with everything_for_one():
                ids.extend((await fill(caller))[0])

    async def after() -> None:
        async with serving(memory / "store", Clock(), 10_000, SMALL) as service:
            caller = Caller(service, ALICE)
            assert await caller.ask(Deliver(ALICE, envelope())) == FULL
            listed = (await caller.ask(List())).ids
            assert listed == tuple(ids[:LIST_PAGE])
            for start in range(0, len(ids), IDS_MAX):
                assert await caller.ask(Delete(tuple(ids[start : start + IDS_MAX]))) == Done()
            assert await caller.ask(Deliver(ALICE, envelope())) == Done()

    play(before)
    play(after)


def test_a_change_that_the_disk_does_not_take_is_refused_alone(memory: Path) -> None:
    """Of those that are made together."""
    answers: list[object] = []

    def too_large(_writer: MailboxWriter) -> None:
        raise lmdb.MapFullError("no room")

    async def script() -> None:
        store = LmdbStore(memory / "store", Current(Limits(disk_free=0)))
        store.apply(too_large, answers.append)
        store.apply(lambda writer: writer.put_account(ALICE, AccountRecord(1, 0)), answers.append)
        store.apply(too_large, answers.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await store.commit(NoChange())
            nursery.cancel_scope.cancel()
        with store.read() as reader:
            assert reader.account(ALICE)
        store.close()

    play(script)
    assert [isinstance(each, StoreError) for each in answers] == [True, False, True]
