"""A store that answers later, as one does that is on another machine: what comes in between is
neither lost nor told twice."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cbfs_common.limits import PUSH_WINDOW
from cbfs_common.wire.fields import Done, Request
from cbfs_common.wire.requests import (
    CreateAccount,
    Delete,
    DeleteAccount,
    Deliver,
    Fetch,
    Stored,
    Subscribe,
    decode_push,
    decode_reply,
    encode,
    envelope_id,
)
from cbfs_common.wire.transport import PUSH
from cbfs_host.complaints import StoreError
from cbfs_host.settings import Current
from cbfs_server.limits import PUSH_SLICE, Limits
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.push import Pusher
from cbfs_server.service import Service
from cbfs_server.store.operations import NextMail, Question, R
from tests.server.test_server_store import ALICE, Clock, play
from tests.support.serving import envelope


class LateStore(LmdbStore):
    """Answers questions when it is told to, by what was so when they were asked."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiting: list[Callable[[], object]] = []
        self.late = True

    def ask(
        self,
        question: Question[R],
        done: Callable[[R | StoreError], object],
        owner: object = None,
    ) -> None:
        def known(found: Any) -> None:
            whole: Any = tuple(found) if isinstance(question, NextMail) else found
            self.waiting.append(partial(done, whole))

        if self.late:
            super().ask(question, known, owner)
        else:
            super().ask(question, done, owner)

    def answer(self) -> None:
        """All that has waited, and what comes of that."""
        while self.waiting:
            self.waiting.pop(0)()


class Subscriber:
    """A connection, and what it was told."""

    def __init__(self, service: Service, key: bytes = ALICE) -> None:
        self.key = key
        self.ready = True
        self.closed = False
        self.pushed: list[bytes] = []
        self.replies: list[Any] = []
        self._service = service
        self._news = trio.Event()

    def send(self, id: int, payload: bytes) -> None:
        if id == PUSH:
            self.pushed.append(decode_push(payload).id)
        else:
            self.replies.append(decode_reply(payload))
            self._news.set()

    def close(self, reason: str, level: int = logging.INFO) -> None:
        self.closed = True
        self.ready = False
        self._service._pusher.unsubscribe(self)

    def tell(self, request: Request[Any]) -> None:
        self._service.handle(self, 1, encode(request))

    async def ask(self, request: Request[Any]) -> Any:
        """Something that changes something."""
        self._news = trio.Event()
        self.tell(request)
        await self._news.wait()
        return self.replies[-1]


@asynccontextmanager
async def late(place: Path) -> AsyncIterator[tuple[LateStore, Service]]:
    store = LateStore(place / "store", Current(Limits(disk_free=0)))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            pusher = Pusher(store)
            yield store, Service(store, pusher, Clock())
            nursery.cancel_scope.cancel()
    finally:
        store.close()


Script = Callable[[LateStore, Service, Subscriber], Awaitable[None]]


def on_late(place: Path, script: Script) -> None:
    """``script`` with a store, and a client that has an account and has subscribed."""

    async def life() -> None:
        async with late(place) as (store, service):
            alice = Subscriber(service)
            assert await alice.ask(CreateAccount()) == Done()
            alice.tell(Subscribe())
            store.answer()
            await script(store, service, alice)

    play(life)


def go_on(store: LateStore, service: Service) -> None:
    """Answers, and the line of those who wait for their next slice."""
    pusher = service._pusher
    while store.waiting or pusher._line:
        store.answer()
        while pusher._line:
            subscription = pusher._line.popleft()
            subscription.waits = False
            pusher._advance(subscription)


def test_what_comes_while_the_store_is_asked_is_pushed_once(memory: Path) -> None:
    async def script(store: LateStore, service: Service, alice: Subscriber) -> None:
        sent = [envelope() for _ in range(3 * PUSH_SLICE)]
        for each in sent:
            assert await alice.ask(Deliver(ALICE, each)) == Done()
        assert len(store.waiting) == 1, "one question at a time"
        assert alice.pushed == []
        go_on(store, service)
        assert alice.pushed == [envelope_id(each) for each in sent]

    on_late(memory, script)


