"""The server against broken disks, broken clients and kills."""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs.network.link import Link, LinkClosed, ServerRefused, open_link, request
from cbfs_common.errors import TransportError
from cbfs_common.primitives import dh_public
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import (
    Code,
    Deliver,
    Fetch,
    GetLimits,
    List,
    Subscribe,
    TakePrekey,
    UploadPrekeys,
    encode,
    envelope_id,
)
from cbfs_common.wire.transport import ANSWER_SIZE, FRAME_SIZE, HELLO_SIZE, PROOF_SIZE
from cbfs_server.limits import SUBSCRIPTIONS_MAX
from tests.support.serving import (
    KEM,
    RANDOM,
    STORES,
    TIMEOUT,
    RawClient,
    RunningServer,
    envelope,
    link_to,
    listed,
    new_account,
    record,
    running_server,
    store_options,
)

MIB = 1024 * 1024


@pytest.fixture(scope="module", params=STORES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    with running_server(
        tmp_path_factory.mktemp("hostile") / "data", *store_options(request)
    ) as running:
        yield running
        assert "Traceback" not in running.log


async def answers(server: RunningServer) -> None:
    """The server lives."""
    with trio.fail_after(TIMEOUT):
        async with link_to(server) as link:
            await request(link, GetLimits())


def _garbage(client: RawClient) -> bytes:
    return b"\x01" + os.urandom(HELLO_SIZE - 1)


def _other_protocol(client: RawClient) -> bytes:
    return b"GET / HTTP/1.1\r\n\r\n" + b"x" * HELLO_SIZE


def _garbage_frame(client: RawClient) -> bytes:
    client.shake_hands()
    return os.urandom(FRAME_SIZE)


def _replayed(client: RawClient) -> bytes:
    client.shake_hands()
    return client.transport.send(1, encode(GetLimits())) * 2


def _out_of_order(client: RawClient) -> bytes:
    client.shake_hands()
    first, second = (client.transport.send(id, encode(GetLimits())) for id in (1, 2))
    return second + first


def _oversize(client: RawClient) -> bytes:
    client.shake_hands()
    frame = client.transport.send(1, encode(GetLimits()))
    return frame[:-1] + os.urandom(50_000)


def _push(client: RawClient) -> bytes:
    client.shake_hands()
    return client.transport.send(0, b"pushed")


CASES: dict[str, tuple[Callable[[RawClient], bytes], str]] = {
    "garbage": (_garbage, "cannot be opened"),
    "another protocol": (_other_protocol, "another version"),
    "a garbage frame": (_garbage_frame, "cannot be opened"),
    "a replayed frame": (_replayed, "cannot be opened"),
    "frames out of order": (_out_of_order, "cannot be opened"),
    "an oversize frame": (_oversize, "cannot be opened"),
    "a push": (_push, "a push from a client"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_breaks_the_protocol_ends_its_connection(name: str, server: RunningServer) -> None:
    make, reason = CASES[name]
    before = len(server.log)
    client = RawClient(server)
    client.socket.sendall(make(client))
    assert client.closed_by_server()
    client.socket.close()
    trio.run(answers, server)
    server.wait_logged(rf"cbfs-server warning: connection \d+ ended: .*{reason}", before)


@pytest.mark.parametrize("size", [0, 1, HELLO_SIZE - 1, FRAME_SIZE - 1])
def test_what_is_cut_short_ends_its_connection(size: int, server: RunningServer) -> None:
    client = RawClient(server)
    if size < HELLO_SIZE:
        client.socket.sendall(client.transport.start()[:size])
    else:
        client.shake_hands()
        client.socket.sendall(client.transport.send(1, encode(GetLimits()))[:size])
    client.socket.shutdown(1)
    assert client.closed_by_server()
    client.socket.close()
    trio.run(answers, server)


def test_half_messages_and_takers_of_nothing_cost_bounded_memory(server: RunningServer) -> None:
    async def fill() -> bytes:
        secret, user = await new_account(server)
        async with link_to(server) as link, trio.open_nursery() as nursery:
            for _ in range(64):  # at once, as a disk may take its time for each
                nursery.start_soon(request, link, Deliver(user, envelope()))
        return secret

    secrets = [trio.run(fill) for _ in range(60 // SUBSCRIPTIONS_MAX + 1)]
    trio.run(answers, server)
    before = server.memory
    clients = [RawClient(server, secrets[n // SUBSCRIPTIONS_MAX]) for n in range(60)]
    for client in clients:
        client.shake_hands()
        client.socket.sendall(client.transport.send(1, encode(Subscribe())))
    for client in clients:
        client.socket.setblocking(False)
        try:
            for id in range(2, 400):  # asks on and on, and takes no answer
                client.socket.sendall(client.transport.send(id, encode(List())))
        except BlockingIOError:
            pass
    trio.run(answers, server)
    assert server.memory - before < len(clients) * 200_000 + 8 * MIB
    for client in clients:
        client.socket.close()
    trio.run(answers, server)


@given(st.lists(st.binary(min_size=1, max_size=3_000), max_size=3))
@settings(max_examples=25, deadline=None)
def test_any_bytes_leave_the_server_alive(server: RunningServer, chunks: list[bytes]) -> None:
    client = RawClient(server)
    try:
        for chunk in chunks:
            client.socket.sendall(chunk)
        client.socket.shutdown(1)
        client.closed_by_server()
    except OSError:
        pass  # it closed first
    client.socket.close()
    trio.run(answers, server)


@pytest.mark.parametrize("acknowledged", [1, 57, 300])
def test_a_kill_loses_nothing_that_was_acknowledged(acknowledged: int, tmp_path: Path) -> None:
    """Deliveries and takes from many connections at once; SIGKILL after so many answers."""
    delivered: list[bytes] = []
    taken: list[bytes] = []
    last = record(PrekeyKind.LAST_RESORT)

    async def before(server: RunningServer) -> bytes:
        secret, user = await new_account(server)
        async with link_to(server, secret) as home:
            for _ in range(8):
                await request(home, UploadPrekeys(tuple(record() for _ in range(12)), KEM))
            await request(home, UploadPrekeys((last,), KEM))

        async def deliver() -> None:
            async with link_to(server) as link:
                while True:
                    each = envelope()
                    await request(link, Deliver(user, each))
                    delivered.append(each)
                    if len(delivered) == acknowledged:
                        server.process.send_signal(signal.SIGKILL)

        async def take() -> None:
            async with link_to(server) as link:
                while True:
                    taken.append((await request(link, TakePrekey(user))).record)

        async def until_killed(run: Callable[[], Awaitable[None]]) -> None:
            with suppress(TransportError):
                await run()

        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(until_killed, deliver)
                nursery.start_soon(until_killed, take)
        return secret

    async def after(server: RunningServer, secret: bytes) -> None:
        with trio.fail_after(TIMEOUT):
            async with link_to(server, secret) as home:
                ids = await listed(home)
                for each in delivered:
                    assert envelope_id(each) in ids
                    assert (await request(home, Fetch(envelope_id(each)))).envelope == each
                again = []
                while (got := (await request(home, TakePrekey(dh_public(secret)))).record) != last:
                    again.append(got)
                assert not set(again) & set(taken)

    with running_server(tmp_path / "data") as first:
        secret = trio.run(before, first)
        assert first.process.wait(TIMEOUT) == -signal.SIGKILL
        key = first.address.key
    with running_server(tmp_path / "data") as second:
        assert second.address.key == key
        trio.run(after, second, secret)
        assert second.terminate() == 0
    assert "Traceback" not in second.log


class _Tap:
    """A dialer whose connections go through here; it sees what a wire-tapper sees."""

    def __init__(self) -> None:
        self.up = b""
        self.down = b""

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        return _TappedStream(await trio.open_tcp_stream(host, port), self)


class _TappedStream(trio.abc.Stream):
    def __init__(self, inner: trio.SocketStream, tap: _Tap) -> None:
        self._inner = inner
        self._tap = tap

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._tap.up += bytes(data)
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._inner.receive_some(max_bytes))
        self._tap.down += data
        return data

    async def aclose(self) -> None:
        await self._inner.aclose()


def test_on_the_wire_all_frames_have_one_size_and_say_nothing(server: RunningServer) -> None:
    async def script() -> None:
        secret, user = await new_account(server)
        each = envelope()
        tap = _Tap()
        async with open_link(tap, server.address, secret, b"", RANDOM) as link:
            await request(link, GetLimits())
            seen = len(tap.up), len(tap.down)
            assert seen == (HELLO_SIZE + PROOF_SIZE + FRAME_SIZE, ANSWER_SIZE + FRAME_SIZE)
            for asked in (
                UploadPrekeys((record(),), KEM),
                TakePrekey(user),
                Deliver(user, each),
                List(),
                Fetch(envelope_id(each)),
                GetLimits(),
            ):
                await request(link, asked)
                grown = len(tap.up) - seen[0], len(tap.down) - seen[1]
                assert grown == (FRAME_SIZE, FRAME_SIZE), asked
                seen = len(tap.up), len(tap.down)
            for secretive in (user, server.address.key, each[:16], each[-16:], envelope_id(each)):
                assert secretive not in tap.up + tap.down
        frames = [
            stream[start : start + FRAME_SIZE]
            for stream, head in ((tap.up, HELLO_SIZE + PROOF_SIZE), (tap.down, ANSWER_SIZE))
            for start in range(head, len(stream), FRAME_SIZE)
        ]
        assert len({frame[:16] for frame in frames}) == len(frames)

    trio.run(script)


def test_a_second_server_on_the_same_data_is_refused(server: RunningServer) -> None:
    done = _run("--data", str(server.data), "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert done.stderr.startswith("cbfs: error: another cbfs-server uses ")
    assert "\ncbfs: hint: " in done.stderr
    trio.run(answers, server)


def test_a_port_that_is_taken_is_named(server: RunningServer, tmp_path: Path) -> None:
    where = f"127.0.0.1:{server.address.port}"
    done = _run("--data", str(tmp_path / "other"), "--listen", where)
    assert done.returncode == 1
    assert done.stderr.startswith(f"cbfs: error: cannot listen on {where}: ")


def test_an_address_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    done = _run("--data", str(tmp_path / "data"), "--listen", "0.0.0.0:0")
    assert (done.returncode, "--public" in done.stderr) == (1, True)


def test_wrong_usage_exits_with_2_and_help_has_an_example(tmp_path: Path) -> None:
    assert _run().returncode == 2
    for wrong in (("--listen", "nowhere"), ("--listen", "a:99999"), ("--mailbox", "0")):
        assert _run("--data", str(tmp_path), *wrong).returncode == 2
    done = _run("--help")
    assert done.returncode == 0
    assert "example:\n  cbfs-server --data" in done.stdout


def test_damaged_data_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "store").mkdir(parents=True)
    (data / "key").write_bytes(b"short")
    done = _run("--data", str(data), "--listen", "127.0.0.1:0")
    assert (done.returncode, "is not a key file" in done.stderr) == (1, True)
    (data / "key").write_bytes(bytes(96))
    (data / "store" / "data.mdb").write_bytes(b"no store" * 2_000)
    done = _run("--data", str(data), "--listen", "127.0.0.1:0")
    assert (done.returncode, "cannot be opened" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr


def test_files_are_for_the_server_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_server(data, "--public", "abc.onion:1984") as server:
        assert (server.address.host, server.address.port) == ("abc.onion", 1984)
        assert data.stat().st_mode & 0o777 == 0o700
        for path in (data / "key", data / "store" / "data.mdb"):
            assert path.stat().st_mode & 0o777 == 0o600
        assert server.terminate() == 0
        assert (data / "key").read_bytes().hex() not in server.log


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cbfs_server.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_a_link_that_is_cut_off_says_so(tmp_path: Path) -> None:
    async def script(server: RunningServer) -> None:
        async with link_to(server) as link:
            await request(link, GetLimits())
            server.kill()
            with pytest.raises(LinkClosed):
                await _until_closed(link)
            with pytest.raises(LinkClosed):
                await request(link, GetLimits())

    with running_server(tmp_path / "data") as server:
        trio.run(script, server)


async def _until_closed(link: Link) -> None:
    with trio.fail_after(TIMEOUT):
        raise await link.wait_closed()


def test_a_refused_request_is_told_in_words() -> None:
    for code in Code:
        refused = ServerRefused(code)
        assert str(refused).startswith("the server ")
        assert refused.hint
