"""One table of all decoders: what takes bytes or text from a network, a peer, a disk or a user.

Each gives a value or raises one of our errors (``CbfsError``), whatever it is given."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cbfs.account import awaited, claim, leaving, pasted, settings
from cbfs.account.account import SYSTEM_RANDOM
from cbfs.commands.home.moving import cargo, held, messages
from cbfs.contacts import contact, words
from cbfs.messages.lifetimes import Setting
from cbfs.messages.model import Conversation
from cbfs.tree import nodes, texts
from cbfs.tree.virtual import metadata_file
from cbfs_common import onion, person, profile
from cbfs_common.errors import CbfsError
from cbfs_common.limits import LINE_SECRET_SIZE
from cbfs_common.messages import body as message
from cbfs_common.messages import folder
from cbfs_common.names import checks as names_client
from cbfs_common.names import config as names_config
from cbfs_common.names import entry as names_entry
from cbfs_common.names import equivocation as names_audit
from cbfs_common.names import feed as names_feed
from cbfs_common.names import note as names_note
from cbfs_common.names import operations as names_operations
from cbfs_common.names import policy as names_policy
from cbfs_common.names import proofs as names_evidence
from cbfs_common.names import registration as names_registration
from cbfs_common.names import trees
from cbfs_common.names import wire as names_wire
from cbfs_common.primitives import seal
from cbfs_common.session import prekey
from cbfs_common.session.envelope import HANDSHAKE_SIZE, make_outer, seal_envelope
from cbfs_common.session.routes import Routes
from cbfs_common.session.session import decode_session
from cbfs_common.wire import lines, move_line, requests
from cbfs_common.wire.transport import ClientConnection, Frame, ServerConnection, ServerSecret
from cbfs_host import admin
from cbfs_names.state import block
from cbfs_names.wire import peer_messages
from tests.support.talking import LIFE, NOW, opened, party, prekey_of, seeded, started

Decoder = Callable[[bytes], object]

SIZE_MAX = 20_000
"""Bytes that are given to a decoder here: more than any frame has."""

_RANDOM = seeded("fuzz")
_ALICE, _BOB = party(_RANDOM), party(_RANDOM)
_PAIR = prekey_of(_RANDOM)
_STARTED = started(_ALICE, _BOB, _PAIR, _RANDOM)
_ALICES, _FIRST = _STARTED.seal(_ALICE, b"hello", _RANDOM, LIFE)
_BOBS, _ = opened(_BOB, _PAIR, _FIRST)
_BOBS, _LATER = _BOBS.seal(_BOB, b"answer", _RANDOM, LIFE)
_SECRET = bytes(range(1, 33))
_SERVER = ServerSecret(bytes(range(96)))
_TALK = Conversation(bytes(16), ("alice", "bob"), "lunch", 1, "folder", 1, 2)


def _text(parse: Callable[[str], object]) -> Decoder:
    return lambda data: parse(data.decode(errors="surrogateescape"))


def _whole(data: bytes) -> bytes:
    """An envelope out of any bytes: the valid one, with these over its beginning."""
    return _over(data, _LATER)


def _over(data: bytes, good: bytes) -> bytes:
    """The valid bytes, with these over their beginning."""
    return (data + good[len(data) :])[: len(good)]


def _start(handshake: bytes = b"", header: bytes = b"") -> object:
    """A first message of any handshake or terms, sealed by its sender."""
    assert _STARTED.state.sending is not None
    by = _STARTED.state.sending.seal
    inside, rest = by.terms[:HANDSHAKE_SIZE], by.terms[HANDSHAKE_SIZE:]
    kem, inside = _BOB.kem.public(), _over(handshake, inside)
    outer = make_outer(_BOB.identity, _BOB.auth_public, kem, inside, SYSTEM_RANDOM)
    made = replace(by, terms=inside + _over(header, rest))
    return opened(_BOB, _PAIR, seal_envelope(made, 0, bytes(32), b"x", outer))


def _turn(data: bytes) -> object:
    """A turn whose terms are any bytes, sealed by who has its header key."""
    sending = _BOBS.state.sending
    assert sending is not None
    made = replace(sending.seal, terms=_over(data, sending.seal.terms))
    return _ALICES.open(_ALICE, seal_envelope(made, 0, bytes(32), b"x"), NOW)


def _mark(data: bytes) -> object:
    """A mark that says anything, sealed by who has its key."""
    salt = bytes(24)
    sealed = seal(*claim.mark_key(bytes(32), salt), _over(data, bytes(16)))
    return claim.open_mark(salt + sealed, bytes(32))


def _search(data: bytes) -> object:
    routes = Routes()
    routes.update(_ALICES)
    return routes.find(data), routes.search(data)


DECODERS: dict[str, Decoder] = {
    "address": _text(profile.parse_address),
    "answer to an operator": admin.decode_answer,
    "block": block.decode_block,
    "awaited": awaited.decode_awaited,
    "body": message.decode_body,
    "bundle": names_evidence.decode_bundle,
    "checkpoint": _text(names_note.parse_checkpoint),
    "client's transport": lambda data: ClientConnection(
        _SERVER.key, _SECRET, SYSTEM_RANDOM
    ).receive(data),
    "contact": contact.decode_contact,
    "directory configuration": _text(names_config.config_of),
    "directory entry": names_entry.decode_entry,
    "directory evidence": names_audit.decode_equivocation,
    "directory invite": names_registration.decode_invite,
    "directory operation": names_operations.decode_operation,
    "directory policy": _text(names_policy.parse_policy),
    "directory refusal": block.decode_refusal,
    "directory reply": names_wire.decode_reply,
    "directory request": names_wire.decode_request,
    "directory round": names_entry.decode_round,
    "directory state": names_client.decode_state,
    "directory token": _text(names_registration.parse_token),
    "directory verifier": peer_messages.decode,
    "feed": lambda data: names_feed.decode_tile(0, data),
    "envelope": lambda data: _ALICES.open(_ALICE, _whole(data), NOW),
    "first envelope": lambda data: opened(_BOB, _PAIR, _over(data, _FIRST)),
    "folder": lambda data: folder.decode_table(data, folder.table_end(data[:4])),
    "folder of any size": lambda data: folder.decode_table(
        len(data).to_bytes(folder.HEAD_SIZE, "big") + data, SIZE_MAX
    ),
    "folder name": _text(texts.read_folder_name),
    "line": _text(lines.parse_line),
    "line, arrival": lines.decode_arrival,
    "line, record": lines.decode_record,
    "map proof": trees.decode_map_proof,
    "mark": lambda data: claim.open_mark(data, bytes(32)),
    "mark, sealed by its owner": _mark,
    "metadata.toml": metadata_file.read_new,
    "metadata.toml, changed": lambda data: metadata_file.read_changed(data, _TALK, Setting()),
    "move": leaving.decode_leaving,
    "move, arrival": held.decode_begun,
    "move, whole": held.decode_whole,
    "move, line": _text(move_line.parse_move_line),
    "move, manifest": cargo.decode_manifest,
    "move, message": lambda data: messages.decode_message(Frame(sum(data[:1]) % 10, data[1:])),
    "name": _text(person.check_name),
    "node": lambda data: nodes.decode_record(1, data),
    "note": names_note.parse_note,
    "note key": _text(lambda text: names_note.parse_note_key(text, 1)),
    "onion clients": _text(onion.parse_clients),
    "onion key": _text(onion.decode_service_key),
    "part": message.decode_part,
    "pasted": pasted.decode_pasted,
    "prekey": prekey.decode_prekey,
    "prekey pair": prekey.PrekeyPair.decode,
    "profile": profile.decode_profile,
    "push": requests.decode_push,
    "reply": requests.decode_reply,
    "request": requests.decode_request,
    "request of an operator": admin.decode_asked,
    "route": _search,
    "server's transport": lambda data: ServerConnection(_SERVER, SYSTEM_RANDOM).receive(data),
    "session": decode_session,
    "settings": settings.decode,
    "standing": claim.decode_standing,
    "start, handshake": _start,
    "start, header": lambda data: _start(header=data),
    "turn": _turn,
    "words of a seed": _text(words.read_seed_words),
}


def try_it(name: str, data: bytes) -> bool:
    """Whether it gave a value; anything but a value and our errors is raised."""
    try:
        DECODERS[name](data)
    except CbfsError:
        return False
    return True


def samples() -> list[bytes]:
    """Good ones of many kinds, to change: states and envelopes, and all that is in the vectors."""
    found = [_ALICES.encode(), _BOBS.encode(), _FIRST, _LATER, _PAIR.encode(), b"grace = 1\n"]
    address = profile.Address(_SERVER.key, "127.0.0.1", 1_984)
    line = lines.InviteLine(address, _SECRET[:LINE_SECRET_SIZE])
    found += [line.text().encode(), awaited.Awaited(line, NOW).encode()]
    found.append(pasted.Pasted(line, NOW).encode())
    found.append(lines.LineArrival("bob", _SECRET).encode())
    found.append(move_line.MoveLine(_SECRET[:LINE_SECRET_SIZE]).text().encode())
    found.append(leaving.begin_leaving(_RANDOM, "127.0.0.1", 1).encode())
    files = tuple(cargo.CargoFile(each, 1) for each in sorted(cargo.NEEDED))
    found.append(cargo.encode_manifest(files))
    found.append(b"\1" + messages.MoveOffer(8, 1, 1, _SECRET).payload())
    for path in sorted((Path(__file__).parent.parent / "vectors").glob("*.json")):
        _collect(json.loads(path.read_text()), found)
    return sorted({sample[:SIZE_MAX] for sample in found})


def _collect(value: object, found: list[bytes]) -> None:
    if isinstance(value, dict):
        for each in value.values():
            _collect(each, found)
    elif isinstance(value, list):
        for each in value:
            _collect(each, found)
    elif isinstance(value, str) and len(value) > 16:
        try:
            found.append(bytes.fromhex(value))
        except ValueError:
            found.append(value.encode())