def test_what_is_deleted_while_the_store_is_asked_is_not_pushed(memory: Path) -> None:
    """It would be waited for without end."""

    async def script(store: LateStore, service: Service, alice: Subscriber) -> None:
        sent = [envelope() for _ in range(2)]
        for each in sent:
            await alice.ask(Deliver(ALICE, each))
        store.answer()
        service._pusher.arrived(ALICE)
        assert store.waiting
        await alice.ask(Delete((envelope_id(sent[1]),)))
        go_on(store, service)
        assert alice.pushed == [envelope_id(sent[0])]
        (subscription,) = service._pusher._of_user[ALICE].values()
        assert subscription.outstanding == {envelope_id(sent[0])}
        assert not subscription.gone

    on_late(memory, script)


def test_who_has_gone_meanwhile_is_told_nothing_and_is_not_kept(memory: Path) -> None:
    async def script(store: LateStore, service: Service, alice: Subscriber) -> None:
        await alice.ask(Deliver(ALICE, envelope()))
        other = Subscriber(service)
        other.tell(Subscribe())
        for each in alice, other:
            each.close("it has gone")
        go_on(store, service)
        assert alice.pushed == other.pushed == []
        assert not service._pusher.users

    on_late(memory, script)


def test_the_subscription_of_an_account_that_ends_meanwhile_ends(memory: Path) -> None:
    async def script(store: LateStore, service: Service, alice: Subscriber) -> None:
        await alice.ask(Deliver(ALICE, envelope()))
        await alice.ask(DeleteAccount())
        go_on(store, service)
        assert alice.pushed == []
        assert not service._pusher.users

    on_late(memory, script)


def test_who_takes_nothing_meanwhile_gets_it_when_it_does(memory: Path) -> None:
    async def script(store: LateStore, service: Service, alice: Subscriber) -> None:
        each = envelope()
        await alice.ask(Deliver(ALICE, each))
        alice.ready = False
        go_on(store, service)
        assert alice.pushed == []
        alice.ready = True
        service._pusher.ready(alice)
        go_on(store, service)
        assert alice.pushed == [envelope_id(each)]

    on_late(memory, script)


def test_what_another_server_deletes_makes_room_for_more(memory: Path) -> None:
    """A hint is enough, when PUSH_WINDOW envelopes were pushed and none was deleted here."""

    async def script(store: LateStore, service: Service, alice: Subscriber) -> None:
        sent = [envelope() for _ in range(PUSH_WINDOW + 3)]
        for each in sent:
            await alice.ask(Deliver(ALICE, each))
        go_on(store, service)
        assert alice.pushed == [envelope_id(each) for each in sent[:PUSH_WINDOW]]
        elsewhere = Service(store, Pusher(store), Clock())
        gone = tuple(envelope_id(each) for each in sent[:2])
        assert await Subscriber(elsewhere).ask(Delete(gone)) == Done()
        service._pusher.changed(ALICE)
        go_on(store, service)
        assert alice.pushed == [envelope_id(each) for each in sent[: PUSH_WINDOW + 2]]

    on_late(memory, script)


def test_what_another_server_delivers_is_pushed_at_a_hint(memory: Path) -> None:
    async def script(store: LateStore, service: Service, alice: Subscriber) -> None:
        elsewhere, each = Service(store, Pusher(store), Clock()), envelope()
        assert await Subscriber(elsewhere).ask(Deliver(ALICE, each)) == Done()
        assert not store.waiting
        for _ in range(3):
            service._pusher.changed(ALICE)
        go_on(store, service)
        assert alice.pushed == [envelope_id(each)]
        alice.tell(Fetch(envelope_id(each)))
        store.answer()
        assert alice.replies[-1] == Stored(each)

    on_late(memory, script)
