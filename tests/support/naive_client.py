"""A small client that was written from the text of the specification, with nothing of cbfs_common:
it makes an account, takes a name, writes to somebody and reads the answers. It trusts nobody more
than the text says, keeps everything in memory, and does one thing after the other."""

import os
import socket
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgpack

from tests.support.naive_checks import bundle as read_bundle
from tests.support.naive_checks import look_up
from tests.support.naive_layouts import need
from tests.support.naive_messages import Given, derived, identity, kdf, part, static_key
from tests.support.naive_messages import made as make_prekey
from tests.support.naive_messages import profile as read_profile
from tests.support.naive_messages import record as read_record
from tests.support.naive_names import commitment, encoded_keys, entry, long, salt, short
from tests.support.naive_policies import policy as read_policy
from tests.support.naive_rounds import REPLIES, reader, sign
from tests.support.naive_servers import _frame_key, frame, hello, proved, unseal
from tests.support.naive_sessions import Side, ek_of, point

PATIENCE = 60.0
ERROR = 65
ONE_TIME = 1


def pack(*values: Any) -> bytes:
    """One value in its one encoding."""
    data: bytes = msgpack.packb(list(values), use_bin_type=True)
    return data


class Wire:
    """A connection to a server, over the transport. ``secret``: one's own key, or a fresh one."""

    def __init__(self, address: Given, secret: bytes = b"") -> None:
        self.socket = socket.create_connection((address["host"], address["port"]), PATIENCE)
        a, seed = os.urandom(32), os.urandom(64)
        self.socket.sendall(hello(a, seed))
        told, self.up, self.down = proved(
            address["key"], secret or os.urandom(32), a, seed, os.urandom(32), self._take(2_432)
        )
        self.socket.sendall(told)
        self.sent = self.received = 0

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            need(more != b"", "ended")
            data += more
        return data

    def ask(self, payload: bytes) -> bytes:
        """The reply to a request; what else comes is padding."""
        self.socket.sendall(frame(self.up, self.sent, self.sent + 1, payload))
        self.sent += 1
        while True:
            plain = unseal(_frame_key(self.down, self.received), self._take(16_932))
            self.received += 1
            id, size = int.from_bytes(plain[:4], "big"), int.from_bytes(plain[4:6], "big")
            if id:
                need(id == self.sent, "ended")
                return plain[6 : 6 + size]
            need(size == 0, "ended")

    def request(self, kind: int, *fields: Any) -> list[Any]:
        """Of a message server: the reply, which is no error."""
        reply: list[Any] = msgpack.unpackb(self.ask(pack(kind, *fields)))
        assert reply[0] != ERROR, f"error {reply[1]} to request {kind}"
        return reply


class Directory:
    """What the name directory of a policy says."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        rules = read_policy(policy)
        self.address = {"key": rules["server_key"], "host": rules["host"], "port": rules["port"]}
        self.id: bytes = rules["directory"]
        self.log_key: bytes = rules["log_key"]
        nothing = bytes(8)
        self.state = b"\x03" + self.id + nothing + nothing + nothing + b"\0"

    def _ask(self, payload: bytes, wanted: str) -> list[Any]:
        with Wire(self.address) as wire:
            self.reply = wire.ask(payload)
        found = reader(REPLIES)(self.reply)
        assert found["what"] == wanted, found
        fields: list[Any] = found["fields"]
        return fields

    def submit(self, operation: bytes) -> None:
        self._ask(pack(3, operation), "Submitted")

    def next_round(self) -> int:
        head, _round, _proof = self._ask(pack(4), "HeadIs")
        return int(head.split(b"\n")[1])

    def find(self, name: str) -> bytes:
        """The entry of a name."""
        self._ask(pack(1, name), "LookedUp")
        told = look_up(self.policy, self.state, name, None, int(time.time()), self.reply)
        self.state = told["after"]
        assert told["found"] is not None
        found: bytes = told["found"]
        return found

    def bundle(self, name: str) -> bytes:
        """The proof of one's own entry that goes with messages."""
        self.find(name)
        _kind, evidence, links = msgpack.unpackb(self.reply)
        proof: bytes = b"\x01" + self.id + evidence + links
        return proof


def operation(body: bytes, *seeds: bytes) -> bytes:
    signed = sorted(sign(seed, b"cbfs1 names operation\n" + body) for seed in seeds)
    return body + bytes([len(signed)]) + b"".join(key + signature for key, signature in signed)


