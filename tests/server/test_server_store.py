"""The server's store and service in this process: retention, limits, a full disk, and a model."""

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cbfs_common.limits import ENVELOPE_SIZE, MARK_SIZE, PUSH_WINDOW
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.fields import Done, Request
from cbfs_common.wire.requests import (
    Code,
    CountPrekeys,
    CreateAccount,
    Delete,
    DeleteAccount,
    Deliver,
    EnvelopeIds,
    ErrorReply,
    Fetch,
    LastMark,
    List,
    PrekeyCount,
    PrekeyRecord,
    Stored,
    Subscribe,
    SwapMark,
    TakePrekey,
    UploadPrekeys,
    decode_reply,
    encode,
    envelope_id,
)
from cbfs_common.wire.transport import PUSH
from cbfs_host import lmdb_environment
from cbfs_host.complaints import StoreError
from cbfs_host.settings import Current
from cbfs_server.limits import (
    EXPIRY_BATCH,
    INACTIVE_DAYS,
    PREKEY_BURST,
    PREKEY_PERIOD,
    PUSH_SLICE,
    RETENTION_DAYS,
    Limits,
)
from cbfs_server.lmdb_store import room
from cbfs_server.lmdb_store.prekey_rate import PrekeyRateLimit
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.push import Pusher
from cbfs_server.service import DAY, Service
from cbfs_server.store.operations import ForgetOld
from cbfs_server.store.room import Room
from tests.support.serving import KEM, TIMEOUT, envelope, record

ALICE, BOB = b"a" * 32, b"b" * 32
MARKS = [bytes([number]) * MARK_SIZE for number in range(2)]


class Caller:
    """Stands in for a connection."""

    def __init__(self, service: Service, key: bytes) -> None:
        self.key = key
        self.ready = True
        self.closed = False
        self._service = service
        self._answered: dict[int, bytes] = {}
        self._events: dict[int, trio.Event] = {}
        self._last = 0

    def send(self, id: int, payload: bytes) -> None:
        if id != PUSH:
            self._answered[id] = payload
            self._events[id].set()

    def close(self, reason: str, level: int = logging.INFO) -> None:
        raise AssertionError(reason)

    async def ask(self, request: Request[Any]) -> Any:
        self._last += 1
        id = self._last
        self._events[id] = trio.Event()
        self._service.handle(self, id, encode(request))
        await self._events[id].wait()
        return decode_reply(self._answered[id])


class Clock:
    def __init__(self) -> None:
        self.now = 1_000 * DAY

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(
    path: Path, clock: Clock, mailbox: int = 100, most: int | None = None
) -> AsyncIterator[Service]:
    opened = LmdbStore(path, Current(Limits(mailbox=mailbox, store_max=most, disk_free=0)))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened.run)
            yield Service(opened, Pusher(opened), clock)
            nursery.cancel_scope.cancel()
    finally:
        opened.close()


def lmdb_of(service: Service) -> LmdbStore:
    """The store, where a test looks behind its face."""
    store = service._store
    assert isinstance(store, LmdbStore)
    return store


