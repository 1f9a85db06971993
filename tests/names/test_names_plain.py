"""What the programs make of the vectors that ``tests.support.names_plain_cases`` has made without
them."""

import json
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import pytest

from cbfs.contacts.fingerprint import fingerprint
from cbfs_common.errors import DecodeError
from cbfs_common.names.checks import decode_state
from cbfs_common.names.config import config_of
from cbfs_common.names.entry import decode_entry, decode_round
from cbfs_common.names.equivocation import decode_equivocation
from cbfs_common.names.feed import FeedRound, Position, decode_tile, follow, read_position
from cbfs_common.names.layout import Fields
from cbfs_common.names.note import Checkpoint, parse_checkpoint
from cbfs_common.names.operations import decode_operation, sign_receipt, verify_receipt
from cbfs_common.names.proofs import decode_bundle
from cbfs_common.names.registration import (
    Invite,
    Token,
    decode_invite,
    parse_token,
    proven,
)
from cbfs_common.names.trees import decode_map_proof
from cbfs_common.names.wire import (
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from cbfs_common.primitives import sign_public, verify
from cbfs_names.state.block import (
    Block,
    Reason,
    SignedRefusal,
    decode_block,
    decode_refusal,
    proposal_text,
)
from cbfs_names.wire import peer_messages
from tests.support import names_plain
from tests.support.names_naive import (
    DIRECTORY,
    NAMESPACE,
)
from tests.support.names_plain_cases import plain_json
from tests.vectors.make_names_vectors import VECTORS

Case = dict[str, Any]


def cases(kind: str, *needs: str) -> list[Case]:
    """Those of a file that have these fields, and ``error`` only if it is one of them."""
    found: list[Case] = json.loads((VECTORS / f"names-{kind}.json").read_text())
    chosen = [
        case
        for case in found
        if set(needs) <= set(case) and ("error" in case) is ("error" in needs)
    ]
    assert chosen
    return chosen


def raw(case: Case, field: str) -> bytes:
    return bytes.fromhex(case[field])


def test_tiles_of_the_feed() -> None:
    for case in cases("feed", "tile"):
        rounds = decode_tile(case["tile"], raw(case, "data"))
        told = [
            {
                "number": each.round.number,
                "changes": [change.hex() for change in each.changes],
                "leaf_hash": each.round.digest().hex(),
            }
            for each in rounds
        ]
        assert told == case["rounds"]
        assert b"".join(each.encode() for each in rounds) == raw(case, "data")
    for case in cases("feed", "tile", "error"):
        with pytest.raises(DecodeError):
            decode_tile(case["tile"], raw(case, "data"))


def test_following_the_feed_from_any_position_to_any_later_one() -> None:
    rounds: list[FeedRound] = []
    for case in cases("feed", "tile"):
        rounds += decode_tile(case["tile"], raw(case, "data"))
    positions = []
    for case in cases("feed", "position"):
        position = read_position(Fields(raw(case, "position"), "a position"))
        assert (position.size, position.root().hex()) == (case["size"], case["root"])
        assert position.encode() == raw(case, "position")
        positions.append(position)
    for number, start in enumerate(positions):
        for end in positions[number:]:
            followed = follow(start, rounds, end.size)
            assert followed.position == end
            changed = {each for at in rounds[start.size : end.size] for each in at.changes}
            assert set(followed.changes) == changed
    with pytest.raises(DecodeError):
        follow(Position(0, ()), rounds, 71)


def test_fingerprints() -> None:
    for case in cases("fingerprint"):
        one, other = map(bytes.fromhex, case["identities"])
        for made in (fingerprint(one, other), fingerprint(other, one)):
            assert (list(made.words), list(made.digits)) == (case["words"], case["digits"])


def test_rounds_blocks_and_refusals() -> None:
    for case in cases("rounds", "block"):
        round_ = decode_round(raw(case, "round"))
        assert round_.encode() == raw(case, "round")
        assert round_.digest() == raw(case, "hash")
        block = decode_block(raw(case, "block"))
        assert block == Block(
            round_, tuple(map(bytes.fromhex, case["operations"])), block.signature
        )
        assert block.encode() == raw(case, "block")
        text = proposal_text(case["checkpoint"].encode())
        verify(sign_public(raw(case, "log_seed")), text, block.signature)
        parsed = parse_checkpoint(case["checkpoint"])
        assert Checkpoint(*astuple(parsed)).encode().decode() == case["checkpoint"]
    for case in cases("rounds", "refusal"):
        refusal, signature = decode_refusal(raw(case, "refusal"))
        reason = Reason(case["reason"])
        assert refusal == SignedRefusal(NAMESPACE, case["number"], raw(case, "hash"), reason)
        refusal.verify(sign_public(raw(case, "verifier_seed")), signature)
        assert refusal.encode(raw(case, "verifier_seed")) == raw(case, "refusal")


REFUSED: list[tuple[str, str, Callable[[bytes], object]]] = [
    ("rounds", "round", decode_round),
    ("rounds", "block", decode_block),
    ("rounds", "refusal", decode_refusal),
    ("registration", "invite", decode_invite),
    ("evidence", "evidence", decode_equivocation),
    ("exchanges", "payload", decode_request),
    ("exchanges", "payload", decode_reply),
    ("exchanges", "payload", peer_messages.decode),
]


@pytest.mark.parametrize(("file", "field", "decode"), REFUSED)
def test_what_no_decoder_takes(file: str, field: str, decode: Callable[[bytes], object]) -> None:
    for case in cases(file, field, "error"):
        with pytest.raises(DecodeError):
            decode(raw(case, field))


def test_configurations() -> None:
    for case in cases("configs", "config"):
        config = config_of(case["config"])
        assert (config.encode(), config.digest().hex()) == (case["config"], case["hash"])
    for case in cases("configs", "config", "error"):
        with pytest.raises(DecodeError):
            config_of(case["config"])


def test_invites_and_proofs_of_work() -> None:
    for case in cases("registration", "invite"):
        invite = decode_invite(raw(case, "invite"))
        seed, registrar = raw(case, "seed"), raw(case, "registrar_seed")
        wanted = Invite(DIRECTORY, sign_public(seed), case["expires"], case["name"])
        assert wanted.signed(registrar) == invite
        invite.verify(sign_public(registrar))
        assert invite.encode() == raw(case, "invite")
        assert parse_token(case["token"]) == Token(seed, invite)
        assert Token(seed, invite).text() == case["token"]
    for case in cases("registration", "commit"):
        commit = decode_operation(raw(case, "commit"))
        assert commit.work == case["work"]
        assert proven(commit, case["bits"])


def test_receipts() -> None:
    for case in cases("receipts"):
        seed, operation = raw(case, "verifier_seed"), raw(case, "operation")
        assert sign_receipt(seed, DIRECTORY, operation, case["time"]) == raw(case, "signature")
        key = sign_public(seed)
        verify(key, raw(case, "signed"), raw(case, "signature"))
        verify_receipt(key, DIRECTORY, operation, case["time"], raw(case, "signature"))


def test_evidence_of_two_histories() -> None:
    for case in cases("evidence", "evidence"):
        found = decode_equivocation(raw(case, "evidence"))
        assert found.encode() == raw(case, "evidence")
        assert found.proven() is case["proven"]


def test_exchanges() -> None:
    codecs: list[tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = [
        (decode_request, encode_request),
        (decode_reply, encode_reply),
        (peer_messages.decode, peer_messages.encode),
    ]
    for case in cases("exchanges", "message"):
        taken = []
        for decode, encode in codecs:
            try:
                message = decode(raw(case, "payload"))
            except DecodeError:
                continue
            taken.append(type(message).__name__)
            assert encode(message) == raw(case, "payload")
            fields = [getattr(message, name) for name in message.__slots__]
            assert plain_json(fields) == case["fields"]
        assert taken == [case["message"]], "one decoder takes it"


def test_states_of_a_client() -> None:
    for case in cases("states", "state"):
        state = decode_state(raw(case, "state"))
        assert state.directory == DIRECTORY
        assert (state.head.size, state.time, state.feed.size) == (
            case["head"],
            case["time"],
            case["feed"],
        )
        assert [each.size for each in state.seen] == case["seen"]
        assert state.encode() == raw(case, "state")
    for case in cases("states", "state", "error"):
        with pytest.raises(DecodeError):
            decode_state(raw(case, "state"))


def test_the_other_vectors_by_hand() -> None:
    for case in cases("entries", "entry"):
        assert names_plain.entry(decode_entry(raw(case, "entry"))) == raw(case, "entry")
    for case in cases("operations", "operation"):
        found = decode_operation(raw(case, "operation"))
        assert names_plain.operation(found) == raw(case, "operation")
    for case in cases("bundles", "bundle"):
        directory, evidence, links = decode_bundle(raw(case, "bundle"))
        assert names_plain.bundle(directory, evidence, links) == raw(case, "bundle")
    for case in cases("map", "proofs"):
        for each in case["proofs"]:
            proof = decode_map_proof(raw(each, "proof"))
            assert names_plain.map_proof(proof) == raw(each, "proof")
