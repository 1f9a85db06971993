"""The server under abuse by many at once: limits hold, and others are served meanwhile."""

import math
import os
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

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
    Subscribe,
    TakePrekey,
    UploadPrekeys,
    encode,
)
from cbfs_common.wire.transport import PUSH, Frame, ServerSecret
from cbfs_host.handshakes import HANDSHAKES_PART, Handshakes
from cbfs_host.listening import Place, place_of
from cbfs_host.listening import listen as listen_on
from cbfs_host.settings import Current
from cbfs_names.limits import AWAIT_PATIENCE, AWAITING_MAX, DirectoryLimits
from cbfs_names.processes.quorum import Quorum
from cbfs_names.rounds.sequencer import Sequencer
from cbfs_names.state.store import StateStore
from cbfs_names.wire.peer_messages import Await, Offer, decode
from cbfs_names.wire.peer_messages import encode as encode_peer
from cbfs_names.wire.sockets import Clients, DeferredReply, serve
from cbfs_server.limits import SUBSCRIPTIONS_MAX
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.push import Pusher
from cbfs_server.service import Service
from cbfs_server.sockets import Server
from tests.support.names_local import CONFIG, KEYS
from tests.support.names_proposer import stored
from tests.support.serving import (
    KEM,
    RANDOM,
    STORES,
    TIMEOUT,
    RawClient,
    RunningServer,
    envelope,
    link_to,
    new_account,
    record,
    running_server,
    store_options,
)

FILES = 150
"""Files that the server may have open in the test of too many connections."""


@pytest.fixture(params=STORES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningServer]:
    with running_server(tmp_path / "data", "--mailbox", "64", *store_options(request)) as running:
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
        server.wait_logged("others wait for a connection")
    finally:
        for client in clients:
            client.socket.close()
    trio.run(served, server, user)


def subscriber(server: RunningServer, secret: bytes) -> RawClient:
    client = RawClient(server, secret)
    client.shake_hands()
    client.socket.sendall(client.transport.send(1, encode(Subscribe())))
    while not client.receive():
        pass
    return client


def test_an_account_has_so_many_subscribers_and_the_first_makes_room(
    server: RunningServer,
) -> None:
    secret, user = trio.run(new_account, server)
    clients = [subscriber(server, secret) for _ in range(SUBSCRIPTIONS_MAX + 1)]
    assert clients[0].closed_by_server()
    trio.run(served, server, user)
    for client in clients[1:]:
        while not (events := client.receive()):
            pass
        assert isinstance(events[0], Frame)
        assert events[0].id == PUSH
    for client in clients:
        client.socket.close()