def play(script: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(TIMEOUT):
            await script()

    trio.run(limited)


async def _count(caller: Caller) -> int:
    """How many envelopes a mailbox has, which is more than one page of a listing tells."""
    page = await caller.ask(List())
    count = len(page.ids)
    while page.more:
        page = await caller.ask(List(page.ids[-1]))
        count += len(page.ids)
    return count


def test_what_is_too_old_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    clock = Clock()

    async def script() -> None:
        async with serving(tmp_path / "store", clock, EXPIRY_BATCH * 2) as service:
            alice, bob = Caller(service, ALICE), Caller(service, BOB)
            for each in alice, bob:
                await each.ask(CreateAccount())
                await each.ask(List())
            for _ in range(EXPIRY_BATCH + 10):
                await bob.ask(Deliver(ALICE, envelope()))
            clock.now += DAY
            young = envelope()
            await bob.ask(Deliver(ALICE, young))
            await bob.ask(Deliver(BOB, young))
            today = clock.now // DAY + RETENTION_DAYS
            assert await _expire_all(service, today - 1) == 1
            assert await _count(alice) == EXPIRY_BATCH + 11
            assert await _expire_all(service, today) == 2
            assert await alice.ask(List()) == EnvelopeIds((envelope_id(young),), False)
            assert await bob.ask(List()) == EnvelopeIds((envelope_id(young),), False)
            await _expire_all(service, today + 1)
            assert await alice.ask(List()) == EnvelopeIds((), False)

    play(script)


def old(start: bytes, today: int) -> ForgetOld:
    return ForgetOld(start, today, RETENTION_DAYS, INACTIVE_DAYS)


async def _expire_all(service: Service, today: int) -> int:
    """How many transactions it took."""
    start: bytes | None = b""
    rounds = 0
    while start is not None:
        start = (await service._store.commit(old(start, today))).rest
        rounds += 1
    return rounds


def test_takers_cannot_use_up_what_an_account_has() -> None:
    takes = PrekeyRateLimit()
    assert all(takes.allows(ALICE, 5.0) for _ in range(PREKEY_BURST))
    assert not takes.allows(ALICE, 5.0)
    assert takes.allows(BOB, 5.0)
    assert not takes.allows(ALICE, 5.0 + PREKEY_PERIOD * 0.9)
    assert takes.allows(ALICE, 5.0 + PREKEY_PERIOD)
    assert not takes.allows(ALICE, 5.0 + PREKEY_PERIOD)


def test_what_takers_leave_behind_is_forgotten() -> None:
    takes = PrekeyRateLimit()
    for number in range(10_000):
        assert takes.allows(number.to_bytes(32, "big"), number * PREKEY_PERIOD)
    assert len(takes._full_at) < 2_000


def test_past_the_limit_takers_get_the_last_resort_prekey(tmp_path: Path) -> None:
    async def script() -> None:
        async with serving(tmp_path / "store", Clock()) as service:
            alice = Caller(service, ALICE)
            await alice.ask(CreateAccount())
            last = record(PrekeyKind.LAST_RESORT)
            for _ in range(PREKEY_BURST // 10 + 1):
                await alice.ask(UploadPrekeys(tuple(record() for _ in range(10)), KEM))
            await alice.ask(UploadPrekeys((last,), KEM))
            for _ in range(PREKEY_BURST):
                assert await alice.ask(TakePrekey(ALICE)) != PrekeyRecord(last, KEM)
            assert await alice.ask(TakePrekey(ALICE)) == PrekeyRecord(last, KEM)
            assert (await alice.ask(CountPrekeys())).one_time == 10

    play(script)


def test_a_map_without_a_reserve_refuses_what_does_not_fit_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a file system gives no reserve, or an old store was larger."""
    monkeypatch.setattr(lmdb_environment, "MAP_SIZE", 512 * 1024)
    monkeypatch.setattr(room, "find_room", lambda *_: Room(1 << 40, 1 << 40))

    async def script() -> None:
        async with serving(tmp_path / "store", Clock()) as service:
            alice = Caller(service, ALICE)
            await alice.ask(CreateAccount())
            stored: list[bytes] = []
            while True:
                each = envelope()
                reply = await alice.ask(Deliver(ALICE, each))
                if reply != Done():
                    break
                stored.append(envelope_id(each))
            assert reply == ErrorReply(Code.TROUBLE)
            assert (await alice.ask(List())).ids == tuple(stored)
            for id in stored[:10]:  # pages that one change frees are used by the next but one
                assert await alice.ask(Delete((id,))) == Done()
            assert await alice.ask(Deliver(ALICE, each)) == Done()

    play(script)
    assert "the store cannot be written" in caplog.text


class Subscriber(Caller):
    """Takes all that is pushed at once, and notes whose it was."""

    def __init__(self, service: Service, key: bytes, pushed: list[bytes]) -> None:
        super().__init__(service, key)
        self._pushed = pushed

    def send(self, id: int, payload: bytes) -> None:
        if id == PUSH:
            self._pushed.append(self.key)
        else:
            super().send(id, payload)


def test_who_has_much_to_get_gets_it_in_slices_between_which_others_have_their_turn(
    tmp_path: Path,
) -> None:
    pushed: list[bytes] = []

    async def script() -> None:
        async with serving(tmp_path / "store", Clock()) as service, trio.open_nursery() as nursery:
            much, little = (Subscriber(service, key, pushed) for key in (ALICE, BOB))
            for each, count in (much, PUSH_WINDOW), (little, 1):
                await each.ask(CreateAccount())
                for _ in range(count):
                    await each.ask(Deliver(each.key, envelope()))
            await much.ask(Subscribe())
            assert len(pushed) == PUSH_SLICE
            await little.ask(Subscribe())
            nursery.start_soon(service._pusher.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    play(script)
    assert pushed.index(BOB) <= 2 * PUSH_SLICE
    assert pushed.count(ALICE) == PUSH_WINDOW


def test_a_store_that_cannot_be_opened_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"\xff" * 100_000)
    with pytest.raises(StoreError) as caught:
        LmdbStore(tmp_path)
    assert caught.value.hint


class Model:
    """What the server promises, in a few lines of Python."""

    def __init__(self, mailbox: int) -> None:
        self.mailbox = mailbox
        self.mail: dict[bytes, dict[bytes, bytes]] = {}
        self.prekeys: dict[bytes, dict[bytes, bytes]] = {}
        self.kems: dict[bytes, bytes] = {}
        self.marks: dict[bytes, bytes] = {}

    def answer(self, user: bytes, request: Request[Any]) -> Any:
        match request:
            case CreateAccount():
                self.mail.setdefault(user, {})
                self.prekeys.setdefault(user, {})
                return Done()
            case Deliver(target, content):
                if target not in self.mail:
                    return ErrorReply(Code.UNKNOWN_USER)
                box = self.mail[target]
                if envelope_id(content) not in box and len(box) >= self.mailbox:
                    return ErrorReply(Code.MAILBOX_FULL)
                box.setdefault(envelope_id(content), content)
                return Done()
            case TakePrekey(target):
                return self._take(target)
        return self._own(user, request) if user in self.mail else ErrorReply(Code.NO_ACCOUNT)

    def _take(self, target: bytes) -> Any:
        if target not in self.mail:
            return ErrorReply(Code.UNKNOWN_USER)
        if not self.prekeys[target]:
            return ErrorReply(Code.NO_PREKEY)
        first = min(self.prekeys[target])
        return PrekeyRecord(self.prekeys[target].pop(first), self.kems[target])

    def _own(self, user: bytes, request: Request[Any]) -> Any:
        box = self.mail[user]
        match request:
            case DeleteAccount():
                del self.mail[user], self.prekeys[user]
                self.marks.pop(user, None)
            case UploadPrekeys(records, kem, replace):
                self.kems[user] = kem
                if replace:
                    self.prekeys[user].clear()
                self.prekeys[user].update({each[:16]: each for each in records})
            case SwapMark(seen, new):
                there = self.marks.get(user, b"")
                if there == seen:
                    self.marks[user] = new
                return LastMark(there)
            case CountPrekeys():
                return PrekeyCount(len(self.prekeys[user]), 0)
            case List():
                return EnvelopeIds(tuple(box), False)
            case Fetch(id):
                return Stored(box[id]) if id in box else ErrorReply(Code.UNKNOWN_ENVELOPE)
            case Delete(ids):
                for id in ids:
                    box.pop(id, None)
        return Done()


def _some_request(dice: random.Random, contents: list[bytes], users: list[bytes]) -> Request[Any]:
    content, user = dice.choice(contents), dice.choice(users)
    id = envelope_id(content)
    choices: list[Request[Any]] = [
        *[Deliver(user, content)] * 6,
        Delete((id, envelope_id(dice.choice(contents)))),
        Fetch(id),
        List(),
        CountPrekeys(),
        *[SwapMark(dice.choice([b"", *MARKS]), dice.choice(MARKS))] * 3,
        UploadPrekeys(
            tuple(record() for _ in range(2)), dice.randbytes(1) * len(KEM), dice.random() < 0.2
        ),
        TakePrekey(user),
        TakePrekey(user),
    ]
    if dice.random() < 0.1:
        choices = [CreateAccount(), CreateAccount(), DeleteAccount()]
    return dice.choice(choices)


@pytest.mark.parametrize("seed", range(3))
def test_the_service_does_what_the_model_does_also_after_restarts(
    seed: int, tmp_path: Path
) -> None:
    dice = random.Random(seed)
    contents = [number.to_bytes(4, "big") * (ENVELOPE_SIZE // 4) for number in range(12)]
    users = [ALICE, BOB, b"c" * 32]
    model = Model(mailbox=6)

    async def script() -> None:
        async with serving(tmp_path / "store", Clock(), 6) as service:
            for _ in range(80):
                user = dice.choice(users)
                request = _some_request(dice, contents, users)
                assert await Caller(service, user).ask(request) == model.answer(user, request)

    for _ in range(4):
        play(script)
