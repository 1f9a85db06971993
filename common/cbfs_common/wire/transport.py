"""The transport between a client and a server, without I/O. PROTOCOL.rst, Transport.

Bytes in, events and bytes out. A handshake of three messages (SIGMA-I with public-key
authenticated encryption in the place of signatures, hybrid with ML-KEM-768, to which the server has
a static key as well) gives a key for each direction; after it both sides exchange frames of one
size. Any bytes give events or
TransportError; after a TransportError the connection is dead and must be closed. Never more than
one incomplete message is held.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cbfs_common.errors import CryptoError, DecodeError, LimitError, TransportError
from cbfs_common.limits import FRAME_SIZE, FRAMES_PER_KEY
from cbfs_common.primitives import (
    KEM_CIPHERTEXT_SIZE,
    KEM_PUBLIC_SIZE,
    KEM_SEED_SIZE,
    KEY_SIZE,
    NONCE_SIZE,
    TAG_SIZE,
    KemKey,
    Random,
    box_open,
    box_seal,
    dh,
    dh_public,
    equal,
    kdf,
    kem_decapsulate,
    kem_public,
    open_sealed,
    seal,
)

__all__ = [
    "FRAME_SIZE",
    "PAYLOAD_MAX",
    "PUSH",
    "ClientConnection",
    "Established",
    "Event",
    "Frame",
    "ServerConnection",
    "ServerSecret",
]

TRANSPORT_VERSION = 1
HEADER_SIZE = 6
PLAIN_SIZE = FRAME_SIZE - TAG_SIZE
PAYLOAD_MAX = PLAIN_SIZE - HEADER_SIZE
"""Bytes that one frame carries: 16,910."""

PUSH = 0
"""The id of what nobody asked for. With an empty payload it is padding and gives no event."""

ID_MAX = 2**32 - 1
HASH_SIZE = 64
BOX_SIZE = HASH_SIZE + TAG_SIZE
SERVER_PROOF_SIZE = KEY_SIZE + KEM_PUBLIC_SIZE + BOX_SIZE + TAG_SIZE
HELLO_SIZE = 1 + KEY_SIZE + KEM_PUBLIC_SIZE
ANSWER_SIZE = KEY_SIZE + KEM_CIPHERTEXT_SIZE + SERVER_PROOF_SIZE
PROOF_SIZE = KEM_CIPHERTEXT_SIZE + KEY_SIZE + BOX_SIZE + TAG_SIZE

SERVER_SECRET_SIZE = KEY_SIZE + KEM_SEED_SIZE
"""What a server keeps of its long-term keys: X25519 secret | ML-KEM-768 seed."""

_ZEROS = bytes(PAYLOAD_MAX)
_BOX_NONCE_SIZE = 24


class ServerSecret:
    """The long-term secrets of a server. Expanding the ML-KEM key costs more than using it, so
    that is done once."""

    __slots__ = ("encoded", "kem", "key", "public", "x")

    def __init__(self, encoded: bytes) -> None:
        """``encoded``: SERVER_SECRET_SIZE random bytes, as they stand in the server's key file.
        Raises DecodeError for another size."""
        if len(encoded) != SERVER_SECRET_SIZE:
            raise DecodeError("not the secret keys of a server")
        self.encoded = encoded
        self.x = encoded[:KEY_SIZE]
        self.kem = KemKey(encoded[KEY_SIZE:])
        self.public = dh_public(self.x) + self.kem.public()
        """What the server shows in its answer: S 32 | ekS 1184."""
        self.key = server_id(self.public)
        """The 32 bytes that stand for both keys in addresses and profiles."""


def server_id(public: bytes) -> bytes:
    """The key (32) of an address, of the server's public keys: S 32 | ekS 1184."""
    return kdf(b"", b"cbfs1 server id", public, KEY_SIZE)


@dataclass(frozen=True, slots=True)
class Established:
    """At a server: the client has proved that it holds the secret of ``peer_key`` (X25519, 32
    bytes). At a client: the server has shown the keys that ``peer_key``, of its address, stands
    for, and proved the X25519 one; its first frame that opens proves the ML-KEM one, and until then
    nobody without both can read what is sent."""

    peer_key: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame's content. ``id`` 0 is a push, any other a request or the reply to it."""

    id: int
    payload: bytes