class NaiveClient:
    """An account with a name, a home server and at most one session."""

    def __init__(self, name: str, server: Given, directory: Directory) -> None:
        self.name, self.server, self.directory = name, server, directory
        self.transport, self.auth = os.urandom(32), os.urandom(32)
        self.signing, self.owner, self.kem = os.urandom(32), os.urandom(32), os.urandom(64)
        self.side: Side | None = None
        self.seen: set[bytes] = set()

    @property
    def user_id(self) -> bytes:
        return point(self.transport)

    @property
    def person(self) -> bytes:
        return self.directory.id + self.name.encode()

    def init(self) -> None:
        """The account, its prekeys and its name."""
        with Wire(self.server, self.transport) as home:
            home.request(1, b"", b"", 0)  # one of the newcomers who need not work
            expires = int(time.time()) + 14 * 86_400
            prekey: Given = {
                "prekey_id": os.urandom(16), "prekey_kind": ONE_TIME, "prekey_expires": expires,
                "prekey_x_secret": os.urandom(32), "prekey_kem_seed": os.urandom(64),
            }  # fmt: skip
            record = make_prekey(self.signing, *prekey.values())["record"]
            home.request(3, [record], ek_of(self.kem), True)
        owners = 1, [sign(self.owner, b"")[0]]
        secret = salt(self.owner, self.directory.id, self.name)
        hidden = commitment(self.directory.id, self.name, owners, secret)
        expires = self.directory.next_round() + 1_000
        start = b"\x01\x01" + self.directory.id + short(b"") + bytes(8) + bytes(32)
        rest = hidden + bytes(8) + long(b"")
        self.directory.submit(operation(start + expires.to_bytes(8, "big") + rest))
        one = (1).to_bytes(4, "big")
        start = b"\x01\x02" + self.directory.id + short(self.name.encode()) + one + one + bytes(32)
        rest = secret + encoded_keys(owners) + bytes(2) + short(b"") + long(self.profile())
        self.directory.submit(operation(start + expires.to_bytes(8, "big") + rest, self.owner))
        assert entry(self.directory.find(self.name))["profile"] == self.profile()
        who = self._identity(self.name, read_profile(self.profile()))
        self.me = {"identity": who, "auth_secret": self.auth, "kem_seed": self.kem,
                   "life": os.urandom(8), **prekey}  # fmt: skip

    def profile(self) -> bytes:
        signing, _ = sign(self.signing, b"")
        kem = kdf(b"", "cbfs1 kem id", ek_of(self.kem), 32)
        keys = self.user_id + signing + point(self.auth) + kem + self.server["key"]
        port: bytes = self.server["port"].to_bytes(2, "big")
        return b"\x01" + bytes(keys) + port + str(self.server["host"]).encode()

    def _identity(self, name: str, profile: Given) -> bytes:
        keys = {key: profile[key] for key in ("signing", "auth", "kem")}
        found: bytes = identity(self.directory.log_key, name, **keys)["identity"]
        return found

    def _draw(self, turn: int) -> Given:
        drawn = {"x_secret": 32, "auth_secret": 32, "kem_seed": 64, "e_secret": 32, "m": 32}
        return {name: os.urandom(size) for name, size in drawn.items()}

    def _know(self, peer: str, found: Given) -> None:
        self.peer = peer
        self.theirs = theirs = read_profile(found["profile"])
        self.home = {"key": theirs["server_key"], "host": theirs["host"], "port": theirs["port"]}

    def begin(self, peer: str) -> None:
        """A session with somebody, by a prekey of theirs."""
        self._know(peer, entry(self.directory.find(peer)))
        theirs = self.theirs
        with Wire(self.home) as wire:
            _kind, data, ek = wire.request(5, theirs["user_id"])
        read_record(data, theirs["signing"], int(time.time()))
        static_key(ek, theirs["kem"])
        self.side = Side(self.me, self._draw)
        self.side.start(self._identity(peer, theirs), theirs["auth"], ek, data[:1_241])

    def write(self, text: bytes, parents: list[bytes]) -> bytes:
        """A message with this content, delivered; its hash. ``parents`` as they stand in it."""
        people = sorted(self.directory.id + each.encode() for each in (self.name, self.peer))
        talk = derived(people, "", 0)
        body = pack(
            *(1, 1, os.urandom(16), talk, parents, people, "", int(time.time() * 1_000), "hello"),
            *(0, 1, len(text), blake2b(text, digest_size=32).digest(), text),
            *(self.directory.bundle(self.name), 0, 0, [[], [], [], []], b""),
        )
        side = self.side
        assert side is not None
        turn = side.turn + (side.mine is None)
        n = side.sending.next if side.sending and side.mine is not None else 0
        envelope = side.seal(turn, n, body, os.urandom(32), os.urandom(32))
        with Wire(self.home) as wire:
            wire.request(6, self.theirs["user_id"], envelope)
        hash_: bytes = part(body, self.person)["hash"]
        return bytes([people.index(self.person)]) + hash_

    def read(self, wait: Callable[[Callable[[], Given | None], str], Given]) -> Given:
        """The next message that comes, with ``parent`` as it is named in an answer. Notes are
        passed over."""
        return wait(self._read, "a message")

    def _read(self) -> Given | None:
        with Wire(self.server, self.transport) as home:
            ids = [id for id in home.request(7, b"")[1] if id not in self.seen]
            for id in ids:
                self.seen.add(id)
                _kind, envelope = home.request(8, id)
                begins = self.side is None
                self.side = self.side or Side(self.me, self._draw)
                body = self.side.open(envelope)
                if begins:
                    self._meet(body)
                home.request(9, [id])
                if msgpack.unpackb(body)[1] == 1:
                    return self._message(body)
        return None

    def _meet(self, body: bytes) -> None:
        """Who has begun the session, by the bundle and the directory: nobody else may have."""
        assert self.side is not None
        shown = read_bundle(self.directory.policy, msgpack.unpackb(body)[14], None)
        told = entry(shown["entry"])
        assert self.directory.find(told["person"]) == shown["entry"]
        self._know(told["person"], told)
        assert self.side.peer_id == self._identity(self.peer, self.theirs)

    def _message(self, body: bytes) -> Given:
        sender = self.directory.id + self.peer.encode()
        told = part(body, sender)
        told["parent"] = bytes([told["participants"].index(sender)]) + told["hash"]
        shown = read_bundle(self.directory.policy, told["bundle"], None)
        assert read_profile(entry(shown["entry"])["profile"]) == self.theirs
        return told
