"""The server under abuse by many at once: limits hold, and others are served meanwhile."""

import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import ServerRefused, open_link, request
from cbfs_common.primitives import dh_public
from cbfs_common.profile import Address
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import (
    Code,
    CountPrekeys,
    Deliver,
    GetLimits,
    TakePrekey,
    UploadPrekeys,
    encode,
)
from cbfs_common.wire.transport import ServerSecret
from cbfs_names.limits import AWAIT_PATIENCE, AWAITING_MAX
from cbfs_names.processes.quorum import Quorum
from cbfs_names.rounds.sequencer import Sequencer
from cbfs_names.state.store import StateStore
from cbfs_names.wire.peer_messages import Await, Offer, decode
from cbfs_names.wire.peer_messages import encode as encode_peer
from cbfs_names.wire.sockets import DeferredReply, listen, listening_port, serve
from tests.support.names_local import CONFIG, KEYS
from tests.support.names_proposer import stored
from tests.support.serving import (
    KEM,
    RANDOM,
    TIMEOUT,
    RawClient,
    RunningServer,
    envelope,
    link_to,
    new_account,
    record,
    running_server,
)

FILES = 150
"""Files that the server may have open in the test of too many connections."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with running_server(tmp_path / "data", "--mailbox", "64") as running:
        yield running
        assert "Traceback" not in running.log


async def served(server: RunningServer, user: bytes) -> None:
    """Somebody else is."""
    with trio.fail_after(TIMEOUT):
        async with link_to(server) as link:
            await request(link, Deliver(user, envelope()))


def test_who_holds_all_connections_open_does_not_keep_others_out(server: RunningServer) -> None:
    """Handshakes that were abandoned, and connections that say nothing."""
    _, user = trio.run(new_account, server)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
    clients = []
    try:
        for number in range(2 * FILES):
            client = RawClient(server)
            clients.append(client)
            if number % 2 and number < FILES:
                client.shake_hands()
        trio.run(served, server, user)
        assert "others wait for a connection" in server.log
    finally:
        for client in clients:
            client.socket.close()
    trio.run(served, server, user)


def test_a_flood_of_requests_does_not_keep_others_waiting(server: RunningServer) -> None:
    """Many connections that ask as fast as they can, and read no reply."""
    _, user = trio.run(new_account, server)
    clients = [RawClient(server) for _ in range(40)]
    for client in clients:
        client.shake_hands()
        client.socket.setblocking(False)
        try:
            for id in range(1, 200):
                client.socket.sendall(client.transport.send(id, encode(GetLimits())))
        except BlockingIOError:
            pass
    trio.run(served, server, user)
    for client in clients:
        client.socket.close()


def test_slow_writers_cost_a_connection_and_nothing_else(server: RunningServer) -> None:
    _, user = trio.run(new_account, server)
    clients = [RawClient(server) for _ in range(40)]
    for number, client in enumerate(clients):
        client.shake_hands()
        client.socket.sendall(client.transport.send(1, encode(GetLimits()))[: 100 * number + 1])
    trio.run(served, server, user)
    for client in clients:
        client.socket.close()


def test_one_users_prekeys_and_mailbox_do_not_run_out_for_others(server: RunningServer) -> None:
    """Draining, filling, and deliveries to nobody; another account notices nothing."""

    async def main() -> None:
        (secret, victim), (other_secret, other) = [await new_account(server) for _ in range(2)]
        last = record(PrekeyKind.LAST_RESORT)
        for each in (secret, other_secret):
            async with link_to(server, each) as home:
                for _ in range(10):
                    await request(home, UploadPrekeys(tuple(record() for _ in range(12)), KEM))
                await request(home, UploadPrekeys((last,), KEM))
        async with link_to(server) as link:
            taken = [(await request(link, TakePrekey(victim))).record for _ in range(150)]
            assert taken[-1] == last
            assert len({r for r in taken if r != last}) == taken.index(last)  # none twice
            with pytest.raises(ServerRefused) as full:
                for _ in range(65):
                    await request(link, Deliver(victim, envelope()))
            assert full.value.code is Code.MAILBOX_FULL
            with pytest.raises(ServerRefused) as nobody:
                await request(link, Deliver(dh_public(os.urandom(32)), envelope()))
            assert nobody.value.code is Code.UNKNOWN_USER
            assert (await request(link, TakePrekey(other))).record != last
            await request(link, Deliver(other, envelope()))
        async with link_to(server, secret) as home:
            assert (await request(home, CountPrekeys())).one_time == 120 - taken.index(last)

    trio.run(main)


CONNECTIONS = 12


class Echo:
    """Answers at once, but those who ask to wait."""

    def __init__(self) -> None:
        self.waiting = DeferredReply(b"late", TIMEOUT)

    def answer(self, payload: bytes) -> bytes | DeferredReply:
        return self.waiting if payload == b"wait" else payload


def test_who_holds_all_connections_of_a_directory_does_not_keep_others_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Handshakes that were not begun, half frames, and such as say nothing; who waits for an
    answer is not ended."""
    monkeypatch.setattr("cbfs_names.wire.sockets.CONNECTIONS_MAX", CONNECTIONS)
    monkeypatch.setattr("cbfs_names.wire.sockets.QUIET_LEAST", 0.05)
    monkeypatch.setattr("cbfs_names.wire.sockets.ROOM", 2)
    monkeypatch.setattr("cbfs_names.wire.sockets.HANDSHAKE_TIMEOUT", 10 * TIMEOUT)
    monkeypatch.setattr("cbfs_names.wire.sockets.IDLE_TIMEOUT", 10 * TIMEOUT)
    echo, secret = Echo(), ServerSecret(os.urandom(96))

    def hold(address: Address, number: int) -> RawClient:
        client = RawClient(address)
        if number % 3:
            client.shake_hands()
            client.socket.sendall(client.transport.send(1, b"hold")[: 100 * (number % 3)])
        return client

    async def main() -> None:
        listener = await listen("127.0.0.1", 0)
        address = Address(secret.key, "127.0.0.1", listening_port(listener))
        answered: list[bytes] = []
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener, secret, RANDOM, echo)
            dialer = LoopbackDialer()
            async with open_link(dialer, address, None, b"", RANDOM) as waits:

                async def wait() -> None:
                    answered.append(await waits.call(b"wait"))

                nursery.start_soon(wait)
                clients = [
                    await trio.to_thread.run_sync(hold, address, number)
                    for number in range(CONNECTIONS - 1)
                ]
                for number in range(3):
                    async with open_link(dialer, address, None, b"", RANDOM) as good:
                        assert await good.call(b"%d" % number) == b"%d" % number
                echo.waiting.settle(b"in time")
                while not answered:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        for client in clients:
            client.socket.close()
        assert answered == [b"in time"]

    with_limit(main)


def test_strangers_who_wait_for_blocks_keep_no_verifier_waiting(tmp_path: Path) -> None:
    """Who is crowded out is answered at once, and asks again."""
    nothing_yet = encode_peer(Await(0, b"", 0))

    async def main(store: StateStore) -> None:
        quorum = Quorum(store, Sequencer(store, KEYS.log), trio.lowlevel.checkpoint, tmp_path)
        verifier = quorum.answer(nothing_yet)
        assert isinstance(verifier, DeferredReply)
        for _ in range(AWAITING_MAX):
            assert isinstance(quorum.answer(nothing_yet), DeferredReply)
        assert isinstance(decode(await verifier.reply()), Offer)
        assert trio.current_time() < AWAIT_PATIENCE
        assert len(quorum._awaiting) == AWAITING_MAX

    with stored(tmp_path / "store", CONFIG) as store:
        trio.run(main, store, clock=trio.testing.MockClock(autojump_threshold=0))


def with_limit(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(2 * TIMEOUT):
            await main()

    trio.run(limited)
