"""names-*.json of layouts as the programs' code reads it: see ``tests.support.vector_code``."""

from collections.abc import Callable
from typing import Any

from cbfs.contacts.fingerprint import fingerprint
from cbfs_common.names.changes import HistoryLink, taken_turn, turn_of
from cbfs_common.names.checks import decode_state
from cbfs_common.names.config import config_of
from cbfs_common.names.entry import (
    NO_KEYS,
    Entry,
    Keys,
    Status,
    changes_hash,
    decode_entry,
    decode_round,
    entry_hash,
    name_index,
    operations_hash,
)
from cbfs_common.names.equivocation import decode_equivocation
from cbfs_common.names.feed import Position, decode_tile, position_after
from cbfs_common.names.layout import ZERO
from cbfs_common.names.note import (
    NoteKey,
    cosign,
    parse_checkpoint,
    parse_note,
    parse_note_key,
    sign_checkpoint,
    verify_cosignature,
    verify_log,
)
from cbfs_common.names.operations import (
    Operation,
    OperationKind,
    OperationRefused,
    commitment,
    decode_operation,
    registration_salt,
    sign_receipt,
    verify_receipt,
)
from cbfs_common.names.proofs import Evidence
from cbfs_common.names.registration import (
    Token,
    busy_after,
    check_commit,
    decode_invite,
    parse_token,
    proven,
    waiting_at,
    work_asked,
)
from cbfs_common.names.trees import EMPTY_ROOT, decode_map_proof, extends, includes
from cbfs_common.names.wire import decode_reply, decode_request, encode_reply, encode_request
from cbfs_common.person import Person
from cbfs_common.primitives import sign_public
from cbfs_names.state.block import decode_block, decode_refusal, proposal_text
from cbfs_names.wire import peer_messages
from tests.support.vector_sessions import Refused
from tests.support.vectors import Readers

Given = dict[str, Any]


def need(right: bool) -> Given:
    """A proof that proves nothing is told by False in the programs."""
    if not right:
        raise Refused("unproven")
    return {}


def _shown(keys: Keys) -> tuple[int, tuple[bytes, ...]]:
    return keys.threshold, keys.keys


def _keys(shown: list[Any]) -> Keys:
    return Keys(shown[0], tuple(shown[1]))


def entry(entry: bytes) -> Given:
    found = decode_entry(entry)
    assert found.encode() == entry
    assert found.digest() == entry_hash(entry)
    names = ("incarnation", "version", "expires", "round", "previous", "due", "agent", "profile")
    told = {name: getattr(found, name) for name in names}
    told |= {name: _shown(getattr(found, name)) for name in ("owners", "recovery", "heirs")}
    return told | {"person": found.name, "status": int(found.status), "hash": found.digest()}


def operation(operation: bytes) -> Given:
    found = decode_operation(operation)
    assert found.encode() == operation
    names = ["directory", "incarnation", "version", "previous", "expires", "secret", "agent"]
    names += ["profile", "until", "work", "invite", "terms"]
    told = {name: getattr(found, name) for name in names}
    told |= {"owners": _shown(found.owners), "recovery": _shown(found.recovery)}
    try:
        genuine = found.signers() == {key for key, _ in found.signatures}
    except OperationRefused:
        genuine = False
    told |= {"what": found.kind.name, "person": found.name, "genuine": genuine}
    return told | {"body": found.body(), "signers": [key for key, _ in found.signatures]}


def salt(seed: bytes, directory: bytes, person: str) -> Given:
    return {"salt": registration_salt(seed, Person(directory, person))}


def commit(directory: bytes, person: str, owners: list[Any], salt: bytes) -> Given:
    return {"commitment": commitment(Person(directory, person), _keys(owners), salt)}


# Trees


def map_root(leaves: list[list[bytes]]) -> Given:
    """The programs change a tree that is there: by one leaf after another."""
    from tests.names.test_names_trees import StoredMap

    tree = StoredMap()
    for index, value in leaves:
        tree.update({index: value})
    return {"root": tree.tree().root()}


def map_proof(root: bytes, index: bytes, value: bytes | None, proof: bytes) -> Given:
    found = decode_map_proof(proof)
    assert found.encode() == proof
    return need(found.proves(root, index, value))


