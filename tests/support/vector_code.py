"""Vectors as the programs' code reads them: of each kind of case, one function."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from cbfs_common import errors, newcomers, person, primitives, profile, strict_msgpack
from cbfs_common.messages import body as bodies
from cbfs_common.messages import conversation, folder
from cbfs_common.messages.conversation import Lifetime
from cbfs_common.session import prekey, session
from cbfs_common.wire import requests, transport
from tests.support import vector_checks
from tests.support.protocol_naive import Person, encapsulate
from tests.support.talking import scripted
from tests.support.vector_blobs import READERS as BLOBS
from tests.support.vector_marks import READERS as MARKS
from tests.support.vector_names import READERS as NAMES
from tests.support.vector_sessions import READERS as SESSIONS
from tests.support.vector_sessions import Refused
from tests.support.vectors import Readers

Given = dict[str, Any]

ERRORS: dict[type[Exception], str] = {
    errors.DecodeError: "malformed",
    errors.CryptoError: "refused",
    errors.TransportError: "ended",
    bodies.UnknownKind: "later",
}


def named(error: Exception) -> str:
    """The name of an error in the protocol's text. No subclass of an error passes for it."""
    if isinstance(error, Refused):
        return str(error)
    if name := vector_checks.named(error):
        return name
    if type(error) not in ERRORS:
        raise error
    return ERRORS[type(error)]


# Primitives, profiles, prekeys


def kdf(key: bytes, label: str, data: bytes, size: int) -> Given:
    return {"out": primitives.kdf(key, label.encode(), data, size)}


def x25519(secret: bytes, public: bytes) -> Given:
    try:
        primitives.check_dh_public(public)
    except errors.CryptoError:
        primitives.dh(secret, public)
        raise AssertionError("two opinions of one key") from None
    return {"shared": primitives.dh(secret, public)}


def kem_key(seed: bytes) -> Given:
    assert primitives.KemKey(seed).public() == primitives.kem_public(seed)
    return {"ek": primitives.kem_public(seed)}


def kem_encapsulate(ek: bytes, m: bytes) -> Given:
    """The programs take the secret from a library that draws ``m`` itself; theirs is the check."""
    try:
        primitives.check_kem_public(ek)
    except errors.CryptoError:
        primitives.kem_encapsulate(ek)
        raise AssertionError("two opinions of one key") from None
    shared, ct = encapsulate(ek, m)
    return {"shared": shared, "ct": ct}


def kem_decapsulate(seed: bytes, ct: bytes) -> Given:
    assert primitives.KemKey(seed).decapsulate(ct) == primitives.kem_decapsulate(seed, ct)
    return {"shared": primitives.kem_decapsulate(seed, ct)}


def seal(key: bytes, sealed: bytes, data: bytes) -> Given:
    plain = primitives.open_sealed(key[:32], key[32:], sealed, data)
    assert primitives.seal(key[:32], key[32:], plain, data) == sealed
    return {"plain": plain}


def poly1305(key: bytes, data: bytes) -> Given:
    return {"tag": primitives.poly1305(key, data)}


def messagepack(data: bytes) -> Given:
    strict_msgpack.unpack(data, "not a value", 16)
    return {}


def profile_of(encoded: bytes) -> Given:
    found = profile.decode_profile(encoded)
    assert found.encode() == encoded
    names = ("user_id", "signing", "auth", "kem", "version")
    told = {name: getattr(found, name) for name in names}
    server = found.server
    return told | {"server_key": server.key, "host": server.host, "port": server.port}


def kem(ek: bytes) -> Given:
    return {"kem": profile.kem_id(ek)}


def identity(log_key: bytes, person: str, signing: bytes, auth: bytes, kem: bytes) -> Given:
    directory = _directory(log_key)
    here = profile.Address(bytes(32), "a", 1)
    made = profile.Profile(bytes(32), signing, auth, kem, here)
    return {"directory": directory, "identity": made.identity(_person(directory, person))}


def _directory(log_key: bytes) -> bytes:
    return person.directory_id(log_key)


def _person(directory: bytes, name: str) -> person.Person:
    return person.Person(directory, name)


def name(text: str) -> Given:
    assert person.check_name(text) == text
    return {}


def address(text: str) -> Given:
    found = profile.parse_address(text)
    assert found.url() == text
    return {"key": found.key, "host": found.host, "port": found.port}


def prekey_record(record: bytes, signing: bytes, now: int) -> Given:
    found = prekey.decode_prekey(record)
    found.verify(signing, now)
    told = {name: getattr(found, name) for name in ("id", "expires", "x", "ek")}
    return told | {"prekey_kind": int(found.kind)}


def prekey_made(
    signing_seed: bytes, id: bytes, prekey_kind: int, expires: int, x_secret: bytes, kem_seed: bytes
) -> Given:
    kind = prekey.PrekeyKind(prekey_kind)
    pair = prekey.make_prekey(scripted([id, x_secret, kem_seed]), kind, expires)
    assert prekey.PrekeyPair.decode(pair.encode()) == pair
    return {"record": pair.public(signing_seed)}


