"""Clients that send both servers structured nonsense, and faults of our own that one finds: a good
client is served all the same, and memory and store stay within bounds."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbfs_common.limits import ENVELOPE_SIZE, IDS_MAX, PREKEY_RECORD_SIZE, UPLOAD_MAX
from cbfs_common.names.operations import Refusal
from cbfs_common.names.policy import SCHEME
from cbfs_common.names.wire import AskHead, HeadIs, RefusedReply, decode_reply, encode_request
from cbfs_common.primitives import dh_public
from cbfs_common.profile import Address, parse_address
from cbfs_common.wire.requests import CreateAccount, Delete, GetLimits, GetTerms, Subscribe, encode
from cbfs_common.wire.requests import decode_reply as decode_answer
from cbfs_common.wire.transport import FRAME_SIZE, PAYLOAD_MAX, Frame, ServerSecret
from cbfs_host.complaints import StoreError
from cbfs_host.listening import Place, listen
from cbfs_host.logs import keep_going
from cbfs_host.settings import Current
from cbfs_names.processes.receipts import Receipts
from cbfs_names.state.replay import Replay
from cbfs_server.housekeeping import Housekeeping
from cbfs_server.limits import Limits
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.push import Pusher
from cbfs_server.service import Service
from cbfs_server.sockets import Server
from tests.names.test_names_server import Running, names
from tests.support.names_local import commit, local
from tests.support.serving import (
    RANDOM,
    STORES,
    TIMEOUT,
    RawClient,
    RunningServer,
    resident,
    running_server,
    store_options,
)
from tests.support.world import wait_for

MIB = 1024 * 1024
EXAMPLES = 2_000 if os.environ.get("FUZZ_S") else 40
ACCOUNTS = 10
SECRET = os.urandom(32)
KNOWN = dh_public(SECRET)
SERVER = ServerSecret(b"k" * 96)

NUMBERS = st.sampled_from([0, 1, 2, 255, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, -1, -(2**63)])
SIZES = st.sampled_from(
    [
        *(0, 1, 15, 16, 17, 31, 32, 33, 64),
        *(PREKEY_RECORD_SIZE - 1, PREKEY_RECORD_SIZE, PREKEY_RECORD_SIZE + 1),
        *(ENVELOPE_SIZE - 1, ENVELOPE_SIZE, ENVELOPE_SIZE + 1),
    ]
)
LEAVES = st.one_of(
    NUMBERS,
    SIZES.map(bytes),
    SIZES.map(os.urandom),
    st.just(KNOWN),
    st.booleans(),
    st.none(),
    st.floats(),
    st.sampled_from(["", "alice", "a" * 33, "\x00", "é" * 32, "../..", "a" * 10_000]),
)
COUNTS = st.sampled_from([0, 1, 2, UPLOAD_MAX, UPLOAD_MAX + 1, IDS_MAX, IDS_MAX + 1, 5_000])
LISTS = st.builds(lambda leaf, count: [leaf] * count, LEAVES, COUNTS)
FIELDS = st.one_of(LEAVES, LISTS, st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3)))
PACKED = st.builds(
    lambda kind, fields: msgpack.packb([kind, *fields]),
    st.one_of(st.integers(0, 30), LEAVES),
    st.lists(FIELDS, max_size=8),
)
HUGE = st.sampled_from(
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 5_000,
        b"",
    ]
)
PAYLOADS = st.one_of(PACKED, HUGE, st.binary(max_size=64)).filter(lambda p: len(p) <= PAYLOAD_MAX)
IDS = st.sampled_from([1, 1, 2, 3, 2**31, 2**32 - 1])
SCRIPTS = st.tuples(
    st.lists(st.tuples(IDS, PAYLOADS), min_size=1, max_size=12),
    st.integers(0, FRAME_SIZE),  # what is left out of the last frame
    st.booleans(),  # whether answers are read
)
Script = tuple[list[tuple[int, bytes]], int, bool]


def play(client: RawClient, script: Script) -> None:
    """All at once, in one connection."""
    messages, cut, read = script
    client.shake_hands()
    frames = b"".join(client.transport.send(id_, payload) for id_, payload in messages)
    try:
        client.socket.sendall(frames[: len(frames) - cut])
        if read:
            client.socket.settimeout(0.05)
            while client.socket.recv(65_536):
                pass
    except OSError:  # it may have been ended, or say nothing
        pass
    finally:
        client.socket.close()


def ask(client: RawClient, number: int, payload: bytes) -> bytes:
    """A good client's request."""
    client.socket.sendall(client.transport.send(number, payload))
    while True:
        for event in client.receive():
            if isinstance(event, Frame) and event.id == number:
                return event.payload


