"""The message server: what each request does, over real sockets and a real store."""

import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from cbfs.network.link import Link, ServerRefused, request
from cbfs_common.limits import MARK_SIZE, PUSH_WINDOW
from cbfs_common.primitives import dh_public
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.fields import Request
from cbfs_common.wire.requests import (
    Code,
    CountPrekeys,
    CreateAccount,
    Delete,
    DeleteAccount,
    Deliver,
    Fetch,
    GetLimits,
    LastMark,
    List,
    PrekeyCount,
    ServerLimits,
    Subscribe,
    SwapMark,
    TakePrekey,
    UploadPrekeys,
    decode_push,
    decode_reply,
    envelope_id,
)
from cbfs_server.limits import LIST_PAGE
from tests.support.serving import (
    KEM,
    STORES,
    TIMEOUT,
    RunningServer,
    envelope,
    link_to,
    new_account,
    record,
    running_server,
    store_options,
)


@pytest.fixture(scope="module", params=STORES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    with running_server(
        tmp_path_factory.mktemp("server") / "data", *store_options(request)
    ) as running:
        yield running


def play(script: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(TIMEOUT):
            await script()

    trio.run(limited)


async def refusal(link: Link, asked: Request[Any]) -> Code:
    with pytest.raises(ServerRefused) as caught:
        await request(link, asked)
    assert caught.value.hint
    return caught.value.code


def test_without_an_account(server: RunningServer) -> None:
    async def script() -> None:
        async with link_to(server) as link:
            asked: tuple[Request[Any], ...] = (
                CountPrekeys(),
                List(),
                Fetch(bytes(16)),
                Delete(()),
                Subscribe(),
                DeleteAccount(),
                UploadPrekeys((record(),), KEM),
                SwapMark(b"", bytes(MARK_SIZE)),
            )
            for each in asked:
                assert await refusal(link, each) == Code.NO_ACCOUNT
            assert await refusal(link, TakePrekey(bytes(32))) == Code.UNKNOWN_USER
            assert await refusal(link, Deliver(bytes(32), envelope())) == Code.UNKNOWN_USER

    play(script)


def test_an_account_lives_and_ends(server: RunningServer) -> None:
    async def script() -> None:
        secret, user = await new_account(server)
        async with link_to(server, secret) as home, link_to(server) as nobody:
            await request(home, CreateAccount())  # a second time changes nothing
            await request(home, UploadPrekeys((record(), record(PrekeyKind.LAST_RESORT)), KEM))
            await request(nobody, Deliver(user, envelope()))
            await request(home, DeleteAccount())
            assert await refusal(nobody, TakePrekey(user)) == Code.UNKNOWN_USER
            await request(home, CreateAccount())
            assert (await request(home, List())).ids == ()
            assert await request(home, CountPrekeys()) == PrekeyCount(0, 0)

    play(script)


def test_a_mark_is_overwritten_only_by_who_has_seen_it(server: RunningServer) -> None:
    async def script() -> None:
        secret, _user = await new_account(server)
        other, _ = await new_account(server)
        first, second, third = (bytes([i]) * MARK_SIZE for i in (1, 2, 3))
        async with link_to(server, secret) as home, link_to(server, other) as others:
            assert await request(home, SwapMark(first, second)) == LastMark(b"")
            assert await request(home, SwapMark(b"", first)) == LastMark(b"")
            assert await request(home, SwapMark(b"", second)) == LastMark(first)
            assert await request(home, SwapMark(second, third)) == LastMark(first)
            assert await request(others, SwapMark(first, third)) == LastMark(b""), "its own"
        async with link_to(server, secret) as home:
            assert await request(home, SwapMark(first, second)) == LastMark(first)
            # the answer got lost, and it is asked again
            assert await request(home, SwapMark(first, second)) == LastMark(second)
            await request(home, DeleteAccount())
            assert await refusal(home, SwapMark(second, third)) == Code.NO_ACCOUNT
            await request(home, CreateAccount())
            assert await request(home, SwapMark(b"", third)) == LastMark(b"")
        async with link_to(server, other) as others:
            assert await request(others, SwapMark(first, third)) == LastMark(b"")

    play(script)


def test_of_two_who_have_seen_one_mark_one_overwrites_it(server: RunningServer) -> None:
    async def script() -> None:
        secret, _user = await new_account(server)
        told: list[bytes] = []

        async def swap(number: int) -> None:
            async with link_to(server, secret) as link:
                told.append((await request(link, SwapMark(b"", bytes([number]) * 56))).mark)

        async with trio.open_nursery() as nursery:
            for number in range(1, 9):
                nursery.start_soon(swap, number)
        assert told.count(b"") == 1
        assert len(set(told)) == 2, "the others are told of that one"

    play(script)


def test_limits_are_told(tmp_path: Path) -> None:
    async def script() -> None:
        async with link_to(small) as link:
            assert await request(link, GetLimits()) == ServerLimits(3, 60 * 86_400, 200)
        secret, user = await new_account(small)
        envelopes = [envelope() for _ in range(4)]
        async with link_to(small, secret) as home:
            for each in envelopes[:3]:
                await request(home, Deliver(user, each))
            assert await refusal(home, Deliver(user, envelopes[3])) == Code.MAILBOX_FULL
            await request(home, Deliver(user, envelopes[0]))  # it is there already
            await request(home, Delete((envelope_id(envelopes[1]),)))
            await request(home, Deliver(user, envelopes[3]))
            expected = tuple(envelope_id(envelopes[i]) for i in (0, 2, 3))
            assert (await request(home, List())).ids == expected

    with running_server(tmp_path / "data", "--mailbox", "3") as small:
        play(script)


def test_a_prekey_leaves_at_most_once(server: RunningServer) -> None:
    async def script() -> None:
        secret, user = await new_account(server)
        last = record(PrekeyKind.LAST_RESORT)
        records = [record() for _ in range(24)]
        async with link_to(server, secret) as home:
            for start in range(0, 24, 12):
                await request(home, UploadPrekeys(tuple(records[start : start + 12]), KEM))
            await request(home, UploadPrekeys((last,), KEM))
            taken: list[bytes] = []

            async def take() -> None:
                async with link_to(server) as link:
                    for _ in range(4):
                        taken.append((await request(link, TakePrekey(user))).record)

            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(take)
            assert sorted(taken) == sorted([*records, *[last] * 8])
            assert (await request(home, CountPrekeys())).one_time == 0

    play(script)


def test_prekeys_expire_are_replaced_and_limited(server: RunningServer) -> None:
    async def script() -> None:
        secret, user = await new_account(server)
        async with link_to(server, secret) as home:
            assert await refusal(home, TakePrekey(user)) == Code.NO_PREKEY
            await request(home, UploadPrekeys((record(expires=1),), KEM))
            await request(home, UploadPrekeys((record(PrekeyKind.LAST_RESORT, expires=1),), KEM))
            assert await request(home, CountPrekeys()) == PrekeyCount(0, 0)
            assert await refusal(home, TakePrekey(user)) == Code.NO_PREKEY
            one, last = record(), record(PrekeyKind.LAST_RESORT, expires=2**41)
            await request(home, UploadPrekeys((record(), record(), record()), KEM))
            await request(home, UploadPrekeys((one, last), KEM, replace=True))
            await request(home, UploadPrekeys((one,), KEM))  # again: the same one
            assert await request(home, CountPrekeys()) == PrekeyCount(1, 2**41)
            assert (await request(home, TakePrekey(user))).record == one
            assert (await request(home, TakePrekey(user))).record == last
            two_last = (last, record(PrekeyKind.LAST_RESORT))
            assert await refusal(home, UploadPrekeys(two_last, KEM)) == Code.BAD_REQUEST
            for _ in range(20):
                await request(home, UploadPrekeys(tuple(record() for _ in range(10)), KEM))
            assert await refusal(home, UploadPrekeys((record(),), KEM)) == Code.TOO_MANY
            assert (await request(home, CountPrekeys())).one_time == 200

    play(script)


def test_a_mailbox_is_listed_in_order_by_pages(server: RunningServer) -> None:
    async def script() -> None:
        secret, user = await new_account(server)
        stored: list[bytes] = []
        async with link_to(server, secret) as home:
            for _ in range(LIST_PAGE + 20):
                each = envelope()
                await request(home, Deliver(user, each))
                stored.append(each)
            ids = [envelope_id(each) for each in stored]
            first = await request(home, List())
            assert (list(first.ids), first.more) == (ids[:LIST_PAGE], True)
            second = await request(home, List(first.ids[-1]))
            assert (list(second.ids), second.more) == (ids[LIST_PAGE:], False)
            assert (await request(home, Fetch(ids[7]))).envelope == stored[7]
            await request(home, Delete(tuple(ids[:LIST_PAGE])))
            await request(home, Delete(tuple(ids[:3])))  # nothing to delete: done as well
            assert list((await request(home, List())).ids) == ids[LIST_PAGE:]
            assert await refusal(home, Fetch(ids[7])) == Code.UNKNOWN_ENVELOPE
            assert await refusal(home, List(ids[7])) == Code.UNKNOWN_ENVELOPE

    play(script)


def test_nobody_sees_another_mailbox(server: RunningServer) -> None:
    async def script() -> None:
        _, user = await new_account(server)
        other, _ = await new_account(server)
        mine = envelope()
        async with link_to(server, other) as link:
            await request(link, Deliver(user, mine))
            await request(link, Delete((envelope_id(mine),)))
            assert (await request(link, List())).ids == ()
            assert await refusal(link, Fetch(envelope_id(mine))) == Code.UNKNOWN_ENVELOPE

    play(script)


def test_a_subscriber_gets_the_stored_ones_in_order_and_then_new_ones(
    server: RunningServer,
) -> None:
    async def script() -> None:
        secret, user = await new_account(server)
        envelopes = [envelope() for _ in range(PUSH_WINDOW + 40)]
        async with link_to(server, secret) as home, link_to(server) as nobody:
            for each in envelopes[:-10]:
                await request(nobody, Deliver(user, each))
            await request(home, Subscribe())
            await request(home, Subscribe())  # a second time changes nothing
            await request(home, GetLimits())
            for each in envelopes[-10:]:
                await request(nobody, Deliver(user, each))
            await request(home, GetLimits())
            # All that is sent before a reply has been read: the window is what there is.
            while home.pushes.statistics().current_buffer_used < PUSH_WINDOW:
                await request(home, GetLimits())
            assert home.pushes.statistics().current_buffer_used == PUSH_WINDOW
            got: list[bytes] = []
            while len(got) < len(envelopes):
                arrived = decode_push(await home.pushes.receive())
                assert arrived.id == envelope_id(arrived.envelope)
                got.append(arrived.envelope)
                await request(home, Delete((arrived.id,)))
            assert got == envelopes
            assert (await request(home, List())).ids == ()

    play(script)


def test_every_connection_of_an_account_is_pushed_to(server: RunningServer) -> None:
    async def script() -> None:
        secret, user = await new_account(server)
        async with link_to(server, secret) as one, link_to(server, secret) as two:
            await request(one, Subscribe())
            await request(two, Subscribe())
            each = envelope()
            await request(one, Deliver(user, each))
            for link in (one, two):
                assert decode_push(await link.pushes.receive()).envelope == each

    play(script)


def test_a_deleted_account_that_comes_back_can_subscribe_again(server: RunningServer) -> None:
    async def script() -> None:
        secret, user = await new_account(server)
        async with link_to(server, secret) as home:
            await request(home, Subscribe())
            await request(home, Deliver(user, envelope()))
            await home.pushes.receive()
            await request(home, DeleteAccount())
            await request(home, CreateAccount())
            await request(home, Subscribe())
            each = envelope()
            await request(home, Deliver(user, each))
            assert decode_push(await home.pushes.receive()).envelope == each

    play(script)


def test_requests_may_be_pipelined(server: RunningServer) -> None:
    async def script() -> None:
        secret, user = await new_account(server)
        envelopes = [envelope() for _ in range(LIST_PAGE)]
        async with link_to(server, secret) as home:
            async with trio.open_nursery() as nursery:
                for each in envelopes:
                    nursery.start_soon(request, home, Deliver(user, each))
            ids = (await request(home, List())).ids
            assert set(ids) == {envelope_id(each) for each in envelopes}
            got: list[bytes] = []

            async def fetch(id: bytes) -> None:
                got.append((await request(home, Fetch(id))).envelope)

            async with trio.open_nursery() as nursery:
                for id in ids:
                    nursery.start_soon(fetch, id)
            assert sorted(got) == sorted(envelopes)

    play(script)


def test_a_request_that_cannot_be_read_is_refused_and_the_connection_lives(
    server: RunningServer,
) -> None:
    async def script() -> None:
        async with link_to(server) as link:
            for payload in (b"", b"\xc1", os.urandom(16_910), b"\x91\x63"):
                reply = decode_reply(await link.call(payload))
                assert getattr(reply, "code", None) == Code.BAD_REQUEST
            await request(link, GetLimits())

    play(script)


def test_the_users_key_is_the_account(server: RunningServer) -> None:
    async def script() -> None:
        secret, user = await new_account(server)
        assert dh_public(secret) == user
        async with link_to(server, secret) as link:
            await request(link, CountPrekeys())

    play(script)
