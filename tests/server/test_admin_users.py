"""What operators do about single users of a message server."""

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from cbfs.network.link import Link, LinkClosed, ServerRefused, request
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
    List,
    Stored,
    Subscribe,
    SwapMark,
    TakePrekey,
    UploadPrekeys,
    envelope_id,
)
from cbfs_host import lmdb_environment
from cbfs_server.lmdb_store.mailboxes import MailboxWriter
from cbfs_server.lmdb_store.records import AccountRecord
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.store.operations import EndAccount
from tests.server.test_admin import admin, status
from tests.server.test_server_store import MARKS, play
from tests.support.killing import Kill, KillingEnv, every_point
from tests.support.serving import (
    KEM,
    RunningServer,
    envelope,
    link_to,
    listed,
    new_account,
    record,
    running_server,
)


async def asked(server: RunningServer, *words: str) -> list[str]:
    done = await trio.to_thread.run_sync(admin, "cbfs_server", server.data, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


async def is_refused(link: Link, what: Request[object]) -> bool:  # type: ignore[type-var]
    """Whether it is refused as somebody is suspended."""
    try:
        await request(link, what)  # type: ignore[type-var]
    except ServerRefused as error:
        return error.code is Code.SUSPENDED
    return False


def own_requests(user: bytes) -> list[Request[object]]:  # type: ignore[type-var]
    return [
        CreateAccount(),
        CountPrekeys(),
        List(),
        Fetch(bytes(16)),
        Delete(()),
        GetLimits(),
        Subscribe(),
        SwapMark(b"", MARKS[0]),
        UploadPrekeys((record(),), KEM, replace=False),
        Deliver(user, envelope()),
        DeleteAccount(),
    ]


async def filled(server: RunningServer) -> tuple[bytes, bytes, bytes]:
    """(secret, user id, an envelope in the mailbox) of an account that has one of everything."""
    secret, user = await new_account(server)
    sent = envelope()
    async with link_to(server, secret) as home:
        await request(home, UploadPrekeys((record(), record(PrekeyKind.LAST_RESORT)), KEM, False))
        await request(home, SwapMark(b"", MARKS[0]))
        await request(home, Deliver(user, sent))
    return secret, user, sent


def with_server(tmp_path: Path, body: Callable[[RunningServer], Awaitable[None]]) -> None:
    with running_server(tmp_path / "data") as server:
        trio.run(body, server)


def test_a_suspended_user_is_served_nothing_until_resumed(tmp_path: Path) -> None:
    kept: list[tuple[bytes, bytes, bytes]] = []

    async def suspend(server: RunningServer) -> None:
        secret, user, sent = await filled(server)
        other, other_user, _ = await filled(server)
        kept.extend([(secret, user, sent), (other, other_user, b"")])
        async with link_to(server, secret) as home, link_to(server, other) as others:
            await request(home, Subscribe())
            assert await asked(server, "suspend", user.hex()) == ["suspended: 1"]
            with trio.fail_after(60):
                with pytest.raises(LinkClosed):
                    await request(home, GetLimits())
            await refused(server)
            await request(others, Deliver(other_user, envelope()))

    async def refused(server: RunningServer) -> None:
        (secret, user, _), (other, _, _) = kept
        async with link_to(server, secret) as home, link_to(server, other) as others:
            for each in own_requests(user):
                assert await is_refused(home, each), each
            for asks in Deliver(user, envelope()), TakePrekey(user):
                assert await is_refused(others, asks)
        assert await asked(server, "suspended") == [user.hex()]

    async def resume(server: RunningServer) -> None:
        await refused(server)  # also after a restart
        secret, user, sent = kept[0]
        assert await asked(server, "resume", user.hex()) == ["suspended: 0"]
        async with link_to(server, secret) as home:
            assert await listed(home) == [envelope_id(sent)]
            assert await request(home, Fetch(envelope_id(sent))) == Stored(sent)
        assert await asked(server, "suspended") == []
        assert admin("cbfs_server", server.data, "resume", user.hex()).returncode == 1

    with_server(tmp_path, suspend)
    with_server(tmp_path, resume)


def test_who_is_suspended_cannot_come_as_somebody_new(tmp_path: Path) -> None:
    async def body(server: RunningServer) -> None:
        secret = os.urandom(32)
        await asked(server, "suspend", dh_public(secret).hex())
        async with link_to(server, secret) as home:
            assert await is_refused(home, CreateAccount())

    with_server(tmp_path, body)


def test_a_removed_account_leaves_nothing_and_no_other_alone(tmp_path: Path) -> None:
    async def body(server: RunningServer) -> None:
        secret, user, sent = await filled(server)
        other, _, others = await filled(server)
        async with link_to(server, secret) as home:
            await request(home, Subscribe())
            assert await asked(server, "remove", user.hex()) == ["envelopes: 1"]
            with trio.fail_after(60):
                with pytest.raises(LinkClosed):
                    await request(home, GetLimits())
        async with link_to(server, secret) as home:
            for what in CountPrekeys(), List(), Fetch(envelope_id(sent)):
                with pytest.raises(ServerRefused) as refused:
                    await request(home, what)
                assert refused.value.code is Code.NO_ACCOUNT
            with pytest.raises(ServerRefused):
                await request(home, Deliver(user, sent))
            await request(home, CreateAccount())
            assert await listed(home) == []
            assert (await request(home, SwapMark(b"", MARKS[1]))).mark == b""
        async with link_to(server, other) as home:
            assert await listed(home) == [envelope_id(others)]
        assert status(server.data)["accounts"] == 2
        assert admin("cbfs_server", server.data, "check").returncode == 0
        assert admin("cbfs_server", server.data, "remove", os.urandom(32).hex()).returncode == 1
        assert status(server.data)["accounts"] == 2

    with_server(tmp_path, body)


@pytest.mark.parametrize(
    "word", ["", "alice", "0", "g" * 64, "0" * 63, "0" * 66, "00 " * 32, "-" * 64]
)
@pytest.mark.parametrize("verb", ["remove", "suspend", "resume"])
def test_what_is_no_user_id_is_refused_in_words(verb: str, word: str, running: Path) -> None:
    found = admin("cbfs_server", running, verb, "--", word)
    assert (found.returncode, len(found.stderr.splitlines())) == (1, 2)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> object:
    data = tmp_path_factory.mktemp("users") / "data"
    with running_server(data):
        yield data


USERS = [bytes([number]) * 32 for number in range(3)]


def removed_and_killed(place: Path, number: int) -> int:
    """Remove one of three accounts."""
    kill = Kill(number)
    opened = lmdb_environment.open_environment
    lmdb_environment.__dict__["open_environment"] = lambda *place: KillingEnv(opened(*place), kill)
    play(partial(_remove, place / "store"))
    return 0


async def _remove(path: Path) -> None:
    def fill(writer: MailboxWriter) -> None:
        for user in USERS:
            if writer.account(user) is None:
                writer.put_account(user, AccountRecord(1, 0))
                for number in range(3):
                    account = writer.account(user)
                    assert account is not None
                    sent = bytes([number]) * 16
                    writer.add_envelope(user, account, sent, envelope(), 1)

    store = LmdbStore(path)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await store.applied(fill)
            await store.commit(EndAccount(USERS[1]))
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def test_a_kill_while_an_account_is_removed_leaves_all_of_it_or_nothing(memory: Path) -> None:
    left = set()
    for place in every_point(removed_and_killed, memory):
        store = LmdbStore(place / "store")
        found = store.check(lambda: None)
        assert found.sound
        with store.read() as reader:
            left.add((reader.accounts(), reader.envelopes()))
        store.close()
    assert left == {(0, 0), (3, 9), (2, 6)}