Event = Established | Frame


class _Direction:
    """The key of one direction. Each (key, nonce) is used once: the nonce counts the frames
    under a key, and after FRAMES_PER_KEY frames the chain gives the next key and forgets the
    last, so that what was sent cannot be read with what is in memory later."""

    __slots__ = ("_chain", "_count", "_key")

    def __init__(self, chain: bytes) -> None:
        self._chain = chain
        self._key = b""
        self._count = FRAMES_PER_KEY

    def step(self) -> tuple[ChaCha20Poly1305, bytes]:
        """Cipher and nonce of the next frame. The cipher is made anew each time: it takes 0.7 us,
        and a kept one 2.3 KB, of which a server with idle connections would hold two for each."""
        if self._count == FRAMES_PER_KEY:
            keys = kdf(self._chain, b"cbfs1 tr frames")
            self._chain, self._key = keys[:KEY_SIZE], keys[KEY_SIZE:]
            self._count = 0
        nonce = self._count.to_bytes(NONCE_SIZE, "big")
        self._count += 1
        return ChaCha20Poly1305(self._key), nonce


@dataclass(frozen=True, slots=True)
class _Labels:
    """Of one side's proof."""

    proof: bytes
    nonce: bytes


_SERVER_PROOF = _Labels(b"cbfs1 tr server", b"cbfs1 tr snonce")
_CLIENT_PROOF = _Labels(b"cbfs1 tr client", b"cbfs1 tr cnonce")


class _Secrets:
    """What the key agreement of one handshake gives, the same on both sides."""

    __slots__ = ("_secret", "transcript")

    def __init__(self, shared: bytes, transcript: bytes) -> None:
        """``shared``: DH 32 | KEM 32. ``transcript``: hello and the first two fields of the
        answer, all of fixed size."""
        self.transcript = kdf(b"", b"cbfs1 tr hash", transcript)
        self._secret = kdf(shared, b"cbfs1 tr secret", self.transcript)

    def mix_static(self, shared: bytes, ciphertext: bytes) -> None:
        """Go on with a key that only who holds the server's static ML-KEM key can know. ``shared``
        (32) is what ``ciphertext`` (1088) holds for it."""
        self._secret = kdf(self._secret, b"cbfs1 tr static", shared + ciphertext)

    def seal_proof(
        self, labels: _Labels, own_public: bytes, own_secret: bytes, ephemeral: bytes
    ) -> bytes:
        """{own public keys, [transcript hash](own X25519 key <> peer's ephemeral key)}."""
        box = box_seal(ephemeral, own_secret, self._box_nonce(labels), self.transcript)
        key = kdf(self._secret, labels.proof, size=KEY_SIZE + NONCE_SIZE)
        return seal(key[:KEY_SIZE], key[KEY_SIZE:], own_public + box)

    def open_proof(
        self, labels: _Labels, ephemeral_secret: bytes, sealed: bytes, expected: bytes | None
    ) -> bytes:
        """The peer's public keys, of which the first (X25519, 32) is proved. Raises CryptoError, or
        TransportError when they are not those that ``expected`` (of an address) stands for."""
        key = kdf(self._secret, labels.proof, size=KEY_SIZE + NONCE_SIZE)
        plain = open_sealed(key[:KEY_SIZE], key[KEY_SIZE:], sealed)
        public, box = plain[:-BOX_SIZE], plain[-BOX_SIZE:]
        if expected is not None and not equal(server_id(public), expected):
            raise TransportError(
                "the server has another key than its address says",
                "check the address; if it is right, somebody stands between you and the server",
            )
        proved = box_open(public[:KEY_SIZE], ephemeral_secret, self._box_nonce(labels), box)
        if not equal(proved, self.transcript):
            raise CryptoError("cannot be opened")
        return public

    def chain(self, label: bytes, server_key: bytes, client_key: bytes) -> _Direction:
        """The keys of one direction."""
        return _Direction(kdf(self._secret, label, server_key + client_key, KEY_SIZE))

    def _box_nonce(self, labels: _Labels) -> bytes:
        """Once per box key: the transcript holds fresh keys of both sides."""
        return kdf(self.transcript, labels.nonce, size=_BOX_NONCE_SIZE)