@pytest.fixture(scope="module", params=STORES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("nonsense") / "data"
    with running_server(data, "--mailbox", "50", *store_options(request)) as made:
        yield made
        assert "fault" not in made.log
        assert "Traceback" not in made.log


def test_no_request_stops_the_message_server(server: RunningServer) -> None:
    good = RawClient(server)
    good.shake_hands()
    numbers = iter(range(1, 10**6))
    before = server.memory

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SCRIPTS, st.booleans())
    def nonsense(script: Script, known: bool) -> None:
        if known:
            messages, cut, read = script
            script = [(7, encode(CreateAccount())), *messages], cut, read
        play(RawClient(server, SECRET if known else None), script)
        decode_answer(ask(good, next(numbers), encode(GetLimits())))

    nonsense()
    good.socket.close()
    assert server.memory < before + 128 * MIB
    if "--store" not in server.options:
        assert (server.data / "store" / "data.mdb").stat().st_size < 64 * MIB


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with names(tmp_path_factory.mktemp("nonsense") / "names") as made:
        yield made


def test_no_request_stops_the_name_directory(directory: Running) -> None:
    address = parse_address(directory.url, SCHEME)
    good = RawClient(address)
    good.shake_hands()
    numbers = iter(range(1, 10**6))
    before = resident(directory.process.pid)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SCRIPTS)
    def nonsense(script: Script) -> None:
        play(RawClient(address), script)
        head = decode_reply(ask(good, next(numbers), encode_request(AskHead())))
        assert isinstance(head, HeadIs)

    nonsense()
    good.socket.close()
    assert directory.process.poll() is None
    assert resident(directory.process.pid) < before + 128 * MIB


# Faults of our own, whatever the class


class Fault(KeyError):
    """One that nobody has thought of."""


def refuse(*_arguments: Any, **_options: Any) -> None:
    raise Fault("a-secret-name")


async def served(tmp_path: Path, script: Callable[[RawClient], None]) -> None:
    """A message server in this process; ``script`` has a client of it, in a thread."""
    limits = Limits(mailbox=10, accounts=ACCOUNTS)
    store = LmdbStore(tmp_path / "store", Current(limits))
    try:
        async with trio.open_nursery() as committer:
            committer.start_soon(store.run)
            async with trio.open_nursery() as nursery:
                listener = listen(Place("127.0.0.1", 0))
                pusher = Pusher(store)
                service = Housekeeping(store).service(pusher)
                Server(SERVER, RANDOM, service, pusher, nursery).start(listener)
                port = listener.getsockname()[1]
                address = Address(SERVER.key, "127.0.0.1", port)
                with trio.fail_after(TIMEOUT):
                    for each in script, is_served:
                        await trio.to_thread.run_sync(with_a_client, address, each)
                nursery.cancel_scope.cancel()
                listener.close()
            committer.cancel_scope.cancel()
    finally:
        store.close()


def with_a_client(address: Address, script: Callable[[RawClient], None]) -> None:
    client = RawClient(address)
    try:
        script(client)
    finally:
        client.socket.close()


def is_served(client: RawClient) -> None:
    client.shake_hands()
    decode_answer(ask(client, 1, encode(GetLimits())))
    decode_answer(ask(client, 2, encode(CreateAccount())))