def _log(leaves: list[bytes]) -> Position:
    position = Position(0, ())
    for leaf in leaves:
        position = position.add(leaf)
    return position


def log_root(leaves: list[bytes]) -> Given:
    root = _log(leaves).root()
    assert leaves or root == EMPTY_ROOT
    return {"root": root}


def inclusion(number: int, size: int, leaf: bytes, proof: list[bytes], root: bytes) -> Given:
    told = need(includes(number, size, leaf, tuple(proof), root))
    if number == size - 1:
        assert position_after(size, leaf, tuple(proof)).root() == root
    return told


def consistency(
    old_size: int, size: int, old_root: bytes, root: bytes, proof: list[bytes]
) -> Given:
    return need(extends(old_size, size, old_root, root, tuple(proof)))


# Heads, rounds


def checkpoint(text: str) -> Given:
    found = parse_checkpoint(text)
    assert found.encode().decode() == text
    return {"origin": found.origin, "size": found.size, "root": found.root}


def vkey(person: str, key_type: int, key: bytes) -> Given:
    made = NoteKey(person, key_type, key)
    assert parse_note_key(made.encode(), key_type) == made
    return {"vkey": made.encode()}


def log_line(seed: bytes, person: str, text: str) -> Given:
    line = sign_checkpoint(seed, person, text.encode())
    verify_log(NoteKey(person, 1, sign_public(seed)), text.encode(), line.signature)
    return {"line": line.encode()}


def cosignature_line(seed: bytes, person: str, time: int, text: str) -> Given:
    line = cosign(seed, person, time, text.encode())
    key = NoteKey(person, 4, sign_public(seed))
    assert verify_cosignature(key, text.encode(), line.signature) == line.time == time
    return {"line": line.encode()}


def note(note: bytes) -> Given:
    found = parse_note(note)
    assert found.encode() == note
    lines = [(line.name, line.key_id, line.signature) for line in found.lines]
    return {"text": found.text.decode(), "lines": lines}


def round_(round: bytes) -> Given:
    found = decode_round(round)
    assert found.encode() == round
    told = {name: getattr(found, name) for name in ("namespace", "number", "time", "map_root")}
    told |= {f"{n}_hash": getattr(found, n) for n in ("operations", "changes", "config")}
    return told | {"hash": found.digest()}


def block(block: bytes, leaves: list[bytes]) -> Given:
    found = decode_block(block)
    assert found.encode() == block
    leaf = found.round
    root = _log([*leaves, leaf.digest()]).root()
    text = type(parse_checkpoint("a\n0\n" + "A" * 43 + "=\n"))(
        leaf.namespace, leaf.number + 1, root
    )
    told = {"round": leaf.encode(), "signature": found.signature, "operations": found.operations}
    return told | {"signed": proposal_text(text.encode())}


def refusal(refusal: bytes, key: bytes) -> Given:
    found, signature = decode_refusal(refusal)
    found.verify(key, signature)
    told = {"namespace": found.namespace, "reason": int(found.reason)}
    return told | {"number": found.round, "hash": found.leaf}


def evidence(evidence: bytes) -> Given:
    found = decode_equivocation(evidence)
    assert found.encode() == evidence
    return {"proven": found.proven()}


# Registration, comparing


def invite(invite: bytes, registrar: bytes) -> Given:
    found = decode_invite(invite)
    assert found.encode() == invite
    found.verify(registrar)
    told = {name: getattr(found, name) for name in ("directory", "key", "expires")}
    return told | {"person": found.name}


def token(text: str) -> Given:
    found = parse_token(text)
    assert Token(found.seed, found.invite).text() == text
    return {"seed": found.seed, "invite": found.invite.encode()}


def work(commit: bytes, bits: int) -> Given:
    return {"proven": proven(decode_operation(commit), bits)}


def admission(config: str, commit: bytes, time: int, busy: int) -> Given:
    terms = config_of(config).terms
    bits = work_asked(terms, waiting_at(busy, time))
    invite = check_commit(terms, decode_operation(commit), time, bits)
    return {"granted": invite.name if invite else None}