def static_key(ek: bytes, kem: bytes) -> Given:
    me, bob = Person("alice"), Person("bob")
    party = session.Party(me.identity, me.auth, primitives.dh_public(me.auth),
                          primitives.KemKey(me.kem))  # fmt: skip
    pair = prekey.make_prekey(
        scripted([bob.prekey_id, bob.prekey_x, bob.prekey_seed]), prekey.PrekeyKind.ONE_TIME, 1
    )
    theirs = prekey.decode_prekey(pair.public(bob.signing))
    peer = session.Peer(bob.identity, primitives.dh_public(bob.auth), kem)
    drawn = scripted([*me.draws(0), bytes(32), bytes(32)])
    session.start(party, peer, theirs, ek, me.life, drawn)
    return {}


# Messages


def part(body: bytes, sender: bytes) -> Given:
    found = bodies.decode_body(body)
    assert isinstance(found, bodies.Part)
    assert bodies.encode_part(found) == body
    names = ["kind", "salt", "conversation", "subject", "date", "file_name"]
    names += ("number", "count", "size", "digest", "chunk", "bundle")
    told = {name: getattr(found, name) for name in names}
    hashed = found.hash(_somebody(sender))
    told |= {"hash": hashed, "id": bodies.Parent(_somebody(sender), hashed).id}
    told["participants"] = [_shown(each) for each in found.participants]
    told["parents"] = [(_shown(each.author), each.hash) for each in found.parents]
    told |= {
        "lifetime": found.lifetime.seconds,
        "change": found.lifetime.change,
        "root": found.root,
    }
    return told | _refs(found.note)


def _somebody(packed: bytes) -> person.Person:
    return person.Person(packed[:16], packed[16:].decode()).checked()


def _shown(somebody: person.Person) -> bytes:
    return somebody.directory + somebody.name.encode()


def _refs(refs: bodies.Refs) -> Given:
    names = ("received", "wanted", "offered", "taken_back")
    return dict(zip(names, refs.listed(), strict=True))


def same_message(one: bytes, other: bytes) -> Given:
    hashes = {bodies.decode_part(each).hash(_person(bytes(16), "alice")) for each in (one, other)}
    return {"same": len(hashes) == 1}


def note(body: bytes) -> Given:
    found = bodies.decode_body(body)
    assert isinstance(found, bodies.Note)
    assert bodies.encode_note(found) == body
    return {**_refs(found.refs), "bundle": found.bundle}


def folder_of(head: bytes, size: int) -> Given:
    folder.table_end(head[: folder.HEAD_SIZE])
    table = folder.decode_table(head, size)
    assert folder.encode_table(table.entries) == head
    rows = [(each.parent, each.name, each.size) for each in table.entries]
    return {"rows": rows, "starts": table.starts}


def _people(participants: list[bytes]) -> tuple[person.Person, ...]:
    return tuple(_somebody(each) for each in participants)


def conversation_id(participants: list[bytes], subject: str, number: int) -> Given:
    return {"id": conversation.conversation_id(_people(participants), subject, number)}


def random_id(random: bytes) -> Given:
    return {"id": conversation.random_conversation_id(random)}


def may_have_id(id: bytes, participants: list[bytes], subject: str) -> Given:
    return {"may": conversation.fits(id, _people(participants), subject)}


def going_on(root: bytes, participants: list[bytes], subject: str) -> Given:
    return {"id": conversation.continued_id(root, _people(participants), subject)}


def may_go_on(id: bytes, root: bytes, participants: list[bytes], subject: str) -> Given:
    return {"may": conversation.fits(id, _people(participants), subject, root)}


def taken_over(seconds: int, change: int, told_seconds: int, told_change: int) -> Given:
    told = Lifetime(told_seconds, told_change)
    return _after(conversation.agreed(Lifetime(seconds, change), told))


def lifetime_set(seconds: int, change: int, wanted: int) -> Given:
    return _after(conversation.changed(Lifetime(seconds, change), wanted))


def _after(lifetime: Lifetime) -> Given:
    return {"seconds_after": lifetime.seconds, "change_after": lifetime.change}


def end(seconds: int, now: int, waits: bool) -> Given:
    return {"end": conversation.end_of(Lifetime(seconds, 1), now, waits=waits)}


# Signatures, transport, message server


def _server_invite(text: str) -> Given:
    found = newcomers.parse_server_invite(text)
    return {"server": found.server, "invite": found.invite}


def signature(public: bytes, message: bytes, signature: bytes) -> Given:
    primitives.verify(public, message, signature)
    return {}


def server_key(server_x: bytes, server_kem_seed: bytes) -> Given:
    return {"key": transport.ServerSecret(server_x + server_kem_seed).key}


def hello(a: bytes, kem_seed: bytes) -> Given:
    return {
        "hello": transport.ClientConnection(bytes(32), bytes(32), scripted([a, kem_seed])).start()
    }


def _asked(secret: bytes, hello: bytes, b: bytes, m: bytes) -> transport.ServerConnection:
    """A server that has got the hello."""
    server = transport.ServerConnection(transport.ServerSecret(secret), _checked([b, m]))
    _received(server, hello)
    return server


