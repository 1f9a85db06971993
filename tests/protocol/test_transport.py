"""The transport: that any bytes give events or TransportError, and who can do what. Its vectors are
read in test_vectors.py."""

import copy
import os
from hashlib import blake2b

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import CryptoError, DecodeError, LimitError, TransportError
from cbfs_common.primitives import (
    KEM_CIPHERTEXT_SIZE,
    Random,
    dh_public,
    kem_encapsulate,
)
from cbfs_common.wire.transport import (
    _CLIENT_PROOF,
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
    ServerSecret,
    server_id,
)
from tests.support.impostor import shown_as

RANDOM = Random(os.urandom, kem_encapsulate)
SERVER, CLIENT = ServerSecret(bytes(range(96))), bytes(range(32, 64))


def shaken(key: bytes = SERVER.key) -> tuple[ClientConnection, ServerConnection]:
    """Both sides after the handshake."""
    client = ClientConnection(key, CLIENT, RANDOM)
    server = ServerConnection(SERVER, RANDOM)
    assert server.receive(client.start()) == []
    assert client.receive(server.data_to_send()) == [Established(SERVER.key)]
    assert server.receive(client.data_to_send()) == [Established(dh_public(CLIENT))]
    return client, server


def test_sizes_are_those_of_the_specification() -> None:
    assert (HELLO_SIZE, ANSWER_SIZE, PROOF_SIZE) == (1_217, 2_432, 1_216)
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
    client = ClientConnection(SERVER.key, CLIENT, RANDOM)
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
    client = ClientConnection(SERVER.key, CLIENT, RANDOM)
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
    client = ClientConnection(ServerSecret(bytes([9]) * 96).key, CLIENT, RANDOM)
    server = ServerConnection(SERVER, RANDOM)
    server.receive(client.start())
    with pytest.raises(TransportError, match="another key") as caught:
        client.receive(server.data_to_send())
    assert caught.value.hint
    assert client.data_to_send() == b"", "the client has not said who it is"


def test_who_lacks_the_secret_proves_nothing() -> None:
    """A server that claims B without B's secret, and a client that claims A without A's."""
    for honest_server in (False, True):
        client = ClientConnection(SERVER.key, CLIENT, RANDOM)
        server = ServerConnection(SERVER, RANDOM)
        server.receive(client.start())
        answer = bytearray(server.data_to_send())
        if honest_server:
            client.receive(answer)
            other = ClientConnection(SERVER.key, bytes([7]) * 32, RANDOM)
            second = ServerConnection(SERVER, RANDOM)
            second.receive(other.start())
            other.receive(second.data_to_send())
            with pytest.raises(TransportError):  # a proof made for another connection
                server.receive(other.data_to_send())
        else:
            impostor = ServerConnection(ServerSecret(bytes([8]) * 96), RANDOM)
            impostor.receive(client.start())
            with pytest.raises(TransportError):
                client.receive(impostor.data_to_send())


@pytest.mark.parametrize("point", [bytes(32), bytes([1]) + bytes(31)])
def test_points_of_low_order_are_refused(point: bytes) -> None:
    hello = ClientConnection(SERVER.key, CLIENT, RANDOM).start()
    with pytest.raises(TransportError):
        ServerConnection(SERVER, RANDOM).receive(hello[:1] + point + hello[33:])


def test_who_has_broken_x25519_alone_cannot_pose_as_a_server() -> None:
    """With the X25519 secret of the server, and any ML-KEM key but its own, it shows the right keys
    and learns neither who comes nor what is asked, and nothing that it says is read."""
    thief = ServerConnection(shown_as(ServerSecret(SERVER.x + bytes(64)), SERVER.public), RANDOM)
    client = ClientConnection(SERVER.key, CLIENT, RANDOM)
    thief.receive(client.start())
    assert client.receive(thief.data_to_send()) == [Established(SERVER.key)]
    proof, asked = client.data_to_send(), client.send(1, b"asked")
    secrets = thief._secrets
    assert secrets is not None
    with pytest.raises(TransportError):
        thief.receive(proof + asked)
    # with every key that it knows: without that of the static key, and with what it holds itself
    guessed = ServerSecret(SERVER.x + bytes(64)).kem.decapsulate(proof[:KEM_CIPHERTEXT_SIZE])
    for mixed in (None, guessed):
        if mixed is not None:
            secrets.mix_static(mixed, proof[:KEM_CIPHERTEXT_SIZE])
        with pytest.raises(CryptoError):
            secrets.open_proof(_CLIENT_PROOF, thief._ephemeral, proof[KEM_CIPHERTEXT_SIZE:], None)
        down = secrets.chain(b"cbfs1 tr down", SERVER.key, dh_public(CLIENT))
        cipher, nonce = down.step()
        with pytest.raises(TransportError):
            copy.deepcopy(client).receive(cipher.encrypt(nonce, bytes(FRAME_SIZE - 16), None))


def test_who_has_broken_ml_kem_alone_cannot_pose_as_a_server() -> None:
    own = ServerSecret(bytes(32) + SERVER.encoded[32:])
    thief = ServerConnection(shown_as(own, SERVER.public), RANDOM)
    client = ClientConnection(SERVER.key, CLIENT, RANDOM)
    thief.receive(client.start())
    with pytest.raises(TransportError):
        client.receive(thief.data_to_send())
    assert client.data_to_send() == b"", "the client has not said who it is"


def test_keys_of_another_kem_are_not_those_of_the_address() -> None:
    other = ServerSecret(SERVER.x + bytes(64))
    assert other.key != SERVER.key
    client, server = ClientConnection(SERVER.key, CLIENT, RANDOM), ServerConnection(other, RANDOM)
    server.receive(client.start())
    with pytest.raises(TransportError, match="another key"):
        client.receive(server.data_to_send())


@pytest.mark.parametrize("size", [0, 32, 64, 95, 97, 1_216])
def test_secrets_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(DecodeError):
        ServerSecret(bytes(size))


def test_a_static_key_that_is_none_is_refused() -> None:
    """A server may have made its address of anything; its clients end the connection."""
    broken = SERVER.public[:32] + b"\xff" * 1_184
    thief = ServerConnection(shown_as(SERVER, broken), RANDOM)
    client = ClientConnection(server_id(broken), CLIENT, RANDOM)
    thief.receive(client.start())
    with pytest.raises(TransportError):
        client.receive(thief.data_to_send())


def test_another_version_is_named() -> None:
    hello = ClientConnection(SERVER.key, CLIENT, RANDOM).start()
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