@pytest.mark.parametrize("where", ["reading", "a change", "an answer", "its end", "a push"])
def test_a_fault_in_one_request_is_the_end_of_one_connection_at_most(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def script(client: RawClient) -> None:
        client.shake_hands()
        with pytest.MonkeyPatch.context() as broken:
            if where == "reading":
                broken.setattr(LmdbStore, "ask", refuse)
                client.socket.sendall(client.transport.send(1, encode(GetTerms())))
                assert client.closed_by_server()
            elif where == "a change":
                broken.setattr(Service, "_tell", lambda *_: None)
                broken.setattr("cbfs_server.lmdb_store.mailboxes.MailboxWriter.put_account", refuse)
                assert ask(client, 1, encode(CreateAccount()))  # TROUBLE
            elif where == "its end":
                broken.setattr(Pusher, "unsubscribe", refuse)
                client.socket.sendall(bytes(2 * FRAME_SIZE))
                assert client.closed_by_server()
            elif where == "a push":
                assert ask(client, 1, encode(CreateAccount()))
                assert ask(client, 2, encode(Subscribe()))
                broken.setattr(Pusher, "_send_new", refuse)
                client.socket.sendall(client.transport.send(3, encode(Delete((bytes(16),)))))
                with suppress(ConnectionResetError):  # so it asks anew: else nothing comes any more
                    assert client.closed_by_server()
            else:
                broken.setattr(Service, "_tell", refuse)
                assert ask(client, 1, encode(CreateAccount()))
                assert ask(client, 2, encode(GetLimits()))

    trio.run(served, tmp_path, script)
    assert "Fault" in caplog.text
    assert "a-secret-name" not in caplog.text


def test_a_server_says_in_its_log_that_many_make_accounts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers can make half of those that there is room for, and the rest costs work."""

    def make_all(client: RawClient) -> None:
        host, port = client.socket.getpeername()
        for _ in range(ACCOUNTS + 1):
            with_a_client(Address(SERVER.key, host, port), is_served)

    trio.run(served, tmp_path, make_all)
    assert "many make accounts: newcomers have to work for one" in caplog.text


def test_a_loop_that_others_feed_begins_again_and_ends_for_what_is_fatal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cbfs_host.logs.FAULT_PAUSE", 0)
    errors: list[Exception] = [
        *(OSError(24, "a-secret-name"), Fault(), MemoryError(), RecursionError(), AssertionError()),
        ExceptionGroup("a-secret-name", [Fault()]),
        StoreError("it is fatal"),
    ]

    async def loop() -> None:
        raise errors.pop(0)

    with pytest.raises(StoreError):
        trio.run(keep_going, "a loop", loop, StoreError)
    assert caplog.text.count("a fault in a loop") == 6
    assert "a-secret-name" not in caplog.text


def test_a_fault_in_one_operation_leaves_the_others_in_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "names").mkdir()
    bad, good = commit("mallory").encode(), commit("alice").encode()
    apply = Replay.apply

    def poisoned(replay: Replay, encoded: bytes) -> None:
        if encoded == bad:
            refuse()
        apply(replay, encoded)

    monkeypatch.setattr(Replay, "apply", poisoned)
    with local(tmp_path / "names" / "store") as directory:
        outcome = directory.core.round([bad, good], directory.now)
    assert outcome.placed == {good}
    assert outcome.refused == {bad: Refusal.BAD_REQUEST}
    assert "a-secret-name" not in caplog.text

    class Broken:
        receipt = staticmethod(refuse)

    receipts = Receipts.__new__(Receipts)
    receipts._verifier, receipts._clock = Broken(), lambda: 0.0  # type: ignore[assignment]
    assert decode_reply(receipts._receipt(bad)) == RefusedReply(Refusal.BAD_REQUEST)


def test_who_is_there_needs_no_descriptor_and_others_are_served_when_there_are_some(
    tmp_path: Path,
) -> None:
    """That there are none is said once. While others wait, who asks for nothing at that moment may
    have to go for them."""

    with running_server(tmp_path / "data") as made:
        pid, good = made.process.pid, RawClient(made)
        good.shake_hands()
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
        decode_answer(ask(good, 1, encode(GetLimits())))
        others = [RawClient(made) for _ in range(20)]
        wait_for(lambda: "cannot accept" in made.log or None, "it to say so")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        for other in (*others, good):
            other.socket.close()
        with_a_client(made.address, is_served)
        assert made.log.count("cannot accept") == 1  # and not ten times a second