def _checked(draws: list[bytes]) -> primitives.Random:
    """Randomness for encapsulations that check the key, as the programs' own do."""
    random = scripted(draws)

    def encapsulate(public: bytes) -> tuple[bytes, bytes]:
        primitives.check_kem_public(public)
        return random.encapsulate(public)

    return primitives.Random(random.token, encapsulate)


def _received(
    side: transport.ServerConnection | transport.ClientConnection, data: bytes
) -> list[transport.Event]:
    """What one whole message gives. Who refuses it says nothing more."""
    try:
        return side.receive(data)
    except errors.TransportError:
        assert side.data_to_send() == b""
        raise


def answer(server_x: bytes, server_kem_seed: bytes, hello: bytes, b: bytes, m: bytes) -> Given:
    return {"answer": _asked(server_x + server_kem_seed, hello, b, m).data_to_send()}


def proof(key: bytes, client: bytes, a: bytes, kem_seed: bytes, m: bytes, answer: bytes) -> Given:
    side = transport.ClientConnection(key, client, _checked([a, kem_seed, m]))
    assert _received(side, answer) == [transport.Established(key)]
    return {"proof": side.data_to_send()}


def chains(
    server_x: bytes, server_kem_seed: bytes, hello: bytes, b: bytes, m: bytes, proof: bytes
) -> Given:
    server = _asked(server_x + server_kem_seed, hello, b, m)
    server.data_to_send()
    (event,) = _received(server, proof)
    assert isinstance(event, transport.Established)
    up, down = server._receiving, server._sending
    assert up is not None and down is not None
    return {"client": event.peer_key, "up": up._chain, "down": down._chain}


def _at_frame(chain: bytes, number: int) -> transport.ClientConnection:
    """A side of a connection whose two directions both have this chain, at frame ``number``."""
    side = transport.ClientConnection(bytes(32), bytes(32), scripted([bytes(32), bytes(64)]))
    directions = transport._Direction(chain), transport._Direction(chain)
    for _ in range(number):
        for direction in directions:
            direction.step()
    side._begin_frames(*directions)
    return side


def frame_sent(chain: bytes, number: int, id: int, payload: bytes) -> Given:
    frame = _at_frame(chain, number).send(id, payload)
    return {"digest": blake2b(frame, digest_size=32).digest()}


def frame_received(chain: bytes, number: int, frame: bytes) -> Given:
    assert len(frame) == transport.FRAME_SIZE, "it is not refused for its size"
    found = _received(_at_frame(chain, number), frame)
    return {"got": [(each.id, each.payload) for each in found if isinstance(each, transport.Frame)]}


def _message(decode: Callable[[bytes], Any]) -> Callable[[bytes], Given]:
    def read(data: bytes) -> Given:
        found = decode(data)
        assert requests.encode(found) == data
        return {"what": type(found).__name__, "fields": found.fields()}

    return read


READERS: Readers = {
    **SESSIONS,
    **MARKS,
    **BLOBS,
    **NAMES,
    **vector_checks.READERS,
    ("ed25519", "signature"): signature,
    ("transport", "server key"): server_key,
    ("transport", "hello"): hello,
    ("transport", "answer"): answer,
    ("transport", "proof"): proof,
    ("transport", "chains"): chains,
    ("transport", "frame sent"): frame_sent,
    ("transport", "frame received"): frame_received,
    ("server", "request"): _message(requests.decode_request),
    ("server", "reply"): _message(requests.decode_reply),
    ("server", "push"): _message(requests.decode_push),
    ("server", "envelope id"): lambda envelope: {"id": requests.envelope_id(envelope)},
    ("server", "work"): lambda **given: {"bits": newcomers.work_of(**given)},
    ("server", "invite"): _server_invite,
    ("primitives", "kdf"): kdf,
    ("primitives", "x25519"): x25519,
    ("primitives", "ml-kem key"): kem_key,
    ("primitives", "ml-kem encapsulation"): kem_encapsulate,
    ("primitives", "ml-kem decapsulation"): kem_decapsulate,
    ("primitives", "seal"): seal,
    ("primitives", "poly1305"): poly1305,
    ("primitives", "messagepack"): messagepack,
    ("profile", "profile"): profile_of,
    ("profile", "kem"): kem,
    ("profile", "identity"): identity,
    ("profile", "name"): name,
    ("profile", "address"): address,
    ("prekey", "record"): prekey_record,
    ("prekey", "made"): prekey_made,
    ("prekey", "static key"): static_key,
    ("message", "part"): part,
    ("message", "same message"): same_message,
    ("message", "note"): note,
    ("folder", "folder"): folder_of,
    ("conversation", "id"): conversation_id,
    ("conversation", "random id"): random_id,
    ("conversation", "may have the id"): may_have_id,
    ("conversation", "id of one that goes on"): going_on,
    ("conversation", "may go on under the id"): may_go_on,
    ("conversation", "lifetime taken over"): taken_over,
    ("conversation", "lifetime set"): lifetime_set,
    ("conversation", "end"): end,
}
