"""The transport: vectors, and that any bytes give events or TransportError."""

import json
import os
from hashlib import blake2b
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import LimitError, TransportError
from cbfs_common.primitives import Random, dh_public, kem_encapsulate
from cbfs_common.wire.transport import (
    ANSWER_SIZE,
    FRAME_SIZE,
    HELLO_SIZE,
    PAYLOAD_MAX,
    PROOF_SIZE,
    PUSH,
    ClientConnection,
    Established,
    Event,
    Frame,
    ServerConnection,
)
from tests.vectors.make_transport_vectors import FILE, make, wrong_frames

RANDOM = Random(os.urandom, kem_encapsulate)
SERVER, CLIENT = bytes(range(32)), bytes(range(32, 64))


def shaken() -> tuple[ClientConnection, ServerConnection]:
    """Both sides after the handshake."""
    client = ClientConnection(dh_public(SERVER), CLIENT, RANDOM)
    server = ServerConnection(SERVER, RANDOM)
    assert server.receive(client.start()) == []
    assert client.receive(server.data_to_send()) == [Established(dh_public(SERVER))]
    assert server.receive(client.data_to_send()) == [Established(dh_public(CLIENT))]
    return client, server


def vectors() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FILE.read_text())
    return loaded


def scripted(*tokens: bytes, kem: tuple[bytes, bytes] = (b"", b"")) -> Random:
    left = list(tokens)

    def token(size: int) -> bytes:
        assert len(left[0]) == size
        return left.pop(0)

    return Random(token, lambda _: kem)


def from_vectors(v: dict[str, Any]) -> tuple[ClientConnection, ServerConnection]:
    get = {name: bytes.fromhex(value) for name, value in v.items() if isinstance(value, str)}
    client = ClientConnection(
        dh_public(get["server secret"]),
        get["client secret"],
        scripted(get["a secret"], get["kem seed"]),
    )
    kem = get["kem secret"], get["kem ciphertext"]
    server = ServerConnection(get["server secret"], scripted(get["b secret"], kem=kem))
    assert client.start() == get["hello"]
    assert server.receive(get["hello"]) == []
    assert server.data_to_send() == get["answer"]
    assert len(client.receive(get["answer"])) == 1
    assert client.data_to_send() == get["proof"]
    assert len(server.receive(get["proof"])) == 1
    return client, server


def test_the_vectors_are_those_of_the_script() -> None:
    assert make() == vectors()


def test_vectors() -> None:
    v = vectors()
    for direction, (sender, receiver) in (
        ("frames up", from_vectors(v)),
        ("frames down", from_vectors(v)[::-1]),
    ):
        expected = {entry["number"]: entry for entry in v[direction]}
        for number in range(513):
            frame = sender.send(1, b"hello")
            assert receiver.receive(frame) == [Frame(1, b"hello")]
            if number in expected:
                digest = blake2b(frame, digest_size=32).hexdigest()
                assert digest == expected[number]["blake2b-256"]


@pytest.mark.parametrize("name", sorted(vectors()["fails"]))
def test_vectors_that_fail(name: str) -> None:
    v = vectors()
    _, server = from_vectors(v)
    frames = wrong_frames(bytes.fromhex(v["chain up"]), bytes.fromhex(v["chain down"]))
    with pytest.raises(TransportError):
        server.receive(frames[name])


def test_sizes_are_those_of_the_specification() -> None:
    assert (HELLO_SIZE, ANSWER_SIZE, PROOF_SIZE) == (1_217, 1_248, 128)
    assert (FRAME_SIZE, PAYLOAD_MAX) == (16_932, 16_910)