def test_who_holds_all_connections_by_subscribing_does_not_keep_others_out(
    server: RunningServer,
) -> None:
    _, user = trio.run(new_account, server)
    secrets = [trio.run(new_account, server)[0] for _ in range(FILES // SUBSCRIPTIONS_MAX + 1)]
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
    clients = [subscriber(server, secret) for secret in secrets for _ in range(SUBSCRIPTIONS_MAX)]
    trio.run(served, server, user)
    for client in clients:
        client.socket.close()


def test_who_holds_all_connections_by_being_busy_does_not_keep_others_out(tmp_path: Path) -> None:
    """By asking for little, and by not reading: none of them is ever quiet."""
    held = 32
    with running_server(tmp_path / "data", "--connections", str(held)) as server:
        _, user = trio.run(new_account, server)
        clients = []
        for number in range(held):
            client = RawClient(server)
            clients.append(client)
            client.shake_hands()
            client.socket.setblocking(False)
            with suppress(BlockingIOError):
                for id in range(1, 200 if number % 2 else 2):
                    client.socket.sendall(client.transport.send(id, encode(GetLimits())))
        trio.run(served, server, user)
        for client in clients:
            client.socket.close()


def test_who_is_busy_everywhere_and_silent_as_well_leaves_room_for_handshakes(
    tmp_path: Path,
) -> None:
    """Whoever takes long for a hello, as through Tor, is not ended by the next who says nothing:
    one part of all places is theirs."""
    held = 2 * HANDSHAKES_PART
    with running_server(tmp_path / "data", "--connections", str(held)) as server:
        busy = []
        for _ in range(held):
            client = RawClient(server)
            client.shake_hands()
            busy.append(client)
        honest, silent = RawClient(server), RawClient(server)
        assert all(client.closed_by_server() for client in busy[:2])
        honest.shake_hands()
        honest.socket.sendall(honest.transport.send(1, encode(GetLimits())))
        assert honest.receive()
        for client in (*busy, honest, silent):
            client.socket.close()


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
    known = Clients(limits=Current(DirectoryLimits(connections=CONNECTIONS)))
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
        listener = listen_on(Place("127.0.0.1", 0))
        address = Address(secret.key, "127.0.0.1", place_of([listener]).port)
        answered: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, [listener], secret, RANDOM, echo, known)
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
        listener.close()
        for client in clients:
            client.socket.close()
        assert answered == [b"in time"]

    with_limit(main)


def test_who_holds_all_connections_of_a_directory_by_asking_does_not_keep_others_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of them is ever quiet. Those that came first end first, and last who waits for an
    answer."""
    known = Clients(limits=Current(DirectoryLimits(connections=CONNECTIONS)))
    monkeypatch.setattr("cbfs_names.wire.sockets.QUIET_LEAST", math.inf)

    def asking(address: Address, *payloads: bytes) -> RawClient:
        client = RawClient(address)
        client.shake_hands()
        for id, payload in enumerate(payloads, 1):
            client.socket.sendall(client.transport.send(id, payload))
        while not client.receive():
            pass
        return client

    def script(address: Address) -> None:
        waiting = [asking(address, b"wait", b"this") for _ in range(2)]
        clients = [asking(address, b"this") for _ in range(CONNECTIONS)]
        assert all(client.closed_by_server() for client in clients[:2])
        more = [asking(address, b"wait", b"this") for _ in range(CONNECTIONS - 1)]
        assert all(client.closed_by_server() for client in (*clients, waiting[0]))
        for client in (*waiting, *clients, *more):
            client.socket.close()

    at_directory(known, script)


def test_who_is_busy_everywhere_at_a_directory_leaves_room_for_handshakes() -> None:
    known = Clients(limits=Current(DirectoryLimits(connections=2 * HANDSHAKES_PART)))

    def script(address: Address) -> None:
        busy = []
        for _ in range(2 * HANDSHAKES_PART):
            client = RawClient(address)
            client.shake_hands()
            busy.append(client)
        honest, silent = RawClient(address), RawClient(address)
        assert all(client.closed_by_server() for client in busy[:2])
        honest.shake_hands()
        honest.socket.sendall(honest.transport.send(1, b"this"))
        assert honest.receive()
        for client in (*busy, honest, silent):
            client.socket.close()

    at_directory(known, script)


@given(st.lists(st.tuples(st.sampled_from(["add", "answered", "remove"]), st.integers(0, 9))))
def test_who_has_said_nothing_goes_first_and_the_oldest_of_them(
    steps: list[tuple[str, int]],
) -> None:
    """Against a list that is sorted each time."""
    handshakes = Handshakes[int](5)
    known: list[tuple[bool, int]] = []
    for what, number in steps:
        there = [each for each in known if each[1] == number]
        if what == "add" and not there:
            handshakes.add(number)
            known.append((False, number))
        elif what == "answered":
            handshakes.answered(number)
            if there == [(False, number)]:
                known.remove((False, number))
                known.append((True, number))
        elif what == "remove":
            handshakes.remove(number)
            known = [each for each in known if each[1] != number]
        first = min(known, key=lambda each: each[0])[1] if known else None
        assert handshakes.first_to_go() == first
        assert len(handshakes) == len(known)
        assert handshakes.full == (len(known) >= 5)


UNDER_WAY = 4


async def mail(address_known: Callable[[Address], None], place: Path) -> None:
    """A message server in this process."""
    store, secret = LmdbStore(place / "store"), ServerSecret(os.urandom(96))
    async with trio.open_nursery() as nursery:
        listener = listen_on(Place("127.0.0.1", 0))
        pusher = Pusher(store)
        service = Service(store, pusher, time.time)
        Server(secret, RANDOM, service, pusher, nursery).start(listener)
        address_known(Address(secret.key, "127.0.0.1", listener.getsockname()[1]))
        try:
            await trio.sleep_forever()
        finally:
            listener.close()


async def names(address_known: Callable[[Address], None], _place: Path) -> None:
    """The sockets of a name directory in this process."""
    secret = ServerSecret(os.urandom(96))
    with listen_on(Place("127.0.0.1", 0)) as listener:
        address_known(Address(secret.key, "127.0.0.1", place_of([listener]).port))
        await serve([listener], secret, RANDOM, Echo())


@pytest.mark.parametrize("server", [mail, names])
def test_silent_connections_make_room_for_each_other_and_for_who_says_hello(
    server: Callable[[Callable[[Address], None], Path], Awaitable[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many are made, again and again: who said hello has all the time that it needs, and
    who has shaken hands before stays."""
    monkeypatch.setattr("cbfs_server.sockets.HANDSHAKES_MAX", UNDER_WAY)
    monkeypatch.setattr("cbfs_names.wire.sockets.HANDSHAKES_MAX", UNDER_WAY)

    def script(address: Address) -> None:
        settled = RawClient(address)
        settled.shake_hands()
        honest = RawClient(address)
        honest.socket.sendall(honest.transport.start())
        while not honest.receive():
            pass  # it has the server's answer, and takes its time
        silent = [RawClient(address) for _ in range(5 * UNDER_WAY)]
        for each in silent[: 1 - UNDER_WAY]:
            assert each.closed_by_server()  # by order, not in time
        honest.socket.sendall(honest.transport.data_to_send())
        for client in honest, settled:
            client.socket.sendall(client.transport.send(1, encode(GetLimits())))
            while not client.receive():
                pass
        for each in (settled, honest, *silent):
            each.socket.close()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            known: list[Address] = []
            there = trio.Event()

            def address_known(address: Address) -> None:
                known.append(address)
                there.set()

            nursery.start_soon(server, address_known, tmp_path)
            await there.wait()
            await trio.to_thread.run_sync(script, known[0])
            nursery.cancel_scope.cancel()

    with_limit(main)


def test_while_the_disk_stands_still_requests_take_memory_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many connections have how much to ask, and also of those that have ended; then all
    that are left are answered."""
    each, read = 12, 4
    monkeypatch.setattr("cbfs_server.sockets.WAITING_MAX", read)
    store, secret = LmdbStore(tmp_path / "store"), ServerSecret(os.urandom(96))

    def ask(client: RawClient) -> None:
        client.shake_hands()
        for id in range(1, each + 1):
            client.socket.sendall(client.transport.send(id, encode(Deliver(bytes(32), envelope()))))

    def take(client: RawClient) -> None:
        found = 0
        while found < each:
            found += len(client.receive())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with listen_on(Place("127.0.0.1", 0)) as listener:
                pusher = Pusher(store)
                service = Service(store, pusher, time.time)
                Server(secret, RANDOM, service, pusher, nursery).start(listener)
                address = Address(secret.key, "127.0.0.1", listener.getsockname()[1])
                clients = [RawClient(address) for _ in range(3)]
                for client in clients:
                    await trio.to_thread.run_sync(ask, client)
                await trio.testing.wait_all_tasks_blocked()
                waiting = dict(service.meters.requests.total())["Deliver"]
                assert read <= waiting <= len(clients) * read
                clients[0].socket.close()
                nursery.start_soon(store.run)
                for client in clients[1:]:
                    await trio.to_thread.run_sync(take, client)
                    client.socket.close()
                nursery.cancel_scope.cancel()
        store.close()

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


def at_directory(known: Clients, script: Callable[[Address], None]) -> None:
    """Run a script, in a thread, with the sockets of a directory that echoes."""
    secret = ServerSecret(os.urandom(96))

    async def main() -> None:
        with listen_on(Place("127.0.0.1", 0)) as listener:
            address = Address(secret.key, "127.0.0.1", place_of([listener]).port)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, [listener], secret, RANDOM, Echo(), known)
                await trio.to_thread.run_sync(script, address)
                nursery.cancel_scope.cancel()

    with_limit(main)


def with_limit(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(2 * TIMEOUT):
            await main()

    trio.run(limited)