_UP = b"cbfs1 tr up"
_DOWN = b"cbfs1 tr down"


class _Connection:
    """What both sides share: cutting the stream into messages, and frames."""

    __slots__ = ("_consume", "_dead", "_need", "_out", "_partial", "_receiving", "_sending")

    def __init__(self, consume: Callable[[bytes | memoryview], Event | None], need: int) -> None:
        self._consume = consume
        self._need = need
        self._partial: bytearray | None = None
        self._out = b""
        self._dead = False
        self._sending: _Direction | None = None
        self._receiving: _Direction | None = None

    def receive(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Events that ``data``, the next bytes of the stream in pieces of any size, completes.
        Afterwards ``data_to_send`` may have something. Raises TransportError; events of the
        same call are then lost, since their sender broke the protocol."""
        if self._dead:
            raise TransportError("the connection is closed")
        events: list[Event] = []
        try:
            self._cut(memoryview(data), events)
        except (CryptoError, InvalidTag) as error:
            self._die()
            raise TransportError("a message of the transport cannot be opened") from error
        except TransportError:
            self._die()
            raise
        return events

    def data_to_send(self) -> bytes:
        """Bytes of the handshake to write now; once."""
        out, self._out = self._out, b""
        return out

    @property
    def in_part(self) -> bool:
        """Whether a message has come in part, so that nothing is said before its rest has come."""
        return self._partial is not None

    def send(self, id: int, payload: bytes) -> bytes:
        """A sealed frame (FRAME_SIZE) to write. Frames must be written in the order of these
        calls. Raises LimitError for a payload over PAYLOAD_MAX, before anything changes."""
        if self._sending is None or self._dead:
            raise TransportError("the connection is closed")
        size = len(payload)
        if size > PAYLOAD_MAX or not 0 <= id <= ID_MAX:
            raise LimitError(f"a frame carries at most {PAYLOAD_MAX} bytes")
        header = id.to_bytes(4, "big") + size.to_bytes(2, "big")
        plain = b"".join((header, payload, _ZEROS[size:]))
        cipher, nonce = self._sending.step()
        return cipher.encrypt(nonce, plain, None)

    def _cut(self, data: memoryview, events: list[Event]) -> None:
        while data:
            held = self._partial
            missing = self._need - (len(held) if held is not None else 0)
            if len(data) < missing:
                if held is None:
                    self._partial = bytearray(data)
                else:
                    held += data
                return
            if held is None:
                whole: bytes | memoryview = data[:missing]
            else:
                held += data[:missing]
                whole = bytes(held)
                self._partial = None
            data = data[missing:]
            event = self._consume(whole)
            if event is not None:
                events.append(event)

    def _begin_frames(self, sending: _Direction, receiving: _Direction) -> None:
        self._sending, self._receiving = sending, receiving
        self._consume, self._need = self._open_frame, FRAME_SIZE

    def _open_frame(self, sealed: bytes | memoryview) -> Frame | None:
        if self._receiving is None:
            raise TransportError("a frame before the handshake")
        cipher, nonce = self._receiving.step()
        plain = cipher.decrypt(nonce, sealed, None)
        id = int.from_bytes(plain[:4], "big")
        size = int.from_bytes(plain[4:HEADER_SIZE], "big")
        if size > PAYLOAD_MAX or plain[HEADER_SIZE + size :] != _ZEROS[size:]:
            raise TransportError("a frame that is not padded as it must be")
        if id == PUSH and size == 0:
            return None
        return Frame(id, plain[HEADER_SIZE : HEADER_SIZE + size])

    def _die(self) -> None:
        self._dead = True
        self._partial = None
        self._out = b""
        self._sending = self._receiving = None


class ClientConnection(_Connection):
    """The side that opens the connection and knows whom it wants to reach."""

    __slots__ = ("_ephemeral", "_hello", "_kem_seed", "_own", "_random", "_server_key")

    def __init__(self, server_key: bytes, own_secret: bytes, random: Random) -> None:
        """``server_key``: the 32 bytes of the server's address, which stand for the keys that it
        must prove. ``own_secret``: X25519 (32); a fresh one for anonymous requests."""
        super().__init__(self._read_answer, ANSWER_SIZE)
        self._random: Random | None = random
        self._server_key = server_key
        self._own = own_secret
        self._ephemeral = random.token(KEY_SIZE)
        self._kem_seed = random.token(KEM_SEED_SIZE)
        self._hello = (
            bytes([TRANSPORT_VERSION]) + dh_public(self._ephemeral) + kem_public(self._kem_seed)
        )

    def start(self) -> bytes:
        """The first bytes to write: version 1 | a 32 | ek 1184."""
        return self._hello

    def _read_answer(self, answer: bytes | memoryview) -> Event | None:
        answer = bytes(answer)
        if self._random is None:
            raise TransportError("a second answer")
        public, proof = answer[:-SERVER_PROOF_SIZE], answer[-SERVER_PROOF_SIZE:]
        b, ciphertext = public[:KEY_SIZE], public[KEY_SIZE:]
        shared = dh(self._ephemeral, b) + kem_decapsulate(self._kem_seed, ciphertext)
        secrets = _Secrets(shared, self._hello + public)
        server = secrets.open_proof(_SERVER_PROOF, self._ephemeral, proof, self._server_key)
        static, static_ciphertext = self._random.encapsulate(server[KEY_SIZE:])
        secrets.mix_static(static, static_ciphertext)
        own = dh_public(self._own)
        proof = secrets.seal_proof(_CLIENT_PROOF, own, self._own, b)
        self._out = static_ciphertext + proof
        up, down = (secrets.chain(label, self._server_key, own) for label in (_UP, _DOWN))
        self._ephemeral = self._kem_seed = self._own = b""
        self._random = None
        self._begin_frames(sending=up, receiving=down)
        return Established(self._server_key)


class ServerConnection(_Connection):
    """The side that listens. It learns who the client is last."""

    __slots__ = ("_ephemeral", "_own", "_random", "_secrets")

    def __init__(self, own: ServerSecret, random: Random) -> None:
        """``own``: the server's long-term keys."""
        super().__init__(self._read_hello, HELLO_SIZE)
        self._own = own
        self._random: Random | None = random
        self._ephemeral = b""
        self._secrets: _Secrets | None = None

    def _read_hello(self, hello: bytes | memoryview) -> Event | None:
        hello = bytes(hello)
        if hello[0] != TRANSPORT_VERSION or self._random is None:
            raise TransportError("a client of another version of the protocol")
        a, ek = hello[1 : 1 + KEY_SIZE], hello[1 + KEY_SIZE :]
        self._ephemeral = self._random.token(KEY_SIZE)
        kem_secret, ciphertext = self._random.encapsulate(ek)
        public = dh_public(self._ephemeral) + ciphertext
        self._secrets = _Secrets(dh(self._ephemeral, a) + kem_secret, hello + public)
        own = self._own
        self._out = public + self._secrets.seal_proof(_SERVER_PROOF, own.public, own.x, a)
        self._consume, self._need, self._random = self._read_proof, PROOF_SIZE, None
        return None

    def _read_proof(self, proof: bytes | memoryview) -> Event | None:
        proof, secrets, own = bytes(proof), self._secrets, self._own
        if secrets is None:
            raise TransportError("a proof before the hello")
        ciphertext, sealed = proof[:KEM_CIPHERTEXT_SIZE], proof[KEM_CIPHERTEXT_SIZE:]
        secrets.mix_static(own.kem.decapsulate(ciphertext), ciphertext)
        client = secrets.open_proof(_CLIENT_PROOF, self._ephemeral, sealed, None)
        up, down = (secrets.chain(label, own.key, client) for label in (_UP, _DOWN))
        self._secrets, self._ephemeral = None, b""
        self._begin_frames(sending=down, receiving=up)
        return Established(client)