def asked(config: str, time: int, busy: int) -> Given:
    bits = work_asked(config_of(config).terms, waiting_at(busy, time))
    return {"bits": bits, "after": busy_after(busy, time)}


def turn(what: str, time: int, used: int) -> Given:
    kind = OperationKind[what]
    made = Operation(kind, bytes(16), "alice", 1, 2, ZERO, 1, owners=Keys(1, (bytes(32),)))
    entry = Entry("alice", 1, 1, Status.ACTIVE, 1, 1, ZERO, made.owners, NO_KEYS, b"")
    found = turn_of(made, entry)
    assert found is not None
    assert found[0] is kind
    return {"after": taken_turn(used, time, found[1])}


def receipt(seed: bytes, directory: bytes, operation: bytes, time: int) -> Given:
    signature = sign_receipt(seed, directory, operation, time)
    verify_receipt(sign_public(seed), directory, operation, time, signature)
    return {"signature": signature}


def compared(one: bytes, other: bytes) -> Given:
    made = fingerprint(one, other)
    return {"words": made.words, "digits": made.digits}


# The change feed, states, messages


def tile(tile: int, data: bytes) -> Given:
    found = decode_tile(tile, data)
    assert b"".join(each.encode() for each in found) == data
    rounds = [(each.round.number, each.round.digest(), each.changes) for each in found]
    return {"rounds": rounds}


def state(state: bytes) -> Given:
    found = decode_state(state)
    assert found.encode() == state
    told = {"directory": found.directory, "head": found.head.encode(), "time": found.time}
    seen = [each.encode() for each in found.seen]
    return told | {"feed": found.feed.encode(), "seen": seen}


def _message(
    decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]
) -> Callable[[bytes], Given]:
    def read(data: bytes) -> Given:
        found = decode(data)
        assert encode(found) == data
        fields = [_plain(getattr(found, name)) for name in found.__slots__]
        return {"what": type(found).__name__, "fields": fields}

    return read


def _plain(value: Any) -> Any:
    if isinstance(value, Evidence):
        return [value.note, value.round, value.log_proof, value.map_proof, value.entry]
    if isinstance(value, HistoryLink):
        return value.encode()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


READERS: Readers = {
    ("names-entries", "entry"): entry,
    ("names-entries", "index"): lambda directory, person: {"index": name_index(directory, person)},
    ("names-operations", "operation"): operation,
    ("names-operations", "salt"): salt,
    ("names-operations", "commitment"): commit,
    ("names-trees", "map root"): map_root,
    ("names-trees", "map proof"): map_proof,
    ("names-trees", "log root"): log_root,
    ("names-trees", "log inclusion"): inclusion,
    ("names-trees", "log consistency"): consistency,
    ("names-trees", "position"): lambda leaves: {"position": _log(leaves).encode()},
    ("names-heads", "checkpoint"): checkpoint,
    ("names-heads", "vkey"): vkey,
    ("names-heads", "log line"): log_line,
    ("names-heads", "cosignature line"): cosignature_line,
    ("names-heads", "note"): note,
    ("names-rounds", "operations hash"): lambda operations: {
        "hash": operations_hash(tuple(operations))
    },
    ("names-rounds", "changes hash"): lambda changes: {"hash": changes_hash(tuple(changes))},
    ("names-rounds", "round"): round_,
    ("names-rounds", "block"): block,
    ("names-rounds", "refusal"): refusal,
    ("names-evidence", "evidence"): evidence,
    ("names-registration", "invite"): invite,
    ("names-registration", "token"): token,
    ("names-registration", "proof of work"): work,
    ("names-registration", "admission"): admission,
    ("names-registration", "work asked"): asked,
    ("names-registration", "turn"): turn,
    ("names-registration", "receipt"): receipt,
    ("names-fingerprint", "compared"): compared,
    ("names-feed", "tile"): tile,
    ("names-feed", "state"): state,
    ("names-messages", "request"): _message(decode_request, encode_request),
    ("names-messages", "reply"): _message(decode_reply, encode_reply),
    ("names-messages", "between verifiers"): _message(peer_messages.decode, peer_messages.encode),
}