@given(st.lists(st.binary(max_size=200), max_size=5), st.data())
@settings(max_examples=50, deadline=None)
def test_pieces_of_any_size_give_the_same_events(
    payloads: list[bytes], data: st.DataObject
) -> None:
    client, server = shaken()
    stream = b"".join(client.send(7, payload) for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    events: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += server.receive(stream[start:end])
    assert events == [Frame(7, payload) for payload in payloads]


@given(st.integers(0, 3), st.lists(st.binary(max_size=20_000), max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_events_or_an_error(stage: int, chunks: list[bytes]) -> None:
    client = ClientConnection(dh_public(SERVER), CLIENT, RANDOM)
    server = ServerConnection(SERVER, RANDOM)
    connection: ClientConnection | ServerConnection = server
    if stage == 1:
        connection = client
    elif stage == 2:
        server.receive(client.start())
    elif stage == 3:
        connection = shaken()[0]
    for chunk in chunks:
        try:
            events = connection.receive(chunk)
        except TransportError:
            assert connection.data_to_send() == b""
            with pytest.raises(TransportError):
                connection.receive(b"")
            with pytest.raises(TransportError):
                connection.send(1, b"")
            return
        assert events == []
        held = connection._partial
        assert held is None or len(held) < FRAME_SIZE


@given(st.sampled_from(["hello", "answer", "proof", "frame"]), st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_bit_ends_the_connection(which: str, data: st.DataObject) -> None:
    client = ClientConnection(dh_public(SERVER), CLIENT, RANDOM)
    server = ServerConnection(SERVER, RANDOM)

    def carry(name: str, sent: bytes) -> bytes:
        if name != which:
            return sent
        bit = data.draw(st.integers(0, 8 * len(sent) - 1))
        changed = bytearray(sent)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    def talk() -> list[Event]:
        server.receive(carry("hello", client.start()))
        client.receive(carry("answer", server.data_to_send()))
        server.receive(carry("proof", client.data_to_send()))
        return server.receive(carry("frame", client.send(1, b"x")))

    with pytest.raises(TransportError):
        talk()


def test_frames_out_of_order_replayed_or_reflected_are_refused() -> None:
    client, server = shaken()
    first, second = client.send(1, b"one"), client.send(2, b"two")
    assert server.receive(first) == [Frame(1, b"one")]
    with pytest.raises(TransportError):
        server.receive(first)
    with pytest.raises(TransportError):
        server.receive(second)  # the connection is dead

    client, server = shaken()
    client.send(1, b"lost")
    with pytest.raises(TransportError):
        server.receive(client.send(2, b"two"))

    client, server = shaken()
    with pytest.raises(TransportError):
        client.receive(client.send(1, b"to myself"))


def test_a_frame_of_another_connection_is_refused() -> None:
    (client, _), (_, server) = shaken(), shaken()
    with pytest.raises(TransportError):
        server.receive(client.send(1, b""))


def test_a_server_with_another_key_is_named() -> None:
    client = ClientConnection(dh_public(bytes([9]) * 32), CLIENT, RANDOM)
    server = ServerConnection(SERVER, RANDOM)
    server.receive(client.start())
    with pytest.raises(TransportError, match="another key") as caught:
        client.receive(server.data_to_send())
    assert caught.value.hint
    assert client.data_to_send() == b"", "the client has not said who it is"


def test_who_lacks_the_secret_proves_nothing() -> None:
    """A server that claims B without B's secret, and a client that claims A without A's."""
    for honest_server in (False, True):
        client = ClientConnection(dh_public(SERVER), CLIENT, RANDOM)
        server = ServerConnection(SERVER, RANDOM)
        server.receive(client.start())
        answer = bytearray(server.data_to_send())
        if honest_server:
            client.receive(answer)
            other = ClientConnection(dh_public(SERVER), bytes([7]) * 32, RANDOM)
            second = ServerConnection(SERVER, RANDOM)
            second.receive(other.start())
            other.receive(second.data_to_send())
            with pytest.raises(TransportError):  # a proof made for another connection
                server.receive(other.data_to_send())
        else:
            impostor = ServerConnection(bytes([8]) * 32, RANDOM)
            impostor.receive(client.start())
            with pytest.raises(TransportError):
                client.receive(impostor.data_to_send())


@pytest.mark.parametrize("point", [bytes(32), bytes([1]) + bytes(31)])
def test_points_of_low_order_are_refused(point: bytes) -> None:
    hello = ClientConnection(dh_public(SERVER), CLIENT, RANDOM).start()
    with pytest.raises(TransportError):
        ServerConnection(SERVER, RANDOM).receive(hello[:1] + point + hello[33:])


def test_another_version_is_named() -> None:
    hello = ClientConnection(dh_public(SERVER), CLIENT, RANDOM).start()
    with pytest.raises(TransportError, match="version"):
        ServerConnection(SERVER, RANDOM).receive(b"\x02" + hello[1:])


def test_an_oversize_payload_changes_nothing() -> None:
    client, server = shaken()
    for id, payload in ((1, bytes(PAYLOAD_MAX + 1)), (-1, b""), (2**32, b"")):
        with pytest.raises(LimitError):
            client.send(id, payload)
    whole = os.urandom(PAYLOAD_MAX)
    assert server.receive(client.send(2**32 - 1, whole)) == [Frame(2**32 - 1, whole)]


def test_padding_gives_no_event_and_pushes_do() -> None:
    client, server = shaken()
    assert client.receive(server.send(PUSH, b"") + server.send(PUSH, b"x")) == [Frame(PUSH, b"x")]


def test_old_frames_cannot_be_read_with_what_is_in_memory_later() -> None:
    client, server = shaken()
    early = client.send(1, b"early")
    server.receive(early)
    for _ in range(256):
        server.receive(client.send(1, b""))
    direction = server._receiving
    assert direction is not None
    later = direction._chain
    for number in range(257):
        nonce = number.to_bytes(12, "big")
        for key in (later, blake2b(b"", key=later, person=b"cbfs1 tr frames").digest()[32:]):
            cipher = ChaCha20Poly1305(key)
            with pytest.raises(InvalidTag):
                cipher.decrypt(nonce, early, None)
